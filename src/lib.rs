//! Tollgate: the gateway in front of model providers. This is the map.
//!
//! A request's journey: [`proxy`] receives it, `filters::pipeline` decides, the relay streams it, [`store::journal`]
//! writes it down, the ledger in [`store`] keeps the books.
//!
//! - [`app`] puts everything together; the only file that sees every part
//! - [`proxy`] the data plane: `proxy.rs::serve` is the journey of one request, readable aloud
//! - [`control`] the control plane: `control/table.rs` has every URL; and `/metrics`, `/livez`, `/readyz`
//! - [`store`] the books and keys in SQL, the journal, the key cache
//! - [`error`] refusals → status, code, message, in every error dialect: one table
//! - [`config`] raw TOML → validated configuration; the only reader of environment and files
//! - [`metrics`] every series and its labels · [`log`] every line and who writes it · [`clock`] the only reader of time
//! - [`cli`] the commands, for organisations, people, keys, money, usage, audit · [`demo`] everything in one process, to try it
//! - [`address_guard`] connections to where tenants say, and to public addresses only
//! - [`webhooks`] tells organisations, at URLs of theirs, what happened
//! - [`crash`] where tests have the process die
//! - [`simulated_provider`] a provider that costs nothing and counts right, for tests, benches and the demo
//!
//! The crate `filters` (folder `lua-free-filters`) holds the vocabulary and the decisions, without any I/O.

pub mod address_guard;
pub mod app;
mod certificates;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod crash;
pub mod decimal;
pub mod demo;
pub mod error;
pub mod log;
pub mod metrics;
pub mod proxy;
pub mod simulated_provider;
pub mod store;
pub mod webhooks;
