//! What a client saw complete is on the books, whatever happens to the process: killed, stopped, started twice, or unable to
//! write its books.

mod backup;
#[cfg(feature = "crash-points")]
mod crash;
mod disk;

use crate::money::{cost, cost_of, counting, dollars, meddle, nano, raw, storm, times, within_a_second};
use crate::support::{Answer, Call, Gateway, Key, Provider, Request, Row, Setup, Upstream, Wire, eventually, sha256};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Result;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Gateways, in the normal run and in the long one, and how often each of them is killed: a gateway's calls are known by the
/// length of their prompts, so that there must not be too many of one.
const ROUNDS: [usize; 2] = [1, 100];
const CYCLES: usize = 5;
const CLIENTS: usize = 200;
/// Calls that are complete before the process is killed.
const CALLS_BEFORE_KILL: usize = 300;
/// How often it is killed by a client that has just seen its stream's end, and by one of how many. The same two runs.
const KILLS_AT_THE_END: [usize; 2] = [15, 500];
const STREAMS_AT_ONCE: usize = 6;

/// A call that a client has made.
struct Made {
    /// Of the request's body, which the gateway hands on unchanged.
    body_sha256: String,
    /// What the client saw as `x-request-id`, if it saw the head of the answer.
    request_id: Option<String>,
    /// Whether it saw the protocol's last event, or the whole body.
    is_complete: bool,
}

/// All calls of all cycles.
#[derive(Default)]
struct Load {
    made: Mutex<Vec<Made>>,
    complete: AtomicUsize,
    begun: AtomicUsize,
    /// The process is about to be killed, or has been.
    is_over: AtomicBool,
}

