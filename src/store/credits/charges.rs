//! Charges enter the ledger as one entry an organisation and hour, some time after the hour's end. Where calls of an hour come
//! later than that, one more entry brings what it lacks; none is ever changed.
//!
//! The first entry of an hour counts in that hour, what comes later counts when it is booked: so a month whose last hour is
//! booked changes no more.

use super::{Account, EntryKind, Head, Leg, write};
use crate::store::engine::On;
use crate::store::ledger::hour_of;
use crate::store::{Connection, Engine, Store, StoreError};
use filters::id::OrgId;
use filters::time::EpochMs;
use futures_util::TryStreamExt;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeMap, BTreeSet};

pub(in crate::store) const HOUR_MS: i64 = 3_600_000;
/// An hour is booked so long after its end: by then its calls are on the books, but for those that run very long.
const BOOKED_AFTER_MS: i64 = 15 * 60_000;
/// Calls that come on the books so long after their hour's end mark it, to be booked once more. It is less than the time
/// before, by more than clocks may differ and a shipment may take.
const LATE_AFTER_MS: i64 = 10 * 60_000;
/// The row of `meta` that says through which moment hours have been booked.
pub(in crate::store) const BOOKED_THROUGH: &str = "booked_through";

/// Charges of an organisation by key and model.
type Due = BTreeMap<OrgId, BTreeMap<(String, String), i128>>;

impl Store {
    /// Books the hours that are over, and those that calls have come to since, among them all since `again`; says how many
    /// entries that made.
    pub async fn book_charges(&self, again: EpochMs, now: EpochMs) -> Result<u64, StoreError> {
        let (through, end) = {
            let mut reader = self.database.reader.acquire().await?;
            (read_mark(&mut reader, BOOKED_THROUGH).await?, hour_of(now.plus(-BOOKED_AFTER_MS)))
        };
        let mut booked = 0;
        for hour in self.hours_to_book(through.min(again), end).await? {
            let at = if hour >= through { hour.plus(HOUR_MS - 1) } else { now };
            booked += self.book_hour(hour, at).await?;
        }
        if end > through {
            let mut transaction = self.database.change().await?;
            write_mark(&mut transaction, BOOKED_THROUGH, end).await?;
            transaction.commit().await?;
        }
        Ok(booked)
    }

    /// The hours with charges between two moments, and those before that are marked.
    async fn hours_to_book(&self, from: EpochMs, end: EpochMs) -> Result<BTreeSet<EpochMs>, StoreError> {
        let rows = sqlx::query(
            "SELECT hour_ms FROM usage_hours WHERE hour_ms >= $1 AND hour_ms < $2 \
             UNION SELECT at_ms - at_ms % 3600000 FROM amendments WHERE at_ms >= $1 AND at_ms < $2 \
             UNION SELECT hour_ms FROM late_hours WHERE hour_ms < $2",
        )
        .bind(from.0)
        .bind(end.0)
        .fetch_all(&self.database.reader)
        .await?;
        rows.iter().map(|row| Ok(EpochMs(row.try_get("hour_ms")?))).collect()
    }

    /// Books what an hour's charges have more than what is booked of it.
    async fn book_hour(&self, hour: EpochMs, at: EpochMs) -> Result<u64, StoreError> {
        let mut transaction = self.database.change().await?;
        // Whoever adds to the hour at this moment has marked it: his transaction is waited for here, or marks it anew.
        sqlx::query("DELETE FROM late_hours WHERE hour_ms = $1").bind(hour.0).execute(&mut *transaction).await?;
        let mut due = charged_in(&mut transaction, hour).await?;
        add_booked(&mut transaction, hour, &mut due).await?;
        let mut entries = 0;
        for (org, lines) in due {
            let head = Head {
                org: &org.to_string(),
                kind: EntryKind::Charges,
                reason: "",
                actor: "system",
                call: None,
                hour: Some(hour),
                at,
            };
            for legs in balanced(org, lines) {
                write(&mut transaction, &head, &legs).await?;
                entries += 1;
            }
        }
        transaction.commit().await?;
        Ok(entries)
    }
}

