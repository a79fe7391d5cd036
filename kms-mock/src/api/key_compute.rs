//! Cryptographic operations with symmetric keys: encrypt, decrypt, reEncrypt, hmacSM3.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::{Call, KeyName, Reply, base64, key_name, step, texts};
use crate::asymmetric::{DecryptError, EncryptAlgorithm, hmac_sm3 as hmac};
use crate::blob::{self, Blob};
use crate::error::*;
use crate::key::{Key, KeyUsage, KeyVersion, Material, Operation, is_alias, is_id};

/// Longest plaintext of encrypt, and input of hmacSM3, in bytes.
const MAX_PLAINTEXT: usize = 6144;

pub fn encrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let plain = call.required("plaintext", KMS_0107)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, true)?;
    let plain = base64(plain, KMS_0252)?;
    if plain.len() > MAX_PLAINTEXT {
        return Err(KMS_0249.into());
    }
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    usable(call, &key)?;
    call.reach(step::OPERATION)?;
    seal(call, &key, &plain)
}

pub fn decrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let text = call.required("ciphertextBlob", KMS_0108)?;
    call.reach(step::FORMAT)?;
    let blob = Blob::parse(text).ok_or(KMS_0219)?;
    call.reach(step::EXISTENCE)?;
    let (key, version) = blob_key(call, &blob)?;
    usable(call, &key)?;
    call.reach(step::OPERATION)?;
    call.service.usage.count(&key.id);
    let plain = blob.open(&version, call.switches.payload_mode).ok_or(KMS_0219)?;
    let mut reply = texts([("cmkUuid", &key.id), ("keyVersionId", &version.id)]);
    reply.insert("plaintext".to_owned(), BASE64.encode(&*plain).into());
    Ok(reply)
}

pub fn re_encrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let text = call.required("ciphertextBlob", KMS_0108)?;
    let destination = match call.fields.text("destinationCmkUuid") {
        None => return Err(KMS_0112.into()),
        Some("") => return Err(KMS_0109.into()),
        Some(destination) => destination,
    };
    let source = AsymmetricSource::read(call)?;
    call.reach(step::FORMAT)?;
    let destination = destination_name(destination)?;
    let plain = match source {
        Some(source) => source.open(call, text, destination)?,
        None => open_symmetric(call, text, destination)?,
    };
    if plain.len() > MAX_PLAINTEXT {
        return Err(KMS_0249.into());
    }
    // It may have changed since it was judged; then the operation is the later one.
    let destination = find_destination(call, destination)?;
    seal(call, &destination, &plain)
}

/// The plaintext of a blob, once the destination has passed its checks too.
fn open_symmetric(call: &Call<'_>, text: &str, destination: KeyName<'_>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let blob = Blob::parse(text).ok_or(KMS_0219)?;
    call.reach(step::EXISTENCE)?;
    let (key, version) = blob_key(call, &blob)?;
    let destination = find_destination(call, destination)?;
    usable(call, &key)?;
    judge_destination(&destination)?;
    call.reach(step::OPERATION)?;
    call.service.usage.count(&key.id);
    Ok(blob.open(&version, call.switches.payload_mode).ok_or(KMS_0219)?)
}

/// Where the ciphertext of an asymmetric key comes from: such a ciphertext names nothing itself.
struct AsymmetricSource<'a> {
    cmk_uuid: &'a str,
    version_id: &'a str,
    algorithm: &'a str,
}

impl<'a> AsymmetricSource<'a> {
    /// Any of three fields makes the ciphertext an asymmetric one; then all three are required.
    fn read(call: &'a Call<'_>) -> Result<Option<Self>, Refusal> {
        let names = ["sourceCmkUuid", "sourceKeyVersionId", "sourceEncryptionAlgorithm"];
        if names.iter().all(|name| call.fields.text(name).is_none()) {
            return Ok(None);
        }
        Ok(Some(AsymmetricSource {
            cmk_uuid: call.required("sourceCmkUuid", KMS_0110)?,
            version_id: call.required("sourceKeyVersionId", KMS_0111)?,
            algorithm: call.required("sourceEncryptionAlgorithm", KMS_0114)?,
        }))
    }

