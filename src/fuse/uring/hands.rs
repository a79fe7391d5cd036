//! Threads that take what would keep a lane busy for long.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::{Condvar, Mutex};

use crate::fuse::Adapter;

use super::{Place, carry_out};

/// Threads that run wherever a processor is idle, for requests that keep one busy.
pub struct Hands {
    work: Mutex<Work>,
    wake: Condvar,
}

#[derive(Default)]
struct Work {
    places: VecDeque<Place>,
    /// Threads that wait for work; some may have been given it and not have woken up.
    idle: usize,
    ended: bool,
}

impl Hands {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { work: Mutex::default(), wake: Condvar::new() })
    }

    /// Gives the place back if nobody is idle and the caller can do the work himself.
    pub(super) fn give(&self, place: Place, can_do: bool) -> Option<Place> {
        let mut work = self.work.lock();
        if can_do && work.idle <= work.places.len() {
            return Some(place);
        }
        place.answers.heavy.fetch_add(1, Relaxed);
        work.places.push_back(place);
        drop(work);
        self.wake.notify_one();
        None
    }

    /// No work comes any more.
    pub fn end(&self) {
        self.work.lock().ended = true;
        self.wake.notify_all();
    }

    /// Works until the end.
    pub fn work(&self, adapter: &Adapter) {
        loop {
            let mut work = self.work.lock();
            work.idle += 1;
            while work.places.is_empty() && !work.ended {
                self.wake.wait(&mut work);
            }
            work.idle -= 1;
            let Some(place) = work.places.pop_front() else { return };
            drop(work);
            let answers = place.answers.clone();
            carry_out(adapter, place);
            // It may still wait for a key: then the lane wants another place.
            answers.heavy.fetch_sub(1, Relaxed);
            answers.wake();
        }
    }
}
