//! Whether a limit was passed at any point of the ledger, in the order in which calls became visible.
//!
//! When a call was reserved is on no row: it was after it began and before its first byte. So calls are added up in the order
//! of their first bytes. Whichever of them was reserved last saw all the others, and was reserved after the latest of their
//! beginnings: their sum is within a limit that was in force from then on, or the limit was passed.

use super::{AuditReport, Excess, Invariant, Lowered};
use crate::store::{Rows, StoreError, Transaction, quotas};
use filters::id::QuotaId;
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use filters::window::Window;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// How long a running gateway may not have seen a change.
const GRACE_MS: i64 = 1_000;

/// A call as far as limits are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) started: EpochMs,
    /// Before this it was reserved.
    pub(super) seen: EpochMs,
    pub(super) ended: EpochMs,
    pub(super) charge: i64,
    pub(super) reserved: i64,
}

/// A limit from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    at: EpochMs,
    is_strict: bool,
    limit: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    charged: i128,
    /// When the latest of its calls began.
    latest: EpochMs,
}

/// One quota's limits and what was charged against them.
struct Line {
    owner: String,
    window: Window,
    points: Vec<Point>,
    /// Points before it have been come by.
    next: usize,
    sums: BTreeMap<EpochMs, Sum>,
    /// Charges beyond what was set aside, and amendments: known to nobody before their moment.
    late: BinaryHeap<Reverse<(EpochMs, EpochMs, i64)>>,
    is_passed: bool,
    /// The most that was above the limit, by period; a rolling window has one.
    excess: BTreeMap<EpochMs, i128>,
}

/// All quotas of money that ever had a limit.
#[derive(Default)]
pub(super) struct Limits {
    lines: HashMap<QuotaId, Line>,
}

impl Limits {
    pub(super) async fn read(snapshot: &mut Transaction) -> Result<Self, StoreError> {
        let mut limits = Self::default();
        let mut rows = sqlx::query(
            "SELECT q.id, q.owner, q.unit, q.align, q.zone, h.at_ms, h.strict, h.limit_value, h.increase_value, h.until_ms \
             FROM limit_history h JOIN quotas q ON q.id = h.quota \
             WHERE q.kind IN ('balance', 'spend') AND EXISTS \
             (SELECT 1 FROM limit_history f WHERE f.quota = q.id AND f.limit_value < 9223372036854775807) \
             ORDER BY q.id, h.at_ms, h.id",
        )
        .fetch(&mut **snapshot);
        while let Some(row) = rows.try_next().await? {
            limits.add(&row)?;
        }
        Ok(limits)
    }

    fn add(&mut self, row: &Rows) -> Result<(), StoreError> {
        let (at, is_strict) = (EpochMs(row.try_get("at_ms")?), row.try_get::<i64, _>("strict")? != 0);
        let limit = row.try_get("limit_value")?;
        let increase = (row.try_get::<Option<i64>, _>("increase_value")?, row.try_get::<Option<i64>, _>("until_ms")?);
        let line = match self.lines.entry(QuotaId(row.try_get("id")?)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Line::new(row.try_get("owner")?, quotas::read_window(row)?)),
        };
        // An increase ends with the next change, if not before.
        line.points.retain(|point| point.at <= at);
        match increase {
            (Some(more), Some(until)) if until > at.0 => {
                line.points.push(Point { at, is_strict, limit: i64::saturating_add(limit, more) });
                line.points.push(Point { at: EpochMs(until), is_strict, limit });
            }
            _ => line.points.push(Point { at, is_strict, limit }),
        }
        Ok(())
    }

    /// What calls were charged that are gone: to be told before all others. What the limit was in their time is not looked at.
    pub(super) fn open(&mut self, share: Share, through: EpochMs, charge: i64) {
        if let Some(line) = self.lines.get_mut(&share.quota) {
            line.sums.entry(share.period).or_default().charged += i128::from(charge);
            line.next = line.points.partition_point(|point| point.at < through);
        }
    }

    /// What came after a call's end: to be told before the calls.
    pub(super) fn amend(&mut self, shares: &[Share], at: EpochMs, charge: i64) {
        for share in shares {
            if let Some(line) = self.lines.get_mut(&share.quota) {
                line.late.push(Reverse((at, share.period, charge)));
            }
        }
    }

    /// Takes the next call, in the order of `seen`. Says whether a bound was set aside for it.
    pub(super) fn take(&mut self, shares: &[Share], call: &Taken, report: &mut AuditReport) -> bool {
        let mut is_bound = false;
        for share in shares {
            if let Some(line) = self.lines.get_mut(&share.quota) {
                is_bound |= line.allowed(call.started, call.seen).is_strict;
                line.take(*share, call, report);
            }
        }
        is_bound
    }

    /// Lists what is left to list.
    pub(super) fn finish(self, report: &mut AuditReport) {
        let mut lines: Vec<_> = self.lines.into_iter().collect();
        lines.sort_unstable_by_key(|(id, _)| *id);
        for (id, mut line) in lines {
            while let Some(Reverse((at, period, charge))) = line.late.pop() {
                line.come_to(id, at, report);
                line.add_late(at, period, charge);
            }
            line.come_to(id, EpochMs(i64::MAX), report);
            let is_strict = line.points.last().is_some_and(|point| point.is_strict);
            for (period, excess) in line.excess {
                let amount = clamped(excess);
                report.excesses.add(amount, || Excess {
                    quota: id,
                    owner: line.owner.clone(),
                    period,
                    is_strict,
                    amount,
                });
            }
        }
    }
}

