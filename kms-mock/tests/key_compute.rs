//! encrypt, generateDataKey, generateDataKeyWithoutPlaintext, decrypt, reEncrypt; both payload modes.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::*;
use kms_mock::{MockConfig, MockKms, PayloadMode, SeedFile};
use serde_json::{Value, json};

/// A mock in each payload mode.
fn both_modes() -> [(PayloadMode, MockKms); 2] {
    [PayloadMode::Gcm, PayloadMode::Legacy].map(|payload_mode| {
        (payload_mode, MockKms::start(MockConfig { payload_mode, ..MockConfig::default() }).expect("starts"))
    })
}

#[test]
fn encrypt_and_decrypt() {
    for (mode, mock) in both_modes() {
        let client = Client::new(&mock);
        for spec in ["AES_256", "Ctyun_SM4"] {
            let key = client.call(CREATE_KEY, new_key(spec));
            for plain in [b"Hello world".to_vec(), vec![0], vec![7; 6144]] {
                let sealed = client.encrypt(&key.text("cmkUuid"), &plain);
                let opened = client.decrypt(&sealed.text("ciphertextBlob"));
                assert_eq!(opened.plaintext(), plain, "{mode:?} {spec}");
                for answer in [sealed, opened] {
                    assert_eq!(answer.text("cmkUuid"), key.text("cmkUuid"));
                    assert_eq!(answer.text("keyVersionId"), key.text("primaryKeyVersion"));
                }
            }
        }
    }
}

#[test]
fn encrypt_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let encrypt = |request: Value| client.call(ENCRYPT, request);
    encrypt(json!({})).refused(400, "KMS.0102");
    encrypt(json!({"cmkUuid": id})).refused(400, "KMS.0107");
    encrypt(json!({"cmkUuid": id, "plaintext": ""})).refused(400, "KMS.0107");
    encrypt(json!({"cmkUuid": "x", "plaintext": "?"})).refused(400, "KMS.0240");
    encrypt(json!({"cmkUuid": id, "plaintext": "eA"})).refused(400, "KMS.0252");
    encrypt(json!({"cmkUuid": NO_KEY, "plaintext": "eA=="})).refused(404, "KMS.0301");
    encrypt(json!({"cmkUuid": "alias/none", "plaintext": "eA=="})).refused(404, "KMS.0303");
    encrypt(json!({"cmkUuid": id, "plaintext": 1})).refused(400, "KMS.0128");
    client.encrypt(&id, &[0; 6145]).refused(400, "KMS.0249");
}

#[test]
fn generate_data_key() {
    for (_, mock) in both_modes() {
        let client = Client::new(&mock);
        let (aes, sm4) = (client.create("AES_256"), client.create("SM4_128"));
        for (id, request, length) in [
            (&aes, json!({}), 32),
            (&aes, json!({"keySpec": "AES_256"}), 32),
            (&aes, json!({"numberOfBytes": 1}), 1),
            (&aes, json!({"numberOfBytes": 1024, "keySpec": "nonsense"}), 1024),
            (&sm4, json!({}), 16),
            (&sm4, json!({"keySpec": "SM4_128"}), 16),
            (&sm4, json!({"numberOfBytes": 64}), 64),
        ] {
            let request = with(json!({"cmkUuid": id}), request);
            for path in [DATA_KEY, "/create/datakey"] {
                let made = client.call(path, request.clone());
                assert_eq!(made.plaintext().len(), length, "{request}");
                let opened = client.decrypt(&made.text("ciphertextBlob"));
                assert_eq!(opened.plaintext(), made.plaintext());
                // A random key of one byte may well be 0.
                assert!(length < 16 || made.plaintext() != vec![0; length]);
            }
            let hidden = client.call(DATA_KEY_WITHOUT, request.clone());
            assert!(hidden.data().get("plaintext").is_none());
            assert_eq!(client.decrypt(&hidden.text("ciphertextBlob")).plaintext().len(), length);
        }
        assert_ne!(client.data_key(&aes).plaintext(), client.data_key(&aes).plaintext());
    }
}

#[test]
fn lengths_of_blobs() {
    for ((_, mock), length) in both_modes().into_iter().zip([220, 204]) {
        let client = Client::new(&mock);
        assert_eq!(client.data_key(&client.create("AES_256")).text("ciphertextBlob").len(), length);
    }
}

