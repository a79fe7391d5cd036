//! Hard conditions: a backing that fails, goes read-only or vanishes, too few descriptors, little memory. The daemon stays,
//! errors are told, what was fsynced is there, and everything works again once the condition is over.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use common::images::{Ext4, no_loop, run, tool};
use common::io::{Random, errno, open_rw, pattern};
use common::mounted::text;
use common::{AES, ALL, Mounted, PLAIN, Setup, Suite, within};

/// For whatever a condition may block.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> std::process::ExitCode {
    let image = || no_loop("mkfs.ext4");
    Suite::default()
        .on(&ALL, bodies![a_backing_that_is_removed_gives_errors, without_descriptors_nothing_is_lost])
        .rooted_on(&[AES], bodies![a_full_log_stops_nobody])
        .where_on(
            image(),
            &[AES, PLAIN],
            bodies![
                a_backing_that_fails_is_told_by_fsync,
                a_backing_that_went_read_only_is_read,
                a_backing_stays_writable_while_it_is_mounted,
                a_backing_that_is_unmounted_lazily_serves_on,
                an_image_that_cannot_grow_is_told_by_fsync,
            ],
        )
        .where_on(image().or_else(no_memory_groups), &[AES], bodies![little_memory_is_enough])
        .run()
}

/// A mount on a backing of its own.
struct Hard {
    m: Mounted,
    disk: Ext4,
    kept: Kept,
}

/// Files that were fsynced.
#[derive(Default, Clone)]
struct Kept(BTreeMap<PathBuf, Vec<u8>>);

impl Kept {
    fn write(&mut self, path: PathBuf, data: Vec<u8>) {
        let file = open_rw(&path);
        file.write_all_at(&data, 0).unwrap();
        file.sync_all().unwrap();
        self.0.insert(path, data);
    }

    /// All of it from the backing, not from the kernel's cache.
    fn check(&self, when: &str) {
        for (path, data) in &self.0 {
            let file = File::open(path).unwrap_or_else(|e| panic!("{path:?} {when}: {e}"));
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let seen = fs::read(path).unwrap_or_else(|e| panic!("{path:?} {when}: {e}"));
            assert!(seen == *data, "{path:?} {when}: {} bytes", seen.len());
        }
    }
}

impl Hard {
    fn on(setup: &Setup, disk: Ext4) -> Self {
        let mut m = Mounted::unmounted(setup, "");
        let backing = disk.root().join("backing");
        run(Command::new("cp").arg("-a").arg(m.backing()).arg(&backing));
        // `cp` does not.
        rustix::fs::syncfs(File::open(disk.root()).unwrap()).unwrap();
        m.set_backing(backing);
        m.mount();
        let mut kept = Kept::default();
        for (i, len) in [1, 4096, 10_000, 300_000].into_iter().enumerate() {
            kept.write(m.path(format!("kept {len}")), pattern(i as u64, len));
        }
        let long = m.path(format!("kept{}", " long".repeat(40)));
        kept.write(long, pattern(7, 5000));
        // Over what was synced.
        let (path, mut data) = (m.path("kept 300000"), pattern(3, 300_000));
        data[50_000..150_000].copy_from_slice(&pattern(8, 100_000));
        kept.write(path, data);
        Self { m, disk, kept }
    }

    /// A load while the condition lasts: gives its error. What it has not synced may be lost.
    fn fails(&self, what: &'static str, load: fn(&Path) -> io::Result<()>) -> i32 {
        let root = self.m.root();
        errno(within(what, PATIENCE, move || load(&root)))
    }

    /// Both file systems once more, as after a repair of the disk.
    fn begin_anew(&mut self) {
        self.m.unmount();
        self.disk.unmount();
        self.disk.fsck();
        self.disk.mount();
        self.m.mount();
        self.kept.check("after the disk was mended");
        self.goes_on();
    }

    fn goes_on(&mut self) {
        let path = self.m.path("later");
        self.kept.write(path, pattern(20, 70_000));
        overwrite(&self.m.root()).unwrap();
        let path = self.m.path("kept 300000");
        self.kept.write(path, pattern(21, 300_000));
        self.kept.check("later");
        self.m.unmount();
        for arguments in [&["--repair"][..], &[]] {
            let done = self.m.command().arg("check").arg(self.m.backing()).args(arguments).output().unwrap();
            let fine = done.status.success() || (!arguments.is_empty() && done.status.code() == Some(10));
            assert!(fine, "check {arguments:?}: {}", text(&done));
        }
        self.m.mount();
        self.kept.check("after a check");
    }
}

