//! Organisations' credentials with their secrets, for the data plane.

use super::CredentialRecord;
use super::rows::{read_row, read_sealed, select_sealed};
use crate::store::engine::On;
use crate::store::vault::Vault;
use crate::store::{Connection, Engine, LIST_MAX, Rows, StoreError, push_list};
use filters::id::{CredentialId, OrgId};
use filters::own::{OwnCredential, OwnCredentials, OwnSecret};
use sqlx::QueryBuilder;
use std::collections::HashMap;
use std::sync::Arc;

/// The credentials of some organisations that are switched on.
pub(in crate::store) async fn read_own(
    connection: &mut Connection,
    vault: &Vault,
    orgs: &[OrgId],
) -> Result<HashMap<OrgId, OwnCredentials>, StoreError> {
    let mut by_org: HashMap<OrgId, Vec<Arc<OwnCredential>>> = HashMap::new();
    for orgs in orgs.chunks(LIST_MAX) {
        let mut query = QueryBuilder::<Engine>::new(select_sealed());
        query.push(" AND status = 'live' AND org IN ");
        push_list(&mut query, orgs, OrgId::to_string);
        query.push(" ORDER BY id");
        for row in &query.on(connection).fetch_all(&mut *connection).await? {
            let own = open(row, vault)?;
            by_org.entry(own.org).or_default().push(Arc::new(own));
        }
    }
    Ok(by_org.into_iter().map(|(org, own)| (org, own.into())).collect())
}

/// One of them, switched on or not.
pub(super) async fn read_one(
    connection: &mut Connection,
    vault: &Vault,
    org: OrgId,
    id: CredentialId,
) -> Result<Option<Arc<OwnCredential>>, StoreError> {
    let text = format!("{} AND org = $1 AND id = $2", select_sealed());
    let row = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(org.to_string())
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| open(&row, vault).map(Arc::new)).transpose()
}

/// A secret that can't be opened is a defect of the books, or somebody has copied a row: it is said, and the credential is there
/// without it, so that no call of the organisation's goes out with the operator's credential in its place.
fn open(row: &Rows, vault: &Vault) -> Result<OwnCredential, StoreError> {
    let record = read_row(row)?;
    let sealed = read_sealed(row)?;
    let opened = record.about().with(|about: &[&str]| vault.open(about, &sealed));
    let secret =
        opened.inspect_err(|cause| tracing::error!(credential = %record.id, org = %record.org, %cause, "no secret"));
    Ok(of(record, secret.ok().map(|mut text| OwnSecret::new(std::mem::take(&mut *text)))))
}

fn of(record: CredentialRecord, secret: Option<OwnSecret>) -> OwnCredential {
    let CredentialRecord { id, org, version, place, provider, base_url, models, .. } = record;
    OwnCredential {
        id,
        org,
        version,
        place,
        provider: provider.into(),
        base_url: base_url.map(Box::from),
        models,
        priority: record.priority,
        weight: record.weight,
        may_fall_back: record.may_fall_back,
        secret,
    }
}
