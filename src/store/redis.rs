//! The Redis that nodes share. It may be gone at any moment without harm: nobody waits for it longer than its timeout, and after a
//! few failures nobody asks it at all until a task beside the calls has found it well again.
//!
//! `link.rs` knows the ways there, `rates.rs` counts rates together, `records.rs` keeps records of keys

mod link;
pub mod rates;
pub(super) mod records;
#[cfg(test)]
pub(super) mod tests;

use super::pepper::encode_hex;
use crate::clock;
use crate::config::Cluster;
use arc_swap::ArcSwapOption;
use filters::key::Pepper;
use link::{Client, Link, Part};
use redis::{Cmd, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// So many failures in a row say that it is down.
const FAILURES_MAX: u32 = 3;
/// How often it is tried while it is down, and how long it may take to let us in.
const TRY_EVERY: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often its clock is read while it is well.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// How long the key stays that says whether it can be written, in milliseconds.
const PROBE_KEPT_MS: u32 = 60_000;

/// What it says of a key that holds something else than is asked for.
const WRONG_TYPE: &str = "WRONGTYPE";

/// What it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Slices of rates, and what was used of them.
    Rates,
    /// Records of keys.
    Keys,
    /// Its clock, and whether it can be written.
    Clock,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rates, Self::Keys, Self::Clock];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rates => "rates",
            Self::Keys => "keys",
            Self::Clock => "clock",
        }
    }
}

/// What was asked of it so far, for metrics.
#[derive(Debug, Default)]
pub struct RedisCounts {
    /// Round trips, by purpose.
    pub round_trips: [AtomicU64; Purpose::ALL.len()],
    /// How long they took together, in microseconds, by purpose.
    pub micros: [AtomicU64; Purpose::ALL.len()],
    /// Round trips that failed or took too long.
    pub failures: AtomicU64,
}

/// A Redis that nodes share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Redis {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    timeout: Duration,
    /// What every key of ours begins with: stores that share a Redis don't meet.
    prefix: String,
    /// The connection; none while it is down.
    link: ArcSwapOption<Link>,
    /// Failures in a row.
    failures: AtomicU32,
    lost: Notify,
    counts: RedisCounts,
}

