//! The kernels for x86-64, as text: each module brings its registers and its S-box and gets the functions below, all
//! compiled for its processor features, so that everything can be inlined.
//!
//! A register holds the same byte of many blocks: of `WIDTH` = 16 × its 128-bit lanes. The linear layer is then a
//! choice of registers, and counter mode makes its input that way without moving a byte. In lane l of `LANES`, byte p
//! belongs to block `LANES` × p + l; turning 16 registers of bytes into blocks, lane by lane, makes them contiguous.

/// What a module brings, for its `$features`:
/// - `Vector`, `LANES`; `splat` of a word, `load`, `store`, `xor`, `xor3`, `unpack` (bytes of the lower and upper halves
///   of lanes, interleaved), `add` of bytes, `if_less` (of bytes, which chooses the third or the fourth), `splat_byte`,
///   `sbox` (t to u and w), `into_domain`, `out_of_domain`;
/// - of an `__m128i`: `word_into_domain`, `word_out_of_domain`, and where its four words are the same: `word_sbox`, t to
///   u, u + w and w, and `word_plain_sbox`, S of bytes that are not in the domain;
/// - `$p0`, the constant of the domain for round keys.
macro_rules! kernel {
    ($features:literal, $p0:expr) => {
        /// Bytes of a register.
        const WIDTH: usize = 16 * LANES;
        /// Bytes of keystream that a batch gives.
        const BATCH: usize = 16 * WIDTH;
        /// Batches that are encrypted by turns.
        const TOGETHER: usize = 2;

        /// Which of a batch's blocks each byte of a register belongs to.
        const OFFSETS: [u8; WIDTH] = {
            let mut offsets = [0; WIDTH];
            let mut at = 0;
            while at < WIDTH {
                offsets[at] = (LANES * (at % 16) + at / 16) as u8;
                at += 1;
            }
            offsets
        };

        type State = [[Vector; 4]; 4];

        #[target_feature(enable = $features)]
        pub fn expand(key: &[u8; 16], keys: &mut RoundKeys) {
            keys.expand(
                key,
                |x| _mm_cvtsi128_si32(word_plain_sbox(_mm_set1_epi32(x as i32))) as u32,
                |x| {
                    _mm_cvtsi128_si32(word_into_domain(_mm_cvtsi32_si128(x as i32))) as u32 ^ ($p0 as u32 * 0x0101_0101)
                },
            );
        }

        #[target_feature(enable = $features)]
        pub fn encrypt_block(keys: &RoundKeys, block: &[u8; 16]) -> [u8; 16] {
            let mut x = words_of(block);
            for keys in keys.words.as_chunks().0 {
                x = four_rounds_of_words(keys, x);
            }
            block_of(x)
        }

        /// The words in the domain, each in all four places of its register.
        #[target_feature(enable = $features)]
        #[inline]
        fn words_of(block: &[u8; 16]) -> [__m128i; 4] {
            let x = word_into_domain(load16(block));
            [
                _mm_shuffle_epi32::<0x00>(x),
                _mm_shuffle_epi32::<0x55>(x),
                _mm_shuffle_epi32::<0xaa>(x),
                _mm_shuffle_epi32::<0xff>(x),
            ]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn block_of(x: [__m128i; 4]) -> [u8; 16] {
            let (high, low) = (_mm_unpacklo_epi32(x[3], x[2]), _mm_unpacklo_epi32(x[1], x[0]));
            store16(word_out_of_domain(_mm_unpacklo_epi64(high, low)))
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn four_rounds_of_words(keys: &[u32; 4], [a, b, c, d]: [__m128i; 4]) -> [__m128i; 4] {
            let with_key = |i: usize, x: __m128i| _mm_xor_si128(x, _mm_set1_epi32(keys[i] as i32));
            let t = _mm_xor_si128(with_key(0, _mm_xor_si128(b, c)), d);
            let (a, t) = round_of_words(t, a, with_key(1, _mm_xor_si128(c, d)));
            let (b, t) = round_of_words(t, b, with_key(2, _mm_xor_si128(d, a)));
            let (c, t) = round_of_words(t, c, with_key(3, _mm_xor_si128(a, b)));
            let (d, _) = round_of_words(t, d, c);
            [a, b, c, d]
        }

        /// From what enters the S-box, `t`, the new word in the place of `a`, and what enters the next S-box: `others`
        /// and that word. Both are summed in the order in which their terms come about, for a single block is a wait.
        #[target_feature(enable = $features)]
        #[inline]
        fn round_of_words(t: __m128i, a: __m128i, others: __m128i) -> (__m128i, __m128i) {
            let next = _mm_xor_si128(a, others);
            let (u, v, w) = word_sbox(t);
            // Byte i takes u of itself, v = u + w of byte i+1 and i+2, w of byte i+3.
            let v1 = _mm_shuffle_epi8(v, _mm_set1_epi32(0x0003_0201));
            let v2 = _mm_shuffle_epi8(v, _mm_set1_epi32(0x0100_0302));
            let w3 = _mm_shuffle_epi8(w, _mm_set1_epi32(0x0201_0003));
            let v = _mm_xor_si128(v1, v2);
            let sum = |x| _mm_xor_si128(v, _mm_xor_si128(w3, _mm_xor_si128(x, u)));
            (sum(a), sum(next))
        }

        /// The data xored with the keystream of the blocks that begin with `nonce` and a counter from `counter` on.
        #[target_feature(enable = $features)]
        pub fn ctr(keys: &RoundKeys, nonce: &[u8; 12], mut counter: u32, data: &mut [u8]) {
            let mut block = [0; 16];
            block[..12].copy_from_slice(nonce);
            let nonce = store16(word_into_domain(load16(&block)));
            let nonce: [u32; 12] = std::array::from_fn(|i| u32::from(nonce[i]) * 0x0101_0101);
            let (pairs, rest) = data.as_chunks_mut::<{ TOGETHER * BATCH }>();
            for pair in pairs {
                batches::<TOGETHER>(keys, &nonce, counter, pair.as_chunks_mut().0);
                counter = counter.wrapping_add((TOGETHER * WIDTH) as u32);
            }
            let (single, rest) = rest.as_chunks_mut::<BATCH>();
            for batch in &mut *single {
                batches::<1>(keys, &nonce, counter, std::slice::from_mut(batch));
                counter = counter.wrapping_add(WIDTH as u32);
            }
            if !rest.is_empty() {
                let mut batch = [0; BATCH];
                batch[..rest.len()].copy_from_slice(rest);
                batches::<1>(keys, &nonce, counter, std::slice::from_mut(&mut batch));
                rest.copy_from_slice(&batch[..rest.len()]);
            }
        }

        /// `N` batches, their rounds by turns: one alone leaves the processor waiting.
        ///
        /// # Panics
        /// If `data` has not `N` batches.
        #[target_feature(enable = $features)]
        fn batches<const N: usize>(keys: &RoundKeys, nonce: &[u32; 12], counter: u32, data: &mut [[u8; BATCH]]) {
            let data: &mut [_; N] = data.try_into().expect("as many batches as were asked for");
            let mut x = [[[splat(0); 4]; 4]; N];
            for (n, x) in x.iter_mut().enumerate() {
                *x = input(nonce, counter.wrapping_add((n * WIDTH) as u32));
            }
            for keys in keys.bytes.as_chunks::<4>().0 {
                for [a, b, c, d] in &mut x {
                    *a = round(&keys[0], *a, *b, *c, *d);
                }
                for [a, b, c, d] in &mut x {
                    *b = round(&keys[1], *b, *c, *d, *a);
                }
                for [a, b, c, d] in &mut x {
                    *c = round(&keys[2], *c, *d, *a, *b);
                }
                for [a, b, c, d] in &mut x {
                    *d = round(&keys[3], *d, *a, *b, *c);
                }
            }
            for (x, data) in x.iter().zip(data) {
                output(x, data);
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn input(nonce: &[u32; 12], counter: u32) -> State {
            let [high @ .., low] = counter.to_be_bytes();
            let carried = ((counter >> 8).wrapping_add(1) << 8).to_be_bytes();
            let start = splat_byte(low);
            let low = add(load(&OFFSETS), start);
            // Where the low byte has passed 255, the others are one more.
            let byte = |i: usize| into_domain(if_less(low, start, splat_byte(carried[i]), splat_byte(high[i])));
            let word = |i: usize| [splat(nonce[i]), splat(nonce[i + 1]), splat(nonce[i + 2]), splat(nonce[i + 3])];
            [word(0), word(4), word(8), [byte(0), byte(1), byte(2), into_domain(low)]]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn round(key: &[u32; 4], a: [Vector; 4], b: [Vector; 4], c: [Vector; 4], d: [Vector; 4]) -> [Vector; 4] {
            let (u0, w0) = sbox(xor3(xor(b[0], splat(key[0])), c[0], d[0]));
            let (u1, w1) = sbox(xor3(xor(b[1], splat(key[1])), c[1], d[1]));
            let (u2, w2) = sbox(xor3(xor(b[2], splat(key[2])), c[2], d[2]));
            let (u3, w3) = sbox(xor3(xor(b[3], splat(key[3])), c[3], d[3]));
            let (z0, z1, z2, z3) = (xor(w0, u3), xor(w1, u0), xor(w2, u1), xor(w3, u2));
            let all = xor(xor3(z0, z1, z2), z3);
            [xor3(a[0], z0, all), xor3(a[1], z1, all), xor3(a[2], z2, all), xor3(a[3], z3, all)]
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn turn(x: [Vector; 16]) -> [Vector; 16] {
            let [(a, b), (c, d), (e, f), (g, h)] =
                [unpack(x[0], x[8]), unpack(x[1], x[9]), unpack(x[2], x[10]), unpack(x[3], x[11])];
            let [(i, j), (k, l), (m, n), (o, p)] =
                [unpack(x[4], x[12]), unpack(x[5], x[13]), unpack(x[6], x[14]), unpack(x[7], x[15])];
            [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
        }

        /// Out of the domain, into blocks, over the data.
        #[target_feature(enable = $features)]
        #[inline]
        fn output([a, b, c, d]: &State, data: &mut [u8; BATCH]) {
            // The last word first (GB/T 32907-2016 section 7.1).
            let mut x =
                [d[0], d[1], d[2], d[3], c[0], c[1], c[2], c[3], b[0], b[1], b[2], b[3], a[0], a[1], a[2], a[3]];
            for x in &mut x {
                *x = out_of_domain(*x);
            }
            // Seen as an address, (register, byte of a lane) turns by one bit each time; four times exchange the two.
            let x = turn(turn(turn(turn(x))));
            for (x, data) in x.into_iter().zip(data.as_chunks_mut().0) {
                store(data, xor(load(data), x));
            }
        }
    };
}
pub(super) use kernel;
