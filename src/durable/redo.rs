//! The redo file of a mount, and those that sessions left which did not end (`docs/FORMAT.md` section 6).
//!
//! One file per mount, made at the first overwriting, grown in steps, renamed when the session gets another number, and
//! removed at the clean end. A place is in one of three states: free; taken, by a block whose page waits; issued, its
//! page was written but is not durable yet. Who frees an issued place has seen a barrier after the page was issued: of its
//! file, or a `syncfs`.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::backing;
use crate::crypto::random;
use crate::format::block::Version;
use crate::format::derived::FileId;
use crate::format::layout::BLOCK_LEN;
use crate::format::redo::{PLACE_HEAD_LEN, PLACE_LEN, PlaceHead};
use crate::format::volume::hex;
use crate::format::{REDO_PREFIX, TMP_PREFIX};

use super::Barriers;

/// Places of a redo file at most: 64 MiB.
const PLACES_MAX: u32 = (64 << 20) / PLACE_LEN as u32;
/// How many places the file grows by, first choice first: at most an eighth of what is free.
const STEPS: [u32; 3] = [1008, 126, 15];
/// Pages that wait in the memory of a mount before its rounds are ended: 32 MiB.
const WAITING_MAX: isize = (32 << 20) / BLOCK_LEN as isize;
/// Places that one call to the backing writes: two buffers each, below the system's limit of 1024 buffers.
const PLACES_PER_CALL: usize = 256;

/// The number of a place; place j begins at byte 4160 · j.
pub type Place = u32;

#[derive(Debug, thiserror::Error)]
pub enum RedoError {
    /// Rounds have to be ended, and what they wrote made durable, before there are places again.
    #[error("every place of the redo file is in use")]
    Full,
    #[error("the redo file: {0}")]
    Backing(#[from] Errno),
}

/// The redo file of this mount, and what earlier sessions left.
pub struct Redo {
    root: OwnedFd,
    inner: Mutex<Inner>,
    /// Sessions that had not ended when the volume was opened.
    crashed: Vec<u32>,
    left: OnceLock<Left>,
    /// Pages that wait in memory.
    waiting: AtomicIsize,
    /// Syncs of this file; a `syncfs` that failed counts as one that did.
    barriers: Barriers,
    /// `syncfs`, through one descriptor.
    all: Barriers,
    /// Pages of closed files may never be written by the system: the file has what they were to be.
    kept: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// The file, and the session in its name.
    file: Option<(Arc<OwnedFd>, u32)>,
    places: u32,
    free: Vec<Place>,
    /// Places whose pages were issued and are not durable yet.
    issued: HashMap<Ticket, Issued>,
    last_ticket: Ticket,
}

/// Stands for a place whose page was issued: it may be free by now, and taken again for another page.
pub type Ticket = u64;

struct Issued {
    place: Place,
    /// Its file is closed: nobody but `syncfs` frees it.
    orphan: bool,
    /// A sync failed: its page may never be written, unless its file issues it again.
    held: bool,
}

/// The places of redo files that sessions left.
#[derive(Default)]
struct Left {
    files: Vec<OwnedFd>,
    places: HashMap<(FileId, u64), Vec<LeftPlace>>,
}

/// A version whose page lies in a place of `Left::files[file]`.
struct LeftPlace {
    version: Version,
    file: usize,
    place: Place,
}

impl Redo {
    /// `crashed`: the sessions whose redo files count.
    pub fn new(root: BorrowedFd<'_>, crashed: Vec<u32>) -> Result<Self, Errno> {
        let root = root.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        Ok(Self {
            root,
            inner: Mutex::default(),
            crashed,
            left: OnceLock::new(),
            waiting: AtomicIsize::new(0),
            barriers: Barriers::default(),
            all: Barriers::default(),
            kept: AtomicBool::new(false),
        })
    }

    /// Takes up to `want` places, at least one; `session` names the file if it has to be made.
    pub fn take(&self, want: usize, session: u32) -> Result<Vec<Place>, RedoError> {
        let mut inner = self.inner.lock();
        if inner.free.is_empty() {
            self.extend(&mut inner, session)?;
        }
        if inner.free.is_empty() {
            return Err(RedoError::Full);
        }
        let keep = inner.free.len() - want.min(inner.free.len());
        let mut places = inner.free.split_off(keep);
        places.sort_unstable();
        Ok(places)
    }

