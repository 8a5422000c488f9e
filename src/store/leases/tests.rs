//! Several nodes on one store.

use super::*;
use crate::store::fixture::{Books as Fixture, NOW};
use crate::store::journal::Checkpoint;
use crate::store::key_cache::{KeyCache, KeyCacheSettings};
use crate::store::limits::{Amount, LimitChange, Owner};
use crate::store::quotas::QuotaKind;
use filters::denied::{Code, Denied};
use filters::key::Key;
use filters::ports::Keys;
use filters::quota::{Reservation, Take};
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// What a call of the tests costs: 10 tokens in at $0.15 a million, 5 out at $0.60.
pub(in crate::store) const COST: i64 = 4_500;
const DEADLINE: Duration = Duration::from_secs(20);

/// A node that knows the fixture's key.
#[derive(Clone)]
pub(in crate::store) struct Node {
    cache: KeyCache,
    pub(in crate::store) key: Arc<Key>,
}

impl Node {
    pub(in crate::store) async fn open(books: &Fixture, name: &str) -> Self {
        let cache = KeyCache::new(books.store.clone(), name, KeyCacheSettings::default()).await.expect("entered");
        let lookup = books.store.pepper().lookup(&books.token);
        let key = cache.find(&crate::store::fixture::presented(lookup)).await.expect("read").expect("the key");
        Self { cache, key }
    }

    /// Reserves as an admission does: what is short is asked for, once.
    pub(in crate::store) async fn reserve(&self, amount: i64) -> Result<Reservation, Denied> {
        let amount = NanoUsd(amount);
        let take = Take { model: "m", estimate: amount, bound: Some(amount), tokens: 0 };
        let refused = match self.key.chain.reserve(&take, clock::now()) {
            Ok(reservation) => return Ok(reservation),
            Err(refused) => refused,
        };
        let wants = self.key.chain.short_of(&take, &refused, clock::now()).unwrap_or_default();
        if !wants.is_empty() {
            self.leases().lease(wants).await.map_err(|StoreUnavailable| Denied::LimitsUnavailable)?;
        }
        self.key.chain.reserve(&take, clock::now())
    }

    pub(in crate::store) fn leases(&self) -> &Leases {
        self.cache.leases()
    }

    pub(in crate::store) async fn tick(&self) {
        self.cache.tick().await.expect("the store answers");
    }

    /// Says where its quotas stand, wanting nothing.
    async fn tell(&self) {
        let want = |spend: &Arc<Spend>| Want { spend: Arc::clone(spend), amount: NanoUsd::ZERO, at: None };
        self.leases().lease(self.key.chain.spend.iter().map(want).collect()).await.expect("told");
    }
}

/// A limit of the key, strict where it can be.
pub(in crate::store) async fn limit(books: &Fixture, kind: QuotaKind, amount: i64) -> QuotaId {
    let is_strict = Some(kind != QuotaKind::Requests);
    let change = LimitChange { is_strict, ..LimitChange::of(kind, Amount::Of(amount)) };
    let rows = books.store.change_limits(Owner::Key(books.key), &[change], NOW).await.expect("set");
    rows.iter().find(|row| row.kind == kind).expect("it is there").id
}

/// What a node holds by the tables.
pub(in crate::store) async fn outstanding(books: &Fixture, node: &str, quota: QuotaId) -> i64 {
    let sum = "SELECT CAST(COALESCE(SUM(granted - returned - shipped), 0) AS BIGINT) FROM leases \
               WHERE node = $1 AND quota = $2";
    sqlx::query_scalar(sum).bind(node).bind(quota.0).fetch_one(&books.store.database.reader).await.expect("read")
}

