//! Organisations: made and suspended by operators, called and limited by their own people.

use super::access::Permission;
use super::caller::{Caller, Permitted, Who};
use super::input::{self, Body, Named, Params};
use super::limits::{self, LimitBody, LimitView};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::limits::Owner;
use crate::store::members::Membership;
use crate::store::organisations::OrganisationRecord;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::OrgId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// An organisation to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    /// What people call it.
    #[schema(min_length = 1, max_length = 128, example = "Acme")]
    name: String,
    /// What its keys may use up together, beside its balance.
    #[serde(default)]
    limits: Vec<LimitBody>,
}

/// What to change of an organisation. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrgPatch {
    /// What people call it.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Limits that are set, changed or removed; the others stay. An operator's are the operator's to change.
    #[serde(default)]
    limits: Vec<LimitBody>,
}

/// An organisation in a list.
#[derive(Serialize, ToSchema)]
pub struct OrgLine {
    #[schema(example = "org_01m7yckqjk7g9vza1m37wxqh7y")]
    id: String,
    name: String,
    /// What the caller is in it; null for an operator.
    role: Option<&'static str>,
    created_at: String,
    /// Since when its keys are refused.
    suspended_at: Option<String>,
}

/// An organisation.
#[derive(Serialize, ToSchema)]
pub struct OrgView {
    #[serde(flatten)]
    line: OrgLine,
    /// What its keys may use up together, beside its balance.
    limits: Vec<LimitView>,
    /// What is left of the credits; null for those who may not see money, as are the next two.
    #[schema(example = "87.16")]
    balance_usd: Option<String>,
    /// What was paid in.
    credits_usd: Option<String>,
    /// What was charged.
    spent_usd: Option<String>,
}

impl OrgLine {
    fn of(record: &OrganisationRecord, role: Option<&'static str>) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            role,
            created_at: stamp(record.created),
            suspended_at: record.suspended.map(stamp),
        }
    }

    fn of_member(membership: &Membership) -> Self {
        Self {
            id: membership.org.to_string(),
            name: membership.org_name.clone(),
            role: Some(membership.role.name()),
            created_at: stamp(membership.org_created),
            suspended_at: membership.suspended.map(stamp),
        }
    }
}

/// Lists the caller's organisations; an operator's are all.
#[utoipa::path(get, path = "/api/orgs", tag = "organisations", params(Page),
    responses((status = 200, body = Listed<OrgLine>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(page): Params<Page>,
) -> Result<Json<Listed<OrgLine>>, Refusal> {
    let (size, after) = (page.size()?, page.after::<OrgId>()?);
    if let Who::User(session) = caller.who() {
        let mut memberships = session.memberships.clone();
        memberships.retain(|membership| after.is_none_or(|after| membership.org > after));
        let listed = Listed::of(memberships, size, |one| one.org.to_string(), |one| OrgLine::of_member(&one));
        return Ok(Json(listed));
    }
    let records = control.store.organisations(after, size + 1).await?;
    Ok(Json(Listed::of(records, size, |record| record.id.to_string(), |record| OrgLine::of(&record, None))))
}

/// Makes an organisation without credits.
#[utoipa::path(post, path = "/api/orgs", tag = "organisations", request_body = NewOrg,
    responses((status = 201, body = OrgView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(new): Body<NewOrg>,
) -> Result<(StatusCode, Json<OrgView>), Refusal> {
    let name = input::name("name", &new.name)?;
    let limits = limits::of_new(&new.limits, caller.now())?;
    let made = control.store.create_limited_organisation(&name, &limits, caller.by()).await?;
    let permitted = caller.in_org(made.id)?;
    Ok((StatusCode::CREATED, view(&control, &permitted).await?))
}

/// Shows an organisation.
#[utoipa::path(get, path = "/api/orgs/{org}", tag = "organisations", params(("org" = String, Path)),
    responses((status = 200, body = OrgView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<OrgView>, Refusal> {
    view(&control, &caller.in_org(org)?).await
}

/// Changes an organisation's name or limits.
#[utoipa::path(patch, path = "/api/orgs/{org}", tag = "organisations", params(("org" = String, Path)),
    request_body = OrgPatch, responses((status = 200, body = OrgView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(patch): Body<OrgPatch>,
) -> Result<Json<OrgView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let name = patch.name.map(|name| input::name("name", &name)).transpose()?;
    let changes = limits::changes(&patch.limits, caller.now())?;
    if !changes.is_empty() {
        control.store.change_limits(Owner::Organisation(org), &changes, permitted.by.clone()).await?;
    }
    if let Some(name) = name {
        control.store.rename_organisation(org, &name, permitted.by.clone()).await?;
    }
    view(&control, &permitted).await
}

/// Refuses an organisation's keys from now on, on every node within a second.
#[utoipa::path(post, path = "/api/orgs/{org}/suspend", tag = "organisations", params(("org" = String, Path)),
    responses((status = 200, body = OrgView)))]
pub async fn suspend(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<OrgView>, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.suspend_organisation(org, true, permitted.by.clone()).await?;
    view(&control, &permitted).await
}

/// Lets a suspended organisation's keys in again.
#[utoipa::path(post, path = "/api/orgs/{org}/resume", tag = "organisations", params(("org" = String, Path)),
    responses((status = 200, body = OrgView)))]
pub async fn resume(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<OrgView>, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.suspend_organisation(org, false, permitted.by.clone()).await?;
    view(&control, &permitted).await
}

async fn view(control: &Control, permitted: &Permitted) -> Result<Json<OrgView>, Refusal> {
    let record = control.store.organisation(permitted.org).await?;
    let rows = control.store.limits(Owner::Organisation(record.id), permitted.by.now).await?;
    let sees_money = permitted.permissions.has(Permission::MoneyRead);
    let money = |amount: filters::money::NanoUsd| sees_money.then(|| amount.to_string());
    Ok(Json(OrgView {
        line: OrgLine::of(&record, permitted.role.map(super::access::Role::name)),
        limits: limits::views(&rows),
        balance_usd: money(record.balance()),
        credits_usd: money(record.credits),
        spent_usd: money(record.spent),
    }))
}
