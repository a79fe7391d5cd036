//! `kms-mock serve` as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Client;

/// A running process, killed on drop.
pub struct Served {
    pub child: Child,
    pub ready: Value,
}

impl Served {
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Served::run(command(arguments, environment))
    }

    pub fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        Served { child, ready: serde_json::from_str(&line).expect("JSON") }
    }

    pub fn text(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("text")
    }

    /// A client with the credentials of the file that the process names.
    pub fn client(&self) -> Client {
        let file = std::fs::read_to_string(self.text("credentials_file")).expect("the credentials");
        let file: toml::Table = toml::from_str(&file).expect("TOML");
        let value = |name: &str| file[name].as_str().expect("text").to_owned();
        assert_eq!(value("access_key"), self.text("access_key"));
        Client::with(self.text("listening"), &value("access_key"), &value("secret_key"))
    }

    pub fn signal(&mut self, signal: &str) -> ExitStatus {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-mock"));
    command.arg("serve").args(arguments).env_remove("KMS_MOCK_SECRET_KEY");
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.env_remove("XDG_STATE_HOME").env_remove("HOME").envs(environment.iter().copied());
    command
}
