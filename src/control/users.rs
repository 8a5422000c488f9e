//! Users: made and switched off by operators; and what a caller is told of themselves.

use super::caller::{Caller, Who};
use super::input::{self, Body, Named, Params};
use super::page::{Listed, Page};
use super::sessions::{check_password, read_email, signed_in_user};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::members::Membership;
use crate::store::passwords::Password;
use crate::store::users::{NewUser, PasswordHash, UserChange, UserRecord};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::UserId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUserBody {
    /// What they sign in as; one of a kind.
    #[schema(max_length = 254, example = "ada@example.com")]
    email: String,
    /// What people call them.
    #[schema(min_length = 1, max_length = 128, example = "Ada")]
    name: String,
    /// What they sign in with: at least 12 characters.
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    password: String,
}

/// What to change of a user. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    /// What people call them.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Whether they can't sign in. It ends their sessions.
    disabled: Option<bool>,
    /// Another password. It ends their sessions.
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    password: Option<String>,
}

/// What to change of oneself. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MyPatch {
    /// What people call you.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The password that there is.
    #[schema(max_length = 1024, format = Password)]
    current_password: String,
    /// The one that it is to be: at least 12 characters.
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    new_password: String,
}

/// A user.
#[derive(Serialize, ToSchema)]
pub struct UserView {
    #[schema(example = "user_01m7yckqjk7g9vza1m37wxqh7y")]
    id: String,
    email: String,
    name: String,
    /// The organisation that their first sign-in made.
    personal_org: Option<String>,
    created_at: String,
    /// Since when they can't sign in.
    disabled_at: Option<String>,
}

/// An organisation of the caller.
#[derive(Serialize, ToSchema)]
pub struct MyOrg {
    id: String,
    name: String,
    /// What the caller is in it.
    #[schema(example = "developer")]
    role: &'static str,
    /// What the caller may do in it.
    permissions: Vec<&'static str>,
    /// Whether their first sign-in made it.
    personal: bool,
    /// Since when its keys are refused.
    suspended_at: Option<String>,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
pub struct Me {
    /// user or operator.
    kind: &'static str,
    /// Null for an operator's token.
    user: Option<UserView>,
    /// Where the user is a member. An operator may do everything in all of them.
    organisations: Vec<MyOrg>,
}

impl UserView {
    /// A user as they are shown.
    #[must_use]
    pub fn of(record: &UserRecord) -> Self {
        Self {
            id: record.id.to_string(),
            email: record.email.to_string(),
            name: record.name.clone(),
            personal_org: record.personal_org.map(|org| org.to_string()),
            created_at: stamp(record.created),
            disabled_at: record.disabled.map(stamp),
        }
    }
}

/// Says who asks, and what they may do where.
#[utoipa::path(get, path = "/api/me", tag = "users", responses((status = 200, body = Me)))]
pub async fn me(caller: Caller) -> Json<Me> {
    let Who::User(session) = caller.who() else {
        return Json(Me { kind: "operator", user: None, organisations: Vec::new() });
    };
    let user = &session.user;
    let my_org = |membership: &Membership| MyOrg {
        id: membership.org.to_string(),
        name: membership.org_name.clone(),
        role: membership.role.name(),
        permissions: membership.role.permissions().names(),
        personal: user.personal_org == Some(membership.org),
        suspended_at: membership.suspended.map(stamp),
    };
    let organisations = session.memberships.iter().map(my_org).collect();
    Json(Me { kind: "user", user: Some(UserView::of(user)), organisations })
}

/// Changes what the caller is called.
#[utoipa::path(patch, path = "/api/me", tag = "users", request_body = MyPatch, responses((status = 200, body = UserView)))]
pub async fn change_me(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(patch): Body<MyPatch>,
) -> Result<Json<UserView>, Refusal> {
    let (user, _) = signed_in_user(&caller)?;
    let name = patch.name.map(|name| input::name("name", &name)).transpose()?;
    let change = UserChange { name, ..UserChange::default() };
    Ok(Json(UserView::of(&control.store.change_user(user, &change, caller.by()).await?)))
}

/// Changes the caller's password. Every other session of theirs has ended.
#[utoipa::path(post, path = "/api/me/password", tag = "users", request_body = NewPassword, responses((status = 204)))]
pub async fn change_password(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(asked): Body<NewPassword>,
) -> Result<StatusCode, Refusal> {
    let (user, session) = signed_in_user(&caller)?;
    let password = read_password("new_password", &asked.new_password)?;
    let email = control.store.user(user).await?.email;
    check_password(&control, &caller, &email, &asked.current_password).await?;
    let password = Some(hash(&control, &password).await?);
    let change = UserChange { password, session_kept: Some(session), ..UserChange::default() };
    control.store.change_user(user, &change, caller.by()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a user.
#[utoipa::path(post, path = "/api/users", tag = "users", request_body = NewUserBody,
    responses((status = 201, body = UserView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(new): Body<NewUserBody>,
) -> Result<(StatusCode, Json<UserView>), Refusal> {
    let (email, name) = (read_email("email", &new.email)?, input::name("name", &new.name)?);
    let password = Some(hash(&control, &read_password("password", &new.password)?).await?);
    let made = control.store.create_user(&NewUser { email, name, password }, caller.by()).await?;
    Ok((StatusCode::CREATED, Json(UserView::of(&made))))
}

/// Lists users, the oldest first.
#[utoipa::path(get, path = "/api/users", tag = "users", params(Page), responses((status = 200, body = Listed<UserView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    _: Caller,
    Params(page): Params<Page>,
) -> Result<Json<Listed<UserView>>, Refusal> {
    let size = page.size()?;
    let users = control.store.users(page.after()?, size + 1).await?;
    Ok(Json(Listed::of(users, size, |user| user.id.to_string(), |user| UserView::of(&user))))
}

/// Shows a user.
#[utoipa::path(get, path = "/api/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = UserView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    _: Caller,
    Named(id): Named<UserId>,
) -> Result<Json<UserView>, Refusal> {
    Ok(Json(UserView::of(&control.store.user(id).await?)))
}

/// Changes a user, gives them another password, or keeps them from signing in.
#[utoipa::path(patch, path = "/api/users/{user}", tag = "users", params(("user" = String, Path)), request_body = UserPatch,
    responses((status = 200, body = UserView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<UserId>,
    Body(patch): Body<UserPatch>,
) -> Result<Json<UserView>, Refusal> {
    let name = patch.name.map(|name| input::name("name", &name)).transpose()?;
    let password = match patch.password {
        Some(text) => Some(hash(&control, &read_password("password", &text)?).await?),
        None => None,
    };
    let change = UserChange { name, is_disabled: patch.disabled, password, session_kept: None };
    Ok(Json(UserView::of(&control.store.change_user(id, &change, caller.by()).await?)))
}

/// Reads a password that is to be.
pub(super) fn read_password(param: &str, text: &str) -> Result<Password, Refusal> {
    text.parse()
        .map_err(|_| Refusal::validation(param, "A password has at least 12 characters, and at most 1024 bytes."))
}

/// What is to be stored of a password.
pub(super) async fn hash(control: &Control, password: &Password) -> Result<PasswordHash, Refusal> {
    let turn = control.passwords.turn()?;
    Ok(control.passwords.hash(turn, password).await?)
}
