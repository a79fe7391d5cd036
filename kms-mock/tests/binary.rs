//! `kms-mock serve` as a process: how it starts, what it prints, how it stops, and that a kill loses nothing.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::served::Served;
use common::*;
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn starts_says_so_and_stops_on_signals() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mut access_keys = Vec::new();
    for signal in ["-TERM", "-INT"] {
        let mut served = Served::start(&["--data", text(&data)], &[]);
        served.client().call(LIST_KEYS, json!({})).data();
        served.client().control("GET", "calls", json!({}));
        access_keys.push(served.text("access_key").to_owned());
        assert!(served.signal(signal).success());
    }
    assert_eq!(access_keys[0], access_keys[1]);
}

#[test]
fn a_kill_loses_no_acknowledged_change() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mut kept: Vec<(String, String)> = Vec::new();
    for round in 0..5 {
        let mut served = Served::start(&["--data", text(&data), "--no-control"], &[]);
        let client = served.client();
        for (id, blob) in &kept {
            client.decrypt(blob).refused(400, "KMS.0206");
            client.call(ENABLE_KEY, json!({"cmkUuid": id})).data();
            assert_eq!(client.decrypt(blob).plaintext(), b"kept");
            client.call(DISABLE_KEY, json!({"cmkUuid": id})).data();
        }
        let id = client.create(if round % 2 == 0 { "AES_256" } else { "SM4_128" });
        let blob = client.encrypt(&id, b"kept").text("ciphertextBlob");
        client.call(DISABLE_KEY, json!({"cmkUuid": id})).data();
        served.child.kill().expect("killed");
        served.child.wait().expect("dead");
        kept.push((id, blob));
    }
}

#[test]
fn a_kill_in_the_midst_of_changes() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 1..=3 {
        let mut served = Served::start(&["--data", text(&data)], &[]);
        let client = served.client();
        for id in &acknowledged {
            assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), "Enabled");
        }
        let (sender, made) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (client, sender) = (&client, sender.clone());
                scope.spawn(move || {
                    while let Ok(answer) = client.try_call(CREATE_KEY, new_key("AES_256")) {
                        sender.send(answer.text("cmkUuid")).expect("received");
                    }
                });
            }
            for _ in 0..round * 7 {
                acknowledged.push(made.recv_timeout(Duration::from_secs(10)).expect("keys are made"));
            }
            served.child.kill().expect("killed");
        });
        drop(sender);
        acknowledged.extend(made);
    }
}

#[test]
fn the_secret_may_come_from_the_environment() {
    let arguments = ["--in-memory", "--access-key", "AKEXAMPLE0001", "--no-control"];
    let served = Served::start(&arguments, &[("KMS_MOCK_SECRET_KEY", "SKEXAMPLE0001secret")]);
    assert_eq!((served.text("access_key"), &served.ready["credentials_file"]), ("AKEXAMPLE0001", &Value::Null));
    let client = Client::with(served.text("listening"), "AKEXAMPLE0001", "SKEXAMPLE0001secret");
    client.call(LIST_KEYS, json!({})).data();
    assert_eq!(client.control("GET", "calls", json!({})).code(), "KMS.0405");
}

#[test]
fn the_default_directory_is_in_the_state_home() {
    let directory = tempfile::tempdir().expect("a directory");
    let served = Served::start(&["--access-key", "me"], &[("XDG_STATE_HOME", text(directory.path()))]);
    assert_eq!(served.text("access_key"), "me");
    assert_eq!(Path::new(served.text("credentials_file")), directory.path().join("kms-mock/credentials.toml"));
    served.client().call(LIST_KEYS, json!({})).data();
}

#[test]
fn switches_on_the_command_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let served = Served::start(&["--data", text(&data), "--in-memory", "--legacy-payload", "--soft-errors"], &[]);
    let client = served.client();
    assert_eq!(client.data_key("alias/ecs").text("ciphertextBlob").len(), 204);
    assert_eq!(client.data_key(NO_KEY).status, 200);
    assert!(!data.join("kms.redb").exists());
}

#[test]
fn what_it_refuses_to_start_with() {
    let secret = ("KMS_MOCK_SECRET_KEY", "s");
    for (arguments, environment, reason) in [
        (&["--in-memory"][..], &[][..], "--in-memory needs"),
        (&["--in-memory"], &[secret], "needs --access-key"),
        (&["--in-memory", "--access-key", "a b"], &[secret], "printable"),
        (&["--in-memory", "--access-key", "a", "--listen", "0.0.0.0:0"], &[secret], "loopback"),
        (&[], &[], "no home directory"),
        (&["--data", "/proc/none"], &[], "cannot use /proc/none"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms-mock"));
        command.arg("serve").args(arguments).env_clear().envs(environment.iter().copied());
        let output = command.output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(stderr.starts_with("kms-mock: ") && stderr.contains(reason), "{stderr}");
    }
}
