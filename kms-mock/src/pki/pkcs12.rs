//! PKCS#12 files (RFC 7292): a private key, its certificate and the chain of that, under a pass phrase.
//!
//! Files are DER and have a MAC made with the pass phrase, as those of OpenSSL; old ones and new ones are read, new ones written.

use der::asn1::{Any, AnyRef, ObjectIdentifier, OctetString, OctetStringRef, SetOfVec};
use der::{Decode, Encode, Sequence};
use hmac::digest::block_api::EagerHash;
use hmac::{Hmac, KeyInit, Mac};
use rsa::rand_core::CryptoRng;
use sha1::Sha1;
use sha2::digest::common::BlockSizeUser;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::attr::{Attribute, Attributes};
use x509_cert::spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::certificate::{Certificate, CertificateError, MAX_CHAIN};
use super::passphrase::{Budget, Encrypted, Passphrase, Purpose, ROUNDS, decrypt, encrypt, encrypted_pkcs8};
use crate::asymmetric::PrivateKey;

/// A key and a chain have some ten kilobytes.
const MAX_FILE: usize = 256 << 10;

const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const ENCRYPTED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.6");
const KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.1");
const SHROUDED_KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.2");
const CERTIFICATE_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
const X509_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");
const LOCAL_KEY_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.21");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Pkcs12Error {
    #[error("this is no PKCS#12 file with a MAC")]
    Format,
    #[error("the file does not open with this pass phrase")]
    Passphrase,
    #[error("the file has a key, a certificate or a cipher that is not supported")]
    UnsupportedAlgorithm,
    #[error("to open the file takes more rounds than anybody needs")]
    TooCostly,
    #[error("the file has not exactly one private key and a certificate for it")]
    Content,
}

impl From<CertificateError> for Pkcs12Error {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Format => Pkcs12Error::Format,
            CertificateError::UnsupportedAlgorithm => Pkcs12Error::UnsupportedAlgorithm,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone)]
pub struct Pkcs12 {
    pub key: PrivateKey,
    /// The certificate of the key.
    pub leaf: Certificate,
    /// The issuer of the leaf, his issuer, and so on as far as the file goes; certificates that do not belong are left out.
    pub chain: Vec<Certificate>,
}

#[derive(Sequence)]
struct Pfx<'a> {
    version: u8,
    content: ContentInfo<'a>,
    #[asn1(optional = "true")]
    mac: Option<MacData<'a>>,
}

#[derive(Sequence)]
struct ContentInfo<'a> {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: AnyRef<'a>,
}

#[derive(Sequence)]
struct MacData<'a> {
    mac: DigestInfo<'a>,
    salt: &'a OctetStringRef,
    #[asn1(default = "one")]
    rounds: u32,
}

#[derive(Sequence)]
struct DigestInfo<'a> {
    algorithm: AlgorithmIdentifierRef<'a>,
    digest: &'a OctetStringRef,
}

#[derive(Sequence)]
struct EncryptedData<'a> {
    version: u8,
    content: EncryptedContent<'a>,
}

#[derive(Sequence)]
struct EncryptedContent<'a> {
    kind: ObjectIdentifier,
    algorithm: AlgorithmIdentifierRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    ciphertext: OctetString,
}

#[derive(Sequence)]
struct Bag<'a> {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: AnyRef<'a>,
    #[asn1(optional = "true")]
    attributes: Option<AnyRef<'a>>,
}

#[derive(Sequence)]
struct CertificateBag<'a> {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    value: AnyRef<'a>,
}

fn one() -> u32 {
    1
}

/// Reads a file. One without a MAC is refused: whether the pass phrase is right could not be told.
pub fn pkcs12_read(der: &[u8], passphrase: &str) -> Result<Pkcs12, Pkcs12Error> {
    if der.len() > MAX_FILE {
        return Err(Pkcs12Error::Format);
    }
    let pfx = Pfx::from_der(der).map_err(|_| Pkcs12Error::Format)?;
    let mac = pfx.mac.as_ref().ok_or(Pkcs12Error::Format)?;
    if pfx.version != 3 || pfx.content.kind != DATA {
        return Err(Pkcs12Error::Format);
    }
    let safe = octets(pfx.content.content)?;
    let mut budget = Budget::new();
    let passphrase = check_mac(mac, safe, passphrase, &mut budget)?;
    let mut contents = Contents::default();
    for part in Vec::<ContentInfo<'_>>::from_der(safe).map_err(|_| Pkcs12Error::Format)? {
        contents.read_part(&part, &passphrase, &mut budget)?;
    }
    contents.into_pkcs12()
}

