//! Quotas: everything that can refuse for quantity. Each is a few atomics; a check is a compare-and-swap, never a lock.
//!
//! A key's quotas form a [`Chain`]. A call takes from all of them or from none, and gives back or settles exactly once.

use crate::denied::{Denied, LimitSource};
use crate::id::QuotaId;
use crate::money::NanoUsd;
use crate::time::EpochMs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// The window of rates.
pub const MINUTE_MS: i64 = 60_000;
/// The highest rate a window can count.
pub const RATE_MAX: i64 = 1_000_000_000_000;

/// Money: a prepaid balance, or a spend limit.
#[derive(Debug)]
pub struct Spend {
    /// The quota's row.
    pub id: QuotaId,
    /// What it is called in refusals.
    pub source: LimitSource,
    /// The most that may ever be charged; `NanoUsd::MAX` is no limit.
    limit: AtomicI64,
    /// Charged so far.
    settled: AtomicI64,
    /// Charged so far, and set aside for calls in progress.
    committed: AtomicI64,
}

impl Spend {
    /// A quota of which `spent` has been charged before.
    #[must_use]
    pub fn new(id: QuotaId, source: LimitSource, limit: NanoUsd, spent: NanoUsd) -> Self {
        Self {
            id,
            source,
            limit: AtomicI64::new(limit.0),
            settled: AtomicI64::new(spent.0),
            committed: AtomicI64::new(spent.0),
        }
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> NanoUsd {
        NanoUsd(self.limit.load(Acquire))
    }

    /// Puts another limit in force. What is set aside stays so.
    pub fn set_limit(&self, limit: NanoUsd) {
        self.limit.store(limit.0, Release);
    }

    /// What has been charged.
    #[must_use]
    pub fn spent(&self) -> NanoUsd {
        NanoUsd(self.settled.load(Acquire))
    }

    /// What is set aside for calls in progress.
    #[must_use]
    pub fn reserved(&self) -> NanoUsd {
        NanoUsd(self.committed.load(Acquire) - self.settled.load(Acquire)).at_least_zero()
    }

    fn take(&self, amount: NanoUsd) -> Result<(), Denied> {
        let limit = self.limit.load(Acquire);
        let fits = |committed: i64| committed.checked_add(amount.0).filter(|total| *total <= limit);
        if self.committed.fetch_update(AcqRel, Acquire, fits).is_ok() {
            return Ok(());
        }
        let available = NanoUsd(limit.saturating_sub(self.settled.load(Acquire))).at_least_zero();
        Err(if available >= amount {
            Denied::CreditsReserved { quota: self.source }
        } else if self.source == LimitSource::OrganisationBalance {
            Denied::InsufficientCredits { available, needed: amount }
        } else {
            Denied::SpendLimitReached { available, needed: amount }
        })
    }

    fn settle(&self, reserved: NanoUsd, charge: NanoUsd) {
        self.settled.fetch_add(charge.0, AcqRel);
        self.committed.fetch_add(charge.0 - reserved.0, AcqRel);
    }
}

/// Requests or tokens per minute, in windows aligned to the clock. May be lost with the process: it is not money.
#[derive(Debug)]
pub struct Rate {
    /// What it is called in refusals.
    pub source: LimitSource,
    /// The word for what is counted.
    pub unit: &'static str,
    limit: AtomicI64,
    /// The window's number in the upper 24 bits, the count in the lower 40.
    state: AtomicU64,
}

/// A position in a rate's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateReading {
    /// The limit in force.
    pub limit: i64,
    /// What may still be taken in this window.
    pub remaining: i64,
    /// Milliseconds until the next window.
    pub reset_ms: u64,
}

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

fn window_of(now: EpochMs) -> u64 {
    now.0.div_euclid(MINUTE_MS) as u64 & (u64::MAX >> COUNT_BITS)
}

fn until_next_window(now: EpochMs) -> u64 {
    (MINUTE_MS - now.0.rem_euclid(MINUTE_MS)) as u64
}

