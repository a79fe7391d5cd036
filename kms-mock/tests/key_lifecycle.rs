//! createKey, describeKey, listKeys, enableKey, disableKey, scheduleKeyDeletion, cancelKeyDeletion.

mod common;

use std::time::Duration;

use common::*;
use kms_mock::{MockConfig, MockKms};
use serde_json::json;

const DAY: Duration = Duration::from_secs(86_400);

/// The id of the seeded default CMK.
fn default_cmk(client: &Client) -> String {
    client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).text("cmkUuid")
}

#[test]
fn create_key() {
    let mock = start();
    let client = Client::new(&mock);
    let request = with(
        new_key("AES_256"),
        json!({"description": "first", "instanceId": "i", "epId": "e", "enableAutomaticRotation": true,
               "rotationInterval": "30d", "tags": [{"tagKey": "a", "tagValue": "b"}], "algorithm": "AES", "unknown": [1]}),
    );
    let key = client.call(CREATE_KEY, request);
    let data = key.data();
    for (name, value) in [
        ("keyState", "Enabled"),
        ("keySpec", "AES_256"),
        ("keyUsage", "ENCRYPT/DECRYPT"),
        ("origin", "CTYUN_KMS"),
        ("protectionLevel", "HSM"),
        ("description", "first"),
        ("deleteDate", ""),
        ("automaticRotation", "Enabled"),
        ("rotationInterval", "30"),
        ("deletionProtection", "Disabled"),
        ("creator", &client.access_key),
        ("instanceId", "i"),
        ("epId", "e"),
    ] {
        assert_eq!(data[name], value, "{name}");
    }
    assert_eq!(data["isDefault"], false);
    assert_eq!(data["primaryKeyVersion"].as_str().map(str::len), Some(36));
    for name in ["SM4_128", "SM4", "Ctyun_SM4"] {
        assert_eq!(client.call(CREATE_KEY, new_key(name)).text("keySpec"), "Ctyun_SM4");
    }
    for (level, canonical) in [(json!("software"), "SOFTWARE"), (json!("1"), "SOFTWARE"), (json!(0), "HSM")] {
        let key = client.call(CREATE_KEY, with(new_key("AES_256"), json!({"protectionLevel": level})));
        assert_eq!(key.text("protectionLevel"), canonical);
    }
}

#[test]
fn create_key_for_external_material() {
    let mock = start();
    let client = Client::new(&mock);
    let request = with(new_key("AES_256"), json!({"origin": "EXTERNAL", "enableAutomaticRotation": null}));
    let key = client.call(CREATE_KEY, request);
    assert_eq!((key.text("keyState"), key.text("primaryKeyVersion")), ("PendingImport".into(), String::new()));
    let id = key.text("cmkUuid");
    client.encrypt(&id, b"x").refused(400, "KMS.0203");
    client.data_key(&id).refused(400, "KMS.0203");
    client.call(ENABLE_KEY, json!({"cmkUuid": id})).refused(400, "KMS.0207");
    client.call(DISABLE_KEY, json!({"cmkUuid": id})).refused(400, "KMS.0203");
    client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).data();
    client.call(CANCEL, json!({"cmkUuid": id})).data();
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), "PendingImport");
}

