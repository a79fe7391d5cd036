//! Constants of the kernels, all computed by the compiler from the field polynomials of the standards.
//!
//! SM4's S-box is S(x) = A·I(A·x + c) + c: I inverts in GF(2^8) modulo x^8+x^7+x^6+x^5+x^4+x^2+1, A is a circulant bit
//! matrix. All fields of 256 elements are isomorphic, so I can be computed in another one, by what inverts there: the
//! processor's AES or GFNI instructions, or logic over a tower of small fields. With φ the isomorphism into that field,
//! the kernels keep every byte x of the cipher's state as P·x, P = φ·A, since P commutes with exclusive or; round keys
//! have P·x + φ(c). Then a byte t that enters the S-box gives j = inverse of t, and what the round needs is
//!
//! - u = P·A0·S = U·j + u0, with A0·b = b + (b << 2),
//! - w = P·A3·S = W·j + w0, with A3·b = b + (b >> 6),
//!
//! because of the linear layer L: with bytes numbered from the most significant, byte i of L(b) is the sum of all u and
//! w, plus w of byte i, plus u of byte i - 1.

/// A linear map of bytes: bit i of the image is the parity of `rows[i] & x`.
pub type Matrix = [u8; 8];

const SM4_FIELD: u16 = 0x1f5;
const AES_FIELD: u16 = 0x11b;

/// A of SM4's S-box: row i is 0xa7 rotated by i.
const A: Matrix = circulant(0xa7);
/// c of SM4's S-box.
const C: u8 = 0xd3;
/// M of AES's S-box Sa(x) = M·J(x) + 0x63 (FIPS 197 section 5.1.1).
const AES_M: Matrix = circulant(0xf1);
const AES_C: u8 = 0x63;

const IDENTITY: Matrix = [1, 2, 4, 8, 16, 32, 64, 128];

/// b + (b << 2)
const A0: Matrix = [1, 2, 4 | 1, 8 | 2, 16 | 4, 32 | 8, 64 | 16, 128 | 32];
/// b + (b >> 6)
const A3: Matrix = [1 | 64, 2 | 128, 4, 8, 16, 32, 64, 128];

const A0_AND_A3: Matrix = {
    let (mut m, mut i) = (A0, 0);
    while i < 8 {
        m[i] ^= A3[i];
        i += 1;
    }
    m
};

/// FK and CK of the key schedule (GB/T 32907-2016 section 7.3).
pub const FK: [u32; 4] = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];
pub const CK: [u32; 32] = {
    let mut ck = [0; 32];
    let mut i = 0;
    while i < 128 {
        ck[i / 4] = ck[i / 4] << 8 | (i as u32 * 7) & 0xff;
        i += 1;
    }
    ck
};

/// How a kernel inverts.
pub struct Domain {
    /// Into the domain, without a constant.
    pub p: Matrix,
    /// φ(c): belongs to round keys.
    pub p0: u8,
    /// Out of the domain.
    pub p_inverse: Matrix,
    /// From what the kernel's instruction gives, the inverse or AES's S-box of it, to u.
    pub u: Matrix,
    pub u0: u8,
    /// To w.
    pub w: Matrix,
    pub w0: u8,
    /// To u + w.
    pub v: Matrix,
    pub v0: u8,
    /// To S itself, outside of the domain: for the key schedule.
    pub s: Matrix,
    pub s0: u8,
}

/// For the instruction that inverts in AES's field.
pub const GFNI: Domain = domain(isomorphism(Field::Aes), IDENTITY, 0);
/// For the instruction that applies AES's S-box.
pub const AES: Domain = domain(isomorphism(Field::Aes), inverse(AES_M), AES_C);
/// For logic over the tower of fields.
pub const TOWER: Domain = domain(isomorphism(Field::Tower), IDENTITY, 0);

