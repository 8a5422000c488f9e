//! The calls of a key: a page of them, or all as CSV or JSON lines.

use super::caller::Caller;
use super::input::{Named, Params, filter, moment_or_date};
use super::money::Told;
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::history::{CallRecord, CallsWanted};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use filters::id::{CallId, KeyId};
use filters::money::CreditUnit;
use filters::time::EpochMs;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Most calls of one export, which goes on with the last one's id as `cursor`.
const EXPORTED_MAX: usize = 100_000;
/// Calls that are read for an export at a time.
const EXPORTED_AT_ONCE: usize = 1_000;
const DAY_MS: i64 = 86_400_000;

/// Which calls of a key.
#[derive(Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CallsParams {
    /// How many: 10, 25, 50 or 100; not for exports.
    #[param(minimum = 10, maximum = 100, default = 25, required = false)]
    limit: Option<u32>,
    /// What the page before said in `next_cursor`, or the id of the last call that is known.
    #[param(required = false, max_length = 512)]
    cursor: Option<String>,
    /// A status such as `404`, or a class of them such as `4xx`.
    #[param(pattern = "^[1-5](xx|[0-9][0-9])$", example = "4xx")]
    status: Option<String>,
    /// The model's name in the catalogue.
    #[param(max_length = 128)]
    model: Option<String>,
    /// A code of an error, or how a call ended otherwise: `client_gone`, `cut`, `complete` …
    #[param(max_length = 128)]
    error: Option<String>,
    /// Since when: an RFC 3339 moment or a date.
    #[param(example = "2026-01-15")]
    from: Option<String>,
    /// Until when: an RFC 3339 moment or a date, which is not among it.
    #[param(example = "2026-02-01T00:00:00Z")]
    to: Option<String>,
    /// `json` is a page; `csv` and `jsonl` are all of them, up to 100 000.
    #[param(inline)]
    format: Option<Format>,
}

/// How calls are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A page.
    #[default]
    Json,
    /// A table.
    Csv,
    /// An object a line; where more follow, the last line has only a `next_cursor`.
    Jsonl,
}

/// A call of a key.
#[derive(Serialize, ToSchema)]
pub struct CallView {
    /// What the client got as `x-request-id`.
    id: String,
    method: String,
    /// The path, `{model}` or `{id}` for a name in it.
    endpoint: String,
    model: Option<String>,
    /// Who answered; null where no provider was asked.
    provider: Option<String>,
    /// Null where none was sent, because the client left first or the process died.
    status: Option<u16>,
    /// A code of the table of errors, or how the call ended otherwise, such as `client_gone`; null where it was answered.
    error: Option<String>,
    streamed: bool,
    /// Whether it was charged by an estimate.
    estimated: bool,
    input_tokens: i64,
    cache_read_tokens: i64,
    output_tokens: i64,
    /// Exact, in US dollars.
    cost_usd: String,
    /// In whole millionths of a dollar, rounded down.
    cost_micros: i64,
    /// In credits, where a credit is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_credits: Option<String>,
    /// From its admission to its end.
    latency_ms: Option<i64>,
    /// From its admission to the first byte for the client.
    first_byte_ms: Option<i64>,
    started_at: String,
    /// The end user whom the client named.
    user: Option<String>,
    tags: Vec<String>,
}

const COLUMNS: [&str; 19] = [
    "id",
    "method",
    "endpoint",
    "model",
    "provider",
    "status",
    "error",
    "streamed",
    "estimated",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "cost_usd",
    "cost_micros",
    "latency_ms",
    "first_byte_ms",
    "started_at",
    "user",
    "tags",
];

