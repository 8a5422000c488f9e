//! What `/metrics` asks of the parts that count for themselves.

use crate::clock;
use crate::log::Log;
use crate::metrics::{KeyLookups, REDIS_PURPOSES, RedisUse, Snapshot, Unnoted, WebhookUse};
use crate::proxy::Gateway;
use crate::store::Store;
use crate::store::journal::JournalCounts;
use crate::store::key_cache::KeyCache;
use crate::store::redis::rates::SharedRates;
use crate::store::redis::{Purpose, Redis};
use crate::store::requests::UnnotedCounts;
use crate::webhooks::WebhookCounts;
use filters::time::EpochMs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What `/metrics` is made of.
pub(super) struct Scrape {
    pub(super) gateway: Arc<Gateway>,
    pub(super) journal: Arc<JournalCounts>,
    pub(super) keys: KeyCache,
    pub(super) store: Store,
    pub(super) rates: Option<SharedRates>,
    pub(super) unnoted: Arc<UnnotedCounts>,
    pub(super) webhooks: Arc<WebhookCounts>,
    pub(super) log: Log,
}

impl Scrape {
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = clock::now();
        self.gateway.runtime.load().providers().iter().for_each(|provider| provider.show_health(now));
        let (journal, keys) = (&self.journal, self.keys.counts());
        Snapshot {
            journal_lag_records: journal.lag_records(),
            journal_lag: Duration::from_millis(journal.lag_ms.load(Ordering::Relaxed)),
            journal_bytes: journal.bytes.load(Ordering::Relaxed),
            journal_failures: journal.failures.load(Ordering::Relaxed) + journal.left_out.load(Ordering::Relaxed),
            shipped_calls: journal.shipped.load(Ordering::Relaxed),
            ship_failures: journal.ship_failures.load(Ordering::Relaxed),
            recovered_calls: journal.recovered.load(Ordering::Relaxed),
            key_lookups: KeyLookups {
                memory: keys.memory.load(Ordering::Relaxed),
                redis: keys.redis.load(Ordering::Relaxed),
                store: keys.store.load(Ordering::Relaxed),
                unknown: keys.unknown.load(Ordering::Relaxed),
                failed: keys.failed.load(Ordering::Relaxed),
            },
            key_cache_entries: keys.entries.load(Ordering::Relaxed) as u64,
            authority_transactions: self.keys.leases().transactions(),
            log_lines_lost: self.log.lines_lost(),
            quota_thresholds: self
                .store
                .ledger_counts()
                .thresholds
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
            requests_unnoted: Unnoted {
                sampled: self.unnoted.sampled.load(Ordering::Relaxed),
                failed: self.unnoted.failed.load(Ordering::Relaxed),
            },
            redis: self.rates.as_ref().map(|rates| redis_use(rates.redis())).unwrap_or_default(),
            webhooks: webhook_use(&self.webhooks, now),
        }
    }
}

fn webhook_use(counts: &WebhookCounts, now: EpochMs) -> WebhookUse {
    let oldest_ms = counts.oldest_ms.load(Ordering::Relaxed);
    WebhookUse {
        delivered: counts.delivered.load(Ordering::Relaxed),
        failed: counts.failed.load(Ordering::Relaxed),
        given_up: counts.given_up.load(Ordering::Relaxed),
        waiting: counts.waiting.load(Ordering::Relaxed),
        oldest: Duration::from_millis(if oldest_ms == 0 { 0 } else { now.since(EpochMs(oldest_ms)) }),
    }
}

fn redis_use(redis: &Redis) -> RedisUse {
    let counts = redis.counts();
    let purpose = |name: &&str| Purpose::ALL.into_iter().find(|purpose| purpose.name() == *name);
    let total = |totals: &[AtomicU64; Purpose::ALL.len()]| {
        REDIS_PURPOSES
            .each_ref()
            .map(|name| purpose(name).map_or(0, |purpose| totals[purpose as usize].load(Ordering::Relaxed)))
    };
    RedisUse {
        is_degraded: !redis.is_up(),
        round_trips: total(&counts.round_trips),
        micros: total(&counts.micros),
        failures: counts.failures.load(Ordering::Relaxed),
    }
}
