//! What quotas promise, in any order of calls, clocks and limits.

use super::*;
use crate::denied::{LimitSource, Owner};
use crate::id::QuotaId;
use crate::key::Glob;
use crate::lease::{ASK_AGAIN_MS, Increase, Needs, Terms};
use crate::memory::{SoleNode, ready};
use crate::ports::{Authority, Share, Want};
use crate::window::{Unit, Window};
use proptest::prelude::*;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

const NOW: EpochMs = EpochMs(1_800_000_000_000);
const KEY: LimitSource = LimitSource::Spend(Owner::Key);

fn authority() -> SoleNode {
    let node = SoleNode::default();
    node.authority.lock().expect("not poisoned").nodes = 1;
    node.now.store(NOW.0, Relaxed);
    node
}

fn spend_in(node: &SoleNode, source: LimitSource, window: Window, terms: Terms) -> Arc<Spend> {
    let id = QuotaId(1 + source.name().len() as i64);
    node.authority.lock().expect("not poisoned").set(id, window.clone(), terms);
    Arc::new(Spend::new(id, source, window, terms, (NanoUsd::ZERO, EpochMs(node.now.load(Relaxed)))))
}

/// So many calls at once, over all nodes.
fn places(node: &SoleNode, limit: i64) -> Concurrency {
    let (id, terms) = (QuotaId(99), Terms { is_strict: true, ..Terms::elastic(NanoUsd(limit)) });
    node.authority.lock().expect("not poisoned").set(id, Window::Total, terms);
    Concurrency::new(id, LimitSource::Concurrency(Owner::Key), terms)
}

fn chain(node: &SoleNode, limit: i64, balance: i64) -> Arc<Chain> {
    let spend = |source, amount| spend_in(node, source, Window::Total, Terms::elastic(NanoUsd(amount)));
    let rate = |source, counted, limit| Arc::new(Rate::new(source, counted, Unit::Minute, limit));
    Arc::new(Chain {
        rates: vec![
            rate(LimitSource::Requests(Owner::Key, Unit::Minute), Counted::Requests, 3),
            rate(LimitSource::Tokens(Owner::Key, Unit::Minute), Counted::Tokens, 100),
        ],
        concurrency: vec![Arc::new(places(node, 2))],
        spend: vec![spend(KEY, limit), spend(LimitSource::OrganisationBalance, balance)],
    })
}

fn take(money: i64, tokens: u64) -> Take<'static> {
    Take { model: "m", estimate: NanoUsd(money), bound: Some(NanoUsd(money)), tokens }
}

/// Reserves as an admission does: credit that is short is asked for, once.
fn reserve(node: &SoleNode, chain: &Arc<Chain>, take: &Take<'_>) -> Result<Reservation, Denied> {
    let now = EpochMs(node.now.load(Relaxed));
    chain.reserve(take, now).or_else(|refused| {
        let wants = chain.short_of(take, &refused, now).unwrap_or_default();
        ready(node.lease(wants)).expect("it is in memory");
        chain.reserve(take, now)
    })
}

fn readings(chain: &Chain) -> (i64, i64, i64, i64, i64) {
    (
        chain.rates[0].read(NOW).remaining,
        chain.rates[1].read(NOW).remaining,
        chain.concurrency[0].running(),
        chain.spend[0].reserved().0,
        chain.spend[1].reserved().0,
    )
}

#[test]
fn a_refusal_takes_nothing_from_any_quota() {
    let node = authority();
    let chain = chain(&node, 10, 4);
    let denied = reserve(&node, &chain, &take(5, 20)).expect_err("the balance is too small");
    assert_eq!(denied, Denied::InsufficientCredits { available: NanoUsd(4), needed: NanoUsd(5) });
    assert_eq!(readings(&chain), (3, 100, 0, 0, 0));
}

#[test]
fn a_lowered_limit_calls_back_what_running_calls_do_not_use() {
    let node = authority();
    let chain = chain(&node, 100, 1_000);
    let running = reserve(&node, &chain, &take(50, 1)).expect("enough of all");
    let lower = Terms::elastic(NanoUsd(10));
    node.authority.lock().expect("not poisoned").set(chain.spend[0].id, Window::Total, lower);
    chain.spend[0].set_terms(lower);
    running.settle(NanoUsd(2), 1);
    // 48 come back, of which 8 are in force.
    assert!(reserve(&node, &chain, &take(9, 1)).is_err());
    reserve(&node, &chain, &take(8, 1)).expect("so much is left").settle(NanoUsd(8), 1);
    assert_eq!(chain.spend[0].remaining(NOW), NanoUsd::ZERO);
}

#[test]
fn what_was_set_aside_without_a_limit_is_not_given_back_as_if_it_had_been_leased() {
    let node = authority();
    let chain = chain(&node, i64::MAX, 1_000);
    let running = reserve(&node, &chain, &take(50, 1)).expect("there is no limit");
    for limit in [100, 60] {
        let terms = Terms::elastic(NanoUsd(limit));
        node.authority.lock().expect("not poisoned").set(chain.spend[0].id, Window::Total, terms);
        chain.spend[0].set_terms(terms);
    }
    running.settle(NanoUsd(2), 1);
    // The first lease covers what was set aside when it was asked for; what has come back of it is in the second.
    assert!(reserve(&node, &chain, &take(58, 1)).is_err());
    node.now.fetch_add(crate::lease::ASK_AGAIN_MS, Relaxed);
    reserve(&node, &chain, &take(58, 1)).expect("so much is left").settle(NanoUsd(58), 1);
    // Later, when the node asks again.
    node.now.fetch_add(crate::lease::ASK_AGAIN_MS, Relaxed);
    assert!(reserve(&node, &chain, &take(1, 1)).is_err(), "all of it has been charged");
}

