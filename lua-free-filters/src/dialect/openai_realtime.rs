//! OpenAI realtime: the events that a server sends over a WebSocket.
//!
//! Source: OpenAI API reference, "Realtime server events": `response.created` begins an answer, `response.done` ends it, whatever
//! its status, with its own `usage`: of this answer, not of the session.

use super::Count;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use serde::Deserialize;

/// Bytes of base64 in which the sound of one output token comes: 50 ms of 24 kHz, 16 bit.
const SOUND_BYTES_PER_TOKEN: u64 = 3_200;
/// Bytes of text that stand for a token in a [`Tally`].
const TEXT_BYTES_PER_TOKEN: u64 = 4;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer begins.
    Begun,
    /// It has ended.
    Done,
    /// Anything else.
    Ordinary,
}

#[derive(Deserialize)]
struct ServerEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    delta: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    response: Option<Response>,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    usage: Option<RealtimeUsage>,
}

#[derive(Deserialize)]
struct RealtimeUsage {
    input_tokens: u64,
    #[serde(default)]
    output_tokens: Count,
    #[serde(default)]
    input_token_details: Option<InputDetails>,
    #[serde(default)]
    output_token_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
struct InputDetails {
    #[serde(default)]
    audio_tokens: Count,
    #[serde(default)]
    image_tokens: Count,
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    cached_tokens_details: Option<CachedDetails>,
}

#[derive(Default, Deserialize)]
struct CachedDetails {
    #[serde(default)]
    audio_tokens: Count,
    #[serde(default)]
    image_tokens: Count,
}

#[derive(Default, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    audio_tokens: Count,
}

impl RealtimeUsage {
    fn usage(self) -> Usage {
        let input = self.input_token_details.unwrap_or_default();
        let cached = input.cached_tokens_details.unwrap_or_default();
        let fresh = |all: Count, cached: Count| all.or_zero().saturating_sub(cached.or_zero());
        let parts = [
            (Kind::CacheRead, input.cached_tokens.or_zero()),
            (Kind::AudioInput, fresh(input.audio_tokens, cached.audio_tokens)),
            (Kind::ImageInput, fresh(input.image_tokens, cached.image_tokens)),
        ];
        let (mut usage, mut rest) = (Usage::default(), self.input_tokens);
        for (kind, count) in parts {
            let part = count.min(rest);
            usage = usage.with(kind, part);
            rest -= part;
        }
        let output = self.output_tokens.or_zero();
        let spoken = self.output_token_details.unwrap_or_default().audio_tokens.or_zero().min(output);
        usage.with(Kind::Input, rest).with(Kind::AudioOutput, spoken).with(Kind::Output, output - spoken)
    }
}

/// Reads one event into the tally of the answer that runs.
pub fn read(text: &[u8], tally: &mut Tally) -> Event {
    let Ok(event) = serde_json::from_slice::<ServerEvent<'_>>(text) else { return Event::Ordinary };
    match event.kind {
        "response.created" => Event::Begun,
        "response.done" => {
            if let Some(usage) = event.response.and_then(|response| response.usage) {
                tally.report(usage.usage(), true);
            }
            Event::Done
        }
        // Both names of the sound have been in use.
        "response.output_audio.delta" | "response.audio.delta" => {
            let bytes = event.delta.map_or(0, |delta| delta.len() as u64);
            tally.relay_text((bytes * TEXT_BYTES_PER_TOKEN).div_ceil(SOUND_BYTES_PER_TOKEN));
            Event::Ordinary
        }
        "response.output_text.delta" | "response.text.delta" | "response.function_call_arguments.delta" => {
            tally.relay_text(event.delta.map_or(0, |delta| delta.len() as u64));
            Event::Ordinary
        }
        _ => Event::Ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_own_figures() {
        let mut tally = Tally::default();
        assert_eq!(
            read(br#"{"type":"response.created","response":{"id":"r","usage":null}}"#, &mut tally),
            Event::Begun
        );
        let done = br#"{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":253,"input_tokens":132,"output_tokens":121,
            "input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64,"cached_tokens_details":{"text_tokens":60,"audio_tokens":4}},
            "output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;
        assert_eq!(read(done, &mut tally), Event::Done);
        let expected =
            Usage::of(132 - 64 - 9, 30).with(Kind::CacheRead, 64).with(Kind::AudioInput, 9).with(Kind::AudioOutput, 91);
        assert_eq!(tally.usage(0, 1_000), (expected, false));
    }

    #[test]
    fn what_was_heard_and_read_is_estimated_until_then() {
        let mut tally = Tally::default();
        let sound = "A".repeat(6_400);
        read(format!(r#"{{"type":"response.output_audio.delta","delta":"{sound}"}}"#).as_bytes(), &mut tally);
        read(br#"{"type":"response.output_text.delta","delta":"12345678"}"#, &mut tally);
        read(br#"{"type":"response.output_audio_transcript.delta","delta":"the same again"}"#, &mut tally);
        assert_eq!(tally.output_estimate(), 4);
        assert_eq!(read(b"no JSON", &mut tally), Event::Ordinary);
    }
}
