//! The SQL store: who may call, with what money, and the books of what was called. In embedded mode it is SQLite, where several
//! nodes share it PostgreSQL.
//!
//! - `engine.rs`: the two engines, and what differs between them
//! - `organisations.rs`, `projects.rs`, `keys.rs`: records that people make and change; `quotas.rs` their quotas as rows,
//!   `limits.rs` what sets and changes them
//! - `operators.rs`: who may do everything; `trail.rs`: who changed what
//! - `users.rs`, `passwords.rs`, `sessions.rs`, `sign_in.rs`, `members.rs`, `invitations.rs`: who people are, and what they are
//!   in organisations
//! - `changes.rs`: what tells a running gateway that another process changed a record
//! - `key_cache.rs`: keys in memory, so that the hot path asks nobody; `loader.rs` reads them, `refresh.rs`
//!   keeps them true, `live_quotas.rs` holds their atomics; `leases.rs` brings them credit, `nodes.rs` knows who may ask;
//!   `batches.rs`: those who wait for the same
//! - `recall.rs`: keys that other nodes have read lately
//! - `redis.rs`: what nodes share beside the books, and may lose
//! - `ledger.rs`: calls are written down here, exactly once, and summed up; `usage.rs` reads the sums
//! - `credits.rs`: what organisations have paid in, were given and were charged; `statements.rs` tells it by month
//! - `retention.rs`: lets old rows go, and keeps their sums; `bookkeeper.rs` does by time what nobody asks for
//! - `history.rs`: lists the calls of a key
//! - `objects.rs`: whose the objects are that providers store
//! - `idempotency.rs`: requests that are carried out once, however often they are sent
//! - `requests.rs`: notes of requests that cost nothing
//! - `outbox.rs`: what somebody is to be told, written where it happens; `webhooks.rs`: whom, `deliveries.rs`: what is on its way,
//!   `notices.rs`: what no request brings about
//! - `audit.rs`: recomputes the books; `backup.rs` copies them and puts them back, `reprice.rs` computes them at
//!   other prices
//! - `pepper.rs`: the secrets without which the stored lookup ids are of no use
//! - `vault.rs`: secrets that must be had back, sealed under master keys; `credentials.rs`: those that organisations have at providers
//! - `migrations/`: the tables

pub mod audit;
pub mod backup;
mod batches;
pub mod bookkeeper;
mod changes;
pub mod credentials;
pub mod credits;
pub mod deliveries;
mod engine;
#[cfg(test)]
mod fixture;
pub mod history;
pub mod idempotency;
pub mod invitations;
pub mod journal;
pub mod key_cache;
pub mod keys;
pub mod leases;
pub mod ledger;
pub mod limits;
mod live_quotas;
mod loader;
pub mod members;
pub mod nodes;
pub mod notices;
pub mod objects;
pub mod operators;
pub mod organisations;
pub mod outbox;
pub mod passwords;
mod pepper;
pub mod projects;
pub mod quotas;
mod recall;
pub mod redis;
mod refresh;
pub mod reprice;
pub mod requests;
pub mod retention;
pub mod sessions;
pub mod sign_in;
pub mod statements;
pub mod trail;
pub mod usage;
pub mod users;
pub mod vault;
pub mod webhooks;

use crate::config::StorePlace;
use engine::Database;
use filters::key::Pepper;
use ledger::{LedgerSettings, LedgerState};
use pepper::{IfNone, Peppers};
use sqlx::{Encode, QueryBuilder, Row, Type};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use vault::Vault;

/// Either engine. Statements are written for both: `$n`, `BIGINT` and `TEXT`, `ON CONFLICT`, sums cast to `BIGINT`.
type Engine = sqlx::Any;
type Connection = sqlx::AnyConnection;
type Rows = sqlx::any::AnyRow;
type Transaction = sqlx::Transaction<'static, Engine>;

/// Most items of a list in a statement.
const LIST_MAX: usize = 256;

