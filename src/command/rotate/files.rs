//! The files of a run: each header that does not have the wanted wrapping gets it. Called by several threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use crate::backing;
use crate::command::check::walk::Task;
use crate::content::{ContentError, Volume, rewrap};
use crate::format::file_header::{FileHeader, PROVIDER_CTYUN, Wrapping};
use crate::fs::open_files::usable_wrappings;
use crate::keys::{DataKey, KeyError, Rewrapper};
use crate::kms::WrappedKey;

use super::Wanted;

/// The run is given up when the KMS has answered nothing for so many times `keys.deadline`.
pub const PATIENCE: u32 = 3;
/// Before a file's call that got no answer is made again: longer than that is remembered.
const PAUSE: Duration = Duration::from_millis(600);

/// Why a file was not re-wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The KMS said no, or gave another key than the file's.
    Refused,
    /// The KMS could not be asked.
    Unanswered,
    /// No copy of the header verifies: no key opens the file.
    Damaged,
    /// The backing file system.
    Backing,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub why: Why,
    /// Plaintext; `None` where it cannot be told.
    pub path: Option<Vec<u8>>,
    /// Under the backing directory.
    pub stored: Vec<u8>,
    pub cause: String,
}

#[derive(Debug, Default)]
pub struct Counts {
    /// Files that are through, whatever became of them.
    pub done: AtomicU64,
    /// Which had another wrapping.
    pub outdated: AtomicU64,
    /// And have the wanted one now.
    pub rewrapped: AtomicU64,
    /// Which had it in one copy of the header.
    pub unfinished: AtomicU64,
    /// And have it in both now.
    pub finished: AtomicU64,
    /// Which had it in both before.
    pub current: AtomicU64,
    pub empty: AtomicU64,
    /// Which were not tried any more.
    left: AtomicU64,
}

impl Counts {
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

fn one_more(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub struct Files {
    volume: Arc<Volume>,
    rewrapper: Rewrapper,
    runtime: tokio::runtime::Handle,
    wanted: Wanted,
    dry_run: bool,
    patience: Duration,
    /// When the KMS answered last, whatever it was.
    answered: Mutex<Instant>,
    given_up: AtomicBool,
    failures: Mutex<Vec<Failure>>,
    pub counts: Counts,
}

type Done = Result<(), (Why, String)>;

impl Files {
    pub fn new(
        volume: Arc<Volume>,
        rewrapper: Rewrapper,
        runtime: tokio::runtime::Handle,
        wanted: Wanted,
        dry_run: bool,
        patience: Duration,
    ) -> Self {
        Self {
            volume,
            rewrapper,
            runtime,
            wanted,
            dry_run,
            patience,
            answered: Mutex::new(Instant::now()),
            given_up: AtomicBool::new(false),
            failures: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut self.failures.lock())
    }

    pub fn file(&self, task: Task) {
        if self.given_up.load(Ordering::Relaxed) {
            one_more(&self.counts.left);
        } else if let Err((why, cause)) = self.one(&task) {
            self.failures.lock().push(Failure { why, path: task.at.path, stored: task.at.stored, cause });
        }
        one_more(&self.counts.done);
    }

    fn one(&self, task: &Task) -> Done {
        let head = match &task.head {
            Ok(Some(head)) => head,
            Ok(None) => {
                one_more(&self.counts.empty);
                return Ok(());
            }
            Err(e) => return Err(trouble(e)),
        };
        let Some((_, header)) = head.header() else {
            let why = head.copies[0].as_ref().err().map(ToString::to_string).unwrap_or_default();
            return Err((Why::Damaged, format!("both copies of the header: {why}")));
        };
        let current = self.wanted.is_all_of(&header.wrappings);
        if current && head.copies_agree() {
            one_more(&self.counts.current);
            return Ok(());
        }
        let counter = if current { &self.counts.unfinished } else { &self.counts.outdated };
        one_more(counter);
        if self.dry_run {
            return Ok(());
        }
        if current {
            let file = open_for_writing(task.file.as_fd(), &task.stat).map_err(backing_trouble)?;
            rewrap::finish(&self.volume.keys, file.as_fd()).map_err(|e| trouble(&e))?;
            one_more(&self.counts.finished);
            return Ok(());
        }
        // The KMS first: it may take long, and a file's mode may have to be changed for a moment.
        let (new, key) = self.new_wrapping(header)?;
        let file = open_for_writing(task.file.as_fd(), &task.stat).map_err(backing_trouble)?;
        let wrappings = with_new(header, new);
        // Exposed: it is compared with the file's key check.
        rewrap::rewrap(&self.volume.keys, file.as_fd(), wrappings, key.secret()).map_err(|e| trouble(&e))?;
        one_more(&self.counts.rewrapped);
        Ok(())
    }

    /// The file's key, wrapped anew and unwrapped again; not checked yet. While others get answers, or the KMS may only be
    /// restarting, what got no answer is asked again.
    fn new_wrapping(&self, header: &FileHeader) -> Result<(WrappedKey, Arc<DataKey>), (Why, String)> {
        let old = usable_wrappings(&header.wrappings).map_err(|e| (Why::Damaged, e.to_string()))?;
        loop {
            let mut last = None;
            for old in &old {
                match self.runtime.block_on(self.rewrapper.rewrap(old)) {
                    Ok(done) => {
                        *self.answered.lock() = Instant::now();
                        return Ok(done);
                    }
                    Err(e) => last = Some(e),
                }
            }
            let e = last.expect("at least one wrapping is usable");
            let words = |e: &KeyError| format!("its key cannot be re-wrapped: {e}");
            if !e.is_outage() {
                *self.answered.lock() = Instant::now();
                return Err((Why::Refused, words(&e)));
            }
            if self.given_up.load(Ordering::Relaxed) || self.answered.lock().elapsed() > self.patience {
                self.given_up.store(true, Ordering::Relaxed);
                return Err((Why::Unanswered, words(&e)));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The wrappings of the new header: that one, and those of services that this program does not know.
fn with_new(header: &FileHeader, new: WrappedKey) -> Vec<Wrapping> {
    let new = Wrapping { provider: PROVIDER_CTYUN, key_id: new.key_id, key_version: new.key_version, blob: new.blob };
    let others = header.wrappings.iter().filter(|wrapping| wrapping.provider != PROVIDER_CTYUN);
    std::iter::once(new).chain(others.cloned()).collect()
}

/// Opens a file that its owner may have made read-only, as git makes its objects: then its mode says otherwise for the
/// moment of opening it.
fn open_for_writing(file: BorrowedFd<'_>, stat: &Stat) -> Result<OwnedFd, Errno> {
    match backing::reopen(file, OFlags::RDWR) {
        Err(Errno::ACCESS) if stat.st_uid == rustix::process::geteuid().as_raw() => {
            backing::chmod(file, stat.st_mode | libc::S_IWUSR)?;
            let opened = backing::reopen(file, OFlags::RDWR);
            backing::chmod(file, stat.st_mode)?;
            opened
        }
        other => other,
    }
}

fn backing_trouble(e: Errno) -> (Why, String) {
    (Why::Backing, format!("the stored file cannot be opened for writing: {e}"))
}

fn trouble(e: &ContentError) -> (Why, String) {
    let why = match e {
        ContentError::WrongKey => Why::Refused,
        ContentError::Header(_) | ContentError::Short => Why::Damaged,
        _ => Why::Backing,
    };
    (why, e.to_string())
}
