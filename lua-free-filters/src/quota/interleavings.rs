//! Accounts under every order of their threads' steps that shuttle finds: no credit is made or lost, and a limit holds.

use super::account::Account;
use crate::lease::Lease;
use crate::time::EpochMs;
use crate::window::Span;
use shuttle::sync::Arc;
use shuttle::thread;

/// Schedules of each test: half of them random, half with few changes of thread at the least likely points.
const SCHEDULES: usize = 20_000;
const GRANTED: i64 = 10;

fn tried(check: impl Fn() + Send + Sync + 'static) {
    let check = std::sync::Arc::new(check);
    let again = std::sync::Arc::clone(&check);
    shuttle::check_random(move || check(), SCHEDULES / 2);
    shuttle::check_pct(move || again(), SCHEDULES / 2, 3);
}

fn leased() -> Arc<Account> {
    let account = Account::leased(Span::TOTAL, Lease { granted: GRANTED, ..Lease::default() });
    account.cover(EpochMs(0), EpochMs(i64::MAX));
    Arc::new(account)
}

/// When nothing runs: what was granted is charged, given back, or here.
fn check_sum(account: &Account, granted: i64) {
    let held = account.holding().expect("it is leased");
    assert_eq!(account.reserved(), 0);
    assert_eq!(account.free() + account.settled() + held.returned, granted, "{account:?}");
}

/// Takes, grows if it can, and is charged: never more than it holds. Says what it was charged.
fn call(account: &Account, amount: i64, more: i64, charge: i64) -> i64 {
    let Some(generation) = account.take(amount) else { return 0 };
    let extended = if account.take(more).is_some() { amount + more } else { amount };
    let charge = charge.min(extended);
    account.settle((extended, generation), charge);
    charge
}

#[test]
fn calls_are_never_charged_more_than_was_granted() {
    tried(|| {
        let account = leased();
        let run = |amount, more, charge| {
            let account = Arc::clone(&account);
            thread::spawn(move || call(&account, amount, more, charge))
        };
        let calls = [run(4, 3, 5), run(5, 1, 6), run(3, 2, 1)];
        let charged: i64 = calls.into_iter().map(|call| call.join().expect("it ran")).sum();
        assert!(charged <= GRANTED);
        assert_eq!(account.settled(), charged);
        check_sum(&account, GRANTED);
    });
}

#[test]
fn what_is_given_back_is_nobodys_and_nothing_is_lost() {
    tried(|| {
        let account = leased();
        let other = Arc::clone(&account);
        let giver = thread::spawn(move || {
            other.retire();
            other.holding().expect("it is leased").returned
        });
        let other = Arc::clone(&account);
        let caller = thread::spawn(move || call(&other, 6, 4, 7));
        let charged = call(&account, 3, 2, 2) + caller.join().expect("it ran");
        // Whatever the authority was told, at any moment, it may promise to others.
        let told = giver.join().expect("it ran");
        assert!(charged + account.free() + told <= GRANTED);
        check_sum(&account, GRANTED);
    });
}

#[test]
fn what_was_set_aside_before_credit_was_given_back_does_not_become_credit() {
    tried(|| {
        let account = leased();
        let generation = account.take(GRANTED).expect("all of it");
        account.retire();
        let other = Arc::clone(&account);
        let settler = thread::spawn(move || other.settle((GRANTED, generation), 4));
        assert!(account.take(1).is_none(), "it would be of the old limit");
        assert!(settler.join().expect("it ran"));
        check_sum(&account, GRANTED);
        assert_eq!(account.free(), 0);
    });
}

#[test]
fn a_grant_beside_calls_and_giving_back_is_neither_doubled_nor_lost() {
    tried(|| {
        let account = leased();
        let other = Arc::clone(&account);
        let lease = thread::spawn(move || {
            other.retire();
            // The authority answers what it was told with five more; the reply is read twice, as after a loss.
            other.grant(GRANTED + 5);
            other.grant(GRANTED + 5);
        });
        let other = Arc::clone(&account);
        let caller = thread::spawn(move || call(&other, 8, 4, 12));
        let charged = call(&account, 5, 1, 3) + caller.join().expect("it ran");
        lease.join().expect("it ran");
        assert!(charged <= GRANTED + 5);
        check_sum(&account, GRANTED + 5);
    });
}

#[test]
fn what_is_owed_when_a_limit_comes_covers_all_that_runs() {
    tried(|| {
        let account = Arc::new(Account::boundless(Span::TOTAL));
        let run = |amount, charge| {
            let account = Arc::clone(&account);
            thread::spawn(move || call(&account, amount, 0, charge))
        };
        let calls = [run(7, 7), run(5, 9)];
        account.bind();
        let claimed = account.owed();
        // The authority grants just that: nobody may take more.
        account.enter(Lease { granted: claimed, ..Lease::default() });
        let charged: i64 = calls.into_iter().map(|call| call.join().expect("it ran")).sum();
        assert!(charged <= claimed, "{charged} of {claimed}");
        check_sum(&account, claimed);
    });
}
