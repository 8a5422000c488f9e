//! Requests about what providers store: only the organisation that made an object may ask for it, and it is asked for where it was
//! made, with the credential that made it. They cost nothing, and count against rates of requests.
//!
//! - `claims.rs`: what answers make is claimed for whoever asked · `files.rs`: the list of files, which is our own
//! - `upload.rs`: files on their way to a provider

mod claims;
mod files;
mod upload;

pub(super) use claims::Claimer;

use super::answer_head::{AnswerHead, BodyLength};
use super::attempt::{Exchange, Failure, Outgoing};
use super::own::{self, OwnAccount};
use super::providers::{Credential, Provider};
use super::relay::rest;
use super::report::Report;
use super::{Connection, EMPTY, Gateway, Runtime, receive};
use crate::clock;
use filters::admit;
use filters::denied::Denied;
use filters::id::CallId;
use filters::key::{Key, allows};
use filters::objects::{Object, ObjectKind, Reference};
use filters::own::is_own;
use filters::pipeline::Authenticated;
use filters::route::{Route, Target};
use http::Method;
use http::header::CONTENT_TYPE;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;

/// A request about stored objects, of a key that may make it.
pub(super) struct Inquiry<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) runtime: &'a Runtime,
    pub(super) client: &'a mut ServerSession,
    pub(super) key: &'a Arc<Key>,
    pub(super) target: &'a Target,
    pub(super) report: &'a mut Report,
}

/// Answers a request about stored objects.
pub(super) async fn answer(
    gateway: &Gateway,
    runtime: &Runtime,
    client: &mut ServerSession,
    authenticated: &Authenticated,
    report: &mut Report,
) -> Result<Connection, Denied> {
    let (key, target) = (authenticated.key(), authenticated.target());
    admit::count_request(&key.chain, gateway.rates.as_deref(), report.started).await?;
    let is_upload = client.req_header().method == Method::POST;
    let inquiry = Inquiry { gateway, runtime, client, key, target, report };
    match target.route {
        Route::Files | Route::AnthropicFiles if is_upload => inquiry.upload().await,
        Route::Files | Route::AnthropicFiles => inquiry.list().await,
        Route::Passthrough => inquiry.pass_through(Denied::NotFound).await,
        Route::Unmetered => inquiry.pass_through(Denied::RouteUnmetered).await,
        _ => inquiry.ask().await,
    }
}

