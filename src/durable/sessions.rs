//! The sessions of a volume: which of them did not end, and this mount's own (`docs/FORMAT.md` section 6).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::io::Errno;

use crate::backing;
use crate::crypto::derive::MacKey;
use crate::crypto::random;
use crate::format::state::State;
use crate::format::volume::hex;
use crate::format::{STATE_FILE, TMP_PREFIX};

use super::redo::Redo;

/// How the session that wrote a record stands to this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that the record says was durable.
    Settled,
    /// This mount wrote it, and has not made it durable since.
    Own,
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
    #[error("something could not be written; what there is of it is found as after a crash")]
    Unclean,
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
    /// Some file does not say what is known of it: no record of this mount may count as settled.
    unclean: AtomicBool,
    /// Counts the moments after which everything written before may be durable, though no file was synced.
    aged: AtomicU64,
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
            unclean: AtomicBool::new(false),
            aged: AtomicU64::new(0),
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

    /// A file was closed whose record could not be written, or does not say what is known: the session stays in the list,
    /// and files are looked at as after a crash.
    pub fn leave_unclean(&self) {
        if !self.unclean.swap(true, Ordering::SeqCst) {
            tracing::error!("a file does not say what is known of it: this session will not end cleanly");
        }
    }

    /// Says that everything written before may become durable without a sync of its file: because the whole backing is
    /// about to be synced, or because it has been written for so long that the system may have done so.
    pub fn age(&self) {
        self.aged.fetch_add(1, Ordering::AcqRel);
    }

    /// How often [`Self::age`] was called.
    pub fn aged(&self) -> u64 {
        self.aged.load(Ordering::Acquire)
    }

    /// The number that records carry now; 0 for a read-only mount, which writes none.
    pub fn current(&self) -> u32 {
        self.inner.lock().own.last().copied().unwrap_or(0)
    }

    pub fn standing(&self, session: u32) -> Standing {
        let mut inner = self.inner.lock();
        if inner.own.contains(&session) {
            return Standing::Own;
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

    /// False for a session that the state file has not given out yet: an older state file was put back.
    pub fn knows(&self, session: u32) -> bool {
        session < self.inner.lock().state.next
    }

    /// Whether a record's flag NEWEST may be believed (`docs/FORMAT.md` section 8, rule 2).
    pub fn newest_trusted(&self, session: u32) -> bool {
        let inner = self.inner.lock();
        !inner.state.open.iter().any(|open| *open >= session && !inner.own.contains(open))
    }

    /// The sessions that did not end, this mount's own left out.
    pub fn crashed(&self) -> Vec<u32> {
        let inner = self.inner.lock();
        inner.state.open.iter().copied().filter(|open| !inner.own.contains(open)).collect()
    }

    /// If something was written since the last call: a new number, `end_rounds`, `syncfs`, the old number leaves the
    /// list. Where `end_rounds` fails the old number stays, and the next call tries again.
    pub fn rotate(&self, redo: &Redo, end_rounds: impl FnOnce() -> Result<(), Errno>) -> Result<(), StateError> {
        if self.unclean.load(Ordering::SeqCst) || !self.wrote.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        {
            let mut inner = self.inner.lock();
            if inner.own.is_empty() {
                return Ok(());
            }
            self.enter(&mut inner).inspect_err(|_| self.wrote.store(true, Ordering::Relaxed))?;
        }
        self.age();
        drop(self.changes.write());
        // Not under the locks: writers go on, with the new number.
        let settle = || {
            end_rounds()?;
            redo.syncfs()?;
            redo.rename(self.current())
        };
        if let Err(e) = settle() {
            self.wrote.store(true, Ordering::Relaxed);
            return Err(StateError::Io(e));
        }
        let mut inner = self.inner.lock();
        let current = inner.own.pop().expect("enter() added one");
        let ended = std::mem::replace(&mut inner.own, vec![current]);
        inner.state.open.retain(|open| !ended.contains(open));
        store(self.root.as_fd(), &self.key, &inner.state).map_err(StateError::Io)
    }

    /// The clean end, once all rounds have ended: everything durable, own numbers out of the list, no redo file.
    pub fn end(&self, redo: &Redo) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        if inner.own.is_empty() {
            return Ok(());
        }
        // Also where it is the last chance: what the kernel has of this session is asked for.
        redo.syncfs().map_err(StateError::Io)?;
        if self.unclean.load(Ordering::SeqCst) || redo.is_needed() {
            inner.own.clear();
            return Err(StateError::Unclean);
        }
        let own = std::mem::take(&mut inner.own);
        inner.state.open.retain(|open| !own.contains(open));
        store(self.root.as_fd(), &self.key, &inner.state).map_err(StateError::Io)?;
        redo.remove().map_err(StateError::Io)
    }

    /// The clean end of one that has been through all files and settled what sessions had left that did not end: they
    /// leave the list with this one, after everything is durable. Their redo files are the caller's to remove.
    pub fn end_all(&self, redo: &Redo) -> Result<(), StateError> {
        let mut inner = self.inner.lock();
        backing::syncfs(self.root.as_fd()).map_err(StateError::Io)?;
        inner.own.clear();
        inner.state.open.clear();
        store(self.root.as_fd(), &self.key, &inner.state).map_err(StateError::Io)?;
        redo.remove().map_err(StateError::Io)
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

    fn redo(root: &OwnedFd) -> Redo {
        Redo::new(root.as_fd(), Vec::new()).expect("a descriptor")
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
        assert_eq!(first.standing(number), Standing::Own);
        first.end(&redo(&root)).expect("ends");
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
        sessions.rotate(&redo(&root), || Ok(())).expect("rotates");
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
        let (sessions, redo) = (open(&root), redo(&root));
        sessions.begin().expect("begins");
        let number = sessions.current();
        drop(sessions.change());
        // Nothing can be made in it any more, as on a full disk.
        dir.close().expect("removes");
        assert!(sessions.rotate(&redo, || Ok(())).is_err());
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

    #[test]
    fn a_fifo_in_the_place_of_the_state_file_keeps_nobody_waiting() {
        let (dir, root) = volume();
        std::fs::remove_file(dir.path().join(STATE_FILE)).expect("removes");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&root, STATE_FILE, rustix::fs::FileType::Fifo, mode, 0).expect("makes");
        assert!(matches!(Sessions::open(root.as_fd(), key(), false), Err(StateError::Io(Errno::INVAL))));
    }
}
