//! Limits as people set, change and remove them. Every change is written to the history too, so that the books can be held
//! against the limit that was in force.

mod operators;

use super::changes::Change;
use super::ledger::{Tail, Whose};
use super::quotas::{self, QuotaKind, QuotaRow, Thresholds, plain_window, window_columns};
use super::trail::{self, By, Entry};
use super::{Connection, Engine, Store, StoreError, keys, organisations, parsed, projects};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId};
use filters::key::Glob;
use filters::lease::Increase;
use filters::money::NanoUsd;
use filters::time::EpochMs;
use filters::window::Window;
use serde_json::json;
use sqlx::{QueryBuilder, Row};
use std::fmt;

/// Rows of one INSERT: enough that the statement's own cost is spread, few enough parameters for every engine.
const ROWS_PER_INSERT: usize = 250;
/// Most quotas of one owner: each is a check on every call.
const QUOTAS_PER_OWNER_MAX: usize = 64;

/// Whose a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One key's.
    Key(KeyId),
    /// That of all keys of a project together.
    Project(ProjectId),
    /// That of all keys of an organisation together.
    Organisation(OrgId),
}

impl Owner {
    fn whose(self) -> Whose<'static> {
        match self {
            Self::Key(key) => Whose::Key(key),
            Self::Project(project) => Whose::Project(project),
            Self::Organisation(org) => Whose::Org(org),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(formatter),
            Self::Project(project) => project.fmt(formatter),
            Self::Organisation(org) => org.fmt(formatter),
        }
    }
}

/// A limit to be set. An owner has one of each kind, window and pattern of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it limits.
    pub kind: QuotaKind,
    /// Over which time.
    pub window: Window,
    /// Of which models; `None`: of all.
    pub model: Option<Glob>,
    /// How much.
    pub amount: i64,
    /// Whether it is a bound, never passed; otherwise an estimate.
    pub is_strict: bool,
    /// More until a date.
    pub increase: Option<Increase>,
    /// Which parts of it are worth an event.
    pub thresholds: Thresholds,
}

impl Limit {
    /// An elastic limit of all models in the kind's plain window.
    #[must_use]
    pub fn plain(kind: QuotaKind, amount: i64) -> Self {
        let thresholds = if kind.is_money() { Thresholds::usual() } else { Thresholds::default() };
        Self { kind, window: plain_window(kind), model: None, amount, is_strict: false, increase: None, thresholds }
    }

    /// Whether it is what every key has: money, in all, of all models.
    fn is_of_every_key(&self) -> bool {
        self.kind == QuotaKind::Spend && self.window == Window::Total && self.model.is_none()
    }
}

/// What to do with one limit of an owner. What is `None` stays as it is, or as usual where the limit is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// What it limits.
    pub kind: QuotaKind,
    /// Over which time.
    pub window: Window,
    /// Of which models; `None`: of all.
    pub model: Option<Glob>,
    /// How much.
    pub amount: Option<Amount>,
    /// Whether it is a bound, never passed.
    pub is_strict: Option<bool>,
    /// More until a date; an amount of 0 ends an increase.
    pub increase: Option<Increase>,
    /// Which parts of it are worth an event.
    pub thresholds: Option<Thresholds>,
}

/// A limit's amount as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So much.
    Of(i64),
    /// No limit any more.
    None,
}

impl LimitChange {
    /// Sets how much may be used of a kind in its plain window; what else there is to say of it stays.
    #[must_use]
    pub fn of(kind: QuotaKind, amount: Amount) -> Self {
        Self {
            kind,
            window: plain_window(kind),
            model: None,
            amount: Some(amount),
            is_strict: None,
            increase: None,
            thresholds: None,
        }
    }

    /// The limit as a new owner gets it.
    pub fn of_new(&self) -> Result<Option<Limit>, StoreError> {
        self.applied_to(None)
    }

