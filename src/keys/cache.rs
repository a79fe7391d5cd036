//! The keys in memory and what is known about them. Judges by the time it is given; asks nobody.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{DataKey, KeyError, KeyStats, KeysConfig};
use crate::kms::WrappedKey;

/// Names a wrapped key: SHA-256 over key id, version and blob, each with its length before it, so that no two wrapped
/// keys run together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(wrapped: &WrappedKey) -> Self {
        let mut hash = Sha256::new();
        for part in [&wrapped.key_id, &wrapped.key_version, &wrapped.blob] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// What the cache has for a look-up.
pub(super) enum Found {
    Fresh(Arc<DataKey>),
    /// Still fresh, but to be renewed.
    Ageing(Arc<DataKey>),
    /// Too old, and served because the KMS cannot answer.
    Offline(Arc<DataKey>),
    Nothing,
}

/// What a failed call says about the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The KMS could not answer.
    Unknown,
    /// The key must not be used.
    Refused,
    /// The call failed for another reason: no word against the key, nor a reason to trust it longer.
    Failed,
}

pub(super) struct Cache {
    entries: LruCache<Fingerprint, Entry>,
    errors: LruCache<Fingerprint, Remembered>,
    key_ttl: Duration,
    idle_ttl: Duration,
    offline_ttl: Duration,
    /// Since a call could not be answered, until one is answered.
    outage: bool,
    evictions: u64,
    expirations: u64,
    revocations: u64,
}

struct Entry {
    key: Arc<DataKey>,
    used: Instant,
}

struct Remembered {
    error: KeyError,
    until: Instant,
}

impl Cache {
    pub(super) fn new(config: &KeysConfig) -> Self {
        let capacity = NonZeroUsize::new(config.capacity).unwrap_or(NonZeroUsize::MIN);
        Self {
            entries: LruCache::new(capacity),
            errors: LruCache::new(capacity),
            key_ttl: config.key_ttl,
            idle_ttl: config.idle_ttl,
            offline_ttl: config.offline_ttl,
            outage: false,
            evictions: 0,
            expirations: 0,
            revocations: 0,
        }
    }

