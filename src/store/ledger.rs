//! The books: calls become rows exactly once, and what they moved is moved by those rows alone.
//!
//! - `calls.rs`: the rows of `calls`
//! - `attempts.rs`: the rows of what came beside them
//! - `prices.rs`: the prices that the rows name
//! - `sums.rs`: what calls moved, added up in memory
//! - `parts.rs`: sums of organisations, by model, provider, project, user and tag
//! - `merge.rs`: how sums come on the books, and when; `tail.rs`: what is not among them yet
//! - `tell.rs`: what the quotas in memory are told of it
//! - `thresholds.rs`: events of quotas that are nearly spent; `exceeded.rs`: of calls that cost more than was set aside

mod attempts;
mod calls;
mod exceeded;
mod merge;
mod parts;
mod prices;
mod sums;
mod tail;
mod tell;
mod thresholds;

pub(super) use calls::{TAIL, Whose, read_attribution, read_figures, read_shares, read_usage, unit_columns};
pub(super) use merge::push_addition;
pub(super) use parts::{PartKind, Unit};
pub(super) use prices::{Prices, read_price_id, read_prices};
pub(super) use sums::{FIGURES, Figures, day_from, day_of, figure_columns, hour_of, month_of};
pub(super) use tail::Tail;
pub(super) use tell::Booked;
pub use thresholds::THRESHOLDS;

use super::engine::{On, is_worth_another_try};
use super::journal::{Checkpoint, Ledger, LedgerError, Merge, Shipment};
use super::{Connection, Engine, Store, StoreError, nodes, objects};
use crate::{clock, crash};
use async_trait::async_trait;
use calls::{Form, insertion};
use filters::ports::{Intent, Terminal};
use merge::Pending;
use sqlx::{QueryBuilder, Row};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sums::Entry;
use tell::Listeners;
use thresholds::Crossing;

/// Rows of one INSERT, largest first: few statements stay prepared, whatever the number of calls, and each is another word with the
/// thread or the server that runs it.
const ROWS_PER_INSERT: [usize; 5] = [256, 64, 16, 4, 1];

/// When sums of calls come on the books. Few sums come at once; these bound how long many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerSettings {
    /// The longest time that sums wait, in milliseconds.
    pub merge_ms: u64,
    /// The most sums that wait, about 150 bytes each.
    pub pending_sums_max: usize,
    /// The most end users, and the most tags, of an organisation that have sums of their own in a day, and in a month.
    pub names_max: usize,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self { merge_ms: 60_000, pending_sums_max: 500_000, names_max: 800 }
    }
}

/// What metrics ask.
#[derive(Debug, Default)]
pub struct LedgerCounts {
    /// Times that quotas have reached each of [`THRESHOLDS`], and last those that have reached another.
    pub thresholds: [AtomicU64; THRESHOLDS.len() + 1],
}

/// What a store knows of the books that it keeps.
#[derive(Debug, Default)]
pub(super) struct LedgerState {
    settings: LedgerSettings,
    counts: LedgerCounts,
    listeners: Listeners,
    /// Held while something comes on the books.
    held: tokio::sync::Mutex<Held>,
}

/// What is known of a node's books between two transactions.
#[derive(Debug, Default)]
struct Held {
    /// What was shipped and not merged; nothing before the first shipment, and after one that failed.
    pending: Option<Pending>,
    /// What a transaction has added of which it is not known whether it was committed.
    doubtful: Option<Booked>,
}

impl LedgerState {
    pub(super) fn new(settings: LedgerSettings) -> Self {
        Self { settings, ..Self::default() }
    }
}

impl Store {
    /// Writes a shipment down, moves what it spent, and remembers how far the journal has been shipped: all of it or
    /// nothing. What is on the books already changes nothing, so shipping again is safe. Says how many calls were new.
    pub async fn take(&self, node: &str, shipment: &Shipment) -> Result<usize, StoreError> {
        let mut held = self.ledger.held.lock().await;
        let mut tries = 1;
        loop {
            let taken = self.database.book(self.take_once(node, shipment, &mut held)).await;
            if !is_worth_another_try(&taken, &mut tries).await {
                return taken;
            }
        }
    }

    async fn take_once(&self, node: &str, shipment: &Shipment, held: &mut Held) -> Result<usize, StoreError> {
        // Rows that come back one by one cost more than the insert itself, so they are asked for only where a call was
        // shipped before: after a crash between the commit and its answer.
        match self.take_as(Hope::AllNew, node, shipment, held).await? {
            Some(inserted) => Ok(inserted),
            None => Ok(self.take_as(Hope::SomeNew, node, shipment, held).await?.unwrap_or(0)),
        }
    }

