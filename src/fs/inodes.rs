//! The table of inodes that the kernel knows: a descriptor each, held until the kernel forgets it or descriptors become
//! short. An inode that gave its descriptor up is opened again where it was found last.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::backing;
use crate::content::Written;
use crate::format::layout::plain_len;
use crate::names::{DirId, is_cut};

use super::descriptors::{Descriptors, GaveUp};
use super::held_mtime::HeldMtime;
use super::open_files::OpenFile;
use super::unsynced::Unsynced;
use super::{FsError, ROOT, Result};

const SHARDS: usize = 16;
/// Where an inode goes whose backing number is the root's.
const REMAPPED: u64 = 1 << 63;

/// What is known of a directory's marker.
#[derive(Default, Debug)]
pub struct DirState {
    pub id: Option<DirId>,
}

/// The kernel was told a size that was not the file's: what the next look-up tells it.
#[derive(Clone, Copy, Default)]
struct Correction {
    /// Counts the corrections: another generation makes the kernel begin anew with the inode.
    generation: u64,
    /// A stored length, and the size that opening the file has shown it to mean; for a file that may not be set right.
    size: Option<(u64, u64)>,
}

/// An inode that the kernel knows or that is open.
pub struct Inode {
    /// The kernel's number, which is also `st_ino`.
    pub id: u64,
    pub kind: FileType,
    /// O_PATH, or the descriptor that created the file.
    fd: Mutex<Option<Arc<OwnedFd>>>,
    /// Used since [`Descriptors`] looked last.
    used: AtomicBool,
    /// The directory and the stored name under which it was found last.
    found: Mutex<Option<(Arc<Inode>, Vec<u8>)>>,
    /// Its last name was removed while it held no descriptor: its number may belong to another file by now.
    dead: AtomicBool,
    descriptors: Arc<Descriptors>,
    me: Weak<Inode>,
    correction: Mutex<Correction>,
    /// The generation that the last look-up gave to the kernel.
    told: AtomicU64,
    /// The name lock of a directory: held while its entries change.
    pub dir: Mutex<DirState>,
    /// The one open state of a regular file; the lock is held while it is opened or closed.
    pub open: Mutex<Option<Arc<OpenFile>>>,
    pub(super) unsynced: Unsynced,
    pub(super) held_mtime: HeldMtime,
    /// What was written to a file that is closed by now, and is not known to be durable.
    pub written: Mutex<Written>,
    /// See [`Self::has_cut_targets`].
    cut_targets: AtomicBool,
}

