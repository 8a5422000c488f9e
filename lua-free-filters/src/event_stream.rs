//! The frame scanner: reads Amazon's binary event streams, whatever the chunks, in bounded memory.
//!
//! Source: AWS, "Event stream encoding" (`application/vnd.amazon.eventstream`): total length, headers' length and their
//! CRC-32, the headers, the payload, and a CRC-32 of all before it. Numbers are big-endian.

use crate::sse::Data;
use bytes::{Bytes, BytesMut};

/// A frame longer than this is passed on and shown in parts.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// The lengths and their checksum.
const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// The longest frame and the longest headers that the encoding allows.
const TOTAL_BYTES_MAX: usize = 24 * 1024 * 1024;
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// The type of a header's value that is text.
const TEXT: u8 = 7;

/// What a frame says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameKind {
    /// Its `:event-type` or `:exception-type`.
    pub name: String,
    /// Whether it reports a failure.
    pub is_error: bool,
}

/// Who is shown each frame; says whether it passes.
pub type OnFrame<'a> = dyn FnMut(&FrameKind, Data<'_>) -> bool + 'a;

/// Cuts a byte stream into frames. Bytes of a frame leave only when the frame is complete, unless it is a large one.
#[derive(Debug, Default)]
pub struct FrameScanner {
    held: BytesMut,
    large: Option<LargeFrame>,
    is_broken: bool,
}

/// A frame that is too large to be held, as far as it has come.
#[derive(Debug)]
struct LargeFrame {
    kind: FrameKind,
    /// Bytes of the payload that are to come.
    payload_left: usize,
    checksum: crc32fast::Hasher,
}

/// Lengths that a prelude gives.
struct Prelude {
    total: usize,
    headers: usize,
}

impl FrameScanner {
    /// Takes the next chunk. `on_frame` is shown each frame that is complete now, in order. Returns the bytes that may
    /// leave. A stream that is no event stream is passed on unread.
    pub fn feed(&mut self, chunk: Bytes, on_frame: &mut OnFrame<'_>) -> Bytes {
        let mut buffer = std::mem::take(&mut self.held);
        buffer.extend_from_slice(&chunk);
        let mut out = BytesMut::new();
        while !self.is_broken
            && let Some(bytes) = self.next(&mut buffer, on_frame)
        {
            out.extend_from_slice(&bytes);
        }
        if self.is_broken {
            out.extend_from_slice(&buffer);
        } else {
            self.held = buffer;
        }
        out.freeze()
    }

    /// Takes the end of the stream: half a frame is passed on unread.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held).freeze()
    }

    /// Bytes that wait for the end of their frame.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Whether a part of an unfinished frame has left already, or nothing can be said of the stream.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        self.large.is_some() || self.is_broken
    }

    /// The next bytes that may leave.
    fn next(&mut self, buffer: &mut BytesMut, on_frame: &mut OnFrame<'_>) -> Option<BytesMut> {
        if let Some(large) = self.large.take() {
            return self.read_large(large, buffer, on_frame);
        }
        let prelude = Prelude::read(buffer.get(..PRELUDE_BYTES)?).or_else(|| {
            self.is_broken = true;
            None
        })?;
        let payload_from = PRELUDE_BYTES + prelude.headers;
        if prelude.total > FRAME_BYTES_MAX {
            let kind = FrameKind::read(buffer.get(PRELUDE_BYTES..payload_from)?);
            let head = buffer.split_to(payload_from);
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(&head);
            let payload_left = prelude.total - payload_from - CHECKSUM_BYTES;
            self.large = Some(LargeFrame { kind, payload_left, checksum });
            return Some(head);
        }
        if buffer.len() < prelude.total {
            return None;
        }
        let frame = buffer.split_to(prelude.total);
        let (content, checksum) = frame.split_at(prelude.total - CHECKSUM_BYTES);
        if number(checksum) != Some(crc32fast::hash(content)) {
            self.is_broken = true;
            return Some(frame);
        }
        let kind = FrameKind::read(&content[PRELUDE_BYTES..payload_from]);
        let passes = on_frame(&kind, Data::Whole(&content[payload_from..]));
        Some(if passes { frame } else { BytesMut::new() })
    }

    fn read_large(
        &mut self,
        mut large: LargeFrame,
        buffer: &mut BytesMut,
        on_frame: &mut OnFrame<'_>,
    ) -> Option<BytesMut> {
        if large.payload_left > 0 {
            let part = buffer.split_to(large.payload_left.min(buffer.len()));
            large.payload_left -= part.len();
            large.checksum.update(&part);
            on_frame(&large.kind, Data::Part(&part));
            self.large = Some(large);
            return (!part.is_empty()).then_some(part);
        }
        if buffer.len() < CHECKSUM_BYTES {
            self.large = Some(large);
            return None;
        }
        let checksum = buffer.split_to(CHECKSUM_BYTES);
        self.is_broken = number(&checksum) != Some(large.checksum.finalize());
        if !self.is_broken {
            on_frame(&large.kind, Data::End);
        }
        Some(checksum)
    }
}

