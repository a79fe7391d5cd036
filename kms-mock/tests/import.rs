//! getParametersForImport, importKeyMaterial, deleteKeyMaterial: wrapped by OpenSSL, as a stranger would.

mod common;

use std::time::Duration;

use common::wrap::wrap;
use common::*;
use kms_mock::{MockConfig, MockKms, Storage};
use serde_json::{Value, json};

const PARAMETERS: &str = "/importKey/getParametersForImport";
const IMPORT: &str = "/importKey/importKeyMaterial";
const DELETE: &str = "/importKey/deleteKeyMaterial";
const DAY: Duration = Duration::from_secs(86_400);

fn external(client: &Client, spec: &str) -> String {
    let body = with(new_key(spec), json!({"origin": "EXTERNAL", "enableAutomaticRotation": null}));
    client.call(CREATE_KEY, body).text("cmkUuid")
}

struct Offer {
    token: String,
    wrapped: String,
}

fn offer(client: &Client, id: &str, (algorithm, spec): (&str, &str), plain: &[u8]) -> Offer {
    let body = json!({"cmkUuid": id, "wrappingAlgorithm": algorithm, "wrappingKeySpec": spec});
    let parameters = client.call(PARAMETERS, body);
    Offer { wrapped: wrap(&parameters.text("publicKey"), algorithm, plain), token: parameters.text("importToken") }
}

fn import(client: &Client, id: &str, offer: &Offer, expires: Value) -> Answer {
    let body = json!({"cmkUuid": id, "importToken": offer.token, "encryptedKeyMaterial": offer.wrapped});
    client.call(IMPORT, with(body, json!({"keyMaterialExpireUnix": expires})))
}

const RSA: (&str, &str) = ("RSAES_OAEP_SHA_256", "RSA_2048");
const SM2: (&str, &str) = ("SM2PKE", "EC_SM2");

#[test]
fn import_key_material_by_every_algorithm() {
    let mock = start();
    let client = Client::new(&mock);
    for pair in [RSA, SM2, ("SM2PKE", "Ctyun_SM2"), ("RSAES_PKCS1_V1_5", "RSA_2048"), ("RSAES_OAEP_SHA_1", "RSA_2048")]
    {
        for (spec, length) in [("AES_256", 32), ("Ctyun_SM4", 16)] {
            let id = external(&client, spec);
            let offer = offer(&client, &id, pair, &vec![7; length]);
            import(&client, &id, &offer, json!(0)).data();
            let key = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
            assert_eq!((key.text("keyState"), key.text("materialExpireTime")), ("Enabled".into(), String::new()));
            let sealed = client.encrypt(&id, b"secret").text("ciphertextBlob");
            assert_eq!(client.decrypt(&sealed).plaintext(), b"secret");
        }
    }
}

#[test]
fn material_that_is_gone_comes_back_only_as_it_was() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = external(&client, "AES_256");
    let first = offer(&client, &id, SM2, &[1; 32]);
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() + 3600;
    import(&client, &id, &first, json!(soon)).data();
    let sealed = client.encrypt(&id, b"secret");
    import(&client, &id, &first, json!(null)).refused(400, "KMS.0248");
    // It expires by the clock of the mock.
    mock.advance_clock(Duration::from_secs(3601));
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), "PendingImport");
    client.decrypt(&sealed.text("ciphertextBlob")).refused(400, "KMS.0203");
    let other = offer(&client, &id, SM2, &[2; 32]);
    import(&client, &id, &other, json!(null)).refused(400, "KMS.0245");
    let again = offer(&client, &id, SM2, &[1; 32]);
    import(&client, &id, &again, json!(null)).data();
    assert_eq!(client.decrypt(&sealed.text("ciphertextBlob")).plaintext(), b"secret");
    assert_eq!(client.encrypt(&id, b"x").text("keyVersionId"), sealed.text("keyVersionId"));
    // deleteKeyMaterial does the same at once, as often as one likes.
    client.call(DELETE, json!({"cmkUuid": id})).data();
    client.call(DELETE, json!({"cmkUuid": id})).data();
    client.decrypt(&sealed.text("ciphertextBlob")).refused(400, "KMS.0203");
    client.call(ENABLE_KEY, json!({"cmkUuid": id})).refused(400, "KMS.0207");
}

