//! What the mock can bear: data keys a second on one core with kept connections, and its memory over a million calls.
//!
//! `cargo bench -p kms-mock --bench load` starts the program `kms-mock` on the first core and puts the clients on the others. Each
//! call is signed on its own (profile N), and each answer is checked. With `-- CALLS`, the second part makes that many calls.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Client, DATA_KEY};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// How many calls fill the log of the mock, so that its memory is measured with the log full.
const WARM_UP: u64 = 20_000;
/// Calls after each of which the memory is read.
const PARTS: u64 = 4;

fn main() -> Result<()> {
    let calls = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let server = Server::start()?;
    let client = Client::with(&server.endpoint, ACCESS_KEY, SECRET_KEY);
    println!("{CONNECTIONS} connections, server on one core");
    for spec in ["AES_256", "SM4_128"] {
        let id = client.create(spec);
        drive(&client, &id, WARM_UP)?;
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let (start, busy) = (Instant::now(), server.cpu_ticks()?);
            let done = drive_for(&client, &id, ROUND)?;
            let seconds = start.elapsed().as_secs_f64();
            let busy = (server.cpu_ticks()? - busy) as f64 / TICKS_PER_SECOND / seconds;
            rates.push(done as f64 / seconds);
            println!("{spec}: {:.0} generateDataKey/s, server {:.0} % busy", rates[rates.len() - 1], 100.0 * busy);
        }
        rates.sort_by(f64::total_cmp);
        println!("{spec}: median {:.0} generateDataKey/s", rates[ROUNDS / 2]);
    }
    let id = client.create("AES_256");
    println!("memory before: {}", server.memory()?);
    for part in 1..=PARTS {
        drive(&client, &id, calls / PARTS)?;
        println!("memory after {} calls: {}", calls / PARTS * part, server.memory()?);
    }
    Ok(())
}

const ACCESS_KEY: &str = "5f7b1c9ad3e84f0297c6b1a0e4d85c32";
const SECRET_KEY: &str = "a-secret-of-the-benchmark";

/// Calls on every connection until `calls` have been made.
fn drive(client: &Client, id: &str, calls: u64) -> Result<()> {
    let left = AtomicU64::new(calls);
    let more = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    on_every_connection(client, id, more).map(drop)
}

fn drive_for(client: &Client, id: &str, span: Duration) -> Result<u64> {
    let start = Instant::now();
    on_every_connection(client, id, || start.elapsed() < span)
}

/// Makes calls while there are to be more; returns how many.
fn on_every_connection(client: &Client, id: &str, more: impl Fn() -> bool + Sync) -> Result<u64> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| -> Result<u64> {
                    let mut connection = Connection::open(client)?;
                    let mut done = 0;
                    while more() {
                        connection.data_key(client, id)?;
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    })
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(client: &Client) -> Result<Self> {
        let stream = TcpStream::connect(client.endpoint.trim_start_matches("http://"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: vec![0; 4096] })
    }

    fn data_key(&mut self, client: &Client, id: &str) -> Result<()> {
        let body = json!({"cmkUuid": id});
        let headers = client.native_headers(DATA_KEY, &body);
        let body = body.to_string();
        let mut request = format!("POST {DATA_KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
        let answer = self.answer()?;
        let data = &answer["data"];
        let sound = answer["errorCode"] == "0" && data["plaintext"].is_string() && data["ciphertextBlob"].is_string();
        if sound { Ok(()) } else { Err(format!("an answer without a data key: {answer}").into()) }
    }

    /// The body of a whole answer, which fits the buffer.
    fn answer(&mut self) -> Result<Value> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                return Err("the connection was closed".into());
            }
            filled += read;
            let text = std::str::from_utf8(&self.buffer[..filled])?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
            if body.len() == length.ok_or("no length")?.parse::<usize>()? {
                return Ok(serde_json::from_str(body)?);
            }
        }
    }
}

/// The mock on a core of its own, killed on drop.
struct Server {
    child: Child,
    endpoint: String,
}

/// `sysconf(_SC_CLK_TCK)` is 100 on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl Server {
    fn start() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let first = cores.next().ok_or("no core")?;
        let (mut server, mut clients) = (CpuSet::new(), all);
        server.set(first);
        clients.unset(first);
        let mut child = Command::new(env!("CARGO_BIN_EXE_kms-mock"))
            .args(["serve", "--listen", "127.0.0.1:0", "--in-memory", "--no-control", "--access-key", ACCESS_KEY])
            .env("KMS_MOCK_SECRET_KEY", SECRET_KEY)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)?;
        // All threads of the server: those that it has now are all that it will have.
        for thread in std::fs::read_dir(format!("/proc/{}/task", child.id()))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            sched_setaffinity(Pid::from_raw(thread), &server)?;
        }
        match clients.count() {
            0 => println!("one core only: clients and server share it"),
            _ => sched_setaffinity(None, &clients)?,
        }
        let endpoint = ready["listening"].as_str().ok_or("no address")?.to_owned();
        Ok(Server { child, endpoint })
    }

    /// User and system time, in ticks.
    fn cpu_ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, after_name) = stat.rsplit_once(')').ok_or("no name")?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }

    /// Resident now, and the most there has been.
    fn memory(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).unwrap_or("unknown")
        };
        Ok(format!("{} resident, {} at most", line("VmRSS:"), line("VmHWM:")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
