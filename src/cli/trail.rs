//! `tollgate trail`: who changed what.

use super::moment::{Moment, date};
use super::print::or_dash;
use super::{CliError, Place, Surroundings};
use crate::store::trail::{TrailFilter, TrailRecord};
use filters::id::OrgId;
use serde::Serialize;
use serde_json::value::RawValue;
use std::process::ExitCode;

/// Entries of one page.
const PAGE: u32 = 500;
const HEADINGS: [&str; 5] = ["WHEN", "WHO", "ROLE", "WHAT", "OF WHAT"];

/// Which entries.
#[derive(Debug, clap::Args)]
pub struct TrailCommand {
    /// About this organisation, `org_…`. Without it: about all, and about none.
    #[arg(long)]
    pub(super) org: Option<OrgId>,
    /// What was done, such as key.create.
    #[arg(long)]
    pub(super) action: Option<String>,
    /// The identifier of who did it.
    #[arg(long, value_name = "ID")]
    pub(super) actor: Option<String>,
    /// The identifier of what was changed.
    #[arg(long, value_name = "ID")]
    pub(super) object: Option<String>,
    /// From when on: a date, or how long ago, such as 7d.
    #[arg(long, value_name = "WHEN")]
    pub(super) since: Option<Moment>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Serialize)]
struct TrailLine {
    number: i64,
    org: Option<String>,
    at_ms: i64,
    actor_kind: String,
    actor: String,
    role: String,
    address: String,
    request_id: String,
    action: String,
    object: String,
    before: Option<Box<RawValue>>,
    after: Option<Box<RawValue>>,
}

impl From<TrailRecord> for TrailLine {
    fn from(record: TrailRecord) -> Self {
        let json = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        Self {
            number: record.number,
            org: record.org.map(|org| org.to_string()),
            at_ms: record.at.0,
            actor_kind: record.actor_kind,
            actor: record.actor,
            role: record.role,
            address: record.address,
            request_id: record.request_id,
            action: record.action,
            object: record.object,
            before: json(record.before),
            after: json(record.after),
        }
    }
}

/// Prints the latest entry first.
pub(super) async fn run(command: TrailCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let TrailCommand { org, action, actor, object, since, place } = command;
    let from = since.map(|since| since.before(surroundings.now));
    let filter = TrailFilter { org, action, actor, object, from, to: None };
    let store = place.open_store().await?;
    let mut printer = place.printer(surroundings.out);
    let (mut before, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.trail(&filter, before, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(ExitCode::SUCCESS);
        };
        before = Some(last.number);
        let lines: Vec<TrailLine> = page.into_iter().map(TrailLine::from).collect();
        printer.many(&lines, headings.take(), |line| {
            let who = if line.actor.is_empty() { line.actor_kind.clone() } else { line.actor.clone() };
            let role = or_dash(Some(&line.role).filter(|role| !role.is_empty()));
            let day = date(line.at_ms.div_euclid(86_400_000));
            let second = line.at_ms.div_euclid(1_000).rem_euclid(86_400);
            let time = format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60);
            vec![format!("{day} {time}"), who, role, line.action.clone(), line.object.clone()]
        })?;
    }
}
