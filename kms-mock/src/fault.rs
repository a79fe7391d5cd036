//! Injected faults: what the next calls of an API suffer instead of, or on top of, their ordinary answer.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::dice::Dice;

/// The step at which a code is raised unless the fault names another: the operation itself.
pub const OPERATION_STEP: u8 = 17;

/// What happens to the next `times` calls of `api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `None` for every API.
    pub api: Option<String>,
    /// `u32::MAX` until the faults are cleared.
    pub times: u32,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Refuse with this code at the step of the operation, after every check has passed; nothing is changed. A code that is not
    /// in the table is sent with status 500.
    Code(String),
    /// Refuse with this code at one of the 17 steps of the order of checks, instead of what the step would find.
    CodeAt { code: String, step: u8 },
    /// Like `Code`, but with HTTP status 200: only the body tells.
    SoftError(String),
    /// Answer with this HTTP status and no envelope, like a gateway in front of the service; nothing is changed.
    Status(u16),
    /// Start later. Adds to every other fault.
    Delay(Duration),
    /// Never answer: the connection stays open until the faults are cleared or the mock stops.
    Hang,
    /// Close the connection without an answer; nothing is changed.
    Drop,
    /// Reset the connection (RST) without an answer, as a peer that crashed or a middlebox does; nothing is changed.
    Reset,
    /// Do the work, then close the connection without an answer.
    DropAfter,
    /// Announce the whole body, send half of it, close the connection.
    TruncateBody,
    /// Send the body a few bytes at a time.
    Trickle { bytes_per_second: NonZeroU32 },
    /// Send a body of 8 MiB.
    OversizedBody,
    /// Status and headers as they should be, without a body.
    EmptyBody,
    /// Send a page of HTML with the status of the answer.
    NotJson,
    /// Send the right body as `text/html`.
    ContentType,
    /// Announce a body in gzip, send it as it is.
    Gzip,
    /// Send other bytes of the same length as `plaintext`.
    LyingPlaintext,
    /// Send only the first half of `plaintext`.
    ShortPlaintext,
    /// Send a `ciphertextBlob` of the same length and with the right ids that opens nowhere.
    LyingBlob,
    /// Send another `cmkUuid` than the one that was used.
    LyingKeyId,
    /// Leave this field out of a successful answer.
    WithoutField(String),
}

/// When a fault takes effect; a call suffers at most one fault of each phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Delay,
    /// Before the request is looked at.
    Arrival,
    /// In the checks, at this step or an earlier one.
    Step(u8),
    /// When the answer is known.
    Answer,
}

/// A fault that waits for its calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    pub fault: Fault,
    /// `None` strikes every call.
    pub probability: Option<f64>,
}

#[derive(Debug, Default)]
pub struct Faults {
    list: Mutex<List>,
    released: Notify,
}

#[derive(Debug, Default)]
struct List {
    active: Vec<Active>,
    /// Faults that have ever been added.
    count: u64,
}

#[derive(Debug)]
struct Active {
    number: u64,
    waiting: Waiting,
}

/// Which of the faults with a probability strike one call. The checks ask for the same fault at many steps, so it is decided once
/// for all of them.
#[derive(Debug, Default)]
pub struct Roll {
    struck: Vec<u64>,
}

impl Faults {
    pub fn inject(&self, fault: Fault) {
        self.inject_all([Waiting { fault, probability: None }]);
    }

    /// Adds faults in one step: no call meets some of them without the others.
    pub fn inject_all(&self, faults: impl IntoIterator<Item = Waiting>) {
        let faults = faults.into_iter().filter(|waiting| waiting.fault.times > 0);
        let list = &mut *self.lock();
        for waiting in faults {
            list.count += 1;
            list.active.push(Active { number: list.count, waiting });
        }
    }

    /// Forgets all faults and closes the connections that hang.
    pub fn clear(&self) {
        self.lock().active.clear();
        self.released.notify_waiters();
    }

    pub fn active(&self) -> Vec<Waiting> {
        self.lock().active.iter().map(|active| active.waiting.clone()).collect()
    }

    /// Decides for one call which of the faults that are there by now strike it, as far as that is a matter of chance.
    pub fn roll(&self, dice: &Dice) -> Roll {
        let list = self.lock();
        let by_chance = list.active.iter().filter_map(|active| Some((active.number, active.waiting.probability?)));
        let struck = by_chance.filter(|(_, probability)| dice.fraction() < *probability);
        Roll { struck: struck.map(|(number, _)| number).collect() }
    }

