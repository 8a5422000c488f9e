//! Limits as they come in and go out: of projects and organisations, in the words of the command line.

use super::money::Decimal;
use super::{input, stamp};
use crate::error::Refusal;
use crate::store::limits::{Amount, Limit, LimitChange};
use crate::store::quotas::{QuotaKind, QuotaRow, Thresholds, plain_window};
use filters::key::Glob;
use filters::lease::Increase;
use filters::money::NanoUsd;
use filters::quota::RATE_MAX;
use filters::time::EpochMs;
use filters::window::{Unit, Window, Zone};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most limits of one request.
const LIMITS_MAX: usize = 64;

/// What to do with one limit. There is one of each kind, period and pattern of models.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitBody {
    /// spend, requests, tokens or concurrency.
    kind: LimitKind,
    /// Of spend: how many dollars.
    amount_usd: Option<Decimal>,
    /// Of all others: how many.
    #[schema(minimum = 1)]
    amount: Option<i64>,
    /// total, minute, hour, day, week or month. Without it a spend is in all, and a rate is of a minute.
    #[schema(max_length = 16, example = "month")]
    period: Option<String>,
    /// calendar, as it is without this, or rolling: the last hour, or the last 30 days. Rolling is for spend.
    align: Option<Align>,
    /// The time zone of the calendar. Without it: UTC.
    #[schema(max_length = 64, example = "Europe/Berlin")]
    zone: Option<String>,
    /// Models that it counts, `*` for any characters. Without it: all.
    #[schema(max_length = 128, example = "gpt-*")]
    model: Option<String>,
    /// Never passed: calls are held to the most that they can cost. For spend and concurrency.
    strict: Option<bool>,
    /// Dollars that are added until a date; 0 ends an increase.
    increase_usd: Option<Decimal>,
    /// When the increase ends.
    #[schema(max_length = 64, example = "2030-12-31T00:00:00Z")]
    increase_until: Option<String>,
    /// Percentages that raise an event.
    #[schema(max_items = 8, example = json!([50, 80, 100]))]
    thresholds: Option<Vec<u8>>,
    /// Removes the limit.
    #[serde(default)]
    remove: bool,
}

/// What a limit counts.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitKind {
    /// Dollars.
    Spend,
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
    /// Calls at once.
    Concurrency,
}

/// Where a period begins.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Align {
    /// By the calendar.
    Calendar,
    /// Now, so long ago.
    Rolling,
}

/// A limit that there is.
#[derive(Serialize, ToSchema)]
pub struct LimitView {
    kind: &'static str,
    /// Of spend: dollars.
    amount_usd: Option<String>,
    /// Of all others.
    amount: Option<i64>,
    period: &'static str,
    align: Option<&'static str>,
    zone: Option<String>,
    model: Option<String>,
    strict: bool,
    increase_usd: Option<String>,
    increase_until: Option<String>,
    thresholds: Vec<u8>,
    /// Of spend: what was charged in the period.
    spent_usd: Option<String>,
}

impl LimitView {
    fn of(row: &QuotaRow) -> Self {
        let (period, align, zone) = match &row.window {
            Window::Total => ("total", None, None),
            Window::Rolling(unit) => (unit.name(), Some("rolling"), None),
            Window::Calendar { unit, zone } => (unit.name(), Some("calendar"), Some(zone.to_string())),
        };
        let is_money = row.kind.is_money();
        Self {
            kind: row.kind.name(),
            amount_usd: is_money.then(|| NanoUsd(row.limit).to_string()),
            amount: (!is_money).then_some(row.limit),
            period,
            align,
            zone,
            model: row.model.as_ref().map(|glob| glob.0.to_string()),
            strict: row.is_strict,
            increase_usd: row.increase.map(|increase| increase.amount.to_string()),
            increase_until: row.increase.map(|increase| stamp(increase.until)),
            thresholds: row.thresholds.0.clone(),
            spent_usd: is_money.then(|| NanoUsd(row.spent).to_string()),
        }
    }
}

/// The limits of an owner. A balance is none, and what limits nothing is not shown.
#[must_use]
pub fn views(rows: &[QuotaRow]) -> Vec<LimitView> {
    let limiting = rows.iter().filter(|row| row.kind != QuotaKind::Balance && row.limit != i64::MAX);
    limiting.map(LimitView::of).collect()
}

/// The limits of something new.
pub fn of_new(bodies: &[LimitBody], now: EpochMs) -> Result<Vec<Limit>, Refusal> {
    let mut limits = Vec::new();
    for change in changes(bodies, now)? {
        limits.extend(change.of_new()?);
    }
    Ok(limits)
}

