//! Keys: made, listed, changed, rotated, switched off and on, archived, deleted.
//!
//! - `body.rs`: what comes in; `limits.rs` the limits in it
//! - `view.rs`: what is shown

pub mod body;
mod limits;
pub mod view;

use super::Control;
use super::access::permissions_of;
use super::caller::{Caller, Permitted};
use super::input::{self, Body, Named, OptionalBody, Params};
use super::page::{Listed, Page};
use crate::error::{Refusal, RefusalCode};
use crate::store::StoreError;
use crate::store::idempotency::Once;
use crate::store::keys::{KeyFilter, KeyOrder, KeyPlace, KeyRecord};
use crate::store::trail::By;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use body::{KeyBody, KeyPatch, KeyRotation};
use filters::id::{KeyId, OrgId, ProjectId};
use filters::scope::{KeyKind, Scope, Scopes};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;
use view::{IssuedKeyView, KeyDetail, KeyView};

/// Which keys are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KeyList {
    /// How many: 10, 25, 50 or 100.
    #[param(minimum = 10, maximum = 100, default = 25, required = false)]
    limit: Option<u32>,
    /// What the page before said in `next_cursor`.
    #[param(required = false, max_length = 8192)]
    cursor: Option<String>,
    /// The organisation; may be left out by who is in one alone.
    #[param(required = false)]
    org: Option<String>,
    /// Only those of a project.
    #[param(required = false)]
    project: Option<String>,
    /// `live`, `disabled`, `expired` or `archived`.
    #[param(required = false)]
    status: Option<String>,
    /// What stands in the name or the description, in large or small letters; or a key's whole identifier.
    #[param(required = false, max_length = 128)]
    q: Option<String>,
    /// `created`, `name` or `last_used`; with a `-` before it the highest come first. Without it: `-created`.
    #[param(required = false)]
    sort: Option<String>,
}

impl KeyList {
    fn filter(&self, org: OrgId, size: u32) -> Result<KeyFilter<'_>, Refusal> {
        let sort = self.sort.as_deref().unwrap_or("-created");
        let order = match sort.strip_prefix('-').unwrap_or(sort) {
            "created" => KeyOrder::Created,
            "name" => KeyOrder::Name,
            "last_used" => KeyOrder::LastUsed,
            _ => {
                return Err(Refusal::validation(
                    "sort",
                    "Keys are sorted by created, name or last_used, or by -created and so on.",
                ));
            }
        };
        let is_state = |state: &&str| ["live", "disabled", "expired", "archived"].contains(state);
        if self.status.as_deref().is_some_and(|state| !is_state(&state)) {
            return Err(Refusal::validation("status", "A status is live, disabled, expired or archived."));
        }
        let text = self.q.as_deref().filter(|text| !text.is_empty());
        if let Some(text) = text {
            input::name("q", text)?;
        }
        Ok(KeyFilter {
            project: read_id(self.project.as_deref(), "project")?,
            state: self.status.as_deref(),
            text,
            order,
            is_descending: sort.starts_with('-'),
            after: self.cursor.as_deref().map(read_cursor).transpose()?,
            // One more says whether others follow.
            ..KeyFilter::of(org, size as usize + 1)
        })
    }
}

fn cursor(place: &KeyPlace) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}\n{}", place.id, place.at))
}

fn read_cursor(text: &str) -> Result<KeyPlace, Refusal> {
    let place = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (id, at) = text.split_once('\n')?;
        let is_plain = !at.chars().any(char::is_control);
        is_plain.then_some(KeyPlace { id: id.parse().ok()?, at: at.to_owned() })
    };
    let unknown = || Refusal::validation("cursor", "This is not a cursor of this list: begin again without one.");
    place().ok_or_else(unknown)
}

/// An identifier in a body or a parameter: what can't be one names nothing.
fn read_id<T: std::str::FromStr>(text: Option<&str>, what: &'static str) -> Result<Option<T>, Refusal> {
    let read = |text: &str| text.parse().map_err(|_| Refusal::not_found(what).about(what));
    text.map(read).transpose()
}

fn read_org(text: Option<&str>) -> Result<Option<OrgId>, Refusal> {
    let read = |text: &str| text.parse().map_err(|_| Refusal::not_found("organisation"));
    text.map(read).transpose()
}

