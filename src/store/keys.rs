//! Keys: made (one or a million), listed, shown, switched off and on.

use super::changes::Change;
use super::ledger::{Tail, Whose};
use super::limits::{self, Limit, Owner};
use super::quotas::{self, QuotaKind, QuotaRow};
use super::{Connection, Engine, LIST_MAX, Rows, Store, StoreError, organisations, parsed, projects};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId, bits};
use filters::key::{Glob, Lookup, Status, Token};
use filters::money::NanoUsd;
use filters::scope::Scopes;
use filters::time::EpochMs;
use sqlx::{QueryBuilder, Row};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Most keys of one transaction: it holds the only writer, and the books of running calls wait behind it.
pub const KEYS_PER_TRANSACTION: u64 = 10_000;
/// Most keys of one page.
pub const KEYS_PER_PAGE: usize = LIST_MAX;
/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 500;

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose it is.
    pub org: OrgId,
    /// The project that it belongs to, if any; of the same organisation.
    pub project: Option<ProjectId>,
    /// What people call it.
    pub name: String,
    /// What tokens begin with.
    pub prefix: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Patterns of models that it may use; none: all. Without white space.
    pub models: Vec<Glob>,
    /// Patterns of providers that it may use; none: all. Without white space.
    pub providers: Vec<Glob>,
    /// When it ends, if ever.
    pub expires: Option<EpochMs>,
    /// What it may use up.
    pub limits: Vec<Limit>,
}

/// A key that was made, with its token for the only time.
#[derive(Debug)]
pub struct IssuedKey {
    /// Names the key.
    pub id: KeyId,
    /// What it is called.
    pub name: String,
    /// The secret.
    pub token: Token,
}

/// A key as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Names it for good.
    pub id: KeyId,
    /// Whose it is.
    pub org: OrgId,
    /// The project that it belongs to, if any.
    pub project: Option<ProjectId>,
    /// Whether its organisation is suspended.
    pub org_suspended: bool,
    /// What people call it.
    pub name: String,
    /// What it is found by.
    pub lookup: Lookup,
    /// The beginning and the end of its token.
    pub fingerprint: String,
    /// Whether it may be used.
    pub status: Status,
    /// What it may do.
    pub scopes: Scopes,
    /// Patterns of models that it may use; none: all.
    pub models: Vec<Glob>,
    /// Patterns of providers that it may use; none: all.
    pub providers: Vec<Glob>,
    /// When it was made.
    pub created: EpochMs,
    /// When it ends, if ever.
    pub expires: Option<EpochMs>,
    /// What it may use up, and has.
    pub limits: Vec<QuotaRow>,
    /// When its latest call was admitted, as far as it is on the books.
    pub last_used: Option<EpochMs>,
}

/// The columns that [`read_row`] reads.
pub(super) const SELECT: &str = "SELECT k.id, k.org, k.project, o.suspended_ms, k.name, k.lookup, k.fingerprint, k.status, \
     k.scopes, k.models, k.providers, k.created_ms, k.expires_ms, l.at_ms AS last_used_ms \
     FROM keys k JOIN organisations o ON o.id = k.org LEFT JOIN last_used l ON l.key_id = k.id";

impl Store {
    /// Makes a key.
    pub async fn create_key(&self, new: &NewKey, now: EpochMs) -> Result<IssuedKey, StoreError> {
        let mut issued = self.issue(new, vec![new.name.clone()], now).await?;
        issued.pop().ok_or(StoreError::Refused("no key was made"))
    }

    /// Makes keys called `NAME-1`, `NAME-2` and so on, one for each number, at most [`KEYS_PER_TRANSACTION`].
    pub async fn create_keys(
        &self,
        new: &NewKey,
        numbers: RangeInclusive<u64>,
        now: EpochMs,
    ) -> Result<Vec<IssuedKey>, StoreError> {
        let names = numbers.map(|number| format!("{}-{number}", new.name));
        self.issue(new, names.collect(), now).await
    }

