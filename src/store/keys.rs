//! Keys: made (one or a million), read, and what their rows say.
//!
//! - `list.rs`: an organisation's keys, by page
//! - `change.rs`: what people change of them; archived and deleted; `changelog.rs` what the audit trail says of it
//! - `secrets.rs`: rotated, imported, moved to the newest pepper
//! - `repeats.rs`: made once, however often they are asked for
//! - `uses.rs`: when they were last seen; `rows.rs`: what their rows say

mod change;
mod changelog;
mod list;
mod repeats;
mod rows;
mod secrets;
mod uses;

pub use change::KeyChange;
pub use list::{KeyFilter, KeyOrder, KeyPlace};
use rows::{addresses_text, folded};
pub(super) use rows::{join, read_row, select, select_by_old_secret, split};
pub use secrets::{GRACE_MAX_MS, SecretRecord};
pub(super) use uses::Use;

use super::changes::Change;
use super::ledger::{Tail, Whose};
use super::limits::{self, Limit, Owner};
use super::quotas::{self, QuotaKind, QuotaRow};
use super::trail::{Actor, By};
use super::{Connection, Engine, LIST_MAX, Rows, Store, StoreError, organisations, projects};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId, bits};
use filters::key::{Glob, Lookup, Status, Token};
use filters::money::NanoUsd;
use filters::network::Network;
use filters::scope::{KeyKind, Scopes};
use filters::time::EpochMs;
use sqlx::{AssertSqlSafe, QueryBuilder};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Most keys of one transaction: it holds the only writer, and the books of running calls wait behind it.
pub const KEYS_PER_TRANSACTION: u64 = 10_000;
/// Most keys of one page.
pub const KEYS_PER_PAGE: usize = LIST_MAX;
/// What a key is called that was given no name.
pub const UNTITLED: &str = "Untitled";
/// A use is noted of a key that was not used for so long.
const SEEN_AGAIN_MS: i64 = 60_000;
/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 250;

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose it is.
    pub org: OrgId,
    /// The project that it belongs to, if any; of the same organisation.
    pub project: Option<ProjectId>,
    /// What people call it, for good.
    pub name: String,
    /// What people say of it.
    pub description: String,
    /// A JSON object of texts.
    pub metadata: String,
    /// What tokens begin with.
    pub prefix: String,
    /// What it may do: scopes of one kind.
    pub scopes: Scopes,
    /// Patterns of models that it may use; none: all. Without white space.
    pub models: Vec<Glob>,
    /// Patterns of providers that it may use; none: all. Without white space.
    pub providers: Vec<Glob>,
    /// Where it may be used from; none: from anywhere.
    pub addresses: Vec<Network>,
    /// When it ends, if ever.
    pub expires: Option<EpochMs>,
    /// What it may use up.
    pub limits: Vec<Limit>,
}

impl NewKey {
    /// A key that calls all models, without limits.
    #[must_use]
    pub fn named(org: OrgId, name: &str) -> Self {
        Self {
            org,
            project: None,
            name: name.to_owned(),
            description: String::new(),
            metadata: "{}".to_owned(),
            prefix: "tg_live".to_owned(),
            scopes: Scopes::of_new_key(),
            models: Vec::new(),
            providers: Vec::new(),
            addresses: Vec::new(),
            expires: None,
            limits: Vec::new(),
        }
    }
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
    /// Whether its organisation has credentials at providers itself.
    pub(super) has_own: bool,
    /// What people call it.
    pub name: String,
    /// What people say of it.
    pub description: String,
    /// A JSON object of texts.
    pub metadata: String,
    /// Who made it; empty where that is not known.
    pub created_by: String,
    /// What it is for.
    pub kind: KeyKind,
    /// What it is found by.
    pub lookup: Lookup,
    /// When the secret that it was found by ends, where it was replaced.
    pub secret_ends: Option<EpochMs>,
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
    /// Where it may be used from; none: from anywhere.
    pub addresses: Vec<Network>,
    /// When it was made.
    pub created: EpochMs,
    /// When it ends, if ever.
    pub expires: Option<EpochMs>,
    /// When it was put away.
    pub archived: Option<EpochMs>,
    /// What it may use up, and has.
    pub limits: Vec<QuotaRow>,
    /// When a request with it was last seen, as far as it is on the books.
    pub last_used: Option<EpochMs>,
}

