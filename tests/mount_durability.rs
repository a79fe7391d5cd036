//! The daemon is killed: what was fsynced is there, and the volume mounts again.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::io::{Random, errno, open_rw, pattern};
use common::{ALL, Mounted, SUITES, Setup, Suite, wait_until};

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(
            &ALL,
            bodies![
                what_was_fsynced_survives_a_kill,
                what_was_synced_as_a_whole_survives_a_kill,
                kills_under_load,
                a_kill_amid_name_changes,
            ],
        )
        .on(
            &SUITES,
            bodies![
                an_overwrite_that_was_fsynced_survives,
                second_halves_are_written_in_the_background,
                a_dead_mount_says_so,
            ],
        )
        .run()
}

/// When the daemon dies, what was fsynced is there; what the kernel had not written back yet may be lost.
fn what_was_fsynced_survives_a_kill(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for round in 0..5u64 {
        for i in 0..10u64 {
            let len = [1, 100, 4096, 5000, 130_000][i as usize % 5];
            let file = open_rw(&m.path(format!("{round}-{i}")));
            file.write_all_at(&pattern(round * 100 + i, len), 0).unwrap();
            file.sync_all().unwrap();
        }
        m.kill9();
        m.mount();
        for earlier in 0..=round {
            for i in 0..10u64 {
                let len = [1, 100, 4096, 5000, 130_000][i as usize % 5];
                let seen = fs::read(m.path(format!("{earlier}-{i}"))).unwrap();
                assert!(seen == pattern(earlier * 100 + i, len), "{earlier}-{i} after round {round}");
            }
        }
    }
    assert!(m.log().contains("did not end cleanly"));
}

fn what_was_synced_as_a_whole_survives_a_kill(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let long = "long ".repeat(50);
    fs::create_dir_all(m.path("a/b")).unwrap();
    for i in 0..50u64 {
        fs::write(m.path(format!("a/b/{i}")), pattern(i, 10_000)).unwrap();
    }
    fs::write(m.path(&long), b"long").unwrap();
    std::os::unix::fs::symlink("target", m.path("link")).unwrap();
    rustix::fs::syncfs(File::open(m.root()).unwrap()).unwrap();
    m.kill9();
    m.mount();
    for i in 0..50u64 {
        assert!(fs::read(m.path(format!("a/b/{i}"))).unwrap() == pattern(i, 10_000));
    }
    assert_eq!(fs::read(m.path(&long)).unwrap(), b"long");
    assert_eq!(fs::read_link(m.path("link")).unwrap().to_str(), Some("target"));
}

