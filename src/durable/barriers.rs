//! Barriers of one descriptor, one at a time.
//!
//! The system tells a failed write-back to whoever asks first, and takes the pages for clean: of two syncs at the same
//! moment, the other would be told that all is well. So one waits for the other, and looks at [`Barriers::failures`]
//! after. Who waited may be served by what it waited for: many syncs of one file cost few.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

/// Numbers barriers as they begin: each covers what was written before its number was taken.
#[derive(Debug, Default)]
pub struct Barriers {
    begun: AtomicU64,
    /// All that were begun up to this number are through.
    through: Mutex<u64>,
    failures: AtomicU64,
}

impl Barriers {
    /// What was written before this call is covered by the barrier with the number that it gives; numbers rise.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Waits for others, and calls `sync` unless one of those has covered barrier `number`. A failure is counted before
    /// anybody else can sync. No lock that a caller's `sync` needs may be held.
    pub fn end(&self, number: u64, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let mut through = self.through.lock();
        if *through >= number {
            return Ok(());
        }
        let covers = self.begun.load(Ordering::SeqCst);
        sync().inspect_err(|_| self.count_failure())?;
        *through = covers;
        Ok(())
    }

    /// Changes whenever what was written may not be durable after the next barrier either: a barrier that saw it change
    /// since it was begun does not count.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::SeqCst)
    }

    /// Something that was to sync this file, among others, has failed.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_waited_for_a_later_one_need_not_sync() {
        let barriers = Barriers::default();
        let (first, second) = (barriers.begin(), barriers.begin());
        let mut syncs = 0;
        let mut end = |number| {
            barriers.end(number, || {
                syncs += 1;
                Ok(())
            })
        };
        end(second).expect("ends");
        end(first).expect("ends");
        let third = barriers.begin();
        end(third).expect("ends");
        assert_eq!(syncs, 2);
    }

    #[test]
    fn a_failure_covers_nothing() {
        let barriers = Barriers::default();
        let number = barriers.begin();
        assert_eq!(barriers.end(number, || Err(Errno::IO)), Err(Errno::IO));
        let mut synced = false;
        barriers
            .end(number, || {
                synced = true;
                Ok(())
            })
            .expect("ends");
        assert!(synced);
    }

    /// The system tells one of two, and says of the other that all is well.
    #[test]
    fn of_two_at_the_same_moment_both_learn_of_a_failure() {
        let barriers = Barriers::default();
        let told = AtomicBool::new(false);
        let (inside, wait_for_inside) = mpsc::channel();
        let (go_on, wait_to_go_on) = mpsc::channel::<()>();
        let begun = [barriers.begin(), barriers.begin()];
        let failures = barriers.failures();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                let wait_to_go_on = wait_to_go_on;
                barriers.end(begun[0], || {
                    told.store(true, Ordering::SeqCst);
                    inside.send(()).expect("somebody waits");
                    wait_to_go_on.recv().expect("somebody sends");
                    Err(Errno::IO)
                })
            });
            wait_for_inside.recv().expect("the slow one is inside");
            let other = scope.spawn(|| {
                let ended =
                    barriers.end(begun[1], || if told.load(Ordering::SeqCst) { Ok(()) } else { Err(Errno::IO) });
                (ended, barriers.failures() != failures)
            });
            // However long the other has: it ends after the slow one alone.
            std::thread::sleep(std::time::Duration::from_millis(50));
            go_on.send(()).expect("the slow one waits");
            assert_eq!(slow.join().expect("no panic"), Err(Errno::IO));
            assert_eq!(other.join().expect("no panic"), (Ok(()), true), "and does not count");
        });
    }
}
