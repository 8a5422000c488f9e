//! Follows the journal and brings each ended call to the ledger, in batches, until the ledger has it.

use super::SHIP_SOON_CALLS;
use super::header::DATA_START;
use super::keeper::Keeper;
use super::record::{self, Header, Kind, Position};
use super::segment::{Look, Segment};
use crate::{clock, crash};
use async_trait::async_trait;
use filters::attribution::Attribution;
use filters::objects::Object;
use filters::ports::{Amendment, FailedAttempt, Intent, Terminal};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// Most records of one shipment, a call being one: one transaction of the ledger.
const BATCH_RECORDS_MAX: usize = SHIP_SOON_CALLS as usize;
/// A ledger that fails is asked again after `ship_ms`, twice that, … and at the latest after this.
const BACK_OFF_MS_MAX: u64 = 5_000;

/// Where calls go. It takes each record once: one that it has is not counted again.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Takes all of a node's shipment or nothing of it, and says how many of the calls were new.
    async fn ship(&self, node: &str, shipment: &Shipment) -> Result<usize, LedgerError>;

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

/// What goes to the ledger in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shipment {
    /// Ended calls. One that is known by its request id changes nothing.
    pub calls: Vec<(Intent, Terminal)>,
    /// Candidates that did not answer, of calls that have ended or are still open. Known by call and number.
    pub attempts: Vec<FailedAttempt>,
    /// What came after calls' ends. Known by call and sequence.
    pub amendments: Vec<Amendment>,
    /// Whose objects are. One that has an owner keeps it.
    pub objects: Vec<Object>,
    /// Replaces the node's checkpoint, even if that is higher.
    pub checkpoint: Checkpoint,
}

impl Shipment {
    fn records(&self) -> usize {
        self.calls.len() + self.attempts.len() + self.amendments.len() + self.objects.len()
    }
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
    /// Records below that are not in the ledger yet, in the journal's order: calls in flight and a batch at most.
    waiting: Vec<Waiting>,
}

struct Waiting {
    segment: Arc<Segment>,
    at: usize,
    awaited: Awaited,
    /// Whether the shipment that is being made has it.
    taken: bool,
}

/// What waits to be shipped.
#[derive(Clone, Copy)]
enum Awaited {
    Call { terminal_at: usize },
    Attempt,
    Amendment,
    Claim,
}

#[derive(Default)]
struct Batch {
    shipment: Shipment,
    unreadable: u64,
}

