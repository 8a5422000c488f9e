//! Redis servers of a test's own: one, one with a replica and a Sentinel, or a cluster of two; with the faults that servers
//! have.

use super::eventually;
use super::nodes::Clock;
use super::process::Process;
use super::setup::free_address;
use rustix::process::Signal;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How long an answer may take. A server that is paused gives none.
const PATIENCE: Duration = Duration::from_secs(2);
/// The name by which the Sentinel knows the primary.
pub(crate) const PRIMARY: &str = "tollgate";
/// Slots of a cluster.
const SLOTS: u32 = 16_384;

/// A server that keeps nothing on disk. Killed when this is dropped.
pub(crate) struct Redis {
    pub(crate) address: SocketAddr,
    directory: TempDir,
    options: Vec<String>,
    clock: Clock,
    process: Mutex<Process>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::on(Clock::Right)
    }

    /// One whose clock shows something else.
    pub(crate) fn on(clock: Clock) -> Self {
        Self::with(&[], clock)
    }

    fn with(options: &[&str], clock: Clock) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let address = free_address();
        let port = address.port().to_string();
        let of_all = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"];
        let options: Vec<String> = of_all.iter().chain(options).map(|option| (*option).to_owned()).collect();
        let process = Mutex::new(serve(directory.path(), &options, clock));
        let server = Self { address, directory, options, clock, process };
        server.await_ready();
        server
    }

    /// A replica of this server, which has caught up with it.
    fn replica(&self) -> Self {
        let replica = Self::start();
        let port = self.address.port().to_string();
        replica.ask(&["REPLICAOF", "127.0.0.1", &port]);
        eventually("the replica has caught up", || {
            replica.ask(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        });
        replica
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Sends a command and gives the parts of the answer as lines; it must be no error.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The same; the error is what the server says, or that nobody answers.
    pub(crate) fn try_ask(&self, command: &[&str]) -> Result<String, String> {
        ask(self.address, command)
    }

    /// The server's clock, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> u64 {
        let said = self.ask(&["TIME"]);
        let mut parts = said.lines().map(|part| part.parse::<u64>().expect("a number"));
        let (seconds, rest) = (parts.next().expect("seconds"), parts.next().expect("microseconds"));
        seconds * 1_000_000 + rest
    }

    /// Ends it at once; it has nothing that it could keep.
    pub(crate) fn stop(&self) {
        let mut process = self.process();
        process.signal(Signal::KILL);
        process.wait();
    }

    /// Starts it again on the same port, empty unless something was saved; the one before has ended.
    pub(crate) fn restart(&self) {
        self.begin();
        self.await_ready();
    }

    /// Saves what it has and starts it again so that it reads it for as long as it is let: it answers `LOADING` until
    /// [`Redis::end_loading`].
    pub(crate) fn restart_loading(&self) {
        // Something to read, whatever else there is.
        self.ask(&["DEBUG", "POPULATE", "50000"]);
        self.ask(&["SAVE"]);
        self.stop();
        self.begin_with(&["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"]);
        eventually("it is loading", || {
            self.try_ask(&["GET", "x"]).is_err_and(|error| error.contains("LOADING")).then_some(())
        });
    }

    pub(crate) fn end_loading(&self) {
        self.ask(&["CONFIG", "SET", "key-load-delay", "0"]);
        self.await_ready();
    }

    /// Stops it in the middle of whatever it does; its connections stay.
    pub(crate) fn pause(&self) {
        self.process().signal(Signal::STOP);
    }

    /// Lets it go on after a pause.
    pub(crate) fn go_on(&self) {
        self.process().signal(Signal::CONT);
    }

    /// Refuses every write for want of memory, or does so no more.
    pub(crate) fn be_full(&self, is_full: bool) {
        self.ask(&["CONFIG", "SET", "maxmemory", if is_full { "1" } else { "0" }]);
    }

    /// Refuses every write as a replica does, or does so no more.
    pub(crate) fn be_read_only(&self, is_read_only: bool) {
        let primary: [&str; 2] = if is_read_only { ["127.0.0.1", "1"] } else { ["NO", "ONE"] };
        self.ask(&[&["REPLICAOF"], &primary[..]].concat());
    }

    fn begin(&self) {
        self.begin_with(&[]);
    }

    fn begin_with(&self, options: &[&str]) {
        let options: Vec<_> =
            self.options.iter().cloned().chain(options.iter().map(|option| (*option).to_owned())).collect();
        *self.process() = serve(self.directory.path(), &options, self.clock);
    }

    fn await_ready(&self) {
        eventually("Redis answers", || {
            let ended = self.process().ended();
            assert!(ended.is_none(), "Redis ended with {ended:?}");
            self.try_ask(&["PING"]).ok()
        });
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(directory: &Path, options: &[String], clock: Clock) -> Process {
    let place = ["--dir", directory.to_str().expect("temporary directories have plain names")].map(str::to_owned);
    let options = [options, &place[..]].concat();
    Process::server("redis-server".as_ref(), &options, None, &clock.variables())
}

/// Sends one command on a connection of its own. Parts of an answer become lines.
fn ask(address: SocketAddr, command: &[&str]) -> Result<String, String> {
    let mut request = format!("*{}\r\n", command.len());
    for part in command {
        let _ = write!(request, "${}\r\n{part}\r\n", part.len());
    }
    let asked = || -> std::io::Result<Result<Vec<String>, String>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        answer(&mut BufReader::new(stream))
    };
    asked().unwrap_or_else(|error| Err(error.to_string())).map(|lines| lines.join("\n").trim().to_owned())
}

/// Reads an answer of Redis's protocol, or the error in it.
fn answer(stream: &mut impl BufRead) -> std::io::Result<Result<Vec<String>, String>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(ErrorKind::UnexpectedEof)?;
    let length = || rest.parse::<i64>().map_err(|_| Error::from(ErrorKind::InvalidData));
    match kind {
        "-" => Ok(Err(rest.to_owned())),
        "$" => {
            // What is not there has the length -1.
            let Ok(length) = usize::try_from(length()?) else { return Ok(Ok(vec![String::new()])) };
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes)?;
            Ok(Ok(vec![String::from_utf8_lossy(&bytes[..length]).into_owned()]))
        }
        "*" => {
            let mut parts = Vec::new();
            for _ in 0..length()? {
                match answer(stream)? {
                    Ok(part) => parts.extend(part),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(parts))
        }
        _ => Ok(Ok(vec![rest.to_owned()])),
    }
}

