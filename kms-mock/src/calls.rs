//! Which calls came: counters that never forget, and a log of the latest calls. Neither holds plaintext or keys.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock::Timestamp;

/// How many calls the log keeps.
const LOG_CAPACITY: usize = 10_000;

/// One call that reached the route of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    pub api: &'static str,
    /// Once it is known, whether or not the signature was right.
    pub access_key: Option<String>,
    /// HTTP status and code (`0` for a success) of the answer; `None` while there is none, and for ever if a fault swallowed it.
    pub status: Option<u16>,
    pub code: Option<String>,
    pub request_id: String,
    /// By the clock of the mock.
    pub at: Timestamp,
}

/// Names a call in the log.
#[derive(Debug, Clone, Copy)]
pub struct CallNo(u64);

#[derive(Debug, Default)]
pub struct Calls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counts: HashMap<&'static str, u64>,
    log: VecDeque<CallRecord>,
    /// The number of the first call in the log.
    first: u64,
}

impl Calls {
    pub fn begin(&self, api: &'static str, request_id: &str, at: Timestamp) -> CallNo {
        let mut inner = self.lock();
        *inner.counts.entry(api).or_default() += 1;
        if inner.log.len() == LOG_CAPACITY {
            inner.log.pop_front();
            inner.first += 1;
        }
        let request_id = request_id.to_owned();
        inner.log.push_back(CallRecord { api, access_key: None, status: None, code: None, request_id, at });
        CallNo(inner.first + inner.log.len() as u64 - 1)
    }

    pub fn finish(&self, call: CallNo, access_key: Option<String>, status: u16, code: &str) {
        let mut inner = self.lock();
        let at = call.0.checked_sub(inner.first).and_then(|at| usize::try_from(at).ok());
        if let Some(record) = at.and_then(|at| inner.log.get_mut(at)) {
            record.access_key = access_key;
            record.status = Some(status);
            record.code = Some(code.to_owned());
        }
    }

    pub fn count(&self, api: &str) -> u64 {
        self.lock().counts.get(api).copied().unwrap_or(0)
    }

    pub fn counts(&self) -> HashMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    pub fn log(&self) -> Vec<CallRecord> {
        self.lock().log.iter().cloned().collect()
    }

    pub fn reset(&self) {
        let mut inner = self.lock();
        // Calls that are under way keep their numbers and must not meet a later call's record.
        inner.first += inner.log.len() as u64;
        inner.log.clear();
        inner.counts.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_forgets_and_the_counters_do_not() {
        let calls = Calls::default();
        let old = calls.begin("encrypt", "r0", 1);
        for _ in 0..LOG_CAPACITY {
            calls.begin("decrypt", "r", 2);
        }
        calls.finish(old, None, 200, "0");
        assert_eq!((calls.count("encrypt"), calls.count("decrypt")), (1, LOG_CAPACITY as u64));
        assert!(calls.log().iter().all(|record| record.api == "decrypt" && record.status.is_none()));
    }

    #[test]
    fn a_reset_does_not_mix_calls_up() {
        let calls = Calls::default();
        let old = calls.begin("encrypt", "r0", 1);
        calls.reset();
        let new = calls.begin("decrypt", "r1", 2);
        calls.finish(old, None, 200, "0");
        calls.finish(new, Some("AK".into()), 400, "KMS.0206");
        let log = calls.log();
        assert_eq!(log.len(), 1);
        assert_eq!((log[0].api, log[0].status, log[0].code.as_deref()), ("decrypt", Some(400), Some("KMS.0206")));
        assert_eq!(calls.count("encrypt"), 0);
    }
}
