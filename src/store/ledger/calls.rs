//! Rows of `calls`: how they are written, and what of them is read back.

use super::sums::{Entry, Figures, Sums, figure_columns};
use super::{signed, unsigned};
use crate::store::engine::On;
use crate::store::{Connection, Engine, Rows, StoreError, parsed};
use filters::attribution::Attribution;
use filters::id::{KeyId, OrgId, ProjectId, QuotaId};
use filters::ports::{Intent, Outcome, Share, Terminal};
use filters::price::Tier;
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};
use futures_util::TryStreamExt;
use sqlx::any::AnyArguments;
use sqlx::{Arguments, Encode, QueryBuilder, Row as _, Type};
use std::fmt::Write;
use std::sync::Arc;

/// The columns of a row in the order in which they are written, each with what stands for it in the statement that inserts usual calls:
/// nearly all calls are usual, and what need not be bound costs nothing.
const COLUMNS: [(&str, &str); 39] = [
    ("request_id", "?"),
    ("key_id", "?"),
    ("org_id", "?"),
    ("route", "?"),
    ("model", "?"),
    ("provider", "?"),
    ("streamed", "?"),
    ("status", "200"),
    ("error", "NULL"),
    ("outcome", "'complete'"),
    ("estimated", "0"),
    ("input_tokens", "?"),
    ("output_tokens", "?"),
    ("cache_read_tokens", "?"),
    ("cache_write_5m_tokens", "0"),
    ("cache_write_1h_tokens", "0"),
    ("audio_input_tokens", "0"),
    ("image_input_tokens", "0"),
    ("reasoning_tokens", "?"),
    ("audio_output_tokens", "0"),
    ("image_output_tokens", "0"),
    ("web_searches", "0"),
    ("images", "0"),
    ("audio_milliseconds", "0"),
    ("characters", "0"),
    ("search_units", "0"),
    ("charge_nano", "?"),
    ("reserved_nano", "?"),
    ("price_id", "?"),
    ("tier", "'standard'"),
    ("attempts", "1"),
    ("started_ms", "?"),
    ("first_byte_ms", "?"),
    ("ended_ms", "?"),
    ("shares", "?"),
    ("end_user", "NULL"),
    ("tags", "NULL"),
    ("node", "?"),
    ("seq", "?"),
];

/// What the statement that inserts calls has of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Only what differs from one usual call to another.
    Usual,
    /// All of it.
    Any,
}

impl Form {
    /// The leaner form that a call can be written in.
    pub(super) fn of((intent, terminal): &(Intent, Terminal)) -> Self {
        let is_usual = terminal.status == 200
            && terminal.error.is_none()
            && terminal.outcome == Outcome::Complete
            && !terminal.estimated
            && terminal.tier == Tier::Standard
            && terminal.attempts == 1
            && intent.attribution.is_none()
            && KIND_COLUMNS.iter().all(|(kind, _)| is_usual_kind(*kind) || terminal.usage.get(*kind) == 0);
        if is_usual { Self::Usual } else { Self::Any }
    }
}

/// Whether usual calls have some of a kind.
fn is_usual_kind(kind: Kind) -> bool {
    matches!(kind, Kind::CacheRead | Kind::Reasoning)
}

/// Columns of kinds that are part of a total or of none, in the order of the table.
pub(super) const KIND_COLUMNS: [(Kind, &str); 13] = [
    (Kind::CacheRead, "cache_read_tokens"),
    (Kind::CacheWrite5m, "cache_write_5m_tokens"),
    (Kind::CacheWrite1h, "cache_write_1h_tokens"),
    (Kind::AudioInput, "audio_input_tokens"),
    (Kind::ImageInput, "image_input_tokens"),
    (Kind::Reasoning, "reasoning_tokens"),
    (Kind::AudioOutput, "audio_output_tokens"),
    (Kind::ImageOutput, "image_output_tokens"),
    (Kind::WebSearch, "web_searches"),
    (Kind::Images, "images"),
    (Kind::AudioMilliseconds, "audio_milliseconds"),
    (Kind::Characters, "characters"),
    (Kind::SearchUnits, "search_units"),
];

