//! Damage: what was changed behind the mount's back is an error or as it was, never other bytes; the rest is unaffected.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::io::{Random, errno, flip, open_rw, pattern};
use common::mounted::text;
use common::{AES, ALL, Mounted, SM4, SUITES, Setup, Suite};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                a_flipped_byte_is_noticed,
                a_stored_file_cut_short_is_noticed,
                files_cannot_be_swapped_by_parts,
                a_damaged_volume_file_is_refused,
                a_damaged_state_file_is_refused,
                another_kms_does_not_open_the_volume,
            ],
        )
        .on(
            &[AES, SM4],
            bodies![
                a_directory_without_its_marker,
                a_directory_without_its_marker_gets_no_other,
                a_long_names_link_that_a_crash_left_does_not_keep_a_directory,
                damaged_names_are_not_shown,
            ],
        )
        .on(
            &SUITES,
            bodies![
                a_damaged_file_can_be_replaced,
                a_damaged_block_harms_no_other,
                a_damaged_block_can_be_overwritten,
                a_damaged_file_grows_unless_its_end_is_damaged,
            ],
        )
        .run()
}

/// At many places of files of several shapes: EIO or the same bytes.
fn a_flipped_byte_is_noticed(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let shapes: [(&str, usize); 4] = [("small", 10), ("block", 4096), ("odd", 140_003), ("big", 600_000)];
    for (i, (name, len)) in shapes.iter().enumerate() {
        fs::write(m.path(name), pattern(i as u64, *len)).unwrap();
    }
    fs::write(m.path("other"), pattern(99, 100_000)).unwrap();
    let sparse = open_rw(&m.path("sparse"));
    sparse.write_all_at(&pattern(50, 10_000), 1_000_000).unwrap();
    drop(sparse);
    let mut files: Vec<_> = shapes.iter().map(|(name, _)| (*name, m.stored(&m.path(name)))).collect();
    files.push(("sparse", m.stored(&m.path("sparse"))));
    let before: Vec<_> = files.iter().map(|(name, _)| fs::read(m.path(name)).unwrap()).collect();
    let originals: Vec<_> = files.iter().map(|(_, stored)| fs::read(stored).unwrap()).collect();
    m.unmount();
    let mut random = Random(1);
    let (mut refused, mut same) = (0, 0);
    for round in 0..24u64 {
        for ((_, stored), original) in files.iter().zip(&originals) {
            let len = original.len() as u64;
            let at = match round {
                0..=7 => [0, 5, 8, 1023, 1024, 2048, 4032, 4095][round as usize],
                8 => len - 1,
                9 => 4096,
                _ => random.below(len),
            };
            flip(stored, at.min(len - 1));
        }
        m.mount();
        for ((name, _), before) in files.iter().zip(&before) {
            match fs::read(m.path(name)) {
                Ok(seen) => {
                    assert!(seen == *before, "{name} has other bytes in round {round}");
                    same += 1;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO), "{name} in round {round}");
                    refused += 1;
                }
            }
        }
        assert!(fs::read(m.path("other")).unwrap() == pattern(99, 100_000));
        m.unmount();
        for ((_, stored), original) in files.iter().zip(&originals) {
            open_rw(stored).write_all_at(original, 0).unwrap();
        }
    }
    assert!(refused > 30, "{refused} refused, {same} the same");
    assert!(m.log().contains("does not verify"), "the log tells the cause");
    m.mount();
    for ((name, _), before) in files.iter().zip(&before) {
        assert!(fs::read(m.path(name)).unwrap() == *before, "{name} at the end");
    }
}

