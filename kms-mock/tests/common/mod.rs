//! A small client that signs by itself: it shares no code with the mock.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../../src/openssl.rs"]
pub mod openssl;
pub mod pki;
pub mod served;
pub mod wrap;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use kms_mock::{MockConfig, MockKms};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use sha2::Sha256;

pub const CREATE_KEY: &str = "/cmkManage/createKey";
pub const DESCRIBE_KEY: &str = "/cmkManage/describeKey";
pub const LIST_KEYS: &str = "/cmkManage/listKeys";
pub const ENABLE_KEY: &str = "/cmkManage/enableKey";
pub const DISABLE_KEY: &str = "/cmkManage/disableKey";
pub const SCHEDULE: &str = "/cmkManage/scheduleKeyDeletion";
pub const CANCEL: &str = "/cmkManage/cancelKeyDeletion";
pub const ENCRYPT: &str = "/keyCompute/encrypt";
pub const DECRYPT: &str = "/keyCompute/decrypt";
pub const DATA_KEY: &str = "/keyCompute/generateDataKey";
pub const DATA_KEY_WITHOUT: &str = "/keyCompute/generateDataKeyWithoutPlaintext";
pub const RE_ENCRYPT: &str = "/keyCompute/reEncrypt";

/// An id of the right form that no key has.
pub const NO_KEY: &str = "241ede22-6261-4617-9caf-10d89990516c";

pub fn start() -> MockKms {
    MockKms::start(MockConfig::default()).expect("the mock starts")
}

/// A mock whose clock can be moved by decades without refusing requests.
pub fn start_patient() -> MockKms {
    let skew = Duration::from_secs(10_000 * 86_400);
    MockKms::start(MockConfig { skew, ..MockConfig::default() }).expect("the mock starts")
}

/// Rows of the published error table but for the success: code, status, message.
pub fn published() -> BTreeMap<&'static str, (u16, &'static str)> {
    let rows = include_str!("../data/kms-error-table.tsv").lines().skip(1).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        (columns[1], (columns[0].parse().expect("a status"), columns[2]))
    });
    rows.filter(|(code, _)| *code != "0").collect()
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The payload of a success in profile N.
    pub fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{}", self.body);
        assert_eq!(self.body["code"], 200, "{}", self.body);
        &self.body["data"]
    }

    pub fn text(&self, name: &str) -> String {
        self.data()[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.body)).to_owned()
    }

    pub fn plaintext(&self) -> Vec<u8> {
        BASE64.decode(self.text("plaintext")).expect("Base64")
    }

    pub fn code(&self) -> &str {
        self.body["errorCode"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        assert_eq!(self.body["code"], status);
        assert_eq!(self.body["success"], 0);
        assert_eq!(self.body["error"], code);
    }
}

#[derive(Clone)]
pub struct Client {
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: String,
    /// Seconds by which this client's clock is wrong.
    pub clock_error: i64,
    pub agent: ureq::Agent,
}

impl Client {
    pub fn new(mock: &MockKms) -> Self {
        let credential = mock.credential();
        Client::with(&mock.endpoint(), &credential.access_key, &credential.secret_key)
    }

