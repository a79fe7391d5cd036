//! Certificates: their requests, life, use and transport, with OpenSSL on the other side.

mod common;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::openssl::OpenSsl;
use common::pki::*;
use common::*;
use kms_mock::{MockConfig, MockKms, Storage};
use serde_json::{Value, json};

const CREATE: &str = "/manageCertificate/createCertificate";
const UPLOAD: &str = "/manageCertificate/uploadCertificate";
const LIST: &str = "/manageCertificate/listCertificates";
const DESCRIBE: &str = "/manageCertificate/describeCertificate";
const UPDATE: &str = "/manageCertificate/updateCertificateStatus";
const GET: &str = "/manageCertificate/getCertificate";
const EXPORT: &str = "/manageCertificate/exportCertificate";
const IMPORT: &str = "/manageCertificate/importCertificate";
const DELETE: &str = "/manageCertificate/deleteCertificate";
const SIGN: &str = "/certificateCompute/certificatePrivateKeySign";
const VERIFY: &str = "/certificateCompute/certificatePublicKeyVerify";
const SEAL: &str = "/certificateCompute/certificatePublicKeyEncrypt";
const OPEN: &str = "/certificateCompute/certificatePrivateKeyDecrypt";
const DAY: Duration = Duration::from_secs(86_400);

fn new_certificate(spec: &str) -> Value {
    json!({
        "keySpec": spec, "subject": "C=CN,O=Example,CN=www.example.com",
        "subjectAlternativeNames": ["www.example.com", "192.0.2.1"], "exportablePrivateKey": 1, "protectionLevel": "1",
    })
}

/// A certificate of the mock's own key, issued by OpenSSL and uploaded with its chain.
fn issued(client: &Client, openssl: &OpenSsl, kind: Kind) -> String {
    let made = client.call(CREATE, new_certificate(kind.spec()));
    openssl.write("leaf.csr", made.text("csr"));
    authority(openssl, kind);
    issue(openssl, kind, "leaf");
    let id = made.text("certificateId");
    upload(client, &id, &openssl.read_text("leaf.pem"), &openssl.read_text("ca.pem")).data();
    id
}

fn upload(client: &Client, id: &str, leaf: &str, chain: &str) -> Answer {
    client.call(UPLOAD, json!({"certificateId": id, "certificate": leaf, "certificateChain": chain}))
}

/// A certificate with its key in PKCS#12, made by OpenSSL: the file `NAME.p12` with the pass phrase "secret".
fn imported(client: &Client, openssl: &OpenSsl, kind: Kind, changes: Value) -> String {
    self_signed(openssl, kind, "own", 30);
    openssl.run("pkcs12 -export -inkey own.key -in own.pem -passout pass:secret -out own.p12");
    let body = json!({"pkcs12Blob": BASE64.encode(openssl.read("own.p12")), "passphrase": "secret"});
    client.call(IMPORT, with(body, changes)).text("certificateId")
}

fn id_of(id: &str) -> Value {
    json!({"certificateId": id})
}

fn status(client: &Client, id: &str, status: &str) -> Answer {
    client.call(UPDATE, json!({"certificateId": id, "status": status}))
}

