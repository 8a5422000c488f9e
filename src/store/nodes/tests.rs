//! Nodes that come, stop and are forgotten.

use super::*;
use crate::store::audit::AuditReport;
use crate::store::fixture::{Books, price};
use crate::store::key_cache::{KeyCache, KeyCacheSettings};
use crate::store::leases::tests::{COST, Node, limit, outstanding, reserve_in_the_end};
use crate::store::quotas::QuotaKind;
use filters::denied::{Code, Denied};
use std::time::{Duration, Instant};

const NOW_GONE: Forgetting = Forgetting { releases: false, is_forced: true };
const RELEASED: Forgetting = Forgetting { releases: true, is_forced: true };

/// A strict limit that pays for ten calls.
async fn books() -> (Books, QuotaId) {
    let books = Books::open().await;
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    let quota = limit(&books, QuotaKind::Spend, 10 * COST).await;
    (books, quota)
}

async fn ship(books: &Books, node: &str, numbers: std::ops::Range<u128>) {
    let calls: Vec<_> = numbers.map(|number| books.call(number, 10, 5)).collect();
    books.store.ship(node, &calls, Checkpoint::default()).await.expect("shipped");
}

/// The books are true, and explain each balance.
async fn audited(books: &Books) -> AuditReport {
    let report = books.store.audit().await.expect("audited");
    assert_eq!(report.findings, []);
    for account in &report.accounts {
        let paid_in = account.opening + account.top_ups + account.refunds;
        assert_eq!(paid_in - account.charges - account.unaccounted, account.balance);
    }
    report
}

async fn unaccounted(books: &Books, quota: QuotaId) -> i64 {
    let rest = "SELECT CAST(COALESCE(SUM(amount - charged), 0) AS BIGINT) FROM unaccounted WHERE quota = $1";
    sqlx::query_scalar(rest).bind(quota.0).fetch_one(&books.store.database.reader).await.expect("read")
}

#[tokio::test]
async fn what_a_forgotten_node_held_counts_as_spent_until_its_calls_come() {
    let (books, quota) = books().await;
    let lost = Node::open(&books, "a").await;
    for number in 0..3 {
        lost.reserve(COST).await.expect("it holds all").settle(NanoUsd(COST), 0);
        ship(&books, "a", number..number + 1).await;
    }
    let running = lost.reserve(COST).await.expect("it holds all");
    let other = Node::open(&books, "b").await;
    let refused = books.store.forget_node("a", Forgetting::default()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "it was heard of just now");
    let record = books.store.forget_node("a", NOW_GONE).await.expect("forgotten");
    assert_eq!(record.state, "forgotten");
    assert_eq!((unaccounted(&books, quota).await, outstanding(&books, "a", quota).await), (7 * COST, 0));
    let report = audited(&books).await;
    assert_eq!(report.unaccounted.named[0].node, "a");
    assert_eq!(other.reserve(COST).await.expect_err("all counts as spent").code(), Code::SpendLimitReached);
    // It learns of it at its next word with the authority, and admits nothing more.
    let deadline = Instant::now() + Duration::from_secs(20);
    while lost.reserve(100 * COST).await.expect_err("it is more than all") != Denied::LimitsUnavailable {
        assert!(Instant::now() < deadline, "it is never told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lost.reserve(1).await.expect_err("it holds nothing any more"), Denied::LimitsUnavailable);
    running.settle(NanoUsd(COST), 0);
    ship(&books, "a", 3..5).await;
    assert_eq!(unaccounted(&books, quota).await, 5 * COST, "two of them have come");
    audited(&books).await;
    ship(&books, "a", 5..12).await;
    assert_eq!(unaccounted(&books, quota).await, 0, "more than it held have come");
    let spent = books.key().await.spent();
    assert_eq!(spent, NanoUsd(12 * COST));
    let again = books.store.forget_node("a", NOW_GONE).await;
    assert!(matches!(again, Err(StoreError::Refused(_))));
    let stranger = books.store.forget_node("c", NOW_GONE).await;
    assert!(matches!(stranger, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_a_released_node_held_is_spent_by_others_and_its_calls_are_listed() {
    let (books, quota) = books().await;
    let lost = Node::open(&books, "a").await;
    lost.reserve(COST).await.expect("it holds all").settle(NanoUsd(COST), 0);
    ship(&books, "a", 0..1).await;
    let other = Node::open(&books, "b").await;
    books.store.forget_node("a", RELEASED).await.expect("forgotten");
    assert_eq!((unaccounted(&books, quota).await, outstanding(&books, "a", quota).await), (0, 0));
    for number in 1..10 {
        reserve_in_the_end(std::slice::from_ref(&other), 0, COST).await.settle(NanoUsd(COST), 0);
        ship(&books, "b", number..number + 1).await;
    }
    assert_eq!(audited(&books).await.excesses.count, 0);
    // The operator was wrong: it had begun two calls more.
    ship(&books, "a", 10..12).await;
    let report = audited(&books).await;
    assert_eq!((report.excesses.count, report.excesses.sum), (1, i128::from(2 * COST)));
}

#[tokio::test]
async fn places_of_a_forgotten_node_are_others() {
    let (books, _) = books().await;
    let places = limit(&books, QuotaKind::Concurrency, 1).await;
    let lost = Node::open(&books, "a").await;
    let running = lost.reserve(1).await.expect("the place is free");
    let other = Node::open(&books, "b").await;
    assert_eq!(other.reserve(1).await.expect_err("it is taken").code(), Code::ConcurrencyExceeded);
    books.store.forget_node("a", RELEASED).await.expect("forgotten");
    assert_eq!(outstanding(&books, "a", places).await, 0);
    reserve_in_the_end(&[other], 0, 1).await.settle(NanoUsd::ZERO, 0);
    drop(running);
    audited(&books).await;
}

#[tokio::test]
async fn a_forgotten_node_does_not_come_back() {
    let (books, _) = books().await;
    Node::open(&books, "a").await;
    books.store.forget_node("a", NOW_GONE).await.expect("forgotten");
    assert!(books.store.is_forgotten("a").await.expect("read"));
    let back = KeyCache::new(books.store.clone(), "a", KeyCacheSettings::default()).await;
    assert!(matches!(back, Err(StoreError::Forgotten(_))));
}

#[tokio::test]
async fn nodes_are_listed_with_what_they_hold() {
    let (books, _) = books().await;
    let first = Node::open(&books, "a").await;
    first.reserve(COST).await.expect("it holds all").settle(NanoUsd(COST), 0);
    let checkpoint = Checkpoint { segment: 3, offset: 4_096 };
    books.store.ship("a", &[books.call(0, 10, 5)], checkpoint).await.expect("shipped");
    Node::open(&books, "b").await.leases().stop().await.expect("stopped");
    let records = books.store.nodes().await.expect("read");
    let facts: Vec<_> = records.iter().map(|node| (&*node.id, &*node.state, node.outstanding, node.shipped)).collect();
    let rest = NanoUsd(10_000_000_000 - COST);
    assert_eq!(facts, [("a", "live", rest, Some(checkpoint)), ("b", "stopped", NanoUsd::ZERO, None)]);
}
