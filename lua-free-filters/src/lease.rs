//! Leases: how much of a quota a node may spend by itself. What the authority decides, without its tables.
//!
//! The authority knows of each node and period three running totals, each with one writer: what it granted, what the node
//! gave back, and what the shipper has put on the books of that node. The difference is out of the authority's hands; so
//! `limit − spent − Σ differences` can be promised to others, and every order of messages keeps that true.

mod book;

pub use book::Book;

use crate::id::QuotaId;
use crate::money::NanoUsd;
use crate::ports::Want;
use crate::quota::Spend;
use crate::time::EpochMs;
use crate::window::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a node that was refused waits before it asks for the same quota again, in milliseconds.
pub const ASK_AGAIN_MS: i64 = 250;
/// Where several nodes share a quota, a slice is so many times what is waited for, so that not every call has to ask.
const SLICE_DEMAND: i64 = 8;
/// A slice is to last so long, in milliseconds: a node that asks again sooner gets more.
pub(crate) const SLICE_MS: i64 = 250;

/// The running totals of one node in one period of a quota, in nano-USD. Each only grows, except by what the node never heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Granted by the authority.
    pub granted: i64,
    /// Given back by the node.
    pub returned: i64,
    /// Charged by the node and on the books.
    pub shipped: i64,
}

impl Lease {
    /// What the node may still charge without asking; below zero if it charged more than it had.
    #[must_use]
    pub fn outstanding(&self) -> i64 {
        self.granted.saturating_sub(self.returned).saturating_sub(self.shipped)
    }

    /// Takes back what the node does not know that it holds; and what it was charged beyond, it was granted. Says whether there
    /// was anything.
    fn reclaim(&mut self) -> bool {
        let before = *self;
        self.granted = self.returned.saturating_add(self.shipped);
        *self != before
    }

    /// Takes in what the node says of it: what was granted in a reply that never came, it does not have. Says whether that was
    /// news.
    fn hear(&mut self, held: &Holding) -> bool {
        let before = *self;
        self.returned = self.returned.max(held.returned);
        self.granted = held.granted;
        *self != before
    }
}

/// What a node says of its lease in a period. Both numbers are absolute, so that telling them twice changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// When the period began.
    pub period: EpochMs,
    /// What the node has given back.
    pub returned: i64,
    /// What it has been granted, as far as it knows; or more, where its calls were charged or set aside beyond that: this has been
    /// spent, whatever the limit says.
    pub granted: i64,
}

/// What is in force of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The most that may be charged in the window; [`NanoUsd::MAX`] is no limit.
    pub limit: NanoUsd,
    /// Whether calls set their bound aside rather than their estimate.
    pub is_strict: bool,
    /// More, for a while.
    pub increase: Option<Increase>,
}

/// A temporary increase of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increase {
    /// What is added to the limit.
    pub amount: NanoUsd,
    /// The first moment at which it is not.
    pub until: EpochMs,
}

impl Terms {
    /// A limit that estimates may pass.
    #[must_use]
    pub fn elastic(limit: NanoUsd) -> Self {
        Self { limit, is_strict: false, increase: None }
    }

    /// The limit in force at a moment.
    #[must_use]
    pub fn limit_at(&self, now: EpochMs) -> NanoUsd {
        match self.increase {
            Some(increase) if now < increase.until => self.limit.saturating_add(increase.amount),
            Some(_) | None => self.limit,
        }
    }

    /// Up to when the limit of this moment stays in force.
    #[must_use]
    pub fn holds_until(&self, now: EpochMs) -> EpochMs {
        self.increase.map(|increase| increase.until).filter(|until| now < *until).unwrap_or(EpochMs(i64::MAX))
    }

    /// Whether all that could be charged before can be charged still.
    #[must_use]
    pub fn is_as_wide_as(&self, before: &Self) -> bool {
        let is_kept = before.increase.is_none() || self.increase == before.increase;
        self.limit >= before.limit && is_kept
    }

    /// Whether anything can be charged without asking.
    #[must_use]
    pub fn is_boundless(&self) -> bool {
        self.limit == NanoUsd::MAX
    }
}

