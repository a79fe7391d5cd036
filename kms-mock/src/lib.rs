//! A stand-in for the CTyun KMS: its API, its signatures, its error table.
//!
//! [`MockKms::start`] runs it on a thread of its own; dropping the handle stops it. `README.md` says what is faithful to the
//! service, what is modelled and what is invented.

#![forbid(unsafe_code)]

mod access;
mod api;
mod asymmetric;
mod auth;
mod blob;
mod calls;
mod certificate;
mod clock;
mod console;
mod control;
mod credentials;
mod dice;
mod envelope;
pub mod error;
mod fault;
mod fields;
mod gate;
mod import_token;
mod key;
mod latency;
mod openapi;
#[cfg(test)]
mod openssl;
mod pki;
mod random;
mod routes;
mod seed_file;
mod server;
mod service;
mod store;
mod tag;
mod tenants;
mod usage;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

pub use crate::blob::PayloadMode;
pub use crate::calls::{CallLog, CallRecord};
pub use crate::fault::{Fault, FaultKind};
pub use crate::key::KeyState;
pub use crate::latency::Latency;
pub use crate::seed_file::{SeedFile, SeedFileError};
pub use crate::service::Switches;
pub use crate::store::{ChangeError, StoreError};
pub use crate::tenants::Credential;

use crate::fault::Waiting;
use crate::key::{DAY, Key, KeySpec, Protection, RestingState};
use crate::random::Random;
use crate::seed_file::PlantError;
use crate::service::Service;
use crate::store::Store;
use crate::tenants::{Tenant, Tenants};

/// Where the keys live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// They die with the mock.
    InMemory,
    /// A directory of its own with mode 0700, made if it is not there.
    Dir(PathBuf),
}

#[derive(Debug, Clone)]
pub struct MockConfig {
    pub data: Storage,
    pub listen: SocketAddr,
    /// Who may call, besides the credentials of the seed file. If there are none at all, one is generated, and kept in the
    /// directory of the store if there is one.
    pub credentials: Vec<Credential>,
    /// Credentials and keys to begin with. A key that the store has already stays as it is.
    pub seed_file: SeedFile,
    /// Opens the control doors under `/__mock/`; on a loopback address only.
    pub control: bool,
    pub payload_mode: PayloadMode,
    /// Errors come with HTTP status 200.
    pub soft_errors: bool,
    /// See [`Switches::lenient`].
    pub lenient: bool,
    /// How far the date of a request may be from the clock of the mock.
    pub skew: Duration,
    /// How long a client may take to send a header (also: how long a connection may be idle) or a body.
    pub read_timeout: Duration,
    /// Cloud products with a default CMK, `alias/<product>`.
    pub seed_products: Vec<String>,
    /// Draws every key, id and nonce, and the chance in latencies and faults, from this text instead of the operating system's
    /// generator: for tests that must repeat themselves, and for nothing else. Only in memory: a second start on a directory would
    /// draw the ids and nonces of the first once more.
    pub seed: Option<String>,
}

impl Default for MockConfig {
    fn default() -> Self {
        MockConfig {
            data: Storage::InMemory,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            credentials: Vec::new(),
            seed_file: SeedFile::default(),
            control: false,
            payload_mode: PayloadMode::Gcm,
            soft_errors: false,
            lenient: false,
            skew: Duration::from_secs(Switches::default().skew_s),
            read_timeout: Duration::from_secs(30),
            seed_products: vec!["ecs".to_owned()],
            seed: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the control doors are unsigned and need a loopback address, not {0}")]
    ControlInTheOpen(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("a seed needs keys in memory: on a directory it would draw the same ids and nonces at every start")]
    SeedOnDisk,
    #[error("cannot start the server thread")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    SeedFile(#[from] SeedFileError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PlantError> for StartError {
    fn from(error: PlantError) -> Self {
        match error {
            PlantError::File(error) => StartError::SeedFile(error),
            PlantError::Store(error) => StartError::Store(error),
        }
    }
}

/// The OpenAPI document of all APIs that the mock has, as it is served under `/__mock/openapi.json`.
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Why a key could not be made or changed through the handle.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no key spec {0:?}")]
    UnknownSpec(String),
    #[error("the state {0:?} cannot be given to a key that has material")]
    NotThisState(KeyState),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        KeyError::Change(error.into())
    }
}

/// A running mock. Dropping it stops it and cuts off requests that hang.
pub struct MockKms {
    service: Arc<Service>,
    address: SocketAddr,
    credential: Credential,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for MockKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MockKms({})", self.address)
    }
}

