//! What is shown of keys.

use crate::control::limits::{self, LimitView};
use crate::control::stamp;
use crate::decimal::Usd;
use crate::store::keys::{KeyRecord, SecretRecord};
use crate::store::quotas::PlainLimits;
use filters::key::Glob;
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

const NANOS_PER_MICRO: i64 = 1_000;

fn usd() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Number)).description(Some("Dollars.")).build()
}

fn usd_or_null() -> Object {
    let number_or_null = SchemaType::from_iter([Type::Number, Type::Null]);
    ObjectBuilder::new().schema_type(number_or_null).description(Some("Dollars; null: no limit.")).build()
}

/// A key.
#[derive(Serialize, ToSchema)]
pub struct KeyView {
    id: String,
    org: String,
    project: Option<String>,
    /// What it is called, for good; "Untitled" if it was given no name.
    name: String,
    /// The same as `name`.
    label: String,
    description: String,
    /// `model` or `service`.
    kind: &'static str,
    /// `live`, `disabled`, `expired` or `archived`.
    status: &'static str,
    /// The beginning and the end of its token.
    fingerprint: String,
    scopes: Vec<&'static str>,
    /// Patterns of models that it may use; []: all.
    models: Vec<String>,
    /// Patterns of providers that it may use; []: all.
    providers: Vec<String>,
    /// Where it may be used from; []: from anywhere.
    ip_allowlist: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// What it has been charged.
    #[schema(schema_with = usd)]
    usage: Usd,
    /// What it may spend in all.
    #[schema(schema_with = usd_or_null)]
    limit: Option<Usd>,
    /// What is left of that.
    #[schema(schema_with = usd_or_null)]
    limit_remaining: Option<Usd>,
    /// The same limit in millionths of a dollar.
    #[serde(rename = "spendLimitMicros")]
    spend_limit_micros: Option<i64>,
    /// Requests a minute.
    rpm: Option<i64>,
    /// Tokens a minute.
    tpm: Option<i64>,
    /// Calls at once.
    concurrency: Option<i64>,
    /// Every limit.
    limits: Vec<LimitView>,
    created_at: String,
    /// Who made it.
    created_by: String,
    /// When it ends; null: never.
    #[serde(rename = "expiresAt")]
    expires_at: Option<String>,
    archived_at: Option<String>,
    /// When a request with it was last seen; null: never.
    last_used_at: Option<String>,
}

/// A key that was made or rotated.
#[derive(Serialize, ToSchema)]
pub struct IssuedKeyView {
    #[serde(flatten)]
    pub(super) key: KeyView,
    /// The token, shown this one time; null for a key whose token was issued elsewhere.
    pub(super) token: Option<String>,
}

/// A key with its secrets.
#[derive(Serialize, ToSchema)]
pub struct KeyDetail {
    #[serde(flatten)]
    key: KeyView,
    /// The present secret, and those that it has replaced lately.
    secrets: Vec<KeySecretView>,
}

/// A secret, without itself.
#[derive(Serialize, ToSchema)]
pub struct KeySecretView {
    fingerprint: String,
    created_at: String,
    /// When it ends; null for the present one.
    expires_at: Option<String>,
    /// When a request with it was last seen, to the minute; null: never.
    last_used_at: Option<String>,
}

impl KeyView {
    pub(super) fn of(key: &KeyRecord, now: EpochMs) -> Self {
        let plain = PlainLimits::of(&key.limits, now);
        let texts = |patterns: &[Glob]| patterns.iter().map(|glob| glob.0.to_string()).collect();
        let left = |limit: NanoUsd| Usd((limit - key.spent()).at_least_zero());
        Self {
            id: key.id.to_string(),
            org: key.org.to_string(),
            project: key.project.map(|project| project.to_string()),
            name: key.name.clone(),
            label: key.name.clone(),
            description: key.description.clone(),
            kind: key.kind.name(),
            status: key.state(now),
            fingerprint: key.fingerprint.clone(),
            scopes: key.scopes.names().collect(),
            models: texts(&key.models),
            providers: texts(&key.providers),
            ip_allowlist: key.addresses.iter().map(ToString::to_string).collect(),
            metadata: serde_json::from_str(&key.metadata).unwrap_or_default(),
            usage: Usd(key.spent()),
            limit: plain.spend.map(Usd),
            limit_remaining: plain.spend.map(left),
            spend_limit_micros: plain.spend.map(|limit| limit.0 / NANOS_PER_MICRO),
            rpm: plain.requests,
            tpm: plain.tokens,
            concurrency: plain.concurrency,
            limits: limits::views(&key.limits),
            created_at: stamp(key.created),
            created_by: key.created_by.clone(),
            expires_at: key.expires.map(stamp),
            archived_at: key.archived.map(stamp),
            last_used_at: key.last_used.map(stamp),
        }
    }
}

impl KeyDetail {
    pub(super) fn of(key: &KeyRecord, secrets: &[SecretRecord], now: EpochMs) -> Self {
        Self { key: KeyView::of(key, now), secrets: secrets.iter().map(KeySecretView::of).collect() }
    }
}

impl KeySecretView {
    fn of(secret: &SecretRecord) -> Self {
        Self {
            fingerprint: secret.fingerprint.clone(),
            created_at: stamp(secret.created),
            expires_at: secret.ends.map(stamp),
            last_used_at: secret.last_used.map(stamp),
        }
    }
}
