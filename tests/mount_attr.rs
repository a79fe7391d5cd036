//! Attributes on a real mount: modes, owners, times, and what a mount option changes.

mod common;

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use common::io::{errno, open_rw, pattern};
use common::users::{NOBODY, as_member, as_user, with_umask};
use common::{AES, ALL, Mounted, PLAIN, Setup, Suite};

fn main() -> std::process::ExitCode {
    let others = [AES.with_options("allow_other"), PLAIN.with_options("allow_other")];
    Suite::default()
        .on(&ALL, bodies![modes_are_kept, the_umask_counts, times_are_kept_to_the_nanosecond, times_before_1970])
        .on(&[AES], bodies![a_read_only_mount_changes_nothing, a_second_reader_may_mount, statfs_tells_of_the_backing])
        .rooted_on(
            &others,
            bodies![
                owners_are_kept,
                files_belong_to_whoever_makes_them,
                modes_are_enforced,
                only_owners_change_attributes,
                suid_goes_with_a_write_by_another,
                groups_are_inherited,
                sticky_directories_protect,
            ],
        )
        .rooted_on(&[AES], bodies![others_are_kept_out_by_default])
        .rooted_on(&[AES.with_options("noexec,nosuid,nodev,noatime")], bodies![mount_flags_are_the_kernels])
        .run()
}

fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// A directory in which everybody may work.
fn open_to_all(m: &Mounted) {
    fs::set_permissions(m.root(), Permissions::from_mode(0o777)).unwrap();
}

fn modes_are_kept(setup: &Setup) {
    let mut m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    for bits in [0o644, 0o600, 0o000, 0o777, 0o4755, 0o2755, 0o1777, 0o7777] {
        for name in ["file", "dir"] {
            fs::set_permissions(m.path(name), Permissions::from_mode(bits)).unwrap();
            assert_eq!(mode(m.path(name)), bits, "{name}");
        }
        m.remount();
        assert_eq!((mode(m.path("file")), mode(m.path("dir"))), (bits, bits));
    }
    // The mount point has the mode of the backing directory.
    fs::set_permissions(m.root(), Permissions::from_mode(0o751)).unwrap();
    assert_eq!(mode(m.root()), 0o751);
    m.remount();
    assert_eq!(mode(m.root()), 0o751);
}

/// The caller's umask counts for what it makes.
fn the_umask_counts(setup: &Setup) {
    let m = Mounted::new(setup);
    for umask in [0o000, 0o022, 0o077, 0o027] {
        with_umask(umask, || {
            File::create(m.path(format!("file{umask}"))).unwrap();
            fs::create_dir(m.path(format!("dir{umask}"))).unwrap();
        });
        assert_eq!(mode(m.path(format!("file{umask}"))), 0o666 & !umask);
        assert_eq!(mode(m.path(format!("dir{umask}"))), 0o777 & !umask);
    }
}

