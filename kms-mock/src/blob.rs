//! `ciphertextBlob`: a header that names key and version, then a payload under that version.
//!
//! ```text
//! blob    = Base64( hex4(len(header)) || header || payload )
//! header  = Base64( cmkUuid "&" keyVersionId )
//! ```
//!
//! The header is the vendor's own (decoded from the example of its page on `encrypt`). The payload comes in two modes: `gcm`
//! (nonce || ciphertext || tag, the bytes before the payload as associated data) and `legacy` (ECB with PKCS#7 padding, like the
//! vendor's example, which has room for neither nonce nor tag).

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead, Payload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::{Cipher, Key, KeyVersion, is_id};
use crate::random::Random;

const BLOCK: usize = 16;
const NONCE: usize = 12;

/// How a payload is encrypted. A blob does not say it: it opens only in the mode in which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadMode {
    #[default]
    Gcm,
    Legacy,
}

/// A blob that has been taken apart; nothing of it is verified yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Blob {
    pub cmk_uuid: String,
    pub key_version_id: String,
    /// Length field and header, as they stood in the blob.
    associated: Vec<u8>,
    payload: Vec<u8>,
}

impl Blob {
    /// `None` if the text is not Base64 or has not the form of a blob.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        let (length, rest) = bytes.split_at_checked(4)?;
        if !length.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let length = usize::from_str_radix(std::str::from_utf8(length).ok()?, 16).ok()?;
        let (header, payload) = rest.split_at_checked(length)?;
        let names = String::from_utf8(BASE64.decode(header).ok()?).ok()?;
        let (cmk_uuid, key_version_id) = names.split_once('&')?;
        if !is_id(cmk_uuid) || !is_id(key_version_id) {
            return None;
        }
        Some(Blob {
            cmk_uuid: cmk_uuid.to_owned(),
            key_version_id: key_version_id.to_owned(),
            associated: bytes[..4 + length].to_vec(),
            payload: payload.to_vec(),
        })
    }

    /// The plaintext, or `None` if tag or padding is wrong, or the version is one of an asymmetric key.
    pub fn open(&self, version: &KeyVersion, mode: PayloadMode) -> Option<Zeroizing<Vec<u8>>> {
        let cipher = version.cipher()?;
        match mode {
            PayloadMode::Gcm => open_gcm(cipher, &self.associated, &self.payload),
            PayloadMode::Legacy => open_legacy(cipher, &self.payload),
        }
    }
}

/// Encrypts under one version of a key; `None` if it is asymmetric.
pub fn seal(key: &Key, version: &KeyVersion, mode: PayloadMode, plain: &[u8], random: &Random) -> Option<String> {
    let cipher = version.cipher()?;
    let mut blob = associated_data(&key.id, &version.id);
    let payload = match mode {
        PayloadMode::Gcm => {
            let mut nonce = [0; NONCE];
            random.fill(&mut nonce);
            seal_gcm(cipher, &nonce, &blob, plain)
        }
        PayloadMode::Legacy => seal_legacy(cipher, plain),
    };
    blob.extend_from_slice(&payload);
    Some(BASE64.encode(blob))
}

fn associated_data(cmk_uuid: &str, key_version_id: &str) -> Vec<u8> {
    let header = BASE64.encode(format!("{cmk_uuid}&{key_version_id}"));
    format!("{:04x}{header}", header.len()).into_bytes()
}

fn seal_gcm(cipher: &Cipher, nonce: &[u8; NONCE], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let (nonce_array, payload) = (Array::from(*nonce), Payload { msg: plain, aad });
    let sealed = match cipher {
        Cipher::Aes256 { gcm, .. } => gcm.encrypt(&nonce_array, payload),
        Cipher::Sm4 { gcm, .. } => gcm.encrypt(&nonce_array, payload),
    };
    [nonce.as_slice(), &sealed.expect("a plaintext of a few KiB is within the limits of GCM")].concat()
}

