//! Deliveries: events on their way to webhooks. A node claims what is due for a while, sends it, and writes down what came of it;
//! what a node claimed that died meanwhile is due again when the claim has run out, with the same event's name.

use super::webhooks::{SigningSecret, read_owner};
use super::{LIST_MAX, Rows, Store, StoreError, engine, parsed};
use filters::id::{DeliveryId, EventId, OrgId, WebhookId};
use filters::time::EpochMs;
use sqlx::Row;
use std::time::Duration;

/// Rows that go at a time: the writer is others' too.
const PRUNED_AT_ONCE: i64 = 5_000;
/// Longest cause of a failure that is kept.
const ERROR_BYTES_MAX: usize = 300;

/// A delivery as its webhook's owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// Names it.
    pub id: DeliveryId,
    /// The event.
    pub event: EventId,
    /// What happened.
    pub kind: String,
    /// `waiting`, `delivered` or `failed`.
    pub status: String,
    /// Tries since it was last begun.
    pub attempts: u64,
    /// When the event happened.
    pub created: EpochMs,
    /// When it is tried next, if it waits.
    pub next: Option<EpochMs>,
    /// What came of the latest try.
    pub last: Option<LastTry>,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastTry {
    /// When it ended.
    pub at: EpochMs,
    /// How long it took.
    pub took: Duration,
    /// The status that was answered.
    pub status: Option<u16>,
    /// Why it failed, where that is not the status.
    pub error: Option<String>,
}

/// A delivery that this node has claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The delivery.
    pub id: DeliveryId,
    /// Its webhook.
    pub webhook: WebhookId,
    /// Where it goes.
    pub url: String,
    /// What it is signed with.
    pub secrets: Vec<SigningSecret>,
    /// The event.
    pub event: EventId,
    /// Whose it is; none: the operator's.
    pub org: Option<OrgId>,
    /// What happened.
    pub kind: String,
    /// The particulars, JSON.
    pub data: String,
    /// When it happened.
    pub at: EpochMs,
    /// Tries before this one since it was last begun.
    pub attempts: u64,
    /// Tells this claim from a later one of somebody else.
    claimed_until: EpochMs,
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took it.
    Delivered,
    /// It is tried again then.
    Again(EpochMs),
    /// It is given up.
    Failed,
    /// The receiver said that it is there no more: the webhook is disabled.
    Gone,
}

/// What waits to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Deliveries that were not taken yet and not given up.
    pub waiting: u64,
    /// When the event of the oldest of them happened.
    pub oldest: Option<EpochMs>,
}

impl Store {
    /// What the clock says that all nodes go by.
    pub async fn moment(&self) -> Result<EpochMs, StoreError> {
        engine::now(&mut *self.database.reader.acquire().await?).await
    }

