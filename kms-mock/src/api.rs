//! What every API has at hand: its typed fields, the checks that several of them share, and the steps at which a fault may strike.
//!
//! The functions of a family do their checks in the order of the specification: required fields (12), formats (13), existence (14),
//! kind and usage (15), state (16), and then the operation (17).

pub mod access_point;
pub mod alias;
pub mod asymmetric;
pub mod certificate;
pub mod data_key;
pub mod import;
pub mod key_compute;
pub mod key_lifecycle;
pub mod key_version;
pub mod random_digest;
pub mod tag;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::access::{AccessPoint, ResourceType};
use crate::clock::Timestamp;
use crate::error::*;
use crate::fault::{FaultKind, Faults, OPERATION_STEP, Phase, Roll};
use crate::fields::Fields;
use crate::key::{Key, is_alias, is_id};
use crate::random::Random;
use crate::service::{Service, Switches};
use crate::store::{ChangeError, State};

/// The payload of a success, or why there is none.
pub type Reply = Result<Map<String, Value>, Refusal>;

/// Steps of the order of checks that an API does itself.
pub mod step {
    pub const REQUIRED: u8 = 12;
    pub const FORMAT: u8 = 13;
    pub const EXISTENCE: u8 = 14;
    pub const KIND: u8 = 15;
    pub const STATE: u8 = 16;
    pub const OPERATION: u8 = super::OPERATION_STEP;
}

/// An authenticated call of one API.
pub struct Call<'a> {
    pub service: &'a Service,
    pub api: &'static str,
    pub access_key: String,
    pub fields: Fields,
    pub switches: Switches,
    pub now: Timestamp,
    /// The access point of the caller; `None` for a credential of the mock itself, which may do everything.
    pub point: Option<Arc<AccessPoint>>,
    pub roll: &'a Roll,
}

