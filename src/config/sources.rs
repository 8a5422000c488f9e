//! What the configuration is read from: files beside it and the environment. Remembers every file for the watcher.

use std::cell::RefCell;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// No file of ours is longer; a wrong path to something huge must not be read into memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A secret, such as a provider's. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A text that is secret from now on.
    #[must_use]
    pub fn of(text: String) -> Self {
        Self(text)
    }

    /// A secret of a test.
    #[cfg(test)]
    pub(crate) fn for_tests(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself, for the one header that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Why there is no secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSecret {
    /// Nothing is there; what an optional provider may have.
    Absent(String),
    /// Something is there that can't be a secret.
    Unusable(String),
}

impl Secret {
    /// A secret of a test.
    #[cfg(test)]
    pub(crate) fn of_test(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Takes what was found in a place, without the line end that files have.
    pub(super) fn new(text: &str, place: &str) -> Result<Self, NoSecret> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NoSecret::Absent(format!("{place} is empty")));
        }
        // It goes into a header line, where a line break would begin another.
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(NoSecret::Unusable(format!("{place} holds characters that a header can't carry")));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A file that was read, and how it looked just before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFile {
    path: PathBuf,
    stamp: Option<Stamp>,
}

/// What tells that a file has changed without reading it. Links are followed: mounted secrets are behind some.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl WatchedFile {
    /// The file as it looks now; no stamp if it is not there.
    #[must_use]
    pub fn now(path: &Path) -> Self {
        let stamp = std::fs::metadata(path).ok().map(|metadata| Stamp {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        });
        Self { path: path.to_path_buf(), stamp }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads files and the environment.
pub(super) struct Sources<'e> {
    environment: &'e dyn Fn(&str) -> Option<String>,
    directory: PathBuf,
    files: RefCell<Vec<WatchedFile>>,
}

impl<'e> Sources<'e> {
    /// Relative paths are relative to the directory of `main_file`.
    pub(super) fn beside(main_file: &Path, environment: &'e dyn Fn(&str) -> Option<String>) -> Self {
        let directory = main_file.parent().map(Path::to_path_buf).unwrap_or_default();
        Self { environment, directory, files: RefCell::default() }
    }

    pub(super) fn path(&self, written: &str) -> PathBuf {
        self.directory.join(written)
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name)
    }

    /// The text of a file, which is watched from now on, whether it can be read or not.
    pub(super) fn read(&self, path: &Path) -> Result<String, String> {
        let mut files = self.files.borrow_mut();
        if !files.iter().any(|file| file.path == path) {
            files.push(WatchedFile::now(path));
        }
        let unreadable = |error: std::io::Error| format!("{} can't be read: {error}", path.display());
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        // A pipe or a device could block for ever.
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            return Err(format!("{} is not a file of at most {FILE_BYTES_MAX} bytes", path.display()));
        }
        std::fs::read_to_string(path).map_err(unreadable)
    }

    pub(super) fn into_files(self) -> Vec<WatchedFile> {
        self.files.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new("sk-very-secret\n", "it").expect("a secret");
        assert_eq!(secret.reveal(), "sk-very-secret");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn what_a_header_cannot_carry_is_no_secret() {
        assert!(matches!(Secret::new(" \n", "it"), Err(NoSecret::Absent(_))));
        assert!(matches!(Secret::new("a\r\nb: c", "it"), Err(NoSecret::Unusable(_))));
        assert!(matches!(Secret::new("ключ", "it"), Err(NoSecret::Unusable(_))));
    }
}
