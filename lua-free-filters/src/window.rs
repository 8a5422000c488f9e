//! The periods that a quota counts in: for ever, the last hour or month, or the calendar's in somebody's time zone.
//!
//! Every charge is booked to the period ([`Span`]) that its moment lies in, and periods tile time: each ends where the
//! next one begins. A clock that jumps books to another period and back again; it never opens one twice.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::time::EpochMs;

/// Buckets of a rolling window. The oldest is counted whole, so up to this many and one are counted.
const ROLLING_BUCKETS: i64 = 60;
/// Moments beyond this many milliseconds from 1970 (some 6 300 years) count as this one: no calendar reaches much further.
const EPOCH_MS_MAX: i64 = 200_000_000_000_000;

/// The length of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours, or from one midnight to the next.
    Day,
    /// Seven days; begins on Monday.
    Week,
    /// 30 days, or a month of the calendar.
    Month,
}

impl Unit {
    /// Every unit, the shortest first.
    pub const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month];

    /// As people write it: `month`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Milliseconds in a rolling window of this unit; each a multiple of [`ROLLING_BUCKETS`].
    #[must_use]
    pub fn length_ms(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
            Self::Week => 7 * 86_400_000,
            Self::Month => 30 * 86_400_000,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Unit {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let named = Self::ALL.into_iter().find(|unit| unit.name() == text);
        named.ok_or_else(|| WindowError::NotAUnit(text.to_owned()))
    }
}

/// A time zone of the IANA database that is built in (no file of the system is read, so that all nodes agree).
/// Cheap to clone; equal by name.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated Universal Time.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// As the database writes it: `Europe/Berlin`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The names of all zones.
    #[must_use]
    pub fn names() -> Vec<String> {
        TimeZoneDatabase::bundled().available().map(|name| name.as_str().to_owned()).collect()
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Zone {
    type Err = WindowError;

    /// Reads an IANA name, in any case.
    fn from_str(text: &str) -> Result<Self, WindowError> {
        let unknown = || WindowError::UnknownZone(text.to_owned());
        TimeZoneDatabase::bundled().get(text).map(Self).map_err(|_| unknown())
    }
}

/// Why a text is not a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not one of [`Unit::ALL`].
    #[error("`{0}` is not a period: minute, hour, day, week or month")]
    NotAUnit(String),
    /// Not in the IANA database.
    #[error("`{0}` is not a time zone of the IANA database, such as Europe/Berlin or UTC")]
    UnknownZone(String),
    /// None of the three forms.
    #[error("`{0}` is not a window: `total`, `rolling UNIT` or `calendar UNIT ZONE`")]
    NotAWindow(String),
}

/// A stretch of time, half open: `start` lies in it, `end` does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first moment.
    pub start: EpochMs,
    /// The first moment after it.
    pub end: EpochMs,
}

impl Span {
    /// All time that is counted.
    pub const TOTAL: Self = Self { start: EpochMs(0), end: EpochMs(i64::MAX) };

    /// Whether a moment lies in it.
    #[must_use]
    pub fn contains(self, moment: EpochMs) -> bool {
        self.start <= moment && moment < self.end
    }
}

/// What a quota counts over. Prints and parses as `total`, `rolling month`, `calendar month Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// Everything, for ever.
    Total,
    /// The last minute, hour, day, week or 30 days, in sixtieths; the oldest is counted whole.
    Rolling(Unit),
    /// The minute, hour, day, week (from Monday) or month on the wall's clock and calendar.
    Calendar {
        /// How long.
        unit: Unit,
        /// Whose clock.
        zone: Zone,
    },
}

impl Window {
    /// The period that a charge at `now` is booked to: the calendar's, or a sixtieth of a rolling window, aligned to
    /// the epoch. An hour or minute that a change of the clocks cuts (as on Lord Howe Island) is two periods.
    #[must_use]
    pub fn span(&self, now: EpochMs) -> Span {
        match self {
            Self::Total => Span::TOTAL,
            Self::Rolling(unit) => bucket(now, unit.length_ms() / ROLLING_BUCKETS),
            Self::Calendar { unit, zone } => calendar(*unit, &zone.0, within_reach(now)),
        }
    }

