//! The event scanner: finds where server-sent events end, whatever the chunks, in bounded memory.
//!
//! Source: WHATWG HTML, "Server-sent events", "Parsing an event stream".

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// An event longer than this is passed on in parts and not read: no figure of usage is near that size.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

/// What to do with the bytes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass them on.
    Relay,
    /// Take them out of the stream.
    Withhold,
}

/// Cuts a byte stream into events. Bytes of an event leave only when the event is complete.
#[derive(Debug, Default)]
pub struct EventScanner {
    /// Bytes of the event that is not complete yet.
    held: BytesMut,
    cursor: Cursor,
    seen_any: bool,
}

/// Where the scan of the unfinished event stands, relative to the buffer's start.
#[derive(Debug, Default)]
struct Cursor {
    /// Everything before was looked at.
    at: usize,
    /// Start of the line that is being read.
    line_start: usize,
    /// Part of that line was passed on before this buffer.
    line_open: bool,
    /// The value of the first `data` line.
    data: Option<(usize, usize)>,
    data_lines: usize,
    /// The event was passed on in parts.
    oversized: bool,
}

impl EventScanner {
    /// Takes the next chunk. `on_event` is called with the data of each event that is complete now, in order, and
    /// says what becomes of it. Returns the bytes that may leave: whole events, or parts of an oversized one.
    pub fn feed(&mut self, chunk: Bytes, on_event: &mut dyn FnMut(&[u8]) -> Verdict) -> Bytes {
        let chunk = if self.seen_any { chunk } else { self.skip_byte_order_mark(chunk) };
        if self.held.is_empty() {
            let (relayed, rest) = self.scan(chunk, on_event);
            self.held.extend_from_slice(&rest);
            return relayed;
        }
        self.held.extend_from_slice(&chunk);
        let buffer = std::mem::take(&mut self.held).freeze();
        let (relayed, rest) = self.scan(buffer, on_event);
        // The common rest is empty or the only owner left, so this is no copy.
        self.held = rest.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        relayed
    }

    /// Takes the end of the stream: an event without its blank line is an event all the same.
    pub fn finish(&mut self, on_event: &mut dyn FnMut(&[u8]) -> Verdict) -> Bytes {
        let buffer = std::mem::take(&mut self.held).freeze();
        let mut cursor = std::mem::take(&mut self.cursor);
        if buffer.is_empty() {
            return buffer;
        }
        let end = buffer.len() - usize::from(buffer.last() == Some(&b'\r'));
        cursor.take_line(&buffer, end);
        match cursor.judge(&buffer, buffer.len(), on_event) {
            Verdict::Relay => buffer,
            Verdict::Withhold => Bytes::new(),
        }
    }

    /// Bytes that wait for the end of their event.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Whether a part of an unfinished event has left already, because the event is oversized.
    #[must_use]
    pub fn is_within_event(&self) -> bool {
        self.cursor.oversized
    }

    fn skip_byte_order_mark(&mut self, chunk: Bytes) -> Bytes {
        // The mark is passed on by nobody's reading; a mark split over chunks is read as part of the first name.
        self.seen_any = !chunk.is_empty();
        if chunk.starts_with(b"\xef\xbb\xbf") {
            self.cursor.line_start = 3;
            self.cursor.at = 3;
        }
        chunk
    }

    fn scan(&mut self, buffer: Bytes, on_event: &mut dyn FnMut(&[u8]) -> Verdict) -> (Bytes, Bytes) {
        let mut kept = Kept::default();
        let mut event_start = 0;
        while let Some((line_end, next)) = next_line(&buffer, self.cursor.at) {
            let blank = !self.cursor.line_open && self.cursor.line_start == line_end;
            self.cursor.take_line(&buffer, line_end);
            self.cursor.at = next;
            self.cursor.line_start = next;
            self.cursor.line_open = false;
            if blank {
                let verdict = self.cursor.judge(&buffer, next, on_event);
                kept.take(&buffer, event_start, next, verdict);
                event_start = next;
                self.cursor = Cursor { at: next, line_start: next, ..Cursor::default() };
            }
        }
        self.cursor.at = self.cursor.at.max(safe_end(&buffer));
        if buffer.len() - event_start > EVENT_BYTES_MAX {
            kept.take(&buffer, event_start, self.cursor.at, Verdict::Relay);
            event_start = self.cursor.at;
            let line_open = self.cursor.line_open || self.cursor.line_start < self.cursor.at;
            self.cursor =
                Cursor { at: event_start, line_start: event_start, line_open, oversized: true, ..Cursor::default() };
        }
        self.cursor.rebase(event_start);
        (kept.into_bytes(&buffer), buffer.slice(event_start..))
    }
}

