//! One attempt at one provider: dial, send, wait for the head of the answer, read its body, each within its deadline.

use super::Gateway;
use super::headers::Means;
use super::providers::Provider;
use crate::metrics::Failover;
use bytes::{Bytes, BytesMut};
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::time::EpochMs;
use futures_util::FutureExt;
use http::Method;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::time::timeout;
use pingora::upstreams::peer::HttpPeer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// Why an attempt came to nothing before the client got a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// The connection broke before the answer.
    Reset,
    /// The provider answered with a status that another may not.
    Status { status: u16, retry_after: Option<Duration> },
    /// Our credential was refused with this status, 0 if there was none to send.
    Credential { status: u16 },
    /// No head of an answer in time.
    HeaderTimeout,
    /// The first event was a failure, or did not come in time.
    FirstEvent,
}

impl Failure {
    /// The reason in metrics.
    pub(super) fn reason(self) -> Failover {
        match self {
            Self::Connect => Failover::Connect,
            Self::Reset => Failover::Reset,
            Self::Status { .. } => Failover::Status,
            Self::Credential { .. } => Failover::Credential,
            Self::HeaderTimeout => Failover::Timeout,
            Self::FirstEvent => Failover::ErrorEvent,
        }
    }

    /// The status that the provider answered with, 0 if it did not answer.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Status { status, .. } | Self::Credential { status } => status,
            Self::FirstEvent => 200,
            Self::Connect | Self::Reset | Self::HeaderTimeout => 0,
        }
    }

    /// What the client is told if it stays the last word.
    pub(super) fn denied(self) -> Denied {
        match self {
            Self::HeaderTimeout => Denied::UpstreamTimeout,
            Self::Connect | Self::Reset | Self::Status { .. } | Self::Credential { .. } | Self::FirstEvent => {
                Denied::UpstreamFailed
            }
        }
    }

    /// Whether the provider answered, and so has done nothing that it could bill for.
    pub(super) fn is_refusal(self) -> bool {
        match self {
            Self::Status { .. } | Self::Credential { .. } | Self::FirstEvent => true,
            Self::Connect | Self::Reset | Self::HeaderTimeout => false,
        }
    }
}

/// What is sent.
pub(super) struct Outgoing<'a> {
    /// The protocol that the client speaks.
    pub(super) protocol: Protocol,
    pub(super) method: &'a Method,
    /// Below the provider's base URL.
    pub(super) path: &'a str,
    /// The body, one piece after the other.
    pub(super) pieces: &'a [Bytes],
    pub(super) credential: &'a Means,
    /// The provider's own name of the model.
    pub(super) model: &'a str,
    /// Now: what is signed says when.
    pub(super) at: EpochMs,
}

/// An exchange whose answer has begun, unless the client left before that.
pub(super) struct Exchange {
    session: HttpSession<()>,
    peer: Arc<HttpPeer>,
    provider: Arc<Provider>,
    begun: Instant,
    is_over: bool,
}

impl Exchange {
    /// Sends the request and waits for the head of the answer. A pooled connection that broke before the answer is
    /// replaced by a new one, because the provider closed it before it saw the request; an address that takes no
    /// connection by the provider's next one. If the client leaves meanwhile, the exchange is left without a head.
    pub(super) async fn open(
        gateway: &Gateway,
        provider: &Arc<Provider>,
        client: &mut ServerSession,
        outgoing: &Outgoing<'_>,
    ) -> Result<Box<Self>, Failure> {
        let begun = Instant::now();
        let mut last = Failure::Reset;
        for _ in 0..CONNECTIONS_TRIED_MAX {
            let peer = provider.peer().ok_or(Failure::Connect)?;
            let sent = match provider.settings.h2 {
                // Paths that are not taken by every call are boxed: a call's future is allocated and moved at its full size.
                true => Box::pin(send_h2(gateway, provider, &peer, client, outgoing)).await,
                false => send_h1(gateway, provider, &peer, client, outgoing).await,
            };
            let (session, reused) = match sent {
                Ok(sent) => sent,
                Err((Failure::Reset, true)) => continue,
                Err((Failure::Connect, _)) if provider.has_more_addresses() => {
                    last = Failure::Connect;
                    continue;
                }
                Err((failure, _)) => return Err(failure),
            };
            let mut exchange = Self::sent(session, peer, provider, begun);
            let awaited = tokio::select! {
                biased;
                awaited = exchange.await_head() => awaited,
                _ = client.read_body_or_idle(true) => Ok(()),
            };
            match awaited {
                Err(Failure::Reset) if reused => {}
                Err(failure) => return Err(failure),
                Ok(()) => return Ok(exchange),
            }
        }
        Err(last)
    }

