//! What a test sees of the calls that change the backing directory, and how it makes these and others fail. Compiled into
//! unit tests alone; everything is per thread.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

/// A change of the backing directory, as it was made. Objects are named by inode number.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        dir: u64,
        name: Vec<u8>,
        ino: u64,
    },
    Mkdir {
        dir: u64,
        name: Vec<u8>,
        ino: u64,
    },
    Symlink {
        dir: u64,
        name: Vec<u8>,
        ino: u64,
        target: Vec<u8>,
    },
    Link {
        dir: u64,
        name: Vec<u8>,
        ino: u64,
    },
    Remove {
        dir: u64,
        name: Vec<u8>,
    },
    Rename {
        from: (u64, Vec<u8>),
        to: (u64, Vec<u8>),
        exchange: bool,
    },
    Write {
        ino: u64,
        off: u64,
        data: Vec<u8>,
    },
    SetLen {
        ino: u64,
        len: u64,
    },
    Punch {
        ino: u64,
        off: u64,
        len: u64,
    },
    /// `fsync` or `fdatasync` of a file or directory.
    Sync {
        ino: u64,
    },
    SyncAll,
    /// A sync that was made to fail: of one file or directory, or of all.
    SyncFailed {
        ino: Option<u64>,
    },
}

/// The kinds of calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    Open,
    Read,
    Stat,
    ReadLink,
    ReadXattr,
    List,
    /// A new entry of any kind.
    Make,
    Remove,
    Rename,
    Write,
    SetLen,
    Allocate,
    Punch,
    /// Mode, owner, times, xattrs.
    SetAttr,
    Sync,
    SyncAll,
}

impl Call {
    pub fn changes(self) -> bool {
        self >= Self::Make
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Error(Errno),
    /// A write of which so many bytes arrive before the error; as [`Self::Error`] for other calls.
    Torn(usize, Errno),
    /// A write of which one call takes so many bytes only: no failure. Of no effect on other calls.
    Short(usize),
}

/// Asked before each call.
pub type Faults = Box<dyn FnMut(Call) -> Option<Fault>>;

#[derive(Default)]
struct Tap {
    log: Option<Vec<Change>>,
    faults: Option<Faults>,
    /// What the next call that writes takes at most.
    short: Option<usize>,
}

thread_local! {
    static TAP: RefCell<Tap> = RefCell::default();
}

/// Begins to record this thread's changes.
pub fn record() {
    TAP.with(|tap| tap.borrow_mut().log = Some(Vec::new()));
}

/// How many changes were recorded.
pub fn recorded() -> usize {
    TAP.with(|tap| tap.borrow().log.as_ref().map_or(0, Vec::len))
}

/// What was recorded; ends the recording.
pub fn take() -> Vec<Change> {
    TAP.with(|tap| tap.borrow_mut().log.take()).unwrap_or_default()
}

/// Every call of this thread asks `faults` first; gives what was asked before.
pub fn fail(faults: Option<Faults>) -> Option<Faults> {
    TAP.with(|tap| std::mem::replace(&mut tap.borrow_mut().faults, faults))
}

fn fault(call: Call) -> Option<Fault> {
    TAP.with(|tap| tap.borrow_mut().faults.as_mut().and_then(|faults| faults(call)))
}

pub(super) fn ask(call: Call) -> Result<(), Errno> {
    match fault(call) {
        Some(Fault::Error(e) | Fault::Torn(_, e)) => Err(e),
        Some(Fault::Short(_)) | None => Ok(()),
    }
}

/// A sync of the file or directory `fd`, or of all.
pub(super) fn ask_to_sync(fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    ask(if fd.is_some() { Call::Sync } else { Call::SyncAll })
        .inspect_err(|_| tell(|| Change::SyncFailed { ino: fd.map(ino) }))
}

/// A write of all of `bufs`, which is recorded; a part of it if it is torn.
pub(super) fn ask_to_write(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>], off: u64) -> Result<(), Errno> {
    let data = || bufs.iter().flat_map(|buf| buf.iter().copied());
    match fault(Call::Write) {
        Some(Fault::Error(e)) => return Err(e),
        Some(Fault::Torn(len, e)) => {
            let data: Vec<u8> = data().take(len).collect();
            if !data.is_empty() {
                let written = rustix::io::pwrite(fd, &data, off).expect("the test's disk takes it");
                assert_eq!(written, data.len(), "the test's disk takes it");
                tell(|| Change::Write { ino: ino(fd), off, data });
            }
            return Err(e);
        }
        Some(Fault::Short(len)) => TAP.with(|tap| tap.borrow_mut().short = Some(len.max(1))),
        None => {}
    }
    tell(|| Change::Write { ino: ino(fd), off, data: data().collect() });
    Ok(())
}

/// Writes a part of `bufs`, if the call is to be a short one.
pub(super) fn write_short(fd: BorrowedFd<'_>, bufs: &[IoSlice<'_>], off: u64) -> Option<Result<usize, Errno>> {
    let len = TAP.with(|tap| tap.borrow_mut().short.take())?;
    let data: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(len).collect();
    Some(rustix::io::pwrite(fd, &data, off))
}

pub(super) fn tell(change: impl FnOnce() -> Change) {
    if TAP.with(|tap| tap.borrow().log.is_some()) {
        let change = change();
        TAP.with(|tap| tap.borrow_mut().log.as_mut().map(|log| log.push(change)));
    }
}

pub(super) fn ino(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).expect("the test's descriptor is open").st_ino
}

pub(super) fn ino_of(dir: BorrowedFd<'_>, name: &[u8]) -> u64 {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("the entry was just made").st_ino
}
