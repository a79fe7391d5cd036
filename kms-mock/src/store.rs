//! Everything that outlives the process: tables of records, all of them in memory, and every change in an embedded database before
//! it is seen or answered.
//!
//! Only changes touch the database; encrypting and decrypting never do. A change is one transaction over any number of tables: it
//! is made whole or, when it is refused or cannot be written, not at all.

mod files;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use uuid::Uuid;

use crate::access::{AccessKey, AccessPoint, ResourceType};
use crate::certificate::{ManagedCertificate, Tombstone, UkeyCertificate};
use crate::clock::Timestamp;
use crate::error::Code;
use crate::import_token::ImportToken;
use crate::key::{Alias, Key};
use crate::random::Random;
use crate::tag::{Pair, Tag};

pub use files::{private_directory, private_file};
use table::AnyTable;
pub use table::{Record, Table};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SCHEMA: &str = "schema";
const SCHEMA_VERSION: u64 = 3;

/// The database file within the directory of the store.
const FILE: &str = "kms.redb";

/// All records of the mock.
#[derive(Default)]
pub struct State {
    pub keys: Table<Key>,
    pub aliases: Table<Alias>,
    pub import_tokens: Table<ImportToken>,
    pub access_points: Table<AccessPoint>,
    pub access_keys: Table<AccessKey>,
    pub tags: Table<Tag>,
    pub certificates: Table<ManagedCertificate>,
    pub ukey_certificates: Table<UkeyCertificate>,
    pub tombstones: Table<Tombstone>,
}

impl State {
    fn tables(&mut self) -> [&mut dyn AnyTable; 9] {
        [
            &mut self.keys,
            &mut self.aliases,
            &mut self.import_tokens,
            &mut self.access_points,
            &mut self.access_keys,
            &mut self.tags,
            &mut self.certificates,
            &mut self.ukey_certificates,
            &mut self.tombstones,
        ]
    }

    /// The key an alias points at.
    pub fn key_by_alias(&self, alias: &str) -> Option<&Arc<Key>> {
        self.aliases.get(alias).and_then(|alias| self.keys.get(&alias.cmk_uuid))
    }

    /// Deletes a key for good, with all that hangs on it. Permissions that name it stay: a list that became empty would open
    /// everything, and ids do not come again.
    pub fn delete_key(&mut self, id: &str) {
        let aliases: Vec<_> =
            self.aliases.iter().filter(|alias| alias.cmk_uuid == id).map(|alias| alias.name.clone()).collect();
        for alias in aliases {
            self.aliases.remove(&alias);
        }
        let tokens: Vec<_> =
            self.import_tokens.iter().filter(|token| token.cmk_uuid == id).map(|token| token.token.clone()).collect();
        for token in tokens {
            self.import_tokens.remove(&token);
        }
        self.unbind_all(ResourceType::Cmk, id);
        self.keys.remove(id);
    }

    /// Deletes an access point with its credentials, whose names it returns.
    pub fn delete_access_point(&mut self, id: &str) -> Vec<String> {
        let keys: Vec<_> =
            self.access_keys.iter().filter(|key| key.access_point_id == id).map(|key| key.access_key.clone()).collect();
        for key in &keys {
            self.access_keys.remove(key);
        }
        self.access_points.remove(id);
        keys
    }

