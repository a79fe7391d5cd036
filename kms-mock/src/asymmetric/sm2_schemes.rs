//! SM2 on its standard curve sm2p256v1 (GB/T 32918.5): signatures and encryption.

use rsa::rand_core::CryptoRng;
use sm2::dsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};
use sm2::elliptic_curve::Generate;
use sm2::elliptic_curve::sec1::ToSec1Point;
use sm2::pkcs8::der::Decode;
use sm2::pke::{Cipher, DecryptingKey, EncryptingKey};
use sm2::{PublicKey, Scalar, SecretKey};
use sm3::{Digest, Sm3};
use zeroize::Zeroizing;

use super::{DecryptError, EncryptAlgorithm};

/// Who signs, if nobody says otherwise (GM/T 0009, section 10).
const SIGNER: &str = "1234567812345678";

/// a, b, x_G, y_G of the curve: what Z has between the name of the signer and his key.
const CURVE: [[u8; 32]; 4] = [
    [
        0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc,
    ],
    [
        0x28, 0xe9, 0xfa, 0x9e, 0x9d, 0x9f, 0x5e, 0x34, 0x4d, 0x5a, 0x9e, 0x4b, 0xcf, 0x65, 0x09, 0xa7, 0xf3, 0x97,
        0x89, 0xf5, 0x15, 0xab, 0x8f, 0x92, 0xdd, 0xbc, 0xbd, 0x41, 0x4d, 0x94, 0x0e, 0x93,
    ],
    [
        0x32, 0xc4, 0xae, 0x2c, 0x1f, 0x19, 0x81, 0x19, 0x5f, 0x99, 0x04, 0x46, 0x6a, 0x39, 0xc9, 0x94, 0x8f, 0xe3,
        0x0b, 0xbf, 0xf2, 0x66, 0x0b, 0xe1, 0x71, 0x5a, 0x45, 0x89, 0x33, 0x4c, 0x74, 0xc7,
    ],
    [
        0xbc, 0x37, 0x36, 0xa2, 0xf4, 0xf6, 0x77, 0x9c, 0x59, 0xbd, 0xce, 0xe3, 0x6b, 0x69, 0x21, 0x53, 0xd0, 0xa9,
        0x87, 0x7c, 0xc6, 0x2a, 0x47, 0x40, 0x02, 0xdf, 0x32, 0xe5, 0x21, 0x39, 0xf0, 0xa0,
    ],
];

pub fn generate(rng: &mut impl CryptoRng) -> SecretKey {
    loop {
        let key = SecretKey::generate_from_rng(rng);
        if can_sign(&key) {
            return key;
        }
    }
}

/// A private key is below n - 1: signing divides by 1 + d (GB/T 32918.1, section 6.1).
pub fn can_sign(key: &SecretKey) -> bool {
    *key.to_nonzero_scalar() + Scalar::ONE != Scalar::ZERO
}

pub fn sign(key: &SecretKey, digest: &[u8; 32], rng: &mut impl CryptoRng) -> Vec<u8> {
    let signer = SigningKey::new(SIGNER, key).expect("the signer's name is short enough");
    // Step A5 of the standard asks for another random number with a probability that nobody will see.
    let signature: Signature = loop {
        if let Ok(signature) = signer.sign_prehash_with_rng(rng, digest) {
            break signature;
        }
    };
    signature.to_der().to_vec()
}

pub fn verify(key: &PublicKey, digest: &[u8; 32], signature: &[u8]) -> bool {
    let verifier = VerifyingKey::new(SIGNER, *key).expect("the signer's name is short enough");
    Signature::from_der(signature).is_ok_and(|signature| verifier.verify_prehash(digest, &signature).is_ok())
}

/// SM3(Z || message) with Z = SM3(length of the name in bits || name || a || b || x_G || y_G || x || y).
pub fn digest_of_message(key: &PublicKey, message: &[u8]) -> [u8; 32] {
    let point = key.to_sec1_point(false);
    let mut z = Sm3::new();
    z.update((SIGNER.len() as u16 * 8).to_be_bytes());
    z.update(SIGNER);
    CURVE.iter().for_each(|number| z.update(number));
    // After the tag of an uncompressed point come its coordinates.
    z.update(&point.as_bytes()[1..]);
    Sm3::new_with_prefix(z.finalize()).chain_update(message).finalize().into()
}

/// The text is not empty. A key stream that is all zero, which happens to short texts, is drawn again by the crate.
pub fn encrypt(key: &PublicKey, plain: &[u8], rng: &mut impl CryptoRng) -> Vec<u8> {
    EncryptingKey::new(*key).encrypt_der(rng, plain).expect("a text that is neither empty nor of gigabytes")
}

pub fn decrypt(key: &SecretKey, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    // C1 is on the curve, or there is no cipher; the cofactor is 1.
    let cipher = Cipher::from_der(ciphertext).map_err(|_| DecryptError::Form)?;
    if cipher.c2().is_empty() || cipher.c2().len() > EncryptAlgorithm::Sm2Pke.max_plaintext() {
        return Err(DecryptError::Form);
    }
    let mut plain = Zeroizing::new(vec![0; cipher.c2().len()]);
    DecryptingKey::new(key.clone())
        .decrypt_cipher_with_buf::<Sm3>(&cipher, &mut plain)
        .map_err(|_| DecryptError::Padding)?;
    Ok(plain)
}
