//! Credits, and whether what was spent of each quota is what was charged to it.

use super::entries;
use super::limits::clamped;
use super::{Account, AuditReport, Invariant, Unaccounted};
use crate::store::ledger::{Tail, Whose};
use crate::store::{StoreError, Transaction};
use filters::id::{KeyId, OrgId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::HashMap;

/// Every key and every organisation has one quota that counts all its calls for ever.
const TOTALS: &str = "SELECT q.id, q.owner, q.kind, q.limit_value, COALESCE(s.amount, 0) AS amount FROM quotas q \
     LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0 \
     WHERE q.kind = 'balance' \
     OR (q.kind = 'spend' AND q.unit = 'total' AND q.model = '' AND q.owner IN (SELECT id FROM keys)) ORDER BY q.owner";
const UNACCOUNTED: &str = "SELECT u.quota, u.period_ms, u.node, u.amount, u.charged, q.owner FROM unaccounted u \
     JOIN quotas q ON q.id = u.quota ORDER BY u.node, u.quota, u.period_ms";

/// A quota that counts everything of its owner.
struct Total {
    quota: QuotaId,
    limit: NanoUsd,
    spent: i64,
}

/// Charges summed up by whoever is to have spent them.
pub(super) struct Charged {
    by_key: HashMap<KeyId, i128>,
    by_org: HashMap<OrgId, i128>,
    by_share: HashMap<Share, i128>,
    totals: HashMap<String, Total>,
    /// What is counted as spent because nodes were forgotten, and no call has accounted for.
    unaccounted: HashMap<Share, i128>,
}

impl Charged {
    pub(super) async fn read(snapshot: &mut Transaction) -> Result<Self, StoreError> {
        let mut totals = HashMap::new();
        let mut rows = sqlx::query(TOTALS).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            let quota = QuotaId(row.try_get("id")?);
            let limit = NanoUsd(row.try_get("limit_value")?);
            totals.insert(row.try_get("owner")?, Total { quota, limit, spent: row.try_get("amount")? });
        }
        let unaccounted = HashMap::new();
        Ok(Self { by_key: HashMap::new(), by_org: HashMap::new(), by_share: HashMap::new(), totals, unaccounted })
    }

    /// Begins with what calls were charged that are gone.
    pub(super) fn open(&mut self, folded: impl Iterator<Item = (Share, i64)>) {
        let owners: HashMap<QuotaId, &str> =
            self.totals.iter().map(|(owner, total)| (total.quota, owner.as_str())).collect();
        for (share, charge) in folded {
            let owner = owners.get(&share.quota).filter(|_| share.period == EpochMs(0)).copied().unwrap_or_default();
            let sum = if let Ok(key) = owner.parse() {
                self.by_key.entry(key).or_default()
            } else if let Ok(org) = owner.parse() {
                self.by_org.entry(org).or_default()
            } else {
                self.by_share.entry(share).or_default()
            };
            *sum += i128::from(charge);
        }
    }

    /// Adds the charge of a call or of an amendment, and says where it went. Rows of the first releases name no quotas: there
    /// were two.
    pub(super) fn add(&mut self, key: KeyId, org: OrgId, charge: NanoUsd, shares: Vec<Share>) -> Vec<Share> {
        *self.by_key.entry(key).or_default() += i128::from(charge.0);
        *self.by_org.entry(org).or_default() += i128::from(charge.0);
        let shares = if shares.is_empty() {
            let owners = [key.to_string(), org.to_string()];
            let totals = owners.iter().filter_map(|owner| self.totals.get(owner));
            totals.map(|total| Share { quota: total.quota, period: EpochMs(0) }).collect()
        } else {
            shares
        };
        for share in &shares {
            *self.by_share.entry(*share).or_default() += i128::from(charge.0);
        }
        shares
    }

    /// Holds the sums against what the books say, and lists each organisation's account.
    pub(super) async fn check(
        mut self,
        snapshot: &mut Transaction,
        windows_from: EpochMs,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let tail = Tail::read(snapshot, Whose::All).await?;
        for total in self.totals.values_mut() {
            total.spent = total.spent.saturating_add(tail.charged_in_all(total.quota));
        }
        self.read_unaccounted(snapshot, report).await?;
        self.check_accounts(snapshot, report).await?;
        self.check_totals(report);
        self.check_quotas(snapshot, &tail, windows_from, report).await
    }

    async fn read_unaccounted(
        &mut self,
        snapshot: &mut Transaction,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let mut rows = sqlx::query(UNACCOUNTED).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            let share = Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("period_ms")?) };
            let (amount, charged): (i64, i64) = (row.try_get("amount")?, row.try_get("charged")?);
            *self.unaccounted.entry(share).or_default() += i128::from(amount) - i128::from(charged);
            let (node, owner) = (row.try_get("node")?, row.try_get("owner")?);
            if charged < 0 || charged > amount {
                let object = format!("what {node} held of quota {} from {}", share.quota.0, share.period.0);
                let detail = format!("${} of ${} is accounted for", NanoUsd(charged), NanoUsd(amount));
                report.find(Invariant::LeasesAreSound, object, detail);
            }
            let Share { quota, period } = share;
            let left = NanoUsd(amount.saturating_sub(charged));
            report.unaccounted.add(left.0, || Unaccounted {
                node,
                quota,
                owner,
                period,
                booked: NanoUsd(amount),
                left,
            });
        }
        Ok(())
    }

    /// What of a quota without a window is counted as spent because nodes were forgotten.
    fn unaccounted_in_all(&self, quota: QuotaId) -> i128 {
        self.unaccounted.get(&Share { quota, period: EpochMs(0) }).copied().unwrap_or(0)
    }

    async fn check_accounts(&self, snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
        let credits = entries::read_credits(snapshot).await?;
        let mut rows = sqlx::query("SELECT id FROM organisations ORDER BY id").fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            report.organisations += 1;
            let id: String = row.try_get("id")?;
            let of_org = credits.get(&id).copied().unwrap_or_default();
            let sum = clamped(of_org.sum());
            let total = self.totals.get(&id);
            if total.map(|total| total.limit) != Some(NanoUsd(sum)) {
                let limit = total.map_or("missing".to_owned(), |total| format!("${}", total.limit));
                let detail = format!("its credits are ${} but its balance's limit is {limit}", NanoUsd(sum));
                report.find(Invariant::CreditsAreTheLimit, &id, detail);
            }
            let charges = id.parse().ok().and_then(|org| self.by_org.get(&org)).copied().unwrap_or(0);
            let left = total.map_or(0, |total| i128::from(total.limit.0) - i128::from(total.spent));
            report.accounts.push(Account {
                org: id,
                opening: NanoUsd(clamped(of_org.opening)),
                top_ups: NanoUsd(clamped(of_org.top_ups)),
                adjustments: NanoUsd(clamped(of_org.adjustments)),
                refunds: NanoUsd(clamped(of_org.refunds)),
                charges: NanoUsd(clamped(charges)),
                unaccounted: NanoUsd(clamped(total.map_or(0, |total| self.unaccounted_in_all(total.quota)))),
                balance: NanoUsd(clamped(left)),
            });
        }
        Ok(())
    }

    fn check_totals(&self, report: &mut AuditReport) {
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_unstable_by_key(|(owner, _)| *owner);
        for (owner, total) in totals {
            let (invariant, charged) = if let Ok(key) = owner.parse() {
                report.keys += 1;
                (Invariant::KeySpentIsCharged, self.by_key.get(&key))
            } else if let Ok(org) = owner.parse() {
                (Invariant::OrganisationSpentIsCharged, self.by_org.get(&org))
            } else {
                // A quota of nobody has been found already.
                continue;
            };
            let charged = charged.copied().unwrap_or(0) + self.unaccounted_in_all(total.quota);
            if clamped(charged) != total.spent {
                report.find(invariant, owner, difference(total.spent, charged));
            }
        }
    }

    /// Every quota and period but those that have just been looked at.
    async fn check_quotas(
        mut self,
        snapshot: &mut Transaction,
        tail: &Tail,
        windows_from: EpochMs,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        for (share, rest) in &self.unaccounted {
            *self.by_share.entry(*share).or_default() += rest;
        }
        for total in self.totals.values() {
            self.by_share.remove(&Share { quota: total.quota, period: EpochMs(0) });
        }
        let totals: std::collections::HashSet<_> = self.totals.values().map(|total| total.quota).collect();
        let mut spent: HashMap<Share, i64> =
            tail.charges().filter(|(share, _)| !totals.contains(&share.quota)).collect();
        let mut rows = sqlx::query("SELECT quota, window_start_ms, amount FROM spent").fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            let share =
                Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("window_start_ms")?) };
            if !totals.contains(&share.quota) {
                let known = spent.entry(share).or_default();
                *known = known.saturating_add(row.try_get("amount")?);
            }
        }
        let mut shares: Vec<Share> = self.by_share.keys().chain(spent.keys()).copied().collect();
        shares.sort_unstable();
        shares.dedup();
        // Rows of past windows go some day.
        shares.retain(|share| share.period == EpochMs(0) || share.period >= windows_from);
        for share in shares {
            let (spent, charged) =
                (spent.get(&share).copied().unwrap_or(0), self.by_share.get(&share).copied().unwrap_or(0));
            if clamped(charged) != spent {
                let object = format!("quota {} from {}", share.quota.0, share.period.0);
                report.find(Invariant::QuotaSpentIsCharged, object, difference(spent, charged));
            }
        }
        Ok(())
    }
}

fn difference(spent: i64, charged: i128) -> String {
    match i64::try_from(charged) {
        Ok(charged) => {
            let (spent, charged) = (NanoUsd(spent), NanoUsd(charged));
            format!("it is said to have spent ${spent}, but its calls were charged ${charged}")
        }
        Err(_) => "its calls were charged more than an account can hold".to_owned(),
    }
}
