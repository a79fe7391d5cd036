//! `kmsfs rotate`: every key of a volume is wrapped by another version or another CMK, whatever stops it on the way, and
//! the old one is not needed any more.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kms_mock::{Fault, FaultKind, Latency};
use serde_json::Value;

use common::checking::{check, files_keys_are_withheld};
use common::io::{flip, open_rw, pattern};
use common::mounted::{text, walk};
use common::users::NOBODY;
use common::{AES, ALL, DEV, Mounted, SM4, SUITES, Setup, Suite, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(&ALL, bodies![a_new_version_and_then_another_cmk])
        .on(&SUITES, bodies![a_run_that_is_killed_goes_on, a_lying_kms_changes_nothing])
        .on(
            &[AES],
            bodies![
                refused_while_it_is_mounted,
                files_that_share_a_key_cost_one_call,
                what_fails_is_told_and_the_rest_goes_on,
                a_kms_that_falls_silent_is_given_up,
                a_service_that_names_no_versions,
            ],
        )
        .on(&[AES, SM4], bodies![unsuitable_kms_keys_are_refused])
        .on(&[DEV], bodies![the_development_kms_has_nothing_to_rotate])
        .rooted_on(&[AES], bodies![read_only_files_of_a_user, modes_and_capabilities_stay])
        .run()
}

/// Files that have a header.
const FILES: u64 = 5;

fn contents() -> Vec<(String, Vec<u8>)> {
    let long = "long ".repeat(40);
    vec![
        ("dir/small".into(), pattern(1, 100)),
        ("dir/sub/odd".into(), pattern(2, 700_001)),
        ("page".into(), pattern(3, 4096)),
        (format!("dir/{long}"), pattern(4, 9000)),
        ("other name".into(), pattern(1, 100)),
        ("empty".into(), Vec::new()),
    ]
}

fn fill(m: &Mounted) {
    fs::create_dir_all(m.path("dir/sub")).unwrap();
    for (path, bytes) in contents().into_iter().filter(|(path, _)| path != "other name") {
        fs::write(m.path(path), bytes).unwrap();
    }
    fs::hard_link(m.path("dir/small"), m.path("other name")).unwrap();
    let sparse = open_rw(&m.path("sparse"));
    sparse.write_all_at(&pattern(5, 10_000), 300_000_000).unwrap();
    symlink("dir/small", m.path("link")).unwrap();
}

fn verify(m: &Mounted) {
    for (path, bytes) in contents() {
        assert!(fs::read(m.path(&path)).unwrap() == bytes, "{path}");
    }
    let mut seen = vec![1; 30_000];
    let n = fs::File::open(m.path("sparse")).unwrap().read_at(&mut seen, 299_990_000).unwrap();
    assert!(n == 20_000 && seen[..10_000] == [0; 10_000] && seen[10_000..n] == pattern(5, 10_000)[..]);
    assert_eq!(fs::read_link(m.path("link")).unwrap().to_str(), Some("dir/small"));
}

/// A configuration that allows these CMKs.
fn allowing(ids: &[&str]) -> String {
    format!("[kms]\nallowed_key_ids = {ids:?}\n")
}

fn rotate_command(m: &Mounted, args: &[&str]) -> Command {
    let mut command = m.command();
    command.arg("rotate").arg(m.backing()).arg("--json").args(args);
    let config = m.scratch().join("config.toml");
    if config.exists() {
        command.arg("--config").arg(config);
    }
    command
}

/// Exit code and the JSON document; null where there is none.
fn rotate(m: &Mounted, args: &[&str]) -> (i32, Value) {
    let done = rotate_command(m, args).output().unwrap();
    let json = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| Value::from(text(&done)));
    (done.status.code().unwrap(), json)
}

fn number(json: &Value, field: &str) -> u64 {
    json["summary"][field].as_u64().unwrap_or_else(|| panic!("{field} of {json:#}"))
}

/// The wrappings of the volume's own key: CMK and version.
fn volume_key(m: &Mounted) -> Vec<(String, String)> {
    let done = m.command().arg("info").arg(m.backing()).arg("--json").output().unwrap();
    let json: Value = serde_json::from_slice(&done.stdout).unwrap();
    let word = |of: &Value| of.as_str().unwrap().to_owned();
    json["volume_key"].as_array().unwrap().iter().map(|w| (word(&w["key_id"]), word(&w["key_version"]))).collect()
}

