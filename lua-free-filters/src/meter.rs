//! The meter of one answer: reads what passes, counts it, and says which bytes may leave.

mod elements;
mod stream;

use crate::answer_scan::AnswerScanner;
use crate::dialect::{Cut, Dialect, ERROR, FrameStream, Stream};
use crate::tally::Tally;
use crate::usage::Usage;
use bytes::Bytes;
use elements::Elements;
use stream::{Events, Frames};

/// Reads one answer: a stream or a whole body.
#[derive(Debug)]
pub struct Meter {
    reading: Reading,
    tally: Tally,
}

#[derive(Debug)]
enum Reading {
    Events(Events),
    Frames(Frames),
    Elements(Box<Elements>),
    Answer { scanner: Box<AnswerScanner>, dialect: Dialect, told: Option<Usage> },
}

/// What a stream has shown so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// An event with data.
    pub any: bool,
    /// The first event with data was a failure.
    pub error_first: bool,
    /// The provider reported a failure.
    pub error: bool,
    /// The last event that says anything has come; it waits for the end of the body.
    pub closing: bool,
    /// The protocol's last event.
    pub finished: bool,
}

impl Meter {
    /// The meter of an answer with this `Content-Type`. `streamed` is whether the request asked for a stream: Gemini's may be
    /// a JSON array. With `withhold_usage` the usage event that the client did not ask for is taken out.
    #[must_use]
    pub fn of(dialect: Dialect, content_type: &[u8], streamed: bool, withhold_usage: bool) -> Self {
        let is = |kind: &[u8]| content_type.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind));
        if is(b"text/event-stream") {
            return Self::of_events(dialect, withhold_usage);
        }
        if is(b"application/vnd.amazon.eventstream")
            && let Some(stream) = FrameStream::of(dialect)
        {
            return Self::reading(Reading::Frames(Frames::new(stream)));
        }
        if streamed && dialect == Dialect::GeminiGenerate && is(b"application/json") {
            return Self::reading(Reading::Elements(Box::default()));
        }
        Self::of_answer(dialect)
    }

    /// A meter of a stream of events. With `withhold_usage` the usage event that the client did not ask for is taken out.
    #[must_use]
    pub fn of_events(dialect: Dialect, withhold_usage: bool) -> Self {
        Self::reading(Reading::Events(Events::new(Stream::of(dialect), withhold_usage)))
    }

    /// A meter of a whole body.
    #[must_use]
    pub fn of_answer(dialect: Dialect) -> Self {
        let scanner = Box::new(AnswerScanner::new(dialect.wanted()));
        Self::reading(Reading::Answer { scanner, dialect, told: None })
    }

    fn reading(reading: Reading) -> Self {
        Self { reading, tally: Tally::default() }
    }

    /// Whether the answer is a stream, each event of which leaves as it comes.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        !matches!(self.reading, Reading::Answer { .. })
    }

    /// Tells the meter of a whole answer what its headers count: it holds if the body has no figures. Bedrock sends
    /// [`INPUT_TOKENS_HEADER`](crate::dialect::bedrock_invoke::INPUT_TOKENS_HEADER) and its like.
    pub fn tell(&mut self, usage: Usage) {
        if let Reading::Answer { told, .. } = &mut self.reading {
            *told = Some(usage);
        }
    }

    /// Reads the next chunk; returns the bytes that may leave now. After the protocol's last event nothing leaves.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        match &mut self.reading {
            Reading::Events(events) => events.feed(chunk, &mut self.tally),
            Reading::Frames(frames) => frames.feed(chunk, &mut self.tally),
            Reading::Elements(elements) => elements.feed(chunk, &mut self.tally),
            Reading::Answer { scanner, .. } => {
                scanner.feed(&chunk);
                chunk
            }
        }
    }

    /// Reads the end of the body; returns the bytes that were held back.
    pub fn finish(&mut self) -> Bytes {
        match &mut self.reading {
            Reading::Events(events) => events.finish(&mut self.tally),
            Reading::Frames(frames) => frames.finish(),
            Reading::Elements(elements) => elements.finish(&mut self.tally),
            Reading::Answer { scanner, .. } => {
                let bytes = if scanner.found().value(ERROR).is_none() { scanner.bytes() } else { 0 };
                self.break_off(bytes);
                Bytes::new()
            }
        }
    }

    /// Reads the end of an answer that was broken off. Figures that have passed count; of a whole text without them, the
    /// bytes that the client was sent stand for its tokens. Of a stream, what has passed is counted already.
    pub fn break_off(&mut self, relayed_bytes: u64) {
        let Reading::Answer { scanner, dialect, told } = &self.reading else { return };
        let tally = &mut self.tally;
        dialect.read_answer(scanner.found(), tally);
        if tally.reported.is_some() {
            return;
        }
        match told {
            Some(usage) => tally.report(*usage, true),
            None if dialect.answers_in_text() => tally.text_bytes = relayed_bytes,
            None => {}
        }
    }

    /// Whether the stream can be cut here: it is one whose end we can write, no event is half on its way, and its own
    /// end has not come.
    #[must_use]
    pub fn can_be_cut(&self) -> bool {
        let seen = self.seen();
        let is_open = !seen.finished && !seen.closing;
        is_open
            && match &self.reading {
                Reading::Events(events) => events.can_be_cut(),
                Reading::Frames(frames) => frames.can_be_cut(),
                Reading::Elements(elements) => elements.can_be_cut(),
                Reading::Answer { .. } => false,
            }
    }

    /// The events that end the stream here, as [`Stream::cut`] has them; nothing for a whole body. What waits for the
    /// end of its event is left out.
    #[must_use]
    pub fn cut(&self, cut: &Cut<'_>) -> Bytes {
        match &self.reading {
            Reading::Events(events) => events.cut(cut).into(),
            Reading::Frames(frames) => frames.cut(cut).into(),
            Reading::Elements(elements) => elements.cut(cut).into(),
            Reading::Answer { .. } => Bytes::new(),
        }
    }

    /// The count so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What a stream has shown so far; a whole body shows nothing before its end.
    #[must_use]
    pub fn seen(&self) -> Seen {
        match &self.reading {
            Reading::Events(events) => events.seen(),
            Reading::Frames(frames) => frames.seen(),
            Reading::Elements(elements) => elements.seen(),
            Reading::Answer { .. } => Seen::default(),
        }
    }

    /// Bytes that wait in the meter, for the end of their event or of the body.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.reading {
            Reading::Events(events) => events.held_bytes(),
            Reading::Frames(frames) => frames.held_bytes(),
            Reading::Elements(elements) => elements.held_bytes(),
            Reading::Answer { .. } => 0,
        }
    }

    /// Whether a whole body is a report of failure without usage.
    #[must_use]
    pub fn is_error_answer(&self) -> bool {
        match &self.reading {
            Reading::Events(_) | Reading::Frames(_) | Reading::Elements(_) => false,
            Reading::Answer { scanner, .. } => scanner.found().value(ERROR).is_some() && self.tally.reported.is_none(),
        }
    }
}

#[cfg(test)]
mod tests;
