//! The relay: tries the candidates of an admitted call until one answers, and settles the call on every way out.

use super::answer::{self, Break, Passage};
use super::attempt::{self, Exchange, Failure, Outgoing};
use super::health::RETRY_AFTER_MAX;
use super::objects::Claimer;
use super::own::{self, OwnAccount};
use super::providers::{Credential, Provider};
use super::report::Report;
use super::{Connection, Gateway, Runtime};
use crate::clock;
use crate::crash;
use crate::error;
use bytes::Bytes;
use filters::denied::Denied;
use filters::dialect::Dialect;
use filters::dialect::bedrock_invoke::{INPUT_TOKENS_HEADER, OUTPUT_TOKENS_HEADER};
use filters::meter::Meter;
use filters::pipeline::{Admitted, Progress};
use filters::ports::{FailedAttempt, Outcome};
use filters::request_head::Rewrite;
use filters::usage::Usage;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The candidates that were tried, and how each of them failed at last.
#[derive(Default)]
struct Search {
    tried: Vec<usize>,
    failures: Vec<Attempt>,
}

/// An attempt that came to nothing.
struct Attempt {
    choice: usize,
    provider: Arc<Provider>,
    /// Whether it was made with the organisation's own credential.
    is_own: bool,
    failure: Failure,
}

impl Search {
    fn note(&mut self, attempt: Attempt) {
        self.failures.retain(|earlier| earlier.choice != attempt.choice);
        self.failures.push(attempt);
    }

    /// What the client is told: that it is too fast, if that is what every provider said, else how the last one failed.
    fn denied(&self) -> Denied {
        let waits = self.failures.iter().map(|attempt| match attempt.failure {
            Failure::Status { status: 429, retry_after } => {
                Some(retry_after.unwrap_or(attempt.provider.settings.cool_down))
            }
            _ => None,
        });
        // The first provider that can be asked again is enough. One that was not slowed down makes this none.
        let wait = waits.reduce(|first, second| Some(first?.min(second?))).flatten();
        match (wait, self.failures.last()) {
            (Some(wait), _) => Denied::ProviderRateLimited { retry_after_ms: milliseconds(wait) },
            (None, Some(Attempt { is_own: true, failure: Failure::Credential { .. }, .. })) => {
                Denied::OwnCredentialUnusable
            }
            (None, Some(last)) => last.failure.denied(),
            (None, None) => Denied::UpstreamFailed,
        }
    }

