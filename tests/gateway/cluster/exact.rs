//! Nothing fails: limits are met to the call over all nodes, and what changes on one is seen on all.

use super::{BOUND_NANO, RUNNING, call, code, hold, stream};
use crate::money::{cost_of, dollars, times, within_a_second};
use crate::support::{DEADLINE, Key, Nodes, Wire};
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Instant;

const CALLS: usize = 500;
const PASSING: usize = 100;
/// Connections that one thread of a storm holds.
const CONNECTIONS_PER_THREAD: usize = 20;
/// Refusals that say to come again: credit that another node holds.
const TRANSIENT: [&str; 1] = ["credits_reserved"];

/// Makes as many calls at the same moment on the nodes in turn, those that are refused for now again and again. How many ended
/// how, by code.
fn storm(nodes: &Nodes, key: &Key, calls: usize) -> BTreeMap<String, usize> {
    let request = call().request(&key.token).bytes();
    let start = Barrier::new(calls / CONNECTIONS_PER_THREAD);
    let one_thread = |thread: usize| {
        let connect = |number: usize| nodes.gateways[(thread + number) % nodes.gateways.len()].connect();
        let mut wires: Vec<Wire> = (0..CONNECTIONS_PER_THREAD).map(connect).collect();
        let mut ended = Vec::new();
        start.wait();
        let begun = Instant::now();
        while !wires.is_empty() {
            assert!(begun.elapsed() < 2 * DEADLINE, "{} calls are still refused for now", wires.len());
            wires.iter_mut().for_each(|wire| wire.send(&request));
            wires.retain_mut(|wire| {
                let code = code(&wire.answer());
                let is_transient = TRANSIENT.contains(&code.as_str());
                if !is_transient {
                    ended.push(code);
                }
                is_transient
            });
        }
        ended
    };
    let mut counts = BTreeMap::new();
    std::thread::scope(|scope| {
        let one_thread = &one_thread;
        let threads: Vec<_> =
            (0..calls / CONNECTIONS_PER_THREAD).map(|thread| scope.spawn(move || one_thread(thread))).collect();
        for code in threads.into_iter().flat_map(|thread| thread.join().expect("a thread of the storm")) {
            *counts.entry(code).or_insert(0) += 1;
        }
    });
    counts
}

fn counts<const N: usize>(of: [(&str, usize); N]) -> BTreeMap<String, usize> {
    of.into_iter().map(|(code, count)| (code.to_owned(), count)).collect()
}

#[test]
fn of_500_calls_on_three_nodes_exactly_the_100_that_are_paid_for_pass() {
    let nodes = Nodes::start();
    let price = cost_of(&nodes.gateways[0], &call());
    for run in 0..times(5, 50) {
        let key = nodes.create_key(&["--limit", &dollars(100 * price + BOUND_NANO), "--strict"]);
        let ended = storm(&nodes, &key, CALLS);
        assert_eq!(ended, counts([("200", PASSING), ("spend_limit_reached", CALLS - PASSING)]), "run {run}");
        let books = nodes.books_of(&key, PASSING);
        assert_eq!(books.iter().map(|(_, charge)| charge).sum::<i64>(), 100 * price, "run {run}");
    }
    nodes.await_clean_audit();
}

#[test]
fn no_more_streams_run_on_three_nodes_than_the_limit_says() {
    let nodes = Nodes::start();
    let key = nodes.create_key(&["--concurrency", &RUNNING.to_string(), "--strict"]);
    let mut streams: Vec<Wire> = (0..RUNNING).map(|node| hold(&nodes, node, &key)).collect();
    let refused = |node: usize| {
        let mut wire = nodes.gateways[node].connect();
        wire.send(&stream().request(&key.token).bytes());
        let mut answer = wire.head();
        assert_ne!(answer.status, 200, "{RUNNING} streams run already");
        answer.body = wire.body(&answer).expect("a refusal is whole");
        assert_eq!(code(&answer), "concurrency_exceeded");
    };
    (0..nodes.gateways.len()).for_each(refused);
    // A place that becomes free on one node is another's.
    drop(streams.remove(0));
    streams.push(hold(&nodes, 2, &key));
    (0..nodes.gateways.len()).for_each(refused);
}

#[test]
fn what_changes_on_one_node_holds_on_all_within_a_second() {
    let nodes = Nodes::start();
    let key = nodes.create_key(&[]);
    let answered = |expected: &str| {
        for gateway in &nodes.gateways {
            within_a_second(expected, || (code(&gateway.call_with(&key, &call())) == expected).then_some(()));
        }
    };
    answered("200");
    for (node, command, expected) in [(1, "disable", "key_disabled"), (2, "enable", "200")] {
        nodes.gateways[node].tollgate(&["key", command, &key.id]);
        answered(expected);
    }
    nodes.gateways[0].tollgate(&["key", "limit", &key.id, "--limit", "0"]);
    answered("spend_limit_reached");
}
