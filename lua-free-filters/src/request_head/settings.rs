//! The object that some protocols keep the settings of generation in, apart from the rest of the request.

use super::weight::Weight;
use crate::denied::Denied;
use crate::dialect::Dialect;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What is read of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) output_limit: Option<u64>,
    pub(super) choices: Option<u64>,
    thinking_budget: u64,
    wants_audio: bool,
    wants_images: bool,
    text_bytes: u64,
}

/// Gemini API reference, "GenerationConfig". Its servers take either spelling.
#[derive(Default, Deserialize)]
struct GenerationConfig {
    #[serde(default, rename = "maxOutputTokens", alias = "max_output_tokens")]
    output_limit: Option<u64>,
    #[serde(default, rename = "candidateCount", alias = "candidate_count")]
    choices: Option<u64>,
    #[serde(default, rename = "thinkingConfig", alias = "thinking_config")]
    thinking: Option<ThinkingConfig>,
    #[serde(default, rename = "responseModalities", alias = "response_modalities")]
    modalities: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct ThinkingConfig {
    #[serde(default, rename = "thinkingBudget", alias = "thinking_budget")]
    budget: Option<i64>,
}

/// Amazon Bedrock API reference, "InferenceConfiguration".
#[derive(Default, Deserialize)]
struct InferenceConfig {
    #[serde(default, rename = "maxTokens")]
    output_limit: Option<u64>,
}

impl Settings {
    /// Reads the object of a dialect that has one.
    pub(super) fn read(raw: &RawValue, dialect: Dialect) -> Result<Self, Denied> {
        let unreadable = |error: serde_json::Error| {
            Denied::InvalidRequest(format!("The settings of the request are not as they should be: {error}."))
        };
        let text_bytes = raw.get().len() as u64;
        if dialect == Dialect::BedrockConverse {
            let config: Option<InferenceConfig> = serde_json::from_str(raw.get()).map_err(unreadable)?;
            let output_limit = config.unwrap_or_default().output_limit;
            return Ok(Self { output_limit, text_bytes, ..Self::default() });
        }
        let config: Option<GenerationConfig> = serde_json::from_str(raw.get()).map_err(unreadable)?;
        let config = config.unwrap_or_default();
        let wants =
            |modality: &str| config.modalities.iter().flatten().any(|wanted| wanted.eq_ignore_ascii_case(modality));
        Ok(Self {
            output_limit: config.output_limit,
            choices: config.choices,
            thinking_budget: config.thinking.and_then(|thinking| u64::try_from(thinking.budget?).ok()).unwrap_or(0),
            wants_audio: wants("audio"),
            wants_images: wants("image"),
            text_bytes,
        })
    }

    /// Adds what the settings say to the weight of the rest.
    pub(super) fn weigh(&self, weight: &mut Weight) {
        weight.text_bytes += self.text_bytes;
        weight.thinking_budget = weight.thinking_budget.max(self.thinking_budget);
        weight.wants_audio |= self.wants_audio;
        weight.wants_images |= self.wants_images;
    }
}
