//! `tollgate usage`: what was used and charged, by day, model, key, provider, project, end user or tag.

use super::moment::{Moment, date};
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::Store;
use crate::store::usage::buckets::{Answer, Dimension, Granularity, Question, Within};
use crate::store::usage::{Group, Grouping, Spender, UsageSum};
use filters::id::{KeyId, OrgId};
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde::Serialize;
use std::process::ExitCode;

/// Whose usage, since when, and how it is put together.
#[derive(Debug, clap::Args)]
#[group(id = "spender", required = true, multiple = false, args = ["key", "org"])]
pub struct UsageCommand {
    /// One key's usage, `key_…`.
    #[arg(long)]
    pub(super) key: Option<KeyId>,
    /// The usage of all keys of an organisation, `org_…`.
    #[arg(long)]
    pub(super) org: Option<OrgId>,
    /// Since when: how long ago, such as 7d, or a date. Counted from the beginning of that hour.
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    pub(super) since: Moment,
    /// What to put together.
    #[arg(long, value_enum, default_value_t = By::Day)]
    pub(super) by: By,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum By {
    /// The calls of a UTC day.
    Day,
    /// The calls of a model.
    Model,
    /// The calls of a key.
    Key,
    /// The calls that a provider answered; of whole organisations.
    Provider,
    /// The calls of a project's keys.
    Project,
    /// The calls of an end user whom the client named; of whole organisations.
    User,
    /// The calls with a tag, one with two tags counted for both; of whole organisations.
    Tag,
}

#[derive(Serialize)]
struct UsageLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
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
        let (mut day, mut model, mut key) = (None, None, None);
        let (mut provider, mut project, mut user, mut tag) = (None, None, None, None);
        match sum.group {
            Group::Day(number) => day = Some(date(number)),
            Group::Model(name) => model = Some(name),
            Group::Key(id) => key = Some(id),
            Group::Named(Dimension::Provider, name) => provider = Some(name),
            Group::Named(Dimension::Project, name) => project = Some(name),
            Group::Named(Dimension::User, name) => user = Some(name),
            Group::Named(Dimension::Tag, name) => tag = Some(name),
            Group::Named(Dimension::Model, name) => model = Some(name),
            Group::Named(Dimension::Key, id) => key = Some(id),
        }
        let [web_searches, images, audio_milliseconds, characters, search_units] = sum.units;
        Self {
            day,
            model,
            key,
            provider,
            project,
            user,
            tag,
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
    let since = command.since.before(now);
    let (sums, heading) = match command.by {
        By::Day => (store.usage(spender, since, Grouping::Day).await?, "DAY"),
        By::Model => (store.usage(spender, since, Grouping::Model).await?, "MODEL"),
        By::Key => (store.usage(spender, since, Grouping::Key).await?, "KEY"),
        By::Provider => (named(&store, spender, Dimension::Provider, (since, now)).await?, "PROVIDER"),
        By::Project => (named(&store, spender, Dimension::Project, (since, now)).await?, "PROJECT"),
        By::User => (named(&store, spender, Dimension::User, (since, now)).await?, "USER"),
        By::Tag => (named(&store, spender, Dimension::Tag, (since, now)).await?, "TAG"),
    };
    // A call counts for each of its tags.
    let total = (!matches!(command.by, By::Tag)).then(|| sums.iter().map(|sum| sum.charge).sum::<NanoUsd>());
    let lines: Vec<UsageLine> = sums.into_iter().map(UsageLine::from).collect();
    let headings = [heading, "CALLS", "ESTIMATED", "INPUT", "CACHED", "OUTPUT", "BESIDE TOKENS", "CHARGE"];
    let mut printer = command.place.printer(out);
    printer.many(&lines, Some(&headings), cells)?;
    if let Some(total) = total.filter(|_| !command.place.json) {
        writeln!(printer.out, "Charged in all: ${total}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Usage by a name, the dearest first. It is read from sums, in which calls are within `ledger.merge_ms`.
async fn named(
    store: &Store,
    spender: Spender,
    by: Dimension,
    (from, to): (EpochMs, EpochMs),
) -> Result<Vec<UsageSum>, CliError> {
    let Spender::Org(org) = spender else {
        return Err(CliError::BadInput("usage by this is kept of whole organisations: name one with --org".to_owned()));
    };
    let question = |granularity| Question {
        org,
        within: Within::All,
        by: Some(by),
        from,
        to,
        granularity,
        model: None,
        provider: None,
    };
    for granularity in [Granularity::Hour, Granularity::Day, Granularity::Month] {
        if let Answer::Buckets { buckets, .. } = store.usage_in_buckets(&question(granularity)).await? {
            return Ok(UsageSum::of_names(by, buckets));
        }
    }
    Err(CliError::BadInput(
        "this is more than 10 000 sums: ask for a shorter time, or since the first of a month".to_owned(),
    ))
}

fn cells(line: &UsageLine) -> Vec<String> {
    let names = [&line.day, &line.model, &line.key, &line.provider, &line.project, &line.user, &line.tag];
    vec![
        names
            .into_iter()
            .flatten()
            .next()
            .map(|name| if name.is_empty() { "-".to_owned() } else { name.clone() })
            .unwrap_or_default(),
        line.calls.to_string(),
        line.estimated_calls.to_string(),
        line.input_tokens.to_string(),
        line.cache_read_tokens.to_string(),
        line.output_tokens.to_string(),
        line.units.text(),
        format!("${}", line.charge.0),
    ]
}