/// Lists an organisation's keys.
#[utoipa::path(get, path = "/api/keys", operation_id = "list_keys", tag = "keys", params(KeyList),
    responses((status = 200, body = Listed<KeyView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(list): Params<KeyList>,
) -> Result<Json<Listed<KeyView>>, Refusal> {
    let permitted = caller.choose_org(read_org(list.org.as_deref())?)?;
    let size = Page { limit: list.limit, cursor: None }.size()?;
    let filter = list.filter(permitted.org, size)?;
    let now = caller.now();
    let keys = control.store.list_keys(&filter, now).await?;
    let of_page = |key: &KeyRecord| cursor(&filter.order.place(key));
    Ok(Json(Listed::of(keys, size, of_page, |key| KeyView::of(&key, now))))
}

/// Makes a key. Its token is in this answer and nowhere else; with an `Idempotency-Key`, the same request is given the same answer for
/// 24 hours.
#[utoipa::path(post, path = "/api/keys", operation_id = "create_key", tag = "keys", request_body = KeyBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters.")),
    responses((status = 201, body = IssuedKeyView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body<KeyBody>,
) -> Result<(StatusCode, Json<IssuedKeyView>), Refusal> {
    let permitted = caller.choose_org(read_org(body.org.as_deref())?)?;
    let new = body.new_key(permitted.org, &control.settings.key_prefix, caller.now())?;
    let kind = new.scopes.kind().ok_or(StoreError::ScopeMix)?;
    may_grant(&permitted, kind, new.scopes)?;
    if let Some(project) = new.project {
        check_project(&control, project, &permitted).await?;
    }
    let (id, token) = match body.token_hash()? {
        Some(_) if !caller.is_operator() => {
            return Err(Refusal::forbidden(vec!["operator"], permitted.permissions.names()).about("token_sha256"));
        }
        Some(hash) => (control.store.import_key(&new, hash, permitted.by).await?, None),
        None => {
            let issued = match once(&headers, &body, &permitted.by)? {
                Some(once) => control.store.create_key_once(&new, &once, permitted.by).await?,
                None => control.store.create_key(&new, permitted.by).await?,
            };
            (issued.id, Some(issued.token.reveal().to_owned()))
        }
    };
    let record = control.store.key(id, caller.now()).await?;
    Ok((StatusCode::CREATED, Json(IssuedKeyView { key: KeyView::of(&record, caller.now()), token })))
}

/// What makes a request known again, if the client has named it.
fn once(headers: &HeaderMap, body: &KeyBody, by: &By) -> Result<Option<Once>, Refusal> {
    let Some(name) = headers.get("idempotency-key") else { return Ok(None) };
    let caller = format!("{} {}", by.actor.kind.name(), by.actor.id);
    // The request as it was understood: two bodies that say the same are the same request.
    let request = format!("{body:?}");
    let once = name.to_str().ok().and_then(|name| Once::new(&caller, "keys", name, request.as_bytes()));
    let message = "An Idempotency-Key has 1 to 255 visible ASCII characters.";
    once.map(Some).ok_or_else(|| Refusal::validation("Idempotency-Key", message))
}

/// Shows a key, with its secrets' fingerprints.
#[utoipa::path(get, path = "/api/keys/{key}", operation_id = "show_key", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = KeyDetail)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
) -> Result<Json<KeyDetail>, Refusal> {
    let (record, _) = owned(&control, &caller, id).await?;
    let secrets = control.store.secrets(id).await?;
    Ok(Json(KeyDetail::of(&record, &secrets, caller.now())))
}

/// Changes a key. What is left out stays; `null` takes a limit or the expiry away. The name stays for good.
#[utoipa::path(patch, path = "/api/keys/{key}", operation_id = "change_key", tag = "keys", params(("key" = String, Path)),
    request_body = KeyPatch, responses((status = 200, body = KeyView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
    Body(body): Body<KeyPatch>,
) -> Result<Json<KeyView>, Refusal> {
    let (record, permitted) = owned(&control, &caller, id).await?;
    if body.renames(&record) {
        let message = "A key's name can't be changed after creation: archive it and create a new named key.";
        return Err(Refusal::new(RefusalCode::NameImmutable, message).about("name"));
    }
    let change = body.change(caller.now())?;
    // Neither what the key may already do nor what it is to be able to do may be more than the caller's own.
    may_grant(&permitted, record.kind, record.scopes)?;
    if let Some(scopes) = change.scopes {
        may_grant(&permitted, record.kind, scopes)?;
    }
    let changed = control.store.change_key(id, &change, permitted.by).await?;
    Ok(Json(KeyView::of(&changed, caller.now())))
}

/// Deletes a key that was never used.
#[utoipa::path(delete, path = "/api/keys/{key}", operation_id = "delete_key", tag = "keys", params(("key" = String, Path)),
    responses((status = 204)))]
