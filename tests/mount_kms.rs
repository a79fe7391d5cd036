//! Trouble with the KMS: the right errno at the application, the cause in the log, and nothing else is held up.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::sync::Barrier;
use std::time::Duration;

use kms_mock::{Fault, FaultKind};

use common::io::{errno, pattern};
use common::mounted::text;
use common::{AES, ALL, Mounted, SUITES, Setup, Suite, within};

/// Short waits, so that a KMS that hangs is given up in a test's time. Keys are asked for anew at each open.
const IMPATIENT: &str = "[kms]\ntimeout_ms = 700\n[keys]\ndeadline = \"2s\"\nnegative_ttl = \"100ms\"\n";
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &SUITES,
            bodies![
                a_disabled_key_denies,
                a_deleted_key_is_gone,
                a_silent_kms_times_out,
                a_kms_that_drops_times_out,
                a_throttling_kms_times_out,
                a_lying_kms_is_found_out,
                useless_answers_are_errors,
                trouble_passes,
                cached_files_stay_readable,
                new_files_wait_for_a_slow_kms,
                new_files_while_the_kms_is_silent,
                opening_a_cold_file_waits_for_the_kms,
                who_waits_for_the_kms_cannot_be_killed,
            ],
        )
        .on(&ALL, bodies![names_never_wait_for_the_kms])
        .on(&[AES], bodies![one_call_for_many_readers, before_the_mount, many_files_and_a_slow_kms])
        .on(
            &[AES],
            bodies![keys_are_fetched_ahead_of_a_reader, no_key_is_fetched_ahead_where_that_is_off, trouble_amid_a_scan],
        )
        .on(&[AES], bodies![a_quota_delays_readers_and_fails_none])
        .run()
}

fn fault(api: &str, times: u32, kind: FaultKind) -> Fault {
    Fault { api: Some(api.into()), times, kind }
}

fn for_ever(api: &str, kind: FaultKind) -> Fault {
    fault(api, u32::MAX, kind)
}

/// A mount with a file whose key nobody holds.
fn with_a_cold_file(setup: &Setup) -> Mounted {
    let mut m = Mounted::with_config(setup, IMPATIENT);
    fs::write(m.path("cold"), pattern(1, 50_000)).unwrap();
    fs::write(m.path("cold2"), pattern(2, 50_000)).unwrap();
    m.remount();
    m
}

/// The errno of reading, within a deadline.
fn read_errno(m: &Mounted, name: &str) -> i32 {
    let path = m.path(name);
    within("the answer to a read", PATIENCE, move || errno(fs::read(path)))
}

fn a_disabled_key_denies(setup: &Setup) {
    let m = with_a_cold_file(setup);
    m.kms().disable_key(&m.key_id).unwrap();
    assert_eq!(read_errno(&m, "cold"), libc::EACCES);
    m.wait_for_log("KMS.0206");
    assert_eq!(fs::metadata(m.path("cold")).unwrap().len(), 50_000);
    m.kms().enable_key(&m.key_id).unwrap();
    common::wait_until("the refusal is forgotten", PATIENCE, || fs::read(m.path("cold")).is_ok());
    m.kms().schedule_deletion(&m.key_id).unwrap();
    assert_eq!(read_errno(&m, "cold2"), libc::EACCES);
}

fn a_deleted_key_is_gone(setup: &Setup) {
    let m = with_a_cold_file(setup);
    m.kms().delete_now(&m.key_id).unwrap();
    assert_eq!(read_errno(&m, "cold"), libc::ENOKEY);
    m.wait_for_log("ERROR");
}

fn a_silent_kms_times_out(setup: &Setup) {
    let m = with_a_cold_file(setup);
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    assert_eq!(read_errno(&m, "cold"), libc::ETIMEDOUT);
    m.wait_for_log("data key");
    m.kms().clear_faults();
    common::wait_until("it is asked again", PATIENCE, || fs::read(m.path("cold")).is_ok());
}

/// Opening a file whose key is not in memory waits for the KMS, at most `keys.deadline` (10 s), and then gives
/// ETIMEDOUT.
fn opening_a_cold_file_waits_for_the_kms(setup: &Setup) {
    let m = with_a_cold_file(setup);
    // Slow, but within the deadline: it is waited for, and nobody is told.
    m.kms().inject(fault("decrypt", 1, FaultKind::Delay(Duration::from_millis(400))));
    assert!(fs::read(m.path("cold")).unwrap() == pattern(1, 50_000));
    // Not within the deadline.
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    assert_eq!(read_errno(&m, "cold2"), libc::ETIMEDOUT);
}

