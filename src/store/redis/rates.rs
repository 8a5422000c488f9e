//! Rates that all nodes count together in Redis. Calls that find their slice used up wait for the node's next exchange; one is open
//! at a time, and it serves all who wait. What is decided is `filters::quota`'s; here are its keys.

use super::super::LIST_MAX;
use super::super::batches::Batches;
use super::{Purpose, Redis};
use crate::clock;
use async_trait::async_trait;
use filters::id::QuotaId;
use filters::ports::{Rates, Shortage};
use filters::quota::{Peers, Rate, SliceAsk, SliceReply};
use redis::{Cmd, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How often other nodes are told what was used here, and this one is told what they used.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Where this node's slices come from. Clones share the queue.
#[derive(Clone, Debug)]
pub struct SharedRates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: Redis,
    peers: Arc<Peers>,
    waiting: Batches<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    shortages: Vec<Shortage>,
    done: oneshot::Sender<()>,
}

impl SharedRates {
    /// Rates that at most `nodes_max` nodes count together in `redis`.
    #[must_use]
    pub fn new(redis: Redis, nodes_max: u32) -> Self {
        let peers = Arc::new(Peers::new(nodes_max));
        Self { shared: Arc::new(Shared { redis, peers, waiting: Batches::default() }) }
    }

    /// What the rates have in common.
    #[must_use]
    pub fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.shared.peers)
    }

    /// Where they are counted.
    #[must_use]
    pub fn redis(&self) -> &Redis {
        &self.shared.redis
    }

    /// Keeps Redis connected, goes by its clock, and tells the other nodes what was used, until shutdown.
    pub async fn run(&self, shutdown: watch::Receiver<bool>) {
        let peers = self.peers();
        let connected = self.shared.redis.run(|ahead_ms| peers.set_clock(ahead_ms), shutdown.clone());
        tokio::join!(connected, self.keep_telling(shutdown));
    }

    async fn keep_telling(&self, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TELL_EVERY) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            if self.shared.redis.is_up() {
                self.tell().await;
            }
        }
    }

    async fn tell(&self) {
        let used = self.shared.peers.take_used();
        for rates in used.chunks(LIST_MAX) {
            self.share(rates.iter().map(|rate| Shortage { rate: Arc::clone(rate), amount: 0 }).collect()).await;
        }
    }
}

#[async_trait]
impl Rates for SharedRates {
    async fn share(&self, shortages: Vec<Shortage>) {
        let rates: Vec<Arc<Rate>> = shortages.iter().map(|shortage| Arc::clone(&shortage.rate)).collect();
        if self.shared.redis.is_up() {
            let (done, answer) = oneshot::channel();
            if self.shared.waiting.join(Waiting { shortages, done }) {
                // A task of its own: a caller who leaves must not take the answer of the others along.
                tokio::spawn(Arc::clone(&self.shared).serve());
            }
            if tokio::time::timeout(self.shared.redis.timeout(), answer).await.is_ok() {
                return;
            }
        }
        rates.iter().for_each(|rate| rate.go_alone());
    }
}

impl Shared {
    async fn serve(self: Arc<Self>) {
        let mut serving = self.waiting.serve();
        while let Some(batch) = serving.next_batch(LIST_MAX, |waiting| waiting.shortages.len()) {
            self.exchange(&batch).await;
            for waiting in batch {
                // A caller who has left needs no answer.
                let _ = waiting.done.send(());
            }
        }
    }

    async fn exchange(&self, batch: &[Waiting]) {
        let now = clock::now();
        let mut sums: BTreeMap<QuotaId, (&Arc<Rate>, i64)> = BTreeMap::new();
        for Shortage { rate, amount } in batch.iter().flat_map(|waiting| &waiting.shortages) {
            let Some(quota) = rate.shared_quota() else { continue };
            let (_, sum) = sums.entry(quota).or_insert((rate, 0));
            *sum = sum.saturating_add(*amount);
        }
        let asks = sums.into_values().filter_map(|(rate, wanted)| Some((rate, rate.ask(wanted, now)?)));
        let asks: Vec<(&Arc<Rate>, SliceAsk)> = asks.collect();
        let parts = asks.iter().map(|(_, ask)| self.commands(ask)).collect();
        let answers = self.redis.ask(Purpose::Rates, parts).await;
        for ((rate, ask), answer) in asks.iter().zip(answers) {
            match answer.as_deref().and_then(read_reply) {
                Some(reply) => rate.hear(ask, reply),
                None => rate.go_alone(),
            }
        }
    }

    /// Adds to both sums of a window. Where the connection ends between two commands, a sum stays longer than it has to.
    fn commands(&self, ask: &SliceAsk) -> Vec<Cmd> {
        let mut commands = Vec::with_capacity(4);
        for (sum, amount) in [("taken", ask.take), ("used", ask.used)] {
            let key = self.redis.key(format_args!("{{{}}}:{}:{sum}", ask.quota.0, ask.window));
            let (mut add, mut keep) = (Cmd::new(), Cmd::new());
            add.arg("INCRBY").arg(&key).arg(amount);
            keep.arg("PEXPIRE").arg(&key).arg(ask.keep_ms);
            commands.extend([add, keep]);
        }
        commands
    }
}

fn read_reply(answer: &[Value]) -> Option<SliceReply> {
    match answer {
        [Value::Int(taken), _, Value::Int(used), _] => Some(SliceReply { taken: *taken, used: *used }),
        _ => None,
    }
}
