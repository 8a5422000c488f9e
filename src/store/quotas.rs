//! Quotas as rows: whose they are, what they limit, over which window, and what has been charged to them. `limits.rs` makes
//! and changes them.

use super::ledger::Tail;
use super::{Connection, Engine, Rows, StoreError, push_list};
use crate::store::engine::On;
use filters::id::QuotaId;
use filters::key::Glob;
use filters::lease::{Increase, Terms};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use filters::window::{Unit, Window, Zone};
use sqlx::{QueryBuilder, Row};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaKind {
    /// An organisation's prepaid money, in nano-USD; the limit is the sum of its credits.
    Balance,
    /// What may be charged, in nano-USD. Every key has one in all, with `i64::MAX` when there is no limit, so that its spend
    /// is known too.
    Spend,
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
    /// Calls at once.
    Concurrency,
}

impl QuotaKind {
    const ALL: [Self; 5] = [Self::Balance, Self::Spend, Self::Requests, Self::Tokens, Self::Concurrency];

    /// The name in tables and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Spend => "spend",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it counts nano-USD.
    #[must_use]
    pub fn is_money(self) -> bool {
        match self {
            Self::Balance | Self::Spend => true,
            Self::Requests | Self::Tokens | Self::Concurrency => false,
        }
    }
}

/// Percentages of a limit that are worth an event, in rising order, at most [`Thresholds::MAX`]. Prints and parses as `50,80,100`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thresholds(pub Vec<u8>);

impl Thresholds {
    /// Most of one quota.
    pub const MAX: usize = 8;

    /// What a quota of money has unless it is said otherwise.
    #[must_use]
    pub fn usual() -> Self {
        Self(vec![50, 80, 100])
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(u8::to_string).collect();
        formatter.pad(&texts.join(","))
    }
}

impl FromStr for Thresholds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "thresholds are up to 8 percentages from 1 to 100 in rising order, such as 50,80,100";
        if text.is_empty() {
            return Ok(Self::default());
        }
        let read = |part: &str| part.parse().ok().filter(|percent| (1..=100).contains(percent));
        let percents: Vec<u8> = text.split(',').map(read).collect::<Option<_>>().ok_or(PROBLEM)?;
        let is_rising = percents.windows(2).all(|pair| pair[0] < pair[1]);
        if is_rising && percents.len() <= Self::MAX { Ok(Self(percents)) } else { Err(PROBLEM) }
    }
}

/// A quota as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRow {
    /// Its number, for good.
    pub id: QuotaId,
    /// The identifier of the key, project or organisation that has it.
    pub owner: String,
    /// What it limits.
    pub kind: QuotaKind,
    /// How much, aside from an increase; `i64::MAX` is no limit.
    pub limit: i64,
    /// Over which time.
    pub window: Window,
    /// Whether it is a bound, never passed; otherwise an estimate.
    pub is_strict: bool,
    /// Of which models; `None`: of all.
    pub model: Option<Glob>,
    /// More until a date, which may have passed.
    pub increase: Option<Increase>,
    /// Which parts of the limit are worth an event.
    pub thresholds: Thresholds,
    /// What has been charged in the periods that count at the moment of reading; 0 for what is not money.
    pub spent: i64,
    /// What of that has been charged in the period of the moment of reading.
    pub spent_in_span: i64,
}

impl QuotaRow {
    /// The limit in force at a moment.
    #[must_use]
    pub fn limit_at(&self, now: EpochMs) -> i64 {
        self.terms().limit_at(now).0
    }

    /// What is in force of it.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms { limit: NanoUsd(self.limit), is_strict: self.is_strict, increase: self.increase }
    }

    /// Whether it counts everything alike, as `--limit`, `--rpm`, `--tpm` and `--concurrency` alone say it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.model.is_none() && self.window == plain_window(self.kind)
    }
}

/// The plain limits of an owner, as listings show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlainLimits {
    /// Money, in all.
    pub spend: Option<NanoUsd>,
    /// Requests per minute.
    pub requests: Option<i64>,
    /// Tokens per minute.
    pub tokens: Option<i64>,
    /// Calls at once.
    pub concurrency: Option<i64>,
}

impl PlainLimits {
    /// Those in force at a moment.
    #[must_use]
    pub fn of(quotas: &[QuotaRow], now: EpochMs) -> Self {
        let limit = |kind: QuotaKind| {
            let row = quotas.iter().find(|row| row.kind == kind && row.is_plain());
            row.map(|row| row.limit_at(now)).filter(|limit| *limit != i64::MAX)
        };
        Self {
            spend: limit(QuotaKind::Spend).map(NanoUsd),
            requests: limit(QuotaKind::Requests),
            tokens: limit(QuotaKind::Tokens),
            concurrency: limit(QuotaKind::Concurrency),
        }
    }
}

/// The window of a kind where none is named: money in all, rates by the minute of the clock.
#[must_use]
pub fn plain_window(kind: QuotaKind) -> Window {
    match kind {
        QuotaKind::Balance | QuotaKind::Spend | QuotaKind::Concurrency => Window::Total,
        QuotaKind::Requests | QuotaKind::Tokens => Window::Calendar { unit: Unit::Minute, zone: Zone::utc() },
    }
}

