//! The atomics of accounts: the standard library's; or shuttle's, where every order of threads is tried
//! (`tests/run shuttle`).

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicI64, Ordering};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
