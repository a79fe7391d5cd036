//! Signs requests, in the two ways that the service has.
//!
//! - [`Profile::Native`] is the access point's AK/SK: HMAC-SHA256 over the MD5 of the parameter values, the date and the
//!   path. Field names, answers and host are not covered, which is why `http` insists on TLS.
//! - [`Profile::Eop`] is the gateway's: HMAC-SHA256 over request id, date, query and the body's SHA-256.
//!
//! Both carry Beijing time. It is computed from the system clock by arithmetic: the machine's time zone must not leak in.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::error::KmsError;
use super::http::EndpointError;
use super::wire::Call;
use crate::crypto::secret::SecretBytes;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// AK/SK of an application access point.
    #[default]
    Native,
    /// AK/SK of the account, through the EOP gateway.
    Eop,
}

pub(super) struct Credentials {
    profile: Profile,
    access_key: String,
    secret_key: SecretBytes,
}

impl Credentials {
    pub(super) fn new(profile: Profile, access_key: String, secret_key: SecretBytes) -> Result<Self, EndpointError> {
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !printable(&access_key) {
            return Err(EndpointError::AccessKey);
        }
        if secret_key.is_empty() {
            return Err(EndpointError::SecretKey);
        }
        Ok(Self { profile, access_key, secret_key })
    }

    /// The headers that prove who sends `call`, whose JSON text is `body`. Made anew for each attempt, as they are dated.
    pub(super) fn sign(&self, call: &Call<'_>, body: &str, now: Now) -> Result<HeaderMap, KmsError> {
        match self.profile {
            Profile::Native => {
                let date = native_date(now);
                let content = native_content(&self.access_key, &call.fields());
                let hmac = native_hmac(self.secret_key.expose(), &content_md5(&content), &date, call.api.path);
                headers([("accesskey", &self.access_key), ("requestdate", &date), ("hmac", &hmac)])
            }
            Profile::Eop => {
                let id = Uuid::new_v4().to_string();
                let date = eop_date(now);
                let signature =
                    eop_signature(&self.access_key, self.secret_key.expose(), &id, &date, "", body.as_bytes());
                let authorization = format!("{} Headers={EOP_ID};{EOP_DATE} Signature={signature}", self.access_key);
                headers([(EOP_ID, &id), (EOP_DATE, &date), ("eop-authorization", &authorization)])
            }
        }
    }
}

const EOP_ID: &str = "ctyun-eop-request-id";
const EOP_DATE: &str = "eop-date";

