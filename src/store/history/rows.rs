//! Rows of the two tables of calls, as records of one kind.

use super::{CallRecord, PaidPart};
use crate::store::ledger::read_attribution;
use crate::store::{Rows, StoreError, parsed};
use filters::money::NanoUsd;
use filters::route::Route;
use filters::time::EpochMs;
use sqlx::Row;

/// Reads a call that was paid for.
pub(super) fn read_call(row: &Rows) -> Result<CallRecord, StoreError> {
    let route: &str = row.try_get("route")?;
    let outcome: String = row.try_get("outcome")?;
    let (started, ended): (i64, i64) = (row.try_get("started_ms")?, row.try_get("ended_ms")?);
    let [streamed, estimated] = [row.try_get::<i64, _>("streamed")? != 0, row.try_get::<i64, _>("estimated")? != 0];
    let paid = PaidPart {
        provider: row.try_get("provider")?,
        streamed,
        estimated,
        tokens: [row.try_get("input_tokens")?, row.try_get("cache_read_tokens")?, row.try_get("output_tokens")?],
        charge: NanoUsd(row.try_get("charge_nano")?),
        first_byte_ms: row.try_get("first_byte_ms")?,
        attribution: read_attribution(row)?,
    };
    let error: Option<String> = row.try_get("error")?;
    Ok(CallRecord {
        id: parsed(row, "request_id")?,
        method: method(route),
        endpoint: endpoint(route),
        model: row.try_get("model")?,
        status: status(row)?,
        error: error.or_else(|| (outcome != "complete").then_some(outcome)),
        started: EpochMs(started),
        latency_ms: Some((ended - started).max(0)),
        paid: Some(paid),
    })
}

/// Reads one that no provider was asked to serve.
pub(super) fn read_request(row: &Rows) -> Result<CallRecord, StoreError> {
    let route: &str = row.try_get("route")?;
    let written: String = row.try_get("method")?;
    let latency: i64 = row.try_get("latency_ms")?;
    Ok(CallRecord {
        id: parsed(row, "request_id")?,
        method: if written.is_empty() { method(route) } else { written },
        endpoint: endpoint(route),
        model: row.try_get("model")?,
        status: status(row)?,
        error: row.try_get("error")?,
        started: EpochMs(row.try_get("at_ms")?),
        latency_ms: (latency >= 0).then_some(latency),
        paid: None,
    })
}

/// The method of a route's calls: the first where it has several, which only rows of earlier releases need.
fn method(route: &str) -> String {
    let methods = Route::named(route).map(Route::methods).unwrap_or_default();
    methods.first().map(ToString::to_string).unwrap_or_default()
}

fn endpoint(route: &str) -> String {
    Route::named(route).map_or_else(|| route.to_owned(), Route::endpoint)
}

fn status(row: &Rows) -> Result<Option<u16>, StoreError> {
    let status: i64 = row.try_get("status")?;
    Ok(u16::try_from(status).ok().filter(|status| *status != 0))
}
