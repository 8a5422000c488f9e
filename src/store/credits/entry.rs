//! Entries of the ledger: their kinds, their accounts, and which of them people may make.

use crate::store::StoreError;
use crate::store::quotas::QuotaRow;
use filters::id::{CallId, OrgId};
use filters::money::NanoUsd;
use std::fmt;

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// What an organisation began with.
    Opening,
    /// Paid in.
    TopUp,
    /// Given or taken by the operator.
    Adjustment,
    /// Given back, of a call or without one.
    Refund,
    /// What an hour's calls were charged.
    Charges,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Opening, Self::TopUp, Self::Adjustment, Self::Refund, Self::Charges];

    /// The name in tables and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::TopUp => "topup",
            Self::Adjustment => "adjustment",
            Self::Refund => "refund",
            Self::Charges => "charges",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The operator's side of it.
    pub(super) fn counterpart(self) -> Account {
        match self {
            Self::Opening | Self::TopUp => Account::Funding,
            Self::Adjustment => Account::Adjustments,
            Self::Refund => Account::Refunds,
            Self::Charges => Account::Revenue,
        }
    }
}

/// Where money stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Account {
    Credits(OrgId),
    Charges(OrgId),
    Funding,
    Adjustments,
    Refunds,
    Revenue,
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credits(org) => write!(formatter, "org:{org}:credits"),
            Self::Charges(org) => write!(formatter, "org:{org}:charges"),
            Self::Funding => formatter.write_str("operator:funding"),
            Self::Adjustments => formatter.write_str("operator:adjustments"),
            Self::Refunds => formatter.write_str("operator:refunds"),
            Self::Revenue => formatter.write_str("operator:revenue"),
        }
    }
}

/// What people may book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind {
    /// Somebody has paid.
    TopUp,
    /// More or less, as the operator says.
    Adjustment {
        /// Whether less may be left than has been spent.
        is_forced: bool,
    },
    /// Something is given back.
    Refund {
        /// Of which call: of one no more than it was charged, in all.
        call: Option<CallId>,
    },
}

/// An entry to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Whose credits.
    pub org: OrgId,
    /// What it is.
    pub kind: NewKind,
    /// How much; only an adjustment may be negative.
    pub amount: NanoUsd,
    /// Why; top-ups need no reason.
    pub reason: String,
}

impl NewEntry {
    pub(super) fn kind(&self) -> EntryKind {
        match self.kind {
            NewKind::TopUp => EntryKind::TopUp,
            NewKind::Adjustment { .. } => EntryKind::Adjustment,
            NewKind::Refund { .. } => EntryKind::Refund,
        }
    }

    pub(super) fn action(&self) -> &'static str {
        match self.kind {
            NewKind::TopUp => "credits.topup",
            NewKind::Adjustment { .. } => "credits.adjust",
            NewKind::Refund { .. } => "credits.refund",
        }
    }

    pub(super) fn call(&self) -> Option<CallId> {
        match self.kind {
            NewKind::Refund { call } => call,
            NewKind::TopUp | NewKind::Adjustment { .. } => None,
        }
    }

    /// What can be said against it without a look at the books.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let problem = match self.kind {
            NewKind::TopUp if self.amount <= NanoUsd::ZERO => "a top-up must be more than 0 dollars",
            NewKind::Refund { .. } if self.amount <= NanoUsd::ZERO => "a refund must be more than 0 dollars",
            NewKind::Adjustment { .. } if self.amount == NanoUsd::ZERO => "an adjustment of 0 dollars adjusts nothing",
            NewKind::Refund { .. } | NewKind::Adjustment { .. } if self.reason.trim().is_empty() => {
                "an adjustment or a refund needs a reason"
            }
            NewKind::TopUp | NewKind::Refund { .. } | NewKind::Adjustment { .. } => return Ok(()),
        };
        Err(StoreError::Refused(problem))
    }

    /// The sum of credits as it is to be, given the balance as it is.
    pub(super) fn total(&self, balance: &QuotaRow) -> Result<i64, StoreError> {
        let total = balance.limit.checked_add(self.amount.0);
        let total =
            total.ok_or(StoreError::Refused("an organisation can have at most 9 200 000 000 dollars of credits"))?;
        if total < 0 {
            return Err(StoreError::Refused("this takes more than was ever paid in"));
        }
        let takes_what_is_spent = self.amount < NanoUsd::ZERO && total < balance.spent;
        if takes_what_is_spent && self.kind == (NewKind::Adjustment { is_forced: false }) {
            return Err(StoreError::Refused(
                "this leaves less than has been spent: take less, or force it and have a balance below zero",
            ));
        }
        Ok(total)
    }
}
