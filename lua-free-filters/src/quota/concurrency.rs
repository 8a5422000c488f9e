//! Calls at once.

use crate::denied::{Denied, LimitSource};
use crate::key::Glob;
use std::sync::atomic::{AtomicI64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// Calls at once.
#[derive(Debug)]
pub struct Concurrency {
    /// What it is called in refusals.
    pub source: LimitSource,
    /// The models that it is about; none: all.
    pub model: Option<Glob>,
    limit: AtomicI64,
    running: AtomicI64,
}

impl Concurrency {
    /// Nobody is running yet.
    #[must_use]
    pub fn new(source: LimitSource, limit: i64) -> Self {
        Self { source, model: None, limit: AtomicI64::new(limit), running: AtomicI64::new(0) }
    }

    /// The same limit, for some models only.
    #[must_use]
    pub fn of_models(self, model: Option<Glob>) -> Self {
        Self { model, ..self }
    }

    /// Puts another limit in force; running calls go on.
    pub fn set_limit(&self, limit: i64) {
        self.limit.store(limit, Release);
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> i64 {
        self.limit.load(Acquire)
    }

    /// Calls in progress.
    #[must_use]
    pub fn running(&self) -> i64 {
        self.running.load(Acquire)
    }

    pub(super) fn take(&self) -> Result<(), Denied> {
        let limit = self.limit.load(Acquire);
        let fits = |running: i64| (running < limit).then_some(running + 1);
        match self.running.fetch_update(AcqRel, Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Denied::ConcurrencyExceeded { quota: self.source, limit }),
        }
    }

    pub(super) fn release(&self) {
        self.running.fetch_sub(1, AcqRel);
    }
}
