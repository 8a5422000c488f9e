//! Amounts as requests and answers have them: decimal texts, in dollars and, where there are credits, in those too.

use crate::error::Refusal;
use filters::money::{CreditUnit, NanoUsd};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A decimal number, written as a number or as a text. It is read digit by digit.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = String, pattern = r"^-?\d{1,10}(\.\d{1,9})?$", examples("12.5"))]
pub struct Decimal(String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        if let Some(text) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            return Ok(Self(text.to_owned()));
        }
        if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(D::Error::custom("expected a decimal number"))
    }
}

impl Decimal {
    /// The amount of dollars that it is; the refusal names the field.
    pub(super) fn dollars(&self, param: &str) -> Result<NanoUsd, Refusal> {
        self.0.parse().map_err(|problem| Refusal::validation(param, format!("An amount of dollars is {problem}.")))
    }
}

/// An amount of money in a request: in dollars or in credits.
pub(super) fn amount(
    unit: Option<CreditUnit>,
    dollars: Option<&Decimal>,
    credits: Option<&Decimal>,
) -> Result<NanoUsd, Refusal> {
    match (dollars, credits, unit) {
        (Some(Decimal(text)), None, _) => {
            text.parse().map_err(|problem| Refusal::validation("amount_usd", format!("`amount_usd` is {problem}.")))
        }
        (None, Some(Decimal(text)), Some(unit)) => unit
            .amount(text)
            .map_err(|problem| Refusal::validation("amount_credits", format!("`amount_credits` is {problem}."))),
        (None, Some(_), None) => {
            Err(Refusal::validation("amount_credits", "No credit is defined here. Send `amount_usd`."))
        }
        (Some(_), Some(_), _) => {
            Err(Refusal::validation("amount_credits", "Send the amount in dollars or in credits, not in both."))
        }
        (None, None, _) => Err(Refusal::validation("amount_usd", "Say how much: `amount_usd`.")),
    }
}

/// An amount in an answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Told {
    pub(super) usd: String,
    pub(super) credits: Option<String>,
}

impl Told {
    pub(super) fn of(unit: Option<CreditUnit>, amount: NanoUsd) -> Self {
        Self { usd: amount.to_string(), credits: unit.map(|unit| unit.credits(amount).to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(json: &str) -> Decimal {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn amounts_are_numbers_or_texts_in_dollars_or_credits() {
        let cents = CreditUnit::of_micros(10_000);
        for json in ["0.07", "\"0.07\""] {
            assert_eq!(amount(None, Some(&decimal(json)), None), Ok(NanoUsd(70_000_000)), "{json}");
            assert_eq!(amount(cents, None, Some(&decimal(json))), Ok(NanoUsd(700_000)), "{json}");
        }
        for (unit, dollars, credits) in [
            (None, None, Some("1")),
            (cents, Some("1"), Some("1")),
            (cents, None, None),
            (None, Some("1e3"), None),
            (None, Some("\"much\""), None),
            (cents, None, Some("0.000000001")),
        ] {
            let (dollars, credits) = (dollars.map(decimal), credits.map(decimal));
            let refused = amount(unit, dollars.as_ref(), credits.as_ref()).expect_err("refused");
            assert_eq!(refused.status(), 422, "{dollars:?} {credits:?}");
        }
        assert!(serde_json::from_str::<Decimal>("true").is_err());
    }
}