    async fn take_as(
        &self,
        hope: Hope,
        node: &str,
        shipment: &Shipment,
        held: &mut Held,
    ) -> Result<Option<usize>, StoreError> {
        let mut transaction = self.database.write().await?;
        let mut pending = self.pending(held, &mut transaction, node).await?;
        let Some(inserted) = insert(&mut transaction, hope, &shipment.calls, &mut pending).await? else {
            return Ok(None);
        };
        attempts::insert(&mut transaction, node, &shipment.attempts).await?;
        attempts::insert_amendments(&mut transaction, &shipment.amendments, &mut pending).await?;
        objects::insert(&mut transaction, &shipment.objects).await?;
        // What waits is read again from the rows of calls, and amendments are none of them: their charges can't wait.
        let crossings = if !shipment.amendments.is_empty() || pending.is_due(&self.ledger.settings) {
            merge(&mut transaction, &mut pending, self.ledger.settings.names_max).await?
        } else {
            pending.wait();
            Vec::new()
        };
        crash::point("before-checkpoint");
        write_checkpoint(&mut transaction, &pending, shipment.checkpoint).await?;
        crash::point("after-checkpoint");
        held.doubtful = pending.booked.take();
        transaction.commit().await?;
        self.keep(held, pending, &crossings);
        self.objects.shipped(&shipment.objects);
        Ok(Some(inserted))
    }

    /// Adds to the sums on the books what waits for it: everything, or only what has waited long enough.
    pub async fn merge(&self, node: &str, merge_what: Merge) -> Result<(), StoreError> {
        let mut held = self.ledger.held.lock().await;
        let is_wanted = match (merge_what, &held.pending) {
            (Merge::Due, Some(pending)) => pending.is_waiting() && pending.is_due(&self.ledger.settings),
            (Merge::Due, None) => false,
            (Merge::All, Some(pending)) => pending.is_waiting(),
            (Merge::All, None) => true,
        };
        if !is_wanted {
            return Ok(());
        }
        let mut tries = 1;
        loop {
            let merged = self.database.book(self.merge_once(node, &mut held)).await;
            if !is_worth_another_try(&merged, &mut tries).await {
                return merged;
            }
        }
    }

    async fn merge_once(&self, node: &str, held: &mut Held) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        let mut pending = self.pending(held, &mut transaction, node).await?;
        let crossings = merge(&mut transaction, &mut pending, self.ledger.settings.names_max).await?;
        write_mark(&mut transaction, &pending).await?;
        held.doubtful = pending.booked.take();
        transaction.commit().await?;
        self.keep(held, pending, &crossings);
        Ok(())
    }

    /// Takes out what is held of a node, or reads it. Whoever takes it puts it back when the transaction has been committed; if
    /// that fails, the rows tell it again.
    async fn pending(&self, held: &mut Held, connection: &mut Connection, node: &str) -> Result<Pending, StoreError> {
        if let Some(pending) = held.pending.take_if(|pending| pending.node == node) {
            return Ok(pending);
        }
        let doubtful = held.doubtful.as_ref().filter(|booked| booked.node == node);
        if doubtful.is_some() {
            // Waits for the end of the transaction, should it still be going on.
            nodes::hold_books(connection, node).await?;
        }
        let pending = Pending::read(connection, node).await?;
        if let Some(booked) = doubtful {
            if booked.is_below(pending.merged_through) {
                self.ledger.listeners.tell(booked);
            }
            held.doubtful = None;
        }
        Ok(pending)
    }

    /// Puts back what still waits after a commit, and tells what it brought about.
    fn keep(&self, held: &mut Held, pending: Pending, crossings: &[Crossing]) {
        held.pending = Some(pending);
        held.doubtful.take().iter().for_each(|booked| self.ledger.listeners.tell(booked));
        for crossing in crossings {
            crossing.log();
            let place = THRESHOLDS.iter().position(|percent| *percent == crossing.percent).unwrap_or(THRESHOLDS.len());
            self.ledger.counts.thresholds[place].fetch_add(1, Relaxed);
        }
    }

    /// What metrics ask of the books.
    #[must_use]
    pub fn ledger_counts(&self) -> &LedgerCounts {
        &self.ledger.counts
    }

    /// How far a node's journal has been shipped; none for a node that never shipped.
    pub async fn checkpoint(&self, node: &str) -> Result<Option<Checkpoint>, StoreError> {
        let row = sqlx::query("SELECT segment, byte_offset FROM checkpoints WHERE node = $1")
            .bind(node)
            .fetch_optional(&self.database.reader)
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(Checkpoint {
            segment: row.try_get::<i64, _>("segment")?.unsigned_abs(),
            offset: row.try_get::<i64, _>("byte_offset")?.unsigned_abs(),
        }))
    }
}

/// What is expected of the calls of a shipment.
#[derive(Clone, Copy)]
enum Hope {
    /// None of them is on the books.
    AllNew,
    /// Some may be.
    SomeNew,
}

#[async_trait]
impl Ledger for Store {
    async fn ship(&self, node: &str, shipment: &Shipment) -> Result<usize, LedgerError> {
        self.take(node, shipment).await.map_err(|error| LedgerError(Box::new(error)))
    }

    async fn merge(&self, node: &str, merge: Merge) -> Result<(), LedgerError> {
        Self::merge(self, node, merge).await.map_err(|error| LedgerError(Box::new(error)))
    }

    async fn checkpoint(&self, node: &str) -> Result<Option<Checkpoint>, LedgerError> {
        Self::checkpoint(self, node).await.map_err(|error| LedgerError(Box::new(error)))
    }
}

