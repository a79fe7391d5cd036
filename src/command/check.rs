//! `kmsfs check`: reads a whole backing directory, verifies it, says what is wrong, repairs what crashes have left, and
//! copies out what can be read (`docs/CHECK.md`).
//!
//! One thread walks ([`walk`]) and starts to fetch keys; the others look at files ([`files`]) as they come. What they
//! find goes into one [`report`].

mod files;
mod repair;
mod report;
mod salvage;
mod walk;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::backing;
use crate::cli::Check;
use crate::cli::exit_code::Exit;
use crate::content::Volume;
use crate::content::examine::Depth;
use crate::crypto::aead;
use crate::durable::{Durability, Redo, Sessions, StateError};
use crate::format::derived::VolumeKeys;
use crate::format::volume::{NameMode, hex};
use crate::format::{LOCK_FILE, STATE_FILE};
use crate::keys::Keys;
use crate::names::Names;

use super::kms_setup::KmsSetup;
use super::{OrExit, Outcome, daemon, fail};
use files::Outage;
use report::{Finding, Kind, Report, Severity};
use salvage::Salvage;

/// Files that wait between the walk and those who look at them: each holds a descriptor and a page, and its key is being
/// fetched.
const QUEUE: usize = 128;
const PROGRESS: Duration = Duration::from_millis(200);

/// A check under way: what all threads share.
pub struct Checker<'a> {
    root: BorrowedFd<'a>,
    volume: &'a Volume,
    shared: Arc<Volume>,
    mode: NameMode,
    name_max: usize,
    /// `None`: no file's key is asked for.
    keys: Option<Arc<Keys>>,
    runtime: tokio::runtime::Handle,
    depth: Depth,
    /// A mount writes meanwhile.
    live: bool,
    /// The state file does not say which sessions did not end.
    state_unknown: bool,
    /// Sessions that did not end.
    crashed: usize,
    repair: bool,
    salvage: Option<Salvage>,
    threads: usize,
    large: Mutex<()>,
    outage: Mutex<Outage>,
    put_back: AtomicBool,
    unsettled: AtomicBool,
    report: Report,
}

pub fn run(args: &Check) -> Outcome {
    daemon::harden();
    daemon::raise_descriptors();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (root, unverified) = super::volume::read(&args.backing)?;
    let report = Report::default();
    let (_lock, live) = lock(&root, args, &report)?;
    let suite = unverified.claimed().suite;
    aead::self_test(suite).or_exit(Exit::Other, "the self-test of the cipher engines failed on this machine")?;
    let kms = KmsSetup::new(&args.kms, &unverified.claimed().id)?;
    let (claims, volume_keys) = super::volume::unlock(unverified, &kms)?;
    if let Some(wanted) = &args.fingerprint
        && !wanted.eq_ignore_ascii_case(&hex(&volume_keys.fingerprint))
    {
        return fail(Exit::Volume, "the volume key has another fingerprint than was asked for: this is another volume");
    }
    let (sessions, state_unknown) = sessions(&root, &volume_keys, args, &report)?;
    let crashed = sessions.crashed();
    let redo = Redo::new(root.as_fd(), crashed.clone()).or_exit(Exit::Volume, "cannot open the volume")?;
    let volume = Arc::new(Volume { keys: volume_keys, sessions, redo, durability: Durability::Fast });
    let keys = Keys::new(kms.kms.clone(), kms.keys_config(&claims)?, kms.runtime.handle().clone());
    let salvage = args.salvage.as_deref().map(|dir| Salvage::new(dir, &args.backing)).transpose()?;
    if !live {
        tell_crashed(&report, crashed.len());
    }
    if args.repair {
        volume.sessions.begin().or_exit(Exit::Volume, "cannot begin a session")?;
    }
    let checker = Checker {
        root: root.as_fd(),
        volume: &volume,
        shared: volume.clone(),
        mode: claims.names,
        name_max: claims.name_max,
        keys: (!args.structure).then_some(keys),
        runtime: kms.runtime.handle().clone(),
        depth: if args.quick { Depth::Slots } else { Depth::Blocks },
        live,
        state_unknown,
        crashed: crashed.len(),
        repair: args.repair,
        salvage,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(16)),
        large: Mutex::default(),
        outage: Mutex::default(),
        put_back: AtomicBool::new(false),
        unsettled: AtomicBool::new(false),
        report,
    };
    checker.go(!args.quiet);
    if args.repair {
        checker.settle();
    }
    if let Some(salvage) = &checker.salvage {
        salvage.finish(&checker).or_exit(Exit::Other, "cannot write what the copies lack")?;
    }
    let report = &checker.report;
    report.finish();
    if args.json {
        let mode = match (args.quick, args.structure, args.repair, args.salvage.is_some()) {
            (true, ..) => "quick",
            (_, true, ..) => "structure",
            (_, _, true, _) => "repair",
            (.., true) => "salvage",
            _ => "full",
        };
        print(&format!("{:#}\n", report.json(mode, live)));
    } else {
        print(&report.text());
    }
    kms.runtime.shutdown_timeout(Duration::from_millis(200));
    match report.tally().exit() {
        None => Ok(()),
        Some(exit) => fail(exit, verdict(exit, &args.backing)),
    }
}