#[test]
fn generate_data_key_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let (aes, sm4) = (client.create("AES_256"), client.create("SM4_128"));
    for path in [DATA_KEY, DATA_KEY_WITHOUT] {
        client.call(path, json!({})).refused(400, "KMS.0102");
        client.call(path, json!({"cmkUuid": "x"})).refused(400, "KMS.0240");
        client.call(path, json!({"cmkUuid": NO_KEY})).refused(404, "KMS.0301");
        client.call(path, json!({"cmkUuid": "alias/none"})).refused(404, "KMS.0303");
        for (id, request, code) in [
            (&aes, json!({"numberOfBytes": 0}), "KMS.0241"),
            (&aes, json!({"numberOfBytes": 1025}), "KMS.0241"),
            (&aes, json!({"numberOfBytes": -1}), "KMS.0241"),
            (&aes, json!({"keySpec": "AES_128"}), "KMS.0220"),
            (&aes, json!({"keySpec": "SM4_128"}), "KMS.0220"),
            (&sm4, json!({"keySpec": "AES_256"}), "KMS.0221"),
            (&aes, json!({"keySpec": "DES"}), "KMS.0223"),
            (&aes, json!({"numberOfBytes": "32"}), "KMS.0128"),
        ] {
            client.call(path, with(json!({"cmkUuid": id}), request)).refused(400, code);
        }
    }
}

#[test]
fn decrypt_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let blob = client.encrypt(&id, b"x").text("ciphertextBlob");
    client.call(DECRYPT, json!({})).refused(400, "KMS.0108");
    client.decrypt("").refused(400, "KMS.0108");
    client.decrypt("?").refused(400, "KMS.0219");
    client.decrypt("eA==").refused(400, "KMS.0219");
    let other_header = |id: &str, version: &str| {
        let header = BASE64.encode(format!("{id}&{version}"));
        let mut bytes = format!("0064{header}").into_bytes();
        bytes.extend_from_slice(&BASE64.decode(&blob).expect("Base64")[104..]);
        BASE64.encode(bytes)
    };
    client.decrypt(&other_header(NO_KEY, NO_KEY)).refused(404, "KMS.0301");
    client.decrypt(&other_header(&id, NO_KEY)).refused(400, "KMS.0239");
    let mut changed = BASE64.decode(&blob).expect("Base64");
    *changed.last_mut().expect("bytes") ^= 1;
    client.decrypt(&BASE64.encode(changed)).refused(400, "KMS.0219");
    // A blob moved to another key of the same account does not open.
    let other = client.call(CREATE_KEY, new_key("AES_256"));
    client.decrypt(&other_header(&other.text("cmkUuid"), &other.text("primaryKeyVersion"))).refused(400, "KMS.0219");
}