/// `phi` is the isomorphism; the kernel computes s with inverse = `after`·(s + `after0`).
const fn domain(phi: Matrix, after: Matrix, after0: u8) -> Domain {
    let p = product(&phi, &A);
    // S = A·φ⁻¹·after·(s + after0) + c
    let s = product(&product(&A, &inverse(phi)), &after);
    let s0 = apply(&s, after0) ^ C;
    let (pa0, pa3, both) = (product(&p, &A0), product(&p, &A3), product(&p, &A0_AND_A3));
    Domain {
        p,
        p0: apply(&phi, C),
        p_inverse: inverse(p),
        u: product(&pa0, &s),
        u0: apply(&pa0, s0),
        w: product(&pa3, &s),
        w0: apply(&pa3, s0),
        v: product(&both, &s),
        v0: apply(&both, s0),
        s,
        s0,
    }
}

/// The matrix as `gf2p8affineqb` wants it: the row of bit 7 in the lowest byte.
pub const fn gfni_matrix(m: &Matrix) -> i64 {
    i64::from_be_bytes(*m)
}

/// x ↦ m·x + c as two tables of 16: of the low nibble, with c in it, and of the high one.
pub const fn nibble_tables(m: &Matrix, c: u8) -> [[u8; 16]; 2] {
    let mut tables = [[0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        tables[0][i] = apply(m, i as u8) ^ c;
        tables[1][i] = apply(m, (i as u8) << 4);
        i += 1;
    }
    tables
}

/// Four times four bits to four bits: row i of λ·v² over GF(2^4), for the tower's inversion.
pub const LAMBDA_SQUARED: [u8; 4] = {
    let mut rows = [0; 4];
    let mut j = 0;
    while j < 4 {
        let image = mul16(LAMBDA, mul16(1 << j, 1 << j));
        let mut i = 0;
        while i < 4 {
            rows[i] |= (image >> i & 1) << j;
            i += 1;
        }
        j += 1;
    }
    rows
};

#[derive(Clone, Copy)]
enum Field {
    Aes,
    Tower,
}

const fn mul(field: Field, a: u8, b: u8) -> u8 {
    match field {
        Field::Aes => mul_mod(a, b, AES_FIELD),
        Field::Tower => mul_tower(a, b),
    }
}

const fn mul_mod(a: u8, b: u8, modulus: u16) -> u8 {
    let (mut a, mut b, mut product) = (a as u16, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= modulus;
        }
        b >>= 1;
    }
    product as u8
}

/// GF(4), w² = w + 1.
const fn mul4(a: u8, b: u8) -> u8 {
    let (a1, a0, b1, b0) = (a >> 1, a & 1, b >> 1, b & 1);
    (a1 & b1 ^ a1 & b0 ^ a0 & b1) << 1 | (a0 & b0 ^ a1 & b1)
}

/// GF(16) over it, x² = x + w.
const fn mul16(a: u8, b: u8) -> u8 {
    let (a1, a0, b1, b0) = (a >> 2, a & 3, b >> 2, b & 3);
    let high = mul4(a1, b1);
    (high ^ mul4(a1, b0) ^ mul4(a0, b1)) << 2 | (mul4(a0, b0) ^ mul4(2, high))
}

/// y² = y + λ; has no root in GF(16), or [`isomorphism`] would find none.
const LAMBDA: u8 = 0x8;

/// GF(256) over it.
const fn mul_tower(a: u8, b: u8) -> u8 {
    let (a1, a0, b1, b0) = (a >> 4, a & 15, b >> 4, b & 15);
    let high = mul16(a1, b1);
    (high ^ mul16(a1, b0) ^ mul16(a0, b1)) << 4 | (mul16(a0, b0) ^ mul16(LAMBDA, high))
}

