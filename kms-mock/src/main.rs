//! `kms-mock`: the mock as a program of its own.

#![forbid(unsafe_code)]

mod cli;

use std::env::VarError;
use std::error::Error;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kms_mock::{Credential, MockConfig, MockKms, PayloadMode, SeedFile, Storage, credential_in};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command, SECRET_KEY, Serve};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => run(&serve),
        Command::Man => cli::man::write(&mut stdout()).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kms-mock: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(serve: &Serve) -> Result<(), Box<dyn Error>> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the mock says that it is ready, so that no signal is missed from then on.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let seed_file = serve.seed_file.as_deref().map(SeedFile::read).transpose()?.unwrap_or_default();
        let (credential, credentials_file) = credential(serve, &seed_file)?;
        let mock = MockKms::start(config(serve, credential, seed_file)?)?;
        let ready = json!({
            "listening": mock.endpoint(),
            "access_key": mock.credential().access_key,
            "credentials_file": credentials_file,
        });
        writeln!(stdout(), "{ready}")?;
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

fn config(serve: &Serve, credential: Option<Credential>, seed_file: SeedFile) -> Result<MockConfig, Box<dyn Error>> {
    let data = if serve.in_memory { Storage::InMemory } else { Storage::Dir(data_directory(serve)?) };
    let payload_mode = if serve.legacy_payload { PayloadMode::Legacy } else { PayloadMode::Gcm };
    Ok(MockConfig {
        data,
        listen: serve.listen,
        credentials: credential.into_iter().collect(),
        seed_file,
        control: !serve.no_control,
        payload_mode,
        soft_errors: serve.soft_errors,
        seed: serve.seed.clone(),
        ..MockConfig::default()
    })
}

/// The credential, and the file it lies in unless the environment gave the secret. None if the seed file has credentials and the
/// user gave no other.
fn credential(serve: &Serve, seed_file: &SeedFile) -> Result<(Option<Credential>, Option<PathBuf>), Box<dyn Error>> {
    let access_key = serve.access_key.as_deref();
    if access_key.is_some_and(|key| !Credential::is_access_key(key)) {
        return Err("an access key is printable ASCII without spaces".into());
    }
    match std::env::var(SECRET_KEY) {
        Ok(secret_key) if !secret_key.is_empty() => {
            let access_key = access_key.ok_or(format!("{SECRET_KEY} needs --access-key"))?.to_owned();
            Ok((Some(Credential { access_key, secret_key }), None))
        }
        Err(VarError::NotUnicode(_)) => Err(format!("{SECRET_KEY} is not UTF-8").into()),
        _ if access_key.is_none() && seed_file.credentials().next().is_some() => Ok((None, None)),
        _ if serve.in_memory && serve.data.is_none() => Err(format!(
            "--in-memory needs {SECRET_KEY}, a seed file with credentials, or --data for the generated ones"
        )
        .into()),
        _ => {
            let (credential, file) = credential_in(&data_directory(serve)?, access_key)?;
            Ok((Some(credential), Some(file)))
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
