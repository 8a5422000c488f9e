//! The ledger of credits: whether each entry adds up to nothing, and whether the accounts say what the rest of the books says.

use super::limits::clamped;
use super::{AuditReport, Invariant};
use crate::store::credits::{BOOKED_THROUGH, read_mark};
use crate::store::ledger::hour_of;
use crate::store::{Rows, StoreError, Transaction};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Entries that do not add up: summed in two parts, because an engine's own sum of amounts fails where it overflows.
const UNBALANCED: &str = "SELECT e.id, COUNT(l.entry) AS legs FROM entries e LEFT JOIN legs l ON l.entry = e.id GROUP BY e.id \
     HAVING COUNT(l.entry) < 2 OR SUM(l.amount_nano % 1000000000) % 1000000000 <> 0 \
     OR SUM(l.amount_nano / 1000000000) + SUM(l.amount_nano % 1000000000) / 1000000000 <> 0 ORDER BY e.id";
/// What was given back of calls that are still there, beyond their charges.
const REFUNDED: &str = "SELECT e.request_id, CAST(SUM(-l.amount_nano) AS BIGINT) AS refunded, \
     MIN(c.charge_nano) + COALESCE((SELECT CAST(SUM(a.charge_nano) AS BIGINT) FROM amendments a \
     WHERE a.request_id = e.request_id), 0) AS charged \
     FROM entries e JOIN legs l ON l.entry = e.id AND l.account = 'operator:refunds' \
     JOIN calls c ON c.request_id = e.request_id GROUP BY e.request_id";
/// What was charged, by the hour in which it is booked.
const CHARGED: [&str; 3] = [
    "SELECT u.hour_ms AS at_ms, k.org, u.charge_nano FROM usage_hours u JOIN keys k ON k.id = u.key_id",
    "SELECT at_ms, org_id AS org, charge_nano FROM amendments",
    "SELECT hour_ms AS at_ms, org, charge_nano FROM folded_amendments",
];
/// What is booked of each hour.
const BOOKED: &str = "SELECT e.hour_ms AS at_ms, e.org, l.amount_nano AS charge_nano FROM entries e \
     JOIN legs l ON l.entry = e.id AND l.account = 'operator:revenue' WHERE e.kind = 'charges'";

/// Credits of an organisation by their kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credits {
    pub(super) opening: i128,
    pub(super) top_ups: i128,
    pub(super) adjustments: i128,
    pub(super) refunds: i128,
}

impl Credits {
    pub(super) fn sum(&self) -> i128 {
        self.opening + self.top_ups + self.adjustments + self.refunds
    }
}

/// Reads what each organisation has been credited: entries, and rows of the release before that have become none yet.
pub(super) async fn read_credits(snapshot: &mut Transaction) -> Result<HashMap<String, Credits>, StoreError> {
    let mut credits: HashMap<String, Credits> = HashMap::new();
    for statement in [
        "SELECT e.org, e.kind, l.amount_nano FROM entries e JOIN legs l ON l.entry = e.id \
         AND l.account = 'org:' || e.org || ':credits' WHERE e.kind <> 'charges'",
        "SELECT org, kind, amount_nano FROM credits WHERE entry IS NULL",
    ] {
        let mut rows = sqlx::query(statement).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            let of_org = credits.entry(row.try_get("org")?).or_default();
            let amount = match row.try_get::<&str, _>("kind")? {
                "opening" => &mut of_org.opening,
                "topup" => &mut of_org.top_ups,
                "adjustment" => &mut of_org.adjustments,
                "refund" => &mut of_org.refunds,
                // What has no kind is no credit: then the limit is another.
                _ => continue,
            };
            *amount += i128::from(row.try_get::<i64, _>("amount_nano")?);
        }
    }
    Ok(credits)
}

/// Checks the entries by themselves and against the calls.
pub(super) async fn check_entries(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    for row in sqlx::query(UNBALANCED).fetch_all(&mut **snapshot).await? {
        let detail = match row.try_get::<i64, _>("legs")? {
            0 | 1 => "it has fewer than two legs".to_owned(),
            _ => "its legs do not add up to nothing".to_owned(),
        };
        report.find(Invariant::EntriesAddUp, format!("entry {}", row.try_get::<i64, _>("id")?), detail);
    }
    for row in sqlx::query(REFUNDED).fetch_all(&mut **snapshot).await? {
        let (refunded, charged): (i64, i64) = (row.try_get("refunded")?, row.try_get("charged")?);
        if refunded > charged {
            let detail = format!("${} was given back of ${} charged", NanoUsd(refunded), NanoUsd(charged));
            report.find(Invariant::RefundsWithinCharges, row.try_get::<String, _>("request_id")?, detail);
        }
    }
    check_mirror(snapshot, report).await?;
    check_charges(snapshot, report).await
}

/// The table of the release before has what the entries have.
async fn check_mirror(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT c.org, c.amount_nano, l.amount_nano AS booked FROM credits c LEFT JOIN legs l ON l.entry = c.entry \
         AND l.account = 'org:' || c.org || ':credits' \
         WHERE c.entry IS NOT NULL AND (l.amount_nano IS NULL OR l.amount_nano <> c.amount_nano)",
    )
    .fetch_all(&mut **snapshot)
    .await?;
    for row in rows {
        let amount = NanoUsd(row.try_get("amount_nano")?);
        let booked = row.try_get::<Option<i64>, _>("booked")?.map(NanoUsd).unwrap_or_default();
        let detail = format!("a credit of ${amount} is ${booked} in the ledger");
        report.find(Invariant::CreditsAreTheLimit, row.try_get::<String, _>("org")?, detail);
    }
    Ok(())
}

/// Each hour that is booked has an organisation's charges of that hour. Hours that calls have come to since are marked, and are
/// to be booked once more.
async fn check_charges(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    let through = read_mark(snapshot, BOOKED_THROUGH).await?;
    let rows = sqlx::query("SELECT DISTINCT hour_ms FROM late_hours").fetch_all(&mut **snapshot).await?;
    let late: HashSet<EpochMs> =
        rows.iter().map(|row| Ok(EpochMs(row.try_get("hour_ms")?))).collect::<Result<_, StoreError>>()?;
    let mut hours: BTreeMap<(EpochMs, String), [i128; 2]> = BTreeMap::new();
    for (side, statement) in CHARGED.into_iter().map(|statement| (0, statement)).chain([(1, BOOKED)]) {
        let mut rows = sqlx::query(statement).fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            let (hour, org, amount) = read_charge(&row)?;
            if hour < through && !late.contains(&hour) || side == 1 && hour >= through {
                hours.entry((hour, org)).or_default()[side] += i128::from(amount);
            }
        }
    }
    for ((hour, org), [charged, booked]) in hours {
        if charged == booked {
            continue;
        }
        let [charged, booked] = [charged, booked].map(|sum| NanoUsd(clamped(sum)));
        let object = format!("{org} from {}", hour.0);
        let detail = format!("${charged} was charged in this hour, but ${booked} is booked");
        report.find(Invariant::ChargesAreBooked, object, detail);
    }
    Ok(())
}

fn read_charge(row: &Rows) -> Result<(EpochMs, String, i64), StoreError> {
    Ok((hour_of(EpochMs(row.try_get("at_ms")?)), row.try_get("org")?, row.try_get("charge_nano")?))
}
