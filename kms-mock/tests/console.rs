//! The console: its files, the requests of its page, and who is kept away from them.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::openssl::OpenSsl;
use common::pki::{Kind, self_signed};
use common::*;
use kms_mock::{MockConfig, MockKms};
use serde_json::{Value, json};

fn start_open() -> MockKms {
    MockKms::start(MockConfig { control: true, ..MockConfig::default() }).expect("starts")
}

/// One exchange with exactly these headers: status, head and body of the answer.
fn exchange(mock: &MockKms, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(mock.address()).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut request = format!("{method} /__mock/console/{path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), head.to_ascii_lowercase(), body.to_owned())
}

/// A browser that has loaded the page.
struct Page<'a> {
    mock: &'a MockKms,
    host: String,
    token: String,
}

impl<'a> Page<'a> {
    fn load(mock: &'a MockKms) -> Self {
        let host = mock.address().to_string();
        let (status, _, html) = exchange(mock, "GET", "", &[("Host", &host)], "");
        assert_eq!(status, 200);
        let token = html.split_once("name=\"console-token\" content=\"").expect("a token").1;
        Page { mock, host, token: token.split_once('"').expect("its end").0.to_owned() }
    }

    fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let origin = format!("http://{}", self.host);
        let headers = [("Host", self.host.as_str()), ("Origin", &origin), ("X-Console-Token", &self.token)];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, body) = exchange(self.mock, method, &format!("api/{path}"), &headers, &body);
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn key(&self, id: &str) -> Value {
        let (_, state) = self.send("GET", "state", Value::Null);
        let keys = state["keys"].as_array().expect("keys");
        keys.iter().find(|key| key["cmkUuid"] == id).expect("the key").clone()
    }
}

#[test]
fn files_come_with_a_policy() {
    let mock = start_open();
    let host = mock.address().to_string();
    for (path, content_type) in
        [("", "text/html"), ("app.js", "text/javascript"), ("i18n.js", "text/javascript"), ("style.css", "text/css")]
    {
        let (status, head, body) = exchange(&mock, "GET", path, &[("Host", &host)], "");
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("content-type: {content_type};charset=utf-8")), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'") && head.contains("no-store"), "{head}");
        assert!(!body.contains("{{TOKEN}}") && !body.is_empty());
    }
    assert_eq!(exchange(&mock, "POST", "", &[("Host", &host)], "").0, 405);
    let closed = start();
    let (status, _, _) = exchange(&closed, "GET", "", &[("Host", &closed.address().to_string())], "");
    assert_eq!(status, 401, "no control doors, no console");
}

#[test]
fn other_sites_are_kept_away() {
    let mock = start_open();
    let page = Page::load(&mock);
    let id = mock.create_key("AES_256").expect("a key");
    let disable = format!("api/keys/{id}/disable");
    let origin = format!("http://{}", page.host);
    let (host, token) = (page.host.as_str(), page.token.as_str());
    let port = host.rsplit_once(':').expect("a port").1;
    let localhost = format!("localhost:{port}");
    for (headers, why) in [
        (&[("Host", host)][..], "no token"),
        (&[("Host", host), ("X-Console-Token", "0")], "a wrong token"),
        (&[("Host", host), ("X-Console-Token", token), ("Origin", "http://evil.example")], "another origin"),
        (&[("Host", host), ("X-Console-Token", token), ("Origin", "null")], "no origin of its own"),
        (&[("Host", &localhost), ("X-Console-Token", token), ("Origin", &origin)], "another name of the host"),
        (&[("Host", "rebound.example"), ("X-Console-Token", token)], "a name that was pointed here"),
        (&[("Host", "127.0.0.1.evil.example"), ("X-Console-Token", token)], "a name that looks like it"),
    ] {
        assert_eq!(exchange(&mock, "POST", &disable, headers, "").0, 403, "{why}");
    }
    assert_eq!(exchange(&mock, "GET", "", &[("Host", "rebound.example")], "").0, 403);
    assert_eq!(page.key(&id)["keyState"], "Enabled");
    // The token opens the console, not the doors, which stay closed to every page.
    let response = Client::new(&mock).agent.post(format!("{}/__mock/reset", mock.endpoint())).header("Origin", &origin);
    assert_eq!(response.send_empty().expect("an answer").status(), 403);
}

