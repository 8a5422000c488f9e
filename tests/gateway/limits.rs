//! What a client may cost the gateway: time, memory, connections; and how the gateway stops.

mod stopping;

use crate::money::count;
use crate::support::{Call, Gateway, Request, Scripted, Setup, Upstream, Wire, eventually};
use std::time::{Duration, Instant};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;

/// The time until the gateway has closed the connection, and what it said before.
fn closed_after(wire: &mut Wire) -> (Duration, String) {
    let begun = Instant::now();
    let said = wire.rest();
    (begun.elapsed(), said)
}

#[test]
fn a_silent_connection_is_closed() {
    let gateway = Setup::new().limit("header_timeout_ms = 300").start();
    let (elapsed, said) = closed_after(&mut gateway.connect());
    assert!(elapsed > Duration::from_millis(250) && said.is_empty(), "{elapsed:?}: {said}");
}

#[test]
fn a_header_that_comes_drop_by_drop_is_cut_off_in_time() {
    let gateway = Setup::new().limit("header_timeout_ms = 400").start();
    let mut wire = gateway.connect();
    let begun = Instant::now();
    wire.send(b"POST /v1/chat/completions HTTP/1.1\r\n");
    // Each drop is in time, all of them are not.
    while wire.try_send(b"a: b\r\n").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it goes on for {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
}

#[test]
fn a_body_that_stops_coming_is_a_request_timeout() {
    let gateway = Setup::new().limit("body_idle_timeout_ms = 300").start();
    let request = Call::chat("Hello").request(&gateway.key.token);
    let chunked = request.chunked(10);
    for framed in [request.bytes(), chunked] {
        let mut wire = gateway.connect();
        let (beginning, end) = framed.split_at(framed.len() - 20);
        wire.send(beginning);
        assert_eq!(wire.answer().refusal(), (408, "request_timeout".to_owned()));
        // What comes too late is not taken for another request.
        let _ = wire.try_send(end);
        assert_eq!(wire.rest(), "");
    }
    assert!(gateway.provider().log().is_empty());
    assert_eq!(gateway.metric("tollgate_refusals_total", &["request_timeout"]), 2.0);
    assert_eq!(gateway.metric("tollgate_requests_in_flight", &[]), 0.0);
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let gateway = Gateway::start();
    let call = Call::chat("Hello").request(&gateway.key.token);
    let with = |count: usize, bytes: usize| {
        let value = "a".repeat(bytes);
        (0..count).fold(call.clone(), |request, number| request.header(&format!("x-filler-{number}"), &value))
    };
    assert_eq!(gateway.exchange(&with(90, 10)).status, 200);
    assert_eq!(gateway.exchange(&with(1, 60_000)).status, 200);
    for (count, bytes) in [(101, 1), (250, 1), (1, 70_000), (90, 1_000), (1, 900_000)] {
        let refused = gateway.exchange(&with(count, bytes));
        assert_eq!(refused.refusal(), (431, "headers_too_large".to_owned()), "{count} of {bytes}");
    }
    assert_eq!(gateway.provider().log_of(2).len(), 2);
}

#[test]
fn heads_that_are_too_large_even_to_be_read_are_refused_with_the_same_status() {
    let gateway = Gateway::start();
    let call = Call::chat("Hello").request(&gateway.key.token);
    let many = (0..400).fold(call.clone(), |request, number| request.header(&format!("x-filler-{number}"), "a"));
    for request in [many, call.header("x-filler", &"a".repeat(2_000_000))] {
        let mut wire = gateway.connect();
        // The gateway may have said no before all is sent.
        let _ = wire.try_send(&request.bytes());
        assert_eq!(wire.try_head().map(|head| head.status).ok(), Some(431));
    }
}

#[test]
fn a_compressed_body_is_refused() {
    let gateway = Gateway::start();
    for coding in ["gzip", "br", "deflate", "zstd", "identity, gzip"] {
        let answer = gateway.call(&Call::chat("Hello").header("content-encoding", coding));
        assert_eq!(answer.refusal(), (415, "unsupported_encoding".to_owned()), "{coding}");
    }
    assert_eq!(gateway.call(&Call::chat("Hello").header("content-encoding", "identity")).status, 200);
}

#[test]
fn bodies_that_do_not_fit_together_are_refused_until_there_is_room() {
    let limits = Setup::new().limit("body_bytes_max = 1_000_000").limit("request_bytes_in_flight_max = 1_000_000");
    let gateway = limits.start();
    let large = Call::chat(&"a".repeat(700_000)).request(&gateway.key.token);
    let mut first = gateway.connect();
    let head = large.clone().header("expect", "100-continue").head();
    first.send(format!("{head}content-length: {}\r\n\r\n", large.body.len()).as_bytes());
    assert_eq!(first.any_head().expect("an interim answer").status, 100, "its room is taken");
    let refused = gateway.exchange(&large);
    assert_eq!(refused.refusal(), (503, "overloaded".to_owned()));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200, "a small one fits in");
    assert_eq!(first.exchange(&large.body).status, 200);
    assert_eq!(gateway.exchange(&large).status, 200, "there is room again");
}

