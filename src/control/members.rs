//! Members: who is in an organisation, and as what.

use super::access::Role;
use super::caller::{Caller, Permitted};
use super::input::{Body, Named, NamedWithin, Params};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::members::MemberRecord;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{OrgId, UserId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A role as it comes in.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// May do everything, and make owners.
    Owner,
    /// May do everything but make owners or touch them.
    Admin,
    /// Makes keys, and sees what they use.
    Developer,
    /// Sees money and usage.
    Billing,
    /// Sees, and changes nothing.
    Viewer,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Owner => Self::Owner,
            RoleName::Admin => Self::Admin,
            RoleName::Developer => Self::Developer,
            RoleName::Billing => Self::Billing,
            RoleName::Viewer => Self::Viewer,
        }
    }
}

/// A user who is to be a member.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Who, `user_…`.
    #[schema(max_length = 31)]
    user: String,
    role: RoleName,
}

/// Another role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberPatch {
    role: RoleName,
}

/// A member.
#[derive(Serialize, ToSchema)]
pub struct MemberView {
    user: String,
    org: String,
    email: String,
    name: String,
    #[schema(example = "developer")]
    role: &'static str,
    joined_at: String,
    /// Since when they can't sign in.
    disabled_at: Option<String>,
}

impl MemberView {
    /// A member as they are shown.
    #[must_use]
    pub fn of(record: &MemberRecord) -> Self {
        Self {
            user: record.user.to_string(),
            org: record.org.to_string(),
            email: record.email.clone(),
            name: record.name.clone(),
            role: record.role.name(),
            joined_at: stamp(record.joined),
            disabled_at: record.disabled.map(stamp),
        }
    }
}

/// Lists an organisation's members.
#[utoipa::path(get, path = "/api/orgs/{org}/members", tag = "members", params(("org" = String, Path), Page),
    responses((status = 200, body = Listed<MemberView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<MemberView>>, Refusal> {
    caller.in_org(org)?;
    let size = page.size()?;
    control.store.must_have_organisation(org).await?;
    let members = control.store.members(org, page.after()?, size + 1).await?;
    Ok(Json(Listed::of(members, size, |member| member.user.to_string(), |member| MemberView::of(&member))))
}

/// Makes a user a member, without asking them. People invite each other instead.
#[utoipa::path(post, path = "/api/orgs/{org}/members", tag = "members", params(("org" = String, Path)),
    request_body = NewMember, responses((status = 201, body = MemberView)))]
pub async fn add(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(new): Body<NewMember>,
) -> Result<(StatusCode, Json<MemberView>), Refusal> {
    let permitted = caller.in_org(org)?;
    let user = new.user.parse().map_err(|_| Refusal::validation("user", "A user is named as user_…."))?;
    let member = control.store.add_member(org, user, new.role.into(), permitted.by).await?;
    Ok((StatusCode::CREATED, Json(MemberView::of(&member))))
}

/// Gives a member another role. Nobody grants more than they have, and the last owner stays.
#[utoipa::path(patch, path = "/api/orgs/{org}/members/{user}", tag = "members",
    params(("org" = String, Path), ("user" = String, Path)), request_body = MemberPatch,
    responses((status = 200, body = MemberView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, user): NamedWithin<OrgId, UserId>,
    Body(patch): Body<MemberPatch>,
) -> Result<Json<MemberView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let granter = granter(&caller, &permitted);
    let member = control.store.change_role(org, user, patch.role.into(), granter, permitted.by).await?;
    Ok(Json(MemberView::of(&member)))
}

/// Removes a member. The last owner stays.
#[utoipa::path(delete, path = "/api/orgs/{org}/members/{user}", tag = "members",
    params(("org" = String, Path), ("user" = String, Path)), responses((status = 204)))]
pub async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, user): NamedWithin<OrgId, UserId>,
) -> Result<StatusCode, Refusal> {
    let permitted = caller.in_org(org)?;
    let granter = granter(&caller, &permitted);
    control.store.remove_member(org, user, granter, permitted.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// As what the caller grants. An operator may what an owner may; who has no role grants none.
pub(super) fn granter(caller: &Caller, permitted: &Permitted) -> Role {
    if caller.is_operator() { Role::Owner } else { permitted.role.unwrap_or(Role::Viewer) }
}
