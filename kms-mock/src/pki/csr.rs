//! Certificate requests (PKCS#10, RFC 2986).

use std::net::IpAddr;

use der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString};
use der::oid::AssociatedOid;
use der::{Decode, Encode};
use rsa::rand_core::CryptoRng;
use x509_cert::attr::Attributes;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::certificate::{SHA256_WITH_RSA, SM2_WITH_SM3};
use super::name::Subject;
use super::to_pem;
use crate::asymmetric::{AsymmetricSpec, PrivateKey, SignAlgorithm};

/// More names than a certificate usually has.
const MAX_NAMES: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{0:?} is neither a host name nor an IP address")]
    AlternativeName(String),
    #[error("more than {MAX_NAMES} alternative names")]
    TooManyNames,
}

/// Whether [`csr`] takes these alternative names.
pub fn check_alternative_names(names: &[String]) -> Result<(), RequestError> {
    attributes(names).map(drop)
}

/// A request in PEM for the public part of `key`, signed with SHA-256 and RSA or with SM3 and SM2. The alternative names are
/// host names (a `*` may stand for a label) and IP addresses.
pub fn csr(
    key: &PrivateKey,
    subject: &Subject,
    alternative_names: &[String],
    rng: &mut impl CryptoRng,
) -> Result<String, RequestError> {
    let info = CertReqInfo {
        version: Version::V1,
        subject: subject.to_name(),
        public_key: SubjectPublicKeyInfoOwned::from_der(&key.public().to_spki_der()).expect("SPKI of our own"),
        attributes: attributes(alternative_names)?,
    };
    let signed = info.to_der().expect("a request of bounded size");
    let (algorithm, identifier) = signature_algorithm(key.spec());
    let digest = key.public().digest_of_message(&signed);
    let signature = key.sign(algorithm, &digest, rng).expect("the algorithm was chosen by the spec");
    let signature = BitString::from_bytes(&signature).expect("a short signature");
    let request = CertReq { info, algorithm: identifier, signature };
    Ok(to_pem("CERTIFICATE REQUEST", &request.to_der().expect("a request of bounded size")))
}

fn signature_algorithm(spec: AsymmetricSpec) -> (SignAlgorithm, AlgorithmIdentifierOwned) {
    let (algorithm, oid, parameters): (_, ObjectIdentifier, _) = match spec {
        // RFC 4055, section 5: the parameters are NULL. GM/T 0015 leaves those of SM2 out.
        AsymmetricSpec::Rsa2048 => (SignAlgorithm::RsaPkcs1Sha256, SHA256_WITH_RSA, Some(Any::null())),
        AsymmetricSpec::Sm2 => (SignAlgorithm::Sm2Dsa, SM2_WITH_SM3, None),
    };
    (algorithm, AlgorithmIdentifierOwned { oid, parameters })
}

/// The request for an extension with the alternative names, if there are any.
fn attributes(alternative_names: &[String]) -> Result<Attributes, RequestError> {
    let mut attributes = Attributes::new();
    if alternative_names.is_empty() {
        return Ok(attributes);
    }
    if alternative_names.len() > MAX_NAMES {
        return Err(RequestError::TooManyNames);
    }
    let names = alternative_names.iter().map(|name| general_name(name)).collect::<Result<Vec<_>, _>>()?;
    let names = SubjectAltName(names).to_der().expect("names of bounded size");
    let extension = Extension {
        extn_id: SubjectAltName::OID,
        critical: false,
        extn_value: OctetString::new(names).expect("names of bounded size"),
    };
    let request = ExtensionReq(vec![extension]).try_into().expect("an extension of bounded size");
    attributes.insert(request).expect("the only attribute");
    Ok(attributes)
}

fn general_name(text: &str) -> Result<GeneralName, RequestError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(GeneralName::from(address));
    }
    let name = Ia5String::new(text).ok().filter(|_| is_host_name(text));
    name.map(GeneralName::DnsName).ok_or_else(|| RequestError::AlternativeName(text.to_owned()))
}

/// Labels of letters, digits, `-` and `_` (RFC 1123; the underscore is in use); the first may be `*`.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let labels = text.strip_prefix("*.").unwrap_or(text);
    text.len() <= 253 && labels.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asymmetric::system_rng;
    use crate::openssl::OpenSsl;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn openssl_verifies_our_requests() {
        let openssl = OpenSsl::new();
        let subject = Subject::parse(r"C=CN,O=天翼云\, Example,CN=www.example.com,E=a@example.com").unwrap();
        for (spec, options) in [(AsymmetricSpec::Rsa2048, ""), (AsymmetricSpec::Sm2, "-vfyopt distid:1234567812345678")]
        {
            let key = PrivateKey::generate(spec, &mut system_rng());
            let sans = names(&["www.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
            openssl.write("r.pem", csr(&key, &subject, &sans, &mut system_rng()).unwrap());
            openssl.run(&format!("req -verify -noout -in r.pem {options}"));
            let text = openssl.text("req -noout -text -nameopt RFC2253,-esc_msb,utf8 -in r.pem");
            assert!(text.contains(r"emailAddress=a@example.com,CN=www.example.com,O=天翼云\, Example,C=CN"), "{text}");
            assert!(text.contains("DNS:www.example.com, DNS:*.example.com, IP Address:192.0.2.1, IP Address:2001:DB8"));
            openssl.write("r.pem", csr(&key, &subject, &[], &mut system_rng()).unwrap());
            openssl.run(&format!("req -verify -noout -in r.pem {options}"));
        }
    }

    #[test]
    fn alternative_names_are_hosts_or_addresses() {
        let key = PrivateKey::generate(AsymmetricSpec::Sm2, &mut system_rng());
        let subject = Subject::parse("CN=a").unwrap();
        for wrong in ["", "a b", "a..b", ".a", "a.*.b", "*", "bücher.example", "a@b.cn", &"a".repeat(64)] {
            let refused = csr(&key, &subject, &names(&[wrong]), &mut system_rng());
            assert_eq!(refused, Err(RequestError::AlternativeName(wrong.to_owned())));
        }
        let many = vec!["a".to_owned(); MAX_NAMES + 1];
        assert_eq!(csr(&key, &subject, &many, &mut system_rng()), Err(RequestError::TooManyNames));
    }
}
