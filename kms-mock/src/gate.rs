//! The checks that every request passes before its API looks at it, in the order of the specification (steps 2 to 11).

use std::net::IpAddr;

use hyper::HeaderMap;

use crate::access::Caller;
use crate::api::{Call, Reply, reach};
use crate::auth::{Presented, Profile, Signed};
use crate::clock::Timestamp;
use crate::error::*;
use crate::fault::Roll;
use crate::fields::{Fields, RawFields};
use crate::routes::Route;
use crate::service::{Service, Switches};

/// A request for an API, as far as the checks need it.
pub struct Arrived<'a> {
    pub route: &'static Route,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    /// `None` if it was longer than `max_body`.
    pub body: Option<&'a [u8]>,
    /// Where it comes from.
    pub peer: IpAddr,
    pub roll: &'a Roll,
}

/// What became of a request.
pub struct Verdict {
    /// As presented, whether or not it is known.
    pub access_key: Option<String>,
    pub profile: Profile,
    pub reply: Reply,
}

/// Runs all the checks and then the API.
pub fn decide(service: &Service, arrived: &Arrived<'_>) -> Verdict {
    let presented = Presented::read(arrived.headers);
    let access_key = presented.as_ref().map(|presented| presented.access_key().to_owned());
    let profile = presented.as_ref().map_or(Profile::Native, Presented::profile);
    let reply = admit(service, arrived, presented.as_ref()).and_then(|call| (arrived.route.run)(&call));
    Verdict { access_key, profile, reply }
}

fn admit<'a>(service: &'a Service, arrived: &Arrived<'a>, presented: Option<&Presented>) -> Result<Call<'a>, Refusal> {
    let (now, switches, api) = (service.clock.now(), service.switches(), arrived.route.api);
    let at = |step| reach(&service.faults, api, step, arrived.roll);
    // What is due by time happens before anybody looks. If the store cannot write, the change stays due.
    if let Err(error) = service.store.tick(now, &service.random) {
        eprintln!("kms-mock: {error}");
    }
    at(1)?;
    at(2)?;
    let presented = presented.ok_or(KMS_0401)?;
    let access_key = presented.access_key();
    at(3)?;
    let of_point = || service.store.read(|state| Caller::of_point(access_key, state));
    let caller = Caller::find(access_key, &service.tenants, of_point).ok_or(KMS_0401)?;
    at(4)?;
    let moments = presented.moments().ok_or(KMS_0403)?;
    at(5)?;
    within_skew(&moments, now, &switches)?;
    at(6)?;
    let raw = arrived.body.and_then(RawFields::parse);
    // Without the whole body there is nothing to compare the signature with; the request is refused at step 10.
    if let Some(body) = arrived.body {
        let signed = Signed { path: arrived.route.path, query: arrived.query, body, fields: raw.as_ref() };
        if !presented.is_signed_with(caller.secret_key(), &signed) {
            return Err(KMS_0402.into());
        }
    }
    at(7)?;
    let may_call = match &caller {
        Caller::Root { .. } => !service.tenants.is_frozen(access_key),
        Caller::Point { key, .. } => key.enabled,
    };
    if !may_call {
        return Err(KMS_0406.into());
    }
    at(8)?;
    if caller.point().is_some_and(|point| !point.allows_api(api) || !point.allows_address(arrived.peer)) {
        return Err(KMS_0405.into());
    }
    at(9)?;
    service.tenants.charge(access_key, api, now)?;
    if let Caller::Point { key, .. } = &caller {
        service.last_used.note(&key.access_key, now);
    }
    at(10)?;
    if arrived.body.is_none() {
        return Err(KMS_0129.into());
    }
    at(11)?;
    let fields = raw.and_then(|raw| Fields::typed(&raw, arrived.route.request)).ok_or(KMS_0128)?;
    Ok(Call {
        service,
        api,
        access_key: access_key.to_owned(),
        fields,
        switches,
        now,
        point: caller.point().cloned(),
        roll: arrived.roll,
    })
}

fn within_skew(moments: &[Timestamp], now: Timestamp, switches: &Switches) -> Result<(), Code> {
    if moments.iter().any(|at| at.abs_diff(now) <= switches.skew_s) { Ok(()) } else { Err(KMS_0404) }
}
