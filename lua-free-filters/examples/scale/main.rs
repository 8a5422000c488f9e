//! A thousand nodes on one authority, ten million keys, demand by Zipf's law, in simulated time: what several nodes ask of the
//! books, what credit lies idle with them, and whom they refuse that a single counter would have let through. What decides is
//! the code that the gateway runs: chains, accounts, rates, leases and the book of the authority. A run follows from its seed.
//!
//!     cargo run --release --package lua-free-filters --example scale [-- --nodes 1000 --keys 10000000 --seed 1 …]

mod calls;
mod leases;
mod node;
mod random;
mod rates;
mod report;
mod truth;
mod world;
mod zipf;

use random::Random;
use report::Report;
use std::process::ExitCode;
use std::sync::Arc;
use world::{World, demand_of};

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) nodes: u32,
    pub(crate) keys: u64,
    pub(crate) orgs: u64,
    pub(crate) calls_per_second: u64,
    pub(crate) seconds: u64,
    /// Whether all calls of a key come to one node, instead of to any.
    pub(crate) is_by_key: bool,
    /// No limit of money is lower, in nano-USD.
    pub(crate) limit_min: i64,
}

/// How calls come to nodes and what the lowest limit is, in each column.
const COLUMNS: [(bool, i64); 4] =
    [(false, 400_000_000), (false, 5_000_000_000), (true, 400_000_000), (true, 5_000_000_000)];

impl Settings {
    /// What the command line says; an error names what it means not.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self {
            seed: 1,
            nodes: 1_000,
            keys: 10_000_000,
            orgs: 100_000,
            calls_per_second: 50_000,
            seconds: 20,
            is_by_key: false,
            limit_min: 0,
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let text = arguments.next().unwrap_or_default();
            let value = text.parse::<u64>().ok().filter(|value| *value > 0);
            let value = value.ok_or_else(|| format!("{name} {text}: a number from 1 on is missing"))?;
            match name.as_str() {
                "--seed" => settings.seed = value,
                "--nodes" => settings.nodes = u32::try_from(value).map_err(|error| format!("{name}: {error}"))?,
                "--keys" => settings.keys = value,
                "--orgs" => settings.orgs = value,
                "--calls-per-second" => settings.calls_per_second = value,
                "--seconds" => settings.seconds = value,
                _ => {
                    return Err(format!(
                        "{name} is none of --seed, --nodes, --keys, --orgs, --calls-per-second, --seconds"
                    ));
                }
            }
        }
        Ok(settings)
    }
}

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let demand = demand_of(&settings);
    let runs = std::thread::scope(|scope| {
        let columns = COLUMNS.map(|(is_by_key, limit_min)| {
            let settings = Settings { is_by_key, limit_min, ..settings.clone() };
            let demand = Arc::clone(&demand);
            scope.spawn(move || World::new(settings.clone(), Random::of(settings.seed), demand).run())
        });
        columns.map(|column| column.join().expect("what must hold holds"))
    });
    Report { settings: &settings, runs: &runs }.print();
    ExitCode::SUCCESS
}
