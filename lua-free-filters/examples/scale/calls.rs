//! Calls: they arrive, wait for a slice of their rate or for credit if the node has none, are refused or run, and are charged.

use crate::node::{Call, Quota};
use crate::world::{Event, World};
use filters::denied::{LimitSource, Owner};
use filters::id::QuotaId;
use filters::lease::Terms;
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::quota::{Chain, Reservation, Spend, Take};
use filters::window::Window;
use std::sync::Arc;

/// What calls set aside, in nano-USD: a tenth of a cent to two cents. They are charged a part of it.
const ESTIMATE: (i64, i64) = (1_000_000, 20_000_000);
const CHARGE_MEAN: f64 = 5_250_000.0;
/// A limit is so many times what is expected to be charged in the whole run: some hold, most are far.
const KEY_LIMITS: [f64; 5] = [0.5, 0.9, 1.5, 4.0, 20.0];
const ORG_LIMITS: [f64; 3] = [0.8, 2.0, 10.0];
/// How often a call asks for a slice that others may snatch away, as the gateway has it.
const ASKS_MAX: u32 = 16;
/// Journals are shipped so often.
const SHIP_US: u64 = 200_000;

/// A call in progress.
pub(crate) struct Running {
    reservation: Reservation,
    quotas: [QuotaId; 2],
    call: Call,
}

impl World {
    pub(crate) fn arrive(&mut self) {
        let key = self.keys.rank(&mut self.random);
        let estimate = self.random.between(ESTIMATE.0, ESTIMATE.1);
        let charge = self.random.between(1, estimate);
        let lasts_us = self.random.pause_us(0.5);
        let quotas = self.rows_of(key);
        for (row, quota) in quotas.into_iter().zip([Quota::Key(key), Quota::Org(self.org_of(key))]) {
            let limit = self.limit(quota);
            self.oracle.know(row, limit);
        }
        let minute = self.minute();
        let rate = (key, minute, self.rate_limit(key));
        let is_due = self.oracle.has_room(rate) && self.oracle.admit(quotas, estimate);
        if is_due {
            self.oracle.count(rate);
            self.plan(lasts_us, Event::OracleEnd(quotas, charge - estimate));
        }
        self.second.calls += 1;
        self.second.undue += u64::from(!is_due);
        let call = Call { key, estimate, charge, lasts_us, is_due, asks_left: ASKS_MAX, has_asked: false };
        let node = self.node_of(&call);
        self.admit(node, call);
    }

    /// As the gateway admits: it looks, asks for what is missing, of credit once, and looks again.
    pub(crate) fn admit(&mut self, node: u32, mut call: Call) {
        let (now, chain) = (self.now(), self.chain(node, call.key));
        let take = Take { model: "m", estimate: NanoUsd(call.estimate), bound: None, tokens: 0 };
        let refused = match chain.reserve(&take, now) {
            Ok(reservation) => return self.begin(node, call, reservation),
            Err(refused) => refused,
        };
        // Nothing happens between the refusal and this, so there is something to ask for or no use in it.
        let short = chain.short_of_rates(&take, &refused, now).unwrap_or_default();
        if call.asks_left > 0 && !short.is_empty() {
            self.second.waited_for_rates += u64::from(call.asks_left == ASKS_MAX);
            call.asks_left -= 1;
            return self.want_rates(node, short.into_iter().map(|short| (short.rate, short.amount, Some(call))));
        }
        match chain.short_of(&take, &refused, now).filter(|_| !std::mem::replace(&mut call.has_asked, true)) {
            Some(wants) if wants.is_empty() => self.admit(node, call),
            Some(wants) => {
                self.second.waited += 1;
                let waits_at = &mut self.nodes[node as usize];
                waits_at.wants.extend(wants);
                waits_at.waiting.push(call);
                self.ask(node);
            }
            None => {
                self.second.refused += 1;
                self.second.needless += u64::from(call.is_due);
            }
        }
    }

    fn begin(&mut self, node: u32, call: Call, reservation: Reservation) {
        let (quotas, rate) = (self.rows_of(call.key), (call.key, self.minute(), self.rate_limit(call.key)));
        self.truth.take(quotas, call.estimate);
        self.truth.count(rate);
        self.ledger.hold(2 * call.estimate);
        let running = Some(Running { reservation, quotas, call });
        let place = self.places.pop().unwrap_or(self.running.len());
        match self.running.get_mut(place) {
            Some(free) => *free = running,
            None => self.running.push(running),
        }
        self.plan(call.lasts_us, Event::End(node, place));
    }

    pub(crate) fn end(&mut self, node: u32, place: usize) {
        let Running { reservation, quotas, call } = self.running[place].take().expect("a call ends once");
        self.places.push(place);
        let shares: Vec<Share> = reservation.shares();
        reservation.settle(NanoUsd(call.charge), 0);
        self.truth.take(quotas, call.charge - call.estimate);
        self.ledger.hold(2 * (call.charge - call.estimate));
        let unshipped = &mut self.nodes[node as usize].unshipped;
        let is_first = unshipped.is_empty();
        unshipped.extend(shares.into_iter().map(|share| (share, call.charge)));
        if is_first {
            self.plan(SHIP_US, Event::Shipment(node));
        }
    }

    fn rows_of(&self, key: u64) -> [QuotaId; 2] {
        [self.row(Quota::Key(key)), self.row(Quota::Org(self.org_of(key)))]
    }

    /// The quotas of a key as the node has them in memory, from the books if it has not.
    fn chain(&mut self, node: u32, key: u64) -> Arc<Chain> {
        if let Some(chain) = self.nodes[node as usize].chains.get(&key) {
            return Arc::clone(chain);
        }
        self.second.loads += 1;
        let org = self.org_of(key);
        let balance = match self.nodes[node as usize].balances.get(&org) {
            Some(balance) => Arc::clone(balance),
            None => {
                let balance = self.spend(Quota::Org(org));
                self.nodes[node as usize].balances.insert(org, Arc::clone(&balance));
                balance
            }
        };
        let (rates, spend) = (vec![self.rate(node, key)], vec![self.spend(Quota::Key(key)), balance]);
        let chain = Arc::new(Chain { rates, spend, ..Chain::default() });
        self.nodes[node as usize].chains.insert(key, Arc::clone(&chain));
        chain
    }

    fn spend(&mut self, quota: Quota) -> Arc<Spend> {
        let (row, limit, now) = (self.row(quota), self.limit(quota), self.now());
        let terms = Terms::elastic(NanoUsd(limit));
        if self.truth.know(row, limit) {
            self.ledger.authority.set(row, Window::Total, terms);
        }
        let source = match quota {
            Quota::Key(_) | Quota::Rate(_) => LimitSource::Spend(Owner::Key),
            Quota::Org(_) => LimitSource::OrganisationBalance,
        };
        let spent = NanoUsd(self.ledger.authority.standing(row, now).0);
        Arc::new(Spend::new(row, source, Window::Total, terms, (spent, now)))
    }

    /// What there is of a quota, in proportion to what is expected to be asked of it.
    fn limit(&self, quota: Quota) -> i64 {
        let calls = (self.settings.calls_per_second * self.settings.seconds) as f64;
        let salt = 0x6c69_6d74;
        let (share, times) = match quota {
            Quota::Key(key) | Quota::Rate(key) => (self.keys.share(key), self.chosen(key ^ salt, &KEY_LIMITS)),
            Quota::Org(org) => (self.demand[org as usize - 1], self.chosen(org ^ salt, &ORG_LIMITS)),
        };
        (share * calls * CHARGE_MEAN * times).max(self.settings.limit_min as f64) as i64
    }
}
