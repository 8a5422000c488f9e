//! One attempt at one provider: dial, send, wait for the head of the answer, read its body, each within its deadline.

use super::Gateway;
use super::providers::Provider;
use crate::metrics::Failover;
use bytes::Bytes;
use filters::scope::Route;
use futures_util::FutureExt;
use pingora::connectors::http::Connector;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::time::timeout;
use pingora::upstreams::peer::HttpPeer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why an attempt came to nothing before the client got a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// The connection broke before the answer.
    Reset,
    /// The provider answered with a status that another may not.
    Status { status: u16, retry_after: Option<Duration> },
    /// Our credential was refused.
    Credential,
    /// No head of an answer in time.
    HeaderTimeout,
    /// The first event was a failure, or did not come in time.
    FirstEvent,
    /// The client left while we waited.
    ClientGone,
}

impl Failure {
    /// The reason in metrics; none where nobody failed.
    pub(super) fn reason(self) -> Option<Failover> {
        match self {
            Self::Connect => Some(Failover::Connect),
            Self::Reset => Some(Failover::Reset),
            Self::Status { .. } => Some(Failover::Status),
            Self::Credential => Some(Failover::Credential),
            Self::HeaderTimeout => Some(Failover::Timeout),
            Self::FirstEvent => Some(Failover::ErrorEvent),
            Self::ClientGone => None,
        }
    }
}

/// What is sent: the pieces of the body, one after the other.
pub(super) struct Outgoing<'a> {
    pub(super) route: Route,
    pub(super) pieces: &'a [Bytes],
    pub(super) credential: &'a http::HeaderValue,
}

/// An exchange whose answer has begun.
pub(super) struct Exchange {
    session: HttpSession<()>,
    peer: HttpPeer,
    provider: Arc<Provider>,
    begun: Instant,
    is_over: bool,
}

impl Exchange {
    /// Sends the request and waits for the head of the answer. A pooled connection that broke before the answer is
    /// replaced by a new one once, because the provider closed it before it saw the request.
    pub(super) async fn open(
        gateway: &Gateway,
        provider: &Arc<Provider>,
        client: &mut ServerSession,
        outgoing: &Outgoing<'_>,
    ) -> Result<Self, Failure> {
        let begun = Instant::now();
        let peer = provider.peer().ok_or(Failure::Connect)?;
        for _ in 0..POOLED_TRIES_MAX {
            let (session, reused) = gateway.connector.get_http_session(&peer).await.map_err(|error| {
                tracing::warn!(provider = &*provider.name, %error, "no connection to the provider");
                Failure::Connect
            })?;
            let mut exchange =
                Self { session, peer: peer.clone(), provider: Arc::clone(provider), begun, is_over: false };
            match exchange.send(client, outgoing).await {
                Err(Failure::Reset) if reused => {}
                Err(failure) => return Err(failure),
                Ok(()) => match exchange.await_head(client).await {
                    Err(Failure::Reset) if reused => {}
                    Err(failure) => return Err(failure),
                    Ok(()) => return Ok(exchange),
                },
            }
        }
        Err(Failure::Connect)
    }

    async fn send(&mut self, client: &ServerSession, outgoing: &Outgoing<'_>) -> Result<(), Failure> {
        let timeouts = &self.provider.settings.timeouts;
        let is_http2 = matches!(self.session, HttpSession::H2(_));
        let path = format!("{}{}", self.provider.settings.base_url.path, outgoing.route.path());
        let bytes = outgoing.pieces.iter().map(Bytes::len).sum();
        let sets = &self.provider.header_sets;
        let head =
            sets.request(client.req_header(), &path, outgoing.credential, bytes, is_http2).ok_or(Failure::Connect)?;
        self.session.set_write_timeout(Some(timeouts.idle));
        let session = &mut self.session;
        let sent = async {
            session.write_request_header(Box::new(head)).await?;
            let last = outgoing.pieces.len().saturating_sub(1);
            for (index, piece) in outgoing.pieces.iter().enumerate() {
                session.write_request_body(piece.clone(), index == last).await?;
            }
            session.finish_request_body().await
        };
        sent.await.map_err(|error: Box<pingora::Error>| {
            tracing::debug!(provider = &*self.provider.name, %error, "the request can't be sent");
            Failure::Reset
        })
    }

    async fn await_head(&mut self, client: &mut ServerSession) -> Result<(), Failure> {
        let limit = self.provider.settings.timeouts.header;
        loop {
            let read = tokio::select! {
                biased;
                read = within(limit, self.session.read_response_header()) => read,
                _ = client.read_body_or_idle(true) => return Err(Failure::ClientGone),
            };
            read.map_err(|error| {
                tracing::debug!(provider = &*self.provider.name, %error, "no answer from the provider");
                if is_timeout(&error) { Failure::HeaderTimeout } else { Failure::Reset }
            })?;
            if !self.head().status.is_informational() {
                return Ok(());
            }
        }
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> &ResponseHeader {
        self.session.response_header().expect("an exchange is made only when its answer has begun")
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
    pub(super) async fn release(mut self, connector: &Connector<()>) {
        let mut left = LEFTOVER_BYTES_MAX;
        while !self.is_over {
            match timeout(LEFTOVER_TIME, self.read(LEFTOVER_TIME)).await {
                Ok(Ok(Some(bytes))) if bytes.len() < left => left -= bytes.len(),
                Ok(Ok(None)) => break,
                _ => return self.abort().await,
            }
        }
        if let HttpSession::H1(session) = &mut self.session {
            session.respect_keepalive();
        }
        let idle = self.peer.options.idle_timeout;
        connector.release_http_session(self.session, &self.peer, idle).await;
    }

    /// Breaks the connection off: the provider is to stop.
    pub(super) async fn abort(mut self) {
        self.session.shutdown().await;
    }
}

/// A connection from the pool may be stale; a second one too; a third try gets a new one or fails.
const POOLED_TRIES_MAX: usize = 3;
/// The rest of an answer that is worth reading for the sake of its connection.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;
const LEFTOVER_TIME: Duration = Duration::from_millis(50);

async fn within<T>(limit: Duration, work: impl Future<Output = pingora::Result<T>>) -> pingora::Result<T> {
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
        401 | 403 => Err(Failure::Credential),
        408 | 429 | 500..=599 => {
            let retry_after =
                head.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Err(Failure::Status { status, retry_after: retry_after.map(Duration::from_secs) })
        }
        _ => Ok(()),
    }
}
