//! Credentials that organisations have at providers themselves: their secrets go in and are never shown again.
//!
//! - `rows.rs`: how they stand in the store
//! - `own.rs`: those of some organisations, opened, for keys that are read into memory
//! - `notes.rs`: what providers made of them; `state.rs`: what the audit trail says of them

mod notes;
mod own;
mod rows;
mod state;

pub use notes::{CredentialNotes, credential_notes};
pub(super) use own::read_own;
pub(super) use rows::rewrap;

use super::trail::By;
use super::{Store, StoreError, keys, organisations};
use filters::id::{CredentialId, OrgId, bits};
use filters::key::Glob;
use filters::own::{OwnCredential, OwnCredentials, OwnSecret};
use filters::time::EpochMs;
use rows::{About, SELECT, announce, check_secret, fingerprint, next_place, read_one, read_row, unknown};
use sqlx::AssertSqlSafe;
use state::Step;
use std::sync::Arc;

/// Most credentials of an organisation that are not deleted: each is opened with each of its keys that is read.
pub const CREDENTIALS_MAX: i64 = 100;
/// Longest secret, in bytes. Signed tokens of clouds have one or two thousand.
pub const SECRET_BYTES_MAX: usize = 4_096;

/// A credential to be kept.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// Whose it is.
    pub org: OrgId,
    /// What people call it.
    pub name: String,
    /// The provider, by its name in the configuration.
    pub provider: String,
    /// Where it is asked, in place of the provider's own address; checked by the caller.
    pub base_url: Option<String>,
    /// Patterns of models that it is used for; none: all. Without white space.
    pub models: Vec<Glob>,
    /// Those of the lowest number are tried first.
    pub priority: u32,
    /// Share among those of one priority; above zero.
    pub weight: u32,
    /// Whether calls that it could serve may be made with the operator's credentials too.
    pub may_fall_back: bool,
    /// The secret.
    pub secret: OwnSecret,
}

/// A credential as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRecord {
    /// Names it for good.
    pub id: CredentialId,
    /// Whose it is.
    pub org: OrgId,
    /// What people call it.
    pub name: String,
    /// The provider.
    pub provider: String,
    /// Where it is asked, if not at the provider's own address.
    pub base_url: Option<String>,
    /// Patterns of models; none: all.
    pub models: Vec<Glob>,
    /// Those of the lowest number are tried first.
    pub priority: u32,
    /// Share among those of one priority.
    pub weight: u32,
    /// Whether calls may be made with the operator's credentials too.
    pub may_fall_back: bool,
    /// Whether it is used.
    pub is_enabled: bool,
    /// How often its secret was set.
    pub version: i64,
    /// The end of its secret.
    pub fingerprint: String,
    /// When it was made.
    pub created: EpochMs,
    /// When its secret was replaced last.
    pub rotated: Option<EpochMs>,
    /// When a provider took it last, to the minute.
    pub last_used: Option<EpochMs>,
    /// The status that the provider refused it with, and until when it is left alone.
    pub benched: Option<(u16, EpochMs)>,
    place: u16,
}

/// What is to be changed of a credential; what is none stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialChange {
    /// What people call it.
    pub name: Option<String>,
    /// Patterns of models.
    pub models: Option<Vec<Glob>>,
    /// Those of the lowest number are tried first.
    pub priority: Option<u32>,
    /// Share among those of one priority.
    pub weight: Option<u32>,
    /// Whether calls may be made with the operator's credentials too.
    pub may_fall_back: Option<bool>,
    /// Whether it is used.
    pub is_enabled: Option<bool>,
}

/// A new secret, and where it is for: an address is never changed without one, so that whoever may change addresses learns no
/// secret by that.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The secret.
    pub secret: OwnSecret,
    /// Where it is asked from now on; none: as before.
    pub base_url: Option<Option<String>>,
}