/// The stored regular files, and all their bytes; own files that no rotation touches are left out.
fn stored(m: &Mounted) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    walk(m.backing(), &mut |path| {
        let own = path.file_name().unwrap().to_str().is_some_and(|name| name == "kmsfs.lock");
        // The head of a large one, which is sparse.
        if fs::symlink_metadata(path).unwrap().is_file() && !own {
            let mut bytes = vec![0; 1 << 20];
            let n = fs::File::open(path).unwrap().read_at(&mut bytes, 0).unwrap();
            bytes.truncate(n);
            all.insert(path.to_owned(), bytes);
        }
    });
    all
}

/// The stored files in whose header copies the CMK stands.
fn wrapped_by(m: &Mounted, key_id: &str) -> u64 {
    let names = |copy: &[u8]| copy.windows(key_id.len()).any(|window| window == key_id.as_bytes());
    let both = |bytes: &Vec<u8>| bytes.len() >= 4096 && names(&bytes[..1024]) && names(&bytes[1024..2048]);
    let found = stored(m).into_iter().filter(|(_, bytes)| both(bytes));
    found.map(|(path, _)| fs::metadata(path).unwrap().ino()).collect::<BTreeSet<_>>().len() as u64
}

fn new_key(m: &Mounted) -> String {
    m.kms().create_key(if m.setup.suite == "sm4-gcm" { "Ctyun_SM4" } else { "AES_256" }).unwrap()
}

/// A volume that is not mounted, where `new` and the CMK that it has are allowed and `new` is the one for new files.
fn about_to_move(setup: &Setup) -> (Mounted, String, String) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    let (old, new) = (m.key_id.clone(), new_key(&m));
    m.set_config(&allowing(&[&old, &new]));
    m.key_id.clone_from(&new);
    (m, old, new)
}

fn nothing_is_wrong(m: &Mounted) {
    let config = m.scratch().join("config.toml");
    let named = ["--config", config.to_str().unwrap()];
    let (code, json) = check(m, if config.exists() { &named } else { &[] });
    assert_eq!((code, json["findings"].as_array().unwrap().len()), (0, 0), "{json:#}");
}

