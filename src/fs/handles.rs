//! The table of open handles.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::inodes::Inode;
use super::open_files::OpenFile;
use super::{FsError, Result};

/// A file opened once.
#[derive(Debug)]
pub struct FileHandle {
    pub file: Arc<OpenFile>,
    /// Opened for writing.
    pub write: bool,
}

/// A directory opened once.
#[derive(Debug)]
pub struct DirHandle {
    pub inode: Arc<Inode>,
    pub fd: OwnedFd,
    /// Buffer for listing; its lock also guards the descriptor's position.
    pub buf: Mutex<Vec<u8>>,
}

#[derive(Default)]
pub struct Handles {
    next: AtomicU64,
    files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    dirs: RwLock<HashMap<u64, Arc<DirHandle>>>,
}

impl Handles {
    pub fn add_file(&self, handle: FileHandle) -> u64 {
        let number = self.number();
        self.files.write().insert(number, Arc::new(handle));
        number
    }

    pub fn file(&self, number: u64) -> Result<Arc<FileHandle>> {
        self.files.read().get(&number).cloned().ok_or(FsError::BadHandle)
    }

    pub fn remove_file(&self, number: u64) -> Result<Arc<FileHandle>> {
        self.files.write().remove(&number).ok_or(FsError::BadHandle)
    }

    pub fn add_dir(&self, handle: DirHandle) -> u64 {
        let number = self.number();
        self.dirs.write().insert(number, Arc::new(handle));
        number
    }

    pub fn dir(&self, number: u64) -> Result<Arc<DirHandle>> {
        self.dirs.read().get(&number).cloned().ok_or(FsError::BadHandle)
    }

    pub fn remove_dir(&self, number: u64) -> Result<Arc<DirHandle>> {
        self.dirs.write().remove(&number).ok_or(FsError::BadHandle)
    }

    /// Every open file, once a handle; the table is empty after.
    pub fn take_all(&self) -> Vec<Arc<OpenFile>> {
        std::mem::take(&mut *self.files.write()).into_values().map(|handle| handle.file.clone()).collect()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }
}
