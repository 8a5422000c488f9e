//! The control plane: `[control]`.

use super::accounts::{Accounts, read_accounts};
use super::gateway::read_listener;
use super::place::Section;
use super::providers::read_secret;
use super::sources::{NoSecret, Secret, Sources};
use filters::money::CreditUnit;
use std::net::SocketAddr;
use std::time::Duration;

/// Where the operator's first token is looked for, where the configuration does not say.
const OPERATOR_TOKEN: &str = "TOLLGATE_OPERATOR_TOKEN";

/// The control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its address.
    pub listen: SocketAddr,
    /// An operator's token that is taken at each start; none: one is made at the first.
    pub operator_token: Option<Secret>,
    /// For a request to be answered.
    pub request_timeout: Duration,
    /// Most requests at once.
    pub requests_max: usize,
    /// What a credit is worth, for those who count in credits.
    pub credit_unit: Option<CreditUnit>,
    /// How people come in.
    pub accounts: Accounts,
}

pub(super) fn read_control(section: &Section<'_>, sources: &Sources<'_>) -> Control {
    Control {
        listen: read_listener(section, 8081).listen,
        operator_token: read_operator_token(section, sources),
        request_timeout: section.milliseconds("request_timeout_ms", 100..=600_000, 30_000),
        requests_max: section.size("requests_max", 1..=100_000, 256),
        credit_unit: CreditUnit::of_micros(section.number("credit_micros", 0..=CreditUnit::MICROS_MAX, 0)),
        accounts: read_accounts(section),
    }
}

fn read_operator_token(section: &Section<'_>, sources: &Sources<'_>) -> Option<Secret> {
    let Some(value) = section.get("operator_token") else {
        return sources.variable(OPERATOR_TOKEN).and_then(|text| Secret::new(&text, OPERATOR_TOKEN).ok());
    };
    match value.section(|section| read_secret(section, sources)).flatten()? {
        Ok(token) if token.reveal().len() >= 24 => Some(token),
        Ok(_) => {
            value.report("must have at least 24 characters: make one with `openssl rand -hex 32`");
            None
        }
        // Where the variable is not set, a token is made at the first start.
        Err(NoSecret::Absent(_)) => None,
        Err(NoSecret::Unusable(problem)) => {
            value.report(problem);
            None
        }
    }
}
