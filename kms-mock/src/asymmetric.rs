//! Key pairs of the specs RSA_2048 and Ctyun_SM2: signing, encrypting, and their forms in DER. Also SM3 and HMAC-SM3.
//!
//! The algorithms are those of 4.7. Which key may do what, and what a client hears when it may not, is for the callers.

mod rsa_schemes;
mod sm2_schemes;

use hmac::{Hmac, KeyInit, Mac};
use rsa::rand_core::CryptoRng;
use rsa::traits::PublicKeyParts;
use rsa::{PrivateKey as RsaPrivateKey, PublicKey as RsaPublicKey};
use sha2::{Digest, Sha256};
use sm2::pkcs8::spki::{DecodePublicKey, EncodePublicKey};
use sm2::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use sm3::Sm3;
use zeroize::Zeroizing;

/// The only length of an RSA key.
const RSA_BITS: u32 = 2048;

/// The system's generator, for tests; the mock draws from its own.
#[cfg(test)]
pub fn system_rng() -> rsa::rand_core::UnwrapErr<getrandom::SysRng> {
    rsa::rand_core::UnwrapErr(getrandom::SysRng)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsymmetricSpec {
    Rsa2048,
    Sm2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignAlgorithm {
    RsaPkcs1Sha256,
    /// MGF1 with SHA-256, a salt of 32 bytes.
    RsaPssSha256,
    Sm2Dsa,
}

impl SignAlgorithm {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "RSA_PKCS1_SHA_256" => Some(SignAlgorithm::RsaPkcs1Sha256),
            "RSA_PSS_SHA_256" => Some(SignAlgorithm::RsaPssSha256),
            "SM2DSA" => Some(SignAlgorithm::Sm2Dsa),
            _ => None,
        }
    }

    #[cfg(test)]
    pub fn name(self) -> &'static str {
        match self {
            SignAlgorithm::RsaPkcs1Sha256 => "RSA_PKCS1_SHA_256",
            SignAlgorithm::RsaPssSha256 => "RSA_PSS_SHA_256",
            SignAlgorithm::Sm2Dsa => "SM2DSA",
        }
    }

    pub fn spec(self) -> AsymmetricSpec {
        match self {
            SignAlgorithm::RsaPkcs1Sha256 | SignAlgorithm::RsaPssSha256 => AsymmetricSpec::Rsa2048,
            SignAlgorithm::Sm2Dsa => AsymmetricSpec::Sm2,
        }
    }
}

/// MGF1 uses the hash of OAEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptAlgorithm {
    RsaOaepSha256,
    RsaOaepSha1,
    /// See [`EncryptAlgorithm::only_for_import`].
    RsaPkcs1V15,
    /// C1C3C2 as the SEQUENCE of GM/T 0009: x, y, hash, cipher.
    Sm2Pke,
}

