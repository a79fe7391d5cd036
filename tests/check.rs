//! `kmsfs check`: what is wrong below the mount is told by path, block and cause; crashes are mended; the rest is saved.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::checking::{check, files_keys_are_withheld, of_kind, overwrite_and_kill};
use common::io::{flip, open_rw, pattern};
use common::mounted::text;
use common::{AES, ALL, Mounted, SM4, SUITES, Setup, Suite};
use kms_mock::FaultKind;
use serde_json::Value;

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                a_sound_volume_has_nothing,
                damaged_blocks_are_told,
                a_killed_daemon_is_mended,
                a_cut_file_keeps_what_its_redo_file_has,
                everything_readable_is_salvaged,
            ],
        )
        .on(&SUITES, bodies![damage_of_every_kind_is_told, keys_that_cannot_be_had_are_no_damage])
        .on(&[AES, SM4], bodies![names_and_links_are_verified])
        .on(&[AES], bodies![a_mounted_volume_is_only_read, a_repair_that_lacks_a_key_keeps_the_list])
        .run()
}

fn fill(m: &Mounted) {
    fs::create_dir_all(m.path("dir/sub")).unwrap();
    fs::write(m.path("empty"), b"").unwrap();
    fs::write(m.path("dir/small"), pattern(1, 100)).unwrap();
    fs::write(m.path("dir/sub/odd"), pattern(2, 700_001)).unwrap();
    let sparse = open_rw(&m.path("sparse"));
    sparse.write_all_at(&pattern(3, 10_000), 3_000_000).unwrap();
    sparse.write_all_at(&pattern(4, 10_000), 1_100_000_000).unwrap();
    symlink("a target", m.path("dir/link")).unwrap();
    fs::hard_link(m.path("dir/small"), m.path("other name")).unwrap();
    if !m.setup.plain_names {
        fs::write(m.path("long ".repeat(40)), b"long").unwrap();
        symlink("t".repeat(4000), m.path("far")).unwrap();
    }
}

fn a_sound_volume_has_nothing(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    for mode in [&[][..], &["--quick"], &["--structure"], &["--repair"]] {
        let (code, json) = check(&m, mode);
        assert_eq!(code, 0, "{mode:?}: {json:#}");
        assert_eq!(json["findings"].as_array().unwrap().len(), 0, "{json:#}");
        assert_eq!(json["summary"]["files"], if setup.plain_names { 4 } else { 5 });
        assert_eq!(json["summary"]["directories"], 3);
    }
    let done = m.command().arg("check").arg(m.backing()).output().unwrap();
    assert!(text(&done).contains("0 damages"), "{}", text(&done));
    m.mount();
    assert!(fs::read(m.path("dir/sub/odd")).unwrap() == pattern(2, 700_001));
}

fn damaged_blocks_are_told(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    let odd = m.stored(&m.path("dir/sub/odd"));
    let whole = fs::read(&odd).unwrap();
    m.unmount();
    // Blocks 0, 2, 3 by their pages, block 64 by its slot: the page of group 1 is page 66.
    for page in [1, 3, 4] {
        flip(&odd, page * 4096 + 77);
    }
    flip(&odd, 66 * 4096 + 3);
    let (code, json) = check(&m, &[]);
    assert_eq!(code, 9, "{json:#}");
    let told = of_kind(&json, "block");
    assert_eq!(told, [(Some("dir/sub/odd".into()), "[[0,0],[2,3],[64,64]]".into())], "{json:#}");
    assert_eq!(json["findings"].as_array().unwrap().len(), 1);
    let (code, json) = check(&m, &["--quick"]);
    assert_eq!(code, 0, "no page is read: {json:#}");
    // Two pages change places.
    fs::write(&odd, &whole).unwrap();
    open_rw(&odd).write_all_at(&whole[9 * 4096..10 * 4096], 8 * 4096).unwrap();
    open_rw(&odd).write_all_at(&whole[8 * 4096..9 * 4096], 9 * 4096).unwrap();
    let (code, json) = check(&m, &["--repair"]);
    assert_eq!((code, of_kind(&json, "block")[0].1.as_str()), (9, "[[7,8]]"), "{json:#}");
    let done = m.command().arg("check").arg(m.backing()).output().unwrap();
    let words = text(&done);
    assert!(words.contains("dir/sub/odd") && words.contains("blocks 7-8"), "{words}");
    fs::write(&odd, &whole).unwrap();
    assert_eq!(check(&m, &[]).0, 0);
}