/// The pass phrase in the form that the MAC was made with.
fn check_mac(mac: &MacData<'_>, safe: &[u8], passphrase: &str, budget: &mut Budget) -> Result<Passphrase, Pkcs12Error> {
    let mut forms = vec![Passphrase::new(passphrase)];
    if passphrase.is_empty() {
        forms.push(Passphrase::none());
    }
    for form in forms {
        budget.spend(mac.rounds.into())?;
        let good = match mac.mac.algorithm.oid {
            SHA1 => is_mac::<Sha1>(mac, safe, &form),
            SHA256 => is_mac::<Sha256>(mac, safe, &form),
            SHA384 => is_mac::<Sha384>(mac, safe, &form),
            SHA512 => is_mac::<Sha512>(mac, safe, &form),
            _ => return Err(Pkcs12Error::UnsupportedAlgorithm),
        };
        if good {
            return Ok(form);
        }
    }
    Err(Pkcs12Error::Passphrase)
}

fn is_mac<D: Digest + BlockSizeUser + EagerHash>(mac: &MacData<'_>, safe: &[u8], passphrase: &Passphrase) -> bool
where
    Hmac<D>: Mac + KeyInit,
{
    keyed::<D>(passphrase, mac.salt.as_bytes(), mac.rounds)
        .chain_update(safe)
        .verify_slice(mac.mac.digest.as_bytes())
        .is_ok()
}

fn keyed<D: Digest + BlockSizeUser + EagerHash>(passphrase: &Passphrase, salt: &[u8], rounds: u32) -> Hmac<D>
where
    Hmac<D>: Mac + KeyInit,
{
    let key = passphrase.derive::<D>(Purpose::Mac, salt, rounds, <D as Digest>::output_size());
    <Hmac<D> as KeyInit>::new_from_slice(&key).expect("HMAC takes keys of any length")
}

/// What has been found in a file so far.
#[derive(Default)]
struct Contents {
    keys: Vec<PrivateKey>,
    certificates: Vec<Certificate>,
}

impl Contents {
    fn read_part(
        &mut self,
        part: &ContentInfo<'_>,
        passphrase: &Passphrase,
        budget: &mut Budget,
    ) -> Result<(), Pkcs12Error> {
        match part.kind {
            DATA => self.read_bags(octets(part.content)?, passphrase, budget),
            ENCRYPTED_DATA => {
                let data: EncryptedData<'_> = part.content.decode_as().map_err(|_| Pkcs12Error::Format)?;
                let EncryptedContent { algorithm, ciphertext, .. } = data.content;
                self.read_bags(&decrypt(algorithm, ciphertext.as_bytes(), passphrase, budget)?, passphrase, budget)
            }
            // What is left is encryption to a public key.
            _ => Err(Pkcs12Error::UnsupportedAlgorithm),
        }
    }

    fn read_bags(&mut self, der: &[u8], passphrase: &Passphrase, budget: &mut Budget) -> Result<(), Pkcs12Error> {
        for bag in Vec::<Bag<'_>>::from_der(der).map_err(|_| Pkcs12Error::Format)? {
            match bag.kind {
                KEY_BAG => {
                    let der = bag.value.to_der().map(Zeroizing::new).map_err(|_| Pkcs12Error::Format)?;
                    self.add_key(&der)?;
                }
                SHROUDED_KEY_BAG => {
                    let Encrypted { algorithm, ciphertext } = bag.value.decode_as().map_err(|_| Pkcs12Error::Format)?;
                    self.add_key(&decrypt(algorithm, ciphertext.as_bytes(), passphrase, budget)?)?;
                }
                CERTIFICATE_BAG => self.add_certificate(bag.value)?,
                // Revocation lists, secrets: not for us.
                _ => {}
            }
        }
        Ok(())
    }

    fn add_key(&mut self, der: &[u8]) -> Result<(), Pkcs12Error> {
        if !self.keys.is_empty() {
            return Err(Pkcs12Error::Content);
        }
        self.keys.push(PrivateKey::from_pkcs8_der(der).ok_or(Pkcs12Error::UnsupportedAlgorithm)?);
        Ok(())
    }

    fn add_certificate(&mut self, bag: AnyRef<'_>) -> Result<(), Pkcs12Error> {
        let bag: CertificateBag<'_> = bag.decode_as().map_err(|_| Pkcs12Error::Format)?;
        if bag.kind != X509_CERTIFICATE || self.certificates.len() > MAX_CHAIN {
            return Err(Pkcs12Error::Content);
        }
        self.certificates.push(Certificate::from_der(octets(bag.value)?)?);
        Ok(())
    }

    fn into_pkcs12(mut self) -> Result<Pkcs12, Pkcs12Error> {
        let key = self.keys.pop().ok_or(Pkcs12Error::Content)?;
        let public = key.public();
        let leaf = self.take(|certificate| certificate.public_key() == Some(&public)).ok_or(Pkcs12Error::Content)?;
        let mut chain: Vec<Certificate> = Vec::new();
        loop {
            let last = chain.last().unwrap_or(&leaf).clone();
            match self.take(|certificate| !last.is_self_issued() && last.is_issued_by(certificate)) {
                Some(issuer) => chain.push(issuer),
                None => return Ok(Pkcs12 { key, leaf, chain }),
            }
        }
    }

    fn take(&mut self, wanted: impl Fn(&Certificate) -> bool) -> Option<Certificate> {
        let at = self.certificates.iter().position(wanted)?;
        Some(self.certificates.remove(at))
    }
}

