//! What is told about a request when it is over: its metrics and its one line in the log.

use super::{Gateway, Runtime};
use crate::clock;
use crate::metrics::Timing;
use filters::catalogue::Model;
use filters::denied::{Code, Denied, LimitSource};
use filters::id::CallId;
use filters::key::Key;
use filters::pipeline::{Admitted, Settled};
use filters::ports::{FreeRequest, Outcome, Terminal};
use filters::route::Route;
use filters::settle::End;
use filters::time::EpochMs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Notes taken on the way.
pub(super) struct Report {
    pub(super) call: CallId,
    pub(super) started: EpochMs,
    begun: Instant,
    pub(super) route: Option<Route>,
    /// The place of the method among the route's; known of requests that cost nothing.
    pub(super) method: u8,
    pub(super) key: Option<Arc<Key>>,
    pub(super) model: Option<Arc<Model>>,
    /// Whose connection it was; known where it is logged.
    pub(super) client: Option<IpAddr>,
    pub(super) status: u16,
    pub(super) error: Option<Code>,
    /// The quota that refused.
    limit_source: Option<LimitSource>,
    /// Providers tried.
    pub(super) attempts: u8,
    /// Time spent waiting for the provider.
    pub(super) upstream: Duration,
    /// From the beginning to the first byte for the client.
    pub(super) first_byte: Option<Duration>,
    /// The candidate that answered, by its number in the catalogue, and the call's line in the books.
    pub(super) settled: Option<(usize, Settled)>,
    /// Somebody else finishes the notes and tells about the request.
    is_handed_on: bool,
}

impl Report {
    pub(super) fn new(call: CallId, started: EpochMs) -> Self {
        Self {
            call,
            started,
            begun: Instant::now(),
            route: None,
            method: 0,
            key: None,
            model: None,
            client: None,
            status: 0,
            error: None,
            limit_source: None,
            attempts: 0,
            upstream: Duration::ZERO,
            first_byte: None,
            settled: None,
            is_handed_on: false,
        }
    }

    /// The notes, for whoever goes on with the call when its connection is gone.
    pub(super) fn hand_on(&mut self) -> Self {
        let left = Self { is_handed_on: true, ..Self::new(self.call, self.started) };
        std::mem::replace(self, left)
    }

    /// Puts the call on the books as the notes have it; gives back its line.
    pub(super) fn settle(&mut self, call: Box<Admitted>, outcome: Outcome) -> &Terminal {
        let end = End {
            outcome,
            status: self.status,
            error: self.error,
            attempts: self.attempts,
            ended: clock::now(),
            first_byte_ms: self.first_byte.map_or(0, |elapsed| u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX)),
        };
        let number = call.candidate(call.progress.choice).number;
        let (_, settled) = self.settled.insert((number, call.settle(end)));
        &settled.terminal
    }

    pub(super) fn refuse(&mut self, denied: &Denied) {
        self.error = Some(denied.code());
        self.limit_source = denied.limit_source();
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Notes the first byte for the client.
    pub(super) fn mark_first_byte(&mut self) {
        self.first_byte.get_or_insert_with(|| self.begun.elapsed());
    }
}

impl Gateway {
    /// Tells metrics and log about a request that is over.
    pub(super) fn account(&self, runtime: &Runtime, report: &Report) {
        if report.is_handed_on {
            return;
        }
        let total = report.elapsed();
        match (&report.settled, &report.model, report.error) {
            (Some((candidate, settled)), ..) => {
                let timing = Timing {
                    overhead: total.saturating_sub(report.upstream),
                    upstream: report.upstream,
                    first_token: report.first_byte,
                };
                runtime
                    .series(&self.metrics, report.route.unwrap_or(Route::ChatCompletions), *candidate)
                    .record(settled, &timing);
            }
            (None, Some(model), Some(code)) => {
                let route = report.route.unwrap_or(Route::ChatCompletions);
                self.metrics.refusal_series(route, model).refused(code);
            }
            (None, None, Some(code)) => self.metrics.refused(report.route, code),
            (None, _, None) => report.route.into_iter().for_each(|route| self.metrics.answered(route, report.status)),
        }
        self.note(report);
        if runtime.log_calls {
            log_line(report, total);
        }
    }

    /// Hands over a request of a known key that cost nothing.
    fn note(&self, report: &Report) {
        let (None, Some(key), Some(route)) = (&report.settled, &report.key, report.route) else { return };
        let request = FreeRequest {
            call: report.call,
            key: key.id,
            org: key.org,
            route,
            method: report.method,
            model: report.model.as_ref().map(|model| Arc::clone(&model.id)),
            status: report.status,
            error: report.error,
            limit_source: report.limit_source,
            at: report.started,
            latency_ms: u32::try_from(report.elapsed().as_millis()).unwrap_or(u32::MAX),
        };
        if self.notes.try_send(request).is_err() {
            self.metrics.request_unnoted();
        }
    }
}

fn log_line(report: &Report, total: Duration) {
    let terminal = report.settled.as_ref().map(|(_, settled)| &settled.terminal);
    // Identifiers are ASCII already; formatting them would cost more than all the numbers do.
    let (call, key) = (report.call.to_ascii(), report.key.as_ref().map(|key| key.id.to_ascii()));
    tracing::info!(
        target: "tollgate::call",
        request_id = str::from_utf8(&call).unwrap_or_default(),
        client = report.client.map(tracing::field::display),
        route = report.route.map_or("", Route::name),
        key = key.as_ref().map(|key| str::from_utf8(key).unwrap_or_default()),
        key_name = report.key.as_ref().map(|key| &*key.name),
        model = report.model.as_ref().map(|model| &*model.id),
        provider = terminal.map(|terminal| &*terminal.provider),
        status = report.status,
        error = report.error.map(Code::name),
        outcome = terminal.map(|terminal| terminal.outcome.name()),
        estimated = terminal.map(|terminal| terminal.estimated),
        input_tokens = terminal.map(|terminal| terminal.usage.input_total()),
        output_tokens = terminal.map(|terminal| terminal.usage.output_total()),
        charge_nano_usd = terminal.map(|terminal| terminal.charge.0),
        attempts = terminal.map(|terminal| terminal.attempts),
        total_us = u64::try_from(total.as_micros()).unwrap_or(u64::MAX),
        upstream_us = u64::try_from(report.upstream.as_micros()).unwrap_or(u64::MAX),
        "call"
    );
}
