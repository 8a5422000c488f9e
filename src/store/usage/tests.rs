//! Usage by everything that it is told apart by: what is summed up, and how few rows are read for it.

use super::buckets::{self, Answer, Dimension, Granularity, Question, ROWS_READ_MAX, TOTALS, Totals, Within};
use crate::store::audit::{Finding, Invariant};
use crate::store::engine::{On, is_server};
use crate::store::fixture::{Books, NOW, price};
use crate::store::journal::Checkpoint;
use crate::store::ledger::{LedgerSettings, figure_columns};
use filters::attribution::Attribution;
use filters::id::{CallId, KeyId, OrgId, ProjectId, bits};
use filters::ports::{Intent, Terminal};
use filters::time::EpochMs;
use sqlx::{AssertSqlSafe, Execute, Row};

const DAY_MS: i64 = 86_400_000;
/// The first of the month and year in which the tests' day is.
const JANUARY: EpochMs = EpochMs(NOW.0 - 14 * DAY_MS);

/// A call, so many hours after the beginning of the tests' day.
fn call(books: &Books, number: u128, hours: i64) -> (Intent, Terminal) {
    let (mut intent, mut terminal) = books.call(number, 10, 5);
    intent.started = NOW.plus(hours * 3_600_000);
    intent.call = CallId(bits(intent.started, [number as u8; 10]));
    (terminal.call, terminal.ended) = (intent.call, intent.started.plus(20));
    (intent, terminal)
}

fn named(user: Option<&str>, tags: &[&str]) -> Option<Box<Attribution>> {
    let tags = tags.iter().map(|tag| (*tag).into()).collect();
    Some(Box::new(Attribution { user: user.map(Into::into), tags }))
}

fn question(books: &Books, by: Option<Dimension>) -> Question<'static> {
    Question {
        org: books.org,
        within: Within::All,
        by,
        from: JANUARY,
        to: JANUARY.plus(59 * DAY_MS),
        granularity: Granularity::Month,
        model: None,
        provider: None,
    }
}

/// Names and numbers of calls, over all buckets.
async fn calls(books: &Books, question: &Question<'_>) -> Vec<(String, i64)> {
    let Answer::Buckets { buckets, .. } = books.store.usage_in_buckets(question).await.expect("read") else {
        panic!("too many rows for {question:?}");
    };
    buckets.into_iter().map(|bucket| (bucket.name, bucket.totals.0[0])).collect()
}

async fn execute(books: &Books, text: String) {
    let done = sqlx::query(AssertSqlSafe(text.clone())).execute(&books.store.database.writer).await;
    done.unwrap_or_else(|error| panic!("{error}: {text}"));
}

/// A key in a project and one without, calls of two models at two providers, some of which say for whom they are.
async fn varied() -> (Books, ProjectId, KeyId) {
    let books = Books::open().await;
    books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
    let project = books.store.create_project(books.org, "web", &[], NOW).await.expect("made").id;
    let mut new = crate::store::fixture::new_key(books.org);
    new.project = Some(project);
    let second = books.store.create_key(&new, NOW).await.expect("a key").id;
    let mut all: Vec<_> = (0..6).map(|number| call(&books, number, number as i64)).collect();
    all[1].0.model = "other".into();
    all[2].1.provider = "azure".into();
    for (intent, _) in &mut all[3..] {
        intent.key = second;
    }
    all[0].0.attribution = named(Some("ada"), &["a", "b=c"]);
    all[3].0.attribution = named(Some("ada"), &[]);
    all[4].0.attribution = named(Some("bob"), &["a"]);
    books.store.ship("node", &all, Checkpoint::default()).await.expect("shipped");
    (books, project, second)
}

