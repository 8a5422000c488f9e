//! OpenAI chat completions, and completions, the API before chat.
//!
//! Source: OpenAI API reference, "The chat completion chunk object" and "Chat completion usage". The details of a count
//! are parts of it; a stream carries `usage` in its last chunk, with `choices: []`, only if the request asked for it. Groq says the
//! same in `x_groq` too, and failures there: it counts once.

use super::likeness::Likeness;
use super::{Count, Cut, Event, may_have, openai_usage, string_bytes, text_bytes};
use crate::answer_scan::{AnswerScanner, Found, Keep, Wanted, value};
use crate::price::Tier;
use crate::tally::Tally;
use crate::usage::Kind;
use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::LazyLock;

/// Most choices of an answer that are told apart; the API takes no larger `n`.
const CHOICES_MAX: u64 = 128;

const USAGE: usize = 1;
const SERVICE_TIER: usize = 2;
const CHOICES: usize = 3;
const GROQ_USAGE: usize = 4;
const GROQ_ERROR: usize = 5;

/// What is read of a chunk and of a whole answer.
pub(super) const WANTED: &[Wanted] = &[
    value(&["error"]),
    value(&["usage"]),
    value(&["service_tier"]),
    Wanted { path: &["choices"], keep: Keep::Head },
    value(&["x_groq", "usage"]),
    value(&["x_groq", "error"]),
];

struct Finders {
    usage: Finder<'static>,
    error: Finder<'static>,
    finish: Finder<'static>,
    content: Finder<'static>,
    text: [Finder<'static>; 3],
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: Finder::new("\"usage\""),
    error: Finder::new("\"error\""),
    finish: Finder::new("\"finish_reason\""),
    content: Finder::new("content\":\""),
    text: [Finder::new("\"refusal\":\""), Finder::new("\"arguments\":\""), Finder::new("\"text\":\"")],
});

/// Which of the two APIs a stream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Api {
    #[default]
    Chat,
    Completions,
}

/// A stream of chunks, as far as it has come.
#[derive(Debug, Default)]
pub struct Stream {
    api: Api,
    /// Data of the last chunk up to the first one with text: it names the answer, and is read only if the stream is cut.
    sample: Vec<u8>,
    has_text: bool,
    /// The last chunk that had one text and nothing else to note.
    likeness: Likeness,
    /// The choices that have ended, a bit each.
    ended: u128,
    /// The usage chunk has passed.
    has_usage: bool,
}

impl Stream {
    pub(super) fn of(api: Api) -> Self {
        Self { api, ..Self::default() }
    }

