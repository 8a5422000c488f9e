//! Amazon Bedrock: `invoke` and `invoke-with-response-stream`, the model's own language in Bedrock's frames.
//!
//! Source: Bedrock API reference, "InvokeModel" and "InvokeModelWithResponseStream", and "Inference request parameters and response fields" of each
//! family of models. The model's own figures win; else those that Bedrock adds count: `amazon-bedrock-invocationMetrics` in the last chunk of a
//! stream, the headers `x-amzn-bedrock-input-token-count` and `-output-token-count` of a whole answer.

use super::figures::{Figures, Written, whole};
use super::{Cut, Event, anthropic, bedrock, cohere, openai_usage, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Wanted, value};
use crate::event_stream::{FrameKind, event_frame};
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem::{self, Finder};
use serde::Deserialize;
use serde_json::json;
use std::sync::LazyLock;

/// The header of a whole answer that counts its input.
pub const INPUT_TOKENS_HEADER: &str = "x-amzn-bedrock-input-token-count";
/// The header of a whole answer that counts its output.
pub const OUTPUT_TOKENS_HEADER: &str = "x-amzn-bedrock-output-token-count";

const USAGE: usize = 1;
const MESSAGE_USAGE: usize = 2;
const METADATA_USAGE: usize = 3;
const INPUT: [usize; 3] = [4, 5, 6];
const OUTPUT: [usize; 4] = [7, 8, 9, 10];
const METRICS: usize = 11;
const META: usize = 12;

/// What is read of a chunk and of a whole answer: Anthropic, Nova, Titan, Llama, Mistral, AI21, OpenAI, Cohere.
pub(super) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["message", "usage"]),
    value(&["metadata", "usage"]),
    value(&["inputTextTokenCount"]),
    value(&["prompt_token_count"]),
    value(&["inputTokenCount"]),
    value(&["results", "tokenCount"]),
    value(&["totalOutputTextTokenCount"]),
    value(&["generation_token_count"]),
    value(&["outputTokenCount"]),
    value(&["amazon-bedrock-invocationMetrics"]),
    value(&["meta"]),
];

static TEXT: LazyLock<[Finder<'static>; 5]> = LazyLock::new(|| {
    ["\"text\":\"", "\"generation\":\"", "\"outputText\":\"", "\"completion\":\"", "\"content\":\""].map(Finder::new)
});

/// A chunk's frame: the model's words in base64.
#[derive(Deserialize)]
struct Chunk<'a> {
    bytes: &'a str,
}

/// Figures that stand alone in a chunk or an answer; the last ones that are not null.
#[derive(Clone, Copy, Debug, Default)]
struct Alone {
    input: Option<u64>,
    output: Option<u64>,
}

/// A stream of frames, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    anthropic: anthropic::Stream,
    alone: Alone,
}

impl Stream {
    pub(super) fn read(&mut self, kind: &FrameKind, payload: &[u8], tally: &mut Tally) -> Event {
        if kind.is_error {
            return Event::Error;
        }
        let Some(data) = decoded(payload) else { return Event::Ordinary };
        let metrics = AnswerScanner::scan(WANTED, &data);
        if self.anthropic.has_begun() || metrics.value(MESSAGE_USAGE).is_some() {
            let event = self.anthropic.read(&data, tally);
            return if event == Event::Final || metrics.value(METRICS).is_some() { Event::Final } else { event };
        }
        tally.relay_text(text_bytes(&data, &*TEXT));
        self.note(&metrics, tally)
    }

    fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        let own = self.alone.read(found).or_else(|| own_usage(found));
        let metrics = || found.value(METRICS).and_then(metrics_usage);
        if let Some(usage) = own {
            tally.report(usage, true);
        } else if tally.reported.is_none()
            && let Some(usage) = metrics()
        {
            tally.report(usage, true);
        }
        if found.value(METRICS).is_some() { Event::Final } else { Event::Ordinary }
    }

    /// Only Anthropic's models have an end that we know.
    pub(super) fn can_be_cut(&self) -> bool {
        self.anthropic.has_begun()
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let mut frames = Vec::new();
        for mut event in self.anthropic.end(cut) {
            if event["type"] == "message_stop" {
                let (input, output) = (cut.usage.input_total(), cut.usage.output_total());
                event["amazon-bedrock-invocationMetrics"] = json!({
                    "inputTokenCount": input, "outputTokenCount": output, "invocationLatency": 0, "firstByteLatency": 0,
                });
            }
            let payload = json!({"bytes": STANDARD.encode(event.to_string())});
            frames.extend(event_frame("chunk", payload.to_string().as_bytes()));
        }
        frames
    }
}

fn decoded(payload: &[u8]) -> Option<Vec<u8>> {
    let chunk: Chunk = serde_json::from_slice(payload).ok()?;
    STANDARD.decode(chunk.bytes).ok()
}

