//! Several nodes on one rate: whatever is late, lost or done in another order, together they never pass the limit.

use super::*;
use crate::denied::{LimitSource, Owner};
use crate::id::QuotaId;
use crate::time::EpochMs;
use crate::window::Unit;
use proptest::prelude::*;
use std::collections::HashMap;

const START: EpochMs = EpochMs(1_800_000_000_000);
const MINUTE_MS: i64 = 60_000;

/// The store that all nodes reach: two sums a window.
#[derive(Default)]
struct Store(HashMap<u64, (i64, i64)>);

impl Store {
    fn add(&mut self, ask: &SliceAsk) -> SliceReply {
        let (taken, used) = self.0.entry(ask.window).or_default();
        (*taken, *used) = (*taken + ask.take, *used + ask.used);
        SliceReply { taken: *taken, used: *used }
    }
}

struct Node {
    peers: Arc<Peers>,
    rate: Arc<Rate>,
    /// What was asked and, once the store has it, answered.
    open: Option<(SliceAsk, Option<SliceReply>)>,
}

impl Node {
    fn new(limit: i64, counted: Counted) -> Self {
        let peers = Arc::new(Peers::new(4));
        let source = LimitSource::Requests(Owner::Key, Unit::Minute);
        let rate = Rate::new(source, counted, Unit::Minute, limit).shared(QuotaId(7), Arc::clone(&peers));
        Self { peers, rate: Arc::new(rate), open: None }
    }

    fn take(&self, amount: i64, now: EpochMs) -> bool {
        self.rate.take(amount, now).is_ok()
    }

    /// An exchange without delay.
    fn exchange(&self, wanted: i64, store: &mut Store, now: EpochMs) -> SliceAsk {
        let ask = self.rate.ask(wanted, now).expect("it is shared");
        self.rate.hear(&ask, store.add(&ask));
        ask
    }

    /// Takes as an admission does.
    fn admit(&self, amount: i64, store: &mut Store, now: EpochMs) -> bool {
        while !self.take(amount, now) {
            if !self.rate.is_worth_asking(amount, now) {
                return false;
            }
            self.exchange(amount, store, now);
        }
        true
    }
}

#[test]
fn nothing_is_taken_before_a_slice_has_come_and_all_of_it_after() {
    let (mut store, node) = (Store::default(), Node::new(3, Counted::Requests));
    assert!(!node.take(1, START) && node.rate.is_worth_asking(1, START));
    let admitted = (0..5).filter(|_| node.admit(1, &mut store, START)).count();
    assert_eq!((admitted, node.rate.read(START).remaining), (3, 0));
    assert!(!node.rate.is_worth_asking(1, START), "it is known that nothing is left");
    assert!(node.admit(1, &mut store, START.plus(MINUTE_MS)));
}

#[test]
fn what_can_never_fit_is_not_asked_for() {
    let (mut store, node) = (Store::default(), Node::new(100, Counted::Tokens));
    assert!(!node.rate.is_worth_asking(101, START));
    assert!(node.admit(60, &mut store, START));
    assert!(!node.admit(60, &mut store, START));
    assert!(node.admit(40, &mut store, START));
}

#[test]
fn a_hot_rate_asks_some_ten_times_a_second() {
    for per_second in [50, 1_000, 20_000] {
        let (mut store, node) = (Store::default(), Node::new(per_second * 60 * 2, Counted::Requests));
        let mut asks = Vec::new();
        for number in 0..per_second * 10 {
            let now = START.plus(number * 1_000 / per_second);
            if !node.take(1, now) {
                asks.push(now);
                node.exchange(1, &mut store, now);
                assert!(node.take(1, now));
            }
        }
        let in_second = |second: i64| asks.iter().filter(|at| (at.0 - START.0) / 1_000 == second).count();
        assert!((0..10).all(|second| in_second(second) <= 18), "{per_second}: {asks:?}");
    }
}

#[test]
fn slices_shrink_as_the_limit_nears() {
    let (mut store, node) = (Store::default(), Node::new(1_000, Counted::Requests));
    let mut asks = 0;
    for number in 0..1_000 {
        let now = START.plus(number);
        if !node.take(1, now) {
            let left = 1_000 - number;
            let ask = node.exchange(1, &mut store, now);
            assert!(ask.take <= (left / 2).max(1), "{left}: {ask:?}");
            assert!(node.take(1, now));
            asks += 1;
        }
    }
    assert!(asks <= 24, "{asks}");
}

