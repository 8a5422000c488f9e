//! Whether the sums of organisations agree with those of keys, and with each other. Sums are held against sums, which are few, and
//! which stay when calls go.

use super::{AuditReport, Invariant};
use crate::store::ledger::{Figures, figure_columns, read_figures};
use crate::store::{StoreError, Transaction};
use futures_util::TryStreamExt;
use sqlx::Row;

/// The month of a day: its first moment. The algorithm is that of `filters::time::date_of_day`, in words of both engines.
const MONTH_OF_DAY: &str = "(SELECT (day - (day_of_year - (153 * ((5 * day_of_year + 2) / 153) + 2) / 5)) * 86400000 FROM \
     (SELECT day, day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100) AS day_of_year FROM \
     (SELECT day, day_of_era, (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365 AS year_of_era FROM \
     (SELECT {at} / 86400000 AS day, ({at} / 86400000 + 719468) % 146097 AS day_of_era) w) x) y)";
const DAY_OF_HOUR: &str = "{at} - {at} % 86400000";

/// How one side of a comparison stands to the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    AtMost,
}

/// A side of a comparison: rows, and what tells their groups apart.
struct Side {
    /// `FROM` and `WHERE`, the table with the figures as `c`.
    rows: &'static str,
    /// When the group is, with `{at}` for the row's own moment.
    at: &'static str,
    /// The column of that.
    moment: &'static str,
    /// Columns that tell groups apart beside it.
    columns: &'static [&'static str],
}

struct Comparison {
    /// What is compared, for people.
    what: &'static str,
    finer: Side,
    relation: Relation,
    coarser: Side,
    /// Whether the finer side may be ahead where a release before this one has merged calls last.
    waits: bool,
}

const fn parts(rows: &'static str, at: &'static str, columns: &'static [&'static str]) -> Side {
    Side { rows, at, moment: "c.from_ms", columns }
}

const AS_IT_IS: &str = "{at}";
const WHOLE: &[&str] = &["c.org_id", "c.name", "c.model", "c.provider"];
const OF_MODELS: &[&str] = &["c.org_id", "c.model", "c.provider"];

const COMPARISONS: [Comparison; 10] = [
    Comparison {
        what: "usage_parts all by hour",
        finer: Side {
            rows: "usage_hours c JOIN keys k ON k.id = c.key_id",
            at: AS_IT_IS,
            moment: "c.hour_ms",
            columns: &["k.org", "c.model"],
        },
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'hour'", AS_IT_IS, &["c.org_id", "c.model"]),
        waits: true,
    },
    Comparison {
        what: "usage_parts key by month",
        finer: Side {
            rows: "usage_days c JOIN keys k ON k.id = c.key_id",
            at: MONTH_OF_DAY,
            moment: "c.day_ms",
            columns: &["k.org", "c.key_id"],
        },
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'key'", AS_IT_IS, &["c.org_id", "c.name"]),
        waits: true,
    },
    Comparison {
        what: "usage_parts all by day",
        finer: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'hour'", DAY_OF_HOUR, WHOLE),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'day'", AS_IT_IS, WHOLE),
        waits: false,
    },
    Comparison {
        what: "usage_parts all by month",
        finer: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'day'", MONTH_OF_DAY, WHOLE),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'month'", AS_IT_IS, WHOLE),
        waits: false,
    },
    Comparison {
        what: "usage_parts project by day",
        finer: parts("usage_parts c WHERE c.part = 'project' AND c.unit = 'hour'", DAY_OF_HOUR, WHOLE),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'project' AND c.unit = 'day'", AS_IT_IS, WHOLE),
        waits: false,
    },
    Comparison {
        what: "usage_parts project by month",
        finer: parts("usage_parts c WHERE c.part = 'project' AND c.unit = 'day'", MONTH_OF_DAY, WHOLE),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'project' AND c.unit = 'month'", AS_IT_IS, WHOLE),
        waits: false,
    },
    Comparison {
        // Keys may move to another project, so what a project has used is known here alone; it can't be more than all.
        what: "usage_parts of all projects",
        finer: parts("usage_parts c WHERE c.part = 'project' AND c.unit = 'month'", AS_IT_IS, OF_MODELS),
        relation: Relation::AtMost,
        coarser: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'month'", AS_IT_IS, OF_MODELS),
        waits: false,
    },
    Comparison {
        // A name that is among the others on one day may have a row of its own in the month.
        what: "usage_parts user by month",
        finer: parts("usage_parts c WHERE c.part = 'user' AND c.unit = 'day'", MONTH_OF_DAY, &["c.org_id"]),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'user' AND c.unit = 'month'", AS_IT_IS, &["c.org_id"]),
        waits: false,
    },
    Comparison {
        what: "usage_parts tag by month",
        finer: parts("usage_parts c WHERE c.part = 'tag' AND c.unit = 'day'", MONTH_OF_DAY, &["c.org_id"]),
        relation: Relation::Equal,
        coarser: parts("usage_parts c WHERE c.part = 'tag' AND c.unit = 'month'", AS_IT_IS, &["c.org_id"]),
        waits: false,
    },
    Comparison {
        // A call has one user at most, and any number of tags.
        what: "usage_parts of all users",
        finer: parts("usage_parts c WHERE c.part = 'user' AND c.unit = 'month'", AS_IT_IS, &["c.org_id"]),
        relation: Relation::AtMost,
        coarser: parts("usage_parts c WHERE c.part = 'all' AND c.unit = 'month'", AS_IT_IS, &["c.org_id"]),
        waits: false,
    },
];

