//! What is on the books is there once, and every sum of it is its sum.

use super::*;
use crate::store::fixture::{Books, NOW, new_key, price};
use crate::store::limits::{Amount, LimitChange, Owner};
use crate::store::quotas::{QuotaKind, Thresholds};
use crate::store::usage::{Group, Grouping, Spender, UsageSum};
use filters::id::{KeyId, QuotaId};
use filters::lease::Increase;
use filters::money::NanoUsd;
use filters::ports::{Amendment, Share};
use filters::price::Price;
use filters::time::EpochMs;
use filters::usage::Kind;
use filters::window::Window;
use std::collections::HashMap;

#[tokio::test]
async fn shipping_twice_moves_nothing_twice() {
    let books = Books::open().await;
    let calls: Vec<_> = (0..150).map(|number| books.call(number, 10, 5)).collect();
    let charged: i64 = calls.iter().map(|(_, end)| end.charge.0).sum();
    let at = |offset| Checkpoint { segment: 3, offset };
    let ship = async |calls: &[_], offset| {
        let shipped = books.store.ship("node", calls, at(offset)).await;
        shipped.expect("shipped")
    };
    assert_eq!(ship(&calls[..100], 640).await, 100);
    assert_eq!(ship(&calls, 960).await, 50);
    assert_eq!(ship(&calls, 960).await, 0);
    let spent = NanoUsd(charged);
    assert_eq!(books.key().await.spent(), spent);
    assert_eq!(books.organisation().await.spent, spent);
    let checkpoint = books.store.checkpoint("node").await.expect("read");
    assert_eq!(checkpoint, Some(at(960)));
    let other = books.store.checkpoint("other").await.expect("read");
    assert_eq!(other, None);
}

#[tokio::test]
async fn a_call_that_stands_in_a_batch_twice_is_charged_by_its_first_end() {
    let books = Books::open().await;
    let first = books.call(1, 10, 5);
    let mut second = first.clone();
    second.1.charge = NanoUsd(999_999);
    let batch = [first.clone(), second.clone(), books.call(2, 1, 1)];
    let inserted = books.store.ship("node", &batch, Checkpoint::default()).await;
    assert_eq!(inserted.expect("shipped"), 2);
    books.store.ship("node", &[second], Checkpoint::default()).await.expect("shipped");
    assert_eq!(books.key().await.spent(), first.1.charge + batch[2].1.charge);
}

#[tokio::test]
async fn what_was_used_is_read_back_by_kind() {
    let books = Books::open().await;
    let mut call = books.call(1, 10, 5);
    call.1.usage.counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    books.store.ship("node", &[call.clone()], Checkpoint::default()).await.expect("shipped");
    let row = sqlx::query("SELECT * FROM calls").fetch_one(&books.store.database.reader).await.expect("a row");
    assert_eq!(read_usage(&row).expect("counts"), call.1.usage);
    let totals: (i64, i64) = (row.get("input_tokens"), row.get("output_tokens"));
    assert_eq!(totals, (21, 34));
    let units: (i64, i64, i64, i64) =
        (row.get("images"), row.get("audio_milliseconds"), row.get("characters"), row.get("search_units"));
    assert_eq!(units, (12, 13, 14, 15));
    assert_eq!(row.get::<String, _>("request_id"), call.0.call.to_string());
}

#[tokio::test]
async fn absurd_charges_do_not_stop_the_shipper() {
    let books = Books::open().await;
    for number in 0..3 {
        let mut call = books.call(number, 1, 1);
        call.1.charge = NanoUsd::MAX;
        books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped");
    }
    assert_eq!(books.key().await.spent(), NanoUsd::MAX);
}

