//! What the name of a member says about its value.

use crate::dialect::Dialect;

/// What is made of a value, by the name that it stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// `type`: its value may name an attachment.
    Type,
    /// `data` of a source that said it is base64: bytes that are not text.
    Bytes,
    /// An address, or the bytes themselves as `data:`.
    Address,
    /// A sound: its `data` is bytes, and an `id` stands for another.
    Audio,
    /// The id or the address of something that the provider has stored.
    Stored,
    /// A picture or a document, or several.
    Picture,
    /// A film, which has sounds.
    Film,
    /// Bytes whose media type stands beside them (Gemini `inlineData`).
    Inline,
    MediaType,
    /// `cache_control`, and in it `ttl`.
    CacheControl,
    CacheLife,
    /// `thinking` at the top, and in it `budget_tokens`.
    Thinking,
    ThinkingBudget,
    /// `reasoning` at the top, and in it `mode` (OpenAI Responses).
    Reasoning,
    ReasoningMode,
    /// A modality of the output, or a list of them.
    Modality,
    /// One prompt or several.
    Prompt,
    /// A list whose numbers are tokens.
    Tokens,
    /// Text to be spoken.
    Spoken,
    /// Documents to be ranked, and one of them.
    Documents,
    /// The list of tools, one of them, and in it `type` and `max_uses`.
    Tools,
    Tool,
    ToolType,
    ToolUses,
    /// An object that has the list of tools (Bedrock `toolConfig`), or whatever else a model of its own reads at the top.
    ToolSettings,
    /// Gemini's list of tools, one of them, named by its member, and the functions among them.
    NamedTools,
    NamedTool,
    Declarations,
    /// What a tool that the provider runs is told.
    ServerTool,
    /// How often a picture is shown before it is done.
    PartialImages,
    /// How many answers there are to be.
    Answers,
    /// Anything else.
    Other,
}

impl Member {
    /// At the top of the body.
    pub(super) fn at_top(name: &str, dialect: Dialect) -> Self {
        match (dialect, name) {
            (Dialect::GeminiGenerate, "tools") => Self::NamedTools,
            (Dialect::BedrockConverse | Dialect::BedrockInvoke, "toolConfig" | "additionalModelRequestFields") => {
                Self::ToolSettings
            }
            (Dialect::OpenaiResponses, "reasoning") => Self::Reasoning,
            (Dialect::OpenaiSpeech, "input") => Self::Spoken,
            (Dialect::OpenaiEmbeddings, "input") => Self::Prompt,
            (Dialect::OpenaiImages, "image" | "images" | "mask") => Self::Picture,
            (Dialect::OpenaiImages, "partial_images") => Self::PartialImages,
            (Dialect::CohereEmbed, "images") => Self::Picture,
            (Dialect::CohereRerank, "documents") => Self::Documents,
            (_, "tools" | "functions") => Self::Tools,
            (_, "thinking") => Self::Thinking,
            (_, "modalities") => Self::Modality,
            (_, "prompt") => Self::Prompt,
            _ => Self::named(name, dialect),
        }
    }

    /// Anywhere in the body.
    fn named(name: &str, dialect: Dialect) -> Self {
        match (dialect, name) {
            (_, "type") => Self::Type,
            (_, "url" | "image_url" | "file_url" | "file_data") => Self::Address,
            (_, "file_id") => Self::Stored,
            (_, "cache_control") => Self::CacheControl,
            (Dialect::GeminiGenerate | Dialect::GeminiEmbed, name) => match name {
                "inlineData" | "inline_data" => Self::Inline,
                "fileUri" | "file_uri" => Self::Stored,
                _ => Self::Other,
            },
            (Dialect::BedrockConverse | Dialect::BedrockInvoke, name) => match name {
                "bytes" => Self::Bytes,
                "image" | "document" => Self::Picture,
                "video" | "audio" => Self::Film,
                "cachePoint" => Self::CacheControl,
                "num_generations" | "numResults" | "numberOfImages" => Self::Answers,
                _ => Self::Other,
            },
            (_, "input_audio" | "audio") => Self::Audio,
            _ => Self::Other,
        }
    }

    /// Within an object that stands under this name.
    pub(super) fn within(self, name: &str, has_bytes: bool, dialect: Dialect) -> Self {
        match (self, name) {
            (Self::CacheControl, "ttl") => Self::CacheLife,
            (Self::Thinking, "budget_tokens" | "token_budget") => Self::ThinkingBudget,
            (Self::Reasoning, "mode") => Self::ReasoningMode,
            (Self::Tool, "type") => Self::ToolType,
            (Self::Tool, "max_uses") => Self::ToolUses,
            (Self::Tool, "systemTool") => Self::ServerTool,
            (Self::ToolSettings, "tools") => Self::Tools,
            (Self::ToolSettings, "thinking") => Self::Thinking,
            (Self::NamedTool | Self::NamedTools, "functionDeclarations" | "function_declarations") => {
                Self::Declarations
            }
            (Self::NamedTool | Self::NamedTools, "computerUse" | "computer_use") => Self::Stored,
            (Self::NamedTool | Self::NamedTools, _) => Self::ServerTool,
            (Self::Inline, "mimeType" | "mime_type") => Self::MediaType,
            (Self::Audio | Self::Inline, "data") => Self::Bytes,
            (Self::Audio, "id") => Self::Stored,
            (_, "data") if has_bytes => Self::Bytes,
            _ => Self::named(name, dialect),
        }
    }

    /// An element of a list that stands under this name.
    pub(super) fn element(self, dialect: Dialect) -> Self {
        let counts_tokens = matches!(dialect, Dialect::OpenaiCompletions | Dialect::OpenaiEmbeddings);
        match self {
            Self::Tools => Self::Tool,
            Self::NamedTools => Self::NamedTool,
            Self::Prompt | Self::Tokens if counts_tokens => Self::Tokens,
            Self::Modality | Self::Picture => self,
            _ => Self::Other,
        }
    }
}
