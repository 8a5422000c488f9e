//! Calls at once: places are leased like money, and every call gives its place back.

use super::spend::{Held, Spend};
use crate::denied::{Denied, LimitSource};
use crate::id::QuotaId;
use crate::key::Glob;
use crate::lease::Terms;
use crate::money::NanoUsd;
use crate::time::EpochMs;
use crate::window::Window;
use std::sync::Arc;

/// What a call takes.
pub(super) const PLACE: NanoUsd = NanoUsd(1);

/// Calls at once.
#[derive(Debug)]
pub struct Concurrency {
    /// What it is called in refusals.
    pub source: LimitSource,
    /// The models that it is about; none: all.
    pub model: Option<Glob>,
    /// Its places, one for each call: a quota of which nothing is ever charged.
    places: Arc<Spend>,
}

impl Concurrency {
    /// Nobody is running yet. The limit of the terms is a number of calls.
    #[must_use]
    pub fn new(id: QuotaId, source: LimitSource, terms: Terms) -> Self {
        let nothing = (NanoUsd::ZERO, EpochMs(0));
        Self { source, model: None, places: Arc::new(Spend::new(id, source, Window::Total, terms, nothing)) }
    }

    /// The same limit, for some models only.
    #[must_use]
    pub fn of_models(self, model: Option<Glob>) -> Self {
        Self { model, ..self }
    }

    /// Its places: leased from the authority as credit is.
    #[must_use]
    pub fn places(&self) -> &Arc<Spend> {
        &self.places
    }

    /// Puts another limit in force; running calls go on.
    pub fn set_terms(&self, terms: Terms) {
        self.places.set_terms(terms);
    }

    /// The limit in force, over all nodes.
    #[must_use]
    pub fn limit(&self, now: EpochMs) -> i64 {
        self.places.limit(now).0
    }

    /// Calls in progress at this node.
    #[must_use]
    pub fn running(&self) -> i64 {
        self.places.reserved().0
    }

    pub(super) fn take(&self, now: EpochMs) -> Result<Held, Denied> {
        let refused = || Denied::ConcurrencyExceeded { quota: self.source, limit: self.limit(now) };
        self.places.take(PLACE, now).ok_or_else(refused)
    }
}
