//! What makes a process a daemon that holds keys: into the background, no core dumps, enough descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::process::{Resource, Rlimit};

use crate::cli::exit_code::Exit;

/// No core dumps, no ptrace by others, as much locked memory as there may be.
pub fn harden() {
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // SAFETY: a call without pointers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    raise(Resource::Memlock, None);
}

/// As many descriptors as the system allows: each inode that the kernel knows holds one.
pub fn raise_descriptors() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    raise(Resource::Nofile, most);
}

/// Raises the soft limit to the hard one, and the hard one too where that is allowed.
fn raise(resource: Resource, most: Option<u64>) {
    let wanted = Rlimit { current: most, maximum: most };
    if rustix::process::setrlimit(resource, wanted).is_err() {
        let limit = rustix::process::getrlimit(resource);
        let _ = rustix::process::setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// The child's end of the line to the waiting parent.
pub struct Ready(Option<File>);

impl Ready {
    /// For a process in the foreground: nobody waits.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Lets the parent go with success, and lets go of the terminal.
    pub fn tell(&mut self) {
        if let Some(mut pipe) = self.0.take() {
            let _ = pipe.write_all(&[0]);
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = rustix::stdio::dup2_stdin(null.as_fd());
                let _ = rustix::stdio::dup2_stdout(null.as_fd());
                let _ = rustix::stdio::dup2_stderr(null.as_fd());
            }
        }
    }
}

/// What [`into_background`] returns as.
pub enum Side {
    /// The process that goes on.
    Daemon(Ready),
    /// The one that was called: the daemon is ready, or ended with this code after saying why.
    Caller(Option<u8>),
}

/// Forks. To be called while the process has one thread and no secrets.
pub fn into_background() -> std::io::Result<Side> {
    let (mut read, write) = pipe()?;
    // SAFETY: the process has one thread, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            drop(read);
            let _ = rustix::process::setsid();
            Ok(Side::Daemon(Ready(Some(write))))
        }
        child => {
            drop(write);
            let mut byte = [0];
            if read.read(&mut byte)? == 1 {
                return Ok(Side::Caller(None));
            }
            let pid = rustix::process::Pid::from_raw(child);
            let status = pid.and_then(|pid| {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok().flatten()
            });
            let code = status.and_then(|(_, status)| status.exit_status()).map_or(Exit::Other as u8, |code| code as u8);
            Ok(Side::Caller(Some(code)))
        }
    }
}

fn pipe() -> std::io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: an array of two, which the call fills.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made both, and nobody else owns them.
    unsafe { Ok((File::from(OwnedFd::from_raw_fd(fds[0])), File::from(OwnedFd::from_raw_fd(fds[1])))) }
}