/// Holds every sum of organisations against those that it is made of.
pub(super) async fn check_parts(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    let behind = "SELECT COUNT(*) FROM checkpoints WHERE parts_through < merged_through";
    let is_behind = sqlx::query_scalar::<_, i64>(behind).fetch_one(&mut **snapshot).await? > 0;
    for comparison in COMPARISONS.iter().filter(|comparison| !(is_behind && comparison.waits)) {
        compare(snapshot, comparison, report).await?;
    }
    Ok(())
}

/// Goes through the groups of both sides in one order, and holds one of them at a time.
async fn compare(
    snapshot: &mut Transaction,
    comparison: &Comparison,
    report: &mut AuditReport,
) -> Result<(), StoreError> {
    let text = format!("{} UNION ALL {} ORDER BY 1", side(&comparison.finer, 0), side(&comparison.coarser, 1));
    let mut current: Option<(String, [Figures; 2])> = None;
    let mut rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let (group, is_coarser): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        let figures = read_figures(&row, 2)?;
        if current.as_ref().is_none_or(|(known, _)| known != group) {
            let begun = (group.to_owned(), <[Figures; 2]>::default());
            current.replace(begun).into_iter().for_each(|ended| comparison.check(&ended, report));
        }
        if let Some((_, sums)) = &mut current {
            sums[usize::from(is_coarser == 1)].add(&figures);
        }
    }
    current.into_iter().for_each(|ended| comparison.check(&ended, report));
    Ok(())
}

fn side(side: &Side, number: u8) -> String {
    let group: String = side.columns.iter().map(|column| format!(" || ' ' || {column}")).collect();
    let at = side.at.replace("{at}", side.moment);
    let figures: String = figure_columns().map(|column| format!(", c.{column}")).collect();
    format!(
        "SELECT CAST({at} AS TEXT){group} AS in_group, CAST({number} AS BIGINT) AS side{figures} FROM {}",
        side.rows
    )
}

