//! What a candidate costs, version by version, and the one place where a cost is rounded.

use crate::id::PriceId;
use crate::money::NanoUsd;
use crate::usage::{Kind, Usage};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

/// Nano-USD for a million of each [`Kind`]: of tokens, of searches, of pictures, of milliseconds, of characters.
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
    /// Cheaper and within hours (Anthropic `service_tier: "batch"`). No request for one answer can ask for it.
    Batch,
}

impl Tier {
    /// Every tier.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Flex, Self::Priority, Self::Batch];

    /// The name in the configuration and in the books.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Flex => "flex",
            Self::Priority => "priority",
            Self::Batch => "batch",
        }
    }

    /// The tier that a request's `service_tier` asks for.
    #[must_use]
    pub fn asked(name: &str) -> Self {
        match Self::named(name) {
            Self::Batch => Self::Standard,
            asked => asked,
        }
    }

    /// The tier that a provider's `service_tier` names; every unknown name is the ordinary one.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|tier| tier.name() == name).unwrap_or_default()
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
            Kind::Input | Kind::CacheRead | Kind::Output | Kind::Reasoning => true,
            Kind::CacheWrite5m => self.cache_write >= CacheWrite::FiveMinutes,
            Kind::CacheWrite1h => self.cache_write >= CacheWrite::Hour,
            Kind::AudioInput => self.audio_input,
            Kind::ImageInput => self.image_input,
            Kind::AudioOutput => self.audio_output,
            Kind::ImageOutput => self.image_output,
            // How many of them there may be is counted, one by one.
            Kind::WebSearch | Kind::Images | Kind::AudioMilliseconds | Kind::Characters | Kind::SearchUnits => true,
        }
    }
}

/// The dearest rates of what is possible: one for input tokens, one for output tokens, and one for each kind of
/// [`Kind::UNITS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dearest {
    input: i64,
    output: i64,
    units: [i64; Kind::UNITS.len()],
    fee: Option<FeePpm>,
}

impl Dearest {
    /// The same, or dearer where these rates are.
    fn or(self, rates: &Rates, possible: &Possible) -> Self {
        let of = |is_wanted: fn(Kind) -> bool| {
            let wanted = Kind::ALL.into_iter().filter(|kind| is_wanted(*kind) && possible.has(*kind));
            wanted.map(|kind| rates[kind as usize]).max().unwrap_or(0)
        };
        let mut units = self.units;
        for (unit, kind) in units.iter_mut().zip(Kind::UNITS) {
            *unit = rates[kind as usize].max(*unit);
        }
        Self { input: self.input.max(of(Kind::is_input)), output: self.output.max(of(Kind::is_output)), units, ..self }
    }

    /// Whether input tokens cost anything.
    #[must_use]
    pub fn bills_input(&self) -> bool {
        self.input > 0 && self.fee != Some(0)
    }

    /// Whether output tokens cost anything.
    #[must_use]
    pub fn bills_output(&self) -> bool {
        self.output > 0 && self.fee != Some(0)
    }

    /// What so many input tokens and output tokens cost, and what `units` has beside tokens, rounded up. Its tokens are not
    /// counted.
    #[must_use]
    pub fn cost(&self, input: u64, output: u64, units: &Usage) -> NanoUsd {
        let of_output = i128::from(self.output).saturating_mul(i128::from(output));
        charged(self.before_output(input, units).saturating_add(of_output), self.fee)
    }

    /// The most output tokens that `money` pays for beside the input and the units; none if not even those.
    #[must_use]
    pub fn output_within(&self, money: NanoUsd, input: u64, units: &Usage) -> Option<u64> {
        let listed = match self.fee {
            None => i128::from(money.0) * UNITS_PER_RATE,
            Some(0) => i128::MAX,
            Some(fee) => i128::from(money.0) * UNITS_PER_RATE * FEE_WHOLE / i128::from(fee),
        };
        let rest = listed.saturating_sub(self.before_output(input, units));
        if rest < 0 {
            return None;
        }
        let tokens = rest.checked_div(i128::from(self.output));
        Some(tokens.and_then(|tokens| u64::try_from(tokens).ok()).unwrap_or(u64::MAX))
    }

