//! Quotas: everything that can refuse for quantity. Each is a few atomics; a check is a compare-and-swap, never a lock.
//!
//! A key's quotas, its project's and its organisation's form a [`Chain`]. A call takes from all of them or from none, and
//! gives back or settles exactly once.

mod account;
mod accounts;
mod concurrency;
#[cfg(all(test, shuttle))]
mod interleavings;
mod rate;
#[cfg(test)]
mod shared_rates;
mod sharing;
mod spend;
mod sync;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use concurrency::Concurrency;
pub use rate::{Counted, RATE_MAX, Rate, RateReading};
pub use sharing::{Peers, SliceAsk, SliceReply};
pub use spend::Spend;

use crate::denied::{Code, Denied};
use crate::key::{Glob, allows};
use crate::money::NanoUsd;
use crate::ports::{Share, Shortage, Want};
use crate::time::EpochMs;
use spend::Held;
use std::sync::Arc;

/// What a call takes from its quotas.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a> {
    /// The model, for quotas that are about some models only.
    pub model: &'a str,
    /// Money to be taken from elastic quotas.
    pub estimate: NanoUsd,
    /// Money to be taken from strict quotas; none if nothing bounds it.
    pub bound: Option<NanoUsd>,
    /// Input and output tokens.
    pub tokens: u64,
}

impl Take<'_> {
    fn amount_of(&self, rate: &Rate) -> i64 {
        match rate.counted {
            Counted::Requests => 1,
            Counted::Tokens => self.tokens as i64,
        }
    }

    fn money(&self, spend: &Spend) -> Result<NanoUsd, Denied> {
        if spend.is_strict() { self.bound.ok_or(Denied::CostUnbounded) } else { Ok(self.estimate) }
    }
}

/// All quotas of a key: its own, then its project's, then its organisation's.
#[derive(Debug, Default)]
pub struct Chain {
    /// Requests and tokens in a window.
    pub rates: Vec<Arc<Rate>>,
    /// Calls at once.
    pub concurrency: Vec<Arc<Concurrency>>,
    /// Money, the key's own limits first, the organisation's balance last.
    pub spend: Vec<Arc<Spend>>,
}

impl Chain {
    /// The same without the quotas of money, for calls that cost nothing.
    #[must_use]
    pub fn without_money(&self) -> Self {
        Self { rates: self.rates.clone(), concurrency: self.concurrency.clone(), spend: Vec::new() }
    }

    /// Takes what a call may need from every quota, or nothing from any; the refusal names the quota.
    pub fn reserve(self: &Arc<Self>, take: &Take<'_>, now: EpochMs) -> Result<Reservation, Denied> {
        let mut taken = Reservation {
            chain: Arc::clone(self),
            tokens: take.tokens as i64,
            at: now,
            rates: Places::default(),
            places: 0,
            held: Vec::with_capacity(self.concurrency.len() + self.spend.len()),
        };
        // A reservation that is dropped gives back what it has; so an early return takes nothing.
        let counts = |model: &Option<Glob>| allows(model.as_slice(), take.model);
        for concurrency in self.concurrency.iter().filter(|quota| counts(&quota.model)) {
            taken.held.push(concurrency.take(now)?);
            taken.places += 1;
        }
        for (place, rate) in self.rates.iter().take(PLACES_MAX).enumerate().filter(|(_, quota)| counts(&quota.model)) {
            rate.take(take.amount_of(rate), now)?;
            rate.note_use();
            taken.rates.add(place);
        }
        for spend in self.spend_of(take.model) {
            let amount = take.money(spend)?;
            taken.held.push(spend.take(amount, now).ok_or_else(|| spend.refusal(amount, now))?);
        }
        Ok(taken)
    }

