//! Keeps the keys in memory true: follows what other processes change, reads old entries again, lets idle ones go, and forgets
//! quotas once the books say what they say.

use super::changes::{Change, ChangeFeed};
use super::key_cache::{Entry, Shared, TICK, Unwritten, lock};
use super::keys::Use;
use super::loader::Wanted;
use super::{Engine, LIST_MAX, Rows, StoreError, push_list, quotas};
use crate::store::engine::On;
use filters::id::{KeyId, OrgId, ProjectId, QuotaId};
use filters::key::{Key, Lookup};
use filters::time::EpochMs;
use papaya::Guard;
use sqlx::{QueryBuilder, Row};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

const fn ticks(milliseconds: u128) -> u64 {
    (milliseconds / TICK.as_millis()) as u64
}

/// After this long an entry is read again, whether or not a change was announced; with more than 15 000 keys in use, when its
/// turn comes.
pub(super) const REREAD_TICKS: u64 = ticks(60_000);
/// An entry that was not used for this long goes.
const IDLE_TICKS: u64 = ticks(300_000);
/// A quota stays this long after its last key went: the window of a rate must pass first.
const QUOTA_KEPT_TICKS: u64 = ticks(61_000);
/// How often quotas are looked through.
const FORGET_TICKS: u64 = ticks(10_000);
/// How often it is written down what was seen of keys.
const WRITE_TICKS: u64 = ticks(1_000);
/// Most uses that wait to be written down; what is more is noted a minute later.
const USES_MAX: usize = 100_000;
/// How often entries are read again, at most [`LIST_MAX`] of them: in so large a batch one costs 37 µs, in one of 64 it costs
/// 50. So this is 1 % of a core, which is what a net below the announced changes may cost.
const REREAD_EVERY_TICKS: u64 = ticks(1_000);

/// How far the changes have been followed.
#[derive(Debug)]
pub(super) struct Following {
    feed: ChangeFeed,
    /// Changes that were read but not yet applied, because the store failed in between.
    unapplied: Vec<Change>,
    /// Quotas of which the authority is to be told: others want what is here of them, or they had no limit before.
    due: BTreeSet<QuotaId>,
}

impl From<ChangeFeed> for Following {
    fn from(feed: ChangeFeed) -> Self {
        Self { feed, unapplied: Vec::new(), due: BTreeSet::new() }
    }
}

impl Shared {
    /// A quarter of a second's work. What fails is tried again in the next; meanwhile what is in memory goes on.
    pub(super) async fn tick(&self) -> Result<(), StoreError> {
        let tick = self.ticks.fetch_add(1, Relaxed) + 1;
        self.counts.entries.store(self.entries.len(), Relaxed);
        self.follow_changes().await?;
        self.leases.beat().await?;
        if tick.is_multiple_of(REREAD_EVERY_TICKS) {
            self.reread_oldest(tick).await?;
        }
        if tick.is_multiple_of(FORGET_TICKS) {
            self.forget_quotas(tick).await?;
        }
        if tick.is_multiple_of(WRITE_TICKS) {
            self.write_down().await?;
        }
        Ok(())
    }

    async fn follow_changes(&self) -> Result<(), StoreError> {
        let mut following = self.following.lock().await;
        let Following { feed, unapplied, due } = &mut *following;
        let mut reader = self.store.database.reader.acquire().await?;
        let polled = self.store.database.in_time(feed.poll(&mut reader)).await?;
        drop(reader);
        unapplied.extend(polled.iter().map(|(change, _)| *change));
        if let Some(recollection) = self.recollection.get() {
            recollection.note(&polled).await;
        }
        if !unapplied.is_empty() {
            due.extend(self.take_changes_in(unapplied).await?);
            unapplied.clear();
        }
        due.extend(lock(&self.quotas).take_uncovered());
        // What the authority could not be told, it is told at the next tick.
        if self.leases.give_back(due.iter().copied().collect()).await.is_ok() {
            due.clear();
        }
        Ok(())
    }

