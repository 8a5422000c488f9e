//! Rates that several nodes count together: each takes slices of the window from a store that all of them reach, and tells it
//! what was used. What a slice holds is this node's alone, so a check is as cheap as where there is one node.
//!
//! Per window the store has two sums of all nodes: `taken`, which never passes the limit but by what nobody gets, and `used`,
//! for people to see. Each exchange adds to both and hears both; one exchange is open at a time.

use super::rate::Rate;
use crate::id::QuotaId;
use crate::time::EpochMs;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A slice that was used up sooner than this, in milliseconds, is followed by one twice as large: so however hot a rate is, it
/// asks some ten times a second.
const SLICE_MS_MIN: u64 = 100;
/// One that lasted longer than this is followed by one half as large, so that little lies idle where others need it.
const SLICE_MS_MAX: u64 = 250;
/// Clocks that differ from what was measured before by no more than this, in milliseconds, are left alone: a window's end should
/// not wander while calls that began before it are settled.
const CLOCK_SLACK_MS: i64 = 10;
const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// A number that counts in one window: the window's number in the upper 24 bits, the count in the lower 40.
#[derive(Debug, Default)]
pub(super) struct WindowCount(AtomicU64);

impl WindowCount {
    /// The number of a window as it is kept here.
    pub(super) fn window(number: i64) -> u64 {
        number as u64 & (u64::MAX >> COUNT_BITS)
    }

    /// This window, or the one that it counts in if that is at most `reach` later: then this one is over. A clock that was set
    /// back further is believed.
    pub(super) fn later(&self, window: u64, reach: u64) -> u64 {
        let counted = self.0.load(Acquire) >> COUNT_BITS;
        // Numbers begin anew some day.
        let ahead = Self::window(counted.wrapping_sub(window) as i64);
        if ahead <= reach { counted } else { window }
    }

    /// The count, 0 in any other window.
    pub(super) fn read(&self, window: u64) -> i64 {
        count_in(self.0.load(Acquire), window).unwrap_or(0)
    }

    /// Puts another count in place of the window's, or of any other's. Says whether there was one to put.
    pub(super) fn change(&self, window: u64, change: impl Fn(i64) -> Option<i64>) -> bool {
        let changed = |state: u64| Some(packed(window, change(count_in(state, window).unwrap_or(0))?));
        self.0.fetch_update(AcqRel, Acquire, changed).is_ok()
    }

    /// The same, unless the window has passed.
    pub(super) fn correct(&self, window: u64, change: impl Fn(i64) -> i64) {
        let corrected = |state: u64| Some(packed(window, change(count_in(state, window)?)));
        // A window that has passed has nothing to correct.
        let _ = self.0.fetch_update(AcqRel, Acquire, corrected);
    }

    /// Changes the count of whatever window it is.
    fn lower(&self, change: impl Fn(u64, i64) -> i64) {
        let changed =
            |state: u64| Some(packed(state >> COUNT_BITS, change(state >> COUNT_BITS, (state & COUNT_MASK) as i64)));
        let _ = self.0.fetch_update(AcqRel, Acquire, changed);
    }
}

fn count_in(state: u64, window: u64) -> Option<i64> {
    (state >> COUNT_BITS == window).then_some((state & COUNT_MASK) as i64)
}

fn packed(window: u64, count: i64) -> u64 {
    window << COUNT_BITS | count.clamp(0, COUNT_MASK as i64) as u64
}

/// What all shared rates of a node have in common.
#[derive(Debug)]
pub struct Peers {
    /// How far the clock that all nodes go by is ahead of this node's.
    ahead_ms: AtomicI64,
    nodes_max: i64,
    /// Whether there is a store in which nodes count together.
    have_a_store: bool,
    /// Rates that were used since the others were told.
    used: Mutex<Vec<Arc<Rate>>>,
}

