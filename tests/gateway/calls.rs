//! A call in every form that a client may give it, and an answer that is the provider's own, byte for byte.

mod bodies;
mod bytes;
mod credentials;
mod demo;
mod secure;
mod upstreams;

use crate::support::{Call, Gateway, Request, Scripted, Setup, Upstream};
use std::sync::Mutex;
use std::sync::mpsc::channel;

#[test]
fn both_protocols_are_served_under_both_roots() {
    let gateway = Gateway::start();
    for root in ["/v1", "/api/v1"] {
        let chat = gateway.call(&Call::chat("Hello").under(root));
        assert_eq!(chat.status, 200, "{}", chat.text());
        assert!(chat.json()["choices"][0]["message"]["content"].is_string());

        let message = gateway.call(&Call::messages("Hello").under(root));
        assert_eq!(message.status, 200, "{}", message.text());
        assert!(message.json()["content"][0]["text"].is_string());

        let chunks = gateway.call(&Call::chat("Hello").streamed().under(root)).events();
        assert_eq!(chunks.last().map(String::as_str), Some("[DONE]"));

        let events = gateway.call(&Call::messages("Hello").streamed().under(root)).events();
        assert_eq!(events.last().map(String::as_str), Some(r#"{"type":"message_stop"}"#));
    }
    let paths: Vec<_> = gateway.provider().log_of(8).iter().map(|call| call["path"].clone()).collect();
    assert!(paths.iter().all(|path| path == "/v1/chat/completions" || path == "/v1/messages"), "{paths:?}");
}

#[test]
fn an_answer_says_who_served_it_and_what_it_cost() {
    let gateway = Gateway::start();
    let answer = gateway.call(&Call::chat("count to five").with("max_tokens", 5));
    let row = gateway.row(answer.request_id());
    assert_eq!(answer.header("x-tollgate-provider"), Some("simulated-openai"));
    assert!(answer.header("x-tollgate-upstream-request-id").is_some_and(|id| id.starts_with("req_")));
    let usage = &answer.json()["usage"];
    let charge = 1_000 * usage["prompt_tokens"].as_i64().expect("a count") + 10_000 * 5;
    assert_eq!((row.charge_nano, row.output_tokens, row.is_estimated), (charge, 5, false));
    assert_eq!(answer.header("x-tollgate-cost-usd"), Some(format!("0.{charge:09}").trim_end_matches('0')));
    assert_eq!((row.outcome.as_str(), row.status, row.attempts), ("complete", 200, 1));

    let message = gateway.call(&Call::messages("Hello"));
    assert_eq!(message.header("request-id"), Some(message.request_id()));
}

#[test]
fn a_clients_own_request_id_is_never_ours() {
    let gateway = Gateway::start();
    let answer = gateway.call(&Call::chat("Hello").header("x-request-id", "mine"));
    assert_ne!(answer.request_id(), "mine");
}

#[test]
fn each_event_leaves_before_the_next_is_sent() {
    for (protocol, events) in [
        ("chat", [r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#; 5]),
        ("messages", [r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#; 5]),
    ] {
        let (go, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let provider = Scripted::start(move |exchange| {
            exchange.begin_stream();
            for event in events {
                gate.lock().expect("one call").recv().expect("the test lets it go on");
                exchange.event(event);
            }
            gate.lock().expect("one call").recv().expect("the test lets it go on");
            exchange.event(if protocol == "chat" { "[DONE]" } else { r#"{"type":"message_stop"}"# });
            exchange.end_stream();
        });
        let (call, upstream) = match protocol {
            "chat" => (Call::chat("Hello"), Upstream::openai("scripted", provider.url())),
            _ => (Call::messages("Hello"), Upstream::anthropic("scripted", provider.url())),
        };
        let gateway = Setup::new().upstream(upstream).start();
        let mut wire = gateway.open(&call.streamed());
        for (number, event) in events.into_iter().enumerate() {
            go.send(()).expect("the provider waits");
            if number == 0 {
                assert_eq!(wire.head().status, 200);
            }
            assert_eq!(wire.event().expect("an event"), Some(format!("data: {event}")));
        }
        go.send(()).expect("the provider waits");
        assert_eq!(wire.events().expect("a clean end").len(), 1);
    }
}

#[test]
fn one_connection_serves_many_calls_even_when_they_are_sent_at_once() {
    let gateway = Gateway::start();
    let mut wire = gateway.connect();
    let prompts = ["one", "two", "three"];
    let expected = prompts.map(|prompt| gateway.call(&Call::chat(prompt)).text());
    for (prompt, expected) in prompts.iter().zip(&expected) {
        let answer = wire.exchange(&Call::chat(prompt).request(&gateway.key.token).bytes());
        assert_eq!(&answer.text(), expected);
    }
    let requests = prompts.map(|prompt| Call::chat(prompt).request(&gateway.key.token).bytes());
    wire.send(&requests.concat());
    for expected in &expected {
        assert_eq!(&wire.answer().text(), expected);
    }
    gateway.books_of(9);
}

#[test]
fn connections_to_the_provider_are_used_again() {
    let provider = Scripted::answering(200, r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let gateway = Setup::new().upstream(Upstream::openai("scripted", provider.url())).start();
    let mut wire = gateway.connect();
    for _ in 0..10 {
        assert_eq!(wire.exchange(&Call::chat("Hello").request(&gateway.key.token).bytes()).status, 200);
    }
    assert_eq!((provider.requests().len(), provider.connections()), (10, 1));
}

#[test]
fn unknown_paths_and_methods_are_refused_in_the_protocols_shape() {
    let gateway = Gateway::start();
    let refusal = |request: Request| gateway.exchange(&request.bearer(&gateway.key.token)).refusal();
    assert_eq!(refusal(Request::post("/v1/unknown", "{}")), (404, "not_found".to_owned()));
    assert_eq!(refusal(Request::get("/")), (404, "not_found".to_owned()));
    assert_eq!(refusal(Request::get("/v1/chat/completions")), (405, "method_not_allowed".to_owned()));
    assert_eq!(refusal(Request::post("/v1/key", "{}")), (405, "method_not_allowed".to_owned()));

    let missing = gateway.call(&Call::messages("Hello").with("model", "no-such-model"));
    assert_eq!(missing.refusal(), (404, "model_not_found".to_owned()));
    assert_eq!((missing.json()["type"].as_str(), missing.header("request-id").is_some()), (Some("error"), true));
    let wrong_protocol = gateway.call(&Call::chat("Hello").with("model", "claude-sonnet-4-6"));
    assert_eq!(wrong_protocol.status, 404, "{}", wrong_protocol.text());
    assert!(gateway.provider().log().is_empty());
}

#[test]
fn bodies_that_are_not_a_call_are_refused() {
    let gateway = Gateway::start();
    let long = format!(r#"{{"model":"gpt-4o-mini","x":{}}}"#, "[".repeat(100_000));
    let bodies = [
        "",
        " ",
        "null",
        "[]",
        "{",
        r#"{"messages":[]}"#,
        r#"{"model":7}"#,
        r#"{"model":"gpt-4o-mini"} {}"#,
        r#"{"model":"gpt-4o-mini","max_tokens":-1}"#,
        r#"{"model":"gpt-4o-mini","max_tokens":1e3}"#,
        r#"{"model":"gpt-4o-mini","stream":"yes"}"#,
        r#"{"model":"gpt-4o-mini","n":99999999999999999999}"#,
        &long,
    ];
    for body in bodies {
        let answer = gateway.exchange(&Request::post("/v1/chat/completions", body).bearer(&gateway.key.token));
        let shown = &body[..body.len().min(60)];
        assert_eq!(answer.refusal(), (400, "invalid_request".to_owned()), "{shown}");
    }
    assert!(gateway.provider().log().is_empty());
    assert_eq!(gateway.key_money(&gateway.key, "usage"), 0);
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let gateway = Gateway::start();
    let twice = [
        (r#"{"model":"gpt-4o-mini","model":"gpt-4o-mini","messages":[]}"#, "model"),
        (r#"{"model":"gpt-4o-mini","mod\u0065l":"other","messages":[]}"#, "model"),
        (r#"{"model":"gpt-4o-mini","max_tokens":1,"messages":[],"max_tokens":100000}"#, "max_tokens"),
        (r#"{"model":"gpt-4o-mini","n":1,"n":9,"messages":[]}"#, "n"),
        (r#"{"stream":false,"model":"gpt-4o-mini","stream":true,"messages":[]}"#, "stream"),
        (r#"{"model":"gpt-4o-mini","max_tokens":null,"max_tokens":9,"messages":[]}"#, "max_tokens"),
    ];
    for (body, field) in twice {
        let answer = gateway.exchange(&Request::post("/v1/chat/completions", body).bearer(&gateway.key.token));
        assert_eq!(answer.refusal(), (400, "duplicate_field".to_owned()), "{body}");
        assert_eq!(answer.json()["error"]["param"], field);
    }
    assert!(gateway.provider().log().is_empty());
}
