//! Certificates: what their APIs share.

pub mod compute;
pub mod exchange;
pub mod manage;
pub mod ukey;

use std::sync::Arc;

use super::{Call, step};
use crate::access::ResourceType;
use crate::certificate::ManagedCertificate;
use crate::error::*;
use crate::key::{Protection, is_id};
use crate::pki::{Certificate, CertificateError};
use crate::store::State;

/// Steps 12 to 14 of an API whose one field is a certificate.
fn addressed(call: &Call<'_>) -> Result<Arc<ManagedCertificate>, Refusal> {
    call.reach(step::REQUIRED)?;
    let id = call.required("certificateId", KMS_0255)?;
    call.reach(step::FORMAT)?;
    find(call, id)
}

/// The end of step 13, and step 14.
fn find(call: &Call<'_>, id: &str) -> Result<Arc<ManagedCertificate>, Refusal> {
    if !is_id(id) {
        return Err(KMS_0138.into());
    }
    call.reach(step::EXISTENCE)?;
    let certificate = call.service.store.read(|state| known(state, id).cloned())?;
    call.permit_resource(ResourceType::Certificate, id)?;
    Ok(certificate)
}

/// A certificate that was deleted not long ago is told from one that never was.
fn known<'a>(state: &'a State, id: &str) -> Result<&'a Arc<ManagedCertificate>, Code> {
    let missing = if state.tombstones.get(id).is_some() { KMS_0310 } else { KMS_0309 };
    state.certificates.get(id).ok_or(missing)
}

/// Step 17 of an API that changes a certificate.
fn change(
    call: &Call<'_>,
    id: &str,
    change: impl FnOnce(&mut ManagedCertificate) -> Result<(), Code>,
) -> Result<(), Refusal> {
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        let mut certificate = known(state, id)?.as_ref().clone();
        change(&mut certificate)?;
        certificate.updated = call.now;
        state.certificates.put(certificate);
        Ok(())
    })
}

/// `exportablePrivateKey`: 0, 1, true or false, as a number, a text or a boolean.
fn exportable(call: &Call<'_>) -> Result<Option<bool>, Code> {
    match call.text_or_number("exportablePrivateKey").as_deref() {
        None => Ok(None),
        Some("1" | "true") => Ok(Some(true)),
        Some("0" | "false") => Ok(Some(false)),
        Some(_) => Err(KMS_0217),
    }
}

fn protection(text: &str) -> Result<Protection, Code> {
    Protection::parse(text).ok_or(KMS_0218)
}

fn format_code(error: CertificateError) -> Code {
    match error {
        CertificateError::Format => KMS_0140,
        CertificateError::UnsupportedAlgorithm => KMS_0141,
    }
}

/// The blocks of a chain, one after the other.
fn chain_pem<'a>(chain: impl Iterator<Item = &'a Certificate>) -> String {
    chain.map(Certificate::pem).collect()
}
