//! Whether leases are what was granted, given back and shipped.

use super::folded::Folded;
use super::limits::clamped;
use super::{AuditReport, Invariant, NodeLeases};
use crate::store::ledger::read_shares;
use crate::store::quotas::QuotaKind;
use crate::store::{Rows, StoreError, Transaction, leases};
use filters::id::QuotaId;
use filters::lease::Lease;
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};

/// A lease, and what its node's calls in its period were charged, the latest first.
struct Held {
    lease: Lease,
    charged: i128,
    /// What those were charged that are gone: they came before.
    folded: i128,
    /// Whether what has been shipped is what the calls from some call on were charged.
    is_met: bool,
    /// Usage that came after a call's end has no place in the order.
    is_amended: bool,
    is_money: bool,
}

type Place = (String, Share);

/// A lease begins when a quota is first short of credit, which may be after calls of a time without a limit. From then on the
/// shipper moves it by every call: what it has shipped are the charges of all calls from some call on.
pub(super) async fn check_leases(
    snapshot: &mut Transaction,
    folded: &Folded,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let mut held = read_leases(snapshot).await?;
    for (place, charge) in folded.by_lease() {
        if let Some(held) = held.get_mut(&place) {
            held.folded = charge;
        }
    }
    if held.is_empty() {
        return Ok(());
    }
    let mut rows = sqlx::query(
        "SELECT c.node, c.shares, c.charge_nano FROM calls c JOIN checkpoints n ON n.node = c.node \
         WHERE c.seq <= n.merged_through ORDER BY c.node, c.seq DESC",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        add(&mut held, &row, false)?;
    }
    drop(rows);
    let mut rows = sqlx::query(
        "SELECT c.node, c.shares, a.charge_nano FROM amendments a JOIN calls c ON c.request_id = a.request_id",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        add(&mut held, &row, true)?;
    }
    drop(rows);
    let mut places: Vec<_> = held.into_iter().collect();
    places.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    let mut nodes: BTreeMap<String, NodeLeases> = BTreeMap::new();
    for ((node, share), held) in places {
        let told =
            nodes.entry(node.clone()).or_insert_with(|| NodeLeases { node: node.clone(), ..NodeLeases::default() });
        told.leases += 1;
        told.outstanding += i128::from(held.lease.outstanding()) * i128::from(held.is_money);
        if let Some(detail) = held.problem() {
            let object = format!("the lease of {node} of quota {} from {}", share.quota.0, share.period.0);
            report.find(Invariant::LeasesAreSound, object, detail);
        }
    }
    report.nodes = nodes.into_values().collect();
    Ok(())
}

async fn read_leases(snapshot: &mut Transaction) -> Result<HashMap<Place, Held>, StoreError> {
    let mut held = HashMap::new();
    let mut rows = sqlx::query(
        "SELECT l.quota, l.period_ms, l.node, l.granted, l.returned, l.shipped, q.kind \
         FROM leases l LEFT JOIN quotas q ON q.id = l.quota",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let share = Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("period_ms")?) };
        let lease = leases::read_lease(&row)?;
        let is_met = lease.shipped == 0;
        let is_money = row.try_get::<Option<String>, _>("kind")?.as_deref() != Some(QuotaKind::Concurrency.name());
        held.insert(
            (row.try_get("node")?, share),
            Held { lease, charged: 0, folded: 0, is_met, is_amended: false, is_money },
        );
    }
    Ok(held)
}

fn add(held: &mut HashMap<Place, Held>, row: &Rows, is_amended: bool) -> Result<(), StoreError> {
    let (node, charge): (String, i64) = (row.try_get("node")?, row.try_get("charge_nano")?);
    for share in read_shares(row)? {
        if let Some(held) = held.get_mut(&(node.clone(), share)) {
            held.charged += i128::from(charge);
            held.is_amended |= is_amended;
            held.is_met |= held.charged == i128::from(held.lease.shipped);
        }
    }
    Ok(())
}

impl Held {
    fn problem(&self) -> Option<String> {
        let Lease { granted, returned, shipped } = self.lease;
        let usd = |amount: i64| format!("${}", NanoUsd(amount));
        if returned < 0 || granted < returned {
            return Some(format!("{} was given back of {} granted", usd(returned), usd(granted)));
        }
        let (shipped_in_all, all) = (i128::from(shipped), self.charged + self.folded);
        let is_met = match self.is_amended {
            true => shipped_in_all <= all,
            // It may have begun among calls that are gone.
            false => self.is_met || (self.folded != 0 && (self.charged..=all).contains(&shipped_in_all)),
        };
        (!is_met && shipped != i64::MAX).then(|| {
            let charged = usd(clamped(all));
            format!(
                "{} is said to have been shipped, but no run of its last calls was charged that: all were {charged}",
                usd(shipped)
            )
        })
    }
}
