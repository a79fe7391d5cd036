//! GHASH (NIST SP 800-38D section 6.4) by carry-less multiplication, as text for the modules of the kernels.
//!
//! Blocks and the key are taken byte-reversed, which makes GHASH the POLYVAL of RFC 8452 with the key multiplied by x:
//! dot(a, b) = a·b·x^-128 modulo x^128 + x^127 + x^126 + x^121 + 1. The products of up to 32 blocks with powers of the
//! key are added before one reduction.

use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Blocks that are added before a reduction.
pub const GROUP: usize = 32;

/// Powers of the hash key, the highest first: one for each block of a group.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
#[repr(align(64))]
pub struct Powers(pub [[u8; 16]; GROUP]);

impl Powers {
    pub const ZERO: Self = Self([[0; 16]; GROUP]);

    /// For [`portable_tag`], which takes the key itself: it stands in the place of its first power.
    pub fn set_key(&mut self, h: &[u8; 16]) {
        self.0[GROUP - 1] = *h;
    }
}

/// The tag of encrypted `data`, `j0` being the encrypted block J0. By the `ghash` crate, which takes constant time.
pub fn portable_tag(key: &Powers, j0: &[u8; 16], aad: &[u8], data: &[u8]) -> [u8; 16] {
    let mut hash = GHash::new(&key.0[GROUP - 1].into());
    hash.update_padded(aad);
    hash.update_padded(data);
    hash.update(&[lengths(aad, data).into()]);
    let hash: [u8; 16] = hash.finalize().into();
    std::array::from_fn(|i| hash[i] ^ j0[i])
}

/// The last block of GHASH: both lengths in bits.
pub fn lengths(aad: &[u8], data: &[u8]) -> [u8; 16] {
    (((aad.len() as u128 * 8) << 64) | (data.len() as u128 * 8)).to_be_bytes()
}

/// What a module brings, for its `$features`: `Hash` of `HASH_LANES` blocks, `hash_load`, `reverse` (the bytes of each
/// block), `hash_xor`, `hash_xor3`, `clmul`, `swap` (the halves of each block), `widen` (a block to the first lane),
/// `narrow` (the sum of all lanes), `hash_splat` of a u64; and what `kernel!` made.
#[cfg(target_arch = "x86_64")]
macro_rules! ghash {
    ($features:literal) => {
        /// The powers of H = E(0).
        #[target_feature(enable = $features)]
        pub fn powers(keys: &RoundKeys, powers: &mut Powers) {
            let h = reverse16(load16(&encrypt_block(keys, &[0; 16])));
            // Times x.
            let carry = _mm_srli_epi64::<63>(h);
            let sign = _mm_srai_epi32::<31>(_mm_shuffle_epi32::<0xff>(h));
            let modulus = _mm_set_epi64x(0xc200_0000_0000_0000_u64 as i64, 1);
            let h = _mm_or_si128(_mm_slli_epi64::<1>(h), _mm_slli_si128::<8>(carry));
            let h = _mm_xor_si128(h, _mm_and_si128(sign, modulus));
            powers.0[GROUP - 1] = store16(h);
            for n in 2..=GROUP {
                let (a, b) = (powers.0[GROUP - n / 2], powers.0[GROUP - n.div_ceil(2)]);
                powers.0[GROUP - n] = store16(dot(load16(&a), load16(&b)));
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn dot(a: __m128i, b: __m128i) -> __m128i {
            let (low, high) = (_mm_clmulepi64_si128::<0x00>(a, b), _mm_clmulepi64_si128::<0x11>(a, b));
            let middle = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b));
            narrow(reduce(widen(low), widen(middle), widen(high)))
        }

        /// (low + middle·x^64 + high·x^128)·x^-128, lane by lane.
        #[target_feature(enable = $features)]
        #[inline]
        fn reduce(low: Hash, middle: Hash, high: Hash) -> Hash {
            // x^-64 = x^64 + x^63 + x^62 + x^57
            let modulus = hash_splat(0xc200_0000_0000_0000);
            let middle = hash_xor3(middle, swap(low), clmul::<0x00>(low, modulus));
            hash_xor3(high, swap(middle), clmul::<0x00>(middle, modulus))
        }

        /// The hash so far and at most a group of blocks more.
        #[target_feature(enable = $features)]
        #[inline]
        fn absorb(powers: &Powers, sum: __m128i, blocks: &[[u8; 16]]) -> __m128i {
            let powers = &powers.0[GROUP - blocks.len()..];
            let (wide, rest) = blocks.as_chunks::<HASH_LANES>();
            let (wide_powers, rest_powers) = powers.as_chunks::<HASH_LANES>();
            let zero = hash_splat(0);
            let (mut low, mut middle, mut high) = (zero, zero, zero);
            let mut first = widen(sum);
            let mut add = |x: Hash, h: Hash| {
                let x = hash_xor(x, first);
                first = zero;
                low = hash_xor(low, clmul::<0x00>(x, h));
                middle = hash_xor(middle, clmul::<0x00>(hash_xor(x, swap(x)), hash_xor(h, swap(h))));
                high = hash_xor(high, clmul::<0x11>(x, h));
            };
            for (blocks, powers) in wide.iter().zip(wide_powers) {
                add(reverse(hash_load(blocks)), hash_load(powers));
            }
            for (block, power) in rest.iter().zip(rest_powers) {
                add(widen(reverse16(load16(block))), widen(load16(power)));
            }
            // Karatsuba: the halves' sums give all of the product.
            middle = hash_xor3(middle, low, high);
            narrow(reduce(low, middle, high))
        }

        /// The tag of encrypted `data`. Block J0 is encrypted along the way, four rounds beside each group: by itself it
        /// would be a long wait.
        #[target_feature(enable = $features)]
        pub fn tag(keys: &RoundKeys, powers: &Powers, nonce: &[u8; 12], aad: &[u8], data: &[u8]) -> [u8; 16] {
            let mut j0 = [0; 16];
            j0[..12].copy_from_slice(nonce);
            j0[15] = 1;
            let mut x = words_of(&j0);
            let mut round_keys = keys.words.as_chunks().0.iter();
            let mut sum = _mm_setzero_si128();
            for text in [aad, data] {
                let (blocks, rest) = text.as_chunks();
                for group in blocks.chunks(GROUP) {
                    sum = absorb(powers, sum, group);
                    if let Some(keys) = round_keys.next() {
                        x = four_rounds_of_words(keys, x);
                    }
                }
                if !rest.is_empty() {
                    let mut block = [0; 16];
                    block[..rest.len()].copy_from_slice(rest);
                    sum = absorb(powers, sum, &[block]);
                }
            }
            for keys in round_keys {
                x = four_rounds_of_words(keys, x);
            }
            sum = absorb(powers, sum, &[lengths(aad, data)]);
            store16(_mm_xor_si128(reverse16(sum), load16(&block_of(x))))
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use ghash;
