//! File systems of a test's own, in images: root and loop devices are needed.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::mounted::text;

/// Why there can be no file system of this kind in an image.
pub fn no_loop(mkfs: &str) -> Option<String> {
    if !Path::new("/dev/loop-control").exists() {
        return Some("a loop device (/dev/loop-control)".into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    if dirs.any(|dir: PathBuf| dir.join(mkfs).is_file()) { None } else { Some(mkfs.into()) }
}

/// A system tool, also where the user's path does not lead to it.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(std::process::Stdio::null());
    command
}

/// Runs a tool that has to succeed.
pub fn run(command: &mut Command) {
    let done = command.output().expect("it runs");
    assert!(done.status.success(), "{command:?}: {}", text(&done));
}

/// ext4 with a journal in an image, which may lie in a small tmpfs; both are unmounted on drop, whoever uses them.
pub struct Ext4 {
    dir: TempDir,
    in_memory: bool,
}

impl Ext4 {
    pub fn new(len: u64) -> Self {
        Self::make(len, None)
    }

    /// An image of `len` bytes, sparse, in a tmpfs that has `room`.
    pub fn in_tmpfs(len: u64, room: u64) -> Self {
        Self::make(len, Some(room))
    }

    fn make(len: u64, room: Option<u64>) -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-image-").tempdir().expect("a temporary directory");
        let new = Self { dir, in_memory: room.is_some() };
        fs::create_dir(new.root()).unwrap();
        fs::create_dir(new.below()).unwrap();
        if let Some(room) = room {
            run(tool("mount").args(["-t", "tmpfs", "-o", &format!("mode=755,size={room}"), "none"]).arg(new.below()));
        }
        File::create(new.image()).unwrap().set_len(len).unwrap();
        // What is not written has no place in the image.
        let lazily = "lazy_itable_init=1,nodiscard";
        run(tool("mkfs.ext4").args(["-q", "-F", "-m", "0", "-b", "4096", "-E", lazily]).arg(new.image()));
        new.mount();
        new
    }

    /// Where the image is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Where the image lies.
    pub fn below(&self) -> PathBuf {
        self.dir.path().join("below")
    }

    fn image(&self) -> PathBuf {
        self.below().join("image")
    }

    /// Plays the journal back, where one was left.
    pub fn mount(&self) {
        run(tool("mount").args(["-o", "loop,noinit_itable"]).arg(self.image()).arg(self.root()));
    }

    /// Once nobody uses it.
    pub fn unmount(&self) {
        super::wait_until("the image is unmounted", std::time::Duration::from_secs(20), || {
            unmount(self.root(), UnmountFlags::empty()).is_ok()
        });
    }

    /// Out of sight, though it is in use.
    pub fn unmount_lazily(&self) {
        unmount(self.root(), UnmountFlags::DETACH).unwrap();
    }

    /// Mends the file system itself, as at boot.
    pub fn fsck(&self) {
        let done = tool("fsck.ext4").args(["-f", "-y"]).arg(self.image()).output().expect("it runs");
        assert!(done.status.code().is_some_and(|code| code < 4), "{}", text(&done));
    }

    /// From now on every call that needs the disk gives EIO, as if it were pulled out: nothing more is written.
    pub fn shut_down(&self) {
        const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(self.root()).unwrap();
        // SAFETY: the request reads one u32.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
        assert_eq!(done, 0, "shutting down: {}", std::io::Error::last_os_error());
    }

    /// The kernel gives up on it, as after an error in its structures: read-only from now on.
    pub fn abort(&self) {
        run(tool("mount").args(["-o", "remount,abort,errors=remount-ro"]).arg(self.root()));
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let take_away = |at: PathBuf| {
            let _ = unmount(&at, UnmountFlags::empty()).or_else(|_| unmount(&at, UnmountFlags::DETACH));
        };
        take_away(self.root());
        if self.in_memory {
            take_away(self.below());
        }
    }
}
