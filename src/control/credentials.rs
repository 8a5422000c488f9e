//! Credentials that organisations have at providers themselves: their secrets come in and are never shown.

use super::input::{self, Body, Named, NamedWithin, Params};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::control::caller::Caller;
use crate::error::Refusal;
use crate::store::credentials::{CredentialChange, CredentialRecord, NewCredential, Rotation};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{CredentialId, OrgId};
use filters::key::Glob;
use filters::own::{CredentialProblem, OwnSecret, Trial};
use serde::{Deserialize, Deserializer, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Most patterns of models, and the longest of them.
const PATTERNS_MAX: usize = 100;
const PATTERN_BYTES_MAX: usize = 128;
const PRIORITY_MAX: u32 = 1_000;
const WEIGHT_MAX: u32 = 1_000_000;

/// A credential to be kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCredentialBody {
    /// The provider, by its name in the configuration.
    #[schema(max_length = 128, example = "openai")]
    provider: String,
    /// The secret as the provider gave it. It is never shown again.
    #[schema(value_type = String, write_only, min_length = 1, max_length = 4096)]
    secret: SecretText,
    /// What people call it; the provider's name if it is left out.
    #[schema(max_length = 128)]
    name: Option<String>,
    /// Where the provider's protocol is spoken, in place of the provider's own address: public, and https.
    #[schema(max_length = 2048, example = "https://models.example.com/v1")]
    base_url: Option<String>,
    /// Patterns of models that it is used for; all, if there are none.
    #[serde(default)]
    #[schema(max_items = 100)]
    models: Vec<String>,
    /// Those of the lowest number are tried first.
    #[serde(default)]
    #[schema(maximum = 1000)]
    priority: u32,
    /// Share among those of one priority.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1000000, default = 1)]
    weight: u32,
    /// Whether calls that it could serve may be made with the gateway's credentials when it fails, and are charged then.
    #[serde(default)]
    fallback: bool,
}

/// What is to be changed of a credential.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialChangeBody {
    /// What people call it.
    #[schema(max_length = 128)]
    name: Option<String>,
    /// Patterns of models that it is used for.
    #[schema(max_items = 100)]
    models: Option<Vec<String>>,
    /// Those of the lowest number are tried first.
    #[schema(maximum = 1000)]
    priority: Option<u32>,
    /// Share among those of one priority.
    #[schema(minimum = 1, maximum = 1000000)]
    weight: Option<u32>,
    /// Whether calls may be made with the gateway's credentials when it fails.
    fallback: Option<bool>,
    /// Whether it is used.
    enabled: Option<bool>,
}

/// A new secret of a credential.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationBody {
    /// The secret as the provider gave it. It is never shown again.
    #[schema(value_type = String, write_only, min_length = 1, max_length = 4096)]
    secret: SecretText,
    /// Where it is for from now on; null: the provider's own address; as before, if it is left out. An address never changes without a
    /// secret.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 2048)]
    base_url: Option<Option<String>>,
}

/// A secret on its way in: overwritten when it is dropped.
struct SecretText(OwnSecret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        String::deserialize(reader).map(|text| Self(OwnSecret::new(text)))
    }
}

/// Tells null from nothing.
fn present<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(reader).map(Some)
}

fn one() -> u32 {
    1
}

/// A credential.
#[derive(Serialize, ToSchema)]
pub struct CredentialView {
    id: String,
    org: String,
    name: String,
    provider: String,
    base_url: Option<String>,
    models: Vec<String>,
    priority: u32,
    weight: u32,
    fallback: bool,
    enabled: bool,
    /// How often its secret was set.
    version: i64,
    /// The end of its secret.
    fingerprint: String,
    created_at: String,
    rotated_at: Option<String>,
    /// To the minute.
    last_used_at: Option<String>,
    /// The provider has refused it.
    benched: Option<Benched>,
}

/// How a provider refused a credential.
#[derive(Serialize, ToSchema)]
pub struct Benched {
    /// 401 or 403.
    status: u16,
    /// It is left alone until then.
    until: String,
}

/// What a provider made of a credential.
#[derive(Serialize, ToSchema)]
pub struct TrialView {
    /// Whether it was taken.
    ok: bool,
    /// The status that the provider answered with; null if it did not answer.
    status: Option<u16>,
    latency_ms: u64,
}

impl CredentialView {
    fn of(record: CredentialRecord) -> Self {
        let glob = |Glob(text)| String::from(text);
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            name: record.name,
            provider: record.provider,
            base_url: record.base_url,
            models: record.models.into_iter().map(glob).collect(),
            priority: record.priority,
            weight: record.weight,
            fallback: record.may_fall_back,
            enabled: record.is_enabled,
            version: record.version,
            fingerprint: record.fingerprint,
            created_at: stamp(record.created),
            rotated_at: record.rotated.map(stamp),
            last_used_at: record.last_used.map(stamp),
            benched: record.benched.map(|(status, until)| Benched { status, until: stamp(until) }),
        }
    }
}

