//! One file of the journal, mapped into memory. Calls take room at its tail with one atomic addition and write there
//! while the shipper reads what they have finished: pages of a killed process survive in the kernel.
//!
//! Why the `unsafe` here is sound:
//! - The mapping lives as long as the [`Segment`]; the directory's lock keeps other processes from writing to the file or
//!   cutting it short, and this one cuts only files that it has not mapped yet.
//! - Bytes of a record are written by the one owner of its [`Room`], before the record's first word is stored with
//!   release ordering, and never afterwards: a room is filled from both its ends, and they never cross.
//! - Bytes of a record are read only after its first word was loaded with acquire ordering and found non-zero.

#![allow(unsafe_code)]

use super::JournalCounts;
use super::header::{BEGUN_AT, CLOSED_AT, DATA_START, END_AT, Finished, Header, LAST_AT, mark_word};
use super::keeper::Keeper;
use super::record::{self, Flaw, Kind, Position, SLOT_BYTES};
use super::recovery::History;
use crate::crash;
use filters::time::EpochMs;
use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};

/// Not yet known where the last call of a segment ends.
const OPEN: usize = usize::MAX;
/// Pages of shipped records are given back in pieces of this size, so that the journal does not count as our memory.
const FORGET_BYTES: usize = 1 << 20;
/// So much is mapped ahead of the calls: two syncs' worth at 20 000 calls a second.
const AHEAD_BYTES: usize = 1 << 20;

/// What a call finds of the journal through its own segment.
#[derive(Default)]
pub(super) struct Home {
    pub(super) counts: Arc<JournalCounts>,
    /// Set when the journal is open.
    pub(super) keeper: OnceLock<Weak<Keeper>>,
}

pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    home: Arc<Home>,
    file: File,
    map: MmapRaw,
    /// Whether this process writes it. What an earlier one left has holes, which nobody will fill.
    live: bool,
    tail: AtomicUsize,
    /// Where the last call ends, once nobody can begin another.
    end: AtomicUsize,
    /// Whether something was written since the last sync began.
    dirty: AtomicBool,
    /// Whether a sync has failed: the kernel may have dropped pages, so that a later success proves nothing.
    damaged: AtomicBool,
    begun: AtomicUsize,
    closed: AtomicUsize,
    /// Nothing in it is open or unshipped any more.
    shipped: AtomicBool,
    /// The shipper is done with what lies below.
    needed_from: AtomicUsize,
    /// Pages below have been mapped for writing.
    prepared: AtomicUsize,
    /// Pages below are not mapped any more.
    forgotten: AtomicUsize,
    /// When its last call was begun, milliseconds since 1970.
    last: AtomicI64,
}

/// What stands at an offset of a segment.
pub(super) enum Look {
    /// A call's intent, checked.
    Call(record::Header),
    /// An attempt, an amendment or a claim, checked.
    Note(record::Header),
    /// Nothing that can be read; go on that many bytes later.
    Skip(usize),
    /// Nobody has written here yet.
    Wait,
    /// No call begins here or later.
    End,
}

impl Segment {
    /// Makes the file with all its room, so that writing to it can't run out of disk later.
    pub(super) fn create(dir: &Path, header: Header, bytes: usize, home: Arc<Home>) -> io::Result<Self> {
        let path = path_of(dir, header.number);
        let unfinished = path.with_extension("new");
        let made = prepare_file(&unfinished, header, bytes).and_then(|file| {
            std::fs::rename(&unfinished, &path)?;
            File::open(dir)?.sync_all()?;
            let map = MmapRaw::map_raw(&file)?;
            Ok(Self { home, ..Self::blank(path, header.number, file, map) })
        });
        if made.is_err() {
            // What was made of it would hold the very room that is short.
            let _ = std::fs::remove_file(&unfinished);
        }
        made
    }

    /// Opens what an earlier process left and recovery has been over, to read it only.
    pub(super) fn open_history(history: History) -> io::Result<Self> {
        let History { path, number, end, last } = history;
        let file = File::open(&path)?;
        let map = MmapOptions::new().map_raw_read_only(&file)?;
        let blank = Self::blank(path, number, file, map);
        Ok(Self {
            live: false,
            tail: AtomicUsize::new(end),
            end: AtomicUsize::new(end),
            begun: AtomicUsize::new(end),
            closed: AtomicUsize::new(end),
            last: AtomicI64::new(last.0),
            ..blank
        })
    }

    fn blank(path: PathBuf, number: u64, file: File, map: MmapRaw) -> Self {
        Self {
            number,
            path,
            home: Arc::default(),
            file,
            map,
            live: true,
            tail: AtomicUsize::new(DATA_START),
            end: AtomicUsize::new(OPEN),
            dirty: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            begun: AtomicUsize::new(DATA_START),
            closed: AtomicUsize::new(DATA_START),
            shipped: AtomicBool::new(false),
            needed_from: AtomicUsize::new(0),
            prepared: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            last: AtomicI64::new(0),
        }
    }

