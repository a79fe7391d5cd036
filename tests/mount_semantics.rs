//! Sentences of docs/SEMANTICS.md that no other suite shows: each test's comment is one of them.

mod common;

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use kmsfs::crypto::Suite as Cipher;
use kmsfs::crypto::secret::SecretBytes;
use kmsfs::format::derived::VolumeKeys;
use kmsfs::format::volume::NameMode;
use kmsfs::names::{NameError, Names};
use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, setxattr};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use common::io::{Map, copy_file_range, errno, fallocate, open_rw, pattern, read_all, seek_data, truncate};
use common::nobody::OfNobody;
use common::users::{NOBODY, as_user};
use common::{AES, ALL, Mounted, PLAIN, SM4, SUITES, Setup, Suite};

fn main() -> std::process::ExitCode {
    let encrypted = [AES, SM4];
    Suite::default()
        .on(
            &ALL,
            bodies![
                the_formats_own_entries_are_not_shown,
                blocks_are_right_after_a_close,
                a_copy_made_while_mounted_has_what_was_synced,
                a_length_that_does_not_fit_is_set_right,
            ],
        )
        .on(&encrypted, bodies![names_of_xattrs_end_at_167_bytes, a_value_takes_32_bytes_more])
        .on(
            &SUITES,
            bodies![
                what_is_stored_is_counted,
                a_hole_takes_two_pages_a_gibibyte,
                ranges_cannot_be_moved,
                nothing_is_cloned,
                what_is_mapped_behind_the_end_may_show,
            ],
        )
        .on(
            &[AES],
            bodies![
                plain_names_end_where_the_backings_do,
                the_backings_limit_counts_for_the_stored_file,
                a_copy_is_of_a_gibibyte_at_most,
                extents_are_not_mapped,
                there_are_no_files_without_a_name,
                flags_are_not_offered,
                access_times_are_the_backings,
                a_cached_read_moves_no_access_time,
                open_files_are_limited_by_descriptors,
                what_the_kernel_knows_it_keeps,
            ],
        )
        .on(&[AES.with_options("noatime")], bodies![noatime_is_not_for_the_backing])
        .on(&[PLAIN], bodies![plain_names_leave_xattrs_in_clear])
        .rooted_on(&[AES, PLAIN], bodies![attributes_for_the_kernel_lie_in_clear, symlinks_have_no_xattrs])
        .rooted_on(&[PLAIN], bodies![mounts_below_the_backing_are_not_entered])
        .users_mount_on(
            &[AES],
            bodies![
                an_ordinary_users_objects_stay_its_own,
                an_ordinary_users_daemon_cannot_write_what_it_cannot_read,
                more_inodes_than_descriptors,
            ],
        )
        .run()
}

// Names.

