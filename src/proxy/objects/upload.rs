//! Files on their way to a provider: passed on as they arrive, and claimed before the client learns their ids.

use super::{Inquiry, failed, log_unclaimed, refuse_for_credential};
use crate::clock;
use crate::proxy::answer::whole_answer;
use crate::proxy::answer_head::BodyLength;
use crate::proxy::attempt::{Exchange, Failure, Outgoing};
use crate::proxy::providers::{Credential, Provider};
use crate::proxy::way::Way;
use crate::proxy::{Connection, own, receive};
use bytes::{Bytes, BytesMut};
use filters::denied::Denied;
use filters::dialect::Dialect;
use filters::objects::ObjectKind;
use filters::ports::Description;
use http::Method;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Instant;

/// What a provider says of a file has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is read of a provider's answer.
#[derive(Deserialize)]
struct Made {
    id: String,
    purpose: Option<String>,
}

impl Inquiry<'_> {
    /// Passes an upload on to a provider.
    pub(super) async fn upload(mut self) -> Result<Connection, Denied> {
        let (configured, now) = (self.receiver()?, clock::now());
        let own = own::first_at(self.key, &configured.name, &self.gateway.own, now).map(|own| &**own);
        let account = self.gateway.own.of(own, &configured, &self.gateway.metrics).await;
        let account = account.map_err(|failure| failure.denied())?;
        let provider = Arc::clone(own::provider_of(&account, &configured));
        let credential = own::credential_of(&account, || provider.credential(self.report.call.0 as u64, now));
        let credential = credential.map_err(|failure| failure.denied())?;
        self.report.attempts = 1;
        let mut exchange = self.send(&provider, credential).await?;
        let answered = exchange.await_head().await;
        answered.map_err(|failure| failed(&provider, credential, failure))?;
        refuse_for_credential(&exchange, credential)?;
        let body = read_answer(&mut exchange).await?;
        if exchange.head().status.is_success() {
            self.keep(&body, &provider, credential).await?;
        }
        let head = self.head(&exchange, BodyLength::Bytes(body.len()));
        self.report.status = exchange.head().status.as_u16();
        self.gateway.until_durable().await;
        let connection = whole_answer(self.client, head, body).await;
        exchange.release(self.gateway).await;
        Ok(connection)
    }

    /// Who takes the file: of the providers that the key may use those that read files, and of them one where the organisation has a
    /// credential of its own, that is well, and that comes first in the catalogue.
    fn receiver(&self) -> Result<Arc<Provider>, Denied> {
        let protocol = self.target.route.protocol();
        let reads_files = |provider: &Provider| {
            let apis = &provider.settings.apis;
            apis.is_empty() || apis.contains(&Dialect::OpenaiResponses) || apis.contains(&Dialect::Anthropic)
        };
        let mut providers = self.runtime.providers_of(protocol, self.key, self.target.provider.as_deref());
        providers.retain(|provider| self.target.provider.is_some() || reads_files(provider));
        let now = clock::now();
        let rank = |provider: &Arc<Provider>| {
            let has_own = own::first_at(self.key, &provider.name, &self.gateway.own, now).is_some();
            (
                !has_own,
                !has_own && !provider.is_well(now),
                self.runtime.rank(provider).unwrap_or(u32::MAX),
                Arc::clone(&provider.name),
            )
        };
        providers.into_iter().min_by_key(rank).ok_or(Denied::NotFound)
    }

    /// Writes the file down as the organisation's.
    async fn keep(&self, body: &[u8], provider: &Provider, credential: &Credential) -> Result<(), Denied> {
        let Ok(made) = serde_json::from_slice::<Made>(body) else { return Ok(()) };
        let file = self.made(&made.id, ObjectKind::File, provider, credential);
        if self.gateway.objects.claim(&file).is_err() {
            log_unclaimed(self.report.call, ObjectKind::File);
            return Err(Denied::StoreUnavailable);
        }
        let content = String::from_utf8_lossy(body).into_owned();
        // A file that can't be listed is the organisation's all the same.
        let _ = self.gateway.objects.describe(&file, &Description { content, purpose: made.purpose }).await;
        Ok(())
    }

    /// Sends the request, its body as it arrives. Nothing is sent twice, so the connection is a new one.
    async fn send(&mut self, provider: &Arc<Provider>, credential: &Credential) -> Result<Box<Exchange>, Denied> {
        let bytes_max = self.runtime.limits.upload_bytes_max;
        let asked = &self.client.req_header().headers;
        let length = receive::content_length(asked);
        if length.is_some_and(|length| length as u64 > bytes_max) {
            return Err(Denied::BodyTooLarge(bytes_max));
        }
        let is_awaited = receive::awaits_leave(asked);
        let peer = provider.peer().ok_or(Denied::UpstreamFailed)?;
        let idle = provider.settings.timeouts.idle;
        let outgoing = Outgoing {
            protocol: self.target.route.protocol(),
            method: &Method::POST,
            path: &self.target.path(""),
            pieces: &[],
            credential: &credential.means,
            model: "",
            at: clock::now(),
        };
        let reset = || failed(provider, credential, Failure::Reset);
        let mut way = Way::open(self.gateway, (provider, &peer), self.client.req_header(), &outgoing, length)
            .await
            .ok_or_else(reset)?;
        if is_awaited {
            self.client.write_continue_response().await.map_err(|_| Denied::RequestTimeout)?;
        }
        let body_idle = self.runtime.limits.body_idle_timeout;
        self.client.set_read_timeout(Some(body_idle));
        let mut bytes_sent = 0;
        while let Some(chunk) = receive::next_chunk(self.client, body_idle).await? {
            bytes_sent += chunk.len() as u64;
            if bytes_sent > bytes_max {
                return Err(Denied::BodyTooLarge(bytes_max));
            }
            way.write(chunk, idle).await.ok_or_else(reset)?;
        }
        let session = way.finish(&peer, idle).await.ok_or_else(reset)?;
        Ok(Exchange::sent(session, peer, provider, Instant::now()))
    }
}

/// The whole answer.
async fn read_answer(exchange: &mut Exchange) -> Result<Bytes, Denied> {
    let idle = exchange.provider().settings.timeouts.idle;
    let mut body = BytesMut::new();
    while let Some(bytes) = exchange.read(idle).await.map_err(|_| Denied::UpstreamFailed)? {
        body.extend_from_slice(&bytes);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(Denied::UpstreamFailed);
        }
    }
    Ok(body.freeze())
}
