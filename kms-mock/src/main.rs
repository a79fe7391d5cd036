//! `kms-mock serve`: the mock as a program of its own.

#![forbid(unsafe_code)]

use std::env::VarError;
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kms_mock::{Credential, MockConfig, MockKms, PayloadMode, Storage, credential_in};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// The environment variable that may hold the secret key, which no command line ever does.
const SECRET_KEY: &str = "KMS_MOCK_SECRET_KEY";

/// A stand-in for the CTyun KMS
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    ///
    /// The secret key is read from the environment variable KMS_MOCK_SECRET_KEY. Without it, one is generated and kept in the file
    /// credentials.toml (mode 0600) of the data directory.
    Serve(Serve),
}

#[derive(Args)]
struct Serve {
    /// Address to listen on; port 0 takes any free port
    #[arg(long, default_value = "127.0.0.1:7380")]
    listen: SocketAddr,
    /// Directory of the keys (mode 0700) [default: $XDG_STATE_HOME/kms-mock or ~/.local/state/kms-mock]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Keep the keys in memory; --data then holds the generated credentials only
    #[arg(long)]
    in_memory: bool,
    /// Access key to accept [default: the one in credentials.toml, or a generated one]
    #[arg(long)]
    access_key: Option<String>,
    /// Close the control doors under /__mock/, which are unsigned
    #[arg(long)]
    no_control: bool,
    /// Encrypt without authentication, like the blobs on the provider's page
    #[arg(long)]
    legacy_payload: bool,
    /// Send errors with HTTP status 200
    #[arg(long)]
    soft_errors: bool,
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Cli::parse().command;
    match run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kms-mock: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(serve: Serve) -> Result<(), Box<dyn Error>> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the mock says that it is ready, so that no signal is missed from then on.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (credential, credentials_file) = credential(&serve)?;
        let mock = MockKms::start(config(&serve, credential)?)?;
        let ready = json!({
            "listening": mock.endpoint(),
            "access_key": mock.credential().access_key,
            "credentials_file": credentials_file,
        });
        writeln!(std::io::stdout(), "{ready}")?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        mock.stop();
        Ok(())
    })
}

/// Half of the descriptors may be connections. Where the limit stays as it is, there are fewer.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn config(serve: &Serve, credential: Credential) -> Result<MockConfig, Box<dyn Error>> {
    let data = if serve.in_memory { Storage::InMemory } else { Storage::Dir(data_directory(serve)?) };
    let payload_mode = if serve.legacy_payload { PayloadMode::Legacy } else { PayloadMode::Gcm };
    Ok(MockConfig {
        data,
        listen: serve.listen,
        credentials: vec![credential],
        control: !serve.no_control,
        payload_mode,
        soft_errors: serve.soft_errors,
        ..MockConfig::default()
    })
}

/// The credential, and the file it lies in unless the environment gave the secret.
fn credential(serve: &Serve) -> Result<(Credential, Option<PathBuf>), Box<dyn Error>> {
    let access_key = serve.access_key.as_deref();
    if access_key.is_some_and(|key| key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err("an access key is printable ASCII without spaces".into());
    }
    match std::env::var(SECRET_KEY) {
        Ok(secret_key) if !secret_key.is_empty() => {
            let access_key = access_key.ok_or(format!("{SECRET_KEY} needs --access-key"))?.to_owned();
            Ok((Credential { access_key, secret_key }, None))
        }
        Err(VarError::NotUnicode(_)) => Err(format!("{SECRET_KEY} is not UTF-8").into()),
        _ if serve.in_memory && serve.data.is_none() => {
            Err(format!("--in-memory needs {SECRET_KEY}, or --data for the generated credentials").into())
        }
        _ => {
            let (credential, file) = credential_in(&data_directory(serve)?, access_key)?;
            Ok((credential, Some(file)))
        }
    }
}

fn data_directory(serve: &Serve) -> Result<PathBuf, Box<dyn Error>> {
    if let Some(data) = &serve.data {
        return Ok(data.clone());
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    Ok(state.ok_or("no home directory: give --data")?.join("kms-mock"))
}

/// An error with its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line += &format!(": {error}");
        cause = error.source();
    }
    line
}
