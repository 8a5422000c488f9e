//! Limits as they are typed and printed: one set of options for keys, projects and organisations.

use super::key::read_pattern;
use super::moment::{Moment, date};
use super::{CliError, zone};
use crate::decimal::Usd;
use crate::store::limits::{Amount, Limit, LimitChange};
use crate::store::quotas::{QuotaKind, QuotaRow, Thresholds};
use filters::key::Glob;
use filters::lease::Increase;
use filters::money::NanoUsd;
use filters::quota::RATE_MAX;
use filters::time::EpochMs;
use filters::window::{Unit, Window, Zone};
use serde::Serialize;
use std::str::FromStr;

/// What may be used up. Each option of an amount is one limit; the others say more of it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitOptions {
    /// Dollars that may be spent; `none`: as many as there are.
    #[arg(long, value_name = "USD", value_parser = read_money)]
    limit: Option<Amount>,
    /// Requests in the period; `none`: no such limit.
    #[arg(long, value_name = "N", value_parser = read_count)]
    requests: Option<Amount>,
    /// Tokens in the period; `none`: no such limit.
    #[arg(long, value_name = "N", value_parser = read_count)]
    tokens: Option<Amount>,
    /// Requests per minute; `none`: no such limit.
    #[arg(long, value_name = "N", value_parser = read_count)]
    rpm: Option<Amount>,
    /// Tokens per minute; `none`: no such limit.
    #[arg(long, value_name = "N", value_parser = read_count)]
    tpm: Option<Amount>,
    /// Calls at once; `none`: no such limit.
    #[arg(long, value_name = "N", value_parser = read_count)]
    concurrency: Option<Amount>,
    /// Over which time --limit, --requests and --tokens count: total, minute, hour, day, week or month. Without it: total.
    #[arg(long, value_name = "PERIOD")]
    period: Option<Period>,
    /// Whether a period is the calendar's, as it is without this, or rolling: the last hour, or the last 30 days. Rolling is for
    /// money.
    #[arg(long, value_enum)]
    align: Option<Align>,
    /// The time zone of the calendar, such as Europe/Berlin. Without it: UTC.
    #[arg(long, value_name = "ZONE", value_parser = zone::read)]
    zone: Option<Zone>,
    /// Never passed: calls are held to the most that they can cost. For money and concurrency.
    #[arg(long, conflicts_with = "elastic")]
    strict: bool,
    /// Held to estimates, as every limit is unless it is strict.
    #[arg(long)]
    elastic: bool,
    /// Dollars added to --limit until a date; 0 ends an increase.
    #[arg(long, value_name = "USD", value_parser = read_increase)]
    increase: Option<NanoUsd>,
    /// When the increase ends: a date such as 2030-12-31, or how long from now, such as 7d.
    #[arg(long, value_name = "WHEN")]
    until: Option<Moment>,
    /// Percentages of --limit that raise an event; `none`: no event. Without it: 50,80,100.
    #[arg(long, value_name = "PERCENT,…", value_parser = read_thresholds)]
    thresholds: Option<Thresholds>,
}

/// What may be used up, where the models can be named too.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct NarrowedLimits {
    #[command(flatten)]
    options: LimitOptions,
    /// Models that the limits count, `*` for any characters. Without it: all.
    #[arg(long, value_name = "GLOB", value_parser = read_pattern)]
    model: Option<Glob>,
}

/// A window's length as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Total,
    Of(Unit),
}

impl FromStr for Period {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = || text.parse().map(Self::Of).map_err(|_| "a period is total, minute, hour, day, week or month");
        if text == "total" { Ok(Self::Total) } else { unit() }
    }
}

/// Where a window begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Align {
    Rolling,
    Calendar,
}

fn bad<T>(problem: &str) -> Result<T, CliError> {
    Err(CliError::BadInput(problem.to_owned()))
}

