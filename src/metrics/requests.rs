//! Counts calls by how they ended, for one route, provider and model.

use crate::error::{self, ErrorType};
use filters::denied::Code;
use prometheus::{IntCounter, IntCounterVec};
use std::sync::{Arc, OnceLock};

/// The hundreds of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum StatusClass {
    /// The client left before it got one.
    None,
    Success,
    Redirect,
    ClientError,
    ServerError,
}

impl StatusClass {
    const COUNT: usize = 5;

    fn of(status: u16) -> Self {
        match status {
            200..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::ClientError,
            500..600 => Self::ServerError,
            _ => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// Who failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Nobody,
    /// We said so, with one of our codes.
    Ours(ErrorType),
    /// The provider refused, and its answer was passed on.
    Provider,
}

impl Failure {
    const COUNT: usize = ErrorType::ALL.len() + 2;

    fn of(status: u16, error: Option<Code>) -> Self {
        match error {
            Some(code) => Self::Ours(error::error_type(code)),
            None if status >= 400 => Self::Provider,
            None => Self::Nobody,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Ours(error_type) => error_type as usize,
            Self::Provider => ErrorType::ALL.len(),
            Self::Nobody => ErrorType::ALL.len() + 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ours(error_type) => error_type.name(),
            Self::Provider => "upstream_error",
            Self::Nobody => "",
        }
    }
}

/// The counters of one route, provider and model. Each is registered when it is first needed: most never are.
pub(super) struct Requests {
    family: IntCounterVec,
    route: &'static str,
    provider: Arc<str>,
    model: Arc<str>,
    counters: [[OnceLock<IntCounter>; Failure::COUNT]; StatusClass::COUNT],
}

impl Requests {
    pub(super) fn new(family: &IntCounterVec, route: &'static str, provider: &Arc<str>, model: &Arc<str>) -> Self {
        Self {
            family: family.clone(),
            route,
            provider: Arc::clone(provider),
            model: Arc::clone(model),
            counters: Default::default(),
        }
    }

    /// Counts a call that ended with this status, 0 if the client got none, and with this error.
    pub(super) fn count(&self, status: u16, error: Option<Code>) {
        let (class, failure) = (StatusClass::of(status), Failure::of(status, error));
        let counter = self.counters[class as usize][failure.index()].get_or_init(|| {
            let labels = [self.route, &self.provider, &self.model, class.name(), failure.name()];
            self.family.with_label_values(&labels)
        });
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_has_a_counter_of_its_own() {
        let statuses = [0, 200, 301, 404, 500];
        assert_eq!(statuses.map(|status| StatusClass::of(status) as usize), [0, 1, 2, 3, 4]);
        let failures = ErrorType::ALL.into_iter().map(Failure::Ours).chain([Failure::Provider, Failure::Nobody]);
        let indices: Vec<_> = failures.map(Failure::index).collect();
        assert_eq!(indices, (0..Failure::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn a_status_without_a_code_of_ours_is_the_providers() {
        for (status, error, name) in [
            (200, None, ""),
            (0, None, ""),
            (429, None, "upstream_error"),
            (429, Some(Code::RateLimitExceeded), "rate_limit_error"),
            (200, Some(Code::UpstreamFailed), "api_error"),
        ] {
            assert_eq!(Failure::of(status, error).name(), name, "{status}");
        }
    }
}
