//! The keys and aliases: all of them in memory, and every change in an embedded database before it is seen or answered.
//!
//! Only changes touch the database; encrypting and decrypting never do. A change that cannot be written is not made.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::error::Code;
use crate::key::{DAY, Key, KeyState};

/// `cmkUuid` to the key as JSON.
const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
/// Alias to `cmkUuid`.
const ALIASES: TableDefinition<&str, &str> = TableDefinition::new("aliases");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SCHEMA: &str = "schema";
const SCHEMA_VERSION: u64 = 1;

/// The database file within the directory of the store.
const FILE: &str = "kms.redb";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} is open to other users (mode {mode:03o}); it holds keys and must be private")]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("database of keys: {0}")]
    Database(String),
    #[error("the database of keys has schema {found}, this version reads {SCHEMA_VERSION}")]
    Schema { found: u64 },
    #[error("key {id} in the database cannot be read: {reason}")]
    BadKey { id: String, reason: String },
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

impl StoreError {
    fn database(error: impl std::fmt::Display) -> Self {
        StoreError::Database(error.to_string())
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("no such key")]
    NoSuchKey,
    #[error("refused with {}", .0.code)]
    Refused(Code),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub struct Store {
    inner: Mutex<Inner>,
}

struct Inner {
    keys: HashMap<String, Arc<Key>>,
    aliases: BTreeMap<String, String>,
    /// No key changes by time alone before this moment.
    next_tick: Option<Timestamp>,
    /// `None` for a store in memory.
    database: Option<Database>,
}

impl Store {
    pub fn in_memory() -> Self {
        Store::with(None, HashMap::new(), BTreeMap::new())
    }

    /// Opens or makes the database in a private directory.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        // redb locks the file, so that two mocks never share one.
        let file = FileBackend::new(private_file(&directory.join(FILE))?).map_err(StoreError::database)?;
        let database = Database::builder().create_with_backend(file).map_err(StoreError::database)?;
        prepare(&database)?;
        let (keys, aliases) = load(&database)?;
        Ok(Store::with(Some(database), keys, aliases))
    }

    fn with(database: Option<Database>, keys: HashMap<String, Arc<Key>>, aliases: BTreeMap<String, String>) -> Self {
        let mut inner = Inner { keys, aliases, next_tick: None, database };
        inner.plan_tick();
        Store { inner: Mutex::new(inner) }
    }

    pub fn key(&self, id: &str) -> Option<Arc<Key>> {
        self.lock().keys.get(id).cloned()
    }

    /// The key an alias points at.
    pub fn key_by_alias(&self, alias: &str) -> Option<Arc<Key>> {
        let inner = self.lock();
        inner.aliases.get(alias).and_then(|id| inner.keys.get(id)).cloned()
    }