fn listed(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// With plain names the backing's limit on the length of names holds where it is shorter.
fn plain_names_end_where_the_backings_do(_setup: &Setup) {
    let key = SecretBytes::copy_of(&[1; 32]).unwrap();
    let keys = VolumeKeys::derive(Cipher::Aes256Gcm, [2; 16], &key);
    let names = Names { mode: NameMode::Plain, name_max: 143, keys: &keys };
    assert!(names.store(&[0; 16], &[b'n'; 143]).is_ok());
    assert_eq!(names.store(&[0; 16], &[b'n'; 144]), Err(NameError::TooLong));
}

/// The format's own stored entries, whose names begin with `kmsfs.`, are not shown.
fn the_formats_own_entries_are_not_shown(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    fs::write(m.backing().join("kmsfs.other"), b"").unwrap();
    let stored = listed(m.backing()).iter().filter(|name| name.as_bytes().starts_with(b"kmsfs.")).count();
    assert!(stored > 2, "the volume has files of its own");
    assert_eq!(listed(&m.root()), ["file"]);
}

// Files.

/// The backing's limit counts for the stored file, which is about 1.6 % longer, so on ext4 a file ends shortly below 16
/// TiB.
fn the_backings_limit_counts_for_the_stored_file(setup: &Setup) {
    let m = Mounted::new(setup);
    let bare = open_rw(&m.scratch().join("bare"));
    let file = open_rw(&m.path("file"));
    file.write_all_at(b"begin", 0).unwrap();
    file.sync_all().unwrap();
    // ext4 ends at 16 TiB; tmpfs and others have room for both.
    for tebibytes in [1, 17] {
        let len: u64 = tebibytes << 40;
        let wanted = errno(bare.set_len(len + len / 64));
        assert!([0, libc::EFBIG].contains(&wanted), "{wanted}");
        assert_eq!(errno(file.set_len(len)), wanted, "{tebibytes} TiB");
        if wanted == 0 {
            let stored = fs::metadata(m.stored(&m.path("file"))).unwrap().len() as f64 / len as f64;
            assert!((1.014..1.018).contains(&stored), "{stored}");
        }
    }
    file.set_len(5).unwrap();
    assert_eq!(read_all(&file), b"begin");
}

/// `st_blocks`, and so `du`, count what is stored, pages with tags and header included: two pages for a file of one
/// byte.
fn what_is_stored_is_counted(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("one"), b"1").unwrap();
    fs::write(m.path("large"), pattern(1, 10_000_000)).unwrap();
    m.remount();
    rustix::fs::syncfs(File::open(m.backing()).unwrap()).unwrap();
    m.remount();
    for name in ["one", "large"] {
        let stored = fs::metadata(m.stored(&m.path(name))).unwrap().blocks();
        assert_eq!(fs::metadata(m.path(name)).unwrap().blocks(), stored, "{name}");
    }
    assert_eq!(fs::metadata(m.path("one")).unwrap().blocks(), 2 * 4096 / 512);
    let du = Command::new("du").args(["-B1", "--"]).arg(m.path("large")).output().unwrap();
    let du: u64 = String::from_utf8(du.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!((10_100_000..10_400_000).contains(&du), "{du}");
}

/// `st_blocks` is right once a file is closed; while it is open for writing, it may be that from before the last
/// writes.
fn blocks_are_right_after_a_close(setup: &Setup) {
    let m = Mounted::new(setup);
    let path = m.path("file");
    let file = open_rw(&path);
    for i in 0..20 {
        file.write_all_at(&pattern(i, 50_000), i * 50_000).unwrap();
        // Asked for meanwhile, so that the kernel has an older number.
        file.metadata().unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let stored = || fs::metadata(m.stored(&path)).unwrap().blocks();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), stored());
    assert!(stored() >= 1_000_000 / 512);
}

/// A hole takes no space but two pages a GiB.
fn a_hole_takes_two_pages_a_gibibyte(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let file = open_rw(&m.path("file"));
    file.set_len(100 << 30).unwrap();
    drop(file);
    m.remount();
    let file = open_rw(&m.path("file"));
    let pages = file.metadata().unwrap().blocks() / 8;
    assert!(pages <= 2 * 100 + 2, "{pages} pages for nothing");
    assert_eq!(errno(seek_data(&file, 0)), libc::ENXIO);
    let mut seen = [1; 100];
    file.read_exact_at(&mut seen, 50 << 30).unwrap();
    assert_eq!(seen, [0; 100]);
}

/// COLLAPSE_RANGE, INSERT_RANGE and UNSHARE_RANGE give EOPNOTSUPP.
fn ranges_cannot_be_moved(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 40_960)).unwrap();
    let file = open_rw(&m.path("file"));
    for mode in [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE, libc::FALLOC_FL_UNSHARE_RANGE] {
        assert_eq!(errno(fallocate(&file, mode, 4096, 4096)), libc::EOPNOTSUPP, "{mode:x}");
    }
    assert!(read_all(&file) == pattern(1, 40_960));
}

