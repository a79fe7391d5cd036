//! The state file: the number of the next session and the sessions that have not ended (`docs/FORMAT.md` section 6).

use crate::crypto::Unverified;
use crate::crypto::derive::{MAC_LEN, MacKey};

use super::u32_at;

const MAGIC: [u8; 8] = *b"KMSFSst1";
const HEAD_LEN: usize = 16;
/// More open sessions than this are not a state file: each is a daemon that died.
const MAX_SESSIONS: u32 = 1 << 20;

/// The contents of the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The number that the next session takes.
    pub next: u32,
    /// Numbers of sessions that have not ended cleanly, ascending.
    pub open: Vec<u32>,
}

impl State {
    pub fn new() -> Self {
        Self { next: 1, open: Vec::new() }
    }

    pub fn to_bytes(&self, key: &MacKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_LEN + 4 * self.open.len() + MAC_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend_from_slice(&(self.open.len() as u32).to_le_bytes());
        for session in &self.open {
            out.extend_from_slice(&session.to_le_bytes());
        }
        let mac = key.mac(&[&out]);
        out.extend_from_slice(&mac);
        out
    }

    pub fn from_bytes(key: &MacKey, bytes: &[u8]) -> Result<Self, Unverified> {
        if bytes.len() < HEAD_LEN + MAC_LEN || bytes[..8] != MAGIC {
            return Err(Unverified);
        }
        let count = u32_at(bytes, 12);
        if count > MAX_SESSIONS || bytes.len() != HEAD_LEN + 4 * count as usize + MAC_LEN {
            return Err(Unverified);
        }
        let (body, mac) = bytes.split_at(bytes.len() - MAC_LEN);
        key.verify(&[body], mac)?;
        let open = body[HEAD_LEN..].chunks_exact(4).map(|c| u32_at(c, 0)).collect();
        Ok(Self { next: u32_at(bytes, 8), open })
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Suite;
    use crate::crypto::secret::SecretBytes;
    use proptest::prelude::*;

    fn key() -> MacKey {
        MacKey::new(Suite::Sm4Gcm, &SecretBytes::copy_of(&[5; 32]).expect("fits"))
    }

    proptest! {
        #[test]
        fn states_survive_writing_and_no_bit_may_change(next in any::<u32>(), open in proptest::collection::vec(any::<u32>(), 0..20), at in any::<usize>()) {
            let state = State { next, open };
            let mut bytes = state.to_bytes(&key());
            prop_assert_eq!(State::from_bytes(&key(), &bytes), Ok(state));
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(State::from_bytes(&key(), &bytes), Err(Unverified));
        }

        #[test]
        fn random_bytes_are_no_state(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(State::from_bytes(&key(), &bytes), Err(Unverified));
            let magic = [&MAGIC[..], &bytes].concat();
            prop_assert_eq!(State::from_bytes(&key(), &magic), Err(Unverified));
        }
    }
}