impl Inode {
    fn new(
        id: u64,
        kind: FileType,
        fd: Option<Arc<OwnedFd>>,
        correction: Correction,
        descriptors: Arc<Descriptors>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            id,
            kind,
            fd: Mutex::new(fd),
            used: AtomicBool::new(true),
            found: Mutex::default(),
            dead: AtomicBool::new(false),
            descriptors,
            me: me.clone(),
            correction: Mutex::new(correction),
            told: AtomicU64::new(correction.generation),
            dir: Mutex::default(),
            open: Mutex::default(),
            unsynced: Unsynced::default(),
            held_mtime: HeldMtime::default(),
            written: Mutex::default(),
            cut_targets: AtomicBool::new(false),
        })
    }

    /// The inode's descriptor, opened again if it was given up.
    ///
    /// # Errors
    /// [`FsError::Stale`] if the inode is not any more where it was found last: the kernel looks it up anew.
    pub fn fd(&self) -> Result<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = &*self.fd.lock() {
            return Ok(fd.clone());
        }
        let (dir, name) = self.place().ok_or(FsError::Stale)?;
        if self.dead.load(Ordering::Relaxed) {
            return Err(FsError::Stale);
        }
        let fd = match backing::open_entry(dir.fd()?.as_fd(), &name) {
            Err(Errno::NOENT) => return Err(FsError::Stale),
            other => other?,
        };
        let stat = backing::stat(fd.as_fd())?;
        if stat.st_ino != self.id && self.id != REMAPPED || FileType::from_raw_mode(stat.st_mode) != self.kind {
            return Err(FsError::Stale);
        }
        Ok(self.adopt(fd))
    }

    /// Keeps `fd` as the inode's descriptor, unless it has one.
    fn adopt(&self, fd: OwnedFd) -> Arc<OwnedFd> {
        let mut own = self.fd.lock();
        if let Some(fd) = &*own {
            return fd.clone();
        }
        let fd = own.insert(Arc::new(fd)).clone();
        drop(own);
        self.descriptors.gained(self.me.clone());
        fd
    }

    /// Gives the descriptor up if nobody uses it and the inode can be found again; unless `at_once`, also only if it
    /// was not used since it was asked last.
    pub fn give_up(&self, at_once: bool) -> GaveUp {
        let used = self.used.swap(false, Ordering::Relaxed);
        if (used && !at_once) || self.found.lock().is_none() {
            return GaveUp::Spared;
        }
        let (Some(open), Some(mut fd)) = (self.open.try_lock(), self.fd.try_lock()) else { return GaveUp::Spared };
        let Some(own) = &*fd else { return GaveUp::HadNone };
        let unlinked = backing::stat(own.as_fd()).is_ok_and(|stat| stat.st_nlink == 0);
        if open.is_some() || Arc::strong_count(own) > 1 || unlinked {
            return GaveUp::Spared;
        }
        *fd = None;
        self.descriptors.lost();
        GaveUp::Yes
    }

    /// Where the inode is found from now on.
    pub fn moved_to(&self, dir: &Arc<Inode>, name: &[u8]) {
        *self.found.lock() = Some((dir.clone(), name.to_vec()));
    }

    /// The directory in which the inode was found last; none for the root.
    pub fn parent(&self) -> Option<Arc<Inode>> {
        self.found.lock().as_ref().map(|(dir, _)| dir.clone())
    }

    /// The directory and the stored name under which the inode was found last.
    pub fn place(&self) -> Option<(Arc<Inode>, Vec<u8>)> {
        self.found.lock().clone()
    }

    /// A symlink whose target is in two parts is or will be in this directory.
    pub fn note_cut_target(&self) {
        self.cut_targets.store(true, Ordering::Relaxed);
    }

    /// Whether the kernel may know such a symlink in this directory: it stays true.
    pub fn has_cut_targets(&self) -> bool {
        self.cut_targets.load(Ordering::Relaxed)
    }

    /// Before a name is removed: without a descriptor the inode could not be found any more.
    pub fn keep_descriptor(&self) {
        if let Err(e) = self.fd() {
            tracing::debug!(ino = self.id, "what loses a name cannot be opened: {e}");
        }
    }

    /// The last name was removed. With a descriptor the inode lives on, as an open file's does.
    pub fn removed(&self) {
        if self.fd.lock().is_none() {
            self.dead.store(true, Ordering::Relaxed);
        }
    }

    /// The kernel has forgotten the inode. Files that were found in a directory point to it still; once it is removed, nothing
    /// can be found in it again, and its descriptor would be held for as long as any of them is known.
    fn forgotten(&self) {
        let mut fd = self.fd.lock();
        let removed = fd.as_ref().is_some_and(|fd| backing::stat(fd.as_fd()).is_ok_and(|stat| stat.st_nlink == 0));
        if removed {
            self.dead.store(true, Ordering::Relaxed);
            *fd = None;
            self.descriptors.lost();
        }
    }

    /// The generation for a reply to a look-up.
    pub fn tell_generation(&self) -> u64 {
        let generation = self.correction.lock().generation;
        self.told.store(generation, Ordering::Relaxed);
        generation
    }

    /// Whether the kernel may still believe a size that was found to be wrong.
    pub fn is_stale(&self) -> bool {
        self.told.load(Ordering::Relaxed) != self.correction.lock().generation
    }

    /// The plaintext size of a regular file that has `stored` bytes now.
    pub fn plain_len(&self, stored: u64) -> u64 {
        match self.correction.lock().size {
            Some((at, size)) if at == stored => size,
            _ => plain_len(stored),
        }
    }

    pub fn stat(&self) -> Result<Stat> {
        Ok(backing::stat(self.fd()?.as_fd())?)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        if self.fd.get_mut().is_some() {
            self.descriptors.lost();
        }
    }
}

impl std::fmt::Debug for Inode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inode({})", self.id)
    }
}

struct Known {
    inode: Arc<Inode>,
    /// Look-ups that the kernel has not forgotten; changed under the shard's lock alone.
    lookups: u64,
}

pub struct Inodes {
    shards: [RwLock<HashMap<u64, Known>>; SHARDS],
    root: Arc<Inode>,
    descriptors: Arc<Descriptors>,
    /// Of inodes that the kernel had to be told anew, also after it forgot them.
    corrections: Mutex<HashMap<u64, Correction>>,
    /// The backing directory's own number and file system.
    root_ino: u64,
    dev: u64,
}

