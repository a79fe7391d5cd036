//! How often each key has been used since the start or the last reset.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Usage {
    counts: Mutex<HashMap<String, u64>>,
}

impl Usage {
    pub fn count(&self, key_id: &str) {
        let mut counts = self.lock();
        match counts.get_mut(key_id) {
            Some(count) => *count += 1,
            None => drop(counts.insert(key_id.to_owned(), 1)),
        }
    }

    pub fn of(&self, key_id: &str) -> u64 {
        self.lock().get(key_id).copied().unwrap_or(0)
    }

    pub fn reset(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
