//! What is on disk for sure: the sessions of a volume (`docs/FORMAT.md` section 6). The place for rounds and redo files,
//! which durability `safe` needs (section 8).
//!
//! Lock order: a file's content lock, then [`Sessions::change`], then the list of sessions.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::io::Errno;

use crate::backing;
use crate::crypto::derive::MacKey;
use crate::crypto::random;
use crate::format::state::State;
use crate::format::volume::hex;
use crate::format::{STATE_FILE, TMP_PREFIX};

/// How the session that wrote a record stands to this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that the record says was durable, or this mount wrote it.
    Settled,
    /// Its session did not end: what was not fsynced may be missing.
    Unsettled,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read or write the state file {STATE_FILE}: {0}")]
    Io(Errno),
    #[error("the state file {STATE_FILE} is missing")]
    Missing,
    #[error("the state file {STATE_FILE} does not verify: it is damaged or from another volume")]
    Unverified,
}

/// The sessions of a volume, and this mount's own.
pub struct Sessions {
    root: OwnedFd,
    key: MacKey,
    inner: Mutex<Inner>,
    /// Held shared by every change of a stored file: a rotation waits until no change is under way that has taken the
    /// old number and not issued its record.
    changes: RwLock<()>,
    /// Something was written since the last rotation.
    wrote: AtomicBool,
}

struct Inner {
    state: State,
    /// This mount's numbers, the current one last; two during a rotation. Empty for a read-only mount.
    own: Vec<u32>,
}

impl Sessions {
    /// Reads the state file; takes no number. `reset` accepts a missing or invalid file and begins with session
    /// number 2^31, beyond all that were taken.
    pub fn open(root: BorrowedFd<'_>, key: MacKey, reset: bool) -> Result<Self, StateError> {
        let state = match backing::read_file(root, STATE_FILE, 1 << 23) {
            Ok(bytes) => State::from_bytes(&key, &bytes).map_err(|_| StateError::Unverified),
            Err(Errno::NOENT) => Err(StateError::Missing),
            Err(e) => return Err(StateError::Io(e)),
        };
        let state = match state {
            Err(_) if reset => State { next: 1 << 31, open: Vec::new() },
            other => other?,
        };
        Ok(Self {
            root: root.try_clone_to_owned().map_err(|_| StateError::Io(Errno::MFILE))?,
            key,
            inner: Mutex::new(Inner { state, own: Vec::new() }),
            changes: RwLock::new(()),
            wrote: AtomicBool::new(false),
        })
    }

    /// Writes the state file of a new volume.
    pub fn create(root: BorrowedFd<'_>, key: &MacKey) -> Result<(), Errno> {
        store(root, key, &State::new())
    }

    /// Takes the next number and enters it durably: before a mount's first change. After sessions that did not end,
    /// everything that only the kernel has is made durable first. Gives the number of such sessions.
    pub fn begin(&self) -> Result<usize, StateError> {
        let mut inner = self.inner.lock();
        let crashed = inner.state.open.len();
        self.enter(&mut inner)?;
        if crashed > 0 {
            backing::syncfs(self.root.as_fd()).map_err(StateError::Io)?;
        }
        Ok(crashed)
    }

