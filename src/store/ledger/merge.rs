//! What a node has shipped and not added to the sums on the books yet, and how it is added.
//!
//! Each key has rows of its own in the tables of sums, on pages of their own. With a hundred thousand keys calling, adding each
//! shipment at once would write one of those pages for nearly every call. So the sums wait in memory until many calls have met
//! in each. What waits is never lost: it is in the rows of `calls` after the mark `merged_through`, which moves in the
//! transaction that adds it.

use super::LedgerSettings;
use super::calls::{Whose, sum_up, sum_up_missed};
use super::parts;
use super::sums::{Charged, Figures, Sums, Use, figure_columns};
use super::tell::Booked;
use super::thresholds::{self, Crossing};
use crate::store::engine::On;
use crate::store::{Connection, Engine, StoreError, credits, leases, nodes};
use filters::id::KeyId;
use filters::ports::Share;
use filters::time::EpochMs;
use sqlx::QueryBuilder;
use std::time::{Duration, Instant};

/// So few sums are added with the shipment itself: a few milliseconds of work several times a second.
const ADDED_AT_ONCE_MAX: usize = 256;
/// Rows of one UPSERT, largest first: three statements of each kind stay prepared.
const ROWS_PER_UPSERT: [usize; 3] = [128, 16, 1];

/// What a node has shipped and not merged.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) node: String,
    pub(super) sums: Sums,
    /// The number of the row that was shipped last.
    pub(super) last_seq: i64,
    /// The number of the last row that is in the sums on the books.
    pub(super) merged_through: i64,
    /// The same of the sums of organisations: further back where a release before them has merged.
    pub(super) parts_through: i64,
    /// What lies between the two.
    missed: Sums,
    /// Since when something waits.
    since: Option<Instant>,
    /// Of the sums, what was charged when calls had ended with an earlier process.
    pub(super) late: Vec<(Share, i64)>,
    /// What the last merge added, for those who are to be told once it is committed.
    pub(super) booked: Option<Booked>,
}

impl Pending {
    /// Computes it from the rows after the node's marks.
    pub(super) async fn read(connection: &mut Connection, node: &str) -> Result<Self, StoreError> {
        let marks = sqlx::query_as("SELECT merged_through, parts_through FROM checkpoints WHERE node = $1")
            .bind(node)
            .fetch_optional(&mut *connection)
            .await?;
        let (merged_through, parts_through): (i64, i64) = marks.unwrap_or_default();
        let (sums, last_seq) = sum_up(connection, Whose::Node(node)).await?;
        let missed = sum_up_missed(connection, node).await?;
        let (node, last_seq) = (node.to_owned(), last_seq.max(merged_through));
        let since = (sums.len() + missed.len() > 0).then(Instant::now);
        let (late, booked) = (Vec::new(), None);
        Ok(Self { node, sums, last_seq, merged_through, parts_through, missed, since, late, booked })
    }

    /// Whether something waits.
    pub(super) fn is_waiting(&self) -> bool {
        self.parts_through < self.last_seq
    }

    /// Whether what waits is to be added now.
    pub(super) fn is_due(&self, settings: &LedgerSettings) -> bool {
        let has_waited = |since: Instant| since.elapsed() >= Duration::from_millis(settings.merge_ms);
        let sums = self.sums.len();
        sums <= ADDED_AT_ONCE_MAX || sums >= settings.pending_sums_max || self.since.is_some_and(has_waited)
    }

