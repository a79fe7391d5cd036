//! Symlink targets (`docs/FORMAT.md` section 4). A target of up to [`WHOLE_MAX`] bytes is stored whole. The encrypted
//! text of a longer one is cut in two: the first part is the stored symlink's target, the second that of a link beside
//! it, which is named for the first.

use base64::Engine as _;

use super::{BASE64URL, NameError, Names, SALT_LEN};
use crate::crypto::derive::hash;
use crate::crypto::random;
use crate::format::volume::NameMode;
use crate::format::{LONG_PREFIX, TARGET_LINK_SUFFIX};

/// The longest target: what a path may have without its NUL.
pub const TARGET_MAX: usize = 4095;
/// The longest target whose text a stored one of 4095 bytes holds whole.
pub const WHOLE_MAX: usize = 4095 * 3 / 4 - 2 * SALT_LEN;
/// Bytes of a first part: the length itself is the mark of one. No text in base64url without padding has a length of 1
/// modulo 4, and no other length would do: that of a whole target of 3039 bytes is 4095.
const FIRST_LEN: usize = 4093;
/// What a first part begins with: the target's length as base64url of a u16, so that `stat` need not read the second.
const LEN_TEXT: usize = 3;

/// How a symlink's target is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTarget {
    /// The target of the stored symlink.
    pub entry: Vec<u8>,
    /// What did not fit.
    pub rest: Option<TargetRest>,
}

/// The second part of a target: a symlink of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRest {
    pub link: Vec<u8>,
    pub text: Vec<u8>,
}

/// Whether a stored symlink with a target of `stored` bytes has only the first part of one.
pub fn is_cut(stored: u64) -> bool {
    stored == FIRST_LEN as u64
}

