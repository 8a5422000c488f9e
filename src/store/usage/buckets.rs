//! Usage in buckets of time, in all or told apart by one thing. Only sums are read, and of those no more than [`ROWS_READ_MAX`], however
//! long the time and however many the calls. `pieces.rs`: the buckets, and the sums that a time is made of.

mod pieces;

pub use pieces::Granularity;

use super::super::ledger::{Figures, PartKind, Unit, figure_columns, read_figures};
use crate::store::engine::On;
use crate::store::{Engine, Rows, Store, StoreError, Transaction};
use filters::id::{KeyId, OrgId, ProjectId};
use filters::time::EpochMs;
use pieces::{Piece, cut};
use sqlx::{QueryBuilder, Row};
use std::collections::BTreeMap;

/// Most rows that are read for one answer.
pub const ROWS_READ_MAX: usize = 10_000;
/// Most looks for a row of a key in an hour or a day: most of them find nothing.
const LOOKS_MAX: i64 = 50_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Whose usage, within an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// All of it.
    All,
    /// One key's.
    Key(KeyId),
    /// One project's.
    Project(ProjectId),
}

/// What usage is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The key that called.
    Key,
    /// The project of that key at the time; an empty name for keys without one.
    Project,
    /// The model's name in the catalogue.
    Model,
    /// The provider that answered.
    Provider,
    /// The end user that the client named; an empty name for those beyond the ones that are told apart.
    User,
    /// Each tag; a call with two counts for both. An empty name as with users.
    Tag,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Whose.
    pub org: OrgId,
    /// Of whom there.
    pub within: Within,
    /// What to tell apart.
    pub by: Option<Dimension>,
    /// Calls admitted since the beginning of this moment's hour; of users and tags, of its day.
    pub from: EpochMs,
    /// And before the end of the hour or day in which this moment is, unless it is the first of it.
    pub to: EpochMs,
    /// The length of a bucket.
    pub granularity: Granularity,
    /// Of this model only.
    pub model: Option<&'a str>,
    /// Of this provider only.
    pub provider: Option<&'a str>,
}

/// A bucket, or what of it has one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// When it begins; the first one may begin before what was asked for, and has nothing of that.
    pub from: EpochMs,
    /// What its calls have in common; empty where nothing is told apart.
    pub name: String,
    /// What they used.
    pub totals: Totals,
}

/// How many figures there are of usage.
pub const TOTALS: usize = 18;

/// What calls used and were charged: calls, those of them charged by an estimate, input tokens, output tokens; of these tokens those read
/// from a cache, written to it for five minutes and for an hour, of sound and of pictures in, of reasoning, of sound and of pictures out;
/// web searches, images, milliseconds of sound, characters, search units; the charge in nano-USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals(pub [i64; TOTALS]);

impl Totals {
    /// Adds others. Stops at the largest number.
    pub fn add(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(figure, other)| *figure = figure.saturating_add(other));
    }
}

/// An answer, or that it would take too many rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Those with calls, in the order of time and name.
    Buckets {
        /// They.
        buckets: Vec<Bucket>,
        /// Rows that were read for them.
        rows_read: usize,
    },
    /// More than [`ROWS_READ_MAX`] rows: longer buckets, or less of something, may do.
    TooMany,
}

/// Where sums of a question are.
#[derive(Clone, Copy)]
enum Source {
    /// In those of organisations.
    Parts(PartKind),
    /// In those of keys, hours and days.
    Keys,
}

