//! The meter of a stream that is one JSON array, its chunks the elements: Gemini without `alt=sse`.

use super::Seen;
use crate::answer_scan::AnswerScanner;
use crate::dialect::{Cut, Event, gemini};
use crate::sse::EVENT_BYTES_MAX;
use crate::tally::Tally;
use bytes::{Bytes, BytesMut};

/// A stream of elements. Each byte leaves as it comes, but for those from the end of the last element on.
#[derive(Debug)]
pub(super) struct Elements {
    scanner: AnswerScanner,
    stream: gemini::Stream,
    has_begun: bool,
    /// From the closing brace of the element that says that it is the last.
    held: BytesMut,
    seen: Seen,
}

impl Default for Elements {
    fn default() -> Self {
        Self {
            scanner: AnswerScanner::new(gemini::WANTED),
            stream: gemini::Stream::default(),
            has_begun: false,
            held: BytesMut::new(),
            seen: Seen::default(),
        }
    }
}

impl Elements {
    pub(super) fn feed(&mut self, chunk: Bytes, tally: &mut Tally) -> Bytes {
        self.has_begun |= !chunk.is_empty();
        let mut from = 0;
        // Where the bytes begin that wait, before the chunk if that is none of its.
        let mut waits = self.seen.closing.then_some(None);
        while let Some(end) = self.scanner.feed_element(&chunk, from) {
            let event = self.stream.note(&self.scanner.take_found(), tally);
            self.seen.note(event);
            waits = (event == Event::Closing).then_some(Some(end - 1));
            from = end;
        }
        let at = match waits {
            None => chunk.len(),
            Some(Some(at)) => at,
            Some(None) if self.held.len() + chunk.len() > EVENT_BYTES_MAX => chunk.len(),
            Some(None) => {
                self.held.extend_from_slice(&chunk);
                return Bytes::new();
            }
        };
        let out = if self.held.is_empty() {
            chunk.slice(..at)
        } else {
            self.held.extend_from_slice(&chunk[..at]);
            std::mem::take(&mut self.held).freeze()
        };
        self.held.extend_from_slice(&chunk[at..]);
        out
    }

    pub(super) fn finish(&mut self, tally: &mut Tally) -> Bytes {
        if !self.seen.any && self.has_begun {
            // It was no array.
            let event = self.stream.note(self.scanner.found(), tally);
            self.seen.note(event);
        }
        self.seen.finished |= self.seen.closing;
        std::mem::take(&mut self.held).freeze()
    }

    pub(super) fn can_be_cut(&self) -> bool {
        !self.has_begun || self.scanner.is_between_elements()
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        let before = if self.has_begun { ",\r\n" } else { "[" };
        format!("{before}{}\n]", self.stream.last_chunk(cut)).into_bytes()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held.len()
    }
}