impl NarrowedLimits {
    /// The limits of something new.
    pub(super) fn of_new(&self, now: EpochMs) -> Result<Vec<Limit>, CliError> {
        limits_of_new(&self.named(now)?)
    }

    /// What is said, if anything is.
    pub(super) fn named(&self, now: EpochMs) -> Result<Vec<LimitChange>, CliError> {
        self.options.narrowed(self.model.clone(), now)
    }

    /// What is to be changed: at least one limit.
    pub(super) fn changes(&self, now: EpochMs) -> Result<Vec<LimitChange>, CliError> {
        let changes = self.named(now)?;
        if changes.is_empty() {
            return bad("say what to limit: --limit, --requests, --tokens, --rpm, --tpm or --concurrency, \
                        each with an amount or with `none`, which removes it");
        }
        Ok(changes)
    }
}

fn limits_of_new(changes: &[LimitChange]) -> Result<Vec<Limit>, CliError> {
    let mut limits = Vec::new();
    for change in changes {
        limits.extend(change.of_new()?);
    }
    Ok(limits)
}

impl LimitOptions {
    /// The limits of something new, of all models.
    pub(super) fn of_new(&self, now: EpochMs) -> Result<Vec<Limit>, CliError> {
        limits_of_new(&self.named(now)?)
    }

    /// What is said, if anything is.
    pub(super) fn named(&self, now: EpochMs) -> Result<Vec<LimitChange>, CliError> {
        self.narrowed(None, now)
    }

    fn narrowed(&self, model: Option<Glob>, now: EpochMs) -> Result<Vec<LimitChange>, CliError> {
        let mut changes = self.of_all_models(now)?;
        // Every model fits `*`: that is no other limit than the one of all models.
        let model = model.filter(|glob| &*glob.0 != "*");
        if model.is_some() && changes.is_empty() {
            return bad("--model says which models a limit counts: name the limit too, as with --limit");
        }
        for change in &mut changes {
            change.model.clone_from(&model);
        }
        Ok(changes)
    }

    fn of_all_models(&self, now: EpochMs) -> Result<Vec<LimitChange>, CliError> {
        let window = self.window()?;
        let mut changes = Vec::new();
        changes.extend(self.spend(&window, now)?);
        for (kind, amount) in [(QuotaKind::Requests, self.requests), (QuotaKind::Tokens, self.tokens)] {
            let Some(amount) = amount else { continue };
            let window = rate_window(&window)?;
            changes.push(LimitChange { window, ..LimitChange::of(kind, amount) });
        }
        for (kind, amount) in [(QuotaKind::Requests, self.rpm), (QuotaKind::Tokens, self.tpm)] {
            changes.extend(amount.map(|amount| LimitChange::of(kind, amount)));
        }
        if self.strictness() == Some(true) && changes.iter().any(|change| !change.kind.is_money()) {
            return bad(
                "--strict is for money and concurrency: what a call takes of requests and tokens can't be held to a \
                        bound. Set those limits without it, in a command of their own",
            );
        }
        if let Some(amount) = self.concurrency {
            changes
                .push(LimitChange { is_strict: self.strictness(), ..LimitChange::of(QuotaKind::Concurrency, amount) });
        }
        let is_same = |one: &LimitChange, other: &LimitChange| one.kind == other.kind && one.window == other.window;
        if changes.iter().enumerate().any(|(at, one)| changes[..at].iter().any(|other| is_same(one, other))) {
            return bad("this sets one limit twice: --rpm and --tpm are --requests and --tokens of a minute");
        }
        if self.period.is_some() && changes.is_empty() {
            return bad("--period says over which time --limit, --requests or --tokens counts: name one of them");
        }
        Ok(changes)
    }

