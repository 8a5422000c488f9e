//! The outbox: what somebody is to be told, written in the transaction in which it happens, with a delivery for each webhook that
//! wants to hear of it. `webhooks.rs` keeps those, `deliveries.rs` what is sent to them.

use super::webhooks::{owner, wanting};
use super::{Connection, LIST_MAX, Rows, Store, StoreError, parsed};
use filters::id::{CallId, CredentialId, DeliveryId, EventId, KeyId, OrgId, WebhookId, bits};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::Row;
use std::fmt;

/// What happens that somebody may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A key ends soon.
    KeyExpiring,
    /// A quota has reached a part of its limit.
    LimitThreshold,
    /// An organisation's balance has fallen below an amount.
    CreditLow,
    /// A provider refused a credential of the organisation's own; it is passed over for a while.
    CredentialBenched,
    /// A call cost more than was set aside for it.
    BoundExceeded,
    /// Somebody asked for it, to see whether a webhook works.
    WebhookTest,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::KeyExpiring,
        Self::LimitThreshold,
        Self::CreditLow,
        Self::CredentialBenched,
        Self::BoundExceeded,
        Self::WebhookTest,
    ];

    /// The name in messages, filters and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyExpiring => "key.expiring",
            Self::LimitThreshold => "limit.threshold",
            Self::CreditLow => "credit.low",
            Self::CredentialBenched => "credential.benched",
            Self::BoundExceeded => "bound.exceeded",
            Self::WebhookTest => "webhook.test",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The names of the kinds of events that a webhook hears of; none: all. Prints and parses as names separated by spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindFilter(Vec<String>);

impl KindFilter {
    /// A filter of names; the error is one that is no kind's.
    pub fn of(names: &[String]) -> Result<Self, String> {
        match names.iter().find(|name| EventKind::named(name).is_none()) {
            Some(unknown) => Err(unknown.clone()),
            None => Ok(Self(names.to_vec())),
        }
    }

    /// Whether an event of a kind is among them.
    #[must_use]
    pub fn wants(&self, kind: EventKind) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| name == kind.name())
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// As it stands in a row: names of kinds that a later release knows are among them.
    pub(super) fn read(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }
}

impl fmt::Display for KindFilter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(" "))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// None: the operator.
    org: Option<OrgId>,
    kind: EventKind,
    /// Of two events with the same, the first is told.
    once: String,
    data: Value,
}

/// An event that is in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Names it for good: `webhook-id`.
    pub id: EventId,
    /// What happened.
    pub kind: String,
    /// The particulars, JSON.
    pub data: String,
    /// When it was written down.
    pub at: EpochMs,
}

/// A key that ends soon.
#[derive(Clone, Debug)]
pub(super) struct ExpiringKey {
    pub(super) key: KeyId,
    pub(super) org: OrgId,
    pub(super) name: String,
    pub(super) fingerprint: String,
    pub(super) expires: EpochMs,
}

/// A quota that has reached a part of its limit. `quota` is its number, `owner` whose it is.
#[derive(Clone, Debug)]
pub(super) struct ReachedThreshold {
    pub(super) quota: i64,
    pub(super) owner: String,
    pub(super) kind: String,
    pub(super) period: EpochMs,
    pub(super) percent: u8,
    pub(super) limit: NanoUsd,
    pub(super) spent: NanoUsd,
}

/// A call that cost more than was set aside for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExceededBound<'a> {
    pub(super) call: CallId,
    pub(super) key: KeyId,
    pub(super) model: &'a str,
    pub(super) provider: &'a str,
    pub(super) reserved: NanoUsd,
    pub(super) charge: NanoUsd,
}

impl Event {
    /// `key.expiring`, so many days before.
    pub(super) fn key_expiring(expiring: &ExpiringKey, days: u64) -> Self {
        let ExpiringKey { key, org, name, fingerprint, expires } = expiring;
        Self {
            org: Some(*org),
            kind: EventKind::KeyExpiring,
            once: Self::once_key_expiring(&key.to_string(), &expires.0.to_string(), days),
            data: json!({
                "key": key.to_string(), "name": name, "fingerprint": fingerprint,
                "expires_at": rfc3339(*expires), "days": days,
            }),
        }
    }

    /// What tells notices of keys' ends apart; the parts may be columns of a statement.
    pub(super) fn once_key_expiring(key: &str, expires: &str, days: u64) -> String {
        format!("key.expiring:{key}:{expires}:{days}")
    }

    /// `limit.threshold`.
    pub(super) fn limit_threshold(org: OrgId, reached: &ReachedThreshold) -> Self {
        let ReachedThreshold { quota, owner, kind, period, percent, limit, spent } = reached;
        Self {
            org: Some(org),
            kind: EventKind::LimitThreshold,
            once: format!("limit.threshold:{quota}:{}:{percent}", period.0),
            data: json!({
                "owner": owner, "limit": kind, "percent": percent,
                "period_start": (period.0 > 0).then(|| rfc3339(*period)),
                "limit_usd": limit.to_string(), "spent_usd": spent.to_string(),
            }),
        }
    }

    /// `credit.low`.
    pub(super) fn credit_low(org: OrgId, balance: NanoUsd, below: NanoUsd, now: EpochMs) -> Self {
        Self {
            org: Some(org),
            kind: EventKind::CreditLow,
            once: format!("credit.low:{org}:{}", now.0),
            data: json!({ "balance_usd": balance.to_string(), "below_usd": below.to_string() }),
        }
    }

