//! On-disk bytes, format version 1 (`docs/FORMAT.md`): where things lie and how they are written and parsed. No I/O.
//!
//! Untrusted bytes become a type that exists only when they verify; what does not verify is a value, never a panic.

pub mod block;
pub mod derived;
pub mod file_header;
pub mod layout;
pub mod record;
pub mod redo;
pub mod state;
pub mod volume;

/// Names of the files that the format keeps in the backing directory; user names never begin with [`RESERVED`].
pub const RESERVED: &[u8] = b"kmsfs.";
pub const VOLUME_FILE: &str = "kmsfs.volume";
pub const STATE_FILE: &str = "kmsfs.state";
pub const LOCK_FILE: &str = "kmsfs.lock";
pub const TMP_PREFIX: &str = "kmsfs.tmp.";
pub const REDO_PREFIX: &str = "kmsfs.redo.";
/// The marker of a directory: a symlink to its id and MAC.
pub const DIR_MARKER: &str = "kmsfs.dir";
pub const LONG_PREFIX: &[u8] = b"kmsfs.long.";
/// Behind the entry's name: the link that holds the whole stored name.
pub const LONG_LINK_SUFFIX: &[u8] = b".name";
/// The link that holds the second part of a symlink's target.
pub const TARGET_LINK_SUFFIX: &[u8] = b".target";

/// Whether an entry of a directory is a link that belongs to another entry and names nothing by itself.
pub fn is_long_link(entry: &[u8]) -> bool {
    entry.starts_with(LONG_PREFIX) && (entry.ends_with(LONG_LINK_SUFFIX) || entry.ends_with(TARGET_LINK_SUFFIX))
}

/// A little-endian u32 at `at`; the caller knows that `bytes` reaches so far.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A little-endian u64 at `at`; the caller knows that `bytes` reaches so far.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