    /// The limit as it is to be, given what it is; none if it is to be removed.
    pub(super) fn applied_to(&self, row: Option<&QuotaRow>) -> Result<Option<Limit>, StoreError> {
        let now = row.map(|row| row.limit).filter(|limit| *limit != i64::MAX);
        let amount = match self.amount {
            Some(Amount::None) => return Ok(None),
            Some(Amount::Of(amount)) => amount,
            None => {
                now.ok_or(StoreError::Refused("there is no such limit yet: say how much it is, as with --limit"))?
            }
        };
        let usual = Limit::plain(self.kind, amount);
        let increase = self.increase.or_else(|| row.and_then(|row| row.increase));
        Ok(Some(Limit {
            window: self.window.clone(),
            model: self.model.clone(),
            is_strict: self.is_strict.or(row.map(|row| row.is_strict)).unwrap_or(usual.is_strict),
            increase: increase.filter(|increase| increase.amount != NanoUsd::ZERO),
            thresholds: self.thresholds.clone().or(row.map(|row| row.thresholds.clone())).unwrap_or(usual.thresholds),
            ..usual
        }))
    }

    /// Whether it is said of the limit that a row is.
    pub(super) fn is_for(&self, row: &QuotaRow) -> bool {
        self.kind == row.kind && self.window == row.window && self.model == row.model
    }
}

impl Store {
    /// Sets, changes or removes limits of an owner, all or none; gives the limits that it has then. What an operator has limited of
    /// an organisation is changed by operators alone.
    pub async fn change_limits(
        &self,
        owner: Owner,
        changes: &[LimitChange],
        by: impl Into<By>,
    ) -> Result<Vec<QuotaRow>, StoreError> {
        let by = by.into();
        let now = by.now;
        let mut transaction = self.database.change().await?;
        check_owner(&mut transaction, owner).await?;
        let owners = [owner.to_string()];
        let before = quotas::read(&mut transaction, &owners, now).await?;
        operators::check(&mut transaction, owner, changes, &by).await?;
        for change in changes {
            apply(&mut transaction, owner, change, now).await?;
        }
        operators::mark(&mut transaction, owner, changes, &by).await?;
        owner_changed(owner).record(&mut transaction, now).await?;
        let tail = Tail::read(&mut transaction, owner.whose()).await?;
        let limits = quotas::read_with(&mut transaction, &owners, &tail, now).await?;
        let (was, is) = (entry(&before), entry(&limits));
        let org = Some(org_of(&mut transaction, owner).await?);
        let entry =
            Entry { org, action: "limits.change", object: owner.to_string(), before: Some(&was), after: Some(&is) };
        trail::record(&mut transaction, &by, entry).await?;
        transaction.commit().await?;
        Ok(limits)
    }

    /// The limits of an owner, in the order in which they were first set.
    pub async fn limits(&self, owner: Owner, now: EpochMs) -> Result<Vec<QuotaRow>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let tail = Tail::read(&mut snapshot, owner.whose()).await?;
        quotas::read_with(&mut snapshot, &[owner.to_string()], &tail, now).await
    }
}

/// Limits as the trail has them.
fn entry(limits: &[QuotaRow]) -> String {
    let limit = |row: &QuotaRow| {
        let model = row.model.as_ref().map(|glob| &*glob.0);
        let mut entry = json!({"kind": row.kind.name(), "window": row.window.to_string(), "model": model,
            "limit": row.limit, "strict": row.is_strict, "thresholds": row.thresholds.0});
        if let Some(Increase { amount, until }) = row.increase {
            entry["increase"] = json!({"amount": amount.0, "until_ms": until.0});
        }
        entry
    };
    let limiting = limits.iter().filter(|row| row.kind != QuotaKind::Balance && row.limit != i64::MAX);
    trail::json(&limiting.map(limit).collect::<Vec<_>>())
}