/// From SM4's field: x^i goes to r^i, r a root of SM4's polynomial.
const fn isomorphism(to: Field) -> Matrix {
    let mut r = 2;
    loop {
        let (mut power, mut sum, mut i) = (1, 0, 0);
        let mut columns = [0; 8];
        while i <= 8 {
            if i < 8 {
                columns[i] = power;
            }
            if SM4_FIELD >> i & 1 != 0 {
                sum ^= power;
            }
            power = mul(to, power, r);
            i += 1;
        }
        if sum == 0 {
            return transposed(&columns);
        }
        assert!(r < 255, "fields of 256 elements are isomorphic");
        r += 1;
    }
}

const fn circulant(first: u8) -> Matrix {
    let mut m = [0; 8];
    let mut i = 0;
    while i < 8 {
        m[i] = first.rotate_left(i as u32);
        i += 1;
    }
    m
}

pub const fn apply(m: &Matrix, x: u8) -> u8 {
    let (mut y, mut i) = (0, 0);
    while i < 8 {
        y |= ((m[i] & x).count_ones() as u8 & 1) << i;
        i += 1;
    }
    y
}

const fn transposed(m: &Matrix) -> Matrix {
    let mut t = [0; 8];
    let mut i = 0;
    while i < 64 {
        t[i % 8] |= (m[i / 8] >> (i % 8) & 1) << (i / 8);
        i += 1;
    }
    t
}

/// a·b: first b, then a.
const fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let columns = transposed(b);
    let mut images = [0; 8];
    let mut i = 0;
    while i < 8 {
        images[i] = apply(a, columns[i]);
        i += 1;
    }
    transposed(&images)
}

/// By the powers of `m`: one of them is the identity.
const fn inverse(m: Matrix) -> Matrix {
    let mut power = IDENTITY;
    loop {
        let next = product(&power, &m);
        if u64::from_le_bytes(next) == u64::from_le_bytes(IDENTITY) {
            return power;
        }
        power = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invert(mul: impl Fn(u8, u8) -> u8, x: u8) -> u8 {
        (0..=255).find(|&y| mul(x, y) == 1).unwrap_or(0)
    }

    fn sbox(x: u8) -> u8 {
        apply(&A, invert(|a, b| mul_mod(a, b, SM4_FIELD), apply(&A, x) ^ C)) ^ C
    }

    /// Corners of the table in GB/T 32907-2016 section 6.2; the whole of it is compared through every kernel.
    #[test]
    fn the_sbox_is_the_standards() {
        assert_eq!([sbox(0), sbox(0x0f), sbox(0xf0), sbox(0xef), sbox(0xff)], [0xd6, 0x05, 0x18, 0x84, 0x48]);
    }

    #[test]
    fn every_domain_computes_the_sbox_and_the_linear_layer() {
        let in_aes = |x| invert(|a, b| mul(Field::Aes, a, b), x);
        let in_tower = |x| invert(mul_tower, x);
        let aes_sbox = |x| apply(&AES_M, in_aes(x)) ^ AES_C;
        assert_eq!([aes_sbox(0), aes_sbox(0x53)], [0x63, 0xed]);
        for (domain, inverse) in [(GFNI, &in_aes as &dyn Fn(u8) -> u8), (AES, &aes_sbox), (TOWER, &in_tower)] {
            for x in 0..=255 {
                let b = sbox(x);
                let j = inverse(apply(&domain.p, x) ^ domain.p0);
                assert_eq!(apply(&domain.p_inverse, apply(&domain.p, x)), x);
                assert_eq!(apply(&domain.s, j) ^ domain.s0, b);
                assert_eq!(apply(&domain.u, j) ^ domain.u0, apply(&domain.p, b ^ b << 2));
                assert_eq!(apply(&domain.w, j) ^ domain.w0, apply(&domain.p, b ^ b >> 6));
                assert_eq!(apply(&domain.v, j) ^ domain.v0, apply(&domain.p, b.rotate_left(2)));
                let [low, high] = nibble_tables(&domain.u, domain.u0);
                assert_eq!(low[j as usize & 15] ^ high[j as usize >> 4], apply(&domain.u, j) ^ domain.u0);
            }
        }
    }
}
