//! `kmsfs mount`: builds every part of a mounted volume, serves it, and ends it cleanly.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Mount;
use crate::cli::exit_code::Exit;
use crate::content;
use crate::crypto::{aead, secret};
use crate::durable::{Durability, Redo, Sessions};
use crate::fs::rounds::TEND;
use crate::fs::{Fs, FsOptions};
use crate::fuse::Adapter;
use crate::fuse::session::{self, MountOptions, Serving};
use crate::keys::Keys;

use super::daemon::{self, Ready, Side};
use super::kms_setup::{DEV_WARNING, KmsSetup, make_private};
use super::{OrExit, Outcome, fail};

/// While there are writes, the session is renewed so often (`docs/FORMAT.md` section 6).
const ROTATION: Duration = Duration::from_secs(300);

/// What `-o` says.
#[derive(Debug, Default)]
struct Options {
    read_only: bool,
    allow_other: bool,
    durability: Option<Durability>,
    io_uring: Option<bool>,
    flags: Vec<String>,
}

impl Options {
    fn parse(texts: &[String]) -> Outcome<Self> {
        let mut out = Self::default();
        for text in texts {
            match text.as_str() {
                "" | "defaults" => {}
                "durability=fast" => out.durability = Some(Durability::Fast),
                "durability=safe" => out.durability = Some(Durability::Safe),
                "io_uring" => out.io_uring = Some(true),
                "no_io_uring" => out.io_uring = Some(false),
                "ro" => out.read_only = true,
                "rw" => out.read_only = false,
                "allow_other" => out.allow_other = true,
                "nosuid" | "nodev" | "noexec" | "noatime" | "suid" | "dev" | "exec" | "atime" => {
                    out.flags.push(text.clone());
                }
                other => return fail(Exit::Usage, format!("unknown mount option {other:?}")),
            }
        }
        Ok(out)
    }
}

pub fn run(args: &Mount) -> Outcome {
    let options = Options::parse(&args.options)?;
    check_mountpoint(&args.backing, &args.mountpoint)?;
    // Before there are threads and secrets.
    let ready = if args.foreground {
        Ready::nobody()
    } else {
        match daemon::into_background().or_exit(Exit::Other, "cannot go into the background")? {
            Side::Daemon(ready) => ready,
            Side::Caller(None) => return Ok(()),
            Side::Caller(Some(code)) => std::process::exit(code.into()),
        }
    };
    daemon::harden();
    daemon::raise_descriptors();
    rustix::process::umask(rustix::fs::Mode::empty());
    start_log(args)?;
    serve(args, &options, ready)
}

fn serve(args: &Mount, options: &Options, mut ready: Ready) -> Outcome {
    let (root, unverified) = super::volume::read(&args.backing)?;
    let _lock = super::volume::lock(&root, &args.backing, options.read_only)?;
    let suite = unverified.claimed().suite;
    aead::self_test(suite).or_exit(Exit::Other, "the self-test of the cipher engines failed on this machine")?;
    let kms = KmsSetup::new(&args.kms, &unverified.claimed().id)?;
    let (volume, volume_keys) = super::volume::unlock(unverified, &kms)?;
    super::volume::expect_fingerprint(&volume_keys, args.fingerprint.as_deref())?;
    let sessions = Sessions::open(root.as_fd(), volume_keys.state.clone(), args.reset_state).map_err(|e| {
        let hint = " (to go on without it, give --reset-state: files that a crash cut are errors then)";
        super::Failure { exit: Exit::Volume, error: anyhow::anyhow!("{e}{hint}") }
    })?;
    let settings = kms.config.as_ref().map(|config| config.mount.clone()).unwrap_or_default();
    let durability = options.durability.or(settings.durability).unwrap_or(Durability::Safe);
    let redo = Redo::new(root.as_fd(), sessions.crashed()).or_exit(Exit::Volume, "cannot open the volume")?;
    let shared = Arc::new(content::Volume { keys: volume_keys, sessions, redo, durability });
    let keys = Keys::new(kms.kms.clone(), kms.keys_config(&volume)?, kms.runtime.handle().clone());
    let fs_options = FsOptions {
        read_only: options.read_only,
        change_owner: rustix::process::geteuid().is_root(),
        fetch_ahead: kms.fetches_ahead(),
    };
    let fs = Fs::new(shared.clone(), volume.names, volume.name_max, keys.clone(), root, fs_options)
        .or_exit(Exit::Volume, "cannot open the volume")?;
    let fs = Arc::new(fs);
    if !options.read_only {
        let crashed = shared.sessions.begin().or_exit(Exit::Volume, "cannot begin a session")?;
        if crashed > 0 {
            tracing::warn!(
                crashed,
                "earlier mounts of this volume did not end cleanly; kmsfs check --repair mends what they left"
            );
        }
    }
    let mounted = session::mount(
        &Adapter::new(fs.clone(), kms.runtime.handle().clone()),
        &MountOptions {
            mountpoint: args.mountpoint.clone(),
            source: args.backing.canonicalize().unwrap_or_else(|_| args.backing.clone()),
            read_only: options.read_only,
            allow_other: options.allow_other || settings.allow_other == Some(true),
            flags: options.flags.clone(),
            loops: if args.loops > 0 { args.loops.into() } else { settings.fuse_loops.unwrap_or(0) },
            io_uring: options.io_uring.or(settings.io_uring).unwrap_or(false),
        },
    )
    .or_exit(Exit::Mount, "cannot mount");
    if mounted.is_err() {
        // Nothing was written: the session need not count as crashed.
        fs.end();
    }
    let serving = mounted?;
    if !options.read_only {
        keys.warm_pool();
    }
    let device = serving.device();
    fs.set_invalidate(Box::new(move |ino| {
        if let Err(e) = device.invalidate(ino) {
            tracing::debug!(ino, "the kernel has nothing cached of this inode: {e}");
        }
    }));
    if kms.is_dev() {
        tracing::warn!("{DEV_WARNING}");
    }
    if secret::locking_failed() {
        tracing::warn!("the limit on locked memory is too low for all keys: some may reach swap (ulimit -l)");
    }
    on_signals(&kms, serving.mountpoint().to_owned());
    if !options.read_only {
        keep_durable(&kms, fs.clone());
    }
    look_ahead(&kms, fs.clone());
    tracing::info!(backing = %args.backing.display(), mountpoint = %serving.mountpoint().display(), "mounted");
    ready.tell();
    end(serving, &fs, kms)
}

