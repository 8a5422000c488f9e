//! How heavy a request is: what decides the number of its input tokens and at which prices it may be billed, added up
//! while its text is parsed.

use super::tool::Tool;
use crate::price::CacheWrite;
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

/// What decides the number of input tokens, and the prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of text in all members of the body.
    pub text_bytes: u64,
    /// Bytes among them that predict the output (OpenAI `prediction`): what the answer rejects of it is billed as output.
    pub predicted_bytes: u64,
    /// Elements of `messages`.
    pub messages: u64,
    /// Elements of `tools` or `functions`.
    pub tools: u64,
    /// Images, files and sounds.
    pub attachments: u64,
    /// Prompts of a `prompt` that is a list, each of which has its own answers (OpenAI completions).
    pub prompts: u64,
    /// Whether input counts that is not in the text: attachments, what an id or an address stands for, built-in tools.
    pub has_foreign_input: bool,
    /// Whether there may be sounds in the input.
    pub has_audio: bool,
    /// Whether there may be images in the input.
    pub has_images: bool,
    /// Whether the answer may be spoken.
    pub wants_audio: bool,
    /// Whether the answer may be drawn.
    pub wants_images: bool,
    /// The longest that input is to be kept in the provider's cache.
    pub cache_write: CacheWrite,
    /// How often the provider may run its own tools, where each says so (`max_uses`).
    pub server_tool_uses: u64,
    /// Whether there is a tool that the provider may run as often, or at such a price, as it likes.
    pub has_unlimited_tool: bool,
    /// Output tokens that are for thinking (Anthropic `thinking.budget_tokens`): an output limit must be above them.
    pub thinking_budget: u64,
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

    /// Adds a member of the body.
    pub(super) fn add<'a, M: MapAccess<'a>>(&mut self, name: &str, members: &mut M) -> Result<(), M::Error> {
        self.text_bytes += name.len() as u64;
        let text_bytes_before = self.text_bytes;
        let member = match name {
            "tools" | "functions" => Member::Tools,
            "thinking" => Member::Thinking,
            "modalities" => Member::Modality,
            "prompt" => Member::Prompt,
            _ => Member::named(name),
        };
        let worth = members.next_value_seed(Weigh { weight: self, member })?;
        match (name, worth) {
            (_, Worth::Null) => {}
            ("messages", Worth::Elements(elements)) => self.messages += elements,
            ("tools" | "functions", Worth::Elements(elements)) => self.tools += elements,
            ("prompt", Worth::Elements(elements)) => self.prompts += elements,
            ("prompt", Worth::Members) | ("previous_response_id" | "conversation" | "container", _) => {
                self.refer_to_anything();
            }
            ("web_search_options" | "mcp_servers", _) => self.has_unlimited_tool = true,
            ("prediction", _) => self.predicted_bytes += self.text_bytes - text_bytes_before,
            _ => {}
        }
        Ok(())
    }

    /// Notes that something of which nothing is known is among the input.
    pub(super) fn refer_to_anything(&mut self) {
        (self.has_foreign_input, self.has_audio, self.has_images) = (true, true, true);
    }

    /// Notes what the `type` of an object in the body says about it.
    fn note_type(&mut self, kind: &str) {
        let (audio, images) = match kind {
            "image_url" | "input_image" | "image" => (false, true),
            "input_audio" | "audio" | "audio_url" => (true, false),
            "document" | "document_url" | "file" | "input_file" => (false, true),
            "video" | "video_url" | "input_video" | "container_upload" => (true, true),
            // Whatever these bytes are.
            "base64" => {
                self.has_foreign_input = true;
                return;
            }
            // The request is summed up first, in an answer of its own (Anthropic's context management).
            _ => {
                self.has_unlimited_tool |= kind.starts_with("compact_");
                return;
            }
        };
        self.attachments += 1;
        self.has_foreign_input = true;
        self.has_audio |= audio;
        self.has_images |= images;
    }

    /// Notes bytes that are no text, of the media type that their `data:` address says.
    fn note_data(&mut self, media_type: &str) {
        self.has_foreign_input = true;
        self.has_audio |= !media_type.starts_with("image/");
        self.has_images |= !media_type.starts_with("audio/");
    }

    /// Notes a tool that the provider offers. The others are what their text says.
    fn note_tool(&mut self, tool: Tool, uses: Option<u64>) {
        match tool {
            Tool::Described => {}
            Tool::Known => self.has_foreign_input = true,
            Tool::Server => {
                self.has_foreign_input = true;
                match uses {
                    Some(uses) => self.server_tool_uses = self.server_tool_uses.saturating_add(uses),
                    None => self.has_unlimited_tool = true,
                }
            }
            Tool::Unpriced => self.has_unlimited_tool = true,
        }
    }

    /// Notes one of the output's modalities.
    fn note_modality(&mut self, modality: &str) {
        self.wants_audio |= modality == "audio";
        self.wants_images |= modality == "image";
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
}

