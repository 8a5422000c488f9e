//! The trail: who changed what, read page by page or as a whole.

use super::caller::Caller;
use super::input::{self, Named, Params};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::trail::{TrailFilter, TrailRecord};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use filters::id::OrgId;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Entries that are read at once for an export.
const CHUNK: u32 = 1_000;

/// Which page of which entries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TrailPage {
    /// How many: 10, 25, 50 or 100.
    #[param(minimum = 10, maximum = 100, default = 25, required = false)]
    limit: Option<u32>,
    /// What the page before said in `next_cursor`.
    #[param(required = false, max_length = 512)]
    cursor: Option<String>,
    /// What was done.
    #[param(required = false, max_length = 128, example = "key.create")]
    action: Option<String>,
    /// The identifier of who did it.
    #[param(required = false, max_length = 128)]
    actor: Option<String>,
    /// The identifier of what was changed.
    #[param(required = false, max_length = 128)]
    object: Option<String>,
    /// The first moment.
    #[param(required = false, max_length = 64, example = "2030-01-01T00:00:00Z")]
    from: Option<String>,
    /// The first moment that does not count any more.
    #[param(required = false, max_length = 64)]
    to: Option<String>,
}

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TrailPart {
    /// What was done.
    #[param(required = false, max_length = 128, example = "key.create")]
    action: Option<String>,
    /// The identifier of who did it.
    #[param(required = false, max_length = 128)]
    actor: Option<String>,
    /// The identifier of what was changed.
    #[param(required = false, max_length = 128)]
    object: Option<String>,
    /// The first moment.
    #[param(required = false, max_length = 64, example = "2030-01-01T00:00:00Z")]
    from: Option<String>,
    /// The first moment that does not count any more.
    #[param(required = false, max_length = 64)]
    to: Option<String>,
}

/// An entry of the trail.
#[derive(Serialize, ToSchema)]
pub struct TrailEntry {
    /// Its number; later ones are larger.
    id: String,
    /// The organisation that it is about.
    org: Option<String>,
    at: String,
    /// local, operator, user, key or system.
    actor_kind: String,
    /// Who did it.
    actor: Option<String>,
    /// The role in which it was done.
    role: Option<String>,
    /// From where it was asked for.
    address: Option<String>,
    request_id: Option<String>,
    #[schema(example = "key.create")]
    action: String,
    /// What was changed.
    object: String,
    /// What it was.
    #[schema(value_type = Option<Object>)]
    before: Option<Box<RawValue>>,
    /// What it is.
    #[schema(value_type = Option<Object>)]
    after: Option<Box<RawValue>>,
}

impl From<TrailRecord> for TrailEntry {
    fn from(record: TrailRecord) -> Self {
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let json = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        Self {
            id: record.number.to_string(),
            org: record.org.map(|org| org.to_string()),
            at: stamp(record.at),
            actor_kind: record.actor_kind,
            actor: said(record.actor),
            role: said(record.role),
            address: said(record.address),
            request_id: said(record.request_id),
            action: record.action,
            object: record.object,
            before: json(record.before),
            after: json(record.after),
        }
    }
}

impl TrailPart {
    fn filter(self, org: Option<OrgId>) -> Result<TrailFilter, Refusal> {
        let moment = |param: &str, text: Option<String>| text.map(|text| input::moment(param, &text)).transpose();
        let (from, to) = (moment("from", self.from)?, moment("to", self.to)?);
        let (action, actor) = (input::filter("action", self.action)?, input::filter("actor", self.actor)?);
        Ok(TrailFilter { org, action, actor, object: input::filter("object", self.object)?, from, to })
    }
}

/// Reads an organisation's trail, the latest entry first.
#[utoipa::path(get, path = "/api/orgs/{org}/trail", tag = "trail", params(("org" = String, Path), TrailPage),
    responses((status = 200, body = Listed<TrailEntry>)))]
pub async fn of_org(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<TrailPage>,
) -> Result<Json<Listed<TrailEntry>>, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.must_have_organisation(org).await?;
    read(&control, page, Some(permitted.org)).await
}

/// Reads the trail of all, the latest entry first.
#[utoipa::path(get, path = "/api/trail", tag = "trail", params(TrailPage),
    responses((status = 200, body = Listed<TrailEntry>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    _: Caller,
    Params(page): Params<TrailPage>,
) -> Result<Json<Listed<TrailEntry>>, Refusal> {
    read(&control, page, None).await
}

/// An organisation's trail as JSON lines, the latest entry first.
#[utoipa::path(get, path = "/api/orgs/{org}/trail/export", tag = "trail", params(("org" = String, Path), TrailPart),
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub async fn export_of_org(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(part): Params<TrailPart>,
) -> Result<Response, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.must_have_organisation(org).await?;
    Ok(lines(control, part.filter(Some(permitted.org))?))
}

/// The trail of all as JSON lines, the latest entry first.
#[utoipa::path(get, path = "/api/trail/export", tag = "trail", params(TrailPart),
    responses((status = 200, body = String, content_type = "application/x-ndjson")))]
pub async fn export(
    State(control): State<Arc<Control>>,
    _: Caller,
    Params(part): Params<TrailPart>,
) -> Result<Response, Refusal> {
    Ok(lines(control, part.filter(None)?))
}

async fn read(control: &Control, asked: TrailPage, org: Option<OrgId>) -> Result<Json<Listed<TrailEntry>>, Refusal> {
    let TrailPage { limit, cursor, action, actor, object, from, to } = asked;
    let page = Page { limit, cursor };
    let (size, before) = (page.size()?, page.after()?);
    let filter = TrailPart { action, actor, object, from, to }.filter(org)?;
    let records = control.store.trail(&filter, before, size + 1).await?;
    Ok(Json(Listed::of(records, size, |record| record.number.to_string(), TrailEntry::from)))
}

/// How far an export has come.
struct Export {
    control: Arc<Control>,
    filter: TrailFilter,
    before: Option<i64>,
}

/// Every entry that passes a filter, read and sent chunk by chunk. If the books fail half-way the answer breaks off: nobody takes a part
/// for the whole.
fn lines(control: Arc<Control>, filter: TrailFilter) -> Response {
    let begin = Some(Export { control, filter, before: None });
    let chunks = stream::try_unfold(begin, |export| async move {
        let Some(mut export) = export else { return Ok::<_, axum::BoxError>(None) };
        let records = export.control.store.trail(&export.filter, export.before, CHUNK).await?;
        let Some(last) = records.last() else { return Ok(None) };
        export.before = Some(last.number);
        let is_last = records.len() < CHUNK as usize;
        let mut text = Vec::new();
        for record in records {
            serde_json::to_writer(&mut text, &TrailEntry::from(record))?;
            text.push(b'\n');
        }
        Ok(Some((text, (!is_last).then_some(export))))
    });
    let headers =
        [(CONTENT_TYPE, "application/x-ndjson"), (CONTENT_DISPOSITION, "attachment; filename=\"trail.jsonl\"")];
    (headers, Body::from_stream(chunks)).into_response()
}
