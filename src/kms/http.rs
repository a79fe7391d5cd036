//! Carries one request and reads one bounded answer.
//!
//! The service does not sign its answers, and they carry keys: TLS is required outside loopback, redirects are not
//! followed, proxies are used only if the configuration names one, and the body is read into a buffer that never moves
//! and is wiped. (The chunks that TLS and HTTP hand over are theirs to free; they are not wiped.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, Proxy, Response, Url, redirect, retry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use zeroize::Zeroizing;

use super::CtyunConfig;
use super::error::KmsError;
use super::wire::Api;

/// Why a client cannot be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("the KMS endpoint {endpoint:?} is no usable address: {why}")]
    Endpoint { endpoint: String, why: String },
    #[error(
        "the KMS endpoint {endpoint:?} has no TLS: http is allowed on loopback only, because the answers carry keys; use https"
    )]
    PlainHttp { endpoint: String },
    #[error("the access key is empty or has characters that fit no HTTP header")]
    AccessKey,
    #[error("the secret key is empty")]
    SecretKey,
    #[error("the file of trusted certificates has none that can be read: {why}")]
    Certificates { why: String },
    #[error("TLS cannot be set up: {why}")]
    Tls { why: String },
}

pub(super) struct Http {
    client: Client,
    /// Without a slash at the end.
    base: String,
    max_response: usize,
}

impl Http {
    pub(super) fn new(config: &CtyunConfig) -> Result<Self, EndpointError> {
        let endpoint = Endpoint::parse(&config.endpoint)?;
        let mut builder = Client::builder()
            .user_agent(concat!("kmsfs/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls_config(config, &endpoint)?)
            .https_only(!endpoint.plain)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .connect_timeout(config.connect_timeout)
            .timeout(config.request_timeout)
            .pool_max_idle_per_host(config.max_inflight)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true);
        builder = match &config.proxy {
            Some(proxy) if !endpoint.loopback => with_proxy(builder, proxy)?,
            _ => builder.no_proxy(),
        };
        if endpoint.loopback {
            // So that no resolver can send "localhost" elsewhere.
            let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            builder = builder.resolve_to_addrs("localhost", &addresses.map(|address| SocketAddr::new(address, 0)));
        }
        let client = builder.build().map_err(|error| EndpointError::Tls { why: chain(&error) })?;
        Ok(Self { client, base: endpoint.base, max_response: config.max_response })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.base
    }

    /// HTTP status and body of the answer, whatever they say.
    pub(super) async fn post(
        &self,
        api: &Api,
        mut headers: HeaderMap,
        body: String,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), KmsError> {
        let start = Instant::now();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self.client.post(format!("{}{}", self.base, api.path)).headers(headers).body(body);
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                return KmsError::TimedOut { after: start.elapsed() };
            }
            let unsent = error.is_connect();
            let cause = chain(&error.without_url()).into();
            if unsent { KmsError::Unreachable { cause } } else { KmsError::Transport { cause } }
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        Ok((status, self.read_body(response, failed).await?))
    }

    async fn read_body(
        &self,
        mut response: Response,
        failed: impl Fn(reqwest::Error) -> KmsError,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let too_long = || KmsError::bad_response(format!("an answer of more than {} bytes", self.max_response));
        let announced = response.content_length();
        if announced.is_some_and(|len| len > self.max_response as u64) {
            return Err(too_long());
        }
        // Never grown: growing would leave a copy behind that nobody wipes.
        let capacity = announced.map_or(self.max_response, |len| len as usize);
        let mut body = Zeroizing::new(Vec::with_capacity(capacity));
        while let Some(chunk) = response.chunk().await.map_err(&failed)? {
            if chunk.len() > capacity - body.len() {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// A checked address.
struct Endpoint {
    base: String,
    loopback: bool,
    plain: bool,
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, EndpointError> {
        let bad = |why: &str| EndpointError::Endpoint { endpoint: redacted(text), why: why.to_owned() };
        let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it must not carry a user or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it must not carry a query or fragment"));
        }
        let loopback = is_loopback(url.host_str().ok_or_else(|| bad("it has no host"))?);
        let plain = match url.scheme() {
            "https" => false,
            "http" if loopback => true,
            "http" => return Err(EndpointError::PlainHttp { endpoint: text.to_owned() }),
            _ => return Err(bad("it must start with https://")),
        };
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), loopback, plain })
    }
}

/// A loopback address in numbers, or `localhost` itself.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without what stands before an `@`: it may be a password.
fn redacted(endpoint: &str) -> String {
    endpoint.rsplit_once('@').map_or_else(|| endpoint.to_owned(), |(_, rest)| format!("…@{rest}"))
}

fn with_proxy(builder: ClientBuilder, proxy: &str) -> Result<ClientBuilder, EndpointError> {
    let proxy = Proxy::https(proxy)
        .map_err(|error| EndpointError::Endpoint { endpoint: redacted(proxy), why: chain(&error.without_url()) })?;
    Ok(builder.proxy(proxy))
}

/// Trusts the configured certificates or else the system's. An `http` endpoint trusts none and needs none.
fn tls_config(config: &CtyunConfig, endpoint: &Endpoint) -> Result<ClientConfig, EndpointError> {
    let tls = |error: rustls::Error| EndpointError::Tls { why: error.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(tls)?;
    let roots = match &config.ca_pem {
        _ if endpoint.plain => RootCertStore::empty(),
        Some(pem) => certificates(pem)?,
        None => {
            let verifier = Arc::new(Verifier::new(provider).map_err(tls)?);
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        }
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(pem: &[u8]) -> Result<RootCertStore, EndpointError> {
    let bad = |why: String| EndpointError::Certificates { why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it has no PEM certificate".to_owned()));
    }
    Ok(roots)
}

/// An error with its causes. Those of the HTTP client say little without them.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::SecretBytes;

    fn make(endpoint: &str) -> Result<Http, EndpointError> {
        let secret = SecretBytes::copy_of(b"secret").expect("short");
        Http::new(&CtyunConfig::new(endpoint, "ak", secret))
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["http://127.0.0.1:8080", "http://127.9.9.9", "http://[::1]:1/base/", "http://localhost:8080"] {
            assert!(make(good).is_ok(), "{good}");
        }
        for bad in [
            "http://kms.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://0.0.0.0",
            "http://127.0.0.1.example.com",
        ] {
            assert!(matches!(make(bad), Err(EndpointError::PlainHttp { .. })), "{bad}");
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused_without_their_password() {
        for bad in ["", "kms", "ftp://127.0.0.1", "https://user:hunter2@kms.example.com", "https://k.example.com/?a=b"]
        {
            let error = make(bad).err().unwrap_or_else(|| panic!("{bad} is refused"));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn https_endpoints_load_the_trusted_certificates() {
        match make("https://kms.example.com/base/") {
            Ok(http) => assert_eq!(http.endpoint(), "https://kms.example.com/base"),
            // A machine without any trusted certificate.
            Err(error) => assert!(matches!(error, EndpointError::Tls { .. }), "{error}"),
        }
        let secret = SecretBytes::copy_of(b"secret").expect("short");
        let mut config = CtyunConfig::new("https://kms.example.com", "ak", secret);
        config.ca_pem = Some(b"not a certificate".to_vec());
        assert!(matches!(Http::new(&config), Err(EndpointError::Certificates { .. })));
    }
}