impl Load {
    /// Makes calls on one connection until it breaks.
    fn client(&self, mut wire: Wire, key: &Key) {
        while !self.is_over.load(Ordering::Acquire) {
            let made = self.call(&mut wire, key);
            let is_complete = made.is_complete;
            self.made.lock().expect("no client panics with it").push(made);
            if !is_complete {
                return;
            }
            self.complete.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn call(&self, wire: &mut Wire, key: &Key) -> Made {
        let number = self.begun.fetch_add(1, Ordering::AcqRel);
        let request = call_of(number).request(&key.token);
        let mut made = Made { body_sha256: sha256(&request.body), request_id: None, is_complete: false };
        // Whatever breaks it, what came before is noted.
        let _ = made.send(wire, &request, is_streamed(number));
        made
    }
}

/// Tells the clients to stop, however the test goes on.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Made {
    fn send(&mut self, wire: &mut Wire, request: &Request, is_streamed: bool) -> Result<()> {
        wire.try_send(&request.bytes())?;
        if !is_streamed {
            self.request_id = Some(wire.try_answer()?.request_id().to_owned());
            self.is_complete = true;
            return Ok(());
        }
        self.request_id = Some(wire.try_head()?.request_id().to_owned());
        while let Some(event) = wire.event()? {
            self.is_complete |= event.contains("data: [DONE]") || event.contains("event: message_stop");
        }
        Ok(())
    }
}

fn is_streamed(number: usize) -> bool {
    !number.is_multiple_of(3)
}

/// The call of a number: both protocols, unary and streamed, and no two with prompts of one length, so that each is known by
/// its input tokens.
fn call_of(number: usize) -> Call {
    let prompt = format!("count {}", "x".repeat(number));
    let tokens = 5 + number % 30;
    let call =
        if number.is_multiple_of(2) { Call::chat(&prompt) } else { Call::messages(&prompt) }.with("max_tokens", tokens);
    match (is_streamed(number), number.is_multiple_of(2)) {
        (false, _) => call,
        // Asked for by the client itself, the usage event needs no change of the body.
        (true, true) => call.streamed().with("stream_options", json!({"include_usage": true})),
        (true, false) => call.streamed(),
    }
}

/// The rows of calls that the clients saw complete have the provider's usage; every other call that a provider began has been
/// closed within what was set aside for it.
fn assert_books_are_true(made: &[Made], rows: &[Row], served: &[Value]) {
    let by_id: BTreeMap<&str, &Row> = rows.iter().map(|row| (row.request_id.as_str(), row)).collect();
    assert_eq!(by_id.len(), rows.len(), "each call is on the books once");
    let by_body: BTreeMap<&str, &Value> =
        served.iter().map(|call| (call["body_sha256"].as_str().expect("a hash"), call)).collect();
    assert_eq!(by_body.len(), served.len(), "each call was served once");
    let mut seen = BTreeSet::new();
    for call in made.iter().filter(|call| call.is_complete) {
        let row = by_id[call.request_id.as_deref().expect("it saw the head")];
        let bill = by_body[call.body_sha256.as_str()];
        let billed = ["input_tokens", "output_tokens_billed"].map(|field| bill[field].as_i64());
        assert_eq!([Some(row.input_tokens), Some(row.output_tokens)], billed, "{row:?} {bill}");
        assert_eq!((row.outcome.as_str(), row.is_estimated), ("complete", false), "{row:?}");
        seen.insert(row.input_tokens);
    }
    let others: BTreeMap<i64, &Row> =
        rows.iter().filter(|row| !seen.contains(&row.input_tokens)).map(|row| (row.input_tokens, row)).collect();
    assert_eq!(others.len() + seen.len(), rows.len(), "no two calls have as many input tokens");
    for row in others.values() {
        assert!(matches!(row.outcome.as_str(), "recovered" | "complete"), "{row:?}");
        assert!((1..=row.reserved_nano).contains(&row.charge_nano), "{row:?}");
    }
    for call in made.iter().filter(|call| !call.is_complete) {
        let known = call.request_id.as_deref().map(|id| by_id.contains_key(id));
        assert_ne!(known, Some(false), "a call whose head was seen is on the books: {:?}", call.request_id);
    }
    for bill in served {
        let input = bill["input_tokens"].as_i64().expect("a number");
        assert!(
            seen.contains(&input) || others.contains_key(&input),
            "a call that was begun is not on the books: {bill}"
        );
    }
}

fn assert_audit_is_clean(gateway: &Gateway) {
    let audit = gateway.audit();
    let said = format!("{}{}", String::from_utf8_lossy(&audit.stdout), String::from_utf8_lossy(&audit.stderr));
    assert!(audit.status.success(), "{said}");
}

#[test]
fn killed_under_load_it_forgets_nothing_that_a_client_saw() {
    (0..times(ROUNDS[0], ROUNDS[1])).for_each(|_| killed_under_load());
}

fn killed_under_load() {
    // The provider outlives the gateway.
    let provider = Provider::with(&["--token-ms", "2"]);
    let setup = Setup::new()
        .upstream(Upstream::openai("openai", provider.url()))
        .upstream(Upstream::anthropic("anthropic", provider.url()));
    let gateway = setup.start();
    let load = Load::default();
    for cycle in 0..CYCLES {
        let target = load.complete.load(Ordering::Acquire) + CALLS_BEFORE_KILL;
        load.is_over.store(false, Ordering::Release);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let wire = gateway.connect();
                scope.spawn(|| load.client(wire, &gateway.key));
            }
            eventually("calls are answered", || (load.complete.load(Ordering::Acquire) >= target).then_some(()));
            gateway.signal(Signal::KILL);
            gateway.wait();
            load.is_over.store(true, Ordering::Release);
        });
        gateway.restart();
        // What the killed process left is on the books before the listener opens.
        let made = load.made.lock().expect("the clients have ended");
        assert_books_are_true(&made, &gateway.books(), &provider.log());
        assert_audit_is_clean(&gateway);
        assert!(made.iter().filter(|call| !call.is_complete).count() > cycle, "calls were running when it was killed");
    }
    // The last calls that were cut are in the provider's log by the time that it has served another.
    let last = load.call(&mut gateway.connect(), &gateway.key);
    assert!(last.is_complete);
    gateway.row(last.request_id.as_deref().expect("it is complete"));
    load.made.lock().expect("nobody else has it").push(last);
    let made = load.made.into_inner().expect("nobody else has it");
    assert_books_are_true(&made, &gateway.books(), &provider.log());
    let spent: i64 = gateway.books().iter().map(|row| row.charge_nano).sum();
    let view = gateway.exchange(&Request::get("/v1/key").bearer(&gateway.key.token)).text();
    assert_eq!((nano(raw(&view, "usage")), nano(raw(&view, "reserved"))), (spent, 0));
}

