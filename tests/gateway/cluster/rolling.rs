//! Nodes are stopped and started one by one under load, as a deployment does it.

use super::load::{Ended, Load};
use super::{PASSING, call};
use crate::support::{Clock, Nodes, Postgres, Setup, SharedRedis};
use rustix::process::Signal;
use std::collections::BTreeSet;

#[test]
fn a_rolling_restart_fails_no_call_and_cuts_no_stream() {
    // As long as a balancer needs to see that a node is not ready any more, here and there.
    let setup = Setup::new().limit("drain_delay_ms = 1_500");
    let nodes = Nodes::with(SharedRedis::single(), Postgres::start(), [Clock::Right; 3], &setup);
    let key = nodes.create_key(&["--limit", "500", "--rpm", "1000000", "--concurrency", "100"]);
    // Streams that last longer than the load balancer needs.
    let calls = [call(), call().streamed(), call().streamed().simulate("token-ms=200")];
    let load = Load::balanced(&nodes, &[&key], &calls);
    load.await_passed(PASSING, |_| true);
    for node in &nodes.gateways {
        node.signal(Signal::TERM);
        assert!(node.wait().success(), "it ends when its calls have");
        node.restart();
        load.await_passed(PASSING, |_| true);
    }
    let made = load.stop();
    let failed: Vec<_> = made.iter().filter(|made| !matches!(made.ended, Ended::Passed(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed: BTreeSet<&str> = made.iter().filter_map(|made| made.passed()).collect();
    let books = nodes.books_of(&key, passed.len());
    assert!(books.iter().all(|(id, _)| passed.contains(id.as_str())), "nothing else was charged");
    nodes.await_clean_audit();
}