    /// The start of the oldest period that counts at `now`. Of a rolling window that is the bucket that holds the
    /// moment one length ago, counted whole.
    #[must_use]
    pub fn counted_from(&self, now: EpochMs) -> EpochMs {
        match self {
            Self::Rolling(unit) => self.span(now.plus(-unit.length_ms())).start,
            Self::Total | Self::Calendar { .. } => self.span(now).start,
        }
    }

    /// The starts of the periods that count at `now`, the first and the last. Of a rolling window those to come count too: a clock
    /// that was set back comes to them again.
    #[must_use]
    pub fn counted(&self, now: EpochMs) -> RangeInclusive<EpochMs> {
        let last = match self {
            Self::Rolling(_) => EpochMs(i64::MAX),
            Self::Total | Self::Calendar { .. } => self.span(now).start,
        };
        self.counted_from(now)..=last
    }

    /// When credit may come back at the earliest: the end of the calendar's period, or the next boundary of a rolling
    /// window's buckets. Never, of a total.
    #[must_use]
    pub fn heals_at(&self, now: EpochMs) -> Option<EpochMs> {
        match self {
            Self::Total => None,
            Self::Rolling(_) | Self::Calendar { .. } => Some(self.span(now).end),
        }
    }

    /// As it is stored and read again.
    #[must_use]
    pub fn name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total => formatter.write_str("total"),
            Self::Rolling(unit) => write!(formatter, "rolling {unit}"),
            Self::Calendar { unit, zone } => write!(formatter, "calendar {unit} {zone}"),
        }
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["total"] => Ok(Self::Total),
            ["rolling", unit] => Ok(Self::Rolling(unit.parse()?)),
            ["calendar", unit, zone] => Ok(Self::Calendar { unit: unit.parse()?, zone: zone.parse()? }),
            _ => Err(WindowError::NotAWindow(text.to_owned())),
        }
    }
}

/// The stretch of `length_ms`, aligned to the epoch, that a moment lies in.
fn bucket(now: EpochMs, length_ms: i64) -> Span {
    let start = EpochMs(now.0.saturating_sub(now.0.rem_euclid(length_ms)));
    Span { start, end: start.plus(length_ms) }
}

/// A moment that every calendar reaches.
fn within_reach(now: EpochMs) -> Timestamp {
    let reached = now.0.clamp(-EPOCH_MS_MAX, EPOCH_MS_MAX);
    Timestamp::from_millisecond(reached).expect("the calendar has just been seen to reach it")
}

fn epoch_ms(moment: Timestamp) -> EpochMs {
    EpochMs(moment.as_millisecond())
}

fn calendar(unit: Unit, zone: &TimeZone, now: Timestamp) -> Span {
    match unit {
        Unit::Minute | Unit::Hour => clock_period(unit.length_ms(), zone, now),
        Unit::Day | Unit::Week | Unit::Month => date_period(unit, zone, now),
    }
}

/// The full minute or hour on the wall's clock, or the part of it on this side of a change of the clocks.
fn clock_period(length_ms: i64, zone: &TimeZone, now: Timestamp) -> Span {
    let offset = zone.to_offset(now);
    let offset_ms = i64::from(offset.seconds()) * 1_000;
    let local = bucket(epoch_ms(now).plus(offset_ms), length_ms);
    let mut span = Span { start: local.start.plus(-offset_ms), end: local.end.plus(-offset_ms) };
    let up_to_now = now.checked_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(now);
    let last = zone.preceding(up_to_now).map(|change| change.timestamp());
    for changed in last.take_while(|changed| epoch_ms(*changed) > span.start) {
        let before = changed.checked_sub(jiff::SignedDuration::from_nanos(1)).unwrap_or(changed);
        if zone.to_offset(before) != zone.to_offset(changed) {
            span.start = epoch_ms(changed);
            break;
        }
    }
    let next = zone.following(now).take_while(|change| epoch_ms(change.timestamp()) < span.end);
    if let Some(change) = { next }.find(|change| change.offset() != offset) {
        span.end = epoch_ms(change.timestamp());
    }
    span
}

