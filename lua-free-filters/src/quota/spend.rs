//! Money: a prepaid balance, or a spend limit. Calls take from credit that this node has leased (`lease.rs`), period by
//! period; a check is one compare-and-swap on the account of the current period.

mod held;

pub(super) use held::Held;

use crate::denied::{Denied, LimitSource};
use crate::id::QuotaId;
use crate::key::Glob;
use crate::lease::{ASK_AGAIN_MS, Ask, Reply, Terms, Uncovered};
use crate::money::NanoUsd;
use crate::time::EpochMs;
use crate::window::{Span, Window};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Credit where there is no limit: no sum of charges comes near it.
const BOUNDLESS: i64 = i64::MAX / 2;

/// What a node holds of one period of a quota.
#[derive(Debug)]
pub struct Account {
    /// The period.
    pub span: Span,
    /// The first moment whose calls may not take from it, because the limit changes then or the period ends.
    until: AtomicI64,
    /// Leased, and neither set aside nor charged. Below zero when charges have passed what was leased.
    credit: AtomicI64,
    /// Set aside for calls in progress.
    reserved: AtomicI64,
    /// Charged since the account was opened.
    settled: AtomicI64,
    /// What the authority is known to have granted in all, and this node to have given back.
    granted: AtomicI64,
    returned: AtomicI64,
    /// What was on the books of this node's lease when the account was opened, so that the difference is what was shipped since.
    shipped_before: AtomicI64,
    /// How often what nobody had set aside was called back: calls that have taken before give back what they don't use.
    recalls: AtomicI64,
    /// Whether the authority has a lease of it.
    is_leased: AtomicBool,
    /// Whether there are charges that the next lease must cover, because there was no limit when they were made.
    is_uncovered: AtomicBool,
}

impl Account {
    fn new(span: Span, until: EpochMs, credit: i64) -> Self {
        Self {
            span,
            until: AtomicI64::new(until.0),
            credit: AtomicI64::new(credit),
            reserved: AtomicI64::new(0),
            settled: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            returned: AtomicI64::new(0),
            shipped_before: AtomicI64::new(0),
            recalls: AtomicI64::new(0),
            is_leased: AtomicBool::new(false),
            is_uncovered: AtomicBool::new(false),
        }
    }

    fn covers(&self, now: EpochMs) -> bool {
        self.span.start <= now && now.0 < self.until.load(Acquire)
    }

    fn take(&self, amount: i64) -> bool {
        let fits = |credit: i64| (credit >= amount).then(|| credit - amount);
        let is_taken = self.credit.fetch_update(AcqRel, Acquire, fits).is_ok();
        if is_taken {
            self.reserved.fetch_add(amount, AcqRel);
        }
        is_taken
    }

    /// Gives back credit that nobody has set aside, and, as their calls end, what those calls don't use.
    fn recall(&self) {
        self.recalls.fetch_add(1, AcqRel);
        self.give_back();
    }

    /// Gives back credit that nobody has set aside, and says so to the next lease transaction.
    fn give_back(&self) {
        if self.is_uncovered.load(Acquire) {
            // Not leased yet: the next lease covers it.
            return;
        }
        let mut free = 0;
        let emptied = |credit: i64| {
            free = credit.max(0);
            (credit > 0).then_some(0)
        };
        if self.credit.fetch_update(AcqRel, Acquire, emptied).is_ok() {
            self.returned.fetch_add(free, AcqRel);
        }
    }
}

/// Adds, and stops at the ends: an absurd figure of a provider must not turn debt into credit.
fn add(number: &AtomicI64, amount: i64) {
    let _ = number.fetch_update(AcqRel, Acquire, |before| Some(before.saturating_add(amount)));
}

/// A quota of money.
#[derive(Debug)]
pub struct Spend {
    /// The quota's row.
    pub id: QuotaId,
    /// What it is called in refusals.
    pub source: LimitSource,
    /// When it starts anew.
    pub window: Window,
    /// The models that it is about; none: all.
    pub model: Option<Glob>,
    terms: ArcSwap<Terms>,
    current: ArcSwapOption<Account>,
    held: Mutex<Accounts>,
    /// Nothing more can be had before.
    refused_until: AtomicI64,
}

#[derive(Debug)]
struct Accounts {
    /// The current one, and those of earlier periods that still count or have calls in progress.
    open: Vec<Arc<Account>>,
    /// Charged by others or before, in the periods that counted at `known_at`.
    elsewhere: i64,
    known_at: Span,
}

impl Spend {
    /// A quota of which the books say that `spent` has been charged in the periods that count at `now`.
    #[must_use]
    pub fn new(id: QuotaId, source: LimitSource, window: Window, terms: Terms, spent: (NanoUsd, EpochMs)) -> Self {
        let (NanoUsd(elsewhere), now) = spent;
        let known_at = window.span(now);
        let spend = Self {
            id,
            source,
            window,
            model: None,
            terms: ArcSwap::from_pointee(terms),
            current: ArcSwapOption::empty(),
            held: Mutex::new(Accounts { open: Vec::new(), elsewhere, known_at }),
            refused_until: AtomicI64::new(i64::MIN),
        };
        if terms.is_boundless() {
            spend.open(&mut spend.accounts(), Account::new(known_at, known_at.end, BOUNDLESS));
        }
        spend
    }

