//! Credit for the quotas of this node. Calls that find none wait for the node's next lease transaction; one is open at a time,
//! and it serves all who wait. What is decided is `filters::lease`; here are its rows.

use super::{Connection, Engine, LIST_MAX, Rows, Store, StoreError, push_list, quotas};
use crate::store::engine::On;
use crate::{clock, crash};
use async_trait::async_trait;
use filters::id::QuotaId;
use filters::lease::{Ask, Book, Lease, Reply};
use filters::ports::{Authority, Share, StoreUnavailable, Want};
use filters::quota::Spend;
use filters::time::EpochMs;
use filters::window::Window;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Where this node's credit comes from. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Leases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    node: String,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    is_served: bool,
}

#[derive(Debug)]
struct Waiting {
    wants: Vec<Want>,
    done: oneshot::Sender<Result<(), StoreUnavailable>>,
}

impl Leases {
    /// Enters the node among those that may ask. To be called when none of its calls is running and all are on the books:
    /// then it holds no more than its leases leave it.
    ///
    /// What it charged beyond what it was granted was granted by books that are gone, where older ones were restored, or billed
    /// past what was set aside. Were the difference to stay below zero, it would count as credit for others; so it is taken
    /// as granted. What it charged under a lease that the restored books do not have counts as spent, like all it charged.
    pub async fn new(store: Store, node: &str) -> Result<Self, StoreError> {
        sqlx::query("UPDATE leases SET granted = returned + shipped WHERE node = $1 AND granted - returned < shipped")
            .bind(node)
            .execute(&store.database.writer)
            .await?;
        sqlx::query("INSERT INTO nodes (id, created_ms) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(node)
            .bind(clock::now().0)
            .execute(&store.database.writer)
            .await?;
        Ok(Self { shared: Arc::new(Shared { store, node: node.to_owned(), queue: Mutex::default() }) })
    }
}

#[async_trait]
impl Authority for Leases {
    async fn lease(&self, wants: Vec<Want>) -> Result<(), StoreUnavailable> {
        let (done, answer) = oneshot::channel();
        if self.shared.join(Waiting { wants, done }) {
            // A task of its own: a caller who leaves must not take the answer of the others along.
            tokio::spawn(Arc::clone(&self.shared).serve());
        }
        answer.await.unwrap_or(Err(StoreUnavailable))
    }
}

impl Shared {
    /// Joins those who wait. Says whether the caller has to start serving them.
    fn join(&self, waiting: Waiting) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(waiting);
        !std::mem::replace(&mut queue.is_served, true)
    }

