//! Each invariant, on books that hold and on books in which somebody has changed a row.

use super::*;
use crate::store::fixture::{Books, NOW, price};
use crate::store::journal::{Checkpoint, Shipment};
use crate::store::limits::{Amount, LimitChange, Owner};
use crate::store::quotas::QuotaKind;
use filters::lease::Increase;
use filters::ports::{Amendment, FailedAttempt, Intent, Outcome, Share, Terminal};
use filters::price::Tier;
use filters::usage::Usage;

/// What a call of the tests costs: 10 tokens in at $0.15 a million, 5 out at $0.60.
const COST: i64 = 4_500;

/// Begins so long after [`NOW`], with its first byte after 10 ms and its end after 20.
fn at(call: &mut (Intent, Terminal), after_ms: i64) {
    call.0.started = NOW.plus(after_ms);
    call.1.ended = NOW.plus(after_ms + 20);
}

async fn open() -> Books {
    let books = Books::open().await;
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    books
}

async fn ship(books: &Books, calls: &[(Intent, Terminal)]) {
    books.store.ship("node", calls, Checkpoint::default()).await.expect("shipped");
}

/// Books with three calls on them, one of them recovered, one after an attempt that failed and with an amendment; they count in
/// a calendar month too, and the node has a lease of that.
async fn books() -> Books {
    let books = open().await;
    let quota = limit(&books, "calendar month UTC", Amount::Of(1_000_000)).await;
    let period = "calendar month UTC".parse::<filters::window::Window>().expect("a window").span(NOW).start;
    let share = Share { quota, period };
    let lease =
        "INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) VALUES ($1, $2, 'node', 20000, 5, 0)";
    let lease = sqlx::query(lease).bind(quota.0).bind(period.0).execute(&books.store.database.writer);
    lease.await.expect("leased");
    let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
    calls.iter_mut().for_each(|(intent, _)| intent.shares.push(share));
    calls[1].1.attempts = 2;
    calls[2].1.outcome = Outcome::Recovered;
    calls[2].1.reserved = NanoUsd(2_000);
    calls[2].1.charge = NanoUsd(2_000);
    let attempt =
        FailedAttempt { call: calls[1].0.call, number: 1, provider: "azure".into(), status: 503, error: None, at: NOW };
    let amendment = Amendment {
        call: calls[0].0.call,
        sequence: 1,
        key: books.key,
        org: books.org,
        usage: Usage::of(0, 1),
        charge: NanoUsd(600),
        shares: calls[0].0.shares.clone(),
        at: NOW.plus(60_000),
    };
    let shipment = Shipment { calls, attempts: vec![attempt], amendments: vec![amendment], ..Shipment::default() };
    books.store.take("node", &shipment).await.expect("shipped");
    books
}

/// Sets a strict limit of the key from [`NOW`] on.
async fn limit(books: &Books, window: &str, amount: Amount) -> QuotaId {
    let window = window.parse().expect("a window");
    let change = LimitChange { window, is_strict: Some(true), ..LimitChange::of(QuotaKind::Spend, amount) };
    set(books, &change, 0).await
}

async fn set(books: &Books, change: &LimitChange, after_ms: i64) -> QuotaId {
    let owner = Owner::Key(books.key);
    let rows = books.store.change_limits(owner, std::slice::from_ref(change), NOW.plus(after_ms)).await.expect("set");
    rows.iter().find(|row| row.kind == change.kind && row.window == change.window).expect("it is there").id
}

/// What keeps an engine from holding rows against one another.
const UNCHECKED: &str = "PRAGMA foreign_keys = OFF";
const UNCHECKED_ON_A_SERVER: &str = "SET session_replication_role = replica";

async fn cook(books: &Books, statement: &'static str) {
    let mut writer = books.store.database.writer.acquire().await.expect("a connection");
    let is_server = crate::store::engine::is_server(&writer);
    let statement = if is_server { statement.replace(UNCHECKED, UNCHECKED_ON_A_SERVER) } else { statement.to_owned() };
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut *writer).await.expect("cooked");
}

async fn audit(books: &Books) -> AuditReport {
    let mut report = books.store.audit().await.expect("audited");
    books.store.judge_strays(&mut report, &home(&[])).await.expect("judged");
    report
}

fn home(known: &[CallId]) -> HomeJournal {
    HomeJournal { node: Some("node".to_owned()), known: known.iter().copied().collect() }
}

