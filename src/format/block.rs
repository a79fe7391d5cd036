//! Slots: the versions of a block, and how a block is sealed (`docs/FORMAT.md` section 5.4).

use crate::crypto::aead::{AeadKey, NONCE_LEN, NonceBytes, TAG_LEN, Tag};
use crate::crypto::{Unverified, random};

use super::layout::SLOT_LEN;

pub const VERSION_LEN: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Data = 1,
    Hole = 2,
}

/// What a version says of itself beside its nonce and tag; authenticated with the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub epoch: u16,
    pub kind: Kind,
    pub seq: u8,
}

impl Meta {
    fn to_bytes(self) -> [u8; 4] {
        let [lo, hi] = self.epoch.to_le_bytes();
        [lo, hi, self.kind as u8, self.seq]
    }
}

/// One version of a block: 32 bytes in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub nonce: NonceBytes,
    pub tag: Tag,
    pub meta: Meta,
}

impl Version {
    pub fn to_bytes(&self) -> [u8; VERSION_LEN] {
        let mut out = [0; VERSION_LEN];
        out[..12].copy_from_slice(&self.nonce);
        out[12..28].copy_from_slice(&self.tag);
        out[28..].copy_from_slice(&self.meta.to_bytes());
        out
    }
}

/// One half of a slot as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// 32 zero bytes.
    None,
    Some(Version),
    /// Bytes that no writer makes.
    Invalid,
}

impl Half {
    /// # Panics
    /// If `bytes` has fewer than [`VERSION_LEN`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        if bytes.iter().all(|&b| b == 0) {
            return Self::None;
        }
        let kind = match bytes[30] {
            1 => Kind::Data,
            2 => Kind::Hole,
            _ => return Self::Invalid,
        };
        Self::Some(Version {
            nonce: bytes[..NONCE_LEN].try_into().expect("12 bytes"),
            tag: bytes[NONCE_LEN..NONCE_LEN + TAG_LEN].try_into().expect("16 bytes"),
            meta: Meta { epoch: u16::from_le_bytes([bytes[28], bytes[29]]), kind, seq: bytes[31] },
        })
    }

    fn data(&self) -> Option<&Version> {
        match self {
            Self::Some(version) if version.meta.kind == Kind::Data => Some(version),
            _ => None,
        }
    }
}

/// The two versions of a block, as they were read; nothing here is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub halves: [Half; 2],
}

/// What a slot says, by its shape alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No version.
    Empty,
    /// One hole mark, alone.
    Hole(Version),
    /// One or two data versions: the halves to try, the newer first.
    Data { newer: usize, older: Option<usize> },
    /// Anything else.
    Invalid,
}

impl Slot {
    pub const EMPTY: Self = Self { halves: [Half::None, Half::None] };

    /// # Panics
    /// If `bytes` does not have [`SLOT_LEN`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), SLOT_LEN);
        Self { halves: [Half::from_bytes(&bytes[..VERSION_LEN]), Half::from_bytes(&bytes[VERSION_LEN..])] }
    }

    pub fn shape(&self) -> Shape {
        match (&self.halves[0], &self.halves[1]) {
            (Half::None, Half::None) => Shape::Empty,
            (Half::Some(mark), Half::None) | (Half::None, Half::Some(mark)) if mark.meta.kind == Kind::Hole => {
                Shape::Hole(*mark)
            }
            (a, b) => match (a.data(), b.data()) {
                (Some(a), Some(b)) if a.meta.seq == b.meta.seq.wrapping_add(1) => {
                    Shape::Data { newer: 0, older: Some(1) }
                }
                (Some(_), Some(_)) => Shape::Data { newer: 1, older: Some(0) },
                (Some(_), None) if *b == Half::None => Shape::Data { newer: 0, older: None },
                (None, Some(_)) if *a == Half::None => Shape::Data { newer: 1, older: None },
                _ => Shape::Invalid,
            },
        }
    }

    /// The version at `half`, which [`Shape::Data`] named.
    pub fn version(&self, half: usize) -> Option<&Version> {
        self.halves[half].data()
    }
}

/// The nonces of one request: one random 96-bit start, then + 1 for each seal (`docs/FORMAT.md` section 5.3).
/// Made once the request's data is in hand, never kept for another.
#[derive(Debug)]
pub struct Nonces(Option<u128>);

impl Nonces {
    /// Asks for randomness at the first nonce: many a request has all its blocks sealed before.
    pub fn for_request() -> Self {
        Self(None)
    }

