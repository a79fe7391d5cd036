//! Listing directories.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::backing;
use crate::format::volume::NameMode;
use crate::names::{DirId, Listed};

use super::handles::DirHandle;
use super::{Entry, Fs, FsError, ROOT, Result};

/// Bytes of a directory that one call to the backing reads.
const LIST_BUF: usize = 32 * 1024;

/// One entry of a listing.
#[derive(Debug)]
pub struct Listing<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: FileType,
    /// The position behind it.
    pub next: u64,
    /// For [`Fs::readdir_plus`], where the entry could be looked up.
    pub entry: Option<Entry>,
}

impl Fs {
    pub fn opendir(&self, id: u64) -> Result<u64> {
        let inode = self.inode(id)?;
        let fd = backing::open_dir(inode.fd()?.as_fd())?;
        self.listed(id);
        Ok(self.handles.add_dir(DirHandle { inode, fd, buf: Vec::with_capacity(LIST_BUF).into() }))
    }

    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.handles.remove_dir(handle).map(|_| ())
    }

    pub fn fsyncdir(&self, handle: u64) -> Result<()> {
        let handle = self.handles.dir(handle)?;
        if self.mode == NameMode::Encrypted {
            self.sync_names(&handle.inode)?;
        }
        let _names = handle.inode.dir.lock();
        backing::fsync(handle.fd.as_fd())?;
        handle.inode.was_synced();
        Ok(())
    }

    /// Lists from `position` until `add` says that it is full (true). Entries that come or go meanwhile may or may not
    /// be seen; no other is seen twice or missed.
    pub fn readdir(&self, handle: u64, position: u64, mut add: impl FnMut(Listing<'_>) -> bool) -> Result<()> {
        self.list(handle, position, |_, listing| add(listing))
    }

    /// As [`Self::readdir`], each entry looked up: what `add` takes counts as a look-up.
    pub fn readdir_plus(&self, handle: u64, position: u64, mut add: impl FnMut(Listing<'_>) -> bool) -> Result<()> {
        let dir = self.handles.dir(handle)?;
        self.list(handle, position, |stored, listing| {
            let mut listing = listing;
            let special = matches!(listing.name, b"." | b"..");
            // What can't be looked up any more is listed by name alone.
            listing.entry = if special { None } else { self.look_up_listed((&dir.inode, dir.fd.as_fd()), stored).ok() };
            let looked_up = listing.entry.as_ref().map(|entry| entry.attr.ino);
            let full = add(listing);
            if full && let Some(ino) = looked_up {
                self.forget(ino, 1);
            }
            full
        })
    }

    fn list(&self, handle: u64, position: u64, mut each: impl FnMut(&[u8], Listing<'_>) -> bool) -> Result<()> {
        let dir = self.handles.dir(handle)?;
        let id = self.dir_id(&dir.inode)?;
        let mut buf = dir.buf.lock();
        let mut failed = None;
        backing::list_dir(dir.fd.as_fd(), position, &mut buf, |raw| {
            let ino = match raw.name {
                b".." if dir.inode.id == ROOT => ROOT,
                _ => self.inodes.id_of(raw.ino),
            };
            let name = match self.listed_name((dir.inode.id, dir.fd.as_fd()), id.as_ref(), raw.name) {
                Ok(Some(name)) => name,
                Ok(None) => return true,
                Err(e) => {
                    failed = Some(e);
                    return false;
                }
            };
            !each(raw.name, Listing { name: &name, ino, kind: raw.kind, next: raw.next, entry: None })
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The name to show for an entry; `None` for what is not shown.
    pub(super) fn listed_name(
        &self,
        (number, dir): (u64, BorrowedFd<'_>),
        id: Option<&DirId>,
        entry: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        if entry == b"." || entry == b".." {
            return Ok(Some(entry.to_vec()));
        }
        let names = self.names();
        let long;
        let whole = match names.listed(entry) {
            Listed::Own => return Ok(None),
            Listed::Stored(whole) => whole,
            Listed::Long { link } => match backing::read_link(dir, &link) {
                Ok(whole) if names.long_entry_matches(entry, &whole) => {
                    long = whole;
                    &long[..]
                }
                Ok(_) | Err(Errno::NOENT | Errno::INVAL) => {
                    tracing::warn!(dir = number, stored = %String::from_utf8_lossy(entry), "a long name's link is missing or wrong: the entry is not listed");
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            },
        };
        let id = match (self.mode, id) {
            (crate::format::volume::NameMode::Plain, _) => &[0; 16],
            (_, Some(id)) => id,
            (_, None) => return Err(FsError::NoMarker),
        };
        match names.reveal(id, entry, whole) {
            Ok(name) => Ok(Some(name)),
            Err(_) => {
                tracing::warn!(dir = number, stored = %String::from_utf8_lossy(entry), "a foreign entry is not listed: its name is not this volume's");
                Ok(None)
            }
        }
    }
}
