//! The calls of a key, newest first: those that were paid for, and those that no provider was asked to serve.
//!
//! Paid calls have no index by key: every key's rows would lie on a page of their own. But their ids begin with the time, and the sums of
//! usage say in which hours a key has called. So those hours are looked through, a bounded number of rows for each page; where
//! that ends before the page is full, the next one goes on from there. `rows.rs` reads the rows.

mod rows;

use super::engine::On;
use super::ledger::{TAIL, hour_of};
use super::{Engine, Store, StoreError, Transaction};
use filters::attribution::Attribution;
use filters::id::{CallId, KeyId, bits};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use rows::{read_call, read_request};
use sqlx::{AssertSqlSafe, QueryBuilder, Row};
use std::collections::BTreeSet;

/// Rows that are looked through for one page.
const ROWS_MAX: i64 = 20_000;
/// What a look costs that finds nothing, in rows.
const LOOK_ROWS: i64 = 64;
/// Calls that wait for their sums, of all keys, among which those of a key are looked for.
const TAIL_ROWS_MAX: i64 = 20_000;
/// Days with calls that are gone through for one page.
const DAYS_MAX: i64 = 32;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Which calls of a key.
#[derive(Clone, Debug)]
pub struct CallsWanted {
    /// The key.
    pub key: KeyId,
    /// Admitted since then.
    pub from: EpochMs,
    /// And before then.
    pub to: EpochMs,
    /// With a status from the first to the last of these.
    pub status: Option<(u16, u16)>,
    /// Of this model.
    pub model: Option<String>,
    /// With this error, or this outcome where there is none.
    pub error: Option<String>,
}

/// A call of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// What the client got as `x-request-id`.
    pub id: CallId,
    /// With which method.
    pub method: String,
    /// The path, `{model}` or `{id}` for a name in it.
    pub endpoint: String,
    /// The model's name in the catalogue, where one was found.
    pub model: Option<String>,
    /// The HTTP status that the client got; none if none was sent.
    pub status: Option<u16>,
    /// Why it failed: a code of the public error table, or how it ended otherwise.
    pub error: Option<String>,
    /// When it was admitted.
    pub started: EpochMs,
    /// Milliseconds from then to its end, where that is known.
    pub latency_ms: Option<i64>,
    /// What a provider did for it; nothing where none was asked.
    pub paid: Option<PaidPart>,
}

/// What a provider did for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaidPart {
    /// Who answered.
    pub provider: String,
    /// Whether the answer was a stream.
    pub streamed: bool,
    /// Whether it was charged by an estimate.
    pub estimated: bool,
    /// All input tokens, those of them that came from a cache, all output tokens.
    pub tokens: [i64; 3],
    /// What it was charged.
    pub charge: NanoUsd,
    /// Milliseconds to the first byte for the client.
    pub first_byte_ms: i64,
    /// For whom and for what it was.
    pub attribution: Option<Attribution>,
}

/// A page of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallsPage {
    /// They, newest first; fewer than asked for, even none, where looking for them went as far as it may.
    pub calls: Vec<CallRecord>,
    /// Where the next page begins, if there may be one.
    pub next: Option<CallId>,
}

/// Ids from one on, and before another.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: CallId,
    before: CallId,
}

/// What was found, and from where on that is all.
struct Found {
    calls: Vec<CallRecord>,
    complete_from: CallId,
}

/// The two tables of calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Calls,
    Requests,
}

impl Store {
    /// A page of a key's calls: those before an id, if one is named. Calls whose sums wait to come on the books may be missing
    /// where very many wait.
    pub async fn calls_of_key(
        &self,
        wanted: &CallsWanted,
        before: Option<CallId>,
        limit: usize,
    ) -> Result<CallsPage, StoreError> {
        let first = |moment: EpochMs| CallId(bits(moment.max(EpochMs(0)), [0; 10]));
        let end = first(wanted.to);
        let span = Span { from: first(wanted.from), before: before.map_or(end, |before| before.min(end)) };
        if span.from >= span.before || limit == 0 {
            return Ok(CallsPage::default());
        }
        let mut snapshot = self.database.snapshot().await?;
        let mut rows_left = ROWS_MAX;
        let free = look_through(&mut snapshot, Table::Requests, wanted, span, (limit, &mut rows_left)).await?;
        // What is older than the last that is known of the others is for the next page.
        let paid_span = Span { from: free.complete_from, ..span };
        let paid = paid_calls(&mut snapshot, wanted, paid_span, limit).await?;
        let complete_from = free.complete_from.max(paid.complete_from);
        let mut calls = free.calls;
        calls.extend(paid.calls);
        calls.retain(|call| call.id >= complete_from);
        calls.sort_unstable_by_key(|call| std::cmp::Reverse(call.id));
        let next = if calls.len() > limit {
            calls.truncate(limit);
            calls.last().map(|last| last.id)
        } else {
            (complete_from > span.from).then_some(complete_from)
        };
        Ok(CallsPage { calls, next })
    }
}