    async fn issue(&self, new: &NewKey, names: Vec<String>, now: EpochMs) -> Result<Vec<IssuedKey>, StoreError> {
        let mut issued = Vec::with_capacity(names.len());
        for name in names {
            let (mut id, mut secret) = ([0; 10], [0; 32]);
            getrandom::fill(&mut id)?;
            getrandom::fill(&mut secret)?;
            issued.push(IssuedKey { id: KeyId(bits(now, id)), name, token: Token::issue(&new.prefix, secret) });
        }
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, new.org).await?;
        if let Some(project) = new.project {
            projects::must_belong(&mut transaction, project, new.org).await?;
        }
        self.insert_keys(&mut transaction, new, &issued, now).await?;
        let limits: Vec<_> = issued.iter().flat_map(|key| limits_of_new_key(key.id, &new.limits)).collect();
        limits::set(&mut transaction, &limits, now).await?;
        Change::KeysMade(new.org).record(&mut transaction, now).await?;
        transaction.commit().await?;
        Ok(issued)
    }

    async fn insert_keys(
        &self,
        connection: &mut Connection,
        new: &NewKey,
        issued: &[IssuedKey],
        now: EpochMs,
    ) -> Result<(), StoreError> {
        let mut keys: Vec<([u8; 32], &IssuedKey)> =
            issued.iter().map(|key| (self.pepper.lookup(key.token.reveal()).0, key)).collect();
        // Neighbours in the index of lookup ids go in together: a large table is then written page by page.
        keys.sort_unstable_by_key(|(lookup, _)| *lookup);
        let (scopes, models, providers) = (new.scopes.to_string(), join(&new.models), join(&new.providers));
        for chunk in keys.chunks(ROWS_PER_INSERT) {
            let mut query = QueryBuilder::<Engine>::new(
                "INSERT INTO keys (id, org, project, name, lookup, fingerprint, status, scopes, models, providers, created_ms, expires_ms) ",
            );
            query.push_values(chunk, |mut row, (lookup, key)| {
                row.push_bind(key.id.to_string())
                    .push_bind(new.org.to_string())
                    .push_bind(new.project.map(|project| project.to_string()))
                    .push_bind(&*key.name)
                    .push_bind(&lookup[..])
                    .push_bind(key.token.fingerprint())
                    .push_bind(Status::Live.name())
                    .push_bind(&*scopes)
                    .push_bind(&*models)
                    .push_bind(&*providers)
                    .push_bind(now.0)
                    .push_bind(new.expires.map(|expires| expires.0));
            });
            query.on(connection).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// One key.
    pub async fn key(&self, id: KeyId, now: EpochMs) -> Result<KeyRecord, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE k.id = $1")))
            .bind(id.to_string())
            .fetch_optional(&mut *snapshot)
            .await?;
        let mut records = with_limits(&mut snapshot, Vec::from_iter(row), now).await?;
        records.pop().ok_or_else(|| unknown(id))
    }

    /// The key whose token has this lookup id, without its limits.
    pub async fn key_of(&self, lookup: Lookup) -> Result<Option<KeyRecord>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE k.lookup = $1")))
            .bind(&lookup.0[..])
            .fetch_optional(&self.database.reader)
            .await?;
        row.as_ref().map(read_row).transpose()
    }

    /// An organisation's keys in the order in which they were made, those after `after`, a page of [`KEYS_PER_PAGE`].
    pub async fn keys(&self, org: OrgId, after: Option<KeyId>, now: EpochMs) -> Result<Vec<KeyRecord>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        let text = format!("{SELECT} WHERE k.org = $1 AND k.id > $2 ORDER BY k.id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(org.to_string())
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(KEYS_PER_PAGE as i64)
            .fetch_all(&mut *snapshot)
            .await?;
        with_limits(&mut snapshot, rows, now).await
    }

    /// Switches a key off or on. An archived key stays archived.
    pub async fn enable_key(&self, id: KeyId, enabled: bool, now: EpochMs) -> Result<KeyRecord, StoreError> {
        let status = if enabled { Status::Live } else { Status::Disabled };
        let mut transaction = self.database.change().await?;
        let changed = sqlx::query("UPDATE keys SET status = $1 WHERE id = $2 AND status <> 'archived'")
            .bind(status.name())
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        Change::Key(id).record(&mut transaction, now).await?;
        if changed.rows_affected() == 0 {
            drop(transaction);
            self.key(id, now).await?;
            return Err(StoreError::Refused("the key was archived, which is for good: create a new one"));
        }
        transaction.commit().await?;
        self.key(id, now).await
    }
}

