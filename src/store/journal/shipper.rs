//! Follows the journal and brings each ended call to the ledger, in batches, until the ledger has it.

use super::SHIP_SOON_CALLS;
use super::header::DATA_START;
use super::keeper::Keeper;
use super::record::{self, Header, Kind, Position};
use super::segment::{Look, Segment};
use crate::clock;
use async_trait::async_trait;
use filters::ports::{Intent, Terminal};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// Most calls of one shipment: one transaction of the ledger.
const BATCH_CALLS_MAX: usize = SHIP_SOON_CALLS as usize;
/// A ledger that fails is asked again after `ship_ms`, twice that, … and at the latest after this.
const BACK_OFF_MS_MAX: u64 = 5_000;

/// Where calls go. It takes each call once: one that it has by its request id is not counted again.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Takes calls and the node's checkpoint, both or neither, and says how many of the calls were new. A checkpoint
    /// replaces the one before, even if it is lower.
    async fn ship(
        &self,
        node: &str,
        calls: &[(Intent, Terminal)],
        checkpoint: Checkpoint,
    ) -> Result<usize, LedgerError>;

    /// Adds what the node's calls moved to the sums that others read, where the ledger has put that off.
    async fn merge(&self, node: &str, merge: Merge) -> Result<(), LedgerError>;

    /// The node's checkpoint, if it has ever shipped.
    async fn checkpoint(&self, node: &str) -> Result<Option<Checkpoint>, LedgerError>;
}

/// Which sums a ledger is to bring up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Those that have waited long enough.
    Due,
    /// All.
    All,
}

/// A place in a node's journal below which every call is in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    /// The number of the segment.
    pub segment: u64,
    /// The byte in it.
    pub offset: u64,
}

/// The ledger did not take the calls. They stay in the journal.
#[derive(Debug, thiserror::Error)]
#[error("the ledger can't be reached: {0}")]
pub struct LedgerError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl From<Checkpoint> for Position {
    fn from(checkpoint: Checkpoint) -> Self {
        Self { segment: checkpoint.segment, offset: usize::try_from(checkpoint.offset).unwrap_or(usize::MAX) }
    }
}

/// Brings ended calls to the ledger.
pub struct Shipper {
    keeper: Arc<Keeper>,
    ledger: Arc<dyn Ledger>,
    node: String,
    /// Where the next call is looked for.
    segment: Arc<Segment>,
    offset: usize,
    /// Calls below that are not in the ledger yet, in the journal's order: those in flight and a batch at most.
    waiting: Vec<Waiting>,
}

struct Waiting {
    segment: Arc<Segment>,
    intent_at: usize,
    terminal_at: usize,
    /// Whether the shipment that is being made has it.
    taken: bool,
}

#[derive(Default)]
struct Batch {
    calls: Vec<(Intent, Terminal)>,
    unreadable: u64,
}

impl Shipper {
    pub(super) async fn start(keeper: Arc<Keeper>, ledger: Arc<dyn Ledger>, node: &str) -> Result<Self, LedgerError> {
        let checkpoint = ledger.checkpoint(node).await?.map(Position::from);
        let segments = keeper.segments();
        let newest = segments.last().map_or(0, |segment| segment.number);
        if checkpoint.is_some_and(|position| position.segment > newest) {
            tracing::error!(
                "the ledger has more of this node than its journal: was an old journal restored? all of it is shipped again"
            );
        }
        let from = checkpoint.filter(|position| position.segment <= newest);
        let from = from.unwrap_or(Position { segment: 0, offset: DATA_START });
        for segment in segments.iter().filter(|segment| segment.number < from.segment) {
            segment.set_shipped();
        }
        let start = segments.iter().find(|segment| segment.number >= from.segment);
        let segment = start.cloned().unwrap_or_else(|| keeper.current());
        let is_there = segment.number == from.segment && from.offset.is_multiple_of(record::SLOT_BYTES);
        let offset = if is_there { from.offset.max(DATA_START) } else { DATA_START };
        keeper.counts().ended.fetch_add(backlog(&segments, Position { segment: segment.number, offset }), Relaxed);
        Ok(Self { keeper, ledger, node: node.to_owned(), segment, offset, waiting: Vec::new() })
    }

