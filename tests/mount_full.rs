//! A backing that is full: whatever meets the end of the space says so, loses nothing that was there before, and works
//! again once there is room.

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::XattrFlags;
use tempfile::TempDir;

use common::images::{no_loop, tool};
use common::io::{copy_file_range, errno, fallocate, open_rw, pattern};
use common::mounted::{text, walk};
use common::{AES, ALL, Mounted, PLAIN, Setup, Suite};

/// The most pages, or inodes, that are left free for an operation.
const MOST: u64 = 200;
/// Bytes of the small backing.
const ROOM: u64 = 8 << 20;

fn main() -> std::process::ExitCode {
    Suite::default()
        .rooted_on(
            &ALL,
            bodies![
                a_full_tmpfs_loses_nothing,
                a_tmpfs_without_inodes_loses_nothing,
                a_full_disk_can_be_emptied,
                a_full_disk_is_unmounted_and_read,
                allocating_reserves_nothing,
                an_error_that_close_told_is_told_once_more,
            ],
        )
        .where_on(no_loop("mkfs.ext4"), &[AES, PLAIN], bodies![a_full_ext4_loses_nothing])
        .where_on(no_loop("mkfs.btrfs"), &[AES, PLAIN], bodies![a_quota_is_told_and_loses_nothing])
        .where_on(no_loop("mkfs.btrfs"), &[PLAIN], bodies![subvolumes_are_not_entered])
        .run()
}

/// What runs out.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    TmpfsPages,
    TmpfsInodes,
    Ext4,
    Btrfs,
}

/// A small file system of its own, unmounted on drop.
struct Small {
    dir: TempDir,
    kind: Kind,
}

impl Small {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-small-").tempdir().expect("a temporary directory");
        let new = Self { dir, kind };
        fs::create_dir(new.root()).unwrap();
        match kind {
            Kind::TmpfsPages => new.run("mount", &["-t", "tmpfs", "-o", &format!("mode=755,size={ROOM}"), "none"]),
            Kind::TmpfsInodes => new.run("mount", &["-t", "tmpfs", "-o", "mode=755,nr_inodes=400", "none"]),
            Kind::Ext4 => {
                new.image(ROOM);
                // Without a journal: what is freed is free at once. Nothing is kept for root.
                new.run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "-m", "0", "-b", "4096"]);
            }
            Kind::Btrfs => {
                new.image(256 << 20);
                new.run("mkfs.btrfs", &["-q", "--mixed"]);
            }
        }
        new
    }

    fn image(&self, len: u64) {
        File::create(self.dir.path().join("image")).unwrap().set_len(len).unwrap();
    }

    /// mkfs gets the image behind its arguments and mounts it after, mount the mount point.
    fn run(&self, program: &str, arguments: &[&str]) {
        let is_mkfs = program.starts_with("mkfs");
        let mut command = tool(program);
        command.args(arguments);
        command.arg(if is_mkfs { self.dir.path().join("image") } else { self.root() });
        let done = command.output().expect("it runs");
        assert!(done.status.success(), "{program}: {}", text(&done));
        if is_mkfs {
            self.run("mount", &["-o", "loop", self.dir.path().join("image").to_str().unwrap()]);
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Leaves `n` pages free, or inodes, by what lies beside the volume.
    fn leave(&self, n: u64) {
        self.give_back();
        if self.kind == Kind::TmpfsInodes {
            fs::create_dir(self.root().join("filler")).unwrap();
            let free = rustix::fs::statvfs(self.root()).unwrap().f_ffree;
            for i in n..free {
                File::create(self.root().join(format!("filler/{i}"))).unwrap();
            }
            return;
        }
        // The directory's own block may count too.
        let filler = open_rw(&self.root().join("filler"));
        // What is written late takes its blocks now.
        rustix::fs::syncfs(&filler).unwrap();
        let mut len = 0;
        loop {
            let free = self.free_pages();
            if free <= n {
                return;
            }
            // What describes the space may need some of it.
            let Some(step) = (1..=free - n).rev().find(|step| fallocate(&filler, 0, len, step * 4096).is_ok()) else {
                return;
            };
            len += step * 4096;
        }
    }

    fn free_pages(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.root()).unwrap();
        stat.f_bavail * stat.f_frsize / 4096
    }

    fn give_back(&self) {
        let filler = self.root().join("filler");
        let _ = fs::remove_file(&filler);
        let _ = fs::remove_dir_all(&filler);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH));
    }
}

