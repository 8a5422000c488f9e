//! Amazon Bedrock: `converse` and `converse-stream`.
//!
//! Source: Bedrock API reference, "Converse", "ConverseStream" and "TokenUsage". Cache tokens stand beside `inputTokens`. A stream has
//! its figures in the frame `metadata`, which is the last.

use super::figures::{Figures, NotACount, Written, whole};
use super::{Cut, Event, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Wanted, value};
use crate::event_stream::{FrameKind, event_frame};
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde_json::{Value, json};
use std::sync::LazyLock;

const USAGE: usize = 1;
const INDEX: usize = 2;
const TIER: usize = 3;

/// What is read of a frame and of a whole answer.
pub(super) const WANTED: &[Wanted] =
    &[value(&["error"]), value(&["usage"]), value(&["contentBlockIndex"]), value(&["serviceTier", "type"])];

static TEXT: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [Finder::new("\"text\":\""), Finder::new("\"input\":\"")]);

/// A stream of frames, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    has_begun: bool,
    /// The content block that is open.
    open_block: Option<u64>,
    has_reason: bool,
}

impl Stream {
    pub(super) fn read(&mut self, kind: &FrameKind, payload: &[u8], tally: &mut Tally) -> Event {
        if kind.name == "contentBlockDelta" {
            tally.relay_text(text_bytes(payload, &*TEXT));
        }
        self.note(kind, &AnswerScanner::scan(WANTED, payload), tally)
    }

    /// Notes what a frame has of [`WANTED`].
    pub(super) fn note(&mut self, kind: &FrameKind, found: &Found, tally: &mut Tally) -> Event {
        if kind.is_error {
            return Event::Error;
        }
        match kind.name.as_str() {
            "messageStart" => self.has_begun = true,
            // Blocks of text have no start of their own.
            "contentBlockStart" | "contentBlockDelta" => self.open_block = found.value(INDEX).and_then(whole),
            "contentBlockStop" => self.open_block = None,
            "messageStop" => self.has_reason = true,
            "metadata" => {
                read_answer(found, tally);
                return Event::Final;
            }
            _ => {}
        }
        Event::Ordinary
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let mut frames = Vec::new();
        let mut put = |kind: &str, payload: Value| frames.extend(event_frame(kind, payload.to_string().as_bytes()));
        if !self.has_begun {
            put("messageStart", json!({"role": "assistant"}));
        }
        if let Some(index) = self.open_block {
            put("contentBlockStop", json!({"contentBlockIndex": index}));
        }
        if !self.has_reason {
            put("messageStop", json!({"stopReason": "max_tokens"}));
        }
        let (input, output) = (cut.usage.input_total(), cut.usage.output_total());
        let usage = json!({"inputTokens": input, "outputTokens": output, "totalTokens": cut.usage.tokens_total()});
        put("metadata", json!({"usage": usage, "metrics": {"latencyMs": 0}}));
        frames
    }
}

/// Reads the figures of a whole answer.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    if let Some(tier) = found.text(TIER) {
        tally.tier = Some(crate::price::Tier::named(tier));
    }
    if let Some(usage) = found.value(USAGE).and_then(read_usage) {
        tally.report(usage, true);
    }
}

/// Reads a usage object of Amazon's own.
pub(super) fn read_usage(text: &[u8]) -> Option<Usage> {
    usage(&Figures::of(&Written::read(text)?)).ok().flatten()
}

fn usage(figures: &Figures<'_>) -> Result<Option<Usage>, NotACount> {
    let (input, output) = (figures.count(&["inputTokens"])?, figures.count(&["outputTokens"])?);
    if input.or(output).is_none() {
        return Ok(None);
    }
    let read = figures.count_or_zero(&["cacheReadInputTokens", "cacheReadInputTokenCount"])?;
    let written = figures.count_or_zero(&["cacheWriteInputTokens", "cacheWriteInputTokenCount"])?;
    let mut hour = 0;
    for detail in figures.list(&["cacheDetails"]).filter(|detail| detail.text("ttl") == Some("1h")) {
        hour += detail.count_or_zero(&["inputTokens"])?;
    }
    let hour = hour.min(written);
    let usage = Usage::of(input.unwrap_or(0), output.unwrap_or(0)).with(Kind::CacheRead, read);
    Ok(Some(usage.with(Kind::CacheWrite1h, hour).with(Kind::CacheWrite5m, written - hour)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = r#"{"usage":{"inputTokens":3,"outputTokens":61,"totalTokens":2435,"cacheReadInputTokens":2074,"cacheReadInputTokenCount":2074,
        "cacheWriteInputTokens":297,"cacheDetails":[{"inputTokens":200,"ttl":"5m"},{"inputTokens":97,"ttl":"1h"}]},"metrics":{}}"#;

    #[test]
    fn cache_tokens_stand_beside_the_input() {
        let mut tally = Tally::default();
        read_answer(&AnswerScanner::scan(WANTED, USAGE.as_bytes()), &mut tally);
        let expected =
            Usage::of(3, 61).with(Kind::CacheRead, 2074).with(Kind::CacheWrite5m, 200).with(Kind::CacheWrite1h, 97);
        assert_eq!((tally.usage(0, 99), expected.tokens_total()), ((expected, false), 2435));
    }

    #[test]
    fn the_last_frame_has_the_figures() {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        let mut read = |name: &str, payload: &str| {
            let kind = FrameKind { name: name.to_owned(), is_error: name.ends_with("Exception") };
            stream.read(&kind, payload.as_bytes(), &mut tally)
        };
        assert_eq!(read("messageStart", r#"{"role":"assistant"}"#), Event::Ordinary);
        assert_eq!(
            read("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hello"},"p":"abc"}"#),
            Event::Ordinary
        );
        assert_eq!(read("throttlingException", "{}"), Event::Error);
        assert_eq!(read("metadata", USAGE), Event::Final);
        assert_eq!((tally.text_bytes, tally.usage(0, 99).0.input_total()), (5, 2374));
    }
}
