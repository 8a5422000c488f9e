//! What is on the books and in no sum yet, for readers who see the sums without this process's memory.

use super::calls::{Whose, sum_up};
use super::sums::Sums;
use crate::store::quotas::QuotaRow;
use crate::store::{Connection, StoreError};
use filters::id::{KeyId, QuotaId};
use filters::ports::Share;
use filters::time::EpochMs;
use std::collections::{BTreeMap, HashMap};

/// What the rows after the marks moved.
#[derive(Debug)]
pub(in crate::store) struct Tail {
    charged: BTreeMap<Share, i64>,
    last_used: HashMap<KeyId, EpochMs>,
}

impl Tail {
    /// Reads it, in the snapshot in which the sums are read that it is added to. Where nothing waits this is one look into an
    /// index; where a hundred thousand keys are calling it may take a second, so it is not for the hot path, which needs none of
    /// it: what is read there is in memory until it is in the sums.
    pub(in crate::store) async fn read(connection: &mut Connection, whose: Whose<'_>) -> Result<Self, StoreError> {
        let (sums, _) = sum_up(connection, whose).await?;
        Ok(Self::of(&sums))
    }

    fn of(sums: &Sums) -> Self {
        Self {
            charged: sums.charges().into_iter().map(|(share, charged)| (share, charged.amount)).collect(),
            last_used: sums.last_uses().into_iter().collect(),
        }
    }

    /// What was charged to a quota that counts for ever.
    pub(in crate::store) fn charged_in_all(&self, quota: QuotaId) -> i64 {
        self.charged_between(quota, EpochMs(0), EpochMs(0))
    }

    /// Adds what was charged to a quota in the periods that count at the moment of which it was read.
    pub(in crate::store) fn add_to(&self, quota: &mut QuotaRow, now: EpochMs) {
        let (from, present) = (quota.window.counted_from(now), quota.window.span(now).start);
        quota.spent = quota.spent.saturating_add(self.charged_between(quota.id, from, present));
        quota.spent_in_span = quota.spent_in_span.saturating_add(self.charged_between(quota.id, present, present));
    }

    /// What was charged to a quota in the periods that began between two moments.
    fn charged_between(&self, quota: QuotaId, first: EpochMs, last: EpochMs) -> i64 {
        let [first, last] = [first, last].map(|period| Share { quota, period });
        self.charged.range(first..=last).fold(0, |sum: i64, (_, amount)| sum.saturating_add(*amount))
    }

    /// What was charged to each quota in each period.
    pub(in crate::store) fn charges(&self) -> impl Iterator<Item = (Share, i64)> {
        self.charged.iter().map(|(share, amount)| (*share, *amount))
    }

    /// When a key's latest call was admitted.
    pub(in crate::store) fn last_used(&self, key: KeyId) -> Option<EpochMs> {
        self.last_used.get(&key).copied()
    }
}
