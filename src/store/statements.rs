//! An organisation's statement of a month, in UTC: what it had, what moved, what its calls were charged, and what it has then.
//!
//! All of it comes from the ledger, which is only added to, and nothing that is added counts in a month whose last hour is
//! booked: so the statement of a closed month never changes. What comes late stands in the month in which it is booked.

use super::credits::{Account, BOOKED_THROUGH, EntryRecord, SELECT, read_mark, read_row};
use super::{Connection, Rows, Store, StoreError, organisations};
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::time::{EpochMs, date_of_day};
use sqlx::Row;
use std::fmt;
use std::str::FromStr;

/// A month of the calendar, in UTC. Prints and parses as `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Month {
    year: i16,
    month: i8,
}

/// Why a text is not a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a month such as 2026-11")]
pub struct MonthError;

impl Month {
    /// That of a moment.
    #[must_use]
    pub fn of(moment: EpochMs) -> Self {
        let (year, month, _) = date_of_day(moment.day());
        Self { year: i16::try_from(year).unwrap_or(9_999), month: i8::try_from(month).unwrap_or(1) }
    }

    /// When it begins.
    #[must_use]
    pub fn from(self) -> EpochMs {
        let first =
            jiff::civil::Date::new(self.year, self.month, 1).and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC));
        EpochMs(first.map_or(0, |first| first.timestamp().as_millisecond()))
    }

    /// When the next one begins.
    #[must_use]
    pub fn until(self) -> EpochMs {
        let (year, month) = if self.month == 12 { (self.year + 1, 1) } else { (self.year, self.month + 1) };
        Self { year, month }.from()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = MonthError;

    fn from_str(text: &str) -> Result<Self, MonthError> {
        let (year, month) = text.split_once('-').ok_or(MonthError)?;
        let is_written_out =
            year.len() == 4 && month.len() == 2 && text.bytes().filter(u8::is_ascii_digit).count() == 6;
        let read = Self { year: year.parse().map_err(|_| MonthError)?, month: month.parse().map_err(|_| MonthError)? };
        let is_month = (1970..9_999).contains(&read.year) && (1..=12).contains(&read.month);
        if is_written_out && is_month { Ok(read) } else { Err(MonthError) }
    }
}

/// What a key's calls of a model were charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeLine {
    /// The project in which the key was when it was booked, if it was in one.
    pub project: Option<String>,
    /// The key.
    pub key: String,
    /// The model's name in the catalogue.
    pub model: String,
    /// What was charged.
    pub charge: NanoUsd,
}

/// An organisation's month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whose.
    pub org: OrgId,
    /// Which.
    pub month: Month,
    /// Whether it changes no more.
    pub is_closed: bool,
    /// What the organisation had at its beginning.
    pub opening: NanoUsd,
    /// What moved beside charges, in its order.
    pub entries: Vec<EntryRecord>,
    /// What was charged, by project, key and model.
    pub charges: Vec<ChargeLine>,
    /// What was charged in all.
    pub charged: NanoUsd,
    /// What the organisation had at its end, or has now.
    pub closing: NanoUsd,
}

/// Sums in two parts, because an engine's own sum of amounts fails where it overflows.
const SUMS: &str = "CAST(COALESCE(SUM(l.amount_nano / 1000000000), 0) AS BIGINT) AS dollars, \
     CAST(COALESCE(SUM(l.amount_nano % 1000000000), 0) AS BIGINT) AS nano_dollars";