fn a_stored_file_cut_short_is_noticed(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 500_000)).unwrap();
    let stored = m.stored(&m.path("file"));
    let whole = fs::read(&stored).unwrap();
    m.unmount();
    for len in [1, 100, 4095, 4096, 8192, 100_000, whole.len() - 4096, whole.len() - 1] {
        File::options().write(true).open(&stored).unwrap().set_len(len as u64).unwrap();
        m.mount();
        match fs::read(m.path("file")) {
            // Of the last bytes only the number counts, and the record has it too.
            Ok(seen) => assert!(len > whole.len() - 4096 && seen == pattern(1, 500_000), "cut to {len}"),
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "cut to {len}"),
        }
        m.unmount();
        fs::write(&stored, &whole).unwrap();
    }
    m.mount();
    assert!(fs::read(m.path("file")).unwrap() == pattern(1, 500_000));
}

/// Pages of one file in another, and whole files under each other's names.
fn files_cannot_be_swapped_by_parts(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("a"), pattern(1, 200_000)).unwrap();
    fs::write(m.path("b"), pattern(2, 200_000)).unwrap();
    let (a, b) = (m.stored(&m.path("a")), m.stored(&m.path("b")));
    let (whole_a, whole_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    m.unmount();
    // All but the first page is the other's.
    open_rw(&a).write_all_at(&whole_b[4096..], 4096).unwrap();
    m.mount();
    assert_eq!(errno(fs::read(m.path("a"))), libc::EIO);
    m.unmount();
    // Two pages of one file change places.
    open_rw(&a).write_all_at(&whole_a, 0).unwrap();
    open_rw(&a).write_all_at(&whole_a[3 * 4096..4 * 4096], 2 * 4096).unwrap();
    open_rw(&a).write_all_at(&whole_a[2 * 4096..3 * 4096], 3 * 4096).unwrap();
    m.mount();
    assert_eq!(errno(fs::read(m.path("a"))), libc::EIO);
    assert!(fs::read(m.path("b")).unwrap() == pattern(2, 200_000));
}

/// A damaged file can be cut to 0, unlinked and replaced by a rename.
fn a_damaged_file_can_be_replaced(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for name in ["cut", "removed", "renamed over"] {
        fs::write(m.path(name), pattern(1, 10_000)).unwrap();
        let stored = m.stored(&m.path(name));
        m.unmount();
        for at in [0, 1024] {
            open_rw(&stored).write_all_at(&[0xff; 200], at).unwrap();
        }
        m.mount();
        assert_eq!(errno(fs::read(m.path(name))), libc::EIO);
        assert_eq!(fs::metadata(m.path(name)).unwrap().len(), 10_000, "its attributes are to be seen");
    }
    fs::remove_file(m.path("removed")).unwrap();
    fs::write(m.path("new"), b"new").unwrap();
    fs::rename(m.path("new"), m.path("renamed over")).unwrap();
    assert_eq!(fs::read(m.path("renamed over")).unwrap(), b"new");
    common::io::truncate(&m.path("cut"), 0);
    fs::write(m.path("cut"), b"anew").unwrap();
    m.remount();
    assert_eq!(fs::read(m.path("cut")).unwrap(), b"anew");
}

/// A mount with a file of ten blocks, of which one was damaged while it was not mounted.
fn with_a_damaged_block(setup: &Setup, block: usize) -> Mounted {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 40_960)).unwrap();
    let stored = m.stored(&m.path("file"));
    m.unmount();
    // Behind the first page, in order.
    flip(&stored, (1 + block as u64) * 4096 + 100);
    m.mount();
    m
}

/// Damage to a block gives EIO for reads of that block and for writes that cover it in part, and harms no other block.
fn a_damaged_block_harms_no_other(setup: &Setup) {
    let m = with_a_damaged_block(setup, 5);
    let file = open_rw(&m.path("file"));
    // One at a time: a request of the kernel's read-ahead may have several.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    for i in 0..10 {
        let mut block = [0; 4096];
        let read = file.read_exact_at(&mut block, i * 4096);
        let part =
            file.write_all_at(&pattern(1, 40_960)[i as usize * 4096..][..10], i * 4096).and_then(|()| file.sync_all());
        if i == 5 {
            assert_eq!((errno(read), errno(part)), (libc::EIO, libc::EIO));
        } else {
            read.unwrap_or_else(|e| panic!("{i}: {e}"));
            part.unwrap_or_else(|e| panic!("{i}: {e}"));
            assert!(block == pattern(1, 40_960)[i as usize * 4096..][..4096], "{i}");
        }
    }
}

