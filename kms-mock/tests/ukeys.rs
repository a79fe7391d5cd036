//! Certificates of USB keys, whose private keys OpenSSL has.

mod common;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::openssl::OpenSsl;
use common::pki::*;
use common::*;
use kms_mock::{MockConfig, MockKms};
use serde_json::{Value, json};

const IMPORT: &str = "/manageCertificate/importCertificateForUK";
const LIST: &str = "/manageCertificate/listCertificatesForUK";
const DESCRIBE: &str = "/manageCertificate/describeCertificateForUK";
const UPDATE: &str = "/manageCertificate/updateCertificateStatusForUK";
const DELETE: &str = "/manageCertificate/deleteCertificateForUK";
const VERIFY: &str = "/certificateCompute/certificatePublicKeyVerifyForUsbKey";

/// The certificate in `own.pem`, its key in `own.key`.
fn import(client: &Client, openssl: &OpenSsl, kind: Kind) -> String {
    self_signed(openssl, kind, "own", 30);
    let body = json!({"algorithm": kind.ukey_algorithm(), "ukName": "stick", "cert": openssl.read_text("own.pem")});
    client.call(IMPORT, body).text("ukId")
}

fn status(client: &Client, id: &str, status: &str) -> Answer {
    client.call(UPDATE, json!({"ukId": id, "status": status}))
}

#[test]
fn signatures_of_the_stick_are_verified() {
    let mock = start();
    let client = Client::new(&mock);
    for kind in [Kind::Rsa, Kind::Sm2] {
        let openssl = OpenSsl::new();
        let id = import(&client, &openssl, kind);
        openssl.write("message", "签名 me");
        let sign = format!("pkeyutl -sign -rawin -digest {} -inkey own.key {}", kind.digest(), kind.signer());
        openssl.run(&format!("{sign} -in message -out signature"));
        let signature = BASE64.encode(openssl.read("signature"));
        let body = json!({
            "algorithm": kind.ukey_algorithm(), "certificateId": id, "message": "签名 me", "signatureValue": signature,
        });
        let verify = |changes| client.call(VERIFY, with(body.clone(), changes));
        assert_eq!(verify(json!({})).data()["signatureValid"], true);
        assert_eq!(verify(json!({"message": "other"})).data()["signatureValid"], false);
        assert_eq!(verify(json!({"signatureValue": "no Base64!"})).data()["signatureValid"], false);
        for (changes, code) in [
            (json!({"algorithm": ""}), "KMS.0106"),
            (json!({"certificateId": null}), "KMS0255"),
            (json!({"message": ""}), "KMS.0104"),
            (json!({"signatureValue": ""}), "KMS.0125"),
            (json!({"certificateId": NO_KEY}), "KMS.0143"),
            (json!({"certificateId": "no id"}), "KMS.0143"),
            (json!({"algorithm": "MD5"}), "KMS.0212"),
            (json!({"algorithm": if kind == Kind::Rsa { "SM2" } else { "RSA 2048" }}), "KMS.0212"),
        ] {
            verify(changes).refused(400, code);
        }
        status(&client, &id, "INACTIVE").data();
        verify(json!({})).refused(400, "KMS0260");
        status(&client, &id, "REVOKED").data();
        verify(json!({})).refused(400, "KMS0259");
    }
}

#[test]
fn from_import_to_deletion() {
    let mock = MockKms::start(MockConfig { skew: Duration::from_secs(1 << 30), ..MockConfig::default() });
    let mock = mock.expect("the mock starts");
    let client = Client::new(&mock);
    let openssl = OpenSsl::new();
    let id = import(&client, &openssl, Kind::Sm2);
    let shown = client.call(DESCRIBE, json!({"ukId": id}));
    assert_eq!((shown.text("ukName"), shown.text("algorithm")), ("stick".into(), "SM2".into()));
    assert_eq!((shown.text("status"), shown.text("subject")), ("ACTIVE".into(), "C=CN,CN=own".into()));
    assert_eq!(shown.text("cert"), openssl.read_text("own.pem"));
    assert_eq!(client.call(DESCRIBE, json!({"certificateId": id})).data(), shown.data());
    let total = |filter: Value| client.call(LIST, filter).data()["totalCount"].clone();
    assert_eq!(client.call(LIST, json!({})).data()["certificates"][0], *shown.data());
    for (filter, count) in [
        (json!({"ukName": "stick", "status": "ACTIVE"}), 1),
        (json!({"ukName": "other"}), 0),
        (json!({"status": "REVOKED"}), 0),
    ] {
        assert_eq!(total(filter), count);
    }
    client.call(LIST, json!({"pageSize": 0})).refused(400, "KMS.0231");
    client.call(LIST, json!({"pageSize": 1001})).refused(400, "KMS.0130");
    status(&client, &id, "ACTIVE").refused(400, "KMS0258");
    status(&client, &id, "INACTIVE").data();
    status(&client, &id, "INACTIVE").refused(400, "KMS0260");
    status(&client, &id, "REVOKED").data();
    status(&client, &id, "ACTIVE").refused(400, "KMS0259");
    status(&client, &id, "").refused(400, "KMS0256");
    status(&client, &id, "PENDING").refused(400, "KMS.0101");
    client.call(DELETE, json!({"ukId": id})).data();
    client.call(DELETE, json!({"ukId": id})).refused(404, "KMS0310");
    for (path, body) in [(DESCRIBE, json!({})), (UPDATE, json!({"status": "ACTIVE"})), (DELETE, json!({}))] {
        let call = |id: &str| client.call(path, with(body.clone(), json!({"ukId": id})));
        call("").refused(400, "KMS0255");
        call("no id").refused(400, "KMS.0138");
        call(NO_KEY).refused(400, "KMS.0143");
    }
    mock.advance_clock(Duration::from_secs(31 * 86_400));
    client.call(DELETE, json!({"ukId": id})).refused(400, "KMS.0143");
}

#[test]
fn imports_that_are_refused() {
    let mock = start();
    let client = Client::new(&mock);
    let openssl = OpenSsl::new();
    self_signed(&openssl, Kind::Sm2, "own", 30);
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key");
    openssl.run("req -x509 -key p256.key -subj /CN=p256 -out p256.pem");
    let body = json!({"algorithm": "SM2", "ukName": "stick", "cert": openssl.read_text("own.pem")});
    for (changes, code) in [
        (json!({"algorithm": ""}), "KMS.0114"),
        (json!({"ukName": null}), "KMS.0101"),
        (json!({"cert": null}), "KMS.0101"),
        (json!({"cert": "text"}), "KMS.0140"),
        (json!({"algorithm": "EC"}), "KMS.0141"),
        (json!({"algorithm": "RSA 2048"}), "KMS.0141"),
        (json!({"cert": openssl.read_text("p256.pem")}), "KMS.0141"),
    ] {
        client.call(IMPORT, with(body.clone(), changes)).refused(400, code);
    }
}
