//! The SQL store: who may call, with what money, and the books of what was called. In embedded mode it is SQLite.
//!
//! - `organisations.rs`, `projects.rs`, `keys.rs`: records that people make and change; `quotas.rs` their quotas as rows,
//!   `limits.rs` what sets and changes them
//! - `changes.rs`: what tells a running gateway that another process changed a record
//! - `key_cache.rs`: keys in memory, so that the hot path asks nobody; `loader.rs` reads them, `refresh.rs`
//!   keeps them true, `live_quotas.rs` holds their atomics; `leases.rs` brings them credit
//! - `ledger.rs`: calls are written down here, exactly once, and summed up; `usage.rs` reads the sums
//! - `objects.rs`: whose the objects are that providers store
//! - `requests.rs`: notes of requests that cost nothing
//! - `audit.rs`: recomputes the books; `backup.rs` copies them and puts them back, `reprice.rs` computes them at
//!   other prices
//! - `pepper.rs`: the secret without which the stored lookup ids are of no use
//! - `migrations/`: the tables

pub mod audit;
pub mod backup;
mod changes;
#[cfg(test)]
mod fixture;
pub mod journal;
pub mod key_cache;
pub mod keys;
pub mod leases;
pub mod ledger;
pub mod limits;
mod live_quotas;
mod loader;
pub mod objects;
pub mod organisations;
mod pepper;
pub mod projects;
pub mod quotas;
mod refresh;
pub mod reprice;
pub mod requests;
pub mod usage;

use filters::key::Pepper;
use ledger::{LedgerSettings, LedgerState};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Encode, QueryBuilder, Row, SqlSafeStr, Type};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The engine of embedded mode. Named once, so that the other engine has one place to enter.
type Engine = sqlx::Sqlite;
type Connection = sqlx::SqliteConnection;
type Rows = sqlx::sqlite::SqliteRow;
type Transaction = sqlx::Transaction<'static, Engine>;

/// The engine's page cache, in KiB (a negative number says so), taken as it is needed.
const WRITER_CACHE_KIB: &str = "-32768";
/// Pages of the log, 4 KiB each, before they are written back.
const CHECKPOINT_PAGES: &str = "8192";
/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most items of a list in a statement.
const LIST_MAX: usize = 256;
/// Readers at once: they answer misses of the key cache, polls and commands, never the hot path.
const READERS_MAX: u32 = 4;

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
    /// A row that this program can't have written.
    #[error("the store holds a {column} that can't be read: {content:?}")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// What is there.
        content: String,
    },
    /// Nobody has this identifier.
    #[error("there is no {0}; the `list` command shows what there is")]
    NotFound(String),
    /// The change would break a rule.
    #[error("{0}")]
    Refused(&'static str),
    /// The system has no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// The store of one data directory. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    pepper: Pepper,
    ledger: Arc<LedgerState>,
    objects: Arc<objects::Known>,
}

impl Store {
    /// Opens `DIR/tollgate.db`, making what is missing. Other processes may have it open at the same time.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        make_private_directory(data_dir)?;
        // The engine doesn't keep two processes from making the same tables at once.
        let _opening = hold_lock(&data_dir.join("store.lock")).await?;
        backup::check_not_restoring(data_dir)?;
        let options = connect_options(data_dir);
        // One connection: SQLite has one writer at a time, and a queue here is fairer than its busy handler.
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options.clone())
            .await?;
        migrator().run(&writer).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        let pepper = pepper::open(data_dir, &writer).await?;
        Ok(Self { writer, reader, pepper, ledger: Arc::default(), objects: Arc::default() })
    }

    /// The same store, whose sums come on the books as these settings say.
    #[must_use]
    pub fn with_ledger_settings(self, settings: LedgerSettings) -> Self {
        Self { ledger: Arc::new(LedgerState::new(settings)), ..self }
    }

    /// The secret that tokens are looked up with.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// Finishes what is queued and closes every connection.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// A transaction that writes. It takes the writer's lock at once: one that read first and wrote later would be refused
    /// when another process wrote in between.
    async fn write(&self) -> Result<Transaction, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction whose reads all see the same moment.
    async fn snapshot(&self) -> Result<Transaction, StoreError> {
        Ok(self.reader.begin().await?)
    }
}

fn connect_options(data_dir: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(data_dir.join("tollgate.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit must survive a power cut: a key that was shown or a revocation that was confirmed is in no journal,
        // and a shipped call only until its segment goes. It costs one fsync a commit, and commits are few: one a
        // shipped batch, not one a call.
        .synchronous(SqliteSynchronous::Full)
        // Charges of many keys lie on many pages: what is read again and again stays in memory, and the log is written
        // back in large steps.
        .pragma("cache_size", WRITER_CACHE_KIB)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .thread_name(|number| format!("store-{number}"))
}

fn migrator() -> Migrator {
    Migrator::with_migrations(vec![
        migration(1, "spine", include_str!("store/migrations/0001_spine.sql")),
        migration(2, "quotas", include_str!("store/migrations/0002_quotas.sql")),
        migration(3, "leases", include_str!("store/migrations/0003_leases.sql")),
        migration(4, "rollups", include_str!("store/migrations/0004_rollups.sql")),
        migration(5, "attempts", include_str!("store/migrations/0005_attempts.sql")),
        migration(6, "units", include_str!("store/migrations/0006_units.sql")),
        migration(7, "objects", include_str!("store/migrations/0007_objects.sql")),
    ])
}

fn migration(number: i64, name: &'static str, statements: &'static str) -> Migration {
    Migration::new(number, Cow::Borrowed(name), MigrationType::Simple, statements.into_sql_str(), false)
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
        use filters::time::EpochMs;
        let dir = tempfile::tempdir().expect("a directory");
        let old = SqlitePool::connect_with(connect_options(dir.path())).await.expect("a database");
        let first = migration(1, "spine", include_str!("store/migrations/0001_spine.sql"));
        Migrator::with_migrations(vec![first]).run(&old).await.expect("migrated");
        for statement in FIRST_ROWS {
            sqlx::query(statement).execute(&old).await.expect(statement);
        }
        old.close().await;
        let store = Store::open(dir.path()).await.expect("brought up to date");
        let now = EpochMs(1_800_000_000_000);
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
        let history: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM limit_history").fetch_one(&store.reader).await.expect("a number");
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
        let number = |pool: SqlitePool, sql: &'static str| async move {
            let read: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.expect(sql);
            read
        };
        assert_eq!(number(store.writer.clone(), "PRAGMA synchronous").await, 2);
        assert_eq!(number(store.writer.clone(), "PRAGMA foreign_keys").await, 1);
        assert_eq!(number(store.writer.clone(), "PRAGMA busy_timeout").await, 5_000);
        assert!(sqlx::query("DELETE FROM changes").execute(&store.reader).await.is_err());
    }
}
