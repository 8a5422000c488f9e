//! How long an organisation's calls are kept one by one.

use super::input::{Body, Named};
use super::{Control, stamp};
use crate::control::caller::Caller;
use crate::error::Refusal;
use crate::store::retention::{CALLS_KEPT_DAYS_MAX, CALLS_KEPT_DAYS_MIN};
use axum::Json;
use axum::extract::State;
use filters::id::OrgId;
use filters::time::EpochMs;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How long calls are kept.
#[derive(Serialize, ToSchema)]
pub struct RetentionView {
    org: String,
    /// Days; 0: for ever; null: as is configured for all.
    days: Option<u64>,
    /// Of calls that began before this, sums are left.
    summed_up_before: Option<String>,
}

/// How long calls are to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRetention {
    /// 7 to 36600 days; 0: for ever; null: as is configured for all.
    #[schema(maximum = 36600)]
    days: Option<u64>,
}

/// Tells how long an organisation's calls are kept.
#[utoipa::path(get, path = "/api/orgs/{org}/retention", tag = "organisations", operation_id = "retention_show",
    params(("org" = String, Path)), responses((status = 200, body = RetentionView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
) -> Result<Json<RetentionView>, Refusal> {
    view(&control, caller.in_org(org)?.org).await
}

/// Says how long an organisation's calls are kept.
#[utoipa::path(put, path = "/api/orgs/{org}/retention", tag = "organisations", operation_id = "retention_set",
    params(("org" = String, Path)), request_body = NewRetention, responses((status = 200, body = RetentionView)))]
pub async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(new): Body<NewRetention>,
) -> Result<Json<RetentionView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let is_possible = |days| days == 0 || (CALLS_KEPT_DAYS_MIN..=CALLS_KEPT_DAYS_MAX).contains(&days);
    if !new.days.is_none_or(is_possible) {
        return Err(Refusal::validation("days", "Calls are kept 7 to 36600 days, or for ever: 0."));
    }
    control.store.set_retention(permitted.org, new.days, permitted.by).await?;
    view(&control, permitted.org).await
}

async fn view(control: &Control, org: OrgId) -> Result<Json<RetentionView>, Refusal> {
    let retention = control.store.retention(org).await?;
    let folded = Some(retention.folded).filter(|folded| *folded > EpochMs(0));
    Ok(Json(RetentionView { org: org.to_string(), days: retention.days, summed_up_before: folded.map(stamp) }))
}