fn a_new_version_and_then_another_cmk(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    let old = m.key_id.clone();
    let before = volume_key(&m);
    // Nothing to do yet.
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "current"), number(&json, "empty")), (0, FILES, 1), "{json:#}");
    assert_eq!((number(&json, "files"), number(&json, "outdated")), (FILES + 1, 0), "{json:#}");
    assert_eq!(m.kms().calls("reEncrypt"), 0);

    m.kms().rotate_key(&old).unwrap();
    let bytes = stored(&m);
    let (code, json) = rotate(&m, &["--dry-run"]);
    assert_eq!((code, number(&json, "outdated"), &json["summary"]["volume_key"]), (0, FILES, &"outdated".into()));
    assert!(stored(&m) == bytes && m.kms().calls("reEncrypt") == 0, "a dry run changes nothing");
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped"), &json["summary"]["volume_key"]), (0, FILES, &"rewrapped".into()));
    let after = volume_key(&m);
    assert_eq!((after.len(), &after[0].0), (1, &old));
    assert!(after[0].1 != before[0].1 && json["key_version"] == after[0].1, "{json:#}");
    assert_eq!(m.kms().calls("reEncrypt"), FILES + 1, "one for each key");
    // And once more: nothing is left to do, and nobody is asked for it.
    let bytes = stored(&m);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped"), number(&json, "current")), (0, 0, FILES), "{json:#}");
    assert!(stored(&m) == bytes && m.kms().calls("reEncrypt") == FILES + 1);
    nothing_is_wrong(&m);

    // Another CMK. Who does not allow the old one is told so.
    let new = new_key(&m);
    m.key_id.clone_from(&new);
    let (code, said) = rotate(&m, &[]);
    assert!(code == 4 && said.to_string().contains(&old), "{said}");
    m.set_config(&allowing(&[&old, &new]));
    fs::write(m.backing().join("foreign"), pattern(9, 5000)).unwrap();
    fs::create_dir(m.backing().join("a directory of somebody")).unwrap();
    fs::write(m.backing().join("a directory of somebody/foreign"), b"x").unwrap();
    let mtimes = |m: &Mounted| -> Vec<_> {
        stored(m).keys().filter(|path| !path.ends_with("kmsfs.volume")).map(|path| mtime(path)).collect()
    };
    let volume_file = m.backing().join("kmsfs.volume");
    let without_volume = |mut all: BTreeMap<PathBuf, Vec<u8>>| {
        all.remove(&volume_file);
        all
    };
    let (before, times) = (without_volume(stored(&m)), mtimes(&m));
    let done = m.command().args(["rotate", "--config"]).arg(m.scratch().join("config.toml")).arg(m.backing()).output();
    let done = done.unwrap();
    // With plain names what somebody has put there is as good as any file, and damaged.
    assert_eq!(done.status.code(), Some(if setup.plain_names { 1 } else { 0 }), "{}", text(&done));
    assert!(text(&done).contains("5 re-wrapped"), "{}", text(&done));
    let after = without_volume(stored(&m));
    assert_eq!(times, mtimes(&m), "mtimes stay");
    for (path, bytes) in &before {
        let now = &after[path];
        let from = if bytes == now { 0 } else { 2048 };
        assert!(bytes[from.min(bytes.len())..] == now[from.min(now.len())..], "{}: only the header", path.display());
    }
    for foreign in ["foreign", "a directory of somebody/foreign"] {
        assert!(before[&m.backing().join(foreign)] == after[&m.backing().join(foreign)]);
    }
    fs::remove_file(m.backing().join("foreign")).unwrap();
    fs::remove_dir_all(m.backing().join("a directory of somebody")).unwrap();
    if setup.plain_names {
        assert_eq!(volume_key(&m).len(), 2, "the old wrapping stays while something failed");
        assert_eq!(rotate(&m, &[]).0, 0);
    }
    assert_eq!(volume_key(&m).iter().map(|(id, _)| id).collect::<Vec<_>>(), [&new]);
    assert_eq!((wrapped_by(&m, &new), wrapped_by(&m, &old)), (FILES, 0));

    // The old one is not needed any more: neither allowed nor enabled, and about to be deleted.
    m.set_config(&allowing(&[&new]));
    m.kms().disable_key(&old).unwrap();
    m.kms().schedule_deletion(&old).unwrap();
    m.mount();
    verify(&m);
    fs::write(m.path("made later"), pattern(7, 5000)).unwrap();
    m.remount();
    assert!(fs::read(m.path("made later")).unwrap() == pattern(7, 5000));
    m.unmount();
    assert_eq!(wrapped_by(&m, &new), FILES + 1, "new files are wrapped by the new one");
    m.kms().delete_now(&old).unwrap();
    nothing_is_wrong(&m);
}

