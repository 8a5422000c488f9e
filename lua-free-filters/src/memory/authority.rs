//! The authority in memory.

use crate::id::QuotaId;
use crate::lease::{self, Ask, Lease, Reply, Standing, Terms};
use crate::money::NanoUsd;
use crate::ports::{Authority, Share, StoreUnavailable, Want};
use crate::time::EpochMs;
use crate::window::Window;
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The authority's tables in memory: quotas, what was spent of them, and what each node holds. The decisions are those of
/// [`crate::lease`]; the SQL store makes the same ones from rows.
#[derive(Debug, Default)]
pub struct MemoryAuthority {
    /// Nodes that may ask.
    pub nodes: u32,
    quotas: HashMap<QuotaId, QuotaBook>,
}

#[derive(Debug)]
struct QuotaBook {
    window: Window,
    terms: Terms,
    spent: BTreeMap<EpochMs, i64>,
    leases: BTreeMap<(EpochMs, u32), Lease>,
}

impl QuotaBook {
    /// Charged, and out of the authority's hands, in the periods that count at a moment.
    fn sums(&self, at: EpochMs) -> (i64, i64) {
        let periods = self.window.counted(at);
        let spent = self.spent.range(periods.clone()).map(|(_, amount)| amount).sum();
        let counted = self.leases.range((*periods.start(), 0)..=(*periods.end(), u32::MAX));
        (spent, counted.map(|(_, lease)| lease.outstanding()).sum())
    }
}

impl MemoryAuthority {
    /// Makes a quota, or puts other terms in force.
    pub fn set(&mut self, quota: QuotaId, window: Window, terms: Terms) {
        let book = QuotaBook { window, terms, spent: BTreeMap::new(), leases: BTreeMap::new() };
        self.quotas.entry(quota).or_insert(book).terms = terms;
    }

    /// One lease transaction, for one quota.
    pub fn lease(&mut self, node: u32, ask: &Ask, now: EpochMs) -> Option<Reply> {
        let nodes = self.nodes;
        let book = self.quotas.get_mut(&ask.quota)?;
        for held in ask.holdings() {
            if let Some(lease) = book.leases.get_mut(&(held.period, node)) {
                lease.hear(held);
            }
        }
        let own = book.leases.iter_mut().filter(|((period, of), _)| *of == node && ask.disowns(*period));
        own.for_each(|(_, lease)| _ = lease.reclaim());
        let at = ask.at.unwrap_or(now);
        let span = book.window.span(at);
        let (spent, leased) = book.sums(at);
        let before = book.leases.get(&(span.start, node)).copied().unwrap_or_default();
        let standing = Standing { limit: book.terms.limit_at(now).0, spent, leased, nodes };
        let (after, booked) = lease::decide(ask, before, standing);
        if !book.terms.is_boundless() {
            book.leases.insert((span.start, node), after);
        }
        let is_named = |period: &EpochMs| *period == span.start || ask.holdings().any(|held| held.period == *period);
        let leases = book.leases.iter().filter(|((period, of), _)| *of == node && is_named(period));
        let leases = leases.map(|((period, _), lease)| (*period, *lease)).collect();
        let (_, leased) = book.sums(at);
        let is_exhausted = Standing { leased, ..standing }.available() <= 0;
        Some(Reply { now, span, terms: book.terms, spent, leases, booked, is_exhausted })
    }

    /// Puts a charge of a node on the books.
    pub fn ship(&mut self, node: u32, share: Share, charge: NanoUsd) {
        if let Some(book) = self.quotas.get_mut(&share.quota) {
            *book.spent.entry(share.period).or_default() += charge.0;
            if let Some(lease) = book.leases.get_mut(&(share.period, node)) {
                lease.shipped += charge.0;
            }
        }
    }

    /// What was charged to a quota in a period.
    #[must_use]
    pub fn spent(&self, share: Share) -> i64 {
        self.quotas.get(&share.quota).and_then(|book| book.spent.get(&share.period).copied()).unwrap_or(0)
    }

    /// Charged to a quota, and out of the authority's hands, in the periods that count at a moment.
    #[must_use]
    pub fn standing(&self, quota: QuotaId, now: EpochMs) -> (i64, i64) {
        self.quotas.get(&quota).map_or((0, 0), |book| book.sums(now))
    }
}

/// A sole node's way to an authority in memory, at a time that tests set.
#[derive(Clone, Debug, Default)]
pub struct SoleNode {
    /// The authority.
    pub authority: Arc<Mutex<MemoryAuthority>>,
    /// Its clock.
    pub now: Arc<AtomicI64>,
}

#[async_trait]
impl Authority for SoleNode {
    async fn lease(&self, wants: Vec<Want>) -> Result<(), StoreUnavailable> {
        let now = EpochMs(self.now.load(Relaxed));
        let mut authority = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        for want in wants {
            let ask = want.spend.ask(want.amount.0, want.at, now);
            let reply = authority.lease(0, &ask, now).ok_or(StoreUnavailable)?;
            want.spend.apply(&ask, &reply);
        }
        Ok(())
    }
}
