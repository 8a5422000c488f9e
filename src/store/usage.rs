//! What was used and charged, summed up by day, by model or by key.

use super::{Rows, Store, StoreError};
use filters::id::{KeyId, OrgId};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use sqlx::Row;

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
}

impl Store {
    /// Calls admitted since a moment, by day in order, or by model or key, the dearest first.
    pub async fn usage(
        &self,
        spender: Spender,
        since: EpochMs,
        grouping: Grouping,
    ) -> Result<Vec<UsageSum>, StoreError> {
        // An organisation's calls are found through its keys: an index of their own would be paid for by every call.
        let (of_spender, id) = match spender {
            Spender::Key(key) => ("key_id = $1", key.to_string()),
            Spender::Org(org) => ("key_id IN (SELECT id FROM keys WHERE org = $1)", org.to_string()),
        };
        let (group, order) = match grouping {
            Grouping::Day => ("started_ms / 86400000", "1"),
            Grouping::Model => ("model", "7 DESC, 1"),
            Grouping::Key => ("key_id", "7 DESC, 1"),
        };
        // Sums are cast because PostgreSQL widens them.
        let text = format!(
            "SELECT {group} AS in_group, COUNT(*) AS calls, \
             CAST(SUM(estimated) AS BIGINT) AS estimated, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens, \
             CAST(SUM(cache_read_tokens) AS BIGINT) AS cache_read_tokens, \
             CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(charge_nano) AS BIGINT) AS charge_nano \
             FROM calls WHERE {of_spender} AND started_ms >= $2 GROUP BY 1 ORDER BY {order}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id).bind(since.0).fetch_all(&self.reader).await?;
        rows.iter().map(|row| read_row(row, grouping)).collect()
    }
}

fn read_row(row: &Rows, grouping: Grouping) -> Result<UsageSum, StoreError> {
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
    })
}
