//! `kmsfs check` on the volume of a test.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kms_mock::{Fault, FaultKind};
use serde_json::Value;

use super::Mounted;
use super::io::{open_rw, seek_data};
use super::mounted::text;

/// Exit code and the JSON document.
pub fn check(m: &Mounted, args: &[&str]) -> (i32, Value) {
    let done = m.command().arg("check").arg(m.backing()).arg("--json").args(args).output().unwrap();
    let json = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&done)));
    (done.status.code().unwrap(), json)
}

/// The findings of a kind: path and block ranges.
pub fn of_kind(json: &Value, kind: &str) -> Vec<(Option<String>, String)> {
    let all = json["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind);
    all.map(|f| (f["path"].as_str().map(str::to_owned), f["blocks"].to_string())).collect()
}

/// A file "over" with new versions in the slots and the redo file, none in the pages.
pub fn overwrite_and_kill(m: &mut Mounted) {
    let file = open_rw(&m.path("over"));
    file.write_all_at(&vec![1; 400_000], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    m.remount();
    let file = open_rw(&m.path("over"));
    file.write_all_at(&vec![2; 50_000], 8192).unwrap();
    super::within("the write-back", std::time::Duration::from_secs(20), {
        let path = m.path("over");
        move || seek_data(&File::open(path).unwrap(), 0).unwrap()
    });
    drop(file);
    m.kill9();
}

/// The KMS unwraps the volume's key, and then gives no file's: `kind` is a fault of the answer.
pub fn files_keys_are_withheld(m: &Mounted, kind: FaultKind) {
    let fault = |times, kind| Fault { api: Some("decrypt".into()), times, kind };
    m.kms().inject_all([fault(1, FaultKind::WithoutField("nothing".into())), fault(u32::MAX, kind)]);
}
