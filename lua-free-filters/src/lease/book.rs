//! The book of one quota: what was charged to it and what its nodes hold, period by period; and a lease transaction on it. The
//! SQL store fills one from rows, the authority in memory keeps one: what is decided is the same code.

use super::{Ask, Lease, Reply, Standing, Terms, decide};
use crate::time::EpochMs;
use crate::window::Window;
use std::collections::BTreeMap;

/// A quota's book, or the part of it that an ask is about. `N` names a node.
#[derive(Clone, Debug)]
pub struct Book<N> {
    /// When the quota starts anew.
    pub window: Window,
    /// What is in force.
    pub terms: Terms,
    /// Charged by all nodes and on the books, in nano-USD, by the start of the period.
    pub spent: BTreeMap<EpochMs, i64>,
    /// What each node holds, by the start of the period.
    pub leases: BTreeMap<EpochMs, BTreeMap<N, Lease>>,
}

impl<N: Clone + Ord> Book<N> {
    /// A book in which nothing stands yet.
    #[must_use]
    pub fn new(window: Window, terms: Terms) -> Self {
        Self { window, terms, spent: BTreeMap::new(), leases: BTreeMap::new() }
    }

    /// Charged, and out of the authority's hands, in the periods that count at a moment.
    #[must_use]
    pub fn sums(&self, at: EpochMs) -> (i64, i64) {
        let periods = self.window.counted(at);
        let leases = self.leases.range(periods.clone()).flat_map(|(_, nodes)| nodes.values());
        let spent = self.spent.range(periods).map(|(_, amount)| *amount);
        (spent.fold(0, i64::saturating_add), leases.map(Lease::outstanding).fold(0, i64::saturating_add))
    }

    /// Of what is out of the authority's hands at a moment, what a node has.
    fn outstanding(&self, node: &N, at: EpochMs) -> i64 {
        let nodes = self.leases.range(self.window.counted(at)).map(|(_, nodes)| nodes);
        nodes.filter_map(|nodes| nodes.get(node)).map(Lease::outstanding).fold(0, i64::saturating_add)
    }

    /// A node's lease in a period.
    #[must_use]
    pub fn lease(&self, node: &N, period: EpochMs) -> Option<Lease> {
        self.leases.get(&period)?.get(node).copied()
    }

    /// Meets an ask of a node, of which there are `nodes`. Says also which periods' leases of the node have changed.
    pub fn meet(&mut self, (node, nodes): (&N, u32), ask: &Ask, now: EpochMs) -> (Reply, Vec<EpochMs>) {
        let mut changed = self.hear(node, ask);
        let at = ask.at.unwrap_or(now);
        let (span, limit) = (self.window.span(at), self.terms.limit_at(now).0);
        let (spent, leased) = self.sums(at);
        let before = self.lease(node, span.start).unwrap_or_default();
        let (after, granted) = decide(ask, before, Standing { limit, spent, leased, nodes });
        if !self.terms.is_boundless() {
            self.leases.entry(span.start).or_default().insert(node.clone(), after);
            changed.push(span.start);
        }
        let named = ask.holdings().map(|held| held.period).filter(|period| *period != span.start);
        let leases = named.chain([span.start]).filter_map(|period| Some((period, self.lease(node, period)?))).collect();
        let (_, leased) = self.sums(at);
        let is_refused = granted < ask.wanted && granted < ask.least.max(1);
        let is_exhausted = is_refused || Standing { limit, spent, leased, nodes }.available() <= 0;
        let is_held_by_others = leased > self.outstanding(node, at);
        let is_wanted = granted < ask.wanted && is_held_by_others && limit.saturating_sub(spent) >= ask.least;
        (Reply { now, span, terms: self.terms, spent, leases, granted, is_exhausted, is_wanted }, changed)
    }

    /// Takes in what a node says of its leases, and takes back what it does not know of. Says which periods' have changed.
    fn hear(&mut self, node: &N, ask: &Ask) -> Vec<EpochMs> {
        let own = self.leases.iter_mut().filter_map(|(period, nodes)| Some((period, nodes.get_mut(node)?)));
        let hear = |(period, lease): (&EpochMs, &mut Lease)| {
            let is_news = match ask.holdings().find(|held| held.period == *period) {
                Some(held) => lease.hear(held),
                None => ask.disowns(*period) && lease.reclaim(),
            };
            is_news.then_some(*period)
        };
        own.filter_map(hear).collect()
    }
}
