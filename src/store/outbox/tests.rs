//! Events are told once, to those who want them, whoever else tries at the same time and whatever fails in between.

use super::*;
use crate::store::deliveries::{Claimed, LastTry, Verdict};
use crate::store::fixture::{Books, NOW, new_key};
use crate::store::journal::Checkpoint;
use crate::store::keys::NewKey;
use crate::store::notices::{CreditNotice, NoticeSettings};
use crate::store::webhooks::{NewWebhook, SigningSecret, WebhookChange, WebhookRecord};
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;
const LATEST: EventPage = EventPage { kind: None, before: None, limit: 100 };

fn new_webhook(org: Option<OrgId>, kinds: &[&str]) -> NewWebhook {
    let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    NewWebhook {
        org,
        url: "https://hooks.example.com/".to_owned(),
        description: String::new(),
        kinds: KindFilter::of(&kinds).expect("kinds"),
    }
}

async fn webhook(books: &Books, kinds: &[&str]) -> (WebhookRecord, SigningSecret) {
    books.store.create_webhook(&new_webhook(Some(books.org), kinds), 20, NOW).await.expect("a webhook")
}

async fn told(books: &Books) -> Vec<(String, Value)> {
    let events = books.store.events(books.org, LATEST).await.expect("events");
    let read = |event: EventRecord| (event.kind, serde_json::from_str(&event.data).expect("JSON"));
    events.into_iter().rev().map(read).collect()
}

async fn claim(books: &Books, webhook: WebhookId, now: EpochMs) -> Vec<Claimed> {
    books.store.claim_deliveries(webhook, 10, now.plus(60_000), now).await.expect("claimed")
}

fn tried(at: EpochMs, status: Option<u16>) -> LastTry {
    LastTry { at, took: Duration::from_millis(7), status, error: None }
}

fn notices() -> NoticeSettings {
    NoticeSettings { key_expiry_days: vec![14, 7, 1], credit_low: None, keep_days: 30 }
}

