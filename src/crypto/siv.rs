//! SIV (RFC 5297): deterministic authenticated encryption for names, symlink targets and xattrs.
//!
//! Over AES-256 (64-byte key) or, the same construction, over SM4 (SM4-CMAC, SM4-CTR; 32-byte key), ours.

use aes::Aes256;
use aes_siv::KeyInit;
use aes_siv::siv::CmacSiv;

use super::secret::SecretBytes;
use super::sm4::Sm4;
use super::{Suite, Unverified};

/// Bytes that [`SivKey::seal`] adds: the synthetic IV in front.
pub const SIV_OVERHEAD: usize = 16;

/// A SIV key of a suite. Equal plaintexts under equal associated data give equal ciphertexts: that is its purpose.
pub struct SivKey {
    suite: Suite,
    key: SecretBytes,
}

impl SivKey {
    /// # Panics
    /// If `key` does not have [`Suite::siv_key_len`] bytes; it comes from the KDF.
    pub fn new(suite: Suite, key: SecretBytes) -> Self {
        assert_eq!(key.len(), suite.siv_key_len());
        Self { suite, key }
    }

    /// V ‖ C, 16 bytes longer than `plain`.
    pub fn seal(&self, ad: &[&[u8]], plain: &[u8]) -> Vec<u8> {
        // Exposed: the cipher's key schedule, wiped with it.
        let sealed = match self.suite {
            Suite::Aes256Gcm => CmacSiv::<Aes256>::new_from_slice(self.key.expose())
                .expect("length checked in new()")
                .encrypt(ad, plain),
            Suite::Sm4Gcm => {
                CmacSiv::<Sm4>::new_from_slice(self.key.expose()).expect("length checked in new()").encrypt(ad, plain)
            }
        };
        sealed.expect("fewer associated strings than RFC 5297 allows")
    }

    /// The plaintext, if `sealed` was made by [`Self::seal`] with this key and `ad`.
    pub fn open(&self, ad: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, Unverified> {
        // Exposed: as in seal().
        let opened = match self.suite {
            Suite::Aes256Gcm => CmacSiv::<Aes256>::new_from_slice(self.key.expose())
                .expect("length checked in new()")
                .decrypt(ad, sealed),
            Suite::Sm4Gcm => {
                CmacSiv::<Sm4>::new_from_slice(self.key.expose()).expect("length checked in new()").decrypt(ad, sealed)
            }
        };
        opened.map_err(|_| Unverified)
    }
}

impl std::fmt::Debug for SivKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SivKey({})", self.suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(suite: Suite) -> SivKey {
        let bytes: Vec<u8> = (0..suite.siv_key_len() as u8).collect();
        SivKey::new(suite, SecretBytes::copy_of(&bytes).expect("fits"))
    }

    /// RFC 5297 A.1 has a 32-byte key (AES-128): it checks the construction that both suites use.
    #[test]
    fn rfc5297_a1_checks_the_construction() {
        let key = hex::decode("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").expect("hex");
        let ad = hex::decode("101112131415161718191a1b1c1d1e1f2021222324252627").expect("hex");
        let plain = hex::decode("112233445566778899aabbccddee").expect("hex");
        let sealed = CmacSiv::<aes::Aes128>::new_from_slice(&key).expect("32 bytes").encrypt([&ad], &plain);
        assert_eq!(
            hex::encode(sealed.expect("one header")),
            "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
        );
    }

    /// The SM4 construction, composed by hand from the block cipher (RFC 5297 section 2, RFC 4493).
    #[test]
    fn sm4_siv_is_the_construction_over_sm4() {
        use ::sm4::Sm4;
        use ::sm4::cipher::{BlockCipherEncrypt, KeyInit};
        fn block(cipher: &Sm4, x: [u8; 16]) -> [u8; 16] {
            let mut b = x.into();
            cipher.encrypt_block(&mut b);
            b.into()
        }
        fn dbl(x: [u8; 16]) -> [u8; 16] {
            let n = u128::from_be_bytes(x);
            ((n << 1) ^ if n >> 127 == 1 { 0x87 } else { 0 }).to_be_bytes()
        }
        fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
            std::array::from_fn(|i| a[i] ^ b[i])
        }
        /// CMAC of exactly one full block.
        fn cmac(cipher: &Sm4, m: [u8; 16]) -> [u8; 16] {
            block(cipher, xor(m, dbl(block(cipher, [0; 16]))))
        }
        let raw: Vec<u8> = (0..32).collect();
        let (mac, enc) =
            (Sm4::new_from_slice(&raw[..16]).expect("16 bytes"), Sm4::new_from_slice(&raw[16..]).expect("16 bytes"));
        let (ad, plain) = ([0x55; 16], [0xaa; 16]);
        let d = xor(dbl(cmac(&mac, [0; 16])), cmac(&mac, ad));
        let v = cmac(&mac, xor(plain, d));
        let mut q = v;
        q[8] &= 0x7f;
        q[12] &= 0x7f;
        let mut expected = v.to_vec();
        expected.extend(xor(plain, block(&enc, q)));
        assert_eq!(key(Suite::Sm4Gcm).seal(&[&ad], &plain), expected);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_nothing_else(
            plain in proptest::collection::vec(any::<u8>(), 0..300), at in any::<usize>(), bit in 0..8u8,
        ) {
            for suite in [Suite::Aes256Gcm, Suite::Sm4Gcm] {
                let key = key(suite);
                let mut sealed = key.seal(&[b"dir", b"more"], &plain);
                prop_assert_eq!(sealed.len(), plain.len() + SIV_OVERHEAD);
                prop_assert_eq!(key.open(&[b"dir", b"more"], &sealed), Ok(plain.clone()));
                prop_assert_eq!(key.open(&[b"dirm", b"ore"], &sealed), Err(Unverified));
                let at = at % sealed.len();
                sealed[at] ^= 1 << bit;
                prop_assert_eq!(key.open(&[b"dir", b"more"], &sealed), Err(Unverified));
            }
        }
    }
}