    pub fn with(endpoint: &str, access_key: &str, secret_key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .max_idle_connections(4)
            .build();
        Client {
            endpoint: endpoint.to_owned(),
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            clock_error: 0,
            agent: config.into(),
        }
    }

    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build();
        Client { agent: config.into(), ..self.clone() }
    }

    /// A call in profile N.
    pub fn call(&self, path: &str, body: Value) -> Answer {
        self.try_call(path, body).expect("an answer")
    }

    pub fn try_call(&self, path: &str, body: Value) -> Result<Answer, ureq::Error> {
        self.send(path, &self.native_headers(path, &body), body.to_string().as_bytes())
    }

    /// A call in profile E.
    pub fn call_eop(&self, path: &str, body: Value) -> Answer {
        let body = body.to_string();
        self.send(path, &self.eop_headers("", body.as_bytes()), body.as_bytes()).expect("an answer")
    }

    pub fn send(&self, path: &str, headers: &[(&str, String)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = self.agent.post(format!("{}{path}", self.endpoint));
        request = request.header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut response = request.send(body)?;
        let text = response.body_mut().read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status: response.status().as_u16(), body })
    }

    pub fn native_headers(&self, path: &str, body: &Value) -> Vec<(&'static str, String)> {
        let date = self.request_date();
        let hmac = self.native_signature(path, body, &date);
        vec![("accessKey", self.access_key.clone()), ("requestDate", date), ("hmac", hmac)]
    }

    pub fn native_signature(&self, path: &str, body: &Value, date: &str) -> String {
        let mut values = vec![("accessKey".to_owned(), self.access_key.clone())];
        for (name, value) in body.as_object().into_iter().flatten() {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            values.push((name.clone(), text));
        }
        // Stable: a field of the body that is named accessKey comes after the header's.
        values.sort_by(|a, b| a.0.cmp(&b.0));
        let content: Vec<String> = values.into_iter().map(|(_, text)| text).collect();
        let md5 = BASE64.encode(Md5::digest(content.join("\n")));
        BASE64.encode(mac(self.secret_key.as_bytes(), &format!("{md5}\n{date}\n{path}")))
    }

    pub fn eop_headers(&self, query: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let (year, month, day, h, m, s) = beijing(self.now());
        let date = format!("{year:04}{month:02}{day:02}T{h:02}{m:02}{s:02}Z");
        let id = "27cfe4dc-e640-45f6-92ca-492ca73e8680".to_owned();
        let hash = hex::encode(Sha256::digest(body));
        let text = format!("ctyun-eop-request-id:{id}\neop-date:{date}\n\n{query}\n{hash}");
        let ktime = mac(self.secret_key.as_bytes(), &date);
        let kdate = mac(&mac(&ktime, &self.access_key), &date[..8]);
        let signature = BASE64.encode(mac(&kdate, &text));
        let authorization = format!("{} Headers=ctyun-eop-request-id;eop-date Signature={signature}", self.access_key);
        vec![("ctyun-eop-request-id", id), ("eop-date", date), ("Eop-Authorization", authorization)]
    }

    pub fn request_date(&self) -> String {
        let now = self.now();
        let (year, month, day, h, m, s) = beijing(now);
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][((now + 8 * 3600) / 86_400 % 7) as usize];
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month - 1];
        format!("{weekday}, {day:02} {month} {year:04} {h:02}:{m:02}:{s:02} CST")
    }

    fn now(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 + self.clock_error
    }

    /// Makes a key over HTTP.
    pub fn create(&self, spec: &str) -> String {
        self.call(CREATE_KEY, new_key(spec)).text("cmkUuid")
    }

    pub fn encrypt(&self, id: &str, plain: &[u8]) -> Answer {
        self.call(ENCRYPT, json!({"cmkUuid": id, "plaintext": BASE64.encode(plain)}))
    }

    pub fn decrypt(&self, blob: &str) -> Answer {
        self.call(DECRYPT, json!({"ciphertextBlob": blob}))
    }

    pub fn data_key(&self, id: &str) -> Answer {
        self.call(DATA_KEY, json!({"cmkUuid": id}))
    }

    pub fn control(&self, method: &str, door: &str, body: Value) -> Answer {
        let url = format!("{}/__mock/{door}", self.endpoint);
        let mut response = match method {
            "GET" => self.agent.get(url).call(),
            "DELETE" => self.agent.delete(url).call(),
            _ => self.agent.post(url).send(body.to_string().as_bytes()),
        }
        .expect("an answer");
        let text = response.body_mut().read_to_string().expect("a body");
        Answer { status: response.status().as_u16(), body: serde_json::from_str(&text).expect("JSON") }
    }
}

/// The request for a key with every field that is required.
pub fn new_key(spec: &str) -> Value {
    json!({"keySpec": spec, "keyUsage": "ENCRYPT/DECRYPT", "protectionLevel": "HSM", "enableAutomaticRotation": false})
}

/// `body` with some fields set; null removes one.
pub fn with(mut body: Value, changes: Value) -> Value {
    let fields = body.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    body
}

fn mac(key: &[u8], data: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key");
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Year, month, day, hour, minute, second in Beijing, by counting days.
fn beijing(at: i64) -> (i64, usize, i64, i64, i64, i64) {
    let at = at + 8 * 3600;
    let (mut day, second) = (at / 86_400, at % 86_400);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1, second / 3600, second / 60 % 60, second % 60)
}
