//! How much is set aside before a call is sent: an estimate for elastic quotas, a bound for strict ones, both at the
//! dearest candidate that may be tried; and the output limit that makes a bound fit what is left.

use crate::catalogue::{Candidate, Model};
use crate::dialect::Dialect;
use crate::money::NanoUsd;
use crate::price::{CacheWrite, Dearest, Possible, Tier};
use crate::request_head::RequestHead;
use crate::resolve::Choice;

/// The operator's word on output limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowances {
    /// Most output tokens of an answer that an elastic quota sets aside at first.
    pub output_tokens_max: u64,
    /// The smallest output limit that a request is clamped to.
    pub clamp_output_tokens_min: u64,
}

/// What a call may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What elastic quotas set aside.
    pub estimate: NanoUsd,
    /// What the call can't cost more than: what strict quotas set aside. None if nothing bounds it.
    pub bound: Option<NanoUsd>,
    /// Input and output tokens, as in the estimate.
    pub tokens: u64,
    /// The input tokens among them.
    pub input_tokens: u64,
    /// The most input tokens that can be billed, where something bounds them.
    pub input_bound: Option<u64>,
    /// Output tokens of all answers, as in the estimate.
    pub output_allowance: u64,
    /// The most output tokens that all answers can have, `u64::MAX` if nothing is known to limit them.
    pub output_max: u64,
}

/// An output limit that fits, and what the call can cost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// Output tokens of one answer.
    pub output_limit: u64,
    /// What the call can't cost more than.
    pub bound: NanoUsd,
}

/// The need of a request that any of the choices may serve.
#[must_use]
pub fn need(head: &RequestHead, model: &Model, choices: &[Choice], allowances: &Allowances) -> Need {
    let allowance = output_allowance(head, model, allowances.output_tokens_max).saturating_mul(head.choices);
    let mut estimate = NanoUsd::ZERO;
    let mut input_tokens = 0;
    for choice in choices {
        let candidate = &model.candidates[choice.index];
        let input = candidate.input_estimate.input_tokens(head);
        let likely = choice.price.price.likely(input, &possible(head, candidate));
        estimate = estimate.max(likely.cost(input, allowance, 0));
        input_tokens = input_tokens.max(input);
    }
    let bound = Bound::of(head, model, choices);
    Need {
        estimate,
        bound: bound.as_ref().zip(output_limit(head, model)).map(|(bound, limit)| bound.with(limit)),
        tokens: input_tokens.saturating_add(allowance),
        input_tokens,
        input_bound: input_bound(head, model),
        output_allowance: allowance,
        output_max: output_max(head, model),
    }
}

/// The largest output limit, never above the request's own, with which the call can't cost more than `available`. None if
/// it would be so small that the answer is worthless or refused: below `clamp_output_tokens_min`, the provider's minimum
/// or the thinking that is asked for; or if nothing bounds the rest of the cost.
#[must_use]
pub fn clamp(
    head: &RequestHead,
    model: &Model,
    choices: &[Choice],
    allowances: &Allowances,
    available: NanoUsd,
) -> Option<Clamp> {
    let bound = Bound::of(head, model, choices)?;
    let requested = output_limit(head, model)?;
    let fitting = bound.output_limit_within(available)?;
    // An answer must be longer than its thinking (Anthropic: "max_tokens must be greater than thinking.budget_tokens").
    let after_thinking = head.weight.thinking_budget.saturating_add(1);
    let least = allowances.clamp_output_tokens_min.max(model.output_limit_min).max(after_thinking);
    let output_limit = fitting.min(requested);
    let is_worthwhile = output_limit == requested || output_limit >= least;
    is_worthwhile.then(|| Clamp { output_limit, bound: bound.with(output_limit) })
}

/// What a call can cost as a function of its output limit.
struct Bound<'a> {
    head: &'a RequestHead,
    model: &'a Model,
    choices: &'a [Choice],
    input: u64,
}

impl<'a> Bound<'a> {
    /// None if nothing bounds the input or the tools.
    fn of(head: &'a RequestHead, model: &'a Model, choices: &'a [Choice]) -> Option<Self> {
        Some(Self { head, model, choices, input: input_bound(head, model)? })
    }

