//! What requests and answers look like. Every path and field name of the service stands in the tables [`api`] and
//! [`field`], because most of them are not confirmed by the provider's pages: a correction changes data, not logic.
//!
//! Answers may carry a key in plaintext. The body stays in the one buffer that is wiped on drop, is parsed by borrowing
//! from it, and Base64 is decoded straight into locked memory.

use std::collections::HashMap;
use std::ops::Range;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::{DecodeSliceError, Engine};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::{KmsError, Refusal};
use super::{GeneratedKey, KeyDescription, KeySpec, WrappedKey};
use crate::crypto::secret::{SECRET_MAX, SecretBytes};

#[derive(Debug)]
pub(super) struct Api {
    pub name: &'static str,
    pub path: &'static str,
    /// Whether a call may be made twice without harm.
    pub repeatable: bool,
}

pub(super) mod api {
    use super::Api;

    pub const GENERATE_DATA_KEY: Api =
        Api { name: "generateDataKey", path: "/keyCompute/generateDataKey", repeatable: true };
    pub const DECRYPT: Api = Api { name: "decrypt", path: "/keyCompute/decrypt", repeatable: true };
    pub const RE_ENCRYPT: Api = Api { name: "reEncrypt", path: "/keyCompute/reEncrypt", repeatable: true };
    pub const DESCRIBE_KEY: Api = Api { name: "describeKey", path: "/cmkManage/describeKey", repeatable: true };
    pub const CREATE_KEY: Api = Api { name: "createKey", path: "/cmkManage/createKey", repeatable: false };
}

mod field {
    // Requests and payloads
    pub const KEY_ID: &str = "cmkUuid";
    pub const KEY_VERSION: &str = "keyVersionId";
    pub const KEY_SPEC: &str = "keySpec";
    pub const KEY_USAGE: &str = "keyUsage";
    pub const PROTECTION_LEVEL: &str = "protectionLevel";
    pub const AUTOMATIC_ROTATION_ON: &str = "enableAutomaticRotation";
    pub const BLOB: &str = "ciphertextBlob";
    pub const PLAINTEXT: &str = "plaintext";
    pub const DESTINATION: &str = "destinationCmkUuid";
    pub const METADATA: &str = "keyMetadata";
    pub const KEY_STATE: &str = "keyState";
    pub const PRIMARY_VERSION: &str = "primaryKeyVersion";
    pub const ORIGIN: &str = "origin";
    pub const AUTOMATIC_ROTATION: &str = "automaticRotation";
    pub const DELETE_DATE: &str = "deleteDate";

    // Envelope
    pub const CODE: &str = "code";
    pub const STATUS_CODE: &str = "statusCode";
    pub const ERROR_CODES: [&str; 3] = ["errorCode", "error", CODE];
    pub const MESSAGE: &str = "message";
    pub const REQUEST_ID: &str = "requestId";
    /// The first one that is present has the payload.
    pub const PAYLOADS: [&str; 3] = ["data", "result", "returnObj"];
}

/// Values of `keySpec`: for a data key, and for the KMS key that wraps it.
fn spec_names(spec: KeySpec) -> (&'static str, &'static str) {
    match spec {
        KeySpec::Aes256 => ("AES_256", "AES_256"),
        KeySpec::Sm4_128 => ("SM4_128", "Ctyun_SM4"),
    }
}

/// A request: an API and its parameters in the order in which they are sent.
pub(super) struct Call<'a> {
    pub api: &'static Api,
    params: Vec<(&'static str, Param<'a>)>,
}

#[derive(Clone, Copy)]
enum Param<'a> {
    Text(&'a str),
    Flag(bool),
}

impl Call<'_> {
    /// The body as it is sent and, in profile E, hashed. Holds nothing secret.
    pub(super) fn body(&self) -> String {
        let fields: Vec<String> =
            self.params.iter().map(|(name, value)| format!("{}:{}", json_text(name), value.to_json())).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// Names and values as profile N signs them.
    pub(super) fn fields(&self) -> Vec<(&str, String)> {
        self.params.iter().map(|(name, value)| (*name, value.to_text())).collect()
    }
}

