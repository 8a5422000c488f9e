//! The demo: one command, everything embedded, and a key that works at once.

use crate::support::{Call, Process, Request, Wire, eventually};
use rustix::process::Signal;
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

/// A running demo, and the one line that it has printed.
struct Demo {
    process: Process,
    line: Value,
}

impl Demo {
    fn start(data: &Path) -> Self {
        let directory = data.to_str().expect("temporary directories have plain names");
        let process = Process::start_in(data, &["demo", "--port", "0", "--json", "--data", directory]);
        let line = serde_json::from_str(&process.line()).expect("a line of JSON");
        let demo = Self { process, line };
        eventually("the gateway accepts", || TcpStream::connect(demo.address("gateway")).ok());
        demo
    }

    fn text(&self, field: &str) -> &str {
        self.line[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.line))
    }

    fn address(&self, field: &str) -> SocketAddr {
        self.text(field).trim_start_matches("http://").parse().expect("a URL of this machine")
    }

    fn call(&self, request: &Request) -> u16 {
        Wire::connect(self.address("gateway")).exchange(&request.bytes()).status
    }

    /// Ctrl-C.
    fn stop(mut self) {
        self.process.signal(Signal::INT);
        assert!(self.process.wait().success(), "{}", self.process.log());
    }
}

#[test]
fn a_restarted_demo_keeps_everything_and_gives_a_new_key() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let first = Demo::start(data.path());
    let (org, key) = (first.text("org").to_owned(), first.text("key").to_owned());
    for call in [Call::chat("Hello"), Call::messages("Hello"), Call::chat("Hello").with("model", "gpt-4o").streamed()] {
        assert_eq!(first.call(&call.request(&key)), 200);
    }
    assert_eq!(first.call(&Call::chat("Hello").request("nobody")), 401);
    for listener in ["control", "metrics", "simulated_provider"] {
        TcpStream::connect(first.address(listener)).expect("it listens");
    }
    first.stop();

    let second = Demo::start(data.path());
    assert_eq!(second.text("org"), org);
    assert_ne!(second.text("key"), key);
    for token in [&key, second.text("key")] {
        assert_eq!(second.call(&Call::chat("Hello").request(token)), 200);
    }
    second.stop();
}
