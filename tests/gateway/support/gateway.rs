//! The real gateway, started with files and stopped like any process.

use super::call::{Answer, Call, Request};
use super::control::OPERATOR;
use super::eventually;
use super::process::{self, Process};
use super::provider::Provider;
use super::setup::{Listeners, Setup, Upstream};
use super::wire::Wire;
use rustix::process::Signal;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::sync::{Mutex, MutexGuard};
use tempfile::TempDir;

/// A running gateway with an organisation that has $1 000 and one key. Killed when this is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) org: String,
    pub(crate) key: Key,
    directory: TempDir,
    /// Variables in the environment of its processes.
    environment: Vec<(String, String)>,
    /// Where its books are, in options of the commands that keep them.
    books: [String; 2],
    process: Mutex<Process>,
    /// Its own simulated provider, if no upstream was named.
    provider: Option<Provider>,
}

/// A key as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) token: String,
}

impl Gateway {
    /// A gateway before a simulated provider of its own.
    pub(crate) fn start() -> Self {
        Setup::new().start()
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The configuration's file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("tollgate.toml")
    }

    pub(crate) fn provider(&self) -> &Provider {
        self.provider.as_ref().expect("a gateway without upstreams has its own provider")
    }

    /// A connection to the public listener.
    pub(crate) fn connect(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// Makes a call with the gateway's own key.
    pub(crate) fn call(&self, call: &Call) -> Answer {
        self.call_with(&self.key, call)
    }

    pub(crate) fn call_with(&self, key: &Key, call: &Call) -> Answer {
        self.exchange(&call.request(&key.token))
    }

    /// Sends a call with the gateway's own key; the answer is still to be read.
    pub(crate) fn open(&self, call: &Call) -> Wire {
        let mut wire = self.connect();
        wire.send(&call.request(&self.key.token).bytes());
        wire
    }

    /// Sends a request on a new connection and reads the whole answer.
    pub(crate) fn exchange(&self, request: &Request) -> Answer {
        self.connect().exchange(&request.bytes())
    }

    /// `GET /v1/key` of a key.
    pub(crate) fn key_view(&self, key: &Key) -> Value {
        let answer = self.exchange(&Request::get("/v1/key").bearer(&key.token));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// An amount in the answer of `GET /v1/key`, read from its decimal text without a float.
    pub(crate) fn key_money(&self, key: &Key, field: &str) -> i64 {
        let answer = self.exchange(&Request::get("/v1/key").bearer(&key.token));
        let fields: HashMap<String, Box<RawValue>> = serde_json::from_slice(&answer.body).expect("an object");
        nano_usd(fields[field].get())
    }

    /// The text of `/metrics`.
    pub(crate) fn scrape(&self) -> String {
        Wire::connect(self.metrics).exchange(&Request::get("/metrics").bytes()).text()
    }

    /// The sum of all series of this name whose labels contain these, written `name="value"`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.scrape();
        let of_name = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = series_name == name && labels.iter().all(|label| series_labels.contains(label));
            fits.then(|| value.parse::<f64>().expect("a number"))
        });
        of_name.sum()
    }

    /// The status of `/readyz`; none if nobody answers.
    pub(crate) fn readiness(&self) -> Option<u16> {
        let mut wire = Wire::try_connect(self.metrics).ok()?;
        wire.try_send(&Request::get("/readyz").bytes()).ok()?;
        wire.try_answer().ok().map(|answer| answer.status)
    }

    /// Makes an organisation that has $1 000 and a key of it: what calls are made with when nothing else is said.
    pub(super) fn open_account(&mut self) {
        (self.org, self.key) = accounts(&self.books, &[]);
    }

    /// Makes another key, with arguments of `tollgate key create`.
    pub(crate) fn create_key(&self, arguments: &[&str]) -> Key {
        create_key(&self.books, &self.org, arguments)
    }

    /// Runs a command of the records beside the gateway, and reads the JSON that it prints.
    pub(crate) fn tollgate(&self, arguments: &[&str]) -> Value {
        records(&self.books, arguments)
    }

    /// Runs `tollgate audit`.
    pub(crate) fn audit(&self) -> Output {
        let config = self.config();
        process::run(&["audit", "--config", path(&config)])
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.process().log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&self) -> ExitStatus {
        self.process().wait()
    }

    /// Kills the process and waits until it is gone.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Starts a new process on the same files and addresses; the one before has ended.
    pub(crate) fn restart(&self) {
        self.restart_with(&[]);
    }

    /// The same with more variables in the new process's environment.
    pub(crate) fn restart_with(&self, environment: &[(&str, &str)]) {
        self.begin_with(environment);
        self.await_ready();
    }

    fn begin_with(&self, environment: &[(&str, &str)]) {
        let own = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = own.chain(environment.iter().copied()).collect();
        *self.process() = serve(self.directory.path(), &all);
    }

    /// Starts a new process that will not get as far as serving, and waits for its end.
    pub(crate) fn start_and_wait(&self, environment: &[(&str, &str)]) -> ExitStatus {
        self.begin_with(environment);
        self.wait()
    }

    pub(super) fn await_ready(&self) {
        eventually("the gateway is ready", || {
            let ended = self.process().ended();
            assert!(ended.is_none(), "the gateway ended with {ended:?}:\n{}", self.log());
            (self.readiness() == Some(200) && TcpStream::connect(self.address).is_ok()).then_some(())
        });
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Setup {
    /// Makes an organisation and a key, starts the gateway, and waits until it is ready.
    pub(crate) fn start(mut self) -> Gateway {
        let provider = self.upstreams.is_empty().then(Provider::start);
        if let Some(provider) = &provider {
            self.upstreams.push(Upstream::openai("simulated-openai", provider.url()));
            self.upstreams.push(Upstream::anthropic("simulated-anthropic", provider.url()));
            let others = [("gemini", "/v1beta"), ("cohere", "/v2"), ("bedrock", "")];
            for (protocol, root) in others.into_iter().filter(|_| self.speaks_all) {
                let (name, url) = (format!("simulated-{protocol}"), format!("http://{}{root}", provider.address));
                self.upstreams.push(Upstream::speaking(protocol, &name, url));
            }
        }
        let prepared = Prepared::new(&self);
        let books = ["--data".to_owned(), path(&prepared.directory.path().join("data")).to_owned()];
        let arguments: Vec<&str> = self.key.iter().map(String::as_str).collect();
        let account = accounts(&books, &arguments);
        let gateway = Gateway { provider, ..prepared.serve(books, account) };
        gateway.await_ready();
        gateway
    }

    /// Starts a gateway whose books are where its configuration says, and does not wait until it is ready. Who has an account
    /// there is still to be said.
    pub(super) fn begin(&self) -> Gateway {
        let prepared = Prepared::new(self);
        let books = ["--config".to_owned(), path(&prepared.directory.path().join("tollgate.toml")).to_owned()];
        let nobody = (String::new(), Key { id: String::new(), token: String::new() });
        prepared.serve(books, nobody)
    }
}

/// The files that a gateway is started with, and its addresses.
struct Prepared {
    directory: TempDir,
    listeners: Listeners,
    environment: Vec<(String, String)>,
}

impl Prepared {
    fn new(setup: &Setup) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listeners = Listeners::choose();
        setup.write(directory.path(), &listeners);
        let operator = ("TOLLGATE_OPERATOR_TOKEN".to_owned(), OPERATOR.to_owned());
        let environment = [&setup.environment[..], &[operator]].concat();
        Self { directory, listeners, environment }
    }

    fn serve(self, books: [String; 2], (org, key): (String, Key)) -> Gateway {
        let Self { directory, listeners, environment } = self;
        let Listeners { gateway: address, tls, control, metrics } = listeners;
        let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let process = Mutex::new(serve(directory.path(), &variables));
        Gateway { address, tls, control, metrics, org, key, directory, environment, books, process, provider: None }
    }
}

/// An organisation with credit, and a key of it.
fn accounts(books: &[String; 2], key: &[&str]) -> (String, Key) {
    let org = records(books, &["org", "create", "tests"])["id"].as_str().expect("an id").to_owned();
    records(books, &["org", "topup", &org, "1000"]);
    let key = create_key(books, &org, key);
    (org, key)
}

fn create_key(books: &[String; 2], org: &str, arguments: &[&str]) -> Key {
    let made = records(books, &[&["key", "create", "--org", org, "--name", "test"], arguments].concat());
    let text = |field: &str| made[field].as_str().unwrap_or_else(|| panic!("no {field} in {made}")).to_owned();
    Key { id: text("id"), token: text("token") }
}

fn records(books: &[String; 2], arguments: &[&str]) -> Value {
    let output = process::run(&[arguments, &[&books[0], &books[1], "--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the command prints JSON")
}

fn serve(directory: &Path, environment: &[(&str, &str)]) -> Process {
    Process::start_with(&["serve", "--config", path(&directory.join("tollgate.toml"))], environment)
}

/// Decimal dollars as whole nano-USD.
fn nano_usd(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<9}").parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}
