//! Nodes that share a store and a real Redis.

use super::*;
use crate::config::{Cluster, RedisAddress, RedisServers};
use crate::store::fixture::{Books, NOW, new_key, presented};
use crate::store::key_cache::{KeyCache, KeyCacheSettings};
use crate::store::keys::NewKey;
use crate::store::limits::{Amount, LimitChange, Owner};
use crate::store::quotas::QuotaKind;
use crate::store::redis::Purpose;
use crate::store::redis::tests::server::{PATIENCE, Server, eventually};
use filters::denied::Denied;
use filters::key::{Key, Status};
use filters::money::NanoUsd;
use filters::ports::{Authority, Keys, StoreUnavailable};
use filters::quota::{Counted, Reservation, Take};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The books of a test, in which nothing was changed lately.
async fn quiet_books() -> Books {
    let books = Books::open().await;
    quieten(&books).await;
    books
}

async fn quieten(books: &Books) {
    let long_ago = clock::now().plus(-RECORD_KEPT_MS);
    let aged = sqlx::query("UPDATE changes SET at_ms = $1").bind(long_ago.0).execute(&books.store.database.writer);
    aged.await.expect("aged");
}

struct Node {
    cache: KeyCache,
    redis: Redis,
    stop: watch::Sender<bool>,
}

impl Node {
    async fn open(books: &Books, name: &str, server: &Server) -> Self {
        Self::with(crate::store::fixture::open(books.dir.path()).await, name, server).await
    }

    async fn with(store: Store, name: &str, server: &Server) -> Self {
        let hosts = vec![("127.0.0.1".to_owned(), server.port)];
        let servers = RedisServers::Single;
        let address = RedisAddress { servers, hosts, tls: false, user: None, password: None, database: 0 };
        let redis_timeout = Duration::from_secs(2);
        let cluster = Cluster { redis: Some(address), redis_ca_file: None, redis_timeout, nodes_max: 3 };
        let redis = Redis::new(&cluster, store.pepper()).expect("usable").expect("one");
        let (stop, stopped) = watch::channel(false);
        let running = redis.clone();
        tokio::spawn(async move { running.run(|_| {}, stopped).await });
        eventually(async || redis.is_up()).await;
        let cache = KeyCache::new(store, name, KeyCacheSettings::default()).await.expect("a cache");
        cache.share_records(redis.clone()).await.expect("shared");
        Self { cache, redis, stop }
    }

    async fn find(&self, lookup: Lookup) -> Option<Arc<Key>> {
        self.cache.find(&presented(lookup)).await.expect("an answer")
    }

    fn recollection(&self) -> &Recollection {
        self.cache.recollection().expect("it is shared")
    }

    /// How many answers came from Redis, and how many statements were needed.
    fn sources(&self) -> (u64, u64) {
        let counts = self.cache.counts();
        (counts.redis.load(Relaxed), counts.queries.load(Relaxed))
    }

    fn round_trips(&self) -> u64 {
        self.redis.counts().round_trips[Purpose::Keys as usize].load(Relaxed)
    }

    /// Reserves as an admission does.
    async fn reserve(&self, key: &Key, amount: i64) -> Result<Reservation, Denied> {
        let amount = NanoUsd(amount);
        let take = Take { model: "m", estimate: amount, bound: Some(amount), tokens: 0 };
        let refused = match key.chain.reserve(&take, clock::now()) {
            Ok(reservation) => return Ok(reservation),
            Err(refused) => refused,
        };
        let wants = key.chain.short_of(&take, &refused, clock::now()).unwrap_or_default();
        let leased = self.cache.leases().lease(wants).await;
        leased.map_err(|StoreUnavailable| Denied::LimitsUnavailable)?;
        key.chain.reserve(&take, clock::now())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The error says that it has stopped.
        let _ = self.stop.send(true);
    }
}

fn lookup(books: &Books) -> Lookup {
    books.store.pepper().lookup(&books.token)
}