    /// Makes the file, or makes it longer. Allocated before use: overwriting needs no space on a full disk.
    fn extend(&self, inner: &mut Inner, session: u32) -> Result<(), RedoError> {
        let file = match &inner.file {
            Some((file, _)) => file.clone(),
            None => {
                let name = file_name(session);
                // One that is there was left by a daemon whose state file was put back: nobody needs it.
                let file = match backing::create(self.root.as_fd(), name.as_bytes(), 0o600) {
                    Err(Errno::EXIST) => {
                        clear_the_way(self.root.as_fd(), &name)?;
                        backing::create(self.root.as_fd(), name.as_bytes(), 0o600)?
                    }
                    other => other?,
                };
                backing::fsync(self.root.as_fd())?;
                inner.file.insert((Arc::new(file), session)).0.clone()
            }
        };
        // Never much of what others may need, but the smallest step.
        let free = backing::statvfs(self.root.as_fd())?;
        let share = free.f_bavail.saturating_mul(free.f_frsize) / 8 / PLACE_LEN as u64;
        let share = u32::try_from(share).unwrap_or(PLACES_MAX).max(STEPS[STEPS.len() - 1]);
        let mut failed = None;
        for step in STEPS {
            let step = step.min(share).min(PLACES_MAX - inner.places);
            if step == 0 {
                break;
            }
            let (from, len) = (u64::from(inner.places) * PLACE_LEN as u64, u64::from(step) * PLACE_LEN as u64);
            match backing::allocate(file.as_fd(), from, len) {
                Ok(()) => {
                    // Lowest last, for places are taken from the end.
                    inner.free.extend((inner.places..inner.places + step).rev());
                    inner.places += step;
                    return Ok(());
                }
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if inner.places == 0 => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Writes blocks into places, which the caller took: consecutive ones in one call.
    pub fn write<'a>(
        &self,
        places: &[Place],
        file_id: FileId,
        blocks: impl Iterator<Item = (u64, Version, &'a [u8])>,
    ) -> Result<(), Errno> {
        let file = self.file().ok_or(Errno::BADF)?;
        let mut run: Vec<([u8; PLACE_HEAD_LEN], &[u8])> = Vec::new();
        let mut start = 0;
        for (&place, (block, version, page)) in places.iter().zip(blocks) {
            if !run.is_empty() && (place != start + run.len() as Place || run.len() == PLACES_PER_CALL) {
                write_run(file.as_fd(), start, &run)?;
                run.clear();
            }
            if run.is_empty() {
                start = place;
            }
            run.push((PlaceHead { file_id, block, version }.to_bytes(), page));
        }
        write_run(file.as_fd(), start, &run)
    }

    /// Places whose blocks do not need them any more, whatever a crash leaves.
    pub fn free(&self, places: impl IntoIterator<Item = Place>) {
        self.inner.lock().free.extend(places);
    }

    /// The page of a place was issued: the place is free after a barrier that is begun later.
    pub fn issued(&self, place: Place) -> Ticket {
        let mut inner = self.inner.lock();
        inner.last_ticket += 1;
        let ticket = inner.last_ticket;
        inner.issued.insert(ticket, Issued { place, orphan: false, held: false });
        ticket
    }

    /// A barrier has made their pages durable.
    pub fn settle(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let mut inner = self.inner.lock();
        for ticket in tickets {
            if let Some(issued) = inner.issued.remove(&ticket) {
                inner.free.push(issued.place);
            }
        }
    }

    /// Their barrier has failed: their file will issue their pages again, and no `syncfs` frees them before.
    pub fn hold(&self, tickets: impl IntoIterator<Item = Ticket>) {
        let mut inner = self.inner.lock();
        for ticket in tickets {
            if let Some(issued) = inner.issued.get_mut(&ticket) {
                issued.held = true;
            }
        }
    }

    /// Their file is closed: free after the next `syncfs`. `needed`: its blocks are still there, so pages that may never
    /// be written are kept.
    pub fn orphan(&self, tickets: impl IntoIterator<Item = Ticket>, needed: bool) {
        let mut inner = self.inner.lock();
        for ticket in tickets {
            let Some(issued) = inner.issued.get_mut(&ticket) else { continue };
            issued.orphan = true;
            if !issued.held {
                continue;
            }
            if needed {
                inner.issued.remove(&ticket);
                self.kept.store(true, Ordering::SeqCst);
            } else {
                issued.held = false;
            }
        }
    }

    /// Counts pages that wait in memory, or wait no more.
    pub fn count_waiting(&self, change: isize) {
        self.waiting.fetch_add(change, Ordering::Relaxed);
    }

    /// Whether so much waits in memory that rounds should be ended.
    pub fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > WAITING_MAX
    }

    /// Whether a `syncfs` would free so many places of closed files that it is worth it.
    pub fn wants_syncfs(&self) -> bool {
        let inner = self.inner.lock();
        let enough = PLACES_MAX as usize / 4;
        inner.issued.len() > enough && inner.issued.values().filter(|issued| issued.orphan).count() > enough
    }

    /// `syncfs`, after which the places are free whose pages were issued before. If it fails, those of closed files are
    /// never free again in this mount: the system takes pages for written that are not.
    pub fn syncfs(&self) -> Result<(), Errno> {
        let before: Vec<Ticket> =
            self.inner.lock().issued.iter().filter(|(_, issued)| !issued.held).map(|(&ticket, _)| ticket).collect();
        let failures = self.all.failures();
        let synced = self.all.end(self.all.begin(), || backing::syncfs(self.root.as_fd()));
        // Another one's failure was told to that one alone.
        let synced = if self.all.failures() == failures { synced } else { synced.and(Err(Errno::IO)) };
        let mut inner = self.inner.lock();
        for ticket in before {
            let Some(issued) = inner.issued.get_mut(&ticket) else { continue };
            match (synced.is_ok(), issued.orphan) {
                // A barrier beside this one has failed.
                (true, _) if issued.held => {}
                (true, _) => {
                    let place = issued.place;
                    inner.issued.remove(&ticket);
                    inner.free.push(place);
                }
                (false, false) => issued.held = true,
                (false, true) => {
                    inner.issued.remove(&ticket);
                    self.kept.store(true, Ordering::SeqCst);
                }
            }
        }
        // Lowest last: places that are taken together are written in one call where they touch.
        inner.free.sort_unstable_by(|a, b| b.cmp(a));
        if synced.is_err() {
            self.barriers.count_failure();
        }
        synced
    }

    /// A barrier for what was written into places.
    pub fn sync(&self) -> Result<(), Errno> {
        let Some(file) = self.file() else { return Ok(()) };
        self.barriers.end(self.barriers.begin(), || backing::fdatasync(file.as_fd()))
    }

    /// Changes whenever places that were written may not be durable after the next barrier either: the system tells an
    /// error once, to whoever asks first.
    pub fn failures(&self) -> u64 {
        self.barriers.failures()
    }

    /// Whether the file has pages that may be nowhere else: its session must not end as if all were well.
    pub fn is_needed(&self) -> bool {
        self.kept.load(Ordering::SeqCst) || self.inner.lock().issued.values().any(|issued| issued.held)
    }

    /// The page that was issued, as long as its place has it.
    pub fn read(&self, ticket: Ticket, page: &mut [u8]) -> bool {
        let Some(place) = self.inner.lock().issued.get(&ticket).map(|issued| issued.place) else { return false };
        let at = u64::from(place) * PLACE_LEN as u64 + PLACE_HEAD_LEN as u64;
        self.file().is_some_and(|file| backing::read_at(file.as_fd(), page, at) == Ok(page.len()))
    }

    /// The file.
    fn file(&self) -> Option<Arc<OwnedFd>> {
        self.inner.lock().file.as_ref().map(|(file, _)| file.clone())
    }

    /// Gives the file the name of another session, durably: before the number of the old one leaves the list.
    pub fn rename(&self, session: u32) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let Some((_, old)) = &mut inner.file else { return Ok(()) };
        let (from, to) = (file_name(*old), file_name(session));
        let root = self.root.as_fd();
        let rename = || backing::rename(root, from.as_bytes(), root, to.as_bytes(), RenameFlags::empty());
        match rename() {
            Err(Errno::ISDIR) => clear_the_way(root, &to).and_then(|()| rename())?,
            other => other?,
        }
        *old = session;
        backing::fsync(root)
    }

    /// Removes the file: after its session has left the list.
    pub fn remove(&self) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let Some((_, session)) = inner.file.take() else { return Ok(()) };
        *inner = Inner::default();
        backing::unlink(self.root.as_fd(), file_name(session).as_bytes())
    }

