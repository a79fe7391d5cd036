//! The seed file: access keys and KMS keys that a mock begins with, so that tests know them beforehand.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::key::{
    Alias, DAY, Key, KeySpec, KeyState, KeyUsage, KeyVersion, Origin, Protection, RestingState, is_alias, is_id,
};
use crate::random::Random;
use crate::store::{State, StoreError};
use crate::tenants::Credential;

/// What a mock begins with. `README.md` describes the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    #[serde(default)]
    credentials: Vec<SeedCredential>,
    #[serde(default)]
    keys: Vec<SeedKey>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedCredential {
    access_key: String,
    secret_key: Zeroizing<String>,
}

impl fmt::Debug for SeedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeedCredential({})", self.access_key)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedKey {
    id: String,
    spec: String,
    usage: Option<KeyUsage>,
    protection: Option<Protection>,
    #[serde(default)]
    description: String,
    state: Option<KeyState>,
    #[serde(default)]
    aliases: Vec<String>,
    /// Oldest first.
    #[serde(default)]
    versions: Vec<SeedVersion>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedVersion {
    id: String,
    material: Option<Zeroizing<String>>,
}

impl fmt::Debug for SeedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeedVersion({})", self.id)
    }
}

/// What is wrong with a seed file. It never quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum SeedFileError {
    #[error("cannot read the seed file {path}")]
    Read { path: String, source: std::io::Error },
    /// `line` counts from 1; 0 if it is not known.
    #[error("seed file, line {line}: {reason}")]
    Syntax { line: usize, reason: String },
    #[error("seed file, access key {access_key:?}: {reason}")]
    Credential { access_key: String, reason: &'static str },
    #[error("seed file, key {id:?}: {reason}")]
    Key { id: String, reason: String },
}

impl SeedFile {
    /// Reads a file: JSON if its name ends so, else TOML.
    pub fn read(path: &Path) -> Result<Self, SeedFileError> {
        let text = fs::read_to_string(path)
            .map_err(|source| SeedFileError::Read { path: path.display().to_string(), source })?;
        let text = Zeroizing::new(text);
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            SeedFile::from_json(&text)
        } else {
            SeedFile::from_toml(&text)
        }
    }

    pub fn from_toml(text: &str) -> Result<Self, SeedFileError> {
        let file: SeedFile = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            SeedFileError::Syntax { line, reason: without_value(error.message()) }
        })?;
        file.checked()
    }

    pub fn from_json(text: &str) -> Result<Self, SeedFileError> {
        let file: SeedFile = serde_json::from_str(text)
            .map_err(|error| SeedFileError::Syntax { line: error.line(), reason: without_value(&error.to_string()) })?;
        file.checked()
    }

    /// The access keys, in the order of the file.
    pub fn credentials(&self) -> impl Iterator<Item = Credential> {
        self.credentials.iter().map(|credential| Credential {
            access_key: credential.access_key.clone(),
            secret_key: credential.secret_key.to_string(),
        })
    }

    /// Refuses what no store could change.
    fn checked(self) -> Result<Self, SeedFileError> {
        let mut access_keys = BTreeSet::new();
        for SeedCredential { access_key, secret_key } in &self.credentials {
            let bad = |reason| SeedFileError::Credential { access_key: access_key.clone(), reason };
            if !Credential::is_access_key(access_key) {
                return Err(bad("an access key is printable ASCII without spaces"));
            }
            if secret_key.is_empty() {
                return Err(bad("the secret key is empty"));
            }
            if !access_keys.insert(access_key) {
                return Err(bad("it is there twice"));
            }
        }
        let (mut ids, mut aliases) = (BTreeSet::new(), BTreeSet::new());
        for key in &self.keys {
            let names = key.aliases.iter().all(|alias| aliases.insert(alias));
            if !ids.insert(&key.id) || !names {
                return Err(key.bad("it, or one of its aliases, is there twice"));
            }
            // Drawn material has the form of its spec: what is wrong is wrong for any generator.
            key.check()?;
        }
        Ok(self)
    }

    /// Makes the keys that the store does not have. One that it has stays as it is, with its aliases.
    pub(crate) fn plant(&self, state: &mut State, now: Timestamp, random: &Random) -> Result<(), PlantError> {
        for key in &self.keys {
            if state.keys.get(&key.id).is_some() {
                continue;
            }
            for name in &key.aliases {
                if state.aliases.get(name).is_some() {
                    return Err(key.bad(&format!("another key has the alias {name:?}")).into());
                }
                state.aliases.put(Alias { name: name.clone(), cmk_uuid: key.id.clone() });
            }
            state.keys.put(key.make(now, random)?);
        }
        Ok(())
    }
}