    /// To be held from before [`Self::current`] is asked until the record with that number is issued. May be nested.
    pub fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.wrote.store(true, Ordering::Relaxed);
        self.changes.read_recursive()
    }

    /// The number that records carry now; 0 for a read-only mount, which writes none.
    pub fn current(&self) -> u32 {
        self.inner.lock().own.last().copied().unwrap_or(0)
    }

    pub fn standing(&self, session: u32) -> Standing {
        let mut inner = self.inner.lock();
        if inner.own.contains(&session) {
            return Standing::Settled;
        }
        if session >= inner.state.next {
            tracing::error!(
                session,
                next = inner.state.next,
                "a file was written by a later session than the state file knows: an older state file was put back"
            );
            inner.state.next = session.saturating_add(1);
        }
        if inner.state.open.contains(&session) { Standing::Unsettled } else { Standing::Settled }
    }

    /// Whether a record's flag NEWEST may be believed (`docs/FORMAT.md` section 8, rule 2).
    pub fn newest_trusted(&self, session: u32) -> bool {
        let inner = self.inner.lock();
        !inner.state.open.iter().any(|open| *open >= session && !inner.own.contains(open))
    }

    /// If something was written since the last call: a new number, `syncfs`, the old number leaves the list.
    pub fn rotate(&self) -> Result<(), StateError> {
        if !self.wrote.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        {
            let mut inner = self.inner.lock();
            if inner.own.is_empty() {
                return Ok(());
            }
            self.enter(&mut inner)?;
        }
        drop(self.changes.write());
        // Not under the locks: writers go on, with the new number.
        backing::syncfs(self.root.as_fd()).map_err(StateError::Io)?;
        let mut inner = self.inner.lock();
        let current = inner.own.pop().expect("enter() added one");
        let ended = std::mem::replace(&mut inner.own, vec![current]);
        inner.state.open.retain(|open| !ended.contains(open));
        store(self.root.as_fd(), &self.key, &inner.state).map_err(StateError::Io)
    }

    /// The clean end: everything durable, own numbers out of the list.
    pub fn end(&self) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if inner.own.is_empty() {
            return Ok(());
        }
        backing::syncfs(self.root.as_fd()).map_err(StateError::Io)?;
        let own = std::mem::take(&mut inner.own);
        inner.state.open.retain(|open| !own.contains(open));
        store(self.root.as_fd(), &self.key, &inner.state).map_err(StateError::Io)
    }

    fn enter(&self, inner: &mut Inner) -> Result<(), StateError> {
        let number = inner.state.next;
        inner.state.next = number.saturating_add(1);
        inner.state.open.push(number);
        if let Err(e) = store(self.root.as_fd(), &self.key, &inner.state) {
            // No record may carry it: the next mount would take it for a session that ended.
            inner.state.open.pop();
            return Err(StateError::Io(e));
        }
        inner.own.push(number);
        Ok(())
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

fn store(root: BorrowedFd<'_>, key: &MacKey, state: &State) -> Result<(), Errno> {
    let tmp = format!("{TMP_PREFIX}{}", hex(&random::bytes::<8>()));
    backing::replace_file(root, STATE_FILE, &tmp, &state.to_bytes(key), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Suite;
    use crate::crypto::secret::SecretBytes;

    fn key() -> MacKey {
        MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[5; 32]).expect("fits"))
    }

    fn volume() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let root = backing::open_root(dir.path()).expect("opens");
        Sessions::create(root.as_fd(), &key()).expect("writes");
        (dir, root)
    }

    fn open(root: &OwnedFd) -> Sessions {
        Sessions::open(root.as_fd(), key(), false).expect("opens")
    }

    #[test]
    fn a_session_that_ended_is_settled_and_one_that_did_not_is_not() {
        let (_dir, root) = volume();
        let first = open(&root);
        assert_eq!(first.begin().expect("begins"), 0);
        let number = first.current();
        assert_eq!(first.standing(number), Standing::Settled, "its own");
        first.end().expect("ends");
        let second = open(&root);
        assert_eq!(second.standing(number), Standing::Settled);
        second.begin().expect("begins");
        let crashed = second.current();
        drop(second);
        let third = open(&root);
        assert_eq!(third.begin().expect("begins"), 1);
        assert_eq!(third.standing(crashed), Standing::Unsettled);
        assert!(!third.newest_trusted(crashed));
        assert!(!third.newest_trusted(number), "a later session is open");
        assert!(third.newest_trusted(third.current()));
    }

    #[test]
    fn rotation_settles_what_was_written() {
        let (_dir, root) = volume();
        let sessions = open(&root);
        sessions.begin().expect("begins");
        let change = sessions.change();
        let old = sessions.current();
        drop(change);
        sessions.rotate().expect("rotates");
        assert_ne!(sessions.current(), old);
        let reader = open(&root);
        assert_eq!(reader.standing(old), Standing::Settled);
        assert_eq!(reader.standing(sessions.current()), Standing::Unsettled);
    }

    #[test]
    fn a_state_file_put_back_raises_the_next_number() {
        let (_dir, root) = volume();
        let sessions = open(&root);
        assert_eq!(sessions.standing(41), Standing::Settled);
        sessions.begin().expect("begins");
        assert_eq!(sessions.current(), 42);
    }

    #[test]
    fn a_number_that_could_not_be_entered_is_not_used() {
        let (dir, root) = volume();
        let sessions = open(&root);
        sessions.begin().expect("begins");
        let number = sessions.current();
        drop(sessions.change());
        // Nothing can be made in it any more, as on a full disk.
        dir.close().expect("removes");
        assert!(sessions.rotate().is_err());
        assert_eq!(sessions.current(), number, "a record of a session that no state file names would count as settled");
    }

    #[test]
    fn damage_is_refused_unless_reset_is_asked_for() {
        let (dir, root) = volume();
        std::fs::write(dir.path().join(STATE_FILE), b"KMSFSst1 and nonsense").expect("writes");
        assert!(matches!(Sessions::open(root.as_fd(), key(), false), Err(StateError::Unverified)));
        std::fs::remove_file(dir.path().join(STATE_FILE)).expect("removes");
        assert!(matches!(Sessions::open(root.as_fd(), key(), false), Err(StateError::Missing)));
        assert!(Sessions::open(root.as_fd(), key(), true).is_ok());
    }
}
