//! describeKeyVersion, listKeyVersions, updateRotationPolicy, createKeyVersion, and rotation by the clock.

mod common;

use std::time::Duration;

use common::*;
use kms_mock::Switches;
use serde_json::json;

const DESCRIBE: &str = "/keyVersion/describeKeyVersion";
const LIST: &str = "/keyVersion/listKeyVersions";
const POLICY: &str = "/keyVersion/updateRotationPolicy";
const CREATE: &str = "/keyVersion/createKeyVersion";
const DAY: Duration = Duration::from_secs(86_400);

fn default_cmk(client: &Client) -> String {
    client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).text("cmkUuid")
}

fn external(client: &Client) -> String {
    let body = with(new_key("AES_256"), json!({"origin": "EXTERNAL", "enableAutomaticRotation": null}));
    client.call(CREATE_KEY, body).text("cmkUuid")
}

#[test]
fn create_key_version() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let old = client.encrypt(&id, b"before");
    client.call(CREATE, json!({"cmkUuid": id})).refused(400, "KMS.0229");
    mock.advance_clock(7 * DAY - Duration::from_secs(60));
    client.call(CREATE, json!({"cmkUuid": id})).refused(400, "KMS.0229");
    mock.advance_clock(Duration::from_secs(61));
    let made = client.call(CREATE, json!({"cmkUuid": id}));
    let version = &made.data()["keyVersion"];
    assert_eq!((&version["cmkUuid"], &version["primary"]), (&json!(id), &json!(true)));
    assert_eq!(client.encrypt(&id, b"after").data()["keyVersionId"], version["keyVersionId"]);
    assert_eq!(client.decrypt(&old.text("ciphertextBlob")).plaintext(), b"before");
    let described = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
    assert_eq!(described.data()["primaryKeyVersion"], version["keyVersionId"]);
    assert_ne!(described.text("lastRotationDate"), "");
    // Of an asymmetric key no version is the primary one, and all of them go on working.
    let rsa = client.call(CREATE_KEY, with(new_key("Ctyun_SM2"), json!({"enableAutomaticRotation": null})));
    assert_eq!(rsa.text("primaryKeyVersion"), "");
    mock.advance_clock(7 * DAY);
    let made = client.call(CREATE, json!({"cmkUuid": rsa.text("cmkUuid")}));
    assert_eq!(made.data()["keyVersion"]["primary"], false);
}

#[test]
fn create_key_version_refusals() {
    let mock = start_patient();
    let client = Client::new(&mock);
    mock.set_switches(Switches { rotation_min_age_s: 0, ..mock.switches() });
    let id = client.create("AES_256");
    for _ in 1..50 {
        client.call(CREATE, json!({"cmkUuid": id})).data();
    }
    client.call(CREATE, json!({"cmkUuid": id})).refused(400, "KMS.0228");
    mock.disable_key(&id).expect("disabled");
    client.call(CREATE, json!({"cmkUuid": id})).refused(400, "KMS.0230");
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(CREATE, json!({"cmkUuid": id})).refused(400, "KMS.0230");
    for (id, status, code) in [
        (external(&client), 404, "KMS.0306"),
        (default_cmk(&client), 400, "KMS.0211"),
        (NO_KEY.to_owned(), 404, "KMS.0301"),
        ("x".to_owned(), 400, "KMS.0240"),
        (String::new(), 400, "KMS.0102"),
    ] {
        client.call(CREATE, json!({"cmkUuid": id})).refused(status, code);
    }
}