    /// Reads again what has changed. Says what other nodes want of this one's.
    async fn take_changes_in(&self, changes: &[Change]) -> Result<Vec<QuotaId>, StoreError> {
        let Changed { mut keys, orgs, projects, balances, wanted } = Changed::of(changes);
        if wanted.len() < changes.len() {
            self.unknown.pin().clear();
        }
        // A row may be stored under another pepper than the one that its entry is found by.
        let has_older = self.store.pepper().has_older();
        if !orgs.is_empty() || !projects.is_empty() || has_older {
            // What was read before the change is in memory then, where it is found.
            drop(self.loading.lock().await);
            keys.extend(self.keys_of(&orgs, &projects));
        }
        if has_older {
            self.let_go_of(&keys);
            keys.clear();
        }
        for keys in keys.chunks(LIST_MAX) {
            self.load(Wanted::Ids(keys)).await?;
        }
        for orgs in balances.chunks(LIST_MAX) {
            let mut reader = self.store.database.reader.acquire().await?;
            for row in quotas::read(&mut reader, orgs, crate::clock::now()).await? {
                lock(&self.quotas).set_limit(&row);
            }
        }
        Ok(wanted)
    }

    /// The keys in memory of some organisations and projects. It looks at every entry: they seldom change.
    fn keys_of(&self, orgs: &[OrgId], projects: &[ProjectId]) -> Vec<KeyId> {
        let entries = self.entries.pin();
        let keys = entries.values().map(|entry| &entry.key);
        let is_of_project = |key: &Key| key.project.is_some_and(|project| projects.contains(&project));
        keys.filter(|key| orgs.contains(&key.org) || is_of_project(key)).map(|key| key.id).collect()
    }

    /// Lets the entries of keys go: they are read when they are used next. It looks at every entry.
    fn let_go_of(&self, keys: &[KeyId]) {
        let (keys, entries): (HashSet<&KeyId>, _) = (keys.iter().collect(), self.entries.pin());
        let meant: Vec<Lookup> =
            entries.iter().filter(|(_, entry)| keys.contains(&entry.key.id)).map(|(lookup, _)| *lookup).collect();
        meant.iter().for_each(|lookup| self.let_go(lookup, self.ticks.load(Relaxed)));
    }

    /// Notes that a secret was seen; when that is written down, nobody waits for it.
    pub(super) fn note_use(&self, used: Use) {
        let uses = &mut lock(&self.unwritten).uses;
        if uses.len() < USES_MAX {
            uses.push(used);
        }
    }

    /// Notes when an entry was last used, if that was since it was read.
    fn note_entry(&self, lookup: Lookup, entry: &Entry, (read, now): (u64, EpochMs)) {
        let (used, tick) = (entry.used.load(Relaxed), self.ticks.load(Relaxed));
        if used >= read {
            let ago_ms = tick.saturating_sub(used) * TICK.as_millis() as u64;
            let at = now.plus(-i64::try_from(ago_ms).unwrap_or(i64::MAX));
            self.note_use(Use { lookup, key: entry.key.id, at });
        }
    }

    /// Notes when entries were last used, those that were used since all were noted.
    pub(super) fn note_recent(&self) {
        let (now, entries) = (crate::clock::now(), self.entries.pin());
        let since = self.ticks.load(Relaxed).saturating_sub(REREAD_TICKS);
        entries.iter().for_each(|(lookup, entry)| self.note_entry(*lookup, entry, (since, now)));
    }

    /// Writes down what was seen of keys. What fails is tried again.
    pub(super) async fn write_down(&self) -> Result<(), StoreError> {
        let Unwritten { uses, moves } = std::mem::take(&mut *lock(&self.unwritten));
        let written = self.write_all(&uses, &moves).await;
        if written.is_err() {
            let mut unwritten = lock(&self.unwritten);
            unwritten.moves.extend(moves);
            if unwritten.uses.len() + uses.len() <= USES_MAX {
                unwritten.uses.extend(uses);
            }
        }
        written
    }

    async fn write_all(&self, uses: &[Use], moves: &[(Lookup, Lookup)]) -> Result<(), StoreError> {
        if !moves.is_empty() {
            self.store.database.in_time(self.store.move_lookups(moves)).await?;
        }
        if !uses.is_empty() {
            self.store.database.in_time(self.store.note_uses(uses)).await?;
        }
        Ok(())
    }

    async fn reread_oldest(&self, tick: u64) -> Result<(), StoreError> {
        let due = self.take_due(tick);
        if due.is_empty() {
            return Ok(());
        }
        match self.load(Wanted::Lookups(&due)).await {
            Ok(keys) => {
                let is_there = |lookup: &&Lookup| keys.contains_key(*lookup);
                let (still, gone): (Vec<_>, Vec<_>) = due.iter().partition(is_there);
                gone.into_iter().for_each(|lookup| self.let_go(lookup, tick));
                lock(&self.order).extend(still.into_iter().map(|lookup| (tick, *lookup)));
                Ok(())
            }
            Err(cause) => {
                let mut order = lock(&self.order);
                due.iter().for_each(|lookup| order.push_front((0, *lookup)));
                Err(cause)
            }
        }
    }

