//! Several nodes on one PostgreSQL and one Redis: limits hold over all of them.
//!
//! - `exact.rs`: limits are met to the call, changes are seen everywhere
//! - `rolling.rs`: nodes are stopped and started one by one under load
//! - `load.rs`: the load, and what became of each call

mod exact;
mod load;
mod rolling;

use crate::money::counting;
use crate::support::{Answer, Call, Key, Nodes, Wire, eventually};

/// Streams that run at once, as many as a key's limit of concurrency.
const RUNNING: usize = 3;
/// What a strict quota sets aside for a short call beyond what it costs: instructions of the provider's own, in input tokens.
const BOUND_NANO: i64 = 256 * crate::money::INPUT_NANO;
/// Calls of each node that must pass before a node is restarted, and after.
const PASSING: usize = 10;

/// A call of the load.
fn call() -> Call {
    counting(10)
}

/// A stream that begins and does not end by itself.
fn stream() -> Call {
    counting(5).streamed().simulate("hang-after=1")
}

/// Begins a stream on a node, trying again while other nodes hold the places that it needs.
fn hold(nodes: &Nodes, node: usize, key: &Key) -> Wire {
    eventually("there is a place for a stream", || {
        let mut wire = nodes.gateways[node].connect();
        wire.send(&stream().request(&key.token).bytes());
        (wire.head().status == 200).then_some(wire)
    })
}

/// How an answer ended, in a word: 200, or the code of a refusal.
fn code(answer: &Answer) -> String {
    if answer.status == 200 { "200".to_owned() } else { answer.refusal().1 }
}