    async fn serve(self: Arc<Self>) {
        while let Some(batch) = self.next_batch() {
            let served = self.store.database.in_time(self.transact(&batch)).await;
            if let Err(cause) = &served {
                tracing::warn!(%cause, waiting = batch.len(), "no credit can be leased; calls go on with what there is");
            }
            for waiting in batch {
                // A caller who has left needs no answer.
                let _ = waiting.done.send(if served.is_ok() { Ok(()) } else { Err(StoreUnavailable) });
            }
        }
    }

    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        let mut wants = 0;
        let fits = |waiting: &&Waiting| {
            wants += waiting.wants.len();
            wants <= LIST_MAX
        };
        let count = queue.waiting.iter().take_while(fits).count().max(queue.waiting.len().min(1));
        if count == 0 {
            // Said under the lock, so that whoever comes next starts another.
            queue.is_served = false;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn transact(&self, batch: &[Waiting]) -> Result<(), StoreError> {
        let now = clock::now();
        let asks = asks_of(batch, now);
        let mut transaction = self.store.database.write().await?;
        let mut books = Books::read(&mut transaction, &asks, now).await?;
        let replies: Vec<Option<Reply>> = asks.iter().map(|(_, ask)| books.meet(&self.node, ask, now)).collect();
        books.write(&mut transaction, &self.node).await?;
        crash::point("before-lease");
        transaction.commit().await?;
        crash::point("after-lease");
        for ((spend, ask), reply) in asks.iter().zip(&replies) {
            reply.iter().for_each(|reply| spend.apply(ask, reply));
        }
        Ok(())
    }
}

/// What is asked for each quota and period, for all who wait for it.
fn asks_of(batch: &[Waiting], now: EpochMs) -> Vec<(Arc<Spend>, Ask)> {
    let mut sums = BTreeMap::new();
    for want in batch.iter().flat_map(|waiting| &waiting.wants) {
        let period = want.at.map(|at| want.spend.window.span(at).start);
        let (_, sum) = sums.entry((want.spend.id, period)).or_insert((&want.spend, 0_i64));
        *sum = sum.saturating_add(want.amount.0);
    }
    let mut asks: Vec<(Arc<Spend>, Ask)> = Vec::with_capacity(sums.len());
    for ((id, at), (spend, sum)) in sums {
        let ask = spend.ask(sum, at, now);
        let is_first = asks.last().is_none_or(|(_, before)| before.quota != id);
        asks.push((Arc::clone(spend), if is_first { ask } else { ask.after_another() }));
    }
    asks
}

/// What the tables say of the quotas that are asked for.
#[derive(Default)]
struct Books {
    nodes: u32,
    books: HashMap<QuotaId, Book<String>>,
    /// Rows of this node that are to be written.
    changed: BTreeSet<(QuotaId, EpochMs)>,
}

impl Books {
    async fn read(connection: &mut Connection, asks: &[(Arc<Spend>, Ask)], now: EpochMs) -> Result<Self, StoreError> {
        let nodes: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM nodes").fetch_one(&mut *connection).await?;
        let mut books = Self { nodes: u32::try_from(nodes).unwrap_or(u32::MAX), ..Self::default() };
        // A quota may be asked for more than once: for its present period, and for those of running calls.
        let mut from: BTreeMap<QuotaId, (&Window, EpochMs)> = BTreeMap::new();
        for (spend, ask) in asks {
            let named = ask.holdings().map(|held| held.period);
            let counted = *spend.window.counted(ask.at.unwrap_or(now)).start();
            let (_, first) = from.entry(spend.id).or_insert((&spend.window, counted));
            *first = named.fold(counted.min(*first), EpochMs::min);
        }
        let all: Vec<QuotaId> = from.keys().copied().collect();
        for ids in all.chunks(LIST_MAX) {
            books.read_terms(connection, ids, &from).await?;
        }
        let (totals, windowed): (Vec<_>, Vec<_>) = from.iter().partition(|(_, (window, _))| **window == Window::Total);
        let totals: Vec<QuotaId> = totals.into_iter().map(|(id, _)| *id).collect();
        for ids in totals.chunks(LIST_MAX) {
            books.read_periods(connection, ids, EpochMs(0)).await?;
        }
        for (id, (_, first)) in windowed {
            books.read_periods(connection, &[*id], *first).await?;
        }
        Ok(books)
    }

    async fn read_terms(
        &mut self,
        connection: &mut Connection,
        ids: &[QuotaId],
        windows: &BTreeMap<QuotaId, (&Window, EpochMs)>,
    ) -> Result<(), StoreError> {
        let mut query = QueryBuilder::<Engine>::new(
            "SELECT id, strict, limit_value, increase_value, increase_until_ms FROM quotas \
             WHERE removed_ms IS NULL AND id IN ",
        );
        push_list(&mut query, ids, |id| id.0);
        for row in query.on(connection).fetch_all(connection).await? {
            let id = QuotaId(row.try_get("id")?);
            if let Some((window, _)) = windows.get(&id) {
                self.books.insert(id, Book::new((*window).clone(), quotas::read_terms(&row)?));
            }
        }
        Ok(())
    }

