//! Clients that leave after any number of the provider's bytes: what has passed whole is charged, to the token.

use crate::support::{Call, Row, Scripted, Setup, Upstream, eventually};
use serde_json::{Value, json};
use std::sync::Arc;

/// Calls of each protocol.
const SAMPLES: usize = 50;

fn event(kind: &str, data: &Value) -> String {
    if kind.is_empty() { format!("data: {data}\n\n") } else { format!("event: {kind}\ndata: {data}\n\n") }
}

fn chat() -> Vec<String> {
    let words = ["One", " two", " three little words", " vier", " fünf", " and the last of them"];
    let piece = |text: &&str| event("", &json!({"choices": [{"index": 0, "delta": {"content": text}}], "usage": null}));
    let mut events: Vec<_> = words.iter().map(piece).collect();
    events.push(event("", &json!({"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 33}})));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn message() -> Vec<String> {
    let typed = |kind: &str, mut data: Value| {
        data["type"] = kind.into();
        event(kind, &data)
    };
    let mut events = vec![
        typed("message_start", json!({"message": {"usage": {"input_tokens": 70, "output_tokens": 2}}})),
        typed("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
    ];
    for text in ["One", " two", " three little words", " and the last of them"] {
        events.push(typed("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": text}})));
    }
    events.push(typed("content_block_stop", json!({"index": 0})));
    events.push(typed("message_delta", json!({"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 33}})));
    events.push(typed("message_stop", json!({})));
    events
}

/// Input and output tokens, whether they are estimated, and the outcome, by what the protocols' pages say.
fn oracle(events: &[String], input_estimate: i64) -> (i64, i64, bool, &'static str) {
    let (mut input, mut seen, mut exact, mut bytes, mut pieces) = (input_estimate, 0, false, 0, 0);
    for event in events {
        let data: Value =
            serde_json::from_str(event.trim_end().rsplit_once("data: ").expect("data").1).unwrap_or_default();
        for usage in [&data["usage"], &data["message"]["usage"]].into_iter().filter(|usage| usage.is_object()) {
            let count = |names: [&str; 2]| names.iter().find_map(|name| usage[*name].as_i64());
            input = count(["prompt_tokens", "input_tokens"]).unwrap_or(input);
            seen = count(["completion_tokens", "output_tokens"]).unwrap_or(seen);
            exact = data["type"] != "message_start";
        }
        let text =
            data["choices"][0]["delta"]["content"].as_str().or(data["delta"]["text"].as_str()).unwrap_or_default();
        bytes += i64::try_from(text.len()).expect("small");
        pieces += i64::from(!text.is_empty());
    }
    let is_over = events.last().is_some_and(|last| last.contains("[DONE]") || last.contains("message_stop"));
    let estimate = ((bytes + 3) / 4).max(pieces);
    (input, if exact { seen } else { seen.max(estimate) }, !exact, if is_over { "complete" } else { "client_gone" })
}

#[test]
fn a_client_that_leaves_anywhere_is_charged_what_has_passed() {
    let include_usage = json!({"include_usage": true});
    let calls = [
        (Call::chat("Hello").streamed().with("stream_options", include_usage), chat()),
        (Call::messages("Hello").streamed(), message()),
    ];
    for (call, events) in calls {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let framed: Vec<_> = events.iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len())).collect();
        let wire = Arc::new(format!("{head}{}0\r\n\r\n", framed.concat()).into_bytes());
        let offset = |number: usize| number * wire.len() / (SAMPLES - 1);
        let sent = Arc::clone(&wire);
        let provider = Scripted::start(move |exchange| {
            exchange.send(&sent[..exchange.number * sent.len() / (SAMPLES - 1)]);
            exchange.await_close();
        });
        let setup = Setup::new().upstream(Upstream::openai("openai", provider.url()));
        let gateway = setup.upstream(Upstream::anthropic("anthropic", provider.url())).start();
        let mut expected = Vec::new();
        for number in 0..SAMPLES {
            // An event has passed when its last byte has, whether or not its chunk has ended.
            let ends = framed.iter().scan(head.len(), |at, frame| {
                *at += frame.len();
                Some(*at - "\r\n".len())
            });
            let passed = ends.filter(|end| *end <= offset(number)).count();
            let mut client = gateway.open(&call);
            eventually("the provider is asked", || (provider.requests().len() > number).then_some(()));
            if passed > 0 {
                client.head();
            }
            for event in &events[..passed] {
                let got = client.event().expect("an event").expect("not the end");
                assert_eq!(&format!("{got}\n\n"), event, "after {} bytes", offset(number));
            }
            client.reset();
            gateway.books_of(number + 1);
            expected.push(passed);
        }
        let rows = gateway.books();
        let input_estimate = rows[0].input_tokens;
        for (number, (row, passed)) in rows.iter().zip(expected).enumerate() {
            let Row { input_tokens, output_tokens, is_estimated, outcome, .. } = row;
            let charged = (*input_tokens, *output_tokens, *is_estimated, outcome.as_str());
            assert_eq!(charged, oracle(&events[..passed], input_estimate), "after {} bytes: {row:?}", offset(number));
            assert_eq!(row.charge_nano, 1_000 * input_tokens + 10_000 * output_tokens, "{row:?}");
        }
        assert!(gateway.audit().status.success());
    }
}
