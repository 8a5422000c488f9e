//! The books, read as anybody with the file could.

use super::{Gateway, eventually};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Row as _, SqliteConnection};

/// A row of `calls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) request_id: String,
    pub(crate) key: String,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) is_streamed: bool,
    pub(crate) status: i64,
    pub(crate) error: Option<String>,
    pub(crate) outcome: String,
    pub(crate) is_estimated: bool,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) charge_nano: i64,
    pub(crate) reserved_nano: i64,
    pub(crate) attempts: i64,
}

impl Row {
    fn read(row: &SqliteRow) -> Self {
        let number = |column: &str| row.get::<i64, _>(column);
        let text = |column: &str| row.get::<String, _>(column);
        Self {
            request_id: text("request_id"),
            key: text("key_id"),
            model: text("model"),
            provider: text("provider"),
            is_streamed: number("streamed") != 0,
            status: number("status"),
            error: row.get("error"),
            outcome: text("outcome"),
            is_estimated: number("estimated") != 0,
            input_tokens: number("input_tokens"),
            output_tokens: number("output_tokens"),
            charge_nano: number("charge_nano"),
            reserved_nano: number("reserved_nano"),
            attempts: number("attempts"),
        }
    }
}

impl Gateway {
    /// All calls that have been shipped, in the order in which they began, and of one millisecond that in which they ended.
    pub(crate) fn books(&self) -> Vec<Row> {
        self.rows("SELECT * FROM calls ORDER BY started_ms, rowid").iter().map(Row::read).collect()
    }

    /// Rows of any table.
    pub(crate) fn rows(&self, statement: &'static str) -> Vec<SqliteRow> {
        let file = self.data().join("tollgate.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(file).read_only(true).disable_statement_logging();
            let mut books: SqliteConnection = options.connect().await.expect("the books are there");
            sqlx::query(statement).fetch_all(&mut books).await.expect("the books can be read")
        })
    }

    /// Waits until so many calls are on the books, and fails if there are more.
    pub(crate) fn books_of(&self, calls: usize) -> Vec<Row> {
        let what = format!("{calls} calls are on the books");
        let rows = eventually(&what, || Some(self.books()).filter(|rows| rows.len() >= calls));
        assert_eq!(rows.len(), calls, "{rows:#?}");
        rows
    }

    /// Waits until a call is on the books.
    pub(crate) fn row(&self, request_id: &str) -> Row {
        eventually("the call is on the books", || self.books().into_iter().find(|row| row.request_id == request_id))
    }
}