/// The columns of [`Kind::UNITS`], in that order.
pub(in crate::store) fn unit_columns() -> impl Iterator<Item = &'static str> {
    let column_of = |wanted| KIND_COLUMNS.iter().find(move |(kind, _)| *kind == wanted).map(|(_, column)| *column);
    Kind::UNITS.into_iter().filter_map(column_of)
}

/// The rows that are in no sum yet, of every node: few or none, unless very many keys call. Engines that reorder joins are told
/// not to: there are as many checkpoints as nodes, and of `calls` only the end is wanted.
pub(in crate::store) const TAIL: &str =
    "checkpoints n CROSS JOIN calls c WHERE c.node = n.node AND c.seq > n.merged_through";

/// The rows that are in the sums of keys and not in those of organisations.
const MISSED: &str = "checkpoints n CROSS JOIN calls c WHERE c.node = n.node AND c.seq > n.parts_through \
     AND c.seq <= n.merged_through";

/// Whose calls of the tail are wanted.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Whose<'a> {
    /// Everybody's.
    All,
    /// Those that a node shipped.
    Node(&'a str),
    /// One key's.
    Key(KeyId),
    /// Those of all keys of a project.
    Project(ProjectId),
    /// Those of all keys of an organisation.
    Org(OrgId),
}

/// Inserts calls that are not on the books, numbered from `first_seq` on. All must be of the form.
pub(super) fn insertion(
    form: Form,
    (node, first_seq): (&str, i64),
    calls: &[&(Intent, Terminal)],
) -> QueryBuilder<Engine> {
    let mut row = Row { values: AnyArguments::default(), form };
    for ((intent, terminal), seq) in calls.iter().zip(first_seq..) {
        push_call(&mut row, intent, terminal);
        row.bind(node).bind(seq);
    }
    QueryBuilder::with_arguments(statement(form, calls.len()), row.values)
}

/// Marks are written at once: one by one they would cost more than the values.
fn statement(form: Form, rows: usize) -> String {
    let names = COLUMNS.map(|(name, _)| name).join(", ");
    let marks = COLUMNS.map(|(_, usual)| if form == Form::Usual { usual } else { "?" }).join(",");
    let mut statement = format!("INSERT INTO calls ({names}) VALUES ");
    statement.reserve(rows * (marks.len() + 3) + 64);
    for row in 0..rows {
        statement.push_str(if row == 0 { "(" } else { ",(" });
        statement.push_str(&marks);
        statement.push(')');
    }
    statement.push_str(" ON CONFLICT (request_id) DO NOTHING");
    statement
}

/// The values of rows.
struct Row {
    values: AnyArguments,
    form: Form,
}

impl Row {
    fn bind<'v>(&mut self, value: impl Encode<'v, Engine> + Type<Engine>) -> &mut Self {
        self.values.add(value).expect("numbers and texts can be encoded");
        self
    }

    /// Binds what all usual calls have in common, where they are not all usual.
    fn bind_unusual<'v>(&mut self, value: impl Encode<'v, Engine> + Type<Engine>) -> &mut Self {
        match self.form {
            Form::Usual => self,
            Form::Any => self.bind(value),
        }
    }
}

fn push_call(row: &mut Row, intent: &Intent, terminal: &Terminal) {
    row.bind(intent.call.to_string())
        .bind(intent.key.to_string())
        .bind(intent.org.to_string())
        .bind(intent.route.name())
        .bind(&*intent.model)
        .bind(&*terminal.provider)
        .bind(i64::from(intent.streamed))
        .bind_unusual(i64::from(terminal.status))
        .bind_unusual(terminal.error.map(|code| code.name()))
        .bind_unusual(terminal.outcome.name())
        .bind_unusual(i64::from(terminal.estimated))
        .bind(signed(terminal.usage.input_total()))
        .bind(signed(terminal.usage.output_total()));
    for (kind, _) in KIND_COLUMNS {
        let count = signed(terminal.usage.get(kind));
        if is_usual_kind(kind) {
            row.bind(count)
        } else {
            row.bind_unusual(count)
        };
    }
    row.bind(terminal.charge.0)
        .bind(terminal.reserved.0)
        .bind(signed(terminal.price.0))
        .bind_unusual(terminal.tier.name())
        .bind_unusual(i64::from(terminal.attempts))
        .bind(intent.started.0)
        .bind(i64::from(terminal.first_byte_ms))
        .bind(terminal.ended.0)
        .bind(shares_text(&intent.shares));
    let attribution = intent.attribution.as_deref();
    let tags = attribution.map(|attribution| &attribution.tags).filter(|tags| !tags.is_empty());
    row.bind_unusual(attribution.and_then(|attribution| attribution.user.as_deref()))
        .bind_unusual(tags.map(|tags| tags.join(" ")));
}