impl Rate {
    /// A rate whose window is empty. `limit` is at most [`RATE_MAX`].
    #[must_use]
    pub fn new(source: LimitSource, unit: &'static str, limit: i64) -> Self {
        Self { source, unit, limit: AtomicI64::new(limit.min(RATE_MAX)), state: AtomicU64::new(0) }
    }

    /// Puts another limit in force at once.
    pub fn set_limit(&self, limit: i64) {
        self.limit.store(limit.min(RATE_MAX), Release);
    }

    /// Where the window stands.
    #[must_use]
    pub fn read(&self, now: EpochMs) -> RateReading {
        let state = self.state.load(Acquire);
        let count = if state >> COUNT_BITS == window_of(now) { (state & COUNT_MASK) as i64 } else { 0 };
        let limit = self.limit.load(Acquire);
        RateReading { limit, remaining: (limit - count).max(0), reset_ms: until_next_window(now) }
    }

    fn take(&self, amount: i64, now: EpochMs) -> Result<(), Denied> {
        let window = window_of(now);
        let limit = self.limit.load(Acquire);
        let fits = |state: u64| {
            let count = if state >> COUNT_BITS == window { state & COUNT_MASK } else { 0 };
            let total = count.checked_add(amount as u64).filter(|total| *total <= limit as u64)?;
            Some(window << COUNT_BITS | total)
        };
        match self.state.fetch_update(AcqRel, Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Denied::RateLimitExceeded {
                quota: self.source,
                unit: self.unit,
                limit,
                retry_after_ms: until_next_window(now),
            }),
        }
    }

    /// Replaces what was taken at `then` by what was used; a window that has passed is left alone.
    fn adjust(&self, taken: i64, used: i64, then: EpochMs) {
        let window = window_of(then);
        let corrected = |state: u64| {
            let count = (state & COUNT_MASK) as i64;
            let total = (count - taken + used).clamp(0, COUNT_MASK as i64);
            (state >> COUNT_BITS == window).then_some(window << COUNT_BITS | total as u64)
        };
        // A window that has passed has nothing to correct.
        let _ = self.state.fetch_update(AcqRel, Acquire, corrected);
    }
}

/// Calls at once.
#[derive(Debug)]
pub struct Concurrency {
    limit: AtomicI64,
    running: AtomicI64,
}

impl Concurrency {
    /// Nobody is running yet.
    #[must_use]
    pub fn new(limit: i64) -> Self {
        Self { limit: AtomicI64::new(limit), running: AtomicI64::new(0) }
    }

    /// Puts another limit in force; running calls go on.
    pub fn set_limit(&self, limit: i64) {
        self.limit.store(limit, Release);
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> i64 {
        self.limit.load(Acquire)
    }

    fn take(&self) -> Result<(), Denied> {
        let limit = self.limit.load(Acquire);
        let fits = |running: i64| (running < limit).then_some(running + 1);
        match self.running.fetch_update(AcqRel, Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Denied::ConcurrencyExceeded { limit }),
        }
    }
}

/// All quotas of a key: its own, then its organisation's.
#[derive(Debug, Default)]
pub struct Chain {
    /// Requests per minute.
    pub requests: Option<Arc<Rate>>,
    /// Tokens per minute.
    pub tokens: Option<Arc<Rate>>,
    /// Calls at once.
    pub concurrency: Option<Arc<Concurrency>>,
    /// Money, the key's own limit first, the organisation's balance last.
    pub spend: Vec<Arc<Spend>>,
}

