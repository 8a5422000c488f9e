//! What was really set aside and charged, counted plainly, and what may never be.

use crate::node::Part;
use filters::id::QuotaId;
use filters::lease::Terms;
use filters::ports::Share;
use filters::time::EpochMs;
use filters::window::Window;
use std::collections::BTreeMap;

/// A period of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) charged: i64,
    pub(crate) set_aside: i64,
    /// Charged beyond what was set aside.
    pub(crate) excess: i64,
}

/// A quota with all the terms that it ever had.
pub(crate) struct Quota {
    pub(crate) id: QuotaId,
    pub(crate) window: Window,
    pub(crate) is_strict: bool,
    pub(crate) terms: Vec<(EpochMs, Terms)>,
    pub(crate) counts: BTreeMap<EpochMs, Count>,
    /// Charged or set aside by nodes that knew of no limit.
    pub(crate) unbound: i64,
}

impl Quota {
    pub(crate) fn current(&self) -> Terms {
        self.terms.last().expect("a quota has terms").1
    }

    pub(crate) fn share(&self, period: EpochMs) -> Share {
        Share { quota: self.id, period }
    }

    pub(crate) fn count(&mut self, period: EpochMs) -> &mut Count {
        self.counts.entry(period).or_default()
    }

    /// The highest limit in force at any moment from the one to the other.
    fn limit_max(&self, from: EpochMs, to: EpochMs) -> i64 {
        let ends = self.terms.iter().skip(1).map(|(start, _)| *start).chain([EpochMs(i64::MAX)]);
        let known = self.terms.iter().zip(ends).filter(|((start, _), end)| *start <= to && *end > from);
        known.map(|((start, terms), _)| terms.limit_at(*start.max(&from)).0).max().unwrap_or(0)
    }

    /// Sets an amount aside for a call of a node that last looked at the terms at `seen`: with it, no window that counts may be
    /// past the limit by more than calls exceeded.
    pub(crate) fn set_aside(&mut self, period: EpochMs, amount: i64, (seen, now): (EpochMs, EpochMs)) {
        self.count(period).set_aside += amount;
        let limit = self.limit_max(seen, now);
        let last = match &self.window {
            Window::Rolling(unit) => period.plus(unit.length_ms()),
            Window::Total | Window::Calendar { .. } => period,
        };
        for (moment, _) in self.counts.range(period..=last) {
            let counted = self.counts.range(self.window.counted_from(*moment)..=*moment);
            let (sum, excess) = counted.fold((0, 0), |(sum, excess), (_, count)| {
                (sum + count.charged + count.set_aside, excess + count.excess)
            });
            let (id, window) = (self.id, &self.window);
            assert!(!self.is_strict || excess == 0, "{id:?}: a strict quota has no excess");
            assert!(
                sum <= limit.saturating_add(excess + self.unbound),
                "{id:?} ({window}, strict: {}) at {moment:?}: {sum} of {limit}, and {excess} exceeded, after {amount} in {period:?} at {now:?}",
                self.is_strict,
            );
        }
    }

    pub(crate) fn settle(&mut self, Part { share, amount, unbound, .. }: Part, charge: i64) {
        self.unbound -= unbound - unbound.min(charge);
        let count = self.count(share.period);
        count.set_aside -= amount;
        count.charged += charge;
        count.excess += (charge - amount).max(0);
    }
}
