//! The catalogue: which models there are, who serves them, and at what price.

use crate::dialect::Dialect;
use crate::id::PriceId;
use crate::price::{Price, Tier};
use crate::request_head::RequestHead;
use crate::time::EpochMs;
use std::collections::HashMap;
use std::sync::Arc;

/// All models, by every name.
#[derive(Debug, Default)]
pub struct Catalogue {
    models: Vec<Arc<Model>>,
    by_name: HashMap<Box<str>, Arc<Model>>,
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
        Ok(Self { models, by_name })
    }

    /// The model of a name or an alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Model>> {
        self.by_name.get(name)
    }

    /// All candidates of all models, in the order of their numbers.
    pub fn candidates(&self) -> impl Iterator<Item = (&Arc<Model>, &Candidate)> {
        self.models.iter().flat_map(|model| model.candidates.iter().map(move |candidate| (model, candidate)))
    }

    /// All models in the order of the file.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }
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
    pub dialect: Dialect,
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
#[derive(Debug)]
pub struct PriceVersion {
    /// Its name in the ledger.
    pub id: PriceId,
    /// The price.
    pub price: Price,
}

impl PriceVersion {
    /// Names a price.
    #[must_use]
    pub fn new(price: Price) -> Self {
        Self { id: price.id(), price }
    }
}

impl Candidate {
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
