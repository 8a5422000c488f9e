//! Operators' tokens: made, listed, revoked.

use super::input::{self, Body, Named};
use super::{Control, stamp};
use crate::control::caller::Caller;
use crate::error::Refusal;
use crate::store::operators::OperatorRecord;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use filters::id::OperatorId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperator {
    /// What people call it.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$", example = "alice")]
    name: String,
}

/// An operator's token.
#[derive(Serialize, ToSchema)]
pub struct OperatorView {
    id: String,
    name: String,
    /// The beginning and the end of the token.
    fingerprint: String,
    created_at: String,
    revoked_at: Option<String>,
    last_used_at: Option<String>,
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
pub struct IssuedOperator {
    #[serde(flatten)]
    operator: OperatorView,
    /// The token, shown this one time.
    token: String,
}

/// Every token.
#[derive(Serialize, ToSchema)]
pub struct Operators {
    data: Vec<OperatorView>,
}

impl OperatorView {
    fn of(record: OperatorRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name,
            fingerprint: record.fingerprint,
            created_at: stamp(record.created),
            revoked_at: record.revoked.map(stamp),
            last_used_at: record.last_used.map(stamp),
        }
    }
}

/// Lists operators' tokens.
#[utoipa::path(get, path = "/api/operators", tag = "operators", responses((status = 200, body = Operators)))]
pub async fn list(State(control): State<Arc<Control>>, _: Caller) -> Result<Json<Operators>, Refusal> {
    let operators = control.store.operators().await?;
    Ok(Json(Operators { data: operators.into_iter().map(OperatorView::of).collect() }))
}

/// Makes an operator's token.
#[utoipa::path(post, path = "/api/operators", tag = "operators", request_body = NewOperator,
    responses((status = 201, body = IssuedOperator)))]
pub async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Body(new): Body<NewOperator>,
) -> Result<(StatusCode, Json<IssuedOperator>), Refusal> {
    let name = input::name("name", &new.name)?;
    let (record, token) = control.store.create_operator(&name, caller.by()).await?;
    let issued = IssuedOperator { operator: OperatorView::of(record), token: token.reveal().to_owned() };
    Ok((StatusCode::CREATED, Json(issued)))
}

/// Refuses an operator's token from now on.
#[utoipa::path(delete, path = "/api/operators/{operator}", tag = "operators", params(("operator" = String, Path)),
    responses((status = 204)))]
pub async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Named(id): Named<OperatorId>,
) -> Result<StatusCode, Refusal> {
    control.store.revoke_operator(id, caller.by()).await?;
    Ok(StatusCode::NO_CONTENT)
}
