//! Tells once a period that half, most or all of a quota is spent.

use super::sums::Charged;
use crate::store::{Connection, Engine, StoreError};
use filters::id::{OrgId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};

/// The thresholds, in percent of the limit, in their order.
pub const THRESHOLDS: [i64; 3] = [50, 80, 100];

/// A quota that has reached a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crossing {
    pub(super) org: OrgId,
    pub(super) share: Share,
    pub(super) percent: i64,
    pub(super) limit: i64,
    pub(super) spent: i64,
}

/// The thresholds that quotas with a limit have reached by now and that no event of their period tells of yet.
pub(super) async fn crossed(
    connection: &mut Connection,
    charges: &[(Share, Charged)],
) -> Result<Vec<Crossing>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new("WITH charged (quota, period_ms) AS (VALUES ");
    for (place, (share, _)) in charges.iter().enumerate() {
        query.push(if place == 0 { "(CAST(" } else { ", (CAST(" });
        query.push_bind(share.quota.0).push(" AS BIGINT), CAST(").push_bind(share.period.0).push(" AS BIGINT))");
    }
    query.push(
        ") SELECT s.quota, s.window_start_ms, s.amount, q.limit_value, \
         (SELECT COALESCE(MAX(e.percent), 0) FROM events e \
          WHERE e.quota = s.quota AND e.period_ms = s.window_start_ms) AS told \
         FROM charged c CROSS JOIN spent s CROSS JOIN quotas q \
         WHERE s.quota = c.quota AND s.window_start_ms = c.period_ms AND q.id = c.quota \
         AND q.limit_value > 0 AND q.limit_value < 9223372036854775807 \
         AND s.amount >= q.limit_value - q.limit_value / 2",
    );
    let rows = query.build().fetch_all(connection).await?;
    let mut crossings = Vec::new();
    for row in rows {
        let share = Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("window_start_ms")?) };
        let Ok(at) = charges.binary_search_by_key(&share, |(share, _)| *share) else { continue };
        let (limit, spent): (i64, i64) = (row.try_get("limit_value")?, row.try_get("amount")?);
        let told: i64 = row.try_get("told")?;
        let is_reached =
            |percent: &i64| *percent > told && i128::from(spent) * 100 >= i128::from(limit) * i128::from(*percent);
        let reached = THRESHOLDS.into_iter().filter(is_reached);
        crossings.extend(reached.map(|percent| Crossing { org: charges[at].1.org, share, percent, limit, spent }));
    }
    Ok(crossings)
}

/// Writes the events, in the transaction that moved what was spent.
pub(super) async fn write(connection: &mut Connection, crossings: &[Crossing], now: EpochMs) -> Result<(), StoreError> {
    for crossing in crossings {
        sqlx::query(
            "INSERT INTO events (org_id, quota, period_ms, kind, percent, limit_value, spent, at_ms) \
             VALUES ($1, $2, $3, 'threshold', $4, $5, $6, $7) ON CONFLICT (quota, period_ms, percent) DO NOTHING",
        )
        .bind(crossing.org.to_string())
        .bind(crossing.share.quota.0)
        .bind(crossing.share.period.0)
        .bind(crossing.percent)
        .bind(crossing.limit)
        .bind(crossing.spent)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

impl Crossing {
    /// Says it in the log.
    pub(super) fn log(&self) {
        tracing::warn!(
            org = %self.org,
            quota = self.share.quota.0,
            period_ms = self.share.period.0,
            percent = self.percent,
            limit_usd = %NanoUsd(self.limit),
            spent_usd = %NanoUsd(self.spent),
            "a quota has reached a threshold"
        );
    }
}
