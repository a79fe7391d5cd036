//! Operations on open files.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::content::{ContentError, SYNC_BARRIERS, Scratch};
use crate::format::layout::MAX_SIZE;

use super::handles::FileHandle;
use super::open_files::{OpenFile, Ready};
use super::{Fs, FsError, Result};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The calling thread's buffers. Not to be nested.
pub(super) fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| f(&mut scratch.borrow_mut()))
}

/// Bytes that one step of a copy moves.
const COPY_STEP: usize = 1 << 20;

/// What the kernel says of a write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteHow {
    /// The write-back cache writes, and will say when the user did.
    pub from_cache: bool,
    /// Set-user-id must not survive.
    pub drop_privileges: bool,
}

/// How `fallocate` was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Mode 0: the file reaches so far.
    Grow,
    /// KEEP_SIZE: nothing that reads show.
    Keep,
    /// PUNCH_HOLE | KEEP_SIZE.
    Punch,
    /// ZERO_RANGE, with or without KEEP_SIZE.
    Zero { keep_size: bool },
}

impl Fs {
    /// Opens a regular file; gives a handle.
    pub fn open(&self, id: u64, write: bool, ready: Option<&Ready>) -> Result<u64> {
        if write {
            self.writable()?;
        }
        let inode = self.inode(id)?;
        if inode.kind != FileType::RegularFile {
            return Err(Errno::NODEV.into());
        }
        let file = self.open_shared(&inode, write, ready)?;
        Ok(self.add_handle(file, write))
    }

    pub(super) fn add_handle(&self, file: Arc<OpenFile>, write: bool) -> u64 {
        if write {
            file.writers.fetch_add(1, Ordering::Relaxed);
        }
        self.handles.add_file(FileHandle { file, write })
    }

    /// Ends a handle. An error says that the file's record could not be written: its data is as it was.
    pub fn release(&self, handle: u64) -> Result<()> {
        let handle = self.handles.remove_file(handle)?;
        if handle.write {
            handle.file.writers.fetch_sub(1, Ordering::Relaxed);
        }
        self.close_shared(&handle.file)?;
        self.end_if_unlinked(&handle.file);
        Ok(())
    }

    /// Reads up to `len` bytes at `off` and hands them to `done`; fewer only at the end of the file.
    pub fn read<R>(&self, handle: u64, off: u64, len: usize, done: impl FnOnce(Result<&[u8]>) -> R) -> R {
        let handle = match self.handles.file(handle) {
            Ok(handle) => handle,
            Err(e) => return done(Err(e)),
        };
        with_scratch(|scratch| {
            let read = handle.file.content.read().read_at(off, len, scratch);
            match read {
                Ok(range) => done(Ok(&scratch.data(range.end)[range])),
                Err(e) => done(Err(e.into())),
            }
        })
    }

    /// As [`Self::read`], into the caller's memory: the bytes lie in `out` where the range says, at most `len`. `None` if
    /// `out` is too small for the whole blocks around them. After an error `out` holds anything.
    pub fn read_into(&self, handle: u64, off: u64, len: usize, out: &mut [u8]) -> Result<Option<Range<usize>>> {
        let handle = self.handles.file(handle)?;
        with_scratch(|scratch| Ok(handle.file.content.read().read_into(off, len, out, scratch)?))
    }

    /// Writes all of `data` at `off`.
    pub fn write(&self, handle: u64, off: u64, data: &[u8], how: WriteHow, ready: Option<&Ready>) -> Result<()> {
        let handle = self.handles.file(handle)?;
        self.writable()?;
        self.ensure_key(&handle.file, ready)?;
        if how.drop_privileges {
            self.drop_privileges(&handle.file.inode)?;
        }
        if !how.from_cache {
            self.forget_mtime(&handle.file.inode);
        }
        self.write_open(&handle.file, off, data)
    }

    fn write_open(&self, file: &Arc<OpenFile>, off: u64, data: &[u8]) -> Result<()> {
        with_scratch(|scratch| {
            let mut sealed = file.content.read().seal_ahead(off, data, scratch);
            let mut done = 0;
            self.change(file, |content| {
                let written = content.write_at(off + done as u64, &data[done..], scratch, sealed.take());
                if let Err(ContentError::RedoFull { written }) = written {
                    done += written;
                }
                written
            })
        })
    }

