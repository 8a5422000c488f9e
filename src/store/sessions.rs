//! Sessions: what a signed-in user shows instead of a password, until it is revoked or has not been used for too long.

use super::members::{self, Membership, Role};
use super::trail::{self, By, Entry};
use super::users::{self, UserRecord};
use super::{Connection, Rows, Store, StoreError, organisations, parsed};
use filters::id::{SessionId, UserId, bits};
use filters::key::{Lookup, Token};
use filters::time::EpochMs;
use sqlx::Row;
use std::time::Duration;

/// What tokens of sessions begin with.
pub const SESSION_PREFIX: &str = "tg_session";
/// Most sessions of a user; a new one ends the oldest.
const SESSIONS_PER_USER_MAX: i64 = 64;
/// A use is written down when the last one that was is so old, or a quarter of the time that a session may be idle.
const TOUCH_MS: i64 = 60_000;

/// A session to be opened.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Whose.
    pub user: UserId,
    /// From where.
    pub address: String,
    /// It ends when it was not used for so long …
    pub idle: Duration,
    /// … and so long after its beginning in any case.
    pub absolute: Duration,
}

/// A session that was opened, with its token for the only time.
#[derive(Debug)]
pub struct IssuedSession {
    /// The session.
    pub session: SessionRecord,
    /// The secret.
    pub token: Token,
}

/// A session, whose it is, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The session itself.
    pub line: SessionLine,
    /// Whose.
    pub user: UserRecord,
    /// What the user is, and in which organisations.
    pub memberships: Vec<Membership>,
}

/// A session as its user sees it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLine {
    /// Names it without its token.
    pub id: SessionId,
    /// From where it was opened.
    pub address: String,
    /// When it was opened.
    pub created: EpochMs,
    /// When it was last used, to the minute.
    pub used: EpochMs,
    /// When it ends at the latest.
    pub ends: EpochMs,
}

const COLUMNS: &str = "s.id AS session, s.address, s.created_ms AS opened_ms, s.used_ms, s.idle_ms, s.ends_ms";
/// Of a session that has not ended by `$2`.
const IS_RUNNING: &str = "s.ends_ms > $2 AND s.used_ms + s.idle_ms > $2";

impl Store {
    /// Opens a session of a user who has just shown who they are. The first one makes their personal organisation.
    pub async fn create_session(&self, new: &NewSession, by: impl Into<By>) -> Result<IssuedSession, StoreError> {
        let by = by.into();
        let now = by.now;
        let (mut id, mut secret) = ([0; 10], [0; 32]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        let (id, token) = (SessionId(bits(now, id)), Token::issue(SESSION_PREFIX, secret));
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (idle, ends) = (milliseconds(new.idle), now.plus(milliseconds(new.absolute)));
        let mut transaction = self.database.change().await?;
        let user = with_personal_organisation(&mut transaction, new.user, &by).await?;
        make_room(&mut transaction, new.user, now).await?;
        sqlx::query(
            "INSERT INTO sessions (id, user_id, lookup, address, created_ms, used_ms, idle_ms, ends_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(id.to_string())
        .bind(new.user.to_string())
        .bind(&self.pepper.lookup(token.reveal()).0[..])
        .bind(&*new.address)
        .bind(now.0)
        .bind(now.0)
        .bind(idle)
        .bind(ends.0)
        .execute(&mut *transaction)
        .await?;
        record(&mut transaction, "session.create", id.to_string(), &by).await?;
        let memberships = members::of_user(&mut transaction, new.user).await?;
        transaction.commit().await?;
        let line = SessionLine { id, address: new.address.clone(), created: now, used: now, ends };
        Ok(IssuedSession { session: SessionRecord { line, user, memberships }, token })
    }

    /// The session of a token, if it goes on and its user may sign in. Writes its use down, once a minute.
    pub async fn session(&self, lookup: Lookup, now: EpochMs) -> Result<Option<SessionRecord>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS}, {} FROM sessions s JOIN users u ON u.id = s.user_id \
             WHERE s.lookup = $1 AND {IS_RUNNING} AND u.disabled_ms IS NULL",
            users::COLUMNS
        );
        let mut reader = self.database.reader.acquire().await?;
        let row =
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(&lookup.0[..]).bind(now.0).fetch_optional(&mut *reader).await?;
        let Some(row) = row else { return Ok(None) };
        let (line, user) = (read_line(&row)?, users::read_row(&row)?);
        let memberships = members::of_user(&mut reader, user.id).await?;
        drop(reader);
        let idle: i64 = row.try_get("idle_ms")?;
        if now.0 - line.used.0 >= TOUCH_MS.min(idle / 4) {
            sqlx::query("UPDATE sessions SET used_ms = $1 WHERE id = $2 AND used_ms < $3")
                .bind(now.0)
                .bind(line.id.to_string())
                .bind(now.0)
                .execute(&self.database.writer)
                .await?;
        }
        Ok(Some(SessionRecord { line, user, memberships }))
    }

    /// A user's running sessions, the latest first.
    pub async fn sessions(&self, user: UserId, now: EpochMs) -> Result<Vec<SessionLine>, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM sessions s WHERE s.user_id = $1 AND {IS_RUNNING} ORDER BY s.id DESC LIMIT {SESSIONS_PER_USER_MAX}"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(user.to_string())
            .bind(now.0)
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_line).collect()
    }

    /// Ends one session of a user.
    pub async fn end_session(&self, user: UserId, id: SessionId, by: impl Into<By>) -> Result<(), StoreError> {
        let mut transaction = self.database.change().await?;
        let ended = sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id = $2")
            .bind(user.to_string())
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        if ended.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("session {id}")));
        }
        record(&mut transaction, "session.end", id.to_string(), &by.into()).await?;
        Ok(transaction.commit().await?)
    }

    /// Ends a user's sessions, all but one.
    pub async fn end_sessions(
        &self,
        user: UserId,
        but: Option<SessionId>,
        by: impl Into<By>,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.database.change().await?;
        let ended = end_all(&mut transaction, user, but).await?;
        record(&mut transaction, "session.end_all", user.to_string(), &by.into()).await?;
        transaction.commit().await?;
        Ok(ended)
    }
}

