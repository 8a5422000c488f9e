//! Sums of organisations: what their calls used by hour, day and month, by model and provider, by project, by key, and by what clients
//! say of them. A year of any of them is few rows.

use super::merge::{chunks, push_addition};
use super::sums::{Figures, Named, Naming, Sums, day_of, figure_columns, month_of, summed};
use crate::store::engine::On;
use crate::store::{Connection, Engine, LIST_MAX, StoreError, parsed, push_list};
use filters::id::{KeyId, OrgId};
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What the sums of an organisation are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) enum PartKind {
    /// By nothing but model and provider.
    All,
    /// By project, model and provider.
    Project,
    /// By key.
    Key,
    /// By the end user that the client names.
    User,
    /// By each tag: a call with two tags counts for both.
    Tag,
}

impl PartKind {
    /// The name in the table.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Project => "project",
            Self::Key => "key",
            Self::User => "user",
            Self::Tag => "tag",
        }
    }
}

/// How long a sum's calls are, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) enum Unit {
    Hour,
    Day,
    Month,
}

impl Unit {
    /// The name in the table.
    pub(in crate::store) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    fn beginning(self, hour: EpochMs) -> EpochMs {
        match self {
            Self::Hour => hour,
            Self::Day => day_of(hour),
            Self::Month => month_of(hour),
        }
    }
}

/// Rows that users and tags are counted in: those of an organisation in a day or a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Shelf {
    org: OrgId,
    kind: PartKind,
    unit: Unit,
    from: EpochMs,
}

/// The key of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Part {
    shelf: Shelf,
    name: Arc<str>,
    model: Arc<str>,
    provider: Arc<str>,
}

/// Adds sums to those of their organisations.
pub(super) async fn add(connection: &mut Connection, sums: &[&Sums], names_max: usize) -> Result<(), StoreError> {
    let projects = projects_of(connection, sums).await?;
    let mut parts = HashMap::new();
    for sums in sums {
        add_uses(&mut parts, sums, &projects);
    }
    let mut shelves: HashMap<Shelf, Vec<(Arc<str>, Figures)>> = HashMap::new();
    for (named, figures) in sums.iter().flat_map(|sums| sums.named()) {
        for shelf in shelves_of(named) {
            shelves.entry(shelf).or_default().push((Arc::clone(&named.name), *figures));
        }
    }
    for (shelf, mut names) in shelves {
        put_others_together(connection, shelf, &mut names, names_max).await?;
        for (name, figures) in names {
            parts.entry(Part::of_all_models(shelf, name)).or_default().add(&figures);
        }
    }
    // In one order, so that nodes which add to the same rows wait for one another rather than both.
    for chunk in chunks(&summed(parts.into_iter())) {
        upsert(connection, chunk).await?;
    }
    Ok(())
}

impl Part {
    fn of_all_models(shelf: Shelf, name: Arc<str>) -> Self {
        Self { shelf, name, model: "".into(), provider: "".into() }
    }
}

fn shelves_of(named: &Named) -> [Shelf; 2] {
    let kind = match named.by {
        Naming::User => PartKind::User,
        Naming::Tag => PartKind::Tag,
    };
    [Unit::Day, Unit::Month].map(|unit| Shelf { org: named.org, kind, unit, from: unit.beginning(named.day) })
}

/// What the keys of organisations used: in all, of their projects, and of each of them.
fn add_uses(parts: &mut HashMap<Part, Figures>, sums: &Sums, projects: &HashMap<KeyId, Arc<str>>) {
    let nothing: Arc<str> = "".into();
    for (at, used) in sums.uses() {
        let shelf = |kind, unit: Unit| Shelf { org: used.org, kind, unit, from: unit.beginning(at.using.from) };
        let mut add = |kind, unit, name: &Arc<str>| {
            let (model, provider) = (Arc::clone(&at.using.model), Arc::clone(&at.provider));
            let part = Part { shelf: shelf(kind, unit), name: Arc::clone(name), model, provider };
            parts.entry(part).or_default().add(&used.figures);
        };
        for unit in [Unit::Hour, Unit::Day, Unit::Month] {
            add(PartKind::All, unit, &nothing);
            if let Some(project) = projects.get(&at.using.key) {
                add(PartKind::Project, unit, project);
            }
        }
        let key = Part::of_all_models(shelf(PartKind::Key, Unit::Month), at.using.key.to_string().into());
        parts.entry(key).or_default().add(&used.figures);
    }
}

