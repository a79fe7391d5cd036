//! Every code of the published table, raised over HTTP by a request that deserves it or, where no request can, by an injected
//! fault. Status, code and message are compared with a copy of the table.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::openssl::OpenSsl;
use common::pki::{Kind, self_signed};
use common::wrap::wrap;
use common::*;
use kms_mock::{Fault, FaultKind, MockConfig, MockKms, SeedFile, Switches};
use serde_json::{Value, json};

const CERT_CREATE: &str = "/manageCertificate/createCertificate";
const CERT_DESCRIBE: &str = "/manageCertificate/describeCertificate";
const CERT_EXPORT: &str = "/manageCertificate/exportCertificate";
const CERT_SIGN: &str = "/certificateCompute/certificatePrivateKeySign";
const CERT_STATUS: &str = "/manageCertificate/updateCertificateStatus";
const CERT_UPLOAD: &str = "/manageCertificate/uploadCertificate";
const CREATE_ALIAS: &str = "/aliasManage/createAlias";
const CREATE_VERSION: &str = "/keyVersion/createKeyVersion";
const DELETE_ALIAS: &str = "/aliasManage/deleteAlias";
const DELETE_MATERIAL: &str = "/importKey/deleteKeyMaterial";
const EXPORT: &str = "/keyCompute/exportDataKey";
const HMAC: &str = "/get/hmaccompute";
const IMPORT: &str = "/importKey/importKeyMaterial";
const PARAMETERS: &str = "/importKey/getParametersForImport";
const POLICY: &str = "/keyVersion/updateRotationPolicy";
const PUBLIC_KEY: &str = "/keyCompute/getPublicKey";
const RANDOM: &str = "/get/random";
const SEAL: &str = "/keyCompute/asymmetricEncrypt";
const SIGN: &str = "/keyCompute/asymmetricSign";
const UPDATE_ALIAS: &str = "/aliasManage/updateAlias";
const UPDATE_DESCRIPTION: &str = "/cmkManage/updateKeyDescription";
const UKEY_DESCRIBE: &str = "/manageCertificate/describeCertificateForUK";
const VERIFY: &str = "/keyCompute/asymmetricVerify";

/// A code, and the path and body of a request that raises it. `$name` in a body stands for what [`World::names`] has under it.
type Case = (&'static str, &'static str, Value);

/// Bodies that are all right, but for the changes.
fn create(changes: Value) -> Value {
    with(new_key("AES_256"), changes)
}

fn sign(changes: Value) -> Value {
    let key = json!({"cmkUuid": "$signer", "keyVersionId": "$signer_version"});
    with(with(key, json!({"algorithm": "SM2DSA", "digest": "$digest"})), changes)
}

fn seal(changes: Value) -> Value {
    let key = json!({"cmkUuid": "$pair", "keyVersionId": "$pair_version"});
    with(with(key, json!({"algorithm": "SM2PKE", "plaintext": "AA=="})), changes)
}

fn export(changes: Value) -> Value {
    let body = json!({"ciphertextBlob": "$data_key", "publicKeyBlob": "$public"});
    with(with(body, json!({"wrappingKeySpec": "EC_SM2", "wrappingAlgorithm": "SM2PKE"})), changes)
}

fn parameters(changes: Value) -> Value {
    let body = json!({"cmkUuid": "$external", "wrappingAlgorithm": "SM2PKE", "wrappingKeySpec": "EC_SM2"});
    with(body, changes)
}

fn import(changes: Value) -> Value {
    with(json!({"cmkUuid": "$external", "importToken": "x", "encryptedKeyMaterial": "AA=="}), changes)
}

/// From an asymmetric key.
fn re_encrypt(changes: Value) -> Value {
    let source =
        json!({"ciphertextBlob": "$pair_blob", "sourceCmkUuid": "$pair", "sourceKeyVersionId": "$pair_version"});
    with(with(source, json!({"sourceEncryptionAlgorithm": "SM2PKE", "destinationCmkUuid": "$aes"})), changes)
}

