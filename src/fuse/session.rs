//! Mounting, serving and unmounting: our own `mount(2)` as root, `fusermount3` for others.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;

use super::Adapter;
use super::device::{self, Device};
use super::uring::{self, Hands, Nudge};

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub mountpoint: PathBuf,
    /// Shown as the source of the mount.
    pub source: PathBuf,
    pub read_only: bool,
    pub allow_other: bool,
    /// `nosuid`, `nodev`, `noexec`, `noatime` as the kernel knows them.
    pub flags: Vec<String>,
    /// Threads that serve the kernel; 0 chooses.
    pub loops: usize,
    /// Requests come over io_uring; an error if they can't.
    pub io_uring: bool,
}

/// The type of the mount, as `/proc/mounts` shows it.
pub const FS_TYPE: &str = "fuse.kmsfs";

/// KiB that the kernel reads ahead on the mount: a quarter of the requests of its default, and half the CPU.
const READ_AHEAD_KB: &str = "1024";

/// A mount that is being served.
pub struct Serving {
    /// Threads that serve the kernel, and where each says that it has ended.
    serving: usize,
    ended: (Sender<io::Result<()>>, Receiver<io::Result<()>>),
    hands: Vec<JoinHandle<()>>,
    work: Arc<Hands>,
    device: Arc<Device>,
    mountpoint: PathBuf,
}

/// Mounts and begins to serve. The kernel's first request was answered when this returns.
pub fn mount(adapter: &Adapter, options: &MountOptions) -> io::Result<Serving> {
    let mountpoint = options.mountpoint.canonicalize()?;
    if options.io_uring {
        uring::probe()?;
    }
    let fd = if rustix::process::geteuid().is_root() {
        mount_direct(&mountpoint, options)?
    } else {
        mount_with_helper(&mountpoint, options)?
    };
    match serve(adapter, Device::new(fd), &mountpoint, options) {
        Ok(serving) => {
            set_read_ahead(&mountpoint);
            Ok(serving)
        }
        Err(e) => {
            let _ = give_up(&mountpoint);
            Err(e)
        }
    }
}

fn serve(adapter: &Adapter, device: Device, mountpoint: &Path, options: &MountOptions) -> io::Result<Serving> {
    device.handshake(options.io_uring)?;
    let loops = if options.loops > 0 { options.loops } else { default_loops() };
    let device = Arc::new(device);
    let mut serving = Serving {
        serving: 0,
        ended: mpsc::channel(),
        hands: Vec::new(),
        work: Hands::new(),
        device: device.clone(),
        mountpoint: mountpoint.to_owned(),
    };
    // With io_uring the kernel still sends over the device what it wants no answer to.
    for i in 0..if options.io_uring { 1 } else { loops } {
        let (device, adapter) = (device.another()?, adapter.clone());
        serving.serve_in(format!("kmsfs-{i}"), move || device::serve(&adapter, device))?;
    }
    if options.io_uring {
        serving.add_lanes(adapter, loops)?;
    }
    Ok(serving)
}

impl Serving {
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// To tell the kernel what to write back and forget.
    pub fn device(&self) -> Arc<Device> {
        self.device.clone()
    }

    fn add_lanes(&mut self, adapter: &Adapter, loops: usize) -> io::Result<()> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let nudge = nudge(&self.mountpoint);
        let lanes = uring::lanes(&self.device, &self.work, loops.div_ceil(processors).max(2), &nudge)?;
        for i in 0..processors.max(2) {
            let (work, adapter) = (self.work.clone(), adapter.clone());
            self.hands.push(spawn(format!("kmsfs-hand-{i}"), move || work.work(&adapter))?);
        }
        let (ready, taken) = mpsc::channel();
        let count = lanes.len();
        for (i, lane) in lanes.into_iter().enumerate() {
            let (adapter, ready) = (adapter.clone(), ready.clone());
            self.serve_in(format!("kmsfs-lane-{i}"), move || lane.serve(&adapter, &ready))?;
        }
        drop(ready);
        for _ in 0..count {
            let refused =
                |e: io::Error| io::Error::new(e.kind(), format!("the kernel refuses FUSE over io_uring: {e}"));
            taken.recv().map_err(io::Error::other)?.map_err(refused)?;
        }
        Ok(())
    }

    /// A thread that serves the kernel until the file system is unmounted.
    fn serve_in(&mut self, name: String, serve: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let (ended, mountpoint) = (self.ended.0.clone(), self.mountpoint.clone());
        self.serving += 1;
        spawn(name, move || {
            let panicked = |_| Err(io::Error::other("a thread that serves the kernel panicked"));
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)).unwrap_or_else(panicked);
            if let Err(e) = &served {
                // Its callers would wait for ever.
                tracing::error!("a thread that serves the kernel has failed, and the mount is given up: {e}");
                let _ = give_up(&mountpoint);
            }
            let _ = ended.send(served);
        })
        .map(drop)
    }

    /// Until somebody unmounts, or a thread that serves has failed. Then the others may still be at work, and the process is
    /// to end: that is what ends the wait of callers whom nobody serves any more.
    pub fn wait(self) -> io::Result<()> {
        for _ in 0..self.serving {
            self.ended.1.recv().map_err(io::Error::other)??;
        }
        self.work.end();
        for hand in self.hands {
            let _ = hand.join();
        }
        Ok(())
    }
}