impl MockKms {
    /// Starts the mock on a thread of its own and returns once it listens. It may be called from anywhere, inside a runtime too.
    pub fn start(config: MockConfig) -> Result<MockKms, StartError> {
        if config.control && !config.listen.ip().is_loopback() {
            return Err(StartError::ControlInTheOpen(config.listen));
        }
        if config.seed.is_some() && config.data != Storage::InMemory {
            return Err(StartError::SeedOnDisk);
        }
        let (store, credentials) = open_store(&config)?;
        let credential = credentials[0].clone();
        let service = Arc::new(build_service(&config, store, credentials)?);
        let listener = listen(config.listen)?;
        let address = listener.local_addr().map_err(StartError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let thread = spawn(listener, service.clone(), stopped).map_err(StartError::Thread)?;
        Ok(MockKms { service, address, credential, stop, thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens; a later mock may listen there again.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first credential.
    pub fn credential(&self) -> Credential {
        self.credential.clone()
    }

    /// Makes an enabled key of the spec `AES_256`, `Ctyun_SM4`, `RSA_2048` or `Ctyun_SM2` (to encrypt and decrypt) and returns its
    /// `cmkUuid`.
    pub fn create_key(&self, spec: &str) -> Result<String, KeyError> {
        let spec = KeySpec::parse(spec).ok_or_else(|| KeyError::UnknownSpec(spec.to_owned()))?;
        let key = Key::generate(spec, Protection::of_new(spec), self.service.clock.now(), &self.service.random);
        let id = key.id.clone();
        self.service.store.change(|state| {
            state.keys.put(key);
            Ok::<_, StoreError>(())
        })?;
        Ok(id)
    }

    pub fn enable_key(&self, id: &str) -> Result<(), KeyError> {
        self.set_key_state(id, KeyState::Enabled)
    }

    pub fn disable_key(&self, id: &str) -> Result<(), KeyError> {
        self.set_key_state(id, KeyState::Disabled)
    }

    /// Plans the deletion of a key, as soon as the service would allow: in seven days by the clock of the mock.
    pub fn schedule_deletion(&self, id: &str) -> Result<(), KeyError> {
        self.set_key_state(id, KeyState::PendingDeletion)
    }

    /// Deletes a key for good, at once.
    pub fn delete_now(&self, id: &str) -> Result<(), KeyError> {
        let deleted: Result<(), ChangeError> = self.service.store.change(|state| {
            state.keys.get(id).ok_or(ChangeError::NoSuchKey)?;
            state.delete_key(id);
            Ok(())
        });
        Ok(deleted?)
    }

    /// Puts a key into a state, whatever its state is now.
    pub fn set_key_state(&self, id: &str, state: KeyState) -> Result<(), KeyError> {
        let delete_at = self.service.clock.now() + 7 * DAY;
        let resting = match state {
            KeyState::Enabled => Some(RestingState::Enabled),
            KeyState::Disabled => Some(RestingState::Disabled),
            KeyState::PendingDeletion => None,
            KeyState::PendingImport => return Err(KeyError::NotThisState(state)),
        };
        let change = self.service.store.change_key(id, |key| {
            match resting {
                // Without material there is nothing to enable.
                Some(_) if key.versions.is_empty() => return Err(error::KMS_0207),
                Some(resting) => (key.resting, key.delete_at) = (resting, None),
                None => key.delete_at = Some(delete_at),
            }
            Ok(())
        });
        Ok(change.map(drop)?)
    }

    /// Gives a key a new primary version; the older ones keep decrypting.
    pub fn rotate_key(&self, id: &str) -> Result<(), KeyError> {
        let now = self.service.clock.now();
        let change = self.service.store.change_key(id, |key| {
            if key.versions.is_empty() {
                return Err(error::KMS_0306);
            }
            key.rotate(now, &self.service.random);
            Ok(())
        });
        Ok(change.map(drop)?)
    }

    /// Calls of an API since the start or the last reset: all that reached its route, whatever became of them.
    pub fn calls(&self, api: &str) -> u64 {
        self.service.calls.count(api)
    }

    /// How often a key has been used for a cryptographic operation since the start or the last reset.
    pub fn key_uses(&self, id: &str) -> u64 {
        self.service.usage.of(id)
    }

    /// The latest calls (at most 10 000), oldest first.
    pub fn call_log(&self) -> Vec<CallRecord> {
        self.service.calls.since(0, None).calls
    }

    /// The latest calls after the one with the number `since` (0 for all), of one API or of all, and what the log has lost of them.
    pub fn calls_since(&self, since: u64, api: Option<&str>) -> CallLog {
        self.service.calls.since(since, api)
    }

    pub fn reset_calls(&self) {
        self.service.calls.reset();
    }

    /// Adds a fault; faults of the same phase are used up in the order in which they were added.
    pub fn inject(&self, fault: Fault) {
        self.service.faults.inject(fault);
    }

    /// Adds a fault that strikes each call only with this probability; `times` counts those that it strikes.
    pub fn inject_at_random(&self, fault: Fault, probability: f64) {
        self.service.faults.inject_all([Waiting { fault, probability: Some(probability) }]);
    }

    /// Adds several faults in one step.
    pub fn inject_all(&self, faults: impl IntoIterator<Item = Fault>) {
        self.service.faults.inject_all(faults.into_iter().map(|fault| Waiting { fault, probability: None }));
    }

    /// Makes every call of an API wait (`None`: of every API that has no latency of its own), until `None` takes it away.
    pub fn set_latency(&self, api: Option<&str>, latency: Option<Latency>) {
        self.service.latencies.set(api, latency);
    }

    /// Begins the draws of latencies and probabilities anew; see [`MockConfig::seed`].
    pub fn set_seed(&self, seed: u64) {
        self.service.dice.seed(seed);
    }

    /// Forgets all faults and closes the connections that hang.
    pub fn clear_faults(&self) {
        self.service.faults.clear();
    }

    /// Calls a second that each access key may make (seconds by the clock of the mock); `None` for no limit.
    pub fn set_quota(&self, per_second: Option<u32>) {
        self.service.tenants.set_quota(per_second);
    }

    /// Calls a second that each access key may make of one API, besides its quota in all; `None` for no limit.
    pub fn set_api_quota(&self, api: &str, per_second: Option<u32>) {
        self.service.tenants.set_api_quota(api, per_second);
    }

    /// Freezes or unfreezes an access key (KMS.0406); false if there is no such access key.
    pub fn set_frozen(&self, access_key: &str, frozen: bool) -> bool {
        self.service.tenants.set_frozen(access_key, frozen).is_some()
    }

    /// Moves the clock of the mock forward: windows end, keys rotate, and dates of requests may fall out of the allowed skew
    /// (see [`Switches::skew_s`]).
    pub fn advance_clock(&self, by: Duration) {
        self.service.clock.advance(by);
    }

    /// Moves the clock of the mock by seconds, back too, like a clock that is set right.
    pub fn shift_clock(&self, seconds: i64) {
        self.service.clock.shift(seconds);
    }

    pub fn switches(&self) -> Switches {
        self.service.switches()
    }

    pub fn set_switches(&self, switches: Switches) {
        self.service.set_switches(switches);
    }

    /// Stops and waits until the port is free and the store is closed.
    pub fn stop(self) {}
}

impl Drop for MockKms {
    fn drop(&mut self) {
        self.service.faults.clear();
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been reported by its own thread.
            let _ = thread.join();
        }
    }
}

/// The store, and at least one credential.
fn open_store(config: &MockConfig) -> Result<(Store, Vec<Credential>), StartError> {
    let store = match &config.data {
        Storage::InMemory => Store::in_memory(),
        Storage::Dir(directory) => {
            store::private_directory(directory)?;
            Store::open(directory)?
        }
    };
    let given: Vec<_> = config.credentials.iter().cloned().chain(config.seed_file.credentials()).collect();
    let credentials = match (&config.data, given.is_empty()) {
        (_, false) => given,
        (Storage::InMemory, true) => vec![Credential::generate().map_err(StoreError::from)?],
        (Storage::Dir(directory), true) => vec![credentials::load_or_generate(directory, None)?],
    };
    Ok((store, credentials))
}

fn build_service(config: &MockConfig, store: Store, credentials: Vec<Credential>) -> Result<Service, StartError> {
    let tenants = Tenants::default();
    for credential in credentials {
        let secret_key = Zeroizing::new(credential.secret_key);
        tenants.put(&credential.access_key, Tenant { secret_key, frozen: false, quota: None });
    }
    let switches = Switches {
        lenient: config.lenient,
        soft_errors: config.soft_errors,
        payload_mode: config.payload_mode,
        skew_s: config.skew.as_secs(),
        ..Switches::default()
    };
    let random = match &config.seed {
        Some(seed) => Random::from_seed(seed),
        None => Random::from_system().map_err(StoreError::from)?,
    };
    let service = Service::new(store, tenants, random, switches, config.control, config.read_timeout);
    for product in &config.seed_products {
        service.seed(product)?;
    }
    let now = service.clock.now();
    service.store.change(|state| config.seed_file.plant(state, now, &service.random))?;
    Ok(service)
}

/// The credential of a directory: the file `credentials.toml` in it, made with mode 0600 if it is not there. Returns its path too.
/// For a binary that must tell its user where the secret lies.
pub fn credential_in(
    directory: &std::path::Path,
    access_key: Option<&str>,
) -> Result<(Credential, PathBuf), StoreError> {
    store::private_directory(directory)?;
    Ok((credentials::load_or_generate(directory, access_key)?, credentials::path(directory)))
}

/// As many as may be open; the kernel makes it fewer if `net.core.somaxconn` says so.
const BACKLOG: i32 = 4096;

/// Bound here rather than on the server's thread, so that the caller hears of an address that is taken.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })?;
    listener.set_nonblocking(true).map_err(|source| StartError::Listen { address, source })?;
    // std asks for 128. In a rush of connections, those that find the queue full try again a second later, and then ever later.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| StartError::Listen { address, source: error.into() })?;
    Ok(listener)
}

/// How many slow calls are worked on at a time; more of them wait for one another, and nobody else does.
const SLOW_THREADS: usize = 2;

fn spawn(listener: TcpListener, service: Arc<Service>, stopped: watch::Receiver<bool>) -> io::Result<JoinHandle<()>> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(SLOW_THREADS).build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    thread::Builder::new()
        .name("kms-mock".to_owned())
        .spawn(move || runtime.block_on(server::run(listener, service, stopped)))
}
