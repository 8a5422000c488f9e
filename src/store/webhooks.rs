//! Webhooks: where organisations, and the operator, want to be told of events, and the secrets that the messages are signed
//! with. A secret is not stored: it is computed from the store's first pepper, which stays when newer ones are added, and a number that
//! stands in the webhook's row.

use super::outbox::{self, EventKind, KindFilter, new_bits};
use super::trail::{self, By, Entry};
use super::{Connection, LIST_MAX, Rows, Store, StoreError, organisations, parsed, pepper};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filters::id::{DeliveryId, OrgId, WebhookId};
use filters::time::EpochMs;
use serde::Serialize;
use sqlx::Row;
use std::fmt;

/// What stands in the place of an organisation where a webhook is the operator's.
const OPERATOR: &str = "";
/// What secrets are computed for.
const PURPOSE: &str = "secrets of webhooks";
/// The form of secrets that Standard Webhooks' libraries read.
const SECRET_PREFIX: &str = "whsec_";

/// The webhooks that an event of an organisation is told to.
pub(super) async fn wanting(
    connection: &mut Connection,
    org: &str,
    kind: EventKind,
) -> Result<Vec<WebhookId>, StoreError> {
    let rows = sqlx::query("SELECT id, kinds FROM webhooks WHERE org IN ($1, $2) AND disabled_ms IS NULL ORDER BY id")
        .bind(org)
        .bind(OPERATOR)
        .fetch_all(connection)
        .await?;
    let mut wanting = Vec::with_capacity(rows.len());
    for row in &rows {
        if KindFilter::read(row.try_get("kinds")?).wants(kind) {
            wanting.push(parsed(row, "id")?);
        }
    }
    Ok(wanting)
}

/// What a message is signed with. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret([u8; 32]);

impl SigningSecret {
    /// The bytes that the signature's HMAC takes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// The text for the receiver, to be shown once: `whsec_…`.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningSecret(…)")
    }
}

/// A webhook to be made. Whoever makes it has checked the URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhook {
    /// Whose it is; none: the operator's, which hears of all organisations.
    pub org: Option<OrgId>,
    /// Where messages go.
    pub url: String,
    /// What people call it; may be empty.
    pub description: String,
    /// What it hears of.
    pub kinds: KindFilter,
}

/// What is to change of a webhook; what is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookChange {
    /// Where messages go.
    pub url: Option<String>,
    /// What people call it.
    pub description: Option<String>,
    /// What it hears of.
    pub kinds: Option<KindFilter>,
    /// Whether it is told anything at all.
    pub is_enabled: Option<bool>,
}

/// A webhook as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRecord {
    /// Names it for good.
    pub id: WebhookId,
    /// Whose it is; none: the operator's.
    pub org: Option<OrgId>,
    /// Where messages go.
    pub url: String,
    /// What people call it.
    pub description: String,
    /// What it hears of.
    pub kinds: KindFilter,
    /// When it was made.
    pub created: EpochMs,
    /// Since when it is told nothing, if that is so.
    pub disabled: Option<EpochMs>,
    /// Why, where nobody asked for it.
    pub disabled_reason: Option<String>,
    /// Until when messages are signed with the secret before too.
    pub previous_until: Option<EpochMs>,
}

const SELECT: &str = "SELECT id, org, url, description, kinds, created_ms, disabled_ms, disabled_reason, previous_until_ms \
     FROM webhooks";

