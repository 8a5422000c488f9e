//! `tollgate org adjust|refund|entries|statement|retention`: what moves an organisation's money, and what is kept of it.

use super::moment::date;
use super::print::Printer;
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::Store;
use crate::store::credits::{EntryRecord, NewEntry, NewKind};
use crate::store::statements::{Month, Statement};
use filters::id::{CallId, OrgId};
use filters::money::NanoUsd;
use serde::Serialize;
use std::fmt::Write;

/// Entries of one page.
const PAGE: u32 = 500;
const HEADINGS: [&str; 7] = ["ID", "DATE", "KIND", "AMOUNT", "CALL", "REASON", "BY"];

/// What to do with an organisation's credits.
#[derive(Debug, clap::Subcommand)]
pub enum CreditsCommand {
    /// Give or take credit, for a reason.
    Adjust {
        /// The organisation, `org_…`.
        id: OrgId,
        /// Dollars, such as 5 or -0.50.
        #[arg(allow_negative_numbers = true)]
        usd: NanoUsd,
        /// Why, for the books.
        #[arg(long)]
        reason: String,
        /// Take even what has been spent: then the balance is below zero.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Give back what was charged, for a reason.
    Refund {
        /// The organisation, `org_…`.
        id: OrgId,
        /// Dollars, such as 5 or 0.50.
        usd: NanoUsd,
        /// Why, for the books.
        #[arg(long)]
        reason: String,
        /// The call that it is for, `req_…`: of it no more than it was charged.
        #[arg(long)]
        call: Option<CallId>,
        #[command(flatten)]
        place: Place,
    },
    /// List what moved an organisation's money, the newest first.
    Entries {
        /// The organisation, `org_…`.
        id: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Tell what an organisation had, what moved and what was charged in a month, in UTC.
    Statement {
        /// The organisation, `org_…`.
        id: OrgId,
        /// The month, such as 2026-11.
        month: Month,
        #[command(flatten)]
        place: Place,
    },
    /// Say how long an organisation's calls are kept one by one, or tell it.
    Retention {
        /// The organisation, `org_…`.
        id: OrgId,
        /// Days, at least 7; `forever`; or `default`: as is configured for all.
        days: Option<Days>,
        #[command(flatten)]
        place: Place,
    },
}

impl CreditsCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Adjust { place, .. }
            | Self::Refund { place, .. }
            | Self::Entries { place, .. }
            | Self::Statement { place, .. }
            | Self::Retention { place, .. } => place,
        }
    }
}

/// How long calls are kept, as it is typed.
#[derive(Clone, Copy, Debug)]
pub struct Days(pub(super) Option<u64>);

impl std::str::FromStr for Days {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self(None)),
            "forever" => Ok(Self(Some(0))),
            days => {
                days.parse().map(|days| Self(Some(days))).map_err(|_| "not a number of days, `forever` or `default`")
            }
        }
    }
}

#[derive(Serialize)]
struct EntryLine {
    id: i64,
    kind: &'static str,
    amount: Usd,
    reason: String,
    actor: String,
    call: Option<String>,
    hour_ms: Option<i64>,
    at_ms: i64,
}

impl From<EntryRecord> for EntryLine {
    fn from(entry: EntryRecord) -> Self {
        Self {
            id: entry.id,
            kind: entry.kind.name(),
            amount: Usd(entry.amount),
            reason: entry.reason,
            actor: entry.actor,
            call: entry.call,
            hour_ms: entry.hour.map(|hour| hour.0),
            at_ms: entry.at.0,
        }
    }
}

impl EntryLine {
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            date(self.at_ms.div_euclid(86_400_000)),
            self.kind.to_owned(),
            format!("${}", self.amount.0),
            super::print::or_dash(self.call.as_ref()),
            self.reason.clone(),
            self.actor.clone(),
        ]
    }
}

#[derive(Serialize)]
struct ChargeLine {
    project: Option<String>,
    key: String,
    model: String,
    charge: Usd,
}

#[derive(Serialize)]
struct StatementLine {
    org: String,
    month: String,
    closed: bool,
    opening: Usd,
    entries: Vec<EntryLine>,
    charges: Vec<ChargeLine>,
    charged: Usd,
    closing: Usd,
}

