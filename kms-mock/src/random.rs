//! Random bytes: one generator for keys, ids and nonces, seeded by the operating system, or by a seed file that makes the mock
//! repeat itself.

use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};
use zeroize::Zeroizing;

/// ChaCha20 under a seed of 32 bytes. Drawing from it cannot fail.
pub struct Random {
    generator: Mutex<ChaCha20Rng>,
}

impl Random {
    /// Seeded by the operating system.
    pub fn from_system() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Random::from_bytes(*seed))
    }

    /// The same text gives the same bytes in the same order.
    pub fn from_seed(text: &str) -> Self {
        Random::from_bytes(Sha256::digest(text).into())
    }

    fn from_bytes(seed: [u8; 32]) -> Self {
        Random { generator: Mutex::new(ChaCha20Rng::from_seed(seed)) }
    }

    pub fn fill(&self, bytes: &mut [u8]) {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }

    pub fn bytes(&self, length: usize) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.fill(&mut bytes);
        bytes
    }

    pub fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A lower-case hyphenated UUID of version 4.
    pub fn id(&self) -> String {
        self.uuid().to_string()
    }

    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A generator of its own for work that draws for long, such as a search for primes.
    pub fn fork(&self) -> ChaCha20Rng {
        let mut seed = Zeroizing::new([0; 32]);
        self.fill(&mut *seed);
        ChaCha20Rng::from_seed(*seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_the_system_does_not() {
        let (a, b) = (Random::from_seed("x"), Random::from_seed("x"));
        assert_eq!((a.id(), a.bytes(5), a.fork().next_u64()), (b.id(), b.bytes(5), b.fork().next_u64()));
        assert_ne!(Random::from_seed("y").id(), Random::from_seed("x").id());
        let (a, b) = (Random::from_system().expect("random source"), Random::from_system().expect("random source"));
        assert_ne!(a.id(), b.id());
        assert!(crate::key::is_id(&a.id()));
    }
}