#[tokio::test]
async fn usage_is_told_apart_by_each_thing() {
    let (books, project, second) = varied().await;
    let (project_name, names) = (project.to_string(), [books.key.to_string(), second.to_string()]);
    let pair = |name: &str, calls: i64| (name.to_owned(), calls);
    for granularity in [Granularity::Hour, Granularity::Day, Granularity::Week, Granularity::Month] {
        let ask = async |by| {
            let mut sums = std::collections::BTreeMap::new();
            for (name, calls) in calls(&books, &Question { granularity, ..question(&books, by) }).await {
                *sums.entry(name).or_insert(0) += calls;
            }
            sums.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(ask(None).await, [pair("", 6)]);
        assert_eq!(ask(Some(Dimension::Model)).await, [pair("gpt-4o-mini", 5), pair("other", 1)]);
        assert_eq!(ask(Some(Dimension::Provider)).await, [pair("azure", 1), pair("openai", 5)]);
        assert_eq!(ask(Some(Dimension::Project)).await, [pair("", 3), pair(&project_name, 3)]);
        let mut keys = names.clone().map(|name| (name, 3));
        keys.sort();
        assert_eq!(ask(Some(Dimension::Key)).await, keys);
        assert_eq!(ask(Some(Dimension::User)).await, [pair("ada", 2), pair("bob", 1)]);
        assert_eq!(ask(Some(Dimension::Tag)).await, [pair("a", 2), pair("b=c", 1)]);
    }
}

#[tokio::test]
async fn usage_of_a_part_is_its_own() {
    let (books, project, second) = varied().await;
    let of = |within, by| Question { within, granularity: Granularity::Day, ..question(&books, by) };
    let pair = |name: &str, calls: i64| (name.to_owned(), calls);
    let model = Some(Dimension::Model);
    let first = calls(&books, &of(Within::Key(books.key), model)).await;
    assert_eq!(first, [pair("gpt-4o-mini", 2), pair("other", 1)]);
    let by_month = Question { granularity: Granularity::Month, ..of(Within::Key(books.key), model) };
    assert_eq!(calls(&books, &by_month).await, first);
    assert_eq!(calls(&books, &of(Within::Project(project), model)).await, [pair("gpt-4o-mini", 3)]);
    assert_eq!(calls(&books, &of(Within::Project(project), Some(Dimension::Provider))).await, [pair("openai", 3)]);
    let key_of_project = of(Within::Project(project), Some(Dimension::Key));
    for granularity in [Granularity::Day, Granularity::Month] {
        let asked = Question { granularity, ..key_of_project };
        assert_eq!(calls(&books, &asked).await, [pair(&second.to_string(), 3)]);
    }
    let of_azure = Question { provider: Some("azure"), ..question(&books, None) };
    assert_eq!(calls(&books, &of_azure).await, [pair("", 1)]);
    let of_other = Question { model: Some("other"), ..question(&books, Some(Dimension::Key)) };
    assert_eq!(calls(&books, &of_other).await, [pair(&books.key.to_string(), 1)]);
    let stranger = Question { org: OrgId(7), ..question(&books, None) };
    assert_eq!(calls(&books, &stranger).await, []);
    // Hours at the ends of a time count, and nothing else of their days.
    let part = Question { from: NOW.plus(3_600_001), to: NOW.plus(3 * 3_600_000), ..question(&books, None) };
    assert_eq!(calls(&books, &part).await, [pair("", 2)]);
    for (within, by) in [
        (Within::Key(second), Dimension::Provider),
        (Within::Key(second), Dimension::User),
        (Within::Project(project), Dimension::Tag),
    ] {
        assert!(books.store.usage_in_buckets(&of(within, Some(by))).await.is_err(), "{by:?}");
    }
}

#[tokio::test]
async fn names_beyond_those_told_apart_are_summed_up_without_one() {
    let mut books = Books::open().await;
    let settings = LedgerSettings { names_max: 3, ..LedgerSettings::default() };
    books.store = books.store.clone().with_ledger_settings(settings);
    for round in 0..3u128 {
        let shipped: Vec<_> = (0..4u128)
            .map(|number| {
                let (mut intent, terminal) = call(&books, round * 4 + number, round as i64 * 24);
                let name = format!("user-{}", if round == 2 { number } else { round * 2 + number });
                intent.attribution = named(Some(&name), &[]);
                (intent, terminal)
            })
            .collect();
        books.store.ship("node", &shipped, Checkpoint::default()).await.expect("shipped");
    }
    let by_day = Question { granularity: Granularity::Day, ..question(&books, Some(Dimension::User)) };
    let days = calls(&books, &by_day).await;
    let first: Vec<_> = days[..4].iter().map(|(name, calls)| (name.as_str(), *calls)).collect();
    assert_eq!(first, [("", 1), ("user-0", 1), ("user-1", 1), ("user-2", 1)]);
    // Those of the month are the first three that came, whatever day it is.
    let month = calls(&books, &question(&books, Some(Dimension::User))).await;
    let month: Vec<_> = month.iter().map(|(name, calls)| (name.as_str(), *calls)).collect();
    assert_eq!(month, [("", 5), ("user-0", 2), ("user-1", 2), ("user-2", 3)]);
}

/// What the audit says of sums of usage.
async fn wrong_sums(books: &Books) -> Vec<Finding> {
    let findings = books.store.audit().await.expect("audited").findings;
    findings.into_iter().filter(|finding| finding.invariant == Invariant::RollupsAreTheirRows).collect()
}

#[tokio::test]
async fn what_a_release_before_has_merged_is_made_good() {
    let (books, ..) = varied().await;
    let whole = calls(&books, &question(&books, Some(Dimension::Provider))).await;
    // As that release leaves the books: it knows nothing of these sums.
    execute(&books, "DELETE FROM usage_parts".to_owned()).await;
    execute(&books, "UPDATE checkpoints SET parts_through = 0".to_owned()).await;
    assert_eq!(wrong_sums(&books).await, [], "what is behind is not wrong");
    let again = crate::store::fixture::open(books.dir.path()).await;
    again.merge("node", crate::store::journal::Merge::All).await.expect("merged");
    assert_eq!(calls(&books, &question(&books, Some(Dimension::Provider))).await, whole);
    assert_eq!(wrong_sums(&books).await, []);
    again.merge("node", crate::store::journal::Merge::All).await.expect("merged");
    assert_eq!(calls(&books, &question(&books, Some(Dimension::Provider))).await, whole);
}

#[tokio::test]
async fn the_migration_sums_up_what_there_was() {
    let (books, ..) = varied().await;
    let late = [call(&books, 9, 24 * 70), call(&books, 10, 24 * 400)];
    books.store.ship("node", &late, Checkpoint::default()).await.expect("shipped");
    let rows = async || {
        let text = "SELECT org_id || ' ' || part || ' ' || unit || ' ' || CAST(from_ms AS TEXT) || ' ' || name || ' ' || model \
                    || ' ' || provider || ' ' || CAST(calls AS TEXT) || ' ' || CAST(charge_nano AS TEXT) AS line \
                    FROM usage_parts WHERE part NOT IN ('user', 'tag') ORDER BY 1";
        let read = sqlx::query_scalar::<_, String>(text).fetch_all(&books.store.database.reader).await;
        read.expect("rows")
    };
    let kept = rows().await;
    assert!(kept.len() > 20);
    execute(&books, "DELETE FROM usage_parts".to_owned()).await;
    let migration = include_str!("../migrations/0015_usage.sql");
    let (_, statements) = migration.split_once("-- What earlier releases wrote down.").expect("its second part");
    for statement in statements.split(';').filter(|statement| !statement.trim().is_empty()) {
        execute(&books, statement.to_owned()).await;
    }
    assert_eq!(rows().await, kept);
}

/// Writes a year of ten million calls into the sums: 20 projects, 400 keys, 4 models at 2 providers, 800 users and as many tags.
async fn a_year(books: &Books) {
    let columns: String = figure_columns().map(|column| format!(", {column}")).collect();
    let figures = ", 143".repeat(TOTALS);
    let year = |step: i64| {
        let (from, to) = (JANUARY.0, JANUARY.0 + 364 * DAY_MS);
        format!(
            "moments (m) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT m + {step} FROM moments WHERE m + {step} <= {to})"
        )
    };
    let months = (0..12).map(|month| format!("({})", JANUARY.0 + month * 31 * DAY_MS)).collect::<Vec<_>>().join(", ");
    let months = format!("moments (m) AS (VALUES {months})");
    let names = |count: u32| {
        format!(
            "names (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM names WHERE n < {count}), models (model) AS (VALUES ('a'), ('b'), ('c'), ('d')), \
                 providers (provider) AS (VALUES ('p'), ('q'))"
        )
    };
    let nowhere = names(1);
    let hour = 3_600_000;
    for (part, unit, moments, names, name, each) in [
        ("all", "hour", year(hour), &nowhere, "''", true),
        ("all", "day", year(DAY_MS), &nowhere, "''", true),
        ("all", "month", months.clone(), &nowhere, "''", true),
        ("project", "day", year(DAY_MS), &names(20), "'proj_' || CAST(n AS TEXT)", true),
        ("project", "month", months.clone(), &names(20), "'proj_' || CAST(n AS TEXT)", true),
        ("key", "month", months.clone(), &names(400), "'key_' || CAST(n AS TEXT)", false),
        ("user", "day", year(DAY_MS), &names(100), "'user-' || CAST(n AS TEXT)", false),
        ("user", "month", months.clone(), &names(800), "'user-' || CAST(n AS TEXT)", false),
        ("tag", "month", months.clone(), &names(800), "'tag-' || CAST(n AS TEXT)", false),
    ] {
        let (of, joined) =
            if each { ("model, provider", " CROSS JOIN models CROSS JOIN providers") } else { ("'', ''", "") };
        let insert = format!(
            "INSERT INTO usage_parts (org_id, part, unit, from_ms, name, model, provider{columns}) \
             WITH RECURSIVE {moments}, {names} SELECT '{}', '{part}', '{unit}', m, {name}, {of}{figures} \
             FROM moments CROSS JOIN names{joined}",
            books.org
        );
        execute(books, insert).await;
    }
    let of_key = format!(
        "INSERT INTO usage_days (day_ms, key_id, model{columns}) WITH RECURSIVE {}, {nowhere} \
         SELECT m, '{}', model{figures} FROM moments CROSS JOIN models",
        year(DAY_MS),
        books.key
    );
    execute(books, of_key).await;
}

#[tokio::test]
async fn a_year_of_ten_million_calls_is_ten_thousand_rows_at_most() {
    let books = Books::open().await;
    a_year(&books).await;
    let year = |granularity, within, by| Question {
        within,
        granularity,
        to: JANUARY.plus(365 * DAY_MS),
        ..question(&books, by)
    };
    let total = async |question: &Question<'_>| {
        let Answer::Buckets { buckets, rows_read } = books.store.usage_in_buckets(question).await.expect("read") else {
            panic!("too many rows for {question:?}");
        };
        assert!((1..=ROWS_READ_MAX).contains(&rows_read), "{rows_read} rows for {question:?}");
        let mut total = Totals::default();
        buckets.iter().for_each(|bucket| total.add(&bucket.totals));
        total.0[0]
    };
    let by_hour = Question { to: JANUARY.plus(30 * DAY_MS), ..year(Granularity::Hour, Within::All, None) };
    assert_eq!(total(&by_hour).await, 143 * 8 * 24 * 30);
    // The rows of a day are as many as those of an hour here: it is rows that are counted.
    for by in [None, Some(Dimension::Model), Some(Dimension::Provider)] {
        for granularity in [Granularity::Day, Granularity::Week] {
            assert_eq!(total(&year(granularity, Within::All, by)).await, 143 * 8 * 365);
        }
        assert!(total(&year(Granularity::Month, Within::All, by)).await > 0);
    }
    for by in [Dimension::Project, Dimension::Key, Dimension::User, Dimension::Tag] {
        assert!(total(&year(Granularity::Month, Within::All, Some(by))).await > 0, "{by:?}");
    }
    let of_key = year(Granularity::Day, Within::Key(books.key), Some(Dimension::Model));
    assert_eq!(total(&of_key).await, 143 * 4 * 365);
    // What would be more is not read to its end.
    let too_many = year(Granularity::Hour, Within::All, None);
    assert_eq!(books.store.usage_in_buckets(&too_many).await.expect("read"), Answer::TooMany);
}

