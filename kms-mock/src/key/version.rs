//! One version of a key: its material, the ciphers expanded from it, and the form in which it is stored.

use aes::Aes256;
use aes_gcm::AesGcm;
use aes_gcm::aead::KeyInit;
use aes_gcm::aead::consts::U12;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sm4::Sm4;
use zeroize::{Zeroize, Zeroizing};

use super::KeySpec;
use crate::asymmetric::{AsymmetricSpec, PrivateKey};
use crate::clock::Timestamp;
use crate::random::Random;

/// One version of a key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "StoredVersion", into = "StoredVersion")]
pub struct KeyVersion {
    pub id: String,
    pub created: Timestamp,
    pub material: Material,
}

#[derive(Clone)]
pub enum Material {
    /// The bytes, and the cipher expanded from them.
    Symmetric {
        cipher: Cipher,
        bytes: Zeroizing<Vec<u8>>,
    },
    Asymmetric(PrivateKey),
}

/// The block cipher and its GCM mode under one version; boxed because the expanded keys are large.
#[derive(Clone)]
pub enum Cipher {
    Aes256 { block: Box<Aes256>, gcm: Box<AesGcm<Aes256, U12>> },
    Sm4 { block: Box<Sm4>, gcm: Box<AesGcm<Sm4, U12>> },
}

impl KeyVersion {
    /// With fresh material.
    pub fn generate(spec: KeySpec, now: Timestamp, random: &Random) -> Self {
        let id = random.id();
        let material = match spec.asymmetric() {
            Some(spec) => Material::Asymmetric(PrivateKey::generate(spec, &mut random.fork())),
            None => Material::symmetric(spec, random.bytes(material_len(spec)))
                .expect("the material has the length of its spec"),
        };
        KeyVersion { id, created: now, material }
    }

    /// `None` if the material has not the form of the spec: 32 bytes for AES_256, 16 for SM4, else a PKCS#8 document.
    pub fn new(id: String, spec: KeySpec, material: Zeroizing<Vec<u8>>, created: Timestamp) -> Option<Self> {
        let material = match spec.asymmetric() {
            Some(wanted) => {
                Material::Asymmetric(PrivateKey::from_pkcs8_der(&material).filter(|key| key.spec() == wanted)?)
            }
            None => Material::symmetric(spec, material)?,
        };
        Some(KeyVersion { id, created, material })
    }

    /// The cipher; `None` for a version of an asymmetric key.
    pub fn cipher(&self) -> Option<&Cipher> {
        match &self.material {
            Material::Symmetric { cipher, .. } => Some(cipher),
            Material::Asymmetric(_) => None,
        }
    }

    /// The key pair; `None` for a version of a symmetric key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        match &self.material {
            Material::Symmetric { .. } => None,
            Material::Asymmetric(key) => Some(key),
        }
    }

    fn spec(&self) -> KeySpec {
        match &self.material {
            Material::Symmetric { cipher: Cipher::Aes256 { .. }, .. } => KeySpec::Aes256,
            Material::Symmetric { cipher: Cipher::Sm4 { .. }, .. } => KeySpec::CtyunSm4,
            Material::Asymmetric(key) => match key.spec() {
                AsymmetricSpec::Rsa2048 => KeySpec::Rsa2048,
                AsymmetricSpec::Sm2 => KeySpec::CtyunSm2,
            },
        }
    }

    fn stored_material(&self) -> Zeroizing<Vec<u8>> {
        match &self.material {
            Material::Symmetric { bytes, .. } => bytes.clone(),
            Material::Asymmetric(key) => key.to_pkcs8_der(),
        }
    }
}

impl Material {
    fn symmetric(spec: KeySpec, bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        let cipher = match spec {
            KeySpec::Aes256 => Cipher::Aes256 {
                block: Box::new(Aes256::new_from_slice(&bytes).ok()?),
                gcm: Box::new(AesGcm::new_from_slice(&bytes).ok()?),
            },
            KeySpec::CtyunSm4 => Cipher::Sm4 {
                block: Box::new(Sm4::new_from_slice(&bytes).ok()?),
                gcm: Box::new(AesGcm::new_from_slice(&bytes).ok()?),
            },
            KeySpec::Rsa2048 | KeySpec::CtyunSm2 => return None,
        };
        Some(Material::Symmetric { cipher, bytes })
    }
}

impl std::fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyVersion({})", self.id)
    }
}

/// Bytes of symmetric material.
fn material_len(spec: KeySpec) -> usize {
    match spec {
        KeySpec::CtyunSm4 => 16,
        _ => 32,
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
        let (spec, material) = (version.spec(), BASE64.encode(&*version.stored_material()));
        StoredVersion { id: version.id, spec, created: version.created, material }
    }
}

impl TryFrom<StoredVersion> for KeyVersion {
    type Error = &'static str;

    fn try_from(stored: StoredVersion) -> Result<Self, Self::Error> {
        let material = Zeroizing::new(BASE64.decode(&stored.material).map_err(|_| "key material is not Base64")?);
        KeyVersion::new(stored.id.clone(), stored.spec, material, stored.created)
            .ok_or("key material has not the form of its spec")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, Protection};

    #[test]
    fn a_key_survives_the_store_and_does_not_print_its_material() {
        let random = Random::from_seed("version");
        for spec in [KeySpec::Aes256, KeySpec::CtyunSm4, KeySpec::Rsa2048, KeySpec::CtyunSm2] {
            let key = Key::generate(spec, Protection::Hsm, 7, &random);
            let stored = serde_json::to_string(&key).expect("serializable");
            let back: Key = serde_json::from_str(&stored).expect("readable");
            let material = key.versions[0].stored_material();
            assert_eq!(*back.versions[0].stored_material(), *material);
            assert_eq!(back.metadata(), key.metadata());
            assert!(!format!("{key:?}").contains(&BASE64.encode(&*material)));
            let other = if spec == KeySpec::Aes256 { KeySpec::CtyunSm2 } else { KeySpec::Aes256 };
            assert!(serde_json::from_str::<Key>(&stored.replace(spec.name(), other.name())).is_err());
        }
    }
}