#[tokio::test]
async fn usage_is_summed_by_day_by_model_and_by_key() {
    let books = Books::open().await;
    let mut calls: Vec<_> = (0..6).map(|number| books.call(number, 10, 1)).collect();
    for (intent, _) in &mut calls[3..] {
        intent.started = NOW.plus(86_400_000);
        intent.model = "other".into();
    }
    calls[0].1.usage = calls[0].1.usage.with(Kind::Images, 2).with(Kind::Characters, 40);
    calls[1].1.usage = calls[1].1.usage.with(Kind::Images, 1);
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    for spender in [Spender::Key(books.key), Spender::Org(books.org)] {
        let usage = async |since, grouping| {
            let sums = books.store.usage(spender, since, grouping).await;
            sums.expect("sums")
        };
        let days = usage(NOW, Grouping::Day).await;
        let groups: Vec<_> = days.iter().map(|sum| (sum.group.clone(), sum.calls)).collect();
        let day = NOW.day();
        assert_eq!(groups, [(Group::Day(day), 3), (Group::Day(day + 1), 3)]);
        assert_eq!((days[0].input_tokens, days[0].output_tokens), (30, 3));
        assert_eq!((days[0].units, days[1].units), ([0, 3, 0, 40, 0], [0; 5]));
        let charged: i64 = calls.iter().map(|(_, end)| end.charge.0).sum();
        assert_eq!(days[0].charge.0 * 2, charged);
        let late = usage(NOW.plus(3_600_000), Grouping::Model).await;
        assert_eq!(late.len(), 1);
        assert_eq!(late[0].group, Group::Model("other".to_owned()));
        let keys = usage(NOW, Grouping::Key).await;
        assert_eq!((&keys[0].group, keys[0].charge.0), (&Group::Key(books.key.to_string()), charged));
        assert_eq!(keys.len(), 1);
    }
}

#[tokio::test]
async fn prices_are_kept_once_by_content() {
    let books = Books::open().await;
    let known = [(price().id(), price())];
    for _ in 0..2 {
        books.store.remember_prices(&known).await.expect("kept");
    }
    let content: String = sqlx::query_scalar("SELECT content FROM prices")
        .fetch_one(&books.store.database.reader)
        .await
        .expect("one row");
    let read: Price = serde_json::from_str(&content).expect("a price");
    assert_eq!(read.id(), price().id());
}

const WAITING: LedgerSettings = LedgerSettings { merge_ms: u64::MAX, pending_sums_max: usize::MAX, names_max: 800 };

/// Books of four hundred keys, whose sums wait unless they are asked for.
async fn crowded(settings: LedgerSettings) -> (Books, Vec<KeyId>) {
    let mut books = Books::open().await;
    books.store = books.store.with_ledger_settings(settings);
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    let made = books.store.create_keys(&new_key(books.org), 1..=400, NOW).await.expect("made");
    (books, made.iter().map(|key| key.id).collect())
}

/// One call of each key, from a number on, a few hours apart.
async fn calls_of(books: &Books, keys: &[KeyId], first: u128) -> Vec<(Intent, Terminal)> {
    let quotas = "SELECT owner, id FROM quotas WHERE kind IN ('spend', 'balance')";
    let rows = sqlx::query(quotas).fetch_all(&books.store.database.reader).await.expect("quotas");
    let quotas: HashMap<String, i64> = rows.iter().map(|row| (row.get("owner"), row.get("id"))).collect();
    let share = |owner: String| Share { quota: QuotaId(quotas[&owner]), period: EpochMs(0) };
    let call = |(key, number): (&KeyId, u128)| {
        let (mut intent, terminal) = books.call(number, 10, 5);
        intent.key = *key;
        intent.started = NOW.plus((number % 50) as i64 * 3_600_000);
        intent.shares = vec![share(key.to_string()), share(books.org.to_string())];
        (intent, terminal)
    };
    keys.iter().zip(first..).map(call).collect()
}

