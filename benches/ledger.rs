//! What a call costs the books: 200 000 calls of ten keys and of 100 000 keys, shipped into a store of a million keys.
//!
//! Not a bench of criterion: one pass takes minutes, and what is wanted is a ratio. `cargo bench --bench ledger [KEYS] [CALLS]`.

use filters::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::{Intent, Outcome, Share, Terminal};
use filters::price::Tier;
use filters::route::Route;
use filters::time::EpochMs;
use filters::usage::Usage;
use std::time::Duration;
use tollgate::clock;
use tollgate::store::Store;
use tollgate::store::journal::{Merge, Shipment};
use tollgate::store::keys::{KEYS_PER_TRANSACTION, NewKey};
use tollgate::store::ledger::LedgerSettings;
use tollgate::store::limits::Limit;
use tollgate::store::quotas::QuotaKind;

const BATCH: u64 = 2_000;
const ROUNDS: u64 = 5;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let keys = numbers.first().copied().unwrap_or(1_000_000).max(100_000);
    let calls = numbers.get(1).copied().unwrap_or(200_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(compare(keys, calls));
}

async fn compare(keys: u64, calls: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let settings = LedgerSettings { merge_ms: u64::MAX, ..LedgerSettings::default() };
    let store = Store::open(dir.path()).await.expect("a store").with_ledger_settings(settings);
    let (org, ids) = make_keys(&store, keys).await;
    let hot: Vec<KeyId> = ids.iter().step_by(ids.len() / 100_000).copied().take(100_000).collect();
    let mut shipped = Shipped { store, org, calls: 0 };
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        few.push(shipped.round(&hot[..10], calls).await);
        many.push(shipped.round(&hot, calls).await);
    }
    let (few, many) = (say("10 keys", &few, calls), say("100 000 keys", &many, calls));
    println!("more for many keys: {:.2} µs a call without their merge, {:.2} with it", many.0 - few.0, many.1 - few.1);
}

/// What this process has used of processors, whatever else the machine does; the kernel counts in hundredths of a second.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("a system that has /proc");
    let after_name = text.rsplit(") ").next().expect("a name in brackets");
    let used = after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(used.sum::<u64>() * 10)
}

/// The medians of the time to ship a call, and of that with the merge of what waited, in microseconds.
fn say(name: &str, rounds: &[(Duration, Duration)], calls: u64) -> (f64, f64) {
    let median = |mut of: Vec<Duration>| {
        of.sort_unstable();
        of[of.len() / 2].as_secs_f64() * 1e6 / calls as f64
    };
    let ship = median(rounds.iter().map(|round| round.0).collect());
    let all = median(rounds.iter().map(|round| round.0 + round.1).collect());
    println!("{name:14} {ship:8.2} µs of processor a call to ship, {all:8.2} with the merge of {calls} calls at once");
    (ship, all)
}

async fn make_keys(store: &Store, count: u64) -> (OrgId, Vec<KeyId>) {
    let now = clock::now();
    let org = store.create_organisation("bench", now).await.expect("made").id;
    let limits = vec![Limit::plain(QuotaKind::Spend, 5_000_000_000_000)];
    let new = NewKey { limits, ..NewKey::named(org, "bench") };
    let mut ids = Vec::new();
    while (ids.len() as u64) < count {
        let first = ids.len() as u64 + 1;
        let made = store.create_keys(&new, first..=first + KEYS_PER_TRANSACTION - 1, now).await.expect("made");
        ids.extend(made.iter().map(|key| key.id));
    }
    (org, ids)
}

struct Shipped {
    store: Store,
    org: OrgId,
    calls: u64,
}

impl Shipped {
    /// Ships calls of keys taken at random, then merges what waits.
    async fn round(&mut self, keys: &[KeyId], calls: u64) -> (Duration, Duration) {
        let (mut shipping, mut random) = (Duration::ZERO, self.calls | 1);
        for _ in 0..calls / BATCH {
            let calls = (0..BATCH)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    self.call(keys, (random >> 33) as usize)
                })
                .collect();
            let shipment = Shipment { calls, ..Shipment::default() };
            let started = cpu();
            self.store.take("node", &shipment).await.expect("shipped");
            shipping += cpu() - started;
        }
        let started = cpu();
        self.store.merge("node", Merge::All).await.expect("merged");
        (shipping, cpu() - started)
    }

    fn call(&mut self, keys: &[KeyId], at: usize) -> (Intent, Terminal) {
        let (started, at) = (clock::now(), at % keys.len());
        self.calls += 1;
        let call = CallId((started.0 as u128) << 80 | u128::from(self.calls));
        // Each key has one quota, and the organisation's is the first of all.
        let shares = [at as i64 + 2, 1].map(|quota| Share { quota: QuotaId(quota), period: EpochMs(0) });
        let intent = Intent {
            call,
            key: keys[at],
            org: self.org,
            route: Route::ChatCompletions,
            streamed: false,
            model: "gpt-4o-mini".into(),
            provider: "openai".into(),
            price: PriceId(10),
            started,
            reserved: NanoUsd(1_000_000),
            recovery_charge: NanoUsd(1_000),
            input_estimate: 300,
            shares: shares.to_vec(),
            attribution: None,
        };
        let terminal = Terminal {
            call,
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
}
