//! From a wrapped key to a usable one, and new keys before they are needed. The only room that asks the KMS.
//!
//! **Opening.** [`Keys::cached`] answers from memory and never blocks. On a miss the caller moves into a task and awaits
//! [`Keys::fetch`]: one KMS call serves any number of waiters, runs as a task of its own (a waiter that gives up does not
//! take it away from the others), and no wait outlasts [`KeysConfig::deadline`]. [`Keys::prefetch`] makes the same call for
//! nobody, as many at a time as the KMS takes without complaint; that it could not answer one of these is no answer to who
//! asks for the key itself.
//!
//! **Creating.** [`Keys::take_new`] takes from a small pool that is refilled in the background; [`Keys::new_key`] waits
//! for it.
//!
//! **Re-wrapping.** [`Rewrapper`] has wrapped keys wrapped anew by another version or another KMS key, and unwraps what came
//! of it.
//!
//! **How long a key serves.** From the start of the KMS call that gave it, for `key_ttl`; shortly before that ends, use
//! renews it in the background. After that the KMS must be asked again, and a refusal drops the key at once. Only while
//! the KMS *cannot answer* (unreachable, throttled, failing) may a key serve for `offline_ttl` more. So a revoked KMS key
//! opens nothing after `key_ttl`, or `key_ttl + offline_ttl` for someone who can cut the line to the KMS. Keys that
//! nobody uses go earlier (`idle_ttl`). Whoever holds an [`Arc<DataKey>`] keeps it in memory and asks
//! [`DataKey::is_fresh`] when it must be looked up anew.
//!
//! Locks: `state` and `pool` are held for short, never across an await, and never both.

mod cache;
mod error;
mod pace;
mod pool;
mod rewrap;
mod tasks;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::crypto::secret::SecretBytes;
use crate::kms::{KeySpec, Kms, WrappedKey};

pub use error::KeyError;
pub use rewrap::Rewrapper;

use cache::{Cache, Fingerprint, Found, Verdict};
use pace::{Landed, Pace};
use pool::{Pool, Take};
use tasks::{Flight, Refill, fly, generate, sweep_for_ever};

/// A data key in plaintext, in locked memory, wiped when the last holder lets go. `Debug` prints its kind only.
pub struct DataKey {
    secret: SecretBytes,
    fresh_until: Instant,
}

impl DataKey {
    /// The door to the bytes, for the derivation of a file's keys.
    pub fn secret(&self) -> &SecretBytes {
        &self.secret
    }

    /// Whether the KMS has agreed to its use recently enough. When not, ask [`Keys::cached`], then [`Keys::fetch`].
    pub fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

/// A key for a file that is about to be made. With `files_per_data_key` above 1, files made in a row get the same.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub key: Arc<DataKey>,
    pub wrapped: WrappedKey,
}

#[derive(Clone, Debug)]
pub struct KeysConfig {
    /// The KMS key that wraps new data keys.
    pub key_id: String,
    pub spec: KeySpec,
    /// Keys in the cache.
    pub capacity: usize,
    pub key_ttl: Duration,
    pub idle_ttl: Duration,
    /// How much longer than `key_ttl` a key may serve while the KMS cannot answer.
    pub offline_ttl: Duration,
    /// How long a refusal is remembered. That the KMS could not be asked is remembered for half a second at most.
    pub negative_ttl: Duration,
    /// Bound of every wait.
    pub deadline: Duration,
    /// Keys in the pool; doubles under demand up to `pool_max`, and halves when keys grow old unused.
    pub pool_target: usize,
    pub pool_max: usize,
    /// Calls for new keys at the same time, so that they leave room for the opening of files.
    pub pool_inflight: usize,
    /// Calls for old keys, whoever wants them, above which [`Keys::prefetch`] starts none.
    pub prefetch_inflight: usize,
    pub files_per_data_key: u32,
    /// A wrapped key that names another KMS key is refused without asking. `None` allows all. Holds ids, not aliases.
    pub allowed_key_ids: Option<Vec<String>>,
}

