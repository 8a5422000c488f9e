//! Webhooks of an organisation: where it wants to be told of events.

use super::caller::Caller;
use super::input::{Body, Named, NamedWithin, OptionalBody, Params, TEXT_BYTES_MAX};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::outbox::{EventKind, KindFilter};
use crate::store::webhooks::{self, SigningSecret, WebhookChange, WebhookRecord};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{OrgId, WebhookId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How long an old secret signs too, unless it is said otherwise; and how long at most.
const OVERLAP_SECONDS: u32 = 24 * 3_600;
const OVERLAP_SECONDS_MAX: u32 = 7 * OVERLAP_SECONDS;

/// A webhook to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where messages are sent: https, to a public address.
    #[schema(max_length = 2048, example = "https://hooks.example.com/tollgate")]
    url: String,
    /// What people call it.
    #[schema(max_length = 128)]
    description: Option<String>,
    /// The kinds of events that it hears of; none named: all.
    #[schema(example = json!(["key.expiring", "credit.low"]))]
    events: Option<Vec<String>>,
}

/// What is to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookUpdate {
    /// Where messages are sent.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// What people call it.
    #[schema(max_length = 128)]
    description: Option<String>,
    /// The kinds of events that it hears of; []: all.
    events: Option<Vec<String>>,
    /// Whether messages are sent to it. What waits goes on waiting meanwhile.
    enabled: Option<bool>,
}

/// How a secret is rotated.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How long messages are signed with the old secret too: 0 to 604800 seconds, a day if it is not said.
    #[schema(minimum = 0, maximum = 604_800, default = 86_400)]
    overlap_seconds: Option<u32>,
}

/// A webhook.
#[derive(Serialize, ToSchema)]
pub struct WebhookView {
    id: String,
    url: String,
    description: String,
    /// The kinds of events that it hears of; none: all.
    events: Vec<String>,
    enabled: bool,
    created_at: String,
    disabled_at: Option<String>,
    /// Why it was disabled, where nobody asked for it.
    disabled_reason: Option<String>,
    /// Until when messages are signed with the secret before too.
    previous_secret_expires_at: Option<String>,
}

/// A webhook with its new secret.
#[derive(Serialize, ToSchema)]
pub struct IssuedWebhook {
    #[serde(flatten)]
    webhook: WebhookView,
    /// What messages to it are signed with, shown this one time.
    #[schema(example = "whsec_…")]
    secret: String,
}

/// A test that was begun.
#[derive(Serialize, ToSchema)]
pub struct BegunTest {
    /// The delivery that shows what comes of it.
    delivery: String,
}

impl WebhookView {
    fn of(record: WebhookRecord) -> Self {
        Self {
            id: record.id.to_string(),
            url: record.url,
            description: record.description,
            events: record.kinds.names().to_vec(),
            enabled: record.disabled.is_none(),
            created_at: stamp(record.created),
            disabled_at: record.disabled.map(stamp),
            disabled_reason: record.disabled_reason,
            previous_secret_expires_at: record.previous_until.map(stamp),
        }
    }
}

impl IssuedWebhook {
    fn of((record, secret): (WebhookRecord, SigningSecret)) -> Self {
        Self { webhook: WebhookView::of(record), secret: secret.reveal() }
    }
}

/// Lists an organisation's webhooks.
#[utoipa::path(get, path = "/api/orgs/{org}/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(("org" = String, Path), Page), responses((status = 200, body = Listed<WebhookView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<WebhookView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let size = page.size()?;
    let webhooks = control.store.webhooks(Some(permitted.org), page.after()?, size as usize + 1).await?;
    Ok(Json(Listed::of(webhooks, size, |webhook| webhook.id.to_string(), WebhookView::of)))
}

/// Makes a webhook. Its secret is shown this one time.
#[utoipa::path(post, path = "/api/orgs/{org}/webhooks", tag = "webhooks", operation_id = "create_webhook",
    params(("org" = String, Path)), request_body = NewWebhook, responses((status = 201, body = IssuedWebhook)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(new): Body<NewWebhook>,
) -> Result<(StatusCode, Json<IssuedWebhook>), Refusal> {
    let permitted = caller.in_org(org)?;
    let new = webhooks::NewWebhook {
        org: Some(permitted.org),
        description: description(new.description.unwrap_or_default())?,
        kinds: kinds(&new.events.unwrap_or_default())?,
        url: checked(&control, new.url).await?,
    };
    let made = control.store.create_webhook(&new, control.settings.webhooks_max, permitted.by).await?;
    Ok((StatusCode::CREATED, Json(IssuedWebhook::of(made))))
}

