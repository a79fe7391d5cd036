//! Keys against a KMS that does as it is told, in paused time: who waits for whom, how long, and for how many calls.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{advance, sleep};

use super::*;
use crate::kms::{BoxFuture, GeneratedKey, KeyDescription, KmsError, Refusal, RefusalKind};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone)]
enum Mood {
    Answers,
    /// After this long.
    Slow(Duration),
    Hangs,
    Fails(KmsError),
    /// When the test says so.
    FailsLater(Arc<Notify>, KmsError),
    Panics,
    /// Until the test says so.
    Waits(Arc<Notify>),
    /// Names another KMS key than asked for.
    NamesAnotherKey,
}

struct FakeKms {
    mood: Mutex<Mood>,
    /// Moods of the next calls, before `mood`.
    next: Mutex<VecDeque<Mood>>,
    decrypts: AtomicUsize,
    generates: AtomicUsize,
    re_encrypts: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    complaints: AtomicU64,
}

impl FakeKms {
    fn be(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn calls(&self) -> (usize, usize) {
        (self.decrypts.load(Ordering::SeqCst), self.generates.load(Ordering::SeqCst))
    }

    async fn act(&self) -> Result<Mood, KmsError> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        let mood = self.next.lock().pop_front().unwrap_or_else(|| self.mood.lock().clone());
        let result = match &mood {
            Mood::Answers | Mood::NamesAnotherKey => Ok(()),
            Mood::Slow(time) => {
                sleep(*time).await;
                Ok(())
            }
            Mood::Hangs => std::future::pending().await,
            Mood::Fails(error) => Err(error.clone()),
            Mood::FailsLater(notify, error) => {
                notify.notified().await;
                Err(error.clone())
            }
            Mood::Panics => panic!("a KMS client with a bug"),
            Mood::Waits(notify) => {
                notify.notified().await;
                Ok(())
            }
        };
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        result.map(|()| mood)
    }
}

impl Kms for FakeKms {
    fn generate_data_key<'a>(
        &'a self,
        key_id: &'a str,
        spec: KeySpec,
    ) -> BoxFuture<'a, Result<GeneratedKey, KmsError>> {
        Box::pin(async move {
            let number = self.generates.fetch_add(1, Ordering::SeqCst);
            let key_id = match self.act().await? {
                Mood::NamesAnotherKey => "another".to_owned(),
                _ => key_id.to_owned(),
            };
            let wrapped = WrappedKey { key_id, key_version: "v".into(), blob: format!("new-{number}") };
            Ok(GeneratedKey { plaintext: plaintext(&wrapped.blob, spec.data_key_len()), wrapped })
        })
    }

    fn decrypt<'a>(&'a self, wrapped: &'a WrappedKey, len: usize) -> BoxFuture<'a, Result<SecretBytes, KmsError>> {
        Box::pin(async move {
            self.decrypts.fetch_add(1, Ordering::SeqCst);
            self.act().await?;
            Ok(plaintext(&wrapped.blob, len))
        })
    }

    fn re_encrypt<'a>(&'a self, old: &'a WrappedKey, to: &'a str) -> BoxFuture<'a, Result<WrappedKey, KmsError>> {
        Box::pin(async move {
            self.re_encrypts.fetch_add(1, Ordering::SeqCst);
            self.act().await?;
            // Twice the same letters: the same plaintext.
            Ok(WrappedKey { key_id: to.into(), key_version: "v2".into(), blob: old.blob.repeat(2) })
        })
    }

    fn describe_key<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<KeyDescription, KmsError>> {
        unreachable!("keys never describes")
    }

    fn create_key(&self, _: KeySpec) -> BoxFuture<'_, Result<String, KmsError>> {
        unreachable!("keys never creates KMS keys")
    }

    fn complaints(&self) -> u64 {
        self.complaints.load(Ordering::SeqCst)
    }
}

/// A key that can be told from others.
fn plaintext(blob: &str, len: usize) -> SecretBytes {
    let mut key = SecretBytes::zeroed(len);
    for (byte, letter) in key.expose_mut().iter_mut().zip(blob.bytes().cycle()) {
        *byte = letter;
    }
    key
}

