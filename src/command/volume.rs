//! Opening a volume's own files, with and without its key.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::backing;
use crate::cli::exit_code::Exit;
use crate::crypto::derive::MacKey;
use crate::crypto::random;
use crate::format::derived::VolumeKeys;
use crate::format::volume::{UnverifiedVolume, VOLUME_FILE_MAX, Volume, VolumeWrapping, hex};
use crate::format::{LOCK_FILE, TMP_PREFIX, VOLUME_FILE};
use crate::kms::{KmsError, WrappedKey};

use super::kms_setup::KmsSetup;
use super::{Failure, OrExit, Outcome, fail};

/// Opens the backing directory and parses its volume file, which is **not** verified yet.
pub fn read(backing_dir: &Path) -> Outcome<(OwnedFd, UnverifiedVolume)> {
    let root = backing::open_root(backing_dir)
        .or_exit(Exit::Volume, format!("cannot open the backing directory {}", backing_dir.display()))?;
    let bytes = match backing::read_file(root.as_fd(), VOLUME_FILE, VOLUME_FILE_MAX) {
        Ok(bytes) => bytes,
        Err(Errno::NOENT) => {
            return fail(
                Exit::Volume,
                format!(
                    "{0} is not a kmsfs volume: it has no {VOLUME_FILE} (make one with: kmsfs init {0})",
                    backing_dir.display()
                ),
            );
        }
        Err(e) => return Err(e).or_exit(Exit::Volume, format!("cannot read {VOLUME_FILE}")),
    };
    let volume = UnverifiedVolume::parse(&bytes).or_exit(Exit::Volume, VOLUME_FILE)?;
    Ok((root, volume))
}

/// Unwraps the VolumeKey and verifies the volume file under it.
pub fn unlock(volume: UnverifiedVolume, kms: &KmsSetup) -> Outcome<(Volume, VolumeKeys)> {
    let claimed = volume.claimed().clone();
    let (suite, id) = (claimed.suite, claimed.id);
    let mut ids = claimed.wrappings.iter().map(|wrapping| &wrapping.key_id).chain([&claimed.kms.key_id]);
    if let Some(foreign) = ids.find(|id| !kms.allows(id)) {
        return fail(
            Exit::Volume,
            format!(
                "{VOLUME_FILE} names the KMS key {foreign:?}, which the configuration does not allow; nothing was sent to the KMS. If it is right, add it to kms.allowed_key_ids"
            ),
        );
    }
    let mut last = None;
    for wrapping in &claimed.wrappings {
        match kms.block_on(kms.kms.decrypt(&wrapped_key(wrapping), suite.key_len())) {
            Ok(key) => {
                let keys = VolumeKeys::derive(suite, id, &key);
                let volume = volume.verify(&keys.volume).or_exit(
                    Exit::Volume,
                    format!("{VOLUME_FILE} is damaged, or the KMS gave a key that is not this volume's"),
                )?;
                return Ok((volume, keys));
            }
            Err(e) => last = Some(e),
        }
    }
    let e = last.expect("a parsed volume has at least one wrapping");
    Err(kms_failure(e, "cannot unwrap the volume key"))
}

pub fn wrapped_key(wrapping: &VolumeWrapping) -> WrappedKey {
    WrappedKey {
        key_id: wrapping.key_id.clone(),
        key_version: wrapping.key_version.clone(),
        blob: wrapping.blob.clone(),
    }
}

/// Refuses a volume other than the one that is meant.
pub fn expect_fingerprint(keys: &VolumeKeys, wanted: Option<&str>) -> Outcome {
    if wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(&hex(&keys.fingerprint))) {
        return Ok(());
    }
    fail(Exit::Volume, "the volume key has another fingerprint than was asked for: this is another volume")
}

/// Puts the volume file durably in its place.
pub fn write(root: BorrowedFd<'_>, volume: &Volume, key: &MacKey) -> Result<(), Errno> {
    let tmp = format!("{TMP_PREFIX}{}", hex(&random::bytes::<8>()));
    backing::replace_file(root, VOLUME_FILE, &tmp, &volume.to_bytes(key), 0o600)
}

/// "The service said no" and "could not ask" have exit codes of their own.
pub fn kms_failure(e: KmsError, what: &str) -> Failure {
    let exit = if e.is_outage() { Exit::KmsUnreachable } else { Exit::KmsRefused };
    Failure { exit, error: anyhow::Error::new(e).context(what.to_owned()) }
}

/// Locks the volume for this mount, exclusively unless it only reads.
pub fn lock(root: &OwnedFd, backing_dir: &Path, read_only: bool) -> Outcome<OwnedFd> {
    let file = backing::open_lock_file(root.as_fd(), LOCK_FILE, read_only)
        .or_exit(Exit::Volume, format!("cannot open {LOCK_FILE}"))?;
    if backing::try_lock(file.as_fd(), !read_only).or_exit(Exit::Volume, format!("cannot lock {LOCK_FILE}"))? {
        return Ok(file);
    }
    let path = backing_dir.join(LOCK_FILE);
    let holders = holders_of(&path);
    let who = if holders.is_empty() { "another mount".to_owned() } else { holders.join(", ") };
    fail(Exit::InUse, format!("the volume {} is in use by {who}", backing_dir.display()))
}

/// Processes that have `path` open, named for a person, as far as this one may look.
fn holders_of(path: &Path) -> Vec<String> {
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids_with(path).iter().map(|pid| format!("process {pid} ({})", name(pid).trim())).collect()
}

/// Other processes that have `path` open, as far as this one may look.
pub fn pids_with(path: &Path) -> Vec<u32> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
            fds.is_ok_and(|fds| {
                fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == path))
            })
        })
        .collect()
}
