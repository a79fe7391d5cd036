//! The rarer findings of `kmsfs check`, each made on purpose; keys that are withheld amid a check; the progress bar.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::checking::{check, files_keys_are_withheld, of_kind, overwrite_and_kill};
use common::io::{open_rw, pattern};
use common::mounted::text;
use common::{AES, ALL, DEV, Mounted, SM4, SUITES, Setup, Suite, within};
use kms_mock::{FaultKind, Latency};
use serde_json::Value;

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(&ALL, bodies![an_end_that_was_never_synced_is_lost, what_has_no_redo_file_is_older])
        .on(
            &SUITES,
            bodies![
                xattrs_are_verified,
                a_state_file_put_back_is_told,
                a_block_put_back_is_told,
                a_missing_second_part_of_a_target,
                copies_made_below_are_noted,
            ],
        )
        .on(&[AES, SM4], bodies![an_outage_amid_a_check_is_no_damage, a_cmk_that_is_disabled_amid_a_check])
        .on(&[AES], bodies![reserved_names_and_tails_are_noted, a_bar_on_a_terminal_alone])
        .on(&[DEV], bodies![a_mounted_dev_volume_says_why])
        .rooted_on(&[AES], bodies![what_is_mounted_inside_is_not_looked_at])
        .run()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

fn stored_xattrs(path: &Path) -> Vec<String> {
    let mut names = vec![0; 65_536];
    let n = rustix::fs::listxattr(path, &mut names).unwrap();
    let names = String::from_utf8(names[..n].to_vec()).unwrap();
    names.split('\0').filter(|name| name.starts_with("user.")).map(str::to_owned).collect()
}

fn xattrs_are_verified(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"x").unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    for path in [m.path("file"), m.path("dir")] {
        set_xattr(&path, "user.note", b"a value");
    }
    let (file, dir) = (m.stored(&m.path("file")), m.stored(&m.path("dir")));
    m.unmount();
    assert_eq!(check(&m, &["--structure"]).0, 0);
    let name = stored_xattrs(&file).pop().unwrap();
    let mut value = vec![0; 4096];
    let n = rustix::fs::getxattr(&file, &*name, &mut value).unwrap();
    value.truncate(n);
    // A value changed, a name that was never one, and what is none of the volume's.
    value[n / 2] ^= 1;
    set_xattr(&file, &name, &value);
    let (code, json) = check(&m, &["--structure"]);
    assert_eq!((code, of_kind(&json, "xattr")), (9, vec![(Some("file".into()), "[]".into())]), "{json:#}");
    assert!(json["findings"][0]["cause"].as_str().unwrap().contains("user.note"), "{json:#}");
    value[n / 2] ^= 1;
    set_xattr(&file, &name, &value);
    set_xattr(&dir, "user.kmsfs.AAAA", b"x");
    let (code, json) = check(&m, &[]);
    assert_eq!((code, of_kind(&json, "xattr")), (9, vec![(Some("dir".into()), "[]".into())]), "{json:#}");
    rustix::fs::removexattr(&dir, "user.kmsfs.AAAA").unwrap();
    set_xattr(&dir, "user.elsewhere", b"x");
    let (code, json) = check(&m, &[]);
    assert_eq!((code, json["findings"][0]["severity"].as_str()), (0, Some("note")), "{json:#}");
}

/// Written behind what was synced, and written back; then the daemon dies, and the machine loses the end.
fn an_end_that_was_never_synced_is_lost(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let file = File::options().read(true).write(true).create_new(true).open(m.path("log")).unwrap();
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    file.sync_all().unwrap();
    let stored = m.stored(&m.path("log"));
    let synced = fs::metadata(&stored).unwrap().len();
    file.write_all_at(&pattern(2, 200_000), 100_000).unwrap();
    within("the write-back", Duration::from_secs(20), {
        let path = m.path("log");
        move || common::io::seek_data(&File::open(path).unwrap(), 0).unwrap()
    });
    drop(file);
    m.kill9();
    assert!(fs::metadata(&stored).unwrap().len() > synced, "the end was written back");
    open_rw(&stored).set_len(synced).unwrap();
    let (code, json) = check(&m, &[]);
    assert_eq!(
        (code, of_kind(&json, "lost-end").len(), &json["summary"]["damage"]),
        (9, 1, &Value::from(0)),
        "{json:#}"
    );
    assert_eq!(check(&m, &["--repair"]).0, 10);
    assert_eq!(check(&m, &[]).0, 0);
    m.mount();
    let left = fs::read(m.path("log")).unwrap();
    assert!(left.len() >= 100_000 && left[..100_000] == pattern(1, 100_000));
}

