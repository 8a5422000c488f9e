//! The meters of streams that are cut into events or frames.

use super::Seen;
use crate::answer_scan::AnswerScanner;
use crate::dialect::{Cut, Event, FrameStream, Stream};
use crate::event_stream::{FrameKind, FrameScanner};
use crate::sse::{Data, EventScanner, Verdict};
use crate::tally::Tally;
use bytes::Bytes;

/// A stream of server-sent events.
#[derive(Debug)]
pub(super) struct Events {
    scanner: EventScanner,
    reader: EventReader,
}

#[derive(Debug)]
struct EventReader {
    stream: Stream,
    /// The event that is too large to be held, if the stream is in one.
    large: Option<Box<AnswerScanner>>,
    withhold_usage: bool,
    seen: Seen,
}

impl Events {
    pub(super) fn new(stream: Stream, withhold_usage: bool) -> Self {
        let reader = EventReader { stream, large: None, withhold_usage, seen: Seen::default() };
        Self { scanner: EventScanner::default(), reader }
    }

    pub(super) fn feed(&mut self, chunk: Bytes, tally: &mut Tally) -> Bytes {
        if self.reader.seen.finished {
            return Bytes::new();
        }
        self.scanner.feed(chunk, &mut |data| self.reader.read(data, tally))
    }

    pub(super) fn finish(&mut self, tally: &mut Tally) -> Bytes {
        let out = self.scanner.finish(&mut |data| self.reader.read(data, tally));
        self.reader.seen.finished |= self.reader.seen.closing;
        out
    }

    pub(super) fn can_be_cut(&self) -> bool {
        self.reader.stream.can_be_cut() && !self.scanner.is_within_event()
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        self.reader.stream.cut(cut)
    }

    pub(super) fn seen(&self) -> Seen {
        self.reader.seen
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.scanner.held_bytes()
    }
}

impl EventReader {
    fn read(&mut self, data: Data<'_>, tally: &mut Tally) -> Verdict {
        if self.seen.finished {
            // The call is settled before its last event leaves, so nothing after it may count or pass.
            return Verdict::Withhold;
        }
        let event = match data {
            Data::Whole(data) => self.stream.read(data, tally),
            Data::Part(part) => {
                let wanted = self.stream.wanted();
                self.large.get_or_insert_with(|| Box::new(AnswerScanner::new(wanted))).feed(part);
                return Verdict::Relay;
            }
            Data::End => match self.large.take() {
                Some(large) => self.stream.note(large.found(), tally),
                None => return Verdict::Relay,
            },
        };
        self.seen.note(event);
        match event {
            Event::UsageOnly if self.withhold_usage && data != Data::End => Verdict::Withhold,
            Event::Closing => Verdict::Hold,
            Event::Ordinary | Event::UsageOnly | Event::Final | Event::Error => Verdict::Relay,
        }
    }
}

impl Seen {
    /// Notes what the next event is.
    pub(super) fn note(&mut self, event: Event) {
        let first = !self.any;
        self.any = true;
        // What follows shows that the last event was not the last.
        self.closing = false;
        match event {
            Event::Ordinary | Event::UsageOnly => {}
            Event::Final => self.finished = true,
            Event::Closing => self.closing = true,
            Event::Error => {
                self.error = true;
                self.error_first |= first;
            }
        }
    }
}

/// A stream of binary frames.
#[derive(Debug)]
pub(super) struct Frames {
    scanner: FrameScanner,
    reader: FrameReader,
}

#[derive(Debug)]
struct FrameReader {
    stream: FrameStream,
    /// The frame that is too large to be held, if the stream is in one.
    large: Option<Box<AnswerScanner>>,
    seen: Seen,
}

impl Frames {
    pub(super) fn new(stream: FrameStream) -> Self {
        let reader = FrameReader { stream, large: None, seen: Seen::default() };
        Self { scanner: FrameScanner::default(), reader }
    }

    pub(super) fn feed(&mut self, chunk: Bytes, tally: &mut Tally) -> Bytes {
        if self.reader.seen.finished {
            return Bytes::new();
        }
        self.scanner.feed(chunk, &mut |kind, data| self.reader.read(kind, data, tally))
    }

    pub(super) fn finish(&mut self) -> Bytes {
        self.scanner.finish()
    }

    pub(super) fn can_be_cut(&self) -> bool {
        self.reader.stream.can_be_cut() && !self.scanner.is_within_frame()
    }

    pub(super) fn cut(&self, cut: &Cut<'_>) -> Vec<u8> {
        self.reader.stream.cut(cut)
    }

    pub(super) fn seen(&self) -> Seen {
        self.reader.seen
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.scanner.held_bytes()
    }
}

impl FrameReader {
    /// Reads a frame; says whether it passes.
    fn read(&mut self, kind: &FrameKind, data: Data<'_>, tally: &mut Tally) -> bool {
        if self.seen.finished {
            return false;
        }
        let event = match data {
            Data::Whole(payload) => self.stream.read(kind, payload, tally),
            Data::Part(part) => {
                let wanted = self.stream.wanted();
                self.large.get_or_insert_with(|| Box::new(AnswerScanner::new(wanted))).feed(part);
                return true;
            }
            Data::End => match self.large.take() {
                Some(large) => self.stream.note(kind, large.found(), tally),
                None => return true,
            },
        };
        self.seen.note(event);
        true
    }
}