/// Times have nanoseconds.
fn times_are_kept_to_the_nanosecond(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let (a, b) = (UNIX_EPOCH + Duration::new(1_234_567_890, 1), UNIX_EPOCH + Duration::new(4_102_444_800, 999_999_999));
    let file = open_rw(&m.path("file"));
    file.write_all_at(b"text", 0).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(a).set_modified(b)).unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    File::open(m.path("dir")).unwrap().set_times(fs::FileTimes::new().set_accessed(b).set_modified(a)).unwrap();
    symlink("target", m.path("link")).unwrap();
    let times = Timestamps {
        last_access: Timespec { tv_sec: 77, tv_nsec: 7 },
        last_modification: Timespec { tv_sec: 88, tv_nsec: 8 },
    };
    utimensat(CWD, m.path("link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    drop(file);
    for _ in 0..2 {
        let (file, dir) = (fs::metadata(m.path("file")).unwrap(), fs::metadata(m.path("dir")).unwrap());
        assert_eq!((file.accessed().unwrap(), file.modified().unwrap()), (a, b));
        assert_eq!((dir.accessed().unwrap(), dir.modified().unwrap()), (b, a));
        let link = fs::symlink_metadata(m.path("link")).unwrap();
        assert_eq!((link.mtime(), link.mtime_nsec()), (88, 8));
        m.remount();
    }
    // One is left alone, the other becomes now.
    let some = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    let before = SystemTime::now() - Duration::from_secs(1);
    utimensat(CWD, m.path("file"), &some, AtFlags::empty()).unwrap();
    let meta = fs::metadata(m.path("file")).unwrap();
    assert_eq!(meta.accessed().unwrap(), a);
    assert!(meta.modified().unwrap() >= before);
}

fn times_before_1970(setup: &Setup) {
    let mut m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    for (secs, nanos) in [(-1, 0), (-1, 999_999_999), (-86_400 * 365, 1), (-2_000_000_000, 500)] {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, m.path("file"), &times, AtFlags::empty()).unwrap();
        for _ in 0..2 {
            let meta = fs::metadata(m.path("file")).unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (secs, nanos));
            assert_eq!((meta.atime(), meta.atime_nsec()), (secs, nanos));
            m.remount();
        }
    }
}

fn a_read_only_mount_changes_nothing(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("dir/file"), pattern(1, 100_000)).unwrap();
    m.unmount();
    let state = |m: &Mounted| {
        let mut out = Vec::new();
        common::mounted::walk(m.backing(), &mut |path| {
            let meta = fs::symlink_metadata(path).unwrap();
            out.push((path.to_owned(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.mode()));
        });
        out.sort();
        out
    };
    let before = state(&m);
    m.mount_with("ro");
    assert!(fs::read(m.path("dir/file")).unwrap() == pattern(1, 100_000));
    let refused = [
        errno(fs::write(m.path("new"), b"")),
        errno(File::options().write(true).open(m.path("dir/file"))),
        errno(fs::create_dir(m.path("d"))),
        errno(fs::remove_file(m.path("dir/file"))),
        errno(fs::rename(m.path("dir/file"), m.path("moved"))),
        errno(fs::set_permissions(m.path("dir"), Permissions::from_mode(0o700))),
        errno(symlink("x", m.path("link"))),
        errno(fs::hard_link(m.path("dir/file"), m.path("link"))),
        errno(File::open(m.path("dir/file")).unwrap().set_modified(UNIX_EPOCH)),
    ];
    assert_eq!(refused, [libc::EROFS; 9]);
    m.unmount();
    assert_eq!(state(&m), before);
    m.mount();
    fs::write(m.path("dir/file"), b"again").unwrap();
}

fn a_second_reader_may_mount(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    m.unmount();
    m.mount_with("ro");
    // A writer is refused beside it, another reader is not.
    let other = m.scratch().join("other");
    fs::create_dir(&other).unwrap();
    let mount = |options: &str| {
        let mut command = m.command();
        command.arg("mount").arg(m.backing()).arg(&other).arg("--log").arg(m.scratch().join("log2"));
        command.args(["-o", options]).output().unwrap()
    };
    assert_eq!(mount("rw").status.code(), Some(7));
    let second = mount("ro");
    assert!(second.status.success(), "{}", common::mounted::text(&second));
    assert_eq!(fs::read(other.join("file")).unwrap(), b"text");
    let done = m.command().arg("umount").arg(&other).output().unwrap();
    // `umount` waits until the volume is free of writers; the other reader does not keep it.
    assert!(done.status.success(), "{}", common::mounted::text(&done));
}

/// `df` shows the backing's space.
fn statfs_tells_of_the_backing(setup: &Setup) {
    let m = Mounted::new(setup);
    let (here, there) = (rustix::fs::statvfs(m.root()).unwrap(), rustix::fs::statvfs(m.backing()).unwrap());
    assert_eq!((here.f_blocks, here.f_frsize, here.f_files), (there.f_blocks, there.f_frsize, there.f_files));
    assert_eq!(here.f_namemax, 255);
}

