//! `tollgate project`: keys of an organisation that share limits.

use super::limit::{self, LimitLine, NarrowedLimits};
use super::moment::date;
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::Store;
use crate::store::limits::Owner;
use crate::store::projects::ProjectRecord;
use filters::id::{OrgId, ProjectId};
use filters::time::EpochMs;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

const HEADINGS: [&str; 6] = ["ID", "NAME", "KEYS", "SPENT", "LIMITS", "CREATED"];

/// What to do with projects.
#[derive(Debug, clap::Subcommand)]
pub enum ProjectCommand {
    /// Make a project. `tollgate key create --project` puts keys in it.
    Create {
        /// What people call it.
        #[arg(value_parser = super::key::read_name)]
        name: String,
        /// The organisation that pays, `org_…`.
        #[arg(long)]
        org: OrgId,
        #[command(flatten)]
        limits: Box<NarrowedLimits>,
        #[command(flatten)]
        place: Place,
    },
    /// List an organisation's projects.
    List {
        /// The organisation, `org_…`.
        #[arg(long)]
        org: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Show one project.
    Show {
        /// Its identifier, `proj_…`.
        id: ProjectId,
        /// Its organisation, `org_…`: a server must be told, unless you are in one alone.
        #[arg(long)]
        org: Option<OrgId>,
        #[command(flatten)]
        place: Place,
    },
    /// Set, change or remove limits of a project: of all its keys together.
    Limit {
        /// Its identifier, `proj_…`.
        id: ProjectId,
        /// Its organisation, `org_…`: a server must be told, unless you are in one alone.
        #[arg(long)]
        org: Option<OrgId>,
        #[command(flatten)]
        limits: Box<NarrowedLimits>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Serialize)]
struct ProjectLine {
    id: String,
    org: String,
    name: String,
    keys: i64,
    spent: Usd,
    limits: Vec<LimitLine>,
    created_ms: i64,
}

impl From<&ProjectRecord> for ProjectLine {
    fn from(record: &ProjectRecord) -> Self {
        Self {
            id: record.id.to_string(),
            org: record.org.to_string(),
            name: record.name.clone(),
            keys: record.keys,
            spent: Usd(record.spent),
            limits: limit::lines(&record.limits),
            created_ms: record.created.0,
        }
    }
}

impl ProjectCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place, .. }
            | Self::Show { place, .. }
            | Self::Limit { place, .. } => place,
        }
    }
}

pub(super) async fn run(command: ProjectCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    match command {
        ProjectCommand::Create { name, org, limits, place } => {
            let limits = limits.of_new(now)?;
            let made = place.open_store().await?.create_project(org, &name, &limits, now).await?;
            place.printer(out).one(&ProjectLine::from(&made), || {
                format!(
                    "Made project {} ({}). Keys of it: tollgate key create --org {org} --project {} --name NAME",
                    made.name, made.id, made.id
                )
            })?;
        }
        ProjectCommand::List { org, place } => list(org, &place, now, out).await?,
        ProjectCommand::Show { id, org, place } => {
            let record = project(&place.open_store().await?, id, org, now).await?;
            place.printer(out).one(&ProjectLine::from(&record), || describe(&record))?;
        }
        ProjectCommand::Limit { id, org, limits, place } => {
            let changes = limits.changes(now)?;
            let store = place.open_store().await?;
            project(&store, id, org, now).await?;
            store.change_limits(Owner::Project(id), &changes, now).await?;
            let record = store.project(id, now).await?;
            place.printer(out).one(&ProjectLine::from(&record), || describe(&record))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The project, if it is that organisation's, where one is named.
async fn project(store: &Store, id: ProjectId, org: Option<OrgId>, now: EpochMs) -> Result<ProjectRecord, CliError> {
    let record = store.project(id, now).await?;
    match org {
        Some(org) if org != record.org => {
            Err(CliError::BadInput(format!("{id} is a project of {}, not of {org}", record.org)))
        }
        Some(_) | None => Ok(record),
    }
}

async fn list(org: OrgId, place: &Place, now: EpochMs, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    store.organisation(org).await?;
    let mut printer = place.printer(out);
    let (mut after, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.projects(org, after, now).await?;
        let lines: Vec<ProjectLine> = page.iter().map(ProjectLine::from).collect();
        printer.many(&lines, headings.take(), |line| {
            vec![
                line.id.clone(),
                line.name.clone(),
                line.keys.to_string(),
                format!("${}", line.spent.0),
                line.limits.len().to_string(),
                date(EpochMs(line.created_ms).day()),
            ]
        })?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
    }
}

fn describe(record: &ProjectRecord) -> String {
    format!(
        "{} ({})\n  organisation  {}\n  keys          {}\n  spent         ${}\n  created       {}{}",
        record.name,
        record.id,
        record.org,
        record.keys,
        record.spent,
        date(record.created.day()),
        limit::describe(&record.limits)
    )
}