fn damage_of_every_kind_is_told(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    let odd = m.stored(&m.path("dir/sub/odd"));
    let sparse = m.stored(&m.path("sparse"));
    let (whole, len) = (fs::read(&odd).unwrap(), fs::metadata(&odd).unwrap().len());
    m.unmount();
    let both: &dyn Fn() = &|| [5, 1030].iter().for_each(|&at| flip(&odd, at));
    let set_len = |len: u64| File::options().write(true).open(&odd).unwrap().set_len(len).unwrap();
    let cases: [(&str, &dyn Fn(), i32); 9] = [
        ("header", both, 9),
        ("header-copy", &|| flip(&odd, 5), 9),
        ("record", &|| flip(&odd, 4040), 9),
        ("slot", &|| flip(&odd, 2048 + 64 + 30), 9),
        ("missing", &|| open_rw(&odd).write_all_at(&[0; 64], 66 * 4096 + 64).unwrap(), 9),
        ("cut", &|| set_len(len / 4096 * 4096 - 8192), 9),
        ("short", &|| set_len(100), 9),
        ("length", &|| set_len(len + 3 * 4096), 9),
        (
            "file-id",
            &|| {
                fs::copy(&odd, odd.with_extension("copy")).unwrap();
            },
            0,
        ),
    ];
    for (kind, damage, wanted) in cases {
        damage();
        let (code, json) = check(&m, &[]);
        if kind != "file-id" {
            assert_eq!(code, wanted, "{kind}: {json:#}");
            let told = of_kind(&json, kind);
            assert_eq!(told.len(), 1, "{kind}: {json:#}");
            assert_eq!(told[0].0.as_deref(), Some("dir/sub/odd"), "{kind}");
            assert!(code == check(&m, &["--quick"]).0, "{kind}: quick sees it too");
        } else {
            assert_eq!(of_kind(&json, kind).len(), 1, "{json:#}");
        }
        fs::write(&odd, &whole).unwrap();
    }
    fs::remove_file(odd.with_extension("copy")).unwrap();
    // The map of a sparse file: record 0 of region 0, in page 31.
    flip(&sparse, 31 * 4096 + 40);
    let (code, json) = check(&m, &["--quick"]);
    assert_eq!((code, of_kind(&json, "map").len()), (9, 1), "{json:#}");
    flip(&sparse, 31 * 4096 + 40);
    // What a repair can mend of these.
    flip(&odd, 5);
    set_len(len + 3 * 4096);
    let (code, json) = check(&m, &["--repair"]);
    assert_eq!(code, 10, "{json:#}");
    assert_eq!(check(&m, &[]).0, 0);
    flip(&m.backing().join("kmsfs.state"), 9);
    let (code, json) = check(&m, &[]);
    assert_eq!((code, of_kind(&json, "state").len()), (9, 1), "{json:#}");
    flip(&m.backing().join("kmsfs.state"), 9);
    m.mount();
    assert!(fs::read(m.path("dir/sub/odd")).unwrap() == pattern(2, 700_001));
}