    /// The dearest rates of each choice.
    fn dearest(&self) -> impl Iterator<Item = Dearest> {
        self.choices.iter().map(|choice| {
            choice.price.price.dearest(self.input, &possible(self.head, &self.model.candidates[choice.index]))
        })
    }

    fn searches(&self) -> u64 {
        self.head.weight.server_tool_uses
    }

    /// Output tokens that are billed whatever the limit.
    fn unlimited_output(&self) -> u64 {
        self.head.weight.predicted_bytes.saturating_mul(self.head.choices)
    }

    fn with(&self, output_limit: u64) -> NanoUsd {
        let output = output_limit.saturating_mul(self.head.choices).saturating_add(self.unlimited_output());
        let costs = self.dearest().map(|dearest| dearest.cost(self.input, output, self.searches()));
        costs.max().unwrap_or(NanoUsd::ZERO)
    }

    fn output_limit_within(&self, available: NanoUsd) -> Option<u64> {
        let of = |dearest: Dearest| {
            let output = dearest.output_within(available, self.input, self.searches())?;
            Some(output.checked_sub(self.unlimited_output())? / self.head.choices)
        };
        self.dearest().map(of).min().flatten()
    }
}

/// Tokens that a provider may add to a request with tools: instructions in words of its own (Anthropic's tool use system
/// prompt has up to 804 tokens).
const TOKENS_OF_TOOL_INSTRUCTIONS: u64 = 1_024;

/// The most input tokens that can be billed. Text makes at most a token a byte; what is not text is as large as the
/// context can be, anew after each use of a tool that the provider runs.
fn input_bound(head: &RequestHead, model: &Model) -> Option<u64> {
    let weight = &head.weight;
    if weight.has_unlimited_tool {
        return None;
    }
    let instructions = if weight.tools > 0 { TOKENS_OF_TOOL_INSTRUCTIONS } else { 0 };
    let text = weight.input_bound().saturating_add(instructions);
    if !weight.has_foreign_input {
        return Some(text);
    }
    let once = (model.context_tokens > 0).then(|| text.max(model.context_tokens))?;
    Some(once.saturating_mul(weight.server_tool_uses.saturating_add(1)))
}

/// What a candidate may bill a request as.
fn possible(head: &RequestHead, candidate: &Candidate) -> Possible {
    let weight = &head.weight;
    Possible {
        tier: tier(head, candidate),
        cache_write: match candidate.dialect {
            // OpenAI writes what it likes to its cache and bills it where that has a price ("Prompt caching").
            Dialect::OpenaiChat => weight.cache_write.max(CacheWrite::FiveMinutes),
            Dialect::Anthropic => weight.cache_write,
        },
        audio_input: weight.has_audio,
        image_input: weight.has_images,
        audio_output: weight.wants_audio,
        image_output: weight.wants_images,
    }
}

/// The tier that a request is billed in unless the answer says otherwise.
#[must_use]
pub fn tier(head: &RequestHead, candidate: &Candidate) -> Tier {
    match head.tier {
        Tier::Standard => candidate.default_tier,
        asked => asked,
    }
}

/// The most output tokens of one answer, if something is known to limit them.
fn output_limit(head: &RequestHead, model: &Model) -> Option<u64> {
    let of_model = (model.output_tokens_max > 0).then_some(model.output_tokens_max);
    [head.output_limit_bound, of_model].into_iter().flatten().min()
}

/// The most output tokens that all answers to a request can have, `u64::MAX` if nothing is known to limit them.
pub(crate) fn output_max(head: &RequestHead, model: &Model) -> u64 {
    output_limit(head, model).map_or(u64::MAX, |limit| limit.saturating_mul(head.choices))
}

/// Output tokens to set aside for one answer: the limit asked for, but no more than `output_tokens_max` where the stream
/// shows how far it has come or where no limit was named.
fn output_allowance(head: &RequestHead, model: &Model, output_tokens_max: u64) -> u64 {
    let shows_its_output = head.streamed && !model.hidden_output;
    let limit = output_limit(head, model).unwrap_or(output_tokens_max);
    if head.output_limit.is_none() || shows_its_output { limit.min(output_tokens_max) } else { limit }
}
