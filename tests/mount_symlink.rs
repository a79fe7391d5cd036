//! Symlinks with long targets: with encrypted names, those over 3039 bytes are stored in two parts.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use common::io::errno;
use common::mounted::walk;
use common::{AES, ALL, Mounted, PLAIN, SUITES, Setup, Suite};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                targets_of_every_length_come_back,
                lengths_out_of_bounds_fail_as_on_the_backing,
                long_targets_move_and_change_places,
                hard_links_of_long_targets,
            ],
        )
        .on(
            &SUITES,
            bodies![
                a_long_target_without_its_second_part,
                a_second_part_that_a_crash_left,
                a_symlink_is_found_again_by_its_other_name,
                second_parts_that_were_exchanged,
            ],
        )
        .rooted_on(&[AES, PLAIN], bodies![a_whiteout_takes_the_place_of_a_long_target])
        .run()
}

/// Around the ends of what is stored whole, and of what there can be.
const LENGTHS: [usize; 8] = [1, 3038, 3039, 3040, 3041, 4000, 4093, 4095];

/// A target of `len` bytes that begins with `mark`.
fn target(mark: &str, len: usize) -> PathBuf {
    let mut text = format!("{mark}/");
    text.extend(('a'..='z').cycle().take(len));
    text.truncate(len);
    text.into()
}

/// What belongs to other entries in the backing, anywhere.
fn links(m: &Mounted) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(m.backing(), &mut |path| {
        let name = path.file_name().expect("an entry").as_bytes();
        if name.starts_with(b"kmsfs.long.") {
            found.push(path.to_owned());
        }
    });
    found
}

/// The links that hold second parts.
fn parts(m: &Mounted) -> Vec<PathBuf> {
    links(m).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "target")).collect()
}

fn check(path: &Path, target: &Path) {
    let len = fs::symlink_metadata(path).unwrap().len();
    assert_eq!(len, target.as_os_str().len() as u64, "{path:?}");
    assert!(fs::read_link(path).unwrap() == target, "{path:?}");
}

/// Symlink targets have up to 4095 bytes, with encrypted names too.
fn targets_of_every_length_come_back(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    let name = |len: usize, long: bool| format!("dir/{len}{}", if long { "-".repeat(200) } else { String::new() });
    let all = || LENGTHS.into_iter().flat_map(|len| [(len, false), (len, true)]);
    for (len, long) in all() {
        symlink(target("t", len), m.path(name(len, long))).unwrap();
        check(&m.path(name(len, long)), &target("t", len));
    }
    m.remount();
    // The entries alone are shown.
    assert_eq!(fs::read_dir(m.path("dir")).unwrap().count(), 2 * LENGTHS.len());
    for (len, long) in all() {
        check(&m.path(name(len, long)), &target("t", len));
    }
    assert_eq!(parts(&m).len(), if setup.plain_names { 0 } else { 10 });
    // It leads somewhere.
    fs::write(m.path("file"), "through").unwrap();
    let way = format!("{}file", "./".repeat((4095 - 4) / 2));
    symlink(&way, m.path("way")).unwrap();
    assert_eq!(fs::read_to_string(m.path("way")).unwrap(), "through");
    fs::remove_file(m.path("way")).unwrap();
    for (len, long) in all() {
        fs::remove_file(m.path(name(len, long))).unwrap();
    }
    assert_eq!(links(&m), [] as [PathBuf; 0]);
    fs::remove_dir(m.path("dir")).unwrap();
}

fn lengths_out_of_bounds_fail_as_on_the_backing(setup: &Setup) {
    let m = Mounted::new(setup);
    let bare = m.scratch().join("bare");
    fs::create_dir(&bare).unwrap();
    for len in [0, 4095, 4096, 5000] {
        let made = |dir: PathBuf| symlink(target("t", len), dir.join("link")).map_err(|e| e.raw_os_error());
        assert_eq!(made(m.root()), made(bare.clone()), "{len}");
    }
    // One that is not made leaves nothing.
    let before = links(&m);
    assert_eq!(errno(symlink(target("other", 4000), m.path("link"))), libc::EEXIST);
    assert_eq!(links(&m), before);
    check(&m.path("link"), &target("t", 4095));
}

