//! Reads the trail: one page of an organisation's, or of all.

use crate::store::engine::On;
use crate::store::{Engine, Rows, Store, StoreError, parsed};
use filters::id::OrgId;
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};

/// Which entries are read. What is `None` lets every entry through.
#[derive(Clone, Debug, Default)]
pub struct TrailFilter {
    /// Of which organisation.
    pub org: Option<OrgId>,
    /// What was done, such as `key.create`.
    pub action: Option<String>,
    /// The identifier of who did it.
    pub actor: Option<String>,
    /// The identifier of what was changed.
    pub object: Option<String>,
    /// The first moment.
    pub from: Option<EpochMs>,
    /// The first moment that does not count any more.
    pub to: Option<EpochMs>,
}

/// An entry of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailRecord {
    /// Its number; later ones are larger.
    pub number: i64,
    /// The organisation that it is about, if it is about one.
    pub org: Option<OrgId>,
    /// When it was done.
    pub at: EpochMs,
    /// local, operator, user, key or system.
    pub actor_kind: String,
    /// The identifier of who did it; empty where there is none.
    pub actor: String,
    /// The role in which it was done; empty where there is none.
    pub role: String,
    /// From where it was asked for; empty where nobody asked over the network.
    pub address: String,
    /// The request that asked for it.
    pub request_id: String,
    /// What was done.
    pub action: String,
    /// The identifier of what was changed.
    pub object: String,
    /// What it was, JSON.
    pub before: Option<String>,
    /// What it is, JSON.
    pub after: Option<String>,
}

impl Store {
    /// Entries that pass a filter, the latest first, those before `before`, at most `limit`.
    pub async fn trail(
        &self,
        filter: &TrailFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<TrailRecord>, StoreError> {
        let mut query = QueryBuilder::<Engine>::new(
            "SELECT id, org, at_ms, actor_kind, actor, role, address, request_id, action, object, before_json, after_json \
             FROM trail WHERE id < ",
        );
        query.push_bind(before.unwrap_or(i64::MAX));
        if let Some(org) = filter.org {
            query.push(" AND org = ").push_bind(org.to_string());
        }
        for (condition, text) in
            [(" AND action = ", &filter.action), (" AND actor = ", &filter.actor), (" AND object = ", &filter.object)]
        {
            if let Some(text) = text {
                query.push(condition).push_bind(&**text);
            }
        }
        if let Some(from) = filter.from {
            query.push(" AND at_ms >= ").push_bind(from.0);
        }
        if let Some(to) = filter.to {
            query.push(" AND at_ms < ").push_bind(to.0);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit));
        let mut reader = self.database.reader.acquire().await?;
        let rows = query.on(&reader).fetch_all(&mut *reader).await?;
        rows.iter().map(read_row).collect()
    }
}

fn read_row(row: &Rows) -> Result<TrailRecord, StoreError> {
    Ok(TrailRecord {
        number: row.try_get("id")?,
        org: match row.try_get::<Option<&str>, _>("org")? {
            Some(_) => Some(parsed(row, "org")?),
            None => None,
        },
        at: EpochMs(row.try_get("at_ms")?),
        actor_kind: row.try_get("actor_kind")?,
        actor: row.try_get("actor")?,
        role: row.try_get("role")?,
        address: row.try_get("address")?,
        request_id: row.try_get("request_id")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        before: row.try_get("before_json")?,
        after: row.try_get("after_json")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW};
    use crate::store::trail::{Actor, ActorKind, By};
    use sqlx::AssertSqlSafe;

    /// Actions of the entries that pass a filter.
    async fn actions(books: &Books, filter: &TrailFilter) -> Vec<String> {
        let entries = books.store.trail(filter, None, 100).await.expect("read");
        entries.into_iter().map(|entry| entry.action).collect()
    }

    #[tokio::test]
    async fn changes_are_found_by_what_they_are() {
        let books = Books::open().await;
        let actor = Actor { id: "user_1".to_owned(), role: "admin", ..Actor::without_request(ActorKind::User) };
        let by = By { actor, now: NOW.plus(5) };
        books.store.rename_organisation(books.org, "Acme & Sons", by).await.expect("renamed");
        books.store.suspend_organisation(books.org, true, NOW.plus(9)).await.expect("suspended");
        books.store.create_organisation("Other", NOW.plus(9)).await.expect("made");
        let whole = TrailFilter { org: Some(books.org), ..TrailFilter::default() };
        let (from, to) = (Some(NOW.plus(5)), Some(NOW.plus(9)));
        assert_eq!(actions(&books, &TrailFilter { from, ..whole.clone() }).await, ["org.suspend", "org.change"]);
        let narrow = [
            TrailFilter { from, to, ..whole.clone() },
            TrailFilter { actor: Some("user_1".to_owned()), ..whole.clone() },
            TrailFilter { action: Some("org.change".to_owned()), ..TrailFilter::default() },
        ];
        for filter in narrow {
            assert_eq!(actions(&books, &filter).await, ["org.change"], "{filter:?}");
        }
        let object = TrailFilter { object: Some(books.org.to_string()), ..TrailFilter::default() };
        assert!(actions(&books, &object).await.ends_with(&["org.create".to_owned()]));
        let first = books.store.trail(&whole, None, 1).await.expect("read").remove(0);
        let second = books.store.trail(&whole, Some(first.number), 1).await.expect("read").remove(0);
        assert_eq!((&*first.action, &*second.action, &*second.role), ("org.suspend", "org.change", "admin"));
        assert_eq!(second.before.as_deref(), Some(r#"{"name":"Acme"}"#));
        assert_eq!(second.after.as_deref(), Some(r#"{"name":"Acme & Sons"}"#));
    }

    #[tokio::test]
    async fn entries_are_neither_changed_nor_deleted() {
        let books = Books::open().await;
        let held = books.store.trail(&TrailFilter::default(), None, 100).await.expect("read");
        assert!(!held.is_empty());
        for statement in ["UPDATE trail SET actor = 'nobody'", "DELETE FROM trail"] {
            let done = sqlx::query(AssertSqlSafe(statement)).execute(&books.store.database.writer).await;
            let cause = done.expect_err("refused").to_string();
            assert!(cause.contains("rows are only added here"), "{cause}");
        }
        assert_eq!(books.store.trail(&TrailFilter::default(), None, 100).await.expect("read"), held);
    }
}
