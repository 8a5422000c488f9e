//! The points as they are built for tests: `TOLLGATE_CRASH_AT` says which one is meant, as `NAME` or, for its nth time,
//! as `NAME:n`.

use crate::config;
use rustix::io::Errno;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What this process is to do to itself. One for the process, because its points are everywhere.
static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

struct Plan {
    name: String,
    /// Times that the point is passed before it happens.
    left: AtomicU64,
}

/// Dies here, without a word to anybody, if this is the point.
pub fn point(name: &str) {
    if is_now(name) {
        std::process::abort();
    }
}

/// Fails once with EIO, if this is the point.
pub fn fault(name: &str) -> std::io::Result<()> {
    if is_now(name) { Err(Errno::IO.into()) } else { Ok(()) }
}

fn is_now(name: &str) -> bool {
    let plan = PLAN.get_or_init(|| {
        let wanted = config::crash_at()?;
        let (name, times) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some(Plan { name: name.to_owned(), left: AtomicU64::new(times.parse().unwrap_or(1)) })
    });
    plan.as_ref().is_some_and(|plan| plan.name == name && plan.left.fetch_sub(1, Relaxed) == 1)
}
