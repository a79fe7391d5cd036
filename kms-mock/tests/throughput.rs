//! How many data keys a second: `cargo test -p kms-mock --test throughput -- --ignored --nocapture`.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use serde_json::json;

const CONNECTIONS: usize = 8;
const SPAN: Duration = Duration::from_secs(3);

#[test]
#[ignore = "a measurement, not a check"]
fn data_keys_per_second() {
    let mock = start();
    let client = Client::new(&mock);
    for spec in ["AES_256", "Ctyun_SM4"] {
        let id = mock.create_key(spec).expect("a key");
        // One signature serves for all: the mock does not keep count of what it has seen.
        let body = json!({"cmkUuid": id});
        let mut request =
            format!("POST {DATA_KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.to_string().len());
        for (name, value) in client.native_headers(DATA_KEY, &body) {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("\r\n{body}");
        let (done, stop, start) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(mock.address()).expect("connects");
                    stream.set_nodelay(true).expect("set");
                    while !stop.load(Ordering::Relaxed) {
                        stream.write_all(request.as_bytes()).expect("sent");
                        read_answer(&mut stream);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(SPAN);
            stop.store(true, Ordering::Relaxed);
        });
        println!(
            "{spec}: {:.0} data keys a second",
            done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
        );
    }
}

/// An answer arrives whole or in two pieces; its JSON ends with two braces.
fn read_answer(stream: &mut TcpStream) {
    let (mut buffer, mut filled) = ([0; 2048], 0);
    while !buffer[..filled].ends_with(b"}") {
        let read = stream.read(&mut buffer[filled..]).expect("an answer");
        assert!(read > 0, "closed");
        filled += read;
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200"));
}