#[derive(Serialize)]
struct RetentionLine {
    org: String,
    days: Option<u64>,
    folded_ms: i64,
}

pub(super) async fn run(command: CreditsCommand, surroundings: Surroundings<'_>) -> Result<(), CliError> {
    let Surroundings { now, out, .. } = surroundings;
    match command {
        CreditsCommand::Adjust { id, usd, reason, force, place } => {
            let new = NewEntry { org: id, kind: NewKind::Adjustment { is_forced: force }, amount: usd, reason };
            let store = place.open_store().await?;
            let made = store.book_entry(&new, None, now).await?;
            booked(&store, made, id, place.printer(out)).await
        }
        CreditsCommand::Refund { id, usd, reason, call, place } => {
            let new = NewEntry { org: id, kind: NewKind::Refund { call }, amount: usd, reason };
            let store = place.open_store().await?;
            let made = store.book_entry(&new, None, now).await?;
            booked(&store, made, id, place.printer(out)).await
        }
        CreditsCommand::Entries { id, place } => list(&place, id, out).await,
        CreditsCommand::Statement { id, month, place } => {
            let statement = place.open_store().await?.statement(id, month).await?;
            let text = describe(&statement);
            Ok(place.printer(out).one(&statement_line(statement), || text)?)
        }
        CreditsCommand::Retention { id, days, place } => {
            let store = place.open_store().await?;
            if let Some(Days(days)) = days {
                store.set_retention(id, days, now).await?;
            }
            let retention = store.retention(id).await?;
            let line = RetentionLine { org: id.to_string(), days: retention.days, folded_ms: retention.folded.0 };
            Ok(place.printer(out).one(&line, || match retention.days {
                None => format!("Calls of {id} are kept as long as the configuration says."),
                Some(0) => format!("Calls of {id} are kept for ever."),
                Some(days) => format!("Calls of {id} are kept {days} days; then sums of them are left."),
            })?)
        }
    }
}

async fn booked(store: &Store, made: EntryRecord, id: OrgId, mut printer: Printer<'_>) -> Result<(), CliError> {
    let balance = store.organisation(id).await?.balance();
    let line = EntryLine::from(made);
    let sentence = format!("Booked ${} for {id}, entry {}. Its balance is ${balance}.", line.amount.0, line.id);
    Ok(printer.one(&line, || sentence)?)
}

async fn list(place: &Place, id: OrgId, out: &mut (dyn std::io::Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    store.organisation(id).await?;
    store.take_over_credits().await?;
    let mut printer = place.printer(out);
    let (mut before, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.entries(id, before, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.id);
        let lines: Vec<EntryLine> = page.into_iter().map(EntryLine::from).collect();
        printer.many(&lines, headings.take(), EntryLine::cells)?;
    }
}

fn statement_line(statement: Statement) -> StatementLine {
    let charge = |line: crate::store::statements::ChargeLine| ChargeLine {
        project: line.project,
        key: line.key,
        model: line.model,
        charge: Usd(line.charge),
    };
    StatementLine {
        org: statement.org.to_string(),
        month: statement.month.to_string(),
        closed: statement.is_closed,
        opening: Usd(statement.opening),
        entries: statement.entries.into_iter().map(EntryLine::from).collect(),
        charges: statement.charges.into_iter().map(charge).collect(),
        charged: Usd(statement.charged),
        closing: Usd(statement.closing),
    }
}

fn describe(statement: &Statement) -> String {
    let Statement { org, month, opening, charged, closing, .. } = statement;
    let mut text = format!("{org}, {month} (UTC)\n  opening  ${opening}\n");
    for entry in &statement.entries {
        let (day, kind) = (date(entry.at.day()), entry.kind.name());
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {day}  {kind}  ${}  {}", entry.amount, entry.reason);
    }
    for line in &statement.charges {
        let project = line.project.as_deref().unwrap_or("-");
        let _ = writeln!(text, "  charged  {project}  {}  {}  ${}", line.key, line.model, line.charge);
    }
    let end = if statement.is_closed { "closing" } else { "so far " };
    let _ = write!(text, "  charged  ${charged}\n  {end}  ${closing}");
    text
}
