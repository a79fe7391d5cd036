//! Readers of many kinds on a volume whose keys are not in memory: how often they wait, and what is asked for in vain.

use std::collections::HashSet;
use std::path::Path;

use crate::fs::file_ops::WriteHow;
use crate::fs::power_cut::rig::{RUNTIME, Rig, Setup, mount_with, new_keys, with_key};
use crate::fs::{Caller, ROOT};
use crate::keys::KeyStats;

use super::*;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

/// A mount with cold keys.
struct Bench {
    fs: Arc<Fs>,
    rig: Rig,
}

impl Bench {
    /// `paths`: of the files; directories are made as they come.
    fn new(setup: &Setup, paths: &[String]) -> Self {
        let mut rig = Rig::new(setup);
        for path in paths {
            let fs = rig.fs();
            let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
            let mut dir = ROOT;
            for name in dirs.split('/').filter(|name| !name.is_empty()) {
                dir = match fs.lookup(dir, name.as_bytes()) {
                    Ok(entry) => entry.attr.ino,
                    Err(_) => fs.mkdir(&CALLER, dir, name.as_bytes(), 0o755).expect("makes").attr.ino,
                };
            }
            let (_, handle) = fs.create(&CALLER, dir, name.as_bytes(), 0o644).expect("creates");
            let how = WriteHow { from_cache: false, drop_privileges: false };
            with_key(fs, |ready| fs.write(handle, 0, b"text", how, ready)).expect("writes");
            fs.release(handle).expect("closes");
        }
        rig.end();
        let keys = new_keys(setup.suite, setup.files_per_data_key);
        let fs = mount_with(rig.path(), setup, keys, true).expect("mounts");
        Self { fs, rig }
    }

    fn stats(&self) -> KeyStats {
        self.fs.keys.stats()
    }

    /// Opens and closes a file; true if its key was in memory.
    fn read(&self, path: &str) -> bool {
        let id =
            path.split('/').fold(ROOT, |dir, name| self.fs.lookup(dir, name.as_bytes()).expect("is there").attr.ino);
        let before = self.stats().misses;
        let handle = with_key(&self.fs, |ready| self.fs.open(id, false, ready)).expect("opens");
        self.fs.release(handle).expect("closes");
        self.stats().misses == before
    }

    /// Everything that the background does until nothing is left to do.
    fn settle(&self) {
        while self.fs.look_ahead() == Some(HELD) {
            std::thread::sleep(Duration::from_millis(1));
        }
        while self.stats().fetches_under_way > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads one file after the other, as slowly as the background needs; the number of those that were waited for.
    fn read_all(&self, paths: &[String]) -> usize {
        let waited = |path: &&String| {
            let known = self.read(path);
            self.settle();
            !known
        };
        paths.iter().filter(waited).count()
    }

    /// Names as the directory is listed, directories with a slash; the listing is seen as a reader's is.
    fn list(&self, dir: &str) -> Vec<String> {
        let find = |dir, name: &str| self.fs.lookup(dir, name.as_bytes()).expect("is there").attr.ino;
        let id = dir.split('/').filter(|name| !name.is_empty()).fold(ROOT, find);
        let handle = self.fs.opendir(id).expect("opens");
        let (mut names, mut position) = (Vec::new(), 0);
        loop {
            let before = position;
            self.fs
                .readdir(handle, position, |entry| {
                    position = entry.next;
                    if !matches!(entry.name, b"." | b"..") {
                        let slash = if entry.kind == rustix::fs::FileType::Directory { "/" } else { "" };
                        names.push(format!("{}{slash}", String::from_utf8_lossy(entry.name)));
                    }
                    false
                })
                .expect("lists");
            if position == before {
                break;
            }
        }
        self.fs.releasedir(handle).expect("closes");
        names
    }

    /// Reads a tree depth first, each directory listed when it is entered; the number of files that were waited for.
    fn read_tree(&self, dir: &str) -> usize {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        self.list(dir)
            .iter()
            .map(|name| match name.strip_suffix('/') {
                Some(inner) => self.read_tree(&format!("{prefix}{inner}")),
                None => self.read_all(&[format!("{prefix}{name}")]),
            })
            .sum()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.fs.end();
        self.rig.end();
    }
}

fn files(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("file-{}", n * 7919 % count)).collect()
}

