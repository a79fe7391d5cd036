//! RSA as RFC 8017 has it: PKCS#1 v1.5 and PSS signatures, OAEP and PKCS#1 v1.5 encryption.

use getrandom::SysRng;
use rsa::hazmat::rsa_decrypt_and_check;
use rsa::rand_core::CryptoRng;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PrivateKey as RsaPrivateKey, PublicKey as RsaPublicKey};
use sha1::Sha1;
use sha2::digest::FixedOutputReset;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{DecryptError, EncryptAlgorithm, RSA_BITS};

pub fn generate(rng: &mut impl CryptoRng) -> RsaPrivateKey {
    RsaPrivateKey::new(rng, RSA_BITS as usize).expect("2048 bits are enough for the default exponent")
}

pub fn sign_pkcs1(key: &RsaPrivateKey, digest: &[u8; 32], rng: &mut impl CryptoRng) -> Vec<u8> {
    key.pkcs1v15_sign_prehash_with_rng::<Sha256, _>(rng, digest).expect("a checked key of 2048 bits signs")
}

pub fn sign_pss(key: &RsaPrivateKey, digest: &[u8; 32], rng: &mut impl CryptoRng) -> Vec<u8> {
    key.pss_sign_prehash_with_rng::<Sha256, _>(rng, digest).expect("a checked key of 2048 bits signs")
}

/// The text is no longer than the algorithm allows, and the algorithm is one of RSA.
pub fn encrypt(key: &RsaPublicKey, algorithm: EncryptAlgorithm, plain: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
    let ciphertext = match algorithm {
        EncryptAlgorithm::RsaOaepSha256 => key.oaep_encrypt_with_rng::<Sha256, _>(rng, plain),
        EncryptAlgorithm::RsaOaepSha1 => key.oaep_encrypt_with_rng::<Sha1, _>(rng, plain),
        EncryptAlgorithm::RsaPkcs1V15 => key.pkcs1v15_encrypt_with_rng(rng, plain),
        EncryptAlgorithm::Sm2Pke => unreachable!("the caller has compared the specs"),
    };
    ciphertext.expect("the text fits the modulus")
}

pub fn decrypt_oaep<D: Digest + FixedOutputReset>(
    key: &RsaPrivateKey,
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    if ciphertext.len() != key.size() {
        return Err(DecryptError::Form);
    }
    key.oaep_decrypt::<D>(ciphertext).map(Zeroizing::new).map_err(|_| DecryptError::Padding)
}

/// RSAES-PKCS1-v1_5 with an error for a wrong padding. The crate's own function returns random bytes instead, against
/// Bleichenbacher's attack; this service tells its clients (`KMS.0239`), and its only such keys live for one import.
pub fn decrypt_pkcs1(key: &RsaPrivateKey, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    if ciphertext.len() != key.size() {
        return Err(DecryptError::Form);
    }
    let number = BoxedUint::from_be_slice(ciphertext, RSA_BITS).map_err(|_| DecryptError::Form)?;
    let mut padded = rsa_decrypt_and_check(key, Some(&mut SysRng), &number).map_err(|_| DecryptError::Padding)?;
    let bytes = Zeroizing::new(Vec::from(padded.to_be_bytes()));
    padded.zeroize();
    unpad_pkcs1(&bytes).map(|plain| Zeroizing::new(plain.to_vec())).ok_or(DecryptError::Padding)
}

/// `00 02`, at least eight bytes that are not zero, `00`, the text.
fn unpad_pkcs1(padded: &[u8]) -> Option<&[u8]> {
    let rest = padded.strip_prefix(&[0, 2])?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    (end >= 8).then(|| &rest[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkcs1_padding_needs_eight_bytes() {
        assert_eq!(unpad_pkcs1(b"\x00\x02aaaaaaaa\x00text\x00"), Some(&b"text\x00"[..]));
        assert_eq!(unpad_pkcs1(b"\x00\x02aaaaaaaa\x00"), Some(&b""[..]));
        for wrong in [&b"\x00\x02aaaaaaa\x00text"[..], b"\x00\x01aaaaaaaa\x00text", b"\x00\x02aaaaaaaatext", b"\x00"] {
            assert_eq!(unpad_pkcs1(wrong), None);
        }
    }
}
