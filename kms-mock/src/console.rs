//! The console: a web page under `/__mock/console/` with its files, and the requests that the page makes (they are listed at the top
//! of `console/app.js`).
//!
//! A page of another site must not get at it. The `Host` has to be a loopback name, which a name that somebody points at 127.0.0.1
//! is not; an `Origin` has to be that same host; and every request of the page carries a token that only the page is told.

use std::collections::HashMap;
use std::time::Duration;

use hyper::http::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::access::AccessPoint;
use crate::api::certificate::{manage, ukey};
use crate::api::key_lifecycle::PENDING_WINDOW;
use crate::api::key_version::{self, may_have_another, rotatable};
use crate::api::step;
use crate::clock::to_iso;
use crate::control::{self, Answer, good, trouble};
use crate::error::{self, Code, KMS_0203};
use crate::fault::{FaultKind, Waiting};
use crate::key::{DAY, Key, Operation};
use crate::latency::Latency;
use crate::random::Random;
use crate::routes;
use crate::service::Service;
use crate::store::ChangeError;

/// Below the control doors.
pub const PREFIX: &str = "console/";

/// What the page may load: itself, and nothing from elsewhere.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Calls in one answer.
const MAX_CALLS: usize = 500;

/// The secret of this process that its pages send along.
pub struct Token(String);

