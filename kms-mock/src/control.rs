//! The control doors under `/__mock/`: clock, faults, latency, seed, calls, quota, tenants, switches. They are unsigned, so they are
//! open on a loopback listener only, and closed to web pages (which cannot help sending `Origin`) but the console's own.

mod faults;

use std::str::FromStr;

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::clock;
use crate::console;
use crate::latency::Latency;
use crate::openapi;
use crate::routes;
use crate::service::Service;
use crate::tenants::Tenant;

pub const PREFIX: &str = "/__mock/";

pub type Answer = (StatusCode, Value);

/// Answers a request whose path starts with [`PREFIX`].
pub fn answer(service: &Service, parts: &Parts, body: Option<&[u8]>) -> Answer {
    let Some(body) = body else { return trouble(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long") };
    let path = &parts.uri.path()[PREFIX.len()..];
    if let Some(path) = path.strip_prefix(console::PREFIX) {
        return console::answer(service, parts, path, body);
    }
    if parts.headers.contains_key("origin") {
        return trouble(StatusCode::FORBIDDEN, "not for web pages");
    }
    door(service, &parts.method, path, parts.uri.query().unwrap_or_default(), body)
}

/// Answers a request whose sender is known to be no page of another site.
pub fn door(service: &Service, method: &Method, door: &str, query: &str, body: &[u8]) -> Answer {
    match (method, door) {
        (&Method::GET, "calls") => answer_with(calls(service, query)),
        (&Method::GET, "openapi.json") => good(openapi::document()),
        (&Method::GET, "clock") => good(json!({"now": clock::to_iso(service.clock.now())})),
        (&Method::POST, "clock") => with(body, |request| set_clock(service, request)),
        (&Method::GET, "faults") => good(json!({"active": service.faults.active().len()})),
        (&Method::POST, "faults") => with(body, |request| faults::inject(service, request)),
        (&Method::DELETE, "faults") => {
            service.faults.clear();
            good(json!({}))
        }
        (&Method::GET, "latency") => good(latencies(service)),
        (&Method::POST, "latency") => with(body, |request| set_latency(service, request)),
        (&Method::POST, "seed") => with(body, |request: SeedRequest| {
            service.dice.seed(request.seed);
            Ok(json!({}))
        }),
        (&Method::POST, "quota") => with(body, |request| set_quota(service, request)),
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

pub fn good(body: Value) -> Answer {
    (StatusCode::OK, body)
}

pub fn trouble(status: StatusCode, reason: &str) -> Answer {
    (status, json!({"error": reason}))
}

fn with<T: DeserializeOwned>(body: &[u8], run: impl FnOnce(T) -> Result<Value, String>) -> Answer {
    answer_with(serde_json::from_slice(body).map_err(|error| error.to_string()).and_then(run))
}

fn answer_with(result: Result<Value, String>) -> Answer {
    match result {
        Ok(body) => good(body),
        Err(reason) => trouble(StatusCode::BAD_REQUEST, &reason),
    }
}

/// A name that is misspelt would wait for ever.
fn known_api(api: Option<&str>) -> Result<(), String> {
    match api.filter(|api| !routes::is_api(api)) {
        Some(api) => Err(format!("there is no API {api}")),
        None => Ok(()),
    }
}

/// Counters, and the calls that the query asks for: `since=N`, `api=NAME`.
fn calls(service: &Service, query: &str) -> Result<Value, String> {
    let (mut since, mut api) = (0, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("since", number)) => since = u64::from_str(number).map_err(|_| "since is a number")?,
            Some(("api", name)) => api = Some(name),
            _ => return Err("calls takes since and api".to_owned()),
        }
    }
    known_api(api)?;
    let mut answer = json!(service.calls.since(since, api));
    answer["counts"] = json!(service.calls.counts());
    Ok(answer)
}

fn latencies(service: &Service) -> Value {
    let settings = service.latencies.all().into_iter().map(|(api, latency)| {
        let mut setting = json!(latency);
        setting["api"] = api.into();
        setting
    });
    json!({"latencies": settings.collect::<Vec<_>>()})
}

/// `api`, and the kind of latency with its numbers; null for the kind takes the setting away.
fn set_latency(service: &Service, mut request: Map<String, Value>) -> Result<Value, String> {
    let api = match request.remove("api") {
        None | Some(Value::Null) => None,
        Some(Value::String(api)) => Some(api),
        Some(_) => return Err("api is a name".to_owned()),
    };
    known_api(api.as_deref())?;
    let latency = match request.get("kind") {
        Some(Value::Null) if request.len() == 1 => None,
        _ => Some(serde_json::from_value::<Latency>(request.into()).map_err(|error| error.to_string())?),
    };
    if let Some(latency) = latency {
        latency.check()?;
    }
    service.latencies.set(api.as_deref(), latency);
    Ok(latencies(service))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedRequest {
    seed: u64,
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
    /// Absent for all calls of an access key together.
    api: Option<String>,
    per_second: Option<u32>,
}

fn set_quota(service: &Service, request: QuotaRequest) -> Result<Value, String> {
    known_api(request.api.as_deref())?;
    match request.api {
        Some(api) => service.tenants.set_api_quota(&api, request.per_second),
        None => service.tenants.set_quota(request.per_second),
    }
    Ok(json!({}))
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
fn set_switches(service: &Service, request: Map<String, Value>) -> Result<Value, String> {
    let mut switches = json!(service.switches());
    for (name, value) in request {
        switches[&name] = value;
    }
    service.set_switches(serde_json::from_value(switches).map_err(|error| error.to_string())?);
    Ok(json!(service.switches()))
}
