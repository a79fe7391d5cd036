//! kmsfs: a transparent encrypted file system whose keys a KMS controls.
//!
//! The rooms, from the top: `command → fuse → fs → (content | names | keys) → (format | crypto | kms | backing)`.
//! Each uses only rooms below it; `docs/DESIGN.md` has the picture.

pub mod config;
pub mod crypto;
pub mod keys;
pub mod kms;
