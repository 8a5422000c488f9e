//! The authority, the nodes, and what happens when.

use crate::Settings;
use crate::calls::Running;
use crate::leases::Ledger;
use crate::node::{Call, Node, Quota};
use crate::random::Random;
use crate::rates::{Sums, TELL_US};
use crate::report::{Run, Second};
use crate::truth::Truth;
use crate::zipf::Zipf;
use filters::id::QuotaId;
use filters::lease::Reply;
use filters::quota::SliceReply;
use filters::time::EpochMs;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Ten seconds before a minute ends, so that rates begin anew in a run.
const START: i64 = 1_800_000_050_000;

/// What happens.
pub(crate) enum Event {
    Arrival,
    /// The authority meets a node's transaction.
    Transaction(u32),
    Answer(u32, Vec<Reply>),
    /// A node hears, at its next look at the changes, that others want what it holds of a quota.
    Wanted(u32, Quota),
    /// Redis meets what a node asks of rates.
    Exchange(u32),
    Slices(u32, Vec<SliceReply>),
    /// A node tells the others what it has used of rates.
    Tell(u32),
    End(u32, usize),
    /// A call ends that was admitted with perfect knowledge: it leaves a part of what it took.
    OracleEnd([QuotaId; 2], i64),
    Shipment(u32),
    Second,
}

/// An event and its moment; those of one moment keep their order.
pub(crate) struct Planned {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest, so that the heap gives it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.number).cmp(&(self.at_us, self.number))
    }
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    pub(crate) keys: Zipf,
    pub(crate) orgs: Zipf,
    /// The share of all calls that each organisation's keys have.
    pub(crate) demand: Arc<[f64]>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ledger: Ledger,
    pub(crate) truth: Truth,
    pub(crate) oracle: Truth,
    /// Requests in this minute, as Redis has them of the nodes.
    pub(crate) sums: Sums,
    /// Calls in progress, and their free places.
    pub(crate) running: Vec<Option<Running>>,
    pub(crate) places: Vec<usize>,
    pub(crate) second: Second,
    agenda: BinaryHeap<Planned>,
    planned: u64,
    now_us: u64,
    run: Run,
}

impl World {
    pub(crate) fn new(settings: Settings, random: Random, demand: Arc<[f64]>) -> Self {
        let nodes = (0..settings.nodes).map(|_| Node::of(settings.nodes)).collect();
        let mut world = Self {
            keys: Zipf::new(settings.keys),
            orgs: Zipf::new(settings.orgs),
            demand,
            nodes,
            ledger: Ledger::of(settings.nodes),
            truth: Truth::default(),
            oracle: Truth::default(),
            sums: Sums::default(),
            running: Vec::new(),
            places: Vec::new(),
            second: Second::default(),
            agenda: BinaryHeap::new(),
            planned: 0,
            now_us: 0,
            run: Run::default(),
            random,
            settings,
        };
        for node in 0..world.settings.nodes {
            let first_us = world.random.between(0, TELL_US as i64).unsigned_abs();
            world.plan(first_us, Event::Tell(node));
        }
        world.plan(0, Event::Arrival);
        world.plan(1_000_000, Event::Second);
        world
    }

    /// Lives on until the time is up.
    pub(crate) fn run(mut self) -> Run {
        let end_us = self.settings.seconds * 1_000_000;
        while let Some(Planned { at_us, event, .. }) = self.agenda.pop() {
            self.now_us = at_us;
            self.meet(event);
            if at_us >= end_us {
                break;
            }
        }
        self.run
    }

    fn meet(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                self.arrive();
                let pause = self.random.pause_us(self.settings.calls_per_second as f64);
                self.plan(pause, Event::Arrival);
            }
            Event::Transaction(node) => self.transact(node),
            Event::Answer(node, replies) => self.answer(node, &replies),
            Event::Wanted(node, quota) => self.give_back(node, quota),
            Event::Exchange(node) => self.exchange(node),
            Event::Slices(node, replies) => self.hear_slices(node, &replies),
            Event::Tell(node) => self.tell(node),
            Event::End(node, place) => self.end(node, place),
            Event::OracleEnd(quotas, difference) => self.oracle.take(quotas, difference),
            Event::Shipment(node) => self.ship(node),
            Event::Second => {
                self.count_second();
                self.plan(1_000_000, Event::Second);
            }
        }
    }

    fn count_second(&mut self) {
        let mut second = std::mem::take(&mut self.second);
        second.busiest_node =
            self.nodes.iter_mut().map(|node| std::mem::take(&mut node.transactions)).max().unwrap_or(0);
        second.busiest_row = self.ledger.take_busiest();
        second.busiest_rate = self.sums.take_busiest();
        second.idle = self.ledger.idle();
        let (limits, left) = self.truth.left();
        (second.limits, second.left) = (limits, left);
        self.run.seconds.push(second);
    }

    pub(crate) fn plan(&mut self, in_us: u64, event: Event) {
        self.planned += 1;
        self.agenda.push(Planned { at_us: self.now_us + in_us, number: self.planned, event });
    }

    pub(crate) fn now(&self) -> EpochMs {
        EpochMs(START + (self.now_us / 1_000) as i64)
    }

    /// The number of the minute.
    pub(crate) fn minute(&self) -> i64 {
        self.now().0.div_euclid(60_000)
    }

    /// Whose key it is: large organisations have more of them, but none by its rank.
    pub(crate) fn org_of(&self, key: u64) -> u64 {
        org_of(&self.orgs, key)
    }

    /// The node that a call of a key comes to.
    pub(crate) fn node_of(&mut self, call: &Call) -> u32 {
        let number = if self.settings.is_by_key { Random::of(call.key).next() } else { self.random.next() };
        (number % u64::from(self.settings.nodes)) as u32
    }

    /// The number of a quota's row.
    pub(crate) fn row(&self, quota: Quota) -> QuotaId {
        match quota {
            Quota::Key(key) => QuotaId(key as i64),
            Quota::Org(org) => QuotaId((self.settings.keys + org) as i64),
            Quota::Rate(key) => QuotaId((self.settings.keys + self.settings.orgs + key) as i64),
        }
    }

    /// One of a list, the same each time for a number.
    pub(crate) fn chosen(&self, number: u64, list: &[f64]) -> f64 {
        list[(Random::of(number).next() % list.len() as u64) as usize]
    }

    /// The quota of a row of money.
    pub(crate) fn quota_of(&self, row: QuotaId) -> Quota {
        let number = row.0.unsigned_abs();
        number.checked_sub(self.settings.keys).filter(|org| *org > 0).map_or(Quota::Key(number), Quota::Org)
    }
}

/// The share of all calls that each organisation's keys have. It takes a while.
pub(crate) fn demand_of(settings: &Settings) -> Arc<[f64]> {
    let (keys, orgs) = (Zipf::new(settings.keys), Zipf::new(settings.orgs));
    let mut demand = vec![0.0; settings.orgs as usize];
    (1..=settings.keys).for_each(|key| demand[org_of(&orgs, key) as usize - 1] += keys.share(key));
    demand.into()
}

fn org_of(orgs: &Zipf, key: u64) -> u64 {
    orgs.rank(&mut Random::of(key ^ 0x6f72_6773))
}
