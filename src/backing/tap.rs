//! What a test sees of the calls that change the backing directory, and how it makes them fail. Compiled into unit tests
//! alone; everything is per thread.

use std::cell::RefCell;
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
}

/// Says for each call that changes something whether it fails, and how.
pub type Fault = Box<dyn FnMut() -> Option<Errno>>;

#[derive(Default)]
struct Tap {
    log: Option<Vec<Change>>,
    fault: Option<Fault>,
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

/// Every changing call of this thread asks `fault` first.
pub fn fail(fault: Option<Fault>) {
    TAP.with(|tap| tap.borrow_mut().fault = fault);
}

pub(super) fn ask() -> Result<(), Errno> {
    let fault = TAP.with(|tap| tap.borrow_mut().fault.as_mut().and_then(|fault| fault()));
    fault.map_or(Ok(()), Err)
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
