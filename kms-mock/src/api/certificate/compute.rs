//! What certificates are for: certificatePrivateKeySign, certificatePublicKeyVerify, certificatePublicKeyEncrypt,
//! certificatePrivateKeyDecrypt.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::super::asymmetric::{encrypt_algorithm, opened, sealed};
use super::super::{Call, Reply, base64, step, texts};
use super::find;
use crate::asymmetric::{AsymmetricSpec, SignAlgorithm};
use crate::certificate::ManagedCertificate;
use crate::error::*;

/// The longest message that is signed as it is, in bytes.
const MAX_MESSAGE: usize = 4096;

pub fn certificate_private_key_sign(call: &Call<'_>) -> Reply {
    let id = signing_fields(call)?;
    call.reach(step::FORMAT)?;
    let message = Message::read(call)?;
    if message.bytes.len() > MAX_MESSAGE {
        return Err(KMS_0249.into());
    }
    let certificate = usable(call, id, message.algorithm.spec())?;
    let digest = message.digest(&certificate)?;
    let signature = certificate.key.sign(message.algorithm, &digest, &mut call.random().fork()).ok_or(KMS_0212)?;
    answer(&certificate, "signatureValue", BASE64.encode(signature).into())
}

pub fn certificate_public_key_verify(call: &Call<'_>) -> Reply {
    let id = signing_fields(call)?;
    let signature = call.required("signatureValue", KMS_0125)?;
    call.reach(step::FORMAT)?;
    let message = Message::read(call)?;
    // What is no Base64 is no signature of anything.
    let signature = BASE64.decode(signature).unwrap_or_default();
    let certificate = usable(call, id, message.algorithm.spec())?;
    let digest = message.digest(&certificate)?;
    let valid = certificate.key.public().verify(message.algorithm, &digest, &signature).ok_or(KMS_0212)?;
    answer(&certificate, "signatureValid", valid.into())
}

/// Step 12, as far as signing and verifying have the same fields.
fn signing_fields<'a>(call: &'a Call<'_>) -> Result<&'a str, Refusal> {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    call.required("algorithm", KMS_0106)?;
    call.required("message", KMS_0104)?;
    Ok(id)
}

/// What is signed, or was.
struct Message {
    algorithm: SignAlgorithm,
    bytes: Vec<u8>,
    is_digest: bool,
}

impl Message {
    /// Step 13, but for the certificate.
    fn read(call: &Call<'_>) -> Result<Self, Refusal> {
        let is_digest = match call.optional("messageType") {
            None | Some("RAW") => false,
            Some("DIGEST") => true,
            Some(_) => return Err(KMS_0137.into()),
        };
        let text = |name| call.optional(name).unwrap_or_default();
        let bytes = base64(text("message"), KMS_0252)?.to_vec();
        let algorithm = SignAlgorithm::parse(text("algorithm")).ok_or(KMS_0215)?;
        if is_digest && bytes.len() != 32 {
            return Err(KMS_0215.into());
        }
        Ok(Message { algorithm, bytes, is_digest })
    }

    /// For SM2 the digest depends on the key.
    fn digest(&self, certificate: &ManagedCertificate) -> Result<[u8; 32], Code> {
        if !self.is_digest {
            return Ok(certificate.key.public().digest_of_message(&self.bytes));
        }
        self.bytes.as_slice().try_into().map_err(|_| KMS_0215)
    }
}

pub fn certificate_public_key_encrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    let algorithm = call.required("algorithm", KMS_0114)?;
    let plain = call.required("plaintext", KMS_0107)?;
    call.reach(step::FORMAT)?;
    let algorithm = encrypt_algorithm(algorithm)?;
    let plain = base64(plain, KMS_0252)?;
    if plain.len() > algorithm.max_plaintext() {
        return Err(KMS_0249.into());
    }
    let certificate = usable(call, id, algorithm.spec())?;
    let ciphertext = sealed(call, &certificate.key.public(), algorithm, &plain)?;
    answer(&certificate, "ciphertextBlob", ciphertext.into())
}

pub fn certificate_private_key_decrypt(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    let algorithm = call.required("algorithm", KMS_0114)?;
    let ciphertext = call.required("ciphertextBlob", KMS_0108)?;
    call.reach(step::FORMAT)?;
    let algorithm = encrypt_algorithm(algorithm)?;
    let ciphertext = base64(ciphertext, KMS_0219)?;
    let certificate = usable(call, id, algorithm.spec())?;
    let plain = opened(&certificate.key, algorithm, &ciphertext)?;
    answer(&certificate, "plaintext", plain.into())
}

/// The end of step 13, and steps 14 to 17: a certificate that may be used, with a key of the spec of the algorithm.
fn usable(call: &Call<'_>, id: &str, spec: AsymmetricSpec) -> Result<Arc<ManagedCertificate>, Refusal> {
    let certificate = find(call, id)?;
    call.reach(step::KIND)?;
    if certificate.key.spec() != spec {
        return Err(KMS_0212.into());
    }
    call.reach(step::STATE)?;
    certificate.judge_use(call.now)?;
    call.reach(step::OPERATION)?;
    call.service.usage.count(id);
    Ok(certificate)
}

fn answer(certificate: &ManagedCertificate, name: &str, value: Value) -> Reply {
    let mut reply = texts([("certificateId", &certificate.id)]);
    reply.insert(name.to_owned(), value);
    Ok(reply)
}
