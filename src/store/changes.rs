//! What was changed lately: written with every change of a record, polled by gateways that hold the record in memory.

use super::{Connection, StoreError, engine};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId, QuotaId};
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};
use std::collections::BTreeMap;

/// How long a change is kept. Gateways read each cached key again after a minute in any case.
const KEPT_MS: i64 = 3_600_000;
/// How far back a poll reads again: a transaction may commit later than its number and time say. A server breaks those off
/// that take longer than a few seconds (`store.timeout_ms`).
pub(super) const OVERLAP_MS: i64 = 10_000;
/// How long a quota is known as wanted: it is said again as long as it is.
const WANTED_KEPT_MS: i64 = 60_000;

/// Something that a gateway may hold in memory and must read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One key's record or limits.
    Key(KeyId),
    /// Keys were made for an organisation: nobody holds them yet, but their tokens may be held as unknown.
    KeysMade(OrgId),
    /// An organisation's credits.
    Balance(OrgId),
    /// A project, or limits of it.
    Project(ProjectId),
    /// An organisation's record, or limits of it.
    Organisation(OrgId),
    /// A node was refused what others hold of a quota.
    Wanted(QuotaId),
}

impl Change {
    fn kind(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::KeysMade(_) => "keys_made",
            Self::Balance(_) => "balance",
            Self::Project(_) => "project",
            Self::Organisation(_) => "organisation",
            Self::Wanted(_) => "wanted",
        }
    }

    fn object(self) -> String {
        match self {
            Self::Key(key) => key.to_string(),
            Self::Project(project) => project.to_string(),
            Self::KeysMade(org) | Self::Balance(org) | Self::Organisation(org) => org.to_string(),
            Self::Wanted(quota) => quota.0.to_string(),
        }
    }

    /// A kind that a later release writes is not ours to follow.
    fn read(kind: &str, object: &str) -> Option<Self> {
        match kind {
            "key" => object.parse().ok().map(Self::Key),
            "keys_made" => object.parse().ok().map(Self::KeysMade),
            "balance" => object.parse().ok().map(Self::Balance),
            "project" => object.parse().ok().map(Self::Project),
            "organisation" => object.parse().ok().map(Self::Organisation),
            "wanted" => object.parse().ok().map(QuotaId).map(Self::Wanted),
            _ => None,
        }
    }

    /// Writes the change down, in the transaction that makes it. On a server its clock says when that was: those who make
    /// changes have one each.
    pub(super) async fn record(self, connection: &mut Connection, now: EpochMs) -> Result<(), StoreError> {
        let now = if engine::is_server(connection) { engine::now(connection).await? } else { now };
        sqlx::query("INSERT INTO changes (kind, object, at_ms) VALUES ($1, $2, $3)")
            .bind(self.kind())
            .bind(self.object())
            .bind(now.0)
            .execute(&mut *connection)
            .await?;
        sqlx::query("DELETE FROM changes WHERE at_ms < $1").bind(now.0 - KEPT_MS).execute(&mut *connection).await?;
        if matches!(self, Self::Wanted(_)) {
            sqlx::query("DELETE FROM changes WHERE at_ms < $1 AND kind = 'wanted'")
                .bind(now.0 - WANTED_KEPT_MS)
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}

/// How far a gateway has read the changes.
#[derive(Debug, Default)]
pub(super) struct ChangeFeed {
    last_id: i64,
    newest_ms: i64,
    /// Changes of the last seconds that have been handed out, by number, with their time.
    seen: BTreeMap<i64, i64>,
}

impl ChangeFeed {
    /// Begins at the present: what is read afterwards is newer than every change before.
    pub(super) async fn from_now(connection: &mut Connection) -> Result<Self, StoreError> {
        let row =
            sqlx::query("SELECT COALESCE(MAX(id), 0) AS last_id, COALESCE(MAX(at_ms), 0) AS newest_ms FROM changes")
                .fetch_one(connection)
                .await?;
        Ok(Self { last_id: row.try_get("last_id")?, newest_ms: row.try_get("newest_ms")?, seen: BTreeMap::new() })
    }

    /// The changes since the last poll, and those of the seconds before it that were not visible then; with their times.
    pub(super) async fn poll(&mut self, connection: &mut Connection) -> Result<Vec<(Change, EpochMs)>, StoreError> {
        let since_ms = self.newest_ms - OVERLAP_MS;
        let mut query = QueryBuilder::new("SELECT id, kind, object, at_ms FROM changes WHERE id > ");
        query.push_bind(self.last_id);
        query.push(" OR at_ms >= ").push_bind(since_ms).push(" ORDER BY id");
        let rows = query.on(connection).fetch_all(connection).await?;
        let mut changes = Vec::new();
        for row in rows {
            let (id, at_ms): (i64, i64) = (row.try_get("id")?, row.try_get("at_ms")?);
            self.last_id = self.last_id.max(id);
            self.newest_ms = self.newest_ms.max(at_ms);
            if self.seen.insert(id, at_ms).is_none() {
                let (kind, object): (String, String) = (row.try_get("kind")?, row.try_get("object")?);
                changes.extend(Change::read(&kind, &object).map(|change| (change, EpochMs(at_ms))));
            }
        }
        self.seen.retain(|_, at_ms| *at_ms >= since_ms);
        Ok(changes)
    }
}

/// The changes since a moment, with their times.
pub(super) async fn since(connection: &mut Connection, moment: EpochMs) -> Result<Vec<(Change, EpochMs)>, StoreError> {
    // Nothing has been seen, and no number is beyond it.
    let mut feed =
        ChangeFeed { last_id: i64::MAX, newest_ms: moment.0.saturating_add(OVERLAP_MS), seen: BTreeMap::new() };
    feed.poll(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    #[tokio::test]
    async fn each_change_is_handed_out_once_and_old_ones_are_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::store::Store::open(dir.path()).await.expect("a store");
        let mut writer = store.database.writer.acquire().await.expect("a connection");
        let old = Change::Key(KeyId(1));
        old.record(&mut writer, NOW).await.expect("recorded");
        let mut feed = ChangeFeed::from_now(&mut writer).await.expect("a feed");
        for second in 0..20 {
            let change = Change::Balance(OrgId(second as u128));
            let at = NOW.plus(second * 1_000);
            change.record(&mut writer, at).await.expect("recorded");
            let polled = feed.poll(&mut writer).await.expect("polled");
            assert!(polled.ends_with(&[(change, at)]), "{polled:?}");
            assert!(second == 0 || polled.len() == 1, "{polled:?}");
            assert!(feed.poll(&mut writer).await.expect("polled").is_empty());
        }
        assert!(feed.seen.len() <= 12, "{:?}", feed.seen);
        old.record(&mut writer, NOW.plus(KEPT_MS + 60_000)).await.expect("recorded");
        let kept: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM changes").fetch_one(&mut *writer).await.expect("a number");
        assert_eq!(kept, 1);
    }
}
