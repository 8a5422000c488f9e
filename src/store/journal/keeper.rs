//! Keeps the segments: gives calls room, rolls to the next one, syncs them, removes what is done with.

use super::directory::Directory;
use super::header::{DATA_START, Header};
use super::record::Draft;
use super::recovery::{self, History, Recovered, Recovery};
use super::segment::{Home, Room, Segment};
use super::{Checkpoint, JournalCounts, OpenError, Settings};
use crate::clock;
use crate::config::SyncMode;
use arc_swap::ArcSwap;
use filters::ports::{Durable, JournalFull};
use filters::time::EpochMs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct Keeper {
    settings: Settings,
    dir: PathBuf,
    node: u128,
    home: Arc<Home>,
    current: ArcSwap<Segment>,
    /// All segments but the spare one, oldest first.
    segments: Mutex<Vec<Arc<Segment>>>,
    /// Taken before `segments` by whoever takes both.
    spare: Mutex<Spare>,
    /// Whether the last try to make a segment failed. The sync thread tries again; calls don't.
    full: AtomicBool,
    synced_through: AtomicU64,
    syncing: Mutex<Syncing>,
    wake: Condvar,
    /// The number of the last sync that has ended.
    synced: watch::Sender<u64>,
}

/// What the sync thread is asked for.
#[derive(Default)]
struct Syncing {
    stopping: bool,
    /// Somebody waits for the next sync.
    wanted: bool,
    /// Syncs that were begun.
    begun: u64,
}

/// The segment that waits its turn, and the number of the one after it.
struct Spare {
    segment: Option<Arc<Segment>>,
    next_number: u64,
}

impl Keeper {
    /// Recovers what is in the directory. New calls never go to an old segment: a power cut may have taken records that
    /// the ledger's checkpoint counts as shipped, and new ones must not take their places.
    pub(super) fn open(
        settings: Settings,
        directory: &Directory,
        shipped: Option<Checkpoint>,
        now: EpochMs,
    ) -> Result<(Arc<Self>, Recovered), OpenError> {
        let io_error = |source| OpenError::Io { path: directory.path.clone(), source };
        let (histories, mut next_number, recovered) = recover_all(directory, shipped, now)?;
        let home = Arc::new(Home::default());
        home.counts.recovered.store(recovered.recovered, Relaxed);
        home.counts.corrupt.store(recovered.corrupt, Relaxed);
        let opened = histories.into_iter().map(|history| Segment::open_history(history).map(Arc::new));
        let mut segments = opened.collect::<io::Result<Vec<_>>>().map_err(io_error)?;
        if segments.is_empty() {
            let header = Header { number: next_number, node: directory.node };
            let first = Segment::create(&directory.path, header, settings.segment_bytes, Arc::clone(&home));
            segments.push(Arc::new(first.map_err(io_error)?));
            next_number += 1;
        }
        let newest = Arc::clone(&segments[segments.len() - 1]);
        let keeper = Arc::new(Self {
            settings,
            dir: directory.path.clone(),
            node: directory.node,
            home,
            current: ArcSwap::new(Arc::clone(&newest)),
            segments: Mutex::new(segments),
            spare: Mutex::new(Spare { segment: None, next_number }),
            full: AtomicBool::new(false),
            synced_through: AtomicU64::new(0),
            syncing: Mutex::default(),
            wake: Condvar::new(),
            synced: watch::Sender::new(0),
        });
        // It was empty until here.
        let _ = keeper.home.keeper.set(Arc::downgrade(&keeper));
        if !newest.is_live() {
            // Without room for a new segment the old one stays, as a full one would: its calls can be shipped all the same.
            let _ = keeper.roll(&newest);
        }
        Ok((keeper, recovered))
    }

    pub(super) fn counts(&self) -> &Arc<JournalCounts> {
        &self.home.counts
    }

    pub(super) fn ship_ms(&self) -> u64 {
        self.settings.ship_ms
    }

    pub(super) fn synced_through(&self) -> u64 {
        self.synced_through.load(Acquire)
    }

    pub(super) fn current(&self) -> Arc<Segment> {
        self.current.load_full()
    }