/// Without its redo file a block reads as before the change that the crash cut off.
fn what_has_no_redo_file_is_older(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("over"), b"").unwrap();
    overwrite_and_kill(&mut m);
    for entry in fs::read_dir(m.backing()).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().starts_with("kmsfs.redo.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let (code, json) = check(&m, &[]);
    let older = of_kind(&json, "older");
    assert_eq!((code, older.len()), (9, 1), "{json:#}");
    assert_eq!(older[0], (Some("over".into()), "[[2,14]]".into()), "{json:#}");
    assert_eq!(&json["summary"]["damage"], &Value::from(0), "a crash explains it: {json:#}");
    assert_eq!(check(&m, &["--repair"]).0, 10);
    let (code, json) = check(&m, &[]);
    assert_eq!((code, json["findings"].as_array().unwrap().len()), (0, 0), "{json:#}");
    m.mount();
    assert!(fs::read(m.path("over")).unwrap() == vec![1; 400_000]);
}

/// A file whose mount ended cleanly, with one page as it was before.
fn a_block_put_back_is_told(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 40_000)).unwrap();
    let stored = m.stored(&m.path("file"));
    m.remount();
    let older = fs::read(&stored).unwrap();
    open_rw(&m.path("file")).write_all_at(&pattern(2, 4096), 8192).unwrap();
    m.unmount();
    let newer = fs::read(&stored).unwrap();
    let page = 3 * 4096..4 * 4096;
    assert!(older[page.clone()] != newer[page.clone()]);
    open_rw(&stored).write_all_at(&older[page.clone()], page.start as u64).unwrap();
    let (code, json) = check(&m, &[]);
    let told = [of_kind(&json, "block"), of_kind(&json, "older")].concat();
    assert_eq!((code, told), (9, vec![(Some("file".into()), "[[2,2]]".into())]), "{json:#}");
    assert_eq!(&json["summary"]["damage"], &Value::from(1), "{json:#}");
}

fn a_state_file_put_back_is_told(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 40_000)).unwrap();
    m.unmount();
    let state = fs::read(m.backing().join("kmsfs.state")).unwrap();
    for i in 0..3 {
        m.mount();
        fs::write(m.path("file"), pattern(i, 50_000)).unwrap();
        m.unmount();
    }
    let newer = fs::read(m.backing().join("kmsfs.state")).unwrap();
    fs::write(m.backing().join("kmsfs.state"), &state).unwrap();
    let (code, json) = check(&m, &["--quick"]);
    assert_eq!((code, of_kind(&json, "state-put-back").len()), (9, 1), "{json:#}");
    fs::write(m.backing().join("kmsfs.state"), &newer).unwrap();
    assert_eq!(check(&m, &[]).0, 0);
}

fn own_entry(dir: &Path, suffix: &str) -> PathBuf {
    let entries = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.to_str().unwrap().ends_with(suffix)).expect("the entry is there")
}

fn a_missing_second_part_of_a_target(setup: &Setup) {
    let mut m = Mounted::new(setup);
    symlink("t".repeat(4000), m.path("far")).unwrap();
    m.unmount();
    let part = own_entry(m.backing(), ".target");
    let target = fs::read_link(&part).unwrap();
    fs::remove_file(&part).unwrap();
    let (code, json) = check(&m, &["--structure"]);
    assert_eq!((code, of_kind(&json, "target-part")), (9, vec![(Some("far".into()), "[]".into())]), "{json:#}");
    symlink(target, &part).unwrap();
    assert_eq!(check(&m, &["--structure"]).0, 0);
}

/// A directory copied below the file system: its files are readable under both, and share their keys.
fn copies_made_below_are_noted(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for dir in ["one", "two"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    fs::write(m.path("one/file"), pattern(1, 9000)).unwrap();
    let (one, two) = (m.stored(&m.path("one")), m.stored(&m.path("two")));
    m.unmount();
    let copied = Command::new("cp").arg("-a").arg(one.join(".")).arg(&two).status().unwrap();
    assert!(copied.success());
    let (code, json) = check(&m, &[]);
    assert_eq!((code, &json["summary"]["notes"]), (0, &Value::from(2)), "{json:#}");
    assert_eq!((of_kind(&json, "directory-id").len(), of_kind(&json, "file-id").len()), (1, 1), "{json:#}");
    m.mount();
    assert!(fs::read(m.path("two/file")).unwrap() == pattern(1, 9000));
}

fn reserved_names_and_tails_are_noted(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 9000)).unwrap();
    let stored = m.stored(&m.path("file"));
    m.unmount();
    let len = fs::metadata(&stored).unwrap().len();
    assert_ne!(len % 4096, 0, "there is room behind the last page");
    open_rw(&stored).write_all_at(&[7], len - 1).unwrap();
    fs::write(m.backing().join("kmsfs.of-a-later-version"), b"x").unwrap();
    let (code, json) = check(&m, &[]);
    assert_eq!((code, of_kind(&json, "reserved").len(), of_kind(&json, "tail").len()), (0, 1, 1), "{json:#}");
    m.mount();
    assert!(fs::read(m.path("file")).unwrap() == pattern(1, 9000));
}