    /// Takes room for a call; gives the segment back when it is full.
    pub(super) fn take(self: Arc<Self>, bytes: usize) -> Result<Room, Arc<Self>> {
        let start = self.tail.fetch_add(bytes, Relaxed);
        if start + bytes <= self.bytes() {
            return Ok(Room { segment: self, next: start, end: start + bytes });
        }
        // Every later start is past the end, so just one caller comes here: the one that finds where the last call ends.
        if start <= self.bytes() {
            self.end.store(start, Release);
        }
        Err(self)
    }

    /// Lets no further call begin here.
    pub(super) fn close(self: &Arc<Self>, now: EpochMs) {
        self.set_last(now);
        let _ = Arc::clone(self).take(self.bytes() + 1);
    }

    pub(super) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// How much of it has been taken.
    pub(super) fn used(&self) -> usize {
        self.tail.load(Relaxed).min(self.bytes())
    }

    pub(super) fn is_shipped(&self) -> bool {
        self.shipped.load(Acquire)
    }

    pub(super) fn set_shipped(&self) {
        self.shipped.store(true, Release);
    }

    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    pub(super) fn set_last(&self, now: EpochMs) {
        self.last.store(now.0, Relaxed);
    }

    pub(super) fn last(&self) -> EpochMs {
        EpochMs(self.last.load(Relaxed))
    }

    /// What stands at `offset`, for a reader that follows the calls in their order.
    pub(super) fn look(&self, offset: usize) -> Look {
        if offset >= self.end.load(Acquire) {
            return Look::End;
        }
        let Some(bytes) = self.published(offset) else {
            return if self.live { Look::Wait } else { Look::Skip(SLOT_BYTES) };
        };
        match record::check(bytes, Position { segment: self.number, offset }) {
            Ok(header) => match header.kind {
                Kind::Intent => Look::Call(header),
                Kind::Attempt | Kind::Amend | Kind::Claim => Look::Note(header),
                Kind::Void | Kind::Progress | Kind::Later => Look::Skip(header.room.max(SLOT_BYTES)),
                Kind::Terminal | Kind::Attribution => Look::Skip(record::slots_bytes(header.length)),
            },
            // Recovery has refused what is newer.
            Err(Flaw::Empty | Flaw::Broken | Flaw::Newer(_)) => Look::Skip(SLOT_BYTES),
        }
    }

