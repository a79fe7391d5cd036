//! The OpenAPI document: the one in the repository is the one that is served, and answers keep to it.

mod common;

use common::*;
use kms_mock::{MockConfig, MockKms};
use serde_json::{Value, json};

fn committed() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).expect("JSON")
}

/// After a change of the route table: `cargo test -p kms-mock --test openapi -- --ignored` writes the file anew.
#[test]
#[ignore = "writes the document into the source tree"]
fn write_the_document() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    std::fs::write(path, format!("{:#}\n", kms_mock::openapi())).expect("written");
}

#[test]
fn the_document_is_served_as_it_is_committed() {
    assert_eq!(kms_mock::openapi(), committed(), "see write_the_document");
    let mock = MockKms::start(MockConfig { control: true, ..MockConfig::default() }).expect("starts");
    assert_eq!(Client::new(&mock).control("GET", "openapi.json", json!({})).body, committed());
}

#[test]
fn every_path_of_the_document_is_there() {
    let mock = start();
    let client = Client::new(&mock);
    let document = committed();
    for path in document["paths"].as_object().expect("paths").keys() {
        let answer = client.call(path, json!({}));
        assert_ne!(answer.code(), "KMS.0405", "{path}");
        let responses = &document["paths"][path]["post"]["responses"];
        assert!(responses.get(answer.status.to_string()).is_some(), "{path} answers {}", answer.status);
    }
}
