//! What calls moved, added up: by quota and period, by hour, key, model and provider, and by whom and what they were for.

use super::calls::KIND_COLUMNS;
use super::signed;
use filters::attribution::Attribution;
use filters::id::{KeyId, OrgId};
use filters::ports::{Amendment, Intent, Share, Terminal};
use filters::time::{EpochMs, date_of_day};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Columns of figures that stand before those of the kinds of tokens, and the one after them.
const FIGURES_BEFORE: [&str; 4] = ["calls", "estimated", "input_tokens", "output_tokens"];
const FIGURE_AFTER: &str = "charge_nano";
/// How many figures there are.
pub(in crate::store) const FIGURES: usize = FIGURES_BEFORE.len() + KIND_COLUMNS.len() + 1;

/// The columns of figures, in the order of the tables.
pub(in crate::store) fn figure_columns() -> impl Iterator<Item = &'static str> {
    let kinds = KIND_COLUMNS.iter().map(|(_, column)| *column);
    FIGURES_BEFORE.into_iter().chain(kinds).chain([FIGURE_AFTER])
}

/// What some calls used and were charged, in the order of [`figure_columns`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Figures(pub(in crate::store) [i64; FIGURES]);

impl Figures {
    /// What was charged.
    pub(in crate::store) fn charge(&self) -> i64 {
        self.0[FIGURES - 1]
    }

    /// Adds others. Stops at the largest number, as `NanoUsd` does.
    pub(in crate::store) fn add(&mut self, others: &Self) {
        for (figure, other) in self.0.iter_mut().zip(others.0) {
            *figure = figure.saturating_add(other);
        }
    }
}

/// Whose usage of what, and since when: the beginning of an hour or of a day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Use {
    pub(super) from: EpochMs,
    pub(super) key: KeyId,
    pub(super) model: Arc<str>,
}

/// The same in an hour, at one provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UseAt {
    pub(super) using: Use,
    pub(super) provider: Arc<str>,
}

/// What the calls of a use used, and when the last of them was admitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) org: OrgId,
    pub(super) figures: Figures,
    last: EpochMs,
}

/// What the client says of some calls, on the UTC day that begins then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Named {
    pub(super) org: OrgId,
    pub(super) day: EpochMs,
    pub(super) by: Naming,
    pub(super) name: Arc<str>,
}

/// How a client tells its calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Naming {
    User,
    Tag,
}

/// What was charged to a quota in a period, and whose quota it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub(super) org: OrgId,
    pub(super) amount: i64,
}

/// A call as far as sums are concerned.
pub(super) struct Entry<'a> {
    pub(super) key: KeyId,
    pub(super) org: OrgId,
    pub(super) model: &'a Arc<str>,
    pub(super) provider: &'a Arc<str>,
    pub(super) started: EpochMs,
    pub(super) figures: Figures,
    pub(super) shares: &'a [Share],
    pub(super) attribution: Option<&'a Attribution>,
}

impl<'a> Entry<'a> {
    pub(super) fn of(intent: &'a Intent, terminal: &'a Terminal) -> Self {
        let usage = &terminal.usage;
        let mut figures = Figures::default();
        let before = [1, i64::from(terminal.estimated), signed(usage.input_total()), signed(usage.output_total())];
        let kinds = KIND_COLUMNS.iter().map(|(kind, _)| signed(usage.get(*kind)));
        let all = before.into_iter().chain(kinds).chain([terminal.charge.0]);
        figures.0.iter_mut().zip(all).for_each(|(figure, value)| *figure = value);
        Self {
            key: intent.key,
            org: intent.org,
            model: &intent.model,
            provider: &terminal.provider,
            started: intent.started,
            figures,
            shares: &intent.shares,
            attribution: intent.attribution.as_deref(),
        }
    }
}

/// Sums of calls.
#[derive(Debug, Default)]
pub(super) struct Sums {
    charged: HashMap<Share, Charged>,
    used: HashMap<UseAt, Used>,
    named: HashMap<Named, Figures>,
    /// The hours in which usage came after its call's end.
    amended: BTreeSet<EpochMs>,
}

impl Sums {
    /// Adds a call.
    pub(super) fn add(&mut self, call: &Entry<'_>) {
        self.charge(call.shares, call.org, call.figures.charge());
        let from = beginning(call.started, HOUR_MS);
        let using = Use { from, key: call.key, model: Arc::clone(call.model) };
        let used = self.used.entry(UseAt { using, provider: Arc::clone(call.provider) });
        let used = used.or_insert(Used { org: call.org, figures: Figures::default(), last: call.started });
        used.figures.add(&call.figures);
        used.last = used.last.max(call.started);
        if let Some(attribution) = call.attribution {
            self.name(call, attribution);
        }
    }