#[test]
fn from_request_to_certificate() {
    let mock = start();
    let client = Client::new(&mock);
    for kind in [Kind::Rsa, Kind::Sm2] {
        let openssl = OpenSsl::new();
        let made = client.call(CREATE, new_certificate(kind.spec()));
        let id = made.text("certificateId");
        openssl.write("leaf.csr", made.text("csr"));
        openssl.run(&format!("req -verify -noout -in leaf.csr {}", kind.verify()));
        let text = openssl.text("req -noout -text -in leaf.csr");
        assert!(text.contains("CN=www.example.com") || text.contains("CN = www.example.com"), "{text}");
        assert!(text.contains("DNS:www.example.com, IP Address:192.0.2.1"), "{text}");
        let before = client.call(DESCRIBE, id_of(&id));
        assert_eq!((before.text("status"), before.text("issuer")), ("PENDING".into(), String::new()));
        let bodies = client.call(GET, id_of(&id));
        assert_eq!((bodies.text("csr"), bodies.text("certificate")), (made.text("csr"), String::new()));

        authority(&openssl, kind);
        issue(&openssl, kind, "leaf");
        let (leaf, ca) = (openssl.read_text("leaf.pem"), openssl.read_text("ca.pem"));
        upload(&client, &id, &leaf, &ca).data();
        upload(&client, &id, &leaf, &ca).refused(400, "KMS0258");
        let after = client.call(DESCRIBE, id_of(&id));
        assert_eq!((after.text("status"), after.text("keySpec")), ("ACTIVE".into(), kind.spec().into()));
        assert_eq!((after.text("issuer"), after.text("serial")), ("C=CN,CN=CA".into(), "d1ab".into()));
        assert_eq!(after.data()["exportablePrivateKey"], 1);
        assert_eq!(after.text("subjectPublicKey"), BASE64.encode(public_key(&openssl, "leaf.pem")));
        let bodies = client.call(GET, id_of(&id));
        assert_eq!((bodies.text("certificate"), bodies.text("certificateChain")), (pem_of(&leaf), pem_of(&ca)));
    }
}

/// The public key of a certificate, in DER.
fn public_key(openssl: &OpenSsl, certificate: &str) -> Vec<u8> {
    openssl.write("public.pem", openssl.run(&format!("x509 -in {certificate} -pubkey -noout")));
    openssl.run("pkey -pubin -in public.pem -outform DER")
}

/// The block alone: OpenSSL writes text around it.
fn pem_of(text: &str) -> String {
    let from = text.find("-----BEGIN").expect("a block");
    text[from..].to_owned()
}

#[test]
fn signatures_of_either_side_are_good_on_the_other() {
    let mock = start();
    let client = Client::new(&mock);
    for kind in [Kind::Rsa, Kind::Sm2] {
        let openssl = OpenSsl::new();
        let id = issued(&client, &openssl, kind);
        openssl.run("x509 -in leaf.pem -pubkey -noout -out leaf.pub");
        openssl.write("message", "a message");
        let body =
            json!({"certificateId": id, "algorithm": kind.sign_algorithm(), "message": BASE64.encode("a message")});
        let signed = client.call(SIGN, body.clone());
        assert_eq!(signed.text("certificateId"), id);
        openssl.write("signature", BASE64.decode(signed.text("signatureValue")).expect("Base64"));
        openssl.run(&format!(
            "pkeyutl -verify -rawin -digest {} -pubin -inkey leaf.pub {} -in message -sigfile signature",
            kind.digest(),
            kind.signer()
        ));
        let verify = |changes: Value| {
            let body = with(with(body.clone(), json!({"signatureValue": signed.text("signatureValue")})), changes);
            client.call(VERIFY, body).data()["signatureValid"].clone()
        };
        assert_eq!(verify(json!({})), true);
        assert_eq!(verify(json!({"message": BASE64.encode("another")})), false);
        assert_eq!(verify(json!({"signatureValue": "no Base64!"})), false);
        // And one that OpenSSL has made with the exported key.
        let passphrase = json!({"certificateId": id, "exportFormat": "PEM", "passphrase": "secret"});
        openssl.write("leaf.key", client.call(EXPORT, passphrase).text("privateKey"));
        openssl.run(&format!(
            "pkeyutl -sign -rawin -digest {} -inkey leaf.key -passin pass:secret {} -in message -out theirs",
            kind.digest(),
            kind.signer()
        ));
        assert_eq!(verify(json!({"signatureValue": BASE64.encode(openssl.read("theirs"))})), true);
    }
}

#[test]
fn digests_are_signed_as_they_are() {
    let mock = start();
    let client = Client::new(&mock);
    let id = imported(&client, &OpenSsl::new(), Kind::Rsa, json!({}));
    for algorithm in ["RSA_PKCS1_SHA_256", "RSA_PSS_SHA_256"] {
        use sha2::Digest;
        let digest = BASE64.encode(sha2::Sha256::digest("a message"));
        let of_digest =
            json!({"certificateId": id, "algorithm": algorithm, "messageType": "DIGEST", "message": digest});
        let signature = client.call(SIGN, of_digest.clone()).text("signatureValue");
        let raw = json!({"messageType": "RAW", "message": BASE64.encode("a message"), "signatureValue": signature});
        assert_eq!(client.call(VERIFY, with(of_digest.clone(), raw)).data()["signatureValid"], true);
        client.call(SIGN, with(of_digest, json!({"message": "AAAA"}))).refused(400, "KMS.0215");
    }
    assert_eq!(mock.key_uses(&id), 4);
}

