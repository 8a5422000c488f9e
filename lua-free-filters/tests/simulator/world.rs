//! The authority, the nodes, and the time between them.

mod end;
mod leases;
mod life;
mod limits;

use crate::network::{Address, Agenda, Event};
use crate::node::{Call, Entry, Node, Part, Process, Running, Waiting};
use crate::random::Random;
use crate::truth::Quota;
use filters::memory::MemoryAuthority;
use filters::money::NanoUsd;
use filters::quota::{Chain, Reservation, Take};
use filters::time::EpochMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Calls come for so long; then everybody comes back and settles.
const BUSY_MS: i64 = 90_000;
const QUIET_MS: i64 = 120_000;
/// When a node stops waiting for a reply. No message takes as long.
const TIMEOUT_MS: i64 = 3_000;
const PAUSE_MS: i64 = 30_000;

pub(crate) struct World {
    random: Random,
    now: EpochMs,
    busy_until: EpochMs,
    agenda: Agenda,
    authority: MemoryAuthority,
    quotas: Vec<Quota>,
    chains: Vec<Vec<usize>>,
    nodes: Vec<Node>,
    shipped: BTreeSet<u64>,
    numbers: u64,
    admitted: u64,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let now = EpochMs(1_800_000_000_000 + random.between(0, 3_600_000));
        let mut authority = MemoryAuthority::default();
        authority.nodes = random.between(1, 5) as u32;
        let mut world = Self {
            random,
            now,
            busy_until: now.plus(BUSY_MS),
            agenda: Agenda::default(),
            authority,
            quotas: Vec::new(),
            chains: Vec::new(),
            nodes: Vec::new(),
            shipped: BTreeSet::new(),
            numbers: 0,
            admitted: 0,
        };
        world.make_quotas();
        (0..world.authority.nodes).for_each(|number| world.make_node(number));
        for _ in 0..world.random.between(0, 8) {
            let at = world.soon(0, BUSY_MS);
            world.agenda.add(at, Event::LimitChange);
        }
        world
    }

    fn make_node(&mut self, number: u32) {
        let ahead_ms = self.random.between(-1_000, 1_000);
        let (paused_until, journal) = (self.now, BTreeMap::new());
        self.nodes.push(Node { number, ahead_ms, paused_until, process: None, incarnation: 0, journal });
        let node = number as usize;
        self.open(node);
        for _ in 0..self.random.between(0, 2) {
            let at = self.soon(1_000, BUSY_MS);
            let fate = match self.random.between(0, 4) {
                0 | 1 => Event::Crash(node),
                2 | 3 => Event::Pause(node),
                _ => Event::Forget(node),
            };
            self.agenda.add(at, fate);
        }
    }

    /// Lives on until nothing is left to happen. Says how many calls were admitted.
    pub(crate) fn run(mut self) -> u64 {
        while let Some((at, event)) = self.agenda.next() {
            let paused = event.is_noticed_by().map(|node| self.nodes[node].paused_until);
            match paused {
                Some(until) if at < until => self.agenda.add(until, event),
                _ => {
                    self.now = at;
                    self.meet(event);
                }
            }
        }
        self.now = self.busy_until.plus(QUIET_MS);
        self.conclude();
        self.admitted
    }

    fn meet(&mut self, event: Event) {
        match event {
            Event::Transaction { from, number, asks, is_reply_lost } => {
                self.transact(from, number, &asks, is_reply_lost)
            }
            Event::Shipment { from, calls, is_reply_lost } => self.book(from, calls, is_reply_lost),
            Event::LimitChange => self.change_limit(),
            Event::Arrival(to) => self.arrive(to),
            Event::Answer { to, number, replies } => {
                let Some(process) = self.process(to) else { return };
                let served = process.close_transaction(number, replies.as_deref());
                served.into_iter().for_each(|waiting| self.serve(to, waiting));
                self.ask(to);
            }
            Event::Extension { to, call } => self.outgrow(to, call),
            Event::End { to, call } => self.end(to, call),
            Event::Poll(to) => self.poll(to),
            Event::Polled { to, seen, terms } => {
                let Some(process) = self.process(to) else { return };
                process.seen = process.seen.max(seen);
                process.spends.iter().zip(terms).for_each(|(spend, terms)| _ = spend.set_terms(terms));
            }
            Event::GivingBack(to) => self.give_back(to),
            Event::Wanted { to, quota } => self.give_back_what_is_wanted(to, quota),
            Event::Fenced(to) => {
                if let Some(process) = self.process(to) {
                    process.spends.iter().for_each(|spend| spend.suspend());
                }
            }
            Event::Forget(node) => self.forget(node),
            Event::Shipping(to) => self.ship_now_and_then(to),
            Event::Acknowledgement { node, calls } => self.acknowledge(node, &calls),
            Event::Crash(node) => self.crash(node),
            Event::Return(node) => self.come_back(node),
            Event::Pause(node) => self.nodes[node].paused_until = self.now.plus(PAUSE_MS),
        }
    }

    fn is_busy(&self) -> bool {
        self.now < self.busy_until
    }

    fn soon(&mut self, low_ms: i64, high_ms: i64) -> EpochMs {
        self.now.plus(self.random.between(low_ms, high_ms))
    }

    /// Mostly at once, sometimes late.
    fn after_a_message(&mut self) -> EpochMs {
        let high_ms = if self.random.once_in(10) { TIMEOUT_MS / 2 - 1 } else { 20 };
        self.soon(1, high_ms)
    }

    fn is_lost(&mut self) -> bool {
        self.is_busy() && self.random.once_in(15)
    }

    fn process(&mut self, to: Address) -> Option<&mut Process> {
        let node = &mut self.nodes[to.node];
        if node.incarnation == to.incarnation { node.process.as_mut() } else { None }
    }

    fn clock(&self, node: usize) -> EpochMs {
        self.now.plus(self.nodes[node].ahead_ms)
    }

    // Calls.

    fn arrive(&mut self, to: Address) {
        if self.process(to).is_none() || !self.is_busy() {
            return;
        }
        let estimate = self.random.between(1, 30);
        let bound = estimate + self.random.between(0, 20);
        let chain = self.random.place_in(&self.chains);
        self.admit(to, Call { chain, estimate, bound }, true);
        let next = self.soon(20, 1_200);
        self.agenda.add(next, Event::Arrival(to));
    }

    fn admit(&mut self, to: Address, call: Call, may_ask: bool) {
        let now = self.clock(to.node);
        let Some(process) = self.process(to) else { return };
        let chain: Arc<Chain> = Arc::clone(&process.chains[call.chain]);
        let (estimate, bound) = (NanoUsd(call.estimate), Some(NanoUsd(call.bound)));
        let take = Take { model: "m", estimate, bound, tokens: 0 };
        match chain.reserve(&take, now) {
            Ok(reservation) => self.begin(to, call, reservation),
            Err(refused) if may_ask => {
                if let Some(wants) = chain.short_of(&take, &refused, now).filter(|wants| !wants.is_empty()) {
                    self.wait(to, Waiting::Admission(call), wants);
                }
            }
            Err(_) => {}
        }
    }

    fn begin(&mut self, to: Address, call: Call, reservation: Reservation) {
        self.numbers += 1;
        self.admitted += 1;
        let number = self.numbers;
        let mut parts = Vec::new();
        let process = self.nodes[to.node].process.as_ref().expect("it has just admitted a call");
        let (seen, now) = (process.seen, self.now);
        for (place, share) in self.chains[call.chain].iter().zip(reservation.shares()) {
            let amount = if self.quotas[*place].is_strict { call.bound } else { call.estimate };
            let unbound = if process.spends[*place].terms().is_boundless() { amount } else { 0 };
            parts.push(Part { quota: *place, share, amount, unbound });
        }
        for part in &parts {
            self.quotas[part.quota].unbound += part.unbound;
            self.quotas[part.quota].set_aside(part.share.period, part.amount, (seen, now));
        }
        let bound = parts.iter().any(|part| self.quotas[part.quota].is_strict).then_some(call.bound);
        let entry = Entry { parts, charge: None, is_sent: false, is_acknowledged: false };
        self.nodes[to.node].journal.insert(number, entry);
        let running = Running { reservation, bound, since: now };
        self.process(to).expect("it has just admitted a call").running.insert(number, running);
        let at = self.soon(20, 10_000);
        let next = if self.random.once_in(3) {
            Event::Extension { to, call: number }
        } else {
            Event::End { to, call: number }
        };
        self.agenda.add(at, next);
    }

    fn outgrow(&mut self, to: Address, call: u64) {
        let more = self.random.between(1, 20);
        let Some(process) = self.process(to) else { return };
        let Some(running) = process.running.get(&call) else { return };
        let wants = running.reservation.short_of(NanoUsd(more));
        if wants.is_empty() {
            self.extend(to, call, more);
        } else {
            self.wait(to, Waiting::Extension { call, more }, wants);
        }
    }

    fn extend(&mut self, to: Address, call: u64, more: i64) {
        let clock = self.clock(to.node);
        let Some(process) = self.process(to) else { return };
        let seen = process.seen;
        let Some(running) = process.running.get_mut(&call) else { return };
        // What held when the call began may hold for all of it.
        let seen = seen.min(running.since);
        if running.reservation.extend(NanoUsd(more), clock).is_err() {
            return self.end(to, call);
        }
        let Node { process, journal, .. } = &mut self.nodes[to.node];
        let spends = process.iter().flat_map(|process| &process.spends);
        let is_unbound: Vec<bool> = spends.map(|spend| spend.terms().is_boundless()).collect();
        let entry = journal.get_mut(&call).expect("it was begun");
        for part in &mut entry.parts {
            let quota = &mut self.quotas[part.quota];
            if !quota.is_strict {
                part.amount += more;
                let unbound = if is_unbound[part.quota] { more } else { 0 };
                part.unbound += unbound;
                quota.unbound += unbound;
                quota.set_aside(part.share.period, more, (seen, self.now));
            }
        }
        let at = self.soon(20, 10_000);
        self.agenda.add(at, Event::End { to, call });
    }

    fn end(&mut self, to: Address, call: u64) {
        let Some(process) = self.process(to) else { return };
        let Some(running) = process.running.remove(&call) else { return };
        let least = running.reservation.least().map_or(0, |least| least.0);
        let most = match running.bound {
            Some(bound) => bound,
            None if self.random.once_in(4) => least + 20,
            None => least,
        };
        let charge = if self.random.once_in(5) { most } else { self.random.between(0, most) };
        self.write_down(to.node, call, charge);
        running.reservation.settle(NanoUsd(charge), 0);
    }

    fn write_down(&mut self, node: usize, call: u64, charge: i64) {
        let entry = self.nodes[node].journal.get_mut(&call).expect("it was begun");
        assert_eq!(entry.charge.replace(charge), None, "a call ends once");
        for part in &entry.parts {
            self.quotas[part.quota].settle(*part, charge);
        }
    }

    fn poll(&mut self, to: Address) {
        if self.process(to).is_none() {
            return;
        }
        let terms = self.quotas.iter().map(Quota::current).collect();
        let (arrives, next) = (self.after_a_message(), self.soon(200, 300));
        self.agenda.add(arrives, Event::Polled { to, seen: self.now, terms });
        if self.now < self.busy_until.plus(QUIET_MS / 2) {
            self.agenda.add(next.max(arrives), Event::Poll(to));
        }
    }
}