/// The name in Redis of the only record there is.
async fn record(server: &Server) -> String {
    eventually(async || server.command(&["KEYS", "*:key:*"]).await.contains(":key:")).await;
    server.command(&["KEYS", "*:key:*"]).await
}

/// Has a node read the fixture's key, and another recall it.
async fn recalled(books: &Books, server: &Server) -> (Node, Node, Arc<Key>) {
    let (one, two) = (Node::open(books, "a", server).await, Node::open(books, "b", server).await);
    one.find(lookup(books)).await.expect("the key");
    record(server).await;
    let key = two.find(lookup(books)).await.expect("the key");
    assert_eq!((one.sources(), two.sources()), ((0, 1), (1, 0)));
    (one, two, key)
}

#[tokio::test]
async fn what_a_node_has_read_another_need_not_read() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let (one, two, recalled) = recalled(&books, &server).await;
    let read = one.find(lookup(&books)).await.expect("the key");
    assert_eq!((recalled.id, &recalled.name, recalled.org), (read.id, &read.name, read.org));
    assert_eq!((recalled.status, recalled.scopes), (read.status, read.scopes));
    assert_eq!(recalled.chain.rates[0].counted, Counted::Requests);
    let limits = |key: &Key| key.chain.spend.iter().map(|spend| spend.limit(NOW)).collect::<Vec<_>>();
    assert_eq!(limits(&recalled), limits(&read));
    // From now on it is in memory.
    two.find(lookup(&books)).await.expect("the key");
    assert_eq!((two.sources(), two.round_trips()), ((1, 0), 1));
    let stays: i64 = server.command(&["PTTL", &record(&server).await]).await.parse().expect("milliseconds");
    assert!((1..=RECORD_KEPT_MS).contains(&stays), "{stays}");
}

#[tokio::test]
async fn a_recalled_key_is_read_soon_and_then_its_figures_are_known() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let (_, two, before) = recalled(&books, &server).await;
    assert!(before.chain.spend.iter().all(|spend| !spend.is_told()));
    sqlx::query("INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, 0, 30)")
        .bind(before.chain.spend[0].id.0)
        .execute(&books.store.database.writer)
        .await
        .expect("booked");
    for _ in 0..4 {
        two.cache.tick().await.expect("the store answers");
    }
    let after = two.find(lookup(&books)).await.expect("the key");
    assert!(!Arc::ptr_eq(&before, &after) && Arc::ptr_eq(&before.chain.spend[0], &after.chain.spend[0]));
    assert!(before.chain.spend.iter().all(|spend| spend.is_told()));
    assert_eq!(before.chain.spend[0].spent(clock::now()), NanoUsd(30));
}

