//! Organisations: who pays, and what they have paid in.

use super::changes::Change;
use super::credits::{NewEntry, NewKind};
use super::ledger::{Tail, Whose};
use super::limits::{self, Limit};
use super::quotas::QuotaKind;
use super::trail::{self, By, Entry};
use super::{Connection, Rows, Store, StoreError, parsed};
use filters::id::{OrgId, QuotaId, bits};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde_json::json;
use sqlx::Row;

/// An organisation as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrganisationRecord {
    /// Names it for good.
    pub id: OrgId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: EpochMs,
    /// Since when its keys are refused, if they are.
    pub suspended: Option<EpochMs>,
    /// Everything that was paid in.
    pub credits: NanoUsd,
    /// What has been charged, as far as it is on the books.
    pub spent: NanoUsd,
}

impl OrganisationRecord {
    /// What is left.
    #[must_use]
    pub fn balance(&self) -> NanoUsd {
        self.credits - self.spent
    }
}

const SELECT: &str = "SELECT o.id, o.name, o.created_ms, o.suspended_ms, q.id AS quota, q.limit_value, COALESCE(s.amount, 0) AS amount \
     FROM organisations o \
     JOIN quotas q ON q.owner = o.id AND q.kind = 'balance' \
     LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0";

impl Store {
    /// Makes an organisation without credits.
    pub async fn create_organisation(&self, name: &str, by: impl Into<By>) -> Result<OrganisationRecord, StoreError> {
        self.create_limited_organisation(name, &[], by).await
    }

    /// Makes an organisation without credits, with limits beside its balance.
    pub async fn create_limited_organisation(
        &self,
        name: &str,
        limits: &[Limit],
        by: impl Into<By>,
    ) -> Result<OrganisationRecord, StoreError> {
        let mut transaction = self.database.change().await?;
        let id = insert(&mut transaction, name, limits, &by.into()).await?;
        transaction.commit().await?;
        self.organisation(id).await
    }

    /// One organisation.
    pub async fn organisation(&self, id: OrgId) -> Result<OrganisationRecord, StoreError> {
        let query = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE o.id = $1")));
        let mut snapshot = self.database.snapshot().await?;
        let row = query.bind(id.to_string()).fetch_optional(&mut *snapshot).await?;
        let tail = Tail::read(&mut snapshot, Whose::Org(id)).await?;
        read_row(&row.ok_or_else(|| unknown(id))?, &tail)
    }

    /// Organisations in the order in which they were made, those after `after`, at most `limit`.
    pub async fn organisations(&self, after: Option<OrgId>, limit: u32) -> Result<Vec<OrganisationRecord>, StoreError> {
        let text = format!("{SELECT} WHERE o.id > $1 ORDER BY o.id LIMIT $2");
        let mut snapshot = self.database.snapshot().await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&mut *snapshot)
            .await?;
        let tail = Tail::read(&mut snapshot, Whose::All).await?;
        rows.iter().map(|row| read_row(row, &tail)).collect()
    }

    /// Adds credit.
    pub async fn top_up(
        &self,
        org: OrgId,
        amount: NanoUsd,
        reason: &str,
        by: impl Into<By>,
    ) -> Result<OrganisationRecord, StoreError> {
        let entry = NewEntry { org, kind: NewKind::TopUp, amount, reason: reason.to_owned() };
        self.book_entry(&entry, None, by).await?;
        self.organisation(org).await
    }

    /// Refuses an organisation's keys from now on, or lets them in again. One that is suspended already keeps its moment.
    pub async fn suspend_organisation(&self, org: OrgId, suspended: bool, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        must_exist(&mut transaction, org).await?;
        sqlx::query(
            "UPDATE organisations SET suspended_ms = CASE WHEN $1 = 1 THEN COALESCE(suspended_ms, $2) ELSE NULL END WHERE id = $3",
        )
        .bind(i64::from(suspended))
        .bind(by.now.0)
        .bind(org.to_string())
        .execute(&mut *transaction)
        .await?;
        Change::Organisation(org).record(&mut transaction, by.now).await?;
        let action = if suspended { "org.suspend" } else { "org.resume" };
        let entry = Entry { org: Some(org), action, object: org.to_string(), before: None, after: None };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }

    /// Calls an organisation something else.
    pub async fn rename_organisation(&self, org: OrgId, name: &str, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before: Option<String> = sqlx::query_scalar("SELECT name FROM organisations WHERE id = $1")
            .bind(org.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let was = trail::json(&json!({"name": before.ok_or_else(|| unknown(org))?}));
        sqlx::query("UPDATE organisations SET name = $1 WHERE id = $2")
            .bind(name)
            .bind(org.to_string())
            .execute(&mut *transaction)
            .await?;
        Change::Organisation(org).record(&mut transaction, by.now).await?;
        let is = trail::json(&json!({"name": name}));
        let entry = Entry {
            org: Some(org),
            action: "org.change",
            object: org.to_string(),
            before: Some(&was),
            after: Some(&is),
        };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }

    /// Refuses an organisation that there is not.
    pub async fn must_have_organisation(&self, org: OrgId) -> Result<(), StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        must_exist(&mut reader, org).await
    }
}