async fn broken_after(statements: &[&'static str]) -> Vec<Invariant> {
    let books = books().await;
    for statement in statements {
        cook(&books, statement).await;
    }
    audit(&books).await.findings.iter().map(|finding| finding.invariant).collect()
}

#[tokio::test]
async fn true_books_have_no_findings() {
    let books = books().await;
    let mut report = audit(&books).await;
    report.add_journal(JournalFacts { open_intents: 2, unshipped: 3, ..JournalFacts::default() });
    assert_eq!(report.findings, []);
    assert_eq!((report.organisations, report.keys, report.calls), (1, 1, 3));
    let charged = 2 * COST + 2_000 + 600;
    assert_eq!((report.charged, books.key().await.spent().0), (i128::from(charged), charged));
    assert_eq!((report.recovered.count, report.recovered.sum), (1, 2_000));
    assert_eq!((report.excesses.count, report.lowered.count, report.above_reserve.count), (0, 0, 0));
    let account = &report.accounts[0];
    let credits = account.opening + account.top_ups + account.refunds;
    assert_eq!((credits, account.charges), (NanoUsd(10_000_000_000), NanoUsd(charged)));
    assert_eq!(credits - account.charges, account.balance);
    let outstanding = i128::from(20_000 - 5 - charged);
    assert_eq!(report.nodes, [NodeLeases { node: "node".to_owned(), leases: 1, outstanding }]);
}

#[tokio::test]
async fn each_cooked_row_is_found() {
    use Invariant::*;
    let missing = [
        KeySpentIsCharged,
        OrganisationSpentIsCharged,
        QuotaSpentIsCharged,
        RollupsAreTheirRows,
        AttemptsHaveCalls,
        LeasesAreSound,
    ];
    let other_usage = [ChargesAreTheirCost, ChargesAreTheirCost, RollupsAreTheirRows];
    for (statement, broken) in [
        ("UPDATE credits SET amount_nano = 1", &[CreditsAreTheLimit][..]),
        ("UPDATE quotas SET limit_value = 1 WHERE kind = 'balance'", &[CreditsAreTheLimit]),
        ("DELETE FROM calls WHERE request_id = (SELECT request_id FROM attempts)", &missing),
        (
            "UPDATE spent SET amount = amount + 1 WHERE quota IN (SELECT id FROM quotas WHERE unit = 'month')",
            &[QuotaSpentIsCharged],
        ),
        ("INSERT INTO spent SELECT quota, 86400000, 1 FROM spent WHERE window_start_ms > 0", &[QuotaSpentIsCharged]),
        ("DELETE FROM spent WHERE window_start_ms > 0", &[QuotaSpentIsCharged]),
        (
            "UPDATE spent SET amount = amount + 1 WHERE quota IN (SELECT id FROM quotas WHERE kind = 'spend' AND unit = 'total')",
            &[KeySpentIsCharged],
        ),
        (
            "UPDATE spent SET amount = amount + 1 WHERE quota IN (SELECT id FROM quotas WHERE kind = 'balance')",
            &[OrganisationSpentIsCharged],
        ),
        ("UPDATE calls SET output_tokens = 4 WHERE outcome = 'complete'", &other_usage),
        ("UPDATE calls SET tier = 'flex', price_id = 7 WHERE outcome = 'complete'", &[ChargesAreTheirCost; 2]),
        ("DELETE FROM prices", &[ChargesAreTheirCost; 3]),
        ("UPDATE calls SET reserved_nano = 0 WHERE outcome = 'recovered'", &[RecoveredWithinReserve]),
        ("UPDATE calls SET reserved_nano = 2001 WHERE outcome = 'recovered'", &[ChargesAreTheirCost]),
        ("UPDATE attempts SET request_id = 'req_00000000000000000000000000'", &[AttemptsHaveCalls]),
        ("UPDATE attempts SET number = 3", &[AttemptsHaveCalls]),
        ("UPDATE leases SET returned = granted + 1", &[LeasesAreSound]),
        ("UPDATE leases SET returned = -1", &[LeasesAreSound]),
        ("UPDATE leases SET shipped = 20000", &[LeasesAreSound]),
        ("UPDATE leases SET quota = 77", &[RowsBelong, LeasesAreSound]),
        ("UPDATE limit_history SET limit_value = 11599 WHERE limit_value = 1000000", &[]),
        ("DELETE FROM keys WHERE org = 'none'", &[]),
    ] {
        assert_eq!(broken_after(&[statement]).await, broken, "{statement}");
    }
    assert_eq!(broken_after(&["PRAGMA foreign_keys = OFF; DELETE FROM keys"]).await[..3], [RowsBelong; 3]);
}

/// Entries can't be changed, but somebody may add some that are wrong.
#[tokio::test]
async fn each_wrong_entry_is_found() {
    use Invariant::*;
    const REFUND: &str = "INSERT INTO entries (id, org, kind, reason, actor, request_id, at_ms) SELECT 99, id, 'refund', '', '', \
         (SELECT request_id FROM calls WHERE outcome = 'recovered'), 1 FROM organisations";
    for (statements, broken) in [
        (
            &[
                "INSERT INTO legs (entry, number, account, amount_nano) SELECT MAX(id), 9, 'operator:funding', 1 FROM entries",
            ][..],
            &[EntriesAddUp][..],
        ),
        (
            &["INSERT INTO entries (org, kind, reason, actor, at_ms) SELECT id, 'topup', '', '', 1 FROM organisations"],
            &[EntriesAddUp],
        ),
        (
            &["INSERT INTO entries (org, kind, reason, actor, at_ms) VALUES ('none', 'topup', '', '', 1)"],
            &[EntriesAddUp, RowsBelong],
        ),
        (
            &[
                "INSERT INTO entries (id, org, kind, reason, actor, at_ms) SELECT 99, id, 'topup', '', '', 1 FROM organisations",
                "INSERT INTO legs (entry, number, account, amount_nano) SELECT 99, 0, 'org:' || id || ':credits', 5 FROM organisations",
                "INSERT INTO legs (entry, number, account, amount_nano) VALUES (99, 1, 'operator:funding', -5)",
            ],
            &[CreditsAreTheLimit],
        ),
        (&["INSERT INTO meta (name, content) VALUES ('booked_through', '9999999999999')"], &[ChargesAreBooked]),
        (
            &[
                REFUND,
                "INSERT INTO legs (entry, number, account, amount_nano) VALUES (99, 0, 'operator:refunds', -2001)",
                "INSERT INTO legs (entry, number, account, amount_nano) VALUES (99, 1, 'operator:funding', 2001)",
            ],
            &[RefundsWithinCharges],
        ),
    ] {
        assert_eq!(broken_after(statements).await, broken, "{statements:?}");
    }
}

#[tokio::test]
async fn a_charge_that_was_raised_is_found_wherever_it_counts() {
    use Invariant::*;
    let raised = "UPDATE calls SET charge_nano = charge_nano + 1 WHERE outcome = 'complete' AND attempts = 2";
    let spent = [KeySpentIsCharged, OrganisationSpentIsCharged, QuotaSpentIsCharged, RollupsAreTheirRows];
    assert_eq!(broken_after(&[raised]).await, [&[ChargesAreTheirCost][..], &spent].concat());
}

#[tokio::test]
async fn what_is_shipped_of_a_lease_are_the_last_calls_of_its_node() {
    let books = open().await;
    let quota = limit(&books, "total", Amount::Of(50 * COST)).await;
    ship(&books, &(0..3).map(|number| books.call(number, 10, 5)).collect::<Vec<_>>()).await;
    let statement =
        "INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) VALUES ($1, 0, 'node', 9000, 0, 0)";
    sqlx::query(statement).bind(quota.0).execute(&books.store.database.writer).await.expect("leased");
    assert_eq!(audit(&books).await.findings, [], "a lease that began after the calls");
    ship(&books, &[books.call(3, 10, 5)]).await;
    assert_eq!(audit(&books).await.findings, []);
    for (cooked, is_found) in [
        ("UPDATE leases SET shipped = shipped + 1", true),
        ("UPDATE leases SET shipped = 4500 * 4", false),
        ("UPDATE leases SET shipped = 4500 * 5", true),
        ("UPDATE leases SET shipped = 4500, node = 'another'", true),
    ] {
        cook(&books, cooked).await;
        let found: Vec<_> = audit(&books).await.findings.iter().map(|finding| finding.invariant).collect();
        assert_eq!(found, [Invariant::LeasesAreSound].repeat(usize::from(is_found)), "{cooked}");
    }
}

#[tokio::test]
async fn a_strict_limit_is_held_against_every_point_of_the_ledger() {
    let books = open().await;
    limit(&books, "total", Amount::Of(3 * COST)).await;
    let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
    calls.iter_mut().zip([10_000, 10_005, 20_000]).for_each(|(call, after_ms)| at(call, after_ms));
    ship(&books, &calls).await;
    assert_eq!(audit(&books).await.findings, [], "all of it may be spent");
    cook(&books, "UPDATE limit_history SET limit_value = limit_value - 1").await;
    let report = audit(&books).await;
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].invariant, Invariant::StrictLimitsHold);
    assert!(report.findings[0].detail.contains("$0.0000135 in the period of 0 when $0.000013499"), "{report:?}");
    cook(&books, "UPDATE limit_history SET strict = 0").await;
    let report = audit(&books).await;
    assert_eq!((report.findings, report.excesses.count, report.excesses.sum), (vec![], 1, 1), "it is elastic now");
}