impl KeysConfig {
    pub fn new(key_id: impl Into<String>, spec: KeySpec) -> Self {
        Self {
            key_id: key_id.into(),
            spec,
            capacity: 10_000,
            key_ttl: Duration::from_secs(300),
            idle_ttl: Duration::from_secs(120),
            offline_ttl: Duration::ZERO,
            negative_ttl: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            pool_target: 8,
            pool_max: 256,
            pool_inflight: 16,
            prefetch_inflight: 24,
            files_per_data_key: 1,
            allowed_key_ids: None,
        }
    }

    /// Time is added up without overflow: a year stands for "for ever".
    fn bounded(mut self) -> Self {
        let lifetimes = [&mut self.key_ttl, &mut self.idle_ttl, &mut self.offline_ttl, &mut self.negative_ttl];
        for time in lifetimes.into_iter().chain([&mut self.deadline]) {
            *time = (*time).min(Duration::from_secs(365 * 24 * 3600));
        }
        self
    }

    fn allows(&self, key_id: &str) -> bool {
        self.allowed_key_ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id.eq_ignore_ascii_case(key_id)))
    }
}

/// Counters since the start, and sizes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStats {
    /// Look-ups answered from the cache, stale ones included.
    pub hits: u64,
    /// Calls of `cached` and `fetch` that found nothing to serve.
    pub misses: u64,
    /// Waiters that joined a call that was under way.
    pub joined: u64,
    /// Answers from a remembered error.
    pub negative_hits: u64,
    /// Keys served past `key_ttl` because the KMS could not answer.
    pub offline_serves: u64,
    pub kms_decrypts: u64,
    pub kms_generates: u64,
    /// Calls, of both kinds, in which the service said no.
    pub kms_refusals: u64,
    /// Calls, of both kinds, that failed otherwise.
    pub kms_failures: u64,
    /// Keys dropped for want of room.
    pub evictions: u64,
    /// Keys dropped for their age or because nobody used them.
    pub expirations: u64,
    /// Keys dropped because the service refused them.
    pub revocations: u64,
    /// New keys that grew too old in the pool.
    pub pool_discarded: u64,
    pub entries: u64,
    pub fetches_under_way: u64,
    pub pool_ready: u64,
    pub pool_under_way: u64,
    pub pool_target: u64,
}

pub struct Keys {
    me: Weak<Keys>,
    kms: Arc<dyn Kms>,
    config: KeysConfig,
    runtime: Handle,
    state: Mutex<State>,
    pool: Mutex<Pool>,
    counters: Counters,
}

struct State {
    cache: Cache,
    flights: HashMap<Fingerprint, UnderWay>,
    pace: Pace,
    /// Counts the calls of `evict_all`: what was asked before one is not kept after it.
    generation: u64,
}

/// A call that has not landed.
struct UnderWay {
    waiting: Waiting,
    /// Nobody wanted the key yet when it started.
    ahead: bool,
}

/// What [`Keys::prefetch`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    Started,
    /// The key is in memory, or on its way.
    There,
    /// Enough calls are under way; later it may start.
    Busy,
    /// No call is made for it: another KMS key's, or refused a moment ago.
    No,
}

type FetchResult = Result<Arc<DataKey>, KeyError>;
type Waiting = watch::Receiver<Option<FetchResult>>;

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    joined: AtomicU64,
    negative_hits: AtomicU64,
    offline_serves: AtomicU64,
    kms_decrypts: AtomicU64,
    kms_generates: AtomicU64,
    kms_refusals: AtomicU64,
    kms_failures: AtomicU64,
}

