//! Import of key material: getParametersForImport, importKeyMaterial, deleteKeyMaterial.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Call, Reply, base64, key_name, nothing, step, texts};
use crate::asymmetric::{AsymmetricSpec, EncryptAlgorithm, PrivateKey};
use crate::clock::to_iso;
use crate::error::*;
use crate::import_token::{ImportToken, TOKEN_LIFE};
use crate::key::{Imported, Key, KeyVersion, Operation, Origin, RestingState};

/// Tokens of one key that may wait at a time; the oldest gives way.
const MAX_TOKENS: usize = 16;

pub fn get_parameters_for_import(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let algorithm = call.required("wrappingAlgorithm", KMS_0120)?;
    let spec = call.required("wrappingKeySpec", KMS_0121)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let spec = wrapping_spec(spec).ok_or(KMS_0237)?;
    let algorithm = EncryptAlgorithm::parse(algorithm).filter(|algorithm| algorithm.spec() == spec).ok_or(KMS_0236)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    importable(call, &key)?;
    call.reach(step::OPERATION)?;
    let private = PrivateKey::generate(spec, &mut call.random().fork());
    let public = BASE64.encode(private.public().to_spki_der());
    let token = ImportToken {
        token: BASE64.encode(&*call.random().bytes(32)),
        cmk_uuid: key.id.clone(),
        algorithm: algorithm.name().to_owned(),
        private_key: Zeroizing::new(BASE64.encode(&*private.to_pkcs8_der())),
        expires: call.now + TOKEN_LIFE,
    };
    let (id, expires) = (token.token.clone(), token.expires);
    call.change(KMS_0503, |state| {
        state.keys.get(&key.id).ok_or(KMS_0301)?.judge(Operation::Import)?;
        let mut waiting: Vec<_> =
            state.import_tokens.iter().filter(|token| token.cmk_uuid == key.id).cloned().collect();
        waiting.sort_by_key(|token| token.expires);
        for old in waiting.iter().rev().skip(MAX_TOKENS - 1) {
            state.import_tokens.remove(&old.token);
        }
        state.import_tokens.put(token);
        Ok(())
    })?;
    Ok(texts([
        ("cmkUuid", &key.id),
        ("publicKey", &public),
        ("importToken", &id),
        ("tokenExpireTime", &to_iso(expires)),
    ]))
}

/// The spec of a key pair that wraps other keys; for SM2 the specification has two names.
pub fn wrapping_spec(text: &str) -> Option<AsymmetricSpec> {
    match text {
        "RSA_2048" => Some(AsymmetricSpec::Rsa2048),
        "EC_SM2" | "Ctyun_SM2" => Some(AsymmetricSpec::Sm2),
        _ => None,
    }
}

/// Steps 15 and 16: a symmetric key of external origin whose deletion is not planned.
fn importable(call: &Call<'_>, key: &Key) -> Result<(), Refusal> {
    call.reach(step::KIND)?;
    if !key.spec.is_symmetric() {
        return Err(KMS_0225.into());
    }
    if key.origin != Origin::External {
        return Err(KMS_0210.into());
    }
    call.reach(step::STATE)?;
    Ok(key.judge(Operation::Import)?)
}

pub fn import_key_material(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    let token = call.required("importToken", KMS_0123)?;
    let wrapped = call.required("encryptedKeyMaterial", KMS_0124)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let expires = expiry(call)?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    importable(call, &key)?;
    call.reach(step::OPERATION)?;
    let token = call.service.store.read(|state| state.import_tokens.get(token).cloned());
    let token = token.filter(|token| token.cmk_uuid == key.id && token.expires > call.now).ok_or(KMS_0401)?;
    let material = unwrap(&token, &base64(wrapped, KMS_0239)?).ok_or(KMS_0239)?;
    let cipher_fits = KeyVersion::new(String::new(), key.spec, material.clone(), 0).is_some();
    if !cipher_fits {
        return Err(KMS_0241.into());
    }
    let fresh_id = call.random().id();
    call.change(KMS_0503, |state| {
        let mut key = state.keys.get(&key.id).ok_or(KMS_0301)?.as_ref().clone();
        key.judge(Operation::Import)?;
        if !key.versions.is_empty() {
            return Err(KMS_0248.into());
        }
        let imported = match key.imported.take() {
            Some(first) if first.fingerprint != fingerprint(&first.version_id, &material) => {
                return Err(KMS_0245.into());
            }
            Some(first) => first,
            None => {
                Imported { fingerprint: fingerprint(&fresh_id, &material), version_id: fresh_id, created: call.now }
            }
        };
        let version = KeyVersion::new(imported.version_id.clone(), key.spec, material, imported.created);
        key.versions = vec![version.ok_or(KMS_0241)?.into()];
        key.imported = Some(imported);
        key.material_expires = expires;
        key.resting = RestingState::Enabled;
        state.keys.put(key);
        Ok(())
    })?;
    nothing()
}

/// `keyMaterialExpireUnix`: a whole number of seconds in the future, or 0 or nothing for never.
fn expiry(call: &Call<'_>) -> Result<Option<i64>, Refusal> {
    match call.fields.value("keyMaterialExpireUnix") {
        None => Ok(None),
        Some(value) => match value.as_i64().ok_or(KMS_0235)? {
            0 => Ok(None),
            at if at > call.now => Ok(Some(at)),
            _ => Err(KMS_0235.into()),
        },
    }
}

fn unwrap(token: &ImportToken, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let der = Zeroizing::new(BASE64.decode(&*token.private_key).ok()?);
    let algorithm = EncryptAlgorithm::parse(&token.algorithm)?;
    PrivateKey::from_pkcs8_der(&der)?.decrypt(algorithm, wrapped).ok()
}

fn fingerprint(version_id: &str, material: &[u8]) -> String {
    let hash = Sha256::new().chain_update(version_id).chain_update(material).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn delete_key_material(call: &Call<'_>) -> Reply {
    let key = call.addressed_key()?;
    call.reach(step::KIND)?;
    if key.origin != Origin::External {
        return Err(KMS_0210.into());
    }
    call.reach(step::STATE)?;
    key.judge(Operation::Import)?;
    call.reach(step::OPERATION)?;
    call.change_key(&key.id, KMS_0509, |key| {
        key.judge(Operation::Import)?;
        key.erase_material();
        Ok(())
    })?;
    nothing()
}
