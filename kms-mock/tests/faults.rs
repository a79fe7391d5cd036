//! Each kind of fault, that none of them disturbs other requests, and that none of them keeps the mock from stopping.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use kms_mock::{Fault, FaultKind, MockKms};
use serde_json::json;

fn inject(mock: &MockKms, api: &str, kind: FaultKind) {
    mock.inject(Fault { api: Some(api.to_owned()), times: 1, kind });
}

fn setup() -> (MockKms, Client, String) {
    let mock = start();
    let client = Client::new(&mock);
    let id = mock.create_key("AES_256").expect("a key");
    (mock, client, id)
}

#[test]
fn code_for_some_calls() {
    let (mock, client, id) = setup();
    mock.inject(Fault { api: Some("generateDataKey".into()), times: 2, kind: FaultKind::Code("KMS.0512".into()) });
    client.encrypt(&id, b"x").data();
    for _ in 0..2 {
        client.data_key(&id).refused(500, "KMS.0512");
    }
    client.data_key(&id).data();
    mock.inject(Fault { api: None, times: u32::MAX, kind: FaultKind::Code("kms.0407".into()) });
    for _ in 0..5 {
        client.data_key(&id).refused(401, "kms.0407");
        client.encrypt(&id, b"x").refused(401, "kms.0407");
    }
    mock.clear_faults();
    client.data_key(&id).data();
}

#[test]
fn a_code_changes_nothing() {
    let (mock, client, id) = setup();
    inject(&mock, "disableKey", FaultKind::Code("KMS.0503".into()));
    client.call(DISABLE_KEY, json!({"cmkUuid": id})).refused(500, "KMS.0503");
    client.data_key(&id).data();
    inject(&mock, "createKey", FaultKind::Code("KMS.0515".into()));
    client.call(CREATE_KEY, new_key("AES_256")).refused(500, "KMS.0515");
    assert_eq!(client.call(LIST_KEYS, json!({})).data()["totalCount"], 2);
}

#[test]
fn status() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Status(503));
    let answer = client.data_key(&id);
    assert_eq!((answer.status, answer.body), (503, json!("")));
    assert_eq!(mock.call_log().last().and_then(|record| record.status), Some(503));
}

#[test]
fn delay_holds_up_one_request_only() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Delay(Duration::from_millis(1000)));
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let start = Instant::now();
            client.data_key(&id).data();
            start.elapsed()
        });
        wait_for(|| mock.calls("generateDataKey") == 1);
        let start = Instant::now();
        client.data_key(&id).data();
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
        assert!(slow.join().expect("no panic") >= Duration::from_millis(1000));
    });
}

#[test]
fn delay_adds_to_another_fault() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Delay(Duration::from_millis(100)));
    inject(&mock, "generateDataKey", FaultKind::Code("KMS.0512".into()));
    let start = Instant::now();
    client.data_key(&id).refused(500, "KMS.0512");
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn hang() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Hang);
    let impatient = client.with_timeout(Duration::from_millis(200));
    assert!(impatient.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err());
    client.data_key(&id).data();
}

#[test]
fn clearing_the_faults_closes_what_hangs() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Hang);
    thread::scope(|scope| {
        let hanging = scope.spawn(|| client.try_call(DATA_KEY, json!({"cmkUuid": id})));
        wait_for(|| mock.calls("generateDataKey") == 1);
        thread::sleep(Duration::from_millis(50));
        mock.clear_faults();
        assert!(hanging.join().expect("no panic").is_err());
    });
}

#[test]
fn what_hangs_does_not_hinder_stopping() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Hang);
    inject(&mock, "encrypt", FaultKind::Delay(Duration::from_secs(3600)));
    let (sender, receiver) = mpsc::channel();
    for path in [DATA_KEY, ENCRYPT] {
        let (client, sender, body) = (client.clone(), sender.clone(), json!({"cmkUuid": id, "plaintext": "eA=="}));
        thread::spawn(move || sender.send(client.try_call(path, body).is_err()));
    }
    wait_for(|| mock.calls("generateDataKey") == 1 && mock.calls("encrypt") == 1);
    let start = Instant::now();
    mock.stop();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    for _ in 0..2 {
        assert!(receiver.recv_timeout(Duration::from_secs(5)).expect("both requests end"));
    }
    assert!(client.try_call(LIST_KEYS, json!({})).is_err(), "nobody listens any more");
}

