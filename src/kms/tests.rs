//! The client against a server that follows a script: what it sends, and what it makes of every kind of trouble.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const ID: &str = "241ede22-6261-4617-9caf-10d89990516c";
const VERSION: &str = "49ec76d7-cc4c-400e-9f19-f9001587ae0f";
const KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

/// What the server does with a request. The last step of a script is repeated for ever.
#[derive(Clone)]
enum Step {
    Answer(u16, String),
    /// These bytes, then the connection is closed.
    Raw(String),
    Hang,
    Drop,
}

#[derive(Clone)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

struct Server {
    endpoint: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(script: impl Into<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script.into()));
        let requests = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, script.clone(), requests.clone()));
            }
        });
        Self { endpoint, seen, task }
    }

    fn client(&self) -> CtyunKms {
        self.client_with(|_| ())
    }

    fn client_with(&self, change: impl FnOnce(&mut CtyunConfig)) -> CtyunKms {
        let secret = SecretBytes::copy_of(b"SKEXAMPLE0001secret").expect("short");
        let mut config = CtyunConfig::new(&self.endpoint, "AKEXAMPLE0001", secret);
        change(&mut config);
        let mut client = CtyunKms::new(config).expect("a sound configuration");
        client.retry.base = Duration::from_millis(1);
        client
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The same behind TLS, with the certificate of the fixtures.
async fn start_tls(script: Vec<Step>) -> Server {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificate = CertificateDer::from_pem_slice(include_bytes!("../../tests/data/kms/tls/server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tests/data/kms/tls/server.key"));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key.expect("a key"))
        .expect("they belong together");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
    let (seen, script) = (Arc::new(Mutex::new(Vec::new())), Arc::new(script));
    let requests = seen.clone();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, script, requests) = (acceptor.clone(), script.clone(), requests.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    converse(stream, script, requests).await;
                }
            });
        }
    });
    Server { endpoint, seen, task }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Arc<Vec<Step>>,
    seen: Arc<Mutex<Vec<Request>>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let number = {
            let mut seen = seen.lock();
            seen.push(request);
            seen.len() - 1
        };
        let bytes = match &script[number.min(script.len() - 1)] {
            Step::Answer(status, body) => {
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            Step::Raw(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return;
            }
            Step::Hang => std::future::pending().await,
            Step::Drop => return,
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let request = Request { head: head.to_owned(), body: body.to_owned() };
            let len = request.header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            if body.len() >= len {
                return Some(request);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn success(payload: &str) -> Step {
    Step::Answer(200, format!(r#"{{"code":200,"message":"成功","errorCode":"0","requestId":"r","data":{payload}}}"#))
}

fn key_answer() -> Step {
    success(&format!(r#"{{"cmkUuid":"{ID}","keyVersionId":"{VERSION}","plaintext":"{KEY}","ciphertextBlob":"b64="}}"#))
}

fn refusal(status: u16, code: &str) -> Step {
    Step::Answer(
        status,
        format!(
            r#"{{"code":{status},"statusCode":{status},"success":0,"errorCode":"{code}","error":"{code}","message":"m","requestId":"r-7"}}"#
        ),
    )
}

fn wrapped() -> WrappedKey {
    WrappedKey { key_id: ID.into(), key_version: VERSION.into(), blob: "b64=".into() }
}

fn expected_key() -> SecretBytes {
    SecretBytes::copy_of(&(0x20..0x40).collect::<Vec<u8>>()).expect("short")
}

async fn decrypt_error(script: impl Into<Vec<Step>>) -> (KmsError, usize) {
    let server = Server::start(script).await;
    let error = server.client().decrypt(&wrapped(), 32).await.expect_err("the script fails");
    (error, server.seen().len())
}

#[tokio::test]
async fn a_data_key_is_made_and_opened_again() {
    let server = Server::start([key_answer()]).await;
    let client = server.client();
    let made = client.generate_data_key(ID, KeySpec::Aes256).await.expect("a key");
    assert_eq!(made.plaintext, expected_key());
    assert_eq!(made.wrapped, wrapped());
    assert_eq!(client.decrypt(&made.wrapped, 32).await.expect("a key"), expected_key());

    let seen = server.seen();
    assert!(seen[0].head.starts_with("POST /keyCompute/generateDataKey HTTP/1.1"), "{}", seen[0].head);
    assert_eq!(seen[0].body, format!(r#"{{"cmkUuid":"{ID}","keySpec":"AES_256"}}"#));
    assert_eq!(seen[0].header("accessKey"), Some("AKEXAMPLE0001"));
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    assert!(seen[0].header("requestDate").is_some_and(|date| date.ends_with(" CST")));
    assert_eq!(seen[0].header("hmac").map(str::len), Some(44));
    assert!(seen[1].head.starts_with("POST /keyCompute/decrypt HTTP/1.1"));
    assert_eq!(seen[1].body, r#"{"ciphertextBlob":"b64="}"#);
}

#[tokio::test]
async fn the_other_calls_use_their_paths_below_the_endpoints_own() {
    let description = format!(r#"{{"cmkUuid":"{ID}","keyState":"Disabled","keySpec":"AES_256"}}"#);
    let created = format!(r#"{{"cmkUuid":"{ID}"}}"#);
    let server = Server::start([key_answer(), success(&description), success(&created)]).await;
    let client = server.client_with(|config| {
        config.endpoint.push_str("/base/");
        config.profile = Profile::Eop;
    });
    assert_eq!(client.re_encrypt(&wrapped(), ID).await.expect("re-encrypts"), wrapped());
    assert!(!client.describe_key(ID).await.expect("describes").is_enabled());
    assert_eq!(client.create_key(KeySpec::Aes256).await.expect("creates"), ID);
    let seen = server.seen();
    for (request, path) in seen.iter().zip(["keyCompute/reEncrypt", "cmkManage/describeKey", "cmkManage/createKey"]) {
        assert!(request.head.starts_with(&format!("POST /base/{path} ")), "{}", request.head);
        let authorization = request.header("Eop-Authorization").expect("signed");
        assert!(authorization.starts_with("AKEXAMPLE0001 Headers=ctyun-eop-request-id;eop-date Signature="));
    }
}

#[tokio::test]
async fn tls_is_spoken_with_those_whose_certificate_is_trusted() {
    let server = start_tls(vec![key_answer()]).await;
    let trusting = |pem: &[u8]| {
        let pem = pem.to_vec();
        server.client_with(|config| config.ca_pem = Some(pem))
    };
    let client = trusting(include_bytes!("../../tests/data/kms/tls/ca.pem"));
    assert_eq!(client.decrypt(&wrapped(), 32).await.expect("a key"), expected_key());
    assert_eq!(server.seen().len(), 1);

    // A trusted certificate, but not of the one who signed the server's.
    let stranger = trusting(include_bytes!("../../tests/data/kms/tls/server.pem"));
    let error = stranger.decrypt(&wrapped(), 32).await.expect_err("the server is not trusted");
    assert!(error.is_unreachable() && error.to_string().contains("certificate"), "{error}");
    assert_eq!(server.seen().len(), 1, "no request was sent");
}

#[tokio::test]
async fn a_refusal_is_final_and_keeps_code_and_request_id() {
    let (error, calls) = decrypt_error([refusal(400, "KMS.0206")]).await;
    assert!(error.is_denied() && !error.is_unreachable());
    assert_eq!((error.code(), error.request_id(), calls), (Some("KMS.0206"), Some("r-7"), 1));
}

#[tokio::test]
async fn a_soft_error_is_an_error() {
    let soft =
        r#"{"code":404,"success":0,"errorCode":"KMS.0301","message":"The CMK does not exist or has been deleted"}"#;
    let (error, calls) = decrypt_error([Step::Answer(200, soft.into())]).await;
    assert!(error.is_gone());
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn passing_trouble_is_tried_again() {
    for trouble in [
        refusal(401, "kms.0407"),
        refusal(500, "KMS.0503"),
        refusal(401, "KMS.0404"),
        Step::Answer(502, "<html>bad gateway</html>".into()),
        Step::Drop,
        Step::Raw("HTTP/1.1 200 x\r\ncontent-length: 500\r\n\r\n{\"code\":200,".into()),
    ] {
        let server = Server::start([trouble, key_answer()]).await;
        let key = server.client().decrypt(&wrapped(), 32).await.expect("the second attempt succeeds");
        assert_eq!(key, expected_key());
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn lasting_trouble_ends_with_its_own_error() {
    let (error, calls) = decrypt_error([refusal(401, "KMS.0404")]).await;
    assert!(error.is_clock_skew() && calls == 2, "{error} after {calls}");
    let (error, calls) = decrypt_error([Step::Answer(503, String::new())]).await;
    assert!(error.is_unreachable() && calls == 4, "{error} after {calls}");
    let (error, _) = decrypt_error([Step::Drop]).await;
    assert!(matches!(error, KmsError::Transport { .. }), "{error}");
}

/// Calls that the quota does not allow yet come later; none is lost among the others that are refused.
#[tokio::test]
async fn a_throttled_call_has_its_turn_within_the_deadline() {
    let steps: Vec<Step> = (0..9).map(|_| refusal(401, "kms.0407")).chain([key_answer()]).collect();
    let server = Server::start(steps).await;
    assert_eq!(server.client().decrypt(&wrapped(), 32).await.expect("the tenth succeeds"), expected_key());
    let server = Server::start([refusal(401, "kms.0407")]).await;
    let client = server.client_with(|config| config.deadline = Duration::from_millis(500));
    let error = client.decrypt(&wrapped(), 32).await.expect_err("always too many");
    assert!(error.is_throttled() && server.seen().len() > 4, "{error} after {}", server.seen().len());
    assert_eq!(client.complaints(), server.seen().len() as u64);
}

#[tokio::test]
async fn a_truncated_body_is_a_broken_connection() {
    let (error, calls) = decrypt_error([Step::Raw("HTTP/1.1 200 x\r\ncontent-length: 99\r\n\r\n{".into())]).await;
    assert!(matches!(error, KmsError::Transport { .. }) && calls == 4, "{error} after {calls}");
}

#[tokio::test]
async fn creating_a_key_is_never_repeated() {
    for trouble in [Step::Drop, refusal(500, "KMS.0515"), refusal(401, "kms.0407")] {
        let server = Server::start([trouble, success(&format!(r#"{{"cmkUuid":"{ID}"}}"#))]).await;
        server.client().create_key(KeySpec::Aes256).await.expect_err("fails at once");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let server = Server::start([Step::Drop]).await;
    let client = server.client();
    server.task.abort();
    // The port is free once the task is gone.
    while TcpStream::connect(server.endpoint.trim_start_matches("http://")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let error = client.decrypt(&wrapped(), 32).await.expect_err("nobody is there");
    assert!(matches!(error, KmsError::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains("http://"), "{error}");
}

#[tokio::test]
async fn a_hanging_service_meets_the_deadline() {
    let server = Server::start([Step::Hang]).await;
    let client = server.client_with(|config| config.deadline = Duration::from_millis(100));
    let error = client.decrypt(&wrapped(), 32).await.expect_err("it hangs");
    assert!(error.is_timed_out() && error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn a_hanging_attempt_is_cut_and_tried_again() {
    let server = Server::start([Step::Hang, key_answer()]).await;
    let client = server.client_with(|config| config.request_timeout = Duration::from_millis(100));
    assert_eq!(client.decrypt(&wrapped(), 32).await.expect("the second attempt answers"), expected_key());
}

#[tokio::test]
async fn answers_over_the_cap_are_not_read() {
    let long = format!(r#"{{"code":200,"data":{{"plaintext":"{KEY}","pad":"{}"}}}}"#, "x".repeat(70_000));
    let chunked =
        format!("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    for step in [Step::Answer(200, long), Step::Raw(chunked)] {
        let (error, calls) = decrypt_error([step]).await;
        assert!(error.is_bad_response() && calls == 1, "{error}");
        assert!(error.to_string().contains("65536"), "{error}");
    }
}

#[tokio::test]
async fn chunked_answers_are_read() {
    let body = format!(r#"{{"code":200,"data":{{"plaintext":"{KEY}"}}}}"#);
    let raw = format!("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let server = Server::start([Step::Raw(raw)]).await;
    assert_eq!(server.client().decrypt(&wrapped(), 32).await.expect("a key"), expected_key());
}

#[tokio::test]
async fn lies_about_ids_and_length_are_caught() {
    let other = "00000000-0000-0000-0000-000000000000";
    for payload in [
        format!(r#"{{"plaintext":"{KEY}","cmkUuid":"{other}"}}"#),
        format!(r#"{{"plaintext":"{KEY}","cmkUuid":"{ID}","keyVersionId":"{other}"}}"#),
        r#"{"plaintext":"AAAAAAAAAAAAAAAAAAAAAA=="}"#.to_owned(),
    ] {
        let (error, calls) = decrypt_error([success(&payload)]).await;
        assert!(matches!(error, KmsError::Lied { .. }) && calls == 1, "{error}");
        assert!(!error.to_string().contains(KEY));
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start([key_answer()]).await;
    let redirect = format!("HTTP/1.1 307 x\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", elsewhere.endpoint);
    let (error, _) = decrypt_error([Step::Raw(redirect)]).await;
    assert!(error.is_bad_response(), "{error}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_under_way() {
    let server = Server::start([Step::Hang]).await;
    let client = server.client_with(|config| config.max_inflight = 2);
    let key = wrapped();
    let calls = futures_util::future::join_all((0..8).map(|_| client.decrypt(&key, 32)));
    assert!(tokio::time::timeout(Duration::from_millis(300), calls).await.is_err(), "all of them hang");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let server = Server::start([key_answer()]).await;
    let client = server.client();
    assert_eq!(format!("{client:?}"), format!("CtyunKms({})", server.endpoint));
    let made = client.generate_data_key(ID, KeySpec::Aes256).await.expect("a key");
    assert!(!format!("{made:?}").contains(KEY));
    let config = CtyunConfig::new("https://x", "ak", SecretBytes::copy_of(b"hunter2").expect("short"));
    assert!(!format!("{config:?}").contains("hunter2"));
}
