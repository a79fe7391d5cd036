//! The envelopes around payloads and refusals, and the answers that lie when a fault says so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::auth::Profile;
use crate::error::{Refusal, SUCCESS};
use crate::fault::FaultKind;

/// The body of a success: `data` in profile N, `result` in profile E.
pub fn success(profile: Profile, payload: Map<String, Value>, request_id: &str) -> Value {
    match profile {
        Profile::Native => json!({
            "code": SUCCESS.http,
            "message": SUCCESS.message,
            "errorCode": SUCCESS.code,
            "requestId": request_id,
            "data": payload,
        }),
        Profile::Eop => json!({
            "code": SUCCESS.http,
            "statusCode": SUCCESS.http,
            "success": 1,
            "requestId": request_id,
            "result": payload,
        }),
    }
}

/// The body of a refusal, the same in both profiles.
pub fn refusal(refusal: &Refusal, request_id: &str) -> Value {
    json!({
        "code": refusal.http,
        "statusCode": refusal.http,
        "success": 0,
        "errorCode": refusal.code,
        "error": refusal.code,
        "message": refusal.message,
        "requestId": request_id,
    })
}

/// Changes a payload as a fault demands.
pub fn falsify(payload: &mut Map<String, Value>, fault: &FaultKind) {
    match fault {
        FaultKind::LyingPlaintext => {
            change_plaintext(payload, |plain| plain.iter_mut().for_each(|byte| *byte = !*byte));
        }
        FaultKind::ShortPlaintext => change_plaintext(payload, |plain| plain.truncate(plain.len() / 2)),
        FaultKind::LyingKeyId => {
            if let Some(id) = payload.get_mut("cmkUuid") {
                *id = Uuid::new_v4().to_string().into();
            }
        }
        FaultKind::WithoutField(name) => drop(payload.remove(name)),
        _ => {}
    }
}

fn change_plaintext(payload: &mut Map<String, Value>, change: impl FnOnce(&mut Vec<u8>)) {
    let plain = payload.get("plaintext").and_then(Value::as_str).and_then(|text| BASE64.decode(text).ok());
    if let Some(mut plain) = plain {
        change(&mut plain);
        payload.insert("plaintext".to_owned(), BASE64.encode(plain).into());
    }
}

/// A whole answer in the form a fault demands. The oversized one would be good JSON.
pub fn deform(body: Bytes, fault: Option<&FaultKind>) -> Bytes {
    match fault {
        Some(FaultKind::NotJson) => Bytes::from_static(b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
        Some(FaultKind::EmptyBody) => Bytes::new(),
        Some(FaultKind::OversizedBody) => {
            let mut padded = body.to_vec();
            padded.resize(OVERSIZED, b' ');
            padded.into()
        }
        _ => body,
    }
}

/// Far more than any answer of the service needs.
const OVERSIZED: usize = 8 << 20;
