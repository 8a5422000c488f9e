//! Money: a prepaid balance, or a spend limit. Calls take from credit that this node has leased (`lease.rs`), period by
//! period; a check is one compare-and-swap on the account of the current period.

use super::account::{Account, Generation, has_news, is_done, take_in};
use super::accounts::Accounts;
use crate::denied::{Denied, LimitSource};
use crate::id::QuotaId;
use crate::key::{Glob, allows};
use crate::lease::{ASK_AGAIN_MS, Ask, Needs, Reply, Terms};
use crate::money::NanoUsd;
use crate::time::EpochMs;
use crate::window::Window;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::atomic::{AtomicI64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An amount that a call has taken from an account.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) spend: Arc<Spend>,
    pub(super) account: Arc<Account>,
    pub(super) amount: i64,
    generation: Generation,
}

impl Held {
    /// Takes more, if there is credit.
    pub(super) fn extend(&mut self, more: i64) -> bool {
        let is_taken = self.account.take(more).is_some();
        self.amount += if is_taken { more } else { 0 };
        is_taken
    }

    /// Whether its account has so much credit.
    pub(super) fn has(&self, amount: i64) -> bool {
        self.account.has(amount)
    }

    /// Gives a part back.
    pub(super) fn shrink(&mut self, less: i64) {
        self.give((less, self.generation), 0);
        self.amount -= less;
    }

    /// Charges what a call cost and gives the rest back; the period is the one that the call was reserved in.
    pub(super) fn settle(&self, charge: NanoUsd) {
        self.give((self.amount, self.generation), charge.0);
    }

