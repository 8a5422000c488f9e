//! Points at which tests have the process die, or the disk fail. Without the feature `crash-points` they are nothing.

#[cfg(feature = "crash-points")]
mod armed;

#[cfg(feature = "crash-points")]
pub use armed::{fault, point};

/// Dies here, as if killed, if a test wants it.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// Fails here as a disk fails, if a test wants it.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn fault(_name: &str) -> std::io::Result<()> {
    Ok(())
}