/// One test at a time: a process that another one starts has, for a moment, a copy of every descriptor here. It keeps a
/// file's space after its removal, and its close may get the error that is waited for.
static ALONE: Mutex<()> = Mutex::new(());

/// A mount whose backing is small, with files that are to stay.
struct Full {
    m: Mounted,
    small: Small,
    _alone: MutexGuard<'static, ()>,
    kept: Vec<(PathBuf, Vec<u8>)>,
}

impl Full {
    fn new(setup: &Setup, kind: Kind) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let small = Small::new(kind);
        let mut m = Mounted::unmounted(setup, "");
        let backing = small.root().join("backing");
        let done = Command::new("cp").arg("-a").arg(m.backing()).arg(&backing).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        m.set_backing(backing);
        m.mount();
        let mut kept = Vec::new();
        for (i, len) in [1, 4096, 10_000, 300_000].into_iter().enumerate() {
            let (path, data) = (m.path(format!("kept {len}")), pattern(i as u64, len));
            fs::write(&path, &data).unwrap();
            kept.push((path, data));
        }
        let (path, mut data) = (m.path(format!("kept{}", " long".repeat(40))), vec![0; 700_000]);
        data.extend(pattern(9, 5000));
        let file = open_rw(&path);
        file.write_all_at(&pattern(9, 5000), 700_000).unwrap();
        kept.push((path, data));
        rustix::fs::syncfs(&file).unwrap();
        Self { m, small, _alone: alone, kept }
    }

    /// Everything that was stored before is there.
    fn check_kept(&self, when: &str) {
        for (path, data) in &self.kept {
            let file = File::open(path).unwrap_or_else(|e| panic!("{path:?} {when}: {e}"));
            // From the backing, not from the kernel's cache.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let seen = fs::read(path).unwrap_or_else(|e| panic!("{path:?} {when}: {e}"));
            assert!(seen == *data, "{path:?} {when}");
        }
    }

    /// Unmounts, which needs no room, and mounts, which does.
    fn remount(&mut self) {
        self.m.unmount();
        self.small.give_back();
        self.m.mount();
    }
}

type Done = io::Result<()>;

/// What may meet the end of the space.
struct Operation {
    name: &'static str,
    /// With room: what the operation wants to find in a new directory.
    prepare: fn(&Path),
    /// `sync`: an error is asked for by fsync too, not by close alone.
    run: fn(&Path, bool) -> Done,
    /// What is there once it worked.
    is_done: fn(&Path),
    /// What is there if it failed, through whatever cache.
    is_not_done: fn(&Path),
}

const OPERATIONS: [Operation; 17] = [
    operation("create", nothing, create, created, not_created),
    operation("first write", nothing, first_write, first_written, at_most_begun),
    operation("append", old_file, append, appended, begins_as_before),
    operation("overwrite", old_file, overwrite, overwritten, each_block_old_or_new),
    operation("grow by truncate", old_file, grow, grown, begins_as_before),
    operation("write into a hole", sparse_file, fill, filled, sparse_as_before),
    operation("mapping of a hole", sparse_file, fill_mapped, filled, sparse_as_before),
    operation("mkdir", nothing, make_dir, dir_made, nothing),
    operation("rename to a long name", old_file, rename, renamed, old_as_before),
    operation("symlink", nothing, link_softly, linked_softly, nothing),
    operation("link of a long name", old_file, link, linked, old_as_before),
    operation("setxattr", old_file, set_xattr, xattr_set, old_as_before),
    operation("fallocate", old_file, allocate, allocated, begins_as_before),
    operation("punch", old_file, punch, punched, punched_in_part),
    operation("copy_file_range", old_file, copy, copied, old_as_before),
    operation("save", old_file, save, saved, old_as_before),
    operation("O_DIRECT", nothing, direct, first_written, at_most_begun),
];