/// From the first moment of a day, week or month to the first moment of the next. Where clocks go back across
/// midnight, the date of a moment may lie behind the period that has begun, so the neighbours are looked at too.
fn date_period(unit: Unit, zone: &TimeZone, now: Timestamp) -> Span {
    let mut first = first_date(unit, now.to_zoned(zone.clone()).date());
    while first_moment(first, zone) > epoch_ms(now) {
        first = first_date(unit, first.yesterday().unwrap_or(first));
    }
    loop {
        let next = next_date(unit, first);
        let end = first_moment(next, zone);
        if epoch_ms(now) < end {
            return Span { start: first_moment(first, zone), end };
        }
        first = next;
    }
}

/// The first date of the day, week or month that a date lies in.
fn first_date(unit: Unit, date: Date) -> Date {
    match unit {
        Unit::Minute | Unit::Hour | Unit::Day => date,
        Unit::Week => {
            let days = jiff::Span::new().days(date.weekday().to_monday_zero_offset());
            date.saturating_sub(days)
        }
        Unit::Month => date.first_of_month(),
    }
}

/// The first date of the period after the one that begins on `first`.
fn next_date(unit: Unit, first: Date) -> Date {
    let one = jiff::Span::new();
    first.saturating_add(match unit {
        Unit::Minute | Unit::Hour | Unit::Day => one.days(1),
        Unit::Week => one.weeks(1),
        Unit::Month => one.months(1),
    })
}

