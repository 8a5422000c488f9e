//! What moves money and what does not.

use super::*;
use crate::store::fixture::{Books, NOW};
use crate::store::journal::{Checkpoint, Shipment};
use crate::store::limits::Owner;
use filters::lease::Increase;
use filters::ports::Amendment;
use filters::usage::Usage;

const HOUR_MS: i64 = super::HOUR_MS;
const TOP_UP: i64 = 10_000_000_000;

fn entry(books: &Books, kind: NewKind, nanos: i64) -> NewEntry {
    NewEntry { org: books.org, kind, amount: NanoUsd(nanos), reason: "a reason".to_owned() }
}

fn adjustment(books: &Books, nanos: i64, is_forced: bool) -> NewEntry {
    entry(books, NewKind::Adjustment { is_forced }, nanos)
}

async fn book(books: &Books, new: &NewEntry) -> Result<EntryRecord, StoreError> {
    books.store.book_entry(new, None, NOW).await
}

async fn is_true(books: &Books) {
    books
        .store
        .remember_prices(&[(crate::store::fixture::price().id(), crate::store::fixture::price())])
        .await
        .expect("kept");
    assert_eq!(books.store.audit().await.expect("audited").findings, []);
}

fn is_refused<T>(booked: &Result<T, StoreError>) -> bool {
    matches!(booked, Err(StoreError::Refused(_)))
}

#[tokio::test]
async fn what_is_paid_in_adjusted_and_refunded_is_what_may_be_spent() {
    let books = Books::open().await;
    book(&books, &entry(&books, NewKind::TopUp, 5)).await.expect("booked");
    book(&books, &adjustment(&books, -7, false)).await.expect("booked");
    book(&books, &entry(&books, NewKind::Refund { call: None }, 3)).await.expect("booked");
    assert_eq!(books.organisation().await.credits, NanoUsd(TOP_UP + 1));
    let listed = books.store.entries(books.org, None, 10).await.expect("listed");
    let told: Vec<_> = listed.iter().map(|entry| (entry.kind, entry.amount.0, &*entry.actor)).collect();
    let kinds = [EntryKind::Refund, EntryKind::Adjustment, EntryKind::TopUp, EntryKind::TopUp];
    assert_eq!(
        told,
        [(kinds[0], 3, "local"), (kinds[1], -7, "local"), (kinds[2], 5, "local"), (kinds[3], TOP_UP, "local")]
    );
    let rest = books.store.entries(books.org, Some(listed[1].id), 1).await.expect("listed");
    assert_eq!(rest, listed[2..3]);
    is_true(&books).await;
}