/// Streams that end together, and the process killed by the first client that sees its end.
fn kill_at_the_end(gateway: &Gateway) -> Vec<String> {
    let wires: Vec<Wire> =
        (0..STREAMS_AT_ONCE).map(|_| gateway.open(&counting(5).streamed().simulate("token-ms=3"))).collect();
    let see_the_end = |mut wire: Wire| -> Option<String> {
        let id = wire.try_head().ok()?.request_id().to_owned();
        while wire.event().ok()?? != "data: [DONE]" {}
        gateway.signal(Signal::KILL);
        Some(id)
    };
    let complete = std::thread::scope(|scope| {
        let clients: Vec<_> = wires.into_iter().map(|wire| scope.spawn(move || see_the_end(wire))).collect();
        clients.into_iter().filter_map(|client| client.join().expect("a client")).collect()
    });
    gateway.wait();
    complete
}

#[test]
fn killed_the_moment_a_client_sees_the_end_the_call_is_on_the_books() {
    let provider = Provider::start();
    let gateway = Setup::new().upstream(Upstream::openai("openai", provider.url())).start();
    for _ in 0..times(KILLS_AT_THE_END[0], KILLS_AT_THE_END[1]) {
        let complete = kill_at_the_end(&gateway);
        gateway.restart();
        let rows = gateway.books();
        assert!(!complete.is_empty());
        for id in complete {
            let row = rows.iter().find(|row| row.request_id == id).expect("it is on the books");
            assert_eq!((row.outcome.as_str(), row.output_tokens), ("complete", 5), "{row:?}");
        }
    }
    assert_audit_is_clean(&gateway);
}

#[test]
fn killed_while_it_starts_it_still_knows_everything() {
    let gateway = Gateway::start();
    let calls: Vec<Answer> = (1..60).map(|tokens| gateway.call(&counting(tokens))).collect();
    let mut streams: Vec<Wire> =
        (1..20).map(|tokens| gateway.open(&counting(tokens).streamed().simulate("hang-after=1"))).collect();
    let cut: Vec<String> = streams.iter_mut().map(|wire| wire.head().request_id().to_owned()).collect();
    gateway.kill();
    for milliseconds in [1, 4, 8, 12, 16, 20, 25, 30, 40] {
        let mut starting = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let mut starting = starting
            .args(["serve", "--config"])
            .arg(gateway.config())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        // Not to let anything settle: to hit it at another point each time.
        std::thread::sleep(Duration::from_millis(milliseconds));
        starting.kill().expect("it is ours");
        starting.wait().expect("it is ours");
    }
    gateway.restart();
    let rows = gateway.books();
    assert_eq!(rows.len(), calls.len() + cut.len());
    let charge =
        |id: &str| rows.iter().find(|row| row.request_id == id).map(|row| (row.outcome.as_str(), row.charge_nano));
    for answer in &calls {
        assert_eq!(charge(answer.request_id()), Some(("complete", cost(answer))));
    }
    assert!(
        cut.iter().all(|id| charge(id).is_some_and(|(outcome, nano)| outcome == "recovered" && nano > 0)),
        "{rows:#?}"
    );
    let spent: i64 = rows.iter().map(|row| row.charge_nano).sum();
    let view = gateway.exchange(&Request::get("/v1/key").bearer(&gateway.key.token)).text();
    assert_eq!((nano(raw(&view, "usage")), nano(raw(&view, "reserved"))), (spent, 0));
    assert_audit_is_clean(&gateway);
}

/// Makes calls on one connection until it breaks; counts those that pass.
fn spend(mut wire: Wire, request: &[u8], passed: &AtomicUsize) {
    loop {
        if wire.try_send(request).is_err() {
            return;
        }
        match wire.try_answer() {
            Ok(answer) => _ = passed.fetch_add(usize::from(answer.status == 200), Ordering::AcqRel),
            Err(_) => return,
        }
    }
}