impl Param<'_> {
    fn to_json(self) -> String {
        match self {
            Param::Text(text) => json_text(text),
            Param::Flag(flag) => flag.to_string(),
        }
    }

    fn to_text(self) -> String {
        match self {
            Param::Text(text) => text.to_owned(),
            Param::Flag(flag) => flag.to_string(),
        }
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn generate_data_key(key_id: &str, spec: KeySpec) -> Call<'_> {
    let params = vec![(field::KEY_ID, Param::Text(key_id)), (field::KEY_SPEC, Param::Text(spec_names(spec).0))];
    Call { api: &api::GENERATE_DATA_KEY, params }
}

pub(super) fn decrypt(wrapped: &WrappedKey) -> Call<'_> {
    Call { api: &api::DECRYPT, params: vec![(field::BLOB, Param::Text(&wrapped.blob))] }
}

pub(super) fn re_encrypt<'a>(wrapped: &'a WrappedKey, destination: &'a str) -> Call<'a> {
    let params = vec![(field::BLOB, Param::Text(&wrapped.blob)), (field::DESTINATION, Param::Text(destination))];
    Call { api: &api::RE_ENCRYPT, params }
}

pub(super) fn describe_key(key_id: &str) -> Call<'_> {
    Call { api: &api::DESCRIBE_KEY, params: vec![(field::KEY_ID, Param::Text(key_id))] }
}

/// Every field that has a code "cannot be empty" is sent. SM4 keys exist in hardware only.
pub(super) fn create_key(spec: KeySpec) -> Call<'static> {
    let protection = match spec {
        KeySpec::Aes256 => "SOFTWARE",
        KeySpec::Sm4_128 => "HSM",
    };
    let params = vec![
        (field::KEY_SPEC, Param::Text(spec_names(spec).1)),
        (field::KEY_USAGE, Param::Text("ENCRYPT/DECRYPT")),
        (field::PROTECTION_LEVEL, Param::Text(protection)),
        (field::AUTOMATIC_ROTATION_ON, Param::Flag(false)),
    ];
    Call { api: &api::CREATE_KEY, params }
}

/// A successful answer: its bytes, and where in them the payload lies. Wiped on drop.
pub(super) struct Answer {
    api: &'static Api,
    bytes: Zeroizing<Vec<u8>>,
    payload: Range<usize>,
}

type Object<'a> = HashMap<String, &'a RawValue>;

/// Success is HTTP 2xx **and** `code` 200 (number or text), or, without a `code`, `statusCode` 200 or 800. The service may
/// report an error with HTTP 200 and tell only in the body.
pub(super) fn open_envelope(api: &'static Api, status: u16, bytes: Zeroizing<Vec<u8>>) -> Result<Answer, KmsError> {
    if (300..400).contains(&status) {
        return Err(KmsError::bad_response(format!("a redirect (HTTP {status}), which is never followed")));
    }
    let http_ok = (200..300).contains(&status);
    let envelope: Object<'_> = match serde_json::from_slice(&bytes) {
        Ok(envelope) => envelope,
        Err(_) if http_ok => return Err(KmsError::bad_response("the body is no JSON object")),
        Err(_) => return Err(refused(api, status, &Object::new())),
    };
    let code = number(&envelope, field::CODE);
    let success = match (envelope.get(field::CODE), number(&envelope, field::STATUS_CODE)) {
        (Some(_), _) => code == Some(200),
        (None, Some(status_code)) => status_code == 200 || status_code == 800,
        (None, None) if http_ok => return Err(KmsError::bad_response("the body is not the service's envelope")),
        (None, None) => false,
    };
    if !http_ok || !success {
        let told = if http_ok { code.or(number(&envelope, field::STATUS_CODE)) } else { None };
        let told = told.and_then(|told| u16::try_from(told).ok()).filter(|told| (400..600).contains(told));
        return Err(refused(api, told.unwrap_or(status), &envelope));
    }
    let payload = field::PAYLOADS.iter().filter_map(|name| envelope.get(*name)).find(|raw| raw.get() != "null");
    let payload = payload.map_or(0..0, |raw| place_of(raw, &bytes));
    Ok(Answer { api, bytes, payload })
}

