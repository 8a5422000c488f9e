//! What the audit trail says of a credential: everything but its secret.

use super::CredentialRecord;
use crate::store::trail::{self, By, Entry};
use crate::store::{Connection, StoreError};
use filters::key::Glob;
use serde::Serialize;

#[derive(Serialize)]
struct State<'a> {
    name: &'a str,
    provider: &'a str,
    base_url: Option<&'a str>,
    models: Vec<&'a str>,
    priority: u32,
    weight: u32,
    fallback: bool,
    enabled: bool,
    version: i64,
    fingerprint: &'a str,
}

impl<'a> State<'a> {
    fn of(record: &'a CredentialRecord) -> Self {
        let glob = |Glob(text): &'a Glob| &**text;
        Self {
            name: &record.name,
            provider: &record.provider,
            base_url: record.base_url.as_deref(),
            models: record.models.iter().map(glob).collect(),
            priority: record.priority,
            weight: record.weight,
            fallback: record.may_fall_back,
            enabled: record.is_enabled,
            version: record.version,
            fingerprint: &record.fingerprint,
        }
    }
}

/// What a credential was and is; one of the two is there.
pub(super) struct Step<'a> {
    pub(super) action: &'static str,
    pub(super) before: Option<&'a CredentialRecord>,
    pub(super) after: Option<&'a CredentialRecord>,
}

/// Writes a change down.
pub(super) async fn record(connection: &mut Connection, by: &By, step: Step<'_>) -> Result<(), StoreError> {
    let Step { action, before, after } = step;
    let Some(record) = after.or(before) else { return Ok(()) };
    let json = |record: Option<&CredentialRecord>| record.map(|record| trail::json(&State::of(record)));
    let (before, after) = (json(before), json(after));
    let (object, org) = (record.id.to_string(), Some(record.org));
    trail::record(connection, by, Entry { org, action, object, before: before.as_deref(), after: after.as_deref() })
        .await
}