/// Makes an organisation without credits.
pub(super) async fn insert(
    connection: &mut Connection,
    name: &str,
    limits: &[Limit],
    by: &By,
) -> Result<OrgId, StoreError> {
    let now = by.now;
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    let id = OrgId(bits(now, random));
    sqlx::query("INSERT INTO organisations (id, name, created_ms) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    let balance = [Limit::plain(QuotaKind::Balance, 0)];
    let limits = balance.iter().chain(limits).map(|limit| (id.to_string(), limit.clone()));
    limits::set(connection, &limits.collect::<Vec<_>>(), now).await?;
    Change::Organisation(id).record(connection, now).await?;
    let is = trail::json(&json!({"name": name}));
    let entry = Entry { org: Some(id), action: "org.create", object: id.to_string(), before: None, after: Some(&is) };
    trail::record(connection, by, entry).await?;
    Ok(id)
}

/// Refuses an organisation that there is not.
pub(super) async fn must_exist(connection: &mut Connection, org: OrgId) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT id FROM organisations WHERE id = $1")
        .bind(org.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(drop).ok_or_else(|| unknown(org))
}

pub(super) fn unknown(org: OrgId) -> StoreError {
    StoreError::NotFound(format!("organisation {org}"))
}

fn read_row(row: &Rows, tail: &Tail) -> Result<OrganisationRecord, StoreError> {
    let waiting = tail.charged_in_all(QuotaId(row.try_get("quota")?));
    let spent: i64 = row.try_get("amount")?;
    Ok(OrganisationRecord {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        created: EpochMs(row.try_get("created_ms")?),
        suspended: row.try_get::<Option<i64>, _>("suspended_ms")?.map(EpochMs),
        credits: NanoUsd(row.try_get("limit_value")?),
        spent: NanoUsd(spent.saturating_add(waiting)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    #[tokio::test]
    async fn top_ups_add_up_to_the_balance() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::store::fixture::open(dir.path()).await;
        let made = store.create_organisation("Acme", NOW).await.expect("made");
        assert_eq!((made.name.as_str(), made.balance()), ("Acme", NanoUsd::ZERO));
        for amount in [5, 7] {
            store.top_up(made.id, NanoUsd(amount), "", NOW).await.expect("topped up");
        }
        let listed = store.organisations(None, 10).await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].balance(), NanoUsd(12));
        assert!(store.organisations(Some(made.id), 10).await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_added_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::store::fixture::open(dir.path()).await;
        let org = store.create_organisation("Acme", NOW).await.expect("made").id;
        store.top_up(org, NanoUsd::MAX, "all", NOW).await.expect("topped up");
        for amount in [NanoUsd(1), NanoUsd(0), NanoUsd(-1)] {
            let refused = store.top_up(org, amount, "more", NOW).await;
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{amount}");
        }
        let stranger = store.top_up(OrgId(9), NanoUsd(1), "", NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
        let credits: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM credits")
            .fetch_one(&store.database.reader)
            .await
            .expect("a number");
        assert_eq!(credits, 1);
    }
}