fn open_gcm(cipher: &Cipher, aad: &[u8], payload: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, msg) = payload.split_first_chunk::<NONCE>()?;
    let (nonce, payload) = (Array::from(*nonce), Payload { msg, aad });
    let opened = match cipher {
        Cipher::Aes256 { gcm, .. } => gcm.decrypt(&nonce, payload),
        Cipher::Sm4 { gcm, .. } => gcm.decrypt(&nonce, payload),
    };
    opened.ok().map(Zeroizing::new)
}

fn seal_legacy(cipher: &Cipher, plain: &[u8]) -> Vec<u8> {
    let padding = BLOCK - plain.len() % BLOCK;
    // At full length from the start, so that no plaintext is left behind by a reallocation.
    let mut buffer = Vec::with_capacity(plain.len() + padding);
    buffer.extend_from_slice(plain);
    buffer.resize(plain.len() + padding, padding as u8);
    for_each_block(&mut buffer, |block| match cipher {
        Cipher::Aes256 { block: aes, .. } => aes::cipher::BlockCipherEncrypt::encrypt_block(&**aes, block),
        Cipher::Sm4 { block: sm4, .. } => sm4::cipher::BlockCipherEncrypt::encrypt_block(&**sm4, block),
    });
    buffer
}

fn open_legacy(cipher: &Cipher, payload: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if !payload.len().is_multiple_of(BLOCK) {
        return None;
    }
    let mut buffer = Zeroizing::new(payload.to_vec());
    for_each_block(&mut buffer, |block| match cipher {
        Cipher::Aes256 { block: aes, .. } => aes::cipher::BlockCipherDecrypt::decrypt_block(&**aes, block),
        Cipher::Sm4 { block: sm4, .. } => sm4::cipher::BlockCipherDecrypt::decrypt_block(&**sm4, block),
    });
    let padding = usize::from(*buffer.last()?);
    let plain_len = buffer.len().checked_sub(padding)?;
    let well_padded = (1..=BLOCK).contains(&padding) && buffer[plain_len..].iter().all(|b| usize::from(*b) == padding);
    well_padded.then(|| {
        buffer.truncate(plain_len);
        buffer
    })
}

