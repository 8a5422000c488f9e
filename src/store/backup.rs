//! Copies of the books: made while the gateway runs, put back while it does not.
//!
//! A copy is the database as of one moment, the pepper and the master keys if they lie beside it, without the journal: what was called since is in the journal
//! of the node, and is shipped again when the gateway starts on restored books. The directory of a copy appears whole or not at
//! all; what says that it is whole is written last.

use super::journal::{self, Held, OpenError};
use super::pepper::encode_hex;
use super::{StoreError, file_error, hold_lock, make_private_directory};
use filters::time::EpochMs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const DATABASE: &str = "tollgate.db";
const PEPPER: &str = "pepper";
/// Not there where the configuration names others, and in backups of earlier releases.
const MASTER_KEYS: &str = "master-keys";
const MANIFEST: &str = "backup.json";
/// The books that a restore has replaced, until the next one.
const REPLACED: &str = "tollgate.db.replaced";
/// While it is there, a restore is half-way.
const MARKER: &str = "restoring";
const FORMAT: u32 = 1;
/// What a restore adds to the numbers that were given out: those given out after the backup may stand in the journal, and must
/// not be given to somebody else.
const NUMBERS_SKIPPED: i64 = 1_000_000_000;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// When it was begun; the books are those of this moment or a little later.
    pub made_ms: i64,
    /// The size of the database.
    pub database_bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub database_sha256: String,
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Of which backup.
    pub manifest: Manifest,
    /// Where the books are that it replaced, if there were any.
    pub replaced: Option<PathBuf>,
    /// The journal no longer has all that was called since the backup: the rest of it is in no books.
    pub journal_has_gap: bool,
}

/// Copies the books of a data directory to a directory that is not there yet.
pub async fn back_up(data: &Path, to: &Path, now: EpochMs) -> Result<Manifest, StoreError> {
    if to.exists() {
        return Err(refused(to, "there is something already: name a directory that is to be made"));
    }
    let (parent, name) = match (to.parent(), to.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => (Path::new("."), name),
        (Some(parent), Some(name)) => (parent, name),
        _ => return Err(refused(to, "this is not a directory that can be made")),
    };
    let draft = parent.join(format!("{}.unfinished-{}", name.to_string_lossy(), std::process::id()));
    make_private_directory(&draft)?;
    let made = fill(data, &draft, now).await;
    let done = made.and_then(|manifest| {
        let renamed = fs::rename(&draft, to).and_then(|()| sync(parent));
        renamed.map(|()| manifest).map_err(|cause| file_error(to, cause))
    });
    if done.is_err() {
        // What can't be removed is no backup either: it has another name.
        let _ = fs::remove_dir_all(&draft);
    }
    done
}

async fn fill(data: &Path, draft: &Path, now: EpochMs) -> Result<Manifest, StoreError> {
    let database = draft.join(DATABASE);
    let path = database.to_str().ok_or_else(|| refused(draft, "its name is not valid UTF-8"))?;
    // Made before the engine writes into it, so that nobody else can read it at any time.
    write_private(&database, b"").map_err(|cause| file_error(&database, cause))?;
    let mut books = plain_options(&data.join(DATABASE)).connect().await?;
    // Reads one moment and holds nobody up: in the log's mode writers go on.
    sqlx::query("VACUUM INTO $1").bind(path).execute(&mut books).await?;
    books.close().await?;
    let (database_bytes, database_sha256) =
        File::open(&database).and_then(read_through).map_err(|cause| file_error(&database, cause))?;
    let pepper = data.join(PEPPER);
    copy_private(&pepper, &draft.join(PEPPER)).map_err(|cause| file_error(&pepper, cause))?;
    copy_if_any(&data.join(MASTER_KEYS), &draft.join(MASTER_KEYS))?;
    let manifest = Manifest { format: FORMAT, made_ms: now.0, database_bytes, database_sha256 };
    let text = serde_json::to_vec(&manifest).map_err(|cause| file_error(draft, cause.into()))?;
    let written = write_private(&draft.join(MANIFEST), &text).and_then(|()| sync(draft));
    written.map_err(|cause| file_error(draft, cause))?;
    Ok(manifest)
}

