//! Plaintext names ↔ stored names, and the other small texts that are stored encrypted: directory markers, symlink
//! targets, xattrs (`docs/FORMAT.md` section 4). Reads no directory: ids come as arguments.

mod targets;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use crate::crypto::derive::hash;
use crate::crypto::{Suite, random};
use crate::format::derived::VolumeKeys;
use crate::format::volume::NameMode;
use crate::format::{LONG_LINK_SUFFIX, LONG_PREFIX, RESERVED, is_long_link};

pub use targets::{StoredTarget, TARGET_MAX, TargetRest, is_cut};

/// The longest name a user may give, in bytes.
pub const NAME_MAX: usize = 255;
/// Names are padded with zeros to a multiple of this before they are sealed.
const PAD: usize = 16;
const SALT_LEN: usize = 16;
/// What the name of an encrypted xattr begins with.
pub const XATTR_PREFIX: &[u8] = b"user.kmsfs.";

/// 16 random bytes that a directory's marker names; its entries' names are bound to it.
pub type DirId = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("names have 1 to {NAME_MAX} bytes")]
    TooLong,
    #[error("names beginning with \"kmsfs.\" are reserved for the file system")]
    Reserved,
    #[error("names contain neither '/' nor NUL and are not '.' or '..'")]
    Illegal,
    #[error("a symlink target has at most {TARGET_MAX} bytes")]
    TargetTooLong,
    #[error("does not verify under this volume's key")]
    Unverified,
}

/// How an entry is named in the backing directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredName {
    Short(Vec<u8>),
    /// The entry's name is a hash; the whole stored name is the target of the symlink `link`.
    Long {
        entry: Vec<u8>,
        link: Vec<u8>,
        whole: Vec<u8>,
    },
}

impl StoredName {
    /// The name of the entry itself.
    pub fn entry(&self) -> &[u8] {
        match self {
            Self::Short(name) => name,
            Self::Long { entry, .. } => entry,
        }
    }
}

/// What a listed entry of a backing directory is.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed<'a> {
    /// One of the format's own files: not shown.
    Own,
    /// A user's entry under its stored name.
    Stored(&'a [u8]),
    /// A user's entry whose stored name is the target of this symlink.
    Long { link: Vec<u8> },
}

/// The naming of one volume.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub mode: NameMode,
    /// The longest stored name.
    pub name_max: usize,
    pub keys: &'a VolumeKeys,
}

