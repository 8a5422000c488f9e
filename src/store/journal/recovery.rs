//! Before serving: closes the calls that an earlier process left open and makes the gaps that it left readable as gaps.

use super::header::{BEGUN_AT, DATA_START, Finished, Header as SegmentHeader, HeaderFlaw};
use super::record::{self, Draft, Header, Kind, Position};
use super::scan::{End, Item, Scanner};
use super::segment::number_of;
use super::{Checkpoint, OpenError};
use crate::crash;
use filters::id::CallId;
use filters::money::NanoUsd;
use filters::ports::{Intent, Outcome, Progress, Terminal};
use filters::price::Tier;
use filters::time::EpochMs;
use filters::usage::Usage;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What recovery found in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Calls whose intent was read, closed ones among them. Segments that are finished and shipped are not read.
    pub calls: u64,
    /// Calls that were open and are now closed as [`Outcome::Recovered`].
    pub recovered: u64,
    /// Records that a crash tore before they were promised to be on disk.
    pub torn: u64,
    /// Records that were on disk and are damaged now.
    pub corrupt: u64,
    /// Records of a later release that were passed over, as that release said that they may be.
    pub passed_over: u64,
}

/// A segment that recovery has been over.
pub(super) struct History {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    /// Where its last record ends; the first record's place if it has none.
    pub(super) end: usize,
    /// When its last call began.
    pub(super) last: EpochMs,
}

/// What is to be written to a segment so that it reads as finished.
struct Repair {
    path: PathBuf,
    number: u64,
    /// Calls without an end: where it belongs, and what was begun.
    open: Vec<(usize, Intent)>,
    gaps: Vec<Range<usize>>,
    finished: Finished,
}

/// Goes over all segments, oldest first, and only then writes: how far a call had come may stand in a later segment.
pub(super) struct Recovery {
    /// The ledger has everything below.
    shipped: Option<Checkpoint>,
    now: EpochMs,
    counts: Recovered,
    histories: Vec<History>,
    repairs: Vec<Repair>,
    /// The last readable progress of calls without an end.
    progress: HashMap<CallId, Option<Progress>>,
    bytes: Vec<u8>,
}