    /// All keys, ordered by creation and id.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self.lock().keys.values().cloned().collect();
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        keys
    }

    /// Adds a key, and an alias for it if one is given.
    pub fn insert(&self, key: Key, alias: Option<&str>) -> Result<Arc<Key>, StoreError> {
        let mut inner = self.lock();
        inner.write(&[&key], &[], alias.map(|alias| (alias, key.id.as_str())))?;
        let key = Arc::new(key);
        inner.keys.insert(key.id.clone(), key.clone());
        if let Some(alias) = alias {
            inner.aliases.insert(alias.to_owned(), key.id.clone());
        }
        inner.plan_tick();
        Ok(key)
    }

    /// Changes a key as one step: `change` sees the key as it is and may refuse.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Key) -> Result<(), Code>) -> Result<Arc<Key>, ChangeError> {
        let mut inner = self.lock();
        let mut key = inner.keys.get(id).ok_or(ChangeError::NoSuchKey)?.as_ref().clone();
        change(&mut key).map_err(ChangeError::Refused)?;
        inner.write(&[&key], &[], None)?;
        let key = Arc::new(key);
        inner.keys.insert(id.to_owned(), key.clone());
        inner.plan_tick();
        Ok(key)
    }

    /// Deletes a key for good, with its aliases.
    pub fn delete(&self, id: &str) -> Result<(), ChangeError> {
        let mut inner = self.lock();
        if !inner.keys.contains_key(id) {
            return Err(ChangeError::NoSuchKey);
        }
        inner.delete(&[id.to_owned()])?;
        inner.plan_tick();
        Ok(())
    }

    /// Does what is due by time alone: deletes keys whose window has ended, rotates keys.
    pub fn tick(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.next_tick.is_none_or(|next| now < next) {
            return Ok(());
        }
        let due: Vec<Arc<Key>> =
            inner.keys.values().filter(|key| key.next_change().is_some_and(|at| at <= now)).cloned().collect();
        let (dead, rotating): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|key| key.state() == KeyState::PendingDeletion);
        inner.delete(&dead.iter().map(|key| key.id.clone()).collect::<Vec<_>>())?;
        for key in rotating {
            let mut key = key.as_ref().clone();
            key.rotate(now)?;
            if let Some(rotation) = &mut key.rotation {
                rotation.next = now + i64::from(rotation.interval_days) * DAY;
            }
            inner.write(&[&key], &[], None)?;
            inner.keys.insert(key.id.clone(), Arc::new(key));
        }
        inner.plan_tick();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Memory changes only after the database has, by single inserts and removes: a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn plan_tick(&mut self) {
        self.next_tick = self.keys.values().filter_map(|key| key.next_change()).min();
    }

    fn delete(&mut self, ids: &[String]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write(&[], ids, None)?;
        for id in ids {
            self.keys.remove(id);
        }
        self.aliases.retain(|_, target| !ids.contains(target));
        Ok(())
    }

    /// One transaction, on disk when it returns.
    fn write(&self, put: &[&Key], delete: &[String], alias: Option<(&str, &str)>) -> Result<(), StoreError> {
        let Some(database) = &self.database else { return Ok(()) };
        let transaction = database.begin_write().map_err(StoreError::database)?;
        {
            let mut keys = transaction.open_table(KEYS).map_err(StoreError::database)?;
            let mut aliases = transaction.open_table(ALIASES).map_err(StoreError::database)?;
            for key in put {
                let json = Zeroizing::new(serde_json::to_vec(key).map_err(StoreError::database)?);
                keys.insert(key.id.as_str(), json.as_slice()).map_err(StoreError::database)?;
            }
            for id in delete {
                keys.remove(id.as_str()).map_err(StoreError::database)?;
                for (alias, _) in self.aliases.iter().filter(|(_, target)| *target == id) {
                    aliases.remove(alias.as_str()).map_err(StoreError::database)?;
                }
            }
            if let Some((alias, id)) = alias {
                aliases.insert(alias, id).map_err(StoreError::database)?;
            }
        }
        transaction.commit().map_err(StoreError::database)
    }
}

/// Makes the tables of a new database and refuses one of another schema.
fn prepare(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(StoreError::database)?;
    {
        transaction.open_table(KEYS).map_err(StoreError::database)?;
        transaction.open_table(ALIASES).map_err(StoreError::database)?;
        let mut meta = transaction.open_table(META).map_err(StoreError::database)?;
        let found = meta.get(SCHEMA).map_err(StoreError::database)?.map(|found| found.value());
        match found {
            None => drop(meta.insert(SCHEMA, SCHEMA_VERSION).map_err(StoreError::database)?),
            Some(SCHEMA_VERSION) => {}
            Some(found) => return Err(StoreError::Schema { found }),
        }
    }
    transaction.commit().map_err(StoreError::database)
}

type Loaded = (HashMap<String, Arc<Key>>, BTreeMap<String, String>);

fn load(database: &Database) -> Result<Loaded, StoreError> {
    let transaction = database.begin_read().map_err(StoreError::database)?;
    let mut keys = HashMap::new();
    for row in transaction.open_table(KEYS).map_err(StoreError::database)?.iter().map_err(StoreError::database)? {
        let (id, json) = row.map_err(StoreError::database)?;
        let id = id.value().to_owned();
        let key: Key = serde_json::from_slice(json.value())
            .map_err(|error| StoreError::BadKey { id: id.clone(), reason: error.to_string() })?;
        keys.insert(id, Arc::new(key));
    }
    let mut aliases = BTreeMap::new();
    for row in transaction.open_table(ALIASES).map_err(StoreError::database)?.iter().map_err(StoreError::database)? {
        let (alias, id) = row.map_err(StoreError::database)?;
        aliases.insert(alias.value().to_owned(), id.value().to_owned());
    }
    Ok((keys, aliases))
}