#[test]
fn legacy_payloads_show_why_a_client_must_check() {
    let mock =
        MockKms::start(MockConfig { payload_mode: PayloadMode::Legacy, ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let blob = client.encrypt(&id, &[7; 64]).text("ciphertextBlob");
    assert_eq!(client.encrypt(&id, &[7; 64]).text("ciphertextBlob"), blob, "equal plaintexts give equal blobs");
    let mut changed = BASE64.decode(&blob).expect("Base64");
    changed[104] ^= 1;
    let garbled = client.decrypt(&BASE64.encode(&changed)).plaintext();
    assert_eq!(garbled.len(), 64);
    assert_ne!(garbled, vec![7; 64], "a changed payload decrypts to garbage without an error");
    changed.truncate(changed.len() - 1);
    client.decrypt(&BASE64.encode(&changed)).refused(400, "KMS.0219");
}

#[test]
fn re_encrypt() {
    for (_, mock) in both_modes() {
        let client = Client::new(&mock);
        let (aes, sm4) = (client.create("AES_256"), client.create("SM4_128"));
        let made = client.data_key(&aes);
        let blob = made.text("ciphertextBlob");
        for destination in [aes.as_str(), &sm4, "alias/ecs"] {
            let moved = client.call(RE_ENCRYPT, json!({"ciphertextBlob": blob, "destinationCmkUuid": destination}));
            assert!(moved.data().get("plaintext").is_none());
            let opened = client.decrypt(&moved.text("ciphertextBlob"));
            assert_eq!(opened.plaintext(), made.plaintext());
            assert_eq!(opened.text("cmkUuid"), moved.text("cmkUuid"));
        }
    }
}

#[test]
fn re_encrypt_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let (source, target) = (client.create("AES_256"), client.create("AES_256"));
    let blob = client.encrypt(&source, b"x").text("ciphertextBlob");
    let good = json!({"ciphertextBlob": blob, "destinationCmkUuid": target});
    for (changes, status, code) in [
        (json!({"ciphertextBlob": null, "destinationCmkUuid": null}), 400, "KMS.0108"),
        (json!({"destinationCmkUuid": null}), 400, "KMS.0112"),
        (json!({"destinationCmkUuid": ""}), 400, "KMS.0109"),
        (json!({"sourceKeyVersionId": NO_KEY}), 400, "KMS.0110"),
        (json!({"sourceCmkUuid": source}), 400, "KMS.0111"),
        (json!({"sourceCmkUuid": source, "sourceKeyVersionId": NO_KEY}), 400, "KMS.0114"),
        (
            json!({"sourceCmkUuid": NO_KEY, "sourceKeyVersionId": NO_KEY, "sourceEncryptionAlgorithm": "SM2PKE"}),
            404,
            "KMS.0308",
        ),
        (
            json!({"sourceCmkUuid": source, "sourceKeyVersionId": NO_KEY, "sourceEncryptionAlgorithm": "SM2PKE"}),
            400,
            "KMS.0212",
        ),
        (json!({"ciphertextBlob": "eA=="}), 400, "KMS.0219"),
        (json!({"destinationCmkUuid": "target"}), 404, "KMS.0307"),
        (json!({"destinationCmkUuid": "alias/none"}), 404, "KMS.0307"),
        (json!({"destinationCmkUuid": NO_KEY}), 404, "KMS.0305"),
    ] {
        client.call(RE_ENCRYPT, with(good.clone(), changes)).refused(status, code);
    }
    client.call(DISABLE_KEY, json!({"cmkUuid": target})).data();
    client.call(RE_ENCRYPT, good.clone()).refused(400, "KMS.0246");
    client.call(DISABLE_KEY, json!({"cmkUuid": source})).data();
    client.call(RE_ENCRYPT, good.clone()).refused(400, "KMS.0206");
    mock.schedule_deletion(&source).expect("scheduled");
    client.call(RE_ENCRYPT, good.clone()).refused(400, "KMS.0203");
    mock.delete_now(&source).expect("deleted");
    client.call(RE_ENCRYPT, good).refused(404, "KMS.0301");
}

#[test]
fn blobs_of_another_mode_do_not_open() {
    let mock = start();
    let client = Client::new(&mock);
    let blob = client.encrypt(&client.create("AES_256"), b"x").text("ciphertextBlob");
    let mut switches = mock.switches();
    switches.payload_mode = PayloadMode::Legacy;
    mock.set_switches(switches);
    client.decrypt(&blob).refused(400, "KMS.0219");
}

/// The block ciphers themselves: GB/T 32907, appendix A.1, and FIPS 197, appendix C.3. A legacy payload is ECB, and begins with
/// the block of the standard.
#[test]
fn ciphers_of_the_standards() {
    for (spec, key, plain, cipher) in [
        (
            "Ctyun_SM4",
            "0123456789abcdeffedcba9876543210",
            "0123456789abcdeffedcba9876543210",
            "681edf34d206965e86b3e94f536e4246",
        ),
        (
            "AES_256",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "00112233445566778899aabbccddeeff",
            "8ea2b7ca516745bfeafc49904b496089",
        ),
    ] {
        let material = BASE64.encode(hex::decode(key).expect("hex"));
        let keys = json!([{"id": NO_KEY, "spec": spec, "versions": [{"id": NO_KEY, "material": material}]}]);
        let seed_file = SeedFile::from_json(&json!({"keys": keys}).to_string()).expect("a good file");
        let config = MockConfig { seed_file, payload_mode: PayloadMode::Legacy, ..MockConfig::default() };
        let mock = MockKms::start(config).expect("starts");
        let blob = Client::new(&mock).encrypt(NO_KEY, &hex::decode(plain).expect("hex")).text("ciphertextBlob");
        let blob = BASE64.decode(blob).expect("Base64");
        // Two blocks: one of text, one of padding.
        assert_eq!(hex::encode(&blob[blob.len() - 32..][..16]), cipher, "{spec}");
    }
}
