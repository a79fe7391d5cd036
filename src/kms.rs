//! The key management service: makes data keys and unwraps them.
//!
//! [`Kms`] is what the rest of the project asks for, in its own words; [`CtyunKms`] answers it with the CTyun KMS. One
//! call goes down through the parts like this: `wire` names the path and writes the request, the limit of rate and
//! concurrency lets it pass (as configured, and as the service's complaints have taught `quota`), `sign` signs it with a fresh date, `http` carries it and reads a bounded answer,
//! `wire` reads the envelope, [`KmsError`] says what a refusal means, and `retry` asks the error whether to try
//! again before the deadline.
//!
//! What this room leaves to others: caching and sharing of calls (`keys`), and any trust in a wrapped key. **The KMS
//! does not authenticate what it unwraps** (a changed blob may decrypt to garbage), so the caller checks every key
//! against its file.

mod error;
mod http;
mod limit;
mod quota;
mod retry;
mod sign;
mod wire;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::crypto::secret::SecretBytes;

pub use error::{KmsError, Refusal, RefusalKind, Retry};
pub use http::EndpointError;
pub use sign::Profile;

use http::Http;
use limit::Limit;
use retry::RetryPolicy;
use sign::{Credentials, Now};
use wire::{Answer, Call};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key management service. Calls end within a deadline of the implementation, and a dropped future gives up its call.
pub trait Kms: Send + Sync + 'static {
    /// A new random data key, in plaintext and wrapped by the KMS key `key_id`. The service keeps no copy, so a call whose
    /// answer is lost costs nothing and is safe to repeat.
    fn generate_data_key<'a>(&'a self, key_id: &'a str, spec: KeySpec)
    -> BoxFuture<'a, Result<GeneratedKey, KmsError>>;

    /// The data key in `wrapped`, which must have `len` bytes. A key of another length, or one that the service says
    /// belongs to another KMS key, is [`KmsError::Lied`]. The bytes themselves are not authenticated.
    fn decrypt<'a>(&'a self, wrapped: &'a WrappedKey, len: usize) -> BoxFuture<'a, Result<SecretBytes, KmsError>>;

    /// The same data key wrapped by the primary version of `destination`; the plaintext stays inside the service.
    fn re_encrypt<'a>(
        &'a self,
        wrapped: &'a WrappedKey,
        destination: &'a str,
    ) -> BoxFuture<'a, Result<WrappedKey, KmsError>>;

    fn describe_key<'a>(&'a self, key_id: &'a str) -> BoxFuture<'a, Result<KeyDescription, KmsError>>;

    /// A new KMS key for data keys of `spec`; returns its id. Never retried: a second call would make a second key.
    fn create_key(&self, spec: KeySpec) -> BoxFuture<'_, Result<String, KmsError>>;

    /// Answers since the start by which the service asked for fewer calls, those included that a repetition made good.
    fn complaints(&self) -> u64 {
        0
    }
}

/// The kind of a data key and of the KMS key that wraps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeySpec {
    Aes256,
    Sm4_128,
}

impl KeySpec {
    /// Bytes of a data key.
    pub fn data_key_len(self) -> usize {
        match self {
            KeySpec::Aes256 => 32,
            KeySpec::Sm4_128 => 16,
        }
    }
}

/// A data key that only the KMS can open. Ids and blob stand as the KMS spells them; the version is empty where the
/// service named none. Nothing in here is secret, and nothing is authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WrappedKey {
    pub key_id: String,
    pub key_version: String,
    pub blob: String,
}

#[derive(Debug)]
pub struct GeneratedKey {
    pub plaintext: SecretBytes,
    pub wrapped: WrappedKey,
}

/// What the KMS says about one of its keys. `state` is the service's word; [`KeyDescription::is_enabled`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    pub key_id: String,
    pub state: String,
    pub spec: String,
    /// `None` where the service named no version.
    pub primary_version: Option<String>,
    pub origin: Option<String>,
    pub protection_level: Option<String>,
    pub automatic_rotation: Option<String>,
    /// Set while deletion is pending.
    pub delete_date: Option<String>,
}

impl KeyDescription {
    pub fn is_enabled(&self) -> bool {
        self.state.eq_ignore_ascii_case("enabled")
    }

    /// Whether its cipher is the one that data keys of `spec` are for.
    pub fn is_for(&self, spec: KeySpec) -> bool {
        let cipher = match spec {
            KeySpec::Aes256 => "AES",
            KeySpec::Sm4_128 => "SM4",
        };
        self.spec.to_ascii_uppercase().contains(cipher)
    }
}

/// Requests under way at the same time, where nothing else is configured.
pub const MAX_INFLIGHT: usize = 32;

