//! Primitives: secrets, randomness, key derivation, AEAD, SIV. No I/O, and no knowledge of the format.

pub mod secret;
