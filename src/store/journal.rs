//! The journal: what was begun and how it ended, kept where `kill -9` can't reach it, until the ledger has it.
//!
//! - `record` is the bytes of one record; `header` those of a segment's first page.
//! - `segment` is one file, mapped: the only place with `unsafe`.
//! - `keeper` rolls from segment to segment, syncs them, removes what is done.
//! - `recovery` goes over what an earlier process left, by `scan`; `facts` does so for the audit.
//! - `shipper` brings ended calls to the ledger.

mod directory;
mod facts;
mod header;
mod keeper;
mod record;
mod recovery;
mod scan;
mod segment;
mod shipper;
#[cfg(test)]
mod tests;

pub use directory::{Held, hold, node_name, set_aside};
pub use facts::{JournalFacts, facts, known, oldest};
pub use header::HeaderFlaw;
pub use recovery::Recovered;
pub use shipper::{Checkpoint, Ledger, LedgerError, Merge, Shipment, Shipper};

use crate::config::SyncMode;
use crate::crash;
use directory::{Directory, directory_of};
use filters::objects::Object;
use filters::ports::{Amendment, Durable, FailedAttempt, Intent, JournalFull, OpenCall, Progress, Terminal};
use filters::time::EpochMs;
use keeper::Keeper;
use record::{Draft, TERMINAL_ROOM_BYTES};
use segment::Room;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// So many ended calls wake the shipper before its time: one full batch.
const SHIP_SOON_CALLS: u64 = 2_000;

/// Where the journal lives and how much of it there may be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's data directory; the journal is the directory `journal` in it.
    pub dir: PathBuf,
    /// Size of a segment, set aside when it is made. At least 8 KiB, at most 1 GiB, whole pages of 4 KiB.
    pub segment_bytes: usize,
    /// All segments together take no more. Room for two segments at least.
    pub bytes_max: u64,
    /// Shipped segments are kept so long, that a restored database can be shipped again.
    pub keep_hours: u64,
    /// Whether calls wait for the disk before their clients see the end.
    pub sync: SyncMode,
    /// Milliseconds between syncs to disk: what a power cut can take where nobody waits.
    pub sync_ms: u64,
    /// Milliseconds between shipments to the ledger.
    pub ship_ms: u64,
}

impl Settings {
    /// The defaults, in a data directory.
    #[must_use]
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            bytes_max: 4 << 30,
            keep_hours: 24,
            sync: SyncMode::Interval,
            sync_ms: 50,
            ship_ms: 200,
        }
    }

    fn validate(&self) -> Result<(), OpenError> {
        let is_whole_pages = self.segment_bytes.is_multiple_of(header::DATA_START);
        if !is_whole_pages || !(2 * header::DATA_START..=1 << 30).contains(&self.segment_bytes) {
            return Err(OpenError::Settings("segment_bytes must be a multiple of 4096 from 8192 to 1073741824"));
        }
        if self.bytes_max < 2 * self.segment_bytes as u64 {
            return Err(OpenError::Settings("bytes_max must be at least twice segment_bytes"));
        }
        if self.sync_ms == 0 || self.ship_ms == 0 {
            return Err(OpenError::Settings("sync_ms and ship_ms must be at least 1"));
        }
        Ok(())
    }
}

/// Why the journal can't be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another process uses the journal in {dir}: stop it, or give this one a data directory of its own")]
    Held {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// The settings contradict themselves.
    #[error("the journal's settings: {0}")]
    Settings(&'static str),
    /// The operating system says no.
    #[error("the journal at {path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The node's name is not readable.
    #[error(
        "{path} does not hold a node's name (node_ and 32 hexadecimal digits): restore it, or move the journal away"
    )]
    Node {
        /// The file.
        path: PathBuf,
    },
    /// A file of the journal can't be read as a segment.
    #[error("the journal's segment {path}: {flaw}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: HeaderFlaw,
    },
    /// A segment was copied from elsewhere.
    #[error("the journal's segment {path} was written by another node: move it back to where it came from")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// What metrics say of the journal.
#[derive(Debug, Default)]
pub struct JournalCounts {
    /// Calls that have ended, those found unshipped at start among them.
    pub ended: AtomicU64,
    /// Calls that were handed to the ledger and taken.
    pub shipped: AtomicU64,
    /// How long the oldest call of the current shipment has waited since its end, in milliseconds.
    pub lag_ms: AtomicU64,
    /// What the segments take on disk.
    pub bytes: AtomicU64,
    /// Times that a segment could not be synced, made or removed.
    pub failures: AtomicU64,
    /// Times that the ledger did not take a shipment.
    pub ship_failures: AtomicU64,
    /// Calls that were closed as recovered at start.
    pub recovered: AtomicU64,
    /// Records that can't be read though they were on disk.
    pub corrupt: AtomicU64,
    /// Notes of open calls that were left out for want of room: how far they had come, or who did not answer.
    pub left_out: AtomicU64,
    ship_soon: Notify,
}