fn wrapped(blob: &str) -> WrappedKey {
    WrappedKey { key_id: "cmk".into(), key_version: "v".into(), blob: blob.into() }
}

fn denied() -> KmsError {
    let error = KmsError::from(Refusal::new("decrypt", "KMS.0206".into(), "disabled".into(), None, 400));
    assert_eq!(error.kind(), Some(RefusalKind::Disabled));
    error
}

fn throttled() -> KmsError {
    let error = KmsError::from(Refusal::new("decrypt", "KMS.0407".into(), "too many".into(), None, 401));
    assert!(error.is_throttled());
    error
}

fn unreachable() -> KmsError {
    KmsError::unreachable("no route")
}

fn set_up(change: impl FnOnce(&mut KeysConfig)) -> (Arc<FakeKms>, Arc<Keys>) {
    let kms = Arc::new(FakeKms {
        mood: Mutex::new(Mood::Answers),
        next: Mutex::default(),
        decrypts: AtomicUsize::new(0),
        generates: AtomicUsize::new(0),
        re_encrypts: AtomicUsize::new(0),
        under_way: AtomicUsize::new(0),
        most_under_way: AtomicUsize::new(0),
        complaints: AtomicU64::new(0),
    });
    let mut config = KeysConfig::new("cmk", KeySpec::Aes256);
    config.idle_ttl = SECOND * 3600;
    change(&mut config);
    let keys = Keys::new(kms.clone(), config, Handle::current());
    (kms, keys)
}

/// Lets the tasks that can run do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_of_a_cold_file_make_one_call() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Slow(SECOND));
    let readers = (0..1000).map(|_| keys.fetch(&wrapped("a")));
    for key in join_all(readers).await {
        assert_eq!(key.expect("a key").secret(), &plaintext("a", 32));
    }
    assert_eq!(kms.calls().0, 1);
    let stats = keys.stats();
    assert_eq!((stats.kms_decrypts, stats.joined, stats.entries), (1, 999, 1));
    assert!(keys.cached(&wrapped("a")).is_some_and(|key| key.is_fresh()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_share_calls_too() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Slow(Duration::from_millis(2)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (keys, runtime) = (keys.clone(), Handle::current());
            std::thread::spawn(move || {
                for round in 0..20 {
                    for n in 0..50 {
                        let wanted = wrapped(&format!("{}", (n * 7 + round) % 50));
                        let key = keys.cached(&wanted).map_or_else(|| runtime.block_on(keys.fetch(&wanted)), Ok);
                        assert_eq!(key.expect("a key").secret(), &plaintext(&wanted.blob, 32));
                    }
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| thread.join().expect("no panic")))
        .await
        .expect("joins");
    assert_eq!(kms.calls().0, 50);
}

#[tokio::test(start_paused = true)]
async fn different_keys_do_not_wait_for_each_other() {
    let (kms, keys) = set_up(|_| ());
    kms.next.lock().push_back(Mood::Hangs);
    let stuck = keys.fetch(&wrapped("a"));
    settle().await;
    assert!(keys.fetch(&wrapped("b")).await.is_ok());
    assert!(stuck.await.expect_err("it hangs").is_unreachable());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_gives_up_does_not_take_the_call_away() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Slow(SECOND));
    let (first, second) = (keys.fetch(&wrapped("a")), keys.fetch(&wrapped("a")));
    drop(first);
    assert!(second.await.is_ok());
    drop(keys.fetch(&wrapped("b")));
    sleep(SECOND * 2).await;
    assert!(keys.cached(&wrapped("b")).is_some());
    assert_eq!(kms.calls().0, 2);
}

#[tokio::test(start_paused = true)]
async fn no_wait_outlasts_the_deadline() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Hangs);
    let start = Instant::now();
    let error = keys.fetch(&wrapped("a")).await.expect_err("it hangs");
    assert!(error.is_unreachable() && !error.is_denied(), "{error}");
    assert_eq!(start.elapsed(), SECOND * 10);
    let start = Instant::now();
    let error = keys.new_key().await.expect_err("it hangs");
    assert!(error.is_unreachable(), "{error}");
    assert!(start.elapsed() <= SECOND * 10);
}