#[tokio::test]
async fn sums_are_found_by_their_index() {
    let books = Books::open().await;
    a_year(&books).await;
    let mut connection = books.store.database.writer.acquire().await.expect("a connection");
    let is_on_server = is_server(&connection);
    if is_on_server {
        sqlx::query("ANALYZE usage_parts").execute(&mut *connection).await.expect("analysed");
    }
    for by in [None, Some(Dimension::Project), Some(Dimension::User)] {
        let asked = Question { granularity: Granularity::Day, to: JANUARY.plus(7 * DAY_MS), ..question(&books, by) };
        let mut query = buckets::tests_of_plans::statement(&asked);
        let mut built = query.on(&connection);
        let arguments = built.take_arguments().expect("encoded").unwrap_or_default();
        let explain = if is_on_server { "EXPLAIN" } else { "EXPLAIN QUERY PLAN" };
        let text = format!("{explain} {}", built.sql().as_str());
        let rows = sqlx::query_with(AssertSqlSafe(text), arguments).fetch_all(&mut *connection).await.expect("a plan");
        let column = if is_on_server { "QUERY PLAN" } else { "detail" };
        let plan: Vec<String> = rows.iter().map(|row| row.get(column)).collect();
        let plan = plan.join("\n");
        if is_on_server {
            assert!(plan.contains("usage_parts_pkey") && !plan.contains("Seq Scan"), "{plan}");
        } else {
            let wanted = "SEARCH c USING PRIMARY KEY (org_id=? AND part=? AND unit=? AND from_ms>? AND from_ms<?)";
            assert!(plan.contains(wanted) && !plan.contains("SCAN"), "{plan}");
        }
    }
}
