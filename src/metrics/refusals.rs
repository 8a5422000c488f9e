//! Counts calls that no provider was asked to serve: the refused ones, and those that we answer ourselves.

use super::families::Families;
use super::requests::Requests;
use crate::error;
use filters::denied::Code;
use filters::route::Route;
use prometheus::IntCounter;
use std::sync::Arc;

/// Stands for a route or a model that does not exist, so that nobody can make series by inventing names.
const UNKNOWN: &str = "unknown";

/// The counters of every code, whatever the route.
struct Reasons {
    refusals: [IntCounter; Code::ALL.len()],
    unpriced: IntCounter,
}

/// The refused calls of one route and model.
pub struct RefusalSeries {
    requests: Requests,
    reasons: Arc<Reasons>,
}

impl RefusalSeries {
    /// Counts a refusal.
    pub fn refused(&self, code: Code) {
        self.requests.count(error::status(code), Some(code));
        self.reasons.refusals[index(code)].inc();
        if code == Code::ModelUnpriced {
            self.reasons.unpriced.inc();
        }
    }
}

/// A code's place in [`Code::ALL`]; its byte counts from one.
fn index(code: Code) -> usize {
    usize::from(code as u8) - 1
}

/// The calls of a route that came to no model of the catalogue.
struct Unresolved {
    /// Ended before the model was looked for.
    without_model: RefusalSeries,
    /// A model that the catalogue does not have.
    unknown_model: RefusalSeries,
}

/// All refusals.
pub(super) struct Refusals {
    reasons: Arc<Reasons>,
    /// By route, in the order of [`Route::ALL`].
    routes: [Unresolved; Route::ALL.len()],
    /// Paths that have none.
    no_route: Unresolved,
}

impl Refusals {
    pub(super) fn new(families: &Families) -> Self {
        let reasons = Arc::new(Reasons {
            refusals: Code::ALL.map(|code| families.refusals.with_label_values(&[code.name()])),
            unpriced: families.unpriced.clone(),
        });
        let unresolved = |route| Unresolved {
            without_model: series(families, &reasons, route, &Arc::from("")),
            unknown_model: series(families, &reasons, route, &Arc::from(UNKNOWN)),
        };
        let (routes, no_route) = (Route::ALL.map(|route| unresolved(route.name())), unresolved(UNKNOWN));
        Self { reasons, routes, no_route }
    }

    pub(super) fn series(&self, families: &Families, route: &'static str, model: &Arc<str>) -> RefusalSeries {
        series(families, &self.reasons, route, model)
    }

    /// Where a refusal counts whose model was not found.
    pub(super) fn unresolved(&self, route: Option<Route>, code: Code) -> &RefusalSeries {
        let route = route.map_or(&self.no_route, |route| self.route(route));
        if code == Code::ModelNotFound { &route.unknown_model } else { &route.without_model }
    }

    pub(super) fn answered(&self, route: Route, status: u16) {
        self.route(route).without_model.requests.count(status, None);
    }

    fn route(&self, route: Route) -> &Unresolved {
        // A route's byte counts from one.
        &self.routes[usize::from(route as u8) - 1]
    }
}

fn series(families: &Families, reasons: &Arc<Reasons>, route: &'static str, model: &Arc<str>) -> RefusalSeries {
    let no_provider = Arc::from("");
    let requests = Requests::new(&families.requests, route, &no_provider, model);
    RefusalSeries { requests, reasons: Arc::clone(reasons) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_routes_are_found_by_their_bytes() {
        assert!(Code::ALL.into_iter().enumerate().all(|(place, code)| index(code) == place));
        assert!(Route::ALL.into_iter().enumerate().all(|(place, route)| usize::from(route as u8) - 1 == place));
    }
}
