//! Who asks, and what that caller may do: found out once a request, before its handler runs.

use super::access::{Access, Permission, Permissions, Role, permissions_of};
use super::{Control, access};
use crate::clock;
use crate::error::{Refusal, RefusalCode};
use crate::store::keys::KeyRecord;
use crate::store::operators;
use crate::store::sessions::{SESSION_PREFIX, SessionRecord};
use crate::store::trail::{Actor, ActorKind, By};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use filters::denied::Denied;
use filters::id::{CallId, KeyId, OrgId};
use filters::key::Status;
use filters::scope::Scopes;
use filters::time::EpochMs;
use std::net::IpAddr;
use std::sync::Arc;

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// The request's identifier.
    pub call: CallId,
    /// Whether it came in by the public listener, where nobody is an operator.
    pub is_public: bool,
}

/// Somebody who asks.
#[derive(Clone, Debug)]
pub enum Who {
    /// Somebody without a credential.
    Nobody,
    /// The holder of an operator's token.
    Operator(String),
    /// A person who has signed in, with the roles in organisations.
    User(Box<SessionRecord>),
    /// A key.
    Key {
        /// Which.
        id: KeyId,
        /// Whose.
        org: OrgId,
        /// What it may do.
        scopes: Scopes,
    },
}

/// The caller of a request, as its handler sees it.
#[derive(Clone, Debug)]
pub struct Caller {
    who: Who,
    access: Access,
    origin: Origin,
    now: EpochMs,
}

/// Somebody who may do in an organisation what the route is for. Only [`Caller::in_org`] makes one.
#[derive(Clone, Debug)]
pub struct Permitted {
    /// The organisation.
    pub org: OrgId,
    /// Who does it, and when.
    pub by: By,
    /// The one key that the caller may see, where that is all.
    pub only_key: Option<KeyId>,
    /// All that the caller may do there: nobody grants more.
    pub permissions: Permissions,
    /// What the caller is there; none for operators and keys.
    pub role: Option<Role>,
    /// The scopes of a key.
    pub scopes: Option<Scopes>,
}

impl Caller {
    /// Who it is.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// When the request came.
    #[must_use]
    pub fn now(&self) -> EpochMs {
        self.now
    }

