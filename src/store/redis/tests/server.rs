//! Redis servers of our own, ended with the test that started them.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub(crate) async fn eventually(is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server on a port of its own, without anything on disk.
pub(crate) struct Server {
    pub(crate) port: u16,
    process: Child,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts one with these arguments beside its port.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port().to_string();
        Self::start_in(dir, &[&["--port", &port], arguments].concat(), port.parse().expect("a port")).await
    }

    async fn start_in(dir: TempDir, arguments: &[&str], port: u16) -> Self {
        let usual = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let arguments: Vec<String> = usual.iter().chain(arguments).map(|part| (*part).to_owned()).collect();
        let process = spawn(&dir, &arguments);
        let server = Self { port, process, dir, arguments };
        server.until_listening().await;
        server
    }

    async fn until_listening(&self) {
        eventually(async || TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()).await;
    }

    /// Starts one that speaks TLS only; the authority is in its directory, as `authority.pem`.
    pub(crate) async fn start_tls() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("authority.pem"), certified.cert.pem()).expect("written");
        std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).expect("written");
        let (port, certificate, key) = (free_port(), path("authority.pem"), path("key.pem"));
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &certificate];
        let tls = ["--port", "0", "--tls-port", &port.to_string(), "--tls-auth-clients", "no"];
        Self::start_in(dir, &[&tls[..], &files].concat(), port).await
    }

    /// Starts a Sentinel that watches a master under this name.
    pub(crate) async fn start_sentinel(master: &Self, name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor {name} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {name} 500\n",
            master.port
        );
        std::fs::write(&file, text).expect("written");
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        let process = spawn(&dir, &arguments);
        let sentinel = Self { port, process, dir, arguments };
        sentinel.until_listening().await;
        sentinel
    }

    /// Starts three that are a Redis Cluster, each with a third of the slots.
    pub(crate) async fn start_cluster() -> [Self; 3] {
        let start = async || Self::start(&["--cluster-enabled", "yes"]).await;
        let servers = [start().await, start().await, start().await];
        for (server, slots) in servers.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
            server.command(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]).await;
            server.command(&["CLUSTER", "MEET", "127.0.0.1", &servers[0].port.to_string()]).await;
        }
        for server in &servers {
            eventually(async || {
                let info = server.command(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        servers
    }

    /// A file of its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has it answer nothing, with its connections open.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, signal).expect("it runs");
    }

    /// Ends it.
    pub(crate) async fn stop(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again, empty, at the same port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(&self.dir, &self.arguments);
        self.until_listening().await;
    }

    /// Changes a setting.
    pub(crate) async fn set(&self, setting: &str, value: &str) {
        assert_eq!(self.command(&["CONFIG", "SET", setting, value]).await, "OK");
    }

    /// Makes a list of every key that fits a pattern.
    pub(crate) async fn spoil_keys(&self, pattern: &str) {
        let keys = self.command(&["KEYS", pattern]).await;
        for key in keys.split_whitespace().filter(|word| word.contains(':')) {
            self.command(&["DEL", key]).await;
            self.command(&["RPUSH", key, "spoilt"]).await;
        }
    }

    /// What it says to a command.
    pub(crate) async fn command(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let mut client = tokio::process::Command::new("redis-cli");
        let answered = client.args(["-p", &port]).args(words).output().await.expect("redis-cli is installed");
        String::from_utf8_lossy(&answered.stdout).trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &TempDir, arguments: &[String]) -> Child {
    // A test that is killed takes its servers along.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "redis-server"])
        .args(arguments)
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server and setpriv are installed")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}
