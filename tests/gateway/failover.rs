//! Calls whose first provider fails: another is asked, as long as the client has not got a byte.

use crate::support::{Call, Gateway, Provider, Scripted, Setup, Upstream, eventually};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const ANSWER: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
/// Seven input and three output tokens.
const CHARGE: i64 = 7 * 1_000 + 3 * 10_000;
/// A provider that is tried again at once.
const NO_COOL_DOWN: &str = "cool_down_ms = 0";

/// A gateway before `first`, which is asked first, and `second`, which is well.
fn before(first: Upstream, second: &Scripted) -> Gateway {
    Setup::new().upstream(first).upstream(Upstream::openai("second", second.url()).priority(1)).start()
}

/// An address that nobody listens on.
fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}/v1", listener.local_addr().expect("it is bound"))
}

#[test]
fn a_dead_first_candidate_is_passed_over() {
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", dead_url()), &second);
    for number in 0..3 {
        let answer = gateway.call(&Call::chat("Hello"));
        assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("second")));
        let row = gateway.row(answer.request_id());
        // It is dead for as long as its cool-down lasts, so only the first call has tried it.
        assert_eq!((row.provider.as_str(), row.attempts), ("second", if number == 0 { 2 } else { 1 }));
    }
    assert_eq!(gateway.metric("tollgate_failovers_total", &["provider=\"first\"", "connect"]), 1.0);
    assert_eq!(gateway.metric("tollgate_provider_cooling", &["provider=\"first\""]), 1.0);
}

#[test]
fn a_failure_that_another_may_not_have_is_never_seen() {
    let status = Arc::new(AtomicU16::new(0));
    let said = Arc::clone(&status);
    let first = Scripted::start(move |exchange| exchange.answer(said.load(Ordering::Acquire), r#"{"error":{}}"#));
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()).setting(NO_COOL_DOWN), &second);
    let failures = [408, 429, 500, 502, 503, 504, 529];
    for failure in failures {
        status.store(failure, Ordering::Release);
        for call in [Call::chat("Hello"), Call::chat("Hello").streamed()] {
            let answer = gateway.call(&call);
            assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "after {failure}");
        }
    }
    assert_eq!(first.requests().len(), 2 * failures.len());
    // A refusal's small body is read, so that its connection can be used again.
    assert_eq!(first.connections(), 1);
    for row in gateway.books_of(2 * failures.len()) {
        assert_eq!((row.provider.as_str(), row.attempts, row.charge_nano), ("second", 2, CHARGE));
    }
}

#[test]
fn an_error_of_the_request_itself_is_the_clients_to_see() {
    let first = Scripted::start(|exchange| {
        let status = [400, 404, 413, 422][exchange.number % 4];
        exchange.answer(status, r#"{"error":{"message":"you"}}"#);
    });
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()), &second);
    for status in [400, 404, 413, 422] {
        let answer = gateway.call(&Call::chat("Hello"));
        assert_eq!((answer.status, answer.text().as_str()), (status, r#"{"error":{"message":"you"}}"#));
        let row = gateway.row(answer.request_id());
        assert_eq!((row.outcome.as_str(), row.charge_nano, row.attempts), ("refused", 0, 1));
    }
    assert!(second.requests().is_empty());
}

#[test]
fn a_provider_that_sends_no_header_in_time_is_passed_over() {
    let first = Scripted::start(super::support::Exchange::await_close);
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()).timeout("header_ms = 200"), &second);
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("second")));
    assert_eq!(gateway.metric("tollgate_failovers_total", &["provider=\"first\"", "timeout"]), 1.0);
}

#[test]
fn a_stream_whose_first_event_is_an_error_is_passed_over() {
    let failing = Provider::with(&["--fault", "error-event"]);
    let well = Provider::start();
    let gateway = Setup::new()
        .upstream(Upstream::openai("first-openai", failing.url()))
        .upstream(Upstream::openai("second-openai", well.url()).priority(1))
        .upstream(Upstream::anthropic("first-anthropic", failing.url()))
        .upstream(Upstream::anthropic("second-anthropic", well.url()).priority(1))
        .start();
    for (call, provider) in [(Call::chat("Hello"), "second-openai"), (Call::messages("Hello"), "second-anthropic")] {
        let answer = gateway.call(&call.streamed());
        assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some(provider)));
        assert!(!answer.text().contains("error"), "{}", answer.text());
        let row = gateway.row(answer.request_id());
        assert_eq!((row.attempts, row.outcome.as_str(), row.is_estimated), (2, "complete", false));
    }
    assert_eq!((failing.log().len(), well.log_of(2).len()), (2, 2));
}