impl Comparison {
    fn check(&self, (group, [finer, coarser]): &(String, [Figures; 2]), report: &mut AuditReport) {
        let is_wrong = |(finer, coarser): &(i64, i64)| match self.relation {
            Relation::Equal => finer != coarser,
            Relation::AtMost => finer > coarser,
        };
        let pairs = finer.0.into_iter().zip(coarser.0);
        let wrong = figure_columns().zip(pairs).filter(|(_, pair)| is_wrong(pair));
        let details: Vec<String> =
            wrong.map(|(name, (finer, coarser))| format!("{name} is {coarser}, but its parts have {finer}")).collect();
        if !details.is_empty() {
            report.find(Invariant::RollupsAreTheirRows, format!("{} {group}", self.what), details.join("; "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, price};
    use crate::store::journal::Checkpoint;
    use filters::attribution::Attribution;
    use filters::id::CallId;

    async fn books() -> Books {
        let books = Books::open().await;
        books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
        let project = books.store.create_project(books.org, "web", &[], NOW).await.expect("made").id;
        let moved = sqlx::query("UPDATE keys SET project = $1").bind(project.to_string());
        moved.execute(&books.store.database.writer).await.expect("moved");
        let calls: Vec<_> = (0..6)
            .map(|number| {
                let (mut intent, mut terminal) = books.call(number, 10, 5);
                intent.started = NOW.plus(number as i64 * 20 * 86_400_000);
                let attribution = Attribution { user: Some("ada".into()), tags: vec!["a".into(), "b=c".into()] };
                intent.attribution = (number % 2 == 0).then(|| Box::new(attribution));
                terminal.provider = if number == 3 { "azure".into() } else { "openai".into() };
                terminal.call = CallId(number + 1);
                (intent, terminal)
            })
            .collect();
        books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
        books
    }

    #[tokio::test]
    async fn each_cooked_sum_of_organisations_is_found() {
        for statement in [
            "UPDATE usage_parts SET calls = calls + 1 WHERE part = 'all' AND unit = 'hour'",
            "UPDATE usage_parts SET charge_nano = charge_nano - 1 WHERE part = 'all' AND unit = 'day'",
            "UPDATE usage_parts SET images = 1 WHERE part = 'all' AND unit = 'month'",
            "UPDATE usage_parts SET provider = 'other' WHERE part = 'all' AND unit = 'day'",
            "DELETE FROM usage_parts WHERE part = 'all' AND unit = 'month'",
            "DELETE FROM usage_parts WHERE part = 'key'",
            "UPDATE usage_parts SET name = 'other' WHERE part = 'key'",
            "UPDATE usage_parts SET calls = 2 WHERE part = 'project' AND unit = 'hour'",
            "UPDATE usage_parts SET calls = calls + 9 WHERE part = 'project'",
            "UPDATE usage_parts SET calls = calls + 1 WHERE part = 'user' AND unit = 'day'",
            "UPDATE usage_parts SET calls = calls + 9 WHERE part = 'user'",
            "DELETE FROM usage_parts WHERE part = 'tag' AND unit = 'month'",
        ] {
            let books = books().await;
            assert_eq!(books.store.audit().await.expect("audited").findings, [], "before");
            let cooked = sqlx::query(statement).execute(&books.store.database.writer).await.expect(statement);
            assert!(cooked.rows_affected() > 0, "{statement}");
            let findings = books.store.audit().await.expect("audited").findings;
            assert!(!findings.is_empty(), "{statement}");
            assert!(findings.iter().all(|finding| finding.invariant == Invariant::RollupsAreTheirRows), "{findings:?}");
        }
    }

    #[tokio::test]
    async fn months_are_the_same_in_sql() {
        let books = Books::open().await;
        for day in (0..80_000).step_by(379).chain([19_782, 19_783, 11_016, 47_540, 47_541]) {
            let text =
                format!("SELECT {}", MONTH_OF_DAY.replace("{at}", &format!("CAST({} AS BIGINT)", day * 86_400_000i64)));
            let query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(text));
            let month: i64 = query.fetch_one(&books.store.database.reader).await.expect("a month");
            assert_eq!(month, crate::store::ledger::month_of(filters::time::EpochMs(day * 86_400_000)).0, "{day}");
        }
    }
}