impl Store {
    /// Keeps a credential.
    pub async fn create_credential(
        &self,
        new: &NewCredential,
        by: impl Into<By>,
    ) -> Result<CredentialRecord, StoreError> {
        check_secret(&new.secret)?;
        let by = by.into();
        let now = by.now;
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let id = CredentialId(bits(now, random));
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, new.org).await?;
        let place = next_place(&mut transaction, new.org).await?;
        let base_url = new.base_url.as_deref().unwrap_or_default();
        let about = About { id, org: new.org, provider: &new.provider, base_url, version: 1 };
        let sealed = about.seal(&self.vault, &new.secret)?;
        sqlx::query(
            "INSERT INTO credentials (id, org, place, name, provider, base_url, models, priority, weight, fallback, status, version, \
             fingerprint, sealed, wrapped, master_key, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'live', 1, $11, $12, $13, $14, $15)",
        )
        .bind(id.to_string())
        .bind(new.org.to_string())
        .bind(place)
        .bind(&*new.name)
        .bind(&*new.provider)
        .bind(base_url)
        .bind(keys::join(&new.models))
        .bind(i64::from(new.priority))
        .bind(i64::from(new.weight))
        .bind(i64::from(new.may_fall_back))
        .bind(fingerprint(&new.secret))
        .bind(&*sealed.content)
        .bind(&*sealed.wrapped)
        .bind(&*sealed.master_key)
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        announce(&mut transaction, new.org, now).await?;
        let made = read_one(&mut transaction, new.org, id).await?;
        let step = Step { action: "credential.create", before: None, after: Some(&made) };
        state::record(&mut transaction, &by, step).await?;
        transaction.commit().await?;
        Ok(made)
    }

    /// One credential of an organisation.
    pub async fn credential(&self, org: OrgId, id: CredentialId) -> Result<CredentialRecord, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        read_one(&mut reader, org, id).await
    }

    /// An organisation's credentials in the order in which they were made, those after `after`, at most `limit`.
    pub async fn credentials(
        &self,
        org: OrgId,
        after: Option<CredentialId>,
        limit: u32,
    ) -> Result<Vec<CredentialRecord>, StoreError> {
        let text = format!("{SELECT} AND org = $1 AND id > $2 ORDER BY id LIMIT $3");
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(org.to_string())
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// Changes what is not secret of a credential.
    pub async fn change_credential(
        &self,
        org: OrgId,
        id: CredentialId,
        change: &CredentialChange,
        by: impl Into<By>,
    ) -> Result<CredentialRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, org, id).await?;
        let after = before.clone().changed(change);
        sqlx::query(
            "UPDATE credentials SET name = $1, models = $2, priority = $3, weight = $4, fallback = $5, status = $6 WHERE id = $7",
        )
        .bind(&*after.name)
        .bind(keys::join(&after.models))
        .bind(i64::from(after.priority))
        .bind(i64::from(after.weight))
        .bind(i64::from(after.may_fall_back))
        .bind(if after.is_enabled { "live" } else { "disabled" })
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        announce(&mut transaction, org, by.now).await?;
        let step = Step { action: "credential.update", before: Some(&before), after: Some(&after) };
        state::record(&mut transaction, &by, step).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Replaces a credential's secret. Objects that were made with the one before stay its own.
    pub async fn rotate_credential(
        &self,
        org: OrgId,
        id: CredentialId,
        rotation: &Rotation,
        by: impl Into<By>,
    ) -> Result<CredentialRecord, StoreError> {
        check_secret(&rotation.secret)?;
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, org, id).await?;
        let base_url = rotation.base_url.clone().unwrap_or_else(|| before.base_url.clone());
        let after = CredentialRecord {
            version: before.version + 1,
            fingerprint: fingerprint(&rotation.secret),
            rotated: Some(by.now),
            benched: None,
            base_url,
            ..before.clone()
        };
        let sealed = after.about().seal(&self.vault, &rotation.secret)?;
        sqlx::query(
            "UPDATE credentials SET base_url = $1, version = $2, fingerprint = $3, sealed = $4, wrapped = $5, master_key = $6, \
             rotated_ms = $7, benched_status = NULL, benched_until_ms = NULL WHERE id = $8",
        )
        .bind(after.base_url.as_deref().unwrap_or_default())
        .bind(after.version)
        .bind(&*after.fingerprint)
        .bind(&*sealed.content)
        .bind(&*sealed.wrapped)
        .bind(&*sealed.master_key)
        .bind(by.now.0)
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        announce(&mut transaction, org, by.now).await?;
        let step = Step { action: "credential.rotate", before: Some(&before), after: Some(&after) };
        state::record(&mut transaction, &by, step).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Deletes a credential, and its secret with it.
    pub async fn delete_credential(&self, org: OrgId, id: CredentialId, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, org, id).await?;
        sqlx::query(
            "UPDATE credentials SET status = 'deleted', sealed = $1, wrapped = $1, master_key = '' WHERE id = $2",
        )
        .bind(&b""[..])
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        announce(&mut transaction, org, by.now).await?;
        let step = Step { action: "credential.delete", before: Some(&before), after: None };
        state::record(&mut transaction, &by, step).await?;
        Ok(transaction.commit().await?)
    }

    /// An organisation's credentials that are switched on, with their secrets.
    pub async fn own_credentials(&self, org: OrgId) -> Result<Option<OwnCredentials>, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        Ok(read_own(&mut reader, &self.vault, &[org]).await?.remove(&org))
    }

    /// A credential with its secret, for a call that tests it.
    pub async fn opened_credential(&self, org: OrgId, id: CredentialId) -> Result<Arc<OwnCredential>, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        let own = own::read_one(&mut reader, &self.vault, org, id).await?;
        own.ok_or_else(|| unknown(id))
    }
}

impl CredentialRecord {
    fn changed(self, change: &CredentialChange) -> Self {
        let CredentialChange { name, models, priority, weight, may_fall_back, is_enabled } = change.clone();
        Self {
            name: name.unwrap_or(self.name),
            models: models.unwrap_or(self.models),
            priority: priority.unwrap_or(self.priority),
            weight: weight.unwrap_or(self.weight),
            may_fall_back: may_fall_back.unwrap_or(self.may_fall_back),
            is_enabled: is_enabled.unwrap_or(self.is_enabled),
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