/// Looks through the hours in which a key has called, the last first.
async fn paid_calls(
    snapshot: &mut Transaction,
    wanted: &CallsWanted,
    span: Span,
    limit: usize,
) -> Result<Found, StoreError> {
    let mut found = Found { calls: Vec::new(), complete_from: span.before };
    let (waiting, mut rows_left) = (waiting_hours(snapshot, wanted.key).await?, ROWS_MAX);
    let days = days_with_calls(snapshot, wanted, span, &waiting).await?;
    for day in days.iter().rev().take(DAYS_MAX as usize) {
        for hour in hours_with_calls(snapshot, wanted, *day, &waiting).await?.into_iter().rev() {
            let hours_span = Span {
                from: CallId(bits(hour, [0; 10])).max(span.from),
                before: CallId(bits(hour.plus(HOUR_MS), [0; 10])).min(span.before),
            };
            if hours_span.from >= hours_span.before {
                continue;
            }
            rows_left -= LOOK_ROWS;
            let room = limit.saturating_sub(found.calls.len());
            let part = look_through(snapshot, Table::Calls, wanted, hours_span, (room, &mut rows_left)).await?;
            found.calls.extend(part.calls);
            found.complete_from = part.complete_from;
            if found.calls.len() >= limit || part.complete_from > hours_span.from || rows_left <= 0 {
                return Ok(found);
            }
        }
        found.complete_from = CallId(bits(*day, [0; 10])).max(span.from);
    }
    if days.len() <= DAYS_MAX as usize {
        found.complete_from = span.from;
    }
    Ok(found)
}

/// Looks through rows of a span from its end on, until enough are found or as many were looked at as may be.
async fn look_through(
    snapshot: &mut Transaction,
    table: Table,
    wanted: &CallsWanted,
    span: Span,
    (limit, rows_left): (usize, &mut i64),
) -> Result<Found, StoreError> {
    let mut found = Found { calls: Vec::new(), complete_from: span.before };
    // Where all of the first rows are the key's, it is not worth looking at more; then more and more at a time.
    let mut rows = i64::try_from(limit).unwrap_or(i64::MAX).clamp(1, 100) * 2;
    while *rows_left > 0 && found.calls.len() < limit && found.complete_from > span.from {
        let stretch = Span { before: found.complete_from, ..span };
        let (count, first) = looked_at(snapshot, table, wanted.key, stretch, rows.min(*rows_left)).await?;
        let is_last = count < rows.min(*rows_left);
        let from = if is_last { span.from } else { first.unwrap_or(span.from) };
        found.calls.extend(select(snapshot, table, wanted, Span { from, ..stretch }).await?);
        found.complete_from = from;
        *rows_left -= count;
        rows = rows.saturating_mul(4);
    }
    Ok(found)
}

/// How many of the last rows of a span there are, up to a number, and the first id among them.
async fn looked_at(
    snapshot: &mut Transaction,
    table: Table,
    key: KeyId,
    span: Span,
    rows: i64,
) -> Result<(i64, Option<CallId>), StoreError> {
    let mut query = QueryBuilder::<Engine>::new(
        "SELECT COUNT(*) AS looked_at, MIN(request_id) AS request_id FROM (SELECT request_id FROM ",
    );
    push_span(&mut query, table, key, span);
    query.push(" ORDER BY request_id DESC LIMIT ").push_bind(rows).push(") c");
    let row = query.on(snapshot).fetch_one(&mut **snapshot).await?;
    let first: Option<String> = row.try_get("request_id")?;
    let first = first.map(|text| text.parse().map_err(|_| StoreError::Corrupt { column: "request_id", content: text }));
    Ok((row.try_get("looked_at")?, first.transpose()?))
}

/// The wanted rows of a span whose length is known to be bounded.
async fn select(
    snapshot: &mut Transaction,
    table: Table,
    wanted: &CallsWanted,
    span: Span,
) -> Result<Vec<CallRecord>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new(match table {
        Table::Calls => {
            "SELECT request_id, route, model, provider, streamed, status, error, outcome, estimated, input_tokens, \
             cache_read_tokens, output_tokens, charge_nano, started_ms, first_byte_ms, ended_ms, end_user, tags FROM "
        }
        Table::Requests => "SELECT request_id, route, method, model, status, error, at_ms, latency_ms FROM ",
    });
    push_span(&mut query, table, wanted.key, span);
    if table == Table::Calls {
        query.push(" AND key_id = ").push_bind(wanted.key.to_string());
    }
    if let Some((first, last)) = wanted.status {
        query.push(" AND status >= ").push_bind(i64::from(first)).push(" AND status <= ").push_bind(i64::from(last));
    }
    if let Some(model) = &wanted.model {
        query.push(" AND model = ").push_bind(&**model);
    }
    match (&wanted.error, table) {
        (Some(error), Table::Calls) => {
            query.push(" AND COALESCE(error, outcome) = ").push_bind(&**error);
        }
        (Some(error), Table::Requests) => _ = query.push(" AND error = ").push_bind(&**error),
        (None, _) => {}
    }
    let rows = query.on(snapshot).fetch_all(&mut **snapshot).await?;
    let mut calls: Vec<CallRecord> = match table {
        Table::Calls => rows.iter().map(read_call).collect::<Result<_, _>>()?,
        Table::Requests => rows.iter().map(read_request).collect::<Result<_, _>>()?,
    };
    calls.sort_unstable_by_key(|call| std::cmp::Reverse(call.id));
    Ok(calls)
}

