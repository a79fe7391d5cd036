//! How many requests may be under way, and how many may start per second: as configured, and as the service's quota allows.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::quota::Quota;

pub(super) struct Limit {
    inflight: Semaphore,
    rate: Option<Rate>,
    pub(super) quota: Quota,
}

/// A request that may start; under way until this is dropped.
pub(super) struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    /// When it asked for its turn.
    pub(super) asked: Instant,
}

impl Limit {
    pub(super) fn new(max_inflight: usize, rate: Option<f64>) -> Self {
        let permits = max_inflight.clamp(1, Semaphore::MAX_PERMITS);
        let rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0).map(Rate::new);
        Self { inflight: Semaphore::new(permits), rate, quota: Quota::default() }
    }

    /// Waits, first come first served, until a request may start.
    pub(super) async fn enter(&self) -> Turn<'_> {
        let permit = self.inflight.acquire().await.expect("the semaphore is never closed");
        // The turn is taken while the permit is held, so callers that give up leave at most `max_inflight` unused turns.
        let asked = Instant::now();
        let turn = self.quota.next_turn();
        let turn = self.rate.as_ref().map_or(turn, |rate| rate.next_turn().max(turn));
        if turn > asked {
            tokio::time::sleep_until(turn).await;
        }
        Turn { _permit: permit, asked }
    }
}

/// A token bucket of one second's worth, kept as the time at which it would be full again (GCRA).
struct Rate {
    interval: Duration,
    burst: Duration,
    full_at: Mutex<Option<Instant>>,
}

impl Rate {
    fn new(per_second: f64) -> Self {
        let interval = Duration::from_secs_f64((1.0 / per_second).min(3600.0));
        Self { interval, burst: Duration::from_secs(1).max(interval), full_at: Mutex::new(None) }
    }

    fn next_turn(&self) -> Instant {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let base = full_at.map_or(now, |at| at.max(now));
        let full_after = base + self.interval;
        *full_at = Some(full_after);
        full_after.checked_sub(self.burst).map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_one_second_passes_and_the_rest_is_spread() {
        let limit = Limit::new(100, Some(10.0));
        let start = Instant::now();
        for _ in 0..10 {
            drop(limit.enter().await);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            drop(limit.enter().await);
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1990) && took <= Duration::from_millis(2030), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slower_than_one_per_second_works() {
        let limit = Limit::new(1, Some(0.5));
        let start = Instant::now();
        drop(limit.enter().await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(limit.enter().await);
        assert!(start.elapsed() >= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_max_inflight_at_a_time() {
        let limit = Limit::new(2, None);
        let one = limit.enter().await;
        let _two = limit.enter().await;
        assert!(tokio::time::timeout(Duration::from_secs(1), limit.enter()).await.is_err());
        drop(one);
        assert!(tokio::time::timeout(Duration::from_secs(1), limit.enter()).await.is_ok());
    }
}