/// Why the address is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RedisUnusable {
    /// The file of authorities.
    #[error("cluster.redis_ca_file: {0}")]
    Authorities(#[from] std::io::Error),
    /// The address itself, or the authorities in the file.
    #[error("cluster.redis: {0}")]
    Address(#[from] redis::RedisError),
}

impl Redis {
    /// The Redis of a configuration, if there is one. It is down until [`Redis::run`] has found it.
    pub fn new(cluster: &Cluster, pepper: &Pepper) -> Result<Option<Self>, RedisUnusable> {
        let Some(address) = &cluster.redis else { return Ok(None) };
        let authorities = cluster.redis_ca_file.as_ref().map(std::fs::read).transpose()?;
        let store = encode_hex(&pepper.lookup("redis").0[..4]);
        let shared = Shared {
            client: Client::new(address, authorities)?,
            timeout: cluster.redis_timeout,
            prefix: format!("tollgate:{store}"),
            link: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            lost: Notify::new(),
            counts: RedisCounts::default(),
        };
        Ok(Some(Self { shared: Arc::new(shared) }))
    }

    /// Finds it, reads its clock each second, and finds it again whenever it is lost, until shutdown. `hear_clock` is told how many
    /// milliseconds its clock is ahead of ours.
    pub async fn run(&self, hear_clock: impl Fn(i64), mut shutdown: watch::Receiver<bool>) {
        let mut has_said_so = false;
        loop {
            let ahead = match self.shared.link.load_full() {
                Some(link) => self.probe(&link).await,
                None => self.connect(&mut has_said_so).await,
            };
            ahead.into_iter().for_each(&hear_clock);
            let pause = if self.is_up() { CLOCK_EVERY } else { TRY_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.lost.notified() => has_said_so = true,
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Whether it is asked at present.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.link.load().is_some()
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> &RedisCounts {
        &self.shared.counts
    }

    /// The longest that an answer is waited for.
    fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    fn key(&self, rest: std::fmt::Arguments<'_>) -> String {
        format!("{}:{rest}", self.shared.prefix)
    }

    /// Asks everything in one round trip; each part is about keys of one slot. An answer is as long as its part; none where it failed.
    async fn ask(&self, purpose: Purpose, parts: Vec<Part>) -> Vec<Option<Vec<Value>>> {
        match self.shared.link.load_full() {
            Some(link) => self.ask_over(&link, purpose, parts).await,
            None => vec![None; parts.len()],
        }
    }

    async fn ask_over(&self, link: &Arc<Link>, purpose: Purpose, parts: Vec<Part>) -> Vec<Option<Vec<Value>>> {
        let (count, shared) = (parts.len(), &*self.shared);
        let asked = Instant::now();
        let answered = tokio::time::timeout(shared.timeout, link.ask(parts)).await;
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.counts.round_trips[purpose as usize].fetch_add(1, Relaxed);
        shared.counts.micros[purpose as usize].fetch_add(micros, Relaxed);
        let Ok(answers) = answered else {
            self.note_failure(link, "it takes too long");
            return vec![None; count];
        };
        let mut refusal = None;
        // Whoever wrote something else under a key of ours, the server is well.
        let is_answer =
            |answer: &Result<Vec<Value>, String>| answer.as_ref().map_or_else(|code| code == WRONG_TYPE, |_| true);
        let is_answered = answers.is_empty() || answers.iter().any(is_answer);
        let answers = answers.into_iter().map(|answer| answer.map_err(|error| refusal = Some(error)).ok()).collect();
        match refusal {
            Some(refusal) if !is_answered => self.note_failure(link, &refusal),
            Some(_) | None => shared.failures.store(0, Release),
        }
        answers
    }

    fn note_failure(&self, link: &Arc<Link>, cause: &str) {
        let shared = &*self.shared;
        shared.counts.failures.fetch_add(1, Relaxed);
        if shared.failures.fetch_add(1, AcqRel) + 1 < FAILURES_MAX {
            return;
        }
        // Only once, by whoever takes this connection away.
        let before = shared.link.compare_and_swap(&Some(Arc::clone(link)), None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            tracing::warn!(cause, "Redis is down: rates go on with this node's part of them");
            shared.lost.notify_one();
        }
    }

    /// Tries to connect, and says how far its clock is ahead of ours if it is well. Nobody else asks it before.
    async fn connect(&self, has_said_so: &mut bool) -> Option<i64> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.shared.client.connect()).await;
        let problem = match connected {
            Ok(Ok(link)) => {
                let link = Arc::new(link);
                let ahead = self.probe(&link).await;
                if ahead.is_some() {
                    self.shared.link.store(Some(link));
                    tracing::info!("Redis is well: rates are counted by all nodes together");
                    *has_said_so = false;
                    return ahead;
                }
                "it can't be written".to_owned()
            }
            Ok(Err(error)) => link::cause(&error),
            Err(_) => "it takes too long".to_owned(),
        };
        if !std::mem::replace(has_said_so, true) {
            tracing::warn!(problem, "Redis can't be reached: rates go on with this node's part of them");
        }
        None
    }

    /// Writes a key, so that a server that can only be read is none, and reads the clock of the same server.
    async fn probe(&self, link: &Arc<Link>) -> Option<i64> {
        let mut set = Cmd::new();
        set.arg("SET").arg(self.key(format_args!("probe"))).arg(1).arg("PX").arg(PROBE_KEPT_MS);
        let mut time = Cmd::new();
        time.arg("TIME");
        let before = clock::now();
        let answer = self.ask_over(link, Purpose::Clock, vec![vec![set, time]]).await.pop().flatten()?;
        let after = clock::now();
        let (seconds, micros): (i64, i64) = redis::from_redis_value(answer.into_iter().nth(1)?).ok()?;
        Some(seconds.saturating_mul(1_000) + micros / 1_000 - (before.0 + (after.0 - before.0) / 2))
    }
}