/// Where a value borrowed from `bytes` lies in them.
fn place_of(raw: &RawValue, bytes: &[u8]) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - bytes.as_ptr() as usize;
    start..start + raw.get().len()
}

fn refused(api: &'static Api, status: u16, envelope: &Object<'_>) -> KmsError {
    let is_code = |code: &String| !code.contains(char::is_whitespace) && !code.bytes().all(|b| b.is_ascii_digit());
    let code = field::ERROR_CODES.iter().filter_map(|name| text(envelope, name)).find(is_code);
    if matches!(status, 502..=504) && code.is_none() {
        return KmsError::unreachable(format!("a gateway answered HTTP {status} in its place"));
    }
    let mut code = code.unwrap_or_default();
    code.truncate(code.char_indices().nth(CODE_MAX).map_or(code.len(), |(at, _)| at));
    let message = text(envelope, field::MESSAGE).unwrap_or_default();
    let request_id = text(envelope, field::REQUEST_ID).map(|id| id.chars().take(CODE_MAX).collect());
    Refusal::new(api.name, code, message, request_id, status).into()
}

const CODE_MAX: usize = 64;

/// The longest blob and id that are taken from the service. Blobs of 32-byte keys have about 220 characters.
const BLOB_MAX: usize = 2048;
const ID_MAX: usize = 256;

pub(super) fn generated_key(answer: &Answer, key_id: &str, spec: KeySpec) -> Result<GeneratedKey, KmsError> {
    let payload = answer.payload()?;
    let plaintext = answer.secret(&payload, spec.data_key_len())?;
    let wrapped = answer.wrapped(&payload, key_id)?;
    Ok(GeneratedKey { plaintext, wrapped })
}

pub(super) fn decrypted_key(answer: &Answer, wrapped: &WrappedKey, len: usize) -> Result<SecretBytes, KmsError> {
    let payload = answer.payload()?;
    if let Some(id) = text(&payload, field::KEY_ID) {
        same_key(answer.api, &wrapped.key_id, &id)?;
    }
    if let Some(version) = text(&payload, field::KEY_VERSION)
        && !wrapped.key_version.is_empty()
        && !version.eq_ignore_ascii_case(&wrapped.key_version)
    {
        return Err(KmsError::lied(format!(
            "{} used another version of the KMS key: {version:?} instead of {:?}",
            answer.api.name, wrapped.key_version
        )));
    }
    answer.secret(&payload, len)
}

pub(super) fn wrapped_key(answer: &Answer, destination: &str) -> Result<WrappedKey, KmsError> {
    answer.wrapped(&answer.payload()?, destination)
}

pub(super) fn created_key_id(answer: &Answer) -> Result<String, KmsError> {
    answer.required(&answer.payload()?, field::KEY_ID, ID_MAX)
}