/// The segments of a directory, oldest first.
pub(super) fn segments_in(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        found.extend(number_of(&path).map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads a segment into `bytes` and what it says of itself.
pub(super) fn read_segment(file: &mut File, bytes: &mut Vec<u8>) -> io::Result<Result<SegmentHeader, HeaderFlaw>> {
    bytes.clear();
    file.read_to_end(bytes)?;
    Ok(SegmentHeader::decode(bytes))
}

impl Recovery {
    pub(super) fn new(shipped: Option<Checkpoint>, now: EpochMs) -> Self {
        Self {
            shipped,
            now,
            counts: Recovered::default(),
            histories: Vec::new(),
            repairs: Vec::new(),
            progress: HashMap::new(),
            bytes: Vec::new(),
        }
    }

    /// Reads one segment, or its header only where that is all that is needed, and says whose it is.
    pub(super) fn look_at(&mut self, path: &Path) -> io::Result<Result<u128, HeaderFlaw>> {
        let mut file = File::open(path)?;
        self.bytes.clear();
        (&mut file).take(DATA_START as u64).read_to_end(&mut self.bytes)?;
        let header = match SegmentHeader::decode(&self.bytes) {
            Ok(header) => header,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let number = header.number;
        let file_bytes = file.metadata()?.len();
        let finished = Finished::decode(&self.bytes).filter(|finished| finished.end as u64 <= file_bytes);
        let is_shipped = self.shipped.is_some_and(|checkpoint| number < checkpoint.segment);
        let finished = match finished.filter(|_| is_shipped) {
            Some(finished) => finished,
            None => {
                file.read_to_end(&mut self.bytes)?;
                let bytes = std::mem::take(&mut self.bytes);
                let examined = self.examine(&bytes, path, number);
                self.bytes = bytes;
                let repair = match examined {
                    Ok(repair) => repair,
                    Err(flaw) => return Ok(Err(flaw)),
                };
                let now_finished = repair.finished;
                if finished.is_none_or(|said| said.end != now_finished.end) || file_bytes != now_finished.end as u64 {
                    self.repairs.push(repair);
                }
                now_finished
            }
        };
        self.histories.push(History { path: path.to_owned(), number, end: finished.end, last: finished.last });
        Ok(Ok(header.node))
    }

    fn examine(&mut self, bytes: &[u8], path: &Path, number: u64) -> Result<Repair, HeaderFlaw> {
        let finished = Finished { end: DATA_START, last: EpochMs::default() };
        let mut repair = Repair { path: path.to_owned(), number, open: Vec::new(), gaps: Vec::new(), finished };
        let mut last = None;
        let mut scanner = Scanner::new(bytes, number);
        while let Some(item) = scanner.next() {
            match item {
                Item::Newer(kind) | Item::Call { end: End::Newer(kind), .. } => {
                    return Err(HeaderFlaw::NewerRecord(kind));
                }
                Item::Call { offset, intent, end } => {
                    self.counts.calls += 1;
                    last = Some((offset, intent));
                    repair
                        .open
                        .extend(self.close(&bytes[offset..], &intent, end).map(|(at, open)| (offset + at, open)));
                }
                Item::Note { offset, note } => self.note(&bytes[offset..], &note),
                Item::Void => {}
                Item::Torn(range) => {
                    self.counts.torn += 1;
                    repair.gaps.push(range);
                    continue;
                }
                Item::Hole(range) => {
                    repair.gaps.push(range);
                    continue;
                }
                // It stays as it is: the evidence.
                Item::Corrupt(_) => self.counts.corrupt += 1,
            }
            repair.finished.end = scanner.past();
        }
        // What is not followed by a record is cut off.
        let end = repair.finished.end;
        repair.gaps.retain(|gap| gap.start < end);
        let last = last.and_then(|(offset, intent)| record::read_intent(&bytes[offset..], &intent));
        repair.finished.last = last.map_or_else(EpochMs::default, |intent| intent.started);
        Ok(repair)
    }

    /// The call's intent and the place of its end, counted from its start, if it has none.
    fn close(&mut self, call: &[u8], header: &Header, end: End) -> Option<(usize, Intent)> {
        match end {
            End::Closed(_) => return None,
            // How it ended is lost; a made-up terminal would hide that.
            End::Corrupt | End::Newer(_) => {
                self.counts.corrupt += 1;
                return None;
            }
            End::Torn => self.counts.torn += 1,
            End::Open => {}
        }
        let Some(intent) = record::read_intent(call, header) else {
            self.counts.corrupt += 1;
            return None;
        };
        self.counts.recovered += 1;
        self.progress.insert(intent.call, None);
        Some((record::slots_bytes(header.length), intent))
    }

    /// Keeps the progress of an open call, and counts what can't be read.
    fn note(&mut self, bytes: &[u8], note: &Header) {
        let is_read = match note.kind {
            Kind::Progress => match record::read_progress(bytes, note) {
                Some(progress) => {
                    self.keep(progress);
                    true
                }
                None => false,
            },
            Kind::Attempt => record::read_attempt(bytes, note).is_some(),
            Kind::Amend => record::read_amendment(bytes, note).is_some(),
            Kind::Claim => record::read_claim(bytes, note).is_some(),
            Kind::Later => {
                self.counts.passed_over += 1;
                true
            }
            Kind::Intent | Kind::Terminal | Kind::Void | Kind::Attribution => true,
        };
        self.counts.corrupt += u64::from(!is_read);
    }

    fn keep(&mut self, progress: Progress) {
        if let Some(kept) = self.progress.get_mut(&progress.call)
            && kept.as_ref().is_none_or(|kept| kept.sequence <= progress.sequence)
        {
            *kept = Some(progress);
        }
    }

    /// Closes the calls that are open, and makes every segment one that reads as finished.
    pub(super) fn finish(self) -> Result<(Vec<History>, Recovered), OpenError> {
        for repair in &self.repairs {
            crash::point("before-mend");
            let ends = repair.open.iter().map(|(at, intent)| {
                let progress = self.progress.get(&intent.call).and_then(Option::as_ref);
                (*at, Draft::terminal(&recovered(intent, progress, self.now)))
            });
            let mended = mend(repair, ends);
            mended.map_err(|source| OpenError::Io { path: repair.path.clone(), source })?;
            crash::point("after-mend");
        }
        Ok((self.histories, self.counts))
    }
}

/// The end of a call whose process died: charged what its last progress says, or what it was admitted to cost then.
fn recovered(intent: &Intent, progress: Option<&Progress>, now: EpochMs) -> Terminal {
    let (usage, charge, reserved) = match progress {
        Some(progress) => (progress.usage, progress.charge, progress.reserved.max(intent.reserved)),
        None => (Usage::of(intent.input_estimate, 0), intent.recovery_charge, intent.reserved),
    };
    Terminal {
        call: intent.call,
        outcome: Outcome::Recovered,
        estimated: true,
        status: 0,
        error: None,
        provider: intent.provider.clone(),
        price: intent.price,
        tier: Tier::Standard,
        usage,
        reserved,
        charge: charge.max(NanoUsd::ZERO).min(reserved),
        attempts: 0,
        ended: now,
        first_byte_ms: 0,
    }
}

/// Writes the repair and cuts the file after its last record. The marks move only when all below them is on disk.
fn mend(repair: &Repair, ends: impl Iterator<Item = (usize, Draft)>) -> io::Result<()> {
    let file = File::options().write(true).open(&repair.path)?;
    let segment = repair.number;
    for gap in &repair.gaps {
        file.write_all_at(&vec![0; gap.len()], gap.start as u64)?;
        let position = Position { segment, offset: gap.start };
        file.write_all_at(Draft::void(gap.len()).at(position), gap.start as u64)?;
    }
    for (offset, mut terminal) in ends {
        file.write_all_at(terminal.at(Position { segment, offset }), offset as u64)?;
    }
    crash::point("inside-mend");
    file.set_len(repair.finished.end as u64)?;
    file.sync_data()?;
    file.write_all_at(&repair.finished.encode(), BEGUN_AT as u64)?;
    file.sync_data()
}