/// Makes a directory with mode 0700, or checks that an existing one is closed to others.
pub fn private_directory(path: &Path) -> Result<(), StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => require_private(path, &std::fs::metadata(path).map_err(file_error)?),
        Err(source) => Err(file_error(source)),
    }
}

/// Opens a file for reading and writing; a new one gets mode 0600, an existing one must be closed to others.
pub fn private_file(path: &Path) -> Result<File, StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(file_error)?;
    require_private(path, &file.metadata().map_err(file_error)?)?;
    Ok(file)
}

fn require_private(path: &Path, metadata: &std::fs::Metadata) -> Result<(), StoreError> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::NotPrivate { path: path.to_owned(), mode });
    }
    if !metadata.is_dir() && metadata.nlink() > 1 {
        let source = io::Error::other("the file has more than one name");
        return Err(StoreError::File { path: path.to_owned(), source });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeySpec, Protection, Rotation};

    fn private() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn key() -> Key {
        Key::generate(KeySpec::Aes256, Protection::Software, 1).expect("random source")
    }

    #[test]
    fn changes_survive_a_restart() {
        let directory = private();
        let store = Store::open(directory.path()).expect("opens");
        let kept = store.insert(key(), Some("alias/kept")).expect("stored");
        let deleted = store.insert(key(), Some("alias/deleted")).expect("stored");
        store
            .change(&kept.id, |key| {
                key.description = "changed".into();
                Ok(())
            })
            .expect("changed");
        store.delete(&deleted.id).expect("deleted");
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Database(_))), "one mock at a time");
        drop(store);
        let store = Store::open(directory.path()).expect("opens again");
        assert_eq!(store.keys().len(), 1);
        assert_eq!(store.key_by_alias("alias/kept").expect("alias").description, "changed");
        assert!(store.key_by_alias("alias/deleted").is_none() && store.key(&deleted.id).is_none());
        let mode = std::fs::metadata(directory.path().join(FILE)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_refused_change_is_not_made() {
        let store = Store::in_memory();
        let id = store.insert(key(), None).expect("stored").id.clone();
        let refused = store.change(&id, |key| {
            key.description = "changed".into();
            Err(crate::error::KMS_0203)
        });
        assert!(matches!(refused, Err(ChangeError::Refused(_))));
        assert_eq!(store.key(&id).expect("key").description, "");
        assert!(matches!(store.delete("x"), Err(ChangeError::NoSuchKey)));
    }

    #[test]
    fn time_deletes_and_rotates() {
        let store = Store::in_memory();
        let dying = store.insert(Key { delete_at: Some(100), ..key() }, Some("alias/dying")).expect("stored");
        let rotating = Key { rotation: Some(Rotation { interval_days: 7, next: 200 }), ..key() };
        let rotating = store.insert(rotating, None).expect("stored");
        store.tick(99).expect("ticks");
        assert!(store.key(&dying.id).is_some());
        store.tick(100).expect("ticks");
        assert!(store.key(&dying.id).is_none() && store.key_by_alias("alias/dying").is_none());
        store.tick(200).expect("ticks");
        let rotated = store.key(&rotating.id).expect("key");
        assert_eq!(rotated.versions.len(), 2);
        assert_ne!(rotated.primary().expect("version").id, rotating.primary().expect("version").id);
        assert!(rotated.version(&rotating.primary().expect("version").id).is_some());
        assert_eq!(rotated.next_change(), Some(200 + 7 * DAY));
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let directory = private();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).expect("mode");
        assert!(matches!(private_directory(&open), Err(StoreError::NotPrivate { .. })));
        let made = directory.path().join("a/b");
        private_directory(&made).expect("made");
        assert_eq!(std::fs::metadata(&made).expect("there").permissions().mode() & 0o777, 0o700);
        let file = directory.path().join(FILE);
        std::fs::write(&file, "").expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("mode");
        assert!(matches!(Store::open(directory.path()), Err(StoreError::NotPrivate { .. })));
    }

    #[test]
    fn damage_is_an_error() {
        let directory = private();
        std::fs::write(directory.path().join(FILE), vec![7; 8192]).expect("written");
        std::fs::set_permissions(directory.path().join(FILE), PermissionsExt::from_mode(0o600)).expect("mode");
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Database(_))));
    }
}
