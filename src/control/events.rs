//! What happened to an organisation, and from when on it is told that its credit is low.

use super::caller::Caller;
use super::input::{Body, Named, Params};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::notices::CreditNotice;
use crate::store::outbox::{EventKind, EventPage, EventRecord};
use axum::Json;
use axum::extract::State;
use filters::id::OrgId;
use filters::money::NanoUsd;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Which events are read.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// How many: 10, 25, 50 or 100.
    #[param(minimum = 10, maximum = 100, default = 25, required = false)]
    limit: Option<u32>,
    /// What the page before said in `next_cursor`.
    #[param(required = false, max_length = 512)]
    cursor: Option<String>,
    /// Those of one kind only, such as `key.expiring`.
    #[param(required = false)]
    r#type: Option<String>,
}

/// Something that happened.
#[derive(Serialize, ToSchema)]
pub struct EventView {
    /// The `webhook-id` of the messages about it.
    id: String,
    r#type: String,
    created_at: String,
    /// The particulars, as webhooks are told.
    #[schema(value_type = Object)]
    data: Value,
}

/// When an organisation is told of things that come about by themselves.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notices {
    /// The balance below which `credit.low` is told, in dollars; null: as the operator has configured it.
    #[schema(example = "25.00")]
    credit_low_usd: Option<String>,
}

impl EventView {
    fn of(record: EventRecord) -> Self {
        Self {
            id: record.id.to_string(),
            r#type: record.kind,
            created_at: stamp(record.at),
            data: serde_json::from_str(&record.data).unwrap_or_default(),
        }
    }
}

impl Notices {
    fn of(notice: CreditNotice) -> Self {
        Self { credit_low_usd: notice.low.map(|amount| amount.to_string()) }
    }
}

/// Lists what happened to an organisation, the latest first.
#[utoipa::path(get, path = "/api/orgs/{org}/events", tag = "events", operation_id = "list_events",
    params(("org" = String, Path), EventQuery), responses((status = 200, body = Listed<EventView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(query): Params<EventQuery>,
) -> Result<Json<Listed<EventView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let page = Page { limit: query.limit, cursor: query.cursor };
    let size = page.size()?;
    let kind = match query.r#type.as_deref() {
        Some(name) => Some(EventKind::named(name).ok_or_else(unknown_kind)?),
        None => None,
    };
    let wanted = EventPage { kind, before: page.after()?, limit: size as usize + 1 };
    let events = control.store.events(permitted.org, wanted).await?;
    Ok(Json(Listed::of(events, size, |event| event.id.to_string(), EventView::of)))
}

fn unknown_kind() -> Refusal {
    let known = EventKind::ALL.map(EventKind::name).join(", ");
    Refusal::validation("type", format!("There is no such kind of events. There are {known}."))
}

/// Shows when an organisation is told that its credit is low.
#[utoipa::path(get, path = "/api/orgs/{org}/notices", tag = "events", operation_id = "show_notices",
    params(("org" = String, Path)), responses((status = 200, body = Notices)))]
pub async fn notices(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<Notices>, Refusal> {
    let permitted = caller.in_org(org)?;
    Ok(Json(Notices::of(control.store.credit_notice(permitted.org).await?)))
}

/// Says when an organisation is told that its credit is low.
#[utoipa::path(put, path = "/api/orgs/{org}/notices", tag = "events", operation_id = "set_notices",
    params(("org" = String, Path)), request_body = Notices, responses((status = 200, body = Notices)))]
pub async fn set_notices(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(notices): Body<Notices>,
) -> Result<Json<Notices>, Refusal> {
    let permitted = caller.in_org(org)?;
    let amount = |text: &String| {
        let amount = text.parse::<NanoUsd>().ok().filter(|amount| *amount >= NanoUsd::ZERO);
        amount.ok_or_else(|| Refusal::validation("credit_low_usd", "An amount in dollars, such as \"25.00\"."))
    };
    let notice = CreditNotice { low: notices.credit_low_usd.as_ref().map(amount).transpose()? };
    control.store.change_credit_notice(permitted.org, notice, permitted.by).await?;
    Ok(Json(Notices::of(notice)))
}
