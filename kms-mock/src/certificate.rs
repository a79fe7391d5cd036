//! The certificates that the KMS manages, with their private keys; those of USB keys, without; and what their state allows.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::access::ResourceType;
use crate::asymmetric::{AsymmetricSpec, PrivateKey};
use crate::clock::Timestamp;
use crate::error::*;
use crate::key::{DAY, Protection};
use crate::pki::Certificate;
use crate::store::{Record, State};

/// How long a deleted certificate is told from one that never was.
pub const TOMBSTONE_LIFE: i64 = 30 * DAY;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// There is a request, but no certificate yet.
    Pending,
    Active,
    Inactive,
    /// For good.
    Revoked,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Active => "ACTIVE",
            Status::Inactive => "INACTIVE",
            Status::Revoked => "REVOKED",
        }
    }

    /// A status that somebody may ask for: any but `PENDING`.
    pub fn parse(text: &str) -> Option<Self> {
        [Status::Active, Status::Inactive, Status::Revoked].into_iter().find(|status| status.name() == text)
    }

    /// May it become the other one?
    pub fn judge_change(self, to: Status) -> Result<(), Code> {
        match (self, to) {
            (Status::Pending, _) => Err(KMS_0257),
            (Status::Revoked, _) => Err(KMS_0259),
            (Status::Active, Status::Active) => Err(KMS_0258),
            (Status::Inactive, Status::Inactive) => Err(KMS_0260),
            (Status::Active | Status::Inactive, _) => Ok(()),
        }
    }

    /// May a certificate be issued for the request?
    pub fn judge_upload(self) -> Result<(), Code> {
        match self {
            Status::Pending => Ok(()),
            Status::Active | Status::Inactive => Err(KMS_0258),
            Status::Revoked => Err(KMS_0259),
        }
    }

    fn judge_use(self) -> Result<(), Code> {
        match self {
            Status::Active => Ok(()),
            Status::Pending => Err(KMS_0257),
            Status::Inactive => Err(KMS_0260),
            Status::Revoked => Err(KMS_0259),
        }
    }
}

/// A certificate with its private key, or the request for one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManagedCertificate {
    pub id: String,
    pub status: Status,
    #[serde(with = "stored_key")]
    pub key: PrivateKey,
    pub exportable: bool,
    pub protection: Protection,
    /// As it was asked for, until there is a certificate.
    pub subject: String,
    /// As they were asked for, until there is a certificate.
    pub alternative_names: Vec<String>,
    /// PEM; "" if the certificate came with its key.
    pub csr: String,
    /// There unless the status is `Pending`.
    pub issued: Option<Issued>,
    pub instance_id: String,
    pub ep_id: String,
    pub created: Timestamp,
    pub updated: Timestamp,
}

/// What an authority has issued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Issued {
    #[serde(with = "stored_certificate")]
    pub leaf: Certificate,
    /// The issuer of the leaf first, as far as it is known.
    pub chain: Vec<StoredCertificate>,
}

/// A certificate as an element of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredCertificate(#[serde(with = "stored_certificate")] pub Certificate);

impl Record for ManagedCertificate {
    const TABLE: &'static str = "certificates";

    fn id(&self) -> &str {
        &self.id
    }
}

impl ManagedCertificate {
    /// May it sign, verify, encrypt and decrypt?
    pub fn judge_use(&self, now: Timestamp) -> Result<(), Code> {
        self.status.judge_use()?;
        let leaf = self.issued.as_ref().map(|issued| &issued.leaf).ok_or(KMS_0257)?;
        if (leaf.not_before()..=leaf.not_after()).contains(&now) { Ok(()) } else { Err(KMS_0143) }
    }

    /// The name that the API has for the spec of the key.
    pub fn key_spec(&self) -> &'static str {
        spec_name(self.key.spec())
    }
}

