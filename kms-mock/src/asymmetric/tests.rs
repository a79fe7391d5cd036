//! The rooms of asymmetric keys against the standards and against OpenSSL's files in `tests/data/pki/`.

use super::*;
use crate::openssl::OpenSsl;

use AsymmetricSpec::{Rsa2048, Sm2};
use EncryptAlgorithm::{RsaOaepSha1, RsaOaepSha256, RsaPkcs1V15, Sm2Pke};
use SignAlgorithm::{RsaPkcs1Sha256, RsaPssSha256, Sm2Dsa};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/data/pki/", $name)).as_slice()
    };
}

const PLAIN: &[u8] = fixture!("plain.txt");

fn rsa_key() -> PrivateKey {
    PrivateKey::from_pkcs8_der(fixture!("rsa-2048.key.der")).unwrap()
}

fn sm2_key() -> PrivateKey {
    PrivateKey::from_pkcs8_der(fixture!("sm2.key.der")).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).unwrap()
}

/// The key of the examples in GB/T 32918.5, appendices A and C.
fn key_of_the_standard() -> PrivateKey {
    let d = bytes("3945208F 7B2144B1 3F36E38A C6D39F95 88939369 2860B51A 42FB81EF 4DF7C5B8");
    PrivateKey::Sm2(Box::new(sm2::SecretKey::from_slice(&d).unwrap()))
}

#[test]
fn sm3_gives_the_values_of_its_standard() {
    // GB/T 32905, appendix A.
    assert_eq!(hex::encode(sm3(b"abc")), "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0");
    let long = sm3("abcd".repeat(16).as_bytes());
    assert_eq!(hex::encode(long), "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732");
}

#[test]
fn hmac_sm3_gives_the_values_of_openssl() {
    // openssl dgst -sm3 -mac HMAC -macopt hexkey:…
    let short = hmac_sm3(&bytes("0102030405060708090a0b0c0d0e0f10"), b"abc");
    assert_eq!(hex::encode(short), "a673f5905a6f786cccead2c394198d6716fe523f3c70da9adfdb8abb2da88345");
    let text = hmac_sm3(b"key", b"a text");
    assert_eq!(hex::encode(text), "917704ad039207fd3d4a46ab4caf21d29ad241bf6c76a456d871a18b8ff11032");
}

#[test]
fn the_digest_and_signature_of_the_sm2_standard() {
    let public = key_of_the_standard().public();
    let digest = public.digest_of_message(b"message digest");
    let e = bytes("F0B43E94 BA45ACCA ACE692ED 534382EB 17E6AB5A 19CE7B31 F4486FDF C0D28640");
    assert_eq!(digest[..], e);
    let r = bytes("F5A03B06 48D2C463 0EEAC513 E1BB81A1 5944DA38 27D5B741 43AC7EAC EEE720B3");
    let s = bytes("B1B6AA29 DF212FD8 763182BC 0D421CA1 BB9038FD 1F7F42D4 840B69C4 85BBC1AA");
    let signature = [&bytes("3046 022100")[..], &r, &bytes("022100"), &s].concat();
    assert_eq!(public.verify(Sm2Dsa, &digest, &signature), Some(true));
}

#[test]
fn the_ciphertext_of_the_sm2_standard() {
    let x = bytes("04EBFC71 8E8D1798 62043226 8E77FEB6 415E2EDE 0E073C0F 4F640ECD 2E149A73");
    let y = bytes("E858F9D8 1E5430A5 7B36DAAB 8F950A3C 64E6EE6A 63094D99 283AFF76 7E124DF0");
    let hash = bytes("59983C18 F809E262 923C53AE C295D303 83B54E39 D609D160 AFCB1908 D0BD8766");
    let cipher = bytes("21886CA9 89CA9C7D 58087307 CA93092D 651EFA");
    let parts = [&bytes("307c 0220")[..], &x, &bytes("022100"), &y, &bytes("0420"), &hash, &bytes("0413"), &cipher];
    let plain = key_of_the_standard().decrypt(Sm2Pke, &parts.concat()).unwrap();
    assert_eq!(&plain[..], b"encryption standard");
}

