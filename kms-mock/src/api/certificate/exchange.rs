//! Certificates in and out: getCertificate, exportCertificate, importCertificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::{Call, Reply, base64, step, texts};
use super::{addressed, chain_pem, exportable, find, protection};
use crate::certificate::{Issued, ManagedCertificate, Status, StoredCertificate};
use crate::error::*;
use crate::key::Protection;
use crate::pki::{Certificate, Pkcs12Error, encrypted_pkcs8_pem, pkcs12_read, pkcs12_write};

pub fn get_certificate(call: &Call<'_>) -> Reply {
    let certificate = addressed(call)?;
    call.reach(step::OPERATION)?;
    let (leaf, chain) = match &certificate.issued {
        Some(Issued { leaf, chain }) => (leaf.pem(), chain_pem(chain.iter().map(|link| &link.0))),
        None => Default::default(),
    };
    Ok(texts([
        ("certificateId", &certificate.id),
        ("certificate", &leaf),
        ("certificateChain", &chain),
        ("csr", &certificate.csr),
    ]))
}

pub fn export_certificate(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    let format = call.required("exportFormat", KMS_0144)?;
    let passphrase = call.required("passphrase", KMS_0101)?;
    call.reach(step::FORMAT)?;
    if !matches!(format, "PEM" | "PKCS12") {
        return Err(KMS_0144.into());
    }
    let certificate = find(call, id)?;
    call.reach(step::KIND)?;
    if !certificate.exportable {
        return Err(KMS_0142.into());
    }
    call.reach(step::STATE)?;
    let Issued { leaf, chain } = certificate.issued.as_ref().ok_or(KMS_0257)?;
    call.reach(step::OPERATION)?;
    let mut random = call.random().fork();
    let chain: Vec<Certificate> = chain.iter().map(|link| link.0.clone()).collect();
    if format == "PKCS12" {
        let file = pkcs12_write(&certificate.key, leaf, &chain, passphrase, &mut random);
        return Ok(texts([("pkcs12Blob", &BASE64.encode(file))]));
    }
    Ok(texts([
        ("certificate", &leaf.pem()),
        ("certificateChain", &chain_pem(chain.iter())),
        ("privateKey", &encrypted_pkcs8_pem(&certificate.key, passphrase, &mut random)),
    ]))
}

pub fn import_certificate(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let blob = call.required("pkcs12Blob", KMS_0101)?;
    // It may be "".
    let passphrase = call.fields.text("passphrase").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let exportable = exportable(call)?.unwrap_or(false);
    let protection = match call.text_or_number("protectionLevel") {
        Some(level) => protection(&level)?,
        None => Protection::Software,
    };
    let file = pkcs12_read(&base64(blob, KMS_0140)?, passphrase).map_err(|error| match error {
        Pkcs12Error::Format | Pkcs12Error::Passphrase | Pkcs12Error::TooCostly => KMS_0140,
        Pkcs12Error::Content => KMS_0139,
        Pkcs12Error::UnsupportedAlgorithm => KMS_0141,
    })?;
    call.reach(step::OPERATION)?;
    let text = |name| call.optional(name).unwrap_or_default().to_owned();
    let certificate = ManagedCertificate {
        id: call.random().id(),
        status: Status::Active,
        key: file.key,
        exportable,
        protection,
        subject: file.leaf.subject(),
        alternative_names: file.leaf.subject_alternative_names().to_vec(),
        csr: String::new(),
        issued: Some(Issued { leaf: file.leaf, chain: file.chain.into_iter().map(StoredCertificate).collect() }),
        instance_id: text("instanceId"),
        ep_id: text("epId"),
        created: call.now,
        updated: call.now,
    };
    let reply = texts([("certificateId", &certificate.id)]);
    call.change(KMS_0503, |state| {
        state.certificates.put(certificate);
        Ok(())
    })?;
    Ok(reply)
}