#[test]
fn create_key_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    for (changes, code) in [
        (json!({"keySpec": null, "keyUsage": null}), "KMS.0126"),
        (json!({"keySpec": ""}), "KMS.0126"),
        (json!({"keyUsage": null, "protectionLevel": null}), "KMS.0117"),
        (json!({"protectionLevel": null, "enableAutomaticRotation": null}), "KMS.0113"),
        (json!({"enableAutomaticRotation": null}), "KMS.0116"),
        (json!({"enableAutomaticRotation": true}), "KMS.0118"),
        (json!({"keySpec": "RSA_3072"}), "KMS.0227"),
        (json!({"keySpec": "RSA_3072", "enableAutomaticRotation": null}), "KMS.0227"),
        (json!({"keyUsage": "SIGN/VERIFY"}), "KMS.0216"),
        (json!({"keyUsage": "encrypt"}), "KMS.0216"),
        (json!({"protectionLevel": "TPM"}), "KMS.0218"),
        (json!({"keySpec": "SM4_128", "protectionLevel": "SOFTWARE"}), "KMS.0218"),
        (json!({"enableAutomaticRotation": "maybe"}), "KMS.0217"),
        (json!({"enableAutomaticRotation": 1}), "KMS.0217"),
        (json!({"enableAutomaticRotation": true, "rotationInterval": "6"}), "KMS.0224"),
        (json!({"enableAutomaticRotation": true, "rotationInterval": 731}), "KMS.0224"),
        (json!({"origin": "IMPORTED"}), "KMS.0242"),
        (json!({"origin": "EXTERNAL", "enableAutomaticRotation": true, "rotationInterval": 30}), "KMS.0211"),
        (json!({"keySpec": "SM4_128", "algorithm": "AES"}), "KMS.0220"),
        (json!({"algorithm": "SM4"}), "KMS.0221"),
        (json!({"algorithm": "RSA"}), "KMS.0222"),
        (json!({"algorithm": "DES"}), "KMS.0101"),
        (json!({"tags": ["a"]}), "KMS.0101"),
        (json!({"tags": "a"}), "KMS.0128"),
        (json!({"keySpec": "Ctyun_SM2", "protectionLevel": "SOFTWARE"}), "KMS.0218"),
        (json!({"keySpec": "RSA_2048", "origin": "EXTERNAL"}), "KMS.0225"),
        (json!({"keySpec": "RSA_2048", "enableAutomaticRotation": true, "rotationInterval": 30}), "KMS.0211"),
        (json!({"keySpec": "RSA_2048", "keyUsage": "SIGN"}), "KMS.0216"),
        (json!({"description": "x".repeat(8193)}), "KMS.0129"),
        (json!({"keySpec": 256}), "KMS.0128"),
    ] {
        let answer = client.call(CREATE_KEY, with(new_key("AES_256"), changes.clone()));
        assert_eq!((answer.status, answer.code()), (400, code), "{changes}");
    }
    assert_eq!(client.call(LIST_KEYS, json!({})).data()["totalCount"], 1, "only the default CMK");
}

