//! Notes of requests that no provider was asked to serve: free ones and refused ones of known keys. Best effort: whoever serves
//! requests hands them over without waiting, a writer of its own puts them into the table in batches, and whatever would be
//! too much is counted and forgotten.

use super::{Engine, Store, StoreError};
use crate::clock;
use crate::store::engine::On;
use filters::id::KeyId;
use filters::ports::FreeRequest;
use filters::time::EpochMs;
use sqlx::QueryBuilder;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that wait for the writer, about 150 bytes each.
const WAITING_MAX: usize = 8_192;
/// Most rows of a second: what clients do who are refused must not fill the disk.
const ROWS_PER_SECOND: usize = 500;
/// Rows of one INSERT.
const ROWS_PER_INSERT: usize = 100;
/// So many of a key are noted in each second, and of those that follow one in so many.
const OF_A_KEY_PER_SECOND: u32 = 10;
const SAMPLED_ONE_IN: u32 = 100;
/// How often old rows are looked for, and how many go at a time: the writer is others' too.
const PRUNE_SECONDS: u64 = 600;
const PRUNED_AT_ONCE: i64 = 10_000;
const DAY_MS: i64 = 86_400_000;

/// Requests that were handed over and not noted, by why not.
#[derive(Debug, Default)]
pub struct UnnotedCounts {
    /// Their key had many in that second.
    pub sampled: AtomicU64,
    /// The store failed.
    pub failed: AtomicU64,
}

/// Writes notes into the table `requests`.
pub struct NoteWriter {
    store: Store,
    receiver: mpsc::Receiver<FreeRequest>,
    counts: Arc<UnnotedCounts>,
    keep_days: u64,
    sampler: Sampler,
}

/// Where requests are handed over with `try_send`, and the writer behind it, which keeps them for so many days.
#[must_use]
pub fn notes(store: Store, keep_days: u64) -> (mpsc::Sender<FreeRequest>, NoteWriter) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (counts, sampler) = (Arc::default(), Sampler::default());
    (sender, NoteWriter { store, receiver, counts, keep_days, sampler })
}

impl NoteWriter {
    /// What metrics ask.
    #[must_use]
    pub fn counts(&self) -> Arc<UnnotedCounts> {
        Arc::clone(&self.counts)
    }

    /// Writes once a second what has come, until shutdown; then what is left of that second.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seconds = 0;
        let mut must_stop = false;
        while !must_stop {
            must_stop = tokio::select! {
                _ = interval.tick() => false,
                // An error says that nobody is left to tell us: that is a shutdown too.
                _ = shutdown.wait_for(|stop| *stop) => true,
            };
            self.write_waiting().await;
            if seconds % PRUNE_SECONDS == 0 && !must_stop {
                self.prune(clock::now()).await;
            }
            seconds += 1;
        }
    }

    async fn write_waiting(&mut self) {
        let mut chosen = Vec::new();
        while chosen.len() < ROWS_PER_SECOND
            && let Ok(request) = self.receiver.try_recv()
        {
            if self.sampler.takes(request.key, request.at) {
                chosen.push(request);
            } else {
                self.counts.sampled.fetch_add(1, Relaxed);
            }
        }
        if chosen.is_empty() {
            return;
        }
        if let Err(cause) = self.store.insert_requests(&chosen).await {
            self.counts.failed.fetch_add(chosen.len() as u64, Relaxed);
            tracing::warn!(%cause, requests = chosen.len(), "free and refused requests were not noted");
        }
    }

    async fn prune(&self, now: EpochMs) {
        let kept_ms = i64::try_from(self.keep_days).unwrap_or(i64::MAX).saturating_mul(DAY_MS);
        if let Err(cause) = self.store.prune_requests(now.plus(-kept_ms)).await {
            tracing::warn!(%cause, "old notes of requests were not removed");
        }
    }
}

