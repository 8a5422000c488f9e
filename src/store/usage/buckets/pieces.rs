//! The buckets of usage, and the sums that a time is made of.

use crate::store::ledger::{Unit, day_of, hour_of, month_of};
use filters::time::EpochMs;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How long a bucket is, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Granularity {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week from Monday on.
    Week,
    /// A month.
    Month,
}

impl Granularity {
    /// The beginning of a moment's bucket.
    #[must_use]
    pub fn beginning(self, moment: EpochMs) -> EpochMs {
        match self {
            Self::Hour => hour_of(moment),
            Self::Day => day_of(moment),
            // 1970 began with a Thursday.
            Self::Week => EpochMs((moment.day() - (moment.day() + 3).rem_euclid(7)) * DAY_MS),
            Self::Month => month_of(moment),
        }
    }

    /// The end of a moment's bucket.
    #[must_use]
    pub fn end(self, moment: EpochMs) -> EpochMs {
        let beginning = self.beginning(moment);
        match self {
            Self::Hour => beginning.plus(HOUR_MS),
            Self::Day => beginning.plus(DAY_MS),
            Self::Week => beginning.plus(7 * DAY_MS),
            Self::Month => month_of(beginning.plus(31 * DAY_MS)),
        }
    }

    /// The next longer one.
    #[must_use]
    pub fn longer(self) -> Option<Self> {
        match self {
            Self::Hour => Some(Self::Day),
            Self::Day => Some(Self::Week),
            Self::Week => Some(Self::Month),
            Self::Month => None,
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Hour => Unit::Hour,
            Self::Day | Self::Week => Unit::Day,
            Self::Month => Unit::Month,
        }
    }
}

/// Sums of one unit that begin within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) unit: Unit,
    pub(super) from: EpochMs,
    pub(super) to: EpochMs,
}

/// Cuts a time into the longest units that it has whole, with shorter ones at its ends.
pub(super) fn cut(longest: Unit, shortest: Unit, from: EpochMs, to: EpochMs, pieces: &mut Vec<Piece>) {
    if from >= to {
        return;
    }
    let (shorter, beginning) = match longest {
        _ if longest == shortest => return pieces.push(Piece { unit: longest, from, to }),
        Unit::Hour => return pieces.push(Piece { unit: Unit::Hour, from, to }),
        Unit::Day => (Unit::Hour, Granularity::Day),
        Unit::Month => (Unit::Day, Granularity::Month),
    };
    let first = if beginning.beginning(from) == from { from } else { beginning.end(from) };
    let last = beginning.beginning(to);
    if first >= last {
        return cut(shorter, shortest, from, to, pieces);
    }
    cut(shorter, shortest, from, first, pieces);
    pieces.push(Piece { unit: longest, from: first, to: last });
    cut(shorter, shortest, last, to, pieces);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-01, a Sunday.
    const MARCH: EpochMs = EpochMs(20_513 * DAY_MS);

    #[test]
    fn buckets_begin_with_their_units() {
        let noon = MARCH.plus(12 * HOUR_MS + 5);
        for (granularity, from, to) in [
            (Granularity::Hour, MARCH.plus(12 * HOUR_MS), MARCH.plus(13 * HOUR_MS)),
            (Granularity::Day, MARCH, MARCH.plus(DAY_MS)),
            (Granularity::Week, MARCH.plus(-6 * DAY_MS), MARCH.plus(DAY_MS)),
            (Granularity::Month, MARCH, MARCH.plus(31 * DAY_MS)),
        ] {
            assert_eq!((granularity.beginning(noon), granularity.end(noon)), (from, to), "{granularity:?}");
        }
        assert_eq!(Granularity::Month.end(MARCH.plus(-1)), MARCH);
    }

    #[test]
    fn a_time_is_cut_into_as_few_sums_as_it_has() {
        let cut = |longest, from, to| {
            let mut pieces = Vec::new();
            cut(longest, Unit::Hour, from, to, &mut pieces);
            pieces
        };
        let at = |days: i64, hours: i64| MARCH.plus(days * DAY_MS + hours * HOUR_MS);
        let piece = |unit, from, to| Piece { unit, from, to };
        assert_eq!(cut(Unit::Hour, at(0, 3), at(40, 0)), [piece(Unit::Hour, at(0, 3), at(40, 0))]);
        assert_eq!(cut(Unit::Month, at(0, 3), at(0, 4)), [piece(Unit::Hour, at(0, 3), at(0, 4))]);
        assert_eq!(cut(Unit::Month, at(0, 0), at(31, 0)), [piece(Unit::Month, at(0, 0), at(31, 0))]);
        assert_eq!(cut(Unit::Month, at(5, 0), at(5, 0)), []);
        assert_eq!(
            cut(Unit::Month, at(-1, 23), at(62, 1)),
            [
                piece(Unit::Hour, at(-1, 23), at(0, 0)),
                piece(Unit::Month, at(0, 0), at(61, 0)),
                piece(Unit::Day, at(61, 0), at(62, 0)),
                piece(Unit::Hour, at(62, 0), at(62, 1)),
            ]
        );
    }
}
