//! Envelope encryption: generateDataKey, generateDataKeyWithoutPlaintext, exportDataKey, generateAndExportDataKey.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::import::wrapping_spec;
use super::key_compute::seal;
use super::{Call, KeyName, Reply, base64, key_name, step, texts};
use crate::asymmetric::{EncryptAlgorithm, EncryptError, PublicKey};
use crate::blob::Blob;
use crate::error::*;
use crate::key::{Key, KeySpec, Operation};

/// Longest data key, in bytes.
const MAX_DATA_KEY: u64 = 1024;

type DataKey = Zeroizing<Vec<u8>>;

pub fn generate_data_key(call: &Call<'_>) -> Reply {
    let wanted = Wanted::read(call)?;
    let (key, data_key) = wanted.make(call)?;
    let mut reply = seal(call, &key, &data_key)?;
    reply.insert("plaintext".to_owned(), BASE64.encode(&*data_key).into());
    Ok(reply)
}

pub fn generate_data_key_without_plaintext(call: &Call<'_>) -> Reply {
    let wanted = Wanted::read(call)?;
    let (key, data_key) = wanted.make(call)?;
    seal(call, &key, &data_key)
}

pub fn generate_and_export_data_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let recipient = RecipientFields::read(call)?;
    call.reach(step::FORMAT)?;
    let wanted = Wanted::parse(call, name)?;
    let recipient = recipient.parse()?;
    let (key, data_key) = wanted.make(call)?;
    let exported = recipient.wrap(call, &data_key)?;
    let mut reply = seal(call, &key, &data_key)?;
    reply.insert("exportedDataKey".to_owned(), exported.into());
    Ok(reply)
}

pub fn export_data_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let text = call.required("ciphertextBlob", KMS_0108)?;
    let recipient = RecipientFields::read(call)?;
    call.reach(step::FORMAT)?;
    let blob = Blob::parse(text).ok_or(KMS_0247)?;
    let recipient = recipient.parse()?;
    call.reach(step::EXISTENCE)?;
    let key = call.key_or(&blob.cmk_uuid, KMS_0301)?;
    call.reach(step::KIND)?;
    call.reach(step::STATE)?;
    key.judge(Operation::Use)?;
    call.reach(step::OPERATION)?;
    call.service.usage.count(&key.id);
    let version = key.version(&blob.key_version_id).ok_or(KMS_0247)?;
    let data_key = blob.open(version, call.switches.payload_mode).ok_or(KMS_0247)?;
    let exported = recipient.wrap(call, &data_key)?;
    Ok(texts([("exportedDataKey", &exported), ("cmkUuid", &key.id), ("keyVersionId", &version.id)]))
}

/// A data key that somebody asks for.
struct Wanted<'a> {
    name: KeyName<'a>,
    length: DataKeyLength,
}

impl<'a> Wanted<'a> {
    /// Steps 12 and 13.
    fn read(call: &'a Call<'_>) -> Result<Self, Refusal> {
        call.reach(step::REQUIRED)?;
        let name = call.required("cmkUuid", KMS_0102)?;
        call.reach(step::FORMAT)?;
        Wanted::parse(call, name)
    }

    /// Step 13.
    fn parse(call: &'a Call<'_>, name: &'a str) -> Result<Self, Refusal> {
        Ok(Wanted { name: key_name(name, true)?, length: DataKeyLength::read(call)? })
    }

    /// Steps 14 to 17: random bytes, and the key that is to wrap them.
    fn make(self, call: &Call<'_>) -> Result<(Arc<Key>, DataKey), Refusal> {
        call.reach(step::EXISTENCE)?;
        let key = call.find_key(self.name)?;
        call.reach(step::KIND)?;
        let length = self.length.under(key.spec, call.switches.lenient)?;
        call.reach(step::STATE)?;
        key.judge(Operation::Use)?;
        call.reach(step::OPERATION)?;
        Ok((key, call.random().bytes(length)))
    }
}

/// For whom a data key is exported, as the request says it.
struct RecipientFields<'a> {
    public_key: &'a str,
    spec: &'a str,
    algorithm: &'a str,
}

impl<'a> RecipientFields<'a> {
    /// Step 12.
    fn read(call: &'a Call<'_>) -> Result<Self, Refusal> {
        Ok(RecipientFields {
            public_key: call.required("publicKeyBlob", KMS_0131)?,
            spec: call.required("wrappingKeySpec", KMS_0121)?,
            algorithm: call.required("wrappingAlgorithm", KMS_0134)?,
        })
    }

    /// Step 13.
    fn parse(self) -> Result<Recipient, Refusal> {
        let spec = wrapping_spec(self.spec).ok_or(KMS_0237)?;
        let algorithm = EncryptAlgorithm::parse(self.algorithm)
            .filter(|algorithm| algorithm.spec() == spec && !algorithm.only_for_import());
        let algorithm = algorithm.ok_or(KMS_0236)?;
        let der = base64(self.public_key, KMS_0215)?;
        let public_key = PublicKey::from_spki_der(&der).filter(|key| key.spec() == spec).ok_or(KMS_0215)?;
        Ok(Recipient { public_key, algorithm })
    }
}

struct Recipient {
    public_key: PublicKey,
    algorithm: EncryptAlgorithm,
}

impl Recipient {
    fn wrap(&self, call: &Call<'_>, data_key: &[u8]) -> Result<String, Refusal> {
        let wrapped = self.public_key.encrypt(self.algorithm, data_key, &mut call.random().fork());
        Ok(BASE64.encode(wrapped.map_err(|error| match error {
            EncryptError::OtherSpec => KMS_0236,
            EncryptError::TooLong | EncryptError::Empty => KMS_0249,
        })?))
    }
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
            (DataKeyLength::Bytes(bytes), KeySpec::Aes256 | KeySpec::CtyunSm4) => Ok(bytes),
            (DataKeyLength::Aes256 | DataKeyLength::OfTheKey, KeySpec::Aes256) => Ok(32),
            (DataKeyLength::Sm4128 | DataKeyLength::OfTheKey, KeySpec::CtyunSm4) => Ok(16),
            (DataKeyLength::Aes128, KeySpec::Aes256) if lenient => Ok(16),
            (_, KeySpec::Aes256) => Err(KMS_0220),
            (_, KeySpec::CtyunSm4) => Err(KMS_0221),
            (_, KeySpec::Rsa2048 | KeySpec::CtyunSm2) => Err(KMS_0250),
        }
    }
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
            assert_eq!(length.under(KeySpec::Rsa2048, true), Err(KMS_0250));
        }
        assert_eq!(Aes128.under(KeySpec::Aes256, true), Ok(16));
    }
}
