//! What nodes ask of the authority, and what it answers.

use super::{TIMEOUT_MS, World};
use crate::network::{Address, Event};
use crate::node::Waiting;
use filters::id::QuotaId;
use filters::lease::{Ask, Reply};
use filters::money::NanoUsd;
use filters::ports::{Share, Want};
use std::sync::Arc;

impl World {
    pub(super) fn wait(&mut self, to: Address, waiting: Waiting, wants: Vec<Want>) {
        if let Some(process) = self.process(to) {
            process.waiting.push((waiting, wants));
            self.ask(to);
        }
    }

    /// Opens the node's next transaction, if somebody waits for one and none is open.
    pub(super) fn ask(&mut self, from: Address) {
        self.numbers += 1;
        let (number, clock) = (self.numbers, self.clock(from.node));
        let is_shipping = self.nodes[from.node].is_shipping();
        let Some(process) = self.process(from) else { return };
        // Once it is known what is on the books, the acknowledgement brings us here again.
        if process.asks.is_some() || process.waiting.is_empty() || is_shipping && process.is_to_cover() {
            return;
        }
        let asks = process.open_transaction(number, clock);
        let arrives = self.after_a_message();
        if !self.is_lost() {
            let is_reply_lost = self.is_lost();
            self.agenda.add(arrives, Event::Transaction { from, number, asks, is_reply_lost });
        }
        // Whoever has been answered by then doesn't notice.
        self.agenda.add(self.now.plus(TIMEOUT_MS), Event::Answer { to: from, number, replies: None });
    }

    pub(super) fn transact(&mut self, from: Address, number: u64, asks: &[Ask], is_reply_lost: bool) {
        let (node, now) = (self.nodes[from.node].number, self.now);
        let at = self.after_a_message();
        if self.authority.is_forgotten(node) {
            return self.agenda.add(at, Event::Fenced(from));
        }
        let replies: Vec<_> = asks.iter().map(|ask| self.authority.lease(node, ask, now).expect("a quota")).collect();
        for (ask, reply) in asks.iter().zip(&replies) {
            if ask.uncovered.is_some() {
                self.check_cover(from.node, ask, reply);
            }
            if reply.is_wanted {
                self.announce(ask.quota);
            }
        }
        if !is_reply_lost {
            self.agenda.add(at, Event::Answer { to: from, number, replies: Some(replies) });
        }
    }

    /// A node that has told what it was charged without a limit is taken to hold no less than that, whatever others were charged.
    fn check_cover(&self, node: usize, ask: &Ask, reply: &Reply) {
        let share = Share { quota: ask.quota, period: reply.span.start };
        let held =
            reply.leases.iter().find(|(period, _)| *period == share.period).map_or(0, |(_, lease)| lease.outstanding());
        let unshipped = self.nodes[node].journal.iter().filter(|(call, _)| !self.shipped.contains(call));
        let parts = unshipped.flat_map(|(_, entry)| entry.parts.iter().map(move |part| (entry, part)));
        let of_quota = parts.filter(|(_, part)| part.share == share);
        let spent: i64 = of_quota.map(|(entry, part)| entry.charge.unwrap_or(part.amount).min(part.amount)).sum();
        assert!(
            held >= spent || reply.terms.is_boundless(),
            "{share:?}: node {node} holds {held} and has spent {spent}"
        );
    }

    /// Every node learns within half a second that a quota is wanted.
    fn announce(&mut self, id: QuotaId) {
        let quota = self.quotas.iter().position(|quota| quota.id == id).expect("a quota");
        for node in 0..self.nodes.len() {
            let to = Address { node, incarnation: self.nodes[node].incarnation };
            let at = self.soon(1, 500);
            self.agenda.add(at, Event::Wanted { to, quota });
        }
    }

    pub(super) fn give_back_what_is_wanted(&mut self, to: Address, quota: usize) {
        let Some(process) = self.process(to) else { return };
        let spend = Arc::clone(&process.spends[quota]);
        spend.give_back();
        self.wait(to, Waiting::Nobody, vec![Want { spend, amount: NanoUsd::ZERO, at: None }]);
    }

    pub(super) fn serve(&mut self, to: Address, waiting: Waiting) {
        match waiting {
            Waiting::Admission(call) => self.admit(to, call, false),
            Waiting::Extension { call, more } => self.extend(to, call, more),
            Waiting::Nobody => {}
        }
    }

    pub(super) fn give_back(&mut self, to: Address) {
        let Some(process) = self.process(to) else { return };
        process.spends.iter().for_each(|spend| spend.give_back());
        let wants = process.want_nothing();
        self.wait(to, Waiting::Nobody, wants);
        let next = self.soon(500, 8_000);
        if self.is_busy() {
            self.agenda.add(next, Event::GivingBack(to));
        }
    }
}
