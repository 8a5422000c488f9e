//! Keys in memory: the hot path finds them without a lock, a wait or a copy. Misses are read by `loader.rs`, and what other
//! processes change is followed by `refresh.rs`.

use super::changes::ChangeFeed;
use super::keys::Use;
use super::leases::Leases;
use super::live_quotas::LiveQuotas;
use super::loader::Misses;
use super::recall::Recollection;
use super::redis::Redis;
use super::refresh::{Following, REREAD_TICKS};
use super::{Store, StoreError};
use async_trait::async_trait;
use filters::id::{OrgId, QuotaId};
use filters::key::{Key, Lookup, Presented};
use filters::own::OwnCredentials;
use filters::ports::{Keys, StoreUnavailable};
use filters::quota::Peers;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How often changes are polled, and the unit in which the cache counts time.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// How long a token that nobody has is remembered as such.
const UNKNOWN_TICKS: u64 = 10_000 / TICK.as_millis() as u64;

/// The cache's bounds.
#[derive(Clone, Copy, Debug)]
pub struct KeyCacheSettings {
    /// Most keys in memory, about 1 KiB each. Those not used for longest go first.
    pub entries_max: usize,
    /// Most unknown tokens in memory, about 64 bytes each.
    pub unknown_max: usize,
    /// Most tokens that wait to be looked up; others are answered that the store is not available.
    pub waiting_max: usize,
}

impl Default for KeyCacheSettings {
    /// 200 MB of keys at the most, and a few seconds' work of the store in the queue.
    fn default() -> Self {
        Self { entries_max: 200_000, unknown_max: 100_000, waiting_max: 10_000 }
    }
}

/// How lookups were answered, for metrics. `entries` is a level, the others only grow.
#[derive(Debug, Default)]
pub struct KeyCacheCounts {
    /// From memory.
    pub memory: AtomicU64,
    /// From what nodes keep for one another in Redis.
    pub redis: AtomicU64,
    /// By reading the store.
    pub store: AtomicU64,
    /// That nobody has the token, from anywhere.
    pub unknown: AtomicU64,
    /// That the store is not available.
    pub failed: AtomicU64,
    /// Statements that read keys from the store, each for many keys.
    pub queries: AtomicU64,
    /// Keys in memory.
    pub entries: AtomicUsize,
}

/// Finds keys in memory, then in the store. Clones share everything.
#[derive(Clone, Debug)]
pub struct KeyCache {
    shared: Arc<Shared>,
}

/// What the hot path, the loader and the follower share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    /// This node's name, which its leases are under.
    pub(super) node: String,
    pub(super) settings: KeyCacheSettings,
    pub(super) counts: KeyCacheCounts,
    pub(super) entries: papaya::HashMap<Lookup, Entry>,
    /// Tokens that nobody has, and the tick at which that is to be asked again.
    pub(super) unknown: papaya::HashMap<Lookup, u64>,
    /// Entries in the order in which they are to be read again, with the tick at which they were read.
    pub(super) order: Mutex<VecDeque<(u64, Lookup)>>,
    pub(super) quotas: Arc<Mutex<LiveQuotas>>,
    /// Where the quotas' credit comes from.
    pub(super) leases: Leases,
    pub(super) misses: Mutex<Misses>,
    /// What other nodes have read; none where nobody shares keys.
    pub(super) recollection: OnceLock<Arc<Recollection>>,
    /// Held from reading rows until they are in memory, and while quotas are forgotten: so what is read is never older than
    /// what is forgotten or changed in between.
    pub(super) loading: tokio::sync::Mutex<()>,
    pub(super) following: tokio::sync::Mutex<Following>,
    /// What is to be written of keys, within a second.
    pub(super) unwritten: Mutex<Unwritten>,
    pub(super) ticks: AtomicU64,
}

/// What gateways have seen of keys and the books don't say yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// When secrets were last seen.
    pub(super) uses: Vec<Use>,
    /// Secrets that were stored under an older pepper: as what, and as what they are to be.
    pub(super) moves: Vec<(Lookup, Lookup)>,
}

/// A key in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    pub(super) quotas: Box<[QuotaId]>,
    /// The tick of the last use.
    pub(super) used: AtomicU64,
}

