//! A request that was understood: what every API says of itself in its own way.

use super::ask::Ask;
use super::text::Prompt;
use super::{
    bedrock, cohere_chat, cohere_vectors, conversation, gemini, gemini_vectors, openai_completions, openai_embeddings,
    openai_images, openai_moderations, openai_responses, openai_speech, openai_transcription,
};
use filters::dialect::Dialect;
use std::sync::Arc;

/// What a call asks for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The model's name without the faults behind its `+`.
    pub(super) model: String,
    /// The faults behind the `+`.
    pub(super) model_faults: String,
    pub(super) streamed: bool,
    /// The client asked for a usage event (only some of OpenAI's streams ask).
    pub(super) asks_usage: bool,
    pub(super) output_limit: Option<u64>,
    /// How many replies are made, told or not.
    pub(super) choices: u64,
    pub(super) input_tokens: u64,
    /// Tokens of images within the input.
    pub(super) image_tokens: u64,
    /// Tokens of sound within the input.
    pub(super) audio_tokens: u64,
    pub(super) prompt: Prompt,
    /// The tool to call, where this turn calls one.
    pub(super) tool: Option<String>,
    /// What the output is billed where it is no text.
    pub(super) output_tokens: Option<u64>,
    /// The answer's, where it is neither JSON nor a stream of server-sent events.
    pub(super) content_type: Option<&'static str>,
    /// All of it, for what only one API reads.
    pub(super) ask: Arc<Ask>,
}

impl Request {
    /// A request of the model with this name for one reply to a prompt.
    pub(super) fn new(ask: Ask, model: &str, prompt: Prompt) -> Self {
        let (model, model_faults) = model.split_once('+').unwrap_or((model, ""));
        Self {
            model: model.to_owned(),
            model_faults: model_faults.to_owned(),
            streamed: false,
            asks_usage: false,
            output_limit: None,
            choices: 1,
            input_tokens: 0,
            image_tokens: 0,
            audio_tokens: 0,
            prompt,
            tool: None,
            output_tokens: None,
            content_type: None,
            ask: Arc::new(ask),
        }
    }

    /// Reads a request; the error is a sentence for the caller.
    pub(super) fn read(ask: Ask) -> Result<Self, String> {
        match ask.target.dialect {
            Dialect::OpenaiChat | Dialect::Anthropic | Dialect::AnthropicCount => conversation::read(ask),
            Dialect::OpenaiResponses => openai_responses::read(ask),
            Dialect::OpenaiCompletions => openai_completions::read(ask),
            Dialect::OpenaiEmbeddings => openai_embeddings::read(ask),
            Dialect::OpenaiImages => openai_images::read(ask),
            Dialect::OpenaiSpeech => openai_speech::read(ask),
            Dialect::OpenaiTranscription => openai_transcription::read(ask),
            Dialect::OpenaiModerations => openai_moderations::read(ask),
            Dialect::GeminiGenerate | Dialect::GeminiCount => gemini::read(ask),
            Dialect::GeminiEmbed => gemini_vectors::read(ask),
            Dialect::CohereChat => cohere_chat::read(ask),
            Dialect::CohereEmbed | Dialect::CohereRerank => cohere_vectors::read(ask),
            Dialect::BedrockConverse | Dialect::BedrockInvoke => bedrock::read(ask),
            Dialect::OpenaiRealtime => Err("A session is a WebSocket.".to_owned()),
        }
    }
}