#[test]
fn retry_after_is_honoured() {
    let first = Scripted::start(|exchange| match exchange.number {
        0 => exchange.send("HTTP/1.1 429 Slow\r\nretry-after: 2\r\ncontent-length: 2\r\n\r\n{}"),
        _ => exchange.answer(200, ANSWER),
    });
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()).setting("cool_down_ms = 60_000"), &second);
    let begun = Instant::now();
    while first.requests().len() < 2 {
        assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never asked again");
    }
    assert!(begun.elapsed() > Duration::from_millis(1_900), "it is asked after {:?}", begun.elapsed());
}

#[test]
fn a_failure_without_a_time_cools_down_as_configured() {
    let first = Scripted::start(|exchange| match exchange.number {
        0 => exchange.answer(503, "{}"),
        _ => exchange.answer(200, ANSWER),
    });
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()).setting("cool_down_ms = 600"), &second);
    let begun = Instant::now();
    while first.requests().len() < 2 {
        assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never asked again");
    }
    assert!(begun.elapsed() > Duration::from_millis(550), "it is asked after {:?}", begun.elapsed());
}

#[test]
fn a_provider_that_rests_is_still_better_than_none() {
    let only = Scripted::start(|exchange| match exchange.number {
        0 => exchange.answer(503, "{}"),
        _ => exchange.answer(200, ANSWER),
    });
    let gateway = Setup::new().upstream(Upstream::openai("only", only.url()).setting("cool_down_ms = 60_000")).start();
    assert_eq!(gateway.call(&Call::chat("Hello")).refusal(), (502, "upstream_failed".to_owned()));
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200);
}

#[test]
fn a_refused_credential_is_benched_and_no_client_notices() {
    for status in [401, 403] {
        let provider = Scripted::start(move |exchange| match exchange.request.header("authorization") {
            Some("Bearer sk-good") => exchange.answer(200, ANSWER),
            _ => exchange.answer(status, r#"{"error":{"message":"Incorrect API key provided: sk-bad"}}"#),
        });
        let upstream = Upstream::openai("only", provider.url()).credentials(&["sk-bad", "sk-good"]);
        let gateway = Setup::new().upstream(upstream).start();
        for _ in 0..12 {
            let answer = gateway.call(&Call::chat("Hello"));
            assert_eq!((answer.status, answer.text().as_str()), (200, ANSWER), "after {status}");
        }
        let refused =
            provider.requests().iter().filter(|seen| seen.header("authorization") == Some("Bearer sk-bad")).count();
        assert!(refused <= 1, "a benched credential is left alone, but it was tried {refused} times");
        assert_eq!(gateway.metric("tollgate_credential_benched", &["provider=\"only\""]), refused as f64);
        assert!(gateway.books_of(12).iter().all(|row| row.charge_nano == CHARGE));
    }
}

#[test]
fn a_provider_that_refuses_every_credential_is_passed_over() {
    let first = Scripted::answering(401, r#"{"error":{"message":"Incorrect API key provided: sk-upstream"}}"#);
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()), &second);
    for _ in 0..3 {
        assert_eq!(gateway.call(&Call::chat("Hello")).text(), ANSWER);
    }
    assert_eq!(first.requests().len(), 1);
    assert_eq!(gateway.metric("tollgate_credential_benched", &["provider=\"first\""]), 1.0);
    eventually("the operator is told", || gateway.log().contains("credential").then_some(()));
}

#[test]
fn a_refused_credential_of_ours_is_never_shown_to_the_client() {
    let only = Scripted::answering(401, r#"{"error":{"message":"Incorrect API key provided: sk-upstream"}}"#);
    let gateway = Setup::new().upstream(Upstream::openai("only", only.url())).start();
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
    assert!(!answer.text().contains("sk-upstream"));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.outcome.as_str(), row.charge_nano, row.status), ("refused", 0, 502));
}

#[test]
fn nothing_is_tried_again_after_the_first_byte() {
    let first = Scripted::start(|exchange| {
        exchange.begin_stream();
        exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#);
        exchange.reset();
    });
    let second = Scripted::answering(200, ANSWER);
    let gateway = before(Upstream::openai("first", first.url()), &second);
    let mut wire = gateway.open(&Call::chat("Hello").streamed());
    let head = wire.head();
    assert_eq!(head.status, 200);
    assert!(wire.events().is_err(), "nobody may take it for whole");
    assert!(second.requests().is_empty());
    let row = gateway.row(head.request_id());
    assert_eq!((row.outcome.as_str(), row.attempts, row.is_estimated), ("upstream_failed", 1, true));
}