impl Chain {
    /// Takes what a call may need from every quota, or nothing from any; the refusal names the quota.
    pub fn reserve(self: &Arc<Self>, money: NanoUsd, tokens: u64, now: EpochMs) -> Result<Reservation, Denied> {
        let mut taken = Reservation {
            chain: Arc::clone(self),
            money,
            tokens: tokens as i64,
            at: now,
            spends: 0,
            steps: Steps::default(),
        };
        // A reservation that is dropped gives back what it has; so an early return takes nothing.
        if let Some(concurrency) = &self.concurrency {
            concurrency.take()?;
            taken.steps.concurrency = true;
        }
        if let Some(requests) = &self.requests {
            requests.take(1, now)?;
            taken.steps.requests = true;
        }
        if let Some(rate) = &self.tokens {
            rate.take(taken.tokens, now)?;
            taken.steps.tokens = true;
        }
        for spend in &self.spend {
            spend.take(money)?;
            taken.spends += 1;
        }
        Ok(taken)
    }
}

#[derive(Debug, Default)]
struct Steps {
    concurrency: bool,
    requests: bool,
    tokens: bool,
}

/// What a call has taken. Settled once; dropped unsettled, it gives everything back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives everything back"]
pub struct Reservation {
    chain: Arc<Chain>,
    money: NanoUsd,
    tokens: i64,
    at: EpochMs,
    spends: usize,
    steps: Steps,
}

impl Reservation {
    /// Money set aside in each spend quota.
    #[must_use]
    pub fn money(&self) -> NanoUsd {
        self.money
    }