/// Ends a user's sessions, all but one.
pub(super) async fn end_all(
    connection: &mut Connection,
    user: UserId,
    but: Option<SessionId>,
) -> Result<u64, StoreError> {
    let ended = sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id <> $2")
        .bind(user.to_string())
        .bind(but.map(|id| id.to_string()).unwrap_or_default())
        .execute(connection)
        .await?;
    Ok(ended.rows_affected())
}

/// The user, who has an organisation of their own from now on.
async fn with_personal_organisation(
    connection: &mut Connection,
    id: UserId,
    by: &By,
) -> Result<UserRecord, StoreError> {
    let user = users::by_id(connection, id).await?;
    if user.personal_org.is_some() {
        return Ok(user);
    }
    let org = organisations::insert(connection, user.email.as_str(), &[], by).await?;
    members::insert(connection, org, id, Role::Owner, by).await?;
    sqlx::query("UPDATE users SET personal_org = $1 WHERE id = $2")
        .bind(org.to_string())
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(UserRecord { personal_org: Some(org), ..user })
}

async fn record(connection: &mut Connection, action: &'static str, object: String, by: &By) -> Result<(), StoreError> {
    trail::record(connection, by, Entry { org: None, action, object, before: None, after: None }).await
}

/// Removes sessions that have ended, and of the user's the oldest beyond those that they may have beside another.
async fn make_room(connection: &mut Connection, user: UserId, now: EpochMs) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE ends_ms <= $1").bind(now.0).execute(&mut *connection).await?;
    sqlx::query(
        "DELETE FROM sessions WHERE user_id = $1 AND id IN \
         (SELECT id FROM sessions WHERE user_id = $2 ORDER BY id DESC LIMIT 1000 OFFSET $3)",
    )
    .bind(user.to_string())
    .bind(user.to_string())
    .bind(SESSIONS_PER_USER_MAX - 1)
    .execute(connection)
    .await?;
    Ok(())
}

