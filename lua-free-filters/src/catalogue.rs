//! The catalogue: which models there are, who serves them, and at what price.

use crate::dialect::{Dialect, Protocol};
use crate::id::PriceId;
use crate::price::{FeePpm, Picture, Price, Tier};
use crate::request_head::RequestHead;
use crate::time::EpochMs;
use std::collections::HashMap;
use std::sync::Arc;

/// All models, by every name.
#[derive(Debug, Default)]
pub struct Catalogue {
    models: Vec<Arc<Model>>,
    by_name: HashMap<Box<str>, Arc<Model>>,
    /// By provider, then by the provider's own name of the model.
    by_provider: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Model>>>,
}

impl Catalogue {
    /// Puts the models together; the error is a name that two of them claim.
    pub fn new(mut models: Vec<Model>) -> Result<Self, String> {
        let candidates = models.iter_mut().flat_map(|model| model.candidates.iter_mut());
        candidates.enumerate().for_each(|(number, candidate)| candidate.number = number);
        let models: Vec<Arc<Model>> = models.into_iter().map(Arc::new).collect();
        let mut by_name = HashMap::new();
        for model in &models {
            for name in std::iter::once(&*model.id).chain(model.aliases.iter().map(|alias| &**alias)) {
                if by_name.insert(Box::from(name), Arc::clone(model)).is_some() {
                    return Err(name.to_owned());
                }
            }
        }
        let mut by_provider: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Model>>> = HashMap::new();
        for (model, candidate) in candidates_of(&models) {
            let of_provider = by_provider.entry(Arc::clone(&candidate.provider)).or_default();
            of_provider.entry(Arc::clone(&candidate.model)).or_insert_with(|| Arc::clone(model));
        }
        Ok(Self { models, by_name, by_provider })
    }

    /// The model of a name or an alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Model>> {
        self.by_name.get(name)
    }

    /// The model that a provider calls by a name, or that is called so here and served by it.
    #[must_use]
    pub fn find_at(&self, provider: &str, name: &str) -> Option<&Arc<Model>> {
        let serves = |model: &&Arc<Model>| model.candidates.iter().any(|candidate| *candidate.provider == *provider);
        let own = self.by_provider.get(provider).and_then(|models| models.get(name));
        own.or_else(|| self.find(name).filter(serves))
    }

    /// All candidates of all models, in the order of their numbers.
    pub fn candidates(&self) -> impl Iterator<Item = (&Arc<Model>, &Candidate)> {
        candidates_of(&self.models)
    }

    /// All models in the order of the file.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }
}

fn candidates_of(models: &[Arc<Model>]) -> impl Iterator<Item = (&Arc<Model>, &Candidate)> {
    models.iter().flat_map(|model| model.candidates.iter().map(move |candidate| (model, candidate)))
}

/// A model as clients know it.
#[derive(Debug)]
pub struct Model {
    /// Its name, also in metrics and tables.
    pub id: Arc<str>,
    /// Other names.
    pub aliases: Vec<Box<str>>,
    /// Input and output tokens together, as published.
    pub context_tokens: u64,
    /// Most output tokens of one answer.
    pub output_tokens_max: u64,
    /// The request field that limits output.
    pub output_limit_field: Box<str>,
    /// The smallest limit that the provider takes.
    pub output_limit_min: u64,
    /// What it is for.
    pub mode: Mode,
    /// Whether output is billed that the stream does not show.
    pub hidden_output: bool,
    /// Who serves it.
    pub candidates: Vec<Candidate>,
}

/// One way to have a model served.
#[derive(Debug)]
pub struct Candidate {
    /// Its place among all candidates of the catalogue; [`Catalogue::new`] sets it.
    pub number: usize,
    /// The provider's name in the configuration.
    pub provider: Arc<str>,
    /// The protocol that it speaks.
    pub protocol: Protocol,
    /// The dialects of it that the provider speaks; none named: all.
    pub apis: Arc<[Dialect]>,
    /// The provider's name of the model.
    pub model: Arc<str>,
    /// Candidates of the lowest number are tried first.
    pub priority: u32,
    /// Share among candidates of one priority.
    pub weight: u32,
    /// How input tokens are estimated before the call.
    pub input_estimate: InputEstimate,
    /// The tier in which the provider bills what asks for none.
    pub default_tier: Tier,
    /// Versions of the price, oldest first.
    pub prices: Vec<Arc<PriceVersion>>,
}

/// A version of a price and its name.
#[derive(Clone, Debug)]
pub struct PriceVersion {
    /// Its name in the ledger.
    pub id: PriceId,
    /// The price; of a picture that is not listed below, the dearest of them.
    pub price: Price,
    /// The same for each picture that is listed by size and quality.
    pub pictures: Vec<Arc<PriceVersion>>,
    /// The same where the call is made with the organisation's own credential; none: nobody may.
    own: Option<Arc<PriceVersion>>,
}

impl PriceVersion {
    /// Names a price.
    #[must_use]
    pub fn new(price: Price) -> Self {
        Self { id: price.id(), price, pictures: Vec::new(), own: None }
    }

    /// Names a price that pictures have by size and quality: names as [`Price::picture`] has them, and rates.
    #[must_use]
    pub fn of_pictures(price: &Price, rates: &[(&str, i64)]) -> Self {
        let dearest = rates.iter().map(|(_, rate)| *rate).max().unwrap_or(0);
        let pictures = rates.iter().map(|(name, rate)| Arc::new(Self::new(price.with_picture(Some(name), *rate))));
        Self { pictures: pictures.collect(), ..Self::new(price.with_picture(None, dearest)) }
    }