impl JournalCounts {
    /// Ended calls that are not in the ledger yet.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        self.ended.load(Relaxed).saturating_sub(self.shipped.load(Relaxed))
    }

    fn count_end(&self) {
        if (self.ended.fetch_add(1, Relaxed) + 1).is_multiple_of(SHIP_SOON_CALLS) {
            self.ship_soon.notify_one();
        }
    }
}

/// The journal of this node. It holds its directory until it is dropped.
pub struct Journal {
    keeper: Arc<Keeper>,
    directory: Directory,
    sync_thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Takes the directory, goes over what an earlier process left there, and is ready for calls. Segments that are
    /// finished and lie below `shipped`, the ledger's checkpoint for this node, are taken at their word.
    pub fn open(settings: Settings, shipped: Option<Checkpoint>, now: EpochMs) -> Result<(Self, Recovered), OpenError> {
        settings.validate()?;
        let directory = Directory::hold(&directory_of(&settings.dir))?;
        let (keeper, recovered) = Keeper::open(settings, &directory, shipped, now)?;
        if recovered.passed_over > 0 {
            let records = recovered.passed_over;
            tracing::warn!(
                records,
                "the journal has records of a later release, which said that they may be passed over"
            );
        }
        let syncing = Arc::clone(&keeper);
        let sync_thread = std::thread::Builder::new()
            .name("journal-sync".to_owned())
            .spawn(move || syncing.run())
            .map_err(|source| OpenError::Io { path: directory.path.clone(), source })?;
        Ok((Self { keeper, directory, sync_thread: Some(sync_thread) }, recovered))
    }

    /// This node's name: `node_` and 32 hexadecimal digits, made with the directory.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.directory.node_name
    }

    /// What metrics ask.
    #[must_use]
    pub fn counts(&self) -> Arc<JournalCounts> {
        Arc::clone(self.keeper.counts())
    }

    /// Up to where all intents are on disk, as one growing number. (A terminal lies in its call's room, below marks that
    /// may have passed it: whoever waits for one needs a sync that began after it.)
    #[must_use]
    pub fn synced_through(&self) -> u64 {
        self.keeper.synced_through()
    }

    /// Who brings ended calls to the ledger, from where the ledger says that it has them. One per journal.
    pub async fn shipper(&self, ledger: Arc<dyn Ledger>) -> Result<Shipper, LedgerError> {
        Shipper::start(Arc::clone(&self.keeper), ledger, self.node()).await
    }
}

impl filters::ports::Journal for Journal {
    fn begin(&self, intent: &Intent) -> Result<Box<dyn OpenCall>, JournalFull> {
        crash::point("before-intent");
        let mut draft = Draft::intent(intent);
        let attribution = intent.attribution.iter().flat_map(|for_whom| Draft::attribution(intent.call, for_whom));
        let mut behind: Vec<Draft> = attribution.collect();
        let behind_bytes: usize = behind.iter().map(Draft::slots_bytes).sum();
        let bytes = draft.slots_bytes() + TERMINAL_ROOM_BYTES + behind_bytes;
        draft.set_room(bytes);
        let mut room = self.keeper.take(bytes)?;
        crash::point("inside-intent");
        behind.iter_mut().rev().for_each(|draft| room.publish_behind(draft));
        room.publish(&mut draft);
        crash::point("after-intent");
        Ok(Box::new(BegunCall { room }))
    }

    fn amend(&self, amendment: &Amendment) -> Result<(), JournalFull> {
        self.keeper.note(&mut Draft::amendment(amendment))
    }

    fn claim(&self, object: &Object) -> Result<(), JournalFull> {
        self.keeper.note(&mut Draft::claim(object))
    }

    fn durable(&self) -> Option<Durable<'_>> {
        self.keeper.durable()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.keeper.stop();
        if let Some(thread) = self.sync_thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's sync thread panicked; the last 50 ms may not be on disk");
        }
    }
}

struct BegunCall {
    room: Room,
}

impl BegunCall {
    /// Writes beside the call's own room, if there is some.
    fn note(&self, mut draft: Draft) {
        let written = self.room.keeper().is_some_and(|keeper| keeper.note(&mut draft).is_ok());
        if !written {
            self.room.counts().left_out.fetch_add(1, Relaxed);
        }
    }
}

impl OpenCall for BegunCall {
    fn progress(&mut self, progress: &Progress) {
        self.note(Draft::progress(progress));
    }

    fn attempt(&mut self, attempt: &FailedAttempt) {
        self.note(Draft::attempt(attempt));
    }

    fn end(mut self: Box<Self>, terminal: &Terminal) {
        crash::point("before-terminal");
        self.room.publish(&mut Draft::terminal(terminal));
        crash::point("after-terminal");
        self.room.counts().count_end();
    }
}