#[test]
fn everybody_knows_what_everybody_has_used() {
    let mut store = Store::default();
    let [one, two] = [(); 2].map(|()| Node::new(1_000, Counted::Tokens));
    for _ in 0..10 {
        assert!(one.admit(50, &mut store, START));
    }
    assert!(two.admit(10, &mut store, START));
    // What is settled below its estimate is used no more.
    one.rate.adjust(50, 20, START);
    for node in [&one, &two, &one] {
        node.exchange(0, &mut store, START);
    }
    assert_eq!([&one, &two].map(|node| node.rate.read(START).remaining), [520, 520]);
}

#[test]
fn used_rates_are_told_of_once() {
    let (mut store, node) = (Store::default(), Node::new(10, Counted::Requests));
    node.admit(1, &mut store, START);
    let chain = Chain { rates: vec![Arc::clone(&node.rate)], ..Chain::default() };
    for _ in 0..3 {
        node.exchange(1, &mut store, START);
        chain.count_request(START).expect("there is room");
    }
    assert_eq!((node.peers.take_used().len(), node.peers.take_used().len()), (1, 0));
}

#[test]
fn what_was_charged_beyond_a_slice_is_owed() {
    let mut store = Store::default();
    let [one, two] = [(); 2].map(|()| Node::new(1_000, Counted::Tokens));
    assert!(one.admit(10, &mut store, START));
    one.rate.adjust(10, 900, START);
    one.exchange(0, &mut store, START);
    assert!(two.admit(100, &mut store, START) && !two.admit(1, &mut store, START));
}

#[test]
fn a_node_that_is_alone_goes_on_with_its_part() {
    let (mut store, node) = (Store::default(), Node::new(40, Counted::Requests));
    let lost = |now| {
        node.rate.ask(1, now).expect("it is shared");
        node.rate.go_alone();
    };
    assert!(node.admit(1, &mut store, START));
    lost(START);
    assert!(!node.rate.is_worth_asking(1, START), "whoever is alone does not wait");
    assert_eq!((0..40).filter(|_| node.take(1, START)).count(), 9, "a fourth of 40, with the one before");
    let next = START.plus(MINUTE_MS);
    assert_eq!((0..40).filter(|_| node.take(1, next)).count(), 10);
    // Back again, it says what it has used, and takes what the others leave.
    node.exchange(0, &mut store, next);
    assert_eq!((0..40).filter(|_| node.admit(1, &mut store, next)).count(), 30);
}

#[test]
fn without_a_store_each_node_has_its_part_of_every_window() {
    let peers = Arc::new(Peers::without_store(4));
    let source = LimitSource::Requests(Owner::Key, Unit::Minute);
    let rate = Rate::new(source, Counted::Requests, Unit::Minute, 40).shared(QuotaId(7), Arc::clone(&peers));
    let node = Node { peers, rate: Arc::new(rate), open: None };
    for window in 0..3 {
        let now = START.plus(window * MINUTE_MS);
        assert_eq!((0..40).filter(|_| node.take(1, now)).count(), 10);
        assert!(!node.rate.is_worth_asking(1, now), "there is nobody to ask");
        node.rate.note_use();
    }
    assert!(node.peers.take_used().is_empty(), "and nobody to tell");
}

#[test]
fn a_node_that_is_alone_keeps_its_slice_and_passes_no_known_end() {
    let mut store = Store::default();
    let [one, two] = [(); 2].map(|()| Node::new(40, Counted::Requests));
    (0..38).for_each(|_| assert!(one.admit(1, &mut store, START)));
    assert!(two.admit(1, &mut store, START));
    two.rate.go_alone();
    assert!((0..40).filter(|_| two.take(1, START)).count() <= 1);
}

#[test]
fn a_store_that_forgot_its_sums_gives_nothing_twice() {
    let (mut store, node) = (Store::default(), Node::new(10, Counted::Requests));
    (0..6).for_each(|_| assert!(node.admit(1, &mut store, START)));
    store.0.clear();
    assert_eq!((0..10).filter(|_| node.admit(1, &mut store, START)).count(), 4);
}

#[test]
fn a_lowered_limit_takes_back_what_nobody_has_used() {
    let (mut store, node) = (Store::default(), Node::new(1_000, Counted::Requests));
    (0..20).for_each(|_| assert!(node.admit(1, &mut store, START)));
    node.rate.set_limit(25);
    assert!((0..20).filter(|_| node.admit(1, &mut store, START)).count() <= 5);
    node.rate.set_limit(1_000);
    assert!(node.admit(1, &mut store, START));
}

#[test]
fn windows_end_by_the_clock_of_all() {
    let (mut store, node) = (Store::default(), Node::new(2, Counted::Requests));
    node.peers.set_clock(5_000);
    let before_end = EpochMs(START.0.div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS - 5_001);
    assert_eq!(node.rate.read(before_end).reset_ms, 1);
    assert_eq!((0..5).filter(|_| node.admit(1, &mut store, before_end)).count(), 2);
    assert_eq!((0..5).filter(|_| node.admit(1, &mut store, before_end.plus(1))).count(), 2);
    node.peers.set_clock(5_009);
    assert_eq!(node.rate.read(before_end).reset_ms, 1, "a measurement that differs by little changes nothing");
}

