//! Files and folders that other users of the machine can't look into.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a folder, and those above it that are missing, for this user alone. One that is there stays as it is.
pub fn folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes an empty file for this user alone, unless it is there.
pub fn file(path: &Path) -> Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Refuses a file that others may read or change.
pub fn check(path: &Path) -> Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::other(format!(
        "other users of this machine may use the file; run `chmod 600 {}`",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_private_and_what_is_not_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let inner = root.path().join("a/b");
        folder(&inner).expect("makes it");
        let path = inner.join("f");
        file(&path).expect("makes it");
        file(&path).expect("is there");
        let mode = |path: &Path| {
            std::fs::metadata(path)
                .expect("is there")
                .permissions()
                .mode()
        };
        assert_eq!((mode(&inner) & 0o777, mode(&path) & 0o777), (0o700, 0o600));
        check(&path).expect("is private");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("changes it");
        check(&path).expect_err("a group may read it");
    }
}