#[test]
fn ciphertexts_of_either_side_open_on_the_other() {
    let mock = start();
    let client = Client::new(&mock);
    for kind in [Kind::Rsa, Kind::Sm2] {
        let openssl = OpenSsl::new();
        let id = imported(&client, &openssl, kind, json!({"exportablePrivateKey": true}));
        let algorithm = json!({"certificateId": id, "algorithm": kind.encrypt_algorithm()});
        let sealed = client.call(SEAL, with(algorithm.clone(), json!({"plaintext": BASE64.encode("a text")})));
        openssl.write("sealed", BASE64.decode(sealed.text("ciphertextBlob")).expect("Base64"));
        openssl.run(&format!("pkeyutl -decrypt -inkey own.key {} -in sealed -out plain", kind.padding()));
        assert_eq!(openssl.read("plain"), b"a text");
        openssl.run(&format!("pkeyutl -encrypt -inkey own.key {} -in plain -out theirs", kind.padding()));
        let open = |blob: &str| client.call(OPEN, with(algorithm.clone(), json!({"ciphertextBlob": blob})));
        assert_eq!(open(&BASE64.encode(openssl.read("theirs"))).plaintext(), b"a text");
        open("no Base64!").refused(400, "KMS.0219");
        open("AAAA").refused(400, "KMS.0219");
        self_signed(&openssl, kind, "other", 30);
        openssl.run(&format!("pkeyutl -encrypt -inkey other.key {} -in plain -out theirs", kind.padding()));
        open(&BASE64.encode(openssl.read("theirs"))).refused(400, "KMS.0239");
    }
}