const fn operation(
    name: &'static str,
    prepare: fn(&Path),
    run: fn(&Path, bool) -> Done,
    is_done: fn(&Path),
    is_not_done: fn(&Path),
) -> Operation {
    Operation { name, prepare, run, is_done, is_not_done }
}

fn nothing(_: &Path) {}

/// Written and closed; what is told at the close counts.
fn finish(file: File, sync: bool) -> Done {
    if sync {
        file.sync_all()?;
    }
    // SAFETY: the descriptor is this function's, and not used after.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn create(dir: &Path, _: bool) -> Done {
    File::create(dir.join("new")).map(drop)
}

fn created(dir: &Path) {
    assert_eq!(fs::metadata(dir.join("new")).unwrap().len(), 0);
}

fn not_created(dir: &Path) {
    assert!(!dir.join("new").exists());
}

const FIRST: usize = 150_000;

fn first_write(dir: &Path, sync: bool) -> Done {
    let mut file = File::create(dir.join("new"))?;
    file.write_all(&pattern(1, FIRST))?;
    finish(file, sync)
}

fn first_written(dir: &Path) {
    assert!(fs::read(dir.join("new")).unwrap() == pattern(1, FIRST));
}

/// Any blocks of it may be missing, and the end.
fn at_most_begun(dir: &Path) {
    let Ok(seen) = fs::read(dir.join("new")) else {
        assert_eq!(errno(fs::metadata(dir.join("new"))), libc::ENOENT, "a file that cannot be read");
        return;
    };
    each_block_is_one_of(&seen, &[&pattern(1, FIRST), &[]]);
}

/// Each block is what one of `versions` has there; zeros where it has nothing.
fn each_block_is_one_of(seen: &[u8], versions: &[&[u8]]) {
    for (i, block) in seen.chunks(4096).enumerate() {
        let is = |version: &&[u8]| {
            let mut wanted = version.get(i * 4096..).unwrap_or_default().to_vec();
            wanted.resize(block.len(), 0);
            wanted == block
        };
        assert!(versions.iter().any(is), "block {i} of {} bytes is something else", seen.len());
    }
}

const OLD: usize = 40_000;

fn old() -> Vec<u8> {
    pattern(2, OLD)
}

fn old_file(dir: &Path) {
    let mut file = File::create(dir.join("old")).unwrap();
    file.write_all(&old()).unwrap();
    file.sync_all().unwrap();
}

fn old_as_before(dir: &Path) {
    assert!(fs::read(dir.join("old")).unwrap() == old());
}

fn begins_as_before(dir: &Path) {
    let seen = fs::read(dir.join("old")).unwrap();
    assert!(seen.len() >= OLD && seen[..OLD] == old(), "{} bytes", seen.len());
    let mut new = old();
    new.extend(pattern(3, 200_000));
    each_block_is_one_of(&seen, &[&old(), &new]);
}

fn append(dir: &Path, sync: bool) -> Done {
    let mut file = File::options().append(true).open(dir.join("old"))?;
    // After an attempt that failed half-way, too.
    file.set_len(OLD as u64)?;
    file.write_all(&pattern(3, 200_000))?;
    finish(file, sync)
}

fn appended(dir: &Path) {
    let seen = fs::read(dir.join("old")).unwrap();
    assert!(seen[..OLD] == old() && seen[OLD..] == pattern(3, 200_000));
}

fn overwrite(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("old"))?;
    file.write_all_at(&pattern(4, 30_000), 100)?;
    finish(file, sync)
}

fn new_over_old() -> Vec<u8> {
    let mut new = old();
    new[100..30_100].copy_from_slice(&pattern(4, 30_000));
    new
}

fn overwritten(dir: &Path) {
    assert!(fs::read(dir.join("old")).unwrap() == new_over_old());
}

