//! How heavy a request is: what decides the number of its input tokens and at which prices it may be billed.

use super::member::Member;
use super::sound::Length;
use super::tool::Tool;
use super::weigh::{Weigh, Worth};
use crate::dialect::Dialect;
use crate::objects::{Place, References};
use crate::price::CacheWrite;
use serde::de::{DeserializeSeed, MapAccess};
use serde_json::value::RawValue;

/// Tokens that a protocol may add around each message.
pub const TOKENS_PER_MESSAGE: u64 = 16;
/// Tokens that a protocol may add around each tool.
pub const TOKENS_PER_TOOL: u64 = 64;
/// Tokens that a protocol may add to each request.
pub const TOKENS_PER_REQUEST: u64 = 16;
/// Tokens that an image, a file or a sound is estimated at, where its bytes say nothing about them.
pub const TOKENS_PER_ATTACHMENT: u64 = 2_000;
/// What decides the number of input tokens, and the prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of text in all members of the body.
    pub text_bytes: u64,
    /// Tokens that the client has made of its text itself.
    pub tokens: u64,
    /// Characters that are to be spoken.
    pub characters: u64,
    /// Bytes among them that predict the output (OpenAI `prediction`): what the answer rejects of it is billed as output.
    pub predicted_bytes: u64,
    /// Elements of `messages`.
    pub messages: u64,
    /// Elements of `tools` or `functions`.
    pub tools: u64,
    /// Images, files and sounds.
    pub attachments: u64,
    /// Sounds in the input, in milliseconds: as long as they seem, and as long as they can be.
    pub sound_ms: u64,
    /// See [`Weight::sound_ms`].
    pub sound_ms_max: u64,
    /// Whether nothing in one of the sounds says how long it is.
    pub has_unmeasured_sound: bool,
    /// Pictures that are shown while they are drawn (OpenAI `partial_images`).
    pub partial_images: u64,
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
    /// Documents to be ranked.
    pub documents: Documents,
    /// Whether there is a tool that the provider may run as often, or at such a price, as it likes.
    pub has_unlimited_tool: bool,
    /// Output tokens that are for thinking (Anthropic `thinking.budget_tokens`): an output limit must be above them.
    pub thinking_budget: u64,
    /// The stored objects that are named, until the body has been read.
    pub(super) references: References,
    /// How many answers there are to be, where that stands deeper in the body.
    pub(super) answers: u64,
    /// Whether the provider may search as often as all its tools together may be called.
    pub(super) searches_freely: bool,
    /// The most calls of the provider's tools (OpenAI Responses `max_tool_calls`).
    pub(super) tool_calls_max: Option<u64>,
}

/// Documents that are to be ranked by how well they answer a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    count: u64,
    bytes: u64,
    query_bytes: u64,
    /// Parts that the provider seems to cut them into.
    chunks: u64,
}

/// Documents of one search unit, and the tokens of one before it counts twice (Cohere, "How does pricing work": a unit is one query
/// with up to a hundred documents; those of more than 500 tokens, the query's among them, are split).
const DOCUMENTS_PER_UNIT: u64 = 100;
const TOKENS_PER_DOCUMENT: u64 = 500;

impl Documents {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.chunks += bytes.div_ceil(4 * TOKENS_PER_DOCUMENT).max(1);
    }

    /// Search units, with a token for four bytes.
    pub(crate) fn units(&self) -> u64 {
        self.chunks.div_ceil(DOCUMENTS_PER_UNIT)
    }

    /// The most search units, with a token for each byte, and each document's last part all but empty.
    pub(crate) fn units_max(&self) -> u64 {
        let bytes = self.query_bytes.saturating_mul(self.count).saturating_add(self.bytes);
        (self.count + bytes / TOKENS_PER_DOCUMENT).div_ceil(DOCUMENTS_PER_UNIT)
    }
}

impl Weight {
    /// Tokens around the text.
    #[must_use]
    fn constants(&self) -> u64 {
        TOKENS_PER_REQUEST
            + TOKENS_PER_MESSAGE * self.messages
            + TOKENS_PER_TOOL * self.tools
            + TOKENS_PER_ATTACHMENT * self.attachments
            + self.sound_tokens()
    }

    /// Tokens that the sounds of a form usually make, where its model counts tokens of them: one for 100 ms (OpenAI, "Managing
    /// costs", audio tokens).
    #[must_use]
    pub fn sound_tokens(&self) -> u64 {
        self.sound_ms.div_ceil(100)
    }

    /// The most input tokens that the text can make: one a byte, and the constants.
    #[must_use]
    pub fn input_bound(&self) -> u64 {
        self.text_bytes + self.tokens + self.constants()
    }

    /// What the text usually makes: a token for four bytes.
    #[must_use]
    pub fn input_quarter(&self) -> u64 {
        self.text_bytes.div_ceil(4) + self.tokens + self.constants()
    }

