//! The engine below the store: SQLite in a data directory, or a PostgreSQL server that several nodes share. The statements are the
//! same for both; what differs is here.

use super::{Connection, Engine, StoreError, Transaction, file_error, hold_lock, make_private_directory};
use crate::clock;
use crate::config::Server;
use filters::time::EpochMs;
use sqlx::any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, install_default_drivers};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolOptions;
use sqlx::query::Query;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyPool, AssertSqlSafe, ConnectOptions, Connection as _, Execute, QueryBuilder, Row, SqlSafeStr, SqlStr};
use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// How long a writer waits for another process's transaction.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Readers of SQLite at once: they answer misses of the key cache, polls and commands, never the hot path.
const READERS_MAX: u32 = 4;
/// How long a connection that is given back may take to show that it is usable.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Names the lock that changes of records hold on a server: one transaction at a time, over all nodes, as SQLite has them.
const RECORDS_LOCK: i64 = 0x0074_6f6c_6c67_6174;
/// What waits after a long outage comes on the books in large transactions: they may take so many times longer than others.
const BOOKING_PATIENCE: u32 = 20;
/// How often a transaction is tried that the server broke off in favour of another.
const TRIES_MAX: u32 = 8;

/// The settings of every SQLite connection.
///
/// A commit must survive a power cut (`synchronous`): a key that was shown or a revocation that was confirmed is in no journal,
/// and a shipped call only until its segment goes. It costs one fsync a commit, and commits are few: one a shipped batch, not
/// one a call. Charges of many keys lie on many pages: what is read again and again stays in memory (`cache_size`, in KiB, a
/// negative number says so), and the log is written back in large steps (`wal_autocheckpoint`, in pages of 4 KiB).
const SQLITE_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -32768; \
                               PRAGMA wal_autocheckpoint = 8192;";
const SQLITE_READER_SETTINGS: &str = "PRAGMA query_only = ON;";

/// Connections to the rows. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) writer: AnyPool,
    pub(super) reader: AnyPool,
    /// How long a server may take; none for SQLite.
    timeout: Option<Duration>,
}

impl Database {
    /// Opens `DIR/tollgate.db`, making what is missing. Other processes may have it open at the same time.
    pub(super) async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        make_private_directory(data_dir)?;
        // The engine doesn't keep two processes from making the same tables at once.
        let _opening = hold_lock(&data_dir.join("store.lock")).await?;
        super::backup::check_not_restoring(data_dir)?;
        install_default_drivers();
        let options = sqlite_options(data_dir)?;
        // One connection: SQLite has one writer at a time, and a queue here is fairer than its busy handler.
        let writer = sqlite_pool(1, SQLITE_SETTINGS.into_sql_str()).connect_with(options.clone()).await?;
        migrator(false).run(&writer).await?;
        let settings = AssertSqlSafe(format!("{SQLITE_SETTINGS}{SQLITE_READER_SETTINGS}")).into_sql_str();
        let reader = sqlite_pool(READERS_MAX, settings).connect_lazy_with(options);
        Ok(Self { writer, reader, timeout: None })
    }

    /// Connects to a server and brings its tables up to date. Nodes that start at once wait for one another.
    pub(super) async fn connect(settings: &Server) -> Result<Self, StoreError> {
        install_default_drivers();
        let options = AnyConnectOptions::from_str(settings.url.reveal())?;
        let writers = (settings.connections_max / 2).max(1);
        let readers = settings.connections_max.saturating_sub(writers).max(1);
        // Tables with millions of rows take longer to change than any transaction may.
        let migrating = server_pool(1, settings.timeout, None).connect_with(options.clone()).await?;
        migrator(true).run(&migrating).await?;
        migrating.close().await;
        let milliseconds = settings.timeout.as_millis();
        // A node that stops half-way through a transaction must let go of its rows before others give up waiting for them.
        let idle_milliseconds = milliseconds / 2;
        let limits = format!(
            "SET synchronous_commit = on; SET statement_timeout = {milliseconds}; SET lock_timeout = {milliseconds}; \
             SET idle_in_transaction_session_timeout = {idle_milliseconds};"
        );
        let pool = |connections| server_pool(connections, settings.timeout, Some(limits.clone()));
        let writer = pool(writers).connect_with(options.clone()).await?;
        let reader = pool(readers).connect_lazy_with(options);
        Ok(Self { writer, reader, timeout: Some(settings.timeout) })
    }

    /// Whether other nodes may use it.
    pub(super) fn is_shared(&self) -> bool {
        self.timeout.is_some()
    }

    /// Begins a transaction that writes. SQLite has one at a time: it takes the lock at once, because one that read first and wrote
    /// later would be refused when another process wrote in between. On a server it runs beside others.
    pub(super) async fn write(&self) -> Result<Transaction, StoreError> {
        Ok(if self.is_shared() {
            self.writer.begin().await?
        } else {
            self.writer.begin_with("BEGIN IMMEDIATE").await?
        })
    }

    /// Begins a transaction that changes records: the only one of its kind on either engine.
    pub(super) async fn change(&self) -> Result<Transaction, StoreError> {
        let mut transaction = self.write().await?;
        if self.is_shared() {
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(RECORDS_LOCK).execute(&mut *transaction).await?;
        }
        Ok(transaction)
    }

    /// Begins a transaction whose reads all see the same moment.
    pub(super) async fn snapshot(&self) -> Result<Transaction, StoreError> {
        if !self.is_shared() {
            return Ok(self.reader.begin().await?);
        }
        Ok(self.reader.begin_with("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    /// Begins one that may read everything there is, however long that takes.
    pub(super) async fn long_snapshot(&self) -> Result<Transaction, StoreError> {
        let mut snapshot = self.snapshot().await?;
        if self.is_shared() {
            let unhurried = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
            sqlx::raw_sql(unhurried).execute(&mut *snapshot).await?;
        }
        Ok(snapshot)
    }

    /// Waits no longer for a server than it may take. What was not heard of in time may have been done.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.within(1, work).await
    }

    async fn within<T>(&self, times: u32, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let Some(timeout) = self.timeout.map(|timeout| timeout * times) else {
            return work.await;
        };
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(StoreError::TooLate(timeout)))
    }

    /// Waits for a transaction that writes into the books.
    pub(super) async fn book<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.within(BOOKING_PATIENCE, work).await
    }

    pub(super) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// What the clock says that all nodes go by: the server's, or in embedded mode our own.
