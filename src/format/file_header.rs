//! The header of a stored file: its id and the wrappings of its data key (`docs/FORMAT.md` section 5.2).

use crate::crypto::Suite;
use crate::crypto::derive::MacKey;
use crate::crypto::random;

use super::derived::{FileId, ID_LEN};
use super::layout::HEADER_LEN;
use super::u32_at;

const MAGIC: [u8; 8] = *b"KMSFS\0\0\x01";
const WRAPPINGS_AT: usize = 48;
const MAC_AT: usize = 992;
/// The provider number of CTyun.
pub const PROVIDER_CTYUN: u8 = 1;

/// One wrapping of a data key, spelt as the KMS spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapping {
    pub provider: u8,
    pub key_id: String,
    pub key_version: String,
    pub blob: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    pub generation: u32,
    pub file_id: FileId,
    pub key_check: [u8; 16],
    /// At least one.
    pub wrappings: Vec<Wrapping>,
}

/// Why a header copy is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("no header magic: not a kmsfs file, or its first page is damaged")]
    Magic,
    #[error("the header does not verify under this volume's key")]
    Mac,
    #[error("the header names another suite, or flags or fields of no known format")]
    Fields,
}

/// The wrappings do not fit into a header copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped keys take more than the {} bytes that a header has for them", MAC_AT - WRAPPINGS_AT)]
pub struct TooLong;

impl FileHeader {
    /// A header of a new file, with a random id; the key check is the caller's to set.
    pub fn new(wrappings: Vec<Wrapping>) -> Self {
        Self { generation: 1, file_id: random::bytes::<ID_LEN>(), key_check: [0; 16], wrappings }
    }

    /// Parses one copy, after its MAC was verified.
    ///
    /// # Panics
    /// If `bytes` does not have [`HEADER_LEN`] bytes.
    pub fn from_bytes(suite: Suite, key: &MacKey, bytes: &[u8]) -> Result<Self, HeaderError> {
        assert_eq!(bytes.len(), HEADER_LEN);
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        key.verify(&[&bytes[..MAC_AT]], &bytes[MAC_AT..]).map_err(|_| HeaderError::Mac)?;
        if bytes[12] != suite.number() || bytes[14..16] != [0, 0] {
            return Err(HeaderError::Fields);
        }
        let mut rest = &bytes[WRAPPINGS_AT..MAC_AT];
        let mut wrappings = Vec::new();
        for _ in 0..bytes[13] {
            wrappings.push(take_wrapping(&mut rest).ok_or(HeaderError::Fields)?);
        }
        if wrappings.is_empty() || rest.iter().any(|&b| b != 0) {
            return Err(HeaderError::Fields);
        }
        Ok(Self {
            generation: u32_at(bytes, 8),
            file_id: bytes[16..32].try_into().expect("16 bytes"),
            key_check: bytes[32..48].try_into().expect("16 bytes"),
            wrappings,
        })
    }

    pub fn to_bytes(&self, suite: Suite, key: &MacKey) -> Result<[u8; HEADER_LEN], TooLong> {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.generation.to_le_bytes());
        out[12] = suite.number();
        out[13] = u8::try_from(self.wrappings.len()).map_err(|_| TooLong)?;
        out[16..32].copy_from_slice(&self.file_id);
        out[32..48].copy_from_slice(&self.key_check);
        let mut at = WRAPPINGS_AT;
        for w in &self.wrappings {
            put(&mut out, &mut at, &[w.provider])?;
            for text in [&w.key_id, &w.key_version, &w.blob] {
                put(&mut out, &mut at, &u16::try_from(text.len()).map_err(|_| TooLong)?.to_le_bytes())?;
                put(&mut out, &mut at, text.as_bytes())?;
            }
        }
        let mac = key.mac(&[&out[..MAC_AT]]);
        out[MAC_AT..].copy_from_slice(&mac);
        Ok(out)
    }

    /// The header of a file's first page: the valid copy of the higher generation.
    ///
    /// # Errors
    /// The error of copy 0 if neither is valid.
    pub fn choose(suite: Suite, key: &MacKey, page: &[u8]) -> Result<Self, HeaderError> {
        let copies = [
            Self::from_bytes(suite, key, &page[..HEADER_LEN]),
            Self::from_bytes(suite, key, &page[HEADER_LEN..2 * HEADER_LEN]),
        ];
        match copies {
            [Ok(a), Ok(b)] => Ok(if b.generation > a.generation { b } else { a }),
            [Ok(a), Err(_)] => Ok(a),
            [Err(_), Ok(b)] => Ok(b),
            [Err(e), Err(_)] => Err(e),
        }
    }
}