#[tokio::test]
async fn what_has_no_reason_or_no_amount_is_refused() {
    let books = Books::open().await;
    let without_reason = |kind| NewEntry { reason: " ".to_owned(), ..entry(&books, kind, 1) };
    for new in [
        without_reason(NewKind::Adjustment { is_forced: true }),
        without_reason(NewKind::Refund { call: None }),
        adjustment(&books, 0, true),
        entry(&books, NewKind::Refund { call: None }, 0),
        entry(&books, NewKind::Refund { call: None }, -1),
        entry(&books, NewKind::TopUp, -1),
        adjustment(&books, i64::MAX, true),
        adjustment(&books, -TOP_UP - 1, true),
    ] {
        assert!(is_refused(&book(&books, &new).await), "{new:?}");
    }
    assert_eq!(books.store.entries(books.org, None, 10).await.expect("listed").len(), 1);
    let stranger = NewEntry { org: OrgId(9), ..entry(&books, NewKind::TopUp, 1) };
    assert!(matches!(book(&books, &stranger).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_is_spent_is_taken_only_by_force() {
    let books = Books::open().await;
    let call = books.call(1, 10, 5);
    let charge = call.1.charge.0;
    books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped");
    assert!(is_refused(&book(&books, &adjustment(&books, charge - TOP_UP - 1, false)).await) || charge == 0);
    assert!(is_refused(&book(&books, &adjustment(&books, 1 - TOP_UP, false)).await));
    book(&books, &adjustment(&books, charge - TOP_UP, false)).await.expect("all that is left");
    assert_eq!(books.organisation().await.balance(), NanoUsd::ZERO);
    book(&books, &adjustment(&books, -charge, true)).await.expect("forced");
    assert_eq!(books.organisation().await.balance(), NanoUsd(-charge));
    is_true(&books).await;
}

#[tokio::test]
async fn no_more_is_given_back_of_a_call_than_it_was_charged() {
    let books = Books::open().await;
    let call = books.call(1, 10, 5);
    let (id, charge) = (call.0.call, call.1.charge.0);
    books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped");
    let refund = |nanos| entry(&books, NewKind::Refund { call: Some(id) }, nanos);
    assert!(is_refused(&book(&books, &refund(charge + 1)).await));
    let made = book(&books, &refund(charge - 1)).await.expect("booked");
    assert_eq!(made.call, Some(id.to_string()));
    assert!(is_refused(&book(&books, &refund(2)).await));
    book(&books, &refund(1)).await.expect("booked");
    let unknown = entry(&books, NewKind::Refund { call: Some(CallId(99)) }, 1);
    assert!(matches!(book(&books, &unknown).await, Err(StoreError::NotFound(_))));
    let other = books.store.create_organisation("Other", NOW).await.expect("made").id;
    let not_its_own = NewEntry { org: other, ..refund(1) };
    assert!(matches!(book(&books, &not_its_own).await, Err(StoreError::NotFound(_))));
    is_true(&books).await;
}

#[tokio::test]
async fn a_request_that_comes_again_is_booked_once() {
    let books = Books::open().await;
    let once = Once::new("operator", "POST topups", "a", b"5").expect("a name");
    let new = entry(&books, NewKind::TopUp, 5);
    let first = books.store.book_entry(&new, Some(&once), NOW).await.expect("booked");
    let again = books.store.book_entry(&new, Some(&once), NOW.plus(1_000)).await.expect("booked");
    assert_eq!(first, again);
    assert_eq!(books.organisation().await.credits, NanoUsd(TOP_UP + 5));
    let other = Once::new("operator", "POST topups", "a", b"6").expect("a name");
    assert!(matches!(books.store.book_entry(&new, Some(&other), NOW).await, Err(StoreError::NameReused)));
}

/// A balance that was made strict, or raised for a while, stays so when credit is added.
#[tokio::test]
async fn a_top_up_keeps_what_else_was_said_of_the_balance() {
    let books = Books::open().await;
    let increase = Increase { amount: NanoUsd(3), until: NOW.plus(1_000) };
    let thresholds: quotas::Thresholds = "90".parse().expect("thresholds");
    let change = LimitChange {
        amount: None,
        is_strict: Some(true),
        increase: Some(increase),
        thresholds: Some(thresholds.clone()),
        ..LimitChange::of(QuotaKind::Balance, Amount::None)
    };
    let owner = Owner::Organisation(books.org);
    books.store.change_limits(owner, &[change], NOW).await.expect("changed");
    books.store.top_up(books.org, NanoUsd(5), "", NOW).await.expect("topped up");
    let balance = books.store.limits(owner, NOW).await.expect("read").remove(0);
    assert_eq!((balance.limit, balance.is_strict, balance.increase), (TOP_UP + 5, true, Some(increase)));
    assert_eq!(balance.thresholds, thresholds);
}

#[tokio::test]
async fn entries_and_their_legs_can_be_neither_changed_nor_deleted() {
    let books = Books::open().await;
    for statement in [
        "UPDATE entries SET reason = 'other'",
        "DELETE FROM entries",
        "UPDATE legs SET amount_nano = 0",
        "DELETE FROM legs",
    ] {
        let done = sqlx::query(statement).execute(&books.store.database.writer).await;
        assert!(done.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn what_the_release_before_books_is_taken_over() {
    let books = Books::open().await;
    for (statement, amount) in [
        ("INSERT INTO credits (org, amount_nano, kind, reason, created_ms) VALUES ($1, $2, 'topup', 'old', 7)", 4i64),
        ("UPDATE quotas SET limit_value = limit_value + $2 WHERE owner = $1 AND kind = 'balance'", 4),
    ] {
        let query = sqlx::query(statement).bind(books.org.to_string()).bind(amount);
        query.execute(&books.store.database.writer).await.expect(statement);
    }
    is_true(&books).await;
    for _ in 0..2 {
        books.store.take_over_credits().await.expect("taken over");
        let listed = books.store.entries(books.org, None, 10).await.expect("listed");
        assert_eq!(listed.len(), 2);
        assert_eq!((listed[0].amount, listed[0].at, &*listed[0].actor), (NanoUsd(4), EpochMs(7), ""));
    }
    is_true(&books).await;
}

fn charges(entries: &[EntryRecord]) -> Vec<(EpochMs, EpochMs, i64)> {
    let charges = entries.iter().rev().filter(|entry| entry.kind == EntryKind::Charges);
    charges.map(|entry| (entry.hour.expect("an hour"), entry.at, entry.amount.0)).collect()
}

#[tokio::test]
async fn an_hour_is_booked_once_and_what_comes_late_is_one_entry_more() {
    let books = Books::open().await;
    let mut calls: Vec<_> = (0..4).map(|number| books.call(number, 10, 5)).collect();
    calls[1].0.started = NOW.plus(HOUR_MS);
    let cost = calls[0].1.charge.0;
    books.store.ship("node", &calls[..2], Checkpoint::default()).await.expect("shipped");
    let entries = async || charges(&books.store.entries(books.org, None, 10).await.expect("listed"));
    let soon = NOW.plus(HOUR_MS + 14 * 60_000);
    assert_eq!(books.store.book_charges(soon, soon).await.expect("booked"), 0, "it is not over for long enough");
    let later = NOW.plus(HOUR_MS + 15 * 60_000);
    for _ in 0..2 {
        books.store.book_charges(later, later).await.expect("booked");
        assert_eq!(entries().await, [(NOW, NOW.plus(HOUR_MS - 1), -cost)]);
        is_true(&books).await;
    }
    // What came to the hour since is found by its mark.
    books.store.ship("node", &calls[2..3], Checkpoint::default()).await.expect("shipped");
    let mut writer = books.store.database.writer.acquire().await.expect("a connection");
    mark_late(&mut writer, "node", [NOW, NOW.plus(HOUR_MS)].into_iter(), later).await.expect("marked");
    drop(writer);
    is_true(&books).await;
    books.store.book_charges(later, later.plus(1)).await.expect("booked");
    assert_eq!(entries().await[1..], [(NOW, later.plus(1), -cost)]);
    is_true(&books).await;
    // Or because it is looked at again.
    books.store.ship("node", &calls[3..], Checkpoint::default()).await.expect("shipped");
    books.store.book_charges(NOW, later.plus(2)).await.expect("booked");
    assert_eq!(entries().await[2..], [(NOW, later.plus(2), -cost)]);
    is_true(&books).await;
}

#[tokio::test]
async fn usage_that_comes_after_a_call_is_booked_in_its_own_hour() {
    let books = Books::open().await;
    let call = books.call(1, 10, 5);
    let amendment = Amendment {
        call: call.0.call,
        sequence: 1,
        key: books.key,
        org: books.org,
        usage: Usage::of(0, 1),
        charge: NanoUsd(600),
        shares: call.0.shares.clone(),
        at: NOW.plus(HOUR_MS),
    };
    let charge = call.1.charge.0;
    let shipment = Shipment { calls: vec![call], amendments: vec![amendment], ..Shipment::default() };
    books.store.take("node", &shipment).await.expect("shipped");
    let now = NOW.plus(3 * HOUR_MS);
    assert_eq!(books.store.book_charges(now, now).await.expect("booked"), 2);
    let booked = charges(&books.store.entries(books.org, None, 10).await.expect("listed"));
    assert_eq!(
        booked.iter().map(|(hour, _, amount)| (hour.0 - NOW.0, *amount)).collect::<Vec<_>>(),
        [(0, -charge), (HOUR_MS, -600)]
    );
    is_true(&books).await;
}
