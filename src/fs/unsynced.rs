//! Markers and links beside long names that are not durable yet, and who makes them so.
//!
//! Without its directory's marker no stored name can be read, and without its link no long one. A journal makes them
//! durable with the entry, which is made after them. But a backing may keep names in another order (btrfs): a sync of a
//! file then makes the file's own names durable, and those of the directories above, and nothing else. So what these
//! names are read by is synced first, from the root down.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::backing;
use crate::format::volume::NameMode;

use super::inodes::Inode;
use super::open_files::OpenFile;
use super::{Fs, FsError, Result};

/// Counts what may make it necessary to look again: markers and links that were made, inodes that moved.
#[derive(Default)]
pub struct NameChanges(AtomicU64);

/// What a file knows of [`NameChanges`]: whether its names were looked at since the last one.
pub struct SyncedNames(AtomicU64);

impl Default for SyncedNames {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// An inode's part.
#[derive(Default)]
pub struct Unsynced {
    /// Of a directory: the marker, or a long name's link, was made after its last sync. Changed under its name lock.
    inside: AtomicBool,
    /// Directories in which this inode, which is none, got a name while they were such.
    named_in: Mutex<Vec<Arc<Inode>>>,
}

impl Fs {
    /// The directory's marker or a link in it was made, under its name lock.
    pub(super) fn note_unsynced(&self, dir: &Inode) {
        dir.unsynced.inside.store(true, Ordering::Release);
        self.note_name_change();
    }

    /// `inode` got a name in `parent`, under the name lock of that.
    pub(super) fn note_named(&self, parent: &Arc<Inode>, inode: &Inode) {
        if inode.kind == FileType::Directory || !parent.unsynced.inside.load(Ordering::Acquire) {
            return;
        }
        let mut named_in = inode.unsynced.named_in.lock();
        if !named_in.iter().any(|dir| dir.id == parent.id) {
            named_in.push(parent.clone());
        }
        drop(named_in);
        self.note_name_change();
    }

    /// Something is found in another place from now on.
    pub(super) fn note_name_change(&self) {
        self.name_changes.0.fetch_add(1, Ordering::Release);
    }

    /// Whether [`Self::sync_names_of`] may have something to do; asks no lock.
    pub(super) fn names_may_lag(&self, file: &OpenFile) -> bool {
        self.mode == NameMode::Encrypted
            && file.synced_names.0.load(Ordering::Relaxed) != self.name_changes.0.load(Ordering::Acquire)
    }

    /// Before a barrier of a file: what its names are read by is durable when this returns.
    pub(super) fn sync_names_of(&self, file: &OpenFile) -> Result<()> {
        if !self.names_may_lag(file) {
            return Ok(());
        }
        let changes = self.name_changes.0.load(Ordering::Acquire);
        self.sync_names(&file.inode)?;
        file.synced_names.0.store(changes, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Self::sync_names_of`], for any inode; what is in a directory is not its name.
    pub(super) fn sync_names(&self, inode: &Inode) -> Result<()> {
        // Kept until it is done: who syncs the same inode meanwhile has to wait for these directories, too.
        let named_in = inode.unsynced.named_in.lock().clone();
        let found_in = inode.parent();
        named_in.iter().chain(&found_in).try_for_each(|dir| self.sync_down_to(dir))?;
        inode.unsynced.named_in.lock().retain(|dir| dir.unsynced.inside.load(Ordering::Acquire));
        Ok(())
    }

    fn sync_down_to(&self, dir: &Arc<Inode>) -> Result<()> {
        let mut chain = vec![dir.clone()];
        // Others rename meanwhile: no longer than any path can be.
        while let Some(above) = chain[chain.len() - 1].parent()
            && chain.len() < libc::PATH_MAX as usize
        {
            chain.push(above);
        }
        chain.iter().rev().try_for_each(|dir| self.sync_inside(dir))
    }

    /// Makes the entries of a directory durable, if its marker or a long name's link is not.
    fn sync_inside(&self, dir: &Inode) -> Result<()> {
        let is_unsynced = || dir.unsynced.inside.load(Ordering::Acquire);
        if !is_unsynced() {
            return Ok(());
        }
        let _names = dir.dir.lock();
        if !is_unsynced() {
            return Ok(());
        }
        match dir.fd().and_then(|fd| Ok(backing::sync_dir(fd.as_fd())?)) {
            // Or it was removed, and names nothing.
            Ok(()) | Err(FsError::Backing(Errno::NOENT)) => {}
            // Removed, or elsewhere than it was found last: who finds it there syncs it.
            Err(FsError::Stale) => return Ok(()),
            // A daemon without the right to list it.
            Err(FsError::Backing(Errno::ACCESS)) => self.volume.redo.syncfs()?,
            Err(e) => return Err(e),
        }
        dir.was_synced();
        Ok(())
    }
}

impl Inode {
    /// The directory was synced, under its name lock.
    pub(super) fn was_synced(&self) {
        self.unsynced.inside.store(false, Ordering::Release);
    }
}
