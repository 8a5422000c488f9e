//! `tollgate backup` and `tollgate restore`: copies of the books.

use super::{CliError, Place, Surroundings};
use crate::store::backup::{self, Manifest, Restored};
use crate::store::journal;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to copy, and where to.
#[derive(Debug, clap::Args)]
pub struct BackupCommand {
    /// The directory of the backup, which is made.
    dir: PathBuf,
    #[command(flatten)]
    pub(super) place: Place,
}

/// What to put back, and where.
#[derive(Debug, clap::Args)]
pub struct RestoreCommand {
    /// The directory of the backup.
    dir: PathBuf,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Serialize)]
struct BackupLine {
    backup: String,
    made_ms: i64,
    database_bytes: u64,
    database_sha256: String,
}

#[derive(Serialize)]
struct RestoreLine {
    #[serde(flatten)]
    backup: BackupLine,
    replaced: Option<String>,
    journal_has_gap: bool,
}

pub(super) async fn back_up(command: BackupCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let data = embedded(&command.place)?;
    // Brings the tables up to date, and finds out whether there is a store and the pepper is its own.
    command.place.open_store().await?.close().await;
    let manifest = backup::back_up(&data, &command.dir, surroundings.now).await?;
    let line = BackupLine::new(&command.dir, manifest);
    let sentence = || {
        let BackupLine { backup, database_bytes, .. } = &line;
        format!(
            "The books are in {backup}, {database_bytes} bytes and the pepper. Keep it as secret as the data directory."
        )
    };
    command.place.printer(surroundings.out).one(&line, sentence)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn restore(command: RestoreCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let data = embedded(&command.place)?;
    let held = journal::hold(&data)?;
    let Restored { manifest, replaced, journal_has_gap } = backup::restore(&command.dir, &data, &held).await?;
    let replaced = replaced.map(|path| path.display().to_string());
    let line = RestoreLine { backup: BackupLine::new(&command.dir, manifest), replaced, journal_has_gap };
    command.place.printer(surroundings.out).one(&line, || describe(&line))?;
    Ok(ExitCode::SUCCESS)
}

/// The data directory that has the books. A server's are for the server's own tools.
fn embedded(place: &Place) -> Result<PathBuf, CliError> {
    let books = place.books()?;
    match books.server {
        None => Ok(books.data_dir),
        Some(_) => Err(CliError::BadInput(
            "a PostgreSQL server has the books: back them up with pg_dump or its archive, and restore them there; each node \
             ships its journal again when it starts"
                .to_owned(),
        )),
    }
}

fn describe(line: &RestoreLine) -> String {
    let mut text = format!("The books of {} are in place.", line.backup.backup);
    if let Some(replaced) = &line.replaced {
        text += &format!(" Those before are in {replaced} until the next restore.");
    }
    text += if line.journal_has_gap {
        " The journal no longer has all that was called since: the rest is in no books."
    } else {
        " What was called since is shipped from the journal at the next start."
    };
    text
}

impl BackupLine {
    fn new(dir: &std::path::Path, manifest: Manifest) -> Self {
        let Manifest { made_ms, database_bytes, database_sha256, .. } = manifest;
        Self { backup: dir.display().to_string(), made_ms, database_bytes, database_sha256 }
    }
}