impl Store {
    async fn insert_requests(&self, requests: &[FreeRequest]) -> Result<(), StoreError> {
        let mut transaction = self.database.write().await?;
        for chunk in requests.chunks(ROWS_PER_INSERT) {
            let mut query = QueryBuilder::<Engine>::new(
                "INSERT INTO requests (request_id, key_id, org_id, route, model, status, error, limit_source, at_ms, method, \
                 latency_ms) ",
            );
            query.push_values(chunk, |mut row, request| {
                row.push_bind(request.call.to_string())
                    .push_bind(request.key.to_string())
                    .push_bind(request.org.to_string())
                    .push_bind(request.route.name())
                    .push_bind(request.model.as_deref())
                    .push_bind(i64::from(request.status))
                    .push_bind(request.error.map(|code| code.name()))
                    .push_bind(request.limit_source.map(|source| source.name()))
                    .push_bind(request.at.0)
                    .push_bind(
                        request.route.methods().get(usize::from(request.method)).map_or("", |method| method.as_str()),
                    )
                    .push_bind(i64::from(request.latency_ms));
            });
            // Every length would otherwise have a prepared statement of its own.
            query.on(&transaction).persistent(chunk.len() == ROWS_PER_INSERT).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn prune_requests(&self, before: EpochMs) -> Result<(), StoreError> {
        loop {
            let gone = sqlx::query(
                "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)",
            )
            .bind(before.0)
            .bind(PRUNED_AT_ONCE)
            .execute(&self.database.writer)
            .await?;
            if gone.rows_affected() < PRUNED_AT_ONCE.unsigned_abs() {
                return Ok(());
            }
        }
    }
}

/// Chooses which requests of a key are noted: the first of a second, and a few of those that follow.
#[derive(Debug, Default)]
struct Sampler {
    second: i64,
    seen: HashMap<KeyId, u32>,
}

impl Sampler {
    fn takes(&mut self, key: KeyId, at: EpochMs) -> bool {
        let second = at.0.div_euclid(1_000);
        if second != self.second {
            self.second = second;
            self.seen.clear();
        }
        let seen = self.seen.entry(key).or_insert(0);
        *seen += 1;
        *seen <= OF_A_KEY_PER_SECOND || seen.is_multiple_of(SAMPLED_ONE_IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW};
    use filters::denied::{Code, LimitSource, Owner};
    use filters::id::CallId;
    use filters::route::Route;
    use filters::window::Unit;
    use sqlx::Row;

    fn request(books: &Books, number: u128, at: EpochMs) -> FreeRequest {
        FreeRequest {
            call: CallId(number),
            key: books.key,
            org: books.org,
            route: Route::ChatCompletions,
            method: 0,
            model: Some("gpt-4o-mini".into()),
            status: 429,
            error: Some(Code::RateLimitExceeded),
            limit_source: Some(LimitSource::Requests(Owner::Key, Unit::Minute)),
            at,
            latency_ms: 3,
        }
    }

    async fn noted(books: &Books) -> i64 {
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM requests");
        count.fetch_one(&books.store.database.reader).await.expect("a number")
    }

    #[tokio::test]
    async fn ten_a_second_of_a_key_are_noted_and_a_sample_of_the_others() {
        let books = Books::open().await;
        let (sender, mut writer) = notes(books.store.clone(), 1);
        for number in 0..250 {
            sender.try_send(request(&books, number, NOW)).expect("room");
        }
        let free =
            FreeRequest { model: None, error: None, limit_source: None, ..request(&books, 300, NOW.plus(1_000)) };
        sender.try_send(free).expect("room");
        writer.write_waiting().await;
        assert_eq!(noted(&books).await, 10 + 2 + 1);
        assert_eq!(writer.counts().sampled.load(Relaxed), 238);
        let row = sqlx::query("SELECT * FROM requests ORDER BY id")
            .fetch_all(&books.store.database.reader)
            .await
            .expect("rows");
        assert_eq!(row[0].get::<String, _>("error"), "rate_limit_exceeded");
        assert_eq!(row[0].get::<String, _>("limit_source"), "key_requests_per_minute");
        assert_eq!(row[12].get::<Option<String>, _>("model"), None);
    }

    #[tokio::test]
    async fn what_is_too_much_is_counted_and_nobody_waits() {
        let books = Books::open().await;
        let (sender, mut writer) = notes(books.store.clone(), 1);
        let sent =
            (0..WAITING_MAX as i64 + 5).map(|number| sender.try_send(request(&books, 1, NOW.plus(number * 1_000))));
        assert_eq!(sent.filter(Result::is_err).count(), 5);
        writer.write_waiting().await;
        assert_eq!(noted(&books).await, ROWS_PER_SECOND as i64);
        books.store.close().await;
        writer.write_waiting().await;
        assert_eq!(writer.counts().failed.load(Relaxed), ROWS_PER_SECOND as u64);
    }

    #[tokio::test]
    async fn notes_are_written_at_shutdown_and_go_when_they_are_old() {
        let books = Books::open().await;
        let (sender, writer) = notes(books.store.clone(), 2);
        sender.try_send(request(&books, 1, NOW)).expect("room");
        sender.try_send(request(&books, 2, NOW.plus(DAY_MS))).expect("room");
        let (stop, stopped) = watch::channel(true);
        writer.run(stopped).await;
        drop(stop);
        assert_eq!(noted(&books).await, 2);
        let (_, writer) = notes(books.store.clone(), 2);
        writer.prune(NOW.plus(2 * DAY_MS)).await;
        assert_eq!(noted(&books).await, 2);
        writer.prune(NOW.plus(2 * DAY_MS + 1)).await;
        assert_eq!(noted(&books).await, 1);
    }
}