#[test]
fn signatures_of_openssl_are_good() {
    let (rsa, sm2) = (rsa_key().public(), sm2_key().public());
    assert_eq!(Some(&rsa), PublicKey::from_spki_der(fixture!("rsa-2048.pub.der")).as_ref());
    assert_eq!(Some(&sm2), PublicKey::from_spki_der(fixture!("sm2.pub.der")).as_ref());
    let cases = [
        (&rsa, RsaPkcs1Sha256, fixture!("rsa-pkcs1-sha256.sig")),
        (&rsa, RsaPssSha256, fixture!("rsa-pss-sha256.sig")),
        (&sm2, Sm2Dsa, fixture!("sm2.sig.der")),
    ];
    for (key, algorithm, signature) in cases {
        let digest = key.digest_of_message(PLAIN);
        assert_eq!(key.verify(algorithm, &digest, signature), Some(true), "{algorithm:?}");
        assert_eq!(key.verify(algorithm, &[7; 32], signature), Some(false), "{algorithm:?}");
        assert_eq!(key.verify(algorithm, &digest, &signature[1..]), Some(false), "{algorithm:?}");
        assert_eq!(key.verify(algorithm, &digest, b""), Some(false), "{algorithm:?}");
    }
    let digest = rsa.digest_of_message(PLAIN);
    assert_eq!(rsa.verify(RsaPssSha256, &digest, fixture!("rsa-pkcs1-sha256.sig")), Some(false));
}

#[test]
fn ciphertexts_of_openssl_open() {
    let cases = [
        (rsa_key(), RsaOaepSha256, fixture!("rsa-oaep-sha256.enc")),
        (rsa_key(), RsaOaepSha1, fixture!("rsa-oaep-sha1.enc")),
        (rsa_key(), RsaPkcs1V15, fixture!("rsa-pkcs1.enc")),
        (sm2_key(), Sm2Pke, fixture!("sm2.enc.der")),
    ];
    for (key, algorithm, ciphertext) in cases {
        assert_eq!(&key.decrypt(algorithm, ciphertext).unwrap()[..], PLAIN, "{algorithm:?}");
        let mut broken = ciphertext.to_vec();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(key.decrypt(algorithm, &broken), Err(DecryptError::Padding), "{algorithm:?}");
        assert_eq!(key.decrypt(algorithm, &ciphertext[1..]), Err(DecryptError::Form), "{algorithm:?}");
        assert_eq!(key.decrypt(algorithm, b""), Err(DecryptError::Form), "{algorithm:?}");
    }
    let other_hash = rsa_key().decrypt(RsaOaepSha1, fixture!("rsa-oaep-sha256.enc"));
    assert_eq!(other_hash, Err(DecryptError::Padding));
}

#[test]
fn what_is_no_number_below_the_modulus_does_not_open() {
    for algorithm in [RsaOaepSha256, RsaOaepSha1, RsaPkcs1V15] {
        for byte in [0, 0xff] {
            assert_eq!(rsa_key().decrypt(algorithm, &[byte; 256]), Err(DecryptError::Padding));
        }
    }
}

#[test]
fn a_point_off_the_curve_has_not_the_form() {
    let mut off = fixture!("sm2.enc.der").to_vec();
    // The last byte of x.
    off[2 + 2 + 31] ^= 1;
    assert_eq!(sm2_key().decrypt(Sm2Pke, &off), Err(DecryptError::Form));
}

#[test]
fn a_signature_verifies_under_its_own_key_and_algorithm() {
    let rng = &mut system_rng();
    for spec in [Rsa2048, Sm2] {
        let (key, other) = (PrivateKey::generate(spec, rng), PrivateKey::generate(spec, rng));
        let digest = key.public().digest_of_message(b"a message");
        for algorithm in [RsaPkcs1Sha256, RsaPssSha256, Sm2Dsa] {
            let signature = key.sign(algorithm, &digest, rng);
            assert_eq!(signature.is_some(), algorithm.spec() == spec);
            let Some(signature) = signature else {
                assert_eq!(key.public().verify(algorithm, &digest, b""), None);
                continue;
            };
            assert_eq!(key.public().verify(algorithm, &digest, &signature), Some(true));
            assert_eq!(other.public().verify(algorithm, &digest, &signature), Some(false));
        }
    }
}