    /// The webhooks for which something is due that nobody has claimed, the longest due first, with their owners.
    pub async fn due_webhooks(
        &self,
        webhooks_max: usize,
        now: EpochMs,
    ) -> Result<Vec<(WebhookId, Option<OrgId>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT d.webhook, w.org FROM deliveries d JOIN webhooks w ON w.id = d.webhook WHERE d.status = 'waiting' \
             AND d.next_ms <= $1 AND d.claimed_until_ms <= $1 AND w.disabled_ms IS NULL \
             GROUP BY d.webhook, w.org ORDER BY MIN(d.next_ms), d.webhook LIMIT $2",
        )
        .bind(now.0)
        .bind(webhooks_max.min(LIST_MAX) as i64)
        .fetch_all(&self.database.reader)
        .await?;
        rows.iter().map(|row| Ok((parsed(row, "webhook")?, read_owner(row)?))).collect()
    }

    /// Claims what is due for a webhook, at most so many, until `until`.
    pub async fn claim_deliveries(
        &self,
        webhook: WebhookId,
        deliveries_max: usize,
        until: EpochMs,
        now: EpochMs,
    ) -> Result<Vec<Claimed>, StoreError> {
        let mut transaction = self.database.write().await?;
        // Of two nodes that find the same rows due, the second waits for the first and then finds them claimed.
        let claimed = sqlx::query(
            "UPDATE deliveries SET claimed_until_ms = $1 WHERE id IN (SELECT id FROM deliveries WHERE webhook = $2 \
             AND status = 'waiting' AND next_ms <= $3 AND claimed_until_ms <= $3 ORDER BY next_ms, id LIMIT $4) \
             AND status = 'waiting' AND claimed_until_ms <= $3 RETURNING id",
        )
        .bind(until.0)
        .bind(webhook.to_string())
        .bind(now.0)
        .bind(deliveries_max.min(LIST_MAX) as i64)
        .fetch_all(&mut *transaction)
        .await?;
        let mut deliveries = Vec::with_capacity(claimed.len());
        for row in &claimed {
            let row = sqlx::query(
                "SELECT d.id, d.webhook, d.event, d.attempts, d.claimed_until_ms, w.url, w.secret, w.previous_secret, \
                 w.previous_until_ms, o.org, o.kind, o.data, o.at_ms FROM deliveries d JOIN webhooks w ON w.id = d.webhook \
                 JOIN outbox o ON o.id = d.event WHERE d.id = $1",
            )
            .bind(row.try_get::<String, _>("id")?)
            .fetch_one(&mut *transaction)
            .await?;
            deliveries.push(self.read_claimed(&row, now)?);
        }
        transaction.commit().await?;
        Ok(deliveries)
    }

    fn read_claimed(&self, row: &Rows, now: EpochMs) -> Result<Claimed, StoreError> {
        Ok(Claimed {
            id: parsed(row, "id")?,
            webhook: parsed(row, "webhook")?,
            url: row.try_get("url")?,
            secrets: self.signing_secrets(row, now)?,
            event: parsed(row, "event")?,
            org: read_owner(row)?,
            kind: row.try_get("kind")?,
            data: row.try_get("data")?,
            at: EpochMs(row.try_get("at_ms")?),
            attempts: row.try_get::<i64, _>("attempts")?.unsigned_abs(),
            claimed_until: EpochMs(row.try_get("claimed_until_ms")?),
        })
    }

    /// Writes down what came of a try, unless somebody else has claimed the delivery since.
    pub async fn settle_delivery(
        &self,
        claimed: &Claimed,
        tried: &LastTry,
        verdict: Verdict,
    ) -> Result<(), StoreError> {
        let (status, next) = match verdict {
            Verdict::Delivered => ("delivered", tried.at),
            Verdict::Again(next) => ("waiting", next),
            Verdict::Failed | Verdict::Gone => ("failed", tried.at),
        };
        let error = tried.error.as_ref().map(|error| &error[..error.floor_char_boundary(ERROR_BYTES_MAX)]);
        let mut transaction = self.database.write().await?;
        sqlx::query(
            "UPDATE deliveries SET status = $1, next_ms = $2, attempts = attempts + 1, claimed_until_ms = 0, last_ms = $3, \
             last_took_ms = $4, last_status = $5, last_error = $6 WHERE id = $7 AND claimed_until_ms = $8",
        )
        .bind(status)
        .bind(next.0)
        .bind(tried.at.0)
        .bind(i64::try_from(tried.took.as_millis()).unwrap_or(i64::MAX))
        .bind(tried.status.map(i64::from))
        .bind(error)
        .bind(claimed.id.to_string())
        .bind(claimed.claimed_until.0)
        .execute(&mut *transaction)
        .await?;
        if verdict == Verdict::Gone {
            let statements = [
                "UPDATE webhooks SET disabled_ms = $1, disabled_reason = 'the receiver answered 410 Gone' \
                 WHERE id = $2 AND disabled_ms IS NULL",
                "UPDATE deliveries SET status = 'failed', next_ms = $1 WHERE webhook = $2 AND status = 'waiting'",
            ];
            for statement in statements {
                let statement = sqlx::query(statement).bind(tried.at.0).bind(claimed.webhook.to_string());
                statement.execute(&mut *transaction).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// A webhook's deliveries, the latest first, those before one, at most `limit`. The webhook is its owner's.
    pub async fn deliveries(
        &self,
        webhook: WebhookId,
        before: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let text = format!("{SELECT} WHERE d.webhook = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(webhook.to_string())
            .bind(before.unwrap_or(DeliveryId(u128::MAX)).to_string())
            .bind(limit.min(LIST_MAX) as i64)
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// One delivery of a webhook, which is its owner's.
    pub async fn delivery(&self, webhook: WebhookId, id: DeliveryId) -> Result<DeliveryRecord, StoreError> {
        let text = format!("{SELECT} WHERE d.webhook = $1 AND d.id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(webhook.to_string())
            .bind(id.to_string())
            .fetch_optional(&self.database.reader)
            .await?;
        read_row(&row.ok_or_else(|| StoreError::NotFound(format!("delivery {id}")))?)
    }

    /// Sends a delivery again, whatever became of it, as if the event had just happened. The event keeps its name.
    pub async fn redeliver(
        &self,
        org: Option<OrgId>,
        (webhook, id): (WebhookId, DeliveryId),
        now: EpochMs,
    ) -> Result<DeliveryRecord, StoreError> {
        if self.webhook(org, webhook).await?.disabled.is_some() {
            return Err(StoreError::Refused("the webhook is disabled: enable it first"));
        }
        let begun = sqlx::query(
            "UPDATE deliveries SET status = 'waiting', attempts = 0, next_ms = $1 WHERE id = $2 AND webhook = $3",
        )
        .bind(now.0)
        .bind(id.to_string())
        .bind(webhook.to_string())
        .execute(&self.database.writer)
        .await?;
        if begun.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("delivery {id}")));
        }
        self.delivery(webhook, id).await
    }

    /// How much waits to be sent.
    pub async fn delivery_backlog(&self) -> Result<Backlog, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS waiting, MIN(created_ms) AS oldest FROM deliveries WHERE status = 'waiting'",
        )
        .fetch_one(&self.database.reader)
        .await?;
        let oldest = row.try_get::<Option<i64>, _>("oldest")?.map(EpochMs);
        Ok(Backlog { waiting: row.try_get::<i64, _>("waiting")?.unsigned_abs(), oldest })
    }

    /// Removes events and deliveries of before a moment.
    pub(super) async fn prune_events(&self, before: EpochMs) -> Result<(), StoreError> {
        for statement in [
            "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE created_ms < $1 ORDER BY created_ms LIMIT $2)",
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)",
        ] {
            loop {
                let gone =
                    sqlx::query(statement).bind(before.0).bind(PRUNED_AT_ONCE).execute(&self.database.writer).await?;
                if gone.rows_affected() < PRUNED_AT_ONCE.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(())
    }
}

const SELECT: &str = "SELECT d.id, d.event, o.kind, d.status, d.attempts, d.created_ms, d.next_ms, d.last_ms, d.last_took_ms, \
     d.last_status, d.last_error FROM deliveries d JOIN outbox o ON o.id = d.event";

fn read_row(row: &Rows) -> Result<DeliveryRecord, StoreError> {
    let status: String = row.try_get("status")?;
    let next = (status == "waiting").then(|| row.try_get("next_ms").map(EpochMs)).transpose()?;
    let last = match row.try_get::<Option<i64>, _>("last_ms")? {
        Some(at) => Some(LastTry {
            at: EpochMs(at),
            took: Duration::from_millis(row.try_get::<Option<i64>, _>("last_took_ms")?.unwrap_or(0).unsigned_abs()),
            status: row.try_get::<Option<i64>, _>("last_status")?.and_then(|status| u16::try_from(status).ok()),
            error: row.try_get("last_error")?,
        }),
        None => None,
    };
    Ok(DeliveryRecord {
        id: parsed(row, "id")?,
        event: parsed(row, "event")?,
        kind: row.try_get("kind")?,
        status,
        attempts: row.try_get::<i64, _>("attempts")?.unsigned_abs(),
        created: EpochMs(row.try_get("created_ms")?),
        next,
        last,
    })
}
