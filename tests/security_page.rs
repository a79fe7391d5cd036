//! docs/SECURITY.md names only tests that are there, and each claim about changed storage names some.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words in backticks that look like names of tests and are none: settings.
const SETTINGS: [&str; 1] = ["files_per_data_key"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/SECURITY.md")).expect("reads")
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Names of tests have more words than settings.
fn is_test(word: &str) -> bool {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.chars().all(letters) && word.matches('_').count() >= 2 && !SETTINGS.contains(&word)
}

/// The names of all functions in sources below a directory.
fn functions(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists")) {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("reads");
            let heads = source.lines().filter_map(|line| {
                let line = line.trim_start();
                line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")
            });
            out.extend(heads.filter_map(|rest| rest.split(['(', '<']).next()).map(str::to_owned));
        }
    }
}

fn all_functions() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for dir in ["src", "tests", "kms-mock/src", "kms-mock/tests"] {
        functions(&root().join(dir), &mut out);
    }
    out
}

#[test]
fn every_test_that_is_named_is_there() {
    let (page, functions) = (page(), all_functions());
    let named: Vec<&str> = quoted(&page).filter(|word| is_test(word)).collect();
    assert!(named.len() > 40, "{} tests: is this the page?", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/SECURITY.md names tests that are not there: {missing:#?}");
}

#[test]
fn every_claim_about_changed_storage_names_a_test() {
    let page = page();
    let (_, section) = page.split_once("\n### 4. ").expect("the section");
    let (claims, _) = section.split_once("\n**Not detected:**").expect("its second half");
    let claims: Vec<&str> = claims.split("\n- ").collect();
    assert!(claims.len() > 8, "{claims:#?}");
    let bare: Vec<_> = claims.iter().filter(|claim| !quoted(claim).any(is_test)).collect();
    assert!(bare.is_empty(), "claims without a test: {bare:#?}");
}

#[test]
fn names_of_tests_are_told_from_other_words() {
    let words: Vec<_> = quoted("a `key_ttl` and (`it_does_this`, `it_does_that`), `--plain-names`").collect();
    assert_eq!(words, ["key_ttl", "it_does_this", "it_does_that", "--plain-names"]);
    assert_eq!(words.into_iter().filter(|word| is_test(word)).count(), 2);
    assert!(!is_test("files_per_data_key"));
}