#[tokio::test(start_paused = true)]
async fn a_cached_key_is_served_while_the_kms_hangs() {
    let (kms, keys) = set_up(|_| ());
    keys.fetch(&wrapped("a")).await.expect("a key");
    kms.be(Mood::Hangs);
    advance(SECOND * 299).await;
    assert!(keys.cached(&wrapped("a")).is_some());
    assert!(keys.fetch(&wrapped("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_disabled_kms_key_opens_nothing_after_key_ttl() {
    let (kms, keys) = set_up(|config| config.offline_ttl = SECOND * 1000);
    let key = keys.fetch(&wrapped("a")).await.expect("a key");
    kms.be(Mood::Fails(denied()));
    advance(SECOND * 300).await;
    assert!(!key.is_fresh());
    assert!(keys.cached(&wrapped("a")).is_none());
    assert!(keys.fetch(&wrapped("a")).await.expect_err("it is disabled").is_denied());
    kms.be(Mood::Fails(unreachable()));
    advance(SECOND * 10).await;
    assert!(keys.fetch(&wrapped("a")).await.is_err(), "a refused key does not come back in an outage");
}

#[tokio::test(start_paused = true)]
async fn use_renews_a_key_and_a_refusal_then_drops_it_early() {
    let (kms, keys) = set_up(|_| ());
    keys.fetch(&wrapped("a")).await.expect("a key");
    advance(SECOND * 240).await;
    assert!(keys.cached(&wrapped("a")).is_some());
    settle().await;
    assert_eq!(kms.calls().0, 2);
    advance(SECOND * 200).await;
    assert!(keys.cached(&wrapped("a")).is_some(), "it was renewed at 240 s");
    kms.be(Mood::Fails(denied()));
    advance(SECOND * 50).await;
    assert!(keys.cached(&wrapped("a")).is_some());
    settle().await;
    assert!(keys.cached(&wrapped("a")).is_none());
    assert_eq!(keys.stats().revocations, 1);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_key_serves_for_offline_ttl_without_waiting() {
    let (kms, keys) = set_up(|config| config.offline_ttl = SECOND * 100);
    keys.fetch(&wrapped("a")).await.expect("a key");
    kms.be(Mood::Hangs);
    advance(SECOND * 300).await;
    assert!(keys.cached(&wrapped("a")).is_none(), "the KMS must be asked first");
    assert!(keys.fetch(&wrapped("a")).await.is_ok());

    let start = Instant::now();
    assert!(keys.cached(&wrapped("a")).is_some());
    assert!(keys.fetch(&wrapped("a")).await.is_ok());
    assert_eq!(start.elapsed(), Duration::ZERO, "the outage is known by now");
    assert!(keys.stats().offline_serves >= 3);

    advance(SECOND * 100).await;
    assert!(keys.cached(&wrapped("a")).is_none());
    assert!(keys.fetch(&wrapped("a")).await.expect_err("it is over").is_unreachable());
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_kms_decides_again() {
    let (kms, keys) = set_up(|config| config.offline_ttl = SECOND * 1000);
    keys.fetch(&wrapped("a")).await.expect("a key");
    kms.be(Mood::Fails(unreachable()));
    advance(SECOND * 301).await;
    assert!(keys.fetch(&wrapped("a")).await.is_ok());
    kms.be(Mood::Fails(denied()));
    advance(SECOND).await;
    // This look-up finds out in the background.
    keys.cached(&wrapped("a"));
    settle().await;
    assert!(keys.cached(&wrapped("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn refusals_are_remembered_and_outages_for_less() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Fails(denied()));
    for _ in 0..5 {
        assert!(keys.fetch(&wrapped("a")).await.expect_err("it is disabled").is_denied());
    }
    assert_eq!(kms.calls().0, 1);
    advance(SECOND * 2).await;
    assert!(keys.fetch(&wrapped("a")).await.is_err());
    assert_eq!(kms.calls().0, 2);

    kms.be(Mood::Fails(unreachable()));
    for _ in 0..5 {
        assert!(keys.fetch(&wrapped("b")).await.expect_err("no route").is_unreachable());
    }
    assert_eq!(kms.calls().0, 3);
    advance(Duration::from_millis(500)).await;
    kms.be(Mood::Answers);
    assert!(keys.fetch(&wrapped("b")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn foreign_kms_keys_are_refused_without_a_call() {
    let (kms, keys) = set_up(|config| config.allowed_key_ids = Some(vec!["CMK".into()]));
    let foreign = WrappedKey { key_id: "other".into(), ..wrapped("a") };
    let error = keys.fetch(&foreign).await.expect_err("foreign");
    assert!(matches!(error, KeyError::ForeignKey { .. }) && error.is_denied());
    assert_eq!(keys.prefetch(&foreign), Prefetch::No);
    assert_eq!(kms.calls().0, 0);
    assert!(keys.fetch(&wrapped("a")).await.is_ok());
    kms.be(Mood::NamesAnotherKey);
    let error = keys.new_key().await.expect_err("its file could not be opened later");
    assert!(matches!(error, KeyError::ForeignKey { .. }));
}

#[tokio::test(start_paused = true)]
async fn files_that_share_a_key_have_it_wrapped_anew_by_one_call() {
    for (files_per_data_key, calls) in [(1, 20), (10, 1)] {
        let (kms, keys) = set_up(|config| config.files_per_data_key = files_per_data_key);
        kms.be(Mood::Slow(SECOND));
        let rewrapper = Rewrapper::new(keys, "other");
        let old = wrapped("a");
        for result in join_all((0..20).map(|_| rewrapper.rewrap(&old))).await {
            let (new, key) = result.expect("re-wraps");
            assert_eq!((&new.key_id[..], &new.blob[..]), ("other", "aa"));
            assert_eq!(key.secret(), &plaintext("a", 32));
        }
        assert_eq!(kms.re_encrypts.load(Ordering::SeqCst), calls);
        assert_eq!(kms.calls().0, 1, "unwrapped once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_re_wrap_that_failed_is_asked_for_again() {
    let (kms, keys) = set_up(|config| config.files_per_data_key = 2);
    let rewrapper = Rewrapper::new(keys, "other");
    kms.be(Mood::Fails(denied()));
    assert!(rewrapper.rewrap(&wrapped("a")).await.expect_err("refused").is_denied());
    kms.be(Mood::Hangs);
    assert!(rewrapper.rewrap(&wrapped("a")).await.expect_err("no answer").is_outage());
    kms.be(Mood::Answers);
    assert!(rewrapper.rewrap(&wrapped("a")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn kms_keys_that_are_not_allowed_are_neither_source_nor_destination() {
    for (allowed, foreign) in [("CMK", "other"), ("other", "cmk")] {
        let (kms, keys) = set_up(|config| config.allowed_key_ids = Some(vec![allowed.into()]));
        let error = Rewrapper::new(keys, "other").rewrap(&wrapped("a")).await.expect_err("foreign");
        assert!(matches!(error, KeyError::ForeignKey { key_id } if key_id == foreign));
        assert_eq!(kms.re_encrypts.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_dies_is_told_and_can_be_repeated() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Panics);
    assert!(matches!(keys.fetch(&wrapped("a")).await, Err(KeyError::Stopped)));
    assert!(matches!(keys.new_key().await, Err(KeyError::Stopped)));
    kms.be(Mood::Answers);
    assert!(keys.fetch(&wrapped("a")).await.is_ok());
    assert!(keys.new_key().await.is_ok());
    assert_eq!(keys.stats().fetches_under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn the_cache_is_bounded() {
    let (_, keys) = set_up(|config| config.capacity = 10);
    for n in 0..25 {
        keys.fetch(&wrapped(&n.to_string())).await.expect("a key");
    }
    let stats = keys.stats();
    assert_eq!((stats.entries, stats.evictions), (10, 15));
    assert!(keys.cached(&wrapped("14")).is_none() && keys.cached(&wrapped("15")).is_some());
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_no_overflow() {
    let (_, keys) = set_up(|config| {
        config.key_ttl = Duration::MAX;
        config.idle_ttl = Duration::MAX;
        config.offline_ttl = Duration::MAX;
        config.negative_ttl = Duration::MAX;
        config.deadline = Duration::MAX;
    });
    keys.fetch(&wrapped("a")).await.expect("a key");
    advance(SECOND * 3600 * 24 * 30).await;
    assert!(keys.cached(&wrapped("a")).is_some());
    assert!(keys.new_key().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_over_leave_memory_by_themselves() {
    let (_, keys) = set_up(|config| config.idle_ttl = SECOND * 20);
    let key = keys.fetch(&wrapped("a")).await.expect("a key");
    assert_eq!(Arc::strong_count(&key), 2);
    sleep(SECOND * 30).await;
    assert_eq!(Arc::strong_count(&key), 1);
    assert_eq!(keys.stats().expirations, 1);
}

#[tokio::test(start_paused = true)]
async fn evicting_all_covers_calls_under_way_and_the_pool() {
    let (kms, keys) = set_up(|_| ());
    keys.fetch(&wrapped("a")).await.expect("a key");
    keys.new_key().await.expect("a key");
    settle().await;
    let gate = Arc::new(Notify::new());
    kms.next.lock().push_back(Mood::Waits(gate.clone()));
    let under_way = keys.fetch(&wrapped("b"));
    settle().await;
    keys.evict_all();
    gate.notify_one();
    assert!(under_way.await.is_ok(), "who waits gets the key");
    assert!(keys.cached(&wrapped("a")).is_none() && keys.cached(&wrapped("b")).is_none());
    let stats = keys.stats();
    assert_eq!((stats.entries, stats.pool_ready), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn prefetching_fills_the_cache_within_its_bound() {
    let (kms, keys) = set_up(|config| config.prefetch_inflight = 3);
    kms.be(Mood::Slow(SECOND));
    use Prefetch::{Busy, Started, There};
    let did: Vec<Prefetch> = (0..5).map(|n| keys.prefetch(&wrapped(&n.to_string()))).collect();
    assert_eq!(did, [Started, Started, Started, Busy, Busy]);
    assert_eq!(keys.prefetch(&wrapped("0")), There, "on its way");
    sleep(SECOND * 2).await;
    assert!(keys.cached(&wrapped("0")).is_some());
    assert_eq!(keys.prefetch(&wrapped("0")), There);
    assert_eq!(kms.calls().0, 3);
}

#[tokio::test(start_paused = true)]
async fn fetches_that_somebody_waits_for_leave_less_room_for_others() {
    let (kms, keys) = set_up(|config| config.prefetch_inflight = 3);
    kms.be(Mood::Slow(SECOND));
    let waiting: Vec<_> = (0..3).map(|n| keys.fetch(&wrapped(&n.to_string()))).collect();
    assert_eq!(keys.prefetch(&wrapped("a")), Prefetch::Busy);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    assert_eq!(keys.prefetch(&wrapped("a")), Prefetch::Started);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_ahead_that_fails_is_no_answer_to_who_asks() {
    let (kms, keys) = set_up(|_| ());
    kms.next.lock().push_back(Mood::Fails(throttled()));
    assert_eq!(keys.prefetch(&wrapped("a")), Prefetch::Started);
    settle().await;
    assert!(keys.fetch(&wrapped("a")).await.is_ok(), "the failure is not remembered");
    // Nor for somebody who joined it on its way.
    let gate = Arc::new(Notify::new());
    kms.next.lock().extend([Mood::FailsLater(gate.clone(), throttled()), Mood::Answers]);
    assert_eq!(keys.prefetch(&wrapped("b")), Prefetch::Started);
    settle().await;
    let joined = keys.fetch(&wrapped("b"));
    gate.notify_one();
    assert!(joined.await.is_ok());
    // A refusal is one for everybody.
    kms.next.lock().push_back(Mood::Fails(denied()));
    assert_eq!(keys.prefetch(&wrapped("c")), Prefetch::Started);
    settle().await;
    assert_eq!(keys.prefetch(&wrapped("c")), Prefetch::No);
    assert!(keys.fetch(&wrapped("c")).await.expect_err("it was refused").is_denied());
    assert_eq!(kms.calls().0, 5);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_complains_gets_fewer_fetches_ahead() {
    let (kms, keys) = set_up(|_| ());
    let ahead = |from: usize| {
        (from..from + 100).filter(|n| keys.prefetch(&wrapped(&n.to_string())) == Prefetch::Started).count()
    };
    kms.be(Mood::Slow(SECOND));
    assert_eq!(ahead(0), 8);
    sleep(SECOND * 2).await;
    assert_eq!(ahead(100), 16);
    // Somebody's call was refused at first, and a repetition made it good.
    kms.complaints.fetch_add(1, Ordering::SeqCst);
    sleep(SECOND * 2).await;
    assert_eq!(ahead(200), 8);
    kms.complaints.fetch_add(1, Ordering::SeqCst);
    sleep(SECOND * 2).await;
    assert_eq!(ahead(300), 4);
}

#[tokio::test(start_paused = true)]
async fn new_keys_come_from_the_pool_and_are_in_the_cache() {
    let (kms, keys) = set_up(|_| ());
    assert!(keys.take_new().is_none(), "nothing is made before it is asked for");
    settle().await;
    let new = keys.take_new().expect("the pool was filled meanwhile");
    assert_eq!(new.key.secret(), &plaintext(&new.wrapped.blob, 32));
    assert!(keys.cached(&new.wrapped).is_some_and(|key| Arc::ptr_eq(&key, &new.key)));
    let other = keys.new_key().await.expect("another");
    assert_ne!(other.wrapped, new.wrapped);
    settle().await;
    assert_eq!(kms.calls(), (0, 10));
    assert_eq!(keys.stats().pool_ready, 8);
}

#[tokio::test(start_paused = true)]
async fn files_in_a_row_share_a_key() {
    let (_, keys) = set_up(|config| config.files_per_data_key = 3);
    let mut blobs = Vec::new();
    for _ in 0..6 {
        blobs.push(keys.new_key().await.expect("a key").wrapped.blob);
    }
    assert_eq!(blobs, ["new-0", "new-0", "new-0", "new-1", "new-1", "new-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_bulk_create_overlaps_its_calls() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Slow(Duration::from_millis(10)));
    let start = Instant::now();
    let made = join_all((0..160).map(|_| keys.new_key())).await;
    assert!(made.iter().all(Result::is_ok));
    let different: std::collections::HashSet<_> = made.into_iter().flatten().map(|new| new.wrapped.blob).collect();
    assert_eq!(different.len(), 160);
    assert_eq!(kms.most_under_way.load(Ordering::SeqCst), 16);
    assert!(start.elapsed() <= Duration::from_millis(120), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_refusing_kms_is_not_asked_for_every_new_file() {
    let (kms, keys) = set_up(|_| ());
    kms.be(Mood::Fails(denied()));
    for _ in 0..100 {
        assert!(keys.new_key().await.expect_err("it is disabled").is_denied());
        assert!(keys.take_new().is_none());
    }
    let (_, first) = kms.calls();
    assert!(first <= 16, "{first} calls");
    advance(SECOND * 2).await;
    assert!(keys.new_key().await.is_err());
    assert_eq!(kms.calls().1, first + 1);
    kms.be(Mood::Answers);
    advance(SECOND * 2).await;
    assert!(keys.new_key().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_that_grew_old_in_the_pool_are_not_used() {
    let (kms, keys) = set_up(|_| ());
    let first = keys.new_key().await.expect("a key");
    settle().await;
    let (_, made) = kms.calls();
    advance(SECOND * 150).await;
    let next = keys.new_key().await.expect("a key");
    assert_eq!(next.wrapped.blob, format!("new-{made}"), "made after the others were thrown away");
    assert_ne!(next.wrapped, first.wrapped);
    assert!(next.key.is_fresh());
    assert_eq!(keys.stats().pool_discarded, 8);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_does_not_keep_the_keys_alive() {
    let (_, keys) = set_up(|_| ());
    let weak = Arc::downgrade(&keys);
    drop(keys);
    sleep(SECOND * 20).await;
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_runtime_that_is_gone_is_an_error_not_a_deadlock() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (_, keys) = runtime.block_on(async { set_up(|_| ()) });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert!(matches!(other.block_on(keys.fetch(&wrapped("a"))), Err(KeyError::Stopped)));
    assert!(matches!(other.block_on(keys.new_key()), Err(KeyError::Stopped)));
}

#[test]
fn debug_shows_the_kind_only() {
    let key = DataKey { secret: plaintext("a", 32), fresh_until: Instant::now() };
    assert_eq!(format!("{key:?}"), "DataKey");
}