fn owners_are_kept(setup: &Setup) {
    let mut m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    symlink("nowhere", m.path("link")).unwrap();
    chown(m.path("file"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::lchown(m.path("link"), Some(7), Some(8)).unwrap();
    m.remount();
    let owner = |name: &str| {
        let meta = fs::symlink_metadata(m.path(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!((owner("file"), owner("link")), ((1234, 5678), (7, 8)));
    chown(m.path("file"), None, Some(9)).unwrap();
    assert_eq!(owner("file"), (1234, 9));
    // Taken from root too, an owner's change takes set-user-id off.
    fs::set_permissions(m.path("file"), Permissions::from_mode(0o6755)).unwrap();
    chown(m.path("file"), Some(1), None).unwrap();
    assert_eq!(mode(m.path("file")) & 0o6000, 0);
}

/// With a daemon that runs as root, new objects belong to the caller.
fn files_belong_to_whoever_makes_them(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    as_user(NOBODY, 4242, || {
        fs::write(m.path("file"), b"theirs").unwrap();
        fs::create_dir(m.path("dir")).unwrap();
        symlink("x", m.path("link")).unwrap();
        fs::write(m.path("dir/inside"), b"theirs").unwrap();
    });
    for name in ["file", "dir", "link", "dir/inside"] {
        let meta = fs::symlink_metadata(m.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, 4242), "{name}");
    }
}

/// The kernel checks permissions by the stored mode, owner and ACL.
fn modes_are_enforced(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    fs::write(m.path("secret"), b"secret").unwrap();
    fs::set_permissions(m.path("secret"), Permissions::from_mode(0o640)).unwrap();
    chown(m.path("secret"), Some(0), Some(777)).unwrap();
    fs::create_dir(m.path("closed")).unwrap();
    fs::set_permissions(m.path("closed"), Permissions::from_mode(0o700)).unwrap();
    fs::write(m.path("closed/file"), b"").unwrap();
    as_user(NOBODY, NOBODY, || {
        assert_eq!(errno(fs::read(m.path("secret"))), libc::EACCES);
        assert_eq!(errno(fs::metadata(m.path("closed/file"))), libc::EACCES);
        assert_eq!(errno(fs::read_dir(m.path("closed"))), libc::EACCES);
        assert_eq!(errno(fs::write(m.path("closed/new"), b"")), libc::EACCES);
    });
    as_member(NOBODY, NOBODY, &[777], || {
        assert_eq!(fs::read(m.path("secret")).unwrap(), b"secret");
        assert_eq!(errno(fs::write(m.path("secret"), b"")), libc::EACCES);
    });
    // Made with a mode that forbids what the descriptor may.
    as_user(NOBODY, NOBODY, || {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = File::options().write(true).create_new(true).mode(0o400).open(m.path("own")).unwrap();
        file.write_all(b"by the descriptor").unwrap();
        drop(file);
        assert_eq!(fs::read(m.path("own")).unwrap(), b"by the descriptor");
        assert_eq!(errno(File::options().write(true).open(m.path("own"))), libc::EACCES);
    });
}

fn only_owners_change_attributes(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    fs::write(m.path("file"), b"").unwrap();
    fs::set_permissions(m.path("file"), Permissions::from_mode(0o666)).unwrap();
    as_user(NOBODY, NOBODY, || {
        assert_eq!(errno(fs::set_permissions(m.path("file"), Permissions::from_mode(0o777))), libc::EPERM);
        assert_eq!(errno(chown(m.path("file"), Some(NOBODY), None)), libc::EPERM);
        let file = File::options().write(true).open(m.path("file")).unwrap();
        assert_eq!(errno(file.set_modified(UNIX_EPOCH)), libc::EPERM);
        fs::write(m.path("own"), b"").unwrap();
        fs::set_permissions(m.path("own"), Permissions::from_mode(0o640)).unwrap();
        assert_eq!(errno(chown(m.path("own"), Some(0), None)), libc::EPERM);
    });
    as_member(NOBODY, NOBODY, &[777], || chown(m.path("own"), None, Some(777)).unwrap());
    assert_eq!(fs::metadata(m.path("own")).unwrap().gid(), 777);
}

fn suid_goes_with_a_write_by_another(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    let fresh = || {
        fs::write(m.path("tool"), b"#!/bin/true").unwrap();
        fs::set_permissions(m.path("tool"), Permissions::from_mode(0o6777)).unwrap();
    };
    fresh();
    as_user(NOBODY, NOBODY, || {
        let file = File::options().write(true).open(m.path("tool")).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
    });
    assert_eq!(mode(m.path("tool")), 0o777, "write");
    fresh();
    as_user(NOBODY, NOBODY, || File::options().write(true).open(m.path("tool")).unwrap().set_len(3).unwrap());
    assert_eq!(mode(m.path("tool")), 0o777, "truncate");
    fresh();
    as_user(NOBODY, NOBODY, || drop(File::options().write(true).truncate(true).open(m.path("tool")).unwrap()));
    assert_eq!(mode(m.path("tool")), 0o777, "O_TRUNC");
    // Root's own write leaves the bits.
    fresh();
    open_rw(&m.path("tool")).write_all_at(b"x", 0).unwrap();
    assert_eq!(mode(m.path("tool")), 0o6777);
}

/// In a directory with set-group-id new objects have the directory's group.
fn groups_are_inherited(setup: &Setup) {
    let mut m = Mounted::new(setup);
    open_to_all(&m);
    fs::create_dir(m.path("shared")).unwrap();
    chown(m.path("shared"), None, Some(777)).unwrap();
    fs::set_permissions(m.path("shared"), Permissions::from_mode(0o2777)).unwrap();
    as_user(NOBODY, NOBODY, || {
        fs::write(m.path("shared/file"), b"").unwrap();
        fs::create_dir(m.path("shared/dir")).unwrap();
    });
    fs::create_dir(m.path("shared/by root")).unwrap();
    m.remount();
    for name in ["shared/file", "shared/dir", "shared/by root"] {
        assert_eq!(fs::metadata(m.path(name)).unwrap().gid(), 777, "{name}");
    }
    assert_eq!(mode(m.path("shared/dir")) & 0o2000, 0o2000);
    assert_eq!(mode(m.path("shared/by root")) & 0o2000, 0o2000);
}

fn sticky_directories_protect(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    fs::create_dir(m.path("tmp")).unwrap();
    fs::set_permissions(m.path("tmp"), Permissions::from_mode(0o1777)).unwrap();
    as_user(1001, 1001, || fs::write(m.path("tmp/theirs"), b"").unwrap());
    as_user(1002, 1002, || {
        assert_eq!(errno(fs::remove_file(m.path("tmp/theirs"))), libc::EPERM);
        fs::write(m.path("tmp/mine"), b"").unwrap();
        assert_eq!(errno(fs::rename(m.path("tmp/mine"), m.path("tmp/theirs"))), libc::EPERM);
        fs::remove_file(m.path("tmp/mine")).unwrap();
    });
}

fn others_are_kept_out_by_default(setup: &Setup) {
    let m = Mounted::new(setup);
    open_to_all(&m);
    fs::write(m.path("file"), b"").unwrap();
    as_user(NOBODY, NOBODY, || {
        assert_eq!(errno(fs::read(m.path("file"))), libc::EACCES);
        assert_eq!(errno(fs::read_dir(m.root())), libc::EACCES);
    });
}

fn mount_flags_are_the_kernels(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::copy("/bin/true", m.path("true")).unwrap();
    let run = std::process::Command::new(m.path("true")).status();
    assert_eq!(errno(run), libc::EACCES);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(m.root().to_str().unwrap())).unwrap();
    for flag in ["noexec", "nosuid", "nodev", "noatime", "fuse.kmsfs"] {
        assert!(line.contains(flag), "{flag} in {line}");
    }
}
