//! Keys that other nodes have read lately: asked before the store, so that many nodes do not read the same rows, and so that the
//! store may be down.
//!
//! A record is believed if no change is known that its reader may not have seen. What is not known yet is known with the next
//! poll, and then whatever was recalled meanwhile is read again, as everything in memory is.

#[cfg(test)]
mod tests;

use super::changes::{self, Change, OVERLAP_MS};
use super::key_cache::{Shared, lock};
use super::live_quotas::Figures;
use super::loader::{LoadedKey, Stage};
use super::redis::Redis;
use super::redis::records::{KeyRecords, RECORD_KEPT_MS, Record};
use super::{Store, StoreError, engine};
use crate::clock;
use filters::id::{KeyId, OrgId, ProjectId};
use filters::key::Lookup;
use filters::time::EpochMs;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// After so long no record is left that a change is older than.
const CHANGE_KEPT_MS: i64 = RECORD_KEPT_MS + 2 * OVERLAP_MS;

/// The records, and what is known against them.
#[derive(Debug)]
pub(super) struct Recollection {
    records: KeyRecords,
    known: Mutex<KnownChanges>,
    /// How far the clock of the books is ahead of ours, in milliseconds.
    ahead_ms: AtomicI64,
    /// Held from asking for records until they are in memory: then a change that was noted before it is taken is known to whoever
    /// takes it next, and what was put in memory before is there to be read again.
    recalling: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Object {
    Key(KeyId),
    Project(ProjectId),
    Organisation(OrgId),
}

/// The latest changes, by the clock of the books.
#[derive(Debug, Default)]
struct KnownChanges {
    changed: HashMap<Object, EpochMs>,
    /// When keys were made last.
    made: Option<EpochMs>,
}

impl KnownChanges {
    fn note(&mut self, changes: &[(Change, EpochMs)], now: EpochMs) {
        for (change, at) in changes {
            let object = match change {
                Change::Key(key) => Object::Key(*key),
                Change::Project(project) => Object::Project(*project),
                Change::Organisation(org) | Change::Balance(org) => Object::Organisation(*org),
                Change::KeysMade(_) => {
                    self.made = self.made.max(Some(*at));
                    continue;
                }
                Change::Wanted(_) => continue,
            };
            let latest = self.changed.entry(object).or_insert(*at);
            *latest = (*latest).max(*at);
        }
        self.changed.retain(|_, at| at.plus(CHANGE_KEPT_MS) > now);
    }

    /// Whether whoever read the record has seen all that is known to have changed. A change comes to light some time after the
    /// moment that it names.
    fn allow(&self, record: &Record) -> bool {
        let is_older = |at: &EpochMs| at.plus(OVERLAP_MS) < record.read;
        let Some(LoadedKey { record: key, .. }) = &record.key else {
            return self.made.iter().all(is_older);
        };
        let project = key.project.map(Object::Project);
        let mut objects = [Object::Key(key.id), Object::Organisation(key.org)].into_iter().chain(project);
        objects.all(|object| self.changed.get(&object).is_none_or(is_older))
    }
}

impl Recollection {
    /// Looks back at what was changed just before.
    pub(super) async fn new(store: &Store, redis: Redis) -> Result<Self, StoreError> {
        let mut reader = store.database.reader.acquire().await?;
        let now = engine::now(&mut reader).await?;
        let mut known = KnownChanges::default();
        known.note(&changes::since(&mut reader, now.plus(-CHANGE_KEPT_MS)).await?, now);
        Ok(Self {
            records: KeyRecords::new(redis, store.pepper()),
            known: Mutex::new(known),
            ahead_ms: AtomicI64::new(now.0 - clock::now().0),
            recalling: tokio::sync::Mutex::default(),
        })
    }

    /// Whether it can be asked.
    pub(super) fn is_up(&self) -> bool {
        self.records.is_up()
    }

    /// Notes what was changed. What was recalled without knowing of it is in memory when this returns.
    pub(super) async fn note(&self, changes: &[(Change, EpochMs)]) {
        if !changes.is_empty() {
            lock(&self.known).note(changes, self.now());
            drop(self.recalling.lock().await);
        }
    }

    /// Keeps what the books said at a moment of keys, and of tokens that nobody has, for others.
    pub(super) fn keep(&self, keys: &[LoadedKey], asked: &[Lookup], read: EpochMs) {
        self.ahead_ms.store(read.0 - clock::now().0, Relaxed);
        if !self.is_up() {
            return;
        }
        let found: HashSet<Lookup> = keys.iter().map(|key| key.record.lookup).collect();
        let missing = asked.iter().filter(|lookup| !found.contains(*lookup));
        // Secrets of organisations are for the store alone, and without them a key would be another one.
        let shareable = keys.iter().filter(|key| !key.record.has_own);
        let known = shareable.map(|key| self.records.seal(key.record.lookup, Some(key), read));
        let sealed = known.chain(missing.map(|lookup| self.records.seal(*lookup, None, read))).collect();
        let records = self.records.clone();
        // Nobody waits for it.
        tokio::spawn(async move { records.write(sealed).await });
    }

    fn believes(&self, record: &Record) -> bool {
        let age_ms = self.now().0.saturating_sub(record.read.0);
        (-OVERLAP_MS..=RECORD_KEPT_MS).contains(&age_ms) && lock(&self.known).allow(record)
    }

    /// The present by the clock of the books.
    fn now(&self) -> EpochMs {
        clock::now().plus(self.ahead_ms.load(Relaxed))
    }
}

impl Shared {
    /// Answers those who wait for tokens of which others keep records, and leaves the rest to the store.
    pub(super) async fn recall_misses(self: Arc<Self>, recollection: Arc<Recollection>) {
        let mut running = self.run(Stage::Recall);
        while let Some(batch) = running.next_batch() {
            let recalling = recollection.recalling.lock().await;
            let records = recollection.records.read(&batch).await;
            let mut unanswered = Vec::new();
            for (lookup, record) in batch.into_iter().zip(records) {
                match record.filter(|record| recollection.believes(record)) {
                    Some(Record { key: Some(key), .. }) => {
                        let key = self.take_in(key, Figures::Untold);
                        self.answer(lookup, Ok(Some(key)), &self.counts.redis);
                    }
                    Some(Record { key: None, .. }) => {
                        self.remember_unknown(lookup);
                        self.answer(lookup, Ok(None), &self.counts.unknown);
                    }
                    None => unanswered.push(lookup),
                }
            }
            self.hold_bound(&self.entries.pin());
            drop(recalling);
            self.leave_to_store(unanswered);
        }
    }
}