/// Why the store can't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the data directory.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The pepper is missing, short or another one.
    #[error("{}: {problem}", path.display())]
    Pepper {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The tables can't be brought up to date.
    #[error("the store's tables can't be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A backup can't be made or put back.
    #[error("{}: {problem}", path.display())]
    Backup {
        /// What was looked at.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The engine failed.
    #[error("the store failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// The server did not answer in time; what it was asked may be done or not.
    #[error("the store did not answer within {} ms", .0.as_millis())]
    TooLate(Duration),
    /// A row that this program can't have written.
    #[error("the store holds a {column} that can't be read: {content:?}")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// What is there.
        content: String,
    },
    /// A key that has been used can't be deleted.
    #[error("This API key has call history and cannot be deleted. Archive it instead.")]
    KeyHasHistory,
    /// A key that was never used can't be archived.
    #[error("This API key was never used: delete it instead of archiving it.")]
    KeyNeverUsed,
    /// Scopes of both kinds of keys.
    #[error(
        "A key calls models (model:invoke, inference:read, inference:write) or administers the organisation (keys:read, \
         keys:write, admin), never both: make two keys."
    )]
    ScopeMix,
    /// Nobody has this identifier.
    #[error("there is no {0}; the `list` command shows what there is")]
    NotFound(String),
    /// The change would break a rule.
    #[error("{0}")]
    Refused(&'static str),
    /// A client's name for a request was another request's.
    #[error("this Idempotency-Key was sent with another request in the last 24 hours: send another key")]
    NameReused,
    /// An operator has forgotten this node.
    #[error(
        "the node {0} was forgotten: what it held is booked as spent or was given to others, and it gets no more; stop its \
         process, and start it again to ship its journal and go on as a new node"
    )]
    Forgotten(String),
    /// What was read has changed before it was decided upon.
    #[error("another transaction changed the same rows")]
    Moved,
    /// A secret can't be sealed or opened, or the master keys for it are not there.
    #[error("{0}")]
    Sealing(String),
    /// The system has no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// The store of one data directory, or the one that several nodes share. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    pepper: Pepper,
    peppers: Peppers,
    ledger: Arc<LedgerState>,
    objects: Arc<objects::Known>,
    vault: Arc<Vault>,
}

impl Store {
    /// Opens the store of a data directory, making what is missing. Other processes may have it open at the same time.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Self::of(&StorePlace::embedded(data_dir.to_owned())).await
    }

    /// Opens the store that a configuration names. Where nodes share a server, each must have the same pepper, so none is made.
    pub async fn of(books: &StorePlace) -> Result<Self, StoreError> {
        let (database, if_none) = match &books.server {
            Some(server) => (Database::connect(server).await?, IfNone::Refuse),
            None => (Database::open(&books.data_dir).await?, IfNone::Make),
        };
        let peppers = pepper::open(&books.pepper, if_none, &database.writer).await?;
        let vault = Arc::new(vault::open(&books.master_keys, if_none, &database.writer).await?);
        let (ledger, objects) = (Arc::default(), Arc::default());
        Ok(Self { database, pepper: peppers.list.clone(), peppers, ledger, objects, vault })
    }

    /// The same store, whose sums come on the books as these settings say.
    #[must_use]
    pub fn with_ledger_settings(self, settings: LedgerSettings) -> Self {
        Self { ledger: Arc::new(LedgerState::new(settings)), ..self }
    }

    /// The secrets that tokens are looked up with.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// The secret that names this store, as long as it is one of those that tokens are looked up with: nodes that have got a new one
    /// already and nodes that have not meet in what is named after it.
    #[must_use]
    pub fn first_pepper(&self) -> &Pepper {
        &self.peppers.first
    }

    /// Whether other nodes may share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.database.is_shared()
    }

    /// Finishes what is queued and closes every connection.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

fn make_private_directory(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| file_error(path, cause))
}

async fn hold_lock(path: &Path) -> Result<std::fs::File, StoreError> {
    let owned = path.to_owned();
    let lock = move || {
        let file = std::fs::File::create(owned)?;
        file.lock()?;
        Ok(file)
    };
    tokio::task::spawn_blocking(lock)
        .await
        .unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)))
        .map_err(|cause| file_error(path, cause))
}

fn file_error(path: &Path, cause: std::io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), cause }
}

/// Reads a column whose text has a form of its own, such as an identifier.
fn parsed<T: FromStr>(row: &Rows, column: &'static str) -> Result<T, StoreError> {
    let content: String = row.try_get(column)?;
    content.parse().map_err(|_| StoreError::Corrupt { column, content })
}