/// What stands where a symlink is moved to.
#[derive(Clone, Copy, Debug)]
enum Other {
    Nothing,
    File,
    Short,
    Long,
    Directory,
}

impl Other {
    fn make(self, path: &Path) {
        match self {
            Self::Nothing => {}
            Self::File => fs::write(path, "file").unwrap(),
            Self::Short => symlink("short", path).unwrap(),
            Self::Long => symlink(target("other", 3500), path).unwrap(),
            Self::Directory => {
                fs::create_dir(path).unwrap();
                symlink(target("inside", 3600), path.join("inside")).unwrap();
            }
        }
    }

    fn check(self, path: &Path) {
        match self {
            Self::Nothing => assert!(fs::symlink_metadata(path).is_err()),
            Self::File => assert_eq!(fs::read(path).unwrap(), b"file"),
            Self::Short => check(path, Path::new("short")),
            Self::Long => check(path, &target("other", 3500)),
            Self::Directory => check(&path.join("inside"), &target("inside", 3600)),
        }
    }

    fn remove(self, path: &Path) {
        match self {
            Self::Nothing => {}
            Self::Directory => fs::remove_dir_all(path).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
    }
}

fn long_targets_move_and_change_places(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let names = ["short".to_owned(), "y".repeat(200)];
    for dir in ["one", "two"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    let others = [Other::Nothing, Other::File, Other::Short, Other::Long, Other::Directory];
    let rename = |from: &Path, to: &Path, flags| renameat_with(CWD, from, CWD, to, flags).map_err(|e| e.raw_os_error());
    let mine = target("mine", 4095);
    let mut round = 0;
    for (from, to) in names.iter().flat_map(|from| names.iter().map(move |to| (from, to))) {
        for (dir, other) in ["one", "two"].into_iter().flat_map(|dir| others.map(|other| (dir, other))) {
            let (from, to) = (m.path("one").join(from), m.path(dir).join(format!("{to}-")));
            eprintln!("{dir}, {other:?}");
            symlink(&mine, &from).unwrap();
            other.make(&to);
            if !matches!(other, Other::Nothing) {
                assert_eq!(rename(&from, &to, RenameFlags::NOREPLACE), Err(libc::EEXIST));
                check(&from, &mine);
                other.check(&to);
                // There and back, with a look at either from both sides.
                rename(&from, &to, RenameFlags::EXCHANGE).unwrap();
                check(&to, &mine);
                other.check(&from);
                rename(&from, &to, RenameFlags::EXCHANGE).unwrap();
                rename(&to, &from, RenameFlags::EXCHANGE).unwrap();
                check(&to, &mine);
                other.check(&from);
                rename(&to, &from, RenameFlags::EXCHANGE).unwrap();
            }
            if matches!(other, Other::Directory) {
                assert_eq!(errno(fs::rename(&from, &to)), libc::EISDIR);
                other.remove(&to);
            }
            fs::rename(&from, &to).unwrap();
            check(&to, &mine);
            assert!(fs::symlink_metadata(&from).is_err());
            // And the other way about: it is what is replaced.
            other.make(&from);
            if matches!(other, Other::File | Other::Short | Other::Long) {
                fs::rename(&from, &to).unwrap();
                other.check(&to);
                other.remove(&to);
            } else {
                other.remove(&from);
                fs::remove_file(&to).unwrap();
            }
            // One that is looked at first after a remount.
            round += 1;
            if round % 7 == 0 {
                symlink(&mine, &from).unwrap();
                m.remount();
                fs::rename(&from, &to).unwrap();
                m.remount();
                check(&to, &mine);
                m.remount();
                fs::remove_file(&to).unwrap();
            }
            assert_eq!(links(&m), [] as [PathBuf; 0], "{dir}, {other:?}");
        }
    }
    // A directory takes along what is in it.
    symlink(&mine, m.path("one/link")).unwrap();
    fs::rename(m.path("one"), m.path("two/moved")).unwrap();
    check(&m.path("two/moved/link"), &mine);
    m.remount();
    fs::rename(m.path("two/moved/link"), m.path("link")).unwrap();
    check(&m.path("link"), &mine);
    fs::remove_dir(m.path("two/moved")).unwrap();
    fs::remove_dir(m.path("two")).unwrap();
    fs::remove_file(m.path("link")).unwrap();
    assert_eq!(links(&m), [] as [PathBuf; 0]);
}

fn hard_links_of_long_targets(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mine = target("mine", 4000);
    for dir in ["one", "two"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    let long = "l".repeat(200);
    for (first, second) in
        [("one/a", "one/b".to_owned()), ("one/a", format!("one/{long}")), ("one/a", "two/b".to_owned())]
    {
        for order in [[first, &second], [&second, first]] {
            symlink(&mine, m.path(first)).unwrap();
            fs::hard_link(m.path(first), m.path(&second)).unwrap();
            assert_eq!(errno(fs::hard_link(m.path(first), m.path(&second))), libc::EEXIST);
            // Two names of one inode: nothing happens.
            fs::rename(m.path(first), m.path(&second)).unwrap();
            m.remount();
            for name in [first, &second] {
                check(&m.path(name), &mine);
                assert_eq!(fs::symlink_metadata(m.path(name)).unwrap().nlink(), 2);
            }
            fs::remove_file(m.path(order[0])).unwrap();
            m.remount();
            check(&m.path(order[1]), &mine);
            // It moves on with its part.
            fs::rename(m.path(order[1]), m.path("moved")).unwrap();
            check(&m.path("moved"), &mine);
            m.remount();
            check(&m.path("moved"), &mine);
            fs::remove_file(m.path("moved")).unwrap();
        }
    }
    // What stayed behind where a name went while there was another goes with the directory.
    for dir in ["one", "two"] {
        assert_eq!(fs::read_dir(m.path(dir)).unwrap().count(), 0);
        fs::remove_dir(m.path(dir)).unwrap();
    }
    assert_eq!(links(&m), [] as [PathBuf; 0]);
}

fn a_long_target_without_its_second_part(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    symlink(target("t", 4000), m.path("link")).unwrap();
    symlink(target("t", 3500), m.path("dir/other")).unwrap();
    m.unmount();
    for part in parts(&m) {
        fs::remove_file(part).unwrap();
    }
    m.mount();
    assert_eq!(fs::symlink_metadata(m.path("link")).unwrap().len(), 4000);
    assert_eq!(errno(fs::read_link(m.path("link"))), libc::EIO);
    m.wait_for_log("the second part of the symlink's target is missing");
    fs::rename(m.path("link"), m.path("renamed")).unwrap();
    fs::rename(m.path("renamed"), m.path("dir/link")).unwrap();
    fs::hard_link(m.path("dir/link"), m.path("twin")).unwrap();
    assert_eq!(errno(fs::read_link(m.path("dir/link"))), libc::EIO);
    let exchange = RenameFlags::EXCHANGE;
    renameat_with(CWD, m.path("dir/other"), CWD, m.path("twin"), exchange).unwrap();
    fs::write(m.path("file"), "file").unwrap();
    fs::rename(m.path("file"), m.path("dir/other")).unwrap();
    for name in ["twin", "dir/link"] {
        fs::remove_file(m.path(name)).unwrap();
    }
    assert_eq!(fs::read(m.path("dir/other")).unwrap(), b"file");
    assert_eq!(links(&m), [] as [PathBuf; 0]);
}

fn a_second_part_that_a_crash_left(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mine = target("t", 4095);
    for dir in ["dir", "kept", "from"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    fs::write(m.path("dir/file"), "").unwrap();
    fs::remove_file(m.path("dir/file")).unwrap();
    symlink(&mine, m.path("from/link")).unwrap();
    let (dir, kept, from) = (m.stored(&m.path("dir")), m.stored(&m.path("kept")), m.stored(&m.path("from")));
    m.unmount();
    let part = parts(&m).remove(0);
    let name = part.file_name().unwrap();
    // One beside nothing, and one that the entry will want, damaged.
    symlink("rest", dir.join(name)).unwrap();
    symlink("rest", kept.join(name)).unwrap();
    m.mount();
    assert_eq!(fs::read_dir(m.path("dir")).unwrap().count(), 0);
    fs::remove_dir(m.path("dir")).unwrap();
    fs::rename(m.path("from/link"), m.path("kept/link")).unwrap();
    check(&m.path("kept/link"), &mine);
    assert!(!from.join(name).is_symlink() && kept.join(name).is_symlink());
    // A rename onto a directory where only one is left.
    m.unmount();
    symlink("rest", from.join(name)).unwrap();
    m.mount();
    fs::rename(m.path("kept"), m.path("from")).unwrap();
    check(&m.path("from/link"), &mine);
}

/// With encrypted names, a symlink with a target over 3039 bytes that has lost its last name while a program holds it
/// (O_PATH) is not read any more: ESTALE, unless the kernel remembers the target.
fn a_symlink_is_found_again_by_its_other_name(setup: &Setup) {
    let m = Mounted::new(setup);
    let mine = target("t", 4095);
    for dir in ["one", "two"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    symlink(&mine, m.path("one/link")).unwrap();
    fs::hard_link(m.path("one/link"), m.path("two/link")).unwrap();
    fs::remove_file(m.path("two/link")).unwrap();
    fs::remove_dir(m.path("two")).unwrap();
    check(&m.path("one/link"), &mine);
    // The last name goes while somebody holds the inode: what the kernel does not remember is gone.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
    symlink(&mine, m.path("one/other")).unwrap();
    let held = rustix::fs::open(m.path("one/other"), flags, rustix::fs::Mode::empty()).unwrap();
    fs::remove_file(m.path("one/other")).unwrap();
    assert_eq!(rustix::fs::readlinkat(&held, "", Vec::new()).unwrap_err(), rustix::io::Errno::STALE);
    assert_eq!(rustix::fs::fstat(&held).unwrap().st_nlink, 0);
}

fn second_parts_that_were_exchanged(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for name in ["one", "two"] {
        symlink(target(name, 4000), m.path(name)).unwrap();
    }
    m.unmount();
    let parts = parts(&m);
    let texts = [1, 0].map(|i| fs::read_link(&parts[i]).unwrap());
    for (part, text) in parts.iter().zip(texts) {
        fs::remove_file(part).unwrap();
        symlink(text, part).unwrap();
    }
    m.mount();
    for name in ["one", "two"] {
        assert_eq!(errno(fs::read_link(m.path(name))), libc::EIO, "{name}");
        assert_eq!(fs::symlink_metadata(m.path(name)).unwrap().len(), 4000);
    }
    m.wait_for_log("does not verify");
}

fn a_whiteout_takes_the_place_of_a_long_target(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    let mine = target("t", 4095);
    for to in ["moved", "dir/moved"] {
        symlink(&mine, m.path("link")).unwrap();
        renameat_with(CWD, m.path("link"), CWD, m.path(to), RenameFlags::WHITEOUT).unwrap();
        m.remount();
        check(&m.path(to), &mine);
        let left = fs::symlink_metadata(m.path("link")).unwrap();
        assert!(left.file_type().is_char_device() && left.rdev() == 0);
        fs::remove_file(m.path("link")).unwrap();
        fs::remove_file(m.path(to)).unwrap();
        assert_eq!(links(&m), [] as [PathBuf; 0]);
    }
}