#[tokio::test]
async fn a_limit_that_is_lowered_below_what_is_spent_is_no_breach() {
    let books = open().await;
    limit(&books, "total", Amount::Of(3 * COST)).await;
    let mut calls: Vec<_> = (0..4).map(|number| books.call(number, 10, 5)).collect();
    calls.iter_mut().zip([10_000, 10_000, 60_900, 61_500]).for_each(|(call, after_ms)| at(call, after_ms));
    ship(&books, &calls[..2]).await;
    set(&books, &LimitChange::of(QuotaKind::Spend, Amount::Of(COST)), 60_000).await;
    let report = audit(&books).await;
    assert_eq!((&report.findings, report.lowered.count, report.lowered.sum), (&vec![], 1, i128::from(COST)));
    assert_eq!((report.lowered.named[0].at, report.lowered.named[0].limit), (NOW.plus(60_000), COST));
    ship(&books, &calls[2..3]).await;
    assert_eq!(audit(&books).await.findings, [], "a gateway need not have seen it yet");
    ship(&books, &calls[3..]).await;
    assert_eq!(audit(&books).await.findings[0].invariant, Invariant::StrictLimitsHold);
}

#[tokio::test]
async fn an_increase_counts_up_to_its_end() {
    for (second_after_ms, is_found) in [(20_000, false), (30_500, false), (31_500, true)] {
        let books = open().await;
        limit(&books, "total", Amount::Of(COST)).await;
        let increase = Some(Increase { amount: NanoUsd(COST), until: NOW.plus(30_000) });
        set(&books, &LimitChange { increase, amount: None, ..LimitChange::of(QuotaKind::Spend, Amount::None) }, 5_000)
            .await;
        let mut calls = [books.call(0, 10, 5), books.call(1, 10, 5)];
        at(&mut calls[0], 10_000);
        at(&mut calls[1], second_after_ms);
        ship(&books, &calls).await;
        assert_eq!(audit(&books).await.findings.len(), usize::from(is_found), "{second_after_ms}");
    }
}

