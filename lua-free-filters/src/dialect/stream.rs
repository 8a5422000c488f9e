//! A stream as far as it has passed: what of it must be known to count it, and to end it in the provider's place.

use super::{
    Cut, Dialect, Event, anthropic, bedrock, bedrock_invoke, cohere, gemini, openai_chat, openai_responses, plain,
};
use crate::answer_scan::{Found, Wanted};
use crate::event_stream::FrameKind;
use crate::tally::Tally;

/// A stream of server-sent events.
#[derive(Debug)]
pub enum Stream {
    /// OpenAI chat completions, and completions.
    OpenaiChat(openai_chat::Stream),
    /// OpenAI responses.
    OpenaiResponses(Box<openai_responses::Stream>),
    /// Anthropic messages.
    Anthropic(anthropic::Stream),
    /// Gemini.
    Gemini(gemini::Stream),
    /// Cohere chat.
    Cohere(cohere::Stream),
    /// Events without text.
    Plain(plain::Stream),
}

impl Stream {
    /// The beginning of a stream.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenaiChat | Dialect::BedrockInvoke => Self::OpenaiChat(openai_chat::Stream::default()),
            Dialect::OpenaiCompletions => Self::OpenaiChat(openai_chat::Stream::of(openai_chat::Api::Completions)),
            Dialect::OpenaiResponses => Self::OpenaiResponses(Box::default()),
            Dialect::Anthropic => Self::Anthropic(anthropic::Stream::default()),
            Dialect::GeminiGenerate => Self::Gemini(gemini::Stream::default()),
            Dialect::CohereChat => Self::Cohere(cohere::Stream::default()),
            Dialect::OpenaiEmbeddings
            | Dialect::OpenaiImages
            | Dialect::OpenaiSpeech
            | Dialect::OpenaiTranscription
            | Dialect::OpenaiModerations
            | Dialect::AnthropicCount
            | Dialect::GeminiCount
            | Dialect::GeminiEmbed
            | Dialect::CohereEmbed
            | Dialect::CohereRerank
            | Dialect::OpenaiRealtime
            | Dialect::BedrockConverse => Self::Plain(plain::Stream { dialect }),
        }
    }

    /// Reads one event's data into the tally.
    pub fn read(&mut self, data: &[u8], tally: &mut Tally) -> Event {
        match self {
            Self::OpenaiChat(stream) => stream.read(data, tally),
            Self::OpenaiResponses(stream) => stream.read(data, tally),
            Self::Anthropic(stream) => stream.read(data, tally),
            Self::Gemini(stream) => stream.read(data, tally),
            Self::Cohere(stream) => stream.read(data, tally),
            Self::Plain(stream) => stream.read(data, tally),
        }
    }

    /// What is looked for in an event that is too large to be held.
    #[must_use]
    pub fn wanted(&self) -> &'static [Wanted] {
        match self {
            Self::OpenaiChat(_) => openai_chat::WANTED,
            Self::OpenaiResponses(_) => openai_responses::WANTED_OF_EVENT,
            Self::Anthropic(_) => anthropic::WANTED,
            Self::Gemini(_) => gemini::WANTED,
            Self::Cohere(_) => cohere::WANTED,
            Self::Plain(_) => plain::WANTED,
        }
    }

    /// Reads what was found of [`Self::wanted`] in such an event.
    pub fn note(&mut self, found: &Found, tally: &mut Tally) -> Event {
        match self {
            Self::OpenaiChat(stream) => stream.note(found, tally),
            Self::OpenaiResponses(stream) => stream.note(found, tally),
            Self::Anthropic(stream) => stream.note(found, b"", tally),
            Self::Gemini(stream) => stream.note(found, tally),
            Self::Cohere(stream) => stream.note(found, tally),
            Self::Plain(stream) => stream.note(found, tally),
        }
    }

    /// Whether its end can be written in the provider's place.
    #[must_use]
    pub fn can_be_cut(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The events that end the stream here as if its output limit had been reached: clients take an error event for a
    /// failure. A stream that has not begun becomes a whole one.
    #[must_use]
    pub fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        match self {
            Self::OpenaiChat(stream) => stream.cut(cut),
            Self::OpenaiResponses(stream) => stream.cut(cut),
            Self::Anthropic(stream) => stream.cut(cut),
            Self::Gemini(stream) => stream.cut(cut),
            Self::Cohere(stream) => stream.cut(cut),
            Self::Plain(_) => Vec::new(),
        }
    }
}

/// A stream of Amazon's binary frames.
#[derive(Debug)]
pub enum FrameStream {
    /// `converse-stream`.
    Converse(bedrock::Stream),
    /// `invoke-with-response-stream`.
    Invoke(Box<bedrock_invoke::Stream>),
}

impl FrameStream {
    /// The beginning of a stream, if the dialect has any.
    #[must_use]
    pub fn of(dialect: Dialect) -> Option<Self> {
        match dialect {
            Dialect::BedrockConverse => Some(Self::Converse(bedrock::Stream::default())),
            Dialect::BedrockInvoke => Some(Self::Invoke(Box::default())),
            Dialect::OpenaiChat
            | Dialect::Anthropic
            | Dialect::OpenaiResponses
            | Dialect::OpenaiCompletions
            | Dialect::OpenaiEmbeddings
            | Dialect::OpenaiImages
            | Dialect::OpenaiSpeech
            | Dialect::OpenaiTranscription
            | Dialect::OpenaiModerations
            | Dialect::AnthropicCount
            | Dialect::GeminiGenerate
            | Dialect::GeminiCount
            | Dialect::GeminiEmbed
            | Dialect::CohereChat
            | Dialect::CohereEmbed
            | Dialect::CohereRerank
            | Dialect::OpenaiRealtime => None,
        }
    }

    /// Reads one frame into the tally.
    pub fn read(&mut self, kind: &FrameKind, payload: &[u8], tally: &mut Tally) -> Event {
        match self {
            Self::Converse(stream) => stream.read(kind, payload, tally),
            Self::Invoke(stream) => stream.read(kind, payload, tally),
        }
    }

    /// What is looked for in a frame that is too large to be held. The words of `invoke` can't be read in parts.
    #[must_use]
    pub fn wanted(&self) -> &'static [Wanted] {
        match self {
            Self::Converse(_) => bedrock::WANTED,
            Self::Invoke(_) => &[],
        }
    }

    /// Reads what was found of [`Self::wanted`] in such a frame.
    pub fn note(&mut self, kind: &FrameKind, found: &Found, tally: &mut Tally) -> Event {
        match self {
            Self::Converse(stream) => stream.note(kind, found, tally),
            Self::Invoke(_) => Event::Ordinary,
        }
    }

    /// Whether its end can be written in the provider's place.
    #[must_use]
    pub fn can_be_cut(&self) -> bool {
        match self {
            Self::Converse(_) => true,
            Self::Invoke(stream) => stream.can_be_cut(),
        }
    }

    /// The frames that end the stream here, as [`Stream::cut`] has them.
    #[must_use]
    pub fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        match self {
            Self::Converse(stream) => stream.cut(cut),
            Self::Invoke(stream) => stream.cut(cut),
        }
    }
}