#[test]
fn keys_are_switched() {
    let mock = start_open();
    let (client, page) = (Client::new(&mock), Page::load(&mock));
    let id = client.create("AES_256");
    client.call("/aliasManage/createAlias", json!({"aliasName": "alias/a", "cmkUuid": id})).data();
    let sealed = client.encrypt(&id, b"x").text("ciphertextBlob");
    let act = |action: &str, body: Value| page.send("POST", &format!("keys/{id}/{action}"), body);
    assert_eq!(act("disable", Value::Null), (200, json!({})));
    client.decrypt(&sealed).refused(400, "KMS.0206");
    let (status, refusal) = act("rotate", Value::Null);
    assert_eq!((status, &refusal["code"]), (400, &json!("KMS.0230")));
    assert_eq!(act("enable", Value::Null).0, 200);
    client.decrypt(&sealed).data();
    assert_eq!(act("rotate", Value::Null).0, 200);
    let key = page.key(&id);
    assert_eq!((&key["aliases"], &key["uses"]), (&json!(["alias/a"]), &json!(2)));
    assert_eq!(key["versions"].as_array().expect("versions").len(), 2);
    assert_eq!(act("schedule-deletion", json!({"pendingWindowInDays": 6})).0, 400);
    assert_eq!(act("schedule-deletion", json!({"pendingWindowInDays": 7})).0, 200);
    assert_eq!(page.key(&id)["keyState"], "PendingDeletion");
    assert_eq!(act("enable", Value::Null).1["code"], "KMS.0207");
    assert_eq!(act("cancel-deletion", Value::Null).0, 200);
    assert_eq!(page.key(&id)["keyState"], "Enabled");
    client.call("/cmkManage/enableDeletionProtection", json!({"cmkUuid": id})).data();
    assert_eq!(page.key(&id)["deletionProtection"], "Enabled");
    assert_eq!(act("schedule-deletion", json!({"pendingWindowInDays": 7})).1["code"], "KMS.0203");
    assert_eq!(act("explode", Value::Null).0, 404);
    let default = client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).text("cmkUuid");
    for action in ["disable", "rotate", "schedule-deletion"] {
        let (status, refusal) =
            page.send("POST", &format!("keys/{default}/{action}"), json!({"pendingWindowInDays": 7}));
        assert_eq!((status, &refusal["code"]), (400, &json!("KMS.0203")), "{action}");
    }
    assert_eq!(page.send("POST", &format!("keys/{NO_KEY}/disable"), Value::Null).0, 404);
}

#[test]
fn calls_trouble_and_switches() {
    let mock = start_open();
    let (client, page) = (Client::new(&mock), Page::load(&mock));
    let id = client.create("AES_256");
    assert_eq!(page.send("POST", "faults", json!({"api": "encrypt", "code": "KMS.0514", "times": 2})).0, 200);
    let (_, state) = page.send("GET", "state", Value::Null);
    assert_eq!((&state["faults"][0]["times"], &state["faults"][0]["what"]), (&json!(2), &json!("KMS.0514")));
    client.encrypt(&id, b"x").refused(500, "KMS.0514");
    let (_, calls) = page.send("GET", "calls?since=0", Value::Null);
    let last = &calls["calls"][1];
    assert_eq!((&last["api"], &last["code"], &last["status"]), (&json!("encrypt"), &json!("KMS.0514"), &json!(500)));
    assert_eq!(last["message"], "CMK encryption failed");
    let (_, later) = page.send("GET", &format!("calls?since={}", calls["next"]), Value::Null);
    assert_eq!(later["calls"], json!([]));
    // A call that a fault swallowed is shown once, not at every look.
    mock.inject(kms_mock::Fault { api: Some("encrypt".into()), times: 1, kind: kms_mock::FaultKind::Drop });
    assert!(client.try_call(ENCRYPT, json!({"cmkUuid": id, "plaintext": "AA=="})).is_err());
    let (_, swallowed) = page.send("GET", &format!("calls?since={}", later["next"]), Value::Null);
    assert_eq!((&swallowed["calls"][0]["api"], &swallowed["calls"][0]["status"]), (&json!("encrypt"), &Value::Null));
    let (_, later) = page.send("GET", &format!("calls?since={}", swallowed["next"]), Value::Null);
    assert_eq!(later["calls"], json!([]));
    // Faults are shown in the words in which they are given.
    assert_eq!(page.send("DELETE", "faults", Value::Null).0, 200);
    let given = json!([{"code": "KMS.0219", "step": 3}, {"http_status": 503}, {"kind": "drop_after"}, {"delay_ms": 5}]);
    assert_eq!(page.send("POST", "faults", given).0, 200);
    let state = page.send("GET", "state", Value::Null).1;
    let shown: Vec<&Value> = state["faults"].as_array().expect("faults").iter().map(|fault| &fault["what"]).collect();
    assert_eq!(json!(shown), json!(["KMS.0219 (step 3)", "http_status 503", "drop_after", "delay_ms 5"]));
    assert_eq!(page.send("DELETE", "faults", Value::Null).0, 200);
    client.encrypt(&id, b"x").data();
    assert_eq!(page.send("POST", "switches", json!({"skew_s": 100_000_000})).0, 200);
    assert_eq!(mock.switches().skew_s, 100_000_000);
    assert_eq!(page.send("POST", "switches", json!({"nonsense": 1})).0, 400);
    let before = page.send("GET", "state", Value::Null).1["now"].clone();
    assert_eq!(page.send("POST", "clock", json!({"advance_s": 86_400})).0, 200);
    assert_ne!(page.send("GET", "state", Value::Null).1["now"], before);
    assert_eq!(page.send("POST", "quota", json!({"per_second": 5})).0, 200);
    assert_eq!(page.send("GET", "state", Value::Null).1["quota"], 5);
    assert_eq!(page.send("POST", "latency", json!({"api": null, "kind": "fixed", "ms": 1})).0, 200);
    assert_eq!(page.send("GET", "state", Value::Null).1["latency"][0]["what"], "1 ms");
    assert_eq!(page.send("GET", "nowhere", Value::Null).0, 404);
    for secret in [&client.secret_key, &page.token] {
        assert!(!page.send("GET", "state", Value::Null).1.to_string().contains(secret.as_str()));
    }
}

