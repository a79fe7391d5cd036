//! A KMS key: its spec, its versions, and the one function that says what its state allows.

mod version;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::asymmetric::AsymmetricSpec;
use crate::clock::{Timestamp, to_iso};
use crate::error::*;
use crate::random::Random;
use crate::store::Record;

pub use version::{Cipher, KeyVersion, Material};

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// What a key can do, apart from its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeySpec {
    #[serde(rename = "AES_256")]
    Aes256,
    #[serde(rename = "Ctyun_SM4")]
    CtyunSm4,
    #[serde(rename = "RSA_2048")]
    Rsa2048,
    #[serde(rename = "Ctyun_SM2")]
    CtyunSm2,
}

impl KeySpec {
    /// Reads a spec; `SM4_128` (the name in code 0221) and `SM4` stand for `Ctyun_SM4`, `EC_SM2` and `SM2` for `Ctyun_SM2`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "AES_256" => Some(KeySpec::Aes256),
            "Ctyun_SM4" | "SM4_128" | "SM4" => Some(KeySpec::CtyunSm4),
            "RSA_2048" => Some(KeySpec::Rsa2048),
            "Ctyun_SM2" | "EC_SM2" | "SM2" => Some(KeySpec::CtyunSm2),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            KeySpec::Aes256 => "AES_256",
            KeySpec::CtyunSm4 => "Ctyun_SM4",
            KeySpec::Rsa2048 => "RSA_2048",
            KeySpec::CtyunSm2 => "Ctyun_SM2",
        }
    }

    /// `None` for a symmetric spec.
    pub fn asymmetric(self) -> Option<AsymmetricSpec> {
        match self {
            KeySpec::Aes256 | KeySpec::CtyunSm4 => None,
            KeySpec::Rsa2048 => Some(AsymmetricSpec::Rsa2048),
            KeySpec::CtyunSm2 => Some(AsymmetricSpec::Sm2),
        }
    }

    pub fn is_symmetric(self) -> bool {
        self.asymmetric().is_none()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyUsage {
    #[serde(rename = "ENCRYPT/DECRYPT")]
    EncryptDecrypt,
    #[serde(rename = "SIGN/VERIFY")]
    SignVerify,
}

impl KeyUsage {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ENCRYPT/DECRYPT" => Some(KeyUsage::EncryptDecrypt),
            "SIGN/VERIFY" => Some(KeyUsage::SignVerify),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            KeyUsage::EncryptDecrypt => "ENCRYPT/DECRYPT",
            KeyUsage::SignVerify => "SIGN/VERIFY",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protection {
    #[serde(rename = "SOFTWARE")]
    Software,
    #[serde(rename = "HSM")]
    Hsm,
}

impl Protection {
    /// Any case; the digits are those of the certificate API.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "SOFTWARE" | "1" => Some(Protection::Software),
            "HSM" | "0" => Some(Protection::Hsm),
            _ => None,
        }
    }

    /// Of a key for which nobody asked for another: hardware, as most specs need it.
    pub fn of_new(spec: KeySpec) -> Self {
        if spec == KeySpec::Aes256 { Protection::Software } else { Protection::Hsm }
    }

    pub fn name(self) -> &'static str {
        match self {
            Protection::Software => "SOFTWARE",
            Protection::Hsm => "HSM",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    #[serde(rename = "CTYUN_KMS")]
    CtyunKms,
    #[serde(rename = "EXTERNAL")]
    External,
}

impl Origin {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "CTYUN_KMS" => Some(Origin::CtyunKms),
            "EXTERNAL" => Some(Origin::External),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Origin::CtyunKms => "CTYUN_KMS",
            Origin::External => "EXTERNAL",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    Enabled,
    Disabled,
    PendingDeletion,
    PendingImport,
}

impl KeyState {
    pub fn name(self) -> &'static str {
        match self {
            KeyState::Enabled => "Enabled",
            KeyState::Disabled => "Disabled",
            KeyState::PendingDeletion => "PendingDeletion",
            KeyState::PendingImport => "PendingImport",
        }
    }
}

