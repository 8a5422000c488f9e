//! Whether the sums of usage are the sums of their rows.

use super::folded::Folded;
use super::{AuditReport, Invariant};
use crate::store::ledger::{FIGURES, Figures, figure_columns, read_figures};
use crate::store::{Rows, StoreError, Transaction};
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::Row;

/// Calls whose sums are on the books; those that still wait for it are in none.
const MERGED: &str =
    "calls c LEFT JOIN checkpoints n ON n.node = c.node WHERE c.seq <= COALESCE(n.merged_through, c.seq)";

/// Rows of which all calls are there.
const KEPT: &str = " AND NOT EXISTS (SELECT 1 FROM keys k JOIN organisations o ON o.id = k.org WHERE k.id = c.key_id AND {at} < o.folded_ms)";

/// A table of sums and what its rows are the sums of.
struct Rollup {
    table: &'static str,
    column: &'static str,
    length_ms: i64,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    Calls,
    Hours,
}

const ROLLUPS: [Rollup; 2] = [
    Rollup { table: "usage_hours", column: "hour_ms", length_ms: 3_600_000, source: Source::Calls },
    Rollup { table: "usage_days", column: "day_ms", length_ms: 86_400_000, source: Source::Hours },
];

/// Rows of a table of sums that belong together: those of one of its own rows.
struct Group {
    at: EpochMs,
    key: String,
    model: String,
    sums: Figures,
    on_books: Option<Figures>,
}

/// Computes every sum of usage again, from rows in the order of the sums, so that one is held at a time.
pub(super) async fn check_rollups(
    snapshot: &mut Transaction,
    folded: &Folded,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    for rollup in &ROLLUPS {
        check(snapshot, rollup, folded, report).await?;
    }
    folded.check(snapshot, report).await?;
    let forgotten = format!(
        "SELECT m.key_id AS object FROM (SELECT c.key_id, MAX(c.started_ms) AS at_ms FROM {MERGED} GROUP BY c.key_id) m \
         LEFT JOIN last_used l ON l.key_id = m.key_id WHERE l.at_ms IS NULL OR l.at_ms < m.at_ms \
         OR (l.at_ms > m.at_ms AND l.at_ms >= (SELECT o.folded_ms FROM keys k JOIN organisations o ON o.id = k.org WHERE k.id = m.key_id))"
    );
    for row in sqlx::query(sqlx::AssertSqlSafe(forgotten)).fetch_all(&mut **snapshot).await? {
        let detail = "its last use is not that of its latest call".to_owned();
        report.find(Invariant::RollupsAreTheirRows, row.try_get::<String, _>("object")?, detail);
    }
    Ok(())
}

async fn check(
    snapshot: &mut Transaction,
    rollup: &Rollup,
    folded: &Folded,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    // Hours of which calls are gone are looked at by the month.
    let kept = match rollup.source {
        Source::Calls if !folded.is_empty() => KEPT,
        Source::Calls | Source::Hours => "",
    };
    let (table, text) = (rollup.table, statement(rollup, kept));
    let (mut found, mut current) = (0i64, None::<Group>);
    let mut rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let figures = read_figures(&row, 3)?;
        match &mut current {
            Some(group) if group.has(&row)? => group.sums.add(&figures),
            _ => {
                let begun = Group::begin(&row, figures)?;
                found += i64::from(begun.on_books.is_some());
                current.replace(begun).into_iter().for_each(|group| group.check(table, report));
            }
        }
    }
    current.into_iter().for_each(|group| group.check(table, report));
    drop(rows);
    let count =
        format!("SELECT COUNT(*) FROM {table} c WHERE 1 = 1{}", kept.replace("{at}", &format!("c.{}", rollup.column)));
    let there: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut **snapshot).await?;
    if there > found {
        let detail = format!("{} of its rows are the sums of nothing", there - found);
        report.find(Invariant::RollupsAreTheirRows, table, detail);
    }
    Ok(())
}