#[test]
fn time_heals_only_what_the_whole_limit_could_pay_for() {
    let node = authority();
    let window: Window = "calendar day UTC".parse().expect("a window");
    let spend = spend_in(&node, KEY, window, Terms::elastic(NanoUsd(10)));
    let heals = |amount| match spend.refusal(NanoUsd(amount), NOW) {
        Denied::SpendLimitReached { heals_in_ms, .. } => heals_in_ms.is_some(),
        Denied::CreditsReserved { .. } => true,
        other => panic!("{other:?}"),
    };
    assert_eq!([heals(10), heals(11)], [true, false]);
}

#[test]
fn a_rate_of_some_models_is_read_for_those_alone() {
    let rate =
        |limit| Rate::new(LimitSource::Requests(Owner::Key, Unit::Minute), Counted::Requests, Unit::Minute, limit);
    let narrowed = rate(3).of_models(Some(Glob("gpt-*".into())));
    let chain = Chain { rates: vec![Arc::new(rate(9)), Arc::new(narrowed)], ..Chain::default() };
    let limit = |model| chain.tightest(Counted::Requests, model, NOW).expect("a rate").limit;
    assert_eq!([limit(Some("gpt-5")), limit(Some("claude")), limit(None)], [3, 9, 9]);
}

#[test]
fn a_call_tries_again_where_another_has_asked_for_its_rate_meanwhile() {
    let source = LimitSource::Requests(Owner::Key, Unit::Minute);
    let rate = Rate::new(source, Counted::Requests, Unit::Minute, 4);
    let rate = Arc::new(rate.shared(QuotaId(7), Arc::new(Peers::new(2))));
    let chain = Chain { rates: vec![Arc::clone(&rate)], ..Chain::default() };
    let one = take(0, 0);
    let refused = chain.count_request(NOW).expect_err("no slice has come");
    assert_eq!(chain.short_of_rates(&one, &refused, NOW).expect("others may leave some").len(), 1);
    let ask = rate.ask(4, NOW).expect("it is shared");
    rate.hear(&ask, SliceReply { taken: ask.take, used: ask.used });
    assert!(chain.short_of_rates(&one, &refused, NOW).expect("a slice has come").is_empty());
    (0..4).for_each(|_| chain.count_request(NOW).expect("there is room"));
    assert!(chain.short_of_rates(&one, &refused, NOW).is_none(), "all is used");
}

#[test]
fn a_call_that_was_received_over_the_end_of_a_window_is_counted_in_the_next() {
    let rate = |unit| Rate::new(LimitSource::Requests(Owner::Key, unit), Counted::Requests, unit, 2);
    for (rate, length_ms) in [
        (rate(Unit::Minute), 60_000),
        (rate(Unit::Day), 86_400_000),
        (rate(Unit::Day).in_zone("Asia/Kathmandu".parse().expect("a zone")), 86_400_000),
    ] {
        let (before, after) = (NOW.plus(-1), NOW.plus(length_ms - 1));
        rate.take(1, before).expect("there is room");
        rate.take(1, after).expect("it starts anew");
        rate.take(1, before).expect("there is room in the next");
        assert_eq!(rate.read(after).remaining, 0);
        assert!(rate.take(1, before).is_err() && rate.take(1, after).is_err());
        let set_back = NOW.plus(-9 * length_ms);
        rate.take(2, set_back).expect("a clock that was set back is believed");
    }
}

#[test]
fn a_rate_counts_days_by_the_clocks_of_its_zone() {
    let source = LimitSource::Requests(Owner::Key, Unit::Day);
    let rate = Rate::new(source, Counted::Requests, Unit::Day, 2);
    let rate = rate.in_zone("Asia/Kathmandu".parse().expect("a zone"));
    // 2027-01-15, midnight in Kathmandu: 18:15 the day before in London.
    let midnight = EpochMs(1_799_950_500_000);
    assert_eq!(rate.read(midnight.plus(-1)).reset_ms, 1);
    rate.take(2, midnight.plus(-1)).expect("there is room");
    assert!(rate.take(1, midnight.plus(-1)).is_err());
    assert_eq!(rate.read(midnight).reset_ms, 86_400_000);
    rate.take(2, midnight).expect("a new day");
    rate.adjust(2, 1, midnight.plus(86_399_999));
    assert_eq!(rate.read(midnight.plus(86_399_999)).remaining, 1);
}

#[test]
fn settling_charges_once_and_gives_the_rest_back() {
    let node = authority();
    let chain = chain(&node, 10, 10);
    reserve(&node, &chain, &take(5, 20)).expect("enough of all").settle(NanoUsd(2), 7);
    assert_eq!(readings(&chain), (2, 93, 0, 0, 0));
    assert_eq!((chain.spend[0].spent(NOW), chain.spend[1].spent(NOW)), (NanoUsd(2), NanoUsd(2)));
}

