//! What providers do wrong: each fault of the simulated one ends as told here, without a hang, and is on the books once.

use crate::support::{Answer, Call, Gateway, Provider, Request, Row, Setup, Upstream, Wire, sha256};
use serde_json::json;

/// Short deadlines, and a provider that is asked again at once.
fn gateway() -> (Provider, Gateway) {
    let provider = Provider::start();
    let upstream = |upstream: Upstream| {
        upstream
            .setting("cool_down_ms = 0")
            .timeout("header_ms = 400")
            .timeout("first_event_ms = 400")
            .timeout("idle_ms = 400")
    };
    let setup = Setup::new().key(&["--concurrency", "1"]);
    let setup = setup.upstream(upstream(Upstream::openai("simulated-openai", provider.url())));
    let setup = setup.upstream(upstream(Upstream::anthropic("simulated-anthropic", provider.url())));
    (provider, setup.start())
}

/// What a client gets of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// An answer that ends as its framing says.
    Whole(u16),
    /// One that broke off, so that nobody takes it for whole.
    Cut,
}

/// Makes the calls of a fault in both protocols and gives each of them, with its row, to `check`.
fn each(fault: &str, is_streamed: bool, expected: &Got, check: impl Fn(&Call, &Answer, &Row)) {
    let (provider, gateway) = gateway();
    for call in [Call::chat("count up"), Call::messages("count up")] {
        let call = call.with("max_tokens", 9).simulate(fault);
        let call = if is_streamed { call.streamed() } else { call };
        let mut wire = gateway.open(&call);
        let mut answer = wire.head();
        let body = wire.body(&answer);
        let got = if body.is_ok() { Got::Whole(answer.status) } else { Got::Cut };
        answer.body = body.unwrap_or_default();
        assert_eq!(&got, expected, "{fault}: {}", answer.text());
        let row = gateway.row(answer.request_id());
        assert_eq!(i64::from(answer.status), row.status, "{row:?}");
        check(&call, &answer, &row);
        // The only place is free again, and the connections are in order.
        let healthy = gateway.call(&Call::chat("Hello"));
        assert_eq!(healthy.status, 200, "after {fault}: {}", healthy.text());
    }
    // Each call once, and nothing is left set aside.
    let rows = gateway.books_of(4);
    assert_eq!(gateway.key_money(&gateway.key, "usage"), rows.iter().map(|row| row.charge_nano).sum::<i64>());
    assert_eq!(gateway.key_money(&gateway.key, "reserved"), 0);
    let audit = gateway.audit();
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
    drop(provider);
}

/// The row of a call that went well in the end.
fn is_exact(row: &Row) {
    assert_eq!((row.outcome.as_str(), row.is_estimated, row.output_tokens), ("complete", false, 9), "{row:?}");
    assert_eq!(row.charge_nano, 1_000 * row.input_tokens + 90_000, "{row:?}");
}

/// The row of a call that ended well but was not counted by the provider.
fn is_estimated(row: &Row) {
    assert_eq!((row.outcome.as_str(), row.is_estimated), ("complete", true), "{row:?}");
    assert!(row.charge_nano > 0, "{row:?}");
}

/// The row of a call that the provider broke off.
fn has_failed(row: &Row) {
    assert_eq!((row.outcome.as_str(), row.is_estimated), ("upstream_failed", true), "{row:?}");
    assert!(row.charge_nano > 0 && row.charge_nano <= row.reserved_nano, "{row:?}");
}

/// The row of a call that the provider refused.
fn is_free(row: &Row) {
    assert_eq!((row.outcome.as_str(), row.charge_nano), ("refused", 0), "{row:?}");
}

fn says(answer: &Answer, code: &str) {
    assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text());
}

#[test]
fn an_overloaded_provider_is_a_bad_gateway() {
    for is_streamed in [false, true] {
        each("status=503", is_streamed, &Got::Whole(502), |_, answer, row| {
            is_free(row);
            says(answer, "upstream_failed");
        });
    }
}

#[test]
fn a_providers_refusal_is_passed_on_and_free() {
    for is_streamed in [false, true] {
        each("status=400", is_streamed, &Got::Whole(400), |_, _, row| is_free(row));
    }
}

#[test]
fn a_provider_that_never_answers_is_a_gateway_timeout() {
    for is_streamed in [false, true] {
        each("hang-before-header", is_streamed, &Got::Whole(504), |_, answer, row| {
            assert_eq!(row.outcome, "unreached");
            says(answer, "upstream_timeout");
        });
    }
}

#[test]
fn a_provider_that_hangs_after_its_header_is_a_gateway_timeout() {
    for is_streamed in [false, true] {
        each("hang-after-header", is_streamed, &Got::Whole(504), |_, answer, row| {
            has_failed(row);
            says(answer, "upstream_timeout");
        });
    }
}

#[test]
fn a_stream_that_hangs_is_cut() {
    each("hang-after=6", true, &Got::Cut, |_, _, row| has_failed(row));
}

#[test]
fn a_body_that_breaks_off_is_a_bad_gateway() {
    for fault in ["reset-after=60", "close-after=60"] {
        each(fault, false, &Got::Whole(502), |_, answer, row| {
            has_failed(row);
            says(answer, "upstream_failed");
        });
    }
}

#[test]
fn figures_of_a_body_that_breaks_off_count_if_they_have_come() {
    each("lying-length", false, &Got::Whole(502), |_, answer, row| {
        let ending = (row.outcome.as_str(), row.is_estimated, row.output_tokens);
        assert_eq!(ending, ("upstream_failed", false, 9), "{row:?}");
        says(answer, "upstream_failed");
    });
}