impl Store {
    /// Makes a key.
    pub async fn create_key(&self, new: &NewKey, by: impl Into<By>) -> Result<IssuedKey, StoreError> {
        let mut issued = self.issue(new, vec![new.name.clone()], &by.into()).await?;
        issued.pop().ok_or(StoreError::Refused("no key was made"))
    }

    /// Makes keys called `NAME-1`, `NAME-2` and so on, one for each number, at most [`KEYS_PER_TRANSACTION`].
    pub async fn create_keys(
        &self,
        new: &NewKey,
        numbers: RangeInclusive<u64>,
        by: impl Into<By>,
    ) -> Result<Vec<IssuedKey>, StoreError> {
        let names = numbers.map(|number| format!("{}-{number}", new.name));
        self.issue(new, names.collect(), &by.into()).await
    }

    async fn issue(&self, new: &NewKey, names: Vec<String>, by: &By) -> Result<Vec<IssuedKey>, StoreError> {
        let mut issued = Vec::with_capacity(names.len());
        for name in names {
            issued.push(IssuedKey { id: new_id(by.now)?, name, token: Token::issue(&new.prefix, random()?) });
        }
        let keys: Vec<_> = issued.iter().map(|key| self.row_of(key)).collect();
        let mut transaction = self.database.change().await?;
        self.insert(&mut transaction, new, keys, by).await?;
        transaction.commit().await?;
        Ok(issued)
    }

    fn row_of(&self, key: &IssuedKey) -> KeyRow {
        let lookup = self.pepper().lookup(key.token.reveal());
        KeyRow { id: key.id, name: key.name.clone(), lookup, fingerprint: key.token.fingerprint() }
    }

    /// Makes keys, all alike but for what the rows say, as part of a transaction that goes on.
    async fn insert(
        &self,
        connection: &mut Connection,
        new: &NewKey,
        mut keys: Vec<KeyRow>,
        by: &By,
    ) -> Result<(), StoreError> {
        let (now, created_by) = (by.now, maker(by));
        let kind = new.scopes.kind().ok_or(StoreError::ScopeMix)?;
        organisations::must_exist(connection, new.org).await?;
        if let Some(project) = new.project {
            projects::must_belong(connection, project, new.org).await?;
        }
        // Neighbours in the index of lookup ids go in together: a large table is then written page by page.
        keys.sort_unstable_by_key(|key| key.lookup.0);
        let (scopes, models, providers) = (new.scopes.to_string(), join(&new.models), join(&new.providers));
        let addresses = addresses_text(&new.addresses);
        for chunk in keys.chunks(ROWS_PER_INSERT) {
            let mut query = QueryBuilder::<Engine>::new(
                "INSERT INTO keys (id, org, project, name, description, metadata, folded, addresses, created_by, kind, lookup, \
                 pepper, fingerprint, status, scopes, models, providers, created_ms, expires_ms) ",
            );
            query.push_values(chunk, |mut row, key| {
                row.push_bind(key.id.to_string())
                    .push_bind(new.org.to_string())
                    .push_bind(new.project.map(|project| project.to_string()))
                    .push_bind(&*key.name)
                    .push_bind(&*new.description)
                    .push_bind(&*new.metadata)
                    .push_bind(folded(&key.name, &new.description))
                    .push_bind(&*addresses)
                    .push_bind(&*created_by)
                    .push_bind(kind.name())
                    .push_bind(&key.lookup.0[..])
                    .push_bind(&*self.peppers.newest)
                    .push_bind(&*key.fingerprint)
                    .push_bind(Status::Live.name())
                    .push_bind(&*scopes)
                    .push_bind(&*models)
                    .push_bind(&*providers)
                    .push_bind(now.0)
                    .push_bind(new.expires.map(|expires| expires.0));
            });
            query.on(connection).execute(&mut *connection).await?;
        }
        let limits: Vec<_> = keys.iter().flat_map(|key| limits_of_new_key(key.id, &new.limits)).collect();
        limits::set(connection, &limits, now).await?;
        Change::KeysMade(new.org).record(connection, now).await?;
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        changelog::made(connection, &ids, by).await
    }