    /// The same, of which calls with organisations' own credentials are charged a part.
    #[must_use]
    pub fn with_own(self, fee: FeePpm) -> Self {
        let at_fee = |version: &Self| Self::new(Price { fee: Some(fee), ..version.price.clone() });
        let pictures = self.pictures.iter().map(|version| Arc::new(at_fee(version))).collect();
        Self { own: Some(Arc::new(Self { pictures, ..at_fee(&self) })), ..self }
    }

    /// The version for calls with organisations' own credentials.
    #[must_use]
    pub fn own(&self) -> Option<&Arc<Self>> {
        self.own.as_ref()
    }

    /// It and all that belong to it: of pictures, and of own credentials.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        let versions = std::iter::once(self).chain(self.own.as_deref());
        versions.flat_map(|version| std::iter::once(version).chain(version.pictures.iter().map(|one| &**one)))
    }

    /// The version for what is asked of a picture: that of its size and quality, or of its size, or the dearest.
    #[must_use]
    pub fn for_picture(self: &Arc<Self>, asked: &Picture) -> Arc<Self> {
        if self.pictures.is_empty() {
            return Arc::clone(self);
        }
        let listed = asked.names().into_iter().find_map(|name| self.named(&name));
        Arc::clone(listed.unwrap_or(self))
    }

    /// The version of a picture's name.
    #[must_use]
    pub fn named(&self, picture: &str) -> Option<&Arc<Self>> {
        self.pictures.iter().find(|version| version.price.picture.as_deref() == Some(picture))
    }
}

/// What a model is for, and with that the APIs that it answers on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Talks.
    #[default]
    Chat,
    /// Continues a text, and nothing else.
    Completion,
    /// Makes vectors of texts.
    Embedding,
    /// Draws.
    Image,
    /// Speaks.
    Speech,
    /// Listens.
    Transcription,
    /// Judges texts.
    Moderation,
    /// Orders texts by how well they answer.
    Rerank,
    /// Talks over a connection that stays open.
    Realtime,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 9] = [
        Self::Chat,
        Self::Completion,
        Self::Embedding,
        Self::Image,
        Self::Speech,
        Self::Transcription,
        Self::Moderation,
        Self::Rerank,
        Self::Realtime,
    ];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
            Self::Image => "image",
            Self::Speech => "speech",
            Self::Transcription => "transcription",
            Self::Moderation => "moderation",
            Self::Rerank => "rerank",
            Self::Realtime => "realtime",
        }
    }

    /// Whether models of this mode answer in a dialect.
    #[must_use]
    pub fn answers(self, dialect: Dialect) -> bool {
        match dialect {
            // Images can be drawn and sounds be heard in a chat too: what a model of another mode makes of it is its affair.
            Dialect::OpenaiChat
            | Dialect::OpenaiResponses
            | Dialect::Anthropic
            | Dialect::AnthropicCount
            | Dialect::GeminiGenerate
            | Dialect::GeminiCount
            | Dialect::CohereChat
            | Dialect::BedrockConverse => matches!(self, Self::Chat | Self::Image | Self::Speech | Self::Transcription),
            Dialect::BedrockInvoke => !matches!(self, Self::Realtime),
            Dialect::OpenaiCompletions => matches!(self, Self::Chat | Self::Completion),
            Dialect::OpenaiEmbeddings | Dialect::GeminiEmbed | Dialect::CohereEmbed => self == Self::Embedding,
            Dialect::OpenaiImages => self == Self::Image,
            Dialect::OpenaiSpeech => self == Self::Speech,
            Dialect::OpenaiTranscription => self == Self::Transcription,
            Dialect::OpenaiModerations => self == Self::Moderation,
            Dialect::CohereRerank => self == Self::Rerank,
            Dialect::OpenaiRealtime => self == Self::Realtime,
        }
    }
}

impl Candidate {
    /// Whether it can be asked in a dialect.
    #[must_use]
    pub fn speaks(&self, dialect: Dialect) -> bool {
        self.protocol == dialect.protocol() && (self.apis.is_empty() || self.apis.contains(&dialect))
    }

    /// All versions of its price, those of pictures and of own credentials among them.
    pub fn price_versions(&self) -> impl Iterator<Item = &PriceVersion> {
        self.prices.iter().flat_map(|version| PriceVersion::all(version))
    }

    /// The price in force, if there is one yet.
    #[must_use]
    pub fn price_at(&self, now: EpochMs) -> Option<&Arc<PriceVersion>> {
        self.prices.iter().rev().find(|version| version.price.from_day <= now.day())
    }
}

/// How input tokens are estimated before the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InputEstimate {
    /// A token for four bytes of text.
    #[default]
    QuarterOfBytes,
    /// The most that the bytes can make.
    Bound,
}

impl InputEstimate {
    /// The estimate of that name in the configuration.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "bytes/4" => Some(Self::QuarterOfBytes),
            "bound" => Some(Self::Bound),
            _ => None,
        }
    }

    /// Input tokens of a request.
    #[must_use]
    pub fn input_tokens(self, head: &RequestHead) -> u64 {
        match self {
            Self::QuarterOfBytes => head.weight.input_quarter(),
            Self::Bound => head.weight.input_bound(),
        }
    }
}