    /// Adds a member of the body.
    pub(super) fn add<'a, M: MapAccess<'a>>(
        &mut self,
        name: &str,
        dialect: Dialect,
        members: &mut M,
    ) -> Result<(), M::Error> {
        self.text_bytes += name.len() as u64;
        let text_bytes_before = self.text_bytes;
        let member = Member::at_top(name, dialect);
        let worth = members.next_value_seed(Weigh { weight: self, member, dialect, place: Place::at_top(name) })?;
        let bytes = self.text_bytes - text_bytes_before;
        match (name, worth) {
            (_, Worth::Null) => {}
            ("messages" | "contents" | "requests" | "texts" | "inputs" | "documents", Worth::Elements(elements)) => {
                self.messages += elements;
            }
            ("input", Worth::Elements(elements)) => self.messages += elements,
            ("prompt", Worth::Elements(elements)) => self.prompts += elements,
            ("query", _) => self.documents.query_bytes = bytes,
            ("max_tool_calls", Worth::Number(most)) => self.tool_calls_max = most,
            ("prompt", Worth::Members)
            | ("previous_response_id" | "conversation" | "container" | "cachedContent" | "cached_content", _) => {
                self.refer_to_anything();
            }
            _ if spends_freely(name, dialect) => self.has_unlimited_tool = true,
            ("prediction", _) => self.predicted_bytes += bytes,
            _ => {}
        }
        Ok(())
    }

    /// Adds a member that is read for its own sake too, and says nothing but its text.
    pub(super) fn add_raw(&mut self, name: &str, dialect: Dialect, value: &RawValue) -> serde_json::Result<()> {
        self.text_bytes += name.len() as u64;
        let weigh = Weigh { weight: self, member: Member::at_top(name, dialect), dialect, place: Place::at_top(name) };
        weigh.deserialize(&mut serde_json::Deserializer::from_str(value.get())).map(drop)
    }

    /// Ends the body: what its members say of each other.
    pub(super) fn close(&mut self) {
        if self.searches_freely {
            match self.tool_calls_max {
                Some(calls) => self.server_tool_uses = self.server_tool_uses.saturating_add(calls),
                None => self.has_unlimited_tool = true,
            }
        }
    }

    /// Notes a sound in the input.
    pub(super) fn hear(&mut self, length: Length) {
        self.has_audio = true;
        self.sound_ms = self.sound_ms.saturating_add(length.likely_ms);
        self.sound_ms_max = self.sound_ms_max.saturating_add(length.most_ms);
        self.has_unmeasured_sound |= length.is_estimated;
    }

    /// Notes a file of a media type in the input; one that is empty says nothing.
    pub(super) fn attach(&mut self, media_type: &str) {
        self.attachments += 1;
        self.note_data(media_type);
    }

    /// The same, of any length.
    pub(super) fn refer_to_anything_unbounded(&mut self) {
        self.refer_to_anything();
        self.has_unlimited_tool = true;
    }

    /// Notes that something of which nothing is known is among the input.
    pub(super) fn refer_to_anything(&mut self) {
        (self.has_foreign_input, self.has_audio, self.has_images) = (true, true, true);
    }

    /// Notes what the `type` of an object in the body says about it.
    fn note_type(&mut self, kind: &str) {
        let (audio, images) = match kind {
            "image_url" | "input_image" | "image" | "computer_screenshot" => (false, true),
            "input_audio" | "audio" | "audio_url" => (true, false),
            "document" | "document_url" | "file" | "input_file" => (false, true),
            "video" | "video_url" | "input_video" | "container_upload" | "item_reference" => (true, true),
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

    /// Notes a string by its name, if it says something beside its length.
    pub(super) fn note_text(&mut self, member: Member, text: &str) {
        match member {
            Member::Type => self.note_type(text),
            Member::Stored => {
                self.attachments += 1;
                self.refer_to_anything();
            }
            // Five minutes is the shortest; a life of another name may be the longest.
            Member::CacheLife if text != "5m" => self.cache_write = CacheWrite::Hour,
            Member::Modality => self.note_modality(text),
            Member::Spoken => self.characters += text.chars().count() as u64,
            // A request of another mode is thought about several times at once, and billed for each.
            Member::ReasoningMode if text != "standard" => self.has_unlimited_tool = true,
            _ => {}
        }
    }

    /// Notes an object by its name.
    pub(super) fn note_object(&mut self, member: Member) {
        match member {
            Member::CacheControl => self.cache_write = self.cache_write.max(CacheWrite::FiveMinutes),
            Member::Picture => self.attach("image/"),
            Member::Film => self.attach(""),
            Member::Inline => self.attachments += 1,
            Member::Stored => self.refer_to_anything(),
            Member::ServerTool => self.has_unlimited_tool = true,
            _ => {}
        }
    }

    /// Notes bytes that are no text, of the media type that their `data:` address says.
    pub(super) fn note_data(&mut self, media_type: &str) {
        self.has_foreign_input = true;
        self.has_audio |= !media_type.starts_with("image/");
        self.has_images |= !media_type.starts_with("audio/");
    }

    /// Notes a tool that the provider offers. The others are what their text says.
    pub(super) fn note_tool(&mut self, tool: Tool, uses: Option<u64>) {
        match tool {
            Tool::Described => {}
            Tool::Known => self.has_foreign_input = true,
            Tool::Server => {
                self.has_foreign_input = true;
                match uses {
                    Some(uses) => self.server_tool_uses = self.server_tool_uses.saturating_add(uses),
                    None => self.searches_freely = true,
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

/// Whether a member at the top has the provider do what nothing limits, or what the catalogue has no price for.
fn spends_freely(name: &str, dialect: Dialect) -> bool {
    match dialect {
        Dialect::OpenaiResponses if name == "context_management" => true,
        Dialect::BedrockConverse => matches!(name, "guardrailConfig" | "performanceConfig"),
        _ => matches!(name, "web_search_options" | "search_parameters" | "plugins" | "mcp_servers"),
    }
}

#[cfg(test)]
mod tests;