#[test]
fn a_limit_holds_across_kills() {
    let gateway = Gateway::start();
    let call = counting(10);
    let price = cost_of(&gateway, &call);
    let key = gateway.create_key(&["--limit", &dollars(100 * price)]);
    let request = call.clone().streamed().simulate("token-ms=1").request(&key.token).bytes();
    let passed = AtomicUsize::new(0);
    for kill in 1..=3 {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let wire = gateway.connect();
                scope.spawn(|| spend(wire, &request, &passed));
            }
            eventually("calls pass", || (passed.load(Ordering::Acquire) >= 20 * kill).then_some(()));
            gateway.kill();
        });
        gateway.restart();
    }
    let storm = storm(&gateway, std::slice::from_ref(&key), &call, 100, &["credits_reserved"]);
    assert!(storm.refused.keys().eq(["spend_limit_reached"]), "{storm:?}");
    assert!(passed.load(Ordering::Acquire) + storm.passed <= 100);
    let view = gateway.exchange(&Request::get("/v1/key").bearer(&key.token)).text();
    let (spent, reserved) = (nano(raw(&view, "usage")), nano(raw(&view, "reserved")));
    // What is left does not pay for another call, and nothing was charged beyond the limit.
    assert!((99 * price + 1..=100 * price).contains(&spent), "{spent} of {}", 100 * price);
    assert_eq!(reserved, 0);
    let on_books = || gateway.books().iter().filter(|row| row.key == key.id).map(|row| row.charge_nano).sum::<i64>();
    eventually("all of it is on the books", || (on_books() == spent).then_some(()));
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_restart_keeps_keys_and_books() {
    let gateway = Gateway::start();
    let limited = gateway.create_key(&["--limit", "0.5", "--rpm", "100", "--model", "gpt-*"]);
    let disabled = gateway.create_key(&[]);
    gateway.tollgate(&["key", "disable", &disabled.id]);
    assert_eq!(gateway.call_with(&limited, &counting(10)).status, 200);
    let seen = |key: &Key| {
        let view = gateway.key_view(key);
        ["id", "usage", "limit", "limit_remaining", "requests_per_minute", "models"].map(|field| view[field].clone())
    };
    let (before, rows) = (seen(&limited), gateway.books_of(1));
    for stop in [Signal::TERM, Signal::KILL] {
        gateway.signal(stop);
        gateway.wait();
        gateway.restart();
        assert_eq!((seen(&limited), gateway.books()), (before.clone(), rows.clone()));
        assert_eq!(gateway.call_with(&disabled, &counting(1)).refusal().1, "key_disabled");
    }
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_second_process_on_the_same_directory_says_so_and_ends() {
    let gateway = Gateway::start();
    let config = std::fs::read_to_string(gateway.config()).expect("the configuration");
    // Other addresses, the same books.
    let other =
        config.lines().map(|line| if line.starts_with("listen") { line.replace(":1", ":2") } else { line.to_owned() });
    let file = gateway.config().with_file_name("other.toml");
    std::fs::write(&file, other.collect::<Vec<_>>().join("\n")).expect("written");
    let second = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["serve", "--config"])
        .arg(&file)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success(), "{said}");
    assert!(said.contains("another process") && said.contains("journal"), "{said}");
    assert_eq!(gateway.call(&counting(1)).status, 200, "the first goes on");
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_stop_ships_everything_and_lets_running_calls_end() {
    let gateway = Setup::new().section("[journal]\nship_ms = 60_000").start();
    let answers: Vec<Answer> = (1..40).map(|tokens| gateway.call(&counting(tokens))).collect();
    assert!(gateway.books().is_empty(), "nothing has been shipped yet");
    let mut stream = gateway.open(&counting(30).streamed().simulate("token-ms=10"));
    assert_eq!(stream.head().status, 200);
    gateway.signal(Signal::TERM);
    let events = stream.events().expect("the stream comes to its end");
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
    assert!(gateway.wait().success(), "{}", gateway.log());
    let rows = gateway.books();
    assert_eq!(rows.len(), 40);
    for answer in &answers {
        let row = rows.iter().find(|row| row.request_id == answer.request_id()).expect("it is on the books");
        assert_eq!((row.charge_nano, row.outcome.as_str()), (cost(answer), "complete"));
    }
    assert_eq!(rows.iter().filter(|row| row.is_streamed).map(|row| row.output_tokens).collect::<Vec<_>>(), [30]);
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_stop_does_not_wait_for_ever_and_what_it_cuts_is_closed_at_the_next_start() {
    let gateway = Setup::new().limit("drain_timeout_ms = 300").start();
    for _ in 0..2 {
        let mut stream = gateway.open(&counting(30).streamed().simulate("hang-after=2"));
        let id = stream.head().request_id().to_owned();
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().success(), "{}", gateway.log());
        gateway.restart();
        let row = gateway.row(&id);
        assert!(matches!(row.outcome.as_str(), "recovered" | "abandoned"), "{row:?}");
        assert!((1..=row.reserved_nano).contains(&row.charge_nano), "{row:?}");
    }
    assert_eq!(gateway.key_view(&gateway.key)["reserved"].to_string(), "0");
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let gateway = Gateway::start();
    let answer = gateway.call(&counting(10));
    let mut stream = gateway.open(&counting(30).streamed().simulate("hang-after=2"));
    let id = stream.head().request_id().to_owned();
    gateway.signal(Signal::TERM);
    stream.event().expect("the stream goes on");
    eventually("it does not wait for the stream", || {
        gateway.signal(Signal::TERM);
        gateway.readiness().is_none().then_some(())
    });
    gateway.wait();
    gateway.restart();
    assert_eq!(gateway.row(&id).outcome, "recovered");
    assert_eq!(gateway.row(answer.request_id()).outcome, "complete");
    assert_audit_is_clean(&gateway);
}

