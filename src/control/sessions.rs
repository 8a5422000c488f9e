//! Sessions: signing in and out.

use super::caller::{COOKIE, Caller, Who};
use super::input::{Body, Named};
use super::users::UserView;
use super::{Control, stamp};
use crate::error::{Refusal, RefusalCode};
use crate::store::passwords::PasswordError;
use crate::store::sessions::{NewSession, SessionLine};
use crate::store::sign_in::{Attempt, SignInLimits};
use crate::store::trail::{ActorKind, By};
use crate::store::users::{Email, UserRecord};
use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use filters::denied::Denied;
use filters::id::{SessionId, UserId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// How people come in.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// A session ends when it was not used for so long …
    pub session_idle: Duration,
    /// … and so long after its beginning in any case.
    pub session_absolute: Duration,
    /// How long an invitation can be accepted.
    pub invitation: Duration,
    /// How often somebody may try to sign in.
    pub sign_in: SignInLimits,
}

/// Who signs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The e-mail address of the user.
    #[schema(max_length = 254, example = "ada@example.com")]
    email: String,
    /// The password.
    #[schema(max_length = 1024, format = Password)]
    password: String,
    /// Whether the session is kept in a cookie of the browser. Then no script sees its token.
    #[serde(default)]
    cookie: bool,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    #[schema(example = "sess_01m7yckqjk7g9vza1m37wxqh7y")]
    id: String,
    /// From where it was opened.
    address: String,
    created_at: String,
    /// To the minute.
    last_used_at: String,
    /// When it ends at the latest.
    ends_at: String,
    /// Whether it is the one that asks.
    current: bool,
}

/// A session that was opened.
#[derive(Serialize, ToSchema)]
pub struct OpenedSession {
    #[serde(flatten)]
    session: SessionView,
    /// The token, shown this one time; null where it is in a cookie.
    token: Option<String>,
    user: UserView,
}

/// A user's sessions.
#[derive(Serialize, ToSchema)]
pub struct Sessions {
    data: Vec<SessionView>,
}

/// How many sessions have ended.
#[derive(Serialize, ToSchema)]
pub struct Ended {
    ended: u64,
}

impl SessionView {
    /// A session as the one that asks sees it.
    #[must_use]
    pub fn of(line: &SessionLine, current: SessionId) -> Self {
        Self {
            id: line.id.to_string(),
            address: line.address.clone(),
            created_at: stamp(line.created),
            last_used_at: stamp(line.used),
            ends_at: stamp(line.ends),
            current: line.id == current,
        }
    }
}

/// Signs a user in. The first time makes their personal organisation.
#[utoipa::path(post, path = "/api/sessions", tag = "sessions", request_body = SignIn,
    responses((status = 201, body = OpenedSession)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(asked): Body<SignIn>,
) -> Result<(StatusCode, HeaderMap, Json<OpenedSession>), Refusal> {
    let email = read_email("email", &asked.email)?;
    let user = check_password(&control, &caller, &email, &asked.password).await?;
    let accounts = &control.settings.accounts;
    let new = NewSession {
        user: user.id,
        address: caller.origin().address.to_string(),
        idle: accounts.session_idle,
        absolute: accounts.session_absolute,
    };
    let issued = control.store.create_session(&new, signed_in(&caller, user.id)).await?;
    let mut headers = HeaderMap::new();
    let token = issued.token.reveal();
    if asked.cookie {
        headers.insert(SET_COOKIE, cookie(token, accounts.session_absolute)?);
    }
    let line = &issued.session.line;
    let opened = OpenedSession {
        session: SessionView::of(line, line.id),
        token: (!asked.cookie).then(|| token.to_owned()),
        user: UserView::of(&issued.session.user),
    };
    Ok((StatusCode::CREATED, headers, Json(opened)))
}

