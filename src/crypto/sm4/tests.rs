//! Every kernel that this processor has, against the standards' vectors, and the `sm4` and `aes-gcm` crates as the
//! oracle.

use ::sm4::cipher::consts::U12;
use std::mem::ManuallyDrop;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, AesGcm};
use proptest::prelude::*;

use super::ghash::GROUP;
use super::*;

const KEY: [u8; 16] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10];

/// `count` blocks of keystream by the `sm4` crate.
fn oracle_ctr(key: &[u8; 16], nonce: &[u8; 12], counter: u32, count: u32) -> Vec<u8> {
    let cipher = ::sm4::Sm4::new(key.into());
    (0..count)
        .flat_map(|i| {
            let mut block = [0; 16];
            block[..12].copy_from_slice(nonce);
            block[12..].copy_from_slice(&counter.wrapping_add(i).to_be_bytes());
            let mut block = block.into();
            BlockCipherEncrypt::encrypt_block(&cipher, &mut block);
            <[u8; 16]>::from(block)
        })
        .collect()
}

fn oracle_seal(key: &[u8; 16], nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; 16] {
    AesGcm::<::sm4::Sm4, U12>::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(data))
        .expect("short enough")
        .into()
}

/// Bytes that look random, the same each time.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("as many bytes")
}

#[test]
fn the_fastest_is_the_first_and_the_bitsliced_is_everywhere() {
    let all: Vec<Kernel> = Kernel::available().collect();
    assert_eq!(all[0], Kernel::fastest());
    assert_eq!(all.last().expect("one at least").name(), "bitsliced");
}

/// GB/T 32907-2016 A.1.
#[test]
fn gbt32907_a1() {
    for kernel in Kernel::available() {
        let sealed = Sm4::with_kernel(kernel, &KEY).encrypt(&KEY);
        assert_eq!(hex::encode(sealed), "681edf34d206965e86b3e94f536e4246", "{kernel:?}");
    }
}

/// GB/T 32907-2016 A.2: a million encryptions.
#[test]
fn gbt32907_a2() {
    for kernel in Kernel::available() {
        let cipher = Sm4::with_kernel(kernel, &KEY);
        let sealed = (0..1_000_000).fold(KEY, |block, _| cipher.encrypt(&block));
        assert_eq!(hex::encode(sealed), "595298c7c6fd271f0402f804c33d3f66", "{kernel:?}");
    }
}

/// RFC 8998 A.1.
#[test]
fn rfc8998_a1() {
    let nonce = array(&hex::decode("00001234567800000000abcd").expect("hex"));
    let aad = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").expect("hex");
    let plain = [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xee, 0xaa].map(|byte| [byte; 8]).concat();
    for kernel in Kernel::available() {
        let gcm = Sm4Gcm::with_kernel(kernel, &KEY);
        let mut data = plain.clone();
        let tag = gcm.seal(&nonce, &aad, &mut data);
        assert_eq!(
            hex::encode(&data),
            "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d",
            "{kernel:?}"
        );
        assert_eq!(hex::encode(tag), "83de3541e4c2b58177e065a9bf7b62ec", "{kernel:?}");
        assert_eq!(gcm.open(&nonce, &aad, &tag, &mut data), Ok(()), "{kernel:?}");
        assert_eq!(data, plain, "{kernel:?}");
    }
}

/// More than a million blocks in counter mode, under 18 keys.
#[test]
fn keystreams_are_the_oracles() {
    const BLOCKS: u32 = 60_000;
    for seed in 1..=18 {
        let (key, nonce) = (array(&noise(16, seed)), array(&noise(12, seed + 100)));
        let expected = oracle_ctr(&key, &nonce, seed as u32, BLOCKS);
        for kernel in Kernel::available() {
            let mut stream = vec![0; 16 * BLOCKS as usize];
            Sm4::with_kernel(kernel, &key).ctr(&nonce, seed as u32, &mut stream);
            assert!(stream == expected, "{kernel:?}, seed {seed}");
        }
    }
}

/// Every byte value at every place of a block, through the way of a single block.
#[test]
fn single_blocks_are_the_oracles() {
    let oracle = ::sm4::Sm4::new(&KEY.into());
    for kernel in Kernel::available() {
        let cipher = Sm4::with_kernel(kernel, &KEY);
        for at in 0..16 {
            for byte in 0..=255 {
                let mut block: [u8; 16] = array(&noise(16, 7));
                block[at] = byte;
                let mut expected = block.into();
                BlockCipherEncrypt::encrypt_block(&oracle, &mut expected);
                assert_eq!(cipher.encrypt(&block), <[u8; 16]>::from(expected), "{kernel:?}");
            }
        }
    }
}

