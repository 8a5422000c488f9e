//! Against real servers, each started on a free port.

pub(in crate::store) mod server;

use super::rates::SharedRates;
use super::*;
use crate::config::{RedisAddress, RedisServers};
use filters::admit::count_request;
use filters::denied::{LimitSource, Owner};
use filters::id::QuotaId;
use filters::ports::{Rates, Shortage};
use filters::quota::{Chain, Counted, Rate};
use filters::window::Unit;
use server::{PATIENCE, Server, eventually};

fn address(servers: RedisServers, ports: &[u16]) -> RedisAddress {
    let hosts = ports.iter().map(|port| ("127.0.0.1".to_owned(), *port)).collect();
    RedisAddress { servers, hosts, tls: false, user: None, password: None, database: 0 }
}

fn single(server: &Server) -> RedisAddress {
    address(RedisServers::Single, &[server.port])
}

/// What a process has of it: at most two of them share a Redis.
struct Node {
    redis: Redis,
    rates: SharedRates,
    stop: watch::Sender<bool>,
}

impl Node {
    fn start(address: &RedisAddress) -> Self {
        // Tests of many at once must not take a machine that is busy for a Redis that is down.
        Self::patient(address, Duration::from_secs(2))
    }

    fn patient(address: &RedisAddress, redis_timeout: Duration) -> Self {
        let redis = Some(address.clone());
        Self::of(&Cluster { redis, redis_ca_file: None, redis_timeout, nodes_max: 2 })
    }

    fn of(cluster: &Cluster) -> Self {
        let pepper = Pepper::new(&[7; 32]).expect("long enough");
        let redis = Redis::new(cluster, &pepper).expect("it can be used").expect("there is one");
        let rates = SharedRates::new(redis.clone(), cluster.nodes_max);
        let (stop, stopped) = watch::channel(false);
        let running = rates.clone();
        tokio::spawn(async move { running.run(stopped).await });
        Self { redis, rates, stop }
    }

    async fn until_up(&self) {
        eventually(async || self.redis.is_up()).await;
    }

    /// A rate of requests that other nodes count too. Its window does not end while a test runs, or once in many years.
    fn chain(&self, quota: i64, limit: i64) -> Arc<Chain> {
        let source = LimitSource::Requests(Owner::Key, Unit::Month);
        let rate = Rate::new(source, Counted::Requests, Unit::Month, limit);
        let rate = Arc::new(rate.shared(QuotaId(quota), self.rates.peers()));
        Arc::new(Chain { rates: vec![rate], ..Chain::default() })
    }

    async fn admit(&self, chain: &Chain) -> bool {
        count_request(chain, Some(&self.rates), clock::now()).await.is_ok()
    }

    async fn admitted(&self, chain: &Chain, calls: usize) -> usize {
        let mut admitted = 0;
        for _ in 0..calls {
            admitted += usize::from(self.admit(chain).await);
        }
        admitted
    }

