//! Limits over periods: what counts, when it starts anew, and what clients are told of it.

use super::{Links, answered, code, limit_of, money};
use crate::money::{cost_of, counting, dollars};
use crate::support::{Answer, Gateway};
use filters::time::EpochMs;
use filters::window::Window;
use std::time::{Duration, Instant};

/// A minute of the clock, and what a slow machine may take beyond.
const NEXT_MINUTE: Duration = Duration::from_secs(75);

/// Every form of a period, as it is typed and as it is stored.
fn periods() -> Vec<(Vec<&'static str>, String)> {
    let mut periods = vec![(vec!["--period", "total"], "total".to_owned())];
    for unit in ["minute", "hour", "day", "week", "month"] {
        periods.push((vec!["--period", unit], format!("calendar {unit} UTC")));
        let zoned = vec!["--period", unit, "--align", "calendar", "--zone", "Europe/Berlin"];
        periods.push((zoned, format!("calendar {unit} Europe/Berlin")));
        periods.push((vec!["--period", unit, "--align", "rolling"], format!("rolling {unit}")));
    }
    periods
}

/// Makes a chain whose project has a limit, and two calls of it, in one period: none has begun meanwhile.
fn in_one_period<'a>(gateway: &'a Gateway, window: &Window, limit: &[&str]) -> (Links<'a>, [Answer; 2]) {
    loop {
        let begun = window.counted(tollgate::clock::now());
        let links = Links::new(gateway);
        links.limit("project", limit);
        let answers = [(); 2].map(|()| links.call(&counting(10)));
        let is_same = !matches!(window, Window::Calendar { .. }) || begun == window.counted(tollgate::clock::now());
        if is_same {
            return (links, answers);
        }
    }
}

#[test]
fn a_limit_of_every_period_holds_and_says_when_it_starts_anew() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    for strictness in ["--elastic", "--strict"] {
        for (typed, name) in periods() {
            let window: Window = name.parse().expect("a window");
            // Pays for one call, whose bound counts where the limit is strict.
            let left = if strictness == "--strict" { super::BOUND_NANO } else { price / 2 };
            let limit = dollars(price + left);
            let before = tollgate::clock::now();
            let (links, [passed, refused]) =
                in_one_period(&gateway, &window, &[&["--limit", &limit, strictness], &typed[..]].concat());
            assert_eq!([code(&passed), code(&refused)], ["200", "spend_limit_reached"], "{name}");
            assert_eq!(refused.json()["error"]["limit_source"], "project_spend_limit");
            let shown = limit_of(&gateway, &links.key, "project_spend_limit");
            assert_eq!((&shown["window"], &shown["strict"]), (&(*name).into(), &(strictness == "--strict").into()));
            assert_eq!((money(&shown, "usage"), money(&shown, "remaining")), (price, left), "{name}");
            // People are told when to come again; the SDKs are not to wait so long.
            assert_eq!(refused.header("x-should-retry"), Some("false"));
            let wait: Option<i64> = refused.header("retry-after").map(|text| text.parse().expect("seconds"));
            let until = |now: EpochMs| window.heals_at(now).map(|at| at.0 - now.0);
            let longest =
                until(before).map(|_| window.heals_at(tollgate::clock::now()).expect("the same").0 - before.0);
            assert_eq!(wait.is_some(), longest.is_some(), "{name}");
            if let (Some(wait), Some(longest)) = (wait, longest) {
                assert!((1..=longest / 1_000 + 1).contains(&wait), "{name}: {wait} s of {longest} ms");
                assert!(shown["resets_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{shown}");
            } else {
                assert!(shown["resets_at"].is_null(), "{shown}");
            }
        }
    }
}

#[test]
fn a_month_in_berlin_begins_at_midnight_there() {
    let gateway = Gateway::start();
    let month: Window = "calendar month Europe/Berlin".parse().expect("a window");
    let arguments = ["--limit", "0.000000001", "--period", "month", "--align", "calendar", "--zone", "Europe/Berlin"];
    let (links, _) = in_one_period(&gateway, &month, &arguments);
    let shown = limit_of(&gateway, &links.key, "project_spend_limit");
    let end = month.heals_at(tollgate::clock::now()).expect("a calendar has an end");
    assert_eq!(shown["resets_at"], super::typed(end));
}

#[test]
fn time_does_not_heal_what_a_whole_period_could_not_pay_for() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let key = gateway.create_key(&["--limit", &dollars(price), "--period", "day"]);
    let refused = gateway.call_with(&key, &counting(20));
    assert_eq!(refused.refusal(), (402, "spend_limit_reached".to_owned()));
    assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), (None, None));
    answered(&gateway, &key, &counting(10), "200");
    let refused = gateway.call_with(&key, &counting(10));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
}

#[test]
fn a_new_minute_pays_again_and_what_was_spent_is_not_forgotten() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let minute: Window = "calendar minute UTC".parse().expect("a window");
    let limit = dollars(2 * price);
    let arguments = ["--limit", &limit, "--requests", "3", "--period", "minute"];
    let (links, answers) = in_one_period(&gateway, &minute, &arguments);
    assert_eq!(answers.each_ref().map(code), ["200", "200"]);
    let begun = Instant::now();
    let mut passed = 0;
    while passed < 2 {
        assert!(begun.elapsed() < NEXT_MINUTE, "no minute ends");
        let answer = links.call(&counting(10));
        if answer.status == 200 {
            passed += 1;
            continue;
        }
        assert!(matches!(code(&answer).as_str(), "spend_limit_reached" | "rate_limit_exceeded"), "{answer:?}");
        let wait: u64 = answer.header("retry-after-ms").expect("how long").parse().expect("milliseconds");
        std::thread::sleep(Duration::from_millis(wait.min(50)));
    }
    let spent = |id: &str| gateway.tollgate(&["project", "show", id])["spent"].to_string();
    crate::support::eventually("all four are on the books", || {
        (crate::money::nano(&spent(&links.project)) == 4 * price).then_some(())
    });
}

#[test]
fn a_rate_counts_in_the_period_of_its_zone() {
    let gateway = Gateway::start();
    for zone in ["UTC", "Asia/Kathmandu"] {
        let window: Window = format!("calendar day {zone}").parse().expect("a window");
        let limit = ["--requests", "1", "--period", "day", "--zone", zone];
        let (_, [passed, refused]) = in_one_period(&gateway, &window, &limit);
        assert_eq!([code(&passed), code(&refused)], ["200", "rate_limit_exceeded"]);
        let now = tollgate::clock::now();
        let wait = window.heals_at(now).expect("a day ends").since(now).div_ceil(1_000);
        let told: u64 = refused.header("retry-after").expect("how long").parse().expect("seconds");
        // The refusal is a moment older.
        assert!((wait..wait + 20).contains(&told), "{zone}: {told} s are told, {wait} s are left");
    }
}