impl Token {
    pub fn new(random: &Random) -> Self {
        Token(random.bytes(16).iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A file of the page.
pub struct Asset {
    pub content_type: &'static str,
    pub body: String,
}

/// The file that a path below [`PREFIX`] names.
pub fn asset(service: &Service, parts: &Parts, path: &str) -> Option<Result<Asset, Answer>> {
    let (content_type, text) = match path {
        "" => ("text/html;charset=UTF-8", include_str!("console/index.html")),
        "app.js" => ("text/javascript;charset=UTF-8", include_str!("console/app.js")),
        "i18n.js" => ("text/javascript;charset=UTF-8", include_str!("console/i18n.js")),
        "style.css" => ("text/css;charset=UTF-8", include_str!("console/style.css")),
        _ => return None,
    };
    if parts.method != Method::GET {
        return Some(Err(trouble(StatusCode::METHOD_NOT_ALLOWED, "pages are read with GET")));
    }
    if let Err(reason) = same_site(&parts.headers) {
        return Some(Err(trouble(StatusCode::FORBIDDEN, reason)));
    }
    Some(Ok(Asset { content_type, body: text.replace("{{TOKEN}}", &service.console_token.0) }))
}

/// Answers a request of the page; `path` is what follows `/__mock/console/`.
pub fn answer(service: &Service, parts: &Parts, path: &str, body: &[u8]) -> Answer {
    if let Err(reason) = same_site(&parts.headers) {
        return trouble(StatusCode::FORBIDDEN, reason);
    }
    let token = parts.headers.get("x-console-token").map(|token| token.as_bytes());
    if token != Some(service.console_token.0.as_bytes()) {
        return trouble(StatusCode::FORBIDDEN, "not the token of this mock: load the page again");
    }
    let Some(door) = path.strip_prefix("api/") else { return trouble(StatusCode::NOT_FOUND, "no such page") };
    if let Some(rest) = door.strip_prefix("keys/") {
        return match (&parts.method, rest.split_once('/')) {
            (&Method::POST, Some((id, action))) => key_action(service, id, action, body),
            _ => trouble(StatusCode::NOT_FOUND, "no such action"),
        };
    }
    match (&parts.method, door) {
        (&Method::GET, "state") => good(state(service)),
        (&Method::GET, "calls") => calls(service, parts.uri.query().unwrap_or_default()),
        (&Method::POST, "switches") => switches(service, body),
        (&Method::POST, "faults" | "clock" | "quota" | "latency") | (&Method::DELETE, "faults") => {
            control::door(service, &parts.method, door, "", body)
        }
        _ => trouble(StatusCode::NOT_FOUND, "no such door"),
    }
}

fn same_site(headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").ok_or("a browser names the host")?;
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    if !["127.0.0.1", "localhost", "[::1]"].contains(&name) {
        return Err("the console is reached as 127.0.0.1, [::1] or localhost");
    }
    match text("origin") {
        None => Ok(()),
        Some(origin) if origin.strip_prefix("http://") == Some(host) => Ok(()),
        Some(_) => Err("not for pages of another site"),
    }
}

fn state(service: &Service) -> Value {
    let faults = service.faults.active();
    let faults: Vec<Value> = faults.iter().enumerate().map(|(at, fault)| shown_fault(at, fault)).collect();
    let latency = service.latencies.all().into_iter();
    let latency: Vec<Value> =
        latency.map(|(api, latency)| json!({"api": api, "what": latency_text(&latency)})).collect();
    let mut apis: Vec<&str> = routes::all().map(|route| route.api).collect();
    apis.dedup();
    json!({
        "now": to_iso(service.clock.now()),
        "started": to_iso(service.started),
        "switches": service.switches(),
        "faults": faults,
        "latency": latency,
        "quota": service.tenants.quota(),
        "keys": shown_keys(service),
        "certificates": shown_certificates(service),
        "accessPoints": shown_access_points(service),
        "apis": apis,
        "codes": error::codes().collect::<Vec<_>>(),
    })
}

/// All keys with what is known of them elsewhere.
fn shown_keys(service: &Service) -> Vec<Value> {
    let mut aliases = service.store.read(|state| {
        let mut by_key: HashMap<String, Vec<String>> = HashMap::new();
        for alias in state.aliases.iter() {
            by_key.entry(alias.cmk_uuid.clone()).or_default().push(alias.name.clone());
        }
        by_key
    });
    let keys = service.store.keys();
    keys.iter()
        .map(|key| {
            let mut shown = key.metadata();
            let versions: Vec<Value> =
                key.versions.iter().map(|version| key_version::shown(key, version).into()).collect();
            shown.insert("aliases".to_owned(), aliases.remove(&key.id).unwrap_or_default().into());
            shown.insert("versions".to_owned(), versions.into());
            shown.insert("uses".to_owned(), service.usage.of(&key.id).into());
            shown.into()
        })
        .collect()
}

/// Certificates of both kinds, the newest last.
fn shown_certificates(service: &Service) -> Vec<Value> {
    let (mut managed, mut ukeys): (Vec<_>, Vec<_>) = service.store.read(|state| {
        (state.certificates.iter().cloned().collect(), state.ukey_certificates.iter().cloned().collect())
    });
    managed.sort_by_key(|certificate| certificate.created);
    ukeys.sort_by_key(|certificate| certificate.created);
    let managed = managed.iter().map(|certificate| {
        let mut shown = manage::shown(certificate);
        shown.insert("kind".to_owned(), "KMS".into());
        shown.into()
    });
    let ukeys = ukeys.iter().map(|certificate| {
        let mut shown = ukey::shown(certificate);
        shown.remove("cert");
        for (name, from) in [("certificateId", "ukId"), ("keySpec", "algorithm")] {
            let value = shown.get(from).cloned().unwrap_or_default();
            shown.insert(name.to_owned(), value);
        }
        shown.insert("kind".to_owned(), "UKEY".into());
        shown.into()
    });
    managed.chain(ukeys).collect()
}

/// Access points with their credentials, without any secret, and how much their lists hold.
fn shown_access_points(service: &Service) -> Vec<Value> {
    service.store.read(|state| {
        let mut points: Vec<_> = state.access_points.iter().collect();
        points.sort_by_key(|point| point.created);
        let keys_of = |id: &str| -> Vec<Value> {
            let keys = state.access_keys.iter().filter(|key| key.access_point_id == id);
            keys.map(|key| json!({"accessKey": key.access_key, "status": key.status()})).collect()
        };
        let shown = points.into_iter().map(|point| {
            json!({
                "accessPointId": point.id,
                "name": point.name,
                "status": AccessPoint::STATUS,
                "permissionCheck": point.permission_check,
                "accessKeys": keys_of(&point.id),
                "apis": point.apis.len(),
                "resources": point.resources.values().map(|ids| ids.len()).sum::<usize>(),
                "endpoints": point.endpoints.len(),
            })
        });
        shown.collect()
    })
}

fn shown_fault(at: usize, waiting: &Waiting) -> Value {
    let what = fault_text(&waiting.fault.kind);
    let times = if waiting.fault.times == u32::MAX { -1 } else { i64::from(waiting.fault.times) };
    json!({"id": at, "api": waiting.fault.api, "times": times, "what": what})
}

/// In the words of the door that takes faults; the page has a text of its own for a kind that stands alone.
fn fault_text(kind: &FaultKind) -> String {
    let kind = match kind {
        FaultKind::Code(code) => return code.clone(),
        FaultKind::CodeAt { code, step } if *step == step::OPERATION => return code.clone(),
        FaultKind::CodeAt { code, step } => return format!("{code} (step {step})"),
        FaultKind::SoftError(code) => return format!("soft_error {code}"),
        FaultKind::Status(status) => return format!("http_status {status}"),
        FaultKind::Delay(delay) => return format!("delay_ms {}", delay.as_millis()),
        FaultKind::Trickle { bytes_per_second } => return format!("trickle, {bytes_per_second} bytes a second"),
        FaultKind::WithoutField(field) => return format!("without_field {field}"),
        FaultKind::Hang => "hang",
        FaultKind::Drop => "drop",
        FaultKind::Reset => "reset",
        FaultKind::DropAfter => "drop_after",
        FaultKind::TruncateBody => "truncate_body",
        FaultKind::OversizedBody => "oversized_body",
        FaultKind::EmptyBody => "empty_body",
        FaultKind::NotJson => "not_json",
        FaultKind::ContentType => "content_type",
        FaultKind::Gzip => "gzip",
        FaultKind::LyingPlaintext => "lying_plaintext",
        FaultKind::ShortPlaintext => "short_plaintext",
        FaultKind::LyingBlob => "lying_blob",
        FaultKind::LyingKeyId => "lying_key_id",
    };
    kind.to_owned()
}

fn latency_text(latency: &Latency) -> String {
    let ms = |duration: Duration| duration.as_millis();
    match *latency {
        Latency::Fixed { delay } => format!("{} ms", ms(delay)),
        Latency::Uniform { min, max } => format!("uniform {}–{} ms", ms(min), ms(max)),
        Latency::Normal { median, p99 } => format!("normal {} ms, p99 {} ms", ms(median), ms(p99)),
        Latency::LogNormal { median, p99 } => format!("log-normal {} ms, p99 {} ms", ms(median), ms(p99)),
        Latency::Spikes { fraction, delay } => format!("spikes of {} ms, {:.1} %", ms(delay), fraction * 100.0),
    }
}

/// The calls that have come or been answered after the change `since`, the latest of them. The page knows by their numbers what it
/// has missed.
fn calls(service: &Service, query: &str) -> Answer {
    let Some(Ok(since)) = query.strip_prefix("since=").map(str::parse::<u64>) else {
        return trouble(StatusCode::BAD_REQUEST, "calls takes since");
    };
    let (calls, next) = service.calls.changed_since(since, MAX_CALLS);
    let shown: Vec<Value> = calls
        .iter()
        .map(|call| {
            let message = call.code.as_deref().and_then(error::find).map_or("", |code| code.message);
            json!({
                "no": call.no,
                "at": to_iso(call.at),
                "api": call.api,
                "access_key": call.access_key,
                "status": call.status,
                "code": call.code,
                "message": message,
                "ms": call.took_us.map(|us| us as f64 / 1000.0),
            })
        })
        .collect();
    good(json!({"next": next, "calls": shown, "counts": service.calls.counts()}))
}

/// Sets the switches that the page sends and leaves the others.
fn switches(service: &Service, body: &[u8]) -> Answer {
    let changed =
        serde_json::from_slice::<Map<String, Value>>(body).map_err(|error| error.to_string()).and_then(|wanted| {
            let mut all = json!(service.switches());
            for (name, value) in wanted {
                all[name] = value;
            }
            serde_json::from_value(all).map_err(|error| error.to_string())
        });
    match changed {
        Ok(switches) => {
            service.set_switches(switches);
            good(json!({}))
        }
        Err(reason) => trouble(StatusCode::BAD_REQUEST, &reason),
    }
}

/// What a click does to a key.
type Change<'a> = Box<dyn FnOnce(&mut Key) -> Result<(), Code> + 'a>;

fn key_action(service: &Service, id: &str, action: &str, body: &[u8]) -> Answer {
    let now = service.clock.now();
    let change: Change<'_> = match action {
        "enable" => Box::new(Key::enable),
        "disable" => Box::new(Key::disable),
        // At any time: who clicks need not wait for a week.
        "rotate" => Box::new(|key| {
            key.judge(Operation::NewVersion)?;
            rotatable(key)?;
            may_have_another(key, now, 0)?;
            key.rotate(now, &service.random);
            Ok(())
        }),
        "schedule-deletion" => {
            let days = serde_json::from_slice::<Value>(body).ok().and_then(|body| body["pendingWindowInDays"].as_u64());
            let Some(days) = days.filter(|days| PENDING_WINDOW.contains(days)) else {
                return trouble(StatusCode::BAD_REQUEST, "pendingWindowInDays is 7 to 30");
            };
            Box::new(move |key| key.schedule_deletion(now + days as i64 * DAY))
        }
        "cancel-deletion" => Box::new(Key::cancel_deletion),
        _ => return trouble(StatusCode::NOT_FOUND, "no such action"),
    };
    let changed = service.store.change_key(id, |key| {
        // A default CMK is the system's.
        if key.product.is_some() {
            return Err(KMS_0203);
        }
        change(key)
    });
    match changed {
        Ok(_) => good(json!({})),
        Err(ChangeError::Refused(code)) => refused(code),
        Err(error @ ChangeError::NoSuchKey) => trouble(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error @ ChangeError::Store(_)) => trouble(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refused(code: Code) -> Answer {
    (StatusCode::BAD_REQUEST, json!({"error": code.message, "code": code.code}))
}