#[test]
fn a_dropped_reservation_gives_everything_back() {
    let node = authority();
    let chain = chain(&node, 10, 10);
    drop(reserve(&node, &chain, &take(5, 20)).expect("enough of all"));
    assert_eq!(readings(&chain), (3, 100, 0, 0, 0));
}

#[test]
fn credit_that_others_hold_is_not_a_reached_limit() {
    let node = authority();
    let chain = chain(&node, 10, 100);
    let held = reserve(&node, &chain, &take(6, 1)).expect("enough of all");
    assert_eq!(
        reserve(&node, &chain, &take(6, 1)).expect_err("six of ten are held"),
        Denied::CreditsReserved { quota: KEY }
    );
    held.settle(NanoUsd(6), 1);
    assert!(matches!(
        reserve(&node, &chain, &take(6, 1)).expect_err("six of ten are spent"),
        Denied::SpendLimitReached { available: NanoUsd(4), heals_in_ms: None, .. }
    ));
}

#[test]
fn strict_quotas_take_the_bound_and_elastic_ones_the_estimate() {
    let node = authority();
    let strict = Terms { is_strict: true, ..Terms::elastic(NanoUsd(100)) };
    let strict = spend_in(&node, KEY, Window::Total, strict);
    let elastic = spend_in(&node, LimitSource::OrganisationBalance, Window::Total, Terms::elastic(NanoUsd(100)));
    let chain = Arc::new(Chain { spend: vec![strict, elastic], ..Chain::default() });
    let take = Take { estimate: NanoUsd(10), bound: Some(NanoUsd(60)), ..take(0, 0) };
    let held = reserve(&node, &chain, &take).expect("enough of both");
    assert_eq!((chain.spend[0].reserved(), chain.spend[1].reserved()), (NanoUsd(60), NanoUsd(10)));
    assert_eq!(held.least(), Some(NanoUsd(10)));
    let unbounded = Take { bound: None, ..take };
    assert_eq!(reserve(&node, &chain, &unbounded).expect_err("nothing bounds it"), Denied::CostUnbounded);
}

#[test]
fn a_quota_of_some_models_counts_only_those() {
    let node = authority();
    let spend = Spend::new(QuotaId(9), KEY, Window::Total, Terms::elastic(NanoUsd(1)), (NanoUsd::ZERO, NOW));
    let spend = Arc::new(spend.of_models(Some(Glob("gpt-*".into()))));
    node.authority.lock().expect("not poisoned").set(spend.id, Window::Total, spend.terms());
    let chain = Arc::new(Chain { spend: vec![spend], ..Chain::default() });
    let other = reserve(&node, &chain, &Take { model: "claude", ..take(5, 0) }).expect("it is not counted");
    assert_eq!(other.shares(), []);
    assert!(reserve(&node, &chain, &Take { model: "gpt-5", ..take(5, 0) }).is_err());
}

#[test]
fn an_extension_takes_from_all_elastic_quotas_or_from_none() {
    let node = authority();
    let chain = chain(&node, 20, 12);
    let mut held = reserve(&node, &chain, &take(5, 1)).expect("enough of all");
    assert!(held.extend(NanoUsd(7), NOW).is_ok());
    assert_eq!((readings(&chain).3, readings(&chain).4), (12, 12));
    assert!(held.extend(NanoUsd(1), NOW).is_err());
    assert_eq!((readings(&chain).3, readings(&chain).4), (12, 12));
    held.settle(NanoUsd(11), 1);
    assert_eq!((readings(&chain).3, chain.spend[0].remaining(NOW)), (0, NanoUsd(9)));
}

#[test]
fn a_new_period_has_new_credit_and_late_calls_stay_in_theirs() {
    let node = authority();
    let zone = "Europe/Berlin".parse().expect("a zone");
    let spend = spend_in(&node, KEY, Window::Calendar { unit: Unit::Day, zone }, Terms::elastic(NanoUsd(10)));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    let late = reserve(&node, &chain, &take(8, 0)).expect("all is left");
    let midnight = spend.window.span(NOW).end;
    let denied = {
        let again = reserve(&node, &chain, &take(8, 0));
        again.expect_err("it is reserved")
    };
    assert_eq!(denied, Denied::CreditsReserved { quota: KEY });
    node.now.store(midnight.0, Relaxed);
    let early = reserve(&node, &chain, &take(8, 0)).expect("a new day");
    assert_ne!(late.shares()[0].period, early.shares()[0].period);
    late.settle(NanoUsd(8), 0);
    assert_eq!(spend.spent(midnight), NanoUsd::ZERO);
    early.settle(NanoUsd(9), 0);
    let refused = reserve(&node, &chain, &take(2, 0)).expect_err("nine of ten are spent");
    assert!(matches!(refused, Denied::SpendLimitReached { heals_in_ms: Some(ms), .. } if ms >= 82_800_000));
    // The clock goes back to the day before, on which two are left.
    node.now.store(midnight.0 - 1, Relaxed);
    assert!(reserve(&node, &chain, &take(3, 0)).is_err());
    assert!(reserve(&node, &chain, &take(2, 0)).is_ok());
}