/// What somebody wants to do with a key, as far as its state matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Encrypt, decrypt, sign, verify, make data keys; also the source of reEncrypt.
    Use,
    ReEncryptTarget,
    Hmac,
    PublicKey,
    Enable,
    Disable,
    ScheduleDeletion,
    CancelDeletion,
    ProtectFromDeletion,
    /// Become the target of a new alias.
    TakeAlias,
    /// Become the target of an alias that has another one.
    TakeOverAlias,
    /// getParametersForImport, importKeyMaterial, deleteKeyMaterial.
    Import,
    NewVersion,
    RotationPolicy,
}

/// A state that outlives a deletion plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestingState {
    Enabled,
    Disabled,
    PendingImport,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rotation {
    pub interval_days: u32,
    pub next: Timestamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    pub id: String,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub origin: Origin,
    pub protection: Protection,
    pub description: String,
    pub created: Timestamp,
    /// The state, and under a deletion plan the state it returns to when the plan is cancelled.
    pub resting: RestingState,
    /// When the key will be deleted for good, while that is planned.
    pub delete_at: Option<Timestamp>,
    pub rotation: Option<Rotation>,
    pub last_rotation: Option<Timestamp>,
    pub deletion_protection: bool,
    pub creator: String,
    pub instance_id: String,
    pub ep_id: String,
    /// The cloud product whose default CMK this is.
    pub product: Option<String>,
    /// Oldest first; of a symmetric key the last is the primary one. Empty while external material is not there.
    pub versions: Vec<Arc<KeyVersion>>,
    /// What the first import of external material has fixed for ever.
    #[serde(default)]
    pub imported: Option<Imported>,
    /// When external material will be erased.
    #[serde(default)]
    pub material_expires: Option<Timestamp>,
}

/// The version that external material makes, and by which it is known when it comes again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Imported {
    pub version_id: String,
    pub created: Timestamp,
    /// SHA-256 of the version id and the material, in hexadecimal.
    pub fingerprint: String,
}

/// Another name of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alias {
    /// `alias/…`
    pub name: String,
    pub cmk_uuid: String,
}

impl Record for Alias {
    const TABLE: &'static str = "alias_names";

    fn id(&self) -> &str {
        &self.name
    }
}

impl Record for Key {
    const TABLE: &'static str = "keys";

    fn id(&self) -> &str {
        &self.id
    }

    /// Deletion, rotation, or the end of imported material.
    fn due(&self) -> Option<Timestamp> {
        let change = match self.state() {
            KeyState::PendingDeletion => self.delete_at,
            KeyState::Enabled => self.rotation.as_ref().map(|rotation| rotation.next),
            KeyState::Disabled | KeyState::PendingImport => None,
        };
        let expiry = self.material_expires.filter(|_| !self.versions.is_empty());
        change.into_iter().chain(expiry).min()
    }
}

impl Key {
    /// A key with fresh material, enabled.
    pub fn generate(spec: KeySpec, protection: Protection, now: Timestamp, random: &Random) -> Self {
        let key = Key::bare(spec, protection, now, random.id());
        let first = KeyVersion::generate(spec, now, random);
        Key { resting: RestingState::Enabled, versions: vec![Arc::new(first)], ..key }
    }

    /// A key that waits for external material.
    pub fn external(spec: KeySpec, protection: Protection, now: Timestamp, random: &Random) -> Self {
        Key { origin: Origin::External, ..Key::bare(spec, protection, now, random.id()) }
    }

    /// A key without any material.
    pub fn bare(spec: KeySpec, protection: Protection, now: Timestamp, id: String) -> Self {
        Key {
            id,
            spec,
            usage: KeyUsage::EncryptDecrypt,
            origin: Origin::CtyunKms,
            protection,
            description: String::new(),
            created: now,
            resting: RestingState::PendingImport,
            delete_at: None,
            rotation: None,
            last_rotation: None,
            deletion_protection: false,
            creator: String::new(),
            instance_id: String::new(),
            ep_id: String::new(),
            product: None,
            versions: Vec::new(),
            imported: None,
            material_expires: None,
        }
    }