    pub fn take(&mut self) -> NonceBytes {
        let next = *self.0.get_or_insert_with(|| {
            let mut wide = [0; 16];
            random::fill(&mut wide[..NONCE_LEN]);
            u128::from_le_bytes(wide)
        });
        self.0 = Some(next.wrapping_add(1) & ((1 << 96) - 1));
        next.to_le_bytes()[..NONCE_LEN].try_into().expect("12 bytes")
    }
}

/// The associated data of a version, made here alone: block number and the version's last four bytes.
fn aad(block: u64, meta: Meta) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&block.to_le_bytes());
    out[8..].copy_from_slice(&meta.to_bytes());
    out
}

/// Seals a whole block in place.
pub fn seal_block(key: &AeadKey, block: u64, meta: Meta, nonces: &mut Nonces, data: &mut [u8]) -> Version {
    seal_with(key, block, meta, nonces.take(), data)
}

/// Seals a whole block in place. `nonce` was taken for it from the request's [`Nonces`] **and for nothing else**.
pub fn seal_with(key: &AeadKey, block: u64, meta: Meta, nonce: NonceBytes, data: &mut [u8]) -> Version {
    let tag = key.seal(&nonce, &aad(block, meta), data);
    Version { nonce, tag, meta }
}

/// A hole mark: the seal of an empty plaintext.
pub fn seal_hole(key: &AeadKey, block: u64, epoch: u16, seq: u8, nonces: &mut Nonces) -> Version {
    seal_block(key, block, Meta { epoch, kind: Kind::Hole, seq }, nonces, &mut [])
}

/// Opens a whole block in place. After an error `data` is unspecified.
pub fn open_block(key: &AeadKey, block: u64, version: &Version, data: &mut [u8]) -> Result<(), Unverified> {
    key.open(&version.nonce, &aad(block, version.meta), &version.tag, data)
}

/// Checks a hole mark.
pub fn verify_hole(key: &AeadKey, block: u64, mark: &Version) -> Result<(), Unverified> {
    open_block(key, block, mark, &mut [])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(kind: Kind, seq: u8) -> Version {
        Version { nonce: [1; 12], tag: [2; 16], meta: Meta { epoch: 3, kind, seq } }
    }

    fn slot(a: Option<Version>, b: Option<Version>) -> Slot {
        let half = |v: Option<Version>| v.map_or(Half::None, Half::Some);
        Slot { halves: [half(a), half(b)] }
    }

    #[test]
    fn the_newer_is_one_ahead_also_round_the_corner() {
        let data = |seq| Some(version(Kind::Data, seq));
        assert_eq!(slot(data(5), data(4)).shape(), Shape::Data { newer: 0, older: Some(1) });
        assert_eq!(slot(data(4), data(5)).shape(), Shape::Data { newer: 1, older: Some(0) });
        assert_eq!(slot(data(0), data(255)).shape(), Shape::Data { newer: 0, older: Some(1) });
        assert_eq!(slot(data(255), data(0)).shape(), Shape::Data { newer: 1, older: Some(0) });
        assert_eq!(slot(data(9), None).shape(), Shape::Data { newer: 0, older: None });
        assert_eq!(slot(None, data(9)).shape(), Shape::Data { newer: 1, older: None });
    }

    #[test]
    fn a_mark_counts_only_alone() {
        let mark = version(Kind::Hole, 1);
        assert_eq!(slot(Some(mark), None).shape(), Shape::Hole(mark));
        assert_eq!(slot(None, Some(mark)).shape(), Shape::Hole(mark));
        assert_eq!(slot(Some(mark), Some(version(Kind::Data, 0))).shape(), Shape::Invalid);
        assert_eq!(slot(Some(mark), Some(mark)).shape(), Shape::Invalid);
        assert_eq!(slot(None, None).shape(), Shape::Empty);
    }

    #[test]
    fn nonces_of_a_request_count_up() {
        let mut nonces = Nonces(Some((1 << 96) - 1));
        assert_eq!(nonces.take(), [0xff; 12]);
        assert_eq!(nonces.take(), [0; 12]);
        assert_ne!(Nonces::for_request().take(), Nonces::for_request().take());
    }

    proptest! {
        #[test]
        fn versions_survive_writing(nonce in any::<[u8; 12]>(), tag in any::<[u8; 16]>(), epoch in any::<u16>(), seq in any::<u8>(), hole in any::<bool>()) {
            let kind = if hole { Kind::Hole } else { Kind::Data };
            let v = Version { nonce, tag, meta: Meta { epoch, kind, seq } };
            prop_assert_eq!(Half::from_bytes(&v.to_bytes()), Half::Some(v));
        }

        #[test]
        fn any_bytes_have_a_shape(bytes in proptest::collection::vec(any::<u8>(), SLOT_LEN)) {
            Slot::from_bytes(&bytes).shape();
        }
    }
}