    /// Everything written to the file is durable when this returns, and its name too where that is new.
    pub fn fsync(&self, handle: u64) -> Result<()> {
        let handle = self.handles.file(handle)?;
        if self.options.read_only {
            return Ok(());
        }
        let file = &handle.file;
        self.sync_names_of(file)?;
        // With the lock that setting times takes: a record that is written here keeps the mtime.
        for _ in 0..SYNC_BARRIERS {
            let open = file.inode.open.lock();
            let sync = file.content.write().begin_sync()?;
            drop(open);
            // Not under the lock: readers and writers go on.
            let barrier = sync.barrier();
            let _open = file.inode.open.lock();
            let mut content = file.content.write();
            if barrier.is_err() {
                content.barrier_failed(&sync);
            }
            let ended = barrier.and_then(|()| content.end_sync(&sync));
            if ended.is_err() {
                // The file stays open until all is durable that was to be.
                self.note_waiting(file, &content);
            }
            if !ended? {
                break;
            }
        }
        Ok(())
    }

    pub fn fallocate(&self, handle: u64, off: u64, len: u64, how: Allocate, ready: Option<&Ready>) -> Result<()> {
        let handle = self.handles.file(handle)?;
        self.writable()?;
        let end = off.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(ContentError::TooBig)?;
        let file = &handle.file;
        let grows = matches!(how, Allocate::Grow | Allocate::Zero { keep_size: false }) && end > file.size();
        if grows {
            self.ensure_key(file, ready)?;
        }
        with_scratch(|scratch| {
            self.change(file, |content| {
                if matches!(how, Allocate::Punch | Allocate::Zero { .. }) {
                    content.punch(off, len, scratch)?;
                }
                if grows && end > content.size() {
                    content.set_size(end, scratch)?;
                }
                Ok(())
            })
        })
    }

    /// The next data (`data`) or hole at or behind `off`. With `wait` the kernel writes back first: see
    /// [`Self::seek_waits`].
    pub fn seek(&self, handle: u64, off: u64, data: bool, wait: bool) -> Result<u64> {
        let handle = self.handles.file(handle)?;
        if wait && let Some(invalidate) = self.invalidate.get() {
            // The kernel may hold pages that were not written back, and asks without writing them.
            invalidate(handle.file.inode.id);
        }
        handle.file.content.read().seek(off, data)?.ok_or_else(|| Errno::NXIO.into())
    }

    /// Whether [`Self::seek`] has to wait for the kernel to write back: not to be called from a thread that serves the
    /// kernel then.
    pub fn seek_waits(&self, handle: u64) -> bool {
        self.handles.file(handle).is_ok_and(|handle| handle.file.writers.load(Ordering::Relaxed) > 0)
    }

    /// Copies up to `len` bytes between open files, keeping holes; gives how many.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64, ready: Option<&Ready>) -> Result<u64> {
        let (source, target) = (self.handles.file(from.0)?.file.clone(), self.handles.file(to.0)?.file.clone());
        self.writable()?;
        let size = source.size();
        let len = len.min(size.saturating_sub(from.1));
        if to.1.checked_add(len).is_none_or(|end| end > MAX_SIZE) {
            return Err(ContentError::TooBig.into());
        }
        if len == 0 {
            return Ok(0);
        }
        if Arc::ptr_eq(&source, &target) && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(Errno::INVAL.into());
        }
        self.ensure_key(&target, ready)?;
        let mut done = 0;
        while done < len {
            let step = ((len - done) as usize).min(COPY_STEP);
            let copied = self.copy_step(&source, from.1 + done, &target, to.1 + done, step);
            match copied {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                // What was copied counts; the next call meets the error again.
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn copy_step(&self, source: &OpenFile, from: u64, target: &Arc<OpenFile>, to: u64, len: usize) -> Result<usize> {
        let data = with_scratch(|scratch| {
            let range = source.content.read().read_at(from, len, scratch)?;
            Ok::<_, FsError>(scratch.data(range.end)[range].to_vec())
        })?;
        let end = to + data.len() as u64;
        if data.iter().all(|&b| b == 0) {
            // A hole, or as good as one.
            with_scratch(|scratch| {
                self.change(target, |content| {
                    content.punch(to, data.len() as u64, scratch)?;
                    if end > content.size() {
                        content.set_size(end, scratch)?;
                    }
                    Ok(())
                })
            })?;
        } else {
            self.write_open(target, to, &data)?;
        }
        Ok(data.len())
    }
}
