//! Requests or tokens in a window of time, aligned to the clock. May be lost with the process: it is not money.

use super::sharing::{Peers, Sharing, SliceAsk, SliceReply, WindowCount};
use crate::denied::{Denied, LimitSource};
use crate::id::QuotaId;
use crate::key::Glob;
use crate::time::EpochMs;
use crate::window::{Span, Unit, Window, Zone};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::AcqRel, Ordering::Acquire};

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
    /// What this node has counted.
    count: WindowCount,
    /// This node's part of it, where others count too.
    sharing: Option<Box<Sharing>>,
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

/// How much longer than the window the sums of all nodes are kept, in milliseconds: clocks differ.
const KEPT_AFTER_MS: u64 = 60_000;

impl Rate {
    /// A rate whose window is empty. `limit` is at most [`RATE_MAX`].
    #[must_use]
    pub fn new(source: LimitSource, counted: Counted, per: Unit, limit: i64) -> Self {
        let limit = AtomicI64::new(limit.min(RATE_MAX));
        Self { source, counted, per, model: None, zoned: None, limit, count: WindowCount::default(), sharing: None }
    }

    /// The same rate, counted together with other nodes.
    #[must_use]
    pub fn shared(self, quota: QuotaId, peers: Arc<Peers>) -> Self {
        Self { sharing: Some(Box::new(Sharing::new(quota, peers))), ..self }
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
        let limit = limit.min(RATE_MAX);
        let before = self.limit.swap(limit, AcqRel);
        if let Some(sharing) = &self.sharing
            && limit < before
        {
            sharing.let_go_of_rest(|window| self.count.read(window));
        }
    }

    /// Where the window stands: of all nodes, as far as this one knows, which is as of a moment ago.
    #[must_use]
    pub fn read(&self, now: EpochMs) -> RateReading {
        let now = self.moment(now);
        let (window, limit) = (self.window_of(now), self.limit.load(Acquire));
        let elsewhere = self.sharing.as_ref().map_or(0, |sharing| sharing.used_elsewhere(window));
        let remaining = limit.saturating_sub(self.count.read(window)).saturating_sub(elsewhere).max(0);
        let reset_ms = self.until_next_window(now);
        RateReading { limit, remaining, reset_ms, window_ms: self.per.length_ms() }
    }

    pub(super) fn take(&self, amount: i64, now: EpochMs) -> Result<(), Denied> {
        let now = self.moment(now);
        let (window, limit) = (self.window_to_take(now), self.limit.load(Acquire));
        let ceiling = self.sharing.as_ref().map_or(limit, |sharing| sharing.ceiling(window, limit));
        let fits = |count: i64| count.checked_add(amount).filter(|total| *total <= ceiling);
        if self.count.change(window, fits) {
            return Ok(());
        }
        Err(Denied::RateLimitExceeded {
            quota: self.source,
            unit: self.counted.name(),
            per: self.per.name(),
            limit,
            retry_after_ms: self.until_next_window(now),
        })
    }

    /// Replaces what was taken at `then` by what was used; a window that has passed is left alone.
    pub(super) fn adjust(&self, taken: i64, used: i64, then: EpochMs) {
        let window = self.window_of(self.moment(then));
        self.count.correct(window, |count| (count - taken).saturating_add(used));
    }

    /// Notes that other nodes have to be told of what was counted here.
    pub(super) fn note_use(self: &Arc<Self>) {
        if let Some(sharing) = &self.sharing {
            sharing.note_use(self);
        }
    }

    /// Whether this much fits without asking anybody.
    pub(super) fn has_room(&self, amount: i64, now: EpochMs) -> bool {
        let (window, limit) = (self.window_to_take(self.moment(now)), self.limit.load(Acquire));
        let ceiling = self.sharing.as_ref().map_or(limit, |sharing| sharing.ceiling(window, limit));
        self.count.read(window).saturating_add(amount) <= ceiling
    }

    /// Whether other nodes may leave this one enough for a call that it has no room for itself.
    pub(super) fn is_worth_asking(&self, amount: i64, now: EpochMs) -> bool {
        let Some(sharing) = &self.sharing else { return false };
        let (window, limit) = (self.window_to_take(self.moment(now)), self.limit.load(Acquire));
        let count = self.count.read(window);
        count.saturating_add(amount) > sharing.ceiling(window, limit)
            && sharing.is_worth_asking((window, count), amount, limit)
    }

    /// The quota, where several nodes count it.
    #[must_use]
    pub fn shared_quota(&self) -> Option<QuotaId> {
        self.sharing.as_ref().map(|sharing| sharing.quota())
    }

    /// What to say to the other nodes' store, and what to ask for where calls wait for `wanted` (0 where none does). None where
    /// nobody else counts. The next ask of a rate is made when [`Rate::hear`] was told how this one ended.
    #[must_use]
    pub fn ask(&self, wanted: i64, now: EpochMs) -> Option<SliceAsk> {
        let sharing = self.sharing.as_ref()?;
        let moment = self.moment(now);
        let window = self.window_of(moment);
        let mut ask = sharing.ask((window, self.count.read(window)), wanted, self.limit.load(Acquire), now);
        ask.keep_ms = self.until_next_window(moment) + KEPT_AFTER_MS;
        Some(ask)
    }

    /// Takes in what the store answered to an ask.
    pub fn hear(&self, ask: &SliceAsk, reply: SliceReply) {
        if let Some(sharing) = &self.sharing {
            sharing.hear(ask, reply, self.limit.load(Acquire));
        }
    }

    /// Goes on with this node's part until the store is heard again: it could not be asked, or what it heard can't be known. What it
    /// may have added to its sums for this node is lost to all until the window ends.
    pub fn go_alone(self: &Arc<Self>) {
        if let Some(sharing) = &self.sharing {
            sharing.go_alone();
            // So that it is tried again, whether or not calls come.
            sharing.note_use(self);
        }
    }

    /// What this node has counted in the window.
    #[cfg(test)]
    pub(super) fn count_in_window(&self, now: EpochMs) -> i64 {
        self.count.read(self.window_of(self.moment(now)))
    }

    pub(super) fn sharing(&self) -> Option<&Sharing> {
        self.sharing.as_deref()
    }

    /// A moment by the clock that its windows go by.
    fn moment(&self, now: EpochMs) -> EpochMs {
        self.sharing.as_ref().map_or(now, |sharing| sharing.moment(now))
    }

    fn window_of(&self, now: EpochMs) -> u64 {
        WindowCount::window(match self.zoned_span(now) {
            // Of periods of a zone, the minute in which they begin: no two begin in one.
            Some(span) => span.start.0.div_euclid(Unit::Minute.length_ms()),
            None => now.0.div_euclid(self.per.length_ms()),
        })
    }

    /// The window that a call takes from which came at a moment: that of the moment, or the next where it has begun while the
    /// call was received. To count it in its own would forget what the next has counted.
    fn window_to_take(&self, now: EpochMs) -> u64 {
        let minutes = self.per.length_ms() / Unit::Minute.length_ms();
        let reach = if self.zoned.is_some() { 2 * minutes.unsigned_abs() } else { 2 };
        let window = self.count.later(self.window_of(now), reach);
        self.sharing.as_ref().map_or(window, |sharing| sharing.window_to_take(window, reach))
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
