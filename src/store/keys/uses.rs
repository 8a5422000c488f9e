//! When secrets were last seen by gateways, whatever became of the requests: noted in the background, a moment later.

use crate::store::engine::On;
use crate::store::{Engine, LIST_MAX, Store, StoreError, push_list};
use filters::id::KeyId;
use filters::key::Lookup;
use filters::time::EpochMs;
use sqlx::QueryBuilder;
use std::collections::BTreeMap;

/// Uses of one second are written as one moment, its beginning.
const SECOND_MS: i64 = 1_000;

/// A secret that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Use {
    /// The secret.
    pub(in crate::store) lookup: Lookup,
    /// Whose it is.
    pub(in crate::store) key: KeyId,
    /// When it was last seen.
    pub(in crate::store) at: EpochMs,
}

impl Store {
    /// Notes that keys were seen. A key that has been seen has a history for good.
    pub(in crate::store) async fn note_uses(&self, uses: &[Use]) -> Result<(), StoreError> {
        let mut by_second: BTreeMap<i64, Vec<Use>> = BTreeMap::new();
        for used in uses {
            by_second.entry(used.at.0 - used.at.0.rem_euclid(SECOND_MS)).or_default().push(*used);
        }
        let mut transaction = self.database.write().await?;
        for (at, mut uses) in by_second {
            // In one order, so that nodes which note the same keys wait for one another instead of both for ever.
            uses.sort_unstable_by_key(|used| used.key.0);
            for uses in uses.chunks(LIST_MAX) {
                for (statement, is_by_lookup) in STATEMENTS {
                    let mut query = QueryBuilder::<Engine>::new(statement.0);
                    query.push_bind(at).push(statement.1).push_bind(at).push(statement.2);
                    if is_by_lookup {
                        push_list(&mut query, uses, |used| &used.lookup.0[..]);
                    } else {
                        push_list(&mut query, uses, |used| used.key.to_string());
                    }
                    query.on(&transaction).execute(&mut *transaction).await?;
                }
            }
        }
        Ok(transaction.commit().await?)
    }
}

/// What is before the moment, between it and the moment again, and before the list; and whether that is of secrets or of keys.
const STATEMENTS: [((&str, &str, &str), bool); 3] = [
    (("UPDATE keys SET used_ms = ", " WHERE COALESCE(used_ms, 0) < ", " AND id IN "), false),
    (("UPDATE keys SET secret_used_ms = ", " WHERE COALESCE(secret_used_ms, 0) < ", " AND lookup IN "), true),
    (("UPDATE key_secrets SET used_ms = ", " WHERE COALESCE(used_ms, 0) < ", " AND lookup IN "), true),
];
