//! A running call: how far it has come, what is set aside for it, and when more must be.

use crate::catalogue::Model;
use crate::denied::Denied;
use crate::money::NanoUsd;
use crate::ports::Authority;
use crate::price::Tier;
use crate::quota::Reservation;
use crate::resolve::Choice;
use crate::tally::Tally;
use crate::time::EpochMs;
use crate::usage::Usage;

/// Output tokens after which a running call is written down again, and by which its reservation grows.
pub(crate) const STEP_TOKENS: u64 = 4_096;
/// The step where credit is short.
const SMALL_STEP_TOKENS: u64 = 256;

/// What is set aside for the output of a running call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Output tokens that are set aside.
    allowance: u64,
    /// The most that all answers can have; nothing beyond is set aside.
    output_max: u64,
    /// Output tokens at the last note.
    noted: u64,
    /// Money set aside in the quota that set least aside.
    pub(crate) reserved: NanoUsd,
    /// Progress notes so far.
    pub(crate) notes: u32,
}

impl Growth {
    pub(crate) fn new(allowance: u64, output_max: u64, reserved: NanoUsd) -> Self {
        Self { allowance, output_max, noted: 0, reserved, notes: 0 }
    }

    /// Whether the output has passed what is set aside, or is worth a note.
    pub(crate) fn is_due(&self, tally: &Tally) -> bool {
        let output = tally.output_so_far();
        output >= self.noted + STEP_TOKENS || self.is_outgrown(output)
    }

    fn is_outgrown(&self, output: u64) -> bool {
        output > self.allowance && self.allowance < self.output_max
    }

    /// Sets more aside if the output has passed what is; asks for credit once.
    pub(crate) async fn extend(
        &mut self,
        reservation: &mut Reservation,
        (choice, model): (&Choice, &Model),
        tally: &Tally,
        (authority, now): (&dyn Authority, EpochMs),
    ) -> Result<(), Denied> {
        let output = tally.output_so_far();
        self.noted = output;
        let tier = tally.tier.unwrap_or(model.candidates[choice.index].default_tier);
        while self.is_outgrown(output) {
            let rest = self.output_max - self.allowance;
            let mut refused = None;
            for (step, may_ask) in [(STEP_TOKENS, true), (SMALL_STEP_TOKENS, false)] {
                let tokens = step.min(rest);
                let more = price_of_output(choice, tokens, tier);
                let wants = if may_ask { reservation.short_of(more) } else { Vec::new() };
                if !wants.is_empty() {
                    // Without an answer there may be credit all the same.
                    let _ = authority.lease(wants).await;
                }
                refused = reservation.extend(more, now).err();
                if refused.is_none() {
                    self.allowance += tokens;
                    self.reserved = self.reserved.saturating_add(more);
                    break;
                }
            }
            if let Some(denied) = refused {
                return Err(denied);
            }
        }
        Ok(())
    }
}

fn price_of_output(choice: &Choice, tokens: u64, tier: Tier) -> NanoUsd {
    choice.price.price.cost(&Usage::of(0, tokens), tier)
}
