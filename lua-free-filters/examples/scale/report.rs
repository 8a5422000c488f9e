//! The table.

use crate::{COLUMNS, Settings};
use filters::money::NanoUsd;

/// Two sums are added to, and two are given their time to live.
const COMMANDS_PER_RATE: f64 = 4.0;

/// What was counted in a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    pub(crate) calls: u64,
    /// Calls that had to wait for a transaction.
    pub(crate) waited: u64,
    /// And those that had to wait for a slice of their rate.
    pub(crate) waited_for_rates: u64,
    /// Keys that a node had not had in memory.
    pub(crate) loads: u64,
    pub(crate) refused: u64,
    /// Of those, what is admitted where everything is known; and what is refused there.
    pub(crate) needless: u64,
    pub(crate) undue: u64,
    pub(crate) transactions: u64,
    /// Rows that those transactions locked.
    pub(crate) asks: u64,
    pub(crate) shipments: u64,
    /// Round trips to Redis, and rates that they were about.
    pub(crate) exchanges: u64,
    pub(crate) rates_asked: u64,
    pub(crate) busiest_rate: u64,
    pub(crate) busiest_node: u64,
    pub(crate) busiest_row: u64,
    /// Leased, and of use to no call at the end of the second; all limits, and what is left of them.
    pub(crate) idle: i64,
    pub(crate) limits: i64,
    pub(crate) left: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) seconds: Vec<Second>,
}

impl Run {
    /// After the first quarter, in which all is cold.
    fn settled(&self) -> &[Second] {
        &self.seconds[self.seconds.len() / 4..]
    }

    fn mean(&self, of: fn(&Second) -> u64) -> f64 {
        let seconds = self.settled();
        seconds.iter().map(|second| of(second) as f64).sum::<f64>() / seconds.len() as f64
    }

    fn most(&self, of: fn(&Second) -> u64) -> u64 {
        self.settled().iter().map(of).max().unwrap_or(0)
    }

    fn percent(&self, part: fn(&Second) -> u64, whole: fn(&Second) -> u64) -> String {
        format!("{:.2} %", 100.0 * self.mean(part) / self.mean(whole))
    }
}

/// A row: what it counts, and how it is read off a run.
type Row<'a> = (&'a str, &'a dyn Fn(&Run) -> String);

pub(crate) struct Report<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) runs: &'a [Run; 4],
}

impl Report<'_> {
    pub(crate) fn print(&self) {
        let Settings { seed, nodes, keys, orgs, calls_per_second, seconds, .. } = self.settings;
        println!(
            "{nodes} nodes, {keys} keys of {orgs} organisations, {calls_per_second} calls a second for {seconds} s, seed {seed}.\n"
        );
        let columns = COLUMNS.map(|(is_by_key, limit_min)| {
            let whose = if is_by_key { "a key's calls come to one node" } else { "any node takes any call" };
            format!("{whose}, limits from ${}", NanoUsd(limit_min))
        });
        println!("| | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(COLUMNS.len()));
        let nodes = f64::from(*nodes);
        let rows: [Row<'_>; 19] = [
            ("calls a second", &|run| format!("{:.0}", run.mean(|second| second.calls))),
            ("calls that wait for a lease transaction", &|run| {
                run.percent(|second| second.waited, |second| second.calls)
            }),
            ("keys that a node reads for the first time, a second", &|run| {
                format!("{:.0}", run.mean(|second| second.loads))
            }),
            ("authority transactions a second, all nodes", &|run| {
                format!("{:.0}", run.mean(|second| second.transactions))
            }),
            ("… a node", &|run| format!("{:.1}", run.mean(|second| second.transactions) / nodes)),
            ("… the busiest node in its busiest second", &|run| run.most(|second| second.busiest_node).to_string()),
            ("quota rows asked for, a second", &|run| format!("{:.0}", run.mean(|second| second.asks))),
            ("… the busiest row in its busiest second", &|run| run.most(|second| second.busiest_row).to_string()),
            ("shipments a second, all nodes", &|run| format!("{:.0}", run.mean(|second| second.shipments))),
            ("calls that wait for a slice of a rate", &|run| {
                run.percent(|second| second.waited_for_rates, |second| second.calls)
            }),
            ("round trips to Redis a second, all nodes", &|run| format!("{:.0}", run.mean(|second| second.exchanges))),
            ("… a node", &|run| format!("{:.1}", run.mean(|second| second.exchanges) / nodes)),
            ("… about the busiest rate in its busiest second", &|run| {
                run.most(|second| second.busiest_rate).to_string()
            }),
            ("commands to Redis a second", &|run| {
                format!("{:.0}", COMMANDS_PER_RATE * run.mean(|second| second.rates_asked))
            }),
            ("… in the busiest second", &|run| {
                format!("{:.0}", COMMANDS_PER_RATE * run.most(|second| second.rates_asked) as f64)
            }),
            ("stranded: credit that lies idle with nodes, of what is left of all limits", &|run| {
                let last = run.seconds.last().cloned().unwrap_or_default();
                format!("{:.2} %", 100.0 * last.idle as f64 / last.left.max(1) as f64)
            }),
            ("refused, of all calls", &|run| run.percent(|second| second.refused, |second| second.calls)),
            ("refused by a single counter that knows everything", &|run| {
                run.percent(|second| second.undue, |second| second.calls)
            }),
            ("refused by nodes and not by it", &|run| run.percent(|second| second.needless, |second| second.calls)),
        ];
        for (what, read) in rows {
            let cells: Vec<String> = self.runs.iter().map(read).collect();
            println!("| {what} | {} |", cells.join(" | "));
        }
    }
}
