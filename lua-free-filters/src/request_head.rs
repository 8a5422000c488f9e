//! The few fields of a request body that the gateway reads, in one pass, and the edits it may make, by splicing bytes.
//!
//! The gateway must read what the provider will read: a field that stands twice is refused, whichever of the two a
//! provider would believe.

mod rewrite;
mod tool;
mod weight;

pub use rewrite::Rewrite;
pub use weight::{TOKENS_PER_ATTACHMENT, TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST, TOKENS_PER_TOOL, Weight};

use crate::denied::Denied;
use crate::price::Tier;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use weight::Text;

/// What a request asks for, as far as the gateway needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The model's name, decoded.
    pub model: String,
    /// Whether the answer is to be a stream of events.
    pub streamed: bool,
    /// Whether the client asked for a usage event itself.
    pub include_usage: bool,
    /// The output limit: the least of those named, in tokens.
    pub output_limit: Option<u64>,
    /// The limit that whoever serves the request holds it to, whichever of `max_tokens` and `max_completion_tokens` it
    /// reads: the larger, in tokens.
    pub output_limit_bound: Option<u64>,
    /// How many answers are generated: `n`, or `best_of` if more, for each prompt.
    pub choices: u64,
    /// The tier asked for.
    pub tier: Tier,
    /// What decides the number of input tokens.
    pub weight: Weight,
    model_at: Range<usize>,
    stream_options_at: Option<Range<usize>>,
    members_at: usize,
}

impl RequestHead {
    /// The most input tokens that the request can make, where its bytes bound them.
    #[must_use]
    pub fn input_bound(&self) -> u64 {
        self.weight.input_bound()
    }
}

/// Reads the head of a chat request of any protocol.
pub fn scan(body: &[u8]) -> Result<RequestHead, Denied> {
    let mut duplicate = None;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let fields = HeadSeed { duplicate: &mut duplicate }
        .deserialize(&mut reader)
        .and_then(|fields| reader.end().map(|()| fields));
    if let Some(name) = duplicate {
        return Err(Denied::DuplicateField(name));
    }
    let fields =
        fields.map_err(|error| Denied::InvalidRequest(format!("The request body is not as it should be: {error}.")))?;
    fields.into_head(body)
}

/// The top-level members as they stand in the text.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<bool>,
    stream_options: Option<&'a RawValue>,
    max_tokens: Option<Option<u64>>,
    max_completion_tokens: Option<Option<u64>>,
    max_output_tokens: Option<Option<u64>>,
    n: Option<Option<u64>>,
    best_of: Option<Option<u64>>,
    service_tier: Option<Cow<'a, str>>,
    weight: Weight,
}

impl Fields<'_> {
    fn into_head(self, body: &[u8]) -> Result<RequestHead, Denied> {
        let raw = self
            .model
            .ok_or_else(|| Denied::InvalidRequest("The request body has no `model`. Name one.".to_owned()))?;
        let model: String = serde_json::from_str(raw.get())
            .map_err(|_| Denied::InvalidRequest("`model` is not a string. Send the model's name.".to_owned()))?;
        let [of_chat, other] = [[self.max_tokens, self.max_completion_tokens], [self.max_output_tokens, None]]
            .map(|limits| limits.into_iter().flatten().flatten());
        let choices = [self.n, self.best_of].into_iter().flatten().flatten().fold(1, u64::max);
        Ok(RequestHead {
            model,
            streamed: self.stream.unwrap_or(false),
            include_usage: self.stream_options.is_some_and(asks_usage),
            output_limit: of_chat.clone().chain(other).min(),
            output_limit_bound: of_chat.max(),
            choices: choices.saturating_mul(self.weight.prompts.max(1)),
            tier: Tier::named(self.service_tier.as_deref().unwrap_or_default()),
            weight: self.weight,
            model_at: place(body, raw),
            stream_options_at: self.stream_options.map(|options| place(body, options)),
            members_at: memchr::memchr(b'{', body).map_or(0, |brace| brace + 1),
        })
    }
}

fn place(body: &[u8], value: &RawValue) -> Range<usize> {
    // The value was borrowed from the body, so the difference of their addresses is its offset.
    let start = value.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + value.get().len()
}

fn asks_usage(options: &RawValue) -> bool {
    #[derive(serde::Deserialize)]
    struct Options {
        include_usage: Option<bool>,
    }
    let options: Option<Options> = serde_json::from_str(options.get()).unwrap_or_default();
    options.and_then(|options| options.include_usage).unwrap_or(false)
}

struct HeadSeed<'d> {
    duplicate: &'d mut Option<&'static str>,
}

