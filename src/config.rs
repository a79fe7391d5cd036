//! What the user has configured, from command line, environment, systemd credentials and one TOML file.
//!
//! For what is not secret: command line, then environment, then file, then the default. Credentials never come from the
//! command line, which every user of the machine can read. They are taken as a pair from the first place that has any:
//! environment, then `$CREDENTIALS_DIRECTORY` (systemd), then the file, which must then be readable by its owner only.
//! (The environment of a process can be read by its own user and by root; credentials or the file are the better place.)
//!
//! | setting | environment | file |
//! |---|---|---|
//! | endpoint of the KMS | `KMSFS_KMS_ENDPOINT` | `kms.endpoint` |
//! | KMS key for new data keys | `KMSFS_KMS_KEY_ID` | `kms.key_id` |
//! | signature profile | `KMSFS_KMS_PROFILE` | `kms.profile` |
//! | access key | `KMSFS_KMS_ACCESS_KEY`, credential `kmsfs.access-key` | `kms.access_key` |
//! | secret key | `KMSFS_KMS_SECRET_KEY`, credential `kmsfs.secret-key` | `kms.secret_key` |
//!
//! The file is the one that `--config` names, else `$XDG_CONFIG_HOME/kmsfs/config.toml` (`~/.config` without that
//! variable), else `/etc/kmsfs/config.toml`. Settings of the file are listed at [`KmsSettings`], [`KeySettings`] and
//! [`MountSettings`]; durations are written `"5m"`, `"1h30m"`, `"500ms"` or as a number of seconds.

mod file;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::secret::{SECRET_MAX, SecretBytes};
use crate::keys::KeysConfig;
use crate::kms::{CtyunConfig, EndpointError, KeySpec, Profile};

use file::{ConfigFile, Tables};

/// Everything that can be configured; values out of range are refused by [`Config::load`].
#[derive(Debug)]
pub struct Config {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    pub kms: KmsSettings,
    pub keys: KeySettings,
    pub mount: MountSettings,
}

/// Table `[kms]`.
#[derive(Debug)]
pub struct KmsSettings {
    pub endpoint: Option<String>,
    pub key_id: Option<String>,
    pub profile: Profile,
    pub credentials: Option<Credentials>,
    /// KMS keys that wrapped keys may name; `None` for any.
    pub allowed_key_ids: Option<Vec<String>>,
    /// PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for the endpoint. Proxies named in the environment are not used.
    pub proxy: Option<String>,
    pub max_inflight: Option<usize>,
    /// Requests per second.
    pub rate: Option<f64>,
    /// Bound of one attempt (`timeout_ms`).
    pub timeout: Option<Duration>,
}

/// Table `[keys]`. `None` where nothing was configured: [`KeysConfig::new`] has the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySettings {
    pub capacity: Option<usize>,
    pub key_ttl: Option<Duration>,
    pub idle_ttl: Option<Duration>,
    pub offline_ttl: Option<Duration>,
    pub negative_ttl: Option<Duration>,
    /// Bound of every wait for a key, and of a whole KMS call.
    pub deadline: Option<Duration>,
    pub pool_target: Option<usize>,
    pub pool_max: Option<usize>,
    /// For `init`; an existing volume has its own.
    pub files_per_data_key: Option<u32>,
    /// Fetch keys of the files that a scan of a directory will open next.
    pub prefetch: Option<bool>,
}

/// Table `[mount]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MountSettings {
    pub durability: Option<Durability>,
    /// Threads that serve FUSE requests.
    pub fuse_loops: Option<usize>,
    /// Requests come over io_uring.
    pub io_uring: Option<bool>,
    pub allow_other: Option<bool>,
}

pub use crate::durable::Durability;

/// AK and SK. `Debug` shows neither.
pub struct Credentials {
    pub access_key: String,
    pub secret_key: SecretBytes,
    /// Where they come from, for messages.
    pub origin: String,
}