    fn round_trips(&self) -> u64 {
        self.redis.counts().round_trips[Purpose::Rates as usize].load(Relaxed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The error says that it has stopped.
        let _ = self.stop.send(true);
    }
}

fn remaining(chain: &Chain) -> i64 {
    chain.rates[0].read(clock::now()).remaining
}

/// Two nodes count together over this way to Redis.
async fn count_together(cluster: &Cluster) {
    let nodes = [Node::of(cluster), Node::of(cluster)];
    for node in &nodes {
        node.until_up().await;
    }
    let chains = nodes.each_ref().map(|node| [1, 2, 3].map(|quota| node.chain(quota, 10)));
    for quota in 0..3 {
        let mut admitted = 0;
        for _ in 0..10 {
            for (node, chains) in nodes.iter().zip(&chains) {
                admitted += usize::from(node.admit(&chains[quota]).await);
            }
        }
        assert_eq!(admitted, 10, "of 20");
    }
}

fn plain(address: RedisAddress) -> Cluster {
    Cluster { redis: Some(address), redis_ca_file: None, redis_timeout: Duration::from_secs(2), nodes_max: 2 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_call_at_once_never_pass_the_limit_and_use_all_of_it() {
    let server = Server::start(&[]).await;
    let nodes = [Node::start(&single(&server)), Node::start(&single(&server))];
    let mut callers = Vec::new();
    for node in &nodes {
        node.until_up().await;
    }
    for node in &nodes {
        let chain = node.chain(1, 1_000);
        for _ in 0..16 {
            let (chain, rates) = (Arc::clone(&chain), node.rates.clone());
            callers.push(tokio::spawn(async move {
                let mut admitted = 0;
                for _ in 0..150 {
                    admitted += usize::from(count_request(&chain, Some(&rates), clock::now()).await.is_ok());
                }
                admitted
            }));
        }
    }
    let mut admitted = 0;
    for caller in callers {
        admitted += caller.await.expect("no panic");
    }
    assert_eq!(admitted, 1_000);
    let round_trips: u64 = nodes.iter().map(Node::round_trips).sum();
    assert!(round_trips < 200, "{round_trips}");
}

#[tokio::test]
async fn a_node_knows_what_another_has_used() {
    let server = Server::start(&[]).await;
    let nodes = [Node::start(&single(&server)), Node::start(&single(&server))];
    for node in &nodes {
        node.until_up().await;
    }
    let [one, two] = nodes.each_ref().map(|node| node.chain(1, 100));
    assert_eq!(nodes[0].admitted(&one, 7).await + nodes[1].admitted(&two, 2).await, 9);
    let look = async |node: &Node, chain: &Chain| {
        node.rates.share(vec![Shortage { rate: Arc::clone(&chain.rates[0]), amount: 0 }]).await;
        remaining(chain)
    };
    // What was used is told in the background; whoever looks asks.
    eventually(async || look(&nodes[0], &one).await == 91).await;
    eventually(async || look(&nodes[1], &two).await == 91).await;
}

#[tokio::test]
async fn without_redis_each_node_has_its_part_and_afterwards_they_count_together() {
    let mut server = Server::start(&[]).await;
    let nodes = [1, 2].map(|_| Node::patient(&single(&server), Duration::from_millis(200)));
    for node in &nodes {
        node.until_up().await;
    }
    let before = nodes.each_ref().map(|node| node.chain(1, 10));
    assert!(nodes[0].admit(&before[0]).await);
    for pause in [true, false] {
        if pause {
            server.pause();
        } else {
            server.stop().await;
        }
        for node in &nodes {
            let chain = node.chain(if pause { 2 } else { 3 }, 10);
            assert_eq!(node.admitted(&chain, 20).await, 5, "half of 10");
            eventually(async || !node.redis.is_up()).await;
        }
        if pause {
            server.resume();
        } else {
            server.start_again().await;
        }
        for node in &nodes {
            node.until_up().await;
        }
    }
    // What was known stays known, although the server has forgotten it.
    let admitted = AtomicU64::new(0);
    eventually(async || {
        let more = nodes[0].admitted(&before[0], 20).await as u64;
        admitted.fetch_add(more, Relaxed) + more >= 9
    })
    .await;
    assert_eq!((admitted.into_inner(), nodes[0].admitted(&before[0], 20).await), (9, 0));
    let [one, two] = nodes.each_ref().map(|node| node.chain(4, 10));
    let first = nodes[0].admitted(&one, 6).await + nodes[1].admitted(&two, 20).await;
    // What is left of the first one's slice is its own.
    assert_eq!(first + nodes[0].admitted(&one, 20).await, 10);
}

#[tokio::test]
async fn what_cannot_be_written_is_down_until_it_can() {
    let server = Server::start(&[]).await;
    let node = Node::start(&single(&server));
    node.until_up().await;
    for (setting, broken, sound) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        server.set(setting, broken).await;
        eventually(async || !node.redis.is_up()).await;
        let chain = node.chain(1, 10);
        assert!(node.admit(&chain).await, "with its part");
        server.set(setting, sound).await;
        node.until_up().await;
    }
    assert!(node.redis.counts().failures.load(Relaxed) >= u64::from(FAILURES_MAX));
}

#[tokio::test]
async fn a_key_of_another_type_spoils_no_other_rate() {
    let server = Server::start(&[]).await;
    let node = Node::start(&single(&server));
    node.until_up().await;
    let (spoilt, sound) = (node.chain(1, 10), node.chain(2, 10));
    assert!(node.admit(&spoilt).await);
    server.spoil_keys("*{1}*").await;
    let both = Chain { rates: vec![Arc::clone(&spoilt.rates[0]), Arc::clone(&sound.rates[0])], ..Chain::default() };
    assert_eq!(node.admitted(&both, 20).await, 4, "its part of the one that is spoilt, less the one before");
    assert!(node.redis.is_up());
    assert_eq!(node.admitted(&sound, 20).await, 6);
}

#[tokio::test]
async fn the_clock_of_redis_says_where_windows_end() {
    let server = Server::start(&[]).await;
    let pepper = Pepper::new(&[7; 32]).expect("long enough");
    let redis = Redis::new(&plain(single(&server)), &pepper).expect("usable").expect("one");
    let ahead = redis.connect(&mut false).await.expect("connected");
    // It is the same machine.
    assert!(ahead.abs() <= PATIENCE.as_millis() as i64, "{ahead}");
}

#[tokio::test]
async fn users_of_an_access_control_list_are_let_in() {
    let acl = "user app on >secret resetkeys ~tollgate:* -@all +incrby +pexpire +set +get +time";
    let rules: Vec<&str> = acl.split(' ').collect();
    let server = Server::start(&[&["--user"], &rules[1..], &["--user", "default", "off"]].concat()).await;
    let secret = |text| Some(crate::config::Secret::for_tests(text));
    let ours = RedisAddress { user: Some("app".to_owned()), password: secret("secret"), ..single(&server) };
    count_together(&plain(ours.clone())).await;
    let stranger = Node::start(&RedisAddress { password: secret("wrong"), ..ours });
    assert_eq!(stranger.redis.connect(&mut false).await, None);
}

#[tokio::test]
async fn tls_is_spoken_with_authorities_of_our_own() {
    let server = Server::start_tls().await;
    let address = RedisAddress { tls: true, hosts: vec![("localhost".to_owned(), server.port)], ..single(&server) };
    let ours = Cluster { redis_ca_file: Some(server.path("authority.pem")), ..plain(address) };
    count_together(&ours).await;
    // The system's authorities don't know it.
    let pepper = Pepper::new(&[7; 32]).expect("long enough");
    let distrusted = Redis::new(&Cluster { redis_ca_file: None, ..ours }, &pepper);
    let redis = distrusted.expect("usable").expect("one");
    assert_eq!(redis.connect(&mut false).await, None);
}

#[tokio::test]
async fn sentinels_say_who_is_the_master_also_after_it_has_changed() {
    let (master, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]).await;
    let sentinel = Server::start_sentinel(&master, "main").await;
    let address = address(RedisServers::Sentinel("main".to_owned()), &[sentinel.port]);
    count_together(&plain(address.clone())).await;
    let node = Node::start(&address);
    node.until_up().await;
    eventually(async || sentinel.command(&["SENTINEL", "FAILOVER", "main"]).await == "OK").await;
    eventually(async || replica.command(&["ROLE"]).await.contains("master")).await;
    drop(master);
    let chain = node.chain(5, 1_000_000);
    let asked = |node: &Node| node.round_trips();
    let before = asked(&node);
    eventually(async || {
        node.admit(&chain).await;
        node.redis.is_up() && asked(&node) > before && replica.command(&["KEYS", "*{5}*"]).await.contains("{5}")
    })
    .await;
}

#[tokio::test]
async fn a_redis_cluster_has_each_rate_somewhere() {
    let servers = Server::start_cluster().await;
    let ports = servers.each_ref().map(|server| server.port);
    count_together(&plain(address(RedisServers::Cluster, &ports[..1]))).await;
}
