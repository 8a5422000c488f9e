//! The limits of a key as they come in: of money in two units, over a period; of requests, tokens and calls at once.

use super::body::twice;
use crate::control::money::Decimal;
use crate::error::Refusal;
use crate::store::limits::{Amount, LimitChange};
use crate::store::quotas::QuotaKind;
use filters::money::NanoUsd;
use filters::quota::RATE_MAX;
use filters::window::{Unit, Window, Zone};

const NANOS_PER_MICRO: i64 = 1_000;

/// What is said of limits: nothing, that there is none, or how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits<'a> {
    pub(super) micros: Option<Option<i64>>,
    pub(super) dollars: Option<Option<&'a Decimal>>,
    pub(super) terms: Terms<'a>,
    pub(super) rpm: Option<Option<i64>>,
    pub(super) tpm: Option<Option<i64>>,
    pub(super) concurrency: Option<Option<i64>>,
}

/// What is said of the limit of money beside its amount.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) period: Option<&'a str>,
    pub(super) align: Option<&'a str>,
    pub(super) zone: Option<&'a str>,
    pub(super) is_strict: Option<bool>,
}

impl Limits<'_> {
    /// What is to be set or taken away.
    pub(super) fn changes(&self) -> Result<Vec<LimitChange>, Refusal> {
        let mut changes = Vec::from_iter(self.spend()?);
        let counts = [
            ("rpm", QuotaKind::Requests, self.rpm),
            ("tpm", QuotaKind::Tokens, self.tpm),
            ("concurrency", QuotaKind::Concurrency, self.concurrency),
        ];
        for (param, kind, count) in counts {
            let amount = match count {
                None => continue,
                Some(None) => Amount::None,
                Some(Some(count)) if (1..=RATE_MAX).contains(&count) => Amount::Of(count),
                Some(Some(_)) => {
                    let message = format!(
                        "This is a whole number from 1 to {RATE_MAX}; to have no limit, leave it out or send null."
                    );
                    return Err(Refusal::validation(param, message));
                }
            };
            changes.push(LimitChange::of(kind, amount));
        }
        Ok(changes)
    }

    fn spend(&self) -> Result<Option<LimitChange>, Refusal> {
        let dollars = self.dollars.map(|figure| figure.map(read_dollars).transpose()).transpose()?;
        let micros = self.micros.map(|micros| micros.map(read_micros).transpose()).transpose()?;
        let amount = match (dollars, micros) {
            (Some(dollars), Some(micros)) if dollars != micros => return Err(twice("limit", "spendLimitMicros")),
            (Some(amount), _) | (None, Some(amount)) => amount,
            (None, None) => return self.terms.must_be_unsaid().map(|()| None),
        };
        let amount = amount.map_or(Amount::None, |amount| Amount::Of(amount.0));
        let window = self.terms.window()?;
        Ok(Some(LimitChange { window, is_strict: self.terms.is_strict, ..LimitChange::of(QuotaKind::Spend, amount) }))
    }
}

impl Terms<'_> {
    fn must_be_unsaid(&self) -> Result<(), Refusal> {
        let said = [
            ("period", self.period.is_some()),
            ("align", self.align.is_some()),
            ("zone", self.zone.is_some()),
            ("strict", self.is_strict.is_some()),
        ];
        match said.into_iter().find(|(_, is_said)| *is_said) {
            None => Ok(()),
            Some((param, _)) => Err(Refusal::validation(param, "This is said of `limit`: send that too.")),
        }
    }

    fn window(&self) -> Result<Window, Refusal> {
        let unit: Unit = match self.period {
            None | Some("total") => {
                let needs =
                    |param| Err(Refusal::validation(param, "This needs `period`: minute, hour, day, week or month."));
                return match (self.align, self.zone) {
                    (Some(_), _) => needs("align"),
                    (None, Some(_)) => needs("zone"),
                    (None, None) => Ok(Window::Total),
                };
            }
            Some(period) => period
                .parse()
                .map_err(|_| Refusal::validation("period", "A period is total, minute, hour, day, week or month."))?,
        };
        match (self.align, self.zone) {
            (Some("rolling"), None) => Ok(Window::Rolling(unit)),
            (Some("rolling"), Some(_)) => {
                Err(Refusal::validation("zone", "A rolling period is the same in every time zone: leave `zone` out."))
            }
            (None | Some("calendar"), None) => Ok(Window::Calendar { unit, zone: Zone::utc() }),
            (None | Some("calendar"), Some(zone)) => {
                let zone = zone.parse().map_err(|problem| Refusal::validation("zone", format!("{problem}.")))?;
                Ok(Window::Calendar { unit, zone })
            }
            (Some(_), _) => Err(Refusal::validation("align", "A period is aligned as calendar or rolling.")),
        }
    }
}

fn read_dollars(figure: &Decimal) -> Result<NanoUsd, Refusal> {
    in_range("limit", figure.dollars("limit")?)
}

fn read_micros(micros: i64) -> Result<NanoUsd, Refusal> {
    let too_much = || Refusal::validation("spendLimitMicros", "This is more money than there can be.");
    let nanos = micros.checked_mul(NANOS_PER_MICRO).ok_or_else(too_much)?;
    in_range("spendLimitMicros", NanoUsd(nanos))
}

/// The largest amount stands for no limit.
fn in_range(param: &str, amount: NanoUsd) -> Result<NanoUsd, Refusal> {
    if (NanoUsd::ZERO..NanoUsd::MAX).contains(&amount) {
        return Ok(amount);
    }
    Err(Refusal::validation(param, "A limit is 0 or more dollars; to have none, leave it out or send null."))
}