/// One call of `copy_file_range` copies at most 1 GiB.
fn a_copy_is_of_a_gibibyte_at_most(setup: &Setup) {
    let m = Mounted::new(setup);
    let (from, to) = (open_rw(&m.path("from")), open_rw(&m.path("to")));
    from.set_len((1 << 30) + (1 << 20)).unwrap();
    assert_eq!(copy_file_range(&from, 0, &to, 0, (1 << 30) + (1 << 20)).unwrap(), 1 << 30);
    assert_eq!(to.metadata().unwrap().len(), 1 << 30);
}

/// `_IOW(0x94, 9, int)`
const FICLONE: libc::c_ulong = 0x4004_9409;

/// There is no reflink: `FICLONE` gives EOPNOTSUPP.
fn nothing_is_cloned(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("from"), pattern(1, 100_000)).unwrap();
    let (from, to) = (File::open(m.path("from")).unwrap(), open_rw(&m.path("to")));
    // SAFETY: the argument is a descriptor, not a pointer.
    let cloned = unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    assert_eq!((cloned, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EOPNOTSUPP)));
    assert_eq!(to.metadata().unwrap().len(), 0);
}

/// The errno of an ioctl that fills a buffer.
fn ioctl(file: &File, request: libc::c_ulong) -> i32 {
    let mut buffer = [0u64; 64];
    // SAFETY: the requests below fill at most this buffer, which lives through the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, buffer.as_mut_ptr()) };
    if done < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

/// `FS_IOC_FIEMAP` gives EOPNOTSUPP: SEEK_DATA and SEEK_HOLE tell where data is.
fn extents_are_not_mapped(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 100_000)).unwrap();
    // FS_IOC_FIEMAP: _IOWR('f', 11, struct fiemap), without room for extents.
    assert_eq!(ioctl(&File::open(m.path("file")).unwrap(), 0xc020_660b), libc::EOPNOTSUPP);
}

/// `ioctl`s for flags, versions and project ids give ENOTTY.
fn flags_are_not_offered(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    for name in ["file", "dir"] {
        let file = File::open(m.path(name)).unwrap();
        // FS_IOC_GETFLAGS, FS_IOC_GETVERSION, FS_IOC_FSGETXATTR.
        for request in [0x8008_6601, 0x8008_7601, 0x801c_581f] {
            assert_eq!(ioctl(&file, request), libc::ENOTTY, "{name}, {request:x}");
        }
    }
}

/// What a program writes to a shared mapping behind the end of the file, in its last page, may show when the file then
/// grows, where a local file system has zeros.
fn what_is_mapped_behind_the_end_may_show(setup: &Setup) {
    let m = Mounted::new(setup);
    let file = open_rw(&m.path("file"));
    file.write_all_at(b"text", 0).unwrap();
    let mut map = Map::new(&file, 4096, true).unwrap();
    map.write(1000, b"behind");
    file.set_len(8192).unwrap();
    let mut wanted = b"text".to_vec();
    wanted.resize(8192, 0);
    let seen = read_all(&file);
    assert!(seen[..1000] == wanted[..1000] && seen[1006..] == wanted[1006..]);
    assert!(&seen[1000..1006] == b"behind" || seen[1000..1006] == [0; 6], "{:?}", &seen[1000..1006]);
}

/// O_TMPFILE gives EOPNOTSUPP, and programs that use it fall back to a file with a name.
fn there_are_no_files_without_a_name(setup: &Setup) {
    let m = Mounted::new(setup);
    let made = File::options().write(true).custom_flags(libc::O_TMPFILE).open(m.root());
    assert_eq!(errno(made), libc::EOPNOTSUPP);
    let file = tempfile::tempfile_in(m.root()).expect("a file that had a name");
    file.write_all_at(b"text", 0).unwrap();
    assert!(listed(&m.root()).is_empty());
}

// Times.

const OLD: Duration = Duration::from_secs(1_000_000_000);

