//! Cryptographic operations with asymmetric keys: asymmetricSign, asymmetricVerify, asymmetricEncrypt, asymmetricDecrypt,
//! getPublicKey. The caller names the version, since such a key has no primary one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Call, Reply, base64, key_name, step, texts};
use crate::asymmetric::{
    AsymmetricSpec, DecryptError, EncryptAlgorithm, EncryptError, PrivateKey, PublicKey, SignAlgorithm,
};
use crate::error::*;
use crate::key::{Key, KeyUsage, KeyVersion, Operation};

pub fn asymmetric_sign(call: &Call<'_>) -> Reply {
    let request = Request::read(call, KMS_0106, ("digest", KMS_0104))?;
    call.reach(step::FORMAT)?;
    let (algorithm, digest) = sign_inputs(&request)?;
    let named = request.find(call)?;
    let key = named.signing(call, algorithm)?;
    let signature = key.sign(algorithm, &digest, &mut call.random().fork()).ok_or(KMS_0212)?;
    named.answer("value", BASE64.encode(signature).into())
}

pub fn asymmetric_verify(call: &Call<'_>) -> Reply {
    let request = Request::read(call, KMS_0106, ("digest", KMS_0104))?;
    let signature = call.required("value", KMS_0125)?;
    call.reach(step::FORMAT)?;
    let (algorithm, digest) = sign_inputs(&request)?;
    // What is no Base64 is no signature of anything.
    let signature = BASE64.decode(signature).unwrap_or_default();
    let named = request.find(call)?;
    let key = named.signing(call, algorithm)?;
    let valid = key.public().verify(algorithm, &digest, &signature).ok_or(KMS_0212)?;
    named.answer("value", valid.into())
}

fn sign_inputs(request: &Request<'_>) -> Result<(SignAlgorithm, [u8; 32]), Refusal> {
    let algorithm = SignAlgorithm::parse(request.algorithm).ok_or(KMS_0215)?;
    let digest = base64(request.input, KMS_0215)?;
    Ok((algorithm, digest.as_slice().try_into().map_err(|_| KMS_0215)?))
}

pub fn asymmetric_encrypt(call: &Call<'_>) -> Reply {
    let request = Request::read(call, KMS_0114, ("plaintext", KMS_0107))?;
    call.reach(step::FORMAT)?;
    let algorithm = encrypt_algorithm(request.algorithm)?;
    let plain = base64(request.input, KMS_0252)?;
    if plain.len() > algorithm.max_plaintext() {
        return Err(KMS_0249.into());
    }
    let named = request.find(call)?;
    let key = named.encrypting(call, algorithm)?;
    named.answer("ciphertextBlob", sealed(call, &key.public(), algorithm, &plain)?.into())
}

/// A ciphertext, in Base64.
pub fn sealed(call: &Call<'_>, key: &PublicKey, algorithm: EncryptAlgorithm, plain: &[u8]) -> Result<String, Code> {
    let sealed = key.encrypt(algorithm, plain, &mut call.random().fork()).map_err(|error| match error {
        EncryptError::OtherSpec => KMS_0212,
        EncryptError::TooLong => KMS_0249,
        EncryptError::Empty => KMS_0107,
    })?;
    Ok(BASE64.encode(sealed))
}

pub fn asymmetric_decrypt(call: &Call<'_>) -> Reply {
    let request = Request::read(call, KMS_0114, ("ciphertextBlob", KMS_0108))?;
    call.reach(step::FORMAT)?;
    let algorithm = encrypt_algorithm(request.algorithm)?;
    let ciphertext = base64(request.input, KMS_0219)?;
    let named = request.find(call)?;
    let key = named.encrypting(call, algorithm)?;
    named.answer("plaintext", opened(key, algorithm, &ciphertext)?.into())
}

/// The plaintext of a ciphertext, in Base64.
pub fn opened(key: &PrivateKey, algorithm: EncryptAlgorithm, ciphertext: &[u8]) -> Result<String, Code> {
    let plain = key.decrypt(algorithm, ciphertext).map_err(|error| match error {
        DecryptError::OtherSpec => KMS_0212,
        DecryptError::Form => KMS_0219,
        DecryptError::Padding => KMS_0239,
    })?;
    Ok(BASE64.encode(&*plain))
}

