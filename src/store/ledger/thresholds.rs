//! Tells once that a part of a quota is spent that its owner wants to hear of: once a period, and of a rolling window once as long
//! as the event lies in it.

use super::merge::chunks;
use super::sums::Charged;
use crate::store::engine::On;
use crate::store::outbox::{self, Event, ReachedThreshold};
use crate::store::quotas::{Thresholds, read_terms, read_window};
use crate::store::{Connection, Engine, Rows, StoreError, parsed};
use filters::id::{OrgId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};

/// The usual thresholds, in percent of the limit, in their order; each is counted for itself.
pub const THRESHOLDS: [u8; 3] = [50, 80, 100];

/// A quota that has reached a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crossing {
    pub(super) org: OrgId,
    pub(super) share: Share,
    pub(super) percent: u8,
    pub(super) limit: i64,
    pub(super) spent: i64,
}

/// A quota that may have reached a threshold in a period that was charged to.
struct Candidate {
    share: Share,
    /// The oldest period that counts in this one.
    from: EpochMs,
    limit: i64,
    thresholds: Thresholds,
}

/// Where a candidate stands.
struct Standing {
    spent: i64,
    /// The highest threshold that was told of in the periods that count; 0 if none.
    told: u8,
}

/// The thresholds that quotas have reached by charges, in their order, and that no event tells of yet.
pub(super) async fn crossed(
    connection: &mut Connection,
    charges: &[(Share, Charged)],
    now: EpochMs,
) -> Result<Vec<Crossing>, StoreError> {
    let mut candidates = Vec::new();
    for chunk in chunks(charges) {
        candidates.extend(read_candidates(connection, chunk, now).await?);
    }
    let mut crossings: Vec<Crossing> = Vec::new();
    for chunk in chunks(&candidates) {
        let standings = read_standings(connection, chunk).await?;
        for (candidate, standing) in chunk.iter().zip(&standings) {
            let Candidate { share, limit, .. } = *candidate;
            let Ok(at) = charges.binary_search_by_key(&share, |(share, _)| *share) else { continue };
            let is_counted = |told: &&Crossing| told.share.quota == share.quota && told.share.period >= candidate.from;
            let told = crossings.iter().rev().take_while(is_counted).map(|told| told.percent);
            let told = told.chain([standing.told]).max().unwrap_or(0);
            let reached = candidate.thresholds.0.iter().copied().filter(|percent| {
                *percent > told && i128::from(standing.spent) * 100 >= i128::from(limit) * i128::from(*percent)
            });
            let (org, spent) = (charges[at].1.org, standing.spent);
            crossings.extend(reached.map(|percent| Crossing { org, share, percent, limit, spent }));
        }
    }
    Ok(crossings)
}

/// The quotas with limits and thresholds among those that were charged. Most have the usual thresholds and count in one period:
/// of those the ones that have spent less than half are left out at once.
async fn read_candidates(
    connection: &mut Connection,
    charges: &[(Share, Charged)],
    now: EpochMs,
) -> Result<Vec<Candidate>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new("WITH charged (quota, period_ms) AS (VALUES ");
    for (place, (share, _)) in charges.iter().enumerate() {
        query.push(if place == 0 { "(CAST(" } else { ", (CAST(" });
        query.push_bind(share.quota.0).push(" AS BIGINT), CAST(").push_bind(share.period.0).push(" AS BIGINT))");
    }
    query.push(
        ") SELECT c.quota, c.period_ms, q.unit, q.align, q.zone, q.strict, q.limit_value, q.increase_value, \
         q.increase_until_ms, q.thresholds FROM charged c CROSS JOIN spent s CROSS JOIN quotas q \
         WHERE s.quota = c.quota AND s.window_start_ms = c.period_ms AND q.id = c.quota \
         AND q.removed_ms IS NULL AND q.limit_value < 9223372036854775807 AND q.thresholds <> '' \
         AND (s.amount >= q.limit_value - q.limit_value / 2 OR q.increase_value IS NOT NULL OR q.align = 'rolling' \
         OR q.thresholds <> '50,80,100') ORDER BY 1, 2",
    );
    let rows = query.on(connection).fetch_all(connection).await?;
    let candidates = rows.iter().map(|row| read_candidate(row, now)).collect::<Result<Vec<_>, _>>()?;
    Ok(candidates.into_iter().filter(|candidate| candidate.limit > 0).collect())
}