#[tokio::test]
async fn what_a_provider_bills_past_a_bound_is_listed_and_stops_later_calls() {
    let books = open().await;
    limit(&books, "total", Amount::Of(2 * COST)).await;
    let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
    calls.iter_mut().zip([10_000, 10_005, 12_000]).for_each(|(call, after_ms)| at(call, after_ms));
    calls[0].1.reserved = NanoUsd(COST - 7);
    calls[0].0.reserved = NanoUsd(COST - 7);
    calls[1].1.reserved = NanoUsd(COST - 3);
    ship(&books, &calls[..2]).await;
    let report = audit(&books).await;
    assert_eq!((&report.findings, report.excesses.count, report.above_reserve.count), (&vec![], 0, 2));
    assert_eq!(report.above_reserve.sum, 10);
    assert!(report.above_reserve.named.iter().all(|above| above.is_bound), "{report:?}");
    cook(&books, "UPDATE limit_history SET limit_value = limit_value - 10").await;
    let report = audit(&books).await;
    assert_eq!((&report.findings, report.excesses.sum, report.excesses.named[0].is_strict), (&vec![], 10, true));
    ship(&books, &calls[2..]).await;
    assert_eq!(audit(&books).await.findings[0].invariant, Invariant::StrictLimitsHold);
}

#[tokio::test]
async fn every_rolling_window_is_held_against_its_limit() {
    let minute_ms = 60_000;
    for (apart_ms, is_found) in [(61 * minute_ms, false), (60 * minute_ms, true), (30 * minute_ms, true)] {
        let books = open().await;
        let quota = limit(&books, "rolling hour", Amount::Of(2 * COST - 1)).await;
        let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
        for (call, number) in calls.iter_mut().zip(1..) {
            at(call, number * apart_ms);
            call.0.shares.push(Share { quota, period: NOW.plus(number * apart_ms) });
        }
        ship(&books, &calls).await;
        let findings = audit(&books).await.findings;
        assert_eq!(findings.len(), usize::from(is_found), "{apart_ms}: {findings:?}");
    }
}

