//! Kernels for processors that invert in GF(2^8) by one instruction (GFNI): no table at all.

use super::ghash::{GROUP, Powers, ghash, lengths};
use super::keys::RoundKeys;
use super::sliced::kernel;
use super::tables::{GFNI as D, gfni_matrix};

const P: i64 = gfni_matrix(&D.p);
const P_INVERSE: i64 = gfni_matrix(&D.p_inverse);
const U: i64 = gfni_matrix(&D.u);
const V: i64 = gfni_matrix(&D.v);
const W: i64 = gfni_matrix(&D.w);
const S: i64 = gfni_matrix(&D.s);
const P0: i32 = D.p0 as i32;
const U0: i32 = D.u0 as i32;
const V0: i32 = D.v0 as i32;
const W0: i32 = D.w0 as i32;
const S0: i32 = D.s0 as i32;

/// Words in an `__m128i`, the same in both kernels.
macro_rules! words {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn word_sbox(t: __m128i) -> (__m128i, __m128i, __m128i) {
            (
                _mm_gf2p8affineinv_epi64_epi8::<U0>(t, _mm_set1_epi64x(U)),
                _mm_gf2p8affineinv_epi64_epi8::<V0>(t, _mm_set1_epi64x(V)),
                _mm_gf2p8affineinv_epi64_epi8::<W0>(t, _mm_set1_epi64x(W)),
            )
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_plain_sbox(x: __m128i) -> __m128i {
            let t = _mm_gf2p8affine_epi64_epi8::<P0>(x, _mm_set1_epi64x(P));
            _mm_gf2p8affineinv_epi64_epi8::<S0>(t, _mm_set1_epi64x(S))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_into_domain(x: __m128i) -> __m128i {
            _mm_gf2p8affine_epi64_epi8::<0>(x, _mm_set1_epi64x(P))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn word_out_of_domain(x: __m128i) -> __m128i {
            _mm_gf2p8affine_epi64_epi8::<0>(x, _mm_set1_epi64x(P_INVERSE))
        }
    };
}

/// Registers of 64 bytes.
pub mod avx512 {
    use std::arch::x86_64::*;

    use super::super::x86::{load16, reverse16, store16};
    use super::*;

    const LANES: usize = 4;
    type Vector = __m512i;

    words!("avx512f,avx512bw,avx512vl,gfni,vpclmulqdq");
    kernel!("avx512f,avx512bw,avx512vl,gfni,vpclmulqdq", P0);
    ghash!("avx512f,avx512bw,avx512vl,gfni,vpclmulqdq");

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn load(bytes: &[u8; 64]) -> Vector {
        // SAFETY: the reference covers the 64 bytes that are read; no alignment is asked for.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn store(bytes: &mut [u8; 64], x: Vector) {
        // SAFETY: the reference covers the 64 bytes that are written; no alignment is asked for.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), x) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn splat(word: u32) -> Vector {
        _mm512_set1_epi32(word as i32)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn xor(a: Vector, b: Vector) -> Vector {
        _mm512_xor_si512(a, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm512_ternarylogic_epi32::<0x96>(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn splat_byte(byte: u8) -> Vector {
        _mm512_set1_epi8(byte as i8)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn add(a: Vector, b: Vector) -> Vector {
        _mm512_add_epi8(a, b)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn if_less(a: Vector, b: Vector, less: Vector, not: Vector) -> Vector {
        _mm512_mask_blend_epi8(_mm512_cmplt_epu8_mask(a, b), not, less)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn unpack(a: Vector, b: Vector) -> (Vector, Vector) {
        (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b))
    }

    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn sbox(t: Vector) -> (Vector, Vector) {
        (
            _mm512_gf2p8affineinv_epi64_epi8::<U0>(t, _mm512_set1_epi64(U)),
            _mm512_gf2p8affineinv_epi64_epi8::<W0>(t, _mm512_set1_epi64(W)),
        )
    }

    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn into_domain(x: Vector) -> Vector {
        _mm512_gf2p8affine_epi64_epi8::<0>(x, _mm512_set1_epi64(P))
    }

    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    #[inline]
    fn out_of_domain(x: Vector) -> Vector {
        _mm512_gf2p8affine_epi64_epi8::<0>(x, _mm512_set1_epi64(P_INVERSE))
    }

    const HASH_LANES: usize = 4;
    type Hash = __m512i;

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn hash_load(blocks: &[[u8; 16]; 4]) -> Hash {
        // SAFETY: the reference covers the 64 bytes that are read; no alignment is asked for.
        unsafe { _mm512_loadu_si512(blocks.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn hash_splat(x: u64) -> Hash {
        _mm512_set1_epi64(x as i64)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn reverse(x: Hash) -> Hash {
        _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn swap(x: Hash) -> Hash {
        _mm512_shuffle_epi32::<0x4e>(x)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn hash_xor(a: Hash, b: Hash) -> Hash {
        xor(a, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn hash_xor3(a: Hash, b: Hash, c: Hash) -> Hash {
        xor3(a, b, c)
    }

    #[target_feature(enable = "avx512f,vpclmulqdq")]
    #[inline]
    fn clmul<const HALVES: i32>(a: Hash, b: Hash) -> Hash {
        _mm512_clmulepi64_epi128::<HALVES>(a, b)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn widen(x: __m128i) -> Hash {
        _mm512_zextsi128_si512(x)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn narrow(x: Hash) -> __m128i {
        let x = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
        _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
    }
}

/// Registers of 32 bytes.
pub mod avx2 {
    use std::arch::x86_64::*;

    use super::super::x86::avx2::*;
    use super::super::x86::vpclmulqdq::*;
    use super::super::x86::{load16, reverse16, store16};
    use super::*;

    words!("avx2,gfni,vpclmulqdq");
    kernel!("avx2,gfni,vpclmulqdq", P0);
    ghash!("avx2,gfni,vpclmulqdq");

    #[target_feature(enable = "avx2,gfni")]
    #[inline]
    fn sbox(t: Vector) -> (Vector, Vector) {
        (
            _mm256_gf2p8affineinv_epi64_epi8::<U0>(t, _mm256_set1_epi64x(U)),
            _mm256_gf2p8affineinv_epi64_epi8::<W0>(t, _mm256_set1_epi64x(W)),
        )
    }

    #[target_feature(enable = "avx2,gfni")]
    #[inline]
    fn into_domain(x: Vector) -> Vector {
        _mm256_gf2p8affine_epi64_epi8::<0>(x, _mm256_set1_epi64x(P))
    }

    #[target_feature(enable = "avx2,gfni")]
    #[inline]
    fn out_of_domain(x: Vector) -> Vector {
        _mm256_gf2p8affine_epi64_epi8::<0>(x, _mm256_set1_epi64x(P_INVERSE))
    }
}