/// A call as it is shipped.
type Call = (Intent, Terminal);

/// Inserts the calls of a shipment and adds those that were new to what waits. Says how many they were, or nothing if one
/// that was hoped to be new was on the books already: then the transaction is of no use.
async fn insert(
    connection: &mut Connection,
    hope: Hope,
    calls: &[Call],
    pending: &mut Pending,
) -> Result<Option<usize>, StoreError> {
    // Of a call that stands in the batch twice, the first one counts: where there may be one, the order stays.
    let is_usual = |call: &&Call| matches!(hope, Hope::AllNew) && Form::of(call) == Form::Usual;
    let (usual, others): (Vec<_>, Vec<_>) = calls.iter().partition(is_usual);
    let mut inserted = 0;
    for (form, mut rest) in [(Form::Usual, &usual[..]), (Form::Any, &others[..])] {
        while !rest.is_empty() {
            let rows = ROWS_PER_INSERT.into_iter().find(|rows| *rows <= rest.len()).unwrap_or(1);
            let (chunk, after) = rest.split_at(rows);
            let insertion = insertion(form, (&pending.node, pending.last_seq + 1), chunk);
            inserted += match hope {
                Hope::SomeNew => insert_calls(connection, insertion, chunk, pending).await?,
                Hope::AllNew if insert_new_calls(connection, insertion, chunk, pending).await? => chunk.len(),
                Hope::AllNew => return Ok(None),
            };
            pending.last_seq += rows as i64;
            rest = after;
        }
    }
    Ok(Some(inserted))
}

/// Inserts calls that are hoped to be new. Says false, having added nothing up, if one of them was on the books already.
async fn insert_new_calls(
    connection: &mut Connection,
    mut insertion: QueryBuilder<Engine>,
    calls: &[&Call],
    pending: &mut Pending,
) -> Result<bool, StoreError> {
    let inserted = insertion.on(connection).execute(&mut *connection).await?.rows_affected();
    if inserted < calls.len() as u64 {
        return Ok(false);
    }
    calls.iter().for_each(|(intent, terminal)| pending.sums.add(&Entry::of(intent, terminal)));
    exceeded::tell(connection, calls.iter().copied()).await?;
    Ok(true)
}

/// Inserts calls, some of which may be on the books already, and adds up those that were new.
async fn insert_calls(
    connection: &mut Connection,
    mut insertion: QueryBuilder<Engine>,
    calls: &[&Call],
    pending: &mut Pending,
) -> Result<usize, StoreError> {
    insertion.push(" RETURNING request_id");
    let rows = insertion.on(connection).fetch_all(&mut *connection).await?;
    let mut new = HashSet::with_capacity(rows.len());
    for row in &rows {
        new.insert(row.try_get::<&str, _>("request_id")?);
    }
    // Taken out, so that a call that stands in the batch twice is counted with its first row, the one that was inserted.
    let inserted: Vec<&Call> =
        calls.iter().copied().filter(|(intent, _)| new.remove(&*intent.call.to_string())).collect();
    inserted.iter().for_each(|(intent, terminal)| pending.sums.add(&Entry::of(intent, terminal)));
    exceeded::tell(connection, inserted.into_iter()).await?;
    Ok(rows.len())
}

/// Adds to the sums on the books all that waits of a node, as part of a transaction that goes on.
pub(super) async fn merge_of(connection: &mut Connection, node: &str) -> Result<(), StoreError> {
    let mut pending = Pending::read(connection, node).await?;
    merge(connection, &mut pending, LedgerSettings::default().names_max).await?;
    write_mark(connection, &pending).await
}

async fn write_mark(connection: &mut Connection, pending: &Pending) -> Result<(), StoreError> {
    sqlx::query("UPDATE checkpoints SET merged_through = $1, parts_through = $2 WHERE node = $3")
        .bind(pending.merged_through)
        .bind(pending.parts_through)
        .bind(&*pending.node)
        .execute(connection)
        .await?;
    Ok(())
}

async fn merge(
    connection: &mut Connection,
    pending: &mut Pending,
    names_max: usize,
) -> Result<Vec<Crossing>, StoreError> {
    let now = clock::now();
    let crossings = pending.merge(connection, names_max, now).await?;
    thresholds::write(connection, &crossings, now).await?;
    Ok(crossings)
}

async fn write_checkpoint(
    connection: &mut Connection,
    pending: &Pending,
    checkpoint: Checkpoint,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO checkpoints (node, segment, byte_offset, merged_through, parts_through) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (node) DO UPDATE SET segment = excluded.segment, byte_offset = excluded.byte_offset, \
         merged_through = excluded.merged_through, parts_through = excluded.parts_through",
    )
    .bind(&*pending.node)
    .bind(signed(checkpoint.segment))
    .bind(signed(checkpoint.offset))
    .bind(pending.merged_through)
    .bind(pending.parts_through)
    .execute(connection)
    .await?;
    Ok(())
}

/// SQL has no unsigned numbers. What does not fit is no count that a call can have.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