impl CallView {
    fn of(unit: Option<CreditUnit>, record: CallRecord) -> Self {
        let paid = record.paid.as_ref();
        let charge = paid.map(|paid| paid.charge).unwrap_or_default();
        let cost = Told::of(unit, charge);
        let [input_tokens, cache_read_tokens, output_tokens] = paid.map(|paid| paid.tokens).unwrap_or_default();
        let attribution = paid.and_then(|paid| paid.attribution.as_ref());
        Self {
            id: record.id.to_string(),
            provider: paid.map(|paid| paid.provider.clone()),
            streamed: paid.is_some_and(|paid| paid.streamed),
            estimated: paid.is_some_and(|paid| paid.estimated),
            input_tokens,
            cache_read_tokens,
            output_tokens,
            cost_usd: cost.usd,
            cost_micros: charge.0.div_euclid(1_000),
            cost_credits: cost.credits,
            first_byte_ms: paid.map(|paid| paid.first_byte_ms),
            user: attribution.and_then(|attribution| attribution.user.as_deref().map(str::to_owned)),
            tags: attribution.into_iter().flat_map(|attribution| &attribution.tags).map(ToString::to_string).collect(),
            started_at: stamp(record.started),
            method: record.method,
            endpoint: record.endpoint,
            model: record.model,
            status: record.status,
            error: record.error,
            latency_ms: record.latency_ms,
        }
    }

    fn csv(&self) -> String {
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        let cells: [String; COLUMNS.len()] = [
            self.id.clone(),
            cell(&self.method),
            cell(&self.endpoint),
            cell(self.model.as_deref().unwrap_or_default()),
            cell(self.provider.as_deref().unwrap_or_default()),
            self.status.map(|status| status.to_string()).unwrap_or_default(),
            cell(self.error.as_deref().unwrap_or_default()),
            self.streamed.to_string(),
            self.estimated.to_string(),
            self.input_tokens.to_string(),
            self.cache_read_tokens.to_string(),
            self.output_tokens.to_string(),
            self.cost_usd.clone(),
            self.cost_micros.to_string(),
            number(self.latency_ms),
            number(self.first_byte_ms),
            self.started_at.clone(),
            cell(self.user.as_deref().unwrap_or_default()),
            cell(&self.tags.join(" ")),
        ];
        cells.join(",") + "\r\n"
    }
}

/// A text as CSV has it (RFC 4180). What a table would take for a formula is marked as text: clients choose their users' names.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let marked = if is_formula { format!("'{text}") } else { text.to_owned() };
    if marked.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", marked.replace('"', "\"\"")) } else { marked }
}

impl CallsParams {
    fn wanted(&self, key: KeyId, now: EpochMs) -> Result<CallsWanted, Refusal> {
        let read = |param, text: &Option<String>| text.as_deref().map(|text| moment_or_date(param, text)).transpose();
        let end = now.plus(DAY_MS);
        Ok(CallsWanted {
            key,
            from: read("from", &self.from)?.unwrap_or_default(),
            to: read("to", &self.to)?.unwrap_or(end).min(end),
            status: self.status.as_deref().map(statuses).transpose()?,
            model: filter("model", self.model.clone())?,
            error: filter("error", self.error.clone())?,
        })
    }
}

/// The first and the last status that a filter lets through.
fn statuses(text: &str) -> Result<(u16, u16), Refusal> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
    match (class, text.parse::<u16>()) {
        (Some(class @ 1..=5), _) => Ok((class * 100, class * 100 + 99)),
        (None, Ok(status @ 100..=599)) => Ok((status, status)),
        _ => Err(Refusal::validation("status", "Send a status such as 404, or a class of them such as 4xx.")),
    }
}