fn mtime(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

fn a_run_that_is_killed_goes_on(setup: &Setup) {
    const MANY: u64 = 60;
    let mut m = Mounted::new(setup);
    for i in 0..MANY {
        fs::write(m.path(format!("{i}")), pattern(i, 3000)).unwrap();
    }
    m.unmount();
    let (old, new) = (m.key_id.clone(), new_key(&m));
    m.set_config(&(allowing(&[&old, &new]) + "max_inflight = 3\n"));
    m.key_id.clone_from(&new);
    let read_all = |m: &mut Mounted| {
        m.mount();
        for i in 0..MANY {
            assert!(fs::read(m.path(format!("{i}"))).unwrap() == pattern(i, 3000), "{i}");
        }
        m.unmount();
    };
    let slow = Latency::Fixed { delay: Duration::from_millis(15) };
    for asked in [2, 12, 25] {
        m.kms().set_latency(Some("reEncrypt"), Some(slow));
        m.kms().reset_calls();
        let quiet = (Stdio::null(), Stdio::null());
        let mut run = rotate_command(&m, &[]).stdout(quiet.0).stderr(quiet.1).spawn().unwrap();
        wait_until("some keys were re-wrapped", PATIENCE, || m.kms().calls("reEncrypt") >= asked);
        run.kill().unwrap();
        run.wait().unwrap();
        m.kms().set_latency(Some("reEncrypt"), None);
        let (code, json) = rotate(&m, &["--dry-run"]);
        assert_eq!((code, number(&json, "files")), (0, MANY), "{json:#}");
        assert!(number(&json, "outdated") > 0, "it was killed in the middle: {json:#}");
        read_all(&mut m);
    }
    m.kms().reset_calls();
    let (_, json) = rotate(&m, &["--dry-run"]);
    let left = number(&json, "outdated");
    assert!(left < MANY, "what was done is done: {json:#}");
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped")), (0, left), "{json:#}");
    assert_eq!(m.kms().calls("reEncrypt"), left, "no call for what was done");
    // A header of which the killed run has written one copy only.
    let one = stored(&m).into_iter().find(|(_, bytes)| bytes.len() > 4096).unwrap().0;
    flip(&one, 700);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "finished"), number(&json, "current")), (0, 1, MANY - 1), "{json:#}");
    m.kms().schedule_deletion(&old).unwrap();
    m.set_config(&allowing(&[&new]));
    read_all(&mut m);
    assert_eq!(wrapped_by(&m, &new), MANY);
    nothing_is_wrong(&m);
}

fn a_lying_kms_changes_nothing(setup: &Setup) {
    let (mut m, old, new) = about_to_move(setup);
    let bytes = stored(&m);
    let fault = |api: &str, times, kind| Fault { api: Some(api.into()), times, kind };
    // The volume's key: unwrapped once, and the new wrapping to another key; or a new wrapping that opens nowhere.
    files_keys_are_withheld(&m, FaultKind::LyingPlaintext);
    assert_eq!(rotate(&m, &[]).0, 5);
    m.kms().clear_faults();
    m.kms().inject(fault("reEncrypt", u32::MAX, FaultKind::LyingBlob));
    assert_eq!(rotate(&m, &[]).0, 5);
    m.kms().clear_faults();
    m.kms().inject(fault("reEncrypt", u32::MAX, FaultKind::LyingKeyId));
    assert_eq!(rotate(&m, &[]).0, 5);
    m.kms().clear_faults();
    assert!(stored(&m) == bytes, "nothing was changed");
    // The files' keys.
    let fine = || FaultKind::WithoutField("nothing".into());
    let headers = |m: &Mounted| {
        let own = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with("kmsfs.");
        let mut all = stored(m);
        all.retain(|path, _| !own(path) || path.to_str().unwrap().contains("kmsfs.long."));
        all
    };
    let before = headers(&m);
    let lies: [&[Fault]; 3] = [
        &[fault("decrypt", 2, fine()), fault("decrypt", u32::MAX, FaultKind::LyingPlaintext)],
        &[fault("decrypt", 1, fine()), fault("decrypt", u32::MAX, FaultKind::LyingPlaintext)],
        &[fault("reEncrypt", u32::MAX, FaultKind::LyingBlob)],
    ];
    for faults in lies {
        m.kms().inject_all(faults.iter().cloned());
        let (code, json) = rotate(&m, &[]);
        m.kms().clear_faults();
        assert_eq!((code, number(&json, "failed"), number(&json, "rewrapped")), (5, FILES, 0), "{json:#}");
        assert!(json["failures"].as_array().unwrap().iter().all(|failure| failure["kind"] == "refused"), "{json:#}");
        assert!(headers(&m) == before, "no header was changed");
        assert_eq!(volume_key(&m).iter().map(|(id, _)| id).collect::<Vec<_>>(), [&new, &old], "{json:#}");
        m.mount();
        verify(&m);
        m.unmount();
    }
    assert_eq!(rotate(&m, &[]).0, 0);
    m.set_config("");
    fs::remove_file(m.scratch().join("config.toml")).unwrap();
    m.mount();
    verify(&m);
}

fn refused_while_it_is_mounted(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.kms().rotate_key(&m.key_id).unwrap();
    assert_eq!(rotate(&m, &[]).0, 7);
    m.unmount();
    m.mount_with("ro");
    let bytes = stored(&m);
    assert_eq!(rotate(&m, &[]).0, 7);
    assert_eq!(rotate(&m, &["--dry-run"]).0, 0, "who only reads does not mind who reads");
    assert!(stored(&m) == bytes);
    verify(&m);
}