#[test]
fn a_rolling_window_forgets_bucket_by_bucket() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Rolling(Unit::Minute), Terms::elastic(NanoUsd(10)));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    for second in 0..5 {
        node.now.store(NOW.0 + second * 1_000, Relaxed);
        reserve(&node, &chain, &take(2, 0)).expect("two of ten").settle(NanoUsd(2), 0);
    }
    let mut passed = Vec::new();
    for second in 5..70 {
        node.now.store(NOW.0 + second * 1_000, Relaxed);
        if let Ok(held) = reserve(&node, &chain, &take(2, 0)) {
            held.settle(NanoUsd(2), 0);
            passed.push(second);
        }
    }
    // The oldest bucket is counted whole: 61 seconds after it began it is gone.
    assert_eq!(passed, [61, 62, 63, 64, 65]);
}

#[test]
fn an_increase_ends_at_its_moment() {
    let node = authority();
    let increase = Some(Increase { amount: NanoUsd(10), until: NOW.plus(1_000) });
    let spend = spend_in(&node, KEY, Window::Total, Terms { increase, ..Terms::elastic(NanoUsd(5)) });
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    reserve(&node, &chain, &take(7, 0)).expect("fifteen are left").settle(NanoUsd(7), 0);
    node.now.store(NOW.0 + 1_000, Relaxed);
    assert!(matches!(
        reserve(&node, &chain, &take(1, 0)).expect_err("five are less than seven"),
        Denied::SpendLimitReached { available: NanoUsd::ZERO, .. }
    ));
}

#[test]
fn a_limit_that_is_changed_holds_at_once() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd(10)));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    reserve(&node, &chain, &take(4, 1)).expect("enough of all").settle(NanoUsd(4), 1);
    let set = |limit: NanoUsd| {
        node.authority.lock().expect("not poisoned").set(spend.id, Window::Total, Terms::elastic(limit));
        spend.set_terms(Terms::elastic(limit));
    };
    let passes = |amount| reserve(&node, &chain, &take(amount, 0)).is_ok();
    set(NanoUsd(5));
    assert!(!passes(2) && passes(1));
    set(NanoUsd(50));
    assert!(!passes(47) && passes(46));
    set(NanoUsd::MAX);
    assert!(passes(90));
    let running = reserve(&node, &chain, &take(40, 0)).expect("without a limit");
    reserve(&node, &chain, &take(30, 0)).expect("without a limit").settle(NanoUsd(30), 0);
    set(NanoUsd(80));
    assert_eq!(spend.spent(NOW), NanoUsd(34));
    assert!(!passes(7) && passes(6), "34 are spent and 40 set aside of 80");
    running.settle(NanoUsd(10), 0);
    assert!(!passes(37) && passes(36));
}

/// One strict quota in force at the node and at the authority.
fn strict(node: &SoleNode, window: Window, limit: i64) -> (Arc<Spend>, Arc<Chain>) {
    let terms = Terms { is_strict: true, ..Terms::elastic(NanoUsd(limit)) };
    let spend = spend_in(node, KEY, window, terms);
    (Arc::clone(&spend), Arc::new(Chain { spend: vec![spend], ..Chain::default() }))
}

fn set_at_authority(node: &SoleNode, spend: &Spend, limit: NanoUsd) -> Terms {
    let terms = Terms { is_strict: true, ..Terms::elastic(limit) };
    node.authority.lock().expect("not poisoned").set(spend.id, spend.window.clone(), terms);
    terms
}

#[test]
fn what_running_calls_free_is_not_spent_past_a_lowered_limit() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    let running = reserve(&node, &chain, &take(100, 0)).expect("all of it");
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(50)));
    running.settle(NanoUsd(10), 0);
    assert!(reserve(&node, &chain, &take(41, 0)).is_err(), "ten of fifty are spent");
    assert!(reserve(&node, &chain, &take(40, 0)).is_ok());
}

#[test]
fn what_running_calls_free_is_not_spent_past_an_increase_that_has_ended() {
    let node = authority();
    let increase = Some(Increase { amount: NanoUsd(10), until: NOW.plus(1_000) });
    let spend = spend_in(&node, KEY, Window::Total, Terms { increase, ..Terms::elastic(NanoUsd(5)) });
    let chain = Arc::new(Chain { spend: vec![spend], ..Chain::default() });
    let running = reserve(&node, &chain, &take(15, 0)).expect("five and ten");
    node.now.store(NOW.0 + 1_000, Relaxed);
    assert!(reserve(&node, &chain, &take(1, 0)).is_err());
    running.settle(NanoUsd(2), 0);
    assert!(reserve(&node, &chain, &take(4, 0)).is_err(), "two of five are spent");
    assert!(reserve(&node, &chain, &take(3, 0)).is_ok());
}

#[test]
fn a_late_answer_does_not_carry_credit_past_the_end_of_an_increase() {
    let node = authority();
    let increase = Some(Increase { amount: NanoUsd(10), until: NOW.plus(1_000) });
    let spend = spend_in(&node, KEY, Window::Total, Terms { increase, ..Terms::elastic(NanoUsd(5)) });
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    let running = reserve(&node, &chain, &take(15, 0)).expect("five and ten");
    let ask = spend.ask(Needs::default(), None, NOW);
    let later = NOW.plus(1_000);
    let reply = node.authority.lock().expect("not poisoned").lease(0, &ask, later).expect("a quota");
    spend.apply(&ask, &reply);
    running.settle(NanoUsd(2), 0);
    assert!(chain.reserve(&take(4, 0), NOW).is_err(), "two of five are spent");
}