impl Prelude {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (lengths, checksum) = bytes.split_at_checked(PRELUDE_BYTES - CHECKSUM_BYTES)?;
        let (total, headers) = (number(&lengths[..4])? as usize, number(&lengths[4..])? as usize);
        let is_sound = number(checksum)? == crc32fast::hash(lengths)
            && total <= TOTAL_BYTES_MAX
            && headers <= HEADERS_BYTES_MAX
            && total >= PRELUDE_BYTES + headers + CHECKSUM_BYTES;
        is_sound.then_some(Self { total, headers })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

impl FrameKind {
    /// Reads a frame's headers as far as they are text: what comes behind another type is not read.
    fn read(headers: &[u8]) -> Self {
        let mut kind = Self::default();
        let mut rest = headers;
        while let Some((name, value, after)) = text_header(rest) {
            match name {
                b":event-type" | b":exception-type" | b":error-code" => {
                    kind.name = String::from_utf8_lossy(value).into_owned()
                }
                b":message-type" => kind.is_error = matches!(value, b"exception" | b"error"),
                _ => {}
            }
            rest = after;
        }
        kind
    }
}

/// The first header's name and value, and what comes behind it.
fn text_header(headers: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = headers.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (kind, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    (*kind == TEXT).then_some((name, value, rest))
}

/// The frame of an event: its type and its payload, which is JSON.
#[must_use]
pub fn event_frame(event_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in
        [(":event-type", event_type), (":content-type", "application/json"), (":message-type", "event")]
    {
        headers.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        headers.extend_from_slice(name.as_bytes());
        headers.push(TEXT);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let total = PRELUDE_BYTES + headers.len() + payload.len() + CHECKSUM_BYTES;
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&u32::try_from(total).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The frames' names and payloads, those shown in parts joined, and the bytes that left.
    fn read(stream: &[u8], step: usize) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
        let mut scanner = FrameScanner::default();
        let (mut frames, mut parts, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in stream.chunks(step) {
            let left = scanner.feed(Bytes::copy_from_slice(chunk), &mut |kind, data| {
                match data {
                    Data::Whole(payload) => frames.push((kind.name.clone(), payload.to_vec())),
                    Data::Part(part) => parts.extend_from_slice(part),
                    Data::End => frames.push((kind.name.clone(), std::mem::take(&mut parts))),
                }
                kind.name != "secret"
            });
            assert!(scanner.held_bytes() <= FRAME_BYTES_MAX);
            out.extend_from_slice(&left);
        }
        out.extend_from_slice(&scanner.finish());
        (frames, out)
    }

    #[test]
    fn the_checksum_is_the_one_of_the_encoding() {
        // AWS, "Event stream encoding", and every CRC-32 of IEEE 802.3.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn frames_are_read_whole_or_in_parts() {
        let large = vec![b'x'; 3 * FRAME_BYTES_MAX];
        let stream =
            [event_frame("a", b"{}"), event_frame("secret", b"s"), event_frame("b", &large), event_frame("c", b"")]
                .concat();
        let shown = [event_frame("a", b"{}"), event_frame("b", &large), event_frame("c", b"")].concat();
        for step in [1_000, 40_000, stream.len()] {
            let (frames, out) = read(&stream, step);
            let names: Vec<_> = frames.iter().map(|(name, payload)| (name.as_str(), payload.len())).collect();
            assert_eq!(names, [("a", 2), ("secret", 1), ("b", large.len()), ("c", 0)], "{step}");
            assert!(out == shown, "{step}");
        }
    }

    #[test]
    fn damaged_streams_are_passed_on_unread() {
        let sound = [event_frame("a", b"{}"), event_frame("b", b"{}")].concat();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x40;
            for step in [1, damaged.len()] {
                let (frames, out) = read(&damaged, step);
                assert!(frames.len() < 2, "{at}");
                assert!(out == damaged, "{at}");
            }
        }
        let mut large = event_frame("a", &vec![b'x'; 2 * FRAME_BYTES_MAX]);
        large[FRAME_BYTES_MAX] ^= 1;
        assert_eq!(read(&large, 1_000).0, []);
    }

    #[test]
    fn exceptions_are_failures() {
        let mut failures = Vec::new();
        // An exception's headers, as the runtime writes them.
        let frame = event_frame("x", b"{}");
        let text = frame.windows(5).position(|window| window == b"event").expect("a name");
        assert_eq!(&frame[text - 2..text], [b'\x0b', b':']);
        let kind = FrameKind::read(
            b"\x0d:message-type\x07\x00\x09exception\x0f:exception-type\x07\x00\x13throttlingException",
        );
        failures.push((kind.name, kind.is_error));
        assert_eq!(failures, [("throttlingException".to_owned(), true)]);
    }

    proptest! {
        #[test]
        fn any_bytes_pass_and_any_chunks_read_alike(
            pieces in prop::collection::vec(prop::sample::select(vec![event_frame("a", b"{\"x\":1}"), event_frame("b", b""), vec![0; 3], b"text".to_vec()]), 0..6),
            step in 1usize..40,
        ) {
            let stream = pieces.concat();
            let whole = read(&stream, stream.len().max(1));
            prop_assert_eq!(&whole.1, &stream);
            prop_assert_eq!(read(&stream, step), whole);
        }
    }
}
