//! The models that a key may use, in the words of each protocol.

use super::answer_head::utc;
use super::inspect::dollars;
use filters::catalogue::{Candidate, Catalogue, Mode, Model};
use filters::denied::Denied;
use filters::dialect::{Dialect, Protocol};
use filters::key::{Key, allows};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use filters::usage::Kind;
use serde::Serialize;
use serde_json::value::RawValue;

/// What of a catalogue a key may use now.
pub(super) struct Usable<'a> {
    pub(super) key: &'a Key,
    pub(super) catalogue: &'a Catalogue,
    pub(super) now: EpochMs,
}

impl<'a> Usable<'a> {
    /// All of them that a protocol's clients can call, as JSON.
    pub(super) fn list(&self, protocol: Protocol) -> Vec<u8> {
        let models = self.catalogue.models().iter().map(|model| &**model);
        let models: Vec<&Model> = models.filter(|model| self.may_use(model, protocol)).collect();
        match protocol {
            Protocol::Anthropic => {
                let data: Vec<_> = models.iter().map(|model| self.anthropic(model)).collect();
                let ids = || models.iter().map(|model| &*model.id);
                text(&AnthropicModels { first_id: ids().next(), last_id: ids().next_back(), has_more: false, data })
            }
            Protocol::Gemini => text(&GeminiModels { models: models.iter().map(|model| self.gemini(model)).collect() }),
            Protocol::Openai | Protocol::Cohere | Protocol::Bedrock => {
                text(&OpenaiModels { object: "list", data: models.iter().map(|model| self.openai(model)).collect() })
            }
        }
    }

    /// The model of a name, as JSON.
    pub(super) fn one(&self, name: &str, protocol: Protocol) -> Result<Vec<u8>, Denied> {
        let model = self.catalogue.find(name).filter(|model| self.may_use(model, protocol));
        let model = model.ok_or_else(|| Denied::ModelNotFound(name.chars().take(128).collect()))?;
        Ok(match protocol {
            Protocol::Anthropic => text(&self.anthropic(model)),
            Protocol::Gemini => text(&self.gemini(model)),
            Protocol::Openai | Protocol::Cohere | Protocol::Bedrock => text(&self.openai(model)),
        })
    }

    fn may_use(&self, model: &Model, protocol: Protocol) -> bool {
        // OpenAI's list is the gateway's own: it shows everything.
        let speaks = |of: Protocol| matches!(protocol, Protocol::Openai) || of == protocol;
        let serves = |candidate: &Candidate| {
            speaks(candidate.protocol)
                && allows(&self.key.providers, &candidate.provider)
                && candidate.price_at(self.now).is_some()
        };
        allows(&self.key.models, &model.id) && model.candidates.iter().any(serves)
    }

    fn openai(&self, model: &'a Model) -> OpenaiModel<'a> {
        OpenaiModel {
            id: &model.id,
            object: "model",
            created: published_day(model) * 86_400,
            owned_by: model.candidates.first().map_or("", |candidate| &*candidate.provider),
            facts: self.facts(model),
        }
    }

    fn anthropic(&self, model: &'a Model) -> AnthropicModel<'a> {
        AnthropicModel {
            kind: "model",
            id: &model.id,
            display_name: &model.id,
            created_at: utc(EpochMs(published_day(model) * 86_400_000)),
            facts: self.facts(model),
        }
    }

    fn gemini(&self, model: &'a Model) -> GeminiModel<'a> {
        let methods = [
            (Dialect::GeminiGenerate, "generateContent"),
            (Dialect::GeminiGenerate, "streamGenerateContent"),
            (Dialect::GeminiCount, "countTokens"),
            (Dialect::GeminiEmbed, "embedContent"),
            (Dialect::GeminiEmbed, "batchEmbedContents"),
        ];
        let answered = methods.into_iter().filter(|(dialect, _)| model.mode.answers(*dialect));
        GeminiModel {
            name: format!("models/{}", model.id),
            display_name: &model.id,
            input_token_limit: model.context_tokens,
            output_token_limit: model.output_tokens_max,
            methods: answered.map(|(_, method)| method).collect(),
            facts: self.facts(model),
        }
    }

    fn facts(&self, model: &'a Model) -> Facts<'a> {
        let candidates = model.candidates.iter();
        let mut allowed = candidates.filter(|candidate| allows(&self.key.providers, &candidate.provider));
        let price = allowed.find_map(|candidate| candidate.price_at(self.now));
        Facts {
            aliases: model.aliases.iter().map(|alias| &**alias).collect(),
            modality: modality(model.mode),
            context_tokens: model.context_tokens,
            output_tokens_max: model.output_tokens_max,
            pricing: price.map(|version| {
                let rate = |kind: Kind| dollars(NanoUsd(version.price.standard[kind as usize]));
                Pricing {
                    input: rate(Kind::Input),
                    cache_read: rate(Kind::CacheRead),
                    cache_write: rate(Kind::CacheWrite5m),
                    output: rate(Kind::Output),
                }
            }),
        }
    }
}

fn text(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("strings and numbers under string keys are always JSON")
}

/// The day of the first price: the catalogue knows no other date of a model.
fn published_day(model: &Model) -> i64 {
    let prices = model.candidates.iter().flat_map(|candidate| &candidate.prices);
    prices.map(|version| version.price.from_day).min().unwrap_or(0)
}

/// What a model takes or gives beside text, in one word.
fn modality(mode: Mode) -> &'static str {
    match mode {
        Mode::Chat | Mode::Completion | Mode::Moderation | Mode::Rerank => "text",
        Mode::Embedding => "embedding",
        Mode::Image => "image",
        Mode::Speech | Mode::Transcription | Mode::Realtime => "audio",
    }
}

#[derive(Serialize)]
struct OpenaiModels<'a> {
    object: &'static str,
    data: Vec<OpenaiModel<'a>>,
}

#[derive(Serialize)]
struct OpenaiModel<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
    #[serde(flatten)]
    facts: Facts<'a>,
}

#[derive(Serialize)]
struct AnthropicModels<'a> {
    data: Vec<AnthropicModel<'a>>,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

#[derive(Serialize)]
struct AnthropicModel<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: String,
    #[serde(flatten)]
    facts: Facts<'a>,
}

#[derive(Serialize)]
struct GeminiModels<'a> {
    models: Vec<GeminiModel<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GeminiModel<'a> {
    name: String,
    display_name: &'a str,
    input_token_limit: u64,
    output_token_limit: u64,
    #[serde(rename = "supportedGenerationMethods")]
    methods: Vec<&'static str>,
    #[serde(flatten)]
    facts: Facts<'a>,
}

/// What is told of a model beside its protocol's own fields.
#[derive(Serialize)]
struct Facts<'a> {
    aliases: Vec<&'a str>,
    modality: &'static str,
    context_tokens: u64,
    output_tokens_max: u64,
    /// USD per million tokens, of the first candidate that the key may use.
    pricing: Option<Pricing>,
}

#[derive(Serialize)]
struct Pricing {
    input: Box<RawValue>,
    cache_read: Box<RawValue>,
    cache_write: Box<RawValue>,
    output: Box<RawValue>,
}
