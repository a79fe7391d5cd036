//! A KMS key: its spec, its versions, and the one function that says what its state allows.

mod version;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::{Timestamp, to_iso};
use crate::error::*;

pub use version::{Cipher, KeyVersion};

pub const DAY: i64 = 86_400;

/// What a key can do, apart from its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeySpec {
    #[serde(rename = "AES_256")]
    Aes256,
    #[serde(rename = "Ctyun_SM4")]
    CtyunSm4,
}

impl KeySpec {
    /// Reads a spec; `SM4_128` (the name in code 0221) and `SM4` stand for `Ctyun_SM4`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "AES_256" => Some(KeySpec::Aes256),
            "Ctyun_SM4" | "SM4_128" | "SM4" => Some(KeySpec::CtyunSm4),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            KeySpec::Aes256 => "AES_256",
            KeySpec::CtyunSm4 => "Ctyun_SM4",
        }
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
    /// Encrypt, decrypt, make data keys; also the source of reEncrypt.
    Use,
    ReEncryptTarget,
    Enable,
    Disable,
    ScheduleDeletion,
    CancelDeletion,
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
pub struct Tag {
    #[serde(rename = "tagKey")]
    pub key: String,
    #[serde(rename = "tagValue")]
    pub value: String,
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
    pub tags: Vec<Tag>,
    /// The cloud product whose default CMK this is.
    pub product: Option<String>,
    /// Oldest first; the last is the primary one. Empty until external material has been imported.
    pub versions: Vec<Arc<KeyVersion>>,
}

impl Key {
    /// A key with fresh material, enabled.
    pub fn generate(spec: KeySpec, protection: Protection, now: Timestamp) -> Result<Self, getrandom::Error> {
        let first = KeyVersion::generate(spec, now)?;
        Ok(Key { resting: RestingState::Enabled, versions: vec![Arc::new(first)], ..Key::bare(spec, protection, now) })
    }

    /// A key that waits for external material.
    pub fn external(spec: KeySpec, protection: Protection, now: Timestamp) -> Self {
        Key { origin: Origin::External, ..Key::bare(spec, protection, now) }
    }

    fn bare(spec: KeySpec, protection: Protection, now: Timestamp) -> Self {
        Key {
            id: Uuid::new_v4().to_string(),
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
            tags: Vec::new(),
            product: None,
            versions: Vec::new(),
        }
    }

    /// Adds a version with fresh material, which becomes the primary one.
    pub fn rotate(&mut self, now: Timestamp) -> Result<(), getrandom::Error> {
        self.versions.push(Arc::new(KeyVersion::generate(self.spec, now)?));
        self.last_rotation = Some(now);
        Ok(())
    }

    /// When time alone changes this key next: deletion or rotation.
    pub fn next_change(&self) -> Option<Timestamp> {
        match self.state() {
            KeyState::PendingDeletion => self.delete_at,
            KeyState::Enabled => self.rotation.as_ref().map(|rotation| rotation.next),
            KeyState::Disabled | KeyState::PendingImport => None,
        }
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
            (Operation::Enable, Enabled | Disabled) => Ok(()),
            (Operation::Enable, PendingDeletion | PendingImport) => Err(KMS_0207),
            (Operation::Disable, Enabled | Disabled) => Ok(()),
            (Operation::Disable, PendingDeletion | PendingImport) => Err(KMS_0203),
            (Operation::ScheduleDeletion, PendingDeletion) => Err(KMS_0208),
            (Operation::ScheduleDeletion, _) => Ok(()),
            (Operation::CancelDeletion, PendingDeletion) => Ok(()),
            (Operation::CancelDeletion, _) => Err(KMS_0209),
        }
    }

    pub fn primary(&self) -> Option<&Arc<KeyVersion>> {
        self.versions.last()
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
            "materialExpireTime": "",
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
const REGION: &str = "mock-region";

/// Is this an id as the service writes them: a lower-case hyphenated UUID?
pub fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// `alias/` and 1 to 255 of `[A-Za-z0-9_/-]`.
pub fn is_alias(text: &str) -> bool {
    text.strip_prefix("alias/").is_some_and(|name| {
        (1..=255).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(resting: RestingState, delete_at: Option<Timestamp>) -> Key {
        Key { resting, delete_at, ..Key::external(KeySpec::Aes256, Protection::Software, 0) }
    }

    #[test]
    fn states_and_operations() {
        let states = [
            key(RestingState::Enabled, None),
            key(RestingState::Disabled, None),
            key(RestingState::Enabled, Some(1)),
            key(RestingState::PendingImport, None),
        ];
        let table: [(Operation, [Option<Code>; 4]); 6] = [
            (Operation::Use, [None, Some(KMS_0206), Some(KMS_0203), Some(KMS_0203)]),
            (Operation::ReEncryptTarget, [None, Some(KMS_0246), Some(KMS_0246), Some(KMS_0246)]),
            (Operation::Enable, [None, None, Some(KMS_0207), Some(KMS_0207)]),
            (Operation::Disable, [None, None, Some(KMS_0203), Some(KMS_0203)]),
            (Operation::ScheduleDeletion, [None, None, Some(KMS_0208), None]),
            (Operation::CancelDeletion, [Some(KMS_0209), Some(KMS_0209), None, Some(KMS_0209)]),
        ];
        for (operation, expected) in table {
            for (state, code) in states.iter().zip(expected) {
                assert_eq!(state.judge(operation).err(), code, "{operation:?} of {:?}", state.state());
            }
        }
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
