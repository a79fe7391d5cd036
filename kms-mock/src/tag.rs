//! Tags of the account and the resources they are bound to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::access::ResourceType;
use crate::error::{Code, KMS_0101};
use crate::store::{Record, State};

pub const MAX_TAG_KEY: usize = 128;
pub const MAX_TAG_VALUE: usize = 128;
pub const MAX_TAGS_PER_RESOURCE: usize = 20;
/// Tags of the account.
pub const MAX_TAGS: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tag {
    pub id: String,
    pub key: String,
    pub value: String,
    pub bound: BTreeSet<(ResourceType, String)>,
}

impl Record for Tag {
    const TABLE: &'static str = "tags";

    fn id(&self) -> &str {
        &self.id
    }
}

/// Key and value, as a request gives them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pair {
    #[serde(rename = "tagKey")]
    pub key: String,
    #[serde(rename = "tagValue")]
    pub value: String,
}

impl Pair {
    pub fn is_legal(&self) -> bool {
        (1..=MAX_TAG_KEY).contains(&self.key.chars().count()) && is_value(&self.value)
    }
}

pub fn is_value(text: &str) -> bool {
    text.chars().count() <= MAX_TAG_VALUE
}

impl State {
    /// The tag of the account with this key and value.
    pub fn tag(&self, key: &str, value: &str) -> Option<&Tag> {
        self.tags.iter().find(|tag| tag.key == key && tag.value == value).map(AsRef::as_ref)
    }

    /// Makes a tag, unless the account has it or too many.
    pub fn add_tag(&mut self, id: String, pair: &Pair) -> Result<(), Code> {
        if self.tag(&pair.key, &pair.value).is_some() || self.tags.len() >= MAX_TAGS {
            return Err(KMS_0101);
        }
        self.tags.put(Tag { id, key: pair.key.clone(), value: pair.value.clone(), bound: BTreeSet::new() });
        Ok(())
    }

    /// Binds tags to a resource: all of them, or none if one is unknown, if the resource would have two values of a key, or too
    /// many tags. What is bound already stays so.
    pub fn bind_tags<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a str>,
        kind: ResourceType,
        resource: &str,
    ) -> Result<(), Code> {
        let place = (kind, resource.to_owned());
        let mut keys: BTreeSet<String> =
            self.tags.iter().filter(|tag| tag.bound.contains(&place)).map(|tag| tag.key.clone()).collect();
        for id in ids {
            let mut tag = self.tags.get(id).ok_or(KMS_0101)?.as_ref().clone();
            if tag.bound.insert(place.clone()) {
                if !keys.insert(tag.key.clone()) || keys.len() > MAX_TAGS_PER_RESOURCE {
                    return Err(KMS_0101);
                }
                self.tags.put(tag);
            }
        }
        Ok(())
    }

    /// Binds a tag by its key and value, and makes it if the account has none.
    pub fn tag_resource(
        &mut self,
        pair: &Pair,
        new_id: impl FnOnce() -> String,
        kind: ResourceType,
        resource: &str,
    ) -> Result<(), Code> {
        let place = (kind, resource.to_owned());
        if self.tags.iter().any(|tag| tag.key == pair.key && tag.bound.contains(&place)) {
            return Err(KMS_0101);
        }
        let id = match self.tag(&pair.key, &pair.value) {
            Some(tag) => tag.id.clone(),
            None => {
                let id = new_id();
                self.add_tag(id.clone(), pair)?;
                id
            }
        };
        self.bind_tags([id.as_str()].into_iter(), kind, resource)
    }

    pub fn unbind_tags<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a str>,
        kind: ResourceType,
        resource: &str,
    ) -> Result<(), Code> {
        for id in ids {
            let mut tag = self.tags.get(id).ok_or(KMS_0101)?.as_ref().clone();
            if tag.bound.remove(&(kind, resource.to_owned())) {
                self.tags.put(tag);
            }
        }
        Ok(())
    }

    /// Takes every tag off a resource that goes.
    pub fn unbind_all(&mut self, kind: ResourceType, resource: &str) {
        let place = (kind, resource.to_owned());
        let bound: Vec<_> = self.tags.iter().filter(|tag| tag.bound.contains(&place)).cloned().collect();
        for tag in bound {
            let mut tag = tag.as_ref().clone();
            tag.bound.remove(&place);
            self.tags.put(tag);
        }
    }

    /// Is there such a resource? The one place that knows how each kind is found.
    pub fn has_resource(&self, kind: ResourceType, id: &str) -> bool {
        match kind {
            ResourceType::Cmk => self.keys.get(id).is_some(),
            ResourceType::Certificate => {
                self.certificates.get(id).is_some() || self.ukey_certificates.get(id).is_some()
            }
        }
    }
}