fn put(out: &mut [u8; HEADER_LEN], at: &mut usize, bytes: &[u8]) -> Result<(), TooLong> {
    let end = *at + bytes.len();
    if end > MAC_AT {
        return Err(TooLong);
    }
    out[*at..end].copy_from_slice(bytes);
    *at = end;
    Ok(())
}

fn take_wrapping(rest: &mut &[u8]) -> Option<Wrapping> {
    let (&provider, tail) = rest.split_first()?;
    *rest = tail;
    let mut text = || {
        let (len, tail) = rest.split_first_chunk::<2>()?;
        let (bytes, tail) = tail.split_at_checked(u16::from_le_bytes(*len) as usize)?;
        *rest = tail;
        String::from_utf8(bytes.to_vec()).ok()
    };
    Some(Wrapping { provider, key_id: text()?, key_version: text()?, blob: text()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;
    use proptest::prelude::*;

    fn key() -> MacKey {
        MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[5; 32]).expect("fits"))
    }

    fn wrapping() -> impl Strategy<Value = Wrapping> {
        ("[a-f0-9-]{0,36}", "[a-f0-9-]{0,36}", "[A-Za-z0-9+/=]{0,220}")
            .prop_map(|(key_id, key_version, blob)| Wrapping { provider: PROVIDER_CTYUN, key_id, key_version, blob })
    }

    proptest! {
        #[test]
        fn headers_survive_writing_and_no_bit_may_change(
            wrappings in proptest::collection::vec(wrapping(), 1..4), generation in any::<u32>(),
            file_id in any::<[u8; 16]>(), key_check in any::<[u8; 16]>(), bit in 0..HEADER_LEN * 8,
        ) {
            let header = FileHeader { generation, file_id, key_check, wrappings };
            if let Ok(mut bytes) = header.to_bytes(Suite::Aes256Gcm, &key()) {
                prop_assert_eq!(FileHeader::from_bytes(Suite::Aes256Gcm, &key(), &bytes), Ok(header));
                prop_assert_eq!(FileHeader::from_bytes(Suite::Sm4Gcm, &key(), &bytes), Err(HeaderError::Fields));
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(FileHeader::from_bytes(Suite::Aes256Gcm, &key(), &bytes).is_err());
            }
        }

        #[test]
        fn random_wrappings_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN)) {
            bytes[..8].copy_from_slice(&MAGIC);
            let count = bytes[13] % 5;
            bytes[12..16].copy_from_slice(&[1, count, 0, 0]);
            let mac = key().mac(&[&bytes[..MAC_AT]]);
            bytes[MAC_AT..].copy_from_slice(&mac);
            let _ = FileHeader::from_bytes(Suite::Aes256Gcm, &key(), &bytes);
        }
    }

    /// Whoever may ask the KMS for data keys can make everything in a header but its MAC.
    #[test]
    fn a_header_of_another_volume_does_not_verify() {
        let w = Wrapping { provider: 1, key_id: "k".into(), key_version: "v".into(), blob: "b".into() };
        let bytes = FileHeader::new(vec![w]).to_bytes(Suite::Aes256Gcm, &key()).expect("fits");
        let other = MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[6; 32]).expect("fits"));
        assert_eq!(FileHeader::from_bytes(Suite::Aes256Gcm, &other, &bytes), Err(HeaderError::Mac));
    }

    #[test]
    fn the_valid_copy_of_the_higher_generation_counts() {
        let w = Wrapping { provider: 1, key_id: "k".into(), key_version: "v".into(), blob: "b".into() };
        let mut old = FileHeader::new(vec![w]);
        old.generation = 7;
        let new = FileHeader { generation: 8, ..old.clone() };
        let bytes = |h: &FileHeader| h.to_bytes(Suite::Aes256Gcm, &key()).expect("fits");
        let page = |a: &FileHeader, b: &FileHeader| [bytes(a), bytes(b)].concat();
        let choose = |page: &[u8]| FileHeader::choose(Suite::Aes256Gcm, &key(), page);
        assert_eq!(choose(&page(&old, &new)), Ok(new.clone()));
        assert_eq!(choose(&page(&new, &old)), Ok(new.clone()));
        let mut torn = page(&old, &new);
        torn[1500] ^= 1;
        assert_eq!(choose(&torn), Ok(old));
        torn[100] ^= 1;
        assert_eq!(choose(&torn), Err(HeaderError::Mac));
        assert_eq!(choose(&[0; 2048]), Err(HeaderError::Magic));
    }

    #[test]
    fn wrappings_that_do_not_fit_are_refused() {
        let w = Wrapping { provider: 1, key_id: "k".into(), key_version: "v".into(), blob: "b".repeat(940) };
        assert_eq!(FileHeader::new(vec![w]).to_bytes(Suite::Aes256Gcm, &key()), Err(TooLong));
    }
}
