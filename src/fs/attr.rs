//! Attributes: what the kernel is told of an inode, and changing it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::backing;

use super::file_ops::with_scratch;
use super::inodes::Inode;
use super::open_files::Ready;
use super::{Caller, Fs, Result};

/// The attributes of an inode, sizes in plaintext.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    /// 512-byte units, as the backing has them.
    pub blocks: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub kind: FileType,
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
}

/// What a look-up gives: one count in the inode table belongs to it.
#[derive(Debug)]
pub struct Entry {
    pub attr: Attr,
    pub generation: u64,
}

#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    Now,
    At(SystemTime),
}

/// A change of attributes; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// Set-user-id and set-group-id.
const SUID_SGID: u32 = 0o6000;

impl Fs {
    pub fn getattr(&self, id: u64) -> Result<Attr> {
        let inode = self.inode(id)?;
        Ok(self.attr(&inode, &inode.stat()?))
    }

    pub(super) fn attr(&self, inode: &Inode, stat: &Stat) -> Attr {
        let size = match inode.kind {
            FileType::RegularFile => inode.plain_len(stat.st_size as u64),
            FileType::Symlink => self.target_len(inode, stat.st_size as u64),
            _ => stat.st_size as u64,
        };
        Attr {
            ino: inode.id,
            size,
            blocks: stat.st_blocks as u64,
            atime: time(stat.st_atime, stat.st_atime_nsec as u32),
            mtime: inode.held_mtime.time().unwrap_or_else(|| time(stat.st_mtime, stat.st_mtime_nsec as u32)),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as u32),
            kind: inode.kind,
            perm: (stat.st_mode & 0o7777) as u16,
            nlink: stat.st_nlink as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u32,
        }
    }

    pub(super) fn entry(&self, inode: &Inode, stat: &Stat) -> Entry {
        Entry { attr: self.attr(inode, stat), generation: inode.tell_generation() }
    }

    /// The mtime of what the write-back cache has written, which it sends with each sync; gives the attributes, where the
    /// kernel looks at no time.
    pub fn flush_mtime(&self, caller: &Caller, id: u64, mtime: SystemTime) -> Result<Attr> {
        self.writable()?;
        let inode = self.inode(id)?;
        if self.hold_mtime(&inode, mtime) {
            return self.attr_but_times(&inode, mtime);
        }
        let set = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
        self.setattr(caller, id, &set, None)
    }

    /// Changes attributes, size first; gives the new ones.
    pub fn setattr(&self, caller: &Caller, id: u64, set: &SetAttr, ready: Option<&Ready>) -> Result<Attr> {
        self.writable()?;
        let inode = self.inode(id)?;
        if set.size.is_some() || set.mtime.is_some() {
            self.forget_mtime(&inode);
        }
        if let Some(size) = set.size {
            self.set_size(&inode, size, ready)?;
            if caller.uid != 0 && set.mode.is_none() {
                self.drop_privileges(&inode)?;
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            backing::chown(inode.fd()?.as_fd(), set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            backing::chmod(inode.fd()?.as_fd(), mode)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            // A close that writes the record puts the mtime back that it found: not over this one.
            let _closing = inode.open.lock();
            let times = Timestamps { last_access: timespec(set.atime), last_modification: timespec(set.mtime) };
            backing::set_times(inode.fd()?.as_fd(), &times)?;
        }
        Ok(self.attr(&inode, &inode.stat()?))
    }

    /// To 0 the stored file is emptied even if it can't be read: no key is needed for that.
    fn set_size(&self, inode: &Arc<Inode>, size: u64, ready: Option<&Ready>) -> Result<()> {
        if size == 0 {
            // The lock is held over the cut: nobody opens the file in between and keeps what was in it.
            let open = inode.open.lock();
            if open.is_none() {
                let fd = backing::reopen(inode.fd()?.as_fd(), rustix::fs::OFlags::WRONLY)?;
                return Ok(backing::set_len(fd.as_fd(), 0)?);
            }
        }
        let file = self.open_shared(inode, true, ready)?;
        let key = if size > 0 { self.ensure_key(&file, ready) } else { Ok(()) };
        let set =
            key.and_then(|()| with_scratch(|scratch| self.change(&file, |content| content.set_size(size, scratch))));
        self.close_shared(&file)?;
        set
    }

    /// Clears set-user-id and set-group-id after a change by somebody who may not keep them.
    pub(super) fn drop_privileges(&self, inode: &Inode) -> Result<()> {
        let mode = inode.stat()?.st_mode;
        let drop = if mode & 0o010 != 0 { SUID_SGID } else { 0o4000 };
        if inode.kind == FileType::RegularFile && mode & drop != 0 {
            backing::chmod(inode.fd()?.as_fd(), mode & !drop)?;
        }
        Ok(())
    }
}

/// Times before 1970 too.
fn time(secs: i64, nanos: u32) -> SystemTime {
    let base = if secs >= 0 {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs as u64)
    } else {
        SystemTime::UNIX_EPOCH - Duration::from_secs(secs.unsigned_abs())
    };
    base + Duration::from_nanos(nanos.into())
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(SetTime::At(at)) => match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() },
            Err(e) => {
                let before = e.duration();
                let nanos = before.subsec_nanos();
                let secs = -(before.as_secs() as i64) - i64::from(nanos > 0);
                Timespec { tv_sec: secs, tv_nsec: if nanos > 0 { (1_000_000_000 - nanos).into() } else { 0 } }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for (secs, nanos) in [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-86_400, 1), (1 << 33, 7)] {
            let spec = timespec(Some(SetTime::At(time(secs, nanos))));
            assert_eq!((spec.tv_sec, spec.tv_nsec), (secs, nanos.into()));
        }
    }
}
