//! Every code of the published table comes back over HTTP with its exact status, code and message.

mod common;

use common::*;
use kms_mock::{Fault, FaultKind, MockConfig, MockKms};
use serde_json::json;

fn raise(mock: &MockKms, code: &str) {
    let kind = FaultKind::Code(code.to_owned());
    mock.inject(Fault { api: Some("listKeys".into()), times: 1, kind });
}

#[test]
fn every_code_can_be_raised() {
    let mock = start();
    let client = Client::new(&mock);
    assert_eq!(published().len(), 139);
    for (code, (status, message)) in published() {
        raise(&mock, code);
        let answer = client.call(LIST_KEYS, json!({}));
        answer.refused(status, code);
        assert_eq!(answer.body["message"], message);
        assert_eq!(answer.body["statusCode"], status);
        assert_eq!(answer.body["requestId"].as_str().map(str::len), Some(36));
    }
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn soft_errors_tell_in_the_body_only() {
    let mock = MockKms::start(MockConfig { soft_errors: true, ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    for (code, (status, message)) in published() {
        raise(&mock, code);
        let answer = client.call(LIST_KEYS, json!({}));
        assert_eq!(answer.status, 200);
        assert_eq!((answer.body["code"].as_u64(), answer.code()), (Some(status.into()), code));
        assert_eq!(answer.body["message"], message);
    }
    let lost = client.call("/nowhere", json!({}));
    assert_eq!((lost.status, lost.code()), (200, "KMS.0405"));
}

#[test]
fn a_code_that_is_not_in_the_table() {
    let mock = start();
    raise(&mock, "KMS.0999");
    Client::new(&mock).call(LIST_KEYS, json!({})).refused(500, "KMS.0999");
}

/// In alphabetical order.
fn names(object: &serde_json::Map<String, serde_json::Value>) -> Vec<&str> {
    let mut names: Vec<_> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn envelopes_of_a_success() {
    let mock = start();
    let client = Client::new(&mock);
    let native = client.call(LIST_KEYS, json!({}));
    assert_eq!(native.status, 200);
    let body = native.body.as_object().expect("an object");
    assert_eq!(names(body), ["code", "data", "errorCode", "message", "requestId"]);
    assert_eq!((&body["code"], &body["errorCode"], &body["message"]), (&json!(200), &json!("0"), &json!("成功")));
    let eop = client.call_eop(LIST_KEYS, json!({}));
    assert_eq!(eop.status, 200);
    let body = eop.body.as_object().expect("an object");
    assert_eq!(names(body), ["code", "requestId", "result", "statusCode", "success"]);
    assert_eq!((&body["code"], &body["statusCode"], &body["success"]), (&json!(200), &json!(200), &json!(1)));
    assert_eq!(body["result"], native.body["data"]);
    assert_ne!(body["requestId"], native.body["requestId"]);
}

#[test]
fn both_profiles_reach_the_same_keys() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let made = client.call_eop(DATA_KEY, json!({"cmkUuid": id}));
    let blob = made.body["result"]["ciphertextBlob"].as_str().expect("a blob");
    assert_eq!(client.decrypt(blob).data()["plaintext"], made.body["result"]["plaintext"]);
    client.call_eop(DATA_KEY, json!({"cmkUuid": NO_KEY})).refused(404, "KMS.0301");
}
