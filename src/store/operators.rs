//! Operators: tokens with which everything may be done. The first is made when the books are.

use super::trail::{self, By, Entry};
use super::{Rows, Store, StoreError, parsed};
use filters::id::{OperatorId, bits};
use filters::key::{Lookup, Token};
use filters::time::EpochMs;
use sqlx::Row;

/// What operators' tokens begin with.
pub const PREFIX: &str = "tg_op";
/// A token is noted as used once in so long.
const USED_STEP_MS: i64 = 60_000;

/// An operator's token as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRecord {
    /// Names it for good.
    pub id: OperatorId,
    /// What people call it.
    pub name: String,
    /// The beginning and the end of the token.
    pub fingerprint: String,
    /// When it was made.
    pub created: EpochMs,
    /// Since when it is refused.
    pub revoked: Option<EpochMs>,
    /// When it was last used, to the minute.
    pub last_used: Option<EpochMs>,
}

const SELECT: &str = "SELECT id, name, fingerprint, created_ms, revoked_ms, last_used_ms FROM operators";

impl Store {
    /// Makes an operator's token; it is shown this one time.
    pub async fn create_operator(&self, name: &str, by: impl Into<By>) -> Result<(OperatorRecord, Token), StoreError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let token = Token::issue(PREFIX, secret);
        let lookup = self.pepper.lookup(token.reveal());
        let fingerprint = token.fingerprint();
        let record = self.insert_operator(name, lookup, fingerprint, &by.into()).await?;
        Ok((record, token))
    }

    /// The first operator's token, where there is none yet: made at random, or the one that the configuration gives. None: somebody
    /// has one already.
    pub async fn bootstrap_operator(&self, given: Option<&str>, now: EpochMs) -> Result<Option<Token>, StoreError> {
        let by = By::system(now);
        if let Some(given) = given {
            let lookup = self.pepper.lookup(given);
            if self.operator_of(lookup, now).await?.is_none() {
                match self.insert_operator("configured", lookup, "configured".to_owned(), &by).await {
                    // Another node was first, or the token was revoked, and stays so.
                    Ok(_) | Err(StoreError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(None);
        }
        if !self.operators().await?.is_empty() {
            return Ok(None);
        }
        // Of several nodes that start at once, one makes it.
        let is_first =
            sqlx::query("INSERT INTO meta (name, content) VALUES ('first_operator', $1) ON CONFLICT (name) DO NOTHING")
                .bind(now.0.to_string())
                .execute(&self.database.writer)
                .await?;
        if is_first.rows_affected() == 0 {
            return Ok(None);
        }
        let (_, token) = self.create_operator("first", by).await?;
        Ok(Some(token))
    }

    async fn insert_operator(
        &self,
        name: &str,
        lookup: Lookup,
        fingerprint: String,
        by: &By,
    ) -> Result<OperatorRecord, StoreError> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let id = OperatorId(bits(by.now, random));
        let mut transaction = self.database.change().await?;
        // Nodes that start at once are given the same.
        let inserted = sqlx::query(
            "INSERT INTO operators (id, name, lookup, fingerprint, created_ms) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (lookup) DO NOTHING",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(&lookup.0[..])
        .bind(&*fingerprint)
        .bind(by.now.0)
        .execute(&mut *transaction)
        .await?;
        if inserted.rows_affected() == 0 {
            return Err(StoreError::Refused("somebody has this operator's token already"));
        }
        let entry = Entry { org: None, action: "operator.create", object: id.to_string(), before: None, after: None };
        trail::record(&mut transaction, by, entry).await?;
        transaction.commit().await?;
        let name = name.to_owned();
        Ok(OperatorRecord { id, name, fingerprint, created: by.now, revoked: None, last_used: None })
    }

    /// The operator whose token has this lookup id, unless it was revoked.
    pub async fn operator_of(&self, lookup: Lookup, now: EpochMs) -> Result<Option<OperatorRecord>, StoreError> {
        let text = format!("{SELECT} WHERE lookup = $1 AND revoked_ms IS NULL");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(&lookup.0[..]).fetch_optional(&self.database.reader).await?;
        let Some(record) = row.as_ref().map(read_row).transpose()? else { return Ok(None) };
        if record.last_used.is_none_or(|used| now.0 - used.0 >= USED_STEP_MS) {
            sqlx::query("UPDATE operators SET last_used_ms = $1 WHERE id = $2")
                .bind(now.0)
                .bind(record.id.to_string())
                .execute(&self.database.writer)
                .await?;
        }
        Ok(Some(record))
    }

    /// Every operator's token, the oldest first.
    pub async fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError> {
        let text = format!("{SELECT} ORDER BY id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(&self.database.reader).await?;
        rows.iter().map(read_row).collect()
    }

    /// Refuses an operator's token from now on. The last one stays: without any, nobody could make another over the network.
    pub async fn revoke_operator(&self, id: OperatorId, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let live: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM operators WHERE revoked_ms IS NULL AND id <> $1")
            .bind(id.to_string())
            .fetch_one(&mut *transaction)
            .await?;
        if live == 0 {
            return Err(StoreError::Refused("this is the last operator's token: make another before it is revoked"));
        }
        let changed = sqlx::query("UPDATE operators SET revoked_ms = $1 WHERE id = $2 AND revoked_ms IS NULL")
            .bind(by.now.0)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("operator {id}")));
        }
        let entry = Entry { org: None, action: "operator.revoke", object: id.to_string(), before: None, after: None };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }
}

fn read_row(row: &Rows) -> Result<OperatorRecord, StoreError> {
    let moment = |column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(EpochMs));
    Ok(OperatorRecord {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        fingerprint: row.try_get("fingerprint")?,
        created: EpochMs(row.try_get("created_ms")?),
        revoked: moment("revoked_ms")?,
        last_used: moment("last_used_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{NOW, open};

    #[tokio::test]
    async fn the_first_operator_is_made_once_and_the_last_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path()).await;
        let first = store.bootstrap_operator(None, NOW).await.expect("made").expect("a token");
        assert!(store.bootstrap_operator(None, NOW).await.expect("asked").is_none());
        let lookup = store.pepper().lookup(first.reveal());
        let record = store.operator_of(lookup, NOW).await.expect("asked").expect("an operator");
        assert!(matches!(store.revoke_operator(record.id, NOW).await, Err(StoreError::Refused(_))));
        let (second, _) = store.create_operator("second", NOW).await.expect("made");
        store.revoke_operator(record.id, NOW).await.expect("revoked");
        assert!(store.operator_of(lookup, NOW).await.expect("asked").is_none());
        assert!(matches!(store.revoke_operator(second.id, NOW).await, Err(StoreError::Refused(_))));
        assert_eq!(store.operators().await.expect("listed").len(), 2);
    }

    #[tokio::test]
    async fn a_configured_token_is_taken_at_each_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path()).await;
        assert!(store.bootstrap_operator(Some("given"), NOW).await.expect("taken").is_none());
        // Nodes that start at once, and find that there is none yet.
        let starts = [1, 2].map(|_| store.bootstrap_operator(Some("another"), NOW));
        for started in futures_util::future::join_all(starts).await {
            assert!(started.expect("taken").is_none());
        }
        assert_eq!(store.operators().await.expect("listed").len(), 2);
        assert!(store.operator_of(store.pepper().lookup("given"), NOW).await.expect("asked").is_some());
    }
}