fn names_and_links_are_verified(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    let long = m.stored(&m.path("long ".repeat(40)));
    let (odd, dir, link) = (m.stored(&m.path("dir/sub/odd")), m.stored(&m.path("dir")), m.stored(&m.path("dir/link")));
    m.unmount();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    // What crashes leave.
    symlink("x", m.backing().join(format!("kmsfs.long.{}.name", "A".repeat(43)))).unwrap();
    symlink("x", dir.join(format!("kmsfs.long.{}.target", "A".repeat(43)))).unwrap();
    fs::write(m.backing().join("kmsfs.tmp.0011"), b"x").unwrap();
    fs::write(m.backing().join("kmsfs.redo.77"), b"x").unwrap();
    fs::write(m.backing().join("foreign file"), b"x").unwrap();
    let (code, json) = check(&m, &["--structure"]);
    assert_eq!(code, 9);
    for (kind, n) in [("orphan-link", 2), ("temporary", 1), ("redo-file", 1), ("foreign", 1)] {
        assert_eq!(of_kind(&json, kind).len(), n, "{kind}: {json:#}");
    }
    assert_eq!(check(&m, &["--repair"]).0, 10);
    let (code, json) = check(&m, &[]);
    assert_eq!((code, of_kind(&json, "foreign").len()), (0, 1), "{json:#}");
    // Damage: a long name's link gone, a file under another directory's name, a target and a marker changed.
    let beside = long.with_file_name(format!("{}.name", name(&long)));
    let target = fs::read_link(&beside).unwrap();
    fs::remove_file(&beside).unwrap();
    fs::hard_link(&odd, m.backing().join(name(&odd))).unwrap();
    let stored_target = fs::read_link(&link).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(format!("B{}", stored_target.display()), &link).unwrap();
    let (code, json) = check(&m, &["--structure"]);
    assert_eq!(code, 9);
    for kind in ["long-name", "target"] {
        assert_eq!(of_kind(&json, kind).len(), 1, "{kind}: {json:#}");
    }
    assert_eq!(of_kind(&json, "target")[0].0.as_deref(), Some("dir/link"));
    assert_eq!(of_kind(&json, "foreign").len(), 2, "{json:#}");
    let marker = dir.join("kmsfs.dir");
    let id = fs::read_link(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    let (_, json) = check(&m, &["--structure"]);
    assert_eq!(of_kind(&json, "marker"), [(Some("dir".into()), "[]".into())], "{json:#}");
    // All of it put back.
    symlink(id, &marker).unwrap();
    symlink(target, &beside).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(stored_target, &link).unwrap();
    fs::remove_file(m.backing().join(name(&odd))).unwrap();
    assert_eq!(check(&m, &[]).0, 0);
}

fn a_killed_daemon_is_mended(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    overwrite_and_kill(&mut m);
    let (code, json) = check(&m, &[]);
    assert_eq!((code, of_kind(&json, "session").len()), (9, 1), "{json:#}");
    let waits = of_kind(&json, "redo-page").len() == 1;
    m.mount_with("ro");
    let before = fs::read(m.path("over")).unwrap();
    m.unmount();
    let (code, json) = check(&m, &["--repair"]);
    assert_eq!(code, 10, "{json:#}");
    assert!(waits, "the test has made what it is about: {json:#}");
    let (code, json) = check(&m, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["findings"].as_array().unwrap().len(), 0, "{json:#}");
    assert!(!fs::read_dir(m.backing()).unwrap().flatten().any(|e| e.file_name().to_str().unwrap().contains("redo")));
    m.mount();
    assert!(fs::read(m.path("over")).unwrap() == before);
    assert!(fs::read(m.path("dir/sub/odd")).unwrap() == pattern(2, 700_001));
}

/// What is damaged now may be put back, and its redo file may have the only page of a block.
fn a_cut_file_keeps_what_its_redo_file_has(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("over"), b"").unwrap();
    let stored = m.stored(&m.path("over"));
    overwrite_and_kill(&mut m);
    let whole = fs::read(&stored).unwrap();
    m.mount_with("ro");
    let before = fs::read(m.path("over")).unwrap();
    m.unmount();
    open_rw(&stored).set_len(5 * 4096).unwrap();
    let (code, json) = check(&m, &["--repair"]);
    assert_eq!((code, of_kind(&json, "cut").len(), of_kind(&json, "repair").len()), (9, 1, 1), "{json:#}");
    fs::write(&stored, &whole).unwrap();
    assert_eq!(check(&m, &["--repair"]).0, 10);
    assert_eq!(check(&m, &[]).0, 0);
    m.mount();
    assert!(fs::read(m.path("over")).unwrap() == before);
}

fn a_repair_that_lacks_a_key_keeps_the_list(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 10_000)).unwrap();
    let stored = m.stored(&m.path("file"));
    m.kill9();
    files_keys_are_withheld(&m, FaultKind::LyingPlaintext);
    let (code, json) = check(&m, &["--repair"]);
    m.kms().clear_faults();
    assert_eq!((code, of_kind(&json, "key").len(), of_kind(&json, "repair").len()), (9, 1, 1), "{json:#}");
    // A file that is damaged for good keeps nothing.
    flip(&stored, 5);
    flip(&stored, 1030);
    let (code, json) = check(&m, &["--repair"]);
    assert_eq!((code, &json["summary"]["leftovers"]), (9, &Value::from(0)), "{json:#}");
    assert_eq!(of_kind(&check(&m, &[]).1, "session").len(), 0);
}