impl Inquiry<'_> {
    /// Asks the provider that has the object, and passes its answer on, whatever it is.
    async fn ask(self) -> Result<Connection, Denied> {
        let object = self.object().await?;
        let configured = self.provider_of(&object)?;
        let account = self.account_of(&object, &configured).await?;
        let provider = Arc::clone(own::provider_of(&account, &configured));
        let body = receive::body(self.client, &self.runtime.limits, &self.gateway.activity).await?;
        let number = self.report.call.0 as u64;
        let ours = || provider.pinned_credential(Some(object.credential), number, clock::now());
        let credential = own::credential_of(&account, ours).map_err(|failure| failure.denied())?;
        let method = self.client.req_header().method.clone();
        let outgoing = Outgoing {
            protocol: self.target.route.protocol(),
            method: &method,
            path: &self.target.path(""),
            pieces: std::slice::from_ref(body.bytes()),
            credential: &credential.means,
            model: "",
            at: clock::now(),
        };
        self.report.attempts = 1;
        let exchange = Exchange::open(self.gateway, &provider, self.client, &outgoing).await;
        let exchange = exchange.map_err(|failure| failed(&provider, credential, failure))?;
        if !exchange.has_head() {
            exchange.abort().await;
            return Ok(Connection::Broken);
        }
        refuse_for_credential(&exchange, credential)?;
        if method == Method::DELETE && exchange.head().status.is_success() {
            // Should the store fail, it is still the organisation's, and the provider says that it is gone.
            let _ = self.gateway.objects.forget(&object, clock::now()).await;
        }
        let is_stream = is_stream(&exchange);
        let claimer = Claimer::of_object(self.target.route, &object, &exchange, is_stream);
        Ok(self.pass_on(exchange, claimer).await)
    }

    /// The object that the path names, if it is the organisation's and this key may use its provider.
    async fn object(&self) -> Result<Object, Denied> {
        let (field, kind) = match self.target.route {
            Route::Response | Route::ResponseCancel | Route::ResponseInputItems => {
                ("response_id", ObjectKind::Response)
            }
            _ => ("file_id", ObjectKind::File),
        };
        let id = self.target.decoded_name().ok_or(Denied::NotFound)?;
        self.owned(&Reference { field, kind, id: id.into() }).await
    }

    /// The object that a reference means.
    async fn owned(&self, reference: &Reference) -> Result<Object, Denied> {
        let owned = self.gateway.objects.owned(self.key.org, &[&reference.id]).await;
        let mut owned = owned.map_err(|_| Denied::OwnersUnavailable)?.into_iter();
        let named = self.target.provider.as_deref();
        let is_meant = |object: &Object| {
            named.is_none_or(|name| *object.provider == *name) && allows(&self.key.providers, &object.provider)
        };
        owned.find(is_meant).ok_or_else(|| reference.unknown())
    }

    fn provider_of(&self, object: &Object) -> Result<Arc<Provider>, Denied> {
        let provider = self.runtime.provider_named(&object.provider).map(Arc::clone);
        let unknown = || Reference { field: "id", kind: object.kind, id: Box::from(&*object.id) }.unknown();
        provider.filter(|provider| provider.settings.protocol == self.target.route.protocol()).ok_or_else(unknown)
    }

    /// The organisation's own account that has an object, where one has.
    async fn account_of(&self, object: &Object, configured: &Arc<Provider>) -> Result<Option<Arc<OwnAccount>>, Denied> {
        if !is_own(object.credential) {
            return Ok(None);
        }
        // Without the credential that made it, nobody can have it.
        let unknown = || Reference { field: "id", kind: object.kind, id: Box::from(&*object.id) }.unknown();
        let own = own::at_place(self.key, object.credential).ok_or_else(unknown)?;
        let account = self.gateway.own.account(own, configured, &self.gateway.metrics).await;
        account.map(Some).map_err(|failure| failure.denied())
    }

    /// Passes a provider's answer on as it arrives.
    pub(super) async fn pass_on(self, mut exchange: Box<Exchange>, mut claimer: Option<Claimer>) -> Connection {
        let provider = exchange.head();
        let announced = receive::content_length(&provider.headers);
        let length = match (announced, provider.status.as_u16()) {
            (_, 204 | 304) => BodyLength::None,
            (Some(bytes), _) => BodyLength::Bytes(bytes),
            (None, _) if self.client.req_header().version == http::Version::HTTP_10 => BodyLength::UntilClose,
            (None, _) => BodyLength::Open,
        };
        let head = self.head(&exchange, length);
        let Self { gateway, client, report, .. } = self;
        report.status = exchange.head().status.as_u16();
        report.mark_first_byte();
        if client.write_response_header(head.finish()).await.is_err() {
            exchange.abort().await;
            return Connection::Broken;
        }
        let idle = exchange.provider().settings.timeouts.idle;
        loop {
            let read = tokio::select! {
                biased;
                read = exchange.read(idle) => read,
                _ = client.read_body_or_idle(true) => break,
            };
            let Ok(bytes) = read else { break };
            let is_end = bytes.is_none();
            let bytes = bytes.unwrap_or(EMPTY);
            if let Some(claimer) = &mut claimer {
                claimer.read(gateway, &bytes);
            }
            if client.write_response_body(bytes, is_end).await.is_err() {
                break;
            }
            if is_end {
                exchange.release(gateway).await;
                return Connection::Reusable;
            }
        }
        exchange.abort().await;
        Connection::Broken
    }

    /// The head of a provider's answer, as the client gets it.
    fn head(&self, exchange: &Exchange, length: BodyLength) -> AnswerHead {
        let mut head = AnswerHead::new(exchange.head().status.as_u16(), length);
        head.pass_on(&exchange.head().headers);
        let protocol = self.target.route.protocol();
        head.call(self.report.call, protocol);
        head.provider(&exchange.provider().name);
        head.rates(&self.key.chain, None, protocol, self.report.started);
        head.allow_origin(&self.client.req_header().headers, self.runtime);
        head
    }

    /// An object that this request makes.
    fn made(&self, id: &str, kind: ObjectKind, provider: &Provider, credential: &Credential) -> Object {
        Object {
            id: id.into(),
            kind,
            org: self.key.org,
            key: self.key.id,
            call: self.report.call,
            provider: Arc::clone(&provider.name),
            credential: credential.place,
            at: clock::now(),
        }
    }
}

fn is_stream(exchange: &Exchange) -> bool {
    let kind = exchange.head().headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// What the client is told of a provider that did not answer.
pub(super) fn failed(provider: &Provider, credential: &Credential, failure: Failure) -> Denied {
    rest(provider, credential, failure);
    match failure {
        Failure::Credential { .. } if credential.own.is_some() => Denied::OwnCredentialUnusable,
        failure => failure.denied(),
    }
}

/// A refusal of our credential is nothing that a client could heal.
fn refuse_for_credential(exchange: &Exchange, credential: &Credential) -> Result<(), Denied> {
    match exchange.head().status.as_u16() {
        401 => Err(failed(exchange.provider(), credential, Failure::Credential { status: 401 })),
        _ => Ok(()),
    }
}

/// Logs an object that could not be claimed: nobody can use it.
fn log_unclaimed(call: CallId, kind: ObjectKind) {
    tracing::error!(request_id = %call, kind = kind.name(), "an object can't be written down, so it is nobody's");
}