/// What is to be changed.
pub fn changes(bodies: &[LimitBody], now: EpochMs) -> Result<Vec<LimitChange>, Refusal> {
    if bodies.len() > LIMITS_MAX {
        return Err(invalid("A request has at most 64 limits."));
    }
    let changes: Vec<LimitChange> = bodies.iter().map(|body| body.read(now)).collect::<Result<_, _>>()?;
    let is_same = |one: &LimitChange, other: &LimitChange| {
        (one.kind, &one.window, &one.model) == (other.kind, &other.window, &other.model)
    };
    if changes.iter().enumerate().any(|(at, one)| changes[..at].iter().any(|other| is_same(one, other))) {
        return Err(invalid("One limit is said twice: there is one of each kind, period and pattern of models."));
    }
    Ok(changes)
}

fn invalid(message: &str) -> Refusal {
    Refusal::validation("limits", message)
}

impl LimitBody {
    fn read(&self, now: EpochMs) -> Result<LimitChange, Refusal> {
        let kind = match self.kind {
            LimitKind::Spend => QuotaKind::Spend,
            LimitKind::Requests => QuotaKind::Requests,
            LimitKind::Tokens => QuotaKind::Tokens,
            LimitKind::Concurrency => QuotaKind::Concurrency,
        };
        if self.strict == Some(true) && matches!(self.kind, LimitKind::Requests | LimitKind::Tokens) {
            return Err(invalid(
                "`strict` is for spend and concurrency: requests and tokens can't be held to a bound.",
            ));
        }
        Ok(LimitChange {
            kind,
            window: self.window(kind)?,
            model: self.model.as_deref().map(read_pattern).transpose()?,
            amount: self.amount()?,
            is_strict: self.strict,
            increase: self.increase(now)?,
            thresholds: self.thresholds()?,
        })
    }

    fn amount(&self) -> Result<Option<Amount>, Refusal> {
        let is_spend = matches!(self.kind, LimitKind::Spend);
        match (&self.amount_usd, self.amount, self.remove) {
            (None, None, true) => Ok(Some(Amount::None)),
            (_, _, true) => Err(invalid("`remove` goes with no amount.")),
            (Some(_), _, false) if !is_spend => Err(invalid("`amount_usd` is for spend: say `amount`.")),
            (_, Some(_), false) if is_spend => Err(invalid("`amount` is not for spend: say `amount_usd`.")),
            (Some(dollars), _, false) => match dollars.dollars("limits")? {
                // The largest amount stands for no limit.
                amount if amount < NanoUsd::ZERO || amount == NanoUsd::MAX => {
                    Err(invalid("A spend is 0 or more dollars."))
                }
                amount => Ok(Some(Amount::Of(amount.0))),
            },
            (None, Some(count), false) if (1..=RATE_MAX).contains(&count) => Ok(Some(Amount::Of(count))),
            (None, Some(_), false) => Err(invalid(&format!("An amount is a whole number from 1 to {RATE_MAX}."))),
            (None, None, false) => Ok(None),
        }
    }

    fn window(&self, kind: QuotaKind) -> Result<Window, Refusal> {
        let window = match self.period.as_deref() {
            None if self.align.is_none() && self.zone.is_none() => plain_window(kind),
            None => return Err(invalid("`align` and `zone` need a `period`.")),
            Some("total") if self.align.is_none() && self.zone.is_none() => Window::Total,
            Some("total") => return Err(invalid("A total has no beginning: leave `align` and `zone` out.")),
            Some(period) => self.window_of(period)?,
        };
        let is_possible = match (kind, &window) {
            (QuotaKind::Balance | QuotaKind::Spend, _) => true,
            (QuotaKind::Concurrency, window) => *window == Window::Total,
            (QuotaKind::Requests | QuotaKind::Tokens, Window::Calendar { unit, .. }) => {
                matches!(unit, Unit::Minute | Unit::Hour | Unit::Day)
            }
            (QuotaKind::Requests | QuotaKind::Tokens, Window::Total | Window::Rolling(_)) => false,
        };
        if is_possible {
            return Ok(window);
        }
        Err(invalid(
            "Requests and tokens count in the minute, hour or day of the calendar, and concurrency has no period.",
        ))
    }

    fn window_of(&self, period: &str) -> Result<Window, Refusal> {
        let unit: Unit = period.parse().map_err(|_| invalid("A period is total, minute, hour, day, week or month."))?;
        match (self.align.unwrap_or(Align::Calendar), &self.zone) {
            (Align::Rolling, None) => Ok(Window::Rolling(unit)),
            (Align::Rolling, Some(_)) => Err(invalid("A rolling period is the same in every time zone.")),
            (Align::Calendar, None) => Ok(Window::Calendar { unit, zone: Zone::utc() }),
            (Align::Calendar, Some(zone)) => {
                let zone = zone.parse().map_err(|_| invalid("A time zone is one of IANA's, such as Europe/Berlin."))?;
                Ok(Window::Calendar { unit, zone })
            }
        }
    }