fn each_block_old_or_new(dir: &Path) {
    let seen = fs::read(dir.join("old")).unwrap();
    assert_eq!(seen.len(), OLD);
    each_block_is_one_of(&seen, &[&old(), &new_over_old()]);
}

fn grow(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("old"))?;
    // Into the last block, which is not whole.
    file.write_all_at(&pattern(2, OLD)[OLD - 10..], OLD as u64 - 10)?;
    file.set_len(2_000_000)?;
    finish(file, sync)
}

fn grown(dir: &Path) {
    let mut wanted = old();
    wanted.resize(2_000_000, 0);
    assert!(fs::read(dir.join("old")).unwrap() == wanted);
}

const HOLE: usize = 1_000_000;

fn sparse_file(dir: &Path) {
    let file = open_rw(&dir.join("sparse"));
    file.write_all_at(b"begin", 0).unwrap();
    file.set_len(2 * HOLE as u64).unwrap();
    file.sync_all().unwrap();
}

fn sparse() -> Vec<u8> {
    let mut data = b"begin".to_vec();
    data.resize(2 * HOLE, 0);
    data
}

fn fill(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("sparse"))?;
    file.write_all_at(&pattern(5, 50_000), HOLE as u64)?;
    finish(file, sync)
}

fn fill_mapped(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("sparse"))?;
    let mut map = common::io::Map::new(&file, 2 * HOLE, true)?;
    map.write(HOLE, &pattern(5, 50_000));
    drop(map);
    finish(file, sync)
}

fn filled_sparse() -> Vec<u8> {
    let mut wanted = sparse();
    wanted[HOLE..HOLE + 50_000].copy_from_slice(&pattern(5, 50_000));
    wanted
}

fn filled(dir: &Path) {
    assert!(fs::read(dir.join("sparse")).unwrap() == filled_sparse());
}

fn sparse_as_before(dir: &Path) {
    let seen = fs::read(dir.join("sparse")).unwrap();
    assert_eq!(seen.len(), 2 * HOLE);
    each_block_is_one_of(&seen, &[&sparse(), &filled_sparse()]);
}

fn make_dir(dir: &Path, sync: bool) -> Done {
    let made = dir.join("made");
    fs::create_dir(&made).or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
    let mut file = File::create(made.join("first"))?;
    file.write_all(b"in it")?;
    finish(file, sync)
}

fn dir_made(dir: &Path) {
    assert_eq!(fs::read(dir.join("made/first")).unwrap(), b"in it");
}

fn long(what: &str) -> String {
    format!("{what}{}", "-long".repeat(48))
}

fn rename(dir: &Path, _: bool) -> Done {
    fs::rename(dir.join("old"), dir.join(long("renamed")))
}

fn renamed(dir: &Path) {
    assert!(fs::read(dir.join(long("renamed"))).unwrap() == old());
    assert!(!dir.join("old").exists());
}

fn link_softly(dir: &Path, _: bool) -> Done {
    symlink("t/".repeat(1000), dir.join("link"))
}

fn linked_softly(dir: &Path) {
    assert_eq!(fs::read_link(dir.join("link")).unwrap().to_str(), Some("t/".repeat(1000).as_str()));
}

fn link(dir: &Path, _: bool) -> Done {
    fs::hard_link(dir.join("old"), dir.join(long("linked")))
}

fn linked(dir: &Path) {
    assert!(fs::read(dir.join(long("linked"))).unwrap() == old());
    old_as_before(dir);
}

fn set_xattr(dir: &Path, _: bool) -> Done {
    Ok(rustix::fs::setxattr(dir.join("old"), "user.large", &pattern(6, 3000), XattrFlags::empty())?)
}

fn xattr_set(dir: &Path) {
    let mut value = [0; 3000];
    assert_eq!(rustix::fs::getxattr(dir.join("old"), "user.large", &mut value[..]), Ok(3000));
    assert!(value[..] == pattern(6, 3000));
}

fn allocate(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("old"))?;
    fallocate(&file, 0, 0, 2_000_000)?;
    finish(file, sync)
}

fn allocated(dir: &Path) {
    grown(dir);
}

