//! `kmsfs rotate`: wraps the volume key and the data key of every file by the primary version of one CMK (`docs/KMS.md`).
//! Headers change, data does not.
//!
//! Wherever a run is cut off the volume mounts, as long as the old CMK and the new one are allowed, and the next run goes
//! on. The order is this:
//!
//! 1. The volume file gets the new wrapping of its key **beside** the old ones, and from then on new files are wrapped by
//!    the new CMK. If the service does not re-wrap, or the new CMK does not unwrap, that is noticed here.
//! 2. Every file's header, in any order ([`files`]).
//! 3. If nothing failed, the old wrappings leave the volume file. Until then it names the old CMK: where that one is not
//!    allowed any more the mount is refused, with its id, and not one file or another.

mod files;
mod report;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::Rotate;
use crate::cli::exit_code::Exit;
use crate::content;
use crate::format::file_header::{PROVIDER_CTYUN, Wrapping};
use crate::format::volume::{PROVIDER, UnverifiedVolume, Volume, VolumeWrapping};
use crate::format::{VOLUME_FILE, derived::VolumeKeys};
use crate::keys::{Keys, Rewrapper};

use super::check::report::{Report, Severity};
use super::check::{self, EachFile};
use super::kms_setup::{KmsSetup, key_spec};
use super::volume::{kms_failure, wrapped_key};
use super::{OrExit, Outcome, daemon, fail};
use files::{Failure, Files, Why};
use report::Summary;

/// Most threads that look at files: each waits for the KMS or for the disk, and holds a stack.
const THREADS: usize = 64;

/// The wrapping that everything is to have.
#[derive(Clone, Debug)]
struct Wanted {
    key_id: String,
    /// The primary one. `None` where the service names no versions.
    version: Option<String>,
}

impl Wanted {
    /// What has no version, or where none is known, may be of an older one.
    fn is(&self, key_id: &str, version: &str) -> bool {
        self.key_id.eq_ignore_ascii_case(key_id)
            && self.version.as_ref().is_some_and(|wanted| !version.is_empty() && wanted.eq_ignore_ascii_case(version))
    }

    fn is_of_volume(&self, wrapping: &VolumeWrapping) -> bool {
        wrapping.provider == PROVIDER && self.is(&wrapping.key_id, &wrapping.key_version)
    }

    /// Whether the header is wrapped by this, and by nothing else of this service.
    fn is_all_of(&self, wrappings: &[Wrapping]) -> bool {
        let mut ours = wrappings.iter().filter(|wrapping| wrapping.provider == PROVIDER_CTYUN);
        let first = ours.next().is_some_and(|wrapping| self.is(&wrapping.key_id, &wrapping.key_version));
        first && ours.next().is_none()
    }
}

/// What became of the volume's own key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VolumeKey {
    Current,
    /// In a run that changes nothing: it would be re-wrapped.
    Outdated,
    Rewrapped,
    /// The new wrapping stands beside older ones, since something failed.
    Both,
}

pub fn run(args: &Rotate) -> Outcome {
    daemon::harden();
    daemon::raise_descriptors();
    let (root, _) = super::volume::read(&args.backing)?;
    let _lock = super::volume::lock(&root, &args.backing, args.dry_run)?;
    // Read again: another run may have written it before this one had the lock.
    let (root, unverified) = super::volume::read(&args.backing)?;
    let kms = KmsSetup::new(&args.kms, &unverified.claimed().id)?;
    let (volume, keys) = super::volume::unlock(unverified, &kms)?;
    super::volume::expect_fingerprint(&keys, args.fingerprint.as_deref())?;
    let wanted = wanted(&kms, &volume)?;
    let mut rotation = Rotation { root, volume, kms, wanted, dry_run: args.dry_run };
    let mut volume_key = rotation.begin(&keys)?;
    let summary = rotation.files(keys, !args.quiet, &mut volume_key)?;
    if args.json {
        print(&format!("{:#}\n", summary.json()));
    } else {
        print(&summary.text());
    }
    rotation.kms.runtime.shutdown_timeout(Duration::from_millis(200));
    match summary.exit() {
        None => Ok(()),
        Some(exit) => fail(exit, format!("{}: {}", args.backing.display(), summary.verdict())),
    }
}