/// Lists the caller's sessions.
#[utoipa::path(get, path = "/api/sessions", tag = "sessions", responses((status = 200, body = Sessions)))]
pub async fn list(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Sessions>, Refusal> {
    let (user, current) = signed_in_user(&caller)?;
    let sessions = control.store.sessions(user, caller.now()).await?;
    Ok(Json(Sessions { data: sessions.iter().map(|line| SessionView::of(line, current)).collect() }))
}

/// Signs out: the session that asks has ended.
#[utoipa::path(delete, path = "/api/sessions/current", tag = "sessions", responses((status = 204)))]
pub async fn end_current(
    State(control): State<Arc<Control>>,
    caller: Caller,
) -> Result<(StatusCode, HeaderMap), Refusal> {
    let (user, current) = signed_in_user(&caller)?;
    control.store.end_session(user, current, caller.by()).await?;
    let mut headers = HeaderMap::new();
    headers.insert(SET_COOKIE, cookie("", Duration::ZERO)?);
    Ok((StatusCode::NO_CONTENT, headers))
}

/// Ends one of the caller's sessions.
#[utoipa::path(delete, path = "/api/sessions/{session}", tag = "sessions", params(("session" = String, Path)),
    responses((status = 204)))]
pub async fn end(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<SessionId>,
) -> Result<StatusCode, Refusal> {
    let (user, _) = signed_in_user(&caller)?;
    control.store.end_session(user, id, caller.by()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all of the caller's sessions but the one that asks.
#[utoipa::path(delete, path = "/api/sessions", tag = "sessions", responses((status = 200, body = Ended)))]
pub async fn end_others(State(control): State<Arc<Control>>, caller: Caller) -> Result<Json<Ended>, Refusal> {
    let (user, current) = signed_in_user(&caller)?;
    let ended = control.store.end_sessions(user, Some(current), caller.by()).await?;
    Ok(Json(Ended { ended }))
}

/// The user and the session that ask. An operator's token has neither.
pub(super) fn signed_in_user(caller: &Caller) -> Result<(UserId, SessionId), Refusal> {
    match caller.who() {
        Who::User(session) => Ok((session.user.id, session.line.id)),
        Who::Nobody | Who::Operator(_) | Who::Key { .. } => Err(Refusal::forbidden(vec!["a session"], Vec::new())),
    }
}

/// The user of that address, if the password is theirs. The answer is the same, and takes as long, whether there is no such user, the
/// password is wrong, or they can't sign in any more.
pub(super) async fn check_password(
    control: &Control,
    caller: &Caller,
    email: &Email,
    password: &str,
) -> Result<UserRecord, Refusal> {
    // Whoever has no turn is sent away before anything is written: a flood of attempts must not keep the books busy.
    let turn = control.passwords.turn()?;
    let attempt = Attempt { email, address: caller.origin().address };
    let now = caller.now();
    if let Some(until) = control.store.count_sign_in(attempt, &control.settings.accounts.sign_in, now).await? {
        let wait_ms = u64::try_from(until.0 - now.0).unwrap_or(0);
        let message = "There were too many attempts to sign in: wait, and try again.";
        return Err(Refusal::new(RefusalCode::SignInLimitExceeded, message).after(wait_ms));
    }
    let found = control.store.user_by_email(email).await?;
    let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
    let is_right = control.passwords.is_password(turn, password, hash.as_ref()).await?;
    let user = user
        .filter(|user| is_right && user.disabled.is_none())
        .ok_or_else(|| Refusal::new(RefusalCode::InvalidSignIn, "The e-mail address or the password is wrong."))?;
    control.store.forgive_sign_in(attempt).await?;
    Ok(user)
}

/// Reads an address.
pub(super) fn read_email(param: &str, text: &str) -> Result<Email, Refusal> {
    text.parse().map_err(|_| Refusal::validation(param, "This is not an e-mail address such as ada@example.com."))
}

/// Who has just shown who they are.
fn signed_in(caller: &Caller, user: UserId) -> By {
    let mut by = caller.by();
    by.actor.kind = ActorKind::User;
    by.actor.id = user.to_string();
    by
}

/// The cookie: of this host alone, over TLS alone, for no script and for no other site.
fn cookie(token: &str, age: Duration) -> Result<HeaderValue, Refusal> {
    let text = format!("{COOKIE}={token}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict", age.as_secs());
    HeaderValue::from_str(&text).map_err(|_| Refusal::store_unavailable())
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::of(&Denied::Overloaded),
            PasswordError::Hash(_) | PasswordError::Random(_) => {
                tracing::error!(%error, "a password can't be hashed");
                Self::of(&Denied::Overloaded)
            }
        }
    }
}