impl Keys {
    /// Calls run on `runtime`, which needs its timer and, for the real KMS, its I/O driver.
    pub fn new(kms: Arc<dyn Kms>, config: KeysConfig, runtime: Handle) -> Arc<Self> {
        let config = config.bounded();
        let keys = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            kms,
            state: Mutex::new(State {
                cache: Cache::new(&config),
                flights: HashMap::new(),
                pace: Pace::new(config.prefetch_inflight),
                generation: 0,
            }),
            pool: Mutex::new(Pool::new(&config)),
            config,
            runtime,
            counters: Counters::default(),
        });
        keys.runtime.spawn(sweep_for_ever(keys.me.clone(), keys.sweep_interval()));
        keys
    }

    pub fn config(&self) -> &KeysConfig {
        &self.config
    }

    /// The key if it may serve now. Never blocks and never waits for the KMS; renews an ageing key in the background.
    pub fn cached(&self, wrapped: &WrappedKey) -> Option<Arc<DataKey>> {
        let fingerprint = Fingerprint::of(wrapped);
        let found = self.state.lock().cache.find(&fingerprint, Instant::now());
        self.serve(found, fingerprint, wrapped)
    }

    /// The key, from the cache or from the KMS. The call to the KMS starts at once, whether or not the future is polled.
    pub fn fetch(
        self: &Arc<Self>,
        wrapped: &WrappedKey,
    ) -> impl Future<Output = Result<Arc<DataKey>, KeyError>> + Send + 'static + use<> {
        let patience = self.config.deadline;
        let deadline = Instant::now() + patience;
        let fingerprint = Fingerprint::of(wrapped);
        let start = self.find_or_start(fingerprint, wrapped);
        let keys = Arc::clone(self);
        let again = matches!(start, Start::Waiting { ahead: true, .. }).then(|| wrapped.clone());
        async move {
            let mut start = start;
            loop {
                let (mut waiting, ahead) = match start {
                    Start::Known(result) => return result,
                    Start::Waiting { waiting, ahead } => (waiting, ahead),
                };
                let result = match timeout_at(deadline, waiting.wait_for(Option::is_some)).await {
                    Ok(Ok(result)) => result.clone().unwrap_or(Err(KeyError::Stopped)),
                    Ok(Err(_closed)) => Err(KeyError::Stopped),
                    Err(_) => return keys.learn(fingerprint, Err(KeyError::TimedOut { after: patience }), None),
                };
                start = match (&result, &again) {
                    // It began before this wait and without its patience: the KMS is asked for this one's sake.
                    (Err(error), Some(wrapped)) if ahead && error.verdict() != Verdict::Refused => {
                        keys.find_or_start(fingerprint, wrapped)
                    }
                    _ => return result,
                };
            }
        }
    }

    /// Starts to fetch a key that will be needed soon, if the KMS has room for that. Never blocks.
    pub fn prefetch(&self, wrapped: &WrappedKey) -> Prefetch {
        if !self.config.allows(&wrapped.key_id) {
            return Prefetch::No;
        }
        let fingerprint = Fingerprint::of(wrapped);
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if state.cache.holds(&fingerprint, now) || state.flights.contains_key(&fingerprint) {
                return Prefetch::There;
            }
            if state.cache.remembered_error(&fingerprint, now).is_some() {
                return Prefetch::No;
            }
            if state.flights.len() >= self.config.prefetch_inflight || !state.pace.start() {
                return Prefetch::Busy;
            }
        }
        match self.start_in_background(fingerprint, wrapped, true) {
            true => Prefetch::Started,
            false => {
                self.state.lock().pace.lose();
                Prefetch::There
            }
        }
    }

    /// A new key if the pool has one. Never blocks; refills the pool in the background.
    pub fn take_new(&self) -> Option<NewKey> {
        let taken = self.pool.lock().take(Instant::now());
        self.refill();
        match taken {
            Take::Key(key) => Some(self.taken(key)),
            Take::Trouble(_) | Take::Empty => None,
        }
    }

    /// A new key, waiting for the pool if it is empty. While the KMS refuses, the error comes without a call.
    pub fn new_key(self: &Arc<Self>) -> impl Future<Output = Result<NewKey, KeyError>> + Send + 'static + use<> {
        let keys = Arc::clone(self);
        async move {
            let patience = keys.config.deadline;
            let deadline = Instant::now() + patience;
            let waiting = {
                let mut pool = keys.pool.lock();
                match pool.take(Instant::now()) {
                    Take::Key(key) => Ok(Ok(key)),
                    Take::Trouble(error) => Ok(Err(error)),
                    Take::Empty => Err(pool.wait()),
                }
            };
            keys.refill();
            let result = match waiting {
                Ok(known) => known,
                Err(waiting) => match timeout_at(deadline, waiting).await {
                    Ok(result) => result.unwrap_or(Err(KeyError::Stopped)),
                    Err(_) => Err(KeyError::TimedOut { after: patience }),
                },
            };
            result.map(|key| keys.taken(key))
        }
    }

    /// Starts to fill the pool, for a mount that expects to create files.
    pub fn warm_pool(&self) {
        self.refill();
    }

    /// Drops and wipes every key that is not in use elsewhere, in the cache and in the pool. Calls that are under way
    /// still answer those who wait for them, but are not kept.
    pub fn evict_all(&self) {
        {
            let mut state = self.state.lock();
            state.generation += 1;
            state.cache.clear();
        }
        self.pool.lock().clear();
    }

    pub fn stats(&self) -> KeyStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        let mut stats = KeyStats {
            hits: read(&c.hits),
            misses: read(&c.misses),
            joined: read(&c.joined),
            negative_hits: read(&c.negative_hits),
            offline_serves: read(&c.offline_serves),
            kms_decrypts: read(&c.kms_decrypts),
            kms_generates: read(&c.kms_generates),
            kms_refusals: read(&c.kms_refusals),
            kms_failures: read(&c.kms_failures),
            ..KeyStats::default()
        };
        {
            let state = self.state.lock();
            state.cache.count(&mut stats);
            stats.fetches_under_way = state.flights.len() as u64;
        }
        self.pool.lock().count(&mut stats);
        stats
    }

    /// The one place that decides whether a key that was found may serve. Callers: `cached`, `find_or_start`.
    fn serve(&self, found: Found, fingerprint: Fingerprint, wrapped: &WrappedKey) -> Option<Arc<DataKey>> {
        let key = match found {
            Found::Fresh(key) => key,
            Found::Ageing(key) => {
                self.start_in_background(fingerprint, wrapped, false);
                key
            }
            Found::Offline(key) => {
                self.start_in_background(fingerprint, wrapped, false);
                bump(&self.counters.offline_serves);
                key
            }
            Found::Nothing => {
                bump(&self.counters.misses);
                return None;
            }
        };
        bump(&self.counters.hits);
        Some(key)
    }

    fn find_or_start(self: &Arc<Self>, fingerprint: Fingerprint, wrapped: &WrappedKey) -> Start {
        if !self.config.allows(&wrapped.key_id) {
            return Start::Known(Err(KeyError::ForeignKey { key_id: wrapped.key_id.clone() }));
        }
        let found = self.state.lock().cache.find(&fingerprint, Instant::now());
        if let Some(key) = self.serve(found, fingerprint, wrapped) {
            return Start::Known(Ok(key));
        }
        self.join_or_start(fingerprint, wrapped)
    }

    /// Joins the call for this key, or starts one. Looks again under the lock, since a call may have ended since.
    fn join_or_start(self: &Arc<Self>, fingerprint: Fingerprint, wrapped: &WrappedKey) -> Start {
        let (sender, waiting) = watch::channel(None);
        let flight = {
            let mut state = self.state.lock();
            let now = Instant::now();
            if let Some(flight) = state.flights.get(&fingerprint) {
                bump(&self.counters.joined);
                return Start::Waiting { waiting: flight.waiting.clone(), ahead: flight.ahead };
            }
            if let Some(error) = state.cache.remembered_error(&fingerprint, now) {
                bump(&self.counters.negative_hits);
                return Start::Known(Err(error));
            }
            if let Found::Fresh(key) | Found::Ageing(key) | Found::Offline(key) = state.cache.find(&fingerprint, now) {
                return Start::Known(Ok(key));
            }
            state.flights.insert(fingerprint, UnderWay { waiting: waiting.clone(), ahead: false });
            Flight::new(Arc::clone(self), fingerprint, state.generation, false)
        };
        // Outside the lock: a runtime that is going down drops the task, and with it the flight, right here.
        self.runtime.spawn(fly(flight, wrapped.clone(), sender));
        Start::Waiting { waiting, ahead: false }
    }

    /// A call that nobody waits for; `ahead` for a key that nobody had. False if there is one, or if one failed a moment ago.
    fn start_in_background(&self, fingerprint: Fingerprint, wrapped: &WrappedKey, ahead: bool) -> bool {
        let Some(me) = self.me.upgrade() else { return false };
        let (sender, waiting) = watch::channel(None);
        let flight = {
            let mut state = self.state.lock();
            let busy = state.flights.contains_key(&fingerprint);
            if busy || state.cache.remembered_error(&fingerprint, Instant::now()).is_some() {
                return false;
            }
            state.flights.insert(fingerprint, UnderWay { waiting, ahead });
            Flight::new(me, fingerprint, state.generation, ahead)
        };
        self.runtime.spawn(fly(flight, wrapped.clone(), sender));
        true
    }

    /// Starts the calls that the pool wants.
    fn refill(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let wanted = self.pool.lock().start(Instant::now());
        for _ in 0..wanted {
            self.runtime.spawn(generate(Refill::new(Arc::clone(&me))));
        }
    }

    /// A key that leaves the pool is in the cache from then on: its file is about to be read.
    fn taken(&self, new: NewKey) -> NewKey {
        self.state.lock().cache.put_if_absent(Fingerprint::of(&new.wrapped), &new.key, Instant::now());
        new
    }

    /// Keeps what a call that has landed, or a wait in vain (`None`), taught about a key. During an outage an old key may be
    /// the result.
    fn learn(&self, fingerprint: Fingerprint, result: FetchResult, landed: Option<Landing>) -> FetchResult {
        let now = Instant::now();
        let complaints = self.kms.complaints();
        let mut state = self.state.lock();
        let mut ahead = false;
        if let Some(landing) = landed {
            // Under the same lock as what follows, so that nobody starts a second call in between.
            state.flights.remove(&fingerprint);
            ahead = landing.ahead;
            if ahead {
                let failed = result.as_ref().is_err_and(|error| error.verdict() == Verdict::Unknown);
                state.pace.land(Landed { complaints, failed, took: now - landing.asked_at });
            }
        }
        match result {
            Ok(key) => {
                state.cache.answered();
                if landed.is_some_and(|landing| landing.generation == state.generation) {
                    state.cache.put(fingerprint, &key, now);
                }
                Ok(key)
            }
            Err(error) => {
                let until = match error.verdict() {
                    Verdict::Unknown | Verdict::Failed if ahead => now,
                    _ => now + error.remembered_for(self.config.negative_ttl),
                };
                match state.cache.failed(&fingerprint, &error, error.verdict(), until, now) {
                    Some(key) => {
                        if !key.is_fresh() {
                            bump(&self.counters.offline_serves);
                        }
                        Ok(key)
                    }
                    None => Err(error),
                }
            }
        }
    }

    fn data_key(&self, secret: SecretBytes, asked_at: Instant) -> Arc<DataKey> {
        Arc::new(DataKey { secret, fresh_until: asked_at + self.config.key_ttl })
    }

    /// Often enough that a key outlives its time by a small part of it.
    fn sweep_interval(&self) -> Duration {
        (self.config.key_ttl.min(self.config.idle_ttl) / 4).clamp(Duration::from_millis(250), Duration::from_secs(15))
    }

    fn count_error(&self, error: &KeyError) {
        let said_no = error.kms().is_some_and(|error| error.refusal().is_some());
        bump(if said_no { &self.counters.kms_refusals } else { &self.counters.kms_failures });
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

enum Start {
    Known(FetchResult),
    Waiting { waiting: Waiting, ahead: bool },
}

/// Of a call: the generation in which it started, whether nobody wanted the key then, and when it was.
#[derive(Clone, Copy)]
struct Landing {
    generation: u64,
    ahead: bool,
    asked_at: Instant,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
