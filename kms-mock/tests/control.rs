//! The control doors.

mod common;

use std::net::SocketAddr;

use common::*;
use kms_mock::{MockConfig, MockKms, StartError};
use serde_json::{Value, json};

fn start_open() -> (MockKms, Client) {
    let mock = MockKms::start(MockConfig { control: true, ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    (mock, client)
}

#[track_caller]
fn ok(client: &Client, method: &str, door: &str, body: Value) -> Value {
    let answer = client.control(method, door, body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[test]
fn clock() {
    let (_mock, client) = start_open();
    assert_eq!(ok(&client, "POST", "clock", json!({"set": "2030-01-01T00:00:00Z"}))["now"], "2030-01-01T00:00:00Z");
    client.call(LIST_KEYS, json!({})).refused(401, "KMS.0404");
    ok(&client, "POST", "clock", json!({"set": 1_900_000_000, "advance_s": -1000}));
    assert!(ok(&client, "GET", "clock", json!({}))["now"].as_str().expect("a date").starts_with("2030-03-17"));
    ok(&client, "POST", "reset", json!({}));
    client.call(LIST_KEYS, json!({})).data();
    for bad in [json!({"set": "tomorrow"}), json!({"advance": 1}), json!([]), json!({"advance_s": "1"})] {
        assert_eq!(client.control("POST", "clock", bad).status, 400);
    }
}

#[test]
fn faults() {
    let (mock, client) = start_open();
    let id = mock.create_key("AES_256").expect("a key");
    ok(&client, "POST", "faults", json!({"api": "generateDataKey", "code": "KMS.0512", "times": 2, "delay_ms": 10}));
    for _ in 0..2 {
        client.data_key(&id).refused(500, "KMS.0512");
    }
    client.data_key(&id).data();
    ok(&client, "POST", "faults", json!({"http_status": 502}));
    assert_eq!(client.data_key(&id).status, 502);
    ok(&client, "POST", "faults", json!({"code": "KMS.0406", "step": 7}));
    client.call(DATA_KEY, json!({"cmkUuid": 7})).refused(401, "KMS.0406");
    ok(&client, "POST", "faults", json!({"kind": "lying_key_id", "times": -1}));
    for _ in 0..3 {
        assert_ne!(client.data_key(&id).text("cmkUuid"), id);
    }
    ok(&client, "POST", "faults", json!({"kind": "without_field", "field": "plaintext"}));
    assert_eq!(ok(&client, "GET", "faults", json!({}))["active"], 2);
    ok(&client, "DELETE", "faults", json!({}));
    assert_eq!(client.data_key(&id).text("cmkUuid"), id);
    for kind in ["drop", "drop_after", "truncate_body"] {
        ok(&client, "POST", "faults", json!({"kind": kind}));
        assert!(client.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err(), "{kind}");
    }
    ok(&client, "POST", "faults", json!({"drop": true}));
    assert!(client.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err());
    for bad in [
        json!({}),
        json!({"code": "KMS.9999"}),
        json!({"code": "KMS.0512", "step": 18}),
        json!({"code": "KMS.0512", "drop": true}),
        json!({"kind": "explode"}),
        json!({"api": "generatedatakey", "drop": true}),
        json!({"kind": "without_field"}),
        json!({"http_status": 100}),
        json!({"drop": true, "times": -2}),
    ] {
        assert_eq!(client.control("POST", "faults", bad.clone()).status, 400, "{bad}");
    }
}

#[test]
fn calls_and_reset() {
    let (mock, client) = start_open();
    client.call(LIST_KEYS, json!({})).data();
    client.data_key(NO_KEY).refused(404, "KMS.0301");
    let seen = ok(&client, "GET", "calls", json!({}));
    assert_eq!(seen["counts"], json!({"listKeys": 1, "generateDataKey": 1}));
    assert_eq!(seen["calls"][1]["code"], "KMS.0301");
    assert_eq!(seen["calls"][0]["access_key"], client.access_key);
    ok(&client, "POST", "reset", json!({}));
    assert_eq!(mock.calls("listKeys"), 0);
}

#[test]
fn quota_and_tenants() {
    let (_mock, client) = start_open();
    ok(&client, "POST", "quota", json!({"per_second": 0}));
    client.call(LIST_KEYS, json!({})).refused(401, "kms.0407");
    ok(&client, "POST", "tenants", json!({"accessKey": "other", "secretKey": "s", "quota": 1000}));
    let other = Client::with(&client.endpoint, "other", "s");
    other.call(LIST_KEYS, json!({})).data();
    ok(&client, "POST", "tenants", json!({"accessKey": "other", "frozen": true}));
    other.call(LIST_KEYS, json!({})).refused(401, "KMS.0406");
    assert_eq!(client.control("POST", "tenants", json!({"accessKey": "third"})).status, 400);
    ok(&client, "POST", "quota", json!({"per_second": null}));
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn switches() {
    let (mock, client) = start_open();
    let all = ok(&client, "POST", "switches", json!({"soft_errors": true, "payload_mode": "legacy"}));
    assert_eq!(all, ok(&client, "GET", "switches", json!({})));
    assert_eq!(client.data_key(NO_KEY).status, 200);
    let id = mock.create_key("AES_256").expect("a key");
    assert_eq!(client.data_key(&id).text("ciphertextBlob").len(), 204);
    for bad in [json!({"payload_mode": "ctr"}), json!({"soft_error": true}), json!({"skew_s": -1})] {
        assert_eq!(client.control("POST", "switches", bad).status, 400);
    }
    assert!(mock.switches().soft_errors);
}

#[test]
fn doors_are_shut_to_web_pages_and_strangers() {
    let (_mock, client) = start_open();
    let url = format!("{}/__mock/reset", client.endpoint);
    let answer = client.agent.post(&url).header("Origin", "http://example.org").send("{}").expect("an answer");
    assert_eq!(answer.status().as_u16(), 403);
    assert_eq!(client.control("POST", "nothing", json!({})).status, 404);
    assert_eq!(client.control("GET", "reset", json!({})).status, 404);
    let shut = start();
    assert_eq!(Client::new(&shut).control("POST", "reset", json!({})).code(), "KMS.0405");
    let listen: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let config = MockConfig { control: true, listen, ..MockConfig::default() };
    assert!(matches!(MockKms::start(config), Err(StartError::ControlInTheOpen(_))));
}
