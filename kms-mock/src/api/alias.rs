//! Aliases: createAlias, updateAlias, deleteAlias, listAliases, listAliasesByCmkUuid.

use std::sync::Arc;

use super::{Call, KeyName, Page, Reply, key_name, nothing, step, texts};
use crate::error::*;
use crate::key::{Alias, Key, MAX_ALIAS, Operation, is_alias, is_id};
use crate::store::State;

pub fn create_alias(call: &Call<'_>) -> Reply {
    let (alias, id) = alias_and_target(call)?;
    call.reach(step::EXISTENCE)?;
    let key = call.key_or(id, KMS_0302)?;
    call.service.store.read(|state| is_free(alias, state))?;
    call.reach(step::KIND)?;
    if key.product.is_some() {
        return Err(KMS_0202.into());
    }
    call.reach(step::STATE)?;
    key.judge(Operation::TakeAlias)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        is_free(alias, state)?;
        state.keys.get(id).ok_or(KMS_0302)?.judge(Operation::TakeAlias)?;
        state.aliases.put(Alias { name: alias.to_owned(), cmk_uuid: id.to_owned() });
        Ok(())
    })?;
    nothing()
}

fn is_free(alias: &str, state: &State) -> Result<(), Code> {
    if state.aliases.get(alias).is_some() { Err(KMS_0201) } else { Ok(()) }
}

pub fn update_alias(call: &Call<'_>) -> Reply {
    let (alias, id) = alias_and_target(call)?;
    call.reach(step::EXISTENCE)?;
    let holder = call.permitted(call.service.store.key_by_alias(alias).ok_or(KMS_0303)?)?;
    let key = call.key_or(id, KMS_0304)?;
    call.reach(step::KIND)?;
    if key.product.is_some() || holder.product.is_some() {
        return Err(KMS_0243.into());
    }
    call.reach(step::STATE)?;
    key.judge(Operation::TakeOverAlias)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        state.aliases.get(alias).ok_or(KMS_0303)?;
        state.keys.get(id).ok_or(KMS_0304)?.judge(Operation::TakeOverAlias)?;
        state.aliases.put(Alias { name: alias.to_owned(), cmk_uuid: id.to_owned() });
        Ok(())
    })?;
    nothing()
}

/// Steps 12 and 13 of a call that points an alias at a key.
fn alias_and_target<'a>(call: &'a Call<'_>) -> Result<(&'a str, &'a str), Refusal> {
    call.reach(step::REQUIRED)?;
    let alias = call.required("aliasName", KMS_0103)?;
    let id = call.required("cmkUuid", KMS_0102)?;
    call.reach(step::FORMAT)?;
    if alias.strip_prefix("alias/").unwrap_or(alias).chars().count() > MAX_ALIAS {
        return Err(KMS_0132.into());
    }
    if !is_alias(alias) {
        return Err(KMS_0133.into());
    }
    if !is_id(id) {
        return Err(KMS_0240.into());
    }
    Ok((alias, id))
}

pub fn delete_alias(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let alias = call.required("aliasName", KMS_0103)?;
    call.reach(step::FORMAT)?;
    if !is_alias(alias) {
        return Err(KMS_0133.into());
    }
    call.reach(step::EXISTENCE)?;
    let holder = call.find_key(KeyName::Alias(alias))?;
    call.reach(step::KIND)?;
    if holder.product.is_some() {
        return Err(KMS_0234.into());
    }
    call.reach(step::OPERATION)?;
    call.change(KMS_0502, |state| {
        state.aliases.remove(alias).ok_or(KMS_0303)?;
        Ok(())
    })?;
    nothing()
}

pub fn list_aliases(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    if call.switches.strict_region {
        call.required("regionId", KMS_0115)?;
    }
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    let aliases = call.service.store.read(|state| {
        let known = |alias: &&Arc<Alias>| state.keys.get(&alias.cmk_uuid).is_some_and(|key| is_visible(call, key));
        state.aliases.iter().filter(known).cloned().collect::<Vec<_>>()
    });
    Ok(listed(&page, &aliases))
}

fn is_visible(call: &Call<'_>, key: &Arc<Key>) -> bool {
    call.permitted(key.clone()).is_ok()
}

pub fn list_aliases_by_cmk_uuid(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let name = call.required("cmkUuid", KMS_0102)?;
    call.reach(step::FORMAT)?;
    let name = key_name(name, false)?;
    let page = call.page()?;
    call.reach(step::EXISTENCE)?;
    let key = call.find_key(name)?;
    call.reach(step::OPERATION)?;
    let aliases = call
        .service
        .store
        .read(|state| state.aliases.iter().filter(|alias| alias.cmk_uuid == key.id).cloned().collect::<Vec<_>>());
    Ok(listed(&page, &aliases))
}

fn listed(page: &Page, aliases: &[Arc<Alias>]) -> serde_json::Map<String, serde_json::Value> {
    page.of("aliases", aliases, |alias| texts([("aliasName", &alias.name), ("cmkUuid", &alias.cmk_uuid)]))
}