/// Edges inside blocks, and whole ones between.
fn punch(dir: &Path, sync: bool) -> Done {
    let file = File::options().read(true).write(true).open(dir.join("old"))?;
    fallocate(&file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 5000, 25_000)?;
    finish(file, sync)
}

fn old_punched() -> Vec<u8> {
    let mut wanted = old();
    wanted[5000..30_000].fill(0);
    wanted
}

fn punched(dir: &Path) {
    assert!(fs::read(dir.join("old")).unwrap() == old_punched());
}

fn punched_in_part(dir: &Path) {
    let seen = fs::read(dir.join("old")).unwrap();
    assert_eq!(seen.len(), OLD);
    each_block_is_one_of(&seen, &[&old(), &old_punched()]);
}

fn copy(dir: &Path, sync: bool) -> Done {
    let from = File::open(dir.join("old"))?;
    let to = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("copy"))?;
    let mut done = 0;
    while done < OLD {
        let n = copy_file_range(&from, done as u64, &to, done as u64, OLD - done)?;
        assert!(n > 0, "at {done}");
        done += n;
    }
    finish(to, sync)
}

fn copied(dir: &Path) {
    assert!(fs::read(dir.join("copy")).unwrap() == old());
    old_as_before(dir);
}

/// As editors and databases do it. Without fsync the new content might be lost after the rename, on any file system.
fn save(dir: &Path, _: bool) -> Done {
    let temporary = dir.join("old.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&pattern(7, 100_000))?;
    finish(file, true)?;
    fs::rename(&temporary, dir.join("old"))?;
    File::open(dir)?.sync_all()
}

fn saved(dir: &Path) {
    assert!(fs::read(dir.join("old")).unwrap() == pattern(7, 100_000));
}

/// An aligned buffer, whole blocks; the rest through the cache.
fn direct(dir: &Path, sync: bool) -> Done {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("new");
    let file = File::options().write(true).create(true).custom_flags(libc::O_DIRECT).open(&path)?;
    let whole = FIRST / 4096 * 4096;
    let mut buffer = vec![0u8; whole + 4096];
    let shift = buffer.as_ptr().align_offset(4096);
    buffer[shift..shift + whole].copy_from_slice(&pattern(1, FIRST)[..whole]);
    for at in (0..whole).step_by(4096 * 3) {
        let end = whole.min(at + 4096 * 3);
        file.write_all_at(&buffer[shift + at..shift + end], at as u64)?;
    }
    finish(file, sync)?;
    let file = File::options().write(true).open(&path)?;
    file.write_all_at(&pattern(1, FIRST)[whole..], whole as u64)?;
    finish(file, sync)
}

/// Names and sizes do not say where the space ends: each operation meets it at one page after the other.
fn everything_meets_the_end(setup: &Setup, kind: Kind) {
    let mut full = Full::new(setup, kind);
    let entries = |full: &Full| {
        let mut count = 0;
        // The redo file of a mount that could not be ended on the full backing stays for `check --repair`.
        let is_redo =
            |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"kmsfs.redo."));
        walk(full.m.backing(), &mut |path| count += u32::from(!is_redo(path)));
        count
    };
    let before = entries(&full);
    let mut failed_ever = Vec::new();
    for operation in &OPERATIONS {
        let (mut failures, mut successes) = (0, 0);
        let dir = full.m.path("work");
        // At each of the first ones; later at every third, which alternates between even and odd.
        for free in (0..12).chain((12..MOST).step_by(3)) {
            let what = format!("{} with {free} free", operation.name);
            fs::create_dir(&dir).unwrap();
            (operation.prepare)(&dir);
            full.small.leave(free);
            let done = (operation.run)(&dir, free % 2 == 0);
            if let Err(e) = &done {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{what}: {e}");
                failures += 1;
            } else {
                (operation.is_done)(&dir);
                successes += 1;
            }
            full.check_kept(&what);
            let remounted = failures % 5 == 1 || successes == 1;
            if remounted {
                full.remount();
                full.check_kept(&format!("{what}, after a remount"));
            }
            let again = |what: &str| {
                let mut done = (operation.run)(&dir, true);
                if done.is_err() && free % 2 == 1 {
                    // What a close has told, the kernel tells the next fsync too, once.
                    done = (operation.run)(&dir, true);
                }
                done.unwrap_or_else(|e| panic!("{what}, then with room: {e}"));
                (operation.is_done)(&dir);
            };
            match done {
                Ok(()) => (operation.is_done)(&dir),
                Err(_) if free % 3 == 2 => {
                    // Removed while there is no room, and made anew once there is.
                    fs::remove_dir_all(&dir).unwrap_or_else(|e| panic!("{what}, removing: {e}"));
                    full.small.give_back();
                    fs::create_dir(&dir).unwrap();
                    (operation.prepare)(&dir);
                    again(&what);
                }
                Err(_) => {
                    if remounted {
                        (operation.is_not_done)(&dir);
                    }
                    full.small.give_back();
                    again(&what);
                }
            }
            full.small.give_back();
            fs::remove_dir_all(&dir).unwrap_or_else(|e| panic!("{what}, removing: {e}"));
            if successes == 3 {
                break;
            }
        }
        assert!(successes > 0, "{} never worked", operation.name);
        if failures > 0 {
            failed_ever.push(operation.name);
        }
    }
    assert!(failed_ever.len() >= 6, "hardly anything met the end: {failed_ever:?}");
    full.m.unmount();
    assert_eq!(entries(&full), before, "something is left in the backing");
    full.m.mount();
    full.check_kept("in the end");
}

