//! Many calls at the same moment against limits that pay for exactly so many.

use super::{BOUND_NANO, Links, limit_of, money};
use crate::money::{Account, Storm, cost_of, counting, dollars, storm, storm_of_held, times};
use crate::support::{Gateway, Key};
use filters::window::Window;

/// Runs of each storm: in the normal run, and in the long one.
const RUNS: [usize; 2] = [10, 100];
const CALLS: usize = 500;
const PASSING: usize = 100;

fn runs() -> std::ops::Range<usize> {
    0..times(RUNS[0], RUNS[1])
}

/// Limits that pay for exactly 100 calls, of every strictness, and what they are called.
fn limits(price: i64) -> [(&'static str, i64); 2] {
    // The last call needs its bound, although it costs less.
    [("--elastic", 100 * price), ("--strict", 100 * price + BOUND_NANO)]
}

#[test]
fn of_500_calls_the_100_that_are_paid_for_pass_whatever_the_window_and_the_strictness() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let windows: [&[&str]; 3] = [
        &["--period", "total"],
        &["--period", "month", "--align", "calendar", "--zone", "Europe/Berlin"],
        &["--period", "month", "--align", "rolling"],
    ];
    for run in runs() {
        let owner = super::OWNERS[run % 3];
        for window in windows {
            for (strictness, limit) in limits(price) {
                let links = Links::new(&gateway);
                links.limit(owner, &[&["--limit", &dollars(limit), strictness], window].concat());
                let keys =
                    if owner == "key" { vec![links.key.clone()] } else { vec![links.sibling(), links.sibling()] };
                let passed = storm(&gateway, &keys, &call, CALLS, &["credits_reserved"]);
                assert_eq!(
                    passed,
                    Storm::of(PASSING, "spend_limit_reached", CALLS - PASSING),
                    "{window:?} {strictness}"
                );
                let shown = limit_of(&gateway, &keys[0], &format!("{owner}_spend_limit"));
                assert_eq!((money(&shown, "usage"), money(&shown, "remaining")), (100 * price, limit - 100 * price));
            }
        }
    }
}

#[test]
fn three_keys_under_one_strict_balance_get_what_it_pays_for() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    for run in runs() {
        let account = Account::with(&gateway, 100 * price);
        // Strict limits of their own, which pay for more: the balance, which is elastic, decides.
        let generous = dollars(1_000 * price);
        let keys =
            [&["--limit", &generous, "--strict"][..], &["--limit", &generous], &[]].map(|limit| account.key(limit));
        let passed = storm(&gateway, &keys, &call, CALLS, &["credits_reserved"]);
        assert_eq!(passed, Storm::of(PASSING, "insufficient_credits", CALLS - PASSING), "run {run}");
        let spent: i64 = keys.iter().map(|key| gateway.key_money(key, "usage")).sum();
        assert_eq!(spent, 100 * price);
    }
}

/// Lets three keys of a project storm a limit of it.
fn storm_the_project(gateway: &Gateway, limit: &[&str]) -> (Storm, Vec<Key>) {
    let links = Links::new(gateway);
    links.limit("project", limit);
    let keys = vec![links.key.clone(), links.sibling(), links.sibling()];
    (storm(gateway, &keys, &counting(10), CALLS, &[]), keys)
}

#[test]
fn of_500_calls_100_pass_a_limit_of_requests_or_of_tokens() {
    let gateway = Gateway::start();
    let answer = gateway.call(&counting(10));
    let tokens = answer.json()["usage"]["total_tokens"].as_i64().expect("a total");
    let tokens = (100 * tokens + tokens / 2).to_string();
    let day: Window = "calendar day UTC".parse().expect("a window");
    for run in runs() {
        for limit in [["--requests", "100"], ["--tokens", &tokens]] {
            let limit = [&limit[..], &["--period", "day"]].concat();
            let passed = loop {
                let begun = day.counted(tollgate::clock::now());
                let (passed, _) = storm_the_project(&gateway, &limit);
                if begun == day.counted(tollgate::clock::now()) {
                    break passed;
                }
            };
            assert_eq!(passed, Storm::of(PASSING, "rate_limit_exceeded", CALLS - PASSING), "run {run}: {limit:?}");
        }
    }
}

#[test]
fn of_500_calls_100_run_at_once() {
    let gateway = Gateway::start();
    for run in runs() {
        let owner = super::OWNERS[run % 3];
        let links = Links::new(&gateway);
        links.limit(owner, &["--concurrency", "100", if run % 2 == 0 { "--strict" } else { "--elastic" }]);
        let keys = if owner == "key" { vec![links.key.clone()] } else { vec![links.key.clone(), links.sibling()] };
        let held = storm_of_held(&gateway, &keys, &counting(10), CALLS);
        assert_eq!(held, Storm::of(PASSING, "concurrency_exceeded", CALLS - PASSING), "run {run}");
    }
}
