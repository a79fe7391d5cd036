//! Symlinks. A long target's second part is a link in the directory of the entry (`docs/FORMAT.md` section 4): made
//! before an entry appears there, removed after it is gone.
//!
//! Whether an entry has such a part is asked of the backing only in directories where a look-up has shown one
//! ([`Inode::has_cut_targets`]): the kernel looks up what it is going to remove or rename, so elsewhere nobody pays for
//! it. Were one missed, its part would stay behind as one that a crash left.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::backing;
use crate::names::TARGET_MAX;

use super::inodes::Inode;
use super::{Caller, Entry, Fs, FsError, Result};

/// A directory with its descriptor.
pub(super) type Place<'a> = (&'a Inode, BorrowedFd<'a>);

/// A symlink with a target in two parts.
pub(super) struct Cut {
    /// The link that holds the second part.
    link: Vec<u8>,
    /// The inode has no other name. One in the same directory would share the link, so with others it stays.
    last: bool,
}

impl Fs {
    pub fn symlink(&self, caller: &Caller, parent: u64, name: &[u8], target: &[u8]) -> Result<Entry> {
        let parent = self.inode(parent)?;
        let target = self.names().store_target(target)?;
        let made = self.make(caller, &parent, name, 0, |dir, stored, _| {
            let call = || backing::symlink(&target.entry, dir, stored).map(|()| None);
            match &target.rest {
                Some(rest) => with_rest((&parent, dir), &rest.link, Some(&rest.text), call),
                None => call(),
            }
        })?;
        Ok(made.0)
    }

    /// # Errors
    /// [`FsError::Stale`] if the target has a second part and the symlink is not any more where it was found last: the
    /// kernel looks it up anew. One that has lost its last name stays so, though somebody may hold it.
    pub fn readlink(&self, id: u64) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        let stored = backing::read_link_of(inode.fd()?.as_fd())?;
        match self.names().target_rest_link(&stored) {
            Some(link) => Ok(self.names().reveal_cut_target(&stored, &self.target_rest(&inode, &link)?)?),
            None => Ok(self.names().reveal_target(&stored)?),
        }
    }

    /// Bytes of the target of a symlink that is stored with `stored` bytes.
    pub(super) fn target_len(&self, inode: &Inode, stored: u64) -> u64 {
        let names = self.names();
        names.target_len(stored).unwrap_or_else(|| {
            let first = inode.fd().and_then(|fd| Ok(backing::read_link_of(fd.as_fd())?));
            // Of one that is damaged, reading gives EIO: any length will do.
            first.ok().and_then(|first| names.cut_target_len(&first)).unwrap_or(TARGET_MAX as u64)
        })
    }

    /// The second part of a target, from the directory where the symlink was found last.
    fn target_rest(&self, inode: &Inode, link: &[u8]) -> Result<Vec<u8>> {
        // Again where it was renamed meanwhile, but not for ever.
        for _ in 0..8 {
            let (dir, name) = inode.place().ok_or(FsError::Stale)?;
            let fd = dir.fd()?;
            match backing::read_link(fd.as_fd(), link) {
                Err(Errno::NOENT | Errno::INVAL) => {}
                other => return Ok(other?),
            }
            let here = backing::stat_entry(fd.as_fd(), &name);
            let here = here.is_ok_and(|stat| self.inodes.id_of(stat.st_ino) == inode.id);
            // A rename notes the new place before it removes the link from the old one.
            if inode.place().is_some_and(|(now, called)| now.id == dir.id && called == name) {
                let link = String::from_utf8_lossy(link).into_owned();
                return Err(if here { FsError::NoTargetRest(link) } else { FsError::Stale });
            }
        }
        Err(FsError::Stale)
    }

    /// The entry as a symlink with a target in two parts, if it is one.
    ///
    /// # Errors
    /// It cannot be told. Who removes the entry leaves a part behind then, which does no harm; who moves it has to know.
    pub(super) fn cut_at(&self, (dir, fd): Place<'_>, entry: &[u8]) -> Result<Option<Cut>> {
        if !dir.has_cut_targets() {
            return Ok(None);
        }
        let first = match backing::read_link(fd, entry) {
            // No symlink.
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            other => other?,
        };
        let Some(link) = self.names().target_rest_link(&first) else { return Ok(None) };
        let last = backing::stat_entry(fd, entry).is_ok_and(|stat| stat.st_nlink == 1);
        Ok(Some(Cut { link, last }))
    }

    /// Makes `call`, which moves an entry of `from` to another directory, with its second part there before it.
    pub(super) fn with_cut_moved(
        &self,
        cut: Option<&Cut>,
        from: Place<'_>,
        to: Place<'_>,
        call: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let Some(cut) = cut.filter(|_| from.0.id != to.0.id) else { return call() };
        let text = match backing::read_link(from.1, &cut.link) {
            // The entry moves as it is: unreadable.
            Err(Errno::NOENT | Errno::INVAL) => None,
            other => Some(other?),
        };
        with_rest(to, &cut.link, text.as_deref(), call)
    }

    /// Makes `call`, which gives `inode` a name in `to`, with the second part of its target there before it, if it is a
    /// symlink that has one.
    pub(super) fn with_rest_of(&self, inode: &Inode, to: Place<'_>, call: impl FnOnce() -> Result<()>) -> Result<()> {
        if inode.kind != FileType::Symlink {
            return call();
        }
        let stored = backing::read_link_of(inode.fd()?.as_fd())?;
        let Some(link) = self.names().target_rest_link(&stored) else { return call() };
        let text = match self.target_rest(inode, &link) {
            Err(FsError::NoTargetRest(_)) => None,
            other => Some(other?),
        };
        with_rest(to, &link, text.as_deref(), call)
    }

    /// After an entry is gone from `dir`. A link that stays behind does no harm.
    pub(super) fn drop_cut(&self, (dir, fd): Place<'_>, cut: Option<Cut>) {
        if let Some(Cut { link, last: true }) = cut
            && let Err(e) = backing::unlink(fd, &link)
        {
            tracing::warn!(dir = dir.id, "the second part of a symlink's target could not be removed: {e}");
        }
    }
}