#[test]
fn certificates_and_access_points_are_shown() {
    let mock = start_open();
    let client = Client::new(&mock);
    let request = json!({
        "keySpec": "SM2", "subject": "CN=www.example.com", "subjectAlternativeNames": [], "exportablePrivateKey": 0,
        "protectionLevel": "0",
    });
    let id = client.call("/manageCertificate/createCertificate", request).text("certificateId");
    let openssl = OpenSsl::new();
    self_signed(&openssl, Kind::Sm2, "stick", 30);
    let ukey = json!({"algorithm": "SM2", "ukName": "stick", "cert": openssl.read_text("stick.pem")});
    let uk_id = client.call("/manageCertificate/importCertificateForUK", ukey).text("ukId");
    let vpc = client.call("/accessPoint/listVpcs", json!({})).data()["vpcs"][0]["vpcId"].clone();
    let subnet =
        client.call("/accessPoint/listSubnets", json!({"vpcId": vpc})).data()["subnets"][0]["subnetId"].clone();
    let point = json!({"name": "point", "vpcId": vpc, "subnetId": subnet});
    let point = client.call("/accessPoint/createAccessPoint", point).text("accessPointId");
    let key = client.call("/accessPoint/createAccessKey", json!({"accessPointId": point}));
    let apis = json!([{"apiName": "encrypt", "allowed": true}]);
    client.call("/accessPoint/updateApiPermissions", json!({"accessPointId": point, "apis": apis})).data();

    let (status, state) = Page::load(&mock).send("GET", "state", Value::Null);
    assert_eq!(status, 200);
    let certificates = state["certificates"].as_array().expect("certificates");
    let columns = ["certificateId", "kind", "status", "subject", "keySpec"];
    let shown: Vec<Vec<&str>> = certificates
        .iter()
        .map(|certificate| columns.map(|name| certificate[name].as_str().expect("text")).to_vec())
        .collect();
    assert_eq!(shown[0], [&id, "KMS", "PENDING", "CN=www.example.com", "SM2"]);
    assert_eq!(shown[1], [&uk_id, "UKEY", "ACTIVE", "C=CN,CN=stick", "SM2"]);
    assert!(certificates[1]["notAfter"].as_str().is_some_and(|date| date.ends_with('Z')));
    let shown = &state["accessPoints"][0];
    let access_key = json!({"accessKey": key.text("accessKey"), "status": "Enabled"});
    assert_eq!((&shown["name"], &shown["accessKeys"]), (&json!("point"), &json!([access_key])));
    assert_eq!((&shown["apis"], &shown["permissionCheck"]), (&json!(1), &json!(true)));
    assert!(!state.to_string().contains(&key.text("secretKey")));
}
