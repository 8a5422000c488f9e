//! An organisation's keys by page: filtered, searched and in order.

use super::{KeyRecord, select, with_limits};
use crate::store::engine::On;
use crate::store::{Engine, Store, StoreError};
use filters::id::{KeyId, OrgId, ProjectId};
use filters::time::EpochMs;
use sqlx::QueryBuilder;

/// Which keys are listed.
#[derive(Clone, Debug)]
pub struct KeyFilter<'a> {
    /// Whose.
    pub org: OrgId,
    /// Of one project.
    pub project: Option<ProjectId>,
    /// Of one status: live, disabled, expired or archived.
    pub state: Option<&'a str>,
    /// In whose name or description this stands, in large or small letters, or whose identifier it is.
    pub text: Option<&'a str>,
    /// By what they are ordered.
    pub order: KeyOrder,
    /// Whether the highest come first.
    pub is_descending: bool,
    /// Only those that come after this place.
    pub after: Option<KeyPlace>,
    /// Most of them.
    pub limit: usize,
}

/// What keys are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// When they were made.
    Created,
    /// What they are called, in large or small letters.
    Name,
    /// When they were last seen.
    LastUsed,
}

/// A key's place in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// What it is ordered by.
    pub at: String,
    /// The key.
    pub id: KeyId,
}

impl KeyFilter<'_> {
    /// All keys of an organisation, the newest first.
    #[must_use]
    pub fn of(org: OrgId, limit: usize) -> Self {
        let (order, is_descending) = (KeyOrder::Created, true);
        Self { org, project: None, state: None, text: None, order, is_descending, after: None, limit }
    }
}

impl KeyOrder {
    fn column(self) -> &'static str {
        match self {
            Self::Created => "k.id",
            Self::Name => "COALESCE(k.folded, LOWER(k.name) || ' ')",
            Self::LastUsed => {
                "(CASE WHEN COALESCE(l.at_ms, 0) > COALESCE(k.used_ms, 0) THEN l.at_ms ELSE COALESCE(k.used_ms, 0) END)"
            }
        }
    }

    /// A key's place in the order.
    #[must_use]
    pub fn place(self, key: &KeyRecord) -> KeyPlace {
        let at = match self {
            Self::Created => key.id.to_string(),
            Self::Name => super::folded(&key.name, &key.description),
            Self::LastUsed => key.last_used.map_or(0, |at| at.0).to_string(),
        };
        KeyPlace { at, id: key.id }
    }
}

impl Store {
    /// A page of an organisation's keys.
    pub async fn list_keys(&self, filter: &KeyFilter<'_>, now: EpochMs) -> Result<Vec<KeyRecord>, StoreError> {
        let mut query = QueryBuilder::<Engine>::new(select());
        push_conditions(&mut query, filter, now);
        push_order(&mut query, filter);
        let mut snapshot = self.database.snapshot().await?;
        let rows = query.on(&snapshot).fetch_all(&mut *snapshot).await?;
        with_limits(&mut snapshot, rows, now).await
    }
}

fn push_conditions(query: &mut QueryBuilder<Engine>, filter: &KeyFilter<'_>, now: EpochMs) {
    query.push(" WHERE k.deleted_ms IS NULL AND k.org = ").push_bind(filter.org.to_string());
    if let Some(project) = filter.project {
        query.push(" AND k.project = ").push_bind(project.to_string());
    }
    match filter.state {
        None => {}
        Some("expired") => {
            query.push(" AND k.status = 'live' AND k.expires_ms <= ").push_bind(now.0);
        }
        Some("live") => {
            query.push(" AND k.status = 'live' AND (k.expires_ms IS NULL OR k.expires_ms > ").push_bind(now.0);
            query.push(")");
        }
        Some(state) => {
            query.push(" AND k.status = ").push_bind(state.to_owned());
        }
    }
    if let Some(text) = filter.text {
        query.push(" AND (COALESCE(k.folded, LOWER(k.name)) LIKE ").push_bind(contains(text));
        query.push(" ESCAPE '!' OR k.id = ").push_bind(text.to_owned()).push(")");
    }
}

fn push_order(query: &mut QueryBuilder<Engine>, filter: &KeyFilter<'_>) {
    let (beyond, direction) = if filter.is_descending { (" < ", " DESC") } else { (" > ", " ASC") };
    let column = filter.order.column();
    if let Some(place) = &filter.after {
        let id = place.id.to_string();
        match filter.order {
            KeyOrder::Created => {
                query.push(" AND k.id").push(beyond).push_bind(id);
            }
            KeyOrder::Name | KeyOrder::LastUsed => {
                query.push(" AND (").push(column).push(", k.id)").push(beyond).push("(");
                if filter.order == KeyOrder::Name {
                    query.push_bind(place.at.clone());
                } else {
                    query.push_bind(place.at.parse().unwrap_or(0_i64));
                }
                query.push(", ").push_bind(id).push(")");
            }
        }
    }
    query.push(" ORDER BY ").push(column).push(direction);
    if filter.order != KeyOrder::Created {
        query.push(", k.id").push(direction);
    }
    query.push(" LIMIT ").push_bind(i64::try_from(filter.limit).unwrap_or(i64::MAX));
}

/// The pattern of texts that contain another, whatever that is: nothing in it stands for anything else.
fn contains(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern + "%"
}
