//! Usage: what was called, used and charged, in buckets of time. `figures.rs`: the figures of a bucket.

mod figures;

pub use figures::UsageFigures;

use super::caller::{Caller, Permitted};
use super::input::{Params, filter, moment_or_date};
use super::{Control, stamp};
use crate::clock;
use crate::error::Refusal;
use crate::store::usage::buckets::{Answer, Bucket, Dimension, Granularity, Question, Totals, Within};
use axum::Json;
use axum::extract::State;
use filters::id::{KeyId, OrgId, ProjectId};
use filters::time::EpochMs;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

const DAY_MS: i64 = 86_400_000;

/// Whose usage, since when, and how it is told apart.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// The organisation; left out, that of the key or project, or the caller's own.
    org: Option<String>,
    /// One key's usage.
    key: Option<String>,
    /// One project's usage.
    project: Option<String>,
    /// What to tell apart. Usage by `user` and `tag` is that of whole organisations; a call with two tags counts for both.
    #[param(inline)]
    by: Option<By>,
    /// A time until now, from the beginning of its first bucket on; left out, `7d`.
    #[param(inline)]
    range: Option<Range>,
    /// Since when instead: an RFC 3339 moment or a date, counted from the beginning of its hour.
    #[param(example = "2026-01-15")]
    from: Option<String>,
    /// Until when: an RFC 3339 moment or a date, which is not among it; left out, now.
    #[param(example = "2026-02-01T00:00:00Z")]
    to: Option<String>,
    /// The length of a bucket, in UTC; left out or `auto`, as long as suits the time.
    #[param(inline)]
    granularity: Option<Length>,
    /// Calls of this model only.
    #[param(max_length = 128)]
    model: Option<String>,
    /// Calls of this provider only.
    #[param(max_length = 128)]
    provider: Option<String>,
}

/// What usage is told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The whole organisation.
    Organisation,
    /// The key that called.
    Key,
    /// The key's project.
    Project,
    /// The model.
    Model,
    /// The provider that answered.
    Provider,
    /// The end user whom the client named.
    User,
    /// The client's tags.
    Tag,
    /// Nothing, with a bucket a day.
    Day,
}

/// A time until now.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
pub enum Range {
    /// A day.
    #[serde(rename = "24h")]
    Day,
    /// A week.
    #[serde(rename = "7d")]
    Week,
    /// Thirty days.
    #[serde(rename = "30d")]
    Month,
    /// Ninety days.
    #[serde(rename = "90d")]
    Quarter,
}

/// The length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Length {
    /// Hours up to two days, days up to 45, weeks up to 190, months beyond; longer where that would be too many rows.
    Auto,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// From Monday to Sunday.
    Week,
    /// A month.
    Month,
}

/// Usage of a time.
#[derive(Serialize, ToSchema)]
pub struct UsageView {
    org: String,
    /// Since when.
    from: String,
    /// Until when.
    to: String,
    granularity: Length,
    by: Option<By>,
    /// Buckets with calls, in the order of time.
    data: Vec<BucketView>,
    /// Of all buckets; null where a call counts in several.
    total: Option<UsageFigures>,
}

/// A bucket, or what of it is one thing's.
#[derive(Serialize, ToSchema)]
pub struct BucketView {
    /// When it begins.
    start: String,
    /// When it ends.
    end: String,
    /// The key's or project's id, the model, the provider, the user or the tag. Null: nothing is told apart, or what has none, such as
    /// keys without a project, and users and tags beyond those that are told apart.
    group: Option<String>,
    #[serde(flatten)]
    figures: UsageFigures,
}

impl By {
    fn dimension(self) -> Option<Dimension> {
        match self {
            Self::Organisation | Self::Day => None,
            Self::Key => Some(Dimension::Key),
            Self::Project => Some(Dimension::Project),
            Self::Model => Some(Dimension::Model),
            Self::Provider => Some(Dimension::Provider),
            Self::User => Some(Dimension::User),
            Self::Tag => Some(Dimension::Tag),
        }
    }
}

