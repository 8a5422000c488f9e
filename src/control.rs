//! CONTROL PLANE: the API for organisations, people, keys, credits and usage, and the listeners of the process's own state.
//!
//! - `table.rs`: every URL with its handler; `access.rs` who may ask for it; `document.rs` what `/openapi.json` says of it
//! - `caller.rs`: who asks; handlers do nothing but through a `Permitted`
//! - `input.rs`, `page.rs`: what comes in, and lists that go out
//! - `money.rs`: amounts in requests and answers
//! - `limits.rs`: limits in requests and answers
//! - one file a noun: `operators.rs`, `users.rs`, `sessions.rs`, `orgs.rs`, `members.rs`, `invitations.rs`, `projects.rs`, `keys.rs`,
//!   `calls.rs`, `usage.rs`, `credits.rs`, `statements.rs`, `retention.rs`, `credentials.rs`, `webhooks.rs`, `deliveries.rs`,
//!   `events.rs`, `trail.rs`

pub mod access;
pub mod caller;
pub mod calls;
pub mod credentials;
pub mod credits;
pub mod deliveries;
mod document;
pub mod events;
pub mod input;
pub mod invitations;
pub mod keys;
pub mod limits;
pub mod members;
pub mod money;
pub mod operators;
pub mod orgs;
pub mod page;
pub mod projects;
pub mod retention;
pub mod sessions;
pub mod statements;
mod table;
pub mod trail;
pub mod usage;
pub mod users;
pub mod webhooks;

use crate::address_guard::AddressGuard;
use crate::error::{Refusal, Shape};
use crate::store::passwords::Passwords;
use crate::store::{Store, StoreError};
use crate::{clock, error::RefusalCode};
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
pub use caller::Origin;
use filters::denied::Denied;
use filters::id::{CallId, bits};
use filters::money::CreditUnit;
use filters::own::Providers;
use filters::time::EpochMs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What the control plane works with. Shared by all requests.
pub struct Control {
    /// The books.
    pub store: Store,
    /// What URLs must pass that callers choose.
    pub guard: AddressGuard,
    /// How it is configured.
    pub settings: Settings,
    /// Room for requests that are being answered.
    pub room: Semaphore,
    /// What hashes passwords.
    pub passwords: Passwords,
    /// Who takes credentials; set before anybody is let in.
    pub providers: OnceLock<Weak<dyn Providers>>,
}

impl Control {
    /// Says who takes credentials: the gateway, which has this control plane itself.
    pub fn attach(&self, providers: Weak<dyn Providers>) {
        // Once is enough.
        let _ = self.providers.set(providers);
    }

    /// Who takes credentials.
    fn providers(&self) -> Result<Arc<dyn Providers>, Refusal> {
        self.providers.get().and_then(Weak::upgrade).ok_or_else(Refusal::store_unavailable)
    }
}

/// How the control plane is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What new keys begin with.
    pub key_prefix: String,
    /// How refusals look.
    pub shape: Shape,
    /// What a credit is worth, for those who count in credits.
    pub credit_unit: Option<CreditUnit>,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How people come in.
    pub accounts: sessions::Accounts,
    /// Most webhooks of an organisation.
    pub webhooks_max: usize,
}