#[test]
fn drop_before_and_after_the_work() {
    let (mock, client, id) = setup();
    inject(&mock, "disableKey", FaultKind::Drop);
    assert!(client.try_call(DISABLE_KEY, json!({"cmkUuid": id})).is_err());
    client.data_key(&id).data();
    inject(&mock, "disableKey", FaultKind::DropAfter);
    assert!(client.try_call(DISABLE_KEY, json!({"cmkUuid": id})).is_err());
    client.data_key(&id).refused(400, "KMS.0206");
    assert_eq!(mock.calls("disableKey"), 2);
}

#[test]
fn truncated_body() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::TruncateBody);
    assert!(client.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err());
    client.data_key(&id).data();
}

#[test]
fn bodies_of_the_wrong_kind() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::NotJson);
    let answer = client.data_key(&id);
    assert!(answer.status == 200 && answer.body.as_str().is_some_and(|html| html.starts_with("<html>")));
    inject(&mock, "generateDataKey", FaultKind::EmptyBody);
    assert_eq!(client.data_key(&id).body, json!(""));
    inject(&mock, "generateDataKey", FaultKind::OversizedBody);
    assert_eq!(client.data_key(&id).text("cmkUuid"), id, "8 MiB of JSON");
    client.data_key(&id).data();
}

#[test]
fn lies() {
    let (mock, client, id) = setup();
    let made = client.data_key(&id);
    let blob = made.text("ciphertextBlob");
    for api in ["decrypt", "generateDataKey"] {
        inject(&mock, api, FaultKind::LyingPlaintext);
    }
    let lie = client.decrypt(&blob).plaintext();
    assert_eq!(lie.len(), 32);
    assert_ne!(lie, made.plaintext());
    assert_eq!(client.decrypt(&blob).plaintext(), made.plaintext());
    let lying = client.data_key(&id);
    assert_ne!(client.decrypt(&lying.text("ciphertextBlob")).plaintext(), lying.plaintext());
    inject(&mock, "decrypt", FaultKind::ShortPlaintext);
    assert_eq!(client.decrypt(&blob).plaintext().len(), 16);
    inject(&mock, "decrypt", FaultKind::LyingKeyId);
    assert_ne!(client.decrypt(&blob).text("cmkUuid"), id);
    inject(&mock, "decrypt", FaultKind::WithoutField("plaintext".into()));
    assert!(client.decrypt(&blob).data().get("plaintext").is_none());
    assert_eq!(client.decrypt(&blob).plaintext(), made.plaintext());
}

#[test]
fn calls_are_counted_and_logged() {
    let (mock, client, id) = setup();
    client.data_key(&id).data();
    client.data_key(NO_KEY).refused(404, "KMS.0301");
    Client { access_key: "nobody".into(), ..client.clone() }.data_key(&id).refused(401, "KMS.0401");
    assert_eq!((mock.calls("generateDataKey"), mock.calls("decrypt")), (3, 0));
    let log = mock.call_log();
    let codes: Vec<_> = log.iter().map(|record| record.code.as_deref().expect("answered")).collect();
    assert_eq!(codes, ["0", "KMS.0301", "KMS.0401"]);
    assert_eq!(log[2].access_key.as_deref(), Some("nobody"));
    mock.reset_calls();
    assert_eq!((mock.calls("generateDataKey"), mock.call_log().len()), (0, 0));
}

#[test]
fn it_starts_inside_a_runtime_too() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mock, client, id) = setup();
        client.data_key(&id).data();
        drop(mock);
    });
}

fn wait_for(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came");
        thread::sleep(Duration::from_millis(2));
    }
}
