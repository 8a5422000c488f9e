//! `tollgate audit`: the books recomputed.

use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::audit::{Account, AuditReport, Finding, HomeJournal, Listing, NodeLeases, Unaccounted};
use crate::store::journal;
use filters::money::NanoUsd;
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

/// Where the books are.
#[derive(Debug, clap::Args)]
pub struct AuditCommand {
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Serialize)]
struct FindingLine<'a> {
    invariant: &'static str,
    object: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct AccountLine<'a> {
    org: &'a str,
    opening: Usd,
    top_ups: Usd,
    adjustments: Usd,
    refunds: Usd,
    charges: Usd,
    unaccounted: Usd,
    balance: Usd,
}

#[derive(Serialize)]
struct AboveReserveLine<'a> {
    call: &'a str,
    charge: Usd,
    reserved: Usd,
    is_bound: bool,
}

#[derive(Serialize)]
struct ExcessLine<'a> {
    quota: i64,
    owner: &'a str,
    period_ms: i64,
    strict: bool,
    excess: Usd,
}

#[derive(Serialize)]
struct LoweredLine<'a> {
    quota: i64,
    owner: &'a str,
    at_ms: i64,
    limit: Usd,
    below_spent: Usd,
}

#[derive(Serialize)]
struct NodeLine<'a> {
    node: &'a str,
    leases: u64,
    outstanding: Usd,
}

#[derive(Serialize)]
struct UnaccountedLine<'a> {
    node: &'a str,
    quota: i64,
    owner: &'a str,
    period_ms: i64,
    booked: Usd,
    left: Usd,
}

/// How much there is of something that is no error, and the first of it.
#[derive(Serialize)]
struct ListLine<T> {
    count: u64,
    sum: Usd,
    named: Vec<T>,
}

#[derive(Serialize)]
struct AuditLine<'a> {
    clean: bool,
    first_broken: Option<&'static str>,
    organisations: u64,
    keys: u64,
    calls: u64,
    folded: u64,
    charged: Usd,
    accounts: Vec<AccountLine<'a>>,
    findings: Vec<FindingLine<'a>>,
    findings_unnamed: u64,
    recovered: ListLine<&'a str>,
    not_recomputed: u64,
    above_reserve: ListLine<AboveReserveLine<'a>>,
    excesses: ListLine<ExcessLine<'a>>,
    lowered: ListLine<LoweredLine<'a>>,
    nodes: Vec<NodeLine<'a>>,
    unaccounted: ListLine<UnaccountedLine<'a>>,
    open_intents: u64,
    unshipped: u64,
    elsewhere: u64,
}

pub(super) async fn run(command: AuditCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let store = command.place.open_store().await?;
    let data_dir = command.place.data_dir()?;
    // The books first: what is in none of them by then may have come there when the journal has been read.
    let mut report = store.audit().await?;
    let node = journal::node_name(&data_dir);
    let checkpoint = match &node {
        Some(node) => store.checkpoint(node).await?,
        None => None,
    };
    report.add_journal(journal::facts(&data_dir, checkpoint)?);
    let known = journal::known(&data_dir, &report.strays)?;
    store.judge_strays(&mut report, &HomeJournal { node, known }).await?;
    command.place.printer(surroundings.out).one(&line(&report), || describe(&report))?;
    Ok(match report.first_broken() {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn line(report: &AuditReport) -> AuditLine<'_> {
    AuditLine {
        clean: report.findings.is_empty(),
        first_broken: report.first_broken().map(|finding| finding.invariant.name()),
        organisations: report.organisations,
        keys: report.keys,
        calls: report.calls,
        folded: report.folded,
        charged: usd(report.charged),
        accounts: report.accounts.iter().map(AccountLine::from).collect(),
        findings: report.findings.iter().map(FindingLine::from).collect(),
        findings_unnamed: report.findings_unnamed,
        recovered: list(&report.recovered, |call| call.as_str()),
        not_recomputed: report.not_recomputed,
        above_reserve: list(&report.above_reserve, |above| AboveReserveLine {
            call: &above.call,
            charge: Usd(above.charge),
            reserved: Usd(above.reserved),
            is_bound: above.is_bound,
        }),
        excesses: list(&report.excesses, |excess| ExcessLine {
            quota: excess.quota.0,
            owner: &excess.owner,
            period_ms: excess.period.0,
            strict: excess.is_strict,
            excess: Usd(NanoUsd(excess.amount)),
        }),
        lowered: list(&report.lowered, |lowered| LoweredLine {
            quota: lowered.quota.0,
            owner: &lowered.owner,
            at_ms: lowered.at.0,
            limit: Usd(NanoUsd(lowered.limit)),
            below_spent: Usd(NanoUsd(lowered.amount)),
        }),
        nodes: report.nodes.iter().map(NodeLine::from).collect(),
        unaccounted: list(&report.unaccounted, UnaccountedLine::from),
        open_intents: report.journal.open_intents,
        unshipped: report.journal.unshipped,
        elsewhere: report.elsewhere,
    }
}

impl<'a> From<&'a Account> for AccountLine<'a> {
    fn from(account: &'a Account) -> Self {
        Self {
            org: &account.org,
            opening: Usd(account.opening),
            top_ups: Usd(account.top_ups),
            adjustments: Usd(account.adjustments),
            refunds: Usd(account.refunds),
            charges: Usd(account.charges),
            unaccounted: Usd(account.unaccounted),
            balance: Usd(account.balance),
        }
    }
}

impl<'a> From<&'a Finding> for FindingLine<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self { invariant: finding.invariant.name(), object: &finding.object, detail: &finding.detail }
    }
}

