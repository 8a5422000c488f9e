//! Gemini: `generateContent`, as one answer, as events, and as an array of chunks; and its embeddings.
//!
//! Source: Gemini API reference, "GenerateContentResponse" and "UsageMetadata". Each chunk has the figures so far. Thoughts and the prompt
//! of tools stand beside the other counts; cached content and modalities are parts of them. There is no `[DONE]`.

use super::figures::{Figures, NotACount, Written, take};
use super::{Cut, Event};
use crate::answer_scan::{AnswerScanner, Found, Keep, Wanted, value};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use serde_json::{Value, json};

const USAGE: usize = 1;
const FINISH: usize = 2;
const MODEL: usize = 3;
const ID: usize = 4;
const BLOCKED: usize = 5;
const TEXT_BYTES: usize = 6;

/// What is read of a chunk and of a whole answer.
pub(crate) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usageMetadata"]),
    value(&["candidates", "finishReason"]),
    value(&["modelVersion"]),
    value(&["responseId"]),
    value(&["promptFeedback", "blockReason"]),
    Wanted { path: &["candidates", "content", "parts", "text"], keep: Keep::Bytes },
];

/// A stream of chunks, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    /// The answer's id and the model, as JSON text.
    id: Option<Vec<u8>>,
    model: Option<Vec<u8>>,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        self.note(&AnswerScanner::scan(WANTED, data), tally)
    }

    /// Notes what a chunk has of [`WANTED`].
    pub(crate) fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        for (kept, index) in [(&mut self.id, ID), (&mut self.model, MODEL)] {
            if kept.is_none() {
                *kept = found.value(index).map(<[u8]>::to_vec);
            }
        }
        tally.relay_text(found.count(TEXT_BYTES));
        let is_last = found.value(FINISH).or(found.value(BLOCKED)).is_some();
        report(found, is_last, tally);
        if found.value(super::ERROR).is_some() {
            return Event::Error;
        }
        if is_last { Event::Closing } else { Event::Ordinary }
    }

    /// A chunk that ends the answer, as JSON text.
    pub(crate) fn last_chunk(&self, cut: &Cut<'_>) -> String {
        let said = |text: &Option<Vec<u8>>| text.as_deref().and_then(|text| serde_json::from_slice::<Value>(text).ok());
        let thoughts = cut.usage.get(Kind::Reasoning);
        let mut figures = json!({
            "promptTokenCount": cut.usage.input_total(),
            "candidatesTokenCount": cut.usage.output_total() - thoughts,
            "totalTokenCount": cut.usage.tokens_total(),
        });
        if thoughts > 0 {
            figures["thoughtsTokenCount"] = thoughts.into();
        }
        let candidates: Vec<_> = (0..cut.choices.max(1))
            .map(|index| json!({"content": {"parts": [], "role": "model"}, "finishReason": "MAX_TOKENS", "index": index}))
            .collect();
        json!({
            "candidates": candidates,
            "usageMetadata": figures,
            "modelVersion": said(&self.model).unwrap_or_else(|| cut.model.into()),
            "responseId": said(&self.id).unwrap_or_else(|| cut.call.to_string().into()),
        })
        .to_string()
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        format!("data: {}\r\n\r\n", self.last_chunk(cut)).into_bytes()
    }
}

/// Reads the figures of a whole answer.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) {
    report(found, true, tally);
}

fn report(found: &Found, is_final: bool, tally: &mut Tally) {
    let Some(written) = found.value(USAGE).and_then(Written::read) else { return };
    let figures = Figures::of(&written);
    if let Some(tier) = figures.text("serviceTier").or(figures.text("trafficType")) {
        // `FLEX` there, `ON_DEMAND_FLEX` here.
        let name = tier.rsplit('_').next().unwrap_or(tier).to_ascii_lowercase();
        tally.tier = Some(Tier::named(&name));
    }
    match usage(&figures) {
        Ok(Some(usage)) => tally.report(usage, is_final),
        // A prompt that is turned away may have no counts: nothing was read.
        Ok(None) if found.value(BLOCKED).is_some() && tally.reported.is_none() => tally.report(Usage::default(), true),
        Ok(None) | Err(NotACount) => {}
    }
}

fn usage(figures: &Figures<'_>) -> Result<Option<Usage>, NotACount> {
    let prompt = figures.count(&["promptTokenCount"])?;
    let candidates = figures.count(&["candidatesTokenCount", "responseTokenCount"])?;
    let thoughts = figures.count(&["thoughtsTokenCount"])?;
    let tools = figures.count(&["toolUsePromptTokenCount"])?;
    if prompt.or(candidates).or(thoughts).or(tools).is_none() {
        return Ok(None);
    }
    let (mut input, mut output) = (prompt.unwrap_or(0), candidates.unwrap_or(0));
    let of_prompt = Modalities::read(figures, &["promptTokensDetails", "promptTokenDetails"])?;
    let of_cache = Modalities::read(figures, &["cacheTokensDetails"])?;
    let of_output = Modalities::read(figures, &["candidatesTokensDetails", "responseTokensDetails"])?;
    let mut usage = Usage::default().with(Kind::Reasoning, thoughts.unwrap_or(0));
    for (kind, part) in [
        (Kind::CacheRead, figures.count_or_zero(&["cachedContentTokenCount"])?),
        // What is read from the cache is not heard or seen again.
        (Kind::AudioInput, of_prompt.audio.saturating_sub(of_cache.audio)),
        (Kind::ImageInput, of_prompt.image.saturating_sub(of_cache.image)),
    ] {
        usage = usage.with(kind, take(&mut input, part));
    }
    for (kind, part) in [(Kind::AudioOutput, of_output.audio), (Kind::ImageOutput, of_output.image)] {
        usage = usage.with(kind, take(&mut output, part));
    }
    Ok(Some(usage.with(Kind::Input, input + tools.unwrap_or(0)).with(Kind::Output, output)))
}

