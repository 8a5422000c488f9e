//! Keys that are made once, however often they are asked for: an answer that was lost can be given again, token and all, although the
//! token is stored nowhere. Its random bits are made of a salt and the pepper.

use super::{IssuedKey, NewKey, new_id, random};
use crate::store::idempotency::Once;
use crate::store::pepper::encode_hex;
use crate::store::trail::By;
use crate::store::{Store, StoreError};
use filters::key::{Pepper, Token, TokenHash};
use serde::{Deserialize, Serialize};

/// What the secret of these tokens is for.
const PURPOSE: &str = "tokens that can be issued again";

/// What is kept of the answer.
#[derive(Serialize, Deserialize)]
struct Answered {
    id: String,
    name: String,
    prefix: String,
    salt: String,
    /// Tells which pepper the token was made with.
    fingerprint: String,
}

impl Store {
    /// Makes a key, or gives the one again that the same request has made.
    pub async fn create_key_once(&self, new: &NewKey, once: &Once, by: impl Into<By>) -> Result<IssuedKey, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        if let Some(answer) = once.answered(&mut transaction, by.now).await? {
            return again(&answer, self.pepper())
                .ok_or(StoreError::Corrupt { column: "idempotency.answer", content: answer });
        }
        let salt = random()?;
        let token = token(&new.prefix, &salt, self.pepper());
        let key = IssuedKey { id: new_id(by.now)?, name: new.name.clone(), token };
        self.insert(&mut transaction, new, vec![self.row_of(&key)], &by).await?;
        let answer = Answered {
            id: key.id.to_string(),
            name: key.name.clone(),
            prefix: new.prefix.clone(),
            salt: encode_hex(&salt),
            fingerprint: key.token.fingerprint(),
        };
        once.keep(&mut transaction, &serde_json::to_string(&answer).unwrap_or_default(), by.now).await?;
        transaction.commit().await?;
        Ok(key)
    }
}

fn token(prefix: &str, salt: &[u8; 32], pepper: &Pepper) -> Token {
    Token::issue(prefix, pepper.seal(PURPOSE).mark(salt, b""))
}

fn again(answer: &str, pepper: &Pepper) -> Option<IssuedKey> {
    let Answered { id, name, prefix, salt, fingerprint } = serde_json::from_str(answer).ok()?;
    let TokenHash(salt) = TokenHash::of_digits(&salt)?;
    // The pepper may have been an older one then.
    let tokens = pepper.each().map(|pepper| token(&prefix, &salt, &pepper));
    let token = { tokens }.find(|token| token.fingerprint() == fingerprint)?;
    Some(IssuedKey { id: id.parse().ok()?, name, token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key};
    use crate::store::idempotency::KEPT_MS;

    fn once(caller: &str, name: &str, body: &str) -> Once {
        Once::new(caller, "POST /api/keys", name, body.as_bytes()).expect("a name")
    }

    #[tokio::test]
    async fn a_request_that_comes_again_gets_the_same_key_and_token() {
        let books = Books::open().await;
        let new = new_key(books.org);
        let make = async |once: Once, at| books.store.create_key_once(&new, &once, at).await;
        let first = make(once("user_1", "one", "{}"), NOW).await.expect("made");
        let again = make(once("user_1", "one", "{}"), NOW.plus(KEPT_MS - 1)).await.expect("known");
        assert_eq!((again.id, again.token.reveal()), (first.id, first.token.reveal()));
        let other = make(once("user_1", "one", "{ }"), NOW).await;
        assert!(matches!(other, Err(StoreError::NameReused)));
        for different in [once("user_2", "one", "{}"), once("user_1", "two", "{}")] {
            let key = make(different, NOW).await.expect("made");
            assert!(key.id != first.id && key.token.reveal() != first.token.reveal());
        }
        let later = make(once("user_1", "one", "{}"), NOW.plus(KEPT_MS)).await.expect("made");
        assert_ne!(later.id, first.id);
        assert_eq!(books.store.keys(books.org, None, NOW).await.expect("listed").len(), 5);
        let kept: Vec<String> = sqlx::query_scalar("SELECT answer FROM idempotency")
            .fetch_all(&books.store.database.reader)
            .await
            .expect("read");
        assert!(!kept.iter().any(|answer| answer.contains(&later.token.reveal()[12..30])));
    }

    #[tokio::test]
    async fn equal_requests_at_once_make_one_key() {
        let books = Books::open().await;
        let (new, once) = (new_key(books.org), once("user_1", "one", "{}"));
        let make = || books.store.create_key_once(&new, &once, NOW);
        let (one, two, three) = tokio::join!(make(), make(), make());
        let made = [one, two, three].map(|made| made.expect("made"));
        assert!(made.iter().all(|key| key.id == made[0].id && key.token.reveal() == made[0].token.reveal()));
        assert_eq!(books.store.keys(books.org, None, NOW).await.expect("listed").len(), 2);
    }
}
