//! The few fields of a request body that the gateway reads, in one pass, and the edits it may make, by splicing bytes.
//!
//! The gateway must read what the provider will read: a field that stands twice is refused, whichever of the two a
//! provider would believe.

mod budget;
mod form;
mod member;
mod rewrite;
mod settings;
mod sound;
mod tool;
mod user;
mod weigh;
mod weight;

pub use rewrite::Rewrite;
pub use weight::{TOKENS_PER_ATTACHMENT, TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST, TOKENS_PER_TOOL, Weight};

use crate::attribution::Attribution;
use crate::denied::Denied;
use crate::dialect::Dialect;
use crate::money::NanoUsd;
use crate::objects::{REFERENCES_MAX, Reference};
use crate::price::{Picture, Tier};
use crate::route::{Route, Target};
use budget::Budget;
use form::Form;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use settings::Settings;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use user::User;
use weigh::Text;

/// What a request asks for, as far as the gateway needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The language that it is written in.
    pub dialect: Dialect,
    /// The model's name, decoded.
    pub model: String,
    /// Whether the answer is to be a stream of events.
    pub streamed: bool,
    /// Whether the client asked for a usage event itself.
    pub include_usage: bool,
    /// The output limit: the least of those named that the dialect knows, in tokens.
    pub output_limit: Option<u64>,
    /// The limit that whoever serves the request holds it to, whichever of several names it reads: the larger, in tokens.
    pub output_limit_bound: Option<u64>,
    /// How many answers are generated: `n`, or `best_of` if more, for each prompt (Gemini: `candidateCount`).
    pub choices: u64,
    /// The tier asked for.
    pub tier: Tier,
    /// What is asked of the pictures that are to be made.
    pub picture: Picture,
    /// What decides the number of input tokens.
    pub weight: Weight,
    /// Whether the answer comes later, and is to be asked for (OpenAI `background`).
    pub in_background: bool,
    /// The stored objects that the request names.
    pub references: Vec<Reference>,
    /// The most that the client lets the call cost. See [`RequestHead::hold_to_budget`].
    pub cost_max: Option<NanoUsd>,
    budget: Option<Box<Budget>>,
    /// For whom and for what it is.
    pub attribution: Option<Box<Attribution>>,
    model_at: Option<Range<usize>>,
    settings_at: Option<Range<usize>>,
    stream_options_at: Option<Range<usize>>,
    members_at: usize,
    form: Option<Form>,
}

impl RequestHead {
    /// The head of a session's next answer, of which nothing is known but the model.
    #[must_use]
    pub fn of_session(model: &str) -> Self {
        let mut weight = Weight { wants_audio: true, ..Weight::default() };
        weight.refer_to_anything();
        Self { streamed: true, ..Self::new(Dialect::OpenaiRealtime, model.to_owned(), weight) }
    }

    /// The head of a request that says nothing else.
    fn new(dialect: Dialect, model: String, weight: Weight) -> Self {
        Self {
            dialect,
            model,
            streamed: false,
            include_usage: false,
            output_limit: None,
            output_limit_bound: None,
            choices: 1,
            tier: Tier::default(),
            picture: Picture::default(),
            weight,
            in_background: false,
            references: Vec::new(),
            cost_max: None,
            budget: None,
            attribution: None,
            model_at: None,
            settings_at: None,
            stream_options_at: None,
            members_at: 0,
            form: None,
        }
    }

    /// The most input tokens that the request can make, where its bytes bound them.
    #[must_use]
    pub fn input_bound(&self) -> u64 {
        self.weight.input_bound()
    }
}

/// Reads the head of a request for a model, whose body is of this `Content-Type`. What its path says wins over what its body
/// says.
pub fn read(body: &[u8], content_type: Option<&str>, target: &Target) -> Result<RequestHead, Denied> {
    let (route, content_type) = (target.route, content_type.unwrap_or_default());
    let mut head = match is_form(route, content_type)? {
        true => form::read(body, content_type, route.dialect())?,
        false => scan(body, route.dialect())?,
    };
    head.streamed |= route.is_streamed();
    if target.name.is_some() {
        let unreadable = || Denied::InvalidRequest("The model's name in the path is not UTF-8.".to_owned());
        head.model = target.decoded_name().ok_or_else(unreadable)?;
        head.model_at = None;
    }
    Ok(head)
}

/// Whether a request of a route is a form. Images can be edited by a request in JSON too, which names them.
fn is_form(route: Route, content_type: &str) -> Result<bool, Denied> {
    let is = |kind: &str| content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind);
    match route.is_form() {
        true if is("multipart/form-data") => Ok(true),
        true if route == Route::ImageEdits && is("application/json") => Ok(false),
        true => {
            Err(Denied::InvalidRequest("This route takes a form. Send the body as `multipart/form-data`.".to_owned()))
        }
        false if is("multipart/form-data") => {
            Err(Denied::InvalidRequest("This route takes JSON. Send the body as `application/json`.".to_owned()))
        }
        false => Ok(false),
    }
}