/// The end of the line at or after `at`, and where the next line begins. A carriage return at the very end of the
/// buffer may be half of a CRLF: it waits.
fn next_line(buffer: &[u8], at: usize) -> Option<(usize, usize)> {
    let end = at + memchr2(b'\n', b'\r', buffer.get(at..)?)?;
    match (buffer[end], buffer.get(end + 1)) {
        (b'\n', _) => Some((end, end + 1)),
        (_, Some(b'\n')) => Some((end, end + 2)),
        (_, Some(_)) => Some((end, end + 1)),
        (_, None) => None,
    }
}

/// Everything before this was looked at; a carriage return at the end was not.
fn safe_end(buffer: &[u8]) -> usize {
    buffer.len() - usize::from(buffer.last() == Some(&b'\r'))
}

impl Cursor {
    fn take_line(&mut self, buffer: &[u8], line_end: usize) {
        if self.line_open || self.line_start >= line_end {
            return;
        }
        let line = &buffer[self.line_start..line_end];
        if let Some(value) = data_value(line) {
            self.data_lines += 1;
            self.data.get_or_insert((line_end - value.len(), line_end));
        }
    }

    /// Shows the event's data to `on_event`. An event without data, or one too large to be read, is passed on.
    fn judge(&self, buffer: &[u8], end: usize, on_event: &mut dyn FnMut(&[u8]) -> Verdict) -> Verdict {
        match (self.oversized, self.data, self.data_lines) {
            (true, ..) | (_, None, _) => Verdict::Relay,
            (_, Some((from, to)), 1) => on_event(&buffer[from..to]),
            (_, Some((from, _)), _) => on_event(&joined_data(&buffer[..end], from)),
        }
    }

    fn rebase(&mut self, start: usize) {
        self.at -= start;
        self.line_start -= start;
        self.data = self.data.map(|(from, to)| (from - start, to - start));
    }
}

fn data_value(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    match value.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => value.is_empty().then_some(value),
    }
}

/// Several data lines are one text with line feeds between them.
fn joined_data(buffer: &[u8], first_value: usize) -> Vec<u8> {
    let mut joined = Vec::new();
    let mut at = first_value;
    let mut first = true;
    while at < buffer.len() {
        let end = memchr2(b'\n', b'\r', &buffer[at..]).map_or(buffer.len(), |offset| at + offset);
        let line = &buffer[at..end];
        if first {
            joined.extend_from_slice(line);
            first = false;
        } else if let Some(value) = data_value(line) {
            joined.push(b'\n');
            joined.extend_from_slice(value);
        }
        at = end + 1;
    }
    joined
}

/// The ranges of a buffer that are passed on, neighbours joined.
#[derive(Default)]
struct Kept {
    first: Option<(usize, usize)>,
    more: Option<BytesMut>,
}

impl Kept {
    fn take(&mut self, buffer: &[u8], from: usize, to: usize, verdict: Verdict) {
        if verdict == Verdict::Withhold || from == to {
            return;
        }
        match (&mut self.first, &mut self.more) {
            (None, _) => self.first = Some((from, to)),
            (Some((_, end)), None) if *end == from => *end = to,
            (Some((start, end)), None) => {
                let mut joined = BytesMut::from(&buffer[*start..*end]);
                joined.extend_from_slice(&buffer[from..to]);
                self.more = Some(joined);
            }
            (Some(_), Some(joined)) => joined.extend_from_slice(&buffer[from..to]),
        }
    }

