//! `tollgate audit`: the books recomputed.

use super::{CliError, Place, Surroundings};
use crate::store::audit::{AuditReport, Finding};
use crate::store::journal;
use filters::money::NanoUsd;
use serde::Serialize;
use serde_json::value::RawValue;
use std::fmt::Write;
use std::process::ExitCode;

/// Where the books are.
#[derive(Debug, clap::Args)]
pub struct AuditCommand {
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct FindingLine<'a> {
    invariant: &'static str,
    object: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct AuditLine<'a> {
    clean: bool,
    first_broken: Option<&'static str>,
    organisations: u64,
    keys: u64,
    calls: u64,
    charged: Box<RawValue>,
    findings: Vec<FindingLine<'a>>,
    findings_unnamed: u64,
    recovered: &'a [String],
    recovered_unnamed: u64,
    above_reserve: u64,
    open_intents: u64,
    unshipped: u64,
}

pub(super) async fn run(command: AuditCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let store = command.place.open_store().await?;
    let data_dir = command.place.data_dir()?;
    let checkpoint = match journal::node_name(&data_dir) {
        Some(node) => store.checkpoint(&node).await?,
        None => None,
    };
    let facts = journal::facts(&data_dir, checkpoint)?;
    let report = store.audit(facts).await?;
    let line = line(&report).map_err(std::io::Error::other)?;
    command.place.printer(surroundings.out).one(&line, || describe(&report))?;
    Ok(match report.first_broken() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn line(report: &AuditReport) -> serde_json::Result<AuditLine<'_>> {
    let finding = |finding: &'_ Finding| finding.invariant.name();
    Ok(AuditLine {
        clean: report.findings.is_empty(),
        first_broken: report.first_broken().map(finding),
        organisations: report.organisations,
        keys: report.keys,
        calls: report.calls,
        charged: RawValue::from_string(charged(report))?,
        findings: report
            .findings
            .iter()
            .map(|finding| FindingLine {
                invariant: finding.invariant.name(),
                object: &finding.object,
                detail: &finding.detail,
            })
            .collect(),
        findings_unnamed: report.findings_unnamed,
        recovered: &report.recovered,
        recovered_unnamed: report.recovered_unnamed,
        above_reserve: report.above_reserve,
        open_intents: report.journal.open_intents,
        unshipped: report.journal.unshipped,
    })
}

/// All charges together, in dollars.
fn charged(report: &AuditReport) -> String {
    let amount = i64::try_from(report.charged).unwrap_or(i64::MAX);
    NanoUsd(amount).to_string()
}

fn describe(report: &AuditReport) -> String {
    let mut text = format!(
        "Recomputed {} calls of {} keys and {} organisations, ${} in all.\n",
        report.calls,
        report.keys,
        report.organisations,
        charged(report)
    );
    let recovered = report.recovered.len() as u64 + report.recovered_unnamed;
    for (count, what) in [
        (recovered, "calls were recovered after a crash and charged by their estimate"),
        (report.above_reserve, "calls were charged more than was set aside for them"),
        (report.journal.open_intents, "calls have begun and not ended"),
        (report.journal.unshipped, "calls have ended and are not on the books yet"),
    ] {
        if count > 0 {
            // Writing to a String can't fail.
            let _ = writeln!(text, "Not an error: {count} {what}.");
        }
    }
    for call in &report.recovered {
        let _ = writeln!(text, "  recovered: {call}");
    }
    for finding in &report.findings {
        let (name, object) = (finding.invariant.name(), &finding.object);
        let _ = writeln!(text, "BROKEN {name}: {object}: {}", finding.detail);
    }
    if report.findings_unnamed > 0 {
        let _ = writeln!(text, "BROKEN: {} more.", report.findings_unnamed);
    }
    text.push_str(match report.first_broken() {
        None => "The books are true.",
        Some(_) => "The books are not true: see the first BROKEN line.",
    });
    text
}
