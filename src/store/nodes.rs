//! The nodes: who may ask for credit, and when each was last heard of; and what becomes of what a node held that is gone for
//! good.

use super::engine::is_worth_another_try;
use super::journal::Checkpoint;
use super::{Connection, Store, StoreError, engine, ledger};
use filters::id::QuotaId;
use filters::money::NanoUsd;
use filters::ports::Share;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};

/// Nodes that were heard of in this time share what there is.
const COUNTED_MS: i64 = 30_000;
/// A node that has said so in this time need not say again that it is there.
const BEATEN_MS: i64 = 2_500;
/// A node that was heard of in this time is taken to run.
const RUNS_MS: i64 = 10_000;

/// A node as the books know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name, for good.
    pub id: String,
    /// `live`, `stopped` or `forgotten`.
    pub state: String,
    /// When it first came.
    pub first_seen: EpochMs,
    /// When it was last heard of.
    pub last_heartbeat: EpochMs,
    /// What it may still spend of organisations' balances.
    pub outstanding: NanoUsd,
    /// What was booked as spent of them when it was forgotten, and no call has accounted for.
    pub unaccounted: NanoUsd,
    /// Up to where its journal is on the books.
    pub shipped: Option<Checkpoint>,
}

/// How a node is forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetting {
    /// Whether what it held is given to others at once, instead of being booked as spent.
    pub releases: bool,
    /// Whether it is forgotten though it was heard of just now.
    pub is_forced: bool,
}

impl Store {
    /// Every node that ever asked for credit, the oldest first.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let mut outstanding: HashMap<String, [i64; 2]> = HashMap::new();
        let mut rows = sqlx::query(HELD_OF_BALANCES).fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await? {
            let held = outstanding.entry(row.try_get("node")?).or_default();
            held[0] = held[0].saturating_add(row.try_get("outstanding")?);
            held[1] = held[1].saturating_add(row.try_get("unaccounted")?);
        }
        drop(rows);
        let rows = sqlx::query(
            "SELECT n.id, n.state, n.created_ms, n.heartbeat_ms, c.segment, c.byte_offset FROM nodes n \
             LEFT JOIN checkpoints c ON c.node = n.id ORDER BY n.created_ms, n.id",
        )
        .fetch_all(&mut *snapshot)
        .await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let id: String = row.try_get("id")?;
            let place = (row.try_get::<Option<i64>, _>("segment")?, row.try_get::<Option<i64>, _>("byte_offset")?);
            let shipped = match place {
                (Some(segment), Some(offset)) => {
                    Some(Checkpoint { segment: segment.unsigned_abs(), offset: offset.unsigned_abs() })
                }
                _ => None,
            };
            let [outstanding, unaccounted] = outstanding.get(&id).copied().unwrap_or_default().map(NanoUsd);
            let (first_seen, last_heartbeat) =
                (EpochMs(row.try_get("created_ms")?), EpochMs(row.try_get("heartbeat_ms")?));
            let state = row.try_get("state")?;
            records.push(NodeRecord { id, state, first_seen, last_heartbeat, outstanding, unaccounted, shipped });
        }
        Ok(records)
    }

    /// Fences a node for good: it gets no credit any more, and what it held is booked as spent, or released. What its journal
    /// brings later is charged against what was booked. Its calls at once are over.
    pub async fn forget_node(&self, node: &str, how: Forgetting) -> Result<NodeRecord, StoreError> {
        let mut tries = 1;
        loop {
            let forgotten = self.forget_once(node, how).await;
            if !is_worth_another_try(&forgotten, &mut tries).await {
                forgotten?;
                break;
            }
        }
        let record = self.nodes().await?.into_iter().find(|record| record.id == node);
        record.ok_or_else(|| StoreError::NotFound(format!("node {node}")))
    }

    async fn forget_once(&self, node: &str, how: Forgetting) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        let now = engine::now(&mut transaction).await?;
        // The shipper's row, then that of lease transactions: what is read from here on nobody else changes.
        hold_books(&mut transaction, node).await?;
        let row = sqlx::query("UPDATE nodes SET created_ms = created_ms WHERE id = $1 RETURNING state, heartbeat_ms")
            .bind(node)
            .fetch_optional(&mut *transaction)
            .await?;
        let row = row.ok_or_else(|| StoreError::NotFound(format!("node {node}")))?;
        let (state, heartbeat_ms): (String, i64) = (row.try_get("state")?, row.try_get("heartbeat_ms")?);
        if state == "forgotten" {
            return Err(StoreError::Refused("this node has been forgotten already"));
        }
        if state == "live" && heartbeat_ms > now.0 - RUNS_MS && !how.is_forced {
            return Err(StoreError::Refused(
                "this node was heard of in the last 10 seconds: stop it and try again, or say --force",
            ));
        }
        ledger::merge_of(&mut transaction, node).await?;
        sqlx::query(
            "UPDATE nodes SET state = 'forgotten', released_seq = CASE WHEN $1 = 1 \
             THEN (SELECT COALESCE(MAX(seq), 0) FROM calls WHERE node = $2) END WHERE id = $2",
        )
        .bind(i64::from(how.releases))
        .bind(node)
        .execute(&mut *transaction)
        .await?;
        if !how.releases {
            for statement in [KEEP_ACCOUNT, BOOK_AS_SPENT] {
                sqlx::query(statement).bind(node).execute(&mut *transaction).await?;
            }
        }
        close_leases(&mut transaction, node).await?;
        Ok(transaction.commit().await?)
    }

    /// Whether an operator has forgotten a node.
    pub async fn is_forgotten(&self, node: &str) -> Result<bool, StoreError> {
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM nodes WHERE id = $1")
            .bind(node)
            .fetch_optional(&self.database.reader)
            .await?;
        Ok(state.as_deref() == Some("forgotten"))
    }
}

