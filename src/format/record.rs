//! The record of a stored file, and the map of its skipped groups (`docs/FORMAT.md` sections 5.5 and 5.6).

use crate::crypto::Unverified;
use crate::crypto::derive::MacKey;

use super::layout::{GROUP_BLOCKS, REGION_GROUPS};
use super::{u32_at, u64_at};

pub const RECORD_LEN: usize = 64;
const BODY_LEN: usize = 32;
const FLAG_SPARSE: u8 = 1;
const FLAG_NEWEST: u8 = 2;

/// Seals of one epoch before the next begins: a factor 2 below SP 800-38D's limit for random nonces.
pub const SEALS_PER_EPOCH: u32 = 1 << 31;
/// Seals after which the record is written though nothing else changed.
pub const SEALS_PER_RECORD: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The session that wrote it.
    pub session: u32,
    pub epoch: u16,
    /// Some group inside may not be complete: the map counts.
    pub sparse: bool,
    /// In every slot the newer version is the good one.
    pub newest: bool,
    /// Plaintext bytes.
    pub size: u64,
    /// A plaintext size that a barrier made durable.
    pub synced: u64,
    /// Blocks and marks sealed in this epoch.
    pub seals: u32,
}

impl Record {
    pub fn to_bytes(&self, key: &MacKey) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        out[0..4].copy_from_slice(&self.session.to_le_bytes());
        out[4..6].copy_from_slice(&self.epoch.to_le_bytes());
        out[6] = if self.sparse { FLAG_SPARSE } else { 0 } | if self.newest { FLAG_NEWEST } else { 0 };
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..24].copy_from_slice(&self.synced.to_le_bytes());
        out[24..28].copy_from_slice(&self.seals.to_le_bytes());
        let mac = key.mac(&[b"record", &out[..BODY_LEN]]);
        out[BODY_LEN..].copy_from_slice(&mac);
        out
    }

    /// # Panics
    /// If `bytes` does not have [`RECORD_LEN`] bytes.
    pub fn from_bytes(key: &MacKey, bytes: &[u8]) -> Result<Self, Unverified> {
        assert_eq!(bytes.len(), RECORD_LEN);
        key.verify(&[b"record", &bytes[..BODY_LEN]], &bytes[BODY_LEN..])?;
        let flags = bytes[6];
        if flags & !(FLAG_SPARSE | FLAG_NEWEST) != 0 {
            return Err(Unverified);
        }
        Ok(Self {
            session: u32_at(bytes, 0),
            epoch: u16::from_le_bytes([bytes[4], bytes[5]]),
            sparse: flags & FLAG_SPARSE != 0,
            newest: flags & FLAG_NEWEST != 0,
            size: u64_at(bytes, 8),
            synced: u64_at(bytes, 16),
            seals: u32_at(bytes, 24),
        })
    }
}

pub const MAP_RECORD_LEN: usize = 64;
/// Map records of a region.
pub const MAP_RECORDS: usize = 16;
/// Groups of one map record.
pub const MAP_RECORD_GROUPS: u64 = REGION_GROUPS / MAP_RECORDS as u64;
const _: () = assert!(MAP_RECORD_GROUPS == 256 && GROUP_BLOCKS == 64);

/// The bits of one map record: bit j says that group 256·m + j is complete.
pub type MapBits = [u8; 32];

/// What a map record that does not verify counts as.
pub const MAP_ALL_COMPLETE: MapBits = [0xff; 32];

pub fn map_record_to_bytes(key: &MacKey, region: u64, m: usize, bits: &MapBits) -> [u8; MAP_RECORD_LEN] {
    let mut out = [0; MAP_RECORD_LEN];
    out[..32].copy_from_slice(bits);
    out[32..].copy_from_slice(&key.mac(&[b"map", &(region as u32).to_le_bytes(), &(m as u32).to_le_bytes(), bits]));
    out
}

/// # Panics
/// If `bytes` does not have [`MAP_RECORD_LEN`] bytes.
pub fn map_record_from_bytes(key: &MacKey, region: u64, m: usize, bytes: &[u8]) -> Result<MapBits, Unverified> {
    let bits: MapBits = bytes[..32].try_into().expect("32 bytes");
    key.verify(
        &[b"map", &(region as u32).to_le_bytes(), &(m as u32).to_le_bytes(), &bits],
        &bytes[32..MAP_RECORD_LEN],
    )?;
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Suite;
    use crate::crypto::secret::SecretBytes;
    use proptest::prelude::*;

    fn key() -> MacKey {
        MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[5; 32]).expect("fits"))
    }

    proptest! {
        #[test]
        fn records_survive_writing_and_no_bit_may_change(
            session in any::<u32>(), epoch in any::<u16>(), sparse in any::<bool>(), newest in any::<bool>(),
            size in any::<u64>(), synced in any::<u64>(), seals in any::<u32>(), bit in 0..RECORD_LEN * 8,
        ) {
            let record = Record { session, epoch, sparse, newest, size, synced, seals };
            let mut bytes = record.to_bytes(&key());
            prop_assert_eq!(Record::from_bytes(&key(), &bytes), Ok(record));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Record::from_bytes(&key(), &bytes), Err(Unverified));
        }

        #[test]
        fn map_records_are_bound_to_their_place(bits in any::<[u8; 32]>(), region in 0..1u64 << 16, m in 0..15usize) {
            let bytes = map_record_to_bytes(&key(), region, m, &bits);
            prop_assert_eq!(map_record_from_bytes(&key(), region, m, &bytes), Ok(bits));
            prop_assert_eq!(map_record_from_bytes(&key(), region + 1, m, &bytes), Err(Unverified));
            prop_assert_eq!(map_record_from_bytes(&key(), region, m + 1, &bytes), Err(Unverified));
        }
    }
}