/// Puts a backup in the place of a data directory's books. Its journal stays: what it holds is shipped again.
pub async fn restore(from: &Path, data: &Path, held: &Held) -> Result<Restored, StoreError> {
    let manifest = read_manifest(from)?;
    let _opening = hold_lock(&data.join("store.lock")).await?;
    let (database, pepper) = (data.join("tollgate.db.restored"), data.join("pepper.restored"));
    for (name, draft) in [(DATABASE, &database), (PEPPER, &pepper)] {
        let source = from.join(name);
        copy_private(&source, draft).map_err(|cause| file_error(&source, cause))?;
    }
    let copied = File::open(&database).and_then(read_through).map_err(|cause| file_error(&database, cause))?;
    if copied != (manifest.database_bytes, manifest.database_sha256.clone()) {
        return Err(refused(
            from,
            "its database is not the one that was backed up: it is damaged, take another backup",
        ));
    }
    let master_keys = data.join("master-keys.restored");
    copy_if_any(&from.join(MASTER_KEYS), &master_keys)?;
    let journal_has_gap = prepare(&database, data, held).await?;
    let replaced = put_in_place(data, &database, [&pepper, &master_keys]).map_err(|cause| file_error(data, cause))?;
    Ok(Restored { manifest, replaced, journal_has_gap })
}

/// Refuses a data directory in which a restore was interrupted.
pub(super) fn check_not_restoring(data: &Path) -> Result<(), StoreError> {
    if data.join(MARKER).exists() {
        return Err(refused(data, "a restore was interrupted here: run `tollgate restore` again"));
    }
    Ok(())
}

fn read_manifest(from: &Path) -> Result<Manifest, StoreError> {
    let path = from.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(refused(from, "this is no backup, or one that was not finished: there is no backup.json"));
        }
        Err(cause) => return Err(file_error(&path, cause)),
    };
    let manifest: Option<Manifest> = serde_json::from_slice(&text).ok();
    let known = manifest.filter(|manifest| manifest.format == FORMAT);
    known.ok_or_else(|| refused(&path, "this release can't read it: use the one that made the backup, or a later one"))
}

/// Moves the numbers on, and says whether the journal lacks something that was called after the backup.
async fn prepare(database: &Path, data: &Path, _held: &Held) -> Result<bool, StoreError> {
    let mut books = plain_options(database).journal_mode(SqliteJournalMode::Delete).connect().await?;
    sqlx::query("UPDATE sqlite_sequence SET seq = seq + $1").bind(NUMBERS_SKIPPED).execute(&mut books).await?;
    let node = journal::node_name(data).unwrap_or_default();
    let shipped: Option<i64> = sqlx::query_scalar("SELECT segment FROM checkpoints WHERE node = $1")
        .bind(node)
        .fetch_optional(&mut books)
        .await?;
    books.close().await?;
    let oldest = journal::oldest(data).map_err(|cause| match cause {
        OpenError::Io { path, source } => StoreError::File { path, cause: source },
        other => file_error(data, io::Error::other(other)),
    })?;
    // The first segment of a node has the number 1.
    Ok(oldest.is_some_and(|oldest| i64::try_from(oldest).unwrap_or(i64::MAX) > shipped.unwrap_or(1)))
}

/// Until the marker is gone again, nobody opens what is here.
fn put_in_place(data: &Path, database: &Path, [pepper, master_keys]: [&Path; 2]) -> io::Result<Option<PathBuf>> {
    let (books, replaced, marker) = (data.join(DATABASE), data.join(REPLACED), data.join(MARKER));
    let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let is_first = !marker.exists();
    if is_first {
        for old in [replaced.clone(), beside(&replaced, "-wal"), beside(&replaced, "-shm")] {
            remove(&old)?;
        }
        write_private(&marker, b"")?;
        sync(data)?;
    }
    // A log that was left would be played into the restored books. An earlier attempt may have come as far as any of these.
    remove(&beside(&books, "-shm"))?;
    if replaced.exists() {
        remove(&beside(&books, "-wal"))?;
    } else if books.exists() {
        let log = beside(&books, "-wal");
        if log.exists() {
            fs::rename(log, beside(&replaced, "-wal"))?;
        }
        fs::rename(&books, &replaced)?;
    }
    fs::rename(database, &books)?;
    fs::rename(pepper, data.join(PEPPER))?;
    if master_keys.exists() {
        fs::rename(master_keys, data.join(MASTER_KEYS))?;
    }
    sync(data)?;
    remove(&marker)?;
    sync(data)?;
    Ok(replaced.exists().then_some(replaced))
}

fn plain_options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(database).busy_timeout(super::engine::BUSY_TIMEOUT).disable_statement_logging()
}

fn refused(path: &Path, problem: &'static str) -> StoreError {
    StoreError::Backup { path: path.to_owned(), problem }
}

/// Reads a file to its end, puts it on the disk, and says how long it is and its SHA-256.
fn read_through(mut file: File) -> io::Result<(u64, String)> {
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        bytes += read as u64;
    }
    file.sync_all()?;
    Ok((bytes, encode_hex(&digest.finalize())))
}

fn copy_private(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut copy = private(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()
}

fn copy_if_any(from: &Path, to: &Path) -> Result<(), StoreError> {
    if !from.exists() {
        return Ok(());
    }
    copy_private(from, to).map_err(|cause| file_error(from, cause))
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
