//! Names on a real mount: making, finding, moving and removing them.

mod common;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use common::io::{errno, pattern};
use common::nobody::OfNobody;
use common::users::{NOBODY, as_user};
use common::{AES, ALL, Mounted, PLAIN, SUITES, Setup, Suite, within};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                entries_are_made_and_removed,
                a_name_that_is_not_there_is_not_found,
                directories_hold_and_empty,
                a_rename_moves_and_replaces,
                a_rename_can_refuse_to_replace,
                a_rename_can_exchange,
                a_rename_over_an_open_file_leaves_it_readable,
                a_rename_over_a_directory_needs_it_empty,
                a_directory_cannot_move_into_itself,
                names_of_every_length,
                names_of_any_bytes,
                hard_links_share_everything,
                symlinks_keep_their_targets,
                special_files_keep_their_kind,
                reserved_names_are_refused,
                a_listing_survives_removal_meanwhile,
                what_was_only_listed_lives_on,
                many_threads_in_one_directory,
                paths_of_4095_bytes,
            ],
        )
        .on(&SUITES, bodies![a_hundred_thousand_entries])
        .on(&[AES], bodies![a_hundred_thousand_files])
        .on(&[PLAIN], bodies![a_hundred_thousand_entries, plain_names_lie_there_as_they_are])
        .users_mount_on(&[AES], bodies![an_ordinary_users_daemon_removes_closed_directories])
        .run()
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, flags)?)
}

