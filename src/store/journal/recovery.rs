//! Before serving: closes the calls that an earlier process left open and makes the gaps that it left readable as gaps.

use super::header::{BEGUN_AT, DATA_START, Header as SegmentHeader, HeaderFlaw, Marks};
use super::record::{self, Draft, Header, Position};
use super::scan::{End, Item, Scanner};
use super::segment::number_of;
use filters::ports::{Intent, Outcome, Terminal};
use filters::price::Tier;
use filters::time::EpochMs;
use filters::usage::Usage;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What recovery found in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Calls whose intent was read, closed ones among them.
    pub calls: u64,
    /// Calls that were open and are now closed as [`Outcome::Recovered`].
    pub recovered: u64,
    /// Records that a crash tore before they were promised to be on disk.
    pub torn: u64,
    /// Records that were on disk and are damaged now.
    pub corrupt: u64,
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
    terminals: Vec<(usize, Draft)>,
    gaps: Vec<Range<usize>>,
    end: usize,
    /// Place and header of the last call.
    last: Option<(usize, Header)>,
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

/// Goes over one segment: reads `bytes`, mends the file, counts. The file ends with its last record afterwards.
pub(super) fn recover(
    path: &Path,
    bytes: &mut Vec<u8>,
    counts: &mut Recovered,
    now: EpochMs,
) -> io::Result<Result<(History, u128), HeaderFlaw>> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let header = match read_segment(&mut file, bytes)? {
        Ok(header) => header,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let repair = examine(bytes, header.number, counts, now);
    let last = repair.last.and_then(|(offset, intent)| record::read_intent(&bytes[offset..], &intent));
    let history = History {
        path: path.to_owned(),
        number: header.number,
        end: repair.end,
        last: last.map_or_else(EpochMs::default, |intent| intent.started),
    };
    let finished = Marks { begun: repair.end, closed: repair.end };
    let is_finished = bytes.len() == repair.end && Marks::decode(bytes) == finished;
    if !is_finished {
        mend(&file, header.number, repair)?;
    }
    Ok(Ok((history, header.node)))
}

fn examine(bytes: &[u8], segment: u64, counts: &mut Recovered, now: EpochMs) -> Repair {
    let mut repair = Repair { terminals: Vec::new(), gaps: Vec::new(), end: DATA_START, last: None };
    let mut scanner = Scanner::new(bytes, segment);
    while let Some(item) = scanner.next() {
        match item {
            Item::Call { offset, intent, end } => {
                counts.calls += 1;
                repair.last = Some((offset, intent));
                repair.close(&bytes[offset..], end, counts, now);
            }
            Item::Note { .. } | Item::Void => {}
            Item::Torn(range) => {
                counts.torn += 1;
                repair.gaps.push(range);
                continue;
            }
            Item::Hole(range) => {
                repair.gaps.push(range);
                continue;
            }
            // It stays as it is: the evidence.
            Item::Corrupt(_) => counts.corrupt += 1,
        }
        repair.end = scanner.past();
    }
    // What is not followed by a record is cut off.
    repair.gaps.retain(|gap| gap.start < repair.end);
    repair
}

impl Repair {
    /// Notes the terminal that the last call needs, if it has none.
    fn close(&mut self, call: &[u8], end: End, counts: &mut Recovered, now: EpochMs) {
        match end {
            End::Closed(_) => return,
            // How it ended is lost; a made-up terminal would hide that.
            End::Corrupt => {
                counts.corrupt += 1;
                return;
            }
            End::Torn => counts.torn += 1,
            End::Open => {}
        }
        let Some((offset, header)) = self.last else { return };
        match record::read_intent(call, &header) {
            Some(intent) => {
                counts.recovered += 1;
                let at = offset + record::slots_bytes(header.length);
                self.terminals.push((at, Draft::terminal(&recovered(&intent, now))));
            }
            None => counts.corrupt += 1,
        }
    }
}

/// The end of a call whose process died: charged what it was admitted to cost when recovered.
fn recovered(intent: &Intent, now: EpochMs) -> Terminal {
    Terminal {
        call: intent.call,
        outcome: Outcome::Recovered,
        estimated: true,
        status: 0,
        error: None,
        provider: intent.provider.clone(),
        price: intent.price,
        tier: Tier::Standard,
        usage: Usage::of(intent.input_estimate, 0),
        charge: intent.recovery_charge,
        attempts: 0,
        ended: now,
        first_byte_ms: 0,
    }
}

/// Writes the repair and cuts the file after its last record. The marks move only when all below them is on disk.
fn mend(file: &File, segment: u64, repair: Repair) -> io::Result<()> {
    for gap in repair.gaps {
        file.write_all_at(&vec![0; gap.len()], gap.start as u64)?;
        let position = Position { segment, offset: gap.start };
        file.write_all_at(Draft::void(gap.len()).at(position), gap.start as u64)?;
    }
    for (offset, mut terminal) in repair.terminals {
        file.write_all_at(terminal.at(Position { segment, offset }), offset as u64)?;
    }
    file.set_len(repair.end as u64)?;
    file.sync_data()?;
    let marks = Marks { begun: repair.end, closed: repair.end };
    file.write_all_at(&marks.encode(), BEGUN_AT as u64)?;
    file.sync_data()
}
