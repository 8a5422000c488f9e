//! How people sign in and how long: settings of `[control]`.

use super::place::Section;
use std::ops::RangeInclusive;
use std::time::Duration;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 3_600;

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

pub(super) fn read_accounts(section: &Section<'_>) -> Accounts {
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
