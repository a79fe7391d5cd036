//! The volume file: what a volume is and the wrappings of its key (`docs/FORMAT.md` section 3).

use serde::{Deserialize, Serialize};

use crate::crypto::derive::MacKey;
use crate::crypto::{Suite, Unverified};

use super::derived::VolumeId;
use super::layout::BLOCK;

/// The format version that this program reads and writes.
pub const FORMAT: u32 = 1;
/// The largest volume file that is read.
pub const VOLUME_FILE_MAX: usize = 64 * 1024;
/// The provider's name in the volume file.
pub const PROVIDER: &str = "ctyun";

/// How entries are named in the backing directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameMode {
    Encrypted,
    Plain,
}

/// One wrapping of the VolumeKey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeWrapping {
    pub provider: String,
    pub key_id: String,
    pub key_version: String,
    pub blob: String,
}

/// The key that new files are encrypted under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeKms {
    pub provider: String,
    pub key_id: String,
}

/// The contents of a volume file. Trusted only once [`UnverifiedVolume::verify`] gave it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub suite: Suite,
    pub names: NameMode,
    /// The longest stored name, in bytes: the backing file system's at `init`.
    pub name_max: usize,
    pub kms: VolumeKms,
    pub files_per_data_key: u32,
    /// At least one.
    pub wrappings: Vec<VolumeWrapping>,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("not a volume file: it does not end with a \"mac\" line")]
    NoMac,
    #[error("the volume file cannot be read as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the volume has format {0}; this program knows format {FORMAT}: use a newer kmsfs")]
    Format(u32),
    #[error("the volume needs the feature {0:?}, which this program does not know: use a newer kmsfs")]
    Feature(String),
    #[error("the volume file's field {0} has a value that no format allows")]
    Field(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    format: u32,
    volume_id: String,
    suite: String,
    block_size: u64,
    names: NameMode,
    name_max: usize,
    features: Vec<String>,
    kms: VolumeKms,
    files_per_data_key: u32,
    volume_key: Vec<VolumeWrapping>,
    #[serde(default)]
    mac: String,
}

/// A volume file that was read and parsed, but whose MAC was not checked: its key is not known yet.
#[derive(Debug)]
pub struct UnverifiedVolume {
    volume: Volume,
    covered: Vec<u8>,
    mac: [u8; 32],
}

impl UnverifiedVolume {
    pub fn parse(bytes: &[u8]) -> Result<Self, VolumeError> {
        let mac_line = last_line_with_mac(bytes).ok_or(VolumeError::NoMac)?;
        // A newer format may have other fields: say so before they are refused.
        #[derive(Deserialize)]
        struct Probe {
            format: u32,
            #[serde(default)]
            features: Vec<String>,
        }
        let probe: Probe = serde_json::from_slice(bytes)?;
        if probe.format != FORMAT {
            return Err(VolumeError::Format(probe.format));
        }
        if let Some(feature) = probe.features.into_iter().next() {
            return Err(VolumeError::Feature(feature));
        }
        let json: Json = serde_json::from_slice(bytes)?;
        let field = |ok: bool, name| if ok { Ok(()) } else { Err(VolumeError::Field(name)) };
        field(json.block_size == BLOCK, "block_size")?;
        field((64..=255).contains(&json.name_max), "name_max")?;
        field(json.files_per_data_key >= 1, "files_per_data_key")?;
        field(!json.volume_key.is_empty(), "volume_key")?;
        Ok(Self {
            volume: Volume {
                id: unhex(&json.volume_id).ok_or(VolumeError::Field("volume_id"))?,
                suite: json.suite.parse().map_err(|_| VolumeError::Field("suite"))?,
                names: json.names,
                name_max: json.name_max,
                kms: json.kms,
                files_per_data_key: json.files_per_data_key,
                wrappings: json.volume_key,
            },
            covered: bytes[..mac_line].to_vec(),
            mac: unhex(&json.mac).ok_or(VolumeError::Field("mac"))?,
        })
    }

    /// What the file says, for showing and for choosing the wrapping to try: **not** verified.
    pub fn claimed(&self) -> &Volume {
        &self.volume
    }

