//! What is left when rows go.

use super::*;
use crate::store::fixture::{Books, NOW, price};
use crate::store::journal::{Checkpoint, Shipment};
use filters::money::NanoUsd;
use filters::ports::{Amendment, FailedAttempt, Intent, Terminal};
use filters::usage::Usage;

const WEEK: RetentionSettings = RetentionSettings { calls_keep_days: 7, windows_keep_days: 62 };
const FOR_EVER: RetentionSettings = RetentionSettings { calls_keep_days: 0, windows_keep_days: 62 };

/// A call that began so many days after [`NOW`].
fn call(books: &Books, number: u128, days: i64) -> (Intent, Terminal) {
    let (mut intent, mut terminal) = books.call(number, 10, 5);
    let started = NOW.plus(days * DAY_MS);
    intent.call = CallId(bits(started, [u8::try_from(number).expect("few"); 10]));
    (intent.started, terminal.ended, terminal.call) = (started, started.plus(20), intent.call);
    (intent, terminal)
}

async fn books() -> Books {
    let books = Books::open().await;
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    books
}

async fn ship(books: &Books, calls: &[(Intent, Terminal)]) {
    books.store.ship("node", calls, Checkpoint::default()).await.expect("shipped");
}

async fn number(books: &Books, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&books.store.database.reader).await.expect(sql)
}

async fn fold(books: &Books, settings: &RetentionSettings, days: i64) -> u64 {
    let now = NOW.plus(days * DAY_MS);
    books.store.book_charges(now, now).await.expect("booked");
    books.store.let_old_rows_go(settings, now).await.expect("gone")
}

async fn is_true(books: &Books) {
    let report = books.store.audit().await.expect("audited");
    assert_eq!(report.findings, []);
}

#[tokio::test]
async fn old_calls_go_with_what_stands_beside_them_and_the_books_stay_true() {
    let books = books().await;
    let mut calls: Vec<_> = (1..=4).zip([0, 0, 20, 40]).map(|(number, days)| call(&books, number, days)).collect();
    calls[0].1.attempts = 2;
    let (id, shares) = (calls[0].0.call, calls[0].0.shares.clone());
    let attempt = FailedAttempt { call: id, number: 1, provider: "azure".into(), status: 503, error: None, at: NOW };
    let amendment = Amendment {
        call: id,
        sequence: 1,
        key: books.key,
        org: books.org,
        usage: Usage::of(0, 1),
        charge: NanoUsd(600),
        shares,
        at: NOW.plus(60_000),
    };
    let cost = calls[0].1.charge.0;
    let shipment = Shipment { calls, attempts: vec![attempt], amendments: vec![amendment], ..Shipment::default() };
    books.store.take("node", &shipment).await.expect("shipped");
    is_true(&books).await;
    let before = (books.key().await.spent(), books.organisation().await);

    assert_eq!(fold(&books, &FOR_EVER, 50).await, 0);
    assert_eq!(fold(&books, &WEEK, 8).await, 2);
    is_true(&books).await;
    assert_eq!(fold(&books, &WEEK, 45).await, 1);
    is_true(&books).await;
    for (statement, count) in [
        ("SELECT COUNT(*) FROM calls", 1),
        ("SELECT COUNT(*) FROM attempts", 0),
        ("SELECT COUNT(*) FROM amendments", 0),
        ("SELECT COUNT(*) FROM closings WHERE kind = 'calls'", 2),
        ("SELECT CAST(SUM(calls) AS BIGINT) FROM closings", 3),
        ("SELECT CAST(SUM(output_tokens) AS BIGINT) FROM closings", 16),
        ("SELECT CAST(SUM(charge_nano) AS BIGINT) FROM closings", 3 * cost + 600),
    ] {
        assert_eq!(number(&books, statement).await, count, "{statement}");
    }
    assert_eq!((books.key().await.spent(), books.organisation().await), before);
    // What was booked of the hours stays what it was.
    assert_eq!(books.store.book_charges(NOW, NOW.plus(60 * DAY_MS)).await.expect("booked"), 0);
}