fn octets(value: AnyRef<'_>) -> Result<&[u8], Pkcs12Error> {
    let octets: &OctetStringRef = value.decode_as().map_err(|_| Pkcs12Error::Format)?;
    Ok(octets.as_bytes())
}

/// Writes a file as OpenSSL 3 does: key and certificates under PBES2 with AES-256, the whole under HMAC-SHA-256.
pub fn pkcs12_write(
    key: &PrivateKey,
    leaf: &Certificate,
    chain: &[Certificate],
    passphrase: &str,
    rng: &mut impl CryptoRng,
) -> Vec<u8> {
    let parts = certificates_part(leaf, chain, passphrase, rng)
        .and_then(|certificates| Ok([certificates, key_part(key, leaf, passphrase, rng)?]));
    parts
        .and_then(|parts| with_mac(&parts, passphrase, rng))
        .expect("keys and certificates are far below the limits of DER")
}

/// The file of these parts.
fn with_mac(parts: &[Vec<u8>], passphrase: &str, rng: &mut impl CryptoRng) -> der::Result<Vec<u8>> {
    let safe = sequence(parts)?;
    let mut salt = [0; 16];
    rng.fill_bytes(&mut salt);
    let digest =
        keyed::<Sha256>(&Passphrase::new(passphrase), &salt, ROUNDS).chain_update(&safe).finalize().into_bytes();
    let mac = DigestInfo {
        algorithm: AlgorithmIdentifierRef { oid: SHA256, parameters: Some(AnyRef::NULL) },
        digest: OctetStringRef::new(&digest)?,
    };
    let mac = MacData { mac, salt: OctetStringRef::new(&salt)?, rounds: ROUNDS };
    let content = ContentInfo { kind: DATA, content: AnyRef::from(OctetStringRef::new(&safe)?) };
    Pfx { version: 3, content, mac: Some(mac) }.to_der()
}

/// The certificates, in a part that is encrypted as a whole.
fn certificates_part(
    leaf: &Certificate,
    chain: &[Certificate],
    passphrase: &str,
    rng: &mut impl CryptoRng,
) -> der::Result<Vec<u8>> {
    let mut bags = vec![certificate_bag(leaf, Some(&local_key_id(leaf)?))?];
    for certificate in chain {
        bags.push(certificate_bag(certificate, None)?);
    }
    let (algorithm, ciphertext) = encrypt(&sequence(&bags)?, passphrase, rng);
    let algorithm = AlgorithmIdentifierRef::from_der(&algorithm)?;
    let data =
        EncryptedData { version: 0, content: EncryptedContent { kind: DATA, algorithm, ciphertext } }.to_der()?;
    ContentInfo { kind: ENCRYPTED_DATA, content: AnyRef::from_der(&data)? }.to_der()
}

/// The key, encrypted by itself, in a part that is not.
fn key_part(key: &PrivateKey, leaf: &Certificate, passphrase: &str, rng: &mut impl CryptoRng) -> der::Result<Vec<u8>> {
    let encrypted = encrypted_pkcs8(key, passphrase, rng);
    let attributes = local_key_id(leaf)?;
    let bag = Bag {
        kind: SHROUDED_KEY_BAG,
        value: AnyRef::from_der(&encrypted)?,
        attributes: Some(AnyRef::from_der(&attributes)?),
    };
    let contents = sequence(&[bag.to_der()?])?;
    ContentInfo { kind: DATA, content: AnyRef::from(OctetStringRef::new(&contents)?) }.to_der()
}

fn sequence(values: &[Vec<u8>]) -> der::Result<Vec<u8>> {
    values.iter().map(|value| AnyRef::from_der(value)).collect::<Result<Vec<_>, _>>()?.to_der()
}

fn certificate_bag(certificate: &Certificate, attributes: Option<&[u8]>) -> der::Result<Vec<u8>> {
    let value = AnyRef::from(OctetStringRef::new(certificate.der())?);
    let value = CertificateBag { kind: X509_CERTIFICATE, value }.to_der()?;
    let attributes = attributes.map(AnyRef::from_der).transpose()?;
    Bag { kind: CERTIFICATE_BAG, value: AnyRef::from_der(&value)?, attributes }.to_der()
}

/// The attribute by which readers tell which certificate belongs to the key. Its value is free; OpenSSL takes the same.
fn local_key_id(leaf: &Certificate) -> der::Result<Vec<u8>> {
    let id = Any::encode_from(&OctetString::new(Sha1::digest(leaf.der()).to_vec())?)?;
    let attribute = Attribute { oid: LOCAL_KEY_ID, values: SetOfVec::try_from(vec![id])? };
    Attributes::try_from(vec![attribute])?.to_der()
}

#[cfg(test)]
mod tests;
