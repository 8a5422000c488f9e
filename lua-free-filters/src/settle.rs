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
use crate::units;
use crate::usage::{Kind, Usage};
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
    let Charged { intent, model, head, choice, tally, .. } = call;
    let candidate = &model.candidates[choice.index];
    let tier = tally.tier.unwrap_or_else(|| reserve::tier(head, candidate));
    let (usage, estimated) = match end.outcome {
        Outcome::Refused | Outcome::Unreached => (Usage::default(), false),
        Outcome::Complete
        | Outcome::ClientGone
        | Outcome::UpstreamFailed
        | Outcome::Recovered
        | Outcome::Abandoned
        | Outcome::Cut => used(call),
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

/// What a call used, and whether that is an estimate. Providers bill a thing by the token or by the piece, never both: figures
/// in tokens stand for all of it, where tokens have a price; without figures, what the request shows by the piece does.
fn used(call: &Charged<'_>) -> (Usage, bool) {
    let Charged { intent, model, head, choice, tally, output_max } = call;
    if head.dialect.is_free() {
        return (Usage::default(), false);
    }
    let price = &choice.price.price;
    let asked = units::likely(head, model);
    // The pictures that an answer holds were made; of others it is only known that they were asked for.
    let shown = if tally.pictures > 0 { asked.with(Kind::Images, tally.pictures) } else { asked };
    let shown_alone = units::completed(Usage::default(), &shown, price);
    match (tally.reported, units::unwritten_output(head)) {
        (Some(reported), _) => {
            let (usage, is_estimate) = tally.usage(intent.input_estimate, *output_max);
            let is_by_the_token = reported.usage.tokens_total() > 0 && price.bills_tokens();
            (if is_by_the_token { usage } else { units::completed(usage, &shown, price) }, is_estimate)
        }
        (None, _) if shown_alone != Usage::default() => (shown_alone, units::is_guess(head)),
        // What has passed is no text, and its bytes say nothing about its tokens.
        (None, Some((kind, tokens))) => {
            let answers = if tally.pictures > 0 { tally.pictures } else { head.choices };
            let tokens = tokens.saturating_mul(answers).min(*output_max);
            (Usage::default().with(Kind::Input, intent.input_estimate).with(kind, tokens), true)
        }
        (None, None) => {
            let (usage, is_estimate) = tally.usage(intent.input_estimate, *output_max);
            let heard = head.weight.sound_tokens().min(usage.get(Kind::Input));
            (usage.with(Kind::Input, usage.get(Kind::Input) - heard).with(Kind::AudioInput, heard), is_estimate)
        }
    }
}

/// What a call costs by the piece from the moment when it is sent, if anything: the first note of it.
pub(crate) fn beforehand(call: &Charged<'_>, reserved: NanoUsd) -> Option<Progress> {
    let Charged { intent, model, head, choice, .. } = call;
    let usage = units::completed(Usage::default(), &units::likely(head, model), &choice.price.price);
    let charge = choice.price.price.cost(&usage, reserve::tier(head, &model.candidates[choice.index])).min(reserved);
    (usage != Usage::default()).then_some(Progress { call: intent.call, sequence: 1, reserved, usage, charge })
}

/// How far a running call has come: what it is charged if its process dies now.
pub(crate) fn progress(call: &Charged<'_>, growth: &Growth) -> Progress {
    let Charged { intent, model, head, choice, tally, .. } = call;
    let tier = tally.tier.unwrap_or_else(|| reserve::tier(head, &model.candidates[choice.index]));
    let (usage, _) = used(call);
    let charge = choice.price.price.cost(&usage, tier).min(growth.reserved);
    Progress { call: intent.call, sequence: growth.notes, reserved: growth.reserved, usage, charge }
}

/// What a call that died with its process is charged: the input as estimated, never above what was set aside.
pub(crate) fn recovery_charge(choice: &Choice, input_tokens: u64, reserved: NanoUsd) -> NanoUsd {
    let input = Usage::of(input_tokens, 0);
    choice.price.price.cost(&input, crate::price::Tier::Standard).min(reserved)
}
