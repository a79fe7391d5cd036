//! Encryption under a pass phrase: PBES2 (RFC 8018) to write and to read, and for old PKCS#12 files the two schemes of RFC 7292,
//! appendix C, that OpenSSL calls legacy.

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use der::asn1::{AnyRef, ObjectIdentifier, OctetString, OctetStringRef};
use der::{Decode, Encode, Sequence};
use des::TdesEde3;
use pkcs5::pbes2;
use rc2::Rc2;
use rsa::rand_core::CryptoRng;
use sha1::Sha1;
use sha2::Digest;
use sha2::digest::common::BlockSizeUser;
use x509_cert::spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::pkcs12::Pkcs12Error;
use super::to_pem;
use crate::asymmetric::PrivateKey;

/// Rounds of PBKDF2 and of the MAC in what is written here. More than OpenSSL's 2048; what is exported leaves the service, and
/// its pass phrase may be weak.
pub(super) const ROUNDS: u32 = 100_000;

/// Rounds that the reading of one file may cost: about a second, and a few times those of the files that are about.
const MAX_ROUNDS: u64 = 1_000_000;

const PBES2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.13");
const SHA1_TDES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.3");
const SHA1_RC2_40: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.1.6");

/// What the key of a file's derivation is for (RFC 7292, appendix B.3).
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Key = 1,
    Iv = 2,
    Mac = 3,
}

/// A pass phrase in the two forms in which files use it.
pub(super) struct Passphrase {
    utf8: Zeroizing<String>,
    /// BMPString with its two zero bytes at the end, for the derivation of PKCS#12. Empty for files of those who take an empty
    /// pass phrase for none at all.
    utf16: Zeroizing<Vec<u8>>,
}

impl Passphrase {
    pub fn new(text: &str) -> Self {
        // Room for the longest form, so that no copy is left behind.
        let mut utf16 = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2));
        text.encode_utf16().chain([0]).for_each(|unit| utf16.extend_from_slice(&unit.to_be_bytes()));
        Passphrase { utf8: Zeroizing::new(text.to_owned()), utf16 }
    }

    /// No pass phrase, as opposed to an empty one.
    pub fn none() -> Self {
        Passphrase { utf8: Zeroizing::default(), utf16: Zeroizing::default() }
    }

    /// The derivation of RFC 7292, appendix B.2.
    pub fn derive<D: Digest + BlockSizeUser>(
        &self,
        purpose: Purpose,
        salt: &[u8],
        rounds: u32,
        len: usize,
    ) -> Zeroizing<Vec<u8>> {
        let block = D::block_size();
        let filled = |bytes: &[u8]| bytes.iter().copied().cycle().take(bytes.len().next_multiple_of(block)).collect();
        let diversifier = vec![purpose as u8; block];
        let mut input: Zeroizing<Vec<u8>> = Zeroizing::new(filled(salt));
        input.extend_from_slice(&Zeroizing::<Vec<u8>>::new(filled(&self.utf16)));
        let mut key = Zeroizing::new(Vec::with_capacity(len + <D as Digest>::output_size()));
        loop {
            let first = D::new().chain_update(&diversifier).chain_update(&*input).finalize();
            let hash = (1..rounds).fold(first, |hash, _| D::digest(&hash));
            key.extend_from_slice(&hash);
            if key.len() >= len {
                key.truncate(len);
                return key;
            }
            let addend: Vec<u8> = hash.iter().copied().cycle().take(block).collect();
            input.chunks_exact_mut(block).for_each(|number| add_and_one(number, &addend));
        }
    }
}

/// number + addend + 1, modulo the size of the number.
fn add_and_one(number: &mut [u8], addend: &[u8]) {
    let mut carry = 1;
    for (byte, added) in number.iter_mut().zip(addend).rev() {
        let sum = u16::from(*byte) + u16::from(*added) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
}

/// The rounds that the file being read has left.
pub(super) struct Budget(u64);

impl Budget {
    pub fn new() -> Self {
        Budget(MAX_ROUNDS)
    }

    pub fn spend(&mut self, rounds: u64) -> Result<(), Pkcs12Error> {
        if rounds == 0 {
            return Err(Pkcs12Error::Format);
        }
        self.0 = self.0.checked_sub(rounds).ok_or(Pkcs12Error::TooCostly)?;
        Ok(())
    }
}

/// Parameters of the schemes of PKCS#12.
#[derive(Sequence)]
struct PbeParameters<'a> {
    salt: &'a OctetStringRef,
    rounds: u32,
}

/// `EncryptedPrivateKeyInfo` of PKCS#8 (RFC 5958), and what an encrypted part of a PKCS#12 file has in it.
#[derive(Sequence)]
pub(super) struct Encrypted<'a> {
    pub algorithm: AlgorithmIdentifierRef<'a>,
    pub ciphertext: &'a OctetStringRef,
}

pub(super) fn decrypt(
    algorithm: AlgorithmIdentifierRef<'_>,
    ciphertext: &[u8],
    passphrase: &Passphrase,
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let parameters = algorithm.parameters.ok_or(Pkcs12Error::Format)?;
    match algorithm.oid {
        PBES2 => decrypt_pbes2(parameters, ciphertext, passphrase, budget),
        SHA1_TDES => decrypt_pbe::<TdesEde3>(24, parameters, ciphertext, passphrase, budget),
        SHA1_RC2_40 => decrypt_pbe::<Rc2>(5, parameters, ciphertext, passphrase, budget),
        _ => Err(Pkcs12Error::UnsupportedAlgorithm),
    }
}