/// Sums up the rows that are in no sum yet, and says the highest number among them.
pub(super) async fn sum_up(connection: &mut Connection, whose: Whose<'_>) -> Result<(Sums, i64), StoreError> {
    sum_of(connection, TAIL, whose).await
}

/// Sums up a node's rows that a release before this one has merged, which knew nothing of some of the sums.
pub(super) async fn sum_up_missed(connection: &mut Connection, node: &str) -> Result<Sums, StoreError> {
    Ok(sum_of(connection, MISSED, Whose::Node(node)).await?.0)
}

async fn sum_of(connection: &mut Connection, rows: &str, whose: Whose<'_>) -> Result<(Sums, i64), StoreError> {
    let mut query = QueryBuilder::<Engine>::new(
        "SELECT c.seq, c.key_id, c.org_id, c.model, c.provider, c.started_ms, c.shares, c.end_user, c.tags",
    );
    for column in figure_columns() {
        match column {
            "calls" => query.push(", CAST(1 AS BIGINT) AS calls"),
            column => query.push(", c.").push(column),
        };
    }
    query.push(" FROM ").push(rows);
    match whose {
        Whose::All => &mut query,
        Whose::Node(node) => query.push(" AND n.node = ").push_bind(node),
        Whose::Key(key) => query.push(" AND c.key_id = ").push_bind(key.to_string()),
        Whose::Project(project) => query
            .push(" AND c.key_id IN (SELECT id FROM keys WHERE project = ")
            .push_bind(project.to_string())
            .push(")"),
        Whose::Org(org) => query.push(" AND c.org_id = ").push_bind(org.to_string()),
    };
    let (mut sums, mut last_seq) = (Sums::default(), 0);
    let mut rows = query.on(connection).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        last_seq = last_seq.max(row.try_get("seq")?);
        let [model, provider]: [Arc<str>; 2] =
            [row.try_get::<&str, _>("model")?.into(), row.try_get::<&str, _>("provider")?.into()];
        sums.add(&Entry {
            key: parsed(&row, "key_id")?,
            org: parsed(&row, "org_id")?,
            model: &model,
            provider: &provider,
            started: EpochMs(row.try_get("started_ms")?),
            figures: read_figures(&row, 9)?,
            shares: &read_shares(&row)?,
            attribution: read_attribution(&row)?.as_ref(),
        });
    }
    Ok((sums, last_seq))
}

/// For whom and for what a row's call was.
pub(in crate::store) fn read_attribution(row: &Rows) -> Result<Option<Attribution>, StoreError> {
    let [user, tags]: [Option<String>; 2] = [row.try_get("end_user")?, row.try_get("tags")?];
    if user.is_none() && tags.is_none() {
        return Ok(None);
    }
    let tags = tags.unwrap_or_default().split_ascii_whitespace().map(Arc::from).collect();
    Ok(Some(Attribution { user: user.map(Arc::from), tags }))
}

/// Reads the columns of figures, of which one is the first.
pub(in crate::store) fn read_figures(row: &Rows, first: usize) -> Result<Figures, StoreError> {
    let mut figures = Figures::default();
    for (figure, place) in figures.0.iter_mut().zip(first..) {
        *figure = row.try_get(place)?;
    }
    Ok(figures)
}

fn shares_text(shares: &[Share]) -> String {
    let mut text = String::with_capacity(shares.len() * 16);
    for share in shares {
        let separator = if text.is_empty() { "" } else { " " };
        // Writing to a String can't fail.
        let _ = write!(text, "{separator}{}:{}", share.quota.0, share.period.0);
    }
    text
}