/// The projects of those keys that have one.
async fn projects_of(connection: &mut Connection, sums: &[&Sums]) -> Result<HashMap<KeyId, Arc<str>>, StoreError> {
    let mut projects = HashMap::new();
    if sqlx::query("SELECT id FROM projects LIMIT 1").fetch_optional(&mut *connection).await?.is_none() {
        return Ok(projects);
    }
    let keys: BTreeSet<KeyId> = sums.iter().flat_map(|sums| sums.uses().map(|(at, _)| at.using.key)).collect();
    let keys: Vec<String> = keys.iter().map(KeyId::to_string).collect();
    for chunk in keys.chunks(LIST_MAX) {
        let mut query =
            QueryBuilder::<Engine>::new("SELECT id, project FROM keys WHERE project IS NOT NULL AND id IN ");
        push_list(&mut query, chunk, |key| &**key);
        for row in query.on(connection).fetch_all(&mut *connection).await? {
            projects.insert(parsed(&row, "id")?, row.try_get::<&str, _>("project")?.into());
        }
    }
    Ok(projects)
}

/// Leaves names that are on the shelf already and as many new ones as it has room for, in their order; the others become one without a
/// name: whoever sends a name of its own with each call can't fill the books.
async fn put_others_together(
    connection: &mut Connection,
    shelf: Shelf,
    names: &mut [(Arc<str>, Figures)],
    names_max: usize,
) -> Result<(), StoreError> {
    let wanted: BTreeSet<Arc<str>> = names.iter().map(|(name, _)| Arc::clone(name)).collect();
    let wanted: Vec<Arc<str>> = wanted.into_iter().collect();
    let mut known = HashSet::new();
    for chunk in wanted.chunks(LIST_MAX) {
        let mut query = on_shelf("SELECT name FROM usage_parts", shelf);
        query.push(" AND name IN ");
        push_list(&mut query, chunk, |name| &**name);
        for row in query.on(connection).fetch_all(&mut *connection).await? {
            known.insert(Arc::<str>::from(row.try_get::<&str, _>("name")?));
        }
    }
    if known.len() == wanted.len() {
        return Ok(());
    }
    let mut count = on_shelf("SELECT COUNT(*) AS names FROM usage_parts", shelf);
    count.push(" AND name <> ''");
    let row = count.on(connection).fetch_one(&mut *connection).await?;
    let there = usize::try_from(row.try_get::<i64, _>("names")?).unwrap_or(usize::MAX);
    let new = wanted.into_iter().filter(|name| !known.contains(name)).take(names_max.saturating_sub(there));
    let kept: HashSet<Arc<str>> = new.chain(known.iter().map(Arc::clone)).collect();
    for (name, _) in names.iter_mut().filter(|(name, _)| !kept.contains(name)) {
        *name = "".into();
    }
    Ok(())
}

fn on_shelf(select: &str, shelf: Shelf) -> QueryBuilder<Engine> {
    let mut query = QueryBuilder::new(select);
    query.push(" WHERE org_id = ").push_bind(shelf.org.to_string());
    query.push(" AND part = ").push_bind(shelf.kind.name()).push(" AND unit = ").push_bind(shelf.unit.name());
    query.push(" AND from_ms = ").push_bind(shelf.from.0);
    query
}

async fn upsert(connection: &mut Connection, parts: &[(Part, Figures)]) -> Result<(), StoreError> {
    const KEY: &str = "org_id, part, unit, from_ms, name, model, provider";
    let figures: String = figure_columns().map(|column| format!(", {column}")).collect();
    let mut query = QueryBuilder::<Engine>::new(format!("INSERT INTO usage_parts ({KEY}{figures}) "));
    query.push_values(parts, |mut row, (Part { shelf, name, model, provider }, figures)| {
        row.push_bind(shelf.org.to_string()).push_bind(shelf.kind.name()).push_bind(shelf.unit.name());
        row.push_bind(shelf.from.0).push_bind(&**name).push_bind(&**model).push_bind(&**provider);
        for figure in figures.0 {
            row.push_bind(figure);
        }
    });
    query.push(format_args!(" ON CONFLICT ({KEY}) DO UPDATE SET "));
    for (place, column) in figure_columns().enumerate() {
        query.push(if place == 0 { "" } else { ", " });
        push_addition(&mut query, "usage_parts", column);
    }
    query.on(connection).execute(connection).await?;
    Ok(())
}