fn push_span(query: &mut QueryBuilder<Engine>, table: Table, key: KeyId, span: Span) {
    match table {
        Table::Calls => query.push("calls WHERE request_id >= "),
        Table::Requests => {
            query.push("requests WHERE key_id = ").push_bind(key.to_string()).push(" AND request_id >= ")
        }
    };
    query.push_bind(span.from.to_string()).push(" AND request_id < ").push_bind(span.before.to_string());
}

/// The hours of a key's calls that are in no sum yet.
async fn waiting_hours(snapshot: &mut Transaction, key: KeyId) -> Result<BTreeSet<EpochMs>, StoreError> {
    let text = format!(
        "SELECT DISTINCT t.started_ms - t.started_ms % {HOUR_MS} AS hour_ms FROM \
         (SELECT c.key_id, c.started_ms FROM {TAIL} LIMIT {TAIL_ROWS_MAX}) t WHERE t.key_id = $1"
    );
    let rows = sqlx::query_scalar(AssertSqlSafe(text)).bind(key.to_string()).fetch_all(&mut **snapshot).await?;
    Ok(rows.into_iter().map(EpochMs).collect())
}

/// The days on which a key called, as many of the last as are gone through, and one more if there are others.
async fn days_with_calls(
    snapshot: &mut Transaction,
    wanted: &CallsWanted,
    span: Span,
    waiting: &BTreeSet<EpochMs>,
) -> Result<BTreeSet<EpochMs>, StoreError> {
    let day = |id: CallId| EpochMs((time_of(id).day()) * DAY_MS);
    let created = sqlx::query_scalar::<_, i64>("SELECT created_ms FROM keys WHERE id = $1");
    let created = created.bind(wanted.key.to_string()).fetch_optional(&mut **snapshot).await?;
    // Nobody calls before the key is made, but clocks differ.
    let first = created.map_or(0, |created| EpochMs(created).plus(-DAY_MS).day() * DAY_MS);
    let (first, last) = (day(span.from).0.max(first), day(CallId(span.before.0 - 1)).0);
    let mut query = QueryBuilder::<Engine>::new("WITH RECURSIVE days (from_ms) AS (SELECT CAST(");
    query.push_bind(last).push(" AS BIGINT) UNION ALL SELECT from_ms - 86400000 FROM days WHERE from_ms > CAST(");
    query
        .push_bind(first)
        .push(" AS BIGINT)) SELECT from_ms FROM days WHERE EXISTS (SELECT 1 FROM usage_days u WHERE ");
    query.push("u.day_ms = days.from_ms AND u.key_id = ").push_bind(wanted.key.to_string());
    push_model(&mut query, wanted);
    query.push(") ORDER BY from_ms DESC LIMIT ").push_bind(DAYS_MAX + 1);
    let rows = query.on(snapshot).fetch_all(&mut **snapshot).await?;
    let mut days = rows.iter().map(|row| row.try_get(0).map(EpochMs)).collect::<Result<BTreeSet<_>, _>>()?;
    days.extend(waiting.iter().map(|hour| EpochMs(hour.day() * DAY_MS)).filter(|day| (first..=last).contains(&day.0)));
    Ok(days)
}

/// The hours of a day in which a key called.
async fn hours_with_calls(
    snapshot: &mut Transaction,
    wanted: &CallsWanted,
    day: EpochMs,
    waiting: &BTreeSet<EpochMs>,
) -> Result<BTreeSet<EpochMs>, StoreError> {
    let hours: Vec<String> = (0..24).map(|hour| format!("({})", day.0 + hour * HOUR_MS)).collect();
    let mut query = QueryBuilder::<Engine>::new("WITH hours (from_ms) AS (VALUES ");
    query.push(hours.join(", ")).push(") SELECT from_ms FROM hours WHERE EXISTS (SELECT 1 FROM usage_hours u WHERE ");
    query.push("u.hour_ms = hours.from_ms AND u.key_id = ").push_bind(wanted.key.to_string());
    push_model(&mut query, wanted);
    query.push(")");
    let rows = query.on(snapshot).persistent(false).fetch_all(&mut **snapshot).await?;
    let mut hours = rows.iter().map(|row| row.try_get(0).map(EpochMs)).collect::<Result<BTreeSet<_>, _>>()?;
    hours.extend(waiting.iter().filter(|hour| hour.day() == day.day()));
    Ok(hours)
}

fn push_model(query: &mut QueryBuilder<Engine>, wanted: &CallsWanted) {
    if let Some(model) = &wanted.model {
        query.push(" AND u.model = ").push_bind(&**model);
    }
}

/// When the call was admitted that an id names.
fn time_of(id: CallId) -> EpochMs {
    hour_of(EpochMs(i64::try_from(id.0 >> 80).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests;