/// Where a row's charge goes.
pub(in crate::store) fn read_shares(row: &Rows) -> Result<Vec<Share>, StoreError> {
    let text: &str = row.try_get("shares")?;
    let read = |share: &str| {
        let (quota, period) = share.split_once(':')?;
        Some(Share { quota: QuotaId(quota.parse().ok()?), period: EpochMs(period.parse().ok()?) })
    };
    let shares: Option<Vec<Share>> = text.split_ascii_whitespace().map(read).collect();
    shares.ok_or_else(|| StoreError::Corrupt { column: "calls.shares", content: text.to_owned() })
}

/// Reads back what a row of `calls` says was used: the plain kinds are what the totals leave.
pub(in crate::store) fn read_usage(row: &Rows) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    for (kind, column) in KIND_COLUMNS {
        usage = usage.with(kind, unsigned(row.try_get(column)?));
    }
    let input = unsigned(row.try_get("input_tokens")?).saturating_sub(usage.input_total());
    let output = unsigned(row.try_get("output_tokens")?).saturating_sub(usage.output_total());
    Ok(usage.with(Kind::Input, input).with(Kind::Output, output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::Books;
    use crate::store::journal::Checkpoint;
    use filters::denied::Code;

    /// All columns of all calls but for what tells calls apart.
    async fn rows(books: &Books) -> Vec<Vec<String>> {
        let columns = COLUMNS.map(|(name, _)| format!("CAST({name} AS TEXT)")).join(", ");
        let query = format!("SELECT {columns} FROM calls ORDER BY seq");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&books.store.database.reader).await.expect("rows");
        let column = |row: &Rows, at| row.get::<Option<String>, _>(at).unwrap_or_default();
        rows.iter().map(|row| (1..COLUMNS.len() - 1).map(|at| column(row, at)).collect()).collect()
    }

    #[tokio::test]
    async fn a_usual_call_is_written_like_any_other() {
        let books = Books::open().await;
        let mut calls = [books.call(0, 10, 5), books.call(1, 10, 5), books.call(2, 10, 5)];
        for (intent, terminal) in &mut calls {
            intent.streamed = true;
            terminal.usage = Usage::of(10, 5).with(Kind::CacheRead, 2).with(Kind::Reasoning, 3);
        }
        assert!(calls.iter().all(|call| Form::of(call) == Form::Usual));
        let mut connection = books.store.database.writer.acquire().await.expect("a connection");
        for (form, calls) in [(Form::Usual, &calls[..2]), (Form::Any, &calls[2..])] {
            let calls: Vec<_> = calls.iter().collect();
            let first = if form == Form::Usual { 1 } else { 3 };
            let inserted = insertion(form, ("node", first), &calls).on(&connection).execute(&mut *connection).await;
            inserted.expect("inserted");
        }
        drop(connection);
        let rows = rows(&books).await;
        assert!(rows.len() == 3 && rows.iter().all(|row| *row == rows[0]), "{rows:?}");
    }

    #[tokio::test]
    async fn whatever_is_not_usual_of_a_call_is_written() {
        let books = Books::open().await;
        let unusual: [fn(&mut Terminal); 8] = [
            |_| {},
            |terminal| terminal.status = 201,
            |terminal| terminal.error = Some(Code::UpstreamFailed),
            |terminal| terminal.outcome = Outcome::ClientGone,
            |terminal| terminal.estimated = true,
            |terminal| terminal.tier = Tier::Priority,
            |terminal| terminal.attempts = 2,
            |terminal| terminal.usage = terminal.usage.with(Kind::Images, 1),
        ];
        let mut calls: Vec<_> = (0..8).map(|number| books.call(number, 10, 5)).collect();
        for (change, (_, terminal)) in unusual.iter().zip(&mut calls) {
            change(terminal);
        }
        let forms: Vec<_> = calls.iter().map(Form::of).collect();
        assert_eq!((forms[0], &forms[1..]), (Form::Usual, &[Form::Any; 7][..]));
        books.store.ship("node", &calls, Checkpoint::default()).await.expect("shipped");
        let rows = rows(&books).await;
        let differing = |row: &Vec<String>| row.iter().zip(&rows[0]).filter(|(one, usual)| one != usual).count();
        assert_eq!(rows.iter().map(differing).collect::<Vec<_>>(), [0, 1, 1, 1, 1, 1, 1, 1]);
    }
}
