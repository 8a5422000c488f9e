//! What the journal says of itself, for `tollgate audit`: reads the files only, beside a gateway that runs or not.

use super::record::{Header, Kind, Position};
use super::recovery::{read_segment, segments_in};
use super::scan::{End, Item, Scanner};
use super::{Checkpoint, OpenError};
use std::fs::File;
use std::io;
use std::path::Path;

/// Counts over all segments that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalFacts {
    /// Calls that have begun and not ended: running ones, if a gateway runs.
    pub open_intents: u64,
    /// Terminals beyond the first of their call. Always zero, or the journal is wrong.
    pub duplicate_terminals: u64,
    /// Records that were on disk and can't be read now. Always zero, or the disk is wrong.
    pub corrupt_records: u64,
    /// Ended calls and amendments at or above the ledger's checkpoint. Some may be in the ledger all the same: the checkpoint waits for
    /// the oldest open call.
    pub unshipped: u64,
}

/// Reads the journal below `dir`, the gateway's data directory. `checkpoint` is the ledger's for this node.
pub fn facts(dir: &Path, checkpoint: Option<Checkpoint>) -> Result<JournalFacts, OpenError> {
    let dir = super::directory_of(dir);
    let mut facts = JournalFacts::default();
    let mut ended = Vec::new();
    let mut bytes = Vec::new();
    let segments = match segments_in(&dir) {
        Ok(segments) => segments,
        // No gateway was ever started here.
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(facts),
        Err(source) => return Err(OpenError::Io { path: dir, source }),
    };
    for (_, path) in segments {
        let read = File::open(&path).and_then(|mut file| read_segment(&mut file, &mut bytes));
        match read {
            Ok(Ok(header)) => facts.count(&bytes, header.number, checkpoint, &mut ended),
            Ok(Err(flaw)) => return Err(OpenError::Header { path, flaw }),
            // A running gateway has removed it since we asked for the list.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OpenError::Io { path, source }),
        }
    }
    ended.sort_unstable();
    facts.duplicate_terminals = ended.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    Ok(facts)
}

impl JournalFacts {
    fn count(&mut self, bytes: &[u8], segment: u64, checkpoint: Option<Checkpoint>, ended: &mut Vec<u128>) {
        let first_unshipped = checkpoint.map_or(Position { segment: 0, offset: 0 }, Position::from);
        for item in Scanner::new(bytes, segment) {
            match item {
                Item::Call { offset, end: End::Closed(Header { call, .. }), .. } => {
                    ended.push(call.0);
                    self.unshipped += u64::from(Position { segment, offset } >= first_unshipped);
                }
                // What looks torn while a gateway runs is being written.
                Item::Call { end: End::Open | End::Torn, .. } => self.open_intents += 1,
                Item::Call { end: End::Corrupt, .. } | Item::Corrupt(_) => self.corrupt_records += 1,
                Item::Note { offset, note: Header { kind: Kind::Amend, .. } } => {
                    self.unshipped += u64::from(Position { segment, offset } >= first_unshipped);
                }
                Item::Note { .. } | Item::Void | Item::Hole(_) | Item::Torn(_) => {}
            }
        }
    }
}