fn end(serving: Serving, fs: &Fs, kms: KmsSetup) -> Outcome {
    let served = serving.wait();
    // Also where the loops ended with an error: once more does no harm.
    fs.end();
    kms.runtime.shutdown_timeout(Duration::from_millis(200));
    tracing::info!("unmounted");
    served.or_exit(Exit::Mount, "the FUSE session ended with an error")
}

fn check_mountpoint(backing_dir: &Path, mountpoint: &Path) -> Outcome {
    match std::fs::metadata(mountpoint) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return fail(Exit::Mount, format!("{} is not a directory", mountpoint.display())),
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            return fail(
                Exit::Mount,
                format!(
                    "{0} is a mount whose daemon has died; unmount it first: kmsfs umount {0}",
                    mountpoint.display()
                ),
            );
        }
        Err(e) => return Err(e).or_exit(Exit::Mount, format!("the mount point {}", mountpoint.display())),
    }
    let (Ok(b), Ok(m)) = (backing_dir.canonicalize(), mountpoint.canonicalize()) else { return Ok(()) };
    if b.starts_with(&m) || m.starts_with(&b) {
        return fail(Exit::Usage, "the mount point and the backing directory must not contain each other");
    }
    Ok(())
}

/// SIGTERM and SIGINT unmount; if that is refused because files are open, the daemon goes on and says so.
fn on_signals(kms: &KmsSetup, mountpoint: PathBuf) {
    use tokio::signal::unix::{SignalKind, signal};
    // Caught from here on, not from when the task runs first.
    let _runtime = kms.runtime.enter();
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be caught: end this mount with kmsfs umount");
        return;
    };
    kms.runtime.spawn(async move {
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            let target = mountpoint.clone();
            let done = tokio::task::spawn_blocking(move || session::unmount(&target)).await;
            if let Ok(Err(e)) = done {
                tracing::error!(mountpoint = %mountpoint.display(), "asked to end, but the mount is in use: {e}");
                eprintln!("kmsfs: {} is in use: {e}", mountpoint.display());
            }
        }
    });
}

/// Fetches keys ahead of who reads a tree.
fn look_ahead(kms: &KmsSetup, fs: Arc<Fs>) {
    kms.runtime.spawn(async move {
        let mut again = None;
        loop {
            match again {
                None => fs.wait_to_look_ahead().await,
                Some(after) => {
                    let _ = tokio::time::timeout(after, fs.wait_to_look_ahead()).await;
                }
            }
            let fs = fs.clone();
            // A panic is in the log; the next scan may go well.
            again = tokio::task::spawn_blocking(move || fs.look_ahead()).await.unwrap_or(None);
        }
    });
}

/// Ends rounds in time, and renews the session.
fn keep_durable(kms: &KmsSetup, fs: Arc<Fs>) {
    let rounds = fs.clone();
    kms.runtime.spawn(async move {
        loop {
            tokio::time::sleep(TEND).await;
            let fs = rounds.clone();
            let _ = tokio::task::spawn_blocking(move || fs.tend()).await;
        }
    });
    kms.runtime.spawn(async move {
        loop {
            tokio::time::sleep(ROTATION).await;
            let fs = fs.clone();
            let rotated = tokio::task::spawn_blocking(move || fs.rotate_session()).await;
            if let Ok(Err(e)) = rotated {
                tracing::error!("the session could not be renewed: {e}");
            }
        }
    });
}

/// The terminal in the foreground, else a file. `RUST_LOG` chooses what is logged; names and data never are.
fn start_log(args: &Mount) -> Outcome {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    if args.foreground && args.log.is_none() {
        log.with_writer(std::io::stderr).init();
        return Ok(());
    }
    let path = match &args.log {
        Some(path) => path.clone(),
        None => {
            let dir = super::state_dir();
            make_private(&dir).or_exit(Exit::Config, format!("cannot make {}", dir.display()))?;
            dir.join("kmsfs.log")
        }
    };
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .or_exit(Exit::Config, format!("cannot open the log {}", path.display()))?;
    log.with_ansi(false).with_writer(file).init();
    Ok(())
}