#[test]
fn what_is_exported_is_the_key() {
    let mock = start();
    let client = Client::new(&mock);
    for kind in [Kind::Rsa, Kind::Sm2] {
        let openssl = OpenSsl::new();
        let id = issued(&client, &openssl, kind);
        let export = |format: &str| {
            client.call(EXPORT, json!({"certificateId": id, "exportFormat": format, "passphrase": "天翼-pass"}))
        };
        let pem = export("PEM");
        assert!(pem.text("privateKey").starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        openssl.write("pem.key", pem.text("privateKey"));
        openssl.run("pkey -in pem.key -passin pass:天翼-pass -pubout -out of-key.pub");
        assert_eq!(openssl.text("x509 -in leaf.pem -pubkey -noout"), openssl.read_text("of-key.pub"));
        openssl.write("file.p12", BASE64.decode(export("PKCS12").text("pkcs12Blob")).expect("Base64"));
        openssl.run("pkcs12 -in file.p12 -passin pass:天翼-pass -nodes -out all.pem");
        assert_eq!(openssl.text("pkey -in all.pem -pubout"), openssl.read_text("of-key.pub"));
        assert_eq!(openssl.read_text("all.pem").matches("BEGIN CERTIFICATE").count(), 2);
        // It comes back as another certificate.
        let blob = BASE64.encode(openssl.read("file.p12"));
        let again = client.call(IMPORT, json!({"pkcs12Blob": blob, "passphrase": "天翼-pass"})).text("certificateId");
        assert_ne!(again, id);
        let bodies = [&id, &again].map(|id| client.call(GET, id_of(id)));
        for name in ["certificate", "certificateChain"] {
            assert_eq!(bodies[0].text(name), bodies[1].text(name));
        }
        client
            .call(EXPORT, json!({"certificateId": again, "exportFormat": "PEM", "passphrase": "x"}))
            .refused(400, "KMS.0142");
    }
}

#[test]
fn import_certificate() {
    let mock = start();
    let client = Client::new(&mock);
    let openssl = OpenSsl::new();
    let id = imported(&client, &openssl, Kind::Sm2, json!({"instanceId": "i", "epId": "default"}));
    let shown = client.call(DESCRIBE, id_of(&id));
    assert_eq!((shown.text("status"), shown.text("subject")), ("ACTIVE".into(), "C=CN,CN=own".into()));
    assert_eq!((shown.text("instanceId"), shown.text("protectionLevel")), ("i".into(), "1".into()));
    let blob = BASE64.encode(openssl.read("own.p12"));
    openssl.run("pkcs12 -export -nokeys -in own.pem -passout pass: -out no-key.p12");
    openssl.run("pkcs12 -export -inkey own.key -in own.pem -passout pass: -out no-pass.p12");
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key");
    openssl.run("req -x509 -key p256.key -subj /CN=p256 -out p256.pem");
    openssl.run("pkcs12 -export -inkey p256.key -in p256.pem -passout pass:secret -out p256.p12");
    let file = |name: &str| BASE64.encode(openssl.read(name));
    let body = json!({"pkcs12Blob": blob, "passphrase": "secret"});
    client.call(IMPORT, json!({"pkcs12Blob": file("no-pass.p12"), "passphrase": ""})).data();
    for (changes, code) in [
        (json!({"pkcs12Blob": null}), "KMS.0101"),
        (json!({"passphrase": null}), "KMS.0101"),
        (json!({"passphrase": "wrong"}), "KMS.0140"),
        (json!({"pkcs12Blob": "AAAA"}), "KMS.0140"),
        (json!({"pkcs12Blob": "no Base64!"}), "KMS.0140"),
        (json!({"pkcs12Blob": file("no-key.p12"), "passphrase": ""}), "KMS.0139"),
        (json!({"pkcs12Blob": file("p256.p12")}), "KMS.0141"),
        (json!({"exportablePrivateKey": 2}), "KMS.0217"),
        (json!({"protectionLevel": 2}), "KMS.0218"),
    ] {
        client.call(IMPORT, with(body.clone(), changes)).refused(400, code);
    }
}

#[test]
fn requests_that_are_refused() {
    let mock = start();
    let client = Client::new(&mock);
    for (changes, code) in [
        (json!({"keySpec": null}), "KMS.0253"),
        (json!({"subject": ""}), "KMS0254"),
        (json!({"subjectAlternativeNames": null}), "KMS.0101"),
        (json!({"exportablePrivateKey": null}), "KMS.0101"),
        (json!({"protectionLevel": ""}), "KMS.0113"),
        (json!({"keySpec": "EC_P256"}), "KMS.0141"),
        (json!({"subject": "no attributes"}), "KMS.0140"),
        (json!({"subjectAlternativeNames": ["not a name!"]}), "KMS.0101"),
        (json!({"subjectAlternativeNames": [1]}), "KMS.0101"),
        (json!({"subjectAlternativeNames": 1}), "KMS.0101"),
        (json!({"exportablePrivateKey": "yes"}), "KMS.0217"),
        (json!({"protectionLevel": "2"}), "KMS.0218"),
    ] {
        client.call(CREATE, with(new_certificate("SM2"), changes)).refused(400, code);
    }
    for names in [json!([]), json!(""), json!("a.example, b.example"), json!("[\"a.example\"]")] {
        client.call(CREATE, with(new_certificate("Ctyun_SM2"), json!({"subjectAlternativeNames": names}))).data();
    }
}

#[test]
fn certificates_that_do_not_fit() {
    let mock = start();
    let client = Client::new(&mock);
    let openssl = OpenSsl::new();
    let made = client.call(CREATE, new_certificate("SM2"));
    let id = made.text("certificateId");
    openssl.write("leaf.csr", made.text("csr"));
    authority(&openssl, Kind::Sm2);
    issue(&openssl, Kind::Sm2, "leaf");
    self_signed(&openssl, Kind::Sm2, "other", 30);
    openssl.run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key");
    openssl.run("req -x509 -key p256.key -subj /CN=p256 -out p256.pem");
    let [leaf, ca, other, p256] = ["leaf", "ca", "other", "p256"].map(|name| openssl.read_text(&format!("{name}.pem")));
    for (leaf, chain, code) in [
        ("", ca.as_str(), "KMS.0101"),
        ("text", &ca, "KMS.0140"),
        (&leaf, "text", "KMS.0140"),
        (&(leaf.clone() + &ca), &ca, "KMS.0140"),
        (&other, &ca, "KMS.0139"),
        (&leaf, &other, "KMS.0139"),
        (&p256, &ca, "KMS.0141"),
    ] {
        upload(&client, &id, leaf, chain).refused(400, code);
    }
    assert_eq!(client.call(DESCRIBE, id_of(&id)).text("status"), "PENDING");
    client.call(UPLOAD, json!({"certificateId": id, "certificate": leaf})).data();
    status(&client, &id, "REVOKED").data();
    upload(&client, &id, &leaf, &ca).refused(400, "KMS0259");
}

#[test]
fn statuses() {
    let mock = start();
    let client = Client::new(&mock);
    let id = imported(&client, &OpenSsl::new(), Kind::Sm2, json!({"exportablePrivateKey": 1}));
    let sign = || client.call(SIGN, json!({"certificateId": id, "algorithm": "SM2DSA", "message": "AA=="}));
    sign().data();
    status(&client, &id, "ACTIVE").refused(400, "KMS0258");
    status(&client, &id, "INACTIVE").data();
    status(&client, &id, "INACTIVE").refused(400, "KMS0260");
    sign().refused(400, "KMS0260");
    status(&client, &id, "ACTIVE").data();
    sign().data();
    status(&client, &id, "REVOKED").data();
    sign().refused(400, "KMS0259");
    for wanted in ["ACTIVE", "INACTIVE", "REVOKED"] {
        status(&client, &id, wanted).refused(400, "KMS0259");
    }
    status(&client, &id, "").refused(400, "KMS0256");
    status(&client, &id, "PENDING").refused(400, "KMS.0101");
    let pending = client.call(CREATE, new_certificate("SM2")).text("certificateId");
    status(&client, &pending, "ACTIVE").refused(400, "KMS0257");
    let export = json!({"certificateId": pending, "exportFormat": "PEM", "passphrase": "x"});
    client.call(EXPORT, export.clone()).refused(400, "KMS0257");
    for (changes, code) in [
        (json!({"exportFormat": "DER"}), "KMS.0144"),
        (json!({"exportFormat": null}), "KMS.0144"),
        (json!({"passphrase": ""}), "KMS.0101"),
    ] {
        client.call(EXPORT, with(export.clone(), changes)).refused(400, code);
    }
}

#[test]
fn uses_that_are_refused() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let id = imported(&client, &OpenSsl::new(), Kind::Rsa, json!({}));
    let sign =
        json!({"certificateId": id, "algorithm": "RSA_PSS_SHA_256", "message": "AA==", "signatureValue": "AA=="});
    let seal =
        json!({"certificateId": id, "algorithm": "RSAES_OAEP_SHA_256", "plaintext": "AA==", "ciphertextBlob": "AA=="});
    for path in [SIGN, VERIFY] {
        for (changes, code) in [
            (json!({"algorithm": null}), "KMS.0106"),
            (json!({"message": ""}), "KMS.0104"),
            (json!({"messageType": "HASH"}), "KMS.0137"),
            (json!({"message": "no Base64!"}), "KMS.0252"),
            (json!({"algorithm": "MD5"}), "KMS.0215"),
            (json!({"messageType": "DIGEST"}), "KMS.0215"),
            (json!({"algorithm": "SM2DSA"}), "KMS.0212"),
        ] {
            client.call(path, with(sign.clone(), changes)).refused(400, code);
        }
    }
    let long = |length: usize| json!({"message": BASE64.encode(vec![0; length])});
    client.call(SIGN, with(sign.clone(), long(4096))).data();
    client.call(SIGN, with(sign.clone(), long(4097))).refused(400, "KMS.0249");
    client.call(VERIFY, with(sign.clone(), json!({"signatureValue": ""}))).refused(400, "KMS.0125");
    for path in [SEAL, OPEN] {
        for (changes, code) in [
            (json!({"algorithm": null}), "KMS.0114"),
            (json!({"algorithm": "RSAES_PKCS1_V1_5"}), "KMS.0215"),
            (json!({"algorithm": "SM2PKE"}), "KMS.0212"),
        ] {
            client.call(path, with(seal.clone(), changes)).refused(400, code);
        }
    }
    for (path, changes, code) in [
        (SEAL, json!({"plaintext": ""}), "KMS.0107"),
        (SEAL, json!({"plaintext": "no Base64!"}), "KMS.0252"),
        (SEAL, json!({"plaintext": BASE64.encode([0; 191])}), "KMS.0249"),
        (OPEN, json!({"ciphertextBlob": ""}), "KMS.0108"),
    ] {
        client.call(path, with(seal.clone(), changes)).refused(400, code);
    }
    // Not yet valid, and not valid any more.
    mock.advance_clock(31 * DAY);
    let uses = [(SIGN, &sign), (VERIFY, &sign), (SEAL, &seal), (OPEN, &seal)];
    for (path, body) in uses {
        client.call(path, body.clone()).refused(400, "KMS.0143");
    }
    mock.shift_clock(-33 * 86_400);
    for (path, body) in uses {
        client.call(path, body.clone()).refused(400, "KMS.0143");
    }
    let pending = client.call(CREATE, new_certificate("RSA 2048")).text("certificateId");
    for (path, body) in uses {
        client.call(path, with(body.clone(), id_of(&pending))).refused(400, "KMS0257");
    }
}

