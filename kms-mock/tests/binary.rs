//! `kms-mock serve` as a process: how it starts, what it prints, how it stops, and that a kill loses nothing.

mod common;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::served::{self, Served};
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
fn a_signal_stops_it_with_requests_under_way_and_frees_the_port() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mut address = "127.0.0.1:0".to_owned();
    // The second one begins where the first one ended.
    for _ in 0..2 {
        let mut served = Served::start(&["--data", text(&data), "--listen", &address], &[]);
        address = served.text("listening").trim_start_matches("http://").to_owned();
        let client = served.client();
        client.control("POST", "faults", json!({"api": "listKeys", "kind": "hang", "times": -1}));
        let hanging = thread::spawn({
            let client = client.clone();
            move || client.try_call(LIST_KEYS, json!({})).is_err()
        });
        let called = || client.control("GET", "calls", json!({})).body["counts"]["listKeys"] == 1;
        while !called() {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(served.signal("-TERM").code(), Some(0));
        assert!(hanging.join().expect("no panic"));
    }
}

#[test]
fn one_directory_one_mock() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let served = Served::start(&["--data", text(&data)], &[]);
    let second = served::command(&["--data", text(&data)], &[]).output().expect("runs");
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(1) && second.stdout.is_empty());
    assert!(stderr.contains("already open"), "{stderr}");
    served.client().call(LIST_KEYS, json!({})).data();
    let listening = served.text("listening").trim_start_matches("http://");
    let other = directory.path().join("other");
    let third = served::command(&["--data", text(&other), "--listen", listening], &[]).output().expect("runs");
    let stderr = String::from_utf8_lossy(&third.stderr);
    assert!(
        third.status.code() == Some(1) && stderr.contains("cannot listen on") && stderr.contains("in use"),
        "{stderr}"
    );
}

#[test]
fn wrong_arguments() {
    for (arguments, reason) in [
        (&[][..], "Usage: kms-mock"),
        (&["serves"], "serves"),
        (&["serve", "--listen", "here"], "'--listen <ADDR>'"),
        (&["serve", "--secret-key", "s"], "--secret-key"),
        (&["serve", "--seed", "s"], "--in-memory"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kms-mock")).args(arguments).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(reason), "{arguments:?}: {stderr}");
    }
}

/// `kms-mock man > kms-mock/man/kms-mock.1` brings it up to date.
#[test]
fn the_manual_page_is_what_the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_kms-mock")).arg("man").output().expect("runs");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), include_str!("../man/kms-mock.1"));
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
