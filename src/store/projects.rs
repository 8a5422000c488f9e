//! Projects: keys of an organisation that share limits.

use super::changes::Change;
use super::ledger::{TAIL, Tail, Whose};
use super::limits::{self, Limit};
use super::quotas::{self, QuotaRow};
use super::trail::{self, By, Entry};
use super::{Connection, LIST_MAX, Rows, Store, StoreError, organisations, parsed};
use filters::id::{OrgId, ProjectId, bits};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde_json::json;
use sqlx::Row;
use std::collections::HashMap;

/// Most projects of one page.
pub const PROJECTS_PER_PAGE: usize = LIST_MAX;

/// A project as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRecord {
    /// Names it for good.
    pub id: ProjectId,
    /// Whose it is.
    pub org: OrgId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: EpochMs,
    /// How many keys it has.
    pub keys: i64,
    /// What they have been charged together, as far as it is on the books.
    pub spent: NanoUsd,
    /// What they may use up together.
    pub limits: Vec<QuotaRow>,
}

/// A project, with what its keys are known to have spent.
const SELECT: &str = "SELECT p.id, p.org, p.name, p.created_ms, COUNT(CASE WHEN k.deleted_ms IS NULL THEN k.id END) AS keys, \
     CAST(COALESCE(SUM(s.amount), 0) AS BIGINT) AS spent FROM projects p \
     LEFT JOIN keys k ON k.project = p.id \
     LEFT JOIN quotas q ON q.owner = k.id AND q.kind = 'spend' AND q.unit = 'total' AND q.model = '' \
     LEFT JOIN spent s ON s.quota = q.id AND s.window_start_ms = 0";

impl Store {
    /// Makes a project.
    pub async fn create_project(
        &self,
        org: OrgId,
        name: &str,
        limits: &[Limit],
        by: impl Into<By>,
    ) -> Result<ProjectRecord, StoreError> {
        let by = by.into();
        let now = by.now;
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let id = ProjectId(bits(now, random));
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, org).await?;
        sqlx::query("INSERT INTO projects (id, org, name, created_ms) VALUES ($1, $2, $3, $4)")
            .bind(id.to_string())
            .bind(org.to_string())
            .bind(name)
            .bind(now.0)
            .execute(&mut *transaction)
            .await?;
        let limits = limits.iter().map(|limit| (id.to_string(), limit.clone()));
        limits::set(&mut transaction, &limits.collect::<Vec<_>>(), now).await?;
        Change::Project(id).record(&mut transaction, now).await?;
        let is = trail::json(&json!({"name": name}));
        let entry =
            Entry { org: Some(org), action: "project.create", object: id.to_string(), before: None, after: Some(&is) };
        trail::record(&mut transaction, &by, entry).await?;
        transaction.commit().await?;
        self.project(id, now).await
    }

    /// Calls a project something else.
    pub async fn rename_project(&self, id: ProjectId, name: &str, by: impl Into<By>) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let row = sqlx::query("SELECT org, name FROM projects WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *transaction)
            .await?;
        let row = row.ok_or_else(|| unknown(id))?;
        let (org, before): (OrgId, String) = (parsed(&row, "org")?, row.try_get("name")?);
        sqlx::query("UPDATE projects SET name = $1 WHERE id = $2")
            .bind(name)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        Change::Project(id).record(&mut transaction, by.now).await?;
        let (was, is) = (trail::json(&json!({"name": before})), trail::json(&json!({"name": name})));
        let object = id.to_string();
        let entry = Entry { org: Some(org), action: "project.change", object, before: Some(&was), after: Some(&is) };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }

    /// One project.
    pub async fn project(&self, id: ProjectId, now: EpochMs) -> Result<ProjectRecord, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let text = format!("{SELECT} WHERE p.id = $1 GROUP BY p.id, p.org, p.name, p.created_ms");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.to_string()).fetch_optional(&mut *snapshot).await?;
        let mut records = with_limits(&mut snapshot, Vec::from_iter(row), now).await?;
        records.pop().ok_or_else(|| unknown(id))
    }

    /// An organisation's projects in the order in which they were made, those after `after`, a page of
    /// [`PROJECTS_PER_PAGE`].
    pub async fn projects(
        &self,
        org: OrgId,
        after: Option<ProjectId>,
        now: EpochMs,
    ) -> Result<Vec<ProjectRecord>, StoreError> {
        self.projects_page(org, after, PROJECTS_PER_PAGE as u32, now).await
    }

    /// The same, at most `limit` of them and at most [`PROJECTS_PER_PAGE`].
    pub async fn projects_page(
        &self,
        org: OrgId,
        after: Option<ProjectId>,
        limit: u32,
        now: EpochMs,
    ) -> Result<Vec<ProjectRecord>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let text = format!(
            "{SELECT} WHERE p.org = $1 AND p.id > $2 GROUP BY p.id, p.org, p.name, p.created_ms ORDER BY p.id LIMIT $3"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(org.to_string())
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit).min(PROJECTS_PER_PAGE as i64))
            .fetch_all(&mut *snapshot)
            .await?;
        with_limits(&mut snapshot, rows, now).await
    }
}

