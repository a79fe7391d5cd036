//! The keys that a VolumeKey and a file's data key give (`docs/FORMAT.md` sections 3 and 5.3).

use subtle::ConstantTimeEq;

use crate::crypto::aead::{AeadKey, Engine};
use crate::crypto::derive::{MAC_LEN, MacKey, PREFIX, file_label, kdf, volume_label};
use crate::crypto::secret::SecretBytes;
use crate::crypto::siv::SivKey;
use crate::crypto::{Suite, Unverified};

pub const ID_LEN: usize = 16;
/// 16 random bytes that name a volume.
pub type VolumeId = [u8; ID_LEN];
/// 16 random bytes that name a stored file; copies of a file share it.
pub type FileId = [u8; ID_LEN];

/// Every key that a volume's VolumeKey gives. The VolumeKey itself encrypts nothing and is not kept.
#[derive(Debug)]
pub struct VolumeKeys {
    pub suite: Suite,
    pub volume_id: VolumeId,
    /// MAC of the volume file.
    pub volume: MacKey,
    /// MAC of file headers.
    pub header: MacKey,
    /// MAC of directory markers.
    pub dir: MacKey,
    /// MAC of the state file.
    pub state: MacKey,
    pub names: SivKey,
    pub symlinks: SivKey,
    pub xattrs: SivKey,
    /// What `init` prints and a configuration may ask for: names the VolumeKey without giving anything of it away.
    pub fingerprint: [u8; 16],
}

impl VolumeKeys {
    pub fn derive(suite: Suite, volume_id: VolumeId, volume_key: &SecretBytes) -> Self {
        let derive = |label: &str, n| kdf(suite, volume_key, &volume_id, &[PREFIX, label.as_bytes()], n);
        let mac = |label| MacKey::new(suite, &derive(label, MAC_LEN));
        let siv = |label| SivKey::new(suite, derive(label, suite.siv_key_len()));
        // Made public: the fingerprint is one of the KDF's outputs, from which no other can be had.
        let fingerprint = derive(volume_label::FINGERPRINT, 16).expose().try_into().expect("16 bytes");
        Self {
            suite,
            volume_id,
            volume: mac(volume_label::VOLUME),
            header: mac(volume_label::HEADER),
            dir: mac(volume_label::DIR),
            state: mac(volume_label::STATE),
            names: siv(volume_label::NAMES),
            symlinks: siv(volume_label::SYMLINKS),
            xattrs: siv(volume_label::XATTRS),
            fingerprint,
        }
    }
}

/// The key material of one stored file: derives what content needs, for one volume and file id.
pub struct FileKeys {
    suite: Suite,
    data_key: SecretBytes,
    salt: [u8; 2 * ID_LEN],
    pub record: MacKey,
}

impl FileKeys {
    pub fn derive(suite: Suite, volume_id: VolumeId, file_id: FileId, data_key: &SecretBytes) -> Self {
        let mut salt = [0; 2 * ID_LEN];
        salt[..ID_LEN].copy_from_slice(&volume_id);
        salt[ID_LEN..].copy_from_slice(&file_id);
        let record = MacKey::new(suite, &kdf(suite, data_key, &salt, &[PREFIX, file_label::RECORD], MAC_LEN));
        Self { suite, data_key: data_key.clone(), salt, record }
    }

    /// The key check of the header: says whether a data key is the right one.
    pub fn key_check(&self) -> [u8; 16] {
        let check = kdf(self.suite, &self.data_key, &self.salt, &[PREFIX, file_label::KEY_CHECK], 16);
        // Made public: the KDF's outputs are independent of each other.
        check.expose().try_into().expect("16 bytes")
    }

    /// A data key is used only after this: a KMS may return a wrong one without an error.
    pub fn verify_key_check(&self, stored: &[u8; 16]) -> Result<(), Unverified> {
        if bool::from(self.key_check().ct_eq(stored)) { Ok(()) } else { Err(Unverified) }
    }

    /// K_block(epoch).
    pub fn block_key(&self, epoch: u16) -> AeadKey {
        let info: [&[u8]; 3] = [PREFIX, file_label::BLOCKS, &epoch.to_le_bytes()];
        let key = kdf(self.suite, &self.data_key, &self.salt, &info, self.suite.key_len());
        AeadKey::new(self.suite, Engine::default_for(self.suite), &key)
    }
}

impl std::fmt::Debug for FileKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileKeys({})", self.suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_file_volume_and_suite() {
        let key = SecretBytes::copy_of(&[7; 32]).expect("fits");
        let check = |volume, file| FileKeys::derive(Suite::Aes256Gcm, volume, file, &key).key_check();
        let base = check([1; 16], [2; 16]);
        assert_ne!(base, check([1; 16], [3; 16]));
        assert_ne!(base, check([2; 16], [2; 16]));
        assert_ne!(check([1; 16], [2; 16]), check([2; 16], [1; 16]));
    }

    #[test]
    fn a_wrong_data_key_is_noticed() {
        let right = FileKeys::derive(Suite::Sm4Gcm, [1; 16], [2; 16], &SecretBytes::copy_of(&[7; 16]).expect("fits"));
        let wrong = FileKeys::derive(Suite::Sm4Gcm, [1; 16], [2; 16], &SecretBytes::copy_of(&[8; 16]).expect("fits"));
        assert!(right.verify_key_check(&right.key_check()).is_ok());
        assert!(wrong.verify_key_check(&right.key_check()).is_err());
    }
}
