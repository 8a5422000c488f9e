//! A node: its quotas, its running calls, and the journal that outlives it.

use filters::denied::{LimitSource, Owner};
use filters::lease::{self, Ask, Reply};
use filters::money::NanoUsd;
use filters::ports::{Share, Want};
use filters::quota::{Chain, Reservation, Spend};
use filters::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A call as the journal has it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The quotas' places, the periods, and what is set aside in each.
    pub(crate) parts: Vec<Part>,
    /// What it was charged; none while it runs.
    pub(crate) charge: Option<i64>,
    /// Whether it was sent to the books, whatever became of it.
    pub(crate) is_sent: bool,
    pub(crate) is_acknowledged: bool,
}

impl Entry {
    /// What a recovered call is charged at most.
    pub(crate) fn least(&self) -> i64 {
        self.parts.iter().map(|part| part.amount).min().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) quota: usize,
    pub(crate) share: Share,
    pub(crate) amount: i64,
    /// Of it, what was set aside while the node knew of no limit.
    pub(crate) unbound: i64,
}

/// A call to be admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) chain: usize,
    pub(crate) estimate: i64,
    pub(crate) bound: i64,
}

/// Who waits for credit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    Admission(Call),
    Extension {
        call: u64,
        more: i64,
    },
    /// Nobody does; but the authority is to hear of what was given back.
    Nobody,
}

pub(crate) struct Running {
    pub(crate) reservation: Reservation,
    /// What a strict quota holds for it; none if no strict one does.
    pub(crate) bound: Option<i64>,
    pub(crate) since: EpochMs,
}

/// One transaction's worth of asks.
pub(crate) type Asks = Vec<(Arc<Spend>, Ask)>;

/// What dies with the process.
pub(crate) struct Process {
    pub(crate) spends: Vec<Arc<Spend>>,
    pub(crate) chains: Vec<Arc<Chain>>,
    pub(crate) running: BTreeMap<u64, Running>,
    /// Those who wait for the next transaction, and those whom the open one serves.
    pub(crate) waiting: Vec<(Waiting, Vec<Want>)>,
    pub(crate) served: Vec<Waiting>,
    /// The asks of the open transaction.
    pub(crate) asks: Option<(u64, Asks)>,
    /// When the terms were read that it knows, by the authority's clock.
    pub(crate) seen: EpochMs,
}

impl Process {
    pub(crate) fn new(spends: Vec<Arc<Spend>>, chains: &[Vec<usize>], seen: EpochMs) -> Self {
        let of = |places: &Vec<usize>| places.iter().map(|place| Arc::clone(&spends[*place])).collect();
        let chains = chains.iter().map(|places| Arc::new(Chain { spend: of(places), ..Chain::default() })).collect();
        let (running, waiting, served) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { spends, chains, running, waiting, served, asks: None, seen }
    }

    /// One ask for each quota and period that somebody waits for.
    pub(crate) fn open_transaction(&mut self, number: u64, now: EpochMs) -> Vec<Ask> {
        let (waiting, wants): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        self.served.extend(waiting);
        let asks: Asks = lease::asks(wants.iter().flatten(), now);
        let sent = asks.iter().map(|(_, ask)| ask.clone()).collect();
        self.asks = Some((number, asks));
        sent
    }

    /// Takes in the replies to the open transaction, or its loss. Says who was served; nobody, if it is another's.
    pub(crate) fn close_transaction(&mut self, number: u64, replies: Option<&[Reply]>) -> Vec<Waiting> {
        let Some((_, asks)) = self.asks.take_if(|(open, _)| *open == number) else { return Vec::new() };
        for ((spend, ask), reply) in asks.iter().zip(replies.unwrap_or_default()) {
            spend.apply(ask, reply);
        }
        std::mem::take(&mut self.served)
    }

    /// Whether the open transaction is about what was charged without a limit: nothing may come on the books meanwhile.
    pub(crate) fn covers(&self) -> bool {
        self.asks.as_ref().is_some_and(|(_, asks)| asks.iter().any(|(_, ask)| ask.uncovered.is_some()))
    }

    /// Whether the next one is.
    pub(crate) fn is_to_cover(&self) -> bool {
        self.waiting.iter().flat_map(|(_, wants)| wants).any(|want| want.spend.is_uncovered())
    }

    pub(crate) fn want_nothing(&self) -> Vec<Want> {
        let want = |spend: &Arc<Spend>| Want { spend: Arc::clone(spend), amount: NanoUsd::ZERO, at: None };
        self.spends.iter().map(want).collect()
    }
}

pub(crate) struct Node {
    pub(crate) number: u32,
    /// How far its clock is ahead of the authority's.
    pub(crate) ahead_ms: i64,
    pub(crate) paused_until: EpochMs,
    pub(crate) process: Option<Process>,
    /// Counts its processes: a dead one's messages mean nothing to the next.
    pub(crate) incarnation: u32,
    pub(crate) journal: BTreeMap<u64, Entry>,
}

impl Node {
    /// Whether it is unknown of some calls whether they are on the books.
    pub(crate) fn is_shipping(&self) -> bool {
        self.journal.values().any(|entry| entry.is_sent && !entry.is_acknowledged)
    }
}

pub(crate) const SOURCE: LimitSource = LimitSource::Spend(Owner::Key);
