//! The process dies at each point that matters, or its disk fails there; whatever the point, the books are true afterwards.
//!
//! Needs a binary with the feature `crash-points`: `cargo test --features crash-points --test gateway crash`.

use super::{Load, Over, assert_audit_is_clean, assert_books_are_true};
use crate::support::{Gateway, Provider, Setup, Upstream, eventually};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering;

const CLIENTS: usize = 6;
/// Each point is tried on its first call and on a later one, among others that run.
const TIMES: [usize; 2] = [1, 9];
/// Calls that are answered while the disk fails.
const CALLS: usize = 60;

/// A gateway before a provider that outlives it.
fn start(journal: &str) -> (Provider, Gateway) {
    let provider = Provider::with(&["--token-ms", "1"]);
    let gateway = Setup::new()
        .upstream(Upstream::openai("openai", provider.url()))
        .upstream(Upstream::anthropic("anthropic", provider.url()))
        .section(&format!("[journal]\n{journal}"))
        .start();
    (provider, gateway)
}

/// Makes calls from several clients while `watch` runs.
fn under_load(gateway: &Gateway, load: &Load, watch: impl FnOnce()) {
    load.is_over.store(false, Ordering::Release);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let wire = gateway.connect();
            scope.spawn(|| load.client(wire, &gateway.key));
        }
        let _over = Over(load);
        watch();
    });
}

fn assert_true(gateway: &Gateway, provider: &Provider, load: &Load) {
    let made = load.made.lock().expect("the clients have ended");
    assert_books_are_true(&made, &gateway.books(), &provider.log());
    assert_audit_is_clean(gateway);
}

fn dies_at(points: &[&str], journal: &str) {
    let (provider, gateway) = start(journal);
    die_at(&provider, &gateway, points, TIMES);
}

fn die_at(provider: &Provider, gateway: &Gateway, points: &[&str], times: [usize; 2]) {
    let load = Load::default();
    for (point, times) in points.iter().flat_map(|point| times.map(|times| (point, times))) {
        gateway.kill();
        gateway.restart_with(&[("TOLLGATE_CRASH_AT", &format!("{point}:{times}"))]);
        under_load(gateway, &load, || {
            let ended = gateway.wait();
            assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "it dies at {point}:\n{}", gateway.log());
        });
        // What it left is on the books before the listener opens again.
        gateway.restart();
        assert_true(gateway, provider, &load);
        let in_flight = gateway.key_view(&gateway.key)["reserved"].to_string();
        assert_eq!(in_flight, "0", "after {point}");
    }
    let answered = load.complete.load(Ordering::Acquire);
    under_load(gateway, &load, || {
        eventually("calls pass", || (load.complete.load(Ordering::Acquire) > answered + CALLS).then_some(()));
    });
    gateway.kill();
    gateway.restart();
    assert_true(gateway, provider, &load);
}

#[test]
fn dead_before_a_provider_is_asked_the_books_are_true() {
    let points = ["before-reserve", "before-intent", "inside-intent", "after-intent", "before-dial", "after-dial"];
    dies_at(&points, "sync = 'interval'");
}

#[test]
fn dead_while_the_answer_passes_the_books_are_true() {
    let points = [
        "before-first-byte",
        "after-first-byte",
        "before-terminal",
        "after-terminal",
        "before-final-event",
        "after-final-event",
    ];
    dies_at(&points, "sync = 'interval'");
    dies_at(&["after-terminal", "before-final-event", "after-final-event"], "sync = 'each'");
}

#[test]
fn dead_while_the_books_are_written_they_are_true() {
    dies_at(&["before-ship", "after-ship", "before-checkpoint", "after-checkpoint"], "ship_ms = 20");
}

#[test]
fn dead_while_credit_is_leased_the_books_are_true() {
    let provider = Provider::with(&["--token-ms", "1"]);
    // Credit of each second of a rolling minute is leased anew.
    let limit = ["--limit", "900", "--period", "minute", "--align", "rolling"];
    let gateway = Setup::new()
        .upstream(Upstream::openai("openai", provider.url()))
        .upstream(Upstream::anthropic("anthropic", provider.url()))
        .key(&limit)
        .start();
    die_at(&provider, &gateway, &["before-lease", "after-lease"], [1, 3]);
    assert!(gateway.key_money(&gateway.key, "usage") > 0);
}

#[test]
fn dead_while_it_closes_what_an_earlier_process_left_the_books_are_true() {
    let (provider, gateway) = start("sync_ms = 50");
    let load = Load::default();
    for point in ["before-mend", "inside-mend", "after-mend", "before-ship", "before-checkpoint", "after-ship"] {
        let answered = load.complete.load(Ordering::Acquire);
        under_load(&gateway, &load, || {
            eventually("calls pass", || (load.complete.load(Ordering::Acquire) > answered + CALLS).then_some(()));
            gateway.kill();
        });
        let ended = gateway.start_and_wait(&[("TOLLGATE_CRASH_AT", point)]);
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "it dies at {point}");
        gateway.restart();
        assert_true(&gateway, &provider, &load);
    }
}

#[test]
fn a_disk_that_takes_no_sync_costs_a_segment_and_nothing_else() {
    for journal in ["sync = 'interval'\nsync_ms = 5", "sync = 'each'"] {
        let (provider, gateway) = start(journal);
        gateway.kill();
        gateway.restart_with(&[("TOLLGATE_CRASH_AT", "sync-fails:3")]);
        let load = Load::default();
        under_load(&gateway, &load, || {
            eventually("the disk has failed", || {
                (gateway.metric("tollgate_journal_failures_total", &[]) > 0.0).then_some(())
            });
            let answered = load.complete.load(Ordering::Acquire);
            eventually("calls pass", || (load.complete.load(Ordering::Acquire) > answered + CALLS).then_some(()));
        });
        let segments = std::fs::read_dir(gateway.data().join("journal")).expect("the journal");
        let segments = segments.filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "segment"))
        });
        assert!(segments.count() >= 2, "the segment that failed is not written to again");
        gateway.kill();
        gateway.restart();
        assert_true(&gateway, &provider, &load);
    }
}
