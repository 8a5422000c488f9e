//! The event scanner: finds where server-sent events end, whatever the chunks, in bounded memory.
//!
//! Source: WHATWG HTML, "Server-sent events", "Parsing an event stream".

mod large;

use bytes::{Bytes, BytesMut};
use large::LargeEvent;
use memchr::memchr2;

/// An event longer than this is passed on and shown in parts.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The data of an event, as far as it is shown at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// A part of an event that is too large to be held; [`Data::End`] follows the last one.
    Part(&'a [u8]),
    /// The end of an event that was shown in parts.
    End,
}

/// What to do with the bytes of an event. Those of a part have no choice but to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass them on.
    Relay,
    /// Take them out of the stream.
    Withhold,
    /// Keep them back until another event or the end of the stream comes.
    Hold,
}

/// Who is shown the data of each event.
pub type OnEvent<'a> = dyn FnMut(Data<'_>) -> Verdict + 'a;

/// Cuts a byte stream into events. Bytes of an event leave only when the event is complete.
#[derive(Debug, Default)]
pub struct EventScanner {
    /// Bytes that have not left: an event that is kept back, and the one that is not complete yet.
    held: BytesMut,
    /// Where the event that is kept back ends.
    kept_back: Option<usize>,
    cursor: Cursor,
    large: Option<Box<LargeEvent>>,
    /// The first line, which may begin with a byte order mark, has been read.
    has_line: bool,
}

/// Where the scan of the unfinished event stands, relative to the buffer's start.
#[derive(Debug, Default)]
struct Cursor {
    /// Everything before was looked at.
    at: usize,
    /// Start of the line that is being read.
    line_start: usize,
    /// The value of the first `data` line.
    data: Option<(usize, usize)>,
    data_lines: usize,
}

impl EventScanner {
    /// Takes the next chunk. `on_event` is called with the data of each event that is complete now, in order, and
    /// says what becomes of it. Returns the bytes that may leave: whole events, or parts of a large one.
    pub fn feed(&mut self, chunk: Bytes, on_event: &mut OnEvent<'_>) -> Bytes {
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
    pub fn finish(&mut self, on_event: &mut OnEvent<'_>) -> Bytes {
        let mut buffer = std::mem::take(&mut self.held).freeze();
        let mut cursor = std::mem::take(&mut self.cursor);
        let begin = self.kept_back.take().unwrap_or(0);
        if let Some(mut large) = self.large.take() {
            large.finish(&buffer[begin..], on_event);
            return buffer;
        }
        let end = buffer.len() - usize::from(buffer.last() == Some(&b'\r'));
        cursor.take_line(&buffer, end, !self.has_line);
        if cursor.judge(&buffer, buffer.len(), on_event) == Some(Verdict::Withhold) {
            buffer.truncate(begin);
        }
        buffer
    }

    /// Bytes that wait for the end of their event.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Whether a part of an unfinished event has left already, because the event is large.
    #[must_use]
    pub fn is_within_event(&self) -> bool {
        self.large.is_some()
    }

    fn scan(&mut self, buffer: Bytes, on_event: &mut OnEvent<'_>) -> (Bytes, Bytes) {
        let mut passage = Passage { start: 0, begin: self.kept_back.unwrap_or(0), kept: Kept::default() };
        self.scan_large(&buffer, &mut passage, on_event);
        while self.large.is_none()
            && let Some((line_end, next)) = next_line(&buffer, self.cursor.at)
        {
            let blank = self.cursor.line_start == line_end;
            self.cursor.take_line(&buffer, line_end, !self.has_line);
            self.has_line = true;
            self.cursor.at = next;
            self.cursor.line_start = next;
            if blank {
                let verdict = self.cursor.judge(&buffer, next, on_event);
                passage.take(&buffer, next, verdict);
                self.cursor = Cursor { at: next, line_start: next, ..Cursor::default() };
            }
        }
        if self.large.is_none() && buffer.len() - passage.begin > EVENT_BYTES_MAX {
            passage.take(&buffer, passage.begin, Some(Verdict::Relay));
            self.large = Some(Box::new(LargeEvent::new(!self.has_line)));
            self.has_line = true;
            self.cursor = Cursor { at: passage.begin, ..Cursor::default() };
            self.scan_large(&buffer, &mut passage, on_event);
        }
        if self.large.is_none() {
            self.cursor.at = self.cursor.at.max(safe_end(&buffer));
        }
        self.cursor.rebase(passage.start);
        self.kept_back = (passage.begin > passage.start).then(|| passage.begin - passage.start);
        (passage.kept.into_bytes(&buffer), buffer.slice(passage.start..))
    }

    /// Reads on in a large event, if the stream stands in one.
    fn scan_large(&mut self, buffer: &[u8], passage: &mut Passage, on_event: &mut OnEvent<'_>) {
        let Some(large) = &mut self.large else { return };
        let (next, verdict) = large.read(buffer, passage.begin, on_event);
        passage.take(buffer, next, Some(verdict.unwrap_or(Verdict::Relay)));
        self.cursor = Cursor { at: next, line_start: next, ..Cursor::default() };
        if verdict.is_some() {
            self.large = None;
        }
    }
}

/// What of a buffer leaves.
struct Passage {
    /// Everything before has left or was taken out.
    start: usize,
    /// Where the event that is being read begins; what is between is kept back.
    begin: usize,
    kept: Kept,
}

impl Passage {
    /// The event that is being read ends at `next`. Without a verdict it was none: it shares what becomes of what is kept
    /// back.
    fn take(&mut self, buffer: &[u8], next: usize, verdict: Option<Verdict>) {
        let is_keeping = self.begin > self.start;
        match verdict {
            None if is_keeping => {}
            None | Some(Verdict::Relay) => {
                self.kept.take(buffer, self.start, next);
                self.start = next;
            }
            Some(Verdict::Withhold) => {
                self.kept.take(buffer, self.start, self.begin);
                self.start = next;
            }
            Some(Verdict::Hold) => {
                self.kept.take(buffer, self.start, self.begin);
                self.start = self.begin;
            }
        }
        self.begin = next;
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
    fn take_line(&mut self, buffer: &[u8], line_end: usize, is_first: bool) {
        if self.line_start >= line_end {
            return;
        }
        let line = &buffer[self.line_start..line_end];
        let line = if is_first { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
        if let Some(value) = data_value(line) {
            self.data_lines += 1;
            self.data.get_or_insert((line_end - value.len(), line_end));
        }
    }

    /// Shows the event's data, if it has any, to `on_event`.
    fn judge(&self, buffer: &[u8], end: usize, on_event: &mut OnEvent<'_>) -> Option<Verdict> {
        let (from, to) = self.data?;
        if self.data_lines == 1 {
            return Some(on_event(Data::Whole(&buffer[from..to])));
        }
        Some(on_event(Data::Whole(&joined_data(&buffer[..end], from))))
    }

    fn rebase(&mut self, start: usize) {
        self.at -= start;
        self.line_start = self.line_start.saturating_sub(start);
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
    fn take(&mut self, buffer: &[u8], from: usize, to: usize) {
        if from == to {
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
mod tests;
