//! Credits: what an organisation has, what moved, and what operators book.

use super::input::{Body, Named, Params};
use super::money::{Decimal, Told, amount};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::control::caller::Caller;
use crate::error::Refusal;
use crate::store::credits::{EntryRecord, NewEntry, NewKind};
use crate::store::idempotency::Once;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use filters::id::{CallId, OrgId};
use filters::money::{CreditUnit, NanoUsd};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// What an organisation has. Amounts in credits are there where a credit is defined.
#[derive(Serialize, ToSchema)]
pub struct CreditsView {
    org: String,
    /// What is left.
    balance_usd: String,
    balance_credits: Option<String>,
    /// All that was paid in, given and given back.
    credited_usd: String,
    credited_credits: Option<String>,
    /// All that was charged.
    spent_usd: String,
    spent_credits: Option<String>,
    /// What a credit is worth, in millionths of a dollar.
    credit_micros: Option<u64>,
}

/// Something that moved money.
#[derive(Serialize, ToSchema)]
pub struct EntryView {
    id: String,
    /// opening, topup, adjustment, refund or charges.
    kind: &'static str,
    /// How much more the organisation has by it.
    amount_usd: String,
    amount_credits: Option<String>,
    reason: String,
    /// Who made it, such as `operator:op_…`; `system` booked charges.
    actor: String,
    /// The call that was refunded.
    call: Option<String>,
    /// Of charges: the hour in which the calls began.
    hour: Option<String>,
    created_at: String,
}

/// Somebody has paid.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUp {
    /// In dollars; or in credits.
    amount_usd: Option<Decimal>,
    amount_credits: Option<Decimal>,
    #[schema(max_length = 512)]
    reason: Option<String>,
}

/// More or less, for a reason.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjustment {
    /// In dollars, below zero to take; or in credits.
    amount_usd: Option<Decimal>,
    amount_credits: Option<Decimal>,
    #[schema(max_length = 512)]
    reason: String,
    /// Take even what has been spent: then the balance is below zero.
    #[serde(default)]
    force: bool,
}

/// Something is given back, for a reason.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// In dollars; or in credits.
    amount_usd: Option<Decimal>,
    amount_credits: Option<Decimal>,
    #[schema(max_length = 512)]
    reason: String,
    /// The call that it is for, `req_…`: of it no more than it was charged.
    call: Option<String>,
}

impl EntryView {
    pub(super) fn of(unit: Option<CreditUnit>, entry: EntryRecord) -> Self {
        let Told { usd, credits } = Told::of(unit, entry.amount);
        Self {
            id: entry.id.to_string(),
            kind: entry.kind.name(),
            amount_usd: usd,
            amount_credits: credits,
            reason: entry.reason,
            actor: entry.actor,
            call: entry.call,
            hour: entry.hour.map(stamp),
            created_at: stamp(entry.at),
        }
    }
}

/// Tells what an organisation has.
#[utoipa::path(get, path = "/api/orgs/{org}/credits", tag = "credits", operation_id = "credits_show",
    params(("org" = String, Path)), responses((status = 200, body = CreditsView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<CreditsView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let record = control.store.organisation(permitted.org).await?;
    let unit = control.settings.credit_unit;
    let [balance, credited, spent] =
        [record.balance(), record.credits, record.spent].map(|amount| Told::of(unit, amount));
    Ok(Json(CreditsView {
        org: record.id.to_string(),
        balance_usd: balance.usd,
        balance_credits: balance.credits,
        credited_usd: credited.usd,
        credited_credits: credited.credits,
        spent_usd: spent.usd,
        spent_credits: spent.credits,
        credit_micros: unit.map(CreditUnit::micros),
    }))
}

/// Lists what moved an organisation's money, the newest first.
#[utoipa::path(get, path = "/api/orgs/{org}/credits/entries", tag = "credits", operation_id = "credits_entries",
    params(("org" = String, Path), Page), responses((status = 200, body = Listed<EntryView>)))]
pub async fn entries(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<EntryView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let (size, before) = (page.size()?, page.after()?);
    let rows = control.store.entries(permitted.org, before, size + 1).await?;
    let unit = control.settings.credit_unit;
    Ok(Json(Listed::of(rows, size, |entry| entry.id.to_string(), |entry| EntryView::of(unit, entry))))
}

/// Adds what was paid.
#[utoipa::path(post, path = "/api/orgs/{org}/credits/topups", tag = "credits", operation_id = "credits_top_up",
    params(("org" = String, Path), ("Idempotency-Key" = Option<String>, Header, max_length = 255)),
    request_body = TopUp, responses((status = 201, body = EntryView)))]
