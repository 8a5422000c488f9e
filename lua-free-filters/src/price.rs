//! What a candidate costs, version by version, and the one place where a cost is rounded.

use crate::id::PriceId;
use crate::money::NanoUsd;
use crate::usage::{Kind, Usage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Nano-USD for a million units of each [`Kind`] (for `WebSearch`: a million searches).
pub type Rates = [i64; Kind::ALL.len()];

/// The tier of service that a provider bills by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tier {
    /// The provider's ordinary tier.
    #[default]
    Standard,
    /// Cheaper and slower (OpenAI `service_tier: "flex"`).
    Flex,
    /// Dearer and faster (OpenAI `service_tier: "priority"`).
    Priority,
}

impl Tier {
    /// The tier that a provider's `service_tier` names; every unknown name is the ordinary one.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "flex" => Self::Flex,
            "priority" => Self::Priority,
            _ => Self::Standard,
        }
    }
}

/// How long input is to be kept in the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheWrite {
    /// Nothing is written.
    #[default]
    Never,
    /// Five minutes, or the one lifetime that the provider has.
    FiveMinutes,
    /// An hour.
    Hour,
}

/// What a request leaves possible: the tier that it is billed in unless the answer says otherwise, and the kinds of token
/// beside text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Possible {
    /// The tier.
    pub tier: Tier,
    /// The longest that input may be written to a cache for.
    pub cache_write: CacheWrite,
    /// Sounds in the input.
    pub audio_input: bool,
    /// Images in the input.
    pub image_input: bool,
    /// Sounds in the output.
    pub audio_output: bool,
    /// Images in the output.
    pub image_output: bool,
}

impl Possible {
    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Input | Kind::CacheRead | Kind::Output | Kind::Reasoning | Kind::WebSearch => true,
            Kind::CacheWrite5m => self.cache_write >= CacheWrite::FiveMinutes,
            Kind::CacheWrite1h => self.cache_write >= CacheWrite::Hour,
            Kind::AudioInput => self.audio_input,
            Kind::ImageInput => self.image_input,
            Kind::AudioOutput => self.audio_output,
            Kind::ImageOutput => self.image_output,
        }
    }
}

/// The dearest rates of the kinds that are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dearest {
    input: i64,
    output: i64,
    search: i64,
}

impl Dearest {
    /// The same, or dearer where these rates are.
    fn or(self, rates: &Rates, possible: &Possible) -> Self {
        let of = |kinds: &[Kind]| {
            let possible = kinds.iter().filter(|kind| possible.has(**kind));
            possible.map(|kind| rates[*kind as usize]).max().unwrap_or(0)
        };
        use Kind::*;
        Self {
            input: self.input.max(of(&[Input, CacheRead, CacheWrite5m, CacheWrite1h, AudioInput, ImageInput])),
            output: self.output.max(of(&[Output, Reasoning, AudioOutput, ImageOutput])),
            search: self.search.max(of(&[WebSearch])),
        }
    }

    /// What so many input tokens, output tokens and searches cost, rounded up.
    #[must_use]
    pub fn cost(&self, input: u64, output: u64, searches: u64) -> NanoUsd {
        let exact = self
            .before_output(input, searches)
            .saturating_add(i128::from(self.output).saturating_mul(i128::from(output)));
        rounded_up(exact)
    }

    /// The most output tokens that `money` pays for beside the input and the searches; none if not even those.
    #[must_use]
    pub fn output_within(&self, money: NanoUsd, input: u64, searches: u64) -> Option<u64> {
        let rest = i128::from(money.0) * TOKENS_PER_RATE - self.before_output(input, searches);
        if rest < 0 {
            return None;
        }
        let tokens = rest.checked_div(i128::from(self.output));
        Some(tokens.and_then(|tokens| u64::try_from(tokens).ok()).unwrap_or(u64::MAX))
    }

    fn before_output(&self, input: u64, searches: u64) -> i128 {
        i128::from(self.input) * i128::from(input) + i128::from(self.search) * i128::from(searches)
    }
}

/// A rate is for so many tokens.
const TOKENS_PER_RATE: i128 = 1_000_000;

/// The one place where a cost, in nano-USD for a million, becomes whole nano-USD.
fn rounded_up(exact: i128) -> NanoUsd {
    let nanos = exact.saturating_add(TOKENS_PER_RATE - 1).div_euclid(TOKENS_PER_RATE);
    NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// Rates that replace the plain ones for a whole call whose input is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongContext {
    /// The call is long when its input tokens exceed this.
    pub above_tokens: u64,
    /// Rates of a long call.
    pub rates: Rates,
}

