//! Errors of the file system, and the one place that turns them into errnos.

use rustix::io::Errno;

use crate::content::ContentError;
use crate::keys::KeyError;
use crate::kms::{KmsError, WrappedKey};
use crate::names::NameError;

pub type Result<T> = std::result::Result<T, FsError>;

/// A key that has to be had before an operation can go on.
#[derive(Debug)]
pub enum Wait {
    /// Any of these wrappings of the file's data key.
    Fetch(Vec<WrappedKey>),
    /// A new data key.
    New,
}

#[derive(Debug, thiserror::Error)]
pub enum FsError {
    #[error("the backing file system: {0}")]
    Backing(#[from] Errno),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the file's data key: {0}")]
    Key(KeyError),
    /// Not a failure: nothing has changed, and the call can be made again after the wait.
    #[error("a key has to be waited for")]
    Wait(Wait),
    #[error("the inode is not known any more, or its size is not what the kernel believes")]
    Stale,
    #[error("no such handle")]
    BadHandle,
    #[error("the mount is read-only")]
    ReadOnly,
    #[error("the entry lies in another file system, mounted below the backing directory")]
    OtherDevice,
    #[error("the file's header names no provider that this program knows")]
    NoWrapping,
    #[error("the directory has entries but no marker kmsfs.dir")]
    NoMarker,
    #[error("the directory's marker kmsfs.dir does not verify")]
    BadMarker,
    #[error("the second part of the symlink's target is missing beside it: {0}")]
    NoTargetRest(String),
    #[error("a key was had and lost again several times")]
    WaitedTooOften,
    #[error("a bug: the operation panicked")]
    Panic,
}

impl FsError {
    /// What the application gets.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Backing(e) => e.raw_os_error(),
            Self::Content(e) => content_errno(e),
            Self::Name(e) => match e {
                NameError::TooLong | NameError::TargetTooLong => libc::ENAMETOOLONG,
                NameError::Reserved | NameError::Illegal => libc::EINVAL,
                NameError::Unverified => libc::EIO,
            },
            Self::Key(e) => key_errno(e),
            // Never reaches an application: the adapter waits and calls again.
            Self::Wait(_) => libc::EAGAIN,
            // The kernel walks the path again and looks the inode up anew.
            Self::Stale => libc::ESTALE,
            Self::BadHandle => libc::EBADF,
            Self::ReadOnly => libc::EROFS,
            Self::OtherDevice => libc::EXDEV,
            Self::WaitedTooOften => libc::ETIMEDOUT,
            Self::NoWrapping | Self::NoMarker | Self::BadMarker | Self::NoTargetRest(_) | Self::Panic => libc::EIO,
        }
    }

    /// Logs what the errno can't tell: damage, and everything about keys. Ordinary refusals of the backing (no such
    /// entry, not empty, no right) are the application's to report. `path` gives where the file is stored.
    pub fn log(&self, op: &str, ino: u64, path: impl FnOnce() -> String) {
        match self {
            Self::Wait(_) => {}
            Self::Key(e) => {
                let kms = e.kms();
                tracing::error!(
                    op,
                    ino,
                    stored = path(),
                    code = kms.and_then(|kms| kms.code()),
                    request_id = kms.and_then(|kms| kms.request_id()),
                    errno = self.errno(),
                    "{self}"
                );
            }
            _ if self.errno() == libc::EIO || matches!(self, Self::Content(ContentError::Exhausted)) => {
                tracing::error!(op, ino, stored = path(), "{self}");
            }
            Self::Stale => tracing::info!(op, ino, "{self}"),
            _ => tracing::debug!(op, ino, errno = self.errno(), "{self}"),
        }
    }
}

fn content_errno(e: &ContentError) -> i32 {
    match e {
        ContentError::Backing(e) => e.raw_os_error(),
        ContentError::TooBig => libc::EFBIG,
        // Rounds were ended and all was synced, and yet there is no place: somebody else was faster, again and again.
        ContentError::RedoFull { .. } => libc::EAGAIN,
        // No nonce is left: there is room on the disk, yet none for this file.
        ContentError::Exhausted => libc::EDQUOT,
        ContentError::Header(_)
        | ContentError::Short
        | ContentError::WrongKey
        | ContentError::Record
        | ContentError::Cut { .. }
        | ContentError::Block { .. }
        | ContentError::Slot { .. }
        | ContentError::Missing { .. }
        | ContentError::Generations
        | ContentError::WrappingTooLong(_)
        | ContentError::NoKey => libc::EIO,
    }
}

/// "The service said no" is EACCES, "what was wrapped is gone" ENOKEY, "could not ask" ETIMEDOUT: the first two don't
/// change by waiting. A throttled or failing service was asked until the deadline, so it counts as not asked; so does
/// an answer that is none of the service's, as a proxy gives. A clock that is wrong is a refused signature.
fn key_errno(e: &KeyError) -> i32 {
    let kms = e.kms();
    if e.is_denied() || kms.is_some_and(KmsError::is_clock_skew) {
        libc::EACCES
    } else if e.is_gone() {
        libc::ENOKEY
    } else if e.is_unreachable() || e.is_outage() || matches!(kms, Some(KmsError::BadResponse { .. })) {
        libc::ETIMEDOUT
    } else {
        // A wrapped key that the service does not accept, an answer that can't be used: damage, or somebody lies.
        libc::EIO
    }
}