fn by_body() -> Vec<Case> {
    [key_fields(), key_values(), key_states(), of_certificates()].concat()
}

/// Fields that are absent.
fn key_fields() -> Vec<Case> {
    vec![
        ("KMS.0101", UPDATE_DESCRIPTION, json!({"cmkUuid": "$aes"})),
        ("KMS.0102", DESCRIBE_KEY, json!({})),
        ("KMS.0103", CREATE_ALIAS, json!({"cmkUuid": "$aes"})),
        ("KMS.0104", SIGN, sign(json!({"digest": null}))),
        ("KMS.0105", SIGN, sign(json!({"keyVersionId": null}))),
        ("KMS.0106", SIGN, sign(json!({"algorithm": null}))),
        ("KMS.0107", ENCRYPT, json!({"cmkUuid": "$aes"})),
        ("KMS.0108", DECRYPT, json!({})),
        ("KMS.0109", RE_ENCRYPT, json!({"ciphertextBlob": "$blob", "destinationCmkUuid": ""})),
        ("KMS.0110", RE_ENCRYPT, re_encrypt(json!({"sourceCmkUuid": null}))),
        ("KMS.0111", RE_ENCRYPT, re_encrypt(json!({"sourceKeyVersionId": null}))),
        ("KMS.0112", RE_ENCRYPT, json!({"ciphertextBlob": "$blob"})),
        ("KMS.0113", CREATE_KEY, create(json!({"protectionLevel": null}))),
        ("KMS.0114", SEAL, seal(json!({"algorithm": null}))),
        ("KMS.0116", CREATE_KEY, create(json!({"enableAutomaticRotation": null}))),
        ("KMS.0117", CREATE_KEY, create(json!({"keyUsage": null}))),
        ("KMS.0118", CREATE_KEY, create(json!({"enableAutomaticRotation": true}))),
        ("KMS.0120", PARAMETERS, parameters(json!({"wrappingAlgorithm": null}))),
        ("KMS.0121", PARAMETERS, parameters(json!({"wrappingKeySpec": null}))),
        ("KMS.0122", SCHEDULE, json!({"cmkUuid": "$aes"})),
        ("KMS.0123", IMPORT, import(json!({"importToken": null}))),
        ("KMS.0124", IMPORT, import(json!({"encryptedKeyMaterial": null}))),
        ("KMS.0125", VERIFY, sign(json!({}))),
        ("KMS.0126", CREATE_KEY, create(json!({"keySpec": null}))),
        ("KMS.0131", EXPORT, export(json!({"publicKeyBlob": null}))),
        ("KMS.0134", EXPORT, export(json!({"wrappingAlgorithm": null}))),
        ("KMS.0135", LIST_KEYS, json!({"product": ""})),
    ]
}