const HELD_OF_BALANCES: &str = "SELECT l.node, l.granted - l.returned - l.shipped AS outstanding, \
     COALESCE(u.amount - u.charged, 0) AS unaccounted FROM leases l \
     JOIN quotas q ON q.id = l.quota AND q.kind = 'balance' \
     LEFT JOIN unaccounted u ON u.quota = l.quota AND u.period_ms = l.period_ms AND u.node = l.node";
const KEEP_ACCOUNT: &str = "INSERT INTO unaccounted (quota, period_ms, node, amount, charged) \
     SELECT l.quota, l.period_ms, l.node, l.granted - l.returned - l.shipped, 0 \
     FROM leases l JOIN quotas q ON q.id = l.quota \
     WHERE l.node = $1 AND q.kind IN ('balance', 'spend') AND l.granted - l.returned > l.shipped";
const BOOK_AS_SPENT: &str = "INSERT INTO spent (quota, window_start_ms, amount) \
     SELECT quota, period_ms, amount FROM unaccounted WHERE node = $1 ORDER BY quota, period_ms \
     ON CONFLICT (quota, window_start_ms) DO UPDATE SET \
     amount = CASE WHEN spent.amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807 \
     ELSE spent.amount + excluded.amount END";

/// How a node stands while its calls come on the books.
pub(super) struct Standing {
    /// Up to which of its calls the sums have them.
    pub(super) merged_through: i64,
    pub(super) is_forgotten: bool,
    /// What was booked as spent of what it held, and no call has accounted for.
    unaccounted: BTreeMap<Share, i64>,
    accounted: BTreeMap<Share, i64>,
}

/// Holds a node's books until the transaction ends: nobody else ships for it, or forgets it.
pub(super) async fn hold_books(connection: &mut Connection, node: &str) -> Result<Standing, StoreError> {
    let mark = sqlx::query("UPDATE checkpoints SET segment = segment WHERE node = $1 RETURNING merged_through")
        .bind(node)
        .fetch_optional(&mut *connection)
        .await?;
    let merged_through = mark.map_or(Ok(0), |row| row.try_get("merged_through"))?;
    let state: Option<String> =
        sqlx::query_scalar("SELECT state FROM nodes WHERE id = $1").bind(node).fetch_optional(&mut *connection).await?;
    let is_forgotten = state.as_deref() == Some("forgotten");
    let mut standing =
        Standing { merged_through, is_forgotten, unaccounted: BTreeMap::new(), accounted: BTreeMap::new() };
    if is_forgotten {
        let rows = sqlx::query("SELECT quota, period_ms, amount - charged AS rest FROM unaccounted WHERE node = $1")
            .bind(node)
            .fetch_all(connection)
            .await?;
        for row in rows {
            let share = Share { quota: QuotaId(row.try_get("quota")?), period: EpochMs(row.try_get("period_ms")?) };
            standing.unaccounted.insert(share, row.try_get("rest")?);
        }
    }
    Ok(standing)
}

impl Standing {
    /// What of a charge has been booked as spent before.
    pub(super) fn account_for(&mut self, share: Share, charge: i64) -> i64 {
        let Some(rest) = self.unaccounted.get_mut(&share) else { return 0 };
        let accounted = charge.clamp(0, (*rest).max(0));
        *rest -= accounted;
        *self.accounted.entry(share).or_default() += accounted;
        accounted
    }

