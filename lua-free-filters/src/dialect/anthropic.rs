//! Anthropic messages.
//!
//! Source: Anthropic API reference, "Streaming messages" and "Messages: usage". Cache tokens stand beside `input_tokens`;
//! figures of `message_delta` are cumulative and replace those of `message_start`, where they are not null.

use super::figures::{Figures, NotACount, Written, whole};
use super::{Cut, Event, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Wanted, value};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde_json::{Value, json};
use std::sync::LazyLock;

static TEXT: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| [Finder::new("\"text\":\""), Finder::new("\"thinking\":\""), Finder::new("\"partial_json\":\"")]);

const USAGE: usize = 1;
const TYPE: usize = 2;
const INDEX: usize = 3;
const MESSAGE_USAGE: usize = 4;

/// What is read of an event and of a whole answer.
pub(super) const WANTED: &[Wanted] =
    &[value(&["error"]), value(&["usage"]), value(&["type"]), value(&["index"]), value(&["message", "usage"])];

/// `before` with every figure that is reported in this usage object replaced.
pub(super) fn replace(before: Usage, figures: &Figures<'_>) -> Result<Usage, NotACount> {
    let mut usage = before;
    for (kind, name) in [(Kind::Input, "input_tokens"), (Kind::CacheRead, "cache_read_input_tokens")] {
        if let Some(count) = figures.count(&[name])? {
            usage = usage.with(kind, count);
        }
    }
    if let Some(searches) = figures.within(&["server_tool_use"]).count(&["web_search_requests"])? {
        usage = usage.with(Kind::WebSearch, searches);
    }
    let thoughts = figures.within(&["output_tokens_details"]).count(&["thinking_tokens"])?;
    if let Some(output) = figures.count(&["output_tokens"])? {
        let thoughts = thoughts.unwrap_or(usage.get(Kind::Reasoning)).min(output);
        usage = usage.with(Kind::Reasoning, thoughts).with(Kind::Output, output - thoughts);
    }
    let written = figures.count(&["cache_creation_input_tokens"])?;
    let split = figures.within(&["cache_creation"]);
    let minutes = split.count(&["ephemeral_5m_input_tokens"])?;
    match (minutes, split.count(&["ephemeral_1h_input_tokens"])?, written) {
        (None, None, None) => {}
        (None, None, Some(total)) => {
            // The split is in the start only; a later total does not undo it.
            let hour = usage.get(Kind::CacheWrite1h).min(total);
            usage = usage.with(Kind::CacheWrite1h, hour).with(Kind::CacheWrite5m, total - hour);
        }
        (minutes, hour, total) => {
            let (minutes, hour) = (minutes.unwrap_or(0), hour.unwrap_or(0));
            // What the split does not name was written for the shorter time.
            let rest = total.unwrap_or(0).saturating_sub(hour + minutes);
            usage = usage.with(Kind::CacheWrite1h, hour).with(Kind::CacheWrite5m, minutes + rest);
        }
    }
    Ok(usage)
}

/// Notes a usage object; figures that are no counts are none.
fn note_usage(text: Option<&[u8]>, is_final: bool, tally: &mut Tally) {
    let Some(written) = text.and_then(Written::read) else { return };
    let figures = Figures::of(&written);
    if let Some(tier) = figures.text("service_tier") {
        tally.tier = Some(Tier::named(tier));
    }
    let before = tally.reported.unwrap_or_default().usage;
    if let Ok(usage) = replace(before, &figures) {
        tally.report(usage, is_final);
    }
}