/// Many files, and a KMS whose line breaks once it has unwrapped the volume key: after some calls it is left alone.
fn an_outage_amid_a_check_is_no_damage(setup: &Setup) {
    let mut m = Mounted::with_config(setup, "[keys]\ndeadline = \"500ms\"\n");
    for i in 0..12 {
        fs::write(m.path(format!("file {i}")), pattern(i, 5000)).unwrap();
    }
    m.unmount();
    files_keys_are_withheld(&m, FaultKind::DropAfter);
    let (code, json) = check(&m, &[]);
    m.kms().clear_faults();
    assert_eq!(
        (code, &json["summary"]["unchecked"], of_kind(&json, "key").len()),
        (11, &Value::from(12), 12),
        "{json:#}"
    );
    assert_eq!(&json["summary"]["damage"], &Value::from(0), "{json:#}");
    let causes = json["findings"].as_array().unwrap().iter().map(|finding| finding["cause"].as_str().unwrap());
    assert!(causes.filter(|cause| cause.contains("was not asked for")).count() > 0, "{json:#}");
    assert_eq!(check(&m, &[]).0, 0);
}

/// The CMK is disabled while a check runs: what was looked at is good, and nothing of the rest is called damage.
fn a_cmk_that_is_disabled_amid_a_check(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for i in 0..300 {
        fs::write(m.path(format!("file {i}")), pattern(i, 5000)).unwrap();
    }
    m.kill9();
    m.kms().reset_calls();
    m.kms().set_latency(Some("decrypt"), Some(Latency::Fixed { delay: Duration::from_millis(50) }));
    let (code, json) = std::thread::scope(|scope| {
        let checking = scope.spawn(|| check(&m, &["--repair"]));
        common::wait_until("some keys are unwrapped", Duration::from_secs(20), || m.kms().calls("decrypt") > 150);
        m.kms().disable_key(&m.key_id).unwrap();
        checking.join().unwrap()
    });
    m.kms().set_latency(Some("decrypt"), None);
    m.kms().enable_key(&m.key_id).unwrap();
    let refused = of_kind(&json, "key").len();
    assert!(refused > 0 && refused < 300, "{json:#}");
    assert_eq!(
        (code, &json["summary"]["damage"], of_kind(&json, "session").len()),
        (9, &Value::from(0), 1),
        "{json:#}"
    );
    assert_eq!(check(&m, &["--repair"]).0, 10);
    assert_eq!(check(&m, &[]).0, 0);
}

/// A volume mounted with `--dev` cannot be checked meanwhile, since its KMS has one user.
fn a_mounted_dev_volume_says_why(setup: &Setup) {
    let m = Mounted::new(setup);
    let done = m.command().args(["check", "--dev"]).arg(m.backing()).output().unwrap();
    assert_eq!(done.status.code(), Some(3), "{}", text(&done));
    assert!(text(&done).contains("is the volume mounted already?"), "{}", text(&done));
}

/// A bar on the terminal shows progress; `--quiet` leaves it out. There is time to see it, since the KMS is slow.
fn a_bar_on_a_terminal_alone(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for i in 0..200 {
        fs::write(m.path(format!("file {i}")), pattern(i, 100_000)).unwrap();
    }
    m.unmount();
    m.kms().set_latency(Some("decrypt"), Some(Latency::Fixed { delay: Duration::from_millis(50) }));
    let on_terminal = |more: &str| {
        let check = m.command();
        let mut words = vec![check.get_program().to_str().unwrap().to_owned(), "check".into()];
        words.extend([m.backing().to_str().unwrap().to_owned(), more.into()]);
        let mut script = Command::new("script");
        script.args(["-qec", &words.join(" "), "/dev/null"]).env("TERM", "xterm");
        for (name, value) in check.get_envs() {
            value.map(|value| script.env(name, value));
        }
        let done = script.output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        text(&done)
    };
    let shown = on_terminal("");
    assert!(shown.contains("MiB of") && shown.contains("MiB/s") && shown.contains("0 damages"), "{shown:?}");
    assert!(!on_terminal("--quiet").contains("MiB of"), "no bar");
    let piped = m.command().arg("check").arg(m.backing()).output().unwrap();
    assert!(!text(&piped).contains('\r') && piped.stderr.is_empty(), "{}", text(&piped));
}

fn what_is_mounted_inside_is_not_looked_at(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    let stored = m.stored(&m.path("dir"));
    m.unmount();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&stored).status().unwrap();
    assert!(mounted.success());
    let (code, json) = check(&m, &[]);
    assert!(Command::new("umount").arg(&stored).status().unwrap().success());
    assert_eq!((code, of_kind(&json, "unreadable")), (11, vec![(Some("dir".into()), "[]".into())]), "{json:#}");
    assert_eq!(check(&m, &[]).0, 0);
}