    /// An exchange whose request was sent by the caller, who began then.
    pub(super) fn sent(
        session: HttpSession<()>,
        peer: Arc<HttpPeer>,
        provider: &Arc<Provider>,
        begun: Instant,
    ) -> Box<Self> {
        Box::new(Self { session, peer, provider: Arc::clone(provider), begun, is_over: false })
    }

    /// Waits for the head of the answer. May be stopped and begun again.
    pub(super) async fn await_head(&mut self) -> Result<(), Failure> {
        let limit = self.provider.settings.timeouts.header;
        loop {
            within(limit, self.session.read_response_header()).await.map_err(|error| {
                tracing::debug!(
                    provider = &*self.provider.name,
                    cause = error.etype().as_str(),
                    "no answer from the provider"
                );
                if is_timeout(&error) { Failure::HeaderTimeout } else { Failure::Reset }
            })?;
            if self.has_head() {
                return Ok(());
            }
        }
    }

    /// Whether the answer has begun.
    pub(super) fn has_head(&self) -> bool {
        self.session.response_header().is_some_and(|head| !head.status.is_informational())
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> &ResponseHeader {
        self.session.response_header().expect("nobody asks for the head of an answer that has not begun")
    }

    /// Who is asked.
    pub(super) fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// The next bytes of the answer, `None` at its end.
    pub(super) async fn read(&mut self, idle: Duration) -> pingora::Result<Option<Bytes>> {
        if self.begun.elapsed() > self.provider.settings.timeouts.total {
            return pingora::Error::e_explain(pingora::ErrorType::ReadTimedout, "the attempt's total time is over");
        }
        let read = within(idle, self.session.read_response_body()).await;
        self.is_over |= matches!(read, Ok(None));
        read
    }

    /// The next bytes if they are here already.
    pub(super) fn read_now(&mut self) -> Option<pingora::Result<Option<Bytes>>> {
        let read = tokio::task::unconstrained(self.session.read_response_body()).now_or_never();
        self.is_over |= matches!(read, Some(Ok(None)));
        read
    }

    /// Whether the answer has been read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Gives the connection back, reading what little is left of the answer first.
    pub(super) async fn release(mut self: Box<Self>, gateway: &Gateway) {
        let mut left = LEFTOVER_BYTES_MAX;
        while !self.is_over {
            match timeout(LEFTOVER_TIME, self.read(LEFTOVER_TIME)).await {
                Ok(Ok(Some(bytes))) if bytes.len() < left => left -= bytes.len(),
                Ok(Ok(None)) => break,
                _ => return self.abort().await,
            }
        }
        let Self { session, peer, provider, .. } = *self;
        match session {
            HttpSession::H1(mut session) => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await {
                    provider.idle.give_back(stream);
                }
            }
            other => {
                let connector = provider.dialer(&gateway.dialer).connector();
                connector.release_http_session(other, &*peer, peer.options.idle_timeout).await;
            }
        }
    }

    /// Breaks the connection off: the provider is to stop.
    pub(super) async fn abort(mut self: Box<Self>) {
        self.session.shutdown().await;
    }
}

type Sent = Result<(HttpSession<()>, bool), (Failure, bool)>;

