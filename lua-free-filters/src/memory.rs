//! The ports in memory: what tests and benches hold the real ones against.

use crate::id::CallId;
use crate::key::{Key, Lookup};
use crate::ports::{Intent, Journal, JournalFull, Keys, OpenCall, StoreUnavailable, Terminal};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys in a map.
#[derive(Debug, Default)]
pub struct MemoryKeys(pub HashMap<Lookup, Arc<Key>>);

#[async_trait]
impl Keys for MemoryKeys {
    async fn find(&self, lookup: Lookup) -> Result<Option<Arc<Key>>, StoreUnavailable> {
        Ok(self.0.get(&lookup).cloned())
    }
}

/// A journal in a map: every call with its ends.
#[derive(Clone, Debug, Default)]
pub struct MemoryJournal(Arc<Mutex<HashMap<CallId, Ends>>>);

/// A call's beginning, and its ends; more than one is a defect.
pub type Ends = (Intent, Vec<Terminal>);

impl MemoryJournal {
    /// All calls.
    #[must_use]
    pub fn calls(&self) -> HashMap<CallId, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Journal for MemoryJournal {
    fn begin(&self, intent: &Intent) -> Result<Box<dyn OpenCall>, JournalFull> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(intent.call, (intent.clone(), Vec::new()));
        Ok(Box::new(MemoryCall(self.clone())))
    }
}

struct MemoryCall(MemoryJournal);

impl OpenCall for MemoryCall {
    fn end(self: Box<Self>, terminal: &Terminal) {
        let mut calls = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ends)) = calls.get_mut(&terminal.call) {
            ends.push(terminal.clone());
        }
    }
}
