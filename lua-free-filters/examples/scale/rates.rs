//! Rates: nodes take slices of them from sums that stand in Redis, and tell it what was used.

use crate::node::{Call, Quota};
use crate::world::{Event, World};
use filters::denied::{LimitSource, Owner};
use filters::id::QuotaId;
use filters::quota::{Counted, Rate, SliceAsk, SliceReply};
use filters::window::Unit;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// From a node to Redis, or back.
const ONE_WAY_US: u64 = 250;
/// Nodes tell so often what was used.
pub(crate) const TELL_US: u64 = 500_000;
/// Most calls and rates of one exchange, as the gateway has it.
const EXCHANGE_MAX: usize = 256;
/// A key's requests a minute are so many times what is expected of it: some are held, most are far.
const LIMITS: [f64; 3] = [0.15, 1.0, 4.0];
const LIMIT_MIN: f64 = 60.0;

/// What the nodes have added to Redis, by rate and window: taken, and used.
#[derive(Default)]
pub(crate) struct Sums {
    sums: HashMap<(QuotaId, u64), (i64, i64)>,
    /// Asks for each rate in this second.
    asks: HashMap<QuotaId, u64>,
}

impl Sums {
    fn add(&mut self, ask: &SliceAsk) -> SliceReply {
        *self.asks.entry(ask.quota).or_default() += 1;
        let (taken, used) = self.sums.entry((ask.quota, ask.window)).or_default();
        (*taken, *used) = (*taken + ask.take, *used + ask.used);
        SliceReply { taken: *taken, used: *used }
    }

    /// The asks for the rate that most was asked of.
    pub(crate) fn take_busiest(&mut self) -> u64 {
        std::mem::take(&mut self.asks).into_values().max().unwrap_or(0)
    }
}

/// Who waits for a node's next exchange: a rate, what is wanted of it, and the call that wants it.
pub(crate) type Wanting = (Arc<Rate>, i64, Option<Call>);

/// A node's way to Redis; one exchange is open at a time.
#[derive(Default)]
pub(crate) struct Exchanges {
    waiting: Vec<Wanting>,
    open: Vec<(Arc<Rate>, SliceAsk)>,
    served: Vec<Call>,
    is_open: bool,
}

impl World {
    /// The rate of a key, as a node has it.
    pub(crate) fn rate(&self, node: u32, key: u64) -> Arc<Rate> {
        let source = LimitSource::Requests(Owner::Key, Unit::Minute);
        let rate = Rate::new(source, Counted::Requests, Unit::Minute, self.rate_limit(key));
        Arc::new(rate.shared(self.row(Quota::Rate(key)), Arc::clone(&self.nodes[node as usize].peers)))
    }

    pub(crate) fn rate_limit(&self, key: u64) -> i64 {
        let expected = self.keys.share(key) * self.settings.calls_per_second as f64 * 60.0;
        (expected * self.chosen(key ^ 0x7261_7465, &LIMITS)).max(LIMIT_MIN) as i64
    }

    /// Lets a call, or nobody, wait for rates.
    pub(crate) fn want_rates(&mut self, node: u32, wanting: impl IntoIterator<Item = Wanting>) {
        self.nodes[node as usize].exchanges.waiting.extend(wanting);
        self.open_exchange(node);
    }

    pub(crate) fn tell(&mut self, node: u32) {
        let used = self.nodes[node as usize].peers.take_used();
        self.want_rates(node, used.into_iter().map(|rate| (rate, 0, None)));
        self.plan(TELL_US, Event::Tell(node));
    }

    fn open_exchange(&mut self, node: u32) {
        let now = self.now();
        let exchanges = &mut self.nodes[node as usize].exchanges;
        if exchanges.is_open || exchanges.waiting.is_empty() {
            return;
        }
        exchanges.is_open = true;
        let count = exchanges.waiting.len().min(EXCHANGE_MAX);
        let mut sums: BTreeMap<QuotaId, (Arc<Rate>, i64)> = BTreeMap::new();
        for (rate, amount, call) in exchanges.waiting.drain(..count) {
            let quota = rate.shared_quota().expect("all rates are shared");
            sums.entry(quota).or_insert((rate, 0)).1 += amount;
            exchanges.served.extend(call);
        }
        let asked = sums.into_values().map(|(rate, wanted)| {
            let ask = rate.ask(wanted, now).expect("all rates are shared");
            (rate, ask)
        });
        exchanges.open = asked.collect();
        self.plan(ONE_WAY_US, Event::Exchange(node));
    }

    pub(crate) fn exchange(&mut self, node: u32) {
        let asks = &self.nodes[node as usize].exchanges.open;
        self.second.exchanges += 1;
        self.second.rates_asked += asks.len() as u64;
        let replies = asks.iter().map(|(_, ask)| self.sums.add(ask)).collect();
        self.plan(ONE_WAY_US, Event::Slices(node, replies));
    }

    pub(crate) fn hear_slices(&mut self, node: u32, replies: &[SliceReply]) {
        let exchanges = &mut self.nodes[node as usize].exchanges;
        exchanges.is_open = false;
        for ((rate, ask), reply) in exchanges.open.drain(..).zip(replies) {
            rate.hear(&ask, *reply);
        }
        let served = std::mem::take(&mut exchanges.served);
        served.into_iter().for_each(|call| self.admit(node, call));
        self.open_exchange(node);
    }
}
