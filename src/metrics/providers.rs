//! How providers fare: their times, their failures, and what they leave us to guess.

use super::calls::Timing;
use super::families::Families;
use filters::pipeline::Settled;
use filters::ports::Outcome;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::sync::Arc;
use std::time::Duration;

/// Why an attempt moved on to the next candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Failover {
    /// No connection: refused, unreachable, no name, no TLS.
    Connect,
    /// The connection broke before an answer began.
    Reset,
    /// No header or no first event in time.
    Timeout,
    /// An answer of 429, 5xx or 529.
    Status,
    /// The first event was an error.
    ErrorEvent,
    /// It refuses our credential.
    Credential,
}

impl Failover {
    const ALL: [Self; 6] =
        [Self::Connect, Self::Reset, Self::Timeout, Self::Status, Self::ErrorEvent, Self::Credential];

    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::ErrorEvent => "error_event",
            Self::Credential => "credential",
        }
    }
}

/// Why a call was charged by estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Estimate {
    NoUsage,
    ClientGone,
    UpstreamFailed,
    Abandoned,
    Cut,
}

impl Estimate {
    const ALL: [Self; 5] = [Self::NoUsage, Self::ClientGone, Self::UpstreamFailed, Self::Abandoned, Self::Cut];

    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete | Outcome::Refused | Outcome::Unreached => Self::NoUsage,
            Outcome::ClientGone => Self::ClientGone,
            Outcome::UpstreamFailed => Self::UpstreamFailed,
            Outcome::Recovered | Outcome::Abandoned => Self::Abandoned,
            Outcome::Cut => Self::Cut,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::NoUsage => "no_usage",
            Self::ClientGone => "client_gone",
            Self::UpstreamFailed => "upstream_failed",
            Self::Abandoned => "abandoned",
            Self::Cut => "cut",
        }
    }
}

/// The series of one provider. Its counters exist from the start, so that `increase()` sees the first event of each.
pub struct ProviderSeries {
    name: Arc<str>,
    upstream: Histogram,
    first_token: Histogram,
    token_gap: Histogram,
    failovers: [IntCounter; Failover::ALL.len()],
    estimated: [IntCounter; Estimate::ALL.len()],
    bound_exceeded: IntCounter,
    cooling: IntGauge,
    benched: IntGaugeVec,
}

impl ProviderSeries {
    pub(super) fn new(families: &Families, provider: &str) -> Self {
        let by_reason = |family: &IntCounterVec, reason| family.with_label_values(&[provider, reason]);
        Self {
            name: Arc::from(provider),
            upstream: families.upstream.with_label_values(&[provider]),
            first_token: families.first_token.with_label_values(&[provider]),
            token_gap: families.token_gap.with_label_values(&[provider]),
            failovers: Failover::ALL.map(|reason| by_reason(&families.failovers, reason.name())),
            estimated: Estimate::ALL.map(|reason| by_reason(&families.estimated, reason.name())),
            bound_exceeded: families.bound_exceeded.with_label_values(&[provider]),
            cooling: families.cooling.with_label_values(&[provider]),
            benched: families.benched.clone(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn record(&self, settled: &Settled, timing: &Timing) {
        self.upstream.observe(timing.upstream.as_secs_f64());
        if let Some(first_token) = timing.first_token {
            self.first_token.observe(first_token.as_secs_f64());
        }
        if settled.terminal.estimated {
            self.estimated[Estimate::of(settled.terminal.outcome) as usize].inc();
        }
        if settled.bound_exceeded {
            self.bound_exceeded.inc();
        }
    }

    /// Notes the time between two chunks that carry tokens.
    pub fn observe_token_gap(&self, gap: Duration) {
        self.token_gap.observe(gap.as_secs_f64());
    }

    /// Counts an attempt that moved on to the next candidate.
    pub fn failed_over(&self, reason: Failover) {
        self.failovers[reason as usize].inc();
    }

    /// Notes whether the provider is left alone for a while.
    pub fn set_cooling(&self, is_cooling: bool) {
        self.cooling.set(i64::from(is_cooling));
    }

    /// Notes whether the provider refuses our credential of that number, counted from 0 as configured.
    pub fn set_credential_benched(&self, credential: usize, is_benched: bool) {
        let gauge = self.benched.with_label_values(&[&*self.name, &credential.to_string()]);
        gauge.set(i64::from(is_benched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_their_order() {
        assert!(Failover::ALL.into_iter().enumerate().all(|(index, reason)| reason as usize == index));
        assert!(Estimate::ALL.into_iter().enumerate().all(|(index, reason)| reason as usize == index));
    }
}
