//! Quotas as rows: whose they are, what they limit, and what has been charged to them.

use super::{Connection, Engine, Rows, StoreError, push_list};
use filters::id::QuotaId;
use filters::quota::MINUTE_MS;
use sqlx::{QueryBuilder, Row};

/// Rows of one INSERT: enough that the statement's own cost is spread, few enough parameters for every engine.
const ROWS_PER_INSERT: usize = 500;

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaKind {
    /// An organisation's prepaid money, in nano-USD; the limit is the sum of its credits.
    Balance,
    /// What a key may be charged in all, in nano-USD; `i64::MAX` when there is no limit, so that its spend is known too.
    Spend,
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Calls at once.
    Concurrency,
}

impl QuotaKind {
    const ALL: [Self; 5] = [Self::Balance, Self::Spend, Self::Requests, Self::Tokens, Self::Concurrency];

    fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Spend => "spend",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
        }
    }

    fn window_ms(self) -> i64 {
        match self {
            Self::Balance | Self::Spend | Self::Concurrency => 0,
            Self::Requests | Self::Tokens => MINUTE_MS,
        }
    }

    /// A quota that this release does not know must not be overlooked: it would be a limit that nobody keeps.
    fn read(row: &Rows) -> Result<Self, StoreError> {
        let (name, window_ms): (String, i64) = (row.try_get("kind")?, row.try_get("window_ms")?);
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name && kind.window_ms() == window_ms)
            .ok_or(StoreError::Corrupt { column: "quotas.kind", content: name })
    }
}

/// A quota to be made.
pub(super) struct NewQuota {
    pub(super) owner: String,
    pub(super) kind: QuotaKind,
    pub(super) limit: i64,
}

/// A quota as the store knows it.
#[derive(Clone, Debug)]
pub(super) struct QuotaRow {
    pub(super) id: QuotaId,
    pub(super) owner: String,
    pub(super) kind: QuotaKind,
    pub(super) limit: i64,
    /// What has been charged; 0 for what is not money.
    pub(super) spent: i64,
}

/// Makes quotas, many at a time.
pub(super) async fn insert(connection: &mut Connection, quotas: &[NewQuota]) -> Result<(), StoreError> {
    for chunk in quotas.chunks(ROWS_PER_INSERT) {
        let mut query = QueryBuilder::<Engine>::new("INSERT INTO quotas (owner, kind, window_ms, limit_value) ");
        query.push_values(chunk, |mut row, quota| {
            row.push_bind(&*quota.owner)
                .push_bind(quota.kind.name())
                .push_bind(quota.kind.window_ms())
                .push_bind(quota.limit);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// The quotas of a batch of owners, at most [`super::LIST_MAX`], in the order of their numbers.
pub(super) async fn read(connection: &mut Connection, owners: &[String]) -> Result<Vec<QuotaRow>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new(
        "SELECT q.id, q.owner, q.kind, q.window_ms, q.limit_value, COALESCE(s.amount, 0) AS amount \
         FROM quotas q LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0 \
         WHERE q.owner IN ",
    );
    push_list(&mut query, owners, |owner| &**owner);
    query.push(" ORDER BY q.id");
    let rows = query.build().fetch_all(connection).await?;
    rows.iter().map(read_row).collect()
}

fn read_row(row: &Rows) -> Result<QuotaRow, StoreError> {
    Ok(QuotaRow {
        id: QuotaId(row.try_get("id")?),
        owner: row.try_get("owner")?,
        kind: QuotaKind::read(row)?,
        limit: row.try_get("limit_value")?,
        spent: row.try_get("amount")?,
    })
}
