//! What the journal costs a call: `begin` and `end`, then the shipper's part, into a ledger that takes all and keeps none.

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use filters::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::{Intent, Journal as _, Outcome, Share, Terminal};
use filters::price::Tier;
use filters::route::Route;
use filters::time::EpochMs;
use filters::usage::Usage;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tollgate::clock;
use tollgate::store::journal::{Checkpoint, Journal, Ledger, LedgerError, Merge, Settings, Shipment, Shipper};

/// So many calls are written, then shipped: the journal stays within its limit however long the bench runs.
const ROUND_CALLS: u64 = 100_000;

struct Nowhere;

#[async_trait]
impl Ledger for Nowhere {
    async fn ship(&self, _: &str, shipment: &Shipment) -> Result<usize, LedgerError> {
        Ok(black_box(shipment).calls.len())
    }

    async fn merge(&self, _: &str, _: Merge) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn checkpoint(&self, _: &str) -> Result<Option<Checkpoint>, LedgerError> {
        Ok(None)
    }
}

struct Bench {
    journal: Journal,
    shipper: Shipper,
    runtime: tokio::runtime::Runtime,
    intent: Intent,
    terminal: Terminal,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = Settings { bytes_max: 1 << 30, ..Settings::in_dir(dir.path()) };
        let (journal, _) = Journal::open(settings, None, clock::now()).expect("a new journal");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let shipper = runtime.block_on(journal.shipper(Arc::new(Nowhere))).expect("a ledger that is there");
        let (intent, terminal) = call();
        Self { journal, shipper, runtime, intent, terminal, _dir: dir }
    }

    /// Nanoseconds matter here, so what is timed is a whole round, never one call.
    fn rounds(&mut self, calls: u64, threads: u64) -> (Duration, Duration) {
        let (mut writing, mut shipping) = (Duration::ZERO, Duration::ZERO);
        let mut left = calls;
        while left > 0 {
            let round = left.min(ROUND_CALLS);
            let started = Instant::now();
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(|| write(&self.journal, &self.intent, &self.terminal, round));
                }
                write(&self.journal, &self.intent, &self.terminal, round);
            });
            writing += started.elapsed();
            let started = Instant::now();
            self.runtime.block_on(self.shipper.ship_all()).expect("a ledger that takes all");
            shipping += started.elapsed();
            left -= round;
        }
        (writing, shipping)
    }
}

fn write(journal: &Journal, intent: &Intent, terminal: &Terminal, calls: u64) {
    for _ in 0..calls {
        journal.begin(black_box(intent)).expect("room").end(black_box(terminal));
    }
}

fn call() -> (Intent, Terminal) {
    let started = clock::now();
    let intent = Intent {
        call: CallId(7),
        key: KeyId(8),
        org: OrgId(9),
        route: Route::ChatCompletions,
        streamed: true,
        model: "gpt-4o-mini".into(),
        provider: "openai".into(),
        price: PriceId(10),
        started,
        reserved: NanoUsd(1_000_000),
        recovery_charge: NanoUsd(1_000),
        input_estimate: 300,
        shares: [1, 2, 3].map(|id| Share { quota: QuotaId(id), period: EpochMs(0) }).to_vec(),
        attribution: None,
    };
    let terminal = Terminal {
        call: CallId(7),
        outcome: Outcome::Complete,
        estimated: false,
        status: 200,
        error: None,
        provider: "openai".into(),
        price: PriceId(10),
        tier: Tier::Standard,
        usage: Usage::of(312, 480),
        charge: NanoUsd(334_800),
        reserved: NanoUsd(1_000_000),
        attempts: 1,
        ended: started.plus(900),
        first_byte_ms: 120,
    };
    (intent, terminal)
}

fn journal(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20).warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(8));
    group.bench_function("begin+end", |bencher| bencher.iter_custom(|calls| bench.rounds(calls, 1).0));
    group.bench_function("begin+end, two threads", |bencher| bencher.iter_custom(|calls| bench.rounds(calls, 2).0));
    group.bench_function("ship", |bencher| bencher.iter_custom(|calls| bench.rounds(calls, 1).1));
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);