    /// The oldest fault of this phase that strikes a call of `api`, counted as used.
    pub fn take(&self, api: &str, phase: Phase, roll: &Roll) -> Option<FaultKind> {
        let active = &mut self.lock().active;
        let at = active.iter().position(|Active { number, waiting: Waiting { fault, probability } }| {
            (probability.is_none() || roll.struck.contains(number))
                && fault.api.as_deref().is_none_or(|wanted| wanted == api)
                && fault.kind.takes_effect(phase)
        })?;
        let fault = &mut active[at].waiting.fault;
        let kind = fault.kind.clone();
        if fault.times != u32::MAX {
            fault.times -= 1;
        }
        if fault.times == 0 {
            active.remove(at);
        }
        Some(kind)
    }

    /// Ends when the faults are cleared after this call, even before anybody waits for it. To be taken before the fault that
    /// hangs is: otherwise a clearing in between would be missed.
    pub fn cleared(&self) -> Notified<'_> {
        self.released.notified()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultKind {
    fn takes_effect(&self, phase: Phase) -> bool {
        match self {
            FaultKind::Delay(_) => phase == Phase::Delay,
            FaultKind::Status(_) | FaultKind::Hang | FaultKind::Drop | FaultKind::Reset => phase == Phase::Arrival,
            FaultKind::Code(_) | FaultKind::SoftError(_) => {
                matches!(phase, Phase::Step(reached) if reached >= OPERATION_STEP)
            }
            FaultKind::CodeAt { step, .. } => matches!(phase, Phase::Step(reached) if reached >= *step),
            FaultKind::DropAfter
            | FaultKind::TruncateBody
            | FaultKind::Trickle { .. }
            | FaultKind::OversizedBody
            | FaultKind::EmptyBody
            | FaultKind::NotJson
            | FaultKind::ContentType
            | FaultKind::Gzip
            | FaultKind::LyingPlaintext
            | FaultKind::ShortPlaintext
            | FaultKind::LyingBlob
            | FaultKind::LyingKeyId
            | FaultKind::WithoutField(_) => phase == Phase::Answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(api: Option<&str>, times: u32, kind: FaultKind) -> Fault {
        Fault { api: api.map(str::to_owned), times, kind }
    }

    #[test]
    fn faults_are_used_up_in_order() {
        let faults = Faults::default();
        faults.inject(fault(Some("decrypt"), 2, FaultKind::Drop));
        faults.inject(fault(None, 1, FaultKind::Hang));
        faults.inject(fault(None, 0, FaultKind::Hang));
        assert_eq!(faults.take("encrypt", Phase::Arrival, &Roll::default()), Some(FaultKind::Hang));
        assert_eq!(faults.take("encrypt", Phase::Arrival, &Roll::default()), None);
        assert_eq!(faults.take("decrypt", Phase::Answer, &Roll::default()), None);
        assert_eq!(faults.take("decrypt", Phase::Arrival, &Roll::default()), Some(FaultKind::Drop));
        assert_eq!(faults.take("decrypt", Phase::Arrival, &Roll::default()), Some(FaultKind::Drop));
        assert!(faults.active().is_empty());
    }

    #[test]
    fn until_cleared() {
        let faults = Faults::default();
        faults.inject(fault(None, u32::MAX, FaultKind::Code("KMS.0512".into())));
        for _ in 0..10 {
            assert!(faults.take("x", Phase::Step(OPERATION_STEP), &Roll::default()).is_some());
        }
        assert!(faults.take("x", Phase::Step(16), &Roll::default()).is_none());
        faults.clear();
        assert!(faults.take("x", Phase::Step(OPERATION_STEP), &Roll::default()).is_none());
    }

    #[test]
    fn a_probability_is_drawn_once_a_call() {
        let (faults, dice) = (Faults::default(), Dice::new(3));
        let kind = FaultKind::CodeAt { code: "KMS.0512".into(), step: 1 };
        faults.inject_all([Waiting { fault: fault(None, u32::MAX, kind), probability: Some(0.5) }]);
        let mut struck = 0;
        for _ in 0..1000 {
            let roll = faults.roll(&dice);
            let steps: Vec<bool> = (1..=17).map(|step| faults.take("x", Phase::Step(step), &roll).is_some()).collect();
            assert!(steps.iter().all(|step| *step == steps[0]));
            struck += u32::from(steps[0]);
        }
        assert!((400..600).contains(&struck), "{struck}");
    }
}