    /// Adds a version with fresh material, which becomes the primary one.
    pub fn rotate(&mut self, now: Timestamp, random: &Random) {
        self.add_version(KeyVersion::generate(self.spec, now, random), now);
    }

    pub fn add_version(&mut self, version: KeyVersion, now: Timestamp) {
        self.versions.push(Arc::new(version));
        self.last_rotation = Some(now);
        if let Some(rotation) = &mut self.rotation {
            rotation.next = now + i64::from(rotation.interval_days) * DAY;
        }
    }

    /// Erases external material; only the same may come back.
    pub fn erase_material(&mut self) {
        self.versions.clear();
        self.material_expires = None;
        self.resting = RestingState::PendingImport;
    }

    /// What time has made of this key by now; `None` if it is deleted for good.
    pub fn aged(&self, now: Timestamp, random: &Random) -> Option<Key> {
        let mut key = self.clone();
        if key.delete_at.is_some_and(|at| at <= now) {
            return None;
        }
        if key.material_expires.is_some_and(|at| at <= now) {
            key.erase_material();
        }
        let rotation_due = key.rotation.as_ref().is_some_and(|rotation| rotation.next <= now);
        if rotation_due && key.state() == KeyState::Enabled {
            key.rotate(now, random);
        }
        Some(key)
    }

    pub fn state(&self) -> KeyState {
        match (self.delete_at, self.resting) {
            (Some(_), _) => KeyState::PendingDeletion,
            (None, RestingState::Enabled) => KeyState::Enabled,
            (None, RestingState::Disabled) => KeyState::Disabled,
            (None, RestingState::PendingImport) => KeyState::PendingImport,
        }
    }

    /// The one judge of states: may this be done to a key in this state, and with which code is it refused?
    pub fn judge(&self, operation: Operation) -> Result<(), Code> {
        use KeyState::*;
        match (operation, self.state()) {
            (Operation::Use, Enabled) => Ok(()),
            (Operation::Use, Disabled) => Err(KMS_0206),
            (Operation::Use, PendingDeletion | PendingImport) => Err(KMS_0203),
            (Operation::ReEncryptTarget, Enabled) => Ok(()),
            (Operation::ReEncryptTarget, _) => Err(KMS_0246),
            (Operation::Hmac, Enabled) => Ok(()),
            (Operation::Hmac, _) => Err(KMS_0306),
            (Operation::Enable, Enabled | Disabled) => Ok(()),
            (Operation::Enable, PendingDeletion | PendingImport) => Err(KMS_0207),
            (Operation::Disable, Enabled | Disabled) => Ok(()),
            (Operation::Disable, PendingDeletion | PendingImport) => Err(KMS_0203),
            (Operation::ScheduleDeletion, PendingDeletion) => Err(KMS_0208),
            (Operation::ScheduleDeletion, _) if self.deletion_protection => Err(KMS_0203),
            (Operation::ScheduleDeletion, _) => Ok(()),
            (Operation::CancelDeletion, PendingDeletion) => Ok(()),
            (Operation::CancelDeletion, _) => Err(KMS_0209),
            (Operation::TakeAlias, PendingDeletion) => Err(KMS_0233),
            (Operation::TakeOverAlias, PendingDeletion) => Err(KMS_0304),
            (Operation::PublicKey | Operation::ProtectFromDeletion | Operation::Import, PendingDeletion) => {
                Err(KMS_0203)
            }
            (
                Operation::PublicKey
                | Operation::ProtectFromDeletion
                | Operation::Import
                | Operation::TakeAlias
                | Operation::TakeOverAlias,
                Enabled | Disabled | PendingImport,
            ) => Ok(()),
            (Operation::NewVersion | Operation::RotationPolicy, Enabled) => Ok(()),
            (Operation::NewVersion | Operation::RotationPolicy, Disabled | PendingDeletion) => Err(KMS_0230),
            (Operation::NewVersion, PendingImport) => Err(KMS_0306),
            (Operation::RotationPolicy, PendingImport) => Err(KMS_0211),
        }
    }

