//! The FUSE adapter: decode, call [`crate::fs`], reply. One short method a request.
//!
//! An operation that needs a key which is not at hand moves, reply and all, into a task: no loop waits for the network.
//! A panic in an operation becomes EIO for its caller and a line in the log.

mod convert;
pub mod session;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::fs::dirs::Listing;
use crate::fs::file_ops::{Allocate, WriteHow};
use crate::fs::{Entry, Fs, FsError, Ready, Result, SetAttr, SetTime, Wait};

use convert::{caller, file_attr, file_type, name_only, set_time};

/// Nobody else changes the backing of an exclusive mount: what the kernel knows stays true.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// How often an operation is tried again after a wait: one is enough unless something else changed in between.
const TRIES: usize = 4;
const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;

/// What the kernel is asked for, one at a time: a refusal of one is logged and no reason to do without the others.
const CAPABILITIES: [(InitFlags, &str); 9] = [
    (InitFlags::FUSE_WRITEBACK_CACHE, "WRITEBACK_CACHE"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "PARALLEL_DIROPS"),
    (InitFlags::FUSE_DO_READDIRPLUS, "DO_READDIRPLUS"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "READDIRPLUS_AUTO"),
    (InitFlags::FUSE_ASYNC_DIO, "ASYNC_DIO"),
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "DIRECT_IO_ALLOW_MMAP"),
    (InitFlags::FUSE_HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2"),
    (InitFlags::FUSE_POSIX_ACL, "POSIX_ACL"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "CACHE_SYMLINKS"),
];

/// A mounted volume, as the kernel sees it.
pub struct Adapter {
    fs: Arc<Fs>,
    runtime: Handle,
}

impl Adapter {
    pub fn new(fs: Arc<Fs>, runtime: Handle) -> Self {
        Self { fs, runtime }
    }

    /// Calls `op`, whose name and inode go to the log if it fails.
    fn call<T>(&self, name: &'static str, ino: INodeNo, op: impl FnOnce(&Fs) -> Result<T>) -> Result<T> {
        logged(&self.fs, name, ino, guard(|| op(&self.fs)))
    }

