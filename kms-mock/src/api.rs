//! What every API has at hand: its typed fields, the checks that several of them share, and the steps at which a fault may strike.
//!
//! The functions of a family do their checks in the order of the specification: required fields (12), formats (13), existence (14),
//! kind and usage (15), state (16), and then the operation (17).

pub mod key_compute;
pub mod key_lifecycle;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::error::*;
use crate::fault::{FaultKind, Faults, OPERATION_STEP, Phase};
use crate::fields::Fields;
use crate::key::{Key, is_alias, is_id};
use crate::service::{Service, Switches};
use crate::store::ChangeError;

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
}

impl Call<'_> {
    /// Marks that the checks have come to `step`.
    pub fn reach(&self, step: u8) -> Result<(), Refusal> {
        reach(&self.service.faults, self.api, step)
    }

    /// A text that must be there; absent and "" are the same.
    pub fn required(&self, name: &str, absent: Code) -> Result<&str, Refusal> {
        self.optional(name).ok_or(absent.into())
    }

    /// A text; "" counts as absent.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.fields.text(name).filter(|text| !text.is_empty())
    }

    /// Finds the key of a `cmkUuid` field that has passed [`key_name`].
    pub fn find_key(&self, name: KeyName<'_>) -> Result<Arc<Key>, Refusal> {
        match name {
            KeyName::Id(id) => self.service.store.key(id).ok_or(KMS_0301.into()),
            KeyName::Alias(alias) => self.service.store.key_by_alias(alias).ok_or(KMS_0303.into()),
        }
    }

    /// Changes a key. `failed` is what the client hears when the store cannot write.
    pub fn change(
        &self,
        id: &str,
        failed: Code,
        change: impl FnOnce(&mut Key) -> Result<(), Code>,
    ) -> Result<Arc<Key>, Refusal> {
        self.service.store.change(id, change).map_err(|error| match error {
            ChangeError::NoSuchKey => KMS_0301.into(),
            ChangeError::Refused(code) => code.into(),
            ChangeError::Store(error) => internal(self.api, &error, failed),
        })
    }

    pub fn internal(&self, error: &dyn std::error::Error, code: Code) -> Refusal {
        internal(self.api, error, code)
    }
}

/// The fault that waits for a call of `api` at this step of the checks, if there is one.
pub fn reach(faults: &Faults, api: &str, step: u8) -> Result<(), Refusal> {
    match faults.take(api, Phase::Step(step)) {
        Some(FaultKind::Code(code) | FaultKind::CodeAt { code, .. }) => Err(Refusal::named(&code)),
        Some(FaultKind::SoftError(code)) => Err(Refusal::named(&code).softly()),
        _ => Ok(()),
    }
}

/// A trouble of the mock itself: the client hears a code of the service, whoever runs the mock reads the cause.
fn internal(api: &str, error: &dyn std::error::Error, code: Code) -> Refusal {
    eprintln!("kms-mock: {api}: {error}");
    code.into()
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
