//! The control plane: `[control]`.

use super::gateway::read_listener;
use super::place::Section;
use super::providers::read_secret;
use super::sources::{NoSecret, Secret, Sources};
use filters::money::CreditUnit;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where the operator's first token is looked for, where the configuration does not say.
const OPERATOR_TOKEN: &str = "TOLLGATE_OPERATOR_TOKEN";

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 3_600;

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

/// How people sign in and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// A session ends when it was not used for so long …
    pub session_idle: Duration,
    /// … and so long after its beginning in any case.
    pub session_absolute: Duration,
    /// How long an invitation can be accepted.
    pub invitation: Duration,
    /// Failures to sign in as one user.
    pub sign_ins_per_user_max: i64,
    /// Failures to sign in from one address.
    pub sign_ins_per_address_max: i64,
    /// In which time they count.
    pub sign_in_window: Duration,
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

fn read_accounts(section: &Section<'_>) -> Accounts {
    let minutes =
        |key, range: RangeInclusive<u64>, default| Duration::from_secs(section.number(key, range, default) * MINUTE_S);
    let hours =
        |key, range: RangeInclusive<u64>, default| Duration::from_secs(section.number(key, range, default) * HOUR_S);
    let count = |key, default| i64::try_from(section.number(key, 1..=1_000_000, default)).unwrap_or(i64::MAX);
    let accounts = Accounts {
        session_idle: minutes("session_idle_minutes", 1..=525_600, 60),
        session_absolute: hours("session_absolute_hours", 1..=8_760, 168),
        invitation: hours("invitation_hours", 1..=8_760, 168),
        sign_ins_per_user_max: count("sign_in_failures_per_user_max", 10),
        sign_ins_per_address_max: count("sign_in_failures_per_address_max", 100),
        sign_in_window: minutes("sign_in_window_minutes", 1..=1_440, 15),
    };
    if accounts.session_idle > accounts.session_absolute {
        section.report("session_idle_minutes", "must not be longer than session_absolute_hours");
    }
    accounts
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