    /// The volume, if its MAC verifies under the key `volume` of the unwrapped VolumeKey.
    pub fn verify(self, key: &MacKey) -> Result<Volume, Unverified> {
        key.verify(&[&self.covered], &self.mac)?;
        Ok(self.volume)
    }
}

impl Volume {
    pub fn to_bytes(&self, key: &MacKey) -> Vec<u8> {
        let json = Json {
            format: FORMAT,
            volume_id: hex(&self.id),
            suite: self.suite.name().to_owned(),
            block_size: BLOCK,
            names: self.names,
            name_max: self.name_max,
            features: Vec::new(),
            kms: self.kms.clone(),
            files_per_data_key: self.files_per_data_key,
            volume_key: self.wrappings.clone(),
            mac: String::new(),
        };
        let text = serde_json::to_string_pretty(&json).expect("strings and numbers always serialise");
        let body = text.strip_suffix(",\n  \"mac\": \"\"\n}").expect("the field mac is the last one");
        let mut out = format!("{body},\n").into_bytes();
        let mac = key.mac(&[&out]);
        out.extend_from_slice(format!("\"mac\": \"{}\" }}\n", hex(&mac)).as_bytes());
        out
    }
}

/// Where the last line that begins with `"mac"` in its first column begins.
fn last_line_with_mac(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(6).rposition(|w| w == b"\n\"mac\"")?;
    Some(at + 1)
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Lower-case hex of exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N || !text.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) {
        return None;
    }
    let digit = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
    Some(std::array::from_fn(|i| digit(text[2 * i]) << 4 | digit(text[2 * i + 1])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;
    use proptest::prelude::*;

    fn key() -> MacKey {
        MacKey::new(Suite::Aes256Gcm, &SecretBytes::copy_of(&[5; 32]).expect("fits"))
    }

    fn volume() -> Volume {
        Volume {
            id: [0xab; 16],
            suite: Suite::Aes256Gcm,
            names: NameMode::Encrypted,
            name_max: 255,
            kms: VolumeKms { provider: PROVIDER.into(), key_id: "241ede22".into() },
            files_per_data_key: 1,
            wrappings: vec![VolumeWrapping {
                provider: PROVIDER.into(),
                key_id: "241ede22".into(),
                key_version: "1".into(),
                blob: "MDA2".into(),
            }],
        }
    }

    fn refused(edit: impl Fn(String) -> String) -> String {
        let text = edit(String::from_utf8(volume().to_bytes(&key())).expect("JSON is UTF-8"));
        UnverifiedVolume::parse(text.as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn a_volume_survives_writing() {
        let bytes = volume().to_bytes(&key());
        assert!(bytes.ends_with(b"\" }\n"));
        let parsed = UnverifiedVolume::parse(&bytes).expect("parses");
        assert_eq!(parsed.verify(&key()).expect("verifies"), volume());
    }

    #[test]
    fn unknown_repeated_and_wrong_fields_are_refused() {
        assert!(refused(|t| t.replace("\"suite\"", "\"extra\": 1,\n  \"suite\"")).contains("unknown field"));
        assert!(refused(|t| t.replace("\"suite\"", "\"block_size\": 4096,\n  \"suite\"")).contains("duplicate field"));
        assert!(refused(|t| t.replace("\"format\": 1", "\"format\": 2")).contains("format 2"));
        assert!(refused(|t| t.replace("\"features\": []", "\"features\": [\"x\"]")).contains("\"x\""));
        assert!(refused(|t| t.replace("4096", "512")).contains("block_size"));
        assert!(refused(|t| t.replace("\"mac\"", "\"mat\"")).contains("mac"));
    }

    #[test]
    fn a_changed_byte_does_not_verify() {
        let text = String::from_utf8(volume().to_bytes(&key())).expect("JSON is UTF-8");
        let other = text.replace("\"key_version\": \"1\"", "\"key_version\": \"2\"");
        assert_eq!(UnverifiedVolume::parse(other.as_bytes()).expect("parses").verify(&key()), Err(Unverified));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in any::<usize>()) {
            let _ = UnverifiedVolume::parse(&bytes);
            let mut near = volume().to_bytes(&key());
            let at = at % near.len();
            near[at] = near[at].wrapping_add(1);
            if let Ok(parsed) = UnverifiedVolume::parse(&near) {
                prop_assert!(parsed.verify(&key()).is_err());
            }
        }
    }
}
