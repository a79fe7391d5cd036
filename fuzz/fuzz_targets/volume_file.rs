//! The volume file: parsed before any key is known.
#![no_main]

use kmsfs::format::volume::UnverifiedVolume;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(volume) = UnverifiedVolume::parse(bytes) {
        assert!(!volume.claimed().wrappings.is_empty());
    }
});
