//! The command line: what it takes, and what the help and the manual page say about it.

pub mod man;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A stand-in for the CTyun KMS
#[derive(Parser)]
#[command(name = "kms-mock", version, after_help = notes())]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT
    ///
    /// Serves the API of the CTyun KMS over HTTP, for developing and testing clients on one machine. It is not a key management
    /// service: whoever reads its directory has every key.
    ///
    /// When it is ready, it prints one line of JSON on standard output: "listening" (the endpoint), "access_key" and
    /// "credentials_file" (null if the environment or the seed file gave the secret key). Latencies, faults, the clock and a log of calls are reached
    /// over HTTP under /__mock/, see the README.
    #[command(after_help = notes())]
    Serve(Serve),
    /// Print this program's manual page
    #[command(hide = true)]
    Man,
}

#[derive(Args)]
pub struct Serve {
    /// Address to listen on; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7380")]
    pub listen: SocketAddr,
    /// Directory of the keys (mode 0700) [default: $XDG_STATE_HOME/kms-mock or ~/.local/state/kms-mock]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keep the keys in memory; --data then holds the generated credentials only
    #[arg(long)]
    pub in_memory: bool,
    /// Access key to accept [default: the one in credentials.toml, or a generated one]
    #[arg(long, value_name = "AK")]
    pub access_key: Option<String>,
    /// Close the control doors under /__mock/, which are unsigned and need a loopback address
    #[arg(long)]
    pub no_control: bool,
    /// Encrypt without authentication, like the blobs on the provider's page
    #[arg(long)]
    pub legacy_payload: bool,
    /// Send errors with HTTP status 200
    #[arg(long)]
    pub soft_errors: bool,
    /// Begin with the credentials and keys of a file, TOML or JSON (see the README); keys that are there already stay as they are
    #[arg(long, value_name = "FILE")]
    pub seed_file: Option<PathBuf>,
    /// Draw keys, ids, nonces and the chance in faults from this text, so that a run can be repeated; the keys are no secret then
    #[arg(long, value_name = "TEXT", requires = "in_memory")]
    pub seed: Option<String>,
}

/// The environment variable that may hold the secret key, which no command line ever does.
pub const SECRET_KEY: &str = "KMS_MOCK_SECRET_KEY";

/// A section of help and manual page: its title, and terms with what they mean.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: [Section; 3] = [
    (
        "Environment",
        &[(SECRET_KEY, "Secret key of --access-key. Without it, one is generated and kept in the data directory.")],
    ),
    (
        "Files",
        &[
            ("DIR/credentials.toml", "Access key and generated secret key (mode 0600)."),
            ("DIR/kms.redb", "The keys (mode 0600)."),
        ],
    ),
    (
        "Exit status",
        &[
            ("0", "SIGTERM or SIGINT stopped it."),
            ("1", "It could not start; the reason is on standard error."),
            ("2", "Wrong arguments."),
        ],
    ),
];

/// The sections as they stand behind the help.
fn notes() -> String {
    let section = |(title, terms): Section| {
        let lines = terms.iter().map(|(term, meaning)| format!("  {term:<21} {meaning}\n"));
        format!("{title}:\n{}", lines.collect::<String>())
    };
    SECTIONS.map(section).join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
