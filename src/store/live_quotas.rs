//! The quotas in use by this process: one instance each, shared by every key that has it, for as long as anyone may need it.
//!
//! What calls have taken stands in these atomics alone until it is shipped. So a key that is read again keeps its quotas, and a
//! quota of money goes only when nobody holds it and the books say the same as it does.

use super::quotas::{QuotaKind, QuotaRow};
use filters::denied::LimitSource;
use filters::id::{KeyId, QuotaId};
use filters::money::NanoUsd;
use filters::quota::{Chain, Concurrency, Rate, Spend};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug)]
enum Live {
    Spend(Arc<Spend>),
    Rate(Arc<Rate>),
    Concurrency(Arc<Concurrency>),
}

impl Live {
    /// Whether a key, or a call in progress, holds it. Nobody can take it meanwhile: that needs the registry too.
    fn is_held(&self) -> bool {
        let holders = match self {
            Self::Spend(spend) => Arc::strong_count(spend),
            Self::Rate(rate) => Arc::strong_count(rate),
            Self::Concurrency(concurrency) => Arc::strong_count(concurrency),
        };
        holders > 1
    }
}

/// The registry.
#[derive(Debug, Default)]
pub(super) struct LiveQuotas {
    live: HashMap<QuotaId, Live>,
    /// Quotas of keys that were let go, and the tick of it.
    leaving: HashMap<QuotaId, u64>,
}

impl LiveQuotas {
    /// The chain of a key, from its own quotas and its organisation's. Limits take effect at once, also for other keys.
    pub(super) fn chain<'a>(&mut self, quotas: impl Iterator<Item = &'a QuotaRow>) -> (Chain, Box<[QuotaId]>) {
        let (mut chain, mut ids, mut balance) = (Chain::default(), Vec::new(), None);
        // So far the gateway holds calls to the plain limits of their key and to the balance; the others are on record only.
        let is_of_key = |row: &QuotaRow| row.kind == QuotaKind::Balance || row.owner.parse::<KeyId>().is_ok();
        for row in quotas.filter(|row| row.is_plain() && is_of_key(row)) {
            ids.push(row.id);
            match row.kind {
                QuotaKind::Balance => balance = Some(self.spend(row)),
                QuotaKind::Spend => chain.spend.push(self.spend(row)),
                QuotaKind::Requests => chain.requests = Some(self.rate(row)),
                QuotaKind::Tokens => chain.tokens = Some(self.rate(row)),
                QuotaKind::Concurrency => chain.concurrency = Some(self.concurrency(row)),
            }
        }
        chain.spend.extend(balance);
        (chain, ids.into())
    }

    fn spend(&mut self, row: &QuotaRow) -> Arc<Spend> {
        let limit = NanoUsd(row.limit);
        if let Some(Live::Spend(spend)) = self.live.get(&row.id) {
            spend.set_limit(limit);
            return Arc::clone(spend);
        }
        let source = match row.kind {
            QuotaKind::Balance => LimitSource::OrganisationBalance,
            _ => LimitSource::KeySpendLimit,
        };
        let spend = Arc::new(Spend::new(row.id, source, limit, NanoUsd(row.spent)));
        self.live.insert(row.id, Live::Spend(Arc::clone(&spend)));
        spend
    }

    fn rate(&mut self, row: &QuotaRow) -> Arc<Rate> {
        if let Some(Live::Rate(rate)) = self.live.get(&row.id) {
            rate.set_limit(row.limit);
            return Arc::clone(rate);
        }
        let (source, unit) = match row.kind {
            QuotaKind::Tokens => (LimitSource::KeyTokensPerMinute, "tokens"),
            _ => (LimitSource::KeyRequestsPerMinute, "requests"),
        };
        let rate = Arc::new(Rate::new(source, unit, row.limit));
        self.live.insert(row.id, Live::Rate(Arc::clone(&rate)));
        rate
    }

    fn concurrency(&mut self, row: &QuotaRow) -> Arc<Concurrency> {
        if let Some(Live::Concurrency(concurrency)) = self.live.get(&row.id) {
            concurrency.set_limit(row.limit);
            return Arc::clone(concurrency);
        }
        let concurrency = Arc::new(Concurrency::new(row.limit));
        let live = Live::Concurrency(Arc::clone(&concurrency));
        self.live.insert(row.id, live);
        concurrency
    }

    /// Puts a limit in force, if the quota is in use.
    pub(super) fn set_limit(&self, row: &QuotaRow) {
        match self.live.get(&row.id) {
            Some(Live::Spend(spend)) => spend.set_limit(NanoUsd(row.limit)),
            Some(Live::Rate(rate)) => rate.set_limit(row.limit),
            Some(Live::Concurrency(concurrency)) => concurrency.set_limit(row.limit),
            None => {}
        }
    }

    /// Notes that a key with these quotas was let go.
    pub(super) fn let_go(&mut self, quotas: &[QuotaId], tick: u64) {
        self.leaving.extend(quotas.iter().map(|id| (*id, tick)));
    }

    /// Quotas that were let go before a tick and that nobody holds.
    pub(super) fn unheld_since(&self, tick: u64) -> Vec<QuotaId> {
        let unheld = |id: &QuotaId| self.live.get(id).is_none_or(|live| !live.is_held());
        let long_ago = self.leaving.iter().filter(|(_, left)| **left <= tick);
        long_ago.map(|(id, _)| *id).filter(unheld).collect()
    }

    /// Forgets quotas that nobody holds, those of money only where the books say what they say.
    pub(super) fn forget(&mut self, quotas: &[QuotaId], on_books: &HashMap<QuotaId, i64>) {
        for id in quotas {
            let is_settled = self.live.get(id).is_none_or(|live| {
                !live.is_held()
                    && match live {
                        Live::Spend(spend) => {
                            let booked = on_books.get(id).copied().unwrap_or(0);
                            spend.spent().0 == booked && spend.reserved() == NanoUsd::ZERO
                        }
                        Live::Rate(_) | Live::Concurrency(_) => true,
                    }
            });
            if is_settled {
                self.live.remove(id);
                self.leaving.remove(id);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }
}