    /// `credential.benched`, told once an hour of each credential at most. `why` names the provider's answer, never the secret.
    #[must_use]
    pub fn credential_benched(org: OrgId, credential: CredentialId, provider: &str, status: u16, now: EpochMs) -> Self {
        Self {
            org: Some(org),
            kind: EventKind::CredentialBenched,
            once: format!("credential.benched:{credential}:{}", now.0.div_euclid(3_600_000)),
            data: json!({ "credential": credential.to_string(), "provider": provider, "status": status }),
        }
    }

    /// `bound.exceeded`.
    pub(super) fn bound_exceeded(org: OrgId, exceeded: &ExceededBound<'_>) -> Self {
        let ExceededBound { call, key, model, provider, reserved, charge } = exceeded;
        Self {
            org: Some(org),
            kind: EventKind::BoundExceeded,
            once: format!("bound.exceeded:{call}"),
            data: json!({
                "request_id": call.to_string(), "key": key.to_string(), "model": model, "provider": provider,
                "reserved_usd": reserved.to_string(), "charge_usd": charge.to_string(),
            }),
        }
    }

    /// `webhook.test`, at most one a second.
    fn webhook_test(org: Option<OrgId>, webhook: WebhookId, now: EpochMs) -> Self {
        Self {
            org,
            kind: EventKind::WebhookTest,
            once: format!("webhook.test:{webhook}:{}", now.0.div_euclid(1_000)),
            data: json!({ "webhook": webhook.to_string() }),
        }
    }
}

/// Writes an event down and hands it to the webhooks that want it, as part of what makes it. One that was told before changes
/// nothing.
pub(super) async fn write(connection: &mut Connection, event: &Event, now: EpochMs) -> Result<(), StoreError> {
    let Some(id) = insert(connection, event, now).await? else {
        return Ok(());
    };
    for webhook in wanting(connection, &owner(event.org), event.kind).await? {
        insert_delivery(connection, webhook, id, now).await?;
    }
    Ok(())
}

/// Writes an event down for one webhook.
pub(super) async fn write_test(
    connection: &mut Connection,
    org: Option<OrgId>,
    webhook: WebhookId,
    now: EpochMs,
) -> Result<DeliveryId, StoreError> {
    let event = insert(connection, &Event::webhook_test(org, webhook, now), now).await?;
    let event = event.ok_or(StoreError::Refused("a test of this webhook was begun a moment ago: wait a second"))?;
    insert_delivery(connection, webhook, event, now).await
}

async fn insert(connection: &mut Connection, event: &Event, now: EpochMs) -> Result<Option<EventId>, StoreError> {
    let id = EventId(new_bits(now)?);
    let inserted = sqlx::query(
        "INSERT INTO outbox (id, org, kind, once, data, at_ms) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (once) DO NOTHING",
    )
    .bind(id.to_string())
    .bind(owner(event.org))
    .bind(event.kind.name())
    .bind(&*event.once)
    .bind(event.data.to_string())
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok((inserted.rows_affected() > 0).then_some(id))
}

async fn insert_delivery(
    connection: &mut Connection,
    webhook: WebhookId,
    event: EventId,
    now: EpochMs,
) -> Result<DeliveryId, StoreError> {
    let id = DeliveryId(new_bits(now)?);
    sqlx::query(
        "INSERT INTO deliveries (id, webhook, event, status, attempts, created_ms, next_ms, claimed_until_ms) \
         VALUES ($1, $2, $3, 'waiting', 0, $4, $4, 0)",
    )
    .bind(id.to_string())
    .bind(webhook.to_string())
    .bind(event.to_string())
    .bind(now.0)
    .execute(connection)
    .await?;
    Ok(id)
}

/// The bits of a new identifier.
pub(super) fn new_bits(now: EpochMs) -> Result<u128, StoreError> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    Ok(bits(now, random))
}

/// A moment as messages say it.
pub(super) fn rfc3339(moment: EpochMs) -> String {
    // What is beyond the calendar's end is at its end.
    Timestamp::from_millisecond(moment.0).unwrap_or(Timestamp::MAX).to_string()
}

/// Which events of an organisation are read.
#[derive(Clone, Copy, Debug)]
pub struct EventPage {
    /// Of this kind only.
    pub kind: Option<EventKind>,
    /// Those before this one.
    pub before: Option<EventId>,
    /// Most of them; never more than [`LIST_MAX`].
    pub limit: usize,
}

impl Store {
    /// What happened to an organisation, the latest first.
    pub async fn events(&self, org: OrgId, page: EventPage) -> Result<Vec<EventRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, kind, data, at_ms FROM outbox WHERE org = $1 AND id < $2 AND ($3 = '' OR kind = $3) \
             ORDER BY id DESC LIMIT $4",
        )
        .bind(org.to_string())
        .bind(page.before.unwrap_or(EventId(u128::MAX)).to_string())
        .bind(page.kind.map_or("", EventKind::name))
        .bind(page.limit.min(LIST_MAX) as i64)
        .fetch_all(&self.database.reader)
        .await?;
        rows.iter().map(read_event).collect()
    }

    /// Writes an event down that no other transaction makes.
    pub async fn tell(&self, event: &Event, now: EpochMs) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        write(&mut transaction, event, now).await?;
        Ok(transaction.commit().await?)
    }
}

fn read_event(row: &Rows) -> Result<EventRecord, StoreError> {
    Ok(EventRecord {
        id: parsed(row, "id")?,
        kind: row.try_get("kind")?,
        data: row.try_get("data")?,
        at: EpochMs(row.try_get("at_ms")?),
    })
}

#[cfg(test)]
mod tests;
