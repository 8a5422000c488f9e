//! The data plane. [`Gateway::serve`] is the journey of one request; each step lives in a file of its own.
//!
//! It is an HTTP application of Pingora rather than a set of `ProxyHttp` hooks: the exchange with the provider is ours,
//! so that a body may have any size, failover is a loop, and the final event can wait for its record in the journal.

mod answer;
mod answer_head;
mod attempt;
mod client_address;
mod control;
mod dial;
mod door;
mod estimate;
mod headers;
mod health;
mod idle;
mod inspect;
mod key_view;
mod models;
mod objects;
mod own;
mod passthrough;
mod preflight;
mod providers;
mod realtime;
mod receive;
mod relay;
mod report;
mod sigv4;
#[cfg(test)]
mod tests;
mod try_out;
mod unread;
mod way;

pub use control::{ControlAnswer, ControlBody, ControlPlane};
pub use dial::Dialer;
pub use door::Door;
pub use own::OwnAccounts;
pub use providers::Runtime;
pub use receive::REQUESTS_PER_CONNECTION;

use crate::clock;
use crate::crash;
use crate::error;
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use filters::admit::Admission;
use filters::denied::Denied;
use filters::dialect::Protocol;
use filters::id::{self, CallId};
use filters::key::Pepper;
use filters::pipeline::{Admitted, Authenticated, Received, Stored};
use filters::ports::{Authority, FreeRequest, Journal, Keys, Objects, Rates};
use filters::request_head::{self, RequestHead};
use filters::route::{Handling, Route};
use filters::time::EpochMs;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;
use realtime::Session;
use report::Report;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};

/// Everything that serving a call needs. Shared by all connections.
pub struct Gateway {
    /// What the configuration says now.
    pub runtime: ArcSwap<Runtime>,
    /// Who owns which token.
    pub keys: Arc<dyn Keys>,
    /// The secret that lookup ids are made with.
    pub pepper: Pepper,
    /// Where calls are written down.
    pub journal: Arc<dyn Journal>,
    /// Whose the objects are that providers store.
    pub objects: Arc<dyn Objects>,
    /// Where requests are handed over that cost nothing.
    pub notes: mpsc::Sender<FreeRequest>,
    /// Where credit comes from.
    pub authority: Arc<dyn Authority>,
    /// Where rates are shared, if there are other nodes.
    pub rates: Option<Arc<dyn Rates>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Answers what is about organisations, keys and money.
    pub control: Arc<dyn ControlPlane>,
    /// Credentials that organisations have at providers themselves.
    pub own: OwnAccounts,
    /// Makes connections to providers.
    pub dialer: Dialer,
    /// What is going on right now.
    pub activity: Arc<Activity>,
    /// How connections are to be treated.
    pub options: HttpServerOptions,
    /// Distinguishes the calls of this process from those of others.
    pub call_salt: [u8; 5],
}

/// What is going on right now, and whether it is about to stop.
#[derive(Default)]
pub struct Activity {
    /// Requests that were begun and not ended.
    pub requests: AtomicUsize,
    /// Bytes of request bodies in memory.
    pub body_bytes: AtomicU64,
    /// Answers that are read on although their clients have left; each is a request that has not ended.
    drains: AtomicUsize,
    /// Set when the process is about to stop: connections are closed after their answer.
    draining: AtomicBool,
    /// Set when it stops: what was begun goes on, and nothing else begins.
    closed: AtomicBool,
    /// Wakes connections that wait for their next request.
    closing: Notify,
    calls: AtomicU64,
}

impl Activity {
    /// Has every connection closed after its next answer.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Refuses requests from now on, and closes connections that wait for one.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// A request that is counted as long as this lives.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the connection can take another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Reusable,
    Broken,
}

impl Gateway {
    /// The journey of one request, from its head to the books. Every refusal leaves by the same door.
    async fn serve(self: &Arc<Self>, session: &mut ServerSession) -> Connection {
        let runtime = self.runtime.load_full();
        let mut report = self.report();
        if runtime.log_calls {
            report.client = client_address::of(session, &runtime);
        }
        let outcome = self.answer(&runtime, session, &mut report).await;
        let connection = match outcome {
            Ok(connection) => connection,
            Err(denied) => Box::pin(self.refuse(&runtime, session, &denied, &mut report)).await,
        };
        if report.settled.is_none() {
            let asked = &session.req_header().method;
            let place = report.route.and_then(|route| route.methods().iter().position(|method| method == asked));
            report.method = place.and_then(|place| u8::try_from(place).ok()).unwrap_or_default();
        }
        self.account(&runtime, &report);
        connection
    }

