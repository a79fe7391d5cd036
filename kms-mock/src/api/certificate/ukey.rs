//! Certificates of USB keys: importCertificateForUK, listCertificatesForUK, describeCertificateForUK,
//! updateCertificateStatusForUK, deleteCertificateForUK, certificatePublicKeyVerifyForUsbKey.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::super::{Call, Reply, nothing, step, texts};
use super::format_code;
use crate::access::ResourceType;
use crate::asymmetric::{AsymmetricSpec, SignAlgorithm};
use crate::certificate::{Status, UkeyCertificate, parse_spec};
use crate::clock::to_iso;
use crate::error::*;
use crate::key::is_id;
use crate::pki::Certificate;
use crate::store::State;

pub fn import_certificate_for_uk(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let algorithm = call.required("algorithm", KMS_0114)?;
    let name = call.required("ukName", KMS_0101)?;
    let certificate = call.required("cert", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let spec = parse_spec(algorithm).ok_or(KMS_0141)?;
    let certificate = Certificate::from_pem(certificate).map_err(format_code)?;
    call.reach(step::KIND)?;
    if certificate.public_key().map(|key| key.spec()) != Some(spec) {
        return Err(KMS_0141.into());
    }
    call.reach(step::OPERATION)?;
    let ukey = UkeyCertificate {
        id: call.random().id(),
        name: name.to_owned(),
        status: Status::Active,
        certificate,
        created: call.now,
    };
    let reply = texts([("ukId", &ukey.id)]);
    call.change(KMS_0503, |state| {
        state.ukey_certificates.put(ukey);
        Ok(())
    })?;
    Ok(reply)
}

pub fn list_certificates_for_uk(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    let is = |field, value: &str| call.optional(field).is_none_or(|wanted| wanted == value);
    let mut found: Vec<_> = call.service.store.read(|state| state.ukey_certificates.iter().cloned().collect());
    found.retain(|ukey| {
        is("ukName", &ukey.name)
            && is("status", ukey.status.name())
            && call.permit_resource(ResourceType::Certificate, &ukey.id).is_ok()
    });
    found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(page.of("certificates", &found, |ukey| shown(ukey)))
}

pub fn describe_certificate_for_uk(call: &Call<'_>) -> Reply {
    let ukey = addressed(call)?;
    call.reach(step::OPERATION)?;
    Ok(shown(&ukey))
}

/// What describeCertificateForUK says.
pub fn shown(ukey: &UkeyCertificate) -> Map<String, Value> {
    let certificate = &ukey.certificate;
    texts([
        ("ukId", &ukey.id),
        ("ukName", &ukey.name),
        ("algorithm", ukey.algorithm()),
        ("status", ukey.status.name()),
        ("cert", &certificate.pem()),
        ("subject", &certificate.subject()),
        ("issuer", &certificate.issuer()),
        ("serial", &certificate.serial()),
        ("notBefore", &to_iso(certificate.not_before())),
        ("notAfter", &to_iso(certificate.not_after())),
        ("createdAt", &to_iso(ukey.created)),
    ])
}

pub fn update_certificate_status_for_uk(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = ukey_id(call)?;
    let wanted = call.required("status", KMS_0256)?;
    call.reach(step::FORMAT)?;
    let wanted = Status::parse(wanted).ok_or(KMS_0101)?;
    let ukey = find(call, id)?;
    call.reach(step::STATE)?;
    ukey.status.judge_change(wanted)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        let ukey = state.ukey_certificates.get(id).ok_or(KMS_0143)?.as_ref().clone();
        ukey.status.judge_change(wanted)?;
        state.ukey_certificates.put(UkeyCertificate { status: wanted, ..ukey });
        Ok(())
    })?;
    nothing()
}

pub fn delete_certificate_for_uk(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = ukey_id(call)?;
    call.reach(step::FORMAT)?;
    // The one API that tells a deleted certificate from one that never was.
    let ukey = find_or(call, id, |state| if state.tombstones.get(id).is_some() { KMS_0310 } else { KMS_0143 })?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        state.ukey_certificates.get(&ukey.id).ok_or(KMS_0310)?;
        state.delete_certificate(&ukey.id, call.now);
        Ok(())
    })?;
    nothing()
}

/// The message is a text, not Base64, and the algorithm is named as at import.
pub fn certificate_public_key_verify_for_usb_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let algorithm = call.required("algorithm", KMS_0106)?;
    let id = call.required("certificateId", KMS_0255)?;
    let message = call.required("message", KMS_0104)?;
    let signature = call.required("signatureValue", KMS_0125)?;
    call.reach(step::FORMAT)?;
    let signature = BASE64.decode(signature).unwrap_or_default();
    call.reach(step::EXISTENCE)?;
    let ukey = permitted(call, id, |_| KMS_0143)?;
    call.reach(step::KIND)?;
    let public = ukey.certificate.public_key().ok_or(KMS_0212)?;
    if parse_spec(algorithm) != Some(public.spec()) {
        return Err(KMS_0212.into());
    }
    call.reach(step::STATE)?;
    ukey.judge_use(call.now)?;
    call.reach(step::OPERATION)?;
    let algorithm = match public.spec() {
        AsymmetricSpec::Rsa2048 => SignAlgorithm::RsaPkcs1Sha256,
        AsymmetricSpec::Sm2 => SignAlgorithm::Sm2Dsa,
    };
    let digest = public.digest_of_message(message.as_bytes());
    let valid = public.verify(algorithm, &digest, &signature).ok_or(KMS_0212)?;
    call.service.usage.count(&ukey.id);
    let mut reply = Map::new();
    reply.insert("signatureValid".to_owned(), valid.into());
    Ok(reply)
}

/// `ukId`; clients send it as `certificateId`, too.
fn ukey_id<'a>(call: &'a Call<'_>) -> Result<&'a str, Refusal> {
    Ok(call.optional("ukId").or(call.optional("certificateId")).ok_or(KMS_0255)?)
}

/// Steps 12 to 14 of an API whose one field is the certificate of a USB key.
fn addressed(call: &Call<'_>) -> Result<Arc<UkeyCertificate>, Refusal> {
    call.reach(step::REQUIRED)?;
    let id = ukey_id(call)?;
    call.reach(step::FORMAT)?;
    find(call, id)
}

/// The end of step 13, and step 14.
fn find(call: &Call<'_>, id: &str) -> Result<Arc<UkeyCertificate>, Refusal> {
    find_or(call, id, |_| KMS_0143)
}

fn find_or(call: &Call<'_>, id: &str, missing: impl FnOnce(&State) -> Code) -> Result<Arc<UkeyCertificate>, Refusal> {
    if !is_id(id) {
        return Err(KMS_0138.into());
    }
    call.reach(step::EXISTENCE)?;
    permitted(call, id, missing)
}

fn permitted(call: &Call<'_>, id: &str, missing: impl FnOnce(&State) -> Code) -> Result<Arc<UkeyCertificate>, Refusal> {
    let found = call.service.store.read(|state| state.ukey_certificates.get(id).cloned().ok_or_else(|| missing(state)));
    let ukey = found?;
    call.permit_resource(ResourceType::Certificate, id)?;
    Ok(ukey)
}
