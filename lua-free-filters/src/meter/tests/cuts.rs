//! Streams that are ended in the provider's place: whole wherever that happens.

use super::*;
use crate::dialect::bedrock_invoke;
use crate::event_stream::{FrameScanner, event_frame};
use crate::sse::Data;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What the client has after a cut at this place of the stream.
fn cut_at(meter: Meter, begun: &[u8]) -> Vec<u8> {
    let mut meter = meter;
    let mut out = meter.feed(Bytes::copy_from_slice(begun)).to_vec();
    assert!(meter.can_be_cut(), "{}", String::from_utf8_lossy(begun));
    out.extend_from_slice(&meter.cut(&cut()));
    out
}

/// The events that a client reads, with their names.
fn events(text: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    let mut scanner = crate::sse::EventScanner::default();
    let mut note = |data: Data<'_>| {
        if let Data::Whole(data) = data
            && data != b"[DONE]"
        {
            events.push(serde_json::from_slice(data).expect("JSON"));
        }
        crate::sse::Verdict::Relay
    };
    scanner.feed(Bytes::copy_from_slice(text), &mut note);
    assert!(scanner.finish(&mut note).is_empty());
    events
}

#[test]
fn a_response_that_is_cut_anywhere_is_whole() {
    let begun: String = [
        json!({"type": "response.created", "sequence_number": 0, "response": {"id": "r", "model": "m", "usage": null}}),
        json!({"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": {"id": "i", "type": "message"}}),
        json!({"type": "response.output_text.delta", "sequence_number": 2, "output_index": 0, "delta": "Hello"}),
        json!({"type": "response.output_item.done", "sequence_number": 3, "output_index": 0, "item": {"id": "i", "type": "message"}}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")))
    .collect();
    for at in 0..=begun.len() {
        let events = events(&cut_at(Meter::of_events(Dialect::OpenaiResponses, false), &begun.as_bytes()[..at]));
        assert_eq!(events.first().map(|event| &event["type"]), Some(&json!("response.created")), "{at}");
        let last = events.last().expect("an end");
        assert_eq!(
            (&last["type"], &last["response"]["status"]),
            (&json!("response.incomplete"), &json!("incomplete")),
            "{at}"
        );
        assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(last["response"]["usage"]["total_tokens"], 7);
        let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().expect("a number")).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>(), "{at}");
        let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!(kinds("response.output_item.added"), kinds("response.output_item.done"), "{at}");
    }
}

#[test]
fn a_chat_of_cohere_that_is_cut_anywhere_is_whole() {
    let begun: String = [
        json!({"type": "message-start", "id": "m"}),
        json!({"type": "content-start", "index": 0}),
        json!({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hello"}}}}),
        json!({"type": "content-end", "index": 0}),
    ]
    .iter()
    .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a type")))
    .collect();
    for at in 0..=begun.len() {
        let events = events(&cut_at(Meter::of_events(Dialect::CohereChat, false), &begun.as_bytes()[..at]));
        let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!((kinds("message-start"), kinds("message-end")), (1, 1), "{at}");
        assert_eq!(kinds("content-start"), kinds("content-end"), "{at}");
        assert_eq!(events.last().expect("an end")["delta"]["usage"]["billed_units"]["output_tokens"], 2);
    }
}

#[test]
fn chunks_of_gemini_that_are_cut_anywhere_are_whole() {
    let chunk = json!({"candidates": [{"content": {"parts": [{"text": "Hello"}]}}], "modelVersion": "g", "responseId": "x", "usageMetadata": {"promptTokenCount": 5}});
    let begun = format!("data: {chunk}\r\n\r\ndata: {chunk}\r\n\r\n");
    for at in 0..=begun.len() {
        let events = events(&cut_at(Meter::of_events(Dialect::GeminiGenerate, false), &begun.as_bytes()[..at]));
        let last = events.last().expect("an end");
        assert_eq!(
            (&last["candidates"][0]["finishReason"], &last["usageMetadata"]["totalTokenCount"]),
            (&json!("MAX_TOKENS"), &json!(7))
        );
        let model = if events.len() > 1 { "g" } else { "m" };
        assert_eq!(last["modelVersion"], model, "{at}");
    }
}

#[test]
fn an_array_of_gemini_can_be_cut_between_its_elements() {
    let chunk =
        json!({"candidates": [{"content": {"parts": [{"text": "]},"}]}}], "usageMetadata": {"promptTokenCount": 5}});
    let begun = format!("[{chunk}\n,\r\n{chunk}\n");
    let array = || Meter::of(Dialect::GeminiGenerate, b"application/json; charset=UTF-8", true, false);
    let mut cuts = 0;
    for at in 0..=begun.len() {
        let mut meter = array();
        let fed = meter.feed(Bytes::copy_from_slice(&begun.as_bytes()[..at]));
        assert_eq!(fed, begun.as_bytes()[..at]);
        if meter.can_be_cut() {
            let whole: Vec<Value> =
                serde_json::from_slice(&cut_at(array(), &begun.as_bytes()[..at])).expect("an array");
            assert_eq!(whole.last().expect("an end")["candidates"][0]["finishReason"], "MAX_TOKENS");
            cuts += 1;
        }
    }
    // Before the first, behind each of the two, and behind the line breaks that follow them.
    assert_eq!(cuts, 5);
}

#[test]
fn the_end_of_an_array_waits_for_the_end_of_the_body() {
    let usage = json!({"promptTokenCount": 5, "candidatesTokenCount": 2});
    let body = format!(
        "[{},\n{}\n]\n",
        json!({"candidates": [{}], "usageMetadata": {"promptTokenCount": 5}}),
        json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": usage})
    );
    for step in [1, 10, body.len()] {
        let mut meter = Meter::of(Dialect::GeminiGenerate, b"application/json", true, false);
        let mut out = Vec::new();
        for chunk in body.as_bytes().chunks(step) {
            out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(chunk)));
        }
        assert!(meter.seen().closing && !meter.can_be_cut() && !meter.seen().finished);
        assert_eq!(out, body.as_bytes()[..body.len() - 4]);
        out.extend_from_slice(&meter.finish());
        assert_eq!(out, body.as_bytes());
        assert_eq!((meter.tally().usage(0, 9), meter.seen().finished), ((Usage::of(5, 2), false), true));
    }
}

