//! The command line.

pub mod exit_code;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::crypto::Suite;

/// A transparent encrypted file system whose keys a KMS controls.
#[derive(Debug, Parser)]
#[command(name = "kmsfs", version, about, after_help = exit_code::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes an empty directory an encrypted volume.
    Init(Init),
    /// Mounts a volume; returns when the mount answers.
    Mount(Mount),
    /// Unmounts and waits until everything is on disk.
    Umount(Umount),
    /// Says what a volume is, without a key.
    Info(Info),
    /// Reads a whole volume, verifies it, and says what is wrong; repairs what a crash left; copies out what is readable.
    Check(Check),
    /// Wraps the keys of a volume and of all its files by the newest version of the CMK, or by another CMK.
    Rotate(Rotate),
    /// Measures how fast this machine encrypts; needs no volume.
    Speed(Speed),
}

/// Which KMS to use. Access key and secret key come from the environment, a file or a systemd credential, never from
/// the command line.
#[derive(Debug, Clone, Args)]
pub struct KmsArgs {
    /// Use the embedded development KMS: its keys lie on this machine.
    #[arg(long, conflicts_with_all = ["kms", "key_id"])]
    pub dev: bool,
    /// The endpoint of the KMS, https://… (http on loopback only).
    #[arg(long, value_name = "URL")]
    pub kms: Option<String>,
    /// The CMK for new files.
    #[arg(long, value_name = "CMK")]
    pub key_id: Option<String>,
    /// The configuration file; without it the user's and the system's are looked for.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Init {
    /// The directory that is to hold the encrypted files; made if it is not there, else empty.
    pub backing: PathBuf,
    #[command(flatten)]
    pub kms: KmsArgs,
    /// The algorithms of the volume: aes-256-gcm, or sm4-gcm with SM3.
    #[arg(long, default_value = "aes-256-gcm")]
    pub suite: Suite,
    /// Leave file names, symlink targets and xattrs as they are.
    #[arg(long)]
    pub plain_names: bool,
    /// How many files, made in a row, share one KMS data key: fewer calls of the KMS.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub files_per_data_key: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Mount {
    /// The directory with the encrypted files.
    pub backing: PathBuf,
    /// Where the plaintext appears.
    pub mountpoint: PathBuf,
    #[command(flatten)]
    pub kms: KmsArgs,
    /// Stay in the foreground and log to the terminal.
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount options: ro, allow_other, nosuid, nodev, noexec, noatime, durability=fast.
    #[arg(short, long = "options", value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Where the daemon logs; without it kmsfs.log in the user's state directory.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Threads that serve the kernel.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub loops: u16,
    /// Begin with a new state file though the old one is missing or damaged: files that a crash cut are errors then.
    #[arg(long)]
    pub reset_state: bool,
    /// Refuse to mount unless the volume key has this fingerprint, which init printed.
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
}

#[derive(Debug, Args)]
pub struct Umount {
    pub mountpoint: PathBuf,
}

#[derive(Debug, Args)]
pub struct Info {
    /// The directory with the encrypted files.
    pub backing: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = exit_code::HELP)]
pub struct Check {
    /// The directory with the encrypted files.
    pub backing: PathBuf,
    #[command(flatten)]
    pub kms: KmsArgs,
    /// Read no data blocks: headers, keys, records, maps, slots and lengths only.
    #[arg(long)]
    pub quick: bool,
    /// Ask the KMS for no file's key: names, markers, links, xattrs, headers and lengths only.
    #[arg(long, conflicts_with = "quick")]
    pub structure: bool,
    /// Mend what crashes have left, and forget the sessions that did not end. The volume must not be mounted.
    #[arg(long, conflicts_with_all = ["quick", "structure"])]
    pub repair: bool,
    /// Copy everything that is readable into DIR, which must be empty or not exist.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "structure", "repair"])]
    pub salvage: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Refuse to go on unless the volume key has this fingerprint, which init printed.
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = exit_code::HELP)]
pub struct Rotate {
    /// The directory with the encrypted files. The volume must not be mounted.
    pub backing: PathBuf,
    #[command(flatten)]
    pub kms: KmsArgs,
    /// Count what would be re-wrapped, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Refuse to go on unless the volume key has this fingerprint, which init printed.
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
}

#[derive(Debug, Args)]
pub struct Speed {
    /// How long to measure, all in all.
    #[arg(long, default_value = "3", value_parser = measuring_time)]
    pub seconds: Duration,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Above zero, and at most an hour.
fn measuring_time(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|&seconds| seconds > 0.0 && seconds <= 3600.0);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not a number of seconds above 0, 3600 at most".to_owned())
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Init(args) => command::init::run(&args),
        Command::Mount(args) => command::mount::run(&args),
        Command::Umount(args) => command::umount::run(&args),
        Command::Info(args) => command::info::run(&args),
        Command::Check(args) => command::check::run(&args),
        Command::Rotate(args) => command::rotate::run(&args),
        Command::Speed(args) => command::speed::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kmsfs: {:#}", failure.error);
            failure.exit.into()
        }
    }
}