/// Reserves until it is possible; what stands in the way must be passing.
pub(in crate::store) async fn reserve_in_the_end(nodes: &[Node], at: usize, amount: i64) -> Reservation {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match nodes[at].reserve(amount).await {
            Ok(reservation) => return reservation,
            Err(Denied::CreditsReserved { .. } | Denied::ConcurrencyExceeded { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "never");
        for node in nodes {
            node.tick().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cold_key_asks_once_and_never_again() {
    let books = Fixture::open().await;
    limit(&books, QuotaKind::Concurrency, 3).await;
    let node = Node::open(&books, "a").await;
    for _ in 0..50 {
        node.reserve(COST).await.expect("there is plenty").settle(NanoUsd(COST), 0);
    }
    assert_eq!(node.leases().transactions(), 1);
}

#[tokio::test]
async fn what_a_lost_reply_granted_is_granted_anew() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 100).await;
    let node = Node::open(&books, "a").await;
    let shared = &node.leases().shared;
    let (done, _) = oneshot::channel();
    let spend = Arc::clone(&node.key.chain.spend[0]);
    let wants = vec![Want { spend, amount: NanoUsd(5), at: None }];
    let business = shared.business_of(&[Waiting { wants, wanted: Vec::new(), done }]);
    shared.decide(&business).await.expect("decided");
    assert_eq!(outstanding(&books, "a", quota).await, 100, "and the node does not know it");
    let other = Node::open(&books, "b").await;
    assert_eq!(node.reserve(101).await.expect_err("there is not so much").code(), Code::SpendLimitReached);
    let held = reserve_in_the_end(&[node, other.clone()], 0, 60).await;
    assert_eq!(other.reserve(50).await.expect_err("sixty are held").code(), Code::CreditsReserved);
    drop(held);
}

#[tokio::test]
async fn what_others_want_is_given_back_but_for_what_runs() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 100).await;
    let first = Node::open(&books, "a").await;
    let running = first.reserve(30).await.expect("a sole node has all of it");
    assert_eq!(outstanding(&books, "a", quota).await, 100);
    let nodes = [first, Node::open(&books, "b").await];
    assert_eq!(nodes[1].reserve(40).await.expect_err("the other has it").code(), Code::CreditsReserved);
    nodes[0].tick().await;
    assert_eq!(outstanding(&books, "a", quota).await, 30, "what the running call has set aside");
    let second = reserve_in_the_end(&nodes, 1, 70).await;
    assert_eq!(nodes[1].reserve(1).await.expect_err("all is set aside").code(), Code::CreditsReserved);
    running.settle(NanoUsd(10), 0);
    let third = reserve_in_the_end(&nodes, 1, 20).await;
    drop((second, third));
}

#[tokio::test]
async fn parts_that_pay_for_no_call_find_together() {
    let books = Fixture::open().await;
    limit(&books, QuotaKind::Spend, 10).await;
    let nodes = [Node::open(&books, "a").await, Node::open(&books, "b").await];
    nodes[0].reserve(4).await.expect("there is enough").settle(NanoUsd::ZERO, 0);
    nodes[1].reserve(4).await.expect("there is enough").settle(NanoUsd::ZERO, 0);
    let running = reserve_in_the_end(&nodes, 0, 10).await;
    assert_eq!(nodes[1].reserve(1).await.expect_err("all is held").code(), Code::CreditsReserved);
    drop(running);
    reserve_in_the_end(&nodes, 1, 10).await.settle(NanoUsd::ZERO, 0);
}

#[tokio::test]
async fn a_quota_that_is_in_no_memory_is_given_back() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 100).await;
    Node::open(&books, "a").await.reserve(30).await.expect("all of it is here").settle(NanoUsd::ZERO, 0);
    // A new process of the sole node, which has looked at no key yet.
    let settings = KeyCacheSettings::default();
    let first = KeyCache::new(books.store.clone(), "a", settings).await.expect("entered");
    assert_eq!(outstanding(&books, "a", quota).await, 100);
    let second = Node::open(&books, "b").await;
    assert!(second.reserve(40).await.is_err());
    first.tick().await.expect("the store answers");
    assert_eq!(outstanding(&books, "a", quota).await, 0);
    reserve_in_the_end(&[second], 0, 100).await.settle(NanoUsd::ZERO, 0);
}