/// A walk over all numbers in which neighbours are far from each other.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| (n * 389 + n * n * 31) % count)
}

fn setups() -> [Setup; 2] {
    [Setup::safe(), Setup::encrypted_names()]
}

#[test]
fn a_reader_in_any_order_waits_for_the_first_two() {
    for setup in setups() {
        let paths = files(300);
        let numbers = {
            let bench = Bench::new(&setup, &paths);
            let listed = bench.list("");
            assert_eq!(bench.read_all(&listed), 2, "in the order of the listing");
            assert_eq!(bench.stats().kms_decrypts, 300, "each key was asked for once");
            let id = |name: &String| bench.fs.lookup(ROOT, name.as_bytes()).expect("is there").attr.ino;
            let mut numbers: Vec<(u64, String)> = listed.iter().map(|name| (id(name), name.clone())).collect();
            numbers.sort();
            numbers
        };
        let bench = Bench::new(&setup, &paths);
        let id = |name: &String| bench.fs.lookup(ROOT, name.as_bytes()).expect("is there").attr.ino;
        let mut by_number: Vec<(u64, String)> = numbers.into_iter().map(|(_, name)| (id(&name), name)).collect();
        by_number.sort();
        let by_number: Vec<String> = by_number.into_iter().map(|(_, name)| name).collect();
        assert_eq!(bench.read_all(&by_number), 2, "in the order of the inode numbers");

        let bench = Bench::new(&setup, &paths);
        let mut by_name = paths.clone();
        by_name.sort();
        assert_eq!(bench.read_all(&by_name), 2, "in the order of the names");
    }
}

#[test]
fn files_that_are_opened_here_and_there_begin_no_scan() {
    let paths = files(2000);
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    let mut by_name = paths;
    by_name.sort();
    let some: Vec<String> = scattered(2000).take(60).map(|n| by_name[n].clone()).collect();
    let different: HashSet<&String> = some.iter().collect();
    bench.read_all(&some);
    let asked = bench.stats().kms_decrypts as usize;
    assert!(asked <= different.len() + 2 * WINDOW as usize, "{asked} keys for {} files", different.len());
}

#[test]
fn what_is_asked_for_in_vain_is_bounded_by_the_window() {
    for (read, window) in [(2, 8), (3, 8), (7, 16), (20, 32), (100, 128), (400, 128)] {
        let paths = files(600);
        let bench = Bench::new(&Setup::encrypted_names(), &paths);
        let mut by_name = paths;
        by_name.sort();
        bench.read_all(&by_name[..read]);
        let asked = bench.stats().kms_decrypts;
        assert!(asked > read as u64 && asked <= read as u64 + window, "{asked} keys for {read} files");
    }
}

#[test]
fn a_reader_of_a_tree_is_followed_from_directory_to_directory() {
    let mut paths = Vec::new();
    for outer in 0..6 {
        for inner in 0..5 {
            paths.extend((0..3).map(|n| format!("tree/{outer}/{inner}/{n}")));
        }
        paths.extend((0..4).map(|n| format!("tree/{outer}/file-{n}")));
    }
    paths.extend((0..40).map(|n| format!("aside/{n}")));
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    let waited = bench.read_tree("tree");
    // Two to begin with, and where the reader is first seen to go into a directory.
    assert!(waited <= 6, "{waited} of {}", paths.len() - 40);
    let (asked, read) = (bench.stats().kms_decrypts, paths.len() as u64 - 40);
    assert!(asked >= read && asked <= read + 1, "{asked} keys for {read} files: nothing beside the tree");
}

#[test]
fn a_reader_of_one_directory_is_not_followed_into_others() {
    let mut paths: Vec<String> = (0..30).map(|n| format!("a/{n:03}")).collect();
    // In the order of names these lie before, between and behind the files.
    for dir in ["a/000-dir", "a/015-dir", "a/inner", "b"] {
        paths.extend((0..30).map(|n| format!("{dir}/{n:03}")));
    }
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    bench.list("a");
    let waited = bench.read_all(&paths[..30]);
    assert!(waited <= 4, "{waited}: two, and where a directory might have been entered");
    assert_eq!(bench.stats().kms_decrypts, 30);
}

