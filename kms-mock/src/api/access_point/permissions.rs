//! What callers through an access point may do: listApiPermissions, updateApiPermissions, getTenantApiPermissions,
//! listResourcePermissions, updateResourcePermissions, getResourcePermission, isPermissionCheckEnabled, disablePermissionCheck.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{Call, Reply, list, nothing, step};
use super::{addressed, addressed_page, change, find};
use crate::access::ResourceType;
use crate::error::*;
use crate::key::is_id;
use crate::routes;

/// Resources of one access point.
const MAX_RESOURCES: usize = 1000;
/// Entries of one request: more than there are APIs, and what a body holds.
const MAX_ENTRIES: usize = 1000;

pub fn list_api_permissions(call: &Call<'_>) -> Reply {
    let (page, point) = addressed_page(call)?;
    call.reach(step::OPERATION)?;
    let routes: Vec<_> = routes::all().collect();
    Ok(page.of("apis", &routes, |route| {
        object(json!({"apiName": route.api, "servicePath": route.path, "allowed": point.lists_api(route.api)}))
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiEntry {
    api_name: String,
    allowed: bool,
}

pub fn update_api_permissions(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.fields.value("apis").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let apis: Vec<ApiEntry> = list(call, "apis", MAX_ENTRIES)?;
    let names: BTreeSet<_> = apis.iter().map(|entry| entry.api_name.as_str()).collect();
    if names.len() < apis.len() || !names.iter().all(|name| routes::is_api(name)) {
        return Err(KMS_0101.into());
    }
    let point = find(call, id)?;
    change(call, &point.id, |point| {
        point.apis.extend(apis.into_iter().map(|entry| (entry.api_name, entry.allowed)));
        point.permission_check = true;
        Ok(())
    })?;
    nothing()
}

/// What the calling access key may do at present, white list apart.
pub fn get_tenant_api_permissions(call: &Call<'_>) -> Reply {
    call.reach(step::OPERATION)?;
    let allowed = |api| call.point.as_ref().is_none_or(|point| point.allows_api(api));
    let mut names = BTreeSet::new();
    // Some APIs have two paths.
    let apis = routes::all().filter(|route| names.insert(route.api));
    let apis: Vec<_> = apis.map(|route| json!({"apiName": route.api, "allowed": allowed(route.api)})).collect();
    Ok(object(json!({"apis": apis})))
}

pub fn list_resource_permissions(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let kind = call.optional("resourceType").map(kind_of).transpose()?;
    let page = call.page()?;
    let point = find(call, id)?;
    call.reach(step::OPERATION)?;
    let rows: Vec<_> = point
        .resources
        .iter()
        .filter(|(of, _)| kind.is_none_or(|kind| kind == **of))
        .flat_map(|(of, ids)| ids.iter().map(move |(id, allowed)| (of.name(), id, *allowed)))
        .collect();
    Ok(page.of("resources", &rows, |(kind, id, allowed)| {
        object(json!({"resourceType": kind, "resourceId": id, "allowed": allowed}))
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceEntry {
    resource_type: ResourceType,
    resource_id: String,
    allowed: bool,
}

pub fn update_resource_permissions(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.fields.value("resources").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let resources: Vec<ResourceEntry> = list(call, "resources", MAX_ENTRIES)?;
    let places: BTreeSet<_> = resources.iter().map(|entry| (entry.resource_type, entry.resource_id.as_str())).collect();
    if places.len() < resources.len() || !places.iter().all(|(_, id)| is_id(id)) {
        return Err(KMS_0101.into());
    }
    let point = find(call, id)?;
    if !call.service.store.read(|state| places.iter().all(|(kind, id)| state.has_resource(*kind, id))) {
        return Err(KMS_0101.into());
    }
    change(call, &point.id, |point| {
        for entry in resources {
            point.resources.entry(entry.resource_type).or_default().insert(entry.resource_id, entry.allowed);
        }
        point.permission_check = true;
        let count: usize = point.resources.values().map(|ids| ids.len()).sum();
        if count > MAX_RESOURCES { Err(KMS_0101) } else { Ok(()) }
    })?;
    nothing()
}

pub fn get_resource_permission(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let point = call.required("accessPointId", KMS_0101)?;
    let kind = call.required("resourceType", KMS_0101)?;
    let id = call.required("resourceId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let kind = kind_of(kind)?;
    let point = find(call, point)?;
    if !call.service.store.read(|state| state.has_resource(kind, id)) {
        return Err(KMS_0101.into());
    }
    call.reach(step::OPERATION)?;
    let allowed = point.lists_resource(kind, id);
    let apis: BTreeSet<_> =
        routes::all().map(|route| route.api).filter(|api| allowed && point.lists_api(api)).collect();
    Ok(object(json!({"resourceType": kind.name(), "resourceId": id, "allowed": allowed, "apis": apis})))
}

pub fn is_permission_check_enabled(call: &Call<'_>) -> Reply {
    let point = addressed(call)?;
    call.reach(step::OPERATION)?;
    Ok(object(json!({"enabled": point.permission_check})))
}

/// The lists are kept.
pub fn disable_permission_check(call: &Call<'_>) -> Reply {
    let point = addressed(call)?;
    change(call, &point.id, |point| {
        point.permission_check = false;
        Ok(())
    })?;
    nothing()
}

fn kind_of(text: &str) -> Result<ResourceType, Refusal> {
    Ok(ResourceType::parse(text).ok_or(KMS_0101)?)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
