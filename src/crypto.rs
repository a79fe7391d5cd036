//! Primitives: secrets, randomness, key derivation, AEAD, SIV. No I/O, and no knowledge of the format.
//!
//! A [`Suite`] names a closed set of primitives (`docs/FORMAT.md` section 2): AES-256-GCM with SHA-256, or SM4-GCM
//! with SM3. Nothing is mixed.

pub mod aead;
pub mod derive;
pub mod hands;
pub mod random;
pub mod secret;
pub mod siv;
pub mod sm4;

use std::fmt;
use std::str::FromStr;

/// The primitives of a volume (`docs/FORMAT.md` section 2). The number is the one in file headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-256-GCM, SHA-256, HMAC-SHA-256, AES-SIV with a 64-byte key.
    Aes256Gcm = 1,
    /// SM4-GCM (RFC 8998), SM3, HMAC-SM3, the SIV construction over SM4 with a 32-byte key.
    Sm4Gcm = 2,
}

impl Suite {
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::Sm4Gcm),
            _ => None,
        }
    }

    pub fn number(self) -> u8 {
        self as u8
    }

    /// Bytes of a data key and of a block cipher key: 32 or 16.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes256Gcm => 32,
            Self::Sm4Gcm => 16,
        }
    }

    /// Bytes of a SIV key: twice the cipher key.
    pub fn siv_key_len(self) -> usize {
        2 * self.key_len()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Sm4Gcm => "sm4-gcm",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            "sm4-gcm" => Ok(Self::Sm4Gcm),
            other => Err(format!("unknown suite {other:?}: use aes-256-gcm or sm4-gcm")),
        }
    }
}

/// Bytes did not verify under a key: they are damaged, forged, misplaced, or the key is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data does not verify")]
pub struct Unverified;