impl Store {
    /// An organisation's statement of a month.
    pub async fn statement(&self, org: OrgId, month: Month) -> Result<Statement, StoreError> {
        self.take_over_credits().await?;
        let mut snapshot = self.database.snapshot().await?;
        organisations::must_exist(&mut snapshot, org).await?;
        let (from, until) = (month.from(), month.until());
        let opening = balance_before(&mut snapshot, org, from).await?;
        let closing = balance_before(&mut snapshot, org, until).await?;
        let text = format!(
            "{SELECT} WHERE e.org = $1 AND e.at_ms >= $2 AND e.at_ms < $3 AND e.kind <> 'charges' ORDER BY e.at_ms, e.id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).bind(org.to_string()).bind(from.0).bind(until.0);
        let entries = rows.fetch_all(&mut *snapshot).await?.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
        let charges = charges_between(&mut snapshot, org, from, until).await?;
        Ok(Statement {
            org,
            month,
            is_closed: read_mark(&mut snapshot, BOOKED_THROUGH).await? >= until,
            opening,
            charged: charges.iter().fold(NanoUsd::ZERO, |sum, line| sum.saturating_add(line.charge)),
            entries,
            charges,
            closing,
        })
    }
}

/// What stands in an organisation's accounts before a moment.
async fn balance_before(connection: &mut Connection, org: OrgId, moment: EpochMs) -> Result<NanoUsd, StoreError> {
    let text = format!(
        "SELECT {SUMS} FROM entries e JOIN legs l ON l.entry = e.id \
         WHERE e.org = $1 AND e.at_ms < $2 AND l.account IN ($3, $4)"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(org.to_string())
        .bind(moment.0)
        .bind(Account::Credits(org).to_string())
        .bind(Account::Charges(org).to_string())
        .fetch_one(connection)
        .await?;
    read_sum(&row)
}

async fn charges_between(
    connection: &mut Connection,
    org: OrgId,
    from: EpochMs,
    until: EpochMs,
) -> Result<Vec<ChargeLine>, StoreError> {
    let text = format!(
        "SELECT l.project, l.key_id, l.model, {SUMS} FROM entries e JOIN legs l ON l.entry = e.id \
         WHERE e.org = $1 AND e.at_ms >= $2 AND e.at_ms < $3 AND e.kind = 'charges' AND l.account = $4 \
         GROUP BY l.project, l.key_id, l.model ORDER BY 1, 2, 3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(org.to_string())
        .bind(from.0)
        .bind(until.0)
        .bind(Account::Charges(org).to_string())
        .fetch_all(connection)
        .await?;
    let line = |row: &Rows| {
        let project: String = row.try_get("project")?;
        let project = (!project.is_empty()).then_some(project);
        // Charges stand in the account with the other sign.
        let charge = -read_sum(row)?;
        Ok(ChargeLine { project, key: row.try_get("key_id")?, model: row.try_get("model")?, charge })
    };
    rows.iter().map(line).collect()
}

fn read_sum(row: &Rows) -> Result<NanoUsd, StoreError> {
    let (dollars, nano_dollars): (i64, i64) = (row.try_get("dollars")?, row.try_get("nano_dollars")?);
    Ok(NanoUsd(dollars.saturating_mul(1_000_000_000).saturating_add(nano_dollars)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::credits::HOUR_MS;
    use crate::store::fixture::{Books, NOW};
    use crate::store::journal::Checkpoint;

    #[test]
    fn months_begin_and_end_in_utc() {
        for (text, from, until) in [
            ("2026-11", 1_793_491_200_000, 1_796_083_200_000),
            ("2026-12", 1_796_083_200_000, 1_798_761_600_000),
            ("1970-01", 0, 2_678_400_000),
        ] {
            let month: Month = text.parse().expect(text);
            assert_eq!((month.from().0, month.until().0, month.to_string().as_str()), (from, until, text));
            assert_eq!([month.from(), month.until().plus(-1)].map(Month::of), [month; 2]);
        }
        for text in ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "1969-12", "2026-+1", "2026-11-01"] {
            assert_eq!(text.parse::<Month>(), Err(MonthError), "{text}");
        }
    }

    #[tokio::test]
    async fn a_closed_month_never_changes_and_what_comes_late_stands_in_the_next() {
        let books = Books::open().await;
        let month = Month::of(NOW);
        let last_hour = month.until().plus(-HOUR_MS);
        let mut calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
        calls[1].0.started = last_hour;
        calls[2].0.started = last_hour.plus(HOUR_MS - 1);
        books.store.ship("node", &calls[..2], Checkpoint::default()).await.expect("shipped");
        let cost = calls[0].1.charge;
        let running = books.store.statement(books.org, month).await.expect("told");
        let top_up = NanoUsd(10_000_000_000);
        assert_eq!((running.is_closed, running.opening, running.charged), (false, NanoUsd::ZERO, NanoUsd::ZERO));
        assert_eq!((running.entries.len(), running.closing), (1, top_up));

        let soon = month.until().plus(20 * 60_000);
        books.store.book_charges(soon, soon).await.expect("booked");
        let closed = books.store.statement(books.org, month).await.expect("told");
        assert!(closed.is_closed);
        let key = books.key.to_string();
        let line = |charge| ChargeLine { project: None, key: key.clone(), model: "gpt-4o-mini".to_owned(), charge };
        assert_eq!((&closed.charges, closed.charged), (&vec![line(cost + cost)], cost + cost));
        assert_eq!(closed.closing, top_up - cost - cost);

        books.store.ship("node", &calls[2..], Checkpoint::default()).await.expect("shipped");
        books.store.book_charges(month.from(), soon.plus(HOUR_MS)).await.expect("booked");
        assert_eq!(books.store.statement(books.org, month).await.expect("told"), closed);
        let next = books.store.statement(books.org, Month::of(soon)).await.expect("told");
        assert_eq!((next.opening, &next.charges, next.entries.len()), (closed.closing, &vec![line(cost)], 0));
        assert_eq!(next.closing, books.organisation().await.balance());
    }

    #[tokio::test]
    async fn charges_stay_with_the_project_in_which_the_key_was() {
        let books = Books::open().await;
        let project = books.store.create_project(books.org, "web", &[], NOW).await.expect("made").id;
        let put = async |project: Option<String>| {
            let query = sqlx::query("UPDATE keys SET project = $1").bind(project);
            query.execute(&books.store.database.writer).await.expect("moved");
        };
        put(Some(project.to_string())).await;
        books.store.ship("node", &[books.call(1, 10, 5)], Checkpoint::default()).await.expect("shipped");
        let later = NOW.plus(2 * HOUR_MS);
        books.store.book_charges(later, later).await.expect("booked");
        put(None).await;
        let statement = books.store.statement(books.org, Month::of(NOW)).await.expect("told");
        assert_eq!(statement.charges[0].project, Some(project.to_string()));
    }

    #[tokio::test]
    async fn nobody_has_a_statement_who_is_nobody() {
        let books = Books::open().await;
        let told = books.store.statement(OrgId(9), Month::of(NOW)).await;
        assert!(matches!(told, Err(StoreError::NotFound(_))));
    }
}
