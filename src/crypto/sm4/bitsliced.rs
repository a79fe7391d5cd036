//! The kernel without processor features: logic on bits alone, so no look-up and no branch depends on a secret.
//!
//! The S-box inverts in GF(((2^2)^2)^2) by exclusive or and and. For counter mode a word holds the same bit of many
//! blocks; for a single block it holds one bit of each byte.

use std::ops::{BitAnd, BitXor};

use super::keys::RoundKeys;
use super::tables::{LAMBDA_SQUARED, TOWER as D};

/// Blocks that counter mode encrypts at once: one for each bit of a word.
const BLOCKS: usize = 64;
const BATCH: usize = 16 * BLOCKS;

/// One bit of each of some bytes.
trait Bits: Copy + BitXor<Output = Self> + BitAnd<Output = Self> {}

impl Bits for u32 {}
impl Bits for u64 {}

/// The bits of some bytes, the lowest first.
type Bytes<B> = [B; 8];

/// The sum of the bits that `ROW` has.
#[inline(always)]
fn row<const ROW: u8, B: Bits>(x: &[B]) -> B {
    let mut sum = None;
    macro_rules! terms {
        ($($i:literal)*) => { $(
            if ROW >> $i & 1 != 0 {
                sum = Some(sum.map_or(x[$i], |sum| sum ^ x[$i]));
            }
        )* };
    }
    terms!(0 1 2 3 4 5 6 7);
    sum.expect("no row is empty in a matrix that can be inverted")
}

/// m·x, without a trace of m at run time.
macro_rules! map {
    ($m:expr, $x:expr) => {{
        let x = $x;
        [
            row::<{ $m[0] }, _>(&x),
            row::<{ $m[1] }, _>(&x),
            row::<{ $m[2] }, _>(&x),
            row::<{ $m[3] }, _>(&x),
            row::<{ $m[4] }, _>(&x),
            row::<{ $m[5] }, _>(&x),
            row::<{ $m[6] }, _>(&x),
            row::<{ $m[7] }, _>(&x),
        ]
    }};
}

pub fn expand(key: &[u8; 16], keys: &mut RoundKeys) {
    keys.expand(
        key,
        |x| {
            let t = add(map!(D.p, bits_of(x)), D.p0, ONES);
            word_of(add(map!(D.s, invert(t)), D.s0, ONES))
        },
        |x| word_of(add(map!(D.p, bits_of(x)), D.p0, ONES)),
    );
}

pub fn encrypt_block(keys: &RoundKeys, block: &[u8; 16]) -> [u8; 16] {
    let words = block.as_chunks().0;
    let into = |i: usize| word_of(map!(D.p, bits_of(u32::from_le_bytes(words[i]))));
    let mut x = [into(0), into(1), into(2), into(3)];
    for &key in &keys.words {
        let j = invert(bits_of(x[1] ^ x[2] ^ x[3] ^ key));
        let u = word_of(add(map!(D.u, j), D.u0, ONES));
        let w = word_of(add(map!(D.w, j), D.w0, ONES));
        // Byte i of the word is the i-th from the bottom here: it takes byte i+1, i+2, i+3.
        let v = u ^ w;
        let next = x[0] ^ u ^ v.rotate_right(8) ^ v.rotate_right(16) ^ w.rotate_right(24);
        x = [x[1], x[2], x[3], next];
    }
    let mut out = [0; 16];
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x.into_iter().rev()) {
        *out = word_of(map!(D.p_inverse, bits_of(x))).to_le_bytes();
    }
    out
}

/// The lowest bit of each byte of a word.
const ONES: u32 = 0x0101_0101;

#[inline(always)]
fn bits_of(x: u32) -> Bytes<u32> {
    std::array::from_fn(|i| x >> i & ONES)
}

#[inline(always)]
fn word_of(bits: Bytes<u32>) -> u32 {
    (0..8).fold(0, |x, i| x | bits[i] << i)
}

