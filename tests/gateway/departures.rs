//! Calls that one side leaves before their end: settled once, for what was seen, and their place is free again.

mod drain;
mod offsets;

use crate::support::{Call, Exchange, Gateway, Row, Scripted, Setup, Upstream, eventually};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

const CHUNK: &str = r#"{"choices":[{"index":0,"delta":{"content":"eight letters"}}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
const MESSAGE_START: &str =
    r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":7,"output_tokens":1}}}"#;
const DELTA: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"eight letters"}}"#;
/// "eight letters" has 13 bytes: four tokens, as bytes ÷ 4 estimates it.
const CHUNK_TOKENS: i64 = 4;

/// A key that can make one call at a time shows whether the call before has given its place back.
fn setup(provider: &Scripted) -> Setup {
    Setup::new()
        .key(&["--concurrency", "1"])
        .upstream(Upstream::openai("scripted-openai", provider.url()))
        .upstream(Upstream::anthropic("scripted-anthropic", provider.url()))
}

/// Waits for the only row, and sees that the key has its money and its place back.
fn settled(gateway: &Gateway, outcome: &str) -> Row {
    let row = gateway.books_of(1).remove(0);
    assert_eq!(row.outcome, outcome, "{row:?}");
    assert_eq!(row.charge_nano, 1_000 * row.input_tokens + 10_000 * row.output_tokens, "{row:?}");
    assert!(row.charge_nano <= row.reserved_nano, "{row:?}");
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0, "{row:?}");
    let missing = gateway.call(&Call::chat("Hello").with("model", "no-such-model"));
    assert_eq!(missing.status, 404, "the only place is free");
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    row
}

/// A provider that sends these events and then waits for the gateway to leave; it says so when that has happened.
fn hanging_after(events: &'static [&'static str]) -> (Scripted, impl Fn()) {
    let (left, departure) = channel();
    let left = Mutex::new(left);
    let provider = Scripted::start(move |exchange| {
        exchange.begin_stream();
        events.iter().for_each(|event| exchange.event(event));
        exchange.await_close();
        say(&left);
    });
    (provider, move || departure.recv_timeout(crate::support::DEADLINE).expect("the gateway leaves the provider"))
}

fn say(sender: &Mutex<Sender<()>>) {
    // The test may be over.
    let _ = sender.lock().expect("nobody panics with it").send(());
}

#[test]
fn a_client_that_leaves_before_the_header_is_charged_for_its_input() {
    for is_reset in [false, true] {
        let (left, departure) = channel();
        let left = Mutex::new(left);
        let provider = Scripted::start(move |exchange: &mut Exchange| {
            exchange.await_close();
            say(&left);
        });
        let gateway = setup(&provider).start();
        let wire = gateway.open(&Call::chat("Hello"));
        eventually("the provider is asked", || (provider.requests().len() == 1).then_some(()));
        if is_reset {
            wire.reset()
        } else {
            drop(wire)
        }
        departure.recv_timeout(crate::support::DEADLINE).expect("the gateway leaves the provider");
        let row = settled(&gateway, "client_gone");
        assert_eq!((row.status, row.output_tokens, row.is_estimated), (0, 0, true), "{row:?}");
        assert!(row.input_tokens > 0);
    }
}

#[test]
fn a_client_that_leaves_before_its_request_is_whole_costs_nothing() {
    let provider = Scripted::answering(200, "{}");
    let gateway = setup(&provider).start();
    let request = Call::chat("Hello").request(&gateway.key.token).bytes();
    for is_reset in [false, true] {
        let mut wire = gateway.connect();
        wire.send(&request[..request.len() - 5]);
        eventually("the request is read", || (gateway.metric("tollgate_requests_in_flight", &[]) == 1.0).then_some(()));
        if is_reset {
            wire.reset()
        } else {
            drop(wire)
        }
        eventually("it is left", || (gateway.metric("tollgate_requests_in_flight", &[]) == 0.0).then_some(()));
    }
    assert!(provider.requests().is_empty() && gateway.books().is_empty());
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0);
}

