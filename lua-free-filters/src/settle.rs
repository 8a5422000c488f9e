//! What a call is charged, on every way out.

use crate::catalogue::Model;
use crate::denied::Code;
use crate::growth::Growth;
use crate::money::NanoUsd;
use crate::ports::{Intent, Outcome, Progress, Terminal};
use crate::request_head::RequestHead;
use crate::reserve;
use crate::resolve::Choice;
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::usage::Usage;
use std::sync::Arc;

/// How a call ended, as the relay saw it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// The status that the client got, 0 if none.
    pub status: u16,
    /// Why it failed.
    pub error: Option<Code>,
    /// Providers tried.
    pub attempts: u8,
    /// When.
    pub ended: EpochMs,
    /// Milliseconds from admission to the first byte for the client.
    pub first_byte_ms: u32,
}

/// A call, as far as its charge depends on it.
pub(crate) struct Charged<'a> {
    pub(crate) intent: &'a Intent,
    pub(crate) model: &'a Model,
    pub(crate) head: &'a RequestHead,
    pub(crate) choice: &'a Choice,
    pub(crate) tally: &'a Tally,
    /// The most output tokens that all answers can have: estimates stay within it.
    pub(crate) output_max: u64,
}

/// The books' line for a call. Whoever refused or was never reached is paid nothing.
pub(crate) fn terminal(call: &Charged<'_>, end: End, reserved: NanoUsd) -> Terminal {
    let Charged { intent, model, head, choice, tally, output_max } = call;
    let candidate = &model.candidates[choice.index];
    let tier = tally.tier.unwrap_or_else(|| reserve::tier(head, candidate));
    let (usage, estimated) = match end.outcome {
        Outcome::Refused | Outcome::Unreached => (Usage::default(), false),
        Outcome::Complete
        | Outcome::ClientGone
        | Outcome::UpstreamFailed
        | Outcome::Recovered
        | Outcome::Abandoned
        | Outcome::Cut => tally.usage(intent.input_estimate, *output_max),
    };
    Terminal {
        call: intent.call,
        outcome: end.outcome,
        estimated,
        status: end.status,
        error: end.error,
        provider: Arc::clone(&candidate.provider),
        price: choice.price.id,
        tier,
        usage,
        charge: choice.price.price.cost(&usage, tier),
        reserved,
        attempts: end.attempts,
        ended: end.ended,
        first_byte_ms: end.first_byte_ms,
    }
}

/// How far a running call has come: what it is charged if its process dies now.
pub(crate) fn progress(call: &Charged<'_>, growth: &Growth) -> Progress {
    let Charged { intent, model, head, choice, tally, output_max } = call;
    let tier = tally.tier.unwrap_or_else(|| reserve::tier(head, &model.candidates[choice.index]));
    let (usage, _) = tally.usage(intent.input_estimate, *output_max);
    let charge = choice.price.price.cost(&usage, tier).min(growth.reserved);
    Progress { call: intent.call, sequence: growth.notes, reserved: growth.reserved, usage, charge }
}

/// What a call that died with its process is charged: the input as estimated, never above what was set aside.
pub(crate) fn recovery_charge(choice: &Choice, input_tokens: u64, reserved: NanoUsd) -> NanoUsd {
    let input = Usage::of(input_tokens, 0);
    choice.price.price.cost(&input, crate::price::Tier::Standard).min(reserved)
}
