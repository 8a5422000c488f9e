//! Adds up what a request weighs, in one pass over its text, however deep.

use super::member::Member;
use super::tool::Tool;
use super::weight::Weight;
use crate::dialect::Dialect;
use crate::objects::{Place, Spoken};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The longest number that JSON text can hold is longer; the longest that a tokenizer sees of one is not.
const BYTES_PER_NUMBER: u64 = 24;

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

/// What a value turned out to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    Null,
    /// A string.
    Text,
    /// The string `base64`.
    Base64,
    /// A number, if it is a count.
    Number(Option<u64>),
    /// A list: its elements; of prompts only those that are one by themselves.
    Elements(u64),
    /// An object.
    Members,
    /// The type of a tool.
    Tool(Tool),
    /// The media type of bytes.
    MediaType,
}

/// Adds up what a value weighs, however deep.
pub(super) struct Weigh<'w> {
    pub(super) weight: &'w mut Weight,
    pub(super) member: Member,
    pub(super) dialect: Dialect,
    /// What it means for the objects that are named.
    pub(super) place: Place,
}

impl<'a> DeserializeSeed<'a> for Weigh<'_> {
    type Value = Worth;
    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Worth, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Weigh<'_> {
    type Value = Worth;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Worth, E> {
        let Self { weight, member, dialect, place } = self;
        weight.references.string(place, text);
        match member {
            Member::Bytes => {
                weight.has_foreign_input = true;
                return Ok(Worth::Text);
            }
            Member::MediaType => {
                weight.note_data(text);
                return Ok(Worth::MediaType);
            }
            Member::Address | Member::Picture => {
                let data = text.strip_prefix("data:");
                match data {
                    Some(data) => weight.note_data(data),
                    None if member == Member::Picture => weight.note_data("image/"),
                    None => {}
                }
                weight.attachments += u64::from(member == Member::Picture);
                if data.is_some() {
                    return Ok(Worth::Text);
                }
            }
            Member::ToolType => {
                weight.text_bytes += text.len() as u64;
                return Ok(Worth::Tool(Tool::of_type(text, dialect)));
            }
            _ => weight.note_text(member, text),
        }
        weight.text_bytes += text.len() as u64;
        Ok(if text == "base64" { Worth::Base64 } else { Worth::Text })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Worth, E> {
        self.weight.text_bytes += 5;
        Ok(Worth::Number(None))
    }

    fn visit_unit<E>(self) -> Result<Worth, E> {
        self.weight.text_bytes += 4;
        Ok(Worth::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Worth, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(Worth::Number(None))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Worth, E> {
        let weight = self.weight;
        match self.member {
            Member::Tokens => weight.tokens += 1,
            _ => weight.text_bytes += BYTES_PER_NUMBER,
        }
        match self.member {
            Member::ThinkingBudget => weight.thinking_budget = weight.thinking_budget.max(number),
            Member::PartialImages => weight.partial_images = weight.partial_images.max(number),
            Member::Answers => weight.answers = weight.answers.max(number),
            _ => {}
        }
        Ok(Worth::Number(Some(number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Worth, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(Worth::Number(None))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut elements: S) -> Result<Worth, S::Error> {
        let Weigh { weight, member, dialect, place } = self;
        let within = member.element(dialect);
        let mut count = 0;
        loop {
            let text_bytes_before = weight.text_bytes;
            let element = Weigh { weight: &mut *weight, member: within, dialect, place: place.element() };
            let Some(worth) = elements.next_element_seed(element)? else { break };
            // The numbers of a prompt are its tokens.
            count += u64::from(member != Member::Prompt || !matches!(worth, Worth::Number(_)));
            if member == Member::Documents {
                weight.documents.add(weight.text_bytes - text_bytes_before);
            }
        }
        if matches!(member, Member::Tools | Member::NamedTools | Member::Declarations) {
            weight.tools += count;
        }
        Ok(Worth::Elements(count))
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<Worth, M::Error> {
        let Weigh { weight, member, dialect, place } = self;
        weight.note_object(member);
        let (mut has_bytes, mut has_type, mut tool, mut uses) = (false, false, Tool::default(), None);
        while let Some(Text(name)) = members.next_key()? {
            weight.text_bytes += name.len() as u64;
            let within = member.within(&name, has_bytes, dialect);
            let value = Weigh { weight: &mut *weight, member: within, dialect, place: place.within(&name) };
            match members.next_value_seed(value)? {
                // A source says `"type": "base64"` before its data.
                Worth::Base64 => has_bytes |= within == Member::Type,
                Worth::Tool(kind) => tool = tool.max(kind),
                Worth::MediaType => has_type = true,
                Worth::Number(count) if within == Member::ToolUses => uses = uses.max(count),
                Worth::Null | Worth::Text | Worth::Number(_) | Worth::Elements(_) | Worth::Members => {}
            }
        }
        weight.note_tool(tool, uses);
        weight.references.end(place);
        if member == Member::Inline && !has_type {
            weight.note_data("");
        }
        Ok(Worth::Members)
    }
}