/// Gives the file an access time that any rule but noatime lets a read move.
fn age(path: &Path) {
    let old = SystemTime::UNIX_EPOCH + OLD;
    let times = fs::FileTimes::new().set_accessed(old).set_modified(old + Duration::from_secs(10));
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

fn was_accessed(path: &Path) -> bool {
    fs::metadata(path).unwrap().accessed().unwrap() > SystemTime::UNIX_EPOCH + OLD
}

/// Whether a read moves the access time of a bare file there.
fn moves_access_times(m: &Mounted) -> bool {
    let path = m.scratch().join("bare");
    fs::write(&path, b"text").unwrap();
    age(&path);
    fs::read(&path).unwrap();
    was_accessed(&path)
}

/// Access times are the backing's: they move by the rules of its mount when the daemon reads.
fn access_times_are_the_backings(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    age(&m.path("file"));
    m.remount();
    assert!(!was_accessed(&m.path("file")));
    assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
    m.remount();
    assert_eq!(was_accessed(&m.path("file")), moves_access_times(&m));
}

/// `-o noatime` on the mount does not keep the backing's access times from moving.
fn noatime_is_not_for_the_backing(setup: &Setup) {
    access_times_are_the_backings(setup);
}

/// A read that is answered from the kernel's cache does not move the access time.
fn a_cached_read_moves_no_access_time(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    let file = File::open(m.path("file")).unwrap();
    assert_eq!(read_all(&file), b"text");
    let stored = m.stored(&m.path("file"));
    age(&stored);
    assert_eq!(read_all(&file), b"text");
    assert!(!was_accessed(&stored));
}

// Owners and permissions.

/// With a daemon that runs as an ordinary user, everything belongs to that user and cannot be given away (EPERM).
fn an_ordinary_users_objects_stay_its_own(_setup: &Setup) {
    let m = OfNobody::new();
    let root = m.root();
    as_user(NOBODY, NOBODY, || {
        fs::write(root.join("file"), b"text").unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        symlink("x", root.join("link")).unwrap();
        for name in ["file", "dir", "link"] {
            let meta = fs::symlink_metadata(root.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{name}");
        }
        assert_eq!(errno(chown(root.join("file"), Some(1), None)), libc::EPERM);
        assert_eq!(errno(chown(root.join("file"), None, Some(1))), libc::EPERM);
    });
}

/// With a daemon that runs as an ordinary user, a file that its owner may write but not read (mode 0200) cannot be
/// opened for writing (EACCES), for to write a part of a block the daemon has to read the rest.
fn an_ordinary_users_daemon_cannot_write_what_it_cannot_read(_setup: &Setup) {
    let m = OfNobody::new();
    let path = m.root().join("file");
    as_user(NOBODY, NOBODY, || {
        fs::write(&path, b"text").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o200)).unwrap();
        assert_eq!(errno(File::options().write(true).open(&path)), libc::EACCES);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"other").unwrap();
    });
}

// Extended attributes.

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path, name, value, XattrFlags::empty())
}

/// The name of an encrypted attribute has at most 167 bytes, prefix included, on a backing with the usual limit of 255
/// (ERANGE beyond it).
fn names_of_xattrs_end_at_167_bytes(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    let name = |len: usize| format!("user.{}", "n".repeat(len - 5));
    set(&m.path("file"), &name(167), b"value").unwrap();
    assert_eq!(set(&m.path("file"), &name(168), b"value"), Err(Errno::RANGE));
    assert_eq!(getxattr(m.path("file"), name(167), &mut [0; 9][..]), Ok(5));
    assert_eq!(getxattr(m.path("file"), name(168), &mut [0; 9][..]), Err(Errno::NODATA));
}

/// Name and length of each xattr of a stored file.
fn stored_xattrs(path: &Path) -> Vec<(String, usize)> {
    let mut list = vec![0; 65_536];
    let n = listxattr(path, &mut list[..]).unwrap();
    let names = list[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let len = getxattr(path, name.as_str(), &mut [0; 65_536][..]).unwrap();
            (name, len)
        })
        .collect()
}