    /// The same quota, for some models only.
    #[must_use]
    pub fn of_models(self, model: Option<Glob>) -> Self {
        Self { model, ..self }
    }

    /// Whether a call of this model counts.
    #[must_use]
    pub fn applies_to(&self, model: &str) -> bool {
        self.model.as_ref().is_none_or(|pattern| pattern.matches(model))
    }

    /// What is in force.
    #[must_use]
    pub fn terms(&self) -> Terms {
        **self.terms.load()
    }

    /// Puts other terms in force, for calls that come now. Says whether the authority must be asked before that is true of
    /// the credit too.
    pub fn set_terms(&self, terms: Terms) -> bool {
        let before = *self.terms.swap(Arc::new(terms));
        if before == terms {
            return false;
        }
        self.refused_until.store(i64::MIN, Release);
        let mut accounts = self.accounts();
        for account in &accounts.open {
            match (before.is_boundless(), terms.is_boundless()) {
                (_, true) => {
                    account.credit.store(BOUNDLESS, Release);
                    account.until.store(account.span.end.0, Release);
                }
                (true, false) => {
                    account.credit.store(0, Release);
                    account.is_uncovered.store(true, Release);
                }
                (false, false) => account.recall(),
            }
        }
        if terms.is_boundless() && accounts.open.is_empty() {
            let span = accounts.known_at;
            self.open(&mut accounts, Account::new(span, span.end, BOUNDLESS));
        }
        !terms.is_boundless()
    }