/// Who waits for the KMS cannot be killed until the wait is over.
fn who_waits_for_the_kms_cannot_be_killed(setup: &Setup) {
    let m = with_a_cold_file(setup);
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    m.kms().reset_calls();
    let mut cat =
        std::process::Command::new("cat").arg(m.path("cold")).stderr(std::process::Stdio::null()).spawn().unwrap();
    common::wait_until("the KMS is asked", PATIENCE, || m.kms().calls("decrypt") > 0);
    cat.kill().unwrap();
    // The deadline ends the wait, and the caller.
    let status = common::mounted::wait_for(&mut cat);
    assert!(!status.success());
    assert!(m.log().contains("data key"), "the daemon has answered before: {}", m.log());
}

fn a_kms_that_drops_times_out(setup: &Setup) {
    let m = with_a_cold_file(setup);
    for kind in [FaultKind::Drop, FaultKind::DropAfter, FaultKind::TruncateBody, FaultKind::Status(503)] {
        m.kms().inject(for_ever("decrypt", kind.clone()));
        let wanted = [libc::ETIMEDOUT, libc::EIO];
        let got = read_errno(&m, "cold");
        assert!(wanted.contains(&got), "{kind:?} gives {got}");
        m.kms().clear_faults();
    }
    common::wait_until("it is asked again", PATIENCE, || fs::read(m.path("cold")).is_ok());
}

fn a_throttling_kms_times_out(setup: &Setup) {
    let m = with_a_cold_file(setup);
    m.kms().set_quota(Some(0));
    assert_eq!(read_errno(&m, "cold"), libc::ETIMEDOUT);
    m.kms().set_quota(None);
    common::wait_until("the quota is over", PATIENCE, || fs::read(m.path("cold")).is_ok());
}

/// Another key than the file's, of the right length: never other bytes.
fn a_lying_kms_is_found_out(setup: &Setup) {
    let m = with_a_cold_file(setup);
    for kind in [FaultKind::LyingPlaintext, FaultKind::ShortPlaintext, FaultKind::LyingKeyId] {
        m.kms().inject(for_ever("decrypt", kind.clone()));
        assert_eq!(read_errno(&m, "cold"), libc::EIO, "{kind:?}");
        m.kms().clear_faults();
    }
    m.wait_for_log("ERROR");
}

fn useless_answers_are_errors(setup: &Setup) {
    let m = with_a_cold_file(setup);
    let kinds = [
        FaultKind::NotJson,
        FaultKind::EmptyBody,
        FaultKind::OversizedBody,
        FaultKind::WithoutField("plaintext".into()),
        FaultKind::Code("KMS.9999".into()),
        FaultKind::Code("KMS.0219".into()),
    ];
    for kind in kinds {
        m.kms().inject(for_ever("decrypt", kind.clone()));
        let got = read_errno(&m, "cold");
        assert!(got == libc::EIO || got == libc::ETIMEDOUT, "{kind:?} gives {got}");
        m.kms().clear_faults();
        // The error is remembered for a moment.
        common::wait_until("it is asked again", PATIENCE, || fs::metadata(m.path("cold")).is_ok());
    }
}

/// A few failures in a row are retried and nobody notices.
fn trouble_passes(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for (i, kind) in
        [FaultKind::Drop, FaultKind::Status(503), FaultKind::Code("KMS.0512".into())].into_iter().enumerate()
    {
        let name = format!("file{i}");
        fs::write(m.path(&name), pattern(1, 10_000)).unwrap();
        m.remount();
        m.kms().inject(fault("decrypt", 1, kind.clone()));
        assert_eq!(read_errno(&m, &name), 0, "{kind:?}");
        m.kms().clear_faults();
    }
}

fn cached_files_stay_readable(setup: &Setup) {
    let m = with_a_cold_file(setup);
    fs::read(m.path("cold")).unwrap();
    let held = File::open(m.path("cold")).unwrap();
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    m.kms().inject(for_ever("generateDataKey", FaultKind::Hang));
    // A reader of the other waits; nobody else does.
    let path = m.path("cold2");
    let waiting = std::thread::spawn(move || errno(fs::read(path)));
    for _ in 0..50 {
        assert_eq!(read_errno(&m, "cold"), 0);
        common::io::drop_cache(&held);
    }
    assert!(common::io::read_all(&held) == pattern(1, 50_000));
    assert_eq!(waiting.join().unwrap(), libc::ETIMEDOUT);
}

