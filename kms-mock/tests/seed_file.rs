//! The seed file: what a mock begins with.

mod common;

use std::path::Path;

use common::openssl::OpenSsl;
use common::served::{self, Served};
use common::*;
use kms_mock::{MockConfig, MockKms, SeedFile, Storage};
use serde_json::{Value, json};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed.toml");
const ID: &str = "0b5e3d1c-7a4f-4c8e-9d2b-1f6a5c3e7b90";
const VERSION: &str = "3c9f2b7e-1d4a-4e6b-8f05-7a2d9c4e1b63";

fn start_with(file: SeedFile) -> MockKms {
    MockKms::start(MockConfig { seed_file: file, ..MockConfig::default() }).expect("the mock starts")
}

fn example() -> SeedFile {
    SeedFile::read(Path::new(EXAMPLE)).expect("a good example")
}

#[test]
fn the_example_makes_the_same_keys_everywhere() {
    let mocks = [start_with(example()), start_with(example())];
    let clients = mocks.each_ref().map(Client::new);
    assert_eq!(clients[0].access_key, "AKTESTS0000000001");
    let key = clients[0].call(DESCRIBE_KEY, json!({"cmkUuid": "alias/tests/files"}));
    assert_eq!(key.text("description"), "files of the tests");
    assert_eq!(key.text("primaryKeyVersion"), "db232ed9-5dd5-408d-b053-c16faa0a30c0");
    let other = clients[1].call(DESCRIBE_KEY, json!({"cmkUuid": "alias/tests/other"}));
    assert_eq!(key.text("cmkUuid"), other.text("cmkUuid"));
    let blob = clients[0].encrypt("alias/tests/files", b"text").text("ciphertextBlob");
    assert_eq!(clients[1].decrypt(&blob).plaintext(), b"text");
    clients[0].encrypt("alias/tests/disabled", b"text").refused(400, "KMS.0206");
    let signer = clients[0].call(DESCRIBE_KEY, json!({"cmkUuid": "234c6876-07c4-434e-8349-0eeeb9cb326a"}));
    assert_eq!((signer.text("keyUsage"), signer.text("protectionLevel")), ("SIGN/VERIFY".into(), "SOFTWARE".into()));
}

/// One key of the spec AES_256 with these fields besides.
fn json_of(changes: Value) -> String {
    let key = with(json!({"id": ID, "spec": "AES_256"}), changes);
    json!({"keys": [key]}).to_string()
}

#[test]
fn older_versions_decrypt() {
    let material = |byte: u8| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode([byte; 32])
    };
    let first = json!({"id": VERSION, "material": material(1)});
    let second = json!({"id": NO_KEY, "material": material(2)});
    let mock = |versions| start_with(SeedFile::from_json(&json_of(json!({"versions": versions}))).expect("good"));
    let (old, new) = (mock(json!([first.clone()])), mock(json!([first, second])));
    let blob = Client::new(&old).encrypt(ID, b"text").text("ciphertextBlob");
    let opened = Client::new(&new).decrypt(&blob);
    assert_eq!((opened.plaintext(), opened.text("keyVersionId")), (b"text".to_vec(), VERSION.to_owned()));
    let blob = Client::new(&new).encrypt(ID, b"text").text("ciphertextBlob");
    Client::new(&old).decrypt(&blob).refused(400, "KMS.0239");
}

#[test]
fn key_pairs_of_openssl() {
    let openssl = OpenSsl::new();
    for (spec, algorithm) in [("RSA_2048", "RSA -pkeyopt rsa_keygen_bits:2048"), ("Ctyun_SM2", "SM2")] {
        let pem = openssl.text(&format!("genpkey -quiet -algorithm {algorithm}"));
        openssl.write("key.pem", &pem);
        let versions = json!([{"id": VERSION, "material": pem}]);
        let file = json_of(json!({"spec": spec, "usage": "SIGN/VERIFY", "versions": versions}));
        let mock = start_with(SeedFile::from_json(&file).expect("good"));
        let public = Client::new(&mock)
            .call("/keyCompute/getPublicKey", json!({"cmkUuid": ID, "keyVersionId": VERSION}))
            .text("publicKeyPem");
        assert_eq!(public, openssl.text("pkey -in key.pem -pubout"));
    }
}

#[test]
fn states() {
    for state in ["Enabled", "Disabled", "PendingDeletion", "PendingImport"] {
        let mock = start_with(SeedFile::from_json(&json_of(json!({"state": state}))).expect("good"));
        assert_eq!(Client::new(&mock).call(DESCRIBE_KEY, json!({"cmkUuid": ID})).text("keyState"), state);
    }
}