/// Without `-o durability=fast` an overwritten block is written to the backing twice, the second time at the next `fsync`
/// or some seconds later, so the backing's ctime of the file may change then.
fn second_halves_are_written_in_the_background(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let redo = |m: &Mounted| {
        let names = fs::read_dir(m.backing()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("kmsfs.redo.")).count()
    };
    // Durable, and so at risk: the release that follows a close comes when it comes, and what is still open and was never
    // synced is overwritten at once.
    let file = open_rw(&m.path("file"));
    file.write_all_at(&pattern(1, 100_000), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let stored = fs::read_dir(m.backing()).unwrap().flatten().map(|entry| entry.path());
    let stored = stored.max_by_key(|path| path.symlink_metadata().unwrap().len()).unwrap();
    assert_eq!(redo(&m), 0, "new data needs none");
    let file = open_rw(&m.path("file"));
    file.write_all_at(&pattern(2, 50_000), 20_000).unwrap();
    drop(file);
    let mtime = std::time::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    File::open(m.path("file")).unwrap().set_modified(mtime).unwrap();
    assert_eq!(redo(&m), 1);
    let before = fs::read(&stored).unwrap();
    wait_until("the second halves", Duration::from_secs(30), || fs::read(&stored).unwrap() != before);
    let mut expected = pattern(1, 100_000);
    expected[20_000..70_000].copy_from_slice(&pattern(2, 50_000));
    assert!(fs::read(m.path("file")).unwrap() == expected);
    m.remount();
    assert!(fs::read(m.path("file")).unwrap() == expected);
    assert_eq!(fs::metadata(m.path("file")).unwrap().modified().unwrap(), mtime);
    assert_eq!(redo(&m), 0, "removed at the clean end");
}

/// The version that was fsynced, or a later one, whole blocks of each.
fn an_overwrite_that_was_fsynced_survives(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let path = m.path("file");
    for round in 1..=6u8 {
        let file = open_rw(&path);
        file.write_all_at(&vec![round; 400_000], 0).unwrap();
        file.sync_all().unwrap();
        // More, without fsync.
        file.write_all_at(&vec![round + 100; 50_000], 8192).unwrap();
        drop(file);
        m.kill9();
        m.mount();
        let seen = fs::read(&path).unwrap();
        assert_eq!(seen.len(), 400_000);
        for (i, block) in seen.chunks(4096).enumerate() {
            let later = block[0] == round + 100 && (2..15).contains(&i);
            assert!(block[0] == round || later, "block {i} has {} in round {round}", block[0]);
        }
    }
}

/// When the daemon dies, what was fsynced is there; what the kernel had not written back yet may be lost.
fn kills_under_load(setup: &Setup) {
    // Threads write, overwrite, rename and fsync; the daemon is killed at any moment. What fsync had promised by then is
    // there. KMSFS_KILLS=n kills it n times.
    let rounds = std::env::var("KMSFS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut m = Mounted::new(setup);
    let mut random = Random(0x6b69_6c6c);
    let promises = Promises::default();
    let mut most = 0;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3u64)
            .map(|thread| {
                let (root, stop, promises, seed) = (m.root(), stop.clone(), promises.clone(), random.next());
                std::thread::spawn(move || write_until(&root, (round, thread), seed, &stop, &promises))
            })
            .collect();
        // Not a wait for anything: the moment of the kill is what varies.
        std::thread::sleep(Duration::from_millis(20 + random.below(180)));
        // SAFETY: a call without pointers, on a child that was not waited for.
        unsafe { libc::kill(m.pid() as i32, libc::SIGKILL) };
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        m.kill9();
        if round % 25 == 11 {
            // What kills have left can be mended.
            for arguments in [&["--repair"][..], &[]] {
                let done = m.command().arg("check").arg(m.backing()).args(arguments).output().unwrap();
                let fine = done.status.success() || (!arguments.is_empty() && done.status.code() == Some(10));
                assert!(fine, "check {arguments:?} in round {round}: {}", common::mounted::text(&done));
            }
        }
        m.mount();
        let mut promises = promises.lock().unwrap();
        most = most.max(promises.len());
        let before = std::mem::take(&mut *promises);
        for (name, promise) in before {
            let (name, seed) = promise.check(&m, &name, round);
            promises.insert(name, Promise { seed, ..promise.settled() });
        }
        // Every other file can be read or is refused, and can be removed.
        for entry in fs::read_dir(m.root()).unwrap() {
            let path = entry.unwrap().path();
            if !promises.contains_key(path.file_name().unwrap().to_str().unwrap()) {
                let read = errno(fs::read(&path));
                assert!(read == 0 || read == libc::EIO, "{} gives {read}", path.display());
                fs::remove_file(&path).unwrap();
            }
        }
        // The oldest have been looked at often enough.
        let mut names: Vec<_> = promises.iter().map(|(name, promise)| (promise.round, name.clone())).collect();
        names.sort();
        for (_, name) in names.iter().take(names.len().saturating_sub(40)) {
            fs::remove_file(m.path(name)).unwrap();
            promises.remove(name);
        }
    }
    assert!(most > 10, "the load was no load");
}

/// What was fsynced, by name.
type Promises = Arc<Mutex<BTreeMap<String, Promise>>>;

#[derive(Clone)]
struct Promise {
    round: u64,
    /// Of its first `len` bytes; none says it while they were being overwritten unless the old one is there too.
    seed: Option<u64>,
    len: usize,
    /// What is being written over it, and the name that it is being given.
    over: Option<u64>,
    renamed: Option<String>,
}

impl Promise {
    fn settled(self) -> Self {
        Self { over: None, renamed: None, ..self }
    }

    /// Gives the name that the file has, and what its bytes are: none if some blocks are old and some new.
    fn check(&self, m: &Mounted, name: &str, round: u64) -> (String, Option<u64>) {
        let renamed = self.renamed.as_ref().filter(|renamed| m.path(renamed).exists());
        let name = renamed.map_or(name, |renamed| &renamed[..]);
        let seen = fs::read(m.path(name)).unwrap_or_else(|e| panic!("{name} in round {round}: {e}"));
        assert!(seen.len() >= self.len, "{name} in round {round} has {} bytes of {}", seen.len(), self.len);
        let versions: Vec<_> = [self.seed, self.over].into_iter().flatten().collect();
        let patterns: Vec<_> = versions.iter().map(|&seed| pattern(seed, self.len)).collect();
        if self.seed.is_some() {
            for (i, block) in seen[..self.len].chunks(4096).enumerate() {
                let known = patterns.iter().any(|pattern| pattern[i * 4096..][..block.len()] == *block);
                assert!(known, "block {i} of {name} in round {round}");
            }
        }
        let whole = patterns.iter().position(|pattern| seen[..self.len] == *pattern);
        (name.to_owned(), whole.map(|i| versions[i]))
    }
}

