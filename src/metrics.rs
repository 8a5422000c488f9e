//! Every series that Prometheus sees. The dashboard and the alerts are written over exactly these; a test compares them.
//!
//! Nothing is looked up per call. Whoever serves calls asks once for the handles that it needs, [`ProviderSeries`],
//! [`CallSeries`] and [`RefusalSeries`], and keeps them beside what they belong to; counting is then a few atomic
//! additions. Handles of the same labels count into the same series, so those of a reloaded catalogue go on where the
//! old ones stopped. Label sets are closed: routes, codes and reasons are enums, models come from the catalogue and
//! providers from the configuration.
//!
//! `families` names the series · `calls` counts what was served · `refusals` what was not · `requests` both, by how they
//! ended · `providers` how providers fare · `snapshot` takes over the figures of other parts at each scrape.

mod calls;
mod families;
mod providers;
mod refusals;
mod requests;
mod snapshot;

pub use calls::{CallSeries, Timing};
pub use providers::{Failover, ProviderSeries};
pub use refusals::RefusalSeries;
pub use snapshot::{KeyLookups, REDIS_PURPOSES, RedisUse, Snapshot, THRESHOLDS, Unnoted, WebhookUse};

use families::Families;
use filters::catalogue::Model;
use filters::denied::Code;
use filters::route::Route;
use prometheus::{IntGauge, TextEncoder};
use refusals::Refusals;
use snapshot::Snapshots;
use std::sync::Arc;

/// All series of this process.
pub struct Metrics {
    families: Families,
    refusals: Refusals,
    snapshots: Snapshots,
}

impl Default for Metrics {
    fn default() -> Self {
        let families = Families::new();
        Self { refusals: Refusals::new(&families), snapshots: Snapshots::new(&families), families }
    }
}

impl Metrics {
    /// The series of a provider of the configuration.
    #[must_use]
    pub fn provider_series(&self, provider: &str) -> Arc<ProviderSeries> {
        Arc::new(ProviderSeries::new(&self.families, provider))
    }

    /// The series of calls on a route that a provider serves with a model. Ask once and keep it.
    #[must_use]
    pub fn call_series(&self, route: Route, provider: &Arc<ProviderSeries>, model: &Model) -> Arc<CallSeries> {
        Arc::new(CallSeries::new(&self.families, route, provider, &model.id))
    }

    /// The series of calls that are refused once their model is known. Ask once and keep it.
    #[must_use]
    pub fn refusal_series(&self, route: Route, model: &Model) -> Arc<RefusalSeries> {
        Arc::new(self.refusals.series(&self.families, route.name(), &model.id))
    }

    /// Counts a refusal before a model of the catalogue was found; no route where the path has none.
    pub fn refused(&self, route: Option<Route>, code: Code) {
        self.refusals.unresolved(route, code).refused(code);
    }

    /// Counts a call that was answered without a provider: the key's own limits, the list of models.
    pub fn answered(&self, route: Route, status: u16) {
        self.refusals.answered(route, status);
    }

    /// Counts a call as in flight until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlight {
        self.families.in_flight.inc();
        InFlight(self.families.in_flight.clone())
    }

    /// Counts a free or refused request that could not be handed over to be noted, because too many wait.
    pub fn request_unnoted(&self) {
        self.families.unnoted_full.inc();
    }

    /// Counts an attempt to take over a changed configuration.
    pub fn config_reloaded(&self, is_ok: bool) {
        let result = if is_ok { &self.families.reloads_ok } else { &self.families.reloads_failed };
        result.inc();
    }

    /// The text that Prometheus scrapes.
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        self.snapshots.take_over(snapshot);
        let gathered = self.families.registry.gather();
        TextEncoder::new().encode_to_string(&gathered).expect("gathered families have names and series")
    }
}

/// A call in flight.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
