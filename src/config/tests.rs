//! Which place wins, and which files are refused.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

/// A machine with nothing but what the test puts there.
struct Bench {
    directory: TempDir,
    variables: HashMap<&'static str, OsString>,
}

impl Bench {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let home = directory.path().join("home").into_os_string();
        Self { directory, variables: HashMap::from([("HOME", home)]) }
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("directories");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        path
    }

    fn load(&self, flags: Overrides) -> Result<Config, ConfigError> {
        let variable = |name: &str| self.variables.get(name).cloned();
        Config::load_from(flags, &Machine { variable: &variable, etc: &self.directory.path().join("etc") })
    }

    fn error(&self, flags: Overrides) -> String {
        self.load(flags).expect_err("is refused").to_string()
    }
}

const HOME: &str = "home/.config/kmsfs/config.toml";

fn config_file(path: &Path) -> Overrides {
    Overrides { config_file: Some(path.to_owned()), ..Overrides::default() }
}

#[test]
fn without_anything_the_defaults_hold_and_what_is_missing_is_told() {
    let config = Bench::new().load(Overrides::default()).expect("defaults");
    assert_eq!(config.kms.profile, Profile::Native);
    let error = config.ctyun().expect_err("no endpoint").to_string();
    assert!(error.contains("KMSFS_KMS_ENDPOINT") && error.contains("kms.endpoint"), "{error}");
    assert!(config.key_id().expect_err("no key").to_string().contains("KMSFS_KMS_KEY_ID"));
    let keys = config.keys_config("id", KeySpec::Aes256).expect("defaults");
    assert_eq!((keys.capacity, keys.key_ttl, keys.files_per_data_key), (10_000, Duration::from_secs(300), 1));
}

#[test]
fn the_room_for_calls_bounds_those_that_nobody_waits_for() {
    let bench = Bench::new();
    let of = |text: &str| {
        bench.write(HOME, text, 0o644);
        let config = bench.load(Overrides::default()).expect("is sound");
        let keys = config.keys_config("id", KeySpec::Aes256).expect("is sound");
        (config.keys.prefetch, keys.pool_inflight, keys.prefetch_inflight)
    };
    assert_eq!(of(""), (None, 16, 24));
    assert_eq!(of("[kms]\nmax_inflight = 4\n[keys]\nprefetch = false"), (Some(false), 2, 3));
    assert_eq!(of("[kms]\nmax_inflight = 1\n[keys]\nprefetch = true"), (Some(true), 1, 1));
}

#[test]
fn command_line_wins_over_environment_over_file() {
    let bench = Bench::new().set("KMSFS_KMS_ENDPOINT", "https://environment").set("KMSFS_KMS_KEY_ID", "environment");
    bench.write(
        HOME,
        "[kms]\nendpoint = \"https://file\"\nkey_id = \"file\"\nprofile = \"eop\"\n[keys]\nkey_ttl = \"7s\"\ncapacity = 5",
        0o644,
    );
    let flags = Overrides {
        endpoint: Some("https://flag".into()),
        keys: KeySettings { key_ttl: Some(Duration::from_secs(9)), ..KeySettings::default() },
        ..Overrides::default()
    };
    let config = bench.load(flags).expect("sound");
    assert_eq!(config.kms.endpoint.as_deref(), Some("https://flag"));
    assert_eq!(config.kms.key_id.as_deref(), Some("environment"));
    assert_eq!(config.kms.profile, Profile::Eop);
    assert_eq!((config.keys.key_ttl, config.keys.capacity), (Some(Duration::from_secs(9)), Some(5)));
}

#[test]
fn the_file_is_named_or_the_users_or_the_machines() {
    let bench = Bench::new();
    let named = bench.write("named.toml", "[kms]\nkey_id = \"named\"", 0o600);
    bench.write("etc/kmsfs/config.toml", "[kms]\nkey_id = \"etc\"", 0o644);
    let id = |flags| bench.load(flags).expect("sound").kms.key_id.expect("set");
    assert_eq!(id(Overrides::default()), "etc");
    bench.write(HOME, "[kms]\nkey_id = \"home\"", 0o600);
    assert_eq!(id(Overrides::default()), "home");
    assert_eq!(id(config_file(&named)), "named");
    assert!(bench.error(config_file(Path::new("/does/not/exist"))).contains("/does/not/exist"));

    let xdg = bench.write("xdg/kmsfs/config.toml", "[kms]\nkey_id = \"xdg\"", 0o600);
    let xdg = xdg.ancestors().nth(2).and_then(Path::to_str).expect("a path").to_owned();
    assert_eq!(
        bench.set("XDG_CONFIG_HOME", &xdg).load(Overrides::default()).expect("sound").key_id().expect("set"),
        "xdg"
    );
}