/// Values that are wrong.
fn key_values() -> Vec<Case> {
    let long = format!("alias/{}", "x".repeat(256));
    let rotating_rsa = json!({"keySpec": "RSA_2048", "enableAutomaticRotation": true, "rotationInterval": "30"});
    vec![
        ("KMS.0128", ENCRYPT, json!({"cmkUuid": 3, "plaintext": "AA=="})),
        ("KMS.0130", LIST_KEYS, json!({"pageSize": 1001})),
        ("KMS.0132", CREATE_ALIAS, json!({"cmkUuid": "$aes", "aliasName": long})),
        ("KMS.0133", CREATE_ALIAS, json!({"cmkUuid": "$aes", "aliasName": "name"})),
        ("KMS.0136", LIST_KEYS, json!({"product": "teapot"})),
        ("KMS.0211", CREATE_KEY, create(rotating_rsa)),
        ("KMS.0212", SIGN, sign(json!({"algorithm": "RSA_PSS_SHA_256"}))),
        ("KMS.0213", ENCRYPT, json!({"cmkUuid": "$pair", "plaintext": "AA=="})),
        ("KMS.0214", SEAL, seal(json!({"cmkUuid": "$aes", "keyVersionId": "$aes_version"}))),
        ("KMS.0215", SIGN, sign(json!({"algorithm": "MD5"}))),
        ("KMS.0216", CREATE_KEY, create(json!({"keyUsage": "BOTH"}))),
        ("KMS.0217", CREATE_KEY, create(json!({"enableAutomaticRotation": "perhaps"}))),
        ("KMS.0218", CREATE_KEY, create(json!({"protectionLevel": "GLASS"}))),
        ("KMS.0219", DECRYPT, json!({"ciphertextBlob": "AAAA"})),
        ("KMS.0220", DATA_KEY, json!({"cmkUuid": "$aes", "keySpec": "AES_128"})),
        ("KMS.0221", DATA_KEY, json!({"cmkUuid": "$spare", "keySpec": "AES_256"})),
        ("KMS.0222", CREATE_KEY, create(json!({"algorithm": "RSA"}))),
        ("KMS.0223", DATA_KEY, json!({"cmkUuid": "$aes", "keySpec": "RSA_2048"})),
        ("KMS.0224", CREATE_KEY, create(json!({"enableAutomaticRotation": true, "rotationInterval": "6"}))),
        ("KMS.0225", PARAMETERS, parameters(json!({"cmkUuid": "$pair"}))),
        ("KMS.0226", SCHEDULE, json!({"cmkUuid": "$aes", "pendingWindowInDays": 31})),
        ("KMS.0227", CREATE_KEY, create(json!({"keySpec": "EC_P256"}))),
        ("KMS.0231", LIST_KEYS, json!({"pageSize": 101})),
        ("KMS.0232", SIGN, sign(json!({"cmkUuid": "$aes", "keyVersionId": "$aes_version"}))),
        ("KMS.0235", IMPORT, import(json!({"keyMaterialExpireUnix": 1}))),
        ("KMS.0236", EXPORT, export(json!({"wrappingAlgorithm": "ROT13"}))),
        ("KMS.0237", EXPORT, export(json!({"wrappingKeySpec": "RSA_512"}))),
        ("KMS.0240", DESCRIBE_KEY, json!({"cmkUuid": "no id"})),
        ("KMS.0241", RANDOM, json!({"length": 0})),
        ("KMS.0242", CREATE_KEY, create(json!({"origin": "MARS"}))),
        ("KMS.0244", RE_ENCRYPT, json!({"ciphertextBlob": "$blob", "destinationCmkUuid": "$pair"})),
        ("KMS.0247", EXPORT, export(json!({"ciphertextBlob": "AAAA"}))),
        ("KMS.0249", ENCRYPT, json!({"cmkUuid": "$aes", "plaintext": BASE64.encode([0; 6145])})),
        ("KMS.0250", DATA_KEY, json!({"cmkUuid": "$pair"})),
        ("KMS.0251", SEAL, seal(json!({"algorithm": "RSAES_OAEP_SHA_256"}))),
        ("KMS.0252", ENCRYPT, json!({"cmkUuid": "$aes", "plaintext": "no Base64!"})),
    ]
}

