//! What comes over a connection besides well-behaved requests, and that none of it keeps others from being served.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::served::{self, Served};
use common::*;
use kms_mock::{MockConfig, MockKms};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// How many a hostile client opens.
const CROWD: usize = 10_000;

/// As many connections as the machine lets one process have, 10 000 at most.
fn crowd_size() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("the soft limit may be raised");
    let descriptors = limit.maximum.unwrap_or(u64::MAX);
    CROWD.min(usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(100))
}

fn connect(address: &SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream
}

/// Everything up to the end of the connection. A reset after the answer is an end too.
fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it was left waiting");
    }
    String::from_utf8(answer).expect("UTF-8")
}

/// A signed request for the list of keys.
fn request(client: &Client, version: &str, more_headers: &str) -> String {
    let headers: String = client
        .native_headers(LIST_KEYS, &json!({}))
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("POST {LIST_KEYS} HTTP/{version}\r\nHost: x\r\n{headers}{more_headers}Content-Length: 2\r\n\r\n{{}}")
}

/// A crowd of connections that each say `words`, with an honest client among them: one that keeps its connection, one that makes a
/// new one for every call.
fn an_honest_client_in_a_crowd(words: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mut served = Served::start(&["--in-memory", "--data", data.to_str().expect("UTF-8")], &[]);
    let address = served.text("listening").trim_start_matches("http://").parse().expect("an address");
    let keeping = served.client();
    let mut crowd = Vec::new();
    for at in 0..crowd_size() {
        let mut stream = connect(&address);
        // It may have been closed already, which is what a crowd is for.
        let _ = stream.write_all(words);
        crowd.push(stream);
        if at % 500 == 0 {
            keeping.call(LIST_KEYS, json!({})).data();
            keeping.with_timeout(Duration::from_secs(20)).call(LIST_KEYS, json!({})).data();
        }
    }
    served.client().call(LIST_KEYS, json!({})).data();
    // The first of the crowd made room, the last are still there.
    let last = crowd.last().expect("a crowd");
    last.set_nonblocking(true).expect("set");
    assert_eq!((&*last).read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    if crowd.len() > 5000 {
        assert!(!matches!(crowd[0].read(&mut [0]), Ok(1..)), "closed or reset");
    }
    assert!(served.signal("-TERM").success());
}

#[test]
fn ten_thousand_connections_that_send_nothing() {
    an_honest_client_in_a_crowd(b"");
}

#[test]
fn ten_thousand_connections_that_do_not_finish_a_header() {
    an_honest_client_in_a_crowd(b"POST /keyCompute/decrypt HTTP/1.1\r\nHost: x\r\nX-");
}

#[test]
fn ten_thousand_connections_that_do_not_finish_a_body() {
    an_honest_client_in_a_crowd(b"POST /keyCompute/decrypt HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
}

#[test]
fn few_descriptors() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let whole = served::command(&["--in-memory", "--data", data.to_str().expect("UTF-8")], &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(whole.get_program()).args(whole.get_args());
    let mut served = Served::run(limited);
    let address = served.text("listening").trim_start_matches("http://").parse().expect("an address");
    let client = served.client();
    let idle: Vec<_> = (0..200).map(|_| connect(&address)).collect();
    client.call(LIST_KEYS, json!({})).data();
    drop(idle);
    // Connections that a fault holds cannot make room; the descriptors run out, and come free again.
    client.control("POST", "faults", json!({"delay_ms": 500, "times": -1}));
    let mut held: Vec<_> = (0..200).map(|_| connect(&address)).collect();
    for stream in &mut held {
        let _ = stream.write_all(request(&client, "1.1", "").as_bytes());
    }
    served.client().call(LIST_KEYS, json!({})).data();
    assert!(served.signal("-TERM").success());
}

#[test]
fn a_byte_now_and_then_does_not_prolong_a_request() {
    let config = MockConfig { read_timeout: Duration::from_millis(500), ..MockConfig::default() };
    let mock = MockKms::start(config).expect("starts");
    for beginning in ["POST /", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"] {
        let mut stream = connect(&mock.address());
        stream.write_all(beginning.as_bytes()).expect("sent");
        let start = Instant::now();
        // Writing fails some time after the other side has closed.
        while stream.write_all(b"x").is_ok() {
            assert!(start.elapsed() < Duration::from_secs(20), "it waits for ever");
            thread::sleep(Duration::from_millis(20));
        }
    }
    Client::new(&mock).call(LIST_KEYS, json!({})).data();
}

#[test]
fn a_header_without_end() {
    let mock = start();
    for line in [&b"X-Padding: "[..], b"X: y\r\n"] {
        let mut stream = connect(&mock.address());
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n").expect("sent");
        let sent = (0..100_000).take_while(|_| stream.write_all(line).is_ok()).count() * line.len();
        let answer = read_all(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(sent < 100_000 * line.len(), "it read them all");
    }
    Client::new(&mock).call(LIST_KEYS, json!({})).data();
}

#[test]
fn a_body_without_end() {
    let mock = start();
    let client = Client::new(&mock);
    let head = request(&client, "1.1", "Transfer-Encoding: chunked\r\n").replace("Content-Length: 2\r\n", "");
    let mut stream = connect(&mock.address());
    stream.write_all(head.trim_end_matches("{}").as_bytes()).expect("sent");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let sent = (0..100_000).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 100_000, "it read 400 MB");
    read_all(&mut stream);
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mock = start();
    let client = Client::new(&mock);
    let mut stream = connect(&mock.address());
    let (good, last) = (request(&client, "1.1", ""), request(&client, "1.1", "Connection: close\r\n"));
    let unknown = good.replace(LIST_KEYS, "/nowhere");
    stream.write_all([good.as_str(), &unknown, &last].concat().as_bytes()).expect("sent");
    let answers = read_all(&mut stream);
    let statuses: Vec<_> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "401", "200"], "{answers}");
}

#[test]
fn http_1_0() {
    let mock = start();
    let mut stream = connect(&mock.address());
    stream.write_all(request(&Client::new(&mock), "1.0", "").as_bytes()).expect("sent");
    let answer = read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("\"errorCode\":\"0\""), "{answer}");
}

#[test]
fn a_client_that_waits_for_100_continue() {
    let mock = start();
    let request = request(&Client::new(&mock), "1.1", "Expect: 100-continue\r\nConnection: close\r\n");
    let mut stream = connect(&mock.address());
    stream.write_all(request.trim_end_matches("{}").as_bytes()).expect("sent");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").expect("sent");
    assert!(read_all(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn clients_that_go_away_in_the_middle() {
    let mock = start();
    let client = Client::new(&mock);
    let request = request(&client, "1.1", "");
    for length in 0..=request.len() {
        let mut stream = connect(&mock.address());
        stream.write_all(&request.as_bytes()[..length]).expect("sent");
        if length % 2 == 0 {
            stream.shutdown(Shutdown::Both).expect("shut down");
        }
    }
    client.call(LIST_KEYS, json!({})).data();
}

#[test]
fn new_rsa_keys_hold_up_nobody() {
    let mock = start();
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let rsa = with(new_key("RSA_2048"), json!({"enableAutomaticRotation": null}));
    thread::scope(|scope| {
        let makers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| client.call(CREATE_KEY, rsa.clone()).data().clone())).collect();
        let mut served = 0;
        while makers.iter().any(|maker| !maker.is_finished()) {
            client.data_key(&id).data();
            served += 1;
        }
        // One for each of them would come through between them anyway.
        assert!(served > 2 * makers.len(), "{served}");
    });
}
