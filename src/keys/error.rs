//! Why there is no key, and what that says about the key.

use std::time::Duration;

use super::cache::Verdict;
use crate::kms::KmsError;

/// Cheap to clone: one failed call answers every waiter.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    Kms(#[from] KmsError),
    #[error("no key within {after:?}")]
    TimedOut { after: Duration },
    #[error("the KMS key {key_id:?} is not among those that this volume may use")]
    ForeignKey { key_id: String },
    /// The task of the call ended without a result: the runtime is going down, or there is a bug.
    #[error("the call for a key was given up")]
    Stopped,
}

impl KeyError {
    pub fn kms(&self) -> Option<&KmsError> {
        match self {
            Self::Kms(error) => Some(error),
            _ => None,
        }
    }

    pub fn is_denied(&self) -> bool {
        matches!(self, Self::ForeignKey { .. }) || self.kms().is_some_and(KmsError::is_denied)
    }

    pub fn is_gone(&self) -> bool {
        self.kms().is_some_and(KmsError::is_gone)
    }

    /// "Could not ask": nothing is known about the key.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Stopped) || self.kms().is_some_and(KmsError::is_unreachable)
    }

    pub fn is_throttled(&self) -> bool {
        self.kms().is_some_and(KmsError::is_throttled)
    }

    pub fn is_wrong_ciphertext(&self) -> bool {
        self.kms().is_some_and(KmsError::is_wrong_ciphertext)
    }

    /// As [`KmsError::is_outage`]: says nothing against the use of the key.
    pub fn is_outage(&self) -> bool {
        self.is_unreachable() || self.kms().is_some_and(KmsError::is_outage)
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self.is_outage() {
            true => Verdict::Unknown,
            false if self.is_denied() || self.is_gone() || self.is_wrong_ciphertext() => Verdict::Refused,
            false => Verdict::Failed,
        }
    }

    /// How long the same question is answered with the same error.
    pub(super) fn remembered_for(&self, negative_ttl: Duration) -> Duration {
        match self.verdict() {
            Verdict::Refused => negative_ttl,
            Verdict::Failed | Verdict::Unknown => negative_ttl.min(OUTAGE_MEMORY),
        }
    }
}

/// Long enough that a burst of requests does not become a burst of calls, short enough that nobody waits for it.
const OUTAGE_MEMORY: Duration = Duration::from_millis(500);
