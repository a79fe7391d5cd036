//! The command line: exit codes, refusals, and that no secret is on it.

mod common;

use std::fs;
use std::process::{Command, Output};

use common::mounted::{is_mounted, kmsfs, text, wait_for};
use common::{AES, ALL, DEV, Mounted, Setup, Suite, wait_until};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(&ALL, bodies![info_needs_no_key, a_volume_is_mounted_once])
        .on(
            &[AES],
            bodies![
                wrong_arguments_end_with_2,
                what_is_no_volume_ends_with_4,
                a_configuration_that_lacks_something_ends_with_3,
                http_outside_loopback_is_refused,
                init_wants_an_empty_directory,
                mount_points_that_cannot_be,
                secrets_are_on_no_command_line,
                umount_of_what_is_no_mount,
                umount_of_a_mount_in_use,
                a_signal_unmounts,
                another_fingerprint_is_refused,
                io_uring_needs_the_kernels_leave,
            ],
        )
        .on(&[DEV], bodies![a_mount_goes_into_the_background])
        .run()
}

fn run(command: &mut Command) -> (Option<i32>, String) {
    let done: Output = command.output().expect("it runs");
    (done.status.code(), text(&done))
}

fn info_needs_no_key(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    // Without any of the KMS's environment.
    let (code, words) = run(kmsfs(m.scratch()).arg("info").arg(m.backing()));
    assert_eq!(code, Some(0), "{words}");
    let done = kmsfs(m.scratch()).arg("info").arg("--json").arg(m.backing()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(json["suite"], setup.suite);
    assert_eq!(json["names"], if setup.plain_names { "plain" } else { "encrypted" });
    assert_eq!(json["kms"]["key_id"], m.key_id.as_str());
}

fn a_volume_is_mounted_once(setup: &Setup) {
    let m = Mounted::new(setup);
    let other = m.scratch().join("other");
    fs::create_dir(&other).unwrap();
    for options in [&[][..], &["-o", "ro"][..]] {
        let (code, words) = run(m.command().arg("mount").arg(m.backing()).arg(&other).args(options));
        assert_eq!(code, Some(7), "{words}");
        assert!(words.contains(&m.pid().to_string()), "it says who: {words}");
        assert!(!is_mounted(&other));
    }
}

fn wrong_arguments_end_with_2(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["mount"],
        &["mount", "a", "b", "--frobnicate"],
        &["init", "x", "--suite", "rot13"],
        &["init", "x", "--dev", "--kms", "http://127.0.0.1:1"],
        &["mount", "a", "b", "--secret-key", "s"],
        &["init", "x", "--files-per-data-key", "0"],
    ];
    for case in cases {
        let (code, words) = run(m.command().current_dir(m.scratch()).args(*case));
        assert_eq!(code, Some(2), "{case:?}: {words}");
    }
    for option in ["frobnicate", "ro,frobnicate", "durability=none"] {
        let (code, words) = run(&mut m.mount_command(option));
        assert_eq!(code, Some(2), "{option}: {words}");
    }
    assert_eq!(run(m.command().arg("--help")).0, Some(0));
    assert_eq!(run(m.command().arg("--version")).0, Some(0));
    assert!(!m.scratch().join("x").exists());
}

fn what_is_no_volume_ends_with_4(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let empty = m.scratch().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [empty, m.scratch().join("none")] {
        let (code, words) = run(m.command().arg("mount").arg(&path).arg(m.root()));
        assert_eq!(code, Some(4), "{words}");
        let (code, words) = run(m.command().arg("info").arg(&path));
        assert_eq!(code, Some(4), "{words}");
    }
}

fn a_configuration_that_lacks_something_ends_with_3(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    for missing in ["KMSFS_KMS_ENDPOINT", "KMSFS_KMS_ACCESS_KEY", "KMSFS_KMS_SECRET_KEY"] {
        let (code, words) = run(m.mount_command("").env_remove(missing));
        assert_eq!(code, Some(3), "{missing}: {words}");
    }
    let (code, words) = run(m.command().env_remove("KMSFS_KMS_KEY_ID").arg("init").arg(m.scratch().join("new")));
    assert_eq!(code, Some(3), "{words}");
    // A file with a secret that others may read, and one with a word that is none.
    use std::os::unix::fs::PermissionsExt;
    let file = m.scratch().join("open.toml");
    for (text, mode) in
        [("[kms]\nsecret_key = \"hunter2\"\naccess_key = \"a\"\n", 0o644), ("[kms]\nfrobnicate = 1\n", 0o600)]
    {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let (code, words) = run(m.mount_command("").arg("--config").arg(&file));
        assert_eq!(code, Some(3), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
}

fn http_outside_loopback_is_refused(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    for endpoint in ["http://192.0.2.1", "http://kms.example.com:8080", "ftp://127.0.0.1", "nonsense"] {
        let (code, words) = run(m.mount_command("").env("KMSFS_KMS_ENDPOINT", endpoint));
        assert_eq!(code, Some(3), "{endpoint}: {words}");
        let new = m.scratch().join("new");
        let (code, words) = run(m.command().arg("init").arg(&new).args(["--kms", endpoint]));
        assert_eq!(code, Some(3), "{endpoint}: {words}");
        assert!(!new.join("kmsfs.volume").exists());
    }
}

fn init_wants_an_empty_directory(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let (code, words) = run(m.command().arg("init").arg(m.backing()));
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("already"), "{words}");
    let full = m.scratch().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), b"dear").unwrap();
    let (code, words) = run(m.command().arg("init").arg(&full));
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("not empty"), "{words}");
    let (code, words) = run(m.command().arg("init").arg(full.join("file")));
    assert_eq!(code, Some(4), "{words}");
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    assert_eq!(fs::read(full.join("file")).unwrap(), b"dear");
}