#[tokio::test]
async fn charges_from_before_a_first_limit_count_although_the_record_knows_of_none() {
    let (books, server) = (Books::open().await, Server::start(&[]).await);
    let new = NewKey { limits: Vec::new(), ..new_key(books.org) };
    let issued = books.store.create_key(&new, NOW).await.expect("made");
    quieten(&books).await;
    let token = books.store.pepper().lookup(issued.token.reveal());
    let (one, two) = (Node::open(&books, "a", &server).await, Node::open(&books, "b", &server).await);
    let quota = one.find(token).await.expect("the key").chain.spend[0].id;
    record(&server).await;
    sqlx::query("INSERT INTO spent (quota, window_start_ms, amount) VALUES ($1, 0, 30)")
        .bind(quota.0)
        .execute(&books.store.database.writer)
        .await
        .expect("booked");
    let key = two.find(token).await.expect("the key");
    assert_eq!(two.sources(), (1, 0));
    two.reserve(&key, 20).await.expect("there is no limit").settle(NanoUsd(20), 0);
    let limit = LimitChange { is_strict: Some(true), ..LimitChange::of(QuotaKind::Spend, Amount::Of(100)) };
    books.store.change_limits(Owner::Key(issued.id), &[limit], clock::now()).await.expect("set");
    two.cache.tick().await.expect("the store answers");
    assert!(two.reserve(&key, 51).await.is_err(), "30 are on the books, and 20 in memory");
    eventually(async || two.reserve(&key, 50).await.is_ok()).await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_everywhere_within_a_second() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let (one, two, _) = recalled(&books, &server).await;
    let three = Node::open(&books, "c", &server).await;
    let (name, nodes) = (record(&server).await, [&one, &two, &three]);
    server.command(&["COPY", &name, "kept"]).await;
    let mut following = Vec::new();
    for node in nodes {
        let (cache, stopped) = (node.cache.clone(), node.stop.subscribe());
        following.push(tokio::spawn(async move { cache.run(stopped).await }));
    }
    books.store.enable_key(books.key, false, clock::now()).await.expect("disabled");
    let deadline = Instant::now() + Duration::from_secs(1);
    for node in &nodes[..2] {
        while node.find(lookup(&books)).await.expect("the key").status == Status::Live {
            assert!(Instant::now() < deadline, "not seen in a second");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    eventually(async || lock(&three.recollection().known).changed.contains_key(&Object::Key(books.key))).await;
    // A record from before, that was written late: who knows of the change does not believe it, and neither does who comes later.
    let late = Node::open(&books, "d", &server).await;
    for node in [&three, &late] {
        server.command(&["COPY", "kept", &name, "REPLACE"]).await;
        assert_eq!(node.find(lookup(&books)).await.expect("the key").status, Status::Disabled);
        assert_eq!(node.sources().0, 0);
    }
}

#[tokio::test]
async fn a_key_recalled_before_its_change_was_known_is_read_again() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let (one, two) = (Node::open(&books, "a", &server).await, Node::open(&books, "b", &server).await);
    one.find(lookup(&books)).await.expect("the key");
    record(&server).await;
    let suspended = books.store.suspend_organisation(books.org, true, clock::now()).await;
    suspended.expect("suspended");
    // The second has not polled yet.
    assert!(!two.find(lookup(&books)).await.expect("the key").org_suspended);
    assert_eq!(two.sources(), (1, 0));
    two.cache.tick().await.expect("the store answers");
    assert!(two.find(lookup(&books)).await.expect("the key").org_suspended);
}

#[tokio::test]
async fn what_is_no_record_of_ours_is_none() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let one = Node::open(&books, "a", &server).await;
    one.find(lookup(&books)).await.expect("the key");
    let name = record(&server).await;
    server.command(&["COPY", &name, "sound"]).await;
    let length: usize = server.command(&["STRLEN", &name]).await.parse().expect("a number");
    let last = (length - 2).to_string();
    let stranger = Lookup([9; 32]);
    let strangers = name.rsplit_once(':').expect("a name").0.to_owned() + ":" + &"09".repeat(32);
    let tampering: [&[&[&str]]; 7] = [
        &[&["SET", &name, ""]],
        &[&["SET", &name, "garbage"]],
        &[&["SET", &name, &"garbage".repeat(100)]],
        &[&["SETRANGE", &name, "3", "forged"]],
        &[&["SETRANGE", &name, &last, "x"]],
        &[&["DEL", &name], &["RPUSH", &name, "of another type"]],
        &[&["FLUSHALL"]],
    ];
    for commands in tampering {
        server.command(&["COPY", "sound", &name, "REPLACE"]).await;
        for command in commands {
            server.command(command).await;
        }
        let node = Node::open(&books, "b", &server).await;
        assert_eq!(node.find(lookup(&books)).await.expect("the key").id, books.key, "{commands:?}");
        assert_eq!(node.sources(), (0, 1), "{commands:?}");
        assert!(node.redis.is_up() && node.redis.counts().failures.load(Relaxed) == 0, "{commands:?}");
        // It was asked for, and is written again.
        eventually(async || node.round_trips() == 2).await;
    }
    // A sound record of another token.
    server.command(&["COPY", &name, &strangers]).await;
    let node = Node::open(&books, "b", &server).await;
    assert!(node.find(stranger).await.is_none());
    assert_eq!(node.sources(), (0, 1));
}