/// The counter has 32 bits and does not touch the nonce (NIST SP 800-38D section 6.2).
#[test]
fn the_counter_carries_and_wraps() {
    let nonce = [0xff; 12];
    for edge in [0x100, 0x1_0000, 0x100_0000, 0] {
        for before in [1, 15, 31, 32, 33, 63, 64, 65, 100, 127, 128, 200, 256, 300] {
            let counter = 0u32.wrapping_add(edge).wrapping_sub(before);
            let expected = oracle_ctr(&KEY, &nonce, counter, 400);
            for kernel in Kernel::available() {
                let mut stream = vec![0; 16 * 400];
                Sm4::with_kernel(kernel, &KEY).ctr(&nonce, counter, &mut stream);
                assert!(stream == expected, "{kernel:?}, counter {counter:#x}");
            }
        }
    }
}

/// Around every edge of blocks, groups of GHASH and batches, at an odd address.
#[test]
fn all_lengths_are_the_oracles() {
    let lengths = (0..300).chain((300..4400).filter(|len| len % 16 <= 1 || len % 16 == 15));
    for len in lengths {
        let aad = noise(len % 67, 3);
        let nonce = array(&noise(12, len as u64));
        let plain = noise(len, 5);
        let mut expected = plain.clone();
        let tag = oracle_seal(&KEY, &nonce, &aad, &mut expected);
        for kernel in Kernel::available() {
            let gcm = Sm4Gcm::with_kernel(kernel, &KEY);
            let mut buffer = vec![0xee; len + 2];
            let data = &mut buffer[1..=len];
            data.copy_from_slice(&plain);
            assert_eq!(gcm.seal(&nonce, &aad, data), tag, "{kernel:?}, {len} bytes");
            assert_eq!(data, expected, "{kernel:?}, {len} bytes");
            assert_eq!(gcm.open(&nonce, &aad, &tag, data), Ok(()), "{kernel:?}, {len} bytes");
            assert_eq!(data, plain, "{kernel:?}, {len} bytes");
            assert_eq!((buffer[0], buffer[len + 1]), (0xee, 0xee), "{kernel:?}, {len} bytes");
        }
    }
}

proptest! {
    #[test]
    fn gcm_is_the_oracles_and_forgeries_fail(
        key in any::<[u8; 16]>(), nonce in any::<[u8; 12]>(), aad in proptest::collection::vec(any::<u8>(), 0..1200),
        plain in proptest::collection::vec(any::<u8>(), 0..9000), at in any::<usize>(), bit in 0..8u8,
    ) {
        let mut expected = plain.clone();
        let tag = oracle_seal(&key, &nonce, &aad, &mut expected);
        for kernel in Kernel::available() {
            let gcm = Sm4Gcm::with_kernel(kernel, &key);
            let mut data = plain.clone();
            prop_assert_eq!(gcm.seal(&nonce, &aad, &mut data), tag);
            prop_assert_eq!(&data, &expected);

            let mut forged = tag;
            forged[at % 16] ^= 1 << bit;
            prop_assert_eq!(gcm.open(&nonce, &aad, &forged, &mut data), Err(Unverified));
            let mut other = nonce;
            other[at % 12] ^= 1 << bit;
            prop_assert_eq!(gcm.open(&other, &aad, &tag, &mut data), Err(Unverified));
            let mut longer = aad.clone();
            longer.push(0);
            prop_assert_eq!(gcm.open(&nonce, &longer, &tag, &mut data), Err(Unverified));
            if !aad.is_empty() {
                let mut other = aad.clone();
                other[at % aad.len()] ^= 1 << bit;
                prop_assert_eq!(gcm.open(&nonce, &other, &tag, &mut data), Err(Unverified));
            }
            // What does not verify stays as it is.
            prop_assert_eq!(&data, &expected);
            if !data.is_empty() {
                let at = at % data.len();
                data[at] ^= 1 << bit;
                prop_assert_eq!(gcm.open(&nonce, &aad, &tag, &mut data), Err(Unverified));
                data[at] ^= 1 << bit;
            }
            prop_assert_eq!(gcm.open(&nonce, &aad, &tag, &mut data), Ok(()));
            prop_assert_eq!(&data, &plain);
        }
    }
}

#[test]
fn keys_are_wiped_and_not_shown() {
    for kernel in Kernel::available() {
        let mut gcm = ManuallyDrop::new(*Sm4Gcm::with_kernel(kernel, &KEY));
        assert_eq!((format!("{:?}", *gcm), format!("{:?}", gcm.cipher)), ("Sm4Gcm".into(), "Sm4".into()));
        assert!(gcm.cipher.keys.words[0] != 0 && gcm.powers.0[GROUP - 1] != [0; 16]);
        // SAFETY: dropped once. What is read afterwards are arrays of numbers, which stay what they are.
        unsafe { ManuallyDrop::drop(&mut gcm) };
        assert!(gcm.cipher.keys.words.iter().chain(gcm.cipher.keys.bytes.as_flattened()).all(|&word| word == 0));
        assert!(gcm.powers.0.as_flattened().iter().all(|&byte| byte == 0));
    }
}