/// A call waited for its body while the limit was raised: it was reserved later than it began.
#[tokio::test]
async fn the_order_is_that_of_first_bytes() {
    let books = open().await;
    limit(&books, "total", Amount::Of(COST)).await;
    set(&books, &LimitChange::of(QuotaKind::Spend, Amount::Of(2 * COST)), 30_000).await;
    let mut calls = [books.call(0, 10, 5), books.call(1, 10, 5)];
    at(&mut calls[0], 10_000);
    calls[0].1.first_byte_ms = 25_000;
    calls[0].1.ended = NOW.plus(40_000);
    at(&mut calls[1], 20_000);
    ship(&books, &calls).await;
    assert_eq!(audit(&books).await.findings, []);
}

#[tokio::test]
async fn what_is_written_of_calls_in_the_journal_is_no_stray() {
    let books = books().await;
    cook(&books, "UPDATE attempts SET request_id = 'req_00000000000000000000000009'").await;
    let mut report = books.store.audit().await.expect("audited");
    assert_eq!(report.strays.iter().collect::<Vec<_>>(), [&CallId(9)]);
    books.store.judge_strays(&mut report, &home(&[CallId(9)])).await.expect("judged");
    assert_eq!(report.findings, []);
}

#[tokio::test]
async fn what_another_node_has_begun_is_no_stray_until_that_node_has_ended_well() {
    let attempt =
        FailedAttempt { call: CallId(9), number: 1, provider: "azure".into(), status: 503, error: None, at: NOW };
    let shipment = Shipment { attempts: vec![attempt], ..Shipment::default() };
    for (node, state, expected) in [
        ("other", "live", (0, 1)),
        ("other", "forgotten", (0, 1)),
        ("other", "stopped", (1, 0)),
        ("node", "live", (1, 0)),
        ("nobody", "live", (1, 0)),
    ] {
        let books = books().await;
        for known in ["node", "other"] {
            sqlx::query("INSERT INTO nodes (id, created_ms, state) VALUES ($1, 1, $2)")
                .bind(known)
                .bind(state)
                .execute(&books.store.database.writer)
                .await
                .expect("entered");
        }
        books.store.take(node, &shipment).await.expect("shipped");
        let report = audit(&books).await;
        assert_eq!((report.findings.len(), report.elsewhere), expected, "{node} {state}: {report:?}");
    }
}

#[tokio::test]
async fn a_recovered_call_is_recomputed_unless_another_candidate_had_taken_over() {
    for (failed, expected) in [(false, (1, 0)), (true, (0, 1))] {
        let books = open().await;
        let mut call = books.call(1, 10, 5);
        call.1.outcome = Outcome::Recovered;
        call.1.attempts = 0;
        call.1.charge = NanoUsd(COST - 1);
        let id = call.0.call;
        let attempt = FailedAttempt { call: id, number: 1, provider: "azure".into(), status: 0, error: None, at: NOW };
        let attempts = Vec::from_iter(failed.then_some(attempt));
        let shipment = Shipment { calls: vec![call], attempts, ..Shipment::default() };
        books.store.take("node", &shipment).await.expect("shipped");
        let report = audit(&books).await;
        assert_eq!((report.findings.len(), report.not_recomputed), expected, "{report:?}");
    }
}

#[tokio::test]
async fn a_cut_call_is_recomputed_like_any_other() {
    let books = open().await;
    let mut call = books.call(1, 10, 5);
    call.1.outcome = Outcome::Cut;
    call.1.charge = price().cost(&call.1.usage, Tier::Standard) - NanoUsd(1);
    ship(&books, &[call]).await;
    assert_eq!(audit(&books).await.findings[0].invariant, Invariant::ChargesAreTheirCost);
}

#[test]
fn a_damaged_journal_is_found() {
    let mut report = AuditReport::default();
    report.add_journal(JournalFacts { duplicate_terminals: 1, corrupt_records: 1, ..JournalFacts::default() });
    assert_eq!(report.findings.len(), 2);
    assert_eq!(report.first_broken().map(|finding| finding.invariant.name()), Some("one_end_a_call"));
}

#[test]
fn the_first_broken_invariant_is_named_however_much_else_is_wrong() {
    let mut report = AuditReport::default();
    (0..300).for_each(|number| report.find(Invariant::RowsBelong, number, String::new()));
    report.find(Invariant::CreditsAreTheLimit, "first", String::new());
    report.sort();
    assert_eq!(report.first_broken().map(|finding| finding.invariant), Some(Invariant::CreditsAreTheLimit));
    assert_eq!((report.findings.len(), report.findings_unnamed), (101, 200));
}