    async fn read_periods(
        &mut self,
        connection: &mut Connection,
        ids: &[QuotaId],
        from: EpochMs,
    ) -> Result<(), StoreError> {
        let mut query =
            QueryBuilder::<Engine>::new("SELECT quota, window_start_ms, amount FROM spent WHERE window_start_ms >= ");
        query.push_bind(from.0).push(" AND quota IN ");
        push_list(&mut query, ids, |id| id.0);
        for row in query.on(connection).fetch_all(&mut *connection).await? {
            if let Some(book) = self.books.get_mut(&QuotaId(row.try_get("quota")?)) {
                book.spent.insert(EpochMs(row.try_get("window_start_ms")?), row.try_get("amount")?);
            }
        }
        let mut query = QueryBuilder::<Engine>::new(
            "SELECT quota, period_ms, node, granted, returned, shipped FROM leases WHERE period_ms >= ",
        );
        query.push_bind(from.0).push(" AND quota IN ");
        push_list(&mut query, ids, |id| id.0);
        for row in query.on(connection).fetch_all(connection).await? {
            if let Some(book) = self.books.get_mut(&QuotaId(row.try_get("quota")?)) {
                let nodes = book.leases.entry(EpochMs(row.try_get("period_ms")?)).or_default();
                nodes.insert(row.try_get("node")?, read_lease(&row)?);
            }
        }
        Ok(())
    }

    /// One quota's part of the transaction. None if there is no such quota any more: then nobody needs credit of it.
    fn meet(&mut self, node: &String, ask: &Ask, now: EpochMs) -> Option<Reply> {
        let (reply, changed) = self.books.get_mut(&ask.quota)?.meet((node, self.nodes), ask, now);
        self.changed.extend(changed.into_iter().map(|period| (ask.quota, period)));
        Some(reply)
    }

    async fn write(&self, connection: &mut Connection, node: &String) -> Result<(), StoreError> {
        let lease = |quota, period| self.books.get(&quota)?.lease(node, period);
        let changed: Vec<_> = self.changed.iter().filter_map(|of| Some((*of, lease(of.0, of.1)?))).collect();
        for chunk in changed.chunks(LIST_MAX) {
            let mut query =
                QueryBuilder::<Engine>::new("INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) ");
            query.push_values(chunk, |mut row, ((quota, period), lease)| {
                row.push_bind(quota.0).push_bind(period.0).push_bind(node);
                row.push_bind(lease.granted).push_bind(lease.returned).push_bind(lease.shipped);
            });
            // What was shipped is the shipper's to say.
            query.push(
                " ON CONFLICT (quota, period_ms, node) DO UPDATE SET granted = excluded.granted, returned = excluded.returned",
            );
            query.on(connection).execute(&mut *connection).await?;
        }
        Ok(())
    }
}

/// Moves what was shipped of this node's leases, together with what was spent. Where there is no lease there is no limit, and
/// nothing to move.
pub(super) async fn ship(connection: &mut Connection, node: &str, sums: &[(Share, i64)]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("WITH moved (quota, period_ms, amount) AS (");
    query.push_values(sums, |mut row, (share, amount)| {
        row.push_bind(share.quota.0).push_bind(share.period.0).push_bind(*amount);
    });
    // Stops at the largest amount, as what was spent does.
    query.push(
        ") UPDATE leases SET shipped = \
         CASE WHEN moved.amount > 0 AND leases.shipped > 9223372036854775807 - moved.amount THEN 9223372036854775807 \
         ELSE leases.shipped + moved.amount END \
         FROM moved WHERE leases.quota = moved.quota AND leases.period_ms = moved.period_ms AND leases.node = ",
    );
    query.push_bind(node);
    query.on(connection).execute(connection).await?;
    Ok(())
}

pub(super) fn read_lease(row: &Rows) -> Result<Lease, StoreError> {
    Ok(Lease { granted: row.try_get("granted")?, returned: row.try_get("returned")?, shipped: row.try_get("shipped")? })
}
