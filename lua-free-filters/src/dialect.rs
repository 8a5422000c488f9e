//! What differs between protocols: one enum, one match per question.

pub mod anthropic;
pub mod openai_chat;

use crate::denied::Code;
use crate::id::CallId;
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::usage::Usage;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// A protocol that clients and providers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// OpenAI chat completions.
    OpenaiChat = 1,
    /// Anthropic messages.
    Anthropic = 2,
}

/// What an event of a stream is, as far as the relay must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Anything that is passed on without a second thought.
    Ordinary,
    /// A usage event and nothing else, which a client that did not ask for it must not see.
    UsageOnly,
    /// The protocol's last event.
    Final,
    /// The provider reports a failure.
    Error,
}

impl Dialect {
    /// The beginning of a stream of events.
    #[must_use]
    pub fn stream(self) -> Stream {
        match self {
            Self::OpenaiChat => Stream::OpenaiChat(openai_chat::Stream::default()),
            Self::Anthropic => Stream::Anthropic(anthropic::Stream::default()),
        }
    }

    /// Reads the members `usage` and `service_tier` of a whole answer into the tally.
    pub fn read_answer(self, usage: Option<&[u8]>, service_tier: Option<&[u8]>, tally: &mut Tally) {
        match self {
            Self::OpenaiChat => openai_chat::read_answer(usage, service_tier, tally),
            Self::Anthropic => anthropic::read_answer(usage, service_tier, tally),
        }
    }

    /// Whether a stream reports its usage only to those who ask.
    #[must_use]
    pub fn must_ask_for_usage(self) -> bool {
        match self {
            Self::OpenaiChat => true,
            Self::Anthropic => false,
        }
    }

    /// The protocol of that name in the configuration.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "openai" => Some(Self::OpenaiChat),
            "anthropic" => Some(Self::Anthropic),
            _ => None,
        }
    }
}

/// A stream of events as far as it has passed: what of it must be known to end it in the provider's place.
#[derive(Debug)]
pub enum Stream {
    /// OpenAI chat completions.
    OpenaiChat(openai_chat::Stream),
    /// Anthropic messages.
    Anthropic(anthropic::Stream),
}

impl Stream {
    /// Reads one event's data into the tally.
    pub fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        match self {
            Self::OpenaiChat(stream) => stream.read(data, tally),
            Self::Anthropic(stream) => stream.read(data, tally),
        }
    }

    /// The events that end the stream here as if its output limit had been reached: clients take an error event for a
    /// failure. A stream that has not begun becomes a whole one.
    #[must_use]
    pub fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        match self {
            Self::OpenaiChat(stream) => stream.cut(cut),
            Self::Anthropic(stream) => stream.cut(cut),
        }
    }
}

/// What the end of a stream that is cut says.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Why, where the protocol has room for it.
    pub reason: Code,
    /// What the call is charged for.
    pub usage: Usage,
    /// Whether the client asked for a usage event, where the protocol sends it only to those who ask.
    pub include_usage: bool,
    /// How many answers the stream carries (`n`).
    pub choices: u64,
    /// Names the answer if the provider has not.
    pub call: CallId,
    /// The model, if the provider has not named it.
    pub model: &'a str,
    /// Now.
    pub at: EpochMs,
}

/// A count as a provider must write it: a whole number that is not negative. Missing and null are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(Option<u64>);

impl Count {
    fn or_zero(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

impl<'de> de::Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number below 2^53")
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Count, E> {
                // Sums of eleven such counts and products with any rate stay exact.
                if count < 1 << 53 { Ok(Count(Some(count))) } else { Err(E::custom("too large")) }
            }
            fn visit_unit<E>(self) -> Result<Count, E> {
                Ok(Count(None))
            }
        }
        reader.deserialize_any(CountVisitor)
    }
}

/// Whether an event's data may have a member of this name whose value is not null. A quote inside a JSON string is
/// escaped, so the quoted name can't be part of a model's own words.
fn may_have(data: &[u8], quoted_name: &memchr::memmem::Finder<'_>) -> bool {
    quoted_name.find_iter(data).any(|at| {
        let after = &data[at + quoted_name.needle().len()..];
        let value = after.iter().position(|byte| !matches!(byte, b':' | b' ' | b'\t' | b'\n' | b'\r'));
        value.is_some_and(|value| !after[value..].starts_with(b"null"))
    })
}

/// Bytes of the strings that follow these member names, escapes counted as written.
fn text_bytes(data: &[u8], members: &[memchr::memmem::Finder<'_>]) -> u64 {
    members
        .iter()
        .flat_map(|member| member.find_iter(data).map(|at| string_bytes(&data[at + member.needle().len()..])))
        .sum()
}

fn string_bytes(text: &[u8]) -> u64 {
    let mut at = 0;
    while let Some(offset) = memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        if text[at + offset] == b'"' {
            return (at + offset) as u64;
        }
        at += offset + 2;
    }
    text.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_whole_numbers_or_nothing() {
        for (text, count) in [
            ("0", Some(Some(0))),
            ("7", Some(Some(7))),
            ("null", Some(None)),
            ("-1", None),
            ("1.0", None),
            ("1e3", None),
            ("18446744073709551616", None),
            ("9007199254740992", None),
            ("\"7\"", None),
        ] {
            assert_eq!(serde_json::from_str::<Count>(text).ok(), count.map(Count), "{text}");
        }
    }

    #[test]
    fn strings_end_at_their_unescaped_quote() {
        for (text, bytes) in [("abc\"x", 3), ("a\\\"b\"", 4), ("\\\\\"x", 2), ("open", 4), ("\"", 0), ("\\", 1)] {
            assert_eq!(string_bytes(text.as_bytes()), bytes, "{text}");
        }
    }
}
