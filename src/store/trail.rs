//! The audit trail: who changed which record, when and from where. An entry stands in the transaction of the change itself.

mod reading;

pub use reading::{TrailFilter, TrailRecord};

use super::{Connection, StoreError};
use filters::id::OrgId;
use filters::time::EpochMs;
use serde::Serialize;
use std::net::IpAddr;

/// What kind of actor changes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// Somebody with a shell on the machine of the books.
    Local,
    /// The holder of an operator's token.
    Operator,
    /// A person who has signed in.
    User,
    /// A service key of an organisation.
    Key,
    /// Tollgate itself: a job that runs by time.
    System,
}

impl ActorKind {
    /// The name in the trail.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Operator => "operator",
            Self::User => "user",
            Self::Key => "key",
            Self::System => "system",
        }
    }
}

/// Who changes a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// What kind of actor it is.
    pub kind: ActorKind,
    /// Its identifier; empty where it has none.
    pub id: String,
    /// The role in which it acts; empty where there is none.
    pub role: &'static str,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The request that asked for it; empty where none did.
    pub request_id: String,
}

impl Actor {
    /// One that nobody asked over the network.
    #[must_use]
    pub fn without_request(kind: ActorKind) -> Self {
        Self { kind, id: String::new(), role: "", address: None, request_id: String::new() }
    }
}

/// Who changes a record, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// When.
    pub now: EpochMs,
}

impl By {
    /// A job of Tollgate's own.
    #[must_use]
    pub fn system(now: EpochMs) -> Self {
        Self { actor: Actor::without_request(ActorKind::System), now }
    }
}

/// A change at a moment without more is one of the local command line.
impl From<EpochMs> for By {
    fn from(now: EpochMs) -> Self {
        Self { actor: Actor::without_request(ActorKind::Local), now }
    }
}

/// What was changed.
pub(super) struct Entry<'a> {
    /// Whose record it is; none: no organisation's.
    pub(super) org: Option<OrgId>,
    /// What was done, such as `key.create`.
    pub(super) action: &'static str,
    /// The identifier of the record.
    pub(super) object: String,
    /// What the record was, as JSON without any secret.
    pub(super) before: Option<&'a str>,
    /// What it is now.
    pub(super) after: Option<&'a str>,
}

/// Writes a change down, in the transaction that makes it.
pub(super) async fn record(connection: &mut Connection, by: &By, entry: Entry<'_>) -> Result<(), StoreError> {
    let Actor { kind, id, role, address, request_id } = &by.actor;
    sqlx::query(
        "INSERT INTO trail (org, at_ms, actor_kind, actor, role, address, request_id, action, object, before_json, after_json) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(entry.org.map(|org| org.to_string()))
    .bind(by.now.0)
    .bind(kind.name())
    .bind(&**id)
    .bind(*role)
    .bind(address.map(|address| address.to_string()).unwrap_or_default())
    .bind(&**request_id)
    .bind(entry.action)
    .bind(entry.object)
    .bind(entry.before)
    .bind(entry.after)
    .execute(connection)
    .await?;
    Ok(())
}

/// What a record was or is, for an [`Entry`].
pub(super) fn json(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}
