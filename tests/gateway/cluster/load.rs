//! Calls that are made on all nodes all the while, by several clients each, and what became of each call.

use super::call;
use crate::support::{Call, DEADLINE, Gateway, Key, Nodes, Request, Wire};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients of each node.
const CLIENTS: usize = 2;
/// Between two calls of a client: the machine has other tests to run.
const PACE: Duration = Duration::from_millis(10);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// A whole answer of the name that the gateway gave it.
    Passed(String),
    Refused(u16, String),
    /// The connection could not be made, or broke off.
    Broken(String),
    /// There was no answer for longer than anything may take.
    Hung,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) node: usize,
    /// The key's id.
    pub(super) key: String,
    pub(super) ended: Ended,
}

impl Made {
    /// The call's name, if it passed.
    pub(super) fn passed(&self) -> Option<&str> {
        match &self.ended {
            Ended::Passed(id) => Some(id),
            Ended::Refused(..) | Ended::Broken(_) | Ended::Hung => None,
        }
    }
}

/// Clients at work. They stop when this is dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    nodes: usize,
    steady: String,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    made: Mutex<Vec<Made>>,
}

impl Shared {
    fn made(&self) -> MutexGuard<'_, Vec<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load {
    /// Begins to make calls of these keys in turn, whole answers and streams, each client on a node of its own. The first key is
    /// the one whose calls must pass.
    pub(super) fn start(nodes: &Nodes, keys: &[&Key]) -> Self {
        Self::routed(nodes, keys, &[call(), call().streamed()], |_, node| node)
    }

    /// The same with calls that go to whatever node is ready, as a load balancer sends them.
    pub(super) fn balanced(nodes: &Nodes, keys: &[&Key], calls: &[Call]) -> Self {
        let metrics: Vec<SocketAddr> = nodes.gateways.iter().map(|gateway| gateway.metrics).collect();
        Self::routed(nodes, keys, calls, move |call, node| {
            let in_turn = (0..metrics.len()).map(|step| (node + call + step) % metrics.len());
            in_turn.into_iter().find(|node| is_ready(metrics[*node])).unwrap_or(node)
        })
    }

    fn routed(
        nodes: &Nodes,
        keys: &[&Key],
        calls: &[Call],
        route: impl Fn(usize, usize) -> usize + Send + Sync + 'static,
    ) -> Self {
        let addresses: Vec<SocketAddr> = nodes.gateways.iter().map(|gateway: &Gateway| gateway.address).collect();
        let request = |call: &Call, key: &Key| (key.id.clone(), call.request(&key.token).bytes());
        let calls: Vec<_> = calls.iter().flat_map(|call| keys.iter().map(|key| request(call, key))).collect();
        let (shared, route) = (Arc::new(Shared::default()), Arc::new(route));
        let client = |number: usize| {
            let (addresses, calls) = (addresses.clone(), calls.clone());
            let (shared, route) = (Arc::clone(&shared), Arc::clone(&route));
            std::thread::spawn(move || {
                for (turn, (key, request)) in calls.iter().cycle().enumerate().skip(number) {
                    if shared.is_over.load(Ordering::Acquire) {
                        return;
                    }
                    let node = route(turn, number % addresses.len());
                    let ended = make(addresses[node], request);
                    shared.made().push(Made { node, key: key.clone(), ended });
                    std::thread::sleep(PACE);
                }
            })
        };
        let clients = (0..addresses.len() * CLIENTS).map(client).collect();
        Self { shared, clients, nodes: addresses.len(), steady: keys[0].id.clone() }
    }

    /// Waits until so many more calls of the first key have passed on each of these nodes.
    pub(super) fn await_passed(&self, calls: usize, of: impl Fn(usize) -> bool) {
        let passed = |made: &Made| made.key == self.steady && made.passed().is_some();
        self.await_calls("calls pass on every node", calls, passed, of);
    }

    /// Waits until so many more calls have ended somehow on each of these nodes.
    pub(super) fn await_ended(&self, calls: usize, of: impl Fn(usize) -> bool) {
        self.await_calls("calls end on every node", calls, |_| true, of);
    }

    fn await_calls(&self, what: &str, calls: usize, counts: impl Fn(&Made) -> bool, of: impl Fn(usize) -> bool) {
        let before = self.shared.made().len();
        let begun = Instant::now();
        loop {
            let count_on = |node| {
                let made = self.shared.made();
                made[before..].iter().filter(|made| made.node == node && counts(made)).count()
            };
            // What was in flight when this was asked may have ended before: the first of each client is not counted.
            if (0..self.nodes).filter(|node| of(*node)).all(|node| count_on(node) >= calls + CLIENTS) {
                return;
            }
            let last = || self.shared.made().iter().rev().take(20).cloned().collect::<Vec<_>>();
            assert!(begun.elapsed() < 2 * DEADLINE, "not within {:?}: {what}: {:#?}", 2 * DEADLINE, last());
            std::thread::sleep(PACE);
        }
    }

    /// Ends it, and gives all calls that were made.
    pub(super) fn stop(mut self) -> Vec<Made> {
        self.end();
        std::mem::take(&mut *self.shared.made())
    }

    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        for client in self.clients.drain(..) {
            // A client that panicked has said so.
            let _ = client.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_ready(metrics: SocketAddr) -> bool {
    let asked = Wire::try_connect(metrics).and_then(|mut wire| {
        wire.try_send(&Request::get("/readyz").bytes())?;
        wire.try_answer()
    });
    asked.is_ok_and(|answer| answer.status == 200)
}

fn make(address: SocketAddr, request: &[u8]) -> Ended {
    let begun = Instant::now();
    let made = Wire::try_connect(address).and_then(|mut wire| {
        wire.try_send(request)?;
        wire.try_answer()
    });
    match made {
        _ if begun.elapsed() >= DEADLINE => Ended::Hung,
        Ok(answer) if answer.status == 200 => {
            let is_stream = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
            if is_stream && answer.events().last().is_none_or(|event| event != "[DONE]") {
                return Ended::Broken(format!("the stream ends with {:?}", answer.events().last()));
            }
            Ended::Passed(answer.request_id().to_owned())
        }
        Ok(answer) => {
            let (status, code) = answer.refusal();
            Ended::Refused(status, code)
        }
        Err(error) => Ended::Broken(error.kind().to_string()),
    }
}
