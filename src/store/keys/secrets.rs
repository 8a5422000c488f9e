//! The secrets of a key: replaced by new ones, taken over from elsewhere, moved to the newest pepper.

use super::{IssuedKey, KeyRecord, KeyRow, NewKey, new_id, random, read_one};
use crate::store::pepper::encode_hex;
use crate::store::trail::By;
use crate::store::{Connection, Store, StoreError};
use filters::id::KeyId;
use filters::key::{Lookup, Status, Token, TokenHash};
use filters::time::EpochMs;
use sqlx::Row;

/// The longest time for which a replaced secret may go on.
pub const GRACE_MAX_MS: i64 = 90 * 86_400_000;
/// Most secrets of a key that were replaced and are not forgotten yet.
const REPLACED_MAX: i64 = 8;
/// How long a secret is remembered after its end: gateways that hold it must hear that it has ended.
const REMEMBERED_MS: i64 = 600_000;

/// A secret, without itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its beginning and its end.
    pub fingerprint: String,
    /// When it was made.
    pub created: EpochMs,
    /// When it ends; none for the present one.
    pub ends: Option<EpochMs>,
    /// When a request with it was last seen, to the minute.
    pub last_used: Option<EpochMs>,
}

impl Store {
    /// Gives a key a new secret. The present one goes on for a while, and those before it for no longer than that. `prefix` is for a key
    /// whose present token was issued elsewhere; others keep their own.
    pub async fn rotate_key(
        &self,
        id: KeyId,
        grace_ms: i64,
        prefix: &str,
        by: impl Into<By>,
    ) -> Result<(IssuedKey, KeyRecord), StoreError> {
        let by = by.into();
        let now = by.now;
        if !(0..=GRACE_MAX_MS).contains(&grace_ms) {
            return Err(StoreError::Refused("a replaced secret goes on for 0 to 90 days"));
        }
        let mut transaction = self.database.change().await?;
        let key = read_one(&mut transaction, id, now).await?;
        if key.status == Status::Archived {
            return Err(StoreError::Refused("the key was archived, which is for good: create a new one"));
        }
        let token = Token::issue(prefix_of(&key.fingerprint).unwrap_or(prefix), random()?);
        retire(&mut transaction, id, now.plus(grace_ms), now).await?;
        sqlx::query(
            "UPDATE keys SET lookup = $1, pepper = $2, fingerprint = $3, secret_created_ms = $4, secret_used_ms = NULL WHERE id = $5",
        )
        .bind(&self.pepper().lookup(token.reveal()).0[..])
        .bind(&*self.peppers.newest)
        .bind(token.fingerprint())
        .bind(now.0)
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
        let after = self.changed(transaction, "key.rotate", &key, &by).await?;
        Ok((IssuedKey { id, name: key.name, token }, after))
    }

