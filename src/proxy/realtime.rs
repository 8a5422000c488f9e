//! Realtime sessions: a WebSocket between a client and a provider, over which a model answers again and again.
//!
//! Each answer is a call of its own. The next one is admitted before it can begin, and each is on the books before its end
//! leaves; so a session outspends no limit, and ends when its key may no longer be used.

use super::answer_head::{AnswerHead, BodyLength};
use super::attempt::{Failure, Outgoing, judge, within};
use super::own;
use super::providers::Provider;
use super::relay::rest;
use super::report::Report;
use super::{Connection, Gateway, Runtime, client_address};
use crate::clock;
use bytes::Bytes;
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::dialect::openai_realtime::{self, Event};
use filters::own::OwnCredential;
use filters::pipeline::{Admitted, Progress, Received};
use filters::ports::Outcome;
use filters::request_head::RequestHead;
use filters::route::Target;
use filters::websocket::{FrameScanner, Message, close_frame};
use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use pingora::http::RequestHeader;
use pingora::protocols::ALPN;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use std::sync::Arc;

/// Close codes (RFC 6455, "Defined Status Codes").
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;

/// What is asked for by a request that wants to become a session.
pub(super) fn head(request: &RequestHeader) -> Result<RequestHead, Denied> {
    let is_websocket =
        request.headers.get(UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Err(Denied::InvalidRequest("This path takes WebSocket connections over HTTP/1.1 only.".to_owned()));
    }
    let query = request.uri.query().unwrap_or_default();
    let model = query.split('&').find_map(|pair| pair.strip_prefix("model=")).filter(|model| !model.is_empty());
    let model = model.ok_or_else(|| Denied::InvalidRequest("The query has no `model`. Name one.".to_owned()))?;
    Ok(RequestHead::of_session(model))
}

/// The candidate of a session, by its number, and the place of the organisation's own credential, where it is that one's.
type Served = (usize, Option<u16>);

/// A session in the making or under way.
pub(super) struct Session<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) runtime: &'a Arc<Runtime>,
    pub(super) client: &'a mut ServerSession,
    pub(super) target: Target,
    pub(super) head: Box<RequestHead>,
    /// Notes of the answer that runs or comes next.
    pub(super) report: &'a mut Report,
}