    /// The limit of money, if anything is said of it.
    fn spend(&self, window: &Window, now: EpochMs) -> Result<Option<LimitChange>, CliError> {
        let increase = self.increase(now)?;
        let counts_others =
            [self.requests, self.tokens, self.rpm, self.tpm, self.concurrency].iter().any(Option::is_some);
        // `--strict` alone, or beside `--period`, is said of the limit that there is.
        let is_meant = self.limit.is_some() || (self.strictness().is_some() && !counts_others);
        if !is_meant && increase.is_none() && self.thresholds.is_none() {
            return Ok(None);
        }
        Ok(Some(LimitChange {
            kind: QuotaKind::Spend,
            window: window.clone(),
            model: None,
            amount: self.limit,
            is_strict: self.strictness(),
            increase,
            thresholds: self.thresholds.clone(),
        }))
    }

    fn strictness(&self) -> Option<bool> {
        (self.strict || self.elastic).then_some(self.strict)
    }

    fn increase(&self, now: EpochMs) -> Result<Option<Increase>, CliError> {
        let until = self.until.map(|moment| moment.after(now));
        match (self.increase, until) {
            (None, None) => Ok(None),
            (Some(NanoUsd::ZERO), None) => Ok(Some(Increase { amount: NanoUsd::ZERO, until: now })),
            (Some(_), None) => bad("--increase needs --until: the date at which it ends"),
            (None, Some(_)) => bad("--until needs --increase: the dollars that are added until then"),
            (Some(_), Some(until)) if until <= now => {
                bad("--until lies in the past: name a later date, or a length of time such as 7d")
            }
            (Some(amount), Some(until)) => Ok(Some(Increase { amount, until })),
        }
    }

    fn window(&self) -> Result<Window, CliError> {
        let Some(Period::Of(unit)) = self.period else {
            return match (self.align, &self.zone) {
                (Some(_), _) => {
                    bad("--align needs --period minute, hour, day, week or month: a total has no beginning")
                }
                (None, Some(_)) => {
                    bad("--zone needs --period minute, hour, day, week or month: a total has no calendar")
                }
                (None, None) => Ok(Window::Total),
            };
        };
        match (self.align.unwrap_or(Align::Calendar), &self.zone) {
            (Align::Rolling, Some(_)) => {
                bad("--zone goes with --align calendar: a rolling window is the same in every time zone")
            }
            (Align::Rolling, None) => Ok(Window::Rolling(unit)),
            (Align::Calendar, zone) => Ok(Window::Calendar { unit, zone: zone.clone().unwrap_or_else(Zone::utc) }),
        }
    }
}

fn rate_window(window: &Window) -> Result<Window, CliError> {
    match window {
        Window::Calendar { unit: Unit::Minute | Unit::Hour | Unit::Day, .. } => Ok(window.clone()),
        Window::Rolling(_) => bad(
            "--align rolling is for money: --requests and --tokens count in the minute, hour or day of the calendar",
        ),
        Window::Total | Window::Calendar { .. } => bad("--requests and --tokens need --period minute, hour or day"),
    }
}

/// A limit as it is printed for programs.
#[derive(Serialize)]
pub(super) struct LimitLine {
    kind: &'static str,
    limit: Option<Figure>,
    period: &'static str,
    align: Option<&'static str>,
    zone: Option<String>,
    model: Option<String>,
    strict: bool,
    increase: Option<Figure>,
    increase_until_ms: Option<i64>,
    thresholds: Vec<u8>,
    /// What was charged in the window; not of what is no money.
    spent: Option<Usd>,
}

/// Money or a number, as the kind of the limit says.
#[derive(Serialize)]
#[serde(untagged)]
enum Figure {
    Money(Usd),
    Count(i64),
}

impl Figure {
    fn of(kind: QuotaKind, amount: i64) -> Self {
        if kind.is_money() { Self::Money(Usd(NanoUsd(amount))) } else { Self::Count(amount) }
    }
}

