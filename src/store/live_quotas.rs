//! The quotas in use by this process: one instance each, shared by every key that has it, for as long as anyone may need it.
//!
//! What calls have taken stands in these atomics alone until it is shipped. So a key that is read again keeps its quotas, and a
//! quota of money goes only when nobody holds it and the books say the same as it does.

use super::ledger::Booked;
use super::quotas::{QuotaKind, QuotaRow};
use crate::clock;
use filters::denied::{LimitSource, Owner};
use filters::id::{OrgId, ProjectId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::quota::{Chain, Concurrency, Counted, Peers, Rate, Spend};
use filters::time::EpochMs;
use filters::window::{Unit, Window, Zone};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug)]
enum Live {
    Spend(Arc<Spend>),
    Rate(Arc<Rate>),
    Concurrency(Arc<Concurrency>),
}

impl Live {
    /// What the authority leases of it.
    fn leased(&self) -> Option<&Arc<Spend>> {
        match self {
            Self::Spend(spend) => Some(spend),
            Self::Concurrency(concurrency) => Some(concurrency.places()),
            Self::Rate(_) => None,
        }
    }

    /// Whether a key, or a call in progress, holds it. Nobody can take it meanwhile: that needs the registry too.
    fn is_held(&self) -> bool {
        let holders = match self {
            Self::Spend(spend) => Arc::strong_count(spend),
            Self::Rate(rate) => Arc::strong_count(rate),
            Self::Concurrency(concurrency) => Arc::strong_count(concurrency),
        };
        holders > 1
    }
}

/// Whether rows of quotas say what was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figures {
    /// As of now.
    Told,
    /// Nobody has looked.
    Untold,
}

/// The registry.
#[derive(Debug, Default)]
pub(super) struct LiveQuotas {
    live: HashMap<QuotaId, Live>,
    /// Quotas of keys that were let go, and the tick of it.
    leaving: HashMap<QuotaId, u64>,
    /// Quotas that have a limit since lately, of which the authority is to hear what was charged without one.
    uncovered: Vec<QuotaId>,
    /// What rates have in common that are counted with other nodes; none: this one counts alone.
    pub(super) peers: Option<Arc<Peers>>,
}

