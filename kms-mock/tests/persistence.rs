//! What survives a restart, and a kill.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::*;
use kms_mock::{MockConfig, MockKms, StartError, Storage, StoreError};
use serde_json::json;

fn start_in(directory: &Path) -> MockKms {
    MockKms::start(MockConfig { data: Storage::Dir(directory.to_owned()), ..MockConfig::default() }).expect("starts")
}

#[test]
fn keys_states_versions_and_credentials_survive() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mock = start_in(&data);
    let (client, credential) = (Client::new(&mock), mock.credential());
    let ids = ["AES_256", "SM4_128"].map(|spec| client.create(spec));
    let blobs = ids.clone().map(|id| client.encrypt(&id, b"old").text("ciphertextBlob"));
    ids.iter().for_each(|id| mock.rotate_key(id).expect("rotated"));
    let disabled = client.create("AES_256");
    client.call(DISABLE_KEY, json!({"cmkUuid": disabled})).data();
    let pending = client.create("AES_256");
    client.call(SCHEDULE, json!({"cmkUuid": pending, "pendingWindowInDays": 7})).data();
    let gone = client.create("AES_256");
    mock.delete_now(&gone).expect("deleted");
    let before = client.call(LIST_KEYS, json!({})).data().clone();
    mock.stop();

    let mock = start_in(&data);
    assert_eq!(mock.credential(), credential);
    let client = Client::new(&mock);
    assert_eq!(client.call(LIST_KEYS, json!({})).data(), &before, "the default CMK is not seeded twice");
    for blob in blobs {
        assert_eq!(client.decrypt(&blob).plaintext(), b"old");
    }
    client.data_key(&disabled).refused(400, "KMS.0206");
    client.data_key(&pending).refused(400, "KMS.0203");
    client.call(CANCEL, json!({"cmkUuid": pending})).data();
    client.data_key(&pending).data();
    client.data_key(&gone).refused(404, "KMS.0301");
    client.data_key("alias/ecs").data();
}

#[test]
fn only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let mock = start_in(&data);
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&data).expect("readable") {
        let entry = entry.expect("an entry");
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().expect("a name"));
    }
    names.sort();
    assert_eq!(names, ["credentials.toml", "kms.redb"]);
    mock.stop();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o750)).expect("set");
    let config = MockConfig { data: Storage::Dir(data), ..MockConfig::default() };
    assert!(matches!(MockKms::start(config), Err(StartError::Store(StoreError::NotPrivate { mode: 0o750, .. }))));
}

#[test]
fn no_plaintext_reaches_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let mock = start_in(&directory.path().join("kms"));
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    let sealed = client.encrypt(&id, b"a secret of the caller");
    let made = client.data_key(&id);
    client.decrypt(&sealed.text("ciphertextBlob")).data();
    mock.stop();
    for entry in std::fs::read_dir(directory.path().join("kms")).expect("readable") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("readable");
        for secret in [
            &b"a secret of the caller"[..],
            b"YSBzZWNyZXQgb2YgdGhlIGNhbGxlcg",
            &made.plaintext(),
            made.text("plaintext").as_bytes(),
        ] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}

#[test]
fn two_mocks_do_not_share_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let _mock = start_in(&data);
    let config = MockConfig { data: Storage::Dir(data), ..MockConfig::default() };
    assert!(matches!(MockKms::start(config), Err(StartError::Store(StoreError::Database(_)))));
}

#[test]
fn credentials_that_are_given_are_not_stored() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("kms");
    let given = ["first", "second"].map(|access_key| kms_mock::Credential {
        access_key: access_key.into(),
        secret_key: format!("secret of {access_key}"),
    });
    let config = MockConfig { data: Storage::Dir(data.clone()), credentials: given.to_vec(), ..MockConfig::default() };
    let mock = MockKms::start(config).expect("starts");
    assert_eq!(mock.credential(), given[0]);
    for credential in &given {
        let client = Client::with(&mock.endpoint(), &credential.access_key, &credential.secret_key);
        client.call(LIST_KEYS, json!({})).data();
    }
    assert!(!data.join("credentials.toml").exists());
}

#[test]
fn a_service_that_was_down_comes_back_at_the_same_address() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = Storage::Dir(directory.path().join("kms"));
    let mut mock = MockKms::start(MockConfig { data: data.clone(), ..MockConfig::default() }).expect("starts");
    let client = Client::new(&mock);
    let id = client.create("AES_256");
    for _ in 0..3 {
        client.data_key(&id).data();
        let listen = mock.address();
        mock.stop();
        assert!(client.try_call(LIST_KEYS, json!({})).is_err());
        mock =
            MockKms::start(MockConfig { data: data.clone(), listen, ..MockConfig::default() }).expect("starts again");
    }
    client.data_key(&id).data();
}
