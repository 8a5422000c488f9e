//! The most that a client lets a call cost: `max_credits` or `max_cost_usd` in the body. It is ours, so no provider gets it.

use super::{RequestHead, place};
use crate::denied::Denied;
use crate::money::{CreditUnit, MoneyError, NanoUsd};
use serde_json::value::RawValue;
use std::ops::Range;

/// What was said, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    is_in_credits: bool,
    text: Box<str>,
    at: Range<usize>,
}

impl Budget {
    /// What a body says: in credits, in dollars, or not at all.
    pub(super) fn read(
        body: &[u8],
        credits: Option<&RawValue>,
        dollars: Option<&RawValue>,
    ) -> Result<Option<Box<Self>>, Denied> {
        let (is_in_credits, value) = match (credits, dollars) {
            (None, None) => return Ok(None),
            (Some(value), None) => (true, value),
            (None, Some(value)) => (false, value),
            (Some(_), Some(_)) => {
                let sentence = "The body has both `max_credits` and `max_cost_usd`. Send one of them.";
                return Err(Denied::InvalidRequest(sentence.to_owned()));
            }
        };
        Ok(Some(Box::new(Self { is_in_credits, text: value.get().into(), at: place(body, value) })))
    }

    fn name(&self) -> &'static str {
        if self.is_in_credits { "max_credits" } else { "max_cost_usd" }
    }

    /// The amount; none where it is null.
    fn amount(&self, unit: Option<CreditUnit>) -> Result<Option<NanoUsd>, Denied> {
        let text = self.text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&self.text);
        if text == "null" {
            return Ok(None);
        }
        let refused = |problem: &str| Denied::InvalidRequest(format!("`{}` {problem}", self.name()));
        let amount = match (self.is_in_credits, unit) {
            (false, _) => text.parse(),
            (true, Some(unit)) => unit.amount(text),
            // To overlook it would be to spend what the client did not agree to.
            (true, None) => return Err(refused("means nothing here: no credit is defined. Send `max_cost_usd`.")),
        };
        let amount = amount.map_err(|problem: MoneyError| refused(&format!("is {problem}.")))?;
        if amount < NanoUsd::ZERO { Err(refused("is below zero.")) } else { Ok(Some(amount)) }
    }

    /// The whole member in the body, with one of the commas around it.
    pub(super) fn member(&self, body: &[u8]) -> Range<usize> {
        // Before the value stand its name, which has no quotation mark within, and a colon.
        let quote_before = |end: usize| body[..end].iter().rposition(|byte| *byte == b'"').unwrap_or(0);
        let name = quote_before(quote_before(self.at.start));
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let before = body[..name].iter().rposition(|byte| !is_space(byte));
        if let Some(comma) = before.filter(|place| body[*place] == b',') {
            return comma..self.at.end;
        }
        let after = body[self.at.end..].iter().position(|byte| !is_space(byte)).map(|offset| self.at.end + offset);
        match after.filter(|place| body[*place] == b',') {
            Some(comma) => name..comma + 1,
            None => name..self.at.end,
        }
    }
}

impl RequestHead {
    /// Takes in what the client lets the call cost, given what a credit is worth, if there are credits.
    pub fn hold_to_budget(&mut self, unit: Option<CreditUnit>) -> Result<(), Denied> {
        if let Some(budget) = &self.budget {
            self.cost_max = budget.amount(unit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::request_head::{Rewrite, scan};
    use bytes::Bytes;

    const REWRITE: Rewrite<'_> =
        Rewrite { model: "m", ask_usage: false, output_limit: None, output_limit_field: "max_tokens" };

    fn sent(body: &str, rewrite: &Rewrite<'_>) -> serde_json::Value {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let pieces = scan(&bytes, Dialect::OpenaiChat).expect("a valid body").rewrite(&bytes, rewrite);
        serde_json::from_slice(&pieces.concat()).expect("still JSON")
    }

    fn budget(value: &str, unit: Option<CreditUnit>) -> Result<Option<NanoUsd>, Denied> {
        let mut head = scan(format!(r#"{{"model":"m",{value}}}"#).as_bytes(), Dialect::OpenaiChat)?;
        head.hold_to_budget(unit).map(|()| head.cost_max)
    }

    #[test]
    fn a_budget_is_read_in_credits_or_in_dollars() {
        let cents = CreditUnit::of_micros(10_000);
        assert_eq!(budget(r#""max_credits": 250"#, cents), Ok(Some(NanoUsd(2_500_000_000))));
        assert_eq!(budget(r#""max_credits": "0.5""#, cents), Ok(Some(NanoUsd(5_000_000))));
        assert_eq!(budget(r#""max_cost_usd": 0.05"#, None), Ok(Some(NanoUsd(50_000_000))));
        assert_eq!(budget(r#""max_cost_usd": null"#, None), Ok(None));
        assert_eq!(budget(r#""n": 1"#, cents), Ok(None));
        for (value, unit) in [
            (r#""max_credits": 250"#, None),
            (r#""max_credits": -1"#, cents),
            (r#""max_credits": 1e3"#, cents),
            (r#""max_credits": true"#, cents),
            (r#""max_credits": 1, "max_cost_usd": 1"#, cents),
            (r#""max_cost_usd": "much""#, None),
        ] {
            assert!(matches!(budget(value, unit), Err(Denied::InvalidRequest(_))), "{value}");
        }
        let twice = r#""max_credits": 1, "max_credits": 2"#;
        assert_eq!(budget(twice, cents), Err(Denied::DuplicateField("max_credits")));
    }

    #[test]
    fn no_provider_gets_it_wherever_it_stands() {
        for body in [
            r#"{"max_credits":250,"model":"m","n":1}"#,
            r#"{"model":"m","max_credits":250,"n":1}"#,
            r#"{"model":"m","n":1,"max_credits":250}"#,
            r#"{ "model" : "m" , "max\u005fcost_usd" : "0.5" , "n" : 1 }"#,
            r#"{ "max_cost_usd" : 0.5 , "model":"m", "n":1 }"#,
        ] {
            assert_eq!(sent(body, &REWRITE), serde_json::json!({"model": "m", "n": 1}), "{body}");
        }
    }

    #[test]
    fn a_form_with_a_budget_is_refused() {
        let target = crate::route::Target::of(crate::route::Route::ImageVariations);
        let body = "--b\r\nContent-Disposition: form-data; name=\"max_credits\"\r\n\r\n5\r\n--b--\r\n";
        let read = crate::request_head::read(body.as_bytes(), Some("multipart/form-data; boundary=b"), &target);
        assert!(matches!(&read, Err(Denied::InvalidRequest(sentence)) if sentence.contains("max_credits")), "{read:?}");
    }

    #[test]
    fn it_goes_where_another_member_comes() {
        let rewrite = Rewrite { model: "other", ask_usage: true, output_limit: Some(5), ..REWRITE };
        for body in [r#"{"max_credits":1,"model":"m"}"#, r#"{"model":"m","max_credits":1}"#] {
            let expected =
                serde_json::json!({"model": "other", "max_tokens": 5, "stream_options": {"include_usage": true}});
            assert_eq!(sent(body, &rewrite), expected, "{body}");
        }
    }
}