/// The data xored with the keystream of the blocks that begin with `nonce` and a counter from `counter` on.
pub fn ctr(keys: &RoundKeys, nonce: &[u8; 12], mut counter: u32, data: &mut [u8]) {
    for data in data.chunks_mut(BATCH) {
        let x = rounds(keys, input(nonce, counter));
        output(&x, data);
        counter = counter.wrapping_add(BLOCKS as u32);
    }
}

type State = [[Bytes<u64>; 4]; 4];

/// Bit i of the number of each block in a batch.
const INDEX: [u64; 6] = [
    0xaaaa_aaaa_aaaa_aaaa,
    0xcccc_cccc_cccc_cccc,
    0xf0f0_f0f0_f0f0_f0f0,
    0xff00_ff00_ff00_ff00,
    0xffff_0000_ffff_0000,
    0xffff_ffff_0000_0000,
];

fn input(nonce: &[u8; 12], counter: u32) -> State {
    let mut x = [[[0; 8]; 4]; 4];
    for (at, &byte) in nonce.iter().enumerate() {
        x[at / 4][at % 4] = add([0; 8], byte, u64::MAX);
    }
    // An addition bit by bit, for all blocks at once.
    let mut carry = 0;
    for i in 0..32 {
        let (counter, index) = (0u64.wrapping_sub(u64::from(counter >> i & 1)), INDEX.get(i).copied().unwrap_or(0));
        x[3][3 - i / 8][i % 8] = counter ^ index ^ carry;
        carry = counter & index | carry & (counter ^ index);
    }
    x.map(|word| word.map(|byte| map!(D.p, byte)))
}

fn rounds(keys: &RoundKeys, mut x: State) -> State {
    for keys in keys.bytes.as_chunks::<4>().0 {
        for (i, key) in keys.iter().enumerate() {
            let [b, c, d] = [1, 2, 3].map(|next| (i + next) % 4);
            let mut u = [[0; 8]; 4];
            let mut z = [[0; 8]; 4];
            for at in 0..4 {
                let t = std::array::from_fn(|bit| {
                    let key = 0u64.wrapping_sub(u64::from((key[at] >> bit) & 1));
                    x[b][at][bit] ^ x[c][at][bit] ^ x[d][at][bit] ^ key
                });
                sbox(&t, &mut u[at], &mut z[at]);
            }
            for bit in 0..8 {
                // As in `tables`: w of the byte and u of the one before; all of them.
                let z: [u64; 4] = std::array::from_fn(|at| z[at][bit] ^ u[(at + 3) % 4][bit]);
                let all = z[0] ^ z[1] ^ z[2] ^ z[3];
                for (at, z) in z.into_iter().enumerate() {
                    x[i][at][bit] ^= z ^ all;
                }
            }
        }
    }
    x
}

#[inline(never)]
fn sbox(t: &Bytes<u64>, u: &mut Bytes<u64>, w: &mut Bytes<u64>) {
    let j = invert(*t);
    *u = add(map!(D.u, j), D.u0, u64::MAX);
    *w = add(map!(D.w, j), D.w0, u64::MAX);
}

/// Over the data, which may end early.
fn output(x: &State, data: &mut [u8]) {
    for at in 0..16 {
        let bits = map!(D.p_inverse, x[3 - at / 4][at % 4]);
        let out = data.get_mut(at..).unwrap_or_default().iter_mut().step_by(16);
        for (out, byte) in out.zip(transpose(bits)) {
            *out ^= byte;
        }
    }
}

/// Bit i of 64 bytes in word i, to the bytes.
#[inline]
fn transpose(mut x: [u64; 8]) -> [u8; 64] {
    // Squares of 1, 2 and 4 bits across the diagonals.
    for (step, mask) in [(1, 0x5555_5555_5555_5555), (2, 0x3333_3333_3333_3333), (4, 0x0f0f_0f0f_0f0f_0f0f)] {
        for i in (0..8).filter(|i| i & step == 0) {
            let swap = (x[i] >> step ^ x[i + step]) & mask;
            x[i] ^= swap << step;
            x[i + step] ^= swap;
        }
    }
    // Now byte b of word i is that of block 8b + i.
    let mut bytes = [0; 64];
    for (i, word) in x.into_iter().enumerate() {
        for (b, byte) in word.to_le_bytes().into_iter().enumerate() {
            bytes[8 * b + i] = byte;
        }
    }
    bytes
}

