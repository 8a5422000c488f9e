//! What differs between protocols: one enum, one match per question.

pub mod anthropic;
pub mod bedrock;
pub mod bedrock_invoke;
pub mod cohere;
mod figures;
pub mod gemini;
mod likeness;
pub mod openai_chat;
pub mod openai_realtime;
pub mod openai_responses;
mod openai_usage;
pub mod plain;
mod request;
mod stream;

pub use stream::{FrameStream, Stream};

use crate::answer_scan::{Found, Wanted};
use crate::denied::Code;
use crate::id::CallId;
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::usage::Usage;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;

/// The place of a report of failure among the members that any dialect wants.
pub(crate) const ERROR: usize = 0;

/// A family of APIs: how errors look, where credentials stand, which of its [`Dialect`]s a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OpenAI's, and all that are compatible.
    Openai,
    /// Anthropic's.
    Anthropic,
    /// Gemini's.
    Gemini,
    /// Cohere's, version 2.
    Cohere,
    /// Amazon Bedrock's runtime.
    Bedrock,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 5] = [Self::Openai, Self::Anthropic, Self::Gemini, Self::Cohere, Self::Bedrock];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Cohere => "cohere",
            Self::Bedrock => "bedrock",
        }
    }

    /// The protocol of that name in the configuration.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// The language of one API's requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Dialect {
    /// OpenAI chat completions.
    OpenaiChat = 1,
    /// Anthropic messages.
    Anthropic = 2,
    /// OpenAI responses.
    OpenaiResponses = 3,
    /// OpenAI completions, the API before chat.
    OpenaiCompletions = 4,
    /// OpenAI embeddings.
    OpenaiEmbeddings = 5,
    /// OpenAI images: generations, edits, variations.
    OpenaiImages = 6,
    /// OpenAI speech.
    OpenaiSpeech = 7,
    /// OpenAI transcriptions and translations.
    OpenaiTranscription = 8,
    /// OpenAI moderations.
    OpenaiModerations = 9,
    /// Anthropic's count of a message's tokens.
    AnthropicCount = 10,
    /// Gemini `generateContent` and `streamGenerateContent`.
    GeminiGenerate = 11,
    /// Gemini `countTokens`.
    GeminiCount = 12,
    /// Gemini `embedContent` and `batchEmbedContents`.
    GeminiEmbed = 13,
    /// Cohere chat.
    CohereChat = 14,
    /// Cohere embed.
    CohereEmbed = 15,
    /// Cohere rerank.
    CohereRerank = 16,
    /// Bedrock `converse` and `converse-stream`.
    BedrockConverse = 17,
    /// Bedrock `invoke` and `invoke-with-response-stream`: the model's own language in Bedrock's frames.
    BedrockInvoke = 18,
    /// OpenAI realtime: events over a WebSocket.
    OpenaiRealtime = 19,
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
    /// The last event that says anything; some providers send a `[DONE]` or late figures behind it.
    Closing,
    /// The provider reports a failure.
    Error,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 19] = [
        Self::OpenaiChat,
        Self::Anthropic,
        Self::OpenaiResponses,
        Self::OpenaiCompletions,
        Self::OpenaiEmbeddings,
        Self::OpenaiImages,
        Self::OpenaiSpeech,
        Self::OpenaiTranscription,
        Self::OpenaiModerations,
        Self::AnthropicCount,
        Self::GeminiGenerate,
        Self::GeminiCount,
        Self::GeminiEmbed,
        Self::CohereChat,
        Self::CohereEmbed,
        Self::CohereRerank,
        Self::BedrockConverse,
        Self::BedrockInvoke,
        Self::OpenaiRealtime,
    ];

    /// The family that it belongs to.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::OpenaiChat
            | Self::OpenaiResponses
            | Self::OpenaiCompletions
            | Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::OpenaiRealtime => Protocol::Openai,
            Self::Anthropic | Self::AnthropicCount => Protocol::Anthropic,
            Self::GeminiGenerate | Self::GeminiCount | Self::GeminiEmbed => Protocol::Gemini,
            Self::CohereChat | Self::CohereEmbed | Self::CohereRerank => Protocol::Cohere,
            Self::BedrockConverse | Self::BedrockInvoke => Protocol::Bedrock,
        }
    }

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenaiChat | Self::CohereChat => "chat",
            Self::Anthropic => "messages",
            Self::OpenaiResponses => "responses",
            Self::OpenaiCompletions => "completions",
            Self::OpenaiEmbeddings | Self::GeminiEmbed | Self::CohereEmbed => "embeddings",
            Self::OpenaiImages => "images",
            Self::OpenaiSpeech => "speech",
            Self::OpenaiTranscription => "transcription",
            Self::OpenaiModerations => "moderations",
            Self::AnthropicCount | Self::GeminiCount => "count_tokens",
            Self::GeminiGenerate => "generate_content",
            Self::CohereRerank => "rerank",
            Self::BedrockConverse => "converse",
            Self::BedrockInvoke => "invoke",
            Self::OpenaiRealtime => "realtime",
        }
    }

    /// What of a whole answer is read. The first is a report of failure.
    #[must_use]
    pub fn wanted(self) -> &'static [Wanted] {
        match self {
            Self::OpenaiChat | Self::OpenaiCompletions => openai_chat::WANTED,
            Self::OpenaiResponses => openai_responses::WANTED,
            Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::OpenaiRealtime
            | Self::CohereEmbed
            | Self::CohereRerank
            | Self::AnthropicCount
            | Self::GeminiCount => plain::WANTED,
            Self::Anthropic => anthropic::WANTED,
            Self::GeminiGenerate | Self::GeminiEmbed => gemini::WANTED,
            Self::CohereChat => cohere::WANTED,
            Self::BedrockConverse => bedrock::WANTED,
            Self::BedrockInvoke => bedrock_invoke::WANTED,
        }
    }

    /// Reads what was found of [`Self::wanted`] in a whole answer into the tally.
    pub fn read_answer(self, found: &Found, tally: &mut Tally) {
        match self {
            Self::OpenaiChat | Self::OpenaiCompletions => {
                openai_chat::read_answer(found, tally);
            }
            Self::OpenaiResponses => openai_responses::read_answer(found, tally),
            Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::OpenaiRealtime
            | Self::CohereEmbed
            | Self::CohereRerank => plain::read_answer(self, found, tally),
            // Who asks how much a message would be is not charged.
            Self::AnthropicCount | Self::GeminiCount if found.value(ERROR).is_some() => {}
            Self::AnthropicCount | Self::GeminiCount => tally.report(Usage::default(), true),
            Self::Anthropic => anthropic::read_answer(found, tally),
            Self::GeminiGenerate | Self::GeminiEmbed => gemini::read_answer(found, tally),
            Self::CohereChat => cohere::read_answer(found, tally),
            Self::BedrockConverse => bedrock::read_answer(found, tally),
            Self::BedrockInvoke => bedrock_invoke::read_answer(found, tally),
        }
    }

    /// Whether an answer is text, so that what was relayed of it stands for its tokens where it has no figures.
    #[must_use]
    pub fn answers_in_text(self) -> bool {
        match self {
            Self::OpenaiChat
            | Self::OpenaiResponses
            | Self::OpenaiCompletions
            | Self::OpenaiTranscription
            | Self::Anthropic
            | Self::GeminiGenerate
            | Self::CohereChat
            | Self::BedrockConverse
            | Self::BedrockInvoke => true,
            Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiModerations
            | Self::OpenaiRealtime
            | Self::AnthropicCount
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereEmbed
            | Self::CohereRerank => false,
        }
    }

    /// Whether a stream reports its usage only to those who ask.
    #[must_use]
    pub fn must_ask_for_usage(self) -> bool {
        match self {
            Self::OpenaiChat | Self::OpenaiCompletions => true,
            Self::Anthropic
            | Self::OpenaiResponses
            | Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::AnthropicCount
            | Self::GeminiGenerate
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereChat
            | Self::CohereEmbed
            | Self::CohereRerank
            | Self::BedrockConverse
            | Self::BedrockInvoke
            | Self::OpenaiRealtime => false,
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
    fn every_dialect_looks_for_failures_first() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.wanted()[ERROR].path, ["error"], "{dialect:?}");
        }
    }

    #[test]
    fn strings_end_at_their_unescaped_quote() {
        for (text, bytes) in [("abc\"x", 3), ("a\\\"b\"", 4), ("\\\\\"x", 2), ("open", 4), ("\"", 0), ("\\", 1)] {
            assert_eq!(string_bytes(text.as_bytes()), bytes, "{text}");
        }
    }
}
