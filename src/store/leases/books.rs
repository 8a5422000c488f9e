//! The rows of a lease transaction.

use super::{Business, read_lease};
use crate::store::changes::Change;
use crate::store::engine::On;
use crate::store::{Connection, Engine, LIST_MAX, StoreError, push_list, quotas};
use filters::id::QuotaId;
use filters::lease::{Ask, Book, Lease, Reply};
use filters::time::EpochMs;
use filters::window::Window;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How often the same quota is said to be wanted, at the most: holders look that often.
const WANTED_EVERY_MS: i64 = 250;
/// Charged, and leased: read by one statement, because a shipment moves both.
const SPENT: &str = "SELECT quota, window_start_ms AS period_ms, '' AS node, amount AS granted, 0 AS returned, 0 AS shipped \
     FROM spent WHERE window_start_ms >= ";
const LEASED: &str =
    " UNION ALL SELECT quota, period_ms, node, granted, returned, shipped FROM leases WHERE period_ms >= ";

/// What the tables say of the quotas that are asked for.
#[derive(Default)]
pub(super) struct Books {
    nodes: u32,
    /// When each quota was last said to be wanted.
    wanted: HashMap<QuotaId, EpochMs>,
    /// Quotas of which others hold what was refused.
    refused: BTreeSet<QuotaId>,
    books: HashMap<QuotaId, Book<String>>,
    /// Rows of this node that are to be written.
    changed: BTreeSet<(QuotaId, EpochMs)>,
}