/// What a node asks of the authority for one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The quota.
    pub quota: QuotaId,
    /// Credit that calls wait for. 0: only tell where the quota stands.
    pub wanted: i64,
    /// What the call that lacks least lacks: where there is less, nobody would be served, and it is left to other nodes.
    pub least: i64,
    /// What calls will take in the next quarter of a second, as the last ones did.
    pub demand: i64,
    /// A moment of the period that it is for, where that is not the present: a running call stays in its own.
    pub at: Option<EpochMs>,
    /// When it was asked, by the node's clock.
    pub asked: EpochMs,
    /// The terms that the node knew.
    pub terms: Terms,
    /// What it says of each lease that it holds; none if another ask of this transaction has said so before.
    pub held: Option<Vec<Holding>>,
    /// What was charged, or is set aside, and no lease covers, because there was no limit at that moment; without what is on the
    /// books. As long as this is asked, nothing of the node may come there.
    pub uncovered: Option<i64>,
}

impl Ask {
    /// The same, for a transaction in which another ask for the quota comes before.
    #[must_use]
    pub fn after_another(self) -> Self {
        Self { held: None, uncovered: None, ..self }
    }

    /// What the node says of its leases.
    pub fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.held.iter().flatten()
    }

    /// Whether the node does not know that it holds anything of a period: it was started anew, with its journal shipped, or
    /// never had the reply. It has one transaction open at a time; so what it does not name is nobody's.
    #[must_use]
    pub fn disowns(&self, period: EpochMs) -> bool {
        self.held.as_ref().is_some_and(|held| held.iter().all(|held| held.period != period))
    }
}

/// What calls of a node need of one quota and period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// All of them together.
    pub all: i64,
    /// The one that needs least; 0 if none needs anything.
    pub least: i64,
}

impl Needs {
    /// Those of one call.
    #[must_use]
    pub fn of_one(amount: NanoUsd) -> Self {
        Self { all: amount.0, least: amount.0 }
    }

    fn add(&mut self, amount: NanoUsd) {
        self.all = self.all.saturating_add(amount.0);
        self.least = if self.least == 0 || amount == NanoUsd::ZERO {
            self.least.max(amount.0)
        } else {
            self.least.min(amount.0)
        };
    }
}

/// What is to be asked for each quota and period, for all who wait for it, in the order of the quotas.
#[must_use]
pub fn asks<'a>(wants: impl Iterator<Item = &'a Want>, now: EpochMs) -> Vec<(Arc<Spend>, Ask)> {
    let mut waiting: BTreeMap<_, (&Arc<Spend>, Needs)> = BTreeMap::new();
    for want in wants {
        let period = want.at.map(|at| want.spend.window.span(at).start);
        let (_, needs) = waiting.entry((want.spend.id, period)).or_insert((&want.spend, Needs::default()));
        needs.add(want.amount);
    }
    let mut asks: Vec<(Arc<Spend>, Ask)> = Vec::with_capacity(waiting.len());
    for ((id, at), (spend, needs)) in waiting {
        let ask = spend.ask(needs, at, now);
        let is_first = asks.last().is_none_or(|(_, before)| before.quota != id);
        asks.push((Arc::clone(spend), if is_first { ask } else { ask.after_another() }));
    }
    asks
}

/// What the books say of a quota when the authority decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    /// The limit in force.
    limit: i64,
    /// Charged in the periods that count.
    spent: i64,
    /// Out of the authority's hands in those periods, by all nodes.
    leased: i64,
    /// Nodes that may ask.
    nodes: u32,
}

impl Standing {
    /// What can still be promised; below zero if the limit was lowered or passed.
    fn available(&self) -> i64 {
        self.limit.saturating_sub(self.spent).saturating_sub(self.leased)
    }

    /// What a node is granted. A sole node gets all, so that it asks once; where there are several, a slice that grows with
    /// demand and shrinks to what is waited for as the limit nears.
    fn grant(&self, ask: &Ask) -> i64 {
        let available = self.available();
        if available <= 0 || self.nodes > 1 && (ask.wanted <= 0 || available < ask.least) {
            return 0;
        }
        if self.nodes <= 1 {
            return available;
        }
        let fair = available / (2 * i64::from(self.nodes));
        let slice = ask.wanted.saturating_mul(SLICE_DEMAND).max(ask.demand).min(fair.max(ask.wanted));
        slice.min(available)
    }
}

/// What the authority answers for one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The authority's clock.
    pub now: EpochMs,
    /// The period that holds it: credit is for calls of this period.
    pub span: Span,
    /// What is in force.
    pub terms: Terms,
    /// Charged in the periods that count, by all nodes, as far as it is on the books.
    pub spent: i64,
    /// This node's totals in the current period and in those that it named.
    pub leases: Vec<(EpochMs, Lease)>,
    /// What was granted now.
    pub granted: i64,
    /// Whether there is nothing more to be had at present.
    pub is_exhausted: bool,
    /// Whether other nodes hold what was refused, and could give it back.
    pub is_wanted: bool,
}