impl LiveQuotas {
    /// The chain of a key, from its own quotas, its project's and its organisation's. Limits take effect at once, also for
    /// other keys.
    pub(super) fn chain<'a>(
        &mut self,
        quotas: impl Iterator<Item = &'a QuotaRow>,
        figures: Figures,
    ) -> (Chain, Box<[QuotaId]>) {
        let (mut chain, mut ids, mut balance) = (Chain::default(), Vec::new(), None);
        for row in quotas {
            ids.push(row.id);
            match row.kind {
                QuotaKind::Balance => balance = Some(self.spend(row, figures)),
                QuotaKind::Spend => chain.spend.push(self.spend(row, figures)),
                QuotaKind::Requests => chain.rates.push(self.rate(row, Counted::Requests)),
                QuotaKind::Tokens => chain.rates.push(self.rate(row, Counted::Tokens)),
                QuotaKind::Concurrency => chain.concurrency.push(self.concurrency(row)),
            }
        }
        chain.spend.extend(balance);
        (chain, ids.into())
    }

    fn spend(&mut self, row: &QuotaRow, figures: Figures) -> Arc<Spend> {
        if let Some(Live::Spend(spend)) = self.live.get(&row.id) {
            if figures == Figures::Told {
                spend.tell(NanoUsd(row.spent), clock::now());
            }
            if spend.set_terms(row.terms()) && spend.is_uncovered() {
                self.uncovered.push(row.id);
            }
            return Arc::clone(spend);
        }
        let source = match row.kind {
            QuotaKind::Balance => LimitSource::OrganisationBalance,
            QuotaKind::Spend | QuotaKind::Requests | QuotaKind::Tokens | QuotaKind::Concurrency => {
                LimitSource::Spend(owner(row))
            }
        };
        let spent = (NanoUsd(row.spent), clock::now());
        let spend = Spend::new(row.id, source, row.window.clone(), row.terms(), spent).of_models(row.model.clone());
        let spend = Arc::new(if figures == Figures::Told { spend } else { spend.untold() });
        self.live.insert(row.id, Live::Spend(Arc::clone(&spend)));
        spend
    }

    fn rate(&mut self, row: &QuotaRow, counted: Counted) -> Arc<Rate> {
        let limit = row.limit_at(clock::now());
        if let Some(Live::Rate(rate)) = self.live.get(&row.id) {
            rate.set_limit(limit);
            return Arc::clone(rate);
        }
        let per = match &row.window {
            Window::Rolling(unit) | Window::Calendar { unit, .. } => *unit,
            Window::Total => Unit::Minute,
        };
        let source = match counted {
            Counted::Requests => LimitSource::Requests(owner(row), per),
            Counted::Tokens => LimitSource::Tokens(owner(row), per),
        };
        let rate = Rate::new(source, counted, per, limit).of_models(row.model.clone());
        let rate = match &self.peers {
            Some(peers) => rate.shared(row.id, Arc::clone(peers)),
            None => rate,
        };
        let rate = Arc::new(match &row.window {
            Window::Calendar { zone, .. } if *zone != Zone::utc() => rate.in_zone(zone.clone()),
            Window::Calendar { .. } | Window::Rolling(_) | Window::Total => rate,
        });
        self.live.insert(row.id, Live::Rate(Arc::clone(&rate)));
        rate
    }

    fn concurrency(&mut self, row: &QuotaRow) -> Arc<Concurrency> {
        if let Some(Live::Concurrency(concurrency)) = self.live.get(&row.id) {
            concurrency.set_terms(row.terms());
            return Arc::clone(concurrency);
        }
        let source = LimitSource::Concurrency(owner(row));
        let concurrency = Arc::new(Concurrency::new(row.id, source, row.terms()).of_models(row.model.clone()));
        let live = Live::Concurrency(Arc::clone(&concurrency));
        self.live.insert(row.id, live);
        concurrency
    }

    /// What is leased of a quota, if it is in use.
    pub(super) fn leased(&self, id: QuotaId) -> Option<Arc<Spend>> {
        self.live.get(&id).and_then(Live::leased).cloned()
    }

    /// Whether no call has set anything aside.
    pub(super) fn is_idle(&self) -> bool {
        self.live.values().filter_map(Live::leased).all(|spend| spend.reserved() == NanoUsd::ZERO)
    }

    /// Lets no call take from what was leased any more.
    pub(super) fn suspend(&self) {
        self.live.values().filter_map(Live::leased).for_each(|spend| spend.suspend());
    }

    /// Puts a limit in force, if the quota is in use.
    pub(super) fn set_limit(&mut self, row: &QuotaRow) {
        let limit = row.limit_at(clock::now());
        match self.live.get(&row.id) {
            Some(Live::Spend(_)) => _ = self.spend(row, Figures::Untold),
            Some(Live::Rate(rate)) => rate.set_limit(limit),
            Some(Live::Concurrency(concurrency)) => concurrency.set_terms(row.terms()),
            None => {}
        }
    }

    /// Takes out the quotas of which the authority is to hear what was charged without a limit.
    pub(super) fn take_uncovered(&mut self) -> Vec<QuotaId> {
        std::mem::take(&mut self.uncovered)
    }

    /// Tells quotas in use what of their charges has come on the books.
    pub(super) fn book(&self, booked: &Booked) {
        let spend = |share: &Share| self.live.get(&share.quota).and_then(Live::leased);
        for (share, charge) in &booked.late {
            spend(share).into_iter().for_each(|spend| spend.amend(share.period, NanoUsd(*charge)));
        }
        for (share, charge) in &booked.charges {
            spend(share).into_iter().for_each(|spend| spend.book(share.period, NanoUsd(*charge)));
        }
    }

    /// Notes that a key with these quotas was let go.
    pub(super) fn let_go(&mut self, quotas: &[QuotaId], tick: u64) {
        self.leaving.extend(quotas.iter().map(|id| (*id, tick)));
    }

    /// Quotas that were let go before a tick and that nobody holds.
    pub(super) fn unheld_since(&self, tick: u64) -> Vec<QuotaId> {
        let unheld = |id: &QuotaId| self.live.get(id).is_none_or(|live| !live.is_held());
        let long_ago = self.leaving.iter().filter(|(_, left)| **left <= tick);
        long_ago.map(|(id, _)| *id).filter(unheld).collect()
    }

    /// Forgets quotas that nobody holds, those of money only where the books say what they say. `shipped` is what they say of this
    /// node's leases.
    pub(super) fn forget(&mut self, quotas: &[QuotaId], shipped: &HashMap<(QuotaId, EpochMs), i64>) {
        for id in quotas {
            let is_settled = self.live.get(id).is_none_or(|live| {
                !live.is_held()
                    && match live {
                        Live::Spend(spend) => spend.is_settled(|period| shipped.get(&(*id, period)).copied()),
                        Live::Rate(_) | Live::Concurrency(_) => true,
                    }
            });
            if is_settled {
                self.live.remove(id);
                self.leaving.remove(id);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }
}

/// Whose a quota is, by the form of its owner's identifier.
fn owner(row: &QuotaRow) -> Owner {
    if row.owner.parse::<OrgId>().is_ok() {
        Owner::Organisation
    } else if row.owner.parse::<ProjectId>().is_ok() {
        Owner::Project
    } else {
        Owner::Key
    }
}
