//! Invitations: how people come into organisations.

use super::caller::{Caller, Who};
use super::input::{self, Body, Named, NamedWithin, Params};
use super::members::{MemberView, RoleName, granter};
use super::page::{Listed, Page};
use super::sessions::read_email;
use super::users::{hash, read_password};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::invitations::{Guest, InvitationRecord, NewInvitation};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{InvitationId, OrgId};
use filters::time::EpochMs;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Somebody to be invited.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvitationBody {
    /// Who is meant: nobody else can accept.
    #[schema(max_length = 254, example = "bob@example.com")]
    email: String,
    /// What they are to be; nobody grants more than they have.
    role: RoleName,
}

/// An invitation that is accepted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// What the invitation's maker was shown.
    #[schema(max_length = 128)]
    token: String,
    /// What people call you, if you are new here; who has signed in leaves it out.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// What you will sign in with, if you are new here: at least 12 characters.
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    password: Option<String>,
}

/// An invitation.
#[derive(Serialize, ToSchema)]
pub struct InvitationView {
    #[schema(example = "inv_01m7yckqjk7g9vza1m37wxqh7y")]
    id: String,
    org: String,
    email: String,
    role: &'static str,
    /// open, accepted, revoked or expired.
    status: &'static str,
    created_at: String,
    expires_at: String,
}

/// An invitation that was made.
#[derive(Serialize, ToSchema)]
pub struct IssuedInvitationView {
    #[serde(flatten)]
    invitation: InvitationView,
    /// The token, shown this one time: hand it to whom you invite.
    token: String,
}

impl InvitationView {
    fn of(record: &InvitationRecord, now: EpochMs) -> Self {
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            email: record.email.clone(),
            role: record.role.name(),
            status: record.status(now),
            created_at: stamp(record.created),
            expires_at: stamp(record.expires),
        }
    }
}

/// Lists an organisation's invitations, the oldest first.
#[utoipa::path(get, path = "/api/orgs/{org}/invitations", tag = "members", params(("org" = String, Path), Page),
    responses((status = 200, body = Listed<InvitationView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<InvitationView>>, Refusal> {
    caller.in_org(org)?;
    let size = page.size()?;
    control.store.must_have_organisation(org).await?;
    let records = control.store.invitations(org, page.after()?, size + 1).await?;
    let shown = |record: InvitationRecord| InvitationView::of(&record, caller.now());
    Ok(Json(Listed::of(records, size, |record| record.id.to_string(), shown)))
}

/// Invites somebody. An open invitation of the same address is revoked.
#[utoipa::path(post, path = "/api/orgs/{org}/invitations", tag = "members", params(("org" = String, Path)),
    request_body = NewInvitationBody, responses((status = 201, body = IssuedInvitationView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(new): Body<NewInvitationBody>,
) -> Result<(StatusCode, Json<IssuedInvitationView>), Refusal> {
    let permitted = caller.in_org(org)?;
    let lasts_ms = i64::try_from(control.settings.accounts.invitation.as_millis()).unwrap_or(i64::MAX);
    let new = NewInvitation {
        org,
        email: read_email("email", &new.email)?,
        role: new.role.into(),
        granter: granter(&caller, &permitted),
        invited_by: if let Who::User(session) = caller.who() { Some(session.user.id) } else { None },
        expires: caller.now().plus(lasts_ms),
    };
    let issued = control.store.create_invitation(&new, permitted.by).await?;
    let invitation = InvitationView::of(&issued.invitation, caller.now());
    Ok((StatusCode::CREATED, Json(IssuedInvitationView { invitation, token: issued.token.reveal().to_owned() })))
}

/// Takes an invitation back.
#[utoipa::path(delete, path = "/api/orgs/{org}/invitations/{invitation}", tag = "members",
    params(("org" = String, Path), ("invitation" = String, Path)), responses((status = 204)))]
pub async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, InvitationId>,
) -> Result<StatusCode, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.revoke_invitation(org, id, permitted.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts an invitation: as the user who has signed in, or as a new one with a name and a password.
#[utoipa::path(post, path = "/api/invitations/accept", tag = "members", request_body = Acceptance,
    responses((status = 201, body = MemberView)))]
pub async fn accept(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(acceptance): Body<Acceptance>,
) -> Result<(StatusCode, Json<MemberView>), Refusal> {
    let lookup = control.store.pepper().lookup(&acceptance.token);
    // A stranger's password is hashed only where there is something to accept.
    control.store.must_be_open(lookup, caller.now()).await?;
    let guest = guest(&control, &caller, &acceptance).await?;
    let member = control.store.accept_invitation(lookup, &guest, caller.by()).await?;
    Ok((StatusCode::CREATED, Json(MemberView::of(&member))))
}

async fn guest(control: &Control, caller: &Caller, acceptance: &Acceptance) -> Result<Guest, Refusal> {
    match (caller.who(), &acceptance.name, &acceptance.password) {
        (Who::User(session), None, None) => Ok(Guest::User(session.user.id)),
        (Who::User(_), ..) => {
            Err(Refusal::validation("name", "You have signed in: leave `name` and `password` out, or sign out first."))
        }
        (Who::Nobody, Some(name), Some(password)) => {
            let (name, password) = (input::name("name", name)?, read_password("password", password)?);
            Ok(Guest::New { name, password: hash(control, &password).await? })
        }
        (Who::Nobody, None, _) => {
            Err(Refusal::validation("name", "Sign in first, or choose a `name` and a `password`."))
        }
        (Who::Nobody, Some(_), None) => Err(Refusal::validation("password", "Choose a `password` too.")),
        (Who::Operator(_) | Who::Key { .. }, ..) => Err(Refusal::forbidden(vec!["a session"], Vec::new())),
    }
}
