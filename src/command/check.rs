//! `kmsfs check`: reads a whole backing directory, verifies it, says what is wrong, repairs what crashes have left, and
//! copies out what can be read (`docs/CHECK.md`).
//!
//! One thread walks ([`walk`]) and starts to fetch keys; the others look at files ([`files`]) as they come. What they
//! find goes into one [`report`].

mod files;
#[cfg(test)]
mod power_cut;
mod repair;
pub mod report;
mod salvage;
pub mod walk;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use crate::format::volume::NameMode;
use crate::format::{LOCK_FILE, STATE_FILE};
use crate::keys::Keys;
use crate::names::Names;

use super::kms_setup::KmsSetup;
use super::{OrExit, Outcome, daemon, fail};
use files::Outage;
use report::{Finding, Kind, Report, Severity};
use salvage::Salvage;
use walk::Task;

/// Files that wait between the walk and those who look at them: each holds a descriptor and a page, and its key is being
/// fetched.
const QUEUE: usize = 128;
const PROGRESS: Duration = Duration::from_millis(200);

/// A volume whose keys are at hand.
pub struct Unlocked {
    pub root: OwnedFd,
    pub keys: VolumeKeys,
    pub mode: NameMode,
    pub name_max: usize,
    pub data_keys: Arc<Keys>,
    pub runtime: tokio::runtime::Handle,
}

/// How a volume is checked.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub depth: Depth,
    /// No file's key is asked for.
    pub structure: bool,
    /// Files are looked for, and xattrs are not looked at.
    pub files_only: bool,
    pub repair: bool,
    /// A mount writes meanwhile.
    pub live: bool,
    pub progress: bool,
    /// That look at files, beside the one that walks. 0: the one that walks looks at them, too.
    pub threads: usize,
}

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
    how: How,
    /// The state file does not say which sessions did not end.
    state_unknown: bool,
    /// Sessions that did not end.
    crashed: usize,
    salvage: Option<Salvage>,
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
    let (claims, keys) = super::volume::unlock(unverified, &kms)?;
    super::volume::expect_fingerprint(&keys, args.fingerprint.as_deref())?;
    let runtime = kms.runtime.handle().clone();
    let data_keys = Keys::new(kms.kms.clone(), kms.keys_config(&claims)?, runtime.clone());
    let volume = Unlocked { root, keys, mode: claims.names, name_max: claims.name_max, data_keys, runtime };
    let how = How {
        depth: if args.quick { Depth::Slots } else { Depth::Blocks },
        structure: args.structure,
        files_only: false,
        repair: args.repair,
        live,
        progress: !args.quiet,
        threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(16)),
    };
    let salvage = args.salvage.as_deref().map(|dir| Salvage::new(dir, &args.backing)).transpose()?;
    let report = check(volume, how, salvage, report)?;
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

/// Checks a volume that the caller has locked, if it could; `report` has what was noticed before.
pub fn check(volume: Unlocked, how: How, salvage: Option<Salvage>, report: Report) -> Outcome<Report> {
    let Unlocked { root, keys, mode, name_max, data_keys, runtime } = volume;
    let (volume, state_unknown) = open(&root, keys, how.repair, &report)?;
    let crashed = volume.sessions.crashed().len();
    if crashed > 0 && !how.live {
        let cause = format!("{} of the volume did not end cleanly", mounts(crashed));
        report.add(Finding::new(Severity::Leftover, Kind::Session, None, STATE_FILE.as_bytes(), cause));
    }
    if how.repair {
        volume.sessions.begin().or_exit(Exit::Volume, "cannot begin a session")?;
    }
    let checker = Checker {
        keys: (!how.structure).then_some(data_keys),
        state_unknown,
        crashed,
        salvage,
        ..Checker::new(root.as_fd(), &volume, (mode, name_max), runtime, how, report)
    };
    let counts = &checker.report.counts;
    let read = || (counts.read.load(Ordering::Relaxed), counts.known.load(Ordering::Relaxed));
    checker.go(&|task| checker.file(task), ("{bytes} of {total_bytes}, {binary_bytes_per_sec}", &read));
    if how.repair {
        checker.settle();
    }
    if let Some(salvage) = &checker.salvage {
        salvage.finish(&checker).or_exit(Exit::Other, "cannot write what the copies lack")?;
    }
    checker.report.finish();
    Ok(checker.report)
}

/// For another command that goes through all files. The caller has the volume to itself.
pub struct EachFile<'a> {
    pub root: BorrowedFd<'a>,
    pub volume: &'a Arc<Volume>,
    pub mode: NameMode,
    pub name_max: usize,
    pub runtime: tokio::runtime::Handle,
    /// That look at files, beside the one that walks. 0: the one that walks looks at them, too.
    pub threads: usize,
    pub progress: bool,
}

