//! Cores that have nothing to do lend a hand with a request that takes long.
//!
//! One request is computed by one thread, and requests run side by side: that is the most there is where many are under
//! way. A single stream has few. With an engine as slow as SM4 without vector instructions, a request of a MiB keeps one
//! core busy for milliseconds while the others wait for it: such a request is cut into parts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A request that takes less is not worth waking a thread for. Tests share what no user would.
const WORTH: Duration = Duration::from_micros(if cfg!(test) { 10 } else { 200 });
/// Parts of a request at most.
const PARTS: usize = 8;

/// Requests that could be shared and are being computed.
static COMPUTING: AtomicUsize = AtomicUsize::new(0);

/// Whether a request is worth to be shared at all.
pub fn is_long(estimate: Duration) -> bool {
    estimate >= WORTH
}

/// Computes a request that takes `estimate` on one core. `cut` makes its parts, as many as it is told; `each` computes
/// one: here, and on cores that nobody else computes such a request on. Returns when all are done; a panic of one is the
/// caller's.
pub fn share<P: Send>(estimate: Duration, cut: impl FnOnce(usize) -> Vec<P>, each: impl Fn(P) + Sync) {
    if !is_long(estimate) {
        return cut(1).into_iter().for_each(each);
    }
    let _one_less = OnDrop(|| {
        COMPUTING.fetch_sub(1, Ordering::Relaxed);
    });
    let computing = COMPUTING.fetch_add(1, Ordering::Relaxed) + 1;
    let worth = (estimate.as_nanos() / (WORTH / 2).as_nanos()) as usize;
    let parts = (cores() / computing).min(worth).clamp(1, PARTS);
    let mut parts = cut(parts).into_iter();
    let (Some(own), Some(pool)) = (parts.next(), pool()) else { return parts.for_each(each) };
    let each = &each;
    pool.in_place_scope(|scope| {
        parts.for_each(|part| scope.spawn(move |_| each(part)));
        each(own);
    });
}

fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Made when it is first wanted: after the daemon has forked. None if no thread can be started, or there is one core.
fn pool() -> Option<&'static rayon_core::ThreadPool> {
    static POOL: OnceLock<Option<rayon_core::ThreadPool>> = OnceLock::new();
    let make = || {
        let threads = (cores() - 1).min(PARTS - 1);
        let builder = rayon_core::ThreadPoolBuilder::new().num_threads(threads);
        let made = builder.thread_name(|n| format!("kmsfs-part-{n}")).start_handler(|_| anywhere()).build();
        made.inspect_err(|e| tracing::warn!("large requests are computed on one core each: {e}")).ok()
    };
    if cores() < 2 { None } else { POOL.get_or_init(make).as_ref() }
}

/// Lets this thread run wherever the process may: whoever starts a thread may have to stay on one core, and the new one
/// inherits that. The process's first thread never has to.
pub fn anywhere() {
    let _ = rustix::thread::sched_getaffinity(Some(rustix::process::getpid()))
        .and_then(|all| rustix::thread::sched_setaffinity(None, &all));
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn halves(numbers: &mut [u64], parts: usize) -> Vec<&mut [u64]> {
        let each = numbers.len().div_ceil(parts).max(1);
        numbers.chunks_mut(each).collect()
    }

    #[test]
    fn every_part_is_computed_once() {
        for estimate in [Duration::ZERO, WORTH - Duration::from_nanos(1), WORTH, WORTH * 5, WORTH * 500] {
            for len in [1, 2, 7, 256] {
                let mut numbers = vec![0; len];
                let count = AtomicUsize::new(0);
                share(
                    estimate,
                    |parts| halves(&mut numbers, parts),
                    |part| {
                        count.fetch_add(1, Ordering::Relaxed);
                        part.iter_mut().for_each(|n| *n += 1);
                    },
                );
                assert!(numbers.iter().all(|n| *n == 1));
                assert!(estimate >= WORTH || count.into_inner() == 1, "what is quick is not cut");
            }
        }
    }

    #[test]
    fn nothing_to_do_is_done() {
        share(Duration::from_secs(1), |_| Vec::<u8>::new(), |_| unreachable!("there is no part"));
    }

    #[test]
    fn requests_side_by_side_are_not_cut_beyond_the_cores() {
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut numbers = vec![0; 256];
                        share(
                            Duration::from_millis(1),
                            |parts| halves(&mut numbers, parts),
                            |part| {
                                part.iter_mut().for_each(|n| *n += 1);
                            },
                        );
                        assert!(numbers.iter().all(|n| *n == 1));
                    }
                });
            }
        });
        assert_eq!(COMPUTING.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_panic_of_a_part_is_the_callers_and_the_next_request_goes_well() {
        for bad in 0..2 {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                share(Duration::from_secs(1), |_| vec![0, 1], |part| assert_ne!(part, bad, "as the test wants it"));
            }));
            assert!(panicked.is_err());
        }
        let mut numbers = vec![0; 100];
        share(Duration::from_secs(1), |parts| halves(&mut numbers, parts), |part| part.fill(1));
        assert!(numbers.iter().all(|n| *n == 1));
    }
}
