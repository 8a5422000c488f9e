//! The books: calls become rows exactly once, and what they moved is moved by those rows alone.

mod attempts;

pub(super) use attempts::amended;

use super::journal::{Checkpoint, Ledger, LedgerError, Shipment};
use super::leases;
use super::{Connection, Engine, Rows, Store, StoreError};
use crate::crash;
use async_trait::async_trait;
use filters::id::PriceId;
use filters::ports::{Intent, Share, Terminal};
use filters::price::{Price, Tier};
use filters::usage::{Kind, Usage};
use sqlx::query_builder::Separated;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeMap, HashSet};

/// Rows of one INSERT, largest first: three statements stay prepared, whatever the number of calls.
const ROWS_PER_INSERT: [usize; 3] = [64, 8, 1];
/// Sums of one UPSERT.
const SUMS_PER_INSERT: usize = 128;

const INSERT_CALLS: &str = "INSERT INTO calls (request_id, key_id, org_id, route, model, provider, streamed, status, error, \
     outcome, estimated, input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, \
     audio_input_tokens, image_input_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, \
     charge_nano, reserved_nano, price_id, tier, attempts, started_ms, first_byte_ms, ended_ms, node) ";

/// Columns of kinds that are part of a total, in the order of the table.
pub(super) const KIND_COLUMNS: [(Kind, &str); 9] = [
    (Kind::CacheRead, "cache_read_tokens"),
    (Kind::CacheWrite5m, "cache_write_5m_tokens"),
    (Kind::CacheWrite1h, "cache_write_1h_tokens"),
    (Kind::AudioInput, "audio_input_tokens"),
    (Kind::ImageInput, "image_input_tokens"),
    (Kind::Reasoning, "reasoning_tokens"),
    (Kind::AudioOutput, "audio_output_tokens"),
    (Kind::ImageOutput, "image_output_tokens"),
    (Kind::WebSearch, "web_searches"),
];

impl Store {
    /// Writes a shipment down, moves what it spent, and remembers how far the journal has been shipped: all of it or
    /// nothing. What is on the books already changes nothing, so shipping again is safe. Says how many calls were new.
    pub async fn take(&self, node: &str, shipment: &Shipment) -> Result<usize, StoreError> {
        // Rows that come back one by one cost more than the insert itself, so they are asked for only where a call was
        // shipped before: after a crash between the commit and its answer.
        match self.take_as(Hope::AllNew, node, shipment).await? {
            Some(inserted) => Ok(inserted),
            None => Ok(self.take_as(Hope::SomeNew, node, shipment).await?.unwrap_or(0)),
        }
    }

    async fn take_as(&self, hope: Hope, node: &str, shipment: &Shipment) -> Result<Option<usize>, StoreError> {
        let mut transaction = self.write().await?;
        let mut sums = BTreeMap::new();
        let (mut rest, mut inserted) = (&*shipment.calls, 0);
        while !rest.is_empty() {
            let rows = ROWS_PER_INSERT.into_iter().find(|rows| *rows <= rest.len()).unwrap_or(1);
            let (chunk, after) = rest.split_at(rows);
            inserted += match hope {
                Hope::SomeNew => insert_calls(&mut transaction, node, chunk, &mut sums).await?,
                Hope::AllNew if insert_new_calls(&mut transaction, node, chunk, &mut sums).await? => chunk.len(),
                Hope::AllNew => return Ok(None),
            };
            rest = after;
        }
        attempts::insert(&mut transaction, &shipment.attempts).await?;
        attempts::insert_amendments(&mut transaction, &shipment.amendments, &mut sums).await?;
        let sums: Vec<_> = sums.into_iter().collect();
        for chunk in sums.chunks(SUMS_PER_INSERT) {
            add_to_spent(&mut transaction, chunk).await?;
            leases::ship(&mut transaction, node, chunk).await?;
        }
        crash::point("before-checkpoint");
        write_checkpoint(&mut transaction, node, shipment.checkpoint).await?;
        crash::point("after-checkpoint");
        transaction.commit().await?;
        Ok(Some(inserted))
    }

