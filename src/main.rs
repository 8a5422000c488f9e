//! The command line: arguments → configuration → [`tollgate::app`].

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tollgate::{app, cli, config, demo, simulated_provider};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What runs: the release, the commit that it was built from if that is known, and for which machine.
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("TOLLGATE_COMMIT"), ", ", env!("TOLLGATE_TARGET"), ")");

/// The gateway that platform teams put in front of model providers.
#[derive(Parser)]
#[command(name = "tollgate", version = VERSION)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        /// The configuration file.
        #[arg(long, default_value = "conf/tollgate.toml")]
        config: PathBuf,
    },
    /// Validate a configuration, offline; every error names file, line and key.
    Check {
        /// The configuration file.
        #[arg(long, default_value = "conf/tollgate.toml")]
        config: PathBuf,
    },
    /// Run everything embedded: a simulated provider, an organisation with credit, a key, and lines to paste.
    Demo(demo::Options),
    /// Run the simulated provider alone, for benches and tests.
    SimulateProvider(simulated_provider::Options),
    #[command(flatten)]
    Records(cli::Command),
}

fn main() -> ExitCode {
    // Before much is allocated: in huge pages each thread's few KiB would be 2 MiB of memory. Where the kernel has none,
    // there is nothing to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match Arguments::parse().command {
        Command::Serve { config } => match config::Config::load(&config) {
            Ok(loaded) => app::serve(loaded, Some(config), app::Announcement::Log),
            Err(errors) => report(&errors),
        },
        Command::Check { config } => match config::check(&config) {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::SUCCESS
            }
            Err(errors) => {
                eprintln!("{errors}");
                ExitCode::from(2)
            }
        },
        Command::Demo(options) => demo::run(options),
        Command::SimulateProvider(options) => app::simulate_provider(options),
        Command::Records(command) => app::run_records(command),
    }
}

fn report(errors: &[config::ConfigError]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    ExitCode::from(2)
}