    pub fn enable(&mut self) -> Result<(), Code> {
        self.judge(Operation::Enable)?;
        self.resting = RestingState::Enabled;
        Ok(())
    }

    pub fn disable(&mut self) -> Result<(), Code> {
        self.judge(Operation::Disable)?;
        self.resting = RestingState::Disabled;
        Ok(())
    }

    pub fn schedule_deletion(&mut self, at: Timestamp) -> Result<(), Code> {
        self.judge(Operation::ScheduleDeletion)?;
        self.delete_at = Some(at);
        Ok(())
    }

    pub fn cancel_deletion(&mut self) -> Result<(), Code> {
        self.judge(Operation::CancelDeletion)?;
        self.delete_at = None;
        Ok(())
    }

    /// The version that encrypts unless another is named. Asymmetric keys have none: their callers name it.
    pub fn primary(&self) -> Option<&Arc<KeyVersion>> {
        self.versions.last().filter(|_| self.spec.is_symmetric())
    }

    pub fn version(&self, id: &str) -> Option<&Arc<KeyVersion>> {
        self.versions.iter().find(|version| version.id == id)
    }

    /// `keyMetadata` of describeKey, createKey and listKeys.
    pub fn metadata(&self) -> Map<String, Value> {
        let date = |at: Option<Timestamp>| at.map(to_iso).unwrap_or_default();
        let rotation = self.rotation.as_ref();
        let Value::Object(map) = json!({
            "cmkUuid": self.id,
            "keyState": self.state().name(),
            "keySpec": self.spec.name(),
            "keyUsage": self.usage.name(),
            "origin": self.origin.name(),
            "protectionLevel": self.protection.name(),
            "description": self.description,
            "creationDate": to_iso(self.created),
            "deleteDate": date(self.delete_at),
            "primaryKeyVersion": self.primary().map(|version| version.id.as_str()).unwrap_or_default(),
            "automaticRotation": self.automatic_rotation(),
            "rotationInterval": rotation.map(|rotation| rotation.interval_days.to_string()).unwrap_or_default(),
            "lastRotationDate": date(self.last_rotation),
            "nextRotationDate": date(rotation.map(|rotation| rotation.next)),
            "materialExpireTime": date(self.material_expires),
            "deletionProtection": if self.deletion_protection { "Enabled" } else { "Disabled" },
            "creator": self.creator,
            "regionId": REGION,
            "instanceId": self.instance_id,
            "epId": self.ep_id,
            "isDefault": self.product.is_some(),
        }) else {
            return Map::new();
        };
        map
    }

    /// Rotation is suspended, not forgotten, while the key is not enabled.
    fn automatic_rotation(&self) -> &'static str {
        match (&self.rotation, self.state()) {
            (None, _) => "Disabled",
            (Some(_), KeyState::Enabled) => "Enabled",
            (Some(_), _) => "Suspended",
        }
    }
}

/// The mock is one region.
pub const REGION: &str = "mock-region";

/// Is this an id as the service writes them: a lower-case hyphenated UUID?
pub fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Longest alias after `alias/`.
pub const MAX_ALIAS: usize = 255;

