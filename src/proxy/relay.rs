//! The relay: tries the candidates of an admitted call until one answers, and settles the call on every way out.

use super::answer::{self, Break, Passage};
use super::attempt::{self, Exchange, Failure, Outgoing};
use super::health::RETRY_AFTER_MAX;
use super::providers::{Credential, Provider};
use super::report::Report;
use super::{Connection, Gateway, Runtime};
use crate::clock;
use crate::crash;
use crate::error;
use bytes::Bytes;
use filters::denied::Denied;
use filters::meter::Meter;
use filters::pipeline::{Admitted, Progress};
use filters::ports::Outcome;
use filters::settle::End;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::Instant;

/// The candidates that were tried, and how the last of them failed.
#[derive(Default)]
struct Search {
    tried: Vec<usize>,
    attempts: u8,
    last_failure: Option<Failure>,
}

/// An answer that has begun: nothing of it has left yet.
pub(super) struct Opening {
    pub(super) exchange: Box<Exchange>,
    pub(super) meter: Meter,
    /// What may leave first.
    pub(super) first: Bytes,
    /// Whether the answer is a stream of events.
    pub(super) is_stream: bool,
    /// The provider broke off before its first event.
    pub(super) broken: Option<Break>,
}

impl Gateway {
    /// Has the call answered. Failover ends with the first byte for the client.
    pub(super) async fn relay(
        &self,
        runtime: &Runtime,
        client: &mut ServerSession,
        mut call: Admitted,
        body: &Bytes,
        report: &mut Report,
    ) -> Connection {
        let mut search = Search::default();
        while let Some(choice) = runtime.next_choice(&call, &search.tried, clock::now()) {
            search.attempts = search.attempts.saturating_add(1);
            call.progress = Progress { choice, is_asked: true, ..Progress::default() };
            let is_last = search.tried.len() + 1 == call.choices().len();
            let begun = Instant::now();
            let opening = self.open(runtime, client, &mut call, body, is_last).await;
            report.upstream += begun.elapsed();
            match opening {
                Ok(opening) => {
                    let passage = Passage { gateway: self, runtime, client, call, report, attempts: search.attempts };
                    return passage.run(opening).await;
                }
                Err(Failure::ClientGone) => {
                    search.last_failure = Some(Failure::ClientGone);
                    break;
                }
                Err(failure) => {
                    let provider = runtime.provider(call.candidate(choice).number);
                    if let Some(reason) = failure.reason() {
                        provider.series.failed_over(reason);
                    }
                    search.last_failure = Some(failure);
                    // Whoever failed like this is not paid.
                    call.progress.is_asked = false;
                    // Another of our credentials may be better; each is benched once, so this ends.
                    if failure != Failure::Credential || !provider.has_credential(clock::now()) {
                        search.tried.push(choice);
                    }
                }
            }
        }
        Box::pin(self.give_up(runtime, client, call, &search, report)).await
    }

    /// Tries the candidate that the call's progress names.
    async fn open(
        &self,
        runtime: &Runtime,
        client: &mut ServerSession,
        call: &mut Admitted,
        body: &Bytes,
        is_last: bool,
    ) -> Result<Opening, Failure> {
        let candidate = call.candidate(call.progress.choice);
        let provider = Arc::clone(runtime.provider(candidate.number));
        let now = clock::now();
        let credential = provider.credential(call.intent().call.0 as u64, now).ok_or(Failure::Credential)?;
        let ask_usage = call.head().streamed && candidate.dialect.must_ask_for_usage();
        let pieces = call.head().rewrite(body, &candidate.model, ask_usage);
        let outgoing = Outgoing { route: call.intent().route, pieces: &pieces, credential: &credential.value };
        crash::point("before-dial");
        let exchange = Exchange::open(self, &provider, client, &outgoing)
            .await
            .inspect_err(|failure| rest(&provider, credential, *failure))?;
        crash::point("after-dial");
        if let Err(failure) = attempt::judge(exchange.head()) {
            rest(&provider, credential, failure);
            exchange.release(self).await;
            return Err(failure);
        }
        let opening = self.begin_answer(exchange, client, call, ask_usage).await?;
        if opening.meter.seen().error_first && !is_last {
            rest(&provider, credential, Failure::FirstEvent);
            opening.exchange.abort().await;
            return Err(Failure::FirstEvent);
        }
        Ok(opening)
    }