impl From<&QuotaRow> for LimitLine {
    fn from(row: &QuotaRow) -> Self {
        let (period, align, zone) = match &row.window {
            Window::Total => ("total", None, None),
            Window::Rolling(unit) => (unit.name(), Some("rolling"), None),
            Window::Calendar { unit, zone } => (unit.name(), Some("calendar"), Some(zone.to_string())),
        };
        Self {
            kind: row.kind.name(),
            limit: (row.limit != i64::MAX).then(|| Figure::of(row.kind, row.limit)),
            period,
            align,
            zone,
            model: row.model.as_ref().map(|glob| glob.0.to_string()),
            strict: row.is_strict,
            increase: row.increase.map(|increase| Figure::of(row.kind, increase.amount.0)),
            increase_until_ms: row.increase.map(|increase| increase.until.0),
            thresholds: row.thresholds.0.clone(),
            spent: row.kind.is_money().then_some(Usd(NanoUsd(row.spent))),
        }
    }
}

/// The limits of an owner for programs. A balance is no limit, it has commands of its own.
pub(super) fn lines(limits: &[QuotaRow]) -> Vec<LimitLine> {
    limits.iter().filter(|row| row.kind != QuotaKind::Balance).map(LimitLine::from).collect()
}

/// The limits of an owner for people, a line each, below what else is said of it.
pub(super) fn describe(limits: &[QuotaRow]) -> String {
    let limiting = limits.iter().filter(|row| row.kind != QuotaKind::Balance && row.limit != i64::MAX);
    let sentences: Vec<String> = limiting.map(sentence).collect();
    if sentences.is_empty() {
        return "\n  limits        none".to_owned();
    }
    sentences.iter().map(|sentence| format!("\n  limit         {sentence}")).collect()
}

fn sentence(row: &QuotaRow) -> String {
    let figure = |amount: i64| if row.kind.is_money() { format!("${}", NanoUsd(amount)) } else { amount.to_string() };
    let mut text = figure(row.limit);
    if !row.kind.is_money() {
        text += if row.kind == QuotaKind::Concurrency { " calls at once" } else { " " };
        text += if row.kind == QuotaKind::Concurrency { "" } else { row.kind.name() };
    }
    text += &match &row.window {
        Window::Total if row.kind == QuotaKind::Concurrency => String::new(),
        Window::Total => " in all".to_owned(),
        Window::Rolling(unit) => format!(" a {unit}, rolling"),
        Window::Calendar { unit, zone } => format!(" a {unit} in {zone}"),
    };
    if let Some(model) = &row.model {
        text += &format!(", of {}", model.0);
    }
    if row.is_strict {
        text += ", strict";
    }
    if let Some(Increase { amount, until }) = row.increase {
        text += &format!(", and {} more until {}", figure(amount.0), date(until.day()));
    }
    if row.kind.is_money() {
        text += &format!("; spent ${}", NanoUsd(row.spent));
    }
    text
}

fn read_money(text: &str) -> Result<Amount, String> {
    if text == "none" {
        return Ok(Amount::None);
    }
    let limit: NanoUsd = text.parse().map_err(|problem| format!("{problem}"))?;
    // The largest amount stands for no limit.
    if limit < NanoUsd::ZERO || limit == NanoUsd::MAX {
        return Err("a limit is 0 or more dollars, or `none`".to_owned());
    }
    Ok(Amount::Of(limit.0))
}

fn read_count(text: &str) -> Result<Amount, String> {
    if text == "none" {
        return Ok(Amount::None);
    }
    let count = text.parse().ok().filter(|count| (1..=RATE_MAX).contains(count));
    count.map(Amount::Of).ok_or_else(|| format!("a limit is a whole number from 1 to {RATE_MAX}, or `none`"))
}

fn read_increase(text: &str) -> Result<NanoUsd, String> {
    let amount: NanoUsd = text.parse().map_err(|problem| format!("{problem}"))?;
    if amount < NanoUsd::ZERO {
        return Err("an increase is more than 0 dollars; to lower a limit, set another".to_owned());
    }
    Ok(amount)
}

fn read_thresholds(text: &str) -> Result<Thresholds, String> {
    let text = if text == "none" { "" } else { text };
    text.parse().map_err(str::to_owned)
}
