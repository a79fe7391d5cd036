//! asymmetricSign, asymmetricVerify, asymmetricEncrypt, asymmetricDecrypt, getPublicKey; reEncrypt from an asymmetric key; data
//! keys exported for a public key; hmacSM3.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::*;
use serde_json::{Value, json};

const SIGN: &str = "/keyCompute/asymmetricSign";
const VERIFY: &str = "/keyCompute/asymmetricVerify";
const SEAL: &str = "/keyCompute/asymmetricEncrypt";
const OPEN: &str = "/keyCompute/asymmetricDecrypt";
const PUBLIC_KEY: &str = "/keyCompute/getPublicKey";
const VERSIONS: &str = "/keyVersion/listKeyVersions";
const EXPORT: &str = "/keyCompute/exportDataKey";
const MAKE_AND_EXPORT: &str = "/keyCompute/generateAndExportDataKey";
const HMAC: &str = "/get/hmaccompute";

/// Id and version of a new key.
fn make(client: &Client, spec: &str, usage: &str) -> (String, String) {
    let body = with(new_key(spec), json!({"keyUsage": usage, "enableAutomaticRotation": null}));
    let id = client.call(CREATE_KEY, body).text("cmkUuid");
    let version = version(client, &id);
    (id, version)
}

fn version(client: &Client, id: &str) -> String {
    let versions = client.call(VERSIONS, json!({"cmkUuid": id}));
    versions.data()["keyVersions"][0]["keyVersionId"].as_str().expect("a version").to_owned()
}

fn digest() -> String {
    BASE64.encode([7; 32])
}

#[test]
fn sign_and_verify() {
    let mock = start();
    let client = Client::new(&mock);
    for (spec, algorithms) in
        [("RSA_2048", &["RSA_PKCS1_SHA_256", "RSA_PSS_SHA_256"][..]), ("Ctyun_SM2", &["SM2DSA"][..])]
    {
        let (id, version) = make(&client, spec, "SIGN/VERIFY");
        for algorithm in algorithms {
            let body = json!({"cmkUuid": id, "keyVersionId": version, "algorithm": algorithm, "digest": digest()});
            let signed = client.call(SIGN, body.clone());
            assert_eq!(signed.data()["keyVersionId"], version);
            let check = |changes: Value| {
                let body = with(with(body.clone(), json!({"value": signed.text("value")})), changes);
                client.call(VERIFY, body).data()["value"].clone()
            };
            assert_eq!(check(json!({})), true);
            assert_eq!(check(json!({"digest": BASE64.encode([8; 32])})), false);
            assert_eq!(check(json!({"value": "AAAA"})), false);
            assert_eq!(check(json!({"value": "no Base64!"})), false);
        }
        assert_eq!(mock.key_uses(&id), 5 * algorithms.len() as u64);
    }
}

#[test]
fn sign_and_verify_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let (id, version) = make(&client, "Ctyun_SM2", "SIGN/VERIFY");
    let (other, other_version) = make(&client, "Ctyun_SM2", "ENCRYPT/DECRYPT");
    let aes = client.create("AES_256");
    let aes_version = self::version(&client, &aes);
    let body =
        json!({"cmkUuid": id, "keyVersionId": version, "algorithm": "SM2DSA", "digest": digest(), "value": "AA=="});
    let cases = [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"keyVersionId": null}), 400, "KMS.0105"),
        (json!({"algorithm": null}), 400, "KMS.0106"),
        (json!({"digest": ""}), 400, "KMS.0104"),
        (json!({"algorithm": "RSA_MD5"}), 400, "KMS.0215"),
        (json!({"digest": "AAAA"}), 400, "KMS.0215"),
        (json!({"digest": "?"}), 400, "KMS.0215"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"keyVersionId": other_version}), 404, "KMS.0304"),
        (json!({"cmkUuid": aes, "keyVersionId": aes_version}), 400, "KMS.0232"),
        (json!({"cmkUuid": other, "keyVersionId": other_version}), 400, "KMS.0204"),
        (json!({"algorithm": "RSA_PSS_SHA_256"}), 400, "KMS.0212"),
    ];
    for (changes, status, code) in cases {
        client.call(SIGN, with(body.clone(), changes.clone())).refused(status, code);
        client.call(VERIFY, with(body.clone(), changes)).refused(status, code);
    }
    client.call(VERIFY, with(body.clone(), json!({"value": null}))).refused(400, "KMS.0125");
    mock.disable_key(&id).expect("disabled");
    client.call(SIGN, body.clone()).refused(400, "KMS.0206");
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(VERIFY, body).refused(400, "KMS.0203");
}

