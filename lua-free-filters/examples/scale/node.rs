//! A node: the quotas that it has in memory, the calls that wait for its next lease transaction or for Redis, and what it has to ship.

use crate::rates::Exchanges;
use filters::lease::{Ask, Reply};
use filters::ports::{Share, Want};
use filters::quota::{Chain, Peers, Spend};
use std::collections::HashMap;
use std::sync::Arc;

/// A call, before it is admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) key: u64,
    pub(crate) estimate: i64,
    pub(crate) charge: i64,
    pub(crate) lasts_us: u64,
    /// Whether it is admitted where everything is known.
    pub(crate) is_due: bool,
    /// How often it may still ask for a slice of its rate, and whether it has asked for credit.
    pub(crate) asks_left: u32,
    pub(crate) has_asked: bool,
}

pub(crate) struct Node {
    pub(crate) peers: Arc<Peers>,
    pub(crate) exchanges: Exchanges,
    pub(crate) chains: HashMap<u64, Arc<Chain>>,
    /// Of organisations: all of their keys share one.
    pub(crate) balances: HashMap<u64, Arc<Spend>>,
    /// What calls, or other nodes, want of the next transaction.
    pub(crate) wants: Vec<Want>,
    pub(crate) waiting: Vec<Call>,
    /// The open transaction: what it asks for, and whom it serves.
    pub(crate) asks: Vec<(Arc<Spend>, Ask)>,
    pub(crate) served: Vec<Call>,
    pub(crate) is_asking: bool,
    pub(crate) unshipped: Vec<(Share, i64)>,
    /// Its transactions in the second that is simulated.
    pub(crate) transactions: u64,
}

impl Node {
    /// One of so many.
    pub(crate) fn of(nodes: u32) -> Self {
        Self {
            peers: Arc::new(Peers::new(nodes)),
            exchanges: Exchanges::default(),
            chains: HashMap::new(),
            balances: HashMap::new(),
            wants: Vec::new(),
            waiting: Vec::new(),
            asks: Vec::new(),
            served: Vec::new(),
            is_asking: false,
            unshipped: Vec::new(),
            transactions: 0,
        }
    }

    /// Begins a transaction for all who wait, if none is open. Says whether there is one to send.
    pub(crate) fn open_transaction(&mut self, asks: impl FnOnce(&[Want]) -> Vec<(Arc<Spend>, Ask)>) -> bool {
        if self.is_asking || self.wants.is_empty() {
            return false;
        }
        self.is_asking = true;
        self.transactions += 1;
        self.asks = asks(&self.wants);
        self.wants.clear();
        self.served = std::mem::take(&mut self.waiting);
        true
    }

    /// Takes in what the authority answered. Says who was waiting for it.
    pub(crate) fn close_transaction(&mut self, replies: &[Reply]) -> Vec<Call> {
        self.is_asking = false;
        for ((spend, ask), reply) in self.asks.drain(..).zip(replies) {
            spend.apply(&ask, reply);
        }
        std::mem::take(&mut self.served)
    }

    /// The quota as it is in memory here.
    pub(crate) fn find(&self, quota: Quota) -> Option<&Arc<Spend>> {
        match quota {
            Quota::Key(key) => self.chains.get(&key).and_then(|chain| chain.spend.first()),
            Quota::Org(org) => self.balances.get(&org),
            Quota::Rate(_) => None,
        }
    }
}

/// Whose quota it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quota {
    Key(u64),
    Org(u64),
    Rate(u64),
}
