//! Some calls on their way from rows to sums.

use super::month_of;
use crate::store::engine::On;
use crate::store::ledger::{Figures, figure_columns, hour_of, push_addition, read_figures, read_shares};
use crate::store::{Connection, Engine, LIST_MAX, Rows, StoreError, push_list};
use filters::id::{OrgId, QuotaId};
use filters::ports::Share;
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeMap, HashMap};

/// A call that goes.
struct Call {
    node: String,
    model: String,
    shares: Vec<Share>,
}

/// What the rows of a batch add up to.
#[derive(Default)]
struct Sums {
    /// By month, of calls and of amendments.
    closings: BTreeMap<(EpochMs, &'static str), Figures>,
    /// By quota, period and node.
    shares: BTreeMap<(Share, String), i64>,
    /// By hour, key and model.
    amendments: BTreeMap<(EpochMs, String, String), i64>,
}

/// Sums up the next calls of an organisation that began before a moment, those after an identifier, and deletes them with all that
/// stands beside them. Gives the last identifier and their number; nothing if there are none.
pub(super) async fn batch(
    connection: &mut Connection,
    org: OrgId,
    cutoff: EpochMs,
    after: &str,
) -> Result<Option<(String, u64)>, StoreError> {
    let rows = select_calls(org, cutoff, after).on(connection).fetch_all(&mut *connection).await?;
    let mut ids = Vec::with_capacity(rows.len());
    let (mut sums, mut calls) = (Sums::default(), HashMap::new());
    for row in &rows {
        let id: String = row.try_get("request_id")?;
        let call = read_call(connection, row, org).await?;
        let figures = read_figures(row, 6)?;
        sums.close(EpochMs(row.try_get("started_ms")?), "calls", &figures);
        sums.share(&call, figures.charge());
        ids.push(id.clone());
        calls.insert(id, call);
    }
    let Some(last) = ids.last().cloned() else { return Ok(None) };
    for row in select_amendments(&ids).on(connection).fetch_all(&mut *connection).await? {
        let Some(call) = calls.get(row.try_get::<&str, _>("request_id")?) else { continue };
        let (at, figures) = (EpochMs(row.try_get("at_ms")?), read_figures(&row, 3)?);
        sums.close(at, "amendments", &figures);
        sums.share(call, figures.charge());
        let line = (hour_of(at), row.try_get("key_id")?, call.model.clone());
        *sums.amendments.entry(line).or_default() += figures.charge();
    }
    sums.write(connection, org).await?;
    for table in ["attempts", "amendments", "calls"] {
        let mut query = QueryBuilder::<Engine>::new(format!("DELETE FROM {table} WHERE request_id IN "));
        push_list(&mut query, &ids, |id| &**id);
        query.on(connection).execute(&mut *connection).await?;
    }
    Ok(Some((last, ids.len() as u64)))
}

/// Those whose sums are on the books.
fn select_calls(org: OrgId, cutoff: EpochMs, after: &str) -> QueryBuilder<Engine> {
    let mut query =
        QueryBuilder::<Engine>::new("SELECT c.request_id, c.node, c.key_id, c.model, c.started_ms, c.shares");
    push_figures(&mut query, "c", &["calls"]);
    query
        .push(" FROM calls c LEFT JOIN checkpoints n ON n.node = c.node WHERE c.request_id > ")
        .push_bind(after.to_owned());
    query.push(" AND c.request_id < ").push_bind(before(cutoff)).push(" AND c.org_id = ").push_bind(org.to_string());
    query.push(" AND c.started_ms < ").push_bind(cutoff.0);
    query.push(" AND c.seq <= COALESCE(n.merged_through, c.seq) ORDER BY c.request_id LIMIT ");
    query.push_bind(LIST_MAX as i64);
    query
}

/// Identifiers of calls that began before a moment sort before this.
fn before(cutoff: EpochMs) -> String {
    filters::id::CallId(filters::id::bits(cutoff, [0; 10])).to_string()
}

fn select_amendments(ids: &[String]) -> QueryBuilder<Engine> {
    let mut query = QueryBuilder::<Engine>::new("SELECT a.request_id, a.key_id, a.at_ms");
    push_figures(&mut query, "a", &["calls", "estimated"]);
    query.push(" FROM amendments a WHERE a.request_id IN ");
    push_list(&mut query, ids, |id| id.clone());
    query
}

/// The columns of figures of a table that lacks some: those count 1 a call, and nothing else.
fn push_figures(query: &mut QueryBuilder<Engine>, table: &str, absent: &[&str]) {
    for column in figure_columns() {
        if absent.contains(&column) {
            query.push(if table == "c" { ", CAST(1 AS BIGINT) AS " } else { ", CAST(0 AS BIGINT) AS " }).push(column);
        } else {
            query.push(", ").push(table).push(".").push(column);
        }
    }
}

async fn read_call(connection: &mut Connection, row: &Rows, org: OrgId) -> Result<Call, StoreError> {
    let mut shares = read_shares(row)?;
    if shares.is_empty() {
        // Rows of the first releases name no quotas: there were two.
        let totals = "SELECT id FROM quotas WHERE (owner = $1 AND kind = 'spend' AND unit = 'total' AND model = '') \
             OR (owner = $2 AND kind = 'balance')";
        let ids = sqlx::query(totals).bind(row.try_get::<String, _>("key_id")?).bind(org.to_string());
        for row in ids.fetch_all(connection).await? {
            shares.push(Share { quota: QuotaId(row.try_get("id")?), period: EpochMs(0) });
        }
    }
    Ok(Call { node: row.try_get("node")?, model: row.try_get("model")?, shares })
}

impl Sums {
    fn close(&mut self, at: EpochMs, kind: &'static str, figures: &Figures) {
        self.closings.entry((month_of(at), kind)).or_default().add(figures);
    }