fn read_line(row: &Rows) -> Result<SessionLine, StoreError> {
    Ok(SessionLine {
        id: parsed(row, "session")?,
        address: row.try_get("address")?,
        created: EpochMs(row.try_get("opened_ms")?),
        used: EpochMs(row.try_get("used_ms")?),
        ends: EpochMs(row.try_get("ends_ms")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_user};
    use crate::store::users::UserChange;

    const MINUTE: i64 = 60_000;

    async fn user(books: &Books) -> UserId {
        books.store.create_user(&new_user("ada@example.com"), NOW).await.expect("made").id
    }

    async fn open(books: &Books, user: UserId, at: EpochMs) -> IssuedSession {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let new = NewSession { user, address: "192.0.2.1".to_owned(), idle: minutes(30), absolute: minutes(60) };
        books.store.create_session(&new, at).await.expect("opened")
    }

    async fn read(books: &Books, session: &IssuedSession, at: EpochMs) -> Option<SessionRecord> {
        let lookup = books.store.pepper().lookup(session.token.reveal());
        books.store.session(lookup, at).await.expect("read")
    }

    #[tokio::test]
    async fn the_first_session_makes_a_personal_organisation() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let (first, second) = (open(&books, ada, NOW).await, open(&books, ada, NOW).await);
        let org = first.session.user.personal_org.expect("an organisation");
        let [membership] = &first.session.memberships[..] else { panic!("one membership") };
        assert_eq!((membership.org, membership.role, &*membership.org_name), (org, Role::Owner, "ada@example.com"));
        assert_eq!(second.session.user, first.session.user);
        let read = read(&books, &first, NOW).await.expect("the session");
        assert_eq!(read, first.session);
        assert_eq!(books.store.organisation(org).await.expect("read").balance(), filters::money::NanoUsd::ZERO);
    }

    #[tokio::test]
    async fn a_session_ends_when_it_is_idle_and_at_its_end() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let (idle, used) = (open(&books, ada, NOW).await, open(&books, ada, NOW).await);
        assert!(read(&books, &used, NOW.plus(29 * MINUTE)).await.is_some());
        assert!(read(&books, &idle, NOW.plus(30 * MINUTE)).await.is_none());
        assert!(read(&books, &used, NOW.plus(58 * MINUTE)).await.is_some());
        assert_eq!(books.store.sessions(ada, NOW.plus(58 * MINUTE)).await.expect("listed").len(), 1);
        assert!(read(&books, &used, NOW.plus(60 * MINUTE)).await.is_none());
    }

    #[tokio::test]
    async fn a_use_is_written_down_once_a_minute() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let session = open(&books, ada, NOW).await;
        let mut used = Vec::new();
        for second in [1, 59, 60, 61, 119, 120] {
            let at = NOW.plus(second * 1_000);
            read(&books, &session, at).await.expect("the session");
            used.push((books.store.sessions(ada, at).await.expect("listed")[0].used.0 - NOW.0) / 1_000);
        }
        assert_eq!(used, [0, 0, 60, 60, 60, 120]);
    }

    #[tokio::test]
    async fn sessions_are_revoked_one_by_one_or_together() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let mut sessions = Vec::new();
        for at in 0..4 {
            sessions.push(open(&books, ada, NOW.plus(at)).await);
        }
        let id = sessions[0].session.line.id;
        books.store.end_session(ada, id, NOW).await.expect("ended");
        assert!(read(&books, &sessions[0], NOW).await.is_none());
        for (user, id) in [(ada, id), (UserId(1), sessions[1].session.line.id)] {
            let again = books.store.end_session(user, id, NOW).await;
            assert!(matches!(again, Err(StoreError::NotFound(_))));
        }
        let kept = sessions[2].session.line.id;
        assert_eq!(books.store.end_sessions(ada, Some(kept), NOW).await.expect("ended"), 2);
        let left = books.store.sessions(ada, NOW).await.expect("listed");
        assert_eq!(left.iter().map(|line| line.id).collect::<Vec<_>>(), [kept]);
    }

    #[tokio::test]
    async fn another_password_and_being_disabled_sign_out() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let changes = [
            UserChange { password: new_user("x@y").password, ..UserChange::default() },
            UserChange { is_disabled: Some(true), ..UserChange::default() },
        ];
        for change in changes {
            let session = open(&books, ada, NOW).await;
            books.store.change_user(ada, &change, NOW).await.expect("changed");
            assert!(read(&books, &session, NOW).await.is_none());
        }
    }

    #[tokio::test]
    async fn a_user_has_a_bounded_number_of_sessions() {
        let books = Books::open().await;
        let ada = user(&books).await;
        let first = open(&books, ada, NOW).await;
        for at in 1..=SESSIONS_PER_USER_MAX {
            open(&books, ada, NOW.plus(at)).await;
        }
        assert!(read(&books, &first, NOW).await.is_none());
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM sessions").fetch_one(&books.store.database.reader).await;
        assert_eq!(count.unwrap_or(0_i64), SESSIONS_PER_USER_MAX);
    }
}
