//! Stored names, markers, symlink targets and xattrs as somebody may have put them into the backing directory.
#![no_main]

use kmsfs::crypto::Suite;
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::format::derived::VolumeKeys;
use kmsfs::format::volume::NameMode;
use kmsfs::names::Names;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let keys = VolumeKeys::derive(Suite::Aes256Gcm, [3; 16], &SecretBytes::copy_of(&[1; 32]).expect("fits"));
    let names = Names { mode: NameMode::Encrypted, name_max: 255, keys: &keys };
    let _ = (names.listed(bytes), names.reveal(&[0; 16], bytes, bytes), names.read_marker(bytes));
    let _ = (names.reveal_target(bytes), names.reveal_xattr_name(bytes), names.reveal_xattr_value(b"user.x", bytes));
    // A long name's entry and the link beside it.
    let (entry, whole) = bytes.split_at(bytes.len().min(54));
    let _ = (names.long_entry_matches(entry, whole), names.reveal(&[0; 16], entry, whole));
    let (first, rest) = bytes.split_at(bytes.len().min(4093));
    let _ = (names.reveal_cut_target(first, rest), names.cut_target_len(first), names.target_rest_link(first));
    if let Ok(stored) = names.store(&[0; 16], bytes) {
        if let kmsfs::names::StoredName::Long { entry, whole, .. } = &stored {
            assert!(names.long_entry_matches(entry, whole));
        }
        let (kmsfs::names::StoredName::Short(whole) | kmsfs::names::StoredName::Long { whole, .. }) = &stored;
        assert_eq!(names.reveal(&[0; 16], stored.entry(), whole).as_deref(), Ok(bytes));
    }
});
