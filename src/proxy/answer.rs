//! The answer on its way to the client: metered as it passes, and on the books before its end leaves.

mod background;
mod cut;
mod drain;
mod join;
mod refuse;

use join::join;
pub(super) use refuse::{refusal, whole_answer};

use super::answer_head::{AnswerHead, BodyLength};
use super::attempt::{Exchange, is_timeout};
use super::objects::Claimer;
use super::own::OwnAccount;
use super::receive;
use super::relay::Opening;
use super::report::Report;
use super::{Connection, Gateway, Runtime};
use crate::crash;
use crate::error;
use bytes::{Bytes, BytesMut};
use drain::Drain;
use filters::denied::{Code, Denied};
use filters::dialect::Protocol;
use filters::id::CallId;
use filters::meter::Meter;
use filters::money::NanoUsd;
use filters::pipeline::Admitted;
use filters::ports::Outcome;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that are gathered, if they are here already, before they are written.
const COALESCED_BYTES_MAX: usize = 32 * 1024;

/// How long the end of a body is waited for when all that says anything has come.
const CLOSING_TIME: Duration = Duration::from_millis(250);

/// An admitted call whose answer is being passed on.
pub(super) struct Passage<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) runtime: &'a Arc<Runtime>,
    pub(super) client: &'a mut ServerSession,
    pub(super) call: Box<Admitted>,
    /// Claims what the answer makes, before the client can have it.
    pub(super) claimer: Option<Box<Claimer>>,
    /// The organisation's own account, where the call was made with it.
    pub(super) account: Option<Arc<OwnAccount>>,
    pub(super) report: &'a mut Report,
}

/// An answer that stops before its end.
struct Unfinished {
    exchange: Box<Exchange>,
    meter: Meter,
    /// The status that the client got, 0 if none.
    status: u16,
    /// Bytes of a whole body that have left.
    relayed_bytes: u64,
}

impl Unfinished {
    /// A stream whose head has left.
    fn stream(exchange: Box<Exchange>, meter: Meter) -> Self {
        let status = exchange.head().status.as_u16();
        Self { exchange, meter, status, relayed_bytes: 0 }
    }

    /// An answer of which the client has got nothing.
    fn unseen(exchange: Box<Exchange>, meter: Meter) -> Self {
        Self { exchange, meter, status: 0, relayed_bytes: 0 }
    }
}

/// What reading on has brought.
enum Step {
    /// Bytes that may leave, perhaps none.
    Bytes(Bytes),
    /// The answer's end, and what was held back.
    End(Bytes),
    /// The provider broke off.
    UpstreamFailed(Break),
    /// The client has left.
    ClientGone,
}

/// How a provider broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    /// It fell silent.
    TimedOut,
    /// The connection ended before the answer did.
    Cut,
}

impl Break {
    /// Logs a provider's failure. Never its words: they may hold a credential or a prompt.
    pub(super) fn note(exchange: &Exchange, call: CallId, error: &pingora::Error) -> Self {
        let cause = error.etype().as_str();
        tracing::warn!(provider = &*exchange.provider().name, request_id = %call, cause, "the provider broke off");
        if is_timeout(error) { Self::TimedOut } else { Self::Cut }
    }
}

impl<'a> Passage<'a> {
    /// Passes the answer on and settles the call.
    pub(super) async fn run(self, opening: Opening) -> Connection {
        let Opening { exchange, meter, first, is_stream, broken, is_deserted, .. } = opening;
        match broken {
            _ if is_deserted => Box::pin(self.depart(Unfinished::unseen(exchange, meter))).await,
            Some(broken) => Box::pin(self.fail(exchange, meter, broken)).await,
            None if is_stream => Box::pin(self.stream(exchange, meter, first)).await,
            None => self.whole(exchange, meter).await,
        }
    }