/// A damaged block can be overwritten as a whole.
fn a_damaged_block_can_be_overwritten(setup: &Setup) {
    let mut m = with_a_damaged_block(setup, 5);
    let file = open_rw(&m.path("file"));
    file.write_all_at(&pattern(2, 4096), 5 * 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    m.remount();
    let mut wanted = pattern(1, 40_960);
    wanted[5 * 4096..6 * 4096].copy_from_slice(&pattern(2, 4096));
    assert!(fs::read(m.path("file")).unwrap() == wanted);
}

/// A damaged file can grow, unless the damage is in its last block (EIO).
fn a_damaged_file_grows_unless_its_end_is_damaged(setup: &Setup) {
    for (damaged, wanted) in [(5, 0), (9, libc::EIO)] {
        let m = with_a_damaged_block(setup, damaged);
        let file = open_rw(&m.path("file"));
        // Not at a block's end: what lies behind it in the last block has to be looked at.
        let cut = errno(file.set_len(40_000));
        assert_eq!(cut, 0);
        assert_eq!(errno(file.set_len(50_000)), wanted, "block {damaged}");
    }
}

fn a_directory_without_its_marker(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/file"), b"text").unwrap();
    fs::write(m.path("other"), b"other").unwrap();
    let marker = m.stored(&m.path("dir")).join("kmsfs.dir");
    let target = fs::read_link(&marker).unwrap();
    m.unmount();
    fs::remove_file(&marker).unwrap();
    m.mount();
    let listed = fs::read_dir(m.path("dir")).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    assert_eq!(errno(listed), libc::EIO);
    assert_eq!(fs::read(m.path("other")).unwrap(), b"other");
    m.wait_for_log("no marker");
    m.unmount();
    // Another directory's marker, and one that is none.
    std::os::unix::fs::symlink("AAAA", &marker).unwrap();
    m.mount();
    assert_eq!(errno(fs::read(m.path("dir/file"))), libc::EIO);
    m.unmount();
    fs::remove_file(&marker).unwrap();
    std::os::unix::fs::symlink(target, &marker).unwrap();
    m.mount();
    assert_eq!(fs::read(m.path("dir/file")).unwrap(), b"text");
}

/// Stored entries whose name is not this volume's are left out of listings, and the log says so.
fn damaged_names_are_not_shown(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("good"), b"good").unwrap();
    fs::write(m.path("bad"), b"bad").unwrap();
    fs::write(m.path("long".repeat(60)), b"long").unwrap();
    let (bad, long) = (m.stored(&m.path("bad")), m.stored(&m.path("long".repeat(60))));
    m.unmount();
    let mut name = bad.file_name().unwrap().to_str().unwrap().to_owned();
    let last = name.pop().unwrap();
    name.insert(0, last);
    fs::rename(&bad, bad.with_file_name(name)).unwrap();
    fs::write(m.backing().join("foreign file"), b"").unwrap();
    fs::remove_file(format!("{}.name", long.display())).unwrap();
    m.mount();
    let listed: Vec<_> = fs::read_dir(m.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, ["good"]);
    m.wait_for_log("its name is not this volume's");
    assert_eq!(fs::read(m.path("good")).unwrap(), b"good");
    // The hash of the name still finds it.
    assert_eq!(fs::read(m.path("long".repeat(60))).unwrap(), b"long");
}

/// Mounts, which must fail; gives exit code and words.
fn refused(m: &Mounted) -> (Option<i32>, String) {
    let done = m.mount_command("").output().unwrap();
    assert!(!done.status.success(), "it mounted");
    (done.status.code(), text(&done))
}

