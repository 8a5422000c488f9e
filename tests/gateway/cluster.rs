//! Several nodes on one PostgreSQL and one Redis: limits hold over all of them, and go on holding whatever fails.
//!
//! - `exact.rs`: nothing fails; limits are met to the call, changes are seen everywhere
//! - `redis_faults.rs`, `postgres_faults.rs`, `node_faults.rs`: one thing fails under load
//! - `rolling.rs`: nodes are stopped and started one by one under load
//! - `load.rs`: the load, and what became of each call

mod exact;
mod load;
mod node_faults;
mod postgres_faults;
mod redis_faults;
mod rolling;

use crate::money::{cost_of, counting, dollars, nano, raw, times};
use crate::support::{Answer, Call, Key, Nodes, Request, Wire, eventually};
use load::{Ended, Load, Made};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Calls that a strict key of a scene pays for: fewer than a load makes.
const PAID_FOR: usize = 60;
/// Streams that run all the while, as many as the key's limit of concurrency.
const RUNNING: usize = 3;
/// What a strict quota sets aside for a short call beyond what it costs: instructions of the provider's own, in input tokens.
const BOUND_NANO: i64 = 256 * crate::money::INPUT_NANO;
/// Calls of each node that must pass before something fails, and after it is mended.
const PASSING: usize = 10;
/// Calls of each node that must end while something is down that calls may have to wait for, each for as long as the store has.
const WAITING: usize = 2;
/// How long a fault lasts in the long run, beyond the calls that must end during it.
const SOAK_SECONDS: usize = 20;

/// Nodes with three keys: one that may do everything, one that pays for few calls, and one whose places are all taken.
struct Scene {
    nodes: Nodes,
    /// What a call of the load costs.
    price: i64,
    steady: Key,
    strict: Key,
    held: Key,
    /// The streams that take the places.
    streams: Vec<Wire>,
}

/// What may be refused to a valid key while something is down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tolerance {
    /// Nothing: the fault is not to be seen.
    Nothing,
    /// Money that can't be leased, for as long as it lasts: 402 and 503 that say to come again.
    Refusals,
    /// Connections to one node too.
    BrokenConnections,
}

impl Scene {
    fn new(nodes: Nodes) -> Self {
        let price = cost_of(&nodes.gateways[0], &call());
        let strict = nodes.create_key(&["--limit", &dollars(paid_for() * price + BOUND_NANO), "--strict"]);
        let steady = nodes.create_key(&["--limit", "500", "--rpm", "1000000", "--tpm", "1000000000"]);
        let held = nodes.create_key(&["--concurrency", &RUNNING.to_string(), "--strict"]);
        let streams = (0..RUNNING).map(|node| hold(&nodes, node, &held)).collect();
        Self { nodes, price, steady, strict, held, streams }
    }

    /// Lets something fail under load, goes on until calls have ended on all nodes meanwhile, and mends it.
    fn endure(self, what: &str, tolerance: Tolerance, fail: impl FnOnce(&Nodes), mend: impl FnOnce(&Nodes)) {
        self.endure_while(what, tolerance, |scene, load| {
            fail(&scene.nodes);
            load.await_ended(if tolerance == Tolerance::Nothing { PASSING } else { WAITING }, |_| true);
            std::thread::sleep(Duration::from_secs(times(0, SOAK_SECONDS) as u64));
            scene.assert_places_are_taken();
            mend(&scene.nodes);
        });
    }

    /// Makes calls on all nodes while something happens, and holds the books against what the clients saw. Says how long the
    /// recovery took.
    fn endure_while(mut self, what: &str, tolerance: Tolerance, happen: impl FnOnce(&Self, &Load)) {
        let load = Load::start(&self.nodes, &[&self.steady, &self.strict]);
        load.await_passed(PASSING, |_| true);
        happen(&self, &load);
        let mended = Instant::now();
        load.await_passed(PASSING, |_| true);
        println!("{what}: all nodes serve again after {:?}", mended.elapsed());
        let made = load.stop();
        self.assert_outcomes(&made, tolerance);
        // Where a node was killed, so was its stream, and its place is free again.
        if tolerance != Tolerance::BrokenConnections {
            self.assert_places_are_taken();
        }
        self.streams.clear();
        self.assert_books(&made);
        self.nodes.await_clean_audit();
    }

    /// No more streams begin than the limit says, on any node.
    fn assert_places_are_taken(&self) {
        for gateway in &self.nodes.gateways {
            let sent = Wire::try_connect(gateway.address).and_then(|mut wire| {
                wire.try_send(&stream().request(&self.held.token).bytes())?;
                wire.try_head()
            });
            // A node that is down begins none.
            if let Ok(answer) = sent {
                assert_ne!(answer.status, 200, "{RUNNING} streams run already");
            }
        }
    }

    fn assert_outcomes(&self, made: &[Made], tolerance: Tolerance) {
        let (mut unexpected, mut refused) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
        for Made { key, ended, .. } in made {
            if let (Ended::Refused(_, code), true) = (ended, *key == self.steady.id) {
                *refused.entry(code.clone()).or_default() += 1;
            }
            let fits = match ended {
                Ended::Passed(_) => true,
                Ended::Refused(402, code) if code == "spend_limit_reached" => *key == self.strict.id,
                // Other nodes hold what is left.
                Ended::Refused(402, code) if code == "credits_reserved" => {
                    *key == self.strict.id || tolerance != Tolerance::Nothing
                }
                Ended::Refused(503, code) => tolerance != Tolerance::Nothing && code != "overloaded",
                Ended::Refused(..) | Ended::Hung => false,
                Ended::Broken(_) => tolerance == Tolerance::BrokenConnections,
            };
            if !fits {
                *unexpected.entry(format!("{ended:?}")).or_default() += 1;
            }
        }
        println!("of {} calls were refused for now: {refused:?}", made.len());
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }

    /// Whatever a client saw complete was charged once, nothing was charged that was not made, and no limit was passed.
    fn assert_books(&self, made: &[Made]) {
        for key in [&self.steady, &self.strict] {
            let passed: BTreeSet<&str> =
                made.iter().filter(|made| made.key == key.id).filter_map(Made::passed).collect();
            let books = eventually("the calls are on the books", || {
                let books = self.nodes.books(key);
                let on_books: BTreeSet<&str> = books.iter().map(|(id, _)| id.as_str()).collect();
                on_books.is_superset(&passed).then_some(books)
            });
            let names: BTreeSet<&str> = books.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(names.len(), books.len(), "a call is charged twice");
            for (id, charge) in &books {
                let is_right = if passed.contains(id.as_str()) {
                    *charge == self.price
                } else {
                    *charge <= self.price + BOUND_NANO
                };
                assert!(is_right, "{id} was charged {charge}");
            }
            let charged: i64 = books.iter().map(|(_, charge)| charge).sum();
            if key.id == self.strict.id {
                assert!(charged <= paid_for() * self.price + BOUND_NANO, "{charged} were charged");
            }
            for node in 0..self.nodes.gateways.len() {
                eventually("each node shows what was charged", || {
                    (usage(&self.nodes, node, key) == charged).then_some(())
                });
            }
        }
    }
}

fn paid_for() -> i64 {
    i64::try_from(PAID_FOR).expect("small")
}

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

/// What a node says that a key has spent.
fn usage(nodes: &Nodes, node: usize, key: &Key) -> i64 {
    nano(raw(&nodes.gateways[node].exchange(&Request::get("/v1/key").bearer(&key.token)).text(), "usage"))
}