impl Cut {
    /// Whether both have one second part: hard links, or copies that were made below the file system.
    pub(super) fn shares(&self, other: Option<&Cut>) -> bool {
        other.is_some_and(|other| other.link == self.link)
    }
}

/// Makes `call`, which makes an entry in `dir`, with the second part of its target there before it; takes it back if the
/// call fails. It is no reason to sync the directory at a file's fsync: no file is named by it.
fn with_rest<T, E: From<Errno>>(
    (dir, fd): Place<'_>,
    link: &[u8],
    text: Option<&[u8]>,
    call: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    dir.note_cut_target();
    let made = match text {
        Some(text) => put_link(fd, link, text)?,
        None => {
            let link = String::from_utf8_lossy(link);
            tracing::warn!(dir = dir.id, %link, "the second part of a symlink's target is missing: the symlink goes without");
            false
        }
    };
    call().inspect_err(|_| {
        if made && let Err(e) = backing::unlink(fd, link) {
            tracing::warn!(dir = dir.id, "the second part of a symlink's target could not be taken back: {e}");
        }
    })
}

/// Makes the symlink `link` that belongs to an entry; false if it is there already, with another entry or left by a
/// crash. One that was damaged would make the new entry unreadable, and is replaced.
pub(super) fn put_link(dir: BorrowedFd<'_>, link: &[u8], text: &[u8]) -> backing::Result<bool> {
    match backing::symlink(text, dir, link) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            match backing::read_link(dir, link) {
                Ok(there) if there == text => return Ok(false),
                Ok(_) | Err(Errno::NOENT | Errno::INVAL) => {}
                // It may be another entry's, and good.
                Err(e) => return Err(e),
            }
            backing::unlink(dir, link)?;
            backing::symlink(text, dir, link)?;
            Ok(true)
        }
        Err(e) => Err(e),
    }
}
