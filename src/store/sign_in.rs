//! Attempts to sign in, counted for all nodes together: for each user that is tried, and for each address that tries.

use super::{Connection, Store, StoreError};
use crate::store::users::Email;
use filters::key::Lookup;
use filters::time::EpochMs;
use sqlx::Row;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// How long attempts are kept; no window is longer.
const KEPT_MS: i64 = 86_400_000;

/// How often somebody may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignInLimits {
    /// Failures for each user.
    pub per_account_max: i64,
    /// Failures from each address.
    pub per_address_max: i64,
    /// In which time, at most a day.
    pub window: Duration,
}

/// Who tries to sign in as whom.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// As whom.
    pub email: &'a Email,
    /// From where.
    pub address: IpAddr,
}

impl Store {
    /// Counts an attempt before it is made, so that many at once are counted too. What is given back is when to come again, if there were too
    /// many. An attempt beyond the limit writes nothing, however many there are.
    pub async fn count_sign_in(
        &self,
        attempt: Attempt<'_>,
        limits: &SignInLimits,
        now: EpochMs,
    ) -> Result<Option<EpochMs>, StoreError> {
        let subjects = self.subjects(attempt).map(|lookup| lookup.0);
        let window = i64::try_from(limits.window.as_millis()).unwrap_or(KEPT_MS);
        let since = now.plus(-window);
        let counted = [limits.per_account_max, limits.per_address_max];
        let mut reader = self.database.reader.acquire().await?;
        for (subject, max) in subjects.iter().zip(counted) {
            if let Some((started, attempts)) = read(&mut reader, subject, since).await?
                && attempts >= max
            {
                return Ok(Some(started.plus(window)));
            }
        }
        drop(reader);
        let mut transaction = self.database.write().await?;
        let mut until = None;
        for (subject, max) in subjects.iter().zip(counted) {
            let (started, attempts) = add(&mut transaction, subject, since, now).await?;
            if attempts > max {
                until = until.max(Some(started.plus(window)));
            }
        }
        sqlx::query("DELETE FROM sign_in_attempts WHERE started_ms < $1")
            .bind(now.0 - KEPT_MS)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(until)
    }

    /// Takes a counted attempt back that has succeeded: only failures are held against anybody. The user's earlier failures are forgiven.
    pub async fn forgive_sign_in(&self, attempt: Attempt<'_>) -> Result<(), StoreError> {
        let [account, address] = self.subjects(attempt);
        let mut transaction = self.database.write().await?;
        sqlx::query("DELETE FROM sign_in_attempts WHERE subject = $1")
            .bind(&account.0[..])
            .execute(&mut *transaction)
            .await?;
        sqlx::query("UPDATE sign_in_attempts SET attempts = attempts - 1 WHERE subject = $1 AND attempts > 0")
            .bind(&address.0[..])
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// The user's and the address's, in this order.
    fn subjects(&self, attempt: Attempt<'_>) -> [Lookup; 2] {
        let address = network(attempt.address);
        [format!("sign-in as {}", attempt.email), format!("sign-in from {address}")]
            .map(|text| self.pepper.lookup(&text))
    }
}

/// Whoever has one address of IPv6 has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// The beginning of a running window and the attempts in it.
async fn read(
    connection: &mut Connection,
    subject: &[u8; 32],
    since: EpochMs,
) -> Result<Option<(EpochMs, i64)>, StoreError> {
    let row = sqlx::query("SELECT started_ms, attempts FROM sign_in_attempts WHERE subject = $1 AND started_ms > $2")
        .bind(&subject[..])
        .bind(since.0)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((EpochMs(row.try_get("started_ms")?), row.try_get("attempts")?))).transpose()
}

/// Adds one to a running window, or begins another.
async fn add(
    connection: &mut Connection,
    subject: &[u8; 32],
    since: EpochMs,
    now: EpochMs,
) -> Result<(EpochMs, i64), StoreError> {
    let row = sqlx::query(
        "INSERT INTO sign_in_attempts (subject, started_ms, attempts) VALUES ($1, $2, 1) ON CONFLICT (subject) DO UPDATE SET \
         attempts = CASE WHEN sign_in_attempts.started_ms <= $3 THEN 1 ELSE sign_in_attempts.attempts + 1 END, \
         started_ms = CASE WHEN sign_in_attempts.started_ms <= $3 THEN excluded.started_ms \
         ELSE sign_in_attempts.started_ms END RETURNING started_ms, attempts",
    )
    .bind(&subject[..])
    .bind(now.0)
    .bind(since.0)
    .fetch_one(connection)
    .await?;
    Ok((EpochMs(row.try_get("started_ms")?), row.try_get("attempts")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW};

    const LIMITS: SignInLimits =
        SignInLimits { per_account_max: 3, per_address_max: 5, window: Duration::from_secs(60) };

    fn email(name: &str) -> Email {
        format!("{name}@example.com").parse().expect("an address")
    }

    async fn attempt(books: &Books, name: &str, address: &str, after_ms: i64) -> Option<EpochMs> {
        let attempt = Attempt { email: &email(name), address: address.parse().expect("an address") };
        books.store.count_sign_in(attempt, &LIMITS, NOW.plus(after_ms)).await.expect("counted")
    }

    #[tokio::test]
    async fn a_user_is_tried_so_often_whoever_tries() {
        let books = Books::open().await;
        for number in 0..3 {
            assert_eq!(attempt(&books, "ada", &format!("192.0.2.{number}"), number).await, None);
        }
        assert_eq!(attempt(&books, "ada", "192.0.2.9", 10).await, Some(NOW.plus(60_000)));
        assert_eq!(attempt(&books, "bob", "192.0.2.9", 10).await, None);
        assert_eq!(attempt(&books, "ada", "192.0.2.9", 60_000).await, None);
    }

    #[tokio::test]
    async fn an_address_tries_so_often_whomever_it_tries() {
        let books = Books::open().await;
        for number in 0..5 {
            let address = format!("2001:db8::{number}");
            assert_eq!(attempt(&books, &format!("user-{number}"), &address, 0).await, None);
        }
        assert_eq!(attempt(&books, "ada", "2001:db8::ffff:0:0:1", 1).await, Some(NOW.plus(60_000)));
        assert_eq!(attempt(&books, "ada", "2001:db8:0:1::1", 1).await, None);
    }

    #[tokio::test]
    async fn attempts_at_once_are_all_counted() {
        let books = Books::open().await;
        let attempts = (0..12).map(|_| attempt(&books, "ada", "192.0.2.1", 0));
        let allowed = futures_util::future::join_all(attempts).await.into_iter().filter(Option::is_none).count();
        assert_eq!(allowed, 3);
    }

    #[tokio::test]
    async fn who_succeeds_is_forgiven() {
        let books = Books::open().await;
        let ada = email("ada");
        let success = Attempt { email: &ada, address: "192.0.2.1".parse().expect("an address") };
        for at in 0..9 {
            assert_eq!(attempt(&books, "ada", "192.0.2.1", at).await, None);
            books.store.forgive_sign_in(success).await.expect("forgiven");
        }
    }
}