/// A node's totals after its ask was met, and what it was granted. `before` is its row in the current period, `standing` what
/// holds with all that the ask gives back.
fn decide(ask: &Ask, before: Lease, standing: Standing) -> (Lease, i64) {
    // What was charged without a lease is covered first, whether or not the limit has room for it: it has been spent.
    let cover = ask.uncovered.map_or(0, |claimed| claimed.saturating_sub(before.outstanding()).max(0));
    let rest = Standing { leased: standing.leased.saturating_add(cover), ..standing };
    let slice = rest.grant(ask);
    let granted = before.granted.saturating_add(cover).saturating_add(slice);
    (Lease { granted, ..before }, slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(available: i64, nodes: u32) -> Standing {
        Standing { limit: available + 70, spent: 40, leased: 30, nodes }
    }

    fn ask(wanted: i64) -> Ask {
        let (quota, at, asked, held, uncovered) = (QuotaId(1), None, EpochMs(0), Some(Vec::new()), None);
        Ask { quota, wanted, least: wanted, demand: 0, at, asked, terms: Terms::elastic(NanoUsd(100)), held, uncovered }
    }

    #[test]
    fn a_sole_node_gets_all_that_there_is() {
        assert_eq!(standing(1_000, 1).grant(&ask(5)), 1_000);
        assert_eq!(standing(3, 1).grant(&ask(5)), 3);
        assert_eq!(standing(-3, 1).grant(&ask(5)), 0);
    }

    #[test]
    fn what_serves_nobody_is_left_to_others() {
        let some = Ask { wanted: 300, least: 70, ..ask(0) };
        assert_eq!([standing(69, 2).grant(&some), standing(70, 2).grant(&some)], [0, 70]);
        assert_eq!(standing(69, 1).grant(&some), 69, "there are no others");
    }

    #[test]
    fn a_reclaimed_lease_has_nothing_out() {
        let mut lease = Lease { granted: 10, returned: 2, shipped: 3 };
        assert!(lease.reclaim() && lease.outstanding() == 0);
        assert!(!lease.reclaim(), "once is enough");
    }

    #[test]
    fn slices_grow_with_demand_and_shrink_as_the_limit_nears() {
        let hurried = Ask { demand: 20_000, ..ask(100) };
        let granted = |available, ask: &Ask| standing(available, 4).grant(ask);
        assert_eq!(granted(1_000_000, &ask(100)), 800);
        assert_eq!(granted(1_000_000, &hurried), 20_000);
        assert_eq!(granted(80_000, &hurried), 10_000);
        assert_eq!(granted(1_000_000, &ask(100_000)), 125_000);
        assert_eq!(granted(800, &ask(100)), 100);
        assert_eq!(granted(70, &Ask { least: 50, ..ask(100) }), 70);
        assert_eq!(granted(0, &ask(100)), 0);
        assert_eq!(granted(1_000, &ask(0)), 0);
    }

    #[test]
    fn an_increase_holds_until_its_moment() {
        let increase = Increase { amount: NanoUsd(5), until: EpochMs(100) };
        let terms = Terms { increase: Some(increase), ..Terms::elastic(NanoUsd(10)) };
        assert_eq!((terms.limit_at(EpochMs(99)), terms.holds_until(EpochMs(99))), (NanoUsd(15), EpochMs(100)));
        assert_eq!((terms.limit_at(EpochMs(100)), terms.holds_until(EpochMs(100))), (NanoUsd(10), EpochMs(i64::MAX)));
    }

    #[test]
    fn what_was_charged_without_a_lease_is_covered_first() {
        let ask = Ask { uncovered: Some(27), ..ask(1) };
        let standing = Standing { limit: 100, spent: 40, leased: 0, nodes: 1 };
        assert_eq!(decide(&ask, Lease::default(), standing), (Lease { granted: 60, ..Lease::default() }, 33));
        let passed = Standing { limit: 45, ..standing };
        assert_eq!(decide(&ask, Lease::default(), passed).0.granted, 27);
    }

    #[test]
    fn what_a_node_says_twice_counts_once() {
        let mut lease = Lease { granted: 10, returned: 3, shipped: 4 };
        let held = Holding { period: EpochMs(0), returned: 5, granted: 12 };
        assert!(lease.hear(&held) && !lease.hear(&held));
        assert_eq!(lease, Lease { granted: 12, returned: 5, shipped: 4 });
        assert!(lease.hear(&Holding { granted: 9, ..held }), "it has never heard of the rest");
        assert_eq!(lease.outstanding(), 0);
    }
}