/// An encrypted value takes 32 bytes more of what the backing allows.
fn a_value_takes_32_bytes_more(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    let stored = m.stored(&m.path("file"));
    for len in [0, 1, 100, 1000] {
        set(&m.path("file"), "user.value", &pattern(1, len)).unwrap();
        let lens: Vec<usize> = stored_xattrs(&stored).into_iter().map(|(_, len)| len).collect();
        assert_eq!(lens, [len + 32]);
    }
}

/// `security.*`, `trusted.*` and ACLs lie in clear, for the kernel acts on them.
fn attributes_for_the_kernel_lie_in_clear(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    set(&m.path("file"), "trusted.some", b"value").unwrap();
    // cap_net_raw, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&m.path("file"), "security.capability", &capability).unwrap();
    let acl = Command::new("setfacl").args(["-m", "u:77:r"]).arg(m.path("file")).status().unwrap();
    assert!(acl.success());
    let stored = m.stored(&m.path("file"));
    let mut value = [0; 64];
    for (name, wanted) in [("trusted.some", &b"value"[..]), ("security.capability", &capability)] {
        let n = getxattr(&stored, name, &mut value[..]).unwrap();
        assert_eq!(&value[..n], wanted, "{name}");
    }
    let names = stored_xattrs(&stored);
    assert!(names.iter().any(|(name, _)| name == "system.posix_acl_access"), "{names:?}");
}

/// Symlinks have no attributes: reading one gives ENODATA, setting one EPERM.
fn symlinks_have_no_xattrs(setup: &Setup) {
    let m = Mounted::new(setup);
    symlink("nowhere", m.path("link")).unwrap();
    for name in ["user.some", "trusted.some"] {
        assert_eq!(lsetxattr(m.path("link"), name, b"value", XattrFlags::empty()), Err(Errno::PERM), "{name}");
        assert_eq!(lgetxattr(m.path("link"), name, &mut [0; 9][..]), Err(Errno::NODATA), "{name}");
    }
}

/// With plain names all attributes lie in clear.
fn plain_names_leave_xattrs_in_clear(setup: &Setup) {
    let m = Mounted::new(setup);
    fs::write(m.path("file"), b"").unwrap();
    set(&m.path("file"), "user.some", b"value").unwrap();
    let mut value = [0; 9];
    assert_eq!(getxattr(m.stored(&m.path("file")), "user.some", &mut value[..]), Ok(5));
    assert_eq!(&value[..5], b"value");
}

// Caches, backups, mounts below.

/// **Don't change the backing directory while it is mounted**: the kernel keeps what it knows of names and attributes,
/// so the mount may not notice.
fn what_the_kernel_knows_it_keeps(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    fs::set_permissions(m.path("file"), Permissions::from_mode(0o600)).unwrap();
    let stored = m.stored(&m.path("file"));
    let mode = |m: &Mounted| fs::metadata(m.path("file")).unwrap().mode() & 0o7777;
    assert_eq!(mode(&m), 0o600);
    fs::set_permissions(&stored, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(mode(&m), 0o600);
    m.remount();
    assert_eq!(mode(&m), 0o644);
}

/// A copy of the backing that is made file by file while it is mounted has every file that was synced and not written
/// since; of others, blocks may read as EIO, so unmount or take a snapshot first.
fn a_copy_made_while_mounted_has_what_was_synced(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    for i in 0..20 {
        fs::write(m.path(format!("dir/{i}")), pattern(i, 20_000)).unwrap();
    }
    rustix::fs::syncfs(File::open(m.root()).unwrap()).unwrap();
    // Written meanwhile: of this one nothing is promised.
    let busy = open_rw(&m.path("busy"));
    busy.write_all_at(&pattern(99, 100_000), 0).unwrap();
    let copy = m.scratch().join("copy");
    assert!(Command::new("cp").arg("-a").arg(m.backing()).arg(&copy).status().unwrap().success());
    drop(busy);
    m.unmount();
    m.set_backing(copy);
    m.mount();
    for i in 0..20 {
        assert!(fs::read(m.path(format!("dir/{i}"))).unwrap() == pattern(i, 20_000), "{i}");
    }
}

/// Mounts below the backing directory are not entered (EXDEV).
fn mounts_below_the_backing_are_not_entered(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    fs::write(m.path("file"), b"text").unwrap();
    m.unmount();
    let stored = m.backing().join("dir");
    let mount = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).arg(&stored).status().unwrap().success());
    };
    mount(&["mount", "-t", "tmpfs", "none"]);
    // Whatever fails below, it does not stay mounted.
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        m.mount();
        let seen = (errno(fs::metadata(m.path("dir"))), errno(fs::write(m.path("dir/new"), b"")));
        assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
        m.unmount();
        seen
    }));
    mount(&["umount"]);
    assert_eq!(seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), (libc::EXDEV, libc::EXDEV));
    m.mount();
    fs::write(m.path("dir/new"), b"").unwrap();
}

