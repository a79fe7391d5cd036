//! Headers, slots, records, maps and the state file, under keys that the fuzzer's MACs pass now and then: each MAC is
//! made right first, so that what lies behind it is reached.
#![no_main]

use kmsfs::crypto::Suite;
use kmsfs::crypto::derive::MacKey;
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::format::block::{Shape, Slot};
use kmsfs::format::file_header::FileHeader;
use kmsfs::format::record::{MapBits, Record, map_record_from_bytes, map_record_to_bytes};
use kmsfs::format::state::State;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let key = MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[7; 32]).expect("fits"));
    if let Some(slot) = bytes.get(..64) {
        let slot = Slot::from_bytes(slot);
        if let Shape::Data { newer, older } = slot.shape() {
            // What is named to be tried is there, and the newer is not the older.
            assert!(slot.version(newer).is_some() && older.is_none_or(|older| slot.version(older).is_some()));
            assert!(older != Some(newer));
        }
    }
    if let Some(bits) = bytes.get(..32) {
        let (region, m) = (u64::from(bits[0]), usize::from(bits[1] % 16));
        let bits: MapBits = bits.try_into().expect("32 bytes");
        let stored = map_record_to_bytes(&key, region, m, &bits);
        assert_eq!(map_record_from_bytes(&key, region, m, &stored), Ok(bits));
        assert!(map_record_from_bytes(&key, region + 1, m, &stored).is_err());
    }
    let mut header = [0; 1024];
    let n = bytes.len().min(992);
    header[..n].copy_from_slice(&bytes[..n]);
    header[..8].copy_from_slice(b"KMSFS\0\0\x01");
    let mac = key.mac(&[&header[..992]]);
    header[992..].copy_from_slice(&mac);
    if let Ok(parsed) = FileHeader::from_bytes(Suite::Aes256Gcm, &key, &header) {
        let again = parsed.to_bytes(Suite::Aes256Gcm, &key).expect("what was parsed fits");
        assert_eq!(FileHeader::from_bytes(Suite::Aes256Gcm, &key, &again), Ok(parsed));
    }
    if let Some(body) = bytes.get(..32) {
        let mut record = [0; 64];
        record[..32].copy_from_slice(body);
        let mac = key.mac(&[b"record", &record[..32]]);
        record[32..].copy_from_slice(&mac);
        let _ = Record::from_bytes(&key, &record);
    }
    let mut state = bytes.to_vec();
    state.splice(0..bytes.len().min(8), *b"KMSFSst1");
    let mac = key.mac(&[&state]);
    state.extend_from_slice(&mac);
    if let Ok(parsed) = State::from_bytes(&key, &state) {
        assert_eq!(State::from_bytes(&key, &parsed.to_bytes(&key)), Ok(parsed));
    }
});