#[test]
fn encrypt_and_decrypt() {
    let mock = start();
    let client = Client::new(&mock);
    let symmetric = client.create("AES_256");
    for (spec, algorithm, longest) in
        [("RSA_2048", "RSAES_OAEP_SHA_256", 190), ("RSA_2048", "RSAES_OAEP_SHA_1", 214), ("Ctyun_SM2", "SM2PKE", 6047)]
    {
        let (id, version) = make(&client, spec, "ENCRYPT/DECRYPT");
        let body = json!({"cmkUuid": id, "keyVersionId": version, "algorithm": algorithm});
        for length in [1, longest] {
            let plain = vec![5; length];
            let sealed = client.call(SEAL, with(body.clone(), json!({"plaintext": BASE64.encode(&plain)})));
            let blob = sealed.text("ciphertextBlob");
            assert_eq!(client.call(OPEN, with(body.clone(), json!({"ciphertextBlob": blob}))).plaintext(), plain);
            // Into the keeping of a symmetric key.
            let moved = client.call(
                RE_ENCRYPT,
                json!({"ciphertextBlob": blob, "destinationCmkUuid": symmetric, "sourceCmkUuid": id,
                       "sourceKeyVersionId": version, "sourceEncryptionAlgorithm": algorithm}),
            );
            assert_eq!(client.decrypt(&moved.text("ciphertextBlob")).plaintext(), plain);
        }
        let too_long = BASE64.encode(vec![5; longest + 1]);
        client.call(SEAL, with(body, json!({"plaintext": too_long}))).refused(400, "KMS.0249");
    }
}

#[test]
fn encrypt_and_decrypt_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let (rsa, rsa_version) = make(&client, "RSA_2048", "ENCRYPT/DECRYPT");
    let (sm2, sm2_version) = make(&client, "Ctyun_SM2", "ENCRYPT/DECRYPT");
    let (signer, signer_version) = make(&client, "Ctyun_SM2", "SIGN/VERIFY");
    let aes = client.create("AES_256");
    let aes_version = version(&client, &aes);
    let body = json!({"cmkUuid": rsa, "keyVersionId": rsa_version, "algorithm": "RSAES_OAEP_SHA_256",
                      "plaintext": "AA==", "ciphertextBlob": BASE64.encode([1; 256])});
    let both = [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"keyVersionId": ""}), 400, "KMS.0105"),
        (json!({"algorithm": ""}), 400, "KMS.0114"),
        (json!({"algorithm": "RSAES_PKCS1_V1_5"}), 400, "KMS.0215"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"keyVersionId": sm2_version}), 404, "KMS.0304"),
        (json!({"cmkUuid": aes, "keyVersionId": aes_version}), 400, "KMS.0214"),
        (json!({"cmkUuid": signer, "keyVersionId": signer_version, "algorithm": "SM2PKE"}), 400, "KMS.0205"),
        (json!({"cmkUuid": sm2, "keyVersionId": sm2_version}), 400, "KMS.0251"),
        (json!({"algorithm": "SM2PKE"}), 400, "KMS.0212"),
    ];
    for (changes, status, code) in both {
        client.call(SEAL, with(body.clone(), changes.clone())).refused(status, code);
        client.call(OPEN, with(body.clone(), changes)).refused(status, code);
    }
    client.call(SEAL, with(body.clone(), json!({"plaintext": ""}))).refused(400, "KMS.0107");
    client.call(SEAL, with(body.clone(), json!({"plaintext": "?"}))).refused(400, "KMS.0252");
    client.call(OPEN, with(body.clone(), json!({"ciphertextBlob": ""}))).refused(400, "KMS.0108");
    client.call(OPEN, with(body.clone(), json!({"ciphertextBlob": "?"}))).refused(400, "KMS.0219");
    client.call(OPEN, with(body.clone(), json!({"ciphertextBlob": "AAAA"}))).refused(400, "KMS.0219");
    client.call(OPEN, body.clone()).refused(400, "KMS.0239");
    // The symmetric calls refuse an asymmetric key, each in its own words.
    client.encrypt(&rsa, b"x").refused(400, "KMS.0213");
    client.data_key(&rsa).refused(400, "KMS.0250");
    mock.disable_key(&rsa).expect("disabled");
    client.call(SEAL, body.clone()).refused(400, "KMS.0206");
    mock.schedule_deletion(&rsa).expect("scheduled");
    client.call(OPEN, body).refused(400, "KMS.0203");
}

