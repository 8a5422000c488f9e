//! Projects: keys of an organisation that share limits.

use super::caller::Caller;
use super::input::{self, Body, Named, NamedWithin, Params};
use super::limits::{self, LimitBody, LimitView};
use super::page::{Listed, Page};
use super::{Control, stamp};
use crate::error::Refusal;
use crate::store::limits::Owner;
use crate::store::projects::ProjectRecord;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::{OrgId, ProjectId};
use filters::time::EpochMs;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A project to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// What people call it.
    #[schema(min_length = 1, max_length = 128, example = "web")]
    name: String,
    /// What its keys may use up together.
    #[serde(default)]
    limits: Vec<LimitBody>,
}

/// What to change of a project. What is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectPatch {
    /// What people call it.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Limits that are set, changed or removed; the others stay.
    #[serde(default)]
    limits: Vec<LimitBody>,
}

/// A project.
#[derive(Serialize, ToSchema)]
pub struct ProjectView {
    #[schema(example = "proj_01m7yckqjk7g9vza1m37wxqh7y")]
    id: String,
    org: String,
    name: String,
    /// How many keys it has.
    keys: i64,
    /// What they were charged together.
    #[schema(example = "12.84")]
    spent_usd: String,
    /// What they may use up together.
    limits: Vec<LimitView>,
    created_at: String,
}

impl ProjectView {
    fn of(record: &ProjectRecord) -> Self {
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            name: record.name.clone(),
            keys: record.keys,
            spent_usd: record.spent.to_string(),
            limits: limits::views(&record.limits),
            created_at: stamp(record.created),
        }
    }
}

/// Lists an organisation's projects, the oldest first.
#[utoipa::path(get, path = "/api/orgs/{org}/projects", tag = "projects", params(("org" = String, Path), Page),
    responses((status = 200, body = Listed<ProjectView>)))]
pub async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Params(page): Params<Page>,
) -> Result<Json<Listed<ProjectView>>, Refusal> {
    let permitted = caller.in_org(org)?;
    let size = page.size()?;
    control.store.must_have_organisation(org).await?;
    let records = control.store.projects_page(org, page.after()?, size + 1, permitted.by.now).await?;
    Ok(Json(Listed::of(records, size, |record| record.id.to_string(), |record| ProjectView::of(&record))))
}

/// Makes a project.
#[utoipa::path(post, path = "/api/orgs/{org}/projects", tag = "projects", params(("org" = String, Path)),
    request_body = NewProject, responses((status = 201, body = ProjectView)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(org): Named<OrgId>,
    Body(new): Body<NewProject>,
) -> Result<(StatusCode, Json<ProjectView>), Refusal> {
    let permitted = caller.in_org(org)?;
    let name = input::name("name", &new.name)?;
    let limits = limits::of_new(&new.limits, caller.now())?;
    let made = control.store.create_project(org, &name, &limits, permitted.by).await?;
    Ok((StatusCode::CREATED, Json(ProjectView::of(&made))))
}

/// Shows a project.
#[utoipa::path(get, path = "/api/orgs/{org}/projects/{project}", tag = "projects",
    params(("org" = String, Path), ("project" = String, Path)), responses((status = 200, body = ProjectView)))]
pub async fn show(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, ProjectId>,
) -> Result<Json<ProjectView>, Refusal> {
    caller.in_org(org)?;
    Ok(Json(ProjectView::of(&project(&control, org, id, caller.now()).await?)))
}

/// Changes a project's name or limits.
#[utoipa::path(patch, path = "/api/orgs/{org}/projects/{project}", tag = "projects",
    params(("org" = String, Path), ("project" = String, Path)), request_body = ProjectPatch,
    responses((status = 200, body = ProjectView)))]
pub async fn change(
    State(control): State<Arc<Control>>,
    caller: Caller,
    NamedWithin(org, id): NamedWithin<OrgId, ProjectId>,
    Body(patch): Body<ProjectPatch>,
) -> Result<Json<ProjectView>, Refusal> {
    let permitted = caller.in_org(org)?;
    project(&control, org, id, caller.now()).await?;
    let name = patch.name.map(|name| input::name("name", &name)).transpose()?;
    let changes = limits::changes(&patch.limits, caller.now())?;
    if !changes.is_empty() {
        control.store.change_limits(Owner::Project(id), &changes, permitted.by.clone()).await?;
    }
    if let Some(name) = name {
        control.store.rename_project(id, &name, permitted.by).await?;
    }
    Ok(Json(ProjectView::of(&project(&control, org, id, caller.now()).await?)))
}

/// The project, if it is the organisation's: any other is as good as none.
async fn project(control: &Control, org: OrgId, id: ProjectId, now: EpochMs) -> Result<ProjectRecord, Refusal> {
    let record = control.store.project(id, now).await?;
    if record.org == org { Ok(record) } else { Err(Refusal::not_found("project")) }
}
