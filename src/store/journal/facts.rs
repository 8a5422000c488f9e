//! What the journal says of itself, for `tollgate audit`: reads the files only, beside a gateway that runs or not.

use super::record::{Header, Kind, Position};
use super::recovery::{read_segment, segments_in};
use super::scan::{End, Item, Scanner};
use super::{Checkpoint, HeaderFlaw, OpenError};
use filters::id::CallId;
use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Counts over all segments that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalFacts {
    /// Calls that have begun and not ended: running ones, if a gateway runs.
    pub open_intents: u64,
    /// Terminals beyond the first of their call. Always zero, or the journal is wrong.
    pub duplicate_terminals: u64,
    /// Records that were on disk and can't be read now. Always zero, or the disk is wrong.
    pub corrupt_records: u64,
    /// Ended calls, amendments and claims at or above the ledger's checkpoint. Some may be in the ledger all the same: the checkpoint waits for
    /// the oldest open call.
    pub unshipped: u64,
}

/// Reads the journal below `dir`, the gateway's data directory. `checkpoint` is the ledger's for this node.
pub fn facts(dir: &Path, checkpoint: Option<Checkpoint>) -> Result<JournalFacts, OpenError> {
    let (mut facts, mut ended) = (JournalFacts::default(), Vec::new());
    read_all(dir, |item, segment| facts.count(item, segment, checkpoint, &mut ended))?;
    ended.sort_unstable();
    facts.duplicate_terminals = ended.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    Ok(facts)
}

/// Those of some calls that the journal below `dir` knows, ended or not.
pub fn known(dir: &Path, calls: &BTreeSet<CallId>) -> Result<HashSet<CallId>, OpenError> {
    let mut known = HashSet::new();
    if calls.is_empty() {
        return Ok(known);
    }
    read_all(dir, |item, _| match item {
        Item::Call { intent, .. } if calls.contains(&intent.call) => _ = known.insert(intent.call),
        Item::Call { .. } | Item::Note { .. } | Item::Void | Item::Hole(_) | Item::Torn(_) | Item::Corrupt(_) => {}
        Item::Newer(_) => {}
    })?;
    Ok(known)
}

/// The number of the oldest segment below `dir`, if there is one.
pub fn oldest(dir: &Path) -> Result<Option<u64>, OpenError> {
    Ok(segments(dir)?.first().map(|(number, _)| *number))
}

fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let dir = super::directory_of(dir);
    match segments_in(&dir) {
        Ok(segments) => Ok(segments),
        // No gateway was ever started here.
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(OpenError::Io { path: dir, source }),
    }
}

/// Reads one segment after the other: what is in them, and their numbers.
fn read_all(dir: &Path, mut look: impl FnMut(Item, u64)) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    for (_, path) in segments(dir)? {
        let read = File::open(&path).and_then(|mut file| read_segment(&mut file, &mut bytes));
        match read {
            Ok(Ok(header)) => {
                for item in Scanner::new(&bytes, header.number) {
                    if let Item::Newer(kind) | Item::Call { end: End::Newer(kind), .. } = item {
                        return Err(OpenError::Header { path, flaw: HeaderFlaw::NewerRecord(kind) });
                    }
                    look(item, header.number);
                }
            }
            Ok(Err(flaw)) => return Err(OpenError::Header { path, flaw }),
            // A running gateway has removed it since we asked for the list.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OpenError::Io { path, source }),
        }
    }
    Ok(())
}

impl JournalFacts {
    fn count(&mut self, item: Item, segment: u64, checkpoint: Option<Checkpoint>, ended: &mut Vec<u128>) {
        let first_unshipped = checkpoint.map_or(Position { segment: 0, offset: 0 }, Position::from);
        match item {
            Item::Call { offset, end: End::Closed(Header { call, .. }), .. } => {
                ended.push(call.0);
                self.unshipped += u64::from(Position { segment, offset } >= first_unshipped);
            }
            // What looks torn while a gateway runs is being written.
            Item::Call { end: End::Open | End::Torn, .. } => self.open_intents += 1,
            Item::Call { end: End::Corrupt, .. } | Item::Corrupt(_) => self.corrupt_records += 1,
            Item::Note { offset, note: Header { kind: Kind::Amend | Kind::Claim, .. } } => {
                self.unshipped += u64::from(Position { segment, offset } >= first_unshipped);
            }
            // Whoever reads the segments has refused what is newer.
            Item::Call { end: End::Newer(_), .. } | Item::Newer(_) => {}
            Item::Note { .. } | Item::Void | Item::Hole(_) | Item::Torn(_) => {}
        }
    }
}