impl Books {
    /// Locks the quotas' rows against other nodes, then reads them: what is read stays true until this transaction ends, but
    /// for what is shipped meanwhile.
    pub(super) async fn open(
        connection: &mut Connection,
        (node, nodes): (&str, u32),
        business: &Business,
        now: EpochMs,
    ) -> Result<Self, StoreError> {
        let Business { asks, unused } = business;
        let mut books = Self { nodes, ..Self::default() };
        let ids: BTreeSet<QuotaId> = asks.iter().map(|(spend, _)| spend.id).chain(unused.iter().copied()).collect();
        let ids: Vec<QuotaId> = ids.into_iter().collect();
        for ids in ids.chunks(LIST_MAX) {
            books.wanted.extend(hold(connection, ids).await?);
        }
        for ids in unused.chunks(LIST_MAX) {
            give_back_unused(connection, node, ids).await?;
        }
        // A quota may be asked for more than once: for its present period, and for those of running calls.
        let mut from: BTreeMap<QuotaId, (&Window, EpochMs)> = BTreeMap::new();
        for (spend, ask) in asks {
            let named = ask.holdings().map(|held| held.period);
            let counted = *spend.window.counted(ask.at.unwrap_or(now)).start();
            let (_, first) = from.entry(spend.id).or_insert((&spend.window, counted));
            *first = named.fold(counted.min(*first), EpochMs::min);
        }
        let asked: Vec<QuotaId> = from.keys().copied().collect();
        for ids in asked.chunks(LIST_MAX) {
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
        let mut query = QueryBuilder::<Engine>::new(SPENT);
        query.push_bind(from.0).push(" AND quota IN ");
        push_list(&mut query, ids, |id| id.0);
        query.push(LEASED).push_bind(from.0).push(" AND quota IN ");
        push_list(&mut query, ids, |id| id.0);
        for row in query.on(connection).fetch_all(connection).await? {
            let Some(book) = self.books.get_mut(&QuotaId(row.try_get("quota")?)) else { continue };
            let (period, node) = (EpochMs(row.try_get("period_ms")?), row.try_get::<String, _>("node")?);
            if node.is_empty() {
                book.spent.insert(period, row.try_get("granted")?);
            } else {
                book.leases.entry(period).or_default().insert(node, read_lease(&row)?);
            }
        }
        Ok(())
    }

    /// One quota's part of the transaction. None if there is no such quota any more: then nobody needs credit of it.
    pub(super) fn meet(&mut self, node: &String, ask: &Ask, now: EpochMs) -> Option<Reply> {
        let (reply, changed) = self.books.get_mut(&ask.quota)?.meet((node, self.nodes), ask, now);
        self.changed.extend(changed.into_iter().map(|period| (ask.quota, period)));
        if reply.is_wanted {
            self.refused.insert(ask.quota);
        }
        Some(reply)
    }

    /// Writes what was decided. Where something was shipped of these leases since they were read, it was decided by figures that
    /// hold no longer.
    pub(super) async fn write(
        &self,
        connection: &mut Connection,
        node: &String,
        now: EpochMs,
    ) -> Result<(), StoreError> {
        let lease = |quota, period| self.books.get(&quota)?.lease(node, period);
        let changed: Vec<_> = self.changed.iter().filter_map(|of| Some((*of, lease(of.0, of.1)?))).collect();
        for chunk in changed.chunks(LIST_MAX) {
            write_leases(connection, node, chunk).await?;
        }
        let is_due = |id: &&QuotaId| self.wanted.get(id).is_none_or(|at| at.plus(WANTED_EVERY_MS) <= now);
        let wanted: Vec<QuotaId> = self.refused.iter().filter(is_due).copied().collect();
        for ids in wanted.chunks(LIST_MAX) {
            let mut query = QueryBuilder::<Engine>::new("UPDATE leased_quotas SET wanted_ms = ");
            query.push_bind(now.0).push(" WHERE quota IN ");
            push_list(&mut query, ids, |id| id.0);
            query.on(connection).execute(&mut *connection).await?;
        }
        for id in wanted {
            Change::Wanted(id).record(connection, now).await?;
        }
        Ok(())
    }
}

/// Holds quotas until the transaction ends; says when each was last wanted.
async fn hold(connection: &mut Connection, ids: &[QuotaId]) -> Result<Vec<(QuotaId, EpochMs)>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new("INSERT INTO leased_quotas (quota, asked, wanted_ms) ");
    // Row by row in this order, in each engine.
    query.push_values(ids, |mut row, id| {
        row.push_bind(id.0).push("1").push("0");
    });
    query.push(" ON CONFLICT (quota) DO UPDATE SET asked = leased_quotas.asked + 1 RETURNING quota, wanted_ms");
    let rows = query.on(connection).fetch_all(connection).await?;
    let read = |row: &crate::store::Rows| Ok((QuotaId(row.try_get("quota")?), EpochMs(row.try_get("wanted_ms")?)));
    rows.iter().map(read).collect()
}

/// What the node holds of quotas that none of its calls can use: they have left its memory, so all that was charged is on the
/// books.
async fn give_back_unused(connection: &mut Connection, node: &str, ids: &[QuotaId]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("UPDATE leases SET granted = returned + shipped WHERE node = ");
    query.push_bind(node).push(" AND quota IN ");
    push_list(&mut query, ids, |id| id.0);
    query.on(connection).execute(connection).await?;
    Ok(())
}

async fn write_leases(
    connection: &mut Connection,
    node: &str,
    leases: &[((QuotaId, EpochMs), Lease)],
) -> Result<(), StoreError> {
    let mut query =
        QueryBuilder::<Engine>::new("INSERT INTO leases (quota, period_ms, node, granted, returned, shipped) ");
    query.push_values(leases, |mut row, ((quota, period), lease)| {
        row.push_bind(quota.0).push_bind(period.0).push_bind(node);
        row.push_bind(lease.granted).push_bind(lease.returned).push_bind(lease.shipped);
    });
    // What was shipped is the shipper's to say.
    query.push(
        " ON CONFLICT (quota, period_ms, node) DO UPDATE SET granted = excluded.granted, returned = excluded.returned \
         WHERE leases.shipped = excluded.shipped",
    );
    let written = query.on(connection).execute(connection).await?.rows_affected();
    if written == leases.len() as u64 { Ok(()) } else { Err(StoreError::Moved) }
}
