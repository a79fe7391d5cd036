//! The exit codes, stable and documented in the README.

use std::process::ExitCode;

/// Printed behind the help.
pub const HELP: &str = "Exit codes: 0 done, 1 other failure, 2 wrong arguments, 3 configuration, 4 not a volume or \
damaged, 5 the KMS refused, 6 the KMS could not be asked, 7 in use, 8 mounting failed; check: 9 something is wrong, 10 something was, and all of it is \
repaired, 11 not everything could be checked";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Other = 1,
    /// clap uses it for arguments that it refuses.
    Usage = 2,
    Config = 3,
    Volume = 4,
    KmsRefused = 5,
    KmsUnreachable = 6,
    InUse = 7,
    Mount = 8,
    /// `check` found damage, or what a crash left, that is not repaired.
    Damage = 9,
    /// `check --repair` found something and repaired all of it.
    Repaired = 10,
    /// `check` found nothing wrong, but could not look at everything.
    Unchecked = 11,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