    /// Receive → authenticate → resolve → admit → relay. The relay settles.
    async fn answer(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        session: &mut ServerSession,
        report: &mut Report,
    ) -> Result<Connection, Denied> {
        let target = receive::target(session.req_header(), runtime);
        report.route = target.as_ref().ok().map(|target| target.route);
        if self.activity.is_closed() {
            return Err(Denied::ShuttingDown);
        }
        receive::check_head(session.req_header(), &runtime.limits)?;
        if let Err(denied) = receive::check_coding(session.req_header()) {
            session.set_keepalive(None);
            return Err(denied);
        }
        let target = target?;
        let route = target.route;
        if preflight::is_asked(session.req_header(), runtime) {
            return Ok(Box::pin(preflight::answer(runtime, session, route, report)).await);
        }
        receive::check_method(session.req_header(), route)?;
        if route.handling() == Handling::Control {
            return Box::pin(control::answer(self, runtime, session, report)).await;
        }

        let received = Received { call: report.call, target, at: report.started };
        let authenticated = self.authenticate(runtime, session, received).await?;
        report.key = Some(Arc::clone(authenticated.key()));
        match route.handling() {
            Handling::Inspect => {
                return Box::pin(inspect::answer(self, runtime, session, &authenticated, report)).await;
            }
            Handling::Object => {
                return Box::pin(objects::answer(self, runtime, session, &authenticated, report)).await;
            }
            Handling::Passthrough => {
                return Box::pin(objects::answer(self, runtime, session, &authenticated, report)).await;
            }
            Handling::Unmetered if authenticated.target().name.is_some() => {
                return Box::pin(objects::answer(self, runtime, session, &authenticated, report)).await;
            }
            Handling::Unmetered => return Err(Denied::RouteUnmetered),
            Handling::Session => {
                return Box::pin(self.converse(runtime, session, authenticated, report)).await;
            }
            // Control was answered before its credential was looked at: that is the control plane's business.
            Handling::Call | Handling::Control => {}
        }

        let body = receive::body(session, &runtime.limits, &self.activity).await?;
        let content_type = receive::content_type(session.req_header())?;
        // What is moved from stage to stage and kept by each of their futures is to be small.
        let head = request_head::read(body.bytes(), content_type, authenticated.target())?;
        let mut head = receive::tagged(head, session.req_header())?;
        head.hold_to_budget(runtime.credit_unit)?;
        let admitted = self.admit(runtime, authenticated, head, report).await?;
        Ok(self.relay(runtime, session, admitted, body.bytes(), report).await)
    }

    /// Resolve → admit.
    async fn admit(
        &self,
        runtime: &Runtime,
        authenticated: Authenticated,
        head: Box<RequestHead>,
        report: &mut Report,
    ) -> Result<Box<Admitted>, Denied> {
        let stored = Stored { objects: &*self.objects, shared: &runtime.shared_objects };
        let resolved = authenticated.resolve(head, &runtime.catalogue, &stored).await?;
        report.model = Some(Arc::clone(resolved.model()));
        crash::point("before-reserve");
        let admission = Admission {
            allowances: runtime.allowances,
            journal: &*self.journal,
            authority: &*self.authority,
            rates: self.rates.as_deref(),
            now: clock::now(),
        };
        resolved.admit(&admission).await
    }

    /// A connection on which a model is called again and again.
    async fn converse(
        self: &Arc<Self>,
        runtime: &Arc<Runtime>,
        client: &mut ServerSession,
        authenticated: Authenticated,
        report: &mut Report,
    ) -> Result<Connection, Denied> {
        let head = receive::tagged(realtime::head(client.req_header())?, client.req_header())?;
        let target = authenticated.target().clone();
        let call = self.admit(runtime, authenticated, head.clone(), report).await?;
        Session { gateway: self, runtime, client, target, head, report }.run(call).await
    }

    async fn authenticate(
        &self,
        runtime: &Runtime,
        session: &ServerSession,
        received: Received,
    ) -> Result<Authenticated, Denied> {
        let token = receive::token(session.req_header(), received.target.route.protocol())?;
        let authenticated = received.authenticate(token, &runtime.key_prefix, &self.pepper, &*self.keys).await?;
        authenticated.from(|| client_address::of(session, runtime))
    }

    /// Says no, in the words of the protocol that was spoken.
    async fn refuse(
        &self,
        runtime: &Runtime,
        session: &mut ServerSession,
        denied: &Denied,
        report: &mut Report,
    ) -> Connection {
        report.refuse(denied);
        let protocol = report.route.map_or(Protocol::Openai, Route::protocol);
        let answer = error::answer(denied, runtime.shape(protocol), report.call);
        answer::refusal(session, &answer, runtime, report).await
    }

    /// Waits until what was written down so far is on disk, where the configuration asks for that.
    async fn until_durable(&self) {
        if let Some(durable) = self.journal.durable() {
            durable.await;
        }
    }

    /// The notes of a request that begins now.
    fn report(&self) -> Report {
        let now = clock::now();
        Report::new(self.next_call(now), now)
    }

    fn next_call(&self, now: EpochMs) -> CallId {
        let number = self.activity.calls.fetch_add(1, Ordering::Relaxed);
        let mut low = [0u8; 10];
        low[..5].copy_from_slice(&self.call_salt);
        low[5..].copy_from_slice(&number.to_be_bytes()[3..]);
        CallId(id::bits(now, low))
    }
}

#[async_trait]
impl HttpServerApp for Gateway {
    /// Not an `async fn`: that would hold the session, which is large, twice.
    fn process_new_http<'s, 'w, 'f>(
        self: &'s Arc<Self>,
        mut session: ServerSession,
        shutdown: &'w ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'f>>
    where
        's: 'f,
        'w: 'f,
    {
        Box::pin(async move {
            // A copy, because the connection may wait for long.
            let limits = self.runtime.load().limits.clone();
            session.set_write_timeout(Some(limits.write_idle_timeout));
            match receive::head(&mut session, &self.activity, &limits).await {
                Ok(true) => {}
                Ok(false) => {
                    session.shutdown().await;
                    return None;
                }
                Err(denied) => {
                    self.refuse_unread(&mut session, &denied).await;
                    session.shutdown().await;
                    return None;
                }
            }
            let _in_flight = (InFlight::enter(&self.activity.requests), self.metrics.enter());
            if self.activity.is_draining() || *shutdown.borrow() {
                session.set_keepalive(None);
            }
            match self.serve(&mut session).await {
                Connection::Reusable => {
                    let settings = HttpPersistentSettings::for_session(&session);
                    let stream = session.finish().await.ok().flatten()?;
                    Some(ReusedHttpStream::from_reusable_stream(stream, settings))
                }
                Connection::Broken => {
                    session.shutdown().await;
                    None
                }
            }
        })
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(receive::h2_options(&self.runtime.load().limits))
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// An empty body.
const EMPTY: Bytes = Bytes::new();