/// What the command line says; wins over environment and file. There is no place for credentials here.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub config_file: Option<PathBuf>,
    pub endpoint: Option<String>,
    pub key_id: Option<String>,
    pub profile: Option<Profile>,
    pub allowed_key_ids: Option<Vec<String>>,
    pub ca_file: Option<PathBuf>,
    pub proxy: Option<String>,
    pub max_inflight: Option<usize>,
    pub rate: Option<f64>,
    pub timeout: Option<Duration>,
    pub keys: KeySettings,
    pub mount: MountSettings,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} has more than {} bytes; is it a configuration?", path.display(), file::FILE_MAX)]
    TooLong { path: PathBuf },
    #[error("{} belongs to user {owner}, not to root or to the user running kmsfs; run: chown {us} {}", path.display(), path.display())]
    Owner { path: PathBuf, owner: u32, us: u32 },
    #[error("{} has mode {mode:04o}, so others can {what} it; run: chmod {wanted} {}", path.display(), path.display())]
    Mode { path: PathBuf, mode: u32, what: &'static str, wanted: &'static str },
    #[error("{}, line {line}: {what}", path.display())]
    Syntax { path: PathBuf, line: usize, what: String },
    #[error("{field} ({origin}): {what}")]
    Value { field: &'static str, origin: String, what: String },
    #[error("{origin} has {present} but not {missing}; the two belong together")]
    HalfOfAPair { origin: String, present: &'static str, missing: &'static str },
    #[error("no {what} is configured; set {how}")]
    Missing { what: &'static str, how: &'static str },
    #[error(transparent)]
    Kms(#[from] EndpointError),
}

impl Config {
    pub fn load(flags: Overrides) -> Result<Self, ConfigError> {
        Self::load_from(flags, &Machine { variable: &|name| std::env::var_os(name), etc: Path::new("/etc") })
    }

    /// The configuration of the KMS client, or what is missing for one.
    pub fn ctyun(&self) -> Result<CtyunConfig, ConfigError> {
        let endpoint = self.kms.endpoint.as_ref().ok_or(ConfigError::Missing {
            what: "KMS endpoint",
            how: "--kms, KMSFS_KMS_ENDPOINT or kms.endpoint in the configuration file",
        })?;
        let credentials = self.kms.credentials.as_ref().ok_or(ConfigError::Missing {
            what: "access key for the KMS",
            how: "KMSFS_KMS_ACCESS_KEY and KMSFS_KMS_SECRET_KEY, the systemd credentials kmsfs.access-key and \
                  kmsfs.secret-key, or kms.access_key and kms.secret_key in the configuration file",
        })?;
        let mut config =
            CtyunConfig::new(endpoint.as_str(), credentials.access_key.as_str(), credentials.secret_key.clone());
        config.profile = self.kms.profile;
        config.proxy = self.kms.proxy.clone();
        config.rate = self.kms.rate;
        config.max_inflight = self.kms.max_inflight.unwrap_or(config.max_inflight);
        config.deadline = self.keys.deadline.unwrap_or(config.deadline);
        config.request_timeout = self.kms.timeout.unwrap_or(config.request_timeout).min(config.deadline);
        config.connect_timeout = config.connect_timeout.min(config.request_timeout);
        if let Some(path) = &self.kms.ca_file {
            config.ca_pem =
                Some(std::fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?);
        }
        Ok(config)
    }

    /// The KMS key for a new volume.
    pub fn key_id(&self) -> Result<&str, ConfigError> {
        self.kms.key_id.as_deref().ok_or(ConfigError::Missing {
            what: "KMS key",
            how: "--key-id, KMSFS_KMS_KEY_ID or kms.key_id in the configuration file",
        })
    }

    /// How keys are kept for a volume whose new keys are wrapped by `key_id`. Where only some KMS keys are allowed, that one
    /// must be among them.
    pub fn keys_config(&self, key_id: &str, spec: KeySpec) -> Result<KeysConfig, ConfigError> {
        if let Some(allowed) = &self.kms.allowed_key_ids
            && !key_id.starts_with("alias/")
            && !allowed.iter().chain(&self.kms.key_id).any(|id| id.eq_ignore_ascii_case(key_id))
        {
            let what = format!("the volume's own KMS key {key_id:?} is not in the list");
            return Err(ConfigError::Value { field: "allowed_key_ids", origin: "with this volume".to_owned(), what });
        }
        let (set, mut config) = (&self.keys, KeysConfig::new(key_id, spec));
        config.capacity = set.capacity.unwrap_or(config.capacity);
        config.key_ttl = set.key_ttl.unwrap_or(config.key_ttl);
        config.idle_ttl = set.idle_ttl.unwrap_or(config.idle_ttl);
        config.offline_ttl = set.offline_ttl.unwrap_or(config.offline_ttl);
        config.negative_ttl = set.negative_ttl.unwrap_or(config.negative_ttl);
        config.deadline = set.deadline.unwrap_or(config.deadline);
        config.pool_target = set.pool_target.unwrap_or(config.pool_target);
        config.pool_max = set.pool_max.unwrap_or(config.pool_max).max(config.pool_target);
        config.files_per_data_key = set.files_per_data_key.unwrap_or(config.files_per_data_key);
        if let Some(max_inflight) = self.kms.max_inflight {
            config.pool_inflight = config.pool_inflight.min(max_inflight.div_ceil(2));
            config.prefetch_inflight = config.prefetch_inflight.min(max_inflight.saturating_mul(3).div_ceil(4));
        }
        config.allowed_key_ids = self.kms.allowed_key_ids.clone();
        Ok(config)
    }

    fn load_from(flags: Overrides, machine: &Machine<'_>) -> Result<Self, ConfigError> {
        let file = match &flags.config_file {
            Some(path) => Some(ConfigFile::read(path)?),
            None => ConfigFile::first_of(&machine.config_files())?,
        };
        let (path, tables) = match file {
            Some(file) => (Some(file.path), file.tables),
            None => (None, Tables::default()),
        };
        let file_name = path.as_deref().map_or_else(String::new, |path| path.display().to_string());

        let profile = match machine.text("KMSFS_KMS_PROFILE")? {
            Some(text) => Some(value::profile(&text).ok_or_else(|| ConfigError::Value {
                field: "profile",
                origin: "KMSFS_KMS_PROFILE".to_owned(),
                what: "is neither \"native\" nor \"eop\"".to_owned(),
            })?),
            None => None,
        };
        let credentials = match machine.credentials_of_environment()? {
            Some(credentials) => Some(credentials),
            None => match machine.credentials_of_systemd()? {
                Some(credentials) => Some(credentials),
                None => {
                    pair(tables.kms.access_key.map(|key| key.0), tables.kms.secret_key.map(|key| key.0), &file_name)?
                }
            },
        };
        let config = Self {
            file: path,
            kms: KmsSettings {
                endpoint: flags.endpoint.or(machine.text("KMSFS_KMS_ENDPOINT")?).or(tables.kms.endpoint),
                key_id: flags.key_id.or(machine.text("KMSFS_KMS_KEY_ID")?).or(tables.kms.key_id),
                profile: flags.profile.or(profile).or(tables.kms.profile.map(|profile| profile.0)).unwrap_or_default(),
                credentials,
                allowed_key_ids: flags.allowed_key_ids.or(tables.kms.allowed_key_ids),
                ca_file: flags.ca_file.or(tables.kms.ca_file),
                proxy: flags.proxy.or(tables.kms.proxy),
                max_inflight: flags.max_inflight.or(tables.kms.max_inflight),
                rate: flags.rate.or(tables.kms.rate),
                timeout: flags.timeout.or(tables.kms.timeout_ms.map(Duration::from_millis)),
            },
            keys: flags.keys.or(tables.keys.into()),
            mount: flags.mount.or(tables.mount.into()),
        };
        config.check_ranges(&file_name)?;
        Ok(config)
    }

    fn check_ranges(&self, file_name: &str) -> Result<(), ConfigError> {
        let origin =
            if file_name.is_empty() { "command line".to_owned() } else { format!("command line or {file_name}") };
        let check = |field, ok: bool, what: &str| match ok {
            true => Ok(()),
            false => Err(ConfigError::Value { field, origin: origin.clone(), what: what.to_owned() }),
        };
        let span = |field, value: Option<Duration>, least: Duration, what: &str| {
            check(field, value.is_none_or(|value| value >= least && value <= LONGEST), what)
        };
        let number = |field, value: Option<usize>, most: usize| {
            check(field, value.is_none_or(|value| (1..=most).contains(&value)), &format!("must be from 1 to {most}"))
        };
        let (kms, keys) = (&self.kms, &self.keys);
        number("kms.max_inflight", kms.max_inflight, 1024)?;
        check(
            "kms.rate",
            kms.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0),
            "must be more than 0 per second",
        )?;
        span("kms.timeout_ms", kms.timeout, Duration::from_millis(1), "must be at least 1 ms and at most 30 days")?;
        let from_second = "must be at least 1 s and at most 30 days";
        span("keys.key_ttl", keys.key_ttl, Duration::from_secs(1), from_second)?;
        span("keys.idle_ttl", keys.idle_ttl, Duration::from_secs(1), from_second)?;
        span("keys.offline_ttl", keys.offline_ttl, Duration::ZERO, "must be at most 30 days")?;
        span("keys.negative_ttl", keys.negative_ttl, Duration::ZERO, "must be at most 30 days")?;
        check(
            "keys.deadline",
            keys.deadline.is_none_or(|value| value >= Duration::from_millis(100) && value <= Duration::from_secs(300)),
            "must be from 100 ms to 5 minutes: whoever opens a file may wait that long and cannot be interrupted",
        )?;
        number("keys.capacity", keys.capacity, 10_000_000)?;
        number("keys.pool_target", keys.pool_target, 4096)?;
        number("keys.pool_max", keys.pool_max, 4096)?;
        number("keys.files_per_data_key", keys.files_per_data_key.map(|files| files as usize), 65_536)?;
        number("mount.fuse_loops", self.mount.fuse_loops, 256)?;
        let allowed = kms.allowed_key_ids.as_ref();
        check("kms.allowed_key_ids", allowed.is_none_or(|ids| !ids.is_empty()), "allows no KMS key at all")
    }
}