    /// Calls `op` and hands its result to `reply`: here, or from a task after a wait.
    fn answer<T, O, R>(&self, name: &'static str, ino: INodeNo, op: O, reply: R)
    where
        T: Send + 'static,
        O: Fn(&Fs, Option<&Ready>) -> Result<T> + Send + Sync + 'static,
        R: FnOnce(Result<T>) + Send + 'static,
    {
        match self.call(name, ino, |fs| op(fs, None)) {
            Err(FsError::Wait(wait)) => self.defer(name, ino, wait, op, reply),
            done => reply(done),
        }
    }

    fn defer<T, O, R>(&self, name: &'static str, ino: INodeNo, wait: Wait, op: O, reply: R)
    where
        T: Send + 'static,
        O: Fn(&Fs, Option<&Ready>) -> Result<T> + Send + Sync + 'static,
        R: FnOnce(Result<T>) + Send + 'static,
    {
        let (fs, op) = (self.fs.clone(), Arc::new(op));
        self.runtime.spawn(async move {
            let mut wait = wait;
            for _ in 0..TRIES {
                let ready = match fs.wait(wait).await {
                    Ok(ready) => ready,
                    Err(e) => return reply(logged(&fs, name, ino, Err(e))),
                };
                let (task_fs, op) = (fs.clone(), op.clone());
                let called = tokio::task::spawn_blocking(move || guard(|| op(&task_fs, Some(&ready)))).await;
                match called {
                    Ok(Err(FsError::Wait(again))) => wait = again,
                    Ok(done) => return reply(logged(&fs, name, ino, done)),
                    Err(_) => return reply(logged(&fs, name, ino, Err(FsError::Panic))),
                }
            }
            reply(logged(&fs, name, ino, Err(FsError::WaitedTooOften)));
        });
    }
}

/// A panic becomes an error of this one call.
fn guard<T>(op: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(op)).unwrap_or(Err(FsError::Panic))
}

/// Logs what the application can't know from the errno, with the stored path of the inode.
fn logged<T>(fs: &Fs, name: &'static str, ino: INodeNo, done: Result<T>) -> Result<T> {
    if let Err(e) = &done {
        e.log(name, ino.0, || fs.stored_path(ino.0));
    }
    done
}

fn errno(e: &FsError) -> Errno {
    Errno::from_i32(e.errno())
}

fn reply_entry(reply: ReplyEntry, entry: Result<Entry>) {
    match entry {
        Ok(entry) => reply.entry(&TTL, &file_attr(&entry.attr), Generation(entry.generation)),
        Err(e) => reply.error(errno(&e)),
    }
}

fn reply_empty(reply: ReplyEmpty, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(&e)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for (flag, name) in CAPABILITIES {
            if config.add_capabilities(flag).is_err() {
                tracing::info!("this kernel does not offer FUSE {name}");
            }
        }
        // The umask is applied by the backing, which knows of default ACLs.
        if config.add_capabilities(InitFlags::FUSE_DONT_MASK).is_err() {
            tracing::info!("this kernel does not offer FUSE DONT_MASK");
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.end();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply_entry(reply, self.call("lookup", parent, |fs| fs.lookup(parent.0, name.as_bytes())));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.call("getattr", ino, |fs| fs.getattr(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let caller = caller(req, 0);
        // With a handle and nothing but an mtime: only the write-back cache asks so.
        if let (SetAttr { mtime: Some(SetTime::At(at)), size: None, mode: None, .. }, Some(_)) = (set, fh)
            && set.atime.is_none()
            && set.uid.is_none()
            && set.gid.is_none()
        {
            return match self.call("setattr", ino, |fs| fs.flush_mtime(&caller, ino.0, at)) {
                Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
                Err(e) => reply.error(errno(&e)),
            };
        }
        self.answer(
            "setattr",
            ino,
            move |fs, ready| fs.setattr(&caller, ino.0, &set, ready),
            move |attr| match attr {
                Ok(attr) => reply.attr(&TTL, &file_attr(&attr)),
                Err(e) => reply.error(errno(&e)),
            },
        );
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.call("readlink", ino, |fs| fs.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let made =
            self.call("mknod", parent, |fs| fs.mknod(&caller(req, umask), parent.0, name.as_bytes(), mode, rdev));
        reply_entry(reply, made);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.call("mkdir", parent, |fs| fs.mkdir(&caller(req, umask), parent.0, name.as_bytes(), mode));
        reply_entry(reply, made);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.call("unlink", parent, |fs| fs.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.call("rmdir", parent, |fs| fs.rmdir(parent.0, name.as_bytes())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let made =
            self.call("symlink", parent, |fs| fs.symlink(&caller(req, 0), parent.0, link_name.as_bytes(), target));
        reply_entry(reply, made);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let done = self
            .call("rename", parent, |fs| fs.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), flags));
        reply_empty(reply, done);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let linked = self.call("link", ino, |fs| fs.link(ino.0, newparent.0, newname.as_bytes()));
        reply_entry(reply, linked);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
        self.answer(
            "open",
            ino,
            move |fs, ready| fs.open(ino.0, write, ready),
            move |handle| match handle {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
                Err(e) => reply.error(errno(&e)),
            },
        );
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.call("create", parent, |fs| fs.create(&caller(req, umask), parent.0, name.as_bytes(), mode)) {
            Ok((entry, handle)) => reply.created(
                &TTL,
                &file_attr(&entry.attr),
                Generation(entry.generation),
                FileHandle(handle),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // A panic drops the reply, which answers EIO.
        let _ = guard(|| {
            let fs = &self.fs;
            fs.read(fh.0, offset, size as usize, |data| match logged(fs, "read", ino, data) {
                Ok(data) => reply.data(data),
                Err(e) => reply.error(errno(&e)),
            });
            Ok(())
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = WriteHow {
            from_cache: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            drop_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let len = data.len() as u32;
        let answer = move |done: Result<()>| match done {
            Ok(()) => reply.written(len),
            Err(e) => reply.error(errno(&e)),
        };
        match self.call("write", ino, |fs| fs.write(fh.0, offset, data, how, None)) {
            Err(FsError::Wait(wait)) => {
                let data = data.to_vec();
                self.defer("write", ino, wait, move |fs, ready| fs.write(fh.0, offset, &data, how, ready), answer);
            }
            done => answer(done),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        // The kernel has written back before it flushes, and knows of errors. After this answer it asks no more, which
        // spares a round trip at each close.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.call("release", ino, |fs| fs.release(fh.0)));
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(reply, self.call("fsync", ino, |fs| fs.fsync(fh.0)));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.call("opendir", ino, |fs| fs.opendir(ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.call("readdir", ino, |fs| {
            fs.readdir(fh.0, offset, |Listing { name, ino, kind, next, .. }| {
                reply.add(INodeNo(ino), next, file_type(kind), OsStr::from_bytes(name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let listed = self.call("readdirplus", ino, |fs| {
            fs.readdir_plus(fh.0, offset, |Listing { name, ino, kind, next, entry }| {
                // Node 0: a name without a look-up.
                let (node, attr, generation) = match entry {
                    Some(entry) => (entry.attr.ino, file_attr(&entry.attr), entry.generation),
                    None => (0, name_only(ino, kind), 0),
                };
                reply.add(INodeNo(node), next, OsStr::from_bytes(name), &TTL, &attr, Generation(generation))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        reply_empty(reply, self.call("releasedir", ino, |fs| fs.releasedir(fh.0)));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(reply, self.call("fsyncdir", ino, |fs| fs.fsyncdir(fh.0)));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.call("statfs", ino, |fs| fs.statfs()) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let done = self.call("setxattr", ino, |fs| fs.setxattr(ino.0, name.as_bytes(), value, flags));
        reply_empty(reply, done);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.call("getxattr", ino, |fs| fs.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.call("listxattr", ino, |fs| fs.listxattr(ino.0)));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, self.call("removexattr", ino, |fs| fs.removexattr(ino.0, name.as_bytes())));
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let how = match mode {
            0 => Allocate::Grow,
            libc::FALLOC_FL_KEEP_SIZE => Allocate::Keep,
            m if m == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => Allocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size: false },
            m if m == libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE => Allocate::Zero { keep_size: true },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        self.answer(
            "fallocate",
            ino,
            move |fs, ready| fs.fallocate(fh.0, offset, length, how, ready),
            move |done| reply_empty(reply, done),
        );
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (Ok(off), data) = (u64::try_from(offset), whence == libc::SEEK_DATA) else {
            return reply.error(Errno::ENXIO);
        };
        let answer = move |found: Result<u64>| match found {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(errno(&e)),
        };
        if !self.fs.seek_waits(fh.0) {
            return answer(self.call("lseek", ino, |fs| fs.seek(fh.0, off, data)));
        }
        // The kernel writes back while this waits, and the loops have to take what it writes.
        let fs = self.fs.clone();
        self.runtime.spawn_blocking(move || answer(logged(&fs, "lseek", ino, guard(|| fs.seek(fh.0, off, data)))));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The reply has 32 bits for the length.
        let len = len.min(1 << 30);
        self.answer(
            "copy_file_range",
            ino_in,
            move |fs, ready| fs.copy_range((fh_in.0, offset_in), (fh_out.0, offset_out), len, ready),
            move |done| match done {
                Ok(n) => reply.written(n as u32),
                Err(e) => reply.error(errno(&e)),
            },
        );
    }
}