/// How to reach the CTyun KMS. [`CtyunConfig::new`] fills in the defaults.
#[derive(Clone, Debug)]
pub struct CtyunConfig {
    /// Base address; the service's paths are appended. `https`, or `http` on a loopback host only, because the service's
    /// answers carry keys and are not signed.
    pub endpoint: String,
    pub access_key: String,
    pub secret_key: SecretBytes,
    pub profile: Profile,
    /// Certificates (PEM) to trust instead of the system's, for a KMS with a company's own CA.
    pub ca_pem: Option<Vec<u8>>,
    /// An HTTP proxy for `https` endpoints (CONNECT, so it sees ciphertext only). Proxies named in the environment are
    /// ignored, and loopback endpoints are always reached directly.
    pub proxy: Option<String>,
    pub connect_timeout: Duration,
    /// Bound of one attempt, the reading of the answer included.
    pub request_timeout: Duration,
    /// Bound of one call with all its attempts and waits.
    pub deadline: Duration,
    pub max_attempts: u32,
    /// Longest answer that is read, in bytes.
    pub max_response: usize,
    /// Requests under way at the same time.
    pub max_inflight: usize,
    /// Requests per second, in bursts of at most one second's worth; `None` for no limit.
    pub rate: Option<f64>,
}

impl CtyunConfig {
    pub fn new(endpoint: impl Into<String>, access_key: impl Into<String>, secret_key: SecretBytes) -> Self {
        Self {
            endpoint: endpoint.into(),
            access_key: access_key.into(),
            secret_key,
            profile: Profile::Native,
            ca_pem: None,
            proxy: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            max_attempts: 4,
            max_response: 64 * 1024,
            max_inflight: MAX_INFLIGHT,
            rate: None,
        }
    }
}

/// The CTyun KMS (product 10014047), reached over HTTP. Belongs to the tokio runtime that polls its futures.
pub struct CtyunKms {
    http: Http,
    credentials: Credentials,
    limit: Limit,
    retry: RetryPolicy,
    deadline: Duration,
    complaints: AtomicU64,
}

impl CtyunKms {
    /// Checks the configuration and loads the trusted certificates; asks nothing of the network.
    pub fn new(config: CtyunConfig) -> Result<Self, EndpointError> {
        let http = Http::new(&config)?;
        let limit = Limit::new(config.max_inflight, config.rate);
        let retry = RetryPolicy { max_attempts: config.max_attempts.max(1), ..RetryPolicy::default() };
        let deadline = config.deadline;
        let credentials = Credentials::new(config.profile, config.access_key, config.secret_key)?;
        Ok(Self { http, credentials, limit, retry, deadline, complaints: AtomicU64::new(0) })
    }

    /// The one way to the service: every method of [`Kms`] goes through here.
    async fn call(&self, call: Call<'_>) -> Result<Answer, KmsError> {
        let body = call.body();
        let deadline = Instant::now() + self.deadline;
        self.retry.run(call.api.name, deadline, call.api.repeatable, || self.attempt(&call, &body)).await
    }

    async fn attempt(&self, call: &Call<'_>, body: &str) -> Result<Answer, KmsError> {
        let turn = self.limit.enter().await;
        let headers = self.credentials.sign(call, body, Now::from_system_clock())?;
        let (status, answer) = self.http.post(call.api, headers, body.to_owned()).await?;
        let answer = wire::open_envelope(call.api, status, answer);
        match &answer {
            Ok(_) => self.limit.quota.granted(),
            Err(error) if error.is_throttled() => {
                self.complaints.fetch_add(1, Ordering::Relaxed);
                self.limit.quota.complained(turn.asked);
            }
            Err(_) => {}
        }
        answer
    }
}

impl Kms for CtyunKms {
    fn generate_data_key<'a>(
        &'a self,
        key_id: &'a str,
        spec: KeySpec,
    ) -> BoxFuture<'a, Result<GeneratedKey, KmsError>> {
        Box::pin(async move {
            let answer = self.call(wire::generate_data_key(key_id, spec)).await?;
            wire::generated_key(&answer, key_id, spec)
        })
    }

    fn decrypt<'a>(&'a self, wrapped: &'a WrappedKey, len: usize) -> BoxFuture<'a, Result<SecretBytes, KmsError>> {
        Box::pin(async move {
            let answer = self.call(wire::decrypt(wrapped)).await?;
            wire::decrypted_key(&answer, wrapped, len)
        })
    }

    fn re_encrypt<'a>(
        &'a self,
        wrapped: &'a WrappedKey,
        destination: &'a str,
    ) -> BoxFuture<'a, Result<WrappedKey, KmsError>> {
        Box::pin(async move {
            let answer = self.call(wire::re_encrypt(wrapped, destination)).await?;
            wire::wrapped_key(&answer, destination)
        })
    }

    fn describe_key<'a>(&'a self, key_id: &'a str) -> BoxFuture<'a, Result<KeyDescription, KmsError>> {
        Box::pin(async move {
            let answer = self.call(wire::describe_key(key_id)).await?;
            wire::key_description(&answer, key_id)
        })
    }

    fn create_key(&self, spec: KeySpec) -> BoxFuture<'_, Result<String, KmsError>> {
        Box::pin(async move {
            let answer = self.call(wire::create_key(spec)).await?;
            wire::created_key_id(&answer)
        })
    }

    fn complaints(&self) -> u64 {
        self.complaints.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for CtyunKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CtyunKms({})", self.http.endpoint())
    }
}

#[cfg(test)]
mod tests;
