//! Answers of which nothing but a usage object is read: embeddings, images, speech, transcriptions, moderations, ranks.
//!
//! Source: OpenAI API reference, "Embeddings", "Image streaming events", "Create speech", "Create transcription" with its streaming events,
//! "Moderations"; Cohere API reference, "Embed" and "Rerank": `meta.billed_units`. A stream's last event names itself `…completed` or
//! `…done` and has the usage beside megabytes of picture or sound.

use super::{Dialect, Event, cohere, openai_usage};
use crate::answer_scan::{AnswerScanner, Found, Keep, Wanted, value};
use crate::tally::Tally;
use crate::usage::{Kind, Usage};

const USAGE: usize = 1;
const TYPE: usize = 2;
const META: usize = 3;
const PICTURES: usize = 4;
const LINKS: usize = 5;

/// What is read of an event and of a whole answer.
pub(super) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["type"]),
    value(&["meta"]),
    Wanted { path: &["data", "b64_json"], keep: Keep::Each },
    Wanted { path: &["data", "url"], keep: Keep::Each },
];

/// A stream of events that carry no text.
#[derive(Debug)]
pub struct Stream {
    pub(super) dialect: Dialect,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        self.note(&AnswerScanner::scan(WANTED, data), tally)
    }

    /// Notes what an event has of [`WANTED`].
    pub(super) fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        read_answer(self.dialect, found, tally);
        if found.value(super::ERROR).is_some() {
            return Event::Error;
        }
        let is_last =
            |kind: &str| kind.ends_with(".completed") || kind.ends_with(".done") && !kind.ends_with("segment.done");
        if found.text(TYPE).is_some_and(is_last) { Event::Closing } else { Event::Ordinary }
    }
}