    /// How far a node's journal has been shipped; none for a node that never shipped.
    pub async fn checkpoint(&self, node: &str) -> Result<Option<Checkpoint>, StoreError> {
        let row = sqlx::query("SELECT segment, byte_offset FROM checkpoints WHERE node = $1")
            .bind(node)
            .fetch_optional(&self.reader)
            .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some(Checkpoint {
            segment: row.try_get::<i64, _>("segment")?.unsigned_abs(),
            offset: row.try_get::<i64, _>("byte_offset")?.unsigned_abs(),
        }))
    }

    /// Keeps versions of prices, so that charges made with them can be computed again. To be called before they are used.
    pub async fn remember_prices(&self, prices: &[(PriceId, Price)]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        for (id, price) in prices {
            let content =
                serde_json::to_string(price).map_err(|cause| StoreError::Sql(sqlx::Error::Encode(Box::new(cause))))?;
            sqlx::query("INSERT INTO prices (id, content) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
                .bind(signed(id.0))
                .bind(content)
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
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

    async fn checkpoint(&self, node: &str) -> Result<Option<Checkpoint>, LedgerError> {
        Self::checkpoint(self, node).await.map_err(|error| LedgerError(Box::new(error)))
    }
}

/// Inserts calls that are hoped to be new, and adds their charges to the sums of their quotas. Says false, having inserted
/// what was new but counted nothing, if one of them was on the books already: then the transaction is of no use.
async fn insert_new_calls(
    connection: &mut Connection,
    node: &str,
    calls: &[(Intent, Terminal)],
    sums: &mut BTreeMap<Share, i64>,
) -> Result<bool, StoreError> {
    let inserted = insertion(node, calls).build().execute(connection).await?.rows_affected();
    if inserted < calls.len() as u64 {
        return Ok(false);
    }
    for (intent, terminal) in calls {
        add_charge(sums, intent, terminal);
    }
    Ok(true)
}

fn insertion(node: &str, calls: &[(Intent, Terminal)]) -> QueryBuilder<Engine> {
    let mut query = QueryBuilder::<Engine>::new(INSERT_CALLS);
    query.push_values(calls, |mut row, (intent, terminal)| {
        push_call(&mut row, intent, terminal);
        row.push_bind(node);
    });
    query.push(" ON CONFLICT (request_id) DO NOTHING");
    query
}

fn add_charge(sums: &mut BTreeMap<Share, i64>, intent: &Intent, terminal: &Terminal) {
    for share in &intent.shares {
        let sum = sums.entry(*share).or_insert(0);
        *sum = sum.saturating_add(terminal.charge.0);
    }
}

/// Inserts calls, some of which may be on the books already, and adds the charges of those that were new.
async fn insert_calls(
    connection: &mut Connection,
    node: &str,
    calls: &[(Intent, Terminal)],
    sums: &mut BTreeMap<Share, i64>,
) -> Result<usize, StoreError> {
    let mut query = insertion(node, calls);
    query.push(" RETURNING request_id");
    let rows = query.build().fetch_all(connection).await?;
    let mut new = HashSet::with_capacity(rows.len());
    for row in &rows {
        new.insert(row.try_get::<&str, _>("request_id")?);
    }
    for (intent, terminal) in calls {
        // Taken out, so that a call that stands in the batch twice is counted with its first row, the one that was inserted.
        if new.remove(&*intent.call.to_string()) {
            add_charge(sums, intent, terminal);
        }
    }
    Ok(rows.len())
}

fn push_call(row: &mut Separated<'_, Engine, &str>, intent: &Intent, terminal: &Terminal) {
    row.push_bind(intent.call.to_string())
        .push_bind(intent.key.to_string())
        .push_bind(intent.org.to_string())
        .push_bind(intent.route.name())
        .push_bind(&*intent.model)
        .push_bind(&*terminal.provider)
        .push_bind(i64::from(intent.streamed))
        .push_bind(i64::from(terminal.status))
        .push_bind(terminal.error.map(|code| code.name()))
        .push_bind(terminal.outcome.name())
        .push_bind(i64::from(terminal.estimated))
        .push_bind(signed(terminal.usage.input_total()))
        .push_bind(signed(terminal.usage.output_total()));
    for (kind, _) in KIND_COLUMNS {
        row.push_bind(signed(terminal.usage.get(kind)));
    }
    row.push_bind(terminal.charge.0)
        .push_bind(terminal.reserved.0)
        .push_bind(signed(terminal.price.0))
        .push_bind(tier_name(terminal.tier))
        .push_bind(i64::from(terminal.attempts))
        .push_bind(intent.started.0)
        .push_bind(i64::from(terminal.first_byte_ms))
        .push_bind(terminal.ended.0);
}

async fn add_to_spent(connection: &mut Connection, sums: &[(Share, i64)]) -> Result<(), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("INSERT INTO spent (quota, window_start_ms, amount) ");
    query.push_values(sums, |mut row, (share, amount)| {
        row.push_bind(share.quota.0).push_bind(share.period.0).push_bind(*amount);
    });
    // Stops at the largest amount, as `NanoUsd` does: an absurd figure of a provider must not stop the shipper for good.
    query.push(
        " ON CONFLICT (quota, window_start_ms) DO UPDATE SET amount = \
         CASE WHEN excluded.amount < 0 THEN spent.amount + excluded.amount \
         WHEN spent.amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807 \
         ELSE spent.amount + excluded.amount END",
    );
    query.build().execute(connection).await?;
    Ok(())
}

async fn write_checkpoint(connection: &mut Connection, node: &str, checkpoint: Checkpoint) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO checkpoints (node, segment, byte_offset) VALUES ($1, $2, $3) \
         ON CONFLICT (node) DO UPDATE SET segment = excluded.segment, byte_offset = excluded.byte_offset",
    )
    .bind(node)
    .bind(signed(checkpoint.segment))
    .bind(signed(checkpoint.offset))
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads back what a row of `calls` says was used: the plain kinds are what the totals leave.
pub(super) fn read_usage(row: &Rows) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    for (kind, column) in KIND_COLUMNS {
        usage = usage.with(kind, unsigned(row.try_get(column)?));
    }
    let input = unsigned(row.try_get("input_tokens")?).saturating_sub(usage.input_total());
    let output = unsigned(row.try_get("output_tokens")?).saturating_sub(usage.output_total());
    Ok(usage.with(Kind::Input, input).with(Kind::Output, output))
}