impl Call<'_> {
    /// Marks that the checks have come to `step`.
    pub fn reach(&self, step: u8) -> Result<(), Refusal> {
        reach(&self.service.faults, self.api, step, self.roll)
    }

    /// A text that must be there; absent and "" are the same.
    pub fn required(&self, name: &str, absent: Code) -> Result<&str, Refusal> {
        self.optional(name).ok_or(absent.into())
    }

    /// A text; "" counts as absent.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.fields.text(name).filter(|text| !text.is_empty())
    }

    /// A text or a number, as text; "" counts as absent.
    pub fn text_or_number(&self, name: &str) -> Option<String> {
        match self.fields.value(name)? {
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    pub fn random(&self) -> &Random {
        &self.service.random
    }

    /// Finds the key of a `cmkUuid` field that has passed [`key_name`].
    pub fn find_key(&self, name: KeyName<'_>) -> Result<Arc<Key>, Refusal> {
        match name {
            KeyName::Id(id) => self.key_or(id, KMS_0301),
            KeyName::Alias(alias) => self.permitted(self.service.store.key_by_alias(alias).ok_or(KMS_0303)?),
        }
    }

    /// The key of an id; `missing` if there is none.
    pub fn key_or(&self, id: &str, missing: Code) -> Result<Arc<Key>, Refusal> {
        self.permitted(self.service.store.key(id).ok_or(missing)?)
    }

    /// A key that the caller may use: as long as there are no access points, any key. Whoever finds a key goes through here.
    pub fn permitted(&self, key: Arc<Key>) -> Result<Arc<Key>, Refusal> {
        self.permit_resource(ResourceType::Cmk, &key.id)?;
        Ok(key)
    }

    /// Refuses a resource that the access point of the caller may not touch.
    pub fn permit_resource(&self, kind: ResourceType, id: &str) -> Result<(), Refusal> {
        match &self.point {
            Some(point) if !point.allows_resource(kind, id) => Err(KMS_0405.into()),
            _ => Ok(()),
        }
    }

    /// Steps 12 to 14 of an API whose one field is the id of a key.
    pub fn addressed_key(&self) -> Result<Arc<Key>, Refusal> {
        self.reach(step::REQUIRED)?;
        let name = self.required("cmkUuid", KMS_0102)?;
        self.reach(step::FORMAT)?;
        let name = key_name(name, false)?;
        self.reach(step::EXISTENCE)?;
        self.find_key(name)
    }

    /// Changes a key. `failed` is what the client hears when the store cannot write.
    pub fn change_key(
        &self,
        id: &str,
        failed: Code,
        change: impl FnOnce(&mut Key) -> Result<(), Code>,
    ) -> Result<Arc<Key>, Refusal> {
        self.service.store.change_key(id, change).map_err(|error| self.refusal(error, failed))
    }

    /// Changes any records. `failed` is what the client hears when the store cannot write.
    pub fn change<R>(
        &self,
        failed: Code,
        change: impl FnOnce(&mut State) -> Result<R, ChangeError>,
    ) -> Result<R, Refusal> {
        self.service.store.change(change).map_err(|error| self.refusal(error, failed))
    }

    fn refusal(&self, error: ChangeError, failed: Code) -> Refusal {
        match error {
            ChangeError::NoSuchKey => KMS_0301.into(),
            ChangeError::Refused(code) => code.into(),
            ChangeError::Store(error) => self.internal(&error, failed),
        }
    }

    /// A trouble of the mock itself: the client hears a code of the service, whoever runs the mock reads the cause.
    pub fn internal(&self, error: &dyn std::error::Error, code: Code) -> Refusal {
        eprintln!("kms-mock: {}: {error}", self.api);
        code.into()
    }

    /// `pageNumber` and `pageSize` with their defaults.
    pub fn page(&self) -> Result<Page, Refusal> {
        let number = |name, default, wrong: Code| match self.fields.value(name) {
            None => Ok(default),
            Some(value) => value.as_u64().filter(|number| *number >= 1).ok_or(Refusal::from(wrong)),
        };
        let page = Page { number: number("pageNumber", 1, KMS_0101)?, size: number("pageSize", 10, KMS_0231)? };
        match page.size {
            size if size > HUGE_PAGE_SIZE => Err(KMS_0130.into()),
            size if size > MAX_PAGE_SIZE => Err(KMS_0231.into()),
            _ => Ok(page),
        }
    }
}

const MAX_PAGE_SIZE: u64 = 100;
/// Above this the page is not merely over the threshold (0231) but too large (0130).
const HUGE_PAGE_SIZE: u64 = 1000;

/// Which part of a list a client wants to see.
pub struct Page {
    number: u64,
    size: u64,
}

impl Page {
    /// The answer with this page of the rows under `name`.
    pub fn of<T>(&self, name: &str, rows: &[T], show: impl Fn(&T) -> Map<String, Value>) -> Map<String, Value> {
        let start = usize::try_from((self.number - 1).saturating_mul(self.size)).unwrap_or(usize::MAX);
        let shown: Vec<Value> = rows.iter().skip(start).take(self.size as usize).map(|row| show(row).into()).collect();
        let mut reply = Map::new();
        for (name, number) in [("pageNumber", self.number), ("pageSize", self.size), ("totalCount", rows.len() as u64)]
        {
            reply.insert(name.to_owned(), number.into());
        }
        reply.insert(name.to_owned(), shown.into());
        reply
    }
}

/// A field that must be a list of one to `most` elements, each of which `T` can be read from; `KMS.0101` otherwise.
pub fn list<T: DeserializeOwned>(call: &Call<'_>, name: &str, most: usize) -> Result<Vec<T>, Refusal> {
    let elements = call.fields.value(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    // serde would read a struct from a list, too.
    if elements.is_empty() || elements.len() > most || elements.iter().any(Value::is_array) {
        return Err(KMS_0101.into());
    }
    let read = |element: &Value| serde_json::from_value(element.clone()).map_err(|_| Refusal::from(KMS_0101));
    elements.iter().map(read).collect()
}

/// Bytes of a Base64 text.
pub fn base64(text: &str, wrong: Code) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    Ok(Zeroizing::new(BASE64.decode(text).map_err(|_| wrong)?))
}

/// The fault that waits for a call of `api` at this step of the checks, if there is one.
pub fn reach(faults: &Faults, api: &str, step: u8, roll: &Roll) -> Result<(), Refusal> {
    match faults.take(api, Phase::Step(step), roll) {
        Some(FaultKind::Code(code) | FaultKind::CodeAt { code, .. }) => Err(Refusal::named(&code)),
        Some(FaultKind::SoftError(code)) => Err(Refusal::named(&code).softly()),
        _ => Ok(()),
    }
}

/// How a request names a key.
#[derive(Debug, Clone, Copy)]
pub enum KeyName<'a> {
    Id(&'a str),
    Alias(&'a str),
}

/// An id, or where the API allows it an alias.
pub fn key_name(text: &str, alias_allowed: bool) -> Result<KeyName<'_>, Refusal> {
    match text {
        id if is_id(id) => Ok(KeyName::Id(id)),
        alias if alias_allowed && is_alias(alias) => Ok(KeyName::Alias(alias)),
        _ => Err(KMS_0240.into()),
    }
}

/// The answer of an API that returns nothing.
pub fn nothing() -> Reply {
    Ok(Map::new())
}

/// An object from names and texts.
pub fn texts<const N: usize>(fields: [(&str, &str); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect()
}