fn limits_of_new_key(key: KeyId, limits: &[Limit]) -> impl Iterator<Item = (String, Limit)> {
    limits::of_new_owner(Owner::Key(key), limits).into_iter().map(move |limit| (key.to_string(), limit))
}

pub(super) fn unknown(key: KeyId) -> StoreError {
    StoreError::NotFound(format!("key {key}"))
}

async fn with_limits(connection: &mut Connection, rows: Vec<Rows>, now: EpochMs) -> Result<Vec<KeyRecord>, StoreError> {
    let mut records = rows.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
    let owners: Vec<String> = records.iter().map(|key| key.id.to_string()).collect();
    let whose = match records.as_slice() {
        [key] => Whose::Key(key.id),
        // A page of keys is of one organisation.
        [key, ..] => Whose::Org(key.org),
        [] => return Ok(records),
    };
    let tail = Tail::read(connection, whose).await?;
    let mut by_owner: HashMap<String, Vec<QuotaRow>> = HashMap::new();
    for quota in quotas::read_with(connection, &owners, &tail, now).await? {
        by_owner.entry(quota.owner.clone()).or_default().push(quota);
    }
    for (record, owner) in records.iter_mut().zip(&owners) {
        record.limits = by_owner.remove(owner).unwrap_or_default();
        record.last_used = record.last_used.max(tail.last_used(record.id));
    }
    Ok(records)
}

impl KeyRecord {
    /// What it has been charged, as far as it is on the books.
    #[must_use]
    pub fn spent(&self) -> NanoUsd {
        let total = self.limits.iter().find(|row| row.kind == QuotaKind::Spend && row.is_plain());
        total.map_or(NanoUsd::ZERO, |row| NanoUsd(row.spent))
    }
}

/// Reads a row of [`SELECT`]; limits are other rows.
pub(super) fn read_row(row: &Rows) -> Result<KeyRecord, StoreError> {
    let (status, scopes): (String, String) = (row.try_get("status")?, row.try_get("scopes")?);
    let lookup: &[u8] = row.try_get("lookup")?;
    Ok(KeyRecord {
        id: parsed(row, "id")?,
        org: parsed(row, "org")?,
        project: match row.try_get::<Option<&str>, _>("project")? {
            Some(_) => Some(parsed(row, "project")?),
            None => None,
        },
        org_suspended: row.try_get::<Option<i64>, _>("suspended_ms")?.is_some(),
        name: row.try_get("name")?,
        lookup: Lookup(
            lookup.try_into().map_err(|_| StoreError::Corrupt {
                column: "keys.lookup",
                content: format!("{} bytes", lookup.len()),
            })?,
        ),
        fingerprint: row.try_get("fingerprint")?,
        status: Status::named(&status).ok_or(StoreError::Corrupt { column: "keys.status", content: status })?,
        scopes: Scopes::parse(&scopes).map_err(|content| StoreError::Corrupt { column: "keys.scopes", content })?,
        models: split(row.try_get("models")?),
        providers: split(row.try_get("providers")?),
        created: EpochMs(row.try_get("created_ms")?),
        expires: row.try_get::<Option<i64>, _>("expires_ms")?.map(EpochMs),
        limits: Vec::new(),
        last_used: row.try_get::<Option<i64>, _>("last_used_ms")?.map(EpochMs),
    })
}

fn join(patterns: &[Glob]) -> String {
    let texts: Vec<&str> = patterns.iter().map(|pattern| &*pattern.0).collect();
    texts.join(" ")
}