/// `alias/` and 1 to 255 of `[A-Za-z0-9_/-]`.
pub fn is_alias(text: &str) -> bool {
    text.strip_prefix("alias/").is_some_and(|name| {
        (1..=MAX_ALIAS).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(resting: RestingState, delete_at: Option<Timestamp>) -> Key {
        Key { resting, delete_at, ..Key::bare(KeySpec::Aes256, Protection::Software, 0, String::new()) }
    }

    /// The table of states and operations in the specification, in the order Enabled, Disabled, PendingDeletion, PendingImport.
    #[test]
    fn states_and_operations() {
        let states = [
            key(RestingState::Enabled, None),
            key(RestingState::Disabled, None),
            key(RestingState::Enabled, Some(1)),
            key(RestingState::PendingImport, None),
        ];
        let table: [(Operation, [Option<Code>; 4]); 14] = [
            (Operation::Use, [None, Some(KMS_0206), Some(KMS_0203), Some(KMS_0203)]),
            (Operation::ReEncryptTarget, [None, Some(KMS_0246), Some(KMS_0246), Some(KMS_0246)]),
            (Operation::Hmac, [None, Some(KMS_0306), Some(KMS_0306), Some(KMS_0306)]),
            (Operation::PublicKey, [None, None, Some(KMS_0203), None]),
            (Operation::Enable, [None, None, Some(KMS_0207), Some(KMS_0207)]),
            (Operation::Disable, [None, None, Some(KMS_0203), Some(KMS_0203)]),
            (Operation::ScheduleDeletion, [None, None, Some(KMS_0208), None]),
            (Operation::CancelDeletion, [Some(KMS_0209), Some(KMS_0209), None, Some(KMS_0209)]),
            (Operation::ProtectFromDeletion, [None, None, Some(KMS_0203), None]),
            (Operation::NewVersion, [None, Some(KMS_0230), Some(KMS_0230), Some(KMS_0306)]),
            (Operation::RotationPolicy, [None, Some(KMS_0230), Some(KMS_0230), Some(KMS_0211)]),
            (Operation::TakeAlias, [None, None, Some(KMS_0233), None]),
            (Operation::TakeOverAlias, [None, None, Some(KMS_0304), None]),
            (Operation::Import, [None, None, Some(KMS_0203), None]),
        ];
        for (operation, expected) in table {
            for (state, code) in states.iter().zip(expected) {
                assert_eq!(state.judge(operation).err(), code, "{operation:?} of {:?}", state.state());
            }
        }
    }

    #[test]
    fn a_protected_key_cannot_be_scheduled_for_deletion() {
        let mut protected = Key { deletion_protection: true, ..key(RestingState::Enabled, None) };
        assert_eq!((protected.schedule_deletion(9), protected.delete_at), (Err(KMS_0203), None));
        protected.deletion_protection = false;
        assert_eq!((protected.schedule_deletion(9), protected.delete_at), (Ok(()), Some(9)));
    }

    #[test]
    fn imported_material_ends_in_time() {
        let random = Random::from_seed("key");
        let first = KeyVersion::generate(KeySpec::Aes256, 0, &random);
        let key =
            Key { versions: vec![Arc::new(first)], material_expires: Some(50), ..key(RestingState::Enabled, None) };
        assert_eq!((key.due(), key.aged(49, &random).expect("alive").state()), (Some(50), KeyState::Enabled));
        let aged = key.aged(50, &random).expect("alive");
        assert_eq!((aged.state(), aged.versions.len(), aged.due()), (KeyState::PendingImport, 0, None));
        // It ends while a deletion is planned, too.
        let dying = Key { delete_at: Some(100), ..key };
        assert_eq!(dying.due(), Some(50));
        let aged = dying.aged(60, &random).expect("alive");
        assert_eq!(
            (aged.state(), aged.resting, aged.due()),
            (KeyState::PendingDeletion, RestingState::PendingImport, Some(100))
        );
        assert!(aged.aged(100, &random).is_none());
    }

    #[test]
    fn ids_and_aliases() {
        assert!(is_id("241ede22-6261-4617-9caf-10d89990516c"));
        for text in ["", "241EDE22-6261-4617-9caf-10d89990516c", "241ede2266261-4617-9caf-10d89990516c", "x"] {
            assert!(!is_id(text), "{text}");
        }
        assert!(is_alias("alias/ecs") && is_alias(&format!("alias/{}", "a".repeat(255))));
        for text in ["alias/", "ecs", "alias/e cs", "alias/é", &format!("alias/{}", "a".repeat(256))] {
            assert!(!is_alias(text), "{text}");
        }
    }
}