    fn before_output(&self, input: u64, units: &Usage) -> i128 {
        let of_input = i128::from(self.input) * i128::from(input);
        let of_units =
            self.units.iter().zip(Kind::UNITS).map(|(rate, kind)| i128::from(*rate) * i128::from(units.get(kind)));
        // Six products of 63 by 64 bits: the sum can't be as large as an i128.
        of_units.fold(of_input, i128::saturating_add)
    }
}

/// A rate is for so many of its kind.
const UNITS_PER_RATE: i128 = 1_000_000;

/// A part of a cost, in millionths.
pub type FeePpm = u32;
/// The whole of it.
const FEE_WHOLE: i128 = 1_000_000;

/// The one place where a cost, in nano-USD for a million, becomes whole nano-USD: all of it, or the part of it that is a fee.
fn charged(exact: i128, fee: Option<FeePpm>) -> NanoUsd {
    // What is too large for the product is far beyond the largest amount.
    let (exact, whole) = match fee {
        None => (exact, UNITS_PER_RATE),
        Some(fee) => (exact.saturating_mul(i128::from(fee)), UNITS_PER_RATE * FEE_WHOLE),
    };
    let nanos = exact.saturating_add(whole - 1).div_euclid(whole);
    NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// Rates that replace the plain ones for a whole call whose input is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongContext {
    /// The call is long when its input tokens exceed this.
    pub above_tokens: u64,
    /// Rates of a long call.
    #[serde(deserialize_with = "kept_rates")]
    pub rates: Rates,
}

/// One version of a candidate's prices. The books keep it as JSON, that of earlier releases among it: a new field needs a
/// default, a new kind comes last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// The first UTC day (days since 1970) on which the version holds.
    pub from_day: i64,
    /// Rates of an ordinary call.
    #[serde(deserialize_with = "kept_rates")]
    pub standard: Rates,
    /// Rates of a call served in the flex tier, where the provider has one.
    #[serde(deserialize_with = "kept_rates_if_any")]
    pub flex: Option<Rates>,
    /// Rates of a call served in the priority tier, where the provider has one.
    #[serde(deserialize_with = "kept_rates_if_any")]
    pub priority: Option<Rates>,
    /// Rates of a call served in the batch tier, where the provider has one.
    #[serde(default, deserialize_with = "kept_rates_if_any")]
    pub batch: Option<Rates>,
    /// Rates of a call with a long input, where the provider asks more for it.
    pub long_context: Option<LongContext>,
    /// The pictures that `Images` are: their size, and behind a slash their quality, where the price depends on that. A list
    /// of such prices is a version for each, so that a row of the books tells its charge by its counts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<Box<str>>,
    /// The part of it that is charged, where a call is made with the organisation's own credential. A version of its own, so that a
    /// row of the books says by the price that it names whether it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee: Option<FeePpm>,
}

/// What is asked of a picture that its price may depend on, in the provider's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Such as `1024x1024`.
    pub size: Option<Box<str>>,
    /// Such as `hd`.
    pub quality: Option<Box<str>>,
}

impl Picture {
    /// The names under which a price of it may be listed, the most exact first. What is not asked for is `auto`.
    #[must_use]
    pub fn names(&self) -> [String; 2] {
        let [size, quality] = [&self.size, &self.quality].map(|asked| asked.as_deref().unwrap_or("auto"));
        [format!("{size}/{quality}"), size.to_owned()]
    }
}

