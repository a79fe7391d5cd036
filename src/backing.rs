//! System calls on the backing directory: the one room through which all reads and writes of it go.
//!
//! Every function is one call or the loop that makes one call whole. Errors are the system's own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Statx, StatxFlags,
    Timestamps, Uid,
};
use rustix::io::Errno;

#[cfg(test)]
pub mod tap;

pub type Result<T> = std::result::Result<T, Errno>;

/// Unit tests make calls of this kind fail.
macro_rules! may_fail {
    ($kind:ident) => {
        #[cfg(test)]
        tap::ask(tap::Call::$kind)?;
    };
}

/// Makes one call that changes the backing directory. Unit tests record such calls, and make them fail.
macro_rules! changing {
    ($kind:ident, $call:expr, $change:expr) => {{
        may_fail!($kind);
        recorded!($call, $change)
    }};
}

/// Makes a call that unit tests record.
macro_rules! recorded {
    ($call:expr, $change:expr) => {{
        let done = $call;
        #[cfg(test)]
        if done.is_ok() {
            use tap::Change::*;
            tap::tell(|| $change);
        }
        done
    }};
}

/// Opens the backing directory itself.
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// An O_PATH descriptor of the entry `name` of `dir`, which must lie in the same file system; never follows a link.
pub fn open_entry(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    may_fail!(Open);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        // Kernels before 5.6: one component and NOFOLLOW already exclude links; mounts below are not noticed.
        Err(Errno::NOSYS) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        // A racing rename elsewhere in the tree makes the kernel give up: nothing was opened, so ask again.
        Err(Errno::AGAIN) => rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve),
        other => other,
    }
}

/// Opens again what `fd` (O_PATH or not) refers to.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    may_fail!(Open);
    rustix::fs::open(proc_path(fd), flags | OFlags::CLOEXEC, Mode::empty())
}

/// A directory opened for listing.
pub fn open_dir(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    may_fail!(Open);
    rustix::fs::openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a regular file for reading. Anything else is EINVAL, and is not opened: a FIFO would wait for ever for somebody
/// who writes, and a device may act.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    may_fail!(Open);
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(stat(fd.as_fd())?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    reopen(fd.as_fd(), OFlags::RDONLY)
}

/// Makes and opens a regular file that must not exist, for reading and writing.
pub fn create(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    changing!(
        Make,
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o7777)),
        Create { dir: tap::ino(dir), name: name.to_vec(), ino: tap::ino_of(dir, name) }
    )
}

pub fn mkdir(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<()> {
    changing!(
        Make,
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777)),
        Mkdir { dir: tap::ino(dir), name: name.to_vec(), ino: tap::ino_of(dir, name) }
    )
}

/// `mode` has the file type; `rdev` as `makedev` gives it.
pub fn mknod(dir: BorrowedFd<'_>, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
    may_fail!(Make);
    rustix::fs::mknodat(dir, name, rustix::fs::FileType::from_raw_mode(mode), Mode::from_raw_mode(mode & 0o7777), rdev)
}

pub fn symlink(target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    changing!(
        Make,
        rustix::fs::symlinkat(target, dir, name),
        Symlink { dir: tap::ino(dir), name: name.to_vec(), ino: tap::ino_of(dir, name), target: target.to_vec() }
    )
}

/// A hard link to what `fd` refers to.
pub fn link(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let link = || match rustix::fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH the kernel wants the way through /proc.
        Err(Errno::NOENT | Errno::PERM) => {
            rustix::fs::linkat(rustix::fs::CWD, proc_path(fd), dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    };
    changing!(Make, link(), Link { dir: tap::ino(dir), name: name.to_vec(), ino: tap::ino(fd) })
}

pub fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    changing!(
        Remove,
        rustix::fs::unlinkat(dir, name, AtFlags::empty()),
        Remove { dir: tap::ino(dir), name: name.to_vec() }
    )
}

pub fn rmdir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    changing!(
        Remove,
        rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR),
        Remove { dir: tap::ino(dir), name: name.to_vec() }
    )
}