    fn give(&self, taken: (i64, Generation), charge: i64) {
        if self.account.settle(taken, charge) {
            // Now the authority has more.
            self.spend.refused_until.store(i64::MIN, Release);
        }
    }
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
            held: Mutex::new(Accounts {
                open: Vec::new(),
                elsewhere,
                known_at,
                is_told: true,
                lapses_at: EpochMs(i64::MAX),
                slice: (0, EpochMs(0)),
            }),
            refused_until: AtomicI64::new(i64::MIN),
        };
        if terms.is_boundless() {
            spend.open(&mut spend.accounts(), Account::boundless(known_at));
        }
        spend
    }

    /// The same quota, for some models only.
    #[must_use]
    pub fn of_models(self, model: Option<Glob>) -> Self {
        Self { model, ..self }
    }

    /// The same quota, of which it is not known what the books say: that is told later ([`Spend::tell`]), or with the first lease.
    /// Calls need not wait for it: where there is no limit they need no figure, and where there is one they need a lease.
    #[must_use]
    pub fn untold(mut self) -> Self {
        let accounts = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        (accounts.elsewhere, accounts.is_told) = (0, false);
        self
    }

    /// Whether it is known what the books say.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.accounts().is_told
    }

    /// Takes in what the books say at `now`, if that was not known. What this node has charged may be among it; then it counts
    /// twice where a first limit is set, so that less is left rather than more.
    pub fn tell(&self, spent: NanoUsd, now: EpochMs) {
        self.accounts().tell(spent.0, self.window.span(now));
    }

    /// Whether a call of this model counts.
    #[must_use]
    pub fn applies_to(&self, model: &str) -> bool {
        allows(self.model.as_slice(), model)
    }

    /// What is in force.
    #[must_use]
    pub fn terms(&self) -> Terms {
        **self.terms.load()
    }

    /// Puts other terms in force, for calls that come now. Says whether the authority must be asked before that is true of
    /// the credit too.
    pub fn set_terms(&self, terms: Terms) -> bool {
        let is_changed = self.change_terms(&mut self.accounts(), terms);
        is_changed && !terms.is_boundless()
    }

    fn change_terms(&self, accounts: &mut Accounts, terms: Terms) -> bool {
        let before = *self.terms.swap(Arc::new(terms));
        if before == terms {
            return false;
        }
        self.refused_until.store(i64::MIN, Release);
        match (before.is_boundless(), terms.is_boundless()) {
            (true, true) => {}
            (false, true) => accounts.open.iter().for_each(|account| account.unbind()),
            (true, false) => accounts.open.iter().for_each(|account| account.bind()),
            (false, false) if terms.is_as_wide_as(&before) => {}
            (false, false) => accounts.open.iter().for_each(|account| account.retire()),
        }
        if terms.is_boundless() && accounts.open.is_empty() {
            let span = accounts.known_at;
            self.open(accounts, Account::boundless(span));
        }
        true
    }

    /// Lets no call take from it any more, where it has a limit: the authority no longer stands for what is here.
    pub fn suspend(&self) {
        if !self.terms().is_boundless() {
            self.current.store(None);
        }
    }

    /// Gives back all credit that no call has set aside; the next ask says so.
    pub fn give_back(&self) {
        if !self.terms().is_boundless() {
            self.accounts().open.iter().for_each(|account| account.retire());
        }
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
        let own = counted.map(|account| account.settled()).fold(0, i64::saturating_add);
        let is_known = periods.contains(&accounts.known_at.start);
        NanoUsd(own.saturating_add(if is_known { accounts.elsewhere } else { 0 }))
    }

    /// What is set aside by this node for calls in progress.
    #[must_use]
    pub fn reserved(&self) -> NanoUsd {
        let accounts = self.accounts();
        NanoUsd(accounts.open.iter().map(|account| account.reserved()).sum::<i64>().max(0))
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
        let generation = account.take(amount.0)?;
        Some(Held { spend: Arc::clone(self), account: Arc::clone(account), amount: amount.0, generation })
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
            Some(account) => !account.has(amount.0) && now.0 >= self.refused_until.load(Acquire),
        }
    }

    /// Whether this node was granted all that the limit allows, so that nobody else has any of it.
    pub(super) fn is_all_here(&self, now: EpochMs) -> bool {
        let current = self.current.load();
        current.as_ref().is_some_and(|account| account.covers(now) && account.lent() >= self.limit(now).0)
    }

    /// What to ask of the authority, so that calls find the credit that they need. Credit of periods that are over, and of
    /// terms that have changed, is given back with it.
    #[must_use]
    pub fn ask(&self, needs: Needs, at: Option<EpochMs>, now: EpochMs) -> Ask {
        let accounts = self.accounts();
        let terms = self.terms();
        let current = self.current.load();
        let is_current = |account: &Arc<Account>| current.as_ref().is_some_and(|current| Arc::ptr_eq(current, account));
        // What a call of a past period has just been granted, and not taken yet, is left to it.
        let is_asked_for = |account: &Arc<Account>| at.is_some_and(|at| account.span.contains(at));
        let is_over = |account: &&Arc<Account>| {
            !terms.is_boundless() && !account.covers(now) && (is_current(account) || !is_asked_for(account))
        };
        accounts.open.iter().filter(is_over).for_each(|account| account.retire());
        let uncovered = accounts.uncovered().filter(|_| !terms.is_boundless()).map(|account| account.owed());
        let held = Some(accounts.open.iter().filter_map(|account| account.holding()).collect());
        let takes = |account: &&Arc<Account>| match at {
            Some(at) => account.span.contains(at),
            None => is_current(account) && account.covers(now),
        };
        let free = accounts.open.iter().find(takes).map_or(0, |account| account.free().max(0));
        let (wanted, least) = (needs.all, needs.least.saturating_sub(free).max(0));
        let demand = accounts.demand(now);
        Ask { quota: self.id, wanted, least, demand, at, asked: now, terms, held, uncovered }
    }

    /// Takes in what the authority answered to the ask.
    pub fn apply(&self, ask: &Ask, reply: &Reply) {
        let mut accounts = self.accounts();
        // Who knows which came first: terms that were put in force meanwhile, or those of the reply.
        let is_outdated = ![ask.terms, reply.terms].contains(&self.terms());
        if !is_outdated {
            self.change_terms(&mut accounts, reply.terms);
        }
        let terms = self.terms();
        if reply.terms.is_boundless() || terms.is_boundless() {
            accounts.tell(reply.spent, reply.span);
            return;
        }
        if reply.now >= accounts.lapses_at {
            accounts.open.iter().for_each(|account| account.retire());
        }
        accounts.lapses_at = terms.holds_until(reply.now);
        if reply.granted > 0 {
            accounts.slice = (reply.granted, ask.asked);
        }
        let counted = self.window.counted(reply.now);
        let shipped_since = take_in(&mut accounts.open, (ask, reply), &counted);
        if reply.span.contains(reply.now) {
            // Of an account without a lease it is not known what was shipped.
            if accounts.open.iter().all(|account| account.is_leased()) {
                accounts.elsewhere = reply.spent.saturating_sub(shipped_since);
                accounts.known_at = reply.span;
                accounts.is_told = true;
            }
            let current = accounts.open.iter().find(|account| account.span.start == reply.span.start).cloned();
            // The authority's clock decides; this node's may be another.
            let ahead_ms = ask.asked.0.saturating_sub(reply.now.0);
            let until = accounts.lapses_at.min(reply.span.end);
            let (from, until) = (reply.span.start.plus(ahead_ms), until.plus(ahead_ms));
            current.iter().for_each(|account| account.cover(from, until));
            self.current.store(current);
        }
        if is_outdated {
            accounts.open.iter().for_each(|account| account.retire());
        }
        let refused_until = if reply.is_exhausted && !has_news(&accounts.open, reply) {
            ask.asked.0.saturating_add(ASK_AGAIN_MS)
        } else {
            i64::MIN
        };
        self.refused_until.store(refused_until, Release);
        accounts.open.retain(|account| counted.contains(&account.span.start) || !is_done(account, reply));
    }

    /// Takes note of what this node's calls were charged in a period and has come on the books. To be told of each charge once,
    /// and between asks where what was charged without a limit is to be covered ([`Ask::uncovered`]).
    pub fn book(&self, period: EpochMs, charge: NanoUsd) {
        self.opened(period).iter().for_each(|account| account.book(charge.0));
    }

    /// Charges what a call of an earlier process cost beyond what it was charged when it was closed. To be told before it is told that
    /// this is on the books.
    pub fn amend(&self, period: EpochMs, charge: NanoUsd) {
        self.opened(period).iter().for_each(|account| account.amend(charge.0));
    }

    /// Whether something was charged or set aside without a limit, and now there is one, of which the authority has given no
    /// lease yet.
    #[must_use]
    pub fn is_uncovered(&self) -> bool {
        !self.terms().is_boundless() && self.accounts().uncovered().is_some()
    }

    /// Whether all that was charged is on the books and nothing is set aside, so that the quota may leave memory. `shipped` says
    /// of a period what the books have of this node's lease.
    #[must_use]
    pub fn is_settled(&self, shipped: impl Fn(EpochMs) -> Option<i64>) -> bool {
        let accounts = self.accounts();
        let is_booked = |account: &Account| account.is_booked(shipped(account.span.start).unwrap_or(0));
        accounts.open.iter().all(|account| account.reserved() == 0 && is_booked(account))
    }

    fn opened(&self, period: EpochMs) -> Option<Arc<Account>> {
        self.accounts().open.iter().find(|account| account.span.start == period).cloned()
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