/// A stream of events, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    has_begun: bool,
    /// The content block that is open.
    open_block: Option<u64>,
    /// `message_delta` has said why the answer ends.
    has_reason: bool,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        // Deltas are most of a stream and carry no figures.
        if data.starts_with(b"{\"type\":\"content_block_delta\"") {
            tally.relay_text(text_bytes(data, &*TEXT));
            return Event::Ordinary;
        }
        self.note(&AnswerScanner::scan(WANTED, data), data, tally)
    }

    /// Notes what an event, of which this is the text as far as it is held, has of [`WANTED`].
    pub(super) fn note(&mut self, found: &Found, data: &[u8], tally: &mut Tally) -> Event {
        match found.text(TYPE).unwrap_or_default() {
            "message_start" => {
                self.has_begun = true;
                note_usage(found.value(MESSAGE_USAGE), false, tally);
            }
            "content_block_start" => self.open_block = found.value(INDEX).and_then(whole),
            "content_block_stop" => self.open_block = None,
            "message_delta" => {
                self.has_reason = true;
                note_usage(found.value(USAGE), true, tally);
            }
            "content_block_delta" => tally.relay_text(text_bytes(data, &*TEXT)),
            "message_stop" => return Event::Final,
            "error" => return Event::Error,
            _ => {}
        }
        Event::Ordinary
    }

    /// Whether any event of the protocol has passed.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let events = self.end(cut);
        let texts = events.iter().map(|event| {
            let kind = event["type"].as_str().unwrap_or_default();
            format!("event: {kind}\ndata: {event}\n\n")
        });
        texts.collect::<String>().into_bytes()
    }

    /// The end of the open block, the reason with the usage, and the final event.
    pub(super) fn end(&self, cut: &Cut<'_>) -> Vec<Value> {
        let mut events = Vec::new();
        let (input, output) = (cut.usage.input_total(), cut.usage.output_total());
        if !self.has_begun {
            let usage = json!({"input_tokens": input, "output_tokens": 0});
            let message = json!({
                "id": format!("msg_{}", cut.call), "type": "message", "role": "assistant", "model": cut.model,
                "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
            });
            events.push(json!({"type": "message_start", "message": message}));
        }
        if let Some(index) = self.open_block {
            events.push(json!({"type": "content_block_stop", "index": index}));
        }
        if !self.has_reason {
            let delta = json!({"stop_reason": "max_tokens", "stop_sequence": null});
            events.push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}));
        }
        events.push(json!({"type": "message_stop"}));
        events
    }
}

/// Reads the figures of a whole answer.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    if found.value(USAGE).is_some_and(|usage| memchr::memmem::find(usage, b"\"input_tokens\"").is_some()) {
        note_usage(found.value(USAGE), true, tally);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &[&str]) -> (Vec<Event>, Tally) {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        (events.iter().map(|data| stream.read(data.as_bytes(), &mut tally)).collect(), tally)
    }

    const START: &str = r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_read_input_tokens":5,
        "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":1,"service_tier":"priority"}}}"#;

    #[test]
    fn cumulative_figures_replace_and_never_add() {
        let (events, tally) = read(&[
            START,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":null,"cache_creation_input_tokens":30,"output_tokens":7}}"#,
            r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":9,"server_tool_use":{"web_search_requests":2}}}"#,
            r#"{"type":"message_stop"}"#,
        ]);
        assert_eq!(events.last(), Some(&Event::Final));
        let expected = Usage::of(10, 9)
            .with(Kind::CacheRead, 5)
            .with(Kind::CacheWrite5m, 20)
            .with(Kind::CacheWrite1h, 10)
            .with(Kind::WebSearch, 2);
        assert_eq!((tally.usage(0, 1_000), tally.tier), ((expected, false), Some(Tier::Priority)));
    }

    #[test]
    fn a_beginning_is_completed_by_what_was_relayed() {
        let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"12345678"}}"#;
        let (_, tally) = read(&[START, delta, delta]);
        let (usage, estimated) = tally.usage(99, 1_000);
        assert_eq!((usage.get(Kind::Input), usage.get(Kind::Output), estimated), (10, 4, true));
    }

    #[test]
    fn errors_pings_and_unknown_events() {
        let (events, tally) = read(&[
            r#"{"type": "ping"}"#,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            r#"{"type":"new_kind"}"#,
            "x",
        ]);
        assert_eq!(events, [Event::Ordinary, Event::Error, Event::Ordinary, Event::Ordinary]);
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn a_whole_answer_is_final() {
        let mut tally = Tally::default();
        let answer = br#"{"type":"message","usage":{"input_tokens":4,"cache_creation_input_tokens":6,"output_tokens":3,
            "output_tokens_details":{"thinking_tokens":2},"service_tier":"batch"}}"#;
        read_answer(&AnswerScanner::scan(WANTED, answer), &mut tally);
        let expected = Usage::of(4, 1).with(Kind::CacheWrite5m, 6).with(Kind::Reasoning, 2);
        assert_eq!((tally.usage(0, 1_000), tally.tier), ((expected, false), Some(Tier::Batch)));
        let mut tally = Tally::default();
        read_answer(&AnswerScanner::scan(WANTED, br#"{"input_tokens":4}"#), &mut tally);
        assert_eq!(tally.reported, None);
    }
}