#[test]
fn create_key_when_lenient() {
    let mock = MockKms::start(MockConfig { lenient: true, ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    let key = client.call(CREATE_KEY, json!({}));
    assert_eq!((key.text("keySpec"), key.text("protectionLevel")), ("AES_256".into(), "SOFTWARE".into()));
    client.call(CREATE_KEY, json!({"keySpec": "SM4"})).data();
    let answer = client.call(DATA_KEY, json!({"cmkUuid": key.text("cmkUuid"), "keySpec": "AES_128"}));
    assert_eq!(answer.plaintext().len(), 16);
}

/// The checks of a `cmkUuid` field.
fn keyref(client: &Client, path: &str, alias_allowed: bool) {
    let call = |id: &str| client.call(path, json!({"cmkUuid": id, "pendingWindowInDays": 7, "plaintext": "eA=="}));
    client.call(path, json!({"pendingWindowInDays": 7, "plaintext": "eA=="})).refused(400, "KMS.0102");
    call("").refused(400, "KMS.0102");
    call("key").refused(400, "KMS.0240");
    call(&NO_KEY.to_uppercase()).refused(400, "KMS.0240");
    call(NO_KEY).refused(404, "KMS.0301");
    match alias_allowed {
        true => call("alias/nobody").refused(404, "KMS.0303"),
        false => call("alias/ecs").refused(400, "KMS.0240"),
    }
}

#[test]
fn describe_key() {
    let mock = start();
    let client = Client::new(&mock);
    keyref(&client, DESCRIBE_KEY, true);
    let created = client.call(CREATE_KEY, new_key("AES_256"));
    let described = client.call(DESCRIBE_KEY, json!({"cmkUuid": created.text("cmkUuid")}));
    assert_eq!(described.data(), created.data());
    let default = client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"}));
    assert_eq!(default.data()["isDefault"], true);
}

#[test]
fn list_keys() {
    let mock = start();
    let client = Client::new(&mock);
    let mut ids: Vec<String> = (0..11).map(|_| client.create("AES_256")).collect();
    ids.push(client.create("SM4_128"));
    client.call(DISABLE_KEY, json!({"cmkUuid": ids[0]})).data();
    let first = client.call(LIST_KEYS, json!({}));
    assert_eq!((&first.data()["pageNumber"], &first.data()["pageSize"]), (&json!(1), &json!(10)));
    assert_eq!(first.data()["totalCount"], 13);
    let mut seen = Vec::new();
    for page in 1..=4 {
        let answer = client.call(LIST_KEYS, json!({"pageNumber": page, "pageSize": 5}));
        let keys = answer.data()["keys"].as_array().expect("an array").clone();
        assert_eq!(keys.len(), [5, 5, 3, 0][page - 1]);
        seen.extend(keys);
    }
    let order: Vec<_> = seen.iter().map(|key| (key["creationDate"].to_string(), key["cmkUuid"].to_string())).collect();
    assert!(order.is_sorted());
    let count = |filter| client.call(LIST_KEYS, filter).data()["totalCount"].clone();
    for (filter, found) in [
        (json!({"keyState": "Disabled"}), 1),
        (json!({"keySpec": "Ctyun_SM4"}), 1),
        (json!({"keySpec": "AES_256", "keyState": "Enabled"}), 11),
        (json!({"keySpec": "none"}), 0),
        (json!({"keyUsage": "ENCRYPT/DECRYPT"}), 13),
        (json!({"origin": "EXTERNAL"}), 0),
        (json!({"protectionLevel": "SOFTWARE"}), 1),
        (json!({"product": "ecs"}), 1),
        (json!({"pageNumber": u64::MAX, "pageSize": 100}), 13),
    ] {
        assert_eq!(count(filter.clone()), found, "{filter}");
    }
    for (request, code) in [
        (json!({"pageSize": 101}), "KMS.0231"),
        (json!({"pageSize": 1001}), "KMS.0130"),
        (json!({"pageSize": 0}), "KMS.0231"),
        (json!({"pageNumber": -1}), "KMS.0101"),
        (json!({"pageNumber": 1.5}), "KMS.0101"),
        (json!({"product": ""}), "KMS.0135"),
        (json!({"product": "oss"}), "KMS.0136"),
        (json!({"pageSize": "10"}), "KMS.0128"),
    ] {
        client.call(LIST_KEYS, request).refused(400, code);
    }
}

#[test]
fn disable_and_enable_key() {
    let mock = start();
    let client = Client::new(&mock);
    keyref(&client, DISABLE_KEY, false);
    keyref(&client, ENABLE_KEY, false);
    let request = with(new_key("AES_256"), json!({"enableAutomaticRotation": true, "rotationInterval": 30}));
    let id = client.call(CREATE_KEY, request).text("cmkUuid");
    let blob = client.encrypt(&id, b"x").text("ciphertextBlob");
    let (body, describe) = (json!({"cmkUuid": id}), || client.call(DESCRIBE_KEY, json!({"cmkUuid": id})));
    for _ in 0..2 {
        assert_eq!(client.call(DISABLE_KEY, body.clone()).data(), &json!({}));
    }
    assert_eq!(
        (describe().text("keyState"), describe().text("automaticRotation")),
        ("Disabled".into(), "Suspended".into())
    );
    client.encrypt(&id, b"x").refused(400, "KMS.0206");
    client.decrypt(&blob).refused(400, "KMS.0206");
    client.data_key(&id).refused(400, "KMS.0206");
    for _ in 0..2 {
        assert_eq!(client.call(ENABLE_KEY, body.clone()).data(), &json!({}));
    }
    assert_eq!(
        (describe().text("keyState"), describe().text("automaticRotation")),
        ("Enabled".into(), "Enabled".into())
    );
    assert_eq!(client.decrypt(&blob).plaintext(), b"x");
    client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).data();
    client.call(ENABLE_KEY, body.clone()).refused(400, "KMS.0207");
    client.call(DISABLE_KEY, body).refused(400, "KMS.0203");
}

#[test]
fn schedule_and_cancel_key_deletion() {
    let mock = start();
    let client = Client::new(&mock);
    keyref(&client, SCHEDULE, false);
    keyref(&client, CANCEL, false);
    let id = client.create("AES_256");
    for (days, code) in [
        (json!(null), "KMS.0122"),
        (json!(6), "KMS.0226"),
        (json!(31), "KMS.0226"),
        (json!(7.5), "KMS.0226"),
        (json!("7"), "KMS.0128"),
    ] {
        client.call(SCHEDULE, with(json!({"cmkUuid": id}), json!({"pendingWindowInDays": days}))).refused(400, code);
    }
    client.call(CANCEL, json!({"cmkUuid": id})).refused(400, "KMS.0209");
    for state in [ENABLE_KEY, DISABLE_KEY] {
        client.call(state, json!({"cmkUuid": id})).data();
        let before = client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState");
        let planned = client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7}));
        let described = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
        assert_eq!(described.text("deleteDate"), planned.text("deleteDate"));
        assert_eq!(described.text("keyState"), "PendingDeletion");
        client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).refused(400, "KMS.0208");
        client.encrypt(&id, b"x").refused(400, "KMS.0203");
        client.call(CANCEL, json!({"cmkUuid": id})).data();
        assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), before);
    }
}