impl KeyCache {
    /// An empty cache. [`KeyCache::run`] must be running for changes to be seen.
    ///
    /// Everything that was spent must be on the books by now: a quota begins with what they say.
    pub async fn new(store: Store, node: &str, settings: KeyCacheSettings) -> Result<Self, StoreError> {
        let feed = ChangeFeed::from_now(&mut *store.database.reader.acquire().await?).await?;
        let quotas = Arc::default();
        let leases = Leases::new(store.clone(), node, Arc::clone(&quotas)).await?;
        let shared = Shared {
            store,
            node: node.to_owned(),
            settings,
            counts: KeyCacheCounts::default(),
            entries: papaya::HashMap::new(),
            unknown: papaya::HashMap::new(),
            order: Mutex::default(),
            quotas,
            leases,
            misses: Mutex::default(),
            recollection: OnceLock::new(),
            loading: tokio::sync::Mutex::default(),
            following: tokio::sync::Mutex::new(Following::from(feed)),
            unwritten: Mutex::default(),
            // So that an entry of tick 0 is due at once.
            ticks: AtomicU64::new(REREAD_TICKS),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Has rates counted together with other nodes: those of keys that are read from now on.
    pub fn share_rates(&self, peers: Arc<Peers>) {
        lock(&self.shared.quotas).peers = Some(peers);
    }

    /// Has records of keys shared with other nodes. To be called before [`KeyCache::run`].
    pub async fn share_records(&self, redis: Redis) -> Result<(), StoreError> {
        let recollection = Recollection::new(&self.shared.store, redis).await?;
        // Once is enough.
        let _ = self.shared.recollection.set(Arc::new(recollection));
        Ok(())
    }

    /// Follows what other processes change, reads old entries again and lets idle ones go, until shutdown.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            let must_stop = tokio::select! {
                _ = interval.tick() => false,
                // An error says that nobody is left to tell us: that is a shutdown too.
                _ = shutdown.wait_for(|stop| *stop) => true,
            };
            if must_stop {
                return;
            }
            let worked = self.shared.tick().await;
            if let Err(cause) = &worked
                && !is_failing
            {
                tracing::warn!(%cause, "changes of keys can't be read; keys in memory go on");
            }
            is_failing = worked.is_err();
        }
    }

    /// Writes down what was seen of keys until now. What fails is known again at their next use.
    pub async fn finish(&self) {
        self.shared.note_recent();
        if let Err(cause) = self.shared.write_down().await {
            tracing::warn!(%cause, "when keys were last used could not be noted");
        }
    }

    /// A quarter of a second's work, at once.
    #[cfg(test)]
    pub(super) async fn tick(&self) -> Result<(), StoreError> {
        self.shared.tick().await
    }

    #[cfg(test)]
    pub(super) fn recollection(&self) -> Option<&Recollection> {
        self.shared.recollection.get().map(|recollection| &**recollection)
    }

    /// Where credit for the quotas of these keys comes from.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.shared.leases
    }

    /// How lookups were answered.
    #[must_use]
    pub fn counts(&self) -> &KeyCacheCounts {
        &self.shared.counts
    }
}

#[async_trait]
impl Keys for KeyCache {
    async fn find(&self, token: &Presented) -> Result<Option<Arc<Key>>, StoreUnavailable> {
        let shared = &self.shared;
        if let Some(key) = shared.in_memory(token.lookup) {
            shared.counts.memory.fetch_add(1, Relaxed);
            return Ok(Some(key));
        }
        if shared.is_known_unknown(token.lookup) {
            shared.counts.unknown.fetch_add(1, Relaxed);
            return Ok(None);
        }
        shared.ask_others(token).await
    }

    async fn own(&self, org: OrgId) -> Result<Option<OwnCredentials>, StoreUnavailable> {
        let read = self.shared.store.own_credentials(org).await;
        read.inspect_err(|cause| tracing::warn!(%org, %cause, "credentials can't be read"))
            .map_err(|_| StoreUnavailable)
    }
}

impl Shared {
    fn in_memory(&self, lookup: Lookup) -> Option<Arc<Key>> {
        let entries = self.entries.pin();
        let entry = entries.get(&lookup)?;
        let tick = self.ticks.load(Relaxed);
        // Written once a tick: a line that every core only reads stays in every core's cache.
        if entry.used.load(Relaxed) != tick {
            entry.used.store(tick, Relaxed);
        }
        Some(Arc::clone(&entry.key))
    }

