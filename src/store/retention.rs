//! Lets old rows go. Calls are summed up by organisation and month first, and what they were charged by quota, so that the books can
//! still be held against the rows that are left: an audit begins with these sums.
//!
//! An organisation's mark `folded_ms` moves before the first of its calls goes, and each batch goes in the transaction that adds
//! it to the sums: the books are true at every moment.

mod fold;

use super::credits::{self, read_mark, write_mark};
use super::trail::{self, By};
use super::{Rows, Store, StoreError, organisations, parsed};
use filters::id::{CallId, OrgId, bits};
use filters::time::{EpochMs, date_of_day};
use sqlx::Row;

const DAY_MS: i64 = 86_400_000;
/// Calls that come on the books so long after they were to go are still looked for.
const LATE_MS: i64 = 30 * DAY_MS;
/// Rows that go in one statement.
const ROWS_AT_ONCE: i64 = 10_000;
/// The fewest days that calls are kept: until then their journal may bring them again, or what belongs to them.
pub const CALLS_KEPT_DAYS_MIN: u64 = 7;
/// The most.
pub const CALLS_KEPT_DAYS_MAX: u64 = 36_600;
/// The row of `meta` that says since when windows are all there.
pub(super) const WINDOWS_FROM: &str = "windows_from";

/// How long rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Calls of organisations for which nothing else was said, in days; 0: for ever.
    pub calls_keep_days: u64,
    /// What was spent and leased in windows that are past, and their events, in days.
    pub windows_keep_days: u64,
}

/// How long an organisation's calls are kept one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days; 0: for ever; none: as is configured for all.
    pub days: Option<u64>,
    /// Calls that began before are summed up.
    pub folded: EpochMs,
}

/// An organisation whose calls are to go that began before a moment.
struct Due {
    org: OrgId,
    folded: EpochMs,
    cutoff: EpochMs,
}

impl Store {
    /// How long an organisation's calls are kept.
    pub async fn retention(&self, org: OrgId) -> Result<Retention, StoreError> {
        let row = sqlx::query("SELECT retention_days, folded_ms FROM organisations WHERE id = $1")
            .bind(org.to_string())
            .fetch_optional(&self.database.reader)
            .await?;
        read_retention(&row.ok_or_else(|| organisations::unknown(org))?)
    }

    /// Says how long an organisation's calls are kept: some days, 0 for ever, or as is configured for all.
    pub async fn set_retention(&self, org: OrgId, days: Option<u64>, by: impl Into<By>) -> Result<(), StoreError> {
        let is_possible =
            days.is_none_or(|days| days == 0 || (CALLS_KEPT_DAYS_MIN..=CALLS_KEPT_DAYS_MAX).contains(&days));
        if !is_possible {
            return Err(StoreError::Refused("calls are kept 7 to 36 600 days, or for ever: 0"));
        }
        let (by, mut transaction) = (by.into(), self.database.change().await?);
        let select = sqlx::query("SELECT retention_days, folded_ms FROM organisations WHERE id = $1");
        let row = select.bind(org.to_string()).fetch_optional(&mut *transaction).await?;
        let before = read_retention(&row.ok_or_else(|| organisations::unknown(org))?)?;
        sqlx::query("UPDATE organisations SET retention_days = $1 WHERE id = $2")
            .bind(days.map(u64::cast_signed))
            .bind(org.to_string())
            .execute(&mut *transaction)
            .await?;
        let json = |days: Option<u64>| trail::json(&serde_json::json!({ "retention_days": days }));
        let (before, after) = (json(before.days), json(days));
        let entry = trail::Entry {
            org: Some(org),
            action: "org.retention",
            object: org.to_string(),
            before: Some(&before),
            after: Some(&after),
        };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }

    /// Sums up the calls that are older than their organisations keep them, and lets go what past windows held. Says how many
    /// calls went.
    pub async fn let_old_rows_go(&self, settings: &RetentionSettings, now: EpochMs) -> Result<u64, StoreError> {
        let mut folded = 0;
        for due in self.due(settings, now).await? {
            folded += self.fold(&due).await?;
        }
        self.prune_windows(now.plus(-days_ms(settings.windows_keep_days))).await?;
        Ok(folded)
    }