/// Tokens of the modalities that have prices of their own.
#[derive(Default)]
struct Modalities {
    audio: u64,
    image: u64,
}

impl Modalities {
    fn read(figures: &Figures<'_>, names: &[&str]) -> Result<Self, NotACount> {
        let mut modalities = Self::default();
        for part in figures.list(names) {
            let tokens = part.count_or_zero(&["tokenCount"])?;
            match (part.text("modality"), part.count(&["modality"])) {
                // Some clients write the number of the name.
                (Some("AUDIO"), _) | (None, Ok(Some(4))) => modalities.audio += tokens,
                (Some("IMAGE"), _) | (None, Ok(Some(2))) => modalities.image += tokens,
                _ => {}
            }
        }
        Ok(modalities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&str]) -> (Vec<Event>, Tally) {
        let (mut stream, mut tally) = (Stream::default(), Tally::default());
        (chunks.iter().map(|data| stream.read(data.as_bytes(), &mut tally)).collect(), tally)
    }

    #[test]
    fn the_last_figures_win_and_thoughts_stand_beside() {
        let (events, tally) = read(&[
            r#"{"candidates":[{"content":{"parts":[{"text":"Hello"}]}}],"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}"#,
            r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":5,"thoughtsTokenCount":7,
                "toolUsePromptTokenCount":3,"cachedContentTokenCount":4,"totalTokenCount":24,"serviceTier":"STANDARD"}}"#,
        ]);
        assert_eq!(events, [Event::Ordinary, Event::Closing]);
        let expected = Usage::of(8, 5).with(Kind::CacheRead, 4).with(Kind::Reasoning, 7);
        assert_eq!((tally.usage(0, 99), tally.tier, tally.text_bytes), ((expected, false), Some(Tier::Standard), 5));
    }

    #[test]
    fn modalities_are_parts_and_what_was_cached_is_not_seen_again() {
        let (_, tally) = read(&[
            r#"{"usageMetadata":{"promptTokenCount":345,"cachedContentTokenCount":191,"candidatesTokenCount":64,
            "cacheTokensDetails":[{"modality":"TEXT","tokenCount":48},{"modality":"IMAGE","tokenCount":143}],
            "promptTokensDetails":[{"modality":"TEXT","tokenCount":87},{"modality":"IMAGE","tokenCount":258}],
            "candidatesTokensDetails":[{"modality":"AUDIO","tokenCount":60},{"modality":1,"tokenCount":4}]}}"#,
        ]);
        let expected =
            Usage::of(39, 4).with(Kind::CacheRead, 191).with(Kind::ImageInput, 115).with(Kind::AudioOutput, 60);
        assert_eq!(tally.reported.map(|reported| reported.usage), Some(expected));
    }

    #[test]
    fn a_beginning_is_completed_by_what_was_relayed() {
        let chunk =
            r#"{"candidates":[{"content":{"parts":[{"text":"12345678"}]}}],"usageMetadata":{"promptTokenCount":9}}"#;
        assert_eq!(read(&[chunk, chunk]).1.usage(0, 99), (Usage::of(9, 4), true));
    }

    #[test]
    fn a_prompt_that_is_turned_away_has_read_nothing() {
        let (events, tally) =
            read(&[r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"trafficType":"ON_DEMAND_FLEX"}}"#]);
        assert_eq!(
            (events[0], tally.usage(9, 99), tally.tier),
            (Event::Closing, (Usage::default(), false), Some(Tier::Flex))
        );
        // Between the chunks of Vertex there are some without counts: they take nothing back.
        let (_, tally) =
            read(&[r#"{"usageMetadata":{"promptTokenCount":9}}"#, r#"{"usageMetadata":{"trafficType":"ON_DEMAND"}}"#]);
        assert_eq!(tally.usage(0, 99).0, Usage::of(9, 0));
    }

    #[test]
    fn figures_that_are_no_counts_are_no_figures() {
        for count in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\""] {
            let chunk = format!(r#"{{"usageMetadata":{{"promptTokenCount":1,"candidatesTokenCount":{count}}}}}"#);
            assert_eq!(read(&[&chunk]).1.reported, None, "{count}");
        }
        assert_eq!(read(&[r#"{"error":{"code":500}}"#]).0, [Event::Error]);
    }
}