/// The model of a request that names none, where its protocol has one.
fn default_or_refused(dialect: Dialect) -> Result<String, Denied> {
    let refused = || Denied::InvalidRequest("The request body has no `model`. Name one.".to_owned());
    dialect.default_model().map(str::to_owned).ok_or_else(refused)
}

/// Reads the head of a JSON body.
pub fn scan(body: &[u8], dialect: Dialect) -> Result<RequestHead, Denied> {
    let mut duplicate = None;
    // Checked once for the whole text, because a look at each of its strings costs more.
    let text = str::from_utf8(body);
    let text = text.map_err(|_| Denied::InvalidRequest("The request body is not UTF-8.".to_owned()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let fields = HeadSeed { dialect, duplicate: &mut duplicate }
        .deserialize(&mut reader)
        .and_then(|fields| reader.end().map(|()| fields));
    if let Some(name) = duplicate {
        return Err(Denied::DuplicateField(name));
    }
    let fields =
        fields.map_err(|error| Denied::InvalidRequest(format!("The request body is not as it should be: {error}.")))?;
    fields.into_head(body, dialect)
}

/// The top-level members as they stand in the text.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<bool>,
    stream_options: Option<&'a RawValue>,
    /// One for each of [`LIMITS`].
    limits: [Option<Option<u64>>; LIMITS.len()],
    settings: Option<&'a RawValue>,
    background: Option<bool>,
    max_credits: Option<&'a RawValue>,
    max_cost_usd: Option<&'a RawValue>,
    names_others: bool,
    n: Option<Option<u64>>,
    best_of: Option<Option<u64>>,
    service_tier: Option<Cow<'a, str>>,
    user: User<'a>,
    size: Option<Option<Text<'a>>>,
    quality: Option<Option<Text<'a>>>,
    weight: Weight,
}

impl Fields<'_> {
    fn into_head(mut self, body: &[u8], dialect: Dialect) -> Result<RequestHead, Denied> {
        let model = self.model(dialect)?;
        if self.names_others {
            const OTHERS: &str =
                "`models` names others than `model`, whose prices may be higher. Name the one in `model` only.";
            return Err(Denied::InvalidRequest(OTHERS.to_owned()));
        }
        let settings = self.settings.map(|raw| Settings::read(raw, dialect)).transpose()?.unwrap_or_default();
        settings.weigh(&mut self.weight);
        self.weight.close();
        let references = std::mem::take(&mut self.weight.references);
        if references.is_full {
            let sentence = format!("The request names more than {REFERENCES_MAX} stored objects. Name fewer.");
            return Err(Denied::InvalidRequest(sentence));
        }
        let known = LIMITS.iter().zip(self.limits).filter(|(name, _)| dialect.output_limits().contains(*name));
        let limits = known.filter_map(|(_, limit)| limit.flatten()).chain(settings.output_limit);
        let choices = [self.n, self.best_of].into_iter().flatten().flatten().chain(settings.choices);
        let choices = choices.fold(self.weight.answers.max(1), u64::max);
        Ok(RequestHead {
            streamed: self.stream.unwrap_or(false),
            include_usage: self.stream_options.is_some_and(asks_usage),
            output_limit: limits.clone().min(),
            output_limit_bound: limits.max(),
            choices: choices.saturating_mul(self.weight.prompts.max(1)),
            tier: Tier::asked(self.service_tier.as_deref().unwrap_or_default()),
            picture: Picture { size: named(self.size), quality: named(self.quality) },
            in_background: self.background.unwrap_or(false),
            references: references.into_found(),
            budget: Budget::read(body, self.max_credits, self.max_cost_usd)?,
            attribution: self.user.attribution(),
            model_at: self.model.map(|raw| place(body, raw)),
            settings_at: self.settings.map(|raw| place(body, raw)),
            stream_options_at: self.stream_options.map(|options| place(body, options)),
            members_at: memchr::memchr(b'{', body).map_or(0, |brace| brace + 1),
            ..RequestHead::new(dialect, model, self.weight)
        })
    }
}

impl Fields<'_> {
    fn model(&self, dialect: Dialect) -> Result<String, Denied> {
        match self.model.map(|raw| serde_json::from_str::<String>(raw.get())) {
            // Whatever stands there, the path names the model.
            _ if dialect.names_model_in_path() => Ok(String::new()),
            Some(Ok(model)) => Ok(model),
            Some(Err(_)) => Err(Denied::InvalidRequest("`model` is not a string. Send the model's name.".to_owned())),
            None => default_or_refused(dialect),
        }
    }
}

fn place(body: &[u8], value: &RawValue) -> Range<usize> {
    // The value was borrowed from the body, so the difference of their addresses is its offset.
    let start = value.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + value.get().len()
}

