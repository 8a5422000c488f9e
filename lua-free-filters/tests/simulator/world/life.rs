//! What outlives a process: its journal, which is shipped, now and then twice; and its node, which comes back.

use super::{QUIET_MS, TIMEOUT_MS, World};
use crate::network::{Address, Event};
use crate::node::{Entry, Node, Process, SOURCE};
use crate::truth::Quota;
use filters::money::NanoUsd;
use filters::quota::Spend;
use std::sync::Arc;

impl World {
    pub(super) fn ship_now_and_then(&mut self, from: Address) {
        if self.process(from).is_none() {
            return;
        }
        self.ship(from);
        let next = self.soon(50, 3_000);
        if self.now < self.busy_until.plus(QUIET_MS / 2) {
            self.agenda.add(next, Event::Shipping(from));
        }
    }

    fn ship(&mut self, from: Address) {
        let Node { journal, process, .. } = &mut self.nodes[from.node];
        if process.as_ref().is_some_and(Process::covers) {
            return;
        }
        // Where something is to be covered, it must be known what is on the books: nothing more goes there.
        let is_to_cover = process.as_ref().is_some_and(Process::is_to_cover);
        let is_due =
            |entry: &Entry| entry.charge.is_some() && !entry.is_acknowledged && (entry.is_sent || !is_to_cover);
        let mut calls = Vec::new();
        for (call, entry) in journal.iter_mut().filter(|(_, entry)| is_due(entry)) {
            entry.is_sent = true;
            calls.push(*call);
        }
        let at = self.after_a_message();
        if !calls.is_empty() && !self.is_lost() {
            let is_reply_lost = self.is_lost();
            self.agenda.add(at, Event::Shipment { from, calls, is_reply_lost });
        }
    }

    pub(super) fn book(&mut self, from: Address, calls: Vec<u64>, is_reply_lost: bool) {
        let node = &self.nodes[from.node];
        for call in &calls {
            // What is there already moves nothing.
            if self.shipped.insert(*call) {
                let entry = &node.journal[call];
                let charge = NanoUsd(entry.charge.expect("only ended calls are shipped"));
                entry.parts.iter().for_each(|part| self.authority.ship(node.number, part.share, charge));
            }
        }
        if !is_reply_lost {
            let at = self.after_a_message();
            self.agenda.add(at, Event::Acknowledgement { node: from.node, calls });
        }
    }

    /// The node learns that calls are on the books.
    pub(super) fn acknowledge(&mut self, node: usize, calls: &[u64]) {
        let Node { journal, process, incarnation, .. } = &mut self.nodes[node];
        for call in calls {
            let entry = journal.get_mut(call).expect("it was shipped");
            if std::mem::replace(&mut entry.is_acknowledged, true) {
                continue;
            }
            let charge = NanoUsd(entry.charge.expect("only ended calls are shipped"));
            for (process, part) in
                process.iter().flat_map(|process| entry.parts.iter().map(move |part| (process, part)))
            {
                process.spends[part.quota].book(part.share.period, charge);
            }
        }
        let to = Address { node, incarnation: *incarnation };
        self.ask(to);
    }

    pub(super) fn crash(&mut self, node: usize) {
        if self.nodes[node].process.take().is_none() {
            return;
        }
        let at = self.soon(TIMEOUT_MS, 60_000);
        self.agenda.add(at, Event::Return(node));
    }

    /// An operator fences the node, which may be running, and has it started anew some time.
    pub(super) fn forget(&mut self, node: usize) {
        let number = self.nodes[node].number;
        if !self.authority.is_forgotten(number) {
            self.authority.forget(number);
            let at = self.soon(0, 20_000);
            self.agenda.add(at, Event::Crash(node));
        }
    }

    /// Recovers the calls that were running, ships the journal, and only then opens.
    pub(super) fn come_back(&mut self, node: usize) {
        let open: Vec<(u64, i64)> = {
            let entries = self.nodes[node].journal.iter().filter(|(_, entry)| entry.charge.is_none());
            entries.map(|(call, entry)| (*call, entry.least())).collect()
        };
        for (call, least) in open {
            let charge = self.random.between(0, least);
            self.write_down(node, call, charge);
        }
        if self.nodes[node].journal.values().all(|entry| entry.is_acknowledged) {
            if self.authority.is_forgotten(self.nodes[node].number) {
                self.numbers += 1;
                self.nodes[node].number = 1_000 + self.numbers as u32;
            }
            return self.open(node);
        }
        self.ship(Address { node, incarnation: self.nodes[node].incarnation });
        let at = self.soon(100, TIMEOUT_MS);
        self.agenda.add(at, Event::Return(node));
    }

    pub(super) fn open(&mut self, node: usize) {
        let now = self.now;
        let spend = |quota: &Quota| {
            let spent = NanoUsd(self.authority.standing(quota.id, now).0);
            Arc::new(Spend::new(quota.id, SOURCE, quota.window.clone(), quota.current(), (spent, now)))
        };
        let process = Process::new(self.quotas.iter().map(spend).collect(), &self.chains, now);
        let node_of = &mut self.nodes[node];
        node_of.incarnation += 1;
        node_of.process = Some(process);
        let address = Address { node, incarnation: node_of.incarnation };
        for event in [Event::Arrival, Event::Poll, Event::GivingBack, Event::Shipping] {
            let at = self.soon(0, 500);
            self.agenda.add(at, event(address));
        }
    }
}
