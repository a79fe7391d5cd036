//! Distinguished names: as a list `C=CN,O=Example,CN=www.example.com` in the order of the certificate, and in DER.

use std::fmt;

use der::asn1::{Any, AnyRef, ObjectIdentifier, SetOfVec};
use der::{Decode, Encode, Tag, Tagged};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::Name;

use super::to_hex;

/// The attributes that a subject may have, with the longest value of each (RFC 5280, appendix A.1).
const ATTRIBUTES: &[(&str, ObjectIdentifier, usize)] = &[
    ("C", ObjectIdentifier::new_unwrap("2.5.4.6"), 2),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8"), 128),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7"), 128),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10"), 64),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11"), 64),
    ("E", EMAIL, 255),
    ("CN", ObjectIdentifier::new_unwrap("2.5.4.3"), 64),
];
const EMAIL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");

/// More attributes than anybody needs.
const MAX_ATTRIBUTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    #[error("the subject names nothing, or too much")]
    Count,
    #[error("{0:?} is not of the form ATTRIBUTE=value")]
    Form(String),
    #[error("no attribute {0:?}")]
    UnknownAttribute(String),
    #[error("{value:?} is no value of {attribute}")]
    Value { attribute: &'static str, value: String },
}

/// The name of whom a certificate is for: at least one attribute, each with a sound value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(Vec<(&'static str, String)>);

impl Subject {
    /// Reads `ATTRIBUTE=value,…`. A backslash takes away what the next character means; spaces around names and values do not
    /// count; the case of attributes does not either, and `emailAddress` stands for `E`.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let parts = split(text);
        if text.trim().is_empty() || parts.len() > MAX_ATTRIBUTES {
            return Err(SubjectError::Count);
        }
        parts.into_iter().map(attribute).collect::<Result<_, _>>().map(Subject)
    }

    /// The name in DER, one attribute in each of its parts.
    pub(super) fn to_name(&self) -> Name {
        let parts = self.0.iter().map(|(attribute, value)| {
            let (_, oid, _) = ATTRIBUTES.iter().find(|row| row.0 == *attribute).expect("parsed from the table");
            let tag = match *attribute {
                "C" => Tag::PrintableString,
                "E" => Tag::Ia5String,
                _ => Tag::Utf8String,
            };
            let value = Any::new(tag, value.as_bytes()).expect("a short value");
            SetOfVec::from_iter([AttributeTypeAndValue { oid: *oid, value }]).expect("a set of one")
        });
        let der = parts.collect::<Vec<_>>().to_der().expect("a short name");
        Name::from_der(&der).expect("a name is a sequence of sets of attributes")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(attribute, value)| format!("{attribute}={}", escape(value))).collect();
        f.write_str(&parts.join(","))
    }
}

/// A name of a certificate in the form of [`Subject`]: with `+` between the attributes of one part, dotted numbers for
/// attributes that have no short name here, and `#` with the DER in hex for values that are no text (RFC 4514).
pub(super) fn to_text(name: &Name) -> String {
    let parts = name.iter_rdn().map(|part| part.iter().map(attribute_text).collect::<Vec<_>>().join("+"));
    parts.collect::<Vec<_>>().join(",")
}

fn attribute_text(attribute: &AttributeTypeAndValue) -> String {
    let short = ATTRIBUTES.iter().find(|row| row.1 == attribute.oid).map(|row| row.0.to_owned());
    let value = match value_text(attribute.value.to_ref()) {
        Some(text) => escape(&text),
        None => format!("#{}", to_hex(&attribute.value.to_der().unwrap_or_default())),
    };
    format!("{}={value}", short.unwrap_or_else(|| attribute.oid.to_string()))
}

