//! Tags: createTag, listTags, updateTag, deleteTag, bindTags, unbindTags.

use super::{Call, Reply, list, nothing, step, texts};
use crate::access::ResourceType;
use crate::error::*;
use crate::key::is_id;
use crate::store::State;
use crate::tag::{MAX_TAGS_PER_RESOURCE, Pair, Tag, is_value};

pub fn create_tag(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let key = call.required("tagKey", KMS_0101)?.to_owned();
    // It may be "".
    let value = call.fields.text("tagValue").ok_or(KMS_0101)?.to_owned();
    call.reach(step::FORMAT)?;
    let pair = Pair { key, value };
    if !pair.is_legal() {
        return Err(KMS_0101.into());
    }
    call.reach(step::OPERATION)?;
    let id = call.random().id();
    call.change(KMS_0503, |state| Ok(state.add_tag(id.clone(), &pair)?))?;
    Ok(texts([("tagId", &id)]))
}

pub fn list_tags(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    call.reach(step::FORMAT)?;
    let page = call.page()?;
    call.reach(step::OPERATION)?;
    let wanted = call.optional("tagKey");
    let mut tags: Vec<_> = call
        .service
        .store
        .read(|state| state.tags.iter().filter(|tag| wanted.is_none_or(|key| key == tag.key)).cloned().collect());
    tags.sort_by(|a, b| (&a.key, &a.value).cmp(&(&b.key, &b.value)));
    Ok(page.of("tags", &tags, |tag| {
        let mut row = texts([("tagId", &tag.id), ("tagKey", &tag.key), ("tagValue", &tag.value)]);
        row.insert("resourceCount".to_owned(), tag.bound.len().into());
        row
    }))
}

pub fn update_tag(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("tagId", KMS_0101)?;
    let value = call.fields.text("tagValue").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    if !is_id(id) || !is_value(value) {
        return Err(KMS_0101.into());
    }
    call.reach(step::EXISTENCE)?;
    call.service.store.read(|state| changeable(state, id, value).map(drop))?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        let tag = changeable(state, id, value)?;
        state.tags.put(Tag { value: value.to_owned(), ..tag });
        Ok(())
    })?;
    nothing()
}

/// The tag, if no other has the same key and the new value.
fn changeable(state: &State, id: &str, value: &str) -> Result<Tag, Code> {
    let tag = state.tags.get(id).ok_or(KMS_0101)?;
    match state.tag(&tag.key, value) {
        Some(other) if other.id != id => Err(KMS_0101),
        _ => Ok(tag.as_ref().clone()),
    }
}

pub fn delete_tag(call: &Call<'_>) -> Reply {
    call.reach(step::REQUIRED)?;
    let id = call.required("tagId", KMS_0101)?;
    call.reach(step::FORMAT)?;
    if !is_id(id) {
        return Err(KMS_0101.into());
    }
    call.reach(step::EXISTENCE)?;
    call.service.store.read(|state| state.tags.get(id).map(drop)).ok_or(KMS_0101)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        state.tags.remove(id).ok_or(KMS_0101)?;
        Ok(())
    })?;
    nothing()
}

pub fn bind_tags(call: &Call<'_>) -> Reply {
    let binding = binding(call)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        still_there(state, &binding)?;
        Ok(state.bind_tags(binding.tags.iter().map(String::as_str), binding.kind, binding.resource)?)
    })?;
    nothing()
}

pub fn unbind_tags(call: &Call<'_>) -> Reply {
    let binding = binding(call)?;
    call.reach(step::OPERATION)?;
    call.change(KMS_0503, |state| {
        still_there(state, &binding)?;
        Ok(state.unbind_tags(binding.tags.iter().map(String::as_str), binding.kind, binding.resource)?)
    })?;
    nothing()
}

/// Which tags, and which resource.
struct Binding<'a> {
    kind: ResourceType,
    resource: &'a str,
    tags: Vec<String>,
}

/// Steps 12 to 14. A resource is missing before a tag is.
fn binding<'a>(call: &'a Call<'_>) -> Result<Binding<'a>, Refusal> {
    call.reach(step::REQUIRED)?;
    let kind = call.required("resourceType", KMS_0101)?;
    let resource = call.required("resourceId", KMS_0101)?;
    call.fields.value("tagIds").ok_or(KMS_0101)?;
    call.reach(step::FORMAT)?;
    let kind = ResourceType::parse(kind).ok_or(KMS_0101)?;
    let tags: Vec<String> = list(call, "tagIds", MAX_TAGS_PER_RESOURCE)?;
    if !is_id(resource) || !tags.iter().all(|id| is_id(id)) {
        return Err(KMS_0101.into());
    }
    let binding = Binding { kind, resource, tags };
    call.reach(step::EXISTENCE)?;
    call.service.store.read(|state| still_there(state, &binding))?;
    call.permit_resource(kind, resource)?;
    if !call.service.store.read(|state| binding.tags.iter().all(|id| state.tags.get(id).is_some())) {
        return Err(KMS_0101.into());
    }
    Ok(binding)
}

fn still_there(state: &State, binding: &Binding<'_>) -> Result<(), Code> {
    match (state.has_resource(binding.kind, binding.resource), binding.kind) {
        (true, _) => Ok(()),
        (false, ResourceType::Cmk) => Err(KMS_0301),
        (false, ResourceType::Certificate) => Err(KMS_0309),
    }
}
