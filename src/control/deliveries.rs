//! What was sent to a webhook, and what came of it.

use super::caller::Caller;
use super::input::{NamedDeepWithin, NamedWithin, Params};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::deliveries::{DeliveryRecord, LastTry};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{DeliveryId, OrgId, WebhookId};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// An event on its way to a webhook, or there.
#[derive(Serialize, ToSchema)]
pub struct DeliveryView {
    id: String,
    /// The event: the message's `webhook-id`, the same in every try.
    event: String,
    /// What happened.
    r#type: String,
    /// `waiting`, `delivered` or `failed`.
    status: String,
    /// Tries since it was last begun.
    attempts: u64,
    created_at: String,
    /// When it is tried next.
    next_at: Option<String>,
    last_try: Option<TryView>,
}

/// What came of the latest try.
#[derive(Serialize, ToSchema)]
pub struct TryView {
    at: String,
    duration_ms: u64,
    /// The HTTP status of the answer.
    status: Option<u16>,
    /// Why there was none.
    error: Option<String>,
}

impl DeliveryView {
    fn of(record: DeliveryRecord) -> Self {
        Self {
            id: record.id.to_string(),
            event: record.event.to_string(),
            r#type: record.kind,
            status: record.status,
            attempts: record.attempts,
            created_at: stamp(record.created),
            next_at: record.next.map(stamp),
            last_try: record.last.map(TryView::of),
        }
    }
}

impl TryView {
    fn of(tried: LastTry) -> Self {
        let duration_ms = u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX);
        Self { at: stamp(tried.at), duration_ms, status: tried.status, error: tried.error }
    }
}

/// Lists what was sent to a webhook, the latest first.
#[utoipa::path(get, path = "/api/orgs/{org}/webhooks/{webhook}/deliveries", tag = "webhooks",
    operation_id = "list_deliveries", params(("org" = String, Path), ("webhook" = String, Path), Page),
    responses((status = 200, body = Listed<DeliveryView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<DeliveryView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let size = page.size()?;
    let webhook = control.store.webhook(Some(permitted.org), id).await?.id;
    let deliveries = control.store.deliveries(webhook, page.after()?, size as usize + 1).await?;
    Ok(Json(Listed::of(deliveries, size, |delivery| delivery.id.to_string(), DeliveryView::of)))
}

/// Sends a message again, whatever became of it: with the same `webhook-id`.
#[utoipa::path(post, path = "/api/orgs/{org}/webhooks/{webhook}/deliveries/{delivery}/redeliver", tag = "webhooks",
    operation_id = "redeliver", params(("org" = String, Path), ("webhook" = String, Path), ("delivery" = String, Path)),
    responses((status = 202, body = DeliveryView)))]
pub async fn redeliver(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedDeepWithin(org, webhook, delivery): NamedDeepWithin<OrgId, WebhookId, DeliveryId>,
) -> Result<(StatusCode, Json<DeliveryView>), Refusal> {
    let permitted = caller.in_org(org)?;
    let begun = control.store.redeliver(Some(permitted.org), (webhook, delivery), permitted.by.now).await?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryView::of(begun))))
}