/// A spec of a certificate's key, in one of the spellings that clients use.
pub fn parse_spec(text: &str) -> Option<AsymmetricSpec> {
    match text {
        "RSA2048" | "RSA_2048" | "RSA 2048" => Some(AsymmetricSpec::Rsa2048),
        "SM2" | "Ctyun_SM2" => Some(AsymmetricSpec::Sm2),
        _ => None,
    }
}

fn spec_name(spec: AsymmetricSpec) -> &'static str {
    match spec {
        AsymmetricSpec::Rsa2048 => "RSA2048",
        AsymmetricSpec::Sm2 => "SM2",
    }
}

/// The certificate of a USB key, whose private key is nowhere else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UkeyCertificate {
    pub id: String,
    pub name: String,
    /// Never `Pending`.
    pub status: Status,
    #[serde(with = "stored_certificate")]
    pub certificate: Certificate,
    pub created: Timestamp,
}

impl Record for UkeyCertificate {
    const TABLE: &'static str = "ukey_certificates";

    fn id(&self) -> &str {
        &self.id
    }
}

impl UkeyCertificate {
    /// The name that the import API has for the spec of the key.
    pub fn algorithm(&self) -> &'static str {
        match self.certificate.public_key().map(|key| key.spec()) {
            Some(AsymmetricSpec::Sm2) => "SM2",
            _ => "RSA 2048",
        }
    }

    /// May it verify?
    pub fn judge_use(&self, now: Timestamp) -> Result<(), Code> {
        self.status.judge_use()?;
        let valid = self.certificate.not_before()..=self.certificate.not_after();
        if valid.contains(&now) { Ok(()) } else { Err(KMS_0143) }
    }
}

/// What is left of a deleted certificate of either kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tombstone {
    pub id: String,
    pub until: Timestamp,
}

impl Record for Tombstone {
    const TABLE: &'static str = "certificate_tombstones";

    fn id(&self) -> &str {
        &self.id
    }

    fn due(&self) -> Option<Timestamp> {
        Some(self.until)
    }
}

impl State {
    /// Deletes a certificate of either kind, with its tags, and leaves a tombstone.
    pub fn delete_certificate(&mut self, id: &str, now: Timestamp) {
        self.certificates.remove(id);
        self.ukey_certificates.remove(id);
        self.unbind_all(ResourceType::Certificate, id);
        self.tombstones.put(Tombstone { id: id.to_owned(), until: now + TOMBSTONE_LIFE });
    }
}

/// A private key in the store: PKCS#8 in Base64.
mod stored_key {
    use super::*;

    pub fn serialize<S: Serializer>(key: &PrivateKey, serializer: S) -> Result<S::Ok, S::Error> {
        Zeroizing::new(BASE64.encode(&*key.to_pkcs8_der())).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PrivateKey, D::Error> {
        let text = Zeroizing::<String>::deserialize(deserializer)?;
        let der = BASE64.decode(&*text).map(Zeroizing::new).ok();
        der.and_then(|der| PrivateKey::from_pkcs8_der(&der)).ok_or(D::Error::custom("this is no private key"))
    }
}

/// A certificate in the store: DER in Base64.
mod stored_certificate {
    use super::*;

    pub fn serialize<S: Serializer>(certificate: &Certificate, serializer: S) -> Result<S::Ok, S::Error> {
        BASE64.encode(certificate.der()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Certificate, D::Error> {
        let der = BASE64.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        Certificate::from_der(&der).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_status() {
        use Status::*;
        let code = |from: Status, to| from.judge_change(to).err().map(|code| code.code);
        for (from, codes) in [
            (Pending, [Some("KMS0257"); 3]),
            (Active, [Some("KMS0258"), None, None]),
            (Inactive, [None, Some("KMS0260"), None]),
            (Revoked, [Some("KMS0259"); 3]),
        ] {
            assert_eq!([Active, Inactive, Revoked].map(|to| code(from, to)), codes, "{from:?}");
            assert_eq!(Status::parse(from.name()), Some(from).filter(|status| *status != Pending));
        }
    }
}