#[test]
fn describe_and_list_key_versions() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = client.create("SM4");
    let first = client.encrypt(&id, b"x").text("keyVersionId");
    mock.rotate_key(&id).expect("rotated");
    mock.rotate_key(&id).expect("rotated");
    let list = client.call(LIST, json!({"cmkUuid": id}));
    let versions = list.data()["keyVersions"].as_array().expect("a list").clone();
    assert_eq!((versions.len(), &versions[0]["keyVersionId"]), (3, &json!(first)));
    assert_eq!(versions.iter().map(|version| version["primary"].clone()).collect::<Vec<_>>(), [false, false, true]);
    let page = client.call(LIST, json!({"cmkUuid": id, "pageSize": 2, "pageNumber": 2}));
    assert_eq!(page.data()["keyVersions"], json!([versions[2]]));
    for version in versions {
        let body = json!({"cmkUuid": id, "keyVersionId": version["keyVersionId"]});
        assert_eq!(client.call(DESCRIBE, body).data()["keyVersion"], version);
    }
    let other = client.create("SM4");
    for (body, status, code) in [
        (json!({"keyVersionId": first}), 400, "KMS.0102"),
        (json!({"cmkUuid": id}), 400, "KMS.0105"),
        (json!({"cmkUuid": "x", "keyVersionId": first}), 400, "KMS.0240"),
        (json!({"cmkUuid": NO_KEY, "keyVersionId": first}), 404, "KMS.0301"),
        (json!({"cmkUuid": other, "keyVersionId": first}), 404, "KMS.0304"),
    ] {
        client.call(DESCRIBE, body).refused(status, code);
    }
    client.call(LIST, json!({"cmkUuid": NO_KEY})).refused(404, "KMS.0301");
    client.call(LIST, json!({"cmkUuid": id, "pageSize": 101})).refused(400, "KMS.0231");
    client.call(LIST, json!({"cmkUuid": id, "pageSize": 1001})).refused(400, "KMS.0130");
}

#[test]
fn rotation_runs_on_the_clock_of_the_mock() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let old = client.encrypt(&id, b"old");
    let on = json!({"cmkUuid": id, "enableAutomaticRotation": true, "rotationInterval": "30d"});
    client.call(POLICY, on).data();
    let described = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
    assert_eq!(
        (described.text("automaticRotation"), described.text("rotationInterval")),
        ("Enabled".into(), "30".into())
    );
    mock.advance_clock(29 * DAY);
    assert_eq!(client.encrypt(&id, b"x").data()["keyVersionId"], old.data()["keyVersionId"]);
    mock.advance_clock(DAY + Duration::from_secs(5));
    assert_ne!(client.encrypt(&id, b"x").data()["keyVersionId"], old.data()["keyVersionId"]);
    assert_eq!(client.decrypt(&old.text("ciphertextBlob")).plaintext(), b"old");
    // Suspended while the key is disabled, and made up for when it is enabled again.
    mock.disable_key(&id).expect("disabled");
    mock.advance_clock(60 * DAY);
    let state = client.call(DESCRIBE_KEY, json!({"cmkUuid": id}));
    assert_eq!(state.text("automaticRotation"), "Suspended");
    mock.enable_key(&id).expect("enabled");
    let count = |client: &Client| client.call(LIST, json!({"cmkUuid": id})).data()["totalCount"].clone();
    assert_eq!(count(&client), 3);
    client.call(POLICY, json!({"cmkUuid": id, "enableAutomaticRotation": false})).data();
    mock.advance_clock(60 * DAY);
    assert_eq!(count(&client), 3);
}

#[test]
fn update_rotation_policy_refusals() {
    let mock = start();
    let client = Client::new(&mock);
    let (id, rsa) = (client.create("AES_256"), mock.create_key("Ctyun_SM2").expect("a key"));
    let on = |id: &str| json!({"cmkUuid": id, "enableAutomaticRotation": true, "rotationInterval": 30});
    for (body, status, code) in [
        (with(on(&id), json!({"cmkUuid": null})), 400, "KMS.0102"),
        (with(on(&id), json!({"enableAutomaticRotation": null})), 400, "KMS.0116"),
        (with(on(&id), json!({"rotationInterval": null})), 400, "KMS.0118"),
        (with(on(&id), json!({"enableAutomaticRotation": "yes"})), 400, "KMS.0217"),
        (with(on(&id), json!({"rotationInterval": 6})), 400, "KMS.0224"),
        (on("x"), 400, "KMS.0240"),
        (on(NO_KEY), 404, "KMS.0301"),
        (on(&rsa), 400, "KMS.0211"),
        (on(&external(&client)), 400, "KMS.0211"),
        (on(&default_cmk(&client)), 400, "KMS.0211"),
    ] {
        client.call(POLICY, body).refused(status, code);
    }
    mock.disable_key(&id).expect("disabled");
    client.call(POLICY, on(&id)).refused(400, "KMS.0230");
    mock.schedule_deletion(&id).expect("scheduled");
    client.call(POLICY, on(&id)).refused(400, "KMS.0230");
}
