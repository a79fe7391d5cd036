//! The first access key of a mock: given by whoever starts it, or generated once and kept in a private file.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::store::{StoreError, private_file};
use crate::tenants::{Credential, random_hex};

/// The file within the directory of the store.
const FILE: &str = "credentials.toml";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialFile {
    access_key: String,
    secret_key: Zeroizing<String>,
}

/// Where the credentials of a directory lie.
pub fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// Reads the credential of a private directory, or generates and writes one. `access_key` asks for a certain access key; a file
/// with another one is an error, not overwritten.
pub fn load_or_generate(directory: &Path, access_key: Option<&str>) -> Result<Credential, StoreError> {
    let path = path(directory);
    match fs::symlink_metadata(&path) {
        Ok(_) => load(&path, access_key),
        Err(error) if error.kind() == ErrorKind::NotFound => generate(&path, access_key),
        Err(source) => Err(StoreError::File { path, source }),
    }
}

fn load(path: &Path, access_key: Option<&str>) -> Result<Credential, StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    private_file(path)?;
    let text = Zeroizing::new(fs::read_to_string(path).map_err(file_error)?);
    // The parser's own message would quote the line, and with it the secret.
    let file: CredentialFile = toml::from_str(&text).map_err(|_| file_error(ErrorKind::InvalidData.into()))?;
    if access_key.is_some_and(|wanted| wanted != file.access_key) {
        return Err(file_error(std::io::Error::other("it holds another access key")));
    }
    Ok(Credential { access_key: file.access_key, secret_key: file.secret_key.to_string() })
}

fn generate(path: &Path, access_key: Option<&str>) -> Result<Credential, StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    let fresh = Credential::generate()?;
    let credential = Credential { access_key: access_key.map_or(fresh.access_key, str::to_owned), ..fresh };
    let file = CredentialFile {
        access_key: credential.access_key.clone(),
        secret_key: Zeroizing::new(credential.secret_key.clone()),
    };
    let text = Zeroizing::new(toml::to_string(&file).map_err(|error| file_error(std::io::Error::other(error)))?);
    // Written aside and renamed, so that a crash leaves no half of it.
    let aside = path.with_extension(format!("{}.new", random_hex()?));
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(file_error)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(file_error)?;
    fs::rename(&aside, path).map_err(file_error)?;
    Ok(credential)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn generated_once_and_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = load_or_generate(directory.path(), None).expect("generated");
        assert_eq!(load_or_generate(directory.path(), None).expect("loaded"), first);
        assert_eq!(load_or_generate(directory.path(), Some(&first.access_key)).expect("loaded"), first);
        assert!(load_or_generate(directory.path(), Some("other")).is_err());
        let path = path(directory.path());
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("mode");
        assert!(matches!(load_or_generate(directory.path(), None), Err(StoreError::NotPrivate { .. })));
    }

    #[test]
    fn a_damaged_file_is_not_quoted() {
        let directory = tempfile::tempdir().expect("a directory");
        load_or_generate(directory.path(), None).expect("generated");
        fs::write(path(directory.path()), "secret_key = \"sesame").expect("written");
        let error = load_or_generate(directory.path(), None).expect_err("damaged");
        assert!(!format!("{error:?} {error}").contains("sesame"));
    }
}
