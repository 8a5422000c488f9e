//! Each call's charge, computed again from its tokens and the price that it names.

use super::accounts::Charged;
use super::limits::{Limits, Taken};
use super::{AboveReserve, AuditReport, Invariant};
use crate::store::ledger::{Prices, read_price_id, read_prices, read_shares, read_usage};
use crate::store::{Rows, StoreError, Transaction, parsed};
use filters::id::PriceId;
use filters::money::NanoUsd;
use filters::ports::Outcome;
use filters::price::Tier;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;

/// The calls in the order of their first bytes: see `limits.rs`. How many candidates did not answer is wanted of recovered calls
/// alone.
const CALLS: &str = "SELECT c.*, \
     CASE WHEN c.first_byte_ms > 0 THEN c.started_ms + c.first_byte_ms ELSE c.ended_ms END AS seen_ms, \
     CASE WHEN c.outcome = 'recovered' \
     THEN (SELECT COUNT(*) FROM attempts a WHERE a.request_id = c.request_id) ELSE 0 END AS failed, \
     CASE WHEN c.seq > n.released_seq THEN 1 ELSE 0 END AS is_unplanned \
     FROM calls c LEFT JOIN nodes n ON n.id = c.node ORDER BY seen_ms, c.request_id";

/// After every moment of the ledger.
const NEVER: EpochMs = EpochMs(i64::MAX / 2);

pub(super) async fn check_calls(
    snapshot: &mut Transaction,
    charged: &mut Charged,
    limits: &mut Limits,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let prices = read_prices(snapshot).await?;
    let mut rows = sqlx::query(CALLS).fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let (key, org, charge) =
            (parsed(&row, "key_id")?, parsed(&row, "org_id")?, NanoUsd(row.try_get("charge_nano")?));
        let reserved = NanoUsd(row.try_get("reserved_nano")?);
        report.calls += 1;
        report.charged += i128::from(charge.0);
        let shares = charged.add(key, org, charge, read_shares(&row)?);
        // What was set aside for a call was given to others, where an operator released what its node held: nobody knew of the
        // call before its journal came back.
        let is_unplanned = row.try_get::<i64, _>("is_unplanned")? != 0;
        let taken = Taken {
            started: EpochMs(row.try_get("started_ms")?),
            seen: EpochMs(row.try_get("seen_ms")?),
            ended: if is_unplanned { NEVER } else { EpochMs(row.try_get("ended_ms")?) },
            charge: charge.0,
            reserved: if is_unplanned { 0 } else { reserved.0 },
        };
        let is_bound = limits.take(&shares, &taken, report);
        let call: String = row.try_get("request_id")?;
        if row.try_get::<&str, _>("outcome")? == Outcome::Recovered.name() {
            check_recovered(&row, &call, &prices, report)?;
            continue;
        }
        if charge > reserved {
            let above = || AboveReserve { call: call.clone(), charge, reserved, is_bound };
            report.above_reserve.add(charge.0.saturating_sub(reserved.0), above);
        }
        check_charge(&row, &call, &prices, report)?;
    }
    Ok(())
}

/// What was charged after calls' ends. Of a call that is not on the books it is not known where its charge went.
pub(super) async fn check_amendments(
    snapshot: &mut Transaction,
    charged: &mut Charged,
    limits: &mut Limits,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let mut rows = sqlx::query(
        "SELECT a.key_id, a.org_id, a.charge_nano, a.at_ms, COALESCE(c.shares, '') AS shares \
         FROM amendments a LEFT JOIN calls c ON c.request_id = a.request_id",
    )
    .fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let charge = NanoUsd(row.try_get("charge_nano")?);
        report.charged += i128::from(charge.0);
        let shares = charged.add(parsed(&row, "key_id")?, parsed(&row, "org_id")?, charge, read_shares(&row)?);
        limits.amend(&shares, EpochMs(row.try_get("at_ms")?), charge.0);
    }
    Ok(())
}

fn check_charge(row: &Rows, call: &str, prices: &Prices, report: &mut AuditReport) -> Result<(), StoreError> {
    let (usage, charge) = (read_usage(row)?, NanoUsd(row.try_get("charge_nano")?));
    let price_id = read_price_id(row)?;
    let cost = match prices.get(&price_id) {
        Some(price) => price.cost(&usage, Tier::named(row.try_get("tier")?)),
        // A call that used nothing costs nothing at any price.
        None if usage.counts.iter().all(|count| *count == 0) => NanoUsd::ZERO,
        None => {
            report.find(Invariant::ChargesAreTheirCost, call, price_is_lost(charge, price_id));
            return Ok(());
        }
    };
    if cost != charge {
        let detail = format!("it was charged ${charge}, but what it used costs ${cost}");
        report.find(Invariant::ChargesAreTheirCost, call, detail);
    }
    Ok(())
}

/// A recovered call was charged by how far it had come, within what was set aside. Its record names the candidate that it was
/// admitted with and no tier: after another candidate had taken over, its price is not known.
fn check_recovered(row: &Rows, call: &str, prices: &Prices, report: &mut AuditReport) -> Result<(), StoreError> {
    report.recovered.add(row.try_get("charge_nano")?, || call.to_owned());
    let charge = NanoUsd(row.try_get("charge_nano")?);
    let reserved = NanoUsd(row.try_get("reserved_nano")?);
    if charge < NanoUsd::ZERO || charge > reserved {
        let detail = format!("it was charged ${charge} of ${reserved} set aside");
        report.find(Invariant::RecoveredWithinReserve, call, detail);
        return Ok(());
    }
    let (usage, price_id) = (read_usage(row)?, read_price_id(row)?);
    let Some(price) = prices.get(&price_id) else {
        if charge != NanoUsd::ZERO {
            report.find(Invariant::ChargesAreTheirCost, call, price_is_lost(charge, price_id));
        }
        return Ok(());
    };
    let costs = Tier::ALL.map(|tier| price.cost(&usage, tier).min(reserved));
    if costs.contains(&charge) {
        return Ok(());
    }
    if row.try_get::<i64, _>("failed")? > 0 {
        report.not_recomputed += 1;
        return Ok(());
    }
    let detail = format!("it was charged ${charge}, but what it had used costs ${}", costs[0]);
    report.find(Invariant::ChargesAreTheirCost, call, detail);
    Ok(())
}

fn price_is_lost(charge: NanoUsd, price: PriceId) -> String {
    format!("it was charged ${charge} at the price {price}, which is not kept")
}
