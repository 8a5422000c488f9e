//! What differs between protocols in requests.

use super::Dialect;

impl Dialect {
    /// The top-level members that limit the output, in tokens.
    #[must_use]
    pub fn output_limits(self) -> &'static [&'static str] {
        match self {
            Self::OpenaiChat => &["max_tokens", "max_completion_tokens"],
            Self::OpenaiResponses => &["max_output_tokens"],
            Self::Anthropic | Self::OpenaiCompletions | Self::CohereChat => &["max_tokens"],
            // Each family of models has its own name.
            Self::BedrockInvoke => &["max_tokens", "max_gen_len", "max_tokens_to_sample", "max_new_tokens"],
            Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::AnthropicCount
            | Self::GeminiGenerate
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereEmbed
            | Self::CohereRerank
            | Self::BedrockConverse
            | Self::OpenaiRealtime => &[],
        }
    }

    /// The top-level member, in each of its spellings, whose object holds the settings of generation.
    #[must_use]
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Self::GeminiGenerate => &["generationConfig", "generation_config"],
            Self::BedrockConverse => &["inferenceConfig"],
            Self::OpenaiChat
            | Self::Anthropic
            | Self::OpenaiResponses
            | Self::OpenaiCompletions
            | Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::AnthropicCount
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereChat
            | Self::CohereEmbed
            | Self::CohereRerank
            | Self::BedrockInvoke
            | Self::OpenaiRealtime => &[],
        }
    }

    /// The field that a clamp writes where the request names no limit; none where the protocol has none to write.
    /// `of_model` is what the model's catalogue entry says of chat.
    #[must_use]
    pub fn clamp_field(self, of_model: &str) -> Option<&str> {
        match self {
            Self::OpenaiChat => Some(of_model),
            Self::OpenaiResponses => Some("max_output_tokens"),
            Self::Anthropic | Self::OpenaiCompletions | Self::CohereChat => Some("max_tokens"),
            Self::GeminiGenerate => Some("maxOutputTokens"),
            Self::BedrockConverse => Some("maxTokens"),
            Self::OpenaiEmbeddings
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::OpenaiModerations
            | Self::AnthropicCount
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereEmbed
            | Self::CohereRerank
            | Self::BedrockInvoke
            | Self::OpenaiRealtime => None,
        }
    }

    /// Whether output is billed by the token.
    #[must_use]
    pub fn has_output(self) -> bool {
        match self {
            Self::OpenaiChat
            | Self::Anthropic
            | Self::OpenaiResponses
            | Self::OpenaiCompletions
            | Self::OpenaiImages
            | Self::OpenaiSpeech
            | Self::OpenaiTranscription
            | Self::GeminiGenerate
            | Self::CohereChat
            | Self::BedrockConverse
            | Self::BedrockInvoke
            | Self::OpenaiRealtime => true,
            Self::OpenaiEmbeddings
            | Self::OpenaiModerations
            | Self::AnthropicCount
            | Self::GeminiCount
            | Self::GeminiEmbed
            | Self::CohereEmbed
            | Self::CohereRerank => false,
        }
    }

    /// Whether its answers cost nothing.
    #[must_use]
    pub fn is_free(self) -> bool {
        matches!(self, Self::OpenaiModerations | Self::AnthropicCount | Self::GeminiCount)
    }

    /// Whether the path names the model, and not the body.
    #[must_use]
    pub fn names_model_in_path(self) -> bool {
        matches!(
            self,
            Self::GeminiGenerate | Self::GeminiCount | Self::GeminiEmbed | Self::BedrockConverse | Self::BedrockInvoke
        )
    }

    /// The model of a request that names none, where the provider's own reference says so.
    #[must_use]
    pub fn default_model(self) -> Option<&'static str> {
        match self {
            Self::OpenaiModerations => Some("omni-moderation-latest"),
            Self::OpenaiImages => Some("dall-e-2"),
            _ => None,
        }
    }
}
