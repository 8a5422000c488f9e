//! `tollgate webhook`: where organisations, and the operator, are told of events.

use super::print::or_dash;
use super::{CliError, Place, Surroundings};
use crate::address_guard;
use crate::store::deliveries::DeliveryRecord;
use crate::store::outbox::{EventKind, KindFilter};
use crate::store::webhooks::{NewWebhook, SigningSecret, WebhookChange, WebhookRecord};
use filters::id::{DeliveryId, OrgId, WebhookId};
use serde::Serialize;
use std::process::ExitCode;

const HEADINGS: [&str; 5] = ["ID", "URL", "EVENTS", "ENABLED", "DESCRIPTION"];
const DELIVERY_HEADINGS: [&str; 6] = ["ID", "EVENT", "KIND", "STATUS", "ATTEMPTS", "LAST"];
/// Most that a list shows.
const LISTED_MAX: usize = 100;
/// Whoever may use this command line is not held to what organisations may have.
const WEBHOOKS_MAX: usize = 1_000;

/// Whose webhooks are meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Owner {
    /// The organisation, `org_…`.
    #[arg(long, required_unless_present = "operator")]
    pub(super) org: Option<OrgId>,
    /// Those of the operator, which hear of all organisations.
    #[arg(long, conflicts_with = "org")]
    pub(super) operator: bool,
}

