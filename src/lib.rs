//! kmsfs: a transparent encrypted file system whose keys a KMS controls.
//!
//! The rooms, from the top: `command → fuse → fs → (content | names | keys) → (format | crypto | kms | backing)`.
//! Each uses only rooms below it; `docs/DESIGN.md` has the picture.

pub mod backing;
pub mod cli;
pub mod command;
pub mod config;
pub mod content;
pub mod crypto;
pub mod durable;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod keys;
pub mod kms;
pub mod names;
