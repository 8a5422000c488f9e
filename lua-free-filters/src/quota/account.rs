//! What a node holds of one period of a quota: a few atomics, of which `credit` decides.
//!
//! `credit = granted − given back − set aside − charged` (since the account was opened, but for what came on the books while
//! there was no lease) holds between any two steps, and each step changes `credit` once.

use super::sync::{AtomicBool, AtomicI64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use crate::lease::{Ask, Holding, Lease, Reply};
use crate::time::EpochMs;
use crate::window::Span;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Credit where there is no limit: no sum of charges comes near it.
const BOUNDLESS: i64 = i64::MAX / 2;

/// What a node holds of one period of a quota.
#[derive(Debug)]
pub struct Account {
    /// The period.
    pub span: Span,
    /// From when, and up to when, calls may take from it, by this node's clock: while the period lasts by the authority's, and
    /// the limit stays.
    from: AtomicI64,
    until: AtomicI64,
    /// Leased, and neither set aside nor charged. Below zero when charges have passed what was leased.
    credit: AtomicI64,
    /// Grows when credit that was leased before must not be used again, because the limit has changed or the period is over.
    generation: AtomicI64,
    /// Set aside for calls in progress.
    reserved: AtomicI64,
    /// Charged since the account was opened.
    settled: AtomicI64,
    /// What the authority is known to have granted in all, and this node to have given back.
    granted: AtomicI64,
    returned: AtomicI64,
    /// What was on the books of this node's lease when the account was opened, so that the difference is what was shipped since. Below
    /// zero by what came on the books without a lease.
    shipped_before: AtomicI64,
    /// Whether the authority has a lease of it.
    is_leased: AtomicBool,
}

impl Account {
    /// An account of a quota without a limit.
    pub(super) fn boundless(span: Span) -> Self {
        Self {
            span,
            from: AtomicI64::new(span.start.0),
            until: AtomicI64::new(span.end.0),
            credit: AtomicI64::new(BOUNDLESS),
            generation: AtomicI64::new(0),
            reserved: AtomicI64::new(0),
            settled: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            returned: AtomicI64::new(0),
            shipped_before: AtomicI64::new(0),
            is_leased: AtomicBool::new(false),
        }
    }

    /// An account of what is out of the authority's hands. No moment is covered yet.
    pub(super) fn leased(span: Span, lease: Lease) -> Self {
        Self {
            from: AtomicI64::new(i64::MAX),
            until: AtomicI64::new(i64::MIN),
            credit: AtomicI64::new(lease.outstanding()),
            granted: AtomicI64::new(lease.granted),
            returned: AtomicI64::new(lease.returned),
            shipped_before: AtomicI64::new(lease.shipped),
            is_leased: AtomicBool::new(true),
            ..Self::boundless(span)
        }
    }

    /// Says which moments of this node's clock may take from it.
    pub(super) fn cover(&self, from: EpochMs, until: EpochMs) {
        self.from.store(from.0, Release);
        self.until.store(until.0, Release);
    }

    pub(super) fn covers(&self, now: EpochMs) -> bool {
        self.from.load(Acquire) <= now.0 && now.0 < self.until.load(Acquire)
    }

    /// Sets an amount aside, if there is credit. What it says is to be handed back with the amount.
    pub(super) fn take(&self, amount: i64) -> Option<Generation> {
        let generation = self.generation.load(Acquire);
        let fits = |credit: i64| (credit >= amount).then(|| credit - amount);
        self.credit.fetch_update(AcqRel, Acquire, fits).ok()?;
        self.reserved.fetch_add(amount, AcqRel);
        Some(Generation(generation))
    }

    /// Whether there is so much credit.
    pub(super) fn has(&self, amount: i64) -> bool {
        self.credit.load(Acquire) >= amount
    }

    /// Charges what a call cost of an amount that was set aside, and frees the rest. Says whether that is the authority's now.
    pub(super) fn settle(&self, (amount, generation): (i64, Generation), charge: i64) -> bool {
        self.reserved.fetch_sub(amount, AcqRel);
        add(&self.settled, charge);
        let rest = amount.saturating_sub(charge);
        // What was leased under another limit, or for a period that is over, is not this node's to spend again.
        let is_given_back = rest > 0 && self.generation.load(Acquire) != generation.0;
        if is_given_back {
            self.returned.fetch_add(rest, AcqRel);
        } else {
            add(&self.credit, rest);
        }
        is_given_back
    }

    /// Takes in what the authority has granted in all.
    pub(super) fn grant(&self, granted: i64) {
        let before = self.granted.swap(granted, AcqRel);
        add(&self.credit, granted.saturating_sub(before));
    }

    /// Takes note of a charge of this node that has come on the books. Where there is a lease, the authority says so of that.
    pub(super) fn book(&self, charge: i64) {
        if !self.is_leased() {
            add(&self.shipped_before, charge.saturating_neg());
            add(&self.credit, charge);
        }
    }

    /// Charges what a call of an earlier process cost beyond what it was charged when it was closed.
    pub(super) fn amend(&self, charge: i64) {
        add(&self.settled, charge);
        add(&self.credit, charge.saturating_neg());
    }

    /// Takes in the first lease of an account that had no limit. Nothing of this node has come on the books since it was asked for.
    pub(super) fn enter(&self, lease: Lease) {
        add(&self.shipped_before, lease.shipped);
        self.granted.store(lease.granted, Release);
        self.returned.fetch_add(lease.returned, AcqRel);
        self.is_leased.store(true, Release);
        add(&self.credit, lease.outstanding());
    }

    /// Gives back credit that nobody has set aside, and says so to the next lease transaction. What running calls don't use
    /// goes the same way.
    pub(super) fn retire(&self) {
        self.generation.fetch_add(1, AcqRel);
        let mut free = 0;
        let emptied = |credit: i64| {
            free = credit.max(0);
            (credit > 0).then_some(0)
        };
        if self.credit.fetch_update(AcqRel, Acquire, emptied).is_ok() {
            self.returned.fetch_add(free, AcqRel);
        }
    }

    /// There is no limit any more.
    pub(super) fn unbind(&self) {
        add(&self.credit, BOUNDLESS);
        self.cover(self.span.start, self.span.end);
    }

    /// There is a limit again. What was charged and set aside without one is missing from the credit: it is owed.
    pub(super) fn bind(&self) {
        add(&self.credit, -BOUNDLESS);
        self.retire();
    }

    /// What the authority must know of it: nothing before it has a lease.
    pub(super) fn holding(&self) -> Option<Holding> {
        let owed = self.owed();
        let granted = self.granted.load(Acquire).saturating_add(owed);
        let returned = self.returned.load(Acquire);
        self.is_leased().then_some(Holding { period: self.span.start, returned, granted })
    }

    /// Granted and not given back, charged or not.
    pub(super) fn lent(&self) -> i64 {
        self.granted.load(Acquire).saturating_sub(self.returned.load(Acquire))
    }

    /// What was charged or set aside beyond what was leased, and is not on the books.
    pub(super) fn owed(&self) -> i64 {
        self.credit.load(Acquire).min(0).saturating_neg()
    }

    pub(super) fn is_leased(&self) -> bool {
        self.is_leased.load(Acquire)
    }

    /// Credit that nobody has set aside; below zero where more was charged than leased.
    pub(super) fn free(&self) -> i64 {
        self.credit.load(Acquire)
    }

    pub(super) fn reserved(&self) -> i64 {
        self.reserved.load(Acquire)
    }

    pub(super) fn settled(&self) -> i64 {
        self.settled.load(Acquire)
    }

    /// Of what the books say of this node's lease, what was shipped since the account was opened.
    pub(super) fn shipped_since(&self, shipped: i64) -> i64 {
        shipped.saturating_sub(self.shipped_before.load(Acquire))
    }

    /// Whether all that was charged is on the books, which say of this node's lease that so much was shipped; 0 where there is none.
    pub(super) fn is_booked(&self, shipped: i64) -> bool {
        self.settled() == self.shipped_since(shipped)
    }
}

/// When an amount was set aside; see [`Account::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(i64);

/// Brings the accounts to what the authority says of their leases. Says how much was shipped since they were opened, in the
/// periods that count.
pub(super) fn take_in(
    open: &mut Vec<Arc<Account>>,
    (ask, reply): (&Ask, &Reply),
    counted: &RangeInclusive<EpochMs>,
) -> i64 {
    let mut shipped_since = 0;
    for (period, lease) in &reply.leases {
        let Some(account) = open.iter().find(|account| account.span.start == *period) else {
            if *period == reply.span.start {
                open.push(Arc::new(Account::leased(reply.span, *lease)));
            }
            continue;
        };
        if account.is_leased() {
            account.grant(lease.granted);
        } else if ask.uncovered.is_some() {
            account.enter(*lease);
        } else {
            // The authority has not heard yet what was charged without a lease. Until it has, this one is nobody's.
            continue;
        }
        if counted.contains(period) {
            shipped_since += account.shipped_since(lease.shipped);
        }
    }
    shipped_since
}

/// Whether the authority did not know, when it answered, what this node has given back, or charged without a lease.
pub(super) fn has_news(open: &[Arc<Account>], reply: &Reply) -> bool {
    let told = |period| reply.leases.iter().find(|(of, _)| *of == period).map_or(0, |(_, lease)| lease.returned);
    open.iter().any(|account| account.holding().is_none_or(|held| held.returned > told(held.period)))
}

/// Whether nothing of a past period is left to settle or to ship. A call that set nothing aside may be charged all the same, so
/// it is calls that are counted.
pub(super) fn is_done(account: &Arc<Account>, reply: &Reply) -> bool {
    let shipped =
        reply.leases.iter().find(|(period, _)| *period == account.span.start).map_or(0, |(_, lease)| lease.shipped);
    Arc::strong_count(account) == 1 && account.is_booked(shipped)
}

/// Adds, and stops at the ends: an absurd figure of a provider must not turn debt into credit.
fn add(number: &AtomicI64, amount: i64) {
    let _ = number.fetch_update(AcqRel, Acquire, |before| Some(before.saturating_add(amount)));
}