    /// Takes the entries that are due to be read again out of the order, and lets those go that are idle.
    fn take_due(&self, tick: u64) -> Vec<Lookup> {
        let (entries, mut order) = (self.entries.pin(), lock(&self.order));
        let now = crate::clock::now();
        let mut due = Vec::new();
        while due.len() < LIST_MAX
            && let Some((read, lookup)) = order.pop_front_if(|(read, _)| *read + REREAD_TICKS <= tick)
        {
            let Some(entry) = entries.get(&lookup) else { continue };
            self.note_entry(lookup, entry, (read, now));
            if entry.used.load(Relaxed) + IDLE_TICKS < tick {
                self.let_go(&lookup, tick);
            } else {
                due.push(lookup);
            }
        }
        due
    }

    fn let_go(&self, lookup: &Lookup, tick: u64) {
        if let Some(entry) = self.entries.pin().remove(lookup) {
            lock(&self.quotas).let_go(&entry.quotas, tick);
        }
    }

    /// Lets entries go until the table is within its bound: the oldest, with a second chance for those used lately.
    pub(super) fn hold_bound<G: Guard>(
        &self,
        entries: &papaya::HashMapRef<'_, Lookup, Entry, std::hash::RandomState, G>,
    ) {
        let tick = self.ticks.load(Relaxed);
        let mut chances = LIST_MAX;
        while entries.len() > self.settings.entries_max {
            let mut order = lock(&self.order);
            let Some((read, lookup)) = order.pop_front() else {
                return;
            };
            let used = entries.get(&lookup).map_or(0, |entry| entry.used.load(Relaxed));
            if used > read && chances > 0 {
                chances -= 1;
                order.push_back((tick, lookup));
            } else {
                drop(order);
                self.let_go(&lookup, tick);
            }
        }
    }

    async fn forget_quotas(&self, tick: u64) -> Result<(), StoreError> {
        // Entries that were taken out still hold their quotas until the map drops them.
        self.entries.guard().flush();
        let unheld = lock(&self.quotas).unheld_since(tick.saturating_sub(QUOTA_KEPT_TICKS));
        for ids in unheld.chunks(LIST_MAX) {
            let _loading = self.loading.lock().await;
            let shipped = self.shipped(ids).await?;
            lock(&self.quotas).forget(ids, &shipped);
        }
        Ok(())
    }

    /// What was shipped of this node's leases of some quotas.
    async fn shipped(&self, ids: &[QuotaId]) -> Result<HashMap<(QuotaId, EpochMs), i64>, StoreError> {
        let mut reader = self.store.database.reader.acquire().await?;
        let mut query = QueryBuilder::<Engine>::new("SELECT quota, period_ms, shipped FROM leases WHERE node = ");
        query.push_bind(&*self.node).push(" AND quota IN ");
        push_list(&mut query, ids, |id| id.0);
        let rows = query.on(&reader).fetch_all(&mut *reader).await?;
        let read = |row: &Rows| {
            Ok(((QuotaId(row.try_get("quota")?), EpochMs(row.try_get("period_ms")?)), row.try_get("shipped")?))
        };
        rows.iter().map(read).collect()
    }
}

/// What changes are about, by kind. Of new keys nobody holds a record.
#[derive(Default)]
struct Changed {
    keys: Vec<KeyId>,
    orgs: Vec<OrgId>,
    projects: Vec<ProjectId>,
    /// Owners of balances.
    balances: Vec<String>,
    wanted: Vec<QuotaId>,
}

impl Changed {
    fn of(changes: &[Change]) -> Self {
        let mut changed = Self::default();
        for change in changes {
            match change {
                Change::Key(key) => changed.keys.push(*key),
                Change::Organisation(org) => changed.orgs.push(*org),
                Change::Project(project) => changed.projects.push(*project),
                Change::Balance(org) => changed.balances.push(org.to_string()),
                Change::Wanted(quota) => changed.wanted.push(*quota),
                Change::KeysMade(_) => {}
            }
        }
        changed
    }
}