const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

impl KeySettings {
    fn or(self, other: Self) -> Self {
        Self {
            capacity: self.capacity.or(other.capacity),
            key_ttl: self.key_ttl.or(other.key_ttl),
            idle_ttl: self.idle_ttl.or(other.idle_ttl),
            offline_ttl: self.offline_ttl.or(other.offline_ttl),
            negative_ttl: self.negative_ttl.or(other.negative_ttl),
            deadline: self.deadline.or(other.deadline),
            pool_target: self.pool_target.or(other.pool_target),
            pool_max: self.pool_max.or(other.pool_max),
            files_per_data_key: self.files_per_data_key.or(other.files_per_data_key),
            prefetch: self.prefetch.or(other.prefetch),
        }
    }
}

impl MountSettings {
    fn or(self, other: Self) -> Self {
        Self {
            durability: self.durability.or(other.durability),
            fuse_loops: self.fuse_loops.or(other.fuse_loops),
            io_uring: self.io_uring.or(other.io_uring),
            allow_other: self.allow_other.or(other.allow_other),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(from {})", self.origin)
    }
}

pub use value::parse_duration;

/// Where things lie on this machine; passed in so that tests have one of their own.
struct Machine<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    etc: &'a Path,
}

impl Machine<'_> {
    /// A variable that is set and not empty.
    fn text(&self, name: &'static str) -> Result<Option<String>, ConfigError> {
        match (self.variable)(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => value.into_string().map(Some).map_err(|_| ConfigError::Value {
                field: name,
                origin: "environment".to_owned(),
                what: "is not UTF-8".to_owned(),
            }),
        }
    }

    fn config_files(&self) -> Vec<PathBuf> {
        let absolute = |name| (self.variable)(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        home.into_iter().chain([self.etc.to_owned()]).map(|place| place.join("kmsfs/config.toml")).collect()
    }

    fn credentials_of_environment(&self) -> Result<Option<Credentials>, ConfigError> {
        let access_key = self.text("KMSFS_KMS_ACCESS_KEY")?.map(Zeroizing::new);
        let secret_key = self.text("KMSFS_KMS_SECRET_KEY")?.map(Zeroizing::new);
        pair(access_key, secret_key, "the environment")
    }

    /// systemd guards its directory itself, with modes and ACLs of its own, so the files are not checked.
    fn credentials_of_systemd(&self) -> Result<Option<Credentials>, ConfigError> {
        let Some(directory) = (self.variable)("CREDENTIALS_DIRECTORY").map(PathBuf::from) else { return Ok(None) };
        let read = |name: &str| {
            let path = directory.join(name);
            match std::fs::read(&path).map(Zeroizing::new) {
                Ok(bytes) => match std::str::from_utf8(&bytes) {
                    Ok(text) => Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))),
                    Err(_) => Err(ConfigError::Syntax { path, line: 1, what: "is not UTF-8".to_owned() }),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(ConfigError::Read { path, source }),
            }
        };
        pair(read("kmsfs.access-key")?, read("kmsfs.secret-key")?, &directory.display().to_string())
    }
}

/// Both or neither: halves from different places would make a signature that the service refuses, and nobody knows why.
fn pair(
    access_key: Option<Zeroizing<String>>,
    secret_key: Option<Zeroizing<String>>,
    origin: &str,
) -> Result<Option<Credentials>, ConfigError> {
    let half = |present, missing| ConfigError::HalfOfAPair { origin: origin.to_owned(), present, missing };
    let (access_key, secret_key) = match (access_key, secret_key) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(half("an access key", "a secret key")),
        (None, Some(_)) => return Err(half("a secret key", "an access key")),
        (Some(access_key), Some(secret_key)) => (access_key, secret_key),
    };
    let bad = |field, what: String| ConfigError::Value { field, origin: origin.to_owned(), what };
    if access_key.is_empty() || !access_key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("access key", "is empty, or has spaces or characters outside ASCII".to_owned()));
    }
    let secret_key = SecretBytes::copy_of(secret_key.as_bytes())
        .filter(|key| !key.is_empty())
        .ok_or_else(|| bad("secret key", format!("is empty or longer than {SECRET_MAX} bytes")))?;
    Ok(Some(Credentials { access_key: access_key.to_string(), secret_key, origin: origin.to_owned() }))
}

#[cfg(test)]
mod tests;
