//! How many keys may be fetched ahead at a time: as many as the KMS takes.
//!
//! Doubles until the service first asks for fewer calls, halves whenever it does, and grows by one in between (as TCP's
//! congestion window). A fetch ahead must not use up a quota that the opening of files needs.

/// Of a mount that has just begun.
const FIRST: usize = 8;

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
}

impl Pace {
    /// `most`: never more than this many; 0 fetches nothing ahead.
    pub(super) fn new(most: usize) -> Self {
        let limit = FIRST.min(most);
        Self { most, limit, under_way: 0, landed: 0, doubling: true, same: 0, complaints: 0 }
    }

    /// Whether a fetch may start; it is under way then, until [`Self::land`] or [`Self::lose`].
    pub(super) fn start(&mut self) -> bool {
        let may = self.under_way < self.limit;
        self.under_way += usize::from(may);
        may
    }

    /// A fetch has ended. `complaints`: of the service, to anybody, since the start; `failed`: it could not answer.
    pub(super) fn land(&mut self, complaints: u64, failed: bool) {
        self.lose();
        let complained = failed || complaints > self.complaints;
        self.complaints = complaints;
        if self.same > 0 {
            self.same -= 1;
        } else if complained {
            self.limit = (self.limit / 2).max(1).min(self.most);
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
            (0..started).for_each(|_| pace.land(0, false));
        }
        assert_eq!(seen, [8, 16, 24, 24]);
    }

    #[test]
    fn a_complaint_halves_once_however_many_fetches_met_it() {
        let mut pace = Pace::new(24);
        assert_eq!(all(&mut pace), 8);
        (0..8).for_each(|complaint| pace.land(complaint + 1, false));
        assert_eq!(all(&mut pace), 4);
        (0..4).for_each(|_| pace.land(8, false));
        assert_eq!(all(&mut pace), 5, "from now on one more a round");
        (0..5).for_each(|_| pace.land(8, true));
        assert_eq!(all(&mut pace), 2);
    }

    #[test]
    fn one_is_left_however_much_the_service_complains() {
        let mut pace = Pace::new(2);
        for complaint in 1..50 {
            let started = all(&mut pace);
            assert!(started >= 1);
            (0..started).for_each(|_| pace.land(complaint, false));
        }
        assert_eq!(Pace::new(0).start() as usize + all(&mut Pace::new(0)), 0);
    }

    #[test]
    fn what_was_given_up_makes_room() {
        let mut pace = Pace::new(3);
        assert_eq!(all(&mut pace), 3);
        pace.lose();
        assert_eq!(all(&mut pace), 1);
    }
}
