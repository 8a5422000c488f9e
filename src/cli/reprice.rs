//! `tollgate reprice --dry-run`: what calls would have been charged at the prices that the catalogue has now.

use super::moment::Moment;
use super::print::Printer;
use super::{CliError, Surroundings};
use crate::config::Config;
use crate::decimal::Usd;
use crate::store::reprice::{Repriced, Selection, Served};
use filters::catalogue::Catalogue;
use filters::id::OrgId;
use filters::money::NanoUsd;
use filters::price::Price;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which calls, and at whose prices.
#[derive(Debug, clap::Args)]
pub struct RepriceCommand {
    /// Change nothing, only say what would be. Nothing else can be asked for.
    #[arg(long)]
    dry_run: bool,
    /// Calls since then: how long ago, such as 7d, or a date; all of them if it is not given.
    #[arg(long, value_name = "WHEN")]
    since: Option<Moment>,
    /// Calls of this organisation, `org_…`.
    #[arg(long)]
    org: Option<OrgId>,
    /// The configuration file that names the catalogue and the books.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object a line: each model's, then that of all.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct RepriceLine {
    /// None: of all models.
    model: Option<String>,
    calls: u64,
    changed: u64,
    unpriced: u64,
    charged: Usd,
    repriced: Usd,
    difference: Usd,
}

impl RepriceLine {
    fn new(model: Option<String>, sums: &Repriced) -> Self {
        let usd = |amount: i128| Usd(NanoUsd(i64::try_from(amount).unwrap_or(i64::MAX)));
        let Repriced { calls, changed, unpriced, charged, repriced } = *sums;
        let difference = usd(repriced - charged);
        Self { model, calls, changed, unpriced, charged: usd(charged), repriced: usd(repriced), difference }
    }
}

pub(super) async fn run(command: RepriceCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    if !command.dry_run {
        let problem =
            "what has been charged stays charged: `tollgate reprice --dry-run` says what other prices would have made";
        return Err(CliError::BadInput(problem.to_owned()));
    }
    let config = Config::load(&command.config).map_err(CliError::of_config)?;
    let store = super::open_store(&config.books).await?;
    if let Some(org) = command.org {
        store.organisation(org).await?;
    }
    let selection = Selection { since: command.since.map(|since| since.before(surroundings.now)), org: command.org };
    let models = store.reprice(selection, |call| price_of(&config.catalogue, call)).await?;
    let mut all = Repriced::default();
    models.values().for_each(|model| all.add(model));
    let lines = models.iter().map(|(model, sums)| RepriceLine::new(Some(model.clone()), sums));
    let lines: Vec<_> = lines.chain([RepriceLine::new(None, &all)]).collect();
    let headings = ["MODEL", "CALLS", "CHANGED", "UNPRICED", "CHARGED", "REPRICED", "DIFFERENCE"];
    let mut printer = Printer { json: command.json, out: surroundings.out };
    printer.many(&lines, Some(&headings), cells)?;
    Ok(ExitCode::SUCCESS)
}

/// The price that the catalogue has for the day of a call.
fn price_of<'a>(catalogue: &'a Catalogue, call: Served<'_>) -> Option<&'a Price> {
    let candidates = &catalogue.find(call.model)?.candidates;
    let candidate = candidates.iter().find(|candidate| *candidate.provider == *call.provider)?;
    let version = candidate.price_at(call.started)?;
    let version = if call.is_own { version.own()? } else { version };
    let of_picture = call.picture.and_then(|picture| version.named(picture));
    Some(&of_picture.unwrap_or(version).price)
}

fn cells(line: &RepriceLine) -> Vec<String> {
    vec![
        line.model.clone().unwrap_or_else(|| "all".to_owned()),
        line.calls.to_string(),
        line.changed.to_string(),
        line.unpriced.to_string(),
        format!("${}", line.charged.0),
        format!("${}", line.repriced.0),
        format!("${}", line.difference.0),
    ]
}
