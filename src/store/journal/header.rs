//! The first page of a segment: whose it is, how it is written, and how far it is known to be on disk.
//!
//! ```text
//! 0 magic u64 │ 8 format u32 │ 12 crc u32 of 16..40 │ 16 number u64 │ 24 node u128 │ 64 begun mark │ 72 closed mark
//! ```
//! A mark is an offset and its complement in one word, so that a mark that was damaged is not believed.

/// The first record lies here.
pub(super) const DATA_START: usize = 4096;
pub(super) const BEGUN_AT: usize = 64;
pub(super) const CLOSED_AT: usize = 72;

const MAGIC: [u8; 8] = *b"tollgJrn";
const FORMAT: u32 = 1;
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

/// Why a file can't be read as a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFlaw {
    /// Not what this or an earlier release wrote.
    #[error("its header is damaged; move the file out of the directory to start without it, then run `tollgate audit`")]
    Unreadable,
    /// Written by a later release.
    #[error("its format {0} is newer than this release; start the release that wrote it")]
    Newer(u32),
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
        let mark = |at: usize| match bytes.get(at..at + 8) {
            Some(word) => mark_of(u64::from_le_bytes(field(word, 0))),
            None => DATA_START,
        };
        Self { begun: mark(BEGUN_AT), closed: mark(CLOSED_AT) }
    }

    /// Both words as they stand from [`BEGUN_AT`] on.
    pub(super) fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&mark_word(self.begun).to_le_bytes());
        bytes[8..].copy_from_slice(&mark_word(self.closed).to_le_bytes());
        bytes
    }
}

pub(super) fn mark_word(offset: usize) -> u64 {
    let offset = offset as u32;
    u64::from(!offset) << 32 | u64::from(offset)
}

fn mark_of(word: u64) -> usize {
    let offset = word as u32;
    if !offset == (word >> 32) as u32 { offset as usize } else { DATA_START }
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
        newer[8] = 2;
        assert_eq!(Header::decode(&newer), Err(HeaderFlaw::Newer(2)));
        for at in [0, 12, 16, 39] {
            let mut damaged = header.encode();
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), Err(HeaderFlaw::Unreadable), "byte {at}");
        }
        assert_eq!(Header::decode(&[]), Err(HeaderFlaw::Unreadable));
    }

    #[test]
    fn a_damaged_mark_promises_nothing() {
        let marks = Marks { begun: 8192, closed: 4160 };
        let mut page = [0; DATA_START];
        assert_eq!(Marks::decode(&page), Marks { begun: DATA_START, closed: DATA_START });
        page[BEGUN_AT..BEGUN_AT + 16].copy_from_slice(&marks.encode());
        assert_eq!(Marks::decode(&page), marks);
        page[BEGUN_AT + 1] ^= 4;
        assert_eq!(Marks::decode(&page), Marks { begun: DATA_START, ..marks });
    }
}