fn mount_points_that_cannot_be(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let file = m.scratch().join("file");
    fs::write(&file, b"").unwrap();
    for (point, wanted) in [(file, 8), (m.scratch().join("none"), 8), (m.backing().to_owned(), 2)] {
        let (code, words) = run(m.command().arg("mount").arg(m.backing()).arg(&point));
        assert_eq!(code, Some(wanted), "{}: {words}", point.display());
    }
    let (code, words) = run(m.command().arg("mount").arg(m.backing()).arg(m.scratch()));
    assert_eq!(code, Some(2), "it would hide its own backing: {words}");
}

fn secrets_are_on_no_command_line(setup: &Setup) {
    let m = Mounted::new(setup);
    let line = fs::read(format!("/proc/{}/cmdline", m.pid())).unwrap();
    let secret = m.kms().credential().secret_key.to_string();
    assert!(!secret.is_empty());
    for text in [String::from_utf8_lossy(&line).into_owned(), m.log()] {
        assert!(!text.contains(&secret));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&secret));
    // Neither its memory nor a dump of it is for others.
    let limits = fs::read_to_string(format!("/proc/{}/limits", m.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

fn umount_of_what_is_no_mount(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    for path in [m.root(), m.scratch().join("none"), "/proc".into()] {
        let (code, words) = run(m.command().arg("umount").arg(&path));
        assert_eq!(code, Some(2), "{words}");
        assert!(words.contains("not a kmsfs mount"), "{words}");
    }
}

fn umount_of_a_mount_in_use(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let held = common::io::open_rw(&m.path("file"));
    let (code, words) = run(&mut m.umount_command());
    assert_eq!(code, Some(7), "{words}");
    std::io::Write::write_all(&mut &held, b"goes on").unwrap();
    drop(held);
    m.remount();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"goes on");
}

fn a_signal_unmounts(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut child = m.mount_command("").spawn().unwrap();
        wait_until("the mount", std::time::Duration::from_secs(20), || is_mounted(&m.root()));
        wait_until("it is up", std::time::Duration::from_secs(20), || {
            m.log().lines().filter(|line| line.contains(" mounted ")).count() > m.log().matches("unmounted").count()
        });
        fs::write(m.path("file"), b"kept").unwrap();
        // SAFETY: a call without pointers, on a child that was not waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        assert!(wait_for(&mut child).success());
        assert!(!is_mounted(&m.root()));
    }
    assert!(!m.log().contains("did not end cleanly"), "{}", m.log());
}

/// Where root allows it (`.ci/run` tries both), requests come over io_uring; elsewhere the refusal says what to do.
fn io_uring_needs_the_kernels_leave(setup: &Setup) {
    let mut m = Mounted::unmounted(setup, "[mount]\nio_uring = true\n");
    let allowed = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|text| text.trim() == "Y");
    if !allowed {
        let (code, words) = run(&mut m.mount_command(""));
        assert_eq!(code, Some(8), "{words}");
        assert!(words.contains("/sys/module/fuse/parameters/enable_uring"), "{words}");
        assert!(!is_mounted(&m.root()));
        // The command line has the last word.
        m.mount_with("no_io_uring");
        return fs::write(m.path("file"), b"text").unwrap();
    }
    m.mount();
    fs::write(m.path("file"), b"text").unwrap();
    let threads = fs::read_dir(format!("/proc/{}/task", m.pid())).unwrap();
    let names = threads.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    let lanes = names.filter(|name| name.starts_with("kmsfs-lane-")).count();
    assert!(lanes >= 2, "{lanes} lanes");
    m.remount();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
}

fn another_fingerprint_is_refused(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let (code, words) = run(m.mount_command("").args(["--fingerprint", "00112233"]));
    assert_eq!(code, Some(4), "{words}");
}

fn a_mount_goes_into_the_background(setup: &Setup) {
    let m = Mounted::unmounted(setup, "");
    let mut mount = m.command();
    mount.arg("mount").arg("--dev").arg(m.backing()).arg(m.root());
    // It returns once the mount answers.
    assert!(mount.status().unwrap().success());
    assert!(is_mounted(&m.root()));
    fs::write(m.path("file"), b"text").unwrap();
    let (code, words) = run(&mut m.umount_command());
    assert_eq!(code, Some(0), "{words}");
    assert!(!is_mounted(&m.root()));
    assert!(m.scratch().join("state/kmsfs/kmsfs.log").exists());
    // A failure of the daemon is the caller's exit code and words.
    fs::remove_file(m.backing().join("kmsfs.state")).unwrap();
    let (code, words) = run(&mut mount);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("kmsfs.state"), "{words}");
}