fn keys_that_cannot_be_had_are_no_damage(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fill(&m);
    m.unmount();
    for kind in [FaultKind::LyingPlaintext, FaultKind::ShortPlaintext] {
        files_keys_are_withheld(&m, kind);
        let (code, json) = check(&m, &[]);
        assert_eq!((code, &json["summary"]["damage"]), (11, &Value::from(0)), "{json:#}");
        assert_eq!(of_kind(&json, "key").len(), 4, "{json:#}");
        m.kms().clear_faults();
    }
    assert_eq!(check(&m, &[]).0, 0);
    // Another KMS: the volume key is refused.
    let other = Mounted::unmounted(setup, "");
    let mut check_there = m.command();
    check_there.arg("check").arg(m.backing()).env("KMSFS_KMS_ENDPOINT", other.kms().endpoint());
    let done = check_there.output().unwrap();
    assert_eq!(done.status.code(), Some(5), "{}", text(&done));
    let mut down = m.command();
    down.arg("check").arg(m.backing()).env("KMSFS_KMS_ENDPOINT", "http://127.0.0.1:1");
    let done = down.output().unwrap();
    assert_eq!(done.status.code(), Some(6), "{}", text(&done));
}

fn everything_readable_is_salvaged(setup: &Setup) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut m = Mounted::new(setup);
    fill(&m);
    fs::set_permissions(m.path("dir/sub/odd"), fs::Permissions::from_mode(0o640)).unwrap();
    let odd = m.stored(&m.path("dir/sub/odd"));
    m.unmount();
    flip(&odd, 3 * 4096);
    let mtime = fs::metadata(&odd).unwrap().mtime();
    let out = m.scratch().join("out");
    let (code, json) = check(&m, &["--salvage", out.to_str().unwrap()]);
    assert_eq!(code, 9, "{json:#}");
    let seen = fs::read(out.join("dir/sub/odd")).unwrap();
    let mut wanted = pattern(2, 700_001);
    wanted[2 * 4096..3 * 4096].fill(0);
    assert!(seen == wanted);
    let meta = fs::metadata(out.join("dir/sub/odd")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, mtime));
    let sparse = File::open(out.join("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), 1_100_010_000);
    for (seed, at) in [(3, 3_000_000), (4, 1_100_000_000)] {
        let mut seen = vec![0xff; 30_000];
        let n = sparse.read_at(&mut seen, at - 10_000).unwrap();
        let wanted = [&vec![0; 10_000][..], &pattern(seed, 10_000), &[0; 10_000]].concat();
        assert!(n >= 20_000 && seen[..n] == wanted[..n], "sparse at {at}");
    }
    assert_eq!(fs::read(out.join("dir/small")).unwrap(), pattern(1, 100));
    assert_eq!(fs::metadata(out.join("other name")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(out.join("empty")).unwrap().len(), 0);
    assert_eq!(fs::read_link(out.join("dir/link")).unwrap().to_str(), Some("a target"));
    if !setup.plain_names {
        assert_eq!(fs::read(out.join("long ".repeat(40))).unwrap(), b"long");
        assert_eq!(fs::read_link(out.join("far")).unwrap().to_str().unwrap().len(), 4000);
    }
    let holes: Value = serde_json::from_slice(&fs::read(out.join("kmsfs.holes.json")).unwrap()).unwrap();
    assert_eq!(holes["incomplete"][0]["copy"], "dir/sub/odd");
    assert_eq!(holes["incomplete"][0]["holes"], serde_json::json!([{ "offset": 8192, "length": 4096 }]));
    // Nothing is overwritten.
    let again = m.command().arg("check").arg(m.backing()).arg("--salvage").arg(&out).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "{}", text(&again));
}

fn a_mounted_volume_is_only_read(setup: &Setup) {
    let m = Mounted::new(setup);
    fill(&m);
    let (code, json) = check(&m, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!((&json["mounted"], of_kind(&json, "lock").len()), (&Value::Bool(true), 1));
    let done = m.command().arg("check").arg(m.backing()).arg("--repair").output().unwrap();
    assert_eq!(done.status.code(), Some(7), "{}", text(&done));
    // While files come, go and change.
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (root, stop) = (m.root(), stop.clone());
        move || {
            for i in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let name =
                    if i % 4 == 3 { "long ".repeat(40) + &(i % 7).to_string() } else { format!("new {}", i % 20) };
                fs::write(root.join(&name), pattern(i, 1 + (i as usize * 7919) % 300_000)).unwrap();
                let over = open_rw(&root.join("dir/sub/odd"));
                over.write_all_at(&pattern(i, 20_000), (i * 4096) % 600_000).unwrap();
                if i % 3 == 0 {
                    over.sync_all().unwrap();
                }
                if i % 5 == 0 {
                    fs::remove_file(root.join(&name)).unwrap();
                }
            }
        }
    });
    for _ in 0..5 {
        let (code, json) = check(&m, &[]);
        assert_eq!(code, 0, "{json:#}");
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}