impl Store {
    /// Makes a webhook, of which its owner may have so many. The secret is shown now and never again.
    pub async fn create_webhook(
        &self,
        new: &NewWebhook,
        webhooks_max: usize,
        by: impl Into<By>,
    ) -> Result<(WebhookRecord, SigningSecret), StoreError> {
        let by = by.into();
        let (id, salt) = (WebhookId(new_bits(by.now)?), new_salt()?);
        let mut transaction = self.database.change().await?;
        if let Some(org) = new.org {
            organisations::must_exist(&mut transaction, org).await?;
        }
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM webhooks WHERE org = $1")
            .bind(owner(new.org))
            .fetch_one(&mut *transaction)
            .await?;
        if usize::try_from(count).is_ok_and(|count| count >= webhooks_max) {
            return Err(StoreError::Refused("there are as many webhooks as there may be: delete one first"));
        }
        sqlx::query(
            "INSERT INTO webhooks (id, org, url, description, kinds, secret, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id.to_string())
        .bind(owner(new.org))
        .bind(&*new.url)
        .bind(&*new.description)
        .bind(new.kinds.to_string())
        .bind(&*salt)
        .bind(by.now.0)
        .execute(&mut *transaction)
        .await?;
        let record = read(&mut transaction, new.org, id).await?;
        record_change(&mut transaction, &by, "webhook.create", [None, Some(&record)]).await?;
        transaction.commit().await?;
        Ok((record, self.signing_secret(id, &salt)))
    }

    /// One webhook of an owner.
    pub async fn webhook(&self, org: Option<OrgId>, id: WebhookId) -> Result<WebhookRecord, StoreError> {
        read(&mut *self.database.reader.acquire().await?, org, id).await
    }

    /// An owner's webhooks in the order in which they were made, those after `after`, at most `limit`.
    pub async fn webhooks(
        &self,
        org: Option<OrgId>,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<WebhookRecord>, StoreError> {
        let text = format!("{SELECT} WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(owner(org))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(limit.min(LIST_MAX) as i64)
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// Changes a webhook. What waits for one that is switched off goes on waiting.
    pub async fn change_webhook(
        &self,
        org: Option<OrgId>,
        id: WebhookId,
        change: &WebhookChange,
        by: impl Into<By>,
    ) -> Result<WebhookRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read(&mut transaction, org, id).await?;
        let is_enabled = change.is_enabled.unwrap_or(before.disabled.is_none());
        let disabled = if is_enabled { None } else { before.disabled.or(Some(by.now)) };
        sqlx::query(
            "UPDATE webhooks SET url = $1, description = $2, kinds = $3, disabled_ms = $4, \
             disabled_reason = CASE WHEN CAST($4 AS BIGINT) IS NULL THEN NULL ELSE disabled_reason END WHERE id = $5",
        )
        .bind(change.url.as_ref().unwrap_or(&before.url))
        .bind(change.description.as_ref().unwrap_or(&before.description))
        .bind(change.kinds.as_ref().unwrap_or(&before.kinds).to_string())
        .bind(disabled.map(|moment| moment.0))
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        let after = read(&mut transaction, org, id).await?;
        record_change(&mut transaction, &by, "webhook.update", [Some(&before), Some(&after)]).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Gives a webhook a new secret. Until `overlap_ms` from now messages are signed with the old one too.
    pub async fn rotate_webhook_secret(
        &self,
        org: Option<OrgId>,
        id: WebhookId,
        overlap_ms: i64,
        by: impl Into<By>,
    ) -> Result<(WebhookRecord, SigningSecret), StoreError> {
        let (by, salt) = (by.into(), new_salt()?);
        let mut transaction = self.database.change().await?;
        let before = read(&mut transaction, org, id).await?;
        sqlx::query("UPDATE webhooks SET previous_secret = secret, previous_until_ms = $1, secret = $2 WHERE id = $3")
            .bind(by.now.plus(overlap_ms).0)
            .bind(&*salt)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        let record = read(&mut transaction, org, id).await?;
        record_change(&mut transaction, &by, "webhook.rotate_secret", [Some(&before), Some(&record)]).await?;
        transaction.commit().await?;
        Ok((record, self.signing_secret(id, &salt)))
    }

    /// Deletes a webhook with everything that waits for it.
    pub async fn delete_webhook(
        &self,
        org: Option<OrgId>,
        id: WebhookId,
        by: impl Into<By>,
    ) -> Result<WebhookRecord, StoreError> {
        let mut transaction = self.database.change().await?;
        let before = read(&mut transaction, org, id).await?;
        for statement in ["DELETE FROM deliveries WHERE webhook = $1", "DELETE FROM webhooks WHERE id = $1"] {
            sqlx::query(statement).bind(id.to_string()).execute(&mut *transaction).await?;
        }
        record_change(&mut transaction, &by.into(), "webhook.delete", [Some(&before), None]).await?;
        transaction.commit().await?;
        Ok(before)
    }

    /// Sends a webhook an event of its own, to see whether it works. Says which delivery that is.
    pub async fn test_webhook(
        &self,
        org: Option<OrgId>,
        id: WebhookId,
        now: EpochMs,
    ) -> Result<DeliveryId, StoreError> {
        let mut transaction = self.database.change().await?;
        let record = read(&mut transaction, org, id).await?;
        if record.disabled.is_some() {
            return Err(StoreError::Refused("the webhook is disabled: enable it first"));
        }
        let delivery = outbox::write_test(&mut transaction, org, id, now).await?;
        transaction.commit().await?;
        Ok(delivery)
    }

    /// What messages to a webhook are signed with now, the newest first. `row` has the columns `webhook`, `secret`, `previous_secret`
    /// and `previous_until_ms`.
    pub(super) fn signing_secrets(&self, row: &Rows, now: EpochMs) -> Result<Vec<SigningSecret>, StoreError> {
        let id = parsed(row, "webhook")?;
        let mut secrets = vec![self.signing_secret(id, &row.try_get::<String, _>("secret")?)];
        let previous: Option<String> = row.try_get("previous_secret")?;
        let until: Option<i64> = row.try_get("previous_until_ms")?;
        if let (Some(previous), Some(until)) = (previous, until)
            && now.0 < until
        {
            secrets.push(self.signing_secret(id, &previous));
        }
        Ok(secrets)
    }

    fn signing_secret(&self, id: WebhookId, salt: &str) -> SigningSecret {
        let mut place = [0; 32];
        place[..16].copy_from_slice(&id.0.to_be_bytes());
        SigningSecret(self.first_pepper().seal(PURPOSE).mark(&place, salt.as_bytes()))
    }
}

/// What the trail says of a webhook: not its whole URL, which may hold a secret of the receiver's.
#[derive(Serialize)]
struct Trailed<'a> {
    host: &'a str,
    description: &'a str,
    events: &'a [String],
    enabled: bool,
    previous_until_ms: Option<i64>,
}

impl<'a> Trailed<'a> {
    fn of(record: &'a WebhookRecord) -> Self {
        let after_scheme = record.url.split_once("://").map_or("", |(_, rest)| rest);
        Self {
            host: after_scheme.split(['/', '?']).next().unwrap_or_default(),
            description: &record.description,
            events: record.kinds.names(),
            enabled: record.disabled.is_none(),
            previous_until_ms: record.previous_until.map(|until| until.0),
        }
    }
}

/// Writes down what a webhook was and is.
async fn record_change(
    connection: &mut Connection,
    by: &By,
    action: &'static str,
    [before, after]: [Option<&WebhookRecord>; 2],
) -> Result<(), StoreError> {
    let Some(record) = after.or(before) else { return Ok(()) };
    let json = |record: Option<&WebhookRecord>| record.map(|record| trail::json(&Trailed::of(record)));
    let (before, after) = (json(before), json(after));
    let entry = Entry {
        org: record.org,
        action,
        object: record.id.to_string(),
        before: before.as_deref(),
        after: after.as_deref(),
    };
    trail::record(connection, by, entry).await
}

fn new_salt() -> Result<String, StoreError> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt)?;
    Ok(pepper::encode_hex(&salt))
}

/// How a row names its owner.
pub(super) fn owner(org: Option<OrgId>) -> String {
    org.map_or_else(|| OPERATOR.to_owned(), |org| org.to_string())
}

/// Reads the column `org`.
pub(super) fn read_owner(row: &Rows) -> Result<Option<OrgId>, StoreError> {
    if row.try_get::<String, _>("org")? == OPERATOR { Ok(None) } else { parsed(row, "org").map(Some) }
}

async fn read(connection: &mut Connection, org: Option<OrgId>, id: WebhookId) -> Result<WebhookRecord, StoreError> {
    let text = format!("{SELECT} WHERE id = $1 AND org = $2");
    let row =
        sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.to_string()).bind(owner(org)).fetch_optional(connection).await?;
    read_row(&row.ok_or_else(|| StoreError::NotFound(format!("webhook {id}")))?)
}

fn read_row(row: &Rows) -> Result<WebhookRecord, StoreError> {
    Ok(WebhookRecord {
        id: parsed(row, "id")?,
        org: read_owner(row)?,
        url: row.try_get("url")?,
        description: row.try_get("description")?,
        kinds: KindFilter::read(row.try_get("kinds")?),
        created: EpochMs(row.try_get("created_ms")?),
        disabled: row.try_get::<Option<i64>, _>("disabled_ms")?.map(EpochMs),
        disabled_reason: row.try_get("disabled_reason")?,
        previous_until: row.try_get::<Option<i64>, _>("previous_until_ms")?.map(EpochMs),
    })
}
