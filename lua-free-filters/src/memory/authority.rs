//! The authority in memory.

use crate::id::QuotaId;
use crate::lease::{self, Ask, Book, Reply, Terms};
use crate::money::NanoUsd;
use crate::ports::{Authority, Share, StoreUnavailable, Want};
use crate::time::EpochMs;
use crate::window::Window;
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The authority's tables in memory: a book for each quota.
#[derive(Debug, Default)]
pub struct MemoryAuthority {
    /// Nodes that may ask.
    pub nodes: u32,
    quotas: HashMap<QuotaId, Book<u32>>,
    /// What forgotten nodes held and is counted as spent, as far as no charge has accounted for it.
    forgotten: HashMap<u32, HashMap<Share, i64>>,
}

impl MemoryAuthority {
    /// Makes a quota, or puts other terms in force.
    pub fn set(&mut self, quota: QuotaId, window: Window, terms: Terms) {
        self.quotas.entry(quota).or_insert_with(|| Book::new(window, terms)).terms = terms;
    }

    /// One lease transaction, for one quota. None of a quota that there is not, and for a node that was forgotten.
    pub fn lease(&mut self, node: u32, ask: &Ask, now: EpochMs) -> Option<Reply> {
        if self.is_forgotten(node) {
            return None;
        }
        let (reply, _) = self.quotas.get_mut(&ask.quota)?.meet((&node, self.nodes), ask, now);
        Some(reply)
    }

    /// Puts a charge of a node on the books.
    pub fn ship(&mut self, node: u32, share: Share, charge: NanoUsd) {
        if let Some(book) = self.quotas.get_mut(&share.quota) {
            let forgotten = self.forgotten.get_mut(&node);
            let is_forgotten = forgotten.is_some();
            let mut accounted = 0;
            if let Some(rest) = forgotten.and_then(|shares| shares.get_mut(&share)) {
                accounted = charge.0.clamp(0, *rest);
                *rest -= accounted;
            }
            *book.spent.entry(share.period).or_default() += charge.0 - accounted;
            let lease = book.leases.get_mut(&share.period).and_then(|nodes| nodes.get_mut(&node));
            lease.into_iter().for_each(|lease| {
                lease.shipped += charge.0;
                lease.granted += if is_forgotten { charge.0 } else { 0 };
            });
        }
    }

    /// Fences a node for good, and counts what it holds as spent.
    pub fn forget(&mut self, node: u32) {
        let shares = self.forgotten.entry(node).or_default();
        for (id, book) in &mut self.quotas {
            for (period, nodes) in &mut book.leases {
                let Some(lease) = nodes.get_mut(&node) else { continue };
                let held = lease.outstanding().max(0);
                lease.granted = lease.returned + lease.shipped;
                *book.spent.entry(*period).or_default() += held;
                shares.insert(Share { quota: *id, period: *period }, held);
            }
        }
    }

    /// Whether a node was forgotten.
    #[must_use]
    pub fn is_forgotten(&self, node: u32) -> bool {
        self.forgotten.contains_key(&node)
    }

    /// What is counted as spent of a quota in a period because nodes were forgotten, and no charge has accounted for.
    #[must_use]
    pub fn unaccounted(&self, share: Share) -> i64 {
        self.forgotten.values().filter_map(|shares| shares.get(&share)).sum()
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
        for (spend, ask) in lease::asks(wants.iter(), now) {
            let reply = authority.lease(0, &ask, now).ok_or(StoreUnavailable)?;
            spend.apply(&ask, &reply);
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}