    /// Ships until `shutdown` says true or its sender is gone; what ends afterwards is [`Shipper::ship_all`]'s.
    pub async fn run(&mut self, mut shutdown: watch::Receiver<bool>) {
        let counts = Arc::clone(self.keeper.counts());
        let mut failures = 0u32;
        while !*shutdown.borrow_and_update() {
            let pause = self.keeper.ship_ms().saturating_mul(1 << failures.min(16)).min(BACK_OFF_MS_MAX);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = counts.ship_soon.notified(), if failures == 0 => {}
                changed = shutdown.changed() => if changed.is_err() { return },
            }
            match self.ship_full_batches().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, lag = counts.lag_records(), "calls wait in the journal");
                }
            }
        }
    }

    /// Ships every call that has ended, brings all sums up to date, and says how many calls that were. For the start, before
    /// serving, and for the stop.
    pub async fn ship_all(&mut self) -> Result<usize, LedgerError> {
        let mut total = 0;
        loop {
            match self.ship_batch().await? {
                0 => break,
                shipped => total += shipped,
            }
        }
        self.ledger.merge(&self.node, Merge::All).await?;
        Ok(total)
    }

    /// Ships what waits, then again while a whole batch waits: small shipments cost the ledger more than they are worth.
    async fn ship_full_batches(&mut self) -> Result<(), LedgerError> {
        while self.ship_batch().await? == BATCH_CALLS_MAX {}
        self.ledger.merge(&self.node, Merge::Due).await
    }

    async fn ship_batch(&mut self) -> Result<usize, LedgerError> {
        let batch = self.collect();
        let counts = Arc::clone(self.keeper.counts());
        let oldest = batch.calls.iter().map(|(_, terminal)| terminal.ended).min();
        counts.lag_ms.store(oldest.map_or(0, |ended| clock::now().since(ended)), Relaxed);
        let shipped = batch.calls.len();
        if shipped > 0 {
            let sent = self.ledger.ship(&self.node, &batch.calls, self.checkpoint()).await;
            sent.inspect_err(|_| _ = counts.ship_failures.fetch_add(1, Relaxed))?;
        }
        counts.shipped.fetch_add(shipped as u64, Relaxed);
        counts.corrupt.fetch_add(batch.unreadable, Relaxed);
        if shipped < BATCH_CALLS_MAX {
            counts.lag_ms.store(0, Relaxed);
        }
        self.waiting.retain(|waiting| !waiting.taken);
        self.let_go();
        Ok(shipped)
    }

    /// Takes ended calls: first of those that were open when last looked at, then of those that have begun since.
    fn collect(&mut self) -> Batch {
        let mut batch = Batch::default();
        for waiting in &mut self.waiting {
            // A shipment that failed, or whose future was dropped, has shipped nothing.
            waiting.taken = batch.calls.len() < BATCH_CALLS_MAX && batch.take(waiting);
        }
        while batch.calls.len() < BATCH_CALLS_MAX
            && let Some(mut waiting) = self.next_call()
        {
            waiting.taken = batch.take(&waiting);
            self.waiting.push(waiting);
        }
        batch
    }

    fn next_call(&mut self) -> Option<Waiting> {
        loop {
            let segment = Arc::clone(&self.segment);
            match segment.look(self.offset) {
                Look::Call(header) => {
                    let call = Waiting::new(&segment, self.offset, &header);
                    self.offset += header.room;
                    return Some(call);
                }
                Look::Skip(bytes) => self.offset += bytes,
                Look::Wait => return None,
                Look::End => {
                    let later = self.keeper.segments().into_iter().find(|later| later.number > segment.number);
                    self.segment = later?;
                    self.offset = DATA_START;
                }
            }
        }
    }

    /// Below it everything is in the ledger once the calls that are taken are.
    fn checkpoint(&self) -> Checkpoint {
        let first_open = self.waiting.iter().find(|waiting| !waiting.taken);
        let (segment, offset) = match first_open {
            Some(waiting) => (waiting.segment.number, waiting.intent_at),
            None => (self.segment.number, self.offset),
        };
        Checkpoint { segment, offset: offset as u64 }
    }

    /// Marks the segments that hold nothing open or unshipped any more, and lets the pages go that were read.
    fn let_go(&self) {
        let first_in = |number: u64| self.waiting.iter().find(|waiting| waiting.segment.number == number);
        for segment in self.keeper.segments().iter().filter(|segment| segment.number < self.segment.number) {
            if !segment.is_shipped() && first_in(segment.number).is_none() {
                segment.set_shipped();
                segment.let_go_below(segment.bytes());
            }
        }
        let needed = first_in(self.segment.number).map_or(self.offset, |waiting| waiting.intent_at);
        self.segment.let_go_below(needed);
    }
}

impl Batch {
    /// Whether the call is done with: it is in the batch, or nothing of it could be.
    fn take(&mut self, call: &Waiting) -> bool {
        if call.is_open() {
            return false;
        }
        match call.read() {
            Some(ended) => self.calls.push(ended),
            // Recovery has counted those that it found.
            None => self.unreadable += u64::from(call.segment.is_live()),
        }
        true
    }
}

impl Waiting {
    fn new(segment: &Arc<Segment>, intent_at: usize, intent: &Header) -> Self {
        let terminal_at = intent_at + record::slots_bytes(intent.length);
        Self { segment: Arc::clone(segment), intent_at, terminal_at, taken: false }
    }

    /// Whether its end may still come. Not that of an earlier process: recovery has closed those that can be closed.
    fn is_open(&self) -> bool {
        self.segment.is_live() && self.segment.published(self.terminal_at).is_none()
    }

    fn read(&self) -> Option<(Intent, Terminal)> {
        let (intent, header) = self.record_at(self.intent_at, Kind::Intent)?;
        let intent = record::read_intent(intent, &header)?;
        let (terminal, header) = self.record_at(self.terminal_at, Kind::Terminal)?;
        Some((intent, record::read_terminal(terminal, &header)?))
    }

    fn record_at(&self, offset: usize, kind: Kind) -> Option<(&[u8], Header)> {
        let bytes = self.segment.published(offset)?;
        let header = record::check(bytes, Position { segment: self.segment.number, offset }).ok()?;
        (header.kind == kind).then_some((bytes, header))
    }
}

/// Ended calls of earlier processes from a position on.
fn backlog(segments: &[Arc<Segment>], from: Position) -> u64 {
    let mut calls = 0;
    for segment in segments.iter().filter(|segment| segment.number >= from.segment && !segment.is_live()) {
        let mut offset = if segment.number == from.segment { from.offset } else { DATA_START };
        loop {
            match segment.look(offset) {
                Look::Call(header) => {
                    let call = Waiting::new(segment, offset, &header);
                    calls += u64::from(call.record_at(call.terminal_at, Kind::Terminal).is_some());
                    offset += header.room;
                }
                Look::Skip(bytes) => offset += bytes,
                Look::Wait | Look::End => break,
            }
        }
    }
    calls
}