fn value_text(value: AnyRef<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => String::from_utf8(value.value().to_vec()).ok(),
        Tag::TeletexString => Some(value.value().iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units: Vec<u16> =
                value.value().chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// Splits at commas without a backslash before them; the backslashes stay.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn attribute(part: &str) -> Result<(&'static str, String), SubjectError> {
    let form = || SubjectError::Form(part.to_owned());
    let (written, value) = part.split_once('=').ok_or_else(form)?;
    let written = written.trim();
    let short = if written.eq_ignore_ascii_case("emailAddress") { "E" } else { written };
    let &(name, _, longest) = ATTRIBUTES
        .iter()
        .find(|row| row.0.eq_ignore_ascii_case(short))
        .ok_or_else(|| SubjectError::UnknownAttribute(written.to_owned()))?;
    let value = unescape(value).ok_or_else(form)?;
    if !is_sound(name, &value, longest) {
        return Err(SubjectError::Value { attribute: name, value });
    }
    Ok((name, value))
}

fn is_sound(name: &str, value: &str, longest: usize) -> bool {
    let length = value.chars().count();
    (1..=longest).contains(&length)
        && !value.chars().any(char::is_control)
        && match name {
            "C" => length == 2 && value.bytes().all(|byte| byte.is_ascii_alphabetic()),
            "E" => value.is_ascii(),
            _ => true,
        }
}

/// The value without the spaces around it and without its backslashes; `None` if a backslash is the last character.
fn unescape(text: &str) -> Option<String> {
    let mut value = String::new();
    // How much of the value is sure to stay: spaces at the end go unless they are escaped.
    let mut kept = 0;
    let mut characters = text.trim_start().chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?),
            ' ' => {
                value.push(' ');
                continue;
            }
            _ => value.push(character),
        }
        kept = value.len();
    }
    value.truncate(kept);
    Some(value)
}

fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    value.chars().enumerate().fold(String::new(), |mut text, (at, character)| {
        let edge = character == ' ' && (at == 0 || at == last);
        if edge || matches!(character, ',' | '+' | '\\') {
            text.push('\\');
        }
        text.push(character);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_text_and_one_name() {
        let cases = [
            ("C=CN,ST=Beijing,O=Example,CN=www.example.com", "C=CN,ST=Beijing,O=Example,CN=www.example.com"),
            (" c = CN , cn = 天翼云 ", "C=CN,CN=天翼云"),
            (r"O=Example\, Inc.,CN=a", r"O=Example\, Inc.,CN=a"),
            (r"CN=\ a\ ", r"CN=\ a\ "),
            (r"CN= a b\  ", r"CN=a b\ "),
            (r"CN=a=b\+c+d\\", r"CN=a=b\+c\+d\\"),
            ("emailAddress=a@b.cn,OU=x,OU=y", "E=a@b.cn,OU=x,OU=y"),
        ];
        for (text, canonical) in cases {
            let subject = Subject::parse(text).unwrap();
            assert_eq!(subject.to_string(), canonical);
            assert_eq!(Subject::parse(canonical).as_ref(), Ok(&subject));
            assert_eq!(to_text(&subject.to_name()), canonical);
        }
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        use SubjectError::*;

        let value = |attribute, value: &str| Value { attribute, value: value.to_owned() };
        let cases = [
            ("", Count),
            ("  ", Count),
            (&"CN=a,".repeat(MAX_ATTRIBUTES), Count),
            ("CN", Form("CN".to_owned())),
            ("CN=a,", Form(String::new())),
            (r"CN=a\", Form(r"CN=a\".to_owned())),
            ("X=a", UnknownAttribute("X".to_owned())),
            ("=a", UnknownAttribute(String::new())),
            ("CN=", value("CN", "")),
            ("CN= ", value("CN", "")),
            ("C=CHN", value("C", "CHN")),
            ("C=1A", value("C", "1A")),
            ("CN=a\0b", value("CN", "a\0b")),
            ("E=ä@b.cn", value("E", "ä@b.cn")),
            (&format!("CN={}", "a".repeat(65)), value("CN", &"a".repeat(65))),
        ];
        for (text, error) in cases {
            assert_eq!(Subject::parse(text), Err(error), "{text}");
        }
    }
}
