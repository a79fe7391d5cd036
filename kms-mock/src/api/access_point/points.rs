//! The access points themselves: createAccessPoint, listAccessPoints, deleteAccessPoint.

use std::collections::BTreeMap;

use super::super::{Call, Reply, nothing, step, texts};
use super::{addressed, is_name, is_own};
use crate::access::{AccessPoint, SUBNETS, VPC};
use crate::clock::to_iso;
use crate::error::*;

const MAX_POINTS: usize = 100;
const MAX_TEXT: usize = 8192;

pub fn create_access_point(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("name", KMS_0101)?;
    let vpc_id = call.required("vpcId", KMS_0101)?;
    let subnet_id = call.required("subnetId", KMS_0101)?;
    let text = |name| call.optional(name).unwrap_or_default().to_owned();
    let (instance_id, description) = (text("instanceId"), text("description"));
    call.reach(step::FORMAT)?;
    if !is_name(name) || [&instance_id, &description].iter().any(|text| text.chars().count() > MAX_TEXT) {
        return Err(KMS_0101.into());
    }
    call.reach(step::EXISTENCE)?;
    if vpc_id != VPC[0] || !SUBNETS.iter().any(|subnet| subnet_id == subnet[0]) {
        return Err(KMS_0101.into());
    }
    call.reach(step::OPERATION)?;
    let point = AccessPoint {
        id: call.random().id(),
        name: name.to_owned(),
        instance_id,
        vpc_id: vpc_id.to_owned(),
        subnet_id: subnet_id.to_owned(),
        description,
        created: call.now,
        permission_check: false,
        apis: BTreeMap::new(),
        resources: BTreeMap::new(),
        endpoints: Vec::new(),
    };
    let reply = texts([("accessPointId", &point.id), ("endpoint", &point.endpoint())]);
    call.change(KMS_0503, |state| {
        if state.access_points.len() >= MAX_POINTS {
            return Err(KMS_0101.into());
        }
        state.access_points.put(point);
        Ok(())
    })?;
    Ok(reply)
}

pub fn list_access_points(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    let is = |field, value: &str| call.optional(field).is_none_or(|wanted| wanted == value);
    let mut points: Vec<_> = call.service.store.read(|state| {
        state
            .access_points
            .iter()
            .filter(|point| is("name", &point.name) && is("status", AccessPoint::STATUS))
            .cloned()
            .collect()
    });
    points.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok(page.of("accessPoints", &points, |point| {
        let mut row = texts([
            ("accessPointId", &point.id),
            ("name", &point.name),
            ("instanceId", &point.instance_id),
            ("vpcId", &point.vpc_id),
            ("subnetId", &point.subnet_id),
            ("endpoint", &point.endpoint()),
            ("status", AccessPoint::STATUS),
            ("creationDate", &to_iso(point.created)),
        ]);
        row.insert("permissionCheck".to_owned(), point.permission_check.into());
        row
    }))
}

pub fn delete_access_point(call: &Call<'_>) -> Reply {
    let point = addressed(call)?;
    call.reach(step::STATE)?;
    // The caller's own access key is enabled, and would go too.
    if is_own(call, &point.id) {
        return Err(KMS_0405.into());
    }
    call.reach(step::OPERATION)?;
    let deleted = call.change(KMS_0503, |state| Ok(state.delete_access_point(&point.id)))?;
    deleted.iter().for_each(|access_key| call.service.last_used.forget(access_key));
    nothing()
}
