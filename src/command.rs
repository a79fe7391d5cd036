//! The commands: each builds the parts it needs and runs them.

pub mod check;
pub mod daemon;
pub mod info;
pub mod init;
pub mod kms_setup;
pub mod mount;
pub mod rotate;
pub mod speed;
pub mod umount;
pub mod volume;

use crate::cli::exit_code::Exit;

/// A failure with the exit code that says its kind.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

pub type Outcome<T = ()> = Result<T, Failure>;

/// Gives an error its exit code and the sentence that says what was being done.
pub trait OrExit<T> {
    fn or_exit(self, exit: Exit, context: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit, context: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|e| Failure { exit, error: e.into().context(context.to_string()) })
    }
}

/// A failure that has no cause but itself.
pub fn fail<T>(exit: Exit, text: impl std::fmt::Display) -> Outcome<T> {
    Err(Failure { exit, error: anyhow::anyhow!("{text}") })
}

/// The user's directory for what must survive and is nobody else's business.
pub fn state_dir() -> std::path::PathBuf {
    let home = || std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(std::path::PathBuf::from);
    base.or_else(home).unwrap_or_else(|| "/var/lib".into()).join("kmsfs")
}