    /// Where the request came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether it holds an operator's token.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self.who, Who::Operator(_))
    }

    /// Who changes a record, outside any organisation.
    #[must_use]
    pub fn by(&self) -> By {
        let (kind, id, role) = match &self.who {
            Who::Nobody => (ActorKind::User, String::new(), ""),
            Who::Operator(id) => (ActorKind::Operator, id.clone(), "operator"),
            Who::User(session) => (ActorKind::User, session.user.id.to_string(), ""),
            Who::Key { id, .. } => (ActorKind::Key, id.to_string(), ""),
        };
        let (address, request_id) = (Some(self.origin.address), self.origin.call.to_string());
        By { actor: Actor { kind, id, role, address, request_id }, now: self.now }
    }

    /// The caller in an organisation, if the route's permission is had there. Who has nothing to do with it is told what would be
    /// said if it did not exist.
    pub fn in_org(&self, org: OrgId) -> Result<Permitted, Refusal> {
        let unknown = || Refusal::not_found("organisation");
        let permitted = self.membership(org).ok_or_else(unknown)?;
        match self.access {
            Access::Org(permission) if !permitted.permissions.has(permission) => {
                Err(Refusal::forbidden(vec![permission.name()], permitted.permissions.names()))
            }
            Access::Operator if !self.is_operator() => Err(unknown()),
            Access::Open | Access::Anyone | Access::SignedIn | Access::Org(_) | Access::Operator => Ok(permitted),
        }
    }

    /// The same caller, if the organisation that the path names lets it in: before the body is looked at, so that nobody learns from
    /// what is wrong with it. Outer none: the path names no organisation; inner none: it names none that there can be.
    fn at(self, org: Option<Option<OrgId>>) -> Result<Self, Refusal> {
        match (self.access, org) {
            (Access::Org(_), Some(Some(org))) => self.in_org(org).map(|_| self),
            (Access::Org(_), Some(None)) => Err(Refusal::not_found("organisation")),
            (Access::Open | Access::Anyone | Access::SignedIn | Access::Operator, _) | (Access::Org(_), None) => {
                Ok(self)
            }
        }
    }

    /// The caller in the organisation that owns an object of the given kind.
    pub fn with_object(&self, org: OrgId, what: &str) -> Result<Permitted, Refusal> {
        if self.membership(org).is_none() {
            return Err(Refusal::not_found(what));
        }
        self.in_org(org)
    }

    /// The caller in the organisation that the request names, or in the only one there is.
    pub fn choose_org(&self, named: Option<OrgId>) -> Result<Permitted, Refusal> {
        let unnamed = || Refusal::validation("org", "Name the organisation that this is about, such as org_….");
        if let Some(org) = named {
            return self.in_org(org);
        }
        match &self.who {
            Who::Key { org, .. } => self.in_org(*org),
            Who::User(session) => match (session.user.personal_org, &session.memberships[..]) {
                (_, [only]) => self.in_org(only.org),
                (Some(personal), _) => self.in_org(personal),
                (None, _) => Err(unnamed()),
            },
            Who::Operator(_) | Who::Nobody => Err(unnamed()),
        }
    }

    fn membership(&self, org: OrgId) -> Option<Permitted> {
        let by = self.by();
        let permitted = |permissions| Permitted { org, by, only_key: None, permissions, role: None, scopes: None };
        match &self.who {
            Who::Nobody => None,
            Who::Operator(_) => Some(permitted(Permissions::all())),
            Who::User(session) => {
                let role = session.memberships.iter().find(|membership| membership.org == org)?.role;
                let mut permitted = permitted(role.permissions());
                permitted.role = Some(role);
                permitted.by.actor.role = role.name();
                Some(permitted)
            }
            Who::Key { id, org: own, scopes } => {
                let permissions = Some(permissions_of(*scopes)).filter(|_| *own == org)?;
                // usage:read alone is about the key itself.
                let is_own_alone = !permissions.has(Permission::CallsRead) && !permissions.has(Permission::KeysRead);
                let only_key = is_own_alone.then_some(*id);
                Some(Permitted { only_key, scopes: Some(*scopes), ..permitted(permissions) })
            }
        }
    }

    fn may_enter(&self) -> Result<(), Refusal> {
        let missing = || Err(Refusal::of(&Denied::MissingCredentials));
        match (self.access, &self.who) {
            (Access::Open | Access::Anyone, _) | (_, Who::Operator(_)) => Ok(()),
            (Access::SignedIn | Access::Org(_) | Access::Operator, Who::Nobody) => missing(),
            (Access::SignedIn | Access::Org(_), Who::User(_)) => Ok(()),
            (Access::SignedIn, Who::Key { scopes, .. }) => {
                Err(Refusal::forbidden(vec!["a session"], permissions_of(*scopes).names()))
            }
            (Access::Org(permission), Who::Key { scopes, .. }) => {
                let permissions = permissions_of(*scopes);
                let refused = || Refusal::forbidden(vec![permission.name()], scopes.names().collect());
                permissions.has(permission).then_some(()).ok_or_else(refused)
            }
            (Access::Operator, Who::User(_) | Who::Key { .. }) => Err(Refusal::forbidden(vec!["operator"], Vec::new())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Refusal::of(&Denied::MissingCredentials))
    }
}

