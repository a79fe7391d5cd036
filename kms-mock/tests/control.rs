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
fn the_clock_goes_back_too() {
    let (mock, client) = start_open();
    let id = mock.create_key("AES_256").expect("a key");
    mock.schedule_deletion(&id).expect("scheduled");
    let blob = client.encrypt("alias/ecs", b"x").text("ciphertextBlob");
    ok(&client, "POST", "clock", json!({"advance_s": -7200}));
    client.call(LIST_KEYS, json!({})).refused(401, "KMS.0404");
    ok(&client, "POST", "switches", json!({"skew_s": 10_000}));
    assert_eq!(client.decrypt(&blob).plaintext(), b"x");
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), "PendingDeletion");
    // A quota counts the second that it is by the mock's clock, an earlier one too.
    mock.set_quota(Some(1));
    mock.shift_clock(-100);
    client.call(LIST_KEYS, json!({})).data();
    mock.shift_clock(-100);
    client.call(LIST_KEYS, json!({})).data();
    mock.set_quota(None);
    ok(&client, "POST", "switches", json!({"skew_s": 10_000_000}));
    ok(&client, "POST", "clock", json!({"advance_s": 8 * 86_400}));
    client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).refused(404, "KMS.0301");
    ok(&client, "POST", "clock", json!({"advance_s": -8 * 86_400}));
    client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).refused(404, "KMS.0301");
}

#[test]
fn latency() {
    let (mock, client) = start_open();
    let settings = json!([
        {"api": null, "kind": "uniform", "min_ms": 1.0, "max_ms": 2.0},
        {"api": "decrypt", "kind": "log_normal", "median_ms": 0.5, "p99_ms": 3.0},
        {"api": "encrypt", "kind": "spikes", "fraction": 0.1, "ms": 2000.0},
        {"api": "listKeys", "kind": "fixed", "ms": 50.0},
        {"api": "reEncrypt", "kind": "normal", "median_ms": 2.0, "p99_ms": 3.0},
    ]);
    for setting in settings.as_array().expect("an array") {
        ok(&client, "POST", "latency", setting.clone());
    }
    assert_eq!(ok(&client, "GET", "latency", json!({}))["latencies"], settings);
    ok(&client, "POST", "seed", json!({"seed": 5}));
    client.call(LIST_KEYS, json!({})).data();
    assert!(mock.call_log()[0].took_us.expect("answered") >= 50_000);
    let left = ok(&client, "POST", "latency", json!({"api": "listKeys", "kind": null}));
    assert_eq!(left["latencies"].as_array().map(Vec::len), Some(4));
    ok(&client, "POST", "reset", json!({}));
    assert_eq!(ok(&client, "GET", "latency", json!({}))["latencies"], json!([]));
    for bad in [
        json!({}),
        json!({"kind": "never"}),
        json!({"kind": "fixed", "ms": -1}),
        json!({"kind": "fixed", "ms": 1, "jitter": 1}),
        json!({"kind": "uniform", "min_ms": 2, "max_ms": 1}),
        json!({"kind": "spikes", "fraction": 2, "ms": 1}),
        json!({"kind": null, "ms": 1}),
        json!({"api": "Decrypt", "kind": "fixed", "ms": 1}),
    ] {
        assert_eq!(client.control("POST", "latency", bad.clone()).status, 400, "{bad}");
    }
}

#[test]
fn a_script_is_taken_as_a_whole() {
    let (mock, client) = start_open();
    let id = mock.create_key("AES_256").expect("a key");
    let good = json!({"api": "generateDataKey", "soft_error": "KMS.0512"});
    assert_eq!(client.control("POST", "faults", json!([good, {"code": "KMS.9999"}])).status, 400);
    client.data_key(&id).data();
    let script = json!([good, {"kind": "lying_blob"}, {"code": "KMS.0503", "probability": 1.0, "times": 1}]);
    assert_eq!(ok(&client, "POST", "faults", script)["active"], 3);
    let soft = client.data_key(&id);
    assert_eq!((soft.status, soft.code()), (200, "KMS.0512"));
    client.data_key(&id).refused(500, "KMS.0503");
    client.data_key(&id).data();
    ok(&client, "POST", "faults", json!({"kind": "reset", "probability": 1}));
    for _ in 0..3 {
        assert!(client.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err());
    }
    ok(&client, "DELETE", "faults", json!({}));
    for kind in ["content_type", "gzip"] {
        ok(&client, "POST", "faults", json!({"kind": kind}));
    }
    ok(&client, "POST", "faults", json!({"kind": "trickle", "bytes_per_second": 100_000}));
    assert_eq!([(); 3].map(|()| client.data_key(&id).status), [200; 3]);
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
        json!({"drop": true, "probability": 1.5}),
        json!({"kind": "trickle"}),
        json!({"kind": "trickle", "bytes_per_second": 0}),
        json!({"soft_error": "KMS.9999"}),
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
    let since = ok(&client, "GET", "calls?since=1&api=generateDataKey", json!({}));
    assert_eq!((&since["calls"][0], &since["last"], &since["dropped"]), (&seen["calls"][1], &json!(2), &json!(0)));
    assert!(since["calls"][0]["took_us"].is_u64() && since["calls"][0]["no"] == 2);
    assert_eq!(ok(&client, "GET", "calls?since=2", json!({}))["calls"], json!([]));
    for bad in ["since=x", "api=nothing", "until=5", "since"] {
        assert_eq!(client.control("GET", &format!("calls?{bad}"), json!({})).status, 400, "{bad}");
    }
    ok(&client, "POST", "reset", json!({}));
    assert_eq!(mock.calls("listKeys"), 0);
    client.call(LIST_KEYS, json!({})).data();
    assert_eq!(ok(&client, "GET", "calls?since=2", json!({}))["calls"][0]["no"], 3);
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
    ok(&client, "POST", "quota", json!({"api": "listKeys", "per_second": 0}));
    client.call(LIST_KEYS, json!({})).refused(401, "kms.0407");
    client.data_key("alias/ecs").data();
    assert_eq!(client.control("POST", "quota", json!({"api": "listkeys", "per_second": 0})).status, 400);
    ok(&client, "POST", "reset", json!({}));
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