    fn share(&mut self, call: &Call, charge: i64) {
        for share in &call.shares {
            let sum = self.shares.entry((*share, call.node.clone())).or_default();
            *sum = sum.saturating_add(charge);
        }
    }

    async fn write(&self, connection: &mut Connection, org: OrgId) -> Result<(), StoreError> {
        let mut query = QueryBuilder::<Engine>::new("INSERT INTO closings (org, month_ms, kind");
        for column in figure_columns() {
            query.push(", ").push(column);
        }
        query.push(") ");
        query.push_values(&self.closings, |mut row, ((month, kind), figures)| {
            row.push_bind(org.to_string()).push_bind(month.0).push_bind(*kind);
            for figure in figures.0 {
                row.push_bind(figure);
            }
        });
        query.push(" ON CONFLICT (org, month_ms, kind) DO UPDATE SET ");
        for (place, column) in figure_columns().enumerate() {
            query.push(if place == 0 { "" } else { ", " });
            push_addition(&mut query, "closings", column);
        }
        query.on(connection).persistent(false).execute(&mut *connection).await?;
        let shares: Vec<_> = self.shares.iter().collect();
        for chunk in shares.chunks(LIST_MAX) {
            let mut query =
                QueryBuilder::<Engine>::new("INSERT INTO folded_shares (quota, period_ms, node, charge_nano) ");
            query.push_values(chunk, |mut row, ((share, node), charge)| {
                row.push_bind(share.quota.0).push_bind(share.period.0).push_bind(&**node).push_bind(**charge);
            });
            query.push(" ON CONFLICT (quota, period_ms, node) DO UPDATE SET ");
            push_addition(&mut query, "folded_shares", "charge_nano");
            query.on(connection).persistent(false).execute(&mut *connection).await?;
        }
        self.write_amendments(connection, org).await
    }

    async fn write_amendments(&self, connection: &mut Connection, org: OrgId) -> Result<(), StoreError> {
        let amendments: Vec<_> = self.amendments.iter().collect();
        for chunk in amendments.chunks(LIST_MAX) {
            let mut query = QueryBuilder::<Engine>::new(
                "INSERT INTO folded_amendments (hour_ms, org, key_id, model, charge_nano) ",
            );
            query.push_values(chunk, |mut row, ((hour, key, model), charge)| {
                row.push_bind(hour.0).push_bind(org.to_string()).push_bind(&**key).push_bind(&**model);
                row.push_bind(**charge);
            });
            query.push(" ON CONFLICT (hour_ms, org, key_id, model) DO UPDATE SET ");
            push_addition(&mut query, "folded_amendments", "charge_nano");
            query.on(connection).persistent(false).execute(&mut *connection).await?;
        }
        Ok(())
    }
}