fn for_each_block(buffer: &mut [u8], mut step: impl FnMut(&mut Array<u8, U16>)) {
    for chunk in buffer.chunks_exact_mut(BLOCK) {
        let mut block = Array::try_from(&*chunk).expect("the chunk is one block long");
        step(&mut block);
        chunk.copy_from_slice(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeySpec, Protection};

    const CMK: &str = "241ede22-6261-4617-9caf-10d89990516c";
    const VERSION: &str = "49ec76d7-cc4c-400e-9f19-f9001587ae0f";
    /// `ciphertextBlob` of the vendor's page on `encrypt` ("Hello world").
    const VENDOR: &str = "MDA2NE1qUXhaV1JsTWpJdE5qSTJNUzAwTmpFM0xUbGpZV1l0TVRCa09EazVPVEExTVRaakpqUTVaV00zTm1RM0xXTmpOR010TkRBd1pTMDVaakU1TFdZNU1EQXhOVGczWVdVd1pnPT3oCYiGAy7mNTLitIlJaQ92";

    fn key(spec: KeySpec, material: Vec<u8>) -> (Key, KeyVersion) {
        let version = KeyVersion::new(VERSION.into(), spec, Zeroizing::new(material), 0).expect("right length");
        (Key::bare(spec, Protection::Hsm, 0, CMK.into()), version)
    }

    fn cipher(version: &KeyVersion) -> &Cipher {
        version.cipher().expect("a symmetric key")
    }

    fn sealed(key: &Key, version: &KeyVersion, mode: PayloadMode, plain: &[u8]) -> String {
        seal(key, version, mode, plain, &Random::from_seed("blob")).expect("a symmetric key")
    }

    fn both() -> [(Key, KeyVersion); 2] {
        [key(KeySpec::Aes256, (0..32).collect()), key(KeySpec::CtyunSm4, (0..16).collect())]
    }

    #[test]
    fn the_vendors_example_is_a_blob() {
        let blob = Blob::parse(VENDOR).expect("a blob");
        assert_eq!((blob.cmk_uuid.as_str(), blob.key_version_id.as_str()), (CMK, VERSION));
        assert_eq!((blob.associated.len(), blob.payload.len()), (104, 16));
        assert_eq!(blob.associated, associated_data(CMK, VERSION));
    }

    #[test]
    fn gcm_vector() {
        let (_, version) = &both()[0];
        let nonce: [u8; 12] = std::array::from_fn(|i| i as u8);
        let plain: Vec<u8> = (0x20..0x40).collect();
        let payload = seal_gcm(cipher(version), &nonce, &associated_data(CMK, VERSION), &plain);
        assert_eq!(
            hex::encode(payload),
            "000102030405060708090a0b6723f438e1c0e43ca568bda09dc45642b3e7b507c44e694b005edfbe21543e8d87825f8933cc74aa5f931c9636d0712f"
        );
    }

    #[test]
    fn legacy_vector() {
        let (key, version) = &both()[0];
        assert_eq!(hex::encode(seal_legacy(cipher(version), b"Hello world")), "6d3346ee91e49eb88a0fb1f50dc5ec43");
        assert_eq!(sealed(key, version, PayloadMode::Legacy, b"Hello world").len(), VENDOR.len());
    }

    #[test]
    fn lengths_for_a_data_key() {
        let (key, version) = &both()[0];
        assert_eq!(sealed(key, version, PayloadMode::Gcm, &[7; 32]).len(), 220);
        assert_eq!(sealed(key, version, PayloadMode::Legacy, &[7; 32]).len(), 204);
    }

    #[test]
    fn every_length_opens_in_its_own_mode_only() {
        for (key, version) in both() {
            for len in 0..70 {
                let plain: Vec<u8> = (0..len).collect();
                let gcm = Blob::parse(&sealed(&key, &version, PayloadMode::Gcm, &plain)).expect("blob");
                assert_eq!(gcm.open(&version, PayloadMode::Gcm).as_deref(), Some(&plain));
                let legacy = Blob::parse(&sealed(&key, &version, PayloadMode::Legacy, &plain)).expect("blob");
                assert_eq!(legacy.open(&version, PayloadMode::Legacy).as_deref(), Some(&plain));
                assert_eq!(legacy.open(&version, PayloadMode::Gcm), None);
            }
        }
    }

    #[test]
    fn gcm_notices_every_changed_byte() {
        for (key, version) in both() {
            let bytes = BASE64.decode(sealed(&key, &version, PayloadMode::Gcm, b"secret")).expect("Base64");
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                let opened =
                    Blob::parse(&BASE64.encode(changed)).and_then(|blob| blob.open(&version, PayloadMode::Gcm));
                assert_eq!(opened, None, "byte {at}");
            }
        }
    }

    #[test]
    fn malformed_blobs_are_refused() {
        let header = BASE64.encode(format!("{CMK}&{VERSION}"));
        for bytes in [
            String::new(),
            "006".into(),
            "ffff".into(),
            "+064".into(),
            format!("0065{header}"),
            format!("0063{header}"),
            format!("0004{}", BASE64.encode("a&b")),
            format!("{:04x}{}", 48, BASE64.encode(CMK)),
        ] {
            assert_eq!(Blob::parse(&BASE64.encode(&bytes)), None, "{bytes}");
        }
        assert_eq!(Blob::parse("not Base64!"), None);
        assert_eq!(Blob::parse(&VENDOR[..VENDOR.len() - 1]), None);
        let (_, version) = &both()[0];
        let empty = Blob::parse(&BASE64.encode(format!("0064{header}"))).expect("a header");
        assert_eq!(empty.open(version, PayloadMode::Gcm), None);
        assert_eq!(empty.open(version, PayloadMode::Legacy), None);
    }
}
