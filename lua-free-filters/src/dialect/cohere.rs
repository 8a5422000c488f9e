//! Cohere, version 2: chat.
//!
//! Source: Cohere API reference, "Chat" and "Chat with streaming": `usage.billed_units` is what is billed, `usage.tokens` and
//! `usage.cached_tokens` are what the model read. A stream has them in its event `message-end`.

use super::figures::{Figures, Written, whole};
use super::{Cut, Event, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Wanted, value};
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde_json::{Value, json};
use std::sync::LazyLock;

const USAGE: usize = 1;
const META: usize = 2;
const TYPE: usize = 3;
const DELTA_USAGE: usize = 4;
const INDEX: usize = 5;
const DELTA_ERROR: usize = 6;

/// What is read of an event and of a whole answer. Version 1 has its figures in `meta`.
pub(super) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["meta"]),
    value(&["type"]),
    value(&["delta", "usage"]),
    value(&["index"]),
    value(&["delta", "error"]),
];

static TEXT: LazyLock<[Finder<'static>; 4]> =
    LazyLock::new(|| ["\"text\":\"", "\"thinking\":\"", "\"arguments\":\"", "\"tool_plan\":\""].map(Finder::new));

/// A stream of events, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    has_begun: bool,
    /// The content that is open.
    open: Option<u64>,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        tally.relay_text(text_bytes(data, &*TEXT));
        self.note(&AnswerScanner::scan(WANTED, data), tally)
    }

    /// Notes what an event has of [`WANTED`].
    pub(super) fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        if found.value(super::ERROR).is_some() {
            return Event::Error;
        }
        match found.text(TYPE).unwrap_or_default() {
            "message-start" => self.has_begun = true,
            "content-start" => self.open = found.value(INDEX).and_then(whole),
            "content-end" => self.open = None,
            "message-end" => {
                let usage = found.value(DELTA_USAGE).and_then(read_usage);
                if let Some(usage) = usage {
                    tally.report(usage, true);
                }
                // It stands in for an answer that failed.
                return if usage.is_none() && found.value(DELTA_ERROR).is_some() {
                    Event::Error
                } else {
                    Event::Closing
                };
            }
            _ => {}
        }
        Event::Ordinary
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let mut events = String::new();
        let mut put = |kind: &str, mut data: Value| {
            data["type"] = kind.into();
            events.push_str(&format!("event: {kind}\ndata: {data}\n\n"));
        };
        if !self.has_begun {
            let message =
                json!({"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []});
            put("message-start", json!({"id": cut.call.to_string(), "delta": {"message": message}}));
        }
        if let Some(index) = self.open {
            put("content-end", json!({"index": index}));
        }
        let figures = json!({"input_tokens": cut.usage.input_total(), "output_tokens": cut.usage.output_total()});
        let usage = json!({"billed_units": figures, "tokens": figures});
        put("message-end", json!({"delta": {"finish_reason": "MAX_TOKENS", "usage": usage}}));
        events.push_str("data: [DONE]\n\n");
        events.into_bytes()
    }
}

/// Reads the figures of a whole answer.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    if let Some(usage) = found.value(USAGE).and_then(read_usage).or_else(|| found.value(META).and_then(read_usage)) {
        tally.report(usage, true);
    }
}

/// What is billed of a usage object; without it, what the model has read and written.
pub(super) fn read_usage(text: &[u8]) -> Option<Usage> {
    let written = Written::read(text)?;
    let figures = Figures::of(&written);
    let billed = figures.within(&["billed_units"]);
    let [input, output, images, searches] =
        ["input_tokens", "output_tokens", "image_tokens", "search_units"].map(|name| billed.whole(name));
    let tokens = figures.within(&["tokens"]);
    let read = |count: Option<u64>, name| count.or_else(|| tokens.whole(name));
    let (input, output) = if searches.is_some() || images.is_some() {
        (input, output)
    } else {
        (read(input, "input_tokens"), read(output, "output_tokens"))
    };
    input.or(output).or(images).or(searches)?;
    let usage = Usage::of(input.unwrap_or(0), output.unwrap_or(0));
    Some(usage.with(Kind::ImageInput, images.unwrap_or(0)).with(Kind::SearchUnits, searches.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":12,"output_tokens":65},
        "tokens":{"input_tokens":212,"output_tokens":66},"cached_tokens":208}}}"#;

    #[test]
    fn what_is_billed_counts() {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        let events: Vec<_> = [
            r#"{"type":"message-start","id":"x"}"#,
            r#"{"type":"content-start","index":0}"#,
            r#"{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hello"}}}}"#,
            r#"{"type":"content-end","index":0}"#,
            END,
            "[DONE]",
        ]
        .iter()
        .map(|data| stream.read(data.as_bytes(), &mut tally))
        .collect();
        assert_eq!(events[3..], [Event::Ordinary, Event::Closing, Event::Final]);
        assert_eq!((tally.usage(0, 99), tally.text_bytes), ((Usage::of(12, 65), false), 5));
    }

    #[test]
    fn figures_stand_in_several_places() {
        for (text, expected) in [
            (r#"{"billed_units":{"input_tokens":6.0,"output_tokens":2.0}}"#, Some(Usage::of(6, 2))),
            (r#"{"tokens":{"input_tokens":6,"output_tokens":2}}"#, Some(Usage::of(6, 2))),
            (r#"{"billed_units":{"search_units":2}}"#, Some(Usage::default().with(Kind::SearchUnits, 2))),
            (r#"{"billed_units":{"input_tokens":0},"tokens":{"input_tokens":6}}"#, Some(Usage::default())),
            (r#"{"billed_units":{"input_tokens":-1}}"#, None),
            (r#"{"api_version":{"version":"2"}}"#, None),
        ] {
            assert_eq!(read_usage(text.as_bytes()), expected, "{text}");
        }
        let mut tally = Tally::default();
        let first = r#"{"text":"x","meta":{"billed_units":{"input_tokens":7,"output_tokens":8}}}"#;
        read_answer(&AnswerScanner::scan(WANTED, first.as_bytes()), &mut tally);
        assert_eq!(tally.usage(0, 99), (Usage::of(7, 8), false));
    }

    #[test]
    fn an_end_that_tells_of_a_failure_is_one() {
        let failed = r#"{"type":"message-end","delta":{"finish_reason":"ERROR","error":"overloaded"}}"#;
        assert_eq!(Stream::default().read(failed.as_bytes(), &mut Tally::default()), Event::Error);
    }
}