/// The algorithm of that name, if keys encrypt with it.
pub fn encrypt_algorithm(name: &str) -> Result<EncryptAlgorithm, Code> {
    EncryptAlgorithm::parse(name).filter(|algorithm| !algorithm.only_for_import()).ok_or(KMS_0215)
}

pub fn get_public_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let version = call.required("keyVersionId", KMS_0105)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    let version = key.version(version).ok_or(KMS_0304)?;
    call.reach(step::KIND)?;
    let public = version.private_key().ok_or(KMS_0214)?.public();
    call.reach(step::STATE)?;
    key.judge(Operation::PublicKey)?;
    call.reach(step::OPERATION)?;
    Ok(texts([
        ("publicKey", &BASE64.encode(public.to_spki_der())),
        ("publicKeyPem", &public.to_pem()),
        ("cmkUuid", &key.id),
        ("keyVersionId", &version.id),
    ]))
}

/// What all four operations are given.
struct Request<'a> {
    key: &'a str,
    version: &'a str,
    algorithm: &'a str,
    input: &'a str,
}

impl<'a> Request<'a> {
    /// Step 12. `input` names the field that the operation works on, and the code for its absence.
    fn read(call: &'a Call<'_>, no_algorithm: Code, input: (&str, Code)) -> Result<Self, Refusal> {
        call.reach(step::REQUIRED)?;
        Ok(Request {
            key: call.required("cmkUuid", KMS_0102)?,
            version: call.required("keyVersionId", KMS_0105)?,
            algorithm: call.required("algorithm", no_algorithm)?,
            input: call.required(input.0, input.1)?,
        })
    }

    /// The end of step 13, and step 14.
    fn find(&self, call: &Call<'_>) -> Result<Named, Refusal> {
        let name = key_name(self.key, false)?;
        call.reach(step::EXISTENCE)?;
        let key = call.find_key(name)?;
        let version = key.version(self.version).ok_or(KMS_0304)?.clone();
        Ok(Named { key, version })
    }
}

/// A key and the version of it that the caller names.
struct Named {
    key: Arc<Key>,
    version: Arc<KeyVersion>,
}

impl Named {
    /// Steps 15 to 17 before a signature is made or checked.
    fn signing(&self, call: &Call<'_>, algorithm: SignAlgorithm) -> Result<&PrivateKey, Refusal> {
        call.reach(step::KIND)?;
        let private = self.version.private_key().ok_or(KMS_0232)?;
        if self.key.usage != KeyUsage::SignVerify {
            return Err(KMS_0204.into());
        }
        if private.spec() != algorithm.spec() {
            return Err(KMS_0212.into());
        }
        self.enabled(call)?;
        Ok(private)
    }

    /// Steps 15 to 17 before something is encrypted or decrypted.
    fn encrypting(&self, call: &Call<'_>, algorithm: EncryptAlgorithm) -> Result<&PrivateKey, Refusal> {
        call.reach(step::KIND)?;
        let private = self.version.private_key().ok_or(KMS_0214)?;
        if self.key.usage != KeyUsage::EncryptDecrypt {
            return Err(KMS_0205.into());
        }
        if private.spec() != algorithm.spec() {
            let rsa_wanted = algorithm.spec() == AsymmetricSpec::Rsa2048;
            return Err(if rsa_wanted { KMS_0251 } else { KMS_0212 }.into());
        }
        self.enabled(call)?;
        Ok(private)
    }

    fn enabled(&self, call: &Call<'_>) -> Result<(), Refusal> {
        call.reach(step::STATE)?;
        self.key.judge(Operation::Use)?;
        call.reach(step::OPERATION)?;
        call.service.usage.count(&self.key.id);
        Ok(())
    }

    fn answer(&self, name: &str, value: serde_json::Value) -> Reply {
        let mut reply = texts([("cmkUuid", &self.key.id), ("keyVersionId", &self.version.id)]);
        reply.insert(name.to_owned(), value);
        Ok(reply)
    }
}
