//! Several real gateways on one PostgreSQL and one Redis, each behind proxies of its own, so that each can be cut off alone.

use super::fault_proxy::FaultProxy;
use super::gateway::{Gateway, Key};
use super::postgres::Postgres;
use super::provider::Provider;
use super::redis::{PRIMARY, Redis, RedisCluster, Sentinel};
use super::setup::{Setup, Upstream};
use super::{DEADLINE, eventually};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// The Redis that nodes share.
pub(crate) enum SharedRedis {
    /// One server, reached by each node through a proxy of its own.
    Single(Redis),
    Sentinel(Sentinel),
    Cluster(RedisCluster),
}

impl SharedRedis {
    pub(crate) fn single() -> Self {
        Self::Single(Redis::start())
    }

    /// What the configuration of a node names; a proxy stands before a single server.
    fn url(&self, proxy: Option<&FaultProxy>) -> String {
        match (self, proxy) {
            (Self::Single(_), Some(proxy)) => format!("redis://{}", proxy.address),
            (Self::Single(server), None) => server.url(),
            (Self::Sentinel(sentinel), _) => format!("redis+sentinel://{}/{PRIMARY}", sentinel.address),
            (Self::Cluster(cluster), _) => {
                let hosts = cluster.servers.each_ref().map(|server| server.address.to_string());
                format!("redis+cluster://{}", hosts.join(","))
            }
        }
    }

    /// Proxies before a single server; Sentinels and clusters name their servers' own addresses.
    fn proxies(&self, nodes: usize) -> Vec<FaultProxy> {
        match self {
            Self::Single(server) => (0..nodes).map(|_| FaultProxy::before(server.address)).collect(),
            Self::Sentinel(_) | Self::Cluster(_) => Vec::new(),
        }
    }
}

/// What the clock of a process shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// The machine's time.
    Right,
    /// That and so many seconds.
    Off(i64),
    /// Since a moment, which all that share this have in common, so many times faster than the machine's.
    Fast { since_ms: u128, times: u32 },
}

impl Clock {
    pub(crate) fn fast(times: u32) -> Self {
        Self::Fast { since_ms: now_ms(), times }
    }

    /// Variables for the environment of a process that is about to start. What measures spans of time is left alone.
    pub(crate) fn variables(self) -> Vec<(&'static str, String)> {
        let shown = match self {
            Self::Right => return Vec::new(),
            Self::Off(seconds) => format!("{seconds:+}"),
            Self::Fast { since_ms, times } => {
                let ahead_ms = (now_ms() - since_ms) * u128::from(times - 1);
                format!("+{}.{:03} x{times}", ahead_ms / 1_000, ahead_ms % 1_000)
            }
        };
        // Redis's own allocator asks for the time before the library is ready to give it: the system's goes before it.
        let libraries = format!("{}:libc.so.6", faketime().display());
        vec![("LD_PRELOAD", libraries), ("FAKETIME", shown), ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())]
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()
}

/// Debian's package faketime has its library in a folder that is named after the machine.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("it is there").flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists()).expect("the package faketime is installed")
}

/// Gateways that share their books and rates, before one simulated provider. All start at the same moment, on a database
/// without tables.
pub(crate) struct Nodes {
    pub(crate) gateways: Vec<Gateway>,
    /// By node; none where the Redis is not a single server.
    pub(crate) to_redis: Vec<FaultProxy>,
    pub(crate) to_postgres: Vec<FaultProxy>,
    pub(crate) redis: SharedRedis,
    pub(crate) postgres: Postgres,
    _provider: Provider,
    _pepper: TempDir,
}

impl Nodes {
    /// Three on a single Redis.
    pub(crate) fn start() -> Self {
        Self::sharing(SharedRedis::single())
    }

    /// Three that do not wait long for PostgreSQL.
    pub(crate) fn impatient() -> Self {
        let setup = Setup::new().store("timeout_ms = 500");
        Self::with(SharedRedis::single(), Postgres::start(), [Clock::Right; 3], &setup)
    }

    pub(crate) fn sharing(redis: SharedRedis) -> Self {
        Self::with(redis, Postgres::start(), [Clock::Right; 3], &Setup::new())
    }

