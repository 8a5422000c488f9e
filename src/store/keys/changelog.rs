//! What the audit trail says of keys: everything that people see of them, and no secret.

use super::{KeyRecord, read_one};
use crate::store::quotas::QuotaRow;
use crate::store::trail::{self, By, Entry};
use crate::store::{Connection, StoreError};
use filters::id::KeyId;
use filters::key::Glob;
use serde::Serialize;

/// A key in the trail.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    description: &'a str,
    project: Option<String>,
    kind: &'static str,
    status: &'static str,
    fingerprint: &'a str,
    scopes: Vec<&'static str>,
    models: Vec<&'a str>,
    providers: Vec<&'a str>,
    ip_allowlist: Vec<String>,
    metadata: serde_json::Value,
    expires_ms: Option<i64>,
    limits: Vec<String>,
}

/// Many keys that were made at once.
#[derive(Serialize)]
struct Many {
    keys: usize,
    first: String,
    last: String,
}

/// A key as the trail has it.
fn told(key: &KeyRecord) -> String {
    let texts = |patterns: &[Glob]| patterns.iter().map(|glob| glob.0.to_string()).collect::<Vec<_>>();
    let (models, providers) = (texts(&key.models), texts(&key.providers));
    trail::json(&Told {
        name: &key.name,
        description: &key.description,
        project: key.project.map(|project| project.to_string()),
        kind: key.kind.name(),
        status: key.status.name(),
        fingerprint: &key.fingerprint,
        scopes: key.scopes.names().collect(),
        models: models.iter().map(|text| &**text).collect(),
        providers: providers.iter().map(|text| &**text).collect(),
        ip_allowlist: key.addresses.iter().map(ToString::to_string).collect(),
        metadata: serde_json::from_str(&key.metadata).unwrap_or_default(),
        expires_ms: key.expires.map(|at| at.0),
        limits: key.limits.iter().filter(|row| row.limit != i64::MAX).map(limit).collect(),
    })
}

fn limit(row: &QuotaRow) -> String {
    let model = row.model.as_ref().map(|model| format!(" of {}", model.0)).unwrap_or_default();
    let strict = if row.is_strict { " strict" } else { "" };
    format!("{} {} {}{model}{strict}", row.kind.name(), row.limit, row.window.name())
}

/// Writes down that a key was changed, in the transaction that changes it.
pub(super) async fn changed(
    connection: &mut Connection,
    action: &'static str,
    (before, after): (&KeyRecord, Option<&KeyRecord>),
    by: &By,
) -> Result<(), StoreError> {
    let (was, is) = (told(before), after.map(told));
    let entry = Entry {
        org: Some(before.org),
        action,
        object: before.id.to_string(),
        before: Some(&was),
        after: is.as_deref(),
    };
    trail::record(connection, by, entry).await
}

/// Writes down that keys were made, in the transaction that makes them: many of them in one entry.
pub(super) async fn made(connection: &mut Connection, ids: &[KeyId], by: &By) -> Result<(), StoreError> {
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else { return Ok(()) };
    let key = read_one(connection, *first, by.now).await?;
    let many = Many { keys: ids.len(), first: first.to_string(), last: last.to_string() };
    let after = if ids.len() == 1 { told(&key) } else { trail::json(&many) };
    let (action, object) = ("key.create", first.to_string());
    trail::record(connection, by, Entry { org: Some(key.org), action, object, before: None, after: Some(&after) }).await
}