#[test]
fn get_public_key() {
    let mock = start();
    let client = Client::new(&mock);
    let (id, version) = make(&client, "RSA_2048", "SIGN/VERIFY");
    let body = json!({"cmkUuid": id, "keyVersionId": version});
    mock.disable_key(&id).expect("disabled");
    let key = client.call(PUBLIC_KEY, body.clone());
    assert!(key.text("publicKeyPem").starts_with("-----BEGIN PUBLIC KEY-----\n"));
    assert_eq!(BASE64.decode(key.text("publicKey")).expect("Base64").len(), 294);
    let aes = client.create("AES_256");
    let aes_version = self::version(&client, &aes);
    for (changes, status, code) in [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"keyVersionId": ""}), 400, "KMS.0105"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"keyVersionId": "x"}), 404, "KMS.0304"),
        (json!({"cmkUuid": aes, "keyVersionId": aes_version}), 400, "KMS.0214"),
    ] {
        client.call(PUBLIC_KEY, with(body.clone(), changes)).refused(status, code);
    }
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(PUBLIC_KEY, body).refused(400, "KMS.0203");
}

#[test]
fn there_may_be_fifty_asymmetric_keys() {
    let mock = start();
    let client = Client::new(&mock);
    for _ in 0..50 {
        mock.create_key("Ctyun_SM2").expect("a key");
    }
    let body = with(new_key("Ctyun_SM2"), json!({"enableAutomaticRotation": null}));
    client.call(CREATE_KEY, body).refused(400, "KMS.0238");
    client.create("AES_256");
}

#[test]
fn data_keys_are_exported_for_a_public_key() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    for (spec, wrapping, algorithm) in [
        ("RSA_2048", "RSA_2048", "RSAES_OAEP_SHA_256"),
        ("RSA_2048", "RSA_2048", "RSAES_OAEP_SHA_1"),
        ("Ctyun_SM2", "EC_SM2", "SM2PKE"),
    ] {
        let (recipient, version) = make(&client, spec, "ENCRYPT/DECRYPT");
        let key = client.call(PUBLIC_KEY, json!({"cmkUuid": recipient, "keyVersionId": version})).text("publicKey");
        let wrap = json!({"publicKeyBlob": key, "wrappingKeySpec": wrapping, "wrappingAlgorithm": algorithm});
        let open = |exported: String| {
            let body = json!({"cmkUuid": recipient, "keyVersionId": version, "algorithm": algorithm, "ciphertextBlob": exported});
            client.call(OPEN, body).plaintext()
        };
        let made = client.data_key(&id);
        let exported = client.call(EXPORT, with(wrap.clone(), json!({"ciphertextBlob": made.text("ciphertextBlob")})));
        assert_eq!(open(exported.text("exportedDataKey")), made.plaintext());
        let made = client.call(MAKE_AND_EXPORT, with(wrap.clone(), json!({"cmkUuid": id, "numberOfBytes": 24})));
        let plain = client.decrypt(&made.text("ciphertextBlob")).plaintext();
        assert_eq!((open(made.text("exportedDataKey")), plain.len()), (plain.clone(), 24));
        let huge = with(wrap, json!({"cmkUuid": id, "numberOfBytes": 1024}));
        match spec {
            "RSA_2048" => client.call(MAKE_AND_EXPORT, huge).refused(400, "KMS.0249"),
            _ => drop(client.call(MAKE_AND_EXPORT, huge).data().clone()),
        }
    }
}

