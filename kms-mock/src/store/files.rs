//! Files and directories that nobody else may read.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::StoreError;

/// Makes a directory with mode 0700, or checks that an existing one is closed to others.
pub fn private_directory(path: &Path) -> Result<(), StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => require_private(path, &std::fs::metadata(path).map_err(file_error)?),
        Err(source) => Err(file_error(source)),
    }
}

/// Opens a file for reading and writing; a new one gets mode 0600, an existing one must be closed to others.
pub fn private_file(path: &Path) -> Result<File, StoreError> {
    let file_error = |source| StoreError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(file_error)?;
    require_private(path, &file.metadata().map_err(file_error)?)?;
    Ok(file)
}

fn require_private(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::NotPrivate { path: path.to_owned(), mode });
    }
    if !metadata.is_dir() && metadata.nlink() > 1 {
        let source = io::Error::other("the file has more than one name");
        return Err(StoreError::File { path: path.to_owned(), source });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = directory.path().join("open");
        std::fs::create_dir(&open).expect("made");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).expect("mode");
        assert!(matches!(private_directory(&open), Err(StoreError::NotPrivate { .. })));
        let made = directory.path().join("a/b");
        private_directory(&made).expect("made");
        assert_eq!(std::fs::metadata(&made).expect("there").permissions().mode() & 0o777, 0o700);
        let file = directory.path().join("file");
        private_file(&file).expect("made");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("mode");
        assert!(matches!(private_file(&file), Err(StoreError::NotPrivate { .. })));
    }
}