#[test]
fn every_api_knows_its_certificates() {
    let mock = start_patient();
    let client = Client::new(&mock);
    let openssl = OpenSsl::new();
    let deleted = imported(&client, &openssl, Kind::Sm2, json!({}));
    let pem = openssl.read_text("own.pem");
    client.call(DELETE, id_of(&deleted)).data();
    let bodies = |id: &str| {
        let sign = json!({"algorithm": "SM2DSA", "message": "AA==", "signatureValue": "AA=="});
        let seal = json!({"algorithm": "SM2PKE", "plaintext": "AA==", "ciphertextBlob": "AA=="});
        [
            (UPLOAD, json!({"certificate": pem})),
            (DESCRIBE, json!({})),
            (UPDATE, json!({"status": "ACTIVE"})),
            (GET, json!({})),
            (EXPORT, json!({"exportFormat": "PEM", "passphrase": "x"})),
            (DELETE, json!({})),
            (SIGN, sign.clone()),
            (VERIFY, sign),
            (SEAL, seal.clone()),
            (OPEN, seal),
        ]
        .map(|(path, body)| (path, with(body, id_of(id))))
    };
    let all = |id: &str, status: u16, code: &str| {
        for (path, body) in bodies(id) {
            client.call(path, body).refused(status, code);
        }
    };
    all("", 400, "KMS0255");
    all("no id", 400, "KMS.0138");
    all(NO_KEY, 404, "KMS.0309");
    all(&deleted, 404, "KMS0310");
    mock.advance_clock(30 * DAY + Duration::from_secs(1));
    all(&deleted, 404, "KMS.0309");
}