/// Why the keys of a seed file could not be made; none of them was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlantError {
    #[error(transparent)]
    File(#[from] SeedFileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SeedKey {
    fn bad(&self, reason: &str) -> SeedFileError {
        SeedFileError::Key { id: self.id.clone(), reason: reason.to_owned() }
    }

    fn spec(&self) -> Result<KeySpec, SeedFileError> {
        KeySpec::parse(&self.spec).ok_or_else(|| self.bad("the spec is AES_256, Ctyun_SM4, RSA_2048 or Ctyun_SM2"))
    }

    fn check(&self) -> Result<(), SeedFileError> {
        let spec = self.spec()?;
        if !is_id(&self.id) || !self.versions.iter().all(|version| is_id(&version.id)) {
            return Err(self.bad("an id, and that of a version, is a UUID in lower case"));
        }
        if let Some(alias) = self.aliases.iter().find(|alias| !is_alias(alias)) {
            return Err(self.bad(&format!("{alias:?} is no alias (alias/ and letters, digits, _ - /)")));
        }
        if self.usage == Some(KeyUsage::SignVerify) && spec.is_symmetric() {
            return Err(self.bad("a symmetric key cannot sign"));
        }
        if self.state == Some(KeyState::PendingImport) && (!self.versions.is_empty() || !spec.is_symmetric()) {
            return Err(self.bad("a key that waits for import is symmetric and has no versions"));
        }
        let ids: BTreeSet<_> = self.versions.iter().map(|version| &version.id).collect();
        if ids.len() < self.versions.len() {
            return Err(self.bad("a version is there twice"));
        }
        for version in &self.versions {
            if let Some(material) = &version.material {
                self.version(version, spec, material, 0)?;
            }
        }
        Ok(())
    }

    fn make(&self, now: Timestamp, random: &Random) -> Result<Key, SeedFileError> {
        let spec = self.spec()?;
        let protection = self.protection.unwrap_or_else(|| Protection::of_new(spec));
        let mut key = Key {
            usage: self.usage.unwrap_or(KeyUsage::EncryptDecrypt),
            description: self.description.clone(),
            ..Key::bare(spec, protection, now, self.id.clone())
        };
        match self.state.unwrap_or(KeyState::Enabled) {
            KeyState::PendingImport => {
                key.origin = Origin::External;
                return Ok(key);
            }
            KeyState::Enabled => key.resting = RestingState::Enabled,
            KeyState::Disabled => key.resting = RestingState::Disabled,
            KeyState::PendingDeletion => {
                key.resting = RestingState::Enabled;
                key.delete_at = Some(now + 7 * DAY);
            }
        }
        for version in &self.versions {
            let made = match &version.material {
                Some(material) => self.version(version, spec, material, now)?,
                None => KeyVersion { id: version.id.clone(), ..KeyVersion::generate(spec, now, random) },
            };
            key.versions.push(made.into());
        }
        if key.versions.is_empty() {
            key.versions.push(KeyVersion::generate(spec, now, random).into());
        }
        Ok(key)
    }

    fn version(
        &self,
        version: &SeedVersion,
        spec: KeySpec,
        material: &str,
        now: Timestamp,
    ) -> Result<KeyVersion, SeedFileError> {
        decode(material).and_then(|material| KeyVersion::new(version.id.clone(), spec, material, now)).ok_or_else(
            || {
                let form = "32 bytes in Base64 for AES_256, 16 for Ctyun_SM4, a PKCS#8 private key in PEM or Base64 \
                            for RSA_2048 and Ctyun_SM2";
                self.bad(&format!("the material of version {} is not {form}", version.id))
            },
        )
    }
}

/// The bytes of a PEM document or of Base64.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if text.trim_start().starts_with("-----") {
        let (label, der) = der::pem::decode_vec(text.trim().as_bytes()).ok()?;
        return (label == "PRIVATE KEY").then(|| Zeroizing::new(der));
    }
    BASE64.decode(text.trim()).ok().map(Zeroizing::new)
}

/// The message of a parser, without the value that it may quote: "invalid type: string "…", expected …".
fn without_value(message: &str) -> String {
    match message.rfind("expected ") {
        Some(at) if message.starts_with("invalid ") => message[at..].to_owned(),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b5e3d1c-7a4f-4c8e-9d2b-1f6a5c3e7b90";

    #[test]
    fn secrets_are_not_quoted() {
        for text in [
            "[[credentials]]\naccess_key = 'a'\nsecret_key = [\"sesame\"]",
            "[[credentials]]\naccess_key = [\"sesame\"]",
            "[[credentials]]\nsecret_key = \"sesame",
            "[[credentials]]\nsecret_key = \"\\sesame\"",
            "[[credentials]]\nsecret_key = sesame",
            "keys = \"sesame\"",
            "[[keys]]\nid = 'x'\nspec = 'AES_256'\nversions = ['sesame']",
        ] {
            let error = SeedFile::from_toml(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
        for text in [r#"{"credentials": "sesame"}"#, r#"{"credentials": [{"secret_key": {"sesame": 1}}]}"#, "sesame"] {
            let error = SeedFile::from_json(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
        let text =
            format!("[[keys]]\nid = '{ID}'\nspec = 'AES_256'\nversions = [{{id = '{ID}', material = 'c2VzYW1l'}}]");
        let error = SeedFile::from_toml(&text).expect_err("short material");
        assert!(!format!("{error:?}").contains("c2VzYW1l"));
        let text = "[[credentials]]\naccess_key = 'a'\nsecret_key = 'sesame'";
        let file = SeedFile::from_toml(text).expect("good");
        assert!(!format!("{file:?}").contains("sesame"));
    }

    #[test]
    fn mistakes_say_where_they_are() {
        let line = |text| match SeedFile::from_toml(text) {
            Err(SeedFileError::Syntax { line, reason }) => (line, reason),
            other => panic!("{other:?}"),
        };
        let (at, reason) = line("# keys\n[[keys]]\nid = 'x'\ncolour = 'red'\nspec = 'AES_256'");
        assert!(at == 4 && reason.contains("colour"), "{at}: {reason}");
        let (at, reason) = line("\n\n[[keys]]\nid = 3");
        assert_eq!((at, reason.as_str()), (4, "expected a string"));
    }
}
