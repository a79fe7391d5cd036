//! One version of a key: its material, the ciphers expanded from it, and the form in which it is stored.

use aes::Aes256;
use aes_gcm::AesGcm;
use aes_gcm::aead::KeyInit;
use aes_gcm::aead::consts::U12;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sm4::Sm4;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::KeySpec;
use crate::clock::Timestamp;

/// Material of a key with its expanded ciphers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "StoredVersion", into = "StoredVersion")]
pub struct KeyVersion {
    pub id: String,
    pub created: Timestamp,
    pub cipher: Cipher,
    material: Zeroizing<Vec<u8>>,
}

/// The block cipher and its GCM mode under one version; boxed because the expanded keys are large.
#[derive(Clone)]
pub enum Cipher {
    Aes256 { block: Box<Aes256>, gcm: Box<AesGcm<Aes256, U12>> },
    Sm4 { block: Box<Sm4>, gcm: Box<AesGcm<Sm4, U12>> },
}

impl KeyVersion {
    pub fn generate(spec: KeySpec, now: Timestamp) -> Result<Self, getrandom::Error> {
        let mut material = Zeroizing::new(vec![0; material_len(spec)]);
        getrandom::fill(&mut material)?;
        let id = Uuid::new_v4().to_string();
        Ok(KeyVersion::new(id, spec, material, now).expect("the material has the length of its spec"))
    }

    /// `None` if the material has not the length of the spec.
    pub fn new(id: String, spec: KeySpec, material: Zeroizing<Vec<u8>>, created: Timestamp) -> Option<Self> {
        let cipher = match spec {
            KeySpec::Aes256 => Cipher::Aes256 {
                block: Box::new(Aes256::new_from_slice(&material).ok()?),
                gcm: Box::new(AesGcm::new_from_slice(&material).ok()?),
            },
            KeySpec::CtyunSm4 => Cipher::Sm4 {
                block: Box::new(Sm4::new_from_slice(&material).ok()?),
                gcm: Box::new(AesGcm::new_from_slice(&material).ok()?),
            },
        };
        Some(KeyVersion { id, created, cipher, material })
    }

    fn spec(&self) -> KeySpec {
        match self.cipher {
            Cipher::Aes256 { .. } => KeySpec::Aes256,
            Cipher::Sm4 { .. } => KeySpec::CtyunSm4,
        }
    }
}

impl std::fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyVersion({})", self.id)
    }
}

/// Bytes of material: 32 for AES_256, 16 for SM4.
fn material_len(spec: KeySpec) -> usize {
    match spec {
        KeySpec::Aes256 => 32,
        KeySpec::CtyunSm4 => 16,
    }
}

/// A version as it lies in the store.
#[derive(Serialize, Deserialize)]
struct StoredVersion {
    id: String,
    spec: KeySpec,
    created: Timestamp,
    material: String,
}

impl Drop for StoredVersion {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

impl From<KeyVersion> for StoredVersion {
    fn from(version: KeyVersion) -> Self {
        let (spec, material) = (version.spec(), BASE64.encode(&*version.material));
        StoredVersion { id: version.id, spec, created: version.created, material }
    }
}

impl TryFrom<StoredVersion> for KeyVersion {
    type Error = &'static str;

    fn try_from(stored: StoredVersion) -> Result<Self, Self::Error> {
        let material = Zeroizing::new(BASE64.decode(&stored.material).map_err(|_| "key material is not Base64")?);
        KeyVersion::new(stored.id.clone(), stored.spec, material, stored.created)
            .ok_or("key material has not the length of its spec")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Protection};

    #[test]
    fn a_key_survives_the_store_and_does_not_print_its_material() {
        let key = Key::generate(KeySpec::CtyunSm4, Protection::Hsm, 7).expect("random source");
        let stored = serde_json::to_string(&key).expect("serializable");
        let back: Key = serde_json::from_str(&stored).expect("readable");
        assert_eq!(*back.versions[0].material, *key.versions[0].material);
        assert_eq!(back.metadata(), key.metadata());
        assert!(!format!("{key:?}").contains(&BASE64.encode(&*key.versions[0].material)));
        let short = stored.replace("Ctyun_SM4", "AES_256");
        assert!(serde_json::from_str::<Key>(&short).is_err());
    }
}