#[test]
fn lists() {
    let mock = start();
    let client = Client::new(&mock);
    let id = imported(&client, &OpenSsl::new(), Kind::Sm2, json!({}));
    for number in 0..2 {
        let subject = format!("CN=number {number}");
        client.call(CREATE, with(new_certificate("SM2"), json!({"subject": subject}))).data();
    }
    let listed = |filter: Value| {
        let list = client.call(LIST, filter);
        (list.data()["totalCount"].as_u64(), list.data()["certificates"].as_array().map_or(0, Vec::len))
    };
    assert_eq!(listed(json!({})), (Some(3), 3));
    assert_eq!(listed(json!({"pageSize": 2, "pageNumber": 2})), (Some(3), 1));
    assert_eq!(listed(json!({"status": "PENDING"})), (Some(2), 2));
    assert_eq!(listed(json!({"subject": "number 1"})), (Some(1), 1));
    assert_eq!(listed(json!({"issuer": "CN=own"})), (Some(1), 1));
    let active = client.call(LIST, json!({"status": "ACTIVE"}));
    assert_eq!(active.data()["certificates"][0], *client.call(DESCRIBE, id_of(&id)).data());
    client.call(LIST, json!({"pageSize": 101})).refused(400, "KMS.0231");
    client.call(LIST, json!({"pageSize": 1001})).refused(400, "KMS.0130");
}

