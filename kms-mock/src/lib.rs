//! A stand-in for the CTyun KMS: its API, its signatures, its error table.

#![forbid(unsafe_code)]

pub mod auth;
pub mod blob;
pub mod clock;
pub mod error;
pub mod fields;
pub mod key;