    /// One key.
    pub async fn key(&self, id: KeyId, now: EpochMs) -> Result<KeyRecord, StoreError> {
        read_one(&mut *self.database.snapshot().await?, id, now).await
    }

    /// The key that a token is of, whatever its status, and without its limits; none if nobody has it. That it was seen is noted, once a
    /// minute.
    pub async fn key_of_token(&self, token: &str, now: EpochMs) -> Result<Option<KeyRecord>, StoreError> {
        let found = self.find_token(token).await?;
        if let Some(key) = &found
            && key.last_used.is_none_or(|at| at.plus(SEEN_AGAIN_MS) <= now)
        {
            self.note_uses(&[Use { lookup: key.lookup, key: key.id, at: now }]).await?;
        }
        Ok(found)
    }

    async fn find_token(&self, token: &str) -> Result<Option<KeyRecord>, StoreError> {
        let mut snapshot = self.database.snapshot().await?;
        for lookup in self.pepper().lookups(token) {
            for (select, table) in [(select(), "k"), (select_by_old_secret(), "s")] {
                let query = sqlx::query(AssertSqlSafe(format!("{select} WHERE {table}.lookup = $1")));
                if let Some(row) = query.bind(&lookup.0[..]).fetch_optional(&mut *snapshot).await? {
                    return read_row(&row).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// An organisation's keys in the order in which they were made, those after `after`, a page of [`KEYS_PER_PAGE`].
    pub async fn keys(&self, org: OrgId, after: Option<KeyId>, now: EpochMs) -> Result<Vec<KeyRecord>, StoreError> {
        let place = after.map(|id| KeyPlace { at: id.to_string(), id });
        let filter = KeyFilter { after: place, is_descending: false, ..KeyFilter::of(org, KEYS_PER_PAGE) };
        self.list_keys(&filter, now).await
    }
}

/// Who made a key, as it says for good.
fn maker(by: &By) -> String {
    let Actor { kind, id, .. } = &by.actor;
    if id.is_empty() { kind.name().to_owned() } else { id.clone() }
}

/// What is different in each of many new keys.
struct KeyRow {
    id: KeyId,
    name: String,
    lookup: Lookup,
    fingerprint: String,
}

fn new_id(now: EpochMs) -> Result<KeyId, StoreError> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    Ok(KeyId(bits(now, random)))
}

fn random() -> Result<[u8; 32], StoreError> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(random)
}

fn limits_of_new_key(key: KeyId, limits: &[Limit]) -> impl Iterator<Item = (String, Limit)> {
    limits::of_new_owner(Owner::Key(key), limits).into_iter().map(move |limit| (key.to_string(), limit))
}

pub(super) fn unknown(key: KeyId) -> StoreError {
    StoreError::NotFound(format!("key {key}"))
}

/// One key that there is, as part of a transaction.
async fn read_one(connection: &mut Connection, id: KeyId, now: EpochMs) -> Result<KeyRecord, StoreError> {
    let statement = format!("{} WHERE k.id = $1 AND k.deleted_ms IS NULL", select());
    let query = sqlx::query(AssertSqlSafe(statement)).bind(id.to_string());
    let row = query.fetch_optional(&mut *connection).await?;
    let mut records = with_limits(connection, Vec::from_iter(row), now).await?;
    records.pop().ok_or_else(|| unknown(id))
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

    /// Its status in one word: `live`, `disabled`, `expired` or `archived`.
    #[must_use]
    pub fn state(&self, now: EpochMs) -> &'static str {
        let is_expired = self.status == Status::Live && self.expires.is_some_and(|expires| expires <= now);
        if is_expired { "expired" } else { self.status.name() }
    }
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

    /// Three keys beside the one that is there, the last of them switched off.
    async fn four_keys(books: &Books) -> Vec<KeyId> {
        let mut ids = vec![books.key];
        for (name, description, expires) in
            [("Produktion Ä", "50% off!", None), ("ci_staging", "", Some(NOW.plus(5))), ("Beta", "", None)]
        {
            let description = description.to_owned();
            let new = NewKey { name: name.to_owned(), description, expires, ..new_key(books.org) };
            ids.push(books.store.create_key(&new, NOW.plus(ids.len() as i64)).await.expect("made").id);
        }
        books.store.enable_key(ids[3], false, NOW).await.expect("disabled");
        ids
    }

    #[tokio::test]
    async fn keys_are_filtered_and_searched() {
        let books = Books::open().await;
        let ids = four_keys(&books).await;
        let later = NOW.plus(10);
        let found = async |change: &dyn Fn(&mut KeyFilter<'_>)| {
            let mut filter = KeyFilter::of(books.org, 10);
            change(&mut filter);
            let listed = books.store.list_keys(&filter, later).await.expect("listed");
            let place = |id| ids.iter().position(|other| *other == id).expect("one of them");
            listed.iter().map(|key| place(key.id)).collect::<Vec<_>>()
        };
        assert_eq!(found(&|_| {}).await, [3, 2, 1, 0]);
        for (state, expected) in [("live", &[1, 0][..]), ("expired", &[2]), ("disabled", &[3]), ("archived", &[])] {
            assert_eq!(found(&|filter| filter.state = Some(state)).await, expected, "{state}");
        }
        for (text, expected) in [
            ("PRODUKTION ä", &[1][..]),
            ("i_s", &[2]),
            ("i%s", &[]),
            ("0% O", &[1]),
            ("off!", &[1]),
            ("_", &[2]),
            ("!", &[1]),
            ("'; DROP TABLE keys; --", &[]),
            ("tests", &[0]),
        ] {
            let text = Some(text);
            // The filter is of a lifetime of its own.
            let filter = KeyFilter { text, ..KeyFilter::of(books.org, 10) };
            let listed = books.store.list_keys(&filter, later).await.expect("listed");
            let places: Vec<_> = listed.iter().map(|key| ids.iter().position(|id| *id == key.id)).collect();
            assert_eq!(places, expected.iter().map(|place| Some(*place)).collect::<Vec<_>>(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn keys_are_listed_in_any_order() {
        let books = Books::open().await;
        let ids = four_keys(&books).await;
        let later = NOW.plus(10);
        let lookup = books.store.key(ids[2], NOW).await.expect("read").lookup;
        books.store.note_uses(&[Use { lookup, key: ids[2], at: later }]).await.expect("noted");
        for (order, expected) in
            [(KeyOrder::Created, [0, 1, 2, 3]), (KeyOrder::Name, [3, 2, 1, 0]), (KeyOrder::LastUsed, [0, 1, 3, 2])]
        {
            for is_descending in [false, true] {
                let mut expected = expected.to_vec();
                if is_descending {
                    expected.reverse();
                }
                let (mut places, mut after) = (Vec::new(), None);
                loop {
                    let filter = KeyFilter { order, is_descending, after, ..KeyFilter::of(books.org, 1) };
                    let page = books.store.list_keys(&filter, later).await.expect("a page");
                    let Some(last) = page.last() else { break };
                    places.extend(ids.iter().position(|id| *id == last.id));
                    after = Some(order.place(last));
                }
                if order == KeyOrder::LastUsed {
                    // Those that were never used are in the order of their making.
                    assert_eq!(places.iter().position(|place| *place == 2), Some(if is_descending { 0 } else { 3 }));
                    assert_eq!(places.len(), 4);
                } else {
                    assert_eq!(places, expected, "{order:?} {is_descending}");
                }
            }
        }
    }

    #[tokio::test]
    async fn scopes_of_both_kinds_make_no_key() {
        let books = Books::open().await;
        let new = NewKey { scopes: Scopes::parse("model:invoke admin").expect("scopes"), ..new_key(books.org) };
        assert!(matches!(books.store.create_key(&new, NOW).await, Err(StoreError::ScopeMix)));
        let new = NewKey { scopes: Scopes::parse("keys:read").expect("a scope"), ..new_key(books.org) };
        let made = books.store.create_key(&new, NOW).await.expect("made").id;
        assert_eq!(books.store.key(made, NOW).await.expect("read").kind, KeyKind::Service);
        let stranger = books.store.create_key(&new_key(OrgId(1)), NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
        // A row of the release before says nothing of the kind.
        sqlx::query("UPDATE keys SET kind = ''").execute(&books.store.database.writer).await.expect("changed");
        assert_eq!(books.store.key(made, NOW).await.expect("read").kind, KeyKind::Service);
        assert_eq!(books.key().await.kind, KeyKind::Model);
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
