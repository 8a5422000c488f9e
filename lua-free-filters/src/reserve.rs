//! How much is set aside before a call is sent: the worst that the dearest candidate that may be tried could charge.

use crate::catalogue::{Candidate, Model};
use crate::money::NanoUsd;
use crate::price::Tier;
use crate::request_head::RequestHead;
use crate::resolve::Choice;

/// What a call may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Money.
    pub money: NanoUsd,
    /// Input and output tokens.
    pub tokens: u64,
    /// The input tokens among them.
    pub input_tokens: u64,
}

/// The need of a request whose elastic output allowance is at most `output_tokens_max`.
pub(crate) fn need(head: &RequestHead, model: &Model, choices: &[Choice], output_tokens_max: u64) -> Need {
    let output = output_allowance(head, model, output_tokens_max).saturating_mul(head.choices);
    let of = |choice: &Choice| {
        let candidate = &model.candidates[choice.index];
        let input = candidate.input_estimate.input_tokens(head);
        let money = choice.price.price.cost_bound(input, output, tier(head, candidate), head.weight.writes_cache);
        (money, input)
    };
    let (money, input) = choices.iter().map(of).fold((NanoUsd::ZERO, 0), |(money, input), (next_money, next_input)| {
        (money.max(next_money), input.max(next_input))
    });
    Need { money, tokens: input.saturating_add(output), input_tokens: input }
}

/// The tier that a request is billed in unless the answer says otherwise.
#[must_use]
pub fn tier(head: &RequestHead, candidate: &Candidate) -> Tier {
    match head.tier {
        Tier::Standard => candidate.default_tier,
        asked => asked,
    }
}

/// The most output tokens that all answers to a request can have.
pub(crate) fn output_max(head: &RequestHead, model: &Model) -> u64 {
    let limit = head.output_limit.unwrap_or(model.output_tokens_max);
    limit.min(model.output_tokens_max).saturating_mul(head.choices)
}

/// Output tokens to set aside for one answer: the limit asked for, but no more than `output_tokens_max` where the stream
/// shows how far it has come or where no limit was named.
fn output_allowance(head: &RequestHead, model: &Model, output_tokens_max: u64) -> u64 {
    let shows_its_output = head.streamed && !model.hidden_output;
    match head.output_limit {
        Some(limit) if shows_its_output => limit.min(output_tokens_max),
        Some(limit) => limit.min(model.output_tokens_max),
        None => model.output_tokens_max.min(output_tokens_max),
    }
}
