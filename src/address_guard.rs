//! Connections to where tenants say: every URL that did not come from the operator passes here first.
//!
//! A URL is read strictly (`place.rs`), its name is resolved by our own resolver, and every address that the name has must be public
//! (`ranges.rs`). The client connects to addresses that were checked in the very lookup that found them, so that a name that
//! shows another address a moment later leads nowhere. It follows no redirects and knows no proxies, and it takes a bounded time
//! and a bounded answer.

mod place;
mod ranges;
#[cfg(test)]
mod tests;

use crate::config::{Network, Outgoing};
use async_trait::async_trait;
use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use http::{HeaderMap, Method, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, redirect};
use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use place::URL_BYTES_MAX;
pub use reqwest::Url;

/// Addresses of one name that are looked at; a name with more is refused.
const ADDRESSES_MAX: usize = 64;
/// Answers of name servers that are remembered.
const NAMES_MAX: u64 = 1_024;
/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_CONNECTIONS_MAX: usize = 1;

/// Why a URL or an address is not connected to. Prints as a sentence for the person who chose it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It can't be taken as a URL of ours.
    #[error("the URL {0}")]
    Url(&'static str),
    /// The operator does not let connections out on this port.
    #[error("the URL must not name port {0}: the operator allows others only")]
    Port(u16),
    /// The host is an address, or a name of one, that is not public.
    #[error("the URL leads to {0}, which is not a public address: {1}")]
    Address(IpAddr, &'static str),
    /// The name has no address now.
    #[error("the URL's host name has no address: {0}")]
    NoAddress(String),
}

/// Finds the addresses of a name.
#[async_trait]
pub trait Names: Send + Sync {
    /// All of them, of both families; the error says why there are none.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String>;
}

/// A URL that may be connected to now, and the addresses that were found to be public, with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// As it is written in requests.
    pub url: Url,
    /// Where it may be connected to, and nowhere else; never empty.
    pub addresses: Vec<SocketAddr>,
}

/// A request to a URL that is not ours.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Its method.
    pub method: Method,
    /// The URL as its owner wrote it.
    pub url: &'a str,
    /// Its headers; secrets among them are marked sensitive by whoever made them.
    pub headers: HeaderMap,
    /// Its body; empty where there is none.
    pub body: Bytes,
}

/// What somebody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
    /// The first bytes of the body, as many as were asked for at most.
    pub body: Bytes,
}

/// Lets connections out to public addresses only, or to those that the operator has named. Clones share its connections.
#[derive(Clone)]
pub struct AddressGuard {
    rules: Arc<Rules>,
    names: Arc<dyn Names>,
    client: Client,
}

/// What the operator allows.
struct Rules {
    allow_http: bool,
    allowed: Vec<Network>,
    ports: Vec<u16>,
    resolve_timeout: Duration,
}

impl AddressGuard {
    /// A guard that asks the system's name servers; the error is that there is no TLS.
    pub fn new(settings: &Outgoing) -> Result<Self, reqwest::Error> {
        Self::with_names(settings, Arc::new(NameServers::of_system()))
    }

    /// A guard that asks somebody else for addresses.
    pub fn with_names(settings: &Outgoing, names: Arc<dyn Names>) -> Result<Self, reqwest::Error> {
        pingora_rustls::install_default_crypto_provider();
        let rules = Arc::new(Rules {
            allow_http: settings.allow_http,
            allowed: settings.allow_private_addresses.clone(),
            ports: settings.ports.clone(),
            resolve_timeout: settings.resolve_timeout,
        });
        let checked = CheckedNames { rules: Arc::clone(&rules), names: Arc::clone(&names) };
        let client = Client::builder()
            .dns_resolver(Arc::new(checked))
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { rules, names, client })
    }

    /// Reads a URL and finds what it leads to now. Whoever connects without [`AddressGuard::send`] must connect to these addresses.
    pub async fn check(&self, text: &str) -> Result<Checked, Refused> {
        let url = self.rules.read(text)?;
        let port = url.port_or_known_default().ok_or(Refused::Url("names no port"))?;
        let found = match place::literal(&url) {
            Some(address) => vec![address],
            None => addresses(&self.rules, &*self.names, url.host_str().unwrap_or_default()).await?,
        };
        Ok(Checked { url, addresses: found.into_iter().map(|address| SocketAddr::new(address, port)).collect() })
    }

    /// Sends a message, and takes at most `answer_bytes_max` of the answer's body.
    pub async fn send(&self, message: Message<'_>, answer_bytes_max: usize) -> Result<Answer, Unsent> {
        let url = self.rules.read(message.url)?;
        let request = self.client.request(message.method, url).headers(message.headers).body(message.body);
        let mut response = request.send().await?;
        let body = first_bytes(&mut response, answer_bytes_max).await?;
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
    }
}

