//! The binary under test as a process: started, listened to, signalled, and never left behind.

use super::{DEADLINE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_tollgate");

/// Variables that would make real providers candidates, or that name a setting of the machine.
const FOREIGN_VARIABLES: [&str; 6] =
    ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HTTP_PROXY", "http_proxy", "TOLLGATE_SERVER", "TOLLGATE_TOKEN"];

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary can be started")
}

/// Runs a command to its end with these variables in its environment, and this on its standard input.
pub(crate) fn run_with(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Output {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary can be started");
    // It may end without reading.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null());
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// A running process, killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Mutex<Receiver<String>>,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// Starts it with more variables in its environment.
    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = command(arguments);
        command.envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// Starts it in another directory: relative paths of its configuration must not depend on it.
    pub(crate) fn start_in(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = command(arguments);
        command.current_dir(directory);
        Self::spawn(command)
    }

    /// Starts a server that is not ours, as this user or as ourselves. It does not outlive the tests, however they end.
    /// With more variables in its environment.
    pub(crate) fn server(program: &Path, options: &[String], user: Option<&str>, variables: &[(&str, String)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(as_user(user));
        // Set when the user is: what they preload must not begin as somebody else.
        command.arg("env").args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(program).args(options).stdin(Stdio::null()).current_dir("/");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(command);
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, collected) = (child.stderr.take().expect("it is piped"), Arc::clone(&log));
        std::thread::spawn(move || collect(stderr, &collected));
        Self { child, lines: Mutex::new(lines), log }
    }

    /// The next line of its standard output.
    pub(crate) fn line(&self) -> String {
        let line = self.lines.lock().expect("nobody panics with it").recv_timeout(DEADLINE);
        line.unwrap_or_else(|_| panic!("it printed no line. Its log:\n{}", self.log()))
    }

    /// What it has written to its standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the collector does not panic").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        // It may have ended already.
        let _ = kill_process(id, signal);
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.ended())
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }
}

/// The options of `setpriv` that make somebody else of us, or none.
pub(super) fn as_user(user: Option<&str>) -> Vec<&str> {
    user.map_or(Vec::new(), |user| vec!["--reuid", user, "--regid", user, "--init-groups"])
}

/// Starts a process from a thread that lives as long as the tests: the kernel takes the end of the thread for the parent's,
/// and a server that one test has started may be another's.
fn start(command: Command) -> Child {
    type Order = (Command, Sender<Child>);
    static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let started = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
                reply.send(started).expect("somebody waits for it");
            }
        });
        Mutex::new(sender)
    });
    let (reply, started) = channel();
    STARTER.lock().expect("nobody panics with it").send((command, reply)).expect("it lives as long as the tests");
    started.recv().expect("the command can be started")
}

fn collect(mut stderr: impl Read, log: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer) {
        log.lock().expect("nobody panics with it").push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(20));
            eprintln!("--- log of {} ---\n{}", self.child.id(), self.log());
        }
    }
}
