//! Versions and rotation: describeKeyVersion, listKeyVersions, updateRotationPolicy, createKeyVersion.

use serde_json::{Map, Value, json};

use super::key_lifecycle::rotation_days;
use super::{Call, Reply, key_name, nothing, step};
use crate::clock::{Timestamp, to_iso};
use crate::error::*;
use crate::key::{DAY, Key, KeyVersion, Operation, Origin, Rotation};

/// Versions of a key.
const MAX_VERSIONS: usize = 50;

pub fn describe_key_version(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let version = call.required("keyVersionId", KMS_0105)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    let version = key.version(version).ok_or(KMS_0304)?;
    call.reach(step::OPERATION)?;
    Ok(one(&key, version))
}

pub fn list_key_versions(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let page = call.page()?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::OPERATION)?;
    Ok(page.of("keyVersions", &key.versions, |version| shown(&key, version)))
}

pub fn update_rotation_policy(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let rotate = call.fields.value("enableAutomaticRotation").filter(|value| value.as_str() != Some(""));
    let rotate = rotate.ok_or(KMS_0116)?;
    let interval = call.text_or_number("rotationInterval");
    if rotate.as_bool() == Some(true) && interval.is_none() {
        return Err(KMS_0118.into());
    }
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let rotate = rotate.as_bool().ok_or(KMS_0217)?;
    let days = interval.filter(|_| rotate).map(|text| rotation_days(&text).ok_or(KMS_0224)).transpose()?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::KIND)?;
    if !key.spec.is_symmetric() {
        return Err(KMS_0211.into());
    }
    rotatable(&key)?;
    call.reach(step::STATE)?;
    key.judge(Operation::RotationPolicy)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0517, |key| {
        key.judge(Operation::RotationPolicy)?;
        let since = key.last_rotation.unwrap_or(key.created);
        key.rotation =
            days.map(|interval_days| Rotation { interval_days, next: since + i64::from(interval_days) * DAY });
        Ok(())
    })?;
    nothing()
}

/// The system rotates its default CMKs itself, and external material is not the KMS's to renew.
pub fn rotatable(key: &Key) -> Result<(), Code> {
    if key.product.is_some() || key.origin == Origin::External { Err(KMS_0211) } else { Ok(()) }
}

pub fn create_key_version(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    call.reach(step::STATE)?;
    // Of a key without material the specification names the state first.
    key.judge(Operation::NewVersion)?;
    call.reach(step::KIND)?;
    rotatable(&key)?;
    let min_age = i64::try_from(call.switches.rotation_min_age_s).unwrap_or(i64::MAX);
    may_have_another(&key, call.now, min_age)?;
    call.reach(step::OPERATION)?;
    // Made before anything is locked: a key pair takes its time.
    let version = KeyVersion::generate(key.spec, call.now, call.random());
    let id = version.id.clone();
    let key = call.change_key(&key.id, KMS_0516, |key| {
        key.judge(Operation::NewVersion)?;
        may_have_another(key, call.now, min_age)?;
        key.add_version(version, call.now);
        Ok(())
    })?;
    let version = key.version(&id).ok_or(KMS_0516)?;
    Ok(one(&key, version))
}

pub fn may_have_another(key: &Key, now: Timestamp, min_age: i64) -> Result<(), Code> {
    if key.versions.len() >= MAX_VERSIONS {
        return Err(KMS_0228);
    }
    let young = key.versions.last().is_some_and(|latest| now.saturating_sub(latest.created) < min_age);
    if young { Err(KMS_0229) } else { Ok(()) }
}

fn one(key: &Key, version: &KeyVersion) -> Map<String, Value> {
    let mut reply = Map::new();
    reply.insert("keyVersion".to_owned(), shown(key, version).into());
    reply
}

/// `keyVersion` of the answers.
pub fn shown(key: &Key, version: &KeyVersion) -> Map<String, Value> {
    let Value::Object(shown) = json!({
        "keyVersionId": version.id,
        "cmkUuid": key.id,
        "creationDate": to_iso(version.created),
        "primary": key.primary().is_some_and(|primary| primary.id == version.id),
    }) else {
        return Map::new();
    };
    shown
}