/// Keys that are in the wrong state, or are not there.
fn key_states() -> Vec<Case> {
    let re_encrypt_to = |key| json!({"ciphertextBlob": "$blob", "destinationCmkUuid": key});
    vec![
        ("KMS.0201", CREATE_ALIAS, json!({"cmkUuid": "$aes", "aliasName": "alias/aes"})),
        ("KMS.0202", CREATE_ALIAS, json!({"cmkUuid": "$default", "aliasName": "alias/new"})),
        ("KMS.0203", ENCRYPT, json!({"cmkUuid": "$pending", "plaintext": "AA=="})),
        ("KMS.0204", SIGN, sign(json!({"cmkUuid": "$pair", "keyVersionId": "$pair_version"}))),
        ("KMS.0205", SEAL, seal(json!({"cmkUuid": "$signer", "keyVersionId": "$signer_version"}))),
        ("KMS.0206", ENCRYPT, json!({"cmkUuid": "$disabled", "plaintext": "AA=="})),
        ("KMS.0207", ENABLE_KEY, json!({"cmkUuid": "$pending"})),
        ("KMS.0208", SCHEDULE, json!({"cmkUuid": "$pending", "pendingWindowInDays": 7})),
        ("KMS.0209", CANCEL, json!({"cmkUuid": "$aes"})),
        ("KMS.0210", PARAMETERS, parameters(json!({"cmkUuid": "$aes"}))),
        ("KMS.0228", CREATE_VERSION, json!({"cmkUuid": "$old"})),
        ("KMS.0230", CREATE_VERSION, json!({"cmkUuid": "$disabled"})),
        ("KMS.0233", CREATE_ALIAS, json!({"cmkUuid": "$pending", "aliasName": "alias/new"})),
        ("KMS.0234", DELETE_ALIAS, json!({"aliasName": "alias/ecs"})),
        ("KMS.0239", DECRYPT, json!({"ciphertextBlob": "$lost_blob"})),
        ("KMS.0243", UPDATE_ALIAS, json!({"cmkUuid": "$aes", "aliasName": "alias/ecs"})),
        ("KMS.0246", RE_ENCRYPT, re_encrypt_to("$disabled")),
        ("KMS.0301", DESCRIBE_KEY, json!({"cmkUuid": NO_KEY})),
        ("KMS.0302", CREATE_ALIAS, json!({"cmkUuid": NO_KEY, "aliasName": "alias/new"})),
        ("KMS.0303", DESCRIBE_KEY, json!({"cmkUuid": "alias/none"})),
        ("KMS.0304", UPDATE_ALIAS, json!({"cmkUuid": NO_KEY, "aliasName": "alias/aes"})),
        ("KMS.0305", RE_ENCRYPT, re_encrypt_to(NO_KEY)),
        ("KMS.0306", HMAC, json!({"cmkUuid": "$disabled", "input": "text"})),
        ("KMS.0307", RE_ENCRYPT, re_encrypt_to("alias/none")),
        ("KMS.0308", RE_ENCRYPT, re_encrypt(json!({"sourceCmkUuid": NO_KEY}))),
    ]
}

fn of_certificates() -> Vec<Case> {
    let request = |changes| {
        let names = json!({"subject": "CN=x", "subjectAlternativeNames": []});
        let key = json!({"keySpec": "SM2", "exportablePrivateKey": 0, "protectionLevel": "0"});
        with(with(names, key), changes)
    };
    let id = |name: &str| json!({"certificateId": name});
    let status = |name: &str, status: &str| json!({"certificateId": name, "status": status});
    let sign =
        |name: &str, changes| with(json!({"certificateId": name, "algorithm": "SM2DSA", "message": "AA=="}), changes);
    let upload = |pem: &str| json!({"certificateId": "$cert_pending", "certificate": pem});
    let export = |format: &str| json!({"certificateId": "$cert_active", "exportFormat": format, "passphrase": "x"});
    vec![
        ("KMS.0137", CERT_SIGN, sign("$cert_active", json!({"messageType": "HASH"}))),
        ("KMS.0138", CERT_DESCRIBE, id("no id")),
        ("KMS.0139", CERT_UPLOAD, upload("$cert_pem")),
        ("KMS.0140", CERT_UPLOAD, upload("text")),
        ("KMS.0141", CERT_CREATE, request(json!({"keySpec": "EC_P256"}))),
        ("KMS.0142", CERT_EXPORT, export("PEM")),
        ("KMS.0143", UKEY_DESCRIBE, json!({"ukId": NO_KEY})),
        ("KMS.0144", CERT_EXPORT, export("DER")),
        ("KMS.0253", CERT_CREATE, request(json!({"keySpec": null}))),
        ("KMS0254", CERT_CREATE, request(json!({"subject": null}))),
        ("KMS0255", CERT_DESCRIBE, json!({})),
        ("KMS0256", CERT_STATUS, id("$cert_active")),
        ("KMS0257", CERT_STATUS, status("$cert_pending", "ACTIVE")),
        ("KMS0258", CERT_STATUS, status("$cert_active", "ACTIVE")),
        ("KMS0259", CERT_SIGN, sign("$cert_revoked", json!({}))),
        ("KMS0260", CERT_SIGN, sign("$cert_inactive", json!({}))),
        ("KMS.0309", CERT_DESCRIBE, id(NO_KEY)),
        ("KMS0310", CERT_DESCRIBE, id("$cert_deleted")),
    ]
}

