//! Takes over, at each scrape, what other parts count for themselves, so that they need not know Prometheus.

use super::families::Families;
use prometheus::{Gauge, IntCounter, IntGauge};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What other parts have counted so far. Totals count from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Records that wait to be shipped.
    pub journal_lag_records: u64,
    /// Age of the oldest of them.
    pub journal_lag: Duration,
    /// The journal on disk.
    pub journal_bytes: u64,
    /// Records that could not be written, in total.
    pub journal_failures: u64,
    /// Calls that have reached the books, in total.
    pub shipped_calls: u64,
    /// Shipments that failed, in total.
    pub ship_failures: u64,
    /// Calls that a dead process had left open and this one closed, in total.
    pub recovered_calls: u64,
    /// How keys were found, in total.
    pub key_lookups: KeyLookups,
    /// Keys held in memory.
    pub key_cache_entries: u64,
    /// Transactions in which this node asked for credit, in total.
    pub authority_transactions: u64,
    /// Lines of the log that found no room, in total.
    pub log_lines_lost: u64,
    /// Times that quotas have reached each of [`THRESHOLDS`], in total.
    pub quota_thresholds: [u64; THRESHOLDS.len()],
    /// Free and refused requests that were handed over and not noted, in total.
    pub requests_unnoted: Unnoted,
    /// The Redis that nodes share; all zero where there is none.
    pub redis: RedisUse,
    /// What webhooks are told.
    pub webhooks: WebhookUse,
}

/// What webhooks are told, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WebhookUse {
    /// Tries that were taken, in total.
    pub delivered: u64,
    /// Tries that failed, in total.
    pub failed: u64,
    /// Deliveries that were given up, in total.
    pub given_up: u64,
    /// Deliveries that wait.
    pub waiting: u64,
    /// Age of the oldest event among them.
    pub oldest: Duration,
}

/// What the Redis that nodes share is asked for.
pub const REDIS_PURPOSES: [&str; 3] = ["rates", "keys", "clock"];

/// How the Redis that nodes share was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisUse {
    /// Whether this node goes on without it.
    pub is_degraded: bool,
    /// Round trips for each of [`REDIS_PURPOSES`], in total.
    pub round_trips: [u64; REDIS_PURPOSES.len()],
    /// How many microseconds they took together, in total.
    pub micros: [u64; REDIS_PURPOSES.len()],
    /// Round trips that failed or took too long, in total.
    pub failures: u64,
}

/// Shares of a quota's limit that are told of: the usual ones in percent, and all others.
pub const THRESHOLDS: [&str; 4] = ["50", "80", "100", "other"];

/// Requests that were handed over and not noted, by why not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unnoted {
    /// Their key had many in that second, and others stand for them.
    pub sampled: u64,
    /// The store failed.
    pub failed: u64,
}

/// Lookups of keys by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLookups {
    /// Answered from memory.
    pub memory: u64,
    /// Answered by a record that another node keeps in Redis.
    pub redis: u64,
    /// Answered by the store.
    pub store: u64,
    /// Nobody has this key.
    pub unknown: u64,
    /// The store did not answer.
    pub failed: u64,
}

/// The series that are set from a [`Snapshot`].
pub(super) struct Snapshots {
    /// Held while a snapshot is taken over: two scrapes at once would count the same difference twice.
    scrape: Mutex<()>,
    journal_lag_records: IntGauge,
    journal_lag_seconds: Gauge,
    journal_bytes: IntGauge,
    journal_failures: IntCounter,
    shipped_calls: IntCounter,
    ship_failures: IntCounter,
    recovered_calls: IntCounter,
    lookups_memory: IntCounter,
    lookups_redis: IntCounter,
    lookups_store: IntCounter,
    lookups_unknown: IntCounter,
    lookups_failed: IntCounter,
    key_cache_entries: IntGauge,
    authority_transactions: IntCounter,
    log_lines_lost: IntCounter,
    quota_thresholds: [IntCounter; THRESHOLDS.len()],
    unnoted_sampled: IntCounter,
    unnoted_failed: IntCounter,
    redis_degraded: IntGauge,
    redis_round_trips: [IntCounter; REDIS_PURPOSES.len()],
    redis_micros: [IntCounter; REDIS_PURPOSES.len()],
    redis_failures: IntCounter,
    webhook_tries: [IntCounter; 3],
    webhooks_waiting: IntGauge,
    webhooks_oldest_seconds: Gauge,
}

