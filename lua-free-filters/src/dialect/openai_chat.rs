//! OpenAI chat completions.
//!
//! Source: OpenAI API reference, "The chat completion chunk object" and "Chat completion usage". The details of a count
//! are parts of it; a stream carries `usage` in its last chunk, with `choices: []`, only if the request asked for it.

use super::{Count, Cut, Event, may_have, string_bytes, text_bytes};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::{Kind, Usage};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::LazyLock;

/// Most choices of an answer that are told apart; the API takes no larger `n`.
const CHOICES_MAX: u64 = 128;

struct Finders {
    usage: Finder<'static>,
    error: Finder<'static>,
    finish: Finder<'static>,
    content: Finder<'static>,
    text: [Finder<'static>; 2],
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: Finder::new("\"usage\""),
    error: Finder::new("\"error\""),
    finish: Finder::new("\"finish_reason\""),
    content: Finder::new("content\":\""),
    text: [Finder::new("\"refusal\":\""), Finder::new("\"arguments\":\"")],
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

/// A stream of chunks, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    /// Data of the last chunk up to the first one with text: it names the answer, and is read only if the stream is cut.
    sample: Vec<u8>,
    has_text: bool,
    /// The choices that have ended, a bit each.
    ended: u128,
    /// The usage chunk has passed.
    has_usage: bool,
}

impl Stream {
    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        let finders = &*FINDERS;
        let text = content_bytes(data, &finders.content) + text_bytes(data, &finders.text);
        tally.relay_text(text);
        if !self.has_text {
            self.sample.clear();
            self.sample.extend_from_slice(data);
            self.has_text = text > 0;
        }
        if may_have(data, &finders.finish) {
            self.note_ends(data);
        }
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
        let Some(usage) = chunk.usage else { return Event::Ordinary };
        tally.report(usage.usage(), true);
        if chunk.choices.is_some_and(|choices| !choices.is_empty()) {
            return Event::Ordinary;
        }
        self.has_usage = true;
        Event::UsageOnly
    }

    fn note_ends(&mut self, data: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Ends>(data) else { return };
        for choice in chunk.choices {
            let index = choice.index.or_zero();
            if choice.finish_reason.is_some() && index < CHOICES_MAX {
                self.ended |= 1 << index;
            }
        }
    }