pub async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
) -> Result<StatusCode, Refusal> {
    let (_, permitted) = owned(&control, &caller, id).await?;
    control.store.delete_key(id, permitted.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a key a new token. The old one goes on until its grace ends: 24 hours where nothing is said.
#[utoipa::path(post, path = "/api/keys/{key}/rotate", operation_id = "rotate_key", tag = "keys", params(("key" = String, Path)),
    request_body = KeyRotation, responses((status = 200, body = IssuedKeyView)))]
pub async fn rotate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
    OptionalBody(body): OptionalBody<KeyRotation>,
) -> Result<Json<IssuedKeyView>, Refusal> {
    let (record, permitted) = owned(&control, &caller, id).await?;
    // Who holds the new token may do what the key may.
    may_grant(&permitted, record.kind, record.scopes)?;
    let prefix = &control.settings.key_prefix;
    let (issued, record) = control.store.rotate_key(id, body.grace_ms()?, prefix, permitted.by).await?;
    let token = Some(issued.token.reveal().to_owned());
    Ok(Json(IssuedKeyView { key: KeyView::of(&record, caller.now()), token }))
}

/// Refuses a key until it is enabled again.
#[utoipa::path(post, path = "/api/keys/{key}/disable", operation_id = "disable_key", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = KeyView)))]
pub async fn disable(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
) -> Result<Json<KeyView>, Refusal> {
    let (_, permitted) = owned(&control, &caller, id).await?;
    let record = control.store.enable_key(id, false, permitted.by).await?;
    Ok(Json(KeyView::of(&record, caller.now())))
}

/// Lets a disabled key in again.
#[utoipa::path(post, path = "/api/keys/{key}/enable", operation_id = "enable_key", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = KeyView)))]
pub async fn enable(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
) -> Result<Json<KeyView>, Refusal> {
    let (record, permitted) = owned(&control, &caller, id).await?;
    may_grant(&permitted, record.kind, record.scopes)?;
    let record = control.store.enable_key(id, true, permitted.by).await?;
    Ok(Json(KeyView::of(&record, caller.now())))
}

/// Puts a key away for good that has been used. What it did stays on the books.
#[utoipa::path(post, path = "/api/keys/{key}/archive", operation_id = "archive_key", tag = "keys", params(("key" = String, Path)),
    responses((status = 200, body = KeyView)))]
pub async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<KeyId>,
) -> Result<Json<KeyView>, Refusal> {
    let (_, permitted) = owned(&control, &caller, id).await?;
    let record = control.store.archive_key(id, permitted.by).await?;
    Ok(Json(KeyView::of(&record, caller.now())))
}

/// A key, if the caller may know of it and do with it what the route is for.
async fn owned(control: &Control, caller: &Caller, id: KeyId) -> Result<(KeyRecord, Permitted), Refusal> {
    let record = control.store.key(id, caller.now()).await?;
    let permitted = caller.with_object(record.org, "key")?;
    Ok((record, permitted))
}

/// Refuses to hand on what the caller does not have: a key that reads or changes more of the organisation than the caller may. What a
/// model key says of itself is its own.
fn may_grant(permitted: &Permitted, kind: KeyKind, scopes: Scopes) -> Result<(), Refusal> {
    let is_own = |scope: &Scope| kind == KeyKind::Model && *scope == Scope::UsageRead;
    let handed = scopes.of_kind(kind).each().filter(|scope| !is_own(scope)).fold(Scopes::default(), Scopes::with);
    let needed = permissions_of(handed);
    if permitted.permissions.covers(needed) {
        return Ok(());
    }
    Err(Refusal::forbidden(needed.names(), permitted.permissions.names()).about("scopes"))
}

/// Refuses a project that is not the organisation's: nobody is told whether it is another's.
async fn check_project(control: &Control, project: ProjectId, permitted: &Permitted) -> Result<(), Refusal> {
    let unknown = || Refusal::not_found("project").about("project");
    match control.store.project(project, permitted.by.now).await {
        Ok(record) if record.org == permitted.org => Ok(()),
        Ok(_) | Err(StoreError::NotFound(_)) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        for at in ["", "a name", "Ä\u{301} 'q' %", "1234"] {
            let place = KeyPlace { id: KeyId(7), at: at.to_owned() };
            assert_eq!(read_cursor(&cursor(&place)).expect("a cursor"), place);
        }
        for odd in ["", "x", "!", &URL_SAFE_NO_PAD.encode("key_1\nx"), &URL_SAFE_NO_PAD.encode("no\u{0}")] {
            assert_eq!(read_cursor(odd).expect_err("refused").status(), 422, "{odd}");
        }
    }
}
