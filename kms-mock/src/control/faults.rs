//! The door `faults`: what a request may ask for, as the faults it stands for.

use std::num::NonZeroU32;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::known_api;
use crate::error;
use crate::fault::{Fault, FaultKind, OPERATION_STEP, Waiting};
use crate::service::Service;

/// One fault, or a delay and one fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultRequest {
    api: Option<String>,
    /// 1 if absent; -1 until the faults are cleared, which is what a probability means without `times`.
    times: Option<i64>,
    /// How likely each call is struck; every call if absent.
    probability: Option<f64>,
    delay_ms: Option<u64>,
    code: Option<String>,
    step: Option<u8>,
    /// A code that is sent with HTTP status 200.
    soft_error: Option<String>,
    http_status: Option<u16>,
    #[serde(default)]
    drop: bool,
    kind: Option<NamedKind>,
    /// For the kind `without_field`.
    field: Option<String>,
    /// For the kind `trickle`.
    bytes_per_second: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NamedKind {
    Hang,
    Drop,
    Reset,
    DropAfter,
    TruncateBody,
    Trickle,
    OversizedBody,
    EmptyBody,
    NotJson,
    ContentType,
    Gzip,
    LyingPlaintext,
    ShortPlaintext,
    LyingBlob,
    LyingKeyId,
    WithoutField,
}

/// Adds the faults of a request, or of an array of requests. If one of them is not sound, none is added.
pub fn inject(service: &Service, request: Value) -> Result<Value, String> {
    let requests = match request {
        Value::Array(requests) => requests,
        request => vec![request],
    };
    let mut faults = Vec::new();
    for request in requests {
        let request: FaultRequest = serde_json::from_value(request).map_err(|error| error.to_string())?;
        faults.extend(request.faults()?);
    }
    service.faults.inject_all(faults);
    Ok(json!({"active": service.faults.active().len()}))
}

impl FaultRequest {
    fn faults(&self) -> Result<impl Iterator<Item = Waiting>, String> {
        known_api(self.api.as_deref())?;
        if self.probability.is_some_and(|probability| !(0.0..=1.0).contains(&probability)) {
            return Err("probability is 0 to 1".to_owned());
        }
        let (api, probability, times) = (self.api.clone(), self.probability, self.times()?);
        let delay = self.delay_ms.map(|ms| FaultKind::Delay(Duration::from_millis(ms)));
        let other = self.kind()?;
        if delay.is_none() && other.is_none() {
            return Err("no fault: give code, soft_error, delay_ms, http_status, drop or kind".to_owned());
        }
        let fault = move |kind| Waiting { fault: Fault { api: api.clone(), times, kind }, probability };
        Ok(delay.into_iter().chain(other).map(fault))
    }

    fn times(&self) -> Result<u32, &'static str> {
        match self.times {
            None if self.probability.is_some() => Ok(u32::MAX),
            None => Ok(1),
            Some(-1) => Ok(u32::MAX),
            Some(times) => u32::try_from(times).map_err(|_| "times is -1 or a number of calls"),
        }
    }

    fn kind(&self) -> Result<Option<FaultKind>, String> {
        let mut kinds = Vec::new();
        if let Some(code) = &self.code {
            let step = self.step.unwrap_or(OPERATION_STEP);
            if !(1..=OPERATION_STEP).contains(&step) {
                return Err(format!("step is 1 to {OPERATION_STEP}"));
            }
            kinds.push(FaultKind::CodeAt { code: listed(code)?, step });
        }
        if let Some(code) = &self.soft_error {
            kinds.push(FaultKind::SoftError(listed(code)?));
        }
        if let Some(status) = self.http_status {
            // 1xx would not end the exchange.
            StatusCode::from_u16(status).ok().filter(|_| status >= 200).ok_or("http_status is 200 to 999")?;
            kinds.push(FaultKind::Status(status));
        }
        if self.drop {
            kinds.push(FaultKind::Drop);
        }
        if let Some(kind) = &self.kind {
            kinds.push(self.named(kind)?);
        }
        match kinds.len() {
            0 | 1 => Ok(kinds.pop()),
            _ => Err("one fault at a time: code, soft_error, http_status, drop or kind".to_owned()),
        }
    }

    fn named(&self, kind: &NamedKind) -> Result<FaultKind, String> {
        Ok(match kind {
            NamedKind::Hang => FaultKind::Hang,
            NamedKind::Drop => FaultKind::Drop,
            NamedKind::Reset => FaultKind::Reset,
            NamedKind::DropAfter => FaultKind::DropAfter,
            NamedKind::TruncateBody => FaultKind::TruncateBody,
            NamedKind::Trickle => {
                FaultKind::Trickle { bytes_per_second: self.bytes_per_second.ok_or("trickle needs bytes_per_second")? }
            }
            NamedKind::OversizedBody => FaultKind::OversizedBody,
            NamedKind::EmptyBody => FaultKind::EmptyBody,
            NamedKind::NotJson => FaultKind::NotJson,
            NamedKind::ContentType => FaultKind::ContentType,
            NamedKind::Gzip => FaultKind::Gzip,
            NamedKind::LyingPlaintext => FaultKind::LyingPlaintext,
            NamedKind::ShortPlaintext => FaultKind::ShortPlaintext,
            NamedKind::LyingBlob => FaultKind::LyingBlob,
            NamedKind::LyingKeyId => FaultKind::LyingKeyId,
            NamedKind::WithoutField => FaultKind::WithoutField(self.field.clone().ok_or("without_field needs field")?),
        })
    }
}

/// The code, if it is in the table.
fn listed(code: &str) -> Result<String, String> {
    error::find(code).map(|_| code.to_owned()).ok_or_else(|| format!("{code} is not in the table"))
}