/// Names and attributes never wait for the KMS.
fn names_never_wait_for_the_kms(setup: &Setup) {
    // While every read of a cold file hangs, more of them than there are threads, names and attributes are served.
    let mut m = Mounted::new(setup);
    for i in 0..40 {
        fs::write(m.path(format!("cold {i}")), b"text").unwrap();
    }
    m.remount();
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    m.kms().inject(for_ever("generateDataKey", FaultKind::Hang));
    let waiting: Vec<_> = (0..40)
        .map(|i| {
            let path = m.path(format!("cold {i}"));
            std::thread::spawn(move || errno(fs::read(path)))
        })
        .collect();
    let root = m.root();
    let calls = m.kms().calls("decrypt");
    within("names and attributes", Duration::from_secs(8), move || {
        for round in 0..20 {
            assert_eq!(fs::read_dir(&root).unwrap().count(), 40);
            for i in 0..40 {
                fs::metadata(root.join(format!("cold {i}"))).unwrap();
            }
            fs::create_dir(root.join(format!("dir {round}"))).unwrap();
            fs::rename(root.join(format!("dir {round}")), root.join("moved")).unwrap();
            std::os::unix::fs::symlink("x", root.join("moved/link")).unwrap();
            File::create(root.join("moved/empty")).unwrap();
            fs::remove_dir_all(root.join("moved")).unwrap();
        }
    });
    assert!(!waiting.iter().all(|thread| thread.is_finished()), "they waited meanwhile ({calls} calls)");
    // Calls that hang end in an error; further ones are served.
    m.kms().clear_faults();
    for thread in waiting {
        let got = thread.join().unwrap();
        assert!([0, libc::ETIMEDOUT].contains(&got), "{got}");
    }
}

fn one_call_for_many_readers(setup: &Setup) {
    const READERS: usize = 64;
    let mut m = Mounted::new(setup);
    fs::write(m.path("cold"), pattern(1, 50_000)).unwrap();
    m.remount();
    m.kms().reset_calls();
    m.kms().inject(fault("decrypt", 1, FaultKind::Delay(Duration::from_millis(500))));
    let barrier = Barrier::new(READERS);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                barrier.wait();
                assert!(fs::read(m.path("cold")).unwrap() == pattern(1, 50_000));
            });
        }
    });
    assert_eq!(m.kms().calls("decrypt"), 1);
    fs::read(m.path("cold")).unwrap();
    assert_eq!(m.kms().calls("decrypt"), 1);
}

fn new_files_wait_for_a_slow_kms(setup: &Setup) {
    let m = Mounted::new(setup);
    m.kms().inject(for_ever("generateDataKey", FaultKind::Delay(Duration::from_millis(100))));
    // More than the pool holds, from several threads.
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let m = &m;
            scope.spawn(move || {
                for i in 0..6 {
                    fs::write(m.path(format!("{thread}-{i}")), pattern(thread, 5000)).unwrap();
                }
            });
        }
    });
    for thread in 0..8u64 {
        for i in 0..6 {
            assert!(fs::read(m.path(format!("{thread}-{i}"))).unwrap() == pattern(thread, 5000));
        }
    }
}

/// The first byte of a new file waits in the same way when no key lies ready.
fn new_files_while_the_kms_is_silent(setup: &Setup) {
    // An error reaches the writer, at the latest when it asks by fsync; the volume goes on after.
    let m = Mounted::with_config(setup, &format!("{IMPATIENT}pool_target = 1\npool_max = 1\n"));
    m.kms().inject(for_ever("generateDataKey", FaultKind::Hang));
    let root = m.root();
    let failed = within("an end of writing", Duration::from_secs(100), move || {
        (0..20)
            .filter_map(|i| {
                let mut file = File::create(root.join(format!("{i}"))).unwrap();
                let written = file.write_all(b"text").and_then(|()| file.sync_all());
                written.err().map(|e| e.raw_os_error())
            })
            .next()
    });
    let failed = failed.expect("the pool is not endless").unwrap();
    assert_eq!(failed, libc::ETIMEDOUT);
    m.kms().clear_faults();
    common::wait_until("files can be made again", PATIENCE, || {
        fs::write(m.path("later"), b"text").is_ok()
            && File::open(m.path("later")).and_then(|file| file.sync_all()).is_ok()
    });
    assert_eq!(fs::read(m.path("later")).unwrap(), b"text");
}

fn many_files_and_a_slow_kms(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for i in 0..300u64 {
        fs::write(m.path(format!("{i}")), pattern(i, 3000)).unwrap();
    }
    m.remount();
    m.kms().inject(for_ever("decrypt", FaultKind::Delay(Duration::from_millis(20))));
    let root = m.root();
    within("all files", Duration::from_secs(60), move || {
        std::thread::scope(|scope| {
            for thread in 0..16u64 {
                let root = &root;
                scope.spawn(move || {
                    for i in (thread..300).step_by(16) {
                        assert!(fs::read(root.join(format!("{i}"))).unwrap() == pattern(i, 3000));
                    }
                });
            }
        });
    });
}

