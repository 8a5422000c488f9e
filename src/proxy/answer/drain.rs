//! An answer whose client has left, read on for the sake of the provider's figures: in a task of its own, within the
//! provider's caps, with the call's reservation kept.

use super::cut::grow;
use super::{Break, Unfinished, outcome_of};
use crate::config::OnDisconnect;
use crate::metrics::InFlight;
use crate::proxy::attempt::judge;
use crate::proxy::providers::Provider;
use crate::proxy::relay::meter_of;
use crate::proxy::report::Report;
use crate::proxy::{Gateway, Runtime};
use filters::pipeline::Admitted;
use filters::ports::Outcome;
use pingora::time::timeout;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// An answer that is read on.
pub(super) struct Drain {
    pub(super) place: Place,
    pub(super) runtime: Arc<Runtime>,
    pub(super) call: Box<Admitted>,
    pub(super) report: Report,
    pub(super) unfinished: Unfinished,
}

impl Drain {
    /// Reads the answer to its end, or until a cap is reached, and settles the call.
    pub(super) async fn run(mut self) {
        let begun = Instant::now();
        let ended = timeout(self.place.time_max, self.read_on()).await;
        self.report.upstream += begun.elapsed();
        let Self { place, runtime, mut call, mut report, unfinished } = self;
        let Unfinished { exchange, mut meter, status, relayed_bytes } = unfinished;
        let ended = ended.ok().flatten();
        if ended.is_none() {
            meter.break_off(relayed_bytes);
        }
        call.progress.tally = *meter.tally();
        report.status = status;
        report.settle(call, ended.unwrap_or(Outcome::ClientGone));
        place.gateway.account(&runtime, &report);
        match ended {
            Some(_) => exchange.release(&place.gateway).await,
            None => exchange.abort().await,
        }
    }

    /// How the call ends if the answer does; nothing if it breaks off, or needs more than can be set aside.
    async fn read_on(&mut self) -> Option<Outcome> {
        let Unfinished { exchange, meter, .. } = &mut self.unfinished;
        if !exchange.has_head() {
            exchange.await_head().await.ok()?;
            let dialect = self.call.intent().route.dialect();
            (*meter, _) = meter_of(exchange, dialect, self.call.head().streamed, false);
        }
        if judge(exchange.head()).is_err() {
            return Some(Outcome::Refused);
        }
        let idle = exchange.provider().settings.timeouts.idle;
        let mut bytes_left = self.place.bytes_max;
        while !meter.seen().finished && !exchange.is_over() {
            match exchange.read(idle).await {
                Ok(Some(bytes)) => {
                    bytes_left = bytes_left.checked_sub(bytes.len() as u64)?;
                    meter.feed(bytes);
                }
                Ok(None) => _ = meter.finish(),
                Err(_) if meter.seen().closing => {
                    meter.finish();
                    break;
                }
                Err(error) => {
                    Break::note(exchange, self.call.intent().call, &error);
                    return None;
                }
            }
            self.call.progress.tally = *meter.tally();
            grow(&self.place.gateway, &mut self.call).await.ok()?;
        }
        match outcome_of(meter, exchange.head().status.as_u16()) {
            Outcome::Refused => Some(Outcome::Refused),
            _ => Some(Outcome::ClientGone),
        }
    }
}

/// Leave to read an answer on: it counts as a request in progress until this is dropped.
pub(super) struct Place {
    gateway: Arc<Gateway>,
    time_max: Duration,
    bytes_max: u64,
    _in_flight: InFlight,
}

impl Place {
    /// A place, if the provider's answers are to be read on and not too many are already.
    pub(super) fn take(gateway: &Arc<Gateway>, runtime: &Runtime, provider: &Provider) -> Option<Self> {
        let OnDisconnect::Drain { time_max, bytes_max } = provider.settings.on_disconnect else { return None };
        let one_more = |drains| (drains < runtime.limits.drains_max).then_some(drains + 1);
        gateway.activity.drains.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        gateway.activity.requests.fetch_add(1, Ordering::AcqRel);
        Some(Self { gateway: Arc::clone(gateway), time_max, bytes_max, _in_flight: gateway.metrics.enter() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateway.activity.drains.fetch_sub(1, Ordering::AcqRel);
        self.gateway.activity.requests.fetch_sub(1, Ordering::AcqRel);
    }
}