fn files_that_share_a_key_cost_one_call(setup: &Setup) {
    let mut m = Mounted::unmounted(setup, "");
    let other = m.scratch().join("other");
    let init = m.command().arg("init").arg(&other).args(["--files-per-data-key", "8"]).output().unwrap();
    assert!(init.status.success(), "{}", text(&init));
    let said = String::from_utf8(init.stdout).unwrap();
    let fingerprint = said.lines().find_map(|line| line.strip_prefix("fingerprint of its key: ")).unwrap();
    m.set_backing(other);
    m.mount();
    for i in 0..40 {
        fs::write(m.path(format!("{i}")), pattern(i, 3000)).unwrap();
    }
    m.unmount();
    m.kms().rotate_key(&m.key_id).unwrap();
    m.kms().reset_calls();
    let (code, json) = rotate(&m, &["--fingerprint", fingerprint]);
    assert_eq!((code, number(&json, "rewrapped")), (0, 40), "{json:#}");
    assert!(m.kms().calls("reEncrypt") <= 6 + 1, "{} calls", m.kms().calls("reEncrypt"));
    assert!(m.kms().calls("decrypt") <= 6 + 2, "{} calls", m.kms().calls("decrypt"));
    assert_eq!(rotate(&m, &["--fingerprint", fingerprint]).0, 0, "the fingerprint is the same");
    assert_eq!(rotate(&m, &["--fingerprint", "00"]).0, 4);
    m.mount();
    for i in 0..40 {
        assert!(fs::read(m.path(format!("{i}"))).unwrap() == pattern(i, 3000));
    }
}

fn what_fails_is_told_and_the_rest_goes_on(setup: &Setup) {
    let (mut m, old, new) = about_to_move(setup);
    m.mount();
    let odd = m.stored(&m.path("dir/sub/odd"));
    m.unmount();
    flip(&odd, 100);
    flip(&odd, 1100);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped"), number(&json, "failed")), (1, FILES - 1, 1), "{json:#}");
    let failure = &json["failures"][0];
    assert_eq!((&failure["path"], &failure["kind"]), (&"dir/sub/odd".into(), &"damaged".into()), "{json:#}");
    assert_eq!(Path::new(failure["stored"].as_str().unwrap()), odd.strip_prefix(m.backing()).unwrap());
    assert_eq!(volume_key(&m).iter().map(|(id, _)| id).collect::<Vec<_>>(), [&new, &old]);
    let words = rotate_command(&m, &[]).output().unwrap();
    assert!(text(&words).contains("the old KMS key is still needed"), "{}", text(&words));
    // Repaired: the rest of it is done, and the old CMK leaves.
    flip(&odd, 100);
    flip(&odd, 1100);
    // One whose CMK is refused.
    m.kms().disable_key(&old).unwrap();
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "failed"), &json["failures"][0]["kind"]), (5, 1, &"refused".into()), "{json:#}");
    m.kms().enable_key(&old).unwrap();
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped"), number(&json, "current")), (0, 1, FILES - 1), "{json:#}");
    assert_eq!(volume_key(&m).len(), 1);
    m.kms().schedule_deletion(&old).unwrap();
    m.mount();
    verify(&m);
}