#[test]
fn a_file_with_a_secret_must_be_private() {
    let bench = Bench::new();
    let text = "[kms]\nendpoint = \"https://x\"\naccess_key = \"ak\"\nsecret_key = \"hunter2\"";
    for mode in [0o644, 0o640, 0o604, 0o610] {
        let path = bench.write("c.toml", text, mode);
        let error = bench.error(config_file(&path));
        assert!(error.contains("c.toml") && error.contains(&format!("{mode:04o}")), "{error}");
        assert!(error.contains("chmod 600") && !error.contains("hunter2"), "{error}");
    }
    for mode in [0o600, 0o400] {
        let path = bench.write(&format!("{mode:o}.toml"), text, mode);
        let config = bench.load(config_file(&path)).expect("private");
        assert!(!format!("{config:?}").contains("hunter2"));
        let ctyun = config.ctyun().expect("complete");
        assert_eq!(ctyun.secret_key.expose(), b"hunter2");
        assert_eq!(ctyun.access_key, "ak");
    }
}

#[test]
fn a_file_that_others_can_change_is_refused_even_without_a_secret() {
    let bench = Bench::new();
    let path = bench.write("c.toml", "[kms]\nkey_id = \"id\"", 0o664);
    assert!(bench.error(config_file(&path)).contains("chmod go-w"));
    assert!(bench.error(config_file(bench.directory.path())).contains("not a regular file"));
}

#[test]
fn a_file_of_another_user_is_refused() {
    let bench = Bench::new();
    let path = bench.write("c.toml", "", 0o600);
    // Only root can give files away.
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
        let error = bench.error(config_file(&path));
        assert!(error.contains("12345") && error.contains("chown"), "{error}");
    }
}

#[test]
fn credentials_come_as_a_pair_from_the_first_place_that_has_any() {
    let bench = Bench::new();
    bench.write(HOME, "[kms]\naccess_key = \"file\"\nsecret_key = \"file\"", 0o600);
    let access_key = |bench: &Bench| {
        bench.load(Overrides::default()).expect("sound").kms.credentials.expect("there are some").access_key
    };
    assert_eq!(access_key(&bench), "file");

    bench.write("credentials/kmsfs.access-key", "systemd\n", 0o440);
    bench.write("credentials/kmsfs.secret-key", "systemd\n", 0o440);
    let directory = bench.directory.path().join("credentials").to_str().expect("a path").to_owned();
    let bench = bench.set("CREDENTIALS_DIRECTORY", &directory);
    assert_eq!(access_key(&bench), "systemd");

    let bench = bench.set("KMSFS_KMS_ACCESS_KEY", "environment");
    let error = bench.error(Overrides::default());
    assert!(error.contains("environment") && error.contains("secret key"), "{error}");
    let bench = bench.set("KMSFS_KMS_SECRET_KEY", "environment");
    assert_eq!(access_key(&bench), "environment");
}

#[test]
fn unsound_credentials_are_refused_without_showing_them() {
    let long = "hunter2".repeat(20);
    for (access_key, secret_key) in [("a k", "hunter2"), ("ключ", "hunter2"), ("ak", long.as_str())] {
        let bench = Bench::new().set("KMSFS_KMS_ACCESS_KEY", access_key).set("KMSFS_KMS_SECRET_KEY", secret_key);
        let error = bench.error(Overrides::default());
        assert!(error.contains("access key") || error.contains("secret key"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    let bench = Bench::new();
    for (text, field) in [
        ("[keys]\nkey_ttl = 0", "keys.key_ttl"),
        ("[keys]\nkey_ttl = \"400d\"", "keys.key_ttl"),
        ("[keys]\ndeadline = \"1h\"", "keys.deadline"),
        ("[keys]\ncapacity = 0", "keys.capacity"),
        ("[keys]\nfiles_per_data_key = 0", "keys.files_per_data_key"),
        ("[kms]\nmax_inflight = 0", "kms.max_inflight"),
        ("[kms]\nrate = 0.0", "kms.rate"),
        ("[kms]\nrate = nan", "kms.rate"),
        ("[kms]\nallowed_key_ids = []", "kms.allowed_key_ids"),
        ("[mount]\nfuse_loops = 0", "mount.fuse_loops"),
    ] {
        let path = bench.write("c.toml", text, 0o600);
        let error = bench.error(config_file(&path));
        assert!(error.contains(field) && error.contains("c.toml"), "{error}");
    }
    let bench = bench.set("KMSFS_KMS_PROFILE", "other");
    assert!(bench.error(Overrides::default()).contains("KMSFS_KMS_PROFILE"));
}

#[test]
fn a_volume_whose_own_key_is_not_allowed_is_refused() {
    let flags = Overrides { allowed_key_ids: Some(vec!["mine".into()]), ..Overrides::default() };
    let config = Bench::new().load(flags).expect("sound");
    assert!(config.keys_config("MINE", KeySpec::Aes256).is_ok());
    assert!(config.keys_config("other", KeySpec::Aes256).is_err());
}

#[test]
fn time_outs_stay_within_the_deadline() {
    let bench = Bench::new().set("KMSFS_KMS_ACCESS_KEY", "ak").set("KMSFS_KMS_SECRET_KEY", "sk");
    let flags = Overrides {
        endpoint: Some("https://x".into()),
        keys: KeySettings { deadline: Some(Duration::from_secs(2)), ..KeySettings::default() },
        ..Overrides::default()
    };
    let ctyun = bench.load(flags).expect("sound").ctyun().expect("complete");
    assert_eq!((ctyun.request_timeout, ctyun.connect_timeout), (Duration::from_secs(2), Duration::from_secs(2)));
}