#[tokio::test]
async fn thresholds_are_told_in_the_transaction_that_reaches_them() {
    let books = Books::open().await;
    let (wanting, _) = webhook(&books, &["limit.threshold"]).await;
    let (other, _) = webhook(&books, &["credit.low"]).await;
    let of_operator = books.store.create_webhook(&new_webhook(None, &[]), 20, NOW).await.expect("made").0;
    // 20 million tokens in: $3 of the key's $5.
    let call = books.call(1, 20_000_000, 0);
    let at = Checkpoint::default();
    for _ in 0..2 {
        books.store.ship("node", std::slice::from_ref(&call), at).await.expect("shipped");
    }
    let events = told(&books).await;
    let [(kind, data)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(kind, "limit.threshold");
    let expected = json!({
        "owner": books.key.to_string(), "limit": "spend", "percent": 50, "period_start": null,
        "limit_usd": "5", "spent_usd": "3",
    });
    assert_eq!(*data, expected);
    for (webhook, deliveries) in [(&wanting, 1), (&other, 0), (&of_operator, 1)] {
        assert_eq!(books.store.deliveries(webhook.id, None, 9).await.expect("read").len(), deliveries);
    }
}

#[tokio::test]
async fn a_call_beyond_its_reservation_is_told_once() {
    let books = Books::open().await;
    let (intent, mut terminal) = books.call(1, 1_000_000, 0);
    terminal.reserved = NanoUsd(terminal.charge.0 - 1);
    let (within, beyond) = (books.call(2, 1_000_000, 0), (intent, terminal));
    let calls = [within, beyond.clone(), beyond];
    for _ in 0..2 {
        books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    }
    let events = told(&books).await;
    let [(kind, data)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(kind, "bound.exceeded");
    assert_eq!(data["request_id"], CallId(2).to_string());
    assert_eq!((&data["reserved_usd"], &data["charge_usd"]), (&json!("0.149999999"), &json!("0.15")));
}

#[tokio::test]
async fn a_claim_is_one_nodes_until_it_runs_out() {
    let books = Books::open().await;
    let (made, _) = webhook(&books, &[]).await;
    let delivery = books.store.test_webhook(Some(books.org), made.id, NOW).await.expect("begun");
    assert_eq!(books.store.due_webhooks(9, NOW).await.expect("read"), [(made.id, made.org)]);
    let (first, second) = tokio::join!(claim(&books, made.id, NOW), claim(&books, made.id, NOW));
    let claimed: Vec<Claimed> = first.into_iter().chain(second).collect();
    let [first] = claimed.as_slice() else { panic!("{claimed:?}") };
    assert_eq!((first.id, first.kind.as_str(), first.attempts), (delivery, "webhook.test", 0));
    assert!(books.store.due_webhooks(9, NOW).await.expect("read").is_empty());
    // The node that had it died: another takes it up, under the same event's name.
    let later = NOW.plus(60_000);
    let again = claim(&books, made.id, later).await.pop().expect("due again");
    assert_eq!(again.event, first.event);
    // What the first says after all is too late.
    books.store.settle_delivery(first, &tried(later, Some(200)), Verdict::Delivered).await.expect("written");
    assert_eq!(books.store.delivery(made.id, delivery).await.expect("read").status, "waiting");
    let next = later.plus(5_000);
    books.store.settle_delivery(&again, &tried(later, Some(500)), Verdict::Again(next)).await.expect("written");
    let record = books.store.delivery(made.id, delivery).await.expect("read");
    assert_eq!((record.attempts, record.next, record.last), (1, Some(next), Some(tried(later, Some(500)))));
    assert!(claim(&books, made.id, next.plus(-1)).await.is_empty());
    let last = claim(&books, made.id, next).await.pop().expect("due");
    assert_eq!(last.attempts, 1);
    books.store.settle_delivery(&last, &tried(next, Some(200)), Verdict::Delivered).await.expect("written");
    assert!(claim(&books, made.id, next.plus(DAY_MS)).await.is_empty());
    assert_eq!(books.store.delivery_backlog().await.expect("read").waiting, 0);
    let redelivered = books.store.redeliver(Some(books.org), (made.id, delivery), next.plus(1)).await.expect("begun");
    assert_eq!((redelivered.status.as_str(), redelivered.attempts), ("waiting", 0));
    assert_eq!(claim(&books, made.id, next.plus(1)).await[0].event, first.event);
}

#[tokio::test]
async fn secrets_overlap_and_are_stored_nowhere() {
    let books = Books::open().await;
    let (made, first) = webhook(&books, &[]).await;
    let secrets = async |now: EpochMs| {
        books.store.test_webhook(Some(books.org), made.id, now).await.expect("begun");
        claim(&books, made.id, now).await.pop().expect("due").secrets
    };
    assert_eq!(secrets(NOW).await, std::slice::from_ref(&first));
    let rotated = books.store.rotate_webhook_secret(Some(books.org), made.id, 2_000, NOW).await.expect("rotated");
    assert_ne!(rotated.1, first);
    assert_eq!(secrets(NOW.plus(1_999)).await, [rotated.1.clone(), first.clone()]);
    assert_eq!(secrets(NOW.plus(2_000)).await, [rotated.1]);
    assert!(first.reveal().starts_with("whsec_") && !format!("{first:?}").contains(&first.reveal()));
    let stored: Vec<String> = sqlx::query_scalar("SELECT secret || ' ' || COALESCE(previous_secret, '') FROM webhooks")
        .fetch_all(&books.store.database.reader)
        .await
        .expect("rows");
    let bytes = crate::store::pepper::encode_hex(first.key());
    assert!(stored.iter().all(|row| !row.contains(&bytes) && !row.contains(&first.reveal()[6..])), "{stored:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_asked_no_more_until_it_is_enabled() {
    let books = Books::open().await;
    let (made, _) = webhook(&books, &[]).await;
    let org = Some(books.org);
    for moment in [0, 1_000] {
        books.store.test_webhook(org, made.id, NOW.plus(moment)).await.expect("begun");
    }
    let claimed = claim(&books, made.id, NOW).await.pop().expect("due");
    books.store.settle_delivery(&claimed, &tried(NOW, Some(410)), Verdict::Gone).await.expect("written");
    let record = books.store.webhook(org, made.id).await.expect("read");
    assert_eq!((record.disabled, record.disabled_reason.is_some()), (Some(NOW), true));
    let statuses = books.store.deliveries(made.id, None, 9).await.expect("read");
    assert!(statuses.iter().all(|delivery| delivery.status == "failed"), "{statuses:?}");
    assert!(matches!(books.store.test_webhook(org, made.id, NOW).await, Err(StoreError::Refused(_))));
    let redelivered = books.store.redeliver(org, (made.id, claimed.id), NOW).await;
    assert!(matches!(redelivered, Err(StoreError::Refused(_))));
    let enable = WebhookChange { is_enabled: Some(true), ..WebhookChange::default() };
    let record = books.store.change_webhook(org, made.id, &enable, NOW).await.expect("enabled");
    assert_eq!((record.disabled, record.disabled_reason), (None, None));
    books.store.test_webhook(org, made.id, NOW.plus(2_000)).await.expect("begun");
}

#[tokio::test]
async fn webhooks_are_their_owners_and_not_many() {
    let books = Books::open().await;
    let (made, _) = webhook(&books, &[]).await;
    let second = books.store.create_webhook(&new_webhook(Some(books.org), &[]), 1, NOW).await;
    assert!(matches!(second, Err(StoreError::Refused(_))));
    let other = books.store.create_organisation("Other", NOW).await.expect("made").id;
    for stranger in [Some(other), None] {
        let nothing = WebhookChange::default();
        assert!(matches!(books.store.webhook(stranger, made.id).await, Err(StoreError::NotFound(_))));
        let changed = books.store.change_webhook(stranger, made.id, &nothing, NOW).await;
        assert!(matches!(changed, Err(StoreError::NotFound(_))));
        assert!(matches!(books.store.delete_webhook(stranger, made.id, NOW).await, Err(StoreError::NotFound(_))));
        let rotated = books.store.rotate_webhook_secret(stranger, made.id, 0, NOW).await;
        assert!(matches!(rotated, Err(StoreError::NotFound(_))));
        assert!(books.store.webhooks(stranger, None, 9).await.expect("read").is_empty());
    }
    books.store.delete_webhook(Some(books.org), made.id, NOW).await.expect("deleted");
    assert!(books.store.webhooks(Some(books.org), None, 9).await.expect("read").is_empty());
}

#[tokio::test]
async fn keys_that_end_are_told_of_14_7_and_1_days_before() {
    let books = Books::open().await;
    let expires = NOW.plus(30 * DAY_MS);
    let new = NewKey { expires: Some(expires), ..new_key(books.org) };
    let key = books.store.create_key(&new, NOW).await.expect("made").id;
    // Made three days before its end: only the last notice is ahead of it.
    let short = NewKey { expires: Some(expires), ..new_key(books.org) };
    let short = books.store.create_key(&short, expires.plus(-3 * DAY_MS)).await.expect("made").id;
    let off = books.store.create_key(&new, NOW).await.expect("made").id;
    books.store.enable_key(off, false, NOW).await.expect("disabled");
    let mut days = Vec::new();
    for (before_ms, expected) in [
        (14 * DAY_MS + 1, vec![]),
        (14 * DAY_MS, vec![(key, 14)]),
        (13 * DAY_MS, vec![(key, 14)]),
        (7 * DAY_MS, vec![(key, 14), (key, 7)]),
        (2 * DAY_MS, vec![(key, 14), (key, 7)]),
        (DAY_MS, vec![(key, 14), (key, 7), (key, 1), (short, 1)]),
        (-1, vec![(key, 14), (key, 7), (key, 1), (short, 1)]),
    ] {
        let now = expires.plus(-before_ms);
        let (settings, other) = (notices(), notices());
        let (first, second) =
            tokio::join!(books.store.give_notices(&settings, now), books.store.give_notices(&other, now));
        first.and(second).expect("given");
        let read = |(_, data): (String, Value)| (data["key"].to_string(), data["days"].as_i64());
        days = told(&books).await.into_iter().map(read).collect();
        let mut expected: Vec<_> = expected.into_iter().map(|(key, days)| (format!("\"{key}\""), Some(days))).collect();
        days.sort();
        expected.sort();
        assert_eq!(days, expected, "{before_ms}");
    }
    assert_eq!(days.len(), 4);
}

#[tokio::test]
async fn who_was_not_looked_after_for_long_is_told_the_latest_only() {
    let books = Books::open().await;
    let new = NewKey { expires: Some(NOW.plus(30 * DAY_MS)), ..new_key(books.org) };
    books.store.create_key(&new, NOW).await.expect("made");
    books.store.give_notices(&notices(), NOW.plus(24 * DAY_MS)).await.expect("given");
    let days: Vec<Value> = told(&books).await.into_iter().map(|(_, data)| data["days"].clone()).collect();
    assert_eq!(days, [json!(7)]);
}

#[tokio::test]
async fn low_credit_is_told_once_until_it_has_risen() {
    let books = Books::open().await;
    let settings = NoticeSettings { credit_low: Some(NanoUsd(2_000_000_000)), ..notices() };
    let give = async |minute: i64| {
        let now = NOW.plus(minute * 60_000);
        let (first, second) =
            tokio::join!(books.store.give_notices(&settings, now), books.store.give_notices(&settings, now));
        first.and(second).expect("given");
        told(&books).await.into_iter().filter(|(kind, _)| kind == "credit.low").collect::<Vec<_>>()
    };
    assert!(give(0).await.is_empty(), "$10 are left");
    // $9 of $10.
    books.store.ship("node", &[books.call(1, 60_000_000, 0)], Checkpoint::default()).await.expect("shipped");
    let expected = ("credit.low".to_owned(), json!({ "balance_usd": "1", "below_usd": "2" }));
    assert_eq!(give(1).await, std::slice::from_ref(&expected));
    assert_eq!(give(2).await, std::slice::from_ref(&expected));
    books.store.top_up(books.org, NanoUsd(5_000_000_000), "", NOW).await.expect("topped up");
    assert_eq!(give(3).await.len(), 1);
    let own = CreditNotice { low: Some(NanoUsd(7_000_000_000)) };
    books.store.change_credit_notice(books.org, own, NOW).await.expect("changed");
    assert_eq!(books.store.credit_notice(books.org).await.expect("read"), own);
    let after = give(4).await;
    assert_eq!(after[1].1, json!({ "balance_usd": "6", "below_usd": "7" }));
}

#[tokio::test]
async fn a_duty_is_one_nodes_at_a_time() {
    let books = Books::open().await;
    let take = async |at: i64| books.store.takes_duty("notices", 60_000, NOW.plus(at)).await.expect("asked");
    let (first, second) = tokio::join!(take(0), take(0));
    assert!(first ^ second);
    assert!(!take(59_999).await);
    assert!(take(60_000).await);
}

#[tokio::test]
async fn old_events_go() {
    let books = Books::open().await;
    let (made, _) = webhook(&books, &[]).await;
    books.store.test_webhook(Some(books.org), made.id, NOW).await.expect("begun");
    books.store.give_notices(&notices(), NOW.plus(30 * DAY_MS)).await.expect("given");
    assert_eq!(told(&books).await.len(), 1);
    books.store.give_notices(&notices(), NOW.plus(30 * DAY_MS + 1)).await.expect("given");
    assert!(told(&books).await.is_empty());
    assert!(books.store.deliveries(made.id, None, 9).await.expect("read").is_empty());
}