#[test]
fn a_client_that_leaves_a_large_body_is_charged_what_it_got() {
    const HALF: usize = 40_000;
    let (left, departure) = channel();
    let left = Mutex::new(left);
    let provider = Scripted::start(move |exchange| {
        exchange.send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{\"choices\":[\"",
        );
        (0..4).for_each(|_| exchange.send("x".repeat(HALF)));
        exchange.await_close();
        say(&left);
    });
    let gateway = setup(&provider).start();
    let mut wire = gateway.open(&Call::chat("Hello"));
    assert_eq!(wire.head().status, 200);
    drop(wire);
    departure.recv_timeout(crate::support::DEADLINE).expect("the gateway leaves the provider");
    let row = settled(&gateway, "client_gone");
    assert!(row.is_estimated && (1..=40_000).contains(&row.output_tokens), "{row:?}");
}

#[test]
fn a_client_that_leaves_midstream_is_charged_what_was_relayed() {
    let (provider, departed) = hanging_after(&[CHUNK; 3]);
    let gateway = setup(&provider).start();
    let mut wire = gateway.open(&Call::chat("Hello").streamed());
    assert_eq!(wire.head().status, 200);
    for _ in 0..3 {
        wire.event().expect("an event").expect("not the end");
    }
    wire.reset();
    departed();
    let row = settled(&gateway, "client_gone");
    assert!(row.is_estimated && row.is_streamed && row.status == 200, "{row:?}");
    assert!((3 * 13 / 4..=3 * CHUNK_TOKENS).contains(&row.output_tokens), "{row:?}");
    assert_eq!(gateway.metric("tollgate_calls_estimated_total", &[]), 1.0);
}

#[test]
fn figures_of_the_provider_win_over_estimates_when_the_client_leaves() {
    let (provider, departed) = hanging_after(&[MESSAGE_START, DELTA, DELTA]);
    let gateway = setup(&provider).start();
    let mut wire = gateway.open(&Call::messages("Hello").streamed());
    wire.head();
    for _ in 0..3 {
        wire.event().expect("an event").expect("not the end");
    }
    drop(wire);
    departed();
    let row = settled(&gateway, "client_gone");
    assert_eq!((row.input_tokens, row.is_estimated), (7, true), "{row:?}");
    assert!((2 * 13 / 4..=2 * CHUNK_TOKENS).contains(&row.output_tokens), "{row:?}");
}

#[test]
fn a_client_that_leaves_after_the_usage_is_charged_exactly() {
    let (provider, departed) = hanging_after(&[CHUNK, USAGE]);
    let gateway = setup(&provider).start();
    let call = Call::chat("Hello").streamed().with("stream_options", serde_json::json!({"include_usage": true}));
    let mut wire = gateway.open(&call);
    wire.head();
    wire.event().expect("an event").expect("not the end");
    wire.event().expect("an event").expect("not the end");
    drop(wire);
    departed();
    let row = settled(&gateway, "client_gone");
    assert_eq!((row.input_tokens, row.output_tokens, row.is_estimated), (7, 3, false), "{row:?}");
}

#[test]
fn a_client_that_leaves_once_it_has_the_last_event_has_had_it_all() {
    let gateway = Setup::new().key(&["--concurrency", "1"]).start();
    let mut wire = gateway.open(&Call::chat("count up").with("max_tokens", 9).streamed());
    wire.head();
    while wire.event().expect("an event").expect("not the end") != "data: [DONE]" {}
    wire.reset();
    let row = settled(&gateway, "complete");
    assert_eq!((row.output_tokens, row.is_estimated), (9, false), "{row:?}");
}

#[test]
fn a_client_that_stops_reading_is_left() {
    let gateway = Setup::new().key(&["--concurrency", "1"]).limit("write_idle_timeout_ms = 300").start();
    let mut wire =
        gateway.open(&Call::chat("count up").with("max_tokens", 9).streamed().simulate("huge-event=60000000"));
    wire.head();
    let row = settled(&gateway, "client_gone");
    assert!(row.is_estimated, "{row:?}");
    assert_eq!(gateway.provider().log_of(1)[0]["complete"], false);
}