    /// Whether calls set their bound aside rather than their estimate.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.terms.load().is_strict
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self, now: EpochMs) -> NanoUsd {
        self.terms.load().limit_at(now)
    }

    /// What has been charged in the periods that count now.
    #[must_use]
    pub fn spent(&self, now: EpochMs) -> NanoUsd {
        let periods = self.window.counted(now);
        let accounts = self.accounts();
        let counted = accounts.open.iter().filter(|account| periods.contains(&account.span.start));
        let own = counted.map(|account| account.settled.load(Acquire)).fold(0, i64::saturating_add);
        let is_known = periods.contains(&accounts.known_at.start);
        NanoUsd(own.saturating_add(if is_known { accounts.elsewhere } else { 0 }))
    }

    /// What is set aside by this node for calls in progress.
    #[must_use]
    pub fn reserved(&self) -> NanoUsd {
        let accounts = self.accounts();
        NanoUsd(accounts.open.iter().map(|account| account.reserved.load(Acquire)).sum::<i64>().max(0))
    }

    /// What may still be charged, whoever has set it aside.
    #[must_use]
    pub fn remaining(&self, now: EpochMs) -> NanoUsd {
        NanoUsd(self.limit(now).0.saturating_sub(self.spent(now).0)).at_least_zero()
    }

    /// Whether it is known where the quota stands now; if not, the authority can tell.
    #[must_use]
    pub fn is_current(&self, now: EpochMs) -> bool {
        self.current.load().as_ref().is_some_and(|account| account.covers(now))
    }

    /// Takes from the credit of the current period.
    pub(super) fn take(self: &Arc<Self>, amount: NanoUsd, now: EpochMs) -> Option<Held> {
        let current = self.current.load();
        let account = current.as_ref().filter(|account| account.covers(now))?;
        let recalls = account.recalls.load(Acquire);
        let held = || Held { spend: Arc::clone(self), account: Arc::clone(account), amount: amount.0, recalls };
        account.take(amount.0).then(held)
    }

    /// Why `amount` can't be taken.
    pub(super) fn refusal(&self, amount: NanoUsd, now: EpochMs) -> Denied {
        let available = self.remaining(now);
        if available >= amount {
            Denied::CreditsReserved { quota: self.source }
        } else if self.source == LimitSource::OrganisationBalance {
            Denied::InsufficientCredits { available, needed: amount }
        } else {
            // Time brings no more than the whole limit.
            let heals_at = self.window.heals_at(now).filter(|_| amount <= self.limit(now));
            let heals_in_ms = heals_at.map(|at| at.since(now));
            Denied::SpendLimitReached { quota: self.source, available, needed: amount, heals_in_ms }
        }
    }

    /// Whether the authority may have more for a call that needs `amount` now.
    #[must_use]
    pub fn is_worth_asking(&self, amount: NanoUsd, now: EpochMs) -> bool {
        let current = self.current.load();
        match current.as_ref().filter(|account| account.covers(now)) {
            None => true,
            Some(account) => account.credit.load(Acquire) < amount.0 && now.0 >= self.refused_until.load(Acquire),
        }
    }

    /// What to ask of the authority, so that calls that need `wanted` find credit. Credit of periods that are over, and of
    /// terms that have changed, is given back with it.
    #[must_use]
    pub fn ask(&self, wanted: i64, at: Option<EpochMs>, now: EpochMs) -> Ask {
        let accounts = self.accounts();
        let mut uncovered = None;
        for account in &accounts.open {
            if account.is_uncovered.load(Acquire) {
                let charged = account.settled.load(Acquire);
                let reserved = account.reserved.load(Acquire) + account.credit.load(Acquire);
                let is_leased = account.is_leased.load(Acquire);
                let shipped_before = is_leased.then(|| account.shipped_before.load(Acquire));
                uncovered = Some(Uncovered { charged, reserved, booked_before: accounts.elsewhere, shipped_before });
            } else if !account.covers(now) && at.is_none_or(|at| !account.span.contains(at)) {
                account.recall();
            }
        }
        let returned = accounts.open.iter().map(|account| (account.span.start, account.returned.load(Acquire)));
        Ask { quota: self.id, wanted, at, returned: returned.collect(), uncovered }
    }

    /// Takes in what the authority answered to the ask.
    pub fn apply(&self, ask: &Ask, reply: &Reply) {
        let mut accounts = self.accounts();
        self.terms.store(Arc::new(reply.terms));
        let until = EpochMs(reply.terms.holds_until(reply.now).0.min(reply.span.end.0));
        if reply.terms.is_boundless() {
            return;
        }
        let counted = self.window.counted(reply.now);
        let mut shipped_since = 0;
        for (period, lease) in &reply.leases {
            let known = accounts.open.iter().find(|account| account.span.start == *period);
            if let Some(account) = known {
                if let Some(uncovered) = ask.uncovered.filter(|_| account.is_uncovered.swap(false, AcqRel)) {
                    // What was charged so far and has been shipped was shipped before there was a lease.
                    account.shipped_before.store(lease.shipped - (uncovered.charged - reply.unshipped), Release);
                    account.granted.store(lease.granted, Release);
                    add(&account.credit, lease.outstanding() - reply.unshipped - uncovered.reserved);
                } else {
                    let before = account.granted.swap(lease.granted, AcqRel);
                    add(&account.credit, lease.granted - before);
                }
                account.is_leased.store(true, Release);
                if counted.contains(period) {
                    shipped_since += lease.shipped - account.shipped_before.load(Acquire);
                }
            } else if *period == reply.span.start {
                let account = Account::new(reply.span, until, lease.outstanding());
                account.granted.store(lease.granted, Release);
                account.returned.store(lease.returned, Release);
                account.shipped_before.store(lease.shipped, Release);
                account.is_leased.store(true, Release);
                accounts.open.push(Arc::new(account));
            }
        }
        if reply.span.contains(reply.now) {
            accounts.elsewhere = reply.spent.saturating_sub(shipped_since);
            accounts.known_at = reply.span;
            let current = accounts.open.iter().find(|account| account.span.start == reply.span.start).cloned();
            current.iter().for_each(|account| account.until.store(until.0, Release));
            self.current.store(current);
        }
        let refused_until = if reply.is_exhausted { reply.now.0.saturating_add(ASK_AGAIN_MS) } else { i64::MIN };
        self.refused_until.store(refused_until, Release);
        accounts.open.retain(|account| counted.contains(&account.span.start) || !is_done(account, reply));
    }

    /// Whether all that was charged is on the books and nothing is set aside, so that the quota may leave memory. `booked` says
    /// of a period what the books have of this node's lease; `spent` is what they have in all.
    #[must_use]
    pub fn is_settled(&self, booked: impl Fn(EpochMs) -> Option<i64>, spent: i64) -> bool {
        let accounts = self.accounts();
        let is_boundless = self.terms.load().is_boundless();
        accounts.open.iter().all(|account| {
            let shipped = if is_boundless {
                spent.saturating_sub(accounts.elsewhere)
            } else {
                booked(account.span.start).unwrap_or(0) - account.shipped_before.load(Acquire)
            };
            account.reserved.load(Acquire) == 0 && account.settled.load(Acquire) == shipped
        })
    }

    fn open(&self, accounts: &mut Accounts, account: Account) {
        let account = Arc::new(account);
        accounts.open.push(Arc::clone(&account));
        self.current.store(Some(account));
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing of a past period is left to settle or to ship. A call that set nothing aside may be charged all the same, so
/// it is calls that are counted.
fn is_done(account: &Arc<Account>, reply: &Reply) -> bool {
    let lease = reply.leases.iter().find(|(period, _)| *period == account.span.start).map(|(_, lease)| *lease);
    let shipped = lease.map_or(0, |lease| lease.shipped - account.shipped_before.load(Acquire));
    Arc::strong_count(account) == 1 && account.settled.load(Acquire) == shipped
}