/// What a shipment had in it.
struct Shipped {
    records: usize,
    calls: usize,
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
                Shipped { records: 0, .. } => break,
                Shipped { calls, .. } => total += calls,
            }
        }
        self.ledger.merge(&self.node, Merge::All).await?;
        Ok(total)
    }

    /// Ships what waits, then again while a whole batch waits: small shipments cost the ledger more than they are worth.
    async fn ship_full_batches(&mut self) -> Result<(), LedgerError> {
        while self.ship_batch().await?.records >= BATCH_RECORDS_MAX {}
        self.ledger.merge(&self.node, Merge::Due).await
    }

    async fn ship_batch(&mut self) -> Result<Shipped, LedgerError> {
        let Batch { mut shipment, unreadable } = self.collect();
        shipment.checkpoint = self.checkpoint();
        let counts = Arc::clone(self.keeper.counts());
        let oldest = shipment.calls.iter().map(|(_, terminal)| terminal.ended).min();
        counts.lag_ms.store(oldest.map_or(0, |ended| clock::now().since(ended)), Relaxed);
        let shipped = Shipped { records: shipment.records(), calls: shipment.calls.len() };
        if shipped.records > 0 {
            crash::point("before-ship");
            let sent = self.ledger.ship(&self.node, &shipment).await;
            crash::point("after-ship");
            sent.inspect_err(|_| _ = counts.ship_failures.fetch_add(1, Relaxed))?;
        }
        counts.shipped.fetch_add(shipped.calls as u64, Relaxed);
        counts.corrupt.fetch_add(unreadable, Relaxed);
        if shipped.records < BATCH_RECORDS_MAX {
            counts.lag_ms.store(0, Relaxed);
        }
        self.waiting.retain(|waiting| !waiting.taken);
        self.let_go();
        Ok(shipped)
    }

    /// Takes what is complete: first of what was open when last looked at, then of what has come since.
    fn collect(&mut self) -> Batch {
        let mut batch = Batch::default();
        for waiting in &mut self.waiting {
            // A shipment that failed, or whose future was dropped, has shipped nothing.
            waiting.taken = batch.has_room() && batch.take(waiting);
        }
        while batch.has_room()
            && let Some(mut waiting) = self.next_record()
        {
            waiting.taken = batch.take(&waiting);
            self.waiting.push(waiting);
        }
        batch
    }

    fn next_record(&mut self) -> Option<Waiting> {
        loop {
            let segment = Arc::clone(&self.segment);
            match segment.look(self.offset) {
                Look::Call(header) | Look::Note(header) => {
                    let record = Waiting::new(&segment, self.offset, &header);
                    self.offset += header.room;
                    return Some(record);
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

    /// Below it everything is in the ledger once what is taken is.
    fn checkpoint(&self) -> Checkpoint {
        let first_open = self.waiting.iter().find(|waiting| !waiting.taken);
        let (segment, offset) = match first_open {
            Some(waiting) => (waiting.segment.number, waiting.at),
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
        let needed = first_in(self.segment.number).map_or(self.offset, |waiting| waiting.at);
        self.segment.let_go_below(needed);
    }
}

impl Batch {
    fn has_room(&self) -> bool {
        self.shipment.records() < BATCH_RECORDS_MAX
    }

    /// Whether the record is done with: it is in the batch, or nothing of it could be.
    fn take(&mut self, record: &Waiting) -> bool {
        if record.is_open() {
            return false;
        }
        let shipment = &mut self.shipment;
        let is_read = match record.awaited {
            Awaited::Call { terminal_at } => put(&mut shipment.calls, record.read_call(terminal_at)),
            Awaited::Attempt => put(&mut shipment.attempts, record.read_note(record::read_attempt)),
            Awaited::Amendment => put(&mut shipment.amendments, record.read_note(record::read_amendment)),
            Awaited::Claim => put(&mut shipment.objects, record.read_note(record::read_claim)),
        };
        // Recovery has counted those that it found.
        self.unreadable += u64::from(!is_read && record.segment.is_live());
        true
    }
}

fn put<T>(list: &mut Vec<T>, item: Option<T>) -> bool {
    let is_there = item.is_some();
    list.extend(item);
    is_there
}

impl Waiting {
    fn new(segment: &Arc<Segment>, at: usize, header: &Header) -> Self {
        let awaited = match header.kind {
            Kind::Attempt => Awaited::Attempt,
            Kind::Amend => Awaited::Amendment,
            Kind::Claim => Awaited::Claim,
            Kind::Intent | Kind::Terminal | Kind::Progress | Kind::Void | Kind::Attribution | Kind::Later => {
                Awaited::Call { terminal_at: at + record::slots_bytes(header.length) }
            }
        };
        Self { segment: Arc::clone(segment), at, awaited, taken: false }
    }

    /// Whether its end may still come. Not that of an earlier process: recovery has closed those that can be closed.
    fn is_open(&self) -> bool {
        match self.awaited {
            Awaited::Call { terminal_at } => self.segment.is_live() && self.segment.published(terminal_at).is_none(),
            Awaited::Attempt | Awaited::Amendment | Awaited::Claim => false,
        }
    }

    fn read_call(&self, terminal_at: usize) -> Option<(Intent, Terminal)> {
        let (intent, header) = self.record_at(self.at, Kind::Intent)?;
        let mut intent = record::read_intent(intent, &header)?;
        intent.attribution = self.read_attribution(terminal_at + record::TERMINAL_ROOM_BYTES, self.at + header.room);
        let (terminal, header) = self.record_at(terminal_at, Kind::Terminal)?;
        let mut terminal = record::read_terminal(terminal, &header)?;
        terminal.reserved = terminal.reserved.max(intent.reserved);
        Some((intent, terminal))
    }

    /// What stands between the place of the call's terminal and the end of its room.
    fn read_attribution(&self, mut from: usize, end: usize) -> Option<Box<Attribution>> {
        let mut attribution = None::<Box<Attribution>>;
        while from < end {
            let (bytes, header) = self.record_at(from, Kind::Attribution)?;
            record::read_attribution(bytes, &header, attribution.get_or_insert_default())?;
            from += record::slots_bytes(header.length);
        }
        attribution
    }

    fn read_note<T>(&self, read: fn(&[u8], &Header) -> Option<T>) -> Option<T> {
        let bytes = self.segment.published(self.at)?;
        let header = record::check(bytes, Position { segment: self.segment.number, offset: self.at }).ok()?;
        read(bytes, &header)
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
                    let terminal_at = offset + record::slots_bytes(header.length);
                    calls += u64::from(call.record_at(terminal_at, Kind::Terminal).is_some());
                    offset += header.room;
                }
                Look::Note(header) => offset += header.room,
                Look::Skip(bytes) => offset += bytes,
                Look::Wait | Look::End => break,
            }
        }
    }
    calls
}