fn read_candidate(row: &Rows, now: EpochMs) -> Result<Candidate, StoreError> {
    let share = Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("period_ms")?) };
    Ok(Candidate {
        share,
        from: read_window(row)?.counted_from(share.period),
        limit: read_terms(row)?.limit_at(now).0,
        thresholds: parsed(row, "thresholds")?,
    })
}

/// Where each of some candidates stands, in their order.
async fn read_standings(connection: &mut Connection, candidates: &[Candidate]) -> Result<Vec<Standing>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new("WITH counted (place, quota, from_ms, period_ms) AS (VALUES ");
    for (place, Candidate { share, from, .. }) in candidates.iter().enumerate() {
        query.push(if place == 0 { "(CAST(" } else { ", (CAST(" });
        query.push_bind(place as i64).push(" AS BIGINT), CAST(").push_bind(share.quota.0).push(" AS BIGINT), CAST(");
        query.push_bind(from.0).push(" AS BIGINT), CAST(").push_bind(share.period.0).push(" AS BIGINT))");
    }
    // In two parts, because an engine's own sum of amounts fails where it overflows, and then nothing could be shipped.
    query.push(
        ") SELECT (SELECT CAST(SUM(s.amount / 1000000000) AS BIGINT) FROM spent s WHERE s.quota = c.quota \
         AND s.window_start_ms >= c.from_ms AND s.window_start_ms <= c.period_ms) AS dollars, \
         (SELECT CAST(SUM(s.amount % 1000000000) AS BIGINT) FROM spent s WHERE s.quota = c.quota \
         AND s.window_start_ms >= c.from_ms AND s.window_start_ms <= c.period_ms) AS nano_dollars, \
         (SELECT CAST(COALESCE(MAX(e.percent), 0) AS BIGINT) FROM events e WHERE e.quota = c.quota \
         AND e.period_ms >= c.from_ms AND e.period_ms <= c.period_ms) AS told FROM counted c ORDER BY c.place",
    );
    let rows = query.on(connection).fetch_all(connection).await?;
    rows.iter().map(read_standing).collect()
}

fn read_standing(row: &Rows) -> Result<Standing, StoreError> {
    let (dollars, nano_dollars): (Option<i64>, Option<i64>) = (row.try_get("dollars")?, row.try_get("nano_dollars")?);
    let spent = dollars.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nano_dollars.unwrap_or(0));
    let told: i64 = row.try_get("told")?;
    Ok(Standing { spent, told: u8::try_from(told).unwrap_or(u8::MAX) })
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
        .bind(i64::from(crossing.percent))
        .bind(crossing.limit)
        .bind(crossing.spent)
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
        crossing.tell(connection, now).await?;
    }
    Ok(())
}

impl Crossing {
    /// Puts it into the outbox.
    async fn tell(&self, connection: &mut Connection, now: EpochMs) -> Result<(), StoreError> {
        let row = sqlx::query("SELECT owner, kind FROM quotas WHERE id = $1")
            .bind(self.share.quota.0)
            .fetch_one(&mut *connection)
            .await?;
        let reached = ReachedThreshold {
            quota: self.share.quota.0,
            owner: row.try_get("owner")?,
            kind: row.try_get("kind")?,
            period: self.share.period,
            percent: self.percent,
            limit: NanoUsd(self.limit),
            spent: NanoUsd(self.spent),
        };
        outbox::write(connection, &Event::limit_threshold(self.org, &reached), now).await
    }

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
