//! The pepper's file: made once, readable by its owner alone, and the one that this store's keys were made with.

use super::{StoreError, file_error};
use filters::key::Pepper;
use sqlx::AnyPool;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of a pepper.
const PEPPER_BYTES: usize = 32;
/// A text whose lookup id tells one pepper from another without showing either.
const PROBE: &str = "which pepper is this";

/// What becomes of a new store without a pepper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfNone {
    /// One is made.
    Make,
    /// Nothing: every node must have the same, so somebody has to give it to them.
    Refuse,
}

/// Loads the pepper. An old store without its own refuses, because every key would be unknown.
pub(super) async fn open(path: &Path, if_none: IfNone, writer: &AnyPool) -> Result<Pepper, StoreError> {
    let refuse = |problem| StoreError::Pepper { path: path.to_owned(), problem };
    let known = read_probe(writer).await?;
    if known.is_none() && if_none == IfNone::Make {
        create(path)?;
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound && known.is_none() => {
            return Err(refuse("there is no pepper: make one with `openssl rand -hex 32` and give it to every node"));
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            return Err(refuse(
                "the pepper is missing, and without it no key can be found: restore it from the backup",
            ));
        }
        Err(cause) => return Err(file_error(path, cause)),
    };
    let secret = decode_hex(text.trim())
        .filter(|bytes| bytes.len() >= PEPPER_BYTES)
        .ok_or_else(|| refuse("the pepper is not at least 64 hexadecimal digits: restore it from the backup"))?;
    let pepper = Pepper::new(&secret).map_err(refuse)?;
    let probe = encode_hex(&pepper.lookup(PROBE).0);
    if known.is_none() {
        // Another node may have said first which one it is.
        sqlx::query("INSERT INTO meta (name, content) VALUES ('pepper_probe', $1) ON CONFLICT (name) DO NOTHING")
            .bind(&*probe)
            .execute(writer)
            .await?;
    }
    if read_probe(writer).await?.is_some_and(|known| known == probe) {
        Ok(pepper)
    } else {
        Err(refuse("this is not the pepper that the store's keys were made with: restore it from the backup"))
    }
}

async fn read_probe(writer: &AnyPool) -> Result<Option<String>, StoreError> {
    let probe = "SELECT content FROM meta WHERE name = 'pepper_probe'";
    Ok(sqlx::query_scalar(probe).fetch_optional(writer).await?)
}

/// Makes the file unless there is one. It appears whole or not at all: it is written under another name, then linked.
fn create(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let mut secret = [0u8; PEPPER_BYTES];
    getrandom::fill(&mut secret)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let draft = path.with_extension(std::process::id().to_string());
    let made = write_private(&draft, &encode_hex(&secret))
        .and_then(|()| match fs::hard_link(&draft, path) {
            Err(cause) if cause.kind() != ErrorKind::AlreadyExists => Err(cause),
            _ => Ok(()),
        })
        .and_then(|()| File::open(directory)?.sync_all());
    // The draft is of no use either way; if it can't be removed, the link stands all the same.
    let _ = fs::remove_file(&draft);
    made.map_err(|cause| file_error(path, cause))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Two digits a byte.
pub(super) fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use crate::store::{Store, StoreError};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_pepper_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Store::open(dir.path()).await.expect("a store");
        let path = dir.path().join("pepper");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("text").trim().len(), 64);
        let second = Store::open(dir.path()).await.expect("the same store");
        assert_eq!(first.pepper().lookup("token"), second.pepper().lookup("token"));
    }

    #[tokio::test]
    async fn a_missing_short_or_foreign_pepper_refuses_to_start() {
        let dir = tempfile::tempdir().expect("a directory");
        Store::open(dir.path()).await.expect("a store").close().await;
        let path = dir.path().join("pepper");
        for wrong in [Some(String::new()), Some("ab".repeat(31)), Some("é".repeat(32)), Some("ab".repeat(32)), None] {
            match &wrong {
                Some(text) => fs::write(&path, text).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
            let refused = Store::open(dir.path()).await.expect_err("not the pepper");
            assert!(matches!(refused, StoreError::Pepper { .. }), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_pepper_refuses_a_new_store_too() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("pepper"), "").expect("written");
        assert!(Store::open(dir.path()).await.is_err());
    }
}