pub fn rename(
    from: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
    new_name: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    let rename = || {
        if flags.is_empty() {
            rustix::fs::renameat(from, name, to, new_name)
        } else {
            rustix::fs::renameat_with(from, name, to, new_name, flags)
        }
    };
    changing!(
        Rename,
        rename(),
        Rename {
            from: (tap::ino(from), name.to_vec()),
            to: (tap::ino(to), new_name.to_vec()),
            exchange: flags.contains(RenameFlags::EXCHANGE)
        }
    )
}

/// The target of the symlink `name` of `dir`.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    may_fail!(ReadLink);
    // Room for the longest one: a smaller buffer would be filled again and again.
    Ok(rustix::fs::readlinkat(dir, name, Vec::with_capacity(4096))?.into_bytes())
}

/// The target of the symlink that `fd` (O_PATH) refers to.
pub fn read_link_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    read_link(fd, b"")
}

pub fn stat(fd: BorrowedFd<'_>) -> Result<Stat> {
    may_fail!(Stat);
    rustix::fs::fstat(fd)
}

/// The status of the entry `name` of `dir`, links not followed.
pub fn stat_entry(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    may_fail!(Stat);
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The same without times, which are not to be looked at: to ask for them makes the next change stamp the inode anew, and
/// a sync after it write the journal.
pub fn stat_but_times(fd: BorrowedFd<'_>) -> Result<Statx> {
    may_fail!(Stat);
    let wanted = StatxFlags::BASIC_STATS - StatxFlags::ATIME - StatxFlags::MTIME - StatxFlags::CTIME;
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)
}

pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    may_fail!(SetAttr);
    rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(mode & 0o7777))
}

pub fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    may_fail!(SetAttr);
    rustix::fs::chownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), AtFlags::EMPTY_PATH)
}

pub fn set_times(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
    may_fail!(SetAttr);
    rustix::fs::utimensat(fd, c"", times, AtFlags::EMPTY_PATH)
}

/// Sets the mtime to the one that `stat` has.
pub fn set_mtime(fd: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    may_fail!(SetAttr);
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let mtime = rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(fd, &Timestamps { last_access: omit, last_modification: mtime })
}

pub fn statvfs(fd: BorrowedFd<'_>) -> Result<rustix::fs::StatVfs> {
    may_fail!(Stat);
    rustix::fs::fstatvfs(fd)
}

/// Whose xattrs: O_PATH is refused by `fgetxattr` and its like, and by `getxattrat` with AT_EMPTY_PATH too (Linux 6.18), so
/// it takes the way through /proc, which costs some microseconds.
#[derive(Clone, Copy, Debug)]
pub enum XattrsOf<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// O_PATH, or anything.
    Path(BorrowedFd<'a>),
}

pub fn get_xattr(of: XattrsOf<'_>, name: &[u8], value: &mut [u8]) -> Result<usize> {
    may_fail!(ReadXattr);
    match of {
        XattrsOf::Open(fd) => rustix::fs::fgetxattr(fd, name, value),
        XattrsOf::Path(fd) => rustix::fs::getxattr(proc_path(fd), name, value),
    }
}

pub fn set_xattr(of: XattrsOf<'_>, name: &[u8], value: &[u8], flags: rustix::fs::XattrFlags) -> Result<()> {
    may_fail!(SetAttr);
    match of {
        XattrsOf::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
        XattrsOf::Path(fd) => rustix::fs::setxattr(proc_path(fd), name, value, flags),
    }
}

pub fn list_xattrs(of: XattrsOf<'_>, list: &mut [u8]) -> Result<usize> {
    may_fail!(ReadXattr);
    match of {
        XattrsOf::Open(fd) => rustix::fs::flistxattr(fd, list),
        XattrsOf::Path(fd) => rustix::fs::listxattr(proc_path(fd), list),
    }
}