#[test]
fn connections_above_the_limit_are_turned_away() {
    let gateway = Setup::new().limit("connections_max = 4").start();
    let call = Call::chat("Hello").request(&gateway.key.token).bytes();
    let mut kept: Vec<Wire> = Vec::new();
    // The connections that waited for readiness may not be gone yet.
    eventually("four are let in", || {
        let mut wire = gateway.connect();
        if wire.try_send(&call).is_ok() && wire.try_answer().is_ok_and(|answer| answer.status == 200) {
            kept.push(wire);
        }
        (kept.len() == 4).then_some(())
    });
    let mut fifth = gateway.connect();
    assert!(fifth.try_send(&call).is_err() || fifth.try_answer().is_err(), "the fifth is turned away");
    assert_ne!(count(&gateway, "tollgate_refusals_total", &["reason=\"overloaded\""]), "0");
    assert_eq!(kept[0].exchange(&call).status, 200, "those inside are served");
    kept.pop();
    eventually("there is room for another", || {
        let mut wire = gateway.connect();
        wire.try_send(&call).ok()?;
        wire.try_answer().ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn http2_obeys_the_same_limits() {
    let limits = Setup::new().limit("body_bytes_max = 100_000").limit("body_idle_timeout_ms = 300");
    let gateway = limits.start();
    let url = format!("http://{}", gateway.address);
    let status = |request: &Request| {
        let answer = crate::support::curl(&url, &["--http2-prior-knowledge"], request);
        answer.map(|(status, _)| status)
    };
    assert_eq!(status(&Call::chat("Hello").request(&gateway.key.token)).as_deref(), Some("2 200"));
    assert_eq!(status(&Call::chat(&"a".repeat(200_000)).request(&gateway.key.token)).as_deref(), Some("2 413"));
    assert_eq!(status(&Call::chat("Hello").request("nobody")).as_deref(), Some("2 401"));
    let many = (0..101).fold(Call::chat("Hello"), |call, number| call.header(&format!("x-filler-{number}"), "a"));
    assert_eq!(status(&many.request(&gateway.key.token)).as_deref(), Some("2 431"));
}

#[test]
fn a_browser_of_another_origin_is_answered_only_if_that_origin_may() {
    let provider = Scripted::answering(200, ANSWER);
    let upstream = || Upstream::openai("scripted", provider.url());
    let call = Call::chat("Hello").header("origin", "https://app.example.com");
    let allowed = |gateway: &Gateway, call: &Call| {
        let answer = gateway.call(call);
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    let closed = Setup::new().upstream(upstream()).start();
    assert_eq!(allowed(&closed, &call), None);
    let open = Setup::new().upstream(upstream()).setting("cors_origins = ['https://app.example.com']").start();
    assert_eq!(allowed(&open, &call).as_deref(), Some("https://app.example.com"));
    assert_eq!(allowed(&open, &Call::chat("Hello").header("origin", "https://evil.example.com")), None);
}

#[test]
fn a_browser_may_ask_before_it_calls() {
    let open = Setup::new().setting("cors_origins = ['https://app.example.com']").start();
    let preflight = Request { method: "OPTIONS", ..Request::get("/v1/chat/completions") };
    let preflight =
        preflight.header("origin", "https://app.example.com").header("access-control-request-method", "POST");
    let answer = open.exchange(&preflight.header("access-control-request-headers", "authorization, content-type"));
    assert!(matches!(answer.status, 200 | 204), "{}", answer.text());
    assert_eq!((answer.header("transfer-encoding"), answer.header("access-control-allow-credentials")), (None, None));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    assert!(answer.header("access-control-allow-headers").is_some());
}