/// One version of a candidate's prices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// The first UTC day (days since 1970) on which the version holds.
    pub from_day: i64,
    /// Rates of an ordinary call.
    pub standard: Rates,
    /// Rates of a call served in the flex tier, where the provider has one.
    pub flex: Option<Rates>,
    /// Rates of a call served in the priority tier, where the provider has one.
    pub priority: Option<Rates>,
    /// Rates of a call with a long input, where the provider asks more for it.
    pub long_context: Option<LongContext>,
}

impl Price {
    /// The version's name: a hash of its content, so that equal prices have equal names everywhere.
    #[must_use]
    pub fn id(&self) -> PriceId {
        let content = serde_json::to_vec(self).unwrap_or_default();
        let digest = Sha256::digest(&content);
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest[..8]);
        // The ledger keeps it in a signed 64-bit column.
        PriceId(u64::from_be_bytes(first) >> 1)
    }

    /// What `usage` costs in `tier`: summed exactly, then rounded up once to a whole nano-dollar.
    #[must_use]
    pub fn cost(&self, usage: &Usage, tier: Tier) -> NanoUsd {
        let rates = self.rates(usage.input_total(), tier);
        let exact: i128 =
            rates.iter().zip(usage.counts).map(|(rate, count)| i128::from(*rate) * i128::from(count)).sum();
        rounded_up(exact)
    }

    /// The rates at which a call is likely billed: in its tier, as long as its `input` tokens make it.
    #[must_use]
    pub fn likely(&self, input: u64, possible: &Possible) -> Dearest {
        Dearest::default().or(self.rates(input, possible.tier), possible)
    }

    /// The dearest rates at which a call of at most `input` tokens may be billed. It may be shorter than that, and a
    /// provider may serve it in its ordinary tier.
    #[must_use]
    pub fn dearest(&self, input: u64, possible: &Possible) -> Dearest {
        [self.rates(input, possible.tier), self.rates(0, possible.tier), &self.standard]
            .into_iter()
            .fold(Dearest::default(), |dearest, rates| dearest.or(rates, possible))
    }

    fn rates(&self, input_tokens: u64, tier: Tier) -> &Rates {
        if let Some(long) = &self.long_context
            && input_tokens > long.above_tokens
        {
            return &long.rates;
        }
        match tier {
            Tier::Standard => &self.standard,
            Tier::Flex => self.flex.as_ref().unwrap_or(&self.standard),
            Tier::Priority => self.priority.as_ref().unwrap_or(&self.standard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price() -> Price {
        let mut standard = [0; Kind::ALL.len()];
        // gpt-4o-mini: $0.15 in, $0.075 cached, $0.60 out, a million tokens.
        standard[Kind::Input as usize] = 150_000_000;
        standard[Kind::CacheRead as usize] = 75_000_000;
        standard[Kind::Output as usize] = 600_000_000;
        standard[Kind::Reasoning as usize] = 600_000_000;
        Price { from_day: 0, standard, flex: None, priority: None, long_context: None }
    }

    #[test]
    fn cost_is_exact_and_rounded_up_once() {
        let cost = |usage: Usage| price().cost(&usage, Tier::Standard);
        assert_eq!(cost(Usage::of(1_000_000, 1_000_000)), NanoUsd(750_000_000));
        assert_eq!(cost(Usage::of(1, 0)), NanoUsd(150));
        assert_eq!(cost(Usage::of(7, 3).with(Kind::CacheRead, 5)), NanoUsd(7 * 150 + 5 * 75 + 3 * 600));
        let mut odd = price();
        odd.standard[Kind::Input as usize] = 1;
        assert_eq!(odd.cost(&Usage::of(1, 0), Tier::Standard), NanoUsd(1));
        assert_eq!(odd.cost(&Usage::of(1_000_001, 0), Tier::Standard), NanoUsd(2));
    }

    #[test]
    fn long_input_changes_the_rates_of_the_whole_call() {
        let mut long = price();
        let mut rates = long.standard;
        rates[Kind::Input as usize] *= 2;
        long.long_context = Some(LongContext { above_tokens: 10, rates });
        assert_eq!(long.cost(&Usage::of(10, 0), Tier::Standard), NanoUsd(1_500));
        assert_eq!(long.cost(&Usage::of(11, 0), Tier::Standard), NanoUsd(3_300));
    }

    #[test]
    fn the_bound_is_never_below_the_cost() {
        let usage = Usage::of(60, 20).with(Kind::CacheRead, 40).with(Kind::Reasoning, 10);
        let dearest = price().dearest(usage.input_total(), &Possible::default());
        let bound = dearest.cost(usage.input_total(), usage.output_total(), 0);
        assert!(bound >= price().cost(&usage, Tier::Standard));
    }

    #[test]
    fn equal_prices_have_equal_names() {
        let mut other = price();
        assert_eq!(price().id(), other.id());
        other.standard[0] += 1;
        assert_ne!(price().id(), other.id());
    }
}
