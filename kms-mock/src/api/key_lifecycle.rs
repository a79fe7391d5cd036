//! Key lifecycle: createKey, enableKey, disableKey, scheduleKeyDeletion, cancelKeyDeletion, updateKeyDescription, describeKey,
//! listKeys, enableDeletionProtection, disableDeletionProtection.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Call, Reply, key_name, nothing, step, texts};
use crate::access::ResourceType;
use crate::clock::to_iso;
use crate::error::*;
use crate::key::{DAY, Key, KeySpec, KeyUsage, Operation, Origin, Protection, Rotation};
use crate::store::State;
use crate::tag::{MAX_TAGS_PER_RESOURCE, Pair};

/// Days until a planned deletion.
pub const PENDING_WINDOW: std::ops::RangeInclusive<u64> = 7..=30;
/// Days between rotations.
const ROTATION_INTERVAL: std::ops::RangeInclusive<u32> = 7..=730;
const MAX_DESCRIPTION: usize = 8192;
/// Asymmetric keys of the region.
const MAX_ASYMMETRIC: usize = 50;

pub fn create_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let wanted = wanted_fields(call)?;
    call.reach(step::FORMAT)?;
    let plan = plan(call, &wanted)?;
    call.reach(step::STATE)?;
    call.service.store.read(|state| room_for(plan.spec, state))?;
    call.reach(step::OPERATION)?;
    let key = match plan.origin {
        Origin::CtyunKms => Key::generate(plan.spec, plan.protection, call.now, call.random()),
        Origin::External => Key::external(plan.spec, plan.protection, call.now, call.random()),
    };
    let text = |name| call.fields.text(name).unwrap_or_default().to_owned();
    let key = Key {
        usage: plan.usage,
        rotation: plan
            .rotation_days
            .map(|interval_days| Rotation { interval_days, next: call.now + i64::from(interval_days) * DAY }),
        description: text("description"),
        creator: call.access_key.clone(),
        instance_id: text("instanceId"),
        ep_id: text("epId"),
        ..key
    };
    let metadata = key.metadata();
    call.change(KMS_0515, |state| {
        // Another key may have come in between.
        room_for(key.spec, state)?;
        for pair in &plan.tags {
            state.tag_resource(pair, || call.random().id(), ResourceType::Cmk, &key.id)?;
        }
        state.keys.put(key);
        Ok(())
    })?;
    Ok(metadata)
}

/// There may be only so many asymmetric keys.
fn room_for(spec: KeySpec, state: &State) -> Result<(), Code> {
    let asymmetric = || state.keys.iter().filter(|key| !key.spec.is_symmetric()).count();
    if !spec.is_symmetric() && asymmetric() >= MAX_ASYMMETRIC { Err(KMS_0238) } else { Ok(()) }
}

/// The fields that createKey requires, with the defaults of the switch `lenient`.
struct Wanted<'a> {
    spec: &'a str,
    usage: &'a str,
    protection: String,
    rotate: Option<&'a Value>,
    interval: Option<String>,
}

/// Step 12. Whether rotation is a required field depends on spec and origin, which are judged at step 13: what is unreadable
/// there requires nothing here.
fn wanted_fields<'a>(call: &'a Call<'_>) -> Result<Wanted<'a>, Refusal> {
    let lenient = call.switches.lenient;
    let text = |name, default, absent: Code| match call.optional(name) {
        Some(text) => Ok(text),
        None if lenient => Ok(default),
        None => Err(Refusal::from(absent)),
    };
    let spec = text("keySpec", "AES_256", KMS_0126)?;
    let usage = text("keyUsage", "ENCRYPT/DECRYPT", KMS_0117)?;
    let protection = match call.text_or_number("protectionLevel") {
        Some(protection) => protection,
        None if lenient => "SOFTWARE".to_owned(),
        None => return Err(KMS_0113.into()),
    };
    let rotate = call.fields.value("enableAutomaticRotation").filter(|value| value.as_str() != Some(""));
    let made_here = call.optional("origin").is_none_or(|origin| Origin::parse(origin) == Some(Origin::CtyunKms));
    if rotate.is_none() && !lenient && made_here && KeySpec::parse(spec).is_some_and(KeySpec::is_symmetric) {
        return Err(KMS_0116.into());
    }
    let interval = call.text_or_number("rotationInterval");
    if rotate == Some(&Value::Bool(true)) && interval.is_none() {
        return Err(KMS_0118.into());
    }
    Ok(Wanted { spec, usage, protection, rotate, interval })
}

