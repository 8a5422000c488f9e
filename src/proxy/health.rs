//! Who can be asked now: cool-downs of providers and benched credentials, learnt from live traffic.

use filters::time::EpochMs;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A time until which something is left alone.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: AtomicI64,
}

impl Rest {
    /// Whether it is to be left alone now.
    pub(super) fn is_on(&self, now: EpochMs) -> bool {
        self.until.load(Ordering::Acquire) > now.0
    }

    /// Leaves it alone for a while, never for less than it was already to be.
    pub(super) fn begin(&self, now: EpochMs, length: Duration) {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX / 2);
        self.until.fetch_max(now.0.saturating_add(length), Ordering::AcqRel);
    }
}

/// Longest time that a provider's `Retry-After` is believed for.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Picks one of the weights, in proportion, by a number that is as good as random.
pub(super) fn pick(weights: impl Iterator<Item = u32> + Clone, number: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut rest = mix(number).checked_rem(total)?;
    for (index, weight) in weights.enumerate() {
        match rest.checked_sub(u64::from(weight)) {
            Some(left) => rest = left,
            None => return Some(index),
        }
    }
    None
}

/// Spreads a counter over all bits (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_ends_by_itself_and_is_never_shortened() {
        let rest = Rest::default();
        assert!(!rest.is_on(EpochMs(0)));
        rest.begin(EpochMs(100), Duration::from_millis(50));
        rest.begin(EpochMs(100), Duration::from_millis(10));
        assert!(rest.is_on(EpochMs(149)) && !rest.is_on(EpochMs(150)));
    }

    #[test]
    fn picks_follow_the_weights() {
        let mut counts = [0u32; 3];
        for number in 0..10_000 {
            counts[pick([1, 0, 3].into_iter(), number).expect("a weight")] += 1;
        }
        assert!(counts[1] == 0 && counts[0] > 2_000 && counts[2] > 7_000, "{counts:?}");
        assert_eq!(pick([0, 0].into_iter(), 7), None);
        assert_eq!(pick(std::iter::empty(), 7), None);
    }
}
