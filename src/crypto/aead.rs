//! AEAD of data blocks: AES-256-GCM on ring or `aes-gcm`, SM4-GCM (RFC 8998) on our kernels or `aes-gcm` over `sm4`.
//!
//! All engines of a suite compute the same function, so the choice is not part of the format. Nonces are the
//! caller's: one key **must never** see a nonce twice.

use std::mem::ManuallyDrop;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, AesGcm, KeyInit};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::secret::SecretBytes;
use super::sm4::{Kernel, Sm4Gcm};
use super::{Suite, Unverified};

pub const NONCE_LEN: usize = 12;
pub const TAG_LEN: usize = 16;

pub type NonceBytes = [u8; NONCE_LEN];
pub type Tag = [u8; TAG_LEN];

/// Which implementation of the suite's AEAD computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// BoringSSL's assembly; AES only. The default for AES.
    Ring,
    /// Ours; SM4 only. With the fastest kernel of the processor the default for SM4.
    Sm4(Kernel),
    /// RustCrypto; the oracle. Its SM4 looks up a 256-byte table by secret bytes: for tests, not for volumes.
    Portable,
}

impl Engine {
    /// The engine used for `suite` unless told otherwise.
    pub fn default_for(suite: Suite) -> Self {
        match suite {
            Suite::Aes256Gcm => Self::Ring,
            Suite::Sm4Gcm => Self::Sm4(Kernel::fastest()),
        }
    }

    /// All that may serve a volume of `suite` on this processor; the oracle may not.
    pub fn available(suite: Suite) -> Vec<Self> {
        match suite {
            Suite::Aes256Gcm => vec![Self::Ring],
            Suite::Sm4Gcm => Kernel::available().map(Self::Sm4).collect(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Sm4(kernel) => kernel.name(),
            Self::Portable => "portable",
        }
    }
}

/// An AEAD key. Its schedule is wiped on drop, in every engine.
pub struct AeadKey(Box<Cipher>);

enum Cipher {
    Ring(Wiped<LessSafeKey>),
    Aes(Aes256Gcm),
    Sm4(Box<Sm4Gcm>),
    Sm4Portable(AesGcm<::sm4::Sm4, U12>),
}

impl AeadKey {
    /// An engine that does not compute the suite stands for the portable one.
    ///
    /// # Panics
    /// If `key` does not have [`Suite::key_len`] bytes; it comes from the KDF.
    pub fn new(suite: Suite, engine: Engine, key: &SecretBytes) -> Self {
        assert_eq!(key.len(), suite.key_len());
        // Exposed: the cipher's key schedule.
        let key = key.expose();
        Self(Box::new(match (suite, engine) {
            (Suite::Aes256Gcm, Engine::Ring) => Cipher::Ring(Wiped::new(LessSafeKey::new(
                UnboundKey::new(&AES_256_GCM, key).expect("length checked above"),
            ))),
            (Suite::Aes256Gcm, Engine::Sm4(_) | Engine::Portable) => {
                Cipher::Aes(Aes256Gcm::new_from_slice(key).expect("length checked above"))
            }
            (Suite::Sm4Gcm, Engine::Sm4(kernel)) => {
                Cipher::Sm4(Sm4Gcm::with_kernel(kernel, key.try_into().expect("length checked above")))
            }
            (Suite::Sm4Gcm, Engine::Ring | Engine::Portable) => {
                Cipher::Sm4Portable(AesGcm::new_from_slice(key).expect("length checked above"))
            }
        }))
    }

    /// How long one core takes for 4096 bytes, as it was when that was first asked.
    pub fn block_time(&self) -> Duration {
        static TIMES: [OnceLock<Duration>; 4] = [const { OnceLock::new() }; 4];
        let (which, suite, engine) = match &*self.0 {
            Cipher::Ring(_) => (0, Suite::Aes256Gcm, Engine::Ring),
            Cipher::Aes(_) => (1, Suite::Aes256Gcm, Engine::Portable),
            Cipher::Sm4(key) => (2, Suite::Sm4Gcm, Engine::Sm4(key.kernel())),
            Cipher::Sm4Portable(_) => (3, Suite::Sm4Gcm, Engine::Portable),
        };
        *TIMES[which].get_or_init(|| {
            // A key of its own, so that no nonce is used up.
            let key = Self::new(suite, engine, &SecretBytes::zeroed(suite.key_len()));
            let mut block = vec![0; 4096];
            let times = (0..5).map(|_| {
                let start = Instant::now();
                key.seal(&NonceBytes::default(), &[], &mut block);
                start.elapsed()
            });
            times.min().unwrap_or_default()
        })
    }

