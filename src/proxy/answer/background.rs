//! Answers that come later (OpenAI "Background mode"): the provider goes on when the request has ended, so somebody has to ask how it
//! ended and put it on the books. The call keeps its reservation until then.

use super::{Passage, connection_after};
use crate::clock;
use crate::metrics::InFlight;
use crate::proxy::answer_head::BodyLength;
use crate::proxy::attempt::{Exchange, Outgoing};
use crate::proxy::own::OwnAccount;
use crate::proxy::providers::Provider;
use crate::proxy::report::Report;
use crate::proxy::way::Way;
use crate::proxy::{Connection, Gateway, Runtime};
use bytes::{Bytes, BytesMut};
use filters::denied::Denied;
use filters::dialect::{Dialect, Protocol};
use filters::meter::Meter;
use filters::objects::Object;
use filters::own::is_own;
use filters::pipeline::Admitted;
use filters::ports::{Amendment, Outcome, Unread};
use filters::tally::Tally;
use filters::time::EpochMs;
use http::Method;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The first pause between two questions, and the longest: each is half as long again as the one before.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A response that a provider works on.
pub(super) struct Unanswered {
    id: Arc<str>,
    provider: Arc<Provider>,
    credential: u16,
    /// The organisation's own account, where the credential is that one's.
    account: Option<Arc<OwnAccount>>,
}

impl Unanswered {
    /// Asks again and again until the response has ended, for so long.
    async fn follow(&self, gateway: &Gateway, runtime: &Runtime) -> Said {
        let (begun, mut pause) = (Instant::now(), PAUSE_MIN);
        while begun.elapsed() < runtime.limits.background_time_max {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
            match self.ask(gateway, runtime).await.unwrap_or(Said::Nothing) {
                Said::Nothing => {}
                said => return said,
            }
        }
        Said::Gone
    }

    /// Asks the provider that has the response, with the credential that made it.
    async fn ask(&self, gateway: &Gateway, runtime: &Runtime) -> Option<Said> {
        let Self { id, provider, credential, account } = self;
        let (peer, now) = (provider.peer()?, clock::now());
        let credential = match account {
            Some(account) => &account.credential,
            None => provider.pinned_credential(Some(*credential), 0, now)?,
        };
        let idle = provider.settings.timeouts.idle;
        let outgoing = Outgoing {
            protocol: Protocol::Openai,
            method: &Method::GET,
            path: &format!("/responses/{id}"),
            pieces: &[],
            credential: &credential.means,
            model: "",
            at: now,
        };
        let asked = RequestHeader::build("GET", b"/", None).ok()?;
        let way = Way::open(gateway, (provider, &peer), &asked, &outgoing, Some(0)).await?;
        let mut exchange = Exchange::sent(way.finish(&peer, idle).await?, peer, provider, Instant::now());
        exchange.await_head().await.ok()?;
        let status = exchange.head().status;
        let mut body = BytesMut::new();
        while let Some(bytes) = exchange.read(idle).await.ok()? {
            body.extend_from_slice(&bytes);
            if body.len() as u64 > runtime.limits.body_bytes_max {
                break;
            }
        }
        exchange.release(gateway).await;
        match status.as_u16() {
            404 | 410 => Some(Said::Gone),
            200..=299 => Some(said(body.freeze())),
            _ => None,
        }
    }
}

impl Passage<'_> {
    /// The response that goes on without its client, if this one does.
    pub(super) fn unanswered(&self, exchange: &Exchange, meter: &Meter) -> Option<Unanswered> {
        let is_known = meter.tally().reported.is_some_and(|reported| reported.is_final);
        if !self.call.head().in_background || is_known {
            return None;
        }
        let (id, credential) = self.claimer.as_ref()?.response()?;
        Some(Unanswered { id, credential, provider: Arc::clone(exchange.provider()), account: self.account.clone() })
    }

    /// Passes on what the provider says of an answer that is still to come.
    pub(super) async fn put_off(self, exchange: Box<Exchange>, body: Bytes, response: Unanswered) -> Connection {
        let mut head = Some(self.head(&exchange, BodyLength::Bytes(body.len())));
        self.report.mark_first_byte();
        self.report.status = exchange.head().status.as_u16();
        let gateway = self.gateway;
        let client = self.go_on(response);
        gateway.until_durable().await;
        let written = async {
            if let Some(head) = head.take() {
                client.write_response_header(head.finish()).await?;
            }
            client.write_response_body(body, true).await
        };
        let connection = connection_after(written.await);
        exchange.release(gateway).await;
        connection
    }
}

impl<'a> Passage<'a> {
    /// Leaves the call to a task that asks how it ends.
    pub(super) fn go_on(self, response: Unanswered) -> &'a mut ServerSession {
        let Self { gateway, runtime, client, call, report, .. } = self;
        gateway.activity.requests.fetch_add(1, Ordering::AcqRel);
        let background = Background {
            runtime: Arc::clone(runtime),
            call,
            report: report.hand_on(),
            response,
            place: Place { gateway: Arc::clone(gateway), _in_flight: gateway.metrics.enter() },
        };
        tokio::spawn(background.run());
        client
    }
}