/// Reads a URL, http or https, without asking where it leads: that is found out when it is connected to.
pub fn read_url(text: &str) -> Result<Url, Refused> {
    place::read(text, true)
}

impl fmt::Debug for AddressGuard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AddressGuard(…)")
    }
}

impl Rules {
    /// Reads a URL; where its host is an address, it is checked.
    fn read(&self, text: &str) -> Result<Url, Refused> {
        let url = place::read(text, self.allow_http)?;
        let port = url.port_or_known_default().unwrap_or_default();
        if !self.ports.is_empty() && !self.ports.contains(&port) {
            return Err(Refused::Port(port));
        }
        match place::literal(&url) {
            Some(address) => self.admit(address)?,
            // A name without a dot, or of a local domain, is of use only where the operator has opened something that is not public.
            None if self.allowed.is_empty() => place::refuse_local_name(url.host_str().unwrap_or_default())?,
            None => {}
        }
        Ok(url)
    }

    fn admit(&self, address: IpAddr) -> Result<(), Refused> {
        match ranges::not_public(address) {
            Some(reason) if !self.allowed.iter().any(|network| network.contains(address)) => {
                Err(Refused::Address(address, reason))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The addresses of a name, if every one of them may be connected to.
async fn addresses(rules: &Rules, names: &dyn Names, host: &str) -> Result<Vec<IpAddr>, Refused> {
    let found = tokio::time::timeout(rules.resolve_timeout, names.addresses(host)).await;
    let found = found.map_err(|_| Refused::NoAddress("the name servers did not answer in time".to_owned()))?;
    let found = found.map_err(Refused::NoAddress)?;
    if found.is_empty() || found.len() > ADDRESSES_MAX {
        return Err(Refused::NoAddress(format!("{} addresses were found", found.len())));
    }
    found.iter().try_for_each(|address| rules.admit(*address))?;
    Ok(found)
}

/// Where the client gets addresses from: there is no other way to one.
struct CheckedNames {
    rules: Arc<Rules>,
    names: Arc<dyn Names>,
}

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, names) = (Arc::clone(&self.rules), Arc::clone(&self.names));
        Box::pin(async move {
            let found = addresses(&rules, &*names, name.as_str()).await?;
            // The client puts the URL's port in place of zero.
            let found: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(found)
        })
    }
}

/// The name servers that the system is configured to ask.
struct NameServers(Result<TokioResolver, String>);

impl NameServers {
    fn of_system() -> Self {
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.cache_size = NAMES_MAX;
            builder.build()
        });
        Self(built.map_err(|error| error.to_string()))
    }
}

#[async_trait]
impl Names for NameServers {
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let resolver = self.0.as_ref().map_err(Clone::clone)?;
        // With a dot at its end a name is whole: no search domain of ours is added to it.
        let whole = format!("{}.", host.trim_end_matches('.'));
        match resolver.lookup_ip(whole).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(_) => Err("the name servers gave no answer".to_owned()),
        }
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unsent {
    /// It was not sent.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// It may have been received or not.
    #[error("{}", failure(.0))]
    Failed(#[from] reqwest::Error),
}

/// A sentence without the URL, which may hold a secret of its owner.
fn failure(error: &reqwest::Error) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut deepest = String::new();
    while let Some(current) = cause {
        if let Some(refused) = current.downcast_ref::<Refused>() {
            return refused.to_string();
        }
        cause = current.source();
        if cause.is_none() {
            deepest = current.to_string();
        }
    }
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let step = if error.is_connect() { "no connection" } else { "the exchange failed" };
    format!("{step}: {deepest}")
}

async fn first_bytes(response: &mut Response, bytes_max: usize) -> Result<Bytes, reqwest::Error> {
    let mut taken = Vec::new();
    while taken.len() < bytes_max {
        let Some(chunk) = response.chunk().await? else { break };
        let room = bytes_max - taken.len();
        taken.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    Ok(taken.into())
}
