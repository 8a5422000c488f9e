//! Credit for the quotas of this node. Calls that find none wait for the node's next lease transaction; one is open at a time,
//! and it serves all who wait. What is decided is `filters::lease`; its rows are in `leases/books.rs`.

mod books;
#[cfg(test)]
pub(super) mod tests;

use super::batches::Batches;
use super::engine::{self, On, is_worth_another_try};
use super::key_cache::lock;
use super::live_quotas::LiveQuotas;
use super::{Connection, Engine, LIST_MAX, Rows, Store, StoreError, nodes};
use crate::{clock, crash};
use async_trait::async_trait;
use books::Books;
use filters::id::QuotaId;
use filters::lease::{self, Ask, Lease, Reply};
use filters::money::NanoUsd;
use filters::ports::{Authority, Share, StoreUnavailable, Want};
use filters::quota::Spend;
use sqlx::{QueryBuilder, Row};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Where several nodes share the authority, a node begins so many transactions a second at the most, and half of them at once.
/// Only full ones don't wait.
const TRANSACTIONS_PER_SECOND_MAX: u32 = 20;
/// How often a node says that it is there, whatever it asks.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Where this node's credit comes from. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Leases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    node: String,
    quotas: Arc<Mutex<LiveQuotas>>,
    waiting: Batches<Waiting>,
    /// When the transactions of the last second began.
    begun: Mutex<Begun>,
    /// When the node last said that it is there.
    beaten: Mutex<Instant>,
    is_forgotten: AtomicBool,
    transactions: AtomicU64,
    /// Nodes among which the authority shares, as of the last transaction.
    nodes: AtomicU32,
}

#[derive(Debug)]
struct Waiting {
    wants: Vec<Want>,
    /// Quotas that other nodes want.
    wanted: Vec<QuotaId>,
    done: oneshot::Sender<Result<(), StoreUnavailable>>,
}

impl Waiting {
    fn quotas(&self) -> usize {
        self.wants.len() + self.wanted.len()
    }
}

/// What one transaction is about.
struct Business {
    asks: Vec<(Arc<Spend>, Ask)>,
    /// Quotas that are wanted and not in use here.
    unused: Vec<QuotaId>,
}

impl Business {
    /// Whether it is about what was charged without a limit.
    fn covers(&self) -> bool {
        self.asks.iter().any(|(_, ask)| ask.uncovered.is_some())
    }
}