    /// Counts a request that calls no model and costs nothing against the rates of requests; one that is refused is not counted.
    pub fn count_request(&self, now: EpochMs) -> Result<(), Denied> {
        let counts = |rate: &&Arc<Rate>| rate.counted == Counted::Requests && rate.model.is_none();
        for (place, rate) in self.rates.iter().filter(counts).enumerate() {
            if let Err(denied) = rate.take(1, now) {
                self.rates.iter().filter(counts).take(place).for_each(|taken| taken.adjust(1, 0, now));
                return Err(denied);
            }
            rate.note_use();
        }
        Ok(())
    }

    /// The quotas of money that count calls of a model.
    pub fn spend_of(&self, model: &str) -> impl Iterator<Item = &Arc<Spend>> {
        self.spend.iter().filter(move |spend| spend.applies_to(model))
    }

    /// Where a refused call may find more credit or a place, and how much it lacks there: to be asked of the authority. None if
    /// it is neither that it lacks; nothing if there is some by now, or none to be had.
    #[must_use]
    pub fn short_of(&self, take: &Take<'_>, refused: &Denied, now: EpochMs) -> Option<Vec<Want>> {
        let is_leased = matches!(
            refused.code(),
            Code::ConcurrencyExceeded | Code::CreditsReserved | Code::SpendLimitReached | Code::InsufficientCredits
        );
        let short = |(spend, amount): (&Arc<Spend>, NanoUsd)| {
            spend.is_worth_asking(amount, now).then(|| Want { spend: Arc::clone(spend), amount, at: None })
        };
        let places = self.concurrency.iter().filter(|quota| allows(quota.model.as_slice(), take.model));
        // Nobody gives a place back to who has them all.
        let places = places.map(|quota| quota.places()).filter(|places| !places.is_all_here(now));
        let places = places.map(|places| (places, concurrency::PLACE));
        let money = self.spend_of(take.model).filter_map(|spend| Some((spend, take.money(spend).ok()?)));
        is_leased.then(|| places.chain(money).filter_map(short).collect())
    }

    /// The rates that a refused call may find more room in at the other nodes' store; empty where other calls have asked since
    /// and there is room now. None where trying again is of no use: nobody else counts, they are known to have none, or another
    /// quota refused.
    #[must_use]
    pub fn short_of_rates(&self, take: &Take<'_>, refused: &Denied, now: EpochMs) -> Option<Vec<Shortage>> {
        if refused.code() != Code::RateLimitExceeded {
            return None;
        }
        let counts = |rate: &&Arc<Rate>| allows(rate.model.as_slice(), take.model);
        let shortage = |rate: &Arc<Rate>| {
            let amount = take.amount_of(rate);
            rate.is_worth_asking(amount, now).then(|| Shortage { rate: Arc::clone(rate), amount })
        };
        let short: Vec<_> = self.rates.iter().filter(counts).filter_map(shortage).collect();
        let has_room = || self.rates.iter().filter(counts).all(|rate| rate.has_room(take.amount_of(rate), now));
        (!short.is_empty() || has_room()).then_some(short)
    }

    /// The reading of requests or of tokens that leaves least to calls of a model; where none is named, of those that count
    /// all models.
    #[must_use]
    pub fn tightest(&self, counted: Counted, model: Option<&str>, now: EpochMs) -> Option<RateReading> {
        let counts = |rate: &Rate| model.map_or(rate.model.is_none(), |model| allows(rate.model.as_slice(), model));
        let rates = self.rates.iter().filter(|rate| rate.counted == counted && counts(rate));
        rates.map(|rate| rate.read(now)).min_by_key(|reading| reading.remaining)
    }

    /// The least that any strict quota of a model can still pay, whoever has set it aside; none without strict quotas.
    #[must_use]
    pub fn strict_remaining(&self, model: &str, now: EpochMs) -> Option<NanoUsd> {
        self.spend_of(model).filter(|spend| spend.is_strict()).map(|spend| spend.remaining(now)).min()
    }
}

/// Most rates in a chain.
pub const PLACES_MAX: usize = 64;