#[test]
fn export_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let (recipient, version) = make(&client, "Ctyun_SM2", "ENCRYPT/DECRYPT");
    let key = client.call(PUBLIC_KEY, json!({"cmkUuid": recipient, "keyVersionId": version})).text("publicKey");
    let blob = client.data_key(&id).text("ciphertextBlob");
    let body = json!({"cmkUuid": id, "ciphertextBlob": blob, "publicKeyBlob": key, "wrappingKeySpec": "EC_SM2",
                      "wrappingAlgorithm": "SM2PKE"});
    for (changes, code) in [
        (json!({"publicKeyBlob": ""}), "KMS.0131"),
        (json!({"wrappingKeySpec": ""}), "KMS.0121"),
        (json!({"wrappingAlgorithm": ""}), "KMS.0134"),
        (json!({"wrappingKeySpec": "EC_P256"}), "KMS.0237"),
        (json!({"wrappingAlgorithm": "RSAES_OAEP_SHA_1"}), "KMS.0236"),
        (json!({"wrappingKeySpec": "RSA_2048", "wrappingAlgorithm": "RSAES_PKCS1_V1_5"}), "KMS.0236"),
        (json!({"wrappingKeySpec": "RSA_2048", "wrappingAlgorithm": "RSAES_OAEP_SHA_1"}), "KMS.0215"),
        (json!({"publicKeyBlob": "AAAA"}), "KMS.0215"),
    ] {
        client.call(EXPORT, with(body.clone(), changes.clone())).refused(400, code);
        client.call(MAKE_AND_EXPORT, with(body.clone(), changes)).refused(400, code);
    }
    client.call(EXPORT, with(body.clone(), json!({"ciphertextBlob": ""}))).refused(400, "KMS.0108");
    client.call(EXPORT, with(body.clone(), json!({"ciphertextBlob": "AAAA"}))).refused(400, "KMS.0247");
    let other = if blob.as_bytes()[200] == b'A' { 'B' } else { 'A' };
    let changed = format!("{}{other}{}", &blob[..200], &blob[201..]);
    client.call(EXPORT, with(body.clone(), json!({"ciphertextBlob": changed}))).refused(400, "KMS.0247");
    for (changes, status, code) in [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"cmkUuid": recipient}), 400, "KMS.0250"),
        (json!({"numberOfBytes": 0}), 400, "KMS.0241"),
        (json!({"keySpec": "SM4_128"}), 400, "KMS.0220"),
        (json!({"keySpec": "DES"}), 400, "KMS.0223"),
    ] {
        client.call(MAKE_AND_EXPORT, with(body.clone(), changes)).refused(status, code);
    }
    mock.disable_key(&id).expect("disabled");
    client.call(EXPORT, body.clone()).refused(400, "KMS.0206");
    mock.delete_now(&id).expect("deleted");
    client.call(EXPORT, body).refused(404, "KMS.0301");
}

#[test]
fn hmac_sm3() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let mac = |input: &str| client.call(HMAC, json!({"cmkUuid": id, "input": input})).text("hmacoutput");
    assert!(mac("a").len() == 64 && mac("a").bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
    assert_eq!(mac("a"), mac("a"));
    assert_ne!(mac("a"), mac("b"));
    for (body, status, code) in [
        (json!({"input": "a"}), 400, "KMS.0102"),
        (json!({"cmkUuid": id}), 400, "KMS.0107"),
        (json!({"cmkUuid": "x", "input": "a"}), 400, "KMS.0240"),
        (json!({"cmkUuid": id, "input": "x".repeat(6145)}), 400, "KMS.0249"),
        (json!({"cmkUuid": NO_KEY, "input": "a"}), 404, "KMS.0301"),
        (json!({"cmkUuid": mock.create_key("Ctyun_SM2").expect("a key"), "input": "a"}), 400, "KMS.0213"),
    ] {
        client.call(HMAC, body).refused(status, code);
    }
    mock.disable_key(&id).expect("disabled");
    client.call(HMAC, json!({"cmkUuid": id, "input": "a"})).refused(404, "KMS.0306");
}
