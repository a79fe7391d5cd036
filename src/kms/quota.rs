//! The quota of the service, which it tells only by its complaints.
//!
//! Until the first complaint requests start when they like. A complaint sets the rate to what the service has granted in
//! the last second; without another it grows again, slowly at first. Quotas are counted by the second: within one
//! the service may refuse all that is left, however slowly it comes, so complaints count once in that time. So calls wait here for their turn, where they are
//! first come first served, rather than to be refused and to come back in any order.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A second in parts, to count what was granted lately.
const PARTS: u64 = 4;
const PART: Duration = Duration::from_millis(1000 / PARTS);
/// Requests per second after a first complaint before which little was granted: the next ones tell.
const FIRST: f64 = 64.0;
/// Requests per second, whatever the service says.
const LEAST: f64 = 2.0;
/// What is faster is no limit.
const MOST: f64 = 20_000.0;
/// Of a rate, by one complaint: at least the first remains, at most the second.
const CUT: (f64, f64) = (0.5, 0.95);
/// Complaints of this time are one.
const ONE: Duration = Duration::from_secs(1);
/// Growth a second: while the last complaint is near, and after [`CALM`].
const GROWTH: (f64, f64) = (0.03, 0.5);
const CALM: Duration = Duration::from_secs(4);
/// What may start at once after a pause.
const BURST: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Quota(Mutex<State>);

struct State {
    /// Requests per second; `None` for no limit.
    rate: Option<f64>,
    /// When the rate was set last.
    set: Instant,
    complained: Instant,
    /// The turn of the next request.
    next: Instant,
    begun: Instant,
    /// Granted requests in the last parts of a second, and the number of the newest part.
    granted: [u32; PARTS as usize],
    part: u64,
}

impl Default for State {
    fn default() -> Self {
        let now = Instant::now();
        Self { rate: None, set: now, complained: now, next: now, begun: now, granted: [0; PARTS as usize], part: 0 }
    }
}

impl Quota {
    /// When the next request may start.
    pub(super) fn next_turn(&self) -> Instant {
        let (now, mut state) = (Instant::now(), self.0.lock());
        state.grow(now);
        let Some(rate) = state.rate else { return now };
        let turn = state.next.max(now.checked_sub(BURST).unwrap_or(now));
        state.next = turn + Duration::from_secs_f64(1.0 / rate);
        turn.max(now)
    }

    /// The service did what a request asked for.
    pub(super) fn granted(&self) {
        let (now, mut state) = (Instant::now(), self.0.lock());
        let part = state.turn_to(now);
        state.granted[part] += 1;
    }

    /// The service asks for fewer requests, in its answer to one that took its turn at `asked`.
    pub(super) fn complained(&self, asked: Instant) {
        let (now, mut state) = (Instant::now(), self.0.lock());
        if state.rate.is_some() && asked < state.complained + ONE {
            return;
        }
        state.grow(now);
        state.turn_to(now);
        let granted = f64::from(state.granted.iter().sum::<u32>());
        let rate = match state.rate {
            None => granted.max(FIRST),
            Some(rate) => granted.clamp(rate * CUT.0, rate * CUT.1).max(LEAST),
        };
        (state.rate, state.set, state.complained) = (Some(rate), now, now);
        state.next = now + Duration::from_secs_f64(1.0 / rate);
        tracing::debug!(rate, "the KMS asks for fewer calls: so many a second from now on");
    }
}

impl State {
    fn grow(&mut self, now: Instant) {
        let Some(rate) = self.rate else { return };
        let near = now < self.complained + CALM;
        let growth = if near { GROWTH.0 } else { GROWTH.1 };
        let rate = rate * (1.0 + growth).powf(now.duration_since(self.set).as_secs_f64());
        self.rate = Some(rate).filter(|rate| *rate < MOST);
        self.set = now;
    }

