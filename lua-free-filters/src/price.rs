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
        let rounded_up = (exact + 999_999).div_euclid(1_000_000);
        NanoUsd(i64::try_from(rounded_up).unwrap_or(i64::MAX))
    }

    /// The most that `input` and `output` tokens can cost, were each of the dearest kind that the flags leave possible.
    #[must_use]
    pub fn cost_bound(&self, input: u64, output: u64, tier: Tier, writes_cache: bool) -> NanoUsd {
        let rates = self.rates(input, tier);
        let of = |kinds: &[Kind]| kinds.iter().map(|kind| rates[*kind as usize]).max().unwrap_or(0);
        let written = [Kind::Input, Kind::CacheWrite5m, Kind::CacheWrite1h];
        let input_rate = of(if writes_cache { &written } else { &written[..1] });
        let output_rate = of(&[Kind::Output, Kind::Reasoning]);
        let exact = i128::from(input_rate) * i128::from(input) + i128::from(output_rate) * i128::from(output);
        NanoUsd(i64::try_from((exact + 999_999).div_euclid(1_000_000)).unwrap_or(i64::MAX))
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
        let bound = price().cost_bound(usage.input_total(), usage.output_total(), Tier::Standard, false);
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