#[test]
fn one_call_is_charged_once_whatever_the_number_of_attempts() {
    let failing = [500, 429, 529].map(|status| Scripted::answering(status, "{}"));
    let last = Scripted::answering(200, ANSWER);
    let mut setup = Setup::new().key(&["--concurrency", "1"]);
    for (priority, provider) in (0..).zip(&failing) {
        setup = setup.upstream(Upstream::openai(&format!("failing-{priority}"), provider.url()).priority(priority));
    }
    let gateway = setup.upstream(Upstream::openai("last", last.url()).priority(9)).start();
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!(answer.text(), ANSWER);
    let rows = gateway.books_of(1);
    assert_eq!((rows[0].attempts, rows[0].charge_nano, rows[0].provider.as_str()), (4, CHARGE, "last"));
    assert_eq!(gateway.key_money(&gateway.key, "usage"), CHARGE);
    assert_eq!(gateway.call(&Call::chat("Hello")).status, 200, "the only slot is free again");
}

#[test]
fn when_all_fail_the_client_is_told_and_nobody_is_paid() {
    let failing = [503, 529].map(|status| Scripted::answering(status, "{}"));
    let gateway = before(Upstream::openai("first", failing[0].url()), &failing[1]);
    let answer = gateway.call(&Call::chat("Hello").streamed());
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.outcome.as_str(), row.attempts, row.charge_nano, row.status), ("refused", 2, 0, 502));
    assert_eq!(row.error.as_deref(), Some("upstream_failed"));
    assert_eq!(failing.map(|provider| provider.requests().len()), [1, 1]);
    assert_eq!(gateway.key_money(&gateway.key, "usage"), 0);
}

#[test]
fn when_every_provider_is_at_its_rate_limit_so_is_the_client() {
    let slow = |wait: &'static str| {
        Scripted::start(move |exchange| {
            exchange.send(format!("HTTP/1.1 429 Slow\r\n{wait}\r\ncontent-length: 2\r\n\r\n{{}}"));
        })
    };
    let providers = [slow("retry-after: 7"), slow("retry-after-ms: 2500")];
    let gateway = before(Upstream::openai("first", providers[0].url()), &providers[1]);
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!(answer.refusal(), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(answer.json()["error"]["limit_source"], "provider");
    assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), (Some("3"), Some("2500")));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.outcome.as_str(), row.attempts, row.charge_nano, row.status), ("refused", 2, 0, 429));
    assert_eq!(row.error.as_deref(), Some("rate_limit_exceeded"));
}

#[test]
fn one_provider_that_fails_otherwise_is_no_rate_limit() {
    let providers = [Scripted::answering(503, "{}"), Scripted::answering(429, "{}")];
    let gateway = before(Upstream::openai("first", providers[0].url()), &providers[1]);
    assert_eq!(gateway.call(&Call::chat("Hello")).refusal(), (502, "upstream_failed".to_owned()));
}

#[test]
fn an_idempotency_key_reaches_every_provider_that_is_tried() {
    let providers = [Scripted::answering(503, "{}"), Scripted::answering(200, ANSWER)];
    let gateway = before(Upstream::openai("first", providers[0].url()), &providers[1]);
    let call = Call::chat("Hello").header("idempotency-key", "order-7");
    assert_eq!(gateway.call(&call).status, 200);
    for provider in &providers {
        assert_eq!(provider.requests()[0].header("idempotency-key"), Some("order-7"));
    }
    assert_eq!(gateway.books_of(1)[0].charge_nano, CHARGE);
}

#[test]
fn nobody_is_charged_for_a_call_that_nobody_could_be_reached_for() {
    let gateway = Setup::new().upstream(Upstream::openai("dead", dead_url())).start();
    let answer = gateway.call(&Call::chat("Hello"));
    assert_eq!(answer.refusal(), (502, "upstream_failed".to_owned()));
    let row = gateway.row(answer.request_id());
    assert_eq!((row.outcome.as_str(), row.charge_nano), ("unreached", 0));
}

#[test]
fn a_connection_that_the_provider_closed_meanwhile_is_not_a_failure() {
    let provider = Scripted::start(|exchange| {
        exchange.answer(200, ANSWER);
        exchange.close();
    });
    let gateway = Setup::new().upstream(Upstream::openai("closing", provider.url())).start();
    for _ in 0..20 {
        assert_eq!(gateway.call(&Call::chat("Hello")).text(), ANSWER);
    }
    assert!(gateway.books_of(20).iter().all(|row| row.attempts == 1));
    assert_eq!(provider.requests().len(), 20);
}

#[test]
fn equals_share_the_calls_by_weight() {
    let providers = [1, 3].map(|_| Scripted::answering(200, ANSWER));
    let gateway = Setup::new()
        .upstream(Upstream::openai("light", providers[0].url()).weight(1))
        .upstream(Upstream::openai("heavy", providers[1].url()).weight(3))
        .start();
    let mut wire = gateway.connect();
    let call = Call::chat("Hello").request(&gateway.key.token).bytes();
    for _ in 0..120 {
        assert_eq!(wire.exchange(&call).status, 200);
    }
    let [light, heavy] = providers.map(|provider| provider.requests().len());
    assert!(light + heavy == 120 && (8..=55).contains(&light), "{light} to {heavy}");
}