pub(super) fn key_description(answer: &Answer, key_id: &str) -> Result<KeyDescription, KmsError> {
    let payload = answer.payload()?;
    let nested = payload.get(field::METADATA).and_then(|raw| serde_json::from_str::<Object<'_>>(raw.get()).ok());
    let key = nested.as_ref().unwrap_or(&payload);
    let id = answer.required(key, field::KEY_ID, ID_MAX)?;
    same_key(answer.api, key_id, &id)?;
    Ok(KeyDescription {
        key_id: id,
        state: answer.required(key, field::KEY_STATE, ID_MAX)?,
        spec: answer.required(key, field::KEY_SPEC, ID_MAX)?,
        primary_version: text(key, field::PRIMARY_VERSION),
        origin: text(key, field::ORIGIN),
        protection_level: text(key, field::PROTECTION_LEVEL),
        automatic_rotation: text(key, field::AUTOMATIC_ROTATION),
        delete_date: text(key, field::DELETE_DATE),
    })
}

impl Answer {
    fn payload(&self) -> Result<Object<'_>, KmsError> {
        serde_json::from_slice(&self.bytes[self.payload.clone()])
            .map_err(|_| self.bad("has no payload, or one that is no JSON object"))
    }

    fn wrapped(&self, payload: &Object<'_>, asked: &str) -> Result<WrappedKey, KmsError> {
        let key_id = text(payload, field::KEY_ID).unwrap_or_else(|| asked.to_owned());
        same_key(self.api, asked, &key_id)?;
        let blob = self.required(payload, field::BLOB, BLOB_MAX)?;
        let key_version = text(payload, field::KEY_VERSION).unwrap_or_default();
        if key_id.len() > ID_MAX || key_version.len() > ID_MAX {
            return Err(self.bad("has an id that is too long"));
        }
        Ok(WrappedKey { key_id, key_version, blob })
    }

    fn required(&self, object: &Object<'_>, name: &str, max: usize) -> Result<String, KmsError> {
        match text(object, name) {
            Some(text) if text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text),
            Some(_) => Err(self.bad(&format!("has a {name} that is too long or has strange characters"))),
            None => Err(self.bad(&format!("lacks {name}"))),
        }
    }

    /// The plaintext key of exactly `len` bytes, decoded into locked memory.
    fn secret(&self, payload: &Object<'_>, len: usize) -> Result<SecretBytes, KmsError> {
        let raw = payload.get(field::PLAINTEXT).ok_or_else(|| self.bad("lacks plaintext"))?;
        let encoded = unescape(raw.get()).ok_or_else(|| self.bad("has a plaintext that is no Base64 text"))?;
        let wrong_len =
            || KmsError::lied(format!("{} gave a key that has not the {len} bytes asked for", self.api.name));
        if len > SECRET_MAX || encoded.len() != len.div_ceil(3) * 4 {
            return Err(wrong_len());
        }
        let mut key = SecretBytes::zeroed(len);
        match BASE64.decode_slice(&*encoded, key.expose_mut()) {
            Ok(decoded_len) if decoded_len == len => Ok(key),
            Ok(_) | Err(DecodeSliceError::OutputSliceTooSmall) => Err(wrong_len()),
            Err(DecodeSliceError::DecodeError(_)) => Err(self.bad("has a plaintext that is no Base64 text")),
        }
    }

    fn bad(&self, what: &str) -> KmsError {
        KmsError::bad_response(format!("the answer to {} {what}", self.api.name))
    }
}

/// An alias is answered with the id behind it, so only ids can be compared.
fn same_key(api: &Api, asked: &str, answered: &str) -> Result<(), KmsError> {
    if asked.starts_with("alias/") || asked.eq_ignore_ascii_case(answered) {
        return Ok(());
    }
    Err(KmsError::lied(format!("{} used the KMS key {answered:?} instead of {asked:?}", api.name)))
}

/// A text or number; `None` if absent, null or empty.
fn text(object: &Object<'_>, name: &str) -> Option<String> {
    let raw = object.get(name)?.get();
    let text = match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok()?,
        b'0'..=b'9' => raw.to_owned(),
        _ => return None,
    };
    Some(text).filter(|text: &String| !text.is_empty())
}

fn number(object: &Object<'_>, name: &str) -> Option<u64> {
    text(object, name)?.parse().ok()
}