/// Over blocks that are durable, in a file that is kept for that.
fn overwrite(root: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(root.join("over"))?;
    for round in 0..3 {
        file.write_all_at(&pattern(40 + round, 100_000), 0)?;
        file.sync_all()?;
    }
    Ok(())
}

fn create(root: &Path) -> io::Result<()> {
    let mut file = File::create(root.join("new"))?;
    file.write_all(&pattern(1, 100_000))?;
    file.sync_all()
}

/// When the backing fails, `fsync` gives EIO, the daemon stays, and what was fsynced before is there once the disk is
/// mended.
fn a_backing_that_fails_is_told_by_fsync(setup: &Setup) {
    let mut hard = Hard::on(setup, Ext4::new(64 << 20));
    overwrite(&hard.m.root()).unwrap();
    // Written, and neither synced nor written back.
    let file = open_rw(&hard.m.path("kept 10000"));
    hard.disk.shut_down();
    assert_eq!(hard.fails("create", create), libc::EIO);
    assert_eq!(hard.fails("overwrite", overwrite), libc::EIO);
    let synced = within("fsync", PATIENCE, move || {
        file.write_all_at(b"lost", 5000)?;
        file.sync_all()
    });
    assert_eq!(errno(synced), libc::EIO);
    assert_eq!(hard.fails("fsync of the directory", |root| File::open(root)?.sync_all()), libc::EIO);
    assert!(hard.m.log().contains("Input/output error"), "{}", hard.m.log());
    hard.begin_anew();
}

/// When the backing goes read-only because of an error, reads go on, writes give EROFS or EIO, and nothing is lost.
fn a_backing_that_went_read_only_is_read(setup: &Setup) {
    let mut hard = Hard::on(setup, Ext4::new(64 << 20));
    hard.disk.abort();
    let told = hard.fails("create", create);
    assert!([libc::EROFS, libc::EIO].contains(&told), "{told}");
    let told = hard.fails("overwrite", overwrite);
    assert!([libc::EROFS, libc::EIO].contains(&told), "{told}");
    hard.kept.check("on a read-only backing");
    hard.begin_anew();
}

/// The backing cannot be remounted read-only while a mount writes to it (EBUSY).
fn a_backing_stays_writable_while_it_is_mounted(setup: &Setup) {
    let mut hard = Hard::on(setup, Ext4::new(64 << 20));
    let remount = |how: &str| tool("mount").args(["-o", how]).arg(hard.disk.root()).output().unwrap();
    assert!(!remount("remount,ro").status.success());
    hard.m.unmount();
    assert!(remount("remount,ro").status.success());
    let refused = hard.m.mount_command("").output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused));
    hard.m.mount_with("ro");
    hard.kept.check("on a read-only mount");
    hard.m.unmount();
    assert!(remount("remount,rw").status.success());
    hard.m.mount();
    hard.goes_on();
}

/// A mount whose backing is unmounted lazily goes on until it is unmounted itself.
fn a_backing_that_is_unmounted_lazily_serves_on(setup: &Setup) {
    let mut hard = Hard::on(setup, Ext4::new(64 << 20));
    hard.disk.unmount_lazily();
    hard.kept.check("out of sight");
    let path = hard.m.path("kept 4096");
    hard.kept.write(path, pattern(30, 50_000));
    hard.m.leave_unchecked();
    hard.m.unmount();
    // The disk is free once the daemon is gone: another may need a moment to notice.
    common::wait_until("the image is free", PATIENCE, || {
        fs::read_to_string("/proc/mounts")
            .unwrap()
            .lines()
            .all(|line| !line.contains(hard.disk.root().to_str().unwrap()))
    });
    hard.disk.mount();
    hard.m.mount();
    hard.kept.check("after it came back");
    hard.goes_on();
}