pub async fn top_up(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    headers: HeaderMap,
    Body(new): Body<TopUp>,
) -> Result<(StatusCode, Json<EntryView>), Refusal> {
    let amount = amount(control.settings.credit_unit, new.amount_usd.as_ref(), new.amount_credits.as_ref())?;
    let reason = new.reason.unwrap_or_default();
    book(&control, &caller, &headers, NewEntry { org, kind: NewKind::TopUp, amount, reason }).await
}

/// Gives or takes.
#[utoipa::path(post, path = "/api/orgs/{org}/credits/adjustments", tag = "credits", operation_id = "credits_adjust",
    params(("org" = String, Path), ("Idempotency-Key" = Option<String>, Header, max_length = 255)),
    request_body = Adjustment, responses((status = 201, body = EntryView)))]
pub async fn adjust(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    headers: HeaderMap,
    Body(new): Body<Adjustment>,
) -> Result<(StatusCode, Json<EntryView>), Refusal> {
    let amount = amount(control.settings.credit_unit, new.amount_usd.as_ref(), new.amount_credits.as_ref())?;
    let kind = NewKind::Adjustment { is_forced: new.force };
    book(&control, &caller, &headers, NewEntry { org, kind, amount, reason: new.reason }).await
}

/// Gives back.
#[utoipa::path(post, path = "/api/orgs/{org}/credits/refunds", tag = "credits", operation_id = "credits_refund",
    params(("org" = String, Path), ("Idempotency-Key" = Option<String>, Header, max_length = 255)),
    request_body = Refund, responses((status = 201, body = EntryView)))]
pub async fn refund(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    headers: HeaderMap,
    Body(new): Body<Refund>,
) -> Result<(StatusCode, Json<EntryView>), Refusal> {
    let amount = amount(control.settings.credit_unit, new.amount_usd.as_ref(), new.amount_credits.as_ref())?;
    let read = |call: &String| {
        call.parse::<CallId>().map_err(|_| Refusal::validation("call", "This is not a call's identifier, `req_…`."))
    };
    let kind = NewKind::Refund { call: new.call.as_ref().map(read).transpose()? };
    book(&control, &caller, &headers, NewEntry { org, kind, amount, reason: new.reason }).await
}

async fn book(
    control: &Control,
    caller: &Caller,
    headers: &HeaderMap,
    new: NewEntry,
) -> Result<(StatusCode, Json<EntryView>), Refusal> {
    let permitted = caller.in_org(new.org)?;
    check(&new)?;
    let once = once(headers, &permitted.by.actor.id, &new)?;
    let made = control.store.book_entry(&new, once.as_ref(), permitted.by).await?;
    Ok((StatusCode::CREATED, Json(EntryView::of(control.settings.credit_unit, made))))
}

/// Names the field that is to blame, where one is. The store looks at all of it again.
fn check(new: &NewEntry) -> Result<(), Refusal> {
    let is_adjustment = matches!(new.kind, NewKind::Adjustment { .. });
    if new.amount == NanoUsd::ZERO || (new.amount < NanoUsd::ZERO && !is_adjustment) {
        let message = "The amount must be more than 0; only an adjustment may be below.";
        return Err(Refusal::validation("amount_usd", message));
    }
    let needs_reason = new.kind != NewKind::TopUp;
    if needs_reason && new.reason.trim().is_empty() {
        return Err(Refusal::validation("reason", "Say why: an adjustment or a refund needs a reason."));
    }
    if new.reason.len() > REASON_BYTES_MAX || new.reason.chars().any(char::is_control) {
        return Err(Refusal::validation("reason", "A reason has at most 512 bytes and no control characters."));
    }
    Ok(())
}

/// The client's name for the request, if it has one.
fn once(headers: &HeaderMap, caller: &str, new: &NewEntry) -> Result<Option<Once>, Refusal> {
    let Some(name) = headers.get("idempotency-key") else { return Ok(None) };
    // The request as it was understood: two bodies that say the same are the same request.
    let request = format!("{new:?}");
    let once = name.to_str().ok().and_then(|name| Once::new(caller, "credits", name, request.as_bytes()));
    let message = "An Idempotency-Key has 1 to 255 visible ASCII characters.";
    once.map(Some).ok_or_else(|| Refusal::validation("Idempotency-Key", message))
}
