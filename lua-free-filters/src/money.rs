//! Money as whole nano-dollars, so that no cent is ever lost to a float.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

/// An amount in nano-USD (10⁻⁹ dollar). Prints and parses as a decimal number of dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(pub i64);

/// Nano-dollars in a dollar.
pub const NANOS_PER_USD: i64 = 1_000_000_000;

/// Why a text is not an amount of dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not of the form `12` or `12.34`.
    #[error("not a decimal number of dollars such as 12 or 0.000001")]
    NotDecimal,
    /// More than nine digits after the point.
    #[error("finer than a billionth of a dollar: at most 9 digits after the point")]
    TooFine,
    /// Beyond ±9.2 billion dollars.
    #[error("too large: at most 9 200 000 000 dollars")]
    TooLarge,
}

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than anybody has; stands for "no limit".
    pub const MAX: Self = Self(i64::MAX);

    /// The larger of zero and this.
    #[must_use]
    pub fn at_least_zero(self) -> Self {
        Self(self.0.max(0))
    }

    /// Sum that stops at the largest amount.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl FromStr for NanoUsd {
    type Err = MoneyError;

    /// Reads decimal dollars: `5`, `0.15`, `-2.5`. No exponent, no separator, no sign but a leading minus.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        i64::try_from(billionths(text)?).map(Self).map_err(|_| MoneyError::TooLarge)
    }
}

/// Reads a decimal number in billionths.
fn billionths(text: &str) -> Result<i128, MoneyError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(MoneyError::NotDecimal);
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > 9 {
        return Err(MoneyError::TooFine);
    }
    let whole: i64 = whole.parse().map_err(|_| MoneyError::TooLarge)?;
    let nanos: i64 = format!("{significant:0<9}").parse().map_err(|_| MoneyError::NotDecimal)?;
    let total = i128::from(whole) * i128::from(NANOS_PER_USD) + i128::from(nanos);
    Ok(if negative { -total } else { total })
}

/// Writes billionths as a decimal number with as many digits as needed and no more.
fn write_billionths(formatter: &mut fmt::Formatter<'_>, amount: i128) -> fmt::Result {
    let sign = if amount < 0 { "-" } else { "" };
    let (magnitude, one) = (amount.unsigned_abs(), u128::from(NANOS_PER_USD.unsigned_abs()));
    let whole = magnitude / one;
    let (mut fraction, mut digits) = (magnitude % one, 9);
    if fraction == 0 {
        return write!(formatter, "{sign}{whole}");
    }
    while fraction.is_multiple_of(10) {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    write!(formatter, "{sign}{whole}.{fraction:0digits$}")
}

/// What a credit is worth, for those who count in credits rather than in dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditUnit {
    /// In nano-USD.
    nanos: i128,
}

impl CreditUnit {
    /// The most that a credit may be worth: a million dollars.
    pub const MICROS_MAX: u64 = 1_000_000_000_000;

    /// A credit of so many millionths of a dollar; none if it were worth nothing, or more than [`Self::MICROS_MAX`].
    #[must_use]
    pub fn of_micros(micros: u64) -> Option<Self> {
        (1..=Self::MICROS_MAX).contains(&micros).then(|| Self { nanos: i128::from(micros) * 1_000 })
    }

    /// In millionths of a dollar.
    #[must_use]
    pub fn micros(self) -> u64 {
        u64::try_from(self.nanos / 1_000).unwrap_or(Self::MICROS_MAX)
    }

    /// An amount in credits, down to a billionth of one.
    #[must_use]
    pub fn credits(self, amount: NanoUsd) -> Credits {
        Credits(i128::from(amount.0) * i128::from(NANOS_PER_USD) / self.nanos)
    }

    /// What a decimal number of credits is worth; it must be whole nano-dollars.
    pub fn amount(self, credits: &str) -> Result<NanoUsd, MoneyError> {
        let product = billionths(credits)?.checked_mul(self.nanos).ok_or(MoneyError::TooLarge)?;
        if product % i128::from(NANOS_PER_USD) != 0 {
            return Err(MoneyError::TooFine);
        }
        i64::try_from(product / i128::from(NANOS_PER_USD)).map(NanoUsd).map_err(|_| MoneyError::TooLarge)
    }
}

/// An amount in billionths of a credit. Prints as a decimal number of credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credits(i128);

impl fmt::Display for Credits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_billionths(formatter, self.0)
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with as many digits as needed and no more: `0.000123456`, `12.5`, `3`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_billionths(formatter, i128::from(self.0))
    }
}

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for NanoUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for NanoUsd {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl SubAssign for NanoUsd {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_dollars_are_read_exactly() {
        for (text, nanos) in [
            ("0", 0),
            ("5", 5_000_000_000),
            ("0.15", 150_000_000),
            ("-2.5", -2_500_000_000),
            ("0.000000001", 1),
            ("1.500000000000", 1_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(NanoUsd(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_not_dollars_is_refused() {
        for text in ["", ".", "1.", ".5", "1e3", "1,5", "+1", "--1", "٣", " 1"] {
            assert_eq!(text.parse::<NanoUsd>(), Err(MoneyError::NotDecimal), "{text}");
        }
        assert_eq!("0.0000000001".parse::<NanoUsd>(), Err(MoneyError::TooFine));
        assert_eq!("9999999999999".parse::<NanoUsd>(), Err(MoneyError::TooLarge));
    }

    #[test]
    fn credits_are_dollars_by_another_measure() {
        let cents = CreditUnit::of_micros(10_000).expect("a unit");
        assert_eq!(cents.credits(NanoUsd(2_500_000_001)).to_string(), "250.0000001");
        assert_eq!(cents.credits(NanoUsd(-5_000_000)).to_string(), "-0.5");
        assert_eq!(cents.amount("250"), Ok(NanoUsd(2_500_000_000)));
        assert_eq!(cents.amount("0.00000001"), Err(MoneyError::TooFine));
        assert_eq!(cents.amount("many"), Err(MoneyError::NotDecimal));
        let thirds = CreditUnit::of_micros(3).expect("a unit");
        assert_eq!(thirds.credits(NanoUsd(10_000)).to_string(), "3.333333333");
        assert_eq!(thirds.credits(NanoUsd::MAX).to_string(), "3074457345618258.602333333");
        let dear = CreditUnit::of_micros(CreditUnit::MICROS_MAX).expect("a unit");
        assert_eq!(
            (dear.amount("9223372036854775807"), dear.micros()),
            (Err(MoneyError::TooLarge), CreditUnit::MICROS_MAX)
        );
        assert_eq!([0, CreditUnit::MICROS_MAX + 1].map(CreditUnit::of_micros), [None; 2]);
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(nanos in -i64::MAX..i64::MAX) {
            let amount = NanoUsd(nanos);
            prop_assert_eq!(amount.to_string().parse::<NanoUsd>(), Ok(amount));
        }
    }
}