impl Peers {
    /// There are at most `nodes_max` nodes at once, this one among them.
    #[must_use]
    pub fn new(nodes_max: u32) -> Self {
        let nodes_max = i64::from(nodes_max.max(1));
        Self { ahead_ms: AtomicI64::new(0), nodes_max, have_a_store: true, used: Mutex::default() }
    }

    /// The same, where there is no store in which they could count together: each has its part of every limit for good.
    #[must_use]
    pub fn without_store(nodes_max: u32) -> Self {
        Self { have_a_store: false, ..Self::new(nodes_max) }
    }

    /// Takes in how far the clock that all nodes go by was measured to be ahead of this node's, in milliseconds.
    pub fn set_clock(&self, ahead_ms: i64) {
        if (ahead_ms - self.ahead_ms.load(Acquire)).abs() > CLOCK_SLACK_MS {
            self.ahead_ms.store(ahead_ms, Release);
        }
    }

    /// The rates that were used, or that were left to themselves, since this was asked last.
    #[must_use]
    pub fn take_used(&self) -> Vec<Arc<Rate>> {
        let used = std::mem::take(&mut *lock(&self.used));
        used.iter()
            .for_each(|rate| rate.sharing().into_iter().for_each(|sharing| sharing.is_noted.store(false, Release)));
        used
    }
}

/// What a node says and asks of one rate in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceAsk {
    /// The quota.
    pub quota: QuotaId,
    /// The window, by a number that all nodes use for it.
    pub window: u64,
    /// To be added to what nodes have taken.
    pub take: i64,
    /// To be added to what they have used; below zero where less was used than was said.
    pub used: i64,
    /// How long the sums are needed, in milliseconds.
    pub keep_ms: u64,
    /// Of `take`: what calls have used beyond their slices already, which is counted whatever the limit says.
    owed: i64,
}

/// The sums of all nodes after an ask was added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceReply {
    /// Taken in the window.
    pub taken: i64,
    /// Used in it.
    pub used: i64,
}

/// This node's part of a shared rate.
#[derive(Debug)]
pub(super) struct Sharing {
    quota: QuotaId,
    peers: Arc<Peers>,
    /// What this node may count up to.
    granted: WindowCount,
    /// What all nodes are known to have taken.
    taken: WindowCount,
    /// What the others are known to have used.
    used_elsewhere: WindowCount,
    /// Whether the others could not be reached when they were asked last.
    is_alone: AtomicBool,
    /// Whether it is among [`Peers::used`].
    is_noted: AtomicBool,
    demand: Mutex<Demand>,
}

/// How much is asked for at a time, and what the others were told.
#[derive(Debug, Default)]
struct Demand {
    window: u64,
    /// Of this node's count in the window: what the others know.
    told: i64,
    slice: i64,
    sliced: EpochMs,
}

impl Sharing {
    pub(super) fn new(quota: QuotaId, peers: Arc<Peers>) -> Self {
        Self {
            quota,
            is_alone: AtomicBool::new(!peers.have_a_store),
            peers,
            granted: WindowCount::default(),
            taken: WindowCount::default(),
            used_elsewhere: WindowCount::default(),
            is_noted: AtomicBool::new(false),
            demand: Mutex::default(),
        }
    }

    /// A moment by the clock that all nodes go by.
    pub(super) fn moment(&self, now: EpochMs) -> EpochMs {
        now.plus(self.peers.ahead_ms.load(Acquire))
    }

    /// The window in which a call takes that came in this one: it may have waited for a slice until the next had begun, and the
    /// slice is of that.
    pub(super) fn window_to_take(&self, window: u64, reach: u64) -> u64 {
        self.granted.later(window, reach)
    }

    /// What this node may count up to without asking. Where the others can't be reached, that is its part of the limit, less what
    /// is known to be gone.
    pub(super) fn ceiling(&self, window: u64, limit: i64) -> i64 {
        let granted = self.granted.read(window);
        if !self.is_alone.load(Acquire) {
            return granted.min(limit);
        }
        let part = (limit / self.peers.nodes_max).max(1);
        let left = (limit - self.taken.read(window)).max(0);
        granted.max(part.min(granted.saturating_add(left))).min(limit)
    }