/// The name of a tier in the books.
fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Standard => "standard",
        Tier::Flex => "flex",
        Tier::Priority => "priority",
    }
}

/// SQL has no unsigned numbers. What does not fit is no count that a call can have.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, price};
    use crate::store::usage::{Group, Grouping, Spender};
    use filters::money::NanoUsd;

    #[tokio::test]
    async fn shipping_twice_moves_nothing_twice() {
        let books = Books::open().await;
        let calls: Vec<_> = (0..150).map(|number| books.call(number, 10, 5)).collect();
        let charged: i64 = calls.iter().map(|(_, end)| end.charge.0).sum();
        let at = |offset| Checkpoint { segment: 3, offset };
        let ship = async |calls: &[_], offset| {
            let shipped = books.store.ship("node", calls, at(offset)).await;
            shipped.expect("shipped")
        };
        assert_eq!(ship(&calls[..100], 640).await, 100);
        assert_eq!(ship(&calls, 960).await, 50);
        assert_eq!(ship(&calls, 960).await, 0);
        let spent = NanoUsd(charged);
        assert_eq!(books.key().await.spent(), spent);
        assert_eq!(books.organisation().await.spent, spent);
        let checkpoint = books.store.checkpoint("node").await.expect("read");
        assert_eq!(checkpoint, Some(at(960)));
        let other = books.store.checkpoint("other").await.expect("read");
        assert_eq!(other, None);
    }

    #[tokio::test]
    async fn a_call_that_stands_in_a_batch_twice_is_charged_by_its_first_end() {
        let books = Books::open().await;
        let first = books.call(1, 10, 5);
        let mut second = first.clone();
        second.1.charge = NanoUsd(999_999);
        let batch = [first.clone(), second.clone(), books.call(2, 1, 1)];
        let inserted = books.store.ship("node", &batch, Checkpoint::default()).await;
        assert_eq!(inserted.expect("shipped"), 2);
        books.store.ship("node", &[second], Checkpoint::default()).await.expect("shipped");
        assert_eq!(books.key().await.spent(), first.1.charge + batch[2].1.charge);
    }

    #[tokio::test]
    async fn what_was_used_is_read_back_by_kind() {
        let books = Books::open().await;
        let mut call = books.call(1, 10, 5);
        call.1.usage.counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        books.store.ship("node", &[call.clone()], Checkpoint::default()).await.expect("shipped");
        let row = sqlx::query("SELECT * FROM calls").fetch_one(&books.store.reader).await.expect("a row");
        assert_eq!(read_usage(&row).expect("counts"), call.1.usage);
        let totals: (i64, i64) = (row.get("input_tokens"), row.get("output_tokens"));
        assert_eq!(totals, (21, 34));
        assert_eq!(row.get::<String, _>("request_id"), call.0.call.to_string());
    }

    #[tokio::test]
    async fn absurd_charges_do_not_stop_the_shipper() {
        let books = Books::open().await;
        for number in 0..3 {
            let mut call = books.call(number, 1, 1);
            call.1.charge = NanoUsd::MAX;
            books.store.ship("node", &[call], Checkpoint::default()).await.expect("shipped");
        }
        assert_eq!(books.key().await.spent(), NanoUsd::MAX);
    }

    #[tokio::test]
    async fn usage_is_summed_by_day_by_model_and_by_key() {
        let books = Books::open().await;
        let mut calls: Vec<_> = (0..6).map(|number| books.call(number, 10, 1)).collect();
        for (intent, _) in &mut calls[3..] {
            intent.started = NOW.plus(86_400_000);
            intent.model = "other".into();
        }
        books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
        for spender in [Spender::Key(books.key), Spender::Org(books.org)] {
            let usage = async |since, grouping| {
                let sums = books.store.usage(spender, since, grouping).await;
                sums.expect("sums")
            };
            let days = usage(NOW, Grouping::Day).await;
            let groups: Vec<_> = days.iter().map(|sum| (sum.group.clone(), sum.calls)).collect();
            let day = NOW.day();
            assert_eq!(groups, [(Group::Day(day), 3), (Group::Day(day + 1), 3)]);
            assert_eq!((days[0].input_tokens, days[0].output_tokens), (30, 3));
            let charged: i64 = calls.iter().map(|(_, end)| end.charge.0).sum();
            assert_eq!(days[0].charge.0 * 2, charged);
            let late = usage(NOW.plus(1), Grouping::Model).await;
            assert_eq!(late.len(), 1);
            assert_eq!(late[0].group, Group::Model("other".to_owned()));
            let keys = usage(NOW, Grouping::Key).await;
            assert_eq!((&keys[0].group, keys[0].charge.0), (&Group::Key(books.key.to_string()), charged));
            assert_eq!(keys.len(), 1);
        }
    }

    #[tokio::test]
    async fn prices_are_kept_once_by_content() {
        let books = Books::open().await;
        let known = [(price().id(), price())];
        for _ in 0..2 {
            books.store.remember_prices(&known).await.expect("kept");
        }
        let content: String =
            sqlx::query_scalar("SELECT content FROM prices").fetch_one(&books.store.reader).await.expect("one row");
        let read: Price = serde_json::from_str(&content).expect("a price");
        assert_eq!(read.id(), price().id());
    }
}
