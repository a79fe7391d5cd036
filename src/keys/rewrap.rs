//! Wrapped keys wrapped anew: by the primary version of one KMS key, whatever wraps them now. The plaintext stays inside
//! the service; then the new wrapping is unwrapped, since only a key that was seen can be compared with a file's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::cache::Fingerprint;
use super::{DataKey, KeyError, Keys};
use crate::kms::WrappedKey;

pub struct Rewrapper {
    keys: Arc<Keys>,
    /// The id of the KMS key.
    destination: String,
    /// What came of each wrapped key, where files share them. Holds nothing secret.
    shared: Option<Mutex<Shared>>,
}

type Shared = HashMap<Fingerprint, Arc<OnceCell<WrappedKey>>>;

impl Rewrapper {
    pub fn new(keys: Arc<Keys>, destination: impl Into<String>) -> Self {
        let shared = (keys.config.files_per_data_key > 1).then(Mutex::default);
        Self { keys, destination: destination.into(), shared }
    }

    /// The new wrapping, and the key that the KMS unwraps it to. **The key is not checked**: the service may have wrapped
    /// or unwrapped another one. One call re-wraps for any number of files that share the key.
    pub async fn rewrap(&self, old: &WrappedKey) -> Result<(WrappedKey, Arc<DataKey>), KeyError> {
        let new = match &self.shared {
            None => self.ask(old).await?,
            Some(shared) => {
                let cell = shared.lock().entry(Fingerprint::of(old)).or_default().clone();
                cell.get_or_try_init(|| self.ask(old)).await?.clone()
            }
        };
        let key = self.keys.fetch(&new).await?;
        Ok((new, key))
    }

    async fn ask(&self, old: &WrappedKey) -> Result<WrappedKey, KeyError> {
        let config = &self.keys.config;
        for key_id in [&old.key_id, &self.destination] {
            if !config.allows(key_id) {
                return Err(KeyError::ForeignKey { key_id: key_id.clone() });
            }
        }
        match timeout(config.deadline, self.keys.kms.re_encrypt(old, &self.destination)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(KeyError::TimedOut { after: config.deadline }),
        }
    }
}

impl std::fmt::Debug for Rewrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rewrapper(to {})", self.destination)
    }
}
