//! OpenAI speech: sound as bytes, or as events with a usage.

use super::ask::Ask;
use super::plan::{Event, Plan};
use super::request::Request;
use super::text::Prompt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A frame of MPEG-1 layer III at 128 kbit/s and 44.1 kHz, 26 ms of silence.
const MP3_FRAME_HEAD: [u8; 4] = [0xFF, 0xFB, 0x90, 0x64];
const MP3_FRAME_BYTES: usize = 417;
/// A tenth of a second at 24 kHz and 16 bits.
const PCM_PIECE_BYTES: usize = 4800;
/// RIFF, PCM, one channel, 24 kHz, 16 bits; a stream does not know its length.
const WAV_HEAD: &[u8; 44] =
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\xc0\x5d\0\0\x80\xbb\0\0\x02\0\x10\0data\xff\xff\xff\xff";
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

/// Reads a request; the error is a sentence for the caller.
pub(super) fn read(ask: Ask) -> Result<Request, String> {
    let model = ask.model()?.to_owned();
    if ask.text("input").is_empty() || ask.body["voice"].is_null() {
        return Err("Speech needs an `input` and a `voice`.".to_owned());
    }
    let content_type = match ask.text("response_format") {
        _ if is_events(&ask) => EVENT_STREAM,
        "" | "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "pcm" => "audio/pcm",
        other => return Err(format!("The simulated provider makes no {other}, only mp3, wav and pcm.")),
    };
    if is_events(&ask) && model.starts_with("tts-1") {
        return Err("The model does not support `stream_format` sse.".to_owned());
    }
    let spoken = pieces(&ask);
    Ok(Request {
        streamed: true,
        input_tokens: spoken + ask.text("instructions").split_whitespace().count() as u64,
        output_tokens: Some(spoken),
        content_type: Some(content_type),
        ..Request::new(ask, &model, Prompt::new(""))
    })
}

fn is_events(ask: &Ask) -> bool {
    ask.text("stream_format") == "sse"
}

/// A piece of sound for each word, and a token for each piece.
fn pieces(ask: &Ask) -> u64 {
    ask.text("input").split_whitespace().count().max(1) as u64
}

/// The sound, piece by piece.
pub(super) fn stream(plan: Plan) -> impl Iterator<Item = Event> + Send + Sync {
    let is_events = is_events(&plan.ask);
    let pieces = pieces(&plan.ask);
    let done = (is_events && plan.ends_properly).then(|| done(&plan));
    let sounds = (0..pieces).map(move |index| {
        let sound = sound(plan.ask.text("response_format"), index);
        let event = if is_events {
            let before = "data: {\"type\":\"speech.audio.delta\",\"audio\":\"";
            let text = format!("{before}{}\"}}\r\n\r\n", STANDARD.encode(sound));
            Event { text_at: before.len(), ..Event::plain(text) }
        } else {
            Event::plain(sound)
        };
        Event { tokens: 1, is_paced: index > 0, ..event }
    });
    sounds.chain(done)
}

fn done(plan: &Plan) -> Event {
    let usage = &plan.usage;
    let usage = plan.reports_usage.then(|| {
        let (input, output, total) = (usage.input_tokens, usage.output_tokens, usage.total_tokens());
        format!(",\"usage\":{{\"input_tokens\":{input},\"output_tokens\":{output},\"total_tokens\":{total}}}")
    });
    let text = format!("data: {{\"type\":\"speech.audio.done\"{}}}\r\n\r\n", usage.unwrap_or_default());
    Event { has_usage: plan.reports_usage, ..Event::plain(text) }
}

fn sound(format: &str, index: u64) -> Vec<u8> {
    match format {
        "wav" if index == 0 => [&WAV_HEAD[..], &[0; PCM_PIECE_BYTES]].concat(),
        "wav" | "pcm" => vec![0; PCM_PIECE_BYTES],
        _ => {
            let mut frame = MP3_FRAME_HEAD.to_vec();
            frame.resize(MP3_FRAME_BYTES, 0);
            frame
        }
    }
}
