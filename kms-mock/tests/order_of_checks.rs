//! The order of checks: each step's refusal, and that an earlier step wins over a later one.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::*;
use kms_mock::{Fault, FaultKind, MockConfig, MockKms};
use serde_json::{Value, json};

const GENUINE: &str = "Wed, 16 Jul 2025 15:47:53 CST";

/// Sends with headers of profile N in which some are replaced; an empty value removes one.
fn send(client: &Client, path: &str, body: &[u8], changes: &[(&str, &str)]) -> Answer {
    let fields: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut headers = client.native_headers(path, &fields);
    for (name, value) in changes {
        headers.retain(|(header, _)| header != name);
        if !value.is_empty() {
            let name = ["accessKey", "requestDate", "hmac"].into_iter().find(|known| known == name).expect("known");
            headers.push((name, (*value).to_owned()));
        }
    }
    client.send(path, &headers, body).expect("an answer")
}

#[test]
fn step_1_path_and_method() {
    let mock = start();
    let client = Client::new(&mock);
    for path in ["/", "/nowhere", "/cmkManage/listkeys", "/keyCompute/hmacSM3", "/__mock/calls"] {
        send(&client, path, b"{}", &[("accessKey", "")]).refused(401, "KMS.0405");
    }
    let mut get = client.agent.get(format!("{}{LIST_KEYS}", client.endpoint)).call().expect("an answer");
    assert_eq!(get.status().as_u16(), 401);
    assert!(get.body_mut().read_to_string().expect("a body").contains("KMS.0405"));
    assert_eq!(mock.calls("listKeys"), 0, "it did not reach the API");
}