/// What no request can cause: a fault where it would strike, and a request that succeeds without it.
fn by_fault() -> Vec<Case> {
    let policy = || json!({"cmkUuid": "$aes", "enableAutomaticRotation": true, "rotationInterval": "30"});
    let schedule = |key| json!({"cmkUuid": key, "pendingWindowInDays": 7});
    vec![
        ("KMS.0119", POLICY, policy()),
        ("KMS.0127", LIST_KEYS, json!({})),
        ("KMS.0501", POLICY, policy()),
        ("KMS.0502", DELETE_ALIAS, json!({"aliasName": "alias/aes"})),
        ("KMS.0503", CREATE_KEY, create(json!({}))),
        ("KMS.0504", DECRYPT, json!({"ciphertextBlob": "$blob"})),
        ("KMS.0505", CREATE_KEY, create(json!({}))),
        ("KMS.0506", SCHEDULE, schedule("$spare")),
        ("KMS.0507", POLICY, policy()),
        ("KMS.0508", SCHEDULE, schedule("$old")),
        ("KMS.0509", DELETE_MATERIAL, json!({"cmkUuid": "$imported"})),
        ("KMS.0510", LIST_KEYS, json!({"product": "ecs"})),
        ("KMS.0511", RANDOM, json!({"length": 16})),
        ("KMS.0512", DATA_KEY, json!({"cmkUuid": "$aes"})),
        ("KMS.0513", DECRYPT, json!({"ciphertextBlob": "$data_key"})),
        ("KMS.0514", ENCRYPT, json!({"cmkUuid": "$aes", "plaintext": "AA=="})),
        ("KMS.0515", CREATE_KEY, create(json!({}))),
        ("KMS.0516", CREATE_VERSION, json!({"cmkUuid": "$aes"})),
        ("KMS.0517", POLICY, policy()),
        ("KMS.0518", UPDATE_DESCRIPTION, json!({"cmkUuid": "$aes", "description": "text"})),
    ]
}

/// Requests that are odd in another way than by their body.
fn by_circumstance(world: &World) -> Vec<(&'static str, Answer)> {
    let (mock, client) = (&world.mock, &world.client);
    let list = |client: &Client| client.call(LIST_KEYS, json!({}));
    let mut answers = vec![
        ("KMS.0129", client.call(LIST_KEYS, json!({"product": "x".repeat(70_000)}))),
        ("KMS.0401", list(&Client { access_key: "nobody".into(), ..client.clone() })),
        ("KMS.0402", list(&Client { secret_key: "wrong".into(), ..client.clone() })),
        ("KMS.0404", list(&Client { clock_error: 3600, ..client.clone() })),
        ("KMS.0405", client.call("/nowhere", json!({}))),
    ];
    let mut headers = client.native_headers(LIST_KEYS, &json!({}));
    headers[1].1 = "yesterday".into();
    answers.push(("KMS.0403", client.send(LIST_KEYS, &headers, b"{}").expect("an answer")));
    mock.set_frozen(&client.access_key, true);
    answers.push(("KMS.0406", list(client)));
    mock.set_frozen(&client.access_key, false);
    mock.set_quota(Some(0));
    answers.push(("kms.0407", list(client)));
    mock.set_quota(None);
    let ordinary = mock.switches();
    mock.set_switches(Switches { strict_region: true, ..ordinary });
    answers.push(("KMS.0115", client.call("/aliasManage/listAliases", json!({}))));
    mock.set_switches(Switches::default());
    answers.push(("KMS.0229", world.call(CREATE_VERSION, &json!({"cmkUuid": "$aes"}))));
    mock.set_switches(ordinary);
    let imported = &world.names["imported"];
    answers.push(("KMS.0248", world.import(imported, [1; 32])));
    client.call(DELETE_MATERIAL, json!({"cmkUuid": imported})).data();
    answers.push(("KMS.0245", world.import(imported, [2; 32])));
    // The 51st asymmetric key of the region.
    while client.call(LIST_KEYS, json!({})).data()["totalCount"].as_u64() < Some(100) {
        let body = with(new_key("Ctyun_SM2"), json!({"enableAutomaticRotation": null}));
        let answer = client.call(CREATE_KEY, body);
        if answer.status != 200 {
            answers.push(("KMS.0238", answer));
            break;
        }
    }
    answers
}