    /// Counts as a use of the key.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint, now: Instant) -> Found {
        let Some(entry) = self.entries.peek(fingerprint) else { return Found::Nothing };
        let found = self.judge(entry, now);
        match found {
            // What is not over may still serve if the next call finds the KMS out of reach.
            Found::Nothing if self.is_over(entry, now) => {
                self.entries.pop(fingerprint);
                self.expirations += 1;
            }
            Found::Nothing => (),
            Found::Fresh(_) | Found::Ageing(_) | Found::Offline(_) => {
                if let Some(entry) = self.entries.get_mut(fingerprint) {
                    entry.used = now;
                }
            }
        }
        found
    }

    /// Whether `find` would find something. Counts as no use.
    pub(super) fn holds(&self, fingerprint: &Fingerprint, now: Instant) -> bool {
        self.entries.peek(fingerprint).is_some_and(|entry| !matches!(self.judge(entry, now), Found::Nothing))
    }

    pub(super) fn put(&mut self, fingerprint: Fingerprint, key: &Arc<DataKey>, now: Instant) {
        self.errors.pop(&fingerprint);
        let entry = Entry { key: Arc::clone(key), used: now };
        if let Some((evicted, _)) = self.entries.push(fingerprint, entry)
            && evicted != fingerprint
        {
            self.evictions += 1;
        }
    }

    pub(super) fn put_if_absent(&mut self, fingerprint: Fingerprint, key: &Arc<DataKey>, now: Instant) {
        if !self.holds(&fingerprint, now) {
            self.put(fingerprint, key, now);
        }
    }

    /// The KMS answered, so it decides again.
    pub(super) fn answered(&mut self) {
        self.outage = false;
    }

    /// A call for this key failed. Drops the key if it was refused; gives it if it may serve during the outage; else the
    /// error is remembered.
    pub(super) fn failed(
        &mut self,
        fingerprint: &Fingerprint,
        error: &KeyError,
        verdict: Verdict,
        remember_until: Instant,
        now: Instant,
    ) -> Option<Arc<DataKey>> {
        self.outage = verdict == Verdict::Unknown;
        self.errors.push(*fingerprint, Remembered { error: error.clone(), until: remember_until });
        match verdict {
            Verdict::Refused => {
                if self.entries.pop(fingerprint).is_some() {
                    self.revocations += 1;
                }
                None
            }
            Verdict::Unknown => match self.find(fingerprint, now) {
                Found::Fresh(key) | Found::Ageing(key) | Found::Offline(key) => Some(key),
                Found::Nothing => None,
            },
            Verdict::Failed => None,
        }
    }

    pub(super) fn remembered_error(&mut self, fingerprint: &Fingerprint, now: Instant) -> Option<KeyError> {
        let remembered = self.errors.peek(fingerprint)?;
        if now < remembered.until {
            return Some(remembered.error.clone());
        }
        self.errors.pop(fingerprint);
        None
    }

    /// Drops what can serve no more, so that it does not lie in memory until someone asks.
    pub(super) fn sweep(&mut self, now: Instant) {
        let over: Vec<Fingerprint> =
            self.entries.iter().filter(|(_, entry)| self.is_over(entry, now)).map(|(name, _)| *name).collect();
        for fingerprint in over {
            self.entries.pop(&fingerprint);
            self.expirations += 1;
        }
        let old: Vec<Fingerprint> =
            self.errors.iter().filter(|(_, error)| error.until <= now).map(|(name, _)| *name).collect();
        for fingerprint in old {
            self.errors.pop(&fingerprint);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.errors.clear();
    }

    pub(super) fn count(&self, stats: &mut KeyStats) {
        stats.entries = self.entries.len() as u64;
        stats.evictions = self.evictions;
        stats.expirations = self.expirations;
        stats.revocations = self.revocations;
    }

    /// The one rule by which a key serves.
    fn judge(&self, entry: &Entry, now: Instant) -> Found {
        let key = || Arc::clone(&entry.key);
        let fresh_until = entry.key.fresh_until;
        let idle = now.saturating_duration_since(entry.used) >= self.idle_ttl;
        if now < fresh_until {
            return match idle && !self.serves_offline() {
                true => Found::Nothing,
                // The last quarter: time enough for a call, late enough to be rare.
                false if now + self.key_ttl / 4 >= fresh_until => Found::Ageing(key()),
                false => Found::Fresh(key()),
            };
        }
        match self.serves_offline() && now < fresh_until + self.offline_ttl {
            true => Found::Offline(key()),
            false => Found::Nothing,
        }
    }

    fn serves_offline(&self) -> bool {
        self.outage && !self.offline_ttl.is_zero()
    }

    /// Whether no outage could make it serve any more. An outage keeps keys that nobody uses: they could not be fetched.
    fn is_over(&self, entry: &Entry, now: Instant) -> bool {
        let idle = now.saturating_duration_since(entry.used) >= self.idle_ttl;
        now >= entry.key.fresh_until + self.offline_ttl || (idle && !self.serves_offline())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;
    use crate::kms::{KeySpec, KmsError};

    const TTL: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        cache: Cache,
        start: Instant,
    }

    fn bench(change: impl FnOnce(&mut KeysConfig)) -> Bench {
        let mut config = KeysConfig::new("id", KeySpec::Aes256);
        config.idle_ttl = TTL * 10;
        change(&mut config);
        Bench { cache: Cache::new(&config), start: Instant::now() }
    }

    impl Bench {
        fn put(&mut self, blob: &str) -> Fingerprint {
            let fingerprint = name(blob);
            let key =
                Arc::new(DataKey { secret: SecretBytes::zeroed(32), fresh_until: self.start + self.cache.key_ttl });
            self.cache.put(fingerprint, &key, self.start);
            fingerprint
        }

        fn at(&mut self, fingerprint: &Fingerprint, after: Duration) -> &'static str {
            match self.cache.find(fingerprint, self.start + after) {
                Found::Fresh(_) => "fresh",
                Found::Ageing(_) => "ageing",
                Found::Offline(_) => "offline",
                Found::Nothing => "nothing",
            }
        }

        fn fail(&mut self, fingerprint: &Fingerprint, verdict: Verdict, after: Duration) -> bool {
            let now = self.start + after;
            let error = KeyError::Kms(KmsError::unreachable("x"));
            self.cache.failed(fingerprint, &error, verdict, now + SECOND, now).is_some()
        }
    }

    fn name(blob: &str) -> Fingerprint {
        Fingerprint::of(&WrappedKey { key_id: "id".into(), key_version: "v".into(), blob: blob.into() })
    }

    #[test]
    fn fingerprints_keep_the_fields_apart() {
        let of = |a: &str, b: &str, c: &str| {
            Fingerprint::of(&WrappedKey { key_id: a.into(), key_version: b.into(), blob: c.into() }).0
        };
        assert_ne!(of("ab", "c", ""), of("a", "bc", ""));
        assert_ne!(of("a", "", "b"), of("a", "b", ""));
        assert_eq!(of("a", "b", "c"), of("a", "b", "c"));
    }

    #[test]
    fn a_key_serves_for_its_time_and_no_longer() {
        let mut b = bench(|_| ());
        let key = b.put("a");
        assert_eq!(b.at(&key, Duration::ZERO), "fresh");
        assert_eq!(b.at(&key, TTL * 3 / 4 - SECOND), "fresh");
        assert_eq!(b.at(&key, TTL * 3 / 4), "ageing");
        assert_eq!(b.at(&key, TTL - SECOND), "ageing");
        assert_eq!(b.at(&key, TTL), "nothing");
        assert!(b.cache.entries.is_empty());
    }

    #[test]
    fn a_key_that_nobody_uses_goes_early() {
        let mut b = bench(|config| config.idle_ttl = SECOND * 20);
        let key = b.put("a");
        assert_eq!(b.at(&key, SECOND * 19), "fresh");
        assert_eq!(b.at(&key, SECOND * 38), "fresh");
        assert_eq!(b.at(&key, SECOND * 58), "nothing");
    }

    #[test]
    fn an_outage_prolongs_by_offline_ttl_only() {
        let mut b = bench(|config| config.offline_ttl = SECOND * 100);
        let key = b.put("a");
        assert_eq!(b.at(&key, TTL + SECOND), "nothing", "the KMS may be there: it must be asked");
        assert!(b.fail(&key, Verdict::Unknown, TTL + SECOND));
        assert_eq!(b.at(&key, TTL + SECOND * 2), "offline");
        assert_eq!(b.at(&key, TTL + SECOND * 99), "offline");
        assert_eq!(b.at(&key, TTL + SECOND * 100), "nothing");
    }

    #[test]
    fn without_offline_ttl_an_outage_prolongs_nothing() {
        let mut b = bench(|_| ());
        let key = b.put("a");
        assert!(!b.fail(&key, Verdict::Unknown, TTL + SECOND));
        assert_eq!(b.at(&key, TTL + SECOND * 2), "nothing");
    }

    #[test]
    fn the_end_of_an_outage_ends_the_prolongation() {
        let mut b = bench(|config| config.offline_ttl = SECOND * 100);
        let key = b.put("a");
        assert!(b.fail(&key, Verdict::Unknown, TTL + SECOND));
        b.cache.answered();
        assert_eq!(b.at(&key, TTL + SECOND * 2), "nothing");
    }

    #[test]
    fn a_refusal_drops_a_fresh_key() {
        let mut b = bench(|config| config.offline_ttl = SECOND * 100);
        let key = b.put("a");
        assert!(!b.fail(&key, Verdict::Refused, SECOND));
        assert_eq!(b.at(&key, SECOND), "nothing");
        assert_eq!(b.cache.revocations, 1);
    }

    #[test]
    fn another_failure_leaves_a_fresh_key_and_prolongs_none() {
        let mut b = bench(|config| config.offline_ttl = SECOND * 100);
        let key = b.put("a");
        assert!(!b.fail(&key, Verdict::Failed, SECOND));
        assert_eq!(b.at(&key, SECOND), "fresh");
        assert!(!b.fail(&key, Verdict::Failed, TTL));
        assert_eq!(b.at(&key, TTL), "nothing");
    }

    #[test]
    fn the_least_recently_used_key_makes_room() {
        let mut b = bench(|config| config.capacity = 2);
        let (first, second) = (b.put("1"), b.put("2"));
        assert_eq!(b.at(&first, SECOND), "fresh");
        let third = b.put("3");
        assert_eq!(b.at(&second, SECOND), "nothing");
        assert_eq!((b.at(&first, SECOND), b.at(&third, SECOND)), ("fresh", "fresh"));
        assert_eq!(b.cache.evictions, 1);
    }

    #[test]
    fn sweeping_lets_go_of_what_is_over() {
        let mut b = bench(|config| config.offline_ttl = SECOND * 100);
        let fingerprint = name("a");
        let key = Arc::new(DataKey { secret: SecretBytes::zeroed(32), fresh_until: b.start + TTL });
        b.cache.put(fingerprint, &key, b.start);
        b.cache.sweep(b.start + TTL + SECOND * 99);
        assert_eq!(Arc::strong_count(&key), 2);
        b.cache.sweep(b.start + TTL + SECOND * 100);
        assert_eq!(Arc::strong_count(&key), 1);
    }

    #[test]
    fn errors_are_remembered_for_their_time() {
        let mut b = bench(|_| ());
        let key = name("a");
        b.fail(&key, Verdict::Refused, Duration::ZERO);
        assert!(b.cache.remembered_error(&key, b.start).is_some());
        assert!(b.cache.remembered_error(&key, b.start + SECOND).is_none());
    }
}