/// On a full disk ENOSPC comes from `write`, `fsync` or `close`, since the kernel caches writes, and nothing that was
/// stored before is lost.
fn a_full_tmpfs_loses_nothing(setup: &Setup) {
    everything_meets_the_end(setup, Kind::TmpfsPages);
}

/// On a full disk ENOSPC comes from `write`, `fsync` or `close`, since the kernel caches writes, and nothing that was
/// stored before is lost.
fn a_tmpfs_without_inodes_loses_nothing(setup: &Setup) {
    everything_meets_the_end(setup, Kind::TmpfsInodes);
}

/// On a full disk ENOSPC comes from `write`, `fsync` or `close`, since the kernel caches writes, and nothing that was
/// stored before is lost.
fn a_full_ext4_loses_nothing(setup: &Setup) {
    everything_meets_the_end(setup, Kind::Ext4);
}

/// Files through the mount until one does not fit: the error that said so, and how many did.
fn fill_up(dir: &Path, len: usize) -> (i32, usize) {
    for i in 0..10_000 {
        let path = dir.join(format!("{i}"));
        let made = File::create(&path).and_then(|mut file| {
            file.write_all(&pattern(i as u64, len))?;
            finish(file, i % 2 == 0)
        });
        if let Err(e) = made {
            return (e.raw_os_error().unwrap(), i);
        }
    }
    panic!("there is no end to it");
}

/// Removing needs no space: a full disk can be emptied.
fn a_full_disk_can_be_emptied(setup: &Setup) {
    let mut full = Full::new(setup, Kind::TmpfsPages);
    for round in 0..3 {
        let dir = full.m.path(format!("dir {round}"));
        fs::create_dir(&dir).unwrap();
        let (errno, count) = fill_up(&dir, 100_000);
        assert_eq!(errno, libc::ENOSPC);
        assert!(count > 30, "{count}");
        for i in 0..count {
            assert!(fs::read(dir.join(format!("{i}"))).unwrap() == pattern(i as u64, 100_000), "{i}");
        }
        full.check_kept("on the full disk");
        if round == 1 {
            // With the last pages too: nothing that removing needs may need room.
            full.small.leave(0);
        }
        fs::remove_dir_all(&dir).unwrap();
        full.remount();
        full.check_kept("after it was emptied");
    }
}

