//! The life of a certificate: createCertificate, uploadCertificate, listCertificates, describeCertificate,
//! updateCertificateStatus, deleteCertificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::super::{Call, Reply, nothing, step, texts};
use super::{addressed, change, exportable, find, format_code, known, protection};
use crate::access::ResourceType;
use crate::asymmetric::PrivateKey;
use crate::certificate::{Issued, ManagedCertificate, Status, StoredCertificate, parse_spec};
use crate::clock::to_iso;
use crate::error::*;
use crate::key::Protection;
use crate::pki::{Certificate, Subject, check_alternative_names, csr, verify_chain};

pub fn create_certificate(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let spec = call.required("keySpec", KMS_0253)?;
    let subject = call.required("subject", KMS_0254)?;
    let names = call.fields.value("subjectAlternativeNames").ok_or(KMS_0101)?;
    call.text_or_number("exportablePrivateKey").ok_or(KMS_0101)?;
    let protection_level = call.text_or_number("protectionLevel").ok_or(KMS_0113)?;
    call.reach(step::FORMAT)?;
    let spec = parse_spec(spec).ok_or(KMS_0141)?;
    let parsed = Subject::parse(subject).map_err(|_| KMS_0140)?;
    let alternative_names = alternative_names(names).ok_or(KMS_0101)?;
    check_alternative_names(&alternative_names).map_err(|_| KMS_0101)?;
    let exportable = exportable(call)?.unwrap_or(false);
    let protection = protection(&protection_level)?;
    call.reach(step::OPERATION)?;
    let mut random = call.random().fork();
    let key = PrivateKey::generate(spec, &mut random);
    let csr = csr(&key, &parsed, &alternative_names, &mut random).map_err(|_| KMS_0101)?;
    let text = |name| call.optional(name).unwrap_or_default().to_owned();
    let certificate = ManagedCertificate {
        id: call.random().id(),
        status: Status::Pending,
        key,
        exportable,
        protection,
        subject: subject.to_owned(),
        alternative_names,
        csr,
        issued: None,
        instance_id: text("instanceId"),
        ep_id: text("epId"),
        created: call.now,
        updated: call.now,
    };
    let reply = texts([("certificateId", &certificate.id), ("csr", &certificate.csr)]);
    call.change(KMS_0503, |state| {
        state.certificates.put(certificate);
        Ok(())
    })?;
    Ok(reply)
}

/// A list; the vendor's type is a text that holds one, as JSON or with commas.
fn alternative_names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(_) => serde_json::from_value(value.clone()).ok(),
        Value::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text).ok(),
        Value::String(text) => {
            Some(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
        }
        _ => None,
    }
}

pub fn upload_certificate(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    let leaf = call.required("certificate", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let leaf = Certificate::from_pem(leaf).map_err(format_code)?;
    let chain = match call.optional("certificateChain") {
        Some(chain) => Certificate::chain_from_pem(chain).map_err(format_code)?,
        None => Vec::new(),
    };
    let certificate = find(call, id)?;
    call.reach(step::KIND)?;
    let is_ours = leaf.public_key() == Some(&certificate.key.public());
    if !is_ours || !verify_chain(&leaf, &chain) {
        return Err(KMS_0139.into());
    }
    call.reach(step::STATE)?;
    certificate.status.judge_upload()?;
    change(call, id, |certificate| {
        certificate.status.judge_upload()?;
        certificate.status = Status::Active;
        certificate.subject = leaf.subject();
        certificate.alternative_names = leaf.subject_alternative_names().to_vec();
        certificate.issued = Some(Issued { leaf, chain: chain.into_iter().map(StoredCertificate).collect() });
        Ok(())
    })?;
    nothing()
}

pub fn list_certificates(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    let mut found: Vec<_> = call.service.store.read(|state| state.certificates.iter().cloned().collect());
    found.retain(|certificate| {
        is_listed(call, certificate) && call.permit_resource(ResourceType::Certificate, &certificate.id).is_ok()
    });
    found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(page.of("certificates", &found, |certificate| shown(certificate)))
}

/// Does a certificate pass all the filters? Names need to hold the wanted text only; "" is no filter.
fn is_listed(call: &Call<'_>, certificate: &ManagedCertificate) -> bool {
    let has = |name, value: &str| call.optional(name).is_none_or(|wanted| value.contains(wanted));
    has("subject", &certificate.subject)
        && has("issuer", &issuer(certificate))
        && call.optional("status").is_none_or(|wanted| wanted == certificate.status.name())
}

fn issuer(certificate: &ManagedCertificate) -> String {
    certificate.issued.as_ref().map(|issued| issued.leaf.issuer()).unwrap_or_default()
}

pub fn describe_certificate(call: &Call<'_>) -> Reply {
    let certificate = addressed(call)?;
    call.reach(step::OPERATION)?;
    Ok(shown(&certificate))
}

/// What describeCertificate says. What only an issued certificate has is "" before.
pub fn shown(certificate: &ManagedCertificate) -> Map<String, Value> {
    let leaf = certificate.issued.as_ref().map(|issued| &issued.leaf);
    let of_leaf = |text: fn(&Certificate) -> String| leaf.map(text).unwrap_or_default();
    let mut shown = texts([
        ("certificateId", &certificate.id),
        ("status", certificate.status.name()),
        ("keySpec", certificate.key_spec()),
        ("protectionLevel", if certificate.protection == Protection::Hsm { "0" } else { "1" }),
        ("subject", &certificate.subject),
        ("issuer", &issuer(certificate)),
        ("serial", &of_leaf(Certificate::serial)),
        ("signatureAlgorithm", &of_leaf(|leaf| leaf.signature_algorithm().to_owned())),
        ("notBefore", &of_leaf(|leaf| to_iso(leaf.not_before()))),
        ("notAfter", &of_leaf(|leaf| to_iso(leaf.not_after()))),
        ("subjectKeyIdentifier", &of_leaf(|leaf| leaf.subject_key_identifier().to_owned())),
        ("subjectPublicKey", &BASE64.encode(certificate.key.public().to_spki_der())),
        ("createdAt", &to_iso(certificate.created)),
        ("updatedAt", &to_iso(certificate.updated)),
        ("instanceId", &certificate.instance_id),
        ("epId", &certificate.ep_id),
    ]);
    shown.insert("exportablePrivateKey".to_owned(), u8::from(certificate.exportable).into());
    shown.insert("subjectAlternativeNames".to_owned(), certificate.alternative_names.clone().into());
    shown
}

pub fn update_certificate_status(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    let wanted = call.required("status", KMS_0256)?;
    call.reach(step::FORMAT)?;
    let wanted = Status::parse(wanted).ok_or(KMS_0101)?;
    let certificate = find(call, id)?;
    call.reach(step::STATE)?;
    certificate.status.judge_change(wanted)?;
    change(call, id, |certificate| {
        certificate.status.judge_change(wanted)?;
        certificate.status = wanted;
        Ok(())
    })?;
    nothing()
}

pub fn delete_certificate(call: &Call<'_>) -> Reply {
    let certificate = addressed(call)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        known(state, &certificate.id)?;
        state.delete_certificate(&certificate.id, call.now);
        Ok(())
    })?;
    nothing()
}
