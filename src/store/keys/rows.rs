//! What the rows of keys say.

use super::KeyRecord;
use crate::store::{Rows, StoreError, parsed};
use filters::key::{Glob, Lookup, Status};
use filters::network::Network;
use filters::scope::{KeyKind, Scopes};
use filters::time::EpochMs;
use sqlx::Row;

const COLUMNS: &str = "SELECT k.id, k.org, k.project, o.suspended_ms, o.own_credentials, k.name, k.description, k.metadata, k.created_by, k.kind, \
     k.fingerprint, k.status, k.deleted_ms, k.scopes, k.models, k.providers, k.addresses, k.created_ms, k.expires_ms, \
     k.archived_ms, k.used_ms, l.at_ms AS last_used_ms";
const JOINS: &str = "JOIN organisations o ON o.id = k.org LEFT JOIN last_used l ON l.key_id = k.id";

/// What [`read_row`] reads: keys, with their present secrets.
pub(in crate::store) fn select() -> String {
    format!("{COLUMNS}, k.lookup, CAST(NULL AS BIGINT) AS ends_ms FROM keys k {JOINS}")
}

/// The same of secrets that were replaced, which are `s`.
pub(in crate::store) fn select_by_old_secret() -> String {
    format!("{COLUMNS}, s.lookup, s.ends_ms FROM key_secrets s JOIN keys k ON k.id = s.key_id {JOINS}")
}

/// Reads a row of [`select`] or [`select_by_old_secret`]; limits are other rows.
pub(in crate::store) fn read_row(row: &Rows) -> Result<KeyRecord, StoreError> {
    let moment = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(EpochMs));
    let (status, scopes): (String, String) = (row.try_get("status")?, row.try_get("scopes")?);
    let status = Status::named(&status).ok_or(StoreError::Corrupt { column: "keys.status", content: status })?;
    let scopes = Scopes::parse(&scopes).map_err(|content| StoreError::Corrupt { column: "keys.scopes", content })?;
    let lookup: &[u8] = row.try_get("lookup")?;
    Ok(KeyRecord {
        id: parsed(row, "id")?,
        org: parsed(row, "org")?,
        project: match row.try_get::<Option<&str>, _>("project")? {
            Some(_) => Some(parsed(row, "project")?),
            None => None,
        },
        org_suspended: row.try_get::<Option<i64>, _>("suspended_ms")?.is_some(),
        has_own: row.try_get::<i64, _>("own_credentials")? > 0,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        metadata: row.try_get("metadata")?,
        created_by: row.try_get("created_by")?,
        kind: KeyKind::named(row.try_get("kind")?).or(scopes.kind()).unwrap_or(KeyKind::Model),
        lookup: Lookup(
            lookup.try_into().map_err(|_| StoreError::Corrupt {
                column: "keys.lookup",
                content: format!("{} bytes", lookup.len()),
            })?,
        ),
        secret_ends: moment("ends_ms")?,
        fingerprint: row.try_get("fingerprint")?,
        status: if moment("deleted_ms")?.is_some() { Status::Deleted } else { status },
        scopes,
        models: split(row.try_get("models")?),
        providers: split(row.try_get("providers")?),
        addresses: read_addresses(row.try_get("addresses")?)?,
        created: EpochMs(row.try_get("created_ms")?),
        expires: moment("expires_ms")?,
        archived: moment("archived_ms")?,
        limits: Vec::new(),
        last_used: moment("used_ms")?.max(moment("last_used_ms")?),
    })
}

/// What searches look through.
pub(super) fn folded(name: &str, description: &str) -> String {
    format!("{name} {description}").to_lowercase()
}

pub(in crate::store) fn join(patterns: &[Glob]) -> String {
    let texts: Vec<&str> = patterns.iter().map(|pattern| &*pattern.0).collect();
    texts.join(" ")
}

pub(in crate::store) fn split(patterns: &str) -> Vec<Glob> {
    patterns.split_ascii_whitespace().map(|pattern| Glob(pattern.into())).collect()
}

pub(super) fn addresses_text(addresses: &[Network]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn read_addresses(text: &str) -> Result<Vec<Network>, StoreError> {
    let corrupt = || StoreError::Corrupt { column: "keys.addresses", content: text.to_owned() };
    text.split_ascii_whitespace().map(|network| Network::parse(network).map_err(|_| corrupt())).collect()
}