/// What createKey will make.
struct Plan {
    spec: KeySpec,
    usage: KeyUsage,
    protection: Protection,
    origin: Origin,
    rotation_days: Option<u32>,
    tags: Vec<Pair>,
}

/// Step 13.
fn plan(call: &Call<'_>, wanted: &Wanted<'_>) -> Result<Plan, Refusal> {
    let spec = KeySpec::parse(wanted.spec).ok_or(KMS_0227)?;
    let usage = KeyUsage::parse(wanted.usage).ok_or(KMS_0216)?;
    if spec.is_symmetric() && usage == KeyUsage::SignVerify {
        return Err(KMS_0216.into());
    }
    let protection = Protection::parse(&wanted.protection).ok_or(KMS_0218)?;
    // Keys of the SM algorithms exist in hardware only.
    let hardware_only = matches!(spec, KeySpec::CtyunSm4 | KeySpec::CtyunSm2);
    if hardware_only && protection == Protection::Software && !call.switches.lenient {
        return Err(KMS_0218.into());
    }
    let rotate = match wanted.rotate {
        None => false,
        Some(value) => value.as_bool().ok_or(KMS_0217)?,
    };
    let rotation_days = match (rotate, &wanted.interval) {
        (true, Some(interval)) => Some(rotation_days(interval).ok_or(KMS_0224)?),
        _ => None,
    };
    let origin = match call.optional("origin") {
        None => Origin::CtyunKms,
        Some(origin) => Origin::parse(origin).ok_or(KMS_0242)?,
    };
    if origin == Origin::External && !spec.is_symmetric() {
        return Err(KMS_0225.into());
    }
    if rotate && (origin == Origin::External || !spec.is_symmetric()) {
        return Err(KMS_0211.into());
    }
    algorithm_fits(call.optional("algorithm"), spec)?;
    let tags = tags(call.fields.value("tags")).ok_or(KMS_0101)?;
    if call.fields.text("description").is_some_and(too_long) {
        return Err(KMS_0129.into());
    }
    Ok(Plan { spec, usage, protection, origin, rotation_days, tags })
}

fn too_long(description: &str) -> bool {
    description.chars().count() > MAX_DESCRIPTION
}

/// `"30"`, `"30d"` or 30.
pub fn rotation_days(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('d').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|days| plain && ROTATION_INTERVAL.contains(days))
}

/// The old field `algorithm` must agree with the spec.
fn algorithm_fits(algorithm: Option<&str>, spec: KeySpec) -> Result<(), Code> {
    match (algorithm, spec) {
        (None, _)
        | (Some("AES"), KeySpec::Aes256)
        | (Some("SM4"), KeySpec::CtyunSm4)
        | (Some("RSA"), KeySpec::Rsa2048)
        | (Some("SM2"), KeySpec::CtyunSm2) => Ok(()),
        (Some("AES"), _) => Err(KMS_0220),
        (Some("SM4"), _) => Err(KMS_0221),
        (Some("RSA"), _) => Err(KMS_0222),
        (Some(_), _) => Err(KMS_0101),
    }
}

/// Tags of a new key: legal, not too many, and no key twice.
fn tags(value: Option<&Value>) -> Option<Vec<Pair>> {
    let Some(value) = value else { return Some(Vec::new()) };
    let tags: Vec<Pair> = serde_json::from_value(value.clone()).ok()?;
    let keys: BTreeSet<_> = tags.iter().map(|tag| &tag.key).collect();
    let sound = keys.len() == tags.len() && tags.len() <= MAX_TAGS_PER_RESOURCE && tags.iter().all(Pair::is_legal);
    sound.then_some(tags)
}

pub fn enable_key(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    own_key(call, &key)?;
    call.reach(step::STATE)?;
    key.judge(Operation::Enable)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0503, Key::enable)?;
    nothing()
}

pub fn disable_key(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    own_key(call, &key)?;
    call.reach(step::STATE)?;
    key.judge(Operation::Disable)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0503, Key::disable)?;
    nothing()
}

