//! `kmsfs umount`: unmounts, and returns when the daemon has ended.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::backing;
use crate::cli::Umount;
use crate::cli::exit_code::Exit;
use crate::format::LOCK_FILE;
use crate::fuse::session;

use super::{OrExit, Outcome, fail};

/// How long the daemon may take to make everything durable.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(args: &Umount) -> Outcome {
    let path = &args.mountpoint;
    let Some(source) = source_of(path) else {
        return fail(Exit::Usage, format!("{} is not a kmsfs mount", path.display()));
    };
    let lock = source.join(LOCK_FILE);
    let holders = super::volume::pids_with(&lock);
    session::unmount(path).map_err(|e| {
        let hint = if e.raw_os_error() == Some(libc::EBUSY) {
            " (some program has a file open there or works in it: see `fuser -vm`)"
        } else {
            ""
        };
        super::Failure { exit: Exit::InUse, error: anyhow::anyhow!("cannot unmount {}: {e}{hint}", path.display()) }
    })?;
    wait_for_daemon(&source, &lock, &holders)
}

/// The daemon has ended when nobody holds the lock, or one of those who held it is gone: read-only mounts share it.
fn wait_for_daemon(source: &Path, lock: &Path, holders: &[u32]) -> Outcome {
    let Ok(root) = backing::open_root(source) else { return Ok(()) };
    let Ok(file) = backing::open_lock_file(root.as_fd(), LOCK_FILE, true) else { return Ok(()) };
    let until = Instant::now() + PATIENCE;
    loop {
        let left = super::volume::pids_with(lock);
        if holders.iter().any(|pid| !left.contains(pid)) {
            return Ok(());
        }
        // A shared lock suffices to know that nobody holds it exclusively; who else reads can't be told apart.
        let free = backing::try_lock(file.as_fd(), false);
        if holders.is_empty() && free.or_exit(Exit::Other, "cannot see whether the daemon has ended")? {
            return Ok(());
        }
        if Instant::now() > until {
            return fail(Exit::Other, "unmounted, but the daemon has not ended yet: its log says what it waits for");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The backing directory of the kmsfs mount at `path`, the last one if several lie there.
fn source_of(path: &Path) -> Option<PathBuf> {
    // Not canonicalize() alone: a mount whose daemon died answers no stat.
    let wanted = path.canonicalize().or_else(|_| std::path::absolute(path)).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mountpoint = unescape(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next()?);
        (kind == session::FS_TYPE && mountpoint == wanted).then(|| unescape(source))
    })
}

/// `\040` and the like, as the kernel writes spaces and other separators.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(r"/plain\"), Path::new("/plain\\"));
    }
}
