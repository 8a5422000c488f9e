//! OpenAI transcriptions and translations: a form with a sound, answered as JSON, as text, or as events.

use super::ask::Ask;
use super::plan::{Event, Plan, json_string};
use super::request::Request;
use super::route::Operation;
use super::text::Prompt;
use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a second of sound counts in tokens.
const TOKENS_PER_SECOND: u64 = 10;
/// Bytes of a second where the container does not say: 128 kbit/s.
const BYTES_PER_SECOND: u64 = 16_000;
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    let upload = ask.uploads.iter().find(|upload| upload.field == "file");
    let upload = upload.ok_or("Missing required parameter: 'file'.")?;
    let is_whisper = is_whisper(&model);
    let format = ask.text("response_format");
    let is_known = match format {
        "" | "json" => true,
        "text" | "srt" | "vtt" | "verbose_json" => is_whisper,
        "diarized_json" => !is_whisper,
        _ => false,
    };
    if !is_known {
        return Err(format!("response_format '{format}' is not compatible with model '{model}'."));
    }
    let audio_tokens = if is_whisper { 0 } else { milliseconds(&upload.bytes).div_ceil(1000) * TOKENS_PER_SECOND };
    let prompt = Prompt::of_bytes(&upload.bytes);
    Ok(Request {
        streamed: ask.is_streamed() && !is_whisper && ask.target.operation == Operation::Plain,
        input_tokens: audio_tokens + ask.text("prompt").split_whitespace().count() as u64,
        audio_tokens,
        content_type: matches!(format, "text" | "srt" | "vtt").then_some(PLAIN_TEXT),
        ..Request::new(ask, &model, prompt)
    })
}

/// The models that are billed by time.
fn is_whisper(model: &str) -> bool {
    model.contains("whisper")
}

/// How long a sound is: a WAV file says so, of others it is guessed.
fn milliseconds(bytes: &[u8]) -> u64 {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    match (bytes.starts_with(b"RIFF"), number(28)) {
        (true, Some(rate)) if rate > 0 => (bytes.len() as u64).saturating_sub(44) * 1000 / u64::from(rate),
        _ => bytes.len() as u64 * 1000 / BYTES_PER_SECOND,
    }
}

fn length_ms(plan: &Plan) -> u64 {
    let of_upload =
        || plan.ask.uploads.iter().find(|upload| upload.field == "file").map(|upload| milliseconds(&upload.bytes));
    plan.seconds.map(|seconds| seconds * 1000).or_else(of_upload).unwrap_or_default()
}

/// The whole unary answer.
pub(super) fn body(plan: &Plan) -> Event {
    let words = plan.whole_text();
    let ask = &plan.ask;
    let has_usage = plan.reports_usage && ask.target.operation == Operation::Plain;
    let (start, end) = ("00:00:00", timestamp(length_ms(plan)));
    let tokens = plan.reply.tokens;
    let text = match ask.text("response_format") {
        "text" => format!("{words}\n"),
        "srt" => format!("1\n{start},000 --> {end}\n{words}\n\n\n"),
        "vtt" => format!("WEBVTT\n\n{start}.000 --> {}\n{words}\n\n", end.replace(',', ".")),
        format => {
            let mut answer = json!({"text": words});
            if format == "verbose_json" {
                answer = verbose(plan, &words);
            } else if format == "diarized_json" {
                let segment = json!({"type": "transcript.text.segment", "id": "seg_0", "speaker": "A", "start": 0,
                    "end": length_ms(plan) / 1000, "text": words});
                answer = json!({"task": "transcribe", "duration": length_ms(plan) / 1000, "text": words,
                    "segments": [segment]});
            }
            if has_usage {
                answer["usage"] = usage(plan);
            }
            return Event { tokens, has_usage, ..Event::plain(answer.to_string()) };
        }
    };
    Event { tokens, ..Event::plain(text) }
}

fn verbose(plan: &Plan, words: &str) -> Value {
    let milliseconds = length_ms(plan);
    let seconds = milliseconds as f64 / 1000.0;
    let task = if plan.ask.target.operation == Operation::Translation { "translate" } else { "transcribe" };
    let segment = json!({"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": words, "tokens": [],
        "temperature": 0.0, "avg_logprob": -0.25, "compression_ratio": 1.0, "no_speech_prob": 0.0});
    json!({"task": task, "language": "english", "duration": seconds, "text": words, "segments": [segment]})
}

/// `hours:minutes:seconds,milliseconds`.
fn timestamp(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    format!("{:02}:{:02}:{:02},{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, milliseconds % 1000)
}

/// The events of a stream, each made when it is asked for.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let plan = Arc::new(plan);
    let pieces = plan.reply.tokens;
    let of_pieces = Arc::clone(&plan);
    let words = (0..pieces).map(move |index| {
        let mut text = BytesMut::from(&b"data: {\"type\":\"transcript.text.delta\",\"delta\":\""[..]);
        let text_at = text.len();
        of_pieces.reply.write_piece(index, &mut text);
        text.put_slice(b"\"}\r\n\r\n");
        Event { text_at, tokens: 1, is_paced: index > 0, ..Event::plain(text.freeze()) }
    });
    words.chain(plan.ends_properly.then(|| done(&plan)))
}

fn done(plan: &Plan) -> Event {
    let words = json_string(&plan.whole_text());
    let usage = if plan.reports_usage { format!(",\"usage\":{}", usage(plan)) } else { String::new() };
    let text = format!("data: {{\"type\":\"transcript.text.done\",\"text\":{words}{usage}}}\r\n\r\n");
    Event { has_usage: plan.reports_usage, ..Event::plain(text) }
}

fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    if is_whisper(&plan.model_name()) {
        return json!({"type": "duration", "seconds": length_ms(plan).div_ceil(1000)});
    }
    let audio_tokens = usage.audio_input_tokens;
    json!({
        "type": "tokens",
        "input_tokens": usage.input_tokens,
        "input_token_details": {"text_tokens": usage.input_tokens - audio_tokens, "audio_tokens": audio_tokens},
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens(),
    })
}