#[test]
fn a_client_of_http2_may_leave_too() {
    let (provider, departed) = hanging_after(&[CHUNK; 3]);
    let gateway = setup(&provider).start();
    let request = Call::chat("Hello").streamed().request(&gateway.key.token);
    let url = format!("http://{}", gateway.address);
    let answer = crate::support::curl(&url, &["--http2-prior-knowledge", "--max-time", "1"], &request);
    assert_eq!(answer, None, "curl gave up");
    departed();
    let row = settled(&gateway, "client_gone");
    assert_eq!((row.status, row.is_estimated), (200, true), "{row:?}");
    assert!(row.output_tokens >= 9, "{row:?}");
}

#[test]
fn a_provider_that_breaks_off_midstream_is_not_taken_for_whole() {
    let endings: [fn(&mut Exchange); 2] = [Exchange::reset, Exchange::close];
    for end in endings {
        let provider = Scripted::start(move |exchange| {
            exchange.begin_stream();
            for _ in 0..3 {
                exchange.event(CHUNK);
            }
            end(exchange);
        });
        let gateway = setup(&provider).start();
        let mut wire = gateway.open(&Call::chat("Hello").streamed());
        let head = wire.head();
        assert_eq!(head.status, 200);
        assert!(wire.events().is_err(), "the client sees that the answer is not whole");
        let row = settled(&gateway, "upstream_failed");
        assert_eq!((row.request_id.as_str(), row.is_estimated), (head.request_id(), true), "{row:?}");
        assert_eq!(row.error.as_deref(), Some("upstream_failed"));
        assert!(row.output_tokens <= 3 * CHUNK_TOKENS, "{row:?}");
    }
}

#[test]
fn a_stream_that_breaks_before_its_first_event_is_a_bad_gateway() {
    let endings: [fn(&mut Exchange); 2] = [Exchange::reset, Exchange::close];
    for end in endings {
        let provider = Scripted::start(move |exchange| {
            exchange.begin_stream();
            exchange.send("a\r\ndata: {\"ch");
            end(exchange);
        });
        let gateway = setup(&provider).start();
        let answer = gateway.call(&Call::chat("Hello").streamed());
        assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
        settled(&gateway, "upstream_failed");
    }
}

#[test]
fn a_stream_whose_first_event_does_not_come_is_a_gateway_timeout() {
    let (provider, departed) = hanging_after(&[]);
    let upstream = Upstream::openai("slow", provider.url()).timeout("first_event_ms = 200");
    let gateway = Setup::new().key(&["--concurrency", "1"]).upstream(upstream).start();
    let answer = gateway.call(&Call::chat("Hello").streamed());
    assert_eq!(answer.refusal(), (504, "upstream_timeout".to_owned()));
    departed();
    settled(&gateway, "upstream_failed");
}

#[test]
fn a_body_that_breaks_off_is_a_bad_gateway() {
    let endings: [fn(&mut Exchange); 2] = [Exchange::reset, Exchange::close];
    for end in endings {
        let provider = Scripted::start(move |exchange| {
            exchange
                .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"choices\"");
            end(exchange);
        });
        let gateway = setup(&provider).start();
        let answer = gateway.call(&Call::chat("Hello"));
        assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
        let row = settled(&gateway, "upstream_failed");
        assert!(row.is_estimated && row.status == 502, "{row:?}");
    }
}

#[test]
fn many_departures_leave_nothing_behind() {
    let gateway = Setup::new().key(&["--concurrency", "40"]).start();
    std::thread::scope(|scope| {
        for client in 0..40 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut wire =
                    gateway.open(&Call::chat("count up").with("max_tokens", 200).streamed().simulate("token-ms=5"));
                wire.head();
                for _ in 0..client {
                    wire.event().expect("an event").expect("not the end");
                }
                if client % 2 == 0 { wire.reset() } else { drop(wire) }
            });
        }
    });
    let rows = gateway.books_of(40);
    assert!(rows.iter().all(|row| row.outcome == "client_gone"), "{rows:#?}");
    assert_eq!(gateway.metric("tollgate_requests_in_flight", &[]), 0.0);
    assert_eq!(gateway.metric("tollgate_calls_estimated_total", &[]), 40.0);
    assert_eq!(gateway.key_money(&gateway.key, "usage"), rows.iter().map(|row| row.charge_nano).sum::<i64>());
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0);
    assert!(gateway.audit().status.success());
}
