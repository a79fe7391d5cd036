//! Application access points. The table of codes has none for them: what is absent, malformed or unknown is KMS.0101.

pub mod access_keys;
pub mod network;
pub mod permissions;
pub mod points;

use std::sync::Arc;

use super::{Call, Page, step};
use crate::access::AccessPoint;
use crate::error::*;
use crate::key::is_id;

/// Steps 12 to 14 of an API whose one field is an access point.
fn addressed(call: &Call<'_>) -> Result<Arc<AccessPoint>, Refusal> {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    find(call, id)
}

/// Steps 12 to 14 of an API that shows a page of something that an access point has.
fn addressed_page(call: &Call<'_>) -> Result<(Page, Arc<AccessPoint>), Refusal> {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    Ok((page, find(call, id)?))
}

/// The end of step 13, and step 14.
fn find(call: &Call<'_>, id: &str) -> Result<Arc<AccessPoint>, Refusal> {
    if !is_id(id) {
        return Err(KMS_0101.into());
    }
    call.reach(step::EXISTENCE)?;
    Ok(call.service.store.read(|state| state.access_points.get(id).cloned()).ok_or(KMS_0101)?)
}

/// Step 17 of an API that changes an access point.
fn change(call: &Call<'_>, id: &str, change: impl FnOnce(&mut AccessPoint) -> Result<(), Code>) -> Result<(), Refusal> {
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        let mut point = state.access_points.get(id).ok_or(KMS_0101)?.as_ref().clone();
        change(&mut point)?;
        state.access_points.put(point);
        Ok(())
    })
}

/// Nobody saws off the branch on which he sits: is this the caller's own access point?
fn is_own(call: &Call<'_>, id: &str) -> bool {
    call.point.as_ref().is_some_and(|point| point.id == id)
}

/// Names and ids that the user chooses.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
