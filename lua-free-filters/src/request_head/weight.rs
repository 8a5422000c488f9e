//! How heavy a request is: what decides the number of its input tokens, added up while its text is parsed.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Tokens that a protocol may add around each message.
pub const TOKENS_PER_MESSAGE: u64 = 16;
/// Tokens that a protocol may add around each tool.
pub const TOKENS_PER_TOOL: u64 = 64;
/// Tokens that a protocol may add to each request.
pub const TOKENS_PER_REQUEST: u64 = 16;
/// Tokens that an image, a file or a sound is estimated at, where its bytes say nothing about them.
pub const TOKENS_PER_ATTACHMENT: u64 = 2_000;
/// The longest number that JSON text can hold is longer; the longest that a tokenizer sees of one is not.
const BYTES_PER_NUMBER: u64 = 24;

/// What decides the number of input tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of text in all members of the body.
    pub text_bytes: u64,
    /// Elements of `messages`.
    pub messages: u64,
    /// Elements of `tools` or `functions`.
    pub tools: u64,
    /// Images, files and sounds.
    pub attachments: u64,
    /// Whether the request asks for anything to be written to the provider's cache.
    pub writes_cache: bool,
}

impl Weight {
    /// Tokens around the text.
    #[must_use]
    fn constants(&self) -> u64 {
        TOKENS_PER_REQUEST
            + TOKENS_PER_MESSAGE * self.messages
            + TOKENS_PER_TOOL * self.tools
            + TOKENS_PER_ATTACHMENT * self.attachments
    }

    /// The most input tokens that the text can make: one a byte, and the constants.
    #[must_use]
    pub fn input_bound(&self) -> u64 {
        self.text_bytes + self.constants()
    }

    /// What the text usually makes: a token for four bytes.
    #[must_use]
    pub fn input_quarter(&self) -> u64 {
        self.text_bytes.div_ceil(4) + self.constants()
    }
}

/// A string, borrowed where the text has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'a> de::Deserialize<'a> for Text<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'a> Visitor<'a> for TextVisitor {
            type Value = Text<'a>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        reader.deserialize_str(TextVisitor)
    }
}

/// What weighing the string `base64` gives back.
const BASE64: u64 = u64::MAX;

/// Adds up what a value weighs, however deep; gives back the number of its elements.
pub(super) struct Weigh<'w> {
    pub(super) weight: &'w mut Weight,
    pub(super) member: Member,
}

/// What the name of a member says about its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    /// `type`: its value may name an attachment.
    Type,
    /// `data` of a source that said it is base64: bytes that are not text.
    Bytes,
    /// Anything else.
    Other,
}

impl<'a> DeserializeSeed<'a> for Weigh<'_> {
    type Value = u64;
    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<u64, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Weigh<'_> {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        if self.member == Member::Bytes || text.starts_with("data:") {
            return Ok(0);
        }
        if self.member == Member::Type && is_attachment(text) {
            self.weight.attachments += 1;
        }
        self.weight.text_bytes += text.len() as u64;
        Ok(if text == "base64" { BASE64 } else { 0 })
    }

    fn visit_bool<E>(self, _: bool) -> Result<u64, E> {
        self.weight.text_bytes += 5;
        Ok(0)
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        self.weight.text_bytes += 4;
        Ok(0)
    }

    fn visit_i64<E>(self, _: i64) -> Result<u64, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(0)
    }

    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(0)
    }

    fn visit_f64<E>(self, _: f64) -> Result<u64, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(0)
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut elements: S) -> Result<u64, S::Error> {
        let mut count = 0;
        while elements.next_element_seed(Weigh { weight: self.weight, member: Member::Other })?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<u64, M::Error> {
        let mut has_bytes = false;
        let mut count = 0;
        while let Some(Text(name)) = members.next_key()? {
            self.weight.text_bytes += name.len() as u64;
            self.weight.writes_cache |= name == "cache_control";
            let member = match name.as_ref() {
                "type" => Member::Type,
                "data" if has_bytes => Member::Bytes,
                _ => Member::Other,
            };
            let says_base64 = members.next_value_seed(Weigh { weight: self.weight, member })? == BASE64;
            // A source says `"type": "base64"` before its data.
            has_bytes |= member == Member::Type && says_base64;
            count += 1;
        }
        Ok(count)
    }
}

fn is_attachment(kind: &str) -> bool {
    matches!(kind, "image_url" | "input_image" | "image" | "document" | "input_audio" | "file" | "input_file")
}