/// A window's columns: unit, align and zone.
pub(super) fn window_columns(window: &Window) -> [String; 3] {
    match window {
        Window::Total => ["total".to_owned(), String::new(), String::new()],
        Window::Rolling(unit) => [unit.to_string(), "rolling".to_owned(), String::new()],
        Window::Calendar { unit, zone } => [unit.to_string(), "calendar".to_owned(), zone.to_string()],
    }
}

/// The columns that [`read_rows`] reads. What was charged in all comes along: most quotas count for ever.
const SELECT: &str = "SELECT q.id, q.owner, q.kind, q.unit, q.align, q.zone, q.model, q.strict, q.limit_value, \
     q.increase_value, q.increase_until_ms, q.thresholds, COALESCE(s.amount, 0) AS amount \
     FROM quotas q LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0 \
     WHERE q.removed_ms IS NULL AND q.owner IN ";

/// The quotas in force of a batch of owners, at most [`super::LIST_MAX`], in the order of their numbers, with what counts at
/// `now`.
pub(super) async fn read(
    connection: &mut Connection,
    owners: &[String],
    now: EpochMs,
) -> Result<Vec<QuotaRow>, StoreError> {
    if owners.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::<Engine>::new(SELECT);
    push_list(&mut query, owners, |owner| &**owner);
    query.push(" ORDER BY q.id");
    let rows = query.on(connection).fetch_all(&mut *connection).await?;
    let mut quotas = rows.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
    count_windows(connection, &mut quotas, now).await?;
    Ok(quotas)
}

/// The same, with what was charged and is in no sum yet: for people, who see the books without this process's memory.
pub(super) async fn read_with(
    connection: &mut Connection,
    owners: &[String],
    tail: &Tail,
    now: EpochMs,
) -> Result<Vec<QuotaRow>, StoreError> {
    let mut quotas = read(connection, owners, now).await?;
    quotas.iter_mut().for_each(|quota| tail.add_to(quota, now));
    Ok(quotas)
}

/// Fills in what was charged to quotas of money that count over windows: one statement a window.
async fn count_windows(connection: &mut Connection, quotas: &mut [QuotaRow], now: EpochMs) -> Result<(), StoreError> {
    let mut by_window: HashMap<Window, Vec<usize>> = HashMap::new();
    for (index, quota) in quotas.iter().enumerate() {
        if quota.kind.is_money() && quota.window != Window::Total {
            by_window.entry(quota.window.clone()).or_default().push(index);
        }
    }
    for (window, indexes) in by_window {
        let span = window.span(now);
        for indexes in indexes.chunks(super::LIST_MAX) {
            let ids: Vec<i64> = indexes.iter().map(|index| quotas[*index].id.0).collect();
            let mut query = QueryBuilder::<Engine>::new(
                "SELECT quota, window_start_ms, amount FROM spent WHERE window_start_ms >= ",
            );
            query.push_bind(window.counted_from(now).0).push(" AND window_start_ms <= ").push_bind(span.start.0);
            query.push(" AND quota IN ");
            push_list(&mut query, &ids, |id| *id);
            // Summed up here: an engine's own sum fails where it overflows, and then nobody could read the key.
            for row in query.on(connection).fetch_all(&mut *connection).await? {
                let (quota, start, amount): (i64, i64, i64) =
                    (row.try_get("quota")?, row.try_get("window_start_ms")?, row.try_get("amount")?);
                let Some(index) = indexes.iter().find(|index| quotas[**index].id.0 == quota) else { continue };
                let counted = &mut quotas[*index];
                counted.spent = counted.spent.saturating_add(amount);
                if start == span.start.0 {
                    counted.spent_in_span = amount;
                }
            }
        }
    }
    Ok(())
}

/// Reads a row of [`SELECT`]. A quota that this release does not know must not be overlooked: it would be a limit that nobody keeps.
fn read_row(row: &Rows) -> Result<QuotaRow, StoreError> {
    let (kind, model): (String, String) = (row.try_get("kind")?, row.try_get("model")?);
    let kind = QuotaKind::named(&kind).ok_or(StoreError::Corrupt { column: "quotas.kind", content: kind })?;
    let window = read_window(row)?;
    let Terms { limit, is_strict, increase } = read_terms(row)?;
    let is_total = window == Window::Total;
    let amount = row.try_get("amount")?;
    let spent = if is_total { amount } else { 0 };
    Ok(QuotaRow {
        id: QuotaId(row.try_get("id")?),
        owner: row.try_get("owner")?,
        kind,
        limit: limit.0,
        window,
        is_strict,
        model: (!model.is_empty()).then(|| Glob(model.into())),
        increase,
        thresholds: super::parsed(row, "thresholds")?,
        spent,
        spent_in_span: spent,
    })
}