#[test]
fn calls_are_on_the_books_within_a_second() {
    let gateway = Gateway::start();
    for call in [counting(10), counting(10).streamed(), Call::messages("count up")] {
        let answer = gateway.call(&call);
        let id = answer.request_id();
        within_a_second("it is on the books", || gateway.books().iter().any(|row| row.request_id == id).then_some(()));
    }
    let answer = gateway.call(&counting(10).with("model", "none"));
    assert_eq!(answer.status, 404);
    gateway.books_of(3);
}

#[test]
fn books_that_can_not_be_written_are_caught_up_later_and_nothing_is_charged_twice() {
    let gateway = Gateway::start();
    let before = cost_of(&gateway, &counting(10));
    gateway.books_of(1);
    meddle(&gateway, "ALTER TABLE calls RENAME TO hidden");
    let spent: i64 = before + (1..30).map(|tokens| cost_of(&gateway, &counting(tokens))).sum::<i64>();
    eventually("the shipper has failed", || (gateway.metric("tollgate_ship_failures_total", &[]) > 0.0).then_some(()));
    assert!(gateway.metric("tollgate_journal_lag_records", &[]) > 0.0);
    meddle(&gateway, "ALTER TABLE hidden RENAME TO calls");
    let rows = gateway.books_of(30);
    assert_eq!(rows.iter().map(|row| row.charge_nano).sum::<i64>(), spent);
    let view = gateway.exchange(&Request::get("/v1/key").bearer(&gateway.key.token)).text();
    assert_eq!(nano(raw(&view, "usage")), spent);
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_full_journal_refuses_new_calls_and_takes_them_again_when_the_books_can_be_written() {
    let gateway = Setup::new().section("[journal]\nsegment_bytes = 1_048_576\nbytes_max = 2_097_152").start();
    meddle(&gateway, "ALTER TABLE calls RENAME TO hidden");
    let load = |calls| storm(&gateway, std::slice::from_ref(&gateway.key), &counting(1), calls, &[]);
    let mut passed = 0;
    let refused = eventually("the journal is full", || {
        let storm = load(500);
        passed += storm.passed;
        (!storm.refused.is_empty()).then_some(storm.refused)
    });
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["store_unavailable"]);
    let answer = gateway.call(&counting(1));
    assert_eq!(answer.refusal(), (503, "store_unavailable".to_owned()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(gateway.key_view(&gateway.key)["reserved"].to_string(), "0", "a refusal takes nothing");
    meddle(&gateway, "ALTER TABLE hidden RENAME TO calls");
    eventually("calls pass again", || (gateway.call(&counting(1)).status == 200).then_some(()));
    gateway.books_of(passed + 1);
    assert_audit_is_clean(&gateway);
}

#[test]
fn a_changed_row_is_found_by_the_audit() {
    let gateway = Gateway::start();
    let answer = gateway.call(&counting(10));
    gateway.row(answer.request_id());
    assert_audit_is_clean(&gateway);
    meddle(&gateway, "UPDATE calls SET charge_nano = charge_nano - 1");
    let audit = gateway.audit();
    assert_eq!(audit.status.code(), Some(1));
    let said = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(said.contains("charges_are_their_cost") && said.contains(answer.request_id()), "{said}");
}
