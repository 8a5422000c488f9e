//! Tells webhooks of what happened: takes what waits in the store's outbox, signs it, sends it, and tries again for days.
//!
//! Every node does this beside the others. A delivery is claimed for a while and then is one node's; if that dies, the claim
//! runs out and another sends the same message again, with the same `webhook-id`. So each message arrives at least once, and who
//! remembers its id takes it once.

mod message;

use crate::address_guard::{AddressGuard, Message, Unsent};
use crate::clock;
use crate::config;
use crate::store::deliveries::{Claimed, LastTry, Verdict};
use crate::store::notices::NoticeSettings;
use crate::store::{Store, StoreError};
use bytes::Bytes;
use filters::id::{OrgId, WebhookId};
use filters::time::EpochMs;
use http::{Method, StatusCode};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

/// How often the outbox is looked into.
const POLL: Duration = Duration::from_millis(500);
/// How long what is under way may take after the gateway was told to stop. What is cut off then is sent again by somebody.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Beyond the time of an exchange, a claim covers the writing down of what came of it.
const CLAIM_SLACK_MS: i64 = 5_000;
/// The most of an answer that is waited for: nobody reads it.
const ANSWER_BYTES_MAX: usize = 1_024;
/// Of the messages that are sent at once, those of one owner are so small a part.
const OWNERS_AT_LEAST: usize = 4;
/// What nodes call the duty of giving notices.
const NOTICES: &str = "notices";

/// What metrics ask.
#[derive(Debug, Default)]
pub struct WebhookCounts {
    /// Tries that were taken.
    pub delivered: AtomicU64,
    /// Tries that failed.
    pub failed: AtomicU64,
    /// Deliveries that were given up.
    pub given_up: AtomicU64,
    /// Deliveries that wait, as of late.
    pub waiting: AtomicU64,
    /// When the event of the oldest of them happened, in milliseconds; 0 where nothing waits.
    pub oldest_ms: AtomicI64,
}

/// Sends what waits.
pub struct Sender {
    line: Arc<Line>,
    settings: config::Webhooks,
    counts: Arc<WebhookCounts>,
    under_way: JoinSet<()>,
    /// Whose each of them is.
    owners: HashMap<Id, (WebhookId, Option<OrgId>)>,
}

/// What a message needs on its way.
struct Line {
    store: Store,
    guard: AddressGuard,
    back_off: Vec<Duration>,
    claim_ms: i64,
    counts: Arc<WebhookCounts>,
}

impl Sender {
    /// A sender through a guard whose exchanges take no longer than the configuration says.
    #[must_use]
    pub fn new(store: Store, guard: AddressGuard, outgoing: &config::Outgoing, settings: &config::Webhooks) -> Self {
        let counts = Arc::new(WebhookCounts::default());
        let exchange = outgoing.resolve_timeout + outgoing.timeout;
        let claim_ms = i64::try_from(exchange.as_millis()).unwrap_or(i64::MAX).saturating_add(CLAIM_SLACK_MS);
        let back_off = settings.back_off.clone();
        Self {
            line: Arc::new(Line { store, guard, back_off, claim_ms, counts: Arc::clone(&counts) }),
            settings: settings.clone(),
            counts,
            under_way: JoinSet::new(),
            owners: HashMap::new(),
        }
    }

    /// What metrics ask.
    #[must_use]
    pub fn counts(&self) -> Arc<WebhookCounts> {
        Arc::clone(&self.counts)
    }