#[test]
fn texts_of_every_allowed_length_come_back() {
    let rng = &mut system_rng();
    for algorithm in [RsaOaepSha256, RsaOaepSha1, RsaPkcs1V15, Sm2Pke] {
        let key = if algorithm.spec() == Rsa2048 { rsa_key() } else { sm2_key() };
        let longest = algorithm.max_plaintext();
        for len in [1, 16, 31, 32, 33, longest - 1, longest] {
            let plain = vec![0; len];
            let ciphertext = key.public().encrypt(algorithm, &plain, rng).unwrap();
            assert_eq!(*key.decrypt(algorithm, &ciphertext).unwrap(), plain, "{algorithm:?} {len}");
        }
        let too_long = key.public().encrypt(algorithm, &vec![0; longest + 1], rng);
        assert_eq!(too_long, Err(EncryptError::TooLong), "{algorithm:?}");
    }
    assert_eq!(sm2_key().public().encrypt(Sm2Pke, b"", rng), Err(EncryptError::Empty));
    assert_eq!(rsa_key().public().encrypt(RsaOaepSha1, b"", rng).map(|ciphertext| ciphertext.len()), Ok(256));
}

/// One byte in 256 would be sent as it is if a key stream of zeros were let through.
#[test]
fn one_byte_is_never_sent_in_the_clear() {
    let rng = &mut system_rng();
    let key = sm2_key();
    for byte in 0..=255 {
        for _ in 0..4 {
            let ciphertext = key.public().encrypt(Sm2Pke, &[byte], rng).unwrap();
            assert_ne!(ciphertext.last(), Some(&byte));
            assert_eq!(key.decrypt(Sm2Pke, &ciphertext).unwrap()[..], [byte]);
        }
    }
}

#[test]
fn algorithms_of_another_spec_are_refused() {
    let rng = &mut system_rng();
    assert_eq!(rsa_key().public().encrypt(Sm2Pke, b"x", rng), Err(EncryptError::OtherSpec));
    assert_eq!(sm2_key().public().encrypt(RsaOaepSha256, b"x", rng), Err(EncryptError::OtherSpec));
    assert_eq!(rsa_key().decrypt(Sm2Pke, b"x"), Err(DecryptError::OtherSpec));
    assert_eq!(sm2_key().decrypt(RsaPkcs1V15, b"x"), Err(DecryptError::OtherSpec));
}

#[test]
fn keys_come_back_from_their_der() {
    let rng = &mut system_rng();
    for key in [rsa_key(), sm2_key(), PrivateKey::generate(Rsa2048, rng), PrivateKey::generate(Sm2, rng)] {
        let again = PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
        assert_eq!(again.to_pkcs8_der(), key.to_pkcs8_der());
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::from_spki_der(&key.public().to_spki_der()), Some(key.public()));
        assert!(key.public().to_pem().starts_with("-----BEGIN PUBLIC KEY-----\n"));
    }
    assert_eq!(rsa_key().public().to_spki_der(), fixture!("rsa-2048.pub.der"));
    assert_eq!(sm2_key().public().to_spki_der(), fixture!("sm2.pub.der"));
    assert_eq!(sm2_key().to_pkcs8_der()[..], fixture!("sm2.key.der")[..]);
    assert_eq!(rsa_key().to_pkcs8_der()[..], fixture!("rsa-2048.key.der")[..]);
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let whole = fixture!("sm2.key.der");
    for other in [fixture!("rsa-3072.key.der"), fixture!("p256.key.der"), b"", &whole[1..], &whole[..whole.len() - 1]] {
        assert!(PrivateKey::from_pkcs8_der(other).is_none());
        assert!(PublicKey::from_spki_der(other).is_none());
    }
    assert!(PublicKey::from_spki_der(whole).is_none());
}