#[tokio::test]
async fn a_call_that_comes_after_its_time_goes_with_the_next() {
    let books = books().await;
    ship(&books, &[call(&books, 1, 0), call(&books, 2, 30)]).await;
    assert_eq!(fold(&books, &WEEK, 20).await, 1);
    ship(&books, &[call(&books, 3, 0)]).await;
    let mut writer = books.store.database.writer.acquire().await.expect("a connection");
    let late = [NOW].into_iter();
    credits::mark_late(&mut writer, "node", late, NOW.plus(20 * DAY_MS)).await.expect("marked");
    drop(writer);
    is_true(&books).await;
    assert_eq!(fold(&books, &WEEK, 21).await, 1);
    is_true(&books).await;
    assert_eq!(number(&books, "SELECT CAST(SUM(calls) AS BIGINT) FROM closings").await, 2);
}

#[tokio::test]
async fn sums_that_were_changed_are_found() {
    use crate::store::audit::Invariant::*;
    for (statement, broken) in [
        ("UPDATE closings SET output_tokens = output_tokens + 1", &[RollupsAreTheirRows][..]),
        ("DELETE FROM closings", &[RollupsAreTheirRows]),
        ("UPDATE folded_shares SET charge_nano = charge_nano + 1", &[KeySpentIsCharged, OrganisationSpentIsCharged]),
        ("DELETE FROM folded_shares", &[KeySpentIsCharged, OrganisationSpentIsCharged]),
    ] {
        let books = books().await;
        ship(&books, &[call(&books, 1, 0), call(&books, 2, 20)]).await;
        fold(&books, &WEEK, 10).await;
        is_true(&books).await;
        sqlx::query(statement).execute(&books.store.database.writer).await.expect(statement);
        let findings = books.store.audit().await.expect("audited").findings;
        let mut found: Vec<_> = findings.iter().map(|finding| finding.invariant).collect();
        found.dedup();
        assert_eq!(found, broken, "{statement}: {findings:?}");
    }
}

#[tokio::test]
async fn an_organisation_may_keep_its_calls_longer_or_for_ever() {
    let books = books().await;
    ship(&books, &[call(&books, 1, 0)]).await;
    for (days, gone) in [(Some(0), 0), (Some(30), 0), (None, 1)] {
        books.store.set_retention(books.org, days, NOW).await.expect("set");
        assert_eq!(books.store.retention(books.org).await.expect("read").days, days);
        assert_eq!(fold(&books, &WEEK, 10).await, gone, "{days:?}");
    }
    for days in [1, 6, CALLS_KEPT_DAYS_MAX + 1] {
        let refused = books.store.set_retention(books.org, Some(days), NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{days}");
    }
    let stranger = books.store.set_retention(OrgId(9), None, NOW).await;
    assert!(matches!(stranger, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn what_past_windows_held_goes_and_what_counts_for_ever_stays() {
    let books = books().await;
    let quota = number(&books, "SELECT id FROM quotas WHERE kind = 'balance'").await;
    for statement in [
        "INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, 86400000, 7)",
        "INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) VALUES ($1, 86400000, 'node', 7, 0, 0)",
        "INSERT INTO events (org_id, quota, period_ms, kind, percent, limit_value, spent, at_ms) VALUES ('o', $1, 0, 't', 50, 2, 1, 5)",
        "INSERT INTO events (org_id, quota, period_ms, kind, percent, limit_value, spent, at_ms) VALUES ('o', $1, 5, 't', 50, 2, 1, 5)",
    ] {
        sqlx::query(statement).bind(quota).execute(&books.store.database.writer).await.expect(statement);
    }
    ship(&books, &[call(&books, 1, 0)]).await;
    let counts = async || {
        let mut counts = Vec::new();
        for statement in ["SELECT COUNT(*) FROM spent", "SELECT COUNT(*) FROM leases", "SELECT COUNT(*) FROM events"] {
            counts.push(number(&books, statement).await);
        }
        counts
    };
    assert_eq!(counts().await, [3, 1, 2]);
    fold(&books, &FOR_EVER, 0).await;
    assert_eq!(counts().await, [2, 0, 1]);
    is_true(&books).await;
}
