//! What a run has done, for a person and as JSON.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::exit_code::Exit;
use crate::command::check::report::printable;
use crate::format::volume::hex;

use super::files::{Counts, Failure, Why};
use super::{VolumeKey, Wanted};

impl Why {
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Damaged => "damaged",
            Self::Backing => "backing",
        }
    }

    /// What to do about it.
    fn remedy(self) -> &'static str {
        match self {
            Self::Refused => "it opens as before; see why the KMS refuses, and run kmsfs rotate again",
            Self::Unanswered => "it opens as before; run kmsfs rotate again once the KMS answers",
            Self::Damaged => {
                "no key opens it: restore it from a backup, or remove it, and run kmsfs rotate again (kmsfs check says more)"
            }
            Self::Backing => "see the cause (permissions, another mount, the disk), and run kmsfs rotate again",
        }
    }
}

impl Failure {
    fn json(&self) -> Value {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut out = json!({
            "kind": self.why.name(), "path": self.path.as_deref().map(lossy), "stored": lossy(&self.stored),
            "cause": self.cause, "remedy": self.why.remedy(),
        });
        if let Some(path) = self.path.as_deref().filter(|path| std::str::from_utf8(path).is_err()) {
            out["path_hex"] = hex(path).into();
        }
        out
    }

    fn text(&self) -> String {
        let shown = self.path.as_deref().map_or_else(|| format!("[{}]", printable(&self.stored)), printable);
        let stored = match &self.path {
            Some(_) if !self.stored.is_empty() => format!("    stored as {}\n", printable(&self.stored)),
            _ => String::new(),
        };
        format!("not re-wrapped: {shown}: {}\n{stored}    {}\n", self.cause, self.why.remedy())
    }
}

/// A run that is through.
pub struct Summary {
    wanted: Wanted,
    dry_run: bool,
    volume_key: VolumeKey,
    counts: Counts,
    failures: Vec<Failure>,
    took: Duration,
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Summary {
    pub fn new(
        wanted: &Wanted,
        dry_run: bool,
        volume_key: VolumeKey,
        counts: Counts,
        failures: Vec<Failure>,
        started: Instant,
    ) -> Self {
        Self { wanted: wanted.clone(), dry_run, volume_key, counts, failures, took: started.elapsed() }
    }

    /// `None`: all is done. That not all was tried counts before that the KMS said no, and that before the rest.
    pub fn exit(&self) -> Option<Exit> {
        let any = |why| self.failures.iter().any(|failure| failure.why == why);
        if any(Why::Unanswered) || self.counts.left() > 0 {
            return Some(Exit::KmsUnreachable);
        }
        match any(Why::Refused) {
            true => Some(Exit::KmsRefused),
            false => (!self.failures.is_empty()).then_some(Exit::Other),
        }
    }

    pub fn verdict(&self) -> &'static str {
        match (self.dry_run, self.counts.left()) {
            (true, _) => "not everything could be looked at",
            (_, 0) => "not everything was re-wrapped, and the old KMS key is still needed",
            _ => "the KMS did not answer, and not everything was tried: the old KMS key is still needed",
        }
    }

    pub fn json(&self) -> Value {
        let counts = &self.counts;
        let failures: Vec<_> = self.failures.iter().map(Failure::json).collect();
        let volume_key = match self.volume_key {
            VolumeKey::Current => "current",
            VolumeKey::Outdated => "outdated",
            VolumeKey::Rewrapped => "rewrapped",
            VolumeKey::Both => "both",
        };
        json!({
            "version": 1, "dry_run": self.dry_run, "key_id": self.wanted.key_id, "key_version": self.wanted.version,
            "failures": failures,
            "summary": {
                "volume_key": volume_key, "files": value(&counts.done), "outdated": value(&counts.outdated),
                "rewrapped": value(&counts.rewrapped), "unfinished": value(&counts.unfinished), "finished": value(&counts.finished),
                "current": value(&counts.current), "empty": value(&counts.empty), "failed": self.failures.len(),
                "left": counts.left(), "seconds": self.took.as_secs_f64(),
                "exit": self.exit().map_or(0, |exit| exit as u8),
            },
        })
    }

    pub fn text(&self) -> String {
        let mut out: String = self.failures.iter().map(Failure::text).collect();
        let version = match &self.wanted.version {
            Some(version) => format!("version {version}"),
            None => "of which the KMS names no version".to_owned(),
        };
        out += &format!("KMS key {}, {version}\n", self.wanted.key_id);
        out += match self.volume_key {
            VolumeKey::Current => "the volume key was wrapped by it already\n",
            VolumeKey::Outdated if self.dry_run => "the volume key would be re-wrapped\n",
            VolumeKey::Outdated | VolumeKey::Both => {
                "the volume key is wrapped by it, and by the old ones until every file is re-wrapped\n"
            }
            VolumeKey::Rewrapped => "the volume key is wrapped by it\n",
        };
        let counts = &self.counts;
        let mut parts = match self.dry_run {
            true => vec![
                format!("{} files: {} would be re-wrapped", value(&counts.done), value(&counts.outdated)),
                format!("{} finished that an earlier run has begun", value(&counts.unfinished)),
            ],
            false => vec![
                format!("{} files: {} re-wrapped", value(&counts.done), value(&counts.rewrapped)),
                format!("{} finished that an earlier run had begun", value(&counts.finished)),
            ],
        };
        parts.push(format!("{} wrapped already", value(&counts.current)));
        parts.push(format!("{} empty", value(&counts.empty)));
        parts.push(format!("{} failed", self.failures.len()));
        if counts.left() > 0 {
            parts.push(format!("{} not tried", counts.left()));
        }
        out + &format!("{}; {:.1} s\n", parts.join(", "), self.took.as_secs_f64())
    }
}
