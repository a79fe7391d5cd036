//! HASH, MAC and KDF of each suite, and every label of key derivation (`docs/FORMAT.md` sections 2, 3, 5).

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use sm3::Sm3;
use subtle::ConstantTimeEq;

use super::secret::SecretBytes;
use super::{Suite, Unverified};

/// Labels of keys that the VolumeKey gives.
pub mod volume_label {
    pub const VOLUME: &str = "volume";
    pub const HEADER: &str = "header";
    pub const DIR: &str = "dir";
    pub const STATE: &str = "state";
    pub const NAMES: &str = "names";
    pub const SYMLINKS: &str = "symlinks";
    pub const XATTRS: &str = "xattrs";
    pub const FINGERPRINT: &str = "fingerprint";
}

/// Labels of keys that a file's data key gives; each is preceded by [`PREFIX`].
pub mod file_label {
    pub const KEY_CHECK: &[u8] = b"key-check";
    /// Followed by the epoch, u16 little-endian.
    pub const BLOCKS: &[u8] = b"blocks";
    pub const RECORD: &[u8] = b"record";
}

/// What every label begins with: the product and the format version.
pub const PREFIX: &[u8] = b"kmsfs/1 ";

/// Bytes of a hash and of a MAC, in both suites.
pub const MAC_LEN: usize = 32;

/// HASH(data): SHA-256 (FIPS 180-4) or SM3 (GB/T 32905).
pub fn hash(suite: Suite, data: &[u8]) -> [u8; MAC_LEN] {
    match suite {
        Suite::Aes256Gcm => Sha256::digest(data).into(),
        Suite::Sm4Gcm => Sm3::digest(data).into(),
    }
}

/// KDF(key, salt, info, n): HKDF extract and expand (RFC 5869) with the suite's HMAC; `info` in parts.
///
/// # Panics
/// If `n` exceeds the length of a secret; lengths are constants.
pub fn kdf(suite: Suite, key: &SecretBytes, salt: &[u8], info: &[&[u8]], n: usize) -> SecretBytes {
    let mut out = SecretBytes::zeroed(n);
    // Exposed: the KDF's input and output are the secrets themselves.
    let expanded = match suite {
        Suite::Aes256Gcm => Hkdf::<Sha256>::new(Some(salt), key.expose()).expand_multi_info(info, out.expose_mut()),
        Suite::Sm4Gcm => Hkdf::<Sm3>::new(Some(salt), key.expose()).expand_multi_info(info, out.expose_mut()),
    };
    expanded.expect("secrets are far shorter than HKDF's limit");
    out
}

/// A MAC key with its state prepared: HMAC (RFC 2104) with the suite's hash.
#[derive(Clone)]
pub struct MacKey(MacState);

#[derive(Clone)]
enum MacState {
    Sha256(Hmac<Sha256>),
    Sm3(Hmac<Sm3>),
}

impl MacKey {
    pub fn new(suite: Suite, key: &SecretBytes) -> Self {
        // Exposed: HMAC's key schedule.
        Self(match suite {
            Suite::Aes256Gcm => {
                MacState::Sha256(Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length"))
            }
            Suite::Sm4Gcm => MacState::Sm3(Hmac::new_from_slice(key.expose()).expect("HMAC takes keys of any length")),
        })
    }

    /// The MAC of the concatenated `parts`. The caller makes sure that the concatenation is unambiguous.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        match &self.0 {
            MacState::Sha256(state) => finish(state.clone(), parts),
            MacState::Sm3(state) => finish(state.clone(), parts),
        }
    }

    /// MAC16: the first 16 bytes.
    pub fn mac16(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mac = self.mac(parts);
        mac[..16].try_into().expect("a MAC has 32 bytes")
    }

    /// Takes constant time for a `mac` of the right length.
    pub fn verify(&self, parts: &[&[u8]], mac: &[u8]) -> Result<(), Unverified> {
        if bool::from(self.mac(parts).ct_eq(mac)) { Ok(()) } else { Err(Unverified) }
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey")
    }
}

fn finish<M: Mac>(mut state: M, parts: &[&[u8]]) -> [u8; MAC_LEN] {
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().as_slice().try_into().expect("both hashes give 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(hex: &str) -> SecretBytes {
        SecretBytes::copy_of(&hex::decode(hex).expect("hex")).expect("fits")
    }

    /// RFC 5869 A.1.
    #[test]
    fn hkdf_sha256_rfc5869_case_1() {
        let okm = kdf(
            Suite::Aes256Gcm,
            &secret("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"),
            &hex::decode("000102030405060708090a0b0c").expect("hex"),
            &[&hex::decode("f0f1f2f3f4f5f6f7f8f9").expect("hex")],
            42,
        );
        assert_eq!(
            hex::encode(okm.expose()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    /// RFC 5869 A.3: no salt, no info.
    #[test]
    fn hkdf_sha256_rfc5869_case_3() {
        let okm = kdf(Suite::Aes256Gcm, &secret("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"), &[], &[], 42);
        assert_eq!(
            hex::encode(okm.expose()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        );
    }

    /// GB/T 32905-2016 A.1 and A.2.
    #[test]
    fn sm3_gbt32905() {
        assert_eq!(
            hex::encode(hash(Suite::Sm4Gcm, b"abc")),
            "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
        );
        assert_eq!(
            hex::encode(hash(Suite::Sm4Gcm, "abcd".repeat(16).as_bytes())),
            "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
        );
    }

    /// FIPS 180-4, "abc".
    #[test]
    fn sha256_abc() {
        assert_eq!(
            hex::encode(hash(Suite::Aes256Gcm, b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    /// RFC 4231 case 2.
    #[test]
    fn hmac_sha256_rfc4231_case_2() {
        let key = MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(b"Jefe").expect("fits"));
        let mac = key.mac(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex::encode(mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(key.verify(&[b"what do ya want for nothing?"], &mac).is_ok());
        assert!(key.verify(&[b"what do ya want for nothing!"], &mac).is_err());
        assert!(key.verify(&[b"what do ya want for nothing?"], &mac[..31]).is_err());
    }

    /// HKDF with HMAC-SM3 composed by hand from the hash (RFC 5869 section 2, RFC 2104): no published vector exists.
    #[test]
    fn hkdf_sm3_is_the_construction_over_sm3() {
        fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut block = [0u8; 64];
            block[..key.len()].copy_from_slice(key);
            let inner: Vec<u8> =
                block.iter().map(|b| b ^ 0x36).chain(parts.iter().flat_map(|p| p.iter().copied())).collect();
            let outer: Vec<u8> = block.iter().map(|b| b ^ 0x5c).chain(Sm3::digest(&inner)).collect();
            Sm3::digest(&outer).to_vec()
        }
        let prk = hmac(b"salt", &[b"key material"]);
        let t1 = hmac(&prk, &[b"info", &[1]]);
        let t2 = hmac(&prk, &[&t1, b"info", &[2]]);
        let expected: Vec<u8> = t1.into_iter().chain(t2).take(48).collect();
        let key = SecretBytes::copy_of(b"key material").expect("fits");
        assert_eq!(kdf(Suite::Sm4Gcm, &key, b"salt", &[b"in", b"fo"], 48).expose(), expected);
    }
}