/// A primary, its replica, and a Sentinel that puts the one in the other's place.
pub(crate) struct Sentinel {
    pub(crate) address: SocketAddr,
    primary: Redis,
    replica: Redis,
    _directory: TempDir,
    _process: Process,
}

impl Sentinel {
    pub(crate) fn start() -> Self {
        let primary = Redis::start();
        let replica = primary.replica();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("sentinel.conf");
        let address = free_address();
        let mut text = format!("port {}\nbind 127.0.0.1\n", address.port());
        let _ = writeln!(text, "sentinel monitor {PRIMARY} 127.0.0.1 {} 1", primary.address.port());
        let _ = writeln!(text, "sentinel down-after-milliseconds {PRIMARY} 500");
        let _ = writeln!(text, "sentinel failover-timeout {PRIMARY} 5000");
        std::fs::write(&file, text).expect("the directory can be written");
        let file = file.to_str().expect("temporary directories have plain names").to_owned();
        let process = Process::server("redis-sentinel".as_ref(), &[file], None, &[]);
        let sentinel = Self { address, primary, replica, _directory: directory, _process: process };
        eventually("the Sentinel knows the replica", || {
            let known = ask(address, &["SENTINEL", "REPLICAS", PRIMARY]).unwrap_or_default();
            (known.contains("role-reported\nslave") && known.contains("master-link-status\nok")).then_some(())
        });
        sentinel
    }

    /// Cuts the replica off, so that what is written from now on is lost when it takes over.
    pub(crate) fn lose_writes(&self) {
        self.replica.pause();
        self.primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// Kills the primary and waits until the replica has its place; gives the new primary.
    pub(crate) fn fail_over(&self) -> &Redis {
        self.primary.stop();
        self.replica.go_on();
        eventually("the replica has taken over", || {
            let role = self.replica.try_ask(&["ROLE"]).unwrap_or_default();
            let port = self.replica.address.port().to_string();
            let named = ask(self.address, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY]).unwrap_or_default();
            (role.starts_with("master") && named.ends_with(&port)).then_some(())
        });
        &self.replica
    }

    pub(crate) fn primary(&self) -> &Redis {
        &self.primary
    }
}

/// A cluster of two primaries, each with half of the slots.
pub(crate) struct RedisCluster {
    pub(crate) servers: [Redis; 2],
}