#[test]
fn mistakes_are_named() {
    let version = |id: &str, material: &str| json!({"versions": [{"id": id, "material": material}]});
    for (changes, reason) in [
        (json!({"id": "x"}), "UUID"),
        (json!({"spec": "AES_512"}), "the spec is"),
        (json!({"spec": null}), "missing field `spec`"),
        (json!({"colour": 1}), "unknown field `colour`"),
        (json!({"usage": "SIGN/VERIFY"}), "cannot sign"),
        (json!({"usage": "BOTH"}), "unknown variant"),
        (json!({"aliases": ["files"]}), "\"files\" is no alias"),
        (json!({"aliases": ["alias/a", "alias/a"]}), "twice"),
        (version("x", "AAAA"), "UUID"),
        (version(VERSION, "AAAA"), "is not 32 bytes"),
        (version(VERSION, "no Base64!"), "is not 32 bytes"),
        (json!({"versions": [{"id": VERSION}, {"id": VERSION}]}), "twice"),
        (json!({"state": "PendingImport", "versions": [{"id": VERSION}]}), "waits for import"),
        (json!({"state": "PendingImport", "spec": "RSA_2048"}), "waits for import"),
    ] {
        let error = SeedFile::from_json(&json_of(changes.clone())).expect_err(reason).to_string();
        assert!(error.starts_with("seed file, ") && error.contains(reason), "{changes}: {error}");
    }
    let twice = json!({"keys": [{"id": ID, "spec": "AES_256"}, {"id": ID, "spec": "AES_256"}]}).to_string();
    assert!(SeedFile::from_json(&twice).is_err());
    for (access_key, secret_key) in [("a b", "s"), ("", "s"), ("a", "")] {
        let file = json!({"credentials": [{"access_key": access_key, "secret_key": secret_key}]}).to_string();
        assert!(SeedFile::from_json(&file).is_err(), "{file}");
    }
    let taken = SeedFile::from_json(&json_of(json!({"aliases": ["alias/ecs"]}))).expect("good by itself");
    let error = MockKms::start(MockConfig { seed_file: taken, ..MockConfig::default() }).expect_err("taken");
    assert!(error.to_string().contains("another key has the alias"), "{error}");
}

#[test]
fn what_a_directory_has_stays_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = || {
        let data = Storage::Dir(directory.path().join("kms"));
        MockKms::start(MockConfig { data, seed_file: example(), ..MockConfig::default() }).expect("starts")
    };
    let mock = start();
    let client = Client::new(&mock);
    let id = client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/tests/files"})).text("cmkUuid");
    client.call(DISABLE_KEY, json!({"cmkUuid": id})).data();
    client.call("/aliasManage/deleteAlias", json!({"aliasName": "alias/tests/other"})).data();
    mock.stop();
    let mock = start();
    let client = Client::new(&mock);
    assert_eq!(client.call(DESCRIBE_KEY, json!({"cmkUuid": id})).text("keyState"), "Disabled");
    client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/tests/other"})).refused(404, "KMS.0303");
}

#[test]
fn on_the_command_line() {
    let arguments = ["--in-memory", "--seed-file", EXAMPLE];
    let served = Served::start(&arguments, &[]);
    assert_eq!((served.text("access_key"), &served.ready["credentials_file"]), ("AKTESTS0000000001", &Value::Null));
    let of_file = |served: &Served| {
        Client::with(served.text("listening"), "AKTESTS0000000001", "a secret for tests, and for nothing else")
    };
    of_file(&served).data_key("alias/tests/files").data();
    // Besides a credential of the user's own.
    let more = [&arguments[..], &["--access-key", "AKMINE"]].concat();
    let served = Served::start(&more, &[("KMS_MOCK_SECRET_KEY", "mine")]);
    assert_eq!(served.text("access_key"), "AKMINE");
    of_file(&served).data_key("alias/tests/files").data();
    Client::with(served.text("listening"), "AKMINE", "mine").data_key("alias/tests/files").data();
    let directory = tempfile::tempdir().expect("a directory");
    let bad = directory.path().join("seed.toml");
    std::fs::write(&bad, "\nkeys = 3").expect("written");
    for (file, reason) in [(bad.as_path(), "line 2"), (Path::new("/nowhere/seed.toml"), "/nowhere/seed.toml")] {
        let file = file.to_str().expect("UTF-8");
        let output = served::command(&["--in-memory", "--seed-file", file], &[]).output().expect("runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(reason), "{stderr}");
    }
}
