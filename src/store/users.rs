//! Users: people who sign in, by their e-mail address and a password.

use super::trail::{self, By, Entry};
use super::{Connection, Rows, Store, StoreError, parsed};
use filters::id::{OrgId, SessionId, UserId, bits};
use filters::time::EpochMs;
use serde_json::json;
use sqlx::Row;
use std::fmt;
use std::str::FromStr;

/// Longest address that mail can be sent to.
const EMAIL_BYTES_MAX: usize = 254;

/// The columns that [`read_row`] reads.
pub(super) const COLUMNS: &str = "u.id AS user_id, u.email, u.name, u.personal_org, u.created_ms, u.disabled_ms";

/// An e-mail address in lower case: what a user is called by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Email {
    type Err = &'static str;

    /// Only ASCII: two letters that look alike must not be two users, and one address in two spellings must not be either.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (name, host) = text.rsplit_once('@').ok_or("not an e-mail address such as ada@example.com")?;
        let is_of_address = |byte: u8| byte.is_ascii_graphic() && !b"@<>()[],;:\\\"".contains(&byte);
        let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let is_address = !name.is_empty() && name.bytes().all(is_of_address);
        let is_host = host.split('.').all(|label| !label.is_empty()) && host.bytes().all(is_of_host);
        if is_address && is_host && text.len() <= EMAIL_BYTES_MAX {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err("not an e-mail address such as ada@example.com")
        }
    }
}

/// A user to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// What the user signs in as; one of a kind.
    pub email: Email,
    /// What people call them.
    pub name: String,
    /// The password's hash; none: nobody signs in with a password.
    pub password: Option<PasswordHash>,
}

/// A password as it is stored: argon2id with its parameters and its salt.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub(super) String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordHash(…)")
    }
}

/// A user as the store knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Names them for good.
    pub id: UserId,
    /// What they sign in as.
    pub email: Email,
    /// What people call them.
    pub name: String,
    /// The organisation that their first sign-in made.
    pub personal_org: Option<OrgId>,
    /// When they were made.
    pub created: EpochMs,
    /// Since when they can't sign in, if so.
    pub disabled: Option<EpochMs>,
}

/// What to change of a user. What is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// What people call them.
    pub name: Option<String>,
    /// Whether they can't sign in. It ends their sessions.
    pub is_disabled: Option<bool>,
    /// Another password. It ends their sessions.
    pub password: Option<PasswordHash>,
    /// The session that goes on all the same: the one that changes the password.
    pub session_kept: Option<SessionId>,
}

impl Store {
    /// Makes a user.
    pub async fn create_user(&self, new: &NewUser, by: impl Into<By>) -> Result<UserRecord, StoreError> {
        let mut transaction = self.database.change().await?;
        let user = insert(&mut transaction, new, &by.into()).await?;
        transaction.commit().await?;
        Ok(user)
    }

    /// One user.
    pub async fn user(&self, id: UserId) -> Result<UserRecord, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        by_id(&mut reader, id).await
    }

    /// Who signs in as that, and what their password must match; none if nobody does.
    pub async fn user_by_email(&self, email: &Email) -> Result<Option<(UserRecord, Option<PasswordHash>)>, StoreError> {
        let text = format!("SELECT {COLUMNS}, u.password FROM users u WHERE u.email = $1");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(email.as_str()).fetch_optional(&self.database.reader).await?;
        let Some(row) = row else { return Ok(None) };
        let password: Option<String> = row.try_get("password")?;
        Ok(Some((read_row(&row)?, password.map(PasswordHash))))
    }

    /// Users in the order in which they were made, those after `after`, at most `limit`.
    pub async fn users(&self, after: Option<UserId>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM users u WHERE u.id > $1 ORDER BY u.id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// Changes a user. Who has another password, or can't sign in any more, is signed out everywhere.
    pub async fn change_user(
        &self,
        id: UserId,
        change: &UserChange,
        by: impl Into<By>,
    ) -> Result<UserRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = by_id(&mut transaction, id).await?;
        let disabled = match change.is_disabled {
            Some(true) => before.disabled.or(Some(by.now)),
            Some(false) => None,
            None => before.disabled,
        };
        let after =
            UserRecord { name: change.name.clone().unwrap_or_else(|| before.name.clone()), disabled, ..before.clone() };
        sqlx::query("UPDATE users SET name = $1, disabled_ms = $2, password = COALESCE($3, password) WHERE id = $4")
            .bind(&*after.name)
            .bind(after.disabled.map(|since| since.0))
            .bind(change.password.as_ref().map(|hash| &*hash.0))
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        if after.disabled.is_some() || change.password.is_some() {
            let kept = change.session_kept.filter(|_| after.disabled.is_none());
            super::sessions::end_all(&mut transaction, id, kept).await?;
        }
        let action = if change.password.is_some() { "user.password" } else { "user.change" };
        let (was, is) = (before.entry(), after.entry());
        let entry = Entry { org: None, action, object: id.to_string(), before: Some(&was), after: Some(&is) };
        trail::record(&mut transaction, &by, entry).await?;
        transaction.commit().await?;
        Ok(after)
    }
}