    /// The part of now; parts in which nothing was granted are emptied.
    fn turn_to(&mut self, now: Instant) -> usize {
        let part = (now.duration_since(self.begun).as_millis() / PART.as_millis()) as u64;
        for passed in (self.part + 1..=part).rev().take(PARTS as usize) {
            self.granted[(passed % PARTS) as usize] = 0;
        }
        self.part = part;
        (part % PARTS) as usize
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    /// A service with a quota: a bucket that holds a second's worth, filled bit by bit or at once each second.
    struct Service {
        per_second: f64,
        at_once: bool,
        tokens: f64,
        filled: Instant,
        refused: u32,
    }

    impl Service {
        fn new(per_second: f64, at_once: bool) -> Self {
            Self { per_second, at_once, tokens: per_second, filled: Instant::now(), refused: 0 }
        }

        fn ask(&mut self) -> bool {
            let now = Instant::now();
            let passed = now.duration_since(self.filled);
            match self.at_once {
                true if passed < Duration::from_secs(1) => {}
                true => (self.tokens, self.filled) = (self.per_second, now),
                false => {
                    self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.per_second);
                    self.filled = now;
                }
            }
            let granted = self.tokens >= 1.0;
            self.tokens -= f64::from(u8::from(granted));
            self.refused += u32::from(!granted);
            granted
        }
    }

    /// Requests one after the other for so long, each repeated until it is granted; the number of those.
    async fn ask_for(quota: &Quota, service: &mut Service, time: Duration) -> u32 {
        let (start, mut granted) = (Instant::now(), 0);
        while start.elapsed() < time {
            let asked = Instant::now();
            sleep_until(quota.next_turn()).await;
            advance(Duration::from_micros(100)).await;
            match service.ask() {
                true => {
                    granted += 1;
                    quota.granted();
                }
                false => quota.complained(asked),
            }
        }
        granted
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_complaint_nothing_waits() {
        let quota = Quota::default();
        for _ in 0..10_000 {
            assert_eq!(quota.next_turn(), Instant::now());
            quota.granted();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_settles_a_little_below_what_is_granted() {
        for (per_second, at_once) in [(20.0, false), (100.0, false), (100.0, true), (750.0, false), (750.0, true)] {
            let (quota, mut service) = (Quota::default(), Service::new(per_second, at_once));
            let early = f64::from(ask_for(&quota, &mut service, Duration::from_secs(5)).await);
            assert!(early > 0.8 * 5.0 * per_second, "{early} of {per_second} a second, {at_once}");
            service.refused = 0;
            let granted = f64::from(ask_for(&quota, &mut service, Duration::from_secs(60)).await);
            let refused = f64::from(service.refused);
            assert!(granted > 0.9 * 60.0 * per_second, "{granted} of {per_second} a second, {at_once}");
            assert!(refused < 0.05 * granted, "{refused} of {granted} refused, {at_once}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_that_is_refused_counts_once() {
        let quota = Quota::default();
        (0..100).for_each(|_| quota.granted());
        let asked = Instant::now();
        for _ in 0..30 {
            advance(Duration::from_millis(1)).await;
            quota.complained(asked);
            quota.complained(Instant::now());
        }
        advance(Duration::from_millis(10)).await;
        let turns: Vec<Instant> = (0..40).map(|_| quota.next_turn()).collect();
        let time = turns[30].duration_since(turns[20]).as_secs_f64();
        assert!((0.095..=0.1001).contains(&time), "{time} s for ten: 100 a second, as was granted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_never_complains_again_is_soon_without_a_limit() {
        let quota = Quota::default();
        quota.complained(Instant::now());
        let turn = quota.next_turn();
        assert!(turn > Instant::now());
        advance(Duration::from_secs(60)).await;
        for _ in 0..1000 {
            assert_eq!(quota.next_turn(), Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_saved_up() {
        let quota = Quota::default();
        (0..100).for_each(|_| quota.granted());
        quota.complained(Instant::now());
        advance(Duration::from_secs(3)).await;
        let at_once = (0..100).filter(|_| quota.next_turn() == Instant::now()).count();
        assert!((4..=8).contains(&at_once), "{at_once}: 50 ms of about 100 a second");
    }
}
