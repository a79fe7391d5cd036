//! The examples for other languages, run as they stand. They need curl, openssl and python3.

mod common;

use std::process::Command;

use common::served::Served;

/// Standard output of an example that talks to a mock of its own.
#[track_caller]
fn run(interpreter: &str, example: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let served = Served::start(&["--in-memory", "--data", data.to_str().expect("UTF-8")], &[]);
    let path = format!("{}/examples/{example}", env!("CARGO_MANIFEST_DIR"));
    let arguments = [&path, served.text("listening"), served.text("credentials_file")];
    let output = Command::new(interpreter).args(arguments).output().expect("the interpreter is there");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty() && stdout.ends_with('\n'), "{stdout}{stderr}");
    stdout.into_owned()
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

#[test]
fn curl() {
    let output = run("sh", "curl.sh");
    let lines: Vec<&str> = output.lines().collect();
    let [key, wrapped, decrypted, error] = lines[..] else { panic!("{output}") };
    assert!(key.strip_prefix("key: ").is_some_and(is_id), "{output}");
    assert!(wrapped.strip_prefix("wrapped data key: ").is_some_and(|blob| blob.len() > 100), "{output}");
    assert_eq!((decrypted, error), ("decrypt gives the data key back", "error: KMS.0219"));
}

#[test]
fn python() {
    let output = run("python3", "client.py");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 6, "{output}");
    for (lines, signature) in lines.chunks(3).zip(["native", "eop"]) {
        let line = |at: usize| lines[at].strip_prefix(signature).unwrap_or_else(|| panic!("{output}"));
        assert!(line(0).strip_prefix(": key ").is_some_and(is_id), "{output}");
        assert_eq!(line(1), ": decrypt gives the data key back");
        assert!(line(2).starts_with(": error (404, 'KMS.0301', "), "{output}");
    }
}
