//! Cryptographic operations: encrypt, generateDataKey, generateDataKeyWithoutPlaintext, decrypt, reEncrypt.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Call, KeyName, Reply, key_name, step, texts};
use crate::blob::{self, Blob};
use crate::error::*;
use crate::key::{Key, KeySpec, KeyVersion, Operation, is_alias, is_id};

/// Longest plaintext of encrypt, in bytes.
const MAX_PLAINTEXT: usize = 6144;
/// Longest data key, in bytes.
const MAX_DATA_KEY: u64 = 1024;

pub fn encrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let plain = call.required("plaintext", KMS_0107)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, true)?;
    let plain = Zeroizing::new(BASE64.decode(plain).map_err(|_| KMS_0252)?);
    if plain.len() > MAX_PLAINTEXT {
        return Err(KMS_0249.into());
    }
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    usable(call, &key)?;
    call.reach(step::OPERATION)?;
    seal(call, &key, &plain, KMS_0514)
}

pub fn generate_data_key(call: &Call<'_>) -> Reply {
    let (mut reply, data_key) = new_data_key(call)?;
    reply.insert("plaintext".to_owned(), BASE64.encode(&*data_key).into());
    Ok(reply)
}

pub fn generate_data_key_without_plaintext(call: &Call<'_>) -> Reply {
    new_data_key(call).map(|(reply, _)| reply)
}

type DataKey = Zeroizing<Vec<u8>>;

/// The reply with the blob of a random key, and the key.
fn new_data_key(call: &Call<'_>) -> Result<(Map<String, Value>, DataKey), Refusal> {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, true)?;
    let length = DataKeyLength::read(call)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::KIND)?;
    let length = length.under(key.spec, call.switches.lenient)?;
    call.reach(step::STATE)?;
    key.judge(Operation::Use)?;
    call.reach(step::OPERATION)?;
    let mut data_key = DataKey::new(vec![0; length]);
    getrandom::fill(&mut data_key).map_err(|error| call.internal(&error, KMS_0511))?;
    let reply = seal(call, &key, &data_key, KMS_0512)?;
    Ok((reply, data_key))
}

/// How a request names the length of a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DataKeyLength {
    Bytes(usize),
    Aes256,
    Aes128,
    Sm4128,
    OfTheKey,
}

impl DataKeyLength {
    /// `numberOfBytes` wins over `keySpec`.
    fn read(call: &Call<'_>) -> Result<Self, Refusal> {
        if let Some(number) = call.fields.value("numberOfBytes") {
            let number = number.as_u64().filter(|number| (1..=MAX_DATA_KEY).contains(number)).ok_or(KMS_0241)?;
            return Ok(DataKeyLength::Bytes(number as usize));
        }
        match call.optional("keySpec") {
            None => Ok(DataKeyLength::OfTheKey),
            Some("AES_256") => Ok(DataKeyLength::Aes256),
            Some("AES_128") => Ok(DataKeyLength::Aes128),
            Some("SM4_128") => Ok(DataKeyLength::Sm4128),
            Some(_) => Err(KMS_0223.into()),
        }
    }

    /// The length in bytes, if the spec of the data key belongs to the family of the key.
    fn under(self, spec: KeySpec, lenient: bool) -> Result<usize, Code> {
        match (self, spec) {
            (DataKeyLength::Bytes(bytes), _) => Ok(bytes),
            (DataKeyLength::Aes256 | DataKeyLength::OfTheKey, KeySpec::Aes256) => Ok(32),
            (DataKeyLength::Sm4128 | DataKeyLength::OfTheKey, KeySpec::CtyunSm4) => Ok(16),
            (DataKeyLength::Aes128, KeySpec::Aes256) if lenient => Ok(16),
            (_, KeySpec::Aes256) => Err(KMS_0220),
            (_, KeySpec::CtyunSm4) => Err(KMS_0221),
        }
    }
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
    let source = asymmetric_source(call)?;
    call.reach(step::FORMAT)?;
    let destination = destination_name(destination)?;
    if let Some(source) = source {
        return refuse_asymmetric(call, source);
    }
    let blob = Blob::parse(text).ok_or(KMS_0219)?;
    call.reach(step::EXISTENCE)?;
    let (key, version) = blob_key(call, &blob)?;
    let destination = find_destination(call, destination)?;
    usable(call, &key)?;
    destination.judge(Operation::ReEncryptTarget)?;
    call.reach(step::OPERATION)?;
    let plain = blob.open(&version, call.switches.payload_mode).ok_or(KMS_0219)?;
    if plain.len() > MAX_PLAINTEXT {
        return Err(KMS_0249.into());
    }
    seal(call, &destination, &plain, KMS_0514)
}