    pub(super) fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        if let Some(text) = self.likeness.text_bytes(data).filter(|text| *text > 0) {
            tally.relay_text(text);
            return Event::Ordinary;
        }
        if data.trim_ascii() == b"[DONE]" {
            return Event::Final;
        }
        let finders = &*FINDERS;
        let content: u64 = contents(data, &finders.content).map(|at| string_bytes(&data[at..])).sum();
        let text = content + text_bytes(data, &finders.text);
        tally.relay_text(text);
        if !self.has_text {
            self.sample.clear();
            self.sample.extend_from_slice(data);
            self.has_text = text > 0;
        }
        let has_end = may_have(data, &finders.finish);
        if has_end {
            self.note_ends(data);
        }
        // Most chunks carry text and no figures; only the others are worth a scan.
        if !may_have(data, &finders.usage) && (text > 0 || !may_have(data, &finders.error)) {
            if text > 0 && !has_end {
                self.take_likeness(data, text);
            }
            return Event::Ordinary;
        }
        self.note(&AnswerScanner::scan(WANTED, data), tally)
    }

    /// Remembers what a chunk is like that has so many bytes of text, if all of them are in one place.
    fn take_likeness(&mut self, data: &[u8], text: u64) {
        let finders = &*FINDERS;
        let others = finders.text.iter().filter_map(|finder| Some(finder.find(data)? + finder.needle().len()));
        let is_all = |at: &usize| string_bytes(&data[*at..]) == text;
        if let Some(at) = contents(data, &finders.content).chain(others).find(is_all) {
            self.likeness.take(data, at);
        }
    }

    /// Notes what a chunk has of [`WANTED`].
    pub(super) fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        // A failure may come with the figures of what was made before it.
        let has_usage = read_answer(found, tally);
        if found.value(super::ERROR).or(found.value(GROQ_ERROR)).is_some() {
            return Event::Error;
        }
        if !has_usage {
            return Event::Ordinary;
        }
        let choices = found.value(CHOICES).map(<[u8]>::trim_ascii);
        let is_empty = choices.is_none_or(|choices| choices.iter().all(|byte| b"[] \t\r\n".contains(byte)));
        self.has_usage |= is_empty;
        if is_empty { Event::UsageOnly } else { Event::Ordinary }
    }

    fn note_ends(&mut self, data: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Ends>(data) else { return };
        for choice in chunk.choices {
            let index = choice.index.0.unwrap_or(0);
            if choice.finish_reason.is_some() && index < CHOICES_MAX {
                self.ended |= 1 << index;
            }
        }
    }

    /// A last chunk for each choice that is open, the usage chunk if it was asked for, and the final event.
    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let names: Names = serde_json::from_slice(&self.sample).unwrap_or_default();
        let head = names.head(cut, self.api);
        let mut events = String::new();
        let mut put = |text: &str| {
            for part in ["data: ", text, "\n\n"] {
                events.push_str(part);
            }
        };
        let said = match self.api {
            Api::Completions => r#""text":"""#,
            Api::Chat if self.sample.is_empty() => r#""delta":{"role":"assistant","content":""}"#,
            Api::Chat => r#""delta":{}"#,
        };
        let reason = json!({"code": cut.reason.name()});
        let usage = if cut.include_usage { ",\"usage\":null" } else { "" };
        for index in (0..cut.choices.min(CHOICES_MAX)).filter(|index| self.ended & (1 << index) == 0) {
            let choice = format!(r#"{{"index":{index},{said},"logprobs":null,"finish_reason":"length"}}"#);
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

/// Where the members `content` and `reasoning_content` begin, behind their quotes, found in one pass.
fn contents(data: &[u8], content: &Finder<'_>) -> impl Iterator<Item = usize> {
    let is_ours = move |at: &usize| data[..*at].ends_with(b"\"") || data[..*at].ends_with(b"\"reasoning_");
    content.find_iter(data).filter(is_ours).map(move |at| at + content.needle().len())
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
    fn head(&self, cut: &Cut<'_>, api: Api) -> String {
        let (prefix, object) = match api {
            Api::Chat => ("chatcmpl", "chat.completion.chunk"),
            Api::Completions => ("cmpl", "text_completion"),
        };
        let or = |said: Option<&RawValue>, ours: serde_json::Value| {
            said.map_or_else(|| ours.to_string(), |value| value.get().to_owned())
        };
        let mut head = format!(
            "{{\"id\":{},\"object\":{},\"created\":{},\"model\":{}",
            or(self.id, format!("{prefix}-{}", cut.call).into()),
            or(self.object, object.into()),
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

/// Reads usage and tier; says whether there was a usage.
pub(super) fn read_answer(found: &Found, tally: &mut Tally) -> bool {
    if let Some(tier) = found.text(SERVICE_TIER) {
        tally.tier = Some(Tier::named(tier));
    }
    let figures = found.value(USAGE).or(found.value(GROQ_USAGE));
    let Some(usage) = figures.and_then(|text| openai_usage::read(text, Kind::Output)) else { return false };
    tally.report(usage, true);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;
    use proptest::prelude::*;

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

    /// Chunks as providers write them and as nobody does, with a text.
    fn chunks() -> impl Strategy<Value = String> {
        let text = prop_oneof![Just(String::new()), Just("\"}]".to_owned()), "[ -~]{0,12}"];
        let written = text.prop_map(|text| serde_json::to_string(&text).expect("a text"));
        let rest = prop::sample::select(vec![
            r#"{"delta":{"content":TEXT}}],"usage":null}"#,
            r#"{"delta":{"content":TEXT}}],"usage":null,"obfuscation":"TEXTS"}"#,
            r#"{"delta":{"content":TEXT,"reasoning_content":TEXT}}]}"#,
            r#"{"delta":{"encrypted_content":TEXT,"content":"abcd"}}]}"#,
            r#"{"delta":{"reasoning_content":TEXT},"finish_reason":null}]}"#,
            r#"{"delta":{"content":TEXT},"finish_reason":"stop"}]}"#,
            r#"{"delta":{"tool_calls":[{"function":{"arguments":TEXT}}]}}]}"#,
            r#"{"delta":{"refusal":TEXT}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
            r#"{"delta":{"content":TEXT}}],"error":{"message":"no"}}"#,
            r#"{"delta":{}}],"error":TEXT}"#,
        ]);
        (rest, written, "[a-z]{0,9}").prop_map(|(rest, text, padding)| {
            format!("{{\"id\":\"c1\",\"choices\":[{rest}").replace("TEXTS", &padding).replace("TEXT", &text)
        })
    }

    proptest! {
        #[test]
        fn a_chunk_is_read_as_if_none_had_come_before(chunks in prop::collection::vec(chunks(), 1..12)) {
            let (mut stream, mut tally, mut text) = (Stream::default(), Tally::default(), 0);
            for chunk in &chunks {
                let (event, alone) = read(chunk);
                prop_assert_eq!(stream.read(chunk.as_bytes(), &mut tally), event, "{}", chunk);
                text += alone.text_bytes;
                prop_assert_eq!(tally.text_bytes, text, "{}", chunk);
            }
        }
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
    fn groq_says_it_twice_and_it_counts_once() {
        let usage = r#"{"prompt_tokens":3,"completion_tokens":4}"#;
        let (event, tally) = read(&format!(
            r#"{{"choices":[{{"finish_reason":"stop"}}],"usage":{usage},"x_groq":{{"usage":{usage}}}}}"#
        ));
        assert_eq!((event, tally.usage(0, 99)), (Event::Ordinary, (Usage::of(3, 4), false)));
        let (_, tally) = read(&format!(r#"{{"choices":[{{}}],"x_groq":{{"id":"r","usage":{usage}}}}}"#));
        assert_eq!(tally.usage(0, 99), (Usage::of(3, 4), false));
        assert_eq!(read(r#"{"choices":[],"x_groq":{"error":"over capacity"}}"#).0, Event::Error);
        let (event, tally) = read(&format!(r#"{{"error":{{"code":400}},"choices":[{{}}],"usage":{usage}}}"#));
        assert_eq!((event, tally.usage(0, 99)), (Event::Error, (Usage::of(3, 4), false)));
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
        let text = String::from_utf8(Stream::of(Api::Completions).cut(&Cut { choices: 2, ..cut })).expect("text");
        let last = r#""choices":[{"index":1,"text":"","logprobs":null,"finish_reason":"length"}]"#;
        assert!(text.contains(r#""object":"text_completion""#) && text.contains(last), "{text}");
    }
}