impl Names<'_> {
    pub fn store_target(&self, target: &[u8]) -> Result<StoredTarget, NameError> {
        if self.mode == NameMode::Plain {
            return Ok(StoredTarget { entry: target.to_vec(), rest: None });
        }
        if target.len() > TARGET_MAX {
            return Err(NameError::TargetTooLong);
        }
        let salt: [u8; SALT_LEN] = random::bytes();
        let sealed = self.keys.symlinks.seal(&[b"symlink", &salt], target);
        let text = BASE64URL.encode([&salt[..], &sealed].concat()).into_bytes();
        if target.len() <= WHOLE_MAX {
            return Ok(StoredTarget { entry: text, rest: None });
        }
        let (first, rest) = text.split_at(FIRST_LEN - LEN_TEXT);
        let entry = [BASE64URL.encode((target.len() as u16).to_le_bytes()).as_bytes(), first].concat();
        let link = self.rest_link(&entry);
        Ok(StoredTarget { entry, rest: Some(TargetRest { link, text: rest.to_vec() }) })
    }

    /// The target of a symlink that is stored whole.
    pub fn reveal_target(&self, stored: &[u8]) -> Result<Vec<u8>, NameError> {
        if self.mode == NameMode::Plain {
            return Ok(stored.to_vec());
        }
        let bytes = BASE64URL.decode(stored).map_err(|_| NameError::Unverified)?;
        let (salt, sealed) = bytes.split_at_checked(SALT_LEN).ok_or(NameError::Unverified)?;
        self.keys.symlinks.open(&[b"symlink", salt], sealed).map_err(|_| NameError::Unverified)
    }

    /// The target of a symlink from its two parts; the SIV covers both, and the length in the first has to be right,
    /// since `stat` believes it.
    pub fn reveal_cut_target(&self, first: &[u8], rest: &[u8]) -> Result<Vec<u8>, NameError> {
        let len = self.cut_target_len(first).ok_or(NameError::Unverified)?;
        let target = self.reveal_target(&[&first[LEN_TEXT..], rest].concat())?;
        if target.len() as u64 == len { Ok(target) } else { Err(NameError::Unverified) }
    }

    /// Bytes of the target that a stored target of `stored` bytes says; `None` for a first part, which says it itself.
    pub fn target_len(&self, stored: u64) -> Option<u64> {
        match self.mode {
            NameMode::Plain => Some(stored),
            NameMode::Encrypted if is_cut(stored) => None,
            NameMode::Encrypted => Some((3 * stored / 4).saturating_sub(2 * SALT_LEN as u64)),
        }
    }

    /// Bytes of the target whose first part this is; not verified. `None` if it is none.
    pub fn cut_target_len(&self, stored: &[u8]) -> Option<u64> {
        if self.mode == NameMode::Plain || !is_cut(stored.len() as u64) {
            return None;
        }
        let len = BASE64URL.decode(&stored[..LEN_TEXT]).ok()?;
        let len = usize::from(u16::from_le_bytes(len.try_into().ok()?));
        (WHOLE_MAX + 1..=TARGET_MAX).contains(&len).then_some(len as u64)
    }

    /// The name of the link that holds the second part, if `stored` is a first part. It hangs on the first part alone,
    /// whose salt no other symlink has: so it stays what it is when the entry is renamed.
    pub fn target_rest_link(&self, stored: &[u8]) -> Option<Vec<u8>> {
        (self.mode == NameMode::Encrypted && is_cut(stored.len() as u64)).then(|| self.rest_link(stored))
    }

    fn rest_link(&self, first: &[u8]) -> Vec<u8> {
        let hash = BASE64URL.encode(hash(self.suite(), first));
        [LONG_PREFIX, hash.as_bytes(), TARGET_LINK_SUFFIX].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{keys, names};
    use super::*;
    use crate::crypto::Suite;
    use crate::names::Listed;
    use proptest::prelude::*;

    fn target(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 255) as u8 + 1).collect()
    }

    #[test]
    fn targets_of_every_length_come_back() {
        for suite in [Suite::Aes256Gcm, Suite::Sm4Gcm] {
            let keys = keys(suite);
            let names = names(&keys);
            for len in (0..100).chain(2990..=TARGET_MAX) {
                let target = target(len);
                let stored = names.store_target(&target).expect("fits");
                assert!(stored.entry.len() <= 4095, "{len}");
                match stored.rest {
                    None => {
                        assert!(len <= WHOLE_MAX);
                        assert!(!is_cut(stored.entry.len() as u64), "{len}");
                        assert_eq!(names.target_len(stored.entry.len() as u64), Some(len as u64));
                        assert_eq!(names.target_rest_link(&stored.entry), None);
                        assert_eq!(names.reveal_target(&stored.entry), Ok(target));
                    }
                    Some(rest) => {
                        assert!(len > WHOLE_MAX && !rest.text.is_empty() && rest.text.len() <= 4095);
                        assert_eq!(names.target_len(stored.entry.len() as u64), None);
                        assert_eq!(names.cut_target_len(&stored.entry), Some(len as u64));
                        assert_eq!(names.target_rest_link(&stored.entry).as_ref(), Some(&rest.link));
                        assert!(rest.link.len() <= 64 && names.listed(&rest.link) == Listed::Own);
                        assert_eq!(names.reveal_cut_target(&stored.entry, &rest.text), Ok(target));
                        assert_eq!(names.reveal_target(&stored.entry), Err(NameError::Unverified));
                    }
                }
            }
            assert_eq!(names.store_target(&target(TARGET_MAX + 1)), Err(NameError::TargetTooLong));
        }
    }

    /// The mark of a first part is a length that no whole one has.
    #[test]
    fn no_whole_target_has_the_length_of_a_first_part() {
        assert_eq!(WHOLE_MAX, 3039);
        let text = |bytes: usize| BASE64URL.encode(vec![0; bytes]).len();
        assert!((0..4096).all(|bytes| text(bytes) != FIRST_LEN));
        assert_eq!(text(WHOLE_MAX + 2 * SALT_LEN), 4095, "so a length of 4095 could not be the mark");
    }

    #[test]
    fn damaged_parts_are_errors() {
        let keys = keys(Suite::Aes256Gcm);
        let names = names(&keys);
        for len in [3040, 3041, 3042, 4000, 4095] {
            let stored = names.store_target(&target(len)).expect("fits");
            let (first, rest) = (stored.entry, stored.rest.expect("cut").text);
            let damaged = |first: &[u8], rest: &[u8]| names.reveal_cut_target(first, rest).expect_err("damaged");
            for at in (0..first.len()).step_by(97).chain([0, 1, 2, 3, first.len() - 1]) {
                let mut other = first.clone();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(damaged(&other, &rest), NameError::Unverified, "{len}, byte {at}");
            }
            for at in (0..rest.len()).step_by(97).chain([rest.len() - 1]) {
                let mut other = rest.clone();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(damaged(&first, &other), NameError::Unverified, "{len}, byte {at} of the rest");
            }
            damaged(&first, b"");
            damaged(&first, &rest[1..]);
            damaged(&first, &rest[..rest.len() - 1]);
            damaged(&first, &[&rest[..], b"A"].concat());
            // The same target once more: each has a salt of its own.
            let again = names.store_target(&target(len)).expect("fits");
            assert_ne!(again.entry, first);
            damaged(&first, &again.rest.expect("cut").text);
        }
    }

    #[test]
    fn plain_targets_are_as_they_are() {
        let keys = keys(Suite::Aes256Gcm);
        let names = Names { mode: NameMode::Plain, ..names(&keys) };
        for len in [1, FIRST_LEN, TARGET_MAX] {
            let stored = names.store_target(&target(len)).expect("fits");
            assert_eq!(stored, StoredTarget { entry: target(len), rest: None });
            assert_eq!(names.target_len(len as u64), Some(len as u64));
            assert_eq!(names.target_rest_link(&stored.entry), None);
            assert_eq!(names.reveal_target(&stored.entry), Ok(target(len)));
        }
    }

    proptest! {
        #[test]
        fn cut_targets_come_back(text in proptest::collection::vec(1..=255u8, WHOLE_MAX + 1..=TARGET_MAX)) {
            let keys = keys(Suite::Sm4Gcm);
            let names = names(&keys);
            let stored = names.store_target(&text).expect("fits");
            let rest = stored.rest.expect("cut");
            prop_assert_eq!(names.cut_target_len(&stored.entry), Some(text.len() as u64));
            prop_assert_eq!(names.reveal_cut_target(&stored.entry, &rest.text), Ok(text));
        }

        #[test]
        fn random_parts_never_panic(
            first in proptest::collection::vec(any::<u8>(), FIRST_LEN),
            text in proptest::collection::vec(proptest::sample::select(&b"ABCXYZabcxyz0189-_"[..]), FIRST_LEN),
            rest in proptest::collection::vec(any::<u8>(), 0..2000),
            short in 0..FIRST_LEN,
        ) {
            let keys = keys(Suite::Aes256Gcm);
            let names = names(&keys);
            for first in [&first[..], &text[..], &first[..short]] {
                prop_assert!(names.reveal_cut_target(first, &rest).is_err());
                let len = names.cut_target_len(first);
                prop_assert!(len.is_none_or(|len| (3040..=4095).contains(&len)));
                let _ = names.target_rest_link(first);
            }
        }
    }
}
