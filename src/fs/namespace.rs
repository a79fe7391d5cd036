//! Names: looking up, making, removing and renaming entries (`docs/FORMAT.md` section 4).

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;

use crate::backing;
use crate::content::Content;
use crate::format::volume::NameMode;
use crate::format::{DIR_MARKER, is_long_link};
use crate::names::{DirId, NameError, Names, StoredName};

use super::inodes::{DirState, Inode};
use super::open_files::OpenFile;
use super::targets::put_link;
use super::{Caller, Entry, Fs, FsError, Result};

const MARKER: &[u8] = DIR_MARKER.as_bytes();

impl Fs {
    /// Looks `name` up; counts as one look-up of the inode found.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry> {
        let parent = self.inode(parent)?;
        match self.stored_name(&parent, name)? {
            Some(stored) => self.look_up_stored(&parent, stored.entry()),
            None => Err(Errno::NOENT.into()),
        }
    }

    pub(super) fn look_up_stored(&self, parent: &Arc<Inode>, stored: &[u8]) -> Result<Entry> {
        let fd = backing::open_entry(parent.fd()?.as_fd(), stored)?;
        let stat = backing::stat(fd.as_fd())?;
        let inode = self.inodes.look_up(parent, stored, Some(fd), &stat)?;
        Ok(self.entry(&inode, &stat))
    }

    /// The same for a listing, most of whose entries are not asked for again: none gets a descriptor.
    pub(super) fn look_up_listed(&self, dir: (&Arc<Inode>, BorrowedFd<'_>), stored: &[u8]) -> Result<Entry> {
        let stat = backing::stat_entry(dir.1, stored)?;
        let inode = self.inodes.look_up(dir.0, stored, None, &stat)?;
        Ok(self.entry(&inode, &stat))
    }

    pub fn forget(&self, id: u64, lookups: u64) {
        self.inodes.forget(id, lookups);
    }

    /// Makes a file and opens it for reading and writing; gives a handle.
    pub fn create(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<(Entry, u64)> {
        let parent = self.inode(parent)?;
        let (entry, inode) =
            self.make(caller, &parent, name, mode, |dir, stored, mode| backing::create(dir, stored, mode).map(Some))?;
        let file = OpenFile::new(inode.clone(), Content::empty(self.volume.clone(), inode.fd()?), true);
        *inode.open.lock() = Some(file.clone());
        Ok((entry, self.add_handle(file, true)))
    }

    pub fn mknod(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32, rdev: u32) -> Result<Entry> {
        let parent = self.inode(parent)?;
        let made = self.make(caller, &parent, name, mode, |dir, stored, mode| {
            backing::mknod(dir, stored, mode, rdev.into()).map(|()| None)
        })?;
        Ok(made.0)
    }

    /// One call: a directory without entries needs no marker.
    pub fn mkdir(&self, caller: &Caller, parent: u64, name: &[u8], mode: u32) -> Result<Entry> {
        let parent = self.inode(parent)?;
        let made = self
            .make(caller, &parent, name, mode, |dir, stored, mode| backing::mkdir(dir, stored, mode).map(|()| None))?;
        Ok(made.0)
    }

    /// Another name for an inode.
    pub fn link(&self, id: u64, parent: u64, name: &[u8]) -> Result<Entry> {
        self.writable()?;
        let (inode, parent) = (self.inode(id)?, self.inode(parent)?);
        let (fd, dir_fd) = (inode.fd()?, parent.fd()?);
        let mut dir = parent.dir.lock();
        let stored = self.prepare_entry(&parent, &mut dir, name)?;
        let call = || Ok(backing::link(fd.as_fd(), dir_fd.as_fd(), stored.entry())?);
        if let Err(e) = self.with_rest_of(&inode, (&parent, dir_fd.as_fd()), call) {
            self.take_back_link(&parent, &stored);
            return Err(e);
        }
        self.note_named(&parent, &inode);
        drop(dir);
        self.look_up_stored(&parent, stored.entry())
    }

    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |parent, dir, entry| {
            let cut = self.cut_at((parent, dir), entry).unwrap_or_default();
            backing::unlink(dir, entry)?;
            self.drop_cut((parent, dir), cut);
            Ok(())
        })
    }

    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        self.remove(parent, name, |parent, dir, entry| {
            self.without_marker(parent, entry, || backing::rmdir(dir, entry))
        })
    }

    /// Removes an entry by `call`, then the link of a long name.
    fn remove(
        &self,
        parent: u64,
        name: &[u8],
        call: impl FnOnce(&Inode, BorrowedFd<'_>, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.writable()?;
        let parent = self.inode(parent)?;
        let dir_fd = parent.fd()?;
        let dir = parent.dir.lock();
        let stored = self.existing_name(&parent, &dir, name)?;
        let victim = self.victim(dir_fd.as_fd(), stored.entry());
        let waiting = self.waiting_entry(dir_fd.as_fd(), stored.entry());
        call(&parent, dir_fd.as_fd(), stored.entry())?;
        if let Some(victim) = victim {
            victim.removed();
        }
        self.drop_long_link(&parent, &stored);
        drop(dir);
        if let Some(file) = waiting {
            self.end_if_unlinked(&file);
        }
        Ok(())
    }

    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.writable()?;
        let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
        // Both name locks, the lower inode first.
        let (mut first, mut second);
        let (from_dir, to_dir): (&mut DirState, Option<&mut DirState>) = if from.id == to.id {
            first = from.dir.lock();
            (&mut first, None)
        } else if from.id < to.id {
            first = from.dir.lock();
            second = to.dir.lock();
            (&mut first, Some(&mut second))
        } else {
            second = to.dir.lock();
            first = from.dir.lock();
            (&mut first, Some(&mut second))
        };
        let (from_fd, to_fd) = (from.fd()?, to.fd()?);
        let old = self.existing_name(&from, from_dir, name)?;
        let to_state = to_dir.unwrap_or(from_dir);
        let (source, dest) = ((&*from, from_fd.as_fd()), (&*to, to_fd.as_fd()));
        let moved = self.cut_at(source, old.entry())?;
        if flags.contains(RenameFlags::EXCHANGE) {
            let new = self.existing_name(&to, to_state, new_name)?;
            // Both names stay, and so do their links: only what they name changes places.
            let back = self.cut_at(dest, new.entry())?;
            let call = || Ok(backing::rename(from_fd.as_fd(), old.entry(), to_fd.as_fd(), new.entry(), flags)?);
            self.with_cut_moved(moved.as_ref(), source, dest, || {
                self.with_cut_moved(back.as_ref(), dest, source, call)
            })?;
            self.note_place(&from, from_fd.as_fd(), old.entry());
            self.note_place(&to, to_fd.as_fd(), new.entry());
            if from.id != to.id && !moved.as_ref().is_some_and(|moved| moved.shares(back.as_ref())) {
                self.drop_cut(source, moved);
                self.drop_cut(dest, back);
            }
            return Ok(());
        }
        let new = self.prepare_entry(&to, to_state, new_name)?;
        let victim = self.victim(to_fd.as_fd(), new.entry());
        let waiting = self.waiting_entry(to_fd.as_fd(), new.entry());
        let call = || backing::rename(from_fd.as_fd(), old.entry(), to_fd.as_fd(), new.entry(), flags);
        let replaced = self.cut_at(dest, new.entry()).unwrap_or_default();
        let renamed = self.with_cut_moved(moved.as_ref(), source, dest, || match call() {
            Err(Errno::NOTEMPTY | Errno::EXIST) if !flags.contains(RenameFlags::NOREPLACE) => {
                // Onto a directory: one that is empty but for its marker gives way.
                self.without_marker(&to, new.entry(), call)
            }
            other => other.map_err(FsError::from),
        });
        if let Err(e) = renamed {
            self.take_back_link(&to, &new);
            return Err(e);
        }
        self.note_place(&to, to_fd.as_fd(), new.entry());
        if let Some(victim) = victim {
            victim.removed();
        }
        if !replaced.as_ref().is_some_and(|replaced| replaced.shares(moved.as_ref())) {
            self.drop_cut(dest, replaced);
        }
        if from.id != to.id {
            self.drop_cut(source, moved);
        }
        // Two names of one inode: then the call did nothing, and the old name is still there.
        self.take_back_link(&from, &old);
        if let Some(file) = waiting {
            self.end_if_unlinked(&file);
        }
        Ok(())
    }

    /// The inode that is about to lose its last name, if it might have to do without a descriptor then. It gets one where
    /// that can be had: by it, it lives on for who has it, and is found when the name that goes is not its last.
    fn victim(&self, dir: BorrowedFd<'_>, entry: &[u8]) -> Option<Arc<Inode>> {
        if self.inodes.all_held() {
            return None;
        }
        let stat = backing::stat_entry(dir, entry).ok()?;
        let known = self.inodes.known(&stat)?;
        let last = stat.st_nlink == 1 || FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        known.keep_descriptor();
        last.then_some(known)
    }

    /// After a rename: where the inode is found from now on.
    fn note_place(&self, dir: &Arc<Inode>, fd: BorrowedFd<'_>, entry: &[u8]) {
        if let Ok(stat) = backing::stat_entry(fd, entry)
            && let Some(inode) = self.inodes.known(&stat)
        {
            inode.moved_to(dir, entry);
            self.note_named(dir, &inode);
        }
        self.note_name_change();
    }

    /// What every call that makes an entry does: marker and link before, owner after, look-up, and back if it fails.
    pub(super) fn make(
        &self,
        caller: &Caller,
        parent: &Arc<Inode>,
        name: &[u8],
        mode: u32,
        call: impl FnOnce(BorrowedFd<'_>, &[u8], u32) -> backing::Result<Option<OwnedFd>>,
    ) -> Result<(Entry, Arc<Inode>)> {
        self.writable()?;
        let dir_fd = parent.fd()?;
        let mut dir = parent.dir.lock();
        let stored = self.prepare_entry(parent, &mut dir, name)?;
        let made = match with_umask(caller.umask, mode, |mode| call(dir_fd.as_fd(), stored.entry(), mode)) {
            Ok(made) => made,
            Err(e) => {
                self.take_back_link(parent, &stored);
                return Err(e.into());
            }
        };
        let finish = || -> Result<(Entry, Arc<Inode>)> {
            let fd = match made {
                Some(fd) => fd,
                None => backing::open_entry(dir_fd.as_fd(), stored.entry())?,
            };
            self.give_to(caller, parent, &fd, mode)?;
            let stat = backing::stat(fd.as_fd())?;
            let inode = self.inodes.look_up(parent, stored.entry(), Some(fd), &stat)?;
            Ok((self.entry(&inode, &stat), inode))
        };
        match finish() {
            Ok((entry, inode)) => {
                self.note_named(parent, &inode);
                Ok((entry, inode))
            }
            Err(e) => {
                let cut = self.cut_at((parent, dir_fd.as_fd()), stored.entry()).unwrap_or_default();
                let removed = match backing::unlink(dir_fd.as_fd(), stored.entry()) {
                    Err(Errno::ISDIR | Errno::PERM) => backing::rmdir(dir_fd.as_fd(), stored.entry()),
                    other => other,
                };
                if removed.is_ok() {
                    self.drop_cut((parent, dir_fd.as_fd()), cut);
                }
                // What could not be removed again is there, under its name.
                self.take_back_link(parent, &stored);
                Err(e)
            }
        }
    }

    /// The new object's owner is the caller; its group the directory's where that has set-group-id.
    fn give_to(&self, caller: &Caller, parent: &Inode, fd: &OwnedFd, mode: u32) -> Result<()> {
        if !self.options.change_owner || (caller.uid == 0 && caller.gid == 0) {
            return Ok(());
        }
        let inherits = parent.stat()?.st_mode & 0o2000 != 0;
        backing::chown(fd.as_fd(), Some(caller.uid), (!inherits).then_some(caller.gid))?;
        if mode & 0o6000 != 0 && FileType::from_raw_mode(mode) == FileType::RegularFile {
            // Giving a file away takes these bits off.
            backing::chmod(fd.as_fd(), backing::stat(fd.as_fd())?.st_mode | (mode & 0o6000))?;
        }
        Ok(())
    }

    /// The stored name of an entry that may be there; `None` where the directory has no entries at all.
    fn stored_name(&self, parent: &Inode, name: &[u8]) -> Result<Option<StoredName>> {
        self.store_in(self.dir_id(parent)?, name)
    }

    fn existing_name(&self, parent: &Inode, dir: &DirState, name: &[u8]) -> Result<StoredName> {
        let id = match dir.id {
            Some(id) => Some(id),
            None => self.read_dir_id(parent.fd()?.as_fd())?,
        };
        self.store_in(id, name)?.ok_or_else(|| Errno::NOENT.into())
    }

    fn store_in(&self, id: Option<DirId>, name: &[u8]) -> Result<Option<StoredName>> {
        match Names::check(name) {
            // Nobody can have made one.
            Err(NameError::Reserved) => return Ok(None),
            other => other?,
        }
        match (self.mode, id) {
            (NameMode::Plain, _) => Ok(Some(self.names().store(&[0; 16], name)?)),
            (NameMode::Encrypted, Some(id)) => Ok(Some(self.names().store(&id, name)?)),
            (NameMode::Encrypted, None) => Ok(None),
        }
    }

    /// The id of a directory, if it has a marker.
    pub(super) fn dir_id(&self, inode: &Inode) -> Result<Option<DirId>> {
        if self.mode == NameMode::Plain {
            return Ok(None);
        }
        if let Some(id) = inode.dir.lock().id {
            return Ok(Some(id));
        }
        let id = self.read_dir_id(inode.fd()?.as_fd())?;
        if id.is_some() {
            let mut dir = inode.dir.lock();
            dir.id = dir.id.or(id);
        }
        Ok(id)
    }

    pub(super) fn read_dir_id(&self, dir: BorrowedFd<'_>) -> Result<Option<DirId>> {
        if self.mode == NameMode::Plain {
            return Ok(None);
        }
        match backing::read_link(dir, MARKER) {
            Ok(target) => Ok(Some(self.names().read_marker(&target).map_err(|_| FsError::BadMarker)?)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => Err(FsError::BadMarker),
            Err(e) => Err(e.into()),
        }
    }

    /// Before an entry appears: the directory has its marker, and a long name its link.
    fn prepare_entry(&self, parent: &Inode, dir: &mut DirState, name: &[u8]) -> Result<StoredName> {
        Names::check(name)?;
        if self.mode == NameMode::Plain {
            return Ok(self.names().store(&[0; 16], name)?);
        }
        let id = match dir.id {
            Some(id) => id,
            None => self.ensure_marker(parent, dir)?,
        };
        let stored = self.names().store(&id, name)?;
        if let StoredName::Long { link, whole, .. } = &stored {
            let fd = parent.fd()?;
            if put_link(fd.as_fd(), link, whole)? {
                self.note_unsynced(parent);
            }
        }
        Ok(stored)
    }

    fn ensure_marker(&self, parent: &Inode, dir: &mut DirState) -> Result<DirId> {
        if let Some(id) = self.read_dir_id(parent.fd()?.as_fd())? {
            dir.id = Some(id);
            return Ok(id);
        }
        if self.contents(&*parent.fd()?)?.entries {
            // A new id would make them all foreign.
            return Err(FsError::NoMarker);
        }
        let (id, target) = self.names().new_marker();
        match backing::symlink(&target, parent.fd()?.as_fd(), MARKER) {
            Ok(()) => {
                dir.id = Some(id);
                self.note_unsynced(parent);
                Ok(id)
            }
            // Somebody else was first: theirs counts.
            Err(Errno::EXIST) => {
                let id = self.read_dir_id(parent.fd()?.as_fd())?.ok_or(FsError::BadMarker)?;
                dir.id = Some(id);
                Ok(id)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// An entry was not made or is gone: its link goes, unless the entry is there.
    fn take_back_link(&self, parent: &Inode, stored: &StoredName) {
        if let StoredName::Long { entry, .. } = stored
            && let Ok(fd) = parent.fd()
            && matches!(backing::stat_entry(fd.as_fd(), entry), Err(Errno::NOENT))
        {
            self.drop_long_link(parent, stored);
        }
    }

    /// After an entry is gone. A link that stays behind does no harm and is swept by `check`.
    fn drop_long_link(&self, parent: &Inode, stored: &StoredName) {
        if let StoredName::Long { link, .. } = stored
            && let Err(e) = parent.fd().and_then(|fd| Ok(backing::unlink(fd.as_fd(), link)?))
        {
            tracing::warn!(dir = parent.id, "the link of a long name could not be removed: {e}");
        }
    }

    /// Makes `call` with the marker of the directory `entry` out of the way, which it is only if nothing else is in
    /// there; puts the same marker back if the call fails.
    fn without_marker(&self, parent: &Inode, entry: &[u8], call: impl FnOnce() -> backing::Result<()>) -> Result<()> {
        if self.mode == NameMode::Plain {
            return Ok(call()?);
        }
        let victim = backing::open_entry(parent.fd()?.as_fd(), entry)?;
        let stat = backing::stat(victim.as_fd())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(call()?);
        }
        // Removing a directory needs no right in it; seeing that it is empty and removing its marker does.
        let mode = stat.st_mode;
        let mut opened = false;
        let mut taken = self.take_marker(&victim);
        if matches!(taken, Err(FsError::Backing(Errno::ACCESS))) {
            backing::chmod(victim.as_fd(), mode | 0o700)?;
            opened = true;
            taken = self.take_marker(&victim);
        }
        let close = || {
            if opened {
                let _ = backing::chmod(victim.as_fd(), mode);
            }
        };
        let marker = match taken {
            Ok(Some(marker)) => marker,
            Ok(None) => return Ok(call().inspect_err(|_| close())?),
            Err(e) => {
                close();
                return Err(e);
            }
        };
        let known = self.inodes.find(self.inodes.id_of(stat.st_ino));
        if let Some(known) = &known {
            // The id goes with its marker: an entry made in between would be named under an id that is gone.
            // Nobody waits for `parent` with this lock: the kernel holds both while it removes, and an ancestor that
            // is being moved has entries.
            known.dir.lock().id = None;
        }
        let called = call();
        if called.is_err() {
            if let Err(e) = backing::symlink(&marker, victim.as_fd(), MARKER) {
                tracing::error!(parent = parent.id, "an empty directory lost its marker: {e}");
            }
            close();
        }
        Ok(called?)
    }

    /// Removes the marker of a directory that holds nothing else, and gives its target; none if there is no marker.
    fn take_marker(&self, victim: &OwnedFd) -> Result<Option<Vec<u8>>> {
        let contents = self.contents(victim)?;
        if contents.entries {
            return Err(Errno::NOTEMPTY.into());
        }
        for link in &contents.orphans {
            // Left by a crash between a link and its entry, or by a symlink with other names: it names nothing.
            backing::unlink(victim.as_fd(), link)?;
        }
        let marker = match backing::read_link(victim.as_fd(), MARKER) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        backing::unlink(victim.as_fd(), MARKER)?;
        Ok(Some(marker))
    }

    /// What a directory holds beside its marker.
    fn contents(&self, dir: &OwnedFd) -> Result<Contents> {
        let fd = backing::open_dir(dir.as_fd())?;
        let mut contents = Contents::default();
        let mut buf = Vec::with_capacity(4096);
        backing::list_dir(fd.as_fd(), 0, &mut buf, |raw| {
            if is_long_link(raw.name) {
                contents.orphans.push(raw.name.to_vec());
            } else if !matches!(raw.name, b"." | b".." | MARKER) {
                contents.entries = true;
            }
            !contents.entries
        })?;
        Ok(contents)
    }
}

/// What [`Fs::contents`] found. Where there are no entries, every link is an orphan.
#[derive(Default)]
struct Contents {
    entries: bool,
    orphans: Vec<Vec<u8>>,
}

thread_local! {
    /// The umask of this thread, once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Makes a call that creates under the caller's umask, which the backing applies where the directory has no default
/// ACL: each thread gets a umask of its own first. Where the system refuses that, the mode is masked here.
fn with_umask<R>(umask: u32, mode: u32, call: impl FnOnce(u32) -> R) -> R {
    if UMASK.get() == Some(umask) {
        return call(mode);
    }
    if backing::set_thread_umask(umask) {
        UMASK.set(Some(umask));
        call(mode)
    } else {
        call(mode & !umask)
    }
}