    fn outcome(&self) -> Outcome {
        let is_refusal = self.failures.last().is_some_and(|last| last.failure.is_refusal());
        if is_refusal { Outcome::Refused } else { Outcome::Unreached }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
    /// The client left before that; the exchange may not have a head yet.
    pub(super) is_deserted: bool,
    /// Which of the provider's credentials was used.
    pub(super) credential: u16,
    /// The organisation's own account, where it was that one's.
    pub(super) account: Option<Arc<OwnAccount>>,
}

impl Opening {
    fn new(exchange: Box<Exchange>, (meter, is_stream): (Meter, bool)) -> Self {
        Self {
            exchange,
            meter,
            first: super::EMPTY,
            is_stream,
            broken: None,
            is_deserted: false,
            credential: 0,
            account: None,
        }
    }
}

impl Gateway {
    /// Has the call answered. Failover ends with the first byte for the client.
    pub(super) async fn relay(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        client: &mut ServerSession,
        mut call: Box<Admitted>,
        body: &Bytes,
        report: &mut Report,
    ) -> Connection {
        let mut search = Search::default();
        while let Some(choice) = runtime.next_choice(&call, &search.tried, &self.own, clock::now()) {
            report.attempts = report.attempts.saturating_add(1);
            call.progress = Progress { choice, is_asked: true, ..Progress::default() };
            let is_last = search.tried.len() + 1 == call.choices().len();
            let begun = Instant::now();
            let opening = self.open(runtime, client, &mut call, body, is_last).await;
            report.upstream += begun.elapsed();
            match opening {
                Ok(mut opening) => {
                    let claimer = Claimer::of_call(&call, &opening).map(Box::new);
                    let account = opening.account.take();
                    let passage = Passage { gateway: self, runtime, client, call, claimer, account, report };
                    return passage.run(opening).await;
                }
                Err(failure) => {
                    let provider = Arc::clone(runtime.provider(call.candidate(choice).number));
                    provider.series.failed_over(failure.reason());
                    // Whoever failed like this is not paid.
                    call.progress.is_asked = false;
                    // Another of our credentials may be better, unless the call is bound to one; each is benched once, so this ends.
                    let is_own = call.choices()[choice].own.is_some();
                    let may_differ =
                        !is_own && call.pinned_credential().is_none() && provider.has_credential(clock::now());
                    if !matches!(failure, Failure::Credential { .. }) || !may_differ {
                        search.tried.push(choice);
                    }
                    let attempt = Attempt { choice, provider, is_own, failure };
                    note_attempt(&mut call, report.attempts, &attempt);
                    search.note(attempt);
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
        let configured = runtime.provider(candidate.number);
        let own = call.choices()[call.progress.choice].own.as_deref();
        let account = self.own.of(own, configured, &self.metrics).await?;
        let provider = Arc::clone(own::provider_of(&account, configured));
        let (now, number) = (clock::now(), call.intent().call.0 as u64);
        let ours = || provider.pinned_credential(call.pinned_credential(), number, now);
        let credential = own::credential_of(&account, ours)?;
        let ask_usage =
            call.head().streamed && call.intent().route.dialect().must_ask_for_usage() && provider.settings.adds_usage;
        let rewrite = Rewrite {
            model: &candidate.model,
            ask_usage,
            output_limit: call.output_limit(),
            output_limit_field: &call.model().output_limit_field,
        };
        let pieces = call.head().rewrite(body, &rewrite);
        let path = call.target().path(&candidate.model);
        let outgoing = Outgoing {
            protocol: call.target().route.protocol(),
            method: &Method::POST,
            path: &path,
            pieces: &pieces,
            credential: &credential.means,
            model: &candidate.model,
            at: now,
        };
        crash::point("before-dial");
        let exchange = Exchange::open(self, &provider, client, &outgoing)
            .await
            .inspect_err(|failure| rest(&provider, credential, *failure))?;
        crash::point("after-dial");
        if !exchange.has_head() {
            let meter = Meter::of_answer(call.intent().route.dialect());
            return Ok(Opening { is_deserted: true, ..Opening::new(exchange, (meter, false)) });
        }
        if let Err(failure) = attempt::judge(exchange.head()) {
            rest(&provider, credential, failure);
            exchange.release(self).await;
            return Err(failure);
        }
        credential.own.iter().for_each(|own| own.note_use(now));
        let mut opening = self.begin_answer(exchange, client, call, ask_usage).await;
        opening.credential = credential.place;
        if opening.meter.seen().error_first && !is_last {
            rest(&provider, credential, Failure::FirstEvent);
            opening.exchange.abort().await;
            return Err(Failure::FirstEvent);
        }
        opening.account = account;
        Ok(opening)
    }

    /// Reads a stream up to its first event, so that a failure in it can still be healed by another candidate.
    async fn begin_answer(
        &self,
        exchange: Box<Exchange>,
        client: &mut ServerSession,
        call: &mut Admitted,
        asked_usage: bool,
    ) -> Opening {
        let dialect = call.intent().route.dialect();
        let withhold_usage = asked_usage && !call.head().include_usage;
        let (meter, is_stream) = meter_of(&exchange, dialect, call.head().streamed, withhold_usage);
        let mut opening = Opening::new(exchange, (meter, is_stream));
        if !is_stream {
            return opening;
        }
        let Opening { exchange, meter, first, broken, is_deserted, .. } = &mut opening;
        let wait = exchange.provider().settings.timeouts.first_event;
        while !meter.seen().any && first.is_empty() && !exchange.is_over() && broken.is_none() {
            let read = tokio::select! {
                biased;
                read = exchange.read(wait) => read,
                _ = client.read_body_or_idle(true) => {
                    *is_deserted = true;
                    break;
                }
            };
            match read {
                Ok(Some(chunk)) => *first = meter.feed(chunk),
                Ok(None) => *first = meter.finish(),
                // The provider has begun to answer and may bill for it: no other is asked.
                Err(error) => *broken = Some(Break::note(exchange, call.intent().call, &error)),
            }
            call.progress.tally = *meter.tally();
        }
        opening
    }

    /// Ends a call that nobody answered.
    async fn give_up(
        &self,
        runtime: &Runtime,
        client: &mut ServerSession,
        call: Box<Admitted>,
        search: &Search,
        report: &mut Report,
    ) -> Connection {
        let denied = search.denied();
        let refusal = error::answer(&denied, runtime.shape(call.intent().route.protocol()), call.intent().call);
        report.refuse(&denied);
        report.status = refusal.status;
        report.settle(call, search.outcome());
        answer::refusal(client, &refusal, runtime, report).await
    }
}

/// Notes the attempt of this number, counted from 1, which came to nothing.
fn note_attempt(call: &mut Admitted, number: u8, attempt: &Attempt) {
    let Attempt { provider, failure, .. } = attempt;
    let (id, code, status) = (call.intent().call, failure.denied().code(), failure.status());
    tracing::debug!(request_id = %id, number, provider = &*provider.name, status, code = code.name(), "an attempt has failed");
    let (provider, at) = (Arc::clone(&provider.name), clock::now());
    call.note_attempt(FailedAttempt { call: id, number, provider, status, error: Some(code), at });
}

/// The meter that an answer needs, and whether it is a stream of events.
pub(super) fn meter_of(exchange: &Exchange, dialect: Dialect, streamed: bool, withhold_usage: bool) -> (Meter, bool) {
    let headers = &exchange.head().headers;
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let mut meter = Meter::of(dialect, content_type, streamed, withhold_usage);
    if dialect == Dialect::BedrockInvoke {
        let count = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
        if let Some(input) = count(INPUT_TOKENS_HEADER) {
            // Vectors have no output.
            meter.tell(Usage::of(input, count(OUTPUT_TOKENS_HEADER).unwrap_or(0)));
        }
    }
    let is_stream = meter.is_stream();
    (meter, is_stream)
}

/// Leaves alone for a while what has just failed.
pub(super) fn rest(provider: &Provider, credential: &Credential, failure: Failure) {
    let now = clock::now();
    // What an organisation's account does must not keep others from the provider.
    let cooling = credential.own.as_ref().map_or(&provider.cooling, |own| &own.cooling);
    match failure {
        Failure::Credential { status } => {
            match &credential.own {
                Some(own) => {
                    tracing::warn!(provider = &*provider.name, credential = %own.id, status, "the provider refuses an organisation's credential");
                    own.note_benched(status, now.plus(milliseconds(provider.settings.bench) as i64), now);
                }
                None => tracing::error!(provider = &*provider.name, "the provider refuses our credential"),
            }
            credential.benched.begin(now, provider.settings.bench);
        }
        Failure::Status { retry_after, .. } => {
            let length = retry_after.unwrap_or(provider.settings.cool_down).min(RETRY_AFTER_MAX);
            cooling.begin(now, length);
        }
        Failure::Connect | Failure::Reset | Failure::HeaderTimeout | Failure::FirstEvent => {
            cooling.begin(now, provider.settings.cool_down)
        }
    }
}