#[test]
fn a_stream_that_breaks_off_is_cut() {
    for fault in ["reset-after=1500", "close-after=1500"] {
        each(fault, true, &Got::Cut, |_, _, row| has_failed(row));
    }
}

#[test]
fn a_stream_that_has_said_all_is_whole_even_if_its_connection_breaks() {
    // It promises a terabyte and closes after its last event.
    each("lying-length", true, &Got::Whole(200), |_, _, row| is_exact(row));
}

#[test]
fn usage_that_is_missing_is_estimated() {
    for is_streamed in [false, true] {
        each("no-usage", is_streamed, &Got::Whole(200), |_, _, row| is_estimated(row));
    }
}

#[test]
fn an_estimate_is_never_more_than_what_was_asked_for() {
    for fault in ["no-usage", "huge-event=1000000,no-usage", "gzip"] {
        for is_streamed in [false, true] {
            each(fault, is_streamed, &Got::Whole(200), |_, _, row| {
                assert!(row.output_tokens <= 9 && row.charge_nano <= row.reserved_nano, "{row:?}");
            });
        }
    }
}

#[test]
fn words_that_look_like_usage_are_words() {
    for is_streamed in [false, true] {
        each("usage-in-text", is_streamed, &Got::Whole(200), |_, _, row| is_exact(row));
    }
}

#[test]
fn a_last_event_that_is_missing_makes_no_difference_to_the_books() {
    each("no-done", true, &Got::Whole(200), |_, _, row| is_exact(row));
}

#[test]
fn an_error_in_place_of_an_answer_is_passed_on_and_free() {
    each("error-body", false, &Got::Whole(200), |_, answer, row| {
        is_free(row);
        assert!(answer.json()["error"].is_object());
    });
    each("error-body", true, &Got::Whole(200), |_, _, row| is_free(row));
    each("error-event", true, &Got::Whole(200), |_, answer, row| {
        is_free(row);
        assert!(answer.text().contains("error"));
    });
}

#[test]
fn an_error_in_the_middle_of_a_stream_is_passed_on_and_what_came_before_is_charged() {
    each("error-event-after=6", true, &Got::Whole(200), |_, answer, row| {
        has_failed(row);
        assert!(answer.events().last().is_some_and(|event| event.contains("error")), "{}", answer.text());
    });
}

#[test]
fn an_answer_in_single_bytes_is_an_answer() {
    for is_streamed in [false, true] {
        each("one-byte-chunks", is_streamed, &Got::Whole(200), |_, _, row| is_exact(row));
    }
}

#[test]
fn a_slow_answer_is_not_a_dead_one() {
    // One byte each 50 ms takes several times as long as the longest silence that is allowed.
    each("garbage,drip", true, &Got::Whole(200), |_, _, row| is_estimated(row));
}

#[test]
fn an_answer_that_nobody_can_read_is_passed_on_and_estimated() {
    for fault in ["garbage", "html", "empty", "gzip"] {
        for is_streamed in [false, true] {
            each(fault, is_streamed, &Got::Whole(200), |_, _, row| is_estimated(row));
        }
    }
}

#[test]
fn tokens_from_the_cache_cost_less() {
    for is_streamed in [false, true] {
        each("cached=20", is_streamed, &Got::Whole(200), |_, _, row| {
            assert_eq!((row.outcome.as_str(), row.is_estimated), ("complete", false));
            assert_eq!(row.charge_nano, 1_000 * (row.input_tokens - 20) + 100 * 20 + 90_000, "{row:?}");
        });
    }
}

#[test]
fn more_than_was_set_aside_is_charged_and_counted() {
    let (_provider, gateway) = gateway();
    for call in [Call::chat("count up"), Call::messages("count up").streamed()] {
        let answer = gateway.call(&call.with("max_tokens", 9).simulate("over=100"));
        let row = gateway.row(answer.request_id());
        assert_eq!((row.output_tokens, row.is_estimated), (109, false), "{row:?}");
        assert!(row.charge_nano > row.reserved_nano, "{row:?}");
    }
    assert_eq!(gateway.metric("tollgate_calls_bound_exceeded_total", &[]), 2.0);
    assert!(gateway.audit().status.success());
}

#[test]
fn an_event_of_many_megabytes_passes_whole() {
    let (provider, gateway) = gateway();
    for call in [Call::chat("count up"), Call::messages("count up")] {
        for is_streamed in [false, true] {
            let call = call.clone().with("max_tokens", 9).simulate("huge-event=30000000");
            let call = if is_streamed { call.streamed() } else { call };
            let asked = call.clone().with("stream_options", json!({"include_usage": true}));
            let expected = Wire::connect(provider.address).exchange(&asked.request("sk-direct").bytes());
            let answer = gateway.call(&asked);
            assert_eq!((answer.status, sha256(&answer.body)), (200, sha256(&expected.body)));
            is_exact(&gateway.row(answer.request_id()));
        }
    }
}

#[test]
fn a_provider_is_asked_for_plain_text() {
    let provider = crate::support::Scripted::answering(200, r#"{"choices":[]}"#);
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let request: Request = Call::chat("Hello").header("accept-encoding", "gzip, br").request(&gateway.key.token);
    assert_eq!(gateway.exchange(&request).status, 200);
    assert_eq!(provider.requests()[0].header("accept-encoding"), Some("identity"));
}
