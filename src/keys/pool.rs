//! New keys that lie ready, and those who wait for one. Judges by the time it is given; the calls are made elsewhere.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{KeyError, KeyStats, KeysConfig, NewKey};

pub(super) struct Pool {
    ready: VecDeque<Ready>,
    waiters: VecDeque<oneshot::Sender<Result<NewKey, KeyError>>>,
    /// Calls started and not yet reported by `add` or `fail`.
    under_way: usize,
    /// How many keys should be ready or under way.
    target: usize,
    grown_at: Option<Instant>,
    /// The last failure; no calls are made until its time is over.
    trouble: Option<(KeyError, Instant)>,
    least: usize,
    most: usize,
    most_under_way: usize,
    files_per_key: u32,
    max_age: Duration,
    discarded: u64,
    /// Counts the calls of `clear`; keys asked for before the last one are not kept.
    cleared_at: Option<Instant>,
}

struct Ready {
    new: NewKey,
    asked_at: Instant,
    files_left: u32,
}

pub(super) enum Take {
    Key(NewKey),
    /// A call failed a moment ago.
    Trouble(KeyError),
    Empty,
}

/// A pool that runs empty again and again grows step by step: keys that nobody takes were paid for in vain.
const GROWTH_INTERVAL: Duration = Duration::from_millis(50);

impl Pool {
    pub(super) fn new(config: &KeysConfig) -> Self {
        let least = config.pool_target.max(1);
        Self {
            ready: VecDeque::new(),
            waiters: VecDeque::new(),
            under_way: 0,
            target: least,
            grown_at: None,
            trouble: None,
            least,
            most: config.pool_max.max(least),
            most_under_way: config.pool_inflight.max(1),
            files_per_key: config.files_per_data_key.max(1),
            // A new file's key must not be up for renewal at once.
            max_age: config.key_ttl / 2,
            discarded: 0,
            cleared_at: None,
        }
    }

    /// Files that ask in a row get the same key until `files_per_data_key` of them have it.
    pub(super) fn take(&mut self, now: Instant) -> Take {
        self.discard_old(now);
        if let Some(first) = self.ready.front_mut() {
            first.files_left -= 1;
            let new = first.new.clone();
            if first.files_left == 0 {
                self.ready.pop_front();
            }
            return Take::Key(new);
        }
        if let Some((error, until)) = &self.trouble
            && now < *until
        {
            return Take::Trouble(error.clone());
        }
        self.grow(now);
        Take::Empty
    }

