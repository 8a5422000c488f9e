//! Which model is meant, and who may serve it to this key?

use crate::catalogue::{Candidate, Catalogue, Model, PriceVersion};
use crate::denied::Denied;
use crate::dialect::Dialect;
use crate::key::{Key, allows};
use crate::time::EpochMs;
use std::sync::Arc;

/// A candidate that may be tried, with the price in force.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its place in the model's candidates.
    pub index: usize,
    /// The version of its price.
    pub price: Arc<PriceVersion>,
}

/// Finds the model and the candidates that this key may be served by, in this protocol, at a known price.
pub(crate) fn choose(
    key: &Key,
    catalogue: &Catalogue,
    name: &str,
    dialect: Dialect,
    now: EpochMs,
) -> Result<(Arc<Model>, Vec<Choice>), Denied> {
    let unknown = || Denied::ModelNotFound(name.chars().take(128).collect());
    let model = catalogue.find(name).ok_or_else(unknown)?;
    if !allows(&key.models, &model.id) {
        return Err(Denied::ModelNotAllowed(model.id.to_string()));
    }
    let spoken: Vec<(usize, &Candidate)> =
        model.candidates.iter().enumerate().filter(|(_, candidate)| candidate.dialect == dialect).collect();
    if spoken.is_empty() {
        return Err(unknown());
    }
    let mut allowed =
        spoken.into_iter().filter(|(_, candidate)| allows(&key.providers, &candidate.provider)).peekable();
    if allowed.peek().is_none() {
        return Err(Denied::ProviderNotAllowed(model.id.to_string()));
    }
    let priced = |(index, candidate): (usize, &Candidate)| {
        candidate.price_at(now).map(|price| Choice { index, price: Arc::clone(price) })
    };
    let choices: Vec<Choice> = allowed.filter_map(priced).collect();
    if choices.is_empty() {
        return Err(Denied::ModelUnpriced(model.id.to_string()));
    }
    Ok((Arc::clone(model), choices))
}