/// For unit tests, whose volumes have no KMS to set up: what a check of `volume` says, and how the program would end.
#[cfg(test)]
pub fn of_volume(
    root: BorrowedFd<'_>,
    volume: &Arc<Volume>,
    mode: NameMode,
    keys: Arc<Keys>,
    runtime: tokio::runtime::Handle,
    repair: bool,
) -> (Option<Exit>, String) {
    let crashed = volume.sessions.crashed();
    if repair {
        volume.sessions.begin().expect("begins");
    }
    let checker = Checker {
        root,
        volume,
        shared: volume.clone(),
        mode,
        name_max: 255,
        keys: Some(keys),
        runtime,
        depth: Depth::Blocks,
        live: false,
        state_unknown: false,
        crashed: crashed.len(),
        repair,
        salvage: None,
        threads: 1,
        large: Mutex::default(),
        outage: Mutex::default(),
        put_back: AtomicBool::new(false),
        unsettled: AtomicBool::new(false),
        report: Report::default(),
    };
    tell_crashed(&checker.report, crashed.len());
    checker.go(false);
    if repair {
        checker.settle();
    }
    checker.report.finish();
    (checker.report.tally().exit(), checker.report.text())
}

fn tell_crashed(report: &Report, crashed: usize) {
    if crashed > 0 {
        let cause = format!("{} of the volume did not end cleanly", mounts(crashed));
        report.add(Finding::new(Severity::Leftover, Kind::Session, None, STATE_FILE.as_bytes(), cause));
    }
}

fn verdict(exit: Exit, backing_dir: &Path) -> String {
    let backing_dir = backing_dir.display();
    match exit {
        Exit::Repaired => format!("{backing_dir}: something was wrong, and is repaired"),
        Exit::Unchecked => format!("{backing_dir}: nothing wrong was found, but not everything could be checked"),
        _ => format!("{backing_dir}: something is wrong"),
    }
}

/// A reader that goes away early is no failure of the check.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn mounts(n: usize) -> String {
    if n == 1 { "a mount".into() } else { format!("{n} mounts") }
}

/// A check shares the volume with mounts that only read; a repair has it alone. True: a mount writes meanwhile.
fn lock(root: &OwnedFd, args: &Check, report: &Report) -> Outcome<(Option<OwnedFd>, bool)> {
    if args.repair {
        return Ok((Some(super::volume::lock(root, &args.backing, false)?), false));
    }
    match backing::open_lock_file(root.as_fd(), LOCK_FILE, true) {
        Ok(file) => {
            let alone =
                backing::try_lock(file.as_fd(), false).or_exit(Exit::Volume, format!("cannot lock {LOCK_FILE}"))?;
            if !alone {
                let cause = "the volume is mounted: what is being written is looked at more than once";
                report.add(Finding::new(Severity::Note, Kind::Lock, None, LOCK_FILE.as_bytes(), cause));
            }
            Ok((Some(file), !alone))
        }
        Err(e) => {
            let cause = format!("the lock file cannot be opened ({e}): whether the volume is mounted cannot be told");
            report.add(Finding::new(Severity::Note, Kind::Lock, None, LOCK_FILE.as_bytes(), cause));
            Ok((None, false))
        }
    }
}

/// The sessions; without a state file that verifies, none is known not to have ended.
fn sessions(root: &OwnedFd, keys: &VolumeKeys, args: &Check, report: &Report) -> Outcome<(Sessions, bool)> {
    match Sessions::open(root.as_fd(), keys.state.clone(), false) {
        Ok(sessions) => Ok((sessions, false)),
        Err(e @ StateError::Io(_)) => Err(e).or_exit(Exit::Volume, "cannot open the volume"),
        Err(e) if args.repair => fail(
            Exit::Volume,
            format!("{e}: put it back from a backup, or mount once with --reset-state; nothing was repaired"),
        ),
        Err(e) => {
            report.add(Finding::new(Severity::Damage, Kind::State, None, STATE_FILE.as_bytes(), e.to_string()));
            Ok((Sessions::open(root.as_fd(), keys.state.clone(), true).or_exit(Exit::Volume, STATE_FILE)?, true))
        }
    }
}

impl Checker<'_> {
    fn names(&self) -> Names<'_> {
        Names { mode: self.mode, name_max: self.name_max, keys: &self.volume.keys }
    }

    /// Walks and looks, on all cores.
    fn go(&self, progress: bool) {
        let (send, receive) = mpsc::sync_channel(QUEUE);
        let receive = Mutex::new(receive);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if progress {
                scope.spawn(|| self.show_progress(&done));
            }
            let workers: Vec<_> = (0..self.threads)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let next = receive.lock().recv();
                            let Ok(task) = next else { return };
                            self.file(task);
                        }
                    })
                })
                .collect();
            self.walk(&send);
            drop(send);
            let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            if let Some(panic) = ended.into_iter().find_map(Result::err) {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// A bar on a terminal, nothing elsewhere. Its length grows while the walk goes on.
    fn show_progress(&self, done: &AtomicBool) {
        let bar = indicatif::ProgressBar::new(0);
        let style = "{elapsed_precise} [{bar:30}] {bytes} of {total_bytes}, {binary_bytes_per_sec}";
        if let Ok(style) = indicatif::ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        while !done.load(Ordering::Relaxed) {
            bar.set_length(self.report.counts.known.load(Ordering::Relaxed));
            bar.set_position(self.report.counts.read.load(Ordering::Relaxed));
            std::thread::sleep(PROGRESS);
        }
        bar.finish_and_clear();
    }

    /// Told once, by the first file that shows it.
    fn state_was_put_back(&self, session: u32) {
        if self.state_unknown || self.put_back.swap(true, Ordering::Relaxed) {
            return;
        }
        let cause = format!(
            "session {session}, later than the state file knows, has written: an older state file was put back"
        );
        self.report.add(Finding::new(Severity::Damage, Kind::StatePutBack, None, STATE_FILE.as_bytes(), cause));
    }
}