/// It counts as a request in progress until this is dropped.
struct Place {
    gateway: Arc<Gateway>,
    _in_flight: InFlight,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateway.activity.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call whose answer is still to come.
struct Background {
    runtime: Arc<Runtime>,
    call: Box<Admitted>,
    report: Report,
    response: Unanswered,
    place: Place,
}

/// What is read of a response.
#[derive(Deserialize)]
struct Standing<'a> {
    #[serde(borrow)]
    status: Option<&'a str>,
}

/// What a provider says.
enum Said {
    /// It is not done, or could not be asked.
    Nothing,
    /// It has ended like this.
    Ended(Outcome, Tally),
    /// It knows nothing of it any more, or it has taken too long.
    Gone,
}

impl Background {
    async fn run(mut self) {
        let begun = Instant::now();
        // Should nobody learn how it ends, it has had the output that was set aside.
        let tokens = self.runtime.allowances.output_tokens_max;
        self.call.progress.tally.text_bytes = tokens.saturating_mul(4);
        // It is written down, so that a process that dies leaves no less. A refusal only says that there is no more credit.
        let _ = self.call.extend(&*self.place.gateway.authority, clock::now()).await;
        let outcome = match self.response.follow(&self.place.gateway, &self.runtime).await {
            Said::Ended(outcome, tally) => {
                if tally.reported.is_some() {
                    self.call.progress.tally = tally;
                }
                outcome
            }
            Said::Nothing | Said::Gone => Outcome::Complete,
        };
        self.report.upstream += begun.elapsed();
        self.report.settle(self.call, outcome);
        self.place.gateway.account(&self.runtime, &self.report);
    }
}

impl Gateway {
    /// Takes up the background responses of an earlier process: their calls were charged what was set aside, and are amended by the
    /// difference when they have ended.
    pub async fn take_up_responses(self: Arc<Self>) {
        let runtime = self.runtime.load_full();
        let time_max = i64::try_from(runtime.limits.background_time_max.as_millis()).unwrap_or(i64::MAX);
        let since = EpochMs(clock::now().0.saturating_sub(time_max));
        let Ok(unread) = self.objects.unread(since).await else { return };
        for unread in unread {
            tokio::spawn(Arc::clone(&self).take_up(Arc::clone(&runtime), unread));
        }
    }

    /// The organisation's own account that has an object, where one has; an error if it is not to be had.
    async fn account_of(&self, object: &Object, configured: &Arc<Provider>) -> Result<Option<Arc<OwnAccount>>, Denied> {
        if !is_own(object.credential) {
            return Ok(None);
        }
        let own = self.keys.own(object.org).await.map_err(|_| Denied::OwnersUnavailable)?;
        let own = own.and_then(|own| own.iter().find(|own| own.place == object.credential).cloned());
        let own = own.ok_or(Denied::OwnCredentialUnusable)?;
        let account = self.own.account(&own, configured, &self.metrics).await;
        account.map(Some).map_err(|failure| failure.denied())
    }

    async fn take_up(self: Arc<Self>, runtime: Arc<Runtime>, unread: Unread) {
        let Unread { response, usage, charge, price, shares } = unread;
        let Some(configured) = runtime.provider_named(&response.provider) else { return };
        let Ok(account) = self.account_of(&response, configured).await else { return };
        let provider = Arc::clone(account.as_ref().map_or(configured, |account| &account.provider));
        let mut versions = runtime.catalogue.candidates().flat_map(|(_, candidate)| candidate.price_versions());
        let Some(version) = versions.find(|version| version.id == price) else { return };
        let unanswered =
            Unanswered { id: Arc::clone(&response.id), provider, credential: response.credential, account };
        let Said::Ended(_, tally) = unanswered.follow(&self, &runtime).await else { return };
        let Some(reported) = tally.reported else { return };
        let cost = version.price.cost(&reported.usage, tally.tier.unwrap_or_default());
        let amendment = Amendment {
            call: response.call,
            sequence: 1,
            key: response.key,
            org: response.org,
            usage: reported.usage.beyond(&usage),
            charge: cost - charge,
            shares,
            at: clock::now(),
        };
        if self.journal.amend(&amendment).is_err() {
            tracing::error!(request_id = %amendment.call, "what a background response has used can't be written down");
        }
    }
}

fn said(body: Bytes) -> Said {
    let standing: Option<Standing<'_>> = serde_json::from_slice(&body).ok();
    let status = standing.and_then(|standing| standing.status).unwrap_or_default().to_owned();
    let mut meter = Meter::of_answer(Dialect::OpenaiResponses);
    meter.feed(body);
    meter.finish();
    let tally = *meter.tally();
    match status.as_str() {
        // Who failed without figures is paid nothing.
        "failed" if tally.reported.is_none() => Said::Ended(Outcome::Refused, tally),
        "failed" => Said::Ended(Outcome::UpstreamFailed, tally),
        "completed" | "incomplete" | "cancelled" => Said::Ended(Outcome::Complete, tally),
        _ => Said::Nothing,
    }
}