/// Lists a key's calls, newest first: those that were paid for, and those that were refused or answered without a provider, which are
/// noted as far as is cheap. Where looking for them takes long, a page may have fewer than were asked for, even none, and a
/// `next_cursor` all the same.
#[utoipa::path(get, path = "/api/keys/{key}/calls", tag = "keys", operation_id = "list_calls",
    params(("key" = String, Path), CallsParams),
    responses((status = 200, content((Listed<CallView> = "application/json"), (String = "text/csv"),
        (String = "application/x-ndjson")))))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(key): Named<KeyId>,
    Params(params): Params<CallsParams>,
) -> Result<Response, Refusal> {
    let record = control.store.key(key, caller.now()).await?;
    let permitted = caller.with_object(record.org, "key")?;
    if permitted.only_key.is_some_and(|own| own != key) {
        return Err(Refusal::not_found("key"));
    }
    let wanted = params.wanted(key, caller.now())?;
    let page = Page { limit: params.limit, cursor: params.cursor.clone() };
    let before = page.after::<CallId>()?;
    match params.format.unwrap_or_default() {
        Format::Json => {
            let page = control.store.calls_of_key(&wanted, before, page.size()? as usize).await?;
            let unit = control.settings.credit_unit;
            let data = page.calls.into_iter().map(|call| CallView::of(unit, call)).collect();
            let next_cursor = page.next.map(|next| next.to_string());
            Ok(Json(Listed { data, next_cursor }).into_response())
        }
        format @ (Format::Csv | Format::Jsonl) => {
            let export = Export { control, wanted, format, next: Some(before), sent: 0 };
            Ok(export.response())
        }
    }
}

/// Calls on their way out, some at a time.
struct Export {
    control: Arc<Control>,
    wanted: CallsWanted,
    format: Format,
    /// Where to go on; nothing at the end.
    next: Option<Option<CallId>>,
    sent: usize,
}

impl Export {
    fn response(self) -> Response {
        let (kind, name) = match self.format {
            Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"calls.csv\""),
            Format::Json | Format::Jsonl => ("application/x-ndjson", "attachment; filename=\"calls.jsonl\""),
        };
        let parts = stream::try_unfold(self, |mut export| async move {
            let part = export.part().await?;
            Ok::<_, Refused>(part.map(|part| (part, export)))
        });
        let mut response = Body::from_stream(parts).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
        response
    }

    async fn part(&mut self) -> Result<Option<Bytes>, Refused> {
        let Some(before) = self.next else { return Ok(None) };
        let at_once = EXPORTED_AT_ONCE.min(EXPORTED_MAX - self.sent);
        let page = {
            // Each part waits for room among the requests, as one of them.
            let _room = self.control.room.acquire().await;
            self.control.store.calls_of_key(&self.wanted, before, at_once).await.map_err(Refused)?
        };
        let mut text = String::new();
        if self.sent == 0 && before.is_none() && self.format == Format::Csv {
            text = COLUMNS.join(",") + "\r\n";
        }
        self.sent += page.calls.len();
        let unit = self.control.settings.credit_unit;
        for call in page.calls.into_iter().map(|call| CallView::of(unit, call)) {
            match self.format {
                Format::Csv => text.push_str(&call.csv()),
                Format::Json | Format::Jsonl => text.push_str(&line(&call)),
            }
        }
        self.next = page.next.filter(|_| self.sent < EXPORTED_MAX).map(Some);
        if let Some(next) = page.next.filter(|_| self.next.is_none() && self.format == Format::Jsonl) {
            text.push_str(&line(&serde_json::json!({"next_cursor": next.to_string()})));
        }
        Ok(Some(Bytes::from(text)))
    }
}

/// A part that can't be read breaks the answer off, so that nobody takes it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the books can't be read any further: {0}")]
struct Refused(crate::store::StoreError);

fn line(object: &impl Serialize) -> String {
    let mut line = serde_json::to_string(object).expect("strings and numbers under string keys are always JSON");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        for (text, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "'=1+1"),
            ("-2,3", "\"'-2,3\""),
            ("@x", "'@x"),
        ] {
            assert_eq!(cell(text), written);
        }
    }

    #[test]
    fn statuses_are_read_alone_and_by_class() {
        assert_eq!(statuses("404").ok(), Some((404, 404)));
        assert_eq!(statuses("5xx").ok(), Some((500, 599)));
        for wrong in ["", "xx", "6xx", "0xx", "99", "600", "4x", "+404x"] {
            assert!(statuses(wrong).is_err(), "{wrong}");
        }
    }
}
