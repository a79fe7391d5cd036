//! generateRandom, messageDigest.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::*;
use kms_mock::{MockConfig, MockKms};
use serde_json::json;

const RANDOM: &str = "/get/random";
const DIGEST: &str = "/get/messageDigest";

#[test]
fn generate_random() {
    let mock = start();
    let client = Client::new(&mock);
    for length in [1, 32, 1024] {
        let random = BASE64.decode(client.call(RANDOM, json!({"length": length})).text("random")).expect("Base64");
        assert_eq!(random.len(), length);
    }
    let draw = || client.call(RANDOM, json!({"length": 16})).text("random");
    assert_ne!(draw(), draw());
    for (body, code) in [
        (json!({}), "KMS.0101"),
        (json!({"length": 0}), "KMS.0241"),
        (json!({"length": 1025}), "KMS.0241"),
        (json!({"length": -1}), "KMS.0241"),
        (json!({"length": 1.5}), "KMS.0241"),
        (json!({"length": "8"}), "KMS.0128"),
    ] {
        client.call(RANDOM, body).refused(400, code);
    }
}

#[test]
fn a_seeded_mock_repeats_itself() {
    let run = || {
        let config = MockConfig { seed: Some("test".into()), ..MockConfig::default() };
        let mock = MockKms::start(config).expect("starts");
        let client = Client::new(&mock);
        let id = client.create("AES_256");
        (id.clone(), client.call(RANDOM, json!({"length": 16})).text("random"), client.data_key(&id).text("plaintext"))
    };
    assert_eq!(run(), run());
    // On a directory the second start would give new keys the ids of old ones.
    let directory = tempfile::tempdir().expect("a directory");
    let data = kms_mock::Storage::Dir(directory.path().join("kms"));
    let config = MockConfig { seed: Some("test".into()), data, ..MockConfig::default() };
    assert!(matches!(MockKms::start(config), Err(kms_mock::StartError::SeedOnDisk)));
}

/// SM3 of "abc", from GB/T 32905, appendix A.
#[test]
fn message_digest() {
    let mock = start();
    let client = Client::new(&mock);
    let digest = BASE64.decode(client.call(DIGEST, json!({"input": "abc"})).text("output")).expect("Base64");
    assert_eq!(hex::encode(digest), "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0");
    client.call(DIGEST, json!({"input": ""})).refused(400, "KMS.0107");
    client.call(DIGEST, json!({"input": "x".repeat(6145)})).refused(400, "KMS.0249");
    client.call(DIGEST, json!({"input": 1})).refused(400, "KMS.0128");
}