impl Alone {
    /// Takes the figures that stand alone; the usage if there were any.
    fn read(&mut self, found: &Found) -> Option<Usage> {
        let first = |places: &[usize]| places.iter().find_map(|index| found.value(*index).and_then(whole));
        let (input, output) = (first(&INPUT), first(&OUTPUT));
        input.or(output)?;
        *self = Self { input: input.or(self.input), output: output.or(self.output) };
        Some(Usage::of(self.input.unwrap_or(0), self.output.unwrap_or(0)))
    }
}

/// A usage object, in the words of whichever family it is.
fn own_usage(found: &Found) -> Option<Usage> {
    let meta = || found.value(META).and_then(cohere::read_usage);
    let Some(text) = found.value(USAGE).or(found.value(METADATA_USAGE)) else { return meta() };
    let has = |name: &str| memmem::find(text, name.as_bytes()).is_some();
    if has("\"billed_units\"") {
        cohere::read_usage(text)
    } else if has("\"input_tokens\"") && !has("\"total_tokens\"") {
        anthropic::replace(Usage::default(), &Figures::of(&Written::read(text)?)).ok()
    } else {
        bedrock::read_usage(text).or_else(|| openai_usage::read(text, Kind::Output))
    }
}

fn metrics_usage(text: &[u8]) -> Option<Usage> {
    let written = Written::read(text)?;
    let figures = Figures::of(&written);
    let count = |name| figures.whole(name);
    let usage = Usage::of(count("inputTokenCount")?, count("outputTokenCount").unwrap_or(0));
    let usage = usage.with(Kind::CacheRead, count("cacheReadInputTokenCount").unwrap_or(0));
    Some(usage.with(Kind::CacheWrite5m, count("cacheWriteInputTokenCount").unwrap_or(0)))
}

/// Reads the figures of a whole answer.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    if let Some(usage) = Alone::default().read(found).or_else(|| own_usage(found)) {
        tally.report(usage, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> (Vec<Event>, Tally) {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        let kind = FrameKind { name: "chunk".to_owned(), is_error: false };
        let events = chunks.iter().map(|chunk| {
            let payload = json!({"bytes": STANDARD.encode(chunk), "p": "abc"}).to_string();
            stream.read(&kind, payload.as_bytes(), &mut tally)
        });
        (events.collect(), tally)
    }

    const METRICS: &str =
        r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":7,"outputTokenCount":98,"invocationLatency":3042}"#;

    #[test]
    fn the_models_own_figures_win() {
        let stop = format!(r#"{{"type":"message_stop",{METRICS}}}"#);
        let (events, tally) = read(&[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":702,"output_tokens":1}}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
            r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":130}}"#,
            &stop,
        ]);
        assert_eq!((events[3], tally.usage(0, 999)), (Event::Final, (Usage::of(702, 130), false)));
    }

    #[test]
    fn every_family_has_its_words() {
        let last = format!(r#"{{"outputText":"x",{METRICS}}}"#);
        for (chunks, expected) in [
            (
                vec![r#"{"messageStart":{}}"#, r#"{"metadata":{"usage":{"inputTokens":5,"outputTokens":10}}}"#],
                Usage::of(5, 10),
            ),
            (
                vec![
                    r#"{"outputText":"a","inputTextTokenCount":28,"totalOutputTextTokenCount":null}"#,
                    r#"{"inputTextTokenCount":null,"totalOutputTextTokenCount":188}"#,
                ],
                Usage::of(28, 188),
            ),
            (
                vec![
                    r#"{"generation":"a","prompt_token_count":8,"generation_token_count":1}"#,
                    r#"{"generation_token_count":35}"#,
                ],
                Usage::of(8, 35),
            ),
            (
                vec![r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#],
                Usage::of(4, 2),
            ),
            (vec![last.as_str()], Usage::of(7, 98)),
        ] {
            assert_eq!(read(&chunks).1.usage(0, 999), (expected, false), "{chunks:?}");
        }
    }

    #[test]
    fn whole_answers() {
        for (text, expected) in [
            (r#"{"inputTextTokenCount":6.0,"results":[{"tokenCount":42,"outputText":"x"}]}"#, Some(Usage::of(6, 42))),
            (
                r#"{"usage":{"input_tokens":4,"output_tokens":50,"cache_read_input_tokens":9}}"#,
                Some(Usage::of(4, 50).with(Kind::CacheRead, 9)),
            ),
            (r#"{"usage":{"inputTokens":4,"outputTokens":50}}"#, Some(Usage::of(4, 50))),
            (
                r#"{"usage":{"prompt_tokens":16,"completion_tokens":19,"total_tokens":35},"meta":{"x":1}}"#,
                Some(Usage::of(16, 19)),
            ),
            (r#"{"embeddings":[[0.1]],"response_type":"embeddings_floats"}"#, None),
            (r#"{"inputTokens":11}"#, None),
        ] {
            let mut tally = Tally::default();
            read_answer(&AnswerScanner::scan(WANTED, text.as_bytes()), &mut tally);
            assert_eq!(tally.reported.map(|reported| reported.usage), expected, "{text}");
        }
    }
}