#[test]
fn a_key_is_gone_when_its_window_ends() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = client.create("SM4_128");
    let blob = client.encrypt(&id, b"x").text("ciphertextBlob");
    client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).data();
    mock.advance_clock(7 * DAY - Duration::from_secs(60));
    client.decrypt(&blob).refused(400, "KMS.0203");
    mock.advance_clock(Duration::from_secs(60));
    client.decrypt(&blob).refused(404, "KMS.0301");
    client.call(CANCEL, json!({"cmkUuid": id})).refused(404, "KMS.0301");
    client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).refused(404, "KMS.0301");
}

#[test]
fn a_key_rotates_by_itself() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let request = with(new_key("AES_256"), json!({"enableAutomaticRotation": true, "rotationInterval": "7"}));
    let key = client.call(CREATE_KEY, request);
    let id = key.text("cmkUuid");
    let old = client.encrypt(&id, b"old");
    mock.advance_clock(7 * DAY);
    let new = client.encrypt(&id, b"new");
    assert_ne!(new.text("keyVersionId"), old.text("keyVersionId"));
    assert_eq!(client.decrypt(&old.text("ciphertextBlob")).plaintext(), b"old");
    let described = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
    assert_eq!(described.text("primaryKeyVersion"), new.text("keyVersionId"));
    assert_ne!(described.text("lastRotationDate"), "");
    let moved =
        client.call(RE_ENCRYPT, json!({"ciphertextBlob": old.text("ciphertextBlob"), "destinationCmkUuid": id}));
    assert_eq!(moved.text("keyVersionId"), new.text("keyVersionId"));
}

#[test]
fn a_default_cmk_works_but_is_nobodys() {
    let mock = start();
    let client = Client::new(&mock);
    let id = default_cmk(&client);
    assert_eq!(client.decrypt(&client.encrypt("alias/ecs", b"x").text("ciphertextBlob")).plaintext(), b"x");
    client.call(ENABLE_KEY, json!({"cmkUuid": id})).refused(400, "KMS.0203");
    client.call(DISABLE_KEY, json!({"cmkUuid": id})).refused(400, "KMS.0203");
    client.call(SCHEDULE, json!({"cmkUuid": id, "pendingWindowInDays": 7})).refused(400, "KMS.0203");
}

#[test]
fn the_handle_makes_and_changes_keys_too() {
    let mock = start();
    let client = Client::new(&mock);
    let id = mock.create_key("AES_256").expect("a key");
    client.data_key(&id).data();
    mock.disable_key(&id).expect("disabled");
    client.data_key(&id).refused(400, "KMS.0206");
    mock.schedule_deletion(&id).expect("scheduled");
    client.data_key(&id).refused(400, "KMS.0203");
    mock.enable_key(&id).expect("enabled");
    let before = client.data_key(&id);
    mock.rotate_key(&id).expect("rotated");
    assert_ne!(client.data_key(&id).text("keyVersionId"), before.text("keyVersionId"));
    client.decrypt(&before.text("ciphertextBlob")).data();
    mock.delete_now(&id).expect("deleted");
    client.data_key(&id).refused(404, "KMS.0301");
    assert!(mock.delete_now(&id).is_err() && mock.create_key("RSA_3072").is_err());
    assert!(mock.set_key_state(&mock.create_key("SM4").expect("a key"), kms_mock::KeyState::PendingImport).is_err());
}
