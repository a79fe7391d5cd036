//! The KMS of a command: the configured one, or the embedded development KMS.

use std::sync::Arc;

use crate::cli::KmsArgs;
use crate::cli::exit_code::Exit;
use crate::config::{Config, Overrides};
use crate::crypto::Suite;
use crate::format::derived::VolumeId;
use crate::format::volume::Volume;
use crate::keys::KeysConfig;
use crate::kms::{CtyunKms, KeySpec, Kms, MAX_INFLIGHT};

use super::{OrExit, Outcome, fail};

/// What `--dev` means for the user, said at `init` and in each mount's log.
pub const DEV_WARNING: &str = "this volume's KMS is the embedded development KMS: its keys lie on this machine, under \
your state directory. It is for trying kmsfs out, not for data that somebody with this machine must not read";

/// A KMS, a runtime to talk to it with, and what the configuration says.
pub struct KmsSetup {
    pub kms: Arc<dyn Kms>,
    pub runtime: tokio::runtime::Runtime,
    pub config: Option<Config>,
    #[cfg(feature = "dev-kms")]
    pub mock: Option<kms_mock::MockKms>,
}

impl KmsSetup {
    /// `volume_id` names the store of the development KMS: each volume has its own.
    pub fn new(args: &KmsArgs, volume_id: &VolumeId) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            // Operations that waited for a key run on these; each keeps buffers of some MiB while it lives.
            .max_blocking_threads(32)
            .thread_name("kmsfs-kms")
            .on_thread_start(crate::crypto::hands::anywhere)
            .enable_all()
            .build()
            .or_exit(Exit::Other, "cannot start the runtime of the KMS client")?;
        if args.dev {
            return Self::development(runtime, volume_id);
        }
        let overrides = Overrides {
            config_file: args.config.clone(),
            endpoint: args.kms.clone(),
            key_id: args.key_id.clone(),
            ..Overrides::default()
        };
        let config = Config::load(overrides).or_exit(Exit::Config, "configuration")?;
        let ctyun = config.ctyun().or_exit(Exit::Config, "configuration of the KMS")?;
        let inside = runtime.enter();
        let kms = CtyunKms::new(ctyun).or_exit(Exit::Config, "configuration of the KMS")?;
        drop(inside);
        Ok(Self {
            kms: Arc::new(kms),
            runtime,
            config: Some(config),
            #[cfg(feature = "dev-kms")]
            mock: None,
        })
    }

    #[cfg(feature = "dev-kms")]
    fn development(runtime: tokio::runtime::Runtime, volume_id: &VolumeId) -> Outcome<Self> {
        let dir = super::state_dir().join("dev-kms").join(crate::format::volume::hex(volume_id));
        make_private(&dir).or_exit(Exit::Config, format!("cannot make {}", dir.display()))?;
        let mock = kms_mock::MockKms::start(kms_mock::MockConfig {
            data: kms_mock::Storage::Dir(dir.clone()),
            control: false,
            ..kms_mock::MockConfig::default()
        })
        .or_exit(
            Exit::Config,
            format!("cannot start the development KMS on {} (is the volume mounted already?)", dir.display()),
        )?;
        let credential = mock.credential();
        let Some(secret) = crate::crypto::secret::SecretBytes::copy_of(credential.secret_key.as_bytes()) else {
            return fail(Exit::Config, "the development KMS has a secret key that is too long");
        };
        let config = crate::kms::CtyunConfig::new(mock.endpoint(), credential.access_key, secret);
        let inside = runtime.enter();
        let kms = CtyunKms::new(config).or_exit(Exit::Config, "the development KMS")?;
        drop(inside);
        Ok(Self { kms: Arc::new(kms), runtime, config: None, mock: Some(mock) })
    }

    #[cfg(not(feature = "dev-kms"))]
    fn development(_runtime: tokio::runtime::Runtime, _volume_id: &VolumeId) -> Outcome<Self> {
        fail(Exit::Config, "this kmsfs was built without the development KMS")
    }

    pub fn is_dev(&self) -> bool {
        self.config.is_none()
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Whether a volume may name this KMS key: the configured CMK, or one of `kms.allowed_key_ids`. What lies in the
    /// backing directory never decides it. The development KMS has only its own keys.
    pub fn allows(&self, key_id: &str) -> bool {
        let Some(config) = &self.config else { return true };
        let same = |id: &String| id.eq_ignore_ascii_case(key_id);
        config.kms.key_id.iter().any(same) || config.kms.allowed_key_ids.iter().flatten().any(same)
    }

    /// How keys are kept, for a volume whose new keys this CMK wraps.
    pub fn keys_config(&self, volume: &Volume) -> Outcome<KeysConfig> {
        let spec = key_spec(volume.suite);
        let mut keys = match &self.config {
            None => KeysConfig::new(volume.kms.key_id.clone(), spec),
            Some(config) => config.keys_config(&volume.kms.key_id, spec).or_exit(Exit::Config, "configuration")?,
        };
        // What `init` wrote counts, not what the next volume would get.
        keys.files_per_data_key = volume.files_per_data_key;
        if let Some(config) = &self.config {
            let ids = config.kms.allowed_key_ids.iter().flatten().chain(&config.kms.key_id);
            keys.allowed_key_ids = Some(ids.cloned().collect());
        }
        Ok(keys)
    }

    /// Whether keys may be fetched before their files are opened.
    pub fn fetches_ahead(&self) -> bool {
        self.config.as_ref().and_then(|config| config.keys.prefetch).unwrap_or(true)
    }

    /// Requests that may be under way at a time.
    pub fn max_inflight(&self) -> usize {
        let set = self.config.as_ref().and_then(|config| config.kms.max_inflight);
        set.unwrap_or(MAX_INFLIGHT)
    }

    /// What the configuration says of new volumes.
    pub fn files_per_data_key(&self) -> Option<u32> {
        self.config.as_ref().and_then(|config| config.keys.files_per_data_key)
    }

    /// The CMK for a new volume: the configured one, or one made for the purpose.
    pub fn key_for_new_volume(&self, suite: Suite) -> Outcome<String> {
        match &self.config {
            None => self
                .block_on(self.kms.create_key(key_spec(suite)))
                .map_err(|e| super::volume::kms_failure(e, "cannot make a CMK")),
            Some(config) => Ok(config.key_id().or_exit(Exit::Config, "configuration of the KMS")?.to_owned()),
        }
    }
}

pub fn key_spec(suite: Suite) -> KeySpec {
    match suite {
        Suite::Aes256Gcm => KeySpec::Aes256,
        Suite::Sm4Gcm => KeySpec::Sm4_128,
    }
}

/// A directory, with its parents, that nobody else can look into.
pub fn make_private(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}
