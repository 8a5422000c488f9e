//! The only reader of the wall clock.

use filters::time::EpochMs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
#[must_use]
pub fn now() -> EpochMs {
    // A clock before 1970 is not a clock; zero makes every window empty and no key live longer.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EpochMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