impl EachFile<'_> {
    /// Gives every regular file of the volume to `look`, once however many names it has. `report` gets what kept files from
    /// being reached, among others; `done` counts the files that are through, for the bar on a terminal.
    pub fn go(self, report: Report, done: &AtomicU64, look: &(dyn Fn(Task) + Sync)) -> Report {
        let how = How {
            depth: Depth::Slots,
            structure: true,
            files_only: true,
            repair: false,
            live: false,
            progress: self.progress,
            threads: self.threads,
        };
        let checker = Checker::new(self.root, self.volume, (self.mode, self.name_max), self.runtime, how, report);
        let files = || (done.load(Ordering::Relaxed), checker.report.counts.files.load(Ordering::Relaxed));
        checker.go(look, ("{human_pos} of {human_len} files", &files));
        checker.report
    }
}

/// What reading a volume needs, and whether its state file cannot be trusted.
pub fn open(root: &OwnedFd, keys: VolumeKeys, repair: bool, report: &Report) -> Outcome<(Arc<Volume>, bool)> {
    let (sessions, state_unknown) = sessions(root, &keys, repair, report)?;
    let redo = Redo::new(root.as_fd(), sessions.crashed()).or_exit(Exit::Volume, "cannot open the volume")?;
    Ok((Arc::new(Volume { keys, sessions, redo, durability: Durability::Fast }), state_unknown))
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
fn sessions(root: &OwnedFd, keys: &VolumeKeys, repair: bool, report: &Report) -> Outcome<(Sessions, bool)> {
    match Sessions::open(root.as_fd(), keys.state.clone(), false) {
        Ok(sessions) => Ok((sessions, false)),
        Err(e @ StateError::Io(_)) => Err(e).or_exit(Exit::Volume, "cannot open the volume"),
        Err(e) if repair => fail(
            Exit::Volume,
            format!("{e}: put it back from a backup, or mount once with --reset-state; nothing was repaired"),
        ),
        Err(e) => {
            report.add(Finding::new(Severity::Damage, Kind::State, None, STATE_FILE.as_bytes(), e.to_string()));
            Ok((Sessions::open(root.as_fd(), keys.state.clone(), true).or_exit(Exit::Volume, STATE_FILE)?, true))
        }
    }
}

impl<'a> Checker<'a> {
    /// One that asks for no keys and copies nothing.
    fn new(
        root: BorrowedFd<'a>,
        volume: &'a Arc<Volume>,
        (mode, name_max): (NameMode, usize),
        runtime: tokio::runtime::Handle,
        how: How,
        report: Report,
    ) -> Self {
        Self {
            root,
            volume,
            shared: volume.clone(),
            mode,
            name_max,
            keys: None,
            runtime,
            how,
            state_unknown: false,
            crashed: 0,
            salvage: None,
            large: Mutex::default(),
            outage: Mutex::default(),
            put_back: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            report,
        }
    }
}

impl Checker<'_> {
    fn names(&self) -> Names<'_> {
        Names { mode: self.mode, name_max: self.name_max, keys: &self.volume.keys }
    }

    /// Walks, and looks at the files on threads of their own.
    fn go(&self, look: &(dyn Fn(Task) + Sync), bar: Bar<'_>) {
        if self.how.threads == 0 {
            return self.walk(&|task| look(task));
        }
        let (send, receive) = mpsc::sync_channel(QUEUE);
        let receive = Mutex::new(receive);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if self.how.progress {
                scope.spawn(|| show_progress(bar, &done));
            }
            let workers: Vec<_> = (0..self.how.threads)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let next = receive.lock().recv();
                            let Ok(task) = next else { return };
                            look(task);
                        }
                    })
                })
                .collect();
            // Nobody takes a file only where all who look have panicked, which is told below.
            self.walk(&|task| drop(send.send(task)));
            drop(send);
            let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            if let Some(panic) = ended.into_iter().find_map(Result::err) {
                std::panic::resume_unwind(panic);
            }
        });
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

/// What a bar on the terminal says behind its picture, and how far it is, of how much.
type Bar<'a> = (&'a str, &'a (dyn Fn() -> (u64, u64) + Sync));

/// A bar on a terminal, nothing elsewhere. Its length grows while the walk goes on.
fn show_progress((text, so_far): Bar<'_>, done: &AtomicBool) {
    let bar = indicatif::ProgressBar::new(0);
    let style = format!("{{elapsed_precise}} [{{bar:30}}] {text}");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&style) {
        bar.set_style(style);
    }
    while !done.load(Ordering::Relaxed) {
        // The second one of two in a row is not drawn.
        let (position, length) = so_far();
        bar.set_position(position);
        bar.set_length(length);
        bar.tick();
        std::thread::sleep(PROGRESS);
    }
    bar.finish_and_clear();
}