#[tokio::test]
async fn a_node_that_comes_back_among_others_holds_nothing() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 100).await;
    limit(&books, QuotaKind::Concurrency, 2).await;
    let dead = Node::open(&books, "a").await;
    let lost = [dead.reserve(30).await.expect("enough"), dead.reserve(30).await.expect("enough")];
    let other = Node::open(&books, "b").await;
    dead.tick().await;
    assert_eq!(other.reserve(1).await.expect_err("both places are taken").code(), Code::ConcurrencyExceeded);
    // Its journal said that they were refused: nothing to charge.
    let anew = Node::open(&books, "a").await;
    assert_eq!(outstanding(&books, "a", quota).await, 0);
    reserve_in_the_end(&[other, anew], 0, 100).await.settle(NanoUsd::ZERO, 0);
    drop(lost);
}

#[tokio::test]
async fn a_node_that_stops_leaves_everything_to_the_others() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 100).await;
    let nodes = [Node::open(&books, "a").await, Node::open(&books, "b").await];
    nodes[0].reserve(60).await.expect("there is enough").settle(NanoUsd::ZERO, 0);
    nodes[0].leases().stop().await.expect("stopped");
    assert_eq!(outstanding(&books, "a", quota).await, 0);
    nodes[1].reserve(1).await.expect("there is enough").settle(NanoUsd::ZERO, 0);
    assert_eq!(outstanding(&books, "b", quota).await, 100, "it is the only one now");
}

#[tokio::test]
async fn a_node_that_has_not_been_heard_of_does_not_share() {
    let books = Fixture::open().await;
    let quota = limit(&books, QuotaKind::Spend, 1_000_000).await;
    let nodes = [Node::open(&books, "a").await, Node::open(&books, "b").await];
    nodes[1].reserve(1).await.expect("there is enough").settle(NanoUsd::ZERO, 0);
    assert_eq!(outstanding(&books, "b", quota).await, 8, "a slice");
    let long_ago = sqlx::query("UPDATE nodes SET heartbeat_ms = heartbeat_ms - 30001 WHERE id = 'a'");
    long_ago.execute(&books.store.database.writer).await.expect("turned back");
    nodes[1].tell().await;
    assert_eq!(outstanding(&books, "b", quota).await, 1_000_000);
    nodes[0].tell().await;
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM nodes WHERE heartbeat_ms > $1")
        .bind(clock::now().0 - 30_000)
        .fetch_one(&books.store.database.reader)
        .await
        .expect("read");
    assert_eq!(count, 2, "it has been heard of again");
}

#[tokio::test]
async fn what_is_shipped_while_a_lease_is_decided_begins_it_anew() {
    let books = Fixture::open().await;
    limit(&books, QuotaKind::Spend, 100).await;
    let node = Node::open(&books, "a").await;
    node.reserve(30).await.expect("all of it is here").settle(NanoUsd(30), 0);
    let (done, _) = oneshot::channel();
    let spend = Arc::clone(&node.key.chain.spend[0]);
    let wants = vec![Want { spend, amount: NanoUsd(5), at: None }];
    let business = node.leases().shared.business_of(&[Waiting { wants, wanted: Vec::new(), done }]);
    let mut transaction = books.store.database.write().await.expect("begun");
    let (name, now) = ("a".to_owned(), clock::now());
    let mut rows = Books::open(&mut transaction, (&name, 1), &business, now).await.expect("read");
    rows.meet(&name, &business.asks[0].1, now).expect("a quota");
    sqlx::query("UPDATE leases SET shipped = shipped + 30").execute(&mut *transaction).await.expect("shipped");
    let written = rows.write(&mut transaction, &name, now).await;
    assert!(matches!(written, Err(StoreError::Moved)), "{written:?}");
}

