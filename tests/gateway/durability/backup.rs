//! Books that are lost are put back from a backup and caught up from the journal: every call is on them once, and nobody spends
//! twice.

use super::{Load, Over, assert_audit_is_clean, assert_books_are_true};
use crate::money::{cost_of, counting, dollars, storm};
use crate::support::{Gateway, Key, Provider, Setup, Upstream, eventually};
use sqlx::Row as _;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use tempfile::TempDir;

const CLIENTS: usize = 8;
/// Calls before, during and after the backup.
const CALLS: usize = 100;

/// Where a backup goes, as text.
struct Place {
    _dir: TempDir,
    path: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("backup").to_str().expect("a plain path").to_owned();
        Self { _dir: dir, path }
    }
}

fn refused(gateway: &Gateway, arguments: &[&str]) -> String {
    let data = gateway.data();
    let output: Output = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(arguments)
        .arg("--data")
        .arg(data)
        .output()
        .expect("the binary can be started");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Destroys the books of a gateway that has ended, puts the backup in their place, and starts it again.
fn lose_and_restore(gateway: &Gateway, place: &Place) {
    std::fs::write(gateway.data().join("tollgate.db"), "lost").expect("written");
    let restored = gateway.tollgate(&["restore", &place.path]);
    assert_eq!(restored["journal_has_gap"], false);
    gateway.restart();
}

#[test]
fn under_load_every_call_before_during_and_after_the_backup_is_on_the_restored_books_once() {
    let provider = Provider::with(&["--token-ms", "1"]);
    let gateway = Setup::new()
        .upstream(Upstream::openai("openai", provider.url()))
        .upstream(Upstream::anthropic("anthropic", provider.url()))
        .section("[journal]\nship_ms = 20\nsegment_bytes = 1_048_576")
        .key(&["--limit", "900", "--strict"])
        .start();
    let (load, place) = (Load::default(), Place::new());
    let answered = || load.complete.load(Ordering::Acquire);
    let more = |calls: usize| {
        let target = answered() + calls;
        eventually("calls are answered", || (answered() >= target).then_some(()));
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let wire = gateway.connect();
            scope.spawn(|| load.client(wire, &gateway.key));
        }
        let _over = Over(&load);
        more(CALLS);
        let before = answered();
        let made = gateway.tollgate(&["backup", &place.path]);
        assert!(made["database_bytes"].as_i64() > Some(0));
        // The gateway went on meanwhile, or it does now.
        more(CALLS.saturating_sub(answered() - before));
        assert_audit_is_clean(&gateway);
        gateway.kill();
    });
    lose_and_restore(&gateway, &place);
    let made = load.made.lock().expect("the clients have ended");
    assert_books_are_true(&made, &gateway.books(), &provider.log());
    assert_audit_is_clean(&gateway);
    drop(made);
    load.is_over.store(false, Ordering::Release);
    let last = load.call(&mut gateway.connect(), &gateway.key);
    gateway.row(last.request_id.as_deref().expect("it is complete"));
    load.made.lock().expect("nobody else has it").push(last);
    assert_books_are_true(&load.made.into_inner().expect("nobody else has it"), &gateway.books(), &provider.log());
    let books = gateway.books();
    let spent: i64 = books.iter().map(|row| row.charge_nano).sum();
    let told = || gateway.rows("SELECT shipped FROM leases JOIN quotas ON id = quota WHERE kind = 'spend'");
    // What was shipped again has moved the lease, and the last call too.
    eventually("the lease knows of all of it", || {
        told().iter().any(|row| row.get::<i64, _>("shipped") == spent).then_some(())
    });
    assert_audit_is_clean(&gateway);
}

#[test]
fn credit_that_was_granted_after_the_backup_is_not_granted_again() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let limited = |calls: i64| gateway.create_key(&["--limit", &dollars(calls * price)]);
    // One has a lease when the backup is made, the other has none.
    let (begun, fresh) = (limited(100), limited(20));
    let spend = |key: &Key, calls: usize| {
        (0..calls).for_each(|_| assert_eq!(gateway.call_with(key, &call).status, 200));
    };
    spend(&begun, 10);
    gateway.books_of(11);
    let place = Place::new();
    gateway.tollgate(&["backup", &place.path]);
    spend(&begun, 60);
    spend(&fresh, 15);
    gateway.books_of(86);
    gateway.kill();
    lose_and_restore(&gateway, &place);
    assert_eq!(gateway.books().len(), 86, "all of it was shipped again");
    assert_audit_is_clean(&gateway);
    for (key, left) in [(begun, 30), (fresh, 5)] {
        let storm = storm(&gateway, &[key], &call, 100, &["credits_reserved"]);
        assert_eq!((storm.passed, storm.refused.len()), (left, 1), "{storm:?}");
    }
    gateway.books_of(121);
    eventually("the books are true", || gateway.audit().status.success().then_some(()));
}

#[test]
fn nothing_is_restored_under_a_running_gateway_and_nothing_but_a_backup() {
    let gateway = Gateway::start();
    let place = Place::new();
    gateway.tollgate(&["backup", &place.path]);
    assert!(refused(&gateway, &["backup", &place.path]).contains("to be made"));
    assert!(refused(&gateway, &["restore", &place.path]).contains("another process uses the journal"));
    assert_eq!(gateway.call(&counting(1)).status, 200);
    gateway.kill();
    let elsewhere = gateway.data().join("journal");
    let said = refused(&gateway, &["restore", elsewhere.to_str().expect("a plain path")]);
    assert!(said.contains("no backup"), "{said}");
    gateway.restart();
    gateway.books_of(1);
}
