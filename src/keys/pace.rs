//! How many keys may be fetched ahead at a time: as many as the KMS takes.
//!
//! Doubles until the service first asks for fewer calls, halves whenever it does, shrinks while calls have to queue for
//! their turn, and grows by one in between (as TCP's congestion window). A fetch ahead must not use up a quota that the
//! opening of files needs, nor make that wait long.

use std::time::Duration;

/// Of a mount that has just begun.
const FIRST: usize = 8;
/// A call has queued if it took so many times as long as one that did not, and [`SLACK`] more.
const QUEUED: u32 = 4;
const SLACK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    limit: usize,
    under_way: usize,
    /// Landed without a complaint since `limit` changed.
    landed: usize,
    /// No complaint so far.
    doubling: bool,
    /// Fetches that were under way at the last complaint: their complaints are the same one.
    same: usize,
    /// Complaints of the service that were seen.
    complaints: u64,
    /// How long a call takes that does not queue.
    least: Duration,
}

/// How a fetch ahead has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Landed {
    /// Of the service, to anybody, since the start.
    pub complaints: u64,
    /// The service could not answer.
    pub failed: bool,
    pub took: Duration,
}

impl Pace {
    /// `most`: never more than this many; 0 fetches nothing ahead.
    pub(super) fn new(most: usize) -> Self {
        let limit = FIRST.min(most);
        Self { most, limit, under_way: 0, landed: 0, doubling: true, same: 0, complaints: 0, least: Duration::MAX }
    }

    /// Whether a fetch may start; it is under way then, until [`Self::land`] or [`Self::lose`].
    pub(super) fn start(&mut self) -> bool {
        let may = self.under_way < self.limit;
        self.under_way += usize::from(may);
        may
    }

    pub(super) fn land(&mut self, landed: Landed) {
        self.lose();
        let complained = landed.failed || landed.complaints > self.complaints;
        self.complaints = landed.complaints;
        // Rises a little, for a service that became slower.
        self.least = landed.took.min(self.least.saturating_add(self.least / 64));
        let queued = landed.took > self.least.saturating_mul(QUEUED).saturating_add(SLACK);
        if self.same > 0 {
            self.same -= 1;
        } else if complained || queued {
            let less = if complained { self.limit / 2 } else { self.limit.saturating_sub(1) };
            self.limit = less.max(1).min(self.most);
            (self.landed, self.doubling, self.same) = (0, false, self.under_way);
        } else {
            self.landed += 1;
            if self.doubling || self.landed >= self.limit {
                self.limit = (self.limit + 1).min(self.most);
                self.landed = 0;
            }
        }
    }

    /// A fetch was given up: it says nothing.
    pub(super) fn lose(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landed(complaints: u64) -> Landed {
        Landed { complaints, failed: false, took: Duration::from_millis(10) }
    }

    fn all(pace: &mut Pace) -> usize {
        let before = pace.under_way;
        while pace.start() {}
        pace.under_way - before
    }

    #[test]
    fn doubles_until_the_first_complaint_and_never_beyond_the_most() {
        let mut pace = Pace::new(24);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let started = all(&mut pace);
            seen.push(started);
            (0..started).for_each(|_| pace.land(landed(0)));
        }
        assert_eq!(seen, [8, 16, 24, 24]);
    }

    #[test]
    fn a_complaint_halves_once_however_many_fetches_met_it() {
        let mut pace = Pace::new(24);
        assert_eq!(all(&mut pace), 8);
        (0..8).for_each(|complaint| pace.land(landed(complaint + 1)));
        assert_eq!(all(&mut pace), 4);
        (0..4).for_each(|_| pace.land(landed(8)));
        assert_eq!(all(&mut pace), 5, "from now on one more a round");
        (0..5).for_each(|_| pace.land(Landed { failed: true, ..landed(8) }));
        assert_eq!(all(&mut pace), 2);
    }

    #[test]
    fn one_is_left_however_much_the_service_complains() {
        let mut pace = Pace::new(2);
        for complaint in 1..50 {
            let started = all(&mut pace);
            assert!(started >= 1);
            (0..started).for_each(|_| pace.land(landed(complaint)));
        }
        assert_eq!(Pace::new(0).start() as usize + all(&mut Pace::new(0)), 0);
    }

    #[test]
    fn calls_that_queue_make_it_smaller() {
        let mut pace = Pace::new(24);
        let mut limits = Vec::new();
        for _ in 0..40 {
            let started = all(&mut pace);
            // A service that answers one call every 10 ms.
            for place in 0..started {
                pace.land(Landed { took: Duration::from_millis(10 * (place as u64 + 1)), ..landed(0) });
            }
            limits.push(started);
        }
        assert!(limits[20..].iter().all(|limit| (3..=8).contains(limit)), "{limits:?}");
    }

    #[test]
    fn a_service_that_became_slower_is_not_one_where_calls_queue() {
        let mut pace = Pace::new(24);
        (0..100).for_each(|_| pace.land(landed(0)));
        for _ in 0..1000 {
            let started = all(&mut pace);
            (0..started).for_each(|_| pace.land(Landed { took: Duration::from_millis(200), ..landed(0) }));
        }
        assert_eq!(all(&mut pace), 24);
    }

    #[test]
    fn what_was_given_up_makes_room() {
        let mut pace = Pace::new(3);
        assert_eq!(all(&mut pace), 3);
        pace.lose();
        assert_eq!(all(&mut pace), 1);
    }
}
