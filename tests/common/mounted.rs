//! The guard: a volume in a directory of its own, its KMS, and the daemon that serves it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use kms_mock::{MockConfig, MockKms};
use tempfile::TempDir;

use super::{Setup, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A mounted volume. Dropping it unmounts, and checks that the daemon ended well and held on to nothing.
pub struct Mounted {
    pub setup: Setup,
    pub kms: Option<MockKms>,
    pub key_id: String,
    dir: TempDir,
    backing: PathBuf,
    config: String,
    daemon: Option<Child>,
    /// Set where a test leaves the daemon in a state that the last check can't judge.
    unchecked: bool,
    /// What the commands see besides.
    pub environment: Vec<(&'static str, &'static str)>,
}

/// The binary under test, in a world of its own: nothing of the user's configuration reaches it.
pub fn kmsfs(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KMSFS_") || name == "CREDENTIALS_DIRECTORY" {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("RUST_LOG", "info")
        .stdin(Stdio::null());
    command
}

impl Mounted {
    /// A new volume, mounted.
    pub fn new(setup: &Setup) -> Self {
        Self::with_config(setup, "")
    }

    /// With a configuration file of this text.
    pub fn with_config(setup: &Setup, config: &str) -> Self {
        let mut new = Self::unmounted(setup, config);
        new.mount();
        new
    }

    /// A new volume that is not mounted yet.
    pub fn unmounted(setup: &Setup, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-test-").tempdir().expect("a temporary directory");
        // Other users have to get through to the mount.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("mode of the directory");
        let config_of_kms = MockConfig { control: true, ..MockConfig::default() };
        let kms = (!setup.dev).then(|| MockKms::start(config_of_kms).expect("the mock KMS starts"));
        let spec = if setup.suite == "sm4-gcm" { "Ctyun_SM4" } else { "AES_256" };
        let key_id = kms.as_ref().map(|kms| kms.create_key(spec).expect("a CMK")).unwrap_or_default();
        let backing = dir.path().join("backing");
        std::fs::create_dir(dir.path().join("mnt")).expect("the mount point");
        let new = Self {
            setup: *setup,
            kms,
            key_id,
            backing,
            dir,
            config: config.to_owned(),
            daemon: None,
            unchecked: false,
            environment: Vec::new(),
        };
        let mut init = new.command();
        init.arg("init").arg(&new.backing).args(["--suite", setup.suite]);
        if setup.plain_names {
            init.arg("--plain-names");
        }
        if setup.dev {
            init.arg("--dev");
        }
        let done = init.output().expect("kmsfs init runs");
        assert!(done.status.success(), "init: {}", text(&done));
        new
    }

    /// The binary with this volume's KMS in its environment.
    pub fn command(&self) -> Command {
        let mut command = kmsfs(self.dir.path());
        command.envs(self.environment.iter().copied());
        if let Some(kms) = &self.kms {
            let credential = kms.credential();
            command
                .env("KMSFS_KMS_ENDPOINT", kms.endpoint())
                .env("KMSFS_KMS_KEY_ID", &self.key_id)
                .env("KMSFS_KMS_ACCESS_KEY", credential.access_key)
                .env("KMSFS_KMS_SECRET_KEY", credential.secret_key);
        }
        if !self.config.is_empty() {
            let path = self.dir.path().join("config.toml");
            std::fs::write(&path, &self.config).expect("the configuration file");
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        }
        command
    }

    /// `kmsfs mount -f` with these options, not started.
    pub fn mount_command(&self, options: &str) -> Command {
        let mut mount = self.command();
        mount.arg("mount").arg(&self.backing).arg(self.root()).arg("-f").arg("--log").arg(self.log_path());
        if self.setup.dev {
            mount.arg("--dev");
        }
        if !options.is_empty() {
            mount.args(["-o", options]);
        }
        // The same tests for the other way to the kernel, which root has to allow (docs/DESIGN.md, "The ways to the kernel").
        if std::env::var_os("KMSFS_TEST_IO_URING").is_some() {
            mount.args(["-o", "io_uring"]);
        }
        if !self.config.is_empty() {
            mount.arg("--config").arg(self.dir.path().join("config.toml"));
        }
        mount
    }

    /// Mounts with the set-up's options and waits until the mount answers.
    pub fn mount(&mut self) {
        self.mount_with(self.setup.options);
    }

    pub fn mount_with(&mut self, options: &str) {
        assert!(self.daemon.is_none(), "mounted already");
        let errors = std::fs::File::options().create(true).append(true).open(self.dir.path().join("stderr")).unwrap();
        let mut child = self.mount_command(options).stderr(errors).spawn().expect("kmsfs mount runs");
        let until = Instant::now() + PATIENCE;
        while !is_mounted(&self.root()) {
            if let Some(status) = child.try_wait().expect("its status") {
                panic!("mount ended with {status}\n{}", self.log());
            }
            if Instant::now() > until {
                let _ = child.kill();
                panic!("not mounted within {PATIENCE:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.daemon = Some(child);
        // Answered only once the daemon serves.
        std::fs::metadata(self.root()).expect("the mount answers");
    }

    /// Unmounts by `kmsfs umount` and checks the end of the daemon.
    pub fn unmount(&mut self) {
        let mut child = self.daemon.take().expect("mounted");
        if !self.unchecked {
            self.check_for_leaks(child.id());
        }
        let done = self.umount_patiently();
        if !done.status.success() {
            let _ = child.kill();
            panic!("umount: {}\n{}", text(&done), self.log());
        }
        let status = wait_for(&mut child);
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log());
    }

    /// `kmsfs umount`, again while something that is just ending still uses the mount.
    fn umount_patiently(&self) -> Output {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let done = self.umount_command().output().expect("kmsfs umount runs");
            if done.status.code() != Some(7) || Instant::now() > until {
                return done;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn umount_command(&self) -> Command {
        let mut umount = self.command();
        umount.arg("umount").arg(self.root());
        umount
    }

    /// A clean unmount and a mount: nothing is in any cache.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Ends the daemon without warning and takes the dead mount away with the tool.
    pub fn kill9(&mut self) {
        let mut child = self.daemon.take().expect("mounted");
        child.kill().expect("kill");
        let _ = child.wait();
        let done = self.umount_patiently();
        assert!(done.status.success(), "umount of a dead mount: {}", text(&done));
        assert!(!is_mounted(&self.root()));
    }

    /// The process that serves.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").id()
    }

    pub fn kms(&self) -> &MockKms {
        self.kms.as_ref().expect("no --dev volume")
    }

    /// The mount point.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path on the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// From now on the volume is the one there.
    pub fn set_backing(&mut self, backing: PathBuf) {
        assert!(self.daemon.is_none(), "not while it is mounted");
        self.backing = backing;
    }

    /// From now on commands have this configuration file.
    pub fn set_config(&mut self, config: &str) {
        self.config = config.to_owned();
    }

    /// A directory of the test's own, beside the backing.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the daemons have logged so far.
    pub fn log(&self) -> String {
        let read = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        format!("{}{}", read(self.log_path()), read(self.dir.path().join("stderr")))
    }

    pub fn wait_for_log(&self, words: &str) {
        wait_until(&format!("{words:?} in the log"), PATIENCE, || self.log().contains(words));
    }

    /// The stored file of one on the mount: it has the same inode number.
    pub fn stored(&self, path: &Path) -> PathBuf {
        use std::os::unix::fs::MetadataExt;
        let ino = std::fs::symlink_metadata(path).expect("the file is there").ino();
        let mut found = None;
        walk(&self.backing, &mut |entry| {
            if std::fs::symlink_metadata(entry).is_ok_and(|meta| meta.ino() == ino) {
                found = Some(entry.to_owned());
            }
        });
        found.expect("its stored file is in the backing directory")
    }

    /// For tests that leave a daemon which can't be judged.
    pub fn leave_unchecked(&mut self) {
        self.unchecked = true;
    }

    /// Once nobody has a file open, no descriptor of a removed file is left.
    fn check_for_leaks(&self, pid: u32) {
        let fds = format!("/proc/{pid}/fd");
        let backing = self.backing.canonicalize().expect("the backing directory is there");
        let leaked = || -> Vec<PathBuf> {
            let Ok(fds) = std::fs::read_dir(&fds) else { return Vec::new() };
            let gone =
                |fd: &Path| std::fs::metadata(fd).is_ok_and(|meta| std::os::unix::fs::MetadataExt::nlink(&meta) == 0);
            // By the link count, not by the path: a file that lost one of two names is not gone.
            let fds = fds.flatten().map(|fd| fd.path()).filter(|fd| gone(fd));
            fds.filter_map(|fd| std::fs::read_link(fd).ok()).filter(|to| to.starts_with(&backing)).collect()
        };
        let until = Instant::now() + Duration::from_secs(5);
        while !leaked().is_empty() {
            assert!(Instant::now() < until, "descriptors of removed files are left: {:?}", leaked());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// After a clean end: no file that a crash may leave.
    fn check_backing(&self) {
        let entries = std::fs::read_dir(&self.backing).into_iter().flatten().flatten();
        let left: Vec<_> =
            entries.map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with("kmsfs.tmp")).collect();
        assert!(left.is_empty(), "temporary files are left: {left:?}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("--- log of the daemon ({})\n{}\n---", self.setup.name, &log[from..]);
            if let Some(mut child) = self.daemon.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if is_mounted(&self.root()) {
                let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
            }
            return;
        }
        if self.daemon.is_none() {
            return;
        }
        // A panic of a check must not leave the mount behind.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.unmount()));
        if is_mounted(&self.root()) {
            let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
        }
        if let Err(panic) = checked {
            eprintln!("{}", self.log());
            std::panic::resume_unwind(panic);
        }
        if !self.unchecked {
            self.check_backing();
        }
    }
}

/// Waits for a process with a deadline.
pub fn wait_for(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("its status") {
            return status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("the process has not ended within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_mounted(path: &Path) -> bool {
    let Ok(path) = path.parent().expect("it has one").canonicalize().map(|p| p.join(path.file_name().unwrap())) else {
        return false;
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path.to_str().expect("a plain path")))
}

/// Every entry below `dir`, not following symlinks.
pub fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        each(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, each);
        }
    }
}

/// Both outputs of a command, for messages.
pub fn text(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
