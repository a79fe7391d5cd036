//! Extended attributes and ACLs on a real mount, and what of them lies in the backing.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, llistxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;

use common::io::pattern;
use common::mounted::text;
use common::users::{NOBODY, as_user};
use common::{AES, ALL, Mounted, PLAIN, SM4, Setup, Suite};

fn main() -> std::process::ExitCode {
    let others = [AES.with_options("allow_other"), PLAIN.with_options("allow_other")];
    Suite::default()
        .on(&ALL, bodies![attributes_are_kept, attributes_are_listed, flags_are_obeyed, errors_are_the_usual_ones])
        .on(&[AES, SM4], bodies![the_backing_shows_neither_name_nor_value])
        .rooted_on(&others, bodies![acls_are_kept_and_enforced, default_acls_are_inherited])
        .run()
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65_536];
    let n = getxattr(path, name, &mut value)?;
    value.truncate(n);
    Ok(value)
}

fn list(path: &Path) -> Vec<String> {
    let mut buf = vec![0; 65_536];
    let n = listxattr(path, &mut buf).unwrap();
    let mut names: Vec<String> =
        buf[..n].split(|&b| b == 0).filter(|n| !n.is_empty()).map(|n| String::from_utf8(n.to_vec()).unwrap()).collect();
    names.sort();
    names
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path, name, value, XattrFlags::empty())
}

fn attributes_are_kept(setup: &Setup) {
    let mut m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    fs::create_dir(m.path("dir")).unwrap();
    let values = [Vec::new(), b"v".to_vec(), vec![0; 100], pattern(1, 255), pattern(2, 1500)];
    for name in ["file", "dir"] {
        for (i, value) in values.iter().enumerate() {
            set(&m.path(name), "user.value", value).unwrap();
            assert_eq!(&get(&m.path(name), "user.value").unwrap(), value, "{name} {i}");
            if i % 2 == 0 {
                m.remount();
                assert_eq!(&get(&m.path(name), "user.value").unwrap(), value, "{name} {i} after a remount");
            }
        }
    }
    // They move and go with their file.
    fs::hard_link(m.path("file"), m.path("other")).unwrap();
    fs::rename(m.path("file"), m.path("moved")).unwrap();
    assert_eq!(get(&m.path("moved"), "user.value").unwrap(), values[4]);
    assert_eq!(get(&m.path("other"), "user.value").unwrap(), values[4]);
    File::create(m.path("file")).unwrap();
    assert_eq!(get(&m.path("file"), "user.value"), Err(Errno::NODATA));
}

fn attributes_are_listed(setup: &Setup) {
    let mut m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    assert!(list(&m.path("file")).is_empty());
    let mut wanted: Vec<String> = (0..20).map(|i| format!("user.attribute {i}")).collect();
    wanted.push("user.名前".into());
    wanted.push("user.kmsfs.own".into());
    for name in &wanted {
        set(&m.path("file"), name, name.as_bytes()).unwrap();
    }
    wanted.sort();
    m.remount();
    assert_eq!(list(&m.path("file")), wanted);
    for name in &wanted {
        assert_eq!(get(&m.path("file"), name).unwrap(), name.as_bytes());
    }
    for name in &wanted[5..] {
        removexattr(m.path("file"), name.as_str()).unwrap();
    }
    assert_eq!(list(&m.path("file")), wanted[..5]);
}

/// What `getxattr` says without a buffer.
fn size_of_value(path: &Path, name: &std::ffi::CStr) -> isize {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: two C strings that live through the call, and no buffer.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) }
}

fn flags_are_obeyed(setup: &Setup) {
    let m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    let set = |flags, value: &[u8]| setxattr(m.path("file"), "user.a", value, flags);
    assert_eq!(set(XattrFlags::REPLACE, b"1"), Err(Errno::NODATA));
    set(XattrFlags::CREATE, b"2").unwrap();
    assert_eq!(set(XattrFlags::CREATE, b"3"), Err(Errno::EXIST));
    set(XattrFlags::REPLACE, b"4").unwrap();
    assert_eq!(get(&m.path("file"), "user.a").unwrap(), b"4");
}