    fn open(self, call: &Call<'_>, text: &str, destination: KeyName<'_>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let sealed = base64(text, KMS_0219)?;
        call.reach(step::EXISTENCE)?;
        let key = call.key_or(self.cmk_uuid, KMS_0308)?;
        let destination = find_destination(call, destination)?;
        call.reach(step::KIND)?;
        let algorithm = EncryptAlgorithm::parse(self.algorithm).filter(|algorithm| !algorithm.only_for_import());
        let algorithm =
            algorithm.filter(|algorithm| key.spec.asymmetric() == Some(algorithm.spec())).ok_or(KMS_0212)?;
        if key.usage != KeyUsage::EncryptDecrypt {
            return Err(KMS_0205.into());
        }
        call.reach(step::STATE)?;
        key.judge(Operation::Use)?;
        judge_destination(&destination)?;
        call.reach(step::OPERATION)?;
        call.service.usage.count(&key.id);
        let version = key.version(self.version_id).ok_or(KMS_0239)?;
        let opened = version.private_key().ok_or(KMS_0212)?.decrypt(algorithm, &sealed);
        Ok(opened.map_err(|error| match error {
            DecryptError::OtherSpec => KMS_0212,
            DecryptError::Form => KMS_0219,
            DecryptError::Padding => KMS_0239,
        })?)
    }
}

fn destination_name(text: &str) -> Result<KeyName<'_>, Refusal> {
    match text {
        id if is_id(id) => Ok(KeyName::Id(id)),
        alias if is_alias(alias) => Ok(KeyName::Alias(alias)),
        _ => Err(KMS_0307.into()),
    }
}

fn find_destination(call: &Call<'_>, name: KeyName<'_>) -> Result<Arc<Key>, Refusal> {
    match name {
        KeyName::Id(id) => call.key_or(id, KMS_0305),
        KeyName::Alias(alias) => call.permitted(call.service.store.key_by_alias(alias).ok_or(KMS_0307)?),
    }
}

/// Only an enabled symmetric key takes what another gives up.
fn judge_destination(key: &Key) -> Result<(), Code> {
    if !key.spec.is_symmetric() {
        return Err(KMS_0244);
    }
    key.judge(Operation::ReEncryptTarget)
}

pub fn hmac_sm3(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let input = call.required("input", KMS_0107)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    if input.len() > MAX_PLAINTEXT {
        return Err(KMS_0249.into());
    }
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::KIND)?;
    if !key.spec.is_symmetric() {
        return Err(KMS_0213.into());
    }
    call.reach(step::STATE)?;
    key.judge(Operation::Hmac)?;
    call.reach(step::OPERATION)?;
    call.service.usage.count(&key.id);
    let Some(Material::Symmetric { bytes, .. }) = key.primary().map(|version| &version.material) else {
        return Err(KMS_0306.into());
    };
    let output: String = hmac(bytes, input.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(texts([("hmacoutput", &output)]))
}

/// Key and version that a blob names.
fn blob_key(call: &Call<'_>, blob: &Blob) -> Result<(Arc<Key>, Arc<KeyVersion>), Refusal> {
    let key = call.key_or(&blob.cmk_uuid, KMS_0301)?;
    // A key without any version still waits for its material, and that is its state's affair.
    let version = match key.version(&blob.key_version_id) {
        Some(version) => version.clone(),
        None if key.versions.is_empty() => return Err(key.judge(Operation::Use).err().unwrap_or(KMS_0239).into()),
        None => return Err(KMS_0239.into()),
    };
    Ok((key, version))
}

/// Steps 15 and 16 for a symmetric key that is to encrypt or decrypt.
fn usable(call: &Call<'_>, key: &Key) -> Result<(), Refusal> {
    call.reach(step::KIND)?;
    if !key.spec.is_symmetric() {
        return Err(KMS_0213.into());
    }
    call.reach(step::STATE)?;
    Ok(key.judge(Operation::Use)?)
}

/// Encrypts under the primary version.
pub fn seal(call: &Call<'_>, key: &Key, plain: &[u8]) -> Reply {
    call.service.usage.count(&key.id);
    // An enabled key has a version; one without is still waiting for its material.
    let version = key.primary().ok_or(KMS_0203)?;
    let blob = blob::seal(key, version, call.switches.payload_mode, plain, call.random()).ok_or(KMS_0213)?;
    Ok(texts([("ciphertextBlob", &blob), ("cmkUuid", &key.id), ("keyVersionId", &version.id)]))
}
