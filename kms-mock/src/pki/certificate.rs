//! X.509 certificates (RFC 5280) and their chains.

use std::net::{Ipv4Addr, Ipv6Addr};

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::{Decode, Encode, Sequence};
use rsa::PublicKey as RsaPublicKey;
use rsa::pkcs8::spki::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned};

use super::{from_pem, name, to_hex, to_pem};
use crate::asymmetric::{PublicKey, SignAlgorithm};

pub(super) const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
pub(super) const SM2_WITH_SM3: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.501");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SM2_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.301");

/// A certificate is a few kilobytes; a chain has a few of them.
const MAX_DER: usize = 64 << 10;
pub(super) const MAX_CHAIN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("this is no certificate")]
    Format,
    #[error("the key or the signature of the certificate is of an algorithm that is not supported")]
    UnsupportedAlgorithm,
}

/// A certificate that has been read; whether to believe it is a question for [`verify_chain`], and its time for the caller.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    parsed: x509_cert::Certificate,
    key: Key,
    signed_with: Signature,
    alternative_names: Vec<String>,
    key_identifier: String,
    authority: Option<Authority>,
}

/// The key of a certificate: one of ours, or one of RSA with another length, which authorities have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Ours(PublicKey),
    LongRsa(Box<RsaPublicKey>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    Sha256Rsa,
    Sha384Rsa,
    Sha512Rsa,
    Sm3Sm2,
}

/// Says that the owner may issue certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Authority {
    /// How many authorities may stand between it and the last certificate.
    path_len: Option<u8>,
}

/// The three parts of a certificate, the signed one as it stands in the file.
#[derive(Sequence)]
struct Parts<'a> {
    signed: AnyRef<'a>,
    algorithm: AlgorithmIdentifierRef<'a>,
    signature: BitStringRef<'a>,
}

impl Certificate {
    /// Reads a text with exactly one certificate.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        let mut chain = Certificate::chain_from_pem(text)?;
        match chain.len() {
            1 => Ok(chain.remove(0)),
            _ => Err(CertificateError::Format),
        }
    }

    /// Reads a text with at least one certificate, in its order.
    pub fn chain_from_pem(text: &str) -> Result<Vec<Self>, CertificateError> {
        let blocks = from_pem("CERTIFICATE", text).ok_or(CertificateError::Format)?;
        if !(1..=MAX_CHAIN).contains(&blocks.len()) {
            return Err(CertificateError::Format);
        }
        blocks.iter().map(|der| Certificate::from_der(der)).collect()
    }

    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_DER {
            return Err(CertificateError::Format);
        }
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| CertificateError::Format)?;
        let signed = parsed.tbs_certificate();
        // RFC 5280, section 4.1.1.2: the algorithm is named inside and outside of what is signed.
        if signed.signature() != parsed.signature_algorithm() {
            return Err(CertificateError::Format);
        }
        let signed_with = Signature::from_oid(parsed.signature_algorithm().oid)?;
        let key = Key::from_spki(signed.subject_public_key_info())?;
        let alternative_names = match extension::<SubjectAltName>(&parsed)? {
            Some(names) => names.0.iter().filter_map(general_name_text).collect(),
            None => Vec::new(),
        };
        let key_identifier = match extension::<SubjectKeyIdentifier>(&parsed)? {
            Some(identifier) => to_hex(identifier.0.as_bytes()),
            // RFC 5280, section 4.2.1.2, method (1).
            None => to_hex(&Sha1::digest(signed.subject_public_key_info().subject_public_key.raw_bytes())),
        };
        let authority = authority(&parsed)?;
        Ok(Certificate { der: der.to_vec(), parsed, key, signed_with, alternative_names, key_identifier, authority })
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn pem(&self) -> String {
        to_pem("CERTIFICATE", &self.der)
    }

    /// `None` for an RSA key of another length than 2048 bits, as authorities may have.
    pub fn public_key(&self) -> Option<&PublicKey> {
        match &self.key {
            Key::Ours(key) => Some(key),
            Key::LongRsa(_) => None,
        }
    }

    /// In the form of a [`Subject`](super::Subject), and in the order of the certificate.
    pub fn subject(&self) -> String {
        name::to_text(self.subject_name())
    }

    pub fn issuer(&self) -> String {
        name::to_text(self.issuer_name())
    }

    /// In lower-case hex, without a leading zero byte.
    pub fn serial(&self) -> String {
        let bytes = self.parsed.tbs_certificate().serial_number().as_bytes();
        match bytes {
            [0, rest @ ..] if !rest.is_empty() => to_hex(rest),
            _ => to_hex(bytes),
        }
    }

    /// The name that OpenSSL gives it.
    pub fn signature_algorithm(&self) -> &'static str {
        self.signed_with.name()
    }

    /// In seconds since 1970.
    pub fn not_before(&self) -> i64 {
        seconds(self.parsed.tbs_certificate().validity().not_before)
    }

    /// In seconds since 1970; that second is the last in which the certificate is valid.
    pub fn not_after(&self) -> i64 {
        seconds(self.parsed.tbs_certificate().validity().not_after)
    }

    /// In lower-case hex; made from the key if the certificate has none.
    pub fn subject_key_identifier(&self) -> &str {
        &self.key_identifier
    }

    /// Host names, IP addresses, mail addresses and URIs.
    pub fn subject_alternative_names(&self) -> &[String] {
        &self.alternative_names
    }

    pub fn is_self_issued(&self) -> bool {
        self.subject_name() == self.issuer_name()
    }

    /// Whether `issuer` has issued this certificate: by name and by signature.
    pub(super) fn is_issued_by(&self, issuer: &Certificate) -> bool {
        self.issuer_name() == issuer.subject_name() && self.is_signed_by(&issuer.key)
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        let parts = Parts::from_der(&self.der).ok();
        parts.is_some_and(|parts| {
            let signed = parts.signed.to_der().unwrap_or_default();
            self.signed_with.verify(key, &signed, parts.signature.raw_bytes())
        })
    }

    pub(super) fn subject_name(&self) -> &Name {
        self.parsed.tbs_certificate().subject()
    }

    pub(super) fn issuer_name(&self) -> &Name {
        self.parsed.tbs_certificate().issuer()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({:?}, {})", self.subject(), self.serial())
    }
}