/// What may happen to some nodes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Call {
        node: usize,
        amount: i64,
    },
    /// A call ends, and has used less than was taken for it.
    Less {
        node: usize,
        by: i64,
    },
    Ask {
        node: usize,
        wanted: i64,
    },
    /// The store hears what a node has asked, and its answer comes later or never.
    Arrive {
        node: usize,
    },
    Hear {
        node: usize,
    },
    /// Nothing comes of it for the node, whether or not the store has heard it; then it hears of another ask.
    Lose {
        node: usize,
    },
    Time {
        by: i64,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let node = 0..3_usize;
    prop_oneof![
        6 => (node.clone(), 1..4_i64).prop_map(|(node, amount)| Step::Call { node, amount }),
        1 => (node.clone(), 1..3_i64).prop_map(|(node, by)| Step::Less { node, by }),
        4 => (node.clone(), 0..5_i64).prop_map(|(node, wanted)| Step::Ask { node, wanted }),
        4 => node.clone().prop_map(|node| Step::Arrive { node }),
        4 => node.clone().prop_map(|node| Step::Hear { node }),
        1 => node.prop_map(|node| Step::Lose { node }),
        1 => (1..40_000_i64).prop_map(|by| Step::Time { by }),
    ]
}

proptest! {
    #[test]
    fn whatever_is_late_or_lost_the_limit_holds(
        steps in prop::collection::vec(steps(), 1..300), limit in 1..60_i64
    ) {
        let mut store = Store::default();
        let mut nodes = [(); 3].map(|()| Node::new(limit, Counted::Tokens));
        let (mut now, mut counted) = (START, HashMap::<i64, i64>::new());
        for step in steps {
            let window = now.0 / MINUTE_MS;
            match step {
                Step::Call { node, amount } => {
                    if nodes[node].take(amount, now) {
                        *counted.entry(window).or_default() += amount;
                    }
                }
                Step::Less { node, by } => {
                    let rate = &nodes[node].rate;
                    let before = rate.count_in_window(now);
                    rate.adjust(by, 0, now);
                    *counted.entry(window).or_default() -= before - rate.count_in_window(now);
                }
                Step::Ask { node, wanted } => {
                    if nodes[node].open.is_none() {
                        nodes[node].open = nodes[node].rate.ask(wanted, now).map(|ask| (ask, None));
                    }
                }
                Step::Arrive { node } => {
                    if let Some((ask, reply @ None)) = &mut nodes[node].open {
                        *reply = Some(store.add(ask));
                    }
                }
                Step::Hear { node } => {
                    if let Some((ask, Some(reply))) = nodes[node].open {
                        nodes[node].rate.hear(&ask, reply);
                        nodes[node].open = None;
                    }
                }
                Step::Lose { node } => {
                    if nodes[node].open.take().is_some() {
                        nodes[node].rate.go_alone();
                        nodes[node].exchange(0, &mut store, now);
                    }
                }
                Step::Time { by } => now = now.plus(by),
            }
            let sum = counted.get(&(now.0 / MINUTE_MS)).copied().unwrap_or(0);
            prop_assert!(sum <= limit, "{sum} of {limit}");
        }
    }

    #[test]
    fn all_of_a_limit_can_be_used_by_nodes_that_call_alike(limit in 1..500_i64) {
        let mut store = Store::default();
        let nodes = [(); 3].map(|()| Node::new(limit, Counted::Requests));
        let calls = (0..limit * 5).filter(|number| {
            let now = START.plus(number / 2);
            nodes[(number % 3) as usize].admit(1, &mut store, now)
        });
        prop_assert_eq!(calls.count() as i64, limit);
    }
}

#[test]
fn a_call_that_waits_over_the_end_of_a_window_is_counted_in_the_next() {
    let (mut store, node) = (Store::default(), Node::new(3, Counted::Requests));
    assert!(node.admit(1, &mut store, START));
    let (began, later) = (START.plus(MINUTE_MS - 1), START.plus(MINUTE_MS + 1));
    assert!(!node.take(1, began) && node.rate.is_worth_asking(1, began));
    node.exchange(1, &mut store, later);
    assert!(node.take(1, began), "what it asked for has come");
    assert_eq!(node.rate.read(later).remaining, 2);
    assert!(node.admit(2, &mut store, later) && !node.admit(1, &mut store, later), "it is counted");
    assert!(!node.take(1, began) && !node.rate.is_worth_asking(1, began));
}
