//! What is written beside the calls: attempts and amendments of calls that there are.

use super::{AuditReport, Invariant};
use crate::store::{Store, StoreError, Transaction, parsed};
use filters::id::CallId;
use futures_util::TryStreamExt;
use sqlx::Row;
use std::collections::HashSet;

/// Rows beside calls that are not on the books, and attempts that their call does not know of. How many a call had tried is not
/// known of one that was recovered or abandoned.
const STRAYS: &str = "SELECT DISTINCT b.request_id FROM \
     (SELECT request_id FROM attempts UNION ALL SELECT request_id FROM amendments) b \
     LEFT JOIN calls c ON c.request_id = b.request_id WHERE c.request_id IS NULL";
/// Who has brought what is written of a call that is not on the books.
const BROUGHT_BY: &str = "SELECT b.node, n.state FROM \
     (SELECT request_id, node FROM attempts UNION ALL SELECT request_id, node FROM amendments) b \
     LEFT JOIN nodes n ON n.id = b.node \
     WHERE b.request_id = $1 AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.request_id = b.request_id)";
const UNCOUNTED: &str = "SELECT a.request_id, a.number, c.attempts FROM attempts a JOIN calls c ON c.request_id = a.request_id \
     WHERE a.number > c.attempts AND c.outcome NOT IN ('recovered', 'abandoned')";

pub(super) async fn check_beside(snapshot: &mut Transaction, report: &mut AuditReport) -> Result<(), StoreError> {
    let mut rows = sqlx::query(UNCOUNTED).fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        let (number, attempts): (i64, i64) = (row.try_get("number")?, row.try_get("attempts")?);
        let detail = format!("there is an attempt {number}, but the call counts {attempts}");
        report.find(Invariant::AttemptsHaveCalls, row.try_get::<String, _>("request_id")?, detail);
    }
    drop(rows);
    let mut rows = sqlx::query(STRAYS).fetch(&mut **snapshot);
    while let Some(row) = rows.try_next().await? {
        report.strays.insert(parsed(&row, "request_id")?);
    }
    Ok(())
}

/// The journal of the node on which an audit is made.
#[derive(Debug)]
pub struct HomeJournal {
    /// The node; none where no gateway was ever started.
    pub node: Option<String>,
    /// Those of [`AuditReport::strays`] that it knows.
    pub known: HashSet<CallId>,
}

impl Store {
    /// Judges attempts and amendments whose calls were not on the books: they may have come there meanwhile, or be in a journal. Those of
    /// other nodes can't be read from here; a node that ended well has none left.
    pub async fn judge_strays(&self, report: &mut AuditReport, home: &HomeJournal) -> Result<(), StoreError> {
        let mut snapshot = self.database.long_snapshot().await?;
        for call in std::mem::take(&mut report.strays) {
            let brought = sqlx::query(BROUGHT_BY).bind(call.to_string()).fetch_optional(&mut *snapshot).await?;
            let Some(brought) = brought.filter(|_| !home.known.contains(&call)) else { continue };
            let (node, state): (String, Option<String>) = (brought.try_get("node")?, brought.try_get("state")?);
            let is_elsewhere = home.node.as_ref() != Some(&node) && state.is_some_and(|state| state != "stopped");
            if is_elsewhere {
                report.elsewhere += 1;
                continue;
            }
            let detail = "something is written of it, but it is neither on the books nor in the journal".to_owned();
            report.find(Invariant::AttemptsHaveCalls, call, detail);
        }
        report.sort();
        Ok(())
    }
}
