//! `tollgate key calls`: what a key was used for, call by call.

use super::moment::Moment;
use super::print::or_dash;
use super::{CliError, Surroundings};
use crate::decimal::Usd;
use crate::store::history::{CallRecord, CallsWanted};
use filters::id::KeyId;
use filters::time::{EpochMs, date_of_day};
use serde::Serialize;

/// Calls that are read at a time.
const CALLS_PER_PAGE: usize = 1_000;
const DAY_MS: i64 = 86_400_000;
const HEADINGS: [&str; 9] = ["STARTED", "METHOD", "ENDPOINT", "MODEL", "STATUS", "ERROR", "TOKENS", "CHARGE", "MS"];

/// Which calls of a key.
#[derive(Debug, clap::Args)]
pub struct CallsCommand {
    /// Its identifier, `key_…`.
    pub(super) id: KeyId,
    /// How many, the newest first.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) limit: u32,
    /// Since when: how long ago, such as 7d, or a date.
    #[arg(long, value_name = "WHEN", default_value = "3650d")]
    pub(super) since: Moment,
    /// Answered with this status, or with one of a class such as 4xx.
    #[arg(long, value_parser = read_statuses)]
    pub(super) status: Option<(u16, u16)>,
    /// Of this model.
    #[arg(long)]
    pub(super) model: Option<String>,
    /// With this error, or that ended so, such as client_gone.
    #[arg(long)]
    pub(super) error: Option<String>,
    #[command(flatten)]
    pub(super) place: super::Place,
}

#[derive(Serialize)]
struct CallLine {
    id: String,
    started_ms: i64,
    method: String,
    endpoint: String,
    model: Option<String>,
    provider: Option<String>,
    status: Option<u16>,
    error: Option<String>,
    input_tokens: i64,
    output_tokens: i64,
    charge: Usd,
    latency_ms: Option<i64>,
    user: Option<String>,
    tags: Vec<String>,
}

impl From<CallRecord> for CallLine {
    fn from(call: CallRecord) -> Self {
        let paid = call.paid.as_ref();
        let attribution = paid.and_then(|paid| paid.attribution.as_ref());
        let [input_tokens, _, output_tokens] = paid.map(|paid| paid.tokens).unwrap_or_default();
        Self {
            id: call.id.to_string(),
            started_ms: call.started.0,
            provider: paid.map(|paid| paid.provider.clone()),
            input_tokens,
            output_tokens,
            charge: Usd(paid.map(|paid| paid.charge).unwrap_or_default()),
            user: attribution.and_then(|attribution| attribution.user.as_deref().map(str::to_owned)),
            tags: attribution.into_iter().flat_map(|attribution| &attribution.tags).map(ToString::to_string).collect(),
            method: call.method,
            endpoint: call.endpoint,
            model: call.model,
            status: call.status,
            error: call.error,
            latency_ms: call.latency_ms,
        }
    }
}

pub(super) async fn run(command: CallsCommand, surroundings: Surroundings<'_>) -> Result<(), CliError> {
    let Surroundings { now, out, .. } = surroundings;
    let store = command.place.open_store().await?;
    let wanted = CallsWanted {
        key: store.key(command.id, now).await?.id,
        from: command.since.before(now),
        to: now.plus(DAY_MS),
        status: command.status,
        model: command.model,
        error: command.error,
    };
    let mut printer = command.place.printer(out);
    let (mut left, mut before, mut headings) = (command.limit as usize, None, Some(&HEADINGS[..]));
    while left > 0 {
        let page = store.calls_of_key(&wanted, before, left.min(CALLS_PER_PAGE)).await?;
        left -= page.calls.len();
        let lines: Vec<CallLine> = page.calls.into_iter().map(CallLine::from).collect();
        printer.many(&lines, headings.take(), cells)?;
        before = match page.next {
            Some(next) => Some(next),
            None => break,
        };
    }
    Ok(())
}

fn cells(line: &CallLine) -> Vec<String> {
    vec![
        moment(EpochMs(line.started_ms)),
        line.method.clone(),
        line.endpoint.clone(),
        or_dash(line.model.as_ref()),
        or_dash(line.status),
        or_dash(line.error.as_ref()),
        format!("{}+{}", line.input_tokens, line.output_tokens),
        format!("${}", line.charge.0),
        or_dash(line.latency_ms),
    ]
}

fn moment(at: EpochMs) -> String {
    let (year, month, day) = date_of_day(at.day());
    let seconds = at.0.rem_euclid(DAY_MS) / 1_000;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn read_statuses(text: &str) -> Result<(u16, u16), String> {
    let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
    match (class, text.parse::<u16>()) {
        (Some(class @ 1..=5), _) => Ok((class * 100, class * 100 + 99)),
        (None, Ok(status @ 100..=599)) => Ok((status, status)),
        _ => Err("write a status such as 404, or a class of them such as 4xx".to_owned()),
    }
}