pub fn schedule_key_deletion(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let window = call.fields.value("pendingWindowInDays").ok_or(KMS_0122)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let days = window.as_u64().filter(|days| PENDING_WINDOW.contains(days)).ok_or(KMS_0226)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    own_key(call, &key)?;
    call.reach(step::STATE)?;
    key.judge(Operation::ScheduleDeletion)?;
    call.reach(step::OPERATION)?;
    let delete_at = call.now + days as i64 * DAY;
    let key = call.change_key(&key.id, KMS_0506, |key| key.schedule_deletion(delete_at))?;
    Ok(texts([("cmkUuid", &key.id), ("deleteDate", &to_iso(delete_at))]))
}

pub fn cancel_key_deletion(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    call.reach(step::STATE)?;
    key.judge(Operation::CancelDeletion)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0503, Key::cancel_deletion)?;
    nothing()
}

/// Step 15: a default CMK is the system's; nobody enables, disables or deletes it.
fn own_key(call: &Call<'_>, key: &Key) -> Result<(), Refusal> {
    call.reach(step::KIND)?;
    if key.product.is_some() { Err(KMS_0203.into()) } else { Ok(()) }
}

pub fn update_key_description(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    // It may be "".
    let description = call.fields.text("description").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    if too_long(description) {
        return Err(KMS_0129.into());
    }
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0518, |key| {
        key.description = description.to_owned();
        Ok(())
    })?;
    nothing()
}

pub fn enable_deletion_protection(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    own_key(call, &key)?;
    call.reach(step::STATE)?;
    key.judge(Operation::ProtectFromDeletion)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0503, |key| {
        key.judge(Operation::ProtectFromDeletion)?;
        key.deletion_protection = true;
        Ok(())
    })?;
    nothing()
}

pub fn disable_deletion_protection(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0503, |key| {
        key.deletion_protection = false;
        Ok(())
    })?;
    nothing()
}

pub fn describe_key(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, true)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::OPERATION)?;
    Ok(key.metadata())
}

pub fn list_keys(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let product = call.fields.text("product");
    if product == Some("") {
        return Err(KMS_0135.into());
    }
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::EXISTENCE)?;
    let keys = call.service.store.keys();
    if product.is_some() && !keys.iter().any(|key| key.product.as_deref() == product) {
        return Err(KMS_0136.into());
    }
    call.reach(step::OPERATION)?;
    let found: Vec<_> =
        keys.into_iter().filter(|key| is_listed(call, key) && call.permitted(key.clone()).is_ok()).collect();
    Ok(page.of("keys", &found, |key| key.metadata()))
}

/// Does a key pass all the filters of listKeys? "" is no filter.
fn is_listed(call: &Call<'_>, key: &Key) -> bool {
    let is = |name, value: &str| call.optional(name).is_none_or(|wanted| wanted == value);
    let protection = call.text_or_number("protectionLevel");
    is("keyState", key.state().name())
        && call.optional("keySpec").is_none_or(|wanted| KeySpec::parse(wanted) == Some(key.spec))
        && is("keyUsage", key.usage.name())
        && is("origin", key.origin.name())
        && protection.is_none_or(|wanted| Protection::parse(&wanted) == Some(key.protection))
        && call.optional("product").is_none_or(|wanted| key.product.as_deref() == Some(wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rotation_intervals() {
        for (text, days) in [("7", 7), ("30d", 30), ("730", 730)] {
            assert_eq!(rotation_days(text), Some(days));
        }
        for text in ["", "d", "6", "731", "30 d", "+30", "1.5", "99999999999", "month"] {
            assert_eq!(rotation_days(text), None, "{text}");
        }
    }

    #[test]
    fn tags_are_pairs() {
        assert_eq!(tags(None).map(|tags| tags.len()), Some(0));
        let pairs =
            |count| -> Vec<_> { (0..count).map(|i| json!({"tagKey": format!("{i}"), "tagValue": ""})).collect() };
        assert_eq!(tags(Some(&json!(pairs(20)))).map(|tags| tags.len()), Some(20));
        let twice = json!([{"tagKey": "a", "tagValue": "b"}, {"tagKey": "a", "tagValue": "c"}]);
        let long = json!([{"tagKey": "a".repeat(129), "tagValue": ""}]);
        let empty = json!([{"tagKey": "", "tagValue": ""}]);
        for bad in [json!(pairs(21)), json!({}), json!([1]), empty, twice, long] {
            assert!(tags(Some(&bad)).is_none(), "{bad}");
        }
    }
}