    /// Writes down what has been accounted for.
    pub(super) async fn write(self, connection: &mut Connection, node: &str) -> Result<(), StoreError> {
        for (share, accounted) in self.accounted.into_iter().filter(|(_, accounted)| *accounted > 0) {
            sqlx::query(
                "UPDATE unaccounted SET charged = charged + $1 WHERE quota = $2 AND period_ms = $3 AND node = $4",
            )
            .bind(accounted)
            .bind(share.quota.0)
            .bind(share.period.0)
            .bind(node)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

/// Takes back all that a node holds.
async fn close_leases(connection: &mut Connection, node: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE leases SET granted = returned + shipped WHERE node = $1 AND granted - returned <> shipped")
        .bind(node)
        .execute(connection)
        .await?;
    Ok(())
}

/// Enters a node among those that may ask. None of its calls is running and all are on the books: so it holds nothing. A sole
/// node takes back what its last process held when it asks again, quota by quota; where there are others, they are not to wait
/// for that.
///
/// What a node charged beyond what it was granted was granted by books that are gone, where older ones were restored, or billed
/// past what was set aside. Were the difference to stay below zero, it would count as credit for others; so it is taken
/// as granted. What it charged under a lease that the restored books do not have counts as spent, like all it charged.
pub(super) async fn enter(store: &Store, node: &str) -> Result<(), StoreError> {
    let mut transaction = store.database.write().await?;
    let now = engine::now(&mut transaction).await?;
    let entered = sqlx::query(
        "INSERT INTO nodes (id, created_ms, heartbeat_ms, state) VALUES ($1, $2, $2, 'live') \
         ON CONFLICT (id) DO UPDATE SET heartbeat_ms = excluded.heartbeat_ms, state = 'live' WHERE nodes.state <> 'forgotten'",
    )
    .bind(node)
    .bind(now.0)
    .execute(&mut *transaction)
    .await?;
    if entered.rows_affected() == 0 {
        return Err(StoreError::Forgotten(node.to_owned()));
    }
    sqlx::query(
        "UPDATE leases SET granted = returned + shipped WHERE node = $1 AND (granted - returned < shipped \
         OR granted - returned > shipped AND EXISTS (SELECT 1 FROM nodes WHERE id <> $1 AND state = 'live'))",
    )
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Says that a node is there, and holds its row until the transaction ends: it can't be forgotten meanwhile.
pub(super) async fn beat(connection: &mut Connection, node: &str, now: EpochMs) -> Result<(), StoreError> {
    let beaten = sqlx::query("UPDATE nodes SET heartbeat_ms = $1 WHERE id = $2 AND state <> 'forgotten'")
        .bind(now.0)
        .bind(node)
        .execute(connection)
        .await?;
    if beaten.rows_affected() == 0 { Err(StoreError::Forgotten(node.to_owned())) } else { Ok(()) }
}

/// Says that a node is there, and how many share what there is, itself among them. It can't be forgotten until the transaction
/// ends: on a server its row is held. In a file that transaction is the only one, and nothing is written unless it is time to.
pub(super) async fn attend(connection: &mut Connection, node: &str, now: EpochMs) -> Result<u32, StoreError> {
    let of_node = "SELECT heartbeat_ms, (SELECT COUNT(*) FROM nodes WHERE id <> $1 AND state = 'live' AND heartbeat_ms > $2) \
                   AS others FROM nodes WHERE id = $1 AND state <> 'forgotten'";
    let is_server = engine::is_server(connection);
    if is_server {
        beat(connection, node, now).await?;
    }
    let query = sqlx::query(of_node).bind(node).bind(now.0 - COUNTED_MS);
    let row = query.fetch_optional(&mut *connection).await?.ok_or_else(|| StoreError::Forgotten(node.to_owned()))?;
    if !is_server && row.try_get::<i64, _>("heartbeat_ms")? <= now.0 - BEATEN_MS {
        beat(connection, node, now).await?;
    }
    let others: i64 = row.try_get("others")?;
    Ok(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1))
}

/// Gives back all that a node holds, and takes it from among those that share. None of its calls is running and all are on
/// the books.
pub(super) async fn stop(store: &Store, node: &str) -> Result<(), StoreError> {
    let mut transaction = store.database.write().await?;
    let stopped = sqlx::query("UPDATE nodes SET state = 'stopped' WHERE id = $1 AND state = 'live'")
        .bind(node)
        .execute(&mut *transaction)
        .await?;
    if stopped.rows_affected() > 0 {
        close_leases(&mut transaction, node).await?;
    }
    transaction.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