    /// Does what is due by time alone.
    fn age(&mut self, now: Timestamp, random: &Random) {
        for key in self.keys.due(now) {
            match key.aged(now, random) {
                Some(key) => drop(self.keys.put(key)),
                None => self.delete_key(&key.id),
            }
        }
        for token in self.import_tokens.due(now) {
            self.import_tokens.remove(&token.token);
        }
        for tombstone in self.tombstones.due(now) {
            self.tombstones.remove(&tombstone.id);
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} is open to other users (mode {mode:03o}); it holds keys and must be private")]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("cannot use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("database of keys: {0}")]
    Database(String),
    #[error("the database of keys has schema {found}, this version reads 1 to {SCHEMA_VERSION}")]
    Schema { found: u64 },
    #[error("row {id} of table {table} in the database cannot be read: {reason}")]
    BadRow { table: &'static str, id: String, reason: String },
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

impl From<Code> for ChangeError {
    fn from(code: Code) -> Self {
        ChangeError::Refused(code)
    }
}

pub struct Store {
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// No record changes by time alone before this moment. It may be early, never late.
    next_tick: Option<Timestamp>,
    /// `None` for a store in memory.
    database: Option<Database>,
}

impl Store {
    pub fn in_memory() -> Self {
        Store { inner: Mutex::new(Inner { state: State::default(), next_tick: None, database: None }) }
    }

    /// Opens or makes the database in a private directory.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        // redb locks the file, so that two mocks never share one.
        let file = FileBackend::new(private_file(&directory.join(FILE))?).map_err(StoreError::database)?;
        let database = Database::builder().create_with_backend(file).map_err(StoreError::database)?;
        prepare(&database)?;
        let mut state = State::default();
        let transaction = database.begin_read().map_err(StoreError::database)?;
        for table in state.tables() {
            table.load(&transaction)?;
        }
        let next_tick = state.tables().into_iter().filter_map(|table| table.next_due()).min();
        Ok(Store { inner: Mutex::new(Inner { state, next_tick, database: Some(database) }) })
    }

    /// Looks at the records. `look` must be quick: everybody waits for it.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock().state)
    }

    /// Changes records as one step: `change` sees them as they are and may refuse; then nothing has changed.
    pub fn change<R, E: From<StoreError>>(&self, change: impl FnOnce(&mut State) -> Result<R, E>) -> Result<R, E> {
        self.lock().change(change)
    }

    pub fn key(&self, id: &str) -> Option<Arc<Key>> {
        self.read(|state| state.keys.get(id).cloned())
    }

    pub fn key_by_alias(&self, alias: &str) -> Option<Arc<Key>> {
        self.read(|state| state.key_by_alias(alias).cloned())
    }

    /// All keys, ordered by creation and id.
    pub fn keys(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self.read(|state| state.keys.iter().cloned().collect());
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        keys
    }

    /// Changes one key.
    pub fn change_key(
        &self,
        id: &str,
        change: impl FnOnce(&mut Key) -> Result<(), Code>,
    ) -> Result<Arc<Key>, ChangeError> {
        self.change(|state| {
            let mut key = state.keys.get(id).ok_or(ChangeError::NoSuchKey)?.as_ref().clone();
            change(&mut key)?;
            Ok(state.keys.put(key))
        })
    }

    /// Does what is due by time alone: deletes keys whose window has ended, rotates keys, lets imported material expire.
    pub fn tick(&self, now: Timestamp, random: &Random) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.next_tick.is_none_or(|next| now < next) {
            return Ok(());
        }
        inner.change(|state| {
            state.age(now, random);
            Ok::<_, StoreError>(())
        })?;
        inner.next_tick = inner.state.tables().into_iter().filter_map(|table| table.next_due()).min();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // What a panic left half done is undone before anybody sees it.
        inner.roll_back();
        inner
    }
}