#[test]
fn refusals_of_parameters() {
    let mock = start();
    let client = Client::new(&mock);
    let (id, own, rsa) =
        (external(&client, "AES_256"), client.create("AES_256"), mock.create_key("SM2").expect("a key"));
    let body = json!({"cmkUuid": id, "wrappingAlgorithm": "SM2PKE", "wrappingKeySpec": "EC_SM2"});
    for (changes, status, code) in [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"wrappingAlgorithm": ""}), 400, "KMS.0120"),
        (json!({"wrappingKeySpec": null}), 400, "KMS.0121"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"wrappingKeySpec": "RSA_4096"}), 400, "KMS.0237"),
        (json!({"wrappingKeySpec": "RSA_2048"}), 400, "KMS.0236"),
        (json!({"wrappingAlgorithm": "XOR"}), 400, "KMS.0236"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"cmkUuid": rsa}), 400, "KMS.0225"),
        (json!({"cmkUuid": own}), 400, "KMS.0210"),
    ] {
        client.call(PARAMETERS, with(body.clone(), changes)).refused(status, code);
    }
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(PARAMETERS, body).refused(400, "KMS.0203");
    client.call(DELETE, json!({"cmkUuid": id})).refused(400, "KMS.0203");
    client.call(DELETE, json!({"cmkUuid": own})).refused(400, "KMS.0210");
    client.call(DELETE, json!({"cmkUuid": NO_KEY})).refused(404, "KMS.0301");
}

#[test]
fn refusals_of_imports() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let (id, other) = (external(&client, "AES_256"), external(&client, "AES_256"));
    let (own, rsa) = (client.create("AES_256"), mock.create_key("SM2").expect("a key"));
    let good = offer(&client, &id, SM2, &[1; 32]);
    let body = json!({"cmkUuid": id, "importToken": good.token, "encryptedKeyMaterial": good.wrapped});
    for (changes, status, code) in [
        (json!({"cmkUuid": ""}), 400, "KMS.0102"),
        (json!({"importToken": ""}), 400, "KMS.0123"),
        (json!({"encryptedKeyMaterial": null}), 400, "KMS.0124"),
        (json!({"cmkUuid": "x"}), 400, "KMS.0240"),
        (json!({"keyMaterialExpireUnix": "soon"}), 400, "KMS.0235"),
        (json!({"keyMaterialExpireUnix": 1000}), 400, "KMS.0235"),
        (json!({"cmkUuid": NO_KEY}), 404, "KMS.0301"),
        (json!({"cmkUuid": rsa}), 400, "KMS.0225"),
        (json!({"cmkUuid": own}), 400, "KMS.0210"),
        (json!({"importToken": "AAAA"}), 401, "KMS.0401"),
        (json!({"cmkUuid": other}), 401, "KMS.0401"),
        (json!({"encryptedKeyMaterial": "AAAA"}), 400, "KMS.0239"),
        (json!({"encryptedKeyMaterial": "?"}), 400, "KMS.0239"),
    ] {
        client.call(IMPORT, with(body.clone(), changes)).refused(status, code);
    }
    let short = offer(&client, &id, SM2, &[1; 16]);
    import(&client, &id, &short, json!(null)).refused(400, "KMS.0241");
    mock.advance_clock(DAY + Duration::from_secs(1));
    import(&client, &id, &good, json!(null)).refused(401, "KMS.0401");
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(IMPORT, body).refused(400, "KMS.0203");
}

#[test]
fn a_token_outlives_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || MockConfig { data: Storage::Dir(directory.path().join("kms")), ..MockConfig::default() };
    let mock = MockKms::start(config()).expect("starts");
    let client = Client::new(&mock);
    let id = external(&client, "AES_256");
    let offer = offer(&client, &id, RSA, &[1; 32]);
    mock.stop();
    let mock = MockKms::start(config()).expect("starts again");
    let client = Client::new(&mock);
    import(&client, &id, &offer, json!(null)).data();
    let sealed = client.encrypt(&id, b"x").text("ciphertextBlob");
    mock.stop();
    let mock = MockKms::start(config()).expect("starts again");
    assert_eq!(Client::new(&mock).decrypt(&sealed).plaintext(), b"x");
}