#[tokio::test]
async fn tokens_that_nobody_has_are_known_for_a_while_but_not_past_new_keys() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let (one, two) = (Node::open(&books, "a", &server).await, Node::open(&books, "b", &server).await);
    let unknown = Lookup([7; 32]);
    assert!(one.find(unknown).await.is_none());
    let name = record(&server).await;
    assert!(two.find(unknown).await.is_none());
    assert_eq!(two.sources(), (0, 0));
    let stays: i64 = server.command(&["PTTL", &name]).await.parse().expect("milliseconds");
    assert!((1..=10_000).contains(&stays), "{stays}");
    books.store.create_key(&new_key(books.org), clock::now()).await.expect("made");
    two.cache.tick().await.expect("the store answers");
    assert!(two.find(unknown).await.is_none());
    assert_eq!(two.sources(), (0, 1), "it may be the new one's");
}

#[tokio::test]
async fn without_the_store_keys_that_others_have_read_go_on_and_others_are_not_refused() {
    let (books, server) = (quiet_books().await, Server::start(&[]).await);
    let one = Node::open(&books, "a", &server).await;
    let store = crate::store::fixture::open(books.dir.path()).await;
    let two = Node::with(store.clone(), "b", &server).await;
    one.find(lookup(&books)).await.expect("the key");
    record(&server).await;
    store.close().await;
    let key = two.find(lookup(&books)).await.expect("the key");
    let stranger = two.cache.find(&presented(Lookup([9; 32]))).await;
    assert!(matches!(stranger, Err(StoreUnavailable)));
    // Nothing is leased of its quotas.
    assert!(matches!(two.reserve(&key, 1).await, Err(Denied::LimitsUnavailable)));
}

#[tokio::test]
async fn without_redis_the_store_is_asked() {
    let (books, mut server) = (quiet_books().await, Server::start(&[]).await);
    let (one, two) = (Node::open(&books, "a", &server).await, Node::open(&books, "b", &server).await);
    server.stop().await;
    // The first is asked while nobody knows that it is down.
    assert_eq!(one.find(lookup(&books)).await.expect("the key").id, books.key);
    eventually(async || {
        two.find(Lookup([7; 32])).await;
        two.find(lookup(&books)).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_cold_keys_at_once_are_read_once_each() {
    const KEYS: u64 = 10_000;
    let (books, server) = (Books::open().await, Server::start(&[]).await);
    let made = books.store.create_keys(&new_key(books.org), 1..=KEYS, NOW).await.expect("made");
    quieten(&books).await;
    let lookups: Vec<Lookup> = made.iter().map(|key| books.store.pepper().lookup(key.token.reveal())).collect();
    let (one, two) = (Node::open(&books, "a", &server).await, Node::open(&books, "b", &server).await);
    // The first reads them, the second finds them kept.
    for node in [&one, &two] {
        let find = |lookup: &Lookup| {
            let (cache, lookup) = (node.cache.clone(), *lookup);
            tokio::spawn(async move { cache.find(&presented(lookup)).await })
        };
        let callers: Vec<_> = lookups.iter().map(find).collect();
        for caller in callers {
            assert!(caller.await.expect("no panic").expect("an answer").is_some());
        }
        let kept = KEYS.to_string();
        let deadline = Instant::now() + PATIENCE;
        // One more is the probe.
        while server.command(&["DBSIZE"]).await.parse::<u64>().expect("a number") <= KEYS {
            assert!(Instant::now() < deadline, "not all of {kept} are kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let least = KEYS.div_ceil(crate::store::LIST_MAX as u64);
    let stored = one.cache.counts().store.load(Relaxed);
    assert_eq!((stored, one.sources().0, two.sources()), (KEYS, 0, (KEYS, 0)));
    assert!((least..2 * least).contains(&one.sources().1), "{:?}", one.sources());
    assert!((least..2 * least).contains(&two.round_trips()), "{}", two.round_trips());
}