impl RedisCluster {
    pub(crate) fn start() -> Self {
        // The usual port of their own talk, 10 000 above the other, may be somebody's.
        let buses = [free_address(), free_address()].map(|address| address.port().to_string());
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port"];
        let servers = buses.each_ref().map(|bus| Redis::with(&[&options[..], &[bus]].concat(), Clock::Right));
        let half = (SLOTS / 2).to_string();
        let [low, high] = [(SLOTS / 2 - 1).to_string(), (SLOTS - 1).to_string()];
        for (server, range) in servers.iter().zip([["0", &low], [&half, &high]]) {
            server.ask(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]);
        }
        // Two that were made alike would quarrel over their epochs.
        servers[1].ask(&["CLUSTER", "SET-CONFIG-EPOCH", "2"]);
        servers[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &servers[1].address.port().to_string(), &buses[1]]);
        let cluster = Self { servers };
        eventually("both agree on all slots", || cluster.agrees().then_some(()));
        cluster
    }

    fn agrees(&self) -> bool {
        let info = self.servers.each_ref().map(|server| server.ask(&["CLUSTER", "INFO"]));
        info.iter().all(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2"))
    }

    /// The keys of each server.
    pub(crate) fn keys(&self) -> [Vec<String>; 2] {
        let of = |server: &Redis| server.ask(&["KEYS", "*"]).lines().map(str::to_owned).collect();
        self.servers.each_ref().map(of)
    }

    /// Moves the slot of every key there is to the other server, with what is in it.
    pub(crate) fn move_slots(&self) -> usize {
        let keys = self.keys();
        let ids = self.servers.each_ref().map(|server| server.ask(&["CLUSTER", "MYID"]));
        let mut moved = std::collections::BTreeSet::new();
        for (from, keys) in keys.iter().enumerate() {
            for key in keys {
                let slot = self.servers[0].ask(&["CLUSTER", "KEYSLOT", key]);
                if moved.insert(slot.clone()) {
                    self.move_slot(from, &slot, &ids);
                }
            }
        }
        moved.len()
    }

    fn move_slot(&self, from: usize, slot: &str, ids: &[String; 2]) {
        let (source, target) = (&self.servers[from], &self.servers[1 - from]);
        target.ask(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &ids[from]]);
        source.ask(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &ids[1 - from]]);
        let port = target.address.port().to_string();
        loop {
            let keys = source.ask(&["CLUSTER", "GETKEYSINSLOT", slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys.lines() {
                source.ask(&["MIGRATE", "127.0.0.1", &port, key, "0", "2000"]);
            }
        }
        for server in [target, source] {
            server.ask(&["CLUSTER", "SETSLOT", slot, "NODE", &ids[1 - from]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_forgets_everything_when_it_is_restarted_and_can_be_paused() {
        let server = Redis::start();
        assert_eq!(server.ask(&["SET", "a", "1"]), "OK");
        server.stop();
        assert!(server.try_ask(&["GET", "a"]).is_err());
        server.restart();
        assert_eq!(server.ask(&["GET", "a"]), "");
        server.pause();
        assert!(server.try_ask(&["GET", "a"]).is_err());
        server.go_on();
        eventually("it answers again", || server.try_ask(&["GET", "a"]).ok());
        let now = server.now_us() / 1_000;
        assert!(i64::try_from(now).is_ok_and(|now| (now - tollgate::clock::now().0).abs() < 60_000), "{now}");
    }

    #[test]
    fn a_server_says_that_it_is_full_read_only_or_loading() {
        let server = Redis::start();
        let refusal = || server.try_ask(&["SET", "a", "1"]).expect_err("it is refused");
        server.be_full(true);
        assert!(refusal().contains("OOM"), "{}", refusal());
        server.be_full(false);
        server.be_read_only(true);
        assert!(refusal().contains("READONLY"), "{}", refusal());
        server.be_read_only(false);
        server.ask(&["SET", "a", "1"]);
        server.restart_loading();
        assert!(refusal().contains("LOADING"), "{}", refusal());
        server.end_loading();
        assert_eq!(server.ask(&["GET", "a"]), "1");
    }

    #[test]
    fn a_failover_loses_what_was_written_after_the_replica_was_cut_off() {
        let sentinel = Sentinel::start();
        sentinel.primary().ask(&["SET", "kept", "1"]);
        assert_eq!(sentinel.primary().ask(&["WAIT", "1", "5000"]), "1");
        sentinel.lose_writes();
        sentinel.primary().ask(&["SET", "lost", "1"]);
        let primary = sentinel.fail_over();
        assert_eq!((primary.ask(&["GET", "kept"]), primary.ask(&["GET", "lost"])), ("1".to_owned(), String::new()));
        assert_eq!(primary.ask(&["SET", "new", "1"]), "OK");
    }

    #[test]
    fn a_cluster_moves_its_slots_with_what_is_in_them() {
        let cluster = RedisCluster::start();
        let of_slot = |server: &Redis, key: &str| server.try_ask(&["SET", key, "1"]);
        for key in ["a", "b", "c", "d"] {
            let owners: Vec<_> = cluster.servers.iter().filter(|server| of_slot(server, key).is_ok()).collect();
            assert_eq!(owners.len(), 1, "{key}");
        }
        let [mut before, mut after] = [cluster.keys(), {
            assert_eq!(cluster.move_slots(), 4);
            cluster.keys()
        }];
        before.iter_mut().chain(&mut after).for_each(|keys| keys.sort());
        assert!(!before[0].is_empty() && !before[1].is_empty(), "{before:?}");
        assert_eq!([&before[0], &before[1]], [&after[1], &after[0]]);
    }
}
