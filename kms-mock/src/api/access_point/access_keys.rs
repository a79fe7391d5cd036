//! The credentials of an access point: createAccessKey, listAccessKeys, enableAccessKey, disableAccessKey, deleteAccessKey.

use std::sync::Arc;

use super::super::{Call, Reply, nothing, step, texts};
use super::{addressed, addressed_page, find, is_own};
use crate::access::AccessKey;
use crate::clock::to_iso;
use crate::error::*;
use crate::store::State;

const MAX_ACCESS_KEYS: usize = 3;

/// The only answer that ever shows a secret.
pub fn create_access_key(call: &Call<'_>) -> Reply {
    let point = addressed(call)?;
    call.reach(step::OPERATION)?;
    let key = AccessKey::generate(&point.id, call.now, call.random());
    let reply = texts([("accessKey", &key.access_key), ("secretKey", &key.secret_key)]);
    call.change(KMS_0503, |state| {
        state.access_points.get(&point.id).ok_or(KMS_0101)?;
        if of_point(state, &point.id).count() >= MAX_ACCESS_KEYS {
            return Err(KMS_0101.into());
        }
        state.access_keys.put(key);
        Ok(())
    })?;
    Ok(reply)
}

fn of_point<'a>(state: &'a State, point: &'a str) -> impl Iterator<Item = &'a Arc<AccessKey>> {
    state.access_keys.iter().filter(move |key| key.access_point_id == point)
}

pub fn list_access_keys(call: &Call<'_>) -> Reply {
    let (page, point) = addressed_page(call)?;
    call.reach(step::OPERATION)?;
    let mut keys: Vec<_> = call.service.store.read(|state| of_point(state, &point.id).cloned().collect());
    keys.sort_by(|a, b| (a.created, &a.access_key).cmp(&(b.created, &b.access_key)));
    Ok(page.of("accessKeys", &keys, |key| {
        let last_used = call.service.last_used.of(&key.access_key).map(to_iso).unwrap_or_default();
        texts([
            ("accessKey", &key.access_key),
            ("status", key.status()),
            ("creationDate", &to_iso(key.created)),
            ("lastUsedDate", &last_used),
        ])
    }))
}

pub fn enable_access_key(call: &Call<'_>) -> Reply {
    let key = addressed_key(call)?;
    set_enabled(call, &key, true)
}

pub fn disable_access_key(call: &Call<'_>) -> Reply {
    let key = addressed_key(call)?;
    call.reach(step::STATE)?;
    call.service.store.read(|state| not_the_last(call, &key, state))?;
    set_enabled(call, &key, false)
}

fn set_enabled(call: &Call<'_>, key: &AccessKey, enabled: bool) -> Reply {
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        let key = state.access_keys.get(&key.access_key).ok_or(KMS_0101)?.as_ref().clone();
        if !enabled {
            not_the_last(call, &key, state)?;
        }
        state.access_keys.put(AccessKey { enabled, ..key });
        Ok(())
    })?;
    nothing()
}

/// The caller leaves its own access point at least one enabled access key.
fn not_the_last(call: &Call<'_>, key: &AccessKey, state: &State) -> Result<(), Code> {
    let mut others = of_point(state, &key.access_point_id).filter(|other| other.access_key != key.access_key);
    let last = key.enabled && !others.any(|other| other.enabled);
    if last && is_own(call, &key.access_point_id) { Err(KMS_0405) } else { Ok(()) }
}

pub fn delete_access_key(call: &Call<'_>) -> Reply {
    let key = addressed_key(call)?;
    call.reach(step::STATE)?;
    if key.enabled {
        return Err(KMS_0101.into());
    }
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        if state.access_keys.remove(&key.access_key).ok_or(KMS_0101)?.enabled {
            return Err(KMS_0101.into());
        }
        Ok(())
    })?;
    call.service.last_used.forget(&key.access_key);
    nothing()
}

/// Steps 12 to 14: an access key of the access point that is named with it.
fn addressed_key(call: &Call<'_>) -> Result<Arc<AccessKey>, Refusal> {
    call.reach(step::REQUIRED)?;
    let point = call.required("accessPointId", KMS_0101)?;
    let access_key = call.required("accessKey", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let point = find(call, point)?;
    let key = call.service.store.read(|state| state.access_keys.get(access_key).cloned());
    Ok(key.filter(|key| key.access_point_id == point.id).ok_or(KMS_0101)?)
}