/// Whether `chain` shows that `leaf` is genuine: in its order each issues the one before it, starting with `leaf`, and may do so.
/// The last is either self-issued, then its own signature has to be good, or its issuer is not known here. Times do not matter.
pub fn verify_chain(leaf: &Certificate, chain: &[Certificate]) -> bool {
    let issued = std::iter::once(leaf).chain(chain);
    let links = issued
        .zip(chain)
        .enumerate()
        .all(|(between, (certificate, issuer))| issuer.may_issue_over(between) && certificate.is_issued_by(issuer));
    let last = chain.last().unwrap_or(leaf);
    links && (!last.is_self_issued() || last.is_signed_by(&last.key))
}

impl Certificate {
    /// Whether it may be an issuer with so many authorities between it and the leaf.
    fn may_issue_over(&self, between: usize) -> bool {
        self.authority.is_some_and(|authority| authority.path_len.is_none_or(|most| between <= usize::from(most)))
    }
}

impl Key {
    fn from_spki(spki: &SubjectPublicKeyInfoOwned) -> Result<Self, CertificateError> {
        let der = spki.to_der().map_err(|_| CertificateError::Format)?;
        if let Some(key) = PublicKey::from_spki_der(&der) {
            return Ok(Key::Ours(key));
        }
        if spki.algorithm.oid == rsa::pkcs1::ALGORITHM_OID {
            // The crate takes 4096 bits at most.
            let key = RsaPublicKey::from_public_key_der(&der).map_err(|_| CertificateError::UnsupportedAlgorithm)?;
            let long_enough = key.n().bit_width_vartime() > 2048;
            return long_enough.then(|| Key::LongRsa(Box::new(key))).ok_or(CertificateError::UnsupportedAlgorithm);
        }
        let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
        match spki.algorithm.oid == EC_PUBLIC_KEY && curve == Some(SM2_CURVE) {
            // It claims to be on the curve, and is not.
            true => Err(CertificateError::Format),
            false => Err(CertificateError::UnsupportedAlgorithm),
        }
    }

    fn as_rsa(&self) -> Option<&RsaPublicKey> {
        match self {
            Key::Ours(PublicKey::Rsa(key)) | Key::LongRsa(key) => Some(key),
            Key::Ours(PublicKey::Sm2(_)) => None,
        }
    }
}

impl Signature {
    fn from_oid(oid: ObjectIdentifier) -> Result<Self, CertificateError> {
        match oid {
            SHA256_WITH_RSA => Ok(Signature::Sha256Rsa),
            SHA384_WITH_RSA => Ok(Signature::Sha384Rsa),
            SHA512_WITH_RSA => Ok(Signature::Sha512Rsa),
            SM2_WITH_SM3 => Ok(Signature::Sm3Sm2),
            _ => Err(CertificateError::UnsupportedAlgorithm),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Signature::Sha256Rsa => "sha256WithRSAEncryption",
            Signature::Sha384Rsa => "sha384WithRSAEncryption",
            Signature::Sha512Rsa => "sha512WithRSAEncryption",
            Signature::Sm3Sm2 => "SM2-with-SM3",
        }
    }

    fn verify(self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        let rsa = key.as_rsa();
        match self {
            Signature::Sha256Rsa => rsa.is_some_and(|key| key.pkcs1v15_verify::<Sha256>(message, signature).is_ok()),
            Signature::Sha384Rsa => rsa.is_some_and(|key| key.pkcs1v15_verify::<Sha384>(message, signature).is_ok()),
            Signature::Sha512Rsa => rsa.is_some_and(|key| key.pkcs1v15_verify::<Sha512>(message, signature).is_ok()),
            Signature::Sm3Sm2 => match key {
                Key::Ours(key) => {
                    let digest = key.digest_of_message(message);
                    key.verify(SignAlgorithm::Sm2Dsa, &digest, signature) == Some(true)
                }
                Key::LongRsa(_) => false,
            },
        }
    }
}

/// An extension that stands at most once.
fn extension<'a, T: Decode<'a> + der::oid::AssociatedOid>(
    certificate: &'a x509_cert::Certificate,
) -> Result<Option<T>, CertificateError> {
    let found = certificate.tbs_certificate().get_extension::<T>();
    found.map(|found| found.map(|(_critical, extension)| extension)).map_err(|_| CertificateError::Format)
}

/// An authority says so in its basic constraints, and not otherwise in its key usage.
fn authority(certificate: &x509_cert::Certificate) -> Result<Option<Authority>, CertificateError> {
    let constraints = extension::<BasicConstraints>(certificate)?.filter(|constraints| constraints.ca);
    let may_sign = extension::<KeyUsage>(certificate)?.is_none_or(|usage| usage.key_cert_sign());
    Ok(constraints.filter(|_| may_sign).map(|constraints| Authority { path_len: constraints.path_len_constraint }))
}

fn general_name_text(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(text) | GeneralName::Rfc822Name(text) | GeneralName::UniformResourceIdentifier(text) => {
            Some(text.to_string())
        }
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).to_string());
            v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).to_string())).ok()
        }
        _ => None,
    }
}

fn seconds(time: x509_cert::time::Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).expect("the year has four digits")
}

#[cfg(test)]
mod tests;