/// The legs of an hour's entry. There is one entry, unless its sum were more than an account can hold.
fn balanced(org: OrgId, lines: BTreeMap<(String, String), i128>) -> Vec<Vec<Leg>> {
    let account = Account::Charges(org).to_string();
    let mut entries = Vec::new();
    let (mut legs, mut sum) = (Vec::new(), 0i64);
    let close = |legs: &mut Vec<Leg>, sum: i64| {
        legs.push(Leg::of(EntryKind::Charges.counterpart(), sum));
        std::mem::take(legs)
    };
    for ((key, model), amount) in lines {
        let amount = i64::try_from(amount).unwrap_or(if amount > 0 { i64::MAX } else { -i64::MAX });
        if amount == 0 {
            continue;
        }
        if sum.checked_add(amount).is_none_or(|sum| sum == i64::MIN) {
            entries.push(close(&mut legs, sum));
            sum = 0;
        }
        sum += amount;
        legs.push(Leg { account: account.clone(), key, model, amount: -amount });
    }
    if !legs.is_empty() {
        entries.push(close(&mut legs, sum));
    }
    entries
}

/// What an hour's calls were charged, and usage that came in this hour after its call's end.
async fn charged_in(connection: &mut Connection, hour: EpochMs) -> Result<Due, StoreError> {
    let mut due = Due::new();
    for statement in [
        "SELECT k.org AS org, u.key_id, u.model, u.charge_nano FROM usage_hours u JOIN keys k ON k.id = u.key_id \
         WHERE u.hour_ms = $1",
        "SELECT a.org_id AS org, a.key_id, COALESCE(c.model, '') AS model, a.charge_nano FROM amendments a \
         LEFT JOIN calls c ON c.request_id = a.request_id WHERE a.at_ms >= $1 AND a.at_ms < $1 + 3600000",
        "SELECT org, key_id, model, charge_nano FROM folded_amendments WHERE hour_ms = $1",
    ] {
        add_rows(connection, statement, hour, &mut due).await?;
    }
    Ok(due)
}

/// Takes off what is booked of an hour: there it stands with the other sign.
async fn add_booked(connection: &mut Connection, hour: EpochMs, due: &mut Due) -> Result<(), StoreError> {
    let booked = "SELECT e.org, l.key_id, l.model, l.amount_nano AS charge_nano FROM entries e \
         JOIN legs l ON l.entry = e.id WHERE e.hour_ms = $1 AND l.account <> 'operator:revenue'";
    add_rows(connection, booked, hour, due).await
}

async fn add_rows(
    connection: &mut Connection,
    statement: &'static str,
    hour: EpochMs,
    due: &mut Due,
) -> Result<(), StoreError> {
    let mut rows = sqlx::query(statement).bind(hour.0).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let line = (row.try_get("key_id")?, row.try_get("model")?);
        let amount: i64 = row.try_get("charge_nano")?;
        let of_org = due.entry(crate::store::parsed(&row, "org")?).or_default();
        *of_org.entry(line).or_default() += i128::from(amount);
    }
    Ok(())
}

/// Marks hours that a node's shipment adds to and that may have been booked. Usually there are none.
pub(in crate::store) async fn mark_late(
    connection: &mut Connection,
    node: &str,
    hours: impl Iterator<Item = EpochMs>,
    now: EpochMs,
) -> Result<(), StoreError> {
    let late: BTreeSet<EpochMs> = hours.filter(|hour| hour.plus(HOUR_MS + LATE_AFTER_MS) <= now).collect();
    if late.is_empty() {
        return Ok(());
    }
    for chunk in late.into_iter().collect::<Vec<_>>().chunks(super::ROWS_PER_INSERT) {
        let mut query = QueryBuilder::<Engine>::new("INSERT INTO late_hours (hour_ms, node) ");
        query.push_values(chunk, |mut row, hour| {
            row.push_bind(hour.0).push_bind(node);
        });
        // A mark that is there is held until this transaction ends: who books the hour waits for it.
        query.push(" ON CONFLICT (hour_ms, node) DO UPDATE SET node = excluded.node");
        query.on(connection).persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A moment that is kept in `meta`; 0 where there is none.
pub(in crate::store) async fn read_mark(connection: &mut Connection, name: &str) -> Result<EpochMs, StoreError> {
    let content: Option<String> =
        sqlx::query_scalar("SELECT content FROM meta WHERE name = $1").bind(name).fetch_optional(connection).await?;
    let Some(content) = content else { return Ok(EpochMs(0)) };
    content.parse().map(EpochMs).map_err(|_| StoreError::Corrupt { column: "meta.content", content })
}

/// Keeps a moment in `meta`. Whoever is behind does not set it back.
pub(in crate::store) async fn write_mark(
    connection: &mut Connection,
    name: &str,
    moment: EpochMs,
) -> Result<(), StoreError> {
    let known = read_mark(connection, name).await?;
    sqlx::query(
        "INSERT INTO meta (name, content) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET content = excluded.content",
    )
    .bind(name)
    .bind(known.max(moment).0.to_string())
    .execute(connection)
    .await?;
    Ok(())
}