    pub(super) fn used_elsewhere(&self, window: u64) -> i64 {
        self.used_elsewhere.read(window)
    }

    /// Whether asking the others may bring what a call is short of.
    pub(super) fn is_worth_asking(&self, (window, count): (u64, i64), amount: i64, limit: i64) -> bool {
        let short = count.saturating_add(amount).saturating_sub(self.granted.read(window));
        !self.is_alone.load(Acquire) && short <= limit - self.taken.read(window)
    }

    /// Notes that there is something to tell the others.
    pub(super) fn note_use(&self, rate: &Arc<Rate>) {
        if self.peers.have_a_store && !self.is_noted.load(Acquire) && !self.is_noted.swap(true, AcqRel) {
            lock(&self.peers.used).push(Arc::clone(rate));
        }
    }

    pub(super) fn quota(&self) -> QuotaId {
        self.quota
    }

    /// Lets go of what is left of slices that were granted under a higher limit: all nodes' together may be more than there is now.
    pub(super) fn let_go_of_rest(&self, count: impl Fn(u64) -> i64) {
        self.granted.lower(|window, granted| granted.min(count(window)));
    }

    /// What to say and ask, where this node has counted `count` and calls wait for `wanted` more.
    pub(super) fn ask(&self, (window, count): (u64, i64), wanted: i64, limit: i64, now: EpochMs) -> SliceAsk {
        let mut demand = lock(&self.demand);
        if demand.window != window {
            (demand.window, demand.told) = (window, 0);
        }
        let granted = self.granted.read(window);
        let owed = count.saturating_sub(granted).max(0);
        let short = count.saturating_add(wanted).saturating_sub(granted.max(count)).max(0);
        let left = limit.saturating_sub(self.taken.read(window)).max(0);
        let more = if wanted > 0 && short > 0 && left > 0 { demand.next_slice(short, left, now) } else { 0 };
        let used = count - demand.told;
        SliceAsk { quota: self.quota, window, take: owed.saturating_add(more), used, keep_ms: 0, owed }
    }

    pub(super) fn go_alone(&self) {
        self.is_alone.store(true, Release);
    }

    /// Takes in what the others' store answered.
    pub(super) fn hear(&self, ask: &SliceAsk, reply: SliceReply, limit: i64) {
        let known = self.taken.read(ask.window);
        // A store that has lost its sums says less than is known; what was taken stays taken.
        let before = reply.taken.saturating_sub(ask.take).max(known);
        let granted = limit.saturating_sub(before).clamp(0, ask.take).max(ask.owed);
        self.granted.change(ask.window, |sum| Some(sum.saturating_add(granted)));
        self.taken.change(ask.window, |_| Some(reply.taken.max(before.saturating_add(granted))));
        let mut demand = lock(&self.demand);
        if demand.window == ask.window {
            demand.told += ask.used;
            let elsewhere = reply.used.saturating_sub(demand.told);
            self.used_elsewhere.change(ask.window, |_| Some(elsewhere.max(0)));
        }
        self.is_alone.store(false, Release);
    }
}

impl Demand {
    /// How much to take where calls are short of so much, and so much is left as far as is known: as much as lasts a while, and
    /// little more than they wait for as the limit nears.
    fn next_slice(&mut self, short: i64, left: i64, now: EpochMs) -> i64 {
        let lasted_ms = now.since(self.sliced);
        self.sliced = now;
        let slice = short.max(self.slice.min(left / 2)).min(left);
        if lasted_ms < SLICE_MS_MIN {
            self.slice = self.slice.saturating_mul(2).max(short);
        } else if lasted_ms > SLICE_MS_MAX {
            self.slice /= 2;
        }
        slice
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
