//! The FUSE adapter: decode, call [`crate::fs`], reply. One short method a request.
//!
//! Requests come over `/dev/fuse` ([`device`]) or over io_uring ([`uring`]); both hand them to [`Adapter::handle`]. The
//! protocol itself is in [`abi`]. An operation that needs a key which is not at hand moves, reply and all, into a task: no
//! loop waits for the network. A panic in an operation becomes EIO for its caller and a line in the log.

mod abi;
mod convert;
mod device;
mod reply;
mod request;
pub mod session;
mod uring;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::fs::file_ops::{Allocate, WriteHow};
use crate::fs::{Fs, FsError, Ready, Result, SetAttr, SetTime, Wait};

use abi::{FOPEN_KEEP_CACHE, op};
use convert::{caller, set_attr};
use reply::{List, Reply, Sink};
use request::{Malformed, Request};

/// How often an operation is tried again after a wait: one is enough unless something else changed in between.
const TRIES: usize = 4;
const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;

type Decoded = std::result::Result<(), Malformed>;

/// A mounted volume, as the kernel sees it.
#[derive(Clone)]
pub struct Adapter {
    fs: Arc<Fs>,
    runtime: Handle,
}

impl Adapter {
    pub fn new(fs: Arc<Fs>, runtime: Handle) -> Self {
        Self { fs, runtime }
    }

    /// Calls `op`, whose name and inode go to the log if it fails.
    fn call<T>(&self, name: &'static str, ino: u64, op: impl FnOnce(&Fs) -> Result<T>) -> Result<T> {
        logged(&self.fs, name, ino, guard(|| op(&self.fs)))
    }

