//! A mount of an ordinary user's, for tests that run as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::users::{NOBODY, as_user};

/// A volume that an ordinary user has made and mounted: the daemon has no rights but its user's.
pub struct OfNobody {
    home: tempfile::TempDir,
    descriptors: Option<u64>,
}

impl OfNobody {
    pub fn new() -> Self {
        Self::with_descriptors(None)
    }

    /// With a daemon that may have so many descriptors.
    pub fn with_descriptors(most: Option<u64>) -> Self {
        let home = tempfile::Builder::new().prefix("kmsfs-test-").tempdir().unwrap();
        chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        // Where cargo builds, others may have no way to.
        fs::copy(env!("CARGO_BIN_EXE_kmsfs"), home.path().join("kmsfs")).unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let new = Self { home, descriptors: most };
        as_user(NOBODY, NOBODY, || fs::create_dir(new.root()).unwrap());
        for arguments in [&["init", "--dev", "backing"][..], &["mount", "--dev", "backing", "mnt"]] {
            assert!(new.run(arguments), "{arguments:?}");
        }
        new
    }

    pub fn root(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    fn run(&self, arguments: &[&str]) -> bool {
        let mut command = Command::new(self.home.path().join("kmsfs"));
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir(self.home.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.home.path());
        if let Some(most) = self.descriptors {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            // SAFETY: one system call between fork and exec.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?)) };
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for OfNobody {
    fn drop(&mut self) {
        let done = self.run(&["umount", "mnt"]);
        assert!(done || std::thread::panicking(), "umount");
    }
}