impl Question<'_> {
    /// Where the rows are that answer it; the sentence says why there are none.
    fn source(&self) -> Result<Source, &'static str> {
        const OF_KEYS: &str = "usage of keys is not kept by provider: ask for that of the organisation or of a project";
        const OF_NAMES: &str = "usage by end user and by tag is kept of whole organisations: leave out `key`, `project`, `model` and `provider`";
        let is_whole = self.within == Within::All && self.model.is_none() && self.provider.is_none();
        match (self.by, self.within) {
            (Some(Dimension::User), _) if is_whole => Ok(Source::Parts(PartKind::User)),
            (Some(Dimension::Tag), _) if is_whole => Ok(Source::Parts(PartKind::Tag)),
            (Some(Dimension::User | Dimension::Tag), _) => Err(OF_NAMES),
            (Some(Dimension::Key), _) | (_, Within::Key(_)) => {
                let asks_provider = self.provider.is_some() || self.by == Some(Dimension::Provider);
                if asks_provider { Err(OF_KEYS) } else { Ok(Source::Keys) }
            }
            (Some(Dimension::Project), _) | (_, Within::Project(_)) => Ok(Source::Parts(PartKind::Project)),
            (Some(Dimension::Model | Dimension::Provider) | None, Within::All) => Ok(Source::Parts(PartKind::All)),
        }
    }

    /// The sums that its time is made of.
    fn pieces(&self, source: Source) -> Vec<Piece> {
        let shortest = match source {
            Source::Parts(PartKind::User | PartKind::Tag) => Unit::Day,
            Source::Parts(_) | Source::Keys => Unit::Hour,
        };
        // By month, sums of keys are of all models.
        let tells_models = self.model.is_some() || self.by == Some(Dimension::Model);
        let longest = match source {
            Source::Keys if tells_models => self.granularity.unit().min(Unit::Day),
            Source::Keys | Source::Parts(_) => self.granularity.unit().max(shortest),
        };
        let step = if shortest == Unit::Day { Granularity::Day } else { Granularity::Hour };
        let (from, mut to) = (step.beginning(self.from.max(EpochMs(0))), step.beginning(self.to));
        if to < self.to {
            to = step.end(self.to);
        }
        let mut pieces = Vec::new();
        cut(longest, shortest, from, to, &mut pieces);
        pieces
    }

    /// Whether what a row is about was asked for.
    fn is_about(&self, row: &Sum) -> bool {
        self.model.is_none_or(|model| row.model == model)
            && self.provider.is_none_or(|provider| row.provider == provider)
    }

    fn name(&self, row: &Sum) -> String {
        match self.by {
            None => String::new(),
            Some(Dimension::Model) => row.model.clone(),
            Some(Dimension::Provider) => row.provider.clone(),
            Some(Dimension::Key | Dimension::Project | Dimension::User | Dimension::Tag) => row.name.clone(),
        }
    }
}

/// A row of any of the tables.
struct Sum {
    at: EpochMs,
    name: String,
    model: String,
    provider: String,
    figures: Figures,
}

impl Store {
    /// What was used. Sums that wait to come on the books are not among it: they come within `ledger.merge_ms`.
    pub async fn usage_in_buckets(&self, question: &Question<'_>) -> Result<Answer, StoreError> {
        let source = question.source().map_err(StoreError::Refused)?;
        let mut snapshot = self.database.snapshot().await?;
        let (mut sums, mut rows_read) = (Sums::new(), 0);
        for piece in question.pieces(source) {
            let Some(rows) = read(&mut snapshot, question, source, piece, ROWS_READ_MAX - rows_read).await? else {
                return Ok(Answer::TooMany);
            };
            rows_read += rows.len();
            add_rows(question, &rows, &mut sums);
        }
        if question.by == Some(Dimension::Project) && question.within == Within::All {
            let all = Question { by: None, ..*question };
            for piece in all.pieces(Source::Parts(PartKind::All)) {
                let source = Source::Parts(PartKind::All);
                let Some(rows) = read(&mut snapshot, &all, source, piece, ROWS_READ_MAX - rows_read).await? else {
                    return Ok(Answer::TooMany);
                };
                rows_read += rows.len();
                add_rows(&all, &rows, &mut sums);
            }
            leave_rest(&mut sums);
        }
        let buckets = sums.into_iter().map(|((from, name), totals)| Bucket { from, name, totals });
        Ok(Answer::Buckets { buckets: buckets.filter(|bucket| bucket.totals.0[0] > 0).collect(), rows_read })
    }
}

/// Sums by bucket and name.
type Sums = BTreeMap<(EpochMs, String), Totals>;

fn add_rows(question: &Question<'_>, rows: &[Sum], sums: &mut Sums) {
    for row in rows.iter().filter(|row| question.is_about(row)) {
        let at = question.granularity.beginning(row.at);
        sums.entry((at, question.name(row))).or_default().add(&Totals(row.figures.0));
    }
}

/// Leaves under no name what the names of a bucket don't have of all of it.
fn leave_rest(sums: &mut Sums) {
    let named: Vec<(EpochMs, Totals)> =
        sums.iter().filter(|((_, name), _)| !name.is_empty()).map(|((at, _), totals)| (*at, *totals)).collect();
    for (at, totals) in named {
        let all = sums.entry((at, String::new())).or_default();
        all.0.iter_mut().zip(totals.0).for_each(|(figure, part)| *figure = figure.saturating_sub(part));
    }
}

/// The sums of a piece; none if they are more than `most`.
async fn read(
    snapshot: &mut Transaction,
    question: &Question<'_>,
    source: Source,
    piece: Piece,
    most: usize,
) -> Result<Option<Vec<Sum>>, StoreError> {
    let mut query = match source {
        Source::Parts(kind) => of_parts(question, kind, piece),
        Source::Keys if piece.unit == Unit::Month => of_parts(question, PartKind::Key, piece),
        Source::Keys if !may_look(snapshot, question, piece).await? => return Ok(None),
        Source::Keys => of_keys(question, piece),
    };
    // One more than may be says that there are more.
    query.push(" LIMIT ").push_bind(i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1));
    let rows = query.on(snapshot).fetch_all(&mut **snapshot).await?;
    if rows.len() > most {
        return Ok(None);
    }
    rows.iter().map(Sum::read).collect::<Result<_, _>>().map(Some)
}

