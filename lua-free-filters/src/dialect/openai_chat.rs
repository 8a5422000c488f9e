//! OpenAI chat completions.
//!
//! Source: OpenAI API reference, "The chat completion chunk object" and "Chat completion usage". The details of a count
//! are parts of it; a stream carries `usage` in its last chunk, with `choices: []`, only if the request asked for it.

use super::{Count, Event, may_have, text_bytes};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::sync::LazyLock;

struct Finders {
    usage: Finder<'static>,
    error: Finder<'static>,
    text: [Finder<'static>; 4],
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: Finder::new("\"usage\""),
    error: Finder::new("\"error\""),
    text: [
        Finder::new("\"content\":\""),
        Finder::new("\"reasoning_content\":\""),
        Finder::new("\"refusal\":\""),
        Finder::new("\"arguments\":\""),
    ],
});

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Option<ChatUsage>,
    #[serde(default)]
    service_tier: Option<String>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ChatUsage {
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    cache_write_tokens: Count,
    #[serde(default)]
    audio_tokens: Count,
    #[serde(default)]
    image_tokens: Count,
}

#[derive(Default, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Count,
    #[serde(default)]
    audio_tokens: Count,
}

impl ChatUsage {
    fn usage(self) -> Usage {
        let prompt = self.prompt_tokens_details.unwrap_or_default();
        let completion = self.completion_tokens_details.unwrap_or_default();
        let parts_of_input = [
            (Kind::CacheRead, prompt.cached_tokens),
            (Kind::CacheWrite5m, prompt.cache_write_tokens),
            (Kind::AudioInput, prompt.audio_tokens),
            (Kind::ImageInput, prompt.image_tokens),
        ];
        let parts_of_output =
            [(Kind::Reasoning, completion.reasoning_tokens), (Kind::AudioOutput, completion.audio_tokens)];
        let usage = split(Usage::default(), Kind::Input, self.prompt_tokens, &parts_of_input);
        split(usage, Kind::Output, self.completion_tokens.or_zero(), &parts_of_output)
    }
}

/// Takes the parts out of the total, never more than is left of it, and gives the rest to `plain`.
fn split(usage: Usage, plain: Kind, total: u64, parts: &[(Kind, Count)]) -> Usage {
    let (mut usage, mut rest) = (usage, total);
    for (kind, count) in parts {
        let part = count.or_zero().min(rest);
        usage = usage.with(*kind, part);
        rest -= part;
    }
    usage.with(plain, rest)
}

pub(super) fn read_event(data: &[u8], tally: &mut Tally) -> Event {
    if data.trim_ascii() == b"[DONE]" {
        return Event::Final;
    }
    let finders = &*FINDERS;
    let text = text_bytes(data, &finders.text);
    tally.relay_text(text);
    // Most chunks carry text and no figures; only the others are worth a parse.
    if !may_have(data, &finders.usage) && (text > 0 || !may_have(data, &finders.error)) {
        return Event::Ordinary;
    }
    let Ok(chunk) = serde_json::from_slice::<Chunk>(data) else { return Event::Ordinary };
    if chunk.error.is_some() {
        return Event::Error;
    }
    if let Some(tier) = chunk.service_tier {
        tally.tier = Some(Tier::named(&tier));
    }
    match (chunk.usage, chunk.choices) {
        (Some(usage), choices) => {
            tally.report(usage.usage(), true);
            if choices.is_none_or(|choices| choices.is_empty()) { Event::UsageOnly } else { Event::Ordinary }
        }
        (None, _) => Event::Ordinary,
    }
}

pub(super) fn read_answer(usage: Option<&[u8]>, service_tier: Option<&[u8]>, tally: &mut Tally) {
    if let Some(Ok(usage)) = usage.map(serde_json::from_slice::<ChatUsage>) {
        tally.report(usage.usage(), true);
    }
    if let Some(Ok(tier)) = service_tier.map(serde_json::from_slice::<&str>) {
        tally.tier = Some(Tier::named(tier));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> (Event, Tally) {
        let mut tally = Tally::default();
        (read_event(data.as_bytes(), &mut tally), tally)
    }

    #[test]
    fn details_are_parts_of_their_totals() {
        let (event, tally) = read(
            r#"{"choices":[],"service_tier":"priority","usage":{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":5,"cache_write_tokens":null},"completion_tokens_details":{"reasoning_tokens":30,"rejected_prediction_tokens":4}}}"#,
        );
        assert_eq!(event, Event::UsageOnly);
        let expected = Usage::of(35, 20).with(Kind::CacheRead, 60).with(Kind::AudioInput, 5).with(Kind::Reasoning, 30);
        assert_eq!((tally.usage(0, 1_000), tally.tier), ((expected, false), Some(Tier::Priority)));
    }

    #[test]
    fn usage_beside_choices_is_counted_and_passed_on() {
        let (event, tally) = read(r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#);
        assert_eq!((event, tally.usage(0, 1_000)), (Event::Ordinary, (Usage::of(1, 2), false)));
    }

    #[test]
    fn the_models_own_words_are_not_figures() {
        let (event, tally) =
            read(r#"{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":999}"}}],"usage":null}"#);
        assert_eq!((event, tally.reported), (Event::Ordinary, None));
        assert!(tally.text_bytes > 20);
    }

    #[test]
    fn figures_that_are_no_counts_are_no_figures() {
        for count in ["-1", "1.5", "1e3", "18446744073709551616", "\"7\"", "{}"] {
            let (_, tally) =
                read(&format!(r#"{{"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":{count}}}}}"#));
            assert_eq!(tally.reported, None, "{count}");
        }
    }

    #[test]
    fn the_end_and_errors_are_seen() {
        assert_eq!(read("[DONE]").0, Event::Final);
        assert_eq!(read(r#"{"error":{"message":"overloaded"}}"#).0, Event::Error);
        assert_eq!(read(r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#).0, Event::Ordinary);
        assert_eq!(read("garbage \"usage\": 3").0, Event::Ordinary);
    }

    #[test]
    fn a_later_null_does_not_take_figures_back() {
        let mut tally = Tally::default();
        read_event(br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#, &mut tally);
        read_event(br#"{"choices":[],"usage":null}"#, &mut tally);
        assert_eq!(tally.usage(0, 1_000), (Usage::of(1, 2), false));
    }
}