/// Writes new files, then does something with one of them, until the daemon is gone.
fn write_until(
    root: &std::path::Path,
    (round, thread): (u64, u64),
    seed: u64,
    stop: &AtomicBool,
    promises: &Mutex<BTreeMap<String, Promise>>,
) {
    let mut random = Random(seed);
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, seed) = (format!("{round}-{thread}-{i}"), random.next());
        let len = 1 + random.below(200_000) as usize;
        let change = |name: &str, change: &dyn Fn(&mut Promise)| {
            promises.lock().unwrap().get_mut(name).map(change);
        };
        let written = (|| -> std::io::Result<()> {
            let file = File::create_new(root.join(&name))?;
            file.write_all_at(&pattern(seed, len), 0)?;
            file.sync_all()?;
            let promise = Promise { round, seed: Some(seed), len, over: None, renamed: None };
            promises.lock().unwrap().insert(name.clone(), promise);
            // Behind the promise, and never synced.
            file.write_all_at(&pattern(seed + 1, 30_000), len as u64)?;
            if i % 3 == 1 {
                change(&name, &|promise| promise.over = Some(seed + 2));
                file.write_all_at(&pattern(seed + 2, len), 0)?;
                file.sync_all()?;
                change(&name, &|promise| *promise = Promise { seed: Some(seed + 2), over: None, ..promise.clone() });
            }
            if i % 3 == 2 {
                let long = format!("{name}{}", "-long".repeat(40));
                change(&name, &|promise| promise.renamed = Some(long.clone()));
                fs::rename(root.join(&name), root.join(&long))?;
                let mut promises = promises.lock().unwrap();
                let promise = promises.remove(&name).expect("it was promised");
                promises.insert(long, promise.settled());
            }
            Ok(())
        })();
        if written.is_err() {
            return;
        }
    }
}

fn a_kill_amid_name_changes(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mut random = Random(7);
    for round in 0..8 {
        let root = m.root();
        let thread = std::thread::spawn(move || {
            for i in 0.. {
                let dir = root.join(format!("dir {}", i % 7));
                let long = dir.join(format!("{i}{}", "-long".repeat(45)));
                let done = fs::create_dir(&dir)
                    .or_else(|e| if e.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(e) })
                    .and_then(|()| fs::write(&long, b"content"))
                    .and_then(|()| fs::rename(&long, dir.join(format!("short {i}"))))
                    .and_then(|()| if i % 3 == 0 { fs::remove_dir_all(&dir) } else { Ok(()) });
                if done.is_err_and(|e| {
                    e.raw_os_error() == Some(libc::ENOTCONN) || e.raw_os_error() == Some(libc::ECONNABORTED)
                }) {
                    return;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(20 + random.below(100)));
        // SAFETY: a call without pointers, on a child that was not waited for.
        unsafe { libc::kill(m.pid() as i32, libc::SIGKILL) };
        thread.join().unwrap();
        m.kill9();
        m.mount();
        // Everything that is listed can be looked at, and removed: also directories that hold a dead name's link.
        for entry in fs::read_dir(m.root()).unwrap() {
            let dir = entry.unwrap().path();
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                fs::metadata(&path).unwrap_or_else(|e| panic!("{} in round {round}: {e}", path.display()));
            }
        }
        let entries: Vec<_> = fs::read_dir(m.root()).unwrap().flatten().collect();
        for entry in entries {
            fs::remove_dir_all(entry.path()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
    }
}

/// If the daemon dies, programs get ENOTCONN until `kmsfs umount`.
fn a_dead_mount_says_so(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    // SAFETY: a call without pointers, on a child that was not waited for.
    unsafe { libc::kill(m.pid() as i32, libc::SIGKILL) };
    wait_until("ENOTCONN", Duration::from_secs(10), || errno(fs::metadata(m.path("file"))) == libc::ENOTCONN);
    let again = m.mount_command("").output().unwrap();
    assert_eq!(again.status.code(), Some(8));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("kmsfs umount"), "{said}");
    m.kill9();
    m.mount();
}
