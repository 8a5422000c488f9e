//! `tollgate node`: the gateways that share the books.

use super::print::or_dash;
use super::{CliError, Place, Surroundings};
use crate::decimal::Usd;
use crate::store::nodes::{Forgetting, NodeRecord};
use filters::time::EpochMs;
use serde::Serialize;
use std::process::ExitCode;

const HEADINGS: [&str; 7] = ["ID", "STATE", "FIRST SEEN", "HEARD OF", "OUTSTANDING", "UNACCOUNTED", "SHIPPED THROUGH"];

/// What to do with nodes.
#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// List the nodes, what each may still spend of organisations' balances, and up to where its journal is on the books.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Fence a node that is gone for good: it gets no credit any more, and what it held is booked as spent. If its journal comes
    /// back, its calls are charged against that.
    Forget {
        /// Its name, `node_…`.
        id: String,
        /// Give what it held to others instead: right only if its journal is known to hold no calls that are not on the books.
        #[arg(long)]
        release: bool,
        /// Even if it was heard of in the last 10 seconds.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Serialize)]
struct NodeLine {
    id: String,
    state: String,
    first_seen_ms: i64,
    last_heartbeat_ms: i64,
    outstanding: Usd,
    unaccounted: Usd,
    shipped_segment: Option<u64>,
    shipped_offset: Option<u64>,
}

impl From<&NodeRecord> for NodeLine {
    fn from(record: &NodeRecord) -> Self {
        Self {
            id: record.id.clone(),
            state: record.state.clone(),
            first_seen_ms: record.first_seen.0,
            last_heartbeat_ms: record.last_heartbeat.0,
            outstanding: Usd(record.outstanding),
            unaccounted: Usd(record.unaccounted),
            shipped_segment: record.shipped.map(|shipped| shipped.segment),
            shipped_offset: record.shipped.map(|shipped| shipped.offset),
        }
    }
}

impl NodeCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::List { place } | Self::Forget { place, .. } => place,
        }
    }
}

pub(super) async fn run(command: NodeCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    match command {
        NodeCommand::List { place } => {
            let nodes = place.open_store().await?.nodes().await?;
            let lines: Vec<NodeLine> = nodes.iter().map(NodeLine::from).collect();
            place.printer(out).many(&lines, Some(&HEADINGS), |line| cells(line, now))?;
        }
        NodeCommand::Forget { id, release, force, place } => {
            let how = Forgetting { releases: release, is_forced: force };
            let record = place.open_store().await?.forget_node(&id, how).await?;
            place.printer(out).one(&NodeLine::from(&record), || match release {
                true => format!("Forgot {id}. What it held was released."),
                false => format!(
                    "Forgot {id}. What it held is booked as spent, ${} of organisations' balances; calls that its journal \
                     brings later are charged against that.",
                    record.unaccounted
                ),
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(line: &NodeLine, now: EpochMs) -> Vec<String> {
    let ago = |moment_ms: i64| format!("{} s ago", now.0.saturating_sub(moment_ms).max(0) / 1_000);
    let shipped = line.shipped_segment.zip(line.shipped_offset);
    vec![
        line.id.clone(),
        line.state.clone(),
        ago(line.first_seen_ms),
        ago(line.last_heartbeat_ms),
        format!("${}", line.outstanding.0),
        format!("${}", line.unaccounted.0),
        or_dash(shipped.map(|(segment, offset)| format!("segment {segment}, byte {offset}"))),
    ]
}