/// Makes a user, unless somebody has the address already.
pub(super) async fn insert(connection: &mut Connection, new: &NewUser, by: &By) -> Result<UserRecord, StoreError> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    let id = UserId(bits(by.now, random));
    let made = sqlx::query(
        "INSERT INTO users (id, email, name, password, created_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (email) DO NOTHING",
    )
    .bind(id.to_string())
    .bind(new.email.as_str())
    .bind(&*new.name)
    .bind(new.password.as_ref().map(|hash| &*hash.0))
    .bind(by.now.0)
    .execute(&mut *connection)
    .await?;
    if made.rows_affected() == 0 {
        return Err(StoreError::Refused("there is a user of this e-mail address already"));
    }
    let user = by_id(connection, id).await?;
    let is = user.entry();
    let entry = Entry { org: None, action: "user.create", object: id.to_string(), before: None, after: Some(&is) };
    trail::record(connection, by, entry).await?;
    Ok(user)
}

impl UserRecord {
    /// The user as the trail has them.
    fn entry(&self) -> String {
        trail::json(&json!({"email": self.email.as_str(), "name": self.name, "disabled": self.disabled.is_some()}))
    }
}

pub(super) async fn by_id(connection: &mut Connection, id: UserId) -> Result<UserRecord, StoreError> {
    let text = format!("SELECT {COLUMNS} FROM users u WHERE u.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.to_string()).fetch_optional(connection).await?;
    read_row(&row.ok_or_else(|| StoreError::NotFound(format!("user {id}")))?)
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_row(row: &Rows) -> Result<UserRecord, StoreError> {
    let email: String = row.try_get("email")?;
    Ok(UserRecord {
        id: parsed(row, "user_id")?,
        email: Email(email),
        name: row.try_get("name")?,
        personal_org: match row.try_get::<Option<&str>, _>("personal_org")? {
            Some(_) => Some(parsed(row, "personal_org")?),
            None => None,
        },
        created: EpochMs(row.try_get("created_ms")?),
        disabled: row.try_get::<Option<i64>, _>("disabled_ms")?.map(EpochMs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_user};

    #[test]
    fn one_address_is_one_user_however_it_is_typed() {
        let email = |text: &str| text.parse::<Email>();
        assert_eq!(email(" Ada@Example.COM "), email("ada@example.com"));
        for text in
            ["", "ada", "@host", "ada@", "ada@host..com", "a da@host", "ada@ho st", "ädä@host", "a@b@host", "<a>@h"]
        {
            assert!(email(text).is_err(), "{text}");
        }
        assert!(email(&format!("{}@host", "a".repeat(250))).is_err());
    }

    #[tokio::test]
    async fn a_user_is_made_once_and_found_by_address() {
        let books = Books::open().await;
        let new = new_user("Ada@example.com");
        let made = books.store.create_user(&new, NOW).await.expect("made");
        assert_eq!((made.disabled, made.personal_org), (None, None));
        let again = books.store.create_user(&new_user("ada@EXAMPLE.com"), NOW).await;
        assert!(matches!(again, Err(StoreError::Refused(_))));
        let found = books.store.user_by_email(&new.email).await.expect("read");
        assert_eq!(found, Some((made.clone(), new.password.clone())));
        let nobody = "nobody@example.com".parse().expect("an address");
        assert_eq!(books.store.user_by_email(&nobody).await.expect("read"), None);
        assert_eq!(books.store.users(None, 5).await.expect("listed"), std::slice::from_ref(&made));
        assert!(books.store.users(Some(made.id), 5).await.expect("listed").is_empty());
        assert!(matches!(books.store.user(UserId(1)).await, Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn what_is_not_said_of_a_user_stays() {
        let books = Books::open().await;
        let new = new_user("ada@example.com");
        let made = books.store.create_user(&new, NOW).await.expect("made");
        let change = UserChange { is_disabled: Some(true), ..UserChange::default() };
        let disabled = books.store.change_user(made.id, &change, NOW.plus(1)).await.expect("changed");
        assert_eq!(disabled, UserRecord { disabled: Some(NOW.plus(1)), ..made.clone() });
        let change = UserChange { name: Some("Countess".to_owned()), ..UserChange::default() };
        let renamed = books.store.change_user(made.id, &change, NOW.plus(2)).await.expect("changed");
        assert_eq!(renamed, UserRecord { name: "Countess".to_owned(), ..disabled });
        let found = books.store.user_by_email(&new.email).await.expect("read").expect("the user");
        assert_eq!(found, (renamed, new.password));
    }
}
