//! One counter for each quota, of all that is charged and set aside anywhere. One set of them counts what the nodes admit; another
//! admits the same calls by itself, with perfect knowledge, to be compared with.

use filters::id::QuotaId;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug)]
struct Count {
    limit: i64,
    taken: i64,
}

#[derive(Default)]
pub(crate) struct Truth {
    counts: HashMap<QuotaId, Count>,
    /// Requests of a key in a minute.
    requests: HashMap<(u64, i64), i64>,
}

/// A key, a minute, and how many requests it may make in it.
pub(crate) type Rated = (u64, i64, i64);

impl Truth {
    /// Makes a quota known. Says whether it is new.
    pub(crate) fn know(&mut self, quota: QuotaId, limit: i64) -> bool {
        let known = self.counts.len();
        self.counts.entry(quota).or_insert(Count { limit, taken: 0 });
        self.counts.len() > known
    }

    /// Whether a key may make another request.
    pub(crate) fn has_room(&self, (key, minute, limit): Rated) -> bool {
        self.requests.get(&(key, minute)).is_none_or(|count| *count < limit)
    }

    pub(crate) fn count(&mut self, (key, minute, limit): Rated) {
        let count = self.requests.entry((key, minute)).or_default();
        *count += 1;
        assert!(*count <= limit, "key {key}: {count} of {limit} requests");
    }

    /// Takes what a call needs, if all of its quotas have room for it.
    pub(crate) fn admit(&mut self, quotas: [QuotaId; 2], amount: i64) -> bool {
        let has_room = |quota| self.counts.get(quota).is_some_and(|count: &Count| count.taken + amount <= count.limit);
        let is_admitted = quotas.iter().all(has_room);
        if is_admitted {
            self.take(quotas, amount);
        }
        is_admitted
    }

    /// Takes in what a call has set aside (more) or has left of it when it ended (less). A limit of an elastic quota holds all the
    /// same here, because no call costs more than its estimate.
    pub(crate) fn take(&mut self, quotas: [QuotaId; 2], amount: i64) {
        for quota in quotas {
            let count = self.counts.get_mut(&quota).expect("a call takes from quotas that are known");
            count.taken += amount;
            assert!(count.taken <= count.limit, "{quota:?}: {} of {}", count.taken, count.limit);
        }
    }

    /// Limits of quotas that were called with, and what is left of them.
    pub(crate) fn left(&self) -> (i64, i64) {
        let sum = |of: fn(&Count) -> i64| self.counts.values().map(of).fold(0, i64::saturating_add);
        (sum(|count| count.limit), sum(|count| count.limit - count.taken))
    }
}
