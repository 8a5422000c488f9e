//! `tollgate org`: organisations and their credits.

use super::credits::{self, CreditsCommand};
use super::limit::{self, LimitLine, NarrowedLimits};
use super::moment::date;
use super::print::{Printer, or_dash};
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::Store;
use crate::store::limits::Owner;
use crate::store::organisations::OrganisationRecord;
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::time::EpochMs;
use serde::Serialize;
use std::process::ExitCode;

/// Organisations of one page.
const PAGE: u32 = 500;
const HEADINGS: [&str; 6] = ["ID", "NAME", "BALANCE", "CREDITS", "SPENT", "CREATED"];

/// What to do with organisations.
#[derive(Debug, clap::Subcommand)]
pub enum OrgCommand {
    /// Make an organisation.
    Create {
        /// What people call it.
        #[arg(value_parser = super::key::read_name)]
        name: String,
        #[command(flatten)]
        limits: Box<NarrowedLimits>,
        #[command(flatten)]
        place: Place,
    },
    /// List organisations.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show one organisation.
    Show {
        /// Its identifier, `org_…`.
        id: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Set, change or remove limits of an organisation: of all its keys together, beside its balance.
    Limit {
        /// Its identifier, `org_…`.
        id: OrgId,
        #[command(flatten)]
        limits: Box<NarrowedLimits>,
        #[command(flatten)]
        place: Place,
    },
    /// Refuse an organisation's keys from now on, on every node within a second.
    Suspend {
        /// Its identifier, `org_…`.
        id: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Let a suspended organisation's keys in again.
    Resume {
        /// Its identifier, `org_…`.
        id: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Add credit to an organisation's balance.
    Topup {
        /// Its identifier, `org_…`.
        id: OrgId,
        /// Dollars, such as 100 or 0.50.
        usd: NanoUsd,
        /// Why, for the books.
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        place: Place,
    },
    #[command(flatten)]
    Credits(CreditsCommand),
}

#[derive(Serialize)]
struct OrgLine {
    id: String,
    name: String,
    balance: Usd,
    credits: Usd,
    spent: Usd,
    created_ms: i64,
    suspended_ms: Option<i64>,
    /// Shown, not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Vec<LimitLine>>,
}

impl From<&OrganisationRecord> for OrgLine {
    fn from(record: &OrganisationRecord) -> Self {
        Self {
            id: record.id.to_string(),
            name: record.name.clone(),
            balance: Usd(record.balance()),
            credits: Usd(record.credits),
            spent: Usd(record.spent),
            created_ms: record.created.0,
            suspended_ms: record.suspended.map(|since| since.0),
            limits: None,
        }
    }
}

impl OrgCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place }
            | Self::Show { place, .. }
            | Self::Limit { place, .. }
            | Self::Suspend { place, .. }
            | Self::Resume { place, .. }
            | Self::Topup { place, .. } => place,
            Self::Credits(command) => command.place(),
        }
    }
}

pub(super) async fn run(command: OrgCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out } = surroundings;
    match command {
        OrgCommand::Credits(command) => credits::run(command, Surroundings { now, out }).await?,
        OrgCommand::Create { name, limits, place } => {
            let limits = limits.of_new(now)?;
            let store = place.create_store().await?;
            let made = store.create_limited_organisation(&name, &limits, now).await?;
            place.printer(out).one(&OrgLine::from(&made), || {
                format!(
                    "Made organisation {} ({}). It has no credit yet: tollgate org topup {} USD",
                    made.name, made.id, made.id
                )
            })?;
        }
        OrgCommand::List { place } => list(&place, out).await?,
        OrgCommand::Show { id, place } => {
            let store = place.open_store().await?;
            show(&store, id, place.printer(out), now).await?;
        }
        OrgCommand::Limit { id, limits, place } => {
            let changes = limits.changes(now)?;
            let store = place.open_store().await?;
            store.change_limits(Owner::Organisation(id), &changes, now).await?;
            show(&store, id, place.printer(out), now).await?;
        }
        OrgCommand::Suspend { id, place } => {
            let store = place.open_store().await?;
            store.suspend_organisation(id, true, now).await?;
            show(&store, id, place.printer(out), now).await?;
        }
        OrgCommand::Resume { id, place } => {
            let store = place.open_store().await?;
            store.suspend_organisation(id, false, now).await?;
            show(&store, id, place.printer(out), now).await?;
        }
        OrgCommand::Topup { id, usd, reason, place } => {
            let store = place.open_store().await?;
            let record = store.top_up(id, usd, &reason, now).await?;
            place.printer(out).one(&OrgLine::from(&record), || {
                let balance = record.balance();
                format!("Added ${usd} to {} ({id}). Its balance is ${balance}.", record.name)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(store: &Store, id: OrgId, mut printer: Printer<'_>, now: EpochMs) -> Result<(), CliError> {
    let record = store.organisation(id).await?;
    let limits = store.limits(Owner::Organisation(id), now).await?;
    let line = OrgLine { limits: Some(limit::lines(&limits)), ..OrgLine::from(&record) };
    Ok(printer.one(&line, || describe(&record) + &limit::describe(&limits))?)
}

async fn list(place: &Place, out: &mut (dyn std::io::Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    let mut printer = place.printer(out);
    let (mut after, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.organisations(after, PAGE).await?;
        let lines: Vec<OrgLine> = page.iter().map(OrgLine::from).collect();
        printer.many(&lines, headings.take(), |line| {
            vec![
                line.id.clone(),
                line.name.clone(),
                format!("${}", line.balance.0),
                format!("${}", line.credits.0),
                format!("${}", line.spent.0),
                date(line.created_ms.div_euclid(86_400_000)),
            ]
        })?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
    }
}

fn describe(record: &OrganisationRecord) -> String {
    format!(
        "{} ({})\n  balance       ${}\n  credits       ${}\n  spent         ${}\n  created       {}\n  suspended     {}",
        record.name,
        record.id,
        record.balance(),
        record.credits,
        record.spent,
        date(record.created.day()),
        or_dash(record.suspended.map(|since| date(since.day())))
    )
}
