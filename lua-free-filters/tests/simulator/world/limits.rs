//! The quotas, and how their limits change.

use super::World;
use crate::truth::Quota;
use filters::id::QuotaId;
use filters::lease::{Increase, Terms};
use filters::money::NanoUsd;
use filters::window::{Unit, Window};
use std::collections::BTreeMap;

impl World {
    pub(super) fn make_quotas(&mut self) {
        let zone = "Europe/Berlin".parse().expect("a zone");
        let calendar = Window::Calendar { unit: Unit::Minute, zone };
        for (place, window) in [Window::Total, Window::Rolling(Unit::Minute), calendar].iter().enumerate() {
            for is_strict in [true, false] {
                let id = QuotaId(1 + 2 * place as i64 + i64::from(is_strict));
                let (terms, counts) = (Vec::new(), BTreeMap::new());
                let mut quota = Quota { id, window: window.clone(), is_strict, terms, counts, unbound: 0 };
                let terms = self.any_terms(&quota);
                self.authority.set(id, window.clone(), terms);
                quota.terms.push((self.now, terms));
                self.quotas.push(quota);
            }
        }
        for _ in 0..3 {
            let mut chain: Vec<usize> = (0..self.quotas.len()).filter(|_| self.random.once_in(2)).collect();
            chain.truncate(4);
            self.chains.push(chain);
        }
        self.chains.push(vec![self.random.between(0, 5) as usize]);
        self.chains.retain(|chain| !chain.is_empty());
    }

    /// A limit, now and then with more for a while; or none.
    fn any_terms(&mut self, quota: &Quota) -> Terms {
        let limit = NanoUsd(self.random.between(50, 500));
        let is_strict = quota.is_strict;
        if quota.window == Window::Total && self.random.once_in(3) {
            return Terms { limit: NanoUsd::MAX, is_strict, increase: None };
        }
        let until = self.soon(500, 40_000);
        let increase = Increase { amount: NanoUsd(self.random.between(20, 200)), until };
        Terms { limit, is_strict, increase: self.random.once_in(3).then_some(increase) }
    }

    pub(super) fn change_limit(&mut self) {
        let place = self.random.place_in(&self.quotas);
        let quota = self.quotas.remove(place);
        let terms = self.any_terms(&quota);
        self.quotas.insert(place, quota);
        let quota = &mut self.quotas[place];
        quota.terms.push((self.now, terms));
        self.authority.set(quota.id, quota.window.clone(), terms);
    }
}
