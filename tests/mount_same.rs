//! The mount beside a bare directory of the same file system: the same calls have the same outcome in both.

mod common;

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use common::io::{errno, fallocate, open_rw, pattern};
use common::{AES, ALL, Mounted, PLAIN, Setup, Suite};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                errors_are_those_of_the_backing,
                names_of_long_and_short_change_places,
                inode_numbers_survive_a_remount,
                a_place_in_a_listing_is_found_again,
                a_listing_shows_what_is_new_from_its_start,
                a_limit_on_the_size_of_files_is_obeyed,
                synchronous_writes_survive_a_kill,
            ],
        )
        .on(&[AES], bodies![hard_links_end_where_the_backings_do])
        .rooted_on(&[AES, PLAIN], bodies![a_rename_can_leave_a_whiteout])
        .run()
}

/// A bare directory of the backing's file system.
fn bare(m: &Mounted) -> PathBuf {
    let path = m.scratch().join("bare");
    fs::create_dir(&path).expect("a new directory");
    path
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// The errno of a system call that answers below 0, else 0.
fn call(result: i32) -> i32 {
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// The errno of opening with exactly these flags.
fn open(path: &Path, flags: OFlags) -> i32 {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from(0o600)).err().map_or(0, |e| e.raw_os_error())
}

/// A file, a directory with an entry, an empty one, symlinks good, broken and circular, a pipe.
fn furnish(dir: &Path) {
    fs::write(dir.join("file"), pattern(1, 10_000)).unwrap();
    fs::create_dir_all(dir.join("full/inner")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    symlink("nothing", dir.join("broken")).unwrap();
    symlink("round", dir.join("round")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("pipe"), rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

/// What is tried in a furnished directory, and the errno that came of it.
fn attempts(dir: &Path) -> Vec<(&'static str, i32)> {
    let p = |name: &str| dir.join(name);
    let file = open_rw(&p("file"));
    let read_only = File::open(p("file")).unwrap();
    let rename =
        |from: &str, to: &str, flags| errno(renameat_with(CWD, p(from), CWD, p(to), flags).map_err(Into::into));
    let plain = RenameFlags::empty();
    let allocate = |mode, off, len| errno(fallocate(&file, mode, off, len));
    // SAFETY: a C string that lives through the call.
    let mkdir = |name: &str| call(unsafe { libc::mkdir(c(&p(name)).as_ptr(), 0o700) });
    // SAFETY: the same.
    let unlink = |name: &str| call(unsafe { libc::unlink(c(&p(name)).as_ptr()) });
    // SAFETY: the same.
    let rmdir = |name: &str| call(unsafe { libc::rmdir(c(&p(name)).as_ptr()) });
    // SAFETY: the same.
    let truncate = |name: &str, len| call(unsafe { libc::truncate(c(&p(name)).as_ptr(), len) });
    vec![
        ("open a directory for writing", open(&p("full"), OFlags::WRONLY)),
        ("open a file as a directory", open(&p("file"), OFlags::DIRECTORY)),
        ("open a file with a slash behind it", open(&p("file/"), OFlags::RDONLY)),
        ("open through a file", open(&p("file/x"), OFlags::RDONLY)),
        ("open a symlink without following", open(&p("link"), OFlags::NOFOLLOW)),
        ("open a broken symlink", open(&p("broken"), OFlags::RDONLY)),
        ("make a file through a broken symlink, exclusively", open(&p("broken"), OFlags::CREATE | OFlags::EXCL)),
        ("open a circular symlink", open(&p("round"), OFlags::RDONLY)),
        ("make a file that is there, exclusively", open(&p("file"), OFlags::CREATE | OFlags::EXCL | OFlags::RDWR)),
        ("make a file over a directory", open(&p("empty"), OFlags::CREATE | OFlags::RDWR)),
        ("open a pipe for writing without a reader", open(&p("pipe"), OFlags::WRONLY | OFlags::NONBLOCK)),
        ("open nothing", open(&p(""), OFlags::WRONLY)),
        ("mkdir where a file is", mkdir("file")),
        ("mkdir where a broken symlink is", mkdir("broken")),
        ("mkdir below a file", mkdir("file/x")),
        ("mkdir below nothing", mkdir("none/x")),
        ("mkdir .", mkdir("empty/.")),
        ("mkdir with a slash behind it", mkdir("new/")),
        ("unlink a directory", unlink("empty")),
        ("unlink nothing", unlink("none")),
        ("unlink a file with a slash behind it", unlink("file/")),
        ("rmdir a file", rmdir("file")),
        ("rmdir what is not empty", rmdir("full")),
        ("rmdir .", rmdir("empty/.")),
        ("rmdir ..", rmdir("full/inner/..")),
        ("rmdir a symlink", rmdir("link")),
        ("rename a file over a directory", rename("file", "empty", plain)),
        ("rename a directory over a file", rename("empty", "file", plain)),
        ("rename over what is not empty", rename("empty", "full", plain)),
        ("rename into itself", rename("full", "full/inner/x", plain)),
        ("rename over an ancestor", rename("full/inner", "full", plain)),
        ("rename nothing", rename("none", "x", plain)),
        ("rename to below a file", rename("empty", "file/x", plain)),
        ("rename a file to a name with a slash", rename("file", "other/", plain)),
        ("rename to itself", rename("file", "file", plain)),
        ("rename without replacing", rename("file", "link", RenameFlags::NOREPLACE)),
        ("exchange with nothing", rename("file", "none", RenameFlags::EXCHANGE)),
        ("exchange with an ancestor", rename("full/inner", "full", RenameFlags::EXCHANGE)),
        ("exchange without replacing", rename("file", "link", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE)),
        ("link a directory", errno(fs::hard_link(p("empty"), p("x")))),
        ("link over a file", errno(fs::hard_link(p("link"), p("file")))),
        ("link nothing", errno(fs::hard_link(p("none"), p("x")))),
        ("symlink to nothing at all", errno(symlink("", p("x")))),
        ("symlink over a file", errno(symlink("x", p("file")))),
        ("readlink of a file", errno(fs::read_link(p("file")))),
        ("truncate a directory", truncate("empty", 0)),
        ("truncate below 0", truncate("file", -1)),
        ("truncate nothing", truncate("none", 0)),
        ("truncate what is open for reading", errno(read_only.set_len(1))),
        ("write to what is open for reading", errno((&read_only).write(b"x"))),
        ("allocate nothing", allocate(0, 0, 0)),
        ("allocate below 0", allocate(0, u64::MAX, 1)),
        ("punch without keeping the size", allocate(libc::FALLOC_FL_PUNCH_HOLE, 0, 4096)),
        ("allocate in an unknown mode", allocate(1 << 20, 0, 4096)),
        ("read at a place below 0", errno(file.read_at(&mut [0], u64::MAX))),
        ("list a file", errno(fs::read_dir(p("file")))),
        ("a name of 256 bytes", mkdir(&"x".repeat(256))),
        ("a path of 4096 bytes", mkdir(&"x/".repeat(2048))),
        ("chmod through a circular symlink", errno(fs::set_permissions(p("round"), mode(0o600)))),
        ("xattr without a name space", xattr(&p("file"), c"name")),
        ("xattr with an empty name", xattr(&p("file"), c"user.")),
        ("xattr that is not there", xattr_of(&p("file"), c"user.none")),
    ]
}

fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

fn xattr(path: &Path, name: &CStr) -> i32 {
    // SAFETY: C strings, and one byte of a value, that live through the call.
    call(unsafe { libc::setxattr(c(path).as_ptr(), name.as_ptr(), b"v".as_ptr().cast(), 1, 0) })
}

fn xattr_of(path: &Path, name: &CStr) -> i32 {
    let mut value = [0u8; 8];
    // SAFETY: C strings, and a buffer of the length that is given, that live through the call.
    let got = unsafe { libc::getxattr(c(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    call(got as i32)
}

/// Calls that fail do so with the error that the backing has for them.
fn errors_are_those_of_the_backing(setup: &Setup) {
    let m = Mounted::new(setup);
    let (bare, root) = (bare(&m), m.root());
    furnish(&bare);
    furnish(&root);
    let (wanted, seen) = (attempts(&bare), attempts(&root));
    let other: Vec<_> = wanted.iter().zip(&seen).filter(|(wanted, seen)| wanted != seen).collect();
    assert!(other.is_empty(), "(bare, mount): {other:#?}");
    assert!(wanted.iter().filter(|(_, errno)| *errno != 0).count() > 50, "hardly anything failed: {wanted:?}");
    assert_eq!(fs::read(root.join("file")).unwrap(), fs::read(bare.join("file")).unwrap());
}

/// RENAME_NOREPLACE and RENAME_EXCHANGE work as on the backing, whatever the length of the names.
fn names_of_long_and_short_change_places(setup: &Setup) {
    // Every way in which names that are stored at length and names that are stored as a hash can meet.
    let mut m = Mounted::new(setup);
    let names = ["short".to_owned(), "x".repeat(160), "y".repeat(161), "z".repeat(255)];
    for dir in ["one", "two"] {
        fs::create_dir(m.path(dir)).unwrap();
    }
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    for from in &names {
        for to in &names {
            for dir in ["one", "two"] {
                let (from, to) = (m.path("one").join(from), m.path(dir).join(to));
                if from == to {
                    continue;
                }
                fs::write(&from, "from").unwrap();
                fs::rename(&from, &to).unwrap();
                assert!(read(&to) == "from" && !from.exists());
                fs::write(&from, "again").unwrap();
                fs::rename(&from, &to).unwrap();
                assert!(read(&to) == "again" && !from.exists());
                fs::write(&from, "other").unwrap();
                let refused = renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
                assert_eq!(refused.err(), Some(rustix::io::Errno::EXIST));
                renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).unwrap();
                assert!(read(&to) == "other" && read(&from) == "again");
                fs::remove_file(&from).unwrap();
                fs::hard_link(&to, &from).unwrap();
                // Two names of one file: nothing happens.
                fs::rename(&from, &to).unwrap();
                assert!(from.exists() && fs::metadata(&to).unwrap().nlink() == 2);
                fs::remove_file(&from).unwrap();
                fs::remove_file(&to).unwrap();
            }
        }
    }
    m.remount();
    for dir in ["one", "two"] {
        fs::remove_dir(m.path(dir)).unwrap();
    }
    let left = fs::read_dir(m.backing()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = left.filter(|name| name.as_bytes().starts_with(b"kmsfs.long.")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Inode numbers are the backing's, so they survive a remount.
fn inode_numbers_survive_a_remount(setup: &Setup) {
    let mut m = Mounted::new(setup);
    furnish(&m.root());
    fs::hard_link(m.path("file"), m.path("twin")).unwrap();
    let numbers = |m: &Mounted| -> Vec<(PathBuf, u64)> {
        let names = ["", "file", "twin", "full", "full/inner", "empty", "link", "broken", "pipe"];
        names.iter().map(|name| (PathBuf::from(name), fs::symlink_metadata(m.path(name)).unwrap().ino())).collect()
    };
    let before = numbers(&m);
    assert_eq!(before[1].1, before[2].1);
    // A listing tells the same ones.
    for entry in fs::read_dir(m.root()).unwrap() {
        let entry = entry.unwrap();
        let listed = std::os::unix::fs::DirEntryExt::ino(&entry);
        assert_eq!(listed, fs::symlink_metadata(entry.path()).unwrap().ino(), "{entry:?}");
    }
    m.remount();
    assert_eq!(numbers(&m), before);
}

/// A stream of libc, for places in a listing.
struct Listing(*mut libc::DIR);

impl Listing {
    fn open(path: &Path) -> Self {
        // SAFETY: a C string that lives through the call; the stream is closed on drop alone.
        let stream = unsafe { libc::opendir(c(path).as_ptr()) };
        assert!(!stream.is_null(), "{path:?} opens");
        Listing(stream)
    }

    fn next(&mut self) -> Option<OsString> {
        // SAFETY: the stream is open, and the entry is copied before the next call.
        unsafe {
            let entry = libc::readdir(self.0);
            let name = (!entry.is_null()).then(|| CStr::from_ptr((*entry).d_name.as_ptr()))?;
            Some(OsString::from_vec(name.to_bytes().to_vec()))
        }
    }

    fn rest(&mut self) -> Vec<OsString> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn place(&mut self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&mut self, place: libc::c_long) {
        // SAFETY: the stream is open, and the place is one of its own.
        unsafe { libc::seekdir(self.0, place) }
    }

    fn rewind(&mut self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and not used any more.
        unsafe { libc::closedir(self.0) };
    }
}

/// A place in a listing (`telldir`) is found again while entries come and go.
fn a_place_in_a_listing_is_found_again(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    for i in 0..2000 {
        fs::write(m.path(format!("dir/{i}")), b"").unwrap();
    }
    let mut listing = Listing::open(&m.path("dir"));
    let mut places = Vec::new();
    for _ in 0..2002 {
        let place = listing.place();
        places.push((place, listing.next().expect("an entry")));
    }
    assert_eq!(listing.next(), None);
    for at in [1999, 3, 1000, 0, 2001, 700] {
        listing.seek(places[at].0);
        assert_eq!(listing.next().as_ref(), Some(&places[at].1), "{at}");
    }
    // What is gone before the place does not move it.
    for (_, name) in places[..500].iter().filter(|(_, name)| *name != "." && *name != "..") {
        fs::remove_file(m.path("dir").join(name)).unwrap();
    }
    for i in 0..100 {
        fs::write(m.path(format!("dir/new {i}")), b"").unwrap();
    }
    listing.seek(places[1200].0);
    let wanted: Vec<OsString> = places[1200..].iter().map(|(_, name)| name.clone()).collect();
    let (new, rest): (Vec<_>, Vec<_>) =
        listing.rest().into_iter().partition(|name| name.as_bytes().starts_with(b"new"));
    assert_eq!(rest, wanted);
    assert!(new.len() <= 100);
}

/// A listing begun anew shows what is new.
fn a_listing_shows_what_is_new_from_its_start(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/old"), b"").unwrap();
    let mut listing = Listing::open(&m.path("dir"));
    let old = listing.rest();
    assert!(old.contains(&"old".into()) && old.len() == 3);
    fs::write(m.path("dir/new"), b"").unwrap();
    fs::remove_file(m.path("dir/old")).unwrap();
    listing.rewind();
    let new = listing.rest();
    assert!(new.contains(&"new".into()) && !new.contains(&"old".into()), "{new:?}");
}

/// RLIMIT_FSIZE counts for the file as programs see it.
fn a_limit_on_the_size_of_files_is_obeyed(setup: &Setup) {
    let m = Mounted::new(setup);
    // 100 KiB, and bash keeps the signal from ending head.
    let script = "ulimit -f 100; trap '' XFSZ; head -c 1000000 /dev/zero >\"$1\"; echo $?; : >\"$1.2\"; truncate -s 200K \"$1.2\"; echo $?";
    let outcome = |dir: &Path| {
        let output = Command::new("bash")
            .env("LC_ALL", "C")
            .args(["-c", script, "bash"])
            .arg(dir.join("file"))
            .output()
            .unwrap();
        let sizes = ["file", "file.2"].map(|name| fs::metadata(dir.join(name)).unwrap().len());
        let errors = String::from_utf8_lossy(&output.stderr).matches("File too large").count();
        (String::from_utf8_lossy(&output.stdout).into_owned(), errors, sizes)
    };
    let wanted = outcome(&bare(&m));
    assert_eq!(wanted.2, [100 << 10, 0]);
    assert_eq!(outcome(&m.root()), wanted);
}

/// What O_SYNC or O_DSYNC has written is stored when `write` returns.
fn synchronous_writes_survive_a_kill(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let flags = [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC), ("direct", libc::O_SYNC | libc::O_DIRECT)];
    let mut block = vec![0u8; 2 * 4096];
    let shift = block.as_ptr().align_offset(4096);
    block[shift..shift + 4096].copy_from_slice(&pattern(7, 4096));
    for (name, flags) in flags {
        let file = File::options().write(true).create(true).custom_flags(flags).open(m.path(name)).unwrap();
        for at in [0, 3, 1] {
            file.write_all_at(&block[shift..shift + 4096], at * 4096).unwrap();
        }
    }
    m.kill9();
    m.mount();
    for (name, _) in flags {
        let seen = fs::read(m.path(name)).unwrap();
        assert_eq!(seen.len(), 4 * 4096, "{name}");
        for (at, block) in seen.chunks(4096).enumerate() {
            let wanted = if at == 2 { vec![0; 4096] } else { pattern(7, 4096) };
            assert!(block == wanted, "{name}, block {at}");
        }
    }
}

/// A file has as many names as the backing allows, 65 000 on ext4, and then EMLINK.
fn hard_links_end_where_the_backings_do(setup: &Setup) {
    // ext4 has 65 000 names for a file; other file systems more than anybody tries.
    let m = Mounted::new(setup);
    let links = |dir: &Path| {
        fs::write(dir.join("file"), b"text").unwrap();
        fs::create_dir(dir.join("links")).unwrap();
        let end = (1..65_100).find_map(|i| {
            let made = fs::hard_link(dir.join("file"), dir.join(format!("links/{i}")));
            made.err().map(|error| (i, error.raw_os_error()))
        });
        (end, fs::metadata(dir.join("file")).unwrap().nlink())
    };
    let wanted = links(&bare(&m));
    assert_eq!(links(&m.root()), wanted);
    assert_eq!(fs::read(m.path("links/65")).unwrap(), b"text");
    fs::remove_dir_all(m.path("links")).unwrap();
    assert_eq!(fs::metadata(m.path("file")).unwrap().nlink(), 1);
}

/// RENAME_WHITEOUT leaves a character device 0/0 under the old name.
fn a_rename_can_leave_a_whiteout(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let bare = bare(&m);
    let long = "x".repeat(240);
    for dir in [&bare, &m.root()] {
        for (from, to) in [("file", "moved"), (&long, "moved too"), ("third", &long)] {
            fs::write(dir.join(from), from).unwrap();
            renameat_with(CWD, dir.join(from), CWD, dir.join(to), RenameFlags::WHITEOUT).unwrap();
            assert_eq!(fs::read_to_string(dir.join(to)).unwrap(), from);
        }
    }
    m.remount();
    for dir in [&bare, &m.root()] {
        for name in ["file", "third"] {
            let left = fs::symlink_metadata(dir.join(name)).unwrap();
            assert!(left.file_type().is_char_device() && left.rdev() == 0, "{name} in {dir:?}");
        }
        assert!(fs::symlink_metadata(dir.join(&long)).unwrap().is_file(), "replaced");
    }
}