    /// Makes a key of a token that was issued elsewhere, and of which only the hash is known.
    pub async fn import_key(&self, new: &NewKey, hash: TokenHash, by: impl Into<By>) -> Result<KeyId, StoreError> {
        let lookup = self.pepper().lookup_of(&hash);
        let digits = encode_hex(&hash.0);
        let fingerprint = format!("sha256:{}…{}", &digits[..4], &digits[digits.len() - 2..]);
        let mut transaction = self.database.change().await?;
        for lookup in std::iter::once(lookup).chain(self.pepper().older_lookups(hash)) {
            for table in ["keys", "key_secrets"] {
                let statement = format!("SELECT lookup FROM {table} WHERE lookup = $1");
                let query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(&lookup.0[..]);
                if query.fetch_optional(&mut *transaction).await?.is_some() {
                    return Err(StoreError::Refused("there is or was a key with this token: each has its own"));
                }
            }
        }
        let by = by.into();
        let id = new_id(by.now)?;
        let row = KeyRow { id, name: new.name.clone(), lookup, fingerprint };
        self.insert(&mut transaction, new, vec![row], &by).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// The secrets of a key, the present one first.
    pub async fn secrets(&self, id: KeyId) -> Result<Vec<SecretRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT fingerprint, COALESCE(secret_created_ms, created_ms) AS made_ms, CAST(NULL AS BIGINT) AS ends_ms, \
             secret_used_ms AS seen_ms, 0 AS place FROM keys WHERE id = $1 AND deleted_ms IS NULL UNION ALL \
             SELECT fingerprint, created_ms, ends_ms, used_ms, 1 FROM key_secrets WHERE key_id = $1 ORDER BY place, made_ms DESC",
        )
        .bind(id.to_string())
        .fetch_all(&self.database.reader)
        .await?;
        let moment = |row: &super::Rows, column| row.try_get::<Option<i64>, _>(column).map(|at| at.map(EpochMs));
        let secrets = rows.iter().map(|row| {
            Ok(SecretRecord {
                fingerprint: row.try_get("fingerprint")?,
                created: EpochMs(row.try_get("made_ms")?),
                ends: moment(row, "ends_ms")?,
                last_used: moment(row, "seen_ms")?,
            })
        });
        secrets.collect()
    }

    /// Has secrets that were stored under an older pepper stored under the newest.
    pub(in crate::store) async fn move_lookups(&self, moves: &[(Lookup, Lookup)]) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        for (from, to) in moves {
            for table in ["keys", "key_secrets"] {
                let statement = format!("UPDATE {table} SET lookup = $1, pepper = $2 WHERE lookup = $3");
                sqlx::query(sqlx::AssertSqlSafe(statement))
                    .bind(&to.0[..])
                    .bind(&*self.peppers.newest)
                    .bind(&from.0[..])
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        Ok(transaction.commit().await?)
    }
}

/// Makes the present secret of a key one of those that were replaced.
async fn retire(connection: &mut Connection, id: KeyId, ends: EpochMs, now: EpochMs) -> Result<(), StoreError> {
    let id = id.to_string();
    sqlx::query("DELETE FROM key_secrets WHERE key_id = $1 AND ends_ms < $2")
        .bind(&*id)
        .bind(now.0 - REMEMBERED_MS)
        .execute(&mut *connection)
        .await?;
    let replaced: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM key_secrets WHERE key_id = $1")
        .bind(&*id)
        .fetch_one(&mut *connection)
        .await?;
    if replaced >= REPLACED_MAX {
        return Err(StoreError::Refused(
            "this key has been rotated 8 times, and none of the secrets before has ended for long: wait ten minutes after the end of one",
        ));
    }
    sqlx::query("UPDATE key_secrets SET ends_ms = $1 WHERE key_id = $2 AND ends_ms > $1")
        .bind(ends.0)
        .bind(&*id)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO key_secrets (lookup, key_id, pepper, fingerprint, created_ms, ends_ms, used_ms) \
         SELECT lookup, id, pepper, fingerprint, COALESCE(secret_created_ms, created_ms), CAST($1 AS BIGINT), secret_used_ms \
         FROM keys WHERE id = $2",
    )
    .bind(ends.0)
    .bind(&*id)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a token of ours begins with, by its fingerprint: with its joint, and without the 4 characters of the secret.