/// Refuses a project that there is not, or that is another organisation's.
pub(super) async fn must_belong(connection: &mut Connection, project: ProjectId, org: OrgId) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT org FROM projects WHERE id = $1")
        .bind(project.to_string())
        .fetch_optional(connection)
        .await?;
    let owner: OrgId = parsed(&row.ok_or_else(|| unknown(project))?, "org")?;
    if owner != org {
        return Err(StoreError::Refused(
            "the project is another organisation's; `tollgate project list` shows its own",
        ));
    }
    Ok(())
}

pub(super) fn unknown(project: ProjectId) -> StoreError {
    StoreError::NotFound(format!("project {project}"))
}

async fn with_limits(
    connection: &mut Connection,
    rows: Vec<Rows>,
    now: EpochMs,
) -> Result<Vec<ProjectRecord>, StoreError> {
    let mut records = rows.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
    let owners: Vec<String> = records.iter().map(|project| project.id.to_string()).collect();
    let whose = match records.as_slice() {
        [project] => Whose::Project(project.id),
        // A page of projects is of one organisation.
        [project, ..] => Whose::Org(project.org),
        [] => return Ok(records),
    };
    let tail = Tail::read(connection, whose).await?;
    let waiting = waiting(connection, records[0].org).await?;
    let mut by_owner: HashMap<String, Vec<QuotaRow>> = HashMap::new();
    for quota in quotas::read_with(connection, &owners, &tail, now).await? {
        by_owner.entry(quota.owner.clone()).or_default().push(quota);
    }
    for (record, owner) in records.iter_mut().zip(&owners) {
        record.limits = by_owner.remove(owner).unwrap_or_default();
        record.spent = record.spent.saturating_add(waiting.get(&record.id).copied().unwrap_or_default());
    }
    Ok(records)
}

/// What the keys of an organisation's projects were charged and what is in no sum yet.
async fn waiting(connection: &mut Connection, org: OrgId) -> Result<HashMap<ProjectId, NanoUsd>, StoreError> {
    let text = format!(
        "SELECT k.project, t.charge_nano FROM (SELECT c.key_id, c.charge_nano FROM {TAIL} AND c.org_id = $1) t \
         CROSS JOIN keys k WHERE k.id = t.key_id AND k.project IS NOT NULL"
    );
    let mut waiting = HashMap::new();
    for row in sqlx::query(sqlx::AssertSqlSafe(text)).bind(org.to_string()).fetch_all(connection).await? {
        let sum: &mut NanoUsd = waiting.entry(parsed(&row, "project")?).or_default();
        *sum = sum.saturating_add(NanoUsd(row.try_get("charge_nano")?));
    }
    Ok(waiting)
}

fn read_row(row: &Rows) -> Result<ProjectRecord, StoreError> {
    Ok(ProjectRecord {
        id: parsed(row, "id")?,
        org: parsed(row, "org")?,
        name: row.try_get("name")?,
        created: EpochMs(row.try_get("created_ms")?),
        keys: row.try_get("keys")?,
        spent: NanoUsd(row.try_get("spent")?),
        limits: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key};
    use crate::store::keys::NewKey;
    use crate::store::quotas::QuotaKind;

    #[tokio::test]
    async fn a_project_knows_its_keys_and_what_they_spent() {
        let books = Books::open().await;
        let limits = [Limit::plain(QuotaKind::Spend, 7)];
        let made = books.store.create_project(books.org, "web", &limits, NOW).await.expect("made");
        assert_eq!((made.keys, made.spent, made.limits[0].limit), (0, NanoUsd::ZERO, 7));
        for _ in 0..2 {
            let new = NewKey { project: Some(made.id), ..new_key(books.org) };
            let issued = books.store.create_key(&new, NOW).await.expect("made");
            let key = books.store.key(issued.id, NOW).await.expect("read");
            assert_eq!(key.project, Some(made.id));
            let total = key.limits.iter().find(|row| row.kind == QuotaKind::Spend).expect("every key has it");
            sqlx::query("INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, 0, 5)")
                .bind(total.id.0)
                .execute(&books.store.database.writer)
                .await
                .expect("booked");
        }
        let read = books.store.project(made.id, NOW).await.expect("read");
        assert_eq!((read.keys, read.spent, &read.limits), (2, NanoUsd(10), &made.limits));
        assert_eq!(books.store.projects(books.org, None, NOW).await.expect("listed"), [read]);
        assert!(books.store.projects(books.org, Some(made.id), NOW).await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn keys_and_projects_belong_to_the_same_organisation() {
        let books = Books::open().await;
        let other = books.store.create_organisation("Other", NOW).await.expect("made").id;
        let project = books.store.create_project(other, "theirs", &[], NOW).await.expect("made").id;
        let new = NewKey { project: Some(project), ..new_key(books.org) };
        let refused = books.store.create_key(&new, NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        let nowhere = NewKey { project: Some(ProjectId(1)), ..new_key(books.org) };
        let refused = books.store.create_key(&nowhere, NOW).await;
        assert!(matches!(refused, Err(StoreError::NotFound(_))));
        let refused = books.store.create_project(OrgId(1), "nobody's", &[], NOW).await;
        assert!(matches!(refused, Err(StoreError::NotFound(_))));
        assert_eq!(books.store.keys(books.org, None, NOW).await.expect("listed").len(), 1);
    }
}