pub fn remove_xattr(of: XattrsOf<'_>, name: &[u8]) -> Result<()> {
    may_fail!(SetAttr);
    match of {
        XattrsOf::Open(fd) => rustix::fs::fremovexattr(fd, name),
        XattrsOf::Path(fd) => rustix::fs::removexattr(proc_path(fd), name),
    }
}

/// Reads into `bufs` one after the other from `offset` on; fewer bytes than asked only at the file's end.
pub fn read_vectored_at(fd: BorrowedFd<'_>, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> Result<usize> {
    may_fail!(Read);
    let mut done = 0;
    let mut bufs = bufs;
    while !bufs.is_empty() {
        match rustix::io::preadv(fd, bufs, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                io::IoSliceMut::advance_slices(&mut bufs, n);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

pub fn read_at(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
    read_vectored_at(fd, &mut [io::IoSliceMut::new(buf)], offset)
}

/// Writes all of `bufs` one after the other from `offset` on. After an error any part may have been written.
pub fn write_vectored_at(fd: BorrowedFd<'_>, bufs: &mut [io::IoSlice<'_>], offset: u64) -> Result<()> {
    #[cfg(test)]
    tap::ask_to_write(fd, bufs, offset)?;
    let mut done = 0;
    let mut bufs = bufs;
    while !bufs.is_empty() {
        match write_some(fd, bufs, offset + done) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                done += n as u64;
                io::IoSlice::advance_slices(&mut bufs, n);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn write_some(fd: BorrowedFd<'_>, bufs: &[io::IoSlice<'_>], offset: u64) -> Result<usize> {
    #[cfg(test)]
    if let Some(written) = tap::write_short(fd, bufs, offset) {
        return written;
    }
    rustix::io::pwritev(fd, bufs, offset)
}

pub fn write_at(fd: BorrowedFd<'_>, buf: &[u8], offset: u64) -> Result<()> {
    write_vectored_at(fd, &mut [io::IoSlice::new(buf)], offset)
}

pub fn set_len(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    changing!(SetLen, rustix::fs::ftruncate(fd, len), SetLen { ino: tap::ino(fd), len })
}

/// Where the next stored data at or behind `offset` begins, `None` if there is none; a backing that can't tell says
/// `offset` itself. Moves the descriptor's position, which nobody uses.
pub fn next_data(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>> {
    may_fail!(Read);
    match rustix::fs::seek(fd, rustix::fs::SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(e) => Err(e),
    }
}

/// Makes sure that a range behind the end, or at it, has its space: allocated, or else written with zeros.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let allocated = changing!(
        Allocate,
        rustix::fs::fallocate(fd, FallocateFlags::empty(), offset, len),
        SetLen { ino: tap::ino(fd), len: offset + len }
    );
    match allocated {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = [0; 1 << 16];
            let mut at = offset;
            while at < offset + len {
                let n = (offset + len - at).min(zeros.len() as u64) as usize;
                write_at(fd, &zeros[..n], at)?;
                at += n as u64;
            }
            Ok(())
        }
        other => other,
    }
}

/// Gives a range inside a file its space, as far as the backing can.
pub fn reserve(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    may_fail!(Allocate);
    match rustix::fs::fallocate(fd, FallocateFlags::KEEP_SIZE, offset, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Gives the space of a range back. Backings that can't are left as they are: a hole's page does not count.
pub fn punch(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match changing!(Punch, rustix::fs::fallocate(fd, flags, offset, len), Punch { ino: tap::ino(fd), off: offset, len })
    {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

pub fn fdatasync(fd: BorrowedFd<'_>) -> Result<()> {
    #[cfg(test)]
    tap::ask_to_sync(Some(fd))?;
    recorded!(rustix::fs::fdatasync(fd), Sync { ino: tap::ino(fd) })
}

pub fn fsync(fd: BorrowedFd<'_>) -> Result<()> {
    #[cfg(test)]
    tap::ask_to_sync(Some(fd))?;
    recorded!(rustix::fs::fsync(fd), Sync { ino: tap::ino(fd) })
}

/// Lets the system begin to write a file's pages back, without waiting. No barrier; what fails is told by the next one.
pub fn start_write_back(fd: BorrowedFd<'_>) {
    // SAFETY: no memory is passed.
    unsafe { libc::sync_file_range(fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes the whole backing file system durable.
pub fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    #[cfg(test)]
    tap::ask_to_sync(None)?;
    recorded!(rustix::fs::syncfs(fd), SyncAll)
}

/// Syncs the directory that an O_PATH descriptor refers to.
pub fn sync_dir(fd: BorrowedFd<'_>) -> Result<()> {
    fsync(open_dir(fd)?.as_fd())
}

/// One entry of a directory as the backing lists it.
pub struct RawEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: rustix::fs::FileType,
    /// The position behind this entry.
    pub next: u64,
}

/// Lists `dir` from `position` (0 or some entry's `next`) until `each` returns false or the end.
/// `buf` bounds how much is read ahead of what `each` takes.
pub fn list_dir(
    dir: BorrowedFd<'_>,
    position: u64,
    buf: &mut Vec<u8>,
    mut each: impl FnMut(RawEntry<'_>) -> bool,
) -> Result<()> {
    may_fail!(List);
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(position))?;
    let mut raw = rustix::fs::RawDir::new(dir, buf.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let next = entry.next_entry_cookie();
        if !each(RawEntry { name, ino: entry.ino(), kind: entry.file_type(), next }) {
            break;
        }
    }
    Ok(())
}

/// Reads a whole small file of a directory, at most `max` bytes.
pub fn read_file(dir: BorrowedFd<'_>, name: &str, max: usize) -> Result<Vec<u8>> {
    let fd = open_file(dir, name.as_bytes())?;
    let mut out = vec![0; max + 1];
    let n = read_at(fd.as_fd(), &mut out, 0)?;
    if n > max {
        return Err(Errno::FBIG);
    }
    out.truncate(n);
    Ok(out)
}

/// Puts `bytes` durably in the place of `name`: a temporary name, fsync, rename, fsync of the directory.
pub fn replace_file(dir: BorrowedFd<'_>, name: &str, tmp: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let fd = create(dir, tmp.as_bytes(), mode)?;
    let written = write_at(fd.as_fd(), bytes, 0)
        .and_then(|()| fsync(fd.as_fd()))
        .and_then(|()| rename(dir, tmp.as_bytes(), dir, name.as_bytes(), RenameFlags::empty()));
    if written.is_err() {
        let _ = unlink(dir, tmp.as_bytes());
        return written;
    }
    fsync(dir)
}

/// Tries to lock byte 0 of `fd` (OFD lock), exclusively or shared; false if somebody else holds it.
pub fn try_lock(fd: BorrowedFd<'_>, exclusive: bool) -> Result<bool> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    // SAFETY: all zeros are a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_len = 1;
    // SAFETY: the descriptor is borrowed for the call and the kernel only reads `lock`.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(true);
    }
    match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Some(e) => Err(e),
        None => Err(Errno::IO),
    }
}

/// Creates or opens the lock file; does not wait where that is none.
pub fn open_lock_file(dir: BorrowedFd<'_>, name: &str, read_only: bool) -> Result<OwnedFd> {
    let flags = if read_only { OFlags::RDONLY } else { OFlags::RDWR | OFlags::CREATE };
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
}

/// Sets the umask of the calling thread, which gets one of its own at the first call. False if the system refuses:
/// the process' umask stays in force.
pub fn set_thread_umask(umask: u32) -> bool {
    thread_local! {
        static OWN: bool = {
            // SAFETY: CLONE_FS alone: this thread's umask and working directory part from the other threads'.
            unsafe { libc::unshare(libc::CLONE_FS) == 0 }
        };
    }
    if !OWN.with(|own| *own) {
        return false;
    }
    rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    true
}

/// How many descriptors this process may have.
pub fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// The path that a descriptor has now.
pub fn path_of(fd: BorrowedFd<'_>) -> Option<std::path::PathBuf> {
    std::fs::read_link(proc_path(fd)).ok()
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
