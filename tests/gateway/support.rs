//! What the tests stand on: the real gateway, simulated and scripted providers, a client that sees every byte, the books.

mod books;
mod call;
mod control;
mod curl;
mod fault_proxy;
mod gateway;
mod nodes;
mod postgres;
mod process;
mod provider;
mod redis;
mod scripted;
mod setup;
mod wire;

pub(crate) use books::Row;
pub(crate) use call::{Answer, Call, Request};
pub(crate) use control::{Control, OPERATOR, PASSWORD};
pub(crate) use curl::curl;
pub(crate) use gateway::{Gateway, Key};
pub(crate) use nodes::{Clock, Nodes, SharedRedis};
pub(crate) use postgres::Postgres;
pub(crate) use process::{Process, run, run_with};
pub(crate) use provider::Provider;
pub(crate) use redis::{RedisCluster, Sentinel};
pub(crate) use scripted::{Exchange, Received, Scripted};
pub(crate) use setup::{Setup, Upstream};
pub(crate) use wire::Wire;

use std::time::{Duration, Instant};

/// How long anything may take that must happen. Generous: it is only waited for when a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const POLL_PAUSE: Duration = Duration::from_millis(5);

/// Asks until there is an answer. Panics when the deadline has passed.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(POLL_PAUSE);
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
