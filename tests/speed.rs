//! `kmsfs speed`: what it names. How fast anything is, no test says.

use std::process::{Command, Output};

use kmsfs::crypto::Suite;
use kmsfs::crypto::aead::Engine;

const SUITES: [Suite; 2] = [Suite::Aes256Gcm, Suite::Sm4Gcm];

fn speed(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmsfs")).arg("speed").args(args).output().expect("it runs")
}

#[test]
fn the_table_has_each_engine_and_marks_the_chosen() {
    let done = speed(&["--seconds", "0.01"]);
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{text}");
    for suite in SUITES {
        for engine in Engine::available(suite) {
            let row: Vec<&str> = text
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .find(|row| row.starts_with(&[suite.name(), engine.name()]))
                .unwrap_or_else(|| panic!("{suite} by {}:\n{text}", engine.name()));
            assert_eq!(row[2] == "*", engine == Engine::default_for(suite), "{row:?}");
        }
    }
}

#[test]
fn the_json_names_the_chosen_engine() {
    let done = speed(&["--seconds", "0.01", "--json"]);
    assert_eq!(done.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).expect("one JSON object");
    assert_eq!(json["block_len"], 4096);
    assert_eq!(json["suites"].as_array().unwrap().len(), SUITES.len());
    for (suite, said) in SUITES.into_iter().zip(json["suites"].as_array().unwrap()) {
        let chosen = Engine::default_for(suite).name();
        assert_eq!((&said["suite"], &said["chosen"]), (&suite.name().into(), &chosen.into()));
        let engines = said["engines"].as_array().unwrap();
        let names: Vec<_> = engines.iter().map(|engine| engine["engine"].as_str().unwrap()).collect();
        let available: Vec<_> = Engine::available(suite).into_iter().map(Engine::name).collect();
        assert_eq!(names, available);
        for engine in engines {
            assert_eq!(engine["chosen"], engine["engine"] == chosen);
            for figure in [&engine["seal"], &engine["open"]] {
                assert!(figure["mb_per_s"].is_number() && figure["us_per_block"].is_number(), "{engine}");
            }
        }
        assert!(said["names_per_second"].is_number() && said["file_keys_per_second"].is_number(), "{said}");
    }
}

#[test]
fn times_that_cannot_be_end_with_2() {
    for seconds in ["0", "-1", "nan", "inf", "3601", "soon", ""] {
        let done = speed(&[&format!("--seconds={seconds}")]);
        assert_eq!(done.status.code(), Some(2), "{seconds:?}");
        assert!(done.stdout.is_empty());
    }
    assert_eq!(speed(&["--frobnicate"]).status.code(), Some(2));
    assert_eq!(speed(&["a-volume"]).status.code(), Some(2));
}