#[test]
fn a_lowered_limit_that_a_reply_tells_holds_for_credit_that_is_here() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    reserve(&node, &chain, &take(1, 0)).expect("all is leased now").settle(NanoUsd::ZERO, 0);
    let lowered = set_at_authority(&node, &spend, NanoUsd(50));
    node.now.store(NOW.0 + 1_000, Relaxed);
    assert!(reserve(&node, &chain, &take(101, 0)).is_err(), "asks, and learns of the limit");
    spend.set_terms(lowered);
    assert!(reserve(&node, &chain, &take(51, 0)).is_err());
    assert!(reserve(&node, &chain, &take(50, 0)).is_ok());
}

#[test]
fn a_limit_that_a_reply_says_is_gone_refuses_nobody() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 10);
    let running = reserve(&node, &chain, &take(8, 0)).expect("of ten");
    set_at_authority(&node, &spend, NanoUsd::MAX);
    node.now.store(NOW.0 + 1_000, Relaxed);
    reserve(&node, &chain, &take(200, 0)).expect("there is no limit").settle(NanoUsd(150), 0);
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(200)));
    running.settle(NanoUsd(3), 0);
    assert!(reserve(&node, &chain, &take(48, 0)).is_err(), "153 of 200 are spent");
    assert!(reserve(&node, &chain, &take(47, 0)).is_ok());
}

#[test]
fn a_reply_from_before_a_change_brings_no_credit() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    let ask = spend.ask(Needs::of_one(NanoUsd(1)), None, NOW);
    let reply = node.authority.lock().expect("not poisoned").lease(0, &ask, NOW).expect("a quota");
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(50)));
    spend.apply(&ask, &reply);
    assert_eq!(spend.limit(NOW), NanoUsd(50));
    assert!(chain.reserve(&take(1, 0), NOW).is_err(), "what was leased under the old limit is given back");
    assert!(reserve(&node, &chain, &take(51, 0)).is_err());
    assert!(reserve(&node, &chain, &take(50, 0)).is_ok());
}

#[test]
fn a_node_whose_clock_is_off_can_spend_in_the_authoritys_period() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Rolling(Unit::Minute), 10);
    for off_ms in [-1_500, 0, 1_500] {
        let own = NOW.plus(off_ms);
        let ask = spend.ask(Needs::of_one(NanoUsd(1)), None, own);
        let reply = node.authority.lock().expect("not poisoned").lease(0, &ask, NOW).expect("a quota");
        spend.apply(&ask, &reply);
        let held = chain.reserve(&take(10, 0), own).expect("all is left");
        assert_eq!(held.shares()[0].period, spend.window.span(NOW).start);
        assert!(chain.reserve(&take(0, 0), own.plus(1_000)).is_err(), "the next period is not leased yet");
    }
}

/// Puts a charge of a node on the books, and tells it so.
fn book(node: &SoleNode, spend: &Spend, number: u32, charge: i64) {
    let (share, charge) = (Share { quota: spend.id, period: EpochMs(0) }, NanoUsd(charge));
    node.authority.lock().expect("not poisoned").ship(number, share, charge);
    if number == 0 {
        spend.book(share.period, charge);
    }
}

#[test]
fn what_came_on_the_books_before_a_first_limit_counts_once() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd::MAX));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    reserve(&node, &chain, &take(5, 0)).expect("without a limit").settle(NanoUsd(5), 0);
    let running = reserve(&node, &chain, &take(30, 0)).expect("without a limit");
    book(&node, &spend, 0, 5);
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(100)));
    assert!(spend.is_uncovered());
    let ask = spend.ask(Needs::default(), None, NOW);
    running.settle(NanoUsd(20), 0);
    let reply = node.authority.lock().expect("not poisoned").lease(0, &ask, NOW).expect("a quota");
    spend.apply(&ask, &reply);
    assert!(!spend.is_uncovered() && !spend.is_settled(|_| Some(0)));
    book(&node, &spend, 0, 20);
    assert!(spend.is_settled(|_| Some(20)));
    assert_eq!(spend.spent(NOW), NanoUsd(25));
    assert!(reserve(&node, &chain, &take(76, 0)).is_err());
    assert!(reserve(&node, &chain, &take(75, 0)).is_ok());
}

#[test]
fn what_others_have_booked_covers_nothing_that_this_node_was_charged() {
    let node = authority();
    node.authority.lock().expect("not poisoned").nodes = 2;
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd::MAX));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    reserve(&node, &chain, &take(60, 0)).expect("without a limit").settle(NanoUsd(60), 0);
    book(&node, &spend, 0, 25);
    book(&node, &spend, 1, 30);
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(100)));
    assert!(reserve(&node, &chain, &take(11, 0)).is_err(), "sixty and thirty of a hundred");
    node.now.fetch_add(ASK_AGAIN_MS, Relaxed);
    reserve(&node, &chain, &take(10, 0)).expect("so much is left").settle(NanoUsd(10), 0);
    book(&node, &spend, 0, 45);
    assert!(spend.is_settled(|_| Some(45)));
    assert_eq!(node.authority.lock().expect("not poisoned").standing(spend.id, NOW), (100, 0));
}

