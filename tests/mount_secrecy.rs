//! What somebody sees who has only the backing directory, and what its copy is worth.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::io::pattern;
use common::mounted::{text, walk};
use common::{AES, ALL, DEV, Mounted, SM4, Setup, Suite};

const MARK: &[u8] = b"MARKERMARKERMARKER";

fn main() -> std::process::ExitCode {
    Suite::default()
        .on(&[AES, SM4], bodies![names_and_bytes_are_hidden, equal_things_look_unequal])
        .on(&ALL, bodies![bytes_are_hidden_also_with_plain_names, a_copy_of_the_backing_mounts])
        .on(&[DEV], bodies![the_development_kms_keeps_its_keys, the_state_of_the_development_kms_is_private])
        .run()
}

/// Whether `mark` lies in a stored file, a stored name or a link's target, with the place.
fn found_in(backing: &Path, mark: &[u8]) -> Option<String> {
    let holds = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark);
    let mut found = None;
    walk(backing, &mut |path| {
        if holds(path.as_os_str().as_bytes()) {
            found = Some(format!("the name {}", path.display()));
        }
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if kind.is_symlink() && holds(fs::read_link(path).unwrap().as_os_str().as_bytes()) {
            found = Some(format!("the target of {}", path.display()));
        }
        if kind.is_file() && holds(&fs::read(path).unwrap()) {
            found = Some(format!("the bytes of {}", path.display()));
        }
    });
    found
}

fn name(suffix: &str) -> String {
    format!("{}{suffix}", std::str::from_utf8(MARK).unwrap())
}

fn names_and_bytes_are_hidden(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::create_dir(m.path(name(" dir"))).unwrap();
    fs::write(m.path(name(" dir")).join(name("")), MARK.repeat(5000)).unwrap();
    fs::write(m.path(name(&" long".repeat(40))), MARK).unwrap();
    symlink(name(" target"), m.path("link")).unwrap();
    fs::rename(m.path("link"), m.path(name(" link"))).unwrap();
    // Appended, overwritten and cut ones too.
    fs::write(m.path("changed"), MARK.repeat(20_000)).unwrap();
    common::io::truncate(&m.path("changed"), 70_001);
    m.unmount();
    assert_eq!(found_in(m.backing(), MARK), None);
    // Nor the parts of a name that an encoding would leave readable.
    assert_eq!(found_in(m.backing(), b"MARKER"), None);
    assert!(!m.log().contains("MARKER"), "the log names no file");
}

fn bytes_are_hidden_also_with_plain_names(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), MARK.repeat(10_000)).unwrap();
    m.unmount();
    assert_eq!(found_in(m.backing(), MARK), None);
}

fn equal_things_look_unequal(setup: &Setup) {
    let mut m = Mounted::new(setup);
    for dir in ["a", "b"] {
        fs::create_dir(m.path(dir)).unwrap();
        fs::write(m.path(dir).join("same name"), vec![7; 100_000]).unwrap();
    }
    let (a, b) = (m.stored(&m.path("a/same name")), m.stored(&m.path("b/same name")));
    m.unmount();
    assert_ne!(a.file_name(), b.file_name());
    let blocks = |path: &Path| -> Vec<Vec<u8>> {
        fs::read(path).unwrap().chunks(4096).filter(|c| c.iter().any(|&b| b != 0)).map(<[u8]>::to_vec).collect()
    };
    let mut all = [blocks(&a), blocks(&b)].concat();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "two stored pages are equal");
}

fn a_copy_of_the_backing_mounts(setup: &Setup) {
    let mut m = Mounted::new(setup);
    let long = "a long name ".repeat(20);
    fs::create_dir_all(m.path("dir/sub")).unwrap();
    fs::write(m.path("dir/sub/file"), pattern(1, 300_000)).unwrap();
    fs::write(m.path("dir").join(&long), b"long").unwrap();
    fs::hard_link(m.path("dir/sub/file"), m.path("second")).unwrap();
    symlink("dir/sub", m.path("link")).unwrap();
    let sparse = common::io::open_rw(&m.path("sparse"));
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 50 << 20).unwrap();
    drop(sparse);
    m.unmount();
    let copy = m.scratch().join("copy");
    let done = Command::new("cp").arg("-a").arg(m.backing()).arg(&copy).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    fs::rename(m.backing(), m.scratch().join("gone")).unwrap();
    m.set_backing(copy);
    m.mount();
    assert!(fs::read(m.path("link/file")).unwrap() == pattern(1, 300_000));
    assert!(fs::read(m.path("second")).unwrap() == pattern(1, 300_000));
    assert_eq!(fs::read(m.path("dir").join(&long)).unwrap(), b"long");
    assert_eq!(&fs::read(m.path("sparse")).unwrap()[50 << 20..], b"end");
    fs::write(m.path("dir/new"), b"new").unwrap();
}

fn the_development_kms_keeps_its_keys(setup: &Setup) {
    let mut m = Mounted::new(setup);
    fs::write(m.path("file"), pattern(1, 50_000)).unwrap();
    m.remount();
    assert!(fs::read(m.path("file")).unwrap() == pattern(1, 50_000));
    m.kill9();
    m.mount();
    assert!(fs::read(m.path("file")).unwrap() == pattern(1, 50_000));
    let warnings = m.log().matches("embedded development KMS").count();
    assert_eq!(warnings, 3, "said once a mount");
}

fn the_state_of_the_development_kms_is_private(setup: &Setup) {
    use std::os::unix::fs::MetadataExt;
    let m = Mounted::new(setup);
    let state = m.scratch().join("state/kmsfs/dev-kms");
    walk(&state, &mut |path| {
        let meta = fs::metadata(path).unwrap();
        assert_eq!(meta.mode() & 0o077, 0, "{}", path.display());
    });
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o077, 0);
}