/// HTTP/1.1: head and body leave in one send, and no map of headers is made for them.
async fn send_h1(
    gateway: &Gateway,
    provider: &Provider,
    peer: &Arc<HttpPeer>,
    client: &ServerSession,
    outgoing: &Outgoing<'_>,
) -> Sent {
    let (mut stream, reused) = match provider.idle.take(provider.settings.keepalive) {
        Some(stream) => (stream, true),
        None => {
            let connected = Box::pin(provider.dialer(&gateway.dialer).transport.new_stream(&**peer)).await;
            (connected.map_err(|error| (refused_connection(provider, &error), false))?, false)
        }
    };
    let body_bytes: usize = outgoing.pieces.iter().map(Bytes::len).sum();
    let mut wire = BytesMut::with_capacity(HEAD_BYTES_USUAL + body_bytes.min(SENT_TOGETHER_MAX));
    provider.header_sets.write_head(&mut wire, client.req_header(), outgoing, Some(body_bytes));
    let is_small = body_bytes <= SENT_TOGETHER_MAX;
    if is_small {
        outgoing.pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
    }
    let write = async {
        stream.write_all(&wire).await?;
        if !is_small {
            for piece in outgoing.pieces {
                stream.write_all(piece).await?;
            }
        }
        stream.flush().await
    };
    match timeout(provider.settings.timeouts.idle, write).await {
        Ok(Ok(())) => Ok((HttpSession::H1(Http1Session::new_with_options(stream, &**peer)), reused)),
        Ok(Err(error)) => {
            tracing::debug!(provider = &*provider.name, %error, "the request can't be sent");
            Err((Failure::Reset, reused))
        }
        Err(_) => Err((Failure::HeaderTimeout, reused)),
    }
}

/// HTTP/2, as Pingora speaks it.
async fn send_h2(
    gateway: &Gateway,
    provider: &Provider,
    peer: &Arc<HttpPeer>,
    client: &ServerSession,
    outgoing: &Outgoing<'_>,
) -> Sent {
    let connected = provider.dialer(&gateway.dialer).connector().get_http_session(&**peer).await;
    let (mut session, reused) = connected.map_err(|error| (refused_connection(provider, &error), false))?;
    let bytes = outgoing.pieces.iter().map(Bytes::len).sum();
    let is_http2 = matches!(session, HttpSession::H2(_));
    let sets = &provider.header_sets;
    let head = sets.request(client.req_header(), outgoing, Some(bytes), is_http2);
    let head = head.ok_or((Failure::Connect, reused))?;
    session.set_write_timeout(Some(provider.settings.timeouts.idle));
    let sent = async {
        session.write_request_header(Box::new(head)).await?;
        let last = outgoing.pieces.len().saturating_sub(1);
        for (index, piece) in outgoing.pieces.iter().enumerate() {
            session.write_request_body(piece.clone(), index == last).await?;
        }
        session.finish_request_body().await
    };
    match sent.await {
        Ok(()) => Ok((session, reused)),
        Err(error) => {
            tracing::debug!(provider = &*provider.name, cause = error.etype().as_str(), "the request can't be sent");
            Err((Failure::Reset, reused))
        }
    }
}

fn refused_connection(provider: &Provider, error: &pingora::Error) -> Failure {
    tracing::warn!(provider = &*provider.name, cause = error.etype().as_str(), "no connection to the provider");
    Failure::Connect
}

/// The usual size of a request's head.
const HEAD_BYTES_USUAL: usize = 1024;
/// A body up to this size is copied behind its head, because a second send costs more than the copy.
const SENT_TOGETHER_MAX: usize = 64 * 1024;
/// A connection from the pool may be stale, a second one too, and an address may take none.
const CONNECTIONS_TRIED_MAX: usize = 4;
/// The rest of an answer that is worth reading for the sake of its connection.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;
const LEFTOVER_TIME: Duration = Duration::from_millis(50);

pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = pingora::Result<T>>) -> pingora::Result<T> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => pingora::Error::e_explain(pingora::ErrorType::ReadTimedout, "the deadline has passed"),
    }
}

/// Whether a deadline was the cause.
pub(super) fn is_timeout(error: &pingora::Error) -> bool {
    matches!(error.etype(), pingora::ErrorType::ReadTimedout | pingora::ErrorType::ConnectTimedout)
}

/// What the head of an answer means for the search for one: go on with it, or try another.
pub(super) fn judge(head: &ResponseHeader) -> Result<(), Failure> {
    let status = head.status.as_u16();
    match status {
        401 | 403 => Err(Failure::Credential { status }),
        408 | 429 | 500..=599 => Err(Failure::Status { status, retry_after: retry_after(head) }),
        _ => Ok(()),
    }
}

/// When the provider wants to be asked again.
fn retry_after(head: &ResponseHeader) -> Option<Duration> {
    let number = |name: &str| head.headers.get(name)?.to_str().ok()?.trim().parse().ok();
    number("retry-after-ms").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}