#[test]
fn what_an_earlier_process_is_charged_late_is_no_credit_of_this_one() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    reserve(&node, &chain, &take(10, 0)).expect("all is leased now").settle(NanoUsd(10), 0);
    spend.amend(EpochMs(0), NanoUsd(30));
    book(&node, &spend, 0, 40);
    assert_eq!(spend.spent(NOW), NanoUsd(40));
    assert!(spend.is_settled(|_| Some(40)));
    assert!(reserve(&node, &chain, &take(61, 0)).is_err());
    assert!(reserve(&node, &chain, &take(60, 0)).is_ok());
}

#[test]
fn a_quota_without_figures_covers_all_that_was_charged_and_stays_in_memory_until_it_can_tell() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd::MAX));
    let untold = Spend::new(spend.id, KEY, Window::Total, spend.terms(), (NanoUsd(7), NOW)).untold();
    let spend = Arc::new(untold);
    assert!(!spend.is_told() && spend.is_settled(|_| None), "nothing was charged");
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    let charged = reserve(&node, &chain, &take(20, 0)).expect("without a limit");
    charged.settle(NanoUsd(20), 0);
    // Another node's, of which this one has never heard.
    book(&node, &spend, 1, 30);
    assert!(!spend.is_settled(|_| None));
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(100)));
    assert!(reserve(&node, &chain, &take(51, 0)).is_err());
    assert!(reserve(&node, &chain, &take(50, 0)).is_ok());
    assert_eq!((spend.is_told(), spend.spent(NOW)), (true, NanoUsd(50)));
}

/// The same quota in a process that was started anew: it knows of no lease.
fn reopened(node: &SoleNode, spend: &Spend, terms: Terms) -> Arc<Chain> {
    let now = EpochMs(node.now.load(Relaxed));
    let anew = Spend::new(spend.id, KEY, spend.window.clone(), terms, (NanoUsd::ZERO, now));
    Arc::new(Chain { spend: vec![Arc::new(anew)], ..Chain::default() })
}

#[test]
fn credit_of_a_dead_process_is_leased_anew_under_the_limit_of_now() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    reserve(&node, &chain, &take(1, 0)).expect("all is leased now").settle(NanoUsd::ZERO, 0);
    let lowered = set_at_authority(&node, &spend, NanoUsd(50));
    let chain = reopened(&node, &spend, lowered);
    assert!(reserve(&node, &chain, &take(51, 0)).is_err());
    assert!(reserve(&node, &chain, &take(50, 0)).is_ok());
}

#[test]
fn credit_of_a_dead_process_is_not_stranded_in_an_earlier_bucket() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Rolling(Unit::Month), 100);
    reserve(&node, &chain, &take(1, 0)).expect("all is leased now").settle(NanoUsd::ZERO, 0);
    node.now.store(NOW.0 + 86_400_000, Relaxed);
    let chain = reopened(&node, &spend, spend.terms());
    assert!(reserve(&node, &chain, &take(100, 0)).is_ok());
}

#[test]
fn credit_of_a_lost_reply_is_leased_anew_under_the_limit_of_now() {
    let node = authority();
    let (spend, chain) = strict(&node, Window::Total, 100);
    let lease = |amount| {
        let ask = spend.ask(Needs::of_one(NanoUsd(amount)), None, NOW);
        let reply = node.authority.lock().expect("not poisoned").lease(0, &ask, NOW).expect("a quota");
        (ask, reply)
    };
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(10)));
    let (ask, reply) = lease(1);
    spend.apply(&ask, &reply);
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(100)));
    let (_, lost) = lease(100);
    assert!(lost.leases[0].1.granted >= 100);
    spend.set_terms(set_at_authority(&node, &spend, NanoUsd(50)));
    assert!(reserve(&node, &chain, &take(51, 0)).is_err());
    assert!(reserve(&node, &chain, &take(50, 0)).is_ok());
}

#[test]
fn what_was_charged_before_a_limit_that_a_reply_tells_counts_once() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd::MAX));
    let chain = Arc::new(Chain { spend: vec![Arc::clone(&spend)], ..Chain::default() });
    let charged = reserve(&node, &chain, &take(30, 0)).expect("without a limit");
    charged.settle(NanoUsd(30), 0);
    set_at_authority(&node, &spend, NanoUsd(100));
    book(&node, &spend, 0, 30);
    let want = Want { spend: Arc::clone(&spend), amount: NanoUsd::ZERO, at: None };
    ready(node.lease(vec![want])).expect("it is in memory");
    assert!(reserve(&node, &chain, &take(71, 0)).is_err());
    assert!(reserve(&node, &chain, &take(70, 0)).is_ok());
}