/// Keys of the seed file: names, and fields.
fn seed_keys() -> Vec<(&'static str, Value)> {
    vec![
        ("aes", json!({"spec": "AES_256", "aliases": ["alias/aes"]})),
        ("disabled", json!({"spec": "AES_256", "state": "Disabled"})),
        ("pending", json!({"spec": "AES_256", "state": "PendingDeletion"})),
        ("spare", json!({"spec": "Ctyun_SM4"})),
        ("old", json!({"spec": "AES_256"})),
        ("lost", json!({"spec": "AES_256"})),
        ("external", json!({"spec": "AES_256", "state": "PendingImport"})),
        ("imported", json!({"spec": "AES_256", "state": "PendingImport"})),
        ("pair", json!({"spec": "Ctyun_SM2"})),
        ("signer", json!({"spec": "Ctyun_SM2", "usage": "SIGN/VERIFY"})),
    ]
}

/// A mock with keys in every state.
struct World {
    mock: MockKms,
    client: Client,
    names: BTreeMap<&'static str, String>,
}

impl World {
    fn new() -> Self {
        let mut names = BTreeMap::new();
        let mut keys = Vec::new();
        for (at, (name, key)) in seed_keys().into_iter().enumerate() {
            let id = format!("00000000-0000-4000-8000-{at:012}");
            keys.push(with(key, json!({"id": id})));
            names.insert(name, id);
        }
        let mock = start_with(&keys);
        // A blob under a version that the key does not have any more.
        let other = start_with(&[json!({"id": names["lost"], "spec": "AES_256"})]);
        names.insert("lost_blob", Client::new(&other).encrypt(&names["lost"], b"text").text("ciphertextBlob"));
        let client = Client::new(&mock);
        World { mock, client, names }.furnished()
    }

    /// With what has to be asked for.
    fn furnished(mut self) -> Self {
        self.mock.set_switches(Switches { rotation_min_age_s: 0, ..Switches::default() });
        let client = self.client.clone();
        for (name, key) in [("aes_version", "aes"), ("signer_version", "signer"), ("pair_version", "pair")] {
            let versions = client.call("/keyVersion/listKeyVersions", json!({"cmkUuid": self.names[key]}));
            let version = versions.data()["keyVersions"][0]["keyVersionId"].as_str().expect("a version").to_owned();
            self.names.insert(name, version);
        }
        let pair = json!({"cmkUuid": "$pair", "keyVersionId": "$pair_version"});
        let pem = self.call(PUBLIC_KEY, &pair).text("publicKeyPem");
        for (name, value) in [
            ("default", client.call(DESCRIBE_KEY, json!({"cmkUuid": "alias/ecs"})).text("cmkUuid")),
            ("blob", client.encrypt("alias/aes", b"text").text("ciphertextBlob")),
            ("data_key", client.data_key("alias/aes").text("ciphertextBlob")),
            ("digest", BASE64.encode([7; 32])),
            ("public", pem.lines().filter(|line| !line.starts_with('-')).collect()),
            ("pair_blob", self.call(SEAL, &seal(json!({}))).text("ciphertextBlob")),
        ] {
            self.names.insert(name, value);
        }
        self.import(&self.names["imported"], [1; 32]).data();
        self.certify();
        for _ in 1..50 {
            client.call(CREATE_VERSION, json!({"cmkUuid": self.names["old"]})).data();
        }
        self
    }

