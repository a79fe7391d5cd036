//! Each kind of fault, that none of them disturbs other requests, and that none of them keeps the mock from stopping.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use kms_mock::{Fault, FaultKind, Latency, MockKms};
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
fn soft_error() {
    let (mock, client, id) = setup();
    inject(&mock, "disableKey", FaultKind::SoftError("KMS.0503".into()));
    let answer = client.call(DISABLE_KEY, json!({"cmkUuid": id}));
    assert_eq!((answer.status, answer.code(), &answer.body["code"]), (200, "KMS.0503", &json!(500)));
    client.data_key(&id).data();
    client.data_key(NO_KEY).refused(404, "KMS.0301");
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

/// What a raw connection reads after sending a request: the connection's end is part of it.
fn raw_call(mock: &MockKms) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(mock.address()).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    stream.write_all(format!("POST {DATA_KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map(|_| answer)
}

#[test]
fn a_reset_is_not_an_orderly_close() {
    let (mock, client, id) = setup();
    inject(&mock, "generateDataKey", FaultKind::Drop);
    assert_eq!(raw_call(&mock).expect("an orderly close"), b"");
    inject(&mock, "generateDataKey", FaultKind::Reset);
    assert_eq!(raw_call(&mock).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    client.data_key(&id).data();
}

#[test]
fn trickled_body() {
    let (mock, client, id) = setup();
    let trickle = |bytes| FaultKind::Trickle { bytes_per_second: NonZeroU32::new(bytes).expect("not 0") };
    inject(&mock, "generateDataKey", trickle(1000));
    let start = Instant::now();
    let length = client.data_key(&id).body.to_string().len();
    assert!(length > 300 && start.elapsed() > Duration::from_millis(250), "{length} {:?}", start.elapsed());
    inject(&mock, "generateDataKey", trickle(1));
    let impatient = client.with_timeout(Duration::from_millis(1500));
    assert!(impatient.try_call(DATA_KEY, json!({"cmkUuid": id})).is_err());
    client.data_key(&id).data();
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
    for (kind, header, value) in
        [(FaultKind::ContentType, "content-type", "text/html"), (FaultKind::Gzip, "content-encoding", "gzip")]
    {
        inject(&mock, "generateDataKey", kind);
        let body = json!({"cmkUuid": id});
        let mut request = client.agent.post(format!("{}{DATA_KEY}", client.endpoint));
        for (name, value) in client.native_headers(DATA_KEY, &body) {
            request = request.header(name, value);
        }
        let mut answer = request.send(body.to_string()).expect("an answer");
        assert_eq!(answer.headers()[header], value);
        assert!(answer.body_mut().read_to_string().expect("text").starts_with("{"), "the body is what it was");
    }
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
    inject(&mock, "generateDataKey", FaultKind::LyingBlob);
    let lying = client.data_key(&id).text("ciphertextBlob");
    assert_eq!((lying.len(), &lying[..80]), (blob.len(), &blob[..80]));
    client.decrypt(&lying).refused(400, "KMS.0219");
    inject(&mock, "decrypt", FaultKind::LyingKeyId);
    assert_ne!(client.decrypt(&blob).text("cmkUuid"), id);
    inject(&mock, "decrypt", FaultKind::WithoutField("plaintext".into()));
    assert!(client.decrypt(&blob).data().get("plaintext").is_none());
    assert_eq!(client.decrypt(&blob).plaintext(), made.plaintext());
}

#[test]
fn a_probability() {
    let (mock, client, id) = setup();
    let code = || Fault { api: None, times: u32::MAX, kind: FaultKind::Code("KMS.0512".into()) };
    let run = || -> Vec<u16> {
        mock.set_seed(11);
        (0..100).map(|_| client.data_key(&id).status).collect()
    };
    mock.inject_at_random(code(), 0.3);
    let first = run();
    let struck = first.iter().filter(|status| **status == 500).count();
    assert!((15..45).contains(&struck), "{struck}");
    assert_eq!(run(), first, "the seed repeats");
    mock.clear_faults();
    mock.inject_at_random(Fault { times: 2, ..code() }, 1.0);
    mock.inject_at_random(code(), 0.0);
    assert_eq!([(); 3].map(|()| client.data_key(&id).status), [500, 500, 200]);
}

#[test]
fn standing_latency() {
    let (mock, client, id) = setup();
    let took = |call: &dyn Fn()| {
        let start = Instant::now();
        call();
        start.elapsed()
    };
    let delay = Duration::from_millis(300);
    mock.set_latency(None, Some(Latency::Fixed { delay }));
    mock.set_latency(Some("encrypt"), Some(Latency::Spikes { fraction: 0.0, delay }));
    for _ in 0..2 {
        assert!(took(&|| assert_eq!(client.data_key(&id).status, 200)) >= delay);
        assert!(took(&|| assert_eq!(client.encrypt(&id, b"x").status, 200)) < delay, "it has a setting of its own");
    }
    // A fault comes on top.
    inject(&mock, "generateDataKey", FaultKind::Delay(delay));
    assert!(took(&|| assert_eq!(client.data_key(&id).status, 200)) >= 2 * delay);
    let log = mock.calls_since(0, Some("generateDataKey"));
    assert!(log.calls.iter().all(|record| record.took_us.expect("answered") >= 300_000));
    mock.set_latency(None, None);
    assert!(took(&|| assert_eq!(client.data_key(&id).status, 200)) < delay);
}

#[test]
fn a_script_of_faults() {
    let (mock, client, id) = setup();
    let code = |code: &str| FaultKind::Code(code.into());
    let fault = |times, kind| Fault { api: None, times, kind };
    mock.inject_all([fault(1, code("KMS.0512")), fault(2, code("KMS.0503")), fault(1, FaultKind::Status(502))]);
    // The status strikes before the checks, so it comes first whatever its place.
    assert_eq!(client.data_key(&id).status, 502);
    for code in ["KMS.0512", "KMS.0503", "KMS.0503"] {
        client.data_key(&id).refused(500, code);
    }
    client.data_key(&id).data();
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
    assert!(log.iter().all(|record| record.took_us.is_some()) && log[0].no < log[1].no);
    let since = mock.calls_since(log[0].no, Some("generateDataKey"));
    assert_eq!((since.calls, since.last, since.dropped), (log[1..].to_vec(), log[2].no, 0));
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
