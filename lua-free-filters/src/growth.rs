//! A running call: how far it has come, what is set aside for it, and when more must be.

use crate::catalogue::Model;
use crate::denied::Denied;
use crate::money::NanoUsd;
use crate::ports::Authority;
use crate::quota::Reservation;
use crate::reserve::Need;
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
    /// Input tokens as estimated: some prices ask more for the output after a long input.
    input_tokens: u64,
    /// Output tokens at the last note.
    noted: u64,
    /// Money set aside in the quota that set least aside.
    pub(crate) reserved: NanoUsd,
    /// Progress notes so far.
    pub(crate) notes: u32,
}

impl Growth {
    pub(crate) fn new(need: &Need, reserved: NanoUsd) -> Self {
        let Need { output_allowance: allowance, output_max, input_tokens, .. } = *need;
        Self { allowance, output_max, input_tokens, noted: 0, reserved, notes: 0 }
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
        let reported = tally.reported.map_or(0, |reported| reported.usage.input_total());
        let input = self.input_tokens.max(reported);
        while self.is_outgrown(output) {
            let rest = self.output_max - self.allowance;
            let mut refused = None;
            for (step, may_ask) in [(STEP_TOKENS, true), (SMALL_STEP_TOKENS, false)] {
                let tokens = step.min(rest);
                let cost = |output| choice.price.price.cost(&Usage::of(input, output), tier).0;
                // The steps add up to the cost of the whole, rounded up once.
                let more = NanoUsd(cost(self.allowance + tokens).saturating_sub(cost(self.allowance)));
                let wants = if may_ask { reservation.short_of(more) } else { Vec::new() };
                if !wants.is_empty() {
                    // Without an answer there may be credit all the same.
                    let _ = authority.lease(wants).await;
                }
                refused = reservation.extend(more, now).err();
                if refused.is_none() {
                    self.allowance += tokens;
                    self.reserved = reservation.least().unwrap_or_else(|| self.reserved.saturating_add(more));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Candidate, InputEstimate, Mode, PriceVersion};
    use crate::denied::{LimitSource, Owner};
    use crate::dialect::Protocol;
    use crate::id::QuotaId;
    use crate::lease::Terms;
    use crate::memory::{SoleNode, ready};
    use crate::price::{LongContext, Price, Tier};
    use crate::quota::{Chain, Spend, Take};
    use crate::usage::Kind;
    use crate::window::Window;
    use proptest::prelude::*;
    use std::sync::Arc;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);
    /// Input beyond this is dear.
    const LONG_TOKENS: u64 = 50;

    /// Output at `rate` nano-USD for a million tokens, thrice that after a long input.
    fn priced(rate: i64) -> (Choice, Model) {
        let mut standard = [0; Kind::ALL.len()];
        standard[Kind::Input as usize] = 1_000_000;
        standard[Kind::Output as usize] = rate;
        let mut rates = standard;
        rates[Kind::Output as usize] = rate * 3;
        let long_context = Some(LongContext { above_tokens: LONG_TOKENS, rates });
        let price = Price { standard, long_context, ..Price::default() };
        let price = Arc::new(PriceVersion::new(price));
        let candidate = Candidate {
            number: 0,
            provider: "p".into(),
            protocol: Protocol::Openai,
            apis: Arc::new([]),
            model: "m-1".into(),
            priority: 0,
            weight: 1,
            input_estimate: InputEstimate::Bound,
            default_tier: Tier::Standard,
            prices: vec![Arc::clone(&price)],
        };
        let model = Model {
            id: "m".into(),
            aliases: Vec::new(),
            context_tokens: 1_000_000,
            output_tokens_max: 1_000_000,
            output_limit_field: "max_tokens".into(),
            output_limit_min: 1,
            mode: Mode::Chat,
            hidden_output: false,
            candidates: vec![candidate],
        };
        (Choice { index: 0, price, own: None }, model)
    }

    /// A chain with room for a call and `credit` more, and what the call takes from it.
    fn reserved(need: &Need, credit: i64, has_strict: bool) -> (SoleNode, Reservation) {
        let node = SoleNode::default();
        node.now.store(NOW.0, std::sync::atomic::Ordering::Relaxed);
        let terms = Terms::elastic(NanoUsd(need.estimate.0 + credit));
        let mut spends = vec![(QuotaId(1), terms)];
        if has_strict {
            spends.push((QuotaId(2), Terms { is_strict: true, ..Terms::elastic(NanoUsd(i64::MAX / 4)) }));
        }
        let mut books = node.authority.lock().expect("not poisoned");
        books.nodes = 1;
        let chain: Vec<Arc<Spend>> = spends
            .into_iter()
            .map(|(id, terms)| {
                books.set(id, Window::Total, terms);
                let source = LimitSource::Spend(Owner::Key);
                Arc::new(Spend::new(id, source, Window::Total, terms, (NanoUsd::ZERO, NOW)))
            })
            .collect();
        drop(books);
        let chain = Arc::new(Chain { spend: chain, ..Chain::default() });
        let want = |spend: &Arc<Spend>| crate::ports::Want { spend: Arc::clone(spend), amount: NanoUsd(1), at: None };
        ready(node.lease(chain.spend.iter().map(want).collect())).expect("it is in memory");
        let take = Take { model: "m", estimate: need.estimate, bound: need.bound, tokens: 0 };
        let reservation = chain.reserve(&take, NOW).expect("there is room for it");
        (node, reservation)
    }

    proptest! {
        #[test]
        fn what_is_charged_passes_what_is_set_aside_by_one_look_at_most(
            (allowance, more_max, input) in (0u64..5_000, 0u64..20_000, 0u64..100),
            (rate, credit, has_strict) in (0i64..5_000_000, 0i64..60_000, any::<bool>()),
            looks in prop::collection::vec(1u64..900, 1..60),
        ) {
            let (choice, model) = priced(rate);
            let cost = |output| choice.price.price.cost(&Usage::of(input, output), Tier::Standard);
            let output_max = allowance + more_max;
            let need = Need {
                estimate: cost(allowance),
                bound: Some(cost(output_max)),
                tokens: 0,
                input_tokens: input,
                input_bound: Some(input),
                output_allowance: allowance,
                output_max,
            };
            let (node, mut reservation) = reserved(&need, credit, has_strict);
            let mut growth = Growth::new(&need, reservation.least().expect("two quotas"));
            let mut tally = Tally::default();
            for look in looks {
                let look = look.min(output_max - tally.output_so_far());
                tally.relay_text(4 * look);
                let extended = if growth.is_due(&tally) {
                    ready(growth.extend(&mut reservation, (&choice, &model), &tally, (&node, NOW)))
                } else {
                    Ok(())
                };
                let charge = cost(tally.output_so_far());
                let set_aside = reservation.least().expect("two quotas");
                prop_assert_eq!(growth.reserved, set_aside);
                let unseen = if extended.is_ok() { 0 } else { cost(look).0 - cost(0).0 + 1 };
                prop_assert!(charge.0 <= set_aside.0 + unseen, "{charge} of {set_aside}, {look} tokens unseen");
                if extended.is_err() {
                    prop_assert!(charge.0 + cost(SMALL_STEP_TOKENS).0 - cost(0).0 + 2 + unseen > need.estimate.0 + credit);
                    break;
                }
            }
        }
    }
}
