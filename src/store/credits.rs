//! Credits: what organisations have paid in, were given and were charged, as a ledger of entries whose legs add up to nothing.
//! Entries are only ever added. `entry.rs` says what there may be, `charges.rs` books what calls were charged, hour by hour.
//!
//! An organisation has two accounts: `org:ID:credits`, which is the limit of its balance, and `org:ID:charges`. What stands in
//! both together is what it has. The other sides are the operator's: `operator:funding` (paid in), `operator:adjustments`,
//! `operator:refunds` and `operator:revenue` (charged).

mod charges;
mod entry;

pub(super) use charges::{BOOKED_THROUGH, HOUR_MS, mark_late, read_mark, write_mark};
pub(super) use entry::Account;
pub use entry::{EntryKind, NewEntry, NewKind};

use super::changes::Change;
use super::engine::On;
use super::idempotency::Once;
use super::ledger::{Tail, Whose};
use super::limits::{self, Amount, LimitChange};
use super::quotas::{self, QuotaKind, QuotaRow};
use super::trail::{self, By};
use super::{Connection, Engine, Rows, Store, StoreError, organisations, parsed};
use filters::id::{CallId, OrgId};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde::Serialize;
use sqlx::{QueryBuilder, Row};

/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 128;

/// An entry of an organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryRecord {
    /// Its number: later ones are larger.
    pub id: i64,
    /// Why money moved.
    #[serde(serialize_with = "kind_name")]
    pub kind: EntryKind,
    /// By how much the organisation has more, in nano-USD.
    #[serde(rename = "amount_nano", serialize_with = "nanos")]
    pub amount: NanoUsd,
    /// What was said of it.
    pub reason: String,
    /// Who made it; empty in what earlier releases wrote.
    pub actor: String,
    /// The call that is refunded.
    pub call: Option<String>,
    /// Of charges: the hour in which the calls began.
    #[serde(skip)]
    pub hour: Option<EpochMs>,
    /// Since when it counts.
    #[serde(skip)]
    pub at: EpochMs,
}

fn kind_name<S: serde::Serializer>(kind: &EntryKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

fn nanos<S: serde::Serializer>(amount: &NanoUsd, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(amount.0)
}

/// The head of an entry as it is written.
struct Head<'a> {
    org: &'a str,
    kind: EntryKind,
    reason: &'a str,
    actor: &'a str,
    call: Option<CallId>,
    hour: Option<EpochMs>,
    at: EpochMs,
}

/// One side of an entry.
struct Leg {
    account: String,
    key: String,
    model: String,
    amount: i64,
}

impl Leg {
    fn of(account: Account, amount: i64) -> Self {
        Self { account: account.to_string(), key: String::new(), model: String::new(), amount }
    }
}

/// The entries of an organisation, with what moved in its accounts.
pub(super) const SELECT: &str = "SELECT e.id, e.kind, e.reason, e.actor, e.request_id, e.hour_ms, e.at_ms, \
     (SELECT -l.amount_nano FROM legs l WHERE l.entry = e.id AND l.account IN \
     ('operator:funding', 'operator:adjustments', 'operator:refunds', 'operator:revenue')) AS amount_nano FROM entries e ";