impl Range {
    fn milliseconds(self) -> i64 {
        match self {
            Self::Day => DAY_MS,
            Self::Week => 7 * DAY_MS,
            Self::Month => 30 * DAY_MS,
            Self::Quarter => 90 * DAY_MS,
        }
    }
}

impl Length {
    fn of(granularity: Granularity) -> Self {
        match granularity {
            Granularity::Hour => Self::Hour,
            Granularity::Day => Self::Day,
            Granularity::Week => Self::Week,
            Granularity::Month => Self::Month,
        }
    }

    /// The one that is asked for; none: the one that suits.
    fn asked(self) -> Option<Granularity> {
        match self {
            Self::Auto => None,
            Self::Hour => Some(Granularity::Hour),
            Self::Day => Some(Granularity::Day),
            Self::Week => Some(Granularity::Week),
            Self::Month => Some(Granularity::Month),
        }
    }
}

/// The time that is asked about.
struct Time {
    from: EpochMs,
    /// None: until now.
    to: Option<EpochMs>,
    /// Whether it begins with its first bucket.
    is_rounded: bool,
    now: EpochMs,
}

impl Time {
    fn read(params: &UsageParams, now: EpochMs) -> Result<Self, Refusal> {
        let read = |param, text: &Option<String>| text.as_deref().map(|text| moment_or_date(param, text)).transpose();
        let (from, to) = (read("from", &params.from)?, read("to", &params.to)?);
        if let Some(range) = params.range.filter(|_| from.is_some() || to.is_some()) {
            let sentence =
                format!("Send `range` alone, or `from` and `to`, not both: here is {range:?} beside one of them.");
            return Err(Refusal::validation("range", sentence));
        }
        let Some(from) = from else {
            if to.is_some() {
                return Err(Refusal::validation("from", "Say since when: `to` alone has no beginning."));
            }
            let length = params.range.unwrap_or(Range::Week).milliseconds();
            return Ok(Self { from: now.plus(-length), to: None, is_rounded: true, now });
        };
        // Nothing is called in the future, but clocks differ.
        let to = to.map(|to| to.min(now.plus(DAY_MS)));
        if from >= to.unwrap_or(now) {
            return Err(Refusal::validation("from", "`from` must lie before `to`, and before now."));
        }
        Ok(Self { from: from.max(EpochMs(0)), to, is_rounded: false, now })
    }

    /// The granularity that suits its length.
    fn granularity(&self) -> Granularity {
        let days = (self.to.unwrap_or(self.now).0 - self.from.0) / DAY_MS;
        match days {
            ..=2 => Granularity::Hour,
            3..=45 => Granularity::Day,
            46..=190 => Granularity::Week,
            _ => Granularity::Month,
        }
    }

    /// From when to when, in buckets of this length.
    fn span(&self, granularity: Granularity) -> (EpochMs, EpochMs) {
        let from = if self.is_rounded { granularity.beginning(self.from) } else { self.from };
        (from, self.to.unwrap_or_else(|| granularity.end(self.now)))
    }
}

/// What was called, used and charged, in buckets of time, in all or told apart by one thing. It is read from sums, which calls are in
/// within seconds of their end, and within `ledger.merge_ms` where thousands of keys call.
#[utoipa::path(get, path = "/api/usage", tag = "usage", params(UsageParams), responses((status = 200, body = UsageView)))]
pub async fn read(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Params(params): Params<UsageParams>,
) -> Result<Json<UsageView>, Refusal> {
    let (permitted, within) = whose(&control, &caller, &params).await?;
    let (model, provider) = (filter("model", params.model.clone())?, filter("provider", params.provider.clone())?);
    let time = Time::read(&params, caller.now())?;
    let asked = match (params.granularity.unwrap_or(Length::Auto).asked(), params.by) {
        (None, Some(By::Day)) => Some(Granularity::Day),
        (asked, _) => asked,
    };
    let by = params.by.and_then(By::dimension);
    // Users and tags are not told apart by the hour.
    let shortest = match by {
        Some(Dimension::User | Dimension::Tag) => Granularity::Day,
        _ => Granularity::Hour,
    };
    let mut granularity = asked.unwrap_or_else(|| time.granularity()).max(shortest);
    loop {
        let (from, to) = time.span(granularity);
        let (model, provider) = (model.as_deref(), provider.as_deref());
        let question = Question { org: permitted.org, within, by, from, to, granularity, model, provider };
        match control.store.usage_in_buckets(&question).await? {
            Answer::Buckets { buckets, .. } => return Ok(Json(view(&control, &question, &params, buckets))),
            Answer::TooMany => match granularity.longer().filter(|_| asked.is_none()) {
                Some(longer) => granularity = longer,
                None => return Err(too_many()),
            },
        }
    }
}