    /// A stream of events: each leaves as it arrives, the last one when the call is settled.
    async fn stream(mut self, mut exchange: Box<Exchange>, mut meter: Meter, first: Bytes) -> Connection {
        let status = exchange.head().status.as_u16();
        let head = self.head(&exchange, BodyLength::Open);
        self.report.mark_first_byte();
        crash::point("before-first-byte");
        if self.client.write_response_header(head.finish()).await.is_err() {
            return Box::pin(self.depart(Unfinished::stream(exchange, meter))).await;
        }
        crash::point("after-first-byte");
        let mut out = first;
        let mut last_write = Instant::now();
        loop {
            self.call.progress.tally = *meter.tally();
            self.claim(&out);
            if !out.is_empty() {
                exchange.provider().series.observe_token_gap(last_write.elapsed());
                last_write = Instant::now();
            }
            let is_over = meter.seen().finished || exchange.is_over();
            if is_over {
                return self.finish(exchange, &meter, out, status).await;
            }
            if let Err(denied) = cut::grow(self.gateway, &mut self.call).await
                && meter.can_be_cut()
            {
                return Box::pin(self.cut(Unfinished::stream(exchange, meter), out, &denied)).await;
            }
            if !out.is_empty() && self.client.write_response_body(out, false).await.is_err() {
                return Box::pin(self.depart(Unfinished::stream(exchange, meter))).await;
            }
            out = match self.read_on(&mut exchange, &mut meter).await {
                Step::Bytes(bytes) | Step::End(bytes) => bytes,
                Step::UpstreamFailed(_) if meter.seen().closing => {
                    // All that says anything has come; the end of the body would say no more.
                    let out = meter.finish();
                    return self.finish(exchange, &meter, out, status).await;
                }
                Step::UpstreamFailed(_) => {
                    let unfinished = Unfinished::stream(exchange, meter);
                    return Box::pin(self.leave(unfinished, Outcome::UpstreamFailed)).await;
                }
                Step::ClientGone => return Box::pin(self.depart(Unfinished::stream(exchange, meter))).await,
            };
        }
    }

    /// A whole body: if it is small, it is read first, so that its head can say what it cost.
    async fn whole(mut self, mut exchange: Box<Exchange>, mut meter: Meter) -> Connection {
        let mut body = BytesMut::new();
        loop {
            match self.read_on(&mut exchange, &mut meter).await {
                Step::Bytes(bytes) => {
                    self.claim(&bytes);
                    body.extend_from_slice(&bytes);
                }
                Step::End(bytes) => {
                    self.claim(&bytes);
                    body.extend_from_slice(&bytes);
                    return self.small(exchange, &meter, body.freeze()).await;
                }
                Step::UpstreamFailed(broken) => return Box::pin(self.fail(exchange, meter, broken)).await,
                Step::ClientGone => return Box::pin(self.depart(Unfinished::unseen(exchange, meter))).await,
            }
            if body.len() > self.runtime.limits.answer_buffer_bytes {
                return Box::pin(self.large(exchange, meter, body.freeze())).await;
            }
        }
    }

    async fn small(self, exchange: Box<Exchange>, meter: &Meter, body: Bytes) -> Connection {
        if let Some(response) = self.unanswered(&exchange, meter) {
            return Box::pin(self.put_off(exchange, body, response)).await;
        }
        let status = exchange.head().status.as_u16();
        let mut head = self.head(&exchange, BodyLength::Bytes(body.len()));
        self.report.mark_first_byte();
        let (gateway, client, charge) = self.settle(meter, outcome_of(meter, status), status);
        gateway.until_durable().await;
        head.cost(charge);
        crash::point("before-final-event");
        let written = async {
            client.write_response_header(head.finish()).await?;
            client.write_response_body(body, true).await
        };
        let connection = connection_after(written.await);
        crash::point("after-final-event");
        exchange.release(gateway).await;
        connection
    }