fn named(asked: Option<Option<Text<'_>>>) -> Option<Box<str>> {
    asked.flatten().map(|Text(name)| Box::from(name))
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
    dialect: Dialect,
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
            if let Some(limit) = LIMITS.iter().position(|limit| *limit == name) {
                if !once(&mut fields.limits[limit], members.next_value()?) {
                    *self.duplicate = Some(LIMITS[limit]);
                    return Err(de::Error::custom("a field stands twice"));
                }
                continue;
            }
            let fresh = match name.as_ref() {
                "model" => once(&mut fields.model, members.next_value()?),
                "stream" => once(&mut fields.stream, members.next_value::<Option<bool>>()?.unwrap_or(false)),
                "stream_options" => once(&mut fields.stream_options, members.next_value()?),
                other if self.dialect.settings().contains(&other) => once(&mut fields.settings, members.next_value()?),
                // OpenRouter would serve the call by any of them, at its price.
                "models" if matches!(self.dialect, Dialect::OpenaiChat | Dialect::OpenaiCompletions) => {
                    fields.names_others |= members.next_value::<Option<IgnoredAny>>()?.is_some();
                    true
                }
                "background" if self.dialect == Dialect::OpenaiResponses => {
                    once(&mut fields.background, members.next_value::<Option<bool>>()?.unwrap_or(false))
                }
                "n" => once(&mut fields.n, members.next_value()?),
                "size" if self.dialect == Dialect::OpenaiImages => once(&mut fields.size, members.next_value()?),
                "quality" if self.dialect == Dialect::OpenaiImages => once(&mut fields.quality, members.next_value()?),
                "max_credits" => once(&mut fields.max_credits, members.next_value()?),
                "max_cost_usd" => once(&mut fields.max_cost_usd, members.next_value()?),
                "best_of" => once(&mut fields.best_of, members.next_value()?),
                "service_tier" => {
                    let tier = members.next_value::<Option<Text<'a>>>()?;
                    once(&mut fields.service_tier, tier.map(|Text(tier)| tier).unwrap_or_default())
                }
                other if User::is_named_by(other, self.dialect) => {
                    let value = members.next_value()?;
                    fields.weight.add_raw(other, self.dialect, value).map_err(de::Error::custom)?;
                    fields.user.note(other, value);
                    true
                }
                other => {
                    fields.weight.add(other, self.dialect, &mut members)?;
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
const GOVERNED: [&str; 14] = [
    "model",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "service_tier",
    "size",
    "quality",
    "background",
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "max_credits",
    "max_cost_usd",
];

/// The names of output limits in all dialects; each may stand once only.
const LIMITS: [&str; 6] = [
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_gen_len",
    "max_tokens_to_sample",
    "max_new_tokens",
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
        scan(body.as_bytes(), Dialect::OpenaiChat).expect("a valid body")
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
    fn what_is_asked_of_a_picture_is_read() {
        let picture = |body: &str, dialect| scan(body.as_bytes(), dialect).expect("a valid body").picture.names();
        let asked = r#"{"model":"m","prompt":"a cat","size":"1024x1024","quality":"h\u0064"}"#;
        assert_eq!(picture(asked, Dialect::OpenaiImages), ["1024x1024/hd", "1024x1024"]);
        assert_eq!(picture(r#"{"model":"m","size":null}"#, Dialect::OpenaiImages), ["auto/auto", "auto"]);
        assert_eq!(picture(asked, Dialect::OpenaiChat), ["auto/auto", "auto"]);
    }

    #[test]
    fn governed_fields_that_stand_twice_are_refused() {
        for name in GOVERNED.into_iter().chain(LIMITS) {
            let dialect = match name {
                "background" => Dialect::OpenaiResponses,
                "size" | "quality" => Dialect::OpenaiImages,
                "generationConfig" | "generation_config" => Dialect::GeminiGenerate,
                "inferenceConfig" => Dialect::BedrockConverse,
                _ => Dialect::OpenaiChat,
            };
            let value = match name {
                "model" | "service_tier" | "size" | "quality" => "\"x\"",
                "stream" | "background" => "true",
                "stream_options" | "generationConfig" | "generation_config" | "inferenceConfig" => "{}",
                _ => "1",
            };
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            for second in [name, escaped.as_str()] {
                let body = format!("{{\"{name}\":{value},\"a\":0,\"{second}\":{value}}}");
                assert_eq!(scan(body.as_bytes(), dialect), Err(Denied::DuplicateField(name)), "{body}");
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
            "{\"model\":\"x\",\"models\":[\"y\"]}",
            "\u{feff}{\"model\":\"x\"}",
        ] {
            assert!(matches!(scan(body.as_bytes(), Dialect::OpenaiChat), Err(Denied::InvalidRequest(_))), "{body}");
        }
        let deep = format!("{{\"model\":\"x\",\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(scan(deep.as_bytes(), Dialect::OpenaiChat), Err(Denied::InvalidRequest(_))));
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
            let read = scan(text.as_bytes(), Dialect::OpenaiChat).expect("valid");
            prop_assert_eq!(&read.model, &model);
            prop_assert_eq!(read.output_limit, limit);
            prop_assert!(read.weight.text_bytes as usize <= 24 * text.len());
            let cut = cut.index(text.len());
            if text.is_char_boundary(cut) {
                prop_assert!(scan(&text.as_bytes()[..cut], Dialect::OpenaiChat).is_err());
            }
        }
    }
}