/// What to do with webhooks.
#[derive(Debug, clap::Subcommand)]
pub enum WebhookCommand {
    /// Make a webhook. The secret that its messages are signed with is shown this one time.
    Create {
        /// Where messages go; the gateway checks at each message that it may connect there.
        url: String,
        #[command(flatten)]
        owner: Owner,
        /// Kinds of events, separated by commas; all if none is named.
        #[arg(long, value_delimiter = ',', value_parser = read_kind)]
        events: Vec<String>,
        /// What people call it.
        #[arg(long, default_value = "", value_parser = read_description)]
        description: String,
        #[command(flatten)]
        place: Place,
    },
    /// List webhooks.
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// Send messages to a webhook again, one that was disabled.
    Enable {
        /// Its identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// Send nothing to a webhook any more; what waits goes on waiting.
    Disable {
        /// Its identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// Give a webhook a new secret, which is shown this one time.
    RotateSecret {
        /// Its identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        /// How long messages are signed with the old secret too.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(0..=168))]
        overlap_hours: u16,
        #[command(flatten)]
        place: Place,
    },
    /// Send a webhook a message that says nothing, to see whether it works. A running gateway sends it.
    Test {
        /// Its identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// List the latest messages to a webhook, and what came of them.
    Deliveries {
        /// The webhook's identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// Send a message again, whatever became of it.
    Redeliver {
        /// The webhook's identifier, `hook_…`.
        id: WebhookId,
        /// The delivery's identifier, `dlv_…`.
        delivery: DeliveryId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a webhook with everything that waits for it.
    Delete {
        /// Its identifier, `hook_…`.
        id: WebhookId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        place: Place,
    },
}

impl WebhookCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place, .. }
            | Self::Enable { place, .. }
            | Self::Disable { place, .. }
            | Self::RotateSecret { place, .. }
            | Self::Test { place, .. }
            | Self::Deliveries { place, .. }
            | Self::Redeliver { place, .. }
            | Self::Delete { place, .. } => place,
        }
    }
}

#[derive(Serialize)]
struct WebhookLine {
    id: String,
    org: Option<String>,
    url: String,
    events: Vec<String>,
    description: String,
    enabled: bool,
    disabled_reason: Option<String>,
    created_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookLine {
    fn of(record: &WebhookRecord, secret: Option<&SigningSecret>) -> Self {
        Self {
            id: record.id.to_string(),
            org: record.org.map(|org| org.to_string()),
            url: record.url.clone(),
            events: record.kinds.names().to_vec(),
            description: record.description.clone(),
            enabled: record.disabled.is_none(),
            disabled_reason: record.disabled_reason.clone(),
            created_ms: record.created.0,
            secret: secret.map(SigningSecret::reveal),
        }
    }
}

#[derive(Serialize)]
struct DeliveryLine {
    id: String,
    event: String,
    kind: String,
    status: String,
    attempts: u64,
    created_ms: i64,
    next_ms: Option<i64>,
    last_status: Option<u16>,
    last_error: Option<String>,
}

impl From<&DeliveryRecord> for DeliveryLine {
    fn from(record: &DeliveryRecord) -> Self {
        let last = record.last.as_ref();
        Self {
            id: record.id.to_string(),
            event: record.event.to_string(),
            kind: record.kind.clone(),
            status: record.status.clone(),
            attempts: record.attempts,
            created_ms: record.created.0,
            next_ms: record.next.map(|next| next.0),
            last_status: last.and_then(|last| last.status),
            last_error: last.and_then(|last| last.error.clone()),
        }
    }
}

pub(super) async fn run(command: WebhookCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let now = surroundings.now;
    match command {
        WebhookCommand::Create { url, owner, events, description, place } => {
            address_guard::read_url(&url).map_err(|refused| CliError::BadInput(refused.to_string()))?;
            let kinds = KindFilter::of(&events).map_err(CliError::BadInput)?;
            let new = NewWebhook { org: owner.org, url, description, kinds };
            let (record, secret) = place.open_store().await?.create_webhook(&new, WEBHOOKS_MAX, now).await?;
            show(&place, surroundings, &record, Some(&secret))?;
        }
        WebhookCommand::RotateSecret { id, owner, overlap_hours, place } => {
            let overlap_ms = i64::from(overlap_hours) * 3_600_000;
            let store = place.open_store().await?;
            let (record, secret) = store.rotate_webhook_secret(owner.org, id, overlap_ms, now).await?;
            show(&place, surroundings, &record, Some(&secret))?;
        }
        WebhookCommand::Enable { id, owner, place } => enable(&place, surroundings, (owner, id), true).await?,
        WebhookCommand::Disable { id, owner, place } => enable(&place, surroundings, (owner, id), false).await?,
        WebhookCommand::Delete { id, owner, place } => {
            let record = place.open_store().await?.delete_webhook(owner.org, id, now).await?;
            show(&place, surroundings, &record, None)?;
        }
        WebhookCommand::List { owner, place } => {
            let records = place.open_store().await?.webhooks(owner.org, None, LISTED_MAX).await?;
            let lines: Vec<WebhookLine> = records.iter().map(|record| WebhookLine::of(record, None)).collect();
            place.printer(surroundings.out).many(&lines, Some(&HEADINGS), cells)?;
        }
        WebhookCommand::Test { id, owner, place } => {
            let store = place.open_store().await?;
            let begun = store.test_webhook(owner.org, id, now).await?;
            show_delivery(&place, surroundings, &store.delivery(id, begun).await?)?;
        }
        WebhookCommand::Redeliver { id, delivery, owner, place } => {
            let begun = place.open_store().await?.redeliver(owner.org, (id, delivery), now).await?;
            show_delivery(&place, surroundings, &begun)?;
        }
        WebhookCommand::Deliveries { id, owner, place } => {
            let store = place.open_store().await?;
            let webhook = store.webhook(owner.org, id).await?.id;
            let records = store.deliveries(webhook, None, LISTED_MAX).await?;
            let lines: Vec<DeliveryLine> = records.iter().map(DeliveryLine::from).collect();
            place.printer(surroundings.out).many(&lines, Some(&DELIVERY_HEADINGS), delivery_cells)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn enable(
    place: &Place,
    surroundings: Surroundings<'_>,
    (owner, id): (Owner, WebhookId),
    is_enabled: bool,
) -> Result<(), CliError> {
    let change = WebhookChange { is_enabled: Some(is_enabled), ..WebhookChange::default() };
    let record = place.open_store().await?.change_webhook(owner.org, id, &change, surroundings.now).await?;
    show(place, surroundings, &record, None)
}

fn show(
    place: &Place,
    surroundings: Surroundings<'_>,
    record: &WebhookRecord,
    secret: Option<&SigningSecret>,
) -> Result<(), CliError> {
    let line = WebhookLine::of(record, secret);
    place.printer(surroundings.out).one(&line, || {
        let secret = secret.map(|secret| format!("\n  secret (shown once)  {}", secret.reveal())).unwrap_or_default();
        let enabled = if line.enabled { "yes" } else { "no" };
        format!(
            "{}\n  url                  {}\n  events               {}\n  enabled              {enabled}{secret}",
            line.id,
            line.url,
            events(&line)
        )
    })?;
    Ok(())
}

fn show_delivery(place: &Place, surroundings: Surroundings<'_>, record: &DeliveryRecord) -> Result<(), CliError> {
    let line = DeliveryLine::from(record);
    place
        .printer(surroundings.out)
        .one(&line, || format!("Delivery {} of {} waits for a running gateway to send it", line.id, line.kind))?;
    Ok(())
}

fn cells(line: &WebhookLine) -> Vec<String> {
    let enabled = if line.enabled { "yes" } else { "no" };
    vec![line.id.clone(), line.url.clone(), events(line), enabled.to_owned(), line.description.clone()]
}

fn events(line: &WebhookLine) -> String {
    if line.events.is_empty() { "all".to_owned() } else { line.events.join(",") }
}

fn delivery_cells(line: &DeliveryLine) -> Vec<String> {
    let last = line.last_error.clone().unwrap_or_else(|| or_dash(line.last_status));
    let attempts = line.attempts.to_string();
    vec![line.id.clone(), line.event.clone(), line.kind.clone(), line.status.clone(), attempts, last]
}

fn read_kind(text: &str) -> Result<String, String> {
    match EventKind::named(text) {
        Some(kind) => Ok(kind.name().to_owned()),
        None => Err(format!("not one of {}", EventKind::ALL.map(EventKind::name).join(", "))),
    }
}

fn read_description(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { super::key::read_name(text) }
}