    /// Sends what waits and gives notices, until shutdown; what is under way then is ended.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let (mut poll, mut notice) = (tokio::time::interval(POLL), tokio::time::interval(self.settings.notice));
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        notice.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_notice_due = tokio::select! {
                // An error says that nobody is left to tell us: that is a shutdown too.
                _ = shutdown.wait_for(|stop| *stop) => break,
                _ = notice.tick() => true,
                _ = poll.tick() => false,
                Some(ended) = self.under_way.join_next_with_id() => {
                    let id = ended.map_or_else(|panicked| panicked.id(), |(id, ())| id);
                    self.owners.remove(&id);
                    false
                }
            };
            let done = if is_notice_due { self.give_notices().await } else { self.begin_due().await };
            if let Err(cause) = done {
                tracing::warn!(%cause, "webhooks can't be told now; what waits stays in the outbox");
            }
        }
        // The error says that some were not done in time.
        let _ = tokio::time::timeout(STOP_TIMEOUT, async { while self.under_way.join_next().await.is_some() {} }).await;
    }

    /// Claims and sends what is due, as far as there is room for it.
    async fn begin_due(&mut self) -> Result<(), StoreError> {
        if self.room() == 0 {
            return Ok(());
        }
        let now = self.line.store.moment().await?;
        // Those that have all their room taken may stand first: there are no more of them than messages under way.
        let due = self.line.store.due_webhooks(2 * self.settings.in_flight_max, now).await?;
        for (webhook, owner) in due {
            let room = self.room_of(webhook, owner);
            if room == 0 {
                continue;
            }
            let until = now.plus(self.line.claim_ms);
            for claimed in self.line.store.claim_deliveries(webhook, room, until, now).await? {
                let line = Arc::clone(&self.line);
                let task = self.under_way.spawn(async move { line.deliver(claimed).await });
                self.owners.insert(task.id(), (webhook, owner));
            }
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.settings.in_flight_max.saturating_sub(self.owners.len())
    }

    /// How many more messages may be sent to a webhook now.
    fn room_of(&self, webhook: WebhookId, owner: Option<OrgId>) -> usize {
        let of_this = self.owners.values().filter(|(other, _)| *other == webhook).count();
        let of_its_owner = self.owners.values().filter(|(_, other)| *other == owner).count();
        let of_webhook = self.settings.per_webhook_max.saturating_sub(of_this);
        let of_owner = self.settings.in_flight_max.div_ceil(OWNERS_AT_LEAST).saturating_sub(of_its_owner);
        self.room().min(of_webhook).min(of_owner)
    }

    /// Looks after keys and balances, if no other node did so lately, and counts what waits.
    async fn give_notices(&self) -> Result<(), StoreError> {
        let store = &self.line.store;
        let now = store.moment().await?;
        let every_ms = i64::try_from(self.settings.notice.as_millis()).unwrap_or(i64::MAX);
        if store.takes_duty(NOTICES, every_ms, now).await? {
            let settings = NoticeSettings {
                key_expiry_days: self.settings.key_expiry_days.clone(),
                credit_low: self.settings.credit_low,
                keep_days: self.settings.keep_days,
            };
            store.give_notices(&settings, now).await?;
        }
        let backlog = store.delivery_backlog().await?;
        self.counts.waiting.store(backlog.waiting, Relaxed);
        self.counts.oldest_ms.store(backlog.oldest.map_or(0, |oldest| oldest.0), Relaxed);
        Ok(())
    }
}

impl Line {
    /// Sends a message and writes down what came of it.
    async fn deliver(&self, claimed: Claimed) {
        let began = Instant::now();
        let answered = self.send(&claimed).await;
        let took = began.elapsed();
        let at = self.store.moment().await.unwrap_or_else(|_| clock::now());
        let (status, error) = match answered {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let verdict = self.verdict(status, claimed.attempts, at);
        match verdict {
            Verdict::Delivered => self.counts.delivered.fetch_add(1, Relaxed),
            Verdict::Again(_) => self.counts.failed.fetch_add(1, Relaxed),
            Verdict::Failed | Verdict::Gone => {
                let (delivery, webhook) = (claimed.id, claimed.webhook);
                tracing::warn!(%delivery, %webhook, ?status, error, "a webhook was not told of an event");
                self.counts.failed.fetch_add(1, Relaxed);
                self.counts.given_up.fetch_add(1, Relaxed)
            }
        };
        let tried = LastTry { at, took, status: status.map(|status| status.as_u16()), error };
        if let Err(cause) = self.store.settle_delivery(&claimed, &tried, verdict).await {
            tracing::warn!(delivery = %claimed.id, %cause, "what came of a delivery was not written down: it is sent again");
        }
    }

    async fn send(&self, claimed: &Claimed) -> Result<StatusCode, Unsent> {
        let body = message::body(claimed);
        let headers = message::headers(claimed, &body, clock::now());
        let message = Message { method: Method::POST, url: &claimed.url, headers, body: Bytes::from(body) };
        Ok(self.guard.send(message, ANSWER_BYTES_MAX).await?.status)
    }

    /// What becomes of a delivery after an answer, or none, to a try after so many others.
    fn verdict(&self, status: Option<StatusCode>, attempts: u64, now: EpochMs) -> Verdict {
        match status {
            Some(status) if status.is_success() => Verdict::Delivered,
            Some(StatusCode::GONE) => Verdict::Gone,
            Some(_) | None => {
                let wait = usize::try_from(attempts).ok().and_then(|attempts| self.back_off.get(attempts));
                let wait_ms = wait.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
                wait_ms.map_or(Verdict::Failed, |wait_ms| Verdict::Again(now.plus(wait_ms)))
            }
        }
    }
}