/// Calls of all nodes at once, each tried again while what it lacks is only held by others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_as_many_calls_pass_on_three_nodes_as_are_paid_for() {
    let books = Arc::new(Fixture::open().await);
    limit(&books, QuotaKind::Spend, 100 * COST).await;
    limit(&books, QuotaKind::Requests, 1_000_000).await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::open(&books, name).await);
    }
    let passed = Arc::new(AtomicI64::new(0));
    let calls: Vec<_> = (0..300_u128)
        .map(|number| {
            let (node, books, passed) = (nodes[(number % 3) as usize].clone(), Arc::clone(&books), Arc::clone(&passed));
            let name = ["a", "b", "c"][(number % 3) as usize];
            tokio::spawn(async move {
                loop {
                    match node.reserve(COST).await {
                        Ok(reservation) => {
                            passed.fetch_add(1, AcqRel);
                            reservation.settle(NanoUsd(COST), 0);
                            let call = [books.call(number, 10, 5)];
                            books.store.ship(name, &call, Checkpoint::default()).await.expect("shipped");
                            return;
                        }
                        Err(Denied::CreditsReserved { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                        Err(Denied::SpendLimitReached { .. }) => return,
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    let done = async {
        for call in calls {
            call.await.expect("no panic")
        }
    };
    let ticking = async {
        loop {
            for node in &nodes {
                node.tick().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = done => {}
        () = ticking => {}
        () = tokio::time::sleep(3 * DEADLINE) => panic!("not done"),
    }
    assert_eq!(passed.load(Acquire), 100);
    books
        .store
        .remember_prices(&[(crate::store::fixture::price().id(), crate::store::fixture::price())])
        .await
        .expect("kept");
    assert_eq!(books.store.audit().await.expect("audited").findings, []);
}

#[tokio::test]
async fn what_was_charged_before_a_first_limit_is_covered_whatever_others_have_booked() {
    let books = Fixture::open().await;
    let unlimited = LimitChange::of(QuotaKind::Spend, Amount::None);
    books.store.change_limits(Owner::Key(books.key), &[unlimited], NOW).await.expect("removed");
    let nodes = [Node::open(&books, "a").await, Node::open(&books, "b").await];
    let ship = async |name: &str, numbers: std::ops::Range<u128>| {
        let calls: Vec<_> = numbers.map(|number| books.call(number, 10, 5)).collect();
        books.store.ship(name, &calls, Checkpoint::default()).await.expect("shipped");
    };
    for node in [0, 0, 0, 1, 1] {
        nodes[node].reserve(COST).await.expect("there is no limit").settle(NanoUsd(COST), 0);
    }
    ship("a", 0..1).await;
    ship("b", 3..5).await;
    let quota = limit(&books, QuotaKind::Spend, 6 * COST).await;
    for node in &nodes {
        node.tick().await;
    }
    let last = reserve_in_the_end(&nodes, 1, COST).await;
    for node in &nodes {
        assert!(node.reserve(1).await.is_err(), "five are spent and one is set aside of six");
    }
    last.settle(NanoUsd(COST), 0);
    ship("a", 1..3).await;
    ship("b", 5..6).await;
    for node in &nodes {
        node.tell().await;
        assert_eq!(node.key.chain.spend[0].spent(clock::now()), NanoUsd(6 * COST));
        assert_eq!(node.reserve(1).await.expect_err("all is spent").code(), Code::SpendLimitReached);
    }
    assert_eq!([outstanding(&books, "a", quota).await, outstanding(&books, "b", quota).await], [0, 0]);
}

#[tokio::test]
async fn calls_at_once_are_counted_over_all_nodes() {
    let books = Fixture::open().await;
    limit(&books, QuotaKind::Concurrency, 4).await;
    let nodes = [Node::open(&books, "a").await, Node::open(&books, "b").await];
    let mut running = Vec::new();
    while running.len() < 4 {
        running.push(reserve_in_the_end(&nodes, running.len() % 2, 1).await);
    }
    for node in &nodes {
        assert_eq!(node.reserve(1).await.expect_err("four of four run").code(), Code::ConcurrencyExceeded);
    }
    running.truncate(1);
    let more = [reserve_in_the_end(&nodes, 1, 1).await, reserve_in_the_end(&nodes, 1, 1).await];
    running.push(reserve_in_the_end(&nodes, 1, 1).await);
    assert!(nodes[0].reserve(1).await.is_err() && nodes[1].reserve(1).await.is_err());
    drop(more);
}
