//! What a node knows of a quota of money beside its limit: its accounts, and what others have charged.

use super::account::Account;
use crate::lease::SLICE_MS;
use crate::time::EpochMs;
use crate::window::Span;
use std::sync::Arc;

/// The accounts of a quota, and what was said of it.
#[derive(Debug)]
pub(super) struct Accounts {
    /// The current one, and those of earlier periods that still count or have calls in progress.
    pub(super) open: Vec<Arc<Account>>,
    /// Charged by others or before, in the periods that counted at `known_at`.
    pub(super) elsewhere: i64,
    pub(super) known_at: Span,
    /// Whether the books have said so. If not, `elsewhere` is nothing.
    pub(super) is_told: bool,
    /// When the limit ends, by the authority's clock, that credit was leased under.
    pub(super) lapses_at: EpochMs,
    /// What the last slice was, and when it was asked for.
    pub(super) slice: (i64, EpochMs),
}

impl Accounts {
    pub(super) fn tell(&mut self, spent: i64, known_at: Span) {
        if !self.is_told {
            (self.elsewhere, self.known_at, self.is_told) = (spent, known_at, true);
        }
    }

    /// The account that was opened without a limit and has had no lease since: there is one at the most.
    pub(super) fn uncovered(&self) -> Option<&Arc<Account>> {
        self.open.iter().find(|account| !account.is_leased())
    }

    /// What calls will take while the next slice is to last, if they go on as they did with the last one.
    pub(super) fn demand(&self, now: EpochMs) -> i64 {
        let (granted, at) = self.slice;
        let lasted_ms = now.0.saturating_sub(at.0).max(1);
        if lasted_ms > 4 * SLICE_MS { 0 } else { granted.saturating_mul(SLICE_MS) / lasted_ms }
    }
}