    fn is_known_unknown(&self, lookup: Lookup) -> bool {
        let unknown = self.unknown.pin();
        let until = unknown.get(&lookup);
        until.is_some_and(|until| *until > self.ticks.load(Relaxed))
    }

    /// Remembers for a while that nobody has a token. A full table is emptied: it is only there to blunt repetition.
    pub(super) fn remember_unknown(&self, lookup: Lookup) {
        let unknown = self.unknown.pin();
        if unknown.len() >= self.settings.unknown_max {
            unknown.clear();
        }
        unknown.insert(lookup, self.ticks.load(Relaxed) + UNKNOWN_TICKS);
    }
}

/// Locks what no panic can leave half-written.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_key, presented};
    use crate::store::journal::Checkpoint;
    use crate::store::keys::NewKey;
    use filters::key::Status;
    use filters::money::NanoUsd;
    use filters::ports::{Authority, Want};
    use filters::quota::{Counted, Spend, Take};
    use std::time::Duration;

    async fn cache_of(books: &Books) -> KeyCache {
        let settings = KeyCacheSettings::default();
        KeyCache::new(books.store.clone(), "node", settings).await.expect("a cache")
    }

    fn lookup(books: &Books) -> Lookup {
        books.store.pepper().lookup(&books.token)
    }

    async fn find(cache: &KeyCache, lookup: Lookup) -> Arc<Key> {
        let found = cache.find(&presented(lookup)).await.expect("the store answers");
        found.expect("the key is there")
    }

    async fn ticks(cache: &KeyCache, count: usize) {
        for _ in 0..count {
            cache.shared.tick().await.expect("the store answers");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn callers_who_miss_at_once_share_the_queries() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let (token, unknown) = (lookup(&books), Lookup([7; 32]));
        // While the lock is held no query can begin, so all of them miss.
        let loading = cache.shared.loading.lock().await;
        let callers: Vec<_> = (0..200)
            .map(|number| {
                let cache = cache.clone();
                let wanted = if number % 2 == 0 { token } else { unknown };
                tokio::spawn(async move { cache.find(&presented(wanted)).await })
            })
            .collect();
        let waiting = || lock(&cache.shared.misses).waiting_for_answers();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while waiting() < 200 && tokio::time::Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        drop(loading);
        let mut found = 0;
        for caller in callers {
            found += usize::from(caller.await.expect("no panic").expect("an answer").is_some());
        }
        // The first statement may have begun with the first caller's token alone.
        assert!(cache.counts().queries.load(Relaxed) <= 2);
        assert_eq!(found, 100);
        let again = cache.find(&presented(unknown)).await.expect("an answer");
        assert!(again.is_none() && find(&cache, token).await.id == books.key);
        assert!(cache.counts().queries.load(Relaxed) <= 2);
        assert_eq!(cache.counts().memory.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn what_another_process_changes_is_seen_within_a_second() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let token = lookup(&books);
        let before = find(&cache, token).await;
        let (stop, stopped) = watch::channel(false);
        let running = cache.clone();
        let follower = tokio::spawn(async move { running.run(stopped).await });
        let other = crate::store::fixture::open(books.dir.path()).await;
        let seen = async |is_seen: &dyn Fn(&Key) -> bool| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
            while !is_seen(&*find(&cache, token).await) {
                assert!(tokio::time::Instant::now() < deadline, "not seen in a second");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        other.enable_key(books.key, false, NOW).await.expect("done");
        seen(&|key| key.status == Status::Disabled).await;
        other.top_up(books.org, NanoUsd(5), "", NOW).await.expect("done");
        seen(&|key| key.chain.spend[1].limit(NOW) == NanoUsd(10_000_000_005)).await;
        let suspended = other.suspend_organisation(books.org, true, NOW).await;
        suspended.expect("done");
        seen(&|key| key.org_suspended).await;
        stop.send(true).expect("it runs");
        follower.await.expect("it stops");
        // The same atomics all the time, also for a call that began before the changes.
        let after = find(&cache, token).await;
        for (old, new) in before.chain.spend.iter().zip(&after.chain.spend) {
            assert!(Arc::ptr_eq(old, new));
        }
    }

    #[tokio::test]
    async fn limits_of_a_project_and_an_organisation_are_read_again_with_their_keys() {
        use crate::store::limits::{Amount, LimitChange, Owner};
        use crate::store::quotas::QuotaKind;
        let books = Books::open().await;
        let project = books.store.create_project(books.org, "web", &[], NOW).await.expect("made").id;
        let member = NewKey { project: Some(project), ..new_key(books.org) };
        let issued = books.store.create_key(&member, NOW).await.expect("made");
        let cache = cache_of(&books).await;
        let (loner, member) = (lookup(&books), books.store.pepper().lookup(issued.token.reveal()));
        // The first tick looks back at what was changed just before.
        ticks(&cache, 1).await;
        for (owner, is_loners) in [(Owner::Project(project), false), (Owner::Organisation(books.org), true)] {
            let before = [find(&cache, loner).await, find(&cache, member).await];
            assert_eq!((before[0].project, before[1].project), (None, Some(project)));
            let change = LimitChange::of(QuotaKind::Spend, Amount::Of(1));
            books.store.change_limits(owner, &[change], NOW).await.expect("set");
            ticks(&cache, 1).await;
            let after = [find(&cache, loner).await, find(&cache, member).await];
            let is_read_again = |at: usize| !Arc::ptr_eq(&before[at], &after[at]);
            assert_eq!((is_read_again(0), is_read_again(1)), (is_loners, true), "{owner:?}");
        }
    }

    #[tokio::test]
    async fn keys_of_an_organisation_share_its_balance() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let issued = books.store.create_key(&new_key(books.org), NOW).await;
        let token = issued.expect("made").token;
        let one = find(&cache, lookup(&books)).await;
        let two = find(&cache, books.store.pepper().lookup(token.reveal())).await;
        assert!(!Arc::ptr_eq(&one.chain.spend[0], &two.chain.spend[0]));
        assert!(Arc::ptr_eq(&one.chain.spend[1], &two.chain.spend[1]));
        assert!(one.chain.rates.len() == 1 && one.chain.rates[0].counted == Counted::Requests);
        let unlimited = NewKey { limits: Default::default(), ..new_key(books.org) };
        let issued = books.store.create_key(&unlimited, NOW).await.expect("made");
        let three = find(&cache, books.store.pepper().lookup(issued.token.reveal())).await;
        assert_eq!(three.chain.spend[0].limit(NOW), NanoUsd::MAX);
        assert!(three.chain.rates.is_empty() && three.chain.concurrency.is_empty());
    }

    #[tokio::test]
    async fn an_idle_key_goes_but_its_spend_stays_until_the_books_have_it() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let token = lookup(&books);
        let (intent, terminal) = books.call(1, 1_000, 1_000);
        let key = find(&cache, token).await;
        let leases = cache.leases();
        let want = |spend: &Arc<Spend>| Want { spend: Arc::clone(spend), amount: terminal.charge, at: None };
        leases.lease(key.chain.spend.iter().map(want).collect()).await.expect("leased");
        let take = Take { model: "m", estimate: terminal.charge, bound: None, tokens: 2_000 };
        let reservation = key.chain.reserve(&take, crate::clock::now());
        reservation.expect("credit").settle(terminal.charge, 2_000);
        drop(key);
        ticks(&cache, 2_000).await;
        assert_eq!(cache.shared.entries.len(), 0);
        // Nobody holds the quotas any more, but the charge is in memory alone.
        assert_eq!(lock(&cache.shared.quotas).len(), 2);
        let again = find(&cache, token).await;
        assert_eq!(again.chain.spend[0].spent(NOW), terminal.charge);
        drop(again);
        let batch = [(intent, terminal.clone())];
        let shipped = books.store.ship("node", &batch, Checkpoint::default());
        shipped.await.expect("shipped");
        ticks(&cache, 2_000).await;
        assert_eq!(lock(&cache.shared.quotas).len(), 0);
        let last = find(&cache, token).await;
        assert_eq!(last.chain.spend[0].spent(NOW), terminal.charge);
    }

    #[tokio::test]
    async fn a_key_in_use_is_read_again_after_a_minute_and_stays() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let token = lookup(&books);
        find(&cache, token).await;
        ticks(&cache, 1).await;
        // Nobody announces this change.
        sqlx::query("UPDATE keys SET status = 'disabled'")
            .execute(&books.store.database.writer)
            .await
            .expect("changed");
        ticks(&cache, 238).await;
        assert_eq!(find(&cache, token).await.status, Status::Live);
        ticks(&cache, 1).await;
        assert_eq!(find(&cache, token).await.status, Status::Disabled);
        ticks(&cache, 1_000).await;
        assert_eq!(cache.shared.entries.len(), 1);
        assert_eq!(cache.counts().store.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn the_bounds_hold() {
        let books = Books::open().await;
        let settings = KeyCacheSettings { entries_max: 10, unknown_max: 10, waiting_max: 1 };
        let cache = KeyCache::new(books.store.clone(), "node", settings).await.expect("a cache");
        let new = new_key(books.org);
        let made = books.store.create_keys(&new, 1..=50, NOW).await;
        for issued in made.expect("made") {
            let token = books.store.pepper().lookup(issued.token.reveal());
            assert_eq!(find(&cache, token).await.id, issued.id);
        }
        for number in 0..50 {
            let found = cache.find(&presented(Lookup([number; 32]))).await;
            assert!(found.expect("an answer").is_none());
        }
        assert_eq!(cache.shared.entries.len(), 10);
        assert_eq!(lock(&cache.shared.order).len(), 10);
        assert!(cache.shared.unknown.len() <= 10);
        let (one, other) = (presented(Lookup([90; 32])), presented(Lookup([91; 32])));
        let both = tokio::join!(cache.find(&one), cache.find(&other));
        assert!(both.0.is_ok() && both.1.is_err());
    }

    #[tokio::test]
    async fn without_the_store_known_keys_go_on_and_unknown_ones_are_not_refused() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let token = lookup(&books);
        find(&cache, token).await;
        books.store.close().await;
        assert!(cache.shared.tick().await.is_err());
        assert_eq!(find(&cache, token).await.id, books.key);
        let stranger = cache.find(&presented(Lookup([9; 32]))).await;
        assert!(matches!(stranger, Err(StoreUnavailable)));
        assert_eq!(cache.counts().failed.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_change_that_could_not_be_read_is_not_lost() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let token = lookup(&books);
        find(&cache, token).await;
        let disabled = books.store.enable_key(books.key, false, NOW).await;
        disabled.expect("done");
        let rename = |text: &'static str| sqlx::query(text).execute(&books.store.database.writer);
        rename("ALTER TABLE quotas RENAME TO hidden").await.expect("hidden");
        assert!(cache.shared.tick().await.is_err());
        assert_eq!(find(&cache, token).await.status, Status::Live);
        rename("ALTER TABLE hidden RENAME TO quotas").await.expect("back");
        ticks(&cache, 1).await;
        assert_eq!(find(&cache, token).await.status, Status::Disabled);
    }

    #[tokio::test]
    async fn both_secrets_of_a_rotated_key_are_found_until_one_ends() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let old = lookup(&books);
        find(&cache, old).await;
        let (issued, _) = books.store.rotate_key(books.key, 60_000, "tg_live", NOW).await.expect("rotated");
        ticks(&cache, 1).await;
        let new = books.store.pepper().lookup(issued.token.reveal());
        let (before, after) = (find(&cache, old).await, find(&cache, new).await);
        assert_eq!((before.id, before.secret_ends), (books.key, Some(NOW.plus(60_000))));
        assert_eq!((after.id, after.secret_ends), (books.key, None));
        assert!(Arc::ptr_eq(&before.chain.spend[0], &after.chain.spend[0]));
        books.store.rotate_key(books.key, 0, "tg_live", NOW.plus(1)).await.expect("rotated");
        ticks(&cache, 1).await;
        for ended in [old, new] {
            assert_eq!(find(&cache, ended).await.secret_ends, Some(NOW.plus(1)));
        }
        books.store.enable_key(books.key, false, NOW).await.expect("disabled");
        ticks(&cache, 1).await;
        assert_eq!(find(&cache, new).await.status, Status::Disabled);
    }

    #[tokio::test]
    async fn a_key_that_was_seen_has_a_history() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let last_used = async || books.key().await.last_used;
        assert_eq!(last_used().await, None);
        find(&cache, lookup(&books)).await;
        ticks(&cache, 4).await;
        let first = last_used().await.expect("noted within a second");
        let secrets = books.store.secrets(books.key).await.expect("read");
        assert_eq!(secrets[0].last_used, Some(first));
        // Later uses are noted once a minute, and at the end.
        sqlx::query("UPDATE keys SET used_ms = 1, secret_used_ms = 1")
            .execute(&books.store.database.writer)
            .await
            .expect("changed");
        ticks(&cache, 8).await;
        assert_eq!(last_used().await, Some(filters::time::EpochMs(1)));
        find(&cache, lookup(&books)).await;
        ticks(&cache, 240).await;
        assert!(last_used().await > Some(filters::time::EpochMs(1)));
        sqlx::query("UPDATE keys SET used_ms = 1").execute(&books.store.database.writer).await.expect("changed");
        find(&cache, lookup(&books)).await;
        cache.finish().await;
        assert!(last_used().await > Some(filters::time::EpochMs(1)));
    }

    #[tokio::test]
    async fn a_key_that_is_stored_under_an_older_pepper_is_found_and_moves() {
        let books = Books::in_a_file().await;
        let file = books.dir.path().join("pepper");
        let old = std::fs::read_to_string(&file).expect("the pepper");
        std::fs::write(&file, format!("{}\n{old}", "c3".repeat(32))).expect("written");
        let store = Store::open(books.dir.path()).await.expect("a store");
        let cache = KeyCache::new(store.clone(), "node", KeyCacheSettings::default()).await.expect("a cache");
        let token = store.pepper().present(&books.token);
        let stranger = store.pepper().present("nobody's");
        let key = cache.find(&token).await.expect("the store answers").expect("the key");
        assert_eq!(key.id, books.key);
        assert!(cache.find(&stranger).await.expect("the store answers").is_none());
        // A change is seen although the row is stored under the other.
        store.enable_key(books.key, false, NOW).await.expect("disabled");
        cache.tick().await.expect("the store answers");
        let key = cache.find(&token).await.expect("the store answers").expect("the key");
        assert_eq!(key.status, Status::Disabled);
        for _ in 0..4 {
            cache.tick().await.expect("the store answers");
        }
        assert_eq!(store.key(books.key, NOW).await.expect("read").lookup, token.lookup);
        assert_eq!(cache.find(&token).await.expect("the store answers").map(|key| key.id), Some(books.key));
    }

    #[tokio::test]
    async fn a_deleted_key_is_refused_as_if_it_were_unknown() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        find(&cache, lookup(&books)).await;
        books.store.delete_key(books.key, NOW).await.expect("its use is not noted yet");
        ticks(&cache, 1).await;
        assert_eq!(find(&cache, lookup(&books)).await.status, Status::Deleted);
    }

    /// Run by hand: `cargo test --release -p tollgate --lib hundred_thousand -- --ignored --nocapture`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "says how long a hundred thousand keys take to be found, read and read again"]
    async fn a_hundred_thousand_keys_in_memory() {
        let books = Books::open().await;
        let cache = cache_of(&books).await;
        let mut tokens = Vec::new();
        for chunk in 0..10 {
            let (new, first) = (new_key(books.org), chunk * 10_000 + 1);
            let made = books.store.create_keys(&new, first..=first + 9_999, NOW);
            let made = made.await.expect("made");
            let lookups = made.iter().map(|key| books.store.pepper().lookup(key.token.reveal()));
            tokens.extend(lookups);
        }
        let started = std::time::Instant::now();
        for chunk in tokens.chunks(1_000) {
            let callers = chunk.iter().map(|token| {
                let (cache, token) = (cache.clone(), *token);
                tokio::spawn(async move { find(&cache, token).await })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.expect("found");
            }
        }
        println!("100 000 misses, 1 000 at once: {:?}", started.elapsed());
        let started = std::time::Instant::now();
        for token in &tokens {
            find(&cache, *token).await;
        }
        println!("100 000 hits: {:?}", started.elapsed());
        ticks(&cache, 239).await;
        let started = std::time::Instant::now();
        ticks(&cache, 100).await;
        println!("6 400 read again: {:?}", started.elapsed());
    }
}
