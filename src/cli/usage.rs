//! `tollgate usage`: what was used and charged, by day, by model or by key.

use super::moment::{Moment, date};
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::usage::{Group, Grouping, Spender, UsageSum};
use filters::id::{KeyId, OrgId};
use filters::money::NanoUsd;
use serde::Serialize;
use std::process::ExitCode;

/// Whose usage, since when, and how it is put together.
#[derive(Debug, clap::Args)]
#[group(id = "spender", required = true, multiple = false, args = ["key", "org"])]
pub struct UsageCommand {
    /// One key's usage, `key_…`.
    #[arg(long)]
    key: Option<KeyId>,
    /// The usage of all keys of an organisation, `org_…`.
    #[arg(long)]
    org: Option<OrgId>,
    /// Since when: how long ago, such as 7d, or a date. Counted from the beginning of that hour.
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    since: Moment,
    /// What to put together.
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    /// The calls of a UTC day.
    Day,
    /// The calls of a model.
    Model,
    /// The calls of a key.
    Key,
}

#[derive(Serialize)]
struct UsageLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    calls: i64,
    estimated_calls: i64,
    input_tokens: i64,
    cache_read_tokens: i64,
    output_tokens: i64,
    /// What was used beside tokens.
    #[serde(flatten)]
    units: Units,
    charge: Usd,
}

#[derive(Serialize)]
struct Units {
    web_searches: i64,
    images: i64,
    audio_milliseconds: i64,
    characters: i64,
    search_units: i64,
}

impl Units {
    /// Those that there are, each with its name.
    fn text(&self) -> String {
        let Self { web_searches, images, audio_milliseconds, characters, search_units } = *self;
        let named = [
            (web_searches, "web searches"),
            (images, "images"),
            (audio_milliseconds, "ms of sound"),
            (characters, "characters"),
            (search_units, "search units"),
        ];
        let there = named.into_iter().filter(|(count, _)| *count != 0);
        there.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    }
}

impl From<UsageSum> for UsageLine {
    fn from(sum: UsageSum) -> Self {
        let (day, model, key) = match sum.group {
            Group::Day(number) => (Some(date(number)), None, None),
            Group::Model(name) => (None, Some(name), None),
            Group::Key(id) => (None, None, Some(id)),
        };
        let [web_searches, images, audio_milliseconds, characters, search_units] = sum.units;
        Self {
            day,
            model,
            key,
            calls: sum.calls,
            estimated_calls: sum.estimated,
            input_tokens: sum.input_tokens,
            cache_read_tokens: sum.cache_read_tokens,
            output_tokens: sum.output_tokens,
            units: Units { web_searches, images, audio_milliseconds, characters, search_units },
            charge: Usd(sum.charge),
        }
    }
}

pub(super) async fn run(command: UsageCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    let store = command.place.open_store().await?;
    let spender = match (command.key, command.org) {
        (Some(key), _) => Spender::Key(store.key(key, now).await?.id),
        (None, Some(org)) => Spender::Org(store.organisation(org).await?.id),
        (None, None) => {
            return Err(CliError::BadInput("name a key or an organisation".to_owned()));
        }
    };
    let (grouping, heading) = match command.by {
        By::Day => (Grouping::Day, "DAY"),
        By::Model => (Grouping::Model, "MODEL"),
        By::Key => (Grouping::Key, "KEY"),
    };
    let sums = store.usage(spender, command.since.before(now), grouping).await?;
    let total: NanoUsd = sums.iter().map(|sum| sum.charge).sum();
    let lines: Vec<UsageLine> = sums.into_iter().map(UsageLine::from).collect();
    let headings = [heading, "CALLS", "ESTIMATED", "INPUT", "CACHED", "OUTPUT", "BESIDE TOKENS", "CHARGE"];
    let mut printer = command.place.printer(out);
    printer.many(&lines, Some(&headings), cells)?;
    if !command.place.json {
        writeln!(printer.out, "Charged in all: ${total}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(line: &UsageLine) -> Vec<String> {
    let group = line.day.as_ref().or(line.model.as_ref()).or(line.key.as_ref());
    vec![
        group.cloned().unwrap_or_default(),
        line.calls.to_string(),
        line.estimated_calls.to_string(),
        line.input_tokens.to_string(),
        line.cache_read_tokens.to_string(),
        line.output_tokens.to_string(),
        line.units.text(),
        format!("${}", line.charge.0),
    ]
}