#[test]
fn they_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = || {
        let data = Storage::Dir(directory.path().join("kms"));
        MockKms::start(MockConfig { data, ..MockConfig::default() }).expect("the mock starts")
    };
    let openssl = OpenSsl::new();
    let mock = start();
    let client = Client::new(&mock);
    let ids = [issued(&client, &openssl, Kind::Sm2), imported(&client, &openssl, Kind::Rsa, json!({}))];
    let deleted = imported(&client, &openssl, Kind::Sm2, json!({}));
    client.call(DELETE, id_of(&deleted)).data();
    let before = ids.each_ref().map(|id| client.call(DESCRIBE, id_of(id)).data().clone());
    let bodies = client.call(GET, id_of(&ids[0])).data().clone();
    let sealed = client.call(SEAL, json!({"certificateId": ids[0], "algorithm": "SM2PKE", "plaintext": "AA=="}));
    mock.stop();
    let mock = start();
    let client = Client::new(&mock);
    assert_eq!(ids.each_ref().map(|id| client.call(DESCRIBE, id_of(id)).data().clone()), before);
    assert_eq!(*client.call(GET, id_of(&ids[0])).data(), bodies);
    let blob = sealed.text("ciphertextBlob");
    let opened = client.call(OPEN, json!({"certificateId": ids[0], "algorithm": "SM2PKE", "ciphertextBlob": blob}));
    assert_eq!(opened.plaintext(), [0]);
    client.call(DESCRIBE, id_of(&deleted)).refused(404, "KMS0310");
}

#[test]
fn tags_and_permissions_know_certificates() {
    let mock = start();
    let client = Client::new(&mock);
    let id = imported(&client, &OpenSsl::new(), Kind::Sm2, json!({}));
    let tag = client.call("/tagManage/createTag", json!({"tagKey": "team", "tagValue": "tests"})).text("tagId");
    let bind = json!({"resourceType": "CERTIFICATE", "resourceId": id, "tagIds": [tag]});
    client.call("/tagManage/bindTags", bind.clone()).data();
    let vpc = client.call("/accessPoint/listVpcs", json!({})).data()["vpcs"][0]["vpcId"].clone();
    let subnet =
        client.call("/accessPoint/listSubnets", json!({"vpcId": vpc})).data()["subnets"][0]["subnetId"].clone();
    let point = client
        .call("/accessPoint/createAccessPoint", json!({"name": "point", "vpcId": vpc, "subnetId": subnet}))
        .text("accessPointId");
    let key = client.call("/accessPoint/createAccessKey", json!({"accessPointId": point}));
    let guest = Client::with(&client.endpoint, &key.text("accessKey"), &key.text("secretKey"));
    let allow = |allowed: bool| {
        let resources = json!([{"resourceType": "CERTIFICATE", "resourceId": id, "allowed": allowed}]);
        let body = json!({"accessPointId": point, "resources": resources});
        client.call("/accessPoint/updateResourcePermissions", body).data();
    };
    allow(true);
    guest.call(DESCRIBE, id_of(&id)).data();
    assert_eq!(guest.call(LIST, json!({})).data()["totalCount"], 1);
    allow(false);
    guest.call(DESCRIBE, id_of(&id)).refused(401, "KMS.0405");
    assert_eq!(guest.call(LIST, json!({})).data()["totalCount"], 0);
    client.call(DELETE, id_of(&id)).data();
    let tags = client.call("/tagManage/listTags", json!({}));
    assert_eq!(tags.data()["tags"][0]["resourceCount"], 0);
    client.call("/tagManage/bindTags", bind).refused(404, "KMS.0309");
}