impl Session<'_> {
    /// Finds a provider for a session whose first answer is admitted, and stands between the two until one of them leaves.
    pub(super) async fn run(mut self, mut call: Box<Admitted>) -> Result<Connection, Denied> {
        let mut tried = Vec::new();
        while let Some(choice) = self.runtime.next_choice(&call, &tried, &self.gateway.own, clock::now()) {
            self.report.attempts = self.report.attempts.saturating_add(1);
            let candidate = call.candidate(choice);
            let (number, model) = (candidate.number, Arc::clone(&candidate.model));
            let provider = Arc::clone(self.runtime.provider(number));
            let own = call.choices()[choice].own.clone();
            match self.dial(&provider, &model, (&call, own.as_deref())).await {
                Ok(upstream) => {
                    call.progress = Progress { choice, is_asked: false, ..Progress::default() };
                    let place = own.map(|own| own.place);
                    return Ok(self.begin(upstream, call, (number, place)).await);
                }
                Err(failure) => {
                    provider.series.failed_over(failure.reason());
                    tried.push(choice);
                }
            }
        }
        self.report.settle(call, Outcome::Unreached);
        Err(Denied::UpstreamFailed)
    }

    /// Asks a provider to make its end of the session.
    async fn dial(
        &mut self,
        configured: &Arc<Provider>,
        model: &str,
        (call, own): (&Admitted, Option<&OwnCredential>),
    ) -> Result<Http1Session, Failure> {
        let number = call.intent().call.0 as u64;
        let account = self.gateway.own.of(own, configured, &self.gateway.metrics).await?;
        let provider = own::provider_of(&account, configured);
        let credential = own::credential_of(&account, || provider.credential(number, clock::now()))?;
        let path = self.target.path("");
        let outgoing = Outgoing {
            protocol: Protocol::Openai,
            method: &Method::GET,
            path: &path,
            pieces: &[],
            credential: &credential.means,
            model,
            at: clock::now(),
        };
        let request = provider.header_sets.request(self.client.req_header(), &outgoing, Some(0), false);
        let mut request = request.ok_or(Failure::Connect)?;
        let target = renamed(&request.uri, model).ok_or(Failure::Connect)?;
        request.set_uri(target);
        request.remove_header(&CONTENT_LENGTH);
        // Compressed frames could not be read. A subprotocol may hold the client's key.
        request.remove_header(&SEC_WEBSOCKET_EXTENSIONS);
        hide_key(&mut request);
        let upgrades = [(CONNECTION, "Upgrade"), (UPGRADE, "websocket")];
        upgrades
            .into_iter()
            .try_for_each(|(name, value)| request.insert_header(name, value))
            .map_err(|_| Failure::Connect)?;

        let mut peer = (*provider.peer().ok_or(Failure::Connect)?).clone();
        peer.options.alpn = ALPN::H1;
        let stream = provider.dialer(&self.gateway.dialer).transport.new_stream(&peer).await;
        let mut upstream = Http1Session::new_with_options(stream.map_err(|_| Failure::Connect)?, &peer);
        let limit = provider.settings.timeouts.header;
        let answered = within(limit, async {
            upstream.write_request_header(Box::new(request)).await?;
            upstream.read_response().await
        });
        answered.await.map_err(|_| Failure::Reset)?;
        let head = upstream.resp_header().ok_or(Failure::Reset)?;
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
            upstream.maybe_upgrade_body_writer();
            credential.own.iter().for_each(|own| own.note_use(clock::now()));
            return Ok(upstream);
        }
        let refused = judge(head).err().unwrap_or(Failure::Status { status: head.status.as_u16(), retry_after: None });
        rest(provider, credential, refused);
        Err(refused)
    }

    async fn begin(self, upstream: Http1Session, call: Box<Admitted>, served_by: Served) -> Connection {
        let mut head = AnswerHead::new(101, BodyLength::None);
        if let Some(provider) = upstream.resp_header() {
            head.pass_on(&provider.headers);
        }
        head.fixed(CONNECTION, "Upgrade");
        head.fixed(UPGRADE, "websocket");
        head.call(call.intent().call, Protocol::Openai);
        head.provider(&self.runtime.provider(served_by.0).name);
        let is_open = self.client.write_response_header(head.finish()).await.is_ok();
        let mut relay = Relay {
            session: self,
            upstream,
            served_by,
            call: Some(call),
            is_answering: false,
            scanner: FrameScanner::default(),
        };
        if is_open {
            relay.run().await;
        }
        relay.end().await
    }

    /// Looks the key up again and admits the next answer, under a name of its own.
    async fn admit_next(&mut self, (candidate, place): Served) -> Result<Box<Admitted>, Denied> {
        let received = Received { call: self.report.call, target: self.target.clone(), at: self.report.started };
        let authenticated = self.gateway.authenticate(self.runtime, self.client, received).await?;
        let mut call = self.gateway.admit(self.runtime, authenticated, self.head.clone(), self.report).await?;
        let own = |choice: usize| call.choices()[choice].own.as_ref().map(|own| own.place);
        let is_same = |choice: &usize| call.candidate(*choice).number == candidate && own(*choice) == place;
        let same = (0..call.choices().len()).find(is_same);
        // Whose prices have gone meanwhile can't be asked any longer.
        call.progress.choice = same.ok_or(Denied::UpstreamFailed)?;
        Ok(call)
    }

    /// Tells about the answer that has ended, and begins the notes of the next.
    fn turn_over(&mut self) {
        let mut next = self.gateway.report();
        (next.route, next.key) = (self.report.route, self.report.key.clone());
        next.client = if self.runtime.log_calls { client_address::of(self.client, self.runtime) } else { None };
        let ended = std::mem::replace(self.report, next);
        self.gateway.account(self.runtime, &ended);
    }
}

/// A session whose both ends are there.
struct Relay<'a> {
    session: Session<'a>,
    upstream: Http1Session,
    served_by: Served,
    /// The answer that runs, or that may begin.
    call: Option<Box<Admitted>>,
    is_answering: bool,
    scanner: FrameScanner,
}

/// Why a session is ended by us.
struct Ended {
    status: u16,
    reason: String,
}