impl Inodes {
    pub fn new(root: OwnedFd) -> Result<Self> {
        Self::with_descriptors(root, Arc::new(Descriptors::new()))
    }

    pub fn with_descriptors(root: OwnedFd, descriptors: Arc<Descriptors>) -> Result<Self> {
        let stat = backing::stat(root.as_fd())?;
        let (root, none) = (Arc::new(root), Correction::default());
        let inode = Inode::new(ROOT, FileType::Directory, Some(root), none, descriptors.clone());
        Ok(Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            root: inode,
            descriptors,
            corrections: Mutex::default(),
            root_ino: stat.st_ino,
            dev: stat.st_dev,
        })
    }

    /// The kernel's number of a backing inode of this file system.
    pub fn id_of(&self, ino: u64) -> u64 {
        match ino {
            ino if ino == self.root_ino => ROOT,
            ROOT => REMAPPED,
            ino => ino,
        }
    }

    pub fn find(&self, id: u64) -> Option<Arc<Inode>> {
        if id == ROOT {
            return Some(self.root.clone());
        }
        self.shard(id).read().get(&id).map(|known| known.inode.clone())
    }

    /// Counts a look-up of the inode that `fd` refers to and `stat` describes, found as `name` in `dir`. Without `fd` it is
    /// opened when it is wanted.
    pub fn look_up(&self, dir: &Arc<Inode>, name: &[u8], fd: Option<OwnedFd>, stat: &Stat) -> Result<Arc<Inode>> {
        if stat.st_dev != self.dev {
            return Err(FsError::OtherDevice);
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && is_cut(stat.st_size as u64) {
            dir.note_cut_target();
        }
        let id = self.id_of(stat.st_ino);
        let mut shard = self.shard(id).write();
        let lookups = match shard.get_mut(&id) {
            Some(known) if !known.inode.dead.load(Ordering::Relaxed) => {
                known.lookups += 1;
                let inode = known.inode.clone();
                drop(shard);
                inode.moved_to(dir, name);
                if let Some(fd) = fd {
                    inode.adopt(fd);
                }
                return Ok(inode);
            }
            Some(dead) => {
                // Another file has the number now: the kernel begins anew, and forgets what it knew with the rest.
                self.correct(&dead.inode, None);
                dead.lookups
            }
            None => 0,
        };
        let correction = self.corrections.lock().get(&id).copied().unwrap_or_default();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let holds = fd.is_some();
        let inode = Inode::new(id, kind, fd.map(Arc::new), correction, self.descriptors.clone());
        shard.insert(id, Known { inode: inode.clone(), lookups: lookups + 1 });
        drop(shard);
        inode.moved_to(dir, name);
        if holds {
            self.descriptors.gained(Arc::downgrade(&inode));
        } else {
            self.descriptors.does_without();
        }
        Ok(inode)
    }

    /// The inode that the entry `name` of `dir` names, if it is in the table and `stat` describes it.
    pub fn known(&self, stat: &Stat) -> Option<Arc<Inode>> {
        self.find(self.id_of(stat.st_ino))
    }

    /// Whether every inode holds its descriptor, so that none can die unnoticed.
    pub fn all_held(&self) -> bool {
        self.descriptors.all_held()
    }

    /// The kernel was told a wrong size; where the file was not set right, a file of that stored length has that size.
    /// The next look-up tells it so, under another generation; until then [`Inode::is_stale`].
    pub fn correct(&self, inode: &Inode, size: Option<(u64, u64)>) {
        let mut correction = inode.correction.lock();
        correction.generation += 1;
        correction.size = size;
        self.corrections.lock().insert(inode.id, *correction);
    }

    /// Counts a look-up of an inode that is in the table, so that it stays there; [`Self::forget`] takes it back.
    pub fn hold(&self, inode: &Inode) {
        if let Some(known) = self.shard(inode.id).write().get_mut(&inode.id) {
            known.lookups += 1;
        }
    }

    pub fn forget(&self, id: u64, lookups: u64) {
        if id == ROOT {
            return;
        }
        let mut shard = self.shard(id).write();
        if let Some(known) = shard.get_mut(&id) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                let gone = shard.remove(&id);
                // Its descriptor is closed outside the lock.
                drop(shard);
                if let Some(Known { inode, .. }) = gone
                    && inode.kind == FileType::Directory
                    && Arc::strong_count(&inode) > 1
                {
                    inode.forgotten();
                }
            }
        }
    }

    fn shard(&self, id: u64) -> &RwLock<HashMap<u64, Known>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }
}