/// When the image that holds the backing cannot grow, `fsync` tells, and what was fsynced is there.
fn an_image_that_cannot_grow_is_told_by_fsync(setup: &Setup) {
    let mut hard = Hard::on(setup, Ext4::in_tmpfs(128 << 20, 24 << 20));
    overwrite(&hard.m.root()).unwrap();
    let filler = hard.disk.below().join("filler");
    let fill = || {
        let mut file = File::create(&filler).unwrap();
        while file.write_all(&[0xff; 4096]).is_ok() {}
    };
    fill();
    let told = hard.fails("large write", |root| {
        let file = open_rw(&root.join("large"));
        file.write_all_at(&pattern(9, 30 << 20), 0)?;
        file.sync_all()
    });
    assert!([libc::EIO, libc::ENOSPC, libc::EROFS].contains(&told), "{told}");
    hard.kept.check("while the image cannot grow");
    fs::remove_file(&filler).unwrap();
    let _ = fs::remove_file(hard.m.path("large"));
    hard.begin_anew();
}

/// When the backing directory is removed below a mount, names give ENOENT, and the mount can be unmounted.
fn a_backing_that_is_removed_gives_errors(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    let file = open_rw(&m.path("dir/file"));
    file.write_all_at(&pattern(1, 50_000), 0).unwrap();
    file.sync_all().unwrap();
    fs::remove_dir_all(m.backing()).unwrap();
    let root = m.root();
    within("names of a backing that is gone", PATIENCE, move || {
        assert_eq!(errno(File::create(root.join("new"))), libc::ENOENT);
        assert_eq!(errno(fs::create_dir(root.join("new dir"))), libc::ENOENT);
        // What is open is there until it is closed.
        assert!(fs::read_dir(&root).map(Iterator::count).unwrap_or(0) == 0);
        file.write_all_at(&pattern(2, 60_000), 1000).and_then(|()| file.sync_all()).map_or_else(
            |e| assert_eq!(e.raw_os_error(), Some(libc::ENOENT)),
            |()| assert!(common::io::read_all(&file)[1000..] == pattern(2, 60_000)),
        );
    });
    m.leave_unchecked();
    m.unmount();
}

/// When the daemon has no descriptor left, opening gives EMFILE, and nothing that was fsynced is lost.
fn without_descriptors_nothing_is_lost(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let mut kept = Kept::default();
    for i in 0..40 {
        kept.write(m.path(format!("kept {i}")), pattern(i, 20_000));
    }
    let open: Vec<File> = (0..10).map(|i| open_rw(&m.path(format!("kept {i}")))).collect();
    let pid = Pid::from_raw(m.pid() as i32);
    let whole = getrlimit(Resource::Nofile).maximum;
    let used = fs::read_dir(format!("/proc/{}/fd", m.pid())).unwrap().count() as u64;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(used), maximum: whole }).unwrap();
    let root = m.root();
    let mut random = Random(5);
    let mut told = Vec::new();
    for (i, file) in open.iter().enumerate() {
        // The first overwriting wants a redo file.
        let at = random.below(10_000);
        let written = file.write_all_at(&pattern(100 + i as u64, 5000), at).and_then(|()| file.sync_all());
        match &written {
            Ok(()) => {
                let data = kept.0.get_mut(&m.path(format!("kept {i}"))).unwrap();
                data[at as usize..at as usize + 5000].copy_from_slice(&pattern(100 + i as u64, 5000));
            }
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EMFILE), "{e}");
                // Old or new; what it is in the end is written below.
                kept.0.remove(&m.path(format!("kept {i}")));
            }
        }
        told.push(errno(written));
    }
    let refused = within("files beyond the limit", PATIENCE, move || {
        let mut made = Vec::new();
        loop {
            match File::create(root.join(format!("new {}", made.len()))) {
                Ok(file) => made.push(file),
                Err(e) => break e.raw_os_error(),
            }
            assert!(made.len() < 1000);
        }
    });
    assert_eq!(refused, Some(libc::EMFILE));
    prlimit(pid, Resource::Nofile, Rlimit { current: whole, maximum: whole }).unwrap();
    for (i, file) in open.iter().enumerate() {
        file.write_all_at(&pattern(200 + i as u64, 20_000), 0).unwrap();
        // An error that was told already is told once more.
        if file.sync_all().is_err() {
            file.sync_all().unwrap();
        }
        kept.0.insert(m.path(format!("kept {i}")), pattern(200 + i as u64, 20_000));
    }
    drop(open);
    kept.check("with descriptors again");
    m.remount();
    kept.check("after a remount");
}