fn a_kms_that_falls_silent_is_given_up(setup: &Setup) {
    let (mut m, old, new) = about_to_move(setup);
    m.set_config(&(allowing(&[&old, &new]) + "timeout_ms = 200\nmax_inflight = 2\n[keys]\ndeadline = \"400ms\"\n"));
    m.command();
    let fault = |times, kind| Fault { api: Some("reEncrypt".into()), times, kind };
    m.kms().inject_all([fault(2, FaultKind::WithoutField("nothing".into())), fault(u32::MAX, FaultKind::DropAfter)]);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped")), (6, 1), "{json:#}");
    let told: u64 = ["rewrapped", "failed", "left", "empty"].iter().map(|field| number(&json, field)).sum();
    assert!(number(&json, "failed") > 0 && told == number(&json, "files"), "{json:#}");
    m.kms().clear_faults();
    // A short silence fails nothing.
    m.kms().inject(fault(3, FaultKind::Drop));
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped")), (0, FILES - 1), "{json:#}");
    m.mount();
    verify(&m);
}

/// What cannot be told to have the newest version gets it.
fn a_service_that_names_no_versions(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    let silent = |api: &str, field: &str| {
        m.kms().inject(Fault { api: Some(api.into()), times: u32::MAX, kind: FaultKind::WithoutField(field.into()) });
    };
    silent("describeKey", "primaryKeyVersion");
    // The volume key's new wrapping names it.
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "current")), (0, FILES), "{json:#}");
    assert_eq!(&json["summary"]["volume_key"], "current");
    silent("reEncrypt", "keyVersionId");
    for _ in 0..2 {
        let (code, json) = rotate(&m, &[]);
        assert_eq!((code, number(&json, "rewrapped"), &json["key_version"]), (0, FILES, &Value::Null), "{json:#}");
        assert_eq!(volume_key(&m).len(), 1);
    }
    m.mount();
    verify(&m);
}

fn unsuitable_kms_keys_are_refused(setup: &Setup) {
    let (mut m, old, new) = about_to_move(setup);
    let bytes = stored(&m);
    m.kms().disable_key(&new).unwrap();
    assert_eq!(rotate(&m, &[]).0, 5);
    m.kms().delete_now(&new).unwrap();
    assert_eq!(rotate(&m, &[]).0, 5);
    let wrong = m.kms().create_key(if setup.suite == "sm4-gcm" { "AES_256" } else { "Ctyun_SM4" }).unwrap();
    m.set_config(&allowing(&[&old, &wrong]));
    m.key_id.clone_from(&wrong);
    let (code, said) = rotate(&m, &[]);
    assert!(code == 3 && said.to_string().contains("spec"), "{said}");
    assert!(stored(&m) == bytes);
}

fn the_development_kms_has_nothing_to_rotate(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    let (code, json) = rotate(&m, &["--dev"]);
    assert_eq!((code, number(&json, "current"), number(&json, "rewrapped")), (0, FILES, 0), "{json:#}");
}

/// Files that their owner may not write, as git makes its objects, and a user without other rights.
fn read_only_files_of_a_user(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    fs::set_permissions(m.path("page"), fs::Permissions::from_mode(0o444)).unwrap();
    let page = m.stored(&m.path("page"));
    m.unmount();
    m.kms().rotate_key(&m.key_id).unwrap();
    let own = |path: &Path| std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    own(m.backing());
    walk(m.backing(), &mut |path| own(path));
    // Where cargo builds, others may have no way to.
    let binary = m.scratch().join("kmsfs");
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), &binary).unwrap();
    let of_users = rotate_command(&m, &[]);
    let mut command = Command::new(binary);
    command.args(of_users.get_args()).envs(of_users.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = command.uid(NOBODY).gid(NOBODY).current_dir("/").output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", text(&done));
    assert_eq!(fs::metadata(&page).unwrap().mode() & 0o7777, 0o444);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "current")), (0, FILES), "{json:#}");
    m.mount();
    verify(&m);
}

fn modes_and_capabilities_stay(setup: &Setup) {
    const NAME: &str = "security.capability";
    let mut m = Mounted::new(setup);
    fill(&m);
    let program = m.stored(&m.path("page"));
    m.unmount();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw, permitted and effective, in version 2.
    let mut capability = [0u8; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    rustix::fs::setxattr(&program, NAME, &capability, rustix::fs::XattrFlags::empty()).unwrap();
    m.kms().rotate_key(&m.key_id).unwrap();
    let before = mtime(&program);
    let (code, json) = rotate(&m, &[]);
    assert_eq!((code, number(&json, "rewrapped")), (0, FILES), "{json:#}");
    let mut now = [0u8; 64];
    let n = rustix::fs::getxattr(&program, NAME, &mut now).unwrap();
    assert_eq!((&now[..n], fs::metadata(&program).unwrap().mode() & 0o7777), (&capability[..], 0o6755));
    assert_eq!(mtime(&program), before);
}