/// A full disk can be unmounted, and mounted read-only; to mount it for writing takes a little space.
fn a_full_disk_is_unmounted_and_read(setup: &Setup) {
    // The end of a mount needs room for a few bytes; without it the next mount takes the session for a crashed one.
    let mut full = Full::new(setup, Kind::TmpfsPages);
    full.small.leave(0);
    full.m.unmount();
    let refused = full.m.mount_command("").output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    assert!(full.m.log().contains("No space left"), "{}", full.m.log());
    full.m.mount_with("ro");
    full.check_kept("on a read-only mount of the full disk");
    full.m.unmount();
    full.small.give_back();
    full.m.mount();
    full.check_kept("with room again");
    fs::write(full.m.path("new"), b"new").unwrap();
}

/// Over a quota it is the same with EDQUOT.
fn a_quota_is_told_and_loses_nothing(setup: &Setup) {
    let mut full = Full::new(setup, Kind::Btrfs);
    let root = full.small.root();
    let btrfs = |arguments: &[&str]| {
        let done = tool("btrfs").args(arguments).arg(&root).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
    };
    btrfs(&["quota", "enable"]);
    btrfs(&["qgroup", "limit", "24M"]);
    fs::write(full.m.path("old"), old()).unwrap();
    File::open(full.m.path("old")).unwrap().sync_all().unwrap();
    let dir = full.m.path("dir");
    fs::create_dir(&dir).unwrap();
    let (errno, count) = fill_up(&dir, 300_000);
    assert_eq!(errno, libc::EDQUOT, "after {count}");
    assert!(count > 10, "{count}");
    // Its blocks are copied on writing: over the quota they stay as they are.
    for _ in 0..50 {
        if let Err(e) = overwrite(&full.m.root(), true) {
            assert_eq!(e.raw_os_error(), Some(libc::EDQUOT));
        }
    }
    full.check_kept("over the quota");
    full.m.unmount();
    // One that writes has to enter its session, which is a new file.
    full.m.mount_with("ro");
    full.check_kept("over the quota, after a remount");
    each_block_old_or_new(&full.m.root());
    for i in 0..count {
        assert!(fs::read(dir.join(format!("{i}"))).unwrap() == pattern(i as u64, 300_000), "{i}");
    }
    full.m.unmount();
    btrfs(&["qgroup", "limit", "none"]);
    full.m.mount();
    fs::remove_dir_all(&dir).unwrap();
    overwrite(&full.m.root(), true).unwrap();
    overwritten(&full.m.root());
    full.check_kept("in the end");
}

/// btrfs subvolumes below the backing directory are not entered (EXDEV).
fn subvolumes_are_not_entered(setup: &Setup) {
    let full = Full::new(setup, Kind::Btrfs);
    let subvolume = full.m.backing().join("subvolume");
    let done = tool("btrfs").args(["subvolume", "create"]).arg(&subvolume).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(errno(fs::metadata(full.m.path("subvolume"))), libc::EXDEV);
    full.check_kept("beside a subvolume");
}

/// `fallocate` reserves no space: a later write may still fail with ENOSPC.
fn allocating_reserves_nothing(setup: &Setup) {
    let full = Full::new(setup, Kind::TmpfsPages);
    let file = open_rw(&full.m.path("file"));
    // More than the backing has.
    fallocate(&file, 0, 0, 4 * ROOM).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4 * ROOM);
    full.small.leave(10);
    let written = file.write_all_at(&pattern(1, 1 << 20), 0).and_then(|()| file.sync_all());
    assert_eq!(errno(written), libc::ENOSPC);
    drop(file);
    full.check_kept("after the write");
}

/// An error that `close` has told, the next `fsync` of the file may tell once more.
fn an_error_that_close_told_is_told_once_more(setup: &Setup) {
    let full = Full::new(setup, Kind::TmpfsPages);
    full.small.leave(2);
    let path = full.m.path("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&pattern(1, FIRST)).unwrap();
    assert_eq!(errno(finish(file, false)), libc::ENOSPC);
    full.small.give_back();
    let file = open_rw(&path);
    let told = errno(file.sync_all());
    assert!([0, libc::ENOSPC].contains(&told), "{told}");
    file.sync_all().unwrap();
    file.write_all_at(&pattern(1, FIRST), 0).unwrap();
    file.sync_all().unwrap();
}
