//! Who makes room when there are too many connections: the one that has waited longest without a request under way.
//!
//! A connection waits from its start to the last byte of its first request, and from each answer to the last byte of the next
//! request. So one that sends nothing, or a byte now and then, goes first, and one that is being served stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Seats {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// In the order in which their waits began.
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Seats {
    /// A seat for a new connection, which begins to wait.
    pub fn take(self: &Arc<Self>) -> Seat {
        let leave = Arc::new(Notify::new());
        let place = self.lock().wait(leave.clone());
        Seat { seats: self.clone(), leave, place: Mutex::new(place) }
    }

    /// Tells the connection that has waited longest to leave. Without such a connection, nothing happens.
    pub fn make_room(&self) {
        if let Some((_, leave)) = self.lock().waiting.pop_first() {
            leave.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wait(&mut self, leave: Arc<Notify>) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, leave);
        self.next
    }
}

/// A connection's place among those that wait.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    leave: Arc<Notify>,
    place: Mutex<u64>,
}

impl Seat {
    /// Ends when the connection has to make room.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Marks that a request is under way, until the guard is dropped.
    pub fn serve(&self) -> Served<'_> {
        self.seats.lock().waiting.remove(&self.place());
        Served(self)
    }

    fn place(&self) -> MutexGuard<'_, u64> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().waiting.remove(&self.place());
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Served<'a>(&'a Seat);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        *self.0.place() = self.0.seats.lock().wait(self.0.leave.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a notification is waiting.
    async fn left(seat: &Seat) -> bool {
        tokio::select! {
            biased;
            () = seat.asked_to_leave() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn the_longest_wait_leaves_first() {
        let seats = Arc::new(Seats::default());
        let [a, b, c] = [(); 3].map(|()| seats.take());
        let served = a.serve();
        drop(b.serve());
        seats.make_room();
        assert!((left(&a).await, left(&b).await, left(&c).await) == (false, false, true));
        seats.make_room();
        seats.make_room();
        assert!((left(&a).await, left(&b).await) == (false, true), "a is being served");
        drop(served);
        seats.make_room();
        assert!(left(&a).await);
    }

    #[test]
    fn a_seat_that_is_given_back_is_forgotten() {
        let seats = Arc::new(Seats::default());
        let seat = seats.take();
        drop(seat.serve());
        drop(seat);
        assert!(seats.lock().waiting.is_empty());
    }
}