/// A log that cannot be written stops nobody.
fn a_full_log_stops_nobody(setup: &Setup) {
    let mut m = Mounted::unmounted(setup, "");
    let small = m.scratch().join("small");
    fs::create_dir(&small).unwrap();
    run(tool("mount").args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(&small));
    struct TakeAway(PathBuf);
    impl Drop for TakeAway {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let taken_away = TakeAway(small.clone());
    std::os::unix::fs::symlink(small.join("log"), m.scratch().join("log")).unwrap();
    File::create(small.join("log")).unwrap();
    let mut filler = File::create(small.join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    m.mount();
    let mut kept = Kept::default();
    for i in 0..20 {
        kept.write(m.path(format!("{i}")), pattern(i, 30_000));
    }
    // Damage is logged each time it is met.
    let damaged = m.path("19");
    kept.0.remove(&damaged);
    let stored = open_rw(&m.stored(&damaged));
    m.unmount();
    stored.write_all_at(&[0x55; 4096], 4096).unwrap();
    m.mount();
    for _ in 0..50 {
        assert_eq!(errno(fs::read(&damaged)), libc::EIO);
    }
    kept.check("with a full log");
    assert_eq!(fs::metadata(small.join("log")).unwrap().len(), 0);
    m.unmount();
    drop(taken_away);
}

/// Memory that the daemon is to live in.
const MEMORY: u64 = 64 << 20;

fn groups() -> Option<(PathBuf, &'static str)> {
    let old = PathBuf::from("/sys/fs/cgroup/memory");
    if old.join("memory.limit_in_bytes").exists() {
        return Some((old, "memory.limit_in_bytes"));
    }
    let new = PathBuf::from("/sys/fs/cgroup");
    let has_memory = |of: &str| fs::read_to_string(new.join(of)).is_ok_and(|text| text.contains("memory"));
    has_memory("cgroup.subtree_control").then_some((new, "memory.max"))
}

/// Why no process can be given little memory.
fn no_memory_groups() -> Option<String> {
    let Some((groups, _)) = groups() else { return Some("control groups with memory".into()) };
    let probe = groups.join(format!("kmsfs-probe-{}", std::process::id()));
    let made = fs::create_dir(&probe);
    let _ = fs::remove_dir(&probe);
    made.is_err().then(|| "control groups that can be made".into())
}

/// A group of processes with a limit, removed on drop: whoever is in it has ended by then.
struct Group(PathBuf);

impl Group {
    fn of(pid: u32, limit: u64) -> Self {
        let (groups, file) = groups().expect("it was asked for");
        let new = Self(groups.join(format!("kmsfs-test-{}", std::process::id())));
        fs::create_dir(&new.0).unwrap();
        fs::write(new.0.join(file), limit.to_string()).unwrap();
        fs::write(new.0.join("cgroup.procs"), pid.to_string()).unwrap();
        new
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The daemon lives in 64 MiB of memory, whatever is written, overwritten and listed.
fn little_memory_is_enough(setup: &Setup) {
    const LEN: usize = 96 << 20;
    let mut hard = Hard::on(setup, Ext4::new(512 << 20));
    let group = Group::of(hard.m.pid(), MEMORY);
    let root = hard.m.root();
    within("a large file and a large tree", 2 * PATIENCE, move || {
        let file = open_rw(&root.join("large"));
        let data = pattern(1, LEN);
        file.write_all_at(&data, 0).unwrap();
        file.sync_all().unwrap();
        // Twice as much as may wait in memory.
        file.write_all_at(&data[1..(64 << 20) + 1], 0).unwrap();
        file.sync_all().unwrap();
        for dir in 0..20 {
            let dir = root.join(format!("dir {dir}"));
            fs::create_dir(&dir).unwrap();
            for i in 0..100 {
                fs::write(dir.join(format!("{i}")), b"small").unwrap();
            }
        }
    });
    assert!(!hard.m.log().contains("panicked"));
    let root = hard.m.root();
    within("reading", 2 * PATIENCE, move || {
        let mut count = 0;
        common::mounted::walk(&root, &mut |_| count += 1);
        assert!(count > 20 * 101, "{count}");
        let file = File::open(root.join("large")).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut wanted = pattern(1, LEN);
        let over = wanted[1..(64 << 20) + 1].to_vec();
        wanted[..64 << 20].copy_from_slice(&over);
        assert!(common::io::read_all(&file) == wanted);
    });
    hard.kept.check("in little memory");
    hard.m.unmount();
    drop(group);
    hard.m.mount();
    hard.kept.check("after a remount");
}
