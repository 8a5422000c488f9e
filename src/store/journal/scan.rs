//! Looks at every slot of a segment's bytes and says what each is, trusting nothing: how recovery and audit read.

use super::header::{DATA_START, Marks};
use super::record::{self, Flaw, Header, Kind, Position, SLOT_BYTES};
use std::ops::Range;

/// A stretch of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A call: its intent's header and what stands where its terminal belongs.
    Call { offset: usize, intent: Header, end: End },
    /// A record that stands alone.
    Note { offset: usize, note: Header },
    /// Recovery has been here before.
    Void,
    /// Nothing was ever written here.
    Hole(Range<usize>),
    /// A crash tore it: it had not been promised to be on disk.
    Torn(Range<usize>),
    /// It was on disk, and is damaged now.
    Corrupt(Range<usize>),
    /// A record that only a later release can read.
    Newer(u8),
}

/// What stands where a terminal belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed(Header),
    Open,
    Torn,
    Corrupt,
    Newer(u8),
}

/// Goes over a segment from its first record to its last byte.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    segment: u64,
    marks: Marks,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bad {
    Hole,
    Torn,
    Corrupt,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], segment: u64) -> Self {
        Self { bytes, segment, marks: Marks::decode(bytes), at: DATA_START }
    }

    /// Where the item that was given last ends.
    pub(super) fn past(&self) -> usize {
        self.at.min(self.bytes.len())
    }

    fn check(&self, at: usize) -> Result<Header, Flaw> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        record::check(rest, Position { segment: self.segment, offset: at })
    }

    fn end_of(&self, offset: usize, intent: &Header) -> End {
        let terminal_at = offset + record::slots_bytes(intent.length);
        match self.check(terminal_at) {
            Ok(header) if header.kind == Kind::Terminal && header.call == intent.call => End::Closed(header),
            Err(Flaw::Newer(kind)) => End::Newer(kind),
            _ if offset < self.marks.closed => End::Corrupt,
            Err(Flaw::Empty) => End::Open,
            Ok(_) | Err(Flaw::Broken) => End::Torn,
        }
    }

    /// The record at `at`, if something may begin with it, and where the next may begin. A terminal or an attribution never comes
    /// first: one that stands alone belongs to an intent that can't be read, and to the damage.
    fn good(&self, at: usize) -> Option<(Item, usize)> {
        let header = match self.check(at) {
            Ok(header) => header,
            Err(Flaw::Newer(kind)) => return Some((Item::Newer(kind), at + SLOT_BYTES)),
            Err(Flaw::Empty | Flaw::Broken) => return None,
        };
        let past = at + header.room.max(record::slots_bytes(header.length));
        match header.kind {
            Kind::Intent => Some((Item::Call { offset: at, intent: header, end: self.end_of(at, &header) }, past)),
            Kind::Progress | Kind::Attempt | Kind::Amend | Kind::Claim | Kind::Later => {
                Some((Item::Note { offset: at, note: header }, past))
            }
            Kind::Void => Some((Item::Void, past)),
            Kind::Terminal | Kind::Attribution => None,
        }
    }

    fn bad(&self, at: usize) -> Bad {
        let slot = &self.bytes[at..at + SLOT_BYTES];
        if at < self.marks.begun {
            // Below the mark no gap is left: what was not written was made void.
            Bad::Corrupt
        } else if slot.iter().all(|byte| *byte == 0) {
            Bad::Hole
        } else {
            Bad::Torn
        }
    }
}

impl Iterator for Scanner<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let start = self.at;
        if start + SLOT_BYTES > self.bytes.len() {
            return None;
        }
        if let Some((item, next)) = self.good(start) {
            self.at = next;
            return Some(item);
        }
        let bad = self.bad(start);
        self.at += SLOT_BYTES;
        while self.at + SLOT_BYTES <= self.bytes.len() && self.bad(self.at) == bad && self.good(self.at).is_none() {
            self.at += SLOT_BYTES;
        }
        let range = start..self.at;
        Some(match bad {
            Bad::Hole => Item::Hole(range),
            Bad::Torn => Item::Torn(range),
            Bad::Corrupt => Item::Corrupt(range),
        })
    }
}