/// A reader that goes away early is no failure of the run.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// The configured CMK and its primary version, if it can be used for this volume.
fn wanted(kms: &KmsSetup, volume: &Volume) -> Outcome<Wanted> {
    let key_id = match &kms.config {
        Some(config) => config.key_id().or_exit(Exit::Config, "configuration of the KMS")?,
        // The development KMS has one CMK for each volume.
        None => &volume.kms.key_id,
    };
    let key = kms
        .block_on(kms.kms.describe_key(key_id))
        .map_err(|e| kms_failure(e, &format!("cannot ask for the KMS key {key_id:?}")))?;
    if !kms.allows(&key.key_id) {
        return fail(
            Exit::Config,
            format!("{key_id:?} is the KMS key {:?}, which is not allowed: name it by its id", key.key_id),
        );
    }
    if !key.is_enabled() {
        return fail(Exit::KmsRefused, format!("the KMS key {key_id:?} is {}: nothing was changed", key.state));
    }
    if !key.is_for(key_spec(volume.suite)) {
        return fail(
            Exit::Config,
            format!("the KMS key {key_id:?} is of spec {}, which is not for a volume of {}", key.spec, volume.suite),
        );
    }
    Ok(Wanted { key_id: key.key_id, version: key.primary_version })
}

/// A run, with the volume locked.
struct Rotation {
    root: OwnedFd,
    volume: Volume,
    kms: KmsSetup,
    wanted: Wanted,
    dry_run: bool,
}

impl Rotation {
    /// Step 1: the new wrapping of the volume key before the old ones.
    fn begin(&mut self, keys: &VolumeKeys) -> Outcome<VolumeKey> {
        let first_is_wanted = |wanted: &Wanted, volume: &Volume| {
            wanted.is_of_volume(&volume.wrappings[0]) && wanted.key_id.eq_ignore_ascii_case(&volume.kms.key_id)
        };
        if first_is_wanted(&self.wanted, &self.volume) {
            return Ok(if self.volume.wrappings.len() == 1 { VolumeKey::Current } else { VolumeKey::Outdated });
        }
        if self.dry_run {
            return Ok(VolumeKey::Outdated);
        }
        let new = self.rewrapped_volume_key()?;
        if self.wanted.version.is_none() && !new.key_version.is_empty() {
            self.wanted.version = Some(new.key_version.clone());
            if first_is_wanted(&self.wanted, &self.volume) && self.volume.wrappings.len() == 1 {
                return Ok(VolumeKey::Current);
            }
        }
        let mut volume = self.volume.clone();
        volume.kms.key_id.clone_from(&self.wanted.key_id);
        let same = |old: &VolumeWrapping| {
            old.provider == PROVIDER
                && old.key_id.eq_ignore_ascii_case(&new.key_id)
                && old.key_version.eq_ignore_ascii_case(&new.key_version)
        };
        volume.wrappings.retain(|old| !same(old));
        volume.wrappings.insert(0, new);
        self.check_new_wrapping(&volume, keys)?;
        self.write(volume, keys)?;
        Ok(VolumeKey::Rewrapped)
    }

    fn rewrapped_volume_key(&self) -> Outcome<VolumeWrapping> {
        let mut last = None;
        for old in &self.volume.wrappings {
            let old = wrapped_key(old);
            match self.kms.block_on(self.kms.kms.re_encrypt(&old, &self.wanted.key_id)) {
                Ok(new) => {
                    return Ok(VolumeWrapping {
                        provider: PROVIDER.into(),
                        key_id: new.key_id,
                        key_version: new.key_version,
                        blob: new.blob,
                    });
                }
                Err(e) => last = Some(e),
            }
        }
        let e = last.expect("a volume has at least one wrapping");
        Err(kms_failure(e, "cannot re-wrap the volume key: nothing was changed"))
    }

