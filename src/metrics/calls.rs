//! Counts calls that a provider was asked to serve.

use super::families::Families;
use super::providers::ProviderSeries;
use super::requests::Requests;
use filters::pipeline::Settled;
use filters::route::Route;
use filters::usage::{Kind, Usage};
use prometheus::{Histogram, IntCounter, IntCounterVec};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where a call's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// What Tollgate added: all time that was neither the provider's nor the client's.
    pub overhead: Duration,
    /// From the first byte sent to the provider to its last, all attempts.
    pub upstream: Duration,
    /// From the call's arrival to the first token for the client; none if there was none.
    pub first_token: Option<Duration>,
}

/// The counters of one route, provider and model.
pub struct CallSeries {
    requests: Requests,
    used: Used,
    spend: IntCounter,
    overhead: Histogram,
    provider: Arc<ProviderSeries>,
}

impl CallSeries {
    pub(super) fn new(families: &Families, route: Route, provider: &Arc<ProviderSeries>, model: &Arc<str>) -> Self {
        Self {
            requests: Requests::new(&families.requests, route.name(), provider.name(), model),
            used: Used::new(families, provider.name(), model),
            spend: families.spend.with_label_values(&[&**provider.name(), &**model]),
            overhead: families.overhead.clone(),
            provider: Arc::clone(provider),
        }
    }

    /// Counts a call that is on the books.
    pub fn record(&self, settled: &Settled, timing: &Timing) {
        let terminal = &settled.terminal;
        self.requests.count(terminal.status, terminal.error);
        self.used.count(&terminal.usage);
        // A charge is never below zero, and a counter can't fall.
        self.spend.inc_by(terminal.charge.at_least_zero().0.unsigned_abs());
        self.overhead.observe(timing.overhead.as_secs_f64());
        self.provider.record(settled, timing);
    }

    /// The provider's own series.
    #[must_use]
    pub fn provider(&self) -> &Arc<ProviderSeries> {
        &self.provider
    }
}

/// What was used by kind, for one provider and model: tokens in one family, what is none in another, so that a sum over
/// kinds means something. Each counter is registered when the first of its kind is used.
struct Used {
    tokens: IntCounterVec,
    units: IntCounterVec,
    provider: Arc<str>,
    model: Arc<str>,
    counters: [OnceLock<IntCounter>; Kind::ALL.len()],
}

impl Used {
    fn new(families: &Families, provider: &Arc<str>, model: &Arc<str>) -> Self {
        Self {
            tokens: families.tokens.clone(),
            units: families.units.clone(),
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            counters: Default::default(),
        }
    }

    fn count(&self, usage: &Usage) {
        for kind in Kind::ALL {
            let count = usage.get(kind);
            if count > 0 {
                self.counter(kind).inc_by(count);
            }
        }
    }

    fn counter(&self, kind: Kind) -> &IntCounter {
        let family = if kind.is_token() { &self.tokens } else { &self.units };
        self.counters[kind as usize]
            .get_or_init(|| family.with_label_values(&[&*self.provider, &*self.model, kind.name()]))
    }
}