    /// Whether a session that did not end has left anything of this file; also where that cannot be read.
    pub fn has_left(&self, file_id: &FileId) -> bool {
        let left = self.left();
        left.is_err() || left.is_ok_and(|left| left.is_some_and(|left| left.places.keys().any(|(of, _)| of == file_id)))
    }

    /// # Errors
    /// What sessions left cannot be read, and is not known: it is tried again.
    fn left(&self) -> Result<Option<&Left>, Errno> {
        if self.crashed.is_empty() {
            return Ok(None);
        }
        if let Some(left) = self.left.get() {
            return Ok(Some(left));
        }
        let read = Left::read(self.root.as_fd(), &self.crashed)?;
        Ok(Some(self.left.get_or_init(|| read)))
    }

    /// The page of a block that a session which did not end was about to write: as it lies in a redo file, not verified.
    ///
    /// # Errors
    /// It may be there, and cannot be read: the block is not what is found without it.
    pub fn find(&self, file_id: &FileId, block: u64, version: &Version, page: &mut [u8]) -> Result<bool, Errno> {
        let Some(left) = self.left()? else { return Ok(false) };
        let Some(places) = left.places.get(&(*file_id, block)) else { return Ok(false) };
        for found in places.iter().filter(|left| left.version == *version) {
            let at = u64::from(found.place) * PLACE_LEN as u64 + PLACE_HEAD_LEN as u64;
            if backing::read_at(left.files[found.file].as_fd(), page, at)? == page.len() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Left {
    fn read(root: BorrowedFd<'_>, sessions: &[u32]) -> Result<Self, Errno> {
        let mut left = Self::default();
        for &session in sessions {
            match left.add(root, session) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::INVAL) => {
                    tracing::error!(session, "{} is no file: as if it were not there", file_name(session));
                }
                Err(e) => {
                    tracing::error!(session, "the redo file of a session that did not end cannot be read: {e}");
                    return Err(e);
                }
            }
        }
        Ok(left)
    }

    fn add(&mut self, root: BorrowedFd<'_>, session: u32) -> Result<(), Errno> {
        let file = backing::open_file(root, file_name(session).as_bytes())?;
        let number = self.files.len();
        let mut head = [0; PLACE_HEAD_LEN];
        let mut place = 0;
        while place < PLACES_MAX
            && backing::read_at(file.as_fd(), &mut head, u64::from(place) * PLACE_LEN as u64)? == PLACE_HEAD_LEN
        {
            if let Some(head) = PlaceHead::from_bytes(&head) {
                let left = LeftPlace { version: head.version, file: number, place };
                self.places.entry((head.file_id, head.block)).or_default().push(left);
            }
            place += 1;
        }
        self.files.push(file);
        Ok(())
    }
}

impl std::fmt::Debug for Redo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redo")
    }
}

