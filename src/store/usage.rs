//! What was used and charged, summed up by day, by model or by key; `buckets.rs`: in buckets of time, by whatever there are sums of.

pub mod buckets;
#[cfg(test)]
mod tests;

use super::ledger::{TAIL, day_from, hour_of, unit_columns};
use super::{Rows, Store, StoreError};
use buckets::{Bucket, Dimension, TOTALS, Totals};
use filters::id::{KeyId, OrgId};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use filters::usage::Kind;
use sqlx::Row;
use std::collections::BTreeMap;

/// Whose usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spender {
    /// One key's.
    Key(KeyId),
    /// That of all keys of an organisation.
    Org(OrgId),
}

/// What calls are put together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// The UTC day on which they were admitted.
    Day,
    /// The model's name in the catalogue.
    Model,
    /// The key that called.
    Key,
}

/// What the calls of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Days since 1970-01-01 UTC.
    Day(i64),
    /// The model's name in the catalogue.
    Model(String),
    /// The key's identifier.
    Key(String),
    /// What is told apart in sums of organisations; an empty name for what has none.
    Named(Dimension, String),
}

/// A group of calls, summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSum {
    /// What they have in common.
    pub group: Group,
    /// How many they are.
    pub calls: i64,
    /// How many of them were charged by an estimate.
    pub estimated: i64,
    /// All input tokens.
    pub input_tokens: i64,
    /// Those of them that came from a cache.
    pub cache_read_tokens: i64,
    /// All output tokens.
    pub output_tokens: i64,
    /// What they were charged.
    pub charge: NanoUsd,
    /// What they used beside tokens, in the order of [`Kind::UNITS`].
    pub units: [i64; Kind::UNITS.len()],
}

impl UsageSum {
    /// What each name used in all buckets, the dearest first.
    #[must_use]
    pub fn of_names(by: Dimension, buckets: Vec<Bucket>) -> Vec<Self> {
        let mut names: BTreeMap<String, Totals> = BTreeMap::new();
        for bucket in buckets {
            names.entry(bucket.name).or_default().add(&bucket.totals);
        }
        let sum = |(name, Totals(figures))| {
            let [calls, estimated, input_tokens, output_tokens, cache_read_tokens, .., charge]: [i64; TOTALS] = figures;
            let [.., web, images, audio_milliseconds, characters, search_units, _] = figures;
            Self {
                group: Group::Named(by, name),
                calls,
                estimated,
                input_tokens,
                cache_read_tokens,
                output_tokens,
                charge: NanoUsd(charge),
                units: [web, images, audio_milliseconds, characters, search_units],
            }
        };
        let mut sums: Vec<Self> = names.into_iter().map(sum).collect();
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.charge));
        sums
    }
}

/// What is read of each part: the sums by day of whole days, the sums by hour of the hours before them, and the calls that
/// are in no sum yet. Days and hours are counted out, because the tables are ordered by time first and then by key.
const PARTS: &str = "WITH RECURSIVE whose (id) AS (SELECT id FROM keys WHERE {of_spender}), \
     days (from_ms) AS (SELECT CAST($3 AS BIGINT) \
         UNION ALL SELECT from_ms + 86400000 FROM days WHERE from_ms < (SELECT MAX(day_ms) FROM usage_days)), \
     hours (from_ms) AS (SELECT CAST($2 AS BIGINT) WHERE CAST($2 AS BIGINT) < CAST($3 AS BIGINT) \
         UNION ALL SELECT from_ms + 3600000 FROM hours WHERE from_ms + 3600000 < CAST($3 AS BIGINT)), \
     parts (at_ms, key_id, model, calls, estimated, input_tokens, cache_read_tokens, output_tokens, charge_nano{units}) AS ( \
         SELECT u.day_ms, u.key_id, u.model, u.calls, u.estimated, u.input_tokens, u.cache_read_tokens, u.output_tokens, \
             u.charge_nano{units} \
         FROM days CROSS JOIN whose CROSS JOIN usage_days u WHERE u.day_ms = days.from_ms AND u.key_id = whose.id \
         UNION ALL \
         SELECT u.hour_ms, u.key_id, u.model, u.calls, u.estimated, u.input_tokens, u.cache_read_tokens, u.output_tokens, \
             u.charge_nano{units} \
         FROM hours CROSS JOIN whose CROSS JOIN usage_hours u WHERE u.hour_ms = hours.from_ms AND u.key_id = whose.id \
         UNION ALL \
         SELECT c.started_ms, c.key_id, c.model, 1, c.estimated, c.input_tokens, c.cache_read_tokens, c.output_tokens, \
             c.charge_nano{units} \
         FROM {tail} AND c.started_ms >= CAST($2 AS BIGINT) AND c.key_id IN (SELECT id FROM whose))";

impl Store {
    /// Calls admitted since the beginning of a moment's hour, by day in order, or by model or key, the dearest first.
    pub async fn usage(
        &self,
        spender: Spender,
        since: EpochMs,
        grouping: Grouping,
    ) -> Result<Vec<UsageSum>, StoreError> {
        let (of_spender, id) = match spender {
            Spender::Key(key) => ("id = $1", key.to_string()),
            Spender::Org(org) => ("org = $1", org.to_string()),
        };
        let (group, order) = match grouping {
            Grouping::Day => ("at_ms / 86400000", "1"),
            Grouping::Model => ("model", "7 DESC, 1"),
            Grouping::Key => ("key_id", "7 DESC, 1"),
        };
        let units: String = unit_columns().map(|column| format!(", {column}")).collect();
        let parts = PARTS.replace("{of_spender}", of_spender).replace("{tail}", TAIL).replace("{units}", &units);
        let sums: String =
            unit_columns().map(|column| format!(", CAST(SUM({column}) AS BIGINT) AS {column}")).collect();
        // Sums are cast because PostgreSQL widens them.
        let text = format!(
            "{parts} SELECT {group} AS in_group, CAST(SUM(calls) AS BIGINT) AS calls, \
             CAST(SUM(estimated) AS BIGINT) AS estimated, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens, \
             CAST(SUM(cache_read_tokens) AS BIGINT) AS cache_read_tokens, \
             CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(charge_nano) AS BIGINT) AS charge_nano{sums} \
             FROM parts GROUP BY 1 ORDER BY {order}"
        );
        // There were no calls before 1970, and each day since then is a step.
        let since = hour_of(since.max(EpochMs(0)));
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(id)
            .bind(since.0)
            .bind(day_from(since).0)
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(|row| read_row(row, grouping)).collect()
    }
}

fn read_row(row: &Rows, grouping: Grouping) -> Result<UsageSum, StoreError> {
    let mut units = [0; Kind::UNITS.len()];
    for (unit, column) in units.iter_mut().zip(unit_columns()) {
        *unit = row.try_get(column)?;
    }
    Ok(UsageSum {
        group: match grouping {
            Grouping::Day => Group::Day(row.try_get("in_group")?),
            Grouping::Model => Group::Model(row.try_get("in_group")?),
            Grouping::Key => Group::Key(row.try_get("in_group")?),
        },
        calls: row.try_get("calls")?,
        estimated: row.try_get("estimated")?,
        input_tokens: row.try_get("input_tokens")?,
        cache_read_tokens: row.try_get("cache_read_tokens")?,
        output_tokens: row.try_get("output_tokens")?,
        charge: NanoUsd(row.try_get("charge_nano")?),
        units,
    })
}
