//! Extended attributes: `user.*` encrypted, the others as they are, since the kernel acts on them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::backing::{self, XattrsOf};

use super::inodes::Inode;
use super::{Fs, FsError, Result};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux.
const VALUE_MAX: usize = 64 * 1024;

impl Fs {
    pub fn getxattr(&self, id: u64, name: &[u8]) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        if inode.kind == rustix::fs::FileType::Symlink {
            return Err(Errno::NODATA.into());
        }
        let stored = self.names().store_xattr_name(name);
        let descriptor = Descriptor::of(&inode)?;
        let mut value = vec![0; 256];
        let n = match backing::get_xattr(descriptor.xattrs(), &stored, &mut value) {
            Err(Errno::RANGE) => {
                value.resize(VALUE_MAX, 0);
                backing::get_xattr(descriptor.xattrs(), &stored, &mut value)
            }
            other => other,
        };
        value.truncate(n.map_err(too_long_means_none)?);
        Ok(self.names().reveal_xattr_value(name, &value)?)
    }

    pub fn setxattr(&self, id: u64, name: &[u8], value: &[u8], flags: i32) -> Result<()> {
        self.writable()?;
        let inode = self.inode(id)?;
        if inode.kind == rustix::fs::FileType::Symlink {
            return Err(Errno::PERM.into());
        }
        let names = self.names();
        let (stored, value) = (names.store_xattr_name(name), names.store_xattr_value(name, value));
        let flags = XattrFlags::from_bits_truncate(flags as u32);
        Ok(backing::set_xattr(Descriptor::of(&inode)?.xattrs(), &stored, &value, flags)?)
    }

    /// The names, each followed by NUL.
    pub fn listxattr(&self, id: u64) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        if inode.kind == rustix::fs::FileType::Symlink {
            return Ok(Vec::new());
        }
        let descriptor = Descriptor::of(&inode)?;
        let mut list = vec![0; 1024];
        let n = match backing::list_xattrs(descriptor.xattrs(), &mut list) {
            Err(Errno::RANGE) => {
                list.resize(VALUE_MAX, 0);
                backing::list_xattrs(descriptor.xattrs(), &mut list)?
            }
            other => other?,
        };
        let names = self.names();
        let mut out = Vec::new();
        for stored in list[..n].split(|&b| b == 0).filter(|stored| !stored.is_empty()) {
            match names.reveal_xattr_name(stored) {
                Some(name) => {
                    out.extend_from_slice(&name);
                    out.push(0);
                }
                None => tracing::warn!(ino = id, "an xattr that is not this volume's is not shown"),
            }
        }
        Ok(out)
    }

    pub fn removexattr(&self, id: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        let inode = self.inode(id)?;
        if inode.kind == rustix::fs::FileType::Symlink {
            return Err(Errno::PERM.into());
        }
        let stored = self.names().store_xattr_name(name);
        backing::remove_xattr(Descriptor::of(&inode)?.xattrs(), &stored).map_err(too_long_means_none)
    }
}

/// What the backing is asked of an inode's xattrs by. The kernel asks for `security.capability` before it writes to a file,
/// which is open then.
enum Descriptor {
    /// The open state's.
    Open(Arc<OwnedFd>),
    /// The inode's own.
    Path(Arc<OwnedFd>),
}

impl Descriptor {
    /// Waits for nobody who opens, closes or writes the file: there is the other way.
    fn of(inode: &Inode) -> Result<Self> {
        if let Some(open) = inode.open.try_lock()
            && let Some(file) = &*open
            && let Some(content) = file.content.try_read()
        {
            return Ok(Self::Open(content.shared_file()));
        }
        Ok(Self::Path(inode.fd()?))
    }

    fn xattrs(&self) -> XattrsOf<'_> {
        match self {
            Self::Open(fd) => XattrsOf::Open(fd.as_fd()),
            Self::Path(fd) => XattrsOf::Path(fd.as_fd()),
        }
    }
}

/// A name that does not fit into the backing when it is encrypted can't have been stored.
fn too_long_means_none(e: Errno) -> FsError {
    match e {
        Errno::RANGE => Errno::NODATA.into(),
        other => other.into(),
    }
}
