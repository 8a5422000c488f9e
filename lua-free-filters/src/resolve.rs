//! Which model is meant, and who may serve it to this key?

use crate::catalogue::{Candidate, Catalogue, Model, PriceVersion};
use crate::denied::Denied;
use crate::key::{Key, allows};
use crate::own::OwnCredential;
use crate::price::Price;
use crate::route::Target;
use crate::time::EpochMs;
use std::sync::Arc;

/// A candidate that may be tried, with the price in force.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its place in the model's candidates.
    pub index: usize,
    /// The version of its price.
    pub price: Arc<PriceVersion>,
    /// The organisation's own credential that it is asked with; none: one of the operator's.
    pub own: Option<Arc<OwnCredential>>,
}

/// Finds the model and the candidates that this key may be served by, in this protocol, at a known price: each with the operator's
/// credentials, and with each of the organisation's own that fits.
pub(crate) fn choose(
    key: &Key,
    catalogue: &Catalogue,
    (name, target): (&str, &Target),
    now: EpochMs,
) -> Result<(Arc<Model>, Vec<Choice>), Denied> {
    let unknown = || Denied::ModelNotFound(name.chars().take(128).collect());
    let model = match &target.provider {
        Some(provider) => catalogue.find_at(provider, name),
        None => catalogue.find(name),
    };
    let model = model.ok_or_else(unknown)?;
    if !allows(&key.models, &model.id) {
        return Err(Denied::ModelNotAllowed(model.id.to_string()));
    }
    let candidates = model.candidates.iter().enumerate();
    let (dialect, provider) = (target.route.dialect(), target.provider.as_deref());
    let answers = |candidate: &Candidate| {
        candidate.speaks(dialect) && provider.is_none_or(|provider| *candidate.provider == *provider)
    };
    let spoken: Vec<(usize, &Candidate)> = candidates.filter(|(_, candidate)| answers(candidate)).collect();
    if spoken.is_empty() || !model.mode.answers(dialect) {
        return Err(unknown());
    }
    let mut allowed =
        spoken.into_iter().filter(|(_, candidate)| allows(&key.providers, &candidate.provider)).peekable();
    if allowed.peek().is_none() {
        return Err(Denied::ProviderNotAllowed(model.id.to_string()));
    }
    let is_free = dialect.is_free();
    let priced = |(index, candidate): (usize, &Candidate)| {
        // What costs nothing needs no price.
        let price = candidate.price_at(now).cloned();
        let price = price.or_else(|| is_free.then(|| Arc::new(PriceVersion::new(Price::default()).with_own(0))));
        price.map(|price| Choice { index, price, own: None })
    };
    let mut choices: Vec<Choice> = allowed.filter_map(priced).collect();
    if choices.is_empty() {
        return Err(Denied::ModelUnpriced(model.id.to_string()));
    }
    if let Some(own) = &key.own {
        add_own(&mut choices, own, model);
    }
    Ok((Arc::clone(model), choices))
}

/// Puts choices with the organisation's own credentials before the others.
fn add_own(choices: &mut Vec<Choice>, own: &[Arc<OwnCredential>], model: &Model) {
    let mut first = Vec::new();
    for choice in choices.iter() {
        let Some(price) = choice.price.own() else { continue };
        let provider = &model.candidates[choice.index].provider;
        let fitting = own.iter().filter(|own| own.secret.is_some() && own.serves(provider, &model.id));
        first.extend(fitting.map(|own| Choice {
            index: choice.index,
            price: Arc::clone(price),
            own: Some(Arc::clone(own)),
        }));
    }
    choices.splice(0..0, first);
}