    /// The new wrapping alone has to open the new volume file: what the KMS unwraps is the key that it was, and so is the
    /// fingerprint.
    fn check_new_wrapping(&self, volume: &Volume, keys: &VolumeKeys) -> Outcome {
        let key = self
            .kms
            .block_on(self.kms.kms.decrypt(&wrapped_key(&volume.wrappings[0]), volume.suite.key_len()))
            .map_err(|e| {
            kms_failure(e, "the KMS re-wrapped the volume key but does not unwrap it: nothing was changed")
        })?;
        let again = VolumeKeys::derive(volume.suite, volume.id, &key);
        let opens = UnverifiedVolume::parse(&volume.to_bytes(&keys.volume))
            .is_ok_and(|unverified| unverified.verify(&again.volume).is_ok_and(|read| read == *volume));
        if opens && again.fingerprint == keys.fingerprint {
            return Ok(());
        }
        fail(Exit::KmsRefused, "the KMS unwraps the re-wrapped volume key to another key: nothing was changed")
    }

    fn write(&mut self, volume: Volume, keys: &VolumeKeys) -> Outcome {
        super::volume::write(self.root.as_fd(), &volume, &keys.volume)
            .or_exit(Exit::Volume, format!("cannot write {VOLUME_FILE}"))?;
        self.volume = volume;
        Ok(())
    }

    /// Steps 2 and 3.
    fn files(&mut self, keys: VolumeKeys, progress: bool, volume_key: &mut VolumeKey) -> Outcome<Summary> {
        let (report, started) = (Report::default(), Instant::now());
        let (shared, _) = check::open(&self.root, keys, false, &report)?;
        let files = self.new_files(&shared)?;
        let each = EachFile {
            root: self.root.as_fd(),
            volume: &shared,
            mode: self.volume.names,
            name_max: self.volume.name_max,
            runtime: self.kms.runtime.handle().clone(),
            threads: self.kms.max_inflight().min(THREADS),
            progress,
        };
        let report = each.go(report, &files.counts.done, &|task| files.file(task));
        let mut failures = files.take_failures();
        // The rest of what the walk finds is for `check` to tell: it keeps no key from being re-wrapped.
        failures.extend(report.of_severity(Severity::Unchecked).into_iter().map(|finding| Failure {
            why: Why::Backing,
            path: finding.path,
            stored: finding.stored,
            cause: finding.cause,
        }));
        failures.sort_by(|a, b| a.stored.cmp(&b.stored));
        if !self.dry_run && self.volume.wrappings.len() > 1 {
            *volume_key = VolumeKey::Both;
            if failures.is_empty() && files.counts.left() == 0 {
                let mut volume = self.volume.clone();
                let first = volume.wrappings.remove(0);
                volume.wrappings.retain(|other| other.provider != PROVIDER);
                volume.wrappings.insert(0, first);
                self.write(volume, &shared.keys)?;
                *volume_key = VolumeKey::Rewrapped;
            }
        }
        Ok(Summary::new(&self.wanted, self.dry_run, *volume_key, files.counts, failures, started))
    }

    fn new_files(&self, shared: &Arc<content::Volume>) -> Outcome<Files> {
        let config = self.kms.keys_config(&self.volume)?;
        let patience = config.deadline * files::PATIENCE;
        let keys = Keys::new(self.kms.kms.clone(), config, self.kms.runtime.handle().clone());
        let rewrapper = Rewrapper::new(keys, &self.wanted.key_id[..]);
        let runtime = self.kms.runtime.handle().clone();
        Ok(Files::new(shared.clone(), rewrapper, runtime, self.wanted.clone(), self.dry_run, patience))
    }
}