fn headers<const N: usize>(pairs: [(&'static str, &str); N]) -> Result<HeaderMap, KmsError> {
    let mut headers = HeaderMap::with_capacity(N + 2);
    for (name, value) in pairs {
        let mut value =
            HeaderValue::from_str(value).map_err(|_| KmsError::bad_response("credentials fit no header"))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

/// The values of `fields` (name and text) and the access key, in bytewise order of their names, joined by LF.
fn native_content(access_key: &str, fields: &[(&str, String)]) -> String {
    let mut sorted: Vec<(&str, &str)> = fields.iter().map(|(name, text)| (*name, text.as_str())).collect();
    sorted.push(("accessKey", access_key));
    sorted.sort_unstable();
    let values: Vec<&str> = sorted.into_iter().map(|(_, text)| text).collect();
    values.join("\n")
}

fn content_md5(content: &str) -> String {
    BASE64.encode(Md5::digest(content.as_bytes()))
}

fn native_hmac(secret_key: &[u8], content_md5: &str, date: &str, path: &str) -> String {
    BASE64.encode(hmac_sha256(secret_key, format!("{content_md5}\n{date}\n{path}").as_bytes()))
}

fn eop_signature(access_key: &str, secret_key: &[u8], id: &str, date: &str, query: &str, body: &[u8]) -> String {
    let to_sign = format!("{EOP_ID}:{id}\n{EOP_DATE}:{date}\n\n{query}\n{}", hex(&Sha256::digest(body)));
    let day = date.get(..8).unwrap_or(date);
    let time_key = Zeroizing::new(hmac_sha256(secret_key, date.as_bytes()));
    let access_key = Zeroizing::new(hmac_sha256(&*time_key, access_key.as_bytes()));
    let date_key = Zeroizing::new(hmac_sha256(&*access_key, day.as_bytes()));
    BASE64.encode(hmac_sha256(&*date_key, to_sign.as_bytes()))
}

/// The MAC's state, which holds the key, is wiped on drop (feature `zeroize` of `hmac` and `sha2`).
fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since the epoch, UTC.
#[derive(Clone, Copy)]
pub(super) struct Now(pub i64);

impl Now {
    pub(super) fn from_system_clock() -> Self {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self(since.as_secs() as i64),
            Err(before) => Self(-(before.duration().as_secs() as i64)),
        }
    }
}

/// `Wed, 16 Jul 2025 15:47:53 CST`, where CST is China Standard Time.
fn native_date(now: Now) -> String {
    let t = Beijing::at(now);
    let (weekday, month) = (WEEKDAYS[t.weekday], MONTHS[t.month - 1]);
    format!("{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} CST", t.day, t.year, t.hour, t.minute, t.second)
}

/// `20250716T154753Z`: Beijing time too, whatever its `Z` says.
fn eop_date(now: Now) -> String {
    let t = Beijing::at(now);
    format!("{:04}{:02}{:02}T{:02}{:02}{:02}Z", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment on a clock at +08:00. Month and day count from 1, the weekday from Sunday = 0.
struct Beijing {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Beijing {
    /// Civil date from a day number: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    fn at(now: Now) -> Self {
        let local = now.0 + 8 * 3600;
        let (days, seconds) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let shifted = days + 719_468; // days since 1 March of the year 0
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month: month as usize,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7) as usize, // 1 January 1970 was a Thursday
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vector(text: &str) -> impl Fn(&str) -> String {
        let value: Value = serde_json::from_str(text).expect("a fixture is JSON");
        move |name| value[name].as_str().unwrap_or_else(|| panic!("the fixture lacks {name}")).to_owned()
    }

    /// The text of a value as `Call::fields` gives it.
    fn fields_of(body: &str) -> Vec<(String, String)> {
        let body: Value = serde_json::from_str(body).expect("JSON");
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        body.as_object().expect("an object").iter().map(|(name, v)| (name.clone(), text(v))).collect()
    }

    #[test]
    fn native_vectors() {
        for fixture in [
            include_str!("../../tests/data/kms/native_encrypt.json"),
            include_str!("../../tests/data/kms/native_generate_data_key.json"),
            include_str!("../../tests/data/kms/native_rotation_policy.json"),
            include_str!("../../tests/data/kms/native_empty_body.json"),
        ] {
            let v = vector(fixture);
            let owned = fields_of(&v("body"));
            let fields: Vec<(&str, String)> = owned.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            let content = native_content(&v("access_key"), &fields);
            assert_eq!(content, v("content"));
            assert_eq!(content_md5(&content), v("content_md5"));
            let hmac = native_hmac(v("secret_key").as_bytes(), &content_md5(&content), &v("request_date"), &v("path"));
            assert_eq!(hmac, v("hmac"));
        }
    }

    #[test]
    fn eop_vectors() {
        for fixture in [
            include_str!("../../tests/data/kms/eop_data_key.json"),
            include_str!("../../tests/data/kms/eop_query.json"),
        ] {
            let v = vector(fixture);
            assert_eq!(hex(&Sha256::digest(v("body").as_bytes())), v("body_sha256"));
            let signature = eop_signature(
                &v("access_key"),
                v("secret_key").as_bytes(),
                &v("request_id"),
                &v("date"),
                &v("query"),
                v("body").as_bytes(),
            );
            assert_eq!(signature, v("signature"));
        }
        let v = vector(include_str!("../../tests/data/kms/eop_body_hash.json"));
        assert_eq!(hex(&Sha256::digest(v("body").as_bytes())), v("body_sha256"));
    }

    #[test]
    fn a_whole_native_request_carries_the_vectors_signature() {
        let v = vector(include_str!("../../tests/data/kms/native_generate_data_key.json"));
        let secret = SecretBytes::copy_of(v("secret_key").as_bytes()).expect("short");
        let credentials = Credentials::new(Profile::Native, v("access_key"), secret).expect("sound");
        let call =
            crate::kms::wire::generate_data_key("241ede22-6261-4617-9caf-10d89990516c", crate::kms::KeySpec::Aes256);
        let body = call.body();
        assert_eq!(body, v("body"));
        let headers = credentials.sign(&call, &body, Now(1_752_652_073)).expect("signs");
        assert_eq!(headers["requestDate"], v("request_date").as_str());
        assert_eq!(headers["hmac"], v("hmac").as_str());
        assert_eq!(headers["accessKey"], v("access_key").as_str());
        assert!(headers.values().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn an_eop_request_names_its_signed_headers() {
        let secret = SecretBytes::copy_of(b"fedcba9876543210fedcba9876543210").expect("short");
        let credentials = Credentials::new(Profile::Eop, "ak".into(), secret).expect("sound");
        let call = crate::kms::wire::describe_key("alias/x");
        let body = call.body();
        let headers = credentials.sign(&call, &body, Now(1_752_652_073)).expect("signs");
        let id = headers[EOP_ID].to_str().expect("text").to_owned();
        let expected =
            eop_signature("ak", credentials.secret_key.expose(), &id, "20250716T154753Z", "", body.as_bytes());
        assert_eq!(
            headers["Eop-Authorization"].to_str().expect("text"),
            format!("ak Headers=ctyun-eop-request-id;eop-date Signature={expected}")
        );
    }

    #[test]
    fn dates_are_beijing_time() {
        let cases = [
            (0, "Thu, 01 Jan 1970 08:00:00 CST"),
            (951_753_599, "Mon, 28 Feb 2000 23:59:59 CST"),
            (951_753_600, "Tue, 29 Feb 2000 00:00:00 CST"),
            (1_752_652_073, "Wed, 16 Jul 2025 15:47:53 CST"),
            (1_767_196_800, "Thu, 01 Jan 2026 00:00:00 CST"),
            (4_107_513_600, "Mon, 01 Mar 2100 00:00:00 CST"),
        ];
        for (now, text) in cases {
            assert_eq!(native_date(Now(now)), text);
        }
        assert_eq!(eop_date(Now(1_752_652_073)), "20250716T154753Z");
        assert_eq!(json!(eop_date(Now(0))), "19700101T080000Z");
    }
}