    /// Reads a stream up to its first event, so that a failure in it can still be healed by another candidate.
    async fn begin_answer(
        &self,
        mut exchange: Box<Exchange>,
        client: &mut ServerSession,
        call: &mut Admitted,
        asked_usage: bool,
    ) -> Result<Opening, Failure> {
        let dialect = call.candidate(call.progress.choice).dialect;
        let content_type = exchange.head().headers.get(http::header::CONTENT_TYPE);
        let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return Ok(Opening {
                exchange,
                meter: Meter::of_answer(dialect),
                first: super::EMPTY,
                is_stream,
                broken: None,
            });
        }
        let mut meter = Meter::of_events(dialect, asked_usage && !call.head().include_usage);
        let (mut first, mut broken) = (super::EMPTY, None);
        let wait = exchange.provider().settings.timeouts.first_event;
        while !meter.seen().any && first.is_empty() && !exchange.is_over() && broken.is_none() {
            let read = tokio::select! {
                biased;
                read = exchange.read(wait) => read,
                _ = client.read_body_or_idle(true) => return Err(Failure::ClientGone),
            };
            match read {
                Ok(Some(chunk)) => first = meter.feed(chunk),
                Ok(None) => first = meter.finish(),
                // The provider has begun to answer and may bill for it: no other is asked.
                Err(error) => broken = Some(Break::note(&exchange, call.intent().call, &error)),
            }
            call.progress.tally = *meter.tally();
        }
        Ok(Opening { exchange, meter, first, is_stream, broken })
    }

    /// Ends a call that nobody answered.
    async fn give_up(
        &self,
        runtime: &Runtime,
        client: &mut ServerSession,
        call: Admitted,
        search: &Search,
        report: &mut Report,
    ) -> Connection {
        let (outcome, denied) = match search.last_failure {
            Some(Failure::ClientGone) => (Outcome::ClientGone, None),
            Some(Failure::HeaderTimeout) => (Outcome::Unreached, Some(Denied::UpstreamTimeout)),
            Some(Failure::Status { .. } | Failure::Credential | Failure::FirstEvent) => {
                (Outcome::Refused, Some(Denied::UpstreamFailed))
            }
            Some(Failure::Connect | Failure::Reset) | None => (Outcome::Unreached, Some(Denied::UpstreamFailed)),
        };
        let shape = runtime.shape(call.intent().route.dialect());
        let refusal = denied.as_ref().map(|denied| error::answer(denied, shape, call.intent().call));
        report.error = denied.as_ref().map(Denied::code);
        let end = End {
            outcome,
            status: refusal.as_ref().map_or(0, |refusal| refusal.status),
            error: report.error,
            attempts: search.attempts,
            ended: clock::now(),
            first_byte_ms: 0,
        };
        let number = call.candidate(call.progress.choice).number;
        report.settled = Some((number, call.settle(end)));
        match refusal {
            Some(refusal) => answer::refusal(client, &refusal, runtime, report).await,
            None => Connection::Broken,
        }
    }
}

/// Leaves alone for a while what has just failed.
fn rest(provider: &Provider, credential: &Credential, failure: Failure) {
    let now = clock::now();
    match failure {
        Failure::Credential => {
            tracing::error!(provider = &*provider.name, "the provider refuses our credential");
            credential.benched.begin(now, provider.settings.bench);
        }
        Failure::Status { retry_after, .. } => {
            let length = retry_after.unwrap_or(provider.settings.cool_down).min(RETRY_AFTER_MAX);
            provider.cooling.begin(now, length);
        }
        Failure::Connect | Failure::Reset | Failure::HeaderTimeout | Failure::FirstEvent => {
            provider.cooling.begin(now, provider.settings.cool_down)
        }
        Failure::ClientGone => {}
    }
}