impl Names<'_> {
    /// Whether a user may give this name to something new.
    pub fn check(name: &[u8]) -> Result<(), NameError> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        if name == b"." || name == b".." || name.iter().any(|&b| b == b'/' || b == 0) {
            return Err(NameError::Illegal);
        }
        if name.starts_with(RESERVED) { Err(NameError::Reserved) } else { Ok(()) }
    }

    /// The one place where a name becomes a stored name. `dir` is not used for plain names.
    pub fn store(&self, dir: &DirId, name: &[u8]) -> Result<StoredName, NameError> {
        Self::check(name)?;
        if self.mode == NameMode::Plain {
            return if name.len() <= self.name_max {
                Ok(StoredName::Short(name.to_vec()))
            } else {
                Err(NameError::TooLong)
            };
        }
        let mut padded = name.to_vec();
        padded.resize(name.len().next_multiple_of(PAD), 0);
        let whole = BASE64URL.encode(self.keys.names.seal(&[dir], &padded)).into_bytes();
        if whole.len() <= self.name_max {
            return Ok(StoredName::Short(whole));
        }
        let entry = [LONG_PREFIX, BASE64URL.encode(hash(self.suite(), &whole)).as_bytes()].concat();
        let link = [&entry[..], LONG_LINK_SUFFIX].concat();
        Ok(StoredName::Long { entry, link, whole })
    }

    /// Sorts an entry of a backing directory.
    pub fn listed<'a>(&self, entry: &'a [u8]) -> Listed<'a> {
        if !entry.starts_with(RESERVED) {
            return Listed::Stored(entry);
        }
        if self.mode == NameMode::Encrypted && entry.starts_with(LONG_PREFIX) && !is_long_link(entry) {
            return Listed::Long { link: [entry, LONG_LINK_SUFFIX].concat() };
        }
        Listed::Own
    }

    /// The name of an entry from its whole stored name, or that it is foreign: not the stored name of a valid name, or not
    /// stored as one of its length is. That would be found under another entry.
    pub fn reveal(&self, dir: &DirId, entry: &[u8], whole: &[u8]) -> Result<Vec<u8>, NameError> {
        if self.mode == NameMode::Plain {
            return Ok(whole.to_vec());
        }
        if (whole.len() > self.name_max) != entry.starts_with(LONG_PREFIX) {
            return Err(NameError::Unverified);
        }
        let sealed = BASE64URL.decode(whole).map_err(|_| NameError::Unverified)?;
        let mut name = self.keys.names.open(&[dir], &sealed).map_err(|_| NameError::Unverified)?;
        let len = name.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
        if len.next_multiple_of(PAD) != name.len() {
            return Err(NameError::Unverified);
        }
        name.truncate(len);
        Self::check(&name)?;
        Ok(name)
    }

    /// Whether an entry may once have been the stored name of something, though it is none here.
    pub fn looks_stored(entry: &[u8]) -> bool {
        BASE64URL.decode(entry).is_ok_and(|bytes| bytes.len() >= 2 * PAD && bytes.len().is_multiple_of(PAD))
    }

    /// Checks that the entry of a long name is the one its link names.
    pub fn long_entry_matches(&self, entry: &[u8], whole: &[u8]) -> bool {
        entry.strip_prefix(LONG_PREFIX) == Some(BASE64URL.encode(hash(self.suite(), whole)).as_bytes())
    }

    /// A new directory's id and the target of its marker.
    pub fn new_marker(&self) -> (DirId, Vec<u8>) {
        let id: DirId = random::bytes();
        (id, self.marker(&id))
    }

    fn marker(&self, id: &DirId) -> Vec<u8> {
        let mac = self.keys.dir.mac16(&[b"dir", id]);
        BASE64URL.encode([&id[..], &mac].concat()).into_bytes()
    }

    /// The id that a marker names.
    pub fn read_marker(&self, target: &[u8]) -> Result<DirId, NameError> {
        let bytes = BASE64URL.decode(target).map_err(|_| NameError::Unverified)?;
        let id: DirId = bytes.get(..16).and_then(|b| b.try_into().ok()).ok_or(NameError::Unverified)?;
        let expected = self.keys.dir.mac16(&[b"dir", &id]);
        let same = subtle::ConstantTimeEq::ct_eq(&expected[..], &bytes[16..]);
        if bool::from(same) { Ok(id) } else { Err(NameError::Unverified) }
    }

    /// The stored name of the xattr `name`; only `user.*` is encrypted, for the kernel acts on the others.
    pub fn store_xattr_name(&self, name: &[u8]) -> Vec<u8> {
        if self.encrypts_xattr(name) {
            let sealed = self.keys.xattrs.seal(&[b"xattr"], name);
            [XATTR_PREFIX, BASE64URL.encode(sealed).as_bytes()].concat()
        } else {
            name.to_vec()
        }
    }

    /// The name of a stored xattr; `None` for one that is foreign and not shown.
    pub fn reveal_xattr_name(&self, stored: &[u8]) -> Option<Vec<u8>> {
        if self.mode == NameMode::Plain || !stored.starts_with(b"user.") {
            return Some(stored.to_vec());
        }
        let sealed = BASE64URL.decode(stored.strip_prefix(XATTR_PREFIX)?).ok()?;
        self.keys.xattrs.open(&[b"xattr"], &sealed).ok()
    }

    pub fn store_xattr_value(&self, name: &[u8], value: &[u8]) -> Vec<u8> {
        if !self.encrypts_xattr(name) {
            return value.to_vec();
        }
        let salt: [u8; SALT_LEN] = random::bytes();
        [&salt[..], &self.keys.xattrs.seal(&[name, &salt], value)].concat()
    }

    pub fn reveal_xattr_value(&self, name: &[u8], stored: &[u8]) -> Result<Vec<u8>, NameError> {
        if !self.encrypts_xattr(name) {
            return Ok(stored.to_vec());
        }
        let (salt, sealed) = stored.split_at_checked(SALT_LEN).ok_or(NameError::Unverified)?;
        self.keys.xattrs.open(&[name, salt], sealed).map_err(|_| NameError::Unverified)
    }

    /// `user.` alone is no name, which the backing says best.
    fn encrypts_xattr(&self, name: &[u8]) -> bool {
        self.mode == NameMode::Encrypted && name.strip_prefix(b"user.").is_some_and(|rest| !rest.is_empty())
    }

    fn suite(&self) -> Suite {
        self.keys.suite
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;
    use proptest::prelude::*;

    pub(super) fn keys(suite: Suite) -> VolumeKeys {
        let key = SecretBytes::copy_of(&[1; 32][..suite.key_len()]).expect("fits");
        VolumeKeys::derive(suite, [3; 16], &key)
    }

    pub(super) fn names(keys: &VolumeKeys) -> Names<'_> {
        Names { mode: NameMode::Encrypted, name_max: 255, keys }
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>().prop_filter("no slash, no NUL", |&b| b != 0 && b != b'/'), 1..=255)
            .prop_filter("a name", |name| Names::check(name).is_ok())
    }

    #[test]
    fn names_over_160_bytes_are_long() {
        for suite in [Suite::Aes256Gcm, Suite::Sm4Gcm] {
            let keys = keys(suite);
            for len in 1..=255usize {
                let name = vec![b'n'; len];
                match names(&keys).store(&[0; 16], &name).expect("stores") {
                    StoredName::Short(whole) => {
                        assert!(len <= 160 && whole.len() <= 255 && !whole.contains(&b'.'));
                        assert_eq!(names(&keys).reveal(&[0; 16], &whole, &whole), Ok(name));
                    }
                    StoredName::Long { entry, link, whole } => {
                        assert!(len > 160 && link.len() <= 255);
                        assert!(names(&keys).long_entry_matches(&entry, &whole));
                        assert_eq!(names(&keys).reveal(&[0; 16], &entry, &whole), Ok(name));
                        assert_eq!(names(&keys).listed(&entry), Listed::Long { link: link.clone() });
                        assert_eq!(names(&keys).listed(&link), Listed::Own);
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_stored_as_one_of_another_length_is_foreign() {
        let keys = keys(Suite::Aes256Gcm);
        let (names, small) = (names(&keys), Names { name_max: 64, ..names(&keys) });
        let StoredName::Short(whole) = names.store(&[0; 16], b"short").expect("stores") else { panic!("long") };
        let entry = [LONG_PREFIX, BASE64URL.encode(hash(Suite::Aes256Gcm, &whole)).as_bytes()].concat();
        assert_eq!(names.reveal(&[0; 16], &entry, &whole), Err(NameError::Unverified), "it would be listed twice");
        let StoredName::Short(whole) = names.store(&[0; 16], &[b'n'; 60]).expect("stores") else { panic!("long") };
        assert!(whole.len() > 64);
        assert!(names.reveal(&[0; 16], &whole, &whole).is_ok());
        assert_eq!(small.reveal(&[0; 16], &whole, &whole), Err(NameError::Unverified), "listed, and not found");
    }

    #[test]
    fn reserved_illegal_and_overlong_names_are_refused() {
        assert_eq!(Names::check(b"kmsfs.volume"), Err(NameError::Reserved));
        assert_eq!(Names::check(b"a/b"), Err(NameError::Illegal));
        assert_eq!(Names::check(b".."), Err(NameError::Illegal));
        assert_eq!(Names::check(&[b'x'; 256]), Err(NameError::TooLong));
        assert_eq!(Names::check(b""), Err(NameError::TooLong));
    }

    #[test]
    fn markers_are_bound_to_the_volume() {
        let keys = keys(Suite::Aes256Gcm);
        let (id, mut target) = names(&keys).new_marker();
        assert_eq!(target.len(), 43);
        assert_eq!(names(&keys).read_marker(&target), Ok(id));
        target[3] = if target[3] == b'A' { b'B' } else { b'A' };
        assert_eq!(names(&keys).read_marker(&target), Err(NameError::Unverified));
        assert_eq!(names(&keys).read_marker(b""), Err(NameError::Unverified));
    }

    proptest! {
        #[test]
        fn names_are_revealed_in_their_directory_only(name in name(), dir in any::<[u8; 16]>(), other in any::<[u8; 16]>()) {
            prop_assume!(dir != other);
            let keys = keys(Suite::Aes256Gcm);
            let stored = names(&keys).store(&dir, &name).expect("stores");
            let (StoredName::Short(whole) | StoredName::Long { whole, .. }) = &stored;
            prop_assert_eq!(names(&keys).reveal(&dir, stored.entry(), whole), Ok(name));
            prop_assert_eq!(names(&keys).reveal(&other, stored.entry(), whole), Err(NameError::Unverified));
        }

        #[test]
        fn targets_and_xattrs_come_back(text in proptest::collection::vec(1..=255u8, 1..3000), attr in "user\\.[a-z]{1,40}") {
            let keys = keys(Suite::Sm4Gcm);
            let names = names(&keys);
            let stored = names.store_target(&text).expect("fits").entry;
            prop_assert_eq!(names.target_len(stored.len() as u64), Some(text.len() as u64));
            prop_assert_eq!(names.reveal_target(&stored), Ok(text.clone()));
            let name = names.store_xattr_name(attr.as_bytes());
            prop_assert_eq!(names.reveal_xattr_name(&name), Some(attr.clone().into_bytes()));
            let value = names.store_xattr_value(attr.as_bytes(), &text);
            prop_assert_eq!(names.reveal_xattr_value(attr.as_bytes(), &value), Ok(text.clone()));
            prop_assert!(names.reveal_xattr_value(b"user.other", &value).is_err());
        }

        #[test]
        fn random_stored_texts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let keys = keys(Suite::Aes256Gcm);
            let names = names(&keys);
            let _ = (names.reveal(&[0; 16], &bytes, &bytes), names.reveal_target(&bytes), names.read_marker(&bytes));
            let _ = (names.reveal_xattr_name(&bytes), names.reveal_xattr_value(b"user.x", &bytes), names.listed(&bytes));
        }
    }
}
