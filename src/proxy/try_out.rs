//! What keepers of organisations' credentials ask of providers.

use super::Gateway;
use super::attempt::{Exchange, Outgoing};
use super::headers::Means;
use super::own::OwnAccount;
use super::way::Way;
use crate::clock;
use async_trait::async_trait;
use bytes::Bytes;
use filters::dialect::Protocol;
use filters::own::{CredentialProblem, OwnCredential, OwnSecret, Providers, Trial};
use http::Method;
use pingora::http::RequestHeader;
use std::time::{Duration, Instant};

/// Somebody waits for the answer.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(10);

/// Something that a provider answers only to those whom it knows, and that costs nothing: a list of models, or a request for nothing
/// where there is no such list.
fn question(protocol: Protocol) -> (Method, &'static str, &'static [u8]) {
    match protocol {
        Protocol::Openai | Protocol::Anthropic | Protocol::Gemini => (Method::GET, "/models", b""),
        Protocol::Cohere => (Method::POST, "/chat", b"{}"),
        Protocol::Bedrock => (Method::POST, "/model/amazon.nova-micro-v1/converse", b"{}"),
    }
}

/// Whether an answer of this status says that the credential was taken.
fn is_taken(method: &Method, status: u16) -> bool {
    match status {
        401 | 403 => false,
        200..=299 => true,
        // A request for nothing is refused for what it lacks by those who have looked whose it is.
        400..=499 => *method == Method::POST && status != 429,
        _ => false,
    }
}

#[async_trait]
impl Providers for Gateway {
    fn check_credential(&self, provider: &str, secret: &OwnSecret) -> Result<(), CredentialProblem> {
        let runtime = self.runtime.load();
        let provider = runtime.provider_named(provider).ok_or(CredentialProblem::UnknownProvider)?;
        Means::of(&provider.settings.credential, secret.reveal()).map(drop).map_err(CredentialProblem::Secret)
    }

    async fn try_credential(&self, own: &OwnCredential) -> Trial {
        let begun = Instant::now();
        let asked = tokio::time::timeout(TRIAL_TIME_MAX, self.ask_with(own)).await.unwrap_or(None);
        let (is_taken, status) = asked.map_or((false, None), |(is_taken, status)| (is_taken, Some(status)));
        Trial { is_taken, status, milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Gateway {
    async fn ask_with(&self, own: &OwnCredential) -> Option<(bool, u16)> {
        let runtime = self.runtime.load_full();
        let configured = runtime.provider_named(&own.provider)?;
        let account = self.own.account(own, configured, &self.metrics).await.ok()?;
        let OwnAccount { provider, credential, .. } = &*account;
        let (method, path, body) = question(provider.settings.protocol);
        let pieces = [Bytes::from_static(body)];
        let outgoing = Outgoing {
            protocol: provider.settings.protocol,
            method: &method,
            path,
            pieces: &pieces,
            credential: &credential.means,
            model: "",
            at: clock::now(),
        };
        let (peer, idle) = (provider.peer()?, provider.settings.timeouts.idle);
        let mut asked = RequestHeader::build(method.clone(), b"/", None).ok()?;
        asked.insert_header("content-type", "application/json").ok()?;
        if provider.settings.protocol == Protocol::Anthropic {
            asked.insert_header("anthropic-version", "2023-06-01").ok()?;
        }
        let mut way = Way::open(self, (provider, &peer), &asked, &outgoing, Some(body.len())).await?;
        if !body.is_empty() {
            way.write(Bytes::from_static(body), idle).await?;
        }
        let mut exchange = Exchange::sent(way.finish(&peer, idle).await?, peer, provider, Instant::now());
        exchange.await_head().await.ok()?;
        let status = exchange.head().status.as_u16();
        credential.judge(provider, exchange.head());
        // What it says is nobody's affair here.
        exchange.abort().await;
        Some((is_taken(&method, status), status))
    }
}