/// The listing, sorted; fails if a name comes twice.
fn names(dir: &Path) -> BTreeSet<OsString> {
    let mut out = BTreeSet::new();
    for entry in fs::read_dir(dir).expect("the directory opens") {
        let name = entry.expect("an entry").file_name();
        assert!(out.insert(name.clone()), "{name:?} is listed twice");
    }
    out
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<OsString> {
    names.into_iter().map(OsString::from).collect()
}

fn entries_are_made_and_removed(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    assert_eq!(names(&m.root()), set(["dir", "file"]));
    assert_eq!(errno(fs::create_dir(m.path("file"))), libc::EEXIST);
    assert_eq!(errno(fs::File::create_new(m.path("dir"))), libc::EEXIST);
    m.remount();
    assert_eq!(names(&m.root()), set(["dir", "file"]));
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
    assert_eq!(errno(fs::remove_dir(m.path("file"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(m.path("dir"))), libc::EISDIR);
    fs::remove_file(m.path("file")).unwrap();
    fs::remove_dir(m.path("dir")).unwrap();
    assert_eq!(names(&m.root()), set([]));
    assert_eq!(errno(fs::metadata(m.path("file"))), libc::ENOENT);
}

fn a_name_that_is_not_there_is_not_found(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    for name in ["other", "FILE", "file ", "file/x", "no/such"] {
        let wanted = if name == "file/x" { libc::ENOTDIR } else { libc::ENOENT };
        assert_eq!(errno(fs::metadata(m.path(name))), wanted, "{name}");
    }
    // Asked for, then made: a remembered absence must not hide it.
    assert_eq!(errno(fs::metadata(m.path("late"))), libc::ENOENT);
    fs::write(m.path("late"), b"here").unwrap();
    assert_eq!(fs::read(m.path("late")).unwrap(), b"here");
    let long = "x".repeat(256);
    assert_eq!(errno(fs::write(m.path(&long), b"")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::metadata(m.path(&long))), libc::ENAMETOOLONG);
}

fn directories_hold_and_empty(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir_all(m.path("a/b/c")).unwrap();
    fs::write(m.path("a/b/c/file"), b"deep").unwrap();
    assert_eq!(errno(fs::remove_dir(m.path("a/b"))), libc::ENOTEMPTY);
    let links = fs::metadata(m.path("a")).unwrap().nlink();
    assert!(links == 3 || links == 1, "{links} links");
    m.remount();
    assert_eq!(errno(fs::remove_dir(m.path("a/b/c"))), libc::ENOTEMPTY);
    assert_eq!(fs::read(m.path("a/b/c/file")).unwrap(), b"deep");
    fs::remove_file(m.path("a/b/c/file")).unwrap();
    // It held something, so it has a marker; for a user it is empty.
    assert_eq!(names(&m.path("a/b/c")), set([]));
    fs::remove_dir(m.path("a/b/c")).unwrap();
    // Removed and made again while somebody looks at the old one.
    let held = fs::File::open(m.path("a/b")).unwrap();
    fs::remove_dir(m.path("a/b")).unwrap();
    fs::create_dir(m.path("a/b")).unwrap();
    fs::write(m.path("a/b/new"), b"new").unwrap();
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    drop(held);
    fs::remove_dir_all(m.path("a")).unwrap();
    assert_eq!(names(&m.root()), set([]));
}

fn a_rename_moves_and_replaces(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir_all(m.path("a")).unwrap();
    fs::create_dir_all(m.path("b")).unwrap();
    fs::write(m.path("a/one"), b"one").unwrap();
    fs::write(m.path("b/two"), b"two").unwrap();
    fs::rename(m.path("a/one"), m.path("b/two")).unwrap();
    assert_eq!(fs::read(m.path("b/two")).unwrap(), b"one");
    assert_eq!(names(&m.path("a")), set([]));
    // A directory moves with all it holds: the names inside are not bound to its place.
    fs::create_dir(m.path("b/sub")).unwrap();
    fs::write(m.path("b/sub/inside"), b"inside").unwrap();
    fs::rename(m.path("b/sub"), m.path("a/moved")).unwrap();
    m.remount();
    assert_eq!(fs::read(m.path("a/moved/inside")).unwrap(), b"inside");
    assert_eq!(fs::read(m.path("b/two")).unwrap(), b"one");
    assert_eq!(names(&m.path("b")), set(["two"]));
    assert_eq!(errno(fs::rename(m.path("a/moved"), m.path("b/two"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(m.path("b/two"), m.path("a/moved"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(m.path("none"), m.path("b/two"))), libc::ENOENT);
    // Onto itself, and onto another name of the same file: nothing happens.
    fs::rename(m.path("b/two"), m.path("b/two")).unwrap();
    fs::hard_link(m.path("b/two"), m.path("b/three")).unwrap();
    fs::rename(m.path("b/two"), m.path("b/three")).unwrap();
    assert_eq!(names(&m.path("b")), set(["three", "two"]));
}

fn a_rename_can_refuse_to_replace(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("one"), b"one").unwrap();
    fs::write(m.path("two"), b"two").unwrap();
    let flags = RenameFlags::NOREPLACE;
    assert_eq!(errno(rename_with(&m.path("one"), &m.path("two"), flags)), libc::EEXIST);
    rename_with(&m.path("one"), &m.path("three"), flags).unwrap();
    assert_eq!(fs::read(m.path("three")).unwrap(), b"one");
    assert_eq!(fs::read(m.path("two")).unwrap(), b"two");
    fs::create_dir(m.path("dir")).unwrap();
    fs::create_dir(m.path("empty")).unwrap();
    assert_eq!(errno(rename_with(&m.path("dir"), &m.path("empty"), flags)), libc::EEXIST);
    let long = "l".repeat(250);
    rename_with(&m.path("two"), &m.path(&long), flags).unwrap();
    assert_eq!(errno(rename_with(&m.path("three"), &m.path(&long), flags)), libc::EEXIST);
    assert_eq!(fs::read(m.path(&long)).unwrap(), b"two");
}

fn a_rename_can_exchange(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let long = "x".repeat(240);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/inside"), b"inside").unwrap();
    fs::write(m.path(&long), b"long").unwrap();
    fs::write(m.path("short"), b"short").unwrap();
    rename_with(&m.path("short"), &m.path(&long), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(m.path("short")).unwrap(), b"long");
    rename_with(&m.path("short"), &m.path("dir"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(errno(rename_with(&m.path("short"), &m.path("none"), RenameFlags::EXCHANGE)), libc::ENOENT);
    m.remount();
    assert_eq!(fs::read(m.path("dir")).unwrap(), b"long");
    assert_eq!(fs::read(m.path("short/inside")).unwrap(), b"inside");
    assert_eq!(fs::read(m.path(&long)).unwrap(), b"short");
}

fn a_rename_over_an_open_file_leaves_it_readable(setup: &Setup) {
    let m = Mounted::new(setup);
    let (old, new) = (pattern(1, 100_000), pattern(2, 50_000));
    fs::write(m.path("target"), &old).unwrap();
    fs::write(m.path("source"), &new).unwrap();
    let mut held = fs::File::options().read(true).append(true).open(m.path("target")).unwrap();
    fs::rename(m.path("source"), m.path("target")).unwrap();
    assert_eq!(common::io::read_all(&held), old);
    held.write_all(b"more").unwrap();
    common::io::drop_cache(&held);
    assert_eq!(common::io::read_all(&held).len(), old.len() + 4);
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(m.path("target")).unwrap(), new);
}

fn a_rename_over_a_directory_needs_it_empty(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for dir in ["source", "empty", "emptied", "full"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    fs::write(m.path("source/file"), b"moved").unwrap();
    fs::write(m.path("emptied/file"), b"").unwrap();
    fs::remove_file(m.path("emptied/file")).unwrap();
    fs::write(m.path("full/file"), b"stays").unwrap();
    let refused = errno(fs::rename(m.path("source"), m.path("full")));
    assert!(refused == libc::ENOTEMPTY || refused == libc::EEXIST, "{refused}");
    assert_eq!(fs::read(m.path("full/file")).unwrap(), b"stays");
    fs::rename(m.path("source"), m.path("emptied")).unwrap();
    fs::rename(m.path("emptied"), m.path("empty")).unwrap();
    m.remount();
    assert_eq!(names(&m.root()), set(["empty", "full"]));
    assert_eq!(fs::read(m.path("empty/file")).unwrap(), b"moved");
}

fn a_directory_cannot_move_into_itself(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::create_dir_all(m.path("a/b")).unwrap();
    assert_eq!(errno(fs::rename(m.path("a"), m.path("a/b/c"))), libc::EINVAL);
    let refused = errno(fs::rename(m.path("a/b"), m.path("a")));
    assert!(refused == libc::ENOTEMPTY || refused == libc::EEXIST, "{refused}");
    assert_eq!(names(&m.path("a")), set(["b"]));
}

/// Names of 1 to 255 bytes work.
fn names_of_every_length(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let name = |len: usize| -> String { ('a'..='z').cycle().skip(len % 26).take(len).collect() };
    for len in 1..=255 {
        fs::write(m.path(name(len)), len.to_string()).unwrap_or_else(|e| panic!("{len}: {e}"));
    }
    let wanted: BTreeSet<OsString> = (1..=255).map(|len| name(len).into()).collect();
    m.remount();
    assert_eq!(names(&m.root()), wanted);
    for len in 1..=255 {
        assert_eq!(fs::read_to_string(m.path(name(len))).unwrap(), len.to_string());
    }
    // Every move between short and long, and back.
    for len in [1, 100, 160, 161, 175, 176, 177, 200, 255] {
        fs::rename(m.path(name(len)), m.path("moving")).unwrap();
        assert_eq!(errno(fs::metadata(m.path(name(len)))), libc::ENOENT);
        let other = format!("{}-", name(254));
        fs::rename(m.path("moving"), m.path(&other)).unwrap();
        assert_eq!(fs::read_to_string(m.path(&other)).unwrap(), len.to_string());
        fs::rename(m.path(&other), m.path(name(len))).unwrap();
    }
    assert_eq!(names(&m.root()), wanted);
    for len in (1..=255).rev() {
        fs::remove_file(m.path(name(len))).unwrap();
    }
    assert_eq!(names(&m.root()), set([]));
    if !setup.plain_names {
        // The links of long names went with them.
        let left: Vec<_> = fs::read_dir(m.backing()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(!left.iter().any(|n| n.as_bytes().starts_with(b"kmsfs.long.")), "{left:?}");
    }
    // Directories with long names, and long names inside them.
    let long = name(255);
    fs::create_dir(m.path(&long)).unwrap();
    fs::create_dir(m.path(&long).join(&long)).unwrap();
    fs::rename(m.path(&long), m.path(name(200))).unwrap();
    fs::remove_dir(m.path(name(200)).join(&long)).unwrap();
    fs::remove_dir(m.path(name(200))).unwrap();
}

/// A name may have any bytes but `/` and NUL.
fn names_of_any_bytes(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mut wanted = BTreeSet::new();
    for byte in (1..=255u8).filter(|&b| b != b'/') {
        let name = [b'n', byte, byte];
        fs::write(m.path(OsStr::from_bytes(&name)), [byte]).unwrap();
        wanted.insert(OsStr::from_bytes(&name).to_owned());
    }
    for name in ["...", " ", "-rf", "名前", "\u{1F510}", "a\nb", "*?[]", "kmsfs", "kmsfs-dir", "Kmsfs.dir"] {
        fs::write(m.path(name), b"").unwrap();
        wanted.insert(name.into());
    }
    m.remount();
    assert_eq!(names(&m.root()), wanted);
    for byte in (1..=255u8).filter(|&b| b != b'/') {
        assert_eq!(fs::read(m.path(OsStr::from_bytes(&[b'n', byte, byte]))).unwrap(), [byte]);
    }
}

fn hard_links_share_everything(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let long = "h".repeat(255);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("one"), b"first").unwrap();
    fs::hard_link(m.path("one"), m.path("dir/two")).unwrap();
    fs::hard_link(m.path("one"), m.path(&long)).unwrap();
    assert_eq!(fs::metadata(m.path("one")).unwrap().nlink(), 3);
    fs::write(m.path("dir/two"), pattern(3, 70_000)).unwrap();
    assert_eq!(fs::read(m.path(&long)).unwrap(), pattern(3, 70_000));
    assert_eq!(errno(fs::hard_link(m.path("one"), m.path("dir/two"))), libc::EEXIST);
    assert_eq!(errno(fs::hard_link(m.path("dir"), m.path("dir2"))), libc::EPERM);
    m.remount();
    let inos = ["one", "dir/two", &long].map(|name| fs::metadata(m.path(name)).unwrap().ino());
    assert!(inos.iter().all(|&ino| ino == inos[0]), "{inos:?}");
    fs::remove_file(m.path("one")).unwrap();
    fs::remove_file(m.path(&long)).unwrap();
    assert_eq!(fs::metadata(m.path("dir/two")).unwrap().nlink(), 1);
    assert_eq!(fs::read(m.path("dir/two")).unwrap(), pattern(3, 70_000));
}

fn symlinks_keep_their_targets(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let long = "t/".repeat(1000);
    let targets = ["file", "../outside", "/absolute/path", "with space\n", "名前", &long];
    for (i, target) in targets.iter().enumerate() {
        symlink(target, m.path(format!("link{i}"))).unwrap();
    }
    fs::write(m.path("file"), b"through").unwrap();
    symlink("link0", m.path("n".repeat(255))).unwrap();
    m.remount();
    for (i, target) in targets.iter().enumerate() {
        let path = m.path(format!("link{i}"));
        assert_eq!(fs::read_link(&path).unwrap(), PathBuf::from(target));
        assert_eq!(fs::symlink_metadata(&path).unwrap().len(), target.len() as u64);
    }
    assert_eq!(fs::read(m.path("n".repeat(255))).unwrap(), b"through");
    assert_eq!(errno(symlink("x", m.path("link0"))), libc::EEXIST);
    assert_eq!(errno(symlink("x".repeat(4096), m.path("too-long"))), libc::ENAMETOOLONG);
    symlink("loop", m.path("loop")).unwrap();
    assert_eq!(errno(fs::read(m.path("loop"))), libc::ELOOP);
    fs::remove_file(m.path("link0")).unwrap();
    assert_eq!(errno(fs::read(m.path("n".repeat(255)))), libc::ENOENT);
}

fn special_files_keep_their_kind(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let make = |name: &str, kind| {
        rustix::fs::mknodat(CWD, m.path(name), kind, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    };
    make("fifo", rustix::fs::FileType::Fifo);
    make("socket", rustix::fs::FileType::Socket);
    make("regular", rustix::fs::FileType::RegularFile);
    m.remount();
    let kind = |name: &str| fs::metadata(m.path(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("socket").is_socket() && kind("regular").is_file());
    fs::write(m.path("regular"), b"content").unwrap();
    // A FIFO works between two processes of the mount.
    let fifo = m.path("fifo");
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, b"through the fifo")
    });
    let read = within("the FIFO's bytes", Duration::from_secs(20), move || fs::read(fifo).unwrap());
    writer.join().unwrap().unwrap();
    assert_eq!(read, b"through the fifo");
}

/// Names that begin with `kmsfs.` are refused for new entries (EINVAL), and looking one up gives ENOENT.
fn reserved_names_are_refused(setup: &Setup) {
    let m = Mounted::new(setup);
    for name in ["kmsfs.volume", "kmsfs.dir", "kmsfs.anything"] {
        assert_eq!(errno(fs::write(m.path(name), b"")), libc::EINVAL, "{name}");
        assert_eq!(errno(fs::metadata(m.path(name))), libc::ENOENT, "{name}");
        assert_eq!(errno(fs::create_dir(m.path(name))), libc::EINVAL, "{name}");
    }
    fs::write(m.path("file"), b"").unwrap();
    assert_eq!(errno(fs::rename(m.path("file"), m.path("kmsfs.state"))), libc::EINVAL);
    assert_eq!(names(&m.root()), set(["file"]));
}

/// An entry that is there all the time is listed exactly once, whatever else is removed meanwhile.
fn a_listing_survives_removal_meanwhile(setup: &Setup) {
    let m = Mounted::new(setup);
    let dir = m.path("dir");
    fs::create_dir(&dir).unwrap();
    for i in 0..3000 {
        fs::write(dir.join(format!("entry-{i}")), b"").unwrap();
    }
    let mut seen = BTreeSet::new();
    for (n, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        assert!(seen.insert(name.clone()), "{name:?} is listed twice");
        // Every second one that was seen goes.
        if n % 2 == 0 {
            fs::remove_file(dir.join(&name)).unwrap();
        }
    }
    assert_eq!(seen.len(), 3000);
    assert_eq!(names(&dir).len(), 1500);
    fs::remove_dir_all(&dir).unwrap();
}

fn many_threads_in_one_directory(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    let dir = m.path("dir");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for i in 0..100 {
                    let (a, b) = (dir.join(format!("{thread}-{i}")), dir.join(format!("{thread}-{i}-moved")));
                    fs::write(&a, format!("{thread} {i}")).unwrap();
                    fs::rename(&a, &b).unwrap();
                    // All race for one name.
                    let _ = fs::write(dir.join("contended"), format!("{thread}"));
                    let _ = fs::rename(dir.join("contended"), dir.join("contended2"));
                    if i % 3 == 0 {
                        fs::remove_file(&b).unwrap();
                    }
                }
            });
        }
    });
    let _ = fs::remove_file(dir.join("contended"));
    let _ = fs::remove_file(dir.join("contended2"));
    m.remount();
    let listed = names(&dir);
    assert_eq!(listed.len(), 8 * 66);
    for name in listed {
        let text = fs::read_to_string(dir.join(&name)).unwrap();
        assert_eq!(OsString::from(format!("{}-moved", text.replace(' ', "-"))), name);
    }
}

/// The longest path that a system call takes, on the mount and with long components.
fn paths_of_4095_bytes(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mut path = m.root();
    while path.as_os_str().len() + 201 < 4095 - 2 {
        path.push("p".repeat(200));
        fs::create_dir(&path).unwrap();
    }
    let rest = 4095 - path.as_os_str().len() - 1;
    let file = path.join("f".repeat(rest.min(255)));
    let file = if rest > 255 {
        path.push("q".repeat(rest - 200));
        fs::create_dir(&path).unwrap();
        path.join("f".repeat(4095 - path.as_os_str().len() - 1))
    } else {
        file
    };
    assert_eq!(file.as_os_str().len(), 4095);
    fs::write(&file, b"at the end").unwrap();
    m.remount();
    assert_eq!(fs::read(&file).unwrap(), b"at the end");
    let longer = PathBuf::from(format!("{}x", file.display()));
    assert_eq!(errno(fs::metadata(longer)), libc::ENAMETOOLONG);
    fs::remove_dir_all(m.path("p".repeat(200))).unwrap();
}

/// As many as may be more than this machine allows descriptors.
fn a_hundred_thousand_files(setup: &Setup) {
    const FILES: usize = 100_000;
    let mut m = Mounted::new(setup);
    for i in 0..FILES {
        fs::File::create_new(m.path(format!("entry {i}"))).unwrap();
    }
    m.remount();
    let mut seen = 0;
    for entry in fs::read_dir(m.root()).unwrap() {
        assert!(fs::metadata(entry.unwrap().path()).unwrap().is_file());
        seen += 1;
    }
    assert_eq!(seen, FILES);
}

fn a_hundred_thousand_entries(setup: &Setup) {
    const ENTRIES: usize = 100_000;
    let mut m = Mounted::new(setup);
    let dir = m.path("big");
    fs::create_dir(&dir).unwrap();
    for thread in 0..4 {
        fs::write(dir.join(format!("entry number {thread}")), b"shared").unwrap();
    }
    // Hard links: quick to make.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dir = &dir;
            scope.spawn(move || {
                for i in (thread + 4..ENTRIES).step_by(4) {
                    let original = dir.join(format!("entry number {thread}"));
                    fs::hard_link(original, dir.join(format!("entry number {i}"))).unwrap();
                }
            });
        }
    });
    m.remount();
    let listed = names(&dir);
    assert_eq!(listed.len(), ENTRIES);
    assert!((0..ENTRIES).all(|i| listed.contains(OsStr::new(&format!("entry number {i}")))));
    assert_eq!(fs::read(dir.join("entry number 50000")).unwrap(), b"shared");
    assert_eq!(errno(fs::remove_dir(&dir)), libc::ENOTEMPTY);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(names(&m.root()), set([]));
}