#[test]
fn rates_start_anew_with_each_window() {
    let rate = Rate::new(LimitSource::Requests(Owner::Key, Unit::Minute), Counted::Requests, Unit::Minute, 2);
    let start = EpochMs(NOW.0.div_euclid(60_000) * 60_000);
    assert!(rate.take(2, start).is_ok());
    let denied = rate.take(1, start.plus(59_000)).expect_err("two of two are taken");
    assert!(matches!(denied, Denied::RateLimitExceeded { retry_after_ms: 1_000, limit: 2, .. }));
    assert!(rate.take(1, start.plus(60_000)).is_ok());
    rate.adjust(2, 0, start);
    assert_eq!(rate.read(start.plus(60_000)).remaining, 1);
}

#[test]
fn exactly_as_many_as_are_paid_for_pass_under_contention() {
    let node = authority();
    let spend = spend_in(&node, KEY, Window::Total, Terms::elastic(NanoUsd(700)));
    let chain = Arc::new(Chain { spend: vec![spend], ..Chain::default() });
    let passed = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if let Ok(reservation) = reserve(&node, &chain, &take(7, 0)) {
                        passed.fetch_add(1, AcqRel);
                        reservation.settle(NanoUsd(7), 0);
                    }
                }
            });
        }
    });
    assert_eq!((passed.load(Acquire), chain.spend[0].spent(NOW)), (100, NanoUsd(700)));
}

#[test]
fn an_absurd_charge_leaves_no_credit() {
    let node = authority();
    let chain = chain(&node, 10, 10);
    for _ in 0..2 {
        if let Ok(held) = reserve(&node, &chain, &take(1, 1)) {
            held.settle(NanoUsd::MAX, u64::MAX);
        }
        assert!(reserve(&node, &chain, &take(1, 1)).is_err());
    }
    assert_eq!(chain.spend[0].spent(NOW), NanoUsd::MAX);
}

/// Three nodes, each with a call a millisecond for ten seconds, each charged and shipped at once.
#[test]
fn a_hot_key_on_several_nodes_asks_seldom() {
    const COST: i64 = 1_000;
    let node = authority();
    node.authority.lock().expect("not poisoned").nodes = 3;
    let (first, _) = strict(&node, Window::Total, 1_000_000 * COST);
    let anew = || Spend::new(first.id, KEY, Window::Total, first.terms(), (NanoUsd::ZERO, NOW));
    let spends: [Arc<Spend>; 3] = std::array::from_fn(|_| Arc::new(anew()));
    let mut asked = [[0; 10]; 3];
    for millisecond in 0..10_000 {
        let now = NOW.plus(millisecond);
        for (number, spend) in spends.iter().enumerate() {
            let chain = Arc::new(Chain { spend: vec![Arc::clone(spend)], ..Chain::default() });
            let reservation = chain.reserve(&take(COST, 0), now).or_else(|_| {
                asked[number][(millisecond / 1_000) as usize] += 1;
                let ask = spend.ask(Needs::of_one(NanoUsd(COST)), None, now);
                let mut authority = node.authority.lock().expect("not poisoned");
                let reply = authority.lease(number as u32, &ask, now).expect("a quota");
                spend.apply(&ask, &reply);
                chain.reserve(&take(COST, 0), now)
            });
            let reservation = reservation.expect("there is plenty");
            let share = reservation.shares()[0];
            reservation.settle(NanoUsd(COST), 0);
            node.authority.lock().expect("not poisoned").ship(number as u32, share, NanoUsd(COST));
        }
    }
    assert!(asked.as_flattened().iter().all(|asks| (1..=20).contains(asks)), "{asked:?}");
}

/// What may happen to a chain.
#[derive(Clone, Debug)]
enum Step {
    Begin { estimate: i64, bound: i64 },
    End { which: usize, charge: i64 },
    Extend { which: usize, more: i64 },
    Drop { which: usize },
    Ship,
    Clock { by: i64 },
    Limit { limit: i64 },
    Want,
}

