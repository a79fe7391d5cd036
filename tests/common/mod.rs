//! Real mounts of the real binary, on a mock KMS of their own: what all mount suites share.
//!
//! A suite is a binary of libtest-mimic: where mounting is impossible its tests are *ignored*, which cargo test and
//! nextest both count as skipped, never as passed.

#![allow(dead_code, reason = "no suite uses every helper")]

pub mod checking;
pub mod images;
pub mod io;
pub mod mounted;
pub mod nobody;
pub mod users;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

pub use mounted::Mounted;

/// How a volume is made and mounted.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub name: &'static str,
    pub suite: &'static str,
    pub plain_names: bool,
    /// For `mount -o`; empty for none.
    pub options: &'static str,
    /// The embedded development KMS instead of one in the test's process.
    pub dev: bool,
}

pub const AES: Setup = Setup { name: "aes", suite: "aes-256-gcm", plain_names: false, options: "", dev: false };
pub const SM4: Setup = Setup { name: "sm4", suite: "sm4-gcm", ..AES };
pub const PLAIN: Setup = Setup { name: "plain", plain_names: true, ..AES };
pub const DEV: Setup = Setup { name: "dev", dev: true, ..AES };
/// What most bodies run for.
pub const ALL: [Setup; 3] = [AES, SM4, PLAIN];
/// Both suites, for what names have no part in.
pub const SUITES: [Setup; 2] = [AES, SM4];

impl Setup {
    pub fn with_options(self, options: &'static str) -> Self {
        Self { options, ..self }
    }
}

/// A test's body, with its name.
pub type Body = (&'static str, fn(&Setup));

/// `bodies![a, b]`: functions with their names.
#[macro_export]
macro_rules! bodies {
    ($($body:ident),* $(,)?) => {
        &[$((stringify!($body), $body as fn(&$crate::common::Setup))),*]
    };
}

/// The tests of one binary.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// Each body once for each set-up.
    pub fn on(mut self, setups: &[Setup], bodies: &[Body]) -> Self {
        let why = cannot_mount();
        for &(name, body) in bodies {
            for &setup in setups {
                let test = Trial::test(format!("{name}::{}", setup.name), move || {
                    body(&setup);
                    Ok(())
                });
                self.trials.push(test.with_ignored_flag(why.is_some()));
            }
        }
        self
    }

    /// Bodies that run only when they are asked for, with `--ignored`.
    pub fn on_request(self, setups: &[Setup], bodies: &[Body]) -> Self {
        self.ignored_on(setups, bodies)
    }

    /// Bodies that act as several users, which only root can.
    pub fn rooted_on(self, setups: &[Setup], bodies: &[Body]) -> Self {
        if rustix::process::geteuid().is_root() {
            return self.on(setups, bodies);
        }
        eprintln!("skipped: {} tests need root", bodies.len() * setups.len());
        self.ignored_on(setups, bodies)
    }

    /// Bodies in which an ordinary user mounts; root starts them.
    pub fn users_mount_on(self, setups: &[Setup], bodies: &[Body]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let open_to_all = std::fs::metadata("/dev/fuse").is_ok_and(|meta| meta.permissions().mode() & 0o006 == 0o006);
        if open_to_all {
            return self.rooted_on(setups, bodies);
        }
        eprintln!("skipped: {} tests need a /dev/fuse that is open to all (chmod 666)", bodies.len() * setups.len());
        self.ignored_on(setups, bodies)
    }

    /// Bodies that need root and something that may be missing here.
    pub fn where_on(self, missing: Option<String>, setups: &[Setup], bodies: &[Body]) -> Self {
        let Some(missing) = missing else { return self.rooted_on(setups, bodies) };
        eprintln!("skipped: {} tests need {missing}", bodies.len() * setups.len());
        self.ignored_on(setups, bodies)
    }

    fn ignored_on(self, setups: &[Setup], bodies: &[Body]) -> Self {
        let from = self.trials.len();
        let mut suite = self.on(setups, bodies);
        let rest = suite.trials.split_off(from);
        suite.trials.extend(rest.into_iter().map(|trial| trial.with_ignored_flag(true)));
        suite
    }

    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        if let Some(why) = cannot_mount() {
            eprintln!("skipped: {why}");
            // `--include-ignored` can't make a mount possible.
            (arguments.include_ignored, arguments.ignored) = (false, arguments.ignored && arguments.list);
        }
        // Each body has daemons and threads of its own.
        arguments.test_threads.get_or_insert(4);
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

/// Why there can be no mounts here, if so.
fn cannot_mount() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("no /dev/fuse");
    }
    if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return Some("/dev/fuse cannot be opened");
    }
    None
}

/// Polls until `reached`; panics with `what` after `patience`.
pub fn wait_until(what: &str, patience: Duration, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + patience;
    while !reached() {
        assert!(Instant::now() < until, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `body` on a thread and fails if it has not ended after `patience`: nothing in a suite may hang.
pub fn within<T: Send + 'static>(what: &str, patience: Duration, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(body());
    });
    match receive.recv_timeout(patience) {
        Ok(value) => value,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("not within {patience:?}: {what}"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it sent nothing"))
        }
    }
}
