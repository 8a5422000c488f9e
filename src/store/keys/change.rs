//! What people change of a key, and how it goes: switched off and on, archived, deleted.

use super::{KeyRecord, addresses_text, changelog, folded, join, read_one};
use crate::store::changes::Change;
use crate::store::ledger::{Tail, Whose};
use crate::store::limits::{self, Amount, LimitChange, Owner};
use crate::store::trail::By;
use crate::store::{Connection, Store, StoreError, Transaction};
use filters::id::KeyId;
use filters::key::{Glob, Status};
use filters::network::Network;
use filters::scope::Scopes;
use filters::time::EpochMs;

/// What is to be changed of a key; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// What people say of it.
    pub description: Option<String>,
    /// A JSON object of texts.
    pub metadata: Option<String>,
    /// What it may do, of its kind.
    pub scopes: Option<Scopes>,
    /// Patterns of models that it may use; none: all.
    pub models: Option<Vec<Glob>>,
    /// Patterns of providers that it may use; none: all.
    pub providers: Option<Vec<Glob>>,
    /// Where it may be used from; none: from anywhere.
    pub addresses: Option<Vec<Network>>,
    /// When it ends, if ever.
    pub expires: Option<Option<EpochMs>>,
    /// Limits; one that is to be removed need not be there.
    pub limits: Vec<LimitChange>,
}

impl KeyChange {
    /// The key as it is to be, but for its limits.
    fn applied_to(&self, key: &KeyRecord) -> Result<KeyRecord, StoreError> {
        let mut changed = key.clone();
        let Self { description, metadata, scopes, models, providers, addresses, expires, limits: _ } = self.clone();
        changed.description = description.unwrap_or(changed.description);
        changed.metadata = metadata.unwrap_or(changed.metadata);
        changed.models = models.unwrap_or(changed.models);
        changed.providers = providers.unwrap_or(changed.providers);
        changed.addresses = addresses.unwrap_or(changed.addresses);
        changed.expires = expires.unwrap_or(changed.expires);
        if let Some(scopes) = scopes {
            if !scopes.are_of(key.kind) {
                return Err(StoreError::ScopeMix);
            }
            changed.scopes = scopes;
        }
        Ok(changed)
    }
}

impl Store {
    /// Changes a key, all of it or nothing. Its name, its kind and whose it is stay.
    pub async fn change_key(&self, id: KeyId, change: &KeyChange, by: impl Into<By>) -> Result<KeyRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, id, by.now).await?;
        write(&mut transaction, &change.applied_to(&before)?).await?;
        for limit in &change.limits {
            let is_there = before.limits.iter().any(|row| limit.is_for(row));
            if is_there || limit.amount != Some(Amount::None) {
                limits::apply(&mut transaction, Owner::Key(id), limit, by.now).await?;
            }
        }
        self.changed(transaction, "key.update", &before, &by).await
    }

    /// Switches a key off or on. An archived key stays archived.
    pub async fn enable_key(&self, id: KeyId, enabled: bool, by: impl Into<By>) -> Result<KeyRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, id, by.now).await?;
        if before.status == Status::Archived {
            return Err(StoreError::Refused("the key was archived, which is for good: create a new one"));
        }
        let (status, action) = if enabled { (Status::Live, "key.enable") } else { (Status::Disabled, "key.disable") };
        sqlx::query("UPDATE keys SET status = $1 WHERE id = $2")
            .bind(status.name())
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        self.changed(transaction, action, &before, &by).await
    }

    /// Puts a key away that has been used, for good: it is refused from now on, and what it did stays on the books.
    pub async fn archive_key(&self, id: KeyId, by: impl Into<By>) -> Result<KeyRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, id, by.now).await?;
        if before.status == Status::Archived {
            return Ok(before);
        }
        if !has_history(&mut transaction, id).await? {
            return Err(StoreError::KeyNeverUsed);
        }
        sqlx::query("UPDATE keys SET status = $1, archived_ms = $2 WHERE id = $3")
            .bind(Status::Archived.name())
            .bind(by.now.0)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        self.changed(transaction, "key.archive", &before, &by).await
    }

    /// Deletes a key that was never used. Its row stays, without what was said of the key: should a call of it still be on its way
    /// to the books, it has an owner there.
    pub async fn delete_key(&self, id: KeyId, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = read_one(&mut transaction, id, by.now).await?;
        if has_history(&mut transaction, id).await? {
            return Err(StoreError::KeyHasHistory);
        }
        sqlx::query(
            "UPDATE keys SET status = 'archived', deleted_ms = $1, name = '', description = '', metadata = '{}', folded = '', \
             addresses = '', created_by = '', fingerprint = '' WHERE id = $2",
        )
        .bind(by.now.0)
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM key_secrets WHERE key_id = $1")
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        Change::Key(id).record(&mut transaction, by.now).await?;
        changelog::changed(&mut transaction, "key.delete", (&before, None), &by).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends a transaction that has changed a key: gateways hear of it, and the trail does.
    pub(super) async fn changed(
        &self,
        mut transaction: Transaction,
        action: &'static str,
        before: &KeyRecord,
        by: &By,
    ) -> Result<KeyRecord, StoreError> {
        Change::Key(before.id).record(&mut transaction, by.now).await?;
        let after = read_one(&mut transaction, before.id, by.now).await?;
        changelog::changed(&mut transaction, action, (before, Some(&after)), by).await?;
        transaction.commit().await?;
        Ok(after)
    }
}

