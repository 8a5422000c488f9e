//! `tollgate user`: people who sign in.

use super::moment::date;
use super::print::or_dash;
use super::{CliError, Place, Surroundings};
use crate::store::passwords::{Password, Passwords};
use crate::store::users::{Email, NewUser, PasswordHash, UserChange, UserRecord};
use filters::id::UserId;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Users of one page.
const PAGE: u32 = 500;
/// More than any password has.
const FILE_BYTES_MAX: u64 = 4_096;
const HEADINGS: [&str; 5] = ["ID", "EMAIL", "NAME", "CREATED", "DISABLED"];

/// What to do with users.
#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// Make a user.
    Create {
        /// What they sign in as.
        email: Email,
        /// What people call them.
        #[arg(long, value_parser = super::key::read_name)]
        name: String,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        place: Place,
    },
    /// List users.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Keep a user from signing in, and end their sessions.
    Disable {
        /// Their identifier, `user_…`.
        id: UserId,
        #[command(flatten)]
        place: Place,
    },
    /// Let a user sign in again.
    Enable {
        /// Their identifier, `user_…`.
        id: UserId,
        #[command(flatten)]
        place: Place,
    },
    /// Give a user another password, and end their sessions.
    Password {
        /// Their identifier, `user_…`.
        id: UserId,
        #[command(flatten)]
        password: PasswordFile,
        #[command(flatten)]
        place: Place,
    },
}

/// Where a password is: an argument would be seen by everybody on the machine.
#[derive(Debug, clap::Args)]
pub struct PasswordFile {
    /// The file whose first line is the password, at least 12 characters; `-`: what is typed in.
    #[arg(long = "password-file", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct UserLine {
    id: String,
    email: String,
    name: String,
    personal_org: Option<String>,
    created_ms: i64,
    disabled_ms: Option<i64>,
}

impl From<&UserRecord> for UserLine {
    fn from(record: &UserRecord) -> Self {
        Self {
            id: record.id.to_string(),
            email: record.email.to_string(),
            name: record.name.clone(),
            personal_org: record.personal_org.map(|org| org.to_string()),
            created_ms: record.created.0,
            disabled_ms: record.disabled.map(|since| since.0),
        }
    }
}

impl UserCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place }
            | Self::Disable { place, .. }
            | Self::Enable { place, .. }
            | Self::Password { place, .. } => place,
        }
    }
}

pub(super) async fn run(command: UserCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    let (place, id, change, done) = match command {
        UserCommand::Create { email, name, password, place } => {
            let password = Some(password.hash().await?);
            let store = place.create_store().await?;
            let made = store.create_user(&NewUser { email, name, password }, now).await?;
            place.printer(out).one(&UserLine::from(&made), || {
                format!(
                    "Made user {} ({}). Members: tollgate member add --org ID --user {}",
                    made.email, made.id, made.id
                )
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        UserCommand::List { place } => {
            list(&place, out).await?;
            return Ok(ExitCode::SUCCESS);
        }
        UserCommand::Disable { id, place } => {
            (place, id, UserChange { is_disabled: Some(true), ..UserChange::default() }, "can't sign in any more")
        }
        UserCommand::Enable { id, place } => {
            (place, id, UserChange { is_disabled: Some(false), ..UserChange::default() }, "can sign in again")
        }
        UserCommand::Password { id, password, place } => {
            let password = Some(password.hash().await?);
            (place, id, UserChange { password, ..UserChange::default() }, "has another password")
        }
    };
    let changed = place.open_store().await?.change_user(id, &change, now).await?;
    place.printer(out).one(&UserLine::from(&changed), || format!("{} ({id}) {done}.", changed.email))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(place: &Place, out: &mut (dyn std::io::Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    let mut printer = place.printer(out);
    let (mut after, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.users(after, PAGE).await?;
        let lines: Vec<UserLine> = page.iter().map(UserLine::from).collect();
        let day = |moment_ms: i64| date(moment_ms.div_euclid(86_400_000));
        printer.many(&lines, headings.take(), |line| {
            let disabled = or_dash(line.disabled_ms.map(day));
            vec![line.id.clone(), line.email.clone(), line.name.clone(), day(line.created_ms), disabled]
        })?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
    }
}

impl PasswordFile {
    /// The password as it is written there.
    pub(super) fn text(&self) -> Result<String, CliError> {
        let text = read(&self.file)
            .map_err(|cause| CliError::BadInput(format!("{} can't be read: {cause}", self.file.display())))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    async fn hash(&self) -> Result<PasswordHash, CliError> {
        let password: Password =
            self.text()?.parse().map_err(|problem: &str| CliError::BadInput(problem.to_owned()))?;
        let passwords = Passwords::default();
        let hash = async { passwords.hash(passwords.turn()?, &password).await };
        hash.await.map_err(|problem| CliError::BadInput(problem.to_string()))
    }
}

/// Reads a file, or what is typed in, up to more than a password has.
pub(super) fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}
