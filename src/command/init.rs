//! `kmsfs init`: makes an empty directory a volume. The volume file is written last: without it there is none.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::backing;
use crate::cli::Init;
use crate::cli::exit_code::Exit;
use crate::crypto::{aead, random};
use crate::durable::Sessions;
use crate::format::derived::{VolumeId, VolumeKeys};
use crate::format::volume::{NameMode, PROVIDER, Volume, VolumeKms, VolumeWrapping, hex};
use crate::format::{DIR_MARKER, LOCK_FILE, TMP_PREFIX, VOLUME_FILE};
use crate::names::Names;

use super::kms_setup::{DEV_WARNING, KmsSetup, key_spec};
use super::volume::kms_failure;
use super::{OrExit, Outcome, fail};

pub fn run(args: &Init) -> Outcome {
    super::daemon::harden();
    let dir = &args.backing;
    prepare_dir(dir)?;
    let root = backing::open_root(dir).or_exit(Exit::Volume, format!("cannot open {}", dir.display()))?;
    let name_max = probe(root.as_fd(), dir)?;
    aead::self_test(args.suite).or_exit(Exit::Other, "the self-test of the cipher engines failed on this machine")?;
    let id: VolumeId = random::bytes();
    let kms = KmsSetup::new(&args.kms, &id)?;
    let key_id = kms.key_for_new_volume(args.suite)?;
    let generated = kms
        .block_on(kms.kms.generate_data_key(&key_id, key_spec(args.suite)))
        .map_err(|e| kms_failure(e, "cannot get a volume key"))?;
    // A KMS that can't give the key back is noticed now, not at the first mount.
    let again = kms
        .block_on(kms.kms.decrypt(&generated.wrapped, args.suite.key_len()))
        .map_err(|e| kms_failure(e, "the KMS made a volume key but does not unwrap it"))?;
    if again != generated.plaintext {
        return fail(
            Exit::KmsRefused,
            "the KMS unwraps the volume key to another key than it gave: nothing was written",
        );
    }
    let keys = VolumeKeys::derive(args.suite, id, &generated.plaintext);
    let volume = Volume {
        id,
        suite: args.suite,
        names: if args.plain_names { NameMode::Plain } else { NameMode::Encrypted },
        name_max,
        kms: VolumeKms { provider: PROVIDER.into(), key_id: key_id.clone() },
        files_per_data_key: args.files_per_data_key.or(kms.files_per_data_key()).unwrap_or(1),
        wrappings: vec![VolumeWrapping {
            provider: PROVIDER.into(),
            key_id: generated.wrapped.key_id,
            key_version: generated.wrapped.key_version,
            blob: generated.wrapped.blob,
        }],
    };
    write(root.as_fd(), &volume, &keys).or_exit(Exit::Volume, format!("cannot write into {}", dir.display()))?;
    println!(
        "{} is a volume now ({}, {} names).",
        dir.display(),
        args.suite,
        if args.plain_names { "plain" } else { "encrypted" }
    );
    println!("fingerprint of its key: {}", hex(&keys.fingerprint));
    let dev = if kms.is_dev() { " --dev" } else { "" };
    println!("mount it with: kmsfs mount{dev} {} MOUNTPOINT", dir.display());
    if kms.is_dev() {
        eprintln!("kmsfs: warning: {DEV_WARNING}");
    }
    Ok(())
}

/// The directory, made if need be, empty in any case.
fn prepare_dir(dir: &Path) -> Outcome {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    match made {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e).or_exit(Exit::Volume, format!("cannot make {}", dir.display())),
    }
    let mut entries = std::fs::read_dir(dir).or_exit(Exit::Volume, format!("cannot look into {}", dir.display()))?;
    if dir.join(VOLUME_FILE).exists() {
        return fail(Exit::Volume, format!("{} is a kmsfs volume already", dir.display()));
    }
    if entries.next().is_some() {
        return fail(
            Exit::Volume,
            format!(
                "{} is not empty: a volume begins in an empty directory, and files are copied into its mount",
                dir.display()
            ),
        );
    }
    Ok(())
}

/// Tries what the format needs of the backing file system; gives the longest name.
fn probe(root: BorrowedFd<'_>, dir: &Path) -> Outcome<usize> {
    let what = |what: &str| format!("the file system of {} cannot hold a volume: {what}", dir.display());
    let name_max = backing::statvfs(root).or_exit(Exit::Volume, what("no statvfs"))?.f_namemax.min(255) as usize;
    let tag = hex(&random::bytes::<24>());
    let (upper, lower) = (format!("{TMP_PREFIX}PROBE-{tag}"), format!("{TMP_PREFIX}probe-{tag}"));
    let tried = try_probe(root, upper.as_bytes(), lower.as_bytes());
    for name in [&upper, &lower] {
        let _ = backing::unlink(root, name.as_bytes());
    }
    tried.map_err(|missing| super::Failure { exit: Exit::Volume, error: anyhow::anyhow!(what(&missing)) })?;
    Ok(name_max)
}

fn try_probe(root: BorrowedFd<'_>, upper: &[u8], lower: &[u8]) -> Result<(), String> {
    let need = |what: &'static str| move |e: Errno| format!("{what}: {e}");
    let file = backing::create(root, upper, 0o600).map_err(need("no files with names of 64 bytes and more"))?;
    match backing::symlink(b"probe", root, lower) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err("names are not case-sensitive".into()),
        Err(e) => return Err(format!("no symlinks: {e}")),
    }
    backing::write_at(file.as_fd(), b"x", 1 << 20).map_err(need("no writing behind the end"))?;
    let mut hole = [1; 4096];
    backing::read_at(file.as_fd(), &mut hole, 4096).map_err(need("no reading of holes"))?;
    if hole != [0; 4096] {
        return Err("holes do not read as zeros".into());
    }
    if !backing::try_lock(file.as_fd(), true).map_err(need("no OFD locks"))? {
        return Err("a new file is locked".into());
    }
    Ok(())
}

fn write(root: BorrowedFd<'_>, volume: &Volume, keys: &VolumeKeys) -> Result<(), Errno> {
    drop(backing::open_lock_file(root, LOCK_FILE, false)?);
    Sessions::create(root, &keys.state)?;
    if volume.names == NameMode::Encrypted {
        let names = Names { mode: volume.names, name_max: volume.name_max, keys };
        backing::symlink(&names.new_marker().1, root, DIR_MARKER.as_bytes())?;
    }
    super::volume::write(root, volume, &keys.volume)
}
