//! Responses in the background: they go on when their request has ended, and are charged what they have used.

use super::{ask, post};
use crate::support::{Exchange, Gateway, Scripted, Setup, Upstream, eventually};
use serde_json::{Value, json};
use sqlx::Row;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const QUEUED: &str = r#"{"id":"resp_1","object":"response","status":"queued","usage":null,"output":[]}"#;
const COMPLETED: &str = r#"{"id":"resp_1","object":"response","status":"completed","output":[],"usage":{"input_tokens":7,"output_tokens":11,"total_tokens":18}}"#;
/// Seven input and eleven output tokens.
const CHARGE: i64 = 7 * 1_000 + 11 * 10_000;

/// A provider whose response is done when the test says so, and then like this.
fn provider(done: &Arc<AtomicBool>, end: &'static str) -> Scripted {
    let done = Arc::clone(done);
    Scripted::start(move |exchange| {
        let is_asked = exchange.request.head.starts_with("GET ");
        match (is_asked && done.load(Ordering::Acquire), end) {
            (true, "gone") => exchange.answer(404, "{}"),
            (true, end) => exchange.answer(200, end),
            (false, _) if exchange.request.body.windows(8).any(|window| window == b"\"stream\"") => half(exchange),
            (false, _) => exchange.answer(200, QUEUED),
        }
    })
}

/// A stream that breaks off.
fn half(exchange: &mut Exchange) {
    exchange.begin_stream();
    exchange.event(&format!(r#"{{"type":"response.created","response":{QUEUED}}}"#));
    exchange.reset();
}

fn begin(gateway: &Gateway, is_streamed: bool) -> String {
    let mut body = json!({"model": "gpt-4o-mini", "input": "Hello", "background": true, "max_output_tokens": 100});
    if is_streamed {
        body["stream"] = true.into();
        let mut request = crate::support::Request::post("/v1/responses", body.to_string());
        request = request.bearer(&gateway.key.token);
        let mut wire = gateway.connect();
        wire.send(&request.bytes());
        assert_eq!(wire.head().status, 200);
        assert!(wire.rest().contains("resp_1"));
        return String::new();
    }
    let answer = post(gateway, &gateway.key, "/v1/responses", &body);
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("queued")));
    assert_eq!(answer.header("x-tollgate-cost-usd"), None, "nobody knows yet");
    answer.request_id().to_owned()
}

fn gateway(provider: &Scripted) -> Gateway {
    Setup::new().upstream(Upstream::openai("p", provider.url())).key(&["--limit", "5"]).start()
}

#[test]
fn a_background_response_is_charged_when_it_has_ended() {
    let done = Arc::new(AtomicBool::new(false));
    let provider = provider(&done, COMPLETED);
    let gateway = gateway(&provider);
    let call = begin(&gateway, false);
    eventually("the provider is asked", || (provider.requests().len() > 1).then_some(()));
    assert!(gateway.key_money(&gateway.key, "reserved") > CHARGE, "it keeps what was set aside");
    assert_eq!(gateway.key_money(&gateway.key, "usage"), 0);
    let own = ask(&gateway, &gateway.key, "GET", "/v1/responses/resp_1");
    assert_eq!(own.json()["status"], "queued", "a client that asks itself sees the same");
    done.store(true, Ordering::Release);
    let row = gateway.row(&call);
    assert_eq!((row.outcome.as_str(), row.charge_nano, row.is_estimated), ("complete", CHARGE, false));
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0);
    let polled = provider.requests().into_iter().filter(|request| request.head.starts_with("GET "));
    assert!(polled.into_iter().all(|request| request.header("authorization") == Some("Bearer sk-upstream")));
}

#[test]
fn a_background_stream_that_breaks_off_is_charged_what_it_used() {
    let done = Arc::new(AtomicBool::new(true));
    let provider = provider(&done, COMPLETED);
    let gateway = gateway(&provider);
    begin(&gateway, true);
    let row = gateway.books_of(1).remove(0);
    assert_eq!((row.charge_nano, row.is_estimated), (CHARGE, false));
}

#[test]
fn a_background_response_that_is_gone_is_charged_what_was_set_aside_for_it() {
    let done = Arc::new(AtomicBool::new(true));
    let provider = provider(&done, "gone");
    let gateway = gateway(&provider);
    let row = gateway.row(&begin(&gateway, false));
    assert!(row.is_estimated && row.charge_nano >= 100 * 10_000, "{row:?}");
}

#[test]
fn a_background_response_survives_the_gateway_that_began_it() {
    let done = Arc::new(AtomicBool::new(false));
    let provider = provider(&done, COMPLETED);
    let gateway = gateway(&provider);
    let call = begin(&gateway, false);
    eventually("the provider is asked", || (provider.requests().len() > 1).then_some(()));
    gateway.kill();
    gateway.restart();
    let row = gateway.row(&call);
    assert_eq!(row.outcome, "recovered");
    assert!(row.is_estimated && row.charge_nano >= 100 * 10_000, "what was set aside: {row:?}");
    let own: Value = ask(&gateway, &gateway.key, "GET", "/v1/responses/resp_1").json();
    assert_eq!(own["status"], "queued", "it is still its organisation's");
    done.store(true, Ordering::Release);
    let amended =
        eventually("the call is amended", || gateway.rows("SELECT request_id, charge_nano FROM amendments").pop());
    let (amended_call, charge): (String, i64) = (amended.get("request_id"), amended.get("charge_nano"));
    assert_eq!((amended_call, row.charge_nano + charge), (call, CHARGE), "it has cost what it used, in the end");
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}