/// Reads the columns of what is in force.
pub(super) fn read_terms(row: &Rows) -> Result<Terms, StoreError> {
    let increase = match (row.try_get("increase_value")?, row.try_get("increase_until_ms")?) {
        (Some(amount), Some(until)) => Some(Increase { amount: NanoUsd(amount), until: EpochMs(until) }),
        _ => None,
    };
    let limit = NanoUsd(row.try_get("limit_value")?);
    Ok(Terms { limit, is_strict: row.try_get::<i64, _>("strict")? != 0, increase })
}

/// Reads the columns of a window.
pub(super) fn read_window(row: &Rows) -> Result<Window, StoreError> {
    let [unit, align, zone] = ["unit", "align", "zone"].map(|column| row.try_get::<String, _>(column));
    let (unit, align, zone) = (unit?, align?, zone?);
    let words: Vec<&str> = [&*align, &*unit, &*zone].into_iter().filter(|word| !word.is_empty()).collect();
    let content = words.join(" ");
    content.parse().map_err(|_| StoreError::Corrupt { column: "quotas.unit", content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW};
    use crate::store::limits::{Amount, LimitChange, Owner};

    const HOUR_MS: i64 = 3_600_000;

    /// Sets limits of money over windows on the key of the books, and books amounts to periods of the first of them.
    async fn charged(window: &str, amounts: &[(i64, i64)]) -> (Books, QuotaRow) {
        let books = Books::open().await;
        let window: Window = window.parse().expect("a window");
        let change = LimitChange { window, ..LimitChange::of(QuotaKind::Spend, Amount::Of(100)) };
        let set = books.store.change_limits(Owner::Key(books.key), &[change], NOW).await.expect("set");
        let row = set.last().expect("it was set").clone();
        for (start_ms, amount) in amounts {
            sqlx::query("INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, $2, $3)")
                .bind(row.id.0)
                .bind(start_ms)
                .bind(amount)
                .execute(&books.store.database.writer)
                .await
                .expect("booked");
        }
        (books, row)
    }

    async fn spent(books: &Books, quota: QuotaId, now: EpochMs) -> (i64, i64) {
        let rows = books.store.limits(Owner::Key(books.key), now).await.expect("read");
        let row = rows.iter().find(|row| row.id == quota).expect("it is there");
        (row.spent, row.spent_in_span)
    }

    #[tokio::test]
    async fn a_calendar_counts_the_period_of_the_moment_alone() {
        let day_ms = 24 * HOUR_MS;
        let booked = [(NOW.0 - day_ms, 7), (NOW.0, 20), (NOW.0 + day_ms, 300)];
        let (books, row) = charged("calendar day UTC", &booked).await;
        assert_eq!(spent(&books, row.id, NOW).await, (20, 20));
        assert_eq!(spent(&books, row.id, NOW.plus(day_ms - 1)).await, (20, 20));
        assert_eq!(spent(&books, row.id, NOW.plus(day_ms)).await, (300, 300));
        assert_eq!(spent(&books, row.id, NOW.plus(-1)).await, (7, 7));
        assert_eq!(spent(&books, row.id, NOW.plus(2 * day_ms)).await, (0, 0));
    }

    #[tokio::test]
    async fn a_rolling_window_counts_its_buckets_and_none_beyond() {
        let minute_ms = 60_000;
        let booked = [(NOW.0 - 61 * minute_ms, 1), (NOW.0 - HOUR_MS, 20), (NOW.0, 300), (NOW.0 + minute_ms, 4_000)];
        let (books, row) = charged("rolling hour", &booked).await;
        assert_eq!(spent(&books, row.id, NOW).await, (320, 300));
        assert_eq!(spent(&books, row.id, NOW.plus(minute_ms)).await, (4_300, 4_000));
        assert_eq!(spent(&books, row.id, NOW.plus(62 * minute_ms)).await, (0, 0));
    }

    #[tokio::test]
    async fn absurd_sums_do_not_keep_a_key_from_being_read() {
        let booked = [(NOW.0 - HOUR_MS, i64::MAX), (NOW.0, i64::MAX)];
        let (books, row) = charged("rolling hour", &booked).await;
        assert_eq!(spent(&books, row.id, NOW).await, (i64::MAX, i64::MAX));
    }

    #[tokio::test]
    async fn a_quota_that_this_release_does_not_know_is_not_overlooked() {
        for broken in ["kind = 'images'", "unit = 'fortnight'", "zone = 'Mars/Olympus'", "thresholds = 'often'"] {
            let (books, _) = charged("calendar day UTC", &[]).await;
            let statement = format!("UPDATE quotas SET {broken} WHERE unit = 'day'");
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&books.store.database.writer).await.expect("broken");
            let read = books.store.key(books.key, NOW).await;
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{broken}: {read:?}");
        }
    }

    #[test]
    fn thresholds_are_read_as_they_are_written() {
        for text in ["", "50,80,100", "1"] {
            assert_eq!(text.parse::<Thresholds>().expect(text).to_string(), text);
        }
        for text in ["0", "101", "80,50", "50,50", "50,", "a", "1,2,3,4,5,6,7,8,9"] {
            assert!(text.parse::<Thresholds>().is_err(), "{text}");
        }
    }
}
