//! The length of Ogg files.

use super::{as_ms, little_endian};

/// Streams of one file; with more it counts as unreadable.
const STREAMS_MAX: usize = 64;

/// A logical stream.
struct Stream {
    serial: u64,
    /// Positions in a second.
    rate: u64,
    /// Positions before the first that is heard.
    skipped: u64,
    last: u64,
}

/// The sum of the streams: chained ones follow each other.
pub(super) fn length_ms(file: &[u8]) -> Option<u64> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut rest = file;
    while let Some(Page { serial, position, body, after }) = Page::read(rest) {
        let known = streams.iter_mut().rev().find(|stream| stream.serial == serial);
        match known {
            // -1: no packet ends on this page.
            Some(stream) if position != u64::MAX => stream.last = stream.last.max(position),
            Some(_) => {}
            None => streams.extend(beginning(serial, body)),
        }
        if streams.len() > STREAMS_MAX {
            return None;
        }
        rest = after;
    }
    let length = |stream: &Stream| as_ms(stream.last.saturating_sub(stream.skipped), stream.rate);
    streams.iter().map(length).reduce(u64::saturating_add)
}

/// The stream that a first packet begins, if it is one of sounds.
fn beginning(serial: u64, packet: &[u8]) -> Option<Stream> {
    if let Some(head) = packet.strip_prefix(b"OpusHead") {
        // Opus counts in 48 kHz whatever it was recorded at.
        return Some(Stream { serial, rate: 48_000, skipped: little_endian(head.get(2..4)?), last: 0 });
    }
    let rate = if let Some(head) = packet.strip_prefix(b"\x01vorbis") {
        little_endian(head.get(5..9)?)
    } else {
        // "Ogg FLAC mapping": the native header follows after nine bytes.
        let info = packet.strip_prefix(b"\x7FFLAC")?.get(4..)?.strip_prefix(b"fLaC")?.get(4..)?;
        super::big_endian(info.get(10..13)?) >> 4
    };
    (rate > 0).then_some(Stream { serial, rate, skipped: 0, last: 0 })
}

struct Page<'a> {
    serial: u64,
    position: u64,
    body: &'a [u8],
    after: &'a [u8],
}

impl<'a> Page<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.get(..27).filter(|head| head.starts_with(b"OggS"))?;
        let lengths = bytes.get(27..27 + usize::from(head[26]))?;
        let body = bytes.get(27 + lengths.len()..)?;
        let length = lengths.iter().map(|length| usize::from(*length)).sum::<usize>().min(body.len());
        let (body, after) = body.split_at(length);
        Some(Self { serial: little_endian(&head[14..18]), position: little_endian(&head[6..14]), body, after })
    }
}
