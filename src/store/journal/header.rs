//! The first page of a segment: whose it is, how it is written, and how far it is known to be on disk.
//!
//! ```text
//! 0 magic u64 │ 8 format u32 │ 12 crc u32 of 16..40 │ 16 number u64 │ 24 node u128
//! 64 begun mark │ 72 closed mark │ 80 end mark │ 88 last mark
//! ```
//! A mark is a number and its complement in one word, so that a mark that was damaged is not believed.
//!
//! The format is what a reader has to know. A release reads its own and all before; what is newer it refuses, before it has
//! touched anything. So that one can go back a release, whatever is new in records (a field, a kind, a value of an enumeration)
//! is read by one release and written by the next, which counts the format up. A kind that a reader may do without needs no
//! new format: see [`super::record::Kind::Later`].

use filters::time::EpochMs;

/// The first record lies here.
pub(super) const DATA_START: usize = 4096;
pub(super) const BEGUN_AT: usize = 64;
pub(super) const CLOSED_AT: usize = 72;
pub(super) const END_AT: usize = 80;
pub(super) const LAST_AT: usize = 88;

const MAGIC: [u8; 8] = *b"tollgJrn";
const FORMAT: u32 = 2;
const FIXED_BYTES: usize = 40;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) node: u128,
}

/// How much of a segment was on disk for certain when its header was last written: a record below its mark that can't
/// be read was damaged later; above it, a crash may have torn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// All intents below are on disk.
    pub(super) begun: usize,
    /// All intents below have their terminals on disk too.
    pub(super) closed: usize,
}

/// A segment that has no open call, has all of its records on disk, and will have no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finished {
    /// Where its last record ends.
    pub(super) end: usize,
    /// When its last call began, or later; in whole seconds.
    pub(super) last: EpochMs,
}

/// Why a file can't be read as a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFlaw {
    /// Not what this or an earlier release wrote.
    #[error("its header is damaged; move the file out of the directory to start without it, then run `tollgate audit`")]
    Unreadable,
    /// Written by a later release.
    #[error("its format {0} is newer than this release; start the release that wrote it")]
    Newer(u32),
    /// A later release wrote records into it that this one can't do without.
    #[error("it has a record of kind {0}, which is newer than this release; start the release that wrote it")]
    NewerRecord(u8),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.node.to_le_bytes());
        let crc = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let fixed = bytes.first_chunk::<FIXED_BYTES>().ok_or(HeaderFlaw::Unreadable)?;
        let format = u32::from_le_bytes(field(fixed, 8));
        if fixed[..8] != MAGIC {
            return Err(HeaderFlaw::Unreadable);
        }
        if format > FORMAT {
            return Err(HeaderFlaw::Newer(format));
        }
        if u32::from_le_bytes(field(fixed, 12)) != crc32fast::hash(&fixed[16..]) {
            return Err(HeaderFlaw::Unreadable);
        }
        Ok(Self { number: u64::from_le_bytes(field(fixed, 16)), node: u128::from_le_bytes(field(fixed, 24)) })
    }
}

impl Marks {
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mark = |at| mark_at(bytes, at).map_or(DATA_START, |offset| offset as usize);
        Self { begun: mark(BEGUN_AT), closed: mark(CLOSED_AT) }
    }
}

impl Finished {
    /// What the header says of itself, if it says that the segment is finished and no mark contradicts it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (end, last) = (mark_at(bytes, END_AT)?, mark_at(bytes, LAST_AT)?);
        let end_usize = end as usize;
        let is_all = Marks::decode(bytes) == Marks { begun: end_usize, closed: end_usize };
        is_all.then_some(Self { end: end_usize, last: EpochMs(i64::from(last) * 1_000) })
    }

    /// All four marks as they stand from [`BEGUN_AT`] on.
    pub(super) fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let words = [mark_word(self.end), mark_word(self.end), mark_word(self.end), self.last_word()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The word of [`LAST_AT`]: seconds, rounded up, so that nothing goes too early.
    pub(super) fn last_word(&self) -> u64 {
        mark_word(usize::try_from(self.last.0.max(0) / 1_000 + 1).unwrap_or(usize::MAX))
    }
}

pub(super) fn mark_word(number: usize) -> u64 {
    let number = number as u32;
    u64::from(!number) << 32 | u64::from(number)
}

fn mark_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    let number = word as u32;
    (!number == (word >> 32) as u32).then_some(number)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let header = Header { number: 12, node: u128::MAX - 5 };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let mut newer = header.encode();
        newer[8] = 3;
        assert_eq!(Header::decode(&newer), Err(HeaderFlaw::Newer(3)));
        let mut before = header.encode();
        before[8] = 1;
        assert_eq!(Header::decode(&before), Ok(header));
        for at in [0, 12, 16, 39] {
            let mut damaged = header.encode();
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), Err(HeaderFlaw::Unreadable), "byte {at}");
        }
        assert_eq!(Header::decode(&[]), Err(HeaderFlaw::Unreadable));
    }

    #[test]
    fn a_damaged_mark_promises_nothing() {
        let mut page = [0; DATA_START];
        assert_eq!(Marks::decode(&page), Marks { begun: DATA_START, closed: DATA_START });
        assert_eq!(Finished::decode(&page), None);
        let finished = Finished { end: 8192, last: EpochMs(1_700_000_000_999) };
        page[BEGUN_AT..BEGUN_AT + 32].copy_from_slice(&finished.encode());
        assert_eq!(Marks::decode(&page), Marks { begun: 8192, closed: 8192 });
        let read = Finished::decode(&page).expect("finished");
        assert_eq!(read, Finished { last: EpochMs(1_700_000_001_000), ..finished });
        for at in [BEGUN_AT, CLOSED_AT, END_AT, LAST_AT] {
            let mut damaged = page;
            damaged[at + 1] ^= 4;
            assert_eq!(Finished::decode(&damaged), None, "byte {at}");
        }
        page[BEGUN_AT..BEGUN_AT + 8].copy_from_slice(&mark_word(4160).to_le_bytes());
        assert_eq!(Finished::decode(&page), None, "not all of it is on disk");
    }
}