impl Snapshots {
    pub(super) fn new(families: &Families) -> Self {
        let list = families.list();
        let lookups = list.counters("tollgate_key_lookups_total", "Lookups of keys.", &["result"]);
        let thresholds =
            list.counters("tollgate_quota_thresholds_total", "Quotas that reached a share of a limit.", &["percent"]);
        let round_trips =
            list.counters("tollgate_redis_round_trips_total", "Round trips to Redis, by what for.", &["purpose"]);
        let micros = list.counters("tollgate_redis_microseconds_total", "How long they took together.", &["purpose"]);
        let tries =
            list.counters("tollgate_webhook_tries_total", "Messages to webhooks, by what came of them.", &["result"]);
        let oldest =
            Gauge::new("tollgate_webhooks_oldest_seconds", "Age of the oldest event that waits for a webhook.");
        let lag = Gauge::new("tollgate_journal_lag_seconds", "Age of the oldest record that waits to be shipped.");
        Self {
            scrape: Mutex::new(()),
            journal_lag_records: list.gauge("tollgate_journal_lag_records", "Records that wait to be shipped."),
            journal_lag_seconds: list.add(lag),
            journal_bytes: list.gauge("tollgate_journal_bytes", "The journal on disk."),
            journal_failures: list.counter("tollgate_journal_failures_total", "Records that could not be written."),
            shipped_calls: list.counter("tollgate_shipped_calls_total", "Calls that have reached the books."),
            ship_failures: list.counter("tollgate_ship_failures_total", "Shipments that failed; each is tried again."),
            recovered_calls: list.counter(
                "tollgate_calls_recovered_total",
                "Calls that a dead process had left open and this one closed.",
            ),
            lookups_memory: lookups.with_label_values(&["memory"]),
            lookups_redis: lookups.with_label_values(&["redis"]),
            lookups_store: lookups.with_label_values(&["store"]),
            lookups_unknown: lookups.with_label_values(&["unknown"]),
            lookups_failed: lookups.with_label_values(&["failed"]),
            key_cache_entries: list.gauge("tollgate_key_cache_entries", "Keys held in memory."),
            authority_transactions: list.counter(
                "tollgate_authority_transactions_total",
                "Transactions in which this node asked for credit or gave it back.",
            ),
            log_lines_lost: list.counter(
                "tollgate_log_lines_lost_total",
                "Lines that were left out because the log is not read fast enough.",
            ),
            quota_thresholds: THRESHOLDS.map(|percent| thresholds.with_label_values(&[percent])),
            unnoted_sampled: families.unnoted.with_label_values(&["sampled"]),
            unnoted_failed: families.unnoted.with_label_values(&["failed"]),
            redis_degraded: list.gauge("tollgate_redis_degraded", "1 while this node goes on without Redis."),
            redis_round_trips: REDIS_PURPOSES.map(|purpose| round_trips.with_label_values(&[purpose])),
            redis_micros: REDIS_PURPOSES.map(|purpose| micros.with_label_values(&[purpose])),
            redis_failures: list
                .counter("tollgate_redis_failures_total", "Round trips to Redis that failed or took too long."),
            webhook_tries: ["delivered", "failed", "given_up"].map(|result| tries.with_label_values(&[result])),
            webhooks_waiting: list
                .gauge("tollgate_webhooks_waiting", "Messages that wait for webhooks, over all nodes."),
            webhooks_oldest_seconds: list.add(oldest),
        }
    }

    pub(super) fn take_over(&self, snapshot: &Snapshot) {
        // The lock guards no data: after a panic under it the counters are as good as before.
        let _one_at_a_time = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        set(&self.journal_lag_records, snapshot.journal_lag_records);
        self.journal_lag_seconds.set(snapshot.journal_lag.as_secs_f64());
        set(&self.journal_bytes, snapshot.journal_bytes);
        advance(&self.journal_failures, snapshot.journal_failures);
        advance(&self.shipped_calls, snapshot.shipped_calls);
        advance(&self.ship_failures, snapshot.ship_failures);
        advance(&self.recovered_calls, snapshot.recovered_calls);
        advance(&self.lookups_memory, snapshot.key_lookups.memory);
        advance(&self.lookups_redis, snapshot.key_lookups.redis);
        advance(&self.lookups_store, snapshot.key_lookups.store);
        advance(&self.lookups_unknown, snapshot.key_lookups.unknown);
        advance(&self.lookups_failed, snapshot.key_lookups.failed);
        set(&self.key_cache_entries, snapshot.key_cache_entries);
        advance(&self.authority_transactions, snapshot.authority_transactions);
        advance(&self.log_lines_lost, snapshot.log_lines_lost);
        let thresholds = self.quota_thresholds.iter().zip(snapshot.quota_thresholds);
        thresholds.for_each(|(counter, total)| advance(counter, total));
        advance(&self.unnoted_sampled, snapshot.requests_unnoted.sampled);
        advance(&self.unnoted_failed, snapshot.requests_unnoted.failed);
        set(&self.redis_degraded, snapshot.redis.is_degraded.into());
        let round_trips = self.redis_round_trips.iter().zip(snapshot.redis.round_trips);
        let micros = self.redis_micros.iter().zip(snapshot.redis.micros);
        round_trips.chain(micros).for_each(|(counter, total)| advance(counter, total));
        advance(&self.redis_failures, snapshot.redis.failures);
        let WebhookUse { delivered, failed, given_up, waiting, oldest } = snapshot.webhooks;
        let tries = self.webhook_tries.iter().zip([delivered, failed, given_up]);
        tries.for_each(|(counter, total)| advance(counter, total));
        set(&self.webhooks_waiting, waiting);
        self.webhooks_oldest_seconds.set(oldest.as_secs_f64());
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Brings a counter up to a total. An older total, of a scrape that was overtaken, changes nothing.
fn advance(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
