//! Which calls came: counters that never forget, and a log of the latest calls. Neither holds plaintext or keys.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

use crate::clock::Timestamp;

/// How many calls the log keeps.
const LOG_CAPACITY: usize = 10_000;

/// One call that reached the route of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// 1 for the first call since the start, and one more for each; a reset does not begin again.
    pub no: u64,
    pub api: &'static str,
    /// Once it is known, whether or not the signature was right.
    pub access_key: Option<String>,
    /// HTTP status and code (`0` for a success) of the answer; `None` while there is none, and for ever if a fault swallowed it.
    pub status: Option<u16>,
    pub code: Option<Cow<'static, str>>,
    pub request_id: String,
    /// By the clock of the mock.
    pub at: Timestamp,
    /// Microseconds from the whole request to its answer, injected waits included; `None` like `status`.
    pub took_us: Option<u64>,
    #[serde(skip)]
    begun: Instant,
    /// Which change of the log was the last of this record.
    #[serde(skip)]
    changed: u64,
}

/// What the log holds after a certain call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallLog {
    /// Oldest first.
    pub calls: Vec<CallRecord>,
    /// The number of the latest call, of whatever API: where the next look begins.
    pub last: u64,
    /// How many calls after the one named, of whatever API, are no longer in the log.
    pub dropped: u64,
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
    /// Consecutive numbers, of which `last` is the latest.
    log: VecDeque<CallRecord>,
    last: u64,
    /// Calls that came, and answers.
    changes: u64,
}

impl Calls {
    pub fn begin(&self, api: &'static str, request_id: &str, at: Timestamp) -> CallNo {
        let mut inner = self.lock();
        *inner.counts.entry(api).or_default() += 1;
        if inner.log.len() == LOG_CAPACITY {
            inner.log.pop_front();
        }
        inner.last += 1;
        inner.changes += 1;
        let (no, changed) = (inner.last, inner.changes);
        inner.log.push_back(CallRecord {
            no,
            api,
            access_key: None,
            status: None,
            code: None,
            request_id: request_id.to_owned(),
            at,
            took_us: None,
            begun: Instant::now(),
            changed,
        });
        CallNo(no)
    }

    pub fn finish(&self, call: CallNo, access_key: Option<String>, status: u16, code: Cow<'static, str>) {
        let inner = &mut *self.lock();
        inner.changes += 1;
        let changed = inner.changes;
        if let Some(record) = inner.record(call) {
            record.changed = changed;
            record.access_key = access_key;
            record.status = Some(status);
            record.code = Some(code);
            record.took_us = u64::try_from(record.begun.elapsed().as_micros()).ok();
        }
    }

    pub fn count(&self, api: &str) -> u64 {
        self.lock().counts.get(api).copied().unwrap_or(0)
    }

    pub fn counts(&self) -> HashMap<&'static str, u64> {
        self.lock().counts.clone()
    }

    /// The calls after the one with the number `since` (0 for all), of one API or of all.
    pub fn since(&self, since: u64, api: Option<&str>) -> CallLog {
        let inner = self.lock();
        let new = inner.log.iter().filter(|record| record.no > since);
        let calls = new.filter(|record| api.is_none_or(|api| record.api == api)).cloned().collect();
        CallLog { calls, last: inner.last, dropped: inner.gone().saturating_sub(since) }
    }

    /// The latest calls, `most` of them, that have come or been answered after the change `since` (0 for all), oldest first; and
    /// the number of the latest change.
    pub fn changed_since(&self, since: u64, most: usize) -> (Vec<CallRecord>, u64) {
        let inner = self.lock();
        let changed = inner.log.iter().rev().filter(|record| record.changed > since);
        let mut calls: Vec<_> = changed.take(most).cloned().collect();
        calls.reverse();
        (calls, inner.changes)
    }

    pub fn reset(&self) {
        let mut inner = self.lock();
        inner.log.clear();
        inner.counts.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The number of the latest call that the log has lost.
    fn gone(&self) -> u64 {
        self.last - self.log.len() as u64
    }

    /// `None` if the log has lost it: calls that are under way keep their numbers.
    fn record(&mut self, call: CallNo) -> Option<&mut CallRecord> {
        let at = call.0.checked_sub(self.gone() + 1)?;
        self.log.get_mut(usize::try_from(at).ok()?)
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
        calls.finish(old, None, 200, "0".into());
        assert_eq!((calls.count("encrypt"), calls.count("decrypt")), (1, LOG_CAPACITY as u64));
        assert!(calls.since(0, None).calls.iter().all(|record| record.api == "decrypt" && record.status.is_none()));
    }

    #[test]
    fn a_reset_does_not_mix_calls_up() {
        let calls = Calls::default();
        let old = calls.begin("encrypt", "r0", 1);
        calls.reset();
        let new = calls.begin("decrypt", "r1", 2);
        calls.finish(old, None, 200, "0".into());
        calls.finish(new, Some("AK".into()), 400, "KMS.0206".into());
        let log = calls.since(0, None).calls;
        assert_eq!(log.len(), 1);
        assert_eq!((log[0].api, log[0].status, log[0].code.as_deref()), ("decrypt", Some(400), Some("KMS.0206")));
        assert_eq!(calls.count("encrypt"), 0);
    }

    #[test]
    fn a_watcher_sees_calls_come_and_be_answered() {
        let calls = Calls::default();
        let (hanging, answered) = (calls.begin("encrypt", "r", 1), calls.begin("decrypt", "r", 1));
        let look = |since, most| {
            let (records, next) = calls.changed_since(since, most);
            (records.iter().map(|record| (record.no, record.status)).collect::<Vec<_>>(), next)
        };
        let (seen, next) = look(0, 10);
        assert_eq!(seen, [(1, None), (2, None)]);
        assert_eq!(look(0, 1).0, [(2, None)]);
        calls.finish(answered, None, 200, "0".into());
        // The one that hangs does not come again and again.
        let (seen, next) = look(next, 10);
        assert_eq!(seen, [(2, Some(200))]);
        assert_eq!(look(next, 10), (vec![], next));
        calls.finish(hanging, None, 500, "KMS.0514".into());
        assert_eq!(look(next, 10).0, [(1, Some(500))]);
    }

    #[test]
    fn a_poller_sees_each_call_once() {
        let calls = Calls::default();
        let numbers = |log: &CallLog| log.calls.iter().map(|record| record.no).collect::<Vec<_>>();
        for api in ["encrypt", "decrypt", "encrypt"] {
            calls.begin(api, "r", 1);
        }
        let log = calls.since(0, Some("encrypt"));
        assert_eq!((numbers(&log), log.last, log.dropped), (vec![1, 3], 3, 0));
        calls.begin("encrypt", "r", 1);
        assert_eq!(numbers(&calls.since(log.last, None)), [4]);
        calls.reset();
        let log = calls.since(4, None);
        assert_eq!((numbers(&log), log.last, log.dropped), (vec![], 4, 0));
        for _ in 0..LOG_CAPACITY + 5 {
            calls.begin("decrypt", "r", 2);
        }
        let log = calls.since(4, None);
        assert_eq!((log.calls.len(), log.dropped, log.last), (LOG_CAPACITY, 5, 4 + 5 + LOG_CAPACITY as u64));
        assert_eq!((calls.since(9, None).dropped, calls.since(u64::MAX, None).calls.len()), (0, 0));
    }
}