async fn count(books: &Books, table: &str) -> i64 {
    let text = format!("SELECT COUNT(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(&books.store.database.reader).await.expect("a number")
}

/// What others see, whether or not sums wait.
async fn seen(books: &Books, key: KeyId) -> (NanoUsd, NanoUsd, Option<EpochMs>, Vec<UsageSum>) {
    let other = crate::store::fixture::open(books.dir.path()).await;
    let findings = other.audit().await.expect("audited").findings;
    assert_eq!(findings, []);
    let shown = other.key(key, NOW).await.expect("the key");
    let listed = other.keys(books.org, None, NOW).await.expect("keys");
    assert!(listed.iter().all(|listed| listed.id != key || *listed == shown));
    let org = other.organisation(books.org).await.expect("the organisation");
    assert_eq!(other.organisations(None, 9).await.expect("organisations"), std::slice::from_ref(&org));
    let mut usage = Vec::new();
    for (spender, grouping) in [(Spender::Org(books.org), Grouping::Day), (Spender::Key(key), Grouping::Model)] {
        for since in [NOW, NOW.plus(5 * 3_600_000)] {
            usage.extend(other.usage(spender, since, grouping).await.expect("sums"));
        }
    }
    (shown.spent(), org.spent, shown.last_used, usage)
}

#[tokio::test]
async fn sums_of_many_keys_wait_and_nobody_sees_a_difference() {
    let (books, keys) = crowded(WAITING).await;
    let calls = calls_of(&books, &keys, 0).await;
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    assert_eq!((count(&books, "spent").await, count(&books, "usage_hours").await), (0, 0));
    let waiting = seen(&books, keys[7]).await;
    let one = calls[7].1.charge;
    assert_eq!((waiting.0, waiting.1, waiting.2), (one, NanoUsd(one.0 * 400), Some(calls[7].0.started)));
    books.store.merge("node", Merge::Due).await.expect("nothing is due");
    assert_eq!(count(&books, "spent").await, 0);
    books.store.merge("node", Merge::All).await.expect("merged");
    assert_eq!((count(&books, "spent").await, count(&books, "usage_days").await), (401, 400));
    assert_eq!(seen(&books, keys[7]).await, waiting);
    books.store.merge("node", Merge::All).await.expect("nothing waits");
    assert_eq!(seen(&books, keys[7]).await, waiting);
    // Few sums go with their shipment again.
    let more = calls_of(&books, &keys[..20], 1_030).await;
    books.store.ship("node", &more, Checkpoint::default()).await.expect("shipped");
    assert_eq!(seen(&books, keys[7]).await.0, NanoUsd(one.0 * 2));
    assert_eq!(count(&books, "usage_days").await, 420);
}

#[tokio::test]
async fn sums_that_waited_when_the_process_died_are_counted_once() {
    let (books, keys) = crowded(WAITING).await;
    let calls = calls_of(&books, &keys, 0).await;
    books.store.ship("node", &calls[..300], Checkpoint::default()).await.expect("shipped");
    let died = crate::store::fixture::open(books.dir.path()).await.with_ledger_settings(WAITING);
    // The journal hands some of them over again.
    assert_eq!(died.ship("node", &calls[250..], Checkpoint::default()).await.expect("shipped"), 100);
    let waiting = seen(&books, keys[7]).await;
    assert_eq!(waiting.1, NanoUsd(calls[0].1.charge.0 * 400));
    let again = crate::store::fixture::open(books.dir.path()).await;
    again.merge("node", Merge::All).await.expect("merged");
    assert_eq!(count(&books, "spent").await, 401);
    assert_eq!(seen(&books, keys[7]).await, waiting);
}

#[tokio::test]
async fn a_shipment_that_failed_leaves_no_sum_behind() {
    let (books, keys) = crowded(WAITING).await;
    let calls = calls_of(&books, &keys, 0).await;
    books.store.ship("node", &calls[..300], Checkpoint::default()).await.expect("shipped");
    let rename = async |text: &'static str| {
        sqlx::query(text).execute(&books.store.database.writer).await.expect(text);
    };
    rename("ALTER TABLE checkpoints RENAME TO hidden").await;
    assert!(books.store.ship("node", &calls[300..], Checkpoint::default()).await.is_err());
    rename("ALTER TABLE hidden RENAME TO checkpoints").await;
    let waiting = seen(&books, keys[7]).await;
    assert_eq!(waiting.1, NanoUsd(calls[0].1.charge.0 * 300));
    books.store.merge("node", Merge::All).await.expect("merged");
    assert_eq!(seen(&books, keys[7]).await, waiting);
}

