//! Takes what a call may need from every quota. Credit that is not here is asked for, once; and where a strict limit can't pay
//! for all the output that was asked for, the call may have what it can pay for.

use crate::catalogue::Model;
use crate::denied::Denied;
use crate::key::Key;
use crate::money::NanoUsd;
use crate::ports::{Authority, Journal, Rates, Shortage};
use crate::quota::{Chain, Reservation, Take};
use crate::request_head::RequestHead;
use crate::reserve::{self, Allowances, Need};
use crate::resolve::Choice;
use crate::time::EpochMs;
use std::sync::Arc;

/// How often a call asks for a slice that others may snatch away before it has taken from it.
const ASKS_MAX: u32 = 16;

/// What admitting a call asks of the gateway.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// The operator's word on output limits.
    pub allowances: Allowances,
    /// Where the call is written down.
    pub journal: &'a dyn Journal,
    /// Where credit comes from.
    pub authority: &'a dyn Authority,
    /// Where rates are shared, if there are other nodes.
    pub rates: Option<&'a dyn Rates>,
    /// The present: credit is taken from the period that holds it.
    pub now: EpochMs,
}

/// A call as it is to be admitted.
#[derive(Clone, Copy)]
pub(crate) struct Candidature<'a> {
    pub(crate) key: &'a Key,
    pub(crate) head: &'a RequestHead,
    pub(crate) model: &'a Model,
    pub(crate) choices: &'a [Choice],
}

/// What was taken for it.
pub(crate) struct Taken {
    pub(crate) reservation: Reservation,
    pub(crate) need: Need,
    /// The least that was set aside in any quota of money: what a recovered call is never charged more than.
    pub(crate) reserved: NanoUsd,
    /// The output limit that the provider is to be told instead of the client's.
    pub(crate) output_limit: Option<u64>,
}

/// Takes from every quota of the key that counts this model, or from none.
pub(crate) async fn take(call: Candidature<'_>, admission: &Admission<'_>) -> Result<Taken, Denied> {
    let Candidature { key, head, model, choices } = call;
    let need = reserve::need(head, model, choices, &admission.allowances);
    hold_to_budget(&call, &need, admission.now)?;
    let mut take = Take { model: &model.id, estimate: need.estimate, bound: need.bound, tokens: need.tokens };
    let (mut asks_left, mut output_limit) = (ASKS_MAX, None);
    let mut sharing = Sharing { rates: admission.rates, asks_left: ASKS_MAX };
    // What costs nothing is free even to those who have spent all they had.
    let chain = if head.dialect.is_free() { Arc::new(key.chain.without_money()) } else { Arc::clone(&key.chain) };
    let reservation = loop {
        let refused = match chain.reserve(&take, admission.now) {
            Ok(reservation) => break reservation,
            Err(refused) => refused,
        };
        if sharing.has_brought_more(|| chain.short_of_rates(&take, &refused, admission.now)).await {
            continue;
        }
        if asks_left > 0
            && let Some(wants) = chain.short_of(&take, &refused, admission.now)
        {
            if wants.is_empty() {
                // Others may have asked since: then there is credit now.
                asks_left = 0;
            } else {
                // Of a slice that several nodes share out, other calls may have been quicker; so this is not the last time.
                admission.authority.lease(wants).await.map_err(|_| Denied::LimitsUnavailable)?;
                asks_left -= 1;
            }
            continue;
        }
        let clamped = if output_limit.is_none() { clamp(call, admission, &take) } else { None };
        let Some(clamp) = clamped else { return Err(refused) };
        output_limit = Some(clamp.output_limit);
        take.bound = Some(clamp.bound);
        take.estimate = take.estimate.min(clamp.bound);
        asks_left = ASKS_MAX;
    };
    let reserved = reservation.least().unwrap_or(take.estimate);
    Ok(Taken { reservation, need, reserved, output_limit })
}

/// Whether a strict limit of money counts a model's calls.
pub(crate) fn is_strict(key: &Key, model: &Model, now: EpochMs) -> bool {
    key.chain.strict_remaining(&model.id, now).is_some()
}

/// Refuses a call for which more would be set aside than the client lets it cost.
fn hold_to_budget(call: &Candidature<'_>, need: &Need, now: EpochMs) -> Result<(), Denied> {
    let Some(max) = call.head.cost_max else { return Ok(()) };
    let cost = if is_strict(call.key, call.model, now) { need.bound } else { Some(need.estimate) };
    match cost {
        Some(estimate) if estimate > max => Err(Denied::MaxCreditsExceeded { estimate, max }),
        Some(_) => Ok(()),
        None => Err(Denied::CostUnbounded),
    }
}

/// Counts a request that calls no model and costs nothing against the rates of requests.
pub async fn count_request(chain: &Chain, rates: Option<&dyn Rates>, now: EpochMs) -> Result<(), Denied> {
    let take = Take { model: "", estimate: NanoUsd::ZERO, bound: None, tokens: 0 };
    let mut sharing = Sharing { rates, asks_left: ASKS_MAX };
    loop {
        let Err(refused) = chain.count_request(now) else { return Ok(()) };
        if !sharing.has_brought_more(|| chain.short_of_rates(&take, &refused, now)).await {
            return Err(refused);
        }
    }
}

/// A call's way to what other nodes leave of rates.
struct Sharing<'a> {
    rates: Option<&'a dyn Rates>,
    asks_left: u32,
}

impl Sharing<'_> {
    /// Asks for what a refused call is short of, if that may help. Says whether the call is to try again.
    async fn has_brought_more(&mut self, short: impl FnOnce() -> Option<Vec<Shortage>>) -> bool {
        let Some(rates) = self.rates.filter(|_| self.asks_left > 0) else { return false };
        let Some(short) = short() else { return false };
        self.asks_left -= 1;
        // Where nothing is to be asked for, other calls have asked since.
        if !short.is_empty() {
            rates.share(short).await;
        }
        true
    }
}

/// The output that strict quotas can pay for, where what has been charged leaves less than the bound. What others have only
/// set aside may come back, so it clamps nobody.
fn clamp(call: Candidature<'_>, admission: &Admission<'_>, take: &Take<'_>) -> Option<reserve::Clamp> {
    let remaining = call.key.chain.strict_remaining(take.model, admission.now)?;
    if take.bound? <= remaining {
        return None;
    }
    reserve::clamp(call.head, call.model, call.choices, &admission.allowances, remaining)
}