/// One attribute of the mount's root, asked of ourselves, by a thread that inherits the processor of the lane that starts it.
/// It waits as others do, so each has a thread of its own; and that must hold no descriptor of the connection: if the process
/// is killed, its callers wait until the last one is closed. Somebody who unmounts in that very moment may be told that
/// the mount is in use.
fn nudge(mountpoint: &Path) -> Nudge {
    const STACK: usize = 64 << 10;
    let mountpoint = mountpoint.to_owned();
    Arc::new(move || {
        let mountpoint = mountpoint.clone();
        let ask = move || {
            if let Err(e) = without_descriptors() {
                return tracing::warn!("requests may wait until the KMS answers others: {e}");
            }
            let (flags, mask) = (AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MTIME);
            let _ = rustix::fs::statx(rustix::fs::CWD, &mountpoint, flags, mask);
        };
        if let Err(e) = std::thread::Builder::new().name("kmsfs-nudge".into()).stack_size(STACK).spawn(ask) {
            tracing::warn!("requests may wait until the KMS answers others: no thread can be started: {e}");
        }
    })
}

/// Gives this thread a table of descriptors of its own, with none but the standard ones.
fn without_descriptors() -> io::Result<()> {
    // SAFETY: a call without pointers; descriptors that others own stay open in the process's table.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_UNSHARE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn spawn<T: Send + 'static>(name: String, f: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(f)
}

/// Twice the processors, 4 to 16: loops wait for the backing as often as they compute.
fn default_loops() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).clamp(4, 16)
}

fn mount_direct(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        let hint = "is the kernel module fuse loaded, and the device there? (modprobe fuse)";
        io::Error::new(io::Error::from(e).kind(), format!("cannot open /dev/fuse: {e}; {hint}"))
    })?;
    let root_mode = rustix::fs::stat(mountpoint)?.st_mode & libc::S_IFMT;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={uid},group_id={gid},default_permissions,max_read={}",
        fd.as_raw_fd(),
        super::MAX_WRITE
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = 0;
    for name in &options.flags {
        flags |= mount_flag(name)?;
    }
    if options.read_only {
        flags |= libc::MS_RDONLY;
    }
    let c = |bytes: &[u8]| std::ffi::CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (source, target) = (c(options.source.as_os_str().as_bytes())?, c(mountpoint.as_os_str().as_bytes())?);
    let (kind, data) = (c(FS_TYPE.as_bytes())?, c(data.as_bytes())?);
    // SAFETY: four C strings that live through the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    if done != 0 {
        let e = io::Error::last_os_error();
        return Err(io::Error::new(e.kind(), format!("cannot mount on {}: {e}", mountpoint.display())));
    }
    Ok(fd)
}

fn mount_flag(name: &str) -> io::Result<libc::c_ulong> {
    Ok(match name {
        "nosuid" => libc::MS_NOSUID,
        "nodev" => libc::MS_NODEV,
        "noexec" => libc::MS_NOEXEC,
        "noatime" => libc::MS_NOATIME,
        "suid" | "dev" | "exec" | "atime" | "rw" => 0,
        other => {
            let text = format!("unknown mount option {other:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    })
}

/// `fusermount3` mounts for those who may not, and sends the descriptor over a socket.
fn mount_with_helper(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut text = format!(
        "fsname={},subtype=kmsfs,default_permissions,max_read={}",
        options.source.display().to_string().replace('\\', "\\\\").replace(',', "\\,"),
        super::MAX_WRITE
    );
    for option in options
        .flags
        .iter()
        .map(String::as_str)
        .chain(options.read_only.then_some("ro"))
        .chain(options.allow_other.then_some("allow_other"))
    {
        text.push(',');
        text.push_str(option);
    }
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let output = Command::new("fusermount3")
        .arg("-o")
        .arg(text)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run fusermount3 (package fuse3): {e}")))?;
    drop(theirs);
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("fusermount3 refused to mount: {text}")));
    }
    receive_fd(&ours).inspect_err(|_| drop(give_up(mountpoint)))
}

fn receive_fd(socket: &std::os::unix::net::UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 8];
    // SAFETY: all zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to buffers of the lengths it says, which live through the call.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled the message's control part, which CMSG_FIRSTHDR bounds.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Err(io::Error::other("fusermount3 sent no descriptor"));
    }
    // SAFETY: a header that is not null is a whole one; SCM_RIGHTS carries one descriptor, which is ours from here on.
    unsafe {
        if (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("fusermount3 sent no descriptor"));
        }
        let fd: libc::c_int = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Unmounts; fails with EBUSY while files on it are open.
pub fn unmount(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW)?);
    }
    let output = Command::new("fusermount3").arg("-u").arg("--").arg(mountpoint).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Ends a mount that nobody serves: who waits for it gets an error.
fn give_up(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        // Forced, requests under way end; but it is refused while files are open.
        let _ = rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE);
        return Ok(rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?);
    }
    Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).stdin(Stdio::null()).output().map(drop)
}

/// Only root may; without it reading works, with more requests.
fn set_read_ahead(mountpoint: &Path) {
    let Ok(stat) = rustix::fs::stat(mountpoint) else { return };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(e) = std::fs::write(&path, READ_AHEAD_KB) {
        tracing::debug!("the mount's read-ahead stays as it is: {path}: {e}");
    }
}
