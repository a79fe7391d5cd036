//! Where access points are, and from where they may be called: listVpcs, listSubnets, addEndpointWhitelist,
//! listEndpointWhitelist.

use serde::Deserialize;

use super::super::{Call, Reply, list, nothing, step, texts};
use super::{addressed_page, change, find, is_name};
use crate::access::{Cidr, Endpoint, SUBNETS, VPC};
use crate::error::*;

/// Entries of a white list.
const MAX_ENDPOINTS: usize = 100;
const MAX_DESCRIPTION: usize = 255;

pub fn list_vpcs(call: &Call<'_>) -> Reply {
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    Ok(page.of("vpcs", &[VPC], |[id, name, cidr]| texts([("vpcId", id), ("vpcName", name), ("cidr", cidr)])))
}

pub fn list_subnets(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let vpc = call.required("vpcId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::EXISTENCE)?;
    if vpc != VPC[0] {
        return Err(KMS_0101.into());
    }
    call.reach(step::OPERATION)?;
    let row = |[id, name, cidr]: &[&str; 3]| texts([("subnetId", id), ("subnetName", name), ("cidr", cidr)]);
    Ok(page.of("subnets", &SUBNETS, row))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    endpoint_id: String,
    cidr: Cidr,
    description: Option<String>,
}

/// An entry with a known id replaces the old one: no API removes any.
pub fn add_endpoint_whitelist(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("accessPointId", KMS_0101)?;
    call.fields.value("endpoints").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let entries: Vec<Entry> = list(call, "endpoints", MAX_ENDPOINTS)?;
    let is_legal = |entry: &Entry| {
        let length = entry.description.as_ref().map_or(0, |text| text.chars().count());
        is_name(&entry.endpoint_id) && length <= MAX_DESCRIPTION
    };
    if !entries.iter().all(is_legal) {
        return Err(KMS_0101.into());
    }
    let point = find(call, id)?;
    change(call, &point.id, |point| {
        for Entry { endpoint_id: id, cidr, description } in entries {
            let endpoint = Endpoint { id, cidr, description: description.unwrap_or_default() };
            match point.endpoints.iter_mut().find(|known| known.id == endpoint.id) {
                Some(known) => *known = endpoint,
                None => point.endpoints.push(endpoint),
            }
        }
        if point.endpoints.len() > MAX_ENDPOINTS { Err(KMS_0101) } else { Ok(()) }
    })?;
    nothing()
}

pub fn list_endpoint_whitelist(call: &Call<'_>) -> Reply {
    let (page, point) = addressed_page(call)?;
    call.reach(step::OPERATION)?;
    Ok(page.of("endpoints", &point.endpoints, |endpoint| {
        let cidr = endpoint.cidr.to_string();
        texts([("endpointId", &endpoint.id), ("cidr", &cidr), ("description", &endpoint.description)])
    }))
}
