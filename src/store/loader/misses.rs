//! Who waits for which token, and who is asked next for those that nobody has been asked for yet.

use crate::store::LIST_MAX;
use crate::store::key_cache::{Shared, lock};
use filters::key::{Key, Lookup, TokenHash};
use filters::ports::StoreUnavailable;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) type Answer = Result<Option<Arc<Key>>, StoreUnavailable>;

/// Tokens that are being looked up.
#[derive(Debug, Default)]
pub(in crate::store) struct Misses {
    /// Who waits for which token.
    pub(super) waiting: HashMap<Lookup, Waiting>,
    /// By stage.
    pub(super) queues: [Queue; 2],
}

/// Those who wait for a token.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) hash: TokenHash,
    pub(super) senders: Vec<oneshot::Sender<Answer>>,
}

/// Where a token is looked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Stage {
    /// Among the records that nodes keep for one another.
    Recall,
    /// In the store.
    Load,
}

/// Tokens that nobody has asked for yet in a stage.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tokens: VecDeque<Lookup>,
    is_served: bool,
}

impl Queue {
    /// Says whether it has to be served from now on.
    pub(super) fn extend(&mut self, tokens: impl IntoIterator<Item = Lookup>) -> bool {
        self.tokens.extend(tokens);
        !self.tokens.is_empty() && !std::mem::replace(&mut self.is_served, true)
    }
}

impl Misses {
    /// How many callers wait.
    #[cfg(test)]
    pub(in crate::store) fn waiting_for_answers(&self) -> usize {
        self.waiting.values().map(|waiting| waiting.senders.len()).sum()
    }
}

/// A stage while it is served. Should it be stopped half-way, those who wait are told, and the next one starts anew.
pub(in crate::store) struct RunningStage<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stage: Stage,
    pub(super) is_done: bool,
}

impl RunningStage<'_> {
    pub(in crate::store) fn next_batch(&mut self) -> Option<Vec<Lookup>> {
        let mut misses = lock(&self.shared.misses);
        let queue = &mut misses.queues[self.stage as usize];
        let length = queue.tokens.len().min(LIST_MAX);
        if length == 0 {
            // Said under the lock, so that whoever misses next starts another.
            queue.is_served = false;
            self.is_done = true;
            return None;
        }
        Some(queue.tokens.drain(..length).collect())
    }
}

impl Drop for RunningStage<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            *lock(&self.shared.misses) = Misses::default();
        }
    }
}