impl Store {
    /// Books a top-up, an adjustment or a refund. What may be spent is the sum of all credits, so the two move in one
    /// transaction. A request that came before under the same name changes nothing, and is given the entry that it made.
    pub async fn book_entry(
        &self,
        new: &NewEntry,
        once: Option<&Once>,
        by: impl Into<By>,
    ) -> Result<EntryRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        if let Some(once) = once
            && let Some(made) = once.answered(&mut transaction, by.now).await?
        {
            return entry(&mut transaction, &made).await;
        }
        new.check()?;
        take_over(&mut transaction).await?;
        let balance = read_balance(&mut transaction, new.org, by.now).await?;
        let total = new.total(&balance)?;
        if let Some(call) = new.call() {
            check_refund(&mut transaction, new, call).await?;
        }
        let made = add(&mut transaction, new, &by).await?;
        let change = LimitChange::of(QuotaKind::Balance, Amount::Of(total));
        if let Some(limit) = change.applied_to(Some(&balance))? {
            limits::set(&mut transaction, &[(new.org.to_string(), limit)], by.now).await?;
        }
        Change::Balance(new.org).record(&mut transaction, by.now).await?;
        if let Some(once) = once {
            once.keep(&mut transaction, &made.id.to_string(), by.now).await?;
        }
        transaction.commit().await?;
        Ok(made)
    }

    /// Entries of an organisation, the newest first, those before `before`, at most `limit`.
    pub async fn entries(&self, org: OrgId, before: Option<i64>, limit: u32) -> Result<Vec<EntryRecord>, StoreError> {
        let text = format!("{SELECT} WHERE e.org = $1 AND e.id < $2 ORDER BY e.id DESC LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(org.to_string())
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// Makes entries of the credits that releases before this one have written.
    pub async fn take_over_credits(&self) -> Result<(), StoreError> {
        let waits = sqlx::query("SELECT id FROM credits WHERE entry IS NULL LIMIT 1");
        if waits.fetch_optional(&self.database.reader).await?.is_none() {
            return Ok(());
        }
        let mut transaction = self.database.change().await?;
        take_over(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// The balance as it stands, with what has been spent and is in no sum yet; an error names the organisation if it does not exist.
async fn read_balance(connection: &mut Connection, org: OrgId, now: EpochMs) -> Result<QuotaRow, StoreError> {
    let tail = Tail::read(connection, Whose::Org(org)).await?;
    let rows = quotas::read_with(connection, &[org.to_string()], &tail, now).await?;
    rows.into_iter().find(|row| row.kind == QuotaKind::Balance).ok_or_else(|| organisations::unknown(org))
}

/// Refuses to give back more of a call than it was charged.
async fn check_refund(connection: &mut Connection, new: &NewEntry, call: CallId) -> Result<(), StoreError> {
    let charged = "SELECT c.charge_nano + COALESCE((SELECT CAST(SUM(a.charge_nano) AS BIGINT) FROM amendments a \
         WHERE a.request_id = c.request_id), 0) AS amount FROM calls c WHERE c.request_id = $1 AND c.org_id = $2";
    let charged: Option<i64> = sqlx::query_scalar(charged)
        .bind(call.to_string())
        .bind(new.org.to_string())
        .fetch_optional(&mut *connection)
        .await?;
    let charged = charged.ok_or_else(|| StoreError::NotFound(format!("call {call}")))?;
    let refunded = "SELECT CAST(COALESCE(SUM(-l.amount_nano), 0) AS BIGINT) FROM entries e JOIN legs l ON l.entry = e.id \
         WHERE e.request_id = $1 AND l.account = 'operator:refunds'";
    let refunded: i64 = sqlx::query_scalar(refunded).bind(call.to_string()).fetch_one(connection).await?;
    if i128::from(refunded) + i128::from(new.amount.0) > i128::from(charged) {
        return Err(StoreError::Refused(
            "this is more than the call was charged, with what was given back of it before",
        ));
    }
    Ok(())
}

/// Writes an entry, for this release and for the one before, and says in the trail who made it.
async fn add(connection: &mut Connection, new: &NewEntry, by: &By) -> Result<EntryRecord, StoreError> {
    let (org, kind, actor) = (new.org.to_string(), new.kind(), actor_text(by));
    let head = Head { org: &org, kind, reason: &new.reason, actor: &actor, call: new.call(), hour: None, at: by.now };
    let legs = [Leg::of(Account::Credits(new.org), new.amount.0), Leg::of(kind.counterpart(), -new.amount.0)];
    let id = write(connection, &head, &legs).await?;
    // The release before knows of no adjustments.
    let kind_before = if kind == EntryKind::Refund { kind } else { EntryKind::TopUp };
    sqlx::query(
        "INSERT INTO credits (org, amount_nano, kind, reason, created_ms, entry) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&org)
    .bind(new.amount.0)
    .bind(kind_before.name())
    .bind(&*new.reason)
    .bind(by.now.0)
    .bind(id)
    .execute(&mut *connection)
    .await?;
    let made = entry(connection, &id.to_string()).await?;
    let after = trail::json(&made);
    let line = trail::Entry {
        org: Some(new.org),
        action: new.action(),
        object: id.to_string(),
        before: None,
        after: Some(&after),
    };
    trail::record(connection, by, line).await?;
    Ok(made)
}

/// Who made an entry: the kind of actor and its identifier, where it has one.
fn actor_text(by: &By) -> String {
    let (kind, id) = (by.actor.kind.name(), &by.actor.id);
    if id.is_empty() { kind.to_owned() } else { format!("{kind}:{id}") }
}

/// Makes entries of what the release before has written into `credits`.
async fn take_over(connection: &mut Connection) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT id, org, amount_nano, kind, reason, created_ms FROM credits WHERE entry IS NULL ORDER BY id",
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let (id, kind): (i64, String) = (row.try_get("id")?, row.try_get("kind")?);
        let (org, reason): (OrgId, String) = (parsed(row, "org")?, row.try_get("reason")?);
        let (amount, at): (i64, i64) = (row.try_get("amount_nano")?, row.try_get("created_ms")?);
        let kind = EntryKind::named(&kind).ok_or(StoreError::Corrupt { column: "credits.kind", content: kind })?;
        let head =
            Head { org: &org.to_string(), kind, reason: &reason, actor: "", call: None, hour: None, at: EpochMs(at) };
        let legs = [Leg::of(Account::Credits(org), amount), Leg::of(kind.counterpart(), -amount)];
        let entry = write(connection, &head, &legs).await?;
        sqlx::query("UPDATE credits SET entry = $1 WHERE id = $2")
            .bind(entry)
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Writes an entry with its legs; says its number.
async fn write(connection: &mut Connection, head: &Head<'_>, legs: &[Leg]) -> Result<i64, StoreError> {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO entries (org, kind, reason, actor, request_id, hour_ms, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         RETURNING id",
    )
    .bind(head.org)
    .bind(head.kind.name())
    .bind(head.reason)
    .bind(head.actor)
    .bind(head.call.map(|call| call.to_string()))
    .bind(head.hour.map(|hour| hour.0))
    .bind(head.at.0)
    .fetch_one(&mut *connection)
    .await?;
    let numbered: Vec<(i64, &Leg)> = (0..).zip(legs).collect();
    for chunk in numbered.chunks(ROWS_PER_INSERT) {
        let mut query = QueryBuilder::<Engine>::new(
            "INSERT INTO legs (entry, number, account, project, key_id, model, amount_nano) ",
        );
        query.push_values(chunk, |mut row, (number, leg)| {
            row.push_bind(id).push_bind(*number).push_bind(&*leg.account);
            row.push("(SELECT COALESCE(MAX(k.project), '') FROM keys k WHERE k.id = ");
            row.push_bind_unseparated(&*leg.key).push_unseparated(")");
            row.push_bind(&*leg.key).push_bind(&*leg.model).push_bind(leg.amount);
        });
        let is_whole = chunk.len() == ROWS_PER_INSERT || chunk.len() == 2;
        query.on(connection).persistent(is_whole).execute(&mut *connection).await?;
    }
    Ok(id)
}

async fn entry(connection: &mut Connection, id: &str) -> Result<EntryRecord, StoreError> {
    let number: i64 =
        id.parse().map_err(|_| StoreError::Corrupt { column: "idempotency.answer", content: id.to_owned() })?;
    let text = format!("{SELECT} WHERE e.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(number).fetch_optional(connection).await?;
    read_row(&row.ok_or_else(|| StoreError::NotFound(format!("entry {id}")))?)
}

pub(super) fn read_row(row: &Rows) -> Result<EntryRecord, StoreError> {
    let kind: String = row.try_get("kind")?;
    Ok(EntryRecord {
        id: row.try_get("id")?,
        kind: EntryKind::named(&kind).ok_or(StoreError::Corrupt { column: "entries.kind", content: kind })?,
        amount: NanoUsd(row.try_get("amount_nano")?),
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        call: row.try_get("request_id")?,
        hour: row.try_get::<Option<i64>, _>("hour_ms")?.map(EpochMs),
        at: EpochMs(row.try_get("at_ms")?),
    })
}

#[cfg(test)]
mod tests;
