//! What all handles of one stored file share: its content, made at the first open, closed at the last.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::RwLock;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::backing;
use crate::content::{Content, Inspected, inspect};
use crate::format::file_header::{PROVIDER_CTYUN, Wrapping};
use crate::keys::{DataKey, NewKey};
use crate::kms::WrappedKey;

use super::inodes::Inode;
use super::unsynced::SyncedNames;
use super::{Fs, FsError, Result, Wait};

/// The shared state of an open file.
pub struct OpenFile {
    pub inode: Arc<Inode>,
    pub content: RwLock<Content>,
    /// Handles, operations and a round that use it. Falls to 0 under [`Inode::open`] only.
    pub(super) users: AtomicUsize,
    /// Second halves of its changes wait; changed under the content's lock.
    pub(super) waiting: AtomicBool,
    /// Handles that may write: the kernel may hold pages that were not written back.
    pub writers: AtomicUsize,
    /// Whether the backing descriptor is open for writing.
    writable: AtomicBool,
    pub(super) synced_names: SyncedNames,
}

impl OpenFile {
    pub fn new(inode: Arc<Inode>, content: Content, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            inode,
            content: RwLock::new(content),
            users: AtomicUsize::new(1),
            waiting: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            writable: writable.into(),
            synced_names: SyncedNames::default(),
        })
    }

    pub fn size(&self) -> u64 {
        self.content.read().size()
    }

    /// The record says what is known; nothing is written through a descriptor that only reads.
    pub fn close(&self) -> Result<()> {
        if self.writable.load(Ordering::Relaxed) {
            self.content.write().close()?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenFile({})", self.inode.id)
    }
}

/// What a wait gave: handed to the operation when it is called again.
#[derive(Debug)]
pub enum Ready {
    Fetched(Arc<DataKey>),
    New(NewKey),
}

impl Fs {
    /// The open state of a regular file, opened if need be; `ready` may hold the data key that was fetched for it.
    /// Give it back with [`Self::close_shared`].
    pub(super) fn open_shared(&self, inode: &Arc<Inode>, write: bool, ready: Option<&Ready>) -> Result<Arc<OpenFile>> {
        let mut open = inode.open.lock();
        if inode.is_stale() {
            return Err(FsError::Stale);
        }
        if let Some(file) = &*open {
            if write && !file.writable.load(Ordering::Relaxed) {
                let fd = Arc::new(backing::reopen(inode.fd()?.as_fd(), OFlags::RDWR)?);
                file.content.write().replace_file(fd);
                file.writable.store(true, Ordering::Relaxed);
            }
            file.users.fetch_add(1, Ordering::Relaxed);
            return Ok(file.clone());
        }
        let (fd, writable) = self.open_backing(inode, write)?;
        let fd = Arc::new(fd);
        let content = match inspect(&self.volume, fd.as_fd())? {
            Inspected::Empty => Content::empty(self.volume.clone(), fd),
            Inspected::Keyed(keyed) => {
                let wrapped = usable_wrappings(&keyed.header.wrappings)?;
                let key = match ready {
                    Some(Ready::Fetched(key)) => key.clone(),
                    _ => {
                        let cached = wrapped.iter().find_map(|wrapped| self.keys.cached(wrapped));
                        self.opened(inode, cached.is_none());
                        cached.ok_or(FsError::Wait(Wait::Fetch(wrapped)))?
                    }
                };
                let stored = keyed.stored_len;
                let said = inode.plain_len(stored);
                // Exposed: content derives its keys from it.
                let content = Content::open(self.volume.clone(), fd, writable, *keyed, key.secret())?;
                if content.size() != said {
                    self.inodes.correct(inode, (!writable).then_some((stored, content.size())));
                    return Err(FsError::Stale);
                }
                content
            }
        };
        let mut content = content;
        content.add_written(std::mem::take(&mut *inode.written.lock()));
        let file = OpenFile::new(inode.clone(), content, writable);
        *open = Some(file.clone());
        Ok(file)
    }

    /// For reading and writing wherever possible: with the write-back cache the kernel writes on any handle, and reads
    /// what it writes in part.
    fn open_backing(&self, inode: &Inode, write: bool) -> Result<(OwnedFd, bool)> {
        if self.options.read_only {
            return Ok((backing::reopen(inode.fd()?.as_fd(), OFlags::RDONLY)?, false));
        }
        match backing::reopen(inode.fd()?.as_fd(), OFlags::RDWR) {
            Ok(fd) => Ok((fd, true)),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) if !write => {
                Ok((backing::reopen(inode.fd()?.as_fd(), OFlags::RDONLY)?, false))
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn close_shared(&self, file: &Arc<OpenFile>) -> Result<()> {
        let mut open = file.inode.open.lock();
        if file.users.load(Ordering::Relaxed) > 1 {
            file.users.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        let closed = file.close();
        let mut content = file.content.write();
        if closed.is_err() {
            // It stays open, and is tried again.
            self.note_waiting(file, &content);
        }
        if file.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            drop(content);
            self.settle_mtime(file);
            content = file.content.write();
            *open = None;
            *file.inode.written.lock() = content.take_written();
        }
        closed
    }

    /// Gives an empty file its data key: the one that was waited for, or one from the pool.
    pub(super) fn ensure_key(&self, file: &OpenFile, ready: Option<&Ready>) -> Result<()> {
        if file.content.read().has_key() {
            return Ok(());
        }
        if let Some(Ready::New(new)) = ready {
            return set_key(file, new);
        }
        set_key(file, &self.keys.take_new().ok_or(FsError::Wait(Wait::New))?)
    }

    /// Waits until the operation that gave `wait` can be called again, with what this gives. Bounded by the deadline
    /// of the key room.
    pub fn wait(&self, wait: Wait) -> impl Future<Output = Result<Ready>> + Send + 'static {
        let keys = self.keys.clone();
        async move {
            match wait {
                Wait::Fetch(wrapped) => {
                    let mut last = FsError::NoWrapping;
                    for wrapped in &wrapped {
                        match keys.fetch(wrapped).await {
                            Ok(key) => return Ok(Ready::Fetched(key)),
                            Err(e) => last = FsError::Key(e),
                        }
                    }
                    Err(last)
                }
                Wait::New => Ok(Ready::New(keys.new_key().await.map_err(FsError::Key)?)),
            }
        }
    }
}

fn set_key(file: &OpenFile, new: &NewKey) -> Result<()> {
    let wrapping = Wrapping {
        provider: PROVIDER_CTYUN,
        key_id: new.wrapped.key_id.clone(),
        key_version: new.wrapped.key_version.clone(),
        blob: new.wrapped.blob.clone(),
    };
    // Exposed: content derives its keys from it.
    Ok(file.content.write().set_key(vec![wrapping], new.key.secret())?)
}

/// The wrappings of a header that this program can have unwrapped; at least one.
pub fn usable_wrappings(wrappings: &[Wrapping]) -> Result<Vec<WrappedKey>> {
    let usable: Vec<WrappedKey> = wrappings
        .iter()
        .filter(|wrapping| wrapping.provider == PROVIDER_CTYUN)
        .map(|wrapping| WrappedKey {
            key_id: wrapping.key_id.clone(),
            key_version: wrapping.key_version.clone(),
            blob: wrapping.blob.clone(),
        })
        .collect();
    if usable.is_empty() { Err(FsError::NoWrapping) } else { Ok(usable) }
}