impl Relay<'_> {
    async fn run(&mut self) {
        let time_max = self.session.runtime.limits.realtime_time_max;
        let mut time_over = std::pin::pin!(tokio::time::sleep(time_max));
        let gateway = Arc::clone(self.session.gateway);
        loop {
            let ended = tokio::select! {
                () = async {}, if gateway.activity.is_closed() => {
                    Err(Ended { status: GOING_AWAY, reason: "the gateway is shutting down".to_owned() })
                }
                read = self.upstream.read_body_bytes() => match read {
                    Ok(Some(bytes)) => self.take_from_provider(bytes).await,
                    Ok(None) | Err(_) => return,
                },
                read = self.session.client.read_request_body() => match read {
                    Ok(Some(bytes)) => {
                        if self.upstream.write_body(&bytes).await.is_err() {
                            return;
                        }
                        Ok(())
                    }
                    Ok(None) | Err(_) => return,
                },
                () = &mut time_over => Err(Ended { status: GOING_AWAY, reason: "the session has reached its time limit".to_owned() }),
                () = gateway.activity.closing.notified() => {
                    Err(Ended { status: GOING_AWAY, reason: "the gateway is shutting down".to_owned() })
                }
            };
            if let Err(Ended { status, reason }) = ended {
                let frame = Bytes::from(close_frame(status, &reason));
                // A client that is gone needs no reason.
                let _ = self.session.client.write_response_body(frame, false).await;
                return;
            }
        }
    }

    /// Passes on what the provider sends, once the answers that end in it are on the books.
    async fn take_from_provider(&mut self, bytes: Bytes) -> Result<(), Ended> {
        let mut ends = 0;
        if let Some(call) = &mut self.call {
            let (tally, is_answering) = (&mut call.progress.tally, &mut self.is_answering);
            self.scanner.feed(&bytes, &mut |message| {
                let Message::Text(text) = message else { return };
                match openai_realtime::read(text, tally) {
                    Event::Begun => *is_answering = true,
                    Event::Done => ends += 1,
                    Event::Ordinary => {}
                }
            });
            call.progress.is_asked = *is_answering || ends > 0;
        }
        if ends > 0 {
            self.settle(Outcome::Complete);
            self.session.gateway.until_durable().await;
        }
        let written = self.session.client.write_response_body(bytes, false).await;
        written.map_err(|_| Ended { status: GOING_AWAY, reason: String::new() })?;
        if ends > 0 {
            self.session.turn_over();
            match self.session.admit_next(self.served_by).await {
                Ok(call) => self.call = Some(call),
                Err(denied) => {
                    self.session.report.refuse(&denied);
                    return Err(Ended {
                        status: POLICY_VIOLATION,
                        reason: format!("{}: {denied}", denied.code().name()),
                    });
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, outcome: Outcome) {
        self.is_answering = false;
        if let Some(call) = self.call.take() {
            self.session.report.status = 101;
            self.session.report.settle(call, outcome);
        }
    }

    /// Settles what was open: an answer that had begun is charged as far as it came, one that might have come costs nothing.
    async fn end(mut self) -> Connection {
        let outcome = if self.is_answering { Outcome::ClientGone } else { Outcome::Unreached };
        self.settle(outcome);
        self.upstream.shutdown().await;
        Connection::Broken
    }
}

/// The target with the provider's name of the model in its query.
fn renamed(uri: &http::Uri, model: &str) -> Option<http::Uri> {
    let query = uri.query().unwrap_or_default();
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| if pair.starts_with("model=") { format!("model={model}") } else { pair.to_owned() })
        .collect();
    format!("{}?{}", uri.path(), pairs.join("&")).parse().ok()
}

/// Takes out subprotocols that hold a credential, as browsers send it.
fn hide_key(request: &mut RequestHeader) {
    let Some(offered) = request.headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let kept: Vec<&str> =
        offered.split(',').map(str::trim).filter(|name| !name.starts_with("openai-insecure-api-key.")).collect();
    let kept = kept.join(", ");
    request.remove_header(&SEC_WEBSOCKET_PROTOCOL);
    if !kept.is_empty() {
        // It was a header's value before, and parts of one are one too.
        let _ = request.insert_header(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}
