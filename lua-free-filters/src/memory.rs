//! The ports in memory: what tests and benches hold the real ones against.

mod authority;
mod objects;

pub use authority::{MemoryAuthority, SoleNode};
pub use objects::MemoryObjects;

use crate::id::{CallId, OrgId};
use crate::key::{Key, Lookup, Presented};
use crate::objects::Object;
use crate::own::OwnCredentials;
use crate::ports::{
    Amendment, Durable, FailedAttempt, Intent, Journal, JournalFull, Keys, OpenCall, Progress, StoreUnavailable,
    Terminal,
};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keys in a map.
#[derive(Debug, Default)]
pub struct MemoryKeys(pub HashMap<Lookup, Arc<Key>>);

#[async_trait]
impl Keys for MemoryKeys {
    async fn find(&self, token: &Presented) -> Result<Option<Arc<Key>>, StoreUnavailable> {
        Ok(self.0.get(&token.lookup).cloned())
    }

    async fn own(&self, org: OrgId) -> Result<Option<OwnCredentials>, StoreUnavailable> {
        Ok(self.0.values().find(|key| key.org == org).and_then(|key| key.own.clone()))
    }
}

/// A journal in memory: every call with its ends, and what was written beside them.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal(Arc<Mutex<Written>>);

/// A call's beginning, and its ends; more than one is a defect.
pub type Ends = (Intent, Vec<Terminal>);

/// Everything that was written, in the order in which it was.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// All calls.
    pub calls: HashMap<CallId, Ends>,
    /// How far calls had come.
    pub progress: Vec<Progress>,
    /// Candidates that did not answer.
    pub attempts: Vec<FailedAttempt>,
    /// What came after calls' ends.
    pub amendments: Vec<Amendment>,
    /// Whose objects are.
    pub claims: Vec<Object>,
}

impl MemoryJournal {
    /// All calls.
    #[must_use]
    pub fn calls(&self) -> HashMap<CallId, Ends> {
        self.lock().calls.clone()
    }

    /// All that was written.
    #[must_use]
    pub fn written(&self) -> Written {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets them.
    pub fn clear(&self) {
        *self.lock() = Written::default();
    }
}

impl Journal for MemoryJournal {
    fn begin(&self, intent: &Intent) -> Result<Box<dyn OpenCall>, JournalFull> {
        self.lock().calls.insert(intent.call, (intent.clone(), Vec::new()));
        Ok(Box::new(MemoryCall(self.clone())))
    }

    fn amend(&self, amendment: &Amendment) -> Result<(), JournalFull> {
        self.lock().amendments.push(amendment.clone());
        Ok(())
    }

    fn claim(&self, object: &Object) -> Result<(), JournalFull> {
        self.lock().claims.push(object.clone());
        Ok(())
    }

    /// Memory has no disk to wait for.
    fn durable(&self) -> Option<Durable<'_>> {
        None
    }
}

struct MemoryCall(MemoryJournal);

impl OpenCall for MemoryCall {
    fn progress(&mut self, progress: &Progress) {
        self.0.lock().progress.push(progress.clone());
    }

    fn attempt(&mut self, attempt: &FailedAttempt) {
        self.0.lock().attempts.push(attempt.clone());
    }

    fn end(self: Box<Self>, terminal: &Terminal) {
        if let Some((_, ends)) = self.0.lock().calls.get_mut(&terminal.call) {
            ends.push(terminal.clone());
        }
    }
}

/// The outcome of a future that asks nobody but these ports: they never wait.
#[cfg(test)]
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a port in memory waited"),
    }
}
