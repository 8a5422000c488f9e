//! Anthropic messages.
//!
//! Source: Anthropic API reference, "Streaming messages" and "Messages: usage". Cache tokens stand beside `input_tokens`;
//! figures of `message_delta` are cumulative and replace those of `message_start`, where they are not null.

use super::{Count, Cut, Event, text_bytes};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::LazyLock;

static TEXT: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| [Finder::new("\"text\":\""), Finder::new("\"thinking\":\""), Finder::new("\"partial_json\":\"")]);

#[derive(Deserialize)]
struct StreamEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: Count,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    usage: Option<MessageUsage>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    usage: Option<MessageUsage>,
}

#[derive(Default, Deserialize)]
struct MessageUsage {
    #[serde(default)]
    input_tokens: Count,
    #[serde(default)]
    cache_creation_input_tokens: Count,
    #[serde(default)]
    cache_read_input_tokens: Count,
    #[serde(default)]
    cache_creation: Option<CacheCreation>,
    #[serde(default)]
    output_tokens: Count,
    #[serde(default)]
    server_tool_use: Option<ServerToolUse>,
    #[serde(default)]
    service_tier: Option<String>,
}

#[derive(Default, Deserialize)]
struct CacheCreation {
    #[serde(default)]
    ephemeral_5m_input_tokens: Count,
    #[serde(default)]
    ephemeral_1h_input_tokens: Count,
}

#[derive(Default, Deserialize)]
struct ServerToolUse {
    #[serde(default)]
    web_search_requests: Count,
}

impl MessageUsage {
    /// `before` with every figure that is reported here replaced.
    fn replace(&self, before: Usage) -> Usage {
        let mut usage = before;
        let mut set = |kind: Kind, count: Count| {
            if let Some(count) = count.0 {
                usage = usage.with(kind, count);
            }
        };
        set(Kind::Input, self.input_tokens);
        set(Kind::CacheRead, self.cache_read_input_tokens);
        set(Kind::Output, self.output_tokens);
        if let Some(tools) = &self.server_tool_use {
            set(Kind::WebSearch, tools.web_search_requests);
        }
        match (&self.cache_creation, self.cache_creation_input_tokens.0) {
            (Some(split), total) => {
                let hour = split.ephemeral_1h_input_tokens.or_zero();
                let minutes = split.ephemeral_5m_input_tokens.or_zero();
                // What the split does not name was written for the shorter time.
                let rest = total.unwrap_or(0).saturating_sub(hour + minutes);
                usage = usage.with(Kind::CacheWrite1h, hour).with(Kind::CacheWrite5m, minutes + rest);
            }
            (None, Some(total)) => {
                // The split is in the start only; a later total does not undo it.
                let hour = usage.get(Kind::CacheWrite1h).min(total);
                usage = usage.with(Kind::CacheWrite1h, hour).with(Kind::CacheWrite5m, total - hour);
            }
            (None, None) => {}
        }
        usage
    }

    fn note_tier(&self, tally: &mut Tally) {
        if let Some(tier) = &self.service_tier {
            tally.tier = Some(Tier::named(tier));
        }
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
        let Ok(event) = serde_json::from_slice::<StreamEvent>(data) else { return Event::Ordinary };
        let before = tally.reported.unwrap_or_default().usage;
        match event.kind.as_str() {
            "message_start" => {
                self.has_begun = true;
                if let Some(usage) = event.message.and_then(|message| message.usage) {
                    usage.note_tier(tally);
                    tally.report(usage.replace(before), false);
                }
            }
            "content_block_start" => self.open_block = Some(event.index.or_zero()),
            "content_block_stop" => self.open_block = None,
            "message_delta" => {
                self.has_reason = true;
                if let Some(usage) = event.usage {
                    tally.report(usage.replace(before), true);
                }
            }
            "content_block_delta" => tally.relay_text(text_bytes(data, &*TEXT)),
            "message_stop" => return Event::Final,
            "error" => return Event::Error,
            _ => {}
        }
        Event::Ordinary
    }

    /// The end of the open block, the reason with the usage, and the final event.
    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let mut events = String::new();
        let mut put = |kind: &str, mut data: Value| {
            data["type"] = kind.into();
            events.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
        };
        let (input, output) = (cut.usage.input_total(), cut.usage.output_total());
        if !self.has_begun {
            let usage = json!({"input_tokens": input, "output_tokens": 0});
            let message = json!({
                "id": format!("msg_{}", cut.call), "type": "message", "role": "assistant", "model": cut.model,
                "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
            });
            put("message_start", json!({"message": message}));
        }
        if let Some(index) = self.open_block {
            put("content_block_stop", json!({"index": index}));
        }
        if !self.has_reason {
            let delta = json!({"stop_reason": "max_tokens", "stop_sequence": null});
            put("message_delta", json!({"delta": delta, "usage": {"output_tokens": output}}));
        }
        put("message_stop", json!({}));
        events.into_bytes()
    }
}

pub(super) fn read_answer(usage: Option<&[u8]>, _service_tier: Option<&[u8]>, tally: &mut Tally) {
    if let Some(Ok(usage)) = usage.map(serde_json::from_slice::<MessageUsage>)
        && usage.input_tokens.0.is_some()
    {
        usage.note_tier(tally);
        tally.report(usage.replace(Usage::default()), true);
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
        read_answer(Some(br#"{"input_tokens":4,"cache_creation_input_tokens":6,"output_tokens":3}"#), None, &mut tally);
        assert_eq!(tally.usage(0, 1_000), (Usage::of(4, 3).with(Kind::CacheWrite5m, 6), false));
    }
}
