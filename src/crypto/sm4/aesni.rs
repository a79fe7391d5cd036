//! Kernels for processors with AES instructions: the last round of AES with a key of zeros is AES's S-box.
//!
//! The rows that it shifts are put back, and a pair of nibble tables in registers does each linear map after it.

use super::ghash::{GROUP, Powers, ghash, lengths};
use super::keys::RoundKeys;
use super::sliced::kernel;
use super::tables::{AES as D, nibble_tables};

const P: [[u8; 16]; 2] = nibble_tables(&D.p, 0);
/// With the constant of round keys in it.
const P_AND_P0: [[u8; 16]; 2] = nibble_tables(&D.p, D.p0);
const P_INVERSE: [[u8; 16]; 2] = nibble_tables(&D.p_inverse, 0);
const U: [[u8; 16]; 2] = nibble_tables(&D.u, D.u0);
const V: [[u8; 16]; 2] = nibble_tables(&D.v, D.v0);
const W: [[u8; 16]; 2] = nibble_tables(&D.w, D.w0);
const S: [[u8; 16]; 2] = nibble_tables(&D.s, D.s0);

/// What undoes ShiftRows (FIPS 197 section 5.3.1).
const ROWS: [u8; 16] = [0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3];

/// Everything but the AES instruction on an AVX2 register, `aes`.
macro_rules! by_aes {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn sbox(t: Vector) -> (Vector, Vector) {
            let (low, high) = nibbles(_mm256_shuffle_epi8(aes(t), spread(&ROWS)));
            (look_up(&U, low, high), look_up(&W, low, high))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn into_domain(x: Vector) -> Vector {
            let (low, high) = nibbles(x);
            look_up(&P, low, high)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn out_of_domain(x: Vector) -> Vector {
            let (low, high) = nibbles(x);
            look_up(&P_INVERSE, low, high)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn spread(table: &[u8; 16]) -> Vector {
            _mm256_broadcastsi128_si256(load16(table))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn nibbles(x: Vector) -> (Vector, Vector) {
            let mask = _mm256_set1_epi8(15);
            (_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn look_up(tables: &[[u8; 16]; 2], low: Vector, high: Vector) -> Vector {
            _mm256_xor_si256(
                _mm256_shuffle_epi8(spread(&tables[0]), low),
                _mm256_shuffle_epi8(spread(&tables[1]), high),
            )
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_sbox(t: __m128i) -> (__m128i, __m128i, __m128i) {
            // The columns are the same, so that shifted rows are the rows.
            let s = _mm_aesenclast_si128(t, _mm_setzero_si128());
            (word_map(&U, s), word_map(&V, s), word_map(&W, s))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_plain_sbox(x: __m128i) -> __m128i {
            let t = word_map(&P_AND_P0, x);
            word_map(&S, _mm_aesenclast_si128(t, _mm_setzero_si128()))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_into_domain(x: __m128i) -> __m128i {
            word_map(&P, x)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_out_of_domain(x: __m128i) -> __m128i {
            word_map(&P_INVERSE, x)
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_map(tables: &[[u8; 16]; 2], x: __m128i) -> __m128i {
            let mask = _mm_set1_epi8(15);
            _mm_xor_si128(
                _mm_shuffle_epi8(load16(&tables[0]), _mm_and_si128(x, mask)),
                _mm_shuffle_epi8(load16(&tables[1]), _mm_and_si128(_mm_srli_epi16::<4>(x), mask)),
            )
        }
    };
}

/// AES on whole AVX2 registers (VAES), and two blocks at once for GHASH.
pub mod vaes {
    use std::arch::x86_64::*;

    use super::super::x86::avx2::*;
    use super::super::x86::vpclmulqdq::*;
    use super::super::x86::{load16, reverse16, store16};
    use super::*;

    by_aes!("avx2,aes,vaes,vpclmulqdq");
    kernel!("avx2,aes,vaes,vpclmulqdq", D.p0);
    ghash!("avx2,aes,vaes,vpclmulqdq");

    #[target_feature(enable = "avx2,vaes")]
    #[inline]
    fn aes(t: Vector) -> Vector {
        _mm256_aesenclast_epi128(t, _mm256_setzero_si256())
    }
}

/// AES on halves of AVX2 registers (AES-NI).
pub mod aes_avx2 {
    use std::arch::x86_64::*;

    use super::super::x86::avx2::*;
    use super::super::x86::pclmulqdq::*;
    use super::super::x86::{load16, reverse16, store16};
    use super::*;

    by_aes!("avx2,aes,pclmulqdq");
    kernel!("avx2,aes,pclmulqdq", D.p0);
    ghash!("avx2,aes,pclmulqdq");

    #[target_feature(enable = "avx2,aes")]
    #[inline]
    fn aes(t: Vector) -> Vector {
        let zero = _mm_setzero_si128();
        let low = _mm_aesenclast_si128(_mm256_castsi256_si128(t), zero);
        let high = _mm_aesenclast_si128(_mm256_extracti128_si256::<1>(t), zero);
        _mm256_set_m128i(high, low)
    }
}