fn errors_are_the_usual_ones(setup: &Setup) {
    let m = Mounted::new(setup);
    File::create(m.path("file")).unwrap();
    set(&m.path("file"), "user.a", b"12345").unwrap();
    assert_eq!(get(&m.path("file"), "user.b"), Err(Errno::NODATA));
    assert_eq!(removexattr(m.path("file"), "user.b"), Err(Errno::NODATA));
    assert_eq!(getxattr(m.path("file"), "user.a", &mut [0; 3]), Err(Errno::RANGE));
    assert_eq!(listxattr(m.path("file"), &mut [0; 3]), Err(Errno::RANGE));
    // No buffer asks for the size.
    assert_eq!(size_of_value(&m.path("file"), c"user.a"), 5);
    assert_eq!(set(&m.path("none"), "user.a", b""), Err(Errno::NOENT));
    std::os::unix::fs::symlink("file", m.path("link")).unwrap();
    assert_eq!(get(&m.path("link"), "user.a").unwrap(), b"12345", "a link is followed");
    assert!(lsetxattr(m.path("link"), "user.a", b"", XattrFlags::empty()).is_err());
    assert!(lgetxattr(m.path("link"), "user.a", &mut [0; 9]).is_err());
    assert_eq!(llistxattr(m.path("link"), &mut [0; 9]), Ok(0));
}

/// Names and values of `user.*` are encrypted.
fn the_backing_shows_neither_name_nor_value(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"content").unwrap();
    set(&m.path("file"), "user.PLAINNAME", b"PLAINVALUE PLAINVALUE").unwrap();
    let stored = m.stored(&m.path("file"));
    m.unmount();
    let mut found = 0;
    for name in list(&stored) {
        assert!(!name.contains("PLAINNAME"), "{name}");
        let value = get(&stored, &name).unwrap();
        assert!(!value.windows(10).any(|w| w == b"PLAINVALUE"));
        found += 1;
        // One that was changed does not verify; what other files have is not touched by it.
        let mut wrong = value.clone();
        *wrong.last_mut().unwrap() ^= 1;
        set(&stored, &name, &wrong).unwrap();
    }
    assert_eq!(found, 1);
    m.mount();
    assert_eq!(get(&m.path("file"), "user.PLAINNAME"), Err(Errno::IO));
    assert_eq!(fs::read(m.path("file")).unwrap(), b"content");
}

fn run(program: &str, arguments: &[&str], path: &Path) -> String {
    let done = Command::new(program).args(arguments).arg(path).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(done.status.success(), "{program}: {}", text(&done));
    String::from_utf8(done.stdout).unwrap()
}

/// The kernel checks permissions by the stored mode, owner and ACL.
fn acls_are_kept_and_enforced(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), b"text").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(m.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(m.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
    run("setfacl", &["-m", "u:65534:r"], &m.path("file"));
    m.remount();
    let acl = run("getfacl", &["-np"], &m.path("file"));
    assert!(acl.contains("user:65534:r--"), "{acl}");
    as_user(NOBODY, NOBODY, || {
        assert_eq!(fs::read(m.path("file")).unwrap(), b"text");
        assert!(fs::write(m.path("file"), b"").is_err());
    });
    // A chmod changes the mask.
    fs::set_permissions(m.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
    as_user(NOBODY, NOBODY, || assert!(fs::read(m.path("file")).is_err()));
    run("setfacl", &["-b"], &m.path("file"));
    assert!(!run("getfacl", &["-np"], &m.path("file")).contains("65534"));
}

/// Where a directory has a default ACL, that counts and not the umask.
fn default_acls_are_inherited(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path("dir")).unwrap();
    run("setfacl", &["-d", "-m", "u:65534:rwx,g::rx,o::-"], &m.path("dir"));
    m.remount();
    common::users::with_umask(0o077, || {
        fs::write(m.path("dir/file"), b"").unwrap();
        fs::create_dir(m.path("dir/sub")).unwrap();
    });
    for (name, wanted) in [("dir/file", "user:65534:rwx"), ("dir/sub", "default:user:65534:rwx")] {
        let acl = run("getfacl", &["-np"], &m.path(name));
        assert!(acl.contains(wanted), "{name}: {acl}");
        assert!(acl.contains("other::---"), "{name}: {acl}");
    }
}
