//! Requests or tokens in a window of time, aligned to the clock. May be lost with the process: it is not money.

use crate::denied::{Denied, LimitSource};
use crate::key::Glob;
use crate::time::EpochMs;
use crate::window::{Span, Unit, Window, Zone};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// The highest rate a window can count.
pub const RATE_MAX: i64 = 1_000_000_000_000;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Requests.
    Requests,
    /// Input and output tokens.
    Tokens,
}

impl Counted {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// A rate.
#[derive(Debug)]
pub struct Rate {
    /// What it is called in refusals.
    pub source: LimitSource,
    /// What is counted.
    pub counted: Counted,
    /// The length of its window: minute, hour or day.
    pub per: Unit,
    /// The models that it is about; none: all.
    pub model: Option<Glob>,
    /// The period that was looked at last, where the clock is not UTC's: finding one takes longer than a check may.
    zoned: Option<Zoned>,
    limit: AtomicI64,
    /// The window's number in the upper 24 bits, the count in the lower 40.
    state: AtomicU64,
}

/// Periods of a calendar of somebody's time zone.
#[derive(Debug)]
struct Zoned {
    window: Window,
    last: ArcSwap<Span>,
}

/// A position in a rate's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateReading {
    /// The limit in force.
    pub limit: i64,
    /// What may still be taken in this window.
    pub remaining: i64,
    /// Milliseconds until the next window.
    pub reset_ms: u64,
    /// Length of the window in milliseconds.
    pub window_ms: i64,
}

const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

impl Rate {
    /// A rate whose window is empty. `limit` is at most [`RATE_MAX`].
    #[must_use]
    pub fn new(source: LimitSource, counted: Counted, per: Unit, limit: i64) -> Self {
        let limit = AtomicI64::new(limit.min(RATE_MAX));
        Self { source, counted, per, model: None, zoned: None, limit, state: AtomicU64::new(0) }
    }

    /// The same rate, for some models only.
    #[must_use]
    pub fn of_models(self, model: Option<Glob>) -> Self {
        Self { model, ..self }
    }

    /// The same rate, by the clocks of a time zone.
    #[must_use]
    pub fn in_zone(self, zone: Zone) -> Self {
        let window = Window::Calendar { unit: self.per, zone };
        let last = ArcSwap::from_pointee(window.span(EpochMs(0)));
        // Minutes are the same on every clock.
        let zoned = (self.per != Unit::Minute).then_some(Zoned { window, last });
        Self { zoned, ..self }
    }

    /// The window that it counts in.
    #[must_use]
    pub fn window(&self) -> Window {
        let of_utc = || Window::Calendar { unit: self.per, zone: Zone::utc() };
        self.zoned.as_ref().map_or_else(of_utc, |zoned| zoned.window.clone())
    }

    /// Puts another limit in force at once.
    pub fn set_limit(&self, limit: i64) {
        self.limit.store(limit.min(RATE_MAX), Release);
    }

    /// Where the window stands.
    #[must_use]
    pub fn read(&self, now: EpochMs) -> RateReading {
        let state = self.state.load(Acquire);
        let count = if state >> COUNT_BITS == self.window_of(now) { (state & COUNT_MASK) as i64 } else { 0 };
        let limit = self.limit.load(Acquire);
        let reset_ms = self.until_next_window(now);
        RateReading { limit, remaining: (limit - count).max(0), reset_ms, window_ms: self.per.length_ms() }
    }

    pub(super) fn take(&self, amount: i64, now: EpochMs) -> Result<(), Denied> {
        let window = self.window_of(now);
        let limit = self.limit.load(Acquire);
        let fits = |state: u64| {
            let count = if state >> COUNT_BITS == window { state & COUNT_MASK } else { 0 };
            let total = count.checked_add(amount as u64).filter(|total| *total <= limit as u64)?;
            Some(window << COUNT_BITS | total)
        };
        match self.state.fetch_update(AcqRel, Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Denied::RateLimitExceeded {
                quota: self.source,
                unit: self.counted.name(),
                per: self.per.name(),
                limit,
                retry_after_ms: self.until_next_window(now),
            }),
        }
    }

    /// Replaces what was taken at `then` by what was used; a window that has passed is left alone.
    pub(super) fn adjust(&self, taken: i64, used: i64, then: EpochMs) {
        let window = self.window_of(then);
        let corrected = |state: u64| {
            let count = (state & COUNT_MASK) as i64;
            let total = (count - taken).saturating_add(used).clamp(0, COUNT_MASK as i64);
            (state >> COUNT_BITS == window).then_some(window << COUNT_BITS | total as u64)
        };
        // A window that has passed has nothing to correct.
        let _ = self.state.fetch_update(AcqRel, Acquire, corrected);
    }

    fn window_of(&self, now: EpochMs) -> u64 {
        let number = match self.zoned_span(now) {
            // Of periods of a zone, the minute in which they begin: no two begin in one.
            Some(span) => span.start.0.div_euclid(Unit::Minute.length_ms()),
            None => now.0.div_euclid(self.per.length_ms()),
        };
        number as u64 & (u64::MAX >> COUNT_BITS)
    }

    fn until_next_window(&self, now: EpochMs) -> u64 {
        match self.zoned_span(now) {
            Some(span) => span.end.since(now),
            None => (self.per.length_ms() - now.0.rem_euclid(self.per.length_ms())) as u64,
        }
    }

    fn zoned_span(&self, now: EpochMs) -> Option<Span> {
        let zoned = self.zoned.as_ref()?;
        let last = **zoned.last.load();
        if last.contains(now) {
            return Some(last);
        }
        let span = zoned.window.span(now);
        zoned.last.store(Arc::new(span));
        Some(span)
    }
}
