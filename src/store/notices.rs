//! Notices that no request brings about: keys that end soon, and balances that have fallen below an amount. One of the nodes looks
//! after them from time to time.

use super::outbox::{self, Event, ExpiringKey};
use super::trail::{self, By, Entry};
use super::{Rows, Store, StoreError, organisations, parsed};
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::time::EpochMs;
use sqlx::Row;

const DAY_MS: i64 = 86_400_000;
/// Most notices of one kind at a time; the rest follows the next time.
const NOTICES_MAX: i64 = 500;

/// When an organisation is told that its credit is low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreditNotice {
    /// Below which balance; none: as configured for all.
    pub low: Option<NanoUsd>,
}

/// What notices depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoticeSettings {
    /// How many days before its end a key's owner is told.
    pub key_expiry_days: Vec<u64>,
    /// Below which balance an organisation's credit is low, where it names none of its own.
    pub credit_low: Option<NanoUsd>,
    /// How many days events are kept.
    pub keep_days: u64,
}

impl Store {
    /// Says whether this node is the one to do something that is done once in so many milliseconds.
    pub async fn takes_duty(&self, name: &str, every_ms: i64, now: EpochMs) -> Result<bool, StoreError> {
        let taken = sqlx::query(
            "INSERT INTO duties (name, due_ms) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET due_ms = excluded.due_ms WHERE duties.due_ms <= $3",
        )
        .bind(name)
        .bind(now.plus(every_ms).0)
        .bind(now.0)
        .execute(&self.database.writer)
        .await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Writes down what is to be told now, and removes what is old.
    pub async fn give_notices(&self, settings: &NoticeSettings, now: EpochMs) -> Result<(), StoreError> {
        let mut days = settings.key_expiry_days.clone();
        days.sort_unstable();
        for (place, _) in days.iter().enumerate() {
            self.tell_of_expiring_keys(&days[..=place], now).await?;
        }
        self.tell_of_low_credit(settings.credit_low, now).await?;
        let kept_ms = i64::try_from(settings.keep_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
        self.prune_events(now.plus(-kept_ms)).await
    }

    /// Tells of the keys that end within the last of some numbers of days, and have not been told of for any of them. A key
    /// that was made later than that before its end has this notice behind it.
    async fn tell_of_expiring_keys(&self, days: &[u64], now: EpochMs) -> Result<(), StoreError> {
        let Some(last) = days.last().copied() else { return Ok(()) };
        let before_ms = i64::try_from(last).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
        let untold = days.iter().map(|days| {
            let once = Event::once_key_expiring("' || k.id || '", "' || CAST(k.expires_ms AS TEXT) || '", *days);
            format!(" AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.once = '{once}')")
        });
        let text = format!(
            "SELECT k.id, k.org, k.name, k.fingerprint, k.expires_ms FROM keys k WHERE k.expires_ms > $1 AND k.expires_ms <= $2 \
             AND k.created_ms <= k.expires_ms - $3 AND k.status = 'live'{} ORDER BY k.expires_ms LIMIT $4",
            untold.collect::<String>()
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(now.0)
            .bind(now.plus(before_ms).0)
            .bind(before_ms)
            .bind(NOTICES_MAX)
            .fetch_all(&self.database.reader)
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.write().await?;
        for row in &rows {
            outbox::write(&mut transaction, &Event::key_expiring(&read_expiring(row)?, last), now).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Tells of the balances that have fallen, each once until it has risen again.
    async fn tell_of_low_credit(&self, usual: Option<NanoUsd>, now: EpochMs) -> Result<(), StoreError> {
        let rows = sqlx::query(
            "SELECT q.owner, q.limit_value - COALESCE(s.amount, 0) AS balance, COALESCE(n.low_nano, $1) AS low, \
             COALESCE(n.told, 0) AS told FROM quotas q LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0 \
             LEFT JOIN credit_notices n ON n.org = q.owner WHERE q.kind = 'balance' AND q.limit_value > 0 \
             AND (CASE WHEN q.limit_value - COALESCE(s.amount, 0) < COALESCE(n.low_nano, $1) THEN 1 ELSE 0 END) \
             <> COALESCE(n.told, 0) ORDER BY q.owner LIMIT $2",
        )
        .bind(usual.map_or(i64::MIN, |amount| amount.0))
        .bind(NOTICES_MAX)
        .fetch_all(&self.database.reader)
        .await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.write().await?;
        for row in &rows {
            let org: OrgId = parsed(row, "owner")?;
            let (was_told, now_told): (i64, i64) = (row.try_get("told")?, 1 - row.try_get::<i64, _>("told")?);
            let turned = sqlx::query(
                "INSERT INTO credit_notices (org, told) VALUES ($1, $2) \
                 ON CONFLICT (org) DO UPDATE SET told = excluded.told WHERE credit_notices.told = $3",
            )
            .bind(org.to_string())
            .bind(now_told)
            .bind(was_told)
            .execute(&mut *transaction)
            .await?;
            if now_told == 1 && turned.rows_affected() > 0 {
                let (balance, low) = (NanoUsd(row.try_get("balance")?), NanoUsd(row.try_get("low")?));
                outbox::write(&mut transaction, &Event::credit_low(org, balance, low, now), now).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// When an organisation is told that its credit is low.
    pub async fn credit_notice(&self, org: OrgId) -> Result<CreditNotice, StoreError> {
        let mut connection = self.database.reader.acquire().await?;
        organisations::must_exist(&mut connection, org).await?;
        let row = sqlx::query("SELECT low_nano FROM credit_notices WHERE org = $1")
            .bind(org.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        let low: Option<i64> = row.map(|row| row.try_get("low_nano")).transpose()?.flatten();
        Ok(CreditNotice { low: low.map(NanoUsd) })
    }

    /// Says when an organisation is told that its credit is low.
    pub async fn change_credit_notice(
        &self,
        org: OrgId,
        notice: CreditNotice,
        by: impl Into<By>,
    ) -> Result<(), StoreError> {
        let before = self.credit_notice(org).await?;
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, org).await?;
        sqlx::query(
            "INSERT INTO credit_notices (org, low_nano, told) VALUES ($1, $2, 0) \
             ON CONFLICT (org) DO UPDATE SET low_nano = excluded.low_nano",
        )
        .bind(org.to_string())
        .bind(notice.low.map(|amount| amount.0))
        .execute(&mut *transaction)
        .await?;
        let json = |notice: CreditNotice| {
            trail::json(&serde_json::json!({ "credit_low_usd": notice.low.map(|amount| amount.to_string()) }))
        };
        let (before, after) = (json(before), json(notice));
        let entry = Entry {
            org: Some(org),
            action: "notices.update",
            object: org.to_string(),
            before: Some(&before),
            after: Some(&after),
        };
        trail::record(&mut transaction, &by.into(), entry).await?;
        Ok(transaction.commit().await?)
    }
}

fn read_expiring(row: &Rows) -> Result<ExpiringKey, StoreError> {
    Ok(ExpiringKey {
        key: parsed(row, "id")?,
        org: parsed(row, "org")?,
        name: row.try_get("name")?,
        fingerprint: row.try_get("fingerprint")?,
        expires: EpochMs(row.try_get("expires_ms")?),
    })
}