    /// The record that has been published at `offset`. What can't be one is cut to its first word.
    pub(super) fn published(&self, offset: usize) -> Option<&[u8]> {
        let word = self.word(offset)?.load(Acquire);
        if word == 0 {
            return None;
        }
        let length = record::length_of(&word.to_ne_bytes()).filter(|length| offset + length <= self.bytes());
        // SAFETY: within the mapping by the filter (a word always is), and published: nobody writes there any more.
        Some(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(offset), length.unwrap_or(8)) })
    }

    /// Brings all that was published before to the disk and moves the marks. The marks themselves reach the disk with
    /// the next sync: late, never early.
    pub(super) fn sync(&self) -> io::Result<()> {
        if !self.dirty.swap(false, AcqRel) {
            return Ok(());
        }
        let begun = self.walk(self.begun.load(Relaxed), |_| true);
        let closed = self.walk(self.closed.load(Relaxed), |terminal_at| self.published(terminal_at).is_some());
        let synced = crash::fault("sync-fails").and_then(|()| self.file.sync_data());
        synced.inspect_err(|_| self.damaged.store(true, Relaxed))?;
        if self.damaged.load(Relaxed) {
            return Ok(());
        }
        self.begun.store(begun, Release);
        self.closed.store(closed, Release);
        self.mark(BEGUN_AT, mark_word(begun));
        self.mark(CLOSED_AT, mark_word(closed));
        Ok(())
    }

    /// Says in the header that the segment is finished, once it is, so that a later start need not read all of it.
    pub(super) fn mark_finished(&self) {
        let finished = Finished { end: self.end.load(Acquire), last: self.last() };
        let is_marked = self.word(LAST_AT).is_some_and(|word| word.load(Relaxed) != 0);
        if !self.live || is_marked || self.closed.load(Relaxed) != finished.end {
            return;
        }
        self.mark(END_AT, mark_word(finished.end));
        self.mark(LAST_AT, finished.last_word());
    }

    fn mark(&self, at: usize, word: u64) {
        if let Some(place) = self.word(at) {
            place.store(word.to_le(), Relaxed);
        }
    }

    /// Up to where all intents are on disk, and whether that is all that this segment will ever have.
    pub(super) fn synced(&self) -> (Position, bool) {
        let begun = self.begun.load(Acquire);
        (Position { segment: self.number, offset: begun }, begun >= self.end.load(Acquire))
    }

    /// Says that the shipper will not read below `offset` again.
    pub(super) fn let_go_below(&self, offset: usize) {
        self.needed_from.store(offset, Relaxed);
    }

    /// Drops the pages that nobody will look at again from this process's memory; the file keeps them.
    pub(super) fn forget(&self) {
        let from = self.forgotten.load(Relaxed);
        let done = self.needed_from.load(Relaxed).min(self.closed.load(Relaxed));
        let to = done / FORGET_BYTES * FORGET_BYTES;
        if to <= from {
            return;
        }
        // SAFETY: the mapping is shared, so the kernel keeps what was written and a later read finds it again.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, from, to - from) };
        self.forgotten.store(to, Relaxed);
    }

    /// Maps the pages that the next calls will write to, so that they need not wait for the file system.
    pub(super) fn prepare_ahead(&self) {
        let from = self.prepared.load(Relaxed).max(self.used() / DATA_START * DATA_START);
        let wanted = (self.used() + AHEAD_BYTES).min(self.bytes());
        if from + AHEAD_BYTES / 2 > wanted {
            return;
        }
        // It only saves time: where the kernel can't, each page is mapped when it is first written to.
        let _ = self.map.advise_range(Advice::PopulateWrite, from, wanted - from);
        self.prepared.store(wanted, Relaxed);
    }

    /// Goes from call to call while `is_passed` says so of the place of its terminal.
    fn walk(&self, from: usize, is_passed: impl Fn(usize) -> bool) -> usize {
        let mut at = from;
        while let Some((intent_bytes, room)) = self.published(at).and_then(record::extent) {
            // What has no room beyond itself stands alone: no terminal follows it.
            if intent_bytes < room && !is_passed(at + intent_bytes) {
                break;
            }
            at += room;
        }
        at
    }

    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(8) || offset + SLOT_BYTES > self.bytes() {
            return None;
        }
        // SAFETY: inside the mapping and aligned, as a mapping begins at a page. First words and marks are only ever
        // written through atomics while the file is mapped.
        Some(unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(offset).cast()) })
    }
}

/// What a call, or a note of one, has taken of a segment, written from its start on. It keeps the segment alive.
pub(super) struct Room {
    segment: Arc<Segment>,
    next: usize,
    end: usize,
}

impl Room {
    pub(super) fn counts(&self) -> &JournalCounts {
        &self.segment.home.counts
    }

    /// Who gives room for what the call writes beside its two ends; nobody once the journal is closed.
    pub(super) fn keeper(&self) -> Option<Arc<Keeper>> {
        self.segment.home.keeper.get()?.upgrade()
    }

    /// Writes the next record of the call: its body, then, so that readers see all or nothing, its first word.
    pub(super) fn publish(&mut self, draft: &mut record::Draft) {
        let at = self.next;
        self.next += draft.slots_bytes();
        self.write(at, draft);
    }

    /// Writes a record at the end of the room, in front of those that were written so before. Readers who come by the call's first
    /// record find it, so it is written before that.
    pub(super) fn publish_behind(&mut self, draft: &mut record::Draft) {
        self.end -= draft.slots_bytes();
        self.write(self.end, draft);
    }

    fn write(&self, at: usize, draft: &mut record::Draft) {
        assert!(self.next <= self.end, "a call takes room for all its records");
        let bytes = draft.at(Position { segment: self.segment.number, offset: at });
        let (Some(word), Some((first, body))) = (self.segment.word(at), bytes.split_first_chunk()) else {
            return;
        };
        // SAFETY: inside this room by the assertion. Nobody else writes to it, nothing here was written before, as
        // `next` only grows and `end` only falls, and nobody reads it before the store below.
        unsafe {
            let to = self.segment.map.as_mut_ptr().add(at + first.len());
            std::ptr::copy_nonoverlapping(body.as_ptr(), to, body.len());
        }
        word.store(u64::from_ne_bytes(*first), Release);
        self.segment.dirty.store(true, Release);
    }
}

/// The file of a segment.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.segment"))
}

/// Its number, if the file is a segment.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let is_segment = path.extension().is_some_and(|extension| extension == "segment");
    is_segment.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten()
}

fn prepare_file(path: &Path, header: Header, bytes: usize) -> io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64) {
        // Some file systems can't set room aside; writing zeros does it, slowly.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; DATA_START];
            (0..bytes / DATA_START).try_for_each(|page| file.write_all_at(&zeros, (page * DATA_START) as u64))?;
        }
        other => other?,
    }
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    Ok(file)
}
