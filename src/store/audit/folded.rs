//! What the rows were that have been let go: with their sums an audit begins. See `retention.rs`.

use super::accounts::Charged;
use super::limits::Limits;
use super::{AuditReport, Invariant};
use crate::store::credits::read_mark;
use crate::store::ledger::{Figures, figure_columns, read_figures};
use crate::store::retention::{WINDOWS_FROM, month_of};
use crate::store::{StoreError, Transaction, parsed};
use filters::id::{OrgId, QuotaId};
use filters::ports::Share;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};

/// A charge that went to a share of a node's lease.
struct FoldedShare {
    share: Share,
    node: String,
    /// The mark of the organisation that has the quota.
    through: EpochMs,
    charge: i64,
}

/// The sums of what is gone.
pub(super) struct Folded {
    shares: Vec<FoldedShare>,
    /// The figures of calls by organisation and month.
    closings: BTreeMap<(OrgId, EpochMs), Figures>,
    /// Windows that began before it may have no rows any more.
    pub(super) windows_from: EpochMs,
}

/// A quota is a key's, a project's or an organisation's.
const SHARES: &str = "SELECT f.quota, f.period_ms, f.node, f.charge_nano, COALESCE(o.folded_ms, 0) AS folded_ms \
     FROM folded_shares f LEFT JOIN quotas q ON q.id = f.quota LEFT JOIN keys k ON k.id = q.owner \
     LEFT JOIN projects p ON p.id = q.owner LEFT JOIN organisations o ON o.id = COALESCE(k.org, p.org, q.owner)";
/// Usage of the hours of which calls are gone, and the calls of those hours that are left.
const USED: [(&str, &str); 2] = [
    (
        "u.hour_ms",
        "usage_hours u JOIN keys k ON k.id = u.key_id JOIN organisations o ON o.id = k.org WHERE u.hour_ms < o.folded_ms",
    ),
    (
        "u.started_ms",
        "calls u JOIN keys k ON k.id = u.key_id JOIN organisations o ON o.id = k.org \
         LEFT JOIN checkpoints n ON n.node = u.node WHERE u.started_ms < o.folded_ms \
         AND u.seq <= COALESCE(n.merged_through, u.seq)",
    ),
];

impl Folded {
    pub(super) async fn read(snapshot: &mut Transaction) -> Result<Self, StoreError> {
        let mut shares = Vec::new();
        let mut rows = sqlx::query(SHARES).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            shares.push(FoldedShare {
                share: Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("period_ms")?) },
                node: row.try_get("node")?,
                through: EpochMs(row.try_get("folded_ms")?),
                charge: row.try_get("charge_nano")?,
            });
        }
        drop(rows);
        let figures: Vec<_> = figure_columns().collect();
        let text = format!("SELECT org, month_ms, {} FROM closings WHERE kind = 'calls'", figures.join(", "));
        let mut closings = BTreeMap::new();
        let mut rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            closings.insert((parsed(&row, "org")?, EpochMs(row.try_get("month_ms")?)), read_figures(&row, 2)?);
        }
        drop(rows);
        Ok(Self { shares, closings, windows_from: read_mark(snapshot, WINDOWS_FROM).await? })
    }

    /// Whether nothing is gone.
    pub(super) fn is_empty(&self) -> bool {
        self.closings.is_empty()
    }

    /// Begins with what is gone.
    pub(super) async fn open(
        &self,
        snapshot: &mut Transaction,
        (charged, limits): (&mut Charged, &mut Limits),
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        charged.open(self.shares.iter().map(|folded| (folded.share, folded.charge)));
        for folded in &self.shares {
            limits.open(folded.share, folded.through, folded.charge);
        }
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(calls), 0) AS BIGINT) AS calls, \
             CAST(COALESCE(SUM(charge_nano / 1000000000), 0) AS BIGINT) AS dollars, \
             CAST(COALESCE(SUM(charge_nano % 1000000000), 0) AS BIGINT) AS nano_dollars FROM closings",
        )
        .fetch_one(&mut **snapshot)
        .await?;
        let (dollars, nano_dollars): (i64, i64) = (row.try_get("dollars")?, row.try_get("nano_dollars")?);
        report.charged += i128::from(dollars) * 1_000_000_000 + i128::from(nano_dollars);
        report.folded = row.try_get::<i64, _>("calls")?.unsigned_abs();
        Ok(())
    }

    /// What went to the shares of each node's leases.
    pub(super) fn by_lease(&self) -> HashMap<(String, Share), i128> {
        let mut sums: HashMap<(String, Share), i128> = HashMap::new();
        for folded in &self.shares {
            *sums.entry((folded.node.clone(), folded.share)).or_default() += i128::from(folded.charge);
        }
        sums
    }

    /// Usage of a month that is gone is what was summed up of it, and what is left.
    pub(super) async fn check(&self, snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut sides = [BTreeMap::new(), self.closings.clone()];
        for ((at, from), side) in USED.into_iter().zip(&mut sides) {
            let figure = |name: &str| match (at, name) {
                ("u.started_ms", "calls") => "CAST(1 AS BIGINT) AS calls".to_owned(),
                (_, name) => format!("u.{name}"),
            };
            let figures: Vec<_> = figure_columns().map(figure).collect();
            let text = format!("SELECT k.org, {at} AS at_ms, {} FROM {from}", figures.join(", "));
            let mut rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch(&mut **snapshot);
            while let Some(row) = rows.try_next().await? {
                let month = month_of(EpochMs(row.try_get("at_ms")?));
                let sum: &mut Figures = side.entry((parsed(&row, "org")?, month)).or_default();
                sum.add(&read_figures(&row, 2)?);
            }
        }
        let [used, kept] = sides;
        let none = Figures::default();
        let mut places: Vec<_> = used.keys().chain(kept.keys()).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let (used, kept) = (used.get(place).unwrap_or(&none), kept.get(place).unwrap_or(&none));
            if used != kept {
                let detail = "its usage is not what its calls were that are gone and that are left".to_owned();
                let object = format!("closing of {} from {}", place.0, place.1.0);
                report.find(Invariant::RollupsAreTheirRows, object, detail);
            }
        }
        Ok(())
    }
}