    fn name(&mut self, call: &Entry<'_>, attribution: &Attribution) {
        let day = beginning(call.started, DAY_MS);
        let users = attribution.user.iter().map(|user| (Naming::User, user));
        for (by, name) in users.chain(attribution.tags.iter().map(|tag| (Naming::Tag, tag))) {
            let named = Named { org: call.org, day, by, name: Arc::clone(name) };
            self.named.entry(named).or_default().add(&call.figures);
        }
    }

    /// Adds a charge to each of its shares.
    fn charge(&mut self, shares: &[Share], org: OrgId, amount: i64) {
        for share in shares {
            let charged = self.charged.entry(*share).or_insert(Charged { org, amount: 0 });
            charged.amount = charged.amount.saturating_add(amount);
        }
    }

    /// Adds what came after a call's end.
    pub(super) fn amend(&mut self, amendment: &Amendment) {
        self.charge(&amendment.shares, amendment.org, amendment.charge.0);
        self.amended.insert(hour_of(amendment.at));
    }

    /// The hours that something was added to.
    pub(super) fn hours_touched(&self) -> impl Iterator<Item = EpochMs> {
        self.used.keys().map(|at| at.using.from).chain(self.amended.iter().copied())
    }

    /// How many sums there are.
    pub(super) fn len(&self) -> usize {
        self.charged.len() + self.used.len() + self.named.len()
    }

    /// Charges by quota and period, in their order.
    pub(super) fn charges(&self) -> Vec<(Share, Charged)> {
        let mut charges: Vec<_> = self.charged.iter().map(|(share, charged)| (*share, *charged)).collect();
        charges.sort_unstable_by_key(|(share, _)| *share);
        charges
    }

    /// Usage by hour, in order.
    pub(super) fn hours(&self) -> Vec<(Use, Figures)> {
        summed(self.used.iter().map(|(at, used)| (at.using.clone(), used.figures)))
    }

    /// Usage by day, in order.
    pub(super) fn days(&self) -> Vec<(Use, Figures)> {
        let day_of = |using: &Use| Use { from: beginning(using.from, DAY_MS), ..using.clone() };
        summed(self.used.iter().map(|(at, used)| (day_of(&at.using), used.figures)))
    }

    /// Usage by hour, key, model and provider.
    pub(super) fn uses(&self) -> impl Iterator<Item = (&UseAt, &Used)> {
        self.used.iter()
    }

    /// Usage by what clients say of it.
    pub(super) fn named(&self) -> impl Iterator<Item = (&Named, &Figures)> {
        self.named.iter()
    }

    /// When the latest call of each key was admitted, in the order of the keys.
    pub(super) fn last_uses(&self) -> Vec<(KeyId, EpochMs)> {
        let mut last: Vec<_> = self.used.iter().map(|(at, used)| (at.using.key, used.last)).collect();
        // Of each key the latest comes first, and the first stays.
        last.sort_unstable_by_key(|(key, at)| (*key, std::cmp::Reverse(*at)));
        last.dedup_by_key(|(key, _)| *key);
        last
    }
}

/// Adds up what belongs to the same, and puts it in order.
pub(super) fn summed<T: Ord>(figures: impl Iterator<Item = (T, Figures)>) -> Vec<(T, Figures)> {
    let mut sums: Vec<_> = figures.collect();
    sums.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    sums.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            earlier.1.add(&later.1);
        }
        is_same
    });
    sums
}

/// The beginning of the month of a moment.
pub(in crate::store) fn month_of(moment: EpochMs) -> EpochMs {
    let (_, _, day_of_month) = date_of_day(moment.day());
    EpochMs((moment.day() - day_of_month + 1) * DAY_MS)
}

/// The beginning of a moment's day.
pub(in crate::store) fn day_of(moment: EpochMs) -> EpochMs {
    beginning(moment, DAY_MS)
}

/// The beginning of the hour or day of a moment.
fn beginning(moment: EpochMs, length_ms: i64) -> EpochMs {
    EpochMs(moment.0 - moment.0.rem_euclid(length_ms))
}

/// The beginning of a moment's hour.
pub(in crate::store) fn hour_of(moment: EpochMs) -> EpochMs {
    beginning(moment, HOUR_MS)
}

/// The beginning of the first day that begins at or after a moment.
pub(in crate::store) fn day_from(moment: EpochMs) -> EpochMs {
    beginning(moment.plus(DAY_MS - 1), DAY_MS)
}
