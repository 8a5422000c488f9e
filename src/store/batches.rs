//! Those who wait for something that is done for many at once, by one server at a time: whoever comes meanwhile is in the next batch.

use super::key_cache::lock;
use std::sync::Mutex;

/// A queue with one server at the most.
#[derive(Debug)]
pub(super) struct Batches<T>(Mutex<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    waiting: Vec<T>,
    is_served: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: Vec::new(), is_served: false }
    }
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Batches<T> {
    /// Joins those who wait. Says whether the caller has to start the server.
    pub(super) fn join(&self, one: T) -> bool {
        let mut queue = lock(&self.0);
        queue.waiting.push(one);
        !std::mem::replace(&mut queue.is_served, true)
    }

    /// What all who wait weigh together.
    pub(super) fn weight(&self, weigh: impl Fn(&T) -> usize) -> usize {
        lock(&self.0).waiting.iter().map(weigh).sum()
    }

    /// Begins to serve.
    pub(super) fn serve(&self) -> Serving<'_, T> {
        Serving { batches: self, is_done: false }
    }
}

/// The server, while it runs. Should it be stopped half-way, those who wait are let go, and the next one starts another.
pub(super) struct Serving<'a, T> {
    batches: &'a Batches<T>,
    is_done: bool,
}

impl<T> Serving<'_, T> {
    /// Those who came first, as far as together they weigh no more than that; one of them at least. None if nobody waits: then
    /// this server has ended.
    pub(super) fn next_batch(&mut self, weight_max: usize, weigh: impl Fn(&T) -> usize) -> Option<Vec<T>> {
        let mut queue = lock(&self.batches.0);
        let mut weight = 0;
        let fits = |one: &&T| {
            weight += weigh(one);
            weight <= weight_max
        };
        let count = queue.waiting.iter().take_while(fits).count().max(queue.waiting.len().min(1));
        if count == 0 {
            // Said under the lock, so that whoever comes next starts another.
            queue.is_served = false;
            self.is_done = true;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }
}

impl<T> Drop for Serving<'_, T> {
    fn drop(&mut self) {
        if !self.is_done {
            *lock(&self.batches.0) = Queue::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_serves_all_who_come_until_nobody_waits() {
        let batches = Batches::default();
        assert_eq!([4, 3, 9, 1].map(|weight| batches.join(weight)), [true, false, false, false]);
        let mut serving = batches.serve();
        assert_eq!((batches.weight(|weight| *weight), serving.next_batch(8, |weight| *weight)), (17, Some(vec![4, 3])));
        assert!(!batches.join(2));
        assert_eq!(serving.next_batch(8, |weight| *weight), Some(vec![9]), "what is too large goes alone");
        assert_eq!(serving.next_batch(8, |weight| *weight), Some(vec![1, 2]));
        assert_eq!(serving.next_batch(8, |weight| *weight), None);
        drop(serving);
        assert!(batches.join(5), "another has to be started");
    }

    #[test]
    fn a_server_that_is_stopped_lets_everybody_go() {
        let (batches, waiting) = (Batches::default(), std::sync::Arc::new(()));
        assert!(batches.join(std::sync::Arc::clone(&waiting)));
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut serving = batches.serve();
            let batch = serving.next_batch(1, |_| 1);
            batches.join(std::sync::Arc::clone(&waiting));
            assert!(batch.is_none(), "it was there");
        }));
        assert!(stopped.is_err() && std::sync::Arc::strong_count(&waiting) == 1);
        assert!(batches.join(waiting), "the next one starts another");
    }
}