/// When a date begins: midnight, the earlier of two, or the moment to which the clocks skip it.
fn first_moment(date: Date, zone: &TimeZone) -> EpochMs {
    let midnight = date.to_zoned(zone.clone()).map(|zoned| zoned.timestamp());
    epoch_ms(midnight.expect("every date within reach has a first moment"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 86_400_000;
    /// Both usual changes, one that skips midnight (Santiago, Beirut), one that ends before it (St John's once changed
    /// at 00:01), one of 30 minutes, a date that never was (Apia), offsets of half and quarter hours.
    const ZONES: [&str; 11] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Santiago",
        "Asia/Beirut",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Africa/Casablanca",
    ];

    fn window(text: &str) -> Window {
        text.parse().expect(text)
    }

    fn at(text: &str) -> EpochMs {
        epoch_ms(text.parse().expect(text))
    }

    /// Asserts that the period at a moment is this one, and that its ends hold to the neighbours.
    fn assert_span(name: &str, now: &str, start: &str, end: &str) {
        let span = window(name).span(at(now));
        assert_eq!(span, Span { start: at(start), end: at(end) }, "{name} at {now}");
        assert_eq!(window(name).span(span.end).start, span.end, "{name} after {now}");
        assert_eq!(window(name).span(span.start.plus(-1)).end, span.start, "{name} before {now}");
    }

    #[test]
    fn months_end_when_the_calendar_says() {
        let berlin = "calendar month Europe/Berlin";
        assert_span(berlin, "2026-11-21T12:00:00Z", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z");
        assert_span(berlin, "2026-10-31T22:59:59.999Z", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z");
        assert_span("calendar month UTC", "2024-02-29T23:59:59.999Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z");
        assert_span("calendar month UTC", "2100-02-28T23:59:59.999Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z");
        assert_span("calendar month UTC", "2026-12-31T23:59:59.999Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let tokyo = "calendar month Asia/Tokyo";
        assert_span(tokyo, "2028-02-28T15:00:00Z", "2028-01-31T15:00:00Z", "2028-02-29T15:00:00Z");
    }

    #[test]
    fn weeks_begin_on_monday() {
        assert_span("calendar week UTC", "2026-11-22T23:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z");
        assert_span("calendar week UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z");
        let new_york = "calendar week America/New_York";
        assert_span(new_york, "2026-11-01T12:00:00Z", "2026-10-26T04:00:00Z", "2026-11-02T05:00:00Z");
    }

    #[test]
    fn days_are_as_long_as_the_change_of_the_clocks_makes_them() {
        let berlin = "calendar day Europe/Berlin";
        assert_span(berlin, "2026-03-29T01:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        assert_span(berlin, "2026-10-25T01:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        let new_york = "calendar day America/New_York";
        assert_span(new_york, "2026-03-08T07:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z");
        assert_span(new_york, "2026-11-01T06:00:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z");
        let lord_howe = "calendar day Australia/Lord_Howe";
        assert_span(lord_howe, "2026-04-04T15:00:00Z", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z");
        assert_span(lord_howe, "2026-10-03T15:30:00Z", "2026-10-03T13:30:00Z", "2026-10-04T13:00:00Z");
    }

    #[test]
    fn a_day_whose_midnight_is_skipped_begins_when_the_clocks_do() {
        // Santiago: on 2026-09-06 the clocks go from 00:00 to 01:00; on 2026-04-05 back from 00:00 to 23:00.
        let santiago = "calendar day America/Santiago";
        assert_span(santiago, "2026-09-06T04:00:00Z", "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z");
        assert_span(santiago, "2026-04-05T03:30:00Z", "2026-04-04T03:00:00Z", "2026-04-05T04:00:00Z");
    }

    #[test]
    fn a_day_that_the_clocks_go_back_into_is_not_opened_again() {
        // St John's, 2006-10-29: at 00:01 back to 23:01 of the day before.
        let st_johns = "calendar day America/St_Johns";
        let (start, end) = ("2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z");
        for now in ["2006-10-29T02:30:30Z", "2006-10-29T02:31:00Z", "2006-10-29T03:29:59Z", "2006-10-29T03:30:00Z"] {
            assert_span(st_johns, now, start, end);
        }
    }

    #[test]
    fn a_date_that_never_was_has_no_period() {
        let apia = "calendar day Pacific/Apia";
        assert_span(apia, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z");
        assert_span(apia, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z");
    }

    #[test]
    fn hours_are_full_on_the_wall() {
        assert_span(
            "calendar hour Asia/Kolkata",
            "2026-11-21T12:31:00Z",
            "2026-11-21T12:30:00Z",
            "2026-11-21T13:30:00Z",
        );
        assert_span("calendar minute UTC", "2026-11-21T12:31:59.999Z", "2026-11-21T12:31:00Z", "2026-11-21T12:32:00Z");
        // Two o'clock strikes twice: two hours.
        let berlin = "calendar hour Europe/Berlin";
        assert_span(berlin, "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z");
        assert_span(berlin, "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z");
        assert_span(berlin, "2026-03-29T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z");
    }

    #[test]
    fn an_hour_that_a_change_cuts_is_two_periods() {
        // Lord Howe goes back from 02:00 to 01:30 (15:00 UTC), and on from 02:00 to 02:30 (15:30 UTC).
        let lord_howe = "calendar hour Australia/Lord_Howe";
        assert_span(lord_howe, "2026-04-04T14:59:59Z", "2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z");
        assert_span(lord_howe, "2026-04-04T15:00:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z");
        assert_span(lord_howe, "2026-10-03T15:29:59Z", "2026-10-03T14:30:00Z", "2026-10-03T15:30:00Z");
        assert_span(lord_howe, "2026-10-03T15:30:00Z", "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z");
    }

    #[test]
    fn a_rolling_window_counts_sixty_buckets_and_the_oldest_whole() {
        for unit in Unit::ALL {
            let rolling = Window::Rolling(unit);
            let now = at("2026-11-21T12:34:56.789Z");
            let bucket_ms = unit.length_ms() / ROLLING_BUCKETS;
            let span = rolling.span(now);
            assert_eq!(span.end.0 - span.start.0, bucket_ms, "{unit}");
            assert_eq!(span.start.0 % bucket_ms, 0, "{unit}");
            assert_eq!((span.end.0 - rolling.counted_from(now).0) / bucket_ms, ROLLING_BUCKETS + 1, "{unit}");
            assert!(rolling.counted_from(now).0 <= now.0 - unit.length_ms(), "{unit}");
            assert_eq!(rolling.heals_at(now), Some(span.end), "{unit}");
        }
    }

    #[test]
    fn a_total_is_one_period_that_never_heals() {
        for now in [EpochMs(0), at("2026-11-21T12:00:00Z"), EpochMs(i64::MAX - 1)] {
            assert_eq!(Window::Total.span(now), Span::TOTAL);
            assert_eq!(Window::Total.counted_from(now), EpochMs(0));
            assert_eq!(Window::Total.heals_at(now), None);
        }
    }

    #[test]
    fn a_calendar_counts_its_period_alone_and_heals_at_its_end() {
        let berlin = window("calendar month Europe/Berlin");
        let now = at("2026-11-21T12:00:00Z");
        assert_eq!(berlin.counted_from(now), at("2026-10-31T23:00:00Z"));
        assert_eq!(berlin.heals_at(now), Some(at("2026-11-30T23:00:00Z")));
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for text in ["total", "rolling minute", "rolling month", "calendar week UTC", "calendar month Europe/Berlin"] {
            assert_eq!(window(text).name(), text);
        }
        assert_eq!(window("calendar day europe/berlin").name(), "calendar day Europe/Berlin");
        for text in
            ["", "month", "rolling", "rolling fortnight", "calendar day", "calendar day Europe/Berln", "total x"]
        {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
        assert!(Zone::names().iter().any(|name| name == "Europe/Berlin"));
    }

    #[test]
    fn moments_beyond_the_calendar_have_a_period() {
        for unit in Unit::ALL {
            for now in [EpochMs(i64::MIN), EpochMs(i64::MAX), EpochMs(-1)] {
                let span = Window::Calendar { unit, zone: Zone::utc() }.span(now);
                assert!(span.start < span.end, "{unit} at {now:?}");
                let _ = Window::Rolling(unit).span(now);
            }
        }
    }

    fn any_window() -> impl Strategy<Value = Window> {
        (0..Unit::ALL.len(), 0..=ZONES.len()).prop_map(|(unit, zone)| match ZONES.get(zone) {
            Some(name) => Window::Calendar { unit: Unit::ALL[unit], zone: name.parse().expect(name) },
            None => Window::Rolling(Unit::ALL[unit]),
        })
    }

    /// Any moment of the years 1970 to 2100, and the neighbourhood of every change of the clocks in a zone.
    fn moment(window: &Window, seed: i64, is_near_change: bool) -> EpochMs {
        let now = EpochMs(seed.rem_euclid(130 * 365 * DAY_MS));
        let Window::Calendar { zone, .. } = window else { return now };
        let change = zone.0.following(within_reach(now)).next();
        match change {
            Some(change) if is_near_change => epoch_ms(change.timestamp()).plus(seed.rem_euclid(3 * HOUR_MS) - HOUR_MS),
            _ => now,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn periods_tile_time(window in any_window(), seed in any::<i64>(), near in any::<bool>(), jump in 0..7_usize) {
            let now = moment(&window, seed, near);
            let span = window.span(now);
            prop_assert!(span.contains(now), "{window} {now:?} {span:?}");
            prop_assert_eq!(window.span(span.end).start, span.end);
            prop_assert_eq!(window.span(span.start.plus(-1)).end, span.start);
            let inside = span.start.0 + seed.rem_euclid(span.end.0 - span.start.0);
            for same in [span.start, EpochMs(inside), span.end.plus(-1)] {
                prop_assert_eq!(window.span(same), span);
            }
            // A clock that jumps lands in the same period, or in one that lies wholly on that side.
            let jump = [0, 1_000, -1_000, HOUR_MS, -HOUR_MS, DAY_MS, -DAY_MS][jump];
            let other = window.span(now.plus(jump));
            prop_assert!(other == span || other.start >= span.end || other.end <= span.start);
            prop_assert!(window.counted_from(now) <= span.start);
            prop_assert!(window.counted_from(now.plus(jump.abs())) >= window.counted_from(now));
        }
    }
}
