//! The TOML file: its tables, where it may lie, and who may read and write it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::value::{ProfileName, SecretText, Span};
use super::{ConfigError, Durability, KeySettings, MountSettings};

/// More than any configuration has.
pub(super) const FILE_MAX: u64 = 1024 * 1024;

pub(super) struct ConfigFile {
    pub path: PathBuf,
    pub tables: Tables,
}

/// The file as it is written. Unknown fields are refused, so that a misspelt one is not a silent default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tables {
    pub kms: KmsTable,
    pub keys: KeysTable,
    pub mount: MountTable,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KmsTable {
    pub endpoint: Option<String>,
    pub key_id: Option<String>,
    pub profile: Option<ProfileName>,
    pub access_key: Option<SecretText>,
    pub secret_key: Option<SecretText>,
    pub allowed_key_ids: Option<Vec<String>>,
    pub ca_file: Option<PathBuf>,
    pub proxy: Option<String>,
    pub max_inflight: Option<usize>,
    pub rate: Option<f64>,
    pub timeout_ms: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KeysTable {
    capacity: Option<usize>,
    key_ttl: Option<Span>,
    idle_ttl: Option<Span>,
    offline_ttl: Option<Span>,
    negative_ttl: Option<Span>,
    deadline: Option<Span>,
    pool_target: Option<usize>,
    pool_max: Option<usize>,
    files_per_data_key: Option<u32>,
    prefetch: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MountTable {
    durability: Option<Durability>,
    fuse_loops: Option<usize>,
    io_uring: Option<bool>,
    allow_other: Option<bool>,
}

impl From<KeysTable> for KeySettings {
    fn from(table: KeysTable) -> Self {
        let time = |span: Option<Span>| span.map(|span| span.0);
        Self {
            capacity: table.capacity,
            key_ttl: time(table.key_ttl),
            idle_ttl: time(table.idle_ttl),
            offline_ttl: time(table.offline_ttl),
            negative_ttl: time(table.negative_ttl),
            deadline: time(table.deadline),
            pool_target: table.pool_target,
            pool_max: table.pool_max,
            files_per_data_key: table.files_per_data_key,
            prefetch: table.prefetch,
        }
    }
}

impl From<MountTable> for MountSettings {
    fn from(table: MountTable) -> Self {
        Self {
            durability: table.durability,
            fuse_loops: table.fuse_loops,
            io_uring: table.io_uring,
            allow_other: table.allow_other,
        }
    }
}

impl ConfigFile {
    /// The first of `paths` that exists.
    pub(super) fn first_of(paths: &[PathBuf]) -> Result<Option<Self>, ConfigError> {
        for path in paths {
            match Self::read(path) {
                Err(ConfigError::Read { source, .. }) if is_absent(&source) => (),
                result => return result.map(Some),
            }
        }
        Ok(None)
    }

    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        // Not to hang on a FIFO. What was opened is what is checked.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check_writers(path, &metadata, rustix::process::geteuid().as_raw())?;
        let text = read_text(path, file, &metadata)?;
        let tables = parse(&text).map_err(|(line, what)| ConfigError::Syntax { path: path.to_owned(), line, what })?;
        if tables.kms.access_key.is_some() || tables.kms.secret_key.is_some() {
            check_readers(path, &metadata)?;
        }
        Ok(Self { path: path.to_owned(), tables })
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whoever can change the file can name another KMS.
fn check_writers(path: &Path, metadata: &Metadata, us: u32) -> Result<(), ConfigError> {
    let path = path.to_owned();
    if !metadata.is_file() {
        return Err(ConfigError::NotAFile { path });
    }
    if metadata.len() > FILE_MAX {
        return Err(ConfigError::TooLong { path });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != us {
        return Err(ConfigError::Owner { path, owner, us });
    }
    match metadata.mode() & 0o7777 {
        mode if mode & 0o022 != 0 => Err(ConfigError::Mode { path, mode, what: "change", wanted: "go-w" }),
        _ => Ok(()),
    }
}

fn check_readers(path: &Path, metadata: &Metadata) -> Result<(), ConfigError> {
    match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => {
            Err(ConfigError::Mode { path: path.to_owned(), mode, what: "read the secret key in", wanted: "600" })
        }
        _ => Ok(()),
    }
}

/// Into a buffer that does not grow, so that no copy of a secret is left behind.
fn read_text(path: &Path, file: File, metadata: &Metadata) -> Result<Zeroizing<String>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::with_capacity(metadata.len() as usize + 1));
    file.take(metadata.len()).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// On failure: line and what is wrong with it. The text of the line is left out, since it may be the secret; its field's
/// name is given.
fn parse(text: &str) -> Result<Tables, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let number = before.matches('\n').count();
        let line = text.lines().nth(number).unwrap_or_default();
        let what = error.message().to_owned();
        match line.split_once('=').map(|(name, _)| name.trim()).filter(|name| is_bare_key(name)) {
            Some(name) if !what.contains(name) => (number + 1, format!("{name}: {what}")),
            _ => (number + 1, what),
        }
    })
}

fn is_bare_key(name: &str) -> bool {
    !name.is_empty() && name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let tables = parse(
            r#"
            [kms]
            endpoint = "https://kms.example.com"
            key_id = "id"
            profile = "eop"
            access_key = "ak"
            secret_key = "sk"
            allowed_key_ids = ["a", "b"]
            max_inflight = 8
            rate = 2.5
            timeout_ms = 1500
            [keys]
            capacity = 100
            key_ttl = "5m"
            offline_ttl = 90
            files_per_data_key = 32
            [mount]
            durability = "fast"
            fuse_loops = 4
            "#,
        )
        .unwrap_or_else(|(line, what)| panic!("{line}: {what}"));
        assert_eq!(tables.kms.secret_key.map(|key| key.0.to_string()).as_deref(), Some("sk"));
        assert_eq!(tables.kms.timeout_ms, Some(1500));
        assert_eq!(KeySettings::from(tables.keys).offline_ttl, Some(std::time::Duration::from_secs(90)));
        assert_eq!(tables.mount.durability, Some(Durability::Fast));
        assert!(parse("").is_ok());
    }

    #[test]
    fn mistakes_are_told_with_line_and_field_and_without_the_secret() {
        let cases = [
            ("[kms]\nendpiont = \"x\"", 2, "endpiont"),
            ("[kms]\n\n[kyes]\n", 3, "kyes"),
            ("[keys]\nkey_ttl = \"soon\"", 2, "key_ttl"),
            ("[keys]\nkey_ttl = -5", 2, "key_ttl"),
            ("[keys]\ncapacity = \"many\"", 2, "capacity"),
            ("[kms]\nprofile = \"other\"", 2, "native"),
            ("[mount]\ndurability = \"none\"", 2, "safe"),
            ("[kms]\nsecret_key = 31337", 2, "secret_key"),
            ("[kms]\nsecret_key = [\"hunter2\"]", 2, "secret_key"),
            ("[kms]\nsecret_key = hunter2", 2, ""),
            ("[kms]\nsecret_key = \"hunter2", 2, ""),
            ("[kms]\nsecret_key \"hunter2\"", 2, ""),
        ];
        for (text, line, field) in cases {
            let (number, what) = parse(text).err().unwrap_or_else(|| panic!("{text} is wrong"));
            assert_eq!(number, line, "{text}: {what}");
            assert!(what.contains(field), "{text}: {what}");
            assert!(!what.contains("hunter2") && !what.contains("31337"), "{what}");
        }
    }
}