impl EncryptAlgorithm {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "RSAES_OAEP_SHA_256" => Some(EncryptAlgorithm::RsaOaepSha256),
            "RSAES_OAEP_SHA_1" => Some(EncryptAlgorithm::RsaOaepSha1),
            "RSAES_PKCS1_V1_5" => Some(EncryptAlgorithm::RsaPkcs1V15),
            "SM2PKE" => Some(EncryptAlgorithm::Sm2Pke),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            EncryptAlgorithm::RsaOaepSha256 => "RSAES_OAEP_SHA_256",
            EncryptAlgorithm::RsaOaepSha1 => "RSAES_OAEP_SHA_1",
            EncryptAlgorithm::RsaPkcs1V15 => "RSAES_PKCS1_V1_5",
            EncryptAlgorithm::Sm2Pke => "SM2PKE",
        }
    }

    pub fn spec(self) -> AsymmetricSpec {
        match self {
            EncryptAlgorithm::RsaOaepSha256 | EncryptAlgorithm::RsaOaepSha1 | EncryptAlgorithm::RsaPkcs1V15 => {
                AsymmetricSpec::Rsa2048
            }
            EncryptAlgorithm::Sm2Pke => AsymmetricSpec::Sm2,
        }
    }

    /// Key material may be wrapped with it (6.6), but no key encrypts with it.
    pub fn only_for_import(self) -> bool {
        self == EncryptAlgorithm::RsaPkcs1V15
    }

    /// The longest text that it encrypts, in bytes (4.3).
    pub fn max_plaintext(self) -> usize {
        match self {
            // The modulus less two hashes and 2 bytes, or less 11 bytes: RFC 8017, sections 7.1.1 and 7.2.1.
            EncryptAlgorithm::RsaOaepSha256 => 190,
            EncryptAlgorithm::RsaOaepSha1 => 214,
            EncryptAlgorithm::RsaPkcs1V15 => 245,
            EncryptAlgorithm::Sm2Pke => 6047,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    #[error("the algorithm is for keys of another spec")]
    OtherSpec,
    #[error("the text is too long for the algorithm")]
    TooLong,
    /// SM2 only: its key stream would be empty too, and must not be all zero.
    #[error("the algorithm cannot encrypt an empty text")]
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    #[error("the algorithm is for keys of another spec")]
    OtherSpec,
    #[error("the ciphertext has not the length or the form of the algorithm")]
    Form,
    #[error("the ciphertext does not open with this key")]
    Padding,
}

/// A private key that has passed the checks of its kind; wiped on drop.
#[derive(Clone)]
pub enum PrivateKey {
    Rsa(Box<RsaPrivateKey>),
    Sm2(Box<sm2::SecretKey>),
}

impl PrivateKey {
    pub fn generate(spec: AsymmetricSpec, rng: &mut impl CryptoRng) -> Self {
        match spec {
            AsymmetricSpec::Rsa2048 => PrivateKey::Rsa(Box::new(rsa_schemes::generate(rng))),
            AsymmetricSpec::Sm2 => PrivateKey::Sm2(Box::new(sm2_schemes::generate(rng))),
        }
    }

    /// RSA of 2048 bits, or an elliptic key on the curve sm2p256v1; `None` for anything else.
    pub fn from_pkcs8_der(der: &[u8]) -> Option<Self> {
        let info = PrivateKeyInfoRef::try_from(der).ok()?;
        if info.algorithm.oid == rsa::pkcs1::ALGORITHM_OID {
            let key = RsaPrivateKey::try_from(info).ok()?;
            return is_rsa_2048(&key).then(|| PrivateKey::Rsa(Box::new(key)));
        }
        let key = sm2::SecretKey::from_pkcs8_der(der).ok()?;
        sm2_schemes::can_sign(&key).then(|| PrivateKey::Sm2(Box::new(key)))
    }

    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let document = match self {
            PrivateKey::Rsa(key) => key.to_pkcs8_der(),
            PrivateKey::Sm2(key) => key.to_pkcs8_der(),
        };
        document.expect("a checked key has a PKCS#8 form").to_bytes()
    }

    pub fn spec(&self) -> AsymmetricSpec {
        match self {
            PrivateKey::Rsa(_) => AsymmetricSpec::Rsa2048,
            PrivateKey::Sm2(_) => AsymmetricSpec::Sm2,
        }
    }

    pub fn public(&self) -> PublicKey {
        match self {
            PrivateKey::Rsa(key) => PublicKey::Rsa(Box::new(key.to_public_key())),
            PrivateKey::Sm2(key) => PublicKey::Sm2(key.public_key()),
        }
    }

    /// Signs the digest as it is; SM2 signatures are the DER of (r, s). `None` if the algorithm is of another spec.
    pub fn sign(&self, algorithm: SignAlgorithm, digest: &[u8; 32], rng: &mut impl CryptoRng) -> Option<Vec<u8>> {
        match (self, algorithm) {
            (PrivateKey::Rsa(key), SignAlgorithm::RsaPkcs1Sha256) => Some(rsa_schemes::sign_pkcs1(key, digest, rng)),
            (PrivateKey::Rsa(key), SignAlgorithm::RsaPssSha256) => Some(rsa_schemes::sign_pss(key, digest, rng)),
            (PrivateKey::Sm2(key), SignAlgorithm::Sm2Dsa) => Some(sm2_schemes::sign(key, digest, rng)),
            (PrivateKey::Rsa(_), SignAlgorithm::Sm2Dsa)
            | (PrivateKey::Sm2(_), SignAlgorithm::RsaPkcs1Sha256 | SignAlgorithm::RsaPssSha256) => None,
        }
    }

    pub fn decrypt(&self, algorithm: EncryptAlgorithm, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        match (self, algorithm) {
            (PrivateKey::Rsa(key), EncryptAlgorithm::RsaOaepSha256) => {
                rsa_schemes::decrypt_oaep::<Sha256>(key, ciphertext)
            }
            (PrivateKey::Rsa(key), EncryptAlgorithm::RsaOaepSha1) => {
                rsa_schemes::decrypt_oaep::<sha1::Sha1>(key, ciphertext)
            }
            (PrivateKey::Rsa(key), EncryptAlgorithm::RsaPkcs1V15) => rsa_schemes::decrypt_pkcs1(key, ciphertext),
            (PrivateKey::Sm2(key), EncryptAlgorithm::Sm2Pke) => sm2_schemes::decrypt(key, ciphertext),
            (PrivateKey::Rsa(_) | PrivateKey::Sm2(_), _) => Err(DecryptError::OtherSpec),
        }
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({:?})", self.spec())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    Rsa(Box<RsaPublicKey>),
    Sm2(sm2::PublicKey),
}

impl PublicKey {
    /// RSA of 2048 bits, or an elliptic key on the curve sm2p256v1; `None` for anything else.
    pub fn from_spki_der(der: &[u8]) -> Option<Self> {
        let info = SubjectPublicKeyInfoRef::try_from(der).ok()?;
        if info.algorithm.oid == rsa::pkcs1::ALGORITHM_OID {
            let key = RsaPublicKey::try_from(info).ok()?;
            return is_rsa_2048(&key).then(|| PublicKey::Rsa(Box::new(key)));
        }
        sm2::PublicKey::from_public_key_der(der).ok().map(PublicKey::Sm2)
    }

    pub fn to_spki_der(&self) -> Vec<u8> {
        let document = match self {
            PublicKey::Rsa(key) => key.to_public_key_der(),
            PublicKey::Sm2(key) => key.to_public_key_der(),
        };
        document.expect("a checked key has an SPKI form").into_vec()
    }

    pub fn to_pem(&self) -> String {
        let pem = match self {
            PublicKey::Rsa(key) => key.to_public_key_pem(LineEnding::LF),
            PublicKey::Sm2(key) => key.to_public_key_pem(LineEnding::LF),
        };
        pem.expect("a checked key has an SPKI form")
    }

    pub fn spec(&self) -> AsymmetricSpec {
        match self {
            PublicKey::Rsa(_) => AsymmetricSpec::Rsa2048,
            PublicKey::Sm2(_) => AsymmetricSpec::Sm2,
        }
    }

    /// Whether the signature is one of the digest; `None` if the algorithm is of another spec.
    pub fn verify(&self, algorithm: SignAlgorithm, digest: &[u8; 32], signature: &[u8]) -> Option<bool> {
        match (self, algorithm) {
            (PublicKey::Rsa(key), SignAlgorithm::RsaPkcs1Sha256) => {
                Some(key.pkcs1v15_verify_prehash::<Sha256>(digest, signature).is_ok())
            }
            (PublicKey::Rsa(key), SignAlgorithm::RsaPssSha256) => {
                Some(key.pss_verify_prehash::<Sha256>(digest, signature).is_ok())
            }
            (PublicKey::Sm2(key), SignAlgorithm::Sm2Dsa) => Some(sm2_schemes::verify(key, digest, signature)),
            (PublicKey::Rsa(_), SignAlgorithm::Sm2Dsa)
            | (PublicKey::Sm2(_), SignAlgorithm::RsaPkcs1Sha256 | SignAlgorithm::RsaPssSha256) => None,
        }
    }

    pub fn encrypt(
        &self,
        algorithm: EncryptAlgorithm,
        plain: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, EncryptError> {
        if algorithm.spec() != self.spec() {
            return Err(EncryptError::OtherSpec);
        }
        if plain.len() > algorithm.max_plaintext() {
            return Err(EncryptError::TooLong);
        }
        match self {
            PublicKey::Rsa(key) => Ok(rsa_schemes::encrypt(key, algorithm, plain, rng)),
            PublicKey::Sm2(_) if plain.is_empty() => Err(EncryptError::Empty),
            PublicKey::Sm2(key) => Ok(sm2_schemes::encrypt(key, plain, rng)),
        }
    }

    /// What is signed of a message: its SHA-256 for RSA; for SM2 the value e = SM3(Z || message), with the usual signer's name
    /// `1234567812345678` in Z (GB/T 32918.2, sections 5.5 and 6.1).
    pub fn digest_of_message(&self, message: &[u8]) -> [u8; 32] {
        match self {
            PublicKey::Rsa(_) => Sha256::digest(message).into(),
            PublicKey::Sm2(key) => sm2_schemes::digest_of_message(key, message),
        }
    }
}

fn is_rsa_2048(key: &impl PublicKeyParts) -> bool {
    key.n().bit_width_vartime() == RSA_BITS
}

/// GB/T 32905.
pub fn sm3(input: &[u8]) -> [u8; 32] {
    Sm3::digest(input).into()
}

pub fn hmac_sm3(key: &[u8], input: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sm3>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(input);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
