//! The table of objects.

use crate::store::engine::On;
use crate::store::ledger::{read_price_id, read_shares, read_usage};
use crate::store::{Connection, Engine, Rows, Store, StoreError, parsed, push_list};
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::objects::{Object, ObjectKind};
use filters::ports::{Description, Files, Page, Unread};
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};

/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 64;
/// Most responses that are taken up at a start.
const UNREAD_MAX: i64 = 10_000;
const COLUMNS: &str = "id, provider, credential, kind, org_id, key_id, request_id, made_ms";

/// Writes claims down; an object that has an owner keeps it.
pub(in crate::store) async fn insert(connection: &mut Connection, objects: &[Object]) -> Result<(), StoreError> {
    for chunk in objects.chunks(ROWS_PER_INSERT) {
        let mut query = QueryBuilder::<Engine>::new(format!("INSERT INTO objects ({COLUMNS}) "));
        query.push_values(chunk, |mut row, object| {
            row.push_bind(&*object.id)
                .push_bind(&*object.provider)
                .push_bind(i64::from(object.credential))
                .push_bind(object.kind.name())
                .push_bind(object.org.to_string())
                .push_bind(object.key.to_string())
                .push_bind(object.call.to_string())
                .push_bind(object.at.0);
        });
        query.push(" ON CONFLICT (id, provider) DO NOTHING");
        query.on(connection).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Store {
    /// Those of some ids that an organisation has.
    pub(super) async fn objects_of(&self, org: OrgId, ids: &[&str]) -> Result<Vec<Object>, StoreError> {
        let mut query = QueryBuilder::<Engine>::new(format!("SELECT {COLUMNS} FROM objects WHERE org_id = "));
        query.push_bind(org.to_string()).push(" AND deleted_ms IS NULL AND id IN ");
        push_list(&mut query, ids, |id| *id);
        let mut reader = self.database.reader.acquire().await?;
        let rows = query.on(&reader).fetch_all(&mut *reader).await?;
        rows.iter().map(read).collect()
    }

    pub(super) async fn describe_object(&self, file: &Object, description: &Description) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        insert(&mut transaction, std::slice::from_ref(file)).await?;
        sqlx::query("UPDATE objects SET purpose = $1, content = $2 WHERE id = $3 AND provider = $4 AND org_id = $5")
            .bind(description.purpose.as_deref())
            .bind(&description.content)
            .bind(&*file.id)
            .bind(&*file.provider)
            .bind(file.org.to_string())
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    pub(super) async fn forget_object(&self, object: &Object, now: EpochMs) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        insert(&mut transaction, std::slice::from_ref(object)).await?;
        sqlx::query(
            "UPDATE objects SET deleted_ms = $1, purpose = NULL, content = NULL \
             WHERE id = $2 AND provider = $3 AND org_id = $4",
        )
        .bind(now.0)
        .bind(&*object.id)
        .bind(&*object.provider)
        .bind(object.org.to_string())
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Background responses whose calls were closed by the next process, and have not been amended.
    pub(super) async fn unread_responses(&self, since: EpochMs) -> Result<Vec<Unread>, StoreError> {
        let statement = "SELECT c.*, o.id, o.provider AS stored_at, o.credential, o.kind, o.made_ms FROM objects o \
             JOIN calls c ON c.request_id = o.request_id \
             WHERE o.kind = 'background response' AND o.made_ms >= $1 AND o.deleted_ms IS NULL \
             AND c.outcome IN ('recovered', 'abandoned') \
             AND NOT EXISTS (SELECT 1 FROM amendments a WHERE a.request_id = o.request_id) LIMIT $2";
        let rows = sqlx::query(statement).bind(since.0).bind(UNREAD_MAX).fetch_all(&self.database.reader).await?;
        let unread = |row: &Rows| {
            let (usage, shares) = (read_usage(row)?, read_shares(row)?);
            let charge = NanoUsd(row.try_get("charge_nano")?);
            // The call names a provider too.
            let response = Object { provider: row.try_get::<String, _>("stored_at")?.into(), ..read(row)? };
            Ok(Unread { response, usage, charge, price: read_price_id(row)?, shares })
        };
        rows.iter().map(unread).collect()
    }

    pub(super) async fn files(&self, page: &Page<'_>) -> Result<Files, StoreError> {
        let (order, beyond) = if page.newest_first { ("DESC", "<") } else { ("ASC", ">") };
        if page.providers.is_empty() {
            return Ok(Files::default());
        }
        let mut query =
            QueryBuilder::<Engine>::new("SELECT content FROM objects WHERE content IS NOT NULL AND org_id = ");
        query.push_bind(page.org.to_string()).push(" AND provider IN ");
        push_list(&mut query, page.providers, |provider| &**provider);
        if let Some(purpose) = page.purpose {
            query.push(" AND purpose = ").push_bind(purpose);
        }
        if let Some(after) = page.after {
            // An id that is not the organisation's is followed by nothing.
            query.push(format!(" AND (made_ms, id) {beyond} (SELECT made_ms, id FROM objects WHERE org_id = "));
            query.push_bind(page.org.to_string()).push(" AND id = ").push_bind(after).push(" LIMIT 1)");
        }
        query.push(format!(" ORDER BY made_ms {order}, id {order} LIMIT "));
        query.push_bind(i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1));
        let mut reader = self.database.reader.acquire().await?;
        let rows = query.on(&reader).fetch_all(&mut *reader).await?;
        let has_more = rows.len() > page.limit;
        let contents = rows.iter().take(page.limit).map(|row| row.try_get("content")).collect::<Result<_, _>>()?;
        Ok(Files { contents, has_more })
    }
}

fn read(row: &Rows) -> Result<Object, StoreError> {
    let kind: String = row.try_get("kind")?;
    let credential: i64 = row.try_get("credential")?;
    Ok(Object {
        id: row.try_get::<String, _>("id")?.into(),
        provider: row.try_get::<String, _>("provider")?.into(),
        kind: ObjectKind::named(&kind).ok_or(StoreError::Corrupt { column: "kind", content: kind })?,
        credential: u16::try_from(credential)
            .map_err(|_| StoreError::Corrupt { column: "credential", content: credential.to_string() })?,
        org: parsed(row, "org_id")?,
        key: parsed(row, "key_id")?,
        call: parsed(row, "request_id")?,
        at: EpochMs(row.try_get("made_ms")?),
    })
}
