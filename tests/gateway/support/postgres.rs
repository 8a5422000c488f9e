//! A PostgreSQL server of a test's own: real, on a free port, with the faults that servers have.

use super::eventually;
use super::nodes::Clock;
use super::process::{Process, as_user};
use super::setup::free_address;
use rustix::process::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{LazyLock, Mutex};
use tempfile::TempDir;

/// Who the server runs as where we are root, which it refuses to be.
const USER: &str = "postgres";
/// The gateways' role, which owns the database of the same name and is nobody special. The tests come as `USER`.
const NAME: &str = "tollgate";

/// What every server is started with. A test's books need not outlive the machine, so nothing is synced.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=32MB",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=100",
];

/// An empty cluster of databases, made once and unpacked for each server: an archive in memory, for what never ends is never
/// cleared away.
static TEMPLATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = private_directory();
    let data = directory.path().join("data");
    let options = ["--pgdata", plain(&data), "--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8"];
    run(&tool("initdb"), &[&options[..], &["--locale", "C", "--wal-segsize", "1"]].concat(), user(), &[]);
    run("tar".as_ref(), &["-C", plain(&data), "-c", "."], user(), &[]).stdout
});

/// A server with one empty database. Killed when this is dropped.
pub(crate) struct Postgres {
    pub(crate) address: SocketAddr,
    clock: Clock,
    /// Before its directory: it has ended when that is cleared away.
    process: Mutex<Process>,
    directory: TempDir,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        Self::on(Clock::Right)
    }

    /// One whose clock shows something else.
    pub(crate) fn on(clock: Clock) -> Self {
        let directory = private_directory();
        run("tar".as_ref(), &["-C", plain(directory.path()), "--one-top-level=data", "-xp"], user(), &TEMPLATE);
        let address = free_address();
        let process = Mutex::new(serve(directory.path(), address, &[], clock));
        let server = Self { address, clock, process, directory };
        server.await_ready();
        server.ask_of("template1", &format!("CREATE ROLE {NAME} LOGIN"));
        server.ask_of("template1", &format!("CREATE DATABASE {NAME} OWNER {NAME}"));
        server
    }

    /// What a configuration names to reach it by this address: its own, or that of a proxy before it.
    pub(crate) fn url_by(address: SocketAddr) -> String {
        format!("postgres://{NAME}@{address}/{NAME}")
    }

    /// Runs a statement in the database of the tests. Rows are lines, with | between columns.
    pub(crate) fn ask(&self, statement: &str) -> String {
        self.ask_of(NAME, statement)
    }

    fn ask_of(&self, database: &str, statement: &str) -> String {
        let url = format!("postgres://{USER}@{}/{database}", self.address);
        let options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", statement];
        let said = run(&tool("psql"), &options, None, &[]);
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// Stops it as an operator would: open transactions are broken off, nothing is lost.
    pub(crate) fn stop(&self) {
        self.end_with(Signal::INT);
    }

    /// Stops it as a power cut would: what it was doing is recovered at its next start.
    pub(crate) fn crash(&self) {
        self.end_with(Signal::QUIT);
    }

    fn end_with(&self, signal: Signal) {
        let mut process = self.process();
        process.signal(signal);
        process.wait();
    }

    /// Starts it again on the same port; the one before has ended.
    pub(crate) fn restart(&self) {
        self.restart_with(&[]);
    }

    /// The same with more settings, written `name=value`.
    pub(crate) fn restart_with(&self, settings: &[&str]) {
        *self.process() = serve(self.directory.path(), self.address, settings, self.clock);
        self.await_ready();
    }

    /// Breaks off every connection of the gateways.
    pub(crate) fn cut_all(&self) {
        self.ask(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{NAME}'"));
    }

    fn await_ready(&self) {
        let port = self.address.port().to_string();
        eventually("PostgreSQL accepts connections", || {
            let ended = self.process().ended();
            assert!(ended.is_none(), "PostgreSQL ended with {ended:?}:\n{}", self.process().log());
            let asked =
                Command::new(tool("pg_isready")).args(["-q", "-U", USER, "-h", "127.0.0.1", "-p", &port]).status();
            asked.expect("it comes with the server").success().then_some(())
        });
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn serve(directory: &Path, address: SocketAddr, settings: &[&str], clock: Clock) -> Process {
    let data = plain(&directory.join("data")).to_owned();
    let mut options = vec!["-D".to_owned(), data, "-p".to_owned(), address.port().to_string()];
    for setting in SETTINGS.iter().chain(settings) {
        options.extend(["-c".to_owned(), (*setting).to_owned()]);
    }
    Process::server(&tool("postgres"), &options, user(), &clock.variables())
}

/// The server's programs are not in the path where Debian puts them; the newest version counts.
fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest =
        versions.map(|entry| entry.path()).filter(|path| path.join("bin/postgres").exists()).max_by_key(number);
    newest.map_or_else(|| PathBuf::from(name), |version| version.join("bin").join(name))
}

fn user() -> Option<&'static str> {
    rustix::process::geteuid().is_root().then_some(USER)
}

/// A temporary directory of the server's user.
fn private_directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("tollgate-postgres-").tempdir().expect("a temporary directory");
    if let Some(user) = user() {
        run("chown".as_ref(), &[user, plain(directory.path())], None, &[]);
    }
    directory
}

/// Runs a command that reads this to its end, which must be a good one.
fn run(program: &Path, options: &[&str], user: Option<&str>, input: &[u8]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "clear"]).args(as_user(user)).arg(program).args(options).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("setpriv is part of every Debian");
    // What ends without having read it all says why.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let said = child.wait_with_output().expect("it is our child");
    assert!(said.status.success(), "{options:?}: {}", String::from_utf8_lossy(&said.stderr));
    said
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_rows_when_it_is_stopped_and_when_it_crashes() {
        let server = Postgres::start();
        server.ask("CREATE TABLE kept (number BIGINT)");
        for (number, end) in [Postgres::stop, Postgres::crash].into_iter().enumerate() {
            server.ask(&format!("INSERT INTO kept VALUES ({number})"));
            end(&server);
            assert!(std::net::TcpStream::connect(server.address).is_err(), "it is gone");
            server.restart();
        }
        assert_eq!(server.ask("SELECT number FROM kept ORDER BY number"), "0\n1");
        server.stop();
        server.restart_with(&["max_connections=7"]);
        assert_eq!(server.ask("SHOW max_connections"), "7");
    }

    #[test]
    fn servers_know_nothing_of_each_other() {
        let [one, other] = [Postgres::start(), Postgres::start()];
        one.ask("CREATE TABLE mine (number BIGINT)");
        assert_eq!(other.ask("SELECT COUNT(*) FROM pg_tables WHERE tablename = 'mine'"), "0");
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
        std::thread::scope(|scope| {
            let cut = scope.spawn(|| {
                let url = Postgres::url_by(one.address);
                let options = ["-X", "-d", &url, "-c", "SELECT pg_sleep(60)"];
                Command::new(tool("psql")).args(options).output().expect("it comes with the server")
            });
            eventually("the statement runs", || (one.ask(waiting) == "1").then_some(()));
            one.cut_all();
            assert!(!cut.join().expect("no panic").status.success());
        });
    }
}