fn a_damaged_volume_file_is_refused(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    m.unmount();
    let path = m.backing().join("kmsfs.volume");
    let whole = fs::read(&path).unwrap();
    let len = whole.len() as u64;
    for at in (0..len).step_by((len / 40).max(1) as usize) {
        flip(&path, at);
        let (code, words) = refused(&m);
        // A wrapped key that was changed is refused by the KMS, not by us.
        assert!(matches!(code, Some(3..=5)), "byte {at}: {words}");
        fs::write(&path, &whole).unwrap();
    }
    for len in [0, 1, 100] {
        fs::write(&path, &whole[..len]).unwrap();
        let (code, words) = refused(&m);
        assert_eq!(code, Some(4), "{words}");
    }
    fs::remove_file(&path).unwrap();
    let (code, words) = refused(&m);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("not a kmsfs volume"), "{words}");
    fs::write(&path, &whole).unwrap();
    m.mount();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
}

fn a_damaged_state_file_is_refused(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    m.unmount();
    let path = m.backing().join("kmsfs.state");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() as u64 {
        flip(&path, at);
        let (code, words) = refused(&m);
        assert_eq!(code, Some(4), "byte {at}: {words}");
        fs::write(&path, &whole).unwrap();
    }
    fs::remove_file(&path).unwrap();
    let (code, words) = refused(&m);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("--reset-state"), "{words}");
    // The way out that it names.
    let mut reset = m.mount_command("");
    reset.arg("--reset-state");
    let mut child = reset.spawn().unwrap();
    common::wait_until("the mount", std::time::Duration::from_secs(20), || common::mounted::is_mounted(&m.root()));
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
    assert!(m.umount_command().status().unwrap().success());
    assert!(common::mounted::wait_for(&mut child).success());
}

/// Another KMS knows neither the CMK nor the credentials.
fn another_kms_does_not_open_the_volume(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    m.unmount();
    let other = Mounted::unmounted(setup, "");
    let with_other = |key_id: &str| {
        let credential = other.kms().credential();
        let mut mount = m.mount_command("");
        mount
            .env("KMSFS_KMS_ENDPOINT", other.kms().endpoint())
            .env("KMSFS_KMS_KEY_ID", key_id)
            .env("KMSFS_KMS_ACCESS_KEY", credential.access_key)
            .env("KMSFS_KMS_SECRET_KEY", credential.secret_key);
        let done = mount.output().unwrap();
        (done.status.code(), text(&done))
    };
    // Right CMK, wrong service; then the other's CMK.
    let (code, words) = with_other(&m.key_id);
    assert_eq!(code, Some(5), "{words}");
    let (code, words) = with_other(&other.key_id);
    assert_eq!(code, Some(4), "{words}");
    assert!(words.contains("allowed_key_ids"), "{words}");
    m.mount();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
}

/// A new marker would make every entry foreign, and the file system would show an empty directory.
fn a_directory_without_its_marker_gets_no_other(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/file"), b"content").unwrap();
    let marker = m.stored(&m.path("dir")).join("kmsfs.dir");
    let target = fs::read_link(&marker).unwrap();
    m.unmount();
    fs::remove_file(&marker).unwrap();
    m.mount();
    assert_eq!(errno(fs::write(m.path("dir/new"), b"")), libc::EIO);
    m.unmount();
    std::os::unix::fs::symlink(target, &marker).unwrap();
    m.mount();
    assert_eq!(fs::read(m.path("dir/file")).unwrap(), b"content");
}

fn a_long_names_link_that_a_crash_left_does_not_keep_a_directory(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/file"), b"").unwrap();
    fs::remove_file(m.path("dir/file")).unwrap();
    let stored = m.stored(&m.path("dir"));
    m.unmount();
    std::os::unix::fs::symlink("whole", stored.join(format!("kmsfs.long.{}.name", "A".repeat(43)))).unwrap();
    m.mount();
    assert_eq!(fs::read_dir(m.path("dir")).unwrap().count(), 0);
    fs::remove_dir(m.path("dir")).unwrap();
}