/// The name of a session's redo file.
pub fn file_name(session: u32) -> String {
    format!("{REDO_PREFIX}{session}")
}

/// What has the name of a redo file that is to be made: nobody needs it. A directory is moved aside, with what is in it.
fn clear_the_way(root: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match backing::unlink(root, name.as_bytes()) {
        Err(Errno::ISDIR) => {
            let aside = format!("{TMP_PREFIX}{}", hex(&random::bytes::<8>()));
            tracing::error!("the directory {name} was in the way of the redo file: it is {aside} now");
            backing::rename(root, name.as_bytes(), root, aside.as_bytes(), RenameFlags::NOREPLACE)
        }
        other => other,
    }
}

fn write_run(file: BorrowedFd<'_>, start: Place, run: &[([u8; PLACE_HEAD_LEN], &[u8])]) -> Result<(), Errno> {
    if run.is_empty() {
        return Ok(());
    }
    let mut bufs: Vec<IoSlice<'_>> =
        run.iter().flat_map(|(head, page)| [IoSlice::new(head), IoSlice::new(page)]).collect();
    backing::write_vectored_at(file, &mut bufs, u64::from(start) * PLACE_LEN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::{Kind, Meta};

    fn version(seq: u8) -> Version {
        Version { nonce: [seq; 12], tag: [2; 16], meta: Meta { epoch: 0, kind: Kind::Data, seq } }
    }

    fn redo(dir: &tempfile::TempDir, crashed: Vec<u32>) -> Redo {
        Redo::new(backing::open_root(dir.path()).expect("opens").as_fd(), crashed).expect("a descriptor")
    }

    #[test]
    fn what_a_session_left_is_found_by_version() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let own = redo(&dir, Vec::new());
        let places = own.take(3, 7).expect("there is room");
        assert_eq!(places, [0, 1, 2]);
        let pages: Vec<Vec<u8>> = (0..3).map(|n| vec![n; BLOCK_LEN]).collect();
        let blocks = (0..3).map(|n| (40 + n as u64, version(n), &pages[n as usize][..]));
        own.write(&places, [9; 16], blocks).expect("writes");
        let later = redo(&dir, vec![3, 7]);
        let mut page = [0xff; BLOCK_LEN];
        assert!(later.find(&[9; 16], 41, &version(1), &mut page).expect("reads"));
        assert_eq!(page[..], pages[1][..]);
        assert!(!later.find(&[9; 16], 41, &version(2), &mut page).expect("reads"), "another version");
        assert!(!later.find(&[8; 16], 41, &version(1), &mut page).expect("reads"), "another file");
        assert!(
            !redo(&dir, vec![3]).find(&[9; 16], 41, &version(1), &mut page).expect("reads"),
            "a session that has ended"
        );
    }

    #[test]
    fn a_directory_in_the_place_of_a_redo_file_is_moved_aside() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        for session in [1, 2, 3] {
            std::fs::create_dir(dir.path().join(file_name(session))).expect("a directory");
        }
        std::fs::write(dir.path().join("kmsfs.redo.1/inside"), b"kept").expect("a file");
        let own = redo(&dir, Vec::new());
        own.take(1, 1).expect("there is room");
        own.rename(2).expect("renames");
        assert!(dir.path().join("kmsfs.redo.2").is_file());
        let aside = |entry: &std::fs::DirEntry| entry.path().join("inside").exists();
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("lists").filter(|e| aside(e.as_ref().expect("one"))).count(),
            1
        );
        let later = redo(&dir, vec![3]);
        assert_eq!(later.find(&[9; 16], 1, &version(1), &mut [0; BLOCK_LEN]), Ok(false), "no file: as if it were gone");
    }

    #[test]
    fn places_end_and_come_back() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let redo = redo(&dir, Vec::new());
        let mut taken = Vec::new();
        let full = loop {
            match redo.take(1000, 1) {
                Ok(places) => taken.extend(places),
                Err(e) => break e,
            }
        };
        assert!(matches!(full, RedoError::Full));
        assert_eq!(taken.len(), PLACES_MAX as usize);
        let tickets: Vec<Ticket> = taken.split_off(10).into_iter().map(|place| redo.issued(place)).collect();
        redo.orphan(tickets, true);
        assert!(matches!(redo.take(1, 1), Err(RedoError::Full)), "not before a syncfs");
        redo.syncfs().expect("syncs");
        assert!(redo.take(1, 1).is_ok());
        redo.rename(2).expect("renames");
        assert!(dir.path().join("kmsfs.redo.2").exists() && !dir.path().join("kmsfs.redo.1").exists());
        redo.remove().expect("removes");
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
    }
}
