//! Requests that are carried out once, however often they are sent: what was answered under an `Idempotency-Key` is kept for a day.
//!
//! Who changes records asks [`Once::answered`] first and tells [`Once::keep`] last, in the transaction of the change. Such
//! transactions run one at a time, so of two equal requests the second finds what the first was answered.

use super::pepper::encode_hex;
use super::{Connection, StoreError};
use filters::time::EpochMs;
use sha2::{Digest, Sha256};
use sqlx::Row;

/// How long an answer is kept.
pub const KEPT_MS: i64 = 24 * 3_600_000;
/// The longest key of a client.
pub const KEY_BYTES_MAX: usize = 255;

/// A request that may come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Who sent what kind of request: keys of two callers, or of two routes, have nothing to do with each other.
    scope: String,
    /// What the client names it.
    key: String,
    /// The hash of what is asked for.
    request: String,
}

impl Once {
    /// A request of a caller to a route, with the client's name for it and its body. None if the name can't be one: 1 to
    /// [`KEY_BYTES_MAX`] visible ASCII characters.
    #[must_use]
    pub fn new(caller: &str, route: &str, key: &str, body: &[u8]) -> Option<Self> {
        let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self {
            scope: format!("{caller} {route}"),
            key: key.to_owned(),
            request: encode_hex(&Sha256::digest(body)),
        })
    }

    /// What the request was answered when it came before. An error if it was another request that had this name.
    pub(super) async fn answered(
        &self,
        connection: &mut Connection,
        now: EpochMs,
    ) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT request, answer FROM idempotency WHERE scope = $1 AND name = $2 AND at_ms > $3")
            .bind(&self.scope)
            .bind(&self.key)
            .bind(now.0 - KEPT_MS)
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if row.try_get::<String, _>("request")? != self.request {
            return Err(StoreError::NameReused);
        }
        Ok(Some(row.try_get("answer")?))
    }

    /// Keeps what the request is answered; it must hold no secret. Forgets what is older than a day.
    pub(super) async fn keep(&self, connection: &mut Connection, answer: &str, now: EpochMs) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM idempotency WHERE at_ms <= $1")
            .bind(now.0 - KEPT_MS)
            .execute(&mut *connection)
            .await?;
        sqlx::query("INSERT INTO idempotency (scope, name, request, answer, at_ms) VALUES ($1, $2, $3, $4, $5)")
            .bind(&self.scope)
            .bind(&self.key)
            .bind(&self.request)
            .bind(answer)
            .bind(now.0)
            .execute(connection)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{self, NOW};

    fn once(caller: &str, route: &str, key: &str, body: &str) -> Once {
        Once::new(caller, route, key, body.as_bytes()).expect("a key")
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_a_day_for_the_same_request_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = fixture::open(dir.path()).await;
        let first = once("user_1", "POST /api/keys", "a", "{}");
        let mut transaction = store.database.change().await.expect("begun");
        assert_eq!(first.answered(&mut transaction, NOW).await.expect("read"), None);
        first.keep(&mut transaction, "made", NOW).await.expect("kept");
        let last = NOW.plus(KEPT_MS - 1);
        assert_eq!(first.answered(&mut transaction, last).await.expect("read").as_deref(), Some("made"));
        let other = once("user_1", "POST /api/keys", "a", "{ }");
        assert!(matches!(other.answered(&mut transaction, last).await, Err(StoreError::NameReused)));
        for stranger in [once("user_2", "POST /api/keys", "a", "{}"), once("user_1", "POST /api/orgs", "a", "{}")] {
            assert_eq!(stranger.answered(&mut transaction, last).await.expect("read"), None);
        }
        let next_day = NOW.plus(KEPT_MS);
        assert_eq!(other.answered(&mut transaction, next_day).await.expect("read"), None);
        other.keep(&mut transaction, "made again", next_day).await.expect("kept");
        assert_eq!(other.answered(&mut transaction, next_day).await.expect("read").as_deref(), Some("made again"));
        transaction.commit().await.expect("committed");
    }

    #[test]
    fn names_are_visible_and_short() {
        for (key, is_key) in [("", false), ("a b", false), ("a\n", false), ("ä", false), ("5f0c-1:x", true)] {
            assert_eq!(Once::new("user_1", "POST", key, b"").is_some(), is_key, "{key:?}");
        }
        assert!(Once::new("user_1", "POST", &"k".repeat(KEY_BYTES_MAX), b"").is_some());
        assert!(Once::new("user_1", "POST", &"k".repeat(KEY_BYTES_MAX + 1), b"").is_none());
    }
}