fn split(patterns: &str) -> Vec<Glob> {
    patterns.split_ascii_whitespace().map(|pattern| Glob(pattern.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key};
    use crate::store::quotas::PlainLimits;

    #[tokio::test]
    async fn a_key_is_read_back_as_it_was_made() {
        let books = Books::open().await;
        let new = NewKey {
            models: vec![Glob("gpt-*".into()), Glob("claude-*".into())],
            providers: vec![Glob("openai".into())],
            expires: Some(NOW.plus(5)),
            limits: vec![Limit::plain(QuotaKind::Tokens, 7), Limit::plain(QuotaKind::Concurrency, 3)],
            ..new_key(books.org)
        };
        let issued = books.store.create_key(&new, NOW).await.expect("made");
        let read = books.store.key(issued.id, NOW).await.expect("read");
        assert_eq!(
            (&read.models, &read.providers, read.expires, read.project),
            (&new.models, &new.providers, new.expires, None)
        );
        assert_eq!(read.lookup, books.store.pepper().lookup(issued.token.reveal()));
        let plain = PlainLimits { tokens: Some(7), concurrency: Some(3), ..PlainLimits::default() };
        assert_eq!(PlainLimits::of(&read.limits, NOW), plain);
        let plain = PlainLimits { spend: Some(NanoUsd(5_000_000_000)), requests: Some(60), ..PlainLimits::default() };
        assert_eq!(PlainLimits::of(&books.key().await.limits, NOW), plain);
    }

    #[tokio::test]
    async fn many_keys_are_made_and_listed_page_by_page() {
        let books = Books::open().await;
        let made = books.store.create_keys(&new_key(books.org), 1..=1_200, NOW.plus(1)).await.expect("made");
        let (mut listed, mut after) = (Vec::new(), Some(books.key));
        loop {
            let page = books.store.keys(books.org, after, NOW).await.expect("a page");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            listed.extend(page);
        }
        assert_eq!((made.len(), listed.len()), (1_200, 1_200));
        assert!(listed.iter().all(|key| PlainLimits::of(&key.limits, NOW).requests == Some(60)));
        assert!(listed.iter().any(|key| key.name == "tests-1200"));
    }

    #[tokio::test]
    async fn keys_are_switched_off_and_on_unless_archived() {
        let books = Books::open().await;
        for enabled in [false, true, true] {
            let changed = books.store.enable_key(books.key, enabled, NOW).await;
            assert_eq!(changed.expect("changed").status == Status::Live, enabled);
        }
        sqlx::query("UPDATE keys SET status = 'archived'")
            .execute(&books.store.database.writer)
            .await
            .expect("archived");
        let refused = books.store.enable_key(books.key, true, NOW).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        let stranger = books.store.enable_key(KeyId(1), true, NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
        let org = books.store.create_key(&new_key(OrgId(1)), NOW).await;
        assert!(matches!(org, Err(StoreError::NotFound(_))));
    }

    /// Run by hand: `cargo test --release -p tollgate --lib a_million -- --ignored --nocapture`.
    #[tokio::test]
    #[ignore = "takes a minute; says how long a million keys and a hundred thousand calls take"]
    async fn a_million_keys_are_made_in_reasonable_time() {
        let books = Books::open().await;
        let (new, started) = (new_key(books.org), std::time::Instant::now());
        for chunk in 0..1_000_000 / KEYS_PER_TRANSACTION {
            let first = chunk * KEYS_PER_TRANSACTION + 1;
            let numbers = first..=first + KEYS_PER_TRANSACTION - 1;
            let made = books.store.create_keys(&new, numbers, NOW).await;
            made.expect("made");
        }
        println!("1 000 000 keys: {:?}", started.elapsed());
        let started = std::time::Instant::now();
        for batch in 0..100 {
            let calls: Vec<_> = (0..1_000).map(|number| books.call(batch * 1_000 + number, 10, 5)).collect();
            let shipped = books.store.ship("node", &calls, Default::default()).await;
            assert_eq!(shipped.expect("shipped"), 1_000);
        }
        println!("100 000 calls: {:?}", started.elapsed());
    }
}