/// Finds out who calls, and refuses whom the route is not for. A route without a row is for nobody.
pub(super) async fn authorise(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let org = RawPathParams::from_request_parts(&mut parts, &()).await.ok().and_then(|named| {
        let named = named.iter().find(|(name, _)| *name == "org")?;
        Some(named.1.parse::<OrgId>().ok())
    });
    match caller(&control, &parts).await.and_then(|caller| caller.at(org)) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn caller(control: &Control, request: &Parts) -> Result<Caller, Refusal> {
    let path = request.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let Some(access) = access::of(&request.method, path) else {
        // The path has a row for another method, or its handler was put into the router without one.
        return Err(Refusal::of(&Denied::NotFound));
    };
    let origin = request.extensions.get::<Origin>().copied().ok_or_else(Refusal::store_unavailable)?;
    if access == Access::Operator && origin.is_public {
        return Err(Refusal::of(&Denied::NotFound));
    }
    let now = clock::now();
    let who = match credential(&request.headers, &request.method)? {
        Some(token) if access != Access::Open => identify(control, token, origin, now).await?,
        Some(_) | None => Who::Nobody,
    };
    let caller = Caller { who, access, origin, now };
    caller.may_enter()?;
    Ok(caller)
}

/// The name of the cookie that carries a session.
pub const COOKIE: &str = "__Host-tollgate";

/// The one credential of a request.
fn credential<'a>(headers: &'a HeaderMap, method: &Method) -> Result<Option<&'a str>, Refusal> {
    let text = |value: &'a header::HeaderValue| value.to_str().map(str::trim).unwrap_or("unreadable");
    let bearer = headers.get_all(header::AUTHORIZATION).iter().map(text).map(|value| {
        let scheme = value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
        if scheme { value[7..].trim() } else { value }
    });
    let keys = headers.get_all("x-api-key").iter().map(text);
    let mut found = bearer.chain(keys).filter(|token| !token.is_empty());
    let first = found.next();
    if found.any(|other| Some(other) != first) {
        return Err(Refusal::of(&Denied::AmbiguousCredentials));
    }
    if first.is_some() {
        return Ok(first);
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let session = cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value);
    if session.is_some() && !is_same_origin(headers, method) {
        return Err(Refusal::new(
            RefusalCode::InvalidSession,
            "A request that changes something needs the Origin of this site when it is authenticated by a cookie.",
        ));
    }
    Ok(session)
}

/// Whether a browser's request was made by a page of ours. Reading is safe from anywhere: the answer stays with the asker.
fn is_same_origin(headers: &HeaderMap, method: &Method) -> bool {
    if method.is_safe() {
        return true;
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == text(header::HOST)
}

async fn identify(control: &Control, token: &str, origin: Origin, now: EpochMs) -> Result<Who, Refusal> {
    let lookups = control.store.pepper().lookups(token);
    let is = |prefix: &str| token.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('_'));
    let may_be_operator = !is(&control.settings.key_prefix) && !origin.is_public;
    for lookup in lookups.iter().filter(|_| may_be_operator) {
        if let Some(operator) = control.store.operator_of(*lookup, now).await? {
            return Ok(Who::Operator(operator.id.to_string()));
        }
    }
    if is(operators::PREFIX) {
        let message = "This operator's token is not valid here.";
        return Err(Refusal::new(RefusalCode::InvalidSession, message));
    }
    if is(SESSION_PREFIX) {
        for lookup in lookups {
            if let Some(session) = control.store.session(lookup, now).await? {
                return Ok(Who::User(Box::new(session)));
            }
        }
        return Err(Refusal::new(RefusalCode::InvalidSession, "The session is over: sign in again."));
    }
    let Some(key) = control.store.key_of_token(token, now).await? else {
        return Err(Refusal::of(&Denied::InvalidApiKey));
    };
    check_key(&key, origin, now).map_err(|denied| Refusal::of(&denied))?;
    Ok(Who::Key { id: key.id, org: key.org, scopes: key.scopes.of_kind(key.kind) })
}

/// Refuses a key that may not be used now, or not from there.
fn check_key(key: &KeyRecord, origin: Origin, now: EpochMs) -> Result<(), Denied> {
    if key.secret_ends.is_some_and(|ends| ends <= now) {
        return Err(Denied::SecretReplaced);
    }
    match key.status {
        Status::Live => {}
        Status::Disabled => return Err(Denied::KeyDisabled),
        Status::Archived => return Err(Denied::KeyArchived),
        Status::Deleted => return Err(Denied::InvalidApiKey),
    }
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(Denied::KeyExpired);
    }
    if key.org_suspended {
        return Err(Denied::OrganisationSuspended);
    }
    if key.addresses.is_empty() || key.addresses.iter().any(|network| network.contains(origin.address)) {
        return Ok(());
    }
    Err(Denied::IpNotAllowed)
}