fn prefix_of(fingerprint: &str) -> Option<&str> {
    let (beginning, _) = fingerprint.split_once('…')?;
    let prefix = beginning.get(..beginning.len().checked_sub(4)?)?;
    prefix.ends_with(['-', '_']).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key};
    use crate::store::keys::Use;

    #[tokio::test]
    async fn a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while() {
        let books = Books::open().await;
        let before = books.key().await;
        let seen = Use { lookup: before.lookup, key: books.key, at: NOW.plus(2_000) };
        books.store.note_uses(&[seen]).await.expect("noted");
        let (rotated, _) = books.store.rotate_key(books.key, 60_000, "other", NOW.plus(5_000)).await.expect("rotated");
        assert_eq!((rotated.id, &*rotated.name), (books.key, "tests"));
        assert!(rotated.token.reveal().starts_with("tg_live_"));
        let after = books.key().await;
        assert_eq!(after.lookup, books.store.pepper().lookup(rotated.token.reveal()));
        assert_eq!(after.last_used, Some(NOW.plus(2_000)), "the key has been used, if not with this secret");
        assert_eq!((&after.limits, &after.name, after.created), (&before.limits, &before.name, before.created));
        let secrets = books.store.secrets(books.key).await.expect("read");
        let facts: Vec<_> = secrets.iter().map(|secret| (secret.created.0, secret.ends, secret.last_used)).collect();
        let (ends, used) = (Some(NOW.plus(65_000)), Some(NOW.plus(2_000)));
        assert_eq!(facts, [(NOW.0 + 5_000, None, None), (NOW.0, ends, used)]);
        assert_eq!(secrets[1].fingerprint, before.fingerprint);
        let old = books.store.find_token(&books.token).await.expect("read").expect("the key");
        assert_eq!((old.id, old.secret_ends), (books.key, ends));
        let new = books.store.find_token(rotated.token.reveal()).await.expect("read").expect("the key");
        assert_eq!((new.id, new.secret_ends), (books.key, None));
        // At once means all of them.
        books.store.rotate_key(books.key, 0, "other", NOW.plus(6_000)).await.expect("rotated");
        for secret in &books.store.secrets(books.key).await.expect("read")[1..] {
            assert_eq!(secret.ends, Some(NOW.plus(6_000)));
        }
    }

    #[tokio::test]
    async fn the_secrets_of_a_key_are_bounded_and_forgotten() {
        let books = Books::open().await;
        for _ in 0..REPLACED_MAX {
            books.store.rotate_key(books.key, 1_000, "tg_live", NOW).await.expect("rotated");
        }
        let refused = books.store.rotate_key(books.key, 1_000, "tg_live", NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        let later = NOW.plus(1_000 + REMEMBERED_MS + 1);
        books.store.rotate_key(books.key, 0, "tg_live", later).await.expect("rotated");
        assert_eq!(books.store.secrets(books.key).await.expect("read").len(), 2);
        assert!(books.store.find_token(&books.token).await.expect("read").is_none());
        for grace in [-1, GRACE_MAX_MS + 1] {
            assert!(books.store.rotate_key(books.key, grace, "tg_live", later).await.is_err(), "{grace}");
        }
    }

    #[tokio::test]
    async fn a_hash_from_elsewhere_is_a_key_here() {
        let books = Books::open().await;
        let hash = TokenHash::of("made-elsewhere-1234");
        let id = books.store.import_key(&new_key(books.org), hash, NOW).await.expect("imported");
        let key = books.store.find_token("made-elsewhere-1234").await.expect("read").expect("the key");
        assert_eq!(key.id, id);
        assert!(key.fingerprint.starts_with("sha256:"), "{}", key.fingerprint);
        let again = books.store.import_key(&new_key(books.org), hash, NOW).await;
        assert!(matches!(again, Err(StoreError::Refused(_))));
        let ours = books.store.import_key(&new_key(books.org), TokenHash::of(&books.token), NOW).await;
        assert!(matches!(ours, Err(StoreError::Refused(_))));
        let (rotated, _) = books.store.rotate_key(id, 0, "sk-sr-", NOW).await.expect("rotated");
        assert!(rotated.token.reveal().starts_with("sk-sr-"));
    }

    #[test]
    fn prefixes_are_read_off_fingerprints() {
        for prefix in ["tg_live", "sk-sr-", "a"] {
            let token = Token::issue(prefix, [7; 32]);
            let read = prefix_of(&token.fingerprint()).map(str::to_owned).expect("a prefix");
            assert_eq!(Token::issue(&read, [7; 32]).reveal(), token.reveal());
        }
        for odd in ["", "sha256:abcd…ef", "…", "é…"] {
            assert_eq!(prefix_of(odd), None, "{odd}");
        }
    }
}