/// Whose an owner is.
async fn org_of(connection: &mut Connection, owner: Owner) -> Result<OrgId, StoreError> {
    let statement = match owner {
        Owner::Key(_) => "SELECT org FROM keys WHERE id = $1",
        Owner::Project(_) => "SELECT org FROM projects WHERE id = $1",
        Owner::Organisation(org) => return Ok(org),
    };
    parsed(&sqlx::query(statement).bind(owner.to_string()).fetch_one(connection).await?, "org")
}

/// Sets, changes or removes one limit, as part of a transaction that goes on.
pub(super) async fn apply(
    connection: &mut Connection,
    owner: Owner,
    change: &LimitChange,
    now: EpochMs,
) -> Result<(), StoreError> {
    let rows = quotas::read(connection, &[owner.to_string()], now).await?;
    let row = rows.iter().find(|row| change.is_for(row));
    match (change.applied_to(row)?, row) {
        (None, None) => Err(StoreError::Refused("there is no such limit to remove; `show` lists them")),
        (None, Some(row)) => remove(connection, owner, row, now).await,
        (Some(_), None) if rows.len() >= QUOTAS_PER_OWNER_MAX => {
            Err(StoreError::Refused("there can be at most 64 limits here: remove one with `none`"))
        }
        (Some(limit), _) => set(connection, &[(owner.to_string(), limit)], now).await,
    }
}

/// What a gateway must read again when limits of an owner change.
fn owner_changed(owner: Owner) -> Change {
    match owner {
        Owner::Key(key) => Change::Key(key),
        Owner::Project(project) => Change::Project(project),
        Owner::Organisation(org) => Change::Organisation(org),
    }
}

async fn check_owner(connection: &mut Connection, owner: Owner) -> Result<(), StoreError> {
    let (statement, unknown) = match owner {
        Owner::Key(key) => ("SELECT id FROM keys WHERE id = $1 AND deleted_ms IS NULL", keys::unknown(key)),
        Owner::Project(project) => ("SELECT id FROM projects WHERE id = $1", projects::unknown(project)),
        Owner::Organisation(org) => ("SELECT id FROM organisations WHERE id = $1", organisations::unknown(org)),
    };
    let found = sqlx::query(statement).bind(owner.to_string()).fetch_optional(connection).await?;
    found.map(drop).ok_or(unknown)
}

/// The limits of a new owner as it gets them: a key always has a quota that says what it has spent.
pub(super) fn of_new_owner(owner: Owner, limits: &[Limit]) -> Vec<Limit> {
    let mut all = limits.to_vec();
    if matches!(owner, Owner::Key(_)) && !limits.iter().any(Limit::is_of_every_key) {
        all.insert(0, Limit::plain(QuotaKind::Spend, NanoUsd::MAX.0));
    }
    all
}

