//! What a running call holds of a quota of money, from its reservation to its settlement.

use super::{Account, Spend, add};
use crate::money::NanoUsd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// An amount that a call has taken from an account.
#[derive(Debug)]
pub(in crate::quota) struct Held {
    pub(in crate::quota) spend: Arc<Spend>,
    pub(in crate::quota) account: Arc<Account>,
    pub(in crate::quota) amount: i64,
    /// How often credit had been called back when it was taken.
    pub(super) recalls: i64,
}

impl Held {
    /// Takes more, if there is credit.
    pub(in crate::quota) fn extend(&mut self, more: i64) -> bool {
        let is_taken = self.account.take(more);
        self.amount += if is_taken { more } else { 0 };
        is_taken
    }

    /// Whether its account has so much credit.
    pub(in crate::quota) fn has(&self, amount: i64) -> bool {
        self.account.credit.load(Acquire) >= amount
    }

    /// Gives a part back.
    pub(in crate::quota) fn shrink(&mut self, less: i64) {
        self.account.reserved.fetch_sub(less, AcqRel);
        add(&self.account.credit, less);
        self.amount -= less;
    }

    /// Charges what a call cost and gives the rest back; the period is the one that the call was reserved in.
    pub(in crate::quota) fn settle(&self, charge: NanoUsd) {
        let account = &self.account;
        account.reserved.fetch_sub(self.amount, AcqRel);
        add(&account.settled, charge.0);
        add(&account.credit, self.amount.saturating_sub(charge.0));
        if account.recalls.load(Acquire) != self.recalls {
            // It was leased under other terms: what is left of it is to be asked for under those of now.
            account.give_back();
        }
    }
}