/// What the listeners tell about the process.
pub struct Vitals {
    /// Whether the gateway takes new calls.
    pub ready: AtomicBool,
    /// The text of `/metrics`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Every route of the control plane as a service. A request tells its [`ConnectInfo`] or its [`Origin`]; others are the process's own.
pub fn service(control: Arc<Control>) -> Router {
    let routes = table::router(&control).layer(DefaultBodyLimit::max(input::BODY_BYTES_MAX));
    // Around the routes rather than among them: the path is settled before one is found.
    Router::new().fallback_service(routes).layer(from_fn(under_one_name)).layer(from_fn_with_state(control, answer))
}

/// Serves a path under its other names.
async fn under_one_name(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let named = document::ALIASES.iter().find_map(|(alias, original, _)| {
        let rest = path.strip_prefix(alias).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{original}{rest}{query}").parse::<Uri>().ok()
    });
    if let Some(uri) = named {
        *request.uri_mut() = uri;
    }
    next.run(request).await
}

/// What is around every request: its identifier, its origin, its limits, and how a refusal is written.
async fn answer(State(control): State<Arc<Control>>, mut request: Request, next: Next) -> Response {
    let Ok(origin) = origin(&request) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    request.extensions_mut().insert(origin);
    let answered = match control.room.try_acquire() {
        Ok(_room) => tokio::time::timeout(control.settings.request_timeout, next.run(request))
            .await
            .unwrap_or_else(|_| Refusal::store_unavailable().into_response()),
        Err(_) => Refusal::of(&Denied::Overloaded).into_response(),
    };
    let mut response = match answered.extensions().get::<Refusal>() {
        Some(refusal) => written(refusal, &answered, control.settings.shape, origin.call),
        None => answered,
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&origin.call.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Where a request came from: the public listener says it of those that it hands over.
fn origin(request: &Request) -> Result<Origin, getrandom::Error> {
    if let Some(origin) = request.extensions().get::<Origin>() {
        return Ok(*origin);
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    let address = peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(Origin { address, call: CallId(bits(clock::now(), random)), is_public: false })
}

fn written(refusal: &Refusal, answered: &Response, shape: Shape, call: CallId) -> Response {
    let mut response = Response::new(Body::from(refusal.body(shape, call)));
    *response.status_mut() = answered.status();
    let headers = response.headers_mut();
    // What a handler said beside it, such as `Allow` or a cookie that goes.
    headers.extend(answered.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
    headers.remove("content-length");
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(milliseconds) = refusal.retry_after_ms() {
        headers.insert(RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1_000)));
        headers.insert("retry-after-ms", HeaderValue::from(milliseconds));
    }
    response
}

/// A refusal on its way out: its body is written where the request's identifier is known.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(what) => Self::not_found(what.split_once(' ').map_or(what.as_str(), |(noun, _)| noun)),
            StoreError::NameReused => {
                let message =
                    "This `Idempotency-Key` was used for another request in the last 24 hours: make a new one.";
                Self::new(RefusalCode::IdempotencyKeyReused, message)
            }
            StoreError::KeyHasHistory => Self::new(RefusalCode::KeyHasHistory, error.to_string()),
            StoreError::KeyNeverUsed => Self::new(RefusalCode::KeyNeverUsed, error.to_string()),
            StoreError::ScopeMix => Self::new(RefusalCode::ScopeMix, error.to_string()).about("scopes"),
            StoreError::Refused(sentence) => Self::new(RefusalCode::NotPossible, capitalised(sentence)),
            StoreError::File { .. }
            | StoreError::Pepper { .. }
            | StoreError::Migrate(_)
            | StoreError::Backup { .. }
            | StoreError::Sql(_)
            | StoreError::TooLate(_)
            | StoreError::Corrupt { .. }
            | StoreError::Forgotten(_)
            | StoreError::Moved
            | StoreError::Sealing(_)
            | StoreError::Random(_) => {
                tracing::error!(%error, "the control plane can't reach the books");
                Self::store_unavailable()
            }
        }
    }
}

/// The store's sentences begin like the command line's.
fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).chain(['.']).collect()).unwrap_or_default()
}

/// A moment as answers have it: RFC 3339, UTC, to the millisecond.
#[must_use]
pub fn stamp(at: EpochMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|moment| format!("{moment:.3}")).unwrap_or_default()
}

/// The metrics listener's table.
fn metrics_routes(vitals: Arc<Vitals>) -> Router {
    let metrics = Arc::clone(&vitals);
    probes(vitals).route(
        "/metrics",
        get(move || async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], (metrics.metrics)()) }),
    )
}

fn probes(vitals: Arc<Vitals>) -> Router {
    let ready = move || async move {
        let is_ready = vitals.ready.load(Ordering::Acquire);
        let answer =
            if is_ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") };
        answer.into_response()
    };
    Router::new().route("/livez", get(|| async { "alive\n" })).route("/readyz", get(ready))
}

/// Where the listeners are.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// Of the control plane.
    pub control: SocketAddr,
    /// Of the process's own state.
    pub metrics: SocketAddr,
}

/// Serves both listeners until the process ends; the error is that an address can't be listened on.
pub async fn serve(listeners: Listeners, vitals: Arc<Vitals>, control: Arc<Control>) -> std::io::Result<()> {
    let on_control = tokio::net::TcpListener::bind(listeners.control).await?;
    let on_metrics = tokio::net::TcpListener::bind(listeners.metrics).await?;
    let routes = probes(Arc::clone(&vitals)).fallback_service(service(control));
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(on_control, routes).await });
    tokio::spawn(async move { axum::serve(on_metrics, metrics_routes(vitals)).await });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(stamp(EpochMs(1_800_000_000_123)), "2027-01-15T08:00:00.123Z");
    }
}
