//! The calls of a key: in order, in pages, once each, and never at the price of looking through everybody's.

use super::*;
use crate::store::fixture::{Books, NOW, new_key};
use crate::store::journal::Checkpoint;
use crate::store::requests;
use filters::denied::Code;
use filters::ports::{FreeRequest, Intent, Outcome, Terminal};
use filters::route::Route;
use std::collections::HashSet;
use tokio::sync::watch;

fn id(at: EpochMs, number: u64) -> CallId {
    let mut low = [0; 10];
    low[2..].copy_from_slice(&number.to_be_bytes());
    CallId(bits(at, low))
}

fn call(books: &Books, key: KeyId, minutes: i64) -> (Intent, Terminal) {
    let (mut intent, mut terminal) = books.call(0, 10, 5);
    intent.started = NOW.plus(minutes * 60_000);
    (intent.call, intent.key) = (id(intent.started, 1), key);
    (terminal.call, terminal.ended) = (intent.call, intent.started.plus(20));
    (intent, terminal)
}

async fn refused(books: &Books, minutes: &[i64]) {
    let (sender, writer) = requests::notes(books.store.clone(), 3_660);
    for minute in minutes {
        let at = NOW.plus(minute * 60_000);
        let request = FreeRequest {
            call: id(at, 2),
            key: books.key,
            org: books.org,
            route: Route::File,
            method: 1,
            model: None,
            status: 404,
            error: Some(Code::NotFound),
            limit_source: None,
            at,
            latency_ms: 7,
        };
        sender.try_send(request).expect("room");
    }
    let (_stop, stopped) = watch::channel(true);
    writer.run(stopped).await;
}

fn all(books: &Books) -> CallsWanted {
    CallsWanted {
        key: books.key,
        from: NOW.plus(-1_000),
        to: NOW.plus(400 * DAY_MS),
        status: None,
        model: None,
        error: None,
    }
}

/// Every page of a list, and how many there were.
async fn pages(books: &Books, wanted: &CallsWanted, limit: usize) -> (Vec<CallRecord>, usize) {
    let (mut calls, mut before, mut count) = (Vec::new(), None, 0);
    loop {
        let page = books.store.calls_of_key(wanted, before, limit).await.expect("a page");
        assert!(page.calls.len() <= limit);
        calls.extend(page.calls);
        count += 1;
        assert!(count < 500, "the list has an end");
        before = match page.next {
            Some(next) => Some(next),
            None => return (calls, count),
        };
    }
}