/// Adds `(…)` with the items, at most [`LIST_MAX`]. Lists come in few lengths, filled up with the last item, so that a handful
/// of prepared statements serves every batch.
fn push_list<'a, T, B>(query: &mut QueryBuilder<Engine>, items: &'a [T], bound: impl Fn(&'a T) -> B)
where
    B: Encode<'a, Engine> + Type<Engine>,
{
    let length = [1, 16, 64, LIST_MAX].into_iter().find(|length| items.len() <= *length).unwrap_or(items.len());
    query.push("(");
    let mut list = query.separated(", ");
    for at in 0..length {
        if let Some(item) = items.get(at).or_else(|| items.last()) {
            list.push_bind(bound(item));
        }
    }
    query.push(")");
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::AnyPool;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

    #[tokio::test]
    async fn two_processes_may_open_an_empty_directory_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let opened = tokio::join!(Store::open(dir.path()), Store::open(dir.path()), Store::open(dir.path()));
        for store in [opened.0, opened.1, opened.2] {
            store.expect("a store").close().await;
        }
    }

    /// Rows of the first migration: an organisation of $10, a key of $5 and 60 requests a minute, another without limits.
    const FIRST_ROWS: [&str; 6] = [
        "INSERT INTO organisations (id, name, created_ms) VALUES ('org_00000000000000000000000001', 'Acme', 1)",
        "INSERT INTO credits (org, amount_nano, kind, reason, created_ms) \
         VALUES ('org_00000000000000000000000001', 10000000000, 'topup', '', 1)",
        "INSERT INTO keys (id, org, name, lookup, fingerprint, status, scopes, models, providers, created_ms) \
         VALUES ('key_00000000000000000000000002', 'org_00000000000000000000000001', 'a', \
         x'0000000000000000000000000000000000000000000000000000000000000001', 'f', 'live', 'model:invoke', '', '', 1), \
         ('key_00000000000000000000000003', 'org_00000000000000000000000001', 'b', \
         x'0000000000000000000000000000000000000000000000000000000000000002', 'f', 'live', 'model:invoke', '', '', 1)",
        "INSERT INTO quotas (id, owner, kind, window_ms, limit_value) VALUES \
         (7, 'org_00000000000000000000000001', 'balance', 0, 10000000000), \
         (8, 'key_00000000000000000000000002', 'spend', 0, 5000000000), \
         (9, 'key_00000000000000000000000002', 'requests', 60000, 60), \
         (11, 'key_00000000000000000000000003', 'spend', 0, 9223372036854775807), \
         (12, 'key_00000000000000000000000003', 'concurrency', 0, 3)",
        "INSERT INTO spent (quota, window_start_ms, amount) VALUES (7, 0, 30), (8, 0, 10), (11, 0, 20)",
        "INSERT INTO changes (kind, object, at_ms) VALUES ('key', 'key_00000000000000000000000002', 1)",
    ];

    #[tokio::test]
    async fn a_store_of_the_first_migration_keeps_its_quotas() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = SqliteConnectOptions::new().filename(dir.path().join("tollgate.db")).create_if_missing(true);
        let old = SqlitePool::connect_with(options).await.expect("a database");
        engine::first_migrations(1).run(&old).await.expect("migrated");
        for statement in FIRST_ROWS {
            sqlx::query(statement).execute(&old).await.expect(statement);
        }
        old.close().await;
        let store = Store::open(dir.path()).await.expect("brought up to date");
        let now = filters::time::EpochMs(1_800_000_000_000);
        let org = store.organisations(None, 9).await.expect("read").remove(0);
        assert_eq!((org.credits.0, org.spent.0), (10_000_000_000, 30));
        let keys = store.keys(org.id, None, now).await.expect("read");
        let read: Vec<_> = keys.iter().flat_map(|key| &key.limits).collect();
        let facts: Vec<_> = read.iter().map(|row| (row.id.0, row.limit, row.window.name(), row.spent)).collect();
        let total = || "total".to_owned();
        assert_eq!(
            facts,
            [
                (8, 5_000_000_000, total(), 10),
                (9, 60, "calendar minute UTC".to_owned(), 0),
                (11, i64::MAX, total(), 20),
                (12, 3, total(), 0)
            ]
        );
        assert!(read.iter().all(|row| row.is_plain() && !row.is_strict && row.increase.is_none()));
        assert_eq!(read[0].thresholds, quotas::Thresholds::usual());
        assert_eq!(keys[0].project, None);
        let history: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM limit_history")
            .fetch_one(&store.database.reader)
            .await
            .expect("a number");
        assert_eq!(history, 5);
        // Numbers are never used twice, so new quotas go on after the old ones.
        let changed = limits::LimitChange::of(quotas::QuotaKind::Tokens, limits::Amount::Of(5));
        let owner = limits::Owner::Organisation(org.id);
        let limits = store.change_limits(owner, &[changed], now).await.expect("set");
        assert!(limits[1].id.0 > 12, "{limits:?}");
        let audit = store.audit().await.expect("audited");
        assert!(audit.findings.iter().all(|finding| finding.invariant != audit::Invariant::RowsBelong), "{audit:?}");
    }

    #[tokio::test]
    async fn a_commit_is_synced_and_readers_cannot_write() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        let number = |pool: AnyPool, sql: &'static str| async move {
            let read: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.expect(sql);
            read
        };
        assert_eq!(number(store.database.writer.clone(), "PRAGMA synchronous").await, 2);
        assert_eq!(number(store.database.writer.clone(), "PRAGMA foreign_keys").await, 1);
        assert_eq!(number(store.database.writer.clone(), "PRAGMA busy_timeout").await, 5_000);
        assert!(sqlx::query("DELETE FROM changes").execute(&store.database.reader).await.is_err());
    }
}