    /// All segments that calls were written to, oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        lock(&self.segments).clone()
    }

    /// Room for a call: one atomic addition, unless it is this call that finds the segment full.
    pub(super) fn take(&self, bytes: usize) -> Result<Room, JournalFull> {
        let mut segment = self.current.load_full();
        loop {
            match segment.take(bytes) {
                Ok(room) => return Ok(room),
                Err(full) => self.roll(&full)?,
            }
            segment = self.current.load_full();
        }
    }

    /// Writes a record that stands alone at the journal's end.
    pub(super) fn note(&self, draft: &mut Draft) -> Result<(), JournalFull> {
        self.take(draft.slots_bytes())?.publish(draft);
        Ok(())
    }

    /// Puts the spare segment in the place of a full one, and makes one here and now if there is none.
    fn roll(&self, full: &Arc<Segment>) -> Result<(), JournalFull> {
        if self.full.load(Acquire) {
            return Err(JournalFull);
        }
        let mut spare = lock(&self.spare);
        if !Arc::ptr_eq(&self.current.load(), full) {
            return Ok(());
        }
        let next = match spare.segment.take() {
            Some(next) => next,
            None => self.make(&mut spare)?,
        };
        if full.is_live() {
            full.set_last(clock::now());
        }
        lock(&self.segments).push(Arc::clone(&next));
        self.current.store(next);
        self.wake.notify_one();
        Ok(())
    }

    /// Makes a segment if the limit and the disk allow it, removing old ones for it if the limit does not.
    fn make(&self, spare: &mut Spare) -> Result<Arc<Segment>, JournalFull> {
        let bytes = self.settings.segment_bytes;
        while self.bytes() + bytes as u64 > self.settings.bytes_max {
            let oldest = self.take_out(|segment| segment.is_shipped());
            match oldest {
                Some(segment) => self.remove(&segment),
                None => return Err(self.refuse(&"journal.bytes_max is reached and nothing can be removed")),
            }
        }
        let header = Header { number: spare.next_number, node: self.node };
        let made = loop {
            let error = match Segment::create(&self.dir, header, bytes, Arc::clone(&self.home)) {
                Ok(made) => break made,
                Err(error) => error,
            };
            // A disk that is full has the limit that `bytes_max` did not give it: what is shipped makes room there, too.
            let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            match is_full.then(|| self.take_out(|segment| segment.is_shipped())).flatten() {
                Some(segment) => self.remove(&segment),
                None => return Err(self.refuse(&error)),
            }
        };
        spare.next_number += 1;
        if self.full.swap(false, Release) {
            tracing::info!("the journal has room again");
        }
        Ok(Arc::new(made))
    }

    fn refuse(&self, cause: &dyn std::fmt::Display) -> JournalFull {
        if !self.full.swap(true, Release) {
            self.counts().failures.fetch_add(1, Relaxed);
            tracing::error!(%cause, "no further segment for the journal; new calls are refused when this one is full");
        }
        JournalFull
    }

    /// Resolves when a sync has ended that began after this; `None` where nobody is to wait for one.
    pub(super) fn durable(&self) -> Option<Durable<'_>> {
        match self.settings.sync {
            SyncMode::Interval => return None,
            SyncMode::Each => {}
        }
        let mut synced = self.synced.subscribe();
        let awaited = {
            let mut syncing = lock(&self.syncing);
            syncing.wanted = true;
            syncing.begun + 1
        };
        self.wake.notify_one();
        Some(Box::pin(async move {
            // The sender lives as long as `self`, which is borrowed.
            let _ = synced.wait_for(|ended| *ended >= awaited).await;
        }))
    }

    /// The sync thread's life.
    pub(super) fn run(&self) {
        loop {
            let (number, is_last) = self.next_sync();
            self.tick(clock::now(), number);
            if is_last {
                return;
            }
        }
    }

    /// Waits until it is time, or somebody waits. Gives the number of the sync that begins now, and says if it is the last.
    fn next_sync(&self) -> (u64, bool) {
        let mut syncing = lock(&self.syncing);
        if !syncing.wanted && !syncing.stopping {
            let pause = Duration::from_millis(self.settings.sync_ms);
            syncing = self.wake.wait_timeout(syncing, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        syncing.wanted = false;
        syncing.begun += 1;
        (syncing.begun, syncing.stopping)
    }

    /// Ends [`Keeper::run`] after one last sync.
    pub(super) fn stop(&self) {
        lock(&self.syncing).stopping = true;
        self.wake.notify_one();
    }

    fn tick(&self, now: EpochMs, number: u64) {
        let segments = self.segments();
        for segment in &segments {
            if let Err(error) = segment.sync() {
                self.counts().failures.fetch_add(1, Relaxed);
                tracing::error!(%error, path = %segment.path.display(), "the journal can't be synced; trying a new segment");
                // What the disk did not take once it must not be trusted with again.
                segment.close(now);
            }
            segment.mark_finished();
            segment.forget();
        }
        self.move_mark(&segments);
        self.synced.send_replace(number);
        let current = self.current();
        current.prepare_ahead();
        let mut spare = lock(&self.spare);
        if spare.segment.is_none() && current.used() > current.bytes() / 2 {
            spare.segment = self.make(&mut spare).ok();
        }
        let keep_ms = self.settings.keep_hours.saturating_mul(3_600_000);
        while let Some(old) = self.take_out(|segment| segment.is_shipped() && now.since(segment.last()) >= keep_ms) {
            self.remove(&old);
        }
        let spare_bytes = spare.segment.as_ref().map_or(0, |segment| segment.bytes() as u64);
        self.counts().bytes.store(self.bytes() + spare_bytes, Relaxed);
    }

    fn move_mark(&self, segments: &[Arc<Segment>]) {
        for segment in segments {
            let (position, is_all) = segment.synced();
            self.synced_through.store(position.segment << 32 | position.offset as u64, Release);
            if !is_all {
                return;
            }
        }
    }

    /// What the segments take, the spare one aside.
    fn bytes(&self) -> u64 {
        lock(&self.segments).iter().map(|segment| segment.bytes() as u64).sum()
    }

    /// Takes the oldest segment of those that may go out of the list. The current one stays, whatever is said of it.
    fn take_out(&self, may_go: impl Fn(&Segment) -> bool) -> Option<Arc<Segment>> {
        let current = self.current.load().number;
        let mut segments = lock(&self.segments);
        let index = segments.iter().position(|segment| segment.number != current && may_go(segment))?;
        Some(segments.remove(index))
    }

    fn remove(&self, segment: &Segment) {
        if let Err(error) = std::fs::remove_file(&segment.path) {
            self.counts().failures.fetch_add(1, Relaxed);
            tracing::error!(%error, path = %segment.path.display(), "a shipped segment of the journal can't be removed");
        }
    }
}

/// Recovers each segment, removes empty ones, and says which number comes next.
fn recover_all(
    directory: &Directory,
    shipped: Option<Checkpoint>,
    now: EpochMs,
) -> Result<(Vec<History>, u64, Recovered), OpenError> {
    let dir = &directory.path;
    let found = recovery::segments_in(dir).map_err(|source| OpenError::Io { path: dir.clone(), source })?;
    let next_number = found.last().map_or(1, |(number, _)| number + 1);
    let mut recovery = Recovery::new(shipped, now);
    for (_, path) in found {
        let io_error = |source| OpenError::Io { path: path.clone(), source };
        match recovery.look_at(&path).map_err(io_error)? {
            Ok(node) if node == directory.node => {}
            Ok(_) => return Err(OpenError::Foreign { path }),
            Err(flaw) => return Err(OpenError::Header { path, flaw }),
        }
    }
    let (looked_at, recovered) = recovery.finish()?;
    let mut histories = Vec::new();
    for history in looked_at {
        if history.end > DATA_START {
            histories.push(history);
        } else {
            let removed = std::fs::remove_file(&history.path);
            removed.map_err(|source| OpenError::Io { path: history.path, source })?;
        }
    }
    Ok((histories, next_number, recovered))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