    /// Calls `op` and hands its result to `reply`: here, or from a task after a wait.
    fn answer<T, O, R>(&self, name: &'static str, ino: u64, op: O, reply: R)
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

    fn defer<T, O, R>(&self, name: &'static str, ino: u64, wait: Wait, op: O, reply: R)
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
fn logged<T>(fs: &Fs, name: &'static str, ino: u64, done: Result<T>) -> Result<T> {
    if let Err(e) = &done {
        e.log(name, ino, || fs.stored_path(ino));
    }
    done
}

/// A listing is built in memory that the thread keeps.
fn with_list<R>(room: u32, f: impl FnOnce(&mut List) -> R) -> R {
    thread_local!(static LIST: RefCell<List> = RefCell::default());
    LIST.with_borrow_mut(|list| {
        list.clear(room.min(MAX_WRITE) as usize);
        f(list)
    })
}

impl Adapter {
    /// Carries out one request; its answer goes to `sink`, perhaps later.
    fn handle(&self, request: Request<'_>, sink: Sink) {
        let (ino, opcode) = (request.header.nodeid, request.header.opcode);
        // What is not answered in there is answered EIO as its reply is dropped.
        match catch_unwind(AssertUnwindSafe(|| self.dispatch(request, sink))) {
            Ok(Ok(())) => {}
            Ok(Err(Malformed)) => tracing::error!(ino, opcode, "the kernel's request has another form than it should"),
            Err(_) => tracing::error!(ino, opcode, "a bug: a request panicked"),
        }
    }

    fn dispatch(&self, request: Request<'_>, sink: Sink) -> Decoded {
        let ino = request.header.nodeid;
        match request.header.opcode {
            op::FORGET => return self.forget(request),
            op::BATCH_FORGET => return self.batch_forget(request),
            _ => {}
        }
        let reply = Reply::new(request.header.unique, sink);
        match request.header.opcode {
            op::LOOKUP => self.lookup(request, reply),
            op::GETATTR => {
                reply.attr(self.call("getattr", ino, |fs| fs.getattr(ino)));
                Ok(())
            }
            op::SETATTR => self.setattr(request, reply),
            op::READLINK => {
                reply.data(self.call("readlink", ino, |fs| fs.readlink(ino)));
                Ok(())
            }
            op::SYMLINK => self.symlink(request, reply),
            op::MKNOD => self.mknod(request, reply),
            op::MKDIR => self.mkdir(request, reply),
            op::UNLINK => self.unlink(request, reply),
            op::RMDIR => self.rmdir(request, reply),
            op::RENAME | op::RENAME2 => self.rename(request, reply),
            op::LINK => self.link(request, reply),
            op::OPEN => self.open(request, reply),
            op::READ => self.read(request, reply),
            op::WRITE => self.write(request, reply),
            op::STATFS => {
                reply.statfs(self.call("statfs", ino, |fs| fs.statfs()));
                Ok(())
            }
            op::RELEASE => self.release(request, reply),
            op::FSYNC => self.fsync(request, reply),
            op::SETXATTR => self.setxattr(request, reply),
            op::GETXATTR => self.getxattr(request, reply),
            op::LISTXATTR => self.listxattr(request, reply),
            op::REMOVEXATTR => self.removexattr(request, reply),
            op::OPENDIR => {
                reply.opened(self.call("opendir", ino, |fs| fs.opendir(ino)), 0);
                Ok(())
            }
            op::READDIR => self.readdir(request, reply),
            op::READDIRPLUS => self.readdirplus(request, reply),
            op::RELEASEDIR => self.releasedir(request, reply),
            op::FSYNCDIR => self.fsyncdir(request, reply),
            op::CREATE => self.create(request, reply),
            op::FALLOCATE => self.fallocate(request, reply),
            op::LSEEK => self.lseek(request, reply),
            op::COPY_FILE_RANGE => self.copy_file_range(request, reply),
            // FLUSH among them: the kernel has written back before it flushes, and knows of errors. After this answer it asks
            // no more, which spares a round trip at each close.
            _ => {
                reply.error(libc::ENOSYS);
                Ok(())
            }
        }
    }

    fn forget(&self, mut request: Request<'_>) -> Decoded {
        let args: abi::ForgetIn = request.take()?;
        self.fs.forget(request.header.nodeid, args.nlookup);
        Ok(())
    }

    fn batch_forget(&self, mut request: Request<'_>) -> Decoded {
        let args: abi::BatchForgetIn = request.take()?;
        for _ in 0..args.count {
            let one: abi::ForgetOne = request.take()?;
            self.fs.forget(one.nodeid, one.nlookup);
        }
        Ok(())
    }

    fn lookup(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (request.header.nodeid, request.text()?);
        reply.entry(self.call("lookup", parent, |fs| fs.lookup(parent, name)));
        Ok(())
    }

    fn setattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::SetattrIn = request.take()?;
        let (ino, caller, set) = (request.header.nodeid, caller(&request.header, 0), set_attr(&args));
        // With a handle and nothing but an mtime: only the write-back cache asks so.
        if let SetAttr { mtime: Some(SetTime::At(at)), atime: None, size: None, mode: None, uid: None, gid: None } = set
            && args.valid & abi::valid::FH != 0
        {
            reply.attr(self.call("setattr", ino, |fs| fs.flush_mtime(&caller, ino, at)));
            return Ok(());
        }
        let op = move |fs: &Fs, ready: Option<&Ready>| fs.setattr(&caller, ino, &set, ready);
        self.answer("setattr", ino, op, move |done| reply.attr(done));
        Ok(())
    }

    fn symlink(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name, target) = (request.header.nodeid, request.text()?, request.text()?);
        let caller = caller(&request.header, 0);
        reply.entry(self.call("symlink", parent, |fs| fs.symlink(&caller, parent, name, target)));
        Ok(())
    }

    fn mknod(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::MknodIn = request.take()?;
        let (parent, name, caller) = (request.header.nodeid, request.text()?, caller(&request.header, args.umask));
        reply.entry(self.call("mknod", parent, |fs| fs.mknod(&caller, parent, name, args.mode, args.rdev)));
        Ok(())
    }

    fn mkdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::MkdirIn = request.take()?;
        let (parent, name, caller) = (request.header.nodeid, request.text()?, caller(&request.header, args.umask));
        reply.entry(self.call("mkdir", parent, |fs| fs.mkdir(&caller, parent, name, args.mode)));
        Ok(())
    }