fn decrypt_pbes2(
    parameters: AnyRef<'_>,
    ciphertext: &[u8],
    passphrase: &Passphrase,
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let parameters = pbes2::Parameters::try_from(parameters).map_err(|_| Pkcs12Error::UnsupportedAlgorithm)?;
    match &parameters.kdf {
        pbes2::Kdf::Pbkdf2(kdf) => budget.spend(kdf.iteration_count.into())?,
        pbes2::Kdf::Scrypt(kdf) => {
            if !kdf.cost_parameter.is_power_of_two() || kdf.cost_parameter < 2 {
                return Err(Pkcs12Error::Format);
            }
            // One unit is 128 bytes of memory to fill and to read again: less than a round of PBKDF2, and 128 MiB in all.
            let (r, p) = (u64::from(kdf.block_size), u64::from(kdf.parallelization));
            budget.spend(kdf.cost_parameter.saturating_mul(r).saturating_mul(p))?;
        }
        _ => return Err(Pkcs12Error::UnsupportedAlgorithm),
    }
    let plain = parameters.decrypt(passphrase.utf8.as_bytes(), ciphertext);
    plain.map(Zeroizing::new).map_err(|error| match error {
        pkcs5::Error::DecryptFailed => Pkcs12Error::Passphrase,
        _ => Pkcs12Error::UnsupportedAlgorithm,
    })
}

fn decrypt_pbe<C: KeyInit + BlockCipherDecrypt>(
    key_len: usize,
    parameters: AnyRef<'_>,
    ciphertext: &[u8],
    passphrase: &Passphrase,
    budget: &mut Budget,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let PbeParameters { salt, rounds } = parameters.decode_as().map_err(|_| Pkcs12Error::Format)?;
    budget.spend(2 * u64::from(rounds))?;
    let key = passphrase.derive::<Sha1>(Purpose::Key, salt.as_bytes(), rounds, key_len);
    let iv = passphrase.derive::<Sha1>(Purpose::Iv, salt.as_bytes(), rounds, C::block_size());
    let cipher = cbc::Decryptor::<C>::new_from_slices(&key, &iv).map_err(|_| Pkcs12Error::UnsupportedAlgorithm)?;
    let plain = cipher.decrypt_padded_vec::<Pkcs7>(ciphertext);
    plain.map(Zeroizing::new).map_err(|_| Pkcs12Error::Passphrase)
}

/// Encrypts with PBES2: PBKDF2 with HMAC-SHA-256, and AES-256-CBC. The parameters in DER, and the ciphertext.
pub(super) fn encrypt(plain: &[u8], passphrase: &str, rng: &mut impl CryptoRng) -> (Vec<u8>, OctetString) {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    rng.fill_bytes(&mut salt);
    rng.fill_bytes(&mut iv);
    let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(ROUNDS, &salt, iv)
        .expect("rounds and a salt that the scheme allows");
    let ciphertext = parameters.encrypt(passphrase.as_bytes(), plain).expect("the scheme takes any text");
    let ciphertext = OctetString::new(ciphertext).expect("a key or some certificates are short");
    (pkcs5::EncryptionScheme::from(parameters).to_der().expect("short parameters"), ciphertext)
}

/// The key as an encrypted PKCS#8 in DER.
pub(super) fn encrypted_pkcs8(key: &PrivateKey, passphrase: &str, rng: &mut impl CryptoRng) -> Vec<u8> {
    let (algorithm, ciphertext) = encrypt(&key.to_pkcs8_der(), passphrase, rng);
    let algorithm = AlgorithmIdentifierRef::from_der(&algorithm).expect("an algorithm of our own");
    let ciphertext = OctetStringRef::new(ciphertext.as_bytes()).expect("it was one before");
    Encrypted { algorithm, ciphertext }.to_der().expect("a short structure")
}

/// The key as an encrypted PKCS#8 in PEM.
pub fn encrypted_pkcs8_pem(key: &PrivateKey, passphrase: &str, rng: &mut impl CryptoRng) -> String {
    to_pem("ENCRYPTED PRIVATE KEY", &encrypted_pkcs8(key, passphrase, rng))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asymmetric::{AsymmetricSpec, system_rng};
    use crate::openssl::OpenSsl;

    #[test]
    fn openssl_reads_our_pkcs8_with_its_pass_phrase_only() {
        let openssl = OpenSsl::new();
        for spec in [AsymmetricSpec::Rsa2048, AsymmetricSpec::Sm2] {
            let key = PrivateKey::generate(spec, &mut system_rng());
            let pem = encrypted_pkcs8_pem(&key, "天翼-pass", &mut system_rng());
            openssl.write("k.pem", &pem);
            openssl.run("pkcs8 -topk8 -nocrypt -in k.pem -passin pass:天翼-pass -outform DER -out k.der");
            assert_eq!(PrivateKey::from_pkcs8_der(&openssl.read("k.der")).unwrap().public(), key.public());
            assert!(openssl.try_run("pkey -in k.pem -passin pass:other -noout").is_err());
        }
    }

    #[test]
    fn the_sum_carries_and_wraps() {
        let mut number = [0, 0xff, 0xff];
        add_and_one(&mut number, &[0, 0, 0]);
        assert_eq!(number, [1, 0, 0]);
        let mut number = [0xff, 0xff];
        add_and_one(&mut number, &[0xff, 0xff]);
        assert_eq!(number, [0xff, 0xff]);
    }

    #[test]
    fn rounds_are_bounded() {
        let mut budget = Budget::new();
        assert_eq!(budget.spend(0), Err(Pkcs12Error::Format));
        assert_eq!(budget.spend(MAX_ROUNDS - 1), Ok(()));
        assert_eq!(budget.spend(2), Err(Pkcs12Error::TooCostly));
        assert_eq!(budget.spend(u64::MAX), Err(Pkcs12Error::TooCostly));
    }
}