    /// A large body leaves as it arrives, but for its last piece, which waits for the settlement.
    async fn large(mut self, exchange: Box<Exchange>, meter: Meter, begun: Bytes) -> Connection {
        let status = exchange.head().status.as_u16();
        let length = receive::content_length(&exchange.head().headers);
        let head = self.head(&exchange, length.map_or(BodyLength::Open, BodyLength::Bytes));
        let mut unfinished = Unfinished { exchange, meter, status, relayed_bytes: 0 };
        self.report.mark_first_byte();
        if self.client.write_response_header(head.finish()).await.is_err() {
            return Box::pin(self.depart(unfinished)).await;
        }
        let mut held = begun;
        loop {
            let step = self.read_on(&mut unfinished.exchange, &mut unfinished.meter).await;
            self.call.progress.tally.text_bytes = unfinished.relayed_bytes;
            match step {
                Step::Bytes(bytes) => {
                    self.claim(&bytes);
                    let piece = std::mem::replace(&mut held, bytes);
                    unfinished.relayed_bytes += piece.len() as u64;
                    if self.client.write_response_body(piece, false).await.is_err() {
                        return Box::pin(self.depart(unfinished)).await;
                    }
                }
                Step::End(bytes) => {
                    self.claim(&bytes);
                    let Unfinished { exchange, meter, .. } = unfinished;
                    return self.finish(exchange, &meter, join(held, bytes), status).await;
                }
                Step::UpstreamFailed(_) => return self.leave(unfinished, Outcome::UpstreamFailed).await,
                Step::ClientGone => return Box::pin(self.depart(unfinished)).await,
            }
        }
    }

    /// Reads the next bytes and whatever else has arrived with them, and watches for the client's departure meanwhile.
    async fn read_on(&mut self, exchange: &mut Exchange, meter: &mut Meter) -> Step {
        let idle = exchange.provider().settings.timeouts.idle;
        let idle = if meter.seen().closing { idle.min(CLOSING_TIME) } else { idle };
        let begun = Instant::now();
        let read = tokio::select! {
            biased;
            read = exchange.read(idle) => read,
            _ = self.client.read_body_or_idle(true) => return Step::ClientGone,
        };
        self.report.upstream += begun.elapsed();
        let mut out = match read {
            Ok(Some(chunk)) => meter.feed(chunk),
            Ok(None) => return Step::End(meter.finish()),
            Err(error) => return Step::UpstreamFailed(Break::note(exchange, self.call.intent().call, &error)),
        };
        while out.len() < COALESCED_BYTES_MAX && !meter.seen().finished {
            match exchange.read_now() {
                None => break,
                Some(Ok(Some(chunk))) => out = join(out, meter.feed(chunk)),
                Some(Ok(None)) => return Step::End(join(out, meter.finish())),
                Some(Err(error)) => {
                    return Step::UpstreamFailed(Break::note(exchange, self.call.intent().call, &error));
                }
            }
        }
        Step::Bytes(out)
    }

    /// Settles, then lets the end leave.
    async fn finish(self, exchange: Box<Exchange>, meter: &Meter, out: Bytes, status: u16) -> Connection {
        let (gateway, client, _) = self.settle(meter, outcome_of(meter, status), status);
        gateway.until_durable().await;
        crash::point("before-final-event");
        let connection = connection_after(client.write_response_body(out, true).await);
        crash::point("after-final-event");
        exchange.release(gateway).await;
        connection
    }

    /// The client has left: the answer is read on without it, or the provider is told to stop.
    async fn depart(self, unfinished: Unfinished) -> Connection {
        if self.unanswered(&unfinished.exchange, &unfinished.meter).is_some() {
            return self.leave(unfinished, Outcome::ClientGone).await;
        }
        match drain::Place::take(self.gateway, self.runtime, unfinished.exchange.provider()) {
            Some(place) => {
                tracing::debug!(request_id = %self.call.intent().call, "the client has left; its answer is read on");
                let report = self.report.hand_on();
                let runtime = Arc::clone(self.runtime);
                tokio::spawn(Drain { place, runtime, call: self.call, report, unfinished }.run());
                Connection::Broken
            }
            None => self.leave(unfinished, Outcome::ClientGone).await,
        }
    }