impl Inner {
    fn change<R, E: From<StoreError>>(&mut self, change: impl FnOnce(&mut State) -> Result<R, E>) -> Result<R, E> {
        let result = change(&mut self.state).and_then(|result| Ok(self.write().map(|()| result)?));
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Writes what has changed in one transaction, on disk when it returns.
    fn write(&mut self) -> Result<(), StoreError> {
        if let Some(database) = &self.database {
            let transaction = database.begin_write().map_err(StoreError::database)?;
            for table in self.state.tables() {
                table.write(&transaction)?;
            }
            transaction.commit().map_err(StoreError::database)?;
        }
        for table in self.state.tables() {
            let due = table.settle();
            self.next_tick = self.next_tick.into_iter().chain(due).min();
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        for table in self.state.tables() {
            table.roll_back();
        }
    }
}

/// Makes the tables of a new database, converts one of an older schema, and refuses one of a newer.
fn prepare(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(StoreError::database)?;
    {
        let mut meta = transaction.open_table(META).map_err(StoreError::database)?;
        let found = meta.get(SCHEMA).map_err(StoreError::database)?.map(|found| found.value());
        match found {
            None | Some(SCHEMA_VERSION) => {}
            Some(1) => {
                convert_aliases(&transaction)?;
                convert_tags(&transaction)?;
            }
            Some(2) => convert_tags(&transaction)?,
            Some(found) => return Err(StoreError::Schema { found }),
        }
        for table in State::default().tables() {
            table.create(&transaction)?;
        }
        meta.insert(SCHEMA, SCHEMA_VERSION).map_err(StoreError::database)?;
    }
    transaction.commit().map_err(StoreError::database)
}

/// Schema 1 kept aliases as text to text.
fn convert_aliases(transaction: &WriteTransaction) -> Result<(), StoreError> {
    const OLD: TableDefinition<&str, &str> = TableDefinition::new("aliases");
    let mut aliases = Table::<Alias>::default();
    for row in transaction.open_table(OLD).map_err(StoreError::database)?.iter().map_err(StoreError::database)? {
        let (name, id) = row.map_err(StoreError::database)?;
        aliases.put(Alias { name: name.value().to_owned(), cmk_uuid: id.value().to_owned() });
    }
    transaction.delete_table(OLD).map_err(StoreError::database)?;
    aliases.write(transaction)
}

/// Schemas 1 and 2 kept tags within the keys, where nobody saw them again.
fn convert_tags(transaction: &WriteTransaction) -> Result<(), StoreError> {
    #[derive(serde::Deserialize)]
    struct Old {
        #[serde(default)]
        tags: Vec<Pair>,
    }
    let keys: TableDefinition<&str, &[u8]> = TableDefinition::new(<Key as Record>::TABLE);
    let mut state = State::default();
    for row in transaction.open_table(keys).map_err(StoreError::database)?.iter().map_err(StoreError::database)? {
        let (id, json) = row.map_err(StoreError::database)?;
        let old: Old = serde_json::from_slice(json.value()).map_err(|error| StoreError::BadRow {
            table: <Key as Record>::TABLE,
            id: id.value().to_owned(),
            reason: error.to_string(),
        })?;
        // What is illegal by now, or gives a key a second value, is left behind.
        for pair in old.tags.iter().filter(|pair| pair.is_legal()) {
            let _ = state.tag_resource(pair, || Uuid::new_v4().to_string(), ResourceType::Cmk, id.value());
        }
    }
    state.tags.write(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KMS_0203;
    use crate::key::{DAY, KeySpec, Protection, Rotation};

    fn random() -> Random {
        Random::from_seed("store")
    }

    fn key(random: &Random) -> Key {
        Key::generate(KeySpec::Aes256, Protection::Software, 1, random)
    }

    fn insert(store: &Store, key: Key, alias: Option<&str>) -> Arc<Key> {
        store
            .change(|state| {
                if let Some(name) = alias {
                    state.aliases.put(Alias { name: name.to_owned(), cmk_uuid: key.id.clone() });
                }
                Ok::<_, StoreError>(state.keys.put(key))
            })
            .expect("stored")
    }

    #[test]
    fn changes_survive_a_restart() {
        let (directory, random) = (tempfile::tempdir().expect("a directory"), random());
        let store = Store::open(directory.path()).expect("opens");
        let kept = insert(&store, key(&random), Some("alias/kept"));
        let deleted = insert(&store, key(&random), Some("alias/deleted"));
        let describe = |key: &mut Key| {
            key.description = "changed".into();
            Ok(())
        };
        store.change_key(&kept.id, describe).expect("changed");
        store
            .change(|state| {
                state.delete_key(&deleted.id);
                Ok::<_, StoreError>(())
            })
            .expect("deleted");
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Database(_))), "one mock at a time");
        drop(store);
        let store = Store::open(directory.path()).expect("opens again");
        assert_eq!(store.keys().len(), 1);
        assert_eq!(store.key_by_alias("alias/kept").expect("alias").description, "changed");
        assert!(store.key_by_alias("alias/deleted").is_none() && store.key(&deleted.id).is_none());
    }

