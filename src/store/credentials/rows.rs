//! Rows of credentials: how they are read, and what is sealed in them.

use super::{CREDENTIALS_MAX, CredentialRecord, SECRET_BYTES_MAX};
use crate::store::changes::Change;
use crate::store::vault::{Sealed, Vault};
use crate::store::{Connection, Rows, StoreError, keys, parsed};
use filters::id::{CredentialId, OrgId};
use filters::own::{OWN_PLACES_FROM, OwnSecret};
use filters::time::EpochMs;
use sqlx::{AssertSqlSafe, Row};

/// A secret of fewer characters shows none of them.
const SHOWN_FROM: usize = 12;

/// The columns of a record.
pub(super) const SELECT: &str = "SELECT id, org, place, name, provider, base_url, models, priority, weight, fallback, status, version, \
     fingerprint, created_ms, rotated_ms, last_used_ms, benched_status, benched_until_ms FROM credentials \
     WHERE status <> 'deleted'";
/// The same with what is sealed.
pub(super) fn select_sealed() -> String {
    SELECT.replacen("SELECT ", "SELECT sealed, wrapped, master_key, ", 1)
}

impl CredentialRecord {
    /// What its secret belongs to.
    pub(super) fn about(&self) -> About<'_> {
        About {
            id: self.id,
            org: self.org,
            provider: &self.provider,
            base_url: self.base_url.as_deref().unwrap_or_default(),
            version: self.version,
        }
    }
}

/// What a secret belongs to.
pub(super) struct About<'a> {
    pub(super) id: CredentialId,
    pub(super) org: OrgId,
    pub(super) provider: &'a str,
    pub(super) base_url: &'a str,
    pub(super) version: i64,
}

impl About<'_> {
    pub(super) fn with<T>(&self, then: impl FnOnce(&[&str]) -> T) -> T {
        let (id, org, version) = (self.id.to_string(), self.org.to_string(), self.version.to_string());
        then(&[&org, self.provider, &version, &id, self.base_url])
    }

    pub(super) fn seal(&self, vault: &Vault, secret: &OwnSecret) -> Result<Sealed, StoreError> {
        self.with(|about| vault.seal(about, secret.reveal()))
    }
}

pub(super) fn check_secret(secret: &OwnSecret) -> Result<(), StoreError> {
    let text = secret.reveal();
    // It goes into a header line, where a line break would begin another.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && text.trim() == text;
    if text.is_empty() || text.len() > SECRET_BYTES_MAX || !is_plain {
        return Err(StoreError::Refused(
            "a secret is 1 to 4096 printable ASCII characters, without spaces at its ends: copy it as the provider shows it",
        ));
    }
    Ok(())
}

/// What may be shown of a secret.
pub(super) fn fingerprint(secret: &OwnSecret) -> String {
    let text = secret.reveal();
    let shown = if text.len() >= SHOWN_FROM { &text[text.len() - 4..] } else { "" };
    format!("…{shown}")
}

/// A place that no credential of the organisation has had.
pub(super) async fn next_place(connection: &mut Connection, org: OrgId) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "SELECT COALESCE(MAX(place), 0) AS last, CAST(COALESCE(SUM(CASE WHEN status = 'deleted' THEN 0 ELSE 1 END), 0) AS BIGINT) \
         AS kept FROM credentials WHERE org = $1",
    )
    .bind(org.to_string())
    .fetch_one(connection)
    .await?;
    if row.try_get::<i64, _>("kept")? >= CREDENTIALS_MAX {
        return Err(StoreError::Refused("an organisation has at most 100 credentials: delete one that is not used"));
    }
    let next = row.try_get::<i64, _>("last")?.max(i64::from(OWN_PLACES_FROM) - 1) + 1;
    if next > i64::from(u16::MAX) {
        return Err(StoreError::Refused(
            "this organisation has made all the credentials that it may: rotate one instead",
        ));
    }
    Ok(next)
}