/// Lists an organisation's credentials at providers, in the order in which they were made.
#[utoipa::path(get, path = "/api/orgs/{org}/credentials", tag = "credentials", params(("org" = String, Path), Page),
    responses((status = 200, body = Listed<CredentialView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<CredentialView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let size = page.size()?;
    let rows = control.store.credentials(permitted.org, page.after()?, size + 1).await?;
    Ok(Json(Listed::of(rows, size, |row| row.id.to_string(), CredentialView::of)))
}

/// Keeps a credential. Calls of the organisation's keys are made with it from then on, in place of the gateway's own.
#[utoipa::path(post, path = "/api/orgs/{org}/credentials", tag = "credentials", params(("org" = String, Path)),
    request_body = NewCredentialBody, responses((status = 201, body = CredentialView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(body): Body<NewCredentialBody>,
) -> Result<(StatusCode, Json<CredentialView>), Refusal> {
    let permitted = caller.in_org(org)?;
    check_secret(&control, &body.provider, &body.secret)?;
    check_url(&control, body.base_url.as_deref()).await?;
    let new = NewCredential {
        org: permitted.org,
        name: input::name("name", body.name.as_deref().unwrap_or(&body.provider))?,
        base_url: body.base_url,
        models: patterns(body.models)?,
        priority: within("priority", body.priority, 0, PRIORITY_MAX)?,
        weight: within("weight", body.weight, 1, WEIGHT_MAX)?,
        may_fall_back: body.fallback,
        provider: body.provider,
        secret: body.secret.0,
    };
    let record = control.store.create_credential(&new, permitted.by).await?;
    Ok((StatusCode::CREATED, Json(CredentialView::of(record))))
}

/// Shows a credential without its secret.
#[utoipa::path(get, path = "/api/orgs/{org}/credentials/{credential}", tag = "credentials",
    params(("org" = String, Path), ("credential" = String, Path)), responses((status = 200, body = CredentialView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, CredentialId>,
) -> Result<Json<CredentialView>, Refusal> {
    let permitted = caller.in_org(org)?;
    Ok(Json(CredentialView::of(control.store.credential(permitted.org, id).await?)))
}

/// Changes what is not secret of a credential.
#[utoipa::path(patch, path = "/api/orgs/{org}/credentials/{credential}", tag = "credentials",
    params(("org" = String, Path), ("credential" = String, Path)), request_body = CredentialChangeBody,
    responses((status = 200, body = CredentialView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, CredentialId>,
    Body(body): Body<CredentialChangeBody>,
) -> Result<Json<CredentialView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let change = CredentialChange {
        name: body.name.map(|name| input::name("name", &name)).transpose()?,
        models: body.models.map(patterns).transpose()?,
        priority: body.priority.map(|priority| within("priority", priority, 0, PRIORITY_MAX)).transpose()?,
        weight: body.weight.map(|weight| within("weight", weight, 1, WEIGHT_MAX)).transpose()?,
        may_fall_back: body.fallback,
        is_enabled: body.enabled,
    };
    let record = control.store.change_credential(permitted.org, id, &change, permitted.by).await?;
    Ok(Json(CredentialView::of(record)))
}

/// Deletes a credential, and its secret with it.
#[utoipa::path(delete, path = "/api/orgs/{org}/credentials/{credential}", tag = "credentials",
    params(("org" = String, Path), ("credential" = String, Path)), responses((status = 204)))]
pub async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, CredentialId>,
) -> Result<StatusCode, Refusal> {
    let permitted = caller.in_org(org)?;
    control.store.delete_credential(permitted.org, id, permitted.by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces a credential's secret: it stays the same credential, in its next version.
#[utoipa::path(post, path = "/api/orgs/{org}/credentials/{credential}/rotate", tag = "credentials",
    params(("org" = String, Path), ("credential" = String, Path)), request_body = RotationBody,
    responses((status = 200, body = CredentialView)))]
pub async fn rotate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, CredentialId>,
    Body(body): Body<RotationBody>,
) -> Result<Json<CredentialView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let known = control.store.credential(permitted.org, id).await?;
    check_secret(&control, &known.provider, &body.secret)?;
    check_url(&control, body.base_url.as_ref().and_then(Option::as_deref)).await?;
    let rotation = Rotation { secret: body.secret.0, base_url: body.base_url };
    let record = control.store.rotate_credential(permitted.org, id, &rotation, permitted.by).await?;
    Ok(Json(CredentialView::of(record)))
}

/// Asks the provider something that costs nothing, with the credential.
#[utoipa::path(post, path = "/api/orgs/{org}/credentials/{credential}/test", tag = "credentials",
    params(("org" = String, Path), ("credential" = String, Path)), responses((status = 200, body = TrialView)))]
pub async fn test(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, CredentialId>,
) -> Result<Json<TrialView>, Refusal> {
    let permitted = caller.in_org(org)?;
    let own = control.store.opened_credential(permitted.org, id).await?;
    let Trial { is_taken, status, milliseconds } = control.providers()?.try_credential(&own).await;
    Ok(Json(TrialView { ok: is_taken, status, latency_ms: milliseconds }))
}

fn check_secret(control: &Control, provider: &str, secret: &SecretText) -> Result<(), Refusal> {
    control.providers()?.check_credential(provider, &secret.0).map_err(|problem| {
        let param = match problem {
            CredentialProblem::UnknownProvider => "provider",
            CredentialProblem::Secret(_) => "secret",
        };
        Refusal::validation(param, problem.to_string())
    })
}

async fn check_url(control: &Control, url: Option<&str>) -> Result<(), Refusal> {
    let Some(url) = url else { return Ok(()) };
    let checked = control.guard.check(url).await;
    checked.map(drop).map_err(|refused| Refusal::validation("base_url", format!("It can't be used: {refused}.")))
}

fn patterns(texts: Vec<String>) -> Result<Vec<Glob>, Refusal> {
    let is_plain = |text: &String| {
        let fits = (1..=PATTERN_BYTES_MAX).contains(&text.len());
        fits && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if texts.len() > PATTERNS_MAX || !texts.iter().all(is_plain) {
        let message = "Patterns are at most 100, each of 1 to 128 printable ASCII characters without spaces.";
        return Err(Refusal::validation("models", message));
    }
    Ok(texts.into_iter().map(|text| Glob(text.into())).collect())
}

fn within(param: &str, number: u32, least: u32, most: u32) -> Result<u32, Refusal> {
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(Refusal::validation(param, format!("It must be from {least} to {most}.")))
}