    /// Encrypts `data` in place and gives its tag. The pair (key, `nonce`) **must never** be used again.
    pub fn seal(&self, nonce: &NonceBytes, aad: &[u8], data: &mut [u8]) -> Tag {
        match &*self.0 {
            Cipher::Ring(key) => key
                .get()
                .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), data)
                .expect("data is far below GCM's limit")
                .as_ref()
                .try_into()
                .expect("GCM tags have 16 bytes"),
            Cipher::Aes(key) => seal_portable(key, nonce, aad, data),
            Cipher::Sm4(key) => key.seal(nonce, aad, data),
            Cipher::Sm4Portable(key) => seal_portable(key, nonce, aad, data),
        }
    }

    /// Decrypts `data` in place. After an error its contents are unspecified and are not to be used.
    pub fn open(&self, nonce: &NonceBytes, aad: &[u8], tag: &Tag, data: &mut [u8]) -> Result<(), Unverified> {
        match &*self.0 {
            Cipher::Ring(key) => key
                .get()
                .open_in_place_separate_tag(
                    Nonce::assume_unique_for_key(*nonce),
                    Aad::from(aad),
                    ring::aead::Tag::from(*tag),
                    data,
                    0..,
                )
                .map(|_| ())
                .map_err(|_| Unverified),
            Cipher::Aes(key) => open_portable(key, nonce, aad, tag, data),
            Cipher::Sm4(key) => key.open(nonce, aad, tag, data),
            Cipher::Sm4Portable(key) => open_portable(key, nonce, aad, tag, data),
        }
    }
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey")
    }
}

fn seal_portable<A>(key: &A, nonce: &NonceBytes, aad: &[u8], data: &mut [u8]) -> Tag
where
    A: AeadInOut<NonceSize = U12, TagSize = aes_gcm::aead::consts::U16>,
{
    key.encrypt_inout_detached(&(*nonce).into(), aad, InOutBuf::from(data))
        .expect("data is far below GCM's limit")
        .into()
}

fn open_portable<A>(key: &A, nonce: &NonceBytes, aad: &[u8], tag: &Tag, data: &mut [u8]) -> Result<(), Unverified>
where
    A: AeadInOut<NonceSize = U12, TagSize = aes_gcm::aead::consts::U16>,
{
    key.decrypt_inout_detached(&(*nonce).into(), aad, InOutBuf::from(data), &(*tag).into()).map_err(|_| Unverified)
}

/// A value whose bytes are overwritten on drop. Only for types without heap memory or drop code of their own.
struct Wiped<T>(ManuallyDrop<T>);

impl<T> Wiped<T> {
    fn new(value: T) -> Self {
        const { assert!(!std::mem::needs_drop::<T>()) };
        Self(ManuallyDrop::new(value))
    }

    fn get(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        let at = (&raw mut self.0).cast::<u8>();
        for i in 0..size_of::<T>() {
            // SAFETY: the bytes are this value's own, which has no drop code (asserted in new()) and is not used again.
            unsafe { at.add(i).write_volatile(0) };
        }
    }
}

