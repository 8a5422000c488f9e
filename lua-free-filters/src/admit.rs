//! Takes what a call may need from every quota. Credit that is not here is asked for, once; and where a strict limit can't pay
//! for all the output that was asked for, the call may have what it can pay for.

use crate::catalogue::Model;
use crate::denied::Denied;
use crate::key::Key;
use crate::money::NanoUsd;
use crate::ports::{Authority, Journal};
use crate::quota::{Reservation, Take};
use crate::request_head::RequestHead;
use crate::reserve::{self, Allowances, Need};
use crate::resolve::Choice;
use crate::time::EpochMs;
use std::sync::Arc;

/// What admitting a call asks of the gateway.
#[derive(Clone, Copy)]
pub struct Admission<'a> {
    /// The operator's word on output limits.
    pub allowances: Allowances,
    /// Where the call is written down.
    pub journal: &'a dyn Journal,
    /// Where credit comes from.
    pub authority: &'a dyn Authority,
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
    let mut take = Take { model: &model.id, estimate: need.estimate, bound: need.bound, tokens: need.tokens };
    let (mut has_asked, mut output_limit) = (false, None);
    // What costs nothing is free even to those who have spent all they had.
    let chain = if head.dialect.is_free() { Arc::new(key.chain.without_money()) } else { Arc::clone(&key.chain) };
    let reservation = loop {
        let refused = match chain.reserve(&take, admission.now) {
            Ok(reservation) => break reservation,
            Err(refused) => refused,
        };
        if !has_asked && let Some(wants) = chain.short_of(&take, &refused, admission.now) {
            // Where nothing is to be asked for, others may have asked since: then there is credit now.
            if !wants.is_empty() {
                admission.authority.lease(wants).await.map_err(|_| Denied::LimitsUnavailable)?;
            }
            has_asked = true;
            continue;
        }
        let clamped = if output_limit.is_none() { clamp(call, admission, &take) } else { None };
        let Some(clamp) = clamped else { return Err(refused) };
        output_limit = Some(clamp.output_limit);
        take.bound = Some(clamp.bound);
        take.estimate = take.estimate.min(clamp.bound);
        has_asked = false;
    };
    let reserved = reservation.least().unwrap_or(take.estimate);
    Ok(Taken { reservation, need, reserved, output_limit })
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
