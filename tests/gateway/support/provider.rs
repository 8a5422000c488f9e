//! The simulated provider as a process of its own, and the log of what it served.

use super::process::Process;
use super::wire::Wire;
use super::{Request, eventually};
use serde_json::Value;
use std::net::SocketAddr;

/// A simulated provider, stopped when this is dropped.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Provider {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts it with arguments of `tollgate simulate-provider`.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let process = Process::start(&[&["simulate-provider", "--port", "0"], arguments].concat());
        let line: Value = serde_json::from_str(&process.line()).expect("a line of JSON");
        let url = line["url"].as_str().expect("the line has a URL");
        let address = url.trim_start_matches("http://").parse().expect("an address");
        Self { address, _process: process }
    }

    /// The base URL that a configuration names.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The calls that have ended, in the order of their ends.
    pub(crate) fn log(&self) -> Vec<Value> {
        let answer = Wire::connect(self.address).exchange(&Request::get("/log").bytes());
        assert_eq!(answer.status, 200);
        answer.text().lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Waits until so many calls have ended.
    pub(crate) fn log_of(&self, calls: usize) -> Vec<Value> {
        eventually("the provider's calls have ended", || Some(self.log()).filter(|log| log.len() >= calls))
    }
}