#[test]
fn steps_2_to_6_authentication() {
    let mock = start();
    let client = Client::new(&mock);
    let check = |changes: &[(&str, &str)], code| send(&client, LIST_KEYS, b"{}", changes).refused(401, code);
    for header in ["accessKey", "requestDate", "hmac"] {
        check(&[(header, "")], "KMS.0401");
    }
    check(&[("accessKey", "nobody"), ("requestDate", "yesterday")], "KMS.0401");
    check(&[("requestDate", "yesterday"), ("hmac", "x")], "KMS.0403");
    check(&[("requestDate", GENUINE), ("hmac", "x")], "KMS.0404");
    check(&[("hmac", "x")], "KMS.0402");
    check(&[("hmac", "AAAA")], "KMS.0402");
    // A signature of another body or another path does not fit.
    send(&client, LIST_KEYS, b"[", &[("hmac", "x")]).refused(401, "KMS.0402");
    let headers = client.native_headers(LIST_KEYS, &json!({}));
    client.send(LIST_KEYS, &headers, br#"{"pageSize":5}"#).expect("an answer").refused(401, "KMS.0402");
    client.send(CREATE_KEY, &headers, b"{}").expect("an answer").refused(401, "KMS.0402");
    let forger = Client { secret_key: "guessed".into(), ..client.clone() };
    forger.call(LIST_KEYS, json!({})).refused(401, "KMS.0402");
    forger.call_eop(LIST_KEYS, json!({})).refused(401, "KMS.0402");
    assert!(mock.calls("listKeys") > 10, "refused calls count");
}

#[test]
fn profile_e_signs_body_and_query() {
    let mock = start();
    let client = Client::new(&mock);
    let path = format!("{LIST_KEYS}?b=2&a=1");
    let headers = client.eop_headers("a=1&b=2", b"{}");
    client.send(&path, &headers, b"{}").map(|answer| assert_eq!(answer.status, 200)).expect("an answer");
    client.send(LIST_KEYS, &headers, b"{}").expect("an answer").refused(401, "KMS.0402");
    client.send(&path, &headers, b"{ }").expect("an answer").refused(401, "KMS.0402");
    let mut both = client.native_headers(LIST_KEYS, &json!({}));
    both.extend(client.eop_headers("", b"{}"));
    client.send(LIST_KEYS, &both, b"{}").expect("an answer").refused(401, "KMS.0401");
    let mut no_date = client.eop_headers("", b"{}");
    no_date[1].1 = "now".into();
    client.send(LIST_KEYS, &no_date, b"{}").expect("an answer").refused(401, "KMS.0403");
}

#[test]
fn step_5_skew() {
    let mock = start();
    for (clock_error, allowed) in [(-910, false), (-890, true), (0, true), (890, true), (910, false)] {
        let client = Client { clock_error, ..Client::new(&mock) };
        match allowed {
            true => drop(client.call(LIST_KEYS, json!({})).data()),
            false => client.call(LIST_KEYS, json!({})).refused(401, "KMS.0404"),
        }
    }
    // eop-date is Beijing time with a misleading Z; a client that means UTC by it is eight hours early, and let in too.
    for (clock_error, status) in [(0, 200), (-8 * 3600, 200), (-4 * 3600, 401), (8 * 3600, 401)] {
        let client = Client { clock_error, ..Client::new(&mock) };
        assert_eq!(client.call_eop(LIST_KEYS, json!({})).status, status, "{clock_error}");
    }
    mock.advance_clock(Duration::from_secs(1000));
    Client::new(&mock).call(LIST_KEYS, json!({})).refused(401, "KMS.0404");
    let mut switches = mock.switches();
    switches.skew_s = 2000;
    mock.set_switches(switches);
    Client::new(&mock).call(LIST_KEYS, json!({})).data();
}

#[test]
fn step_7_frozen() {
    let mock = start();
    let client = Client::new(&mock);
    assert!(mock.set_frozen(&client.access_key, true));
    client.call(LIST_KEYS, json!({})).refused(401, "KMS.0406");
    Client { secret_key: "guessed".into(), ..client.clone() }.call(LIST_KEYS, json!({})).refused(401, "KMS.0402");
    assert!(mock.set_frozen(&client.access_key, false) && !mock.set_frozen("nobody", true));
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn step_9_quota() {
    let mock = start();
    let client = Client::new(&mock);
    mock.set_quota(Some(0));
    let answer = client.call(LIST_KEYS, json!({}));
    answer.refused(401, "kms.0407");
    assert_eq!(answer.body["message"], "Interface counter exceeded");
    send(&client, LIST_KEYS, b"[", &[]).refused(401, "kms.0407");
    mock.set_quota(Some(5));
    let start = Instant::now();
    let allowed = (0..20).filter(|_| client.call(LIST_KEYS, json!({})).status == 200).count() as u64;
    // Five in each second that the twenty calls touch.
    assert!((5..=5 * (start.elapsed().as_secs() + 2)).contains(&allowed), "{allowed}");
    mock.set_quota(None);
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn step_10_length() {
    let mock = start();
    let client = Client::new(&mock);
    let body = |length: usize| json!({"description": "x".repeat(length - r#"{"description":""}"#.len())});
    assert_eq!(body(65_536).to_string().len(), 65_536);
    client.call(LIST_KEYS, body(65_536)).data();
    client.call(LIST_KEYS, body(65_537)).refused(400, "KMS.0129");
    client.call_eop(LIST_KEYS, body(300_000)).refused(400, "KMS.0129");
    // Who is not let in learns nothing of the limit.
    Client { access_key: "nobody".into(), ..client.clone() }.call(LIST_KEYS, body(70_000)).refused(401, "KMS.0401");
    client.call(LIST_KEYS, json!({})).data();
    let mut switches = mock.switches();
    switches.max_body = 10;
    mock.set_switches(switches);
    client.call(LIST_KEYS, json!({"pageSize": 5})).refused(400, "KMS.0129");
}

#[test]
fn step_10_length_of_a_body_in_chunks() {
    let mock = start();
    let client = Client::new(&mock);
    let mut stream = TcpStream::connect(client.endpoint.trim_start_matches("http://")).expect("connects");
    let mut request =
        format!("POST {LIST_KEYS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n");
    for (name, value) in client.native_headers(LIST_KEYS, &json!({})) {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    for _ in 0..10 {
        request += &format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    }
    request += "0\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("KMS.0129"), "{answer}");
}

#[test]
fn step_11_json() {
    let mock = start();
    let client = Client::new(&mock);
    for body in ["", "[]", "{", "null", "{}{}", "\"x\"", "\u{0}"] {
        send(&client, LIST_KEYS, body.as_bytes(), &[]).refused(400, "KMS.0128");
        let headers = client.eop_headers("", body.as_bytes());
        client.send(LIST_KEYS, &headers, body.as_bytes()).expect("an answer").refused(400, "KMS.0128");
    }
    for body in [json!({"cmkUuid": 1}), json!({"cmkUuid": ["x"]}), json!({"cmkUuid": {}}), json!({"cmkUuid": true})] {
        client.call(DESCRIBE_KEY, body).refused(400, "KMS.0128");
    }
    client.call(DESCRIBE_KEY, json!({"cmkUuid": null})).refused(400, "KMS.0102");
    client.call(LIST_KEYS, json!({"nested": {"b": [1, {"a": "x y"}]}})).data();
}

#[test]
fn steps_12_to_17_one_after_the_other() {
    let mock = start();
    let client = Client::new(&mock);
    let sm4 = client.create("SM4_128");
    mock.disable_key(&sm4).expect("disabled");
    let request = |changes| with(json!({"cmkUuid": sm4, "keySpec": "AES_256"}), changes);
    client.call(DATA_KEY, request(json!({"cmkUuid": "", "keySpec": "DES"}))).refused(400, "KMS.0102");
    client.call(DATA_KEY, request(json!({"cmkUuid": NO_KEY, "keySpec": "DES"}))).refused(400, "KMS.0223");
    client.call(DATA_KEY, request(json!({"cmkUuid": NO_KEY}))).refused(404, "KMS.0301");
    client.call(DATA_KEY, request(json!({}))).refused(400, "KMS.0221");
    client.call(DATA_KEY, request(json!({"keySpec": "SM4_128"}))).refused(400, "KMS.0206");
    mock.enable_key(&sm4).expect("enabled");
    mock.inject(Fault { api: None, times: 1, kind: FaultKind::Code("KMS.0512".into()) });
    client.call(DATA_KEY, request(json!({}))).refused(400, "KMS.0221");
    client.call(DATA_KEY, request(json!({"keySpec": "SM4_128"}))).refused(500, "KMS.0512");
    client.call(DATA_KEY, request(json!({"keySpec": "SM4_128"}))).data();
}

#[test]
fn a_fault_can_name_its_step() {
    let mock = start();
    let client = Client::new(&mock);
    let inject = |step| {
        mock.inject(Fault { api: None, times: 1, kind: FaultKind::CodeAt { code: "KMS.0511".into(), step } });
    };
    inject(2);
    send(&client, LIST_KEYS, b"{}", &[("accessKey", "")]).refused(500, "KMS.0511");
    inject(6);
    send(&client, LIST_KEYS, b"{}", &[("requestDate", "x")]).refused(401, "KMS.0403");
    send(&client, LIST_KEYS, b"{}", &[("hmac", "x")]).refused(500, "KMS.0511");
    for (step, before, after) in [
        (12, json!([]), json!({})),
        (13, json!({}), json!({"cmkUuid": "x"})),
        (14, json!({"cmkUuid": "x"}), json!({"cmkUuid": NO_KEY})),
    ] {
        inject(step);
        assert_ne!(send(&client, DATA_KEY, before.to_string().as_bytes(), &[]).code(), "KMS.0511", "{step}");
        send(&client, DATA_KEY, after.to_string().as_bytes(), &[]).refused(500, "KMS.0511");
    }
}

#[test]
fn a_slow_request_is_cut_off() {
    let config = MockConfig { read_timeout: Duration::from_millis(200), ..MockConfig::default() };
    let mock = MockKms::start(config).expect("starts");
    let address = mock.endpoint().trim_start_matches("http://").to_owned();
    let whole = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    for sent in ["", whole, "POST /x HTTP/1.1\r\nHos", "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"] {
        let mut stream = TcpStream::connect(&address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        stream.write_all(sent.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        // Closed or reset, but not left waiting.
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    Client::new(&mock).call(LIST_KEYS, json!({})).data();
}

#[test]
fn rubbish_does_not_bring_it_down() {
    let mock = start();
    let address = mock.endpoint().trim_start_matches("http://").to_owned();
    for rubbish in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"POST / HTTP/9\r\n\r\n", &[b'A'; 100_000]] {
        let mut stream = TcpStream::connect(&address).expect("connects");
        let _ = stream.write_all(rubbish);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    Client::new(&mock).call(LIST_KEYS, json!({})).data();
}

#[test]
fn no_value_of_a_field_breaks_an_api() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let blob = client.encrypt(&id, b"x").text("ciphertextBlob");
    let fields = [
        "cmkUuid",
        "plaintext",
        "keySpec",
        "keyUsage",
        "protectionLevel",
        "enableAutomaticRotation",
        "rotationInterval",
        "origin",
        "description",
        "algorithm",
        "instanceId",
        "epId",
        "tags",
        "pendingWindowInDays",
        "pageNumber",
        "pageSize",
        "keyState",
        "product",
        "numberOfBytes",
        "ciphertextBlob",
        "destinationCmkUuid",
        "sourceCmkUuid",
        "sourceKeyVersionId",
        "sourceEncryptionAlgorithm",
    ];
    let values = [
        json!(null),
        json!(""),
        json!(" "),
        json!("é\u{0}\n\""),
        json!("x".repeat(5000)),
        json!("alias/"),
        json!("-1"),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(0.5),
        json!(true),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"a": null}),
        json!("MDA2NA=="),
    ];
    let good = json!({
        "cmkUuid": id, "plaintext": "eA==", "keySpec": "AES_256", "keyUsage": "ENCRYPT/DECRYPT", "protectionLevel": "HSM",
        "enableAutomaticRotation": true, "rotationInterval": 7, "pendingWindowInDays": 7, "ciphertextBlob": blob,
        "destinationCmkUuid": id,
    });
    for path in [
        CREATE_KEY,
        DESCRIBE_KEY,
        LIST_KEYS,
        ENABLE_KEY,
        DISABLE_KEY,
        SCHEDULE,
        CANCEL,
        ENCRYPT,
        DECRYPT,
        DATA_KEY,
        DATA_KEY_WITHOUT,
        RE_ENCRYPT,
    ] {
        for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |value| (*field, value))) {
            let mut body = good.clone();
            body[field] = value.clone();
            let answer = client.call(path, body);
            let expected = matches!(answer.status, 200 | 400 | 404);
            assert!(expected && answer.body["requestId"].is_string(), "{path} {field} {value}: {}", answer.body);
            mock.enable_key(&id).expect("enabled");
        }
    }
}
