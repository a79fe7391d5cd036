//! Round keys, in the form the kernels want.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::tables::{CK, FK};

/// Round keys in the domain of the kernel that made them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RoundKeys {
    /// As words, the most significant byte first in memory.
    pub words: [u32; 32],
    /// Each byte of them four times over: to be spread over a register.
    pub bytes: [[u32; 4]; 32],
}

impl RoundKeys {
    pub const ZERO: Self = Self { words: [0; 32], bytes: [[0; 4]; 32] };

    /// GB/T 32907-2016 section 7.3. `sbox` and `into_domain` work on each byte of a word; inlined always, so that they
    /// run with the processor features of the caller.
    #[inline(always)]
    pub fn expand(&mut self, key: &[u8; 16], sbox: impl Fn(u32) -> u32, into_domain: impl Fn(u32) -> u32) {
        let mut k = FK;
        for (k, bytes) in k.iter_mut().zip(key.as_chunks::<4>().0) {
            *k ^= u32::from_be_bytes(*bytes);
        }
        for (i, ck) in CK.iter().enumerate() {
            let b = sbox(k[1] ^ k[2] ^ k[3] ^ ck);
            let next = k[0] ^ b ^ b.rotate_left(13) ^ b.rotate_left(23);
            k = [k[1], k[2], k[3], next];
            let bytes = into_domain(next).to_be_bytes();
            self.words[i] = u32::from_le_bytes(bytes);
            self.bytes[i] = bytes.map(|byte| u32::from(byte) * 0x0101_0101);
        }
    }
}