    #[test]
    fn a_refused_change_is_not_made() {
        let (store, random) = (Store::in_memory(), random());
        let id = insert(&store, key(&random), Some("alias/a")).id.clone();
        let refused = store.change(|state| {
            state.delete_key(&id);
            state.keys.put(key(&random));
            state.aliases.put(Alias { name: "alias/a".into(), cmk_uuid: "x".into() });
            Err::<(), _>(ChangeError::from(KMS_0203))
        });
        assert!(matches!(refused, Err(ChangeError::Refused(_))));
        assert_eq!(store.key_by_alias("alias/a").expect("still there").id, id);
        assert_eq!(store.keys().len(), 1);
        assert!(matches!(store.change_key("x", |_| Ok(())), Err(ChangeError::NoSuchKey)));
    }

    #[test]
    fn a_change_that_panics_is_not_made() {
        let (store, random) = (Store::in_memory(), random());
        let id = insert(&store, key(&random), None).id.clone();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = store.change(|state| -> Result<(), StoreError> {
                state.keys.remove(&id);
                panic!("on purpose")
            });
        }));
        assert!(result.is_err() && store.key(&id).is_some());
    }

    #[test]
    fn time_deletes_and_rotates() {
        let (store, random) = (Store::in_memory(), random());
        let dying = insert(&store, Key { delete_at: Some(100), ..key(&random) }, Some("alias/dying"));
        let rotation = Some(Rotation { interval_days: 7, next: 200 });
        let rotating = insert(&store, Key { rotation, ..key(&random) }, None);
        store.tick(99, &random).expect("ticks");
        assert!(store.key(&dying.id).is_some());
        store.tick(100, &random).expect("ticks");
        assert!(store.key(&dying.id).is_none() && store.key_by_alias("alias/dying").is_none());
        store.tick(200, &random).expect("ticks");
        let rotated = store.key(&rotating.id).expect("key");
        assert_eq!(rotated.versions.len(), 2);
        assert_ne!(rotated.primary().expect("version").id, rotating.primary().expect("version").id);
        assert!(rotated.version(&rotating.primary().expect("version").id).is_some());
        assert_eq!(rotated.due(), Some(200 + 7 * DAY));
    }

    #[test]
    fn damage_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE);
        std::fs::write(&path, vec![7; 8192]).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
        assert!(matches!(Store::open(directory.path()), Err(StoreError::Database(_))));
    }

    #[test]
    fn the_first_schema_is_converted() {
        let (directory, random) = (tempfile::tempdir().expect("a directory"), random());
        let key = key(&random);
        {
            let file = private_file(&directory.path().join(FILE)).expect("made");
            let backend = FileBackend::new(file).expect("locked");
            let database = Database::builder().create_with_backend(backend).expect("made");
            let transaction = database.begin_write().expect("begins");
            {
                let mut meta = transaction.open_table(META).expect("a table");
                meta.insert(SCHEMA, 1).expect("written");
                let aliases: TableDefinition<&str, &str> = TableDefinition::new("aliases");
                let mut aliases = transaction.open_table(aliases).expect("a table");
                aliases.insert("alias/old", key.id.as_str()).expect("written");
                let keys: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
                let mut keys = transaction.open_table(keys).expect("a table");
                let mut json = serde_json::json!(key);
                json["tags"] = serde_json::json!([{"tagKey": "a", "tagValue": "b"}, {"tagKey": "a", "tagValue": "c"}]);
                keys.insert(key.id.as_str(), json.to_string().as_bytes()).expect("written");
            }
            transaction.commit().expect("committed");
        }
        let store = Store::open(directory.path()).expect("opens");
        assert_eq!(store.key_by_alias("alias/old").expect("converted").id, key.id);
        let tags: Vec<_> = store.read(|state| state.tags.iter().cloned().collect());
        assert_eq!((tags.len(), tags[0].value.as_str()), (1, "b"), "one value per key");
        assert!(tags[0].bound.contains(&(ResourceType::Cmk, key.id.clone())));
        drop(store);
        assert!(Store::open(directory.path()).expect("opens again").key_by_alias("alias/old").is_some());
    }
}