#[tokio::test]
async fn sums_wait_no_longer_than_their_bounds_say() {
    for settings in [LedgerSettings { merge_ms: 0, ..WAITING }, LedgerSettings { pending_sums_max: 300, ..WAITING }] {
        let (books, keys) = crowded(settings).await;
        let calls = calls_of(&books, &keys, 0).await;
        // Whether the first waits depends on its size, the second never does.
        books.store.ship("node", &calls[..200], Checkpoint::default()).await.expect("shipped");
        books.store.ship("node", &calls[200..], Checkpoint::default()).await.expect("shipped");
        assert_eq!(count(&books, "spent").await, 401, "{settings:?}");
    }
}

#[tokio::test]
async fn a_threshold_is_told_once_a_period() {
    let books = Books::open().await;
    let told = async || {
        let rows = sqlx::query("SELECT percent, org_id, limit_value FROM events ORDER BY id");
        let rows = rows.fetch_all(&books.store.database.reader).await.expect("events");
        assert!(rows.iter().all(|row| row.get::<String, _>("org_id") == books.org.to_string()));
        rows.iter().map(|row| (row.get("percent"), row.get("limit_value"))).collect::<Vec<(i64, i64)>>()
    };
    let (key, org) = (5_000_000_000, 10_000_000_000);
    for (number, (charge, expected)) in [
        (2_499_999_999, vec![]),
        (1, vec![(50, key)]),
        (1_400_000_000, vec![]),
        (1_200_000_000, vec![(50, org), (80, key), (100, key)]),
        (1, vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let before = told().await.len();
        let mut call = books.call(number as u128, 1, 1);
        call.1.charge = NanoUsd(charge);
        books.store.ship("node", &[call.clone()], Checkpoint::default()).await.expect("shipped");
        books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped again");
        assert_eq!(told().await[before..], expected, "{charge}");
    }
    let counts = books.store.ledger_counts().thresholds.each_ref().map(|count| count.load(Relaxed));
    assert_eq!(counts, [2, 1, 1, 0]);
}

#[tokio::test]
async fn books_of_an_earlier_release_have_their_sums() {
    let mut books = Books::in_a_file().await;
    let calls: Vec<_> = (0..5).map(|number| books.call(number, 10, 5)).collect();
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    let mut writer = books.store.database.writer.acquire().await.expect("a connection");
    let backwards = "DROP TABLE usage_hours; DROP TABLE usage_days; DROP TABLE last_used; DROP TABLE events; \
         DROP TABLE requests; DROP INDEX calls_in_order; ALTER TABLE calls DROP COLUMN seq; \
         ALTER TABLE calls DROP COLUMN shares; ALTER TABLE checkpoints DROP COLUMN merged_through; \
         CREATE INDEX calls_of_key ON calls (key_id, started_ms)";
    sqlx::raw_sql(backwards).execute(&mut *writer).await.expect("as before");
    for table in ["calls", "amendments"] {
        for column in ["images", "audio_milliseconds", "characters", "search_units"] {
            let drop = format!("ALTER TABLE {table} DROP COLUMN {column}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut *writer).await.expect("as before");
        }
    }
    for migration in [include_str!("../migrations/0004_rollups.sql"), include_str!("../migrations/0006_units.sql")] {
        sqlx::raw_sql(migration).execute(&mut *writer).await.expect("migrated");
    }
    drop(writer);
    books.store = Store::open(books.dir.path()).await.expect("a new process");
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    let later = books.call(9, 10, 5);
    books.store.ship("node", &[later], Checkpoint::default()).await.expect("shipped");
    let seen = seen(&books, books.key).await;
    assert_eq!(seen.0, NanoUsd(calls[0].1.charge.0 * 6));
    assert_eq!(seen.3[0].calls, 6);
}

#[tokio::test]
async fn an_owners_own_thresholds_and_increase_are_held_against() {
    let books = Books::open().await;
    let window: Window = "calendar day UTC".parse().expect("a window");
    let change = LimitChange {
        window,
        thresholds: Some(Thresholds(vec![25, 90])),
        increase: Some(Increase { amount: NanoUsd(600), until: EpochMs(i64::MAX) }),
        ..LimitChange::of(QuotaKind::Spend, Amount::Of(400))
    };
    let quota = limit(&books, change).await;
    let mut told = Vec::new();
    for (number, charge) in [(0, 249), (1, 1), (2, 649), (3, 1), (4, 100)] {
        charge_to(&books, number, Share { quota, period: NOW }, charge).await;
        told.push(events(&books, quota).await);
    }
    let (first, both) = (vec![(25, NOW.0, 250)], vec![(25, NOW.0, 250), (90, NOW.0, 900)]);
    assert_eq!(told, [vec![], first.clone(), first, both.clone(), both]);
    let counts = books.store.ledger_counts().thresholds.each_ref().map(|count| count.load(Relaxed));
    assert_eq!(counts, [0, 0, 0, 2]);
}

#[tokio::test]
async fn a_rolling_window_is_told_of_by_all_that_counts_in_it() {
    let (books, minute_ms) = (Books::open().await, 60_000);
    let change = LimitChange {
        window: "rolling hour".parse().expect("a window"),
        ..LimitChange::of(QuotaKind::Spend, Amount::Of(100))
    };
    let quota = limit(&books, change).await;
    let at = |minutes: i64| EpochMs(NOW.0 + minutes * minute_ms);
    // What was charged 61 minutes ago counts no more, and an event as old is told again.
    for (number, (minutes, charge)) in
        [(0, 49), (61, 49), (62, 1), (63, 1), (91, 29), (182, 49), (183, 51)].iter().enumerate()
    {
        charge_to(&books, number as u128, Share { quota, period: at(*minutes) }, *charge).await;
    }
    let told =
        [(50, at(62).0, 50), (80, at(91).0, 80), (50, at(183).0, 100), (80, at(183).0, 100), (100, at(183).0, 100)];
    assert_eq!(events(&books, quota).await, told);
}

#[tokio::test]
async fn periods_that_are_merged_together_are_told_of_once() {
    let books = Books::open().await;
    let change = LimitChange {
        window: "rolling hour".parse().expect("a window"),
        ..LimitChange::of(QuotaKind::Spend, Amount::Of(100))
    };
    let quota = limit(&books, change).await;
    let calls: Vec<_> = [(0, 60), (1, 10), (2, 10), (3, 10), (90, 60)]
        .into_iter()
        .zip(0..)
        .map(|((minutes, charge), number)| {
            let (mut intent, mut terminal) = books.call(number, 1, 1);
            intent.shares = vec![Share { quota, period: EpochMs(NOW.0 + minutes * 60_000) }];
            terminal.charge = NanoUsd(charge);
            (intent, terminal)
        })
        .collect();
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    let at = |minutes: i64| NOW.0 + minutes * 60_000;
    assert_eq!(events(&books, quota).await, [(50, at(0), 60), (80, at(2), 80), (50, at(90), 60)]);
}

/// Sets a limit on the key of the books.
async fn limit(books: &Books, change: LimitChange) -> QuotaId {
    let rows = books.store.change_limits(Owner::Key(books.key), &[change], NOW).await.expect("set");
    rows.last().expect("it was set").id
}

async fn charge_to(books: &Books, number: u128, share: Share, charge: i64) {
    let (mut intent, mut terminal) = books.call(number, 1, 1);
    (intent.shares, terminal.charge) = (vec![share], NanoUsd(charge));
    books.store.ship("node", &[(intent, terminal)], Checkpoint::default()).await.expect("shipped");
}

/// Percent, period and what was spent, of each event of a quota.
async fn events(books: &Books, quota: QuotaId) -> Vec<(i64, i64, i64)> {
    sqlx::query_as("SELECT percent, period_ms, spent FROM events WHERE quota = $1 ORDER BY id")
        .bind(quota.0)
        .fetch_all(&books.store.database.reader)
        .await
        .expect("events")
}

#[tokio::test]
async fn amendments_are_merged_at_once_with_what_waits() {
    let (books, keys) = crowded(WAITING).await;
    let calls = calls_of(&books, &keys, 0).await;
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    assert_eq!(count(&books, "spent").await, 0);
    let (intent, terminal) = &calls[7];
    let amendment = Amendment {
        call: intent.call,
        sequence: 1,
        key: intent.key,
        org: intent.org,
        usage: filters::usage::Usage::of(0, 7),
        charge: NanoUsd(4_200),
        shares: intent.shares.clone(),
        at: NOW,
    };
    let shipment = Shipment { amendments: vec![amendment], ..Shipment::default() };
    for _ in 0..2 {
        books.store.take("node", &shipment).await.expect("shipped");
        assert_eq!(count(&books, "spent").await, 401);
        // By the books alone, as after the death of this process.
        let seen = seen(&books, keys[7]).await;
        let charged = NanoUsd(terminal.charge.0 * 400);
        assert_eq!((seen.0, seen.1), (terminal.charge + NanoUsd(4_200), charged + NanoUsd(4_200)));
    }
}

#[tokio::test]
async fn what_waits_is_leased_until_it_is_spent() {
    let (books, keys) = crowded(WAITING).await;
    let calls = calls_of(&books, &keys, 0).await;
    let quota = calls[7].0.shares[0].quota;
    sqlx::query(
        "INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) VALUES ($1, 0, 'node', 9, 0, 0)",
    )
    .bind(quota.0)
    .execute(&books.store.database.writer)
    .await
    .expect("leased");
    let shipped = async || {
        let shipped =
            sqlx::query_scalar::<_, i64>("SELECT shipped FROM leases").fetch_one(&books.store.database.reader).await;
        shipped.expect("a lease")
    };
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    assert_eq!((shipped().await, count(&books, "spent").await), (0, 0));
    books.store.merge("node", Merge::All).await.expect("merged");
    assert_eq!((shipped().await, count(&books, "spent").await), (calls[7].1.charge.0, 401));
}

#[tokio::test]
async fn what_waits_is_shown_of_projects_and_windows() {
    let (books, keys) = crowded(WAITING).await;
    let project = books.store.create_project(books.org, "web", &[], NOW).await.expect("made").id;
    let window: Window = "rolling hour".parse().expect("a window");
    let change = LimitChange { window, ..LimitChange::of(QuotaKind::Spend, Amount::Of(100)) };
    let owner = Owner::Project(project);
    let quota = books.store.change_limits(owner, &[change], NOW).await.expect("set")[0].id;
    for key in &keys[..2] {
        let moved = sqlx::query("UPDATE keys SET project = $1 WHERE id = $2").bind(project.to_string());
        moved.bind(key.to_string()).execute(&books.store.database.writer).await.expect("moved");
    }
    let mut calls = calls_of(&books, &keys, 0).await;
    for ((intent, _), minutes) in calls[..2].iter_mut().zip([0, 5]) {
        intent.shares.push(Share { quota, period: EpochMs(NOW.0 + minutes * 60_000) });
    }
    let one = calls[0].1.charge;
    books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
    for is_merged in [false, true] {
        assert_eq!(count(&books, "spent").await > 0, is_merged);
        for (minutes, spent, spent_in_span) in [(0, 1, 1), (5, 2, 1), (61, 1, 0), (67, 0, 0)] {
            let now = EpochMs(NOW.0 + minutes * 60_000);
            let limits = books.store.limits(owner, now).await.expect("limits");
            assert_eq!((limits[0].spent, limits[0].spent_in_span), (spent * one.0, spent_in_span * one.0), "{minutes}");
            let shown = books.store.project(project, now).await.expect("the project");
            assert_eq!((shown.spent, &shown.limits), (NanoUsd(one.0 * 2), &limits));
            assert_eq!(books.store.projects(books.org, None, now).await.expect("projects"), [shown]);
        }
        books.store.merge("node", Merge::All).await.expect("merged");
    }
}