/// Adds up what a value weighs, however deep.
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
    /// An address, or the bytes themselves as `data:`.
    Address,
    /// A sound: its `data` is bytes, and an `id` stands for another.
    Audio,
    /// The id of something that the provider has stored.
    Stored,
    /// `cache_control`, and in it `ttl`.
    CacheControl,
    CacheLife,
    /// `thinking` at the top, and in it `budget_tokens`.
    Thinking,
    ThinkingBudget,
    /// A modality of the output, or a list of them.
    Modality,
    /// One prompt or several.
    Prompt,
    /// The list of tools, one of them, and in it `type` and `max_uses`.
    Tools,
    Tool,
    ToolType,
    ToolUses,
    /// Anything else.
    Other,
}

impl Member {
    /// Anywhere in the body.
    fn named(name: &str) -> Self {
        match name {
            "type" => Self::Type,
            "url" | "image_url" | "file_url" | "file_data" => Self::Address,
            "input_audio" | "audio" => Self::Audio,
            "file_id" => Self::Stored,
            "cache_control" => Self::CacheControl,
            _ => Self::Other,
        }
    }

    /// Within an object that stands under this name.
    fn within(self, name: &str, has_bytes: bool) -> Self {
        match (self, name) {
            (Self::CacheControl, "ttl") => Self::CacheLife,
            (Self::Thinking, "budget_tokens") => Self::ThinkingBudget,
            (Self::Tool, "type") => Self::ToolType,
            (Self::Tool, "max_uses") => Self::ToolUses,
            (Self::Audio, "data") => Self::Bytes,
            (Self::Audio, "id") => Self::Stored,
            (_, "data") if has_bytes => Self::Bytes,
            _ => Self::named(name),
        }
    }
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
        let weight = self.weight;
        match self.member {
            Member::Bytes => {
                weight.has_foreign_input = true;
                return Ok(Worth::Text);
            }
            Member::Address => {
                if let Some(data) = text.strip_prefix("data:") {
                    weight.note_data(data);
                    return Ok(Worth::Text);
                }
            }
            Member::ToolType => {
                weight.text_bytes += text.len() as u64;
                return Ok(Worth::Tool(Tool::of_type(text)));
            }
            Member::Type => weight.note_type(text),
            Member::Stored => weight.refer_to_anything(),
            // Five minutes is the shortest; a life of another name may be the longest.
            Member::CacheLife if text != "5m" => weight.cache_write = CacheWrite::Hour,
            Member::Modality => weight.note_modality(text),
            Member::Audio
            | Member::CacheControl
            | Member::CacheLife
            | Member::Thinking
            | Member::ThinkingBudget
            | Member::Prompt
            | Member::Tools
            | Member::Tool
            | Member::ToolUses
            | Member::Other => {}
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
        self.weight.text_bytes += BYTES_PER_NUMBER;
        if self.member == Member::ThinkingBudget {
            self.weight.thinking_budget = self.weight.thinking_budget.max(number);
        }
        Ok(Worth::Number(Some(number)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Worth, E> {
        self.weight.text_bytes += BYTES_PER_NUMBER;
        Ok(Worth::Number(None))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut elements: S) -> Result<Worth, S::Error> {
        let Weigh { weight, member } = self;
        let within = match member {
            Member::Tools => Member::Tool,
            Member::Modality => Member::Modality,
            _ => Member::Other,
        };
        let mut count = 0;
        while let Some(worth) = elements.next_element_seed(Weigh { weight: &mut *weight, member: within })? {
            // The numbers of a prompt are its tokens.
            count += u64::from(member != Member::Prompt || !matches!(worth, Worth::Number(_)));
        }
        Ok(Worth::Elements(count))
    }

    fn visit_map<M: MapAccess<'a>>(self, mut members: M) -> Result<Worth, M::Error> {
        let Weigh { weight, member } = self;
        if member == Member::CacheControl {
            weight.cache_write = weight.cache_write.max(CacheWrite::FiveMinutes);
        }
        let (mut has_bytes, mut tool, mut uses) = (false, Tool::default(), None);
        while let Some(Text(name)) = members.next_key()? {
            weight.text_bytes += name.len() as u64;
            let within = member.within(&name, has_bytes);
            match members.next_value_seed(Weigh { weight: &mut *weight, member: within })? {
                // A source says `"type": "base64"` before its data.
                Worth::Base64 => has_bytes |= within == Member::Type,
                Worth::Tool(kind) => tool = tool.max(kind),
                Worth::Number(count) if within == Member::ToolUses => uses = uses.max(count),
                Worth::Null | Worth::Text | Worth::Number(_) | Worth::Elements(_) | Worth::Members => {}
            }
        }
        weight.note_tool(tool, uses);
        Ok(Worth::Members)
    }
}