pub(super) async fn now(connection: &mut Connection) -> Result<EpochMs, StoreError> {
    if !is_server(connection) {
        return Ok(clock::now());
    }
    let row = sqlx::query("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now_ms")
        .fetch_one(connection)
        .await?;
    Ok(EpochMs(row.try_get("now_ms")?))
}

/// Whether a connection is one to a server.
pub(super) fn is_server(connection: &Connection) -> bool {
    connection.backend_name() != "SQLite"
}

/// Makes a query of what was built.
pub(super) trait On {
    /// The query, with its parameters marked as the engine of a connection wants them: SQLite finds `?` faster than `$n`, and
    /// PostgreSQL knows only those.
    fn on(&mut self, connection: &Connection) -> Query<'_, Engine, AnyArguments>;
}

impl On for QueryBuilder<Engine> {
    fn on(&mut self, connection: &Connection) -> Query<'_, Engine, AnyArguments> {
        let mut query = self.build();
        if !is_server(connection) {
            return query;
        }
        // What was built with them has them.
        let arguments = query.take_arguments().ok().flatten().unwrap_or_default();
        sqlx::query_with(AssertSqlSafe(with_numbers(query.sql().as_str())), arguments)
    }
}

/// Replaces each `?` by `$1`, `$2` and so on. No statement of ours has one for another purpose.
fn with_numbers(statement: &str) -> String {
    let mut numbered = String::with_capacity(statement.len() * 2);
    for (number, part) in statement.split('?').enumerate() {
        if number > 0 {
            // Writing to a String can't fail.
            let _ = write!(numbered, "${number}");
        }
        numbered.push_str(part);
    }
    numbered
}

/// Whether a transaction is to be tried once more, because another was preferred to it or changed what it had read; after a moment that is
/// not the other's.
pub(super) async fn is_worth_another_try<T>(done: &Result<T, StoreError>, tries: &mut u32) -> bool {
    let was_broken_off = match done {
        Err(StoreError::Sql(cause)) => was_broken_off(cause),
        Err(StoreError::Moved) => true,
        Ok(_) | Err(_) => false,
    };
    let is_worth_it = was_broken_off && *tries < TRIES_MAX;
    if is_worth_it {
        tokio::time::sleep(jitter(*tries)).await;
        *tries += 1;
    }
    is_worth_it
}

