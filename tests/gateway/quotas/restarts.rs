//! Limits across ends of the process: what was leased comes back, what was spent stays spent.

use super::{BOUND_NANO, Links, code, limit_of, money, running};
use crate::money::{Storm, cost_of, counting, dollars, storm};
use crate::support::{Gateway, eventually};
use filters::window::Window;
use rustix::process::Signal;

fn end(gateway: &Gateway, signal: Signal) {
    gateway.signal(signal);
    gateway.wait();
    gateway.restart();
}

fn assert_audit_is_clean(gateway: &Gateway) {
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}

#[test]
fn what_was_leased_comes_back_when_the_process_ends() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let windows: [&[&str]; 3] = [
        &["--period", "total"],
        &["--period", "month", "--zone", "Europe/Berlin"],
        &["--period", "month", "--align", "rolling"],
    ];
    for signal in [Signal::KILL, Signal::TERM] {
        for window in windows {
            for strictness in ["--elastic", "--strict"] {
                let links = Links::new(&gateway);
                for owner in super::OWNERS {
                    let limit = dollars(40 * price + BOUND_NANO);
                    links.limit(owner, &[&["--limit", &limit, strictness], window].concat());
                }
                let mut passed = 0;
                for _ in 0..3 {
                    for _ in 0..10 {
                        assert_eq!(links.call(&call).status, 200);
                        passed += 1;
                    }
                    end(&gateway, signal);
                    let shown = limit_of(&gateway, &links.key, "project_spend_limit");
                    assert_eq!(money(&shown, "usage"), passed * price, "{window:?} {strictness}");
                }
                let rest = storm(&gateway, &[links.key.clone(), links.sibling()], &call, 20, &["credits_reserved"]);
                let expected = if strictness == "--strict" { 10 } else { 10 + usize::from(BOUND_NANO >= price) };
                assert_eq!(rest, Storm::of(expected, "spend_limit_reached", 20 - expected), "{window:?} {strictness}");
            }
        }
    }
    assert_audit_is_clean(&gateway);
}

#[test]
fn what_a_killed_process_had_leased_of_a_rolling_window_is_free_in_its_next_part() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let window: Window = "rolling minute".parse().expect("a window");
    let links = Links::new(&gateway);
    links.limit("project", &["--limit", &dollars(3 * price), "--period", "minute", "--align", "rolling"]);
    assert_eq!(links.call(&counting(10)).status, 200);
    let leased_in = window.span(tollgate::clock::now());
    end(&gateway, Signal::KILL);
    eventually("another part of the window has begun", || (!leased_in.contains(tollgate::clock::now())).then_some(()));
    // Nothing is running: all that is left is free.
    let codes = [(); 3].map(|()| code(&links.call(&counting(10))));
    assert_eq!(codes, ["200", "200", "spend_limit_reached"]);
}

#[test]
fn killed_in_the_middle_calls_are_charged_and_give_the_rest_and_their_places_back() {
    let gateway = Gateway::start();
    let price = cost_of(&gateway, &counting(10));
    let links = Links::new(&gateway);
    let held_price = price + 490 * crate::money::OUTPUT_NANO;
    links.limit("project", &["--limit", &dollars(held_price + 20 * price), "--concurrency", "1"]);
    for _ in 0..3 {
        let held = running(&gateway, &links.key, counting(500));
        assert_eq!(code(&links.call(&counting(10))), "concurrency_exceeded");
        gateway.kill();
        drop(held);
        gateway.restart();
        assert_eq!(gateway.key_money(&links.key, "reserved"), 0);
    }
    let shown = limit_of(&gateway, &links.key, "project_spend_limit");
    let (spent, left) = (money(&shown, "usage"), money(&shown, "remaining"));
    let recovered = gateway.books().into_iter().filter(|row| row.key == links.key.id && row.outcome == "recovered");
    let recovered: Vec<i64> = recovered.map(|row| row.charge_nano).collect();
    assert_eq!((recovered.len(), recovered.iter().sum::<i64>()), (3, spent));
    let passing = usize::try_from(left / price).expect("not negative");
    let passed = (0..passing + 3).filter(|_| links.call(&counting(10)).status == 200).count();
    assert_eq!(passed, passing);
    assert_audit_is_clean(&gateway);
}
