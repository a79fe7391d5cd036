//! The `openssl` program, against which tests check what the mock reads and writes. A machine without it fails the tests.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A directory in which the program runs, and in which files have plain names.
pub struct OpenSsl {
    directory: TempDir,
}

impl OpenSsl {
    pub fn new() -> Self {
        OpenSsl { directory: tempfile::tempdir().expect("a directory for files") }
    }

    /// Runs a command line that has no quotes; the standard output, or the standard error if the command fails.
    pub fn try_run(&self, arguments: &str) -> Result<Vec<u8>, String> {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.directory)
            .output()
            .expect("these tests need the program openssl");
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    #[track_caller]
    pub fn run(&self, arguments: &str) -> Vec<u8> {
        self.try_run(arguments).unwrap_or_else(|error| panic!("openssl {arguments}: {error}"))
    }

    pub fn text(&self, arguments: &str) -> String {
        String::from_utf8(self.run(arguments)).expect("openssl writes text")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("a file in a directory of our own");
    }

    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a file that openssl has written")
    }

    #[track_caller]
    pub fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("a file in PEM")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