#[tokio::test]
async fn calls_are_listed_newest_first_and_once_each() {
    let books = Books::open().await;
    let other = books.store.create_key(&new_key(books.org), NOW).await.expect("a key").id;
    let minutes = [0, 1, 59, 60, 61, 1_500, 1_501, 43_200, 43_201, 300_000];
    let mut shipped: Vec<_> = minutes.iter().map(|minute| call(&books, books.key, *minute)).collect();
    shipped.extend((0..40).map(|number| {
        let (mut intent, mut terminal) = call(&books, other, number);
        (intent.call.0, terminal.call.0) = (intent.call.0 + 5, terminal.call.0 + 5);
        (intent, terminal)
    }));
    books.store.ship("node", &shipped, Checkpoint::default()).await.expect("shipped");
    refused(&books, &[2, 62, 1_502, 50_000]).await;
    let mut expected: Vec<i64> = minutes.into_iter().chain([2, 62, 1_502, 50_000]).collect();
    expected.sort_unstable_by_key(|minute| std::cmp::Reverse(*minute));
    for limit in [1, 2, 3, 25] {
        let (calls, _) = pages(&books, &all(&books), limit).await;
        let listed: Vec<i64> = calls.iter().map(|call| (call.started.0 - NOW.0) / 60_000).collect();
        assert_eq!(listed, expected, "{limit} a page");
    }
    let (calls, _) = pages(&books, &all(&books), 25).await;
    let paid = &calls[0];
    assert_eq!((paid.method.as_str(), paid.endpoint.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!((paid.status, &paid.error, paid.latency_ms), (Some(200), &None, Some(20)));
    let part = paid.paid.as_ref().expect("it was paid for");
    assert_eq!((part.tokens, part.provider.as_str()), ([10, 0, 5], "openai"));
    let free = &calls[1];
    assert_eq!((free.method.as_str(), free.endpoint.as_str()), ("DELETE", "/v1/files/{id}"));
    assert_eq!((free.status, free.error.as_deref(), free.latency_ms), (Some(404), Some("not_found"), Some(7)));
    assert_eq!(free.paid, None);
}

#[tokio::test]
async fn filters_leave_the_others_out() {
    let books = Books::open().await;
    let mut calls: Vec<_> = (0..6).map(|minute| call(&books, books.key, minute * 50)).collect();
    calls[1].0.model = "other".into();
    (calls[2].1.status, calls[2].1.error) = (502, Some(Code::UpstreamFailed));
    (calls[3].1.status, calls[3].1.outcome) = (0, Outcome::ClientGone);
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    refused(&books, &[400]).await;
    let listed = async |wanted: CallsWanted| {
        let (calls, _) = pages(&books, &wanted, 10).await;
        calls.iter().map(|call| (call.started.0 - NOW.0) / 3_000_000).collect::<Vec<_>>()
    };
    assert_eq!(listed(CallsWanted { status: Some((400, 499)), ..all(&books) }).await, [8]);
    assert_eq!(listed(CallsWanted { status: Some((500, 599)), ..all(&books) }).await, [2]);
    assert_eq!(listed(CallsWanted { model: Some("other".to_owned()), ..all(&books) }).await, [1]);
    for (error, minutes) in [("upstream_failed", 2), ("client_gone", 3), ("not_found", 8)] {
        assert_eq!(listed(CallsWanted { error: Some(error.to_owned()), ..all(&books) }).await, [minutes]);
    }
    let (from, to) = (NOW.plus(50 * 60_000), NOW.plus(100 * 60_000));
    assert_eq!(listed(CallsWanted { from, to, ..all(&books) }).await, [1]);
    assert_eq!(listed(CallsWanted { from: to, to: from, ..all(&books) }).await, [0; 0]);
    let (calls, _) = pages(&books, &CallsWanted { error: Some("client_gone".to_owned()), ..all(&books) }, 10).await;
    assert_eq!((calls[0].status, calls[0].error.as_deref()), (None, Some("client_gone")));
}

#[tokio::test]
async fn calls_that_wait_for_their_sums_are_listed_too() {
    let books = Books::open().await;
    books.store.ship("node", &[call(&books, books.key, 3)], Checkpoint::default()).await.expect("shipped");
    for table in ["usage_hours", "usage_days"] {
        let text = format!("DELETE FROM {table}");
        sqlx::query(AssertSqlSafe(text)).execute(&books.store.database.writer).await.expect("as if it waited");
    }
    assert_eq!(pages(&books, &all(&books), 10).await.0, [], "no sum says when it was");
    let waits = sqlx::query("UPDATE checkpoints SET merged_through = 0");
    waits.execute(&books.store.database.writer).await.expect("as if it waited");
    assert_eq!(pages(&books, &all(&books), 10).await.0.len(), 1);
}

#[tokio::test]
async fn a_page_looks_at_so_many_rows_and_the_next_goes_on() {
    let books = Books::open().await;
    let own = [call(&books, books.key, 0), call(&books, books.key, 30)];
    books.store.ship("node", &own, Checkpoint::default()).await.expect("shipped");
    // Others call 30 000 times between the two, in the same hour.
    let prefix = &id(NOW.plus(15 * 60_000), 0).to_string()[..14];
    let copied = format!(
        "INSERT INTO calls (request_id, key_id, org_id, route, model, provider, streamed, status, outcome, estimated, \
         input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, audio_input_tokens, \
         image_input_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, charge_nano, reserved_nano, \
         price_id, tier, attempts, started_ms, first_byte_ms, ended_ms, node) \
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 30000) \
         SELECT '{prefix}' || substr('0000000000000000' || CAST(n AS TEXT), length(CAST(n AS TEXT)) + 1), 'key_other', org_id, \
         route, model, provider, streamed, status, outcome, estimated, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, price_id, tier, \
         attempts, started_ms, first_byte_ms, ended_ms, node \
         FROM numbers CROSS JOIN (SELECT * FROM calls WHERE request_id = '{}') c",
        own[0].0.call
    );
    sqlx::query(AssertSqlSafe(copied)).execute(&books.store.database.writer).await.expect("copied");
    let first = books.store.calls_of_key(&all(&books), None, 25).await.expect("a page");
    assert_eq!(first.calls.len(), 1, "the first page ends among the others' calls");
    assert!(first.next.is_some());
    let (calls, count) = pages(&books, &all(&books), 25).await;
    let ids: HashSet<CallId> = calls.iter().map(|call| call.id).collect();
    assert_eq!((ids.len(), calls.len(), count), (2, 2, 2));
}
