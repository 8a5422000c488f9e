//! The commands that keep the books: organisations, projects, keys, people, nodes, usage, audit, prices, backups. They work on the store directly, beside a running
//! gateway, which sees a change within a second; or a server's control plane carries them out (`remote.rs`).
//!
//! `print.rs` writes tables or JSON, `moment.rs` reads dates and durations, `limit.rs` limits, `zone.rs`
//! time zones; the rest is one noun a file.

mod audit;
mod backup;
mod calls;
mod credential;
mod credits;
mod key;
mod limit;
mod member;
mod moment;
mod node;
mod org;
mod print;
mod project;
mod remote;
mod reprice;
mod trail;
mod usage;
mod user;
mod webhook;
mod zone;

use crate::config::{Config, ConfigError, StorePlace};
use crate::store::{Store, StoreError};
use filters::time::EpochMs;
use print::Printer;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// What to do with the books.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Organisations: who pays.
    #[command(subcommand)]
    Org(org::OrgCommand),
    /// Projects: keys that share limits.
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// Keys: what clients send.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Users: people who sign in.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Members: who is in an organisation, and as what.
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Credentials: what organisations have at providers themselves.
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    /// Nodes: the gateways that share the books.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Who changed what, the latest first.
    Trail(trail::TrailCommand),
    /// Webhooks: who is told of events.
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// What a key or an organisation has used and was charged.
    Usage(usage::UsageCommand),
    /// Recompute the books; exits with 1 and names the first invariant that is broken.
    Audit(audit::AuditCommand),
    /// What calls would have been charged at the prices that the catalogue has now.
    Reprice(reprice::RepriceCommand),
    /// Copy the books to a new directory, beside a running gateway.
    Backup(backup::BackupCommand),
    /// Put a backup in the place of the books, while the gateway is stopped; its journal is shipped again at the next start.
    Restore(backup::RestoreCommand),
    /// Sign in to a server, for commands with --server; the password is read from standard input.
    Login(remote::login::LoginCommand),
    /// End the session that `tollgate login` began.
    Logout(remote::login::LogoutCommand),
}

/// Where the books are, or who keeps them, and how to print.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The directory of the store and the journal; `data` if neither this nor a configuration names one.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration file that names the directory.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// The server whose control plane carries the command out, such as https://gate.example.com; TOLLGATE_SERVER if no option names
    /// one. It is asked with the token in TOLLGATE_TOKEN, or with the session that `tollgate login` began.
    #[arg(long, value_name = "URL", conflicts_with_all = ["data", "config"])]
    server: Option<remote::Server>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// What a command is given beside its arguments.
pub struct Surroundings<'a> {
    /// The present moment.
    pub now: EpochMs,
    /// Where to print.
    pub out: &'a mut (dyn Write + Send),
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed can't be done.
    #[error("{0}")]
    BadInput(String),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal can't be read.
    #[error("the journal can't be read: {0}")]
    Journal(#[from] crate::store::journal::OpenError),
    /// A server did not carry it out.
    #[error("{0}")]
    Server(String),
    /// The output can't be written.
    #[error("the output can't be written: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// What is wrong with a configuration, a line each.
    fn of_config(errors: Vec<ConfigError>) -> Self {
        Self::BadInput(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// 2 for what was typed, 1 for what went wrong.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadInput(_)
            | Self::Store(StoreError::NotFound(_) | StoreError::Refused(_) | StoreError::NameReused) => {
                ExitCode::from(2)
            }
            Self::Store(_) | Self::Journal(_) | Self::Server(_) | Self::Output(_) => ExitCode::FAILURE,
        }
    }
}

/// Carries a command out, or has a server do it.
pub async fn run(command: Command, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    if let Some(place) = command.place()
        && let Some(server) = place.server()?
    {
        remote::run(&command, server, place.printer(surroundings.out), surroundings.now).await?;
        return Ok(ExitCode::SUCCESS);
    }
    match command {
        Command::Login(command) => remote::login::log_in(command, surroundings).await,
        Command::Logout(command) => remote::login::log_out(command, surroundings).await,
        Command::Org(command) => org::run(command, surroundings).await,
        Command::Project(command) => project::run(command, surroundings).await,
        Command::Key(command) => key::run(command, surroundings).await,
        Command::User(command) => user::run(command, surroundings).await,
        Command::Member(command) => member::run(command, surroundings).await,
        Command::Trail(command) => trail::run(command, surroundings).await,
        Command::Credential(command) => credential::run(command, surroundings).await,
        Command::Node(command) => node::run(command, surroundings).await,
        Command::Webhook(command) => webhook::run(command, surroundings).await,
        Command::Usage(command) => usage::run(command, surroundings).await,
        Command::Audit(command) => audit::run(command, surroundings).await,
        Command::Reprice(command) => reprice::run(command, surroundings).await,
        Command::Backup(command) => backup::back_up(command, surroundings).await,
        Command::Restore(command) => backup::restore(command, surroundings).await,
    }
}

impl Command {
    fn place(&self) -> Option<&Place> {
        Some(match self {
            Self::Org(command) => command.place(),
            Self::Project(command) => command.place(),
            Self::Key(command) => command.place(),
            Self::User(command) => command.place(),
            Self::Member(command) => command.place(),
            Self::Trail(command) => &command.place,
            Self::Node(command) => command.place(),
            Self::Webhook(command) => command.place(),
            Self::Credential(command) => command.place(),
            Self::Usage(command) => &command.place,
            Self::Audit(command) => &command.place,
            Self::Backup(command) => &command.place,
            Self::Restore(command) => &command.place,
            // Reprice has no place: it works on what a configuration names.
            Self::Reprice(_) | Self::Login(_) | Self::Logout(_) => return None,
        })
    }
}

impl Place {
    /// The server that is to carry a command out, if one is.
    fn server(&self) -> Result<Option<remote::Server>, CliError> {
        match (&self.server, &self.data, &self.config) {
            (Some(server), _, _) => Ok(Some(server.clone())),
            (None, None, None) => remote::Server::of_environment(),
            (None, _, _) => Ok(None),
        }
    }

    /// Where the books are: the one place where it is settled.
    fn books(&self) -> Result<StorePlace, CliError> {
        match (&self.data, &self.config) {
            (Some(directory), _) => Ok(StorePlace::embedded(directory.clone())),
            (None, Some(file)) => Ok(Config::load(file).map_err(CliError::of_config)?.books),
            (None, None) => Ok(StorePlace::embedded(PathBuf::from("data"))),
        }
    }

    /// The directory of the journal.
    fn data_dir(&self) -> Result<PathBuf, CliError> {
        Ok(self.books()?.data_dir)
    }

    /// Opens the store, making it if there is none.
    async fn create_store(&self) -> Result<Store, CliError> {
        Ok(Store::of(&self.books()?).await?)
    }

    /// Opens the store that is there. A mistyped directory must not become an empty store.
    async fn open_store(&self) -> Result<Store, CliError> {
        open_store(&self.books()?).await
    }

    fn printer<'a>(&self, out: &'a mut (dyn Write + Send)) -> Printer<'a> {
        Printer { json: self.json, out }
    }
}

async fn open_store(books: &StorePlace) -> Result<Store, CliError> {
    let StorePlace { data_dir, server, .. } = books;
    if server.is_none() && !data_dir.join("tollgate.db").exists() {
        return Err(CliError::BadInput(format!(
            "there is no store in {}: name its directory with --data, or make one with `tollgate org create NAME --data DIR`",
            data_dir.display()
        )));
    }
    Ok(Store::of(books).await?)
}

#[cfg(test)]
mod tests;