    fn increase(&self, now: EpochMs) -> Result<Option<Increase>, Refusal> {
        let until = self.increase_until.as_deref().map(|text| input::moment("limits", text)).transpose()?;
        let amount = self.increase_usd.as_ref().map(|dollars| dollars.dollars("limits")).transpose()?;
        match (amount, until) {
            (None, None) => Ok(None),
            (Some(_), _) if !matches!(self.kind, LimitKind::Spend) => Err(invalid("An increase is of spend.")),
            (Some(NanoUsd::ZERO), None) => Ok(Some(Increase { amount: NanoUsd::ZERO, until: now })),
            (Some(amount), Some(until)) if amount > NanoUsd::ZERO && until > now => {
                Ok(Some(Increase { amount, until }))
            }
            _ => Err(invalid("An increase is more than 0 dollars, and has an end that is to come.")),
        }
    }

    fn thresholds(&self) -> Result<Option<Thresholds>, Refusal> {
        let Some(percents) = &self.thresholds else { return Ok(None) };
        let text = Thresholds(percents.clone()).to_string();
        text.parse().map(Some).map_err(|_| invalid("Thresholds are up to 8 percentages from 1 to 100 in rising order."))
    }
}

fn read_pattern(text: &str) -> Result<Glob, Refusal> {
    let is_plain =
        (1..=input::TEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain {
        return Ok(Glob(text.into()));
    }
    Err(invalid("A pattern of models has 1 to 128 printable ASCII characters and no spaces."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    fn read(limits: Value) -> Result<Vec<LimitChange>, Refusal> {
        let bodies: Vec<LimitBody> = input::read_json(limits.to_string().as_bytes())?;
        changes(&bodies, NOW)
    }

    #[test]
    fn dollars_are_read_digit_by_digit() {
        for (written, nanos) in [(json!("0.1"), 100_000_000), (json!(12.5), 12_500_000_000), (json!(7), 7_000_000_000)]
        {
            let read = read(json!([{"kind": "spend", "amount_usd": written}])).expect("a limit");
            assert_eq!(read[0].amount, Some(Amount::Of(nanos)));
        }
    }

    #[test]
    fn periods_are_the_kinds_own_unless_they_are_named() {
        let rate = read(json!([{"kind": "requests", "amount": 60}])).expect("a limit");
        assert_eq!(rate[0].window, plain_window(QuotaKind::Requests));
        let month = json!([{"kind": "spend", "amount_usd": "5", "period": "month", "zone": "Europe/Berlin", "strict": true,
            "thresholds": [90], "increase_usd": 3, "increase_until": "2030-01-01T00:00:00Z"}]);
        let month = read(month).expect("a limit").remove(0);
        assert_eq!(month.window, "calendar month Europe/Berlin".parse().expect("a window"));
        assert_eq!((month.is_strict, month.thresholds), (Some(true), Some(Thresholds(vec![90]))));
        assert_eq!(month.increase.map(|increase| increase.amount), Some(NanoUsd(3_000_000_000)));
        assert_eq!(read(json!([{"kind": "tokens", "remove": true}])).expect("a limit")[0].amount, Some(Amount::None));
    }

    #[test]
    fn what_makes_no_limit_is_refused() {
        for limits in [
            json!([{"kind": "balance", "amount_usd": "1"}]),
            json!([{"kind": "spend", "amount": 1}]),
            json!([{"kind": "spend", "amount_usd": "-1"}]),
            json!([{"kind": "spend", "amount_usd": 1e3}, {"kind": "spend", "amount_usd": true}]),
            json!([{"kind": "spend", "amount_usd": "1", "remove": true}]),
            json!([{"kind": "spend", "amount_usd": "1", "period": "year"}]),
            json!([{"kind": "spend", "amount_usd": "1", "zone": "UTC"}]),
            json!([{"kind": "spend", "amount_usd": "1", "period": "day", "zone": "Nowhere"}]),
            json!([{"kind": "spend", "amount_usd": "1", "increase_usd": "1"}]),
            json!([{"kind": "spend", "amount_usd": "1", "increase_usd": "1", "increase_until": "2020-01-01T00:00:00Z"}]),
            json!([{"kind": "spend", "amount_usd": "1", "thresholds": [80, 50]}]),
            json!([{"kind": "requests", "amount_usd": "1"}]),
            json!([{"kind": "requests", "amount": 0}]),
            json!([{"kind": "requests", "amount": 1, "strict": true}]),
            json!([{"kind": "requests", "amount": 1, "period": "month"}]),
            json!([{"kind": "requests", "amount": 1, "model": "a b"}]),
            json!([{"kind": "concurrency", "amount": 1, "period": "minute"}]),
            json!([{"kind": "tokens", "amount": 1}, {"kind": "tokens", "amount": 2, "period": "minute"}]),
            json!([{"kind": "tokens", "amount": 1, "owner": "org_1"}]),
        ] {
            assert_eq!(read(limits.clone()).expect_err("refused").status(), 422, "{limits}");
        }
    }
}
