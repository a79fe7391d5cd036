//! Random numbers and digests: generateRandom, messageDigest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Call, Reply, step, texts};
use crate::asymmetric::sm3;
use crate::error::*;

/// Random bytes of one call.
const MAX_RANDOM: u64 = 1024;
/// Longest input of messageDigest, in bytes.
const MAX_INPUT: usize = 6144;

pub fn generate_random(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let length = call.fields.value("length").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let length = length.as_u64().filter(|length| (1..=MAX_RANDOM).contains(length)).ok_or(KMS_0241)?;
    call.reach(step::OPERATION)?;
    let random = call.random().bytes(length as usize);
    Ok(texts([("random", &BASE64.encode(&*random))]))
}

pub fn message_digest(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let input = call.required("input", KMS_0107)?;
    call.reach(step::FORMAT)?;
    if input.len() > MAX_INPUT {
        return Err(KMS_0249.into());
    }
    call.reach(step::OPERATION)?;
    Ok(texts([("output", &BASE64.encode(sm3(input.as_bytes())))]))
}