/// Sets limits, many at a time, and writes down since when.
pub(super) async fn set(
    connection: &mut Connection,
    limits: &[(String, Limit)],
    now: EpochMs,
) -> Result<(), StoreError> {
    for chunk in limits.chunks(ROWS_PER_INSERT) {
        let mut query = QueryBuilder::<Engine>::new(
            "INSERT INTO quotas (owner, kind, unit, align, zone, model, strict, limit_value, increase_value, \
             increase_until_ms, thresholds) ",
        );
        query.push_values(chunk, |mut row, (owner, limit)| {
            let [unit, align, zone] = window_columns(&limit.window);
            row.push_bind(&**owner).push_bind(limit.kind.name()).push_bind(unit).push_bind(align).push_bind(zone);
            row.push_bind(limit.model.as_ref().map_or("", |model| &model.0))
                .push_bind(i64::from(limit.is_strict))
                .push_bind(limit.amount)
                .push_bind(limit.increase.map(|increase| increase.amount.0))
                .push_bind(limit.increase.map(|increase| increase.until.0))
                .push_bind(limit.thresholds.to_string());
        });
        query.push(
            " ON CONFLICT (owner, kind, unit, align, zone, model) DO UPDATE SET strict = excluded.strict, \
             limit_value = excluded.limit_value, increase_value = excluded.increase_value, \
             increase_until_ms = excluded.increase_until_ms, thresholds = excluded.thresholds, removed_ms = NULL \
             RETURNING id, strict, limit_value, increase_value, increase_until_ms",
        );
        let rows = query.on(connection).fetch_all(&mut *connection).await?;
        let mut history = QueryBuilder::<Engine>::new(
            "INSERT INTO limit_history (quota, at_ms, strict, limit_value, increase_value, until_ms) ",
        );
        let mut entries = Vec::with_capacity(rows.len());
        for row in &rows {
            let numbers: (i64, i64, i64) = (row.try_get("id")?, row.try_get("strict")?, row.try_get("limit_value")?);
            let increase: (Option<i64>, Option<i64>) =
                (row.try_get("increase_value")?, row.try_get("increase_until_ms")?);
            entries.push((numbers, increase));
        }
        history.push_values(entries, |mut row, ((id, strict, limit), (amount, until))| {
            row.push_bind(id).push_bind(now.0).push_bind(strict).push_bind(limit).push_bind(amount).push_bind(until);
        });
        history.on(connection).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Removes a limit. A key's spend in all goes on being counted, without one.
async fn remove(connection: &mut Connection, owner: Owner, row: &QuotaRow, now: EpochMs) -> Result<(), StoreError> {
    if row.kind == QuotaKind::Balance {
        return Err(StoreError::Refused("an organisation's balance is not a limit that can be removed"));
    }
    if matches!(owner, Owner::Key(_)) && row.kind == QuotaKind::Spend && row.is_plain() {
        let unlimited = Limit::plain(QuotaKind::Spend, NanoUsd::MAX.0);
        return set(connection, &[(owner.to_string(), unlimited)], now).await;
    }
    sqlx::query("UPDATE quotas SET removed_ms = $1 WHERE id = $2")
        .bind(now.0)
        .bind(row.id.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO limit_history (quota, at_ms, strict, limit_value) VALUES ($1, $2, $3, $4)")
        .bind(row.id.0)
        .bind(now.0)
        .bind(i64::from(row.is_strict))
        .bind(i64::MAX)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key, price};
    use crate::store::keys::NewKey;

    /// The history of a quota: moment, strictness, limit, increase and its end.
    type Entry = (i64, i64, i64, Option<i64>, Option<i64>);

    async fn history(books: &Books, quota: filters::id::QuotaId) -> Vec<Entry> {
        let statement = "SELECT at_ms, strict, limit_value, increase_value, until_ms FROM limit_history \
                         WHERE quota = $1 ORDER BY at_ms, id";
        sqlx::query_as(statement).bind(quota.0).fetch_all(&books.store.database.reader).await.expect("read")
    }

    fn monthly(amount: Option<Amount>) -> LimitChange {
        let window = "calendar month Europe/Berlin".parse().expect("a window");
        LimitChange { window, amount, ..LimitChange::of(QuotaKind::Spend, Amount::None) }
    }

    #[tokio::test]
    async fn each_change_of_a_limit_is_in_its_history() {
        let books = Books::open().await;
        let owner = Owner::Key(books.key);
        let more = Increase { amount: NanoUsd(3), until: NOW.plus(1_000) };
        let strict = LimitChange { is_strict: Some(true), ..monthly(Some(Amount::Of(5))) };
        let raised = LimitChange { increase: Some(more), ..monthly(None) };
        let ended = LimitChange {
            increase: Some(Increase { amount: NanoUsd::ZERO, until: NOW }),
            ..monthly(Some(Amount::Of(4)))
        };
        let changes = [strict, raised, ended, monthly(Some(Amount::None)), monthly(Some(Amount::Of(9)))];
        let mut numbers = Vec::new();
        for (at, change) in (0..).zip(&changes) {
            let rows =
                books.store.change_limits(owner, std::slice::from_ref(change), NOW.plus(at)).await.expect("done");
            numbers.extend(rows.iter().filter(|row| change.is_for(row)).map(|row| row.id));
        }
        // A limit that is set again after it was removed is the same quota: what was charged to it still counts.
        numbers.dedup();
        assert_eq!(numbers.len(), 1);
        assert_eq!(
            history(&books, numbers[0]).await,
            [
                (NOW.0, 1, 5, None, None),
                (NOW.0 + 1, 1, 5, Some(3), Some(NOW.0 + 1_000)),
                (NOW.0 + 2, 1, 4, None, None),
                (NOW.0 + 3, 1, i64::MAX, None, None),
                (NOW.0 + 4, 0, 9, None, None)
            ]
        );
    }

    #[tokio::test]
    async fn an_increase_counts_until_its_end() {
        let books = Books::open().await;
        let more = Increase { amount: NanoUsd(3), until: NOW.plus(1_000) };
        let change = LimitChange { increase: Some(more), ..monthly(Some(Amount::Of(5))) };
        let owner = Owner::Organisation(books.org);
        let rows = books.store.change_limits(owner, &[change], NOW).await.expect("set");
        let limits = [NOW, NOW.plus(999), NOW.plus(1_000)].map(|now| rows[1].limit_at(now));
        assert_eq!(limits, [8, 8, 5]);
    }

    #[tokio::test]
    async fn a_key_without_a_limit_still_knows_what_it_has_spent() {
        let books = Books::open().await;
        books.store.remember_prices(&[(price().id(), price())]).await.expect("kept");
        let calls = [books.call(1, 10, 5)];
        books.store.ship("node", &calls, Default::default()).await.expect("shipped");
        let none = LimitChange::of(QuotaKind::Spend, Amount::None);
        let rows = books.store.change_limits(Owner::Key(books.key), &[none], NOW).await.expect("removed");
        assert_eq!((rows[0].limit, rows[0].spent), (i64::MAX, calls[0].1.charge.0));
        assert_eq!(books.key().await.spent(), calls[0].1.charge);
        let unlimited = NewKey { limits: vec![Limit::plain(QuotaKind::Tokens, 5)], ..new_key(books.org) };
        let issued = books.store.create_key(&unlimited, NOW).await.expect("made");
        let key = books.store.key(issued.id, NOW).await.expect("read");
        assert_eq!(key.limits[0].limit, i64::MAX);
        assert!(books.store.audit().await.expect("audited").findings.is_empty());
    }

    #[tokio::test]
    async fn what_is_refused_changes_nothing() {
        let books = Books::open().await;
        let owner = Owner::Project(ProjectId(3));
        let stranger = books.store.change_limits(owner, &[monthly(Some(Amount::Of(5)))], NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
        let before = books.key().await.limits;
        let owner = Owner::Key(books.key);
        for last in [monthly(None), LimitChange::of(QuotaKind::Tokens, Amount::None)] {
            let changes = [LimitChange::of(QuotaKind::Spend, Amount::Of(1)), last];
            let refused = books.store.change_limits(owner, &changes, NOW);
            assert!(matches!(refused.await, Err(StoreError::Refused(_))));
            assert_eq!(books.key().await.limits, before);
        }
        let balance = LimitChange::of(QuotaKind::Balance, Amount::None);
        let refused = books.store.change_limits(Owner::Organisation(books.org), &[balance], NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
    }

    #[tokio::test]
    async fn an_owner_has_a_bounded_number_of_limits() {
        let books = Books::open().await;
        let change = |number: usize| LimitChange {
            model: Some(Glob(format!("m-{number}").into())),
            ..LimitChange::of(QuotaKind::Requests, Amount::Of(1))
        };
        let held = books.key().await.limits.len();
        let changes: Vec<_> = (held..QUOTAS_PER_OWNER_MAX).map(change).collect();
        let owner = Owner::Key(books.key);
        let rows = books.store.change_limits(owner, &changes, NOW).await.expect("set");
        assert_eq!(rows.len(), QUOTAS_PER_OWNER_MAX);
        let refused = books.store.change_limits(owner, &[change(0)], NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
    }
}