fn steps() -> impl Strategy<Value = Step> {
    let jump = prop_oneof![
        Just(1),
        Just(500),
        Just(1_000),
        Just(-1_000),
        Just(3_600_000),
        Just(-3_600_000),
        Just(86_400_000),
        Just(-86_400_000),
        Just(31 * 86_400_000)
    ];
    prop_oneof![
        4 => (0i64..40, 0i64..40).prop_map(|(estimate, more)| Step::Begin { estimate, bound: estimate + more }),
        3 => (any::<usize>(), 0i64..60).prop_map(|(which, charge)| Step::End { which, charge }),
        1 => (any::<usize>(), 0i64..20).prop_map(|(which, more)| Step::Extend { which, more }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => Just(Step::Ship),
        2 => jump.prop_map(|by| Step::Clock { by }),
        1 => (50i64..300).prop_map(|limit| Step::Limit { limit }),
        1 => Just(Step::Want),
    ]
}

fn windows() -> impl Strategy<Value = Window> {
    let zone = || "Europe/Berlin".parse().expect("a zone");
    prop_oneof![
        Just(Window::Total),
        Just(Window::Rolling(Unit::Minute)),
        Just(Window::Rolling(Unit::Day)),
        Just(Window::Calendar { unit: Unit::Day, zone: zone() }),
        Just(Window::Calendar { unit: Unit::Month, zone: zone() }),
    ]
}

/// A strict quota and an elastic one, with what was charged to each period by a plain count beside them.
struct Machine {
    node: SoleNode,
    chain: Arc<Chain>,
    running: Vec<Reservation>,
    unshipped: Vec<(Share, i64)>,
    charged: std::collections::BTreeMap<Share, i64>,
    limit_max: i64,
}

impl Machine {
    fn new(window: &Window) -> Self {
        let node = authority();
        let strict = Terms { is_strict: true, ..Terms::elastic(NanoUsd(200)) };
        let spend = vec![
            spend_in(&node, KEY, window.clone(), strict),
            spend_in(&node, LimitSource::Spend(Owner::Organisation), window.clone(), Terms::elastic(NanoUsd(300))),
        ];
        let chain = Arc::new(Chain { spend, ..Chain::default() });
        Self { node, chain, running: Vec::new(), unshipped: Vec::new(), charged: Default::default(), limit_max: 200 }
    }

    fn now(&self) -> EpochMs {
        EpochMs(self.node.now.load(Relaxed))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin { estimate, bound } => {
                let take = Take { estimate: NanoUsd(*estimate), bound: Some(NanoUsd(*bound)), ..take(0, 0) };
                self.running.extend(reserve(&self.node, &self.chain, &take));
            }
            Step::End { which, charge } if !self.running.is_empty() => {
                let call = self.running.swap_remove(which % self.running.len());
                // A strict bound holds; an elastic estimate need not.
                let charge = (*charge).min(call.held[0].amount);
                for share in call.shares() {
                    *self.charged.entry(share).or_default() += charge;
                    self.unshipped.push((share, charge));
                }
                call.settle(NanoUsd(charge), 0);
            }
            Step::Extend { which, more } if !self.running.is_empty() => {
                let at = which % self.running.len();
                let wants = self.running[at].short_of(NanoUsd(*more));
                ready(self.node.lease(wants)).expect("it is in memory");
                let now = self.now();
                let _ = self.running[at].extend(NanoUsd(*more), now);
            }
            Step::Drop { which } if !self.running.is_empty() => {
                drop(self.running.swap_remove(which % self.running.len()));
            }
            Step::Ship => {
                let mut authority = self.node.authority.lock().expect("not poisoned");
                for (share, charge) in self.unshipped.drain(..) {
                    authority.ship(0, share, NanoUsd(charge));
                    let charged = self.chain.spend.iter().filter(|spend| spend.id == share.quota);
                    charged.for_each(|spend| spend.book(share.period, NanoUsd(charge)));
                }
            }
            Step::Clock { by } => _ = self.node.now.fetch_add(*by, Relaxed),
            Step::Limit { limit } => {
                let spend = &self.chain.spend[0];
                let terms = Terms { is_strict: true, ..Terms::elastic(NanoUsd(*limit)) };
                let window = spend.window.clone();
                self.node.authority.lock().expect("not poisoned").set(spend.id, window, terms);
                spend.set_terms(terms);
                self.limit_max = self.limit_max.max(*limit);
            }
            Step::Want => {
                let want = |spend: &Arc<Spend>| Want { spend: Arc::clone(spend), amount: NanoUsd::ZERO, at: None };
                ready(self.node.lease(self.chain.spend.iter().map(want).collect())).expect("it is in memory");
            }
            Step::End { .. } | Step::Extend { .. } | Step::Drop { .. } => {}
        }
    }

    /// What was charged to a quota in the periods that count at a moment.
    fn counted(&self, spend: &Spend, at: EpochMs) -> i64 {
        let from = spend.window.counted_from(at);
        let span = spend.window.span(at);
        let counted = self
            .charged
            .iter()
            .filter(|(share, _)| share.quota == spend.id && share.period >= from && share.period <= span.start);
        counted.map(|(_, charge)| charge).sum()
    }

    fn check(&self) {
        let strict = &self.chain.spend[0];
        for share in self.charged.keys().filter(|share| share.quota == strict.id) {
            let counted = self.counted(strict, share.period);
            assert!(counted <= self.limit_max, "{counted} of at most {} at {:?}", self.limit_max, share.period);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_strict_limit_holds_whatever_happens(window in windows(), steps in prop::collection::vec(steps(), 1..60)) {
        let mut machine = Machine::new(&window);
        for step in &steps {
            machine.step(step);
            machine.check();
        }
        machine.running.clear();
        for spend in &machine.chain.spend {
            prop_assert_eq!(spend.reserved(), NanoUsd::ZERO);
        }
        // Told where it stands, the quota knows what the plain count knows, shipped or not.
        machine.step(&Step::Want);
        let now = machine.now();
        for spend in &machine.chain.spend {
            if !matches!(window, Window::Rolling(_)) {
                prop_assert_eq!(spend.spent(now).0, machine.counted(spend, now));
            }
        }
        machine.step(&Step::Ship);
        machine.step(&Step::Want);
        // Nothing is promised twice, and all that is left is in the sole node's hands. (A clock that was set back comes to
        // rolling buckets again that were promised when others did not count.)
        if matches!(window, Window::Rolling(_)) {
            return Ok(());
        }
        let strict = &machine.chain.spend[0];
        let (spent, leased) = machine.node.authority.lock().expect("not poisoned").standing(strict.id, now);
        prop_assert!(spent + leased <= machine.limit_max);
        prop_assert!(spent + leased >= strict.limit(now).0.min(spent));
    }
}
