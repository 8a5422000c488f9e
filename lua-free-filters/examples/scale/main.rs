//! A thousand nodes on one authority, ten million keys, demand by Zipf's law, in simulated time: what several nodes ask of the
//! books, what credit lies idle with them, and whom they refuse that a single counter would have let through. What decides is
//! the code that the gateway runs: chains, accounts, leases and the book of the authority. A run follows from its seed.
//!
//!     cargo run --release --package lua-free-filters --example scale [-- --nodes 1000 --keys 10000000 --seed 1 …]

mod calls;
mod leases;
mod node;
mod random;
mod report;
mod truth;
mod world;
mod zipf;

use random::Random;
use report::Report;
use std::process::ExitCode;
use world::World;

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
}

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
    let runs = [false, true].map(|is_by_key| {
        let settings = Settings { is_by_key, ..settings.clone() };
        World::new(settings.clone(), Random::of(settings.seed)).run()
    });
    Report { settings: &settings, runs: &runs }.print();
    ExitCode::SUCCESS
}
