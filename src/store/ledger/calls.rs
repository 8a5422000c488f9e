//! Rows of `calls`: how they are written, and what of them is read back.

use super::sums::{Entry, Figures, Sums, figure_columns};
use super::{signed, unsigned};
use crate::store::engine::On;
use crate::store::{Connection, Engine, Rows, StoreError, parsed};
use filters::id::{KeyId, OrgId, ProjectId, QuotaId};
use filters::ports::{Intent, Share, Terminal};
use filters::time::EpochMs;
use filters::usage::{Kind, Usage};
use futures_util::TryStreamExt;
use sqlx::any::AnyArguments;
use sqlx::{Arguments, Encode, QueryBuilder, Row, Type};
use std::fmt::Write;
use std::sync::Arc;

const INSERT: &str = "INSERT INTO calls (request_id, key_id, org_id, route, model, provider, streamed, status, error, \
     outcome, estimated, input_tokens, output_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, \
     audio_input_tokens, image_input_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, web_searches, \
     images, audio_milliseconds, characters, search_units, charge_nano, reserved_nano, price_id, tier, attempts, started_ms, first_byte_ms, ended_ms, shares, node, seq) VALUES ";
/// Columns of a row.
const COLUMNS: usize = 37;

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

/// Inserts calls that are not on the books, numbered from `first_seq` on.
pub(super) fn insertion(node: &str, first_seq: i64, calls: &[(Intent, Terminal)]) -> QueryBuilder<Engine> {
    let mut rows = Values::default();
    for ((intent, terminal), seq) in calls.iter().zip(first_seq..) {
        push_call(&mut rows, intent, terminal);
        rows.push_bind(node).push_bind(seq);
    }
    let row = format!("({})", ["?"; COLUMNS].join(","));
    let statement = format!("{INSERT}{} ON CONFLICT (request_id) DO NOTHING", vec![row; calls.len()].join(","));
    QueryBuilder::with_arguments(statement, rows.0)
}

/// The values of rows. Their marks are all alike and written at once: one by one they would cost more than the values.
#[derive(Default)]
struct Values(AnyArguments);

impl Values {
    fn push_bind<'v>(&mut self, value: impl Encode<'v, Engine> + Type<Engine>) -> &mut Self {
        self.0.add(value).expect("numbers and texts can be encoded");
        self
    }
}

fn push_call(row: &mut Values, intent: &Intent, terminal: &Terminal) {
    row.push_bind(intent.call.to_string())
        .push_bind(intent.key.to_string())
        .push_bind(intent.org.to_string())
        .push_bind(intent.route.name())
        .push_bind(&*intent.model)
        .push_bind(&*terminal.provider)
        .push_bind(i64::from(intent.streamed))
        .push_bind(i64::from(terminal.status))
        .push_bind(terminal.error.map(|code| code.name()))
        .push_bind(terminal.outcome.name())
        .push_bind(i64::from(terminal.estimated))
        .push_bind(signed(terminal.usage.input_total()))
        .push_bind(signed(terminal.usage.output_total()));
    for (kind, _) in KIND_COLUMNS {
        row.push_bind(signed(terminal.usage.get(kind)));
    }
    row.push_bind(terminal.charge.0)
        .push_bind(terminal.reserved.0)
        .push_bind(signed(terminal.price.0))
        .push_bind(terminal.tier.name())
        .push_bind(i64::from(terminal.attempts))
        .push_bind(intent.started.0)
        .push_bind(i64::from(terminal.first_byte_ms))
        .push_bind(terminal.ended.0)
        .push_bind(shares_text(&intent.shares));
}

/// Sums up the rows that are in no sum yet, and says the highest number among them.
pub(super) async fn sum_up(connection: &mut Connection, whose: Whose<'_>) -> Result<(Sums, i64), StoreError> {
    let mut query = QueryBuilder::<Engine>::new("SELECT c.seq, c.key_id, c.org_id, c.model, c.started_ms, c.shares");
    for column in figure_columns() {
        match column {
            "calls" => query.push(", CAST(1 AS BIGINT) AS calls"),
            column => query.push(", c.").push(column),
        };
    }
    query.push(" FROM ").push(TAIL);
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
        let model: Arc<str> = row.try_get::<&str, _>("model")?.into();
        sums.add(&Entry {
            key: parsed(&row, "key_id")?,
            org: parsed(&row, "org_id")?,
            model: &model,
            started: EpochMs(row.try_get("started_ms")?),
            figures: read_figures(&row, 6)?,
            shares: &read_shares(&row)?,
        });
    }
    Ok((sums, last_seq))
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
