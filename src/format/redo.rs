//! The redo file: ciphertext of blocks that are being overwritten (`docs/FORMAT.md` section 6). It has no order and no
//! MAC: a place counts only where a slot holds that very version, and the block opens under it.

use super::block::{Half, VERSION_LEN, Version};
use super::derived::{FileId, ID_LEN};
use super::layout::BLOCK_LEN;
use super::u64_at;

/// What stands before the page in a place: file_id 16 · block 8 · zero 8 · version 32.
pub const PLACE_HEAD_LEN: usize = 64;
pub const PLACE_LEN: usize = PLACE_HEAD_LEN + BLOCK_LEN;

/// Whose ciphertext a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceHead {
    pub file_id: FileId,
    pub block: u64,
    pub version: Version,
}

impl PlaceHead {
    pub fn to_bytes(&self) -> [u8; PLACE_HEAD_LEN] {
        let mut out = [0; PLACE_HEAD_LEN];
        out[..ID_LEN].copy_from_slice(&self.file_id);
        out[ID_LEN..24].copy_from_slice(&self.block.to_le_bytes());
        out[32..].copy_from_slice(&self.version.to_bytes());
        out
    }

    /// `None` for a place that was never used, or that no writer makes.
    ///
    /// # Panics
    /// If `bytes` does not have [`PLACE_HEAD_LEN`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        assert_eq!(bytes.len(), PLACE_HEAD_LEN);
        let version = match Half::from_bytes(&bytes[PLACE_HEAD_LEN - VERSION_LEN..]) {
            Half::Some(version) => version,
            Half::None | Half::Invalid => return None,
        };
        let file_id = bytes[..ID_LEN].try_into().expect("16 bytes");
        Some(Self { file_id, block: u64_at(bytes, ID_LEN), version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::{Kind, Meta};

    #[test]
    fn a_place_says_whose_it_is_and_an_unused_one_nobodys() {
        let meta = Meta { epoch: 7, kind: Kind::Data, seq: 200 };
        let head =
            PlaceHead { file_id: [3; 16], block: 1 << 33, version: Version { nonce: [1; 12], tag: [2; 16], meta } };
        assert_eq!(PlaceHead::from_bytes(&head.to_bytes()), Some(head));
        assert_eq!(PlaceHead::from_bytes(&[0; PLACE_HEAD_LEN]), None);
        assert_eq!(PlaceHead::from_bytes(&[0xff; PLACE_HEAD_LEN]), None);
    }
}
