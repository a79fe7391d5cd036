//! Mtimes of the kernel's write-back cache, which the backing is told when the file is closed.
//!
//! The kernel stamps a file as it is written, and sends the stamp with each sync. To set it on the backing at once would
//! make the backing's next sync write its journal, for a time that is overtaken by the next write. Until the close the
//! backing's own mtime is that of the last call that wrote: a daemon that dies leaves that one.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Timespec, Timestamps, UTIME_OMIT};

use crate::backing;

use super::attr::Attr;
use super::inodes::Inode;
use super::open_files::OpenFile;
use super::{Fs, Result};

/// Nanoseconds since 1970, or [`NONE`].
pub struct HeldMtime(AtomicI64);

const NONE: i64 = i64::MIN;

impl Default for HeldMtime {
    fn default() -> Self {
        Self(AtomicI64::new(NONE))
    }
}

impl HeldMtime {
    fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Acquire)).filter(|&nanos| nanos != NONE)
    }

    /// The time that is held.
    pub fn time(&self) -> Option<SystemTime> {
        self.get().map(|nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos as u64))
    }
}

impl Fs {
    /// The write-back cache says when the file was written: held until its last close. False if it has to be set now, for
    /// nobody has the file open, or it is a time that is not after 1970.
    pub(super) fn hold_mtime(&self, inode: &Arc<Inode>, mtime: SystemTime) -> bool {
        let nanos = mtime.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_nanos()).ok());
        let (Some(nanos), FileType::RegularFile) = (nanos, inode.kind) else { return false };
        let open = inode.open.lock();
        let Some(file) = &*open else { return false };
        file.content.write().leave_mtime(true);
        inode.held_mtime.0.store(nanos, Ordering::Release);
        true
    }

    /// Somebody else than the write-back cache says, from now on, when the file was changed.
    pub(super) fn forget_mtime(&self, inode: &Inode) {
        if inode.held_mtime.get().is_none() {
            return;
        }
        let open = inode.open.lock();
        inode.held_mtime.0.store(NONE, Ordering::Release);
        if let Some(file) = &*open {
            file.content.write().leave_mtime(false);
        }
    }

    /// At the last close, under [`Inode::open`].
    pub(super) fn settle_mtime(&self, file: &OpenFile) {
        let inode = &file.inode;
        let Some(nanos) = inode.held_mtime.get() else { return };
        let last_modification = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: (nanos % 1_000_000_000) as _ };
        let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
        let set = backing::set_times(file.content.read().file(), &times);
        if let Err(e) = set {
            tracing::warn!(ino = inode.id, "the mtime of a file could not be set when it was closed: {e}");
        }
        inode.held_mtime.0.store(NONE, Ordering::Release);
    }

    /// The answer to [`Self::hold_mtime`]. Does not ask for the backing's times: who asks makes the next write stamp anew.
    pub(super) fn attr_but_times(&self, inode: &Inode, mtime: SystemTime) -> Result<Attr> {
        let stat = backing::stat_but_times(inode.fd()?.as_fd())?;
        Ok(Attr {
            ino: inode.id,
            size: inode.plain_len(stat.stx_size),
            blocks: stat.stx_blocks,
            atime: mtime,
            mtime,
            ctime: mtime,
            kind: inode.kind,
            perm: stat.stx_mode & 0o7777,
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: 0,
        })
    }
}