/// Reads the usage, in the words of whichever of the APIs it is.
pub(super) fn read_answer(dialect: Dialect, found: &Found, tally: &mut Tally) {
    let plain_output = if dialect == Dialect::OpenaiImages {
        tally.pictures = found.count(PICTURES) + found.count(LINKS);
        Kind::ImageOutput
    } else if dialect == Dialect::OpenaiSpeech {
        Kind::AudioOutput
    } else {
        Kind::Output
    };
    let reported = found.value(USAGE).and_then(|text| openai_usage::read(text, plain_output));
    let reported = if dialect == Dialect::OpenaiTranscription {
        // Mistral bills the length of what it hears, and says its tokens too: a model has a price for one of them.
        let heard = found.value(USAGE).and_then(openai_usage::heard_milliseconds);
        reported.map(|usage| heard.map_or(usage, |heard| usage.with(Kind::AudioMilliseconds, heard)))
    } else {
        reported
    };
    let billed = || found.value(META).and_then(cohere::read_usage);
    if let Some(usage) = reported.or_else(billed) {
        tally.report(usage, true);
    }
    let is_free = dialect == Dialect::OpenaiModerations && found.value(super::ERROR).is_none();
    if is_free && tally.reported.is_none() {
        // OpenAI moderates for nothing; who bills for it says so.
        tally.report(Usage::default(), true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(dialect: Dialect, text: &str) -> Tally {
        let mut tally = Tally::default();
        read_answer(dialect, &AnswerScanner::scan(WANTED, text.as_bytes()), &mut tally);
        tally
    }

    fn usage(dialect: Dialect, text: &str) -> Option<Usage> {
        answer(dialect, text).reported.map(|reported| reported.usage)
    }

    #[test]
    fn whole_answers() {
        for (dialect, text, expected) in [
            (
                Dialect::OpenaiEmbeddings,
                r#"{"data":[{"embedding":[0.1,-2e-5]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                Usage::of(8, 0),
            ),
            (
                Dialect::OpenaiImages,
                r#"{"data":[{"b64_json":"aa"}],"usage":{"input_tokens":9,"output_tokens":4160,"input_tokens_details":{"text_tokens":9,"image_tokens":0}}}"#,
                Usage::of(9, 0).with(Kind::ImageOutput, 4160),
            ),
            (
                Dialect::OpenaiTranscription,
                r#"{"text":"x","usage":{"type":"tokens","input_tokens":37,"input_token_details":{"text_tokens":0,"audio_tokens":37},"output_tokens":145}}"#,
                Usage::of(0, 145).with(Kind::AudioInput, 37),
            ),
            (
                Dialect::OpenaiTranscription,
                r#"{"text":"x","usage":{"type":"duration","seconds":4.2}}"#,
                Usage::default().with(Kind::AudioMilliseconds, 4_200),
            ),
            (
                Dialect::OpenaiTranscription,
                r#"{"usage":{"prompt_audio_seconds":3,"prompt_tokens":3,"total_tokens":389,"completion_tokens":11,"prompt_tokens_details":{"audio_tokens":375}}}"#,
                Usage::of(3, 11).with(Kind::AudioInput, 375).with(Kind::AudioMilliseconds, 3_000),
            ),
            (Dialect::OpenaiModerations, r#"{"results":[]}"#, Usage::default()),
            (
                Dialect::OpenaiModerations,
                r#"{"results":[],"usage":{"prompt_tokens":4,"total_tokens":4}}"#,
                Usage::of(4, 0),
            ),
            (Dialect::CohereEmbed, r#"{"meta":{"billed_units":{"input_tokens":3}}}"#, Usage::of(3, 0)),
            (
                Dialect::CohereEmbed,
                r#"{"meta":{"billed_units":{"images":1,"image_tokens":300,"input_tokens":0}}}"#,
                Usage::default().with(Kind::ImageInput, 300),
            ),
            (
                Dialect::CohereRerank,
                r#"{"results":[],"meta":{"billed_units":{"search_units":1}}}"#,
                Usage::default().with(Kind::SearchUnits, 1),
            ),
        ] {
            assert_eq!(usage(dialect, text), Some(expected), "{text}");
        }
        assert_eq!(usage(Dialect::OpenaiTranscription, r#"{"text":"x"}"#), None);
        assert_eq!(usage(Dialect::OpenaiModerations, r#"{"error":{}}"#), None);
    }

    #[test]
    fn pictures_without_figures_are_counted() {
        let tally = answer(Dialect::OpenaiImages, r#"{"data":[{"url":"a"},{"url":"b","b64_json":null}]}"#);
        assert_eq!((tally.reported, tally.pictures), (None, 2));
    }

    #[test]
    fn the_last_event_has_the_figures() {
        let mut tally = Tally::default();
        for (dialect, data, event) in [
            (Dialect::OpenaiImages, r#"{"type":"image_generation.partial_image","b64_json":"x"}"#, Event::Ordinary),
            (
                Dialect::OpenaiImages,
                r#"{"type":"image_edit.completed","usage":{"input_tokens":1,"output_tokens":2}}"#,
                Event::Closing,
            ),
            (Dialect::OpenaiSpeech, r#"{"type":"speech.audio.delta","audio":"x"}"#, Event::Ordinary),
            (
                Dialect::OpenaiSpeech,
                r#"{"type":"speech.audio.done","usage":{"input_tokens":1,"output_tokens":2}}"#,
                Event::Closing,
            ),
            (Dialect::OpenaiTranscription, r#"{"type":"transcript.text.segment.done"}"#, Event::Ordinary),
            (
                Dialect::OpenaiTranscription,
                r#"{"type":"transcript.text.done","usage":{"input_tokens":1,"output_tokens":2}}"#,
                Event::Closing,
            ),
            (Dialect::OpenaiTranscription, r#"{"error":{"message":"x"}}"#, Event::Error),
            (Dialect::OpenaiTranscription, "[DONE]", Event::Final),
        ] {
            assert_eq!(Stream { dialect }.read(data.as_bytes(), &mut tally), event, "{data}");
        }
        assert_eq!(tally.usage(0, 9), (Usage::of(1, 2), false));
    }
}