async fn write(connection: &mut Connection, key: &KeyRecord) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE keys SET description = $1, metadata = $2, folded = $3, kind = $4, scopes = $5, models = $6, providers = $7, \
         addresses = $8, expires_ms = $9 WHERE id = $10",
    )
    .bind(&*key.description)
    .bind(&*key.metadata)
    .bind(folded(&key.name, &key.description))
    .bind(key.kind.name())
    .bind(key.scopes.to_string())
    .bind(join(&key.models))
    .bind(join(&key.providers))
    .bind(addresses_text(&key.addresses))
    .bind(key.expires.map(|expires| expires.0))
    .bind(key.id.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether a gateway has ever seen the key, or a call of it is on the books. What gateways have seen in the last second may still be on its
/// way here.
async fn has_history(connection: &mut Connection, id: KeyId) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT k.id FROM keys k LEFT JOIN last_used l ON l.key_id = k.id WHERE k.id = $1 AND \
         (k.used_ms IS NOT NULL OR l.at_ms IS NOT NULL)",
    )
    .bind(id.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    Ok(row.is_some() || Tail::read(connection, Whose::Key(id)).await?.last_used(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::audit::Invariant;
    use crate::store::fixture::{Books, NOW, new_key};
    use crate::store::keys::Use;
    use crate::store::quotas::{PlainLimits, QuotaKind};
    use filters::money::NanoUsd;
    use filters::scope::Scope;

    impl Books {
        async fn see(&self, id: KeyId) {
            let lookup = self.store.key(id, NOW).await.expect("the key").lookup;
            self.store.note_uses(&[Use { lookup, key: id, at: NOW }]).await.expect("noted");
        }

        /// Every row of the books has its owner.
        async fn rows_belong(&self) {
            let audit = self.store.audit().await.expect("audited");
            let strays = audit.findings.iter().filter(|finding| finding.invariant == Invariant::RowsBelong);
            assert_eq!(strays.count(), 0, "{audit:?}");
        }
    }

    #[tokio::test]
    async fn what_is_changed_is_changed_and_the_rest_stays() {
        let books = Books::open().await;
        let before = books.key().await;
        let change = KeyChange {
            description: Some("The one in use".to_owned()),
            metadata: Some(r#"{"team":"web"}"#.to_owned()),
            scopes: Some(Scopes::default().with(Scope::ModelInvoke)),
            models: Some(vec![Glob("gpt-*".into())]),
            addresses: Some(vec!["10.0.0.0/8".parse().expect("a range")]),
            expires: Some(Some(NOW.plus(5))),
            limits: vec![
                LimitChange::of(QuotaKind::Spend, Amount::Of(7)),
                LimitChange::of(QuotaKind::Requests, Amount::None),
                LimitChange::of(QuotaKind::Tokens, Amount::None),
            ],
            ..KeyChange::default()
        };
        let after = books.store.change_key(books.key, &change, NOW).await.expect("changed");
        assert_eq!(after, books.key().await);
        let plain = PlainLimits { spend: Some(NanoUsd(7)), ..PlainLimits::default() };
        assert_eq!(PlainLimits::of(&after.limits, NOW), plain);
        assert_eq!((&*after.name, after.created, &after.providers), (&*before.name, before.created, &before.providers));
        assert_eq!((&*after.description, after.expires), ("The one in use", Some(NOW.plus(5))));
        assert_eq!((after.models.len(), after.addresses.len(), after.scopes.names().count()), (1, 1, 1));
        let back = KeyChange { expires: Some(None), models: Some(Vec::new()), ..KeyChange::default() };
        let after = books.store.change_key(books.key, &back, NOW).await.expect("changed");
        assert_eq!((after.expires, after.models.len(), &*after.metadata), (None, 0, r#"{"team":"web"}"#));
        let mixed = KeyChange { scopes: Some(Scopes::default().with(Scope::KeysWrite)), ..KeyChange::default() };
        let refused = books.store.change_key(books.key, &mixed, NOW).await;
        assert!(matches!(refused, Err(StoreError::ScopeMix)));
    }

    #[tokio::test]
    async fn keys_are_switched_off_and_on_unless_archived() {
        let books = Books::open().await;
        for enabled in [false, true, true] {
            let changed = books.store.enable_key(books.key, enabled, NOW).await;
            assert_eq!(changed.expect("changed").status == Status::Live, enabled);
        }
        books.see(books.key).await;
        let archived = books.store.archive_key(books.key, NOW).await.expect("archived");
        assert_eq!((archived.status, archived.archived), (Status::Archived, Some(NOW)));
        let again = books.store.archive_key(books.key, NOW.plus(1)).await.expect("it is");
        assert_eq!(again.archived, Some(NOW));
        let refused = books.store.enable_key(books.key, true, NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        let stranger = books.store.enable_key(KeyId(1), true, NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn used_keys_are_archived_and_unused_ones_deleted() {
        let books = Books::open().await;
        let unused = books.store.create_key(&new_key(books.org), NOW).await.expect("made").id;
        let refused = books.store.archive_key(unused, NOW).await;
        assert!(matches!(refused, Err(StoreError::KeyNeverUsed)));
        // A call that is in no sum yet is history, and so is a request that was refused.
        books.store.ship("node", &[books.call(1, 10, 5)], Default::default()).await.expect("shipped");
        let seen = books.store.create_key(&new_key(books.org), NOW).await.expect("made").id;
        books.see(seen).await;
        for used in [books.key, seen] {
            let refused = books.store.delete_key(used, NOW).await.expect_err("it has been used");
            assert_eq!(
                refused.to_string(),
                "This API key has call history and cannot be deleted. Archive it instead.",
                "seclai-api-keys: Deleting Keys"
            );
            books.store.archive_key(used, NOW).await.expect("archived");
            assert!(books.store.delete_key(used, NOW).await.is_err());
        }
        books.store.delete_key(unused, NOW).await.expect("deleted");
        for gone in [unused, KeyId(9)] {
            assert!(matches!(books.store.key(gone, NOW).await, Err(StoreError::NotFound(_))));
            assert!(matches!(books.store.delete_key(gone, NOW).await, Err(StoreError::NotFound(_))));
            let change = books.store.change_key(gone, &KeyChange::default(), NOW).await;
            assert!(matches!(change, Err(StoreError::NotFound(_))));
        }
        let listed = books.store.keys(books.org, None, NOW).await.expect("listed");
        assert_eq!(listed.len(), 2);
        books.rows_belong().await;
    }

    #[tokio::test]
    async fn a_call_that_arrives_after_its_key_was_deleted_has_its_owner() {
        let books = Books::open().await;
        books.store.delete_key(books.key, NOW).await.expect("deleted");
        books.store.ship("node", &[books.call(1, 1_000, 1_000)], Default::default()).await.expect("shipped");
        assert!(books.organisation().await.spent > NanoUsd::ZERO);
        books.rows_belong().await;
    }
}