    /// A place in the queue; keys and errors come through it.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<Result<NewKey, KeyError>> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.push_back(sender);
        receiver
    }

    /// How many calls to start now; they count as under way from here on.
    pub(super) fn start(&mut self, now: Instant) -> usize {
        if self.trouble.as_ref().is_some_and(|(_, until)| now < *until) {
            return 0;
        }
        self.waiters.retain(|waiter| !waiter.is_closed());
        let asked_for = self.waiters.len().div_ceil(self.files_per_key as usize);
        let missing = (self.target + asked_for).saturating_sub(self.ready.len() + self.under_way);
        let wanted = missing.min(self.most_under_way.saturating_sub(self.under_way));
        // After a failure one call finds out whether it is over.
        let wanted = if self.trouble.is_some() { wanted.min(usize::from(self.under_way == 0)) } else { wanted };
        self.under_way += wanted;
        wanted
    }

    /// A call brought a key: first for those who wait, the rest for later.
    pub(super) fn add(&mut self, new: NewKey, asked_at: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.trouble = None;
        let mut files_left = self.files_per_key;
        while files_left > 0
            && let Some(waiter) = self.waiters.pop_front()
        {
            if waiter.send(Ok(new.clone())).is_ok() {
                files_left -= 1;
            }
        }
        let cleared = self.cleared_at.is_some_and(|cleared_at| asked_at <= cleared_at);
        if files_left > 0 && !cleared {
            self.ready.push_back(Ready { new, asked_at, files_left });
        }
    }

    /// A call failed. Those who wait learn it when the KMS has decided, or when no other call is under way.
    pub(super) fn fail(&mut self, error: KeyError, decided: bool, until: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        if decided || self.under_way == 0 {
            for waiter in self.waiters.drain(..) {
                // A waiter that gave up needs no answer.
                let _ = waiter.send(Err(error.clone()));
            }
        }
        self.trouble = Some((error, until));
    }

    /// Keys that grew old unused show that the pool is too large.
    pub(super) fn discard_old(&mut self, now: Instant) {
        let before = self.ready.len();
        self.ready.retain(|ready| now.saturating_duration_since(ready.asked_at) < self.max_age);
        let discarded = before - self.ready.len();
        if discarded > 0 {
            self.discarded += discarded as u64;
            self.target = (self.target / 2).max(self.least);
        }
    }

    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.cleared_at = Some(Instant::now());
    }

    pub(super) fn count(&self, stats: &mut KeyStats) {
        stats.pool_ready = self.ready.len() as u64;
        stats.pool_under_way = self.under_way as u64;
        stats.pool_target = self.target as u64;
        stats.pool_discarded = self.discarded;
    }

    /// Empty although calls are under way: demand is higher than the pool was made for.
    fn grow(&mut self, now: Instant) {
        let lately = self.grown_at.is_some_and(|at| now.saturating_duration_since(at) < GROWTH_INTERVAL);
        if self.under_way > 0 && !lately {
            self.target = (self.target * 2).min(self.most);
            self.grown_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::secret::SecretBytes;
    use crate::keys::DataKey;
    use crate::kms::{KeySpec, WrappedKey};

    fn pool(change: impl FnOnce(&mut KeysConfig)) -> Pool {
        let mut config = KeysConfig::new("id", KeySpec::Aes256);
        change(&mut config);
        Pool::new(&config)
    }

    fn new_key(blob: &str) -> NewKey {
        let key = Arc::new(DataKey { secret: SecretBytes::zeroed(32), fresh_until: Instant::now() });
        NewKey { key, wrapped: WrappedKey { key_id: "id".into(), key_version: String::new(), blob: blob.into() } }
    }

    fn taken(pool: &mut Pool, now: Instant) -> Option<String> {
        match pool.take(now) {
            Take::Key(new) => Some(new.wrapped.blob),
            _ => None,
        }
    }

    #[test]
    fn it_fills_up_to_its_target_and_no_further() {
        let now = Instant::now();
        let mut pool = pool(|_| ());
        assert_eq!(pool.start(now), 8);
        assert_eq!(pool.start(now), 0);
        for n in 0..8 {
            pool.add(new_key(&n.to_string()), now);
        }
        assert_eq!(pool.start(now), 0);
        assert_eq!(taken(&mut pool, now).as_deref(), Some("0"));
        assert_eq!(pool.start(now), 1);
    }

    #[test]
    fn files_in_a_row_share_a_key_and_no_more_than_allowed() {
        let now = Instant::now();
        let mut pool = pool(|config| config.files_per_data_key = 3);
        pool.start(now);
        pool.add(new_key("a"), now);
        pool.add(new_key("b"), now);
        let row: Vec<_> = (0..7).map(|_| taken(&mut pool, now).unwrap_or_default()).collect();
        assert_eq!(row, ["a", "a", "a", "b", "b", "b", ""]);
    }

    #[test]
    fn waiters_are_served_in_order_and_share_too() {
        let now = Instant::now();
        let mut pool = pool(|config| config.files_per_data_key = 2);
        let mut waiters: Vec<_> = (0..4).map(|_| pool.wait()).collect();
        drop(waiters.remove(1));
        assert_eq!(pool.start(now), 8 + 2);
        pool.add(new_key("a"), now);
        pool.add(new_key("b"), now);
        let got: Vec<_> =
            waiters.iter_mut().map(|w| w.try_recv().expect("served").expect("a key").wrapped.blob).collect();
        assert_eq!(got, ["a", "a", "b"]);
        assert_eq!(taken(&mut pool, now).as_deref(), Some("b"));
    }

    #[test]
    fn demand_grows_the_pool_in_steps_and_disuse_shrinks_it() {
        let mut now = Instant::now();
        let mut pool = pool(|_| ());
        assert!(taken(&mut pool, now).is_none());
        assert_eq!(pool.target, 8, "an empty pool at the start is no sign of demand");
        pool.start(now);
        for _ in 0..100 {
            assert!(taken(&mut pool, now).is_none());
        }
        assert_eq!(pool.target, 16);
        for _ in 0..10 {
            now += GROWTH_INTERVAL;
            assert!(taken(&mut pool, now).is_none());
        }
        assert_eq!(pool.target, 256);
        pool.add(new_key("a"), now);
        pool.discard_old(now + pool.max_age);
        assert_eq!((pool.target, pool.ready.len(), pool.discarded), (128, 0, 1));
    }

    #[test]
    fn calls_under_way_are_bounded() {
        let now = Instant::now();
        let mut pool = pool(|config| config.pool_inflight = 4);
        let _waiters: Vec<_> = (0..100).map(|_| pool.wait()).collect();
        assert_eq!(pool.start(now), 4);
        assert_eq!(pool.start(now), 0);
    }

    #[test]
    fn trouble_is_told_at_once_and_passes() {
        let now = Instant::now();
        let until = now + Duration::from_secs(2);
        let mut pool = pool(|_| ());
        let mut waiter = pool.wait();
        assert_eq!(pool.start(now), 9);
        pool.fail(KeyError::Stopped, false, until);
        assert!(waiter.try_recv().is_err(), "other calls may still bring a key");
        pool.fail(KeyError::Stopped, true, until);
        assert!(matches!(waiter.try_recv(), Ok(Err(KeyError::Stopped))));
        assert!(matches!(pool.take(now), Take::Trouble(_)));
        assert_eq!(pool.start(now), 0);
        assert!(matches!(pool.take(until), Take::Empty));
        pool.under_way = 0;
        assert_eq!(pool.start(until), 1, "one call tries whether it is over");
        assert_eq!(pool.start(until), 0);
    }

    #[test]
    fn keys_asked_for_before_a_clearing_are_not_kept() {
        let asked_at = Instant::now();
        let mut pool = pool(|_| ());
        pool.start(asked_at);
        pool.clear();
        pool.add(new_key("a"), asked_at);
        assert!(pool.ready.is_empty());
    }
}