/// Every row of the source beside the sum that it is part of: place, figures, the figures of the sum.
fn statement(rollup: &Rollup, kept: &str) -> String {
    let Rollup { table, column, length_ms, source } = rollup;
    let (at, from) = match source {
        Source::Calls => ("c.started_ms", format!("{MERGED}{}", kept.replace("{at}", "c.started_ms"))),
        Source::Hours => ("c.hour_ms", "usage_hours c".to_owned()),
    };
    let figure = |name: &str| match (source, name) {
        (Source::Calls, "calls") => "CAST(1 AS BIGINT) AS calls".to_owned(),
        (_, name) => format!("c.{name}"),
    };
    let figures: Vec<String> = figure_columns().map(figure).collect();
    let names: Vec<String> =
        ["p", "u"].iter().flat_map(|of| figure_columns().map(move |name| format!("{of}.{name}"))).collect();
    format!(
        "SELECT p.at_ms, p.key_id, p.model, {} FROM \
         (SELECT {at} - {at} % {length_ms} AS at_ms, c.key_id, c.model, {} FROM {from}) p \
         LEFT JOIN {table} u ON u.{column} = p.at_ms AND u.key_id = p.key_id AND u.model = p.model \
         ORDER BY p.at_ms, p.key_id, p.model",
        names.join(", "),
        figures.join(", ")
    )
}

impl Group {
    fn begin(row: &Rows, sums: Figures) -> Result<Self, StoreError> {
        let is_there = row.try_get::<Option<i64>, _>(3 + FIGURES)?.is_some();
        Ok(Self {
            at: EpochMs(row.try_get(0)?),
            key: row.try_get(1)?,
            model: row.try_get(2)?,
            sums,
            on_books: if is_there { Some(read_figures(row, 3 + FIGURES)?) } else { None },
        })
    }

    fn has(&self, row: &Rows) -> Result<bool, StoreError> {
        let (key, model): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        Ok(self.at.0 == row.try_get::<i64, _>(0)? && self.key == key && self.model == model)
    }

    fn check(&self, table: &str, report: &mut AuditReport) {
        if self.on_books == Some(self.sums) {
            return;
        }
        let names = figure_columns().zip(self.sums.0);
        let detail = match &self.on_books {
            None => "there is no sum of its calls".to_owned(),
            Some(on_books) => names
                .zip(on_books.0)
                .filter(|((_, sum), there)| sum != there)
                .map(|((name, sum), there)| format!("{name} is {there}, but its rows have {sum}"))
                .collect::<Vec<_>>()
                .join("; "),
        };
        let object = format!("{table} {} {} {}", self.at.0, self.key, self.model);
        report.find(Invariant::RollupsAreTheirRows, object, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, price};
    use crate::store::journal::Checkpoint;

    #[tokio::test]
    async fn each_cooked_sum_is_found() {
        for (statement, count) in [
            ("UPDATE calls SET model = model", 0),
            ("UPDATE usage_hours SET calls = calls + 1", 3),
            ("UPDATE usage_days SET charge_nano = charge_nano - 1", 2),
            ("UPDATE usage_days SET model = 'other'", 2),
            ("DELETE FROM usage_days", 2),
            (
                "INSERT INTO usage_hours SELECT 0, key_id, model, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM usage_hours",
                2,
            ),
            ("UPDATE last_used SET at_ms = at_ms + 1", 1),
            ("DELETE FROM last_used", 1),
        ] {
            let books = Books::open().await;
            books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
            let calls: Vec<_> = (0..3).map(|number| books.call(number, 10, 5)).collect();
            books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
            sqlx::query(statement).execute(&books.store.database.writer).await.expect(statement);
            let findings = books.store.audit().await.expect("audited").findings;
            assert_eq!(findings.len(), count, "{statement}: {findings:?}");
            assert!(findings.iter().all(|finding| finding.invariant == Invariant::RollupsAreTheirRows), "{findings:?}");
        }
    }
}
