//! Leases: nodes ask, the authority meets them by its book, holders give back what others want, and journals are shipped.

use crate::node::Quota;
use crate::world::{Event, World};
use filters::id::QuotaId;
use filters::lease::{self, Ask, Reply};
use filters::memory::MemoryAuthority;
use filters::money::NanoUsd;
use filters::ports::Want;
use filters::time::EpochMs;
use std::collections::HashMap;

/// From a node to the authority, or back, with half of the transaction.
const ONE_WAY_US: u64 = 1_000;
/// Nodes look so often at what has changed.
const POLL_US: u64 = 250_000;
/// What is wanted is not said again sooner.
const WANTED_MS: i64 = 250;

/// What the authority knows, and what is counted of it.
pub(crate) struct Ledger {
    pub(crate) authority: MemoryAuthority,
    /// Out of the authority's hands, by node and quota; and all of it.
    outstanding: HashMap<QuotaId, HashMap<u32, i64>>,
    leased: i64,
    /// Of that, set aside for calls, or charged and not shipped.
    held: i64,
    wanted: HashMap<QuotaId, EpochMs>,
    /// Asks for each row in this second.
    asks: HashMap<QuotaId, u64>,
}

impl Ledger {
    pub(crate) fn of(nodes: u32) -> Self {
        let mut authority = MemoryAuthority::default();
        authority.nodes = nodes;
        let (outstanding, wanted, asks) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { authority, outstanding, leased: 0, held: 0, wanted, asks }
    }

    /// Leased, and neither set aside nor charged.
    pub(crate) fn idle(&self) -> i64 {
        self.leased - self.held
    }

    pub(crate) fn hold(&mut self, amount: i64) {
        self.held += amount;
    }

    /// The asks for the row that most was asked of.
    pub(crate) fn take_busiest(&mut self) -> u64 {
        std::mem::take(&mut self.asks).into_values().max().unwrap_or(0)
    }

    fn meet(&mut self, node: u32, ask: &Ask, now: EpochMs) -> Reply {
        let reply = self.authority.lease(node, ask, now).expect("a quota that a node has in memory");
        let after = reply.leases.iter().map(|(_, lease)| lease.outstanding()).sum();
        let before = self.outstanding.entry(ask.quota).or_default().insert(node, after).unwrap_or(0);
        self.leased += after - before;
        *self.asks.entry(ask.quota).or_default() += 1;
        reply
    }

    /// Who holds what a refused node wants; nobody if they have just been told.
    fn holders(&mut self, node: u32, (ask, reply): (&Ask, &Reply), now: EpochMs) -> Vec<u32> {
        let is_told = self.wanted.get(&ask.quota).is_some_and(|at| now.0 - at.0 < WANTED_MS);
        if !reply.is_wanted || is_told {
            return Vec::new();
        }
        self.wanted.insert(ask.quota, now);
        let holds = |(holder, amount): (&u32, &i64)| (*holder != node && *amount > 0).then_some(*holder);
        let mut holders: Vec<u32> = self.outstanding.get(&ask.quota).into_iter().flatten().filter_map(holds).collect();
        holders.sort_unstable();
        holders
    }
}

impl World {
    /// Opens the node's next transaction, if somebody waits for one and none is open.
    pub(crate) fn ask(&mut self, node: u32) {
        let now = self.now();
        if self.nodes[node as usize].open_transaction(|wants| lease::asks(wants.iter(), now)) {
            self.plan(ONE_WAY_US, Event::Transaction(node));
        }
    }

    pub(crate) fn transact(&mut self, node: u32) {
        let now = self.now();
        let asks: Vec<Ask> = self.nodes[node as usize].asks.iter().map(|(_, ask)| ask.clone()).collect();
        self.second.transactions += 1;
        self.second.asks += asks.len() as u64;
        let mut replies = Vec::with_capacity(asks.len());
        for ask in &asks {
            let reply = self.ledger.meet(node, ask, now);
            let quota = self.quota_of(ask.quota);
            for holder in self.ledger.holders(node, (ask, &reply), now) {
                let in_us = self.random.between(0, POLL_US as i64).unsigned_abs();
                self.plan(in_us, Event::Wanted(holder, quota));
            }
            replies.push(reply);
        }
        self.plan(ONE_WAY_US, Event::Answer(node, replies));
    }

    pub(crate) fn answer(&mut self, node: u32, replies: &[Reply]) {
        let served = self.nodes[node as usize].close_transaction(replies);
        served.into_iter().for_each(|call| self.admit(node, call));
        self.ask(node);
    }

    pub(crate) fn give_back(&mut self, node: u32, quota: Quota) {
        let Some(spend) = self.nodes[node as usize].find(quota).cloned() else { return };
        spend.give_back();
        self.nodes[node as usize].wants.push(Want { spend, amount: NanoUsd::ZERO, at: None });
        self.ask(node);
    }

    pub(crate) fn ship(&mut self, node: u32) {
        let charges = std::mem::take(&mut self.nodes[node as usize].unshipped);
        self.second.shipments += 1;
        for (share, charge) in charges {
            self.ledger.authority.ship(node, share, NanoUsd(charge));
            self.ledger.held -= charge;
            self.ledger.leased -= charge;
            let of_quota = self.ledger.outstanding.get_mut(&share.quota).expect("what is charged was leased");
            *of_quota.get_mut(&node).expect("what is charged was leased") -= charge;
        }
    }
}