    /// Certificates in every state.
    fn certify(&mut self) {
        let openssl = OpenSsl::new();
        self_signed(&openssl, Kind::Sm2, "own", 30);
        openssl.run("pkcs12 -export -inkey own.key -in own.pem -passout pass:x -out own.p12");
        self.names.insert("cert_pem", openssl.read_text("own.pem"));
        let file = json!({"pkcs12Blob": BASE64.encode(openssl.read("own.p12")), "passphrase": "x"});
        for (name, status) in [
            ("cert_active", None),
            ("cert_inactive", Some("INACTIVE")),
            ("cert_revoked", Some("REVOKED")),
            ("cert_deleted", None),
        ] {
            let id = self.client.call("/manageCertificate/importCertificate", file.clone()).text("certificateId");
            if let Some(status) = status {
                self.client.call(CERT_STATUS, json!({"certificateId": id, "status": status})).data();
            }
            self.names.insert(name, id);
        }
        let deleted = json!({"certificateId": self.names["cert_deleted"]});
        self.client.call("/manageCertificate/deleteCertificate", deleted).data();
        let request = json!({"keySpec": "SM2", "subject": "CN=x", "subjectAlternativeNames": [],
            "exportablePrivateKey": 0, "protectionLevel": "0"});
        let pending = self.client.call(CERT_CREATE, request).text("certificateId");
        self.names.insert("cert_pending", pending);
    }

    fn filled(&self, body: &Value) -> Value {
        match body {
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => self.names[name].clone().into(),
                None => body.clone(),
            },
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), self.filled(value))).collect(),
            other => other.clone(),
        }
    }

    fn call(&self, path: &str, body: &Value) -> Answer {
        self.client.call(path, self.filled(body))
    }

    fn import(&self, id: &str, material: [u8; 32]) -> Answer {
        let offer = self.client.call(PARAMETERS, with(parameters(json!({})), json!({"cmkUuid": id})));
        let wrapped = wrap(&offer.text("publicKey"), "SM2PKE", &material);
        let body = json!({"cmkUuid": id, "importToken": offer.text("importToken"), "encryptedKeyMaterial": wrapped});
        self.client.call(IMPORT, body)
    }
}

fn start_with(keys: &[Value]) -> MockKms {
    let seed_file = SeedFile::from_json(&json!({"keys": keys}).to_string()).expect("a good file");
    MockKms::start(MockConfig { seed_file, ..MockConfig::default() }).expect("the mock starts")
}

#[track_caller]
fn is(answer: &Answer, code: &str) {
    let (status, message) = published()[code];
    answer.refused(status, code);
    assert_eq!(answer.body["message"], message);
    assert_eq!(answer.body["statusCode"], status);
    assert_eq!(answer.body["requestId"].as_str().map(str::len), Some(36));
}

#[test]
fn every_code_is_raised() {
    let world = World::new();
    let mut raised = BTreeSet::new();
    for (code, path, body) in by_body() {
        is(&world.call(path, &body), code);
        assert!(raised.insert(code), "{code} twice");
    }
    for (code, answer) in by_circumstance(&world) {
        is(&answer, code);
        assert!(raised.insert(code), "{code} twice");
    }
    for (code, path, body) in by_fault() {
        let api = path.rsplit('/').next().map(|name| if name == "random" { "generateRandom" } else { name });
        let kind = FaultKind::Code(code.to_owned());
        world.mock.inject(Fault { api: api.map(str::to_owned), times: 1, kind });
        is(&world.call(path, &body), code);
        world.call(path, &body).data();
        assert!(raised.insert(code), "{code} twice");
    }
    assert_eq!(by_fault().len(), 20);
    assert_eq!(raised, published().into_keys().collect());
}