/// The frames that a client reads.
fn frames(stream: &[u8]) -> Vec<(String, Value)> {
    let mut frames = Vec::new();
    let mut scanner = FrameScanner::default();
    scanner.feed(Bytes::copy_from_slice(stream), &mut |kind, data| {
        if let Data::Whole(payload) = data {
            frames.push((kind.name.clone(), serde_json::from_slice(payload).expect("JSON")));
        }
        true
    });
    assert!(scanner.finish().is_empty() && !scanner.is_within_frame());
    frames
}

fn binary(dialect: Dialect) -> Meter {
    Meter::of(dialect, b"application/vnd.amazon.eventstream", true, false)
}

#[test]
fn a_conversation_that_is_cut_anywhere_is_whole() {
    let begun = [
        event_frame("messageStart", br#"{"role":"assistant"}"#),
        event_frame("contentBlockDelta", br#"{"contentBlockIndex":0,"delta":{"text":"Hello"}}"#),
        event_frame("contentBlockStop", br#"{"contentBlockIndex":0}"#),
    ]
    .concat();
    for at in 0..=begun.len() {
        let frames = frames(&cut_at(binary(Dialect::BedrockConverse), &begun[..at]));
        let names: Vec<_> = frames.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            (names[0], names[names.len() - 2], names[names.len() - 1]),
            ("messageStart", "messageStop", "metadata"),
            "{at}"
        );
        let count = |name: &str| names.iter().filter(|other| **other == name).count();
        assert_eq!(count("contentBlockDelta"), count("contentBlockStop"), "{at}");
        assert_eq!(frames.last().expect("an end").1["usage"]["totalTokens"], 7);
    }
}

#[test]
fn a_message_in_frames_is_cut_in_frames() {
    let frame = |event: Value| {
        event_frame("chunk", json!({"bytes": STANDARD.encode(event.to_string())}).to_string().as_bytes())
    };
    let begun = [
        frame(json!({"type": "message_start", "message": {"usage": {"input_tokens": 5}}})),
        frame(json!({"type": "content_block_start", "index": 0})),
        frame(json!({"type": "content_block_delta", "index": 0, "delta": {"text": "Hello"}})),
    ]
    .concat();
    let frames = frames(&cut_at(binary(Dialect::BedrockInvoke), &begun));
    let events: Vec<Value> = frames
        .iter()
        .map(|(_, payload)| STANDARD.decode(payload["bytes"].as_str().expect("bytes")).expect("base64"))
        .map(|event| serde_json::from_slice(&event).expect("JSON"))
        .collect();
    let types: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types[3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(events[5]["amazon-bedrock-invocationMetrics"]["outputTokenCount"], 2);
    let mut other = binary(Dialect::BedrockInvoke);
    other.feed(frame(json!({"outputText": "x"})).into());
    assert!(!other.can_be_cut());
}

#[test]
fn frames_are_counted_in_any_chunks_and_of_any_size() {
    let metadata = json!({"usage": {"inputTokens": 5, "outputTokens": 2}, "trace": "x".repeat(200_000)}).to_string();
    let stream = [event_frame("messageStart", b"{}"), event_frame("metadata", metadata.as_bytes())].concat();
    for step in [1_000, 70_000, stream.len()] {
        let mut meter = binary(Dialect::BedrockConverse);
        let out: Vec<u8> = stream.chunks(step).flat_map(|chunk| meter.feed(Bytes::copy_from_slice(chunk))).collect();
        assert!(out == stream && meter.held_bytes() == 0);
        assert_eq!((meter.tally().usage(0, 9), meter.seen().finished), ((Usage::of(5, 2), false), true), "{step}");
    }
}

#[test]
fn headers_count_where_a_body_has_no_figures() {
    assert_eq!(bedrock_invoke::INPUT_TOKENS_HEADER, "x-amzn-bedrock-input-token-count");
    for (body, expected) in [
        (r#"{"embeddings":[[0.1]]}"#, Usage::of(18, 3)),
        (r#"{"inputTextTokenCount":4,"results":[{"tokenCount":5}]}"#, Usage::of(4, 5)),
    ] {
        let mut meter = Meter::of_answer(Dialect::BedrockInvoke);
        meter.tell(Usage::of(18, 3));
        pass(&mut meter, body, &[]);
        assert_eq!(meter.tally().usage(0, 9), (expected, false));
    }
}
