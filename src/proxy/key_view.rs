//! What a key may know of itself. The figures are the quotas' own, so they are current at once and exact to the nano.

use super::Gateway;
use super::answer_head::utc;
use super::inspect::dollars;
use filters::denied::{LimitSource, Owner};
use filters::key::Key;
use filters::money::NanoUsd;
use filters::ports::{Shortage, Want};
use filters::quota::{Chain, Concurrency, Counted, Rate, RateReading, Spend};
use filters::time::EpochMs;
use filters::window::{Unit, Window};
use serde::Serialize;
use serde_json::value::RawValue;
use std::sync::Arc;

#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    id: String,
    label: &'a str,
    org: String,
    project: Option<String>,
    /// Charged in all.
    usage: Box<RawValue>,
    /// The key's limit in all, and what is left of it.
    limit: Option<Box<RawValue>>,
    limit_remaining: Option<Box<RawValue>>,
    reserved: Box<RawValue>,
    organisation_credits_remaining: Option<Box<RawValue>>,
    requests_per_minute: Option<i64>,
    requests_remaining: Option<i64>,
    tokens_per_minute: Option<i64>,
    tokens_remaining: Option<i64>,
    concurrency: Option<i64>,
    /// Every limit of the key, its project and its organisation.
    limits: Vec<LimitView<'a>>,
    scopes: Vec<&'static str>,
    models: Vec<&'a str>,
    providers: Vec<&'a str>,
    expires_at_ms: Option<i64>,
}

/// A limit: of money in dollars, of other things in their number.
#[derive(Serialize)]
struct LimitView<'a> {
    source: &'static str,
    /// Calls at once have none.
    window: Option<String>,
    model: Option<&'a str>,
    strict: bool,
    limit: Box<RawValue>,
    usage: Box<RawValue>,
    remaining: Box<RawValue>,
    /// When the window starts anew, or, of a rolling one, when its next part is forgotten.
    resets_at: Option<String>,
}

/// Has every quota know where it stands now, so that a window that nobody has called in yet is told too. Where the books can't be
/// asked, the last figures stand.
pub(super) async fn refresh(key: &Key, gateway: &Gateway, now: EpochMs) {
    let is_shared = gateway.authority.is_shared();
    let is_stale = |spend: &&Arc<Spend>| {
        if spend.terms().is_boundless() { !spend.is_told() } else { is_shared || !spend.is_current(now) }
    };
    let want = |spend: &Arc<Spend>| Want { spend: Arc::clone(spend), amount: NanoUsd::ZERO, at: None };
    let wants: Vec<Want> = key.chain.spend.iter().filter(is_stale).map(want).collect();
    if !wants.is_empty() {
        let _ = gateway.authority.lease(wants).await;
    }
    if let Some(rates) = &gateway.rates {
        let all = key.chain.rates.iter().map(|rate| Shortage { rate: Arc::clone(rate), amount: 0 });
        rates.share(all.collect()).await;
    }
}

fn number(number: i64) -> Box<RawValue> {
    RawValue::from_string(number.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl<'a> KeyView<'a> {
    pub(super) fn of(key: &'a Key, now: EpochMs) -> Self {
        let chain = &key.chain;
        let is_total = |spend: &&Arc<Spend>| spend.window == Window::Total && spend.model.is_none();
        let total = |source| chain.spend.iter().filter(is_total).find(|spend| spend.source == source);
        let own = total(LimitSource::Spend(Owner::Key));
        let limit = own.map(|spend| spend.limit(now)).filter(|limit| *limit != NanoUsd::MAX);
        let balance = total(LimitSource::OrganisationBalance);
        let usage = own.map(|spend| spend.spent(now)).unwrap_or_default();
        let per_minute = |counted| {
            let is_meant =
                |rate: &&Arc<Rate>| rate.counted == counted && rate.per == Unit::Minute && rate.model.is_none();
            let readings = chain.rates.iter().filter(is_meant).map(|rate| rate.read(now));
            readings.min_by_key(|reading| reading.remaining)
        };
        let (requests, tokens) = (per_minute(Counted::Requests), per_minute(Counted::Tokens));
        Self {
            id: key.id.to_string(),
            label: &key.name,
            org: key.org.to_string(),
            project: key.project.map(|project| project.to_string()),
            usage: dollars(usage),
            limit: limit.map(dollars),
            limit_remaining: limit.map(|limit| dollars((limit - usage).at_least_zero())),
            reserved: dollars(own.map(|spend| spend.reserved()).unwrap_or_default()),
            organisation_credits_remaining: balance.map(|spend| dollars(spend.limit(now) - spend.spent(now))),
            requests_per_minute: requests.map(|reading| reading.limit),
            requests_remaining: requests.map(|reading| reading.remaining),
            tokens_per_minute: tokens.map(|reading| reading.limit),
            tokens_remaining: tokens.map(|reading| reading.remaining),
            concurrency: chain.concurrency.iter().map(|concurrency| concurrency.limit(now)).min(),
            limits: LimitView::all(chain, now),
            scopes: key.scopes.names().collect(),
            models: key.models.iter().map(|glob| &*glob.0).collect(),
            providers: key.providers.iter().map(|glob| &*glob.0).collect(),
            expires_at_ms: key.expires.map(|expires| expires.0),
        }
    }
}

impl<'a> LimitView<'a> {
    fn all(chain: &'a Chain, now: EpochMs) -> Vec<Self> {
        let money = chain.spend.iter().filter_map(|spend| Self::of_money(spend, now));
        let rates = chain.rates.iter().map(|rate| Self::of_rate(rate, now));
        money.chain(rates).chain(chain.concurrency.iter().map(|calls| Self::of_concurrency(calls, now))).collect()
    }

    fn of_rate(rate: &'a Rate, now: EpochMs) -> Self {
        let RateReading { limit, remaining, reset_ms, .. } = rate.read(now);
        Self {
            source: rate.source.name(),
            window: Some(rate.window().name()),
            model: rate.model.as_ref().map(|glob| &*glob.0),
            strict: false,
            limit: number(limit),
            usage: number(limit - remaining),
            remaining: number(remaining),
            resets_at: Some(utc(now.plus(reset_ms as i64))),
        }
    }

    fn of_concurrency(calls: &'a Concurrency, now: EpochMs) -> Self {
        let (limit, running) = (calls.limit(now), calls.running());
        Self {
            source: calls.source.name(),
            window: None,
            model: calls.model.as_ref().map(|glob| &*glob.0),
            strict: true,
            limit: number(limit),
            usage: number(running),
            remaining: number((limit - running).max(0)),
            resets_at: None,
        }
    }

    fn of_money(spend: &'a Spend, now: EpochMs) -> Option<Self> {
        let limit = Some(spend.limit(now)).filter(|_| !spend.terms().is_boundless())?;
        Some(Self {
            source: spend.source.name(),
            window: Some(spend.window.name()),
            model: spend.model.as_ref().map(|glob| &*glob.0),
            strict: spend.is_strict(),
            limit: dollars(limit),
            usage: dollars(spend.spent(now)),
            remaining: dollars(spend.remaining(now)),
            resets_at: spend.window.heals_at(now).map(utc),
        })
    }
}