// After a crash.

/// A file whose stored length does not fit its size shows the right size from its first open on, and where the mount is
/// for writing it is set right then.
fn a_length_that_does_not_fit_is_set_right(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let data = pattern(1, 30_000);
    fs::write(m.path("file"), &data).unwrap();
    let stored = m.stored(&m.path("file"));
    m.unmount();
    let len = fs::metadata(&stored).unwrap().len();
    let longer = || truncate(&stored, len as i64 + 3 * 4096);
    longer();
    // For reading only nothing can be set right, but the first open tells the size.
    m.mount_with("ro");
    assert!(fs::read(m.path("file")).unwrap() == data);
    assert_eq!(fs::metadata(m.path("file")).unwrap().len(), 30_000);
    m.unmount();
    assert_eq!(fs::metadata(&stored).unwrap().len(), len + 3 * 4096);
    m.mount();
    assert!(fs::read(m.path("file")).unwrap() == data);
    assert_eq!(fs::metadata(m.path("file")).unwrap().len(), 30_000);
    assert_eq!(fs::metadata(&stored).unwrap().len(), len);
}

// Many files.

/// The kernel may know more inodes than the daemon may have descriptors.
fn more_inodes_than_descriptors(_setup: &Setup) {
    const FILES: usize = 3000;
    let m = OfNobody::with_descriptors(Some(1000));
    let root = m.root();
    as_user(NOBODY, NOBODY, || {
        for i in 0..FILES {
            fs::write(root.join(format!("{i}")), format!("{i}")).unwrap();
        }
        // The kernel knows them all; each can still be used, moved and removed.
        for i in 0..FILES {
            assert_eq!(fs::read_to_string(root.join(format!("{i}"))).unwrap(), format!("{i}"));
        }
        for i in (0..FILES).step_by(7) {
            fs::rename(root.join(format!("{i}")), root.join(format!("moved {i}"))).unwrap();
        }
        for i in (0..FILES).step_by(7) {
            assert_eq!(fs::read_to_string(root.join(format!("moved {i}"))).unwrap(), format!("{i}"));
        }
    });
}

/// Files open at the same time are limited by the daemon's limit on descriptors (`ulimit -Hn`), to somewhat less than
/// half of it: EMFILE beyond it.
fn open_files_are_limited_by_descriptors(setup: &Setup) {
    const LIMIT: u64 = 400;
    let m = Mounted::new(setup);
    let pid = Pid::from_raw(m.pid() as i32);
    let whole = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: whole }).unwrap();
    let mut open = Vec::new();
    let refused = loop {
        match File::create(m.path(format!("{}", open.len()))) {
            Ok(file) => open.push(file),
            Err(e) => break e.raw_os_error(),
        }
        assert!(open.len() < LIMIT as usize);
    };
    assert_eq!(refused, Some(libc::EMFILE));
    assert!(open.len() as u64 > LIMIT / 4, "{}", open.len());
    open[0].write_all_at(b"goes on", 0).unwrap();
    open[0].sync_all().unwrap();
    open.clear();
    prlimit(pid, Resource::Nofile, Rlimit { current: whole, maximum: whole }).unwrap();
    fs::write(m.path("later"), b"text").unwrap();
}
