//! What the quotas in memory are told of their node's charges once these are on the books. The authority says so only of what was
//! leased: what was charged before there was a limit, the node counts itself.

use super::Held;
use crate::store::key_cache::lock;
use crate::store::live_quotas::LiveQuotas;
use crate::store::{Store, StoreError};
use filters::ports::Share;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::MutexGuard;

/// Charges that a merge added to the sums on the books.
#[derive(Debug, Default)]
pub(in crate::store) struct Booked {
    /// Whose they are.
    pub(super) node: String,
    /// The mark before the merge and after it.
    pub(super) marks: (i64, i64),
    /// All of them.
    pub(in crate::store) charges: Vec<(Share, i64)>,
    /// Those of them that came when their calls had ended with an earlier process.
    pub(in crate::store) late: Vec<(Share, i64)>,
}

impl Booked {
    /// Whether they are on the books, by the mark that was read there. Where nothing but late ones were added, it can't tell.
    pub(super) fn is_below(&self, mark: i64) -> bool {
        let (before, after) = self.marks;
        before < after && after <= mark
    }
}

/// The quotas of nodes, by the nodes' names.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<HashMap<String, Weak<Mutex<LiveQuotas>>>>);

impl Listeners {
    pub(super) fn tell(&self, booked: &Booked) {
        let quotas = lock(&self.0).get(&booked.node).and_then(Weak::upgrade);
        quotas.iter().for_each(|quotas| lock(quotas).book(booked));
    }
}

impl Store {
    /// Has a node's quotas told what comes on the books from now on. To be called when all that was charged is there.
    pub(in crate::store) fn tell_of_bookings(&self, node: &str, quotas: &Arc<Mutex<LiveQuotas>>) {
        lock(&self.ledger.listeners.0).insert(node.to_owned(), Arc::downgrade(quotas));
    }

    /// Waits until the node's quotas know all that is on the books of it; as long as what this gives is held, nothing comes there.
    pub(in crate::store) async fn hold_bookings(&self, node: &str) -> Result<MutexGuard<'_, impl Sized>, StoreError> {
        let mut held: MutexGuard<'_, Held> = self.ledger.held.lock().await;
        if held.doubtful.is_some() {
            self.merge_once(node, &mut held).await?;
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::fixture::{self, Books, NOW};
    use crate::store::journal::Checkpoint;
    use crate::store::leases::tests::{COST, Node, limit, outstanding};
    use crate::store::limits::{Amount, LimitChange, Owner};
    use crate::store::quotas::QuotaKind;
    use filters::money::NanoUsd;

    /// Two calls without a limit, of which the second was committed and nobody knows it. Then there is a limit.
    async fn covered_after(marks: (i64, i64)) -> i64 {
        let books = Books::open().await;
        let unlimited = LimitChange::of(QuotaKind::Spend, Amount::None);
        books.store.change_limits(Owner::Key(books.key), &[unlimited], NOW).await.expect("removed");
        let node = Node::open(&books, "a").await;
        let other = fixture::open(books.dir.path()).await;
        for (number, store) in [&books.store, &other].into_iter().enumerate() {
            node.reserve(COST).await.expect("there is no limit").settle(NanoUsd(COST), 0);
            let call = books.call(number as u128, 10, 5);
            store.ship("a", std::slice::from_ref(&call), Checkpoint::default()).await.expect("shipped");
            let charges = call.0.shares.iter().map(|share| (*share, COST)).collect();
            let doubtful = Booked { node: "a".to_owned(), marks, charges, late: Vec::new() };
            if number == 1 {
                *books.store.ledger.held.lock().await = Held { pending: None, doubtful: Some(doubtful) };
            }
        }
        let quota = limit(&books, QuotaKind::Spend, 2 * COST).await;
        node.tick().await;
        assert!(node.reserve(1).await.is_err(), "all is spent");
        assert_eq!(node.key.chain.spend[0].terms().limit_at(clock::now()), NanoUsd(2 * COST));
        outstanding(&books, "a", quota).await
    }

    #[tokio::test]
    async fn what_was_committed_without_an_answer_is_told_when_the_mark_says_so() {
        assert_eq!(covered_after((1, 2)).await, 0);
        // Had it been another's, which is not there, it would be covered still.
        assert_eq!(covered_after((2, 3)).await, COST);
    }
}