fn too_many() -> Refusal {
    let sentence =
        "This is more than 10 000 sums. Ask for longer buckets, a shorter time, whole months, or one project's usage.";
    Refusal::validation("granularity", sentence)
}

fn view(control: &Control, question: &Question<'_>, params: &UsageParams, buckets: Vec<Bucket>) -> UsageView {
    let unit = control.settings.credit_unit;
    let mut total = Totals::default();
    buckets.iter().for_each(|bucket| total.add(&bucket.totals));
    let data = buckets.into_iter().map(|bucket| {
        let group = match params.by {
            Some(By::Organisation) => question.org.to_string(),
            _ => bucket.name,
        };
        BucketView {
            start: stamp(bucket.from.max(question.from)),
            end: stamp(question.granularity.end(bucket.from).min(question.to)),
            group: Some(group).filter(|group| !group.is_empty()),
            figures: UsageFigures::of(unit, bucket.totals),
        }
    });
    UsageView {
        org: question.org.to_string(),
        from: stamp(question.from),
        to: stamp(question.to.min(clock::now())),
        granularity: Length::of(question.granularity),
        by: params.by,
        data: data.collect(),
        total: (question.by != Some(Dimension::Tag)).then(|| UsageFigures::of(unit, total)),
    }
}

/// Whose usage the caller asks for and may see.
async fn whose(control: &Control, caller: &Caller, params: &UsageParams) -> Result<(Permitted, Within), Refusal> {
    let org = params.org.as_deref().map(|text| text.parse::<OrgId>().map_err(|_| Refusal::not_found("organisation")));
    let named = org.transpose()?;
    let (permitted, within) = match (&params.key, &params.project) {
        (Some(_), Some(_)) => return Err(Refusal::validation("project", "Name a key or a project, not both.")),
        (Some(key), None) => {
            let id: KeyId = key.parse().map_err(|_| Refusal::not_found("key"))?;
            let owner = control.store.key(id, caller.now()).await?.org;
            (in_one(caller, named, owner, "key")?, Within::Key(id))
        }
        (None, Some(project)) => {
            let id: ProjectId = project.parse().map_err(|_| Refusal::not_found("project"))?;
            let owner = control.store.project(id, caller.now()).await?.org;
            (in_one(caller, named, owner, "project")?, Within::Project(id))
        }
        (None, None) => (caller.choose_org(named)?, Within::All),
    };
    match (permitted.only_key, within) {
        (None, _) => Ok((permitted, within)),
        (Some(own), Within::All) => Ok((permitted, Within::Key(own))),
        (Some(own), Within::Key(asked)) if asked == own => Ok((permitted, within)),
        (Some(_), Within::Key(_)) => Err(Refusal::not_found("key")),
        (Some(_), Within::Project(_)) => Err(Refusal::not_found("project")),
    }
}

/// The caller in the organisation that owns an object, which is the named one if one is named.
fn in_one(caller: &Caller, named: Option<OrgId>, owner: OrgId, what: &str) -> Result<Permitted, Refusal> {
    let permitted = caller.with_object(owner, what)?;
    match named {
        Some(org) if org != owner => Err(Refusal::not_found(what)),
        Some(_) | None => Ok(permitted),
    }
}
