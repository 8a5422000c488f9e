//! Answers are the provider's own bytes. What is compared is the SHA-256 of the body through the gateway and without it.

use crate::support::{Answer, Call, Gateway, Wire, sha256};
use serde_json::json;

/// The same call without the gateway.
fn direct(gateway: &Gateway, call: &Call) -> Answer {
    Wire::connect(gateway.provider().address).exchange(&call.request("sk-direct").bytes())
}

fn asks_usage(call: Call) -> Call {
    call.with("stream_options", json!({"include_usage": true}))
}

#[test]
fn same_protocol_answers_are_byte_identical() {
    let gateway = Gateway::start();
    let chat_tool = json!([{"type": "function", "function": {"name": "look_up", "parameters": {}}}]);
    let message_tool = json!([{"name": "look_up", "input_schema": {"type": "object"}}]);
    let calls = [
        Call::chat("Hello"),
        Call::chat("Hello").with("n", 3),
        Call::chat("Hello").with("tools", chat_tool.clone()),
        Call::chat("count up").with("max_tokens", 2_000),
        Call::chat("Hello").simulate("usage-in-text"),
        Call::messages("Hello"),
        Call::messages("Hello").with("tools", message_tool.clone()),
        Call::messages("count up").with("max_tokens", 2_000),
        asks_usage(Call::chat("Hello").streamed()),
        asks_usage(Call::chat("Hello").streamed()).with("n", 3),
        asks_usage(Call::chat("Hello").streamed()).with("tools", chat_tool),
        asks_usage(Call::chat("count up").streamed()).with("max_tokens", 2_000),
        asks_usage(Call::chat("count up").streamed()).with("max_tokens", 9).simulate("one-byte-chunks"),
        asks_usage(Call::chat("Hello").streamed()).simulate("usage-in-text"),
        Call::messages("Hello").streamed(),
        Call::messages("Hello").streamed().with("tools", message_tool),
        Call::messages("count up").streamed().with("max_tokens", 2_000),
        Call::messages("count up").streamed().with("max_tokens", 9).simulate("one-byte-chunks"),
    ];
    for call in calls {
        let (expected, answer) = (direct(&gateway, &call), gateway.call(&call));
        assert_eq!((answer.status, answer.header("content-type")), (200, expected.header("content-type")));
        assert_eq!(sha256(&answer.body), sha256(&expected.body), "{call:?}: {}", answer.text());
    }
}

#[test]
fn answers_above_the_buffer_are_whole_to_their_last_byte() {
    let gateway = Gateway::start();
    // Each size ends elsewhere in the last read.
    for bytes in (60_000..140_000).step_by(1_999) {
        let call = Call::chat("count up").with("max_tokens", 9).simulate(&format!("huge-event={bytes}"));
        let answer = gateway.open(&call).try_answer();
        let expected = direct(&gateway, &call);
        assert_eq!(answer.map(|answer| sha256(&answer.body)).ok(), Some(sha256(&expected.body)), "{bytes} bytes");
    }
}

#[test]
fn errors_of_the_provider_are_byte_identical_too() {
    let gateway = Gateway::start();
    for call in [Call::chat("Hello").simulate("status=400"), Call::messages("Hello").streamed().simulate("status=404")]
    {
        // Anthropic's errors carry the number of the call, which differs.
        let strip = |answer: Answer| answer.text().split("\"request_id\"").next().unwrap_or_default().to_owned();
        let (expected, answer) = (direct(&gateway, &call), gateway.call(&call));
        assert_eq!(answer.status, expected.status);
        assert_eq!(strip(answer), strip(expected));
    }
}

#[test]
fn the_usage_that_only_we_asked_for_is_taken_out_and_nothing_else() {
    let gateway = Gateway::start();
    for faults in ["log-only", "one-byte-chunks", "usage-in-text", "no-done"] {
        let call = Call::chat("count up").with("max_tokens", 9).streamed().simulate(faults);
        let expected = direct(&gateway, &asks_usage(call.clone())).text();
        let (usage, rest): (Vec<&str>, Vec<&str>) =
            expected.split_inclusive("\n\n").partition(|event| event.contains("\"choices\":[],\"usage\":{"));
        assert_eq!(usage.len(), 1, "{expected}");

        let answer = gateway.call(&call);
        assert_eq!(answer.text(), rest.concat(), "{faults}");
        let row = gateway.row(answer.request_id());
        assert_eq!((row.output_tokens, row.is_estimated), (9, false), "{faults}");
    }
}

#[test]
fn a_declined_usage_is_taken_out_too() {
    let gateway = Gateway::start();
    let call = Call::chat("Hello").streamed().with("stream_options", json!({"include_usage": false}));
    let answer = gateway.call(&call);
    assert!(!answer.text().contains("\"usage\":{"), "{}", answer.text());
    assert!(!gateway.row(answer.request_id()).is_estimated);
}
