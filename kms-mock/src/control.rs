//! The control doors under `/__mock/`: clock, faults, calls, quota, tenants, switches. They are unsigned, so they are open on a
//! loopback listener only, and closed to web pages (which cannot help sending `Origin`).

use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::clock;
use crate::error;
use crate::fault::{Fault, FaultKind, OPERATION_STEP};
use crate::routes;
use crate::service::Service;
use crate::tenants::Tenant;

pub const PREFIX: &str = "/__mock/";

type Answer = (StatusCode, Value);

/// Answers a request whose path starts with [`PREFIX`].
pub fn answer(service: &Service, parts: &Parts, body: Option<&[u8]>) -> Answer {
    if parts.headers.contains_key("origin") {
        return trouble(StatusCode::FORBIDDEN, "not for web pages");
    }
    let Some(body) = body else { return trouble(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long") };
    let door = &parts.uri.path()[PREFIX.len()..];
    match (&parts.method, door) {
        (&Method::GET, "calls") => good(json!({"counts": service.calls.counts(), "calls": service.calls.log()})),
        (&Method::GET, "clock") => good(json!({"now": clock::to_iso(service.clock.now())})),
        (&Method::POST, "clock") => with(body, |request| set_clock(service, request)),
        (&Method::GET, "faults") => good(json!({"active": service.faults.active().len()})),
        (&Method::POST, "faults") => with(body, |request| inject(service, request)),
        (&Method::DELETE, "faults") => {
            service.faults.clear();
            good(json!({}))
        }
        (&Method::POST, "quota") => with(body, |request: QuotaRequest| {
            service.tenants.set_quota(request.per_second);
            Ok(json!({}))
        }),
        (&Method::POST, "tenants") => with(body, |request| put_tenant(service, request)),
        (&Method::GET, "switches") => good(json!(service.switches())),
        (&Method::POST, "switches") => with(body, |request| set_switches(service, request)),
        (&Method::POST, "reset") => {
            service.reset();
            good(json!({}))
        }
        _ => trouble(StatusCode::NOT_FOUND, "no such door"),
    }
}

fn good(body: Value) -> Answer {
    (StatusCode::OK, body)
}

fn trouble(status: StatusCode, reason: &str) -> Answer {
    (status, json!({"error": reason}))
}

fn with<T: DeserializeOwned>(body: &[u8], run: impl FnOnce(T) -> Result<Value, String>) -> Answer {
    let result = serde_json::from_slice(body).map_err(|error| error.to_string()).and_then(run);
    match result {
        Ok(body) => good(body),
        Err(reason) => trouble(StatusCode::BAD_REQUEST, &reason),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    advance_s: Option<i64>,
    /// Seconds since 1970, or `YYYY-MM-DDTHH:MM:SSZ`.
    set: Option<Value>,
}

fn set_clock(service: &Service, request: ClockRequest) -> Result<Value, String> {
    if let Some(set) = request.set {
        let at = set.as_i64().or_else(|| set.as_str().and_then(clock::parse_iso));
        service.clock.set(at.ok_or("set takes seconds since 1970 or YYYY-MM-DDTHH:MM:SSZ")?);
    }
    if let Some(seconds) = request.advance_s {
        service.clock.shift(seconds);
    }
    Ok(json!({"now": clock::to_iso(service.clock.now())}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaRequest {
    per_second: Option<u32>,
}

/// One fault, or a delay and one fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultRequest {
    api: Option<String>,
    /// 1 if absent; -1 until the faults are cleared.
    times: Option<i64>,
    delay_ms: Option<u64>,
    code: Option<String>,
    step: Option<u8>,
    http_status: Option<u16>,
    #[serde(default)]
    drop: bool,
    kind: Option<NamedKind>,
    /// For the kind `without_field`.
    field: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamedKind {
    Hang,
    Drop,
    DropAfter,
    TruncateBody,
    OversizedBody,
    EmptyBody,
    NotJson,
    LyingPlaintext,
    ShortPlaintext,
    LyingKeyId,
    WithoutField,
}

fn inject(service: &Service, request: FaultRequest) -> Result<Value, String> {
    let times = match request.times {
        None => 1,
        Some(-1) => u32::MAX,
        Some(times) => u32::try_from(times).map_err(|_| "times is -1 or a number of calls")?,
    };
    // A name that is misspelt would wait for ever.
    if let Some(api) = request.api.as_deref().filter(|api| !routes::is_api(api)) {
        return Err(format!("there is no API {api}"));
    }
    let delay = request.delay_ms.map(|ms| FaultKind::Delay(Duration::from_millis(ms)));
    let other = fault_kind(&request)?;
    if delay.is_none() && other.is_none() {
        return Err("no fault: give code, delay_ms, http_status, drop or kind".to_owned());
    }
    for kind in delay.into_iter().chain(other) {
        service.faults.inject(Fault { api: request.api.clone(), times, kind });
    }
    Ok(json!({"active": service.faults.active().len()}))
}

fn fault_kind(request: &FaultRequest) -> Result<Option<FaultKind>, String> {
    let mut kinds = Vec::new();
    if let Some(code) = &request.code {
        error::find(code).ok_or_else(|| format!("{code} is not in the table"))?;
        let step = request.step.unwrap_or(OPERATION_STEP);
        if !(1..=OPERATION_STEP).contains(&step) {
            return Err(format!("step is 1 to {OPERATION_STEP}"));
        }
        kinds.push(FaultKind::CodeAt { code: code.clone(), step });
    }
    if let Some(status) = request.http_status {
        // 1xx would not end the exchange.
        StatusCode::from_u16(status).ok().filter(|_| status >= 200).ok_or("http_status is 200 to 999")?;
        kinds.push(FaultKind::Status(status));
    }
    if request.drop {
        kinds.push(FaultKind::Drop);
    }
    if let Some(kind) = &request.kind {
        kinds.push(named_kind(kind, request.field.as_deref())?);
    }
    match kinds.len() {
        0 | 1 => Ok(kinds.pop()),
        _ => Err("one fault at a time: code, http_status, drop or kind".to_owned()),
    }
}

fn named_kind(kind: &NamedKind, field: Option<&str>) -> Result<FaultKind, String> {
    Ok(match kind {
        NamedKind::Hang => FaultKind::Hang,
        NamedKind::Drop => FaultKind::Drop,
        NamedKind::DropAfter => FaultKind::DropAfter,
        NamedKind::TruncateBody => FaultKind::TruncateBody,
        NamedKind::OversizedBody => FaultKind::OversizedBody,
        NamedKind::EmptyBody => FaultKind::EmptyBody,
        NamedKind::NotJson => FaultKind::NotJson,
        NamedKind::LyingPlaintext => FaultKind::LyingPlaintext,
        NamedKind::ShortPlaintext => FaultKind::ShortPlaintext,
        NamedKind::LyingKeyId => FaultKind::LyingKeyId,
        NamedKind::WithoutField => FaultKind::WithoutField(field.ok_or("without_field needs field")?.to_owned()),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantRequest {
    #[serde(rename = "accessKey")]
    access_key: String,
    /// Absent for a tenant that is there already.
    #[serde(rename = "secretKey")]
    secret_key: Option<String>,
    quota: Option<u32>,
    #[serde(default)]
    frozen: bool,
}

fn put_tenant(service: &Service, request: TenantRequest) -> Result<Value, String> {
    let secret_key = match request.secret_key {
        Some(secret_key) => Zeroizing::new(secret_key),
        None => service.tenants.secret_key(&request.access_key).ok_or("a new tenant needs secretKey")?,
    };
    let tenant = Tenant { secret_key, frozen: request.frozen, quota: request.quota };
    service.tenants.put(&request.access_key, tenant);
    Ok(json!({}))
}

/// Sets the switches that are named and leaves the others.
fn set_switches(service: &Service, request: serde_json::Map<String, Value>) -> Result<Value, String> {
    let mut switches = json!(service.switches());
    for (name, value) in request {
        switches[&name] = value;
    }
    service.set_switches(serde_json::from_value(switches).map_err(|error| error.to_string())?);
    Ok(json!(service.switches()))
}