/// One block under every engine of `suite`: what a process does once at its start, before it trusts the fast one.
/// Takes well under a millisecond.
pub fn self_test(suite: Suite) -> Result<(), Unverified> {
    let key = SecretBytes::copy_of(&[0x42; 32][..suite.key_len()]).expect("a cipher key is a short secret");
    let (fast, oracle) =
        (AeadKey::new(suite, Engine::default_for(suite), &key), AeadKey::new(suite, Engine::Portable, &key));
    let plain: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    let (mut a, mut b) = (plain.clone(), plain.clone());
    let (ta, tb) = (fast.seal(&[9; 12], b"aad", &mut a), oracle.seal(&[9; 12], b"aad", &mut b));
    if a != b || ta != tb || a == plain {
        return Err(Unverified);
    }
    fast.open(&[9; 12], b"aad", &ta, &mut a)?;
    if a == plain { Ok(()) } else { Err(Unverified) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(suite: Suite, engine: Engine, hex: &str) -> AeadKey {
        AeadKey::new(suite, engine, &SecretBytes::copy_of(&hex::decode(hex).expect("hex")).expect("fits"))
    }

    fn check(key: &AeadKey, nonce: &str, aad: &str, plain: &str, sealed: &str, tag: &str) {
        let nonce: NonceBytes = hex::decode(nonce).expect("hex").try_into().expect("12 bytes");
        let (aad, plain) = (hex::decode(aad).expect("hex"), hex::decode(plain).expect("hex"));
        let mut data = plain.clone();
        let got = key.seal(&nonce, &aad, &mut data);
        assert_eq!((hex::encode(&data).as_str(), hex::encode(got).as_str()), (sealed, tag));
        key.open(&nonce, &aad, &got, &mut data).expect("verifies");
        assert_eq!(data, plain);
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 14 and 16 (AES-256).
    #[test]
    fn aes_256_gcm_published_vectors() {
        for engine in [Engine::Ring, Engine::Portable] {
            check(
                &key(Suite::Aes256Gcm, engine, &"00".repeat(32)),
                &"00".repeat(12),
                "",
                &"00".repeat(16),
                "cea7403d4d606b6e074ec5d3baf39d18",
                "d0d1c8a799996bf0265b98b5d48ab919",
            );
            check(
                &key(Suite::Aes256Gcm, engine, "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
                "cafebabefacedbaddecaf888",
                "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
                "76fc6ece0f4e1768cddf8853bb2d551b",
            );
        }
    }

    /// RFC 8998 A.1.
    #[test]
    fn sm4_gcm_rfc8998() {
        for engine in [Engine::default_for(Suite::Sm4Gcm), Engine::Portable] {
            check(
                &key(Suite::Sm4Gcm, engine, "0123456789abcdeffedcba9876543210"),
                "00001234567800000000abcd",
                "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccddddddddddddddddeeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa",
                "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d",
                "83de3541e4c2b58177e065a9bf7b62ec",
            );
        }
    }

    #[test]
    fn self_tests_pass() {
        assert_eq!(self_test(Suite::Aes256Gcm), Ok(()));
        assert_eq!(self_test(Suite::Sm4Gcm), Ok(()));
    }

    proptest! {
        #[test]
        fn engines_agree_and_forgeries_fail(
            key in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(), aad in proptest::collection::vec(any::<u8>(), 0..40),
            plain in proptest::collection::vec(any::<u8>(), 0..5000), at in any::<usize>(),
        ) {
            for suite in [Suite::Aes256Gcm, Suite::Sm4Gcm] {
                let secret = SecretBytes::copy_of(&key[..suite.key_len()]).expect("fits");
                let fast = AeadKey::new(suite, Engine::default_for(suite), &secret);
                let oracle = AeadKey::new(suite, Engine::Portable, &secret);
                let (mut a, mut b) = (plain.clone(), plain.clone());
                let tag = fast.seal(&nonce, &aad, &mut a);
                prop_assert_eq!(tag, oracle.seal(&nonce, &aad, &mut b));
                prop_assert_eq!(&a, &b);
                prop_assert!(oracle.open(&nonce, &aad, &tag, &mut b).is_ok());
                prop_assert_eq!(&b, &plain);
                let mut forged = tag;
                forged[at % 16] ^= 1;
                prop_assert!(fast.open(&nonce, &aad, &forged, &mut a.clone()).is_err());
                if !a.is_empty() {
                    let at = at % a.len();
                    a[at] ^= 0x80;
                    prop_assert!(fast.open(&nonce, &aad, &tag, &mut a).is_err());
                }
            }
        }
    }
}