/// Rates as the books keep them: a release that knew fewer kinds wrote fewer, and its calls used none of the others.
fn kept_rates<'de, D: Deserializer<'de>>(reader: D) -> Result<Rates, D::Error> {
    let kept = Vec::<i64>::deserialize(reader)?;
    let mut rates = Rates::default();
    let length = kept.len();
    let places = rates.get_mut(..length).ok_or_else(|| D::Error::invalid_length(length, &"a rate for each kind"))?;
    places.copy_from_slice(&kept);
    Ok(rates)
}

fn kept_rates_if_any<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Rates>, D::Error> {
    #[derive(Deserialize)]
    struct Kept(#[serde(deserialize_with = "kept_rates")] Rates);
    Ok(Option::<Kept>::deserialize(reader)?.map(|kept| kept.0))
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

    /// The same where a picture of this name costs so much.
    #[must_use]
    pub fn with_picture(&self, name: Option<&str>, rate: i64) -> Self {
        let mut price = Self { picture: name.map(Box::from), ..self.clone() };
        let long = price.long_context.as_mut().map(|long| &mut long.rates);
        let tiers = [price.flex.as_mut(), price.priority.as_mut(), price.batch.as_mut(), long];
        for rates in tiers.into_iter().flatten().chain([&mut price.standard]) {
            rates[Kind::Images as usize] = rate;
        }
        price
    }

    /// Whether a kind costs anything in any tier.
    #[must_use]
    pub fn bills(&self, kind: Kind) -> bool {
        let tiers = [Some(&self.standard), self.flex.as_ref(), self.priority.as_ref(), self.batch.as_ref()];
        let long = self.long_context.as_ref().map(|long| &long.rates);
        tiers.into_iter().chain([long]).flatten().any(|rates| rates[kind as usize] > 0)
    }

    /// Whether tokens of any kind cost anything.
    #[must_use]
    pub fn bills_tokens(&self) -> bool {
        Kind::ALL.into_iter().any(|kind| kind.is_token() && self.bills(kind))
    }

    /// What `usage` costs in `tier`: summed exactly, then rounded up once to a whole nano-dollar.
    #[must_use]
    pub fn cost(&self, usage: &Usage, tier: Tier) -> NanoUsd {
        let rates = self.rates(usage.input_total(), tier);
        let exact: i128 =
            rates.iter().zip(usage.counts).map(|(rate, count)| i128::from(*rate) * i128::from(count)).sum();
        charged(exact, self.fee)
    }

    /// The rates at which a call is likely billed: in its tier, as long as its `input` tokens make it.
    #[must_use]
    pub fn likely(&self, input: u64, possible: &Possible) -> Dearest {
        Dearest { fee: self.fee, ..Dearest::default() }.or(self.rates(input, possible.tier), possible)
    }

    /// The dearest rates at which a call of at most `input` tokens may be billed. It may be shorter than that, and a
    /// provider may serve it in its ordinary tier.
    #[must_use]
    pub fn dearest(&self, input: u64, possible: &Possible) -> Dearest {
        [self.rates(input, possible.tier), self.rates(0, possible.tier), &self.standard]
            .into_iter()
            .fold(Dearest { fee: self.fee, ..Dearest::default() }, |dearest, rates| dearest.or(rates, possible))
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
            Tier::Batch => self.batch.as_ref().unwrap_or(&self.standard),
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
        Price { standard, ..Price::default() }
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
        let bound = dearest.cost(usage.input_total(), usage.output_total(), &usage);
        assert!(bound >= price().cost(&usage, Tier::Standard));
    }

    #[test]
    fn what_is_no_token_is_priced_by_the_piece() {
        let mut mixed = price();
        for (number, kind) in (1..).zip(Kind::UNITS) {
            mixed.standard[kind as usize] = number * 1_000_000;
        }
        let usage = Kind::UNITS.into_iter().fold(Usage::of(1, 1), |usage, kind| usage.with(kind, 10));
        // A token of each: 150 and 600. Ten of each unit at 1 to 5 nano-dollars: 150.
        assert_eq!(mixed.cost(&usage, Tier::Standard), NanoUsd(150 + 600 + 150));
        let dearest = mixed.dearest(1, &Possible::default());
        assert_eq!(dearest.cost(1, 1, &usage), NanoUsd(150 + 600 + 150));
        assert_eq!(dearest.output_within(NanoUsd(150 + 1_200 + 150), 1, &usage), Some(2));
        assert_eq!(dearest.output_within(NanoUsd(299), 1, &usage), None);
    }

    #[test]
    fn a_tier_is_read_by_its_name_and_billed_at_its_rates() {
        let mut tiers = price();
        let half = tiers.standard.map(|rate| rate / 2);
        tiers.batch = Some(half);
        for tier in Tier::ALL {
            assert_eq!(Tier::named(tier.name()), tier);
            let cost = if tier == Tier::Batch { 75 } else { 150 };
            assert_eq!(tiers.cost(&Usage::of(1, 0), tier), NanoUsd(cost), "{tier:?}");
        }
        assert_eq!(Tier::named("scale"), Tier::Standard);
        assert_eq!((Tier::asked("flex"), Tier::asked("batch")), (Tier::Flex, Tier::Standard));
    }

    #[test]
    fn prices_that_earlier_releases_kept_are_read() {
        let kept = r#"{"from_day":0,"standard":[150000000,75000000,0,0,0,0,600000000,600000000,0,0,0],
            "flex":[1,2,3,4,5,6,7,8,9,10,11],"priority":null,
            "long_context":{"above_tokens":10,"rates":[1,1,1,1,1,1,1,1,1,1,1]}}"#;
        let read: Price = serde_json::from_str(kept).expect("a price of eleven kinds");
        assert_eq!((read.standard, read.batch), (price().standard, None));
        assert_eq!(read.flex.expect("flex")[9..], [10, 11, 0, 0, 0, 0]);
        assert_eq!(read.long_context.expect("long").rates.iter().sum::<i64>(), 11);
        let again: Price = serde_json::from_slice(&serde_json::to_vec(&read).expect("JSON")).expect("a price");
        assert_eq!(again, read);
        let of_a_later_release = format!(r#"{{"from_day":0,"standard":{:?},"flex":null,"priority":null}}"#, [1; 99]);
        assert!(serde_json::from_str::<Price>(&of_a_later_release).is_err());
    }

    #[test]
    fn a_fee_is_a_part_of_the_cost_and_rounded_up_once() {
        let at = |fee: FeePpm| Price { fee: Some(fee), ..price() };
        let usage = Usage::of(7, 3);
        // 7 × 150 and 3 × 600: 2 850 nano-dollars.
        for (fee, cost) in [(0, 0), (1_000_000, 2_850), (50_000, 143), (1, 1)] {
            let price = at(fee);
            assert_eq!(price.cost(&usage, Tier::Standard), NanoUsd(cost), "{fee}");
            let dearest = price.dearest(7, &Possible::default());
            assert_eq!(dearest.cost(7, 3, &usage), NanoUsd(cost), "{fee}");
            let within = dearest.output_within(NanoUsd(cost), 7, &usage).expect("it pays for the input");
            assert!(within >= 3 && dearest.cost(7, within, &usage).0 <= cost, "{fee}: {within}");
            assert_eq!(dearest.bills_output(), fee > 0);
        }
        assert_eq!(at(500_000).dearest(0, &Possible::default()).output_within(NanoUsd(299), 0, &usage), Some(0));
        let absurd = Usage::of(u64::MAX / 2, u64::MAX / 2);
        assert_eq!(at(1_000_000).cost(&absurd, Tier::Standard), NanoUsd(i64::MAX));
        assert_ne!(at(0).id(), price().id());
    }

    #[test]
    fn equal_prices_have_equal_names() {
        let mut other = price();
        assert_eq!(price().id(), other.id());
        other.standard[0] += 1;
        assert_ne!(price().id(), other.id());
    }
}
