//! The envelopes around payloads and refusals, and the answers that lie when a fault says so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use crate::auth::Profile;
use crate::error::{Code, Refusal, SUCCESS};
use crate::fault::FaultKind;

type Payload = Map<String, Value>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NativeSuccess<'a> {
    code: u16,
    message: &'static str,
    error_code: &'static str,
    request_id: &'a str,
    data: &'a Payload,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EopSuccess<'a> {
    code: u16,
    status_code: u16,
    success: u8,
    request_id: &'a str,
    result: &'a Payload,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused<'a> {
    code: u16,
    status_code: u16,
    success: u8,
    error_code: &'a str,
    error: &'a str,
    message: &'a str,
    request_id: &'a str,
}

/// The body of a success: `data` in profile N, `result` in profile E. Plaintext in it is wiped once it is sent, and the one in the
/// payload at once.
pub fn success(profile: Profile, mut payload: Payload, request_id: &str) -> Bytes {
    let Code { http: code, code: error_code, message, .. } = SUCCESS;
    let texts: usize = payload.values().filter_map(Value::as_str).map(str::len).sum();
    let body = match profile {
        Profile::Native => json(&NativeSuccess { code, message, error_code, request_id, data: &payload }, texts),
        Profile::Eop => json(&EopSuccess { code, status_code: code, success: 1, request_id, result: &payload }, texts),
    };
    if let Some(Value::String(plaintext)) = payload.get_mut(PLAINTEXT) {
        plaintext.zeroize();
    }
    body
}

/// The body of a refusal, the same in both profiles.
pub fn refusal(refusal: &Refusal, request_id: &str) -> Bytes {
    let Refusal { http: code, code: error, message, .. } = refusal;
    json(
        &Refused { code: *code, status_code: *code, success: 0, error_code: error, error, message, request_id },
        error.len() + message.len(),
    )
}

/// JSON in memory that is wiped when the last use of it ends. `texts` is about what its texts take: a buffer that grew would leave
/// copies behind.
fn json(value: &impl Serialize, texts: usize) -> Bytes {
    let mut buffer = Zeroizing::new(Vec::with_capacity(ROOM + texts));
    serde_json::to_writer(&mut *buffer, value).expect("texts and numbers can be written into memory");
    Bytes::from_owner(buffer)
}

/// For everything in an envelope but the texts of its payload.
const ROOM: usize = 512;
const PLAINTEXT: &str = "plaintext";

/// Changes a payload as a fault demands.
pub fn falsify(payload: &mut Payload, fault: &FaultKind) {
    match fault {
        FaultKind::LyingPlaintext => {
            change_bytes(payload, PLAINTEXT, |plain| plain.iter_mut().for_each(|byte| *byte = !*byte));
        }
        FaultKind::ShortPlaintext => change_bytes(payload, PLAINTEXT, |plain| plain.truncate(plain.len() / 2)),
        FaultKind::LyingBlob => change_bytes(payload, "ciphertextBlob", |blob| {
            // The last block: the tag, or the padding. The header stays, so that the blob names its key.
            blob.iter_mut().rev().take(16).for_each(|byte| *byte = !*byte);
        }),
        FaultKind::LyingKeyId => {
            if let Some(id) = payload.get_mut("cmkUuid") {
                *id = Uuid::new_v4().to_string().into();
            }
        }
        FaultKind::WithoutField(name) => drop(payload.remove(name)),
        _ => {}
    }
}

fn change_bytes(payload: &mut Payload, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let bytes = payload.get(name).and_then(Value::as_str).and_then(|text| BASE64.decode(text).ok());
    if let Some(mut bytes) = bytes.map(Zeroizing::new) {
        change(&mut bytes);
        payload.insert(name.to_owned(), BASE64.encode(&*bytes).into());
    }
}

/// A whole answer in the form a fault demands. The oversized one would be good JSON.
pub fn deform(body: Bytes, fault: &FaultKind) -> Bytes {
    match fault {
        FaultKind::NotJson => Bytes::from_static(b"<html><body><h1>502 Bad Gateway</h1></body></html>"),
        FaultKind::EmptyBody => Bytes::new(),
        FaultKind::OversizedBody => {
            let mut padded = body.to_vec();
            padded.resize(OVERSIZED, b' ');
            padded.into()
        }
        _ => body,
    }
}

/// Far more than any answer of the service needs.
const OVERSIZED: usize = 8 << 20;