fn of_parts(question: &Question<'_>, kind: PartKind, piece: Piece) -> QueryBuilder<Engine> {
    let mut query = QueryBuilder::new("SELECT c.from_ms AS at_ms, c.name, c.model, c.provider");
    figure_columns().for_each(|column| _ = query.push(", c.").push(column));
    query.push(" FROM usage_parts c WHERE c.org_id = ").push_bind(question.org.to_string());
    query.push(" AND c.part = ").push_bind(kind.name()).push(" AND c.unit = ").push_bind(piece.unit.name());
    query.push(" AND c.from_ms >= ").push_bind(piece.from.0).push(" AND c.from_ms < ").push_bind(piece.to.0);
    match (kind, question.within) {
        (PartKind::Project, Within::Project(project)) => {
            _ = query.push(" AND c.name = ").push_bind(project.to_string())
        }
        (PartKind::Key, Within::Key(key)) => _ = query.push(" AND c.name = ").push_bind(key.to_string()),
        (PartKind::Key, Within::Project(project)) => {
            query.push(" AND c.name IN (SELECT id FROM keys WHERE project = ").push_bind(project.to_string()).push(")");
        }
        _ => {}
    }
    query
}

fn of_keys(question: &Question<'_>, piece: Piece) -> QueryBuilder<Engine> {
    let (table, column, step) = table_of_keys(piece.unit);
    let mut query = QueryBuilder::new("WITH RECURSIVE moments (from_ms) AS (SELECT CAST(");
    query.push_bind(piece.from.0).push(" AS BIGINT) UNION ALL SELECT from_ms + ").push(step);
    query.push(" FROM moments WHERE from_ms + ").push(step).push(" < CAST(").push_bind(piece.to.0);
    query.push(" AS BIGINT)), whose (id) AS (SELECT id FROM keys WHERE ");
    push_whose(&mut query, question);
    query.push(") SELECT c.").push(column).push(" AS at_ms, c.key_id AS name, c.model, '' AS provider");
    figure_columns().for_each(|figure| _ = query.push(", c.").push(figure));
    query.push(" FROM moments CROSS JOIN whose CROSS JOIN ").push(table).push(" c WHERE c.").push(column);
    query.push(" = moments.from_ms AND c.key_id = whose.id");
    query
}

fn push_whose(query: &mut QueryBuilder<Engine>, question: &Question<'_>) {
    match question.within {
        Within::All => query.push("org = ").push_bind(question.org.to_string()),
        Within::Key(key) => query.push("id = ").push_bind(key.to_string()),
        Within::Project(project) => query.push("project = ").push_bind(project.to_string()),
    };
}

fn table_of_keys(unit: Unit) -> (&'static str, &'static str, i64) {
    match unit {
        Unit::Hour => ("usage_hours", "hour_ms", HOUR_MS),
        Unit::Day | Unit::Month => ("usage_days", "day_ms", DAY_MS),
    }
}

/// Whether there are few enough keys to look for each in each hour or day.
async fn may_look(snapshot: &mut Transaction, question: &Question<'_>, piece: Piece) -> Result<bool, StoreError> {
    let (.., step) = table_of_keys(piece.unit);
    let keys_max = LOOKS_MAX / ((piece.to.0 - piece.from.0) / step).max(1);
    let mut query = QueryBuilder::<Engine>::new("SELECT COUNT(*) FROM (SELECT id FROM keys WHERE ");
    push_whose(&mut query, question);
    query.push(" LIMIT ").push_bind(keys_max + 1).push(") k");
    let row = query.on(snapshot).fetch_one(&mut **snapshot).await?;
    Ok(row.try_get::<i64, _>(0)? <= keys_max)
}

impl Sum {
    fn read(row: &Rows) -> Result<Self, StoreError> {
        Ok(Self {
            at: EpochMs(row.try_get(0)?),
            name: row.try_get(1)?,
            model: row.try_get(2)?,
            provider: row.try_get(3)?,
            figures: read_figures(row, 4)?,
        })
    }
}

/// What the test of plans looks at.
#[cfg(test)]
pub(super) mod tests_of_plans {
    use super::*;

    /// The statement for the longest piece of a question.
    pub(in super::super) fn statement(question: &Question<'_>) -> QueryBuilder<Engine> {
        let source = question.source().expect("it is kept");
        let Source::Parts(kind) = source else { panic!("not of keys") };
        let pieces = question.pieces(source);
        let longest = pieces.into_iter().max_by_key(|piece| piece.unit).expect("a piece");
        of_parts(question, kind, longest)
    }
}