    /// A last chunk for each choice that is open, the usage chunk if it was asked for, and the final event.
    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let names: Names = serde_json::from_slice(&self.sample).unwrap_or_default();
        let head = names.head(cut);
        let mut events = String::new();
        let mut put = |text: &str| {
            for part in ["data: ", text, "\n\n"] {
                events.push_str(part);
            }
        };
        let delta = if self.sample.is_empty() { r#"{"role":"assistant","content":""}"# } else { "{}" };
        let reason = json!({"code": cut.reason.name()});
        let usage = if cut.include_usage { ",\"usage\":null" } else { "" };
        for index in (0..cut.choices.min(CHOICES_MAX)).filter(|index| self.ended & (1 << index) == 0) {
            let choice = format!(r#"{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":"length"}}"#);
            put(&format!("{head}{choice}]{usage},\"tollgate\":{reason}}}"));
        }
        if cut.include_usage && !self.has_usage {
            let (input, output) = (cut.usage.input_total(), cut.usage.output_total());
            let total = cut.usage.tokens_total();
            let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": total});
            put(&format!("{head}],\"usage\":{usage}}}"));
        }
        put("[DONE]");
        events.into_bytes()
    }
}

/// Bytes of the members `content` and `reasoning_content`, found in one pass.
fn content_bytes(data: &[u8], content: &Finder<'_>) -> u64 {
    let is_ours = |at: &usize| data[..*at].ends_with(b"\"") || data[..*at].ends_with(b"\"reasoning_");
    content.find_iter(data).filter(is_ours).map(|at| string_bytes(&data[at + content.needle().len()..])).sum()
}

/// The choices of a chunk, as far as they say that they have ended.
#[derive(Deserialize)]
struct Ends {
    choices: Vec<ChoiceEnd>,
}

#[derive(Deserialize)]
struct ChoiceEnd {
    #[serde(default)]
    index: Count,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

/// What the chunks of one answer have in common, as the provider wrote it.
#[derive(Default, Deserialize)]
struct Names<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    service_tier: Option<&'a RawValue>,
    #[serde(borrow, default)]
    system_fingerprint: Option<&'a RawValue>,
}

impl Names<'_> {
    /// A chunk up to the inside of its `choices`. What the provider has not said is said by us.
    fn head(&self, cut: &Cut<'_>) -> String {
        let or = |said: Option<&RawValue>, ours: serde_json::Value| {
            said.map_or_else(|| ours.to_string(), |value| value.get().to_owned())
        };
        let mut head = format!(
            "{{\"id\":{},\"object\":{},\"created\":{},\"model\":{}",
            or(self.id, format!("chatcmpl-{}", cut.call).into()),
            or(self.object, "chat.completion.chunk".into()),
            or(self.created, cut.at.0.div_euclid(1_000).into()),
            or(self.model, cut.model.into()),
        );
        let optional = [("service_tier", self.service_tier), ("system_fingerprint", self.system_fingerprint)];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            head.push_str(&format!(",\"{name}\":{value}"));
        }
        head.push_str(",\"choices\":[");
        head
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
        (Stream::default().read(data.as_bytes(), &mut tally), tally)
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
    fn text_is_what_the_model_says_and_thinks() {
        for (delta, bytes) in [
            (r#"{"content":"abc"}"#, 3),
            (r#"{"content":"","reasoning_content":"ab"}"#, 2),
            (r#"{"encrypted_content":"abc"}"#, 0),
            (r#"{"content":"a\"content\":\"b"}"#, 16),
            (r#"{"refusal":"no"}"#, 2),
            (r#"{"tool_calls":[{"function":{"arguments":"{"}}]}"#, 1),
        ] {
            assert_eq!(read(&format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#)).1.text_bytes, bytes, "{delta}");
        }
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
        let mut stream = Stream::default();
        stream.read(br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#, &mut tally);
        stream.read(br#"{"choices":[],"usage":null}"#, &mut tally);
        assert_eq!(tally.usage(0, 1_000), (Usage::of(1, 2), false));
    }

    #[test]
    fn a_cut_ends_the_open_choices_in_the_streams_own_names() {
        let mut stream = Stream::default();
        for data in [
            r#"{"id":"","choices":[],"prompt_filter_results":[]}"#,
            r#"{"id":"c-1","object":"o","created":7,"model":"m","system_fingerprint":"f","choices":[{"index":0,"delta":{"content":"a"}}]}"#,
            r#"{"id":"c-1","choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}]}"#,
            r#"{"id":"c-1","choices":[{"index":1,"delta":{"content":"c"},"finish_reason":"stop"}]}"#,
        ] {
            stream.read(data.as_bytes(), &mut Tally::default());
        }
        let cut = Cut {
            reason: crate::denied::Code::SpendLimitReached,
            usage: Usage::of(5, 2),
            include_usage: false,
            choices: 3,
            call: crate::id::CallId(1),
            model: "other",
            at: crate::time::EpochMs(0),
        };
        let end = String::from_utf8(stream.cut(&cut)).expect("text");
        let chunk = |index| {
            format!(
                r#"data: {{"id":"c-1","object":"o","created":7,"model":"m","system_fingerprint":"f","choices":[{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"length"}}],"tollgate":{{"code":"spend_limit_reached"}}}}"#
            )
        };
        assert_eq!(end, format!("{}\n\n{}\n\ndata: [DONE]\n\n", chunk(0), chunk(2)));
        let whole = String::from_utf8(Stream::default().cut(&Cut { choices: 1, ..cut })).expect("text");
        assert!(whole.contains(r#""model":"other","choices":[{"index":0,"delta":{"role":"assistant","content":""}"#));
    }
}
