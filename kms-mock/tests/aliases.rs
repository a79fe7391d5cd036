//! createAlias, updateAlias, deleteAlias, listAliases, listAliasesByCmkUuid.

mod common;

use common::*;
use kms_mock::{MockConfig, MockKms, Storage};
use serde_json::{Value, json};

const CREATE: &str = "/aliasManage/createAlias";
const UPDATE: &str = "/aliasManage/updateAlias";
const DELETE: &str = "/aliasManage/deleteAlias";
const LIST: &str = "/aliasManage/listAliases";
const LIST_OF_KEY: &str = "/aliasManage/listAliasesByCmkUuid";

fn names(client: &Client, path: &str, body: Value) -> Vec<String> {
    let answer = client.call(path, body);
    let aliases = answer.data()["aliases"].as_array().expect("a list");
    aliases.iter().map(|alias| alias["aliasName"].as_str().expect("a name").to_owned()).collect()
}

fn default_cmk(client: &Client) -> String {
    client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).text("cmkUuid")
}

#[test]
fn create_alias() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    for name in ["alias/b", "alias/A-1_/x", &format!("alias/{}", "l".repeat(255))] {
        client.call(CREATE, json!({"aliasName": name, "cmkUuid": id})).data();
        assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": name})).text("cmkUuid"), id);
        client.call(DATA_KEY, json!({"cmkUuid": name})).data();
    }
    mock.schedule_deletion(&id).expect("scheduled");
    let default = default_cmk(&client);
    for (alias, id, status, code) in [
        (json!(""), json!(id), 400, "KMS.0103"),
        (json!(null), json!(id), 400, "KMS.0103"),
        (json!(format!("alias/{}", "l".repeat(256))), json!(id), 400, "KMS.0132"),
        (json!("l".repeat(300)), json!(id), 400, "KMS.0132"),
        (json!("b"), json!(id), 400, "KMS.0133"),
        (json!("alias/"), json!(id), 400, "KMS.0133"),
        (json!("alias/a b"), json!(id), 400, "KMS.0133"),
        (json!("alias/c"), json!(""), 400, "KMS.0102"),
        (json!("alias/c"), json!("alias/b"), 400, "KMS.0240"),
        (json!("alias/c"), json!(NO_KEY), 404, "KMS.0302"),
        (json!("alias/b"), json!(id), 400, "KMS.0201"),
        (json!("alias/ecs"), json!(default), 400, "KMS.0201"),
        (json!("alias/c"), json!(default), 400, "KMS.0202"),
        (json!("alias/c"), json!(id), 400, "KMS.0233"),
        (json!(1), json!(id), 400, "KMS.0128"),
    ] {
        client.call(CREATE, json!({"aliasName": alias, "cmkUuid": id})).refused(status, code);
    }
}

#[test]
fn update_alias() {
    let mock = start();
    let client = Client::new(&mock);
    let (a, b, dying) = (client.create("AES_256"), client.create("SM4"), client.create("AES_256"));
    client.call(CREATE, json!({"aliasName": "alias/x", "cmkUuid": a})).data();
    client.call(UPDATE, json!({"aliasName": "alias/x", "cmkUuid": b})).data();
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/x"})).text("cmkUuid"), b);
    mock.schedule_deletion(&dying).expect("scheduled");
    let default = default_cmk(&client);
    for (alias, id, status, code) in [
        ("", a.as_str(), 400, "KMS.0103"),
        ("x", &a, 400, "KMS.0133"),
        (&"y".repeat(256), &a, 400, "KMS.0132"),
        ("alias/x", "", 400, "KMS.0102"),
        ("alias/x", "a", 400, "KMS.0240"),
        ("alias/y", &a, 404, "KMS.0303"),
        ("alias/x", NO_KEY, 404, "KMS.0304"),
        ("alias/x", &dying, 404, "KMS.0304"),
        ("alias/x", &default, 400, "KMS.0243"),
        ("alias/ecs", &a, 400, "KMS.0243"),
    ] {
        client.call(UPDATE, json!({"aliasName": alias, "cmkUuid": id})).refused(status, code);
    }
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/x"})).text("cmkUuid"), b);
}

#[test]
fn delete_alias() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    client.call(CREATE, json!({"aliasName": "alias/x", "cmkUuid": id})).data();
    for (alias, status, code) in
        [("", 400, "KMS.0103"), ("x", 400, "KMS.0133"), ("alias/y", 404, "KMS.0303"), ("alias/ecs", 400, "KMS.0234")]
    {
        client.call(DELETE, json!({"aliasName": alias})).refused(status, code);
    }
    client.call(DELETE, json!({"aliasName": "alias/x"})).data();
    client.call(DELETE, json!({"aliasName": "alias/x"})).refused(404, "KMS.0303");
    client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).data();
    client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/x"})).refused(404, "KMS.0303");
}

#[test]
fn list_aliases() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    for name in ["alias/z", "alias/a"] {
        client.call(CREATE, json!({"aliasName": name, "cmkUuid": id})).data();
    }
    assert_eq!(names(&client, LIST, json!({})), ["alias/a", "alias/ecs", "alias/z"]);
    assert_eq!(names(&client, LIST, json!({"pageSize": 2, "pageNumber": 2})), ["alias/z"]);
    assert_eq!(names(&client, LIST_OF_KEY, json!({"cmkUuid": id})), ["alias/a", "alias/z"]);
    client.call(LIST, json!({"pageSize": 101})).refused(400, "KMS.0231");
    client.call(LIST, json!({"pageSize": 1001})).refused(400, "KMS.0130");
    client.call(LIST_OF_KEY, json!({"cmkUuid": id, "pageSize": 101})).refused(400, "KMS.0231");
    client.call(LIST_OF_KEY, json!({"cmkUuid": ""})).refused(400, "KMS.0102");
    client.call(LIST_OF_KEY, json!({"cmkUuid": "alias/a"})).refused(400, "KMS.0240");
    client.call(LIST_OF_KEY, json!({"cmkUuid": NO_KEY})).refused(404, "KMS.0301");
    let switches = mock.switches();
    mock.set_switches(kms_mock::Switches { strict_region: true, ..switches });
    client.call(LIST, json!({})).refused(400, "KMS.0115");
    client.call(LIST, json!({"regionId": "r"})).data();
    mock.delete_now(&id).expect("deleted");
    mock.set_switches(switches);
    assert_eq!(names(&client, LIST, json!({})), ["alias/ecs"]);
}

#[test]
fn aliases_outlive_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || MockConfig { data: Storage::Dir(directory.path().join("kms")), ..MockConfig::default() };
    let mock = MockKms::start(config()).expect("starts");
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    client.call(CREATE, json!({"aliasName": "alias/x", "cmkUuid": id})).data();
    mock.stop();
    let mock = MockKms::start(config()).expect("starts again");
    assert_eq!(Client::new(&mock).call(DESCRIBE_KEY, json!({"cmkUuid": "alias/x"})).text("cmkUuid"), id);
}