    fn into_bytes(self, buffer: &Bytes) -> Bytes {
        match (self.more, self.first) {
            (Some(joined), _) => joined.freeze(),
            (None, Some((from, to))) => buffer.slice(from..to),
            (None, None) => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `stream` in pieces cut at `cuts` and returns the data of each event and the bytes that left.
    fn read(stream: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
        let mut scanner = EventScanner::default();
        let (mut events, mut out) = (Vec::new(), Vec::new());
        let mut note = |data: &[u8]| {
            events.push(String::from_utf8_lossy(data).into_owned());
            if data == b"secret" { Verdict::Withhold } else { Verdict::Relay }
        };
        let mut from = 0;
        for to in cuts.iter().copied().chain([stream.len()]) {
            let to = to.clamp(from, stream.len());
            out.extend_from_slice(&scanner.feed(Bytes::copy_from_slice(&stream[from..to]), &mut note));
            from = to;
        }
        out.extend_from_slice(&scanner.finish(&mut note));
        (events, out)
    }

    fn every_cut(stream: &[u8]) -> Vec<usize> {
        (0..=stream.len()).collect()
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        for end in ["\n", "\r\n", "\r"] {
            let stream =
                format!("data: a{end}{end}: note{end}{end}event: x{end}data:b{end}{end}data: [DONE]{end}{end}");
            let expected = vec!["a", "b", "[DONE]"];
            assert_eq!(read(stream.as_bytes(), &[]).0, expected, "{end:?}");
            assert_eq!(read(stream.as_bytes(), &every_cut(stream.as_bytes())).0, expected, "{end:?}");
        }
    }

    #[test]
    fn mixed_line_ends_byte_order_mark_and_missing_last_blank_line() {
        let stream = "\u{feff}data: a\r\n\ndata: b\n\r\ndata: c\r\rdata: d".as_bytes();
        assert_eq!(read(stream, &[]).0, ["a", "b", "c", "d"]);
        assert_eq!(read(stream, &[]).1, stream);
    }

    #[test]
    fn several_data_lines_are_one_text() {
        let stream = b"data: a\nid: 1\ndata: b\ndata\n\ndatabase: x\n\n";
        assert_eq!(read(stream, &[]).0, ["a\nb\n"]);
    }

    #[test]
    fn withheld_events_leave_no_trace() {
        let stream = b"data: a\n\ndata: secret\n\ndata: b\n\ndata: secret\n\n";
        for cuts in [vec![], every_cut(stream), vec![12, 20, 35]] {
            assert_eq!(read(stream, &cuts).1, b"data: a\n\ndata: b\n\n");
        }
    }

    #[test]
    fn bytes_leave_only_with_their_whole_event() {
        let mut scanner = EventScanner::default();
        let mut relay = |_: &[u8]| Verdict::Relay;
        assert_eq!(scanner.feed(Bytes::from_static(b"data: a\n\ndata: [DO"), &mut relay), "data: a\n\n");
        assert_eq!(scanner.feed(Bytes::from_static(b"NE]\n"), &mut relay), "");
        assert_eq!(scanner.feed(Bytes::from_static(b"\n"), &mut relay), "data: [DONE]\n\n");
    }

    #[test]
    fn a_huge_event_passes_in_bounded_memory() {
        let mut scanner = EventScanner::default();
        let mut events = 0;
        let mut count = |_: &[u8]| {
            events += 1;
            Verdict::Relay
        };
        let mut passed = scanner.feed(Bytes::from_static(b"data: "), &mut count).len();
        for _ in 0..1_000 {
            passed += scanner.feed(Bytes::from(vec![b'x'; 10_000]), &mut count).len();
            assert!(scanner.held_bytes() <= EVENT_BYTES_MAX + 10_000);
        }
        passed += scanner.feed(Bytes::from_static(b"\n\ndata: after\n\n"), &mut count).len();
        assert_eq!((passed, events), (6 + 10_000_000 + 15, 1));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events_and_bytes(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "data: x", "data:secret", "data", ": c", "event: e", "id", "é", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "data: {\"a\":1}\n\n",
            ]), 0..40),
            cuts in prop::collection::vec(0usize..400, 0..40),
        ) {
            let stream = pieces.concat().into_bytes();
            let mut cuts = cuts;
            cuts.sort_unstable();
            let whole = read(&stream, &[]);
            prop_assert_eq!(&read(&stream, &cuts), &whole);
            prop_assert_eq!(&read(&stream, &every_cut(&stream)), &whole);
        }
    }
}
