//! The file system itself, without FUSE types: operations on inodes, handles and names.
//!
//! No operation waits for the network. One that needs a key which is not at hand changes nothing and gives
//! [`FsError::Wait`]; the caller awaits [`Fs::wait`] elsewhere and calls again.
//!
//! Locks, in this order: a directory's name lock, [`inodes::Inode::open`], a content's lock, a table's own lock. The
//! kernel serialises changes of one directory for an exclusive mount; the name lock does it for callers without a
//! kernel in front.

mod ahead;
pub mod attr;
mod descriptors;
pub mod dirs;
pub mod error;
#[cfg(test)]
mod faults;
pub mod file_ops;
pub mod handles;
mod held_mtime;
pub mod inodes;
#[cfg(test)]
mod mutation;
pub mod namespace;
pub mod open_files;
#[cfg(test)]
pub(crate) mod power_cut;
pub mod rounds;
mod targets;
mod unsynced;
pub mod xattr;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use crate::content::{SYNC_BARRIERS, Volume};
use crate::format::volume::NameMode;
use crate::keys::Keys;
use crate::names::Names;

use ahead::Ahead;
pub use attr::{Attr, Entry, SetAttr, SetTime};
pub use error::{FsError, Result, Wait};
use handles::Handles;
use inodes::{Inode, Inodes};
pub use open_files::Ready;
use rounds::Rounds;
use unsynced::NameChanges;

/// The inode number of the root, for the kernel.
pub const ROOT: u64 = 1;

/// Who asks: the owner of what is made.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

/// What a mount may and may not do.
#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    pub read_only: bool,
    /// Objects get the caller's owner: only root can give them away.
    pub change_owner: bool,
    /// Keys are fetched ahead of who opens one file after another.
    pub fetch_ahead: bool,
}

/// Told to make the kernel write back and forget what it caches of an inode.
pub type Invalidate = Box<dyn Fn(u64) + Send + Sync>;

/// A mounted volume.
pub struct Fs {
    volume: Arc<Volume>,
    mode: NameMode,
    name_max: usize,
    keys: Arc<Keys>,
    options: FsOptions,
    inodes: Inodes,
    handles: Handles,
    rounds: Rounds,
    name_changes: NameChanges,
    ahead: Ahead,
    invalidate: OnceLock<Invalidate>,
}

impl Fs {
    /// `root` is the opened backing directory; `name_max` the longest stored name.
    pub fn new(
        volume: Arc<Volume>,
        mode: NameMode,
        name_max: usize,
        keys: Arc<Keys>,
        root: OwnedFd,
        options: FsOptions,
    ) -> Result<Self> {
        let inodes = Inodes::new(root)?;
        Ok(Self {
            volume,
            mode,
            name_max,
            keys,
            options,
            inodes,
            handles: Handles::default(),
            rounds: Rounds::default(),
            name_changes: NameChanges::default(),
            ahead: Ahead::new(options.fetch_ahead),
            invalidate: OnceLock::new(),
        })
    }

    /// Once the kernel can be told: without it, SEEK_DATA and SEEK_HOLE know only what was written back.
    pub fn set_invalidate(&self, invalidate: Invalidate) {
        let _ = self.invalidate.set(invalidate);
    }

    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The clean end: open files are closed, everything is durable, the session leaves the list.
    pub fn end(&self) {
        let mut rounds = self.end_rounds(std::time::Duration::ZERO);
        // A round may leave another: slots of filled holes, then the bits of groups that they make complete.
        for _ in 0..SYNC_BARRIERS {
            if rounds.is_ok() && self.anything_waits() {
                rounds = self.end_rounds(std::time::Duration::ZERO);
            }
        }
        for file in self.handles.take_all() {
            let closed = file.close();
            self.settle_mtime(&file);
            if let Err(e) = closed {
                tracing::error!(ino = file.inode.id, "closing a file at the end of the mount: {e}");
                self.volume.sessions.leave_unclean();
            }
        }
        if self.anything_waits() {
            self.volume.sessions.leave_unclean();
        }
        let ended = match rounds {
            Ok(()) => self.volume.sessions.end(&self.volume.redo).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        if let Err(e) = ended {
            tracing::error!("the session could not be ended, the next mount will treat it as crashed: {e}");
        }
    }

    /// Where an inode is stored, for the log: the path of its descriptor, under the stored names.
    pub fn stored_path(&self, id: u64) -> String {
        let path = self.inodes.find(id).and_then(|inode| crate::backing::path_of(inode.fd().ok()?.as_fd()));
        path.map_or_else(|| "unknown".to_owned(), |path| path.display().to_string())
    }

    fn names(&self) -> Names<'_> {
        Names { mode: self.mode, name_max: self.name_max, keys: &self.volume.keys }
    }

    fn inode(&self, id: u64) -> Result<Arc<Inode>> {
        self.inodes.find(id).ok_or(FsError::Stale)
    }

    fn writable(&self) -> Result<()> {
        if self.options.read_only { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// Free space and name lengths of the backing, as a mount of plaintext has them.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        let root = self.inode(ROOT)?;
        let mut stat = crate::backing::statvfs(root.fd()?.as_fd())?;
        stat.f_namemax = match self.mode {
            NameMode::Encrypted => crate::names::NAME_MAX as u64,
            NameMode::Plain => self.name_max as u64,
        };
        Ok(stat)
    }
}
