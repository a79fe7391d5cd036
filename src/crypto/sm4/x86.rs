//! Registers of AVX2 and carry-less multiplication, shared by the kernels that have them.

use std::arch::x86_64::*;

#[inline]
pub fn load16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes that are read, no alignment is asked for, and x86-64 has SSE2.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
pub fn store16(x: __m128i) -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the array has the 16 bytes that are written, no alignment is asked for, and x86-64 has SSE2.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), x) };
    bytes
}

/// The bytes in the opposite order.
#[target_feature(enable = "ssse3")]
#[inline]
pub fn reverse16(x: __m128i) -> __m128i {
    _mm_shuffle_epi8(x, _mm_set_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f))
}

/// What `kernel!` asks for, but for the S-box.
pub mod avx2 {
    use super::*;

    pub const LANES: usize = 2;
    pub type Vector = __m256i;

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn load(bytes: &[u8; 32]) -> Vector {
        // SAFETY: the reference covers the 32 bytes that are read; no alignment is asked for.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn store(bytes: &mut [u8; 32], x: Vector) {
        // SAFETY: the reference covers the 32 bytes that are written; no alignment is asked for.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), x) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn splat(word: u32) -> Vector {
        _mm256_set1_epi32(word as i32)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn xor(a: Vector, b: Vector) -> Vector {
        _mm256_xor_si256(a, b)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn xor3(a: Vector, b: Vector, c: Vector) -> Vector {
        _mm256_xor_si256(_mm256_xor_si256(a, b), c)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn splat_byte(byte: u8) -> Vector {
        _mm256_set1_epi8(byte as i8)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn add(a: Vector, b: Vector) -> Vector {
        _mm256_add_epi8(a, b)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn if_less(a: Vector, b: Vector, less: Vector, not: Vector) -> Vector {
        _mm256_blendv_epi8(less, not, _mm256_cmpeq_epi8(_mm256_max_epu8(a, b), a))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn unpack(a: Vector, b: Vector) -> (Vector, Vector) {
        (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b))
    }
}

/// What `ghash!` asks for, two blocks in a register.
pub mod vpclmulqdq {
    use super::*;

    pub const HASH_LANES: usize = 2;
    pub type Hash = __m256i;

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn hash_load(blocks: &[[u8; 16]; 2]) -> Hash {
        // SAFETY: the reference covers the 32 bytes that are read; no alignment is asked for.
        unsafe { _mm256_loadu_si256(blocks.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn hash_splat(x: u64) -> Hash {
        _mm256_set1_epi64x(x as i64)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn reverse(x: Hash) -> Hash {
        let order = _mm_set_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f);
        _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn swap(x: Hash) -> Hash {
        _mm256_shuffle_epi32::<0x4e>(x)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn hash_xor(a: Hash, b: Hash) -> Hash {
        _mm256_xor_si256(a, b)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn hash_xor3(a: Hash, b: Hash, c: Hash) -> Hash {
        _mm256_xor_si256(_mm256_xor_si256(a, b), c)
    }

    #[target_feature(enable = "avx2,vpclmulqdq")]
    #[inline]
    pub fn clmul<const HALVES: i32>(a: Hash, b: Hash) -> Hash {
        _mm256_clmulepi64_epi128::<HALVES>(a, b)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn widen(x: __m128i) -> Hash {
        _mm256_zextsi128_si256(x)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn narrow(x: Hash) -> __m128i {
        _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x))
    }
}

/// What `ghash!` asks for, a block in a register.
pub mod pclmulqdq {
    use super::*;

    pub const HASH_LANES: usize = 1;
    pub type Hash = __m128i;

    #[inline]
    pub fn hash_load(blocks: &[[u8; 16]; 1]) -> Hash {
        load16(&blocks[0])
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn hash_splat(x: u64) -> Hash {
        _mm_set1_epi64x(x as i64)
    }

    #[target_feature(enable = "ssse3")]
    #[inline]
    pub fn reverse(x: Hash) -> Hash {
        reverse16(x)
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn swap(x: Hash) -> Hash {
        _mm_shuffle_epi32::<0x4e>(x)
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn hash_xor(a: Hash, b: Hash) -> Hash {
        _mm_xor_si128(a, b)
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    pub fn hash_xor3(a: Hash, b: Hash, c: Hash) -> Hash {
        _mm_xor_si128(_mm_xor_si128(a, b), c)
    }

    #[target_feature(enable = "pclmulqdq")]
    #[inline]
    pub fn clmul<const HALVES: i32>(a: Hash, b: Hash) -> Hash {
        _mm_clmulepi64_si128::<HALVES>(a, b)
    }

    #[inline]
    pub fn widen(x: __m128i) -> Hash {
        x
    }

    #[inline]
    pub fn narrow(x: Hash) -> __m128i {
        x
    }
}
