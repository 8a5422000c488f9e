//! Reads keys that are not in memory: callers who miss the same token share one answer, and all who miss while a statement
//! runs share the next. Where nodes keep records for one another, `recall.rs` is asked first.

mod misses;

use misses::{Answer, Waiting};
pub(super) use misses::{Misses, RunningStage, Stage};

use super::credentials;
use super::key_cache::{Entry, Shared, lock};
use super::keys::{self, KeyRecord, Use};
use super::live_quotas::Figures;
use super::quotas::{self, QuotaRow};
use super::vault::Vault;
use super::{Connection, Engine, LIST_MAX, StoreError, engine, push_list};
use crate::clock;
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId};
use filters::key::{Key, Lookup, Presented};
use filters::own::OwnCredentials;
use filters::ports::StoreUnavailable;
use filters::time::EpochMs;
use sqlx::QueryBuilder;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::oneshot;

/// Which keys are to be read.
pub(super) enum Wanted<'a> {
    /// By their tokens, which may be stored under older peppers.
    Tokens(&'a [Presented]),
    /// By the lookup ids of their tokens.
    Lookups(&'a [Lookup]),
    /// By their identifiers.
    Ids(&'a [KeyId]),
}

/// A key as it was read, with its quotas' rows.
#[derive(Debug)]
pub(super) struct LoadedKey {
    pub(super) record: KeyRecord,
    pub(super) quotas: Vec<QuotaRow>,
    pub(super) own: Option<OwnCredentials>,
}

/// What was read, and when by the clock of the books; nobody asks them that where nobody needs to know.
struct Reading {
    keys: Vec<LoadedKey>,
    /// Secrets that are stored under an older pepper: as what, and as what they are to be.
    moves: Vec<(Lookup, Lookup)>,
    read: Option<EpochMs>,
}

impl Shared {
    /// Asks other nodes' records and the store for a key, together with everyone who asks now.
    pub(super) async fn ask_others(self: &Arc<Self>, token: &Presented) -> Answer {
        let (sender, receiver) = oneshot::channel();
        // Tasks of their own: a caller who leaves must not take the answer of the others along.
        match self.recollection.get().filter(|recollection| recollection.is_up()) {
            Some(recollection) => {
                if self.join(Stage::Recall, token, sender)? {
                    tokio::spawn(Arc::clone(self).recall_misses(Arc::clone(recollection)));
                }
            }
            None => {
                if self.join(Stage::Load, token, sender)? {
                    tokio::spawn(Arc::clone(self).load_misses());
                }
            }
        }
        receiver.await.unwrap_or(Err(StoreUnavailable))
    }

    /// Joins those who wait for a token. Says whether the caller has to start the stage.
    fn join(&self, stage: Stage, token: &Presented, sender: oneshot::Sender<Answer>) -> Result<bool, StoreUnavailable> {
        let mut misses = lock(&self.misses);
        if let Some(waiting) = misses.waiting.get_mut(&token.lookup) {
            waiting.senders.push(sender);
            return Ok(false);
        }
        if misses.waiting.len() >= self.settings.waiting_max {
            self.counts.failed.fetch_add(1, Relaxed);
            return Err(StoreUnavailable);
        }
        misses.waiting.insert(token.lookup, Waiting { hash: token.hash, senders: vec![sender] });
        Ok(misses.queues[stage as usize].extend([token.lookup]))
    }

    /// Has the store asked for tokens that are waited for.
    pub(super) fn leave_to_store(self: &Arc<Self>, lookups: Vec<Lookup>) {
        if lock(&self.misses).queues[Stage::Load as usize].extend(lookups) {
            tokio::spawn(Arc::clone(self).load_misses());
        }
    }

    /// Tells all who wait for a token.
    pub(super) fn answer(&self, lookup: Lookup, answer: Answer, count: &AtomicU64) {
        let waiting = lock(&self.misses).waiting.remove(&lookup);
        for sender in waiting.map(|waiting| waiting.senders).unwrap_or_default() {
            count.fetch_add(1, Relaxed);
            // A caller who has left needs no answer.
            let _ = sender.send(answer.clone());
        }
    }

    /// Begins to serve a stage.
    pub(super) fn run(&self, stage: Stage) -> RunningStage<'_> {
        RunningStage { shared: self, stage, is_done: false }
    }

    async fn load_misses(self: Arc<Self>) {
        let mut running = self.run(Stage::Load);
        while let Some(batch) = running.next_batch() {
            let loaded = self.load(Wanted::Tokens(&self.presented(&batch))).await;
            if let Err(cause) = &loaded {
                tracing::warn!(%cause, tokens = batch.len(), "keys can't be read from the store");
            }
            for lookup in batch {
                let (answer, count) = match loaded.as_ref().map(|keys| keys.get(&lookup)) {
                    Ok(Some(key)) => (Ok(Some(Arc::clone(key))), &self.counts.store),
                    Ok(None) => (Ok(None), &self.counts.unknown),
                    Err(_) => (Err(StoreUnavailable), &self.counts.failed),
                };
                if matches!(answer, Ok(None)) {
                    self.remember_unknown(lookup);
                }
                self.answer(lookup, answer, count);
            }
        }
    }

    /// Tokens that are waited for, with their hashes.
    fn presented(&self, lookups: &[Lookup]) -> Vec<Presented> {
        let misses = lock(&self.misses);
        let presented = |lookup: &Lookup| {
            let waiting = misses.waiting.get(lookup)?;
            Some(Presented { lookup: *lookup, hash: waiting.hash })
        };
        lookups.iter().filter_map(presented).collect()
    }

    /// Reads at most [`LIST_MAX`] keys and puts them in memory in place of what was there.
    pub(super) async fn load(&self, wanted: Wanted<'_>) -> Result<HashMap<Lookup, Arc<Key>>, StoreError> {
        let (only_known, asked): (_, Vec<Lookup>) = match wanted {
            Wanted::Ids(_) => (true, Vec::new()),
            Wanted::Lookups(lookups) => (false, lookups.to_vec()),
            Wanted::Tokens(tokens) => (false, tokens.iter().map(|token| token.lookup).collect()),
        };
        let _loading = self.loading.lock().await;
        self.counts.queries.fetch_add(1, Relaxed);
        let Reading { keys: loaded, moves, read } = self.store.database.in_time(self.read(wanted)).await?;
        lock(&self.unwritten).moves.extend(moves);
        if let Some((recollection, read)) = self.recollection.get().zip(read) {
            recollection.keep(&loaded, &asked, read);
        }
        let mut keys = HashMap::with_capacity(loaded.len());
        for loaded in loaded {
            let lookup = loaded.record.lookup;
            if !only_known || self.entries.pin().contains_key(&lookup) {
                keys.insert(lookup, self.take_in(loaded, Figures::Told));
            }
        }
        self.hold_bound(&self.entries.pin());
        Ok(keys)
    }

    /// Puts a key in memory. One whose figures nobody has looked at does not take the place of another, and is read soon.
    pub(super) fn take_in(&self, LoadedKey { record, quotas, own }: LoadedKey, figures: Figures) -> Arc<Key> {
        let (tick, entries, lookup) = (self.ticks.load(Relaxed), self.entries.pin(), record.lookup);
        let known = entries.get(&lookup);
        if let Some(known) = known
            && figures == Figures::Untold
        {
            return Arc::clone(&known.key);
        }
        let (chain, ids) = lock(&self.quotas).chain(quotas.iter(), figures);
        let key = Arc::new(into_key(record, chain, own));
        // A key that is read again is not used by that.
        let used = known.map_or(tick, |entry| entry.used.load(Relaxed));
        if known.is_none() {
            self.note_use(Use { lookup, key: key.id, at: clock::now() });
        }
        match (known, figures) {
            (Some(_), _) => {}
            (None, Figures::Told) => lock(&self.order).push_back((tick, lookup)),
            (None, Figures::Untold) => lock(&self.order).push_front((0, lookup)),
        }
        entries.insert(lookup, Entry { key: Arc::clone(&key), quotas: ids, used: AtomicU64::new(used) });
        key
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Reading, StoreError> {
        let mut snapshot = self.store.database.snapshot().await?;
        let read = match self.recollection.get() {
            Some(_) => Some(engine::now(&mut snapshot).await?),
            None => None,
        };
        let (records, moves) = match wanted {
            Wanted::Ids(ids) => {
                let mut records = by_id(&mut snapshot, keys::select(), "k.id", ids).await?;
                records.extend(by_id(&mut snapshot, keys::select_by_old_secret(), "s.key_id", ids).await?);
                (records, Vec::new())
            }
            Wanted::Lookups(lookups) => (by_lookup(&mut snapshot, lookups).await?, Vec::new()),
            Wanted::Tokens(tokens) => self.by_token(&mut snapshot, tokens).await?,
        };
        let mut keys = with_quotas(&mut snapshot, records).await?;
        add_own(&mut snapshot, self.store.vault(), &mut keys).await?;
        Ok(Reading { keys, moves, read })
    }

    /// Keys by tokens, under the newest pepper or, where they are not stored so yet, under an older one. Either way they are given as they
    /// are found from now on.
    async fn by_token(
        &self,
        connection: &mut Connection,
        tokens: &[Presented],
    ) -> Result<(Vec<KeyRecord>, Vec<(Lookup, Lookup)>), StoreError> {
        let lookups: Vec<Lookup> = tokens.iter().map(|token| token.lookup).collect();
        let mut records = by_lookup(connection, &lookups).await?;
        let mut moves = Vec::new();
        let pepper = self.store.pepper();
        if !pepper.has_older() || records.len() == tokens.len() {
            return Ok((records, moves));
        }
        let found: HashSet<Lookup> = records.iter().map(|record| record.lookup).collect();
        let missing = tokens.iter().filter(|token| !found.contains(&token.lookup));
        let older: HashMap<Lookup, Lookup> =
            missing.flat_map(|token| pepper.older_lookups(token.hash).map(|older| (older, token.lookup))).collect();
        let asked: Vec<Lookup> = older.keys().copied().collect();
        for asked in asked.chunks(LIST_MAX) {
            for mut record in by_lookup(connection, asked).await? {
                if let Some(newest) = older.get(&record.lookup) {
                    moves.push((record.lookup, *newest));
                    record.lookup = *newest;
                    records.push(record);
                }
            }
        }
        Ok((records, moves))
    }
}

/// Keys by what their tokens are looked up as: first the present secrets, then, for the rest, those that were replaced.
async fn by_lookup(connection: &mut Connection, lookups: &[Lookup]) -> Result<Vec<KeyRecord>, StoreError> {
    let mut records = Vec::with_capacity(lookups.len());
    for (select, column) in [(keys::select(), "k.lookup"), (keys::select_by_old_secret(), "s.lookup")] {
        if records.len() == lookups.len() {
            break;
        }
        let mut query = QueryBuilder::<Engine>::new(select);
        query.push(" WHERE ").push(column).push(" IN ");
        push_list(&mut query, lookups, |lookup| &lookup.0[..]);
        let rows = query.on(connection).fetch_all(&mut *connection).await?;
        for row in &rows {
            records.push(keys::read_row(row)?);
        }
    }
    Ok(records)
}

/// Keys, or their replaced secrets, by the keys' identifiers.
async fn by_id(
    connection: &mut Connection,
    select: String,
    column: &str,
    ids: &[KeyId],
) -> Result<Vec<KeyRecord>, StoreError> {
    let mut query = QueryBuilder::<Engine>::new(select);
    query.push(" WHERE ").push(column).push(" IN ");
    push_list(&mut query, ids, KeyId::to_string);
    let rows = query.on(connection).fetch_all(connection).await?;
    rows.iter().map(keys::read_row).collect()
}

async fn with_quotas(connection: &mut Connection, records: Vec<KeyRecord>) -> Result<Vec<LoadedKey>, StoreError> {
    let orgs: BTreeSet<_> = records.iter().map(|key| key.org).collect();
    let projects: BTreeSet<_> = records.iter().filter_map(|key| key.project).collect();
    let keys: BTreeSet<_> = records.iter().map(|key| key.id).collect();
    let shared = projects.iter().map(ProjectId::to_string).chain(orgs.iter().map(OrgId::to_string));
    let owners: Vec<String> = keys.iter().map(KeyId::to_string).chain(shared).collect();
    let now = clock::now();
    let mut by_owner: HashMap<String, Vec<QuotaRow>> = HashMap::with_capacity(owners.len());
    for owners in owners.chunks(LIST_MAX) {
        for quota in quotas::read(connection, owners, now).await? {
            by_owner.entry(quota.owner.clone()).or_default().push(quota);
        }
    }
    let loaded = records.into_iter().map(|record| {
        // Not taken out: a key has as many records as secrets.
        let mut quotas = by_owner.get(&record.id.to_string()).cloned().unwrap_or_default();
        let project = record.project.and_then(|project| by_owner.get(&project.to_string()));
        quotas.extend(project.into_iter().flatten().cloned());
        let org = by_owner.get(&record.org.to_string());
        quotas.extend(org.into_iter().flatten().cloned());
        LoadedKey { record, quotas, own: None }
    });
    Ok(loaded.collect())
}

/// Few organisations have credentials of their own: nobody looks for those of the others.
async fn add_own(connection: &mut Connection, vault: &Vault, keys: &mut [LoadedKey]) -> Result<(), StoreError> {
    let orgs: BTreeSet<OrgId> = keys.iter().filter(|key| key.record.has_own).map(|key| key.record.org).collect();
    if orgs.is_empty() {
        return Ok(());
    }
    let by_org = credentials::read_own(connection, vault, &Vec::from_iter(orgs)).await?;
    keys.iter_mut().for_each(|key| key.own = by_org.get(&key.record.org).cloned());
    Ok(())
}

fn into_key(record: KeyRecord, chain: filters::quota::Chain, own: Option<OwnCredentials>) -> Key {
    Key {
        id: record.id,
        name: record.name.into(),
        org: record.org,
        project: record.project,
        org_suspended: record.org_suspended,
        status: record.status,
        expires: record.expires,
        scopes: record.scopes,
        models: record.models,
        providers: record.providers,
        addresses: record.addresses,
        secret_ends: record.secret_ends,
        chain: Arc::new(chain),
        own,
    }
}