/// Which quotas of a list a call has taken from; a list has at most [`PLACES_MAX`].
#[derive(Clone, Copy, Debug, Default)]
struct Places(u64);

impl Places {
    fn add(&mut self, place: usize) {
        self.0 |= 1 << (place % PLACES_MAX);
    }

    fn of<T>(self, quotas: &[T]) -> impl Iterator<Item = &T> {
        quotas
            .iter()
            .take(PLACES_MAX)
            .enumerate()
            .filter(move |(place, _)| self.0 >> place & 1 == 1)
            .map(|(_, quota)| quota)
    }
}

/// What a call has taken. Settled once; dropped unsettled, it gives everything back.
#[derive(Debug)]
#[must_use = "a reservation that is dropped gives everything back"]
pub struct Reservation {
    chain: Arc<Chain>,
    tokens: i64,
    at: EpochMs,
    rates: Places,
    /// So many of the first of what is held are places among the calls at once; the others are money.
    places: usize,
    held: Vec<Held>,
}

impl Reservation {
    /// The quotas and periods that the charge will go to.
    #[must_use]
    pub fn shares(&self) -> Vec<Share> {
        let share = |held: &Held| Share { quota: held.spend.id, period: held.account.span.start };
        self.money().iter().map(share).collect()
    }

    fn money(&self) -> &[Held] {
        &self.held[self.places..]
    }

    /// The least that is set aside in any quota of money.
    #[must_use]
    pub fn least(&self) -> Option<NanoUsd> {
        self.money().iter().map(|held| NanoUsd(held.amount)).min()
    }

    /// Takes more from every elastic quota, or nothing from any; the refusal names the quota.
    pub fn extend(&mut self, more: NanoUsd, now: EpochMs) -> Result<(), Denied> {
        let elastic = |held: &&mut Held| !held.spend.is_strict();
        let mut extended = 0;
        let mut refused = None;
        let money = &mut self.held[self.places..];
        for held in money.iter_mut().filter(elastic) {
            if !held.extend(more.0) {
                refused = Some(held.spend.refusal(more, now));
                break;
            }
            extended += 1;
        }
        if let Some(denied) = refused {
            money.iter_mut().filter(elastic).take(extended).for_each(|held| held.shrink(more.0));
            return Err(denied);
        }
        Ok(())
    }

    /// Where a refused extension may find more credit: to be asked of the authority, for the periods of this call.
    #[must_use]
    pub fn short_of(&self, more: NanoUsd) -> Vec<Want> {
        let elastic = self.money().iter().filter(|held| !held.spend.is_strict() && !held.has(more.0));
        elastic.map(|held| Want { spend: Arc::clone(&held.spend), amount: more, at: Some(self.at) }).collect()
    }

    /// Charges what the call cost and gives the rest back. The request itself stays counted.
    pub fn settle(mut self, charge: NanoUsd, tokens_used: u64) {
        self.release(charge, i64::try_from(tokens_used).unwrap_or(i64::MAX / 2), 1);
    }

    fn release(&mut self, charge: NanoUsd, tokens_used: i64, requests: i64) {
        // Nobody pays for a place.
        self.held.drain(..self.places).for_each(|held| held.settle(NanoUsd::ZERO));
        self.held.drain(..).for_each(|held| held.settle(charge));
        for rate in self.rates.of(&self.chain.rates) {
            let used = match rate.counted {
                Counted::Requests => requests,
                Counted::Tokens => tokens_used,
            };
            rate.adjust(self.amount_of(rate), used, self.at);
            rate.note_use();
        }
        (self.rates, self.places) = (Places::default(), 0);
    }

    fn amount_of(&self, rate: &Rate) -> i64 {
        match rate.counted {
            Counted::Requests => 1,
            Counted::Tokens => self.tokens,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release(NanoUsd::ZERO, 0, 0);
    }
}
