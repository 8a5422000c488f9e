//! Answers that are read on after their clients have left, where the provider is configured so.

use super::{CHUNK, USAGE, say, settled};
use crate::support::{Call, DEADLINE, Exchange, Gateway, Scripted, Setup, Upstream, eventually};
use rustix::process::Signal;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
const DRAIN: &str = "on_disconnect = 'drain'";

/// A provider that does what it is told before the client leaves, and the rest when it may go on.
fn two_parts(
    before: impl Fn(&mut Exchange) + Send + Sync + 'static,
    after: impl Fn(&mut Exchange) + Send + Sync + 'static,
) -> (Scripted, Sender<()>) {
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let provider = Scripted::start(move |exchange| {
        before(exchange);
        // The test may be over.
        let _ = gate.lock().expect("nobody panics with it").recv();
        after(exchange);
    });
    (provider, go)
}

fn stream_begins(exchange: &mut Exchange) {
    exchange.begin_stream();
    exchange.event(CHUNK);
}

fn stream_ends(exchange: &mut Exchange) {
    (0..9).for_each(|_| exchange.event(CHUNK));
    exchange.event(USAGE);
    exchange.event("[DONE]");
    exchange.end_stream();
}

fn setup(provider: &Scripted, settings: &[&str]) -> Setup {
    let upstream = Upstream::openai("scripted", provider.url()).setting(DRAIN);
    let upstream = settings.iter().fold(upstream, |upstream, line| upstream.setting(line));
    Setup::new()
        .key(&["--concurrency", "1", "--limit", "5"])
        .section("[log]\nlevel = 'debug'\nformat = 'text'")
        .upstream(upstream)
}

/// Begins a stream, and leaves it after its first event.
fn desert(gateway: &Gateway) {
    let mut wire = gateway.open(&Call::chat("Hello").streamed());
    assert_eq!(wire.head().status, 200);
    wire.event().expect("an event").expect("not the end");
    wire.reset();
}

fn await_drain(gateway: &Gateway) {
    eventually("the answer is read on", || gateway.log().contains("its answer is read on").then_some(()));
}

fn await_in_flight(gateway: &Gateway, calls: f64) {
    let in_flight = || gateway.metric("tollgate_requests_in_flight", &[]);
    eventually("so many calls are in flight", || (in_flight() == calls).then_some(()));
}

#[test]
fn a_deserted_stream_is_read_to_its_end_and_charged_exactly() {
    let (provider, go) = two_parts(stream_begins, stream_ends);
    let gateway = setup(&provider, &[]).start();
    desert(&gateway);
    await_drain(&gateway);
    assert!(gateway.key_money(&gateway.key, "reserved") > 0, "the reservation is kept");
    await_in_flight(&gateway, 1.0);
    go.send(()).expect("the provider waits");
    let row = settled(&gateway, "client_gone");
    assert_eq!((row.status, row.input_tokens, row.output_tokens, row.is_estimated), (200, 7, 3, false), "{row:?}");
    await_in_flight(&gateway, 0.0);
}

#[test]
fn an_answer_that_is_deserted_before_its_head_is_read_too() {
    let (provider, go) = two_parts(|_| {}, |exchange| exchange.answer(200, ANSWER));
    let gateway = setup(&provider, &[]).start();
    let wire = gateway.open(&Call::chat("Hello"));
    eventually("the provider is asked", || (provider.requests().len() == 1).then_some(()));
    wire.reset();
    await_drain(&gateway);
    go.send(()).expect("the provider waits");
    let row = settled(&gateway, "client_gone");
    assert_eq!((row.status, row.input_tokens, row.output_tokens, row.is_estimated), (0, 7, 3, false), "{row:?}");
}

#[test]
fn a_provider_that_refuses_a_deserted_call_is_not_paid() {
    let (provider, go) = two_parts(|_| {}, |exchange| exchange.answer(503, "{}"));
    let gateway = setup(&provider, &[]).start();
    let wire = gateway.open(&Call::chat("Hello"));
    eventually("the provider is asked", || (provider.requests().len() == 1).then_some(()));
    wire.reset();
    await_drain(&gateway);
    go.send(()).expect("the provider waits");
    assert_eq!(settled(&gateway, "refused").charge_nano, 0);
}

#[test]
fn each_cap_ends_the_reading_with_an_estimate() {
    for cap in ["drain_bytes_max = 1_000", "drain_ms_max = 300"] {
        let (left, departure) = channel();
        let left = Mutex::new(left);
        let (provider, go) = two_parts(stream_begins, move |exchange| {
            (0..99).for_each(|_| exchange.event(CHUNK));
            exchange.await_close();
            say(&left);
        });
        let gateway = setup(&provider, &[cap]).start();
        desert(&gateway);
        await_drain(&gateway);
        go.send(()).expect("the provider waits");
        departure.recv_timeout(DEADLINE).expect("the gateway leaves the provider");
        let row = settled(&gateway, "client_gone");
        assert!(row.is_estimated && row.output_tokens >= 4, "{cap}: {row:?}");
    }
}

#[test]
fn where_too_many_are_read_on_the_next_is_closed() {
    let (left, departure) = channel();
    let left = Mutex::new(left);
    let provider = Scripted::start(move |exchange| {
        stream_begins(exchange);
        exchange.await_close();
        say(&left);
    });
    let gateway = setup(&provider, &[]).limit("drains_max = 0").start();
    desert(&gateway);
    departure.recv_timeout(DEADLINE).expect("the gateway leaves the provider");
    let row = settled(&gateway, "client_gone");
    assert!(row.is_estimated && row.output_tokens == 4, "{row:?}");
}

#[test]
fn the_process_ends_when_what_is_read_on_is_on_the_books() {
    let (provider, go) = two_parts(stream_begins, stream_ends);
    let gateway = setup(&provider, &[]).start();
    desert(&gateway);
    await_drain(&gateway);
    gateway.signal(Signal::TERM);
    eventually("it is not ready any more", || (gateway.readiness() != Some(200)).then_some(()));
    go.send(()).expect("the provider waits");
    assert!(gateway.wait().success());
    let row = gateway.books_of(1).remove(0);
    assert_eq!((row.outcome.as_str(), row.output_tokens, row.is_estimated), ("client_gone", 3, false), "{row:?}");
}