/// Deadlocks and failures to serialise: nothing was done, and the same may succeed at once.
fn was_broken_off(cause: &sqlx::Error) -> bool {
    let code = cause.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// 2 to 4 ms after the first try, twice as long after each other.
fn jitter(tries: u32) -> Duration {
    let mut byte = [0];
    // Without randomness it is the shortest: the other has the same chance then, and one of the tries will not meet it.
    let _ = getrandom::fill(&mut byte);
    Duration::from_micros((2_000 + u64::from(byte[0]) * 8) << tries.min(6))
}

fn sqlite_pool(connections: u32, settings: SqlStr) -> PoolOptions<Engine> {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(BUSY_TIMEOUT).after_connect(
        move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(drop) })
        },
    )
}

fn server_pool(connections: u32, timeout: Duration, settings: Option<String>) -> PoolOptions<Engine> {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(timeout)
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move {
                match settings {
                    Some(settings) => sqlx::raw_sql(AssertSqlSafe(settings)).execute(connection).await.map(drop),
                    None => Ok(()),
                }
            })
        })
        // A connection to a server that is gone must not be waited for: its place is needed.
        .after_release(|connection, _| {
            Box::pin(async move {
                let answered = tokio::time::timeout(RELEASE_TIMEOUT, connection.ping()).await;
                answered.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
            })
        })
}

fn sqlite_options(data_dir: &Path) -> Result<AnyConnectOptions, StoreError> {
    let file = std::path::absolute(data_dir.join("tollgate.db")).map_err(|cause| file_error(data_dir, cause))?;
    let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
    Ok(AnyConnectOptions::from_url(&options.to_url_lossy())?)
}

/// The tables, oldest first. A migration only adds: while nodes are brought to a new release one after the other, those of the
/// release before go on with the tables of the new one, and they must start with them if it is taken back.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "spine", include_str!("migrations/0001_spine.sql")),
    (2, "quotas", include_str!("migrations/0002_quotas.sql")),
    (3, "leases", include_str!("migrations/0003_leases.sql")),
    (4, "rollups", include_str!("migrations/0004_rollups.sql")),
    (5, "attempts", include_str!("migrations/0005_attempts.sql")),
    (6, "units", include_str!("migrations/0006_units.sql")),
    (7, "objects", include_str!("migrations/0007_objects.sql")),
    (8, "nodes", include_str!("migrations/0008_nodes.sql")),
    (10, "beside", include_str!("migrations/0010_beside.sql")),
    (11, "control", include_str!("migrations/0011_control.sql")),
    (12, "accounts", include_str!("migrations/0012_accounts.sql")),
    (13, "keys", include_str!("migrations/0013_keys.sql")),
    (14, "credits", include_str!("migrations/0014_credits.sql")),
    (15, "usage", include_str!("migrations/0015_usage.sql")),
    (16, "credentials", include_str!("migrations/0016_credentials.sql")),
    (17, "events", include_str!("migrations/0017_events.sql")),
];

fn migrator(is_server: bool) -> Migrator {
    let migrations =
        MIGRATIONS.iter().map(|(number, name, statements)| migration(*number, name, statements, is_server));
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // Those of a later release.
    migrator.set_ignore_missing(true);
    migrator
}

/// What an append-only table's triggers do, in the words of SQLite and in those of a server.
const REFUSES: [&str; 2] =
    ["BEGIN SELECT RAISE(ABORT, 'rows are only added here'); END", "EXECUTE FUNCTION refuse_change()"];
/// Made before the triggers that call it.
const REFUSE_CHANGE: &str = "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN RAISE EXCEPTION 'rows are only added here'; END $$;\n";

/// The files are written for SQLite; a server has other words for four things.
fn migration(number: i64, name: &'static str, statements: &'static str, is_server: bool) -> Migration {
    let statements = if is_server {
        let words = statements
            .replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
            .replace(" BLOB ", " BYTEA ")
            .replace(") WITHOUT ROWID", ")")
            .replace(REFUSES[0], REFUSES[1]);
        let words = if words.contains(REFUSES[1]) { format!("{REFUSE_CHANGE}{words}") } else { words };
        AssertSqlSafe(words).into_sql_str()
    } else {
        statements.into_sql_str()
    };
    Migration::new(number, Cow::Borrowed(name), MigrationType::Simple, statements, false)
}

/// The first so many of the tables, as an earlier release made them.
#[cfg(test)]
pub(super) fn first_migrations(count: usize) -> Migrator {
    let migrations = MIGRATIONS.iter().take(count);
    Migrator::with_migrations(migrations.map(|(number, name, text)| migration(*number, name, text, false)).collect())
}
