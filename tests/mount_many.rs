//! A directory of very many entries. `ENTRIES` says how many, 100 000 by default.

mod common;

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kmsfs::cli::KmsArgs;
use kmsfs::command::kms_setup::KmsSetup;
use kmsfs::command::volume;
use kmsfs::format::DIR_MARKER;
use kmsfs::format::volume::NameMode;
use kmsfs::names::{DirId, Names, StoredName};
use rustix::fs::{FileType, Mode};

use common::{ALL, Mounted, Setup, Suite};

/// What the daemon may need more for a listing, whatever its length.
const MEMORY_MAX: u64 = 64 << 20;

fn main() -> std::process::ExitCode {
    Suite::default().on(&ALL, bodies![a_huge_directory_is_listed_in_little_memory]).run()
}

fn entries() -> usize {
    std::env::var("ENTRIES").map_or(100_000, |text| text.parse().expect("ENTRIES is a number"))
}

/// Every tenth name is a long one.
fn name(i: usize) -> String {
    if i.is_multiple_of(10) { format!("entry {i}{}", " long".repeat(40)) } else { format!("entry {i}") }
}

/// Makes empty files as the daemon stores them, which takes a fraction of the time that they take through the mount.
fn store_entries(m: &Mounted, stored_dir: &Path, count: usize) {
    let config = m.scratch().join("kms.toml");
    let credential = m.kms().credential();
    let text = format!(
        "[kms]\nendpoint = {:?}\nkey_id = {:?}\naccess_key = {:?}\nsecret_key = {:?}\n",
        m.kms().endpoint(),
        m.key_id,
        credential.access_key.to_string(),
        credential.secret_key.to_string()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let (_root, unverified) = volume::read(m.backing()).unwrap();
    let arguments = KmsArgs { dev: false, kms: None, key_id: None, config: Some(config) };
    let kms = KmsSetup::new(&arguments, &unverified.claimed().id).unwrap();
    let (volume, keys) = volume::unlock(unverified, &kms).unwrap();
    let names = Names { mode: volume.names, name_max: volume.name_max, keys: &keys };
    let dir_id: DirId = match volume.names {
        NameMode::Plain => [0; 16],
        NameMode::Encrypted => {
            let marker = fs::read_link(stored_dir.join(DIR_MARKER)).unwrap();
            names.read_marker(marker.as_os_str().as_bytes()).unwrap()
        }
    };
    let dir = fs::File::open(stored_dir).unwrap();
    for i in 0..count {
        let stored = names.store(&dir_id, name(i).as_bytes()).unwrap();
        if let StoredName::Long { link, whole, .. } = &stored {
            rustix::fs::symlinkat(&whole[..], dir.as_fd(), &link[..]).unwrap();
        }
        rustix::fs::mknodat(dir.as_fd(), stored.entry(), FileType::RegularFile, Mode::from(0o600), 0).unwrap();
    }
}

/// A figure of the daemon's memory, in bytes.
fn memory(m: &Mounted, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", m.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).expect("the kernel tells it");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A directory may have any number of entries, and listing it takes the daemon little memory.
fn a_huge_directory_is_listed_in_little_memory(setup: &Setup) {
    let count = entries();
    let mut m = Mounted::new(setup);
    let dir = m.path("dir");
    fs::create_dir(&dir).unwrap();
    // It has a marker from now on.
    fs::write(dir.join("first"), b"").unwrap();
    let stored = m.stored(&dir);
    m.unmount();
    store_entries(&m, &stored, count);
    m.mount();
    let before = memory(&m, "VmRSS");
    let stop = AtomicBool::new(false);
    let (mut seen, mut others) = (vec![false; count], HashSet::new());
    std::thread::scope(|scope| {
        // Entries come and go meanwhile, each under a name that never comes again.
        let (dir, stop) = (&dir, &stop);
        let changes = scope.spawn(move || {
            for i in 0.. {
                fs::write(dir.join(format!("other {i}")), b"").unwrap();
                if i >= 20 {
                    fs::remove_file(dir.join(format!("other {}", i - 20))).unwrap();
                }
                if stop.load(Ordering::Relaxed) {
                    return i;
                }
            }
            unreachable!()
        });
        for entry in fs::read_dir(dir).unwrap() {
            let listed = String::from_utf8(entry.unwrap().file_name().into_vec()).unwrap();
            let number = listed.strip_prefix("entry ").and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
            match number {
                Some(i) => {
                    assert_eq!(listed, name(i));
                    assert!(!std::mem::replace(&mut seen[i], true), "{listed:?} is listed twice");
                }
                None => assert!(others.insert(listed.clone()), "{listed:?} is listed twice"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(changes.join().unwrap() > 20, "nothing changed meanwhile");
    });
    let missing = seen.iter().filter(|seen| !**seen).count();
    assert_eq!(missing, 0, "entries that were there all the time are not listed");
    assert!(others.contains("first"));
    let grown = memory(&m, "VmHWM").saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{} MiB more for {count} entries", grown >> 20);
    // Cold again, and found by name.
    m.remount();
    for i in [0, 1, count / 2, count - 1] {
        assert!(fs::metadata(dir.join(name(i))).unwrap().is_file(), "{i}");
    }
}