/// d = n - 1 is a scalar, but 1 + d has no inverse.
#[test]
fn an_sm2_key_that_cannot_sign_is_refused() {
    let d = bytes("fffffffe ffffffff ffffffff ffffffff 7203df6b 21c6052b 53bbf409 39d54122");
    let key = PrivateKey::Sm2(Box::new(sm2::SecretKey::from_slice(&d).unwrap()));
    assert!(PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).is_none());
}

#[test]
fn names_come_back_and_debug_tells_no_secret() {
    for algorithm in [RsaPkcs1Sha256, RsaPssSha256, Sm2Dsa] {
        assert_eq!(SignAlgorithm::parse(algorithm.name()), Some(algorithm));
    }
    for algorithm in [RsaOaepSha256, RsaOaepSha1, RsaPkcs1V15, Sm2Pke] {
        assert_eq!(EncryptAlgorithm::parse(algorithm.name()), Some(algorithm));
        assert_eq!(algorithm.only_for_import(), algorithm == RsaPkcs1V15);
    }
    assert_eq!((SignAlgorithm::parse("sm2dsa"), EncryptAlgorithm::parse("")), (None, None));
    assert_eq!(format!("{:?} {:?}", rsa_key(), sm2_key()), "PrivateKey(Rsa2048) PrivateKey(Sm2)");
}

#[test]
fn openssl_takes_our_signatures_and_ciphertexts() {
    let (openssl, rng) = (OpenSsl::new(), &mut system_rng());
    openssl.write("text", PLAIN);
    openssl.write("digest", Sha256::digest(PLAIN));
    const PSS: &str = "-pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:32 -pkeyopt rsa_mgf1_md:sha256";
    const OAEP: &str = "-pkeyopt rsa_padding_mode:oaep";
    for spec in [Rsa2048, Sm2] {
        let key = PrivateKey::generate(spec, rng);
        openssl.write("key", key.to_pkcs8_der());
        openssl.write("public", key.public().to_pem());

        let digest = key.public().digest_of_message(PLAIN);
        for (algorithm, options) in [
            (RsaPkcs1Sha256, "-in digest -pkeyopt digest:sha256".to_owned()),
            (RsaPssSha256, format!("-in digest -pkeyopt digest:sha256 {PSS}")),
            (Sm2Dsa, "-in text -rawin -digest sm3 -pkeyopt distid:1234567812345678".to_owned()),
        ] {
            let Some(signature) = key.sign(algorithm, &digest, rng) else { continue };
            openssl.write("signature", &signature);
            openssl.run(&format!("pkeyutl -verify -pubin -inkey public -sigfile signature {options}"));
            openssl.run(&format!("pkeyutl -sign -keyform DER -inkey key {options} -out signature"));
            assert_eq!(
                key.public().verify(algorithm, &digest, &openssl.read("signature")),
                Some(true),
                "{algorithm:?}"
            );
        }

        for (algorithm, options) in [
            (RsaOaepSha256, format!("{OAEP} -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256")),
            (RsaOaepSha1, format!("{OAEP} -pkeyopt rsa_oaep_md:sha1 -pkeyopt rsa_mgf1_md:sha1")),
            (RsaPkcs1V15, "-pkeyopt rsa_padding_mode:pkcs1".to_owned()),
            (Sm2Pke, String::new()),
        ] {
            let Ok(ciphertext) = key.public().encrypt(algorithm, PLAIN, rng) else { continue };
            openssl.write("ciphertext", &ciphertext);
            let plain = openssl.run(&format!("pkeyutl -decrypt -keyform DER -inkey key -in ciphertext {options}"));
            assert_eq!(plain, PLAIN, "{algorithm:?}");
            openssl.run(&format!("pkeyutl -encrypt -pubin -inkey public -in text -out ciphertext {options}"));
            assert_eq!(&key.decrypt(algorithm, &openssl.read("ciphertext")).unwrap()[..], PLAIN, "{algorithm:?}");
        }
    }
}