/// Has every gateway read the organisation's keys again.
pub(super) async fn announce(connection: &mut Connection, org: OrgId, now: EpochMs) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE organisations SET own_credentials = \
         (SELECT COUNT(*) FROM credentials WHERE org = $1 AND status = 'live') WHERE id = $1",
    )
    .bind(org.to_string())
    .execute(&mut *connection)
    .await?;
    Change::Organisation(org).record(connection, now).await
}

pub(super) async fn read_one(
    connection: &mut Connection,
    org: OrgId,
    id: CredentialId,
) -> Result<CredentialRecord, StoreError> {
    let row = sqlx::query(AssertSqlSafe(format!("{SELECT} AND org = $1 AND id = $2")))
        .bind(org.to_string())
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    read_row(&row.ok_or_else(|| unknown(id))?)
}

pub(super) fn read_row(row: &Rows) -> Result<CredentialRecord, StoreError> {
    let (base_url, models): (String, String) = (row.try_get("base_url")?, row.try_get("models")?);
    let status: String = row.try_get("status")?;
    let (refused, until): (Option<i64>, Option<i64>) =
        (row.try_get("benched_status")?, row.try_get("benched_until_ms")?);
    let moment = |column| row.try_get::<Option<i64>, _>(column).map(|moment| moment.map(EpochMs));
    Ok(CredentialRecord {
        id: parsed(row, "id")?,
        org: parsed(row, "org")?,
        name: row.try_get("name")?,
        provider: row.try_get("provider")?,
        base_url: Some(base_url).filter(|url| !url.is_empty()),
        models: keys::split(&models),
        priority: small(row, "priority")?,
        weight: small(row, "weight")?,
        may_fall_back: row.try_get::<i64, _>("fallback")? != 0,
        is_enabled: status == "live",
        version: row.try_get("version")?,
        fingerprint: row.try_get("fingerprint")?,
        created: EpochMs(row.try_get("created_ms")?),
        rotated: moment("rotated_ms")?,
        last_used: moment("last_used_ms")?,
        benched: refused.zip(until).map(|(status, until)| (u16::try_from(status).unwrap_or(0), EpochMs(until))),
        place: small(row, "place")?,
    })
}

fn small<T: TryFrom<i64>>(row: &Rows, column: &'static str) -> Result<T, StoreError> {
    let number: i64 = row.try_get(column)?;
    T::try_from(number).map_err(|_| StoreError::Corrupt { column, content: number.to_string() })
}

pub(super) fn unknown(id: CredentialId) -> StoreError {
    StoreError::NotFound(format!("credential {id}"))
}

pub(super) fn read_sealed(row: &Rows) -> Result<Sealed, StoreError> {
    let (content, wrapped): (&[u8], &[u8]) = (row.try_get("sealed")?, row.try_get("wrapped")?);
    Ok(Sealed { content: content.to_vec(), wrapped: wrapped.to_vec(), master_key: row.try_get("master_key")? })
}

/// Seals the keys of some secrets under the newest master key; says of how many, 0 if all are.
pub(in crate::store) async fn rewrap(
    connection: &mut Connection,
    vault: &Vault,
    rows_max: i64,
) -> Result<u64, StoreError> {
    let text = format!("{} AND master_key <> $1 ORDER BY id LIMIT $2", select_sealed());
    let rows = sqlx::query(AssertSqlSafe(text)).bind(vault.newest()).bind(rows_max).fetch_all(&mut *connection).await?;
    for row in &rows {
        let record = read_row(row)?;
        let Some(sealed) = record.about().with(|about| vault.rewrap(about, &read_sealed(row)?))? else { continue };
        sqlx::query("UPDATE credentials SET wrapped = $1, master_key = $2 WHERE id = $3")
            .bind(&*sealed.wrapped)
            .bind(&*sealed.master_key)
            .bind(record.id.to_string())
            .execute(&mut *connection)
            .await?;
    }
    Ok(rows.len() as u64)
}