/// A mount with `count` files, named in their order, whose keys nobody holds.
fn with_cold_files(setup: &Setup, config: &str, count: u64) -> Mounted {
    let mut m = Mounted::with_config(setup, config);
    for i in 0..count {
        fs::write(m.path(format!("{i:04}")), pattern(i, 3000)).unwrap();
    }
    m.remount();
    m.kms().reset_calls();
    m
}

fn keys_are_fetched_ahead_of_a_reader(setup: &Setup) {
    let m = with_cold_files(setup, "", 200);
    for i in 0..3u64 {
        assert!(fs::read(m.path(format!("{i:04}"))).unwrap() == pattern(i, 3000));
    }
    common::wait_until("keys of files that are not open", PATIENCE, || m.kms().calls("decrypt") >= 10);
    assert!(m.kms().calls("decrypt") < 40, "but not of all");
    for i in 3..200u64 {
        assert!(fs::read(m.path(format!("{i:04}"))).unwrap() == pattern(i, 3000));
    }
    assert_eq!(m.kms().calls("decrypt"), 200, "each once");
}

fn no_key_is_fetched_ahead_where_that_is_off(setup: &Setup) {
    let m = with_cold_files(setup, "[keys]\nprefetch = false\n", 60);
    for i in 0..60u64 {
        assert!(fs::read(m.path(format!("{i:04}"))).unwrap() == pattern(i, 3000));
        assert_eq!(m.kms().calls("decrypt"), i + 1);
    }
}

/// What was fetched ahead in vain is no answer to who opens the file later.
fn trouble_amid_a_scan(setup: &Setup) {
    let m = with_cold_files(setup, IMPATIENT, 300);
    let read = |range: std::ops::Range<u64>| {
        for i in range {
            assert!(fs::read(m.path(format!("{i:04}"))).unwrap() == pattern(i, 3000), "{i}");
        }
    };
    read(0..20);
    m.kms().inject(for_ever("decrypt", FaultKind::Hang));
    let failed = (20..300).find(|i| read_errno(&m, &format!("{i:04}")) != 0);
    assert!(failed.is_some(), "not all keys were fetched ahead");
    m.kms().clear_faults();
    read(20..100);
    m.kms().set_quota(Some(0));
    let failed = (100..300).find(|i| read_errno(&m, &format!("{i:04}")) != 0);
    assert!(failed.is_some());
    m.kms().set_quota(None);
    common::wait_until("the quota is over", PATIENCE, || fs::read(m.path("0299")).is_ok());
    read(100..300);
}

fn a_quota_delays_readers_and_fails_none(setup: &Setup) {
    let m = with_cold_files(setup, "", 150);
    m.kms().set_quota(Some(40));
    let m = &m;
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            scope.spawn(move || {
                for i in (thread..150).step_by(16) {
                    // Far from each other, so that no scan is seen.
                    let i = i * 67 % 150;
                    assert!(fs::read(m.path(format!("{i:04}"))).unwrap() == pattern(i, 3000));
                }
            });
        }
    });
}

/// Exit codes of mount and init say whether the KMS refused or could not be asked.
fn before_the_mount(setup: &Setup) {
    let mut m = Mounted::unmounted(setup, IMPATIENT);
    let mount = |m: &Mounted| {
        let done = m.mount_command("").output().unwrap();
        (done.status.code(), text(&done))
    };
    let unreachable = [FaultKind::Hang, FaultKind::Drop, FaultKind::Status(503), FaultKind::Code("KMS.0512".into())];
    for kind in unreachable {
        m.kms().inject(for_ever("decrypt", kind.clone()));
        let (code, words) = mount(&m);
        m.kms().clear_faults();
        assert_eq!(code, Some(6), "{kind:?}: {words}");
    }
    m.kms().inject(fault("decrypt", 1, FaultKind::LyingPlaintext));
    let (code, words) = mount(&m);
    assert_eq!(code, Some(4), "{words}");
    m.kms().disable_key(&m.key_id).unwrap();
    let (code, words) = mount(&m);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("KMS.0206"), "{words}");
    let key = m.kms().credential().access_key;
    m.kms().enable_key(&m.key_id).unwrap();
    m.kms().set_frozen(&key, true);
    let (code, words) = mount(&m);
    assert_eq!(code, Some(5), "{words}");
    m.kms().set_frozen(&key, false);
    let wrong = m.mount_command("").env("KMSFS_KMS_SECRET_KEY", "wrong").output().unwrap();
    assert_eq!(wrong.status.code(), Some(5), "{}", text(&wrong));
    m.mount();
    fs::write(m.path("file"), b"text").unwrap();
}