/// The source key of an asymmetric ciphertext, for which any of three fields stands; then all three are required.
fn asymmetric_source<'a>(call: &'a Call<'_>) -> Result<Option<&'a str>, Refusal> {
    let names = ["sourceCmkUuid", "sourceKeyVersionId", "sourceEncryptionAlgorithm"];
    if names.iter().all(|name| call.fields.text(name).is_none()) {
        return Ok(None);
    }
    let source = call.required("sourceCmkUuid", KMS_0110)?;
    call.required("sourceKeyVersionId", KMS_0111)?;
    call.required("sourceEncryptionAlgorithm", KMS_0114)?;
    Ok(Some(source))
}

/// There are only symmetric keys, and none of them has an asymmetric algorithm.
fn refuse_asymmetric(call: &Call<'_>, source: &str) -> Reply {
    call.reach(step::EXISTENCE)?;
    match call.service.store.key(source) {
        None => Err(KMS_0308.into()),
        Some(_) => Err(KMS_0212.into()),
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
        KeyName::Id(id) => call.service.store.key(id).ok_or(KMS_0305.into()),
        KeyName::Alias(alias) => call.service.store.key_by_alias(alias).ok_or(KMS_0307.into()),
    }
}

/// Key and version that a blob names.
fn blob_key(call: &Call<'_>, blob: &Blob) -> Result<(Arc<Key>, Arc<KeyVersion>), Refusal> {
    let key = call.service.store.key(&blob.cmk_uuid).ok_or(KMS_0301)?;
    // A key without any version still waits for its material, and that is its state's affair.
    let version = match key.version(&blob.key_version_id) {
        Some(version) => version.clone(),
        None if key.versions.is_empty() => return Err(key.judge(Operation::Use).err().unwrap_or(KMS_0239).into()),
        None => return Err(KMS_0239.into()),
    };
    Ok((key, version))
}

/// Steps 15 and 16 for a key that is to encrypt or decrypt. Every spec there is can do both.
fn usable(call: &Call<'_>, key: &Key) -> Result<(), Refusal> {
    call.reach(step::KIND)?;
    call.reach(step::STATE)?;
    Ok(key.judge(Operation::Use)?)
}

/// Encrypts under the primary version; `failed` is what the client hears when the mock cannot.
fn seal(call: &Call<'_>, key: &Key, plain: &[u8], failed: Code) -> Reply {
    // An enabled key has a version; one without is still waiting for its material.
    let version = key.primary().ok_or(KMS_0203)?;
    let blob =
        blob::seal(key, version, call.switches.payload_mode, plain).map_err(|error| call.internal(&error, failed))?;
    Ok(texts([("ciphertextBlob", &blob), ("cmkUuid", &key.id), ("keyVersionId", &version.id)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_key_lengths_by_family() {
        use DataKeyLength::*;
        for (length, aes, sm4) in [
            (Bytes(5), Ok(5), Ok(5)),
            (Aes256, Ok(32), Err(KMS_0221)),
            (Aes128, Err(KMS_0220), Err(KMS_0221)),
            (Sm4128, Err(KMS_0220), Ok(16)),
            (OfTheKey, Ok(32), Ok(16)),
        ] {
            assert_eq!(length.under(KeySpec::Aes256, false), aes);
            assert_eq!(length.under(KeySpec::CtyunSm4, false), sm4);
        }
        assert_eq!(Aes128.under(KeySpec::Aes256, true), Ok(16));
    }
}
