//! What runs in the background: calls to the KMS, each a task that belongs to none of those who wait for it, and the
//! sweeper.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::cache::{Fingerprint, Verdict};
use super::{FetchResult, KeyError, Keys, Landing, NewKey, bump};
use crate::kms::WrappedKey;

/// A call for one key. If its task is dropped, those who wait get [`KeyError::Stopped`] and the next one starts anew.
pub(super) struct Flight {
    keys: Arc<Keys>,
    fingerprint: Fingerprint,
    landing: Landing,
    landed: bool,
}

pub(super) async fn fly(flight: Flight, wrapped: WrappedKey, waiters: watch::Sender<Option<FetchResult>>) {
    let keys = &flight.keys;
    bump(&keys.counters.kms_decrypts);
    let asked_at = Instant::now();
    let call = keys.kms.decrypt(&wrapped, keys.config.spec.data_key_len());
    let result = match timeout(keys.config.deadline, call).await {
        Ok(result) => result.map_err(KeyError::from),
        Err(_) => Err(KeyError::TimedOut { after: keys.config.deadline }),
    };
    let result = result.map(|secret| keys.data_key(secret, asked_at));
    if let Err(error) = &result {
        keys.count_error(error);
        tracing::debug!(key_id = wrapped.key_id, %error, "the KMS gave no key");
    }
    // Off the list first, so that nobody joins a call that has ended.
    let result = flight.land(result);
    waiters.send_replace(Some(result));
}

impl Flight {
    /// For a call that stands on the list already.
    pub(super) fn new(keys: Arc<Keys>, fingerprint: Fingerprint, generation: u64, ahead: bool) -> Self {
        Self { keys, fingerprint, landing: Landing { generation, ahead, asked_at: Instant::now() }, landed: false }
    }

    fn land(mut self, result: FetchResult) -> FetchResult {
        self.landed = true;
        self.keys.learn(self.fingerprint, result, Some(self.landing))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            let mut state = self.keys.state.lock();
            state.flights.remove(&self.fingerprint);
            if self.landing.ahead {
                state.pace.lose();
            }
        }
    }
}

/// A call for a new key. If its task is dropped, the pool learns of it.
pub(super) struct Refill {
    keys: Arc<Keys>,
    landed: bool,
}

impl Refill {
    pub(super) fn new(keys: Arc<Keys>) -> Self {
        Self { keys, landed: false }
    }
}

pub(super) async fn generate(mut refill: Refill) {
    let keys = Arc::clone(&refill.keys);
    bump(&keys.counters.kms_generates);
    let asked_at = Instant::now();
    let call = keys.kms.generate_data_key(&keys.config.key_id, keys.config.spec);
    let result = match timeout(keys.config.deadline, call).await {
        Ok(Ok(new)) if !keys.config.allows(&new.wrapped.key_id) => {
            // Its file could not be opened later.
            Err(KeyError::ForeignKey { key_id: new.wrapped.key_id })
        }
        Ok(Ok(new)) => Ok(NewKey { key: keys.data_key(new.plaintext, asked_at), wrapped: new.wrapped }),
        Ok(Err(error)) => Err(KeyError::from(error)),
        Err(_) => Err(KeyError::TimedOut { after: keys.config.deadline }),
    };
    refill.landed = true;
    match result {
        Ok(new) => keys.pool.lock().add(new, asked_at),
        Err(error) => {
            keys.count_error(&error);
            tracing::debug!(key_id = keys.config.key_id, %error, "the KMS made no new key");
            let until = Instant::now() + error.remembered_for(keys.config.negative_ttl);
            let decided = error.verdict() != Verdict::Unknown;
            keys.pool.lock().fail(error, decided, until);
        }
    }
    keys.refill();
}

impl Drop for Refill {
    fn drop(&mut self) {
        if !self.landed {
            self.keys.pool.lock().fail(KeyError::Stopped, false, Instant::now());
        }
    }
}

pub(super) async fn sweep_for_ever(keys: Weak<Keys>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(keys) = keys.upgrade() else { return };
        let now = Instant::now();
        keys.state.lock().cache.sweep(now);
        keys.pool.lock().discard_old(now);
    }
}
