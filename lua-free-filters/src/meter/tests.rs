//! What the meter counts, and what it lets leave.

mod cuts;
mod samples;
mod traps;

use super::*;
use crate::denied::Code;
use crate::id::CallId;
use crate::time::EpochMs;
use crate::usage::Kind;
use proptest::prelude::*;
use serde_json::Value;

const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}],\"usage\":null}\n\n\
    data: {\"choices\":[{\"delta\":{\"content\":\" two\"}}],\"usage\":null}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n\
    data: [DONE]\n\n";

fn pass(meter: &mut Meter, stream: &str, cuts: &[usize]) -> String {
    let mut out = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let to = to.clamp(from, stream.len());
        out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(&stream.as_bytes()[from..to])));
        from = to;
    }
    out.extend_from_slice(&meter.finish());
    String::from_utf8(out).expect("whole events")
}

#[test]
fn the_usage_event_is_taken_out_if_the_client_did_not_ask() {
    for (withhold, events) in [(true, 3), (false, 4)] {
        let mut meter = Meter::of_events(Dialect::OpenaiChat, withhold);
        let out = pass(&mut meter, STREAM, &[]);
        assert_eq!(out.matches("data:").count(), events);
        assert_eq!(out.contains("prompt_tokens"), !withhold);
        assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
        assert!(meter.seen().finished);
    }
}

#[test]
fn nothing_passes_after_the_last_event() {
    let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
    let late = format!(
        "{STREAM}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":1}}}}\n\ndata: [DONE]\n\n"
    );
    assert_eq!(pass(&mut meter, &late, &[]), STREAM);
    assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
}

#[test]
fn a_failure_in_the_first_event_is_told_apart() {
    let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
    pass(&mut meter, "data: {\"error\":{\"message\":\"no\"}}\n\n", &[]);
    assert!(meter.seen().error_first);
    let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
    pass(&mut meter, "data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n", &[]);
    assert!(meter.seen().error && !meter.seen().error_first);
}

#[test]
fn a_whole_answer_is_counted_at_its_end() {
    let mut meter = Meter::of_answer(Dialect::OpenaiChat);
    let body = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    assert_eq!(pass(&mut meter, body, &[9]), body);
    assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
    let mut meter = Meter::of_answer(Dialect::OpenaiChat);
    pass(&mut meter, r#"{"error":{"code":"x"}}"#, &[]);
    assert!(meter.is_error_answer());
}

fn cut<'a>() -> Cut<'a> {
    Cut {
        reason: Code::SpendLimitReached,
        usage: Usage::of(5, 2),
        include_usage: true,
        choices: 1,
        call: CallId(1),
        model: "m",
        at: EpochMs(1_700_000_000_999),
    }
}

/// The data of the events that clients get when the stream is cut after this much of it.
fn events_of_cut(dialect: Dialect, begun: &[u8]) -> Vec<String> {
    let mut meter = Meter::of_events(dialect, false);
    let mut out = meter.feed(Bytes::copy_from_slice(begun)).to_vec();
    assert!(meter.can_be_cut());
    out.extend_from_slice(&meter.cut(&cut()));
    let text = String::from_utf8(out).expect("whole events");
    assert!(text.ends_with("\n\n"), "{text}");
    let events = text.split_terminator("\n\n").map(|event| event.lines().last().expect("a line"));
    events.map(|line| line.strip_prefix("data: ").expect("data").to_owned()).collect()
}

#[test]
fn a_chat_that_is_cut_anywhere_is_whole() {
    let stream = &STREAM[..STREAM.find("data: [DONE]").expect("its end")];
    for at in 0..=stream.len() {
        let mut events = events_of_cut(Dialect::OpenaiChat, &stream.as_bytes()[..at]);
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let events: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect();
        let ends = |event: &&Value| event["choices"][0]["finish_reason"] == "length";
        assert_eq!(events.iter().filter(ends).count(), 1, "{at}: {events:#?}");
        let usages: Vec<_> = events.iter().filter(|event| event["usage"].is_object()).collect();
        assert_eq!(usages.len(), 1, "{at}: {events:#?}");
        assert_eq!(usages[0]["usage"]["completion_tokens"], 2);
    }
}

#[test]
fn a_message_that_is_cut_anywhere_is_whole() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5}}}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{}}\n\n\
        event: ping\ndata: {\"type\": \"ping\"}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"a\"}}\n\n\
        event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{}}\n\n\
        event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":2}}\n\n";
    for at in 0..=stream.len() {
        let events = events_of_cut(Dialect::Anthropic, &stream.as_bytes()[..at]);
        let events: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).expect("JSON")).collect();
        let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert_eq!(events.first().map(|event| &event["type"]), Some(&"message_start".into()), "{at}");
        assert_eq!(events.last().map(|event| &event["type"]), Some(&"message_stop".into()), "{at}");
        assert_eq!(kinds("content_block_start"), kinds("content_block_stop"), "{at}: {events:#?}");
        assert_eq!((kinds("message_start"), kinds("message_delta"), kinds("message_stop")), (1, 1, 1), "{at}");
        let delta = events.iter().find(|event| event["type"] == "message_delta").expect("counted");
        assert_eq!(delta["usage"]["output_tokens"], 2, "{at}");
    }
}

#[test]
fn an_event_that_is_half_on_its_way_is_not_cut_through() {
    let mut meter = Meter::of_events(Dialect::OpenaiChat, false);
    let long = format!("data: {{\"x\":\"{}", "y".repeat(2 * crate::sse::EVENT_BYTES_MAX));
    assert!(!meter.feed(Bytes::from(long)).is_empty() && !meter.can_be_cut());
    assert!(!meter.feed(Bytes::from_static(b"\"}\n\ndata: half")).is_empty() && meter.can_be_cut());
    assert!(!Meter::of_answer(Dialect::OpenaiChat).can_be_cut());
}

#[test]
fn of_a_body_that_breaks_off_figures_count_or_what_was_relayed() {
    let mut meter = Meter::of_answer(Dialect::OpenaiChat);
    meter.feed(Bytes::from_static(br#"{"usage":{"prompt_tokens":5,"completion_tokens":2},"choices":["#));
    meter.break_off(400);
    assert_eq!(meter.tally().usage(9, 1_000), (Usage::of(5, 2), false));
    let mut meter = Meter::of_answer(Dialect::OpenaiChat);
    meter.feed(Bytes::from_static(br#"{"choices":["#));
    meter.break_off(400);
    assert_eq!(meter.tally().usage(9, 1_000), (Usage::of(9, 100), true));
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_count_and_bytes(cuts in prop::collection::vec(0usize..400, 0..30), withhold: bool) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let (mut whole, mut cut) = (Meter::of_events(Dialect::OpenaiChat, withhold), Meter::of_events(Dialect::OpenaiChat, withhold));
        prop_assert_eq!(pass(&mut whole, STREAM, &[]), pass(&mut cut, STREAM, &cuts));
        prop_assert_eq!(whole.tally(), cut.tally());
    }

    #[test]
    fn the_models_words_never_change_the_count(words in ".*") {
        let event = serde_json::json!({"choices": [{"delta": {"content": words}}], "usage": null});
        let mut meter = Meter::of_events(Dialect::OpenaiChat, true);
        pass(&mut meter, &format!("data: {event}\n\n{STREAM}"), &[]);
        prop_assert_eq!(meter.tally().usage(0, 1_000), (Usage::of(5, 2), false));
    }
}