impl Leases {
    /// Enters the node among those that may ask, for the quotas in use. To be called when none of its calls is running and all
    /// are on the books.
    pub(super) async fn new(store: Store, node: &str, quotas: Arc<Mutex<LiveQuotas>>) -> Result<Self, StoreError> {
        nodes::enter(&store, node).await?;
        store.tell_of_bookings(node, &quotas);
        let shared = Shared {
            store,
            node: node.to_owned(),
            quotas,
            waiting: Batches::default(),
            begun: Mutex::default(),
            beaten: Mutex::new(Instant::now()),
            is_forgotten: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
            nodes: AtomicU32::new(1),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Transactions that have been begun, for metrics.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.shared.transactions.load(Relaxed)
    }

    /// Says, now and then, that this node is there.
    pub(super) async fn beat(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if lock(&shared.beaten).elapsed() < HEARTBEAT || shared.is_forgotten.load(Relaxed) {
            return Ok(());
        }
        let mut transaction = shared.store.database.write().await?;
        let now = engine::now(&mut transaction).await?;
        let beaten = nodes::beat(&mut transaction, &shared.node, now).await;
        shared.note(beaten.as_ref().err());
        transaction.commit().await?;
        Ok(())
    }

    /// Gives back what this node does not need of quotas that are wanted.
    pub(super) async fn give_back(&self, wanted: Vec<QuotaId>) -> Result<(), StoreUnavailable> {
        if wanted.is_empty() || self.shared.is_forgotten.load(Relaxed) {
            return Ok(());
        }
        self.shared.join(Vec::new(), wanted).await
    }

    /// Gives everything back. To be called when no call can come any more and all are on the books. Where one has not ended, its
    /// node goes on holding what it holds: the next process closes the call.
    pub async fn stop(&self) -> Result<(), StoreError> {
        if lock(&self.shared.quotas).is_idle() {
            nodes::stop(&self.shared.store, &self.shared.node).await
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Authority for Leases {
    async fn lease(&self, wants: Vec<Want>) -> Result<(), StoreUnavailable> {
        if self.shared.is_forgotten.load(Relaxed) {
            return Err(StoreUnavailable);
        }
        self.shared.join(wants, Vec::new()).await
    }

    fn is_shared(&self) -> bool {
        self.shared.store.is_shared()
    }
}

impl Shared {
    /// Joins those who wait for the next transaction, and waits for its end.
    async fn join(self: &Arc<Self>, wants: Vec<Want>, wanted: Vec<QuotaId>) -> Result<(), StoreUnavailable> {
        let (done, answer) = oneshot::channel();
        if self.waiting.join(Waiting { wants, wanted, done }) {
            // A task of its own: a caller who leaves must not take the answer of the others along.
            tokio::spawn(Arc::clone(self).serve());
        }
        answer.await.unwrap_or(Err(StoreUnavailable))
    }

    async fn serve(self: Arc<Self>) {
        let mut serving = self.waiting.serve();
        loop {
            let waits = self.waiting.weight(Waiting::quotas);
            let pause = lock(&self.begun).pause(waits, self.nodes.load(Relaxed));
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let Some(batch) = serving.next_batch(LIST_MAX, Waiting::quotas) else { return };
            lock(&self.begun).0.push_back(Instant::now());
            let served = self.transact(&batch).await;
            if let Err(cause) = &served {
                tracing::warn!(%cause, waiting = batch.len(), "no credit can be leased; calls go on with what there is");
            }
            self.note(served.as_ref().err());
            for waiting in batch {
                // A caller who has left needs no answer.
                let _ = waiting.done.send(if served.is_ok() { Ok(()) } else { Err(StoreUnavailable) });
            }
        }
    }

    /// Takes in how a word with the authority ended.
    fn note(&self, failed: Option<&StoreError>) {
        match failed {
            None => *lock(&self.beaten) = Instant::now(),
            Some(cause @ StoreError::Forgotten(_)) => {
                // First nobody asks any more, then nobody takes.
                if !self.is_forgotten.swap(true, Relaxed) {
                    tracing::error!(%cause, "this node admits no calls any more");
                }
                lock(&self.quotas).suspend();
            }
            Some(_) => {}
        }
    }

    async fn transact(&self, batch: &[Waiting]) -> Result<(), StoreError> {
        let mut business = self.business_of(batch);
        let mut bookings = None;
        if business.covers() {
            // What is covered must not come on the books meanwhile: it would be there and set aside.
            bookings = Some(self.store.database.in_time(self.store.hold_bookings(&self.node)).await?);
            business = self.business_of(batch);
        }
        let mut tries = 1;
        let replies = loop {
            let decided = self.store.database.in_time(self.decide(&business)).await;
            if !is_worth_another_try(&decided, &mut tries).await {
                break decided?;
            }
        };
        for ((spend, ask), reply) in business.asks.iter().zip(&replies) {
            reply.iter().for_each(|reply| spend.apply(ask, reply));
        }
        drop(bookings);
        Ok(())
    }

    /// What those who wait need of the authority, and what it wants of this node. To be asked when no transaction is open:
    /// then nothing was granted that has not been taken in.
    fn business_of(&self, batch: &[Waiting]) -> Business {
        let (mut returning, mut unused) = (Vec::new(), Vec::new());
        let quotas = lock(&self.quotas);
        for id in batch.iter().flat_map(|waiting| &waiting.wanted) {
            match quotas.leased(*id) {
                Some(spend) => {
                    spend.give_back();
                    returning.push(Want { spend, amount: NanoUsd::ZERO, at: None });
                }
                None => unused.push(*id),
            }
        }
        drop(quotas);
        let wants = batch.iter().flat_map(|waiting| &waiting.wants).chain(&returning);
        unused.sort_unstable();
        unused.dedup();
        Business { asks: lease::asks(wants, clock::now()), unused }
    }

    /// One lease transaction. Where its reply is lost, it may have happened all the same; the next ask says what this node
    /// knows of, and the rest is taken back.
    async fn decide(&self, business: &Business) -> Result<Vec<Option<Reply>>, StoreError> {
        self.transactions.fetch_add(1, Relaxed);
        let mut transaction = self.store.database.write().await?;
        let now = engine::now(&mut transaction).await?;
        let nodes = nodes::attend(&mut transaction, &self.node, now).await?;
        let mut books = Books::open(&mut transaction, (&self.node, nodes), business, now).await?;
        let replies = business.asks.iter().map(|(_, ask)| books.meet(&self.node, ask, now)).collect();
        books.write(&mut transaction, &self.node, now).await?;
        crash::point("before-lease");
        transaction.commit().await?;
        crash::point("after-lease");
        self.nodes.store(nodes, Relaxed);
        Ok(replies)
    }
}

/// When transactions began.
#[derive(Debug, Default)]
struct Begun(VecDeque<Instant>);

impl Begun {
    /// How long the next transaction is to wait, for which so many quotas wait. Who comes meanwhile is served by it too.
    fn pause(&mut self, waits: usize, nodes: u32) -> Duration {
        let second = Duration::from_secs(1);
        while self.0.front().is_some_and(|begun| begun.elapsed() >= second) {
            self.0.pop_front();
        }
        let (count, most) = (self.0.len() as u32, TRANSACTIONS_PER_SECOND_MAX);
        // A sole node is granted all that there is: it seldom comes back.
        if nodes <= 1 || waits >= LIST_MAX || count < most / 2 {
            return Duration::ZERO;
        }
        let apart = second / most;
        let last = self.0.back().map_or(second, Instant::elapsed);
        let first = self.0.front().map_or(second, Instant::elapsed);
        if count >= most {
            (second - first.min(second)).max(apart.saturating_sub(last))
        } else {
            apart.saturating_sub(last)
        }
    }
}

/// Moves what was shipped of this node's leases, together with what was spent. Where there is no lease there is no limit, and
/// nothing to move.
pub(super) async fn ship(
    connection: &mut Connection,
    node: &str,
    is_forgotten: bool,
    sums: &[(Share, i64)],
) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("WITH moved (quota, period_ms, amount) AS (");
    query.push_values(sums, |mut row, (share, amount)| {
        row.push_bind(share.quota.0).push_bind(share.period.0).push_bind(*amount);
    });
    query.push(") UPDATE leases SET ");
    // Stops at the largest amount, as what was spent does. A forgotten node holds nothing: what it ships all the same, it is
    // taken to have been granted.
    for (place, column) in ["shipped", "granted"].into_iter().take(1 + usize::from(is_forgotten)).enumerate() {
        query.push(if place == 0 { "" } else { ", " });
        query.push(format_args!(
            "{column} = CASE WHEN moved.amount > 0 AND leases.{column} > 9223372036854775807 - moved.amount \
             THEN 9223372036854775807 ELSE leases.{column} + moved.amount END"
        ));
    }
    query
        .push(" FROM moved WHERE leases.quota = moved.quota AND leases.period_ms = moved.period_ms AND leases.node = ");
    query.push_bind(node);
    query.on(connection).execute(connection).await?;
    Ok(())
}

pub(super) fn read_lease(row: &Rows) -> Result<Lease, StoreError> {
    Ok(Lease { granted: row.try_get("granted")?, returned: row.try_get("returned")?, shipped: row.try_get("shipped")? })
}
