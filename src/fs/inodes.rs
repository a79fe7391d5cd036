//! The table of inodes that the kernel knows: one descriptor each, held until the kernel forgets it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FileType, Stat};

use crate::backing;
use crate::format::layout::plain_len;
use crate::names::DirId;

use super::open_files::OpenFile;
use super::{FsError, ROOT, Result};

const SHARDS: usize = 16;
/// Where an inode goes whose backing number is the root's.
const REMAPPED: u64 = 1 << 63;

/// What is known of a directory's marker.
#[derive(Default, Debug)]
pub struct DirState {
    pub id: Option<DirId>,
    /// The marker, or a long name's link, was made after the directory's last sync.
    pub unsynced: bool,
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
    /// O_PATH, or the descriptor that created the file.
    pub fd: Arc<OwnedFd>,
    pub kind: FileType,
    correction: Mutex<Correction>,
    /// The generation that the last look-up gave to the kernel.
    told: AtomicU64,
    /// The name lock of a directory: held while its entries change.
    pub dir: Mutex<DirState>,
    /// The one open state of a regular file; the lock is held while it is opened or closed.
    pub open: Mutex<Option<Arc<OpenFile>>>,
    /// A directory whose marker or link names this file and is not synced yet.
    pub unsynced_in: Mutex<Option<Arc<Inode>>>,
}

impl Inode {
    fn new(id: u64, fd: Arc<OwnedFd>, kind: FileType, correction: Correction) -> Self {
        Self {
            id,
            fd,
            kind,
            correction: Mutex::new(correction),
            told: AtomicU64::new(correction.generation),
            dir: Mutex::default(),
            open: Mutex::default(),
            unsynced_in: Mutex::default(),
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
        Ok(backing::stat(self.fd.as_fd())?)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
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
    known: AtomicUsize,
    crowded: usize,
    /// Of inodes that the kernel had to be told anew, also after it forgot them.
    corrections: Mutex<HashMap<u64, Correction>>,
    /// The backing directory's own number and file system.
    root_ino: u64,
    dev: u64,
}

impl Inodes {
    pub fn new(root: OwnedFd) -> Result<Self> {
        let stat = backing::stat(root.as_fd())?;
        let inode = Arc::new(Inode::new(ROOT, Arc::new(root), FileType::Directory, Correction::default()));
        Ok(Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            root: inode,
            known: AtomicUsize::new(0),
            crowded: backing::descriptor_limit() / 2,
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

    /// Counts a look-up of the inode that `fd` refers to and `stat` describes.
    pub fn look_up(&self, fd: OwnedFd, stat: &Stat) -> Result<Arc<Inode>> {
        if stat.st_dev != self.dev {
            return Err(FsError::OtherDevice);
        }
        let id = self.id_of(stat.st_ino);
        let mut shard = self.shard(id).write();
        let known = shard.entry(id).or_insert_with(|| {
            let correction = self.corrections.lock().get(&id).copied().unwrap_or_default();
            let kind = FileType::from_raw_mode(stat.st_mode);
            self.known.fetch_add(1, Ordering::Relaxed);
            Known { inode: Arc::new(Inode::new(id, Arc::new(fd), kind, correction)), lookups: 0 }
        });
        known.lookups += 1;
        Ok(known.inode.clone())
    }

    /// The kernel was told a wrong size; where the file was not set right, a file of that stored length has that size.
    /// The next look-up tells it so, under another generation; until then [`Inode::is_stale`].
    pub fn correct(&self, inode: &Inode, size: Option<(u64, u64)>) {
        let mut correction = inode.correction.lock();
        correction.generation += 1;
        correction.size = size;
        self.corrections.lock().insert(inode.id, *correction);
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
                self.known.fetch_sub(1, Ordering::Relaxed);
                // Its descriptor is closed outside the lock.
                drop(shard);
                drop(gone);
            }
        }
    }

    /// Whether descriptors are becoming short: then a listing looks nothing up that nobody asked for.
    pub fn is_crowded(&self) -> bool {
        self.known.load(Ordering::Relaxed) >= self.crowded
    }

    fn shard(&self, id: u64) -> &RwLock<HashMap<u64, Known>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }
}