    fn unlink(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (request.header.nodeid, request.text()?);
        reply.empty(self.call("unlink", parent, |fs| fs.unlink(parent, name)));
        Ok(())
    }

    fn rmdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (request.header.nodeid, request.text()?);
        reply.empty(self.call("rmdir", parent, |fs| fs.rmdir(parent, name)));
        Ok(())
    }

    fn rename(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (new_parent, flags) = if request.header.opcode == op::RENAME2 {
            let args: abi::Rename2In = request.take()?;
            (args.newdir, args.flags)
        } else {
            (request.take::<abi::RenameIn>()?.newdir, 0)
        };
        let (parent, name, new_name) = (request.header.nodeid, request.text()?, request.text()?);
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags);
        reply.empty(self.call("rename", parent, |fs| fs.rename(parent, name, new_parent, new_name, flags)));
        Ok(())
    }

    fn link(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::LinkIn = request.take()?;
        let (ino, new_parent, new_name) = (args.oldnodeid, request.header.nodeid, request.text()?);
        reply.entry(self.call("link", ino, |fs| fs.link(ino, new_parent, new_name)));
        Ok(())
    }

    fn open(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::OpenIn = request.take()?;
        let (ino, write) = (request.header.nodeid, args.flags & libc::O_ACCMODE != libc::O_RDONLY);
        let op = move |fs: &Fs, ready: Option<&Ready>| fs.open(ino, write, ready);
        self.answer("open", ino, op, move |handle| reply.opened(handle, FOPEN_KEEP_CACHE));
        Ok(())
    }

    fn create(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::CreateIn = request.take()?;
        let (parent, name, caller) = (request.header.nodeid, request.text()?, caller(&request.header, args.umask));
        let made = self.call("create", parent, |fs| fs.create(&caller, parent, name, args.mode));
        reply.created(made, FOPEN_KEEP_CACHE);
        Ok(())
    }

    fn read(&self, mut request: Request<'_>, mut reply: Reply) -> Decoded {
        let args: abi::ReadIn = request.take()?;
        let (fs, ino, len) = (&self.fs, request.header.nodeid, args.size as usize);
        if let Some(room) = reply.room() {
            match self.call("read", ino, |fs| fs.read_into(args.fh, args.offset, len, room)) {
                Ok(Some(range)) => {
                    reply.with_room(range);
                    return Ok(());
                }
                Ok(None) => {}
                Err(e) => {
                    reply.failed(&e);
                    return Ok(());
                }
            }
        }
        fs.read(args.fh, args.offset, len, |data| match logged(fs, "read", ino, data) {
            Ok(data) => reply.bytes(data),
            Err(e) => reply.failed(&e),
        });
        Ok(())
    }

    fn write(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::WriteIn = request.take()?;
        let (ino, data) = (request.header.nodeid, request.bytes(args.size as usize)?);
        let how = WriteHow {
            from_cache: args.write_flags & abi::WRITE_CACHE != 0,
            drop_privileges: args.write_flags & abi::WRITE_KILL_SUIDGID != 0,
        };
        let answer = move |done: Result<()>| reply.written(done.map(|()| args.size));
        match self.call("write", ino, |fs| fs.write(args.fh, args.offset, data, how, None)) {
            Err(FsError::Wait(wait)) => {
                let data = data.to_vec();
                let op = move |fs: &Fs, ready: Option<&Ready>| fs.write(args.fh, args.offset, &data, how, ready);
                self.defer("write", ino, wait, op, answer);
            }
            done => answer(done),
        }
        Ok(())
    }

    fn release(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::ReleaseIn = request.take()?;
        reply.empty(self.call("release", request.header.nodeid, |fs| fs.release(args.fh)));
        Ok(())
    }

    fn fsync(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::FsyncIn = request.take()?;
        reply.empty(self.call("fsync", request.header.nodeid, |fs| fs.fsync(args.fh)));
        Ok(())
    }

    fn setxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::SetxattrIn = request.take()?;
        let (ino, name, value) = (request.header.nodeid, request.text()?, request.bytes(args.size as usize)?);
        reply.empty(self.call("setxattr", ino, |fs| fs.setxattr(ino, name, value, args.flags)));
        Ok(())
    }

    fn getxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::GetxattrIn = request.take()?;
        let (ino, name) = (request.header.nodeid, request.text()?);
        reply.xattr(args.size, self.call("getxattr", ino, |fs| fs.getxattr(ino, name)));
        Ok(())
    }

    fn listxattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::GetxattrIn = request.take()?;
        let ino = request.header.nodeid;
        reply.xattr(args.size, self.call("listxattr", ino, |fs| fs.listxattr(ino)));
        Ok(())
    }

    fn removexattr(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (ino, name) = (request.header.nodeid, request.text()?);
        reply.empty(self.call("removexattr", ino, |fs| fs.removexattr(ino, name)));
        Ok(())
    }

    fn readdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::ReadIn = request.take()?;
        with_list(args.size, |list| {
            let add = |listing: crate::fs::dirs::Listing<'_>| list.add(&listing);
            let listed = self.call("readdir", request.header.nodeid, |fs| fs.readdir(args.fh, args.offset, add));
            reply.listing(listed, list);
        });
        Ok(())
    }

    fn readdirplus(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::ReadIn = request.take()?;
        with_list(args.size, |list| {
            let add = |listing: crate::fs::dirs::Listing<'_>| list.add_plus(&listing);
            let listed =
                self.call("readdirplus", request.header.nodeid, |fs| fs.readdir_plus(args.fh, args.offset, add));
            reply.listing(listed, list);
        });
        Ok(())
    }

    fn releasedir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::ReleaseIn = request.take()?;
        reply.empty(self.call("releasedir", request.header.nodeid, |fs| fs.releasedir(args.fh)));
        Ok(())
    }

    fn fsyncdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::FsyncIn = request.take()?;
        reply.empty(self.call("fsyncdir", request.header.nodeid, |fs| fs.fsyncdir(args.fh)));
        Ok(())
    }

    fn fallocate(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::FallocateIn = request.take()?;
        let how = match args.mode {
            0 => Allocate::Grow,
            libc::FALLOC_FL_KEEP_SIZE => Allocate::Keep,
            m if m == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => Allocate::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero { keep_size: false },
            m if m == libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE => Allocate::Zero { keep_size: true },
            _ => {
                reply.error(libc::EOPNOTSUPP);
                return Ok(());
            }
        };
        let op = move |fs: &Fs, ready: Option<&Ready>| fs.fallocate(args.fh, args.offset, args.length, how, ready);
        self.answer("fallocate", request.header.nodeid, op, move |done| reply.empty(done));
        Ok(())
    }

    fn lseek(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::LseekIn = request.take()?;
        let (ino, data) = (request.header.nodeid, args.whence == libc::SEEK_DATA);
        let Ok(off) = u64::try_from(args.offset) else {
            reply.error(libc::ENXIO);
            return Ok(());
        };
        if !self.fs.seek_waits(args.fh) {
            reply.offset(self.call("lseek", ino, |fs| fs.seek(args.fh, off, data, false)));
            return Ok(());
        }
        // The kernel writes back while this waits, and the loops have to take what it writes.
        let fs = self.fs.clone();
        self.runtime.spawn_blocking(move || {
            reply.offset(logged(&fs, "lseek", ino, guard(|| fs.seek(args.fh, off, data, true))));
        });
        Ok(())
    }

    fn copy_file_range(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let args: abi::CopyFileRangeIn = request.take()?;
        // The reply has 32 bits for the length.
        let len = args.len.min(1 << 30);
        let op = move |fs: &Fs, ready: Option<&Ready>| {
            fs.copy_range((args.fh_in, args.off_in), (args.fh_out, args.off_out), len, ready)
        };
        let answer = move |done: Result<u64>| reply.written(done.map(|n| n as u32));
        self.answer("copy_file_range", request.header.nodeid, op, answer);
        Ok(())
    }
}