    /// One for each clock.
    pub(crate) fn with<const N: usize>(
        redis: SharedRedis,
        postgres: Postgres,
        clocks: [Clock; N],
        setup: &Setup,
    ) -> Self {
        let provider = Provider::start();
        let pepper = tempfile::tempdir().expect("a temporary directory");
        let pepper_file = pepper.path().join("pepper");
        std::fs::write(&pepper_file, "5a".repeat(32)).expect("the directory can be written");
        let master_keys = pepper.path().join("master-keys");
        std::fs::write(&master_keys, "a5".repeat(32)).expect("the directory can be written");
        let to_redis = redis.proxies(N);
        let to_postgres: Vec<_> = clocks.iter().map(|_| FaultProxy::before(postgres.address)).collect();
        let begin = |(number, clock): (usize, &Clock)| {
            let database = Postgres::url_by(to_postgres[number].address);
            let shared = redis.url(to_redis.get(number));
            let lines = setup.store.join("\n");
            let pepper = pepper_file.display();
            let store = format!("[store]\nurl = {{ value = '{database}' }}\npepper_file = '{pepper}'\n{lines}");
            let cluster = format!("[cluster]\nredis = '{shared}'\nnodes_max = {N}");
            let setup =
                clock.variables().iter().fold(setup.clone(), |setup, (name, value)| setup.variable(name, value));
            let keys = format!("master_keys = {{ file = '{}' }}", master_keys.display());
            let setup = setup.section(&store).section(&cluster).control(&keys);
            let openai = Upstream::openai("simulated-openai", provider.url());
            setup.upstream(openai).upstream(Upstream::anthropic("simulated-anthropic", provider.url())).begin()
        };
        let mut gateways: Vec<_> = clocks.iter().enumerate().map(begin).collect();
        gateways.iter().for_each(Gateway::await_ready);
        gateways[0].open_account();
        let (org, key) = (gateways[0].org.clone(), gateways[0].key.clone());
        for gateway in &mut gateways[1..] {
            (gateway.org, gateway.key) = (org.clone(), key.clone());
        }
        Self { gateways, to_redis, to_postgres, redis, postgres, _provider: provider, _pepper: pepper }
    }

    /// The single Redis.
    pub(crate) fn redis(&self) -> &Redis {
        match &self.redis {
            SharedRedis::Single(server) => server,
            SharedRedis::Sentinel(_) | SharedRedis::Cluster(_) => panic!("there are several servers"),
        }
    }

    /// Makes another key of the first organisation.
    pub(crate) fn create_key(&self, arguments: &[&str]) -> Key {
        self.gateways[0].create_key(arguments)
    }

    /// The calls of a key that are on the books: the name of each, and what it was charged.
    pub(crate) fn books(&self, key: &Key) -> Vec<(String, i64)> {
        let rows = self.postgres.ask(&format!("SELECT request_id, charge_nano FROM calls WHERE key_id = '{}'", key.id));
        let row = |line: &str| {
            let (request_id, charge) = line.split_once('|').expect("two columns");
            (request_id.to_owned(), charge.parse().expect("a number"))
        };
        rows.lines().map(row).collect()
    }

    /// Waits until so many calls of a key are on the books, and fails if there are more.
    pub(crate) fn books_of(&self, key: &Key, calls: usize) -> Vec<(String, i64)> {
        let books =
            eventually("the calls are on the books", || Some(self.books(key)).filter(|rows| rows.len() >= calls));
        assert_eq!(books.len(), calls, "{books:?}");
        books
    }

    /// Waits until the books of all nodes agree with themselves.
    pub(crate) fn await_clean_audit(&self) {
        for gateway in &self.gateways {
            let begun = Instant::now();
            loop {
                let said = gateway.audit();
                if said.status.success() {
                    break;
                }
                let found = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
                assert!(begun.elapsed() < DEADLINE, "the audit found:\n{found}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_show_what_they_are_told_to() {
        let hour_us = 3_600_000_000;
        let off = Redis::on(Clock::Off(7_200)).now_us();
        let now = u64::try_from(now_ms() * 1_000).expect("this century");
        assert!(off > now + hour_us, "{off}");
        let postgres = Postgres::on(Clock::Off(7_200));
        let shown = postgres.ask("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)");
        assert!(shown.parse::<u64>().expect("a number") > now + hour_us, "{shown}");
        let fast = Redis::on(Clock::fast(10));
        let (begun, shown) = (now_ms(), fast.now_us());
        let is_faster = || fast.now_us() - shown > 5 * 1_000 * u64::try_from(now_ms() - begun).expect("small");
        eventually("a fast clock goes ahead", || (now_ms() - begun > 500 && is_faster()).then_some(()));
    }

    #[test]
    fn nodes_serve_with_every_kind_of_redis_and_can_be_cut_off() {
        for redis in [SharedRedis::Sentinel(Sentinel::start()), SharedRedis::Cluster(RedisCluster::start())] {
            let nodes = Nodes::with(redis, Postgres::start(), [Clock::Right; 2], &Setup::new());
            for gateway in &nodes.gateways {
                let passes = || gateway.call(&super::super::Call::chat("Hello")).status == 200;
                eventually("a call passes", || passes().then_some(()));
            }
        }
        let nodes = Nodes::with(SharedRedis::single(), Postgres::start(), [Clock::Right; 2], &Setup::new());
        let key = nodes.create_key(&[]);
        nodes.to_postgres[0].hold();
        // A key that the node has never seen can't be looked up by it, and by the other it can.
        let answer = |node: usize| nodes.gateways[node].call_with(&key, &super::super::Call::chat("Hello")).status;
        assert_eq!(answer(0), 503);
        eventually("the other node knows it", || (answer(1) == 200).then_some(()));
        nodes.to_postgres[0].heal();
        eventually("the node that was cut off knows it", || (answer(0) == 200).then_some(()));
        nodes.to_redis.iter().for_each(FaultProxy::hold);
        assert!(nodes.redis().ask(&["PING"]) == "PONG" && answer(0) == 200, "calls do not wait for Redis");
    }
}
