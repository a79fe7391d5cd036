//! What is on disk for sure (`docs/FORMAT.md` sections 6 and 8): the sessions of a volume, and the redo file that keeps
//! ciphertext of blocks which are being overwritten. The rounds themselves, which say what waits for a barrier, are kept
//! with each file's content; `fs::rounds` ends them in time.
//!
//! Lock order: a file's content lock, then [`Sessions::change`], then the list of sessions or the redo file's places.

pub mod barriers;
pub mod redo;
pub mod sessions;

pub use barriers::Barriers;
pub use redo::{Redo, RedoError};
pub use sessions::{Sessions, Standing, StateError};

/// What a power cut may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Every fsynced byte reads as fsynced or as written later; overwritten blocks are written twice.
    Safe,
    /// As safe as file systems that overwrite in place: a block that was being overwritten may be lost.
    Fast,
}
