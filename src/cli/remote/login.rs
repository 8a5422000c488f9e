//! `tollgate login` and `tollgate logout`: sessions at servers, kept in a file of whoever signs in.

use super::super::user::read as read_input;
use super::super::{CliError, Surroundings};
use super::ask::{Ask, Shown};
use super::client::Client;
use super::server::Server;
use crate::config::{Personal, Secret};
use crate::store::users::Email;
use http::Method;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, IsTerminal, Stdin};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::NamedTempFile;

/// Who signs in where.
#[derive(Debug, clap::Args)]
pub struct LoginCommand {
    /// The server, such as https://gate.example.com; without it TOLLGATE_SERVER.
    #[arg(long, value_name = "URL")]
    server: Option<Server>,
    /// The e-mail address of the user.
    #[arg(long)]
    email: Email,
}

/// Where the session ends.
#[derive(Debug, clap::Args)]
pub struct LogoutCommand {
    /// The server, such as https://gate.example.com; without it TOLLGATE_SERVER.
    #[arg(long, value_name = "URL")]
    server: Option<Server>,
}

/// A session at a server.
#[derive(Serialize, Deserialize)]
struct Login {
    email: String,
    token: String,
}

/// The sessions of whoever types, by server, and their file.
pub(super) struct Logins {
    file: PathBuf,
    by_server: BTreeMap<String, Login>,
}

impl Logins {
    /// What is in the file. One that others may read is refused: it holds tokens.
    pub(super) fn of(file: Option<PathBuf>) -> Result<Self, CliError> {
        let file = file.ok_or_else(|| {
            CliError::BadInput(
                "there is no place for logins: set HOME or XDG_CONFIG_HOME, or TOLLGATE_TOKEN".to_owned(),
            )
        })?;
        let bad = |problem: String| CliError::BadInput(format!("{}: {problem}", file.display()));
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { file, by_server: BTreeMap::new() }),
            Err(error) => return Err(bad(error.to_string())),
        };
        let mode = fs::metadata(&file).map_err(|error| bad(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(bad("others may read the tokens in it: chmod 600, or remove it".to_owned()));
        }
        let by_server = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        Ok(Self { file, by_server })
    }

    /// The token of the session at a server.
    pub(super) fn token(&self, server: &Server) -> Option<Secret> {
        self.by_server.get(&server.to_string()).map(|login| Secret::of(login.token.clone()))
    }

    /// Writes the file anew, for its owner alone.
    fn save(&self) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // It begins with the mode 600.
        let mut file = NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, &self.by_server)?;
        file.persist(&self.file)?;
        Ok(())
    }
}

pub(in crate::cli) async fn log_in(
    command: LoginCommand,
    surroundings: Surroundings<'_>,
) -> Result<ExitCode, CliError> {
    #[derive(Deserialize)]
    struct Opened {
        token: String,
        ends_at: String,
    }
    let server = named(command.server)?;
    let mut logins = Logins::of(Personal::of_environment().login_file)?;
    let password = read_password()?;
    let body = json!({"email": command.email.as_str(), "password": password});
    let ask = Ask::new(Method::POST, "/api/sessions", Shown::Object).with(body);
    let text = Client::new(server.clone(), None)?.send(&ask).await?;
    let Opened { token, ends_at } = super::read(&text)?;
    logins.by_server.insert(server.to_string(), Login { email: command.email.to_string(), token });
    logins.save()?;
    let ends_at = super::show::plain(&ends_at);
    writeln!(surroundings.out, "Signed in to {server} as {}, until {ends_at} at the latest.", command.email)?;
    Ok(ExitCode::SUCCESS)
}

pub(in crate::cli) async fn log_out(
    command: LogoutCommand,
    surroundings: Surroundings<'_>,
) -> Result<ExitCode, CliError> {
    let server = named(command.server)?;
    let mut logins = Logins::of(Personal::of_environment().login_file)?;
    let Some(token) = logins.token(&server) else {
        return Err(CliError::BadInput(format!("nobody has signed in to {server} here")));
    };
    let ask = Ask::new(Method::DELETE, "/api/sessions/current", Shown::Object);
    let ended = Client::new(server.clone(), Some(token))?.send(&ask).await;
    // The token is forgotten even if the server can't be told.
    let login = logins.by_server.remove(&server.to_string());
    logins.save()?;
    ended?;
    let email = login.map(|login| login.email).unwrap_or_default();
    writeln!(surroundings.out, "Signed out of {server}: the session of {email} has ended.")?;
    Ok(ExitCode::SUCCESS)
}

fn named(server: Option<Server>) -> Result<Server, CliError> {
    let server = server.map_or_else(Server::of_environment, |server| Ok(Some(server)))?;
    server.ok_or_else(|| CliError::BadInput("say which server: --server URL, or TOLLGATE_SERVER".to_owned()))
}

/// The first line of standard input; a terminal does not show it.
fn read_password() -> Result<String, CliError> {
    let stdin = io::stdin();
    let mut line = String::new();
    if stdin.is_terminal() {
        eprint!("Password: ");
        let hidden = Hidden::begin(&stdin)?;
        stdin.read_line(&mut line)?;
        drop(hidden);
        eprintln!();
    } else {
        line = read_input(Path::new("-"))?;
    }
    let password = line.lines().next().unwrap_or_default();
    if password.is_empty() || password.contains('\u{3}') {
        return Err(CliError::BadInput("no password was given: it is read from standard input".to_owned()));
    }
    Ok(password.to_owned())
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut modes = before.clone();
        // Without signals too, as getpass(3) does: whoever interrupts it must not be left with a terminal that shows nothing.
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // It was a terminal a moment ago; if it is gone, nobody looks at it.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