impl Line {
    fn new(owner: String, window: Window) -> Self {
        Self {
            owner,
            window,
            points: Vec::new(),
            next: 0,
            sums: BTreeMap::new(),
            late: BinaryHeap::new(),
            is_passed: false,
            excess: BTreeMap::new(),
        }
    }

    fn take(&mut self, share: Share, call: &Taken, report: &mut AuditReport) {
        self.come_to(share.quota, call.seen, report);
        let latest = self.counted(share.period).latest.max(call.started);
        while let Some(Reverse((at, period, charge))) = self.late.peek().copied()
            && at.plus(GRACE_MS) <= latest
        {
            self.late.pop();
            self.add_late(at, period, charge);
        }
        let within = call.charge.min(call.reserved);
        if call.charge > within {
            self.late.push(Reverse((call.ended, share.period, call.charge - within)));
        }
        let sum = self.sums.entry(share.period).or_default();
        sum.charged += i128::from(within);
        sum.latest = sum.latest.max(call.started);
        let counted = self.counted(share.period);
        let allowed = self.allowed(counted.latest, call.seen);
        let above = counted.charged - i128::from(allowed.limit);
        if above <= 0 || allowed.limit == i64::MAX {
            return;
        }
        if !allowed.is_strict {
            self.note_excess(share.period, above);
        } else if within > 0 && !std::mem::replace(&mut self.is_passed, true) {
            let detail = format!(
                "its calls were charged ${} in the period of {} when ${} was the limit in force",
                NanoUsd(clamped(counted.charged)),
                share.period.0,
                NanoUsd(allowed.limit)
            );
            report.find(Invariant::StrictLimitsHold, format!("quota {} of {}", share.quota.0, self.owner), detail);
        }
    }

    fn add_late(&mut self, at: EpochMs, period: EpochMs, charge: i64) {
        self.sums.entry(period).or_default().charged += i128::from(charge);
        let allowed = self.allowed(at, at);
        let above = self.counted(period).charged - i128::from(allowed.limit);
        if above > 0 && allowed.limit != i64::MAX {
            self.note_excess(period, above);
        }
    }

    fn note_excess(&mut self, period: EpochMs, above: i128) {
        let period = if matches!(self.window, Window::Rolling(_)) { EpochMs(0) } else { period };
        let known = self.excess.entry(period).or_default();
        *known = above.max(*known);
    }

    /// Comes by the changes up to a moment, and lists those that set the limit below what was spent.
    fn come_to(&mut self, id: QuotaId, moment: EpochMs, report: &mut AuditReport) {
        while let Some(point) = self.points.get(self.next).copied().filter(|point| point.at <= moment) {
            let before = self.next.checked_sub(1).map_or(i64::MAX, |before| self.points[before].limit);
            self.next += 1;
            let spent = self.counted(self.window.span(point.at).start).charged;
            if point.limit < before && spent > i128::from(point.limit) {
                let amount = clamped(spent - i128::from(point.limit));
                let (limit, at) = (point.limit, point.at);
                report.lowered.add(amount, || Lowered { quota: id, owner: self.owner.clone(), at, limit, amount });
            }
        }
    }

    /// What counts together with a period, as far as it has been come by.
    fn counted(&self, period: EpochMs) -> Sum {
        let in_range = |from: EpochMs, to: EpochMs| {
            self.sums.range(from..=to).fold(Sum::default(), |sum, (_, one)| Sum {
                charged: sum.charged + one.charged,
                latest: sum.latest.max(one.latest),
            })
        };
        match &self.window {
            Window::Rolling(_) => {
                let newest = self.sums.last_key_value().map_or(period, |(newest, _)| (*newest).max(period));
                in_range(self.window.counted_from(newest), newest)
            }
            Window::Total | Window::Calendar { .. } => in_range(period, period),
        }
    }

    /// The most that was allowed between two moments, with grace: strict only if it was so all the time.
    fn allowed(&self, from: EpochMs, to: EpochMs) -> Point {
        let (from, to) = (from.plus(-GRACE_MS), to.plus(GRACE_MS));
        let first = self.points.partition_point(|point| point.at <= from).saturating_sub(1);
        let in_force =
            self.points[first..].iter().enumerate().take_while(|(place, point)| *place == 0 || point.at <= to);
        in_force.map(|(_, point)| *point).fold(Point { at: from, is_strict: true, limit: i64::MIN }, |all, one| Point {
            at: all.at,
            is_strict: all.is_strict && one.is_strict,
            limit: all.limit.max(one.limit),
        })
    }
}

/// Stops at the largest amount.
pub(super) fn clamped(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(if amount > 0 { i64::MAX } else { i64::MIN })
}