fn plain_names_lie_there_as_they_are(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::create_dir(m.path("directory")).unwrap();
    fs::write(m.path("directory/file"), b"text").unwrap();
    symlink("target", m.path("link")).unwrap();
    assert!(m.backing().join("directory/file").is_file());
    assert_eq!(fs::read_link(m.backing().join("link")).unwrap(), Path::new("target"));
}

/// What the file system knows from a listing alone, and holds no descriptor of, is as alive as what was opened: it can lose
/// one of its names, move, lie below a directory that moves, and be removed while somebody has it.
fn what_was_only_listed_lives_on(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for dir in ["dir", "dir/inner"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    for file in ["a1", "a2", "c", "d", "dir/inner/e"] {
        fs::write(m.path(file), file).unwrap();
    }
    fs::hard_link(m.path("a1"), m.path("b1")).unwrap();
    fs::hard_link(m.path("a2"), m.path("b2")).unwrap();
    m.remount();
    for dir in ["", "dir", "dir/inner"] {
        for entry in fs::read_dir(m.path(dir)).unwrap() {
            entry.unwrap().metadata().unwrap();
        }
    }
    // Whichever of two names was listed last.
    for (gone, stays, text) in [("a1", "b1", "a1"), ("b2", "a2", "a2")] {
        fs::remove_file(m.path(gone)).unwrap();
        assert_eq!(fs::read_to_string(m.path(stays)).unwrap(), text);
        assert_eq!(fs::metadata(m.path(stays)).unwrap().nlink(), 1);
    }
    fs::rename(m.path("dir"), m.path("moved")).unwrap();
    assert_eq!(fs::read(m.path("moved/inner/e")).unwrap(), b"dir/inner/e");
    fs::rename(m.path("moved/inner/e"), m.path("e")).unwrap();
    assert_eq!(fs::read(m.path("e")).unwrap(), b"dir/inner/e");
    for (name, remove) in [("c", true), ("d", false)] {
        let held = rustix::fs::open(m.path(name), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        if remove {
            fs::remove_file(m.path(name)).unwrap();
        } else {
            fs::rename(m.path("e"), m.path(name)).unwrap();
        }
        let stat = rustix::fs::fstat(&held).unwrap();
        assert_eq!((stat.st_nlink, stat.st_size), (0, 1));
    }
    assert_eq!(fs::read(m.path("d")).unwrap(), b"dir/inner/e");
}

/// An empty directory that its owner has no right in can be removed: its mode is changed for a moment to take the
/// marker away.
fn an_ordinary_users_daemon_removes_closed_directories(_setup: &Setup) {
    let m = OfNobody::new();
    let root = m.root();
    as_user(NOBODY, NOBODY, || {
        for mode in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700] {
            let (dir, other) = (root.join("dir"), root.join("other"));
            let close = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            fs::create_dir(&dir).unwrap();
            // One that has entries stays, and stays closed.
            fs::write(dir.join("file"), "x").unwrap();
            close(mode);
            assert_eq!(errno(fs::remove_dir(&dir)), libc::ENOTEMPTY, "{mode:o}");
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, mode);
            close(0o700);
            assert_eq!(fs::read(dir.join("file")).unwrap(), b"x");
            fs::remove_file(dir.join("file")).unwrap();
            close(mode);
            fs::remove_dir(&dir).unwrap_or_else(|e| panic!("{mode:o}: {e}"));
            // The same where a rename replaces it.
            fs::create_dir(&dir).unwrap();
            fs::create_dir(&other).unwrap();
            close(mode);
            fs::rename(&other, &dir).unwrap_or_else(|e| panic!("{mode:o}: {e}"));
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o700, 0o700);
            fs::write(dir.join("file"), "y").unwrap();
            fs::remove_dir_all(&dir).unwrap();
        }
    });
}