/// The characters of a JSON string, for text that is Base64: some writers escape `/`, `+` and `=`. Other escapes are
/// refused.
fn unescape(json: &str) -> Option<Zeroizing<Vec<u8>>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut rest = inner;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'\\', [b'/', tail @ ..]) => {
                out.push(b'/');
                tail
            }
            (b'\\', [b'u', b'0', b'0', high, low, tail @ ..]) => {
                let digit = |byte: &u8| (*byte as char).to_digit(16);
                out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                tail
            }
            (b'\\', _) => return None,
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::RefusalKind;

    const ID: &str = "241ede22-6261-4617-9caf-10d89990516c";
    const VERSION: &str = "49ec76d7-cc4c-400e-9f19-f9001587ae0f";
    const KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn open(status: u16, body: &str) -> Result<Answer, KmsError> {
        open_envelope(&api::DECRYPT, status, Zeroizing::new(body.as_bytes().to_vec()))
    }

    fn wrapped() -> WrappedKey {
        WrappedKey { key_id: ID.into(), key_version: VERSION.into(), blob: "blob".into() }
    }

    fn decrypted(payload: &str) -> Result<SecretBytes, KmsError> {
        decrypted_key(&open(200, &format!(r#"{{"code":200,"data":{payload}}}"#))?, &wrapped(), 32)
    }

    fn expected_key() -> SecretBytes {
        SecretBytes::copy_of(&(0x20..0x40).collect::<Vec<u8>>()).expect("short")
    }

    #[test]
    fn every_envelope_of_a_success_is_read() {
        let payload = format!(r#"{{"plaintext":"{KEY}","cmkUuid":"{ID}","keyVersionId":"{VERSION}"}}"#);
        for envelope in [
            r#"{"code":200,"message":"成功","errorCode":"0","requestId":"r","data":P}"#,
            r#"{"code":"200","data":P}"#,
            r#"{"code":200,"statusCode":200,"success":1,"result":P}"#,
            r#"{"statusCode":800,"returnObj":P}"#,
            r#"{"statusCode":"200","returnObj":P}"#,
            r#"{"code":200,"data":null,"result":P}"#,
            r#"{"code":200,"data":P,"result":{"plaintext":"AAAA"}}"#,
        ] {
            let answer = open(200, &envelope.replace('P', &payload)).unwrap_or_else(|e| panic!("{envelope}: {e}"));
            assert_eq!(decrypted_key(&answer, &wrapped(), 32).expect(envelope), expected_key());
        }
    }

    #[test]
    fn an_error_may_come_with_any_http_status() {
        for (status, body) in [
            (400, r#"{"code":400,"errorCode":"KMS.0206","error":"KMS.0206","message":"The CMK is disabled"}"#),
            (200, r#"{"code":400,"errorCode":"KMS.0206","message":"The CMK is disabled"}"#),
            (200, r#"{"code":"KMS.0206","message":"The CMK is disabled"}"#),
            (200, r#"{"statusCode":400,"error":"KMS.0206","message":"The CMK is disabled"}"#),
            (400, r#"{"error":"KMS.0206","code":200,"data":{}}"#),
        ] {
            let error = open(status, body).err().unwrap_or_else(|| panic!("{body} is an error"));
            assert_eq!(error.kind(), Some(RefusalKind::Disabled), "{body}");
            assert_eq!(error.code(), Some("KMS.0206"));
        }
    }

    #[test]
    fn soft_errors_with_unknown_codes_take_their_class_from_the_body() {
        let error = open(200, r#"{"code":500,"errorCode":"KMS.0999"}"#).err().expect("an error");
        assert_eq!(error.kind(), Some(RefusalKind::Internal));
        let error = open(200, r#"{"statusCode":900,"error":"CTAPI_10001","message":"x"}"#).err().expect("an error");
        assert_eq!(error.kind(), Some(RefusalKind::Other));
    }

    #[test]
    fn what_is_no_envelope_is_told_apart() {
        assert!(open(200, "<html>").err().expect("html").is_bad_response());
        assert!(open(200, "[]").err().expect("array").is_bad_response());
        assert!(open(200, "{}").err().expect("empty").is_bad_response());
        assert!(open(302, "").err().expect("redirect").is_bad_response());
        assert!(open(503, "<html>").err().expect("gateway").is_unreachable());
        assert_eq!(open(500, "oops").err().and_then(|e| e.kind()), Some(RefusalKind::Internal));
        assert_eq!(open(404, "oops").err().and_then(|e| e.kind()), Some(RefusalKind::Other));
        assert_eq!(open(503, r#"{"errorCode":"KMS.0206"}"#).err().and_then(|e| e.kind()), Some(RefusalKind::Disabled));
    }

    #[test]
    fn ids_that_are_absent_are_not_compared() {
        assert_eq!(decrypted(&format!(r#"{{"plaintext":"{KEY}"}}"#)).expect("a key"), expected_key());
    }

    #[test]
    fn ids_that_differ_are_a_lie() {
        let other = "00000000-0000-0000-0000-000000000000";
        for payload in [
            format!(r#"{{"plaintext":"{KEY}","cmkUuid":"{other}"}}"#),
            format!(r#"{{"plaintext":"{KEY}","cmkUuid":"{ID}","keyVersionId":"{other}"}}"#),
        ] {
            assert!(matches!(decrypted(&payload), Err(KmsError::Lied { .. })), "{payload}");
        }
    }

    #[test]
    fn keys_of_another_length_are_a_lie() {
        for plaintext in ["", "AAAA", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pg==", &"A".repeat(44), &"A".repeat(400)]
        {
            let result = decrypted(&format!(r#"{{"plaintext":"{plaintext}"}}"#));
            assert!(matches!(result, Err(KmsError::Lied { .. })), "{plaintext}: {result:?}");
        }
    }

    #[test]
    fn broken_payloads_are_bad_responses() {
        let not_base64 = format!(r#"{{"plaintext":"{}"}}"#, "!".repeat(44));
        for payload in [&not_base64, "{}", "null", "[]", r#"{"plaintext":7}"#, r#"{"plaintext":"\n"}"#] {
            let result = decrypted(payload);
            assert!(matches!(result, Err(KmsError::BadResponse { .. })), "{payload}: {result:?}");
        }
    }

    #[test]
    fn escaped_base64_is_understood() {
        let expected = SecretBytes::copy_of(&[0xff; 32]).expect("short");
        let escaped = format!(r"{}8\u003d", r"\/".repeat(42));
        assert_eq!(decrypted(&format!(r#"{{"plaintext":"{escaped}"}}"#)).expect("a key"), expected);
    }

    #[test]
    fn a_generated_key_comes_with_the_services_ids() {
        let body = format!(
            r#"{{"code":200,"data":{{"cmkUuid":"{ID}","keyVersionId":"{VERSION}","plaintext":"{KEY}","ciphertextBlob":"b64="}}}}"#
        );
        let answer = open(200, &body).expect("a success");
        for asked in [ID, "alias/mine", &ID.to_uppercase()] {
            let key = generated_key(&answer, asked, KeySpec::Aes256).expect("a key");
            assert_eq!(key.plaintext, expected_key());
            assert_eq!(key.wrapped.key_id, ID);
            assert_eq!(key.wrapped.key_version, VERSION);
            assert_eq!(key.wrapped.blob, "b64=");
        }
        assert!(matches!(generated_key(&answer, "other", KeySpec::Aes256), Err(KmsError::Lied { .. })));
        assert!(matches!(generated_key(&answer, ID, KeySpec::Sm4_128), Err(KmsError::Lied { .. })));
    }

    #[test]
    fn descriptions_are_read_flat_and_nested() {
        let key = format!(
            r#"{{"cmkUuid":"{ID}","keyState":"Enabled","keySpec":"AES_256","primaryKeyVersion":"{VERSION}","deleteDate":""}}"#
        );
        for data in [key.clone(), format!(r#"{{"keyMetadata":{key}}}"#)] {
            let answer = open(200, &format!(r#"{{"code":200,"data":{data}}}"#)).expect("a success");
            let key = key_description(&answer, ID).expect("a description");
            assert!(key.is_enabled());
            assert_eq!(key.primary_version.as_deref(), Some(VERSION));
            assert_eq!(key.delete_date, None);
        }
    }

    #[test]
    fn requests_have_the_services_form() {
        assert_eq!(decrypt(&wrapped()).body(), r#"{"ciphertextBlob":"blob"}"#);
        assert_eq!(
            re_encrypt(&wrapped(), ID).body(),
            format!(r#"{{"ciphertextBlob":"blob","destinationCmkUuid":"{ID}"}}"#)
        );
        assert_eq!(
            create_key(KeySpec::Sm4_128).body(),
            r#"{"keySpec":"Ctyun_SM4","keyUsage":"ENCRYPT/DECRYPT","protectionLevel":"HSM","enableAutomaticRotation":false}"#
        );
        assert_eq!(generate_data_key("a\"b", KeySpec::Sm4_128).body(), r#"{"cmkUuid":"a\"b","keySpec":"SM4_128"}"#);
    }
}