    /// Settles an answer that was broken off by either side. The connection is cut, so that nobody takes it for whole.
    async fn leave(self, unfinished: Unfinished, outcome: Outcome) -> Connection {
        let Unfinished { exchange, mut meter, status, relayed_bytes } = unfinished;
        if let Some(response) = self.unanswered(&exchange, &meter) {
            self.report.status = status;
            self.go_on(response);
            exchange.abort().await;
            return Connection::Broken;
        }
        if outcome == Outcome::UpstreamFailed {
            self.report.error = Some(Code::UpstreamFailed);
        }
        meter.break_off(relayed_bytes);
        self.settle(&meter, outcome, status);
        exchange.abort().await;
        Connection::Broken
    }

    /// The provider broke off before the client got a byte.
    async fn fail(self, exchange: Box<Exchange>, mut meter: Meter, broken: Break) -> Connection {
        let denied = match broken {
            Break::TimedOut => Denied::UpstreamTimeout,
            Break::Cut => Denied::UpstreamFailed,
        };
        let refused = error::answer(&denied, self.runtime.shape(self.protocol()), self.call.intent().call);
        meter.break_off(0);
        self.report.refuse(&denied);
        let Self { gateway, runtime, client, mut call, report, .. } = self;
        call.progress.tally = *meter.tally();
        report.status = refused.status;
        report.settle(call, Outcome::UpstreamFailed);
        gateway.until_durable().await;
        exchange.abort().await;
        refusal(client, &refused, runtime, report).await
    }

    /// Claims what these bytes of the answer, which are about to leave, name for the first time.
    fn claim(&mut self, bytes: &[u8]) {
        if let Some(claimer) = &mut self.claimer {
            claimer.read(self.gateway, bytes);
        }
    }

    fn protocol(&self) -> Protocol {
        self.call.intent().route.protocol()
    }

    /// The head of the answer, but for what is known only when the call is settled.
    fn head(&self, exchange: &Exchange, length: BodyLength) -> AnswerHead {
        let provider = exchange.head();
        let speaks_1_0 = self.client.req_header().version == http::Version::HTTP_10;
        let length = if speaks_1_0 && length == BodyLength::Open { BodyLength::UntilClose } else { length };
        let mut head = AnswerHead::new(provider.status.as_u16(), length);
        head.pass_on(&provider.headers);
        head.call(self.call.intent().call, self.protocol());
        head.provider(&exchange.provider().name);
        head.rates(&self.call.key().chain, Some(&self.call.model().id), self.protocol(), self.report.started);
        if let Some(tokens) = self.call.output_limit() {
            head.output_limit(tokens);
        }
        head.allow_origin(&self.client.req_header().headers, self.runtime);
        head
    }

    /// Puts the call on the books.
    fn settle(self, meter: &Meter, outcome: Outcome, status: u16) -> Settlement<'a> {
        let Passage { gateway, client, mut call, report, .. } = self;
        call.progress.tally = *meter.tally();
        report.status = status;
        let charge = report.settle(call, outcome).charge;
        (gateway, client, charge)
    }
}

/// What is left of a passage when its call is on the books, and what the call cost.
type Settlement<'a> = (&'a Gateway, &'a mut ServerSession, NanoUsd);

/// How an answer that came to its end has ended.
fn outcome_of(meter: &Meter, status: u16) -> Outcome {
    let seen = meter.seen();
    if status >= 400 || seen.error_first || meter.is_error_answer() {
        Outcome::Refused
    } else if seen.error {
        Outcome::UpstreamFailed
    } else {
        Outcome::Complete
    }
}

fn connection_after(written: pingora::Result<()>) -> Connection {
    if written.is_ok() { Connection::Reusable } else { Connection::Broken }
}
