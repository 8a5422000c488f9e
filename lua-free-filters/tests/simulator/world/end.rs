//! The end: what must be true when all are back.

use super::World;
use filters::lease::Needs;
use filters::money::NanoUsd;
use filters::quota::{Chain, Take};
use std::sync::Arc;

impl World {
    /// All are back, nothing runs, everything is shipped.
    pub(super) fn conclude(&mut self) {
        for quota in &self.quotas {
            for (period, count) in &quota.counts {
                assert_eq!(count.set_aside, 0, "{:?}: nothing runs any more", quota.id);
                let (share, charged) = (quota.share(*period), count.charged);
                let unaccounted = self.authority.unaccounted(share);
                assert_eq!(self.authority.spent(share) - unaccounted, charged, "{:?} in {period:?}", quota.id);
            }
        }
        // What a node gave back before its first lease, it says after it.
        for node in (0..self.nodes.len()).cycle().take(2 * self.nodes.len()) {
            self.tell(node, None);
        }
        for place in 0..self.quotas.len() {
            let quota = &self.quotas[place];
            let (id, limit) = (quota.id, quota.current().limit_at(self.now).0);
            let (spent, leased) = self.authority.standing(id, self.now);
            if limit == i64::MAX {
                continue;
            }
            let left = limit - spent;
            // A sole node is given all that is left, whenever it asks.
            let held = if self.authority.nodes == 1 { left.max(0) } else { 0 };
            assert_eq!(leased, held, "{id:?}: all has been given back");
            for node in 0..self.nodes.len() {
                let is_open = |world: &mut Self, amount| world.could_spend(node, place, amount);
                assert!(left <= 0 || is_open(self, left), "{id:?}: {node} can spend what is left, {left} of {limit}");
                assert!(!is_open(self, left.max(0) + 1), "{id:?}: {node} could spend more");
            }
        }
    }

    /// Gives everything back, and asks for what is wanted, without delay.
    fn tell(&mut self, node: usize, wanted: Option<(usize, i64)>) {
        let clock = self.clock(node);
        let process = self.nodes[node].process.as_ref().expect("all are back");
        for (place, spend) in process.spends.iter().enumerate() {
            spend.set_terms(self.quotas[place].current());
            spend.give_back();
            let amount = wanted.filter(|(of, _)| *of == place).map_or(0, |(_, amount)| amount);
            let ask = spend.ask(Needs::of_one(NanoUsd(amount)), None, clock);
            let reply = self.authority.lease(self.nodes[node].number, &ask, self.now).expect("a quota");
            spend.apply(&ask, &reply);
        }
    }

    fn could_spend(&mut self, node: usize, place: usize, amount: i64) -> bool {
        self.tell(node, Some((place, amount)));
        let process = self.nodes[node].process.as_ref().expect("all are back");
        let chain = Arc::new(Chain { spend: vec![Arc::clone(&process.spends[place])], ..Chain::default() });
        let take = Take { model: "m", estimate: NanoUsd(amount), bound: Some(NanoUsd(amount)), tokens: 0 };
        let is_taken = chain.reserve(&take, self.clock(node)).is_ok();
        self.tell(node, None);
        is_taken
    }
}
