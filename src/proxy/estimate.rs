//! What a call would have set aside, told without setting it aside: `POST /v1/credits/estimate`.

use super::inspect::dollars;
use super::{Gateway, Runtime, receive};
use filters::denied::Denied;
use filters::estimate::{Asked, Estimate};
use filters::key::Key;
use filters::money::{CreditUnit, NanoUsd};
use filters::time::EpochMs;
use pingora::protocols::http::ServerSession;
use serde::Serialize;
use serde_json::value::RawValue;

/// The answer. A call that nothing bounds has no bound, and no estimate where a strict limit holds.
#[derive(Serialize)]
struct EstimateView<'a> {
    model: &'a str,
    estimate_usd: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_credits: Option<Box<RawValue>>,
    bound_usd: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound_credits: Option<Box<RawValue>>,
    /// Whether a strict limit holds: then the estimate is the bound.
    strict: bool,
    input_tokens: u64,
    output_tokens: u64,
    /// Whether `max_credits` or `max_cost_usd` would let the call through, where one of them is in the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    within_budget: Option<bool>,
}

/// Reads the question and answers it.
pub(super) async fn answer(
    gateway: &Gateway,
    runtime: &Runtime,
    session: &mut ServerSession,
    key: &Key,
    now: EpochMs,
) -> Result<Vec<u8>, Denied> {
    let body = receive::body(session, &runtime.limits, &gateway.activity).await?;
    let asked = Asked { key, catalogue: &runtime.catalogue, allowances: &runtime.allowances, now };
    let mut estimate = asked.estimate(body.bytes())?;
    estimate.head.hold_to_budget(runtime.credit_unit)?;
    serde_json::to_vec(&EstimateView::of(&estimate, runtime.credit_unit)).map_err(|_| Denied::StoreUnavailable)
}

impl<'a> EstimateView<'a> {
    fn of(estimate: &'a Estimate, unit: Option<CreditUnit>) -> Self {
        let in_credits = |amount: Option<NanoUsd>| unit.zip(amount).map(|(unit, amount)| credits(unit, amount));
        let within = |max| estimate.cost.is_some_and(|cost| cost <= max);
        Self {
            model: &estimate.model,
            estimate_usd: estimate.cost.map(dollars),
            estimate_credits: in_credits(estimate.cost),
            bound_usd: estimate.bound.map(dollars),
            bound_credits: in_credits(estimate.bound),
            strict: estimate.is_strict,
            input_tokens: estimate.input_tokens,
            output_tokens: estimate.output_tokens,
            within_budget: estimate.head.cost_max.map(within),
        }
    }
}

fn credits(unit: CreditUnit, amount: NanoUsd) -> Box<RawValue> {
    RawValue::from_string(unit.credits(amount).to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