#[test]
fn readers_of_different_directories_are_followed_each() {
    let names: Vec<String> = (0..50).map(|n| format!("{n:03}")).collect();
    let paths: Vec<String> =
        ["a", "b", "c"].iter().flat_map(|dir| names.iter().map(move |n| format!("{dir}/{n}"))).collect();
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    let waited: usize = names.iter().map(|n| bench.read_all(&["a", "b", "c"].map(|dir| format!("{dir}/{n}")))).sum();
    assert_eq!(waited, 6);
}

/// The background comes seldom: the reader is ahead of the walk, which goes on where the reader is.
#[test]
fn a_walk_that_was_overtaken_goes_on_in_front_of_its_reader() {
    let bench = Bench::new(&Setup::encrypted_names(), &files(400));
    let mut by_name = files(400);
    by_name.sort();
    let mut known = 0;
    for (n, path) in by_name.iter().enumerate() {
        known += usize::from(bench.read(path));
        if n % 25 == 2 {
            bench.settle();
        }
    }
    assert!(known >= 100, "{known} of 400");
    assert_eq!(bench.stats().kms_decrypts, 400);
}

#[test]
fn files_that_share_a_key_ask_for_it_once() {
    let setup = Setup { files_per_data_key: 10, ..Setup::encrypted_names() };
    let paths: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
    let bench = Bench::new(&setup, &paths);
    assert!(bench.read_all(&paths) <= 3);
    assert_eq!(bench.stats().kms_decrypts, 20);
}

#[test]
fn a_mount_that_fetches_nothing_ahead_asks_for_what_is_opened() {
    let paths = files(100);
    let setup = Setup::encrypted_names();
    let bench = Bench::new(&setup, &paths);
    let fs = mount_with(bench.rig.path(), &setup, new_keys(setup.suite, 1), false).expect("mounts");
    for name in bench.list("").iter().take(50) {
        let id = fs.lookup(ROOT, name.as_bytes()).expect("is there").attr.ino;
        let handle = with_key(&fs, |ready| fs.open(id, false, ready)).expect("opens");
        fs.release(handle).expect("closes");
        assert_eq!(fs.look_ahead(), None);
    }
    assert_eq!(fs.keys.stats().kms_decrypts, 50);
    fs.end();
}

/// What the walk meets is whatever lies in the backing: it is passed by, and the rest is fetched.
#[test]
fn what_cannot_be_read_ahead_is_passed_by() {
    let paths: Vec<String> = (0..60).map(|n| format!("{n:03}")).collect();
    let bench = Bench::new(&Setup::safe(), &paths);
    let stored = |name: &str| Path::new(bench.rig.path()).join(name);
    std::fs::write(stored("005"), b"short").expect("writes");
    std::fs::write(stored("006"), [0; 5000]).expect("writes");
    std::fs::remove_file(stored("007")).expect("removes");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        stored("007"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("makes a FIFO");
    std::fs::create_dir(stored("008-dir")).expect("makes");
    std::fs::write(stored("009"), []).expect("writes");
    let read: Vec<String> = paths.iter().filter(|path| !("005".."010").contains(&path.as_str())).cloned().collect();
    let waited = bench.read_all(&read[..3]);
    assert_eq!(waited, 2);
    // Gone while the walk is in it.
    std::fs::remove_file(stored("059")).expect("removes");
    let waited = bench.read_all(&read[3..read.len() - 1]);
    assert!(waited <= 1, "{waited}: where a directory might have been entered");
}

#[test]
fn a_scan_whose_reader_is_gone_is_forgotten() {
    let paths = files(100);
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    bench.read_all(&bench.list("")[..3]);
    assert_eq!(bench.fs.look_ahead(), Some(IDLE));
    for scan in &mut bench.fs.ahead.seen.lock().scans {
        scan.last = Instant::now().checked_sub(IDLE).expect("the machine is not that young");
    }
    assert_eq!(bench.fs.look_ahead(), None);
    assert!(bench.fs.ahead.walks.lock().is_empty(), "and its directories are closed");
}

#[test]
fn who_looks_ahead_is_woken_by_a_miss() {
    let paths = files(20);
    let bench = Bench::new(&Setup::encrypted_names(), &paths);
    let listed = bench.list("");
    bench.read(&listed[0]);
    bench.read(&listed[1]);
    let woken =
        RUNTIME.block_on(async { tokio::time::timeout(Duration::from_secs(30), bench.fs.wait_to_look_ahead()).await });
    assert!(woken.is_ok());
}
