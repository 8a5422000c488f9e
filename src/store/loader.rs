//! Reads keys that are not in memory: callers who miss the same token share one answer, and all who miss while a statement
//! runs share the next.

use super::key_cache::{Entry, Shared, lock};
use super::keys::{self, KeyRecord};
use super::quotas::{self, QuotaRow};
use super::{Connection, Engine, LIST_MAX, StoreError, push_list};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId};
use filters::key::{Key, Lookup};
use filters::ports::StoreUnavailable;
use sqlx::QueryBuilder;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::oneshot;

type Answer = Result<Option<Arc<Key>>, StoreUnavailable>;

/// Tokens that are being looked up.
#[derive(Debug, Default)]
pub(super) struct Misses {
    /// Who waits for which token.
    waiting: HashMap<Lookup, Vec<oneshot::Sender<Answer>>>,
    /// Tokens that no statement has asked for yet.
    queue: VecDeque<Lookup>,
    is_loading: bool,
}

impl Misses {
    /// How many callers wait.
    #[cfg(test)]
    pub(super) fn waiting_for_answers(&self) -> usize {
        self.waiting.values().map(Vec::len).sum()
    }
}

/// Which keys are to be read.
pub(super) enum Wanted<'a> {
    /// By their tokens.
    Lookups(&'a [Lookup]),
    /// By their identifiers.
    Ids(&'a [KeyId]),
}

/// A key as it was read, with its quotas' rows.
struct LoadedKey {
    record: KeyRecord,
    quotas: Vec<QuotaRow>,
}

impl Shared {
    /// Asks the store for a key, together with everyone who asks now.
    pub(super) async fn ask_store(self: &Arc<Self>, lookup: Lookup) -> Answer {
        let (sender, receiver) = oneshot::channel();
        if self.join(lookup, sender)? {
            // A task of its own: a caller who leaves must not take the answer of the others along.
            tokio::spawn(Arc::clone(self).answer_misses());
        }
        receiver.await.unwrap_or(Err(StoreUnavailable))
    }

    /// Joins those who wait for a token. Says whether the caller has to start the loader.
    fn join(&self, lookup: Lookup, sender: oneshot::Sender<Answer>) -> Result<bool, StoreUnavailable> {
        let mut misses = lock(&self.misses);
        if let Some(waiting) = misses.waiting.get_mut(&lookup) {
            waiting.push(sender);
            return Ok(false);
        }
        if misses.waiting.len() >= self.settings.waiting_max {
            return Err(StoreUnavailable);
        }
        misses.waiting.insert(lookup, vec![sender]);
        misses.queue.push_back(lookup);
        Ok(!std::mem::replace(&mut misses.is_loading, true))
    }

    async fn answer_misses(self: Arc<Self>) {
        let mut loader = RunningLoader { shared: &self, is_done: false };
        while let Some(batch) = loader.next_batch() {
            let loaded = self.load(Wanted::Lookups(&batch)).await;
            if let Err(cause) = &loaded {
                tracing::warn!(%cause, tokens = batch.len(), "keys can't be read from the store");
            }
            for lookup in batch {
                let answer = match &loaded {
                    Ok(keys) => Ok(keys.get(&lookup).cloned()),
                    Err(_) => Err(StoreUnavailable),
                };
                if matches!(answer, Ok(None)) {
                    self.remember_unknown(lookup);
                }
                let waiting = lock(&self.misses).waiting.remove(&lookup);
                for sender in waiting.unwrap_or_default() {
                    // A caller who has left needs no answer.
                    let _ = sender.send(answer.clone());
                }
            }
        }
    }

    /// Reads at most [`LIST_MAX`] keys and puts them in memory in place of what was there.
    pub(super) async fn load(&self, wanted: Wanted<'_>) -> Result<HashMap<Lookup, Arc<Key>>, StoreError> {
        let only_known = matches!(wanted, Wanted::Ids(_));
        let _loading = self.loading.lock().await;
        self.counts.queries.fetch_add(1, Relaxed);
        let loaded = self.read(wanted).await?;
        let (tick, entries) = (self.ticks.load(Relaxed), self.entries.pin());
        let mut keys = HashMap::with_capacity(loaded.len());
        for LoadedKey { record, quotas } in loaded {
            let lookup = record.lookup;
            let known = entries.get(&lookup);
            if only_known && known.is_none() {
                continue;
            }
            let (chain, ids) = lock(&self.quotas).chain(quotas.iter());
            let key = Arc::new(into_key(record, chain));
            keys.insert(lookup, Arc::clone(&key));
            // A key that is read again is not used by that.
            let used = known.map_or(tick, |entry| entry.used.load(Relaxed));
            if known.is_none() {
                lock(&self.order).push_back((tick, lookup));
            }
            let entry = Entry { key, quotas: ids, used: AtomicU64::new(used) };
            entries.insert(lookup, entry);
        }
        self.hold_bound(&entries);
        Ok(keys)
    }

    async fn read(&self, wanted: Wanted<'_>) -> Result<Vec<LoadedKey>, StoreError> {
        self.store.database.in_time(self.read_slowly(wanted)).await
    }

    async fn read_slowly(&self, wanted: Wanted<'_>) -> Result<Vec<LoadedKey>, StoreError> {
        let mut snapshot = self.store.database.snapshot().await?;
        let mut query = QueryBuilder::<Engine>::new(keys::SELECT);
        match wanted {
            Wanted::Lookups(lookups) => {
                query.push(" WHERE k.lookup IN ");
                push_list(&mut query, lookups, |lookup| &lookup.0[..]);
            }
            Wanted::Ids(ids) => {
                query.push(" WHERE k.id IN ");
                push_list(&mut query, ids, KeyId::to_string);
            }
        }
        let rows = query.on(&snapshot).fetch_all(&mut *snapshot).await?;
        let records = rows.iter().map(keys::read_row);
        with_quotas(&mut snapshot, records.collect::<Result<_, _>>()?).await
    }
}

async fn with_quotas(connection: &mut Connection, records: Vec<KeyRecord>) -> Result<Vec<LoadedKey>, StoreError> {
    let orgs: BTreeSet<_> = records.iter().map(|key| key.org).collect();
    let projects: BTreeSet<_> = records.iter().filter_map(|key| key.project).collect();
    let keys = records.iter().map(|key| key.id.to_string());
    let shared = projects.iter().map(ProjectId::to_string).chain(orgs.iter().map(OrgId::to_string));
    let owners: Vec<String> = keys.chain(shared).collect();
    let now = crate::clock::now();
    let mut by_owner: HashMap<String, Vec<QuotaRow>> = HashMap::with_capacity(owners.len());
    for owners in owners.chunks(LIST_MAX) {
        for quota in quotas::read(connection, owners, now).await? {
            by_owner.entry(quota.owner.clone()).or_default().push(quota);
        }
    }
    let loaded = records.into_iter().map(|record| {
        let mut quotas = by_owner.remove(&record.id.to_string()).unwrap_or_default();
        let project = record.project.and_then(|project| by_owner.get(&project.to_string()));
        quotas.extend(project.into_iter().flatten().cloned());
        let org = by_owner.get(&record.org.to_string());
        quotas.extend(org.into_iter().flatten().cloned());
        LoadedKey { record, quotas }
    });
    Ok(loaded.collect())
}

fn into_key(record: KeyRecord, chain: filters::quota::Chain) -> Key {
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
        chain: Arc::new(chain),
    }
}

/// The loader while it runs. Should it be stopped half-way, those who wait are told, and the next one starts anew.
struct RunningLoader<'a> {
    shared: &'a Shared,
    is_done: bool,
}

impl RunningLoader<'_> {
    fn next_batch(&mut self) -> Option<Vec<Lookup>> {
        let mut misses = lock(&self.shared.misses);
        let length = misses.queue.len().min(LIST_MAX);
        if length == 0 {
            // Said under the lock, so that whoever misses next starts another.
            misses.is_loading = false;
            self.is_done = true;
            return None;
        }
        Some(misses.queue.drain(..length).collect())
    }
}

impl Drop for RunningLoader<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            *lock(&self.shared.misses) = Misses::default();
        }
    }
}