impl<'a> DeserializeSeed<'a> for HeadSeed<'_> {
    type Value = Fields<'a>;
    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Fields<'a>, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for HeadSeed<'_> {
    type Value = Fields<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<Fields<'a>, M::Error> {
        let mut fields = Fields::default();
        while let Some(Text(name)) = members.next_key()? {
            let fresh = match name.as_ref() {
                "model" => once(&mut fields.model, members.next_value()?),
                "stream" => once(&mut fields.stream, members.next_value::<Option<bool>>()?.unwrap_or(false)),
                "stream_options" => once(&mut fields.stream_options, members.next_value()?),
                "max_tokens" => once(&mut fields.max_tokens, members.next_value()?),
                "max_completion_tokens" => once(&mut fields.max_completion_tokens, members.next_value()?),
                "max_output_tokens" => once(&mut fields.max_output_tokens, members.next_value()?),
                "n" => once(&mut fields.n, members.next_value()?),
                "best_of" => once(&mut fields.best_of, members.next_value()?),
                "service_tier" => {
                    let tier = members.next_value::<Option<Text<'a>>>()?;
                    once(&mut fields.service_tier, tier.map(|Text(tier)| tier).unwrap_or_default())
                }
                other => {
                    fields.weight.add(other, &mut members)?;
                    true
                }
            };
            if !fresh {
                *self.duplicate = GOVERNED.into_iter().find(|governed| *governed == name);
                return Err(de::Error::custom("a field stands twice"));
            }
        }
        Ok(fields)
    }
}

/// The fields that may stand once only.
const GOVERNED: [&str; 9] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "service_tier",
];

/// Sets an empty place; says whether it was empty.
fn once<T>(place: &mut Option<T>, value: T) -> bool {
    place.replace(value).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::CacheWrite;
    use proptest::prelude::*;
    use serde_json::json;

    fn head(body: &str) -> RequestHead {
        scan(body.as_bytes()).expect("a valid body")
    }

    #[test]
    fn fields_are_read_wherever_they_stand() {
        let head = head(
            r#" {"messages":[{"role":"user","content":"hi"}],"n":2,"max_tokens":null,"max_completion_tokens":7,
            "stream":true,"service_tier":"flex","model":"gpt\u002d4o"} "#,
        );
        assert_eq!((head.model.as_str(), head.streamed, head.choices), ("gpt-4o", true, 2));
        assert_eq!((head.output_limit, head.tier, head.include_usage), (Some(7), Tier::Flex, false));
        assert_eq!(head.weight.messages, 1);
    }

    #[test]
    fn governed_fields_that_stand_twice_are_refused() {
        for name in GOVERNED {
            let value = match name {
                "model" | "service_tier" => "\"x\"",
                "stream" => "true",
                "stream_options" => "{}",
                _ => "1",
            };
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            for second in [name, escaped.as_str()] {
                let body = format!("{{\"{name}\":{value},\"a\":0,\"{second}\":{value}}}");
                assert_eq!(scan(body.as_bytes()), Err(Denied::DuplicateField(name)), "{body}");
            }
        }
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "{\"model\":1}",
            "{\"model\":\"x\"} x",
            "{\"model\":\"x\",}",
            "{\"model\":\"x\"",
            "{\"model\":\"x\",\"max_tokens\":-1}",
            "{\"model\":\"x\",\"max_tokens\":1.5}",
            "{\"model\":\"x\",\"stream\":1}",
            "\u{feff}{\"model\":\"x\"}",
        ] {
            assert!(matches!(scan(body.as_bytes()), Err(Denied::InvalidRequest(_))), "{body}");
        }
        let deep = format!("{{\"model\":\"x\",\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(scan(deep.as_bytes()), Err(Denied::InvalidRequest(_))));
    }

    #[test]
    fn text_is_weighed_by_the_byte_and_attachments_by_the_piece() {
        let empty = head(r#"{"model":"m","messages":[{"role":"user","content":""}]}"#);
        let text = head(r#"{"model":"m","messages":[{"role":"user","content":"12345\n"}]}"#);
        assert_eq!(text.input_bound() - empty.input_bound(), 6);
        let image = head(
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAA"}},
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}]}]}"#,
        );
        assert_eq!(image.weight.attachments, 2);
        assert!(image.weight.text_bytes < 120);
        assert!(
            head(r#"{"model":"m","system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}"#)
                .weight
                .cache_write
                > CacheWrite::Never
        );
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            any::<f64>().prop_map(|value| json!(value)),
            any::<String>().prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|values| json!(values)),
                prop::collection::btree_map("[a-z_]{1,8}|type|data|model", inner, 0..6)
                    .prop_map(|members| json!(members)),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_scan_agrees_with_serde_json_or_refuses(messages in any_json(), model in any::<String>(), limit in any::<Option<u64>>(), cut in any::<prop::sample::Index>()) {
            let value = json!({"a": messages, "model": model, "max_tokens": limit, "messages": messages});
            let text = value.to_string();
            let read = scan(text.as_bytes()).expect("valid");
            prop_assert_eq!(&read.model, &model);
            prop_assert_eq!(read.output_limit, limit);
            prop_assert!(read.weight.text_bytes as usize <= 24 * text.len());
            let cut = cut.index(text.len());
            if text.is_char_boundary(cut) {
                prop_assert!(scan(&text.as_bytes()[..cut]).is_err());
            }
        }
    }
}