impl<'a> From<&'a NodeLeases> for NodeLine<'a> {
    fn from(node: &'a NodeLeases) -> Self {
        Self { node: &node.node, leases: node.leases, outstanding: usd(node.outstanding) }
    }
}

impl<'a> From<&'a Unaccounted> for UnaccountedLine<'a> {
    fn from(held: &'a Unaccounted) -> Self {
        Self {
            node: &held.node,
            quota: held.quota.0,
            owner: &held.owner,
            period_ms: held.period.0,
            booked: Usd(held.booked),
            left: Usd(held.left),
        }
    }
}

fn list<'a, T, L>(listing: &'a Listing<T>, line: impl Fn(&'a T) -> L) -> ListLine<L> {
    ListLine { count: listing.count, sum: usd(listing.sum), named: listing.named.iter().map(line).collect() }
}

/// An amount in dollars. Stops at the largest.
fn usd(amount: i128) -> Usd {
    Usd(NanoUsd(i64::try_from(amount).unwrap_or(i64::MAX)))
}

fn describe(report: &AuditReport) -> String {
    let AuditReport { calls, keys, organisations, journal, .. } = report;
    let mut text = format!(
        "Recomputed {calls} calls of {keys} keys and {organisations} organisations, ${} in all.\n",
        usd(report.charged).0
    );
    list_harmless(&mut text, report);
    for (count, what) in [
        (report.not_recomputed, "recovered calls were charged at the price of a candidate that is not known any more"),
        (report.folded, "calls are old and only their sums are left"),
        (journal.open_intents, "calls have begun and not ended"),
        (journal.unshipped, "calls have ended and are not on the books yet"),
        (report.elsewhere, "calls have begun on other nodes and are not on the books yet"),
    ] {
        if count > 0 {
            // Writing to a String can't fail.
            let _ = writeln!(text, "Not an error: {count} {what}.");
        }
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

/// Lists with sums: calls above what was set aside, quotas above their limits, limits below what was spent, leases.
fn list_harmless(text: &mut String, report: &AuditReport) {
    let AuditReport { recovered, above_reserve, excesses, lowered, nodes, unaccounted, .. } = report;
    let mut told = |count: u64, sum: i128, what: &str, lines: Vec<String>| {
        if count > 0 {
            // Writing to a String can't fail.
            let _ = writeln!(text, "Not an error: {count} {what}, ${} in all.", usd(sum).0);
            lines.iter().for_each(|line| _ = writeln!(text, "  {line}"));
        }
    };
    let calls = recovered.named.iter().map(|call| format!("recovered: {call}"));
    let what = "calls were recovered after a crash and charged by how far they had come";
    told(recovered.count, recovered.sum, what, calls.collect());
    let calls = above_reserve.named.iter().map(|above| {
        let kind = if above.is_bound { "a bound" } else { "an estimate" };
        format!("{}: charged ${} of ${}, {kind}", above.call, above.charge, above.reserved)
    });
    let what = "calls were charged more than was set aside for them";
    told(above_reserve.count, above_reserve.sum, what, calls.collect());
    let quotas = excesses.named.iter().map(|excess| {
        let (owner, period, amount) = (&excess.owner, excess.period.0, NanoUsd(excess.amount));
        format!("quota {} of {owner}, period {period}: ${amount}", excess.quota.0)
    });
    told(excesses.count, excesses.sum, "limits were passed by what calls cost beyond that", quotas.collect());
    let limits = lowered.named.iter().map(|lowered| {
        let (owner, limit, at) = (&lowered.owner, NanoUsd(lowered.limit), lowered.at.0);
        format!("quota {} of {owner}: ${limit} from {at}, ${} below", lowered.quota.0, NanoUsd(lowered.amount))
    });
    told(lowered.count, lowered.sum, "limits were set below what had been spent", limits.collect());
    let held = unaccounted.named.iter().map(|held| {
        let (owner, period, booked) = (&held.owner, held.period.0, held.booked);
        format!("quota {} of {owner}, period {period}: ${} of ${booked} of {}", held.quota.0, held.left, held.node)
    });
    let what = "shares of forgotten nodes are counted as spent until their calls come on the books";
    told(unaccounted.count, unaccounted.sum, what, held.collect());
    for node in nodes.iter().filter(|node| node.outstanding != 0) {
        told(node.leases, node.outstanding, &format!("leases are {}'s to spend", node.node), Vec::new());
    }
}