/// Shows a webhook.
#[utoipa::path(get, path = "/api/orgs/{org}/webhooks/{webhook}", tag = "webhooks", operation_id = "show_webhook",
    params(("org" = String, Path), ("webhook" = String, Path)), responses((status = 200, body = WebhookView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
) -> Result<Json<WebhookView>, Refusal> {
    let permitted = caller.in_org(org)?;
    Ok(Json(WebhookView::of(control.store.webhook(Some(permitted.org), id).await?)))
}

/// Changes a webhook.
#[utoipa::path(patch, path = "/api/orgs/{org}/webhooks/{webhook}", tag = "webhooks", operation_id = "update_webhook",
    params(("org" = String, Path), ("webhook" = String, Path)), request_body = WebhookUpdate,
    responses((status = 200, body = WebhookView)))]
pub async fn update(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
    Body(update): Body<WebhookUpdate>,
) -> Result<Json<WebhookView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let change = WebhookChange {
        description: update.description.map(description).transpose()?,
        kinds: update.events.map(|events| kinds(&events)).transpose()?,
        is_enabled: update.enabled,
        url: match update.url {
            Some(url) => Some(checked(&control, url).await?),
            None => None,
        },
    };
    let changed = control.store.change_webhook(Some(permitted.org), id, &change, permitted.by).await?;
    Ok(Json(WebhookView::of(changed)))
}

/// Deletes a webhook with everything that waits for it.
#[utoipa::path(delete, path = "/api/orgs/{org}/webhooks/{webhook}", tag = "webhooks", operation_id = "delete_webhook",
    params(("org" = String, Path), ("webhook" = String, Path)), responses((status = 204)))]
pub async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
) -> Result<StatusCode, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.delete_webhook(Some(permitted.org), id, permitted.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a webhook a new secret, shown this one time. The old one signs too for a while.
#[utoipa::path(post, path = "/api/orgs/{org}/webhooks/{webhook}/rotate-secret", tag = "webhooks",
    operation_id = "rotate_webhook_secret", params(("org" = String, Path), ("webhook" = String, Path)),
    request_body = Rotation, responses((status = 200, body = IssuedWebhook)))]
pub async fn rotate_secret(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
    OptionalBody(rotation): OptionalBody<Rotation>,
) -> Result<Json<IssuedWebhook>, Refusal> {
    let permitted = caller.in_org(org)?;
    let overlap_seconds = rotation.overlap_seconds.unwrap_or(OVERLAP_SECONDS);
    if overlap_seconds > OVERLAP_SECONDS_MAX {
        return Err(Refusal::validation("overlap_seconds", "Secrets overlap for 604800 seconds at most: a week."));
    }
    let overlap_ms = i64::from(overlap_seconds) * 1_000;
    let rotated = control.store.rotate_webhook_secret(Some(permitted.org), id, overlap_ms, permitted.by).await?;
    Ok(Json(IssuedWebhook::of(rotated)))
}

/// Sends a webhook a message that says nothing, to see whether it works.
#[utoipa::path(post, path = "/api/orgs/{org}/webhooks/{webhook}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("org" = String, Path), ("webhook" = String, Path)), responses((status = 202, body = BegunTest)))]
pub async fn test(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, WebhookId>,
) -> Result<(StatusCode, Json<BegunTest>), Refusal> {
    let permitted = caller.in_org(org)?;
    let delivery = control.store.test_webhook(Some(permitted.org), id, permitted.by.now).await?;
    Ok((StatusCode::ACCEPTED, Json(BegunTest { delivery: delivery.to_string() })))
}

async fn checked(control: &Control, url: String) -> Result<String, Refusal> {
    match control.guard.check(&url).await {
        Ok(_) => Ok(url),
        Err(refused) => Err(Refusal::validation("url", format!("This is not taken: {refused}."))),
    }
}

fn description(text: String) -> Result<String, Refusal> {
    if text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(Refusal::validation("description", "A description has at most 128 bytes and no control characters."))
}

fn kinds(names: &[String]) -> Result<KindFilter, Refusal> {
    let known = || EventKind::ALL.map(EventKind::name).join(", ");
    if names.len() > EventKind::ALL.len() {
        return Err(Refusal::validation("events", format!("Name each kind once. There are {}.", known())));
    }
    KindFilter::of(names)
        .map_err(|_| Refusal::validation("events", format!("There is no such kind of events. There are {}.", known())))
}