/// x + c, `ones` being a bit that is set in each byte.
#[inline(always)]
fn add<B: Bits>(x: Bytes<B>, c: u8, ones: B) -> Bytes<B> {
    std::array::from_fn(|i| if c >> i & 1 != 0 { x[i] ^ ones } else { x[i] })
}

/// In GF(256), a1·y + a0 with y² = y + λ: with d = λ·a1² + a1·a0 + a0², it is (a1·y + a1 + a0) / d.
#[inline(always)]
fn invert<B: Bits>([a, b, c, d, e, f, g, h]: Bytes<B>) -> Bytes<B> {
    let (low, high) = ([a, b, c, d], [e, f, g, h]);
    let scaled = [
        row::<{ LAMBDA_SQUARED[0] }, _>(&high),
        row::<{ LAMBDA_SQUARED[1] }, _>(&high),
        row::<{ LAMBDA_SQUARED[2] }, _>(&high),
        row::<{ LAMBDA_SQUARED[3] }, _>(&high),
    ];
    let norm = add16(add16(scaled, square16(low)), mul16(high, low));
    let inverse = invert16(norm);
    let [a, b, c, d] = mul16(add16(low, high), inverse);
    let [e, f, g, h] = mul16(high, inverse);
    [a, b, c, d, e, f, g, h]
}

/// In GF(16), a1·x + a0 with x² = x + w: with d = w·a1² + a1·a0 + a0², it is (a1·x + a1 + a0) / d.
#[inline(always)]
fn invert16<B: Bits>([a, b, c, d]: [B; 4]) -> [B; 4] {
    let (low, high) = ([a, b], [c, d]);
    let norm = add4(add4(times_w(square4(high)), square4(low)), mul4(high, low));
    // In GF(4) the inverse is the square.
    let inverse = square4(norm);
    let ([a, b], [c, d]) = (mul4(add4(low, high), inverse), mul4(high, inverse));
    [a, b, c, d]
}

#[inline(always)]
fn mul16<B: Bits>([a, b, c, d]: [B; 4], [e, f, g, h]: [B; 4]) -> [B; 4] {
    let (high, low) = (mul4([c, d], [g, h]), mul4([a, b], [e, f]));
    let both = mul4([a ^ c, b ^ d], [e ^ g, f ^ h]);
    let ([a, b], [c, d]) = (add4(low, times_w(high)), add4(both, low));
    [a, b, c, d]
}

#[inline(always)]
fn square16<B: Bits>([a, b, c, d]: [B; 4]) -> [B; 4] {
    let (low, high) = (square4([a, b]), square4([c, d]));
    let [a, b] = add4(low, times_w(high));
    [a, b, high[0], high[1]]
}

#[inline(always)]
fn add16<B: Bits>(x: [B; 4], y: [B; 4]) -> [B; 4] {
    std::array::from_fn(|i| x[i] ^ y[i])
}

/// GF(4), w² = w + 1.
#[inline(always)]
fn mul4<B: Bits>([a, b]: [B; 2], [c, d]: [B; 2]) -> [B; 2] {
    let (low, high) = (a & c, b & d);
    [low ^ high, ((a ^ b) & (c ^ d)) ^ low]
}

#[inline(always)]
fn square4<B: Bits>([a, b]: [B; 2]) -> [B; 2] {
    [a ^ b, b]
}

#[inline(always)]
fn times_w<B: Bits>([a, b]: [B; 2]) -> [B; 2] {
    [b, a ^ b]
}

#[inline(always)]
fn add4<B: Bits>([a, b]: [B; 2], [c, d]: [B; 2]) -> [B; 2] {
    [a ^ c, b ^ d]
}