    /// Charges what the call cost and gives the rest back. The request itself stays counted.
    pub fn settle(mut self, charge: NanoUsd, tokens_used: u64) {
        for spend in &self.chain.spend {
            spend.settle(self.money, charge);
        }
        if let Some(rate) = &self.chain.tokens {
            rate.adjust(self.tokens, i64::try_from(tokens_used).unwrap_or(i64::MAX / 2), self.at);
        }
        if let Some(concurrency) = &self.chain.concurrency {
            concurrency.running.fetch_sub(1, AcqRel);
        }
        self.spends = 0;
        self.steps = Steps::default();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for spend in &self.chain.spend[..self.spends] {
            spend.settle(self.money, NanoUsd::ZERO);
        }
        if let (true, Some(rate)) = (self.steps.tokens, &self.chain.tokens) {
            rate.adjust(self.tokens, 0, self.at);
        }
        if let (true, Some(rate)) = (self.steps.requests, &self.chain.requests) {
            rate.adjust(1, 0, self.at);
        }
        if let (true, Some(concurrency)) = (self.steps.concurrency, &self.chain.concurrency) {
            concurrency.running.fetch_sub(1, AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    fn chain(limit: i64, balance: i64) -> Arc<Chain> {
        let spend = |source, amount| Arc::new(Spend::new(QuotaId(1), source, NanoUsd(amount), NanoUsd::ZERO));
        Arc::new(Chain {
            requests: Some(Arc::new(Rate::new(LimitSource::KeyRequestsPerMinute, "requests", 3))),
            tokens: Some(Arc::new(Rate::new(LimitSource::KeyTokensPerMinute, "tokens", 100))),
            concurrency: Some(Arc::new(Concurrency::new(2))),
            spend: vec![spend(LimitSource::KeySpendLimit, limit), spend(LimitSource::OrganisationBalance, balance)],
        })
    }

    fn readings(chain: &Chain) -> (i64, i64, i64, i64, i64) {
        (
            chain.requests.as_ref().expect("a rate").read(NOW).remaining,
            chain.tokens.as_ref().expect("a rate").read(NOW).remaining,
            chain.concurrency.as_ref().expect("a limit").running.load(Acquire),
            chain.spend[0].reserved().0,
            chain.spend[1].reserved().0,
        )
    }

    #[test]
    fn a_refusal_takes_nothing_from_any_quota() {
        let chain = chain(10, 4);
        let denied = chain.reserve(NanoUsd(5), 20, NOW).expect_err("the balance is too small");
        assert_eq!(denied, Denied::InsufficientCredits { available: NanoUsd(4), needed: NanoUsd(5) });
        assert_eq!(readings(&chain), (3, 100, 0, 0, 0));
    }

    #[test]
    fn settling_charges_once_and_gives_the_rest_back() {
        let chain = chain(10, 10);
        chain.reserve(NanoUsd(5), 20, NOW).expect("enough of all").settle(NanoUsd(2), 7);
        assert_eq!(readings(&chain), (2, 93, 0, 0, 0));
        assert_eq!((chain.spend[0].spent(), chain.spend[1].spent()), (NanoUsd(2), NanoUsd(2)));
    }

    #[test]
    fn a_dropped_reservation_gives_everything_back() {
        let chain = chain(10, 10);
        drop(chain.reserve(NanoUsd(5), 20, NOW).expect("enough of all"));
        assert_eq!(readings(&chain), (3, 100, 0, 0, 0));
    }

    #[test]
    fn credit_that_others_hold_is_not_a_reached_limit() {
        let chain = chain(10, 100);
        let held = chain.reserve(NanoUsd(6), 1, NOW).expect("enough of all");
        assert_eq!(
            chain.reserve(NanoUsd(6), 1, NOW).expect_err("six of ten are held"),
            Denied::CreditsReserved { quota: LimitSource::KeySpendLimit }
        );
        held.settle(NanoUsd(6), 1);
        assert!(matches!(
            chain.reserve(NanoUsd(6), 1, NOW).expect_err("six of ten are spent"),
            Denied::SpendLimitReached { available: NanoUsd(4), .. }
        ));
    }

    #[test]
    fn rates_start_anew_with_each_minute() {
        let rate = Rate::new(LimitSource::KeyRequestsPerMinute, "requests", 2);
        let start = EpochMs(NOW.0.div_euclid(MINUTE_MS) * MINUTE_MS);
        assert!(rate.take(2, start).is_ok());
        let denied = rate.take(1, start.plus(59_000)).expect_err("two of two are taken");
        assert!(matches!(denied, Denied::RateLimitExceeded { retry_after_ms: 1_000, limit: 2, .. }));
        assert!(rate.take(1, start.plus(60_000)).is_ok());
        rate.adjust(2, 0, start);
        assert_eq!(rate.read(start.plus(60_000)).remaining, 1);
    }

    #[test]
    fn exactly_as_many_as_are_paid_for_pass_under_contention() {
        let chain = Arc::new(Chain {
            spend: vec![Arc::new(Spend::new(QuotaId(1), LimitSource::KeySpendLimit, NanoUsd(700), NanoUsd::ZERO))],
            ..Chain::default()
        });
        let passed = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if let Ok(reservation) = chain.reserve(NanoUsd(7), 0, NOW) {
                            passed.fetch_add(1, AcqRel);
                            reservation.settle(NanoUsd(7), 0);
                        }
                    }
                });
            }
        });
        assert_eq!((passed.load(Acquire), chain.spend[0].spent()), (100, NanoUsd(700)));
    }

    proptest! {
        #[test]
        fn limits_hold_in_any_order_of_calls(calls in prop::collection::vec((1i64..50, 0u64..60, 0i64..50, any::<bool>()), 1..60)) {
            let chain = chain(300, 200);
            let (mut open, mut charged) = (Vec::new(), 0);
            for (money, tokens, charge, ends) in calls {
                if let Ok(reservation) = chain.reserve(NanoUsd(money), tokens, NOW) {
                    open.push((reservation, charge.min(money)));
                }
                if ends && !open.is_empty() {
                    let (reservation, charge) = open.remove(0);
                    reservation.settle(NanoUsd(charge), tokens);
                    charged += charge;
                }
                prop_assert!(chain.spend[1].spent().0 + chain.spend[1].reserved().0 <= 200);
                prop_assert!(readings(&chain).2 <= 2);
            }
            drop(open);
            prop_assert_eq!(chain.spend[0].spent().0, charged);
            prop_assert_eq!((readings(&chain).2, readings(&chain).3, readings(&chain).4), (0, 0, 0));
        }
    }
}
