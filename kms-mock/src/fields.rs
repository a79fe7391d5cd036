//! The body of a request: a flat JSON object, once as it was sent (for the signature) and once as typed fields (for the API).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Names and values of an object in the order sent, each value as its text.
#[derive(Debug)]
pub struct RawFields(Vec<(String, Box<RawValue>)>);

impl RawFields {
    /// `None` if the body is not one JSON object.
    pub fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The text by which each value enters the signature of profile N: strings as they are, everything else as compact JSON, null
    /// as nothing.
    pub fn signed_texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| (name.as_str(), signed_text(value.get())))
    }
}

impl<'de> Deserialize<'de> for RawFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = RawFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn signed_text(raw: &str) -> String {
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).unwrap_or_default(),
        Some(b'{' | b'[') => compact(raw),
        _ if raw == "null" => String::new(),
        _ => raw.to_owned(),
    }
}

/// Valid JSON without the white space between its tokens.
fn compact(raw: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    raw.chars()
        .filter(|c| {
            let keep = in_string || !c.is_ascii_whitespace();
            match (in_string, escaped, c) {
                (true, true, _) => escaped = false,
                (true, false, '\\') => escaped = true,
                (_, _, '"') => in_string = !in_string,
                _ => {}
            }
            keep
        })
        .collect()
}

/// A field of a request.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// Whether every request needs it. The API itself refuses a request without, by the code that the table has for that.
    pub required: bool,
}

pub const fn required(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

pub const fn optional(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

/// The JSON types that are sensible for a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Number,
    TextOrNumber,
    /// A list of texts; the API judges its elements.
    Texts,
    /// A list of objects with these fields; the API judges its elements.
    Objects(&'static [Field]),
    /// True or false; the API judges it itself, because the table has a code for anything else.
    Flag,
    /// A value that the API judges itself.
    Any,
}

/// The fields of a request that its API knows, with sensible types. A field sent as null counts as absent, unknown fields are
/// ignored.
#[derive(Debug, Default)]
pub struct Fields(BTreeMap<&'static str, Value>);

impl Fields {
    /// `None` if a field has the wrong type, is given twice or cannot be read.
    pub fn typed(raw: &RawFields, known: &[Field]) -> Option<Self> {
        let mut fields = BTreeMap::new();
        for (name, value) in &raw.0 {
            let Some(field) = known.iter().find(|known| known.name == name) else { continue };
            let value: Value = serde_json::from_str(value.get()).ok()?;
            if value.is_null() {
                continue;
            }
            if !is_sensible(&value, field.kind) || fields.insert(field.name, value).is_some() {
                return None;
            }
        }
        Some(Fields(fields))
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str)
    }
}

fn is_sensible(value: &Value, kind: Kind) -> bool {
    match kind {
        Kind::Text => value.is_string(),
        Kind::Number => value.is_number(),
        Kind::TextOrNumber => value.is_string() || value.is_number(),
        Kind::Texts | Kind::Objects(_) => value.is_array(),
        Kind::Flag | Kind::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: Field = optional("e", Kind::Texts);

    #[test]
    fn only_objects_are_bodies() {
        for body in ["", "[]", "1", "\"x\"", "{", "{}x", "{\"a\"}", "null"] {
            assert!(RawFields::parse(body.as_bytes()).is_none(), "{body}");
        }
        assert!(RawFields::parse(b"\xff{}").is_none());
        assert!(RawFields::parse(b" {} ").is_some());
    }

    #[test]
    fn compact_leaves_strings_alone() {
        assert_eq!(
            compact("{ \"a b\" : \"c \\\" d\" ,\n \"e\\\\\" : [ 1 , 2 ] }"),
            "{\"a b\":\"c \\\" d\",\"e\\\\\":[1,2]}"
        );
        assert_eq!(signed_text("\"a\\u00e9\\n\""), "aé\n");
        assert_eq!(signed_text("-1.50"), "-1.50");
    }

    #[test]
    fn types_are_checked_for_known_fields_only() {
        let known = &[required("a", Kind::Text), optional("b", Kind::Number), optional("c", Kind::TextOrNumber), TEXTS];
        let typed = |body: &str| Fields::typed(&RawFields::parse(body.as_bytes()).expect("object"), known);
        let fields = typed(r#"{"a":"x","b":1,"c":"2","d":{},"e":["x"]}"#).expect("sensible");
        assert_eq!(fields.text("a"), Some("x"));
        assert!(fields.value("d").is_none());
        assert!(typed(r#"{"a":null}"#).expect("sensible").value("a").is_none());
        for body in [r#"{"a":1}"#, r#"{"b":"1"}"#, r#"{"c":true}"#, r#"{"a":"x","a":"y"}"#, r#"{"e":"x"}"#] {
            assert!(typed(body).is_none(), "{body}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(3000), "]".repeat(3000));
        assert!(typed(&deep).is_none());
    }
}
