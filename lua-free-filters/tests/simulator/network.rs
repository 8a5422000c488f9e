//! What happens when: messages between nodes and the authority, and what befalls the nodes.

use filters::lease::{Ask, Reply, Terms};
use filters::time::EpochMs;
use std::collections::BTreeMap;

/// A process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) node: usize,
    pub(crate) incarnation: u32,
}

#[derive(Debug)]
pub(crate) enum Event {
    // At the authority.
    Transaction { from: Address, number: u64, asks: Vec<Ask>, is_reply_lost: bool },
    Shipment { from: Address, calls: Vec<u64>, is_reply_lost: bool },
    LimitChange,
    Forget(usize),
    // At a process.
    Arrival(Address),
    Answer { to: Address, number: u64, replies: Option<Vec<Reply>> },
    Extension { to: Address, call: u64 },
    End { to: Address, call: u64 },
    Poll(Address),
    Polled { to: Address, seen: EpochMs, terms: Vec<Terms> },
    GivingBack(Address),
    Wanted { to: Address, quota: usize },
    Fenced(Address),
    Shipping(Address),
    // At a node.
    Acknowledgement { node: usize, calls: Vec<u64> },
    Crash(usize),
    Return(usize),
    Pause(usize),
}

impl Event {
    /// The node that must be running to notice.
    pub(crate) fn is_noticed_by(&self) -> Option<usize> {
        match self {
            Self::Transaction { .. } | Self::Shipment { .. } | Self::LimitChange | Self::Forget(_) | Self::Crash(_) => {
                None
            }
            Self::Arrival(to) | Self::Poll(to) | Self::GivingBack(to) | Self::Shipping(to) => Some(to.node),
            Self::Wanted { to, .. } | Self::Fenced(to) => Some(to.node),
            Self::Answer { to, .. } | Self::Extension { to, .. } | Self::End { to, .. } | Self::Polled { to, .. } => {
                Some(to.node)
            }
            Self::Acknowledgement { node, .. } | Self::Return(node) | Self::Pause(node) => Some(*node),
        }
    }
}

/// Events in the order of their moments; those of one moment in the order of their making.
#[derive(Default)]
pub(crate) struct Agenda {
    events: BTreeMap<(EpochMs, u64), Event>,
    made: u64,
}

impl Agenda {
    pub(crate) fn add(&mut self, at: EpochMs, event: Event) {
        self.made += 1;
        self.events.insert((at, self.made), event);
    }

    pub(crate) fn next(&mut self) -> Option<(EpochMs, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