    /// Notes that what was added last waits.
    pub(super) fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Adds everything that waits to the sums on the books, and says which quotas crossed a threshold by it. The caller writes
    /// the mark.
    pub(super) async fn merge(
        &mut self,
        connection: &mut Connection,
        names_max: usize,
        now: EpochMs,
    ) -> Result<Vec<Crossing>, StoreError> {
        let mut standing = nodes::hold_books(connection, &self.node).await?;
        if standing.merged_through != self.merged_through {
            // Somebody who forgets the node has added what waited.
            return Err(StoreError::Moved);
        }
        let (sums, missed) = (std::mem::take(&mut self.sums), std::mem::take(&mut self.missed));
        let mut charges = sums.charges();
        for chunk in chunks(&charges) {
            // What is spent is leased no longer, so the two move together.
            let amounts: Vec<_> = chunk.iter().map(|(share, charged)| (*share, charged.amount)).collect();
            leases::ship(connection, &self.node, standing.is_forgotten, &amounts).await?;
        }
        self.booked = Some(Booked {
            node: self.node.clone(),
            marks: (self.merged_through, self.last_seq),
            charges: charges.iter().map(|(share, charged)| (*share, charged.amount)).collect(),
            late: std::mem::take(&mut self.late),
        });
        for (share, charged) in &mut charges {
            charged.amount -= standing.account_for(*share, charged.amount);
        }
        standing.write(connection, &self.node).await?;
        for chunk in chunks(&charges) {
            add_charges(connection, chunk).await?;
        }
        let crossings = thresholds::crossed(connection, &charges, now).await?;
        for chunk in chunks(&sums.hours()) {
            add_usage(connection, Table::Hours, chunk).await?;
        }
        for chunk in chunks(&sums.days()) {
            add_usage(connection, Table::Days, chunk).await?;
        }
        for chunk in chunks(&sums.last_uses()) {
            put_last_uses(connection, chunk).await?;
        }
        credits::mark_late(connection, &self.node, sums.hours_touched(), now).await?;
        parts::add(connection, &[&sums, &missed], names_max).await?;
        self.merged_through = self.last_seq;
        self.parts_through = self.last_seq;
        self.since = None;
        Ok(crossings)
    }
}

/// Cuts rows into the few lengths for which statements stay prepared.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length = ROWS_PER_UPSERT.into_iter().find(|length| *length <= rows.len())?;
        let (chunk, rest) = rows.split_at(length);
        rows = rest;
        Some(chunk)
    })
}

/// Adds a column to what is there. Stops at the largest number, as `NanoUsd` does: an absurd figure of a provider must not stop
/// the shipper for good.
pub(in crate::store) fn push_addition(query: &mut QueryBuilder<Engine>, table: &str, column: &str) {
    query.push(format_args!(
        "{column} = CASE WHEN excluded.{column} > 0 AND {table}.{column} > 9223372036854775807 - excluded.{column} \
         THEN 9223372036854775807 ELSE {table}.{column} + excluded.{column} END"
    ));
}

async fn add_charges(connection: &mut Connection, charges: &[(Share, Charged)]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("INSERT INTO spent (quota, window_start_ms, amount) ");
    query.push_values(charges, |mut row, (share, charged)| {
        row.push_bind(share.quota.0).push_bind(share.period.0).push_bind(charged.amount);
    });
    query.push(" ON CONFLICT (quota, window_start_ms) DO UPDATE SET ");
    push_addition(&mut query, "spent", "amount");
    query.on(connection).execute(connection).await?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Table {
    Hours,
    Days,
}

async fn add_usage(connection: &mut Connection, table: Table, usage: &[(Use, Figures)]) -> Result<(), StoreError> {
    let (table, from) = match table {
        Table::Hours => ("usage_hours", "hour_ms"),
        Table::Days => ("usage_days", "day_ms"),
    };
    let mut query = QueryBuilder::<Engine>::new("INSERT INTO ");
    query.push(table).push(" (").push(from).push(", key_id, model");
    for column in figure_columns() {
        query.push(", ").push(column);
    }
    query.push(") ");
    query.push_values(usage, |mut row, (using, figures)| {
        row.push_bind(using.from.0).push_bind(using.key.to_string()).push_bind(&*using.model);
        for figure in figures.0 {
            row.push_bind(figure);
        }
    });
    query.push(" ON CONFLICT (").push(from).push(", key_id, model) DO UPDATE SET ");
    for (place, column) in figure_columns().enumerate() {
        query.push(if place == 0 { "" } else { ", " });
        push_addition(&mut query, table, column);
    }
    query.on(connection).execute(connection).await?;
    Ok(())
}

async fn put_last_uses(connection: &mut Connection, last: &[(KeyId, EpochMs)]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("INSERT INTO last_used (key_id, at_ms) ");
    query.push_values(last, |mut row, (key, at)| {
        row.push_bind(key.to_string()).push_bind(at.0);
    });
    query.push(
        " ON CONFLICT (key_id) DO UPDATE SET at_ms = \
         CASE WHEN excluded.at_ms > last_used.at_ms THEN excluded.at_ms ELSE last_used.at_ms END",
    );
    query.on(connection).execute(connection).await?;
    Ok(())
}