    /// Organisations whose calls of another day have become old.
    async fn due(&self, settings: &RetentionSettings, now: EpochMs) -> Result<Vec<Due>, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        let booked = read_mark(&mut reader, credits::BOOKED_THROUGH).await?;
        let rows = sqlx::query("SELECT id, retention_days, folded_ms FROM organisations ORDER BY id")
            .fetch_all(&mut *reader)
            .await?;
        let mut all = Vec::new();
        for row in &rows {
            let Retention { days, folded } = read_retention(row)?;
            let days = days.unwrap_or(settings.calls_keep_days);
            let cutoff = day_of(now.plus(-days_ms(days)).min(booked));
            if days > 0 && cutoff > folded {
                all.push(Due { org: parsed(row, "id")?, folded, cutoff });
            }
        }
        Ok(all)
    }

    async fn fold(&self, due: &Due) -> Result<u64, StoreError> {
        let mut transaction = self.database.change().await?;
        sqlx::query("UPDATE organisations SET folded_ms = $1 WHERE id = $2 AND folded_ms < $1")
            .bind(due.cutoff.0)
            .bind(due.org.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        // Identifiers of calls begin with their time.
        let mut after = match due.folded {
            EpochMs(0) => String::new(),
            folded => CallId(bits(folded.plus(-LATE_MS), [0; 10])).to_string(),
        };
        let mut folded = 0;
        loop {
            let mut transaction = self.database.change().await?;
            let Some((last, calls)) = fold::batch(&mut transaction, due.org, due.cutoff, &after).await? else {
                break;
            };
            transaction.commit().await?;
            (after, folded) = (last, folded + calls);
        }
        self.delete_old(REQUESTS, &[due.org.to_string()], due.cutoff).await?;
        Ok(folded)
    }

    /// Lets go what was spent and leased in periods that began before a moment, and older events.
    async fn prune_windows(&self, before: EpochMs) -> Result<(), StoreError> {
        let before = day_of(before);
        let mut transaction = self.database.change().await?;
        let known = read_mark(&mut transaction, WINDOWS_FROM).await?;
        if before <= known {
            return Ok(());
        }
        // First it is said, then done: an audit in between looks for none of them.
        write_mark(&mut transaction, WINDOWS_FROM, before).await?;
        transaction.commit().await?;
        for statement in PAST_WINDOWS {
            self.delete_old(statement, &[], before).await?;
        }
        Ok(())
    }

    async fn delete_old(
        &self,
        statement: &'static str,
        parameters: &[String],
        before: EpochMs,
    ) -> Result<(), StoreError> {
        loop {
            let query = sqlx::query(statement).bind(before.0).bind(ROWS_AT_ONCE);
            let query = parameters.iter().fold(query, |query, parameter| query.bind(parameter));
            if query.execute(&self.database.writer).await?.rows_affected() < ROWS_AT_ONCE.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

/// Notes of requests that cost nothing go with the calls of their time.
const REQUESTS: &str = "DELETE FROM requests WHERE id IN \
     (SELECT id FROM requests WHERE at_ms < $1 AND org_id = $3 ORDER BY at_ms LIMIT $2)";
/// Those of no window have the period 0.
const PAST_WINDOWS: [&str; 4] = [
    "DELETE FROM spent WHERE (quota, window_start_ms) IN \
     (SELECT quota, window_start_ms FROM spent WHERE window_start_ms > 0 AND window_start_ms < $1 LIMIT $2)",
    "DELETE FROM leases WHERE (quota, period_ms, node) IN \
     (SELECT quota, period_ms, node FROM leases WHERE period_ms > 0 AND period_ms < $1 LIMIT $2)",
    "DELETE FROM folded_shares WHERE (quota, period_ms, node) IN \
     (SELECT quota, period_ms, node FROM folded_shares WHERE period_ms > 0 AND period_ms < $1 LIMIT $2)",
    "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at_ms < $1 AND period_ms > 0 ORDER BY id LIMIT $2)",
];

fn read_retention(row: &Rows) -> Result<Retention, StoreError> {
    let days: Option<i64> = row.try_get("retention_days")?;
    Ok(Retention { days: days.map(|days| days.max(0).unsigned_abs()), folded: EpochMs(row.try_get("folded_ms")?) })
}

fn days_ms(days: u64) -> i64 {
    i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY_MS)
}

/// The beginning of a moment's day.
fn day_of(moment: EpochMs) -> EpochMs {
    EpochMs(moment.day() * DAY_MS)
}

/// The beginning of a moment's month.
pub(super) fn month_of(moment: EpochMs) -> EpochMs {
    let (_, _, day) = date_of_day(moment.day());
    EpochMs((moment.day() - (day - 1)) * DAY_MS)
}

#[cfg(test)]
mod tests;
